"""Permission, the fifteen rules and the circuit breaker, each at both sides of its threshold (spec.md §6).

The estate, the customer and the list are right in every respect; each case changes one thing.
"""

from __future__ import annotations

from datetime import date
from typing import Any

import numpy as np
import pandas as pd
import pytest

from crm_assets import rendering
from crm_assets import rules as rules_module
from crm_assets.logic import audit
from crm_assets.logic.findings_wording import findings_said
from crm_assets.rules import BusinessRules
from tests.logic import estate
from tests.logic.estate import ago, bought, customer, facts, item, items, no_items, product, products, sent

RULES = rules_module.load()

# What is changed of the customer, the list, the catalogue, and of what was bought or sent (customer, wine, days ago).
Change = dict[str, Any]
LIST = [item(product_key=f"p{n}", rank=n) for n in (1, 2, 3)]
# Bought and written about long ago: what a clean customer has behind them.
PAST_PURCHASES = [("c1", "w1", 400), ("c1", "w2", 300)]
PAST_MESSAGES = [("c1", "w1", 200)]


def listed(*changes: Change) -> list[Change]:
    """The clean list, its first, second and third item changed."""
    return [{**row, **change} for row, change in zip(LIST, [*changes, {}, {}, {}][:3], strict=True)]


def catalogue(**changes: Change) -> pd.DataFrame:
    """The catalogue, some products of it changed: p1={"is_active": False}."""
    return products(*[product(f"p{n}", **changes.get(f"p{n}", {})) for n in range(1, 10)])


