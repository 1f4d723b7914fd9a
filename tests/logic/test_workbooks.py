"""Workbooks for the estate: what is written comes back as it was, says why, and can not run as a formula."""

from __future__ import annotations

import csv
import io
import json
import string
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path
from typing import Any

import openpyxl
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crm_assets import rendering
from crm_assets.logic import mended, workbooks
from crm_assets.logic.landing import RowMaker, load_source, map_header
from crm_assets.logic.reading import open_table
from crm_assets.logic.workbooks import Column, ExportFile, RefusedRow, UnmatchedLabel, name_columns

SOURCE = load_source()
SALES = SOURCE.datasets["sales_lines"]
NOW = datetime(2026, 1, 5)
A, B, C = ("a" * 16, "b" * 16, "c" * 16)
HEADER = ["Code client", "N° pièce", "SKU", "Date commande", "Quantité", "Mt HT", "Remarque"]
LANGUAGES = ("fr", "en", "de")


def export(header: Sequence[str] = HEADER, dataset: str = "sales_lines", **changes: Any) -> ExportFile:
    spec = SOURCE.datasets[dataset]
    about = {
        "path": f"isavigne/{spec.folder}/export.csv",
        "order_key": "2025-01-01",
        "date_order": "dmy",
        "is_spreadsheet": False,
        "fields": map_header(header, spec).fields_by_header,
        "header": header,
    }
    return ExportFile(**{**about, **changes})


def refused(line: int, codes: Sequence[str], *, file_id: str = A, **row: Any) -> RefusedRow:
    return RefusedRow(file_id, line, file_id, line, codes, row)


def book(
    rows: Sequence[RefusedRow],
    files: Mapping[str, ExportFile] | None = None,
    dataset: str = "sales_lines",
    locale: str = "fr",
) -> workbooks.Written:
    spec = SOURCE.datasets[dataset]
    return workbooks.refused_workbook(spec, rows, files or {A: export()}, locale=locale, year_pivot=68, made_at=NOW)


def cells(content: bytes) -> list[dict[str, Any]]:
    """The first sheet's rows as header -> openpyxl cell."""
    sheet = openpyxl.load_workbook(io.BytesIO(content)).worksheets[0]
    header, *rows = sheet.iter_rows()
    return [{str(name.value): cell for name, cell in zip(header, row, strict=True)} for row in rows]


def landed(path: Path, dataset: str = "sales_lines") -> list[dict[str, Any]]:
    """The raw rows that a dropped workbook becomes."""
    table = open_table(path)
    assert mended.own_dataset(table.header, SOURCE) == dataset
    spec = SOURCE.datasets[dataset]
    table = mended.as_export(table, spec)
    maker = RowMaker(map_header(table.header, spec), "f" * 16, is_spreadsheet=table.format != "csv")
    return [row for batch in table.batches() for row in maker.table(batch, maker.fields(batch)).to_pylist()]


def saved(tmp_path: Path, content: bytes, name: str = "n'importe quoi.xlsx") -> Path:
    path = tmp_path / name
    path.write_bytes(content)
    return path


# --- refused rows


def test_a_row_comes_back_as_it_stood_with_its_reference(tmp_path: Path) -> None:
    row: dict[str, Any] = {
        "client_code": "00123",
        "document_no": "F-1",
        "product_key": "01000",
        "order_date": "31/04/2024",
        "quantity": "1.234",
        "amount_ht": "-12,50 €",
        "extra": {"Remarque": " deux  lignes\r\nà la suite_x000D_ "},
    }
    written = book([refused(7, ["INVALID_DATE"], **row)])
    (back,) = landed(saved(tmp_path, written.content))
    assert back["mends"] == f"{A}:7"
    assert back["extra"] == '{"Remarque": " deux  lignes\\r\\nà la suite_x000D_ "}'
    assert {name: back[name] for name in row if name != "extra"} == {n: v for n, v in row.items() if n != "extra"}
    assert back["problems"] is None


