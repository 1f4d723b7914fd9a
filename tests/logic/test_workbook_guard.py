"""A workbook is looked at before it is unpacked: bombs are refused, what people really save is not."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import numpy as np
import pytest
import xlsxwriter

from benchmarks import hostile_files
from crm_assets import rules
from crm_assets.logic import workbook_guard
from crm_assets.logic.reading import UnreadableError, open_table
from crm_assets.logic.workbook_guard import _places, _Reach

LIMITS = rules.load().landing.workbook


def cases(kind: str, some: int) -> list[bytes]:
    """Contents of the first cases of a kind."""
    found: list[bytes] = []
    number = 0
    while len(found) < some:
        found += [drop.content for drop in hostile_files.drops(number) if drop.kind == kind]
        number += 1
    return found


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("bomb_sheet", "unpack to more than"),
        ("bomb_strings", "unpack to more than"),
        ("bomb_that_lies", "unpack to more than"),
        ("far_cell", "spans more than 25000000 cells"),
        ("entities", "entities of its own|describes its sheets|damaged"),
    ],
)
def test_a_bomb_is_refused_before_a_reader_sees_it(
    tmp_path: Path, kind: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("python_calamine.CalamineWorkbook", None)
    for content in cases(kind, 2):
        path = tmp_path / "bomb"
        path.write_bytes(content)
        with pytest.raises(UnreadableError, match=reason):
            open_table(path)


def test_an_old_document_that_leads_nowhere_is_refused(tmp_path: Path) -> None:
    for content in cases("compound_file", 12):
        path = tmp_path / "compound"
        path.write_bytes(content)
        with pytest.raises(UnreadableError, match="damaged spreadsheet"):
            open_table(path)


def test_cells_that_hold_nothing_do_not_count(tmp_path: Path) -> None:
    """People format whole columns; a stray format at the far end is no reason to refuse a table."""
    path = tmp_path / "formatted.xlsx"
    with xlsxwriter.Workbook(str(path)) as book:
        sheet = book.add_worksheet()
        sheet.write_row(0, 0, ["Code client", "Nom"])
        sheet.write_row(1, 0, ["C1", "x"])
        sheet.write_blank(1_048_575, 16_383, None, book.add_format({"bold": True}))
    assert [values for _, values in open_table(path).records()] == [["C1", "x"]]


def test_places_are_read_from_the_references_alone() -> None:
    references = ["A1", "XFD1048576", "AB10", "A10485760001", "ABCDEFG7", "1234567890", "B2"]
    text = "".join(f'<c r="{reference}" s="12" t="s"><v>3</v></c>' for reference in references).encode()
    at = np.array([match.end() for match in re.finditer(rb'<c r="', text)])
    rows, columns = _places(np.frombuffer(text + bytes(16), np.uint8), at)
    enormous = (1 << 31) - 1
    assert rows.tolist() == [1, 1_048_576, 10, enormous, enormous, enormous, 2]
    assert [columns.tolist()[n] for n in (0, 1, 2, 6)] == [1, 16_384, 28, 2]


@pytest.mark.parametrize(
    "cell",
    [
        "<c><v>1</v></c>",
        "<c r='XFD9'><v>1</v></c>",
        '<x:c r="XFD9"><v>1</v></x:c>',
        '<c\tr="XFD9"/>',
        '<c s="1" r="B2"/>',
    ],
)
def test_cells_written_in_another_way_are_left_to_a_parser(cell: str) -> None:
    reach = _Reach(LIMITS)
    reach.add(f'<worksheet><cols><col min="1"/></cols><row><c r="A1"><v>1</v></c>{cell}</row></worksheet>'.encode())
    assert reach.is_uncertain


def test_a_glance_and_a_parser_agree_wherever_the_xml_is_cut() -> None:
    cells = "".join(f'<row r="{r}"><c r="A{r}"><v>1</v></c><c r="ZZ{r}" s="1"/></row>' for r in range(1, 40))
    xml = f"<worksheet><sheetData>{cells}</sheetData></worksheet>".encode()
    for size in (1, 7, 64, 1000):
        reach = _Reach(LIMITS)
        for start in range(0, len(xml), size):
            reach.add(xml[start : start + size])
        assert not reach.is_uncertain
        assert reach._rectangle == (1, 39, 1, 702)


def test_chains_of_sectors_end_or_the_file_is_refused() -> None:
    for chain in ([1, 2, 0xFFFFFFFE, 0xFFFFFFFF], []):
        assert workbook_guard._followers(struct.pack(f"<{len(chain)}I", *chain)).tolist() == chain
    for circle in ([1, 0], [0], [1, 2, 3, 1]):
        with pytest.raises(workbook_guard.GuardError, match="circles"):
            workbook_guard._followers(struct.pack(f"<{len(circle)}I", *circle))


def test_an_old_workbook_that_announces_too_much_is_refused() -> None:
    """Its reader reserves what the records announce, at once: the process would be gone."""
    good = hostile_files.old_workbook([["Code client", "Nom"], ["C1", 2.5]])
    workbook_guard.check_compound(good, LIMITS)
    number = good.index(struct.pack("<HHHH", 0x0203, 14, 1, 1))
    for record, reason in (
        (struct.pack("<HHIIHH", 0x0200, 14, 0, 0x7FFFFFFF, 0, 0xFFFF), "beyond the edge"),
        (struct.pack("<HHIIHH", 0x0200, 14, 9, 2, 0, 5), "beyond the edge"),
        (struct.pack("<HHHHHd", 0x0203, 14, 1, 0xFFFF, 0, 1.0), "beyond the edge"),
    ):
        with pytest.raises(workbook_guard.GuardError, match=reason):
            workbook_guard.check_compound(good[:number] + record + good[number + len(record) :], LIMITS)
    opening = good.index(struct.pack("<HH", 0x041E, 25))
    texts = struct.pack("<HHII", 0x00FC, 25, 1, 0xFFFFFFF0)
    with pytest.raises(workbook_guard.GuardError, match="more texts"):
        workbook_guard.check_compound(good[:opening] + texts + good[opening + len(texts) :], LIMITS)
