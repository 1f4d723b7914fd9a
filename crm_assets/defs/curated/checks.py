"""Checks of the two identity tables, of the accounting of rows, and of what is odd about documents.

A breach of an identity or of the accounting is a fault of ours: nothing is built on it. What is odd about documents
is the estate's to look at, and is told with examples: document numbers and client codes, never names.
"""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from crm_assets import run_context
from crm_assets.defs.common import TenantRun, check_spec, tenant_check
from crm_assets.defs.curated.assets import PRODUCTS
from crm_assets.defs.raw.checks import ROWS_IN_RAW, listed
from crm_assets.logic import curated

SEEN_CODES = """
    with loaded as (select file_id from raw.files where status = 'loaded')
    select client_code from raw.customers where file_id in (select file_id from loaded)
    union
    select client_code from staging.client_texts
    union
    select client_code from raw.contacts where file_id in (select file_id from loaded)
"""


@tenant_check(["curated", "customer_xref"], blocking=True)
def every_code_is_one_customer(context: dg.AssetCheckExecutionContext, tenant_run: TenantRun) -> dg.AssetCheckResult:
    """Every valid client code of the loaded files has exactly one customer, each customer one first code."""
    xref = tenant_run.warehouse.read("curated", "customer_xref")
    seen = curated.normalize_code(tenant_run.warehouse.query(SEEN_CODES)["client_code"]).drop_duplicates()
    expected = seen[curated.is_valid_code(seen)]
    missing = int((~expected.isin(xref["client_code"])).sum())
    repeated = int(xref["client_code"].duplicated().sum())
    first_codes = int(xref["matched_by"].eq("code").sum())
    customers = int(xref["customer_id"].nunique())
    return dg.AssetCheckResult(
        passed=missing == 0 and repeated == 0 and first_codes == customers,
        metadata={
            "codes_without_customer": missing,
            "codes_with_several": repeated,
            "first_codes": first_codes,
            "customers": customers,
            "threshold": 0,
        },
    )


@tenant_check(["curated", "product_matches"], blocking=True)
def matches_are_in_the_catalogue(context: dg.AssetCheckExecutionContext, tenant_run: TenantRun) -> dg.AssetCheckResult:
    """A product that is not inferred is one of the catalogue."""
    matches = tenant_run.warehouse.read("curated", "product_matches", columns=["product_key", "matched_by"])
    matched = matches.loc[matches["matched_by"].ne("inferred"), "product_key"].drop_duplicates()
    catalogue = curated.Catalogue(tenant_run.warehouse.query(PRODUCTS))
    strangers = sorted(set(matched) - catalogue.keys)
    return dg.AssetCheckResult(
        passed=not strangers,
        metadata={"products_outside_catalogue": len(strangers), "threshold": 0, "examples": strangers[:5]},
    )


# --- every row of every file

ADDS_UP, ALL_ROWS = "rows_of_a_file_add_up", "all_rows_ever_loaded_are_accounted_for"

# Every content ever loaded, whatever became of its file: what the ledger, the raw table and the accounting say of it.
ACCOUNTS = """
    select
        coalesce(loaded.path, accounts.path, file_id) as path,
        coalesce(loaded.dataset, found.dataset, accounts.dataset) as dataset,
        coalesce(loaded.rows, 0) as in_ledger, coalesce(found.n, 0) as in_raw, coalesce(accounts.rows, 0) as rows,
        coalesce(accounts.curated, 0) as curated, coalesce(accounts.superseded, 0) as superseded,
        coalesce(accounts.quarantined, 0) as quarantined, coalesce(loaded.is_deleted, false) as is_deleted
    from (
        -- Rows of what was loaded; gone is a content whose copies are gone too.
        select file_id, dataset, min(path collate "C") filter (where status = 'loaded') as path,
            sum(row_count) filter (where status = 'loaded')::bigint as rows,
            bool_and(deleted_at is not null) as is_deleted
        from raw.files where status in ('loaded', 'duplicate')
        group by file_id, dataset having bool_or(status = 'loaded')
    ) as loaded
    full join ({rows_in_raw}) as found using (file_id, dataset)
    full join {accounting} as accounts using (file_id)
    order by 1
"""


