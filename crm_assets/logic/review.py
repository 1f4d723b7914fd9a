"""Review: what people decide on the items of a run, row by row, and which of it holds (spec.md §6).

No SQL, no Dagster, no clock here. What the decisions mean for who may be written to is `logic/gate.py`; how a
workbook looks and is read is `logic/review_workbook.py`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd

from crm_assets.logic.feedback import RATINGS
from crm_assets.logic.landing import normalise_header

APPROVE, REJECT, LATER = "approve", "reject", "later"
ROW, REST = "row", "rest"  # said of this very item, or of the rest of its scenario
# What an item of a run is, for a person's decision on it.
ITEM_KEY = ["customer_id", "wine_id", "scenario"]
_DIGEST = 16

# What became of a row on which something was filled in. The first two are taken, the others are not.
TAKEN = "TAKEN"
UNCHANGED = "UNCHANGED"  # what was decided before, said again
OVERTAKEN = "OVERTAKEN"  # somebody has decided later than this workbook was saved
STALE_RUN = "STALE_RUN"  # the run is too old to be reviewed
UNKNOWN_RUN = "UNKNOWN_RUN"
SEVERAL_RUNS = "SEVERAL_RUNS"  # rows of several workbooks in one
EDITED_KEY = "EDITED_KEY"  # the reference is none of the run's, or stands beside another customer or product
UNKNOWN_VALUE = "UNKNOWN_VALUE"  # a decision or a rating that is none
CONFLICT = "CONFLICT"  # approve and reject both, in one cell or on two rows
NO_DECISION = "NO_DECISION"  # a rating or a comment alone
ACCEPTED = (TAKEN, UNCHANGED)
OUTCOMES = (
    *ACCEPTED, OVERTAKEN, STALE_RUN, UNKNOWN_RUN, SEVERAL_RUNS, EDITED_KEY, UNKNOWN_VALUE, CONFLICT, NO_DECISION,
)  # fmt: skip
_BOTH, _NEITHER = "both", "?"  # of a decision's cell, beside the codes
_FILLED_IN = ["decision", "rating", "comment"]
_VISIBLE_KEYS = ["client_code", "product_key"]


def item_reference(run_id: str, items: pd.DataFrame) -> pd.Series:
    """Per item (customer_id, wine_id, scenario) the reference that stands for it in a workbook of the run.

    `<run_id>-<first 16 hex of sha256(run_id|customer_id|wine_id|scenario)>`: nobody can turn one item's reference
    into another's by hand, and a row says for itself which run it is of.
    """
    start = hashlib.sha256(f"{run_id}|".encode())

    def of(*key: str) -> str:
        digest = start.copy()
        digest.update("|".join(key).encode())
        return f"{run_id}-{digest.hexdigest()[:_DIGEST]}"

    keys = zip(*(items[name].astype(str) for name in ITEM_KEY), strict=True)
    return pd.Series([of(*key) for key in keys], index=items.index, dtype="object")


def reference_run(reference: pd.Series) -> pd.Series:
    """The run that each reference names; null where it is no reference."""
    return reference.str.extract(rf"^([0-9a-f]{{16}})-[0-9a-f]{{{_DIGEST}}}$", expand=False)


def precedence(decisions: pd.DataFrame) -> pd.DataFrame:
    """The decisions, each item's strongest one last.

    What a person said of an item goes before what they said of a rest; then the newest one counts. Ties are decided
    by run and file, so that the order in which workbooks come back never matters.
    """
    said_of_item = decisions["origin"].ne(REST)
    decided_at = pd.to_datetime(decisions["decided_at"], utc=True)
    ranked = decisions.assign(_of_item=said_of_item, _at=decided_at, _file=decisions["file_id"].fillna(""))
    ranked = ranked.sort_values(["_of_item", "_at", "run_id", "_file"], kind="stable")
    return ranked.drop(columns=["_of_item", "_at", "_file"])


def applied(items: pd.DataFrame, decisions: pd.DataFrame, run_id: str, since: datetime) -> pd.DataFrame:
    """The decisions that hold on a run's items: customer_id, wine_id, scenario, decision, reviewer, decided_at,
    decided_run_id.

    `items`: customer_id, wine_id, scenario of the run. `decisions`: rows of review.decisions. Those taken on the run
    itself hold, and those of other runs on the same (customer, wine, scenario) from `since` on. A rejection goes for
    the wine under whatever scenario: it must not come back under another one (spec.md §5).
    """
    decisions = decisions[
        (decisions["run_id"] == run_id) | (pd.to_datetime(decisions["decided_at"], utc=True) >= since)
    ]
    rejected = decisions[decisions["decision"] == REJECT].drop(columns="scenario")
    decisions = pd.concat([decisions, items[ITEM_KEY].merge(rejected, on=["customer_id", "wine_id"])])
    strongest = precedence(decisions).drop_duplicates(ITEM_KEY, keep="last")
    columns = [*ITEM_KEY, "decision", "reviewer", "decided_at", "decided_run_id"]
    found = items[ITEM_KEY].merge(strongest.rename(columns={"run_id": "decided_run_id"}), on=ITEM_KEY)
    return found[columns].sort_values(ITEM_KEY, kind="stable", ignore_index=True)


@dataclass(frozen=True)
class Judged:
    """What became of a workbook's rows.

    `lines`: rows of review.receipt_lines without file_id, for each row on which something was filled in.
    `decisions`: the rows of review.decisions to write, one per item.
    """

    lines: pd.DataFrame
    decisions: pd.DataFrame
    n_blank: int
    n_approved_rest: int

    @property
    def n_taken(self) -> int:
        return int(self.lines["outcome"].isin(ACCEPTED).sum())


def judge(
    rows: pd.DataFrame,
    items: pd.DataFrame,
    stored: pd.DataFrame,
    holding: pd.DataFrame,
    *,
    run_id: str,
    file_id: str,
    reviewer: str,
    decided_at: datetime,
    approve_rest: Collection[str] = (),
    refusal: str | None = None,
    approved_at: datetime | None = None,
    earlier: pd.DataFrame | None = None,
) -> Judged:
    """Decide a returned workbook row by row; no row takes another one down.

    `rows`: line, reference, client_code, product_key, decision, rating, comment as the texts they are, and, where the
    workbook says so, `before`: the code of the decision that the row went out with, `-`, and a digest. `items`:
    reference, customer_id, wine_id, scenario, client_code, product_key of the run. `stored`: the run's rows of
    review.decisions. `holding`: ITEM_KEY and decision where one holds, taken on the run or carried over to it.
    `refusal`: why the workbook as a whole is not taken, one of OUTCOMES. `approved_at`: how old approvals are in a
    workbook that no longer says what it went out with, where nobody can tell whether they are anybody's word.
    `earlier`: ITEM_KEY, decision, rating, comment, before, decided_at of what this reviewer said in workbooks saved
    before, oldest first.

    A decision that a row went out with is no new word when another one holds by now, whatever was written beside it
    (OVERTAKEN). What a reviewer said already in the same copy of a workbook is as old as it was then.

    The rest of a scenario are the rows of this workbook that are left blank and whose item nobody has decided on. What
    is said of an item goes before what is said of a rest, then the later goes before the earlier (`precedence`).
    """
    words = rows[_FILLED_IN].apply(lambda column: column.str.strip())
    rows = rows.assign(**words)
    is_filled = words.ne("").any(axis=1)
    known = rows.merge(
        items.rename(columns={name: f"true_{name}" for name in _VISIBLE_KEYS}),
        on="reference", how="left", validate="many_to_one",
    )  # fmt: skip
    known.index = rows.index
    known["is_true"] = known["customer_id"].notna() & _keys_agree(known)
    filled, blank = known[is_filled], known[~is_filled]

    decision = filled["decision"].map(_decision)
    rating = filled["rating"].map(_rating)
    lines = pd.DataFrame(
        {
            "source_line": filled["line"],
            "run_id": run_id if refusal not in (UNKNOWN_RUN, SEVERAL_RUNS) else None,
            **{name: filled[name].where(filled["is_true"]) for name in ITEM_KEY},
            "decision": decision.where(decision.isin([APPROVE, REJECT, LATER])),
            "rating": pd.to_numeric(rating.where(rating.ne(_NEITHER))).astype("Int64"),
            "comment": filled["comment"].where(filled["comment"].ne("")),
            "before": filled["before"].where(filled["before"].ne("")) if "before" in filled else None,
        }
    )
    lines["decided_at"] = _said_at(lines, decided_at, approved_at, earlier)
    faults = {
        str(refusal): pd.Series(refusal is not None, index=filled.index),
        EDITED_KEY: ~filled["is_true"],
        CONFLICT: decision.eq(_BOTH),
        UNKNOWN_VALUE: decision.eq(_NEITHER) | rating.eq(_NEITHER),
        NO_DECISION: filled["decision"].eq(""),
    }
    lines["outcome"] = np.select([fault.to_numpy(dtype=bool) for fault in faults.values()], list(faults), default=TAKEN)
    is_sound = lines["outcome"].eq(TAKEN)
    n_decisions = lines[is_sound].groupby(ITEM_KEY)["decision"].transform("nunique")
    lines.loc[n_decisions[n_decisions > 1].index, "outcome"] = CONFLICT
    # The same said twice: the last row is the one that is taken.
    is_sound = lines["outcome"].eq(TAKEN)
    repeated = lines[is_sound].duplicated(ITEM_KEY, keep="last")
    lines.loc[repeated[repeated].index, "outcome"] = UNCHANGED
    went_out_with = lines["before"].astype("object").fillna("").map(lambda text: text.partition("-")[0])
    as_it_went_out = lines["outcome"].eq(TAKEN) & lines["decision"].eq(went_out_with)
    for others in (stored, holding):
        now_holds = lines[ITEM_KEY].merge(others[[*ITEM_KEY, "decision"]], on=ITEM_KEY, how="left")["decision"]
        now_holds.index = lines.index
        lines.loc[as_it_went_out & now_holds.notna() & now_holds.ne(lines["decision"]), "outcome"] = OVERTAKEN

    made: dict[str, Any] = {"run_id": run_id, "reviewer": reviewer, "file_id": file_id}
    said = lines[lines["outcome"].eq(TAKEN)].drop(columns=["run_id", "outcome", "before"])
    said = said.assign(**made, origin=ROW, _line=said.index)
    rest = blank.loc[blank["is_true"] & blank["scenario"].isin(list(approve_rest)), ITEM_KEY].drop_duplicates()
    if refusal is not None:
        rest = rest.head(0)
    # An item that a refused row speaks of is none that was left out.
    spoken_of = lines[ITEM_KEY].dropna()
    rest = _without(_without(rest, spoken_of), holding)
    rest = rest.assign(**made, origin=REST, decision=APPROVE, rating=None, comment=None, _line=-1)
    rest["decided_at"] = decided_at
    columns = ["run_id", *ITEM_KEY, "decision", "rating", "comment", "reviewer", "decided_at", "origin", "file_id"]
    new = (
        pd.concat([said, rest])[[*columns, "_line"]]
        if len(said) or len(rest)
        else said.reindex(columns=[*columns, "_line"])
    )
    both = pd.concat([stored.assign(_line=-1), new], ignore_index=True) if len(stored) else new
    strongest = _named(precedence(both)).drop_duplicates(ITEM_KEY, keep="last")
    taken = strongest[strongest["file_id"].eq(file_id) | strongest["_is_named"]]

    before = new[["_line", *ITEM_KEY, "decision", "rating", "comment"]].merge(
        stored[[*ITEM_KEY, "decision", "rating", "comment"]], on=ITEM_KEY, suffixes=("", "_before")
    )
    is_same = pd.Series(True, index=before.index)
    for name in ("decision", "comment"):
        is_same &= before[name].fillna("") == before[f"{name}_before"].fillna("")
    now, then = (pd.to_numeric(before[name]).astype("Float64").fillna(0) for name in ("rating", "rating_before"))
    is_same &= now == then
    carried = _without(holding, stored)[[*ITEM_KEY, "decision"]]
    said_again = new[["_line", *ITEM_KEY, "decision"]].merge(carried, on=[*ITEM_KEY, "decision"])["_line"]
    overtaken = new.loc[new["origin"].eq(ROW) & ~new["_line"].isin(taken["_line"]), "_line"]
    lines.loc[lines.index.isin(overtaken), "outcome"] = OVERTAKEN
    lines.loc[lines.index.isin([*before.loc[is_same, "_line"], *said_again]), "outcome"] = UNCHANGED
    return Judged(
        lines.sort_values("source_line", ignore_index=True),
        taken[columns].sort_values(ITEM_KEY, kind="stable", ignore_index=True),
        int((~is_filled & rows["reference"].ne("")).sum()),
        int((taken["origin"].eq(REST) & taken["file_id"].eq(file_id)).sum()),
    )


def _said_at(
    lines: pd.DataFrame, decided_at: datetime, approved_at: datetime | None, earlier: pd.DataFrame | None
) -> pd.Series:
    """Since when each line has been said: see `judge`."""
    said_at = pd.Series(decided_at, index=lines.index, dtype="object")
    if approved_at is not None:
        said_at[lines["decision"].eq(APPROVE)] = approved_at
    if earlier is None or earlier.empty or lines.empty:
        return said_at
    # Two copies differ in what they went out with: of each its newest word.
    copy, words = [*ITEM_KEY, "before"], ["decision", "rating", "comment"]
    last = earlier.assign(before=earlier["before"].fillna("")).drop_duplicates(copy, keep="last")
    here = lines[[*copy, *words]].assign(before=lines["before"].fillna(""))
    both = here.merge(last[[*copy, *words, "decided_at"]], on=copy, how="left", suffixes=("", "_then"))
    both.index = lines.index
    is_same = both["decided_at"].notna() & lines["customer_id"].notna()
    for name in words:
        is_same &= both[name].astype("object").fillna("") == both[f"{name}_then"].astype("object").fillna("")
    said_at[is_same] = np.minimum(said_at[is_same], both.loc[is_same, "decided_at"])
    return said_at


def _named(decisions: pd.DataFrame) -> pd.DataFrame:
    """The decisions, those of nobody's name with the name of whoever said the same; `_is_named` where that changed one.

    A workbook saved as CSV has no place for a name: handing it in again must not take the name away.
    """
    name = decisions["reviewer"].where(decisions["reviewer"].ne(""))
    name = name.groupby([decisions[key] for key in (*ITEM_KEY, "decision")]).transform("last").fillna("")
    is_named = decisions["reviewer"].eq("") & name.ne("")
    return decisions.assign(reviewer=decisions["reviewer"].where(~is_named, name), _is_named=is_named)


def _without(keys: pd.DataFrame, others: pd.DataFrame) -> pd.DataFrame:
    """The items that are not among the others."""
    if keys.empty or others.empty:
        return keys
    return keys[~pd.MultiIndex.from_frame(keys[ITEM_KEY]).isin(pd.MultiIndex.from_frame(others[ITEM_KEY]))]


def _keys_agree(rows: pd.DataFrame) -> pd.Series:
    """Whether the customer and the product that a person saw beside a reference are the reference's own.

    A sheet that was sorted in part shows others. A column that is gone says nothing; both gone say nothing at all.
    """
    agree = pd.Series(True, index=rows.index)
    gone = 0
    for name in _VISIBLE_KEYS:
        if rows[name].eq("").all():
            gone += 1
        else:
            agree &= _plain(rows[name]) == _plain(rows[f"true_{name}"].fillna(""))
    return agree & (gone < len(_VISIBLE_KEYS))


def _plain(codes: pd.Series) -> pd.Series:
    """Codes as a spreadsheet may have left them: `00123`, `123` and `123.0` are one."""
    return codes.astype(str).str.strip().str.casefold().str.replace(r"^0*(\d+)(?:[.,]0+)?$", r"\1", regex=True)


def _decision(text: str) -> str:
    """The decision that a cell holds: its code, `both` for approve and reject together, `?` for what is none."""
    from crm_assets.logic.review_workbook import decision_codes

    codes = decision_codes()
    if not text:
        return ""
    if found := codes.get(normalise_header(text)):
        return found
    said = {codes.get(normalise_header(word)) for word in re.split(r"[\s/,;+&|]+", text)}
    return _BOTH if {APPROVE, REJECT} <= said else _NEITHER


def _rating(text: str) -> object:
    """The rating that a cell holds, None for an empty one, `?` for what is none."""
    if not text:
        return None
    number = re.fullmatch(r"(\d)(?:[.,]0+)?", text)
    return int(number[1]) if number and RATINGS[0] <= int(number[1]) <= RATINGS[1] else _NEITHER
