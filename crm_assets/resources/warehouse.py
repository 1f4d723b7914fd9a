"""One tenant's database, read and written in bulk.

Rows come and go by COPY, as Arrow in between; never one by one. What the rows mean is the stages' business,
and joins belong in dbt models: `read` takes one table.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import orjson
import pandas as pd
import psycopg
import pyarrow as pa
import pyarrow.csv as pa_csv
import sqlalchemy as sa
from psycopg import sql
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

# Schemas whose tables dbt rebuilds as of a day: a run for an earlier day reads and writes copies of them.
AS_OF_SCHEMAS = frozenset({"staging", "curated", "rfm", "audit", "outcomes", "kpis"})
AS_OF_SUFFIX = "_asof"
# The one dbt table that keeps every day: there is no copy of it (meta keeps_history in its model).
KEEPS_HISTORY = frozenset({"rfm.customer_rfm_history"})

# PostgreSQL type OIDs -> Arrow; everything else is read as text.
_ARROW_TYPES = {
    16: pa.string(),  # bool arrives as t/f, turned below: Arrow's CSV reader knows true/false only
    20: pa.int64(),
    21: pa.int32(),
    23: pa.int32(),
    700: pa.float64(),
    701: pa.float64(),
    1700: pa.float64(),  # numeric: exact in SQL, double in statistics
    1082: pa.date32(),
    1114: pa.string(),
    1184: pa.string(),
}
_BOOL, _DATE, _STAMPS, _JSON = 16, 1082, {1114, 1184}, {114, 3802}
_TEXT_ARRAY, _FLOAT_ARRAY = 1009, 1022

_ANALYZE_FROM_ROWS = 1_000


class WarehouseError(Exception):
    """What PostgreSQL refused, without the row it quotes: that may be somebody's name or address."""

    def __init__(self, error: psycopg.Error) -> None:
        about = error.diag
        where = ".".join(part for part in (about.schema_name, about.table_name, about.column_name) if part)
        parts = [type(error).__name__, error.sqlstate or "", where, about.constraint_name or ""]
        super().__init__(" ".join(part for part in parts if part))
        self.sqlstate = error.sqlstate or ""

    @property
    def is_about_the_data(self) -> bool:
        """Whether the rows are at fault (PostgreSQL's classes 22 and 23), and not the database or its state."""
        return self.sqlstate[:2] in {"22", "23"}


