"""The weekly report of the gate in force, and whether it is what was recorded."""

from typing import Any

import dagster as dg

from crm_assets import activation, documents, tables
from crm_assets.defs.common import TenantRun, materialized, tenant_asset, tenant_check


@tenant_asset(
    tables.weekly_reports,
    deps=[
        ("gate", "decisions"),
        ("gate", "next_actions"),
        ("recommendations", "items"),
        ("recommendations", "backtests"),
        ("audit", "findings"),
        ("audit", "data_quality"),
        ("activation", "campaigns"),
        ("activation", "batches"),
        ("curated", "file_accounting"),
        ("raw", "files"),
        ("rfm", "customer_rfm"),
        ("customers", "cluster_profiles"),
        ("customers", "predictions"),
    ],
)
def reports_weekly_reports(context: dg.AssetExecutionContext, tenant_run: TenantRun) -> dg.MaterializeResult[Any]:
    """What an owner reads in two minutes, in the estate's language."""
    gate = activation.gate_in_force(tenant_run.warehouse)
    if gate is None:
        raise dg.Failure("no run has passed the gate yet: there is nothing to report")
    folder = documents.folder_of(tenant_run.tenant, tenant_run.home, gate.run_id)
    report = documents.write_report(tenant_run.warehouse, tenant_run.tenant, tenant_run.rules, gate.run_id, folder)
    year, week, _ = gate.as_of.isocalendar()
    rows = documents.written([report], tenant_run.home, tenant_run.now, week=f"{year}-W{week:02d}")
    tenant_run.warehouse.replace_run(tables.weekly_reports, rows.assign(run_id=gate.run_id), gate.run_id)
    return materialized(
        len(rows),
        run=tenant_run,
        run_id=gate.run_id,
        weekly_report=dg.MetadataValue.path(str(report)),
        bytes=int(rows["size_bytes"].sum()),
    )


@tenant_check(("reports", "weekly_reports"), name="weekly_reports_are_as_recorded")
def weekly_reports_are_as_recorded(
    context: dg.AssetCheckExecutionContext, tenant_run: TenantRun
) -> dg.AssetCheckResult:
    """Each file of the report of the run in force lies where the table says, with the bytes it says."""
    gate = activation.gate_in_force(tenant_run.warehouse)
    found = tenant_run.warehouse.read(
        "reports", "weekly_reports", ["path", "sha256"], "run_id = %s", [gate.run_id if gate else ""]
    )
    wrong = documents.missing_or_changed(found, tenant_run.home)
    return dg.AssetCheckResult(
        passed=len(found) > 0 and not wrong,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"documents": len(found), "missing_or_changed": ", ".join(wrong) or "none", "threshold": 0},
    )
