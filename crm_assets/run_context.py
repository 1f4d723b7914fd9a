"""What one run of one tenant works with: its lock, its database, its rules, its as-of date and its identity.

The clock is read here, at the edge, and nowhere below. At most one run per tenant exists, whatever started it:
a session lock in the tenant's database says so, and sessions left by a killed run are ended first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import cached_property
from pathlib import Path

import psycopg
from psycopg import sql

from crm_assets import databases, versions
from crm_assets.resources.warehouse import AS_OF_SUFFIX, Warehouse
from crm_assets.rules import BusinessRules
from crm_assets.settings import Settings, settings
from crm_assets.tenants import Tenant

APPLICATION_NAME = "crm-run"
DBT_APPLICATION_NAME = "crm-dbt"  # constant: dbt parses anew whenever a value of its profile changes
_LOCK_KEY = "hashtext('crm tenant run')"


@dataclass
class TenantRun:
    """One run. `run_id` is known once the files have landed; it is the recommendation run of spec.md §5."""

    tenant: Tenant
    as_of: date
    now: datetime
    warehouse: Warehouse
    is_historical: bool
    state_version: str
    config: Settings
    cluster: databases.Cluster
    dagster_run_id: str = ""
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def rules(self) -> BusinessRules:
        return self.tenant.business_rules

    @property
    def home(self) -> Path:
        return self.config.home

    @property
    def raw_folder(self) -> str:
        return raw_folder(self.tenant, self.config)

    @cached_property
    def dataset_version(self) -> str:
        return versions.dataset_version(self.warehouse)

    @cached_property
    def run_id(self) -> str:
        return versions.run_id(
            self.tenant.slug,
            self.as_of.isoformat(),
            self.dataset_version,
            self.state_version,
            self.rules.version,
            versions.code_version(),
        )


def raw_folder(tenant: Tenant, config: Settings) -> str:
    """The tenant's drop folder: a path or an fsspec URL."""
    return tenant.source.raw_url or str(config.data / tenant.slug / "raw")


def is_historical(warehouse: Warehouse, as_of: date) -> bool:
    """Whether a run of the present has already been made for a later day."""
    newest = warehouse.rows("select max(as_of) from gate.decisions where not is_historical")[0][0]
    return newest is not None and as_of < newest


@contextmanager
def _only_run(url: str, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the tenant's run lock; wait for the run that has it."""
    with psycopg.connect(url, autocommit=True, application_name="crm-lock") as connection:
        waiting = False
        while not connection.execute(f"select pg_try_advisory_lock({_LOCK_KEY})".encode()).fetchone()[0]:  # type: ignore[index]
            if not waiting:
                say("another run of this tenant is under way; waiting for it to end")
                waiting = True
            time.sleep(0.5)
        # Whatever still works under a run's name lost its run: a killed worker's dbt, for one.
        connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and application_name = any(%s)",
            [[APPLICATION_NAME, DBT_APPLICATION_NAME]],
        )
        yield


@contextmanager
def tenant_run(
    tenant: Tenant,
    *,
    as_of: date | None = None,
    dagster_run_id: str = "",
    tags: dict[str, str] | None = None,
    say: Callable[[str], None] = print,
) -> Iterator[TenantRun]:
    """Open a run of a tenant: the only one until the block ends."""
    config = settings()
    cluster = databases.cluster(config)
    url = databases.ensure_tenant(cluster, tenant.slug)
    with _only_run(url, say):
        now = datetime.now(UTC)
        day = as_of or tenant.today(now)
        warehouse = Warehouse(url, application_name=APPLICATION_NAME)
        historical = is_historical(warehouse, day)
        if historical:
            warehouse.schema_suffix = AS_OF_SUFFIX
        run = TenantRun(
            tenant=tenant,
            as_of=day,
            now=now,
            warehouse=warehouse,
            is_historical=historical,
            state_version=versions.state_version(warehouse),
            config=config,
            cluster=cluster,
            dagster_run_id=dagster_run_id,
            tags=tags or {},
        )
        try:
            yield run
        finally:
            if historical:
                _drop_as_of_schemas(warehouse)


def _drop_as_of_schemas(warehouse: Warehouse) -> None:
    """Remove the copies that a run for an earlier day built for itself."""
    with warehouse.transaction() as connection:
        for (schema,) in connection.execute(
            "select nspname from pg_namespace where nspname like %s and nspowner = current_user::regrole",
            [f"%\\{AS_OF_SUFFIX}"],
        ).fetchall():
            connection.execute(sql.SQL("drop schema {} cascade").format(sql.Identifier(schema)))
