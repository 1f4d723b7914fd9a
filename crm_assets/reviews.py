"""Reviews against a tenant's database: how far a run's review has come, and what comes back of it.

Shared by the Dagster assets and by `crm review`; runs without Dagster. What a row of a workbook means is
`logic/review.py`, what decisions mean for the gate `logic/gate.py`.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import sqlalchemy as sa

from crm_assets import documents, gating, tables
from crm_assets.gating import GatedRun
from crm_assets.logic import review
from crm_assets.resources.drop_zone import DroppedFile, DropZone
from crm_assets.resources.warehouse import Warehouse, copy_frame, upsert
from crm_assets.run_context import GATE_IN_FORCE, TenantRun
from crm_assets.tenants import Tenant

# Of a receipt: the workbook was read row by row, or nothing of it could be, for a reason of its own.
READ, UNREADABLE = "read", "UNREADABLE"

# Per scenario: items, and what has been decided on them.
_BY_SCENARIO = """
    select
        items.scenario,
        count(*) as items,
        count(*) filter (where decisions.decision = 'approve') as approved,
        count(*) filter (where decisions.decision = 'reject') as rejected,
        count(*) filter (where decisions.decision = 'later') as later,
        count(*) filter (where decisions.decision is null) as undecided
    from recommendations.items as items
    left join review.applied_decisions as decisions using (run_id, customer_id, wine_id)
    where items.run_id = %s
    group by 1
    order by items.scenario collate "C"
"""
# Of the sample, by all items that the run gave them, the rejected ones included.
_SAMPLE = """
    select count(*), count(*) filter (where decided), count(*) filter (where rejected) from (
        select
            bool_and(coalesce(decisions.decision in ('approve', 'reject'), false)) as decided,
            bool_or(coalesce(decisions.decision = 'reject', false)) as rejected
        from review.samples as sample
        join recommendations.items as items using (run_id, customer_id)
        left join review.applied_decisions as decisions using (run_id, customer_id, wine_id)
        where sample.run_id = %s
        group by sample.customer_id
    ) as customers
