"""Asset checks run alone, on tables that the test has written."""

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


def evaluated(tenant_run: Any, *checks: dg.AssetChecksDefinition) -> dict[tuple[str, str], dg.AssetCheckEvaluation]:
    """What the checks say of a tenant's tables: (table, check) -> its evaluation. A check may fail its own run."""
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(str(tenants_partitions.name), ["estate"])
        result = dg.materialize(
            [_built_by_others(checks), *checks],
            partition_key="estate",
            instance=instance,
            resources={"tenant_run": tenant_run},
            raise_on_error=False,
        )
    return {(e.asset_key.path[-1], e.check_name): e for e in result.get_asset_check_evaluations()}
