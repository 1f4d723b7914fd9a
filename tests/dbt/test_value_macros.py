"""Every value of spec.md §2.2 and every edge we know, through the macros as SQL runs them: one SELECT per macro.

The Python twins (logic/curated.py) must say the same of any text.
"""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from typing import Any

import pandas as pd
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crm_assets import rules as rules_module
from crm_assets.logic import curated, landing
from crm_assets.resources.warehouse import Warehouse
from crm_assets.settings import ROOT
from tests.dbt.macros import render

NBSP, NNBSP, THIN, FIGURE = "\u00a0", "\u202f", "\u2009", "\u2007"
INVISIBLE = "\u00ad\u200b\u200c\u200d\u200e\u200f\u2060\ufeff"


def computed(warehouse: Warehouse, expression: str, rows: list[tuple[Any, ...]], columns: str) -> list[Any]:
    """`expression` over each row, in order; the columns' types are told as in a SQL definition list."""
    names = [column.split()[0] for column in columns.split(", ")]
    types = [column.split()[1] for column in columns.split(", ")]
    arrays = ", ".join(f"%s::{kind}[]" for kind in types)
    expression = expression.replace("%", "%%")
    query = f"select {expression} from unnest({arrays}) with ordinality as t ({', '.join(names)}, n) order by n"
    return [row[0] for row in warehouse.rows(query, [list(column) for column in zip(*rows, strict=True)])]


def alike(given: list[Any], wanted: list[Any], found: list[Any]) -> None:
    """Every case is as wanted; a failure names the cases that are not, and no more."""
    cases = zip(given, wanted, found, strict=True)
    wrong = [f"{case!r:.60}: wanted {want!r:.60}, found {got!r:.60}" for case, want, got in cases if want != got]
    if wrong:
        pytest.fail("\n".join(wrong[:30]))


# Numbers: (text, what the file proves, value); a value of REFUSED is no number, None is blank