"""


class ReviewError(Exception):
    """A review that cannot be made as asked; the message says why."""


def run_to_review(warehouse: Warehouse, run_id: str | None = None) -> tuple[str, date]:
    """(run_id, as_of) of a run that reached the gate, by default the one in force; ReviewError without one."""
    which = " where run_id = %s" if run_id else GATE_IN_FORCE
    found = warehouse.rows(f"select run_id, as_of from gate.decisions{which}", [run_id] if run_id else None)
    if not found:
        raise ReviewError(f"no run {run_id} has reached the gate" if run_id else "there is no run to review yet")
    return found[0]


def last_day(as_of: date, tenant: Tenant) -> date:
    """The last day on which a run is reviewed: as long as its plans would live."""
    return as_of + timedelta(days=tenant.business_rules.activation.plan_expires_days)


def status(warehouse: Warehouse, tenant: Tenant, run_id: str | None = None) -> dict[str, Any]:
    """How far the review of a run has come: mode, sample, items per scenario, who waits, until when."""
    run_id, as_of = run_to_review(warehouse, run_id)
    names = ("scenario", "items", "approved", "rejected", "later", "undecided")
    scenarios = [dict(zip(names, row, strict=True)) for row in warehouse.rows(_BY_SCENARIO, [run_id])]
    (size, decided, rejected) = warehouse.rows(_SAMPLE, [run_id])[0]
    held = warehouse.rows(
        "select reason, count(*) from gate.next_actions where run_id = %s and starts_with(reason, 'REVIEW_')"
        ' group by 1 order by reason collate "C"',
        [run_id],
    )
    eligible = warehouse.rows("select count(*) from gate.next_actions where run_id = %s and eligible", [run_id])
    return {
        "tenant": tenant.slug,
        "run_id": run_id,
        "as_of": as_of,
        "last_day": last_day(as_of, tenant),
        "mode": tenant.review,
        "sample": {
            "customers": size,
            "decided": decided,
            "rejected": rejected,
            "rejected_share": round(rejected / size, 4) if size else 0.0,
            "max_rejected_share": tenant.business_rules.review.max_rejected_share,
        },
        "scenarios": {str(row.pop("scenario")): row for row in scenarios},
        "held_back": dict(held),
        "eligible": eligible[0][0],
    }


def waiting(warehouse: Warehouse) -> int:
    """Customers of the gate in force whom review holds back and on whose items somebody has yet to decide.

    Those put off on purpose (`later`) are not waited for.
    """
    return int(
        warehouse.rows(
            f"""
            select count(*) from gate.next_actions as actions
            where
                actions.run_id = (select run_id from gate.decisions{GATE_IN_FORCE})
                and starts_with(actions.reason, 'REVIEW_')
                and exists (
                    select from recommendations.items as items
                    left join review.applied_decisions as said using (run_id, customer_id, wine_id)
                    where
                        (items.run_id, items.customer_id) = (actions.run_id, actions.customer_id)
                        and said.decision is null
                )
            """
        )[0][0]
    )


# --- what comes back


@dataclass(frozen=True)
class Subject:
    """A run that can be reviewed: when it was made, until when it is, and its items with their references."""

    run_id: str
    as_of: date
    made_at: datetime
    items: pd.DataFrame  # reference, customer_id, client_code, wine_id, product_key, scenario


def subject_of(warehouse: Warehouse, run_id: str | None) -> Subject | None:
    """The run, as far as its review needs it; None for one that never was."""
    found = warehouse.rows(
        "select as_of, created_at from recommendations.runs where run_id = %s and completed_at is not null", [run_id]
    )
    if not found or run_id is None:
        return None
    items = warehouse.read("recommendations", "items", [*review.ITEM_KEY, "product_key"], "run_id = %s", [run_id])
    codes = warehouse.read("gate", "next_actions", ["customer_id", "client_code"], "run_id = %s", [run_id])
    items["client_code"] = items["customer_id"].map(codes.set_index("customer_id")["client_code"])
    items["reference"] = review.item_reference(run_id, items)
    return Subject(run_id, found[0][0], found[0][1].astimezone(UTC), items)


def read_workbook(
    run: TenantRun, path: Path, shown: str, sha256: str, modified_at: datetime, reviewer: str = ""
) -> bool:
    """Decide a returned workbook row by row: decisions, receipt and its lines in one transaction.

    False when this content has been read before. A decision is as old as the file, within the run's life. What
    follows from the decisions is `settle`.
    """
    from crm_assets.logic.reading import UnreadableError
    from crm_assets.logic.review_workbook import SEVERAL_RUNS, read

    warehouse, file_id = run.warehouse, sha256[:16]
    if warehouse.rows("select 1 from review.receipts where file_id = %s", [file_id]):
        return False
    receipt: dict[str, Any] = {
        "file_id": file_id,
        "path": shown,
        "run_id": None,
        "reviewer": reviewer,
        "status": READ,
        "modified_at": modified_at,
        "read_at": run.now,
        **dict.fromkeys(("n_rows", "n_taken", "n_refused", "n_blank", "n_approved_rest"), 0),
        "document": None,
    }
    try:
        sheet = read(path, run.rules.landing.workbook)
    except UnreadableError:
        with warehouse.transaction() as connection:
            copy_frame(connection, tables.receipts, pd.DataFrame([{**receipt, "status": UNREADABLE}]))
        return True
    subject = subject_of(warehouse, sheet.run_id)
    refusal = None
    if sheet.problem == SEVERAL_RUNS:
        refusal = review.SEVERAL_RUNS
    elif subject is None:
        refusal = review.UNKNOWN_RUN
    elif run.as_of > last_day(subject.as_of, run.tenant):
        refusal = review.STALE_RUN
    made_at = subject.made_at if subject is not None else modified_at
    judged = review.judge(
        sheet.rows,
        subject.items if subject is not None else _NO_ITEMS,
        _stored(warehouse, subject),
        _holding(warehouse, subject),
        run_id=subject.run_id if subject is not None else "",
        file_id=file_id,
        reviewer=sheet.reviewer or reviewer,
        decided_at=min(max(modified_at, made_at), run.now),
        # Without its column nobody knows what was decided: nothing is a rest then.
        approve_rest=sheet.approve_rest if sheet.problem is None else (),
        refusal=refusal,
        approved_at=None if sheet.knows_before else made_at,
        earlier=_said_earlier(warehouse, subject, sheet.reviewer or reviewer, modified_at),
    )
    receipt |= {
        "run_id": subject.run_id if subject is not None and refusal != review.SEVERAL_RUNS else None,
        "reviewer": sheet.reviewer or reviewer,
        "status": refusal or sheet.problem or READ,
        "n_rows": len(judged.lines),
        "n_taken": judged.n_taken,
        "n_refused": len(judged.lines) - judged.n_taken,
        "n_blank": judged.n_blank,
        "n_approved_rest": judged.n_approved_rest,
        "unclear_rest": sorted(sheet.unclear_rest),
    }
    with warehouse.transaction() as connection:
        if len(judged.decisions):
            upsert(connection, tables.review_decisions, judged.decisions)
        copy_frame(connection, tables.receipts, pd.DataFrame([receipt]))
        copy_frame(connection, tables.receipt_lines, judged.lines.assign(file_id=file_id))
    return True


_NO_ITEMS = pd.DataFrame(columns=["reference", *review.ITEM_KEY, "client_code", "product_key"])
_STORED_COLUMNS = [column.name for column in tables.review_decisions.columns]


def _stored(warehouse: Warehouse, subject: Subject | None) -> pd.DataFrame:
    """What has been decided on the run itself."""
    run_id = subject.run_id if subject is not None else ""
    return warehouse.read("review", "decisions", _STORED_COLUMNS, "run_id = %s", [run_id])


def _holding(warehouse: Warehouse, subject: Subject | None) -> pd.DataFrame:
    """What holds on the items of the run, taken on it or carried over."""
    run_id = subject.run_id if subject is not None else ""
    return warehouse.read("review", "applied_decisions", [*review.ITEM_KEY, "decision"], "run_id = %s", [run_id])


def _said_earlier(warehouse: Warehouse, subject: Subject | None, reviewer: str, modified_at: datetime) -> pd.DataFrame:
    """What a reviewer said of a run in workbooks saved before, oldest first."""
    return warehouse.query(
        """
        select
            lines.customer_id, lines.wine_id, lines.scenario, lines.decision, lines.rating, lines.comment,
            lines.before, lines.decided_at
        from review.receipt_lines as lines
        join review.receipts as receipts using (file_id)
        where
            lines.run_id = %s and lower(receipts.reviewer) = lower(%s) and receipts.modified_at < %s
            and lines.outcome = any(%s) and lines.decided_at is not null
        order by receipts.modified_at, lines.file_id collate "C", lines.source_line
        """,
        [subject.run_id if subject is not None else "", reviewer, modified_at, [*review.ACCEPTED, review.OVERTAKEN]],
    )


def approve_rest(run: TenantRun, scenario: str, run_id: str | None, reviewer: str) -> dict[str, Any]:
    """Approve all items of a scenario on which no decision holds; the gate is decided again."""
    _require_present(run)
    warehouse = run.warehouse
    run_id, as_of = run_to_review(warehouse, run_id)
    until = last_day(as_of, run.tenant)
    if run.as_of > until:
        raise ReviewError(f"run {run_id} could be reviewed until {until}; the day of {run.tenant.slug} is {run.as_of}")
    items = warehouse.read(
        "recommendations", "items", review.ITEM_KEY, "run_id = %s and scenario = %s", [run_id, scenario]
    )
    if items.empty:
        raise ReviewError(f"run {run_id} proposes nothing of the scenario {scenario!r}")
    holding = warehouse.read("review", "applied_decisions", review.ITEM_KEY, "run_id = %s", [run_id])
    rest = items.merge(holding.assign(holds=True), on=review.ITEM_KEY, how="left")
    rest = rest.loc[rest["holds"].isna(), review.ITEM_KEY]
    said: dict[str, Any] = {
        "decision": review.APPROVE,
        "reviewer": reviewer,
        "decided_at": run.now,
        "origin": review.REST,
    }
    if len(rest):
        warehouse.upsert(tables.review_decisions, rest.assign(run_id=run_id, **said))
        settle(run, {run_id})
    return {**status(warehouse, run.tenant, run_id), "approved_rest": len(rest)}


def _require_present(run: TenantRun) -> None:
    """ReviewError where the estate's day lies before what has been refreshed: the tables are of a later day."""
    if run.is_historical:
        raise ReviewError(f"a day later than {run.as_of} has been refreshed: reviews are of the present")


