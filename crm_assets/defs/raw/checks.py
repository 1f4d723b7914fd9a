"""Checks of what was landed: files that failed, rows against the ledger, and the newest batch's shape.

The batch's expectations are Great Expectations'. Importing it costs seconds, so it happens inside the check,
and only for a batch that this check has not judged before under the same rules. No value is ever shown.
"""

import math
from collections.abc import Mapping
from typing import Any

import dagster as dg

from crm_assets import run_context
from crm_assets.defs.common import TenantRun, tenant_check
from crm_assets.resources.raw_store import failures

DATE_SHAPE = r"^\s*(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.](\d{4}|\d{2}))([ T].*)?\s*$"
NUMBER_SHAPE = r"^\s*\(?\s*[-+−]?\s*\d[\d\s.,'’  ]*\s*(€|EUR)?\s*\)?\s*$"
POSTAL_CODE_SHAPE = r"^\s*[0-9A-Za-z][0-9A-Za-z -]{1,9}\s*$"
VINTAGE_SHAPE = r"^\s*((19|20)\d\d|NM|SA)?\s*$"

# Per raw table: the columns of the batch, as SQL over its rows, and what each must be: kind -> columns.
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
SALES_KINDS = {
    "required": ["client_code", "product", "sale_date", "quantity", "amount"],
    "date": ["sale_date"],
    "number": ["quantity", "amount"],
    "postal_code": ["postal_code"],
}
PRODUCT_KINDS = {"required": ["label"], "number": ["price_ttc"], "vintage": ["vintage"]}
SHAPES = {
    "date": DATE_SHAPE,
    "number": NUMBER_SHAPE,
    "postal_code": POSTAL_CODE_SHAPE,
    "vintage": VINTAGE_SHAPE,
}


@tenant_check(["raw", "files"])
def all_files_readable(context: dg.AssetCheckExecutionContext, tenant_run: TenantRun) -> dg.AssetCheckResult:
    """Every file was recognised and read, or a good one has replaced it since."""
    failing = failures(tenant_run.warehouse)
    listed = "\n".join(f"* `{path}` ({status}) {reason}" for path, status, reason in failing)
    return dg.AssetCheckResult(
        passed=not failing,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "n_failing": len(failing),
            "n_allowed": 0,
            "failing": dg.MetadataValue.md(listed or "none"),
        },
    )


@tenant_check(["raw", "files"])
def raw_rows_match_the_ledger(context: dg.AssetCheckExecutionContext, tenant_run: TenantRun) -> dg.AssetCheckResult:
    """Each loaded file has exactly the rows in its raw table that the ledger counted when it was read."""
    differing = tenant_run.warehouse.rows(
        """
        select files.path, files.row_count, coalesce(found.n, 0)
        from raw.files
        left join (
            select file_id, 'sales_lines' as dataset, count(*) as n from raw.sales_lines group by 1
            union all select file_id, 'customers', count(*) from raw.customers group by 1
            union all select file_id, 'products', count(*) from raw.products group by 1
            union all select file_id, 'stock', count(*) from raw.stock group by 1
            union all select file_id, 'contacts', count(*) from raw.contacts group by 1
            union all select file_id, 'aliases', count(*) from raw.aliases group by 1
        ) as found using (file_id, dataset)
        where files.status = 'loaded' and files.row_count is distinct from coalesce(found.n, 0)
        order by files.path collate "C"
        """
    )
    listed = "\n".join(
        f"* `{path}`: {expected} in the ledger, {found} in the table" for path, expected, found in differing
    )
    return dg.AssetCheckResult(
        passed=not differing,
        severity=dg.AssetCheckSeverity.ERROR,
        metadata={
            "n_differing": len(differing),
            "n_allowed": 0,
            "differing": dg.MetadataValue.md(listed or "none"),
        },
    )


@tenant_check(["raw", "sales_lines"], name="landed_batch_expectations")
def sales_batch_expectations(context: dg.AssetCheckExecutionContext, tenant_run: TenantRun) -> dg.AssetCheckResult:
    """The newest sales file looks like sales: required values there, dates, numbers, postal codes fit."""
    shares = tenant_run.rules.landing.batch_shares.sales_lines.model_dump()
    return _batch_result(context, tenant_run, "sales_lines", SALES_BATCH, SALES_KINDS, shares)


