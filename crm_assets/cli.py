"""The command line: what `./crm` runs. Every command does the set-up it needs.

`--json` prints one JSON object on stdout, everything else goes to stderr. Exit 0: ok; 1: refused or failed, with the
reason; 2: usage. Heavy imports stay inside the commands: a run without news must end before Dagster is imported.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

from crm_assets.settings import ROOT, Settings, settings

Result = dict[str, Any]
LOAD_DEFINITIONS = """
import dagster
from crm_assets.definitions import defs
dagster.Definitions.validate_loadable(defs)
print(len(defs.get_repository_def().get_all_jobs()), "jobs load")
"""
PASSING_ON = ("test", "bench", "exec")


class RefusedError(Exception):
    """What was asked cannot be done; the message is for the person who asked."""


def say(message: str) -> None:
    """Tell the person what is going on, away from stdout."""
    print(f"crm: {message}", file=sys.stderr, flush=True)


# --- helpers


def _registry(config: Settings) -> Any:
    from crm_assets.tenants import Registry

    return Registry(config.tenants)


def _warehouse(config: Settings, slug: str) -> Any:
    from crm_assets import databases
    from crm_assets.resources.warehouse import Warehouse

    return Warehouse(databases.ensure_tenant(databases.cluster(config), slug), application_name="crm-cli")


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no date, YYYY-MM-DD is expected") from None


def _count(text: str) -> int:
    if not text.strip().isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def _counts(text: str) -> list[int]:
    return [_count(each) for each in text.split(",")]


# --- commands


def cmd_up(config: Settings, args: argparse.Namespace) -> int:
    from crm_assets import up

    return up.up(config, say, with_brevo_standin=args.with_brevo_standin)


def cmd_receiver(config: Settings, args: argparse.Namespace) -> int:
    from crm_assets import receiver

    say(f"Brevo's webhooks: POST http://{config.receiver_host}:{config.receiver_port}/brevo/<estate>")
    receiver.serve(config)
    return 0


def cmd_pull(config: Settings, args: argparse.Namespace) -> Result:
    from crm_assets import feedback
    from crm_assets.clock import SystemClock
    from crm_assets.resources import brevo

    tenant, clock = _registry(config).get(args.tenant), SystemClock()
    try:
        client = brevo.client(tenant, config, clock, mode="read")
    except brevo.LiveRefusedError as error:
        raise RefusedError(str(error)) from None
    found = feedback.pull(_warehouse(config, tenant.slug), tenant, client, tenant.business_rules, clock)
    for name, feed in found.feeds.items():
        say(f"{name}: {feed.n_read} read, {feed.n_new} new" + (f"; {feed.problem}" if feed.problem else ""))
    for event, count in found.unknown.items():
        say(f"unknown event {event!r}: {count}, kept as other:{event}")
    if found.failed:
        raise RefusedError(f"could not be read: {', '.join(found.failed)}; the next pull reads them again")
    return {name: {"read": feed.n_read, "new": feed.n_new} for name, feed in found.feeds.items()}


def cmd_contacts_sync(config: Settings, args: argparse.Namespace) -> Result:
    from crm_assets import contacts, run_context
    from crm_assets.clock import SystemClock
    from crm_assets.logic.activation import RefusalError
    from crm_assets.resources import brevo

    tenant, clock = _registry(config).get(args.tenant), SystemClock()
    try:
        client = brevo.client(tenant, config, clock, mode="live" if args.live else "dry")
        with client, run_context.tenant_run(tenant, say=say) as run:
            done = contacts.sync(run, client, clock)
    except (brevo.LiveRefusedError, RefusalError) as error:
        raise RefusedError(str(error)) from None
    what = "would be handed over" if done.dry_run else f"handed over: {done.accepted} taken, {done.failed} rows failed"
    say(f"{done.handed_over} contacts may be handed over; {done.changed} have changed and {what}")
    say(f"lists: {done.lists_created} new, {done.added} put in, {done.removed} taken off")
    if done.problem is not None:
        raise RefusedError(f"it ended early: {done.problem}")
    return done.as_dict()


def cmd_down(config: Settings, args: argparse.Namespace) -> Result:
    from crm_assets import local

    stopped = local.stop_server(config)
    say("the embedded PostgreSQL has stopped" if stopped else "no embedded PostgreSQL was running")
    return {"stopped": stopped}


def cmd_demo(config: Settings, args: argparse.Namespace) -> Result:
    from crm_assets import up

    _registry(config).get(args.tenant)
    dropped = up.drop_samples(config, args.tenant)
    say(f"dropped {len(dropped)} files into {config.data / args.tenant / 'raw'}")
    return {"tenant": args.tenant, "dropped": dropped}


def cmd_tenant_add(config: Settings, args: argparse.Namespace) -> Result:
    from crm_assets import dbt_manifest, run_context
    from crm_assets.tenants import RESERVED_SLUGS, SLUG, TEMPLATE

    slug = args.slug
    if not SLUG.match(slug) or slug in RESERVED_SLUGS:
        raise RefusedError(f"{slug!r} is no slug: {SLUG.pattern}, and not one of {', '.join(sorted(RESERVED_SLUGS))}")
    path = config.tenants / f"{slug}.yaml"
    made = not path.exists()
    if made:
        config.tenants.mkdir(parents=True, exist_ok=True)
        path.write_text(TEMPLATE.format(name=slug.replace("_", " ").title()), encoding="utf-8")
    tenant = _registry(config).get(slug)
    dbt_manifest.ensure_manifest()
    dbt_manifest.parse_for(*run_context.dbt_target(tenant, _warehouse(config, slug), config))
    folder = config.data / slug / "raw"
    folder.mkdir(parents=True, exist_ok=True)
    say(f"{path} {'written: fill it in' if made else 'was there'}; drop exports into {folder}")
    return {"tenant": slug, "file": str(path), "created": made, "drop_folder": str(folder)}


def cmd_tenant_list(config: Settings, args: argparse.Namespace) -> Result:
    registry = _registry(config)
    for tenant in registry:
        say(f"{tenant.slug}: {tenant.name} ({tenant.locale}, {tenant.timezone})")
    for slug, problem in registry.errors.items():
        say(f"{slug}: WRONG: {problem}")
    return {"tenants": sorted(registry.tenants), "errors": registry.errors}


def cmd_tenant_check(config: Settings, args: argparse.Namespace) -> Result:
    registry = _registry(config)
    problems = dict(registry.errors)
    from crm_assets import campaigns

    for tenant in registry:
        problems.update(campaigns.problems(registry.folder, tenant.slug))
        try:
            _source(tenant)
        except RefusedError as error:
            problems[f"{tenant.slug}.source"] = str(error)
    if problems:
        raise RefusedError("; ".join(problems.values()))
    say(f"{len(registry.tenants)} tenant files are right")
    return {"tenants": sorted(registry.tenants), "errors": {}}


def cmd_rules_show(config: Settings, args: argparse.Namespace) -> Result:
    from dataclasses import asdict

    from crm_assets import rules_files

    tenant = _registry(config).get(args.tenant)
    try:
        found = rules_files.asked_for(rules_files.effective(tenant, config.tenants), args.key)
    except rules_files.RulesError as error:
        raise RefusedError(str(error)) from error
    if not args.json:
        print(rules_files.as_text(tenant, found, args.key))
    return {
        "tenant": tenant.slug,
        "rules_version": tenant.business_rules.version,
        "rules": [asdict(rule) for rule in found],
    }


def cmd_rules_check(config: Settings, args: argparse.Namespace) -> Result | int:
    from dataclasses import asdict

    from crm_assets import rules_files

    found = rules_files.problems(config.tenants, args.tenant)
    for problem in found:
        say(f"WRONG: {problem}")
    if args.json:
        print(json.dumps({"problems": [asdict(problem) for problem in found]}, ensure_ascii=False))
    if not found:
        say(f"the rules of {args.tenant or 'the product and of every estate'} are right")
    return 1 if found else 0


def cmd_rules_diff(config: Settings, args: argparse.Namespace) -> Result:
    from dataclasses import asdict

    from crm_assets import rules_files

    tenant = _registry(config).get(args.tenant)
    try:
        version, then = rules_files.rules_of_run(_warehouse(config, tenant.slug), args.run)
    except rules_files.RulesError as error:
        raise RefusedError(str(error)) from error
    changes = rules_files.changes(then, tenant.business_rules)
    now = tenant.business_rules.version
    if not args.json:
        for change in changes:
            print(change)
    say(f"{len(changes)} rules differ from those of run {args.run} (rules_version {version}, now {now})")
    result = {"tenant": tenant.slug, "run_id": args.run, "rules_version_then": version, "rules_version_now": now}
    return {**result, "changes": [asdict(change) for change in changes]}


def cmd_url(config: Settings, args: argparse.Namespace) -> Result:
    from crm_assets import databases

    tenant = _registry(config).get(args.tenant)
    cluster = databases.cluster(config)
    databases.ensure_tenant(cluster, tenant.slug)
    url = cluster.url(cluster.role(tenant.slug), public=True)
    if not args.json:
        print(url)
    return {"tenant": tenant.slug, "url": url}


def _nothing_new(config: Settings, tenant: Any, as_of: date | None) -> str | None:
    """The run_id that already holds the answer, when neither files, rules, code, state nor day have changed."""
    from crm_assets import run_context, versions
    from crm_assets.resources import raw_store

    warehouse = _warehouse(config, tenant.slug)
    with run_context.drop_zone(tenant, config) as zone:
        try:
            if raw_store.has_news(warehouse, zone):
                return None
        except run_context.DropZoneError as error:
            say(f"the drop folder cannot be read; what was loaded before stays: {error}")
    day = as_of or tenant.today(datetime.now(UTC))
    run_id = versions.run_id(tenant, day, versions.dataset_version(warehouse), versions.state_version(warehouse))
    if not warehouse.rows("select 1 from gate.decisions where run_id = %s", [run_id]):
        return None
    # For an earlier day any answer will do; for the present only the one in force: rules that were changed and
    # changed back must be decided on again.
    in_force = warehouse.rows("select run_id from gate.decisions" + run_context.GATE_IN_FORCE)
    return run_id if run_context.is_historical(warehouse, day) or in_force == [(run_id,)] else None


GATE_COLUMNS = [
    *("run_id", "as_of", "status", "reasons", "data_quality_score", "gate_export"),
    *("n_customers", "n_permitted", "n_eligible"),
]


def _gate(warehouse: Any, run_id: str | None = None) -> Result | None:
    """The decision on a run, by default the one in force."""
    from crm_assets.run_context import GATE_IN_FORCE

    which = " where run_id = %s" if run_id else GATE_IN_FORCE
    rows = warehouse.rows(f"select {', '.join(GATE_COLUMNS)} from gate.decisions{which}", [run_id] if run_id else None)
    return dict(zip(GATE_COLUMNS, rows[0], strict=True)) if rows else None


def cmd_run(config: Settings, args: argparse.Namespace) -> Result:
    from crm_assets import run_context

    started = time.monotonic()
    tenant = _registry(config).get(args.tenant)
    if args.as_of:
        run_context.refuse_future(tenant, args.as_of, datetime.now(UTC))
    found = None if args.force else _nothing_new(config, tenant, args.as_of)
    if found:
        gate = _gate(_warehouse(config, tenant.slug), found)
        say(f"nothing has changed since run {found}; nothing to do")
        return {"tenant": tenant.slug, "changed": False, "run_id": found, "gate": gate}
    from crm_assets import runs

    as_of = args.as_of.isoformat() if args.as_of else None
    outcome = runs.execute(config, "refresh", tenant.slug, as_of=as_of, log_level=args.log_level)
    if not outcome.succeeded:
        reasons = "; ".join(f"{step}: {reason}" for step, reason in outcome.failures.items())
        raise RefusedError(f"run {outcome.dagster_run_id} failed: {reasons or 'see the Dagster UI'}")
    warehouse = _warehouse(config, tenant.slug)
    gate = _gate(warehouse, outcome.run_id)
    seconds = round(time.monotonic() - started, 1)
    if gate:
        say(
            f"run {gate['run_id']} as of {gate['as_of']}: gate {gate['status']}"
            f"{' (' + ', '.join(gate['reasons']) + ')' if gate['reasons'] else ''},"
            f" {gate['n_eligible']} of {gate['n_customers']} customers eligible, {seconds} s"
        )
    for check in outcome.failed_checks:
        say(f"check not passed: {check}")
    return {
        "tenant": tenant.slug,
        "changed": True,
        "run_id": gate["run_id"] if gate else None,
        "dagster_run_id": outcome.dagster_run_id,
        "gate": gate,
        "failed_checks": outcome.failed_checks,
        "seconds": seconds,
    }


def cmd_ingest(config: Settings, args: argparse.Namespace) -> Result:
    tenant = _registry(config).get(args.tenant)
    from crm_assets import runs

    outcome = runs.execute(config, "ingest", tenant.slug, log_level=args.log_level)
    if not outcome.succeeded:
        raise RefusedError("; ".join(f"{step}: {reason}" for step, reason in outcome.failures.items()))
    files = _files_by_status(_warehouse(config, tenant.slug))
    say(", ".join(f"{count} {status}" for status, count in files.items()) or "no files")
    return {"tenant": tenant.slug, "dagster_run_id": outcome.dagster_run_id, "files": files}


def _files_by_status(warehouse: Any) -> dict[str, int]:
    return dict(warehouse.rows("select status, count(*) from raw.files group by status order by status"))


def cmd_status(config: Settings, args: argparse.Namespace) -> Result:
    from crm_assets.resources.control import Control
    from crm_assets.run_context import GATE_IN_FORCE

    registry = _registry(config)
    control = Control(config)
    result: Result = {"tenants": {}, "errors": registry.errors}
    for tenant in [registry.get(args.tenant)] if args.tenant else registry:
        warehouse = _warehouse(config, tenant.slug)
        troubled = warehouse.rows(
            "select path, status, reason from raw.files where status not in ('loaded', 'duplicate', 'review')"
            " and deleted_at is null order by path"
        )
        actions = warehouse.rows(
            "select case when eligible then 'ELIGIBLE' else reason end, count(*) from gate.next_actions"
            f" where run_id = (select run_id from gate.decisions{GATE_IN_FORCE}) group by 1 order by 2 desc, 1"
        )
        messages = dict(
            warehouse.rows("select status, count(*) from activation.messages group by status order by status")
        )
        alerts = [{"cause": a.cause, "message": a.message} for a in control.open_alerts(tenant.slug)]
        status = {
            "files": _files_by_status(warehouse),
            "troubled_files": [dict(zip(("path", "status", "reason"), row, strict=True)) for row in troubled],
            "last_run": _last_run(config, tenant.slug),
            "gate": _gate(warehouse),
            "next_actions": dict(actions),
            "messages": messages,
            "alerts": alerts,
        }
        result["tenants"][tenant.slug] = status
        _say_status(tenant.slug, status)
    for problem in registry.errors.values():
        say(f"WRONG: {problem}")
    return result


def _say_status(slug: str, status: Result) -> None:
    say(f"{slug}: files: {', '.join(f'{n} {s}' for s, n in status['files'].items()) or 'none'}")
    for file in status["troubled_files"]:
        say(f"  {file['path']}: {file['status']}: {file['reason']}")
    run, gate = status["last_run"], status["gate"]
    say(f"  last run: {run['job']} {run['status']} at {run['started_at']}" if run else "  no run yet")
    if gate:
        reasons = f" ({', '.join(gate['reasons'])})" if gate["reasons"] else ""
        say(f"  gate {gate['status']}{reasons} as of {gate['as_of']}, data quality {gate['data_quality_score']:.0f}")
    say(f"  next actions: {', '.join(f'{n} {r}' for r, n in status['next_actions'].items()) or 'none'}")
    if status["messages"]:
        say(f"  messages: {', '.join(f'{n} {s}' for s, n in status['messages'].items())}")
    for alert in status["alerts"]:
        say(f"  ALERT {alert['cause']}: {alert['message']}")


def _last_run(config: Settings, slug: str) -> Result | None:
    """The newest Dagster run of a tenant, read from its storage: importing Dagster would take seconds."""
    import psycopg

    from crm_assets import databases

    cluster = databases.cluster(config)
    databases.ensure_dagster(cluster)
    with psycopg.connect(cluster.url(config.dagster_database)) as connection:
        if not connection.execute("select to_regclass('runs')").fetchone()[0]:  # type: ignore[index]
            return None
        row = connection.execute(
            "select r.run_id, r.pipeline_name, r.status, to_timestamp(r.start_time)::timestamptz(0)::text from runs r"
            " join run_tags t on t.run_id = r.run_id and t.key = 'dagster/partition' and t.value = %s"
            " order by r.id desc limit 1",
            [slug],
        ).fetchone()
    return dict(zip(("run_id", "job", "status", "started_at"), row, strict=True)) if row else None


def cmd_export(config: Settings, args: argparse.Namespace) -> Result:
    tenant = _registry(config).get(args.tenant)
    warehouse = _warehouse(config, tenant.slug)
    gate = _gate(warehouse, args.run)
    if gate is None:
        raise RefusedError(f"no run {args.run!r} of {tenant.slug}" if args.run else f"{tenant.slug} has no run yet")
    from crm_assets import documents

    written = documents.export_run(warehouse, gate["run_id"], Path(args.to))
    say(f"{len(written)} files of run {gate['run_id']} written to {args.to}")
    return {"tenant": tenant.slug, "run_id": gate["run_id"], "files": [str(path) for path in written]}


def cmd_why(config: Settings, args: argparse.Namespace) -> Result:
    from crm_assets import why

    try:
        answer = why.of_customer(config, args.tenant, args.customer, args.run)
    except why.UnknownError as error:
        raise RefusedError(str(error)) from error
    if not args.json:
        print(answer.as_text())
    return answer.as_dict()


def cmd_preview(config: Settings, args: argparse.Namespace) -> Result:
    from crm_assets import preview, why

    try:
        made = preview.of_customer(config, args.tenant, args.customer, campaign=args.campaign, kind=args.kind)
    except (why.UnknownError, preview.NoPreviewError) as error:
        raise RefusedError(str(error)) from error
    page = preview.write(made, config, args.to)
    found: Result = {**made.as_dict(), "file": str(page)}
    say(made.standing)
    if made.problems:
        say(f"the message may not leave: {made.problems}")
    if args.png:
        try:
            found["picture"] = str(preview.picture(page, args.width))
        except preview.NoPictureError as error:
            raise RefusedError(f"{error}: {page}") from error
    if not args.json:
        print("\n".join(found[name] for name in ("file", "picture") if name in found))
    return found


def _source(tenant: Any) -> Any:
    """The exports of the estate as its file has them."""
    from crm_assets.logic.landing import load_source

    try:
        return load_source().of_tenant(tenant)
    except ValueError as error:
        raise RefusedError(f"{tenant.slug}.yaml: key {error}") from error


def cmd_report(config: Settings, args: argparse.Namespace) -> Result:
    from crm_assets import activation, documents, monthly_documents

    if args.month and args.kind != "monthly":
        raise RefusedError("--month goes with --kind monthly")
    tenant = _registry(config).get(args.tenant)
    warehouse = _warehouse(config, tenant.slug)
    gate = activation.gate_in_force(warehouse)
    if gate is None:
        raise RefusedError(f"{tenant.slug} has no run that passed the gate; run: crm run --tenant {tenant.slug}")
    folder, rules = Path(args.to), tenant.business_rules
    try:
        if args.kind == "weekly":
            weekly = documents.weekly_report(warehouse, tenant, rules, gate.run_id)
            written, missing = documents.write_report(weekly, tenant.locale, folder)
        else:
            month = monthly_documents.month_of(args.month) if args.month else None
            monthly = monthly_documents.gather(warehouse, tenant, rules, gate.run_id, month)
            written, missing = monthly_documents.write_report(monthly, tenant.locale, folder)
    except (LookupError, ValueError) as error:
        raise RefusedError(str(error)) from error
    for path in written:
        say(str(path))
    if missing:
        say(missing)
    return {"tenant": tenant.slug, "run_id": gate.run_id, "files": [str(path) for path in written], "missing": missing}


def cmd_mapping_preview(config: Settings, args: argparse.Namespace) -> int:
    from crm_assets import mapping_preview, run_context

    tenant = _registry(config).get(args.tenant)
    source, zone = _source(tenant), run_context.drop_zone(tenant, config)
    root = None if zone.is_remote else Path(zone.url.removeprefix("file://"))
    rules = tenant.business_rules
    try:
        report = mapping_preview.preview(args.file, source, rules, dataset=args.dataset, root=root)
    except ValueError as error:
        raise RefusedError(f"--dataset: {error}") from error
    except OSError as error:
        raise RefusedError(f"{args.file} cannot be opened: {error.strerror}") from error
    if args.json:
        print(json.dumps(report, ensure_ascii=False))
    else:
        print(mapping_preview.as_text(report, tenant.locale, tenant=tenant.slug, folder=zone.url))
    return 0 if report["verdict"]["status"] == "loads" else 1


def cmd_mapping_line(config: Settings, args: argparse.Namespace) -> Result:
    from crm_assets import mapping_preview, run_context
    from crm_assets.logic.reading import UnreadableError

    tenant = _registry(config).get(args.tenant)
    name, _, line = args.place.rpartition(":")
    if not name or not line.isdigit():
        raise RefusedError(f"{args.place!r}: FILE:LINE is expected, as raw.files.path and source_line have it")
    names = [name]
    if re.fullmatch("[0-9a-f]{16}", name):  # a file_id: the names under which the content was seen
        seen = "select path from raw.files where file_id = %s"
        names = [path for (path,) in _warehouse(config, tenant.slug).rows(seen, [name])]
    with contextlib.ExitStack() as stack:
        try:
            if Path(name).is_file():
                path = Path(name)
            else:
                zone = stack.enter_context(run_context.drop_zone(tenant, config))
                there = next((one for one in names if zone.look(one) is not None), None)
                if there is None:
                    raise RefusedError(f"there is no file {name}, neither here nor in the drop folder")
                path = stack.enter_context(zone.local(there))
            found = mapping_preview.original_record(path, int(line), tenant.business_rules)
        except (OSError, ValueError, run_context.DropZoneError) as error:
            raise RefusedError(f"{name} cannot be opened: {error}") from error
        except UnreadableError as error:
            raise RefusedError(f"{name} {error}") from error
    if found is None:
        raise RefusedError(f"{name} has no record on line {line}")
    start, values = found
    if not args.json:
        width = max(len(header) for header, _ in values)
        print("\n".join(f"{header:<{width}}  {text}" for header, text in values))
    return {"file": name, "line": start, "values": [{"header": header, "text": text} for header, text in values]}


def _new_workbook(text: str) -> Path:
    path = Path(text)
    if path.suffix.lower() != ".xlsx":
        raise argparse.ArgumentTypeError(f"{text!r}: a workbook's name ends in .xlsx")
    return path


def _not_overwritten(paths: Iterable[Path]) -> None:
    """A workbook may hold hours of somebody's work."""
    if there := [str(path) for path in paths if path.exists()]:
        raise RefusedError(f"{', '.join(there)} exists already: choose another name, or remove it")


