"""The weekly report from a tenant's tables: what is read, what is recorded, and that its lights can go out."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from crm_assets import documents, tables
from crm_assets.defs.reports import weekly
from crm_assets.resources.warehouse import Warehouse
from tests.lights import evaluated, metadata_of, run_for
from tests.logic import estate

AS_OF = date(2025, 10, 13)
NOW = datetime(2025, 10, 13, 5, tzinfo=UTC)
TENANT = estate.tenant()
RULES = TENANT.business_rules

DBT_TABLES = """
create table curated.dim_products (product_key text, wine_id text, label text);
create table curated.dim_customers (
    customer_id text, client_code text, last_name text, first_name text, full_name text, is_collective boolean);
create table curated.known_sales_lines (revenue_date date, amount_ht numeric);
create table curated.fct_orders (customer_id text, order_date date, amount_ht numeric, is_qualifying boolean);
create table curated.quarantined_rows (file_id text, source_line bigint, codes text[], resolved_by text);
create table rfm.customer_rfm (
    customer_id text, segment text, monetary numeric, mean_interval_days double precision, first_order_date date,
    last_order_date date);
insert into curated.dim_products values ('p1', 'w1', 'Riesling 2022');
insert into curated.dim_customers values
    ('c1', 'A1', 'Hoffstetter', 'Jeanne', null, false), ('c2', 'B2', 'Wurtzel', null, null, false),
    ('till', 'COMPTOIR', null, null, 'Comptoir', true);
insert into curated.known_sales_lines
    select day::date, 10.55 from generate_series('2023-01-02'::date, '2025-12-31', interval '1 day') as day;
insert into curated.fct_orders values
    ('c1', '2025-10-10', 100, true), ('c1', '2025-10-11', -20, false), ('till', '2025-10-11', 55, true),
    ('c2', '2024-10-12', 80, true);
insert into rfm.customer_rfm values
    ('c1', 'Champions', 900, 30, '2023-01-05', '2025-10-10'), ('c2', 'At Risk', 80, null, '2024-10-12', '2024-10-12');
"""
MARTS = """
create schema if not exists kpis;
create table kpis.monthly_sales (
    month date, population text, revenue_ht numeric, rolling_12m_revenue_ht numeric);
insert into kpis.monthly_sales values ('2025-10-01', 'all', 137.15, 3850.75), ('2025-10-01', 'private', 1, 1);
create table kpis.rfm_transitions (span text, from_segment text, to_segment text, customers bigint);
insert into kpis.rfm_transitions values
    ('week', 'Champions', 'Champions', 1), ('week', 'Others', 'At Risk', 1), ('month', 'Others', 'Champions', 9);