REFUSED = "refused"
ANY = (None, ",", ".")
NUMBERS: list[tuple[str | None, tuple[str | None, ...], str | None]] = [
    # the examples of spec.md §2.2
    ("1 234,56", ANY, "1234.56"), ("1.234,56", ANY, "1234.56"), ("1,234.56", ANY, "1234.56"),
    ("12,50 €", ANY, "12.50"), ("1'234.50", ANY, "1234.50"), ("-3", ANY, "-3"), ("(3)", ANY, "-3"),
    ("1234", ANY, "1234"),
    # a lone separator before exactly three digits is one of thousands only when the file says so
    ("1.234", (None, "."), "1.234"), ("1.234", (",",), "1234"),
    ("1,234", (None, ","), "1.234"), ("1,234", (".",), "1234"),
    ("-12.500", (",",), "-12500"), ("(1.234)", (",",), "-1234"), ("1.234 €", (",",), "1234"),
    ("999,999", (".",), "999999"), ("999,999", (None, ","), "999.999"),
    ("0.125", ANY, "0.125"), ("0,125", ANY, "0.125"), ("-0,125", ANY, "-0.125"), ("000.125", ANY, "0.125"),
    ("012,345", ANY, "12.345"), ("1234.567", ANY, "1234.567"), ("1234,567", ANY, "1234.567"),
    ("1.2345", ANY, "1.2345"), ("12,3", ANY, "12.3"), ("12.3", ANY, "12.3"), (".5", ANY, "0.5"), (",5", ANY, "0.5"),
    ("-,5", ANY, "-0.5"), ("1 234.567", ANY, "1234.567"), ("1'234'567", ANY, "1234567"),
    # groups
    ("1.234.567", ANY, "1234567"), ("1,234,567", ANY, "1234567"), ("1.234.567,8", ANY, "1234567.8"),
    ("1,234,567.8", ANY, "1234567.8"), ("1 234 567,89", ANY, "1234567.89"), ("12 345", ANY, "12345"),
    ("1  234", ANY, "1234"), ("1’234,5", ANY, "1234.5"),
    # spaces that are none of the keyboard
    (f"1{NBSP}234,56", ANY, "1234.56"), (f"1{NNBSP}234,56", ANY, "1234.56"), (f"1{THIN}234,56", ANY, "1234.56"),
    (f"1{FIGURE}234", ANY, "1234"), (f"12,50{NBSP}€", ANY, "12.50"), (f"-1{NNBSP}234{NNBSP}567", ANY, "-1234567"),
    (f"{NBSP}7{NBSP}", ANY, "7"), ("\t7\r\n", ANY, "7"), ("\u200e-7\u200f", ANY, "-7"), ("\ufeff12,5", ANY, "12.5"),
    ("1\u200b234", ANY, "1234"),
    # signs
    ("+3", ANY, "3"), ("+ 3", ANY, "3"), ("- 3", ANY, "-3"), ("\u22123", ANY, "-3"), ("( 3 )", ANY, "-3"),
    ("(12,50 €)", ANY, "-12.50"), ("(12,50) €", ANY, "-12.50"), ("(€ 3)", ANY, "-3"), ("-0", ANY, "0"),
    ("-€ 3", ANY, "-3"), ("€ -3", ANY, "-3"), ("€ (3)", ANY, "-3"), ("- 1 234,5", ANY, "-1234.5"),
    # currency
    ("€ 12", ANY, "12"), ("€12,5", ANY, "12.5"), ("12 EUR", ANY, "12"), ("12EUR", ANY, "12"), ("12 euros", ANY, "12"),
    ("Euro 12,50", ANY, "12.50"), ("€ 12 €", ANY, "12"), ("EUR 1.234,56", ANY, "1234.56"),
    # leading zeros, long numbers
    ("0012", ANY, "12"), ("1" * 40, ANY, "1" * 40), ("0." + "1" * 50, ANY, "0." + "1" * 50),
    # blank
    (None, ANY, None), ("", ANY, None), ("   ", ANY, None), (f" {NBSP}{NNBSP}\t", ANY, None), ("\u200b", ANY, None),
    # what does not parse is refused, never nulled
    *((text, ANY, REFUSED) for text in (
        "-", "--", "--3", "+-3", "-+3", "3-", "3 -", "(3", "3)", "()", "(-3)", "(+3)", "-(3)", "+(3)", "((3))",
        "€", "EUR", "- €", "-   €", "12€50", "12 € 50", "12 €/bt", "12,50 € HT", "$3", "3 $", "£3", "3 CHF",
        "1 23", "1 2345", "12 34", "1234 567", "1 234 56", "1,2,3", "1.2.3", "1,23,456", "1.23.456", "1.234,567.8",
        "1,234.567,8", "1.234.56", "12.34,56", "12,34.56", "1..2", "1,,2", "1,.2", "5.", "5,", ".", ",", "'", "1'23",
        "1'2345", "''", "20 %", "20%", "3/4", "½", "1½", "1E3", "1e3", "1,5E-2", "1,23E+11", "1.5e+3", "0x1F", "1_000",
        "NaN", "nan", "inf", "-inf", "Infinity", "null", "NULL", "none", "n/a", "N.C.", "abc", "12a", "a12", "1O", "l2",
        "six", "true", "oui", "#N/A", "#REF!", "#DIV/0!", "#VALEUR!", "#NOM?", "########", "=1+1", "+A1", "@1", "1;2",
        "1|2", "1\n2", "1\n234", "1 234,5 6", "05/03/2024", "2024-03-05", "12:30", "１２", "١٢", "१२", "Ⅻ", "²", "1²",
        "9" * 61, "-" * 80, "1" * 100_000, "' or 1=1 --", "\\", "😀",
    )),
]  # fmt: skip


def test_numbers(tenant_warehouse: Warehouse) -> None:
    rows = [(text, proven) for text, styles, _ in NUMBERS for proven in styles]
    expected = [value for _, styles, value in NUMBERS for _ in styles]
    texts = computed(tenant_warehouse, render("number_text", "text"), rows, "text text, proven text")
    values = computed(
        tenant_warehouse,
        render("parse_number", "text", "proven"),
        [(text, proven) for text, (_, proven) in zip(texts, rows, strict=True)],
        "text text, proven text",
    )
    found = [
        None if text is None else REFUSED if value is None else value for text, value in zip(texts, values, strict=True)
    ]
    wanted = [Decimal(value) if value and value != REFUSED else value for value in expected]
    alike(rows, wanted, found)