def cmd_quarantine(config: Settings, args: argparse.Namespace) -> Result:
    from crm_assets import workbooks

    tenant = _registry(config).get(args.tenant)
    try:
        books = workbooks.refused_workbooks(
            _warehouse(config, tenant.slug), tenant, datetime.now(UTC), args.to, args.file
        )
    except workbooks.WorkbookError as error:
        raise RefusedError(str(error)) from error
    _not_overwritten(book.path for book in books)
    if not books:
        where = f"{tenant.slug}{' in that file' if args.file else ''}"
        say(f"no refused row of {where} waits to be mended: nothing written")
    for book in books:
        workbooks.save(book)
        say(f"{book.rows} refused {'row' if book.rows == 1 else 'rows'} of {book.folder} written to {book.path}")
        if book.left:
            say(f"{book.left} more rows of {book.folder} are left: so many are better mended by a new export")
        if book.too_long:
            say(f"{book.too_long} rows of {book.folder} hold a text longer than a cell can be: mend them in the export")
    if books:
        say("hand them to the estate: mended and dropped into its folder under any name, they come in")
    return {
        "tenant": tenant.slug,
        "workbooks": [
            {"path": str(b.path), "dataset": b.folder, "rows": b.rows, "left": b.left, "too_long": b.too_long}
            for b in books
        ],
    }


