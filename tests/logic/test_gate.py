"""Next actions, review and the gate's decision (spec.md §6)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
import pytest

from crm_assets import rules as rules_module
from crm_assets.logic import audit, gate
from tests.logic import estate
from tests.logic.estate import customer, facts, item, items

RULES = rules_module.load()
NOW = datetime(2025, 12, 31, 12, tzinfo=UTC)
GOOD = audit.Breaker(100.0, False, ())
DECISION_COLUMNS = ["customer_id", "wine_id", "scenario", "decision", "decided_at"]


def reviewed(*rows: tuple[str, str, str, int]) -> pd.DataFrame:
    """Rows of review.decisions from (customer, wine, decision, days ago)."""
    return pd.DataFrame(
        [(c, w, "rebuy", decision, NOW - timedelta(days=days)) for c, w, decision, days in rows],
        columns=DECISION_COLUMNS,
    )


def actions(
    people: pd.DataFrame, listed: pd.DataFrame, decisions: pd.DataFrame | None = None, review: str = "auto"
) -> tuple[pd.DataFrame, pd.DataFrame]:
    result = audit.audit(
        listed,
        people,
        estate.products(),
        estate.bought(),
        estate.sent(),
        estate.tenant(),
        RULES,
        estate.AS_OF,
    )
    made = gate.next_actions(
        audit.everyone(people, listed),
        result.permissions,
        result.scores,
        listed,
        reviewed() if decisions is None else decisions,
        review,
        RULES,
        NOW,
    )
    return made.set_index("customer_id"), result.scores


def test_permission_then_error_then_warning_is_the_reason() -> None:
    people = facts(
        customer("c1", country="CH", is_bounced=True),
        customer("c2", is_bounced=True),
        customer("c3"),
        customer("c4"),
    )
    listed = items(item("c1"), item("c2", confidence=0.1), item("c3", confidence=0.1), item("c4"))
    rows, _ = actions(people, listed)
    assert rows["reason"].where(rows["reason"].notna(), "").tolist() == [
        "COUNTRY_NOT_ALLOWED",
        "BOUNCED",
        "LOW_CONFIDENCE",
        "",
    ]
    assert rows["eligible"].tolist() == [False, False, True, True]
    assert rows["audit_score"].tolist() == [60, 50, 90, 100]
    assert rows["client_code"].tolist() == ["CODE-c1", "CODE-c2", "CODE-c3", "CODE-c4"]


def test_three_warnings_are_too_many_and_two_are_not() -> None:
    def scored(n_warnings: int) -> pd.Series:
        scores = pd.DataFrame(
            [("c1", 0, n_warnings, 100 - 10 * n_warnings, "CROSS_SELL_NOT_NEW")],
            columns=["customer_id", "n_errors", "n_warnings", "audit_score", "first_rule"],
        )
        permitted = pd.DataFrame({"customer_id": ["c1"], "permitted": [True], "permission_reason": [None]})
        made = gate.next_actions(facts(), permitted, scores, items(), reviewed(), "auto", RULES, NOW)
        return made.iloc[0]

    assert scored(2)["eligible"]
    assert not scored(3)["eligible"]
    assert scored(3)["reason"] == "CROSS_SELL_NOT_NEW"


def test_one_row_per_customer_with_the_first_items_scenario() -> None:
    people = facts(customer("c1"), customer("c2"))
    listed = items(item("c1", "p2", 2, scenario="upsell"), item("c1", "p1", 1, scenario="winback"))
    rows, _ = actions(people, listed)
    assert rows.index.tolist() == ["c1", "c2"]
    assert rows.loc["c1", ["scenario", "n_items"]].tolist() == ["winback", 2]
    assert rows.loc["c2", ["n_items", "eligible", "reason"]].tolist() == [0, False, "NO_RECOMMENDATION"]


@pytest.mark.parametrize(
    ("decisions", "reason"),
    [
        ((), "REVIEW_PENDING"),
        ((("c1", "w1", "approve", 1),), "REVIEW_PENDING"),  # one of two items
        ((("c1", "w1", "approve", 1), ("c1", "w2", "approve", 14)), None),
        ((("c1", "w1", "approve", 1), ("c1", "w2", "approve", 15)), "REVIEW_PENDING"),  # no longer holds
        ((("c1", "w1", "approve", 1), ("c1", "w2", "reject", 1)), "REVIEW_REJECTED"),
        ((("c1", "w1", "approve", 1), ("c1", "w2", "later", 1)), "REVIEW_PENDING"),
        (
            (("c1", "w1", "approve", 1), ("c1", "w2", "reject", 3), ("c1", "w2", "approve", 2)),
            None,
        ),  # the latest
    ],
)
def test_required_review_wants_every_item_approved(decisions: Any, reason: str | None) -> None:
    listed = items(item("c1", "p1", 1), item("c1", "p2", 2))
    rows, _ = actions(facts(), listed, reviewed(*decisions), "required")
    assert rows.loc["c1", "eligible"] == (reason is None)
    assert (None if pd.isna(rows.loc["c1", "reason"]) else rows.loc["c1", "reason"]) == reason


def test_automatic_review_holds_nothing_back() -> None:
    rows, _ = actions(facts(), items(), reviewed(("c1", "w1", "reject", 1)), "auto")
    assert rows.loc["c1", "eligible"]


@pytest.mark.parametrize(("n_rejected", "n_decided", "eligible"), [(0, 50, 950), (2, 50, 948), (3, 50, 0), (0, 49, 0)])
def test_sample_review(n_rejected: int, n_decided: int, eligible: int) -> None:
    # 950 customers in one scenario, 50 in another: the sample of 50 has at least two of the small one.
    ids = [f"c{n:04d}" for n in range(1000)]
    listed = items(*[item(c, scenario="winback" if n < 50 else "rebuy") for n, c in enumerate(ids)])
    sample = list(gate._sample(listed[["customer_id", "scenario"]], RULES.review.sample_size))
    assert len(sample) == 50
    assert sum(c < "c0050" for c in sample) in (2, 3)
    decisions = pd.DataFrame(
        [
            (c, "w1", "winback" if c < "c0050" else "rebuy", "reject" if n < n_rejected else "approve", NOW)
            for n, c in enumerate(sample[:n_decided])
        ],
        columns=DECISION_COLUMNS,
    )
    verdicts = gate.review_verdicts(listed, pd.Series(ids), decisions, "sample", RULES, NOW)
    expected = 0 if eligible == 0 else 1000 - n_rejected
    assert int(verdicts.isna().sum()) == expected


def decide(**changes: Any) -> pd.Series:
    rows, scores = actions(facts(customer("c1"), customer("c2", is_bounced=True)), items(item("c1"), item("c2")))
    given: dict[str, Any] = {
        "actions": rows.reset_index(),
        "scores": scores,
        "breaker": GOOD,
        "n_unmapped_document_types": 0,
        "is_historical": False,
        "as_of": estate.AS_OF,
        "now": NOW,
        "rules": RULES,
    }
    return gate.decide(**{**given, **changes}).iloc[0]


def test_the_gate_is_open() -> None:
    row = decide()
    assert row["status"] == "open"
    assert row["reasons"] == []
    assert row["gate_export"]
    assert row[["n_customers", "n_permitted", "n_eligible", "n_errors", "n_warnings"]].tolist() == [
        2,
        2,
        1,
        1,
        0,
    ]
    assert row["mean_audit_score"] == 80


@pytest.mark.parametrize(
    ("changes", "reasons", "gate_export"),
    [
        ({"breaker": audit.Breaker(59.9, True, ())}, ["CIRCUIT_BREAKER"], False),
        ({"is_historical": True}, ["HISTORICAL"], True),
        ({"n_unmapped_document_types": 1}, ["UNMAPPED_DOCUMENT_TYPE"], True),
        (
            {"breaker": audit.Breaker(10.0, True, ("STALE_SALES",)), "is_historical": True},
            ["HISTORICAL", "CIRCUIT_BREAKER"],
            False,
        ),
    ],
)
def test_the_gate_closes_with_every_reason(changes: dict[str, Any], reasons: list[str], gate_export: bool) -> None:
    row = decide(**changes)
    assert row["status"] == "closed"
    assert row["reasons"] == reasons
    assert row["gate_export"] == gate_export


def test_nobody_eligible_closes_the_gate() -> None:
    rows, scores = actions(facts(customer(is_bounced=True)), items())
    row = decide(actions=rows.reset_index(), scores=scores)
    assert row["reasons"] == ["NO_ELIGIBLE_CUSTOMER"]
    assert not row["gate_export"]
