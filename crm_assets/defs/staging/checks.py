"""Checks of the texts that a library validated. Counts only: an address is personal data."""

import dagster as dg

from crm_assets.defs.common import TenantRun, tenant_check


@tenant_check(["staging", "emails"])
def few_emails_are_invalid(context: dg.AssetCheckExecutionContext, tenant_run: TenantRun) -> dg.AssetCheckResult:
    """The share of e-mail texts that are no address stays under the rule `customers.invalid_email_share`."""
    total, invalid = tenant_run.warehouse.rows(
        "select count(*), count(*) filter (where email is null) from staging.emails"
    )[0]
    share = invalid / total if total else 0.0
    threshold = tenant_run.rules.customers.invalid_email_share
    return dg.AssetCheckResult(
        passed=share <= threshold,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"share_invalid": share, "threshold": threshold, "n_invalid": invalid, "n_texts": total},
    )
