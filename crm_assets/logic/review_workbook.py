"""The review workbook: a run's recommended items on their way to the people who decide on them, and back.

One row per item, with cells for a decision, a rating and a comment. It may come back sorted, filtered, half filled,
saved by another program: `read` turns it into plain texts, found by headers and keys, never by place. What is taken
of them is decided in `logic/review.py`. No database, no folder and no clock here.
"""

from __future__ import annotations

import hashlib
import io
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import cache
from itertools import pairwise, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from babel.numbers import format_percent, get_decimal_symbol, get_group_symbol

from crm_assets import rendering
from crm_assets.logic.findings_wording import findings_said
from crm_assets.logic.landing import normalise_header
from crm_assets.logic.mended import guard, unguard
from crm_assets.logic.reading import Batch, every_sheet, open_table
from crm_assets.logic.review import ITEM_KEY, item_reference, reference_run

if TYPE_CHECKING:
    from xlsxwriter.format import Format
    from xlsxwriter.workbook import Workbook
    from xlsxwriter.worksheet import Worksheet

    from crm_assets.rules import BusinessRules, WorkbookLimits

# Heads the column that ties a row to its item; a file with it is a review workbook.
REFERENCE_HEADER = "crm_ref_review"
LOCALES = ("fr", "en", "de")

# What a row says, and the columns that it is read from.
ROW_COLUMNS = ("reference", "client_code", "product_key", "decision", "rating", "comment")
_FILLED_IN = ["decision", "rating", "comment"]
# Heads the column that says what these cells held when the workbook went out.
_BEFORE_HEADER = "crm_before"
_READ_COLUMNS = (*ROW_COLUMNS, "before")
_OWN_HEADERS = {"reference": REFERENCE_HEADER, "before": _BEFORE_HEADER}
# How these columns have ever been headed, beside their codes: words may change, but a workbook may lie in somebody's
# folder since before. Words are added here, none is taken away.
KNOWN_HEADERS = {
    "client_code": ("Code client", "Customer code", "Kundennummer"),
    "product_key": ("Code produit", "Product code", "Artikelnummer"),
    "decision": ("Décision", "Decision", "Entscheidung"),
    "rating": ("Note (1-5)", "Rating (1-5)", "Note (1 à 5)", "Rating (1 to 5)", "Note (1 bis 5)"),
    "comment": ("Commentaire", "Comment", "Kommentar"),
}
KNOWN_REST_HEADERS = ("Approuver le reste ?", "Approve the rest?", "Rest freigeben?")
# What people type in place of the words of the list.
KNOWN_DECISIONS = {
    "approve": ("Approuver", "Approuvé", "Approve", "Approved", "Freigeben", "Freigegeben"),
    "reject": ("Rejeter", "Rejeté", "Reject", "Rejected", "Ablehnen", "Abgelehnt"),
    "later": ("Plus tard", "Later", "Später"),
}
# Why nothing can be taken of a workbook.
NO_DECISION_COLUMN, NO_ROWS, SEVERAL_RUNS = "NO_DECISION_COLUMN", "NO_ROWS", "SEVERAL_RUNS"

# What stands, small and grey, in front of the cells of the summary that are read.
_RUN_KEY, _REVIEWER_KEY, _REST_KEY = "crm_run", "crm_reviewer", "crm_rest"
_SUMMARY_ROWS = 200

DECISIONS = ("approve", "reject", "later")
MAX_COMMENT = 1000  # characters
_RECENT_ORDERS = 3


@dataclass
class ReviewSheet:
    """A workbook as it came back.

    `rows`: line (row of the sheet, line of the CSV), and the ROW_COLUMNS as texts as they were typed, `` where empty
    or where the column is gone; rows on which nothing was filled in too, and those left as they went out, which say
    nothing. `before`: what the row went out with, as the code of its decision and a digest. `approve_rest`: codes of
    scenarios.
    """

    run_id: str | None  # null: no row names one
    reviewer: str  # `` where nobody gave a name, and in a CSV file, which has no summary
    approve_rest: frozenset[str]
    rows: pd.DataFrame
    problem: str | None = None
    # Scenarios whose answer to "approve the rest" is neither yes nor no.
    unclear_rest: frozenset[str] = field(default=frozenset())
    # Whether it still says what it held when it went out: else nobody can tell what is new in it.
    knows_before: bool = True


def is_review(header: Sequence[str]) -> bool:
    """Whether a file with this header is a review workbook, whatever else is in it."""
    return any(normalise_header(text) == REFERENCE_HEADER for text in header)


@cache
def _column_names() -> Mapping[str, str]:
    """Normalised header -> column of a row, in every language that workbooks are or were written in."""
    names = {header: name for name, header in _OWN_HEADERS.items()}
    names |= {normalise_header(text): name for name in KNOWN_HEADERS for text in (name, *KNOWN_HEADERS[name])}
    for locale in LOCALES:
        shown = rendering.texts(locale)["review_workbook"]["columns"]
        names |= {normalise_header(shown[name]): name for name in ROW_COLUMNS if name in shown}
    return names


@cache
def decision_codes() -> Mapping[str, str]:
    """Normalised word -> approve, reject or later: the words of all languages, and the codes themselves."""
    words = {normalise_header(word): code for code in DECISIONS for word in (code, *KNOWN_DECISIONS[code])}
    for locale in LOCALES:
        shown = rendering.texts(locale)["review_workbook"]["decisions"]
        words |= {normalise_header(word): code for code, word in shown.items()}
    return words


@cache
def _answers() -> Mapping[str, bool]:
    """Normalised word -> whether it says yes, in every language."""
    shown = [rendering.texts(locale)["review_workbook"]["answers"] for locale in LOCALES]
    return {normalise_header(words[code]): code == "yes" for words in shown for code in ("yes", "no")}


# --- what goes in


