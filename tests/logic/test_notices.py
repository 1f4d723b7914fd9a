"""Outgoing webhooks, the plain part: identities, texts, retries, who is newly at risk, where nothing may be sent."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from crm_assets.logic import notices
from crm_assets.logic.notices import Happening
from crm_assets.rules import load
from crm_assets.settings import ROOT
from crm_assets.tenants import Registry, Tenant, WebhookEndpoint

NOW = datetime(2026, 3, 2, 6, 30, tzinfo=UTC)
RULES = load({}).webhooks
HAPPENING = Happening("gate.closed", "r1", NOW, {"run_id": "r1", "reasons": ["STALE_SALES"]})


def endpoint(url: str = "https://hooks.example.com/in/path-secret", *events: str) -> WebhookEndpoint:
    return WebhookEndpoint.model_validate(
        {"url": url, "secret_variable": "CRM_TEST_HOOK", "events": list(events) or ["gate.closed"]}
    )


def tenant(*endpoints: WebhookEndpoint) -> Tenant:
    return Registry(ROOT / "tenants").get("demo").model_copy(update={"webhooks": list(endpoints)})


@pytest.mark.parametrize(
    "address",
    [
        *("10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "127.0.0.1", "127.8.8.8", "0.0.0.0", "0.1.2.3"),
        *(
            "169.254.169.254",
            "100.64.0.1",
            "192.0.0.8",
            "192.88.99.1",
            "192.0.2.1",
            "198.18.0.1",
            "198.51.100.7",
            "203.0.113.9",
        ),
        *("224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255"),
        *("::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12:3456::1", "ff02::1", "ff0e::1", "2001:db8::1"),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "::ffff:0:127.0.0.1"),
        *("64:ff9b::7f00:1", "64:ff9b:1::a00:1", "2002:7f00:1::", "2002:a00:1::1", "2001:0:7f00:1::", "fec0::1"),
        *("", "localhost", "0x7f.1", "2130706433", "127.1", "1.2.3.4.5"),
    ],
)
def test_nothing_is_sent_into_a_private_network(address: str) -> None:
    assert not notices.is_public(address)


@pytest.mark.parametrize("address", ["93.184.216.34", "1.1.1.1", "172.32.0.1", "2606:4700::1111", "::ffff:1.1.1.1"])
def test_public_addresses_are_allowed(address: str) -> None:
    assert notices.is_public(address)


def test_a_happening_is_told_once_to_each_receiver_that_asked_for_it() -> None:
    told = tenant(
        endpoint(), endpoint("https://other.example.com:8443/x"), endpoint("https://no.example.com", "run.finished")
    )
    rows = notices.notices_of(told, [HAPPENING], NOW)
    assert [row["endpoint"] for row in rows] == ["hooks.example.com", "other.example.com:8443"]
    assert len({row["notice_id"] for row in rows}) == 2
    later = notices.notices_of(told, [HAPPENING], NOW + timedelta(days=1))
    assert [row["notice_id"] for row in later] == [row["notice_id"] for row in rows]
    other = notices.notices_of(told, [Happening("gate.closed", "r2", NOW, {})], NOW)
    assert not {row["notice_id"] for row in other} & {row["notice_id"] for row in rows}


def test_a_row_says_nothing_of_the_path_which_may_be_a_secret() -> None:
    (row,) = notices.notices_of(tenant(endpoint()), [HAPPENING], NOW)
    assert "path-secret" not in str(row)
    assert notices.host_of("https://[::zz]/x") == "?"
    assert notices.endpoint_key(endpoint().url) != notices.endpoint_key("https://hooks.example.com/in/other")


def test_the_body_is_the_same_text_at_every_try() -> None:
    payload = notices.payload_of("demo", Happening("run.finished", "r1", NOW, {"b": 1, "a": "é"}))
    assert notices.body_of(payload) == (
        '{"data":{"a":"\\u00e9","b":1,"tenant":"demo"},"timestamp":"2026-03-02T06:30:00+00:00","type":"run.finished"}'
    )
    assert notices.body_of(dict(reversed(payload.items()))) == notices.body_of(payload)


def test_three_more_tries_follow_the_first_each_later() -> None:
    waits = [notices.next_try_at(tries, NOW, RULES) for tries in range(1, RULES.max_tries + 1)]
    assert waits == [*(NOW + timedelta(minutes=minutes) for minutes in (1, 10, 60)), None]


def test_newly_at_risk_is_whose_flag_has_come_up() -> None:
    before = {"was": True, "turned": False, "fine": False, "left": False}
    after = {"was": True, "turned": True, "fine": False, "unknown before": True}
    assert notices.newly_at_risk(before, after) == ["turned"]
    assert notices.newly_at_risk({}, after) == []


def test_customers_at_risk_are_told_by_code_some_hundreds_to_a_notice() -> None:
    codes = [f"C{number:04}" for number in range(1001)]
    told = notices.at_risk_happenings(codes, "r1", "2026-03-02", NOW, RULES)
    assert [len(happening.data["client_codes"]) for happening in told] == [500, 500, 1]
    assert [code for happening in told for code in happening.data["client_codes"]] == codes
    assert {(happening.data["customers"], happening.data["parts"]) for happening in told} == {(1001, 3)}
    assert len({happening.subject for happening in told}) == 3
    assert max(len(notices.body_of(notices.payload_of("demo", happening))) for happening in told) < 20_000
    assert notices.at_risk_happenings([], "r1", "2026-03-02", NOW, RULES) == []


def test_every_problem_says_what_it_means() -> None:
    assert set(notices.PROBLEMS) >= notices.REFUSALS
    assert all(meaning for _, meaning in notices.PROBLEMS.values())
