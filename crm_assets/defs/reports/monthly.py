"""The monthly report of the gate in force, and whether it is what was recorded."""

from types import SimpleNamespace
from typing import Any

import dagster as dg

from crm_assets import charts, documents, monthly_documents, tables
from crm_assets.defs.common import TenantRun, materialized, plot, tenant_asset
from crm_assets.defs.recorded import UI_LOCALE, as_recorded, gate_in_force, links
from crm_assets.logic import monthly_page, monthly_reports
from crm_assets.resources.warehouse import Warehouse, copy_frame


class MonthlyReportConfig(dg.Config):
    """`month`: another month that is over, as 2025-11; empty: the newest whole one of the run in force."""

    month: str = ""


@tenant_asset(
    tables.monthly_reports,
    deps=[
        ("gate", "decisions"),
        ("audit", "data_quality"),
        ("curated", "dim_customers"),
        ("curated", "dim_products"),
        ("curated", "fct_orders"),
        ("curated", "known_sales_lines"),
        ("curated", "quarantined_rows"),
        ("raw", "files"),
        ("kpis", "monthly_sales"),
        ("kpis", "product_performance"),
        ("kpis", "family_performance"),
        ("kpis", "cohort_retention"),
        ("kpis", "rfm_transitions"),
        ("kpis", "anomalies"),
        ("outcomes", "campaign_results"),
        ("outcomes", "campaign_uplift"),
    ],
)
def reports_monthly_reports(
    context: dg.AssetExecutionContext, config: MonthlyReportConfig, tenant_run: TenantRun
) -> dg.MaterializeResult[Any]:
    """The month that is over against last year, in the estate's language: a page, a PDF and a workbook.

    They are files for the estate's own people and hold customers' names; what is shown here does not.
    """
    gate = gate_in_force(tenant_run, "report")
    tenant = tenant_run.tenant
    try:
        month = monthly_documents.month_of(config.month) if config.month else None
        report = monthly_documents.gather(tenant_run.warehouse, tenant, tenant_run.rules, gate.run_id, month)
    except (LookupError, ValueError) as error:
        if isinstance(error, monthly_reports.NoSalesError) and not config.month:
            # A new estate: the schedule's run does not fail for it.
            return materialized(0, run=tenant_run, run_id=gate.run_id, not_written=str(error))
        raise dg.Failure(str(error)) from error
    folder = documents.folder_of(tenant, tenant_run.home, gate.run_id)
    written, missing = monthly_documents.write_report(report, tenant.locale, folder)
    rows = documents.written(written, tenant_run.home, tenant_run.now, month=report.period, run_id=gate.run_id)
    with tenant_run.warehouse.transaction() as connection:
        # Another month of the same run keeps its rows.
        connection.execute(
            "delete from reports.monthly_reports where run_id = %s and month = %s", [gate.run_id, report.period]
        )
        copy_frame(connection, tables.monthly_reports, rows)
    return materialized(
        len(rows),
        run=tenant_run,
        run_id=gate.run_id,
        month=report.period,
        digest=dg.MetadataValue.md(monthly_page.digest(report, UI_LOCALE)),
        sales=plot(charts.drawn("months", SimpleNamespace(months=report.months.fillna({"amount": 0.0})), UI_LOCALE)),
        bytes=int(rows["size_bytes"].sum()),
        **links(written, missing),
    )


def _newest(warehouse: Warehouse) -> str:
    """The run whose monthly report was written last; '' before the first."""
    found = warehouse.rows("select run_id from reports.monthly_reports order by written_at desc, run_id limit 1")
    return str(found[0][0]) if found else ""


monthly_reports_are_as_recorded = as_recorded(
    tables.monthly_reports, "Each file of the newest monthly report", run_of=_newest
)
