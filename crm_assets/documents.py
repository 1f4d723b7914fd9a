"""Exports and reports of a run, from a tenant's database to files. Shared by Dagster and by `crm export`.

What stands in the files is decided in `logic/exports.py` and `logic/reports.py`; files are written whole or
not at all, and the same run gives the same bytes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any

import pandas as pd

from crm_assets import gating
from crm_assets.logic import exports, reports
from crm_assets.resources.warehouse import Warehouse
from crm_assets.rules import BusinessRules
from crm_assets.settings import ROOT
from crm_assets.tenants import Tenant

REPORT_NAME = "weekly_report"


def decision_of(warehouse: Warehouse, run_id: str) -> dict[str, Any]:
    """The row of gate.decisions of a run; LookupError when the run never reached the gate."""
    found = warehouse.read("gate", "decisions", where="run_id = %s", params=[run_id])
    if found.empty:
        raise LookupError(f"run {run_id} has no decision of the gate")
    return {str(name): value for name, value in found.to_dict("records")[0].items()}


def folder_of(tenant: Tenant, home: Path, *parts: str) -> Path:
    """Where documents for the estate's people go: the folder its file names, else `CRM_HOME/exports/<slug>/`."""
    own = tenant.reports.folder
    return (ROOT / Path(own).expanduser() if own else home / "exports" / tenant.slug).joinpath(*parts)


