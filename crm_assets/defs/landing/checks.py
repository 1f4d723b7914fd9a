"""Checks of the drop folder itself, and of the rules that a refresh computes with."""

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


@tenant_check(["landing", "parameters"], blocking=True)
def rules_are_those_of_the_run(context: dg.AssetCheckExecutionContext, tenant_run: TenantRun) -> dg.AssetCheckResult:
    """SQL reads the rules and the as-of date of this run and no other: else it would compute another day, or with
    other numbers, and call it this one's. A difference is a fault of ours.
    """
    table = f"landing{tenant_run.warehouse.schema_suffix}.parameters"
    found = dict(
        tenant_run.warehouse.rows(
            f"select name, value #>> '{{}}' from {table} where name in ('as_of', 'rules_version')"
        )
    )
    expected = {"as_of": tenant_run.as_of.isoformat(), "rules_version": tenant_run.rules.version}
    return dg.AssetCheckResult(
        passed=found == expected,
        severity=dg.AssetCheckSeverity.ERROR,
        metadata={
            "n_rules": int(tenant_run.warehouse.rows(f"select count(*) from {table}")[0][0]),
            **{f"{name}_of_the_run": value for name, value in expected.items()},
            **{f"{name}_in_sql": found.get(name, "missing") for name in expected},
        },
    )
