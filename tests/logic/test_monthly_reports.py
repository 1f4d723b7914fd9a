"""The monthly report: its figures from frames, its page in French, English and German, and its workbook."""

from __future__ import annotations

import dataclasses
import io
import re
import string
import zipfile
from collections.abc import Iterator
from datetime import UTC, date, datetime
from functools import cache
from typing import Any

import numpy as np
import openpyxl
import pandas as pd
import pytest
from openpyxl.worksheet.worksheet import Worksheet

from crm_assets import charts, rendering
from crm_assets.logic import monthly_page, monthly_reports, report_workbook
from crm_assets.logic.monthly_reports import MonthlyReport, Tables
from tests.logic import estate
from tests.logic.test_reports import _contrast, emptied, frame, weekly

LOCALES = ("fr", "en", "de")
MONTH, MADE_AT = date(2025, 12, 1), datetime(2026, 1, 1, tzinfo=UTC)
TENANT = estate.tenant()
RULES = TENANT.business_rules
DECISION = {"run_id": "run", "as_of": pd.Timestamp("2026-01-01")}
EVIL = "=1+cmd|' /C calc'!A0"


def sales() -> pd.DataFrame:
    """Two years and a day: revenue 100 a month in 2024, 110 in 2025; a tenth of it by professionals."""
    rows: list[dict[str, Any]] = []
    for month in pd.date_range("2024-01-01", "2026-01-01", freq="MS"):
        for population, part in (("all", 1.0), ("private", 0.9), ("professional", 0.1), ("other", 0.0)):
            whole = 1100.0 if month.year == 2025 else 1000.0
            rows.append(
                {
                    "month": month,
                    "population": population,
                    "revenue_ht": whole * part,
                    "orders": 10 * part,
                    "customers": 8 * part,
                    "new_customers": 2 * part,
                    "average_order_value": 100.0 + month.month if part else None,
                    "bottles": 120 * part,
                }
            )
    return pd.DataFrame(rows)


