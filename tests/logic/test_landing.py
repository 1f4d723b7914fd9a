"""What an export means: its dataset, mapping, order, number and date style, anomalies and rows."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import xlsxwriter

from crm_assets.logic.landing import (
    FileProfile,
    HeaderMapping,
    Profiler,
    RowMaker,
    SourceSpec,
    date_in_name,
    load_source,
    map_header,
    normalise_header,
    order_key,
    recognise,
    without_overlong_keys,
)
from crm_assets.logic.reading import open_table
from crm_assets.logic.spellings import read_date, read_number
from crm_assets.tables import DATASET_TABLES, RAW_FIELDS

SOURCE = load_source()
PIVOT = 68


def landed(folder: Path, text: str, dataset: str = "sales_lines", source: SourceSpec = SOURCE) -> tuple[
    HeaderMapping, FileProfile, list[dict[str, Any]]
]:  # fmt: skip
    """A CSV text as mapping, profile and rows of the raw table."""
    path = folder / "export.csv"
    path.write_text(text, encoding="utf-8", newline="")
    return landed_file(path, dataset, source)


def landed_file(
    path: Path, dataset: str, source: SourceSpec = SOURCE
) -> tuple[HeaderMapping, FileProfile, list[dict[str, Any]]]:
    table = open_table(path)
    mapping = map_header(table.header, source.datasets[dataset])
    rows = RowMaker(mapping, "0123456789abcdef", is_spreadsheet=table.format != "csv")
    profiler = Profiler(mapping, source, PIVOT)
    tables: list[pa.Table] = []
    for batch in table.batches():
        fields = rows.fields(batch)
        profiler.add(batch, fields)
        tables.append(rows.table(batch, fields))
    profile = profiler.finish(has_decimal_points=table.has_decimal_points)
    return mapping, profile, pa.concat_tables(tables).to_pylist() if tables else []


def style(folder: Path, *numbers: str) -> str | None:
    text = "client_code,quantity\n" + "".join(f'C1,"{number}"\n' for number in numbers)
    return landed(folder, text)[1].decimal_separator


def order(folder: Path, *dates: str) -> str:
    return landed(folder, "client_code,date\n" + "".join(f"C1,{day}\n" for day in dates))[1].date_order


# --- the source file


def test_the_source_describes_exactly_the_raw_tables() -> None:
    assert {name: " ".join(spec.fields) for name, spec in SOURCE.datasets.items()} == RAW_FIELDS
    assert {spec.folder: name for name, spec in SOURCE.datasets.items()} == DATASET_TABLES


def test_synonyms_are_written_as_headers_are_compared() -> None:
    for dataset in SOURCE.datasets.values():
        for name, spec in dataset.fields.items():
            assert all(normalise_header(synonym) == synonym for synonym in spec.synonyms)
            assert name in spec.synonyms
        assert {name for group in dataset.requirements for name in group} <= dataset.fields.keys()
        assert {*dataset.period, *dataset.inferred} <= dataset.fields.keys()


# --- recognition


@pytest.mark.parametrize(
    ("path", "dataset"),
    [
        ("isavigne/ventes_lignes/anything.csv", "sales_lines"),
        ("isavigne/ventes_lignes/2025/export du 3.XLSX", "sales_lines"),
        ("iSaVigne/Clients/x.txt", "customers"),
        ("isavigne/alias/x.csv", "aliases"),
        ("Ventes 2025.csv", "sales_lines"),
        ("isavigne/SALES_2025.csv", "sales_lines"),
        ("export_clients.xls", "customers"),
        ("Customers.csv", "customers"),
        ("liste-produits.csv", "products"),
        ("stock_31-12-2025.csv", "stock"),
        ("contacts.csv", "contacts"),
        ("alias.csv", "aliases"),
        ("ve\u0301ntes.csv", "sales_lines"),
    ],
)
def test_files_are_recognised_by_place_or_name(path: str, dataset: str) -> None:
    assert recognise(path, SOURCE).dataset == dataset


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("export.csv", "no rule recognises"),
        ("ventes_par_client.csv", "ventes_lignes and clients"),
        ("isavigne/divers/ventes.csv", "no dataset"),
        ("archive/ventes.csv", "no layout names"),
        ("isavigne/clients/notes.pdf", "must end in"),
        ("isavigne/clients/README", "must end in"),
    ],
)
def test_a_file_no_rule_recognises_is_reported_never_guessed(path: str, reason: str) -> None:
    found = recognise(path, SOURCE)
    assert found.dataset is None
    assert reason in (found.reason or "")


# --- headers


@pytest.mark.parametrize(
    ("header", "normal"),
    [
        ("N° Pièce", "n_piece"),
        ("Nº pièce", "no_piece"),
        ("  Code  client ", "code_client"),
        ("Cœur", "coeur"),
        ("LÆTITIA", "laetitia"),
        ("Mt. HT (€)", "mt_ht"),
        ("E-mail", "e_mail"),
        ("\ufeffCode", "code"),
    ],
)
def test_headers_are_normalised(header: str, normal: str) -> None:
    assert normalise_header(header) == normal


def test_the_first_synonym_present_wins_and_a_header_serves_one_field() -> None:
    header = [
        "Date",
        "Date facture",
        "date_commande",
        "Produit",
        "SKU",
        "Client",
        "Code client",
        "Qté",
        "Commentaire",
    ]
    mapping = map_header(header, SOURCE.datasets["sales_lines"])
    assert mapping.fields_by_header == {
        "Code client": "client_code",
        "SKU": "product_key",
        "Produit": "product_label",
        "date_commande": "order_date",
        "Date facture": "delivery_date",
        "Qté": "quantity",
    }
    assert mapping.unmapped_headers == ["Date", "Client", "Commentaire"]
    assert mapping.missing_requirements == [["document_no"], ["amount_ht", "amount_ttc", "unit_price_ht"]]


def test_mapping_quality_follows_its_formula() -> None:
    mapping = map_header(["product_key", "quantity"], SOURCE.datasets["stock"])
    assert mapping.quality == int(60 * 2 / 5 + 40 * (1 - 0 / 5)) == 64
    assert mapping.missing_fields == ["warehouse", "reserved", "as_of"]
    assert map_header(["quantity"], SOURCE.datasets["stock"]).quality == int(60 * 1 / 5 + 40 * (1 - 1 / 5))


def test_faults_say_what_is_missing_without_repeating_what_is_there() -> None:
    sales = SOURCE.datasets["sales_lines"]
    complete = ["client", "produit", "date", "qte", "montant"]
    assert map_header(complete, sales).fault(1) is None, "a document number can be inferred"
    lacking = map_header(["client", "produit", "date", "montant"], sales).fault(1)
    assert lacking is not None
    assert "quantity (e.g. qty_line" in lacking
    headless = map_header(["Muller", "Julien", "j@example.org"], SOURCE.datasets["customers"]).fault(3)
    assert headless is not None
    assert "no header row: line 3" in headless
    assert "Muller" not in headless


def test_a_tenants_spelling_comes_first_and_can_take_a_column() -> None:
    source = SOURCE.with_tenant({"sales_lines": {"order_date": ["Date"], "client_code": ["Réf. tiers"]}}, {})
    mapping = map_header(["date", "client", "ref tiers"], source.datasets["sales_lines"])
    assert mapping.columns == {"client_code": 2, "order_date": 0}
    assert "order_date" not in map_header(["date"], SOURCE.datasets["sales_lines"]).columns


@pytest.mark.parametrize(
    ("synonyms", "transformations", "problem"),
    [
        ({"sales": {}}, {}, r"source\.synonyms: no dataset 'sales' \(known: sales_lines or ventes_lignes"),
        ({"clients": {"nom": ["x"]}}, {}, r"no field 'nom', last_name is meant perhaps \(known: client_code"),
        ({"clients": {"email": ["°"]}}, {}, r"source\.synonyms\.clients\.email: '°' has neither letter"),
        ({}, {"clients": {"email": ["tirm"]}}, r"source\.transformations\.clients\.email: no transformation 'tirm'"),
        ({}, {"clients": {"email": [{"parse_date": 3}]}}, "3 is no format of a date"),
        ({}, {"clients": {"birth_date": [{"parse_date": "DD/MM/YYYY"}]}}, "is no format of a date"),
        ({}, {"clients": {"type": [{"map_values": {1: "CHR"}}]}}, "put 1 into quotes"),
        ({}, {"stock": {"warehouse": ["split_name"]}}, "split_name needs the fields"),
    ],
)
def test_a_wrong_mapping_is_named(synonyms: Any, transformations: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        SOURCE.with_tenant(synonyms, transformations)


# --- the order of files


@pytest.mark.parametrize(
    ("path", "day"),
    [
        ("ventes_2025-12-31.csv", date(2025, 12, 31)),
        ("ventes_20251231.csv", date(2025, 12, 31)),
        ("ventes_20251231_101500.csv", date(2025, 12, 31)),
        ("ventes_20251231101500.csv", date(2025, 12, 31)),
        ("ventes 31.12.2025.csv", date(2025, 12, 31)),
        ("ventes_30-06-2025.csv", date(2025, 6, 30)),
        ("ventes_31122025.csv", date(2025, 12, 31)),
        ("ventes_05-03-24.csv", date(2024, 3, 5)),
        ("ventes_2024-01-01_2025-06-30.csv", date(2025, 6, 30)),
        ("ventes_01-01-2024_au_30-06-2025.csv", date(2025, 6, 30)),
        ("2019-01-01/ventes.csv", None),
        ("ventes_2025.csv", None),
        ("ventes_2025-13-45.csv", None),
        ("ventes_3760012345678.csv", None),
    ],
)
def test_dates_in_names(path: str, day: date | None) -> None:
    assert date_in_name(path, PIVOT) == day


def test_files_are_ordered_by_date_then_modification_then_content() -> None:
    early, late = datetime(2025, 5, 1, 10, tzinfo=UTC), datetime(2025, 5, 1, 10, 0, 1, tzinfo=UTC)
    keys = [
        order_key(date(2025, 4, 30), late, "f"),
        order_key(date(2025, 5, 1), early, "a"),
        order_key(None, early, "b"),
        order_key(date(2025, 5, 1), late, "a"),
        order_key(date(2025, 5, 2), early, "a"),
    ]
    assert keys == sorted(keys)


# --- numbers and dates


@pytest.mark.parametrize(
    ("text", "value", "proves"),
    [
        ("1 234,56", 1234.56, ","),
        ("1\u202f234,56", 1234.56, ","),
        ("1.234,56", 1234.56, ","),
        ("1,234.56", 1234.56, "."),
        ("12,50 €", 12.5, ","),
        ("1'234.50", 1234.5, "."),
        ("-3", -3, None),
        ("(3)", -3, None),
        ("(1 234,5)", -1234.5, ","),
        ("1234", 1234, None),
        ("1.234.567", 1234567, ","),
        ("1,234", 1.234, None),
        ("0,125", 0.125, ","),
        ("1234,567", 1234.567, ","),
        ("1 234,567", 1234.567, ","),
        (",5", 0.5, ","),
        ("+2", 2, None),
        ("\u22122,5", -2.5, ","),
    ],
)
def test_numbers(text: str, value: float, proves: str | None) -> None:
    found = read_number(text)
    assert found is not None
    assert (found.value, found.proves) == (pytest.approx(value), proves)


@pytest.mark.parametrize("text", ["abc", "1.23,4", "12,34,5", "1e5", "12%", "-", "5,", "1..2", "½", "٣,٤", "--3"])
def test_what_is_no_number(text: str) -> None:
    assert read_number(text) is None


@pytest.mark.parametrize(
    ("numbers", "separator"),
    [
        (["12,5", "3"], ","),
        (["12.5", "1.234"], "."),
        (["1.234", "2,345"], None),
        (["1.234"], None),
        (["1,234.50"], "."),
        (["12,5", "12.5"], None),
        (["1 234,567", "abc"], ","),
        (["0.125"], "."),
        (["3", ""], None),
        (["1.234", "1.234.567"], ","),
    ],
)
def test_the_decimal_style_is_decided_by_all_values(tmp_path: Path, numbers: list[str], separator: str | None) -> None:
    assert style(tmp_path, *numbers) == separator


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("2024-03-05", date(2024, 3, 5)),
        ("2024/03/05", date(2024, 3, 5)),
        ("2024.3.5", date(2024, 3, 5)),
        ("05/03/2024", date(2024, 3, 5)),
        ("5-3-2024", date(2024, 3, 5)),
        ("05.03.24", date(2024, 3, 5)),
        ("05/03/69", date(1969, 3, 5)),
        ("05/03/68", date(2068, 3, 5)),
        ("2024-03-05T10:11:12Z", date(2024, 3, 5)),
        ("05/03/2024 10:11", date(2024, 3, 5)),
    ],
)
def test_dates(text: str, day: date) -> None:
    found = read_date(text, PIVOT)
    assert found is not None
    assert found.as_date("dmy") == day


def test_what_is_no_date() -> None:
    assert read_date("5 mars 2024", PIVOT) is None
    assert read_date("2024-03/05", PIVOT) is None
    february = read_date("30/02/2024", PIVOT)
    assert february is not None
    assert february.as_date("dmy") is None


@pytest.mark.parametrize(
    ("dates", "expected"),
    [
        (["05/03/2024"], "dmy"),
        (["05/03/2024", "31/12/2024"], "dmy"),
        (["05/03/2024", "12/31/2024"], "mdy"),
        (["31/12/2024", "12/31/2024"], "dmy"),
        (["2024-12-31"], "dmy"),
    ],
)
def test_the_date_order_is_day_first_unless_the_file_proves_otherwise(
    tmp_path: Path, dates: list[str], expected: str
) -> None:
    assert order(tmp_path, *dates) == expected


# --- profile and rows

SALES = """Code client;N° pièce;SKU;Date commande;Date livraison;Quantité;Mt HT;Vendeur;
00123;F1;P1;05/03/2024;;6;60,50;Anne "dite" \\ Nan;
;F2;P2;;07/03/2024;x;10,00;;
00124;F3;P3;30/02/2024;08/04/2024;1;;;
00125;F4
00126;F5;P5;01/02/2024 10:30;;(2);1 234,5;L
2;
"""


def test_profile_of_a_sales_file(tmp_path: Path) -> None:
    text = SALES.replace("L\n2", '"L\n2"')
    mapping, profile, rows = landed(tmp_path, text)
    assert mapping.unmapped_headers == ["Vendeur"]
    assert profile.row_count == 5
    assert profile.plain_rows == 4
    assert (profile.decimal_separator, profile.date_order) == (",", "dmy")
    assert (profile.first_date, profile.last_date) == (date(2024, 2, 1), date(2024, 3, 7))
    assert profile.anomalies == {"Critical": 3, "High": 2, "Medium": 0}
    assert {(e["line"], e["field"], e["severity"]) for e in profile.examples} == {
        (3, "client_code", "Critical"),
        (4, "amount_ht or amount_ttc or unit_price_ht", "Critical"),
        (5, "", "Critical"),
        (3, "quantity", "High"),
        (4, "order_date", "High"),
    }
    by_line = {row["source_line"]: row for row in rows}
    assert [row["row_no"] for _, row in sorted(by_line.items())] == [1, 2, 3, 4, 5]
    assert by_line[2]["client_code"] == "00123"
    assert by_line[2]["delivery_date"] is None
    assert json.loads(by_line[2]["extra"]) == {"Vendeur": 'Anne "dite" \\ Nan'}
    assert json.loads(by_line[6]["extra"]) == {"Vendeur": "L\n2"}
    assert by_line[5]["problems"] == "{RAGGED_ROW}"
    assert json.loads(by_line[5]["extra"]) == ["00125", "F4"]
    assert by_line[5]["client_code"] is None


def test_blanks_and_ranges_are_medium(tmp_path: Path) -> None:
    text = "libelle;prix;fruit;actif\nA;12,50;3;oui\nB;;7;peut-être\n \u00a0;-1;1,5;non\nC; 1 200,00 €;;1\n"
    _, profile, _ = landed(tmp_path, text, "products")
    assert profile.anomalies == {"Critical": 1, "High": 1, "Medium": 3}


def test_one_unmapped_header_twice_keeps_both_values(tmp_path: Path) -> None:
    _, _, rows = landed(tmp_path, "code_client;note;note;nom\nC1;a;b;X\n", "customers")
    assert json.loads(rows[0]["extra"]) == {"note": "a", "note (3)": "b"}


def test_serials_of_a_spreadsheet_become_dates_in_date_fields_only(tmp_path: Path) -> None:
    path = tmp_path / "x.xlsx"
    with xlsxwriter.Workbook(str(path)) as book:
        sheet = book.add_worksheet()
        sheet.write_row(0, 0, ["produit_key", "quantite", "date_snapshot"])
        sheet.write_row(1, 0, ["00123", 45356, 45356])
        sheet.write_row(2, 0, ["00124", 1.125, 45356.5])
    _, profile, rows = landed_file(path, "stock")
    assert [(row["product_key"], row["quantity"], row["as_of"]) for row in rows] == [
        ("00123", "45356", "2024-03-05"),
        ("00124", "1.125", "2024-03-05"),
    ]
    assert profile.decimal_separator == "."
    assert profile.last_date == date(2024, 3, 5)


# --- transformations and fixed values


def test_a_tenants_transformations_apply_before_the_raw_table(tmp_path: Path) -> None:
    source = SOURCE.with_tenant(
        {},
        {
            "clients": {
                "full_name": ["trim", "split_name"],
                "country": ["empty_to_zero", {"map_values": {"0": "FR"}}],
            }
        },
    )
    _, _, rows = landed(tmp_path, "code_client;name;pays\nC1; MULLER Anne;\nC2;;DE\n", "customers", source)
    assert [(r["last_name"], r["first_name"], r["full_name"], r["country"]) for r in rows] == [
        ("MULLER", "Anne", "MULLER Anne", "FR"),
        (None, None, None, "DE"),
    ]


def test_a_text_too_long_to_be_a_code_refuses_its_row_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "clients.csv"
    path.write_text(f"Code client;Nom;Note\nC1;Haas;x\n{'é' * 251};Weber;y\nC3;{'n' * 9000};z\n", encoding="utf-8")
    table = open_table(path)
    spec = load_source().datasets["customers"]
    mapping = map_header(table.header, spec)
    (whole,) = table.batches()
    batch = without_overlong_keys(whole, mapping, 500)
    assert batch.lines.tolist() == [2, 4]
    assert [(row.line, row.row_no, row.values[1:]) for row in batch.ragged] == [(3, 2, ["Weber", "y"])]
    rows = RowMaker(mapping, "0123456789abcdef", is_spreadsheet=False)
    made = rows.table(batch, rows.fields(batch))
    assert made.column("problems").to_pylist() == [None, None, "{INVALID_KEY}"]
    assert made.column("client_code").to_pylist() == ["C1", "C3", None]
    assert without_overlong_keys(whole, mapping, 502) is whole