# --- what follows


def settle(run: TenantRun, run_ids: Collection[str] = ()) -> list[str]:
    """Decide the gate again where decisions have come in: for the runs named, for those of receipts that were not
    finished, for the gate in force and for whatever a plan that is still alive pins. The runs it was decided for.

    Each receipt is then written as a file, which is what finishes it: a crash before is made good the next time. A run
    for an earlier day, whose tables are of that day, decides nothing.
    """
    warehouse = run.warehouse
    if run.is_historical:
        return []
    open_receipts = warehouse.read("review", "receipts", ["file_id", "run_id"], "document is null")
    if open_receipts.empty and not run_ids:
        return []
    wanted = [*run_ids, *open_receipts["run_id"].dropna()]
    found = warehouse.rows(
        f"""
        select run_id, as_of, run_id = (select run_id from gate.decisions{GATE_IN_FORCE}) as is_in_force
        from gate.decisions
        where
            not is_historical
            and (
                run_id = any(%s)
                or run_id = (select run_id from gate.decisions{GATE_IN_FORCE})
                or run_id in (select run_id from activation.campaigns where expires_on >= %s)
            )
        order by run_id collate "C"
        """,
        [wanted, run.as_of],
    )
    for run_id, as_of, is_in_force in found:
        _decide_again(GatedRun(warehouse, run.tenant, run_id, as_of, run.now, False), is_in_force)
    for file_id in sorted(open_receipts["file_id"]):
        _write_receipt(run, file_id)
    return [run_id for run_id, _, _ in found]


