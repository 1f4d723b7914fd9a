"""What became of calls whose answer was lost: Brevo's log decides, nothing else does (spec.md §7).

A call may have written to people although no answer came back: its chunk is `unknown`. Its messages are looked up by
tag and address. Found: sent, when the log says. All absent, long enough and often enough: not sent, and only then may
they leave again. Some found: the others are waited for, and after a day a person decides. Message ids are never
matched by position. Nothing is sent here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import psycopg

from crm_assets.clock import Clock
from crm_assets.logic.activation import NEWER_OCCURRENCE
from crm_assets.logic.brevo_rows import Event
from crm_assets.logic.events import PARIS, one_tag
from crm_assets.resources.brevo import Brevo, BrevoUnavailableError
from crm_assets.resources.warehouse import Warehouse
from crm_assets.rules import BusinessRules, Settling
from crm_assets.tenants import Tenant

SETTLING = "SETTLING"
# Why a message is unknown, beside the reason of the answer.
INTERRUPTED = "INTERRUPTED"  # the sender ended between the call and its answer
PARTLY_FOUND = "PARTLY_FOUND"

# Of a row `of` of activation.campaigns: nothing more of it may leave, whatever turns up.
IS_OVER = """(of.status = 'abandoned' or of.occurrence <> 'once' and exists (
    select 1 from activation.campaigns as newer
    where newer.campaign = of.campaign and newer.occurrence <> 'once' and newer.occurrence > of.occurrence
))"""

Key = tuple[str, str, int]  # campaign, occurrence, step

# `unknown_since`: when the call had ended at the latest; every wait counts from there.
_UNKNOWN = """
select
    tag, campaign, occurrence, step, coalesce(first_tried_at, frozen_at), coalesce(unknown_since, frozen_at), looks,
    looked_at, array(
        select distinct coalesce(tries.account, '') from activation.attempts as tries
        where tries.tag = chunks.tag and not tries.is_dry_run and tries.outcome is distinct from 'not_sent'
    )
