"""Whether a campaign was welcome: of the occurrences whose orders still count, too many that bounced, unsubscribed or
complained, or too few delivered. Counts only.
"""

import dagster as dg

from crm_assets.defs.common import TenantRun, tenant_check


@tenant_check(("outcomes", "campaign_results"))
def campaigns_are_delivered_and_welcome(
    context: dg.AssetCheckExecutionContext, tenant_run: TenantRun
) -> dg.AssetCheckResult:
    """Of each e-mail campaign sent to at least outcomes.min_sent addresses whose figures are not final yet, the shares
    delivered, bounced, unsubscribed and complained lie within the bounds of the rules.
    """
    rules, ramp_up = tenant_run.rules.outcomes, tenant_run.rules.activation.ramp_up
    bounds = {
        "delivery_rate": (rules.min_delivered_share, "at least"),
        "bounce_rate": (ramp_up.max_hard_bounce_share, "at most"),
        "unsubscribe_rate": (rules.max_unsubscribed_share, "at most"),
        "complaint_rate": (ramp_up.max_complaint_share, "at most"),
    }
    found = tenant_run.warehouse.query(
        "select results.* from outcomes.campaign_results as results"
        " where dimension = 'all' and occurrence <> '*' and sent >= %s and not is_final and exists ("
        " select 1 from outcomes.sendings where sendings.campaign = results.campaign"
        " and sendings.occurrence = results.occurrence and sendings.channel = 'email')"
        ' order by last_sent_on desc, campaign collate "C", occurrence collate "C"',
        [rules.min_sent],
    )
    wrong = []
    for row in found.to_dict("records"):
        for rate, (bound, side) in bounds.items():
            share = float(row[rate])  # NaN where nothing was delivered: neither above nor below
            if share < bound if side == "at least" else share > bound:
                wrong.append(
                    f"{row['campaign']} {row['occurrence']}: {rate.replace('_', ' ')} {share:.2%}, {side} {bound:.2%}"
                )
    return dg.AssetCheckResult(
        passed=not wrong,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "campaigns": len(found),
            "outside": dg.MetadataValue.md("\n".join(f"* {line}" for line in wrong) or "none"),
            "threshold": ", ".join(
                f"{rate.replace('_', ' ')} {side} {bound:.2%}" for rate, (bound, side) in bounds.items()
            ),
        },
    )
