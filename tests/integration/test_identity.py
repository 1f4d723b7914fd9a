"""The identity assets, the texts they read and their checks on a real database: what SQL reads, and what they write."""

from __future__ import annotations

from datetime import UTC, date, datetime
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pandas as pd
import pytest

from crm_assets import rules, tables
from crm_assets.defs.curated import assets as curated_assets
from crm_assets.defs.curated import checks as curated_checks
from crm_assets.defs.staging import assets as staging_assets
from crm_assets.defs.staging import checks as staging_checks
from crm_assets.resources.warehouse import Warehouse
from tests.lights import run_for

ASSETS = [
    staging_assets.client_texts,
    staging_assets.product_texts_met,
    staging_assets.emails,
    staging_assets.phones,
    curated_assets.customer_xref,
    curated_assets.product_matches,
    staging_checks.few_emails_are_invalid,
    curated_checks.every_code_is_one_customer,
    curated_checks.matches_are_in_the_catalogue,
]


def drop(
    warehouse: Warehouse, file_id: str, day: str, name: str, *rows: dict[str, str], status: str = "loaded"
) -> None:
    """A file as landing leaves it, lines from 2 on."""
    seen = datetime(2025, 12, 31, tzinfo=UTC)
    about = {
        "path": f"{file_id}.csv",
        "sha256": file_id * 4,
        "file_id": file_id,
        "dataset": name,
        "status": status,
        "size_bytes": 1,
        "modified_at": seen,
        "first_seen_at": seen,
        "order_key": f"{day}|{file_id}",
    }
    warehouse.append(tables.raw_files, pd.DataFrame([about]))
    lines = [{**row, "file_id": file_id, "source_line": n + 2, "row_no": n + 1} for n, row in enumerate(rows)]
    warehouse.append(tables.RAW_TABLES[name], pd.DataFrame(lines))


def refresh(warehouse: Warehouse) -> dg.ExecuteInProcessResult:
    run: Any = SimpleNamespace(
        warehouse=warehouse,
        rules=rules.load(),
        tenant=SimpleNamespace(country="FR", own_addresses=["caveau@example.org"]),
        as_of=date(2025, 12, 31),
    )
    return run_for(run, *ASSETS)


@pytest.fixture
def estate(tenant_warehouse: Warehouse) -> Warehouse:
    """Two customer files, the older one dropped last; sales before and after; a small catalogue."""
    mail = "anne@example.org"
    drop(
        tenant_warehouse,
        "aaaa",
        "2025-06-01",
        "customers",
        {"client_code": "C2", "last_name": "MULLER", "email": f" {mail.upper()}", "country": "Allemagne"},
        {"client_code": "C3", "last_name": "Garrigou", "phone": "0761 202000", "country": "Allemagne"},
        {"client_code": "C4", "last_name": "Garrigou", "mobile": "+49 761 202000", "email": "no address"},
    )
    drop(
        tenant_warehouse,
        "bbbb",
        "2025-01-01",
        "customers",
        {"client_code": "c1\u00a0", "last_name": "Müller", "email": mail},
        {"client_code": "#N/A", "last_name": "Nobody", "email": mail},
    )
    drop(
        tenant_warehouse,
        "cccc",
        "2024-01-01",
        "sales_lines",
        {"client_code": "S1", "product_label": "Riesling"},
        {"client_code": "C3", "product_key": "ri-21", "vintage": "2021"},
        {"client_code": "C3", "product_label": "Bretzel"},
    )
    drop(tenant_warehouse, "dddd", "2026-01-01", "sales_lines", {"client_code": "X9"}, status="refused")
    drop(
        tenant_warehouse,
        "eeee",
        "2025-01-01",
        "products",
        {"product_key": "RI-21", "label": "Riesling", "vintage": "2021"},
        {"product_key": "RI-25", "label": "Riesling", "vintage": "2025"},
    )
    return tenant_warehouse


def test_codes_and_labels_find_who_and_what_they_are(estate: Warehouse) -> None:
    result = refresh(estate)
    assert result.success
    # C3 was sold to before any card came, C1 stands in the older of the two customer files.
    xref = estate.query("select client_code, customer_id, matched_by from curated.customer_xref order by 1")
    ids = dict(zip(xref["client_code"], xref["customer_id"], strict=True))
    assert sorted(ids) == ["C1", "C2", "C3", "C4", "S1"]
    assert ids["C1"] == ids["C2"]
    assert ids["C3"] == ids["C4"]
    assert dict(zip(xref["client_code"], xref["matched_by"], strict=True)) == {
        **{"C1": "code", "C2": "email", "C3": "code", "C4": "phone", "S1": "code"},
    }
    matches = estate.query(
        "select raw_product_key, raw_product_label, sale_year, product_key, matched_by, vintage_ambiguous"
        " from curated.product_matches order by 1, 2, 3"
    )
    riesling = matches[matches["raw_product_label"].eq("Riesling")].set_index("sale_year")
    assert riesling["product_key"].to_dict() == {2023: "RI-21", 2024: "RI-21", 2025: "RI-25", 2026: "RI-25"}
    assert riesling["vintage_ambiguous"].all()
    others = matches[matches["sale_year"].eq(0)]
    assert others["matched_by"].tolist() == ["inferred", "key"]


def test_only_new_texts_are_validated_and_a_second_refresh_changes_nothing(estate: Warehouse) -> None:
    def state() -> list[Any]:
        names = ["staging.emails", "staging.phones", "curated.customer_xref", "curated.product_matches"]
        return [estate.rows(f"select * from {name} order by 1, 2, 3") for name in names]

    refresh(estate)
    before = state()
    again = refresh(estate)
    assert state() == before
    new = {
        event.asset_key.to_user_string(): event.step_materialization_data.materialization.metadata["new"].value
        for event in again.get_asset_materialization_events()
        if event.asset_key and event.asset_key.path[0] == "staging"
    }
    texts = ("client_texts", "product_texts_met", "emails", "phones")
    assert new == dict.fromkeys([f"staging/{name}" for name in texts], 0)


def test_checks_explain_themselves(estate: Warehouse) -> None:
    checks = {check.check_name: check for check in refresh(estate).get_asset_check_evaluations()}
    assert {name: check.passed for name, check in checks.items()} == {
        "few_emails_are_invalid": False,  # one of three texts is none
        "every_code_is_one_customer": True,
        "matches_are_in_the_catalogue": True,
    }
    red = checks["few_emails_are_invalid"]
    assert red.severity == dg.AssetCheckSeverity.WARN
    assert red.metadata["share_invalid"].value == pytest.approx(1 / 3)
    assert red.metadata["threshold"].value == pytest.approx(0.1)
