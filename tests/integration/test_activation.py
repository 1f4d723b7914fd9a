"""Planning against a real database: once, in one transaction, and never past a closed gate."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from crm_assets import activation, documents, gating, tables
from crm_assets.campaigns import Campaign
from crm_assets.dbt_manifest import ensure_manifest
from crm_assets.logic import audit, gate
from crm_assets.logic.activation import RefusalError
from crm_assets.resources.warehouse import Warehouse, WarehouseError
from tests.lights import evaluated
from tests.logic import estate
from tests.logic.estate import AS_OF, customer, facts, item, items, product, products

ensure_manifest()

from crm_assets.defs.activation import checks as activation_checks  # noqa: E402

NOW = datetime(2025, 12, 31, 7, tzinfo=UTC)
TENANT = estate.tenant()
RULES = TENANT.business_rules
CAMPAIGN = Campaign.model_validate({"name": "spring", "kind": "reco", "subject": {"fr": "Notre sélection"}})

# What dbt builds, with the columns that activation and the audit read.
DBT_TABLES = """
create table audit.customer_facts (
    customer_id text, client_code text, population text, type text, status text, is_collective boolean,
    opt_in boolean, opt_in_date date, opt_in_source text, n_qualifying_orders bigint, email text,
    email_status text, is_email_contact boolean, is_refused boolean, is_bounced boolean,
    last_contact_date date, contacts_90d bigint, last_order_date date, last_engagement_date date,
    birth_date date, country text, postal_code text, language text,
    price_75cl_ttc numeric, dominant_sweetness text);
create table curated.dim_products (
    product_key text, wine_id text, kind text, label text, vintage integer, format_cl numeric, family text,
    sweetness text, price_ttc numeric, price_75cl_ttc numeric, is_price_estimated boolean, stock_status text,
    sold_by integer, url text, image_url text, is_active boolean, is_archived boolean, is_inferred boolean);