def review_items(
    items: pd.DataFrame,
    actions: pd.DataFrame,
    customers: pd.DataFrame,
    products: pd.DataFrame,
    orders: pd.DataFrame,
    findings: pd.DataFrame,
    decided: pd.DataFrame,
    sampled: pd.Series,
    run_id: str,
    rules: BusinessRules,
    locale: str,
) -> pd.DataFrame:
    """The items of a run that a review can do something about, as `review_workbook` takes them, in its order.

    Left out are customers without permission, and those whose message an error holds back that no decision on an
    item would cure: an address without consent, a recent contact; but nobody of the sample. Items rejected already
    stay, so that a rejection can be taken back. The sample comes first, then the best scores; what cannot go out as
    it stands comes last.

    `items`: customer_id, wine_id, scenario, rank, product_key, score, confidence, explain_short, customer_sentence.
    `actions`: customer_id, client_code, permitted, audit_score. `customers`: customer_id, last_name, first_name,
    full_name. `products`: product_key, label, vintage, format_cl. `orders`: customer_id, order_date, amount_ht of
    qualifying orders, n_orders of all of them; the newest three of each customer suffice. `findings`: customer_id,
    product_key, rule_code, severity, measured, threshold. `decided`: customer_id, wine_id, scenario, decision,
    rating, comment. `sampled`: customer_ids.
    """
    errors = findings[findings["severity"] == "ERROR"]
    about_items = errors["product_key"].ne("") | errors["rule_code"].eq("NO_RECOMMENDATION")
    barred = set(errors.loc[~about_items, "customer_id"])
    may_go = actions["permitted"].astype("bool") & ~actions["customer_id"].isin(barred)
    # The sample is decided whole, and pinned: who was lost since must stay where it can be decided on.
    actions = actions[may_go | actions["customer_id"].isin(sampled)]
    is_held = ~may_go[actions.index] | (actions["audit_score"] < rules.audit.min_score)
    held = set(errors["customer_id"]) | set(actions.loc[is_held, "customer_id"])
    rows = items.merge(actions[["customer_id", "client_code"]], on="customer_id")
    rows = rows.merge(decided, on=ITEM_KEY, how="left", validate="one_to_one")
    rows["reference"] = item_reference(run_id, rows)
    rows["customer"] = rows["customer_id"].map(_customer_names(customers))
    rows["wine"] = rows["product_key"].map(_wine_names(products, locale)).fillna(rows["product_key"])
    for name in ("customer", "decision", "comment"):
        rows[name] = rows[name].astype("object").where(rows[name].notna(), "")
    rows = rows.join(_orders_said(orders, locale), on="customer_id").join(_findings_of_rows(rows, findings, locale))
    rows["n_orders"] = rows["n_orders"].fillna(0)
    rows["recent_orders"] = rows["recent_orders"].fillna("")
    rows["is_sampled"] = rows["customer_id"].isin(sampled)
    rows["is_held"] = rows["customer_id"].isin(held)
    best = rows.groupby("customer_id")["score"].transform("max")
    order = rows.assign(_first=~rows["is_sampled"], _best=-best)
    order = order.sort_values(["_first", "is_held", "_best", "customer_id", "rank", "product_key"], kind="stable")
    return order.drop(columns=["_first", "_best"]).reset_index(drop=True)


def _customer_names(customers: pd.DataFrame) -> pd.Series:
    """Surname first, as a list of customers is read; the full name where there is no surname."""
    parts = customers[["last_name", "first_name", "full_name"]].fillna("").astype("str")
    names = (parts["last_name"] + " " + parts["first_name"]).str.strip()
    names = names.where(parts["last_name"].ne(""), parts["full_name"].where(parts["full_name"].ne(""), names))
    return names.set_axis(customers["customer_id"])


def _wine_names(products: pd.DataFrame, locale: str) -> pd.Series:
    """Label, vintage unless the label says it, and format."""
    names = {}
    for key, label, vintage, format_cl in products[["product_key", "label", "vintage", "format_cl"]].itertuples(
        index=False
    ):
        parts = [str(label)]
        year = "" if pd.isna(vintage) else str(int(vintage))
        if year and year not in parts[0]:
            parts.append(year)
        if not pd.isna(format_cl):
            parts.append(f"({rendering.centilitres(float(format_cl), locale)})")
        names[key] = " ".join(parts)
    return pd.Series(names, dtype="object")


def _orders_said(orders: pd.DataFrame, locale: str) -> pd.DataFrame:
    """Per customer: last_order_date, n_orders, and the last three orders in words, newest first."""
    words = rendering.texts(locale)["review_workbook"]
    marks = str.maketrans({",": get_group_symbol(locale), ".": get_decimal_symbol(locale)})
    newest = orders.sort_values(
        ["customer_id", "order_date", "amount_ht"], ascending=[True, False, False], kind="stable"
    )
    newest = newest[newest.groupby("customer_id").cumcount() < _RECENT_ORDERS]
    days = newest["order_date"].dt.strftime(words["order_day"])
    amounts = [f"{amount:,.2f}".translate(marks) for amount in newest["amount_ht"]]
    said = [words["order_entry"].format(day=d, amount=a) for d, a in zip(days, amounts, strict=True)]
    groups = newest.groupby("customer_id")
    return pd.DataFrame(
        {
            "last_order_date": groups["order_date"].max(),
            "n_orders": groups["n_orders"].max(),
            "recent_orders": _one_below_another(
                newest["customer_id"], pd.Series(said, index=newest.index, dtype="object")
            ),
        }
    )


def _one_below_another(keys: pd.Series, texts: pd.Series) -> pd.Series:
    """Per key its texts in their order, each on a line of its own."""
    lines = pd.DataFrame({"key": keys, "text": texts})
    wide = lines.assign(number=lines.groupby("key").cumcount()).pivot(index="key", columns="number", values="text")
    joined = pd.Series("", index=wide.index, dtype="object")
    for number in wide.columns:
        more = wide[number]
        joined = joined.where(more.isna(), joined + ("\n" if number else "") + more.fillna(""))
    return joined


