"""The gate's tables, keyed by run. How it decides is in `logic/gate.py`."""

from typing import Any

import dagster as dg

from crm_assets import gating, tables
from crm_assets.defs.common import TenantRun, bars, materialized, tenant_asset
from crm_assets.logic import audit, gate


@tenant_asset(
    tables.next_actions,
    deps=[
        ("recommendations", "items"),
        ("audit", "customer_facts"),
        ("audit", "scores"),
        ("state", "decisions"),
    ],
)
def gate_next_actions(context: dg.AssetExecutionContext, tenant_run: TenantRun) -> dg.MaterializeResult[Any]:
    """Permission, then audit, then review: the first that says no is the reason."""
    warehouse, run_id = tenant_run.warehouse, tenant_run.run_id
    items = gating.listed_items(warehouse, run_id, ["customer_id", "wine_id", "scenario", "rank"])
    people = audit.everyone(warehouse.read("audit", "customer_facts", audit.FACT_COLUMNS), items)
    actions = gate.next_actions(
        people,
        audit.permissions(people, tenant_run.tenant, tenant_run.rules, tenant_run.as_of),
        warehouse.read(
            "audit",
            "scores",
            ["customer_id", "n_errors", "n_warnings", "audit_score", "first_rule"],
            "run_id = %s",
            [run_id],
        ),
        items,
        warehouse.read("review", "decisions", ["customer_id", "wine_id", "scenario", "decision", "decided_at"]),
        tenant_run.tenant.review,
        tenant_run.rules,
        tenant_run.now,
    )
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
    warehouse, run_id = tenant_run.warehouse, tenant_run.run_id
    of_run: dict[str, Any] = {"where": "run_id = %s", "params": [run_id]}
    quality = warehouse.read("audit", "data_quality", **of_run)
    unmapped = warehouse.read(
        "curated",
        "fct_orders",
        ["document_type"],
        "treatment = 'unmapped' and order_date <= %s",
        [tenant_run.as_of],
    )
    decision = gate.decide(
        warehouse.read("gate", "next_actions", ["permitted", "eligible"], **of_run),
        warehouse.read("audit", "scores", ["n_errors", "n_warnings", "audit_score"], **of_run),
        audit.breaker(quality, tenant_run.rules),
        unmapped["document_type"].nunique(),
        tenant_run.is_historical,
        tenant_run.as_of,
        tenant_run.now,
        tenant_run.rules,
    )
    tenant_run.replace_run(tables.decisions, decision)
    # Only here: a folder whose run stopped short of the gate must be asked for again.
    tenant_run.mark_refreshed()
    row = decision.iloc[0]
    return materialized(
        1,
        run=tenant_run,
        run_id=run_id,
        status=row["status"],
        reasons=", ".join(row["reasons"]) or "none",
        eligible=int(row["n_eligible"]),
        customers=int(row["n_customers"]),
        unmapped_document_types=unmapped["document_type"].nunique(),
    )
