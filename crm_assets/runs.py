"""Start a Dagster job for a tenant from the command line: in this process, recorded in the instance like any run."""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import dataclass
from typing import Any

from crm_assets import up
from crm_assets.settings import Settings


@dataclass(frozen=True)
class RunOutcome:
    """How a run ended: its ids, whether it succeeded, the steps that failed and why, the checks that did not pass."""

    dagster_run_id: str
    run_id: str | None  # of spec.md §5, where the gate was reached
    succeeded: bool
    failures: dict[str, str]
    failed_checks: list[str]


def execute(
    config: Settings,
    job_name: str,
    slug: str,
    *,
    as_of: str | None = None,
    op_config: dict[str, Any] | None = None,
    log_level: str = "WARNING",
) -> RunOutcome:
    """Run a job for one tenant and wait for its end."""
    os.environ.update(up.prepare(config, lambda _: None))  # noqa: TID251 - what Dagster and dbt read
    import dagster as dg

    from crm_assets.definitions import defs
    from crm_assets.defs.common import TRIGGER_TAG

    run_config: dict[str, Any] = {"loggers": {"console": {"config": {"log_level": log_level}}}}
    if as_of:
        run_config["resources"] = {"tenant_run": {"config": {"as_of": as_of}}}
    if op_config:
        run_config["ops"] = op_config
    with dg.DagsterInstance.get() as instance:
        if slug not in instance.get_dynamic_partitions("tenant"):
            instance.add_dynamic_partitions("tenant", [slug])
        # dbt's lines are a log; stdout is for the one JSON object of the command.
        with (
            open(os.devnull, "w") as nowhere,
            contextlib.redirect_stdout(sys.stderr if log_level in {"DEBUG", "INFO"} else nowhere),
        ):
            result = defs.resolve_job_def(job_name).execute_in_process(
                instance=instance,
                partition_key=slug,
                run_config=run_config,
                tags={TRIGGER_TAG: "command"},
                raise_on_error=False,
            )
        failures = {}
        for event in result.get_step_failure_events():
            error = event.step_failure_data.error
            cause = (error.cause or error) if error else None
            failures[event.step_key or "run"] = f"{cause.cls_name}: {cause.message.strip()}" if cause else "failed"
        checks = [
            "/".join([*check.asset_key.path, check.check_name])
            for check in result.get_asset_check_evaluations()
            if not check.passed
        ]
        return RunOutcome(result.run_id, _gate_run_id(result), result.success, failures, sorted(checks))


def _gate_run_id(result: Any) -> str | None:
    """The recommendation run that the gate decided on."""
    for event in result.get_asset_materialization_events():
        if event.asset_key and list(event.asset_key.path) == ["gate", "decisions"]:
            return str(event.materialization.metadata["run_id"].value)
    return None
