"""Checks of the customer tables: complete, in range, and readable. They look at the latest state.

How predictions did on the past is looked at where it is measured (`holdout.py`).
"""

import dagster as dg

from crm_assets.defs.common import PROFILED, TenantRun, tenant_check
from crm_assets.logic import customers


@tenant_check(["customers", "taste_profiles"])
def taste_is_on_its_scale(context: dg.AssetCheckExecutionContext, tenant_run: TenantRun) -> dg.AssetCheckResult:
    """Every axis that is known, and the confidence, lie in 0..1."""
    profiles = tenant_run.warehouse.read("customers", "taste_profiles")
    values = profiles[[*customers.AROMA_AXES, "confidence"]].astype("float64")
    outside = int(((values < 0) | (values > 1)).any(axis=1).sum())
    return dg.AssetCheckResult(
        passed=outside == 0, metadata={"rows_outside": outside, "threshold": 0, "rows": len(profiles)}
    )


@tenant_check(["customers", "clusters"])
def every_buyer_has_a_cluster(context: dg.AssetCheckExecutionContext, tenant_run: TenantRun) -> dg.AssetCheckResult:
    """Each private or professional customer with a qualifying order is in one cluster; prospects and people
    who object to profiling are in none.
    """
    warehouse = tenant_run.warehouse
    rfm = warehouse.read("rfm", "customer_rfm", ["customer_id", "population", "frequency"], PROFILED)
    buyers = rfm.loc[rfm["population"].isin(customers.POPULATIONS) & (rfm["frequency"].fillna(0) > 0), "customer_id"]
    clustered = warehouse.read("customers", "clusters", ["customer_id"])["customer_id"]
    # A run for an earlier day leaves the clusters of the present, which other people may be in.
    missing = 0 if tenant_run.is_historical else int((~buyers.isin(clustered)).sum())
    strangers = 0 if tenant_run.is_historical else int((~clustered.isin(buyers)).sum())
    return dg.AssetCheckResult(
        passed=missing == 0 and strangers == 0,
        metadata={"buyers_without": missing, "others_with": strangers, "threshold": 0, "buyers": len(buyers)},
    )


@tenant_check(["customers", "cluster_profiles"])
def clusters_are_large_and_named_apart(
    context: dg.AssetCheckExecutionContext, tenant_run: TenantRun
) -> dg.AssetCheckResult:
    """No two clusters of a population share a name, none is smaller than the rules' least share, and those of a
    population large enough for quintiles are stable.
    """
    profiles, rules = tenant_run.warehouse.read("customers", "cluster_profiles"), tenant_run.rules
    by_population = profiles.groupby("population").agg(size=("size", "sum"), stability=("stability", "first"))
    judged = by_population.loc[by_population["size"] >= rules.rfm.edges_below_customers, "stability"].astype("float64")
    repeated = int(profiles.duplicated(["population", "cluster_name"]).sum())
    smallest = float(profiles["share"].min()) if len(profiles) else 1.0
    threshold = rules.clusters.smallest_share_min
    return dg.AssetCheckResult(
        passed=repeated == 0 and smallest >= threshold and not (judged < rules.clusters.stability_min).any(),
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "repeated_names": repeated,
            "smallest_share": round(smallest, 4),
            "threshold_smallest_share": threshold,
            "least_stability": round(float(judged.min()), 4) if judged.notna().any() else "nothing measured",
            "threshold_stability": rules.clusters.stability_min,
            "clusters": len(profiles),
        },
    )


@tenant_check(["customers", "predictions"])
def predictions_are_possible(context: dg.AssetCheckExecutionContext, tenant_run: TenantRun) -> dg.AssetCheckResult:
    """Probabilities lie in 0..1, the lead score in 0..100, expected orders and value are not negative."""
    rows = tenant_run.warehouse.read("customers", "predictions")
    share = rows[["probability_90d", "p_active"]].astype("float64")
    amount = rows[["expected_orders_365d", "expected_value_365d"]].astype("float64")
    score = rows["lead_score"].astype("float64")
    wrong = ((share < 0) | (share > 1)).any(axis=1) | (amount < 0).any(axis=1) | (score < 0) | (score > 100)
    return dg.AssetCheckResult(
        passed=not wrong.any(), metadata={"rows_outside": int(wrong.sum()), "threshold": 0, "rows": len(rows)}
    )
