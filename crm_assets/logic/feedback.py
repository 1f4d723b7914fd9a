"""Feedback: what the people who review recommendations think of each wine, as a number for the ranking (spec.md §6).

Ratings and decisions of `review.decisions` become one opinion per wine, held close to neutral while few have
spoken. What a rejection forbids (that wine, to that customer, for a while) is `recommendations`' business. No
SQL, no Dagster, no clock here; nothing about the customers or the reviewers comes out.
"""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from crm_assets.logic.customers import day_number, day_numbers, sorted_ids

if TYPE_CHECKING:
    from crm_assets.rules import BusinessRules

NEUTRAL = 0.5  # an opinion, or any other component of a score, about which nothing is known
RATINGS = (1, 5)
_DECIMALS = 6


def wine_opinions(decisions: pd.DataFrame, as_of: date, rules: BusinessRules) -> pd.DataFrame:
    """One row per reviewed wine, by wine_id: wine_id, opinion 0..1 (0.5 neutral), n decisions behind it.

    `decisions`: customer_id, wine_id, scenario, run_id, decision (approve, reject, later), rating 1..5 or
    null, decided_at (when, at the estate). The newest decision per (customer, wine, scenario) counts, for
    `days`: the rating where there is one, (rating - 1) / 4, else what `unrated` says of the decision.

    opinion = (sum + prior × 0.5) / (n + prior): `prior` neutral voices speak for every wine.

    A decision after `as_of` counts as of that day, as the run for a fixed day has it; who runs for an earlier
    day leaves such decisions out before.

    Raises ValueError on a decision or a rating that is none.
    """
    settings = rules.recommendations.feedback
    unrated = settings.unrated.model_dump()
    strange = set(decisions["decision"]) - set(unrated)
    if strange:
        raise ValueError(f"unknown decisions: {', '.join(sorted(map(str, strange)))}")
    rating = decisions["rating"].astype("float64")
    if not rating.dropna().between(*RATINGS).all():
        raise ValueError(f"ratings are {RATINGS[0]} to {RATINGS[1]}")
    said = (rating - RATINGS[0]) / (RATINGS[1] - RATINGS[0])
    rows = decisions.assign(
        wine_id=decisions["wine_id"].astype(str),
        said=said.fillna(decisions["decision"].map(unrated).astype("float64")),
        decided_at=pd.to_datetime(decisions["decided_at"]),
    )
    # Two decisions of one moment: whatever order the rows came in, the same one is the newest.
    rows = rows.sort_values(["decided_at", "run_id"], kind="stable")
    rows = rows.drop_duplicates(["customer_id", "wine_id", "scenario"], keep="last")
    age = np.maximum(day_number(as_of) - day_numbers(rows["decided_at"]), 0)
    rows = rows[age < settings.days]
    wines = sorted_ids(rows["wine_id"])
    # Sums of few multiples of 1/4 and of the rules' values, in an order that the values decide.
    groups = rows.sort_values("said", kind="stable").groupby("wine_id")["said"]
    total, n = groups.sum().reindex(wines), groups.size().reindex(wines)
    opinion = (total + settings.prior * NEUTRAL) / (n + settings.prior)
    return pd.DataFrame(
        {
            "wine_id": wines.to_numpy(dtype=object),
            "opinion": opinion.to_numpy(dtype="float64").round(_DECIMALS),
            "n": n.to_numpy(dtype="int64"),
        }
    )
