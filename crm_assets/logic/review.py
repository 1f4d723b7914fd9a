"""Review: what people decide on the items of a run, row by row, and which of it holds (spec.md §6).

No SQL, no Dagster, no clock here. What the decisions mean for who may be written to is `logic/gate.py`; how a
workbook looks and is read is `logic/review_workbook.py`.
"""

from __future__ import annotations

import hashlib

import pandas as pd

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
