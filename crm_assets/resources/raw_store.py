"""The ledger of files and the raw tables: each content that is dropped is loaded once, whole or not at all.

A file's rows and its line in `raw.files` are one transaction, so that a crash leaves either both or neither,
and the next landing goes on from there. How files are read and what they mean is `logic/reading.py` and
`logic/landing.py`; nothing is computed from the rows here.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

from crm_assets.resources.drop_zone import DroppedFile, DropZone, DropZoneError, settled

if TYPE_CHECKING:
    import psycopg

    from crm_assets.logic.landing import FileProfile, HeaderMapping, Profiler, RowMaker, SourceSpec
    from crm_assets.logic.reading import TableFile
    from crm_assets.resources.warehouse import Warehouse
    from crm_assets.rules import WorkbookLimits
    from crm_assets.tenants import Tenant

FAILED = ("unreadable", "refused", "unrecognised")
LOADED = ("loaded", "duplicate")
REVIEW = "review"  # a review workbook come back: its decisions are read (`reviews.py`), nothing of it is loaded
# Mapping reports that a landing hands on per raw table; raw.file_reports has them all.
MAX_REPORTS = 5
READ_AGAIN = "was read again: the estate's mapping has changed"


@dataclass(frozen=True)
class FileOutcome:
    """What a landing made of one file of the drop folder."""

    path: str
    dataset: str | None
    status: str  # waiting loaded review duplicate unrecognised unreadable refused
    reason: str | None = None
    row_count: int | None = None
    mapping_quality: int | None = None
    unmapped_headers: list[str] | None = None
    is_new: bool = False  # its rows came in with this landing


@dataclass
class LandingReport:
    """What a landing found and did."""

    outcomes: list[FileOutcome] = field(default_factory=list)
    loaded_rows: Counter[str] = field(default_factory=Counter)  # raw table -> rows that came in
    # raw table -> path -> masked mapping report of files that came in; of a few only.
    mapping_reports: dict[str, dict[str, Any]] = field(default_factory=dict)
    deleted: list[str] = field(default_factory=list)  # paths whose content is gone from the folder
    folder_missing: bool = False  # or out of reach: nothing was looked at, nothing changed
    out_of_reach: str | None = None  # why nobody knows whether it is there

    @property
    def status_counts(self) -> dict[str, int]:
        return dict(sorted(Counter(outcome.status for outcome in self.outcomes).items()))


class _ChangedError(Exception):
    """The file is not what was hashed any more: somebody writes to it."""


class _OvertakenError(Exception):
    """Another landing loaded the content meanwhile."""


class _FaultyError(Exception):
    """The content cannot be loaded: its status and the reason, to be read after the file's name."""

    def __init__(self, status: str, reason: str, known: Mapping[str, Any] | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.known = known or {}


# --- is there anything new? (asked before anything heavy is imported)


def read_ledger(warehouse: Warehouse) -> dict[str, str | None]:
    """path -> signature of the files at the last landing; null where the content must be looked at again."""
    return dict(warehouse.rows("select path, signature from landing.files"))


def pending(drop_zone: DropZone, ledger: Mapping[str, str | None]) -> list[str]:
    """The paths that are new, changed or gone since the ledger was written."""
    now = {file.path: file.signature for file in drop_zone.list()}
    changed = {path for path, signature in now.items() if ledger.get(path) != signature}
    gone = ledger.keys() - now.keys() if drop_zone.exists() else set()
    return sorted(changed | gone)


def has_news(warehouse: Warehouse, drop_zone: DropZone) -> bool:
    """Whether a landing would find anything else than the last one did."""
    return bool(pending(drop_zone, read_ledger(warehouse)))


# --- review workbooks


def review_paths(
    warehouse: Warehouse, drop_zone: DropZone, files: Iterable[DroppedFile], limits: WorkbookLimits
) -> list[str]:
    """Which of the files in the folder are review workbooks come back: by the ledger, else by looking at them."""
    from crm_assets.logic.mended import is_review_workbook

    known = _known_statuses(warehouse)
    found = []
    for file in files:
        status, signature = known.get(file.path, ("", None))
        if signature != file.signature:
            try:
                with drop_zone.local(file.path) as path:
                    status = REVIEW if is_review_workbook(path, limits) else ""
            except FileNotFoundError:
                continue
            except OSError:  # what there is to say of it, landing says
                status = ""
        if status == REVIEW:
            found.append(file.path)
    return found


def unknown_files(warehouse: Warehouse, files: Iterable[DroppedFile]) -> list[DroppedFile]:
    """The files that are not as the ledger has them: what they are, only their content tells."""
    known = _known_statuses(warehouse)
    return [file for file in files if known.get(file.path, ("", None))[1] != file.signature]


def noted_reviews(warehouse: Warehouse) -> dict[str, bool]:
    """path -> whether it has its receipt, of the review workbooks that the ledger has in the folder."""
    return dict(
        warehouse.rows(
            "select present.path, exists (select from review.receipts where file_id = known.file_id)"
            " from landing.files as present join raw.files as known using (path, sha256) where known.status = %s",
            [REVIEW],
        )
    )


def note_review(
    warehouse: Warehouse,
    drop_zone: DropZone,
    tenant: Tenant,
    source: SourceSpec,
    now: datetime,
    file: DroppedFile,
    sha256: str,
) -> None:
    """Enter a review workbook that was read into the ledger, as a landing would."""
    _Landing(warehouse, drop_zone, tenant, source, now, time.sleep).note_review(file, sha256)


def _known_statuses(warehouse: Warehouse) -> dict[str, tuple[str, str | None]]:
    """path -> status and signature of the files at the last look."""
    rows = warehouse.rows(
        "select present.path, known.status, present.signature"
        " from landing.files as present join raw.files as known using (path, sha256)"
    )
    return {path: (status, signature) for path, status, signature in rows}


# --- landing


def land(
    warehouse: Warehouse,
    drop_zone: DropZone,
    tenant: Tenant,
    source: SourceSpec,
    now: datetime,
    *,
    pause: Callable[[float], None] = time.sleep,
) -> LandingReport:
    """Bring the ledger and the raw tables up to the drop folder. Doing it twice changes nothing."""
    return _Landing(warehouse, drop_zone, tenant, source, now, pause).run()


def failures(warehouse: Warehouse) -> list[tuple[str, str, str]]:
    """(path, status, reason) of the files that still wait for a good one to replace them.

    Listed are those in the folder, and those gone from it without a successor: other content under that name,
    the same content in a better place, or a later file of the same dataset. A deleted file that nobody could
    recognise is owed nothing.
    """
    return warehouse.rows(
        """
        select path, status, reason from raw.files as failed
        where status = any(%s)
            and (
                deleted_at is null
                or status <> 'unrecognised' and not exists (
                    select from raw.files as newer
                    where newer.first_seen_at >= failed.first_seen_at
                        and (newer.path, newer.sha256) <> (failed.path, failed.sha256)
                        and (
                            (newer.path = failed.path and newer.status <> 'waiting')
                            or (newer.sha256 = failed.sha256 and newer.deleted_at is null)
                            or (newer.dataset = failed.dataset and newer.loaded_at > failed.first_seen_at)
                        )
                )
            )
        order by path collate "C"
        """,
        [list(FAILED)],
    )


@dataclass
class _Known:
    """A line of the ledger, as far as a landing needs it."""

    dataset: str | None
    status: str
    row_count: int | None
    mapping_quality: int | None
    unmapped_headers: list[str] | None
    last_date: date | None
    is_deleted: bool
    mapping_version: str | None = None  # <version of the dataset's description>.<version of the mapping applied>


class _Landing:
    """One landing under way."""

    def __init__(
        self,
        warehouse: Warehouse,
        drop_zone: DropZone,
        tenant: Tenant,
        source: SourceSpec,
        now: datetime,
        pause: Callable[[float], None],
    ) -> None:
        self.warehouse = warehouse
        self.zone = drop_zone
        self.rules = tenant.business_rules
        self.source = source.of_tenant(tenant)
        self.now = now
        self.pause = pause
        self.report = LandingReport()
        self._look_at_ledger()

    def _look_at_ledger(self) -> None:
        rows = self.warehouse.rows(
            "select path, sha256, dataset, status, row_count, mapping_quality, unmapped_headers, last_date,"
            " deleted_at is not null, mapping_version from raw.files where status <> 'waiting'"
            ' order by path collate "C"'
        )
        self.known = {(path, sha256): _Known(*rest) for path, sha256, *rest in rows}
        # Content -> the path it was loaded under.
        self.loaded = {sha256: path for (path, sha256), row in self.known.items() if row.status == "loaded"}

    def run(self) -> LandingReport:
        try:
            self.report.folder_missing = not self.zone.exists()
        except DropZoneError as error:  # a server that is down must not stop what needs no new file
            self.report.folder_missing, self.report.out_of_reach = True, str(error)
        if self.report.folder_missing:
            return self.report
        previous = {
            path: (signature, sha256)
            for path, signature, sha256 in self.warehouse.rows("select path, signature, sha256 from landing.files")
        }
        files, quiet = self._two_looks({path: signature for path, (signature, _) in previous.items()})
        hashes: dict[str, str] = {}
        for file in files:
            signature, sha256 = previous.get(file.path, (None, ""))
            try:
                if file.path not in quiet:
                    raise _ChangedError
                if signature != file.signature or not sha256:
                    sha256 = self.zone.sha256(file.path)
                outcome = self._take(file, sha256)
                hashes[file.path] = sha256
            except (_ChangedError, FileNotFoundError):
                self._waits(file)
                outcome = FileOutcome(file.path, None, "waiting", "is still being written")
            except OSError as error:
                # No content to speak of: the path and what the system says stand for it.
                reason = f"cannot be opened ({error.strerror}): check its permissions"
                hashes[file.path] = hashlib.sha256(f"{file.path}\0{error.errno}".encode()).hexdigest()
                outcome = self._fails(file, hashes[file.path], None, _FaultyError("unreadable", reason))
            self.report.outcomes.append(outcome)
        self._close(files, hashes)
        return self.report

    def _two_looks(self, signatures: Mapping[str, str | None]) -> tuple[list[DroppedFile], set[str]]:
        """The files, and the paths that nobody writes to. Only what is new and recent is worth a pause."""
        before = self.zone.list()
        rules = self.rules.landing
        is_recent = any(
            file.signature != signatures.get(file.path)
            # Another machine's clock says nothing about how long ago that was.
            and (self.zone.is_remote or (self.now - file.modified_at).total_seconds() < rules.settled_after_seconds)
            for file in before
        )
        if is_recent:
            self.pause(rules.settle_seconds)
        after = list(self.zone.list())
        return after, settled(before, after)

    # --- one file

    def _take(self, file: DroppedFile, sha256: str) -> FileOutcome:
        """Decide what a settled file is, and load it if its content is new."""
        from crm_assets.logic.landing import recognise

        known = self.known.get((file.path, sha256))
        if known is not None and known.status in LOADED:
            if (outcome := self._follow_mapping(file, sha256)) is not None:
                return outcome
            return FileOutcome(
                file.path, known.dataset, known.status, None, known.row_count, known.mapping_quality,
                known.unmapped_headers,
            )  # fmt: skip
        if (known is not None and known.status == REVIEW) or (known is None and self._is_review(file)):
            self.note_review(file, sha256)
            return FileOutcome(file.path, None, REVIEW)
        # What failed before is tried again: a new spelling in the tenant's file may have made it readable.
        recognition = recognise(file.path, self.source)
        dataset = recognition.dataset or self._own_dataset(file, known)
        if dataset is None:
            return self._fails(file, sha256, None, _FaultyError("unrecognised", recognition.reason or ""))
        if sha256 in self.loaded:
            return self._duplicates(file, sha256, self.loaded[sha256])
        try:
            return self._load(file, sha256, dataset)
        except _OvertakenError:
            self._look_at_ledger()
            return self._take(file, sha256)
        except _FaultyError as fault:
            return self._fails(file, sha256, dataset, fault)

    def _follow_mapping(self, file: DroppedFile, sha256: str) -> FileOutcome | None:
        """Read a loaded content again if the mapping that applies to it is not what it was read with.

        None: it is. A content that the present mapping cannot read keeps its rows, and says why.
        """
        from crm_assets.logic.landing import map_header
        from crm_assets.logic.mended import as_export, own_dataset
        from crm_assets.logic.reading import UnreadableError, open_table

        loaded = self.known.get((self.loaded.get(sha256, ""), sha256))
        if loaded is None or loaded.dataset is None:
            return None
        dataset = loaded.dataset
        described, applied = self.source.versions[dataset], (loaded.mapping_version or ".").partition(".")[2]
        if loaded.mapping_version == f"{described}.{applied}":
            return None
        try:
            with self.zone.local(file.path) as path:
                table = open_table(path, self.rules.landing.workbook)
                if own_dataset(table.header, self.source) == dataset:
                    table = as_export(table, self.source.datasets[dataset])
                mapping = map_header(table.header, self.source.datasets[dataset])
            if mapping.version != applied:
                # A description that comes to the same for this file is no reason to read it again.
                return self._load(file, sha256, dataset, replaces=loaded.mapping_version or "")
            reason = None
        except _OvertakenError:
            self._look_at_ledger()
            return self._take(file, sha256)
        except (_FaultyError, UnreadableError) as error:
            reason = f"keeps the rows it was loaded with: by the mapping of now it {error}"
        with self.warehouse.transaction() as connection:
            connection.execute(
                "update raw.files set mapping_version = %s, reason = %s where sha256 = %s and status = 'loaded'",
                [f"{described}.{applied}", reason, sha256],
            )
        if reason is None:
            return None
        return FileOutcome(file.path, dataset, "loaded", reason, loaded.row_count, loaded.mapping_quality)

    def _is_review(self, file: DroppedFile) -> bool:
        """Whether a content seen for the first time is a review workbook, wherever it lies."""
        from crm_assets.logic.mended import is_review_workbook

        if file.path.rpartition(".")[2].lower() not in self.source.extensions:
            return False
        with self.zone.local(file.path) as path:
            return is_review_workbook(path, self.rules.landing.workbook)

    def note_review(self, file: DroppedFile, sha256: str) -> None:
        """Enter a review workbook into the ledger, and among the files of the last look."""
        with self.warehouse.transaction() as connection:
            self._write(connection, file, sha256, None, REVIEW, self._order(file, sha256, None))
            connection.execute("delete from landing.files where path = %s", [file.path])
            self._write_present(connection, [(file, sha256, None)])

    def _own_dataset(self, file: DroppedFile, known: _Known | None) -> str | None:
        """The dataset of a workbook of ours that was mended and dropped where no path rule knows it."""
        from crm_assets.logic.mended import own_dataset
        from crm_assets.logic.reading import UnreadableError, open_table

        if known is not None:  # a content that was none of ours will never be
            return known.dataset
        if file.path.rpartition(".")[2].lower() not in self.source.extensions:
            return None
        with self.zone.local(file.path) as path:
            try:
                return own_dataset(open_table(path, self.rules.landing.workbook).header, self.source)
            except UnreadableError:
                return None  # what there is to say is that its path tells nothing

    def _load(self, file: DroppedFile, sha256: str, dataset: str, replaces: str | None = None) -> FileOutcome:
        """Read a file into its raw table: rows, mapping report and ledger in one transaction.

        `replaces`: the mapping version with which the content is loaded already; its rows give way, and it gets a new
        `file_no`, by which whatever was computed from them is known to be of old.
        """
        import psycopg
        from psycopg.types.json import Jsonb

        from crm_assets import tables
        from crm_assets.logic.landing import Profiler, RowMaker, date_in_name, map_header
        from crm_assets.logic.mapping_report import file_report, masked
        from crm_assets.logic.mended import as_export, own_dataset
        from crm_assets.logic.reading import UnreadableError, open_table
        from crm_assets.resources.warehouse import copy_blocks

        with self.zone.local(file.path) as path:
            try:
                table = open_table(path, self.rules.landing.workbook)
                if own := own_dataset(table.header, self.source):
                    dataset, table = own, as_export(table, self.source.datasets[own])
                mapping = map_header(table.header, self.source.datasets[dataset])
                about = {**_about_table(table, mapping), "dataset": dataset}
                version = f"{self.source.versions[dataset]}.{mapping.version}"
                if fault := mapping.fault(table.header_line):
                    raise _FaultyError("refused", fault, about)
                rows = RowMaker(mapping, sha256[:16], is_spreadsheet=table.format != "csv")
                pivot = self.rules.values.two_digit_year_pivot
                profiler = Profiler(
                    mapping,
                    self.source,
                    pivot,
                    is_spreadsheet=table.format != "csv",
                    has_dated_name=date_in_name(file.path, pivot) is not None,
                )
                target = tables.RAW_TABLES[dataset]
                with self.warehouse.transaction() as connection:
                    self._claim(connection, sha256, replaces)
                    if replaces is not None:
                        self._make_way(connection, file, sha256, dataset)
                    blocks = _csv_blocks(table, rows, profiler, self.rules.landing.key_bytes)
                    copy_blocks(connection, target, rows.columns, _ahead(blocks))
                    profile = profiler.finish(has_decimal_points=table.has_decimal_points)
                    if not profile.row_count:
                        reason = "has a header and no rows: export it again from iSaVigne"
                        if own:
                            reason = "is a workbook of ours with nothing filled in: fill it in and save it again"
                        raise _FaultyError("refused", reason, about)
                    if profile.plain_rows == 0 and not own:
                        reason = "has no row with as many values as the header: export it again from iSaVigne"
                        raise _FaultyError("refused", reason, about)
                    seen = self.zone.look(file.path)
                    if table.sha256 != sha256 or seen is None or seen.signature != file.signature:
                        raise _ChangedError
                    report = file_report(table, mapping, self.source, dataset, pivot, profile)
                    connection.execute(
                        "insert into raw.file_reports (file_id, report) values (%s, %s)"
                        " on conflict (file_id) do update set report = excluded.report",
                        [sha256[:16], Jsonb({"file": file.path, **report})],
                    )
                    # Lead to the new rows by the index at once, not when the database next cleans up.
                    connection.execute("select brin_summarize_new_values(%s)", [f"raw.{dataset}_place"])
                    self._write(
                        connection, file, sha256, dataset, "loaded",
                        # A mended file is as new as its last save, however old the sales it mends.
                        {**about, **_about_rows(profile), "mapping_version": version,
                         **self._order(file, sha256, None if own else profile.last_date)},
                    )  # fmt: skip
            except UnreadableError as error:
                raise _FaultyError("unreadable", str(error)) from error
            except psycopg.DataError as error:
                # Its message would quote the value.
                reason = f"holds a value that the database cannot keep (SQLSTATE {error.sqlstate}): export it again"
                raise _FaultyError("refused", reason, about) from error
        self.loaded[sha256] = file.path
        self.report.loaded_rows[dataset] += profile.row_count
        shown = self.report.mapping_reports.setdefault(dataset, {})
        if len(shown) < MAX_REPORTS:
            shown[file.path] = masked({"file": file.path, **report})
        self.known[file.path, sha256] = _Known(
            dataset,
            "loaded",
            profile.row_count,
            mapping.quality,
            mapping.unmapped_headers,
            profile.last_date,
            False,
            version,
        )
        return FileOutcome(
            file.path,
            dataset,
            "loaded",
            READ_AGAIN if replaces is not None else None,
            profile.row_count,
            mapping.quality,
            mapping.unmapped_headers,
            True,
        )

    @staticmethod
    def _claim(connection: psycopg.Connection, sha256: str, replaces: str | None) -> None:
        """Hold off other landings of this estate until the transaction's end; _OvertakenError when one was faster.

        This is what keeps a content from being loaded twice: the raw tables themselves would let it happen.
        `replaces`: the mapping version it is known to be loaded with, None when it is not.
        """
        connection.execute("select pg_advisory_xact_lock(hashtext('crm landing'))")
        found = connection.execute(
            "select coalesce(mapping_version, '') from raw.files where sha256 = %s and status = 'loaded'", [sha256]
        ).fetchone()
        if (found[0] if found else None) != replaces:
            raise _OvertakenError

    def _make_way(self, connection: psycopg.Connection, file: DroppedFile, sha256: str, dataset: str) -> None:
        """Remove the rows of a content that is about to be read again, from the file that is at hand."""
        from psycopg import sql

        table = sql.Identifier("raw", dataset)
        connection.execute(sql.SQL("delete from {} where file_id = %s").format(table), [sha256[:16]])
        if self.loaded[sha256] != file.path:  # the file that it was loaded from is gone
            connection.execute(
                "update raw.files set status = 'duplicate', loaded_at = null, reason = %s"
                " where path = %s and sha256 = %s",
                [f"has the content of {file.path}, which is loaded", self.loaded[sha256], sha256],
            )
            self.known[self.loaded[sha256], sha256].status = "duplicate"

    def _duplicates(self, file: DroppedFile, sha256: str, original: str) -> FileOutcome:
        loaded = self.known[original, sha256]
        reason = f"has the content of {original}, which is loaded"
        with self.warehouse.transaction() as connection:
            order = self._order(file, sha256, loaded.last_date)
            about = {**order, "reason": reason, "row_count": loaded.row_count}
            self._write(connection, file, sha256, loaded.dataset, "duplicate", about)
        return FileOutcome(file.path, loaded.dataset, "duplicate", reason, loaded.row_count)

    def _fails(self, file: DroppedFile, sha256: str, dataset: str | None, fault: _FaultyError) -> FileOutcome:
        dataset = fault.known.get("dataset", dataset)  # what the content says goes before the path
        with self.warehouse.transaction() as connection:
            about = {**fault.known, **self._order(file, sha256, None), "reason": fault.reason}
            self._write(connection, file, sha256, dataset, fault.status, about)
        quality = fault.known.get("mapping_quality")
        return FileOutcome(file.path, dataset, fault.status, fault.reason, None, quality)

    def _waits(self, file: DroppedFile) -> None:
        with self.warehouse.transaction() as connection:
            self._write(connection, file, "", None, "waiting", {"reason": "is still being written"})

    def _order(self, file: DroppedFile, sha256: str, newest_inside: date | None) -> dict[str, Any]:
        """The file's place in the file order of spec.md §2."""
        from crm_assets.logic.landing import date_in_name, order_key

        day = date_in_name(file.path, self.rules.values.two_digit_year_pivot) or newest_inside
        return {"file_date": day, "order_key": order_key(day, file.modified_at, sha256)}

    def _write(
        self,
        connection: psycopg.Connection,
        file: DroppedFile,
        sha256: str,
        dataset: str | None,
        status: str,
        about: Mapping[str, Any],
    ) -> None:
        """Write a file's line of the ledger anew; only the time of its first sight stays."""
        from psycopg import sql

        values = {
            "path": file.path,
            "sha256": sha256,
            "file_id": sha256[:16],
            "dataset": dataset,
            "status": status,
            "size_bytes": file.size_bytes,
            "modified_at": file.modified_at,
            "loaded_at": self.now if status == "loaded" else None,
            "first_seen_at": self.now,
            **about,
        }
        first_seen = connection.execute(
            "delete from raw.files where path = %s and sha256 = %s returning first_seen_at",
            [file.path, sha256],
        ).fetchone()
        if first_seen:
            values["first_seen_at"] = first_seen[0]
        connection.execute(
            sql.SQL("insert into raw.files ({}) values ({})").format(
                sql.SQL(", ").join(map(sql.Identifier, values)),
                sql.SQL(", ").join(map(sql.Placeholder, values)),
            ),
            values,
        )

    # --- the folder as a whole

    def _close(self, files: list[DroppedFile], hashes: Mapping[str, str]) -> None:
        """Note what is gone and what is back, and remember the folder as it was seen."""
        waiting = [file.path for file in files if file.path not in hashes]
        present = list(hashes.items())
        paths, shas = [path for path, _ in present], [sha256 for _, sha256 in present]
        datasets = {outcome.path: outcome.dataset for outcome in self.report.outcomes}
        with self.warehouse.transaction() as connection:
            connection.execute("delete from raw.files where status = 'waiting' and path <> all(%s)", [waiting])
            gone = connection.execute(
                """
                update raw.files set deleted_at = %s
                where deleted_at is null and path <> all(%s)
                    and (path, sha256) not in (select * from unnest(%s::text[], %s::text[]))
                returning path
                """,
                [self.now, waiting, paths, shas],
            ).fetchall()
            connection.execute(
                """
                update raw.files set deleted_at = null
                where deleted_at is not null
                    and (path, sha256) in (select * from unnest(%s::text[], %s::text[]))
                """,
                [paths, shas],
            )
            # One content under several names has one place: the newest of them, whichever came first.
            connection.execute(
                """
                update raw.files as copy set order_key = newest.order_key, file_date = newest.file_date
                from (
                    select distinct on (sha256) sha256, order_key, file_date from raw.files
                    where status = any(%s) order by sha256, order_key collate "C" desc
                ) as newest
                where copy.sha256 = newest.sha256 and copy.status = any(%s)
                    and copy.order_key is distinct from newest.order_key
                """,
                [list(LOADED), list(LOADED)],
            )
            connection.execute("delete from landing.files")
            self._write_present(connection, [(file, hashes.get(file.path, ""), datasets[file.path]) for file in files])
        self.report.deleted = sorted(path for (path,) in gone)

    @staticmethod
    def _write_present(connection: psycopg.Connection, files: list[tuple[DroppedFile, str, str | None]]) -> None:
        """Remember files as they were seen: (file, its hash or '', its dataset)."""
        connection.cursor().executemany(
            "insert into landing.files (path, sha256, size_bytes, modified_at, dataset, signature)"
            " values (%s, %s, %s, %s, %s, %s)",
            [
                (
                    file.path,
                    sha256,
                    file.size_bytes,
                    file.modified_at,
                    dataset,
                    file.signature if sha256 and not file.is_fresh else None,
                )
                for file, sha256, dataset in files
            ],
        )


def _ahead(blocks: Iterator[memoryview], depth: int = 2) -> Iterator[memoryview]:
    """The same blocks, the next ones made in a thread of their own while the database takes the one before."""
    with ThreadPoolExecutor(1, "landing") as worker:
        coming = deque(worker.submit(next, blocks, None) for _ in range(depth))
        while (block := coming.popleft().result()) is not None:
            coming.append(worker.submit(next, blocks, None))
            yield block


def _csv_blocks(table: TableFile, rows: RowMaker, profiler: Profiler, key_bytes: int) -> Iterator[memoryview]:
    """The rows' filled columns as CSV for COPY: text quoted, null bare."""
    import pyarrow as pa
    import pyarrow.csv as pa_csv

    from crm_assets.logic.landing import without_overlong_keys

    options = pa_csv.WriteOptions(include_header=False, quoting_style="all_valid")
    columns = rows.columns
    for whole in table.batches():
        batch = without_overlong_keys(whole, rows.mapping, key_bytes)
        fields = rows.fields(batch)
        profiler.add(batch, fields)
        sink = pa.BufferOutputStream()
        pa_csv.write_csv(rows.table(batch, fields).select(columns), sink, options)
        yield memoryview(sink.getvalue())


def _about_table(table: TableFile, mapping: HeaderMapping) -> dict[str, Any]:
    """What the ledger keeps of how a file was read. Where no header is known, they may be personal data."""
    from psycopg.types.json import Jsonb

    return {
        "format": table.format,
        "encoding": table.encoding,
        "delimiter": table.delimiter,
        "mapping": Jsonb(mapping.fields_by_header),
        "unmapped_headers": mapping.unmapped_headers if mapping.columns else [],
        "missing_fields": mapping.missing_fields,
        "mapping_quality": mapping.quality,
    }


def _about_rows(profile: FileProfile) -> dict[str, Any]:
    """What the ledger keeps of a file's values."""
    from psycopg.types.json import Jsonb

    return {
        "row_count": profile.row_count,
        "decimal_separator": profile.decimal_separator,
        "date_order": profile.date_order,
        "first_date": profile.first_date,
        "last_date": profile.last_date,
        "anomalies": Jsonb(profile.anomalies),
        "anomaly_examples": Jsonb(profile.examples),
    }
