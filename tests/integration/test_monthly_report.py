"""The monthly report from a tenant's tables: what is read, what is recorded, and that its light can go out."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import openpyxl
import pandas as pd
import pytest

from crm_assets import monthly_documents, tables
from crm_assets.defs.reports import monthly
from crm_assets.resources.warehouse import Warehouse
from tests.integration.test_weekly_report import decision, file
from tests.lights import evaluated, metadata_of, run_for
from tests.logic import estate

AS_OF, NOW = date(2026, 1, 1), datetime(2026, 1, 1, 5, tzinfo=UTC)
TENANT = estate.tenant()
RULES = TENANT.business_rules
DBT_TABLES = """
create schema if not exists kpis;
create table kpis.monthly_sales (
    month date, population text, revenue_ht numeric, orders bigint, customers bigint, new_customers bigint,
    average_order_value numeric, bottles numeric);
insert into kpis.monthly_sales
    select month::date, population, 1000, 10, 9, 1, 100, 60
    from generate_series('2024-06-01'::date, '2026-01-01', interval '1 month') as month,
    unnest(array['all', 'private']) as population;
create table kpis.product_performance (
    wine_id text, population text, label text, kind text, family text, months_of_stock double precision,
    stock_bottles numeric, is_active boolean, rank_12m bigint);
insert into kpis.product_performance values
    ('w1', 'all', 'Riesling', 'wine', 'Blancs', 6, 60, true, 1),
    ('w1', 'private', 'twice', 'wine', 'Blancs', 6, 60, true, 1);
create table kpis.family_performance (family text, population text, revenue_change double precision);
create table kpis.rfm_transitions (
    span text, population text, from_date date, to_date date, from_segment text, to_segment text, customers bigint);
insert into kpis.rfm_transitions values
    ('month', 'private', '2025-12-01', '2026-01-01', 'Others', 'Champions', 4),
    ('week', 'private', '2025-12-25', '2026-01-01', 'Others', 'At Risk', 99);
create table kpis.cohort_retention (
    cohort date, population text, quarters_since integer, customers bigint, retention double precision,
    is_complete boolean);
create table kpis.anomalies (
    kind text, subject_type text, subject_id text, measure text, measured double precision, expected double precision,
    severity text, value_at_stake_ht numeric, since_date date);
insert into kpis.anomalies values
    ('CUSTOMER_SILENT', 'customer', 'c1', 'silent_days', 300, 40, 'HIGH', 700, '2025-10-01'),
    ('PRODUCT_FALLING', 'wine', 'w1', 'bottles_recent', 3, 30, 'LOW', 100, '2025-10-01');
create table outcomes.campaign_results (
    campaign text, occurrence text, holdout bigint, sent bigint, delivered bigint, opened bigint, clicked bigint,
    bounced bigint, unsubscribed bigint, ordered bigint, converted bigint, revenue_ht numeric, last_sent_on date,
    is_final boolean, dimension text, final_on date);
create table outcomes.campaign_uplift (
    campaign text, occurrence text, held_out bigint, uplift double precision, uplift_low double precision,
    uplift_high double precision, is_final boolean, scope text);
create table curated.dim_products (product_key text, family text);
create table curated.dim_customers (
    customer_id text, client_code text, last_name text, first_name text, full_name text);
create table curated.known_sales_lines (
    wine_id text, product_key text, revenue_date date, amount_ht numeric, bottles numeric);
create table curated.quarantined_rows (file_id text, source_line bigint, codes text[], resolved_by text);
insert into curated.dim_products values ('p1', 'Blancs');
insert into curated.dim_customers values ('c1', 'A-001', 'Hoffstetter', 'Jeanne', null);
insert into curated.known_sales_lines values
    ('w1', 'p1', '2025-12-01', 100, 10), ('w1', 'p1', '2025-12-31', 50, 5), ('w1', 'p1', '2024-12-31', 90, 9),
    ('w1', 'p1', '2025-11-30', 999, 99), ('w1', 'p1', '2026-01-01', 999, 99), ('port', 'unknown', '2025-12-05', 8, 0);
insert into curated.quarantined_rows values
    ('december', 2, '{INVALID_DATE}', null), ('december', 3, '{INVALID_DATE}', 'mended'),
    ('january', 2, '{RAGGED_ROW}', null);
