"""Brevo's stand-in: what it must refuse, remember and break, so that what is proved against it means something."""

from __future__ import annotations

import itertools
import json
import os
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from brevo_standin.audience import Audience
from brevo_standin.faults import AFTER, BEFORE, Rule
from brevo_standin.log import VOCABULARIES
from brevo_standin.standin import StandIn
from brevo_standin.wire import Request
from crm_assets import standin as marks
from crm_assets.settings import Settings, brevo_key
from crm_assets.settings import settings as of_process
from tests.standin import KEY, SENDER, Honesty, Running, in_process, running


def api(standin: Running, **how: Any) -> httpx.Client:
    return httpx.Client(
        base_url=standin.url, headers={"api-key": standin.key}, transport=standin.transport, trust_env=False, **how
    )


def mail(n: int = 2, tag: str = "demo-news-once-1-0123456789ab", key: str | None = None, **more: Any) -> dict[str, Any]:
    """A body of n versions, one recipient each."""
    said: dict[str, Any] = {
        "sender": {"email": SENDER, "name": "Domaine"},
        "subject": "Bonjour",
        "htmlContent": "<p>Bonjour {{ params.name }}</p>",
        "tags": [tag],
        "messageVersions": [
            {"to": [{"email": f"{tag[:4]}{number}@example.com"}], "params": {"name": str(number)}}
            for number in range(n)
        ],
    }
    if key is not None:
        said["headers"] = {"idempotencyKey": key}
    return said | more


@pytest.fixture
def standin() -> Running:
    return in_process()


# --- /smtp/email


def test_a_call_is_accepted_whole_and_its_ids_tell_no_order(standin: Running) -> None:
    brevo = api(standin)
    answer = brevo.post("/smtp/email", json=mail(40))
    assert answer.status_code == 201
    rows = standin.control.accepted("address", "message_id", "params", "tag", "blocked")
    assert [row["address"] for row in rows] == [f"demo{number}@example.com" for number in range(40)]
    assert rows[7]["params"] == {"name": "7"}
    in_order = [row["message_id"] for row in rows]
    assert answer.json()["messageIds"] != in_order
    assert sorted(answer.json()["messageIds"]) == sorted(in_order)


def _without(name: str) -> dict[str, Any]:
    return {key: value for key, value in mail().items() if key != name}


def _version(**more: Any) -> dict[str, Any]:
    return mail() | {"messageVersions": [{"to": [{"email": "a@example.com"}], **more}]}


def _versions(n: int, people: int = 1, **more: Any) -> list[dict[str, Any]]:
    return [{"to": [{"email": f"a{one}.{other}@e.com"} for other in range(people)], **more} for one in range(n)]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (_without("sender"), "missing_parameter"),
        (_without("subject"), "missing_parameter"),
        (_without("htmlContent"), "missing_parameter"),
        (_without("messageVersions"), "missing_parameter"),
        (mail(sender={"email": "stranger@example.com"}), "invalid_parameter"),
        (mail(sender={"email": SENDER, "name": "x" * 71}), "invalid_parameter"),
        (mail(1001), "out_of_range"),
        (_version(to=[{"email": f"a{number}@example.com"} for number in range(100)]), "out_of_range"),
        (mail(0) | {"messageVersions": _versions(21, people=99)}, "out_of_range"),
        (_version(params={"text": "é" * 51_200}), "out_of_range"),
        (mail(0) | {"messageVersions": _versions(11, params={"x": "y" * 99_000})}, "out_of_range"),
        (mail(messageVersions=None), "invalid_parameter"),
        (_version(to=[{"email": "no address"}]), "invalid_parameter"),
        (_version(to=[]), "missing_parameter"),
        (_version(templateId=1), "invalid_parameter"),
        (_without("htmlContent") | {"templateId": 7}, "invalid_parameter"),  # unknown
        (_without("htmlContent") | {"templateId": 2}, "invalid_parameter"),  # not active
        (_version(htmlContent="<p>own</p>") | {"htmlContent": None, "templateId": 1}, "invalid_parameter"),
        (mail(tags="tag"), "invalid_parameter"),
        (mail(scheduledAt="2026-03-10T12:00:00"), "invalid_parameter"),  # no zone
        (mail(batchId="not-a-uuid"), "invalid_parameter"),
    ],
)  # fmt: skip
def test_a_call_that_breaks_a_rule_is_refused_whole(standin: Running, body: dict[str, Any], code: str) -> None:
    standin.control.seed(
        templates=[{"id": 1, "html": "<p>Bonjour</p>"}, {"id": 2, "html": "<p>x</p>", "isActive": False}]
    )
    answer = api(standin).post("/smtp/email", json=body)
    assert (answer.status_code, answer.json()["code"]) == (400, code), answer.text
    assert "@" not in answer.json()["message"]
    assert standin.control.accepted() == []


def test_at_the_limits_a_call_is_accepted(standin: Running) -> None:
    brevo = api(standin)
    many = _versions(20, people=99)
    assert brevo.post("/smtp/email", json=mail(0) | {"messageVersions": many}).status_code == 201
    assert brevo.post("/smtp/email", json=mail(1000)).status_code == 201
    large = _versions(10, params={"x": "y" * 99_000})
    assert brevo.post("/smtp/email", json=mail(0) | {"messageVersions": large}).status_code == 201


