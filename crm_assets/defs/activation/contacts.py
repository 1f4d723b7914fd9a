"""Contacts and lists at Brevo as an asset. A dry run, unless its configuration asks for a live one."""

from typing import Any

import dagster as dg
from pydantic import Field

from crm_assets import contacts, tables
from crm_assets.clock import SystemClock
from crm_assets.defs.common import TenantRun, materialized, tenant_asset
from crm_assets.logic.activation import RefusalError
from crm_assets.resources import brevo


class ContactsConfig(dg.Config):
    """Whether anything is handed over."""

    live: bool = Field(
        False, description="Hand over, where the estate's file, CRM_LIVE and a key allow it; else only count."
    )


@tenant_asset(
    tables.contact_lists,
    deps=[
        ("gate", "decisions"),
        ("gate", "next_actions"),
        ("audit", "customer_facts"),
        ("recommendations", "items"),
        ("curated", "dim_customers"),
        ("curated", "dim_products"),
        ("rfm", "customer_rfm"),
        ("customers", "clusters"),
        ("customers", "predictions"),
    ],
)
def sync_contacts(
    context: dg.AssetExecutionContext, config: ContactsConfig, tenant_run: TenantRun
) -> dg.MaterializeResult[Any]:
    """Hand over to Brevo what changed of people whom we may write to, and take whoever refused off our lists."""
    clock = SystemClock()
    mode: brevo.Mode = "live" if config.live else "dry"
    try:
        with brevo.client(tenant_run.tenant, tenant_run.config, clock, mode=mode) as client:
            done = contacts.sync(tenant_run, client, clock)
    except RefusalError as refusal:
        raise dg.Failure(str(refusal), metadata={"refused": refusal.code}) from refusal
    except brevo.LiveRefusedError as refusal:
        raise dg.Failure(str(refusal), metadata={"refused": "LIVE_REFUSED"}) from refusal
    said = {name: value for name, value in done.as_dict().items() if value is not None}
    context.log.info("contacts: %s", said)
    if done.problem is not None:
        raise dg.Failure(done.problem, metadata=said)
    return materialized(tenant_run.warehouse.count("activation", "contact_lists"), run=tenant_run, **said)
