"""The exports and the weekly report of the gate in force, as files, and the table that lists them."""

import hashlib
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd

from crm_assets import activation, documents, tables
from crm_assets.defs.common import TenantRun, materialized, tenant_asset


def _row(run_id: str, kind: str, path: Path, home: Path) -> dict[str, Any]:
    content = path.read_bytes()
    return {
        "run_id": run_id,
        "kind": kind,
        "path": path.relative_to(home).as_posix(),
        "sha256": hashlib.sha256(content).hexdigest(),
        "size_bytes": len(content),
    }


@tenant_asset(
    tables.reports_written,
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
def reports_documents(context: dg.AssetExecutionContext, tenant_run: TenantRun) -> dg.MaterializeResult[Any]:
    """The four export files (CSV and JSON) and the weekly report, under
    `CRM_HOME/exports/<tenant>/<run_id>/`.
    """
    gate = activation.gate_in_force(tenant_run.warehouse)
    if gate is None:
        raise dg.Failure("no run has passed the gate yet: there is nothing to report")
    tenant, home = tenant_run.tenant, tenant_run.home
    folder = home / "exports" / tenant.slug / gate.run_id
    exported = documents.export_run(tenant_run.warehouse, gate.run_id, folder)
    report = documents.write_report(tenant_run.warehouse, tenant, tenant_run.rules, gate.run_id, folder)
    rows = [_row(gate.run_id, "export", path, home) for path in exported]
    rows.append(_row(gate.run_id, "weekly_report", report, home))
    tenant_run.warehouse.replace_run(tables.reports_written, pd.DataFrame(rows), gate.run_id)
    return materialized(
        len(rows),
        run=tenant_run,
        run_id=gate.run_id,
        weekly_report=dg.MetadataValue.path(str(report)),
        bytes=sum(row["size_bytes"] for row in rows),
    )