def cmd_unmatched(config: Settings, args: argparse.Namespace) -> Result:
    from crm_assets import workbooks

    tenant = _registry(config).get(args.tenant)
    try:
        book = workbooks.unmatched_products(_warehouse(config, tenant.slug), tenant, datetime.now(UTC), args.to)
    except workbooks.WorkbookError as error:
        raise RefusedError(str(error)) from error
    if book is None:
        say(f"the catalogue of {tenant.slug} knows every product sold: nothing written")
        return {"tenant": tenant.slug, "labels": 0, "path": None}
    _not_overwritten([book.path])
    workbooks.save(book)
    say(f"{book.rows} labels that the catalogue does not know for certain written to {book.path}")
    say("filled in and dropped into the estate's folder under any name, it counts as an alias file")
    return {"tenant": tenant.slug, "labels": book.rows, "path": str(book.path)}


def _activation(config: Settings, args: argparse.Namespace, what: Callable[..., Any]) -> Any:
    from crm_assets import run_context
    from crm_assets.logic.activation import RefusalError

    tenant = _registry(config).get(args.tenant)
    with run_context.tenant_run(tenant, say=say) as run:
        try:
            return what(run, args.campaign)
        except RefusalError as error:
            raise RefusedError(str(error)) from error


def cmd_plan(config: Settings, args: argparse.Namespace) -> Result:
    from crm_assets import activation

    result: Result = _activation(config, args, partial(activation.plan, count_only=args.count))
    for line in result.pop("said"):
        say(line)
    return result


