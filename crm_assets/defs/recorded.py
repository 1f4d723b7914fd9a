"""What assets that write documents share: the gate that they tell of, their files in the UI, the light that these are
unchanged.

No document is written here, and none is read but for its bytes.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import sqlalchemy as sa

from crm_assets import activation, documents
from crm_assets.defs.common import TenantRun, tenant_check
from crm_assets.logic.activation import Gate
from crm_assets.resources.warehouse import Warehouse

# The UI speaks English, whatever the estate reads.
UI_LOCALE = "en"


def gate_in_force(tenant_run: TenantRun, purpose: str) -> Gate:
    """The gate that documents tell of; dg.Failure where there is nothing to `purpose`."""
    gate = activation.gate_in_force(tenant_run.warehouse)
    if gate is None:
        raise dg.Failure(f"no run has passed the gate yet: there is nothing to {purpose}")
    return gate


def links(written: Iterable[Path], missing: str) -> dict[str, Any]:
    """The forms of a report for the UI: kind -> path, and why one was not written."""
    shown: dict[str, Any] = {path.suffix.removeprefix("."): dg.MetadataValue.path(str(path)) for path in written}
    return {**shown, "not_written": missing} if missing else shown


def run_in_force(warehouse: Warehouse) -> str:
    """The run of the gate in force; '' before the first."""
    gate = activation.gate_in_force(warehouse)
    return gate.run_id if gate else ""


def recorded(warehouse: Warehouse, table: sa.Table, run_id: str) -> pd.DataFrame:
    """path, sha256 of the documents that a table has of a run."""
    assert table.schema is not None
    return warehouse.read(table.schema, table.name, ["path", "sha256"], "run_id = %s", [run_id])


def as_recorded(
    table: sa.Table, what: str, run_of: Callable[[Warehouse], str] = run_in_force
) -> dg.AssetChecksDefinition:
    """The check `<table>_are_as_recorded`: `what`, of the run that `run_of` finds, is there and unchanged."""

    @tenant_check(
        (table.schema or "", table.name),
        name=f"{table.name}_are_as_recorded",
        description=f"{what} lies where the table says, with the bytes it says.",
    )
    def are_as_recorded(context: dg.AssetCheckExecutionContext, tenant_run: TenantRun) -> dg.AssetCheckResult:
        found = recorded(tenant_run.warehouse, table, run_of(tenant_run.warehouse))
        wrong = documents.missing_or_changed(found, tenant_run.home)
        return dg.AssetCheckResult(
            passed=len(found) > 0 and not wrong,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={"documents": len(found), "missing_or_changed": ", ".join(wrong) or "none", "threshold": 0},
        )

    return are_as_recorded
