"""Checks of the two identity tables. A breach is a fault of ours: the run stops before dbt builds on it."""

import dagster as dg

from crm_assets.defs.common import TenantRun, tenant_check
from crm_assets.defs.curated.assets import PRODUCTS
from crm_assets.logic import curated

SEEN_CODES = """
    with loaded as (select file_id from raw.files where status = 'loaded')
    select client_code from raw.customers where file_id in (select file_id from loaded)
    union
    select client_code from raw.sales_lines where file_id in (select file_id from loaded)
    union
    select client_code from raw.contacts where file_id in (select file_id from loaded)
"""


@tenant_check(["curated", "customer_xref"], blocking=True)
def every_code_is_one_customer(context: dg.AssetCheckExecutionContext, tenant_run: TenantRun) -> dg.AssetCheckResult:
    """Every valid client code of the loaded files has exactly one customer, each customer one first code."""
    xref = tenant_run.warehouse.read("curated", "customer_xref")
    seen = curated.normalize_code(tenant_run.warehouse.query(SEEN_CODES)["client_code"]).drop_duplicates()
    expected = seen[curated.is_valid_code(seen)]
    missing = int((~expected.isin(xref["client_code"])).sum())
    repeated = int(xref["client_code"].duplicated().sum())
    first_codes = int(xref["matched_by"].eq("code").sum())
    customers = int(xref["customer_id"].nunique())
    return dg.AssetCheckResult(
        passed=missing == 0 and repeated == 0 and first_codes == customers,
        metadata={
            "codes_without_customer": missing,
            "codes_with_several": repeated,
            "first_codes": first_codes,
            "customers": customers,
            "threshold": 0,
        },
    )


@tenant_check(["curated", "product_matches"], blocking=True)
def matches_are_in_the_catalogue(context: dg.AssetCheckExecutionContext, tenant_run: TenantRun) -> dg.AssetCheckResult:
    """A product that is not inferred is one of the catalogue."""
    matches = tenant_run.warehouse.read("curated", "product_matches", columns=["product_key", "matched_by"])
    matched = matches.loc[matches["matched_by"].ne("inferred"), "product_key"].drop_duplicates()
    catalogue = curated.Catalogue(tenant_run.warehouse.query(PRODUCTS))
    strangers = sorted(set(matched) - catalogue.keys)
    return dg.AssetCheckResult(
        passed=not strangers,
        metadata={"products_outside_catalogue": len(strangers), "threshold": 0, "examples": strangers[:5]},
    )
