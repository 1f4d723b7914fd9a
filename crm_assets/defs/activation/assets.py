"""Planning and sending as assets. Nothing here sends by itself: a send is a dry run unless a plan's hash is
confirmed.
"""

from collections.abc import Iterator
from typing import Any

import dagster as dg
from pydantic import Field

from crm_assets import activation, reviews, run_context, safeguards, sending, tables
from crm_assets.campaigns import Campaign, CampaignFiles
from crm_assets.defs.common import AFTER_REFRESH, TRIGGER_TAG, WEEK_TAG, TenantRun, materialized, table_spec
from crm_assets.logic.activation import RefusalError

_GATED = (
    ("gate", "decisions"),
    ("gate", "next_actions"),
    ("audit", "findings"),
    ("recommendations", "items"),
    ("curated", "dim_products"),
    ("audit", "customer_facts"),
    ("rfm", "customer_rfm"),
    ("rfm", "purchases"),
    ("customers", "clusters"),
    ("curated", "dim_customers"),
    ("curated", "fct_orders"),
    ("curated", "contact_events"),
)
_PLANNED = (tables.campaigns, tables.batches, tables.messages)


class PlanConfig(dg.Config):
    """Which campaign to plan."""

    campaign: str = Field("", description="Name of a campaign file; empty: those that follow a refresh.")
    count_only: bool = Field(
        False, description="Only count whom it would reach, who is left out and why; nothing is written."
    )


class SendConfig(dg.Config):
    """Which campaign to send, and the confirmation that a live send needs."""

    campaign: str = Field("", description="Name of a campaign file; empty: every planned campaign, as a dry run.")
    occurrence: str = Field("", description="once, or an ISO week like 2026-W11; empty: the latest plan.")
    confirmed_plan_hash: str = Field("", description="Hash of the exact plan, to ask for a live send of one campaign.")
    confirmed_by: str = Field("", description="Who confirms that plan: a live send is a named person's.")


def _campaigns(run: run_context.TenantRun, name: str) -> list[Campaign]:
    """The campaigns to work on. Wrong files are left out: shown in the metadata, refused by name."""
    files = CampaignFiles(run.config.tenants, run.tenant)
    if name:
        return [files.get(name)]
    # Started by hand, every active campaign is meant; after a refresh, weekly ones only after the weekly
    # refresh.
    is_weekly = WEEK_TAG in run.tags or run.tags.get(TRIGGER_TAG) != AFTER_REFRESH
    return files.following_refresh(is_weekly=is_weekly)


def _said(lines: list[str]) -> dg.MarkdownMetadataValue:
    return dg.MetadataValue.md("\n".join(f"* {line}" for line in lines) or "nothing")


@dg.multi_asset(
    name="activation__plan",
    specs=[
        table_spec(tables.campaigns, deps=_GATED, description="Planned once per occurrence from the gate in force."),
        table_spec(tables.batches, deps=_GATED, description="Balanced; planned together with their messages."),
        table_spec(
            tables.messages,
            deps=_GATED,
            description="Planned in one transaction with its campaign; an address once per occurrence.",
        ),
    ],
)
def plan_campaign(
    context: dg.AssetExecutionContext, config: PlanConfig, tenant_run: TenantRun
) -> Iterator[dg.MaterializeResult[Any]]:
    """Plan campaigns from the gate in force. Sends nothing; a planned occurrence is never planned again."""
    reviews.settle(tenant_run)  # what a crash left between decisions and gate must not be planned past
    files = CampaignFiles(tenant_run.config.tenants, tenant_run.tenant)
    plans: dict[str, activation.PlanSummary] = {}
    said: list[str] = [f"wrong file: {problem}" for problem in files.errors.values()]
    follows = not config.campaign and tenant_run.tags.get(TRIGGER_TAG) == AFTER_REFRESH
    n_waiting = reviews.waiting(tenant_run.warehouse) if follows else 0
    for campaign in _campaigns(tenant_run, config.campaign):
        if n_waiting and campaign.kind == "reco":
            # An occurrence is planned once: planned now, it would leave out whoever is approved tomorrow.
            said.append(f"{campaign.name}: not planned yet, {n_waiting} customers wait for review")
            continue
        try:
            plans[campaign.name] = plan = activation.plan_run(tenant_run, campaign, count_only=config.count_only)
        except RefusalError as refusal:
            if config.campaign:
                raise dg.Failure(str(refusal), metadata={"refused": refusal.code}) from refusal
            said.append(f"{campaign.name}: refused, {refusal}")
            continue
        said.extend(plan.sentences())
    for line in said:
        context.log.info(line)
    for table in _PLANNED:
        yield materialized(
            tenant_run.warehouse.count(str(table.schema), table.name),
            table,
            tenant_run,
            campaigns=", ".join(plans) or "none",
            planned_messages=sum(plan.planned for plan in plans.values() if plan.is_new),
            what_happened=_said(said),
            warnings=_said(sorted({warning for plan in plans.values() for warning in plan.warnings})),
        )


@dg.multi_asset(
    name="activation__send",
    specs=[
        table_spec(
            tables.attempts,
            deps=[(str(table.schema), table.name) for table in _PLANNED],
            description="A dry run writes the same rows each time and leaves the messages planned.",
        ),
        table_spec(
            tables.chunks,
            deps=[(str(table.schema), table.name) for table in _PLANNED],
            description="Of live sends only; never sent twice, settled by Brevo's log where an answer was lost.",
        ),
    ],
)
def send_campaign(
    context: dg.AssetExecutionContext, config: SendConfig, tenant_run: TenantRun
) -> Iterator[dg.MaterializeResult[Any]]:
    """Send planned messages: live with the confirmed hash of one plan, in a run that a person started; else dry."""
    is_live = bool(config.confirmed_plan_hash)
    if is_live and not config.campaign:
        raise dg.Failure("a plan's hash confirms one campaign: name it")
    said: list[str] = []
    sends: list[sending.SendSummary] = []
    for campaign in _campaigns(tenant_run, config.campaign):
        given: dict[str, Any] = {"occurrence": config.occurrence or None}
        if is_live:
            given |= {"confirmed_hash": config.confirmed_plan_hash, "by": config.confirmed_by}
        try:
            if is_live:
                safeguards.refuse_automatic(tenant_run.tags)
            sends.append(sending.send_campaign(sending.sending_of(tenant_run, campaign.name, **given)))
        except RefusalError as refusal:
            if config.campaign:
                raise dg.Failure(str(refusal), metadata={"refused": refusal.code}) from refusal
            said.append(f"{campaign.name}: refused, {refusal}")
            continue
        said.append(sends[-1].sentence())
    for line in said:
        context.log.info(line)
    for table in (tables.attempts, tables.chunks):
        yield materialized(
            tenant_run.warehouse.count(str(table.schema), table.name),
            table,
            tenant_run,
            messages=sum(send.messages for send in sends),
            calls=sum(send.chunks for send in sends),
            bytes=sum(send.bytes for send in sends),
            found_sent=sum(send.found for send in sends),
            unknown=sum(send.unknown for send in sends),
            refused=sum(send.failed for send in sends),
            held_back=sum(sum(send.held_back.values()) for send in sends),
            still_planned=sum(send.remaining for send in sends),
            dry_run=not is_live,
            what_happened=_said(said),
        )
