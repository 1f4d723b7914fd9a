"""Hostile drops through the real pipeline: landing, staging and curated of one estate, batch after batch.

Shared by `tests/faults/test_hostile_files.py` (500 files) and `./crm bench --cases fuzz` (20,000 files). What is sent
is `hostile_files.py`; here stands what must hold of it: no crash, no hang, bounded memory, each file ends with a
known status and a reason that quotes nothing, good files' rows are exactly there, rows = curated + superseded +
quarantined for every file, and another estate's database stays as it was.

Landing runs in a process of its own, watched from outside: what a reader in C or Rust does cannot be interrupted
from within. Nothing here judges speed; files per second are printed for a person to read.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from graphlib import TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING

from psycopg import sql

from benchmarks import hostile_files
from benchmarks.bench import peak_mib
from benchmarks.hostile_files import ANY, Drop

if TYPE_CHECKING:
    from dagster import AssetsDefinition

    from crm_assets.resources.warehouse import Warehouse
    from crm_assets.run_context import TenantRun
    from crm_assets.tenants import Tenant

ROOT = Path(__file__).resolve().parent.parent
BATCH = 200
FILE_SECONDS = 30.0  # of one file in landing, on a machine that others use too
BUILD_SECONDS = 1800.0
# Address space of the landing process: an allocation beyond fails there instead of taking the machine down.
LANDING_BYTES = 6 << 30
RESIDENT_BYTES = 1 << 30  # what landing may really hold (issue 3)
AS_OF = date(2025, 12, 31)
NOW = datetime(2026, 1, 5, 6, tzinfo=UTC)
# A reason says what to do, or, of a duplicate, that nothing needs to be done.
ADVICE = re.compile("export it|save it|put it|must end in|check its permissions|has the content of")
DATABASE_VARIABLE = "HOSTILE_DATABASE"  # the landing process's only way to a database


@dataclass
class Outcome:
    """What became of the files so far."""

    files: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    slowest: list[tuple[float, str, str]] = field(default_factory=list)  # seconds, kind, path
    landing_seconds: float = 0.0
    build_seconds: float = 0.0
    peak_mib: int = 0
    rows_accounted: int = 0

    def fault(self, drop: Drop | None, text: str) -> None:
        where = f"{drop.kind} {drop.path[:80]!r}: " if drop else ""
        self.faults.append(where + text)


class Arena:
    """One estate under fire, and one that looks on."""

    def __init__(self, target: Warehouse, bystander: Warehouse, folder: Path) -> None:
        self.target = target
        self.bystander = bystander
        self.folder = folder
        self.outcome = Outcome()
        outside = folder.parent / "outside"
        outside.mkdir(parents=True, exist_ok=True)
        (outside / "clients.csv").write_text("Code client;Nom\nOUTSIDE;Nobody\n")
        self._settle(bystander)
        self._calm = self._bystander_state()

    def _settle(self, bystander: Warehouse) -> None:
        """Give the other estate some rows to lose."""
        from crm_assets.logic.landing import load_source
        from crm_assets.resources.drop_zone import DropZone
        from crm_assets.resources.raw_store import land

        calm = self.folder.parent / "calm"
        for drop in hostile_files.drops(0):
            hostile_files.lay(calm, drop)
        land(bystander, DropZone(calm), estate(), load_source(), NOW, pause=lambda seconds: None)

    def fire(self, drops: Sequence[Drop]) -> None:
        """One batch: into the folder, landed, built, looked at. The batch before is taken out of the folder first."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        for drop in drops:
            hostile_files.lay(self.folder, drop)
        started = time.monotonic()
        seconds = self._land(drops)
        self.outcome.landing_seconds += time.monotonic() - started
        started = time.monotonic()
        failed = build(self.target)
        self.outcome.build_seconds += time.monotonic() - started
        if failed:
            self.outcome.fault(None, f"the build of files {self.outcome.files}..+{len(drops)} failed: {failed}")
        self.look(drops, seconds, is_built=not failed)
        self.outcome.files += len(drops)

    # --- landing, watched

    def _land(self, drops: Sequence[Drop]) -> dict[str, float]:
        """Land the folder; seconds by path. A file that kills or blocks the process is taken out and named."""
        seconds: dict[str, float] = {}
        for _ in range(10):
            process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.hostile", "land", str(self.folder)],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT), DATABASE_VARIABLE: self.target.url},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            errors: list[str] = []
            assert process.stderr is not None
            drain = threading.Thread(target=errors.extend, args=(process.stderr,))
            drain.start()
            current, is_hanging = self._follow(process, seconds)
            drain.join()
            if process.wait() == 0:
                return seconds
            what = f"blocked landing for {FILE_SECONDS:g} s" if is_hanging else "killed landing"
            told = "".join(errors)[-1500:]
            drop = next((drop for drop in drops if _shown(drop.path) == current), None)
            self.outcome.fault(drop, f"{what} (exit {process.returncode}) {told}")
            if drop is None:
                return seconds
            os.unlink(os.path.join(os.fsencode(self.folder), drop.path))
        return seconds

    def _follow(self, process: subprocess.Popen[str], seconds: dict[str, float]) -> tuple[str, bool]:
        """Read the landing's own account; kill it when one file takes too long. (file it was at, whether it hung)."""
        current = ""
        hung = threading.Event()

        def kill() -> None:
            hung.set()
            process.kill()

        assert process.stdout is not None
        watchdog = threading.Timer(FILE_SECONDS * 2, kill)  # imports included
        watchdog.start()
        for line in process.stdout:
            watchdog.cancel()
            said = json.loads(line)
            seconds[current] = said["after"]
            current = said.get("path", "")
            self.outcome.peak_mib = max(self.outcome.peak_mib, said["peak_mib"])
            watchdog = threading.Timer(FILE_SECONDS, kill)
            watchdog.start()
        watchdog.cancel()
        return current, hung.is_set()

    # --- what must hold

    def look(self, drops: Sequence[Drop], seconds: Mapping[str, float], *, is_built: bool) -> None:
        """Note what does not hold of a batch that was fired."""
        ledger: dict[str, tuple[str, str | None, str | None, int | None]] = {
            path: rest
            for path, *rest in self.target.rows(
                "select path, status, reason, dataset, row_count from raw.files where deleted_at is null"
            )
        }
        accounts = self._accounts() if is_built else {}
        for drop in drops:
            path = _shown(drop.path + (b"/inside.csv" if drop.shape == "folder" else b""))
            status, reason, _, _ = ledger.get(path, ("unseen", "", None, None))
            self.outcome.statuses[status] += 1
            if status not in drop.statuses:
                self.outcome.fault(drop, f"is {status} ({reason}), expected {'/'.join(sorted(drop.statuses))}")
            if status not in ANY | {"unseen"} or (status != "loaded" and status != "unseen" and not reason):
                self.outcome.fault(drop, f"has status {status!r} and reason {reason!r}")
            if reason and not ADVICE.search(reason):
                self.outcome.fault(drop, f"its reason does not say what to do: {reason}")
            if drop.secret and reason and drop.secret in reason:
                self.outcome.fault(drop, "its reason quotes what stands in it")
            if status == "loaded" and drop.rows:
                self._look_at_rows(drop, accounts.get(drop.file_id) if is_built else None, is_built)
            self.outcome.slowest.append((seconds.get(path, 0.0), drop.kind, path[-60:]))
        self.outcome.slowest = sorted(self.outcome.slowest, reverse=True)[:5]
        if self.outcome.peak_mib > RESIDENT_BYTES >> 20:
            self.outcome.fault(None, f"landing held {self.outcome.peak_mib} MiB")
            self.outcome.peak_mib = 0
        if (now := self._bystander_state()) != self._calm:
            changed = sorted(name for name in now.keys() | self._calm.keys() if now.get(name) != self._calm.get(name))
            self.outcome.fault(None, f"another estate's tables changed: {', '.join(changed)}")
            self._calm = now

    def _accounts(self) -> dict[str, tuple[int, int, int, int]]:
        """file_id -> rows, curated, superseded, quarantined; faults for what does not add up or is missing."""
        found = {
            file_id: tuple(counts)
            for file_id, *counts in self.target.rows(
                "select file_id, rows, curated, superseded, quarantined from curated.file_accounting"
            )
        }
        loaded = dict(self.target.rows("select file_id, row_count from raw.files where status = 'loaded'"))
        for file_id in sorted(loaded.keys() ^ found.keys()):
            self.outcome.fault(None, f"file {file_id} is in only one of raw.files and curated.file_accounting")
        for file_id, (rows, curated, superseded, quarantined) in found.items():
            if rows != loaded.get(file_id) or rows != curated + superseded + quarantined:
                self.outcome.fault(None, f"file {file_id}: {rows} rows, {curated}+{superseded}+{quarantined} accounted")
        for name in hostile_files.DATASETS:
            ((raw,),) = self.target.rows(f"select count(*) from raw.{name}")
            ((said,),) = self.target.rows(
                "select coalesce(sum(row_count), 0) from raw.files where status = 'loaded' and dataset = %s", [name]
            )
            if raw != said:
                self.outcome.fault(None, f"raw.{name} holds {raw} rows, its files {said}")
        self.outcome.rows_accounted = sum(counts[0] for counts in found.values())
        return found  # type: ignore[return-value]

    def _look_at_rows(self, drop: Drop, account: tuple[int, int, int, int] | None, is_built: bool) -> None:
        """A good file's rows are exactly there, none refused, none replaced."""
        fields = sql.SQL(", ").join(map(sql.Identifier, drop.fields))
        statement = sql.SQL("select {} from raw.{} where file_id = %s order by row_no").format(
            fields, sql.Identifier(drop.dataset)
        )
        with self.target.transaction() as connection:
            found = connection.execute(statement, [drop.file_id]).fetchall()
        if tuple(found) != drop.rows:
            self.outcome.fault(drop, f"loaded {len(found)} rows that are not its {len(drop.rows)}")
        if is_built and account != (len(drop.rows), len(drop.rows), 0, 0):
            self.outcome.fault(
                drop, f"{len(drop.rows)} good rows ended as {account} (rows, curated, superseded, refused)"
            )

    def _bystander_state(self) -> dict[str, tuple[int, str]]:
        """table -> rows and their hash, of every table of the other estate."""
        tables = self.bystander.rows(
            "select table_schema, table_name from information_schema.tables"
            " where table_schema not in ('pg_catalog', 'information_schema')"
        )
        state = {}
        for schema, name in tables:
            statement = sql.SQL(
                "select count(*), coalesce(md5(string_agg(t::text, '|' order by t::text collate \"C\")), '')"
                " from {} as t"
            ).format(sql.Identifier(schema, name))
            with self.bystander.transaction() as connection:
                state[f"{schema}.{name}"] = connection.execute(statement).fetchone()
        return state  # type: ignore[return-value]


