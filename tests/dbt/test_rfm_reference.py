"""The reference case of spec.md §4.1, from raw lines to scores, against numpy.

The numbers that dbt must find are computed here from the documents by other means: nothing of the models'
SQL, nor of their expected literals, is shared.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from psycopg.conninfo import conninfo_to_dict

from crm_assets import rules, tables
from crm_assets.dbt_manifest import PROJECT, dbt_executable
from crm_assets.defs.staging import assets as staging
from crm_assets.resources.warehouse import Warehouse

AS_OF = date(2024, 6, 30)
# Customer -> its lines: document, days before the as-of date, product, quantity, EUR HT.
CASE = {
    "C01": [("A1", 0, "P1", 6, 60), ("A2", 30, "P2", 2, 24), ("A3", 60, "P3", 2, 50)],
    "C02": [("B1", 10, "P1", 1, 10)],
    "C03": [("C1", 20, "P5", 3, 120), ("C1", 20, "P2", 1, 12)],
    "C04": [("D1", 45, "P2", 6, 72), ("D2", 90, "P2", 6, 72)],
    "C05": [("E1", 100, "P4", 2, 36)],
    "C06": [
        ("F1", 200, "P1", 12, 120),
        ("F2", 260, "P1", 12, 120),
        ("F3", 300, "P3", 1, 25),
        ("F4", 400, "P3", 1, 25),
    ],
    "C07": [("G1", 365, "P2", 1, 12)],
    "C08": [("H1", 400, "P3", 2, 50)],
    "C11": [],
}
PRODUCTS = ("P1", "P2", "P3", "P4", "P5")
MEASURES = {
    "C01": (0, 3, 134),
    "C02": (10, 1, 10),
    "C03": (20, 1, 132),
    "C04": (45, 2, 144),
    "C05": (100, 1, 36),
    "C06": (200, 4, 290),
    "C07": (365, 1, 12),
    "C08": (400, 1, 50),
}


def expected(as_of: date) -> pd.DataFrame:
    """Measures, scores and segments of those who ordered by `as_of`, indexed by customer."""
    shift = (AS_OF - as_of).days
    known = {
        customer: [line for line in lines if line[1] >= shift]
        for customer, lines in CASE.items()
        if any(line[1] >= shift for line in lines)
    }
    customers = list(known)
    recency = np.array([min(line[1] for line in lines) - shift for lines in known.values()])
    frequency = np.array([len({line[0] for line in lines}) for lines in known.values()])
    monetary = np.array([sum(line[4] for line in lines) for lines in known.values()])

    def quintile(values: np.ndarray) -> np.ndarray:
        """1 for the lowest fifth to 5 for the highest; a cut point belongs to the fifth below."""
        return 1 + np.searchsorted(np.quantile(values, [0.2, 0.4, 0.6, 0.8]), values, side="left")

    r, f, m = 6 - quintile(recency), quintile(frequency), quintile(monetary)
    segments = np.select(
        [
            (r >= 4) & (f >= 4) & (m >= 4),
            (f >= 4) & (r >= 3),
            (m >= 4) & (f >= 3),
            (r >= 4) & (f <= 2),
            (r >= 3) & (f >= 2) & (m >= 2),
            (r <= 2) & (f <= 2),
        ],
        ["Champions", "Loyal Customers", "Big Spenders", "Recent Customers", "Promising", "At Risk"],
        default="Others",
    )
    columns = {
        "recency_days": recency,
        "frequency": frequency,
        "monetary": monetary,
        "r_score": r,
        "f_score": f,
        "m_score": m,
        "rfm_score": r + f + m,
        "rfm_code": [f"{a}{b}{c}" for a, b, c in zip(r, f, m, strict=True)],
        "segment": segments,
    }
    return pd.DataFrame(columns, index=pd.Index(customers, name="customer_id")).sort_index()


def _fill(warehouse: Warehouse) -> None:
    """The case as landing and the identity assets would leave it: one file per dataset."""
    sales = [
        {
            "client_code": customer,
            "document_no": document,
            "document_type": "FACTURE",
            "order_date": (AS_OF - timedelta(days=days)).isoformat(),
            "product_key": product,
            "quantity": str(quantity),
            "amount_ht": str(amount),
        }
        for customer, lines in CASE.items()
        for document, days, product, quantity, amount in lines
    ]
    customers = [
        {
            "client_code": code,
            "last_name": f"Nom {code}",
            "address": f"{number} rue du Puits",
            "country": "FR",
        }
        for number, code in enumerate(CASE, start=1)
    ]
    products = [
        {"product_key": key, "label": f"Vin {key}", "family": "Blanc", "price_ttc": "14.40", "is_active": "1"}
        for key in PRODUCTS
    ]
    files = []
    for dataset, records in {"sales_lines": sales, "customers": customers, "products": products}.items():
        rows = [
            {"file_id": dataset, "source_line": number + 1, "row_no": number} | record
            for number, record in enumerate(records, start=1)
        ]
        warehouse.replace(tables.RAW_TABLES[dataset], pd.DataFrame(rows))
        files.append(
            {
                "path": f"{dataset}.csv",
                "sha256": dataset,
                "file_id": dataset,
                "dataset": dataset,
                "status": "loaded",
                "size_bytes": 1,
                "modified_at": datetime(2024, 7, 1, tzinfo=UTC),
                "order_key": "2024-07-01",
                "format": "csv",
                "decimal_separator": ".",
                "date_order": "dmy",
                "row_count": len(rows),
                "first_date": date(2023, 1, 1) if dataset == "sales_lines" else None,
                "last_date": AS_OF if dataset == "sales_lines" else None,
                "mapping": json.dumps({name: name for name in records[0]}),
                "missing_fields": [],
                "first_seen_at": datetime(2024, 7, 1, tzinfo=UTC),
            }
        )
    warehouse.replace(tables.raw_files, pd.DataFrame(files))
    warehouse.replace(
        tables.customer_xref,
        pd.DataFrame({"client_code": list(CASE), "customer_id": list(CASE), "matched_by": "code"}),
    )
    for statement in (staging.NEW_CLIENT_TEXTS, staging.NEW_PRODUCT_TEXTS):
        warehouse.execute(statement)
    warehouse.replace(
        tables.product_matches,
        pd.DataFrame(
            {
                "raw_product_key": PRODUCTS,
                "raw_product_label": "",
                "raw_vintage": "",
                "sale_year": 0,
                "product_key": PRODUCTS,
                "matched_by": "key",
                "vintage_ambiguous": False,
            }
        ),
    )


def _set_parameters(warehouse: Warehouse, as_of: date, rfm: Mapping[str, Any]) -> None:
    values = rules.load({"rfm": dict(rfm)}).parameters() | {
        "as_of": as_of.isoformat(),
        "is_historical": False,
        "tenant.country": "FR",
        "tenant.own_addresses": [],
        "tenant.document_numbers": "plain",
        "tenant.exports": "partial",
        "tenant.send_countries": ["FR"],
        "tenant.existing_customer_basis": True,
    }
    frame = pd.DataFrame({"name": name, "value": json.dumps(value)} for name, value in values.items())
    warehouse.replace(tables.landing_parameters, frame)


def _build(warehouse: Warehouse, target: Path, select: Iterable[str]) -> None:
    parts = conninfo_to_dict(warehouse.url)
    environment = os.environ | {
        "CRM_DBT_HOST": str(parts["host"]),
        "CRM_DBT_PORT": str(parts.get("port", "5432")),
        "CRM_DBT_USER": str(parts["user"]),
        "CRM_DBT_PASSWORD": str(parts.get("password", "")),
        "CRM_DBT_DBNAME": str(parts["dbname"]),
    }
    command = [
        dbt_executable(),
        "build",
        "--quiet",
        "--project-dir",
        str(PROJECT),
        "--profiles-dir",
        str(PROJECT),
    ]
    # Cautious: no test that also looks at a model not selected, hence not built here.
    command += ["--target-path", str(target), "--indirect-selection", "cautious", "--select", *select]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=PROJECT)
    assert done.returncode == 0, done.stdout + done.stderr


def _scores(warehouse: Warehouse, name: str, where: str = "segment <> 'Prospects'") -> pd.DataFrame:
    frame = warehouse.read("rfm", name, where=where).set_index("customer_id").sort_index()
    return frame[list(expected(AS_OF).columns)]


def test_the_measures_of_the_case_are_those_written_in_the_spec() -> None:
    frame = expected(AS_OF)
    assert {row.Index: (row.recency_days, row.frequency, row.monetary) for row in frame.itertuples()} == MEASURES


def test_reference_case_from_raw_lines_to_segments(tenant_warehouse: Warehouse, tmp_path: Path) -> None:
    _fill(tenant_warehouse)
    # Eight customers would be scored by edges: the case is about quintiles.
    _set_parameters(tenant_warehouse, AS_OF, {"edges_below_customers": 0})
    _build(tenant_warehouse, tmp_path, ["+customer_rfm_history"])

    found = _scores(tenant_warehouse, "customer_rfm")
    pd.testing.assert_frame_equal(found, expected(AS_OF), check_dtype=False)
    prospects = tenant_warehouse.read("rfm", "customer_rfm", where="segment = 'Prospects'")
    assert list(prospects["customer_id"]) == ["C11"]
    assert prospects[["r_score", "f_score", "m_score", "rfm_score", "rfm_code", "method"]].isna().all().all()

    # An earlier day sees what was known then, keeps both days in the history, and twice is the same as once.
    earlier = AS_OF - timedelta(days=50)
    _set_parameters(tenant_warehouse, earlier, {"edges_below_customers": 0})
    for _ in range(2):
        _build(
            tenant_warehouse,
            tmp_path,
            ["known_sales_lines", "fct_orders", "customer_rfm", "customer_rfm_history"],
        )
    pd.testing.assert_frame_equal(_scores(tenant_warehouse, "customer_rfm"), expected(earlier), check_dtype=False)
    for day in (AS_OF, earlier):
        found = _scores(tenant_warehouse, "customer_rfm_history", f"segment <> 'Prospects' and as_of = '{day}'")
        pd.testing.assert_frame_equal(found, expected(day), check_dtype=False)
    assert tenant_warehouse.count("rfm", "customer_rfm_history") == 2 * len(CASE)
