"""Planning and sending a campaign against a tenant's database: reads, one plain function, one transaction.

Shared by the Dagster assets and by `crm plan` and `crm send`; runs without Dagster. Every refusal is a
`RefusalError` with a code and a sentence. What is planned is decided in `logic/activation.py`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from datetime import date, datetime
from typing import Any

import pandas as pd
import psycopg

from crm_assets import gating, tables
from crm_assets.campaigns import Campaign, CampaignFiles
from crm_assets.logic import activation, audit
from crm_assets.logic.activation import Gate, RefusalError
from crm_assets.logic.gate import NO_ELIGIBLE_CUSTOMER, REVIEW_REJECTED
from crm_assets.resources import brevo
from crm_assets.resources.warehouse import Warehouse, copy_frame
from crm_assets.rules import BusinessRules
from crm_assets.run_context import GATE_IN_FORCE, TenantRun
from crm_assets.tenants import Tenant

# Messages in these states reached the person, or may have.
SENT_STATES = ("sending", "sent", "unknown")

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


@dataclass(frozen=True)
class SendSummary:
    """What `crm send` says: calls made (or checked, in a dry run) and messages held back on current data."""

    campaign: str
    occurrence: str
    step: int
    plan_hash: str
    dry_run: bool
    chunks: int
    messages: int
    bytes: int
    held_back: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def gate_in_force(warehouse: Warehouse) -> Gate | None:
    """The newest decision of a run of the present."""
    found = warehouse.rows(_GATE)
    if not found:
        return None
    run_id, as_of, status, reasons = found[0]
    return Gate(run_id, as_of, status, tuple(reasons))


def sent_wines(warehouse: Warehouse, customer_id: str | None = None) -> pd.DataFrame:
    """One row per wine of a really sent message, to anybody or to one customer: customer_id, wine_id, sent_date."""
    return warehouse.query(
        "select customer_id, unnest(wine_ids) as wine_id, coalesce(sent_at, planned_at)::date as sent_date"
        " from activation.messages where status = any(%s) and customer_id = coalesce(%s, customer_id)",
        [list(SENT_STATES), customer_id],
    )


def audit_frames(warehouse: Warehouse) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """What the audit looks at beside the list: customer_facts, dim_products, customer_wines, sent wines."""
    return (
        warehouse.read("audit", "customer_facts", audit.FACT_COLUMNS),
        warehouse.read("curated", "dim_products", audit.PRODUCT_COLUMNS),
        warehouse.read("rfm", "customer_wines", ["customer_id", "wine_id", "last_date"]),
        sent_wines(warehouse),
    )


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


def _stored(warehouse: Warehouse, campaign: str, occurrence: str | None) -> dict[str, Any] | None:
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
    stored = _stored(warehouse, campaign.name, campaign.occurrence_on(as_of))
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
        gating.listed_items(warehouse, gate.run_id, activation.ITEM_COLUMNS),
        warehouse.read("curated", "dim_products", activation.PRODUCT_COLUMNS),
        rules,
        as_of,
    )
    is_new = _store(warehouse, plan, gate, as_of, now)
    stored = _stored(warehouse, plan.campaign, plan.occurrence)
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


def _require_sendable(warehouse: Warehouse, stored: dict[str, Any], as_of: date, rules: BusinessRules) -> None:
    """RefusalError unless the plan is young enough, nothing is paused and both gates are open."""
    campaign, run_id, last_day = stored["campaign"], stored["run_id"], stored["expires_on"].date()
    if as_of > last_day:
        raise RefusalError("EXPIRED", f"the plan of {campaign} {stored['occurrence']} expired on {last_day}")
    with warehouse.transaction() as connection:
        require_running(connection, campaign)
    pinned = warehouse.rows("select status, reasons from gate.decisions where run_id = %s", [run_id])
    if not pinned:
        raise RefusalError("NO_DECISION", f"run {run_id}, which the plan pins, has no decision of the gate")
    if pinned[0][0] != "open":
        closed = ", ".join(pinned[0][1])
        raise RefusalError("GATE_CLOSED", f"the gate of the pinned run {run_id} is closed: {closed}")
    # Newer data may have been found unfit since: nothing is sent on them either. That nobody of a newer run is eligible
    # yet, for want of a review, does not stale a plan (spec.md §6); each of its customers is checked again below.
    activation.require_open(gate_in_force(warehouse), as_of, rules, despite=frozenset({NO_ELIGIBLE_CUSTOMER}))


def send_campaign(
    warehouse: Warehouse,
    tenant: Tenant,
    campaign: Campaign,
    rules: BusinessRules,
    as_of: date,
    now: datetime,
    *,
    occurrence: str | None = None,
    live_allowed: bool = False,
    api_key: str | None = None,
    confirmed_plan_hash: str | None = None,
) -> SendSummary:
    """Pass a planned occurrence (the latest unless said) to Brevo's client: a dry run unless a plan hash is
    confirmed.

    Gate, pauses, expiry and the plan's hash are read anew; permission and rules 1 to 9 are checked again on
    current data. A dry run writes activation.attempts (the same run twice, the same rows) and leaves messages
    as they are.
    """
    stored = _stored(warehouse, campaign.name, occurrence)
    if stored is None:
        wanted = f" {occurrence}" if occurrence else ""
        raise RefusalError("NOT_PLANNED", f"campaign {campaign.name} has no plan{wanted}; plan it first")
    _require_sendable(warehouse, stored, as_of, rules)
    key = [stored["campaign"], stored["occurrence"], int(stored["step"])]
    messages = warehouse.read(
        "activation", "messages", where="campaign = %s and occurrence = %s and step = %s", params=key
    )
    if activation.plan_hash(tenant, campaign, key[1], stored["run_id"], messages) != stored["plan_hash"]:
        raise RefusalError(
            "PLAN_CHANGED",
            f"{campaign.name} {key[1]} is no longer what was planned: its file, the template, the sender or a"
            " message has changed since",
        )
    try:
        client = brevo.client(
            tenant,
            live_allowed=live_allowed,
            api_key=api_key,
            confirmed_plan_hash=confirmed_plan_hash,
            plan_hash=stored["plan_hash"],
        )
    except brevo.LiveRefusedError as error:
        raise RefusalError("LIVE_REFUSED", str(error)) from error
    planned = messages[messages["status"] == activation.PLANNED].merge(
        warehouse.read("activation", "batches", ["batch_id", "batch_no"]),
        on="batch_id",
        validate="many_to_one",
    )
    planned = planned.sort_values(["batch_no", "message_id"], kind="stable", ignore_index=True)
    held = _recheck(warehouse, tenant, campaign, rules, as_of, stored["run_id"], planned)
    ready = planned[~planned["message_id"].isin(held)]
    attempts: list[dict[str, Any]] = []
    for chunk in activation.chunks(tenant, campaign, key[1], ready, rules):
        try:
            answer = client.send_email(chunk.body)
        except brevo.InvalidRequestError as error:
            raise RefusalError("INVALID_REQUEST", f"chunk {chunk.tag}: {error}") from error
        attempts.append(
            {
                "attempt_id": activation.short_hash(answer.outcome, chunk.tag, chunk.request_hash),
                "campaign": key[0],
                "occurrence": key[1],
                "step": key[2],
                "tag": chunk.tag,
                "n_messages": len(chunk.message_ids),
                "n_bytes": len(chunk.body),
                "request_hash": chunk.request_hash,
                "is_dry_run": client.is_dry_run,
                "outcome": answer.outcome,
                "started_at": now,
                "ended_at": now,
            }
        )
    if attempts:
        warehouse.upsert(tables.attempts, pd.DataFrame(attempts))
    return SendSummary(
        campaign=key[0],
        occurrence=key[1],
        step=key[2],
        plan_hash=stored["plan_hash"],
        dry_run=client.is_dry_run,
        chunks=len(attempts),
        messages=sum(attempt["n_messages"] for attempt in attempts),
        bytes=sum(attempt["n_bytes"] for attempt in attempts),
        held_back=dict(sorted(Counter(held.values()).items())),
    )


def _recheck(
    warehouse: Warehouse,
    tenant: Tenant,
    campaign: Campaign,
    rules: BusinessRules,
    as_of: date,
    run_id: str,
    planned: pd.DataFrame,
) -> dict[str, str]:
    """message_id -> reason, for planned messages that must not leave on current data."""
    facts, products, customer_wines, wines_sent = audit_frames(warehouse)
    items = gating.listed_items(warehouse, run_id, audit.ITEM_COLUMNS)
    shown = planned[["customer_id", "product_keys"]].explode("product_keys")
    shown = shown.rename(columns={"product_keys": "product_key"}).dropna()
    known = facts[facts["customer_id"].isin(planned["customer_id"])]
    items = items.merge(shown.drop_duplicates(), on=["customer_id", "product_key"], how="inner")
    items = items[items["customer_id"].isin(known["customer_id"])]
    result = audit.audit(items, known, products, customer_wines, wines_sent, tenant, rules, as_of)
    objected = set(warehouse.read("curated", "dim_customers", ["customer_id"], "profiling_objected")["customer_id"])
    reviewed = _rejected_since(warehouse, run_id, planned)
    return activation.held_back(planned, result.permissions, result.findings, objected, reviewed, campaign)


def _rejected_since(warehouse: Warehouse, run_id: str, planned: pd.DataFrame) -> dict[str, str]:
    """customer_id -> why review has held a planned message back since: a wine of it was rejected, or put off."""
    held = warehouse.rows(
        "select customer_id, reason from gate.next_actions where run_id = %s and starts_with(reason, 'REVIEW_')",
        [run_id],
    )
    rejected = warehouse.read(
        "review", "applied_decisions", ["customer_id", "wine_id"], "run_id = %s and decision = 'reject'", [run_id]
    )
    shown = planned[["customer_id", "wine_ids"]].explode("wine_ids").rename(columns={"wine_ids": "wine_id"})
    hit = shown.merge(rejected, on=["customer_id", "wine_id"])["customer_id"]
    return dict.fromkeys(hit, REVIEW_REJECTED) | dict(held)


def _settle_reviews(run: TenantRun) -> None:
    """What a crash left between decisions and gate must not be planned or sent past."""
    from crm_assets import reviews  # it decides with the help of this module

    reviews.settle(run)


def plan(run: TenantRun, name: str) -> dict[str, Any]:
    """Plan the campaign `name` of the run's tenant, as of the run's day."""
    _settle_reviews(run)
    campaign = CampaignFiles(run.config.tenants, run.tenant).get(name)
    return plan_campaign(run.warehouse, run.tenant, campaign, run.rules, run.as_of, run.now).as_dict()


def send(run: TenantRun, name: str, *, confirmed_plan_hash: str | None = None) -> dict[str, Any]:
    """Send the campaign `name` of the run's tenant: a dry run unless the hash of its plan is confirmed."""
    _settle_reviews(run)
    campaign = CampaignFiles(run.config.tenants, run.tenant).get(name)
    return send_campaign(
        run.warehouse,
        run.tenant,
        campaign,
        run.rules,
        run.as_of,
        run.now,
        live_allowed=run.config.live,
        confirmed_plan_hash=confirmed_plan_hash,
    ).as_dict()