def cmd_send(config: Settings, args: argparse.Namespace) -> Result:
    from crm_assets import sending
    from crm_assets.clock import SystemClock
    from crm_assets.run_context import TenantRun

    if bool(args.confirm) != bool(args.by):
        raise RefusedError("a live send names the plan's hash and who confirms it: --confirm HASH --by NAME")
    clock = SystemClock()

    def once(run: TenantRun, name: str) -> sending.SendSummary:
        confirmed = (args.confirm, args.by)
        if args.live and not args.confirm:
            confirmed = sending.confirmed(run.warehouse, name, args.occurrence)
        given = {"occurrence": args.occurrence, "confirmed_hash": confirmed[0], "by": confirmed[1] or ""}
        return sending.send_campaign(sending.sending_of(run, name, clock=clock, **given))

    while True:
        # A wait holds no lock of the estate: it is refreshed, and events come in, meanwhile.
        done: sending.SendSummary = _activation(config, args, once)
        say(done.sentence())
        if not args.wait or done.wait_until is None:
            return done.as_dict()
        clock.sleep(max((done.wait_until - clock.now()).total_seconds(), 1.0))


def _reviewing(slug: str, what: Callable[[], Any]) -> Any:
    """What was asked of a review, or why it cannot be."""
    from crm_assets.reviews import ReviewError

    try:
        return what()
    except ReviewError as error:
        raise RefusedError(f"{slug}: {error}") from error


