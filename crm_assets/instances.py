"""Which instance may send live: bound to one machine, one CRM_HOME and one database, and to how far each of them has
come (spec.md §7, "Safe by default").

A restore or a copy forgets what was sent after the dump; sending on from it would write to people twice. So database
and CRM_HOME hold the same instance id and a mark that grows with every live call, in the database before the call, in
CRM_HOME after that commit and still before the call. A database behind its CRM_HOME, or anything that is not where it
was, is disarmed, until `rearm` has read back from Brevo what the ledger does not know, and a named person has asked for
it. What else must hold before a send is in `safeguards.py`.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg

from crm_assets.logic.activation import RefusalError
from crm_assets.logic.events import TEST
from crm_assets.resources.warehouse import Warehouse
from crm_assets.settings import Settings

DISARMED = "DISARMED"
_MACHINE_IDS = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))
_PARTS = {
    "machine": "another machine",
    "home": "another CRM_HOME",
    "server": "another PostgreSQL server",
    "database": "another database (restored or copied)",
}
# Live calls that wrote to people; a dry run, or a contact handed over, binds nothing.
_LIVE_ATTEMPTS = "select exists (select 1 from activation.attempts where not is_dry_run and campaign is not null)"


@dataclass(frozen=True)
class Kept:
    """What CRM_HOME knows of the instance: instances/<slug>.json. `kept_at`: right before the last live call."""

    instance_id: str
    mark: int
    identity: dict[str, str]
    kept_at: datetime


@dataclass(frozen=True)
class Bound:
    """What the tenant's database knows of it: the row of activation.instances."""

    instance_id: str
    mark: int
    identity: dict[str, str]
    armed_by: str
    armed_at: datetime


def file_of(config: Settings, slug: str) -> Path:
    """Where CRM_HOME keeps its half."""
    return config.home / "instances" / f"{slug}.json"


