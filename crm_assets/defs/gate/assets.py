"""The gate's tables, keyed by run. How it decides is in `logic/gate.py`, what it reads in `gating.py`."""

from typing import Any

import dagster as dg

from crm_assets import gating, tables
from crm_assets.defs.common import TenantRun, bars, materialized, tenant_asset


@tenant_asset(
    tables.next_actions,
    deps=[
        ("recommendations", "items"),
        ("audit", "customer_facts"),
        ("audit", "scores"),
        ("review", "applied_decisions"),
        ("review", "samples"),
    ],
)
def gate_next_actions(context: dg.AssetExecutionContext, tenant_run: TenantRun) -> dg.MaterializeResult[Any]:
    """Permission, then audit, then review: the first that says no is the reason.

    Why one customer gets a message, or none, with all its grounds: the job
    [explain_customer](/locations/crm_assets.definitions/jobs/explain_customer/playground).
    """
    actions = gating.next_actions(gating.GatedRun.of(tenant_run))
    tenant_run.replace_run(tables.next_actions, actions)
    reasons = actions["permission_reason"].value_counts()
    return materialized(
        len(actions),
        run=tenant_run,
        permitted=int(actions["permitted"].sum()),
        eligible=int(actions["eligible"].sum()),
        permission_reasons=bars(reasons, "Customers not permitted, by reason"),
        reasons=bars(actions.loc[~actions["eligible"], "reason"].value_counts(), "Customers not eligible, by reason"),
    )


@tenant_asset(
    tables.decisions,
    deps=[
        ("gate", "next_actions"),
        ("audit", "scores"),
        ("audit", "data_quality"),
        ("curated", "fct_orders"),
    ],
)
def gate_decisions(context: dg.AssetExecutionContext, tenant_run: TenantRun) -> dg.MaterializeResult[Any]:
    """Open, or closed with every reason that holds."""
    run = gating.GatedRun.of(tenant_run)
    decision = gating.decision(run)
    tenant_run.replace_run(tables.decisions, decision)
    # Only here: a folder whose run stopped short of the gate must be asked for again.
    tenant_run.mark_refreshed()
    row = decision.iloc[0]
    return materialized(
        1,
        run=tenant_run,
        run_id=run.run_id,
        status=row["status"],
        reasons=", ".join(row["reasons"]) or "none",
        eligible=int(row["n_eligible"]),
        customers=int(row["n_customers"]),
        unmapped_document_types=gating.unmapped_document_types(run),
    )
