"""Permission, the fifteen rules and the circuit breaker, each at both sides of its threshold (spec.md §6)."""

from __future__ import annotations

from datetime import date
from typing import Any

import pandas as pd
import pytest

from crm_assets import rules as rules_module
from crm_assets.logic import audit
from tests.logic import estate
from tests.logic.estate import ago, bought, customer, facts, item, items, no_items, product, products, sent

RULES = rules_module.load()


def found(
    *,
    people: pd.DataFrame | None = None,
    listed: pd.DataFrame | None = None,
    catalogue: pd.DataFrame | None = None,
    purchases: pd.DataFrame | None = None,
    messages: pd.DataFrame | None = None,
) -> pd.DataFrame:
    return audit.findings(
        items() if listed is None else listed,
        facts() if people is None else people,
        products() if catalogue is None else catalogue,
        bought() if purchases is None else purchases,
        sent() if messages is None else messages,
        RULES,
        estate.AS_OF,
    )


def codes(**given: Any) -> list[str]:
    return found(**given)["rule_code"].tolist()


def test_the_rules_are_those_of_the_spec_in_its_order() -> None:
    expected = [
        "MISSING_EMAIL",
        "INVALID_EMAIL",
        "DUPLICATE_EMAIL",
        "OPT_OUT",
        "BOUNCED",
        "SILENCE_WINDOW",
        "MARKETING_FATIGUE",
        "RECENT_DUPLICATE",
        "UNAVAILABLE_PRODUCT",
        "UPSELL_NOT_HIGHER",
        "NO_RECOMMENDATION",
        "CROSS_SELL_NOT_NEW",
        "LOW_DIVERSITY",
        "SUGAR_MISMATCH",
        "LOW_CONFIDENCE",
    ]
    assert [rule.code for rule in audit.RULES] == expected
    assert [rule.number for rule in audit.RULES] == list(range(1, 16))
    assert [rule.severity for rule in audit.RULES] == ["ERROR"] * 11 + ["WARN"] * 4


def test_a_right_list_has_no_finding() -> None:
    assert codes() == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"email": None, "email_status": "missing", "is_email_contact": False}, ["MISSING_EMAIL"]),
        ({"email": None, "email_status": None, "is_email_contact": None}, ["MISSING_EMAIL"]),
        ({"email": None, "email_status": "invalid", "is_email_contact": False}, ["INVALID_EMAIL"]),
        ({"is_email_contact": False}, ["DUPLICATE_EMAIL"]),
        ({"is_refused": True}, ["OPT_OUT"]),
        ({"is_bounced": True}, ["BOUNCED"]),
        ({"last_contact_date": ago(13)}, ["SILENCE_WINDOW"]),
        ({"last_contact_date": ago(14)}, []),
        ({"last_contact_date": ago(-3)}, ["SILENCE_WINDOW"]),  # after the as-of date: age 0
        ({"contacts_90d": 4}, ["MARKETING_FATIGUE"]),
        ({"contacts_90d": 3}, []),
        ({"contacts_90d": None}, []),
    ],
)
def test_rules_about_the_address(changes: dict[str, Any], expected: list[str]) -> None:
    assert codes(people=facts(customer(**changes))) == expected


@pytest.mark.parametrize(("days", "expected"), [(59, ["RECENT_DUPLICATE"]), (60, [])])
def test_a_wine_bought_or_sent_recently(days: int, expected: list[str]) -> None:
    assert codes(purchases=bought(("c1", "w1", days), ("c1", "w1", 400), ("c2", "w1", 1))) == expected
    assert codes(messages=sent(("c1", "w1", days), ("c1", "w1", 400), ("c2", "w1", 1))) == expected


def test_a_message_sent_after_the_as_of_date_has_age_0() -> None:
    assert codes(messages=sent(("c1", "w1", -5))) == ["RECENT_DUPLICATE"]


def test_recent_purchases_are_compared_by_wine_not_by_product() -> None:
    catalogue = products(product("p1"), product("p2", wine_id="w1"))
    listed = items(item(product_key="p2", wine_id="w1"))
    assert codes(listed=listed, catalogue=catalogue, purchases=bought(("c1", "w1", 10))) == ["RECENT_DUPLICATE"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"is_active": False}, ["UNAVAILABLE_PRODUCT"]),
        ({"is_active": None}, ["UNAVAILABLE_PRODUCT"]),
        ({"is_archived": True}, ["UNAVAILABLE_PRODUCT"]),
        ({"is_inferred": True}, ["UNAVAILABLE_PRODUCT"]),
        ({"stock_status": "out"}, ["UNAVAILABLE_PRODUCT"]),
        ({"stock_status": "unknown"}, []),
        ({"kind": "shipping"}, ["UNAVAILABLE_PRODUCT"]),
        ({"kind": "gift_box"}, []),
        ({"price_75cl_ttc": None}, ["UNAVAILABLE_PRODUCT"]),
    ],
)
def test_products_that_cannot_be_sold(changes: dict[str, Any], expected: list[str]) -> None:
    assert codes(catalogue=products(product(**changes))) == expected


