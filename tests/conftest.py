"""Shared fixtures: one PostgreSQL per session, a fresh database per test from a template.

`CRM_TEST_DATABASE_URL` names a server to use instead of the embedded one. Tests only ever create and drop
databases and roles whose names start with `crmtest_`.
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from pydantic import SecretStr

from crm_assets import databases, local
from crm_assets.resources.warehouse import Warehouse
from crm_assets.settings import ROOT, Settings, settings

PREFIX = f"crmtest_{os.getpid()}_"
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def session_home() -> Iterator[Path]:
    """CRM_HOME of the session, outside the project: the developer's own state is never touched."""
    # Not pytest's tmp_path: its 0700 parent could not be entered by the server's user.
    home = Path(tempfile.mkdtemp(prefix="crmtest-"))
    home.chmod(0o755)
    yield home
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def environment(session_home: Path) -> Iterator[Settings]:
    """The settings of the session, in the environment so that child processes share them."""
    mine = {
        "CRM_HOME": str(session_home),
        "CRM_DATA": str(session_home / "data"),
        "CRM_TENANTS": str(session_home / "tenants"),
        "CRM_DATABASE_PREFIX": PREFIX,
        "CRM_DAGSTER_DATABASE": f"{PREFIX}dagster",
        "CRM_SECRET": "only for tests",
        "CRM_LIVE": "0",
        "DAGSTER_HOME": str(session_home / "dagster"),
        "DAGSTER_DISABLE_TELEMETRY": "yes",
        "GX_ANALYTICS_ENABLED": "false",
    }
    server = os.environ.get("CRM_TEST_DATABASE_URL")
    os.environ.pop("CRM_DATABASE_URL", None)
    if server:
        mine["CRM_DATABASE_URL"] = server
    before = {name: os.environ.get(name) for name in mine}
    os.environ.update(mine)
    settings.cache_clear()
    yield settings()
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    settings.cache_clear()


@pytest.fixture(autouse=True)
def no_server_of_its_own(request: pytest.FixtureRequest, session_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test whose settings have a home of their own gives them the session's server too (`at_home`): another would
    start unnoticed, and stay for half an hour. Modules that are about servers say STARTS_SERVERS.
    """
    if getattr(request.module, "STARTS_SERVERS", False):
        return
    ensure_server = local.ensure_server

    def only_the_sessions(config: Settings) -> local.Server:
        assert config.home == session_home, f"a server would start in {config.home}: see at_home in tests/conftest.py"
        return ensure_server(config)

    monkeypatch.setattr(local, "ensure_server", only_the_sessions)


@pytest.fixture(scope="session")
def at_home(environment: Settings, cluster: databases.Cluster) -> Callable[..., Settings]:
    """Settings with a CRM_HOME of their own, on the session's server; more of them as keywords."""

    def made(home: Path, **more: Any) -> Settings:
        return environment.model_copy(update={"home": home, "database_url": SecretStr(cluster.admin_url), **more})

    return made


@pytest.fixture(scope="session")
def cluster(environment: Settings) -> Iterator[databases.Cluster]:
    """The PostgreSQL server of the session."""
    made = databases.cluster(environment)
    yield made
    with psycopg.connect(made.admin_url, autocommit=True) as admin:
        pattern = PREFIX.replace("_", r"\_") + "%"
        names = admin.execute("select datname from pg_database where datname like %s", [pattern]).fetchall()
        for (name,) in names:
            admin.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))
        roles = admin.execute("select rolname from pg_roles where rolname like %s", [pattern]).fetchall()
        for (name,) in roles:
            admin.execute(sql.SQL("drop role if exists {}").format(sql.Identifier(name)))
    if environment.database_url is None:
        local.stop_server(environment)


@pytest.fixture(scope="session")
def template(cluster: databases.Cluster) -> str:
    """Name of a role and of its database with every Python-owned table, to copy from."""
    databases.ensure_tenant(cluster, "template")
    return cluster.role("template")


@contextmanager
def fresh_warehouse(cluster: databases.Cluster, template: str, name: str) -> Iterator[Warehouse]:
    """A fresh, empty tenant database, dropped at the end of the block."""
    with psycopg.connect(cluster.admin_url, autocommit=True) as admin:
        admin.execute(
            sql.SQL("create database {} template {} owner {}").format(*map(sql.Identifier, (name, template, template)))
        )
    try:
        yield Warehouse(cluster.url(template, database=name))
    finally:
        with psycopg.connect(cluster.admin_url, autocommit=True) as admin:
            admin.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))


@pytest.fixture
def tenant_warehouse(cluster: databases.Cluster, template: str) -> Iterator[Warehouse]:
    """A fresh, empty tenant database."""
    with fresh_warehouse(cluster, template, f"{PREFIX}w{next(_numbers)}") as warehouse:
        yield warehouse


@pytest.fixture(scope="module")
def module_warehouse(cluster: databases.Cluster, template: str) -> Iterator[Warehouse]:
    """One tenant database for all tests of a module, each of which empties the tables that it uses."""
    with fresh_warehouse(cluster, template, f"{PREFIX}w{next(_numbers)}") as warehouse:
        yield warehouse


@pytest.fixture(scope="session")
def samples() -> Path:
    """The sample estate's files."""
    return ROOT / "data" / "samples"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty drop folder."""
    made = tmp_path / "raw"
    made.mkdir()
    return made


def drop(folder: Path, path: str, content: str | bytes, modified: str = "2025-06-01T12:00:00+00:00") -> Path:
    """Write a file as if it had been dropped at `modified`."""
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content.encode() if isinstance(content, str) else content)
    stamp = datetime.fromisoformat(modified).timestamp()
    os.utime(target, (stamp, stamp))
    return target
