"""The control database: what the sensors have seen, and which alerts are open. One connection for all tenants.

No personal data: slugs, file names, run ids and causes only.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

import psycopg
from psycopg.rows import class_row

from crm_assets import databases
from crm_assets.settings import Settings, settings

log = logging.getLogger("crm.alerts")


@dataclass(frozen=True)
class Drop:
    """What is known of a tenant's drop folder: its last look, and which state was asked for and has landed."""

    tenant: str
    looked_fingerprint: str | None = None
    requested_fingerprint: str | None = None
    landed_fingerprint: str | None = None
    request_no: int = 0
    tries: int = 0
    requested_at: datetime | None = None
    exports_fingerprint: str | None = None  # of what has landed, the review workbooks aside


@dataclass(frozen=True)
class Alert:
    """A cause of trouble, open until it is gone."""

    tenant: str
    cause: str
    message: str
    occurrences: int
    opened_at: datetime
    last_seen_at: datetime
    recovered_at: datetime | None


def fingerprint(signatures: Mapping[str, str]) -> str:
    """One hash for the state of a folder: path -> signature of the file."""
    text = "\n".join(f"{path}\0{signatures[path]}" for path in sorted(signatures))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Control:
    """The control database, opened for a few statements at a time."""

    def __init__(self, config: Settings | None = None) -> None:
        self.config = config or settings()
        self.url = databases.ensure_control(databases.cluster(self.config))
        self._held: psycopg.Connection | None = None

    @contextmanager
    def session(self) -> Iterator[Control]:
        """One connection for all statements of the block; each is committed by itself."""
        with psycopg.connect(self.url, application_name="crm-control", autocommit=True) as self._held:
            try:
                yield self
            finally:
                self._held = None

    @contextmanager
    def _connect(self) -> Iterator[psycopg.Connection]:
        """A connection and a transaction, in the session's connection where there is one."""
        if self._held is not None:
            with self._held.transaction():
                yield self._held
            return
        with psycopg.connect(self.url, application_name="crm-control") as connection:
            yield connection

    def drops(self) -> dict[str, Drop]:
        """The drop folders' states by tenant."""
        with self._connect() as connection, connection.cursor(row_factory=class_row(Drop)) as cursor:
            return {drop.tenant: drop for drop in cursor.execute("select * from watch.drops")}

    def looked(self, looks: Mapping[str, str]) -> None:
        """Remember the state (fingerprint) in which each tenant's folder was just seen."""
        if not looks:
            return
        with self._connect() as connection:
            connection.cursor().executemany(
                "insert into watch.drops (tenant, looked_fingerprint) values (%s, %s)"
                " on conflict (tenant) do update set looked_fingerprint = excluded.looked_fingerprint",
                list(looks.items()),
            )

    def requested(self, tenant: str, state: str, now: datetime) -> int:
        """Remember that a run was asked for this state; the request's number, which never repeats."""
        with self._connect() as connection:
            row = connection.execute(
                "update watch.drops set request_no = request_no + 1, requested_at = %(now)s,"
                " tries = case when requested_fingerprint = %(state)s then tries + 1 else 1 end,"
                " requested_fingerprint = %(state)s where tenant = %(tenant)s returning request_no",
                {"now": now, "state": state, "tenant": tenant},
            ).fetchone()
        assert row is not None, "a folder is looked at before anything is asked for it"
        return int(row[0])

    def landed(self, tenant: str, state: str, exports: str | None = None) -> None:
        """Remember that the folder has landed in this state, whatever started the run.

        `exports`: the same of all files but the review workbooks, where that is known.
        """
        with self._connect() as connection:
            connection.execute(
                "insert into watch.drops (tenant, looked_fingerprint, landed_fingerprint, exports_fingerprint)"
                " values (%(t)s, %(s)s, %(s)s, %(e)s)"
                " on conflict (tenant) do update set landed_fingerprint = excluded.landed_fingerprint,"
                " exports_fingerprint = excluded.exports_fingerprint",
                {"t": tenant, "s": state, "e": exports},
            )

    def forget_requests(self) -> None:
        """At a start: what was asked for and has not landed was lost with whatever ran it, and is due again."""
        with self._connect() as connection:
            connection.execute(
                "update watch.drops set requested_fingerprint = null, tries = 0"
                " where requested_fingerprint is distinct from landed_fingerprint"
            )

    # --- alerts: once per cause, with a recovery notice

    def raise_alert(self, tenant: str, cause: str, message: str, now: datetime) -> bool:
        """Open an alert, or count one more occurrence of an open one; True when it was new."""
        with self._connect() as connection:
            row = connection.execute(
                "insert into alerts.causes as open (tenant, cause, message, occurrences, opened_at, last_seen_at)"
                " values (%(tenant)s, %(cause)s, %(message)s, 1, %(now)s, %(now)s)"
                " on conflict (tenant, cause) do update set message = excluded.message, last_seen_at = %(now)s,"
                " occurrences = case when open.recovered_at is null then open.occurrences + 1 else 1 end,"
                " opened_at = case when open.recovered_at is null then open.opened_at else %(now)s end,"
                " recovered_at = null returning occurrences",
                {"tenant": tenant, "cause": cause, "message": message, "now": now},
            ).fetchone()
        is_new = row is not None and row[0] == 1
        if is_new:
            self._notify("alert", tenant, cause, message, now)
        return is_new

    def recover(self, tenant: str, prefix: str, now: datetime, still_open: Iterable[str] = ()) -> list[str]:
        """Close the open alerts whose cause starts with `prefix`, but for those named; the closed causes."""
        with self._connect() as connection:
            rows = connection.execute(
                "update alerts.causes set recovered_at = %(now)s where tenant = %(tenant)s and recovered_at is null"
                " and starts_with(cause, %(prefix)s) and cause <> all(%(open)s) returning cause, message",
                {"now": now, "tenant": tenant, "prefix": prefix, "open": list(still_open)},
            ).fetchall()
        for cause, message in rows:
            self._notify("recovered", tenant, cause, message, now)
        return [cause for cause, _ in rows]

    def open_alerts(self, tenant: str | None = None) -> list[Alert]:
        """The alerts whose cause is not gone, oldest first."""
        with self._connect() as connection, connection.cursor(row_factory=class_row(Alert)) as cursor:
            return cursor.execute(
                "select * from alerts.causes where recovered_at is null and (%(t)s::text is null or tenant = %(t)s)"
                " order by opened_at, tenant, cause",
                {"t": tenant},
            ).fetchall()

    def _notify(self, kind: str, tenant: str, cause: str, message: str, now: datetime) -> None:
        """Write the notice where operators look: the log, and one JSON line per notice in CRM_HOME/alerts.jsonl."""
        log.warning("%s: %s: %s: %s", kind, tenant, cause, message)
        line = {"at": now.isoformat(), "kind": kind, "tenant": tenant, "cause": cause, "message": message}
        self.config.home.mkdir(parents=True, exist_ok=True)
        with (self.config.home / "alerts.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def is_due(drop: Drop, state: str, now: datetime, retry_after: timedelta, max_tries: int) -> bool:
    """Whether a settled folder in `state` should get a run now: it is new, or its last try did not land."""
    if drop.landed_fingerprint == state:
        return False
    if drop.requested_fingerprint != state:
        return True
    waited = drop.requested_at is None or now - drop.requested_at >= retry_after * max(1, drop.tries)
    return waited and drop.tries < max_tries