def _findings_of_rows(rows: pd.DataFrame, findings: pd.DataFrame, locale: str) -> pd.DataFrame:
    """What the audit says of each row, with the index of `rows`: findings (words) and severity.

    A finding without product is about the whole list, and stands on every row of the customer.
    """
    plain = rendering.texts(locale)["reason"]
    bare = findings["measured"].isna() & findings["threshold"].isna()
    said = pd.Series("", index=findings.index, dtype="object")
    said[bare] = findings.loc[bare, "rule_code"].map(lambda code: plain.get(code, code))
    said[~bare] = findings_said(findings[~bare], locale)
    told = findings.assign(said=said.map(_capitalised))
    keys = rows[["customer_id", "product_key"]].assign(row=rows.index)
    of_item = keys.merge(told[told["product_key"] != ""], on=["customer_id", "product_key"])
    of_list = keys.merge(told[told["product_key"] == ""].drop(columns="product_key"), on="customer_id")
    found = pd.concat([of_item, of_list]).sort_values(["row", "severity", "rule_code"], kind="stable")
    found = found.drop_duplicates(["row", "said"])
    return pd.DataFrame(
        {
            "findings": _one_below_another(found["row"], found["said"]),
            "severity": found.groupby("row")["severity"].min(),  # ERROR before WARN
        }
    ).reindex(rows.index, fill_value="")


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]


def parts_of(items: pd.DataFrame, most: int) -> list[pd.DataFrame]:
    """The items in workbooks of at most `most` rows, in their order, no customer torn apart; at least one."""
    last_rows = np.flatnonzero(items["customer_id"].ne(items["customer_id"].shift(-1)).to_numpy()) + 1
    parts, start = [], 0
    while start < len(items):
        fitting = last_rows[(last_rows > start) & (last_rows <= start + most)]
        end = int(fitting[-1]) if len(fitting) else int(last_rows[last_rows > start][0])
        parts.append(items.iloc[start:end])
        start = end
    return parts or [items]


# --- out


@dataclass(frozen=True)
class About:
    """What a workbook says of its run, beside the items."""

    estate: str
    run_id: str
    as_of: date
    last_day: date  # on which it is taken back
    mode: str  # auto sample required
    part: int = 1
    parts: int = 1


def review_workbook(
    items: pd.DataFrame,
    findings: pd.DataFrame,
    about: About,
    rules: BusinessRules,
    *,
    locale: str,
    made_at: datetime,
) -> bytes:
    """The items of a run as a workbook, in their order.

    `items`: reference, customer_id, client_code, customer, wine, scenario (code), explain_short, findings (words),
    severity (ERROR, WARN or ``), is_held (cannot go out whatever is decided of other items), score 0..100,
    confidence 0..1, last_order_date, n_orders, recent_orders (words), customer_sentence, rank, product_key,
    is_sampled, and what holds already: decision (code or ``), rating, comment. `findings`: customer_id, rule_code,
    severity, of the items' customers.
    """
    words = rendering.texts(locale)["review_workbook"]
    with _Book(words, locale, made_at, about) as book:
        book.rows(items, with_sample=about.mode == "sample", low_confidence=rules.audit.low_confidence)
        book.summary(items, findings)
        book.help(rules)
    return book.content


# Of a column: its letters, and the style of its cells.
_LAYOUT: Mapping[str, tuple[int, str]] = {
    "client_code": (11, "text"),
    "customer": (22, "text"),
    "sampled": (11, "text"),
    "wine": (30, "text"),
    "decision": (13, "input"),
    "rating": (11, "input_number"),
    "comment": (26, "input"),
    "reason": (46, "text"),
    "findings": (36, "text"),
    "scenario": (17, "text"),
    "score": (10, "score"),
    "confidence": (11, "share"),
    "n_orders": (11, "count"),
    "last_order": (12, "day"),
    "recent_orders": (24, "text"),
    "sentence": (64, "text"),
    "rank": (6, "count"),
    "product_key": (14, "text"),
    "before": (2, "key"),
    "reference": (4, "key"),
}
_LAST_PRINTED = "confidence"
_FROM = {"reason": "explain_short", "sentence": "customer_sentence", "last_order": "last_order_date"}
_N_BINS = 10
_WRAPPED = ("wine", "comment", "reason", "findings", "sentence")
_LINE_POINTS, _MARGIN_POINTS = 12.75, 2.0
_HEAD_POINTS = 32.0
_SUMMARY_WIDTH = 9  # columns