from activation.chunks
where status = 'unknown' and (%(all)s or (campaign, occurrence, step) = (%(campaign)s, %(occurrence)s, %(step)s))
order by frozen_at, tag
"""


# Messages of which a person has said that they failed, and Brevo says since that it has them.
_FOUND_AFTER_ALL = """
update activation.messages as messages set status = 'sent', sent_at = found.at, reason = 'AT_BREVO'
from (
    select events.tag, events.address, min(events.occurred_at) as at
    from outcomes.events as events
    where events.tag in (select tag from activation.interventions where what = 'failed')
    group by events.tag, events.address
) as found
where (messages.tag, messages.address) = (found.tag, found.address) and messages.status = 'failed'
"""


@dataclass
class Settled:
    """What a round of looking up brought, in counts and tags.

    `absent`: tags of chunks that Brevo never got: their messages may leave again. `waiting`: chunks of which nothing
    is found yet; `partial`: of which some messages are. `look_at`: when the next look is due; None where none is.
    `problem`: why the log could not be read.
    """

    n_sent: int = 0
    absent: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    partial: list[str] = field(default_factory=list)
    look_at: datetime | None = None
    problem: str | None = None

    def next_look(self, at: datetime) -> None:
        self.look_at = min(at, self.look_at or at)


@dataclass(frozen=True)
class _Chunk:
    tag: str
    campaign: str
    occurrence: str
    step: int
    tried_at: datetime
    since: datetime
    looks: int
    looked_at: datetime | None
    accounts: list[str]  # at Brevo, where it was tried


def settle(
    warehouse: Warehouse,
    tenant: Tenant,
    client: Brevo,
    rules: BusinessRules,
    clock: Clock,
    key: Key | None = None,
) -> Settled:
    """Look up every chunk of unknown fate (of one step, or of the estate), each no oftener than `look_gap_minutes`."""
    given: dict[str, Any] = dict(zip(("campaign", "occurrence", "step"), key or (None, None, None), strict=True))
    settled = Settled()
    warehouse.execute(_FOUND_AFTER_ALL)
    for row in warehouse.rows(_UNKNOWN, {"all": key is None, **given}):
        _settle_one(warehouse, tenant, client, rules.activation.settling, clock, _Chunk(*row), settled)
    return settled


def _settle_one(
    warehouse: Warehouse,
    tenant: Tenant,
    client: Brevo,
    limits: Settling,
    clock: Clock,
    chunk: _Chunk,
    settled: Settled,
) -> None:
    now, gap = clock.now(), timedelta(minutes=limits.look_gap_minutes)
    if chunk.looked_at is not None and now < chunk.looked_at + gap:
        _still_waiting(warehouse, chunk, chunk.looked_at + gap, settled)
        return
    wanted = {address for (address,) in warehouse.rows(
        "select address from activation.messages where tag = %s and status = 'unknown'", [chunk.tag]
    )}  # fmt: skip
    try:
        logged = _found(warehouse, client, limits, chunk, wanted, now)
        counts = not logged and _is_seen(now) and _shows(warehouse, client, limits, chunk, now)
    except BrevoUnavailableError as error:
        settled.problem = str(error)
        _still_waiting(warehouse, chunk, now + gap, settled)
        return
    with warehouse.transaction() as connection:
        n_sent = _mark_sent(connection, chunk.tag, logged)
        settled.n_sent += n_sent
        there = connection.execute(
            "select count(*) filter (where status = 'sent'), count(*) filter (where status = 'unknown')"
            " from activation.messages where tag = %s",
            [chunk.tag],
        ).fetchone()
        assert there is not None
        n_found, n_missing = there
        looks = chunk.looks + counts
        connection.execute(
            "update activation.chunks set looks = %s, looked_at = %s where tag = %s", [looks, now, chunk.tag]
        )
        if n_missing == 0:
            _close(connection, chunk.tag, now)
            return
        if n_found:
            connection.execute(
                "update activation.messages set reason = %s where tag = %s and status = 'unknown'",
                [PARTLY_FOUND, chunk.tag],
            )
    if counts and not n_found and _is_absent(chunk, looks, now, limits):
        settled.absent.append(chunk.tag)
        return
    if client.account not in chunk.accounts and not counts and not n_found:
        settled.problem = (
            f"call {chunk.tag} was made with another key of Brevo than today's, whose log does not show that it is of"
            " the same account: only the key that it was made with can tell what became of it"
        )
    if now >= chunk.since + timedelta(hours=limits.person_after_hours):
        _call_a_person(tenant, chunk, n_found, n_missing, now)
    _still_waiting(warehouse, chunk, now + gap, settled, is_partial=bool(n_found))


def _found(
    warehouse: Warehouse, client: Brevo, limits: Settling, chunk: _Chunk, wanted: set[str], now: datetime
) -> dict[str, datetime]:
    """The addresses that Brevo has of the chunk, and since when. One that is none of the chunk's shows all the same
    that the call arrived.

    What a webhook or an earlier pull has told is as good as the log.
    """
    days = timedelta(days=limits.log_days)
    start, end = (chunk.tried_at - days).date(), (max(chunk.since, now) + days).date()
    found: dict[str, datetime] = dict(
        warehouse.rows(
            "select address, min(occurred_at) from outcomes.events where tag = %s group by address", [chunk.tag]
        )
    )
    for event in ("requests", None):
        if wanted <= set(found):
            break
        # Whoever is blocked has no `requests`, but an event of another name.
        _add(found, client.events(start, end, tag=chunk.tag, event=event), chunk.tag)
    if wanted and not found:
        # Were a filter by tag to miss something, absence would mean nothing: a few are asked for by address too.
        asked = sorted(wanted)
        for address in {asked[0], asked[len(asked) // 2], asked[-1]}:
            _add(found, client.events(start, end, email=address), chunk.tag)
    return found


def _add(found: dict[str, datetime], rows: Iterable[Event], tag: str) -> None:
    for row in rows:
        if one_tag(row.tag) == tag:
            address = row.email.lower()
            found[address] = min(row.at, found.get(address, row.at))


def _shows(warehouse: Warehouse, client: Brevo, limits: Settling, chunk: _Chunk, now: datetime) -> bool:
    """Whether the log has what it must have: the newest call, a test included, that Brevo said it took before this one
    was lost, in the account where this one was tried.

    A log that lags behind that call, or that is another account's, says nothing of this one either. Where no such call
    is recent, a log is believed if it is asked for with the key that made the call.
    """
    days = timedelta(days=limits.log_days)
    for account in chunk.accounts:
        known = warehouse.rows(
            "select tag, started_at from activation.attempts where outcome = 'accepted' and reason = 'ok'"
            " and not is_dry_run and tag is not null and account = %s and started_at between %s and %s"
            " order by started_at desc limit 1",
            [account, now - days, chunk.since],
        )
        if not known:
            if account != client.account:
                return False
            continue
        tag, at = known[0]
        found: dict[str, datetime] = {}
        _add(found, client.events((at - days).date(), (now + days).date(), tag=tag, event="requests"), tag)
        if not found:
            return False
    return True


def _mark_sent(connection: psycopg.Connection, tag: str, found: dict[str, datetime]) -> int:
    return connection.execute(
        "update activation.messages as messages set status = 'sent', sent_at = found.at, reason = null"
        " from unnest(%s::text[], %s::timestamptz[]) as found (address, at)"
        " where messages.tag = %s and messages.status = 'unknown' and messages.address = found.address",
        [list(found), list(found.values()), tag],
    ).rowcount


def _close(connection: psycopg.Connection, tag: str, now: datetime) -> None:
    connection.execute(
        "update activation.chunks set status = 'accepted', settled_at = %s, settled_by = 'log' where tag = %s",
        [now, tag],
    )


def _is_seen(now: datetime) -> bool:
    """Whether Brevo's log shows what it has of this moment.

    Brevo refuses days that have not come in UTC, and dates its log in Paris time: while the two are of different days,
    the newest one cannot be asked for, and absence means nothing.
    """
    return now.astimezone(ZoneInfo(PARIS)).date() == now.astimezone(UTC).date()


def _is_absent(chunk: _Chunk, looks: int, now: datetime, limits: Settling) -> bool:
    """Whether Brevo can be taken never to have got the call: nothing found in enough looks, long enough after it."""
    return looks >= limits.looks and now >= chunk.since + timedelta(minutes=limits.absent_minutes)


def _still_waiting(
    warehouse: Warehouse, chunk: _Chunk, look_at: datetime, settled: Settled, *, is_partial: bool | None = None
) -> None:
    if is_partial is None:
        is_partial = bool(
            warehouse.rows("select 1 from activation.messages where tag = %s and status = 'sent' limit 1", [chunk.tag])
        )
    (settled.partial if is_partial else settled.waiting).append(chunk.tag)
    settled.next_look(look_at)


def _call_a_person(tenant: Tenant, chunk: _Chunk, n_found: int, n_missing: int, now: datetime) -> None:
    from crm_assets.resources.control import Control

    Control().raise_alert(
        tenant.slug,
        f"SETTLING {chunk.tag}",
        f"{chunk.campaign} {chunk.occurrence}: Brevo's log has {n_found or 'none'} of the messages of call {chunk.tag},"
        f" and not {n_missing} others. Nobody can know whether they left: look them up at Brevo, then say so with"
        f" crm activation reconcile --tenant {tenant.slug} --tag {chunk.tag} --as sent|failed --by NAME",
        now,
    )


def release(connection: psycopg.Connection, tag: str, now: datetime, by: str) -> int:
    """The messages of a chunk that never left are planned again, without it; how many."""
    connection.execute(
        "update activation.chunks set status = 'released', settled_at = %s, settled_by = %s where tag = %s",
        [now, by, tag],
    )
    return connection.execute(
        "update activation.messages set status = 'planned', tag = null, sent_at = null, reason = null"
        " where tag = %s and status in ('sending', 'unknown')",
        [tag],
    ).rowcount


def let_go(connection: psycopg.Connection, tags: Iterable[str], now: datetime) -> int:
    """Calls that Brevo never got, and that are not made again as they are: their messages are planned again, or
    superseded where their occurrence has been given up or followed by a newer one; how many messages.
    """
    count = sum(release(connection, tag, now, "log") for tag in tags)
    connection.execute(_GIVEN_UP.encode(), [NEWER_OCCURRENCE])
    return count


# Planned messages of occurrences that are over.
_GIVEN_UP = f"""
update activation.messages as messages
set status = 'superseded', reason = case when of.status = 'abandoned' then 'ABANDONED' else %s end
from activation.campaigns as of
where
    (messages.campaign, messages.occurrence, messages.step) = (of.campaign, of.occurrence, of.step)
    and messages.status = 'planned' and {IS_OVER}