@pytest.mark.parametrize("locale", LANGUAGES)
def test_all_cells_are_texts_and_only_the_estates_can_be_changed(locale: str) -> None:
    rows = [refused(2, ["MISSING_CLIENT"], document_no="12", quantity="6", amount_ht="5", order_date="45356")]
    (row,) = cells(book(rows, locale=locale).content)
    names = rendering.texts(locale)["workbooks"]["columns"]
    own = {names["why"], names["file"], names["line"], "crm_ref_ventes_lignes"}
    assert set(row) == own | set(HEADER) - {"Remarque"}
    for name, cell in row.items():
        assert cell.value is None or isinstance(cell.value, str), name
        assert cell.number_format == "@", name
        assert cell.protection.locked == (name in own), name
    assert row["crm_ref_ventes_lignes"].value == f"{A}:2"
    assert row[names["line"]].value == "2"
    assert row["Code client"].fill.fgColor.rgb.endswith(workbooks._TO_MEND[1:])
    assert row["Quantité"].fill.fill_type is None


def test_the_sheet_is_laid_out_for_work() -> None:
    made = openpyxl.load_workbook(io.BytesIO(book([refused(2, ["MISSING_CLIENT"], quantity="6")]).content))
    assert made.sheetnames == ["À corriger", "Mode d’emploi"]
    sheet = made.worksheets[0]
    assert sheet.freeze_panes == "B2"
    assert sheet.auto_filter.ref == "A1:J2"
    assert sheet.protection.sheet
    assert not sheet.protection.password
    assert not sheet.protection.autoFilter
    assert sheet.column_dimensions["J"].width < 5
    (message,) = sheet.data_validations.dataValidation
    assert "J2" in str(message.sqref)
    assert len(message.prompt) <= 255
    explained = "\n".join(str(row[0].value or "") for row in made.worksheets[1].iter_rows())
    assert "crm_ref_ventes_lignes" in explained
    assert "crm_plus" not in explained


@pytest.mark.parametrize("locale", LANGUAGES)
@pytest.mark.parametrize("dataset", SOURCE.datasets)
def test_every_code_is_explained_and_points_at_a_cell(dataset: str, locale: str) -> None:
    spec = SOURCE.datasets[dataset]
    header = [field.synonyms[0] for field in spec.fields.values()]
    codes = rendering.texts(locale)["workbooks"]["codes"]
    applicable = [
        code
        for code in codes
        if code != "RAGGED_ROW"
        and workbooks._faulty(code, spec, dict.fromkeys(spec.fields, "x"), export(header, dataset), 68, set())
    ]
    rows = [refused(n, [code], **dict.fromkeys(spec.fields, "x")) for n, code in enumerate(applicable, start=2)]
    why = rendering.texts(locale)["workbooks"]["columns"]["why"]
    for code, row in zip(
        applicable, cells(book(rows, {A: export(header, dataset)}, dataset, locale).content), strict=True
    ):
        pointed = [name for name, cell in row.items() if name != why and cell.fill.fgColor.rgb == "FFFFD966"]
        assert pointed, code
        assert all(name in row[why].value for name in pointed)
        assert "{" not in row[why].value
    assert len(applicable) >= 2


def test_what_does_not_parse_is_coloured_and_nothing_else() -> None:
    rows = [
        refused(2, ["INVALID_NUMBER", "INVALID_DATE"], quantity="six", amount_ht="12,5", order_date="05/13/2024"),
        refused(3, ["INVALID_DATE"], quantity="6", amount_ht="12,5", order_date="30/02/2024"),
    ]
    first, second = cells(book(rows).content)
    coloured = [
        {n for n, c in row.items() if n in HEADER and c.fill.fgColor.rgb == "FFFFD966"} for row in (first, second)
    ]
    assert coloured == [{"Quantité", "Date commande"}, {"Date commande"}]
    assert "nombre («\u00a0Quantité\u00a0»)" in first["crm_pourquoi"].value
    mdy = {A: export(date_order="mdy")}
    (row,) = cells(book([refused(2, ["INVALID_DATE"], order_date="13/05/2024")], mdy).content)
    assert row["Date commande"].fill.fgColor.rgb == "FFFFD966"


