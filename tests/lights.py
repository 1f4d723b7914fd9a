"""Assets and checks run for one tenant; checks also alone, on tables that the test has written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import dagster as dg

from crm_assets.defs.common import tenants_partitions


def _built_by_others(checks: tuple[dg.AssetChecksDefinition, ...]) -> dg.AssetsDefinition:
    """The assets that the checks look at; the test has written their tables already."""
    specs = [spec for check in checks for spec in check.check_specs]
    keys = {spec.asset_key for spec in specs} | {dep.asset_key for spec in specs for dep in spec.additional_deps}

    @dg.multi_asset(specs=[dg.AssetSpec(key, partitions_def=tenants_partitions) for key in sorted(keys)])
    def tables_of_the_test() -> Iterator[dg.MaterializeResult[Any]]:
        yield from (dg.MaterializeResult(asset_key=key) for key in sorted(keys))

    return tables_of_the_test


def run_for(
    tenant_run: Any, *made: Any, config: dict[str, Any] | None = None, raise_on_error: bool = True
) -> dg.ExecuteInProcessResult:
    """A run of assets and checks for a tenant. `config`: of the first of them."""
    ops = {made[0].op.name: {"config": config}} if config else {}
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(str(tenants_partitions.name), ["estate"])
        return dg.materialize(
            list(made),
            partition_key="estate",
            instance=instance,
            resources={"tenant_run": tenant_run},
            run_config={"ops": ops},
            raise_on_error=raise_on_error,
        )


def metadata_of(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    """The metadata of the one asset that a run made."""
    (event,) = result.get_asset_materialization_events()
    return {key: value.value for key, value in event.materialization.metadata.items()}


def evaluated(tenant_run: Any, *checks: dg.AssetChecksDefinition) -> dict[tuple[str, str], dg.AssetCheckEvaluation]:
    """What the checks say of a tenant's tables: (table, check) -> its evaluation. A check may fail its own run."""
    result = run_for(tenant_run, _built_by_others(checks), *checks, raise_on_error=False)
    return {(e.asset_key.path[-1], e.check_name): e for e in result.get_asset_check_evaluations()}
