"""What must hold before a live send, one thing missing at a time; and how far a send may go on."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from crm_assets import instances, safeguards, tables
from crm_assets.resources.warehouse import Warehouse
from crm_assets.settings import Settings
from crm_assets.tenants import Tenant
from tests.clock import StillClock
from tests.logic import estate
from tests.refusals import refusal

NOW = datetime(2026, 11, 24, 10, tzinfo=UTC)  # a Tuesday, 11:00 in Alsace
PLAN_HASH, TEMPLATE_HASH = "a" * 64, "b" * 16
KEY = {"campaign": "spring", "occurrence": "once", "step": 1}
BREVO = {"live": True, "sender_email": "cave@demo.example.com", "api_key_variable": "CRM_TEST_SAFEGUARDS_KEY"}
RULES = estate.tenant().business_rules
CAMPAIGN = "kind: news\nsubject: {fr: Notre lettre}\ntext: {fr: Bonjour}\n"


def put(warehouse: Warehouse, table: Any, *rows: dict[str, Any]) -> None:
    warehouse.append(table, pd.DataFrame(list(rows)))


def chunk(number: int, messages: int, at: datetime, status: str = "accepted") -> dict[str, Any]:
    tag = f"demo-spring-once-1-{number:012x}"
    return {
        **KEY, "tag": tag, "idempotency_key": tag, "request_hash": tag, "n_messages": messages, "n_bytes": 1,
        "status": status, "frozen_at": at, "first_tried_at": at, "looks": 0,
    }  # fmt: skip


def message(
    number: int, status: str = "sent", tag: str | None = None, sent_at: datetime | None = NOW
) -> dict[str, Any]:
    return {
        **KEY, "message_id": f"m{number}", "address": f"p{number}@example.com", "customer_id": f"c{number}",
        "run_id": "run", "scenario": "rebuy", "wine_ids": ["w"], "product_keys": ["p"], "params": {"items": []},
        "status": status, "planned_at": NOW - timedelta(days=1), "sent_at": sent_at if status == "sent" else None,
        "tag": tag or f"demo-spring-once-1-{1:012x}",
    }  # fmt: skip


def event(number: int, name: str, at: datetime = NOW) -> dict[str, Any]:
    return {
        "event_key": f"{number} {name} {at}", "address": f"p{number}@example.com", "event": name, "occurred_at": at,
        "tag": f"demo-spring-once-1-{1:012x}", "channel": "email", **KEY,
    }  # fmt: skip


@pytest.fixture
def tenant(tmp_path: Path) -> Tenant:
    """An estate that may send live, with an empty drop folder of its own."""
    folder = tmp_path / "raw"
    folder.mkdir()
    return estate.tenant(brevo=BREVO, source={"raw_url": str(folder)})


@pytest.fixture
def config(at_home: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """CRM_LIVE=1, a key, an own CRM_HOME and the campaign's file."""
    monkeypatch.setenv("CRM_TEST_SAFEGUARDS_KEY", "xkeysib-test")
    campaigns = tmp_path / "tenants" / "demo" / "campaigns"
    campaigns.mkdir(parents=True)
    (campaigns / "spring.yaml").write_text(CAMPAIGN)
    return at_home(tmp_path / "home", live=True, tenants=tmp_path / "tenants")


@pytest.fixture
def ready(tenant_warehouse: Warehouse) -> Warehouse:
    """A plan that everything has been done for."""
    put(
        tenant_warehouse,
        tables.campaigns,
        {
            **KEY, "run_id": "run", "plan_hash": PLAN_HASH, "audience": 60, "holdout": 0, "as_of": date(2026, 11, 23),
            "planned_at": NOW - timedelta(days=1), "expires_on": date(2026, 11, 30), "template_hash": TEMPLATE_HASH,
            "status": "planned",
        },
    )  # fmt: skip
    put(
        tenant_warehouse,
        tables.decisions,
        {
            "run_id": "run", "as_of": date(2026, 11, 23), "status": "open", "reasons": [], "data_quality_score": 100.0,
            "gate_export": True, "n_customers": 60, "n_permitted": 60, "n_eligible": 60, "n_errors": 0,
            "n_warnings": 0, "mean_audit_score": 100.0, "is_historical": False, "decided_at": NOW,
            "rules_version": "r",
        },
    )  # fmt: skip
    put(
        tenant_warehouse,
        tables.test_sends,
        {
            "test_id": "t", "campaign": "spring", "template_hash": TEMPLATE_HASH, "n_addresses": 1,
            "outcome": "accepted", "sent_at": NOW, "accepted_by": "Anne", "accepted_at": NOW,
        },
    )  # fmt: skip
    pulled(tenant_warehouse, NOW)
    return tenant_warehouse


