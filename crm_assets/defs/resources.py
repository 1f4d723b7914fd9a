"""The wiring: which resources the definitions get."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date

import dagster as dg

from crm_assets import run_context
from crm_assets.defs.common import PARTITION_TAG
from crm_assets.settings import settings
from crm_assets.tenants import Registry


@dg.resource(
    config_schema={
        "as_of": dg.Field(
            str,
            default_value="",
            description="Day the run is made for, YYYY-MM-DD; empty: the tenant's own, else today where the estate is.",
        )
    },
    description="The run of the tenant that the run's partition names; holds its lock until the run ends.",
)
def tenant_run_resource(context: dg.InitResourceContext) -> Iterator[run_context.TenantRun]:
    """Opens the tenant's run. A generator: what stands after the yield happens when the run ends."""
    run = context.run
    slug = run.tags.get(PARTITION_TAG) if run else None
    if run is None or not slug:
        raise dg.Failure(
            f"this run names no tenant: choose one partition (tag {PARTITION_TAG}=<slug>);"
            " several tenants are launched as one run each"
        )
    as_of = context.resource_config["as_of"]
    with run_context.tenant_run(
        Registry(settings().tenants).get(slug),
        as_of=date.fromisoformat(as_of) if as_of else None,
        dagster_run_id=run.run_id,
        tags=dict(run.tags),
        say=context.log.info if context.log else print,
    ) as opened:
        yield opened