_PAPER, _INPUT, _GREY, _WINE = "#FFFFFF", "#FFF2CC", "#F2F2F2", "#7A2531"
_GOOD, _BAD, _WAITS = ("#E2EFDA", "#375623"), ("#F8CBAD", "#833C0B"), ("#DDEBF7", "#1F4E78")
_TO_FILL_IN = {"bg_color": _INPUT, "locked": False, "border": 1, "border_color": "#D9D9D9"}
_STYLES: dict[str, dict[str, Any]] = {
    "text": {"num_format": "@", "text_wrap": True},
    "score": {"num_format": "0.0", "align": "center"},
    "share": {"num_format": "0%", "align": "center"},
    "count": {"num_format": "0", "align": "center"},
    "day": {"align": "center"},
    # Filled: a text longer than its cell is cut off there.
    "key": {"num_format": "@", "font_color": "#A6A6A6", "font_size": 8, "align": "fill"},
    "warn": {"num_format": "@", "text_wrap": True, "font_color": "#7F6000", "bg_color": "#FFF7E0"},
    "error": {"num_format": "@", "text_wrap": True, "font_color": _BAD[1], "bg_color": "#FCE4D6"},
    "input": {"num_format": "@", "text_wrap": True, **_TO_FILL_IN},
    "input_number": {"num_format": "0", "align": "center", **_TO_FILL_IN},
}
# Of the rows that cannot go out as they are: grey, but for what is to be filled in or stands out anyhow.
_ALIKE = ("input", "input_number", "warn", "error")
_HELD = {"font_color": "#7F7F7F", "bg_color": _GREY}
_OTHER_STYLES: dict[str, dict[str, Any]] = {
    "head": {"bold": True, "bg_color": _WINE, "font_color": _PAPER, "text_wrap": True, "valign": "vcenter"},
    "head_number": {
        "bold": True,
        "bg_color": _WINE,
        "font_color": _PAPER,
        "text_wrap": True,
        "valign": "vcenter",
        "align": "center",
    },
    "head_input": {"bold": True, "bg_color": "#FFD966", "text_wrap": True, "valign": "vcenter"},
    "head_key": {"bg_color": _GREY, "font_color": "#A6A6A6", "font_size": 8, "valign": "vcenter"},
    "title": {"bold": True, "font_size": 16, "font_color": _WINE},
    "section": {"bold": True, "font_size": 12, "font_color": _WINE},
    "label": {"font_color": "#595959", "valign": "top"},
    "value": {"num_format": "@", "valign": "top"},
    "total": {"bold": True, "top": 1},
    "total_count": {"bold": True, "top": 1, "num_format": "0", "align": "center"},
    "total_score": {"bold": True, "top": 1, "num_format": "0.0", "align": "center"},
    "total_share": {"bold": True, "top": 1, "num_format": "0%", "align": "center"},
    "answer": {"num_format": "@", "align": "center", **_TO_FILL_IN},
    "plain": {"num_format": "@", "font_size": 10},
    "good": {"bg_color": _GOOD[0], "font_color": _GOOD[1]},
    "bad": {"bg_color": _BAD[0], "font_color": _BAD[1]},
    "waits": {"bg_color": _WAITS[0], "font_color": _WAITS[1]},
    "edge": {"top": 1, "top_color": "#A6A6A6"},
    "low": {"font_color": "#C55A11"},
    "step": {"text_wrap": True, "valign": "top"},
}


