"""The lights between landing and curated on small tables written by hand: green, and red when a breach is planted.

Where a check reads what dbt builds, the table is made here with the few columns it reads: what dbt puts there is
tested by the models' own unit tests and by test_pipeline.py.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pandas as pd
import pytest

from crm_assets import rules, tables
from crm_assets.defs.curated import checks as curated_checks
from crm_assets.defs.landing import checks as landing_checks
from crm_assets.defs.raw import checks as raw_checks
from crm_assets.resources.warehouse import Warehouse
from tests.lights import evaluated

AS_OF = date(2025, 12, 31)
MODIFIED = datetime(2026, 2, 1, tzinfo=UTC)
Evaluate = Callable[..., dict[tuple[str, str], dg.AssetCheckEvaluation]]


@pytest.fixture
def evaluate(tenant_warehouse: Warehouse) -> Evaluate:
    """Run checks on the tenant's tables: (table, check) -> its evaluation."""

    def run(*checks: dg.AssetChecksDefinition, **overrides: Any) -> dict[tuple[str, str], dg.AssetCheckEvaluation]:
        estate: Any = SimpleNamespace(warehouse=tenant_warehouse, rules=rules.load(overrides), as_of=AS_OF)
        return evaluated(estate, *checks)

    return run


def file(warehouse: Warehouse, file_id: str, dataset: str = "sales_lines", rows: int = 0, **about: Any) -> None:
    """A line of the ledger as landing leaves it, with as many rows in the raw table."""
    line = {
        "path": f"{file_id}.csv",
        "sha256": file_id * 4,
        "file_id": file_id,
        "dataset": dataset,
        "status": "loaded",
        "size_bytes": 1,
        "row_count": rows,
        "modified_at": MODIFIED,
        "first_seen_at": MODIFIED,
        "order_key": f"{about.get('file_date') or '2026-02-01'}|{file_id}",
        **about,
    }
    warehouse.append(tables.raw_files, pd.DataFrame([line]))
    if rows:
        numbers = range(1, rows + 1)
        warehouse.append(
            tables.RAW_TABLES[dataset],
            pd.DataFrame({"file_id": file_id, "source_line": [n + 1 for n in numbers], "row_no": list(numbers)}),
        )


def told(evaluation: dg.AssetCheckEvaluation) -> dict[str, Any]:
    return {name: value.value for name, value in evaluation.metadata.items()}


# --- rows against the ledger


def test_each_content_ever_loaded_has_its_rows_once(tenant_warehouse: Warehouse, evaluate: Evaluate) -> None:
    file(tenant_warehouse, "aaaa", rows=3)
    file(tenant_warehouse, "aaaa", path="copy.csv", status="duplicate", row_count=3)
    file(tenant_warehouse, "bbbb", "customers", rows=2, deleted_at=MODIFIED)
    file(tenant_warehouse, "cccc", status="refused", row_count=None)
    key = ("files", "raw_rows_match_the_ledger")
    assert evaluate(raw_checks.raw_rows_match_the_ledger)[key].passed

    tenant_warehouse.execute("delete from raw.customers where row_no = 2")
    tenant_warehouse.execute("update raw.files set row_count = 4 where path = 'aaaa.csv'")
    tenant_warehouse.execute("insert into raw.sales_lines (file_id, source_line, row_no) values ('cccc', 2, 1)")
    red = evaluate(raw_checks.raw_rows_match_the_ledger)[key]
    assert not red.passed
    assert red.severity == dg.AssetCheckSeverity.ERROR
    assert red.blocking
    assert told(red) == {
        "n_differing": 3,
        "n_allowed": 0,
        "differing": "* `aaaa.csv`: 4 in the ledger, 3 in the table\n"
        "* `bbbb.csv`: 2 in the ledger, 1 in the table\n"
        "* `cccc`: 0 in the ledger, 1 in the table, of no loaded file",
    }


# --- freshness


def freshness(evaluate: Evaluate, **overrides: Any) -> dict[str, dg.AssetCheckEvaluation]:
    return {table: e for (table, _), e in evaluate(raw_checks.raw_files_are_fresh, **overrides).items()}