def kept(config: Settings, slug: str) -> Kept | None:
    """CRM_HOME's half; None when there is none, or none that can be read."""
    try:
        said = json.loads(file_of(config, slug).read_text("utf-8"))
        return Kept(said["instance_id"], int(said["mark"]), said["identity"], datetime.fromisoformat(said["kept_at"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def bound(connection: psycopg.Connection) -> Bound | None:
    """The database's half; None when there is none."""
    found = connection.execute(
        "select instance_id, mark, coalesce(identity, '{}'::jsonb), armed_by, armed_at from activation.instances"
    ).fetchone()
    return Bound(*found) if found else None


def identity(connection: psycopg.Connection, config: Settings) -> dict[str, str]:
    """Machine, CRM_HOME, server and database as they are now: name of the part -> hash, or `unknown`.

    In a container a machine has no id of its own, or its image's; and some providers let nobody ask for the server's.
    """
    machine = next((text for path in _MACHINE_IDS if (text := _text_of(path))), None)
    server = None
    asked = connection.execute("select has_function_privilege('pg_control_system()', 'execute')").fetchone()
    if asked and asked[0]:
        found = connection.execute("select system_identifier::text from pg_control_system()").fetchone()
        server = found[0] if found else None
    database = connection.execute("select oid::text from pg_database where datname = current_database()").fetchone()
    known = {
        "machine": machine,
        "home": os.fspath(config.home.resolve()),
        "server": server,
        "database": database[0] if database else None,
    }
    return {name: _hash(value) if value else "unknown" for name, value in known.items()}


def _text_of(path: Path) -> str:
    try:
        return path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def why_disarmed(connection: psycopg.Connection, config: Settings, slug: str) -> str | None:
    """What is wrong with the binding, as a sentence; None when live sending is armed, or nothing was ever sent live."""
    row, file, here = bound(connection), kept(config, slug), identity(connection, config)
    behind = _unknown_to_the_ledger(connection, slug)
    if behind:
        return f"Brevo's log has {behind} calls of ours that the ledger does not know: it is older than what was sent"
    if row is None and file is None:
        if _one(connection, _LIVE_ATTEMPTS):
            return "something was sent live before, and neither the database nor CRM_HOME says by which instance"
        return None
    if row is None or file is None:
        half, missing = (row, "CRM_HOME") if row else (file, "the database")
        assert half is not None
        if half.mark == 0 and half.identity == here and not _one(connection, _LIVE_ATTEMPTS):
            return None  # bound, and killed before the other half was written; nothing has been sent since
        return f"{missing} has lost the id of the instance that sent live before"
    if row.instance_id != file.instance_id:
        return "the database and CRM_HOME are of two different instances"
    moved = [said for part, said in _PARTS.items() if {row.identity.get(part), file.identity.get(part)} != {here[part]}]
    if moved:
        return f"since it was armed, this is {' and '.join(moved)}"
    if row.mark < file.mark:
        return f"the database has been restored: it knows of {row.mark} live calls, CRM_HOME of {file.mark}"
    return None


def _unknown_to_the_ledger(connection: psycopg.Connection, slug: str) -> int:
    """How many of our chunks Brevo's events name that are not in the ledger: a rollback of the whole machine leaves
    no other trace.
    """
    found = connection.execute(
        "select count(distinct tag) from outcomes.events as events"
        " where campaign is not null and occurrence <> %s and starts_with(tag, %s)"
        " and not exists (select 1 from activation.chunks as chunks where chunks.tag = events.tag)",
        [TEST, f"{slug}-"],  # a test send has no chunk
    ).fetchone()
    return int(found[0]) if found else 0


def _one(connection: psycopg.Connection, statement: str) -> bool:
    found = connection.execute(statement.encode()).fetchone()
    return bool(found and found[0])


def require_armed(warehouse: Warehouse, config: Settings, slug: str) -> None:
    """RefusalError DISARMED unless this database, this CRM_HOME and this machine are those that sent before.

    The first live use ever binds itself.
    """
    with warehouse.transaction() as connection:
        problem = why_disarmed(connection, config, slug)
        if problem is not None:
            raise disarmed(slug, problem)
        if bound(connection) is not None and kept(config, slug) is not None:
            return
        binding = bind(connection, config, "first live use", datetime.now(UTC), mark=0)
    write(config, slug, binding)


def disarmed(slug: str, problem: str) -> RefusalError:
    """The refusal that says what happened and what to do."""
    return RefusalError(
        DISARMED,
        f"live sending is disarmed: {problem}. Make sure that no other copy of this estate sends, then read back from"
        f" Brevo what was sent since: crm activation rearm --tenant {slug} --by NAME",
    )


def bind(connection: psycopg.Connection, config: Settings, by: str, now: datetime, *, mark: int) -> Kept:
    """Write a new instance id into the database; what CRM_HOME has to keep of it once that is committed."""
    fresh = Kept(secrets.token_hex(16), mark, identity(connection, config), now)
    connection.execute("delete from activation.instances")
    connection.execute(
        "insert into activation.instances (is_the_one, instance_id, mark, armed_by, armed_at, identity)"
        " values (true, %s, %s, %s, %s, %s)",
        [fresh.instance_id, mark, by, now, json.dumps(fresh.identity)],
    )
    return fresh


def advance(connection: psycopg.Connection) -> int:
    """Move the mark on for a live call that is about to be made, in the transaction that freezes it; the new mark."""
    found = connection.execute("update activation.instances set mark = mark + 1 returning mark").fetchone()
    if found is None:
        raise RefusalError(DISARMED, "live sending is disarmed: no instance is bound to this database")
    return int(found[0])


def keep(config: Settings, slug: str, mark: int, now: datetime | None = None) -> None:
    """Write the mark into CRM_HOME: after the commit of `advance`, before the call. `now`: by the sender's clock.

    RefusalError when CRM_HOME is not behind it: then another database sends with this CRM_HOME, or the file is gone.
    """
    file = kept(config, slug)
    if file is None:
        raise disarmed(slug, "CRM_HOME has lost the id of the instance while it was sending")
    if file.mark >= mark:
        raise disarmed(slug, "another database has sent with this CRM_HOME meanwhile")
    write(config, slug, Kept(file.instance_id, mark, file.identity, now or datetime.now(UTC)))


def write(config: Settings, slug: str, what: Kept) -> None:
    """The file is there whole and on the disk, or as it was."""
    path = file_of(config, slug)
    path.parent.mkdir(parents=True, exist_ok=True)
    said: dict[str, Any] = {
        "instance_id": what.instance_id,
        "mark": what.mark,
        "identity": what.identity,
        "kept_at": what.kept_at.isoformat(),
    }
    scratch = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as sink:
            json.dump(said, sink)
            sink.flush()
            os.fsync(sink.fileno())
        scratch.replace(path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