def test_a_template_takes_the_place_of_sender_subject_and_content(standin: Running) -> None:
    standin.control.seed(
        templates=[{"id": 4, "html": "<p>{{ params.name }}</p>", "subject": "Du domaine", "sender": SENDER}]
    )
    said = {"templateId": 4, "messageVersions": mail(1)["messageVersions"]}
    assert api(standin).post("/smtp/email", json=said).status_code == 201
    assert standin.control.accepted("subject", "sender", "template_id") == [
        {"subject": "Du domaine", "sender": SENDER, "template_id": 4}
    ]


def test_the_sandbox_leaves_no_trace(standin: Running) -> None:
    answer = api(standin).post("/smtp/email", json=mail(headers={"X-Sib-Sandbox": "drop"}))
    assert answer.status_code == 201
    assert len(answer.json()["messageIds"]) == 2
    assert standin.control.accepted() == []
    assert api(standin).get("/smtp/statistics/events").json() == {}


def test_a_blocked_recipient_is_accepted_and_never_reached(standin: Running) -> None:
    standin.control.seed(blocked=[{"email": "demo0@example.com", "code": "unsubscribedViaEmail"}])
    brevo = api(standin)
    assert brevo.post("/smtp/email", json=mail()).status_code == 201
    assert standin.control.accepted("address", "blocked") == [
        {"address": "demo0@example.com", "blocked": True},
        {"address": "demo1@example.com", "blocked": False},
    ]
    rows = brevo.get("/smtp/statistics/events", params={"email": "demo0@example.com"}).json()["events"]
    assert [row["event"] for row in rows] == ["blocked", "requests"]


def test_credits_are_taken_for_all_recipients_or_none(standin: Running) -> None:
    standin.control.seed(credits=3)
    brevo = api(standin)
    assert brevo.post("/smtp/email", json=mail(4, key="k")).status_code == 402
    assert standin.control.accepted() == []
    assert brevo.post("/smtp/email", json=mail(3, key="k")).status_code == 201, "a refused call uses up no key"
    assert standin.control.get("state")["credits"] == 0


def test_scheduled_mail_waits_and_can_be_cancelled(standin: Running) -> None:
    brevo, at = api(standin), (standin.control.now() + timedelta(hours=1)).isoformat()
    kept, dropped = (brevo.post("/smtp/email", json=mail(tag=tag, scheduledAt=at)) for tag in ("kept", "drop"))
    assert kept.status_code == dropped.status_code == 202
    batch = dropped.json()["batchId"]
    assert brevo.get(f"/smtp/emailStatus/{batch}").json()["batches"][0]["status"] == "queued"
    assert brevo.delete(f"/smtp/email/{batch}").status_code == 204
    assert brevo.get("/smtp/statistics/events").json() == {}
    standin.clock.sleep(3601)
    tags = {row["tag"] for row in brevo.get("/smtp/statistics/events").json()["events"]}
    assert tags == {"kept"}
    assert brevo.get(f"/smtp/emailStatus/{kept.json()['messageIds'][0]}").json()["status"] == "processed"


# --- idempotency


@pytest.mark.parametrize(
    ("mode", "where", "spelling", "is_doubled"),
    [
        ("body", "body", "idempotencyKey", False),
        ("body", "body", "IdempotencyKey", False),
        ("body", "body", "Idempotency-Key", True),
        ("body", "http", "idempotencyKey", True),
        ("http", "http", "idempotencyKey", False),
        ("http", "http", "Idempotency-Key", True),
        ("http", "body", "idempotencyKey", True),
        ("none", "body", "idempotencyKey", True),
        ("none", "http", "idempotencyKey", True),
    ],
)
def test_a_key_counts_only_where_the_mode_says_and_spelled_without_hyphen(
    mode: Any, where: str, spelling: str, is_doubled: bool
) -> None:
    standin = in_process(mode)
    brevo, headers = api(standin), {spelling: "4ab5"}
    for _ in range(2):
        if where == "body":
            last = brevo.post("/smtp/email", json=mail(headers=headers))
        else:
            last = brevo.post("/smtp/email", json=mail(), headers=headers)
    assert (last.status_code == 201) is is_doubled
    assert len(standin.control.addresses()) == (4 if is_doubled else 2)
    if not is_doubled:
        assert last.status_code == 400
        assert last.json()["code"] == "duplicate_parameter"
        assert not {"messageId", "messageIds"} & set(last.json())


def test_a_key_is_forgotten_after_thirty_minutes(standin: Running) -> None:
    brevo = api(standin)
    assert brevo.post("/smtp/email", json=mail(key="k")).status_code == 201
    standin.clock.sleep(30 * 60 - 1)
    assert brevo.post("/smtp/email", json=mail(key="k")).status_code == 400
    standin.clock.sleep(1)
    assert brevo.post("/smtp/email", json=mail(key="k")).status_code == 201


# --- the log


