"""What comes back from Brevo: delivery events, refusals, and campaigns sent from Brevo's own screens (spec.md §3, §7).

Read incrementally with an overlap, by polling and from the bodies that the webhook receiver kept; written in bulk.
A refusal is only ever added: no path here or elsewhere takes one back, and none unblocks anyone at Brevo. A feed
that cannot be read leaves its cursor where it is and stops no other. Nothing is sent.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pandas as pd
import psycopg

from crm_assets import tables
from crm_assets.clock import Clock
from crm_assets.logic import events
from crm_assets.resources import brevo
from crm_assets.resources.warehouse import Warehouse, WarehouseError, copy_frame
from crm_assets.rules import BusinessRules
from crm_assets.tenants import Tenant

FEEDS = ("events", "blocked", "contacts", "campaigns")
# Where refusals come from: a send asks for these to be fresh.
REFUSALS = ("events", "blocked", "contacts")
# A contact's attribute at Brevo (boolean) that says whether its opens and clicks may be followed.
CONSENT_ATTRIBUTE = "TRACKING_CONSENT"

WINDOW_DAYS = 90  # Brevo's log answers for so many days at once
_CLOCKS_DIFFER = timedelta(minutes=5)  # a cursor further in the future was set by a clock that was wrong
_BATCH_ROWS = 50_000  # in memory at a time
_BODIES_AT_ONCE = 200
_PROCESS_POLLS = 5  # of an export of recipients, in one pull; what is not ready is fetched by the next


@dataclass
class FeedSummary:
    """One feed's try: rows read, rows that were new here, and why it failed or what it could not tell."""

    n_read: int = 0
    n_new: int = 0
    problem: str | None = None
    has_failed: bool = False


@dataclass
class PullSummary:
    """What one pull brought, by feed. `unknown`: names of events that no vocabulary has, kept as other:<name>."""

    feeds: dict[str, FeedSummary] = field(default_factory=dict)
    unknown: Counter[str] = field(default_factory=Counter)
    n_foreign: int = 0  # events of another estate on the same account
    n_unreadable: int = 0  # events without an address or a moment

    @property
    def problems(self) -> dict[str, str]:
        return {feed: found.problem for feed, found in self.feeds.items() if found.problem}

    @property
    def failed(self) -> dict[str, str]:
        return {feed: found.problem or "" for feed, found in self.feeds.items() if found.has_failed}

    def _heard(self, found: events.Events) -> None:
        self.unknown.update(found.unknown)
        self.n_foreign += found.n_foreign
        self.n_unreadable += found.n_unreadable


def pull(
    warehouse: Warehouse,
    tenant: Tenant,
    client: brevo.Brevo,
    rules: BusinessRules,
    clock: Clock,
    feeds: Sequence[str] = FEEDS,
) -> PullSummary:
    """Read what is new at Brevo, one feed after the other; with `events`, what the webhook receiver has kept too.

    A feed that Brevo does not answer for keeps its cursor, and says why in activation.pulls and in the summary.
    """
    summary = PullSummary()
    reading = _Reading(warehouse, tenant, client, rules, clock, summary)
    for feed in feeds:
        began = clock.now()
        found = summary.feeds[feed] = FeedSummary()
        try:
            _FEEDS[feed](reading, _read_until(warehouse, feed, client.account, began), began, found)
        except brevo.BrevoUnavailableError as error:
            found.problem, found.has_failed = str(error), True
        except WarehouseError as error:
            found.problem, found.has_failed = f"what was read could not be kept: {error}", True
        _note(warehouse, feed, client.account, began, found)
    return summary


def is_fresh(warehouse: Warehouse, rules: BusinessRules, now: datetime) -> bool:
    """Whether all refusals have been read so recently that a send may rely on them."""
    since = now - timedelta(minutes=rules.activation.pulls.fresh_minutes)
    found = warehouse.rows(
        "select count(*) from activation.pulls where feed = any(%s) and read_until between %s and %s",
        [list(REFUSALS), since, now + _CLOCKS_DIFFER],
    )
    return bool(found[0][0] == len(REFUSALS))


