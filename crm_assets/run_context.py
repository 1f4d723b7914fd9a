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

import pandas as pd
import psycopg
import sqlalchemy as sa
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from crm_assets import databases, versions
from crm_assets.resources.drop_zone import DropZone, DropZoneError
from crm_assets.resources.warehouse import AS_OF_SUFFIX, Warehouse
from crm_assets.rules import BusinessRules
from crm_assets.settings import ROOT, Settings, settings
from crm_assets.tenants import Tenant

APPLICATION_NAME = "crm-run"
LOCK_APPLICATION_NAME = "crm-lock"  # followed by the Dagster run that holds or waits for the lock
DBT_APPLICATION_NAME = "crm-dbt"  # constant: dbt parses anew whenever a value of its profile changes
_LOCK_KEY = "hashtext('crm tenant run')"
# The gate in force is the newest decision of a run of the present; completes a `select … from gate.decisions`.
GATE_IN_FORCE = ' where not is_historical order by as_of desc, decided_at desc, run_id collate "C" limit 1'

_OPTIONS_THAT_ARE_PATHS = frozenset({"known_hosts", "key_filename", "ca_file"})


class RunRefusedError(Exception):
    """A run that must not be made; the message says why."""


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
    tags: dict[str, str] = field(default_factory=dict)
    # The drop folder as it was when the run began, path -> signature: what it will have refreshed when it gets to the
    # gate. None: out of reach.
    drop_files: dict[str, str] | None = None

    @property
    def rules(self) -> BusinessRules:
        return self.tenant.business_rules

    @property
    def home(self) -> Path:
        return self.config.home

    def drop_zone(self) -> DropZone:
        return drop_zone(self.tenant, self.config)

    def replace_run(self, table: sa.Table, frame: pd.DataFrame) -> None:
        """The run's rows in a run-keyed table become the frame's.

        A run of the present that is made again once a later day has been refreshed keeps its own verdict:
        campaigns may have pinned it.
        """
        kept = "select 1 from gate.decisions where run_id = %s and not is_historical"
        if self.is_historical and self.warehouse.rows(kept, [self.run_id]):
            return
        self.warehouse.replace_run(table, frame.assign(run_id=self.run_id), self.run_id)

    def mark_refreshed(self) -> None:
        """Tell the file sensor that this state of the folder needs no further run, but for workbooks to be read."""
        from crm_assets.resources.control import Control, fingerprint
        from crm_assets.resources.raw_store import noted_reviews

        if self.drop_files is None or self.is_historical:
            return
        reviews = noted_reviews(self.warehouse)
        exports = {path: signature for path, signature in self.drop_files.items() if path not in reviews}
        done = {path: signature for path, signature in self.drop_files.items() if reviews.get(path, True)}
        Control(self.config).landed(self.tenant.slug, fingerprint(done), fingerprint(exports))

    def mark_reviews_read(self) -> None:
        """Tell the file sensor that the workbooks of this folder are read, where nothing but them is new in it."""
        from crm_assets.resources.control import Control, Drop, fingerprint
        from crm_assets.resources.raw_store import noted_reviews

        if self.drop_files is None or self.is_historical:
            return
        reviews, control = noted_reviews(self.warehouse), Control(self.config)
        exports = fingerprint({path: signature for path, signature in self.drop_files.items() if path not in reviews})
        done = {path: signature for path, signature in self.drop_files.items() if reviews.get(path, True)}
        if control.drops().get(self.tenant.slug, Drop(self.tenant.slug)).exports_fingerprint == exports:
            control.landed(self.tenant.slug, fingerprint(done), exports)

    @cached_property
    def dataset_version(self) -> str:
        return versions.dataset_version(self.warehouse)

    @cached_property
    def run_id(self) -> str:
        return versions.run_id(self.tenant, self.as_of, self.dataset_version, self.state_version)


def is_elsewhere(tenant: Tenant) -> bool:
    """Whether the tenant's drop folder lies on another machine."""
    url = tenant.source.raw_url or ""
    return "://" in url and not url.startswith("file://")


