"""The wiring: which resources the definitions get. The only other module with `@dg.definitions`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date

import dagster as dg
from pydantic import Field

from crm_assets import run_context
from crm_assets.settings import settings
from crm_assets.tenants import Registry

PARTITION_TAG = "dagster/partition"


class TenantRunResource(dg.ConfigurableResourceFactory[run_context.TenantRun]):
    """Opens the run of the tenant that the run's partition names, and holds its lock until the run ends."""

    as_of: str = Field("", description="Day the run is made for, YYYY-MM-DD; empty: the tenant's own, else today.")

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator[run_context.TenantRun]:
        run = context.run
        slug = run.tags.get(PARTITION_TAG) if run else None
        if not slug:
            raise dg.Failure(
                "this run names no tenant: choose one partition (tags "
                f"{PARTITION_TAG}=<slug>); ranges of tenants run as one run each"
            )
        tenant = Registry(settings().tenants).get(slug)
        log = context.log
        with run_context.tenant_run(
            tenant,
            as_of=date.fromisoformat(self.as_of) if self.as_of else None,
            dagster_run_id=run.run_id if run else "",
            tags=dict(run.tags) if run else {},
            say=log.info if log else print,
        ) as opened:
            yield opened