def test_only_the_code_that_is_none_is_pointed_at() -> None:
    rows = [
        refused(2, ["INVALID_KEY"], client_code="#REF!", product_key="P1"),
        refused(3, ["INVALID_KEY"], client_code="C1", product_key="---"),
        refused(
            4, ["INVALID_KEY"], client_code="C1", product_key="P1"
        ),  # refused for another reason: both may be meant
    ]
    coloured = [
        {n for n in ("Code client", "SKU") if c[n].fill.fgColor.rgb == "FFFFD966"} for c in cells(book(rows).content)
    ]
    assert coloured == [{"Code client"}, {"SKU"}, {"Code client", "SKU"}]


def test_a_missing_value_gets_a_column_where_the_export_had_none(tmp_path: Path) -> None:
    header = ["produit_key", "quantite"]
    files = {A: export(header, "stock")}
    written = book([refused(2, ["MISSING_DATE"], product_key="P1", quantity="6")], files, "stock")
    (row,) = cells(written.content)
    assert row["date_snapshot"].value is None
    assert row["date_snapshot"].fill.fgColor.rgb == "FFFFD966"
    (back,) = landed(saved(tmp_path, written.content), "stock")
    assert (back["product_key"], back["as_of"]) == ("P1", None)


def test_files_that_disagree_share_one_workbook(tmp_path: Path) -> None:
    # One file calls delivery_date `date`, of which the other has its own besides `date_livraison`.
    old = ["client", "facture", "sku", "date", "date_commande", "qte", "ca"]
    new = ["Client", "Facture", "sku", "date", "date_livraison", "Quantité", "ttc", "Zone"]
    files = {A: export(old, order_key="2024"), B: export(new, order_key="2025")}
    rows = [
        refused(2, ["MISSING_CLIENT"], delivery_date="01/02/2024", order_date="01/01/2024", quantity="1"),
        refused(3, ["MISSING_CLIENT"], file_id=B, delivery_date="3/3/2025", extra={"date": "x", "Zone": "=y"}),
    ]
    written = book(rows, files)
    header = list(cells(written.content)[0])
    assert "Client" in header
    assert "Quantité" in header
    assert "client" not in header
    back = landed(saved(tmp_path, written.content))
    assert [row["delivery_date"] for row in back] == ["01/02/2024", "3/3/2025"]
    assert [row["order_date"] for row in back] == ["01/01/2024", None]
    assert json.loads(back[0]["extra"]) == {"date": None, "Zone": None}
    assert '"x"' in back[1]["extra"]
    assert '"Zone": "=y"' in back[1]["extra"]


def test_what_landing_worked_out_is_not_handed_back() -> None:
    # A tenant's fixed value, or a name split off another column: it will be worked out again.
    header = ["produit_key", "quantite"]
    rows = [refused(2, ["INVALID_NUMBER"], product_key="P1", quantity="x", warehouse="Principal")]
    assert "Principal" not in {
        cell.value for cell in cells(book(rows, {A: export(header, "stock")}, "stock").content)[0].values()
    }


def test_a_row_mended_in_vain_keeps_the_first_reference() -> None:
    again = RefusedRow(A, 7, B, 2, ["MISSING_CLIENT"], {"quantity": "6"})
    files = {A: export(), B: export(path="mended.xlsx", order_key="2026")}
    (row,) = cells(book([again], files).content)
    assert row["crm_ref_ventes_lignes"].value == f"{A}:7"
    assert (row["crm_fichier"].value, row["crm_ligne"].value) == ("isavigne/ventes_lignes/export.csv", "7")
    assert "mended.xlsx" in row["crm_pourquoi"].value
    assert "encore refusée" in row["crm_pourquoi"].value


def test_a_text_that_no_cell_can_hold_is_reported_not_cut() -> None:
    rows = [refused(2, ["MISSING_CLIENT"], quantity="x" * 40_000), refused(3, ["MISSING_CLIENT"], quantity="1")]
    written = book(rows)
    assert (written.rows, written.too_long) == (1, 1)
    assert [row["crm_ligne"].value for row in cells(written.content)] == ["3"]


def test_the_same_rows_give_the_same_bytes() -> None:
    rows = [refused(line, ["MISSING_CLIENT"], quantity="6") for line in range(2, 9)]
    assert book(rows).content == book(rows[::-1]).content


