"""Three vocabularies and two ways of dating become one event with one key."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd
import pytest

from crm_assets.logic import events
from crm_assets.logic.brevo_rows import Event
from crm_assets.logic.outbox import tag_of

TAG = tag_of("demo", "weekly", "2026-W10", 1, "0123456789ab")
UTC_SECOND = 1_772_445_600  # 2026-03-02 10:00:00 UTC, 11:00 in Paris


def line(event: str = "delivered", date: str = "2026-03-02T11:00:00.000+01:00", **more: Any) -> Event:
    """A line of Brevo's log."""
    said = {"email": "ada@example.com", "messageId": "<1@smtp>", "tag": TAG, **more}
    return Event.of({"event": event, "date": date, **said})


def payload(event: str = "delivered", ts_event: int = UTC_SECOND, **more: Any) -> dict[str, Any]:
    """An item of a webhook's body."""
    said = {"email": "ada@example.com", "message-id": "<1@smtp>", "tags": [TAG], "date": "2026-03-02 11:00:00", "id": 7}
    return {"event": event, "ts_event": ts_event, "ts": UTC_SECOND + 3600, **said, **more}


def of_log(*lines: Event) -> pd.DataFrame:
    return events.understood(events.said_in_log(lines), "demo").rows


def of_body(*items: dict[str, Any]) -> pd.DataFrame:
    return events.understood(events.said_in_body(json.dumps(items).encode()), "demo").rows


# --- names


def test_a_name_means_the_same_in_every_vocabulary_that_has_it() -> None:
    vocabularies = (events.CREATION, events.PAYLOAD, events.STATISTICS)
    for one in vocabularies:
        for other in vocabularies:
            shared = set(one) & set(other)
            assert {name: one[name] for name in shared} == {name: other[name] for name in shared}
            assert all(events.canonical(name) == one[name] for name in one)


@pytest.mark.parametrize(
    ("creation", "in_payload", "statistics", "canonical"),
    [
        ("request", "request", "requests", "sent"),
        ("hardBounce", "hard_bounce", "hardBounces", "hard_bounce"),
        ("softBounce", "soft_bounce", "softBounces", "soft_bounce"),
        ("click", "click", "clicks", "clicked"),
        ("uniqueOpened", "unique_opened", "opened", "opened"),
        ("proxyOpen", "proxy_open", "loadedByProxy", "proxy_opened"),
        ("unsubscribed", "unsubscribe", "unsubscribed", "unsubscribed"),
        ("invalid", "invalid_email", "invalid", "invalid"),
    ],
)
def test_one_thing_has_three_names(creation: str, in_payload: str, statistics: str, canonical: str) -> None:
    assert {events.canonical(name) for name in (creation, in_payload, statistics)} == {canonical}


@pytest.mark.parametrize(
    ("name", "canonical"),
    [("Unsubscribed", "unsubscribed"), ("HARD_BOUNCE", "hard_bounce"), ("hard-bounces", "hard_bounce"),
     ("Unsubscribe ", "unsubscribed"), ("Spam", "spam"), ("load", "other:load")],
)  # fmt: skip
def test_a_refusal_does_not_depend_on_how_its_name_is_spelt(name: str, canonical: str) -> None:
    assert events.canonical(name) == canonical


def test_a_name_that_nobody_knows_is_kept_and_reported() -> None:
    found = events.understood(events.said_in_log([line("teleported"), line("teleported", email="bob@x.fr")]), "demo")
    assert set(found.rows["event"]) == {"other:teleported"}
    assert found.unknown == {"teleported": 2}


def test_what_happens_to_a_contact_is_no_event_of_a_message() -> None:
    found = events.understood(events.said_in_body(json.dumps(payload("contact_updated")).encode()), "demo")
    assert (len(found.rows), found.n_not_of_a_message) == (0, 1)


# --- polled and posted meet


def test_what_is_polled_and_what_is_posted_have_one_key() -> None:
    polled, posted = of_log(line()), of_body(payload())
    assert polled["event_key"].tolist() == posted["event_key"].tolist()
    assert polled["occurred_at"].tolist() == posted["occurred_at"].tolist()
    assert polled.loc[0, ["campaign", "occurrence", "step"]].tolist() == ["weekly", "2026-W10", 1]


@pytest.mark.parametrize(
    ("paris", "second"),
    [
        ("2026-01-15T09:30:00.000+01:00", 1_768_465_800),  # winter
        ("2026-07-15T09:30:00.000+02:00", 1_784_100_600),  # summer
        ("2026-07-15T09:30:00", 1_784_100_600),  # clocks in Paris, and no zone
        ("2026-07-15 09:30:00", 1_784_100_600),
        ("2026-07-15T07:30:00Z", 1_784_100_600),
        ("2026-03-29T01:59:59+01:00", 1_774_745_999),  # the night the clocks go forward, before and after
        ("2026-03-29T03:00:00", 1_774_746_000),
        ("2026-10-25T02:30:00+02:00", 1_792_888_200),  # the night they go back: first and second pass
        ("2026-10-25T02:30:00+01:00", 1_792_891_800),
        ("2026-10-25T02:30:00", 1_792_888_200),  # no zone: nobody can tell, and either webhook is the same event
        ("2026-10-25T02:30:00", 1_792_891_800),
    ],
)
def test_they_meet_however_the_date_is_written(paris: str, second: int) -> None:
    assert of_log(line(date=paris))["event_key"].tolist() == of_body(payload(ts_event=second))["event_key"].tolist()


