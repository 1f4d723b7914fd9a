"""The review workbook: what goes in, how it looks to a spreadsheet, and what is read of one that comes back."""

from __future__ import annotations

import csv
import dataclasses
import io
import re
import zipfile
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl
import pandas as pd
import pytest
import xlsxwriter

from crm_assets import rendering, rules
from crm_assets.logic.landing import normalise_header
from crm_assets.logic.mended import is_review_workbook
from crm_assets.logic.reading import UnreadableError
from crm_assets.logic.review import ITEM_KEY, item_reference
from crm_assets.logic.review_workbook import (
    DECISIONS,
    KNOWN_HEADERS,
    KNOWN_REST_HEADERS,
    LOCALES,
    NO_DECISION_COLUMN,
    NO_ROWS,
    REFERENCE_HEADER,
    ROW_COLUMNS,
    SEVERAL_RUNS,
    About,
    ReviewSheet,
    decision_codes,
    is_review,
    parts_of,
    read,
    review_items,
    review_workbook,
)

RULES = rules.load()
LIMITS = RULES.landing.workbook
RUN = "0123456789abcdef"
ABOUT = About("Domaine =1+1", RUN, date(2025, 12, 31), date(2026, 1, 7), "sample")
MADE_AT = datetime(2025, 12, 31, tzinfo=UTC)
FORMULA = '=HYPERLINK("http://example.org";"ici")'
SCENARIOS = ("rebuy", "cross_sell", "upsell", "winback", "nurture")


def estate() -> dict[str, Any]:
    """Frames as `review_items` takes them: eight customers with three items each, nothing wrong with anybody."""
    rng = np.random.default_rng(5)
    ids = [f"c{number}" for number in range(8)]
    items = pd.DataFrame(
        [
            (
                customer,
                f"w{rank}",
                SCENARIOS[(place + rank) % 5],
                rank,
                f"P{rank}",
                float(rng.integers(100, 9900)) / 100,
            )
            for place, customer in enumerate(ids)
            for rank in (1, 2, 3)
        ],
        columns=["customer_id", "wine_id", "scenario", "rank", "product_key", "score"],
    )
    items["confidence"] = rng.integers(0, 101, len(items)) / 100
    items["explain_short"] = "acheté tous les 6 mois ; de saison"
    items["customer_sentence"] = "Nous vous proposons à nouveau « Riesling »."
    people = pd.DataFrame({"customer_id": ids, "client_code": [f"00{number}" for number in range(8)]})
    orders = pd.DataFrame({"customer_id": ids[:7] * 3, "n_orders": 5, "amount_ht": 1234.5})
    orders["order_date"] = pd.to_datetime(["2025-11-12"] * 7 + ["2025-03-02"] * 7 + ["2024-12-01"] * 7).astype(
        "datetime64[s]"
    )
    return {
        "items": items,
        "actions": people.assign(permitted=True, audit_score=100),
        "customers": people.assign(last_name="Muller", first_name="Anne", full_name=None)[
            ["customer_id", "last_name", "first_name", "full_name"]
        ],
        "products": pd.DataFrame(
            {
                "product_key": ["P1", "P2", "P3"],
                "label": ["Riesling", "Crémant 2022", "Coffret"],
                "vintage": pd.array([2023, 2022, None], dtype="Int64"),
                "format_cl": [75.0, 37.5, None],
            }
        ),
        "orders": orders,
        "findings": pd.DataFrame(
            columns=["customer_id", "product_key", "rule_code", "severity", "measured", "threshold"], dtype="object"
        ),
        "decided": pd.DataFrame(columns=[*ITEM_KEY, "decision", "rating", "comment"], dtype="object"),
        "sampled": pd.Series([], dtype="object"),
    }


def found(customer: str, code: str, severity: str, product: str = "", measured: str | None = None) -> dict[str, Any]:
    return {"customer_id": customer, "product_key": product, "rule_code": code, "severity": severity,
            "measured": measured, "threshold": None}  # fmt: skip


def items_of(locale: str = "fr", **changes: Any) -> pd.DataFrame:
    return review_items(**{**estate(), **changes}, run_id=RUN, rules=RULES, locale=locale)


def with_findings(*rows: dict[str, Any]) -> dict[str, Any]:
    return {"findings": pd.DataFrame(list(rows))}


# --- what goes in