def test_events_come_in_three_vocabularies(standin: Running) -> None:
    brevo = api(standin)
    posted: list[dict[str, Any]] = []
    assert standin.standin is not None
    standin.standin.post = lambda _url, content, _headers: posted.append(json.loads(content)) or 200
    every = [names[2] for names in VOCABULARIES.values() if names[2]]
    said = {"url": "https://receiver.example.com", "events": [*dict.fromkeys(every), "uniqueOpened"]}
    assert brevo.post("/webhooks", json=said).status_code == 201
    brevo.post("/smtp/email", json=mail(1, headers={"X-Mailin-custom": "batch:1"}))
    standin.control.events({"event": "hard_bounce", "reason": "550"}, {"event": "opened"}, {"event": "proxy_open"})
    assert [each["event"] for each in posted] == ["request", "hard_bounce", "opened", "unique_opened", "proxy_open"]
    assert {each["id"] for each in posted} == {1}
    assert posted[0]["X-Mailin-custom"] == "batch:1"
    assert posted[0]["date"] == "2026-03-10 10:00:00", "Paris"
    assert posted[0]["ts_event"] == int(standin.control.now().timestamp())
    rows = brevo.get("/smtp/statistics/events", params={"sort": "asc"}).json()["events"]
    assert [row["event"] for row in rows] == ["requests", "hardBounces", "opened", "loadedByProxy"]
    bounced = brevo.get("/smtp/statistics/events", params={"event": "bounces"}).json()["events"]
    assert [row["reason"] for row in bounced] == ["550"]
    uuid = brevo.get("/smtp/emails", params={"email": "demo0@example.com"}).json()["transactionalEmails"][0]["uuid"]
    names = [event["name"] for event in brevo.get(f"/smtp/emails/{uuid}").json()["events"]]
    assert names == ["sent", "hard_bounce", "opened", "proxy_open"]


def test_the_log_lags_and_takes_late_and_doubled_events_out_of_order(standin: Running) -> None:
    brevo = api(standin)
    standin.control.log_lag(120)
    brevo.post("/smtp/email", json=mail(1))
    assert brevo.get("/smtp/statistics/events").json() == {}
    standin.clock.sleep(120)
    late = (standin.control.now() - timedelta(days=3)).isoformat()
    standin.control.events(
        {"event": "opened", "lag": 0},
        {"event": "delivered", "at": late, "lag": 0, "times": 2},
        {"event": "click", "after": 60},
    )
    rows = brevo.get("/smtp/statistics/events", params={"sort": "asc"}).json()["events"]
    assert [row["event"] for row in rows] == ["requests", "opened", "delivered", "delivered"]
    assert rows[2]["date"].startswith("2026-03-07")
    standin.clock.sleep(60 + 120)
    assert brevo.get("/smtp/statistics/events").json()["events"][0]["event"] == "clicks"


def test_the_log_is_dated_in_paris_and_asked_by_days_of_utc(standin: Running) -> None:
    """What is sent at 23:30 UTC is dated the next day, for which nobody may ask before midnight UTC."""
    brevo = api(standin)
    standin.control.post("clock", {"to": "2026-03-10T23:30:00+00:00"})
    brevo.post("/smtp/email", json=mail(1))
    asked = {"startDate": "2026-03-09", "endDate": "2026-03-10"}
    assert brevo.get("/smtp/statistics/events", params=asked).json() == {}
    future = brevo.get("/smtp/statistics/events", params={**asked, "endDate": "2026-03-11"})
    assert (future.status_code, future.json()["code"]) == (400, "invalid_parameter")
    standin.clock.sleep(1800)
    rows = brevo.get("/smtp/statistics/events", params={**asked, "endDate": "2026-03-11"}).json()["events"]
    assert rows[0]["date"] == "2026-03-11T00:30:00.000+01:00"


@pytest.mark.parametrize(
    "query",
    [
        {"limit": "5001"},
        {"limit": "-1"},
        {"event": "hard_bounce"},
        {"tags": "plain"},
        {"startDate": "2026-03-01"},
        {"startDate": "2025-11-01", "endDate": "2026-03-01"},
        {"startDate": "2026-03-09", "endDate": "2026-03-08"},
        {"days": "3", "startDate": "2026-03-09", "endDate": "2026-03-09"},
        {"sort": "up"},
    ],
)
def test_the_log_refuses_what_brevo_refuses(standin: Running, query: dict[str, str]) -> None:
    assert api(standin).get("/smtp/statistics/events", params=query).status_code == 400


def test_the_log_is_paged_and_filtered_by_tag(standin: Running) -> None:
    brevo = api(standin)
    for tag in ("one", "two"):
        brevo.post("/smtp/email", json=mail(3, tag=tag))
    query = {"tags": json.dumps(["two"]), "sort": "asc", "limit": "2"}
    pages = [brevo.get("/smtp/statistics/events", params={**query, "offset": str(n)}).json() for n in (0, 2, 4)]
    assert [len(page.get("events", [])) for page in pages] == [2, 1, 0]
    assert {row["tag"] for page in pages for row in page.get("events", [])} == {"two"}


def test_refusals_reach_the_blocklist_of_their_sender_only(standin: Running) -> None:
    brevo = api(standin)
    standin.control.seed(senders=["other@domaine-demo.example.com"], contacts=[{"email": "demo0@example.com"}])
    brevo.post("/smtp/email", json=mail(3))
    for number, event in enumerate(("unsubscribed", "hard_bounce", "spam")):
        standin.control.events({"event": event, "address": f"demo{number}@example.com"})
    rows = brevo.get("/smtp/blockedContacts", params={"sort": "asc"}).json()["contacts"]
    assert [(row["senderEmail"], row["reason"]["code"]) for row in rows] == [
        (SENDER, "unsubscribedViaEmail"),
        (SENDER, "hardBounce"),
        (SENDER, "contactFlaggedAsSpam"),
    ]
    assert brevo.get("/smtp/blockedContacts", params={"limit": "101"}).status_code == 400
    assert not brevo.get("/contacts/demo0@example.com").json()["emailBlacklisted"], "campaigns have a list of their own"


