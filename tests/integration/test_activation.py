"""Planning against a real database: once, in one transaction, and never past a closed gate."""

from __future__ import annotations

import threading
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import openpyxl
import pandas as pd
import pytest

from benchmarks.sending_estate import DBT_TABLES, insert
from crm_assets import activation, call_lists, documents, gating, rechecks, tables
from crm_assets.campaigns import Arm, Audience, Campaign, Step
from crm_assets.dbt_manifest import ensure_manifest
from crm_assets.logic import audit, gate, landing
from crm_assets.logic.activation import RefusalError
from crm_assets.logic.brevo_rows import Template
from crm_assets.resources.warehouse import Warehouse, WarehouseError
from tests.lights import evaluated
from tests.logic import estate
from tests.logic.estate import AS_OF, customer, facts, item, items, product, products
from tests.refusals import refusal_code

ensure_manifest()

from crm_assets.defs.activation import checks as activation_checks  # noqa: E402

NOW = datetime(2025, 12, 31, 7, tzinfo=UTC)
TENANT = estate.tenant()
RULES = TENANT.business_rules
ARMS = {"A": Arm(share=0.5), "B": Arm(share=0.5, subject={"fr": "Trois vins pour vous"})}
CAMPAIGN = Campaign.model_validate({"name": "spring", "kind": "reco", "subject": {"fr": "Notre sélection"}})


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
    assert refusal_code(lambda: plan(warehouse, as_of=AS_OF + timedelta(days=8))) == "STALE_GATE"
    assert refusal_code(lambda: plan(warehouse, as_of=AS_OF - timedelta(days=1))) == "HISTORICAL"
    warehouse.execute("update gate.decisions set status = 'closed', reasons = '{CIRCUIT_BREAKER}'")
    assert refusal_code(lambda: plan(warehouse)) == "GATE_CLOSED"
    warehouse.execute("delete from gate.decisions")
    assert refusal_code(lambda: plan(warehouse)) == "NO_DECISION"
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
    assert refusal_code(lambda: plan(warehouse)) == "PAUSED"
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


def test_last_weeks_unsent_messages_are_dropped_when_this_weeks_are_planned(warehouse: Warehouse) -> None:
    weekly = CAMPAIGN.model_copy(update={"occurrence": "weekly"})
    plan(warehouse, weekly)
    warehouse.execute("update activation.messages set status = 'sent', sent_at = %s where customer_id = 'c01'", [NOW])
    warehouse.execute("update activation.campaigns set status = 'waiting', began_at = %s, wait_until = %s", [NOW, NOW])
    plan(warehouse, weekly, AS_OF + timedelta(days=5))
    states = "select occurrence, status, reason, count(*) from activation.messages group by 1, 2, 3 order by 1, 2"
    assert warehouse.rows(states) == [
        ("2026-W01", "sent", None, 1),
        ("2026-W01", "superseded", "NEWER_OCCURRENCE", 28),
        ("2026-W02", "planned", None, 29),
    ]
    assert warehouse.rows("select status, wait_until, wait_reason from activation.campaigns order by occurrence") == [
        ("done", None, "NEWER_OCCURRENCE"),
        ("planned", None, None),
    ]


def test_a_week_is_not_planned_after_a_later_one_and_drops_nothing_of_it(warehouse: Warehouse) -> None:
    weekly = CAMPAIGN.model_copy(update={"occurrence": "weekly"})
    gated(warehouse, facts(*[customer(f"c{n:02d}") for n in range(1, 31)]), "earlier", AS_OF - timedelta(days=4))
    warehouse.execute("delete from gate.decisions where run_id = 'run'")
    plan(warehouse, weekly)
    assert refusal_code(lambda: plan(warehouse, weekly, AS_OF - timedelta(days=3))) == "HISTORICAL"
    assert warehouse.rows("select distinct occurrence, status from activation.messages") == [("2026-W01", "planned")]


