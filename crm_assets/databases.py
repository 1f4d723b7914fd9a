"""Databases and roles on a PostgreSQL server: one of each per tenant, the control database, Dagster's storage.

Everything here is idempotent and cheap when there is nothing to do. Roles' passwords are derived from the
deployment's secret, so none is ever stored. What the tables hold is none of this module's business.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from functools import cache
from urllib.parse import quote, urlencode

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from crm_assets import local
from crm_assets.settings import Settings, settings

TENANT_SCHEMAS = [
    "landing",
    "raw",
    "staging",
    "curated",
    "rfm",
    "customers",
    "recommendations",
    "audit",
    "gate",
    "review",
    "activation",
    "outcomes",
    "kpis",
    "reports",
]
CONTROL_SCHEMAS = ("watch", "alerts", "brevo")


class DatabaseError(Exception):
    """A server that cannot be used as asked; the message says what to do."""


@dataclass(frozen=True)
class Cluster:
    """One PostgreSQL server: how an administrator reaches it, and where everybody else does."""

    admin_url: str
    host: str
    port: str
    options: tuple[tuple[str, str], ...]
    config: Settings
    socket_dir: str | None = None  # of the embedded server

    def role(self, name: str) -> str:
        """Name of a tenant's (or `control`'s) role and database."""
        return f"{self.config.database_prefix}{name}"

    def password(self, role: str) -> str:
        return hmac.new(self.config.secret_bytes(), f"role:{role}".encode(), hashlib.sha256).hexdigest()[:40]

    def url(self, role: str, scheme: str = "postgresql", database: str | None = None, public: bool = False) -> str:
        """URL as `role` of a database, by default the one that bears the role's name.

        On the embedded server it leads through the socket, which only the server's owner can enter: Dagster opens
        thousands of connections a run, and a password costs each of them as much as its work. `public`: by
        network and password, for other programs.
        """
        database = database or role
        if self.socket_dir and not public:
            query = urlencode({"host": self.socket_dir, "port": self.port})
            return f"{scheme}://{quote(role)}@/{database}?{query}"
        credentials = f"{quote(role)}:{quote(self.password(role))}"
        options = dict(self.options)
        if self.host.startswith("/"):
            return (
                f"{scheme}://{credentials}@/{database}?{urlencode({'host': self.host, 'port': self.port, **options})}"
            )
        query = f"?{urlencode(options)}" if options else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{credentials}@{host}:{self.port}/{database}{query}"

    def tenant_url(self, slug: str) -> str:
        return self.url(self.role(slug))

    @property
    def control_url(self) -> str:
        return self.url(self.role("control"))

    @property
    def dagster_url(self) -> str:
        """Dagster reads the driver from the URL; SQLAlchemy's psycopg2 is the one it is made for."""
        return self.url(self.config.dagster_database, scheme="postgresql+psycopg2")

    def ensure(self, role: str) -> None:
        """The role and the database that bears its name, closed to everybody else."""
        try:
            psycopg.connect(self.url(role, public=True), connect_timeout=10).close()
            return
        except psycopg.OperationalError:
            pass  # missing, or a password of another secret: both are mended below, as administrator
        with self._administrator() as admin:
            # Two first commands at once would both find nothing.
            admin.execute("select pg_advisory_lock(hashtext('crm ensure database'))")
            name = sql.Identifier(role)
            login = sql.SQL("{} role {} login password {}")
            known = admin.execute("select 1 from pg_roles where rolname = %s", [role]).fetchone()
            admin.execute(login.format(sql.SQL("alter" if known else "create"), name, sql.Literal(self.password(role))))
            if not admin.execute("select 1 from pg_database where datname = %s", [role]).fetchone():
                # From PostgreSQL 16 on, who creates a role may not yet act for it.
                set_true = " with set true" if admin.info.server_version >= 160000 else ""
                admin.execute(sql.SQL("grant {} to current_user" + set_true).format(name))
                # Nobody gets in before it is closed: a kill in between leaves it locked, not open.
                admin.execute(
                    sql.SQL("create database {} owner {} encoding 'UTF8' template template0 connection limit 0").format(
                        name, name
                    )
                )
            admin.execute(sql.SQL("revoke all on database {} from public").format(name))
            admin.execute(sql.SQL("alter database {} connection limit -1").format(name))
            self._close_common_databases(admin)

    def _administrator(self) -> psycopg.Connection:
        """A connection that may create; DatabaseError, without the URL's secrets, when there is none to be had."""
        try:
            return psycopg.connect(self.admin_url, autocommit=True, connect_timeout=10)
        except psycopg.OperationalError as error:
            where = "the embedded PostgreSQL" if self.config.database_url is None else "CRM_DATABASE_URL"
            reason = " ".join(str(error).split())
            raise DatabaseError(f"{where} at {self.host}:{self.port} cannot be used: {reason}") from None

    @staticmethod
    def _close_common_databases(admin: psycopg.Connection) -> None:
        """Tenants have no business in `postgres` and `template1`, where other databases could be listed from."""
        for database in ("postgres", "template1"):
            open_to_all = admin.execute(
                "select has_database_privilege('public', %s, 'connect')"
                " and pg_has_role(current_user, datdba, 'usage') from pg_database where datname = %s",
                [database, database],
            ).fetchone()
            if open_to_all and open_to_all[0]:
                admin.execute(sql.SQL("revoke connect on database {} from public").format(sql.Identifier(database)))

    def drop(self, role: str) -> None:
        """Remove a role and its database (tests only ever do this under their own prefix)."""
        with psycopg.connect(self.admin_url, autocommit=True) as admin:
            admin.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(role)))
            admin.execute(sql.SQL("drop role if exists {}").format(sql.Identifier(role)))