# --- limits and faults


def test_each_bucket_has_its_limit_and_every_answer_three_headers(standin: Running) -> None:
    brevo = api(standin)
    answers = [brevo.get("/smtp/emails", params={"email": "a@example.com"}) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    names = [f"x-sib-ratelimit-{name}" for name in ("limit", "remaining", "reset")]
    assert [[answer.headers[name] for name in names] for answer in answers] == [
        ["2", "1", "1"],
        ["2", "0", "1"],
        ["2", "0", "1"],
    ]
    assert "retry-after" not in answers[2].headers
    assert brevo.get("/contacts").status_code == 200, "another bucket"
    standin.clock.sleep(1)
    assert brevo.get("/smtp/emails", params={"email": "a@example.com"}).status_code == 200
    hourly = Counter(brevo.get("/account").status_code for _ in range(101))
    assert hourly == {200: 100, 429: 1}
    batches = [brevo.post("/smtp/email", json=mail(1, tag=f"t{number}")) for number in range(101)]
    assert Counter(answer.status_code for answer in batches) == {201: 100, 429: 1}
    assert 1 <= int(batches[-1].headers["x-sib-ratelimit-reset"]) <= 60


def test_faults_strike_the_calls_that_their_rule_names(standin: Running) -> None:
    brevo = api(standin)
    standin.control.faults(
        {"do": "error_before", "status": 502, "path": "/smtp/email", "nth": 2},
        {"do": "bad_row", "path": "/smtp/email", "address": "demo4@example.com"},
        {"do": "unauthorized", "path": "/contacts", "first": 2, "last": 3},
    )
    sent = [brevo.post("/smtp/email", json=mail(n, tag=f"demo{n}")) for n in (1, 2, 3, 5)]
    assert [answer.status_code for answer in sent] == [201, 502, 201, 400]
    assert sent[1].headers["content-type"].startswith("text/html")
    assert [brevo.get("/contacts").status_code for _ in range(4)] == [200, 401, 401, 200]
    assert sorted(row["tag"] for row in standin.control.accepted("tag")) == ["demo1", "demo3", "demo3", "demo3"]
    assert [row["struck"] for row in standin.control.get("faults")] == [1, 1, 2]


def test_a_random_programme_repeats_itself() -> None:
    said = {"do": ["reset_after", "error_after"], "rate": 0.3, "seed": 7, "times": 20}

    def struck() -> list[str | None]:
        rule = Rule.of(said)
        found = [rule.meets(Request("POST", "/v3/smtp/email")) for _ in range(100)]
        return [fault.kind if fault else None for fault in found]

    assert struck() == struck()
    assert Counter(struck())[None] == 80
    with pytest.raises(ValueError, match="no such fault"):
        Rule.of({"do": "explode"})


@pytest.fixture(scope="module")
def served() -> Iterator[Running]:
    with running(limits=False) as made:
        yield made


ENDS = {
    "throttle": 429,
    "error_before": 500,
    "error_after": 500,
    "unauthorized": 401,
    "no_credit": 402,
    "bad_row": 400,
    "reset_before": httpx.ReadError,
    "reset_after": httpx.ReadError,
    "close_before": httpx.RemoteProtocolError,
    "close_after": httpx.RemoteProtocolError,
    "hang_before": httpx.ReadTimeout,
    "hang_after": httpx.ReadTimeout,
    "truncated": httpx.RemoteProtocolError,
    "garbled": json.JSONDecodeError,
    "slow_body": 201,
}


@pytest.mark.parametrize("kind", sorted(BEFORE | AFTER))
def test_faults_on_a_real_connection_end_as_they_should(served: Running, kind: str) -> None:
    seconds = None if kind.startswith("hang") else 0.05
    served.control.reset()
    served.control.faults({"do": kind, "path": "/smtp/email", "nth": 1, "seconds": seconds})
    with api(served, timeout=0.15 if seconds is None else 5) as brevo:
        try:
            answer = brevo.post("/smtp/email", json=mail(2))
            end = answer.status_code
            if kind in AFTER and end == 201:
                answer.json()
        except (httpx.HTTPError, json.JSONDecodeError) as error:
            end = type(error)
        assert end == ENDS[kind]
        assert len(served.control.addresses()) == (2 if kind in AFTER else 0)
        assert brevo.post("/smtp/email", json=mail(2, tag="next")).status_code == 201, "the server goes on"


def test_a_hang_can_end_with_a_closed_socket(served: Running) -> None:
    served.control.reset()
    served.control.faults({"do": "hang_after", "nth": 1, "seconds": 0.05})
    with api(served) as brevo, pytest.raises(httpx.RemoteProtocolError):
        brevo.post("/smtp/email", json=mail(2))


def test_the_clock_moves_only_when_it_is_told_to(served: Running) -> None:
    before = served.clock.now()
    assert served.clock.now() == before
    served.clock.sleep(90.5)
    assert served.clock.now() - before == timedelta(seconds=90.5)


def test_without_the_key_nothing_is_told(served: Running) -> None:
    answer = httpx.get(f"{served.url}/account", headers={"api-key": "xkeysib-other"}, trust_env=False)
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")


# --- contacts


def test_contacts_keep_what_fits_and_drop_the_rest_in_silence(standin: Running) -> None:
    brevo = api(standin)
    for name, kind in (("SEGMENT", "text"), ("SCORE", "float"), ("SEEN", "date"), ("VIP", "boolean")):
        assert brevo.post(f"/contacts/attributes/normal/{name}", json={"type": kind}).status_code == 201
    assert brevo.post("/contacts/attributes/normal/SEGMENT", json={"type": "text"}).status_code == 400
    right = {"SEGMENT": "fidèle", "SCORE": 0.5, "SEEN": "2026-01-31", "VIP": True}
    wrong = {"SEGMENT": 3, "SCORE": "0.7", "SEEN": "31/01/2026", "VIP": "yes", "UNKNOWN": "x"}
    assert brevo.post("/contacts", json={"email": "a@example.com", "attributes": right}).status_code == 201
    again = {"email": "A@example.com", "attributes": wrong, "updateEnabled": True}
    assert brevo.post("/contacts", json=again).status_code == 204
    assert brevo.get("/contacts/a@example.com").json()["attributes"] == right


def test_identifiers_are_unique(standin: Running) -> None:
    brevo = api(standin)
    one = {"email": "a@example.com", "ext_id": "C1", "attributes": {"SMS": "+33612345678"}}
    assert brevo.post("/contacts", json=one).status_code == 201
    for other in (
        {"email": "a@example.com"},
        {"email": "b@example.com", "ext_id": "C1"},
        {"email": "b@example.com", "attributes": {"SMS": "+33 6 12 34 56 78"}},
    ):
        answer = brevo.post("/contacts", json=other)
        assert (answer.status_code, answer.json()["code"]) == (400, "duplicate_parameter")
        assert answer.json()["metadata"]["duplicate_identifiers"]
    assert brevo.post("/contacts", json={"email": "c@example.com", "ext_id": "C2"}).status_code == 201
    clash = brevo.put("/contacts/c@example.com", json={"ext_id": "C1"})
    assert clash.status_code == 400
    assert brevo.get("/contacts").json()["count"] == 2


def test_an_import_is_a_process_that_takes_its_time(standin: Running) -> None:
    brevo = api(standin)
    folder = brevo.post("/contacts/folders", json={"name": "CRM"}).json()["id"]
    number = brevo.post("/contacts/lists", json={"name": "fidèles", "folderId": folder}).json()["id"]
    standin.control.seed(contacts=[{"email": "a@example.com", "emailBlacklisted": True}])
    rows = [{"email": f"{name}@example.com", "attributes": {"FIRSTNAME": name}} for name in "ab"] + [
        {"email": "nobody"}
    ]
    started = brevo.post("/contacts/import", json={"jsonBody": rows, "listIds": [number]})
    assert started.status_code == 202
    path, seen = f"/processes/{started.json()['processId']}", []
    for _ in range(4):
        seen.append(brevo.get(path).json()["status"])
        standin.clock.sleep(10)
    assert seen == ["queued", "processing", "processing", "completed"]
    assert brevo.get(path).json()["info"] == {"import": {"invalid_emails": 1}}
    assert brevo.get(f"/contacts/lists/{number}").json()["uniqueSubscribers"] == 2
    assert brevo.get("/contacts/a@example.com").json()["emailBlacklisted"], "an import lifts no refusal"
    csv = {"fileBody": "EMAIL;FIRSTNAME\nc@example.com;c\n", "listIds": [number]}
    brevo.post("/contacts/import", json=csv)
    standin.clock.sleep(30)
    assert brevo.get("/contacts/c@example.com").json()["attributes"] == {"FIRSTNAME": "c"}


def test_lists_take_150_at_a_time_and_say_who_failed(standin: Running) -> None:
    brevo = api(standin)
    number = brevo.post("/contacts/lists", json={"name": "x", "folderId": 1}).json()["id"]
    standin.control.seed(contacts=[{"email": "a@example.com"}])
    path = f"/contacts/lists/{number}/contacts/add"
    moved = brevo.post(path, json={"emails": ["a@example.com", "nobody@example.com"]})
    assert moved.status_code == 201
    assert moved.json()["contacts"] == {"success": ["a@example.com"], "failure": ["nobody@example.com"], "total": 1}
    assert brevo.post(path, json={"emails": ["a@example.com"]}).status_code == 400, "nothing left to do is an error"
    too_many = brevo.post(path, json={"emails": [f"{n}@example.com" for n in range(151)]})
    assert too_many.json()["code"] == "out_of_range"


def test_whoever_lifts_a_refusal_is_remembered(standin: Running) -> None:
    brevo = api(standin)
    contact = {"email": "a@example.com", "emailBlacklisted": True}
    standin.control.seed(contacts=[contact], blocked=[{"email": "b@example.com"}])
    assert standin.control.get("state")["unblocked"] == []
    assert brevo.put("/contacts/a@example.com", json={"emailBlacklisted": False}).status_code == 204
    assert brevo.delete("/smtp/blockedContacts/b@example.com").status_code == 204
    assert standin.control.get("state")["unblocked"] == ["a@example.com", "b@example.com"]


# --- campaigns


def test_a_campaign_goes_through_its_states_and_writes_to_nobody_who_refused(standin: Running) -> None:
    brevo = api(standin)
    standin.control.seed(
        lists=["all"],
        contacts=[{"email": f"{n}@example.com", "listIds": [2], "emailBlacklisted": n == "c"} for n in "abc"],
    )
    said = {
        "name": "Portes ouvertes", "sender": {"email": SENDER}, "htmlContent": "<p>Bienvenue au domaine</p>",
        "recipients": {"listIds": [2]}, "abTesting": True, "subjectA": "A", "subjectB": "B", "splitRule": 50,
    }  # fmt: skip
    path = f"/emailCampaigns/{brevo.post('/emailCampaigns', json=said).json()['id']}"
    standin.control.seed(credits=1)
    assert brevo.post(f"{path}/sendNow").status_code == 402
    standin.control.seed(credits=10)
    assert brevo.post(f"{path}/sendNow").status_code == 204
    states = []
    for _ in range(3):
        states.append(brevo.get(path).json()["status"])
        standin.clock.sleep(40)
    assert states == ["queued", "in_process", "sent"]
    again = brevo.post(f"{path}/sendNow")
    assert (again.status_code, again.json()["code"]) == (400, "campaign_sent")
    standin.control.post(
        "campaign_events",
        [{"campaign": 1, "event": "opened"}, {"campaign": 1, "event": "unsubscribed", "email": "b@example.com"}],
    )
    figures = brevo.get(path, params={"statistics": "globalStats"}).json()["statistics"]["globalStats"]
    assert {name: figures[name] for name in ("sent", "delivered", "uniqueViews", "unsubscriptions")} == {
        "sent": 2, "delivered": 2, "uniqueViews": 2, "unsubscriptions": 1,
    }  # fmt: skip
    assert brevo.get("/contacts/b@example.com").json()["emailBlacklisted"]
    assert brevo.get("/smtp/blockedContacts").json()["count"] == 0, "the blocklist of mail is another"
    assert brevo.get(f"{path}/abTestCampaignResult").json()["winningVersion"] == "tie"
    started = brevo.post(f"{path}/exportRecipients", json={"recipientsType": "unsubscribed"}).json()["processId"]
    standin.clock.sleep(60)
    export = brevo.get(f"/processes/{started}").json()["export_url"]
    file = httpx.Client(transport=standin.transport).get(export).text
    assert [line.partition(";")[0] for line in file.splitlines()] == ["Email_ID", "b@example.com"]
    reached = brevo.get("/contacts/a@example.com").json()["statistics"]
    assert [row["campaignId"] for row in reached["messagesSent"]] == [1]


# --- webhooks


def test_webhooks_are_tried_again_after_429_and_silence_only(standin: Running) -> None:
    brevo, statuses, seen = api(standin), [429, None, 200], []
    assert standin.standin is not None

    def post(_url: str, _content: bytes, headers: dict[str, str]) -> int | None:
        seen.append((standin.standin.times.now(), headers["authorization"]))  # type: ignore[union-attr]
        return statuses[len(seen) - 1] if len(seen) <= len(statuses) else 500

    standin.standin.post = post
    auth = {"type": "bearer", "token": "t0ken"}
    brevo.post("/webhooks", json={"url": "https://r.example.com", "events": ["delivered"], "auth": auth})
    brevo.post("/smtp/email", json=mail(1))
    standin.control.events({"event": "delivered"})
    standin.clock.sleep(12 * 3600)
    gaps = [int((after - before).total_seconds()) for (before, _), (after, _) in itertools.pairwise(seen)]
    assert gaps == [600, 3600]
    assert {token for _, token in seen} == {"Bearer t0ken"}
    standin.control.events({"event": "delivered"})
    standin.clock.sleep(12 * 3600)
    assert [each["outcome"] for each in standin.control.get("deliveries")] == ["delivered", "discarded"]
    assert standin.control.get("deliveries")[1]["tries"] == [500]


def test_webhooks_give_up_after_five_tries_and_batches_hold_five_minutes(standin: Running) -> None:
    brevo, sizes = api(standin), []
    assert standin.standin is not None
    standin.standin.post = lambda _url, content, _headers: sizes.append(len(json.loads(content))) or 429
    said = {"url": "https://r.example.com", "events": ["request"], "batched": True}
    assert brevo.post("/webhooks", json=said).status_code == 201
    brevo.post("/smtp/email", json=mail(501))
    standin.clock.sleep(299)
    assert sizes == []
    standin.clock.sleep(24 * 3600)
    assert sorted(sizes) == [1] * 5 + [500] * 5
    assert {each["outcome"] for each in standin.control.get("deliveries")} == {"given_up"}


# --- templates, reset, journal, page


def test_templates_are_kept_previewed_and_must_be_active_to_send(standin: Running) -> None:
    brevo = api(standin)
    said = {"templateName": "Offre", "subject": "Pour {{ params.name }}", "htmlContent": "<p>{{ params.name }}</p>",
            "sender": {"email": SENDER}}  # fmt: skip
    number = brevo.post("/smtp/templates", json=said).json()["id"]
    body = {"templateId": number, "messageVersions": mail(1)["messageVersions"]}
    assert brevo.post("/smtp/email", json=body).status_code == 400
    assert brevo.put(f"/smtp/templates/{number}", json={"isActive": True}).status_code == 204
    assert brevo.post("/smtp/email", json=body).status_code == 201
    preview = brevo.post("/smtp/template/preview", json={"templateId": number, "params": {"name": "<Anne>"}}).json()
    assert (preview["subject"], preview["html"]) == ("Pour &lt;Anne&gt;", "<p>&lt;Anne&gt;</p>")


def test_a_reset_goes_back_to_what_was_seeded_and_time_goes_on(standin: Running) -> None:
    brevo = api(standin)
    brevo.post("/smtp/email", json=mail(key="k"))
    brevo.post("/contacts", json={"email": "a@example.com"})
    standin.clock.sleep(100)
    standin.control.faults({"do": "error_before"})
    before = standin.control.now()
    standin.control.reset()
    assert standin.control.now() == before
    assert standin.control.accepted() == []
    assert standin.control.requests() == []
    assert brevo.get("/contacts").json()["count"] == 0
    assert brevo.post("/smtp/email", json=mail(key="k")).status_code == 201
    standin.control.reset(seeds=False)
    assert brevo.post("/smtp/email", json=mail()).status_code == 400, "the sender is forgotten too"


def test_a_restart_forgets_no_accepted_message(tmp_path: Path) -> None:
    def start() -> tuple[StandIn, Running]:
        made = in_process(virtual=False)
        assert made.standin is not None
        Audience(opens=1, clicks=1).watch(made.standin.account)
        made.standin.keep_journal(tmp_path / "journal.jsonl")
        return made.standin, made

    _, first = start()
    content = '<a href="https://domaine.example.com/vin">vin</a>'
    assert api(first).post("/smtp/email", json=mail(5, key="k", htmlContent=content)).status_code == 201
    assert api(first).post("/contacts", json={"email": "a@example.com"}).status_code == 201
    assert api(first).post("/smtp/email", json=mail(0)).status_code == 400
    second, again = start()
    assert again.control.accepted() == first.control.accepted()
    assert api(again).post("/smtp/email", json=mail(5, key="k")).json()["code"] == "duplicate_parameter"
    assert api(again).get("/contacts").json()["count"] == 1
    second._run_due(datetime.now(UTC) + timedelta(hours=2))
    kinds = Counter(event.kind for event in second.account.log.events)
    assert kinds["delivered"] >= 4
    assert kinds["opened"] == kinds["click"] == kinds["delivered"]


def test_the_page_shows_what_was_accepted_and_runs_nothing_of_it(standin: Running) -> None:
    browser = httpx.Client(transport=standin.transport, base_url=standin.root)
    assert "No message has been accepted yet" in browser.get("/").text
    html = "<p>{{ params.name }}</p><script>alert(1)</script>"
    api(standin).post("/smtp/email", json=mail(1, htmlContent=html, subject="Pour <{{ params.name }}>"))
    page = browser.get("/").text
    assert "Pour &lt;0&gt;" in page
    uuid = page.partition("/messages/")[2].partition('"')[0]
    shown = browser.get(f"/messages/{uuid}").text
    assert "<script>" not in shown
    assert "<iframe sandbox srcdoc=" in shown
    assert "&lt;p&gt;0&lt;/p&gt;" in shown


# --- honesty


def test_what_it_accepts_and_answers_is_what_brevo_describes(standin: Running) -> None:
    honesty = Honesty()
    assert standin.standin is not None
    standin.standin.on_answer = honesty
    brevo = api(standin)
    at = (standin.control.now() + timedelta(hours=1)).isoformat()
    brevo.post("/smtp/email", json=mail(30, key="k", replyTo={"email": SENDER}))
    single = _without("messageVersions") | {"to": [{"email": "a@example.com"}], "tags": ["single"]}
    brevo.post("/smtp/email", json=single)
    batch = brevo.post("/smtp/email", json=mail(2, tag="later", scheduledAt=at)).json()["batchId"]
    brevo.get(f"/smtp/emailStatus/{batch}")
    brevo.delete(f"/smtp/email/{batch}")
    standin.control.events({"event": "delivered"}, {"event": "click", "link": "https://example.com", "ip": "192.0.2.1"})
    standin.control.events({"event": "unsubscribed", "address": "demo1@example.com"})
    brevo.get("/smtp/statistics/events", params={"sort": "asc"})
    uuid = brevo.get("/smtp/emails", params={"email": "demo1@example.com"}).json()["transactionalEmails"][0]["uuid"]
    for path in (f"/smtp/emails/{uuid}", "/smtp/blockedContacts", "/smtp/statistics/aggregatedReport",
                 "/smtp/statistics/reports", "/account", "/senders"):  # fmt: skip
        assert brevo.get(path).status_code == 200
    template = {"templateName": "t", "subject": "s", "htmlContent": "<p>Bonjour</p>", "sender": {"email": SENDER}}
    brevo.post("/smtp/templates", json={**template, "isActive": True})
    brevo.post("/smtp/template/preview", json={"templateId": 1, "params": {"name": "x"}})
    brevo.post("/smtp/templates/1/sendTest", json={"emailTo": ["a@example.com"]})
    for path in ("/smtp/templates", "/smtp/templates/1"):
        brevo.get(path)
    brevo.post("/contacts/attributes/normal/SCORE", json={"type": "float"})
    brevo.get("/contacts/attributes")
    brevo.post("/contacts/folders", json={"name": "CRM"})
    brevo.post("/contacts/lists", json={"name": "x", "folderId": 2})
    standin.clock.sleep(5)
    brevo.post("/contacts", json={"email": "a@example.com", "attributes": {"SCORE": 1.5}, "listIds": [2]})
    brevo.post("/contacts", json={"email": "a@example.com", "updateEnabled": True})
    brevo.put("/contacts/a@example.com", json={"attributes": {"SCORE": 2}})
    brevo.post("/contacts/lists/2/contacts/remove", json={"emails": ["a@example.com", "b@example.com"]})
    standin.clock.sleep(5)
    brevo.post("/contacts/lists/2/contacts/add", json={"ids": [1]})
    process = brevo.post("/contacts/import", json={"jsonBody": [{"email": "b@example.com"}], "listIds": [2]}).json()
    standin.clock.sleep(60)
    for path in ("/contacts", "/contacts/lists", "/contacts/lists/2/contacts", "/contacts/folders",
                 f"/processes/{process['processId']}"):  # fmt: skip
        assert brevo.get(path).status_code == 200
    campaign = {"name": "n", "subject": "s", "sender": {"email": SENDER}, "htmlContent": "<p>Bienvenue</p>",
                "recipients": {"listIds": [2]}}  # fmt: skip
    brevo.post("/emailCampaigns", json=campaign)
    brevo.post("/emailCampaigns/1/sendNow")
    standin.clock.sleep(100)
    standin.control.post(
        "campaign_events", [{"campaign": 1, "event": name} for name in ("opened", "click", "unsubscribed")]
    )
    brevo.post("/emailCampaigns/1/exportRecipients", json={"recipientsType": "all"})
    for path in (
        "/emailCampaigns?statistics=globalStats",
        "/emailCampaigns/1?statistics=globalStats",
        "/contacts/a@example.com",
    ):
        assert brevo.get(path).status_code == 200
    said = {"url": "https://r.example.com", "events": ["delivered"], "auth": {"type": "bearer", "token": "t"}}
    brevo.post("/webhooks", json=said)
    brevo.get("/webhooks")
    brevo.put("/webhooks/1", json={"url": "https://r2.example.com"})
    brevo.delete("/webhooks/1")
    assert honesty.problems == []
    assert len(honesty.compared) >= 35
    refused = [call for call in standin.control.requests() if call["status"] >= 400]
    assert refused == []


# --- beside `crm up`


@pytest.fixture
def marked(tmp_path: Path) -> marks.Mark:
    """A stand-in beside this CRM_HOME, whose process is ours."""
    began = marks._began(os.getpid())
    assert began is not None
    mark = marks.Mark("http://127.0.0.1:3999/v3", "xkeysib-standin-abc", ["CRM_BREVO_KEY_DEMO"], os.getpid(), began)
    (tmp_path / "standin").mkdir()
    (tmp_path / "standin" / "running.json").write_text(json.dumps(mark.__dict__))
    return mark


def test_other_terminals_find_the_stand_in_while_it_lives(
    tmp_path: Path, marked: marks.Mark, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRM_HOME", str(tmp_path))
    monkeypatch.delenv("CRM_BREVO_URL", raising=False)
    monkeypatch.delenv("CRM_BREVO_KEY_DEMO", raising=False)
    monkeypatch.setenv("CRM_BREVO_KEY", "xkeysib-" + "0" * 64 + "-0123456789abcdef")
    of_process.cache_clear()
    try:
        config = of_process()
        assert (config.brevo_url, config.live) == (marked.url, True)
        key = brevo_key(config, "CRM_BREVO_KEY_DEMO")
        assert key is not None
        assert key.get_secret_value() == marked.key
        assert brevo_key(config, "CRM_BREVO_KEY") is None, "a key of Brevo goes nowhere near it"
        (tmp_path / "standin" / "running.json").write_text(json.dumps({**marked.__dict__, "began": "1"}))
        of_process.cache_clear()
        assert of_process().brevo_url == "https://api.brevo.com/v3", "that process is another one"
        assert not of_process().live
        assert brevo_key(of_process(), "CRM_BREVO_KEY_DEMO") is None
        assert brevo_key(config, "CRM_BREVO_KEY") is None, "nor to where it was"
    finally:
        of_process.cache_clear()


@pytest.mark.parametrize(
    ("url", "value", "is_given"),
    [
        ("https://api.brevo.com/v3", "xkeysib-" + "a" * 64 + "-0123456789abcdef", True),
        ("https://api.brevo.com/v3", "xkeysib-standin-abc", False),
        ("http://127.0.0.1:4000/v3", "xkeysib-standin-abc", True),
        ("http://127.0.0.1:4000/v3", "xkeysib-" + "a" * 64 + "-0123456789abcdef", False),
        ("http://127.0.0.1:3999/v3", "xkeysib-standin-abc", False),  # the variable has a value: left dry
        ("http://127.0.0.1:3999/v3", None, True),
        ("https://api.brevo.com/v3", None, False),
    ],
)
def test_no_key_goes_where_it_does_not_belong(
    tmp_path: Path, marked: marks.Mark, url: str, value: str | None, is_given: bool
) -> None:
    assert (marks.key_for(url, value, "CRM_BREVO_KEY_DEMO", tmp_path) is not None) is is_given
    assert marks.key_for(url, None, "CRM_TEST_KEY_OTHER", tmp_path) is None
    assert "standin-abc" not in repr(marked)


def test_an_estate_with_a_key_of_its_own_is_not_lent_one(
    monkeypatch: pytest.MonkeyPatch, environment: Settings
) -> None:
    from crm_assets.settings import ROOT
    from crm_assets.tenants import Registry
    from crm_assets.up import UpError, require_standin

    registry = Registry(ROOT / "tenants")
    monkeypatch.delenv("CRM_BREVO_KEY_DEMO", raising=False)
    assert require_standin(environment, registry).slug == "demo"
    monkeypatch.setenv("CRM_BREVO_KEY_DEMO", KEY)
    with pytest.raises(UpError, match="CRM_BREVO_KEY_DEMO has a value"):
        require_standin(environment, registry)