def tables(**changes: Any) -> Tables:
    before = date(2024, 12, 1)
    given: dict[str, Any] = {
        "sales": sales(),
        "lines": frame(
            "wine_id family month amount_ht bottles",
            ("w1", "Blancs <secs>", MONTH, 400.0, 40.0),
            ("w1", "Blancs <secs>", before, 100.0, 10.0),
            ("w2", "Rouges", MONTH, 50.0, 5.0),
            ("w2", "Rouges", before, 300.0, 30.0),
            ("port", None, MONTH, 20.0, 0.0),
            ("w3", "Rouges", before, 10.0, 1.0),
        ),
        "products": frame(
            "wine_id label kind family months_of_stock stock_bottles is_active rank_12m",
            ("w1", "Riesling <Vieilles Vignes>", "wine", "Blancs <secs>", 0.5, 12.0, True, 1),
            ("w2", "Pinot Noir", "wine", "Rouges", 9.0, 90.0, True, 2),
            ("w3", EVIL, "wine", "Rouges", 0.0, 0.0, True, 3),
            ("w4", "Vieux millésime", "wine", "Rouges", 0.1, 1.0, False, 4),
            ("port", "Frais de port", "shipping", "", None, None, True, 5),
        ),
        "families": frame("family revenue_change", ("Blancs <secs>", 0.12), ("Rouges", -0.3), ("", None)),
        "transitions": frame(
            "from_date to_date from_segment to_segment customers",
            *(
                (pd.Timestamp("2025-12-01"), pd.Timestamp("2026-01-01"), *way)
                for way in (
                    ("Champions", "Champions", 5),
                    ("Champions", "At Risk", 3),
                    ("Others", "Champions", 1),
                    ("New", "Prospects", 2),
                    ("Others", "Gone", 1),
                )
            ),
        ),
        "cohorts": pd.DataFrame(
            [
                {"cohort": cohort, "customers": 20, "quarters_since": n, "retention": share, "is_complete": n < 3}
                for cohort in (pd.Timestamp("2025-01-01"), pd.Timestamp("2025-04-01"))
                for n, share in ((0, 1.0), (1, 0.5), (2, 0.25), (3, 0.9))
            ]
        ),
        "results": frame(
            "campaign occurrence holdout sent delivered opened clicked bounced unsubscribed ordered converted"
            " revenue_ht last_sent_on final_on is_final",
            (
                "noel",
                "once",
                80,
                40,
                40,
                20,
                4,
                0,
                1,
                30,
                9,
                800.0,
                pd.Timestamp("2025-12-01"),
                pd.Timestamp("2025-12-31"),
                True,
            ),
            (
                "noel",
                "once",
                0,
                30,
                30,
                10,
                2,
                0,
                0,
                26,
                5,
                700.0,
                pd.Timestamp("2025-12-02"),
                pd.Timestamp("2026-01-01"),
                True,
            ),
            (
                "week",
                "2025-W51",
                0,
                10,
                0,
                0,
                0,
                10,
                0,
                0,
                0,
                0.0,
                pd.Timestamp("2025-12-20"),
                pd.Timestamp("2026-01-19"),
                False,
            ),
            (
                "solo",
                "once",
                0,
                10,
                10,
                0,
                0,
                0,
                0,
                1,
                0,
                10.0,
                pd.Timestamp("2025-12-03"),
                pd.Timestamp("2026-01-02"),
                True,
            ),
            (
                "old",
                "once",
                5,
                50,
                50,
                9,
                9,
                0,
                0,
                9,
                9,
                90.0,
                pd.Timestamp("2025-11-30"),
                pd.Timestamp("2025-12-30"),
                True,
            ),
        ),
        "uplift": frame(
            "campaign occurrence held_out uplift uplift_low uplift_high is_final",
            ("noel", "once", 80, 0.2, 0.052431, 0.333873, True),
            ("week", "2025-W51", 3, 0.5, 0.1, 0.9, False),
            ("old", "once", 80, 0.2, 0.1, 0.3, True),
        ),
        "severities": frame("check_code severity", ("MISSING_FAMILY", "WARN"), ("STALE_SALES", "ERROR")),
        "quality_history": frame(
            "as_of check_code ratio tolerance score overall",
            (pd.Timestamp("2025-12-29"), "MISSING_FAMILY", 0.15, 0.3, 50.0, 90.0),
            (pd.Timestamp("2025-12-29"), "STALE_SALES", 0.0, 1.0, 100.0, 90.0),
            (pd.Timestamp("2025-12-08"), "MISSING_FAMILY", 0.3, 0.3, 0.0, 72.5),
            (pd.Timestamp("2025-12-08"), "STALE_SALES", 0.0, 1.0, 100.0, 72.5),
        ),
        "files": frame(
            "file_id path dataset status reason row_count",
            ("f1", "ventes.csv", "sales_lines", "loaded", None, 200),
            ("f2", "clients.csv", "customers", "loaded", None, 30),
            ("f3", "odd.csv", "sales_lines", "refused", "it has no <date> column", None),
            ("f1", "copie.csv", "sales_lines", "duplicate", None, 200),
        ),
        "refused": pd.DataFrame(
            {
                "file_id": ["f1", "f1", "f9"],
                "codes": [["INVALID_DATE"], ["INVALID_DATE", "RAGGED_ROW"], ["RAGGED_ROW"]],
                "rows": [3, 1, 50],
            }
        ),
        "anomalies": frame(
            "kind subject_id measure measured expected severity value_at_stake_ht since_date client_code name label",
            ("CUSTOMER_SILENT", "c1", "silent_days", 300.0, 44.6, "HIGH", 700.0, None, "A1", "Hélène <Meyer>", None),
            *(
                ("CUSTOMER_SILENT", f"d{n}", "silent_days", 90.0, 40.0, "LOW", 10.0 + n, None, f"D{n}", None, None)
                for n in range(8)
            ),
            ("ORDER_VALUE_DOWN", "c2", "average_order_value", 80.0, 160.4, "LOW", 80.0, None, "B2", "Klein", None),
            ("PRODUCT_FALLING", "w2", "bottles_recent", 12.0, 36.0, "LOW", 300.0, None, None, None, "Pinot Noir"),
            ("VOLUME_OFF", "estate", "revenue_week", 300.0, 1500.0, "HIGH", 1200.0, None, None, None, None),
        ),
    }
    return Tables(**{**given, **changes})


