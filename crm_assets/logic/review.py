"""Review: what people decide on the items of a run, row by row, and which of it holds (spec.md §6).

No SQL, no Dagster, no clock here. What the decisions mean for who may be written to is `logic/gate.py`; how a
workbook looks and is read is `logic/review_workbook.py`.
"""

from __future__ import annotations

import hashlib
from datetime import datetime

import pandas as pd

APPROVE, REJECT, LATER = "approve", "reject", "later"
ROW, REST = "row", "rest"  # said of this very item, or of the rest of its scenario
# What an item of a run is, for a person's decision on it.
ITEM_KEY = ["customer_id", "wine_id", "scenario"]
_DIGEST = 16


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
    itself hold, and those of other runs on the same (customer, wine, scenario) from `since` on.
    """
    holds = (decisions["run_id"] == run_id) | (pd.to_datetime(decisions["decided_at"], utc=True) >= since)
    strongest = precedence(decisions[holds]).drop_duplicates(ITEM_KEY, keep="last")
    columns = [*ITEM_KEY, "decision", "reviewer", "decided_at", "decided_run_id"]
    found = items[ITEM_KEY].merge(strongest.rename(columns={"run_id": "decided_run_id"}), on=ITEM_KEY)
    return found[columns].sort_values(ITEM_KEY, kind="stable", ignore_index=True)
