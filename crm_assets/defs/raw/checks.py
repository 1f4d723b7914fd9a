"""Checks of what was landed: files that failed, rows against the ledger, the newest batch's shape, and each
dataset against its own past: how old its newest file is, how much it holds, which columns came and went.

The batch's expectations are Great Expectations'; importing it costs seconds, so it happens inside the check. No
value is ever shown.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from typing import Any

import dagster as dg

from crm_assets import run_context, tables
from crm_assets.defs.common import TenantRun, check_spec, tenant_check
from crm_assets.defs.data_docs import judged
from crm_assets.expectations import Expected, Suite
from crm_assets.resources.raw_store import failures

# Rows of each file in the raw tables themselves, as (dataset, file_id, n).
ROWS_IN_RAW = " union all ".join(
    f"select '{name}' as dataset, file_id, count(*) as n from raw.{name} group by file_id" for name in tables.RAW_TABLES
)

DATE_SHAPE = r"^\s*(?:\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.](?:\d{4}|\d{2}))(?:[ T].*)?\s*$"
NUMBER_SHAPE = r"^\s*\(?\s*[-+−]?\s*\d[\d\s.,'’  ]*\s*(?:€|EUR)?\s*\)?\s*$"
POSTAL_CODE_SHAPE = r"^\s*[0-9A-Za-z][0-9A-Za-z -]{1,9}\s*$"
VINTAGE_SHAPE = r"^\s*(?:(?:19|20)\d\d|NM|SA)?\s*$"

# Per raw table: the columns of the batch, as SQL over its rows, and what each must be, why: kind, column, reason.
# `required` must not be blank; every other kind is a shape that values, where there are any, must have.
SALES_BATCH = """
    select client_code, quantity, postal_code,
        coalesce(product_key, product_label) as product,
        coalesce(order_date, delivery_date) as sale_date,
        coalesce(amount_ht, amount_ttc, unit_price_ht) as amount
    from raw.sales_lines
    where file_id = %s and problems is null and row_no %% %s = 0
"""
PRODUCT_BATCH = """
    select label, price_ttc, vintage from raw.products
    where file_id = %s and problems is null and row_no %% %s = 0
"""
SHAPES = {
    "date": DATE_SHAPE,
    "number": NUMBER_SHAPE,
    "postal_code": POSTAL_CODE_SHAPE,
    "vintage": VINTAGE_SHAPE,
}
SALES_EXPECTED = (
    ("required", "client_code", "A line without a customer's code is nobody's purchase: it is refused later on."),
    ("required", "product", "Without a product's code or label nobody knows what was bought."),
    ("required", "sale_date", "A line without a date is in no year, no season and no rhythm of a customer."),
    ("required", "quantity", "Without a quantity there are no bottles to count."),
    ("required", "amount", "Revenue is computed from an amount or a unit price; one of them must be there."),
    ("date", "sale_date", "A column of dates that stops looking like dates was exported with another setting."),
    ("number", "quantity", "Text in a column of quantities means that columns have moved."),
    ("number", "amount", "Text in a column of amounts means that columns have moved, or another currency sign."),
    ("postal_code", "postal_code", "Postal codes that turn into something else lose the department of a customer."),
)
PRODUCT_EXPECTED = (
    ("required", "label", "A product without a label cannot be recommended to anybody."),
    ("number", "price_ttc", "Upsells compare prices; text in this column means that columns have moved."),
    ("vintage", "vintage", "A vintage is a year, NM, SA or nothing; anything else is another column."),
)


def batch_suite(dataset: str, expected: Sequence[tuple[str, str, str]], shares: Mapping[str, float]) -> Suite:
    """The expectations of a dataset's newest file: a least share of rows for each."""
    made = [Expected("ExpectTableRowCountToBeBetween", "A file without a row says nothing.", {"min_value": 1})]
    for kind, column, why in expected:
        arguments = {"column": column, "mostly": shares[kind]}
        if kind == "required":
            made.append(Expected("ExpectColumnValuesToNotBeNull", why, arguments))
        else:
            made.append(Expected("ExpectColumnValuesToMatchRegex", why, {**arguments, "regex": SHAPES[kind]}))
    return Suite(
        f"landed_{dataset}",
        f"The newest file of {dataset}, as it was landed and before anything is computed from it: an export made with"
        " other settings shows here first. Rows that landing itself refused are left out.",
        tuple(made),
    )


