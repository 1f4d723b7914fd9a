"""Whether more has left its habits than usual: one light, and one alert per kind of anomaly, in counts only."""

import dagster as dg

from crm_assets import rendering, run_context
from crm_assets.defs.common import TenantRun, tenant_check

CAUSE = "anomaly:"


@tenant_check(("kpis", "anomalies"), additional_deps=[("kpis", "anomaly_counts")])
def anomalies_stay_within_bounds(context: dg.AssetCheckExecutionContext, tenant_run: TenantRun) -> dg.AssetCheckResult:
    """Of the customers, wines and measures of the estate that can be judged, no more are off than
    kpis.anomalies.max_shares allows. What is beyond is an alert, one per kind, closed when it is back.
    """
    counts = tenant_run.warehouse.read("kpis", "anomaly_counts", order_by='kind collate "C"')
    over = {
        f"{CAUSE}{row.kind}": f"{row.kind}: {row.found:,} of {row.examined:,} ({row.share:.1%}),"
        f" more than {row.max_share:.1%}; EUR {row.value_at_stake_ht:,.0f} net of VAT at stake"
        for row in counts[counts["is_over"]].itertuples()
    }
    alert(tenant_run, over)
    meaning = rendering.texts("en")["anomaly"]["meaning"]
    lines = [
        "| kind | examined | found | high | share | allowed | EUR at stake | what it is |",
        "|---|--:|--:|--:|--:|--:|--:|---|",
    ]
    for row in counts.itertuples():
        lines.append(
            f"| {row.kind} | {row.examined:,} | {row.found:,} | {row.high:,} | {row.share:.1%} |"
            f" {row.max_share:.1%} | {row.value_at_stake_ht:,.0f} | {meaning[str(row.kind)]} |"
        )
    return dg.AssetCheckResult(
        passed=not over,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "over": ", ".join(sorted(cause.removeprefix(CAUSE) for cause in over)) or "none",
            "anomalies": dg.MetadataValue.md("\n".join(lines)),
            "threshold": "share of those examined, by kind: kpis.anomalies.max_shares",
        },
    )


def alert(run: run_context.TenantRun, over: dict[str, str]) -> None:
    """Raise what is beyond its bound, cause -> message, and close what is no longer; an earlier day's run does not."""
    if run.is_historical:
        return
    from crm_assets.resources.control import Control

    with Control(run.config).session() as control:
        for cause, message in over.items():
            control.raise_alert(run.tenant.slug, cause, message, run.now)
        control.recover(run.tenant.slug, CAUSE, run.now, still_open=over)