@pytest.mark.parametrize(
    ("dataset", "day", "expected"),
    [
        ("sales_lines", date(2025, 12, 17), (True, "WARN", 14)),
        ("sales_lines", date(2025, 12, 16), (False, "WARN", 15)),
        ("sales_lines", date(2025, 11, 16), (False, "WARN", 45)),
        ("sales_lines", date(2025, 11, 15), (False, "ERROR", 46)),  # STALE_SALES scores 0: the gate closes
        ("customers", date(2025, 10, 30), (True, "WARN", 62)),
        ("customers", date(2025, 10, 29), (False, "WARN", 63)),
        ("customers", date(2025, 6, 27), (False, "ERROR", 187)),
        ("stock", date(2025, 12, 1), (True, "WARN", 30)),
        ("stock", date(2025, 1, 1), (False, "WARN", 364)),
    ],
)
def test_a_dataset_is_as_old_as_its_newest_file(
    tenant_warehouse: Warehouse, evaluate: Evaluate, dataset: str, day: date, expected: tuple[bool, str, int]
) -> None:
    file(tenant_warehouse, "aaaa", dataset, file_date=date(2024, 1, 1))
    file(tenant_warehouse, "bbbb", dataset, file_date=day)
    found = freshness(evaluate)[dataset]
    assert (found.passed, found.severity.value, told(found)["age_days"]) == expected
    assert told(found)["newest_file"] == "bbbb.csv"
    assert told(found)["as_of"] == "2025-12-31"


def test_a_file_is_as_old_as_the_newest_date_inside_it_that_is_not_in_the_future(
    tenant_warehouse: Warehouse, evaluate: Evaluate
) -> None:
    # Named of today but full of old rows; one pre-dated row; a later file that was not known by then.
    file(tenant_warehouse, "aaaa", file_date=AS_OF, first_date=date(2024, 1, 1), last_date=date(2025, 12, 1))
    file(
        tenant_warehouse, "bbbb", "contacts", file_date=date(2025, 12, 20), first_date=date(2025, 1, 1),
        last_date=date(2026, 6, 1),
    )  # fmt: skip
    file(tenant_warehouse, "cccc", "stock", file_date=date(2026, 1, 8), first_date=date(2026, 1, 8))
    file(tenant_warehouse, "dddd", "customers")  # no date at all: its last change, which is after the as-of date
    ages = {table: told(e).get("age_days") for table, e in freshness(evaluate).items()}
    assert ages == {"sales_lines": 30, "contacts": 11, "stock": None, "customers": 0, "products": None}


def test_a_dataset_that_never_came_is_said_plainly(tenant_warehouse: Warehouse, evaluate: Evaluate) -> None:
    file(tenant_warehouse, "aaaa", "products", status="refused")
    found = freshness(evaluate)
    assert {table for table, e in found.items() if not e.passed} == {"sales_lines", "customers", "products"}
    assert told(found["products"])["verdict"] == "no products file has ever been loaded"
    assert told(found["stock"])["verdict"] == "no stock file has ever been loaded; the estate may do without"
    assert freshness(evaluate, landing={"needed_datasets": []})["products"].passed


# --- volume and columns


@pytest.fixture
def compared(tenant_warehouse: Warehouse) -> Warehouse:
    """The two tables that dbt builds of the newest files."""
    tenant_warehouse.execute("create schema if not exists audit")
    tenant_warehouse.execute(
        "create table audit.newest_files (dataset text, path text, row_count bigint, previous_path text,"
        " volume_unit text, volume float8, expected_volume float8, compared_with text, n_files_compared bigint)"
    )
    tenant_warehouse.execute(
        "create table audit.schema_changes (dataset text, kind text, name text, previous_header text,"
        " newest_header text, change text)"
    )
    return tenant_warehouse


def newest(warehouse: Warehouse, dataset: str, volume: float, expected: float | None, unit: str = "rows") -> None:
    warehouse.execute(
        "insert into audit.newest_files values (%s, 'b.csv', 90, 'a.csv', %s, %s, %s, 'the median', 3)",
        [dataset, unit, volume, expected],
    )