@tenant_check(["raw", "files"])
def all_files_readable(context: dg.AssetCheckExecutionContext, tenant_run: TenantRun) -> dg.AssetCheckResult:
    """Every file was recognised and read, or a good one has replaced it since."""
    failing = failures(tenant_run.warehouse)
    lines = [f"* `{path}` ({status}) {reason}" for path, status, reason in failing]
    return dg.AssetCheckResult(
        passed=not failing,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "n_failing": len(failing),
            "n_allowed": 0,
            "failing": listed(lines),
        },
    )


@tenant_check(["raw", "files"], blocking=True)
def raw_rows_match_the_ledger(context: dg.AssetCheckExecutionContext, tenant_run: TenantRun) -> dg.AssetCheckResult:
    """Each content ever loaded, deleted files and copies under other names included, has once exactly the rows that
    the ledger counted when it was read, and no raw row is of a file that is not loaded. A breach is a fault of ours:
    nothing is built on it.
    """
    differing = tenant_run.warehouse.rows(
        f"""
        with loaded as (
            select file_id, dataset, min(path collate "C") as path, max(row_count) as rows, count(*) as n_lines
            from raw.files where status = 'loaded' group by file_id, dataset
        )
        select coalesce(loaded.path, found.file_id), coalesce(loaded.rows, 0), coalesce(found.n, 0),
            coalesce(loaded.n_lines, 0)
        from loaded full join ({ROWS_IN_RAW}) as found using (file_id, dataset)
        where loaded.rows is distinct from found.n or loaded.n_lines <> 1
        order by 1
        """
    )
    lines = [
        f"* `{path}`: {expected} in the ledger, {found} in the table"
        + (f", loaded {n_lines} times" if n_lines > 1 else "" if n_lines else ", of no loaded file")
        for path, expected, found, n_lines in differing
    ]
    return dg.AssetCheckResult(
        passed=not differing,
        severity=dg.AssetCheckSeverity.ERROR,
        metadata={"n_differing": len(differing), "n_allowed": 0, "differing": listed(lines)},
    )


@tenant_check(["raw", "file_reports"])
def every_loaded_file_has_its_report(
    context: dg.AssetCheckExecutionContext, tenant_run: TenantRun
) -> dg.AssetCheckResult:
    """How each loaded file was read can be looked up."""
    missing = tenant_run.warehouse.rows(
        "select path from raw.files where status = 'loaded'"
        ' and file_id not in (select file_id from raw.file_reports) order by path collate "C"'
    )
    return dg.AssetCheckResult(
        passed=not missing,
        severity=dg.AssetCheckSeverity.ERROR,
        metadata={"n_missing": len(missing), "n_allowed": 0, "missing": listed([f"* `{path}`" for (path,) in missing])},
    )


@tenant_check(["raw", "sales_lines"], name="landed_batch_expectations")
def sales_batch_expectations(context: dg.AssetCheckExecutionContext, tenant_run: TenantRun) -> dg.AssetCheckResult:
    """The newest sales file looks like sales: required values there, dates, numbers, postal codes fit."""
    shares = tenant_run.rules.landing.batch_shares.sales_lines.model_dump()
    return _batch_result(tenant_run, "sales_lines", SALES_BATCH, batch_suite("sales_lines", SALES_EXPECTED, shares))


