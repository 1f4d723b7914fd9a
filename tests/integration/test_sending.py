"""Sending against a real database: on current data, and nobody twice."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from benchmarks import sending_estate
from crm_assets import activation, sending
from crm_assets.campaigns import Campaign
from crm_assets.logic.activation import RefusalError
from crm_assets.resources.warehouse import Warehouse
from crm_assets.settings import settings

AS_OF = date(2025, 12, 31)
NOW = datetime(2025, 12, 31, 9, tzinfo=UTC)
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
    warehouse.execute("update audit.customer_facts set last_contact_date = '2025-12-30' where customer_id = 'c00002'")
    warehouse.execute("insert into rfm.customer_wines values ('c00003', 'w1', '2025-12-29')")
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