def nothing() -> Tables:
    """An estate of which only the sales of one month are known."""
    full = tables()
    empty = {field.name: getattr(full, field.name)[:0] for field in dataclasses.fields(Tables)}
    return Tables(**{**empty, "sales": sales()[lambda found: found["month"] == pd.Timestamp(MONTH)]})


@cache
def told(is_bare: bool = False) -> MonthlyReport:
    return monthly_reports.monthly(TENANT, RULES, DECISION, MONTH, nothing() if is_bare else tables())


@cache
def page(locale: str, is_bare: bool = False) -> str:
    return monthly_page.html_of(told(is_bare), locale)


@pytest.mark.parametrize(
    ("as_of", "month"),
    [
        (date(2026, 1, 1), date(2025, 12, 1)),
        (date(2025, 12, 31), date(2025, 12, 1)),
        (date(2025, 12, 30), date(2025, 11, 1)),
        (date(2024, 2, 29), date(2024, 2, 1)),
        (date(2024, 2, 28), date(2024, 1, 1)),
    ],
)
def test_the_month_told_of_is_the_newest_whole_one(as_of: date, month: date) -> None:
    assert monthly_reports.last_whole_month(as_of) == month


def test_the_month_and_the_year_stand_beside_last_years() -> None:
    revenue = told().figure("revenue_ht")
    assert revenue == {"value": 1100.0, "before": 1000.0, "year": 12 * 1100.0, "year_before": 12 * 1000.0}
    assert told().figure("customers")["year"] is None, "months of customers do not add up to a year's"
    average = told().figure("average_order_value")
    assert (average["value"], average["year"]) == (112.0, pytest.approx(100 + sum(range(1, 13)) / 12))
    assert len(told().months) == 12
    assert told().months[["amount", "amount_before"]].iloc[-1].tolist() == [1100.0, 1000.0]
    assert told().populations["population"].tolist() == ["private", "professional"]


def test_without_last_year_nothing_is_compared() -> None:
    revenue = told(is_bare=True).figure("revenue_ht")
    assert revenue == {"value": 1100.0, "before": None, "year": None, "year_before": None}


@pytest.mark.parametrize(
    ("locale", "said"), [("fr", "contre 0\u00a0€ en"), ("en", "against €0 in"), ("de", "gegenüber 0\u00a0€ im")]
)
def test_a_month_without_sales_a_year_ago_is_not_called_unknown(locale: str, said: str) -> None:
    closed = sales()
    closed.loc[closed["month"] == pd.Timestamp(monthly_reports.year_before(MONTH)), "revenue_ht"] = 0.0
    report = monthly_reports.monthly(TENANT, RULES, DECISION, MONTH, tables(sales=closed))
    assert said in monthly_page.digest(report, locale)


def test_families_and_wines_are_compared_with_the_same_month() -> None:
    families = told().families.set_index("family")
    assert families.index.tolist() == ["Blancs <secs>", "Rouges", ""]
    assert families.loc["Blancs <secs>", ["revenue_ht", "before", "change", "change_12m"]].tolist() == [
        400.0, 100.0, 3.0, 0.12,
    ]  # fmt: skip
    assert np.isnan(families.loc["", "change"])
    assert told().risers[["label", "difference"]].to_numpy().tolist() == [["Riesling <Vieilles Vignes>", 300.0]]
    assert told().fallers["label"].tolist() == ["Pinot Noir", EVIL], "shipping is no wine"
    assert told().low_stock["label"].tolist() == ["Riesling <Vieilles Vignes>", EVIL], "what is sold no more may end"


