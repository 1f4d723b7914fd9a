"""The workbooks of phone and postal campaigns, for the estate's people to call and write by."""

from typing import Any

import dagster as dg

from crm_assets import call_lists, tables
from crm_assets.campaigns import CampaignFiles
from crm_assets.defs.common import TenantRun, materialized, tenant_asset


@tenant_asset(
    tables.call_lists,
    deps=[("activation", "campaigns"), ("activation", "messages"), ("curated", "dim_customers")],
)
def activation_call_lists(context: dg.AssetExecutionContext, tenant_run: TenantRun) -> dg.MaterializeResult[Any]:
    """Written once per plan and never over: somebody is working with it. Who was reached counts as contacted when a
    contacts file says so.
    """
    campaigns = CampaignFiles(tenant_run.config.tenants, tenant_run.tenant).campaigns
    lists = call_lists.write(tenant_run, campaigns)
    shown: dict[str, Any] = {f"list_{each.campaign}": dg.MetadataValue.path(str(each.path)) for each in lists}
    return materialized(
        tenant_run.warehouse.count("activation", "call_lists"),
        run=tenant_run,
        lists=len(lists),
        newly_written=sum(each.is_new for each in lists),
        people=sum(each.people for each in lists),
        **shown,
    )
