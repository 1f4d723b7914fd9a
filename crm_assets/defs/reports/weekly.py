"""The weekly report of the gate in force, whether it is what was recorded, and whether it says what the tables say."""

import re
from typing import Any

import dagster as dg

from crm_assets import activation, charts, documents, tables
from crm_assets.defs.common import TenantRun, materialized, plot, tenant_asset, tenant_check
from crm_assets.defs.recorded import UI_LOCALE, as_recorded, gate_in_force, links
from crm_assets.logic import report_page

# A figure of the page that a check reads back: its name and its value.
_FIGURE = re.compile(r'data-figure="([^"]+)" data-value="([^"]+)"')
# What the tables say of those figures, one number each.
_FIGURES = {
    "eligible": "select count(*) from gate.next_actions where run_id = %(run)s and eligible",
    "planned": "select coalesce(sum(n_messages), 0) from activation.batches where run_id = %(run)s",
    "at_risk": "select count(*) from customers.predictions where is_churning",
    "month": "select revenue_ht from kpis.monthly_sales where population = 'all' and month = date_trunc('month',"
    " %(as_of)s::date)",
    "rolling": "select rolling_12m_revenue_ht from kpis.monthly_sales where population = 'all'"
    " and month = date_trunc('month', %(as_of)s::date)",
}
_CENT = 0.01


@tenant_asset(
    tables.weekly_reports,
    deps=[
        ("gate", "decisions"),
        ("gate", "next_actions"),
        ("recommendations", "items"),
        ("recommendations", "backtests"),
        ("review", "applied_decisions"),
        ("audit", "data_quality"),
        ("activation", "campaigns"),
        ("activation", "batches"),
        ("curated", "dim_customers"),
        ("curated", "dim_products"),
        ("curated", "fct_orders"),
        ("curated", "known_sales_lines"),
        ("curated", "quarantined_rows"),
        ("raw", "files"),
        ("rfm", "customer_rfm"),
        ("customers", "cluster_profiles"),
        ("customers", "predictions"),
        ("kpis", "monthly_sales"),
        ("kpis", "rfm_transitions"),
        ("kpis", "cluster_transitions"),
        ("kpis", "anomalies"),
        ("kpis", "anomaly_counts"),
        ("outcomes", "campaign_results"),
        ("outcomes", "campaign_uplift"),
        ("outcomes", "campaign_arms"),
    ],
)
def reports_weekly_reports(context: dg.AssetExecutionContext, tenant_run: TenantRun) -> dg.MaterializeResult[Any]:
    """What an owner reads in two minutes, in the estate's language: a page, a PDF and a workbook.

    They are files for the estate's own people and hold customers' names; what is shown here does not.
    """
    gate = gate_in_force(tenant_run, "report")
    tenant = tenant_run.tenant
    folder = documents.folder_of(tenant, tenant_run.home, gate.run_id)
    report = documents.weekly_report(tenant_run.warehouse, tenant, tenant_run.rules, gate.run_id)
    written, missing = documents.write_report(report, tenant.locale, folder)
    year, week, _ = gate.as_of.isocalendar()
    rows = documents.written(
        written, tenant_run.home, tenant_run.now, week=f"{year}-W{week:02d}", n_at_risk=report.at_risk
    )
    tenant_run.warehouse.replace_run(tables.weekly_reports, rows.assign(run_id=gate.run_id), gate.run_id)
    shown = links(written, missing)
    if report.sales.first_day is not None:
        shown["sales"] = plot(charts.drawn("months", report.sales, UI_LOCALE))
    if len(report.sales.trend) > 1:
        shown["twelve_months"] = plot(charts.drawn("trend", report.sales, UI_LOCALE))
    if len(report.segments):
        shown["segments"] = plot(charts.drawn("segments", report.segments, UI_LOCALE))
    return materialized(
        len(rows),
        run=tenant_run,
        run_id=gate.run_id,
        digest=dg.MetadataValue.md("\n".join(f"* {line}" for line in report_page.headlines(report, UI_LOCALE))),
        bytes=int(rows["size_bytes"].sum()),
        **shown,
    )


weekly_reports_are_as_recorded = as_recorded(tables.weekly_reports, "Each file of the report of the run in force")


@tenant_check(("reports", "weekly_reports"), name="weekly_report_says_what_the_tables_say")
def weekly_report_says_what_the_tables_say(
    context: dg.AssetCheckExecutionContext, tenant_run: TenantRun
) -> dg.AssetCheckResult:
    """The page's figures are those that the tables give by SQL: customers to write to, planned messages, customers at
    risk, revenue of the month and of twelve months. Amber also once a campaign was planned after the report.
    """
    gate = activation.gate_in_force(tenant_run.warehouse)
    if gate is None:
        return dg.AssetCheckResult(passed=False, severity=dg.AssetCheckSeverity.WARN, metadata={"pages": 0})
    pages = tenant_run.warehouse.rows(
        "select path from reports.weekly_reports where run_id = %s and path like '%%.html'", [gate.run_id]
    )
    files = [tenant_run.home / path for (path,) in pages]
    said = {
        name: float(value)
        for file in files
        if file.is_file()
        for name, value in _FIGURE.findall(file.read_text(encoding="utf-8"))
    }
    wrong = {}
    for name, statement in _FIGURES.items():
        found = tenant_run.warehouse.rows(statement, {"run": gate.run_id, "as_of": gate.as_of})
        told = found[0][0] if found else None
        # Without any sale the page has no revenue; with less than a year of them the table has no twelve months.
        if told is not None and abs(float(told) - said.get(name, 0.0)) >= _CENT:
            wrong[name] = f"{said.get(name)} on the page, {told} in the tables"
    return dg.AssetCheckResult(
        passed=bool(said) and not wrong,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"figures": len(said), "compared": len(_FIGURES), "different": wrong, "threshold": _CENT},
    )
