"""Reading exports: every encoding, delimiter and quoting, and two ways through a CSV against each other."""

from __future__ import annotations

import codecs
import hashlib
from datetime import date, datetime
from pathlib import Path

import pytest
import xlsxwriter
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crm_assets.logic import reading
from crm_assets.logic.reading import TableFile, UnreadableError, cell_text, detect_encoding, open_table

HEADER = ["Code client", "Libellé", "Quantité"]
ROWS = [["00123", "Crémant d’Alsace", "6"], ["C-001", "Cœur de Cuvée", "1"]]


def written(folder: Path, content: bytes, name: str = "export.csv") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def table(folder: Path, text: str, encoding: str = "utf-8") -> TableFile:
    return open_table(written(folder, text.encode(encoding)))


def joined(delimiter: str = ";", end: str = "\r\n") -> str:
    return "".join(delimiter.join(row) + end for row in [HEADER, *ROWS])


def by_both_ways(path: Path) -> list[tuple[int, list[str]]]:
    """The records, which must be the same by Arrow and by `csv`."""
    fast = [record for batch in open_table(path).batches() for record in batch.rows()]
    slow = list(open_table(path).records())
    assert fast == slow
    return fast


# --- encodings


@pytest.mark.parametrize(
    ("encoding", "found"),
    [
        ("utf-8", "utf-8"),
        ("utf-8-sig", "utf-8-sig"),
        ("utf-16", "utf-16"),
        ("utf-16-le", "utf-16-le"),
        ("utf-16-be", "utf-16-be"),
        ("cp1252", "windows-1252"),
    ],
)
def test_encodings_give_the_same_text(tmp_path: Path, encoding: str, found: str) -> None:
    opened = table(tmp_path, joined(), encoding)
    assert opened.encoding == found
    assert opened.header == HEADER
    assert list(opened.records()) == [(2, ROWS[0]), (3, ROWS[1])]


def test_utf16_big_endian_with_bom_is_excels_unicode_text(tmp_path: Path) -> None:
    path = written(tmp_path, codecs.BOM_UTF16_BE + joined("\t").encode("utf-16-be"))
    opened = open_table(path)
    assert (opened.encoding, opened.delimiter) == ("utf-16", "\t")
    assert [row for _, row in opened.records()] == ROWS


def test_an_accent_at_the_very_end_decides_the_encoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "BLOCK_BYTES", 64)
    text = "a;b\n" + "1;2\n" * 100 + "3;é\n"
    assert table(tmp_path, text, "cp1252").encoding == "windows-1252"
    assert list(table(tmp_path, text).records())[-1] == (102, ["3", "é"])


def test_a_dos_export_is_told_from_windows_by_its_letters(tmp_path: Path) -> None:
    text = "Libellé;Quantité\n" + "Crémant rosé très sec;1\nGelée à l'ancienne, pêche;2\n" * 5
    opened = table(tmp_path, text, "cp850")
    assert opened.header == ["Libellé", "Quantité"]


def test_utf8_with_other_bytes_mixed_in_is_not_guessed(tmp_path: Path) -> None:
    path = written(tmp_path, "a;é\nb;è\n".encode() + "c;ü\n".encode("cp1252"))
    with pytest.raises(UnreadableError, match="except from line 3 on"):
        open_table(path)


# --- delimiters, quotes, lines


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\r\n", "\n", "\r"])
def test_delimiters_and_line_ends(tmp_path: Path, delimiter: str, end: str) -> None:
    path = written(tmp_path, joined(delimiter, end).encode())
    assert open_table(path).delimiter == delimiter
    assert by_both_ways(path) == [(2, ROWS[0]), (3, ROWS[1])]


def test_decimal_commas_do_not_look_like_delimiters(tmp_path: Path) -> None:
    opened = table(tmp_path, "code;prix;montant\nA;1,50;3,00\nB;2,50;5,00\n")
    assert opened.delimiter == ";"
    assert [row for _, row in opened.records()] == [["A", "1,50", "3,00"], ["B", "2,50", "5,00"]]


def test_excels_separator_line_is_no_header(tmp_path: Path) -> None:
    opened = table(tmp_path, "sep=|\r\ncode|prix, net\r\nA|1\r\n")
    assert (opened.delimiter, opened.header, opened.header_line) == ("|", ["code", "prix, net"], 2)
    assert list(opened.records()) == [(3, ["A", "1"])]


def test_quoted_delimiters_quotes_and_newlines(tmp_path: Path) -> None:
    path = written(tmp_path, b'a;b;c\n1;"x;y";"say ""hi"""\n2;"two\r\nlines";z\n3;p;q\n')
    assert by_both_ways(path) == [
        (2, ["1", "x;y", 'say "hi"']),
        (3, ["2", "two\r\nlines", "z"]),
        (5, ["3", "p", "q"]),
    ]