def _shown(path: bytes) -> str:
    """A path as the ledger writes it."""
    from crm_assets.resources.drop_zone import ledger_path

    return ledger_path(os.fsdecode(path))


# --- the pipeline's own steps


def estate() -> Tenant:
    from crm_assets.tenants import Tenant

    return Tenant(slug="hostile", name="H", legal_name="H", address="1 rue", siren="123456789", as_of=AS_OF)


def run_of(warehouse: Warehouse) -> TenantRun:
    """A run on this database, whatever the registry says."""
    from crm_assets import databases, run_context
    from crm_assets.settings import settings

    config = settings()
    return run_context.TenantRun(estate(), AS_OF, NOW, warehouse, False, "", config, databases.cluster(config))


def build(warehouse: Warehouse, *, with_tests: bool = True) -> str:
    """What a refresh does between landing and curated; what dbt said went wrong, empty when nothing did."""
    run = run_of(warehouse)
    return compute_identities(run) or build_models(run, with_tests=with_tests)


def compute_identities(run: TenantRun) -> str:
    """What Python computes between landing and dbt; the error, empty when there was none."""
    import dagster as dg

    for asset in _python_assets():
        try:
            asset(dg.build_asset_context(), tenant_run=run)
        except Exception as error:  # whatever it is, it is the fault looked for
            return f"{asset.key.to_user_string()}: {type(error).__name__}: {error}"
    return ""


