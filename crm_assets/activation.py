"""Planning a campaign against a tenant's database: reads, one plain function, one transaction.

Shared by the Dagster asset and by `crm plan`; runs without Dagster. Every refusal is a
`RefusalError` with a code and a sentence. What is planned is decided in `logic/activation.py`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import date, datetime
from typing import Any

import pandas as pd
import psycopg

from crm_assets import gating, tables
from crm_assets.campaigns import Campaign, CampaignFiles
from crm_assets.logic import activation, messages
from crm_assets.logic.activation import Gate, RefusalError
from crm_assets.resources.warehouse import Warehouse, copy_frame
from crm_assets.rules import BusinessRules
from crm_assets.run_context import GATE_IN_FORCE, TenantRun
from crm_assets.tenants import Tenant

_GATE = "select run_id, as_of, status, reasons from gate.decisions" + GATE_IN_FORCE


@dataclass(frozen=True)
class PlanSummary:
    """What `crm plan` says. `is_new` is false when this occurrence had been planned before: nothing was
    changed.
    """

    campaign: str
    occurrence: str
    step: int
    run_id: str
    plan_hash: str
    audience: int
    planned: int
    holdout: int
    batches: int
    as_of: date
    expires_on: date
    is_new: bool
    left_out: dict[str, int] = field(default_factory=dict)
    refused_products: dict[str, list[str]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def gate_in_force(warehouse: Warehouse) -> Gate | None:
    """The newest decision of a run of the present."""
    found = warehouse.rows(_GATE)
    if not found:
        return None
    run_id, as_of, status, reasons = found[0]
    return Gate(run_id, as_of, status, tuple(reasons))


def require_running(connection: psycopg.Connection, campaign: str) -> None:
    """RefusalError when this campaign, or all of them, are paused."""
    paused = connection.execute(
        "select campaign, reason from activation.pauses where resumed_at is null and campaign in ('*', %s)"
        " order by paused_at limit 1",
        [campaign],
    ).fetchone()
    if paused:
        what = "all campaigns are" if paused[0] == "*" else f"campaign {campaign} is"
        raise RefusalError("PAUSED", f"{what} paused: {paused[1]}")


def _people(warehouse: Warehouse, gate: Gate, campaign: Campaign) -> pd.DataFrame:
    """One row per customer of the run, with what an audience may ask for (see `logic.activation.plan`)."""
    actions = warehouse.read(
        "gate",
        "next_actions",
        ["customer_id", "permitted", "scenario", "eligible"],
        "run_id = %s",
        [gate.run_id],
    )
    found = warehouse.read("audit", "findings", ["customer_id", "rule_no", "severity"], "run_id = %s", [gate.run_id])
    facts = warehouse.read("audit", "customer_facts", ["customer_id", "email", "type", "postal_code", "country"])
    segments = warehouse.read("rfm", "customer_rfm", ["customer_id", "segment"])
    clusters = warehouse.read("customers", "clusters", ["customer_id", "cluster_id", "cluster_name"])
    people = actions.assign(eligible=activation.eligible_for(campaign, actions, found))
    for more in (facts.rename(columns={"email": "address"}), segments, clusters):
        people = people.merge(more, on="customer_id", how="left", validate="one_to_one")
    # An address may have been erased since the run was made.
    people["eligible"] &= people["address"].notna()
    return people


def stored_plan(warehouse: Warehouse, campaign: str, occurrence: str | None) -> dict[str, Any] | None:
    """The stored plan of an occurrence (None: the campaign's latest), with its counts."""
    found = warehouse.query(
        "select c.*, (select count(*) from activation.batches b where b.campaign = c.campaign"
        " and b.occurrence = c.occurrence and b.step = c.step) as batches from activation.campaigns c"
        " where c.campaign = %s and c.occurrence = coalesce(%s, c.occurrence)"
        ' order by c.planned_at desc, c.occurrence collate "C" desc limit 1',
        [campaign, occurrence],
    )
    return {str(name): value for name, value in found.to_dict("records")[0].items()} if len(found) else None


def _summary(stored: dict[str, Any]) -> PlanSummary:
    return PlanSummary(
        campaign=stored["campaign"],
        occurrence=stored["occurrence"],
        step=int(stored["step"]),
        run_id=stored["run_id"],
        plan_hash=stored["plan_hash"],
        audience=int(stored["audience"]),
        planned=int(stored["audience"]) - int(stored["holdout"]),
        holdout=int(stored["holdout"]),
        batches=int(stored["batches"]),
        as_of=stored["as_of"].date(),
        expires_on=stored["expires_on"].date(),
        is_new=False,
    )


def plan_campaign(
    warehouse: Warehouse, tenant: Tenant, campaign: Campaign, rules: BusinessRules, as_of: date, now: datetime
) -> PlanSummary:
    """Plan the occurrence of `campaign` that `as_of` belongs to, once: a second call returns what was
    planned.

    Nothing is sent. RefusalError: NO_DECISION, GATE_CLOSED, HISTORICAL, STALE_GATE, PAUSED, NOT_ACTIVE,
    NOT_DUE, EMPTY_AUDIENCE, GATE_CHANGED, ALREADY_PLANNED.
    """
    stored = stored_plan(warehouse, campaign.name, campaign.occurrence_on(as_of))
    if stored:
        return _summary(stored)
    if not campaign.active:
        raise RefusalError("NOT_ACTIVE", f"the file of campaign {campaign.name} says active: false")
    if not campaign.is_due(as_of, rules):
        raise RefusalError("NOT_DUE", f"campaign {campaign.name} leaves on {campaign.send_on}; today is {as_of}")
    gate = activation.require_open(gate_in_force(warehouse), as_of, rules)
    plan = activation.plan(
        tenant,
        campaign,
        gate,
        _people(warehouse, gate, campaign),
        gating.listed_items(warehouse, gate.run_id, messages.ITEM_COLUMNS),
        warehouse.read("curated", "dim_products", messages.PRODUCT_COLUMNS),
        rules,
        as_of,
    )
    is_new = _store(warehouse, plan, gate, as_of, now)
    stored = stored_plan(warehouse, plan.campaign, plan.occurrence)
    assert stored is not None
    return PlanSummary(
        **{
            **asdict(_summary(stored)),
            "is_new": is_new,
            "left_out": plan.left_out if is_new else {},
            "refused_products": plan.refused_products if is_new else {},
        }
    )


def _store(warehouse: Warehouse, plan: activation.Plan, gate: Gate, as_of: date, now: datetime) -> bool:
    """Write a plan in one transaction; False when somebody else had planned this occurrence meanwhile."""
    with warehouse.transaction() as connection:
        require_running(connection, plan.campaign)
        # The campaign's row is the lock: a second planner waits here for the first to commit, then finds
        # it taken.
        taken = connection.execute(
            "insert into activation.campaigns (campaign, occurrence, step, run_id, plan_hash, audience,"
            " holdout, as_of, planned_at, expires_on) values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
            " on conflict (campaign, occurrence, step) do nothing",
            [
                plan.campaign,
                plan.occurrence,
                plan.step,
                plan.run_id,
                plan.plan_hash,
                len(plan.messages),
                plan.n_holdout,
                as_of,
                now,
                plan.expires_on,
            ],
        ).rowcount
        if not taken:
            return False
        current = connection.execute(_GATE.encode()).fetchone()
        if current is None or current[0] != gate.run_id or current[2] != "open":
            raise RefusalError("GATE_CHANGED", "a newer decision of the gate came in while planning; plan again")
        copy_frame(connection, tables.batches, plan.batches)
        try:
            copy_frame(connection, tables.messages, plan.messages.assign(planned_at=now))
        except psycopg.errors.UniqueViolation:
            # PostgreSQL's own text quotes the address: it must not reach a log.
            raise RefusalError(
                "ALREADY_PLANNED",
                f"an address has a message of {plan.campaign} {plan.occurrence} already; nothing was planned",
            ) from None
    return True


def settle_reviews(run: TenantRun) -> None:
    """What a crash left between decisions and gate must not be planned or sent past."""
    from crm_assets import reviews  # it decides with the help of this module

    reviews.settle(run)


def plan(run: TenantRun, name: str) -> dict[str, Any]:
    """Plan the campaign `name` of the run's tenant, as of the run's day."""
    settle_reviews(run)
    campaign = CampaignFiles(run.config.tenants, run.tenant).get(name)
    return plan_campaign(run.warehouse, run.tenant, campaign, run.rules, run.as_of, run.now).as_dict()