def test_a_header_over_two_lines(tmp_path: Path) -> None:
    opened = table(tmp_path, '\n"Code\nclient";b\n1;2\n')
    assert (opened.header, opened.header_line) == (["Code\nclient", "b"], 2)
    assert list(opened.records()) == [(4, ["1", "2"])]


def test_blank_lines_are_no_records(tmp_path: Path) -> None:
    path = written(tmp_path, "a;b\n1;2\n\n;\n \t;\u00a0\n3;4\n\n\n;;;\n".encode())
    assert by_both_ways(path) == [(2, ["1", "2"]), (6, ["3", "4"])]


def test_ragged_records_stay_apart_with_line_and_number(tmp_path: Path) -> None:
    path = written(tmp_path, b"a;b;c\n1;2;3\n4;5\n6;7;8\n9;10;11;12\n13;14;15\n")
    for vectorised in (True, False):
        (batch,) = open_table(path).batches(vectorised=vectorised)
        assert batch.lines.tolist() == [2, 4, 6]
        assert batch.row_numbers.tolist() == [1, 3, 5]
        assert [(r.line, r.row_no, r.values) for r in batch.ragged] == [
            (3, 2, ["4", "5"]),
            (5, 4, ["9", "10", "11", "12"]),
        ]


def test_a_header_in_the_middle_is_a_row_like_any_other(tmp_path: Path) -> None:
    once = joined().encode("utf-8-sig")
    path = written(tmp_path, once + once)  # two exports, one behind the other
    assert by_both_ways(path) == [
        (2, ROWS[0]),
        (3, ROWS[1]),
        (4, ["\ufeff" + HEADER[0], *HEADER[1:]]),
        (5, ROWS[0]),
        (6, ROWS[1]),
    ]


def test_mixed_line_ends_count_as_one_line_each(tmp_path: Path) -> None:
    path = written(tmp_path, b'a;b\r\n1;2\n3;4\r5;6\r\n"7\r8";9\n10;11')
    assert by_both_ways(path) == [
        (2, ["1", "2"]), (3, ["3", "4"]), (4, ["5", "6"]), (5, ["7\r8", "9"]), (7, ["10", "11"]),
    ]  # fmt: skip


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-8"])
def test_a_nul_character_is_binary_data_on_its_line(tmp_path: Path, encoding: str) -> None:
    path = written(tmp_path, ("a;b\n" + "1;2\n" * 30 + "3;\x004\n").encode(encoding))
    with pytest.raises(UnreadableError, match="binary data on line 32"):
        list(open_table(path).batches())


def test_a_file_that_says_it_is_utf8_and_is_not(tmp_path: Path) -> None:
    path = written(tmp_path, codecs.BOM_UTF8 + b"a;b\n1;2\n" + "3;é\n".encode("cp1252"))
    for vectorised in (True, False):
        with pytest.raises(UnreadableError, match="says it is UTF-8 and is not on line 3"):
            list(open_table(path).batches(vectorised=vectorised))


def test_a_line_without_an_end_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "BLOCK_BYTES", 100)
    monkeypatch.setattr(reading, "LINE_BYTES", 1000)
    path = written(tmp_path, b"a;b\n1;2\n" + b"x" * 5000)
    with pytest.raises(UnreadableError, match="has a line of more than"):
        list(open_table(path).batches())


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7])
def test_utf8_is_known_wherever_a_block_cuts_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(reading, "BLOCK_BYTES", size)
    text = "a;b\né;€\n𝄞;œ\n"
    assert table(tmp_path, text).encoding == "utf-8"
    assert list(table(tmp_path, text).records()) == [(2, ["é", "€"]), (3, ["𝄞", "œ"])]
    with pytest.raises(UnreadableError, match="except from line 4 on"):
        detect_encoding(written(tmp_path, text.encode() + "é".encode()[:1]))


def test_a_quote_that_is_never_closed_is_named_by_its_line(tmp_path: Path) -> None:
    opened = table(tmp_path, 'a;b\n1;2\n3;"open\n4;5\n6;7\n')
    with pytest.raises(UnreadableError, match="line 3"):
        list(opened.batches())


def test_a_stray_quote_inside_a_value_is_part_of_it(tmp_path: Path) -> None:
    path = written(tmp_path, b'a;b\nbottle 12";2\n3;4\n')
    assert by_both_ways(path) == [(2, ['bottle 12"', "2"]), (3, ["3", "4"])]


PIECES = st.sampled_from(
    ['"', '""', ";", "\n", "\r\n", "\r", "a", "é", " ", "", '"x;y"', "1,5", "\t", '"l\nm"', "\ufeff", "\u00a0", '"\r"']
)