def barred(connection: psycopg.Connection, addresses: Sequence[str]) -> dict[str, str]:
    """Those of the addresses that news from Brevo bars at this moment: OPT_OUT or BOUNCED (spec.md §6, rules 4, 5).

    What the audit saw is as of the last refresh; this is as of the last pull or webhook. A refusal that Brevo still
    states holds; one that it states no more holds until a newer dated opt-in with a source (spec.md §3).
    """
    known = connection.execute("select to_regclass('staging.address_refusals') is not null").fetchone()
    lifted = _LIFTED if known and known[0] else "false"  # before the first refresh no opt-in is known
    statement = _BARRED.format(lifted=lifted)
    return dict(connection.execute(statement.encode(), {"addresses": list(addresses)}).fetchall())


_LIFTED = """exists (
    select from staging.address_refusals as said
    where said.address = contacts.address and said.opted_in_on > (contacts.refused_at at time zone 'UTC')::date
)"""
_BARRED = """
with asked as (select unnest(%(addresses)s::text[]) as address)
select asked.address, case when bool_or(reason = 'OPT_OUT') then 'OPT_OUT' else 'BOUNCED' end
from asked
inner join (
    select contacts.address, 'OPT_OUT' as reason
    from activation.contacts as contacts
    where
        contacts.address = any(%(addresses)s)
        and (
            coalesce(contacts.is_unsubscribed_now, contacts.is_unsubscribed)
            or coalesce(contacts.is_blocked_now, contacts.is_blocked)
            or ((contacts.is_unsubscribed or contacts.is_blocked) and not {lifted})
        )
    union all
    select contacts.address, 'BOUNCED'
    from activation.contacts as contacts
    where contacts.address = any(%(addresses)s) and contacts.blocked_reason in ('hardBounce', 'contactFlaggedAsSpam')
    union all
    select address, 'BOUNCED'
    from outcomes.events
    where address = any(%(addresses)s) and event in ('hard_bounce', 'blocked', 'invalid', 'spam')
) as news on news.address = asked.address
group by asked.address
"""


def ingest_received(
    warehouse: Warehouse, tenant: str, now: datetime, hashes: Sequence[str] | None = None
) -> PullSummary:
    """Read the webhook bodies that have not been read yet (those of `hashes`, or all) into outcomes.events.

    A body that is none of Brevo's is marked with the reason and left alone from then on; so is one that cannot be
    understood or that the database will not have. It costs the others nothing, whatever somebody has posted.
    """
    summary = PullSummary(feeds={"received": FeedSummary()})
    done = summary.feeds["received"]
    while bodies := warehouse.rows(
        "select content_hash, content from outcomes.received where read_at is null and problem is null"
        " and (%s::text[] is null or content_hash = any(%s)) order by received_at, content_hash limit %s",
        [hashes, hashes, _BODIES_AT_ONCE],
    ):
        said = {digest: _said_in(content) for digest, content in bodies}
        readable = {digest: rows for digest, rows in said.items() if isinstance(rows, pd.DataFrame)}
        problems = {digest: problem for digest, problem in said.items() if isinstance(problem, str)}
        try:
            _ingest(warehouse, tenant, readable, now, summary)
        except Exception:  # of the one that is to blame it is said below
            for digest, rows in readable.items():
                try:
                    _ingest(warehouse, tenant, {digest: rows}, now, summary)
                except WarehouseError as error:
                    if not error.is_about_the_data:
                        raise
                    problems[digest] = f"the database refuses it: {error}"
                except Exception as error:  # unread for ever, it would keep every later body and send from going on
                    problems[digest] = f"not understood: {type(error).__name__}"
        with warehouse.transaction() as connection:
            connection.cursor().executemany(
                "update outcomes.received set problem = %s, read_at = %s where content_hash = %s",
                [(problem, now, digest) for digest, problem in problems.items()],
            )
        done.n_read += len(readable)
        if problems:
            done.problem = f"{len(problems)} bodies could not be read"
    return summary


def _said_in(content: bytes) -> pd.DataFrame | str:
    try:
        return events.said_in_body(bytes(content))
    except ValueError as error:
        return str(error)
    except Exception as error:  # as above
        return f"not understood: {type(error).__name__}"


def _ingest(
    warehouse: Warehouse, tenant: str, bodies: Mapping[str, pd.DataFrame], now: datetime, summary: PullSummary
) -> None:
    if not bodies:
        return
    found = events.understood(pd.concat(bodies.values(), ignore_index=True), tenant)
    with warehouse.transaction() as connection:
        n_new = keep_events(connection, found.rows, "webhook", now)
        connection.execute(
            "update outcomes.received set read_at = %s where content_hash = any(%s)", [now, list(bodies)]
        )
    summary.feeds["received"].n_new += n_new
    summary._heard(found)


