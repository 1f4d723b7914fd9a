"""Arming live sending again after a restore, a copy or a move: what Brevo knows and the ledger does not is read back
first (spec.md §7, "Safe by default").

Brevo's log names every message that it has taken, by tag and address. Those that the ledger lacks are written into it
as sent, so that neither a resumed send nor a new plan writes to anybody twice; refusals and blocks come with the feeds
of `feedback.py`. Only if all of it could be read is the instance armed, by a named person. What disarms is in
`instances.py`. Nothing is sent here.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from typing import Any

import pandas as pd
import psycopg
from psycopg import sql

from crm_assets import feedback, instances, tables
from crm_assets.clock import Clock
from crm_assets.logic import events
from crm_assets.logic.activation import RESTORED, RefusalError, short_hash
from crm_assets.operations import Estate, named
from crm_assets.resources.brevo import Brevo, BrevoUnavailableError
from crm_assets.resources.warehouse import copy_frame

UNKNOWN_CUSTOMER = "unknown"  # of such a message, where no customer has the address any more
_REQUESTS = "requests"  # statistics vocabulary: Brevo has taken the message
_LOG_DAYS = 90  # read back at least: the furthest that Brevo answers for at once
_LOG_ROWS_AT_ONCE = 50_000
# The newest sign of life in the database as it was dumped.
_NEWEST = """
select greatest(
    (select max(greatest(planned_at, sent_at)) from activation.messages),
    (select max(frozen_at) from activation.chunks),
    (select max(started_at) from activation.attempts where not is_dry_run),
    (select max(occurred_at) from outcomes.events)
)
"""


@dataclass(frozen=True)
class Rearming:
    """What reading back brought. `n_log`: messages of ours in Brevo's log; `marked_sent` of them were in the ledger
    otherwise, `added` not at all; `customers_unknown` of these belong to nobody known.
    """

    tenant: str
    cause: str
    read_from: date
    n_log: int
    marked_sent: int
    added: int
    customers_unknown: int
    armed_by: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def rearm(estate: Estate, client: Brevo, clock: Clock, *, by: str) -> Rearming:
    """Read back, write into the ledger what it lacks, and arm this machine, CRM_HOME and database in `by`'s name.

    RefusalError: TOO_EARLY while Brevo's log may still lack the last calls, BREVO_UNREADABLE when anything of it could
    not be read; live sending then stays disarmed. Done again, it changes nothing but who armed it.
    """
    who, now, slug = named(by), clock.now(), estate.tenant.slug
    with estate.warehouse.transaction() as connection:
        cause = instances.why_disarmed(connection, estate.config, slug) or "it was armed, and asked for all the same"
        arming = uuid.uuid4().hex
        connection.execute(
            "insert into activation.armings (arming_id, asked_by, asked_at, cause) values (%s, %s, %s, %s)",
            [arming, who, now, cause],
        )
        last_call = _last_call(connection, estate, now)
        read_from = _read_from(connection, estate, now)
    _require_settled_log(estate, last_call, now)
    try:
        pulled = feedback.pull(
            estate.warehouse, estate.tenant, client, estate.rules, clock, feeds=feedback.REFUSALS
        ).problems
        if pulled:
            raise BrevoUnavailableError("unreadable", "; ".join(f"{feed}: {why}" for feed, why in pulled.items()))
        log = _log(estate, client, read_from, now)
    except BrevoUnavailableError as error:
        raise RefusalError(
            "BREVO_UNREADABLE", f"live sending stays disarmed: not all could be read back from Brevo: {error}"
        ) from None
    with estate.warehouse.transaction() as connection:
        _require_own_account(connection, log, read_from)
        marked, added, strangers = _rebuild(connection, slug, log, clock.now())
        row, file = instances.bound(connection), instances.kept(estate.config, slug)
        mark = max(row.mark if row else 0, file.mark if file else 0) + 1
        binding = instances.bind(connection, estate.config, who, clock.now(), mark=mark)
        connection.execute(
            "update activation.armings set read_from = %s, n_log = %s, n_marked_sent = %s, n_added = %s, armed_at = %s"
            " where arming_id = %s",
            [read_from, len(log), marked, added, clock.now(), arming],
        )
    # No call is made by arming: the last one stays the last.
    instances.write(estate.config, slug, replace(binding, kept_at=last_call))
    return Rearming(slug, cause, read_from, len(log), marked, added, strangers, who)


def _last_call(connection: psycopg.Connection, estate: Estate, now: datetime) -> datetime:
    """When the last call can have been made at the latest: CRM_HOME knows; without it, when somebody first asked."""
    file = instances.kept(estate.config, estate.tenant.slug)
    if file is not None:
        return min(file.kept_at, now)
    asked = connection.execute(
        "select min(asked_at) from activation.armings"
        " where asked_at > coalesce((select max(armed_at) from activation.armings), '-infinity')"
    ).fetchone()
    return asked[0] if asked and asked[0] else now


def _require_settled_log(estate: Estate, last_call: datetime, now: datetime) -> None:
    """RefusalError while the log may lag behind the last call (spec.md §7, settling)."""
    complete = last_call + timedelta(minutes=estate.rules.activation.settling.absent_minutes)
    if now < complete:
        raise RefusalError(
            "TOO_EARLY",
            "Brevo's log may not show the last calls yet; live sending stays disarmed. Ask again from"
            f" {complete.astimezone(estate.tenant.zone):%Y-%m-%d %H:%M} ({estate.tenant.timezone}) on",
        )


def _require_own_account(connection: psycopg.Connection, log: pd.DataFrame, read_from: date) -> None:
    """RefusalError unless the log names the newest call that the ledger has as taken: that of another account would
    give back nothing, and what the ledger lacks would leave again.
    """
    newest = connection.execute(
        "select tag from activation.attempts where outcome = 'accepted' and reason = 'ok' and campaign is not null"
        " and not is_dry_run and started_at >= %s order by started_at desc limit 1",
        [read_from],
    ).fetchone()
    if newest is not None and newest[0] not in set(log["tag"]):
        raise RefusalError(
            "OTHER_ACCOUNT",
            f"live sending stays disarmed: Brevo's log does not name call {newest[0]}, which the ledger has as taken."
            " Look whether the key is of the account that sent before, and try again",
        )


def _read_from(connection: psycopg.Connection, estate: Estate, now: datetime) -> date:
    """From where on the log is read: well before the newest thing that the database knows, and 90 days in any case."""
    rules = estate.rules.activation
    found = connection.execute(_NEWEST.encode()).fetchone()
    newest = min(found[0], now) if found and found[0] else now
    known = newest - timedelta(days=rules.plan_expires_days + rules.settling.log_days)
    return min(known, now - timedelta(days=_LOG_DAYS)).astimezone(UTC).date()


def _log(estate: Estate, client: Brevo, first: date, now: datetime) -> pd.DataFrame:
    """The messages of ours in Brevo's log: address, tag, campaign, occurrence, step, occurred_at; each once."""

    def parts() -> Iterator[pd.DataFrame]:
        for start, end in feedback.windows(first, now.astimezone(UTC).date()):
            entries = client.events(start, end, event=_REQUESTS)
            while part := list(islice(entries, _LOG_ROWS_AT_ONCE)):
                heard = events.understood(events.said_in_log(part), estate.tenant.slug).rows
                yield heard[(heard["event"] == events.SENT) & heard["occurrence"].notna()]

    columns = ["address", "tag", "campaign", "occurrence", "step", "occurred_at"]
    found = list(parts())
    frame = pd.concat(found, ignore_index=True)[columns] if found else pd.DataFrame(columns=columns)
    key = ["campaign", "occurrence", "step", "address"]
    return frame.sort_values("occurred_at", kind="stable").drop_duplicates(key, ignore_index=True)