def pulled(warehouse: Warehouse, at: datetime) -> None:
    feeds = [{"feed": f, "read_until": at, "tried_at": at, "n_rows": 0} for f in ("events", "blocked", "contacts")]
    warehouse.upsert(tables.pulls, pd.DataFrame(feeds))


def stored(warehouse: Warehouse) -> dict[str, Any]:
    return warehouse.read("activation", "campaigns").to_dict("records")[0]  # type: ignore[return-value]


def asked(warehouse: Warehouse, tenant: Tenant, config: Settings, **given: Any) -> None:
    clock, by = StillClock(given.pop("now", NOW)), given.pop("by", "Anne Muller")
    plan_hash = given.pop("confirmed_hash", PLAN_HASH)
    safeguards.require_live(
        warehouse, tenant, config, stored(warehouse), plan_hash, tenant.business_rules, clock, by=by
    )


def test_with_everything_in_place_the_confirmation_is_recorded(
    ready: Warehouse, tenant: Tenant, config: Settings
) -> None:
    asked(ready, tenant, config)
    assert ready.rows("select confirmed_by, confirmed_at from activation.campaigns") == [("Anne Muller", NOW)]
    assert ready.rows("select mark, armed_by from activation.instances") == [(0, "first live use")]
    assert instances.file_of(config, "demo").stat().st_mode & 0o777 == 0o600