def test_segments_cohorts_and_actions() -> None:
    assert told().segments.set_index("segment").to_dict("index") == {
        "Champions": {"customers": 6, "before": 8},
        "At Risk": {"customers": 3, "before": 0},
        "Prospects": {"customers": 2, "before": 0},
        "Others": {"customers": 0, "before": 2},
    }
    assert told().movements.iloc[0].tolist() == ["Champions", "At Risk", 3]
    assert told().cohorts["quarters_since"].max() == 2, "a quarter under way is not shown"
    silent = told().to_do[told().to_do["kind"] == "CUSTOMER_SILENT"]
    assert silent["client_code"].tolist() == ["A1", "D7", "D6", "D5", "D4", "D3"]
    assert dict(told().to_do_counts.itertuples(index=False, name=None))["CUSTOMER_SILENT"] == 9


def test_campaigns_of_the_month_with_their_effect_once_it_is_final() -> None:
    found = told().campaigns.set_index("campaign")
    assert set(found.index) == {"noel", "week", "solo"}
    assert found.loc["noel", ["sent", "ordered", "revenue_ht", "holdout"]].tolist() == [70.0, 56.0, 1500.0, 80.0]
    assert found.loc["noel", ["uplift", "uplift_low", "uplift_high"]].tolist() == [0.2, 0.052431, 0.333873]
    assert np.isnan(found.loc["week", "uplift"]), "not final"
    assert np.isnan(found.loc["solo", "uplift"]), "no holdout"


def test_files_and_quality_of_the_month() -> None:
    assert told().files.to_numpy().tolist() == [["customers", 1, 30, 0], ["sales_lines", 1, 200, 4]]
    assert told().refused.to_numpy().tolist() == [["INVALID_DATE", 4], ["RAGGED_ROW", 1]]
    assert told().bad_files["path"].tolist() == ["odd.csv"]
    assert told().quality.to_numpy().tolist() == [["MISSING_FAMILY", "WARN", 0.15, 0.3, 50.0, 0.0]]
    assert told().quality_days["overall"].tolist() == [72.5, 90.0]


def test_a_month_that_is_not_over_or_not_known_is_refused() -> None:
    with pytest.raises(LookupError, match="2026-01 is not over"):
        monthly_reports.monthly(TENANT, RULES, DECISION, date(2026, 1, 1), tables())
    with pytest.raises(LookupError, match="no sales of 2023-12"):
        monthly_reports.monthly(TENANT, RULES, DECISION, date(2023, 12, 1), tables())


def test_an_earlier_month_says_nothing_of_today() -> None:
    earlier = monthly_reports.monthly(TENANT, RULES, DECISION, date(2025, 11, 1), tables())
    assert not earlier.is_current
    assert [len(part) for part in (earlier.segments, earlier.cohorts, earlier.to_do, earlier.low_stock)] == [0] * 4
    assert "Meyer" not in monthly_page.html_of(earlier, "fr")
    assert earlier.campaigns["campaign"].tolist() == ["old"]


def test_rows_in_any_order_make_the_same_page() -> None:
    mixed = {
        field.name: getattr(tables(), field.name).sample(frac=1, random_state=7) for field in dataclasses.fields(Tables)
    }
    assert monthly_reports_page(Tables(**mixed)) == page("fr")


def monthly_reports_page(given: Tables) -> str:
    return monthly_page.html_of(monthly_reports.monthly(TENANT, RULES, DECISION, MONTH, given), "fr")