@given(
    pieces=st.lists(PIECES, max_size=60),
    block=st.sampled_from([24, 31, 1 << 20]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_both_ways_through_any_file_give_the_same(tmp_path: Path, pieces: list[str], block: int, encoding: str) -> None:
    path = written(tmp_path, ("sep=;\na;b\n" + "".join(pieces)).encode(encoding))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "BLOCK_BYTES", block)
        found: list[object] = []
        for vectorised in (True, False):
            opened = open_table(path)
            try:
                batches = list(opened.batches(vectorised=vectorised))
            except UnreadableError as error:
                found.append(str(error))
            else:
                numbers = [n for b in batches for n in [*b.row_numbers.tolist(), *(r.row_no for r in b.ragged)]]
                assert sorted(numbers) == list(range(1, len(numbers) + 1))
                assert opened.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
                found.append([record for batch in batches for record in batch.rows()])
        assert found[0] == found[1]


def test_blocks_of_any_size_give_the_same_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        "a;b;c",
        *(f'{n};"w {n}";é{n}' if n % 5 else f'{n};"w\n{n}";é' for n in range(200)),
        "x;y",
        "1;2;3",
    ]
    path = written(tmp_path, "\r\n".join(lines).encode())
    whole = by_both_ways(path)
    assert len(whole) == 202
    for size in (3, 10, 64, 1000):
        monkeypatch.setattr(reading, "BLOCK_BYTES", size)
        assert by_both_ways(path) == whole


# --- what is no table


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"\r\n \r\n", "is empty"),
        (codecs.BOM_UTF8 + b"\n", "is empty"),
        (b"%PDF-1.7\nxyz", "PDF"),
        (b"PK\x03\x04 not really", "damaged spreadsheet"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\x00" * 600, "damaged spreadsheet"),
        (b"<html><table><tr><td>1</td></tr></table></html>", "web page"),
        (bytes(range(256)) * 20, "no text in any known encoding"),
        (bytes(range(1, 32)) * 20, "binary data"),
        (b"a;b\n" + b"1;2\n" * 200 + b"\x003;4\n", "binary data on line 202"),
    ],
)
def test_garbage_is_refused_with_a_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(UnreadableError, match=reason):
        list(open_table(path).batches())


# --- spreadsheets


def workbook(folder: Path) -> Path:
    path = folder / "export.bin"  # the content tells what it is, not the name
    with xlsxwriter.Workbook(str(path)) as book:
        sheet = book.add_worksheet("Ventes")
        book.add_worksheet("Autre").write(0, 0, "not this one")
        day = book.add_format({"num_format": "dd/mm/yyyy"})
        padded = book.add_format({"num_format": "00000"})
        sheet.write_row(1, 1, ["Code client", "CP", "Date", "Quantité", "Prix", "Actif"])
        sheet.write_row(2, 1, ["00123", "01000"])
        sheet.write_datetime(2, 3, datetime(2024, 3, 5), day)
        sheet.write_row(2, 4, [5, 0.1 + 0.2, True])
        sheet.write_number(4, 1, 123)
        sheet.write_number(4, 2, 1000, padded)
        sheet.write_number(4, 3, 45356)
        sheet.write_datetime(5, 3, datetime(2024, 3, 5, 10, 30), day)
    return path


def test_a_spreadsheet_is_text_as_a_person_would_type_it(tmp_path: Path) -> None:
    path = workbook(tmp_path)
    opened = open_table(path)
    assert (opened.format, opened.encoding, opened.header_line) == ("xlsx", None, 2)
    assert opened.header == ["Code client", "CP", "Date", "Quantité", "Prix", "Actif"]
    assert list(opened.records()) == [
        (3, ["00123", "01000", "2024-03-05", "5", "0.3", "true"]),
        (5, ["123", "01000", "45356", "", "", ""]),
        (6, ["", "", "2024-03-05 10:30:00", "", "", ""]),
    ]
    assert opened.has_decimal_points
    assert opened.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


FIXTURES = Path(__file__).parent.parent / "fixtures"


def test_an_old_xls_is_read_like_an_xlsx() -> None:
    opened = open_table(FIXTURES / "ventes.xls")  # its first sheet is hidden
    assert opened.format == "xls"
    assert opened.header == ["Code client", "N° pièce", "Désignation", "Date commande", "Quantité", "Mt HT", "Remise"]
    assert list(opened.records()) == [
        (2, ["00123", "F1", "Crémant d’Alsace", "2024-03-05", "6", "60.5", "0.2"]),  # 20 % is the number 0.2
        (3, ["C-001", "F2", "Cœur de Cuvée", "06/03/2024", "12", "9,90", ""]),  # numbers and dates kept as text
        (4, ["C2", "F3", "Riesling", "2024-03-07 10:30:00", "1", "0.3", "true"]),
    ]