@tenant_check(["raw", "products"], name="landed_batch_expectations")
def product_batch_expectations(context: dg.AssetCheckExecutionContext, tenant_run: TenantRun) -> dg.AssetCheckResult:
    """The newest product file looks like a catalogue: labels there, prices and vintages in shape."""
    shares = tenant_run.rules.landing.batch_shares.products.model_dump()
    return _batch_result(tenant_run, "products", PRODUCT_BATCH, batch_suite("products", PRODUCT_EXPECTED, shares))


def _batch_result(run: run_context.TenantRun, dataset: str, statement: str, suite: Suite) -> dg.AssetCheckResult:
    """The verdict on a dataset's newest file, or on a sample of a large one's rows."""
    newest = run.warehouse.rows(
        "select file_id, path, row_count from raw.files where status = 'loaded' and dataset = %s"
        ' order by order_key collate "C" desc, file_id collate "C" desc limit 1',
        [dataset],
    )
    if not newest:
        return dg.AssetCheckResult(passed=True, severity=dg.AssetCheckSeverity.WARN, metadata={"n_files": 0})
    file_id, path, row_count = newest[0]
    step = max(math.ceil(row_count / run.rules.landing.batch_sample), 1)
    frame = run.warehouse.query(statement, [file_id, step])
    return judged(run, frame, suite, dg.AssetCheckSeverity.WARN, file=path, n_rows=row_count)


MAX_LISTED = 100


def listed(lines: Sequence[str]) -> dg.MarkdownMetadataValue:
    """Lines of Markdown, the first hundred of them; a word where there is none."""
    more = [f"\n… and {len(lines) - MAX_LISTED} more"] if len(lines) > MAX_LISTED else []
    return dg.MetadataValue.md("\n".join([*lines[:MAX_LISTED], *more]) or "none")


# --- how old a dataset's newest file is

FRESH = "is_fresh"
FRESHNESS_DATASETS = [name for name in tables.RAW_TABLES if name != "aliases"]  # written by hand, when needed

# The newest day each dataset speaks of, never after the as-of date: what is dated later says nothing of today.
NEWEST_DAYS = """
    select distinct on (dataset) dataset, path,
        least(coalesce(least(last_date, file_date), modified_at::date), %(as_of)s) as day
    from raw.files
    where status = 'loaded' and (first_date is null or first_date <= %(as_of)s)
    order by dataset, day desc, order_key collate "C" desc
"""


@dg.multi_asset_check(
    name="raw_files_are_fresh",
    specs=[
        check_spec(
            ["raw", name],
            FRESH,
            "The newest file of the dataset is not too old: days from the newest date inside it, else in its name, else"
            " of its last change, to the as-of date of the run. Amber: somebody should export again. Red: what is"
            " computed from it is no longer of today.",
        )
        for name in FRESHNESS_DATASETS
    ],
    can_subset=True,
)
def raw_files_are_fresh(context: dg.AssetCheckExecutionContext, tenant_run: TenantRun) -> Iterator[dg.AssetCheckResult]:
    """Ages by dataset, from the ledger alone.

    Checks, and not Dagster's FreshnessPolicy: that one measures when an asset was materialised against the wall
    clock, for all partitions alike. Here a refresh that lands nothing new must not look fresh, an estate's as-of date
    may be fixed or in the past, and each estate has tolerances of its own.
    """
    newest = {
        dataset: (path, day)
        for dataset, path, day in tenant_run.warehouse.rows(NEWEST_DAYS, {"as_of": tenant_run.as_of})
    }
    for key in context.selected_asset_check_keys:
        dataset = key.asset_key.path[-1]
        yield _freshness(dataset, newest.get(dataset), tenant_run)._replace(
            check_name=key.name, asset_key=key.asset_key
        )