def target_of(run: TenantRun) -> tuple[Path, dict[str, str]]:
    """dbt's target folder for the database, and the variables it connects by."""
    from crm_assets import run_context

    target, variables = run_context.dbt_target(run.tenant, run.warehouse, run.config)
    return target.with_name(f"{target.name}-{run.warehouse.url.rpartition('/')[2].split('?')[0]}"), variables


def build_models(run: TenantRun, *, with_tests: bool) -> str:
    """Staging and curated by dbt; what it said went wrong, empty when nothing did."""
    from crm_assets.dbt_manifest import PROJECT, dbt_executable

    target, variables = target_of(run)
    try:
        done = subprocess.run(
            [dbt_executable(), "build", "--quiet", "--select", "staging", "curated"]
            + ["--indirect-selection", "buildable"]
            + ["--exclude", "resource_type:unit_test", *([] if with_tests else ["resource_type:test"])]
            + ["--project-dir", str(PROJECT), "--profiles-dir", str(PROJECT)],
            env={**os.environ, **variables, "DBT_TARGET_PATH": str(target), "DBT_LOG_PATH": str(target)},
            cwd=PROJECT,
            capture_output=True,
            text=True,
            timeout=BUILD_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f"dbt took longer than {BUILD_SECONDS:g} s"
    return done.stdout[-3000:] + done.stderr[-1000:] if done.returncode else ""


def _python_assets() -> list[AssetsDefinition]:
    """What Python computes between landing and dbt, each after what it reads."""
    import dagster as dg

    from crm_assets.defs.curated import assets as curated
    from crm_assets.defs.landing import parameters
    from crm_assets.defs.staging import assets as staging

    found = [
        each for module in (parameters, staging, curated) for each in vars(module).values()
        if isinstance(each, dg.AssetsDefinition)
    ]  # fmt: skip
    by_key = {spec.key: each for each in found for spec in each.specs}
    needs = {
        spec.key: [dep.asset_key for dep in spec.deps if dep.asset_key in by_key]
        for each in found
        for spec in each.specs
    }
    return [by_key[key] for key in TopologicalSorter(needs).static_order()]


def land_here(folder: Path) -> None:
    """Land a folder in this process, saying on stdout which file it is at, how long the last took, and the peak."""
    from crm_assets.logic.landing import load_source
    from crm_assets.resources.drop_zone import DropZone
    from crm_assets.resources.raw_store import land
    from crm_assets.resources.warehouse import Warehouse

    resource.setrlimit(resource.RLIMIT_AS, (LANDING_BYTES, LANDING_BYTES))
    since = time.monotonic()

    def say(**more: str) -> None:
        nonlocal since
        now = time.monotonic()
        print(json.dumps({"after": now - since, "peak_mib": peak_mib(), **more}), flush=True)
        since = now

    class Telling(DropZone):
        """The drop folder; it tells each file that a landing turns to."""

        def sha256(self, path: str) -> str:
            say(path=path)
            return super().sha256(path)

    warehouse = Warehouse(os.environ[DATABASE_VARIABLE])
    land(warehouse, Telling(folder), estate(), load_source(), NOW, pause=lambda seconds: None)
    say()


def run(count: int, seed: int, start: int, out: Path | None) -> Outcome:
    """A whole fuzz run on a server of this deployment; prints as it goes."""
    from crm_assets import databases
    from crm_assets.resources.warehouse import Warehouse
    from crm_assets.settings import settings

    cluster = databases.cluster(settings())
    estates = ("hostile", "bystander")
    for slug in estates:
        cluster.drop(cluster.role(slug))
    target, bystander = (Warehouse(databases.ensure_tenant(cluster, slug)) for slug in estates)
    shutil.rmtree(settings().home / "dbt", ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="crm-hostile-") as scratch:
        arena = Arena(target, bystander, Path(scratch) / "raw")
        batch: list[Drop] = []
        number = start
        told = 0
        while arena.outcome.files < count:
            while len(batch) < min(BATCH, count - arena.outcome.files):
                batch += hostile_files.drops(number, seed)
                number += 1
            arena.fire(batch)
            batch = []
            outcome = arena.outcome
            for fault in outcome.faults[told:]:
                print(f"FAULT {fault}", flush=True)
            told = len(outcome.faults)
            print(
                f"{outcome.files} files (cases to {number}), {told} faults,"
                f" landing {outcome.landing_seconds:.0f} s, builds {outcome.build_seconds:.0f} s",
                flush=True,
            )
            if out:
                out.write_text(json.dumps(vars(outcome), indent=2))
            if outcome.faults and "the build of" in outcome.faults[-1]:
                break  # every further build would fail the same way
    return arena.outcome


def report(outcome: Outcome) -> str:
    """The figures of a run, as text."""
    seconds = outcome.landing_seconds + outcome.build_seconds
    lines = [
        f"hostile files: {outcome.files}, {outcome.files / max(seconds, 0.001):.1f}/s with a build per {BATCH}"
        f" ({outcome.files / max(outcome.landing_seconds, 0.001):.0f}/s landing alone), peak {outcome.peak_mib} MiB",
        "statuses: " + ", ".join(f"{status} {count}" for status, count in sorted(outcome.statuses.items())),
        f"rows accounted: {outcome.rows_accounted}",
        "slowest: " + "; ".join(f"{seconds:.1f} s {kind}" for seconds, kind, _ in outcome.slowest),
        f"faults: {len(outcome.faults)}",
        *(f"  {fault}" for fault in outcome.faults),
    ]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """`run` fires at an estate of this deployment; `land` is the watched process of a batch."""
    parser = argparse.ArgumentParser(prog="hostile", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    landing = commands.add_parser("land")
    landing.add_argument("folder", type=Path)
    running = commands.add_parser("run")
    running.add_argument("--files", type=int, default=20_000)
    running.add_argument("--seed", type=int, default=hostile_files.SEED)
    running.add_argument("--start", type=int, default=0, help="number of the first case")
    running.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    if args.command == "land":
        land_here(args.folder)
        return 0
    outcome = run(args.files, args.seed, args.start, args.out)
    print(report(outcome))
    return 1 if outcome.faults else 0


if __name__ == "__main__":
    sys.exit(main())