def test_each_thing_missing_is_a_refusal_that_says_what_to_do(
    ready: Warehouse, tenant: Tenant, config: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def code(expected: str, word: str, **given: Any) -> None:
        found, sentence = refusal(
            lambda: asked(ready, given.pop("tenant", tenant), given.pop("config", config), **given)
        )
        assert (found, word in sentence) == (expected, True), sentence
        assert "xkeysib" not in sentence

    code("LIVE_REFUSED", "brevo.live: true", tenant=tenant.model_copy(update={"brevo": estate.tenant().brevo}))
    code("LIVE_REFUSED", "CRM_LIVE", config=config.model_copy(update={"live": False}))
    code("NOT_CONFIRMED", "crm activation confirm", confirmed_hash=None)
    code("NOT_CONFIRMED", "--by NAME", by=" ")
    code("PLAN_HASH", PLAN_HASH, confirmed_hash="c" * 64)
    code("EXPIRED", "plan anew", now=NOW + timedelta(days=7))
    code("REFUSALS_UNREADABLE", "60 minutes", now=NOW + timedelta(hours=2))
    at_noon = NOW - timedelta(hours=4)
    pulled(ready, at_noon)
    code("OUTSIDE_WINDOW", "2026-11-24 09:00", now=at_noon)
    pulled(ready, NOW)
    with monkeypatch.context() as patch:
        patch.delenv("CRM_TEST_SAFEGUARDS_KEY")
        code("LIVE_REFUSED", "CRM_TEST_SAFEGUARDS_KEY")
    for change, undo, expected, word in (
        ("update gate.decisions set status = 'closed', reasons = '{CIRCUIT_BREAKER}'",
         "update gate.decisions set status = 'open', reasons = '{}'", "GATE_CLOSED", "CIRCUIT_BREAKER"),
        ("update activation.test_sends set accepted_at = null",
         "update activation.test_sends set accepted_at = sent_at", "NO_ACCEPTED_TEST", "crm activation accept-test"),
        ("update activation.test_sends set template_hash = 'older'",
         f"update activation.test_sends set template_hash = '{TEMPLATE_HASH}'", "NO_ACCEPTED_TEST", "activation test"),
        ("insert into activation.pauses values ('1', '*', 'harvest', 'Anne', now())",
         "delete from activation.pauses", "PAUSED", "harvest"),
    ):  # fmt: skip
        ready.execute(change)
        code(expected, word)
        ready.execute(undo)
    assert ready.rows("select confirmed_by from activation.campaigns") == [(None,)]
    asked(ready, tenant, config)


@pytest.mark.parametrize("name", ["STOP", "stop", "Stop.TXT", "STOP.txt.txt", "ventes/STOP.docx"])
def test_a_file_named_stop_stops(ready: Warehouse, tenant: Tenant, config: Settings, name: str) -> None:
    sign = Path(str(tenant.source.raw_url), name)
    sign.parent.mkdir(exist_ok=True)
    sign.touch()
    code, sentence = refusal(lambda: asked(ready, tenant, config))
    assert (code, name in sentence) == ("STOP_FILE", True)
    assert allowed(ready, tenant).reason == "STOP_FILE"
    sign.rename(sign.with_name("stopped.csv"))
    assert safeguards.stop_sign(tenant, config) is None


def test_a_drop_folder_that_cannot_be_looked_into_stops(ready: Warehouse, tenant: Tenant, config: Settings) -> None:
    Path(str(tenant.source.raw_url)).rmdir()
    code, sentence = refusal(lambda: asked(ready, tenant, config))
    assert (code, "not there" in sentence) == ("STOP_FILE_UNKNOWN", True)
    assert (allowed(ready, tenant).messages, allowed(ready, tenant).wait_until) == (0, None)


def test_a_campaign_leaves_on_its_day_and_about_a_feast_by_the_last_order_day(
    ready: Warehouse, tenant: Tenant, config: Settings
) -> None:
    (config.tenants / "demo" / "campaigns" / "spring.yaml").write_text(CAMPAIGN + "feast: christmas\n")
    asked(ready, tenant, config)
    (config.tenants / "demo" / "campaigns" / "spring.yaml").write_text(CAMPAIGN + "send_on: 2026-11-25\n")
    code, sentence = refusal(lambda: asked(ready, tenant, config))
    assert (code, "leaves on 2026-11-25" in sentence) == ("NOT_DUE", True)
    (config.tenants / "demo" / "campaigns" / "spring.yaml").write_text(CAMPAIGN + "feast: christmas\n")
    late = NOW.replace(month=12, day=17)
    ready.execute("update activation.campaigns set expires_on = '2026-12-20'")
    ready.execute("update gate.decisions set as_of = '2026-12-15'")
    pulled(ready, late)
    code, sentence = refusal(lambda: asked(ready, tenant, config, now=late))
    assert (code, "2026-12-16" in sentence) == ("LAST_ORDER_PAST", True)


@pytest.mark.parametrize(
    ("tags", "refused"),
    [
        ({}, False),
        ({"dagster/partition": "demo", "crm/trigger": "command"}, False),
        ({"dagster/schedule_name": "continue_sends"}, False),
        ({"dagster/schedule_name": "weekly_refresh"}, True),
        ({"dagster/sensor_name": "dropped_files"}, True),
        ({"dagster/backfill": "x"}, True),
        ({"dagster/parent_run_id": "x"}, True),
        ({"dagster/schedule_name": "continue_sends", "dagster/retry_number": "1"}, True),
    ],
)
def test_only_people_start_a_live_send(tags: dict[str, str], refused: bool) -> None:
    if not refused:
        safeguards.refuse_automatic(tags)
        return
    assert refusal(lambda: safeguards.refuse_automatic(tags))[0] == "AUTOMATIC"


# --- how far a send may go on


def allowed(warehouse: Warehouse, tenant: Tenant, now: datetime = NOW) -> safeguards.Allowance:
    with warehouse.transaction() as connection:
        return safeguards.allowance(connection, warehouse, tenant, stored(warehouse), RULES, now)


def test_a_live_campaign_starts_with_fifty_waits_and_goes_on_once_the_events_were_read(
    ready: Warehouse, tenant: Tenant
) -> None:
    assert allowed(ready, tenant) == safeguards.Allowance(50)
    put(ready, tables.chunks, chunk(1, 30, NOW), chunk(2, 9, NOW, "rejected"), chunk(3, 9, NOW, "released"))
    assert allowed(ready, tenant) == safeguards.Allowance(20), "what was refused or never left does not count"
    ended = NOW + timedelta(minutes=5)
    put(ready, tables.chunks, chunk(4, 20, ended, "unknown"))
    goes_on = ended + timedelta(minutes=30)
    assert allowed(ready, tenant, ended) == safeguards.Allowance(0, goes_on, "RAMP_UP")
    just_before = goes_on - timedelta(seconds=1)
    assert allowed(ready, tenant, just_before) == safeguards.Allowance(0, goes_on, "RAMP_UP")
    assert allowed(ready, tenant, goes_on) == safeguards.Allowance(0, goes_on, "RAMP_UP"), "nobody has read how it went"
    pulled(ready, goes_on)
    assert allowed(ready, tenant, goes_on) == safeguards.Allowance(1000)


def test_the_window_and_a_pause_hold_at_the_next_call(ready: Warehouse, tenant: Tenant) -> None:
    evening = NOW.replace(hour=18)
    opens = datetime(2026, 11, 25, 8, tzinfo=UTC)
    assert allowed(ready, tenant, evening) == safeguards.Allowance(0, opens, "OUTSIDE_WINDOW")
    sunday = NOW + timedelta(days=5)
    assert allowed(ready, tenant, sunday).reason == "CLOSED_DAY"
    closed = tenant.model_copy(
        update={"sending_days": estate.tenant(sending_days={"blackout": [NOW.date()]}).sending_days}
    )
    assert allowed(ready, closed).reason == "CLOSED_DAY"
    ready.execute("insert into activation.pauses values ('1', 'spring', 'a typo', 'Anne', now())")
    assert allowed(ready, tenant) == safeguards.Allowance(0, None, "PAUSED")


@pytest.mark.parametrize(
    ("bounced", "complained", "reason"),
    [
        (2, 0, None),
        (3, 0, "3 of 50 messages (6.0%) bounced hard, above 5.0%"),
        (0, 1, "1 of 50 messages (2.0%) were complained about, above 0.3%"),
    ],
)
def test_it_pauses_itself_above_five_per_cent_hard_bounces_or_a_third_of_a_per_cent_complaints(
    ready: Warehouse, bounced: int, complained: int, reason: str | None
) -> None:
    put(ready, tables.messages, *(message(n) for n in range(50)), message(99, "planned"))
    rows = [event(n, "hard_bounce") for n in range(bounced)] + [event(n, "delivered") for n in range(50)]
    rows += [event(n, "hard_bounce", NOW + timedelta(hours=1)) for n in range(bounced)]  # said twice
    rows += [event(20 + n, "spam") for n in range(complained)]
    put(ready, tables.events, *rows)
    assert safeguards.judge(ready, stored(ready), RULES, NOW) == reason
    found = ready.rows("select campaign, reason, paused_by from activation.pauses")
    assert found == ([("spring", reason, "automatic")] if reason else [])


def test_news_that_comes_in_between_two_calls_stops_the_next(ready: Warehouse, tenant: Tenant) -> None:
    put(ready, tables.messages, *(message(n) for n in range(60)))
    put(ready, tables.chunks, chunk(1, 60, NOW - timedelta(hours=1)))
    assert allowed(ready, tenant) == safeguards.Allowance(1000)
    put(ready, tables.events, *(event(n, "hard_bounce") for n in range(10)))
    assert allowed(ready, tenant) == safeguards.Allowance(1000), "nobody has read them yet"
    ready.execute("insert into outcomes.received values ('h', '', now(), now())")  # a webhook's body, read
    assert allowed(ready, tenant) == safeguards.Allowance(0, None, "PAUSED")


def test_a_campaign_that_a_person_resumed_is_judged_by_what_leaves_since(ready: Warehouse) -> None:
    from crm_assets.resources.control import Control

    Control().recover("demo", "campaign-paused:", NOW)  # of a test before
    put(ready, tables.messages, *(message(n) for n in range(50)))
    put(ready, tables.events, *(event(n, "hard_bounce") for n in range(10)))
    assert safeguards.judge(ready, stored(ready), RULES, NOW)
    assert safeguards.judge(ready, stored(ready), RULES, NOW), "judged again, it stays paused"
    alerts = [a for a in Control().open_alerts("demo") if a.cause == "campaign-paused:spring"]
    assert [(a.occurrences, "20.0%" in a.message) for a in alerts] == [(1, True)], "said once"
    assert ready.count("activation", "pauses") == 1
    ready.execute("update activation.pauses set resumed_at = %s, resumed_by = 'Anne'", [NOW + timedelta(hours=1)])
    assert safeguards.judge(ready, stored(ready), RULES, NOW) is None
    later = NOW + timedelta(hours=2)
    put(ready, tables.messages, *(message(n, sent_at=later) for n in range(50, 60)))
    put(ready, tables.events, event(50, "invalid", later))
    assert "1 of 10" in str(safeguards.judge(ready, stored(ready), RULES, later))