def test_every_item_of_a_customer_who_may_be_written_to_is_there_best_first() -> None:
    items = items_of()
    assert len(items) == 24
    best = items.groupby("customer_id", sort=False)["score"].max()
    assert best.is_monotonic_decreasing
    assert items.groupby("customer_id")["rank"].apply(list).map(lambda ranks: ranks == [1, 2, 3]).all()
    assert items["reference"].equals(item_reference(RUN, items))
    assert not items[["is_held", "is_sampled"]].any().any()


def test_who_may_not_be_written_to_is_left_out() -> None:
    actions = estate()["actions"]
    actions.loc[actions["customer_id"] == "c3", "permitted"] = False
    assert "c3" not in set(items_of(actions=actions)["customer_id"])


def test_an_error_that_no_decision_on_an_item_cures_leaves_the_customer_out() -> None:
    items = items_of(**with_findings(found("c1", "MISSING_EMAIL", "ERROR")))
    assert "c1" not in set(items["customer_id"])
    assert len(items) == 21


def test_an_error_about_an_item_is_shown_at_the_end_with_all_items_of_the_customer() -> None:
    items = items_of(**with_findings(found("c1", "UNAVAILABLE_PRODUCT", "ERROR", "P2", "out_of_stock")))
    assert items["customer_id"].tail(3).tolist() == ["c1"] * 3
    assert items["is_held"].tolist() == [False] * 21 + [True] * 3
    (row,) = items[items["severity"] == "ERROR"].to_dict("records")
    assert (row["customer_id"], row["product_key"]) == ("c1", "P2")
    assert "rupture" in row["findings"]


def test_too_low_a_score_without_any_error_is_held_back_too() -> None:
    actions = estate()["actions"]
    actions.loc[actions["customer_id"] == "c4", "audit_score"] = RULES.audit.min_score - 1
    actions.loc[actions["customer_id"] == "c5", "audit_score"] = RULES.audit.min_score
    items = items_of(actions=actions)
    assert set(items.loc[items["is_held"], "customer_id"]) == {"c4"}


def test_what_was_rejected_stays_so_that_it_can_be_taken_back() -> None:
    decided = estate()["items"].query("customer_id == 'c2'")[ITEM_KEY]
    decided = decided.assign(decision="reject", rating=2, comment="déjà goûté")
    items = items_of(decided=decided, **with_findings(found("c2", "NO_RECOMMENDATION", "ERROR")))
    rows = items[items["customer_id"] == "c2"]
    assert rows["decision"].tolist() == ["reject"] * 3
    assert rows["rating"].tolist() == [2] * 3
    assert set(items.loc[items["customer_id"] != "c2", "decision"]) == {""}


def test_the_sample_comes_first() -> None:
    last = items_of()["customer_id"].iloc[-1]
    items = items_of(sampled=pd.Series([last]))
    assert items["customer_id"].head(3).tolist() == [last] * 3
    assert items["is_sampled"].tolist() == [True] * 3 + [False] * 21


def test_who_was_lost_since_the_sample_was_drawn_can_still_be_decided_on() -> None:
    """Else the sample could never be whole, and nobody of the run would leave."""
    actions = estate()["actions"]
    actions.loc[actions["customer_id"] == "c3", "permitted"] = False
    sampled = pd.Series(["c1", "c3"])
    given = {**with_findings(found("c1", "MISSING_EMAIL", "ERROR")), "actions": actions}
    items = items_of(sampled=sampled, **given)
    assert set(items.loc[items["is_sampled"], "customer_id"]) == {"c1", "c3"}
    assert set(items.loc[items["is_held"], "customer_id"]) == {"c1", "c3"}
    assert not {"c1", "c3"} & set(items_of(**given)["customer_id"])


def test_a_finding_about_the_whole_list_stands_on_every_row_of_the_customer() -> None:
    both = with_findings(found("c1", "LOW_DIVERSITY", "WARN"), found("c1", "LOW_CONFIDENCE", "WARN", "P1"))
    items = items_of(**both).query("customer_id == 'c1'").set_index("product_key")
    assert items["severity"].tolist() == ["WARN"] * 3
    assert items.loc["P2", "findings"] == "Sélection trop uniforme"
    assert items.loc["P1", "findings"] == "Proposition trop incertaine\nSélection trop uniforme"