def test_whom_news_from_brevo_bar_since_the_run_is_not_planned(warehouse: Warehouse) -> None:
    warehouse.execute(
        "insert into activation.contacts (address, is_unsubscribed, is_blocked, updated_at)"
        " values ('c01@example.com', true, false, %s)", [NOW],
    )  # fmt: skip
    warehouse.execute(
        "insert into outcomes.events (event_key, address, event, occurred_at, channel)"
        " values ('1', 'c02@example.com', 'hard_bounce', %s, 'email')", [NOW],
    )  # fmt: skip
    assert plan(warehouse).left_out == {"BOUNCED": 2, "OPT_OUT": 1}


def test_what_is_under_way_is_not_dropped(warehouse: Warehouse) -> None:
    weekly = CAMPAIGN.model_copy(update={"occurrence": "weekly"})
    plan(warehouse, weekly)
    warehouse.execute("update activation.messages set status = 'unknown' where customer_id = 'c01'")
    plan(warehouse, weekly, AS_OF + timedelta(days=5))
    assert warehouse.rows("select status from activation.messages where customer_id = 'c01' order by occurrence") == [
        ("unknown",),
        ("planned",),
    ]
    assert warehouse.rows("select status from activation.campaigns order by occurrence") == [("planned",), ("planned",)]


def test_a_count_says_whom_a_campaign_reaches_and_writes_nothing(warehouse: Warehouse) -> None:
    tested = CAMPAIGN.model_copy(update={"active": False, "arms": ARMS})
    counted = activation.plan_campaign(warehouse, TENANT, tested, RULES, AS_OF, NOW, count_only=True)
    assert (counted.addressed, counted.eligible, counted.planned, counted.batches, counted.calls) == (30, 29, 29, 1, 1)
    assert counted.left_out == {"BOUNCED": 1}
    assert sum(counted.arms.values()) == 29
    assert not counted.is_new
    assert "NOT_ACTIVE" in counted.warnings[0]
    assert counted.sentences()[0].startswith(
        "spring once: counted, nothing written, 29 messages in 1 batches (about 1 "
    )
    for name in ("campaigns", "batches", "messages"):
        assert warehouse.count("activation", name) == 0


def test_a_gate_that_only_lacks_lists_of_wines_lets_an_event_be_planned(warehouse: Warehouse) -> None:
    event = CAMPAIGN.model_copy(update={"kind": "event", "text": {"fr": "Venez."}})
    closed = "update gate.decisions set status = 'closed', reasons = %s"
    warehouse.execute(closed, [["NO_ELIGIBLE_CUSTOMER", "CIRCUIT_BREAKER"]])
    assert refusal_code(lambda: plan(warehouse, event)) == "GATE_CLOSED"
    warehouse.execute(closed, [["NO_ELIGIBLE_CUSTOMER"]])
    assert refusal_code(lambda: plan(warehouse)) == "GATE_CLOSED"
    assert plan(warehouse, event).planned == 29


def test_who_objects_to_profiling_is_invited_but_not_chosen_by_purchases(warehouse: Warehouse) -> None:
    warehouse.execute("update curated.dim_customers set profiling_objected = true where customer_id = 'c01'")
    news = {"kind": "news", "text": {"fr": "Bonjour."}}
    chosen = {**news, "audience": Audience(segments=["Champions"])}
    assert plan(warehouse, CAMPAIGN.model_copy(update={**news, "name": "to_all"})).left_out == {"BOUNCED": 1}
    made = plan(warehouse, CAMPAIGN.model_copy(update={**chosen, "name": "to_some"}))
    assert made.left_out == {"BOUNCED": 1, "PROFILING_OBJECTED": 1}