def keep_events(connection: psycopg.Connection, rows: pd.DataFrame, origin: str, now: datetime) -> int:
    """Add rows of outcomes.events (of logic.events), and who unsubscribed by them to the refusals; how many were new.

    An event that is there already gains what it lacked: the log knows tags that a webhook left out.
    """
    if rows.empty:
        return 0
    frame = rows.assign(origin=origin, read_at=now)
    names = ", ".join(frame.columns)
    connection.execute("create temp table said_events (like outcomes.events) on commit drop")
    copy_frame(connection, tables.events, frame, into=psycopg.sql.Identifier("said_events"))
    # In the order of their keys: two who write at once then wait for each other instead of deadlocking.
    found = connection.execute(
        f"""
        with kept as (
            insert into outcomes.events as known ({names})
            select {names} from said_events order by event_key
            on conflict (event_key) do update set
                tag = coalesce(known.tag, excluded.tag),
                campaign = coalesce(known.campaign, excluded.campaign),
                occurrence = coalesce(known.occurrence, excluded.occurrence),
                step = coalesce(known.step, excluded.step),
                reason = coalesce(known.reason, excluded.reason)
            where
                (known.tag is null and excluded.tag is not null)
                or (known.campaign is null and excluded.campaign is not null)
                or (known.reason is null and excluded.reason is not null)
            returning (xmax = 0) as is_new
        )
        select count(*) filter (where is_new) from kept
        """.encode()
    ).fetchone()
    connection.execute("drop table said_events")
    refused = rows[rows["event"] == events.UNSUBSCRIBED]
    if len(refused):
        said = pd.DataFrame({"address": refused["address"], "refused_at": refused["occurred_at"]})
        keep_refusals(connection, said.assign(is_unsubscribed=True), now)
    return int(found[0]) if found else 0


def keep_refusals(connection: psycopg.Connection, said: pd.DataFrame, now: datetime) -> int:
    """Add what Brevo says of addresses to activation.contacts; how many rows were added or changed.

    `said`: address, and of is_unsubscribed, is_blocked, blocked_reason, refused_at, is_unsubscribed_now,
    is_blocked_now, tracking_consent what is known. A refusal stays whatever is said later. Of addresses that are not
    here yet, only refusals and consents are kept: whoever else the account knows is none of our business.
    """
    if said.empty:
        return 0
    flags = ["is_unsubscribed", "is_blocked"]
    frame = said.reindex(columns=["address", *flags, *_SAID_OF_CONTACTS])
    frame = frame.assign(
        **{flag: frame[flag].astype("boolean").fillna(False) for flag in flags},
        is_bounce=frame["blocked_reason"].isin(_BOUNCES),
    )
    # One address may be blocked for several senders, and said to be one thing here and another there.
    frame = frame.sort_values(["is_bounce", "refused_at"], kind="stable", na_position="first")
    last = {**dict.fromkeys(_SAID_OF_CONTACTS, "last"), **dict.fromkeys([*flags, "refused_at"], "max")}
    merged = frame.groupby("address", as_index=False, sort=True).agg(last)
    connection.execute("create temp table said_contacts (like activation.contacts) on commit drop")
    copy_frame(
        connection, tables.activation_contacts, merged.assign(updated_at=now), psycopg.sql.Identifier("said_contacts")
    )
    changed = connection.execute(_KEEP_REFUSALS.encode()).rowcount
    connection.execute("drop table said_contacts")
    return changed