def test_a_number_of_the_macro_is_the_number_landing_measures(tenant_warehouse: Warehouse) -> None:
    """Where both read a text, landing's profile and staging must not see two different numbers."""
    rows = [(text, proven) for text, styles, value in NUMBERS if value not in (None, REFUSED) for proven in styles[:1]]
    texts = computed(tenant_warehouse, render("number_text", "text"), rows, "text text, proven text")
    values = computed(
        tenant_warehouse, render("parse_number", "text", "null"), [(text,) for text in texts], "text text"
    )
    differ = [
        (text, float(value), number.value)
        for (text, proven), value in zip(rows, values, strict=True)
        if proven is None and (number := landing.read_number(text)) and number.value != pytest.approx(float(value))
    ]
    assert differ == []


# Dates: (text, order, spreadsheet, ISO day)

DMY, MDY = ("dmy",), ("mdy",)
BOTH = ("dmy", "mdy")
CSV, SHEET = (False,), (True,)
FILES = (False, True)
DATES: list[tuple[str | None, tuple[str, ...], tuple[bool, ...], str | None]] = [
    # the spellings of spec.md §2.2
    ("2024-03-05", BOTH, FILES, "2024-03-05"), ("2024/03/05", BOTH, FILES, "2024-03-05"),
    ("2024.03.05", BOTH, FILES, "2024-03-05"), ("05/03/2024", DMY, FILES, "2024-03-05"),
    ("05-03-2024", DMY, FILES, "2024-03-05"), ("05.03.2024", DMY, FILES, "2024-03-05"),
    ("05/03/24", DMY, FILES, "2024-03-05"), ("5/3/24", DMY, FILES, "2024-03-05"), ("5.3.2024", DMY, CSV, "2024-03-05"),
    ("2024-3-5", BOTH, FILES, "2024-03-05"), ("2024.3.5", BOTH, CSV, "2024-03-05"),
    ("20240305", BOTH, FILES, "2024-03-05"),
    # the order the file proves
    ("05/03/2024", MDY, FILES, "2024-05-03"), ("12/31/2024", MDY, FILES, "2024-12-31"),
    ("12/31/2024", DMY, FILES, REFUSED), ("31/12/2024", MDY, FILES, REFUSED), ("3-5-24", MDY, CSV, "2024-03-05"),
    ("03/05/68", MDY, CSV, "2068-03-05"), ("2/29/2024", MDY, CSV, "2024-02-29"), ("2/29/2023", MDY, CSV, REFUSED),
    ("24-03-05", DMY, CSV, "2005-03-24"),
    # two-digit years
    ("31/12/00", DMY, CSV, "2000-12-31"), ("31/12/68", DMY, CSV, "2068-12-31"), ("01/01/69", DMY, CSV, "1969-01-01"),
    ("01/01/99", DMY, CSV, "1999-01-01"),
    # leap days and the ends of months
    ("29/02/2024", DMY, FILES, "2024-02-29"), ("29/02/2000", DMY, CSV, "2000-02-29"),
    ("2024-02-29", BOTH, FILES, "2024-02-29"), ("29.02.24", DMY, CSV, "2024-02-29"),
    *((text, DMY, FILES, REFUSED) for text in (
        "29/02/2023", "29/02/1900", "29/02/2100", "2023-02-29", "1900-02-29", "2100/02/29", "29/02/23", "30/02/2024",
        "30/2/24", "2024-02-30", "31/04/2024", "31/06/2024", "31/09/2024", "31/11/2024", "2024-04-31", "32/01/2024",
        "00/01/2024", "01/00/2024", "2024-00-10", "2024-10-00", "13/13/2024", "2024-13-01", "31/04/24",
    )),
    ("31/01/2024", DMY, CSV, "2024-01-31"), ("30/04/2024", DMY, CSV, "2024-04-30"),
    ("28/02/1900", DMY, CSV, "1900-02-28"),
    ("31/12/2199", DMY, CSV, "2199-12-31"), ("2096-02-29", DMY, CSV, "2096-02-29"),
    ("2104-02-29", DMY, CSV, "2104-02-29"),
    # a time of day is let go
    *((text, DMY, FILES, "2024-03-05") for text in (
        "2024-03-05T14:30:00Z", "2024-03-05 14:30:00", "2024-03-05T14:30:00.123+01:00", "2024-03-05T14:30:00,5",
        "2024-03-05 14:30:00+0100", "05/03/2024 00:00:00", "05/03/2024 14:30", "05/03/2024 9:05", "05/03/2024 14h30",
        "05/03/2024 2:30 PM", "05/03/24 14:30", "5.3.2024 14:30", "05/03/2024  14:30", "05/03/2024 14.30",
    )),
    ("03/05/2024 11:59 PM", MDY, CSV, "2024-03-05"),
    *((text, DMY, FILES, REFUSED) for text in (
        "05/03/2024 25:00", "05/03/2024 14:61", "05/03/2024 14", "05/03/2024 à 14h", "05/03/2024 midi", "2024-03-05T",
        "05/03/2024 14:30 CET",
    )),
    # spaces
    (f"{NBSP}05/03/2024 ", DMY, FILES, "2024-03-05"), ("\u200e05/03/2024\u200f", DMY, CSV, "2024-03-05"),
    (f"05/03/2024{NNBSP}14:30", DMY, CSV, "2024-03-05"), ("\t2024-03-05\n", DMY, CSV, "2024-03-05"),
    # serials, of spreadsheets only
    ("45356", BOTH, SHEET, "2024-03-05"), ("45356.75", BOTH, SHEET, "2024-03-05"),
    ("45356,75", BOTH, SHEET, "2024-03-05"),
    ("10000", DMY, SHEET, "1927-05-18"), ("73050", DMY, SHEET, "2099-12-31"), ("99999", DMY, SHEET, "2173-10-13"),
    ("45356", BOTH, CSV, REFUSED), ("45356.75", BOTH, CSV, REFUSED),
    *((text, DMY, SHEET, REFUSED) for text in (
        "0", "1", "59", "60", "61", "2024", "9999", "-1", "-45356", "453560", "045356", "45356.", "4.5356E4", "1E5",
    )),
    # blank, or zeros where cellar software has no date
    (None, BOTH, FILES, None), ("", BOTH, FILES, None), (f" {NBSP}", BOTH, FILES, None), ("\u200b", DMY, CSV, None),
    ("00/00/0000", BOTH, FILES, None), ("0000-00-00", BOTH, FILES, None), (" 00/00/0000 ", DMY, CSV, None),
    # no dates
    *((text, BOTH, FILES, REFUSED) for text in (
        "hier", "5 mars 2024", "mars 2024", "05-mars-2024", "Mar 5, 2024", "05/MAR/2024", "2024", "03/2024", "2024-03",
        "2024-W10-2", "2024W102", "2024-065", "2024065", "05/03", "05/03-2024", "05-03/2024", "2024-03/05", "05.03-24",
        "05/03/024", "05/03/20245", "5/03/2024/1", "2024-03-05-1", "005/03/2024", "05 03 2024", "05//03/2024",
        "/03/2024",
        "05/03/", "05/03/2", "-05/03/2024", "+2024-03-05", "01/01/1899", "1899-12-30", "0001-01-01", "2200-01-01",
        "9999-12-31", "99999999", "20240230", "00000000", "202403051", "2024-03-05 2024-03-06", "05/03/2024 ?", "#N/A",
        "#VALEUR!", "########", "12,50", "1-2", "12/05", "true", "NaN", "infinity", "today", "now", "epoch",
        "０５/０３/２０２４",
        "٠٥/٠٣/٢٠٢٤", "'; drop table x --", "\\", "9" * 5_000, "05/03/2024" * 500,
    )),
]  # fmt: skip