# --- ragged rows


def test_a_ragged_row_is_laid_out_in_order_with_nothing_left_out() -> None:
    values = ["C3", "F3", "P1", "01/02/2024", "6", "12", "remarque", "=de", "trop"]
    long, short = cells(
        book([refused(2, ["RAGGED_ROW"], extra=values), refused(3, ["RAGGED_ROW"], extra=["C4", "F4"])]).content
    )
    assert [long[name].value for name in HEADER] == values[:7]
    assert [long["crm_plus_1"].value, long["crm_plus_2"].value] == ["'=de", "trop"]
    assert [short[name].value for name in HEADER[:3]] == ["C4", "F4", None]
    assert "vider" in short["crm_plus_1"].value
    assert not long["crm_plus_1"].protection.locked


def test_without_the_header_the_values_are_all_shown_for_a_person_to_place() -> None:
    (row,) = cells(book([refused(2, ["RAGGED_ROW"], extra=["C4", "F4"])], {A: replace(export(), header=None)}).content)
    assert [row["crm_plus_1"].value, row["crm_plus_2"].value] == ["C4", "F4"]
    assert "Code client" in row


def test_a_ragged_row_stays_one_until_its_surplus_is_cleared(tmp_path: Path) -> None:
    rows = [refused(2, ["RAGGED_ROW"], extra=[*"ABCDEFG", "H"]), refused(3, ["RAGGED_ROW"], extra=["C4", "F4"])]
    path = saved(tmp_path, book(rows).content)
    back = landed(path)
    assert [row["problems"] for row in back] == ["{RAGGED_ROW}"] * 2
    assert [row["mends"] for row in back] == [f"{A}:2", f"{A}:3"]
    assert '"H"' in back[0]["extra"]

    made = openpyxl.load_workbook(path)
    sheet = made.worksheets[0]
    place = [cell.value for cell in sheet[1]].index("crm_plus_1") + 1
    sheet.cell(2, place).value = None
    made.save(path)
    first, second = sorted(landed(path), key=lambda row: row["mends"])
    assert (first["problems"], first["client_code"], first["amount_ht"]) == (None, "A", "F")
    assert second["problems"] == "{RAGGED_ROW}"


def test_a_ragged_row_of_a_mended_file_is_laid_out_again(tmp_path: Path) -> None:
    path = saved(tmp_path, book([refused(2, ["RAGGED_ROW"], extra=[*"ABCDEFG", "H"])]).content)
    header = mended.as_export(open_table(path), SALES).header
    (row,) = landed(path)
    again = RefusedRow(A, 2, B, 2, ["RAGGED_ROW"], {"extra": json.loads(row["extra"])})
    (back,) = cells(book([again], {A: export(), B: export(header, order_key="2026")}).content)
    assert [back[name].value for name in HEADER] == list("ABCDEFG")
    assert back["crm_plus_1"].value == "H"
    assert "crm_plus_2" not in back
    assert back["crm_ref_ventes_lignes"].value == f"{A}:2"


# --- formulas

ACTIVE = ["=1+1", '=HYPERLINK("http://x")', "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1"]


@pytest.mark.parametrize("text", [*ACTIVE, "'=1", "''=1", "'", "''", "=", "-", "--"])
def test_a_guarded_text_comes_back(text: str) -> None:
    assert mended.unguard(mended.guard(text)) == text


@pytest.mark.parametrize(
    "text", ["-12,50", "-3", "+33 (0)3 89 00 00 00", "+33389000000", "-1.234,50 €", "(3)", "'90s", "a=b"]
)
def test_numbers_and_phones_stay_as_they_are(text: str) -> None:
    assert mended.guard(text) == text
    assert mended.unguard(text) == text


@given(st.text(alphabet=st.sampled_from("=+-@'\t\r\n 1a＝"), max_size=8) | st.text(max_size=20))
def test_guarding_can_always_be_undone(text: str) -> None:
    guarded = mended.guard(text)
    assert mended.unguard(guarded) == text
    assert guarded[:1] not in {"=", "@", "\t", "\r", "\n"}
    if guarded[:1] in {"+", "-"}:
        assert not set(guarded) & set(string.ascii_letters + '=*/!|"')