@pytest.mark.parametrize(
    ("locale", "recent"),
    [
        ("fr", "12/11/2025\u00a0: 1\u202f234,50\u00a0€\n02/03/2025\u00a0: 1\u202f234,50\u00a0€\n01/12/2024"),
        ("en", "12 Nov 2025: €1,234.50\n02 Mar 2025: €1,234.50\n01 Dec 2024"),
        ("de", "12.11.2025: 1.234,50\u00a0€\n02.03.2025: 1.234,50\u00a0€\n01.12.2024"),
    ],
)
def test_names_wines_and_orders_are_written_as_people_read_them(locale: str, recent: str) -> None:
    customers = estate()["customers"]
    customers.loc[customers["customer_id"] == "c6", ["last_name", "first_name", "full_name"]] = [
        None,
        None,
        "Cave Roth",
    ]
    items = items_of(locale, customers=customers)
    row = items.query("customer_id == 'c1' and rank == 1").iloc[0]
    assert (row["customer"], row["n_orders"]) == ("Muller Anne", 5)
    assert row["recent_orders"].startswith(recent)
    assert set(items.loc[items["customer_id"] == "c6", "customer"]) == {"Cave Roth"}
    wines = items.set_index("product_key")["wine"].to_dict()
    mark = "." if locale == "en" else ","
    assert wines == {"P1": "Riesling 2023 (75\u00a0cl)", "P2": f"Crémant 2022 (37{mark}5\u00a0cl)", "P3": "Coffret"}
    nobody = items[items["customer_id"] == "c7"]
    assert set(nobody["n_orders"]) == {0}
    assert set(nobody["recent_orders"]) == {""}
    assert nobody["last_order_date"].isna().all()


@pytest.mark.parametrize(("most", "sizes"), [(24, [24]), (23, [21, 3]), (6, [6, 6, 6, 6]), (5, [3] * 8), (2, [3] * 8)])
def test_a_long_run_is_several_workbooks_and_no_customer_is_torn_apart(most: int, sizes: list[int]) -> None:
    items = items_of()
    parts = parts_of(items, most)
    assert [len(part) for part in parts] == sizes
    pd.testing.assert_frame_equal(pd.concat(parts), items)


def test_nothing_to_review_is_an_empty_workbook() -> None:
    (part,) = parts_of(items_of().head(0), 5)
    assert part.empty
    sheet = sheet_of(review_workbook(part, estate()["findings"], ABOUT, RULES, locale="fr", made_at=MADE_AT))
    assert sheet.max_row == 1


# --- the workbook


@cache
def content(locale: str = "fr", mode: str = "sample") -> bytes:
    """The estate's workbook: one item rejected, one with an error and one with a warning, a name that is a formula."""
    customers = estate()["customers"]
    customers.loc[customers["customer_id"] == "c0", "last_name"] = FORMULA
    decided = estate()["items"].query("customer_id == 'c2' and rank == 1")[ITEM_KEY]
    findings = with_findings(
        found("c1", "UNAVAILABLE_PRODUCT", "ERROR", "P2", "out_of_stock"), found("c3", "LOW_CONFIDENCE", "WARN", "P1")
    )
    items = items_of(
        locale,
        customers=customers,
        decided=decided.assign(decision="reject", rating=1, comment="-non"),
        sampled=pd.Series(["c5"]),
        **findings,
    )
    about = dataclasses.replace(ABOUT, mode=mode)
    return review_workbook(items, findings["findings"], about, RULES, locale=locale, made_at=MADE_AT)


def book_of(made: bytes) -> openpyxl.Workbook:
    return openpyxl.load_workbook(io.BytesIO(made))


def sheet_of(made: bytes, number: int = 0) -> Any:
    return book_of(made).worksheets[number]


def header_of(sheet: Any) -> list[str]:
    return [str(cell.value) for cell in sheet[1]]


def place_of(sheet: Any, name: str, locale: str = "fr") -> int:
    """The column of the sheet of rows, from 0, that holds a thing."""
    header = {"reference": REFERENCE_HEADER, "before": "crm_before"}.get(name) or words_of(locale)["columns"][name]
    return header_of(sheet).index(header)


def words_of(locale: str) -> dict[str, Any]:
    words: dict[str, Any] = rendering.texts(locale)["review_workbook"]
    return words


def test_the_same_items_are_the_same_bytes() -> None:
    assert content() == content.__wrapped__()


