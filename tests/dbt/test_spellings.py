"""Landing and staging read numbers and dates by the same forms: logic/spellings.py and the macros over one table."""

from __future__ import annotations

import itertools
from datetime import date
from decimal import Decimal

import pytest

from crm_assets.logic.landing import is_no_key
from crm_assets.logic.spellings import NO_DATES, read_date, read_number
from crm_assets.resources.warehouse import Warehouse
from tests.dbt.macros import render

PIVOT = 68

DATES = [
    *("2024-03-05", "2024/03/05", "2024.03.05", "2024-3-5", "05/03/2024", "05-03-2024", "05.03.2024", "5/3/2024"),
    *("05/03/24", "05/03/68", "05/03/69", "31/12/99", "13/25/2024", "12/25/2024", "20240305", "20241305", "19000101"),
    *("30/02/2024", "29/02/2024", "29/02/2023", "29/02/2000", "29/02/1900", "31/04/2024", "00/00/0000", "0000-00-00"),
    *("2024-00-10", "0/3/2024", "05/00/2024", "32/01/2024", "05/03/0024", "05/03/1899", "05/03/2200", "05/03/2199"),
    *("05/03/024", "05/03/20240", "5 mars 2024", "2024-03/05", "05/03-2024", "05/03", "2024", "2024-03", "1234"),
    *("45356", "45356.5", "45356,25", "1", "9999", "10000", "99999", "045356", "60", "453567"),
    *("#N/A", "-", "n/a", "", " ", "\u00a0", "05/03/2024\u00a0", " 05/03/2024", "\u200b05/03/2024", "05 / 03 / 2024"),
    *("'05/03/2024", "٠٥/٠٣/٢٠٢٤", "2024-03-05Z", "05/03/2024T", "T10:00", "2024-W10-2", "05/03/2024 x"),
]
TIMES = [
    *("10:11", "9:05", "10:11:12", "10:11:12.123", "10:11:12,5", "10:11:12Z", "10:11:12+01:00", "10:11:12 +0100"),
    *("14h30", "14H30", "14h", "10.11", "10.11.12", "10-11", "10/11", "2:05 PM", "2:05pm", "2:05:01 AM Z"),
    *("25:00", "10:60", "24:00", "23:59:59", "10:11:60", "10:1", "10:11:12:13", "1011", "000:00"),
]
NUMBERS = [
    *("1234", "-3", "(3)", "+3", "1 234,56", "1\u202f234,56", "1\u00a0234", "1.234,56", "1,234.56", "1.234", "1,234"),
    *("1.234.567", "1,234,567", "1.234.567,8", "1,234,567.8", "1'234.50", "1’234,50", "12,50 €", "€ 12.50", "12,50EUR"),
    *("12,50 euros", "EUR12", "12€50", "$3", "3 %", "3-", "--3", "-", "+", "(", "()", "(-3)", "-(3)", "( 3 )", "- 3"),
    *(
        "1e5",
        "1E+05",
        "5.",
        "5,",
        ".5",
        ",5",
        "0.125",
        "0,125",
        "012.345",
        "00123",
        "1 2",
        "1  234",
        "12 34",
        "1 234 567,8",
    ),
    *(
        "1 2345",
        "1 234 56",
        "12.34.567",
        "12,345.6.7",
        "1.2345",
        "1234.567",
        "1234,567",
        "nan",
        "inf",
        "0x1A",
        "½",
        "²",
    ),
    *("٣,٤", "\u22122,5", "\u22122,5 €", "1\u2009234", "#N/A", "", " ", "\u00a0", "€", "1" * 60, "1" * 61, "1\u200b2"),
    *(
        "1.234 €",
        "-1.234",
        "(1,234)",
        "-1,234.5",
        "+1.5",
        "1 234.567",
        "1'234'567",
        "12-",
        "1,2,3",
        "1..2",
        "(3) €",
        "€(3)",
    ),
    *(
        "(€3)",
        "- 12,50 €",
        "\t5\t",
        "5\n",
        "1 234",
        "1.23E+11",
        "-0",
        "0",
        "-.5",
        "1 ,5",
        "12 €",
        "(12 €)",
        "1\u00a0234 €",
    ),
]
CODES = [
    *("C-01", "00123", "#N/A", "#REF!", "#NV", "#VALEUR!", "???", "-", "1,23E+11", "1.23E+11", "1E+05", "1E5", "E+10"),
    *("é", "Ünicode", "京", "#12", "#A1", "…", "°", "1,23e+11", "12,3E+11", "#NAME?", "#N/A ", "× ", "_", "0"),
]  # fmt: skip


def typed(warehouse: Warehouse, macro: str, texts: list[str], before: str, *more: str) -> dict[str, object]:
    """What a macro makes of each text, the text cleaned by another macro first as the models do."""
    value, clean = (text.replace("%", "%%") for text in (render(macro, "clean", *more), render(before, "raw")))
    statement = f"select raw, {value} from (select raw, {clean} as clean from unnest(%s::text[]) as raw) as texts"
    return dict(warehouse.rows(statement, [texts]))


@pytest.mark.parametrize("order", ["dmy", "mdy"])
@pytest.mark.parametrize("is_spreadsheet", [False, True])
def test_a_date_is_the_same_day_in_landing_and_in_staging(
    tenant_warehouse: Warehouse, order: str, is_spreadsheet: bool
) -> None:
    with_times = [f"{day}{gap}{t}" for day, t in itertools.product(("05/03/2024", "2024-03-05"), TIMES) for gap in " T"]
    texts = [*DATES, *with_times]
    arguments = [f"'{order}'", str(is_spreadsheet).lower(), str(PIVOT)]
    staged = typed(tenant_warehouse, "parse_date", texts, "date_text", *arguments)
    assert len(staged) == len(set(texts))

    def landed(text: str) -> date | None:
        found = None if text.strip() in NO_DATES else read_date(text, PIVOT, is_spreadsheet)
        return found.as_date("mdy" if order == "mdy" else "dmy") if found else None

    assert {text: day for text, day in staged.items() if day != landed(text)} == {}


@pytest.mark.parametrize("separator", [",", ".", None])
def test_a_number_is_the_same_in_landing_and_in_staging(tenant_warehouse: Warehouse, separator: str | None) -> None:
    written = "null::text" if separator is None else f"'{separator}'"
    staged = typed(tenant_warehouse, "parse_number", NUMBERS, "number_text", written)

    def landed(text: str) -> Decimal | None:
        number = read_number(text)
        return number.exact(separator) if number else None

    assert {text: (value, landed(text)) for text, value in staged.items() if value != landed(text)} == {}


def test_what_can_be_no_code_is_the_same_in_landing_and_in_staging(tenant_warehouse: Warehouse) -> None:
    staged = typed(tenant_warehouse, "is_invalid_code", CODES, "client_code")
    assert {text for text, is_invalid in staged.items() if is_invalid is not is_no_key(text)} == set()