@pytest.mark.parametrize(
    ("pulls", "live", "said"),
    [
        ([], False, []),
        ([], True, ["campaigns of Brevo cannot be read: they have", "events of Brevo cannot be read: they have"]),
        (
            [("events", NOW, None), ("campaigns", NOW, "unauthorized")],
            False,
            ["campaigns of Brevo cannot be read: the last"],
        ),
        ([("events", NOW, None), ("campaigns", NOW, None)], True, []),
    ],
)
def test_planning_says_when_messages_of_others_cannot_be_known(
    warehouse: Warehouse, pulls: list[tuple[str, datetime, str | None]], live: bool, said: list[str]
) -> None:
    for feed, read_until, problem in pulls:
        warehouse.execute("insert into activation.pulls values (%s, %s, %s, %s, 0)", [feed, read_until, NOW, problem])
    tenant = estate.tenant(brevo={"live": live, "sender_email": "cave@demo.example.com"})
    made = activation.plan_campaign(warehouse, tenant, CAMPAIGN, RULES, AS_OF, NOW)
    assert [warning[: len(start)] for warning, start in zip(made.warnings, said, strict=True)] == said


def test_a_template_at_brevo_that_cannot_be_read_or_lacks_what_it_must_have_is_not_planned_with(
    warehouse: Warehouse,
) -> None:
    tenant = estate.tenant(brevo={"sender_email": "cave@demo.example.com", "templates": {"spring": 7}})
    campaign = CAMPAIGN.model_copy(update={"template": "brevo:spring"})
    kept = Template(7, "Printemps", "Bonjour", "<p>{{ params.nothing }}</p>", True, None, None, None)

    def planned(client: Any, **given: Any) -> activation.PlanSummary:
        return activation.plan_campaign(warehouse, tenant, campaign, RULES, AS_OF, NOW, client=client, **given)

    assert planned(None, count_only=True).planned == 29
    assert refusal_code(lambda: planned(None)) == "TEMPLATE_UNREADABLE"
    assert refusal_code(lambda: planned(SimpleNamespace(template=lambda _: kept))) == "TEMPLATE_UNFIT"
    ((template_id, n_problems),) = warehouse.rows(
        "select template_id, cardinality(problems) from activation.brevo_templates"
    )
    assert template_id == 7
    assert n_problems > 0
    assert warehouse.count("activation", "campaigns") == 0


