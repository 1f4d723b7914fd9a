"""The audit's tables, keyed by run. The rules themselves are in `logic/audit.py`."""

from typing import Any

import dagster as dg
import pandas as pd

from crm_assets import gating, tables
from crm_assets.defs.audit.quality import history
from crm_assets.defs.common import TenantRun, bars, materialized, tenant_asset
from crm_assets.logic import audit


def _per_rule(found: pd.DataFrame) -> dg.MarkdownMetadataValue:
    """How often each rule is broken, and what it says most often: codes, counts and sentences that name nobody."""
    lines = ["| rule | | customers | findings | most often |", "|---|---|---|---|---|"]
    for rule in audit.RULES:
        rows = found[found["rule_code"] == rule.code]
        if len(rows):
            often = rows["details"].value_counts().sort_index().idxmax()
            customers = rows["customer_id"].nunique()
            lines.append(f"| {rule.code} | {rule.severity} | {customers} | {len(rows)} | {often} |")
    return dg.MetadataValue.md("\n".join(lines) if len(found) else "no rule is broken")


@tenant_asset(
    tables.findings,
    deps=[
        ("recommendations", "items"),
        ("review", "applied_decisions"),
        ("audit", "customer_facts"),
        ("curated", "dim_products"),
        ("rfm", "customer_wines"),
        ("state", "messages"),
    ],
)
def audit_findings(context: dg.AssetExecutionContext, tenant_run: TenantRun) -> dg.MaterializeResult[Any]:
    """The fifteen rules of spec.md §6 over the run's list, whoever made it, and over every customer without
    one.
    """
    warehouse, run_id = tenant_run.warehouse, tenant_run.run_id
    items = gating.listed_items(warehouse, run_id, audit.ITEM_COLUMNS)
    facts, products, customer_wines, sent = gating.audit_frames(warehouse)
    found = audit.findings(items, facts, products, customer_wines, sent, tenant_run.rules, tenant_run.as_of)
    tenant_run.replace_run(tables.findings, found)
    customers = found.groupby("rule_code")["customer_id"].nunique()
    return materialized(
        len(found),
        run=tenant_run,
        customers_audited=len(facts),
        items_audited=len(items),
        rules_hit=bars(customers, "Customers per audit rule"),
        rules=_per_rule(found),
    )


@tenant_asset(
    tables.scores,
    deps=[
        ("audit", "findings"),
        ("audit", "customer_facts"),
        ("recommendations", "items"),
        ("review", "applied_decisions"),
    ],
)
def audit_scores(context: dg.AssetExecutionContext, tenant_run: TenantRun) -> dg.MaterializeResult[Any]:
    """100 less 40 per error and 10 per warning, not below 0."""
    warehouse, run_id = tenant_run.warehouse, tenant_run.run_id
    found = warehouse.read(
        "audit", "findings", ["customer_id", "rule_code", "rule_no", "severity"], "run_id = %s", [run_id]
    )
    facts = warehouse.read("audit", "customer_facts", audit.FACT_COLUMNS)
    items = gating.listed_items(warehouse, run_id, ["customer_id"])
    scored = audit.scores(found, audit.everyone(facts, items)["customer_id"], tenant_run.rules)
    tenant_run.replace_run(tables.scores, scored)
    return materialized(
        len(scored),
        run=tenant_run,
        mean_audit_score=round(float(scored["audit_score"].mean()), 2) if len(scored) else 0.0,
        without_error=int((scored["n_errors"] == 0).sum()),
        scores=bars(scored["audit_score"].value_counts(), "Customers per audit score"),
    )


# Not of the accounting itself, but only once it adds up: the gate is decided on these scores.
@tenant_asset(tables.data_quality, deps=[("audit", "quality_measures"), ("curated", "file_accounting")])
def audit_data_quality(context: dg.AssetExecutionContext, tenant_run: TenantRun) -> dg.MaterializeResult[Any]:
    """The circuit breaker's checks: 100 where nothing is bad, 0 at the tolerance and beyond."""
    quality = audit.data_quality(tenant_run.warehouse.read("audit", "quality_measures"), tenant_run.rules)
    tenant_run.replace_run(tables.data_quality, quality)
    breaker = audit.breaker(quality, tenant_run.rules)
    return materialized(
        len(quality),
        run=tenant_run,
        data_quality_score=breaker.score,
        breaker_tripped=breaker.tripped,
        failed_checks=", ".join(breaker.failed_checks) or "none",
        scores=bars(quality.set_index("check_code")["score"].round(1), "Score per check (0..100)"),
        **history(tenant_run, quality, breaker.score),
    )