def cmd_review_import(config: Settings, args: argparse.Namespace) -> Result:
    from crm_assets import reviews, run_context

    tenant = _registry(config).get(args.tenant)
    with run_context.tenant_run(tenant, say=say) as run:
        result: Result = _reviewing(tenant.slug, lambda: reviews.import_file(run, args.file, args.reviewer))
    if not result["is_new"]:
        say("this workbook has been read before: its receipt stands")
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in result["outcomes"].items())
    say(f"{result['status']}: {outcomes or 'no row filled in'}; {result['n_approved_rest']} approved with the rest")
    say(f"receipt: {result['document']}")
    return result


def cmd_review_approve_rest(config: Settings, args: argparse.Namespace) -> Result:
    from crm_assets import reviews, run_context

    tenant = _registry(config).get(args.tenant)
    with run_context.tenant_run(tenant, say=say) as run:
        approve = lambda: reviews.approve_rest(run, args.scenario, args.run, args.reviewer)  # noqa: E731
        result: Result = _reviewing(tenant.slug, approve)
    say(f"{result['approved_rest']} items of {args.scenario} approved with the rest")
    return result


def cmd_review_status(config: Settings, args: argparse.Namespace) -> Result:
    from crm_assets import reviews

    tenant = _registry(config).get(args.tenant)
    warehouse = _warehouse(config, tenant.slug)
    result: Result = _reviewing(tenant.slug, lambda: reviews.status(warehouse, tenant, args.run))
    say(f"run {result['run_id']} as of {result['as_of']}: review {result['mode']}, until {result['last_day']}")
    if result["mode"] == "sample":
        sample = result["sample"]
        say(
            f"  sample: {sample['decided']} of {sample['customers']} customers decided, {sample['rejected']} with a"
            f" rejection ({sample['rejected_share']:.0%}, at most {sample['max_rejected_share']:.0%})"
        )
    for scenario, counts in result["scenarios"].items():
        say(f"  {scenario}: {', '.join(f'{count} {name}' for name, count in counts.items())}")
    held = ", ".join(f"{count} {reason}" for reason, count in result["held_back"].items())
    say(f"  {result['eligible']} customers eligible, held back by review: {held or 'none'}")
    return result


def cmd_review_export(config: Settings, args: argparse.Namespace) -> Result:
    from crm_assets import documents, review_documents, reviews

    tenant = _registry(config).get(args.tenant)
    warehouse = _warehouse(config, tenant.slug)
    run_id, _ = _reviewing(tenant.slug, lambda: reviews.run_to_review(warehouse, args.run))
    folder = args.to or documents.folder_of(tenant, config.home, run_id)
    books = review_documents.write_review_workbooks(warehouse, tenant, tenant.business_rules, run_id, folder)
    for book in books:
        done = "written to" if book.is_new else "are already in"
        say(f"{book.items} items of {book.customers} customers {done} {book.path}")
    say("filled in and dropped into the estate's folder under any name, the decisions are taken")
    return {
        "tenant": tenant.slug,
        "run_id": run_id,
        "workbooks": [
            {"path": str(b.path), "items": b.items, "customers": b.customers, "sampled": b.sampled, "new": b.is_new}
            for b in books
        ],
    }


def cmd_webhooks_list(config: Settings, args: argparse.Namespace) -> Result:
    from crm_assets import notices

    found = notices.listed(_warehouse(config, _registry(config).get(args.tenant).slug), args.last)
    if not args.json:
        for row in found:
            why = f": {row['last_problem']} ({row['meaning']})" if row["last_problem"] else ""
            http = f", HTTP {row['last_status']}" if row["last_status"] else ""
            say(
                f"{row['created_at']:%Y-%m-%d %H:%M}  {row['event']:<16}  {row['endpoint']}  {row['status']},"
                f" {row['tries']} tries{http}{why}  {row['notice_id']}"
            )
        if not found:
            say("no notice yet: they are queued as runs end, campaigns are sent and customers become at risk")
    return {"notices": found}