@pytest.mark.parametrize("locale", LOCALES)
def test_the_workbook_speaks_the_language_of_the_estate(locale: str) -> None:
    words = words_of(locale)
    book = book_of(content(locale))
    assert book.sheetnames == list(words["sheets"].values())
    shown = header_of(book.worksheets[0])
    assert is_review(shown)
    assert set(words["columns"].values()) == set(shown) - {REFERENCE_HEADER, "crm_before"}
    named = rendering.texts(locale)["scenario"]
    column = place_of(book.worksheets[0], "scenario", locale)
    assert {row[column] for row in book.worksheets[0].iter_rows(min_row=2, values_only=True)} == set(named.values())


def test_only_a_run_under_sample_has_a_column_for_it() -> None:
    assert words_of("fr")["columns"]["sampled"] not in header_of(sheet_of(content(mode="required")))
    sheet = sheet_of(content())
    marks = [row[place_of(sheet, "sampled")] for row in sheet.iter_rows(min_row=2, values_only=True)]
    assert marks == [words_of("fr")["sampled"]] * 3 + [None] * 21


def test_only_the_cells_to_fill_in_are_unlocked() -> None:
    sheet = sheet_of(content())
    inputs = {place_of(sheet, name) for name in ("decision", "rating", "comment")}
    unlocked = {cell.column - 1 for row in sheet.iter_rows(min_row=2) for cell in row if not cell.protection.locked}
    locked = {cell.column - 1 for row in sheet.iter_rows(min_row=2) for cell in row if cell.protection.locked}
    assert unlocked == inputs
    assert not locked & inputs
    assert sheet.protection.sheet
    assert not sheet.protection.password
    # What openpyxl calls by these names is what is forbidden.
    allowed = sheet.protection.autoFilter, sheet.protection.sort, sheet.protection.formatColumns
    assert not any(allowed)

    summary = sheet_of(content(), 1)
    free = {cell.coordinate for row in summary.iter_rows() for cell in row if not cell.protection.locked}
    assert summary.protection.sheet
    assert len(free) >= 1 + len(SCENARIOS)
    assert all(summary[cell].value in (None, "non") for cell in free)


def test_lists_to_choose_from_stand_on_every_row() -> None:
    sheet = sheet_of(content())
    rules_of = {str(rule.sqref): rule for rule in sheet.data_validations.dataValidation}
    lists = {rule.formula1: str(rule.sqref) for rule in rules_of.values() if rule.type == "list"}
    letter = openpyxl.utils.get_column_letter
    decision, rating = (letter(place_of(sheet, name) + 1) for name in ("decision", "rating"))
    assert lists == {
        '"Approuver,Rejeter,Plus tard"': f"{decision}2:{decision}25",
        '"1,2,3,4,5"': f"{rating}2:{rating}25",
    }
    assert all(
        rule.showErrorMessage and rule.error and rule.prompt for rule in rules_of.values() if rule.type == "list"
    )
    answers = [rule for rule in sheet_of(content(), 1).data_validations.dataValidation if rule.type == "list"]
    assert [rule.formula1 for rule in answers] == ['"non,oui"']


def test_header_stays_in_view_and_every_column_has_a_filter() -> None:
    sheet = sheet_of(content())
    assert sheet.freeze_panes == "C2"
    assert sheet.auto_filter.ref == f"A1:{openpyxl.utils.get_column_letter(sheet.max_column)}25"
    assert (sheet.page_setup.orientation, sheet.print_title_rows) == ("landscape", "$1:$1")
    assert sheet.sheet_properties.pageSetUpPr.fitToPage
    assert sheet.page_setup.fitToHeight == 0
    reference = place_of(sheet, "reference")
    assert reference == sheet.max_column - 1
    assert sheet.column_dimensions[openpyxl.utils.get_column_letter(reference + 1)].width < 6


def test_colours_follow_what_is_chosen_by_few_rules_over_all_rows() -> None:
    sheet = sheet_of(content())
    conditions = {
        str(area.sqref): [(rule.type, rule.operator, rule.formula) for rule in rules_here]
        for area, rules_here in sheet.conditional_formatting._cf_rules.items()
    }
    letter = openpyxl.utils.get_column_letter
    decision, confidence = (letter(place_of(sheet, name) + 1) for name in ("decision", "confidence"))
    assert conditions[f"{decision}2:{decision}25"] == [
        ("cellIs", "equal", [f'"{word}"']) for word in ("Approuver", "Rejeter", "Plus tard")
    ]
    assert conditions[f"{confidence}2:{confidence}25"] == [("cellIs", "lessThan", [str(RULES.audit.low_confidence)])]
    assert len(conditions) == 3
    with zipfile.ZipFile(io.BytesIO(content())) as archive:
        styles = archive.read("xl/styles.xml").decode()
        parts = "".join(archive.read(name).decode() for name in archive.namelist() if "worksheets/sheet" in name)
    assert int(re.findall(r'<cellXfs count="(\d+)"', styles)[0]) < 60
    assert not re.search(r"(TODAY|NOW|RAND|OFFSET|INDIRECT)\(", parts)