class TestSequence:
    STEPS = (Step(after_days=0), Step(after_days=14, subject={"fr": "Encore une idée"}))
    SEQUENCE = CAMPAIGN.model_copy(update={"steps": list(STEPS)})

    @pytest.fixture
    def sent(self, warehouse: Warehouse) -> Warehouse:
        """The first step was sent on its day, to all but c03, and it is two weeks later."""
        warehouse.execute("create table curated.fct_orders (customer_id text, order_date date, is_qualifying boolean)")
        plan(warehouse, self.SEQUENCE)
        assert plan(warehouse, self.SEQUENCE).warnings == [
            "step 2 waits until step 1 has been sent (29 messages have not)"
        ]
        warehouse.execute(
            "update activation.messages set status = 'sent', sent_at = %s where customer_id <> 'c03'", [NOW]
        )
        warehouse.execute("update activation.messages set status = 'failed' where customer_id = 'c03'")
        return warehouse

    def test_a_step_is_due_when_the_one_before_was_sent_so_long_ago(self, sent: Warehouse) -> None:
        early = plan(sent, self.SEQUENCE, AS_OF + timedelta(days=13))
        assert (early.step, early.is_new, early.warnings) == (1, False, ["step 2 is due on 2026-01-14"])
        day = AS_OF + timedelta(days=14)
        assert refusal_code(lambda: plan(sent, self.SEQUENCE, day)) == "STALE_GATE", (
            "each step goes through the gate again"
        )
        gated(sent, facts(*[customer(f"c{n:02d}", is_refused=n == 4) for n in range(1, 31)]), "later", day)
        sent.execute("insert into curated.fct_orders values ('c01', %s, true)", [day - timedelta(days=1)])
        sent.execute(
            "insert into outcomes.events (event_key, address, event, occurred_at, channel)"
            " values ('1', 'c02@example.com', 'clicked', %s, 'email')", [NOW + timedelta(days=1)],
        )  # fmt: skip
        second = plan(sent, self.SEQUENCE, day)
        assert (second.step, second.is_new, second.run_id, second.addressed) == (2, True, "later", 29)
        assert second.left_out == {"ORDERED": 1, "CLICKED": 1, "NOT_SENT": 1, "OBJECTED": 1}
        assert second.planned == 25
        first = activation.stored_plan(sent, "spring", "once", 1)
        latest = activation.stored_plan(sent, "spring", "once")
        assert first is not None
        assert latest is not None
        assert (latest["step"], latest["plan_hash"]) == (2, second.plan_hash) != (1, first["plan_hash"])
        assert not plan(sent, self.SEQUENCE, day).is_new

    def test_days_count_from_the_first_message_and_a_late_step_pushes_the_next(self, sent: Warehouse) -> None:
        three = self.SEQUENCE.model_copy(update={"steps": [*self.STEPS, Step(after_days=35)]})
        day = AS_OF + timedelta(days=14)
        gated(sent, facts(*[customer(f"c{n:02d}") for n in range(1, 31)]), "later", day)
        assert plan(sent, three, day).step == 2
        left = NOW + timedelta(days=17)
        sent.execute("update activation.messages set status = 'sent', sent_at = %s where step = 2", [left])
        early = plan(sent, three, AS_OF + timedelta(days=35))
        assert (early.step, early.warnings) == (2, ["step 3 is due on 2026-02-07"]), "three days late, like step 2"

    def test_steps_that_a_restore_has_forgotten_are_kept_as_done_and_the_sequence_goes_on(
        self, sent: Warehouse
    ) -> None:
        # All but c03 were sent; the dump is older than the plan, Brevo's log was read back.
        sent.execute("delete from activation.messages where status <> 'sent'")
        sent.execute(
            "update activation.messages set run_id = 'restored', customer_id = 'unknown', scenario = 'restored',"
            " batch_id = null, params = '{\"items\": []}', wine_ids = '{}', product_keys = '{}', planned_at = sent_at"
        )
        sent.execute("delete from activation.campaigns")
        sent.execute("delete from activation.batches")
        day = AS_OF + timedelta(days=1)
        rest = plan(sent, self.SEQUENCE, day)
        assert (rest.step, rest.is_new, rest.planned, rest.left_out["ALREADY_WRITTEN"]) == (1, True, 1, 28), "c03"
        sent.execute("delete from activation.messages where status = 'planned'")
        sent.execute("delete from activation.campaigns")
        sent.execute("delete from activation.batches")
        sent.execute("update gate.next_actions set eligible = false, reason = 'BOUNCED' where customer_id = 'c03'")
        with pytest.raises(RefusalError, match="EMPTY_AUDIENCE: step 1 was sent before the database was restored"):
            activation.plan_campaign(sent, TENANT, self.SEQUENCE, RULES, day, NOW, count_only=True)
        past = self.SEQUENCE.model_copy(update={"send_on": AS_OF})
        for campaign in (self.SEQUENCE, past):
            sent.execute("delete from activation.campaigns")
            made = plan(sent, campaign, day)
            assert (made.step, made.is_new, made.planned, made.audience) == (1, False, 28, 28)
            assert "Brevo's log names 28 messages" in made.warnings[0]
        assert plan(sent, self.SEQUENCE, day).warnings == ["step 2 is due on 2026-01-14"]
        later = AS_OF + timedelta(days=14)
        gated(sent, facts(*[customer(f"c{n:02d}") for n in range(1, 31)]), "later", later)
        sent.execute("insert into curated.fct_orders values ('c01', %s, true)", [later - timedelta(days=1)])
        second = plan(sent, self.SEQUENCE, later)
        assert (second.step, second.is_new, second.addressed, second.left_out) == (2, True, 28, {"ORDERED": 1})

    def test_a_click_or_order_since_the_step_before_holds_the_next_back_when_it_is_sent(self, sent: Warehouse) -> None:
        # Read back after a restore, the step before names no customer; the address is the same.
        sent.execute("update activation.messages set customer_id = 'unknown'")
        sent.execute(
            "insert into outcomes.events (event_key, address, event, occurred_at, channel, campaign, occurrence, step)"
            " values ('1', 'c01@example.com', 'clicked', %s, 'email', 'spring', 'once', 1)", [NOW],
        )  # fmt: skip
        stored = activation.stored_plan(sent, "spring", "once")
        assert stored is not None
        again = rechecks.Recheck(TENANT, self.SEQUENCE, {**stored, "step": 2})
        codes = ["c01", "c02", "c04"]
        following = pd.DataFrame(
            {"message_id": codes, "customer_id": codes, "address": [f"{code}@example.com" for code in codes]}
        )
        people = facts(*[customer(code, last_order_date=AS_OF if code == "c02" else None) for code in codes])
        with sent.transaction() as connection:
            held = again._stopped(connection, following, people)
        assert held == {"c01": "STOPPED_BY_CLICK", "c02": "STOPPED_BY_ORDER"}

    def test_an_abandoned_step_has_no_next_one(self, sent: Warehouse) -> None:
        sent.execute("update activation.campaigns set status = 'abandoned'")
        made = plan(sent, self.SEQUENCE, AS_OF + timedelta(days=14))
        assert (made.is_new, made.warnings) == (False, ["there is no step 2: step 1 was abandoned"])

    def test_who_plans_what_was_abandoned_is_told_how_to_go_on(self, warehouse: Warehouse) -> None:
        plan(warehouse)
        warehouse.execute("update activation.campaigns set status = 'abandoned'")
        told = "once was abandoned and is not planned again; a copy of its file under another name is"
        assert plan(warehouse).warnings == [told]

    def test_an_order_under_another_code_of_the_address_ends_the_sequence(self, sent: Warehouse) -> None:
        day = AS_OF + timedelta(days=14)
        gated(sent, facts(*[customer(f"c{n:02d}") for n in range(1, 31)]), "later", day)
        sent.execute("insert into curated.fct_orders values ('merged', %s, true)", [day - timedelta(days=1)])
        sent.execute("update audit.customer_facts set customer_id = 'merged' where customer_id = 'c05'")
        sent.execute("update gate.next_actions set customer_id = 'merged' where customer_id = 'c05'")
        assert plan(sent, self.SEQUENCE, day).left_out["ORDERED"] == 1

    def test_a_step_that_was_never_sent_has_no_next_one(self, warehouse: Warehouse) -> None:
        plan(warehouse, self.SEQUENCE)
        made = plan(warehouse, self.SEQUENCE, AS_OF + timedelta(days=30))
        assert made.warnings == ["there is no step 2: nothing of step 1 was sent"]


