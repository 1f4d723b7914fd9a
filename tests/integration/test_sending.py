"""Sending against a real database: on current data, and nobody twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from benchmarks import sending_estate
from brevo_standin.mail import IdempotencyMode
from crm_assets import activation, sending
from crm_assets.campaigns import Campaign
from crm_assets.logic.activation import RefusalError
from crm_assets.resources import brevo
from crm_assets.resources.warehouse import Warehouse
from crm_assets.settings import Settings, settings
from crm_assets.tenants import Tenant
from tests.standin import KEY, Control, Running, in_process

AS_OF = date(2026, 3, 10)
NOW = datetime(2026, 3, 10, 9, tzinfo=UTC)  # a Tuesday; the stand-in's clock begins here
TENANT = sending_estate.tenant()
RULES = TENANT.business_rules
CAMPAIGN = Campaign.model_validate({"name": "spring", "kind": "reco", "subject": {"fr": "Notre sélection"}})


class Fixed:
    """A clock that stands still."""

    def __init__(self, at: datetime) -> None:
        self.at = at

    def now(self) -> datetime:
        return self.at

    def sleep(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


@pytest.fixture
def warehouse(tenant_warehouse: Warehouse) -> Warehouse:
    """Twenty-nine customers, gated."""
    sending_estate.build(tenant_warehouse, TENANT, 29, AS_OF, NOW)
    return tenant_warehouse


def plan(warehouse: Warehouse, campaign: Campaign = CAMPAIGN, as_of: date = AS_OF) -> activation.PlanSummary:
    return activation.plan_campaign(warehouse, TENANT, campaign, RULES, as_of, NOW)


def outbox(warehouse: Warehouse) -> list[tuple[Any, ...]]:
    return warehouse.rows("select message_id, address, status, batch_id from activation.messages order by 1")


def refusal(action: Callable[[], Any]) -> str:
    with pytest.raises(RefusalError) as raised:
        action()
    return raised.value.code


def send(warehouse: Warehouse, **given: Any) -> sending.SendSummary:
    arguments = {"campaign": CAMPAIGN, "tenant": TENANT, "as_of": AS_OF, "config": settings(), **given}
    return sending.send_campaign(sending.Sending(warehouse, clock=Fixed(NOW), **arguments))


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
    assert refusal(lambda: send(warehouse)) == "NOT_PLANNED"
    plan(warehouse)
    assert send(warehouse, as_of=AS_OF + timedelta(days=7)).messages == 29
    assert refusal(lambda: send(warehouse, as_of=AS_OF + timedelta(days=8))) == "EXPIRED"
    other = CAMPAIGN.model_copy(update={"subject": {"fr": "Autre chose"}})
    assert refusal(lambda: send(warehouse, campaign=other)) == "PLAN_CHANGED"
    assert refusal(lambda: send(warehouse, tenant=sending_estate.tenant(siren="111111111"))) == "PLAN_CHANGED"
    warehouse.execute(
        "update activation.messages set params = '{\"items\": []}' where address = (select min(address)"
        " from activation.messages)"
    )
    assert refusal(lambda: send(warehouse)) == "PLAN_CHANGED"


def test_a_gate_closed_since_stops_the_send(warehouse: Warehouse) -> None:
    plan(warehouse)
    warehouse.execute(
        "insert into gate.decisions select 'newer', as_of, 'closed', '{CIRCUIT_BREAKER}', 10, false,"
        " n_customers, n_permitted, n_eligible, n_errors, n_warnings, mean_audit_score, false,"
        " decided_at + interval '1 hour',"
        " rules_version from gate.decisions"
    )
    assert refusal(lambda: send(warehouse)) == "GATE_CLOSED"
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
    assert refusal(lambda: send(warehouse)) == "GATE_CLOSED"


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
    assert refusal(lambda: send(warehouse)) == "GATE_CLOSED"


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