def test_dates(tenant_warehouse: Warehouse) -> None:
    cases = [(text, order, sheet, day) for text, orders, files, day in DATES for order in orders for sheet in files]
    texts = computed(tenant_warehouse, render("date_text", "text"), [case[:1] for case in cases], "text text")
    pivot = str(rules_module.load().values.two_digit_year_pivot)
    days = computed(
        tenant_warehouse,
        render("parse_date", "text", "date_order", "is_spreadsheet", pivot),
        [(text, order, sheet) for text, (_, order, sheet, _) in zip(texts, cases, strict=True)],
        "text text, date_order text, is_spreadsheet bool",
    )
    found = [None if text is None else REFUSED if day is None else day for text, day in zip(texts, days, strict=True)]
    wanted = [date.fromisoformat(day) if day and day != REFUSED else day for *_, day in cases]
    alike([case[:3] for case in cases], wanted, found)


def test_every_day_of_a_year_is_read_and_no_other(tenant_warehouse: Warehouse) -> None:
    """Of 12 × 31 days written in ISO and day-first, the calendar of PostgreSQL says which there are."""
    iso = render("parse_date", "iso", "'dmy'", "false", "68")
    written = render("parse_date", "written", "'dmy'", "false", "68")
    wrong = tenant_warehouse.rows(f"""
        with texts as (
            select
                to_char(y, 'FM0000') || '-' || to_char(m, 'FM00') || '-' || to_char(d, 'FM00') as iso,
                to_char(d, 'FM00') || '/' || to_char(m, 'FM00') || '/' || to_char(y, 'FM0000') as written,
                make_date(y, m, 1) + d - 1 as day,
                m
            from unnest(array[1899, 1900, 1904, 2000, 2023, 2024, 2100, 2199, 2200]) y,
                generate_series(1, 12) m, generate_series(1, 31) d
        ), known as (
            select
                iso,
                written,
                case
                    when extract(month from day) = m and extract(year from day) between 1900 and 2199 then day
                end as day
            from texts
        )
        select iso, day, {iso}, {written} from known
        where {iso} is distinct from day or {written} is distinct from day
    """)
    assert wrong == []