@dg.multi_asset_check(
    name="file_accounting_holds",
    specs=[
        check_spec(
            ["curated", "file_accounting"],
            ADDS_UP,
            "Of every loaded file, rows = curated + superseded + quarantined (spec.md §2.3). A difference is a row that"
            " was lost or counted twice on the way, a fault of ours: the gate is not decided on it.",
            blocking=True,
        ),
        check_spec(
            ["curated", "file_accounting"],
            ALL_ROWS,
            "Over every content ever loaded, deleted files included and copies counted once: the rows that stand in the"
            " raw tables, the rows that landing counted and the rows that the accounting speaks of are the same. A"
            " difference is a fault of ours: the gate is not decided on it.",
            blocking=True,
        ),
    ],
    can_subset=True,
)
def file_accounting_holds(
    context: dg.AssetCheckExecutionContext, tenant_run: TenantRun
) -> Iterator[dg.AssetCheckResult]:
    """Both identities from one look at the raw tables."""
    warehouse = tenant_run.warehouse
    accounting = f"curated{warehouse.schema_suffix}.file_accounting"
    accounts = warehouse.query(ACCOUNTS.format(rows_in_raw=ROWS_IN_RAW, accounting=accounting))
    for key in context.selected_asset_check_keys:
        yield _adds_up(accounts) if key.name == ADDS_UP else _all_rows(accounts)


def _adds_up(accounts: Any) -> dg.AssetCheckResult:
    outcomes = ["curated", "superseded", "quarantined"]
    difference = accounts["rows"] - accounts[outcomes].sum(axis=1)
    wrong = accounts.assign(difference=difference)[difference.ne(0) | accounts[outcomes].min(axis=1).lt(0)]
    lines = [
        f"* `{row.path}`: {row.rows} rows, {row.curated} curated, {row.superseded} superseded,"
        f" {row.quarantined} quarantined: {row.difference:+d}"
        for row in wrong.itertuples()
    ]
    sums = accounts.groupby("dataset")[["rows", *outcomes]].sum()
    table = ["| dataset | rows | curated | superseded | quarantined |", "|---|---:|---:|---:|---:|"]
    table += [
        f"| {row.Index} | {row.rows} | {row.curated} | {row.superseded} | {row.quarantined} |"
        for row in sums.itertuples()
    ]
    return dg.AssetCheckResult(
        passed=wrong.empty,
        asset_key=["curated", "file_accounting"],
        check_name=ADDS_UP,
        severity=dg.AssetCheckSeverity.ERROR,
        metadata={
            "n_files": len(accounts),
            "n_files_that_do_not_add_up": len(wrong),
            "n_allowed": 0,
            "rows_unaccounted_for": int(difference.sum()),
            "files_that_do_not_add_up": listed(lines),
            "by_dataset": dg.MetadataValue.md("\n".join(table)),
        },
    )


def _all_rows(accounts: Any) -> dg.AssetCheckResult:
    wrong = accounts[accounts["in_raw"].ne(accounts["in_ledger"]) | accounts["in_raw"].ne(accounts["rows"])]
    lines = [
        f"* `{row.path}`: {row.in_raw} in the raw table, {row.in_ledger} in the ledger, {row.rows} in the accounting"
        for row in wrong.itertuples()
    ]
    return dg.AssetCheckResult(
        passed=wrong.empty,
        asset_key=["curated", "file_accounting"],
        check_name=ALL_ROWS,
        severity=dg.AssetCheckSeverity.ERROR,
        metadata={
            "n_files_ever_loaded": len(accounts),
            "n_files_deleted_since": int(accounts["is_deleted"].sum()),
            "rows_in_raw": int(accounts["in_raw"].sum()),
            "rows_in_ledger": int(accounts["in_ledger"].sum()),
            "rows_in_accounting": int(accounts["rows"].sum()),
            "n_files_that_differ": len(wrong),
            "n_allowed": 0,
            "files_that_differ": listed(lines),
        },
    )


# --- what is odd about documents