def _decide_again(run: GatedRun, is_in_force: bool) -> None:
    """What holds, audit, sample, next actions and gate of a run of the present, made as its own assets make them."""
    _replace(run, tables.review_applied, gating.applied_decisions(run))
    findings, scores = gating.audited(run)
    _replace(run, tables.findings, findings)
    _replace(run, tables.scores, scores)
    _replace(run, tables.review_samples, gating.sample(run))
    _replace(run, tables.next_actions, gating.next_actions(run))
    decision = gating.decision(run)
    if not is_in_force:
        # The gate in force is the one decided last: a run that a plan pins must not come before it.
        decision["decided_at"] = run.read("gate", "decisions", ["decided_at"])["decided_at"]
    _replace(run, tables.decisions, decision)


def _replace(run: GatedRun, table: sa.Table, frame: pd.DataFrame) -> None:
    run.warehouse.replace_run(table, frame.assign(run_id=run.run_id), run.run_id)


def _write_receipt(run: TenantRun, file_id: str) -> None:
    """The receipt of a workbook as a file for the estate, which finishes it."""
    from crm_assets.logic import receipts

    warehouse = run.warehouse
    found = warehouse.read("review", "receipts", where="file_id = %s", params=[file_id])
    receipt = {str(name): value for name, value in found.to_dict("records")[0].items()}
    lines = warehouse.read("review", "receipt_lines", where="file_id = %s", params=[file_id], order_by="source_line")
    run_id = receipt["run_id"] if isinstance(receipt["run_id"], str) else None
    subject = subject_of(warehouse, run_id)
    shown = lines.drop(columns="run_id").merge(
        (subject.items if subject is not None else _NO_ITEMS)[[*review.ITEM_KEY, "client_code", "product_key"]],
        on=review.ITEM_KEY, how="left",
    ).sort_values("source_line")  # fmt: skip
    labels = warehouse.read("curated", "dim_products", ["product_key", "label"]).drop_duplicates("product_key")
    shown["wine"] = shown["product_key"].map(labels.set_index("product_key")["label"])
    gate = warehouse.rows(
        "select as_of, status, reasons, n_eligible, n_customers from gate.decisions where run_id = %s", [run_id]
    )
    held = warehouse.rows(
        "select reason, count(*) from gate.next_actions where run_id = %s and starts_with(reason, 'REVIEW_')"
        ' group by 1 order by reason collate "C"',
        [run_id],
    )
    content = receipts.receipt_workbook(
        receipt, shown, gate[0] if gate else None, dict(held), run.tenant.name, run.tenant.locale, run.tenant.timezone
    )
    folder = documents.folder_of(run.tenant, run.home, "reviews")
    path = documents.write_whole(folder / f"receipt_{receipt['run_id'] or 'unknown'}_{file_id}.xlsx", content)
    told = path.relative_to(run.home) if path.is_relative_to(run.home) else path
    warehouse.execute("update review.receipts set document = %s where file_id = %s", [told.as_posix(), file_id])


