"""The export files of the gate in force, and whether they are what was recorded."""

import json
from typing import Any

import dagster as dg

from crm_assets import activation, documents, tables
from crm_assets.defs.common import TenantRun, materialized, tenant_asset, tenant_check


@tenant_asset(
    tables.exports_written,
    deps=[
        ("gate", "decisions"),
        ("gate", "next_actions"),
        ("recommendations", "items"),
        ("review", "applied_decisions"),
        ("audit", "findings"),
    ],
)
def reports_exports(context: dg.AssetExecutionContext, tenant_run: TenantRun) -> dg.MaterializeResult[Any]:
    """`reco_output`, `audit_output`, `next_action_output` and `run_summary` as CSV and as JSON (spec.md §6).

    The CSV opens in Excel with its accents; codes keep their leading zeros where their columns are read as text.
    """
    gate = activation.gate_in_force(tenant_run.warehouse)
    if gate is None:
        raise dg.Failure("no run has passed the gate yet: there is nothing to export")
    folder = documents.folder_of(tenant_run.tenant, tenant_run.home, gate.run_id)
    paths = documents.export_run(tenant_run.warehouse, gate.run_id, folder)
    rows = documents.written(paths, tenant_run.home, tenant_run.now)
    counts: dict[str, Any] = {
        f"rows_{path.stem}": len(json.loads(path.read_bytes())) for path in paths if path.suffix == ".json"
    }
    tenant_run.warehouse.replace_run(tables.exports_written, rows.assign(run_id=gate.run_id), gate.run_id)
    return materialized(
        len(rows),
        run=tenant_run,
        run_id=gate.run_id,
        folder=dg.MetadataValue.path(str(folder)),
        bytes=int(rows["size_bytes"].sum()),
        **counts,
    )


@tenant_check(("reports", "exports"), name="exports_are_as_recorded")
def exports_are_as_recorded(context: dg.AssetCheckExecutionContext, tenant_run: TenantRun) -> dg.AssetCheckResult:
    """Each export file of the run in force lies where the table says, with the bytes it says."""
    gate = activation.gate_in_force(tenant_run.warehouse)
    found = tenant_run.warehouse.read(
        "reports", "exports", ["path", "sha256"], "run_id = %s", [gate.run_id if gate else ""]
    )
    wrong = documents.missing_or_changed(found, tenant_run.home)
    return dg.AssetCheckResult(
        passed=len(found) > 0 and not wrong,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"documents": len(found), "missing_or_changed": ", ".join(wrong) or "none", "threshold": 0},
    )