def written(paths: Iterable[Path], home: Path, now: datetime, **more: Any) -> pd.DataFrame:
    """Rows of a table of documents (all but run_id): `path` relative to CRM_HOME where it lies below it."""
    rows = []
    for path in paths:
        content = path.read_bytes()
        shown = path.relative_to(home) if path.is_relative_to(home) else path
        row = {"path": shown.as_posix(), "sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}
        rows.append({**row, "written_at": now, **more})
    return pd.DataFrame(rows)


def missing_or_changed(documents: pd.DataFrame, home: Path) -> list[str]:
    """The documents that no longer lie where their table says, with the bytes it says."""
    return [
        path
        for path, sha256 in documents[["path", "sha256"]].itertuples(index=False)
        if not (home / path).is_file() or hashlib.sha256((home / path).read_bytes()).hexdigest() != sha256
    ]


def write_whole(path: Path, content: bytes) -> Path:
    """Write a file so that nobody ever sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_bytes(content)
    scratch.replace(path)
    return path


def _of_run(warehouse: Warehouse, schema: str, name: str, run_id: str, columns: list[str]) -> pd.DataFrame:
    return warehouse.read(schema, name, columns, "run_id = %s", [run_id])


def export_run(warehouse: Warehouse, run_id: str, directory: Path) -> list[Path]:
    """Write the four export files of a run, as CSV and as JSON, into `directory`."""
    # fmt: off
    frames = exports.run_exports(
        items=gating.listed_items(warehouse, run_id, [
            "customer_id", "scenario", "rank", "product_key", "score", "explain_short"]),
        findings=_of_run(warehouse, "audit", "findings", run_id, [
            "customer_id", "severity", "rule_code", "rule_no", "product_key", "details"]),
        actions=_of_run(warehouse, "gate", "next_actions", run_id, [
            "customer_id", "client_code", "eligible", "reason", "scenario", "audit_score",
            "permission_reason"]),
        decision=decision_of(warehouse, run_id),
    )
    # fmt: on
    return [write_whole(directory / name, content) for name, content in exports.files(frames).items()]


# Of outcomes.campaign_results: the row of a whole occurrence.
WHOLE_OCCURRENCE = "dimension = 'all' and occurrence <> '*'"


def _where_built(warehouse: Warehouse, schema: str, name: str, columns: list[str], where: str = "true") -> pd.DataFrame:
    """A table of a stage that may never have run for this estate: then none of its rows."""
    if warehouse.rows("select to_regclass(%s)", [f"{schema}.{name}"])[0][0] is None:
        return pd.DataFrame(columns=columns)
    return warehouse.read(schema, name, columns, where)


def _previous(
    warehouse: Warehouse, rules: BusinessRules, decision: dict[str, Any]
) -> tuple[reports.Previous, Any] | None:
    """The run that a report compares with, and when it was decided."""
    found = warehouse.query(
        "select run_id, as_of, n_eligible, data_quality_score, decided_at,"
        " (select max(n_at_risk) from reports.weekly_reports told where told.run_id = decisions.run_id) as at_risk"
        " from gate.decisions where not is_historical and as_of <= %s::date - %s::integer"
        ' order by as_of desc, decided_at desc, run_id collate "C" limit 1',
        [decision["as_of"], rules.reports.previous_min_days],
    )
    if found.empty:
        return None
    row = found.to_dict("records")[0]
    previous = reports.Previous(
        run_id=row["run_id"],
        as_of=row["as_of"].date(),
        n_eligible=int(row["n_eligible"]),
        at_risk=None if pd.isna(row["at_risk"]) else int(row["at_risk"]),
        data_quality_score=float(row["data_quality_score"]),
    )
    return previous, row["decided_at"]


def weekly_report(warehouse: Warehouse, tenant: Tenant, rules: BusinessRules, run_id: str) -> reports.WeeklyReport:
    """The figures of a run's weekly report, compared with the newest run at least six days before."""
    decision = decision_of(warehouse, run_id)
    found = _previous(warehouse, rules, decision)
    previous, decided_at = found or (None, None)
    # fmt: off
    tables = reports.Tables(
        actions=_of_run(warehouse, "gate", "next_actions", run_id, [
            "customer_id", "client_code", "permission_reason", "scenario", "eligible", "reason"]),
        items=gating.listed_items(warehouse, run_id, [
            "customer_id", "rank", "product_key", "score", "explain_short"]),
        products=warehouse.read("curated", "dim_products", ["product_key", "wine_id", "label"]),
        people=warehouse.read("curated", "dim_customers", [
            "customer_id", "client_code", "last_name", "first_name", "full_name"]),
        planned=warehouse.query(
            "select c.campaign, c.occurrence, c.audience - c.holdout as messages, c.holdout,"
            " (select count(*) from activation.batches b"
            " where (b.campaign, b.occurrence, b.step) = (c.campaign, c.occurrence, c.step)) as batches"
            " from activation.campaigns c where c.run_id = %s",
            [run_id],
        ),
        # The same lines and orders as in kpis.monthly_sales, by day.
        revenue=warehouse.query(
            "select revenue_date as day, sum(amount_ht) as amount_ht from curated.known_sales_lines"
            " where revenue_date <= %s group by revenue_date", [decision["as_of"]]),
        orders=warehouse.query(
            "select order_date as day, count(*) as orders, sum(amount_ht) as amount_ht from curated.fct_orders"
            " where is_qualifying and customer_id not in"
            " (select customer_id from curated.dim_customers where is_collective) group by order_date"),
        rfm=warehouse.read("rfm", "customer_rfm", [
            "customer_id", "segment", "monetary", "mean_interval_days", "first_order_date", "last_order_date"]),
        segment_moves=_where_built(warehouse, "kpis", "rfm_transitions", [
            "from_segment", "to_segment", "customers"], "span = 'week'"),
        cluster_moves=_where_built(warehouse, "kpis", "cluster_transitions", [
            "population", "from_cluster_id", "from_cluster_name", "to_cluster_id", "to_cluster_name", "customers"],
            "span = 'week'"),
        clusters=warehouse.read("customers", "cluster_profiles", [
            "population", "cluster_id", "cluster_name", "size", "share", "frequency", "monetary"]),
        churning=warehouse.read("customers", "predictions", ["customer_id", "expected_value_365d"], "is_churning"),
        anomaly_counts=_where_built(warehouse, "kpis", "anomaly_counts", [
            "kind", "found", "examined", "high", "is_over", "value_at_stake_ht"]),
        anomalies=_where_built(warehouse, "kpis", "anomalies", [
            "kind", "subject_type", "subject_id", "measure", "measured", "expected", "severity",
            "value_at_stake_ht"]),
        results=_where_built(warehouse, "outcomes", "campaign_results", [
            "campaign", "occurrence", "holdout", "sent", "delivered", "opened", "clicked", "bounced",
            "unsubscribed", "ordered", "converted", "revenue_ht", "last_sent_on", "final_on", "is_final"],
            WHOLE_OCCURRENCE),
        uplift=_where_built(warehouse, "outcomes", "campaign_uplift", [
            "campaign", "occurrence", "treated", "treated_ordered", "held_out", "held_out_ordered", "uplift",
            "uplift_low", "uplift_high", "is_final"], "scope = 'occurrence'"),
        quarters=_where_built(warehouse, "outcomes", "campaign_uplift", [
            "quarter", "treated", "treated_ordered", "held_out", "held_out_ordered", "uplift", "uplift_low",
            "uplift_high", "is_final"], "scope = 'quarter'"),
        arms=_where_built(warehouse, "outcomes", "campaign_arms", [
            "campaign", "occurrence", "measure", "arm", "other_arm", "sent", "share", "other_sent", "other_share",
            "more", "is_final"]),
        files=warehouse.read("raw", "files", [
            "file_id", "path", "dataset", "status", "reason", "row_count"],
            "deleted_at is null and first_seen_at > coalesce(%s::timestamptz, '-infinity')", [decided_at]),
        refused=warehouse.query(
            "select file_id, codes, count(*) as rows from curated.quarantined_rows"
            " where resolved_by is null group by file_id, codes"),
        quality=_of_run(warehouse, "audit", "data_quality", run_id, [
            "check_code", "severity", "bad", "total", "tolerance", "score"]),
        backtests=_of_run(warehouse, "recommendations", "backtests", run_id, [
            "part", "engine", "top", "cut", "window_days", "customers", "hit_rate", "is_serving"]),
    )
    # fmt: on
    return reports.weekly(tenant, rules, decision, previous, tables)


def write_report(report: reports.WeeklyReport, locale: str, directory: Path) -> tuple[list[Path], str]:
    """Write the report into `directory` as a page, as PDF and as a workbook; and why there is no PDF, or ''."""
    from crm_assets.logic import report_page, report_workbook

    return write_forms(
        directory / REPORT_NAME,
        report_page.html_of(report, locale),
        title=report_page.title_of(report, locale),
        locale=locale,
        as_of=report.as_of,
        workbook=lambda made_at: report_workbook.weekly_workbook(report, locale, made_at),
    )


def write_forms(
    stem: Path, html: str, *, title: str, locale: str, as_of: date, workbook: Callable[[datetime], bytes]
) -> tuple[list[Path], str]:
    """Write a report's three forms, `stem` with .html, .pdf and .xlsx; and why there is no PDF, or ''.

    They bear the day that they tell of, not the clock's: the same run gives the same bytes.
    """
    from crm_assets.pdf import PdfUnavailableError, pdf_of

    forms, missing = {".html": html.encode(), ".xlsx": workbook(datetime.combine(as_of, time(), UTC))}, ""
    try:
        forms[".pdf"] = pdf_of(html, title=title, locale=locale, as_of=as_of)
    except PdfUnavailableError as error:
        missing = str(error)
    return [write_whole(stem.with_suffix(suffix), content) for suffix, content in sorted(forms.items())], missing