def test_findings_and_rows_that_cannot_go_out_stand_out() -> None:
    sheet = sheet_of(content())
    column, code = place_of(sheet, "findings"), place_of(sheet, "client_code")
    rows = list(sheet.iter_rows(min_row=2))
    fill = {row[code].value: row[code].fill.fgColor.rgb for row in rows}
    assert fill["001"] != fill["003"]
    colours = {str(row[column].value): row[column].fill.fgColor.rgb for row in rows if row[column].value}
    assert len(colours) == 2
    assert len(set(colours.values())) == 2


def test_nothing_that_came_in_from_outside_is_run() -> None:
    for locale in LOCALES:
        book = book_of(content(locale))
        rows, summary, _ = book.worksheets
        assert not [cell for row in rows.iter_rows() for cell in row if cell.data_type == "f"]
        formulas = [str(cell.value) for row in summary.iter_rows() for cell in row if cell.data_type == "f"]
        assert formulas
        assert all(formula.startswith("=COUNTIFS(") and FORMULA not in formula for formula in formulas)
        names = {row[place_of(rows, "customer", locale)] for row in rows.iter_rows(min_row=2, values_only=True)}
        assert f"'{FORMULA} Anne" in names
        assert not any(str(name).startswith("=") for name in names)


@pytest.mark.parametrize("locale", LOCALES)
def test_charts_have_titles_and_say_in_words_what_they_show(locale: str) -> None:
    words = words_of(locale)["charts"]
    with zipfile.ZipFile(io.BytesIO(content(locale))) as archive:
        charts = [archive.read(name).decode() for name in archive.namelist() if name.startswith("xl/charts/chart")]
        drawing = archive.read("xl/drawings/drawing1.xml").decode()
    titles = [words[name]["title"] for name in ("scenarios", "confidences", "findings")]
    assert all(title in chart for title, chart in zip(titles, charts, strict=True))
    alts = re.findall(r'descr="([^"]+)"', drawing)
    assert len(alts) == 3
    assert all(re.search(r"\d", alt) and "{" not in alt for alt in alts)


def test_the_summary_counts_as_its_formulas_do() -> None:
    book = openpyxl.load_workbook(io.BytesIO(content()), data_only=True)
    texts = {
        str(row[1]): row
        for row in book.worksheets[1].iter_rows(values_only=True)
        if len(row) > 1 and row[1] is not None
    }
    assert texts["Total"][2:4] == (24, 8)
    assert texts["Total"][6:9] == (0, 1, 0)
    assert texts["Lignes sans décision"][2] == 23
    assert texts["dont dans l’échantillon"][2] == 3
    assert sum(texts[name][2] for name in rendering.texts("fr")["scenario"].values()) == 24


@pytest.mark.parametrize("locale", LOCALES)
def test_the_wording_fits_what_spreadsheets_allow_and_is_whole_in_each_language(locale: str) -> None:
    def shape(words: Any) -> Any:
        if isinstance(words, dict):
            return {key: shape(value) for key, value in words.items()}
        if isinstance(words, list):
            return [shape(value) for value in words]
        return sorted(re.findall(r"\{(\w+)\}", words))

    words = words_of(locale)
    assert shape(words) == shape(words_of("fr"))
    assert all(len(name) <= 31 for name in words["sheets"].values())
    for said in words["inputs"].values():
        assert len(said["title"]) <= 32
        assert len(said["message"]) <= 255
        assert len(said.get("error", "")) <= 225
    # Words that two languages share mean the same in both, or a decision would be read as another one.
    assert {decision_codes()[normalise_header(word)]: word for word in words["decisions"].values()} == words[
        "decisions"
    ]
    assert len(set(words["columns"].values())) == len(words["columns"])


# --- back


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    def save(made: bytes, name: str = "x.xlsx") -> Path:
        path = tmp_path / name
        path.write_bytes(made)
        return path

    return save


