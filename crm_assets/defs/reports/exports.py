"""The export files of the gate in force, and whether they are what was recorded."""

import json
from typing import Any

import dagster as dg

from crm_assets import documents, tables
from crm_assets.defs.common import TenantRun, materialized, tenant_asset
from crm_assets.defs.recorded import as_recorded, gate_in_force


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
    gate = gate_in_force(tenant_run, "export")
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


exports_are_as_recorded = as_recorded(tables.exports_written, "Each export file of the run in force")
