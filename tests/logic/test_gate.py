"""Next actions, review and the gate's decision (spec.md §6)."""

from __future__ import annotations

from datetime import UTC, datetime
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
KEY = ["customer_id", "wine_id", "scenario"]
NOBODY = pd.Series(dtype="object")


def decided(*rows: tuple[str, str, str]) -> pd.DataFrame:
    """Rows of review.applied_decisions from (customer, wine, decision), of the scenario rebuy."""
    return pd.DataFrame([(c, w, "rebuy", decision) for c, w, decision in rows], columns=[*KEY, "decision"])


def actions(people: pd.DataFrame, listed: pd.DataFrame, held: pd.Series = NOBODY) -> tuple[pd.DataFrame, pd.DataFrame]:
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
    everybody = audit.everyone(people, listed)
    made = gate.next_actions(everybody, result.permissions, result.scores, listed, held, RULES)
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
        made = gate.next_actions(facts(), permitted, scores, items(), NOBODY, RULES)
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


def test_review_speaks_after_permission_and_errors_and_before_warnings() -> None:
    people = facts(customer("c1", is_bounced=True), customer("c2"), customer("c3"))
    listed = items(item("c1"), item("c2", confidence=0.1), item("c3"))
    held = pd.Series({"c1": gate.REVIEW_PENDING, "c2": gate.REVIEW_FAILED})
    rows, _ = actions(people, listed, held)
    assert rows["reason"].where(rows["reason"].notna(), "").tolist() == ["BOUNCED", "REVIEW_FAILED", ""]
    assert rows["eligible"].tolist() == [False, False, True]


def verdicts(mode: str, decisions: pd.DataFrame, sample: list[str] | None = None, **of: int) -> dict[str, str]:
    """Who is held back and why, where customer `c` has `of[c]` items, wines w1 and on."""
    proposed = items(*[item(c, f"p{n}", n) for c, count in of.items() for n in range(1, count + 1)])
    made = gate.review_verdicts(
        pd.Series(list(of)), proposed, decisions, pd.Series(sample or [], dtype="object"), mode, RULES
    )
    return {str(customer): str(reason) for customer, reason in made.items()}


@pytest.mark.parametrize(
    ("decisions", "is_free"),
    [
        ((), False),
        ((("c1", "w1", "approve"),), False),  # one of two items
        ((("c1", "w1", "approve"), ("c1", "w2", "approve")), True),
        ((("c1", "w1", "approve"), ("c1", "w2", "reject")), True),  # what is left is approved
        ((("c1", "w1", "reject"),), False),
        ((("c1", "w1", "approve"), ("c1", "w2", "later")), False),
    ],
)
def test_required_review_wants_every_item_left_approved(decisions: Any, is_free: bool) -> None:
    assert verdicts("required", decided(*decisions), c1=2) == ({} if is_free else {"c1": "REVIEW_PENDING"})


def test_a_decision_on_another_scenario_is_none() -> None:
    elsewhere = decided(("c1", "w1", "approve")).assign(scenario="upsell")
    assert verdicts("required", elsewhere, c1=1) == {"c1": "REVIEW_PENDING"}


def test_automatic_review_holds_back_only_what_was_put_off() -> None:
    said = decided(("c1", "w1", "reject"), ("c2", "w1", "later"), ("c3", "w1", "approve"))
    assert verdicts("auto", said, c1=2, c2=2, c3=2, c4=1) == {"c2": "REVIEW_PENDING"}


def test_nobody_leaves_before_the_whole_sample_is_decided() -> None:
    crowd = {f"c{n}": 1 for n in range(1, 60)}
    sample = [f"c{n}" for n in range(1, 51)]
    most = [(c, "w1", "approve") for c in sample[:-1]]
    assert set(verdicts("sample", decided(*most), sample, **crowd)) == set(crowd)
    assert verdicts("sample", decided(*most, ("c50", "w1", "approve")), sample, **crowd) == {}
    # Put off is not decided.
    assert set(verdicts("sample", decided(*most, ("c50", "w1", "later")), sample, **crowd)) == set(crowd)


@pytest.mark.parametrize(("n_rejected", "fails"), [(0, False), (2, False), (3, True)])
def test_a_sample_fails_above_a_share_of_customers_with_a_rejection(n_rejected: int, fails: bool) -> None:
    # 5 % of 50 are two and a half. Each has two items: one rejection among them counts for the customer.
    crowd = {f"c{n}": 2 for n in range(1, 60)}
    sample = [f"c{n}" for n in range(1, 51)]
    said = [(c, "w1", "reject" if n < n_rejected else "approve") for n, c in enumerate(sample)]
    said += [(c, "w2", "approve") for c in sample]
    held = verdicts("sample", decided(*said), sample, **crowd)
    # Under a failed sample whose every item is decided may go; everybody else waits for a decision on each.
    assert held == ({c: "REVIEW_FAILED" for c in crowd if c not in sample} if fails else {})


def test_a_sample_that_has_failed_is_not_pending_however_much_is_undecided() -> None:
    held = verdicts("sample", decided(("c1", "w1", "reject")), ["c1", "c2"], c1=2, c2=1, c3=1)
    assert held == dict.fromkeys(("c1", "c2", "c3"), "REVIEW_FAILED")


def test_a_sampled_customer_counts_whoever_is_still_a_candidate() -> None:
    # c1 has lost every item to rejections, and is no candidate any more: the share is of the sample as it was drawn.
    proposed = items(item("c1"), item("c2"), item("c3"))
    said = decided(("c1", "w1", "reject"), ("c2", "w1", "approve"))
    held = gate.review_verdicts(pd.Series(["c2", "c3"]), proposed, said, pd.Series(["c1", "c2"]), "sample", RULES)
    assert held.to_dict() == {"c3": "REVIEW_FAILED"}


def test_the_sample_has_its_share_of_each_scenario_and_is_the_same_again() -> None:
    # 950 customers in one scenario, 50 in another: the sample of 50 has two or three of the small one.
    ids = [f"c{n:04d}" for n in range(1000)]
    listed = items(*[item(c, scenario="winback" if n < 50 else "rebuy") for n, c in enumerate(ids)])
    sample = gate.draw_sample(pd.Series(ids), listed, RULES)
    assert len(sample) == RULES.review.sample_size == 50
    assert (sample["scenario"] == "winback").sum() in (2, 3)
    again = gate.draw_sample(pd.Series(ids[::-1]), listed.sample(frac=1, random_state=3), RULES)
    pd.testing.assert_frame_equal(sample, again)
    few = gate.draw_sample(pd.Series(ids[:7]), listed, RULES)
    assert sorted(few["customer_id"]) == ids[:7]


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