@pytest.mark.parametrize(
    ("locale", "texts"),
    [
        (
            "fr",
            [
                "Décembre 2025\u00a0: 1\u202f100\u00a0€ de ventes HT, +10,0\u00a0% par rapport à décembre 2024",
                "8 clients ont passé commande, dont 2 pour la première fois.",
                "La plus forte hausse\u00a0: Riesling &lt;Vieilles Vignes&gt; (+300\u00a0€).",
                "noel (unique)\u00a0: +20,0 points de commandes par rapport au groupe témoin de 80 clients",
                "(entre +5,2 et +33,4, à 95\u00a0%). L&#39;effet est établi.",
                "solo (unique)\u00a0: pas de groupe témoin",
                "week (2025-W51)\u00a0: chiffres provisoires",
                "Hélène &lt;Meyer&gt; (A1)\u00a0: ",
                "Au plus bas du mois, le 8 décembre 2025\u00a0: 72,5.",
                "T1 2025",
                "Et 3 autres.",
            ],
        ),
        (
            "en",
            [
                "December 2025: €1,100 of sales before VAT, +10.0% on December 2024 (€1,000).",
                "8 customers ordered, 2 of them for the first time.",
                "Q1 2025",
                "And 3 more.",
            ],
        ),
        (
            "de",
            [
                "Dezember 2025: 1.100\u00a0€ Umsatz netto, +10,0\u00a0% gegenüber Dezember 2024 (1.000\u00a0€).",
                "8 Kunden haben bestellt, davon 2 zum ersten Mal.",
                "Und 3 weitere.",
            ],
        ),
    ],
)
def test_the_page_speaks_the_estates_language(locale: str, texts: list[str]) -> None:
    shown = page(locale)
    assert f'<html lang="{locale}">' in shown
    for text in texts:
        assert text in shown, text


@pytest.mark.parametrize("is_bare", [False, True])
@pytest.mark.parametrize("locale", LOCALES)
def test_nothing_is_empty_unworded_or_left_in_braces(locale: str, is_bare: bool) -> None:
    shown = re.sub(r"<style>.*?</style>|src=\"[^\"]*\"", "", page(locale, is_bare), flags=re.DOTALL)
    text = re.sub(r"<[^>]+>", " ", shown)
    assert not re.search(r"\b(None|nan|NaN|NaT|inf)\b|[{}]", text)
    assert not re.search(r"\b[A-Z]{3,}_[A-Z_]+\b", text), "a code stands where words should"
    assert not re.search(r"<(p|li|h2|h3|caption|figcaption)>\s*</\1>", shown)
    assert not re.search(r"https?://|<script|@import|url\(", page(locale, is_bare))