# --- from the drop folder, and by hand


def read_dropped(run: TenantRun) -> int:
    """Read the review workbooks of the drop folder that have no receipt yet; how many that were.

    One that is being written is left to the next look. Whatever is read stands in the ledger of files, so that it
    asks for no landing.
    """
    from crm_assets.logic.landing import load_source
    from crm_assets.resources import raw_store

    n_read = 0
    with run.drop_zone() as zone:
        files = {file.path: file for file in zone.list()}
        found = raw_store.review_paths(run.warehouse, zone, list(files.values()), run.rules.landing.workbook)
        # What was saved first is read first: what a later one says is held against it.
        for path in sorted(found, key=lambda path: (files[path].modified_at, path)):
            with _content(zone, files[path]) as (copy, sha256):
                if copy is None:
                    continue
                n_read += read_workbook(run, copy, path, sha256, files[path].modified_at)
            raw_store.note_review(run.warehouse, zone, run.tenant, load_source(), run.now, files[path], sha256)
    return n_read


@contextmanager
def _content(zone: DropZone, file: DroppedFile) -> Iterator[tuple[Path | None, str]]:
    """A copy of the file's bytes and their hash; None where somebody writes to it or it cannot be opened."""
    with tempfile.TemporaryDirectory(prefix="crm-review-") as folder:
        try:
            with zone.local(file.path) as path:
                content = path.read_bytes()
            seen = zone.look(file.path)
        except OSError:  # gone, or not to be opened: it is left to the next look, and stops no other
            seen = None
        if seen is None or seen.signature != file.signature:
            yield None, ""
            return
        copy = Path(folder, f"workbook{Path(file.path).suffix}")
        copy.write_bytes(content)
        yield copy, hashlib.sha256(content).hexdigest()


def import_file(run: TenantRun, path: Path, reviewer: str = "") -> dict[str, Any]:
    """Read a returned workbook that lies anywhere, as if it had been dropped; its receipt, and where the review is."""
    from crm_assets.logic.mended import is_review_workbook

    _require_present(run)
    try:
        content = path.read_bytes()
        modified_at = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    except OSError as error:
        raise ReviewError(f"{path} cannot be opened: {error.strerror}") from error
    if not is_review_workbook(path, run.rules.landing.workbook):
        raise ReviewError(f"{path.name} is no review workbook: its column crm_ref_review is not there")
    sha256 = hashlib.sha256(content).hexdigest()
    is_new = read_workbook(run, path, path.name, sha256, modified_at, reviewer)
    settle(run)
    receipt = run.warehouse.read("review", "receipts", where="file_id = %s", params=[sha256[:16]]).to_dict("records")[0]
    outcomes = run.warehouse.rows(
        'select outcome, count(*) from review.receipt_lines where file_id = %s group by 1 order by outcome collate "C"',
        [sha256[:16]],
    )
    names = ("run_id", "status", "n_rows", "n_taken", "n_refused", "n_blank", "n_approved_rest", "document")
    return {
        "tenant": run.tenant.slug,
        "is_new": is_new,
        **{name: receipt[name] if pd.notna(receipt[name]) else None for name in names},
        "outcomes": dict(outcomes),
    }
