"""Whether what was written still is what was recorded."""

import hashlib

import dagster as dg

from crm_assets import activation
from crm_assets.defs.common import TenantRun, tenant_check


@tenant_check(("reports", "documents"), name="documents_are_as_recorded")
def documents_are_as_recorded(context: dg.AssetCheckExecutionContext, tenant_run: TenantRun) -> dg.AssetCheckResult:
    """Each document of the run in force lies where the table says, with the bytes it says."""
    gate = activation.gate_in_force(tenant_run.warehouse)
    found = tenant_run.warehouse.rows(
        "select path, sha256 from reports.documents where run_id = %s", [gate.run_id if gate else ""]
    )
    wrong = [
        path
        for path, sha256 in found
        if not (tenant_run.home / path).is_file()
        or hashlib.sha256((tenant_run.home / path).read_bytes()).hexdigest() != sha256
    ]
    return dg.AssetCheckResult(
        passed=bool(found) and not wrong,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"documents": len(found), "missing_or_changed": ", ".join(wrong) or "none"},
    )