# name of the light -> (table, condition, rule of documents.tolerated_shares, what it means)
ODD = {
    "documents_come_from_one_file": (
        "fct_orders",
        "is_split",
        "split",
        "A document whose current lines come from several files was exported in parts, or an older export still holds"
        " lines that the newest one lacks (spec.md §3). Red: more documents than tolerated.",
    ),
    "numbers_belong_to_one_document": (
        "fct_orders",
        "is_number_reused",
        "number_reused",
        "The same type and number on another client, or too long after, is taken for another document (spec.md §3)."
        " Numbers that begin anew each year: say `document_numbers: yearly` in the estate's file.",
    ),
    "documents_have_a_number": (
        "fct_orders",
        "is_document_inferred",
        "document_inferred",
        "Without a document column all lines of a client and day are taken for one document (spec.md §2.1). Export the"
        " document number too.",
    ),
    "credit_lines_are_negative": (
        "fct_sales_lines",
        "is_negated",
        "positive_credit",
        "Positive lines of a credit type are negated (spec.md §3). Red: look whether the type is one.",
    ),
    "amounts_are_exported": (
        "fct_sales_lines",
        "amount_derived",
        "amount_derived",
        "A line without net amount gets it from the amount with VAT and the rate in force, else from quantity and price"
        " (spec.md §3). Red: export the net amount too.",
    ),
}
UNMAPPED = "document_types_are_all_mapped"


@dg.multi_asset_check(
    name="documents_are_what_they_seem",
    specs=[
        *(check_spec(["curated", table], name, text) for name, (table, _, _, text) in ODD.items()),
        check_spec(
            ["curated", "fct_orders"],
            UNMAPPED,
            "A document type that no rule knows counts nowhere and closes the gate (spec.md §3): map it to count,"
            " credit or ignore under `rules: documents: types:` in the estate's file.",
        ),
    ],
    can_subset=True,
)
def documents_are_what_they_seem(
    context: dg.AssetCheckExecutionContext, tenant_run: TenantRun
) -> Iterator[dg.AssetCheckResult]:
    """Counts of everything odd from one look at each table; examples where there is something to show."""
    counts = {table: _odd_counts(tenant_run, table) for table in ("fct_orders", "fct_sales_lines")}
    for key in context.selected_asset_check_keys:
        if key.name == UNMAPPED:
            result = _unmapped(tenant_run, counts["fct_orders"]["n_unmapped"])
        else:
            table, condition, rule, _ = ODD[key.name]
            found, total = counts[table][key.name], counts[table]["total"]
            tolerated = getattr(tenant_run.rules.documents.tolerated_shares, rule)
            result = dg.AssetCheckResult(
                passed=found <= tolerated * total,
                severity=dg.AssetCheckSeverity.WARN,
                metadata={
                    "n_found": found,
                    "of": f"{total} {'documents' if table == 'fct_orders' else 'lines'}",
                    "share": found / total if total else 0.0,
                    "share_tolerated": tolerated,
                    "examples": ", ".join(_examples(tenant_run, table, condition)) if found else "none",
                },
            )
        yield result._replace(check_name=key.name, asset_key=key.asset_key)


def _odd_counts(run: run_context.TenantRun, table: str) -> dict[str, int]:
    measures = {name: condition for name, (where, condition, _, _) in ODD.items() if where == table}
    if table == "fct_orders":
        measures["n_unmapped"] = "treatment = 'unmapped'"
    selected = ", ".join(f"count(*) filter (where {condition})" for condition in measures.values())
    (row,) = run.warehouse.rows(f"select count(*), {selected} from curated{run.warehouse.schema_suffix}.{table}")
    return dict(zip(["total", *measures], row, strict=True))


def _examples(run: run_context.TenantRun, table: str, condition: str) -> list[str]:
    """Some of the newest documents: type, number and the client code it is on."""
    day = "order_date" if table == "fct_orders" else "sale_date"
    rows = run.warehouse.rows(
        f"""
        select concat_ws(' ', nullif(document_type, ''), document_no) || ' (' || client_code || ')'
        from curated{run.warehouse.schema_suffix}.{table} where {condition}
        group by 1 order by max({day}) desc, 1 limit 5
        """
    )
    return [example for (example,) in rows]


def _unmapped(run: run_context.TenantRun, n_documents: int) -> dg.AssetCheckResult:
    types = []
    if n_documents:
        types = run.warehouse.rows(
            f"select document_type, count(*), sum(lines) from curated{run.warehouse.schema_suffix}.fct_orders"
            " where treatment = 'unmapped' group by document_type order by 2 desc, 1"
        )
    return dg.AssetCheckResult(
        passed=not types,
        # It closes the gate.
        severity=dg.AssetCheckSeverity.ERROR,
        metadata={
            "n_unmapped_types": len(types),
            "n_allowed": 0,
            "n_documents": n_documents,
            "types": listed([f"* `{name}`: {documents} documents, {lines} lines" for name, documents, lines in types]),
            "examples": ", ".join(_examples(run, "fct_orders", "treatment = 'unmapped'")) if types else "none",
        },
    )