def test_formulas_percents_and_merged_cells(tmp_path: Path) -> None:
    path = tmp_path / "book.xlsx"
    with xlsxwriter.Workbook(str(path)) as book:
        sheet = book.add_worksheet()
        sheet.write_row(0, 0, ["a", "b", "c", "d"])
        sheet.write_formula(1, 0, "=2*3", None, 6)
        sheet.write_formula(1, 1, '="x"', None, "x")
        sheet.write_number(1, 2, 0.205, book.add_format({"num_format": "0.0%"}))
        sheet.write_string(1, 3, "0012,50")
        sheet.merge_range(2, 0, 3, 0, "merged")
        sheet.write(2, 1, "u")
        sheet.write(3, 1, "v")
    assert list(open_table(path).records()) == [
        (2, ["6", "x", "0.205", "0012,50"]),
        (3, ["merged", "u", "", ""]),
        (4, ["", "v", "", ""]),  # only the first of merged cells says anything
    ]


def test_an_error_in_a_cell_is_not_nothing(tmp_path: Path) -> None:
    path = tmp_path / "book.xlsx"
    with xlsxwriter.Workbook(str(path)) as book:
        sheet = book.add_worksheet()
        sheet.write_row(2, 1, ["a", "b"])
        sheet.write_formula(3, 1, "=NA()", None, "#N/A")
        sheet.write_formula(3, 2, "=1+1", None, 2)
        sheet.write(4, 1, "x")
        sheet.write_formula(4, 2, "=1/0", None, "#DIV/0!")
    assert list(open_table(path).records()) == [(4, ["#N/A", "2"]), (5, ["x", "#DIV/0!"])]


def test_dates_of_a_workbook_that_counts_from_1904(tmp_path: Path) -> None:
    path = tmp_path / "mac.xlsx"
    with xlsxwriter.Workbook(str(path), {"date_1904": True}) as book:
        sheet = book.add_worksheet()
        sheet.write_row(0, 0, ["date", "text"])
        sheet.write_datetime(1, 0, datetime(2024, 3, 5), book.add_format({"num_format": "dd/mm/yyyy"}))
        sheet.write(1, 1, "05/03/2024")
    assert list(open_table(path).records()) == [(2, ["2024-03-05", "05/03/2024"])]


def test_true_is_not_one(tmp_path: Path) -> None:
    path = tmp_path / "mixed.xlsx"
    with xlsxwriter.Workbook(str(path)) as book:
        sheet = book.add_worksheet()
        sheet.write_column(0, 0, ["a", True, 1, 0, False, "1"])
        sheet.write_column(0, 1, ["b", "x", "x", "x", "x", "x"])
    assert [row[0] for _, row in open_table(path).records()] == ["true", "1", "0", "false", "1"]


def test_the_first_sheet_is_the_first_that_a_person_sees(tmp_path: Path) -> None:
    path = tmp_path / "book.xlsx"
    padded = {"num_format": "00000"}
    with xlsxwriter.Workbook(str(path)) as book:
        hidden = book.add_worksheet("Paramètres")
        hidden.write(0, 0, "not this one")
        chart = book.add_chartsheet("Courbe")
        sheet = book.add_worksheet("Ventes")
        sheet.write_row(0, 0, ["CP", "b"])
        sheet.write_number(1, 0, 1000, book.add_format(padded))
        lines = book.add_chart({"type": "line"})
        lines.add_series({"values": "=Ventes!$A$2:$A$2"})
        chart.set_chart(lines)
        sheet.activate()
        hidden.hide()
    assert list(open_table(path).records()) == [(2, ["01000", ""])]


def test_an_empty_first_sheet_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "book.xlsx"
    with xlsxwriter.Workbook(str(path)) as book:
        book.add_worksheet("Feuil1")
        book.add_worksheet("Ventes").write_row(0, 0, ["a", "b"])
    with pytest.raises(UnreadableError, match=r"nothing on its first sheet \('Feuil1'\).*also 'Ventes'"):
        open_table(path)


def test_an_empty_workbook_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "empty.xlsx"
    xlsxwriter.Workbook(str(path)).close()
    with pytest.raises(UnreadableError, match="is empty"):
        open_table(path)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (5.0, "5"),
        (3760012345678.0, "3760012345678"),
        (12.5, "12.5"),
        (1e-7, "0.0000001"),
        (-0.25, "-0.25"),
        (date(2024, 1, 2), "2024-01-02"),
        (datetime(2024, 1, 2, 3, 4), "2024-01-02 03:04:00"),
        (False, "false"),
        (None, ""),
        ("00123", "00123"),
    ],
)
def test_cells(value: object, text: str) -> None:
    assert cell_text(value) == text


def test_the_samples_are_read_alike_both_ways(samples: Path) -> None:
    paths = sorted((samples / "isavigne").rglob("*.*"))
    assert paths
    for path in paths:
        assert by_both_ways(path)