@pytest.mark.parametrize(
    ("dataset", "volume", "expected"),
    [
        ("products", 70, (True, "WARN")),
        ("products", 69, (False, "WARN")),
        ("customers", 300, (True, "WARN")),
        ("sales_lines", 50, (True, "WARN")),
        ("sales_lines", 49, (False, "WARN")),
        ("sales_lines", 10, (False, "ERROR")),  # VOLUME_DROP scores 0: the gate closes
    ],
)
def test_a_file_that_shrank_is_told(
    compared: Warehouse, evaluate: Evaluate, dataset: str, volume: float, expected: tuple[bool, str]
) -> None:
    newest(compared, dataset, volume, 100)
    found = evaluate(raw_checks.raw_files_against_their_past)[dataset, "volume_is_usual"]
    assert (found.passed, found.severity.value) == expected
    shown = told(found)
    assert (shown["measured"], shown["expected"], shown["ratio"]) == (volume, 100, volume / 100)
    assert shown["newest_file"] == "b.csv"
    assert shown["verdict"] == f"{volume} rows where the median lets expect 100"


def test_what_cannot_be_compared_is_green_and_says_so(compared: Warehouse, evaluate: Evaluate) -> None:
    newest(compared, "stock", 9, None)
    found = evaluate(raw_checks.raw_files_against_their_past)
    assert all(e.passed for e in found.values())
    for name in ("volume_is_usual", "schema_is_unchanged"):
        assert told(found["stock", name])["verdict"] == "there is no earlier file to compare it with"
        assert told(found["contacts", name])["verdict"] == "no contacts file has been compared yet"


def test_a_landing_before_the_first_refresh_has_nothing_to_compare(
    tenant_warehouse: Warehouse, evaluate: Evaluate
) -> None:
    found = evaluate(raw_checks.raw_files_against_their_past)
    assert all(e.passed for e in found.values())
    assert len(found) == len(raw_checks.VOLUME_DATASETS) + len(tables.RAW_TABLES)


def test_columns_that_came_and_went_are_named(compared: Warehouse, evaluate: Evaluate) -> None:
    newest(compared, "customers", 9, 9)
    rows = [
        ("field", "client_code", "Code", "code", "kept"),
        ("field", "email", "Mail", None, "gone"),
        ("field", "phone", None, "Tél", "new"),
        ("field", "city", "Ville", "City", "renamed"),
        ("unmapped header", "Tournée", "Tournée", None, "gone"),
        ("unmapped header", "Score", None, "Score", "new"),
    ]
    for row in rows:
        compared.execute("insert into audit.schema_changes values ('customers', %s, %s, %s, %s, %s)", row)
    key = ("customers", "schema_is_unchanged")
    red = evaluate(raw_checks.raw_files_against_their_past)[key]
    assert not red.passed
    assert told(red) == {
        "verdict": "1 of 3 fields are gone: email (was `Mail`)",
        "newest_file": "b.csv",
        "previous_file": "a.csv",
        "n_fields_gone": 1,
        "n_allowed": 0,
        "fields_gone": "email",
        "fields_new": "phone",
        "fields_under_another_header": "city: Ville → City",
        "unmapped_headers_gone": "Tournée",
        "unmapped_headers_new": "Score",
    }
    compared.execute("delete from audit.schema_changes where name = 'email'")
    assert evaluate(raw_checks.raw_files_against_their_past)[key].passed, "new and renamed columns are no fault"


# --- every row of every file


@pytest.fixture
def accounted(tenant_warehouse: Warehouse) -> Warehouse:
    """Three contents, one gone since and one left as a copy only; the accounting that dbt builds of them."""
    file(tenant_warehouse, "aaaa", rows=5, deleted_at=MODIFIED)
    file(tenant_warehouse, "aaaa", path="copy.csv", status="duplicate", row_count=5)
    file(tenant_warehouse, "bbbb", "customers", rows=3, deleted_at=MODIFIED)
    file(tenant_warehouse, "cccc", rows=1)
    tenant_warehouse.execute(
        """
        create table curated.file_accounting as
        select file_id, path, dataset, row_count as rows, curated, superseded, quarantined
        from (values ('aaaa', 2, 1, 2), ('bbbb', 3, 0, 0), ('cccc', 0, 0, 1))
            as counted (file_id, curated, superseded, quarantined)
        inner join raw.files using (file_id) where status = 'loaded'
        """
    )
    return tenant_warehouse