def _lines(text: str | None, width: int) -> int:
    """How many lines a text takes in a cell that so many letters are wide."""
    return sum(-(-len(line) // width) for line in text.split("\n")) if text else 0


class _Book:
    """A workbook being written: rows, summary, instructions."""

    def __init__(self, words: Mapping[str, Any], locale: str, made_at: datetime, about: About) -> None:
        import xlsxwriter

        self._target = io.BytesIO()
        options = {"constant_memory": True, "strings_to_formulas": False, "strings_to_urls": False}
        self._book: Workbook = xlsxwriter.Workbook(self._target, options)
        self._book.set_properties({"title": words["summary"]["title"], "created": made_at.replace(tzinfo=None)})
        self._words, self._locale, self._about = words, locale, about
        names = words["sheets"]
        self._rows: Worksheet = self._book.add_worksheet(names["rows"])
        self._summary: Worksheet = self._book.add_worksheet(names["summary"])
        self._help: Worksheet = self._book.add_worksheet(names["help"])
        day = {"num_format": words["day_format"]}
        base = {"valign": "top", "font_size": 10}
        styles = {name: {**base, **style, **(day if name == "day" else {})} for name, style in _STYLES.items()}
        held = {
            f"{name}_held": {**style, **_HELD}
            for name, style in styles.items()
            if name not in ("input", "warn", "error")
        }
        self._styles: dict[str, Format] = {
            name: self._book.add_format(style) for name, style in {**styles, **held, **_OTHER_STYLES}.items()
        }
        self.content = b""

    def __enter__(self) -> _Book:
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        if kind is None:
            self._book.close()
            self.content = self._target.getvalue()

    # The sheet of rows

    def rows(self, items: pd.DataFrame, *, with_sample: bool, low_confidence: float) -> None:
        """One row per item; only the cells for decision, rating and comment are unlocked."""
        from xlsxwriter.utility import xl_range

        sheet, last = self._rows, max(len(items), 1)
        shown = [name for name in _LAYOUT if with_sample or name != "sampled"]
        self._places = {name: place for place, name in enumerate(shown)}
        sheet.set_row(0, _HEAD_POINTS)
        for name, place in self._places.items():
            width, style = _LAYOUT[name]
            sheet.set_column(place, place, width)
            heads = {"input": "head_input", "input_number": "head_input", "key": "head_key", "text": "head"}
            head = heads.get(style, "head_number")
            text = _OWN_HEADERS[name] if name in _OWN_HEADERS else self._words["columns"][name]
            sheet.write_string(0, place, text, self._styles[head])
        columns = [(place, _LAYOUT[name][1], self._cells(items, name)) for name, place in self._places.items()]
        of_findings = self._places["findings"]
        heights = [
            map(_lines, cells, repeat(_LAYOUT[name][0]))
            for name, (_, _, cells) in zip(shown, columns, strict=True)
            if name in _WRAPPED
        ]
        lines = [max(_RECENT_ORDERS, *of_row) for of_row in zip(*heights, strict=True)]
        severities, helds = items["severity"].to_list(), items["is_held"].to_list()
        for number, (severity, held) in enumerate(zip(severities, helds, strict=True)):
            # Row by row: LibreOffice gives a sheet with another height for all its rows a million rows as XLS.
            sheet.set_row(number + 1, _LINE_POINTS * lines[number] + _MARGIN_POINTS)
            suffix = "_held" if held else ""
            for place, kind, cells in columns:
                if place == of_findings and severity:
                    style = "error" if severity == "ERROR" else "warn"
                else:
                    style = kind if kind in _ALIKE else kind + suffix
                self._cell(sheet, number + 1, place, cells[number], self._styles[style])
        codes = (self._places[name] for name in ("client_code", "product_key"))
        sheet.ignore_errors({"number_stored_as_text": " ".join(xl_range(1, place, last, place) for place in codes)})
        self._inputs(last)
        self._colours(last, low_confidence)
        sheet.freeze_panes(1, 2)
        sheet.autofilter(0, 0, last, len(shown) - 1)
        # Filters and widths work as it is. No spreadsheet sorts locked cells: the header says how to lift the lock.
        allowed = ("autofilter", "sort", "format_columns", "format_rows")
        sheet.protect("", dict.fromkeys(allowed, True))
        sheet.set_landscape()
        sheet.set_paper(9)  # A4
        sheet.set_margins(left=0.4, right=0.4, top=0.5, bottom=0.6)
        sheet.repeat_rows(0)
        sheet.fit_to_pages(1, 0)
        sheet.print_area(0, 0, last, self._places[_LAST_PRINTED])
        sheet.set_footer(f"&L{self._about.estate.replace('&', '&&')} · {self._about.run_id}&R&P / &N")

    def _cells(self, items: pd.DataFrame, name: str) -> list[Any]:
        """The values of a column, None where a cell is to stay empty."""
        if name == "scenario":
            named = rendering.texts(self._locale)["scenario"]
            return [named.get(code, code) for code in items["scenario"]]
        if name == "decision":
            return [self._words["decisions"].get(code) for code in items["decision"]]
        if name == "sampled":
            return [self._words["sampled"] if sampled else None for sampled in items["is_sampled"]]
        if name == "before":
            return [text or None for text in _traces(items[_FILLED_IN])]
        values = items[_FROM.get(name, name)]
        if name == "last_order":
            return [None if pd.isna(day) else day.to_pydatetime() for day in values]
        return [None if pd.isna(value) or value == "" else value for value in values.astype("object")]

    @staticmethod
    def _cell(sheet: Worksheet, line: int, place: int, value: Any, style: Format) -> None:
        """A value as what it is; a text is never a formula, a number or a link, here or saved as CSV."""
        if value is None:
            sheet.write_blank(line, place, None, style)
        elif isinstance(value, str):
            sheet.write_string(line, place, guard(value), style)
        elif isinstance(value, datetime):
            sheet.write_datetime(line, place, value, style)
        else:
            sheet.write_number(line, place, value, style)

    def _inputs(self, last: int) -> None:
        """What may be chosen or typed, and what is said beside it."""
        said = self._words["inputs"]
        rules: dict[str, dict[str, Any]] = {
            "decision": {"validate": "list", "source": [self._words["decisions"][code] for code in DECISIONS]},
            "rating": {"validate": "list", "source": [str(rating) for rating in range(1, 6)]},
            "comment": {"validate": "length", "criteria": "<=", "value": MAX_COMMENT},
            "reference": {"validate": "any"},
        }
        for name, rule in rules.items():
            text = {"input_title": said[name]["title"], "input_message": said[name]["message"]}
            if "error" in said[name]:
                error = said[name]["error"].format(longest=MAX_COMMENT)
                text |= {"error_title": said[name]["title"], "error_message": error}
            place = self._places[name]
            first = self._places["before"] if name == "reference" else place
            self._rows.data_validation(1, first, last, place, {**rule, **text})
        head = {"input_title": said["header"]["title"], "input_message": said["header"]["message"]}
        self._rows.data_validation(0, 0, 0, len(self._places) - 1, {"validate": "any", **head})

    def _colours(self, last: int, low_confidence: float) -> None:
        from xlsxwriter.utility import xl_range

        decision, confidence = self._places["decision"], self._places["confidence"]
        # A line above each customer, also where rows have been sorted or deleted; not across cells with borders or
        # colours of their own, since LibreOffice shows one of several conditions only.
        own = {decision, self._places["rating"], self._places["comment"], confidence}
        ends = [-1, *sorted(own), len(self._places)]
        between = [(left + 1, right - 1) for left, right in pairwise(ends) if right - left > 1]
        edge = {"type": "formula", "criteria": "=$A2<>$A1", "format": self._styles["edge"]}
        edge["multi_range"] = " ".join(xl_range(1, left, last, right) for left, right in between)
        self._rows.conditional_format(1, 0, last, decision - 1, edge)
        for code, style in zip(DECISIONS, ("good", "bad", "waits"), strict=True):
            value = f'"{self._words["decisions"][code]}"'
            rule = {"type": "cell", "criteria": "==", "value": value, "format": self._styles[style]}
            self._rows.conditional_format(1, decision, last, decision, rule)
        low = {"type": "cell", "criteria": "<", "value": low_confidence, "format": self._styles["low"]}
        self._rows.conditional_format(1, confidence, last, confidence, low)

    # The summary

    def summary(self, items: pd.DataFrame, findings: pd.DataFrame) -> None:
        """What the run holds and how far its review has come, with the cells for a name and for the rest."""
        words, sheet, about = self._words["summary"], self._summary, self._about
        sheet.hide_gridlines(2)
        sheet.set_column(0, 0, 2)
        sheet.set_column(1, 1, 34)
        sheet.set_column(2, 9, 14)
        sheet.write_string(0, 1, words["title"], self._styles["title"])
        sheet.set_row(0, 26)
        facts = [
            (words["estate"], about.estate, ""),
            (words["run"], about.run_id, _RUN_KEY),
            (words["as_of"], rendering.long_date(about.as_of, self._locale), ""),
            (words["expires"], rendering.long_date(about.last_day, self._locale), ""),
            (words["mode"], words["modes"][about.mode], ""),
        ]
        if about.parts > 1:
            facts.append((words["part"], words["part_of"].format(part=about.part, parts=about.parts), ""))
        for line, (label, text, key) in enumerate(facts, start=2):
            self._keyed(line, key, label)
            sheet.write_string(line, 2, guard(text), self._styles["value"])
        line = 2 + len(facts)
        counted: list[tuple[str, dict[str, str]]] = [("undecided", {})]
        if about.mode == "sample":
            counted.append(("undecided_sample", {"sampled": self._words["sampled"]}))
        for number, (name, more) in enumerate(counted):
            sampled = items["is_sampled"] if more else pd.Series(True, index=items.index)
            self._keyed(line + number, "", words[name])
            value = int((sampled & items["decision"].eq("")).sum())
            sheet.write_formula(line + number, 2, self._count({"decision": "=", **more}, len(items)),
                                self._styles["value"], value)  # fmt: skip
        line += len(counted)
        self._keyed(line, _REVIEWER_KEY, words["reviewer"])
        sheet.merge_range(line, 2, line, 5, "", self._styles["input"])
        said = self._words["inputs"]["reviewer"]
        message = {"input_title": said["title"], "input_message": said["message"]}
        sheet.data_validation(line, 2, line, 5, {"validate": "any", **message})

        line = self._scenarios(items, line + 2)
        line = self._confidences(items, line + 2)
        line = self._findings(findings, line + 2)
        sheet.protect("", {"format_columns": True, "format_rows": True})
        sheet.set_portrait()
        sheet.set_paper(9)
        sheet.fit_to_pages(1, 0)
        sheet.print_area(0, 1, line, _SUMMARY_WIDTH)

    def _keyed(self, line: int, key: str, label: str) -> None:
        """A row's label, and before it the key that it is found by when the workbook comes back."""
        if key:
            self._summary.write_string(line, 0, key, self._styles["key"])
        self._summary.write_string(line, 1, label, self._styles["label"])

    def _count(self, wanted: Mapping[str, str], n_rows: int) -> str:
        """A formula: the rows in which the columns hold these texts. It follows what is filled in."""
        from xlsxwriter.utility import quote_sheetname, xl_range_abs

        name = quote_sheetname(self._words["sheets"]["rows"])
        pairs = []
        for column, text in wanted.items():
            place = self._places[column]
            value = text if text.startswith("$") else f'"{text}"'
            pairs.append(f"{name}!{xl_range_abs(1, place, max(n_rows, 1), place)},{value}")
        return f"=COUNTIFS({','.join(pairs)})"

    def _scenarios(self, items: pd.DataFrame, line: int) -> int:
        """Per scenario what is proposed, what has been decided, and whether the rest is approved; the row after it."""
        words, sheet = self._words["summary"], self._summary
        named = rendering.texts(self._locale)["scenario"]
        sheet.write_string(line, 1, words["scenarios"], self._styles["section"])
        line += 1
        sheet.set_row(line, _HEAD_POINTS)
        sheet.write_string(line, 0, _REST_KEY, self._styles["key"])
        for place, name in enumerate(words["columns"], start=1):
            style = {"rest": "head_input", "scenario": "head"}.get(name, "head_number")
            sheet.write_string(line, place, words["columns"][name], self._styles[style])
        first = line + 1
        groups = items.groupby("scenario")
        counts = groups.agg(
            items=("reference", "size"), customers=("customer_id", "nunique"), score=("score", "mean"),
            confidence=("confidence", "mean"),
        )  # fmt: skip
        codes = [code for code in named if code in counts.index]
        decided = pd.crosstab(items["scenario"], items["decision"])
        ends = list(words["columns"]).index("rest") + 1
        for code in codes:
            line += 1
            row = counts.loc[code]
            sheet.write_string(line, 0, f"{_REST_KEY}_{code}", self._styles["key"])
            sheet.write_string(line, 1, named[code], self._styles["plain"])
            sheet.write_number(line, 2, int(row["items"]), self._styles["count"])
            sheet.write_number(line, 3, int(row["customers"]), self._styles["count"])
            sheet.write_number(line, 4, round(float(row["score"]), 1), self._styles["score"])
            sheet.write_number(line, 5, round(float(row["confidence"]), 4), self._styles["share"])
            for place, decision in enumerate(DECISIONS, start=6):
                formula = self._count(
                    {"scenario": f"$B{line + 1}", "decision": self._words["decisions"][decision]}, len(items)
                )
                value = int(decided[decision].get(code, 0)) if decision in decided else 0
                sheet.write_formula(line, place, formula, self._styles["count"], value)
            sheet.write_string(line, ends, self._words["answers"]["no"], self._styles["answer"])
        if codes:
            self._ask_for_rest(first, line, ends)
        line += 1
        sheet.write_string(line, 1, words["total"], self._styles["total"])
        total: list[tuple[str, float]] = [("total_count", len(items)), ("total_count", items["customer_id"].nunique())]
        total += [("total_score", items["score"].mean()), ("total_share", items["confidence"].mean())]
        for place, (style, number) in enumerate(total, start=2):
            sheet.write_number(line, place, 0 if pd.isna(number) else round(float(number), 4), self._styles[style])
        for place, decision in enumerate(DECISIONS, start=6):
            formula = self._count({"decision": self._words["decisions"][decision]}, len(items))
            sheet.write_formula(
                line, place, formula, self._styles["total_count"], int(items["decision"].eq(decision).sum())
            )
        said = [(named[code], int(counts.loc[code, "items"])) for code in codes]
        chart = self._chart("bar", "scenarios", said, first, 2)
        sheet.insert_chart(
            line + 2, 1, chart, self._alt("scenarios", said, width=910, height=40 + 45 * max(len(said), 2))
        )
        return line + 4 + 9 * max(len(said), 2) // 4

    def _ask_for_rest(self, first: int, last: int, place: int) -> None:
        said = self._words["inputs"]["rest"]
        answers = [self._words["answers"][code] for code in ("no", "yes")]
        rule = {
            "validate": "list", "source": answers, "input_title": said["title"], "input_message": said["message"],
            "error_title": said["title"], "error_message": said["error"],
        }  # fmt: skip
        self._summary.data_validation(first, place, last, place, rule)
        yes = {"type": "cell", "criteria": "==", "value": f'"{answers[1]}"', "format": self._styles["good"]}
        self._summary.conditional_format(first, place, last, place, yes)

    def _confidences(self, items: pd.DataFrame, line: int) -> int:
        """How the confidences of the items are spread, as a table and a chart; the row after them."""
        share = (items["confidence"].to_numpy(dtype="float64") * _N_BINS).astype("int64").clip(0, _N_BINS - 1)
        counts = np.bincount(share, minlength=_N_BINS)
        step = 100 // _N_BINS
        rows = [
            (f"{step * bin}–{format_percent((bin + 1) / _N_BINS, locale=self._locale)}", int(count))
            for bin, count in enumerate(counts)
        ]
        return self._table("confidences", "confidence_columns", rows, line, "column")

    def _findings(self, findings: pd.DataFrame, line: int) -> int:
        """How many customers each rule of the audit speaks of, as a table and a chart; the row after them."""
        named = rendering.texts(self._locale)["reason"]
        severities = self._words["summary"]["severities"]
        counts = findings.groupby(["rule_code", "severity"])["customer_id"].nunique().rename("n").reset_index()
        counts = counts.sort_values(["n", "rule_code"], ascending=[False, True], kind="stable")
        rows = [
            (_capitalised(named.get(rule, rule)), int(n), severities.get(severity, severity))
            for rule, severity, n in counts[["rule_code", "severity", "n"]].itertuples(index=False)
        ]
        if not rows:
            rows = [(self._words["summary"]["none"], 0, "")]
        return self._table("findings", "finding_columns", rows, line, "bar")

    def _table(self, name: str, columns: str, rows: Sequence[tuple[Any, ...]], line: int, kind: str) -> int:
        """A small table with a chart of its second column beside it; the row after both."""
        words, sheet = self._words["summary"], self._summary
        sheet.write_string(line, 1, words[name], self._styles["section"])
        line += 1
        for place, text in enumerate(words[columns].values(), start=1):
            sheet.write_string(line, place, text, self._styles["head_number" if place == 2 else "head"])
        first = line + 1
        for line, row in enumerate(rows, start=first):
            for place, value in enumerate(row, start=1):
                self._cell(sheet, line, place, value, self._styles["count" if place == 2 else "plain"])
        said = [row[:2] for row in rows]
        height = max(60 + 22 * len(rows), 260)
        chart = self._chart(kind, name, said, first, 2)
        sheet.insert_chart(first - 1, 4, chart, {**self._alt(name, said, width=500, height=height), "x_offset": 80})
        return max(line, first + height // 20) + 1

    def _chart(self, kind: str, name: str, said: Sequence[tuple[str, int]], first: int, place: int) -> Any:
        """A chart of some rows of the summary: labels in the second column, numbers in `place`."""
        words = self._words["charts"]
        sheet = self._words["sheets"]["summary"]
        last = first + max(len(said), 1) - 1
        chart = self._book.add_chart({"type": kind})
        of = words["customers"] if name == "findings" else words["items"]
        chart.add_series({
            "name": of,
            "categories": [sheet, first, 1, last, 1],
            "values": [sheet, first, place, last, place],
            "fill": {"color": _WINE},
            "gap": 60,
            "data_labels": {"value": True, "font": {"size": 9}},
        })  # fmt: skip
        chart.set_title({"name": words[name]["title"], "name_font": {"size": 12, "color": _WINE}, "overlay": False})
        chart.set_legend({"none": True})
        labels = {"num_font": {"size": 9}, "line": {"color": "#BFBFBF"}, "reverse": kind == "bar"}
        # Each bar says its number: an axis and its lines would say it again.
        numbers = {"visible": False, "major_gridlines": {"visible": False}, "min": 0}
        # In a bar chart the axes change places; its first row is to stand on top.
        chart.set_x_axis(numbers if kind == "bar" else labels)
        chart.set_y_axis(labels if kind == "bar" else numbers)
        return chart

    def _alt(self, name: str, said: Sequence[tuple[str, int]], *, width: int, height: int) -> dict[str, Any]:
        """Place and size of a chart, and what it shows in words."""
        text = ", ".join(f"{label} {number}" for label, number in said)
        alt = self._words["charts"][name]["alt"].format(said=text)
        chart_size = {"x_scale": width / 480, "y_scale": height / 288}
        return {"description": alt, "object_position": 2, **chart_size}

    # The instructions

    def help(self, rules: BusinessRules) -> None:
        words, sheet = self._words["help"], self._help
        sheet.hide_gridlines(2)
        sheet.set_column(0, 0, 4)
        sheet.set_column(1, 1, 105)
        sheet.write_string(0, 0, words["title"], self._styles["title"])
        sheet.set_row(0, 26)
        names = {
            **self._words["sheets"], **self._words["decisions"], "decision": self._words["columns"]["decision"],
            "findings": self._words["columns"]["findings"], "reference": REFERENCE_HEADER,
            "rejection_days": rules.recommendations.rejection_days, "carry_days": rules.review.carry_days,
            "expires": rendering.long_date(self._about.last_day, self._locale),
        }  # fmt: skip
        for number, text in enumerate(words["steps"], start=1):
            said = text.format(**names)
            line = 2 * number
            sheet.set_row(line, 15.0 * len(textwrap.wrap(said, 100)))
            sheet.write_string(line, 0, f"{number}.", self._styles["step"])
            sheet.write_string(line, 1, said, self._styles["step"])
        sheet.protect("", {"format_columns": True, "format_rows": True})
        sheet.set_paper(9)
        sheet.fit_to_pages(1, 0)


# --- back


def read(path: Path, limits: WorkbookLimits) -> ReviewSheet:
    """A returned workbook (XLSX, XLS or CSV) as texts; UnreadableError for what is no table."""
    table = open_table(path, limits, is_review)
    names = _column_names()
    places: dict[str, int] = {}
    for place, text in enumerate(table.header):
        if (name := names.get(normalise_header(text))) is not None:
            places.setdefault(name, place)
    frames = [_rows(batch, places) for batch in table.batches()]
    rows = pd.concat(frames, ignore_index=True) if frames else _no_rows()
    # What stands as it went out, nobody has said: it holds already, or somebody has decided otherwise since.
    is_untouched = rows["before"].ne("") & (rows["before"] == _traces(rows[_FILLED_IN]))
    rows.loc[is_untouched, _FILLED_IN] = ""
    rows = rows[(rows[list(ROW_COLUMNS)] != "").any(axis=1)].reset_index(drop=True)

    run_id, reviewer, approved, unclear = None, "", set[str](), set[str]()
    for sheet in every_sheet(path, limits, _SUMMARY_ROWS):
        if (summary := _Summary.of(sheet)) is not None:
            run_id, reviewer = summary.run_id, summary.reviewer
            approved, unclear = summary.approved, summary.unclear
            break
    runs = reference_run(rows["reference"]).value_counts()
    problem = None
    if "decision" not in places:
        problem = NO_DECISION_COLUMN
    elif rows.empty:
        problem = NO_ROWS
    elif len(runs) > 1 and run_id is None:
        problem = SEVERAL_RUNS
    if run_id is None and len(runs):
        run_id = str(runs.index[0])
    return ReviewSheet(run_id, reviewer, frozenset(approved), rows, problem, frozenset(unclear), "before" in places)


def _traces(filled_in: pd.DataFrame) -> pd.Series:
    """Per row its decision (code or word) and a digest of that, rating and comment; `` where nothing is filled in."""
    codes = decision_codes()

    def trace(decision: Any, rating: Any, comment: Any) -> str:
        word = normalise_header(str(decision or ""))
        # 4, 4.0 and 4,00 are one rating.
        said = [codes.get(word, word), "" if pd.isna(rating) else re.sub(r"[.,]0+$", "", str(rating))]
        text = "|".join([*said, " ".join(str(comment or "").split())])
        # The word in front also keeps a spreadsheet from taking it for a number.
        return f"{said[0]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}" if text != "||" else ""

    return pd.Series(
        [trace(*row) for row in filled_in[_FILLED_IN].itertuples(index=False)], index=filled_in.index, dtype="object"
    )


def _no_rows() -> pd.DataFrame:
    texts = {name: pd.Series(dtype="str") for name in _READ_COLUMNS}
    return pd.DataFrame({"line": pd.Series(dtype="int64"), **texts})


def _rows(batch: Batch, places: Mapping[str, int]) -> pd.DataFrame:
    """The columns of a batch that are read, rows of another length among them."""
    columns = {
        name: batch.columns[places[name]].to_pylist() if name in places else [None] * len(batch.lines)
        for name in _READ_COLUMNS
    }
    frame = pd.DataFrame({"line": batch.lines, **columns}, columns=["line", *_READ_COLUMNS])
    if batch.ragged:
        # A delimiter in somebody's comment: what stands before it is in its place, and the reference is like no other.
        apart = [
            {
                "line": row.line,
                **{name: row.values[place] for name, place in places.items() if place < len(row.values)},
                "reference": next(iter(_references(row.values)), ""),
            }
            for row in batch.ragged
        ]
        frame = pd.concat([frame, pd.DataFrame(apart, columns=frame.columns)]).sort_values("line", kind="stable")
    for name in _READ_COLUMNS:
        texts = frame[name].astype("object").fillna("").astype("str")
        frame[name] = texts.str.strip().map(unguard)
    return frame


def _references(texts: Sequence[str]) -> list[str]:
    stripped = pd.Series(texts, dtype="str").str.strip()
    return stripped[reference_run(stripped).notna()].to_list()


@dataclass
class _Summary:
    """What was filled in on the summary sheet."""

    run_id: str | None
    reviewer: str
    approved: set[str]
    unclear: set[str]

    @classmethod
    def of(cls, rows: Sequence[Sequence[str]]) -> _Summary | None:
        """The summary, if these texts are one: known by its keys, wherever they stand."""
        keyed = {
            text.strip(): (list(row), place)
            for row in rows
            for place, text in enumerate(row)
            if text.startswith((_RUN_KEY, _REVIEWER_KEY, _REST_KEY))
        }
        if _RUN_KEY not in keyed:
            return None
        run_id, reviewer = (_answer(*keyed[key]) if key in keyed else "" for key in (_RUN_KEY, _REVIEWER_KEY))
        approved, unclear = set[str](), set[str]()
        asked = _place_of_rest(keyed.get(_REST_KEY, ([], 0))[0])
        for key, (row, _) in keyed.items():
            scenario = key.removeprefix(f"{_REST_KEY}_")
            if key == scenario or asked is None:
                continue
            word = normalise_header(row[asked]) if asked < len(row) else ""
            if word not in _answers() and word:
                unclear.add(scenario)
            elif word and _answers()[word]:
                approved.add(scenario)
        return cls(run_id or None, reviewer, approved, unclear)


def _answer(row: Sequence[str], key: int) -> str:
    """What stands behind the label that follows a key."""
    filled = [text.strip() for text in row[key + 1 :] if text.strip()]
    return unguard(filled[1]) if len(filled) > 1 else ""


def _place_of_rest(header: Sequence[str]) -> int | None:
    """The column of the summary that asks about the rest, in any language."""
    asked = {
        normalise_header(rendering.texts(locale)["review_workbook"]["summary"]["columns"]["rest"]) for locale in LOCALES
    }
    asked |= set(map(normalise_header, KNOWN_REST_HEADERS))
    return next((place for place, text in enumerate(header) if normalise_header(text) in asked), None)