def cmd_webhooks_retry(config: Settings, args: argparse.Namespace) -> Result:
    from crm_assets import notices
    from crm_assets.clock import SystemClock

    tenant = _registry(config).get(args.tenant)
    warehouse, clock = _warehouse(config, tenant.slug), SystemClock()
    waiting = notices.retry(warehouse, tenant, clock.now(), args.notice)
    done = notices.deliver(warehouse, tenant, clock)
    result: Result = {name: getattr(done, name) for name in ("delivered", "failed", "given_up", "refused")}
    if not args.json:
        say(f"{waiting} to be tried again; " + ", ".join(f"{count} {name}" for name, count in result.items()))
    return {"waiting": waiting, **result}


def _program(name: str, environment: dict[str, str]) -> str:
    """A program of .venv, else of PATH."""
    found = shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", "")]))
    if found is None:
        raise RefusedError(f"no program {name!r} in .venv or on PATH")
    return found


def _environment(more: dict[str, str] | None = None) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), **(more or {})}  # noqa: TID251


def _call(command: list[str], more: dict[str, str] | None = None) -> int:
    say("$ " + " ".join(part if part.isprintable() else "…" for part in command))
    environment = _environment(more)
    return subprocess.run([_program(command[0], environment), *command[1:]], cwd=ROOT, env=environment).returncode


def cmd_test(config: Settings, args: argparse.Namespace) -> int:
    from crm_assets.dbt_manifest import ensure_manifest

    ensure_manifest()
    # In processes beside each other, each with a server of its own; the tests of a file share what it sets up.
    # In the order of the folders: by number of tests, the four that take minutes would come last, on one process.
    arguments = args.arguments or [
        # One more than there are cores: each waits a third of its time, for dbt, PostgreSQL or a server that hangs.
        *(f"--numprocesses={min(4, (os.cpu_count() or 1) + 1)}", "--dist=loadfile", "--no-loadscope-reorder"),
    ]
    return min(1, _call(["python", "-m", "pytest", *arguments]))


def cmd_check(config: Settings, args: argparse.Namespace) -> int:
    from crm_assets.dbt_manifest import ensure_manifest

    say("dbt parse")
    ensure_manifest()
    steps = [
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["mypy"],
        ["sqlfluff", "lint", "--processes", "2", "dbt_project/models", "dbt_project/tests"],
        # Not `dagster definitions validate`: it opens the instance of the dagster.yaml beside it, hence a database.
        ["python", "-c", LOAD_DEFINITIONS],
    ]
    failed = [" ".join(step[:2]) for step in steps if _call(step, {"DAGSTER_DISABLE_TELEMETRY": "yes"})]
    if failed:
        say(f"failed: {', '.join(failed)}")
        return 1
    say("all checks passed")
    return 0


def cmd_audit(config: Settings, args: argparse.Namespace) -> Result:
    from crm_assets import audit_files, run_context

    tenant, now = _registry(config).get(args.tenant), datetime.now(UTC)
    if args.as_of:
        run_context.refuse_future(tenant, args.as_of, now)
    try:
        listed = audit_files.read_list(args.recommendations)
        audited = audit_files.audit_list(
            listed, _warehouse(config, tenant.slug), tenant, tenant.business_rules, args.as_of, now
        )
    except audit_files.FileError as error:
        raise RefusedError(str(error)) from None
    result = {"tenant": tenant.slug, **audit_files.summary(audited), "files": []}
    if not args.json:
        print(audit_files.text_of(result))
    if args.to:
        written = audit_files.write_exports(audited, args.to)
        say(f"{len(written)} files written to {args.to}")
        result["files"] = [str(path) for path in written]
    return result


def cmd_rank(config: Settings, args: argparse.Namespace) -> Result:
    from crm_assets import ranking_files, rules

    try:
        return ranking_files.rank_file(
            args.lines,
            args.out,
            rules.load().ranking,
            kind=args.kind,
            top=args.top,
            horizon=args.horizon,
            customers=args.customers,
            as_of=args.as_of,
            say=say,
        )
    except ranking_files.FileError as error:
        raise RefusedError(str(error)) from None


def cmd_backtest(config: Settings, args: argparse.Namespace) -> Result:
    from crm_assets import ranking_files, rules

    try:
        result = ranking_files.backtest_file(
            args.lines, args.cut, rules.load().ranking, horizon=args.horizon, tops=args.top, say=say
        )
    except ranking_files.FileError as error:
        raise RefusedError(str(error)) from None
    if not args.json:
        print(ranking_files.table_of(result))
    return result


def cmd_bench(config: Settings, args: argparse.Namespace) -> int:
    return _call(["python", "-m", "benchmarks.bench", *args.arguments])


def cmd_exec(config: Settings, args: argparse.Namespace) -> int:
    from crm_assets import up

    if not args.arguments:
        raise RefusedError("a command is expected, e.g.: ./crm exec dagster run list")
    environment = _environment(up.prepare(config, say))
    program = _program(args.arguments[0], environment)
    os.chdir(ROOT)
    os.execve(program, args.arguments, environment)  # signals then reach the program itself


