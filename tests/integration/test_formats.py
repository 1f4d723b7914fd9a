"""One content in every format an estate can export it in: the curated tables are the same.

The content is that of `data/samples/isavigne`, read here by `csv` and calamine alone, its values typed, and written
anew in each way. Left out are its ragged rows (a spreadsheet knows none), and of the comparison what names a file or
a line of it, and the refused rows' own text, which is what stood in the file.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import xlsxwriter
from psycopg import sql
from python_calamine import CalamineWorkbook

from benchmarks import hostile
from benchmarks.hostile_files import SERIAL_EPOCH, old_workbook
from crm_assets.databases import Cluster
from crm_assets.logic.landing import load_source, map_header
from crm_assets.resources.drop_zone import DropZone
from crm_assets.resources.raw_store import land
from crm_assets.resources.warehouse import Warehouse
from tests.conftest import PREFIX, fresh_warehouse

MODIFIED = datetime(2025, 12, 31, 12).timestamp()
# What tells files and lines apart, and the refused row as it stood in its file.
NAMING = frozenset(
    {"file_id", "file_no", "source_line", "path", "row", "row_id", "position", "file_rank", "file_version", "build_no"}
)

Value = str | Decimal | date


@dataclass(frozen=True)
class Export:
    """One file's content: texts, and typed what a program would know the type of."""

    folder: str
    stem: str
    header: list[str]
    types: list[str]  # of each column: text number date bool
    codes: list[bool]  # whether a column holds codes of digits, which a spreadsheet may keep as padded numbers
    rows: list[list[Value]]


def exports(samples: Path) -> Iterator[Export]:
    source = load_source()
    by_folder = {spec.folder: spec for spec in source.datasets.values()}
    for path in sorted((samples / "isavigne").rglob("*.*")):
        spec = by_folder[path.parent.name]
        header, *rows = texts(path)
        fields = {place: name for name, place in map_header(header, spec).columns.items()}
        types = [spec.fields[fields[n]].type if n in fields else "text" for n in range(len(header))]
        yield Export(
            path.parent.name,
            path.stem,
            header,
            types,
            [fields.get(place) in {"client_code", "postal_code"} for place in range(len(header))],
            [
                [typed(cell, kind) for cell, kind in zip(row, types, strict=True)]
                for row in rows
                if len(row) == len(header)
            ],
        )


def texts(path: Path) -> list[list[str]]:
    """A sample's cells as a person would read them, French."""
    if path.suffix == ".xlsx":
        rows = CalamineWorkbook.from_path(path).get_sheet_by_index(0).to_python()
        return [[shown(cell) for cell in row] for row in rows]
    content = path.read_bytes()
    for encoding in ("utf-8-sig", "cp1252"):
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        break
    text = text.replace("\u202f", "\u00a0")  # Windows-1252 has only one of the two
    return list(csv.reader(io.StringIO(text, newline=""), delimiter=";"))


def shown(cell: Any) -> str:
    if isinstance(cell, date):
        return f"{cell:%d/%m/%Y}"
    if isinstance(cell, float):
        return f"{cell:.10g}".replace(".", ",")
    return str(cell)


def typed(text: str, kind: str) -> Value:
    """The value a program would have exported; what is no value of its kind stays the text it is."""
    if kind == "date" and (found := re.fullmatch(r"(\d\d)/(\d\d)/(\d{4})", text)):
        try:
            return date(int(found[3]), int(found[2]), int(found[1]))
        except ValueError:
            return text
    if kind == "date" and re.fullmatch(r"4\d{4}", text):  # a day that the sample workbook has as a bare number
        return SERIAL_EPOCH + timedelta(days=int(text))
    if kind == "number" and re.fullmatch(r"-?\d{1,3}([ \u00a0]?\d{3})*(,\d+)?", text):
        return Decimal(re.sub(r"[ \u00a0]", "", text).replace(",", "."))
    return text


# --- the ways to write it


def french(value: Value) -> str:
    if isinstance(value, Decimal):
        return f"{value:,f}".replace(",", " ").replace(".", ",")
    return f"{value:%d/%m/%Y}" if isinstance(value, date) else value


def english(value: Value) -> str:
    return f"{value:f}" if isinstance(value, Decimal) else str(value)


def as_text(export: Export, write: Callable[[Value], str], delimiter: str, encoding: str, newline: str) -> bytes:
    sink = io.StringIO(newline="")
    writer = csv.writer(sink, delimiter=delimiter, lineterminator=newline)
    writer.writerow(export.header)
    writer.writerows([[write(value) for value in row] for row in export.rows])
    return sink.getvalue().encode(encoding)