def accounts(evaluate: Evaluate) -> tuple[dg.AssetCheckEvaluation, dg.AssetCheckEvaluation]:
    found = evaluate(curated_checks.file_accounting_holds)
    return tuple(found["file_accounting", name] for name in (curated_checks.ADDS_UP, curated_checks.ALL_ROWS))  # type: ignore[return-value]


def test_rows_are_curated_superseded_or_quarantined(accounted: Warehouse, evaluate: Evaluate) -> None:
    adds_up, all_rows = accounts(evaluate)
    assert adds_up.passed, told(adds_up)
    assert adds_up.blocking
    assert all_rows.passed
    assert all_rows.blocking
    assert told(adds_up)["by_dataset"].splitlines()[2:] == [
        "| customers | 3 | 3 | 0 | 0 |",
        "| sales_lines | 6 | 2 | 1 | 3 |",
    ]
    assert told(all_rows) == {
        "n_files_ever_loaded": 3,
        "n_files_deleted_since": 1,
        "rows_in_raw": 9,
        "rows_in_ledger": 9,
        "rows_in_accounting": 9,
        "n_files_that_differ": 0,
        "n_allowed": 0,
        "files_that_differ": "none",
    }


@pytest.mark.parametrize(
    ("breach", "shown"),
    [
        ("curated = 3 where file_id = 'aaaa'", "* `aaaa.csv`: 5 rows, 3 curated, 1 superseded, 2 quarantined: -1"),
        ("quarantined = 0 where file_id = 'cccc'", "* `cccc.csv`: 1 rows, 0 curated, 0 superseded, 0 quarantined: +1"),
        (
            "superseded = -1, quarantined = 4 where file_id = 'aaaa'",
            "* `aaaa.csv`: 5 rows, 2 curated, -1 superseded, 4 quarantined: +0",
        ),
    ],
)
def test_a_file_that_does_not_add_up_is_named(
    accounted: Warehouse, evaluate: Evaluate, breach: str, shown: str
) -> None:
    accounted.execute(f"update curated.file_accounting set {breach}")
    adds_up, all_rows = accounts(evaluate)
    assert not adds_up.passed
    assert adds_up.severity == dg.AssetCheckSeverity.ERROR
    assert told(adds_up)["files_that_do_not_add_up"] == shown
    assert all_rows.passed


@pytest.mark.parametrize(
    ("breach", "shown"),
    [
        # The deleted file's rows are evidence too.
        ("delete from raw.customers", "* `bbbb.csv`: 0 in the raw table, 3 in the ledger, 3 in the accounting"),
        (
            "delete from curated.file_accounting where file_id = 'bbbb'",
            "* `bbbb.csv`: 3 in the raw table, 3 in the ledger, 0 in the accounting",
        ),
        (
            "update raw.files set status = 'loaded' where path = 'copy.csv'",  # as if it had been loaded twice
            "* `aaaa.csv`: 5 in the raw table, 10 in the ledger, 5 in the accounting",
        ),
        (
            "delete from raw.files where file_id = 'cccc'",
            "* `cccc.csv`: 1 in the raw table, 0 in the ledger, 1 in the accounting",
        ),
    ],
)
def test_a_row_ever_loaded_that_is_not_accounted_for_is_found(
    accounted: Warehouse, evaluate: Evaluate, breach: str, shown: str
) -> None:
    accounted.execute(breach)
    _, all_rows = accounts(evaluate)
    assert not all_rows.passed
    assert told(all_rows)["files_that_differ"] == shown


def test_a_breach_stops_what_is_decided_on_the_rows() -> None:
    from crm_assets.defs.audit.assets import audit_data_quality

    (deps,) = [spec.deps for spec in audit_data_quality.specs]
    assert dg.AssetKey(["curated", "file_accounting"]) in {dep.asset_key for dep in deps}