class Warehouse:
    """A tenant's database.

    `schema_suffix` is empty, or `_asof` in a run for an earlier day: then tables that dbt builds are read from
    the schemas of that day (spec.md §5: such a run leaves the latest state alone).
    """

    def __init__(self, url: str, *, application_name: str = "crm", schema_suffix: str = "") -> None:
        self.url = url
        self.application_name = application_name
        self.schema_suffix = schema_suffix

    @contextmanager
    def transaction(self) -> Iterator[psycopg.Connection]:
        """A connection whose work is committed at the end of the block, or not at all."""
        try:
            with psycopg.connect(self.url, application_name=self.application_name) as connection:
                yield connection
        except psycopg.Error as error:
            raise WarehouseError(error) from None

    def execute(self, statement: str, params: Sequence[Any] | Mapping[str, Any] | None = None) -> int:
        """Run one statement; the number of rows it touched."""
        with self.transaction() as connection:
            return connection.execute(statement.encode(), params).rowcount

    def rows(self, statement: str, params: Sequence[Any] | Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """The few rows of a small query, as tuples."""
        with self.transaction() as connection:
            return connection.execute(statement.encode(), params).fetchall()

    def _name(self, schema: str, name: str) -> sql.Composable:
        """The table, in the schema of the day this run is for when dbt builds it."""
        from crm_assets import tables

        has_copy = schema in AS_OF_SCHEMAS and not {f"{schema}.{name}"} & (KEEPS_HISTORY | set(tables.metadata.tables))
        suffix = self.schema_suffix if has_copy else ""
        return sql.Identifier(schema + suffix, name)

    def read(
        self,
        schema: str,
        name: str,
        columns: Sequence[str] | None = None,
        where: str | None = None,
        params: Sequence[Any] | None = None,
        order_by: str | None = None,
    ) -> pd.DataFrame:
        """One table as a frame: numbers as float64/Int64, dates as datetime64[s], arrays as lists.

        `where` and `order_by` are SQL written in the code, values go through `params`.
        """
        wanted = sql.SQL(", ").join(map(sql.Identifier, columns)) if columns else sql.SQL("*")
        statement = sql.SQL("select {} from {}").format(wanted, self._name(schema, name))
        if where:
            statement += sql.SQL(" where ") + sql.SQL(where)
        if order_by:
            statement += sql.SQL(" order by ") + sql.SQL(order_by)
        return self._frame(statement, params)

    def query(self, statement: str | sql.Composable, params: Sequence[Any] | None = None) -> pd.DataFrame:
        """The result of a SELECT written out, as a frame."""
        return self._frame(sql.SQL(statement) if isinstance(statement, str) else statement, params)

    def _frame(self, statement: sql.Composable, params: Sequence[Any] | None) -> pd.DataFrame:
        with self.transaction() as connection:
            cursor = connection.cursor()
            # COPY tells no types: ask the same query for none of its rows first.
            probe = sql.SQL("select * from ({}) as shape limit 0").format(statement)
            described = cursor.execute(probe, params).description or []
            buffer = io.BytesIO()
            with cursor.copy(sql.SQL("copy ({}) to stdout (format csv)").format(statement), params) as copy:
                for block in copy:
                    buffer.write(block)
        oids = {column.name: column.type_code for column in described}
        names = list(oids)
        if not buffer.tell():
            arrow = pa.table({n: pa.array([], _ARROW_TYPES.get(oid, pa.string())) for n, oid in oids.items()})
        else:
            arrow = pa_csv.read_csv(
                pa.BufferReader(buffer.getbuffer()),
                read_options=pa_csv.ReadOptions(column_names=names, block_size=1 << 24),
                parse_options=pa_csv.ParseOptions(newlines_in_values=True),
                convert_options=pa_csv.ConvertOptions(
                    column_types={n: _ARROW_TYPES.get(oid, pa.string()) for n, oid in oids.items()},
                    null_values=[""],
                    strings_can_be_null=True,
                    quoted_strings_can_be_null=False,
                ),
            )
        return pd.DataFrame({name: _series(arrow[name], oids[name]) for name in names})

    # --- writing

    def replace(self, table: sa.Table, frame: pd.DataFrame) -> None:
        """The table's rows become the frame's, in one transaction."""
        with self.transaction() as connection:
            connection.execute(sql.SQL("delete from {}").format(_identifier(table)))
            copy_frame(connection, table, frame)

    def replace_as_of(self, table: sa.Table, frame: pd.DataFrame) -> None:
        """Like `replace`, but a run for an earlier day writes a copy of the table in its own schema."""
        if not self.schema_suffix:
            return self.replace(table, frame)
        assert table.schema is not None
        copy = sql.Identifier(table.schema + self.schema_suffix, table.name)
        with self.transaction() as connection:
            connection.execute(
                sql.SQL("create schema if not exists {}").format(sql.Identifier(table.schema + self.schema_suffix))
            )
            connection.execute(sql.SQL("drop table if exists {}").format(copy))
            connection.execute(sql.SQL("create table {} (like {})").format(copy, _identifier(table)))
            copy_frame(connection, table, frame, into=copy)

    def replace_run(self, table: sa.Table, frame: pd.DataFrame, run_id: str) -> None:
        """The rows of one run become the frame's, in one transaction; other runs' rows stay."""
        with self.transaction() as connection:
            replace_run(connection, table, frame, run_id)

    def append(self, table: sa.Table, frame: pd.DataFrame) -> None:
        """Add the frame's rows."""
        with self.transaction() as connection:
            copy_frame(connection, table, frame)

    def upsert(self, table: sa.Table, frame: pd.DataFrame) -> None:
        """Add the frame's rows, or replace those with the same primary key."""
        with self.transaction() as connection:
            upsert(connection, table, frame)

    def count(self, schema: str, name: str) -> int:
        """Rows of a table."""
        statement = sql.SQL("select count(*) from {}").format(self._name(schema, name))
        with self.transaction() as connection:
            row = connection.execute(statement).fetchone()
        return int(row[0]) if row else 0


def replace_run(connection: psycopg.Connection, table: sa.Table, frame: pd.DataFrame, run_id: str) -> None:
    """`Warehouse.replace_run` inside a transaction of the caller's."""
    connection.execute(sql.SQL("delete from {} where run_id = %s").format(_identifier(table)), [run_id])
    copy_frame(connection, table, frame)


def upsert(connection: psycopg.Connection, table: sa.Table, frame: pd.DataFrame) -> None:
    """`Warehouse.upsert` inside a transaction of the caller's."""
    scratch = sql.Identifier(f"upsert_{table.name}")
    keys = [column.name for column in table.primary_key.columns]
    others = [column.name for column in table.columns if column.name not in keys]
    connection.execute(
        sql.SQL("create temp table {} (like {} including defaults) on commit drop").format(scratch, _identifier(table))
    )
    copy_frame(connection, table, frame, into=scratch)
    assignments = sql.SQL(", ").join(sql.SQL("{0} = excluded.{0}").format(sql.Identifier(name)) for name in others)
    connection.execute(
        sql.SQL("insert into {} select * from {} on conflict ({}) do {}").format(
            _identifier(table),
            scratch,
            sql.SQL(", ").join(map(sql.Identifier, keys)),
            sql.SQL("update set {}").format(assignments) if others else sql.SQL("nothing"),
        )
    )
    connection.execute(sql.SQL("drop table {}").format(scratch))


def _identifier(table: sa.Table) -> sql.Identifier:
    assert table.schema is not None
    return sql.Identifier(table.schema, table.name)


def copy_blocks(
    connection: psycopg.Connection,
    table: sa.Table,
    columns: Sequence[str],
    blocks: Iterable[bytes],
    into: sql.Identifier | None = None,
) -> None:
    """COPY CSV blocks into a table inside a transaction of the caller's."""
    names = sql.SQL(", ").join(map(sql.Identifier, columns))
    statement = sql.SQL("copy {} ({}) from stdin (format csv)").format(into or _identifier(table), names)
    with connection.cursor().copy(statement) as copy:
        for block in blocks:
            copy.write(block)


def copy_frame(
    connection: psycopg.Connection, table: sa.Table, frame: pd.DataFrame, into: sql.Identifier | None = None
) -> None:
    """COPY a frame into a table. Columns of the table that the frame lacks become null; others are an error."""
    strangers = set(frame.columns) - {column.name for column in table.columns}
    if strangers:
        raise ValueError(f"{table.fullname} has no columns {sorted(strangers)}")
    if frame.empty:
        return
    columns = [column for column in table.columns if column.name in frame.columns]
    arrays = [_array(frame[column.name], column.type) for column in columns]
    arrow = pa.table(arrays, names=[column.name for column in columns])
    sink = pa.BufferOutputStream()
    # Text is quoted, null is not: CSV then tells an empty text from none.
    pa_csv.write_csv(arrow, sink, pa_csv.WriteOptions(include_header=False, quoting_style="needed"))
    copy_blocks(connection, table, arrow.column_names, [sink.getvalue()], into)
    if len(frame) >= _ANALYZE_FROM_ROWS:
        # Who reads next does not wait for autovacuum: without counts PostgreSQL takes the rows for none, and joins
        # a hundred thousand of them to as many, one by one.
        connection.execute(sql.SQL("analyze {}").format(into or _identifier(table)))


def _array(series: pd.Series, kind: sa.types.TypeEngine[Any]) -> pa.Array:
    """A column as Arrow text, numbers or times that COPY reads back as `kind`."""
    if isinstance(kind, ARRAY):
        return pa.array([None if _is_null(v) else _array_literal(v) for v in series], pa.string())
    if isinstance(kind, JSONB):
        return pa.array([None if _is_null(v) else _json(v) for v in series], pa.string())
    if isinstance(kind, sa.Text):
        return pa.Array.from_pandas(series.astype("str").where(series.notna()), type=pa.string())
    if isinstance(kind, sa.Date):
        return pa.Array.from_pandas(pd.to_datetime(series), type=pa.timestamp("us")).cast(pa.date32())
    if isinstance(kind, sa.DateTime):
        stamps = pa.Array.from_pandas(pd.to_datetime(series, utc=True), type=pa.timestamp("us", "UTC"))
        return stamps.cast(pa.string())
    if isinstance(kind, sa.Boolean):
        return pa.Array.from_pandas(series.astype("boolean"), type=pa.bool_())
    if isinstance(kind, sa.BigInteger | sa.Integer):
        return pa.Array.from_pandas(series.astype("Int64"), type=pa.int64())
    if series.dtype == object:
        return pa.array([None if _is_null(v) else str(v) for v in series], pa.string())
    return pa.Array.from_pandas(series, type=pa.float64())


def _is_null(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value) or value is pd.NA


def _json(value: Any) -> str:
    if isinstance(value, str):
        return value  # already JSON
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS | orjson.OPT_SERIALIZE_NUMPY).decode()