def edited(made: bytes, change: Callable[[openpyxl.Workbook], None]) -> bytes:
    book = book_of(made)
    change(book)
    target = io.BytesIO()
    book.save(target)
    return target.getvalue()


def by_reference(sheet: ReviewSheet) -> dict[str, tuple[str, ...]]:
    return {row[1]: row[2:] for row in sheet.rows[["line", *ROW_COLUMNS]].itertuples(index=False)}


def test_a_workbook_comes_back_as_it_went_out(saved: Callable[..., Path]) -> None:
    sheet = read(saved(content()), LIMITS)
    assert (sheet.run_id, sheet.reviewer, sheet.approve_rest, sheet.problem) == (RUN, "", frozenset(), None)
    assert sheet.rows["line"].tolist() == list(range(2, 26))
    items = items_of()
    assert set(sheet.rows["reference"]) == set(items["reference"])
    # What went out filled in and was left as it was, nobody has said.
    assert {row[2:] for row in by_reference(sheet).values()} == {("", "", "")}


@pytest.mark.parametrize(
    ("name", "text", "back"),
    [
        ("decision", "Approuver", ("Approuver", "1", "-non")),
        ("decision", None, ("", "1", "-non")),
        ("rating", 2, ("Rejeter", "2", "-non")),
        ("comment", "'-non !", ("Rejeter", "1", "-non !")),
        ("comment", " '-non ", ("", "", "")),
        ("before", None, ("Rejeter", "1", "-non")),
    ],
)
def test_what_was_changed_on_a_row_that_went_out_filled_in_is_read_with_all_of_it(
    name: str, text: Any, back: tuple[str, ...], saved: Callable[..., Path]
) -> None:
    def change(book: openpyxl.Workbook) -> None:
        sheet = book.worksheets[0]
        (row,) = [row for row in sheet.iter_rows(min_row=2) if row[place_of(sheet, "decision")].value == "Rejeter"]
        row[place_of(sheet, name)].value = text

    (rejected,) = items_of().query("customer_id == 'c2' and rank == 1")["reference"]
    assert by_reference(read(saved(edited(content(), change)), LIMITS))[rejected] == ("002", "P1", *back)


@pytest.mark.parametrize("locale", LOCALES)
def test_a_name_and_the_rest_are_read_in_every_language(locale: str, saved: Callable[..., Path]) -> None:
    words = words_of(locale)

    def fill_in(book: openpyxl.Workbook) -> None:
        summary = book.worksheets[1]
        named = rendering.texts(locale)["scenario"]
        for row in summary.iter_rows():
            if row[1].value == words["summary"]["reviewer"]:
                row[2].value = "  Marie-Ève\u00a0"
            if row[1].value == named["rebuy"] and row[9].value == words["answers"]["no"]:
                row[9].value = words["answers"]["yes"].upper()
            if row[1].value == named["upsell"] and row[9].value == words["answers"]["no"]:
                row[9].value = "peut-être"
        summary.sheet_state = "hidden"
        summary.title = "Feuille 2"
        book.move_sheet(summary, 1)

    sheet = read(saved(edited(content(locale), fill_in)), LIMITS)
    assert (sheet.reviewer, sheet.approve_rest, sheet.unclear_rest) == (
        "Marie-Ève", frozenset({"rebuy"}), frozenset({"upsell"})
    )  # fmt: skip


def test_rows_and_columns_may_be_moved_deleted_and_hidden(saved: Callable[..., Path]) -> None:
    def shuffle(book: openpyxl.Workbook) -> None:
        sheet = book.worksheets[0]
        header, *rows = [list(row) for row in sheet.iter_rows(values_only=True)]
        order = list(range(len(header)))[::-1]
        order.remove(place_of(sheet, "scenario"))
        sheet.protection.sheet = False
        sheet.delete_rows(1, sheet.max_row)
        sheet.append([header[place] for place in order])
        for number, row in enumerate(rows[::-1][:10]):
            row[header.index("Décision")] = "plus tard" if number % 2 else None
            row[header.index("Note (1-5)")] = 4 if number % 2 else None
            sheet.append([row[place] for place in order])
        sheet.column_dimensions["B"].hidden = True
        sheet.row_dimensions[3].hidden = True

    sheet = read(saved(edited(content(), shuffle)), LIMITS)
    assert len(sheet.rows) == 10
    assert sheet.rows["decision"].tolist() == ["", "plus tard"] * 5
    assert sheet.rows["rating"].tolist() == ["", "4"] * 5
    went_out = by_reference(read(saved(content(), "y.xlsx"), LIMITS))
    assert all(went_out[key][:2] == row[:2] for key, row in by_reference(sheet).items())