def as_workbook(export: Export) -> bytes:
    """Numbers and dates typed; codes of five digits as text in odd rows, as numbers shown by a format in even ones."""
    sink = io.BytesIO()
    with xlsxwriter.Workbook(sink, {"in_memory": True}) as book:
        sheet = book.add_worksheet("Export")
        day, padded = book.add_format({"num_format": "dd/mm/yyyy"}), book.add_format({"num_format": "00000"})
        sheet.write_row(0, 0, export.header)
        for line, row in enumerate(export.rows, start=1):
            for column, value in enumerate(row):
                if isinstance(value, Decimal):
                    sheet.write_number(line, column, float(value))
                elif isinstance(value, date):
                    sheet.write_datetime(line, column, value, day)
                elif line % 2 == 0 and export.codes[column] and re.fullmatch(r"\d{5}", value):
                    sheet.write_number(line, column, int(value), padded)
                elif value:
                    sheet.write_string(line, column, value)
    return sink.getvalue()


def as_old_workbook(export: Export) -> bytes:
    """The same as XLS, codes as text: of number formats its reader knows dates alone."""
    cells = [[float(value) if isinstance(value, Decimal) else value for value in row] for row in export.rows]
    return old_workbook([export.header, *cells])


FORMATS: dict[str, tuple[str, Callable[[Export], bytes]]] = {
    "semicolons, Windows-1252, French": (".csv", lambda export: as_text(export, french, ";", "cp1252", "\r\n")),
    "commas, UTF-8, ISO": (".csv", lambda export: as_text(export, english, ",", "utf-8", "\n")),
    "tabs, UTF-16, French": (".txt", lambda export: as_text(export, french, "\t", "utf-16", "\r\n")),
    "workbook": (".xlsx", as_workbook),
    "old workbook": (".xls", as_old_workbook),
}


def drop(folder: Path, content: list[Export], ending: str, write: Callable[[Export], bytes]) -> None:
    for number, export in enumerate(content):
        path = folder / "isavigne" / export.folder / f"{export.stem}{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(write(export))
        os.utime(path, (MODIFIED + number, MODIFIED + number))  # files of one day keep their order in every format


def curated(warehouse: Warehouse) -> dict[str, list[str]]:
    """table -> its rows as sorted text, without what names files and lines."""
    columns: dict[str, list[str]] = {}
    for table, column in warehouse.rows(
        "select table_name, column_name from information_schema.columns where table_schema = 'curated' order by 1, 2"
    ):
        if column not in NAMING:
            columns.setdefault(table, []).append(column)
    found = {}
    for table, names in columns.items():
        statement = sql.SQL("select {} from {}").format(
            sql.SQL(", ").join(map(sql.Identifier, names)), sql.Identifier("curated", table)
        )
        with warehouse.transaction() as connection:
            rows = connection.execute(statement).fetchall()
        found[table] = sorted(str(dict(zip(names, map(comparable, row), strict=True))) for row in rows)
    return found


def comparable(value: Any) -> Any:
    return value.normalize() if isinstance(value, Decimal) else value  # 60.50 is 60.5


def test_one_content_gives_one_curated_estate_whatever_its_format(
    cluster: Cluster, template: str, samples: Path, tmp_path: Path
) -> None:
    content = list(exports(samples))
    assert sum(len(export.rows) for export in content) > 5000
    assert any(
        isinstance(value, Decimal) and value > 1000 for export in content for row in export.rows for value in row
    )
    estates: dict[str, dict[str, list[str]]] = {}
    for number, (name, (ending, write)) in enumerate(FORMATS.items()):
        drop(tmp_path / str(number), content, ending, write)
        # One name for all databases, one after the other: dbt then parses the project once.
        with fresh_warehouse(cluster, template, f"{PREFIX}formats") as warehouse:
            report = land(
                warehouse, DropZone(tmp_path / str(number)), hostile.estate(), load_source(), hostile.NOW,
                pause=lambda seconds: None,
            )  # fmt: skip
            assert report.status_counts == {"loaded": len(content)}, (name, report.outcomes)
            failed = hostile.build(warehouse, with_tests=False)
            assert not failed, failed
            estates[name] = curated(warehouse)
    reference, *others = estates
    expected = estates[reference]
    for table in (
        "fct_sales_lines",
        "fct_orders",
        "dim_customers",
        "dim_products",
        "quarantined_rows",
        "contact_events",
    ):
        assert expected[table], table
    for name in others:
        assert estates[name].keys() == expected.keys()
        for table, rows in expected.items():
            missing = sorted(set(rows) - set(estates[name][table]))
            extra = sorted(set(estates[name][table]) - set(rows))
            assert estates[name][table] == rows, f"{name}: {table}: {len(missing)} rows differ:\n" + "\n".join(
                f"- {one}\n+ {other}" for one, other in zip(missing[:3], extra[:3], strict=False)
            )