# Texts

TEXTS = [
    ("Riesling", "Riesling"), ("  a  b ", "a b"), (f"a{NBSP}b{NNBSP}c", "a b c"), ("a\tb\r\nc", "a b c"),
    (f"{NBSP} {NNBSP}", None), ("", None), (None, None), ("\u200bRies\u00adling\u200e", "Riesling"),
    (f"a{THIN}b{FIGURE}c", "a b c"), ("\ufeffCode", "Code"), ("l’été", "l’été"), ("00123", "00123"), ("-", "-"),
    ("x" * 10_000, "x" * 10_000), ("été", "été"),
]  # fmt: skip


def test_texts(tenant_warehouse: Warehouse) -> None:
    found = computed(tenant_warehouse, render("clean_text", "text"), [(text,) for text, _ in TEXTS], "text text")
    wanted = [value for _, value in TEXTS]
    alike(TEXTS, wanted, found)


LABELS = [
    ("Crémant d'Alsace Extra-Brut", "CREMANT D ALSACE EXTRA BRUT"),
    ("Crémant d’Alsace Extra Brut", "CREMANT D ALSACE EXTRA BRUT"),
    ("Cœur de Cuvée", "COEUR DE CUVEE"), ("ŒIL DE PERDRIX", "OEIL DE PERDRIX"), ("Ægir æ", "AEGIR AE"),
    ("Gewürztraminer Spätlese", "GEWURZTRAMINER SPATLESE"), ("Straße", "STRASSE"), ("Cuve\u0301e", "CUVEE"),
    (f"Riesling{NBSP}(75{NNBSP}cl)", "RIESLING 75 CL"), ("1er cru n°3", "1ER CRU N 3"), ("---", ""), ("", ""),
    ("ﬁn", "FIN"), ("Ⅷ", "VIII"), ("x²", "X2"), ("５０cl", "50CL"), ("日本", ""), ("a_b", "A B"), ("40 %", "40"),
]  # fmt: skip


def test_labels(tenant_warehouse: Warehouse) -> None:
    found = computed(tenant_warehouse, render("normalize_label", "text"), [(text,) for text, _ in LABELS], "text text")
    wanted = [value for _, value in LABELS]
    twin = [curated.normalize_label(text) for text, _ in LABELS]
    alike(LABELS, wanted, found)
    alike(LABELS, wanted, twin)


