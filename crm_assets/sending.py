"""Sending a planned campaign: the gate and the data as they are now, then frozen calls to Brevo's client.

Shared by the Dagster asset and by `crm send`; runs without Dagster. Calls are packed in `logic/outbox.py`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from datetime import date, datetime
from typing import Any

import pandas as pd

from crm_assets import gating, tables
from crm_assets.activation import gate_in_force, require_running, settle_reviews, stored_plan
from crm_assets.campaigns import Campaign, CampaignFiles
from crm_assets.clock import SystemClock
from crm_assets.logic import activation, audit, outbox
from crm_assets.logic.activation import RefusalError
from crm_assets.logic.gate import NO_ELIGIBLE_CUSTOMER, REVIEW_REJECTED
from crm_assets.resources import brevo
from crm_assets.resources.warehouse import Warehouse
from crm_assets.rules import BusinessRules
from crm_assets.run_context import TenantRun
from crm_assets.settings import settings
from crm_assets.tenants import Tenant


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
    stored = stored_plan(warehouse, campaign.name, occurrence)
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
        client = brevo.client(tenant, settings(), SystemClock(), mode="live" if confirmed_plan_hash else "dry")
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
    for chunk in outbox.chunks(tenant, campaign, key[1], ready, rules):
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
    facts, products, customer_wines, wines_sent = gating.audit_frames(warehouse)
    items = gating.listed_items(warehouse, run_id, audit.ITEM_COLUMNS)
    shown = planned[["customer_id", "product_keys"]].explode("product_keys")
    shown = shown.rename(columns={"product_keys": "product_key"}).dropna()
    known = facts[facts["customer_id"].isin(planned["customer_id"])]
    items = items.merge(shown.drop_duplicates(), on=["customer_id", "product_key"], how="inner")
    items = items[items["customer_id"].isin(known["customer_id"])]
    result = audit.audit(items, known, products, customer_wines, wines_sent, tenant, rules, as_of)
    objected = set(warehouse.read("curated", "dim_customers", ["customer_id"], "profiling_objected")["customer_id"])
    reviewed = _rejected_since(warehouse, run_id, planned)
    return outbox.held_back(planned, result.permissions, result.findings, objected, reviewed, campaign)


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


def send(run: TenantRun, name: str, *, confirmed_plan_hash: str | None = None) -> dict[str, Any]:
    """Send the campaign `name` of the run's tenant: a dry run unless the hash of its plan is confirmed."""
    settle_reviews(run)
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
