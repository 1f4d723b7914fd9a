"""The export files as an asset: written where the estate says, counted, recorded, and missed when they are gone."""

from __future__ import annotations

import codecs
import json
from datetime import UTC, datetime
from pathlib import Path

from crm_assets import databases, documents, run_context
from crm_assets.defs.reports import exports
from crm_assets.resources.warehouse import Warehouse
from crm_assets.settings import Settings
from tests.integration.test_activation import warehouse as gated_estate
from tests.lights import metadata_of, run_for
from tests.logic import estate

warehouse = gated_estate


def test_the_files_of_the_gate_in_force_are_written_counted_and_watched(
    warehouse: Warehouse, environment: Settings, cluster: databases.Cluster, tmp_path: Path
) -> None:
    run = run_context.TenantRun(
        tenant=estate.tenant(reports={"folder": str(tmp_path)}),
        as_of=estate.AS_OF,
        now=datetime.now(UTC),
        warehouse=warehouse,
        is_historical=False,
        state_version="state",
        config=environment,
        cluster=cluster,
    )

    done = run_for(run, exports.reports_exports, exports.exports_are_as_recorded)
    told = metadata_of(done)
    folder = Path(str(told["folder"]))
    assert folder == tmp_path / "run"
    counts = {"reco_output": 60, "audit_output": 1, "next_action_output": 30, "run_summary": 1}
    for name, count in counts.items():
        assert told[f"rows_{name}"] == count == len(json.loads((folder / f"{name}.json").read_bytes()))
        assert (folder / f"{name}.csv").read_bytes().startswith(codecs.BOM_UTF8)
    assert [e.passed for e in done.get_asset_check_evaluations()] == [True]
    assert warehouse.rows("select count(*), sum(size_bytes) from reports.exports") == [(8, told["bytes"])]
    (folder / "run_summary.json").unlink()
    recorded = warehouse.read("reports", "exports", ["path", "sha256"])
    assert documents.missing_or_changed(recorded, environment.home) == [str(folder / "run_summary.json")]