@tenant_check(["raw", "products"], name="landed_batch_expectations")
def product_batch_expectations(context: dg.AssetCheckExecutionContext, tenant_run: TenantRun) -> dg.AssetCheckResult:
    """The newest product file looks like a catalogue: labels there, prices and vintages in shape."""
    shares = tenant_run.rules.landing.batch_shares.products.model_dump()
    return _batch_result(context, tenant_run, "products", PRODUCT_BATCH, PRODUCT_KINDS, shares)


def _batch_result(
    context: dg.AssetCheckExecutionContext,
    run: run_context.TenantRun,
    dataset: str,
    statement: str,
    kinds: Mapping[str, list[str]],
    shares: Mapping[str, float],
) -> dg.AssetCheckResult:
    """The verdict on a dataset's newest file; the last one again where file and rules are the same."""
    newest = run.warehouse.rows(
        "select file_id, path, row_count from raw.files where status = 'loaded' and dataset = %s"
        ' order by order_key collate "C" desc, file_id collate "C" desc limit 1',
        [dataset],
    )
    if not newest:
        return dg.AssetCheckResult(passed=True, severity=dg.AssetCheckSeverity.WARN, metadata={"n_files": 0})
    file_id, path, row_count = newest[0]
    judged = {"file": path, "file_id": file_id, "rules_version": run.rules.version}
    before = _last_verdict(context, dg.AssetCheckKey(dg.AssetKey(["raw", dataset]), "landed_batch_expectations"))
    if before is not None and all(_text(before.metadata.get(key)) == value for key, value in judged.items()):
        return dg.AssetCheckResult(passed=before.passed, severity=before.severity, metadata=before.metadata)
    step = max(math.ceil(row_count / run.rules.landing.batch_sample), 1)
    frame = run.warehouse.query(statement, [file_id, step])
    measures = measure_batch(frame, kinds, shares)
    table = ["| expectation | measured | at least |", "|---|---:|---:|"]
    table += [f"| {name} | {measured:.4f} | {least:.4f} |" for name, measured, least, _ in measures]
    return dg.AssetCheckResult(
        passed=all(passed for *_, passed in measures),
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            **judged,
            "n_rows": row_count,
            "n_rows_measured": len(frame),
            "n_failed": sum(not passed for *_, passed in measures),
            "expectations": dg.MetadataValue.md("\n".join(table)),
        },
    )


def measure_batch(
    frame: Any, kinds: Mapping[str, list[str]], shares: Mapping[str, float]
) -> list[tuple[str, float, float, bool]]:
    """(expectation, measured share or count, least allowed, passed) of a batch, by Great Expectations."""
    import great_expectations as gx
    import great_expectations.expectations as gxe
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    asset = context.data_sources.add_pandas("landed").add_dataframe_asset("batch")
    batch = asset.add_batch_definition_whole_dataframe("whole").get_batch({"dataframe": frame})
    expected: list[tuple[str, float, Any]] = [
        ("rows", 1.0, gxe.ExpectTableRowCountToBeBetween(min_value=1)),
    ]
    for kind, columns in kinds.items():
        for column in columns:
            if kind == "required":
                expectation: Any = gxe.ExpectColumnValuesToNotBeNull(column=column, mostly=shares[kind])
            else:
                expectation = gxe.ExpectColumnValuesToMatchRegex(column=column, regex=SHAPES[kind], mostly=shares[kind])
            expected.append((f"{column}: {kind}", shares[kind], expectation))
    measures = []
    for name, least, expectation in expected:
        result = batch.validate(expectation, result_format={"result_format": "BASIC", "partial_unexpected_count": 0})
        percent = result.result.get("unexpected_percent")
        measured = 1.0 - (percent or 0.0) / 100 if name != "rows" else float(result.result["observed_value"])
        measures.append((name, measured, least, bool(result.success)))
    return measures


def _last_verdict(context: dg.AssetCheckExecutionContext, key: dg.AssetCheckKey) -> Any:
    """This check's last evaluation for the tenant, or None."""
    from dagster._core.event_api import PartitionKeyFilter  # no public way to ask for one partition's verdict
    from dagster._core.storage.asset_check_execution_record import (
        COMPLETED_ASSET_CHECK_EXECUTION_RECORD_STATUSES,
    )

    records = context.instance.event_log_storage.get_asset_check_execution_history(
        key,
        limit=1,
        status=COMPLETED_ASSET_CHECK_EXECUTION_RECORD_STATUSES,
        partition_filter=PartitionKeyFilter(key=context.partition_key),
    )
    return records[0].event.asset_check_evaluation if records and records[0].event else None


def _text(value: Any) -> Any:
    return value.value if isinstance(value, dg.MetadataValue) else value
