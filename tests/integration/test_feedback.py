"""What comes back from Brevo, in a real database: read once, refusals only added, a feed that fails stops no other."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from crm_assets import feedback
from crm_assets.logic import events
from crm_assets.logic.brevo_rows import BlockedContact, Contact, EmailCampaign, Event, Process
from crm_assets.logic.outbox import tag_of
from crm_assets.resources import brevo
from crm_assets.resources.brevo import BrevoUnavailableError
from crm_assets.resources.warehouse import Warehouse
from crm_assets.settings import Settings
from tests import standin
from tests.clock import StillClock
from tests.logic import estate

TENANT = estate.tenant()
RULES = TENANT.business_rules
TAG = tag_of(TENANT.slug, "weekly", "2026-W10", 1, "0123456789ab")
NOW = datetime(2026, 3, 10, 9, tzinfo=UTC)
CSV = "Email_ID;Open_Date\nada@x.fr;\nBob@x.fr;2026-03-01\n".encode("utf-8-sig")


@pytest.fixture
def warehouse(module_warehouse: Warehouse) -> Warehouse:
    """A database, emptied."""
    module_warehouse.execute(
        "drop table if exists staging.address_refusals; alter table outcomes.events drop constraint if exists no_eve;"
        " truncate outcomes.received, outcomes.events, outcomes.brevo_campaigns, activation.contacts, activation.pulls,"
        " activation.chunks"
    )
    return module_warehouse


@dataclass
class Account:
    """Brevo as feedback sees it: what it would answer, and what it was asked."""

    account: str = "the estate's"
    log: list[Event] = field(default_factory=list)
    blocked: list[BlockedContact] = field(default_factory=list)
    people: list[Contact] = field(default_factory=list)
    sent: list[EmailCampaign] = field(default_factory=list)
    down: set[str] = field(default_factory=set)
    polls_needed: int = 1
    file: bytes = CSV
    asked: list[tuple[Any, ...]] = field(default_factory=list)
    polls: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def _answers(self, feed: str, *question: Any) -> None:
        self.asked.append((feed, *question))
        if feed in self.down:
            raise BrevoUnavailableError("server_error", f"{feed}: Brevo does not answer; try again later")

    def events(self, start: date, end: date) -> Iterator[Event]:
        self._answers("events", start, end)
        yield from (event for event in self.log if start <= event.at.date() <= end)
        self._answers("events half way")

    def blocked_contacts(self) -> Iterator[BlockedContact]:
        self._answers("blocked")
        return iter(self.blocked)

    def contacts(self, modified_since: datetime | None = None) -> Iterator[Contact]:
        self._answers("contacts", modified_since)
        return (each for each in self.people if not modified_since or each.modified_at >= modified_since)  # type: ignore[operator]

    def email_campaigns(self, *, since: date, statistics: str) -> Iterator[EmailCampaign]:
        self._answers("campaigns", since)
        return iter(self.sent)

    def export_recipients(self, campaign_id: int) -> int:
        self._answers("export", campaign_id)
        return 70 + campaign_id

    def process(self, process_id: int) -> Process:
        is_over = next(self.polls) >= self.polls_needed
        return Process(process_id, "completed" if is_over else "processing", 0, False, "https://x" if is_over else None)

    def exported(self, url: str) -> bytes:
        return self.file


def line(event: str = "delivered", date: str = "2026-03-09T10:00:00.000+01:00", **more: Any) -> Event:
    said = {"email": "ada@x.fr", "messageId": "<1@smtp>", "tag": TAG, **more}
    return Event.of({"event": event, "date": date, **said})


def blocked(email: str, code: str = "unsubscribedViaEmail", day: int = 1, sender: str = "cave@x.fr") -> BlockedContact:
    row = {"email": email, "reason": {"code": code}, "blockedAt": f"2026-03-{day:02d}T10:00:00Z", "senderEmail": sender}
    return BlockedContact.of(row)


def person(email: str, is_out: bool, at: str = "2026-03-05T10:00:00Z", **more: Any) -> Contact:
    row = {"id": 1, "email": email, "emailBlacklisted": is_out, "modifiedAt": at, "listIds": [], **more}
    return Contact.of(row)


def campaign(number: int = 12, sent: str = "2026-03-01T08:00:00Z") -> EmailCampaign:
    return EmailCampaign.of({"id": number, "name": "Noël", "status": "sent", "sentDate": sent})


def pull(warehouse: Warehouse, account: Account, clock: StillClock | None = None, feeds: Any = feedback.FEEDS) -> Any:
    return feedback.pull(warehouse, TENANT, account, RULES, clock or StillClock(NOW), feeds)  # type: ignore[arg-type]


def refusals(warehouse: Warehouse) -> dict[str, tuple[Any, ...]]:
    rows = warehouse.rows(
        "select address, is_unsubscribed, is_blocked, is_unsubscribed_now, is_blocked_now, blocked_reason, refused_at"
        " from activation.contacts"
    )
    return {row[0]: row[1:] for row in rows}


def receive(warehouse: Warehouse, *bodies: bytes) -> None:
    for number, body in enumerate(bodies):
        warehouse.execute("insert into outcomes.received values (%s, %s, now())", [f"h{number}-{len(body)}", body])


def posted(event: str = "delivered", ts_event: int = 1_773_046_800, **more: Any) -> dict[str, Any]:
    said = {"email": "ada@x.fr", "message-id": "<1@smtp>", "tags": [TAG]}
    return {"event": event, "ts_event": ts_event, **said, **more}


# --- events


def test_what_is_read_twice_posted_and_read_late_is_there_once(warehouse: Warehouse) -> None:
    opened = line("opened", "2026-03-09T12:00:00.000+01:00")
    account = Account(log=[opened])  # the opening is heard of before the delivery
    assert pull(warehouse, account).feeds["events"].n_new == 1
    receive(warehouse, json.dumps([posted(), posted("teleported")]).encode(), json.dumps(posted()).encode())
    account.log = [line(), opened, line("loadedByProxy", "2026-03-09T12:00:00.000+01:00")]
    again = pull(warehouse, account, StillClock(NOW + timedelta(hours=2)))
    assert again.feeds["events"].n_new == 1  # the proxy: the delivery had come by webhook
    assert again.unknown == {"teleported": 1}
    rows = warehouse.rows(
        "select event, is_machine, origin, campaign, occurrence, step from outcomes.events order by event, is_machine"
    )
    ours = ("weekly", "2026-W10", 1)
    assert rows == [
        ("delivered", False, "webhook", *ours),
        ("opened", False, "poll", *ours),
        ("opened", True, "poll", *ours),
        ("other:teleported", False, "webhook", *ours),
    ]


def test_a_reading_overlaps_the_last_one_by_two_days_and_the_first_goes_back_as_far_as_the_ledger(
    warehouse: Warehouse,
) -> None:
    account = Account()
    warehouse.execute(
        "insert into activation.chunks (tag, campaign, occurrence, step, idempotency_key, request_hash, n_messages,"
        " n_bytes, status, frozen_at) values ('t', 'c', 'once', 1, 'k', 'h', 1, 1, 'accepted', '2025-08-01')"
    )
    pull(warehouse, account, feeds=["events"])
    spans = [(start, end) for feed, start, end in (each for each in account.asked if len(each) == 3)]
    assert spans[0][0] == date(2025, 8, 1)
    assert spans[-1][1] == NOW.date()
    assert all((end - start).days < 90 for start, end in spans)
    assert [start for start, _ in spans[1:]] == [end + timedelta(days=1) for _, end in spans[:-1]]
    account.asked.clear()
    pull(warehouse, account, StillClock(NOW + timedelta(days=3)), feeds=["events"])
    assert account.asked[0] == ("events", date(2026, 3, 8), date(2026, 3, 13))


def test_a_feed_that_fails_keeps_its_cursor_and_stops_no_other(warehouse: Warehouse) -> None:
    account = Account(log=[line()], blocked=[blocked("bob@x.fr")], down={"events half way"})
    found = pull(warehouse, account)
    assert set(found.failed) == {"events"}
    assert "bob@x.fr" in refusals(warehouse)
    assert warehouse.count("outcomes", "events") == 1  # what came before the failure stays
    pulls = "select feed, read_until, n_failures from activation.pulls order by feed"
    assert warehouse.rows(pulls) == [
        ("blocked", NOW, 0), ("campaigns", NOW, 0), ("contacts", NOW, 0), ("events", None, 1)
    ]  # fmt: skip
    pull(warehouse, account, feeds=["events"])
    assert ("events", None, 2) in warehouse.rows(pulls)
    account.down.clear()
    account.asked.clear()
    later = StillClock(NOW + timedelta(days=1))
    assert not pull(warehouse, account, later, feeds=["events"]).problems
    assert account.asked[0][1] == later.moment.date() - timedelta(days=90)  # never read: from the beginning again
    assert ("events", later.moment, 0) in warehouse.rows(pulls)


def test_refusals_are_fresh_when_all_their_feeds_are(warehouse: Warehouse) -> None:
    assert not feedback.is_fresh(warehouse, RULES, NOW)
    account = Account(down={"blocked"})
    pull(warehouse, account, feeds=feedback.REFUSALS)
    assert not feedback.is_fresh(warehouse, RULES, NOW)
    account.down.clear()
    pull(warehouse, account, feeds=["blocked"])
    minutes = RULES.activation.pulls.fresh_minutes
    assert feedback.is_fresh(warehouse, RULES, NOW + timedelta(minutes=minutes))
    assert not feedback.is_fresh(warehouse, RULES, NOW + timedelta(minutes=minutes, seconds=1))


def test_a_clock_that_was_wrong_once_does_not_make_refusals_fresh_for_ever(warehouse: Warehouse) -> None:
    account = Account(log=[line()])
    pull(warehouse, account, StillClock(NOW + timedelta(days=1000)))  # the machine's battery is new
    assert not feedback.is_fresh(warehouse, RULES, NOW)
    account.asked.clear()
    pull(warehouse, account)
    assert account.asked[0][1] == NOW.date() - timedelta(days=90)  # nobody knows what was read: all of it again
    assert feedback.is_fresh(warehouse, RULES, NOW)
    assert {until for (until,) in warehouse.rows("select read_until from activation.pulls")} == {NOW}


# --- refusals


def test_a_refusal_stays_whatever_brevo_says_later(warehouse: Warehouse) -> None:
    account = Account(
        blocked=[blocked("ada@x.fr", "hardBounce", 1), blocked("Ada@x.fr", "unsubscribedViaEmail", 2, "shop@x.fr")],
        people=[person("bob@x.fr", True), person("cy@x.fr", False), person("", False)],
    )
    pull(warehouse, account)
    first = refusals(warehouse)
    assert first == {
        "ada@x.fr": (False, True, None, True, "hardBounce", datetime(2026, 3, 2, 10, tzinfo=UTC)),
        "bob@x.fr": (True, False, True, None, None, datetime(2026, 3, 5, 10, tzinfo=UTC)),
    }
    # Somebody took both back on Brevo's screens.
    account.blocked = []
    account.people = [person("bob@x.fr", False, "2026-03-10T10:00:00Z")]
    pull(warehouse, account, StillClock(NOW + timedelta(hours=3)))
    assert refusals(warehouse) == {
        "ada@x.fr": (False, True, None, False, *first["ada@x.fr"][4:]),
        "bob@x.fr": (True, False, False, None, *first["bob@x.fr"][4:]),
    }


def test_a_change_of_a_contact_does_not_date_its_refusal_anew(warehouse: Warehouse) -> None:
    account = Account(people=[person("bob@x.fr", True)])
    pull(warehouse, account)
    account.people = [person("bob@x.fr", True, "2026-03-10T08:00:00Z")]
    pull(warehouse, account)
    assert refusals(warehouse)["bob@x.fr"][5] == datetime(2026, 3, 5, 10, tzinfo=UTC)
    account.people = [person("bob@x.fr", False, "2026-03-10T08:00:00Z")]
    pull(warehouse, account)
    account.people = [person("bob@x.fr", True, "2026-03-10T08:30:00Z")]  # refused anew
    pull(warehouse, account)
    assert refusals(warehouse)["bob@x.fr"][5] == datetime(2026, 3, 10, 8, 30, tzinfo=UTC)


def test_who_leaves_a_single_list_has_refused_and_an_event_of_unsubscribing_is_a_refusal(
    warehouse: Warehouse,
) -> None:
    account = Account(log=[line("unsubscribed")], people=[person("bob@x.fr", False, listUnsubscribed=[4])])
    pull(warehouse, account)
    found = refusals(warehouse)
    assert (found["ada@x.fr"][0], found["bob@x.fr"][0]) == (True, True)


def test_what_we_handed_over_is_left_alone_and_consent_is_kept(warehouse: Warehouse) -> None:
    warehouse.execute(
        "insert into activation.contacts (address, is_unsubscribed, is_blocked, row_hash, updated_at)"
        " values ('ada@x.fr', false, false, 'abc', now())"
    )
    people = [person("ada@x.fr", False, attributes={"TRACKING_CONSENT": False}), person("eve@x.fr", False)]
    pull(warehouse, Account(people=[*people, person("cy@x.fr", False, attributes={"TRACKING_CONSENT": True})]))
    rows = warehouse.rows("select address, row_hash, tracking_consent from activation.contacts order by address")
    assert rows == [("ada@x.fr", "abc", False), ("cy@x.fr", None, True)]


def test_no_statement_of_ours_can_take_a_refusal_back() -> None:
    source = Path(feedback.__file__).read_text(encoding="utf-8").casefold()
    for forbidden in ("is_unsubscribed = false", "is_blocked = false", "delete from activation.contacts"):
        assert forbidden not in source


def test_who_is_barred_at_this_moment(warehouse: Warehouse) -> None:
    asked = ["ada@x.fr", "bob@x.fr", "cy@x.fr", "dan@x.fr", "eve@x.fr"]
    account = Account(
        log=[line("hardBounces", email="cy@x.fr"), line("softBounces", email="dan@x.fr")],
        blocked=[blocked("ada@x.fr", day=5)],
        people=[person("bob@x.fr", True)],
    )
    pull(warehouse, account)
    everybody = {"ada@x.fr": "OPT_OUT", "bob@x.fr": "OPT_OUT", "cy@x.fr": "BOUNCED"}
    with warehouse.transaction() as connection:
        assert feedback.barred(connection, asked) == everybody
    # Newer opt-ins with a source (staging.address_refusals): they count once Brevo itself says no more no.
    warehouse.execute("create table staging.address_refusals (address text, opted_in_on date)")
    warehouse.execute(
        "insert into staging.address_refusals values ('ada@x.fr', '2026-03-06'), ('bob@x.fr', '2026-03-05')"
    )
    with warehouse.transaction() as connection:
        assert feedback.barred(connection, asked) == everybody
    account.blocked, account.people = [], [person("bob@x.fr", False, "2026-03-10T10:00:00Z")]
    pull(warehouse, account)
    with warehouse.transaction() as connection:
        # Ada's is newer than her refusal; Bob's is of the same day, which is not newer.
        assert feedback.barred(connection, asked) == {"bob@x.fr": "OPT_OUT", "cy@x.fr": "BOUNCED"}


def test_a_bounce_that_only_the_list_of_the_blocked_tells_is_for_good(warehouse: Warehouse) -> None:
    account = Account(blocked=[blocked("ada@x.fr", "hardBounce")])
    pull(warehouse, account)
    account.blocked = []
    pull(warehouse, account)
    warehouse.execute("create table staging.address_refusals (address text, opted_in_on date)")
    warehouse.execute("insert into staging.address_refusals values ('ada@x.fr', '2026-03-09')")
    with warehouse.transaction() as connection:
        assert feedback.barred(connection, ["ada@x.fr"]) == {"ada@x.fr": "BOUNCED"}


def test_who_is_blocked_while_the_list_is_being_read_stays_blocked(warehouse: Warehouse) -> None:
    account = Account(blocked=[blocked("bob@x.fr")])
    pull(warehouse, account)

    class Overtaken(Account):
        """Between the last page and the end of the reading another pull hears of a new block."""

        def blocked_contacts(self) -> Iterator[BlockedContact]:
            yield from self.blocked
            newer = Account(blocked=[*self.blocked, blocked("ada@x.fr")])
            pull(warehouse, newer, StillClock(NOW + timedelta(seconds=9)), feeds=["blocked"])

    pull(warehouse, Overtaken(blocked=account.blocked), StillClock(NOW + timedelta(seconds=5)), feeds=["blocked"])
    assert refusals(warehouse)["ada@x.fr"][3] is True


# --- campaigns of Brevo's own screens


def test_who_got_a_campaign_of_brevos_own_screens_was_contacted(warehouse: Warehouse) -> None:
    account = Account(sent=[campaign(), campaign(13, "2025-10-01T08:00:00Z")])
    clock = StillClock(NOW)
    assert not pull(warehouse, account, clock).problems
    rows = warehouse.rows(
        "select address, event, campaign, channel, occurred_at, tag from outcomes.events order by address"
    )
    at = datetime(2026, 3, 1, 8, tzinfo=UTC)
    assert rows == [(who, "sent", "Noël", "email", at, None) for who in ("ada@x.fr", "bob@x.fr")]
    # The one of October counts for nothing any more: nobody asks Brevo for its recipients.
    assert [each for each in account.asked if each[0] == "export"] == [("export", 12)]
    assert clock.slept == []
    pull(warehouse, account)
    assert [each for each in account.asked if each[0] == "export"] == [("export", 12)]


def test_an_export_that_takes_its_time_is_fetched_by_the_next_pull(warehouse: Warehouse) -> None:
    account = Account(sent=[campaign()], polls_needed=7)
    clock = StillClock(NOW)
    first = pull(warehouse, account, clock, feeds=["campaigns"])
    assert "1 of the campaigns" in first.problems["campaigns"]
    assert not first.failed
    assert sum(clock.slept) == 4 * RULES.brevo.contacts.process_poll_seconds
    said = "select problem is not null, n_failures, read_until from activation.pulls where feed = 'campaigns'"
    assert warehouse.rows(said) == [(True, 0, NOW)]
    assert not pull(warehouse, account, StillClock(NOW), feeds=["campaigns"]).problems
    assert [each for each in account.asked if each[0] == "export"] == [("export", 12)]
    assert warehouse.count("outcomes", "events") == 2


def test_an_export_that_names_nobody_is_said_and_asked_for_again(warehouse: Warehouse) -> None:
    account = Account(sent=[campaign()], file=b"<html>gone</html>")
    assert "not known" in pull(warehouse, account, feeds=["campaigns"]).problems["campaigns"]
    account.file = b'"Contact","E-mail address"\n7,ada@x.fr\n'
    assert not pull(warehouse, account, feeds=["campaigns"]).problems
    assert warehouse.rows("select address from outcomes.events") == [("ada@x.fr",)]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", None),
        (b"name;date\nada;1\n", None),
        (b"EMAIL\n", []),
        (b"EMAIL,Mail_opened\r\nada@x.fr,yes\r\n\r\n", ["ada@x.fr"]),
        ("Mailing;E-Mail\nNoël;ada@x.fr\n".encode(), ["ada@x.fr"]),
    ],
)
def test_the_addresses_of_an_export_are_found_by_what_their_column_holds(
    content: bytes, expected: list[str] | None
) -> None:
    assert feedback.recipients_in(content) == expected


# --- bodies of webhooks


def test_a_body_that_is_none_is_marked_and_left_alone(warehouse: Warehouse) -> None:
    receive(warehouse, b"{broken", json.dumps(posted()).encode(), b"[]")
    found = feedback.ingest_received(warehouse, TENANT.slug, NOW)
    assert (found.feeds["received"].n_read, found.feeds["received"].n_new) == (2, 1)
    problems = warehouse.rows("select problem, read_at from outcomes.received order by content_hash")
    assert sorted(str(problem) for problem, _ in problems) == ["None", "None", "no JSON"]
    assert all(read_at == NOW for _, read_at in problems)
    assert feedback.ingest_received(warehouse, TENANT.slug, NOW).feeds["received"].n_read == 0


def test_a_body_that_the_database_will_not_have_costs_the_others_nothing(warehouse: Warehouse) -> None:
    warehouse.execute("alter table outcomes.events add constraint no_eve check (address <> 'eve@x.fr')")
    receive(warehouse, json.dumps(posted()).encode(), json.dumps(posted(email="eve@x.fr")).encode())
    found = feedback.ingest_received(warehouse, TENANT.slug, NOW)
    assert found.feeds["received"].n_new == 1
    problems = warehouse.rows("select problem from outcomes.received where problem is not null")
    assert len(problems) == 1
    assert "CheckViolation" in problems[0][0]
    assert "@" not in problems[0][0]


@pytest.mark.parametrize(
    "shape",
    [
        {"email": "ada@x.fr", "event": "opened", "tags": 5},
        {"to": "33600000000", "msg_status": "delivered"},  # of a telephone: no address
        {"email": "ada@x.fr", "event": "opened", "date": "9999-12-31T23:59:59Z"},
        {"email": "ada@x.fr", "event": "opened", "date": "\ud800"},
        {"email": {"a": 1}, "event": ["x"], "ts_event": True, "message-id": 1.5, "tag": {"b": []}, "link": [2]},
    ],
)
def test_a_body_of_any_shape_keeps_no_other_from_being_read(warehouse: Warehouse, shape: dict[str, Any]) -> None:
    receive(warehouse, json.dumps([shape]).encode(), json.dumps(posted("unsubscribe", email="cy@x.fr")).encode())
    feedback.ingest_received(warehouse, TENANT.slug, NOW)
    assert refusals(warehouse)["cy@x.fr"][0]
    assert not warehouse.rows("select 1 from outcomes.received where read_at is null and problem is null")


def test_a_body_that_nobody_foresaw_is_marked_and_left_alone(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    understood = events.understood

    def fails(said: Any, tenant: str) -> Any:
        if (said["address"] == "ada@x.fr").any():
            raise ZeroDivisionError("ada@x.fr")
        return understood(said, tenant)

    monkeypatch.setattr(feedback.events, "understood", fails)
    receive(warehouse, json.dumps(posted()).encode(), json.dumps(posted(email="cy@x.fr")).encode())
    assert feedback.ingest_received(warehouse, TENANT.slug, NOW).feeds["received"].n_new == 1
    problems = "select problem from outcomes.received where problem is not null"
    assert warehouse.rows(problems) == [("not understood: ZeroDivisionError",)]


# --- with the stand-in


def test_the_stand_ins_log_and_webhooks_meet_and_its_campaigns_are_read(
    warehouse: Warehouse, environment: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRM_BREVO_KEY", standin.KEY)
    made = standin.in_process()
    assert made.standin is not None
    headers = {"api-key": made.key}
    api = httpx.Client(base_url=made.url, headers=headers, transport=made.transport)
    names = ["sent", "delivered", "opened", "uniqueOpened", "unsubscribed", "hardBounce"]
    hook = {"url": "http://receiver.invalid/brevo/demo", "events": names, "type": "transactional"}
    assert api.post("/webhooks", json=hook).is_success
    people = ["ada@example.com", "bob@example.com", "cy@example.com"]
    message = {"sender": {"email": standin.SENDER}, "subject": "s", "htmlContent": "<p>hello</p>", "tags": [TAG]}
    versions = [{"to": [{"email": each}]} for each in people]
    assert api.post("/smtp/email", json={**message, "messageVersions": versions}).is_success
    made.control.events(
        {"event": "delivered", "after": 5},
        {"event": "opened", "address": people[0], "after": 60},
        {"event": "click", "address": people[0], "after": 90, "link": "https://shop.example/a"},
        {"event": "proxy_open", "address": people[1], "after": 30},
        {"event": "unsubscribed", "address": people[1], "after": 120},
    )
    made.control.seed(
        campaigns=[{"name": "Noël", "emails": ["eve@example.com"], "sent_at": "2026-03-01T09:00:00+00:00"}],
        blocked=[{"email": "fay@example.com", "code": "contactFlaggedAsSpam"}],
        contacts=[{"email": "gus@example.com", "emailBlacklisted": True}],
    )
    made.control.advance(3600)
    bodies = [delivery.body for delivery in made.standin.webhooks.deliveries]
    receive(warehouse, *bodies)
    assert feedback.ingest_received(warehouse, TENANT.slug, made.clock.now()).feeds["received"].n_new == len(
        warehouse.rows("select 1 from outcomes.events")
    )
    posted_keys = set(warehouse.rows("select event_key from outcomes.events"))
    config = environment.model_copy(update={"brevo_url": "http://127.0.0.1/v3"})
    client = brevo.client(TENANT, config, made.clock, mode="read", transport=made.transport)
    found = feedback.pull(warehouse, TENANT, client, RULES, made.clock)
    assert not found.problems
    assert not found.unknown
    rows = warehouse.rows(
        "select split_part(address, '@', 1), event, is_machine, origin, coalesce(campaign, '-') from outcomes.events"
        " order by 1, occurred_at, 2"
    )
    assert rows == [
        ("ada", "sent", False, "webhook", "weekly"),
        ("ada", "delivered", False, "webhook", "weekly"),
        ("ada", "opened", False, "webhook", "weekly"),
        ("ada", "clicked", False, "poll", "weekly"),  # nobody asked the webhook for it
        ("bob", "sent", False, "webhook", "weekly"),
        ("bob", "delivered", False, "webhook", "weekly"),
        ("bob", "opened", True, "webhook", "weekly"),
        ("bob", "unsubscribed", False, "webhook", "weekly"),
        ("cy", "sent", False, "webhook", "weekly"),
        ("cy", "delivered", False, "webhook", "weekly"),
        ("eve", "sent", False, "poll", "Noël"),
    ]
    assert len(posted_keys) == 9
    refused = {address.split("@")[0]: row[:2] for address, row in refusals(warehouse).items()}
    assert refused == {"bob": (True, True), "fay": (False, True), "gus": (True, False)}
    assert feedback.is_fresh(warehouse, RULES, made.clock.now())


def test_another_account_is_read_from_its_beginning(warehouse: Warehouse) -> None:
    long_ago = person("ada@x.fr", True, "2025-01-05T10:00:00Z")
    pull(warehouse, Account(), feeds=feedback.REFUSALS)
    later = StillClock(NOW + timedelta(minutes=10))
    pull(warehouse, Account(account="a new one", people=[long_ago], down={"blocked"}), later, feedback.REFUSALS)
    with warehouse.transaction() as connection:
        assert feedback.barred(connection, ["ada@x.fr"]) == {"ada@x.fr": "OPT_OUT"}
    # What was read of the account before says nothing of this one: its blocked could not be read yet.
    assert not feedback.is_fresh(warehouse, RULES, later.now())
