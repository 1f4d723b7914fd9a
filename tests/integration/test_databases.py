"""One database and one role per tenant; nobody else gets in."""

from __future__ import annotations

import psycopg
import pytest

from crm_assets import databases
from crm_assets.databases import Cluster


@pytest.fixture(scope="module")
def two_estates(cluster: Cluster) -> tuple[str, str]:
    return databases.ensure_tenant(cluster, "left"), databases.ensure_tenant(cluster, "right")


def test_a_tenants_role_opens_its_own_database(cluster: Cluster, two_estates: tuple[str, str]) -> None:
    for url in (two_estates[0], cluster.url(cluster.role("left"), public=True)):
        with psycopg.connect(url) as connection:
            assert connection.execute("select count(*) from gate.decisions").fetchone() == (0,)


@pytest.mark.parametrize("other", ["right", "control", "dagster"])
def test_a_tenants_role_opens_no_other_database(cluster: Cluster, two_estates: tuple[str, str], other: str) -> None:
    databases.ensure_control(cluster)
    databases.ensure_dagster(cluster)
    database = cluster.config.dagster_database if other == "dagster" else cluster.role(other)
    for public in (False, True):
        with pytest.raises(psycopg.OperationalError, match="permission denied"):
            psycopg.connect(cluster.url(cluster.role("left"), database=database, public=public))


def test_a_tenants_role_is_not_let_into_the_common_databases(cluster: Cluster, two_estates: tuple[str, str]) -> None:
    if cluster.config.database_url is not None:
        pytest.skip("on somebody's server the common databases are the administrator's to close")
    with pytest.raises(psycopg.OperationalError, match="permission denied"):
        psycopg.connect(cluster.url(cluster.role("left"), database="postgres"))


def test_the_administrator_is_not_reached_by_network(cluster: Cluster) -> None:
    if cluster.config.database_url is not None:
        pytest.skip("this is how the embedded server is set up")
    with pytest.raises(psycopg.OperationalError, match="reject"):
        psycopg.connect(f"postgresql://postgres@127.0.0.1:{cluster.port}/postgres")


def test_another_deployments_password_is_refused(cluster: Cluster, two_estates: tuple[str, str]) -> None:
    role = cluster.role("left")
    wrong = cluster.url(role, public=True).replace(cluster.password(role), cluster.password(cluster.role("right")))
    with pytest.raises(psycopg.OperationalError, match="authentication failed"):
        psycopg.connect(wrong)


def test_setting_up_twice_changes_nothing_and_new_columns_are_added(cluster: Cluster) -> None:
    url = databases.ensure_tenant(cluster, "grows")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("alter table gate.decisions drop column reasons")
        connection.execute("insert into landing.parameters values ('kept', '1')")
    databases.ensure_tenant(cluster, "grows")
    with psycopg.connect(url, autocommit=True) as connection:
        # The mark says the tables are of this version: nothing is looked at again…
        columns = (
            "select count(*) from information_schema.columns where table_schema = 'gate' and column_name = 'reasons'"
        )
        assert connection.execute(columns).fetchone() == (0,)
        connection.execute("comment on schema landing is 'tables of an older version'")
    databases.ensure_tenant(cluster, "grows")
    with psycopg.connect(url) as connection:
        # …and with an older mark, what is missing is added and what is there stays.
        assert connection.execute(columns).fetchone() == (1,)
        assert connection.execute("select count(*) from landing.parameters").fetchone() == (1,)


def test_a_key_that_a_table_does_without_is_dropped_and_its_index_made(cluster: Cluster) -> None:
    url = databases.ensure_tenant(cluster, "older")
    constraints = "select count(*) from pg_constraint where conrelid = 'raw.stock'::regclass and contype = 'p'"
    indexes = "select array_agg(indexname::text) from pg_indexes where schemaname = 'raw' and tablename = 'stock'"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("drop index raw.stock_place")
        connection.execute("alter table raw.stock add primary key (file_id, source_line)")
        connection.execute("comment on schema landing is 'tables of an older version'")
    databases.ensure_tenant(cluster, "older")
    with psycopg.connect(url) as connection:
        assert connection.execute(constraints).fetchone() == (0,)
        assert connection.execute(indexes).fetchone() == (["stock_place"],)