def as_csv(
    made: bytes, delimiter: str, encoding: str, change: Callable[[list[list[str]]], None] | None = None
) -> bytes:
    rows = [["" if v is None else str(v) for v in row] for row in sheet_of(made).iter_rows(values_only=True)]
    if change is not None:
        change(rows)
    sink = io.StringIO()
    csv.writer(sink, delimiter=delimiter, lineterminator="\r\n").writerows(rows)
    return sink.getvalue().encode(encoding, "replace")


@pytest.mark.parametrize(
    ("delimiter", "encoding"), [(";", "cp1252"), (",", "utf-8"), (";", "utf-8-sig"), ("\t", "utf-16")]
)
def test_a_csv_file_has_rows_and_a_run_but_no_summary(
    delimiter: str, encoding: str, saved: Callable[..., Path]
) -> None:
    sheet = read(saved(as_csv(content(), delimiter, encoding), "x.csv"), LIMITS)
    assert (sheet.run_id, sheet.reviewer, sheet.approve_rest, sheet.problem) == (RUN, "", frozenset(), None)
    assert by_reference(sheet) == by_reference(read(saved(content()), LIMITS))


def test_a_delimiter_in_a_comment_costs_neither_the_decision_nor_the_reference(saved: Callable[..., Path]) -> None:
    lines = as_csv(content(), ";", "cp1252").decode("cp1252").split("\r\n")
    (number,) = [n for n, line in enumerate(lines) if "'-non" in line]
    lines[number] = lines[number].replace("'-non", "non; jamais")
    sheet = read(saved("\r\n".join(lines).encode("cp1252"), "x.csv"), LIMITS)
    (row,) = sheet.rows[sheet.rows["decision"] != ""].to_dict("records")
    assert (row["decision"], row["rating"], row["comment"]) == ("Rejeter", "1", "non")
    assert row["reference"] in set(items_of()["reference"])
    assert len(sheet.rows) == 24


def test_what_nobody_typed_is_no_row(saved: Callable[..., Path]) -> None:
    sheet = read(
        saved(as_csv(content(), ";", "utf-8", lambda rows: rows.append(["", "fin de la liste"])), "x.csv"), LIMITS
    )
    assert len(sheet.rows) == 24


def test_a_workbook_of_which_nothing_can_be_taken_says_why(saved: Callable[..., Path]) -> None:
    def problem(change: Callable[[list[list[str]]], None]) -> str | None:
        return read(saved(as_csv(content(), ";", "utf-8", change), "x.csv"), LIMITS).problem

    def rename(rows: list[list[str]]) -> None:
        rows[0][rows[0].index("Décision")] = "Avis"

    def mix(rows: list[list[str]]) -> None:
        rows[3][-1] = "f" * 16 + rows[3][-1][16:]

    assert problem(rename) == NO_DECISION_COLUMN
    assert problem(lambda rows: rows.__delitem__(slice(1, None))) == NO_ROWS
    assert problem(mix) == SEVERAL_RUNS


def test_rows_of_another_run_in_a_workbook_do_not_change_whose_it_is(saved: Callable[..., Path]) -> None:
    def paste(book: openpyxl.Workbook) -> None:
        sheet = book.worksheets[0]
        for row in range(3, 26):
            sheet.cell(row, sheet.max_column).value = f"{'f' * 16}-{row:016x}"

    sheet = read(saved(edited(content(), paste)), LIMITS)
    assert (sheet.run_id, sheet.problem) == (RUN, None)


def test_without_its_summary_a_workbook_goes_by_its_references(saved: Callable[..., Path]) -> None:
    sheet = read(saved(edited(content(), lambda book: book.remove(book.worksheets[1]))), LIMITS)
    assert (sheet.run_id, sheet.reviewer, sheet.problem) == (RUN, "", None)


# As they stood in workbooks that went out. A header whose words change stays here.
SENT_HEADERS = {
    "decision": ["Décision", "Decision", "Entscheidung", "decision"],
    "rating": ["Note (1-5)", "Rating (1-5)", "Note (1 à 5)", "Rating (1 to 5)", "Note (1 bis 5)", "rating"],
    "comment": ["Commentaire", "Comment", "Kommentar", "comment"],
    "client_code": ["Code client", "Customer code", "Kundennummer", "client_code"],
    "product_key": ["Code produit", "Product code", "Artikelnummer", "product_key"],
}