def test_no_cell_is_a_formula_and_none_becomes_one_as_csv(tmp_path: Path) -> None:
    rows = [
        refused(n, ["RAGGED_ROW"], extra=[text] * 9) if n % 2 else
        refused(n, ["MISSING_CLIENT"], quantity=text, product_key=text, extra={"Remarque": text, "=1+2": text})
        for n, text in enumerate(ACTIVE, start=2)
    ]  # fmt: skip
    files = {A: export([*HEADER[:-1], "Remarque"], path="=1+1/x.csv")}
    written = book(rows, files)
    made = openpyxl.load_workbook(io.BytesIO(written.content))
    for sheet in made:
        for row in sheet.iter_rows():
            for cell in row:
                assert cell.data_type != "f"
                assert not str(cell.value or "").startswith(("=", "@", "\t", "\r", "\n", "＝", "+c", "-2"))
    # As CSV: what a spreadsheet writes is the cells' texts.
    path = tmp_path / "again.csv"
    with path.open("w", encoding="cp1252", errors="replace", newline="") as stream:
        csv.writer(stream, delimiter=";").writerows(
            # openpyxl shows a carriage return as the format escapes it.
            [str(cell.value or "").replace("_x000D_", "\r") for cell in row]
            for row in made.worksheets[0].iter_rows()
        )
    back = {row["mends"]: row for row in landed(path)}
    for n, text in enumerate(ACTIVE[:-1], start=2):
        row = back[f"{A}:{n}"]
        if not n % 2:
            assert row["quantity"] == text


# --- headers


@st.composite
def _headers(draw: st.DrawFn) -> tuple[str, list[list[str]]]:
    """Headers of two files of one dataset, any spelling of any fields, and some columns of the estate's own."""
    dataset = draw(st.sampled_from(sorted(SOURCE.datasets)))
    synonyms = sorted({text for spec in SOURCE.datasets[dataset].fields.values() for text in spec.synonyms})
    names = st.sampled_from([*synonyms, "Zone", "crm_id", "Zone (2)", "", "%"])
    return dataset, [draw(st.lists(names, min_size=1, max_size=12)) for _ in range(2)]


@given(_headers())
@settings(max_examples=60, deadline=None)
def test_columns_of_any_files_come_back_as_themselves(
    given_headers: tuple[str, list[list[str]]],
) -> None:
    dataset, headers = given_headers
    spec = SOURCE.datasets[dataset]
    files = {
        file_id: export(header, dataset, order_key=file_id) for file_id, header in zip((A, B), headers, strict=True)
    }
    rows = []
    for file_id, header in zip((A, B), headers, strict=True):
        mapping = map_header(header, spec)
        row: dict[str, Any] = {name: f"{file_id[0]}{place}" for name, place in mapping.columns.items()}
        row["extra"] = {name: f"{file_id[0]}{place}" for place, name in mapping.extra.items()}
        rows.append(refused(2, ["RAGGED_ROW"], file_id=file_id, **row))
    written = book(rows, files, dataset)
    sheet = openpyxl.load_workbook(io.BytesIO(written.content)).worksheets[0]
    texts = [[str(cell.value or "") for cell in row] for row in sheet.iter_rows()]
    keep = [n for n, name in enumerate(texts[0]) if not name.startswith("crm_")]
    mapping = map_header([texts[0][n] for n in keep], spec)
    for line, given_row in zip(texts[1:], rows, strict=True):
        values = [line[n] for n in keep]
        assert {name: values[place] for name, place in mapping.columns.items() if values[place]} == {
            name: text for name, text in given_row.row.items() if name != "extra"
        }
        assert {values[place] for place in mapping.extra if values[place]} == set(given_row.row["extra"].values())


def test_headers_that_cannot_be_told_apart_are_an_error() -> None:
    twice = [Column("quantity", ["Quantité"]), Column("quantity", ["Quantité"])]
    with pytest.raises(ValueError, match="ventes_lignes"):
        name_columns(twice, SALES)


# --- recognition


