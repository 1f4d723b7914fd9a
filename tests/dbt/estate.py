"""A hand-made estate, from raw lines through the dbt models: what reference cases are built with.

No expectations here: tests say what must come out.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
from psycopg.conninfo import conninfo_to_dict

from crm_assets import rules, tables
from crm_assets.dbt_manifest import PROJECT, dbt_executable
from crm_assets.defs.staging import assets as staging
from crm_assets.resources.warehouse import Warehouse

AS_OF = date(2024, 6, 30)
# document, days before the as-of date, product, quantity, EUR HT
Line = tuple[str, int, str, float, float]


def fill(warehouse: Warehouse, case: Mapping[str, Sequence[Line]], products: Sequence[Mapping[str, str]]) -> None:
    """The case as landing and the identity assets would leave it: one file per dataset.

    `case`: customer -> lines; a line of negative quantity stands on a credit note. `products`: product_key, label,
    price_ttc, is_active and what else the catalogue has.
    """
    sales = [
        {
            "client_code": customer,
            "document_no": document,
            "document_type": "FACTURE" if quantity > 0 else "AVOIR",
            "order_date": (AS_OF - timedelta(days=days)).isoformat(),
            "product_key": product,
            "quantity": str(quantity),
            "amount_ht": str(amount),
        }
        for customer, lines in case.items()
        for document, days, product, quantity, amount in lines
    ]
    customers = [
        {
            "client_code": code,
            "last_name": f"Nom {code}",
            "address": f"{number} rue du Puits",
            "country": "FR",
        }
        for number, code in enumerate(case, start=1)
    ]
    files = []
    for dataset, records in {
        "sales_lines": sales,
        "customers": customers,
        "products": [dict(product) for product in products],
    }.items():
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
        pd.DataFrame({"client_code": list(case), "customer_id": list(case), "matched_by": "code"}),
    )
    for statement in (staging.NEW_CLIENT_TEXTS, staging.NEW_PRODUCT_TEXTS):
        warehouse.execute(statement)
    keys = [product["product_key"] for product in products]
    warehouse.replace(
        tables.product_matches,
        pd.DataFrame(
            {
                "raw_product_key": keys,
                "raw_product_label": "",
                "raw_vintage": "",
                "sale_year": 0,
                "product_key": keys,
                "matched_by": "key",
                "vintage_ambiguous": False,
            }
        ),
    )


def set_parameters(warehouse: Warehouse, as_of: date, rfm: Mapping[str, Any]) -> None:
    values = rules.load({"rfm": dict(rfm)}).parameters() | {
        "as_of": as_of.isoformat(),
        "is_historical": False,
        "tenant.country": "FR",
        "tenant.timezone": "Europe/Paris",
        "tenant.own_addresses": [],
        "tenant.document_numbers": "plain",
        "tenant.exports": "partial",
        "tenant.send_countries": ["FR"],
        "tenant.existing_customer_basis": True,
    }
    frame = pd.DataFrame({"name": name, "value": json.dumps(value)} for name, value in values.items())
    warehouse.replace(tables.landing_parameters, frame)


def build(warehouse: Warehouse, target: Path, select: Iterable[str]) -> None:
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