def drop_zone(tenant: Tenant, config: Settings) -> DropZone:
    """The tenant's drop folder; nothing is asked of it yet. Paths of its file are taken from the project root."""
    source = tenant.source
    if source.raw_url is None:
        return DropZone(config.data / tenant.slug / "raw")
    url = source.raw_url if "://" in source.raw_url else str(ROOT / Path(source.raw_url).expanduser())
    options = {
        key: str(ROOT / Path(str(value)).expanduser()) if key in _OPTIONS_THAT_ARE_PATHS else value
        for key, value in source.raw_options.items()
    }
    return DropZone(url, options, source.raw_secrets, owner=f"{tenant.slug}.yaml")


def refuse_future(tenant: Tenant, day: date, now: datetime) -> None:
    """RunRefusedError for a day that has not come: its gate would make every later run a historical one."""
    today = tenant.today(now)
    if day > today:
        raise RunRefusedError(f"{day} has not come yet for {tenant.slug}: its day is {today}")


def drop_files(tenant: Tenant, config: Settings) -> dict[str, str] | None:
    """Path -> signature of the tenant's drop folder, as the file sensor sees it; None when it is out of reach."""
    try:
        with drop_zone(tenant, config) as zone:
            return {file.path: file.signature for file in zone.list()}
    except (OSError, DropZoneError):
        return None


def is_historical(warehouse: Warehouse, as_of: date) -> bool:
    """Whether a run of the present has already been made for a later day."""
    newest = warehouse.rows("select max(as_of) from gate.decisions where not is_historical")[0][0]
    return newest is not None and as_of < newest


@contextmanager
def _only_run(url: str, dagster_run_id: str, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the tenant's run lock; wait for the run that has it."""
    name = f"{LOCK_APPLICATION_NAME} {dagster_run_id}".strip()
    with psycopg.connect(url, autocommit=True, application_name=name) as connection:
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


def dbt_target(tenant: Tenant, warehouse: Warehouse, config: Settings) -> tuple[Path, dict[str, str]]:
    """The tenant's own dbt target folder, and the variables that `profiles.yml` reads."""
    parts = conninfo_to_dict(warehouse.url)
    variables = {
        "CRM_DBT_HOST": str(parts.get("host", "127.0.0.1")),
        "CRM_DBT_PORT": str(parts.get("port", "5432")),
        "CRM_DBT_USER": str(parts["user"]),
        "CRM_DBT_PASSWORD": str(parts.get("password", "")),
        "CRM_DBT_DBNAME": str(parts["dbname"]),
        "CRM_DBT_SSLMODE": str(parts.get("sslmode", "prefer")),
        "CRM_DBT_SSLROOTCERT": str(parts.get("sslrootcert", "")),
        "CRM_DBT_APPLICATION_NAME": DBT_APPLICATION_NAME,
        "CRM_DBT_SCHEMA_SUFFIX": warehouse.schema_suffix,
    }
    return config.home / "dbt" / f"{tenant.slug}{warehouse.schema_suffix}", variables


def living_runs(warehouse: Warehouse) -> set[str]:
    """The Dagster runs of a tenant whose process still holds, or waits for, the tenant's lock."""
    rows = warehouse.rows(
        "select split_part(application_name, ' ', 2) from pg_stat_activity"
        " where datname = current_database() and starts_with(application_name, %s)",
        [f"{LOCK_APPLICATION_NAME} "],
    )
    return {row[0] for row in rows}


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
    with _only_run(url, dagster_run_id, say):
        now = datetime.now(UTC)
        day = as_of or tenant.today(now)
        refuse_future(tenant, day, now)
        warehouse = Warehouse(url, application_name=APPLICATION_NAME)
        _drop_as_of_schemas(warehouse)  # left by a killed run
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
            tags=tags or {},
        )
        run.drop_files = drop_files(tenant, config)
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
