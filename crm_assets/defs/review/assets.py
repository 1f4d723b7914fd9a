"""Which decisions hold on a run, and the sample that is asked for. How both come about is in `gating.py`."""

from typing import Any

import dagster as dg

from crm_assets import gating, tables
from crm_assets.defs.common import TenantRun, bars, materialized, tenant_asset


@tenant_asset(tables.review_applied, deps=[("recommendations", "items"), ("state", "decisions")])
def review_applied_decisions(context: dg.AssetExecutionContext, tenant_run: TenantRun) -> dg.MaterializeResult[Any]:
    """What was rejected leaves the list before the audit sees it; a decision carries over to the same (customer, wine,
    scenario) of later runs for a while.
    """
    run = gating.GatedRun.of(tenant_run)
    applied = gating.applied_decisions(run)
    tenant_run.replace_run(tables.review_applied, applied)
    return materialized(
        len(applied),
        run=tenant_run,
        carried_over=int((applied["decided_run_id"] != run.run_id).sum()),
        decisions=bars(applied["decision"].value_counts(), "Items by the decision that holds"),
    )


@tenant_asset(
    tables.review_samples,
    deps=[
        ("audit", "scores"),
        ("audit", "customer_facts"),
        ("recommendations", "items"),
        ("review", "applied_decisions"),
    ],
)
def review_samples(context: dg.AssetExecutionContext, tenant_run: TenantRun) -> dg.MaterializeResult[Any]:
    """Drawn over scenarios in proportion among those whom permission and audit let through, the first time that the
    gate looks at the run, and kept from then on. Empty where the estate asks for no sample.
    """
    sample = gating.sample(gating.GatedRun.of(tenant_run))
    tenant_run.replace_run(tables.review_samples, sample)
    return materialized(
        len(sample),
        run=tenant_run,
        review=tenant_run.tenant.review,
        scenarios=bars(sample["scenario"].value_counts(), "Sampled customers by scenario"),
    )
