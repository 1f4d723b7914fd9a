"""The review workbook: a run's recommended items on their way to the people who decide on them, and back.

One row per item, with cells for a decision, a rating and a comment. It may come back sorted, filtered, half filled,
saved by another program: `read` turns it into plain texts, found by headers and keys, never by place. What is taken
of them is decided in `logic/review.py`. No database, no folder and no clock here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from crm_assets import rendering
from crm_assets.logic.landing import normalise_header
from crm_assets.logic.mended import unguard
from crm_assets.logic.reading import Batch, open_table, other_sheets

if TYPE_CHECKING:
    from crm_assets.rules import WorkbookLimits

# Heads the column that ties a row to its item; a file with it is a review workbook.
REFERENCE_HEADER = "crm_ref_review"
LOCALES = ("fr", "en", "de")

# What a row says, and the columns that it is read from.
ROW_COLUMNS = ("reference", "client_code", "product_key", "decision", "rating", "comment")
# Why nothing can be taken of a workbook.
NO_DECISION_COLUMN, NO_ROWS, SEVERAL_RUNS = "NO_DECISION_COLUMN", "NO_ROWS", "SEVERAL_RUNS"

# What stands, small and grey, in front of the cells of the summary that are read.
_RUN_KEY, _REVIEWER_KEY, _REST_KEY = "crm_run", "crm_reviewer", "crm_rest"
_SUMMARY_ROWS = 200
_REFERENCE = re.compile(r"([0-9a-f]{16})-[0-9a-f]{16}")


@dataclass
class ReviewSheet:
    """A workbook as it came back.

    `rows`: line (row of the sheet, line of the CSV), and the ROW_COLUMNS as texts as they were typed, `` where empty
    or where the column is gone; rows on which nothing was filled in too. `approve_rest`: codes of scenarios.
    """

    run_id: str | None  # null: no row names one
    reviewer: str  # `` where nobody gave a name, and in a CSV file, which has no summary
    approve_rest: frozenset[str]
    rows: pd.DataFrame
    problem: str | None = None
    # Scenarios whose answer to "approve the rest" is neither yes nor no.
    unclear_rest: frozenset[str] = field(default=frozenset())


def is_review(header: Sequence[str]) -> bool:
    """Whether a file with this header is a review workbook, whatever else is in it."""
    return any(normalise_header(text) == REFERENCE_HEADER for text in header)


@cache
def _column_names() -> Mapping[str, str]:
    """Normalised header -> column of a row, in every language that workbooks are written in."""
    names = {REFERENCE_HEADER: "reference"}
    for locale in LOCALES:
        shown = rendering.texts(locale)["review_workbook"]["columns"]
        names |= {normalise_header(shown[name]): name for name in ROW_COLUMNS if name in shown}
    return names


@cache
def decision_codes() -> Mapping[str, str]:
    """Normalised word -> approve, reject or later: the words of all languages, and the codes themselves."""
    words = {code: code for code in ("approve", "reject", "later")}
    for locale in LOCALES:
        shown = rendering.texts(locale)["review_workbook"]["decisions"]
        words |= {normalise_header(word): code for code, word in shown.items()}
    return words


@cache
def _answers() -> Mapping[str, bool]:
    """Normalised word -> whether it says yes, in every language."""
    shown = [rendering.texts(locale)["review_workbook"]["answers"] for locale in LOCALES]
    return {normalise_header(words[code]): code == "yes" for words in shown for code in ("yes", "no")}


# --- back


def read(path: Path, limits: WorkbookLimits) -> ReviewSheet:
    """A returned workbook (XLSX, XLS or CSV) as texts; UnreadableError for what is no table."""
    table = open_table(path, limits)
    names = _column_names()
    places: dict[str, int] = {}
    for place, text in enumerate(table.header):
        if (name := names.get(normalise_header(text))) is not None:
            places.setdefault(name, place)
    frames = [_rows(batch, places) for batch in table.batches()]
    rows = pd.concat(frames, ignore_index=True) if frames else _no_rows()
    rows = rows[(rows[list(ROW_COLUMNS)] != "").any(axis=1)].reset_index(drop=True)

    run_id, reviewer, approved, unclear = None, "", set[str](), set[str]()
    for sheet in other_sheets(path, limits, _SUMMARY_ROWS):
        if (summary := _Summary.of(sheet)) is not None:
            run_id, reviewer = summary.run_id, summary.reviewer
            approved, unclear = summary.approved, summary.unclear
            break
    runs = rows["reference"].str.extract(f"^{_REFERENCE.pattern}$")[0].value_counts()
    problem = None
    if "decision" not in places:
        problem = NO_DECISION_COLUMN
    elif rows.empty:
        problem = NO_ROWS
    elif len(runs) > 1 and run_id is None:
        problem = SEVERAL_RUNS
    if run_id is None and len(runs):
        run_id = str(runs.index[0])
    return ReviewSheet(run_id, reviewer, frozenset(approved), rows, problem, frozenset(unclear))


def _no_rows() -> pd.DataFrame:
    return pd.DataFrame({"line": pd.Series(dtype="int64"), **{name: pd.Series(dtype="str") for name in ROW_COLUMNS}})


def _rows(batch: Batch, places: Mapping[str, int]) -> pd.DataFrame:
    """The columns of a batch that are read, rows of another length among them."""
    columns = {
        name: batch.columns[places[name]].to_pylist() if name in places else [None] * len(batch.lines)
        for name in ROW_COLUMNS
    }
    frame = pd.DataFrame({"line": batch.lines, **columns}, columns=["line", *ROW_COLUMNS])
    if batch.ragged:
        # A delimiter in somebody's comment: what stands before it is in its place, and the reference is like no other.
        apart = [
            {
                "line": row.line,
                **{name: row.values[place] for name, place in places.items() if place < len(row.values)},
                "reference": next((text for text in row.values if _REFERENCE.fullmatch(text.strip())), ""),
            }
            for row in batch.ragged
        ]
        frame = pd.concat([frame, pd.DataFrame(apart, columns=frame.columns)]).sort_values("line", kind="stable")
    for name in ROW_COLUMNS:
        texts = frame[name].astype("object").fillna("").astype("str")
        frame[name] = texts.str.strip().map(unguard)
    return frame


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
    return next((place for place, text in enumerate(header) if normalise_header(text) in asked), None)