def test_only_the_reference_header_makes_a_file_ours() -> None:
    assert mended.own_dataset(["Nom", "CRM_Ref_Clients "], SOURCE) == "customers"
    assert mended.own_dataset(["crm_reference", "crm_ref", "crm_ref_", "crm_ref_inconnu"], SOURCE) is None


def test_a_workbook_that_was_sorted_cut_and_moved_about_still_lands(tmp_path: Path) -> None:
    rows = [
        refused(n, ["MISSING_CLIENT"], document_no=f"F{n}", quantity=str(n), order_date="01/02/2024") for n in (2, 3, 4)
    ]
    header, *body = csv_of(book(rows).content)
    order = sorted(range(len(header)), key=lambda n: header[n], reverse=True)
    order.remove(header.index("crm_pourquoi"))
    order.remove(header.index("Mt HT"))
    path = tmp_path / "x.csv"
    with path.open("w", encoding="utf-16", newline="") as stream:
        csv.writer(stream, delimiter="\t").writerows([[row[n] for n in order] for row in [header, *reversed(body)]])
    assert [(row["mends"], row["document_no"], row["quantity"]) for row in landed(path)] == [
        (f"{A}:4", "F4", "4"), (f"{A}:3", "F3", "3"), (f"{A}:2", "F2", "2"),
    ]  # fmt: skip


def csv_of(content: bytes) -> list[list[str]]:
    sheet = openpyxl.load_workbook(io.BytesIO(content)).worksheets[0]
    return [[str(cell.value or "") for cell in row] for row in sheet.iter_rows()]