# Codes: (text, code, whether it can be a key)
CODES = [
    ("C-001", "C-001", True), ("C001", "C001", True), (" c-001 ", "C-001", True), (f"c1{NBSP}", "C1", True),
    ("00123", "00123", True), ("01000", "01000", True), ("12/05", "12/05", True), ("2024-05-12", "2024-05-12", True),
    ("1-2", "1-2", True), ("1.0", "1.0", True), ("1E5", "1E5", True), ("2E10", "2E10", True), ("E+5", "E+5", True),
    ("a  b", "A  B", True), (f"a{NBSP}b", "A B", True), ("a.b/c#1", "A.B/C#1", True), ("é1", "É1", True),
    ("straße", "STRAßE", True), ("\u200bC1\u200e", "C1", True), ("\ufeffC1", "C1", True),
    ("C\u200b1", "C\u200b1", True),
    ("\tC1\r\n", "C1", True), ("0", "0", True), ("#12", "#12", True), ("12#", "12#", True), ("Ж", "Ж", True),
    ("x" * 5_000, "X" * 5_000, True), ("true", "TRUE", True), ("null", "NULL", True), ("é", "É", True),
    # Excel's errors, in the languages of our estates' offices, and what is left of long numbers
    *((error, error.upper(), False) for error in (
        "#N/A", "#n/a", "#NV", "#REF!", "#BEZUG!", "#VALUE!", "#VALEUR!", "#WERT!", "#NAME?", "#NOM?", "#DIV/0!",
        "#NULL!",
        "#NUL!", "#NUM!", "#NOMBRE!", "#ZAHL!", "#SPILL!", "#PROPAGATION!", "#CALC!", "#CALCUL!", "#CHAMP!",
        "#BLOCKED!",
        "#ÜBERLAUF!", "########", "1,23E+11", "1.23E+11", "1,23e+11", "3E+12", "9,87654E+105",
    )),
    *((text, text, False) for text in ("-", "---", "???", ".", "/", "''", "_", "€", "°", "×", "…", "☎", "（）")),
    ("", None, None), (None, None, None), (f" {NBSP}\t{NNBSP}", None, None), ("\u200b\ufeff", None, None),
]  # fmt: skip


def test_codes(tenant_warehouse: Warehouse) -> None:
    texts = [(text,) for text, *_ in CODES]
    code = render("client_code", "text")
    found = computed(tenant_warehouse, code, texts, "text text")
    valid = computed(
        tenant_warehouse, f"not {render('is_invalid_code', 'text')}", [(text,) for text in found], "text text"
    )
    alike(texts, [(code, valid) for _, code, valid in CODES], list(zip(found, valid, strict=True)))
    alike(texts, twins([text for (text,) in texts]), list(zip(found, valid, strict=True)))


def twins(texts: list[str | None]) -> list[tuple[str | None, bool | None]]:
    """Code and validity of each text as Python has them."""
    codes = [curated.normalize_code(text) or None for text in texts]
    valid = curated.is_valid_code(pd.Series([code or "" for code in codes], dtype="str"))
    return [(code, bool(ok) if code else None) for code, ok in zip(codes, valid, strict=True)]


def test_booleans(tenant_warehouse: Warehouse) -> None:
    words = landing.load_source().booleans  # written as headers are: 1,0 is 1_0, - is ''
    yes = {word.replace("_", ",") for word in words.true_words} | {"OUI", " Vrai ", "ja", "x", "1.0", "Actif"}
    no = {word.replace("_", ",") or "-" for word in words.false_words} | {"NON", " Faux ", "nein", "0.0", "Inactif"}
    neither = ["", " ", None, "peut-être", "2", "10", "oui non", "?"]
    cases = [*((word, True) for word in yes), *((word, False) for word in no), *((word, None) for word in neither)]
    found = computed(tenant_warehouse, render("parse_bool", "text"), [(word,) for word, _ in cases], "text text")
    alike(cases, [value for _, value in cases], found)