@pytest.mark.parametrize(
    ("price", "scenario", "expected"),
    [
        (10.0, "upsell", ["UPSELL_NOT_HIGHER"]),
        (10.01, "upsell", []),
        (9.0, "rebuy", []),
    ],
)
def test_an_upsell_is_dearer_than_what_the_customer_pays(price: float, scenario: str, expected: list[str]) -> None:
    given = {"listed": items(item(scenario=scenario)), "catalogue": products(product(price_75cl_ttc=price))}
    assert codes(**given) == expected


def test_nothing_to_send() -> None:
    assert codes(listed=no_items()) == ["NO_RECOMMENDATION"]


@pytest.mark.parametrize(
    ("wine", "scenario", "expected"),
    [("w1", "cross_sell", ["CROSS_SELL_NOT_NEW"]), ("w2", "cross_sell", []), ("w1", "rebuy", [])],
)
def test_a_cross_sell_is_new(wine: str, scenario: str, expected: list[str]) -> None:
    assert codes(listed=items(item(scenario=scenario)), purchases=bought(("c1", wine, 900))) == expected


@pytest.mark.parametrize(
    ("families", "expected"),
    [
        ("aaa", ["LOW_DIVERSITY"]),
        ("aab", []),  # 67 %
        ("aa", []),  # two items have no diversity to lack
        ("aaaaaaabbb", []),  # exactly 70 %
        ("aaaaaaaabbb", ["LOW_DIVERSITY"]),  # 73 %
    ],
)
def test_diversity(families: str, expected: list[str]) -> None:
    catalogue = products(*[product(f"p{n}", family=family) for n, family in enumerate(families, start=1)])
    listed = items(*[item(product_key=f"p{n}", rank=n) for n in range(1, len(families) + 1)])
    assert codes(listed=listed, catalogue=catalogue) == expected


def test_products_without_family_are_not_one_family() -> None:
    catalogue = products(*[product(f"p{n}", family=None) for n in (1, 2, 3)])
    listed = items(*[item(product_key=f"p{n}", rank=n) for n in (1, 2, 3)])
    assert codes(listed=listed, catalogue=catalogue) == []


def test_only_the_first_item_of_another_sweetness_counts() -> None:
    catalogue = products(product("p1"), product("p2", sweetness="doux"), product("p3", sweetness="doux"))
    listed = items(item(product_key="p1"), item(product_key="p3", rank=3), item(product_key="p2", rank=2))
    result = found(listed=listed, catalogue=catalogue)
    assert result[["rule_code", "product_key"]].values.tolist() == [["SUGAR_MISMATCH", "p2"]]
    assert codes(people=facts(customer(dominant_sweetness=None)), listed=listed, catalogue=catalogue) == []


@pytest.mark.parametrize(
    ("confidence", "expected"), [(0.299, ["LOW_CONFIDENCE"]), (0.30, []), (None, ["LOW_CONFIDENCE"])]
)
def test_confidence_of_the_first_item(confidence: float | None, expected: list[str]) -> None:
    listed = items(item(confidence=confidence), item(product_key="p2", rank=2, confidence=0.01))
    assert codes(listed=listed) == expected


def test_every_offending_item_is_a_finding() -> None:
    listed = items(item(product_key="p1"), item(product_key="p2", rank=2))
    result = found(listed=listed, purchases=bought(("c1", "w1", 5), ("c1", "w2", 6)))
    assert result[["rule_code", "product_key"]].values.tolist() == [
        ["RECENT_DUPLICATE", "p1"],
        ["RECENT_DUPLICATE", "p2"],
    ]