_SAID_OF_CONTACTS = ("blocked_reason", "refused_at", "is_unsubscribed_now", "is_blocked_now", "tracking_consent")
_BOUNCES = ("hardBounce", "contactFlaggedAsSpam")  # reasons of a block that are no refusal but a bounce or complaint
_KEEP_REFUSALS = """
insert into activation.contacts as known (
    address, is_unsubscribed, is_blocked, blocked_reason, refused_at, is_unsubscribed_now, is_blocked_now,
    tracking_consent, updated_at
)
select
    address, is_unsubscribed, is_blocked, blocked_reason, refused_at, is_unsubscribed_now, is_blocked_now,
    tracking_consent, updated_at
from said_contacts as said
where
    is_unsubscribed or is_blocked or tracking_consent is not null
    or exists (select from activation.contacts as there where there.address = said.address)
order by address
on conflict (address) do update set
    is_unsubscribed = known.is_unsubscribed or excluded.is_unsubscribed,
    is_blocked = known.is_blocked or excluded.is_blocked,
    -- A bounce stays told: blocked for one sender and unsubscribed from another, an address does both.
    blocked_reason = case
        when known.blocked_reason in ('hardBounce', 'contactFlaggedAsSpam') then known.blocked_reason
        else coalesce(excluded.blocked_reason, known.blocked_reason)
    end,
    -- A contact's own date moves with every change of it: of a refusal that is known it says nothing new.
    refused_at = case
        when known.is_unsubscribed_now and excluded.is_unsubscribed_now and not excluded.is_blocked
            then coalesce(known.refused_at, excluded.refused_at)
        else greatest(known.refused_at, excluded.refused_at)
    end,
    is_unsubscribed_now = coalesce(excluded.is_unsubscribed_now, known.is_unsubscribed_now),
    is_blocked_now = coalesce(excluded.is_blocked_now, known.is_blocked_now),
    tracking_consent = coalesce(excluded.tracking_consent, known.tracking_consent),
    updated_at = excluded.updated_at
"""


# --- the feeds


@dataclass(frozen=True)
class _Reading:
    """One pull under way."""

    warehouse: Warehouse
    tenant: Tenant
    client: brevo.Brevo
    rules: BusinessRules
    clock: Clock
    summary: PullSummary

    def overlapping(self, since: datetime) -> datetime:
        return since - timedelta(days=self.rules.activation.pulls.overlap_days)

    def counts_from(self, now: datetime) -> datetime:
        """Contacts before it count for nothing: neither silence nor fatigue looks back so far."""
        rules = self.rules.audit
        return now - timedelta(days=max(rules.fatigue_days, rules.silence_days))


def _events(reading: _Reading, since: datetime | None, now: datetime, found: FeedSummary) -> None:
    """Brevo's log of transactional mail, from two days before the last reading on."""
    received = ingest_received(reading.warehouse, reading.tenant.slug, now)
    reading.summary.unknown.update(received.unknown)
    start = reading.overlapping(since) if since else _first_reading(reading.warehouse, now)
    # Days count in UTC: a day that has begun in Paris alone is refused, and its first hours come with the next pull.
    for first, last in windows(start.astimezone(UTC).date(), now.astimezone(UTC).date()):
        for entries in _batches(reading.client.events(first, last)):
            heard = events.understood(events.said_in_log(entries), reading.tenant.slug)
            with reading.warehouse.transaction() as connection:
                found.n_new += keep_events(connection, heard.rows, "poll", now)
            found.n_read += len(entries)
            reading.summary._heard(heard)


def _blocked(reading: _Reading, since: datetime | None, now: datetime, found: FeedSummary) -> None:
    """The recipients that Brevo sends no transactional mail to, whichever sender they refused: all, each time."""
    listed: list[str] = []
    for entries in _batches(reading.client.blocked_contacts()):
        rows = pd.DataFrame(
            [(e.email, e.reason, e.blocked_at) for e in entries], columns=["address", "blocked_reason", "refused_at"]
        )
        said = rows.assign(
            address=events.normalised(rows["address"]),
            refused_at=pd.to_datetime(rows["refused_at"], utc=True),
            is_blocked=True,
            is_blocked_now=True,
        )
        with reading.warehouse.transaction() as connection:
            found.n_new += keep_refusals(connection, said, now)
        listed += said["address"].tolist()
        found.n_read += len(entries)
    reading.warehouse.execute(
        "update activation.contacts set is_blocked_now = false, updated_at = %s"
        " where is_blocked and is_blocked_now is distinct from false and address <> all(%s)"
        " and updated_at <= %s",  # what another pull has read meanwhile is newer than this list
        [now, listed, now],
    )