# Bottles of one unit (spec.md §2.2); None: the text names no format, one bottle then
BOTTLES = [
    ("CARTON6", 6), ("CARTON 6", 6), ("carton de 6", 6), ("Carton de 6 bouteilles", 6), ("CARTON12", 12),
    ("CAISSE", 12),
    ("caisse bois", 12), ("caisse de 6", 6), ("Caisse de 3", 3), ("CAISSE 18", 18), ("carton de 24", 24),
    ("cartons de 6", 6), ("Carton", None), ("MAGNUM", 2), ("magnum", 2), ("Magnum 150cl", 2), ("150cl", 2),
    ("150 CL", 2),
    ("1,5 L", 2), ("1.5L", 2), ("JEROBOAM", 4), ("Jéroboam", 4), ("300cl", 4), ("300 cl", 4), ("DEMI", 0.5),
    ("demi-bouteille", 0.5), ("37.5cl", 0.5), ("37,5 cl", 0.5), ("375 ml", 0.5), ("50cl", Decimal(2) / 3),
    ("50 CL", Decimal(2) / 3), ("BIB 3L", 4), ("BIB3L", 4), ("bib 3 l", 4), ("BIB 5L", Decimal(20) / 3),
    ("BIB 5 L", Decimal(20) / 3), ("75cl", None), ("Bouteille", None), ("", None), ("demi-sec", None),
    ("Crémant demi sec", None), ("250cl", None), ("lot de 6", None), ("Riesling 2021 Magnum", 2), ("Caissette", None),
    ("CARTON 75CL", None), ("coffret", None),
]  # fmt: skip


def with_rules(warehouse: Warehouse, **names: Any) -> None:
    """The rules as a refresh writes them, for macros that read them."""
    for name, value in names.items():
        warehouse.execute(
            "insert into landing.parameters (name, value) values (%s, %s)", [name.replace("__", "."), json.dumps(value)]
        )


def configured() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "crm_assets" / "config" / "rules.yaml").read_text("utf-8"))
    return found


def test_bottles(tenant_warehouse: Warehouse) -> None:
    with_rules(tenant_warehouse, values__bottle_coefficients=configured()["values"]["bottle_coefficients"])
    expression = render("bottle_coefficient", "text")
    found = computed(tenant_warehouse, expression, [(text,) for text, _ in BOTTLES], "text text")
    rounded = [None if value is None else round(float(value), 6) for value in found]
    wanted = [None if value is None else round(float(value), 6) for _, value in BOTTLES]
    alike(BOTTLES, wanted, rounded)


CENTILITRES = [
    ("75cl", 75), ("75 CL", 75), ("37.5cl", 37.5), ("37,5 cl", 37.5), ("0,75 L", 75), ("0.75l", 75), ("1L", 100),
    ("1 litre", 100), ("3 litres", 300), ("375 ml", 37.5), ("750ML", 75), ("BIB 5L", 500), ("magnum", None),
    ("75", None),
    ("Lot 6", None), ("", None), ("6 bouteilles", None),
]  # fmt: skip


def test_centilitres(tenant_warehouse: Warehouse) -> None:
    found = computed(tenant_warehouse, render("centilitres", "text"), [(text,) for text, _ in CENTILITRES], "text text")
    alike(CENTILITRES, [value for _, value in CENTILITRES], [None if cl is None else float(cl) for cl in found])


