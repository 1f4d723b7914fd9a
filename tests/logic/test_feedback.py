"""Feedback: what reviews say of a wine, how long, and how little a single voice counts."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import pandas as pd
import pytest

from crm_assets import rules as rules_module
from crm_assets.logic.feedback import wine_opinions

AS_OF = date(2025, 12, 31)
RULES = rules_module.load()
FEEDBACK = RULES.recommendations.feedback


def decision(wine: str = "w", **given: Any) -> dict[str, Any]:
    """A row of review.decisions, as of the estate's time."""
    row: dict[str, Any] = {
        "customer_id": "c",
        "wine_id": wine,
        "scenario": "rebuy",
        "run_id": "r1",
        "decision": "approve",
        "rating": None,
        "days": 10,
    }
    row |= given
    return {**row, "decided_at": pd.Timestamp(AS_OF - timedelta(days=row.pop("days"))) + pd.Timedelta(hours=9)}


def opinions(*rows: dict[str, Any], as_of: date = AS_OF) -> dict[str, tuple[float, int]]:
    columns = ["customer_id", "wine_id", "scenario", "run_id", "decision", "rating", "decided_at"]
    found = wine_opinions(pd.DataFrame(list(rows), columns=columns), as_of, RULES)
    return {wine: (opinion, n) for wine, opinion, n in found.itertuples(index=False)}


def shrunk(said: float, n: int = 1) -> float:
    return round((said * n + FEEDBACK.prior * 0.5) / (n + FEEDBACK.prior), 6)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"rating": 5}, 1.0),
        ({"rating": 3}, 0.5),
        ({"rating": 1}, 0.0),
        ({"rating": 5, "decision": "reject"}, 1.0),
        ({"decision": "approve"}, FEEDBACK.unrated.approve),
        ({"decision": "later"}, FEEDBACK.unrated.later),
        ({"decision": "reject"}, FEEDBACK.unrated.reject),
    ],
)
def test_a_rating_says_more_than_the_decision(given: dict[str, Any], said: float) -> None:
    assert opinions(decision(**given)) == {"w": (shrunk(said), 1)}


def test_many_voices_leave_the_neutral_prior_behind() -> None:
    loved = [decision(customer_id=f"c{n}", rating=5) for n in range(45)]
    assert opinions(*loved) == {"w": (shrunk(1.0, 45), 45)}
    assert opinions(decision(rating=5))["w"][0] < 0.6 < 0.9 < shrunk(1.0, 45)


def test_the_newest_decision_counts_per_customer_wine_and_scenario() -> None:
    old, new = decision(rating=1, days=20), decision(rating=5, days=5, run_id="r2")
    assert opinions(new, old) == {"w": (shrunk(1.0), 1)}
    assert opinions(old, {**new, "scenario": "winback"}) == {"w": (shrunk(0.5, 2), 2)}


@pytest.mark.parametrize(("days", "counts"), [(FEEDBACK.days - 1, True), (FEEDBACK.days, False), (-30, True)])
def test_a_decision_counts_for_its_time_and_after_the_as_of_as_of_that_day(days: int, counts: bool) -> None:
    assert bool(opinions(decision(days=days))) is counts


def test_two_decisions_of_one_moment_and_any_row_order_give_the_same() -> None:
    rows = [
        decision(wine, customer_id=f"c{n % 4}", run_id=f"r{n}", rating=1 + n % 5)
        for n, wine in enumerate("abcabcabcabcab")
    ]
    found = opinions(*rows)
    assert list(found) == ["a", "b", "c"]
    assert opinions(*reversed(rows)) == found


def test_no_decision_is_no_opinion() -> None:
    assert opinions() == {}


@pytest.mark.parametrize("given", [{"rating": 0}, {"rating": 6}, {"decision": "perhaps"}])
def test_what_is_no_decision_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"ratings|perhaps"):
        opinions(decision(**given))
