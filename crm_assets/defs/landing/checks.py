"""Checks of the drop folder itself."""

import dagster as dg

from crm_assets.defs.common import TenantRun, tenant_check
from crm_assets.resources.drop_zone import DropZoneError


@tenant_check(["landing", "files"])
def drop_folder_is_there_and_quiet(
    context: dg.AssetCheckExecutionContext, tenant_run: TenantRun
) -> dg.AssetCheckResult:
    """The drop folder can be seen, and no file in it was still being written when it was looked at."""
    try:
        with tenant_run.drop_zone() as zone:
            exists = zone.exists()
    except DropZoneError as error:
        context.log.warning(f"the drop folder cannot be read: {error}")
        exists = False
    waiting = [path for (path,) in tenant_run.warehouse.rows("select path from raw.files where status = 'waiting'")]
    return dg.AssetCheckResult(
        passed=exists and not waiting,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "folder_is_there": exists,
            "n_waiting": len(waiting),
            "waiting": sorted(waiting),
            "n_waiting_allowed": 0,
        },
    )