"""


def decision(run_id: str, as_of: date, decided_at: datetime, **changes: Any) -> dict[str, Any]:
    row = {
        "run_id": run_id,
        "as_of": as_of,
        "status": "open",
        "reasons": [],
        "data_quality_score": 97.5,
        "gate_export": True,
        "n_customers": 2,
        "n_permitted": 2,
        "n_eligible": 1,
        "n_errors": 1,
        "n_warnings": 0,
        "mean_audit_score": 80.0,
        "is_historical": False,
        "decided_at": decided_at,
        "rules_version": "r",
    }
    return {**row, **changes}


def file(file_id: str, first_seen_at: datetime) -> dict[str, Any]:
    seen = {"modified_at": NOW, "first_seen_at": first_seen_at}
    about = {"status": "loaded", "dataset": "sales_lines", "size_bytes": 1, "row_count": 5}
    return {"path": f"{file_id}.csv", "sha256": file_id, "file_id": file_id, **about, **seen}


@pytest.fixture
def warehouse(tenant_warehouse: Warehouse) -> Warehouse:
    """Two customers, one of them to write to; a run today, one a week ago, and one in between."""
    tenant_warehouse.execute(DBT_TABLES)
    week_ago = NOW - timedelta(days=7)
    runs = [
        decision("now", AS_OF, NOW),
        decision("yesterday", AS_OF - timedelta(days=1), NOW - timedelta(days=1), n_eligible=77),
        decision("before", AS_OF - timedelta(days=7), week_ago, n_eligible=2),
        decision("older", AS_OF - timedelta(days=14), NOW - timedelta(days=14), n_eligible=99),
        decision("past", AS_OF - timedelta(days=6), NOW - timedelta(days=6), n_eligible=88, is_historical=True),
    ]
    tenant_warehouse.append(tables.decisions, pd.DataFrame(runs))
    actions = pd.DataFrame(
        [("c1", "A1", True, None, "rebuy", True, None), ("c2", "B2", False, "OBJECTED", None, False, "OBJECTED")],
        columns=["customer_id", "client_code", "permitted", "permission_reason", "scenario", "eligible", "reason"],
    )
    actions = actions.assign(run_id="now", n_items=1, audit_score=100, rules_version="r")
    tenant_warehouse.append(tables.next_actions, actions)
    made = estate.items(estate.item("c1", "p1", 1, run_id="now")).assign(
        probability=0.1, reasons="{}", rules_version="r"
    )
    components = dict.fromkeys(["collaborative", "content", "popularity", "rhythm", "margin", "season"], 0.5)
    tenant_warehouse.append(tables.items, made.assign(**components))
    scores = {"lead_score": 1.0, "method": "rule", "p_active": 0.1, "probability_90d": 0.1, "expected_orders_365d": 0.1}
    churning = pd.DataFrame([{"customer_id": "c2", "expected_value_365d": 9.0, "is_churning": True, **scores}])
    tenant_warehouse.append(tables.predictions, churning)
    tenant_warehouse.append(
        tables.raw_files,
        pd.DataFrame([file("old", week_ago - timedelta(hours=1)), file("new", NOW - timedelta(hours=1))]),
    )
    tenant_warehouse.execute(
        "insert into curated.quarantined_rows values ('new', 2, '{INVALID_DATE}', null),"
        " ('new', 3, '{INVALID_DATE,MISSING_AMOUNT}', null), ('new', 4, '{RAGGED_ROW}', 'mended'),"
        " ('old', 9, '{MISSING_CLIENT}', null)"
    )
    return tenant_warehouse


def tenant_run(warehouse: Warehouse, home: Path) -> Any:
    return SimpleNamespace(tenant=TENANT, rules=RULES, warehouse=warehouse, home=home, now=NOW, as_of=AS_OF)


def test_the_report_compares_with_the_newest_run_at_least_six_days_before(warehouse: Warehouse) -> None:
    """Marts and outcomes that were never built leave their parts empty."""
    told = documents.weekly_report(warehouse, TENANT, RULES, "now")
    assert told.previous is not None
    assert (told.previous.run_id, told.previous.n_eligible, told.previous.at_risk) == ("before", 2, None)
    assert (told.n_eligible, told.at_risk, told.new_customers) == (1, 1, 0)
    assert told.scenarios[["code", "name"]].to_numpy().tolist() == [["A1", "Jeanne Hoffstetter"]]
    assert told.sales.week.now.orders == 1, "neither credit notes nor tills order"
    assert told.sales.rolling.now.amount == pytest.approx(365 * 10.55)
    assert told.files["path"].tolist() == ["new.csv"]
    assert told.refused.to_numpy().tolist() == [["INVALID_DATE", 2], ["MISSING_AMOUNT", 1]]
    assert told.refused_rows == 2
    assert told.campaigns.empty
    assert told.anomalies.empty
    assert told.segments["before"].isna().all()


def test_the_first_run_has_nothing_to_compare_with(warehouse: Warehouse) -> None:
    told = documents.weekly_report(warehouse, TENANT, RULES, "older")
    assert told.previous is None
    assert len(told.files) == 2
    with pytest.raises(LookupError, match="no decision"):
        documents.weekly_report(warehouse, TENANT, RULES, "nobody's")


def test_the_asset_records_its_files_and_its_lights_can_go_out(warehouse: Warehouse, tmp_path: Path) -> None:
    warehouse.execute(MARTS)
    run = tenant_run(warehouse, tmp_path)
    told = json.dumps(metadata_of(run_for(run, weekly.reports_weekly_reports)), default=str)
    rows = warehouse.rows("select path, week, n_at_risk from reports.weekly_reports where run_id = 'now' order by path")
    folder = "exports/demo/now/weekly_report"
    assert rows == [(f"{folder}.{kind}", "2025-W42", 1) for kind in ("html", "pdf", "xlsx")]
    assert "1 customer can receive a message" in told
    assert not [name for name in ("Hoffstetter", "Jeanne", "Wurtzel", "A1", "B2") if f" {name} " in told]

    def lights() -> tuple[bool, bool]:
        found = evaluated(run, weekly.weekly_reports_are_as_recorded, weekly.weekly_report_says_what_the_tables_say)
        recorded = found["weekly_reports", "weekly_reports_are_as_recorded"]
        said = found["weekly_reports", "weekly_report_says_what_the_tables_say"]
        return bool(recorded.passed), bool(said.passed)

    page = tmp_path / f"{folder}.html"
    before = page.read_bytes()
    assert before.count(b"data-figure") == 6
    assert lights() == (True, True)
    warehouse.execute("update kpis.monthly_sales set revenue_ht = revenue_ht + 0.02")
    assert lights() == (True, False)
    page.write_bytes(before.replace(b'data-value="137.15"', b'data-value="137.17"'))
    assert lights() == (False, True)
    page.unlink()
    assert lights() == (False, False)