class TestCallLists:
    CALLS = Campaign.model_validate(
        {"name": "winter_calls", "kind": "reco", "channel": "phone", "text": {"fr": "Prendre des nouvelles."}}
    )

    @pytest.fixture
    def reachable(self, warehouse: Warehouse) -> Warehouse:
        """Everybody has a telephone but c02; c01 refused calls, c03 was called lately, c30 has bounced by e-mail."""
        warehouse.execute(
            "drop table curated.dim_customers; create table curated.dim_customers (customer_id text, client_code text,"
            " status text, last_name text, first_name text, full_name text, phone text, phone_opt_out boolean,"
            " post_opt_out boolean, address text, postal_code text, city text, country text, last_order_date date,"
            " profiling_objected boolean);"
            "create table curated.contact_events (customer_id text, contact_date date, is_contact boolean,"
            " address text)"
        )
        numbers = range(1, 31)
        ids = [f"c{n:02d}" for n in numbers]
        cards = pd.DataFrame({"customer_id": ids, "client_code": [f"CODE-{i}" for i in ids], "last_name": "Muller"})
        cards = cards.assign(
            status="active", first_name=ids, phone=[f"+333880000{n:02d}" for n in numbers],
            phone_opt_out=[n == 1 for n in numbers], post_opt_out=False, address="=1 rue des Vignes",
            postal_code="67000", city="Strasbourg", country="FR", last_order_date=AS_OF - timedelta(days=400),
            profiling_objected=False,
        )  # fmt: skip
        insert(warehouse, "curated.dim_customers", cards)
        warehouse.execute("update curated.dim_customers set phone = null where customer_id = 'c02'")
        warehouse.execute(
            "insert into curated.contact_events values ('c03', %s, true, null)", [AS_OF - timedelta(days=3)]
        )
        return warehouse

    def run(self, warehouse: Warehouse, home: Path) -> Any:
        return SimpleNamespace(warehouse=warehouse, tenant=TENANT, home=home, as_of=AS_OF, now=NOW)

    def test_a_call_needs_a_telephone_and_no_e_mail_address(self, reachable: Warehouse) -> None:
        made = plan(reachable, self.CALLS)
        assert made.left_out == {"NO_PHONE": 1, "PHONE_OPT_OUT": 1, "SILENCE_WINDOW": 1}
        assert (made.planned, made.calls) == (27, 0)
        assert reachable.rows("select address, template from activation.messages where customer_id = 'c30'") == [
            ("+33388000030", None)
        ]

    def test_the_light_on_planned_messages_asks_no_e_mail_address_of_a_call(self, reachable: Warehouse) -> None:
        plan(reachable, self.CALLS)
        run = SimpleNamespace(warehouse=reachable, now=NOW)
        (light,) = evaluated(run, activation_checks.planned_only_if_eligible).values()
        assert light.passed
        reachable.execute("update activation.campaigns set channel = 'email'")
        (light,) = evaluated(run, activation_checks.planned_only_if_eligible).values()
        assert light.metadata["messages_not_eligible"].value == 1, "c30 has bounced"

    def test_a_letter_goes_to_a_household_once(self, reachable: Warehouse) -> None:
        made = plan(reachable, self.CALLS.model_copy(update={"channel": "post"}))
        assert (made.planned, made.left_out) == (1, {"SILENCE_WINDOW": 1, "SAME_ADDRESS": 28})

    def test_the_workbook_says_whom_to_call_with_what_and_is_never_written_over(
        self, reachable: Warehouse, tmp_path: Path
    ) -> None:
        plan(reachable, self.CALLS)
        run = self.run(reachable, tmp_path)
        (made,) = call_lists.write(run, {"winter_calls": self.CALLS})
        assert (made.people, made.is_new, made.path.name) == (27, True, "appels-winter_calls-once.xlsx")
        assert set(reachable.rows("select path from activation.call_lists")) == {
            ("exports/demo/call_lists/appels-winter_calls-once.xlsx",)
        }
        book = openpyxl.load_workbook(made.path)
        listed, back = book.worksheets
        rows = list(listed.iter_rows(min_row=5, values_only=True))
        assert rows[0][:4] == ("Code client", "Client", "Téléphone", "Ville")
        assert rows[1][:4] == ("CODE-c04", "Muller c04", "+33388000004", "Strasbourg")
        assert "Riesling p1 2022 (15,00\u00a0€)\u00a0: " in str(rows[1][4])
        assert listed["A4"].value == "Prendre des nouvelles."
        headers = [cell.value for cell in back[1]]
        fields = landing.load_source().datasets["contacts"].fields
        named = [
            [name for name, field in fields.items() if landing.normalise_header(h) in field.synonyms] for h in headers
        ]
        assert named == [["client_code"], ["contact_date"], ["channel"], ["status"], ["campaign_id"]]
        made.path.write_bytes(b"somebody is working with it")
        (again,) = call_lists.write(run, {"winter_calls": self.CALLS})
        assert (again.is_new, again.path.read_bytes()) == (False, b"somebody is working with it")
        assert reachable.count("activation", "call_lists") == 27


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