def _array_literal(values: Iterable[Any]) -> str:
    escaped = (str(value).replace("\\", "\\\\").replace('"', '\\"') for value in values)
    return "{" + ",".join(f'"{value}"' for value in escaped) + "}"


def _series(column: pa.ChunkedArray, oid: int) -> pd.Series:
    if oid == _BOOL:
        return column.to_pandas().map({"t": True, "f": False}).astype("boolean")
    if oid == _DATE:
        return column.cast(pa.timestamp("s")).to_pandas()
    if oid in _STAMPS:
        return pd.to_datetime(column.to_pandas(), utc=True, format="ISO8601")
    if oid in _JSON:
        return pd.Series([None if v is None else orjson.loads(v) for v in column.to_pylist()], dtype=object)
    if oid in (_TEXT_ARRAY, _FLOAT_ARRAY):
        kind = float if oid == _FLOAT_ARRAY else str
        return pd.Series([_parse_array(v, kind) for v in column.to_pylist()], dtype=object)
    frame = column.to_pandas()
    if oid in (20, 21, 23) and column.null_count:
        return pd.Series(column.to_pylist(), dtype="Int64")
    return frame


def _parse_array(literal: str | None, kind: type) -> list[Any] | None:
    """The elements of a one-dimensional PostgreSQL array literal."""
    if literal is None:
        return None
    body = literal[1:-1]
    if not body:
        return []
    if '"' not in body:
        return [None if part == "NULL" else kind(part) for part in body.split(",")]
    parts: list[str] = []
    current: list[str] = []
    quoted = False
    characters = iter(body)
    for character in characters:
        if character == "\\":
            current.append(next(characters))
        elif character == '"':
            quoted = not quoted
        elif character == "," and not quoted:
            parts.append("".join(current))
            current = []
        else:
            current.append(character)
    return [kind(part) for part in [*parts, "".join(current)]]