def freshness_limits(dataset: str, run: run_context.TenantRun) -> tuple[int | None, int | None]:
    """(days from which a dataset is amber, days from which it is red); None: never.

    Sales follow the circuit breaker, amber where STALE_SALES begins to count and red where it closes the gate; stock
    is amber where its quantities are taken for unknown.
    """
    rules = run.rules
    if dataset == "sales_lines":
        breaker = rules.circuit_breaker
        return breaker.stale_after_days, breaker.stale_after_days + breaker.stale_span_days
    if dataset == "stock":
        return rules.products.stock_max_age_days, rules.landing.freshness.stock.error_days
    limits = getattr(rules.landing.freshness, dataset)
    return limits.warn_days, limits.error_days


def _freshness(dataset: str, newest: tuple[str, date] | None, run: run_context.TenantRun) -> dg.AssetCheckResult:
    warn_days, error_days = freshness_limits(dataset, run)
    limits = {
        "amber_after_days": "never" if warn_days is None else warn_days,
        "red_after_days": "never" if error_days is None else error_days,
        "as_of": run.as_of.isoformat(),
    }
    if newest is None:
        is_needed = dataset in run.rules.landing.needed_datasets
        verdict = f"no {dataset} file has ever been loaded" + ("" if is_needed else "; the estate may do without")
        return dg.AssetCheckResult(
            passed=not is_needed,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={"verdict": verdict, "n_files": 0, **limits},
        )
    path, day = newest
    age = (run.as_of - day).days
    is_red = error_days is not None and age > error_days
    is_amber = warn_days is not None and age > warn_days
    return dg.AssetCheckResult(
        passed=not (is_red or is_amber),
        severity=dg.AssetCheckSeverity.ERROR if is_red else dg.AssetCheckSeverity.WARN,
        metadata={
            "verdict": f"the newest {dataset} file speaks of {day}, {age} days before {run.as_of}",
            "age_days": age,
            "newest_file": path,
            "newest_day": day.isoformat(),
            **limits,
        },
    )


# --- the newest file against the files before it

VOLUME, SCHEMA = "volume_is_usual", "schema_is_unchanged"
VOLUME_DATASETS = FRESHNESS_DATASETS
_COMPARED = [("audit", "newest_files"), ("audit", "schema_changes")]


@dg.multi_asset_check(
    name="raw_files_against_their_past",
    specs=[
        *(
            check_spec(
                ["raw", name],
                VOLUME,
                "The newest file is about as large as its history lets expect: sales by rows per covered day against"
                " the same days a year before, else against the last files; other exports by rows against the last"
                " files. A catalogue that halves is a broken export more often than a sold-out cellar. Compared by a"
                " refresh: a landing alone shows the last comparison again.",
                additional_deps=_COMPARED,
            )
            for name in VOLUME_DATASETS
        ),
        *(
            check_spec(
                ["raw", name],
                SCHEMA,
                "The newest file has every field that the file before it had; what appeared, vanished or goes by"
                " another header is named. Compared by a refresh: a landing alone shows the last comparison again.",
                additional_deps=_COMPARED,
            )
            for name in tables.RAW_TABLES
        ),
    ],
    can_subset=True,
)
def raw_files_against_their_past(
    context: dg.AssetCheckExecutionContext, tenant_run: TenantRun
) -> Iterator[dg.AssetCheckResult]:
    """Volume and columns of each dataset's newest file, as `audit.newest_files` and `audit.schema_changes` have them.

    VOLUME_DROP and SCHEMA_DRIFT of the circuit breaker read the same two tables.
    """
    warehouse = tenant_run.warehouse
    schema = f"audit{warehouse.schema_suffix}"
    is_built = warehouse.rows("select to_regclass(%s) is not null", [f"{schema}.schema_changes"])[0][0]
    newest, changes = {}, {}
    if is_built:
        newest = {row.dataset: row for row in warehouse.read("audit", "newest_files").itertuples()}
        changes = dict(list(warehouse.read("audit", "schema_changes", order_by='name collate "C"').groupby("dataset")))
    for key in context.selected_asset_check_keys:
        dataset = key.asset_key.path[-1]
        if dataset not in newest:
            reason = f"no {dataset} file has been compared yet"
            result = dg.AssetCheckResult(passed=True, metadata={"verdict": reason, "n_files": 0})
        elif key.name == VOLUME:
            result = _volume(newest[dataset], tenant_run)
        else:
            result = _schema(newest[dataset], changes.get(dataset))
        yield result._replace(check_name=key.name, asset_key=key.asset_key)