def _rebuild(connection: psycopg.Connection, slug: str, log: pd.DataFrame, now: datetime) -> tuple[int, int, int]:
    """Write what the log names into the ledger as sent: messages marked, messages added, of these without a customer.

    The unique key of messages then guards each of them, and the rows count as contacts. A tag that the ledger lacks
    gets its chunk, so that nothing of ours at Brevo stays unknown to it.
    """
    if log.empty:
        return 0, 0, 0
    identities = log[["campaign", "occurrence", "step", "address"]].astype("object").itertuples(index=False)
    rows = log.rename(columns={"occurred_at": "sent_at"}).assign(
        message_id=[short_hash(slug, *identity) for identity in identities],
        customer_id=UNKNOWN_CUSTOMER,
        run_id=RESTORED,
        scenario=RESTORED,
        wine_ids=pd.Series([[] for _ in log.index], index=log.index, dtype="object"),
        product_keys=pd.Series([[] for _ in log.index], index=log.index, dtype="object"),
        params='{"items": []}',
        status="sent",
        planned_at=log["occurred_at"],
        reason=RESTORED.upper(),
    )
    connection.execute("create temp table logged (like activation.messages) on commit drop")
    copy_frame(connection, tables.messages, rows, into=sql.Identifier("logged"))
    known = connection.execute("select to_regclass('audit.customer_facts') is not null").fetchone()
    if known and known[0]:
        connection.execute(
            "update logged set customer_id = facts.customer_id from audit.customer_facts as facts"
            " where lower(trim(facts.email)) = logged.address and facts.is_email_contact"
        )
    marked = connection.execute(
        "update activation.messages as messages set status = 'sent', sent_at = logged.sent_at, tag = logged.tag,"
        " reason = logged.reason from logged"
        " where (messages.campaign, messages.occurrence, messages.step, messages.address)"
        " = (logged.campaign, logged.occurrence, logged.step, logged.address) and messages.status <> 'sent'"
    ).rowcount
    added = connection.execute(
        "insert into activation.messages select logged.* from logged on conflict do nothing returning customer_id"
    ).fetchall()
    connection.execute(
        "insert into activation.chunks (tag, campaign, occurrence, step, idempotency_key, request_hash, n_messages,"
        " n_bytes, status, frozen_at, first_tried_at, settled_at, settled_by)"
        " select tag, campaign, occurrence, step, '', '', count(*), 0, 'accepted', min(sent_at), min(sent_at), %s,"
        " 'log' from logged group by tag, campaign, occurrence, step on conflict (tag) do nothing",
        [now],
    )
    return marked, len(added), sum(customer == UNKNOWN_CUSTOMER for (customer,) in added)
