"""Sending against a real database: on current data, and nobody twice."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from benchmarks import sending_estate
from brevo_standin.mail import IdempotencyMode
from crm_assets import activation, attempts, instances, operations, sending
from crm_assets.campaigns import Campaign
from crm_assets.logic.activation import RefusalError
from crm_assets.resources import brevo
from crm_assets.resources.control import Control as Control_
from crm_assets.resources.warehouse import Warehouse
from crm_assets.settings import Settings, settings
from crm_assets.tenants import Tenant
from tests.clock import StillClock
from tests.refusals import refusal_code
from tests.standin import KEY, Control, Running, in_process

AS_OF = date(2026, 3, 10)
NOW = datetime(2026, 3, 10, 9, tzinfo=UTC)  # a Tuesday; the stand-in's clock begins here
TENANT = sending_estate.tenant()
RULES = TENANT.business_rules
CAMPAIGN = Campaign.model_validate({"name": "spring", "kind": "reco", "subject": {"fr": "Notre sélection"}})


@pytest.fixture
def warehouse(tenant_warehouse: Warehouse) -> Warehouse:
    """Twenty-nine customers, gated."""
    sending_estate.build(tenant_warehouse, TENANT, 29, AS_OF, NOW)
    return tenant_warehouse


def plan(warehouse: Warehouse, campaign: Campaign = CAMPAIGN, as_of: date = AS_OF) -> activation.PlanSummary:
    return activation.plan_campaign(warehouse, TENANT, campaign, RULES, as_of, NOW)


def outbox(warehouse: Warehouse) -> list[tuple[Any, ...]]:
    return warehouse.rows("select message_id, address, status, batch_id from activation.messages order by 1")


def send(warehouse: Warehouse, **given: Any) -> sending.SendSummary:
    arguments = {"campaign": CAMPAIGN, "tenant": TENANT, "as_of": AS_OF, "config": settings(), **given}
    return sending.send_campaign(sending.Sending(warehouse, clock=StillClock(NOW), **arguments))


def test_a_dry_run_changes_no_message_and_writes_the_same_attempts_again(warehouse: Warehouse) -> None:
    made = plan(warehouse)
    before = outbox(warehouse)
    first = send(warehouse)
    attempts = warehouse.rows("select * from activation.attempts order by attempt_id")
    assert (first.dry_run, first.messages, first.chunks, first.plan_hash) == (True, 29, 1, made.plan_hash)
    assert send(warehouse) == first
    assert warehouse.rows("select * from activation.attempts order by attempt_id") == attempts
    assert warehouse.rows("select is_dry_run, outcome, n_messages from activation.attempts") == [(True, "dry_run", 29)]
    assert outbox(warehouse) == before


def test_what_was_not_planned_or_has_expired_or_was_changed_is_not_sent(warehouse: Warehouse) -> None:
    assert refusal_code(lambda: send(warehouse)) == "NOT_PLANNED"
    plan(warehouse)
    assert send(warehouse, as_of=AS_OF + timedelta(days=7)).messages == 29
    assert refusal_code(lambda: send(warehouse, as_of=AS_OF + timedelta(days=8))) == "EXPIRED"
    other = CAMPAIGN.model_copy(update={"subject": {"fr": "Autre chose"}})
    assert refusal_code(lambda: send(warehouse, campaign=other)) == "PLAN_CHANGED"
    assert refusal_code(lambda: send(warehouse, tenant=sending_estate.tenant(siren="111111111"))) == "PLAN_CHANGED"
    warehouse.execute(
        "update activation.messages set params = '{\"items\": []}' where address = (select min(address)"
        " from activation.messages)"
    )
    assert refusal_code(lambda: send(warehouse)) == "PLAN_CHANGED"


def test_a_gate_closed_since_stops_the_send(warehouse: Warehouse) -> None:
    plan(warehouse)
    warehouse.execute(
        "insert into gate.decisions select 'newer', as_of, 'closed', '{CIRCUIT_BREAKER}', 10, false,"
        " n_customers, n_permitted, n_eligible, n_errors, n_warnings, mean_audit_score, false,"
        " decided_at + interval '1 hour',"
        " rules_version from gate.decisions"
    )
    assert refusal_code(lambda: send(warehouse)) == "GATE_CLOSED"
    assert warehouse.count("activation", "attempts") == 0


def test_a_newer_run_that_waits_for_its_review_does_not_stale_a_plan(warehouse: Warehouse) -> None:
    plan(warehouse)
    warehouse.execute(
        "insert into gate.decisions select 'newer', as_of, 'closed', '{NO_ELIGIBLE_CUSTOMER}', data_quality_score,"
        " false, n_customers, n_permitted, 0, n_errors, n_warnings, mean_audit_score, false,"
        " decided_at + interval '1 hour', rules_version from gate.decisions"
    )
    assert send(warehouse).messages == 29
    warehouse.execute("update gate.decisions set reasons = reasons || '{CIRCUIT_BREAKER}' where run_id = 'newer'")
    assert refusal_code(lambda: send(warehouse)) == "GATE_CLOSED"


def test_a_plan_whose_own_run_has_been_closed_is_not_sent_although_a_newer_run_is_open(warehouse: Warehouse) -> None:
    plan(warehouse)
    warehouse.execute(
        "insert into gate.decisions select 'newer', as_of, status, reasons, data_quality_score, gate_export,"
        " n_customers, n_permitted, n_eligible, n_errors, n_warnings, mean_audit_score, false,"
        " decided_at + interval '1 hour', rules_version from gate.decisions"
    )
    assert send(warehouse).messages == 29
    warehouse.execute(
        "update gate.decisions set status = 'closed', reasons = '{CIRCUIT_BREAKER}' where run_id <> 'newer'"
    )
    assert refusal_code(lambda: send(warehouse)) == "GATE_CLOSED"


def test_current_data_decide_who_is_still_written_to(warehouse: Warehouse) -> None:
    plan(warehouse)
    warehouse.execute("update audit.customer_facts set is_refused = true where customer_id = 'c00001'")
    warehouse.execute("update audit.customer_facts set last_contact_date = '2026-03-09' where customer_id = 'c00002'")
    warehouse.execute("insert into rfm.customer_wines values ('c00003', 'w1', '2026-03-08')")
    warehouse.execute("delete from audit.customer_facts where customer_id = 'c00004'")
    warehouse.execute("update curated.dim_customers set profiling_objected = true where customer_id = 'c00005'")
    done = send(warehouse)
    assert done.messages == 24
    assert done.held_back == {
        "OBJECTED": 1,
        "PROFILING_OBJECTED": 1,
        "RECENT_DUPLICATE": 1,
        "SILENCE_WINDOW": 1,
        "UNKNOWN_CUSTOMER": 1,
    }


# --- live, against the stand-in


SMALL_CALLS = {"activation": {"chunk_max_messages": 5}}
LIVE_TENANT = sending_estate.tenant(rules=SMALL_CALLS)


class Live:
    """A planned campaign whose every safeguard holds, and the stand-in that it is sent to."""

    def __init__(self, warehouse: Warehouse, standin: Running, config: Settings, home: Path) -> None:
        self.warehouse, self.standin = warehouse, standin
        self.client_config = config.model_copy(update={"live": True, "brevo_url": "http://127.0.0.1:9/v3"})
        self.drop = home / "data" / "demo" / "raw"
        self.drop.mkdir(parents=True)
        self.config = self.client_config.model_copy(update={"home": home, "data": home / "data"})
        self.plan = activation.plan_campaign(warehouse, LIVE_TENANT, CAMPAIGN, LIVE_TENANT.business_rules, AS_OF, NOW)
        sending_estate.accept_test(warehouse, CAMPAIGN.name, NOW)
        self.by_address = dict(warehouse.rows("select address, customer_id from activation.messages"))

    @property
    def control(self) -> Control:
        return self.standin.control

    def send(self, tenant: Tenant = LIVE_TENANT, **given: Any) -> sending.SendSummary:
        arguments = {"confirmed_hash": self.plan.plan_hash, "by": "Anna", **given}

        def connect(tenant: Tenant, _: Settings, clock: Any, *, mode: Any) -> brevo.Brevo:
            return brevo.client(tenant, self.client_config, clock, mode=mode, transport=self.standin.transport)

        return sending.send_campaign(
            sending.Sending(
                self.warehouse, tenant, CAMPAIGN, self.config, self.standin.clock, connect=connect, **arguments
            )
        )

    def finish(self, rounds: int = 30) -> sending.SendSummary:
        """Send, wait as long as it says, go on, until there is nothing to wait for."""
        for _ in range(rounds):
            done = self.send()
            if done.wait_until is None:
                return done
            wait = (done.wait_until - self.standin.clock.now()).total_seconds()
            self.standin.clock.sleep(max(wait, 1))
        raise AssertionError(f"still waiting after {rounds} rounds: {done}")

    def statuses(self) -> dict[str, int]:
        return dict(
            self.warehouse.rows("select status, count(*)::int from activation.messages group by status order by status")
        )

    def chunks(self) -> dict[str, int]:
        return dict(self.warehouse.rows("select status, count(*)::int from activation.chunks group by status"))

    def assert_once(self, *, but: Collection[str] = ()) -> None:
        """Everybody but those customers was accepted exactly once, and the ledger says what the stand-in does."""
        accepted = [(row["tag"], row["address"]) for row in self.control.accepted("tag", "address")]
        assert Counter(address for _, address in accepted) == {a: 1 for a, c in self.by_address.items() if c not in but}
        ledger = self.warehouse.rows("select tag, address from activation.messages where status = 'sent'")
        assert sorted(ledger) == sorted(accepted)


@pytest.fixture
def live(
    warehouse: Warehouse, environment: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Live]:
    """Makes a Live in an idempotency mode."""

    def make(mode: IdempotencyMode = "none") -> Live:
        monkeypatch.setenv("CRM_BREVO_KEY", KEY)
        return Live(warehouse, in_process(mode, senders=(sending_estate.SENDER,)), environment, tmp_path)

    return make


def test_a_live_send_reaches_everybody_once_and_says_so(live: Callable[..., Live]) -> None:
    it = live()
    done = it.send()
    assert (done.status, done.messages, done.chunks, done.remaining, done.unknown) == ("done", 29, 6, 0, 0)
    it.assert_once()
    assert it.chunks() == {"accepted": 6}
    assert it.warehouse.rows("select count(*), count(ended_at), min(outcome) from activation.attempts") == [
        (6, 6, "accepted")
    ]
    assert it.warehouse.rows("select status, began_at is not null, ended_at is not null from activation.campaigns") == [
        ("done", True, True)
    ]
    assert it.warehouse.rows("select distinct status from activation.batches") == [("sent",)]
    again = it.send()
    assert (again.status, again.messages, again.chunks) == ("done", 0, 0)
    it.assert_once()


LOST_ANSWERS = ["error_after", "reset_after", "hang_after", "truncated", "garbled", "close_after"]
NEVER_ACCEPTED = ["error_before", "reset_before", "hang_before", "close_before"]


@pytest.mark.parametrize(
    ("mode", "fault"),
    [*(("none", fault) for fault in LOST_ANSWERS + NEVER_ACCEPTED), ("body", "error_after"), ("http", "error_before")],
)
def test_a_lost_answer_is_looked_up_and_nobody_is_written_to_twice(
    live: Callable[..., Live], mode: IdempotencyMode, fault: str
) -> None:
    it = live(mode)
    it.control.faults({"do": fault, "path": "/smtp/email", "method": "POST", "nth": 2})
    it.control.log_lag(120)
    first = it.send()
    if first.status != "done":  # a whole answer that cannot be read may be taken for what its status says
        assert (first.wait_reason, first.unknown, first.remaining) == ("SETTLING", 5, 19)
    done = it.finish()
    assert (done.status, it.statuses()) == ("done", {"sent": 29})
    it.assert_once()


def refused(it: Live, **given: Any) -> str:
    """The refusal of a send, as people read it."""
    with pytest.raises(RefusalError) as raised:
        it.send(**given)
    assert "example.com" not in str(raised.value)
    return str(raised.value)


def test_one_bad_row_is_found_and_nobody_else_pays_for_it(live: Callable[..., Live]) -> None:
    it = live()
    bad = "c00007@example.com"
    it.control.faults({"do": "bad_row", "path": "/smtp/email", "method": "POST", "address": bad})
    done = it.finish()
    assert (done.status, done.messages, done.failed) == ("done", 28, 1)
    it.assert_once(but={"c00007"})
    assert it.warehouse.rows("select address, reason from activation.messages where status = 'failed'") == [
        (bad, "REJECTED_INVALID_PARAMETER")
    ]
    assert it.chunks()["rejected"] == 1
    halves = it.warehouse.rows("select count(*) from activation.chunks where split_from is not null")
    assert halves[0][0] == 2 * it.chunks()["split"]
    assert len(set(it.warehouse.rows("select idempotency_key from activation.chunks"))) == sum(it.chunks().values())


def test_bad_rows_side_by_side_do_not_hold_up_the_others_for_ever(live: Callable[..., Live]) -> None:
    it = live()
    order = it.warehouse.rows(
        "select address, customer_id from activation.messages inner join activation.batches using (batch_id)"
        ' order by batch_no, message_id collate "C"'
    )
    bad = dict([*order[5:9], *order[-2:]])
    it.control.faults(*({"do": "bad_row", "path": "/smtp/email", "method": "POST", "address": each} for each in bad))
    done = it.finish()
    assert (done.status, done.failed, done.remaining) == ("done", 6, 0)
    it.assert_once(but=set(bad.values()))


def test_what_brevo_refuses_of_everybody_is_nobody_s_dead_letter(live: Callable[..., Live]) -> None:
    it = live()
    it.standin.standin.account.senders.clear()  # type: ignore[union-attr]
    said = refused(it)
    assert said.startswith("ALL_REFUSED")
    assert "sender is registered" in said
    assert it.statuses() == {"planned": 29}
    assert len(it.control.requests("/smtp/email")) < 10
    assert it.warehouse.rows("select status, wait_until, wait_reason from activation.campaigns") == [
        ("waiting", None, "ALL_REFUSED")
    ]
    it.standin.standin.seed(senders=[sending_estate.SENDER])  # type: ignore[union-attr]
    assert it.finish().status == "done"
    it.assert_once()


@pytest.mark.parametrize(
    ("fault", "code", "advice"),
    [("unauthorized", "KEY_REFUSED", "CRM_BREVO_KEY"), ("no_credit", "NO_CREDIT", "no sending credit left")],
)
@pytest.mark.parametrize("nth", [1, 3])
def test_a_key_or_credit_that_is_gone_stops_at_once_and_loses_nothing(
    live: Callable[..., Live], fault: str, code: str, advice: str, nth: int
) -> None:
    it = live()
    it.control.faults({"do": fault, "path": "/smtp/email", "method": "POST", "first": nth})
    said = refused(it)
    assert said.startswith(code)
    assert advice in said
    left = 29 - 5 * (nth - 1)
    assert f"{left} remain planned" in said
    assert it.statuses()["planned"] == left
    assert len(it.control.accepted()) == 29 - left
    it.control.faults()
    assert it.finish().status == "done"
    it.assert_once()


def test_a_call_that_never_left_is_made_again_and_given_up_for_a_while(live: Callable[..., Live]) -> None:
    it = live()
    it.control.faults({"do": "throttle", "path": "/smtp/email", "method": "POST", "nth": 2, "seconds": 20})
    assert it.send().status == "done"
    it.assert_once()
    assert it.chunks() == {"accepted": 6}
    assert (
        it.warehouse.rows("select tag, count(*) from activation.attempts group by tag order by 2 desc limit 1")[0][1]
        == 2
    )


def test_throttled_for_longer_everything_remains_planned(live: Callable[..., Live]) -> None:
    it = live()
    it.control.faults({"do": "throttle", "path": "/smtp/email", "method": "POST", "seconds": 20})
    done = it.send()
    assert (done.status, done.wait_reason, done.remaining, done.messages) == ("waiting", "THROTTLED", 29, 0)
    assert done.wait_until is not None
    it.control.faults()
    assert it.finish().status == "done"
    it.assert_once()


def test_who_may_not_be_written_to_any_more_is_not(live: Callable[..., Live]) -> None:
    it = live()
    told = json.dumps(
        {"event": "unsubscribe", "email": "c00001@example.com", "ts_event": int(NOW.timestamp()), "message-id": "<x>"}
    ).encode()
    it.warehouse.execute("insert into outcomes.received values (%s, %s, %s)", ["body", told, NOW])
    it.control.seed(blocked=[{"email": "c00002@example.com", "code": "unsubscribedViaEmail"}])
    for customer, change in (
        ("c00003", "is_refused = true"), ("c00004", "is_bounced = true"), ("c00005", "email = 'other@example.com'"),
    ):  # fmt: skip
        it.warehouse.execute(f"update audit.customer_facts set {change} where customer_id = %s", [customer])
    it.warehouse.execute(
        "insert into outcomes.events (event_key, address, event, occurred_at, campaign, channel) values"
        " ('a', 'c00006@example.com', 'spam', %(now)s, null, 'email'),"
        " ('b', 'c00007@example.com', 'sent', %(now)s, 'from their own screens', 'email')",
        {"now": NOW - timedelta(days=2)},
    )
    it.warehouse.execute(
        "insert into activation.messages select 'other', 'winter', occurrence, step, address, customer_id, run_id,"
        " batch_id, scenario, wine_ids, product_keys, params, 'unknown', planned_at - interval '20 days', null"
        " from activation.messages where customer_id = 'c00008'"
    )
    done = it.send()
    barred = {f"c0000{n}" for n in range(1, 8)}
    assert done.status == "done"
    held = dict(it.warehouse.rows("select customer_id, reason from activation.messages where status = 'superseded'"))
    assert held == {
        **dict.fromkeys(["c00001", "c00002", "c00003"], "OBJECTED"),
        **dict.fromkeys(["c00004", "c00006"], "BOUNCED"),
        "c00005": "ADDRESS_CHANGED",
        "c00007": "SILENCE_WINDOW",
        "c00008": "RECENT_DUPLICATE",
    }
    assert sum(done.held_back.values()) == 8
    it.assert_once(but=barred | {"c00008"})


def test_nobody_is_sent_what_brevo_says_it_has_already(live: Callable[..., Live]) -> None:
    it = live()
    it.warehouse.execute(
        "insert into outcomes.events (event_key, address, event, occurred_at, campaign, occurrence, step, channel)"
        " values ('a', 'c00001@example.com', 'delivered', %s, 'spring', 'once', 1, 'email')",
        [NOW - timedelta(hours=1)],
    )
    done = it.send()
    assert (done.messages, done.found) == (28, 1)
    assert "c00001@example.com" not in it.control.addresses()
    assert it.statuses() == {"sent": 29}


def test_stock_that_is_promised_to_others_is_not_promised_again(live: Callable[..., Live]) -> None:
    it = live()
    it.warehouse.execute(
        "update curated.dim_products set available = 6, stock_date = %s where product_key = 'p2'", [AS_OF]
    )
    done = it.send()
    assert done.messages == 20  # 6 bottles serve 20 messages: each sells 6 bottles with a chance of 5 %
    assert done.held_back == {"OUT_OF_STOCK": 9}


def test_bytes_that_hold_somebody_who_has_unsubscribed_since_are_not_sent_again(live: Callable[..., Live]) -> None:
    it = live()
    it.control.faults({"do": "reset_before", "path": "/smtp/email", "method": "POST", "nth": 1})
    first = it.send()
    assert first.wait_reason == "SETTLING"
    (who, address), *_ = it.warehouse.rows(
        "select customer_id, address from activation.messages where status = 'unknown'"
    )
    it.control.seed(blocked=[{"email": address, "code": "unsubscribedViaEmail"}])
    assert it.finish().status == "done"
    it.assert_once(but={who})
    assert it.chunks()["released"] == 1
    assert it.warehouse.rows("select status, reason from activation.messages where customer_id = %s", [who]) == [
        ("superseded", "OBJECTED")
    ]


def test_the_same_bytes_leave_again_where_brevo_never_got_them(live: Callable[..., Live]) -> None:
    it = live()
    it.control.faults({"do": "hang_before", "path": "/smtp/email", "method": "POST", "nth": 2})
    assert it.finish().status == "done"
    tries = it.warehouse.rows(
        "select tag, count(*), count(distinct request_hash), max(started_at) - min(started_at) from activation.attempts"
        " group by tag having count(*) > 1"
    )
    assert [(n, different) for _, n, different, _ in tries] == [(2, 1)]
    assert tries[0][3] >= timedelta(minutes=30)
    assert it.warehouse.rows("select looks >= 2 from activation.chunks where tag = %s", [tries[0][0]]) == [(True,)]


def test_a_log_that_lags_behind_a_call_it_must_have_proves_nothing(live: Callable[..., Live]) -> None:
    it = live()
    it.control.faults({"do": "error_after", "path": "/smtp/email", "method": "POST", "nth": 2})
    it.control.log_lag(3 * 3600)
    done = it.send()
    for _ in range(8):
        it.standin.clock.sleep(15 * 60)
        done = it.send()
    assert (done.wait_reason, done.unknown) == ("SETTLING", 5), "two hours of absence, and still nothing is sent again"
    assert it.finish().status == "done"
    it.assert_once()


def test_a_trace_of_a_call_under_another_address_is_a_trace_of_it(live: Callable[..., Live]) -> None:
    it = live()
    it.control.faults({"do": "reset_before", "path": "/smtp/email", "method": "POST", "nth": 2})
    done = it.send()
    it.warehouse.execute(
        "insert into outcomes.events (event_key, address, tag, event, occurred_at, channel)"
        " select 'as brevo spells it', 'c00007@xn--exmple-cua.com', tag, 'sent', first_tried_at, 'email'"
        " from activation.chunks where status = 'unknown'"
    )
    for _ in range(6):
        it.standin.clock.sleep(15 * 60)
        done = it.send()
    assert (done.wait_reason, done.unknown) == ("SETTLING", 5), "Brevo has something of it: it is not absent"


def test_some_found_and_others_not_are_waited_for_and_then_a_person_is_called(
    live: Callable[..., Live], monkeypatch: pytest.MonkeyPatch
) -> None:
    alerts: list[str] = []
    monkeypatch.setattr(Control_, "raise_alert", lambda _, tenant, cause, message, now: alerts.append(message))
    it = live()
    it.control.faults({"do": "reset_after", "path": "/smtp/email", "method": "POST", "nth": 2})
    it.control.log_lag(40 * 3600)
    it.send()
    (tag,) = it.warehouse.rows("select tag from activation.chunks where status = 'unknown'")[0]
    it.warehouse.execute(
        "insert into outcomes.events (event_key, address, tag, event, occurred_at, channel)"
        " select address, address, tag, 'delivered', %s, 'email' from activation.messages where tag = %s"
        " order by address limit 2",
        [NOW, tag],
    )
    it.standin.clock.sleep(3600)
    done = it.send()
    assert (done.wait_reason, done.unknown, done.remaining) == ("SETTLING", 3, 0), "the others do not wait for it"
    assert alerts == []
    it.standin.clock.sleep(24 * 3600)
    assert it.send().unknown == 3
    assert len(alerts) == 1
    assert "3 others" in alerts[0]
    it.standin.clock.sleep(20 * 3600)
    assert it.finish().status == "done"
    it.assert_once()


@pytest.mark.parametrize("where", ["before the call", "after the call", "while it waits to try again"])
def test_a_sender_that_ends_in_the_middle_is_taken_over(
    live: Callable[..., Live], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    it = live()
    patched: tuple[Any, str] = {
        "before the call": (instances, "keep"),
        "after the call": (attempts, "end"),
        "while it waits to try again": (it.standin.clock, "sleep"),
    }[where]
    if where == "while it waits to try again":
        it.control.faults({"do": "throttle", "path": "/smtp/email", "method": "POST", "nth": 2, "seconds": 250})
    real, calls = getattr(*patched), []

    def dies(*given: Any, **named: Any) -> Any:
        calls.append(given)
        if len(calls) == 2 if where != "while it waits to try again" else given[0] > 100:
            raise KeyboardInterrupt
        return real(*given, **named)

    monkeypatch.setattr(*patched, dies)
    with pytest.raises(KeyboardInterrupt):
        it.send()
    assert it.statuses()["sending"] == 5
    monkeypatch.setattr(*patched, real)
    done = it.send()
    if where == "before the call":
        assert (done.unknown, done.wait_reason) == (5, "SETTLING"), "bytes may have left: nobody can know"
    assert it.finish().status == "done"
    it.assert_once()


def test_a_stop_a_closed_gate_and_an_expired_plan_hold_within_one_call(live: Callable[..., Live]) -> None:
    it = live()
    standin = it.standin.standin
    assert standin is not None
    stop = it.drop / "STOP"

    def after(count: int, deed: Callable[[], Any]) -> None:
        def told(request: Any, route: str, _: Any) -> None:
            if route == "/smtp/email":
                left[0] -= 1
                if not left[0]:
                    deed()

        left = [count]
        standin.on_answer = told

    after(2, stop.touch)
    done = it.send()
    assert (done.messages, done.remaining, done.wait_until, done.wait_reason) == (10, 19, None, "STOP_FILE")
    stop.unlink()
    after(1, lambda: it.warehouse.execute("update gate.decisions set status = 'closed', reasons = '{CIRCUIT_BREAKER}'"))
    assert refused(it).startswith("GATE_CLOSED")
    assert it.statuses() == {"planned": 14, "sent": 15}
    it.warehouse.execute("update gate.decisions set status = 'open', reasons = '{}'")
    after(1, lambda: it.standin.clock.sleep(8 * 24 * 3600))
    assert refused(it).startswith("EXPIRED")
    assert it.statuses() == {"planned": 9, "sent": 20}


def test_a_campaign_that_is_given_up_while_it_leaves_stops_within_one_call(live: Callable[..., Live]) -> None:
    it = live()
    standin = it.standin.standin
    assert standin is not None

    def give_up(request: Any, route: str, _: Any) -> None:
        if route == "/smtp/email":
            it.warehouse.execute("update activation.campaigns set status = 'abandoned'")

    standin.on_answer = give_up
    assert refused(it).startswith("ABANDONED")
    assert it.statuses() == {"superseded": 24, "sent": 5}


def test_a_live_send_needs_the_hash_the_day_and_to_be_the_only_one(
    live: Callable[..., Live], monkeypatch: pytest.MonkeyPatch
) -> None:
    it = live()
    assert refused(it, confirmed_hash="0" * 64).startswith("PLAN_HASH")
    assert refused(it, as_of=AS_OF - timedelta(days=1)).startswith("HISTORICAL")
    assert refused(it, tenant=sending_estate.tenant(rules=SMALL_CALLS, siren="111111111")).startswith("PLAN_CHANGED")
    monkeypatch.setattr(sending, "_LOCK_SECONDS", 0)
    with sending._Ledger.open(it.warehouse):
        assert refused(it).startswith("ALREADY_SENDING")
    assert it.statuses() == {"planned": 29}
    assert it.control.accepted() == []


def test_the_key_of_another_estate_s_account_sends_nothing(
    live: Callable[..., Live], monkeypatch: pytest.MonkeyPatch
) -> None:
    it = live()
    monkeypatch.setenv("CRM_BREVO_KEY", "xkeysib-of-somebody-else")
    said = refused(it)
    assert "CRM_BREVO_KEY" in said or "REFUSALS_UNREADABLE" in said
    assert "xkeysib" not in said
    assert it.statuses() == {"planned": 29}
    assert it.control.accepted() == []


def lost(it: Live, nth: int = 2, fault: str = "reset_before", lag: float = 120) -> str:
    """A send whose call `nth` is answered by nothing; its tag. `lag`: seconds before the log shows what it accepted."""
    it.control.log_lag(lag)
    it.control.faults({"do": fault, "path": "/smtp/email", "method": "POST", "nth": nth})
    assert it.send().wait_reason == "SETTLING"
    it.control.faults()
    return str(it.warehouse.rows("select tag from activation.chunks where status = 'unknown'")[0][0])


@pytest.mark.parametrize("nth", [1, 2])
def test_the_log_of_another_account_does_not_tell_that_a_call_never_arrived(
    live: Callable[..., Live], monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    it = live()
    lost(it, nth, "reset_after")
    ours = it.standin
    it.standin = in_process("none", key="xkeysib-of-another-account", senders=(sending_estate.SENDER,))
    monkeypatch.setenv("CRM_BREVO_KEY", "xkeysib-of-another-account")
    for _ in range(4):
        it.standin.clock.sleep(1200)
        done = it.send()
    assert (done.wait_reason, done.unknown, it.control.accepted()) == ("SETTLING", 5, [])
    assert "another key" in done.sentence()
    it.standin = ours
    monkeypatch.setenv("CRM_BREVO_KEY", KEY)
    it.standin.clock.sleep(5000)
    assert it.finish().status == "done"
    it.assert_once()


def test_a_new_key_of_the_same_account_is_known_by_what_its_log_shows(
    live: Callable[..., Live], monkeypatch: pytest.MonkeyPatch
) -> None:
    it = live()
    lost(it)
    assert it.standin.standin is not None
    monkeypatch.setattr(it.standin.standin, "key", "xkeysib-new", raising=True)
    monkeypatch.setenv("CRM_BREVO_KEY", "xkeysib-new")
    assert it.finish().status == "done"
    it.assert_once()


def test_a_test_that_the_log_does_not_show_yet_keeps_a_first_call_unknown(live: Callable[..., Live]) -> None:
    it = live()
    with it.warehouse.transaction() as connection:
        given = {"is_dry_run": False, "tag": "demo-spring-test-1-0123456789ab", "account": "a"}
        attempt = attempts.begin(connection, brevo.SEND, b"", 1, NOW, **given)  # type: ignore[arg-type]
        attempts.end(connection, attempt, brevo.Answer("accepted", "ok"), NOW)
    lost(it, 1, "reset_after", 2 * 3600)
    it.warehouse.execute(
        "update activation.attempts set account = (select account from activation.attempts where account <> 'a')"
    )
    for _ in range(5):
        it.standin.clock.sleep(1200)
        assert it.send().unknown == 5


@pytest.mark.parametrize(
    ("why", "change"),
    [
        ("ABANDONED", "update activation.campaigns set status = 'abandoned'"),
        (
            "NEWER_OCCURRENCE",
            "update activation.campaigns set occurrence = '2026-W11';"
            " update activation.messages set occurrence = '2026-W11';"
            " update activation.batches set occurrence = '2026-W11';"
            " update activation.chunks set occurrence = '2026-W11';"
            " insert into activation.campaigns (campaign, occurrence, step, run_id, plan_hash, audience, holdout,"
            " as_of, planned_at, expires_on) select campaign, '2026-W12', step, run_id, plan_hash, 0, 0, as_of,"
            " planned_at - interval '1 hour', expires_on from activation.campaigns",
        ),
    ],
)
def test_a_call_that_never_arrived_of_an_occurrence_that_is_over_is_given_up(
    live: Callable[..., Live], why: str, change: str
) -> None:
    it = live()
    lost(it)
    with it.warehouse.transaction() as connection:
        for statement in change.split(";"):
            connection.execute(statement.encode())
        connection.execute("update activation.messages set status = 'superseded' where status = 'planned'")
    for _ in range(4):
        it.standin.clock.sleep(1200)
        it.send(occurrence=it.warehouse.rows("select min(occurrence) from activation.campaigns")[0][0])
    assert it.chunks() == {"accepted": 1, "released": 1}
    assert it.warehouse.rows("select count(*) from activation.messages where reason = %s", [why]) == [(5,)]
    assert len(it.control.accepted()) == 5


def test_what_expired_before_it_was_found_never_to_have_arrived_is_unknown_no_more(live: Callable[..., Live]) -> None:
    it = live()
    lost(it)
    it.standin.clock.sleep(8 * 24 * 3600)
    assert refused(it).startswith("EXPIRED")
    assert it.statuses() == {"planned": 24, "sent": 5}


def test_what_a_person_called_failed_is_sent_once_the_log_says_so(live: Callable[..., Live]) -> None:
    it = live()
    tag = lost(it, 2, "reset_after", 40 * 3600)
    it.standin.clock.sleep(25 * 3600)
    estate = operations.Estate(LIVE_TENANT, it.warehouse, it.client_config)
    operations.decide(estate, tag, False, "Anna", it.standin.clock.now())
    assert it.statuses()["failed"] == 5
    it.standin.clock.sleep(23 * 3600)
    assert it.finish().status == "done"
    assert it.statuses() == {"sent": 29}
    it.assert_once()


def test_each_call_is_in_crm_home_before_it_is_made_and_the_holdout_is_in_none(live: Callable[..., Live]) -> None:
    it = live()
    it.warehouse.execute("update activation.messages set status = 'holdout' where customer_id <= 'c00003'")
    marks: list[int] = []

    def told(request: Any, route: str, _: Any) -> None:
        if route == "/smtp/email":
            kept = instances.kept(it.config, "demo")
            marks.append(kept.mark if kept else -1)

    assert it.standin.standin is not None
    it.standin.standin.on_answer = told
    assert it.send().status == "done"
    assert marks == [1, 2, 3, 4, 5, 6]
    it.assert_once(but={"c00001", "c00002", "c00003"})