class TestPlantedFaults:
    """The audit trusts nobody: lists that the engine would never make."""

    def test_a_product_that_the_catalogue_does_not_know(self) -> None:
        result = found(listed=items(item(product_key="p99", wine_id="w99")))
        assert result["rule_code"].tolist() == ["UNAVAILABLE_PRODUCT"]
        assert result["details"].tolist() == ["the product is not in the catalogue"]

    def test_a_product_that_is_another_wine_than_the_item_says(self) -> None:
        # The wine bought five days ago hides behind another wine's name.
        result = found(listed=items(item(product_key="p1", wine_id="w2")), purchases=bought(("c1", "w1", 5)))
        assert result["rule_code"].tolist() == ["RECENT_DUPLICATE", "UNAVAILABLE_PRODUCT"]

    def test_an_item_without_product(self) -> None:
        assert codes(listed=items(item() | {"product_key": None, "wine_id": None})) == ["UNAVAILABLE_PRODUCT"]

    def test_the_same_wine_twice(self) -> None:
        catalogue = products(product("p1"), product("p2", wine_id="w1"))
        listed = items(item(product_key="p1"), item(product_key="p2", wine_id="w1", rank=2))
        result = found(listed=listed, catalogue=catalogue)
        assert result["rule_code"].tolist() == ["RECENT_DUPLICATE"] * 2
        assert found(listed=items(item(), item()))["rule_code"].tolist() == ["RECENT_DUPLICATE"]

    def test_a_customer_that_nobody_knows(self) -> None:
        result = audit.audit(
            items(item(), item("stranger")),
            facts(),
            products(),
            bought(),
            sent(),
            estate.tenant(),
            RULES,
            estate.AS_OF,
        )
        stranger = result.permissions.set_index("customer_id").loc["stranger"]
        assert not stranger["permitted"]
        assert stranger["permission_reason"] == "NO_LEGAL_BASIS"
        assert result.findings.query("customer_id == 'stranger'")["rule_code"].tolist() == ["MISSING_EMAIL"]
        assert result.scores["customer_id"].tolist() == ["c1", "stranger"]

    def test_a_list_whose_ranks_start_at_two(self) -> None:
        assert codes(listed=items(item(rank=2, confidence=0.1))) == ["LOW_CONFIDENCE"]


def test_details_say_facts_and_no_personal_data() -> None:
    person = customer(last_contact_date=ago(3), contacts_90d=7, is_refused=True, birth_date=ago(9000))
    result = found(people=facts(person), purchases=bought(("c1", "w1", 5)))
    text = " ".join(result["details"])
    assert "last contact 3 days ago; silence lasts 14 days" in text
    assert "contacted 7 times in recent months; 4 times is too often" in text
    assert "example.com" not in text
    assert "CODE" not in text


@pytest.mark.parametrize(
    ("errors", "warnings", "score"),
    [(0, 0, 100), (0, 1, 90), (0, 2, 80), (1, 0, 60), (1, 2, 40), (2, 1, 10), (3, 0, 0)],
)
def test_the_score(errors: int, warnings: int, score: int) -> None:
    rows = [("c1", f"E{n}", f"p{n}", n, "ERROR", "") for n in range(errors)]
    rows += [("c1", f"W{n}", f"p{n}", 12 + n, "WARN", "") for n in range(warnings)]
    given = pd.DataFrame(rows, columns=audit.FINDING_COLUMNS[:6])
    result = audit.scores(given, pd.Series(["c1", "c2"]), RULES).set_index("customer_id")
    assert result.loc["c1", ["n_errors", "n_warnings", "audit_score"]].tolist() == [errors, warnings, score]
    assert result.loc["c2", "audit_score"] == 100
    assert pd.isna(result.loc["c2", "first_rule"])


def test_the_first_error_then_the_first_warning_is_named() -> None:
    people = facts(customer("c1", is_bounced=True, is_refused=True), customer("c2"), customer("c3"))
    listed = items(*[item(c, confidence=0.1) for c in ("c1", "c2")], item("c3"))
    result = found(people=people, listed=listed)
    scored = audit.scores(result, people["customer_id"], RULES).set_index("customer_id")["first_rule"]
    assert scored["c1"] == "OPT_OUT"
    assert scored["c2"] == "LOW_CONFIDENCE"
    assert pd.isna(scored["c3"])


OPT_IN = {"opt_in": True, "opt_in_date": ago(10), "opt_in_source": "salon"}
PROSPECT = {"n_qualifying_orders": 0, "last_order_date": None}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        (PROSPECT, "NO_LEGAL_BASIS"),
        ({**PROSPECT, **OPT_IN}, None),
        ({**PROSPECT, **OPT_IN, "opt_in_date": None}, "NO_LEGAL_BASIS"),
        ({**PROSPECT, **OPT_IN, "opt_in_source": None}, "NO_LEGAL_BASIS"),
        ({**PROSPECT, **OPT_IN, "opt_in": False}, "NO_LEGAL_BASIS"),
        ({**PROSPECT, **OPT_IN, "opt_in_date": ago(-1)}, "NO_LEGAL_BASIS"),  # not known yet
        ({**PROSPECT, "type": "horeca", "population": "professional"}, None),
        ({**PROSPECT, "type": "works_council", "population": "professional"}, "NO_LEGAL_BASIS"),
        ({"type": "horeca", "population": "professional", "is_refused": True}, "OBJECTED"),
        ({"is_refused": True}, "OBJECTED"),
        ({"status": "deceased"}, "DO_NOT_CONTACT"),
        ({"status": "do_not_contact"}, "DO_NOT_CONTACT"),
        ({"status": "dispute"}, "DO_NOT_CONTACT"),
        ({"status": "moved"}, None),
        ({"birth_date": pd.Timestamp("2008-01-01")}, "MINOR"),  # 18 tomorrow
        ({"birth_date": pd.Timestamp("2007-12-31")}, None),  # 18 today
        ({"country": "CH"}, "COUNTRY_NOT_ALLOWED"),
        ({"country": None}, None),
        ({"last_order_date": ago(1095)}, None),
        ({"last_order_date": ago(1096)}, "INACTIVE_3Y"),
        ({"last_order_date": ago(1096), "last_engagement_date": ago(1095)}, None),
        ({**PROSPECT, **OPT_IN, "opt_in_date": ago(1096)}, "INACTIVE_3Y"),
        ({"last_order_date": ago(14)}, None),
        ({"last_order_date": ago(13)}, "RECENT_ORDER"),
        ({"is_collective": True}, "COLLECTIVE"),
        ({"is_collective": True, "last_order_date": ago(1)}, "RECENT_ORDER"),  # the first reason is given
    ],
)
def test_permission(changes: dict[str, Any], reason: str | None) -> None:
    row = audit.permissions(facts(customer(**changes)), estate.tenant(), RULES, estate.AS_OF).iloc[0]
    assert row["permitted"] == (reason is None)
    assert (None if pd.isna(row["permission_reason"]) else row["permission_reason"]) == reason