# --- the parser


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    top = argparse.ArgumentParser(prog="crm", description="Customer marketing for wine estates, as a data pipeline.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, function: Callable[..., Any], text: str, within: Any = commands) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = within.add_parser(name, help=text, description=text)
        made.add_argument("--json", action="store_true", help="print one JSON object on stdout")
        made.set_defaults(function=function)
        return made

    def add_tenant(made: argparse.ArgumentParser, required: bool = True, **more: Any) -> None:
        made.add_argument("--tenant", required=required, metavar="T", help="the estate's slug", **more)

    def add_run_options(made: argparse.ArgumentParser) -> None:
        levels = ("DEBUG", "INFO", "WARNING", "ERROR")
        made.add_argument("--log-level", default="WARNING", choices=levels, help="how much of Dagster's log to show")

    up = add("up", cmd_up, "start everything: PostgreSQL, the demo estate, the Dagster UI, sensors and schedules")
    up.add_argument(
        "--with-brevo-standin", action="store_true", help="with a stand-in for Brevo: the demo really sends, to nobody"
    )
    add("down", cmd_down, "stop the embedded PostgreSQL that a command has left running")
    add("receiver", cmd_receiver, "take Brevo's webhooks until it is stopped")
    add_tenant(add("pull", cmd_pull, "read what came back from Brevo: events, refusals, campaigns of its own screens"))
    demo = add("demo", cmd_demo, "drop the sample files into an estate's folder")
    add_tenant(demo, required=False, default="demo")

    tenant = commands.add_parser("tenant", help="estates: add, list, check")
    within = tenant.add_subparsers(dest="subcommand", required=True, metavar="add|list|check")
    add("add", cmd_tenant_add, "make an estate: its file, database and folder", within).add_argument("slug")
    add("list", cmd_tenant_list, "list the estates", within)
    add("check", cmd_tenant_check, "check the estates' files and campaigns", within)

    rules = commands.add_parser("rules", help="business rules: where a value comes from, what is wrong, what changed")
    within = rules.add_subparsers(dest="subcommand", required=True, metavar="show|check|diff")
    show = add("show", cmd_rules_show, "print the rules in force, with file and line of each value", within)
    add_tenant(show)
    show.add_argument("--key", metavar="K", help="a rule or a section of them, e.g. audit.silence_days: in full")
    check = add("check", cmd_rules_check, "check rules.yaml and the estates' files: keys, types, ranges, sums", within)
    add_tenant(check, required=False)
    diff = add("diff", cmd_rules_diff, "print which rules differ from those that a run was made with", within)
    add_tenant(diff)
    diff.add_argument("--run", required=True, metavar="ID", help="run_id of recommendations.runs")

    mapping = commands.add_parser("mapping", help="exports: what a file would become, where a value comes from")
    within = mapping.add_subparsers(dest="subcommand", required=True, metavar="preview|line")
    preview = add("preview", cmd_mapping_preview, "show what a file would become, before anything is loaded", within)
    preview.add_argument("file", type=Path, metavar="FILE", help="an export, wherever it lies")
    add_tenant(preview)
    preview.add_argument("--dataset", metavar="D", help="what it holds, if neither place nor name says so")
    line = add("line", cmd_mapping_line, "show a record as it stands in its file", within)
    line.add_argument("place", metavar="FILE:LINE", help="path or file_id of raw.files, and source_line")
    add_tenant(line)

    ingest = add("ingest", cmd_ingest, "land what is new, without computing anything from it")
    add_tenant(ingest)
    add_run_options(ingest)
    run = add("run", cmd_run, "land what is new and refresh up to the gate")
    add_tenant(run)
    add_run_options(run)
    run.add_argument("--as-of", type=_day, metavar="YYYY-MM-DD", help="day the run is made for")
    run.add_argument("--force", action="store_true", help="run even when nothing has changed")
    add_tenant(add("url", cmd_url, "print the URL of an estate's database, starting the embedded server"))
    add_tenant(add("status", cmd_status, "files, last run, gate, next actions, alerts"), required=False)
    export = add("export", cmd_export, "write the four files of a run as CSV and JSON")
    add_tenant(export)
    export.add_argument("--run", metavar="ID", help="run_id; default: the run of the gate in force")
    export.add_argument("--to", required=True, metavar="DIR")
    report = add("report", cmd_report, "write the weekly or the monthly report: HTML, PDF, XLSX")
    add_tenant(report)
    report.add_argument("--kind", required=True, choices=("weekly", "monthly"))
    report.add_argument("--month", metavar="YYYY-MM", help="monthly: a month that is over; default: the newest")
    report.add_argument("--to", required=True, metavar="DIR")
    audited = add("audit", cmd_audit, "audit any list of recommendations in a file, as a run's own list is")
    add_tenant(audited)
    audited.add_argument(
        "--recommendations", required=True, type=Path, metavar="FILE.csv",
        help="customer_code, scenario, rank, product_key; optionally wine_id, score, confidence, explain_short, run_id",
    )  # fmt: skip
    audited.add_argument("--as-of", type=_day, metavar="YYYY-MM-DD", help="default: the day of the estate's tables")
    audited.add_argument("--to", type=Path, metavar="DIR", help="write the four export files there")
    why = add("why", cmd_why, "say why a customer gets a message, or none, and on which grounds")
    add_tenant(why)
    why.add_argument("--customer", required=True, metavar="CODE", help="any of its client codes, or its customer_id")
    why.add_argument("--run", metavar="ID", help="run_id; default: the run of the gate in force")
    shown = add("preview", cmd_preview, "show a customer's message as it would be: HTML, and a picture with Chromium")
    add_tenant(shown)
    shown.add_argument("--customer", required=True, metavar="CODE", help="any of its client codes, or its customer_id")
    shown.add_argument("--campaign", metavar="C", help="default: the newest campaign that has a message for them")
    shown.add_argument("--kind", metavar="K", help="made with this template of ours, e.g. winback, welcome")
    shown.add_argument("--to", type=Path, metavar="FILE.html", help="default: CRM_HOME/previews/<tenant>/")
    shown.add_argument("--png", action="store_true", help="a picture beside it, where Chromium is installed")
    shown.add_argument("--width", type=int, default=375, choices=(375, 800), help="of the picture: a phone, a desktop")
    known = commands.add_parser("contacts", help="contacts and lists at Brevo")
    within_contacts = known.add_subparsers(dest="subcommand", required=True, metavar="sync")
    synced = add("sync", cmd_contacts_sync, "hand over what changed; counts it, unless --live", within_contacts)
    add_tenant(synced)
    synced.add_argument("--live", action="store_true", help="hand over; else nothing leaves this machine")
    for name, function, text in (
        ("quarantine", cmd_quarantine, "hand refused rows back to the estate, as workbooks to mend and drop again"),
        ("unmatched", cmd_unmatched, "hand product labels that the catalogue does not know back, to be recognised"),
    ):
        made = add(name, function, text)
        add_tenant(made)
        made.add_argument("--to", required=True, type=_new_workbook, metavar="FILE.xlsx")
        if function is cmd_quarantine:
            made.add_argument("--file", metavar="F", help="path or file_id of the export; default: all of them")
    webhooks = commands.add_parser("webhooks", help="outgoing webhooks: what was told to whom, and trying again")
    within_webhooks = webhooks.add_subparsers(dest="subcommand", required=True, metavar="list|retry")
    made = add("list", cmd_webhooks_list, "the newest notices and what became of them", within_webhooks)
    add_tenant(made)
    made.add_argument("--last", type=_count, default=50, metavar="N", help="so many; default 50")
    made = add("retry", cmd_webhooks_retry, "try again what was given up, and what waits, now", within_webhooks)
    add_tenant(made)
    made.add_argument("--notice", metavar="ID", help="this one only: its webhook-id")
    review = commands.add_parser("review", help="review: what people decide on the recommended items of a run")
    within_review = review.add_subparsers(dest="subcommand", required=True, metavar="export|import|approve-rest|status")
    made = add("export", cmd_review_export, "write the workbook in which people approve or reject", within_review)
    add_tenant(made)
    made.add_argument("--run", metavar="ID", help="run_id; default: the run of the gate in force")
    made.add_argument("--to", type=Path, metavar="DIR", help="default: where the estate's documents go")
    made = add("import", cmd_review_import, "read a workbook that came back, wherever it lies", within_review)
    made.add_argument("file", type=Path, metavar="FILE")
    add_tenant(made)
    made.add_argument("--reviewer", default="", metavar="NAME", help="who decided, where the file does not say")
    made = add("approve-rest", cmd_review_approve_rest, "approve what is left of a scenario", within_review)
    add_tenant(made)
    made.add_argument("--scenario", required=True, metavar="S")
    made.add_argument("--run", metavar="ID", help="run_id; default: the run of the gate in force")
    made.add_argument("--reviewer", required=True, metavar="NAME", help="who decides")
    made = add("status", cmd_review_status, "how far the review of a run has come", within_review)
    add_tenant(made)
    made.add_argument("--run", metavar="ID", help="run_id; default: the run of the gate in force")
    for name, function, text in (
        ("plan", cmd_plan, "plan a campaign's messages from the gate in force"),
        ("send", cmd_send, "send a planned campaign: a dry run unless live is switched on everywhere it must be"),
    ):
        made = add(name, function, text)
        add_tenant(made)
        made.add_argument("--campaign", required=True, metavar="NAME")
        if name == "plan":
            made.add_argument(
                "--count", "--dry-run", action="store_true", help="only count whom it would reach; nothing is written"
            )
    made.add_argument("--occurrence", metavar="O", help="once, or an ISO week like 2026-W11; default: the latest plan")
    made.add_argument("--confirm", metavar="HASH", help="go live: the hash of the exact plan, with --by")
    made.add_argument("--by", metavar="NAME", help="who confirms the plan")
    made.add_argument("--live", action="store_true", help="go live on what crm activation confirm has recorded")
    made.add_argument("--wait", action="store_true", help="wait out the ramp-up, closed hours and lost answers, go on")
    from crm_assets.cli_activation import Commands

    sent = commands.add_parser("activation", help="campaigns that leave: status, stop, test, confirm, arm, settle")
    verbs = "status|stop|resume|confirm|test|accept-test|retry|abandon|reconcile|rearm"
    within_activation = sent.add_subparsers(dest="subcommand", required=True, metavar=verbs)
    Commands(say, RefusedError).register(add, add_tenant, within_activation)
    rank = add("rank", cmd_rank, "rank the next products of customers, from any file of order lines")
    rank.add_argument("--customers", type=Path, metavar="FILE.csv", help="customer_id to rank for; default: everybody")
    rank.add_argument("--as-of", type=_day, metavar="YYYY-MM-DD", help="last day known; default: the file's newest")
    only = rank.add_mutually_exclusive_group()
    for name, text in (("explore", "never bought before"), ("repeat", "bought before")):
        only.add_argument(
            f"--{name}-only", dest="kind", action="store_const", const=name, help=f"only what the customer has {text}"
        )
    rank.add_argument("--top", type=_count, required=True, metavar="N", help="products a customer")
    rank.add_argument(
        "--out", type=Path, required=True, metavar="FILE.csv", help="customer_id,rank,product_key,score,list"
    )
    rank.set_defaults(kind="mixed")
    judged = add("backtest", cmd_backtest, "judge the ranking on a file of order lines, at a day in its past")
    judged.add_argument("--cut", type=_day, required=True, metavar="YYYY-MM-DD", help="first day that is not known")
    judged.add_argument("--top", type=_counts, default=[10, 20], metavar="N,N", help="lengths of the lists judged")
    for made in (rank, judged):
        made.add_argument(
            "--lines", type=Path, required=True, metavar="FILE.csv",
            help="customer_id,order_id,order_date,product_key and optionally quantity,amount; .csv.gz too",
        )  # fmt: skip
        made.add_argument("--horizon", type=_count, default=90, metavar="DAYS", help="in which the next order comes")
    passing: tuple[tuple[str, Callable[..., Any], str], ...] = (
        ("test", cmd_test, "run the test suite; further arguments go to pytest"),
        ("bench", cmd_bench, "measure the speeds that README.md states"),
        ("exec", cmd_exec, "run a program of .venv with the environment of ./crm up, e.g. dagster"),
    )
    add("check", cmd_check, "ruff, mypy, sqlfluff, dbt parse, definitions")
    for name, function, text in passing:
        add(name, function, text)
    return top


def _fail(message: str, as_json: bool) -> NoReturn:
    say(message)
    if as_json:
        print(json.dumps({"error": message}, ensure_ascii=False))
    sys.exit(1)


def main(argv: list[str] | None = None) -> int:
    """Run one command; the process's exit code."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # noqa: TID251 - before numpy loads; see up.dagster_environment
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    words = sys.argv[1:] if argv is None else argv
    # What follows these commands is another program's, options included.
    passed_on = words[1:] if words and words[0] in PASSING_ON else []
    args = parser().parse_args(words[: len(words) - len(passed_on)])
    args.arguments = passed_on
    try:
        config = settings()
    except ValidationError as error:
        # The values may be secrets: only names and reasons.
        _fail("; ".join(f"CRM_{'_'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors()), args.json)
    from crm_assets.databases import DatabaseError
    from crm_assets.dbt_manifest import ManifestError
    from crm_assets.local import ServerError
    from crm_assets.resources.warehouse import WarehouseError
    from crm_assets.run_context import RunRefusedError
    from crm_assets.tenants import TenantError
    from crm_assets.up import UpError

    try:
        result = args.function(config, args)
        if args.json and not isinstance(result, int):
            print(json.dumps(result, default=str, ensure_ascii=False))
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever reads, `| head` say, has seen enough: nothing more is written, at the interpreter's end either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (
        *(RefusedError, RunRefusedError, TenantError, DatabaseError),
        *(WarehouseError, ManifestError, ServerError, UpError),
    ) as error:
        _fail(str(error), args.json)
    return result if isinstance(result, int) else 0


if __name__ == "__main__":
    sys.exit(main())