"""


@pytest.fixture
def warehouse(tenant_warehouse: Warehouse) -> Warehouse:
    """A run on the first of January, files of December and of January, a gate in between."""
    tenant_warehouse.execute(DBT_TABLES)
    runs = [decision("now", AS_OF, NOW), decision("then", date(2025, 12, 8), NOW, data_quality_score=70.0)]
    tenant_warehouse.append(tables.decisions, pd.DataFrame(runs))
    check = {"check_code": "MISSING_FAMILY", "severity": "WARN", "weight": 1, "bad": 3, "total": 10, "tolerance": 0.3}
    tenant_warehouse.append(
        tables.data_quality, pd.DataFrame([{**check, "run_id": run, "score": 0.0} for run in ("now", "then")])
    )
    files = [
        {**file("december", NOW), "file_date": date(2025, 12, 31)},  # came in January, tells of December
        {**file("january", NOW), "file_date": None},
        {**file("gone", NOW), "file_date": date(2025, 12, 2), "deleted_at": NOW},
    ]
    tenant_warehouse.append(tables.raw_files, pd.DataFrame(files))
    return tenant_warehouse


def test_the_month_is_read_from_its_own_days(warehouse: Warehouse) -> None:
    told = monthly_documents.gather(warehouse, TENANT, RULES, "now")
    assert told.period == "2025-12"
    assert told.risers[["label", "revenue_ht", "before"]].to_numpy().tolist() == [["Riesling", 150.0, 90.0]]
    assert told.families["family"].tolist() == ["Blancs", ""]
    assert told.movements.to_numpy().tolist() == [["Others", "Champions", 4]]
    assert told.to_do[["client_code", "name", "label"]].to_numpy().tolist() == [
        ["A-001", "Jeanne Hoffstetter", ""],
        ["", "", "Riesling"],
    ]
    assert told.quality_days["overall"].tolist() == [70.0], "the gate of the first of January is of the next month"
    assert told.files["files"].tolist() == [1]
    assert told.refused.to_numpy().tolist() == [["INVALID_DATE", 1]]


def test_marts_that_were_never_built_are_named(warehouse: Warehouse) -> None:
    warehouse.execute("drop table kpis.anomalies")
    with pytest.raises(LookupError, match=r"kpis\.anomalies has not been built yet: the job monthly_report"):
        monthly_documents.gather(warehouse, TENANT, RULES, "now")


def test_the_asset_records_its_files_and_its_light_can_go_out(
    warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run: Any = SimpleNamespace(tenant=TENANT, rules=RULES, warehouse=warehouse, home=tmp_path, now=NOW, as_of=AS_OF)

    def materialise(month: str = "") -> dict[str, Any]:
        return metadata_of(run_for(run, monthly.reports_monthly_reports, config={"month": month}))

    def light() -> bool:
        (found,) = evaluated(run, monthly.monthly_reports_are_as_recorded).values()
        return bool(found.passed)

    def recorded() -> list[tuple[str, str]]:
        rows = warehouse.rows(
            "select month, path from reports.monthly_reports where run_id = 'now' order by month, path"
        )
        return [(month, Path(path).name) for month, path in rows]

    told = materialise()
    december = [("2025-12", f"monthly_report_2025-12.{kind}") for kind in ("html", "pdf", "xlsx")]
    assert recorded() == december
    assert "December 2025" in told["digest"]
    assert not [name for name in ("Hoffstetter", "Jeanne", "A-001") if name in json.dumps(told, default=str)]
    assert (tmp_path / "exports" / "demo" / "now" / "monthly_report_2025-12.pdf").read_bytes().startswith(b"%PDF")
    assert openpyxl.load_workbook(tmp_path / "exports" / "demo" / "now" / "monthly_report_2025-12.xlsx")
    # An earlier month stands beside it; without its library the PDF is missing and said to be.
    monkeypatch.setattr("crm_assets.pdf.sys.executable", "/bin/false")
    assert "no PDF" in materialise("2025-11")["not_written"]
    assert recorded() == [("2025-11", f"monthly_report_2025-11.{kind}") for kind in ("html", "xlsx")] + december
    assert light()
    (tmp_path / "exports" / "demo" / "now" / "monthly_report_2025-12.html").write_text("changed")
    assert not light()


def test_an_estate_without_sales_has_no_report_and_no_failure(warehouse: Warehouse, tmp_path: Path) -> None:
    warehouse.execute("delete from kpis.monthly_sales where month < '2026-01-01'")
    run = SimpleNamespace(tenant=TENANT, rules=RULES, warehouse=warehouse, home=tmp_path, now=NOW, as_of=AS_OF)
    told = metadata_of(run_for(run, monthly.reports_monthly_reports))
    assert told["not_written"] == "no sales of 2025-12 or before are known"
    assert warehouse.count("reports", "monthly_reports") == 0


def test_what_cannot_be_reported_fails_with_its_reason(warehouse: Warehouse, tmp_path: Path) -> None:
    run = SimpleNamespace(tenant=TENANT, rules=RULES, warehouse=warehouse, home=tmp_path, now=NOW, as_of=AS_OF)
    for month, reason in (("2026-01", "2026-01 is not over"), ("12/2025", "is no month")):
        with pytest.raises(dg.Failure, match=reason):
            run_for(run, monthly.reports_monthly_reports, config={"month": month})