def _contacts(reading: _Reading, since: datetime | None, now: datetime, found: FeedSummary) -> None:
    """Contacts changed at Brevo: who is unsubscribed from its campaigns, and whose opens may be followed."""
    changed = reading.client.contacts(modified_since=reading.overlapping(since) if since else None)
    for entries in _batches(changed):
        # Where an account lets people leave single lists, who left one has said no too.
        rows = pd.DataFrame(
            [
                (e.email, e.is_unsubscribed or bool(e.unsubscribed_list_ids), e.modified_at, _consent(e.attributes))
                for e in entries
            ],
            columns=["address", "is_unsubscribed", "refused_at", "tracking_consent"],
        )
        rows = rows[rows["address"].notna() & (rows["address"] != "")]
        refuses = rows["is_unsubscribed"].astype("boolean")
        said = rows.assign(
            address=events.normalised(rows["address"]),
            refused_at=pd.to_datetime(rows["refused_at"], utc=True).where(refuses),
            is_unsubscribed_now=refuses,
        )
        with reading.warehouse.transaction() as connection:
            found.n_new += keep_refusals(connection, said, now)
        found.n_read += len(entries)


def _consent(attributes: Mapping[str, Any]) -> bool | None:
    said = attributes.get(CONSENT_ATTRIBUTE)
    return said if isinstance(said, bool) else None


def _campaigns(reading: _Reading, since: datetime | None, now: datetime, found: FeedSummary) -> None:
    """Campaigns sent from Brevo's own screens, and who got them: contacts like ours (spec.md §7)."""
    _list_campaigns(reading, since, now, found)
    _read_recipients(reading, now, found)
    untold = reading.warehouse.rows(
        "select count(*) from outcomes.brevo_campaigns where not has_recipients and sent_at >= %s",
        [reading.counts_from(now)],
    )[0][0]
    if untold:
        found.problem = f"who got {untold} of the campaigns sent from Brevo's own screens is not known yet"


_FEEDS: dict[str, Callable[[_Reading, datetime | None, datetime, FeedSummary], None]] = {
    "events": _events,
    "blocked": _blocked,
    "contacts": _contacts,
    "campaigns": _campaigns,
}


def _list_campaigns(reading: _Reading, since: datetime | None, now: datetime, found: FeedSummary) -> None:
    # Whatever became of them since: one that was archived after it was sent is asked for without a status.
    rows = [
        (c.campaign_id, c.name, c.status, c.sent_at, c.n_recipients)
        for c in reading.client.email_campaigns(since=reading.counts_from(now).date(), statistics="globalStats")
        if c.sent_at
    ]
    if not rows:
        return
    frame = pd.DataFrame(rows, columns=["campaign_id", "name", "status", "sent_at", "n_recipients"])
    frame = frame.drop_duplicates("campaign_id").assign(
        sent_at=pd.to_datetime(frame["sent_at"], utc=True), has_recipients=False, read_at=now
    )
    found.n_read += len(frame)
    names = ", ".join(frame.columns)
    with reading.warehouse.transaction() as connection:
        connection.execute("create temp table said_campaigns (like outcomes.brevo_campaigns) on commit drop")
        copy_frame(connection, tables.brevo_campaigns, frame, psycopg.sql.Identifier("said_campaigns"))
        connection.execute(
            f"insert into outcomes.brevo_campaigns ({names}) select {names} from said_campaigns order by campaign_id"
            " on conflict (campaign_id) do update set name = excluded.name, status = excluded.status,"
            " sent_at = excluded.sent_at, n_recipients = excluded.n_recipients, read_at = excluded.read_at".encode()
        )


def _read_recipients(reading: _Reading, now: datetime, found: FeedSummary) -> None:
    """Have the recipients of each campaign exported, and read the exports that are ready."""
    waiting = {
        campaign_id: (name, sent_at, process_id)
        for campaign_id, name, sent_at, process_id in reading.warehouse.rows(
            "select campaign_id, name, sent_at, process_id from outcomes.brevo_campaigns"
            " where not has_recipients and sent_at >= %s order by sent_at desc",
            [reading.counts_from(now)],
        )
    }
    for campaign_id, (name, sent_at, process_id) in waiting.items():
        if process_id is None:
            process_id = reading.client.export_recipients(campaign_id)
            waiting[campaign_id] = (name, sent_at, process_id)
            reading.warehouse.execute(
                "update outcomes.brevo_campaigns set process_id = %s where campaign_id = %s", [process_id, campaign_id]
            )
    for attempt in range(_PROCESS_POLLS):
        if not waiting:
            return
        if attempt:
            reading.clock.sleep(reading.rules.brevo.contacts.process_poll_seconds)
        for campaign_id, (name, sent_at, process_id) in list(waiting.items()):
            process = reading.client.process(process_id)
            if not process.is_over:
                continue
            del waiting[campaign_id]
            content = reading.client.exported(process.export_url) if process.export_url else None
            _keep_recipients(reading, campaign_id, name, sent_at, content, now, found)