# What people write, by the patterns of rules.yaml: type and status of a customer, kind of a product (spec.md §3)
TYPES = [
    ("Particulier", None), ("Privé", None), ("", None), ("CHR", "horeca"), ("Restaurant", "horeca"),
    ("Hôtel", "horeca"),
    ("Bar à vin", "horeca"), ("Barman", None), ("Horeca", "horeca"), ("Caviste", "merchant"),
    ("Négociant", "merchant"), ("Négoce", "merchant"),
    ("Revendeur", "merchant"), ("Professionnel", "merchant"), ("Tarif PRO", "merchant"), ("Export UE", "export_trade"),
    ("Négoce export", "export_trade"), ("CE", "works_council"), ("CSE Alsace", "works_council"),
    ("Comité d'entreprise", "works_council"), ("Personnel", "staff"), ("Salarié", "staff"), ("Staff", "staff"),
    ("Prospect", None), ("Cercle", None), ("Association", None),
]  # fmt: skip
STATUSES = [
    ("Décédé", "deceased"), ("décédée le 3/2", "deceased"), ("DCD", "deceased"), ("NPAI", "moved"),
    ("N.P.A.I.", "moved"),
    ("Parti", "moved"), ("Partie sans adresse", "moved"), ("A déménagé", "moved"), ("Particulier", None),
    ("Partiel", None), ("Ne plus contacter", "do_not_contact"), ("NE PAS CONTACTER", "do_not_contact"),
    ("Ne pas démarcher", "do_not_contact"), ("STOP", "do_not_contact"), ("RGPD", "do_not_contact"),
    ("Litige", "dispute"), ("Litige en cours", "dispute"), ("Contentieux", "dispute"),
    ("Litige soldé, décédé", "deceased"),
    ("Actif", None), ("", None), ("Client", None),
]  # fmt: skip
KINDS = [
    ("Frais de port", "shipping"), ("PORT", "shipping"), ("Port colis", "shipping"),
    ("Participation au port", "shipping"),
    ("Frais d'envoi", "shipping"), ("Frais", "shipping"), ("Livraison Colmar", "shipping"), ("Transport", "shipping"),
    ("Remise fidélité", "discount"), ("Escompte", "discount"), ("Ristourne", "discount"),
    ("Consigne caisse bois", "deposit"), ("Emballage", "deposit"), ("Acompte", "deposit"),
    ("Dégustation commentée", "tasting"), ("Visite de cave", "tasting"), ("Bon cadeau 50 euros", "voucher"),
    ("Bon cadeau dégustation", "voucher"), ("Chèque-cadeau", "voucher"), ("Carte cadeau", "voucher"),
    ("Coffret Dégustation 6 vins", "gift_box"), ("Coffret Noël", "gift_box"), ("Échantillon", "sample"),
    ("Verre INAO", "glassware"), ("Carafe", "glassware"), ("Tire-bouchon", "glassware"),
    ("Jus de raisin", "other_drink"),
    ("Eau-de-vie de poire", "other_drink"), ("Marc de Gewurztraminer", "other_drink"), ("Bière", "other_drink"),
    ("Riesling Clos Saint-Marc", None), ("Rosé frais et fruité", None), ("Porto", None), ("Les Portes", None),
    ("Cuvée Transhumance", None), ("Verrerie Blanc", None), ("Riesling Tradition 2023", None), ("Marcottes", None),
]  # fmt: skip


@pytest.mark.parametrize(
    ("rules", "result", "cases"),
    [("customers.types", "type", TYPES), ("customers.statuses", "status", STATUSES), ("products.kinds", "kind", KINDS)],
)
def test_words_mean_what_the_rules_say(
    tenant_warehouse: Warehouse, rules: str, result: str, cases: list[tuple[str, str | None]]
) -> None:
    section, name = rules.split(".")
    with_rules(tenant_warehouse, **{rules.replace(".", "__"): configured()[section][name]})
    label = render("normalize_label", "text")
    expression = render("first_pattern", label, rules, result)
    found = computed(tenant_warehouse, expression, [(text,) for text, _ in cases], "text text")
    alike(cases, [value for _, value in cases], found)


# The twins: any text

ALPHABET = st.one_of(
    st.sampled_from(
        [*"aAzZ09-_#/!?.,+E' ", NBSP, NNBSP, THIN, FIGURE, *INVISIBLE, "\t", "\n", "œ", "Æ", "ß", "’", "é"]
    ),
    st.characters(min_codepoint=1, max_codepoint=0x17F),
    st.characters(min_codepoint=0x300, max_codepoint=0x52F, exclude_categories=["Cn"]),
    st.characters(min_codepoint=0x1E00, max_codepoint=0x303F, exclude_categories=["Cn"]),
    st.sampled_from([*"ﬁ日本Ａ５😀", "\U0001d400"]),
)


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.text(ALPHABET, max_size=8), min_size=300, max_size=400))
def test_python_and_sql_normalise_any_text_alike(tenant_warehouse: Warehouse, texts: list[str]) -> None:
    code, label = render("client_code", "text"), render("normalize_label", "text")
    rows = tenant_warehouse.rows(
        f"""select {code}, {label}, not {render("is_invalid_code", f"({code})")}
        from unnest(%s::text[]) with ordinality as t (text, n) order by n""",
        [texts],
    )
    labels = [curated.normalize_label(text) for text in texts]
    expected = [(code, label, ok) for (code, ok), label in zip(twins([*texts]), labels, strict=True)]
    alike(texts, expected, rows)