def test_columns_are_found_by_every_header_they_ever_had(saved: Callable[..., Path]) -> None:
    for locale in LOCALES:
        words = words_of(locale)
        assert all(words["columns"][name] in sent for name, sent in SENT_HEADERS.items()), "add the new words here"
        assert words["summary"]["columns"]["rest"].replace("\u00a0", " ") in KNOWN_REST_HEADERS
    for name, sent in SENT_HEADERS.items():
        assert set(sent) == {name, *KNOWN_HEADERS[name]}
    (key,) = items_of()["reference"].head(1)
    filled = {"decision": "Approve", "rating": "4.0", "comment": "x", "client_code": "1", "product_key": "P1"}
    for number in range(max(map(len, SENT_HEADERS.values()))):
        head = [sent[min(number, len(sent) - 1)] for sent in SENT_HEADERS.values()]
        path = saved(f"crm_ref_review;{';'.join(head)}\n{key};{';'.join(filled.values())}\n".encode(), "h.csv")
        (row,) = read(path, LIMITS).rows.to_dict("records")
        assert {name: row[name] for name in filled} == filled


@pytest.mark.parametrize(
    ("typed", "code"),
    [(" REJETÉ ", "reject"), ("approuvé", "approve"), ("plus\u00a0tard", "later"), ("Abgelehnt", "reject")],
)
def test_decisions_are_known_as_people_type_them(typed: str, code: str) -> None:
    assert decision_codes()[normalise_header(typed)] == code


def test_a_rating_written_with_decimals_is_no_change(saved: Callable[..., Path]) -> None:
    for decimals in (",0", ".00"):

        def longer(rows: list[list[str]], decimals: str = decimals) -> None:
            place = rows[0].index("Note (1-5)")
            for row in rows[1:]:
                row[place] += decimals if row[place] else ""

        rows = read(saved(as_csv(content(), ";", "utf-8", longer), "r.csv"), LIMITS).rows
        assert rows["decision"].eq("").all()


def test_sheets_may_stand_in_any_order_and_others_in_front(saved: Callable[..., Path]) -> None:
    def turn(book: openpyxl.Workbook) -> None:
        sheet, summary = book.worksheets[:2]
        sheet.cell(2, place_of(sheet, "decision") + 1).value = "#N/A"
        sheet.cell(2, place_of(sheet, "decision") + 1).data_type = "e"
        for row in summary.iter_rows():
            if row[1].value == words_of("fr")["summary"]["reviewer"]:
                row[2].value = "Anne"
        book.move_sheet(summary, -1)
        book.create_sheet("notes", 0)["A1"] = "à voir"
        book.create_sheet("vide", 0)
        hidden = book.create_sheet("hidden", 0)
        hidden["A1"], hidden.sheet_state = REFERENCE_HEADER, "hidden"
        book.active = book.worksheets[1]

    path = saved(edited(content(), turn))
    assert is_review_workbook(path, LIMITS)
    found = read(path, LIMITS)
    assert (found.problem, found.run_id, found.reviewer, len(found.rows)) == (None, RUN, "Anne", 24)
    assert found.rows["decision"][0] == "#N/A", "cells are those of this sheet"


def test_other_files_are_no_review() -> None:
    assert is_review(["Client", " CRM_ref_review "])
    assert not is_review(["Client", "crm_ref_clients", "crm_ref_reviews"])


def bombs() -> Iterator[bytes]:
    for coordinates in ((1_048_575, 16_383), (1_000_000, 40)):
        target = io.BytesIO()
        book = xlsxwriter.Workbook(target)
        book.add_worksheet().write_row(0, 0, ["Décision", REFERENCE_HEADER])
        far = book.add_worksheet()
        far.write(0, 0, "crm_run")
        far.write(*coordinates, "x")
        book.close()
        yield target.getvalue()


@pytest.mark.parametrize("bomb", bombs())
def test_a_sheet_behind_the_first_is_guarded_too(bomb: bytes, saved: Callable[..., Path]) -> None:
    with pytest.raises(UnreadableError, match="spans more than"):
        read(saved(bomb), LIMITS)


def test_every_decision_has_a_word() -> None:
    assert set(decision_codes().values()) == set(DECISIONS)