def _keep_recipients(
    reading: _Reading,
    campaign_id: int,
    name: str,
    sent_at: datetime,
    content: bytes | None,
    now: datetime,
    found: FeedSummary,
) -> None:
    addresses = recipients_in(content) if content is not None else None
    with reading.warehouse.transaction() as connection:
        if addresses is not None:
            said = events.said_of_recipients(addresses, campaign_id, name, sent_at)
            heard = events.understood(said, reading.tenant.slug)
            found.n_new += keep_events(connection, heard.rows, "poll", now)
        # An export that came to nothing is asked for again by the next pull.
        connection.execute(
            "update outcomes.brevo_campaigns set has_recipients = %s, process_id = null where campaign_id = %s",
            [addresses is not None, campaign_id],
        )


def recipients_in(content: bytes) -> list[str] | None:
    """The addresses in an export of recipients (CSV, comma or semicolon); None where no column holds any."""
    text = content.decode("utf-8-sig", errors="replace")
    first = text.partition("\n")[0]
    delimiter = max(";,\t", key=first.count)
    rows = list(csv.reader(io.StringIO(text), delimiter=delimiter))
    if not rows:
        return None
    header, body = rows[0], [row for row in rows[1:] if row]
    named = [n for n, title in enumerate(header) if "mail" in title.casefold()]
    filled = [n for n in named if not body or sum("@" in row[n] for row in body if len(row) > n) * 2 > len(body)]
    if not filled:
        return None
    return [row[filled[0]] for row in body if len(row) > filled[0] and "@" in row[filled[0]]]


# --- cursors


def _read_until(warehouse: Warehouse, feed: str, account: str, now: datetime) -> datetime | None:
    """Until when a feed of this account has been read; None where it never was, or nobody can know."""
    found = warehouse.rows(
        "select read_until from activation.pulls where feed = %s and account = %s and read_until <= %s",
        [feed, account, now + _CLOCKS_DIFFER],
    )
    return found[0][0] if found else None


def _note(warehouse: Warehouse, feed: str, account: str, began: datetime, found: FeedSummary) -> None:
    """Write how a feed's try ended; the cursor moves to when it began, if it succeeded. Another account's says nothing
    of what this one has.
    """
    warehouse.execute(
        "insert into activation.pulls as known (feed, account, read_until, tried_at, problem, n_rows, n_failures)"
        " values (%(feed)s, %(account)s, %(until)s, %(began)s, %(problem)s, %(rows)s, %(failed)s)"
        " on conflict (feed) do update set read_until = greatest("
        " case when known.read_until <= %(latest)s and known.account = excluded.account then known.read_until end,"
        " excluded.read_until), account = excluded.account,"
        " tried_at = excluded.tried_at, problem = excluded.problem, n_rows = excluded.n_rows,"
        " n_failures = case when excluded.n_failures = 0 then 0 else known.n_failures + 1 end",
        {
            "feed": feed,
            "account": account,
            "until": None if found.has_failed else began,
            "began": began,
            "latest": began + _CLOCKS_DIFFER,
            "problem": found.problem,
            "rows": found.n_read,
            "failed": int(found.has_failed),
        },
    )


def _first_reading(warehouse: Warehouse, now: datetime) -> datetime:
    """How far back a first reading goes: 90 days, or as far as the ledger of live calls."""
    oldest = warehouse.rows("select min(frozen_at) from activation.chunks")[0][0]
    start = now - timedelta(days=WINDOW_DAYS)
    return min(start, oldest) if oldest else start


def windows(first: date, last: date) -> Iterator[tuple[date, date]]:
    """The days from first to last, both included, in spans that Brevo's log answers for."""
    while first <= last:
        end = min(last, first + timedelta(days=WINDOW_DAYS - 1))
        yield first, end
        first = end + timedelta(days=1)


def _batches(entries: Iterable[Any]) -> Iterator[list[Any]]:
    """Entries by the ten thousands: memory stays flat however long the log is. What came before Brevo stopped
    answering is handed on first.
    """
    batch: list[Any] = []
    try:
        for entry in entries:
            batch.append(entry)
            if len(batch) == _BATCH_ROWS:
                yield batch
                batch = []
    except brevo.BrevoUnavailableError:
        if batch:
            yield batch
        raise
    if batch:
        yield batch
