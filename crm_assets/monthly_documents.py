"""The monthly report, from a tenant's database to files. Shared by Dagster and by `crm report`.

What stands in it is decided in `logic/monthly_reports.py`; files are written whole or not at all, and the same run
gives the same bytes.
"""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path

import pandas as pd

from crm_assets import documents
from crm_assets.logic import monthly_reports
from crm_assets.logic.monthly_reports import MonthlyReport, Tables
from crm_assets.quality_history import quality_history
from crm_assets.resources.warehouse import Warehouse
from crm_assets.rules import BusinessRules
from crm_assets.tenants import Tenant

REPORT_NAME = "monthly_report"

_LINES = """
    select
        lines.wine_id, products.family, date_trunc('month', lines.revenue_date)::date as month,
        sum(lines.amount_ht) as amount_ht, sum(lines.bottles) as bottles
    from curated.known_sales_lines as lines
    left join curated.dim_products as products on products.product_key = lines.product_key
    where date_trunc('month', lines.revenue_date)::date = any(%s)
    group by lines.wine_id, products.family, date_trunc('month', lines.revenue_date)
"""
# A file is of the month that it tells of: of the date in its name, else its newest row, else when it came.
_FILES = """
    select file_id, path, dataset, status, reason, row_count
    from raw.files
    where
        deleted_at is null
        and coalesce(file_date, last_date, (first_seen_at at time zone %s)::date) between %s and %s
"""
_REFUSED = """
    select file_id, codes, count(*) as rows from curated.quarantined_rows
    where resolved_by is null group by file_id, codes
"""
_ANOMALIES = """
    select
        anomalies.*, people.client_code,
        coalesce(nullif(trim(concat_ws(' ', people.first_name, people.last_name)), ''), people.full_name) as name,
        wines.label
    from kpis.anomalies as anomalies
    left join curated.dim_customers as people
        on anomalies.subject_type = 'customer' and people.customer_id = anomalies.subject_id
    left join kpis.product_performance as wines
        on anomalies.subject_type = 'wine' and wines.population = 'all' and wines.wine_id = anomalies.subject_id
"""
_BUILT = (("kpis", "monthly_sales"), ("kpis", "anomalies"), ("outcomes", "campaign_uplift"))


def gather(
    warehouse: Warehouse, tenant: Tenant, rules: BusinessRules, run_id: str, month: date | None = None
) -> MonthlyReport:
    """The figures of a month (default: the newest whole one of the run). LookupError says what there is none of."""
    for schema, name in _BUILT:
        if warehouse.rows("select to_regclass(%s)", [f"{schema}.{name}"])[0][0] is None:
            raise LookupError(f"{schema}.{name} has not been built yet: the job monthly_report builds it")
    decision = documents.decision_of(warehouse, run_id)
    month = month or monthly_reports.last_whole_month(pd.Timestamp(decision["as_of"]).date())
    last = (pd.Timestamp(month) + pd.offsets.MonthEnd(0)).date()
    tables = Tables(
        sales=warehouse.read("kpis", "monthly_sales"),
        lines=warehouse.query(_LINES, [[month, monthly_reports.year_before(month)]]),
        products=warehouse.read("kpis", "product_performance", where="population = 'all'"),
        families=warehouse.read("kpis", "family_performance", ["family", "revenue_change"], where="population = 'all'"),
        transitions=warehouse.read("kpis", "rfm_transitions", where="span = 'month'"),
        cohorts=warehouse.read("kpis", "cohort_retention", where="population = 'all'"),
        results=warehouse.read("outcomes", "campaign_results", where=documents.WHOLE_OCCURRENCE),
        uplift=warehouse.read("outcomes", "campaign_uplift", where="scope = 'occurrence'"),
        severities=warehouse.read("audit", "data_quality", ["check_code", "severity"], "run_id = %s", [run_id]),
        quality_history=quality_history(warehouse, month, last),
        files=warehouse.query(_FILES, [tenant.timezone, month, last]),
        refused=warehouse.query(_REFUSED),
        anomalies=warehouse.query(_ANOMALIES),
    )
    return monthly_reports.monthly(tenant, rules, decision, month, tables)


def write_report(report: MonthlyReport, locale: str, directory: Path) -> tuple[list[Path], str]:
    """Write the report into `directory` as a page, as PDF and as a workbook; and why there is no PDF, or ''."""
    from crm_assets.logic import monthly_page, report_workbook

    return documents.write_forms(
        directory / f"{REPORT_NAME}_{report.period}",
        monthly_page.html_of(report, locale),
        title=monthly_page.title_of(report, locale),
        locale=locale,
        as_of=report.as_of,
        workbook=lambda made_at: report_workbook.monthly_workbook(report, locale, made_at),
    )


def month_of(text: str) -> date:
    """First day of a month written 2025-12; ValueError for anything else."""
    if not re.fullmatch(r"\d{4}-(0[1-9]|1[0-2])", text):
        raise ValueError(f"{text!r} is no month: expected YYYY-MM, e.g. 2025-12")
    return date(int(text[:4]), int(text[5:]), 1)