# --- what is odd about documents


@pytest.fixture
def documents(tenant_warehouse: Warehouse) -> Warehouse:
    tenant_warehouse.execute(
        """
        create table curated.fct_orders as
        select 'FACTURE' as document_type, 'F' || n as document_no, 'C' || n as client_code, 'count' as treatment,
            '2025-01-01'::date + n as order_date, 2 as lines,
            false as is_split, false as is_number_reused, false as is_document_inferred
        from generate_series(1, 10) as numbers (n);
        """
    )
    tenant_warehouse.execute(
        """
        create table curated.fct_sales_lines as
        select document_type, document_no, client_code, order_date as sale_date,
            false as is_negated, false as amount_derived
        from curated.fct_orders, generate_series(1, 2)
        """
    )
    return tenant_warehouse


def odd(evaluate: Evaluate, **overrides: Any) -> dict[str, dg.AssetCheckEvaluation]:
    found = evaluate(curated_checks.documents_are_what_they_seem, **overrides)
    return {name: evaluation for (_, name), evaluation in found.items()}


def test_orderly_documents_are_green(documents: Warehouse, evaluate: Evaluate) -> None:
    found = odd(evaluate)
    assert set(found) == {*curated_checks.ODD, curated_checks.UNMAPPED}
    assert all(e.passed for e in found.values())


@pytest.mark.parametrize("name", list(curated_checks.ODD))
def test_what_is_odd_about_documents_is_counted_with_examples(
    documents: Warehouse, evaluate: Evaluate, name: str
) -> None:
    table, column, rule, _ = curated_checks.ODD[name]
    documents.execute(f"update curated.{table} set {column} = true where document_no in ('F2', 'F9')")
    found = odd(evaluate)
    assert {other for other, e in found.items() if not e.passed} == {name}
    assert found[name].severity == dg.AssetCheckSeverity.WARN
    n, of = (2, "10 documents") if table == "fct_orders" else (4, "20 lines")
    assert told(found[name]) == {
        "n_found": n,
        "of": of,
        "share": 0.2,
        "share_tolerated": 0.0,
        "examples": "FACTURE F9 (C9), FACTURE F2 (C2)",
    }
    assert odd(evaluate, documents={"tolerated_shares": {rule: 0.2}})[name].passed


def test_a_document_type_that_no_rule_knows_is_named(documents: Warehouse, evaluate: Evaluate) -> None:
    documents.execute(
        "update curated.fct_orders set treatment = 'unmapped', document_type = 'FACTUR'"
        " where document_no in ('F3', 'F4')"
    )
    red = odd(evaluate)[curated_checks.UNMAPPED]
    assert not red.passed
    assert red.severity == dg.AssetCheckSeverity.ERROR
    assert told(red) == {
        "n_unmapped_types": 1,
        "n_allowed": 0,
        "n_documents": 2,
        "types": "* `FACTUR`: 2 documents, 4 lines",
        "examples": "FACTUR F4 (C4), FACTUR F3 (C3)",
    }


# --- the rules in SQL


@pytest.mark.parametrize(
    ("breach", "passed"),
    [
        ("select 1", True),
        ("update landing.parameters set value = '\"2025-12-30\"' where name = 'as_of'", False),
        ("update landing.parameters set value = '\"0123\"' where name = 'rules_version'", False),
        ("delete from landing.parameters", False),
    ],
)
def test_sql_computes_with_the_rules_and_the_day_of_the_run(
    tenant_warehouse: Warehouse, evaluate: Evaluate, breach: str, passed: bool
) -> None:
    written = {"as_of": AS_OF.isoformat(), "rules_version": rules.load().version}
    tenant_warehouse.append(
        tables.landing_parameters,
        pd.DataFrame({"name": list(written), "value": [tables.json_text(value) for value in written.values()]}),
    )
    tenant_warehouse.execute(breach)
    found = evaluate(landing_checks.rules_are_those_of_the_run)["parameters", "rules_are_those_of_the_run"]
    assert found.passed == passed
    assert found.blocking
    assert told(found)["as_of_of_the_run"] == "2025-12-31"