def _volume(newest: Any, run: run_context.TenantRun) -> dg.AssetCheckResult:
    allowed = getattr(run.rules.landing.max_shortfall, newest.dataset)
    shown = {"newest_file": newest.path, "n_rows": int(newest.row_count), "shortfall_allowed": allowed}
    if math.isnan(newest.expected_volume) or newest.expected_volume <= 0:
        verdict = "there is no earlier file to compare it with"
        return dg.AssetCheckResult(passed=True, metadata={"verdict": verdict, **shown})
    shortfall = round(max(0.0, 1 - newest.volume / newest.expected_volume), 6)
    # From there on VOLUME_DROP scores 0, which closes the gate.
    red_from = run.rules.circuit_breaker.tolerances["VOLUME_DROP"].tolerance
    is_red = newest.dataset == "sales_lines" and shortfall >= red_from
    expected = f"{newest.compared_with} lets expect {newest.expected_volume:.4g}"
    return dg.AssetCheckResult(
        passed=shortfall <= allowed and not is_red,
        severity=dg.AssetCheckSeverity.ERROR if is_red else dg.AssetCheckSeverity.WARN,
        metadata={
            "verdict": f"{newest.volume:.4g} {newest.volume_unit} where {expected}",
            "measured": float(newest.volume),
            "expected": float(newest.expected_volume),
            "ratio": float(newest.volume / newest.expected_volume),
            "shortfall": shortfall,
            "compared_with": newest.compared_with,
            "n_files_compared": int(newest.n_files_compared),
            **({"red_from_shortfall": red_from} if newest.dataset == "sales_lines" else {}),
            **shown,
        },
    )


def _schema(newest: Any, changes: Any) -> dg.AssetCheckResult:
    if changes is None:
        return dg.AssetCheckResult(
            passed=True,
            metadata={"verdict": "there is no earlier file to compare it with", "newest_file": newest.path},
        )
    fields, headers = (changes[changes["kind"].eq(kind)] for kind in ("field", "unmapped header"))
    gone, new, renamed = (fields[fields["change"].eq(change)] for change in ("gone", "new", "renamed"))
    n_before = int(fields["change"].ne("new").sum())
    named = ", ".join(
        f"{name} (was `{header}`)" for name, header in zip(gone["name"], gone["previous_header"], strict=True)
    )
    return dg.AssetCheckResult(
        passed=gone.empty,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "verdict": f"{len(gone)} of {n_before} fields are gone" + (f": {named}" if named else ""),
            "newest_file": newest.path,
            "previous_file": newest.previous_path,
            "n_fields_gone": len(gone),
            "n_allowed": 0,
            "fields_gone": _names(gone["name"]),
            "fields_new": _names(new["name"]),
            "fields_under_another_header": _names(
                renamed["name"] + ": " + renamed["previous_header"] + " → " + renamed["newest_header"]
            ),
            "unmapped_headers_gone": _names(headers.loc[headers["change"].eq("gone"), "name"]),
            "unmapped_headers_new": _names(headers.loc[headers["change"].eq("new"), "name"]),
        },
    )


def _names(names: Any) -> str:
    """Names of columns in a line; a word where there is none."""
    shown = [str(name)[:60] for name in names[:MAX_LISTED]]
    return ", ".join(shown + ([f"… and {len(names) - MAX_LISTED} more"] if len(names) > MAX_LISTED else [])) or "none"