create table curated.dim_customers (customer_id text, profiling_objected boolean);
create table rfm.customer_rfm (customer_id text, segment text);
create table rfm.customer_wines (customer_id text, wine_id text, last_date date);
"""


def insert(warehouse: Warehouse, table: str, frame: pd.DataFrame) -> None:
    """Rows of a frame into a table that Python does not own."""
    columns = list(frame.columns)
    marks = ", ".join(["%s"] * len(columns))
    with warehouse.transaction() as connection:
        connection.cursor().executemany(
            f"insert into {table} ({', '.join(columns)}) values ({marks})".encode(),
            [[None if pd.isna(v) else v for v in row] for row in frame.astype("object").itertuples(index=False)],
        )


def gated(warehouse: Warehouse, people: pd.DataFrame, run_id: str = "run", as_of: date = AS_OF) -> None:
    """A run with two items for everybody, audited and gated as the assets do it."""
    listed = items(*[item(c, k, r) for c in people["customer_id"] for r, k in enumerate(["p1", "p2"], start=1)])
    result = audit.audit(listed, people, products(), estate.bought(), estate.sent(), TENANT, RULES, as_of)
    nobody = pd.Series(dtype="object")
    actions = gate.next_actions(people, result.permissions, result.scores, listed, nobody, RULES)
    decision = gate.decide(actions, result.scores, audit.Breaker(100.0, False, ()), 0, False, as_of, NOW, RULES)
    components = dict.fromkeys(["collaborative", "content", "popularity", "rhythm", "margin", "season"], 0.5)
    stored = listed.assign(run_id=run_id, probability=0.1, reasons="{}", rules_version=RULES.version, **components)
    warehouse.replace_run(tables.items, stored, run_id)
    warehouse.replace_run(tables.findings, result.findings.assign(run_id=run_id), run_id)
    warehouse.replace_run(tables.scores, result.scores.assign(run_id=run_id), run_id)
    warehouse.replace_run(tables.next_actions, actions.assign(run_id=run_id), run_id)
    warehouse.replace_run(tables.decisions, decision.assign(run_id=run_id), run_id)


@pytest.fixture
def warehouse(tenant_warehouse: Warehouse) -> Warehouse:
    """Thirty customers, the last one bounced, gated."""
    tenant_warehouse.execute(DBT_TABLES)
    people = facts(*[customer(f"c{n:02d}", is_bounced=n == 30) for n in range(1, 31)])
    insert(tenant_warehouse, "audit.customer_facts", people)
    catalogue = products(*[product(f"p{n}", vintage=2022) for n in range(1, 10)])
    insert(tenant_warehouse, "curated.dim_products", catalogue)
    insert(tenant_warehouse, "rfm.customer_rfm", people[["customer_id"]].assign(segment="Champions"))
    insert(tenant_warehouse, "curated.dim_customers", people[["customer_id"]].assign(profiling_objected=False))
    gated(tenant_warehouse, people)
    return tenant_warehouse


def plan(warehouse: Warehouse, campaign: Campaign = CAMPAIGN, as_of: date = AS_OF) -> activation.PlanSummary:
    return activation.plan_campaign(warehouse, TENANT, campaign, RULES, as_of, NOW)


def outbox(warehouse: Warehouse) -> list[tuple[Any, ...]]:
    return warehouse.rows("select message_id, address, status, batch_id from activation.messages order by 1")


def refusal(action: Callable[[], Any]) -> str:
    with pytest.raises(RefusalError) as raised:
        action()
    return raised.value.code


def test_a_campaign_is_planned_once(warehouse: Warehouse) -> None:
    first = plan(warehouse)
    assert (first.is_new, first.audience, first.planned, first.holdout, first.batches) == (True, 29, 29, 0, 1)
    assert first.left_out == {"BOUNCED": 1}
    assert (first.addressed, first.eligible, first.calls, first.warnings) == (30, 29, 1, [])
    assert first.expires_on == AS_OF + timedelta(days=7)
    before = outbox(warehouse)
    second = plan(warehouse)
    assert not second.is_new
    assert second.plan_hash == first.plan_hash
    assert outbox(warehouse) == before
    assert {status for _, _, status, _ in before} == {"planned"}


def test_a_newer_run_does_not_stale_a_plan(warehouse: Warehouse) -> None:
    first = plan(warehouse)
    gated(warehouse, facts(*[customer(f"c{n:02d}") for n in range(1, 31)]), "later", AS_OF + timedelta(days=1))
    again = plan(warehouse, as_of=AS_OF + timedelta(days=1))
    assert (again.run_id, again.plan_hash, again.is_new) == ("run", first.plan_hash, False)


def test_two_planners_at_once_plan_once(warehouse: Warehouse) -> None:
    plans: list[activation.PlanSummary] = []
    threads = [threading.Thread(target=lambda: plans.append(plan(warehouse))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(p.is_new for p in plans) == [False, False, False, True]
    assert len({p.plan_hash for p in plans}) == 1
    assert len(outbox(warehouse)) == 29


def test_a_weekly_campaign_is_planned_anew_each_week(warehouse: Warehouse) -> None:
    weekly = CAMPAIGN.model_copy(update={"occurrence": "weekly"})
    assert plan(warehouse, weekly).occurrence == "2026-W01"
    assert plan(warehouse, weekly, AS_OF + timedelta(days=5)).occurrence == "2026-W02"
    assert len(outbox(warehouse)) == 58


def test_nothing_is_planned_past_the_gate(warehouse: Warehouse) -> None:
    assert refusal(lambda: plan(warehouse, as_of=AS_OF + timedelta(days=8))) == "STALE_GATE"
    assert refusal(lambda: plan(warehouse, as_of=AS_OF - timedelta(days=1))) == "HISTORICAL"
    warehouse.execute("update gate.decisions set status = 'closed', reasons = '{CIRCUIT_BREAKER}'")
    assert refusal(lambda: plan(warehouse)) == "GATE_CLOSED"
    warehouse.execute("delete from gate.decisions")
    assert refusal(lambda: plan(warehouse)) == "NO_DECISION"
    assert outbox(warehouse) == []
    assert warehouse.count("activation", "campaigns") == 0


def test_a_historical_decision_is_never_in_force(warehouse: Warehouse) -> None:
    warehouse.execute(
        "insert into gate.decisions select 'past', as_of + 1, 'closed', '{HISTORICAL}', data_quality_score,"
        " gate_export, n_customers, n_permitted, n_eligible, n_errors, n_warnings, mean_audit_score, true,"
        " decided_at, rules_version"
        " from gate.decisions"
    )
    assert plan(warehouse).run_id == "run"


@pytest.mark.parametrize("what", ["spring", "*"])
def test_a_pause_stops_planning(warehouse: Warehouse, what: str) -> None:
    pause = "insert into activation.pauses values ('1', %s, 'STOP file', 'the cellar master', now(), null)"
    warehouse.execute(pause, [what])
    assert refusal(lambda: plan(warehouse)) == "PAUSED"
    assert outbox(warehouse) == []
    warehouse.execute("update activation.pauses set resumed_at = now()")
    assert plan(warehouse).is_new


def test_a_plan_that_fails_leaves_nothing(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("the disk is full")

    monkeypatch.setattr(activation, "copy_frame", fail)
    with pytest.raises(RuntimeError, match="disk is full"):
        plan(warehouse)
    for name in ("campaigns", "batches", "messages"):
        assert warehouse.count("activation", name) == 0


def test_a_review_after_the_plan_is_no_fault_of_the_plan(warehouse: Warehouse) -> None:
    plan(warehouse)

    def light(now: datetime) -> tuple[bool, int, int]:
        run = SimpleNamespace(warehouse=warehouse, now=now)
        (found,) = evaluated(run, activation_checks.planned_only_if_eligible).values()
        told = found.metadata
        return found.passed, told["messages_not_eligible"].value, told["barred_since_they_were_planned"].value

    assert light(NOW) == (True, 0, 0)
    warehouse.execute("update gate.next_actions set eligible = false where customer_id = 'c01'")
    assert light(NOW + timedelta(hours=1)) == (True, 0, 1), "it came back later: the send holds the message back"
    assert light(NOW) == (False, 1, 0), "planned by this very run, it must not have been"


def test_a_really_sent_wine_is_seen_by_the_audit_and_a_planned_one_is_not(warehouse: Warehouse) -> None:
    plan(warehouse)
    assert gating.sent_wines(warehouse).empty
    warehouse.execute("update activation.messages set status = 'sent', sent_at = %s where customer_id = 'c01'", [NOW])
    assert gating.sent_wines(warehouse)["wine_id"].tolist() == ["w1", "w2"]


def test_an_address_cannot_stand_twice_in_an_occurrence(warehouse: Warehouse) -> None:
    plan(warehouse)
    with pytest.raises(WarehouseError, match="UniqueViolation"):
        warehouse.execute(
            "insert into activation.messages select 'x', campaign, occurrence, step, address, customer_id,"
            " run_id, batch_id, scenario, wine_ids, product_keys, params, status, planned_at, sent_at"
            " from activation.messages limit 1"
        )


def test_what_the_outbox_holds_already_is_left_out_and_stays_as_it_is(warehouse: Warehouse) -> None:
    # As after a restore: the plan is gone, and what Brevo says was sent since has been written back.
    plan(warehouse)
    warehouse.execute("delete from activation.campaigns")
    warehouse.execute("delete from activation.batches")
    with pytest.raises(RefusalError, match=r"EMPTY_AUDIENCE.*ALREADY_WRITTEN 29") as raised:
        plan(warehouse)
    assert "example.com" not in str(raised.value)
    warehouse.execute("delete from activation.messages where customer_id > 'c20'")
    warehouse.execute("update activation.messages set status = 'sent', sent_at = %s", [NOW])
    before = outbox(warehouse)
    made = plan(warehouse)
    assert (made.planned, made.left_out["ALREADY_WRITTEN"]) == (9, 20)
    run = SimpleNamespace(warehouse=warehouse, rules=RULES)
    (counted,) = evaluated(run, activation_checks.batches_hold_their_messages).values()
    assert counted.metadata["wrong_campaigns"].value == 0
    after = outbox(warehouse)
    assert set(before) < set(after)
    assert len({address for _, address, _, _ in after}) == len(after) == 29
    stored = activation.stored_plan(warehouse, "spring", "once")
    assert stored is not None
    assert activation.plan_is_unchanged(TENANT, CAMPAIGN, stored, warehouse.read("activation", "messages"))


def test_exports_of_a_run(warehouse: Warehouse, tmp_path: Path) -> None:
    plan(warehouse)
    written = documents.export_run(warehouse, "run", tmp_path)
    assert sorted(path.name for path in written) == sorted(
        f"{name}.{kind}"
        for name in ("reco_output", "audit_output", "next_action_output", "run_summary")
        for kind in ("csv", "json")
    )
    assert len((tmp_path / "reco_output.csv").read_text().splitlines()) == 61
    before = {path.name: path.read_bytes() for path in written}
    assert {path.name: path.read_bytes() for path in documents.export_run(warehouse, "run", tmp_path)} == before
    with pytest.raises(LookupError, match="no decision"):
        documents.export_run(warehouse, "other", tmp_path)
