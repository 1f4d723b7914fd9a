"""The formulas that hostile exports carry, handed back in every cell a workbook of ours can have: none can run.

Neither in the workbook, nor once a spreadsheet has saved it as CSV and opened that again.
"""

from __future__ import annotations

import io
import re
import zipfile
from datetime import date, datetime

import openpyxl
import pytest

from benchmarks.hostile_files import FORMULAS
from crm_assets.logic import workbooks
from crm_assets.logic.landing import load_source, map_header
from crm_assets.logic.workbooks import ExportFile, RefusedRow, UnmatchedLabel

SOURCE = load_source()
NOW = datetime(2026, 1, 5)
FILE = "a" * 16
# What a spreadsheet takes for a formula when it opens a CSV; a bare number or a phone number is none.
RUNS = re.compile(r"^\s*([=@＝]|[+-](?![\d .,()€]*$))")


def refused_rows(dataset: str) -> bytes:
    spec = SOURCE.datasets[dataset]
    fields = list(spec.fields)
    header = [*fields, *FORMULAS]
    rows = []
    for text in FORMULAS:
        for code in ("RAGGED_ROW", "INVALID_KEY", "MISSING_DATE"):
            extra = [text] * 40 if code == "RAGGED_ROW" else dict.fromkeys(FORMULAS, text)
            line = len(rows) + 2
            rows.append(RefusedRow(FILE, line, FILE, line, [code], {**dict.fromkeys(fields, text), "extra": extra}))
    mapped = map_header(header, spec).fields_by_header
    file = ExportFile(f"{FORMULAS[0]}/{FORMULAS[1]}.csv", "2025-01-01", "dmy", False, mapped, header)
    return workbooks.refused_workbook(spec, rows, {FILE: file}, locale="fr", year_pivot=68, made_at=NOW).content


def unmatched_labels() -> bytes:
    labels = [
        UnmatchedLabel(text, text, 1, 10.0, date(2025, 3, 1), way, text, 90.0, text)
        for text in FORMULAS
        for way in ("fuzzy", "inferred")
    ]
    catalogue = {text: text for text in FORMULAS}
    return workbooks.unmatched_workbook(SOURCE.datasets["aliases"], labels, catalogue, locale="fr", made_at=NOW).content


@pytest.mark.parametrize("content", [*(refused_rows(name) for name in SOURCE.datasets), unmatched_labels()])
def test_no_cell_runs(content: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for name in archive.namelist():
            assert not re.search("vba|external|embed|query|connection", name, re.IGNORECASE)
            assert not re.search(rb"<f[ >]|<hyperlink|ddeLink|oleObject", archive.read(name)), name
    seen = set()
    for sheet in openpyxl.load_workbook(io.BytesIO(content)):
        for row in sheet.iter_rows():
            for cell in row:
                text = str(cell.value or "").replace("_x000D_", "\r")
                assert cell.data_type != "f"
                if isinstance(cell.value, str):
                    assert not RUNS.match(text), (sheet.title, cell.coordinate, text)
                    seen.add(text.removeprefix("'").strip())
    assert {text.strip() for text in FORMULAS} <= seen, "every formula was handed back"