"""


def take_over(connection: psycopg.Connection, now: datetime) -> tuple[int, int]:
    """Chunks that a sender left under way when it ended: how many are unknown from now on, and how many were released.

    Only for whoever holds the estate's sending lock. Bytes may have left wherever a try has no outcome, whatever else
    is known; a try whose outcome says that they have not is safe.
    """
    rows: Sequence[tuple[str, bool]] = connection.execute(
        "select tag, exists (select 1 from activation.attempts as tries where tries.tag = chunks.tag"
        " and not tries.is_dry_run and tries.outcome is distinct from 'not_sent')"
        " from activation.chunks as chunks where status = 'sending' order by tag for update"
    ).fetchall()
    may_have_left = [tag for tag, may_have in rows if may_have]
    for tag in (tag for tag, may_have in rows if not may_have):
        release(connection, tag, now, "answer")
    if may_have_left:
        mark_unknown(connection, may_have_left, now, INTERRUPTED)
    return len(may_have_left), len(rows) - len(may_have_left)


def mark_unknown(connection: psycopg.Connection, tags: Sequence[str], now: datetime, reason: str) -> None:
    """Nobody knows what became of these chunks; the waits count from now."""
    connection.execute(
        "update activation.chunks set status = 'unknown', unknown_since = %s, looks = 0, looked_at = null"
        " where tag = any(%s)",
        [now, list(tags)],
    )
    connection.execute(
        "update activation.messages set status = 'unknown', reason = %s where tag = any(%s) and status = 'sending'",
        [reason, list(tags)],
    )