def cluster(config: Settings | None = None) -> Cluster:
    """The server in use: `CRM_DATABASE_URL`'s, else the embedded one, started if need be."""
    config = config or settings()
    if config.database_url is None:
        server = local.ensure_server(config)
        return Cluster(server.admin_url, "127.0.0.1", str(server.port), (), config, server.socket_dir)
    url = config.database_url.get_secret_value()
    try:
        parts = conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        raise DatabaseError(
            "CRM_DATABASE_URL is not a PostgreSQL URL (postgresql://user:password@host:port/db)"
        ) from None
    host, port = str(parts.pop("host", "127.0.0.1")), str(parts.pop("port", "5432"))
    options = tuple((k, str(v)) for k, v in sorted(parts.items()) if k not in {"user", "password", "dbname"})
    return Cluster(url, host, port, options, config)


@cache
def _ddl_version(which: str) -> str:
    from sqlalchemy.dialects import postgresql
    from sqlalchemy.schema import CreateIndex, CreateTable

    from crm_assets import tables

    owner = tables.metadata if which == "tenant" else tables.control
    dialect = postgresql.dialect()
    text = "".join(str(CreateTable(table).compile(dialect=dialect)) for table in owner.sorted_tables)
    indexes = [index for table in owner.sorted_tables for index in table.indexes]
    text += "".join(sorted(str(CreateIndex(index).compile(dialect=dialect)) for index in indexes))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _ensure_tables(url: str, which: str) -> None:
    """Schemas and Python-owned tables; what a newer version added is added, and no column is ever removed.

    A primary key that a newer version does without is dropped, and so is a not-null.
    """
    version = _ddl_version(which)
    schemas = TENANT_SCHEMAS if which == "tenant" else CONTROL_SCHEMAS
    with psycopg.connect(url, autocommit=True) as connection:
        marked = connection.execute(
            "select obj_description(to_regnamespace(%s)::oid, 'pg_namespace')", [schemas[0]]
        ).fetchone()
        if marked and marked[0] == f"tables {version}":
            return
    import sqlalchemy as sa
    from sqlalchemy.schema import CreateColumn

    from crm_assets import tables

    owner = tables.metadata if which == "tenant" else tables.control
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.execute(sa.text("select pg_advisory_xact_lock(hashtext('crm ensure tables'))"))
        for schema in schemas:
            connection.execute(sa.schema.CreateSchema(schema, if_not_exists=True))
        owner.create_all(connection)
        inspector = sa.inspect(connection)
        for table in owner.sorted_tables:
            found = inspector.get_columns(table.name, schema=table.schema)
            may_be_null = {column["name"]: column["nullable"] for column in found}
            for column in table.columns:
                if column.name not in may_be_null:
                    change = f"add column {CreateColumn(column).compile(dialect=connection.dialect)}"
                elif column.nullable and not may_be_null[column.name]:
                    change = f"alter column {column.name} drop not null"
                else:
                    continue
                connection.execute(sa.text(f"alter table {table.schema}.{table.name} {change}"))
            key = inspector.get_pk_constraint(table.name, schema=table.schema)
            if key["name"] and not table.primary_key.columns:
                connection.execute(sa.text(f'alter table {table.schema}.{table.name} drop constraint "{key["name"]}"'))
            for index in table.indexes:
                index.create(connection, checkfirst=True)
        connection.execute(sa.text(f"comment on schema {schemas[0]} is 'tables {version}'"))
    engine.dispose()


def ensure_tenant(cluster: Cluster, slug: str) -> str:
    """A tenant's role, database, schemas and tables; returns its URL."""
    cluster.ensure(cluster.role(slug))
    url = cluster.tenant_url(slug)
    _ensure_tables(url, "tenant")
    return url


def ensure_control(cluster: Cluster) -> str:
    """The control database; returns its URL."""
    cluster.ensure(cluster.role("control"))
    _ensure_tables(cluster.control_url, "control")
    return cluster.control_url


def ensure_dagster(cluster: Cluster) -> str:
    """The database of Dagster's storage; returns its SQLAlchemy URL."""
    cluster.ensure(cluster.config.dagster_database)
    return cluster.dagster_url