def test_a_row_cut_short_by_an_editor_keeps_its_reference(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text(f"crm_ref_clients;client;nom\n{A}:7;C1;Haas\n{A}:8;C2\n", encoding="utf-8")
    assert [(row["mends"], row["problems"]) for row in landed(path, "customers")] == [
        (f"{A}:7", None), (f"{A}:8", "{RAGGED_ROW}"),
    ]  # fmt: skip


# --- labels


def unmatched(*rows: dict[str, Any]) -> pd.DataFrame:
    usual = {
        "raw_product_key": "", "raw_product_label": "", "raw_vintage": "", "sale_year": 0, "product_key": "INF-1",
        "matched_by": "inferred", "score": None, "suggestion": None, "lines": 1, "amount_ht": 10.0,
        "last_sale_date": pd.Timestamp("2025-03-01"),
    }  # fmt: skip
    return pd.DataFrame([{**usual, **row} for row in rows])


NO_ALIASES = pd.DataFrame({"label": pd.Series(dtype="str"), "product_key": pd.Series(dtype="str")})


def test_one_row_per_label_as_an_alias_would_name_it() -> None:
    labels = workbooks.unmatched_labels(
        unmatched(
            {"raw_product_label": "Crémant brut", "raw_product_key": "X1", "amount_ht": 5.0, "raw_vintage": "2020"},
            {"raw_product_label": "CREMANT BRUT", "raw_product_key": "X2", "amount_ht": 50.0, "lines": 3,
             "last_sale_date": pd.Timestamp("2025-06-01")},
            {"raw_product_key": "X9", "amount_ht": 7.0},
        ),
        pd.DataFrame({"label": ["CREMANT BRUT", "CREMANT BRUT"], "product_key": ["OLD", "NOWHERE"]}),
    )  # fmt: skip
    assert labels == [
        UnmatchedLabel("CREMANT BRUT", "X1, X2", 4, 55.0, date(2025, 6, 1), "inferred", None, None, "NOWHERE"),
        UnmatchedLabel("X9", "X9", 1, 7.0, date(2025, 3, 1), "inferred", None, None, None),
    ]


def test_a_label_taken_for_a_product_shows_it_for_confirmation() -> None:
    (label,) = workbooks.unmatched_labels(
        unmatched(
            {
                "raw_product_label": "Riesling GC",
                "sale_year": 2023,
                "matched_by": "fuzzy",
                "product_key": "P1",
                "score": 96.0,
            },
            {"raw_product_label": "Riesling GC", "raw_vintage": "?", "suggestion": "P2", "score": 85.0},
        ),
        NO_ALIASES,
    )
    assert (label.matched_by, label.suggestion, label.score) == ("fuzzy", "P1", 96.0)


def alias_book(locale: str = "fr") -> bytes:
    labels = [
        UnmatchedLabel("Riesling ?", "X1", 3, 120.5, date(2025, 3, 1), "fuzzy", "P1", 96.2),
        UnmatchedLabel("=Gewurz", "", 1, 520.5, date(2025, 3, 1), "inferred", None, None, "PX"),
        UnmatchedLabel("Muscat", "", 1, 20.5, None, "inferred", "P2", 85.0),
    ]
    catalogue = {"P2": "Muscat sec – vieux", "P1": "Riesling 2022", "=P3": "X"}
    spec = SOURCE.datasets["aliases"]
    return workbooks.unmatched_workbook(spec, labels, catalogue, locale=locale, made_at=NOW).content


@pytest.mark.parametrize("locale", LANGUAGES)
def test_filled_in_it_is_an_alias_file_of_the_answered_rows(tmp_path: Path, locale: str) -> None:
    path = saved(tmp_path, alias_book(locale))
    assert landed(path, "aliases") == []
    made = openpyxl.load_workbook(path)
    sheet = made.worksheets[0]
    assert [cell.value for cell in sheet["A"]][1:] == ["'=Gewurz", "Riesling ?", "Muscat"]  # by revenue
    sheet["B2"].value = "P2 – Muscat sec – vieux"
    sheet["B3"].value = " p1 "
    sheet["B4"].value = "  "
    made.save(path)
    assert [(row["label"], row["product_key"], row["mends"], row["extra"]) for row in landed(path, "aliases")] == [
        ("=Gewurz", "P2", None, None), ("Riesling ?", " p1 ", None, None),
    ]  # fmt: skip


def test_the_answer_is_chosen_from_the_catalogue() -> None:
    made = openpyxl.load_workbook(io.BytesIO(alias_book()))
    sheet, catalogue, how = made.worksheets
    (rule,) = sheet.data_validations.dataValidation
    assert (rule.type, str(rule.sqref), rule.formula1) == ("list", "B2:B4", f"'{catalogue.title}'!$A$2:$A$4")
    assert not rule.showErrorMessage  # a bare key may be typed
    entries = [cell.value for cell in catalogue["A"]][1:]
    assert entries == ["'=P3 – X", "P1 – Riesling 2022", "P2 – Muscat sec – vieux"]
    assert [cell.value for cell in sheet["D"]][1:] == [None, "P1 – Riesling 2022", "P2 – Muscat sec – vieux"]
    assert not sheet["B2"].protection.locked
    assert sheet["A2"].protection.locked
    assert [cell.value for cell in sheet["G"]][1:] == [520.5, 120.5, 20.5]
    assert "PX" in sheet["C2"].value
    assert "P1" in sheet["C3"].value
    assert "pas au catalogue n’a pas d’effet" in "".join(str(row[0].value or "") for row in how.iter_rows())


def test_a_blank_key_in_an_alias_file_of_the_estate_is_still_a_record(tmp_path: Path) -> None:
    # Only in a workbook of ours is a row without an answer no record.
    path = tmp_path / "alias.csv"
    path.write_text("label;product_key\nMuscat;\n", encoding="utf-8")
    table = open_table(path)
    assert mended.own_dataset(table.header, SOURCE) is None
    assert len(list(table.records())) == 1


@pytest.mark.parametrize("locale", LANGUAGES)
def test_the_words_of_all_languages_are_the_same_ones(locale: str) -> None:
    def keys(node: Any, name: str = "") -> set[str]:
        return (
            {name} | {k for n, v in node.items() for k in keys(v, f"{name}.{n}")} if isinstance(node, dict) else {name}
        )

    words, french = (rendering.texts(name)["workbooks"] for name in (locale, "fr"))
    assert keys(words) == keys(french)
    for sheet in (
        words["help_sheet"],
        *(words["unmatched"][n] for n in ("sheet", "catalogue_sheet")),
        words["refused"]["sheet"],
    ):
        assert len(sheet) <= 31
    assert len(words["reference"]["title"]) <= 32
    assert len(words["reference"]["message"]) <= 255