def flat(words: Any, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(words, dict):
        for name, below in words.items():
            yield from flat(below, f"{key}.{name}")
    else:
        yield key, str(words)


@pytest.mark.parametrize("area", ["monthly", "mail", "workbook"])
def test_every_language_says_the_same_things(area: str) -> None:
    french = dict(flat(rendering.texts("fr")[area]))
    for locale in ("en", "de"):
        others = dict(flat(rendering.texts(locale)[area]))
        assert set(others) == set(french)
        for key, text in others.items():
            asked = [{name for _, name, _, _ in string.Formatter().parse(said) if name} for said in (text, french[key])]
            assert asked[0] == asked[1], key


def test_every_cell_of_the_heat_map_can_be_read() -> None:
    for share in np.linspace(0, 1, 21):
        assert _contrast(charts.INK, monthly_page.heat(float(share))) >= 4.5
    assert page("fr").count('<td style="background: #') == 4


def test_the_digest_names_nobody() -> None:
    said = monthly_page.digest(told(), "en")
    assert "| Orders | 10 | 10 |" in said
    assert not re.search("Meyer|Klein|A1|B2", said)


# --- the workbooks


@cache
def book(kind: str, locale: str, is_bare: bool = False) -> bytes:
    if kind == "monthly":
        return report_workbook.monthly_workbook(told(is_bare), locale, MADE_AT)
    report = weekly(previous=None, given=emptied()) if is_bare else weekly()
    return report_workbook.weekly_workbook(report, locale, MADE_AT)


def opened(kind: str, locale: str, is_bare: bool = False) -> dict[str, Worksheet]:
    return {sheet.title: sheet for sheet in openpyxl.load_workbook(io.BytesIO(book(kind, locale, is_bare))).worksheets}


def header(sheet: Worksheet) -> list[str]:
    return [cell.value for cell in sheet[4] if cell.value]


@pytest.mark.parametrize(
    ("kind", "locale", "names"),
    [
        (
            "weekly",
            "fr",
            "Résumé, Ventes, À écrire, Non contactés, Segments, Mouvements, Groupes, À risque, Signaux, Campagnes,"
            " Fichiers, Lignes refusées, Qualité",
        ),
        (
            "monthly",
            "en",
            "Summary, Sales, Families, Wines, Segments, Movements, Loyalty, Campaigns, Files, Refused rows, Quality,"
            " Signals, Low stock",
        ),
    ],
)
def test_a_workbook_has_its_sheets_in_the_estates_language(kind: str, locale: str, names: str) -> None:
    assert list(opened(kind, locale)) == names.split(", ")


@pytest.mark.parametrize("kind", ["weekly", "monthly"])
@pytest.mark.parametrize("locale", LOCALES)
@pytest.mark.parametrize("is_bare", [False, True])
def test_sheets_are_in_view_filtered_printable_and_whole(kind: str, locale: str, is_bare: bool) -> None:
    for name, sheet in opened(kind, locale, is_bare).items():
        assert sheet.freeze_panes == "B5", name
        assert header(sheet), name
        assert sheet.print_title_rows == "$4:$4"
        assert sheet.page_setup.orientation == "landscape"
        assert sheet.sheet_properties.pageSetUpPr.fitToPage
        has_rows = sheet.auto_filter.ref is not None
        assert has_rows or is_bare, name
        texts = [str(cell.value) for row in sheet.iter_rows() for cell in row if cell.value is not None]
        assert not [text for text in texts if re.search(r"\b(None|nan|NaT)\b|[{}]", text)], name
        assert all(cell.data_type != "f" for row in sheet.iter_rows() for cell in row), name


def test_charts_are_native_and_described() -> None:
    def drawings(content: bytes) -> tuple[int, list[str]]:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            texts = [archive.read(name).decode() for name in archive.namelist() if name.startswith("xl/drawings/d")]
            charts_ = [name for name in archive.namelist() if name.startswith("xl/charts/chart")]
        return len(charts_), [said for text in texts for said in re.findall(r'descr="([^"]*)"', text)]

    for kind, least in (("weekly", 7), ("monthly", 6)):
        count, described = drawings(book(kind, "fr"))
        assert count >= least
        assert len(described) == count
        assert all(len(text) > 30 for text in described)
    assert "décembre 2025 1\u202f000\u00a0€, 1\u202f100\u00a0€" in " ".join(drawings(book("monthly", "fr"))[1])


def test_numbers_are_numbers_in_their_format_and_names_are_inert() -> None:
    wines = opened("monthly", "fr")["Vins"]
    rows = {row[0].value: row for row in wines.iter_rows(min_row=5)}
    amount = rows["Riesling <Vieilles Vignes>"][header(wines).index("Ventes HT")]
    assert (amount.value, "€" in amount.number_format) == (400, True)
    assert f"'{EVIL}" in rows
    months = opened("monthly", "en")["Sales"]
    first, change = months["A5"], months["D5"]
    assert first.value == datetime(2025, 1, 1)
    assert change.value == pytest.approx(0.1)
    assert change.number_format.startswith("+0.0%")
    loyalty = opened("monthly", "fr")["Fidélité"]
    assert [cell.value for cell in loyalty[5]] == ["T1 2025", 20, 0.5, 0.25]


@pytest.mark.parametrize("kind", ["weekly", "monthly"])
def test_the_same_report_gives_the_same_workbook(kind: str) -> None:
    first = book(kind, "de")
    book.cache_clear()
    assert book(kind, "de") == first
