"""Tables that dbt builds, made from frames instead: for tests and benchmarks of what reads them."""

from __future__ import annotations

import pandas as pd
import sqlalchemy as sa

from crm_assets.resources.warehouse import Warehouse, copy_frame

_TYPES = {"b": sa.Boolean, "i": sa.BigInteger, "f": sa.Double, "M": sa.Date}


def make_table(warehouse: Warehouse, name: str, frame: pd.DataFrame) -> None:
    """A new table `schema.table` with the frame's columns and rows, dates as dates."""
    schema, table = name.split(".")
    columns = [sa.Column(str(each), _TYPES.get(frame[each].dtype.kind, sa.Text)) for each in frame]
    made = sa.Table(table, sa.MetaData(), *columns, schema=schema)
    with warehouse.transaction() as connection:
        connection.execute(f"create schema if not exists {schema}".encode())
        connection.execute(str(sa.schema.CreateTable(made).compile(dialect=sa.dialects.postgresql.dialect())).encode())
        copy_frame(connection, made, frame)