def test_an_order_is_a_basis_only_where_the_estate_declared_it() -> None:
    undeclared = estate.tenant(existing_customer_basis=False)
    row = audit.permissions(facts(), undeclared, RULES, estate.AS_OF).iloc[0]
    assert row["permission_reason"] == "NO_LEGAL_BASIS"


def measures(**changes: tuple[float, float]) -> pd.DataFrame:
    rows = {code: (0.0, 100.0) for code in RULES.circuit_breaker.tolerances} | changes
    return pd.DataFrame(
        [(code, bad, total) for code, (bad, total) in rows.items()], columns=["check_code", "bad", "total"]
    )


def test_data_without_fault_scores_100() -> None:
    quality = audit.data_quality(measures(), RULES)
    assert len(quality) == 15
    assert quality["score"].eq(100).all()
    assert audit.breaker(quality, RULES) == audit.Breaker(100.0, False, ())


@pytest.mark.parametrize("code", list(RULES.circuit_breaker.tolerances))
def test_each_check_reaches_0_at_its_tolerance(code: str) -> None:
    tolerance = RULES.circuit_breaker.tolerances[code].tolerance
    is_error = RULES.circuit_breaker.tolerances[code].severity == "ERROR"

    def scored(bad: float) -> tuple[float, bool]:
        quality = audit.data_quality(measures(**{code: (bad, 1000.0)}), RULES)
        return quality.set_index("check_code")["score"][code], audit.breaker(quality, RULES).tripped

    assert scored(tolerance * 1000) == (0.0, is_error)
    assert scored(tolerance * 500) == (pytest.approx(50.0), False)
    score, tripped = scored(tolerance * 1000 - 1)
    assert score > 0
    assert not tripped


def test_the_breaker_trips_below_60_of_the_weighted_score() -> None:
    def quality(error_score: float) -> pd.DataFrame:
        frame = audit.data_quality(measures(), RULES)
        return frame.assign(score=[error_score if s == "ERROR" else 100.0 for s in frame["severity"]])

    # 8 ERROR checks of weight 4 and 7 WARN checks of weight 1: score = (32 x + 700) / 39.
    at_60 = (60 * 39 - 700) / 32
    assert not audit.breaker(quality(at_60), RULES).tripped
    assert audit.breaker(quality(at_60 - 0.01), RULES).tripped


def test_nothing_to_measure_is_no_fault_and_something_of_nothing_is() -> None:
    quality = audit.data_quality(measures(SCHEMA_DRIFT=(0, 0), QUARANTINE_RATE=(3, 0)), RULES).set_index("check_code")
    assert quality.loc["SCHEMA_DRIFT", "score"] == 100
    assert quality.loc["QUARANTINE_RATE", "score"] == 0


def test_a_check_that_was_not_measured_is_an_error() -> None:
    given = measures()
    with pytest.raises(ValueError, match="STALE_SALES"):
        audit.data_quality(given[given["check_code"] != "STALE_SALES"], RULES)


def test_a_null_measure_is_not_trusted() -> None:
    quality = audit.data_quality(measures(STALE_SALES=(float("nan"), 31)), RULES)
    assert audit.breaker(quality, RULES).failed_checks == ("STALE_SALES",)


def test_an_estate_without_any_customer() -> None:
    nobody = facts().iloc[:0]
    result = audit.audit(no_items(), nobody, products(), bought(), sent(), estate.tenant(), RULES, date(2025, 12, 31))
    assert result.findings.empty
    assert result.scores.empty
    assert result.permissions.empty