def frames(
    who: Change | None = None,
    given: list[Change] | None = None,
    of: dict[str, Change] | None = None,
    purchases: list[tuple[str, str, int]] | None = None,
    messages: list[tuple[str, str, int]] | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """What `audit.audit` takes first: items, facts, catalogue, purchases, messages."""
    rows = LIST if given is None else given
    return (
        items(*rows) if rows else no_items(),
        facts(customer(**(who or {}))),
        catalogue(**(of or {})),
        bought(*PAST_PURCHASES, *(purchases or [])),
        sent(*PAST_MESSAGES, *(messages or [])),
    )


def found(rules: BusinessRules = RULES, **changes: Any) -> pd.DataFrame:
    return audit.findings(*frames(**changes), rules, estate.AS_OF)


def codes(rules: BusinessRules = RULES, **changes: Any) -> list[str]:
    return found(rules, **changes)["rule_code"].tolist()


def refused(rules: BusinessRules = RULES, **changes: Any) -> str | None:
    """The permission reason of the customer."""
    reason = audit.permissions(facts(customer(**changes)), estate.tenant(), rules, estate.AS_OF)["permission_reason"][0]
    return None if pd.isna(reason) else reason


def explained(rules: BusinessRules = RULES, **changes: Any) -> pd.DataFrame:
    return audit.explain(*frames(**changes), estate.tenant(), rules, estate.AS_OF)


# --- the rules


def test_the_rules_and_reasons_are_those_of_the_spec_in_its_order() -> None:
    assert [(rule.number, rule.code, rule.severity) for rule in audit.RULES] == [
        (1, "MISSING_EMAIL", "ERROR"),
        (2, "INVALID_EMAIL", "ERROR"),
        (3, "DUPLICATE_EMAIL", "ERROR"),
        (4, "OPT_OUT", "ERROR"),
        (5, "BOUNCED", "ERROR"),
        (6, "SILENCE_WINDOW", "ERROR"),
        (7, "MARKETING_FATIGUE", "ERROR"),
        (8, "RECENT_DUPLICATE", "ERROR"),
        (9, "UNAVAILABLE_PRODUCT", "ERROR"),
        (10, "UPSELL_NOT_HIGHER", "ERROR"),
        (11, "NO_RECOMMENDATION", "ERROR"),
        (12, "CROSS_SELL_NOT_NEW", "WARN"),
        (13, "LOW_DIVERSITY", "WARN"),
        (14, "SUGAR_MISMATCH", "WARN"),
        (15, "LOW_CONFIDENCE", "WARN"),
    ]
    assert [(reason.number, reason.code) for reason in audit.REASONS] == [
        (1, "NO_LEGAL_BASIS"),
        (2, "OBJECTED"),
        (3, "DO_NOT_CONTACT"),
        (4, "MINOR"),
        (5, "COUNTRY_NOT_ALLOWED"),
        (6, "INACTIVE_3Y"),
        (7, "RECENT_ORDER"),
        (8, "COLLECTIVE"),
    ]


def test_a_right_list_has_no_finding() -> None:
    assert codes() == []
    assert refused() is None


ONE_FAMILY = {"family": "Riesling"}
UPSELL, CROSS_SELL = {"scenario": "upsell"}, {"scenario": "cross_sell"}

# code; what breaks the rule; product_key, measured and threshold of the finding; the other side of the threshold
RULE_CASES: list[tuple[str, Change, tuple[str, str | None, str | None], Change]] = [
    (
        "MISSING_EMAIL",
        {"who": {"email": None, "email_status": "missing", "is_email_contact": False}},
        ("", "missing", None),
        {"who": {"email_status": "valid"}},
    ),
    (
        "MISSING_EMAIL",  # nothing known of the address
        {"who": {"email": None, "email_status": None, "is_email_contact": None}},
        ("", "missing", None),
        {},
    ),
    (
        "INVALID_EMAIL",
        {"who": {"email": None, "email_status": "invalid", "is_email_contact": False}},
        ("", "invalid", None),
        {"who": {"email_status": "valid"}},
    ),
    (
        "DUPLICATE_EMAIL",
        {"who": {"is_email_contact": False}},
        ("", "other_contact", None),
        {"who": {"is_email_contact": True}},
    ),
    ("OPT_OUT", {"who": {"is_refused": True}}, ("", "refused", None), {"who": {"is_refused": None}}),
    ("BOUNCED", {"who": {"is_bounced": True}}, ("", "bounced", None), {"who": {"is_bounced": None}}),
    (
        "SILENCE_WINDOW",
        {"who": {"last_contact_date": ago(13)}},
        ("", "13", "14"),
        {"who": {"last_contact_date": ago(14)}},
    ),
    ("SILENCE_WINDOW", {"who": {"last_contact_date": ago(-3)}}, ("", "0", "14"), {"who": {"last_contact_date": None}}),
    ("MARKETING_FATIGUE", {"who": {"contacts_90d": 4}}, ("", "4", "4"), {"who": {"contacts_90d": 3}}),
    ("MARKETING_FATIGUE", {"who": {"contacts_90d": 9}}, ("", "9", "4"), {"who": {"contacts_90d": None}}),
    (
        "RECENT_DUPLICATE",
        {"purchases": [("c1", "w2", 59)]},
        ("p2", "bought:59", "60"),
        {"purchases": [("c1", "w2", 60), ("c2", "w1", 1), ("c1", "w9", 1)]},
    ),
    (
        "RECENT_DUPLICATE",
        {"messages": [("c1", "w3", 59)]},
        ("p3", "sent:59", "60"),
        {"messages": [("c1", "w3", 60), ("c2", "w1", 1), ("c1", "w9", 1)]},
    ),
    (
        "RECENT_DUPLICATE",  # sent after the as-of day: age 0
        {"messages": [("c1", "w3", -5)]},
        ("p3", "sent:0", "60"),
        {},
    ),
    (
        "RECENT_DUPLICATE",  # by wine, not by product: another vintage of the wine bought
        {"of": {"p9": {"wine_id": "w8"}}, "given": listed({"product_key": "p9", "wine_id": "w8"}),
         "purchases": [("c1", "w8", 10)]},
        ("p9", "bought:10", "60"),
        {"given": listed({"product_key": "p9", "wine_id": "w9"}), "purchases": [("c1", "w8", 10)]},
    ),
    (
        "UNAVAILABLE_PRODUCT",
        {"given": listed({"product_key": "p99", "wine_id": "w99"})},
        ("p99", "unknown_product", None),
        {"given": listed({"product_key": "p9", "wine_id": "w9"})},
    ),
    (
        "UNAVAILABLE_PRODUCT",
        {"given": listed({"wine_id": "w9"})},
        ("p1", "another_wine", None),
        {"given": listed({"wine_id": None})},
    ),
    (
        "UNAVAILABLE_PRODUCT",
        {"of": {"p2": {"is_inferred": True}}},
        ("p2", "only_in_sales", None),
        {"of": {"p2": {"is_inferred": None}}},
    ),
    (
        "UNAVAILABLE_PRODUCT",
        {"of": {"p2": {"is_archived": True}}},
        ("p2", "archived", None),
        {"of": {"p2": {"is_archived": None}, "p4": {"is_archived": True}}},
    ),
    ("UNAVAILABLE_PRODUCT", {"of": {"p2": {"is_active": False}}}, ("p2", "inactive", None), {}),
    ("UNAVAILABLE_PRODUCT", {"of": {"p2": {"is_active": None}}}, ("p2", "inactive", None), {}),
    (
        "UNAVAILABLE_PRODUCT",
        {"of": {"p2": {"stock_status": "out"}}},
        ("p2", "out_of_stock", None),
        {"of": {"p2": {"stock_status": "unknown"}}},
    ),
    (
        "UNAVAILABLE_PRODUCT",
        {"of": {"p2": {"kind": "shipping"}}},
        ("p2", "wrong_kind:shipping", None),
        {"of": {"p2": {"kind": "gift_box"}}},
    ),
    ("UNAVAILABLE_PRODUCT", {"of": {"p2": {"kind": None}}}, ("p2", "wrong_kind:unknown", None), {}),
    ("UNAVAILABLE_PRODUCT", {"of": {"p2": {"price_75cl_ttc": None}}}, ("p2", "no_price", None), {}),
    (
        "UPSELL_NOT_HIGHER",
        {"given": listed(UPSELL), "of": {"p1": {"price_75cl_ttc": 10.0}}},
        ("p1", "10", "10"),
        {"given": listed(UPSELL), "of": {"p1": {"price_75cl_ttc": 10.01}}},
    ),
    (
        "UPSELL_NOT_HIGHER",
        {"given": listed(UPSELL), "of": {"p1": {"price_75cl_ttc": 9.5}}},
        ("p1", "9.5", "10"),
        {"of": {"p1": {"price_75cl_ttc": 9.5}}},  # no upsell
    ),
    ("NO_RECOMMENDATION", {"given": []}, ("", "0", "1"), {"given": LIST[:1]}),
    (
        "CROSS_SELL_NOT_NEW",
        {"given": listed(CROSS_SELL)},
        ("p1", "bought:400", None),
        {"given": listed({}, {}, CROSS_SELL)},
    ),
    (
        "LOW_DIVERSITY",
        {"of": {"p1": ONE_FAMILY, "p2": ONE_FAMILY, "p3": ONE_FAMILY}},
        ("", "1", "0.7"),
        {"of": {"p1": ONE_FAMILY, "p2": ONE_FAMILY}},  # 67 %
    ),
    (
        "LOW_DIVERSITY",  # 75 %
        {"given": [*LIST, item(product_key="p4", rank=4)],
         "of": {"p1": ONE_FAMILY, "p2": ONE_FAMILY, "p3": ONE_FAMILY}},
        ("", "0.75", "0.7"),
        {"given": LIST[:2], "of": {"p1": ONE_FAMILY, "p2": ONE_FAMILY}},  # two items have no diversity to lack
    ),
    (
        "SUGAR_MISMATCH",
        {"of": {"p2": {"sweetness": "doux"}}},
        ("p2", "doux", "sec"),
        {"of": {"p2": {"sweetness": None}}},
    ),
    (
        "SUGAR_MISMATCH",  # the first such item by rank, not by key
        {"of": {"p2": {"sweetness": "doux"}, "p3": {"sweetness": "brut"}},
         "given": listed({"rank": 3}, {}, {"rank": 1})},
        ("p3", "brut", "sec"),
        {"of": {"p2": {"sweetness": "doux"}}, "who": {"dominant_sweetness": None}},
    ),
    (
        "LOW_CONFIDENCE",
        {"given": listed({"confidence": 0.299})},
        ("p1", "0.299", "0.3"),
        {"given": listed({"confidence": 0.3})},
    ),
    (
        "LOW_CONFIDENCE",
        {"given": listed({"confidence": None})},
        ("p1", "unknown", "0.3"),
        {"given": listed({}, {"confidence": 0.01}, {"confidence": 0.01})},  # only the first item's counts
    ),
    ("LOW_CONFIDENCE", {"given": [item(rank=2, confidence=0.1)]}, ("p1", "0.1", "0.3"), {"given": [item(rank=2)]}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("code", "broken", "finding"), [case[:3] for case in RULE_CASES], ids=[f"{c[0]}-{c[2][1]}" for c in RULE_CASES]
)
def test_what_breaks_a_rule_is_that_finding_and_no_other(
    code: str, broken: Change, finding: tuple[str, str | None, str | None]
) -> None:
    row = found(**broken).astype("object").replace({np.nan: None})
    assert row[["rule_code", "product_key", "measured", "threshold"]].values.tolist() == [[code, *finding]]
    assert row[["rule_no", "severity"]].values.tolist() == [[audit.NUMBERS[code], audit.SEVERITIES[code]]]


@pytest.mark.parametrize(
    "fine", [case[3] for case in RULE_CASES if case[3]], ids=[f"{c[0]}-{c[2][1]}" for c in RULE_CASES if c[3]]
)
def test_the_other_side_of_the_threshold_is_no_finding(fine: Change) -> None:
    assert codes(**fine) == []


@pytest.mark.parametrize(
    ("families", "is_low"),
    [("aaaaaaabbb", False), ("aaaaaaaabbb", True)],  # exactly 70 %, 73 %
)
def test_a_family_may_have_seventy_percent(families: str, is_low: bool) -> None:
    listed = items(*[item(product_key=f"p{n}", rank=n) for n in range(1, len(families) + 1)])
    made = products(*[product(f"p{n}", family=family) for n, family in enumerate(families, start=1)])
    result = audit.findings(listed, facts(), made, bought(), sent(), RULES, estate.AS_OF)
    assert result["rule_code"].tolist() == ["LOW_DIVERSITY"] * is_low


def test_products_without_family_are_not_one_family() -> None:
    assert codes(of={f"p{n}": {"family": None} for n in (1, 2, 3)}) == []


def test_professionals_have_the_same_window_of_rule_8() -> None:
    who = {"type": "horeca", "population": "professional"}
    assert codes(who=who, purchases=[("c1", "w1", 45)]) == ["RECENT_DUPLICATE"]


def test_without_a_price_of_the_customers_an_upsell_is_not_compared() -> None:
    assert codes(who={"price_75cl_ttc": None}, given=listed(UPSELL), of={"p1": {"price_75cl_ttc": 1.0}}) == []


def test_every_offending_item_is_a_finding() -> None:
    result = found(purchases=[("c1", "w1", 5), ("c1", "w2", 6)])
    assert result[["rule_code", "product_key"]].values.tolist() == [
        ["RECENT_DUPLICATE", "p1"],
        ["RECENT_DUPLICATE", "p2"],
    ]


@pytest.mark.parametrize(
    ("setting", "value", "change", "code"),
    [
        ("silence_days", 15, {"who": {"last_contact_date": ago(14)}}, "SILENCE_WINDOW"),
        ("fatigue_contacts", 3, {"who": {"contacts_90d": 3}}, "MARKETING_FATIGUE"),
        ("duplicate_days", 61, {"purchases": [("c1", "w1", 60)]}, "RECENT_DUPLICATE"),
        ("diversity_max_share", 0.6, {"of": {"p1": ONE_FAMILY, "p2": ONE_FAMILY}}, "LOW_DIVERSITY"),
        (
            "diversity_min_items",
            2,
            {"given": LIST[:2], "of": {"p1": ONE_FAMILY, "p2": ONE_FAMILY}},
            "LOW_DIVERSITY",
        ),
        ("low_confidence", 0.5, {"given": listed({"confidence": 0.49})}, "LOW_CONFIDENCE"),
    ],
)
def test_a_threshold_is_the_tenants(setting: str, value: float, change: Change, code: str) -> None:
    assert codes(**change) == []
    assert codes(rules_module.load({"audit": {setting: value}}), **change) == [code]


# --- permission

OPT_IN = {"opt_in": True, "opt_in_date": ago(10), "opt_in_source": "salon"}
PROSPECT = {"n_qualifying_orders": 0, "last_order_date": None}
HORECA = {"type": "horeca", "population": "professional"}
WORKS_COUNCIL = {"type": "works_council", "population": "professional"}

# reason; what it takes; measured and threshold; the other side
REASON_CASES: list[tuple[str, Change, tuple[str, str | None], Change]] = [
    ("NO_LEGAL_BASIS", PROSPECT, ("none", None), {**PROSPECT, **OPT_IN}),
    (
        "NO_LEGAL_BASIS",
        {**PROSPECT, **OPT_IN, "opt_in_date": None},
        ("opt_in_without_date", None),
        {**OPT_IN, "opt_in_date": None},  # an order is a basis too
    ),
    (
        "NO_LEGAL_BASIS",
        {**PROSPECT, **OPT_IN, "opt_in_source": None},
        ("opt_in_without_source", None),
        {**OPT_IN, "opt_in_source": None},
    ),
    (
        "NO_LEGAL_BASIS",  # not known yet
        {**PROSPECT, **OPT_IN, "opt_in_date": ago(-1)},
        ("opt_in_not_yet", None),
        {**PROSPECT, **OPT_IN, "opt_in_date": ago(0)},
    ),
    ("NO_LEGAL_BASIS", {**PROSPECT, **OPT_IN, "opt_in": False}, ("none", None), {**PROSPECT, "n_qualifying_orders": 1}),
    ("NO_LEGAL_BASIS", {**PROSPECT, **WORKS_COUNCIL}, ("none", None), {**PROSPECT, **HORECA}),
    ("OBJECTED", {"is_refused": True}, ("refused", None), {"is_refused": None}),
    ("OBJECTED", {**HORECA, "is_refused": True}, ("refused", None), HORECA),
    ("DO_NOT_CONTACT", {"status": "deceased"}, ("deceased", None), {"status": "moved"}),
    ("DO_NOT_CONTACT", {"status": "do_not_contact"}, ("do_not_contact", None), {"status": None}),
    ("DO_NOT_CONTACT", {"status": "dispute"}, ("dispute", None), {"status": "active"}),
    (
        "MINOR",  # 18 tomorrow, and today
        {"birth_date": pd.Timestamp("2008-01-01")},
        ("17", "18"),
        {"birth_date": pd.Timestamp("2007-12-31")},
    ),
    ("COUNTRY_NOT_ALLOWED", {"country": "CH"}, ("CH", "FR"), {"country": None}),
    ("INACTIVE_3Y", {"last_order_date": ago(1096)}, ("1096", "1095"), {"last_order_date": ago(1095)}),
    (
        "INACTIVE_3Y",
        {"last_order_date": ago(1200), "last_engagement_date": ago(1096)},
        ("1096", "1095"),
        {"last_order_date": ago(1200), "last_engagement_date": ago(1095)},
    ),
    (
        "INACTIVE_3Y",
        {**PROSPECT, **OPT_IN, "opt_in_date": ago(1096)},
        ("1096", "1095"),
        {**PROSPECT, **OPT_IN, "opt_in_date": ago(1095)},
    ),
    ("RECENT_ORDER", {"last_order_date": ago(13)}, ("13", "14"), {"last_order_date": ago(14)}),
    ("COLLECTIVE", {"is_collective": True}, ("collective", None), {"is_collective": None}),
]


@pytest.mark.parametrize(
    ("code", "change", "seen"), [case[:3] for case in REASON_CASES], ids=[f"{c[0]}-{c[2][0]}" for c in REASON_CASES]
)
def test_a_reason_takes_away_the_permission(code: str, change: Change, seen: tuple[str, str | None]) -> None:
    assert refused(**change) == code
    rows = explained(who=change).astype("object").replace({np.nan: None})
    rows = rows[(rows["kind"] == "permission") & rows["holds"].astype(bool)]
    assert rows[["code", "measured", "threshold"]].values.tolist() == [[code, *seen]]


@pytest.mark.parametrize("change", [case[3] for case in REASON_CASES], ids=[f"{c[0]}-{c[2][0]}" for c in REASON_CASES])
def test_the_other_side_of_a_reason_is_permitted(change: Change) -> None:
    assert refused(**change) is None


def test_the_first_reason_is_given() -> None:
    assert refused(is_collective=True, last_order_date=ago(1)) == "RECENT_ORDER"
    # A wine trade is a basis only without objection.
    assert refused(**PROSPECT, **HORECA, is_refused=True) == "NO_LEGAL_BASIS"


def test_an_order_is_a_basis_only_where_the_estate_declared_it() -> None:
    undeclared = estate.tenant(existing_customer_basis=False)
    row = audit.permissions(facts(), undeclared, RULES, estate.AS_OF).iloc[0]
    assert row["permission_reason"] == "NO_LEGAL_BASIS"


@pytest.mark.parametrize(
    ("setting", "value", "change", "code"),
    [
        ("adult_age", 21, {"birth_date": ago(20 * 366)}, "MINOR"),
        ("inactive_days", 99, {}, "INACTIVE_3Y"),
        ("recent_order_days", 101, {}, "RECENT_ORDER"),
        ("professional_basis", False, {**PROSPECT, **HORECA}, "NO_LEGAL_BASIS"),
        ("wine_trade_types", ["merchant"], {**PROSPECT, **HORECA}, "NO_LEGAL_BASIS"),
    ],
)
def test_a_limit_of_permission_is_the_tenants(setting: str, value: Any, change: Change, code: str) -> None:
    assert refused(**change) is None
    assert refused(rules_module.load({"permission": {setting: value}}), **change) == code


# --- lists that the engine would never make


class TestPlantedFaults:
    """The audit trusts nobody."""

    def test_each_fault_of_one_list_is_caught_with_its_code_and_nothing_else(self) -> None:
        # A customer per case, all in one list: none may colour on another.
        parts: list[list[pd.DataFrame]] = []
        expected = []
        for n, (code, broken, _, fine) in enumerate(RULE_CASES):
            for change, codes_of in ((broken, [code]), (fine, [])):
                if "of" in change:
                    continue  # a catalogue is everybody's
                who = f"x{n}{'b' if codes_of else 'f'}"
                parts.append(
                    [f.replace({"customer_id": {"c1": who}}) if "customer_id" in f else f for f in frames(**change)]
                )
                expected += [[who, each] for each in codes_of]
        merged = [pd.concat(frame, ignore_index=True) for frame in zip(*parts, strict=True)]
        merged[2] = catalogue()
        result = audit.findings(*merged, RULES, estate.AS_OF)
        assert result[["customer_id", "rule_code"]].values.tolist() == sorted(expected)

    def test_a_product_that_is_another_wine_than_the_item_says(self) -> None:
        # The wine bought five days ago hides behind another wine's name.
        assert codes(given=listed({"wine_id": "w9"}), purchases=[("c1", "w1", 5)]) == [
            "RECENT_DUPLICATE",
            "UNAVAILABLE_PRODUCT",
        ]

    def test_an_item_without_product(self) -> None:
        assert codes(given=listed({"product_key": None, "wine_id": None})) == ["UNAVAILABLE_PRODUCT"]

    def test_the_same_wine_twice(self) -> None:
        result = found(given=listed({}, {"wine_id": "w1"}), of={"p2": {"wine_id": "w1"}})
        assert result[["rule_code", "product_key", "measured", "threshold"]].values.tolist() == [
            ["RECENT_DUPLICATE", "p1", "listed_twice:2", "1"],
            ["RECENT_DUPLICATE", "p2", "listed_twice:2", "1"],
        ]
        assert codes(given=[item(), item()]) == ["RECENT_DUPLICATE"]

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

    def test_a_list_without_confidence_is_not_judged_by_it(self) -> None:
        given = frames(given=listed({"confidence": 0.1}))
        bare = [given[0].drop(columns="confidence"), *given[1:]]
        assert audit.findings(*bare, RULES, estate.AS_OF).empty
        rows = audit.explain(*bare, estate.tenant(), RULES, estate.AS_OF).set_index("code")
        assert rows.loc["LOW_CONFIDENCE", "measured"] == "not_applicable"


def test_the_order_of_rows_decides_nothing() -> None:
    given = frames(
        given=[*listed({"confidence": 0.1}), item("c2"), item("c2", "p2", 2)],
        purchases=[("c1", "w1", 5), ("c2", "w2", 6)],
        of={"p3": {"sweetness": "doux"}},
    )
    given = (given[0], facts(customer(), customer("c2")), *given[2:])
    shuffled = [frame.sample(frac=1, random_state=3).reset_index(drop=True) for frame in given]
    pd.testing.assert_frame_equal(
        audit.findings(*given, RULES, estate.AS_OF), audit.findings(*shuffled, RULES, estate.AS_OF)
    )


# --- what is explained


def test_everything_is_explained_of_a_customer_with_nothing_wrong() -> None:
    rows = explained(given=listed({}, UPSELL, CROSS_SELL), who={**OPT_IN, "last_contact_date": ago(20)})
    assert not rows["holds"].any()
    assert list(dict.fromkeys(rows["code"])) == [*audit.PERMISSION_REASONS, *(rule.code for rule in audit.RULES)]
    seen = rows.astype("object").replace({np.nan: None})
    seen = seen[["number", "severity", "measured", "threshold", "product_key"]].set_index(seen["code"])
    assert seen.loc["NO_LEGAL_BASIS"].tolist() == [1, None, "opt_in", None, ""]
    assert seen.loc["RECENT_ORDER"].tolist() == [7, None, "100", "14", ""]
    assert seen.loc["SILENCE_WINDOW"].tolist() == [6, "ERROR", "20", "14", ""]
    assert seen.loc["RECENT_DUPLICATE"].values.tolist() == [
        [8, "ERROR", "sent:200", "60", "p1"],
        [8, "ERROR", "bought:300", "60", "p2"],
        [8, "ERROR", "never", "60", "p3"],
    ]
    assert seen.loc["UPSELL_NOT_HIGHER"].tolist() == [10, "ERROR", "15", "10", "p2"]
    assert seen.loc["CROSS_SELL_NOT_NEW"].tolist() == [12, "WARN", "never", None, "p3"]
    assert seen.loc["LOW_DIVERSITY"].tolist() == [13, "WARN", "0.333333", "0.7", ""]


def test_a_rule_without_anything_to_look_at_says_so() -> None:
    rows = explained(given=[]).set_index("code")
    about_items = [rule.code for rule in audit.RULES if rule.about == "item"]
    assert set(rows.loc[about_items, "measured"]) == {"not_applicable"}
    assert rows.loc[rows["holds"]].index.tolist() == ["NO_RECOMMENDATION"]


@pytest.mark.parametrize("change", [case[1] for case in RULE_CASES[::4]])
def test_what_is_explained_is_what_was_found(change: Change) -> None:
    rows = explained(**change)
    rows = rows[(rows["kind"] == "rule") & rows["holds"]].rename(columns={"code": "rule_code"})
    shown = ["customer_id", "rule_code", "product_key", "severity", "measured", "threshold"]
    pd.testing.assert_frame_equal(rows[shown].reset_index(drop=True), found(**change)[shown])


# --- wording


def test_details_say_facts_and_no_personal_data() -> None:
    person = {"last_contact_date": ago(3), "contacts_90d": 7, "is_refused": True, "birth_date": ago(9000)}
    text = "; ".join(found(who=person, purchases=[("c1", "w1", 5)])["details"])
    assert "last contact 3 days ago; silence lasts 14 days" in text
    assert "contacted 7 times in recent months; 4 times is too often" in text
    assert "example.com" not in text
    assert "CODE" not in text


@pytest.mark.parametrize("locale", ["fr", "en", "de"])
def test_every_finding_and_reason_is_a_sentence_of_each_language(locale: str) -> None:
    rows = [(code, *seen[1:]) for code, _, seen, _ in RULE_CASES] + [(code, *seen) for code, _, seen, _ in REASON_CASES]
    rows.append(("RECENT_DUPLICATE", "listed_twice:2", "1"))
    said = pd.DataFrame(rows, columns=["rule_code", "measured", "threshold"]).iloc[::-1]
    sentences = findings_said(said, locale)
    assert sentences.index.tolist() == said.index.tolist()
    assert set(said["rule_code"]) == {*audit.PERMISSION_REASONS, *audit.NUMBERS}
    assert set(rendering.texts(locale)["finding"]) == set(said["rule_code"])
    assert not sentences.str.contains(r"[{}_]|nan|None|  ").any()
    # What stands in a sentence in English stands in it in every language.
    numbers = sentences.str.findall(r"\d+").map(sorted)
    english = findings_said(said, "en").str.findall(r"\d+").map(sorted)
    differ = numbers.map(str) != english.map(str)
    assert said.loc[differ, "measured"].isin(["listed_twice:2"]).all()


@pytest.mark.parametrize(
    ("locale", "code", "measured", "threshold", "sentence"),
    [
        ("fr", "SILENCE_WINDOW", "1", "14", "dernier contact il y a 1 jour ; le silence dure 14 jours"),
        ("fr", "SILENCE_WINDOW", "0", "14", "dernier contact le jour même ; le silence dure 14 jours"),
        ("de", "SILENCE_WINDOW", "13", "14", "letzter Kontakt vor 13 Tagen; Ruhezeit: 14 Tage"),
        ("en", "UPSELL_NOT_HIGHER", "9.5", "10", "€9.50 per 75 cl; the customer already pays €10.00"),
        ("fr", "LOW_CONFIDENCE", "0.299", "0.3", "confiance de 29,9 %, inférieure à 30 %"),
        ("fr", "LOW_DIVERSITY", "0.75", "0.7", "75 % de la liste viennent d'une même famille ; au plus 70 %"),
        ("fr", "RECENT_DUPLICATE", "listed_twice:2", "1", "le même vin figure deux fois dans la liste"),
    ],
)
def test_values_are_written_as_the_language_writes_them(
    locale: str, code: str, measured: str, threshold: str, sentence: str
) -> None:
    row = pd.DataFrame([(code, measured, threshold)], columns=["rule_code", "measured", "threshold"])
    assert findings_said(row, locale).str.replace("\\s", " ", regex=True).tolist() == [sentence]


def test_a_cause_without_a_sentence_is_an_error() -> None:
    row = pd.DataFrame([("UNAVAILABLE_PRODUCT", "stolen", None)], columns=["rule_code", "measured", "threshold"])
    with pytest.raises(ValueError, match=r"UNAVAILABLE_PRODUCT.*stolen"):
        findings_said(row, "fr")


@pytest.mark.parametrize("locale", ["fr", "en", "de"])
def test_every_check_of_the_data_has_a_name_and_says_what_it_measures(locale: str) -> None:
    checks = rendering.texts(locale)["check"]
    assert set(checks) == set(RULES.circuit_breaker.tolerances)
    assert all(set(said) == {"name", "measures"} and all(said.values()) for said in checks.values())


# --- scores


@pytest.mark.parametrize(
    ("errors", "warnings", "score"),
    [(0, 0, 100), (0, 1, 90), (0, 2, 80), (1, 0, 60), (1, 2, 40), (2, 1, 10), (3, 0, 0)],
)
def test_the_score(errors: int, warnings: int, score: int) -> None:
    rows = [("c1", f"E{n}", f"p{n}", n, "ERROR", "") for n in range(errors)]
    rows += [("c1", f"W{n}", f"p{n}", 12 + n, "WARN", "") for n in range(warnings)]
    given = pd.DataFrame(rows, columns=["customer_id", "rule_code", "product_key", "rule_no", "severity", "details"])
    result = audit.scores(given, pd.Series(["c1", "c2"]), RULES).set_index("customer_id")
    assert result.loc["c1", ["n_errors", "n_warnings", "audit_score"]].tolist() == [errors, warnings, score]
    assert result.loc["c2", "audit_score"] == 100
    assert pd.isna(result.loc["c2", "first_rule"])


def test_the_first_error_then_the_first_warning_is_named() -> None:
    people = facts(customer("c1", is_bounced=True, is_refused=True), customer("c2"), customer("c3"))
    listed = items(*[item(c, confidence=0.1) for c in ("c1", "c2")], item("c3"))
    result = audit.findings(listed, people, products(), bought(), sent(), RULES, estate.AS_OF)
    scored = audit.scores(result, people["customer_id"], RULES).set_index("customer_id")["first_rule"]
    assert scored["c1"] == "OPT_OUT"
    assert scored["c2"] == "LOW_CONFIDENCE"
    assert pd.isna(scored["c3"])


# --- the circuit breaker


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


def test_a_ratio_that_is_its_tolerance_but_for_the_last_bit_is_at_it() -> None:
    # 4.3 rows a day were expected and 0.43 came: (4.3 - 0.43) / 4.3 / 0.9 is 0.9999999999999999.
    quality = audit.data_quality(measures(VOLUME_DROP=(4.3 - 0.43, 4.3)), RULES)
    assert audit.breaker(quality, RULES).failed_checks == ("VOLUME_DROP",)


def test_a_null_measure_is_not_trusted() -> None:
    quality = audit.data_quality(measures(STALE_SALES=(float("nan"), 31)), RULES)
    assert audit.breaker(quality, RULES).failed_checks == ("STALE_SALES",)


def test_an_estate_without_any_customer() -> None:
    nobody = facts().iloc[:0]
    result = audit.audit(no_items(), nobody, products(), bought(), sent(), estate.tenant(), RULES, date(2025, 12, 31))
    assert result.findings.empty
    assert result.scores.empty
    assert result.permissions.empty