def test_they_meet_though_the_webhook_says_less() -> None:
    bare = payload("opened", link=None, tags=[])
    del bare["ts_event"]
    polled = of_log(line("opened", link="https://shop.example/a", email="Ada@Example.com"))
    assert polled["event_key"].tolist() == of_body(bare)["event_key"].tolist()
    assert of_body(payload("opened", ts_event=0, ts_epoch=UTC_SECOND * 1000))["event_key"].tolist() == (
        polled["event_key"].tolist()
    )


def test_clicks_on_two_links_are_two_events_and_the_same_event_twice_is_one() -> None:
    links = ("https://shop.example/a", "https://shop.example/b", "https://shop.example/a")
    assert len(of_log(*(line("clicks", link=link) for link in links))) == 2
    assert len(of_body(payload("opened"), payload("unique_opened"))) == 1
    assert len(of_log(line(date="2026-03-02T11:00:00.100+01:00"), line(date="2026-03-02T11:00:00.900+01:00"))) == 1


def test_duplicates_keep_what_either_of_them_says() -> None:
    rows = of_body(payload(tags=[], reason=None), payload(reason="late"))
    assert rows[["tag", "reason", "campaign"]].to_numpy().tolist() == [[TAG, "late", "weekly"]]


def test_a_proxy_that_opens_is_a_machine_and_another_event_than_a_person_opening() -> None:
    rows = of_body(payload("proxy_open"), payload("opened"), payload("unique_proxy_open"))
    assert sorted(zip(rows["event"], rows["is_machine"], strict=True)) == [("opened", False), ("opened", True)]


# --- tags, campaigns, strangers


@pytest.mark.parametrize("said", [TAG, f'["news", "{TAG}"]', ["news", TAG]])
def test_our_tag_is_found_among_others(said: Any) -> None:
    assert events.one_tag(said) == TAG


@pytest.mark.parametrize(
    ("said", "expected"), [("news", "news"), (["a", "b"], "a"), ("[broken", "[broken"), ([], None)]
)
def test_without_a_tag_of_ours_the_first_one_stands(said: Any, expected: str | None) -> None:
    assert events.one_tag(said) == expected


def test_the_custom_header_stands_in_for_a_tag_that_is_missing() -> None:
    assert of_body(payload(tags=[], **{"X-Mailin-custom": TAG}))["tag"].tolist() == [TAG]


def test_an_event_of_another_estate_on_the_same_account_is_none_of_ours() -> None:
    other = tag_of("other", "weekly", "once", 1, "0123456789ab")
    found = events.understood(events.said_in_log([line(tag=other), line()]), "demo")
    assert (len(found.rows), found.n_foreign) == (1, 1)


def test_an_event_of_a_test_says_so_and_is_kept_from_other_estates_too() -> None:
    tags = [tag_of(estate, "weekly", "test", 2, "0123456789ab") for estate in ("demo", "other")]
    found = events.understood(events.said_in_log([line(tag=tag) for tag in tags]), "demo")
    assert found.rows[["campaign", "occurrence", "step"]].to_numpy().tolist() == [["weekly", "test", 2]]
    assert found.n_foreign == 1


def test_an_event_of_brevos_own_campaign_bears_its_name_and_number() -> None:
    item = {"event": "click", "email": "ada@example.com", "camp_id": 12, "campaign name": "Noël ", "tag": ""}
    rows = of_body({**item, "ts_event": UTC_SECOND, "link": "https://shop.example"})
    assert rows[["campaign", "message_ref", "event", "tag"]].iloc[0].tolist() == [
        "Noël",
        "campaign:12",
        "clicked",
        None,
    ]


def test_recipients_of_a_campaign_meet_each_other_and_nothing_else() -> None:
    at = pd.Timestamp("2026-03-02T10:00:00Z").to_pydatetime()
    said = events.said_of_recipients(["ada@x.fr", "ADA@x.fr", "bob@x.fr"], 12, "Noël", at)
    rows = events.understood(said, "demo").rows
    assert rows.sort_values("address")[["address", "event", "campaign", "message_ref"]].to_numpy().tolist() == [
        ["ada@x.fr", "sent", "Noël", "campaign:12"],
        ["bob@x.fr", "sent", "Noël", "campaign:12"],
    ]


# --- bodies that are none


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"7", b'["a"]', b"[" * 100_000])
def test_a_body_that_holds_no_events_says_so(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"no JSON|no event"):
        events.said_in_body(body)


@pytest.mark.parametrize(
    "item",
    [
        {},
        {"event": "opened"},
        {"event": "opened", "email": "nobody", "ts_event": UTC_SECOND},
        {"event": "opened", "email": "ada@x.fr"},
        {"event": "opened", "email": "ada@x.fr", "ts_event": "soon"},
        {"event": "opened", "email": "ada@x.fr", "ts_event": {"a": 1}},
        {"event": "opened", "email": "ada@x.fr", "ts_event": True, "date": []},
    ],
)
def test_an_item_without_address_or_moment_is_counted_and_costs_the_others_nothing(item: dict[str, Any]) -> None:
    found = events.understood(events.said_in_body(json.dumps([item, payload()]).encode()), "demo")
    assert (len(found.rows), found.n_unreadable) == (1, 1)


@pytest.mark.parametrize("seconds", [10**400, -(10**18), 1e300])
def test_a_moment_beyond_all_calendars_is_none(seconds: float) -> None:
    body = json.dumps([payload(ts_event=seconds)]).encode()  # type: ignore[arg-type]
    assert events.understood(events.said_in_body(body), "demo").n_unreadable == 1


def test_text_that_no_database_takes_is_mended() -> None:
    rows = of_body(payload(reason="a\0b", **{"message-id": "<\ud800x>"}))
    assert rows[["reason", "message_ref"]].iloc[0].tolist() == ["ab", "x"]
