"""Recommendations: each rule of spec.md §5 at both sides of its threshold, and what holds for every list."""

from __future__ import annotations

import dataclasses
import json
from datetime import date, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest

from crm_assets import rules as rules_module
from crm_assets.logic import phrases, ranking, recommendations
from crm_assets.logic.customers import AROMA_AXES, day_number
from crm_assets.logic.recommendations import RecommendationInputs, _World, likeness, recommend

AS_OF = date(2025, 12, 31)
RULES = rules_module.load()
FACTS = [
    "customer_id",
    "population",
    "n_qualifying_orders",
    "last_order_date",
    "lifetime_amount_ht",
]
LIKES = [
    "customer_id",
    "top_family_1",
    "top_sweetness_1",
    "price_75cl_ttc",
    "price_segment",
    "usual_format_cl",
    "tier_mode",
]


def ago(days: int) -> pd.Timestamp:
    return pd.Timestamp(AS_OF - timedelta(days=days))


def product(key: str, **given: Any) -> dict[str, Any]:
    """A product of wine `key` up to its first dash, recommendable unless said otherwise."""
    made = {
        "product_key": key,
        "wine_id": key.split("-")[0],
        "kind": "wine",
        "label": f"Cuvée {key.split('-')[0]}",
        "vintage": 2023,
        "format_cl": 75.0,
        "family": f"family of {key}",
        "grape": "Riesling",
        "sweetness": "sec",
        "price_ttc": 12.0,
        "price_75cl_ttc": 12.0,
        "price_segment": "entry",
        "premium_tier": 0,
        "margin": 4.0,
        "season_tags": [],
        "stock_status": "in",
        "available": None,
        "is_recommendable": True,
        "is_inferred": False,
        "allocation": None,
        "awards": None,
        **{axis: 3.0 for axis in AROMA_AXES},
    }
    return {**made, **given}


class Estate:
    """A small estate: customers and their orders are added one by one, frames come out."""

    def __init__(self, *products: dict[str, Any]) -> None:
        self.products = list(products)
        self.customers: list[dict[str, Any]] = []
        self.purchases: list[dict[str, Any]] = []
        self.likes: list[dict[str, Any]] = []
        self.sent: list[dict[str, Any]] = []
        self.rejected: list[dict[str, Any]] = []
        self.allocations: list[dict[str, Any]] = []

    def customer(
        self,
        name: str,
        *orders: tuple[int, str],
        amount: float = 100.0,
        population: str = "private",
        **likes: Any,
    ) -> Estate:
        """A customer and its orders (days ago, wines parted by blanks), each wine at `amount` € HT."""
        for days, wines in orders:
            for wine in wines.split():
                self.purchases.append(
                    {
                        "customer_id": name,
                        "wine_id": wine,
                        "order_id": f"{name}|{days}",
                        "sale_date": ago(days),
                        "amount_ht": amount,
                    }
                )
        self.customers.append(
            {
                "customer_id": name,
                "population": population,
                "n_qualifying_orders": len(orders),
                "last_order_date": ago(min(days for days, _ in orders)) if orders else None,
                "lifetime_amount_ht": sum(amount * len(wines.split()) for _, wines in orders),
            }
        )
        self.likes.append({"customer_id": name, **likes})
        return self

    def inputs(self) -> RecommendationInputs:
        ids = [row["customer_id"] for row in self.customers]
        taste = pd.DataFrame({"customer_id": ids, **{axis: 0.6 for axis in AROMA_AXES}, "confidence": 0.5})
        wines = sorted({p["wine_id"] for p in self.products})
        popularity = pd.DataFrame(
            [
                {"population": population, "wine_id": wine, "share": 1.0 / (1 + place)}
                for population in ("private", "professional")
                for place, wine in enumerate(wines)
            ]
        )
        customers = pd.DataFrame(self.customers, columns=FACTS)
        return RecommendationInputs(
            purchases=pd.DataFrame(
                self.purchases, columns=["customer_id", "wine_id", "order_id", "sale_date", "amount_ht"]
            ),
            customers=customers.assign(last_order_date=pd.to_datetime(customers["last_order_date"])),
            preferences=pd.DataFrame(self.likes).reindex(columns=LIKES),
            taste=taste,
            products=pd.DataFrame(self.products),
            popularity=popularity,
            sent_wines=pd.DataFrame(self.sent, columns=["customer_id", "wine_id", "sent_date"]),
            rejections=pd.DataFrame(self.rejected, columns=["customer_id", "wine_id", "rejected_date"]),
            allocations=pd.DataFrame(self.allocations, columns=["product_key", "customer_id"]),
        )

    def items(self, rules: Any = RULES, locale: str = "fr") -> pd.DataFrame:
        return recommend(self.inputs(), rules, AS_OF, locale).items

    def list_of(self, customer: str) -> dict[str, str]:
        """wine_id -> scenario of one customer, in rank order."""
        items = self.items()
        rows = items[items["customer_id"] == customer]
        return dict(zip(rows["wine_id"], rows["scenario"], strict=True))


def estate(*more: dict[str, Any]) -> Estate:
    return Estate(*(product(f"w{n}") for n in range(6)), *more)


# States


@pytest.mark.parametrize(
    ("n_orders", "silence", "lifetime", "state"),
    [
        (0, 10**6, 0.0, "no_order"),
        (3, 366, 100.0, "lapsed"),
        (3, 365, 100.0, "regular"),
        (3, 366, 99.99, "regular"),
        (1, 366, 100.0, "lapsed"),
        (1, 366, 99.99, "one_order"),
        (1, 10, 500.0, "one_order"),
        (2, 10, 500.0, "regular"),
    ],
)
def test_the_first_state_that_matches(n_orders: int, silence: int, lifetime: float, state: str) -> None:
    found = recommendations.states(np.array([n_orders]), np.array([silence]), np.array([lifetime]), RULES)
    assert recommendations.STATES[found[0]] == state


def test_a_prospect_is_nurtured_with_popular_wines_at_entry_price() -> None:
    dear = product("a0", price_segment="premium", price_ttc=60.0, price_75cl_ttc=60.0)  # the most popular
    found = estate(dear).customer("new").list_of("new")
    assert found == {"w0": "nurture", "w1": "nurture", "w2": "nurture"}


def test_a_prospect_gets_something_where_nothing_is_at_entry_price() -> None:
    dear = product("a0", price_segment="premium")
    assert Estate(dear).customer("new").list_of("new") == {"a0": "nurture"}


def test_one_order_brings_the_due_favourite_first_and_one_rebuy_only() -> None:
    made = estate()
    # Others give w0 and w1 a rhythm of 90 days.
    for n in range(3):
        made.customer(f"other{n}", (200, "w0 w1"), (110, "w0 w1"), (20, "w0 w1"))
    found = made.customer("one", (100, "w0 w1")).list_of("one")
    assert list(found.values()) == ["rebuy", "nurture", "nurture"]
    assert next(iter(found)) in {"w0", "w1"}
    assert not {"w0", "w1"} & set(list(found)[1:])


def test_winback_puts_past_favourites_before_popular_wines() -> None:
    found = estate().customer("gone", (800, "w4"), (400, "w4 w5")).list_of("gone")
    assert list(found)[:2] == ["w4", "w5"], "what was ordered more often and for more comes first"
    assert set(found.values()) == {"winback"}
    assert len(found) == 3


def test_a_regular_customer_gets_a_mix() -> None:
    made = estate(product("u", family="family of w0", price_segment="standard", price_ttc=20.0, price_75cl_ttc=20.0))
    made.customer("other", (90, "w0 w1 w2"), (30, "w0 w1 w3"))
    likes = {"top_family_1": "family of w0", "price_75cl_ttc": 12.0, "price_segment": "entry", "tier_mode": 0}
    found = made.customer("reg", (270, "w0"), (180, "w0"), (90, "w0"), **likes).list_of("reg")
    assert sorted(found.values()) == ["cross_sell", "rebuy", "upsell"]
    assert found["w0"] == "rebuy"
    assert found["u"] == "upsell"


# Exclusions, both sides


def offered(made: Estate, customer: str, wine: str) -> bool:
    """Whether the wine is a candidate at all: all wines but it are made unavailable."""
    for row in made.products:
        if row["wine_id"] != wine:
            row["is_recommendable"] = False
    return wine in made.list_of(customer)


@pytest.mark.parametrize(
    ("population", "days", "free"),
    [
        ("private", 59, False),
        ("private", 60, True),
        ("professional", 29, False),
        ("professional", 30, True),
        ("other", 59, False),
    ],
)
def test_a_wine_in_a_sent_message_waits(population: str, days: int, free: bool) -> None:
    made = estate().customer("c", population=population)
    made.sent = [{"customer_id": "c", "wine_id": "w0", "sent_date": ago(days)}]
    assert offered(made, "c", "w0") is free


def test_a_message_after_the_as_of_date_counts_as_sent_today() -> None:
    made = estate().customer("c")
    made.sent = [{"customer_id": "c", "wine_id": "w0", "sent_date": ago(-40)}]
    assert not offered(made, "c", "w0")


@pytest.mark.parametrize(("days", "free"), [(179, False), (180, True)])
def test_a_rejected_wine_waits(days: int, free: bool) -> None:
    made = estate().customer("c")
    made.rejected = [{"customer_id": "c", "wine_id": "w0", "rejected_date": ago(days)}]
    assert offered(made, "c", "w0") is free


@pytest.mark.parametrize(("days", "free"), [(59, False), (60, True), (2000, True), (2001, False)])
def test_rebuy_waits_sixty_days_and_ends_after_two_thousand(days: int, free: bool) -> None:
    # A lifetime below the winback's keeps the customer regular however long ago it was.
    made = estate().customer("c", (days + 10, "w0"), (days, "w0"), amount=5.0)
    assert offered(made, "c", "w0") is free


@pytest.mark.parametrize(("interval", "due"), [(100, True), (101, False)])
def test_rebuy_is_near_its_rhythm_from_eight_tenths_of_it(interval: int, due: bool) -> None:
    made = estate().customer("c", (80 + interval, "w0"), (80, "w0"))
    assert offered(made, "c", "w0") is due


def test_without_any_rhythm_in_the_estate_there_is_no_rebuy() -> None:
    made = estate().customer("c", (300, "w0"), (200, "w1"))
    assert not offered(made, "c", "w0")


@pytest.mark.parametrize(
    ("own", "wine", "family", "source"),
    [([90], [50], [20], "own"), ([], [50], [20], "wine"), ([], [], [20], "family"), ([], [], [], None)],
)
def test_the_rhythm_is_the_wines_own_else_the_wines_else_the_familys(
    own: list[int], wine: list[int], family: list[int], source: str | None
) -> None:
    made = Estate(product("w", family="F"), product("x", family="F"), product("z"))
    made.customer("c", (400, "z"), *((300 + n, "w") for n in own), (300, "w"))
    for n in wine:
        made.customer("d", (n + 10, "w"), (10, "w"))
    for n in family:
        made.customer("e", (n + 10, "x"), (10, "x"))
    items = made.items()
    rows = items[(items["customer_id"] == "c") & (items["wine_id"] == "w")]
    assert len(rows) == (source is not None)
    if source:
        reasons = json.loads(rows["reasons"].iloc[0])
        assert reasons["interval_of"] == source
        assert reasons["interval_days"] == {"own": 90, "wine": 50, "family": 20}[source]


@pytest.mark.parametrize(
    ("given", "free"),
    [
        ({"stock_status": "out"}, False),
        ({"stock_status": "unknown"}, True),
        ({"is_recommendable": False}, False),
        ({"available": 0.0}, False),
        ({"allocation": "oui"}, False),
    ],
)
def test_only_available_wine_is_recommended(given: dict[str, Any], free: bool) -> None:
    assert ("v" in Estate(product("v", **given)).customer("c").list_of("c")) is free


def test_an_allocated_wine_is_for_the_listed_only() -> None:
    made = Estate(product("v", allocation="oui")).customer("c").customer("d")
    made.allocations = [{"product_key": "v", "customer_id": "d"}]
    assert made.items()["customer_id"].tolist() == ["d"]


def test_a_product_that_the_tenant_lists_is_allocated_whatever_the_catalogue_says() -> None:
    made = Estate(product("v")).customer("c").customer("d")
    made.allocations = [{"product_key": "v", "customer_id": "d"}, {"product_key": "v", "customer_id": ""}]
    assert made.items()["customer_id"].tolist() == ["d"]


# Upsell


@pytest.mark.parametrize(
    ("given", "is_upsell"),
    [
        ({"price_75cl_ttc": 12.01, "premium_tier": 1}, True),
        ({"price_75cl_ttc": 12.00, "premium_tier": 1}, False),
        ({"price_75cl_ttc": 30.00, "premium_tier": 1}, True),
        ({"price_75cl_ttc": 30.01, "premium_tier": 1}, False),
        ({"price_75cl_ttc": 14.00, "premium_tier": 0}, False),
        ({"price_75cl_ttc": 16.00, "premium_tier": 0, "price_segment": "standard"}, True),
        ({"price_75cl_ttc": 20.00, "premium_tier": 1, "family": "another"}, False),
    ],
)
def test_upsell_is_dearer_within_limits_and_in_the_preferred_family(given: dict[str, Any], is_upsell: bool) -> None:
    made = Estate(product("w", family="F"), product("up", **{"family": "F", **given}))
    likes = {"top_family_1": "F", "price_75cl_ttc": 12.0, "price_segment": "entry", "tier_mode": 0}
    found = made.customer("c", (40, "w"), (10, "w"), **likes).list_of("c")
    assert (found.get("up") == "upsell") is is_upsell


def test_no_upsell_without_a_known_price_of_the_customer() -> None:
    made = Estate(product("w", family="F"), product("up", family="F", premium_tier=3, price_75cl_ttc=20.0))
    found = made.customer("c", (40, "w"), (10, "w"), top_family_1="F").list_of("c")
    assert found == {"up": "cross_sell"}


# Which product


@pytest.mark.parametrize(("usual", "key"), [(75.0, "w-23"), (150.0, "w-22m"), (300.0, "w-23"), (None, "w-23")])
def test_the_newest_available_vintage_in_the_usual_format(usual: float | None, key: str) -> None:
    made = Estate(
        product("w-22", vintage=2022),
        product("w-23", vintage=2023),
        product("w-24", vintage=2024, stock_status="out"),
        product("w-21m", vintage=2021, format_cl=150.0),
        product("w-22m", vintage=2022, format_cl=150.0),
    )
    items = made.customer("c", usual_format_cl=usual).items()
    assert items[["wine_id", "product_key"]].to_numpy().tolist() == [["w", key]]


# Diversity, stock, limits


def test_two_of_a_family_at_most() -> None:
    made = Estate(*(product(f"a{n}", family="F") for n in range(5)), product("z", family="G"))
    assert list(made.customer("c").list_of("c")) == ["a0", "a1", "z"]


def test_one_family_alone_makes_a_list_of_two() -> None:
    made = Estate(*(product(f"a{n}", family="F") for n in range(5)))
    assert list(made.customer("c").list_of("c")) == ["a0", "a1"]


@pytest.mark.parametrize(("available", "messages"), [(0.29, 0), (0.3, 1), (0.9, 3), (2.99, 9), (3.0, 10)])
def test_stock_allows_available_over_bottles_times_response(available: float, messages: int) -> None:
    assert recommendations.stock_capacity(np.array([available]), RULES).tolist() == [messages]


def test_unknown_stock_has_no_limit() -> None:
    assert recommendations.stock_capacity(np.array([np.nan]), RULES).tolist() == [np.inf]


def test_scarce_wine_goes_to_the_best_scores_and_others_get_the_next() -> None:
    made = Estate(product("a", available=0.6), product("b", family="F", grape="G"))
    for name in ("c1", "c2", "c3", "c4"):
        made.customer(name)
    items = made.items()
    named = items[items["wine_id"] == "a"]
    assert named["customer_id"].tolist() == ["c1", "c2"], "equal scores: the first customers"
    assert set(items["customer_id"]) == {"c1", "c2", "c3", "c4"}
    assert items[items["wine_id"] == "b"]["rank"].tolist() == [2, 2, 1, 1]


def test_who_lost_every_candidate_to_stock_gets_what_is_left() -> None:
    # More scarce wines than candidates kept per list, and one plentiful wine that ranks last.
    scarce = [product(f"a{n:02d}", available=0.3) for n in range(RULES.recommendations.candidates_per_list + 2)]
    made = Estate(*scarce, product("z", season_tags=["ete"]))
    for n in range(20):
        made.customer(f"c{n:02d}")
    items = made.items()
    assert items["customer_id"].nunique() == 20
    assert items[items["wine_id"] != "z"]["wine_id"].is_unique


# Components


def test_rhythm_rises_to_its_day_stays_and_fades() -> None:
    found = recommendations.rhythm_component(np.array([0.5, 1.0, 2.0, 4.0, np.nan]), RULES)
    assert found.tolist() == [0.5, 1.0, 1.0, 0.5, 0.5]


def test_season_is_in_out_or_neutral() -> None:
    tags = pd.Series([["noel"], ["ete"], [], ["ete", "hiver"], ["unknown"], None], dtype=object)
    day = int(np.datetime64(AS_OF, "D").astype(int))
    assert recommendations.season_component(tags, day, RULES).tolist() == [1.0, 0.0, 0.5, 1.0, 0.5, 0.5]


def test_margin_is_the_rank_of_the_rate() -> None:
    offers = pd.DataFrame({"margin": [1.0, 4.0, None, 3.0], "price_ttc": [10.0, 10.0, 10.0, 10.0]})
    assert recommendations.margin_component(offers).tolist() == [0.0, 1.0, 0.5, 0.5]


def test_the_score_is_the_weighted_sum_times_the_multiplier() -> None:
    items = big().items
    for scenario in recommendations.SCENARIOS:
        rows = items[items["scenario"] == scenario]
        assert len(rows), f"the estate shows every scenario, {scenario} too"
        weights = getattr(RULES.recommendations.weights, scenario)
        total = sum(getattr(weights, name) * rows[name] for name in recommendations.COMPONENTS)
        expected = (100 * total * getattr(RULES.recommendations.multipliers, scenario)).clip(0, 100)
        assert np.allclose(rows["score"], expected, atol=0.0051)


def test_weights_of_every_scenario_sum_to_one() -> None:
    for scenario in recommendations.SCENARIOS:
        weights = getattr(RULES.recommendations.weights, scenario).model_dump()
        assert sum(weights.values()) == pytest.approx(1.0)


def test_confidence_is_relative_to_the_95th_percentile_of_its_list() -> None:
    probability = np.array([0.0, 0.1, 0.2, 0.5])
    found = recommendations.confidence(probability, np.array([True, True, True, False]), RULES)
    top = np.percentile([0.0, 0.1, 0.2], 95)
    assert found.tolist() == [0.0, round(0.1 / top, 4), 1.0, 1.0]
    assert recommendations.confidence(np.zeros(2), np.array([True, False]), RULES).tolist() == [0.0, 0.0]


# What is said of an item


def facts_of(made: Estate, wine: str, customer: str = "c", rules: Any = RULES) -> tuple[dict[str, Any], str]:
    """`reasons` and `explain_short` of one item."""
    row = made.items(rules).set_index(["customer_id", "wine_id"]).loc[(customer, wine)]
    return json.loads(row["reasons"]), str(row["explain_short"])


def test_staff_read_the_rhythm_of_the_customer_and_how_late_it_is() -> None:
    reasons, text = facts_of(estate().customer("c", (270, "w0"), (180, "w0"), (90, "w0")), "w0")
    assert text == "commandé 3 fois, tous les 90 jours environ ; dernière commande le 2 octobre"
    assert (reasons["orders_of_wine"], reasons["interval_of"], reasons["days_late"]) == (3, "own", None)
    reasons, text = facts_of(estate().customer("c", (330, "w0"), (240, "w0"), (150, "w0")), "w0")
    assert text.endswith("dernière commande le 3 août (60 jours de retard)")
    assert reasons["days_late"] == 60


def test_the_rhythm_of_others_is_said_to_be_theirs() -> None:
    made = estate().customer("other", (300, "w0"), (200, "w0"), (100, "w0")).customer("c", (600, "w1"), (150, "w0"))
    assert facts_of(made, "w0")[1] == "commandé une fois, le 3 août ; d'autres le rachètent tous les 100 jours environ"


def test_a_vintage_that_was_still_on_the_vine_at_the_last_order_is_new() -> None:
    # w0 is offered as 2023: its grapes were picked between these two orders.
    for days, is_new in ((853, True), (852, False)):
        reasons, text = facts_of(Estate(product("w0")).customer("c", (900, "w0"), (days, "w0")), "w0")
        assert (ago(days) < pd.Timestamp(2023, 9, 1)) is is_new
        assert ("nouveau millésime 2023" in text) is is_new
        assert reasons["new_vintage"] == (2023 if is_new else None)


def test_wines_bought_together_are_counted_and_a_few_times_are_no_reason() -> None:
    least = RULES.recommendations.explanations.orders_together
    for n in (least, least - 1):
        made = Estate(product("w", label="Muscat 2023"), product("x"))
        for place in range(n):
            made.customer(f"o{place}", (50, "w x"))
        reasons, text = facts_of(made.customer("c", (40, "w"), (10, "w")), "x")
        assert reasons["orders_together"] == (n if n == least else 0)
        said = f"d'autres clients l'achètent avec Muscat ({n} commandes)"
        assert (text == f"jamais commandé ; {said}") is (n == least)


def test_without_a_co_purchase_the_grape_or_family_is_the_reason() -> None:
    made = Estate(product("w", family="B"), product("x", grape="Muscat", family="B"), product("y", family="Z"))
    made.customer("c", (40, "w"), (10, "w"))
    assert facts_of(made, "y")[1] == "jamais commandé ; cépage Riesling, 100\u00a0% de ses achats"
    assert facts_of(made, "x")[1] == "jamais commandé ; famille B, 100\u00a0% de ses achats"


def test_an_upsell_tells_the_step_in_price() -> None:
    made = Estate(product("w", family="F"), product("x", family="F", price_75cl_ttc=18.0, premium_tier=1))
    made.customer("c", (40, "w"), (10, "w"), top_family_1="F", price_75cl_ttc=12.5, price_segment="entry", tier_mode=0)
    reasons, text = facts_of(made, "x")
    assert text == "montée en gamme dans sa famille préférée (F) : 12,50\u00a0€ → 18\u00a0€ les 75 cl"
    assert (reasons["price_from"], reasons["price_to"]) == (12.5, 18)


def test_season_and_what_little_is_left_follow_the_reason() -> None:
    made = Estate(product("w", season_tags=["hiver", "noel"], available=12.0)).customer("c")
    reasons, text = facts_of(made, "w")
    assert text == "pas encore de commande ; proche de ses goûts, à prix d'accès ; de saison (Noël) ; il en reste 12"
    assert reasons["in_season"] == "noel"


@pytest.mark.parametrize(("taste", "is_close"), [(0.6, True), (0.2, False), (np.nan, False)])
def test_a_taste_is_called_close_when_it_is(taste: float, is_close: bool) -> None:
    made = Estate(product("w"), product("x", family="Z", grape=None)).customer("c", (400, "w"), amount=10.0)
    inputs = made.inputs()
    tasted = inputs.taste.assign(**dict.fromkeys(AROMA_AXES, taste))
    items = recommend(dataclasses.replace(inputs, taste=tasted), RULES, AS_OF, "fr").items
    text = items.set_index("wine_id").loc["x", "explain_short"]
    assert ("proche de ses goûts" in text) is is_close


def test_among_the_most_bought_needs_twice_as_many_wines_sold() -> None:
    popularity = np.array([[0.5, 0.4, 0.4, 0.2, 0.1, 0.0], [0.0, 0.3, 0.2, 0.1, 0.0, 0.0]])
    found = recommendations._tops(popularity, [2, 3])
    assert found.tolist() == [[2, 0, 0, 0, 0, 0], [0] * 6]
    more = np.array([[0.9, 0.8, 0.7, 0.6, 0.5, 0.4]])
    assert recommendations._tops(more, [2, 3]).tolist() == [[2, 2, 3, 0, 0, 0]]


def test_one_list_has_each_opening_once_and_follows_the_language() -> None:
    made = estate().customer("p")
    for locale in phrases.LANGUAGES:
        texts = made.items(locale=locale)["customer_sentence"]
        openings = texts.str.split("[«“„]", regex=True).str[0]
        assert len(texts) == 3
        assert openings.nunique() == 3
    assert texts.str.contains("Jahrgang 2023").all()


# What holds for every list, on an estate of some size


def big_inputs(n: int = 700, seed: int = 11) -> RecommendationInputs:
    chance = np.random.default_rng(seed)
    made = Estate()
    for w in range(40):
        price = float(np.round(chance.uniform(7, 40), 2))
        segment = "entry" if price < 15 else "standard" if price < 30 else "premium"
        for vintage in (2021, 2023):
            made.products.append(
                product(
                    f"w{w:02d}-{vintage}",
                    vintage=vintage,
                    family=f"F{w % 6}",
                    grape=f"G{w % 7}",
                    price_ttc=price,
                    price_75cl_ttc=price,
                    price_segment=segment,
                    premium_tier=w % 4,
                    margin=price * 0.3,
                    season_tags=["hiver"] if w % 5 == 0 else [],
                    available=float(chance.integers(5, 60)),
                    **{axis: float(chance.integers(1, 6)) for axis in AROMA_AXES},
                )
            )
    for c in range(n):
        n_orders = 0 if c % 10 == 0 else int(chance.geometric(0.25))
        days = sorted({int(d) for d in chance.integers(0, 900, n_orders)}, reverse=True)
        favourites = chance.integers(0, 40, 4)
        orders = [
            (
                d,
                " ".join(sorted({f"w{w:02d}" for w in chance.choice(favourites, int(chance.integers(1, 4)))})),
            )
            for d in days
        ]
        likes = {"top_family_1": f"F{favourites[0] % 6}", "price_75cl_ttc": 12.0, "price_segment": "entry"}
        made.customer(
            f"c{c:04d}",
            *orders,
            population="professional" if c % 9 == 0 else "private",
            tier_mode=0,
            usual_format_cl=75.0,
            **likes,
        )
    return made.inputs()


_BIG: dict[str, recommendations.RecommendationResult] = {}


def big() -> recommendations.RecommendationResult:
    if not _BIG:
        _BIG["result"] = recommend(big_inputs(), RULES, AS_OF, "fr")
    return _BIG["result"]


def test_lists_are_short_ranked_unique_and_within_scale() -> None:
    items = big().items
    lists = items.groupby("customer_id")["rank"]
    assert lists.count().max() <= RULES.recommendations.max_per_customer
    assert (lists.max() == lists.count()).all()
    assert (lists.min() == 1).all()
    assert not items.duplicated(["customer_id", "wine_id"]).any()
    assert items["score"].between(0, 100).all()
    assert items[["probability", "confidence", *recommendations.COMPONENTS]].stack().between(0, 1).all()
    assert set(items["scenario"]) == set(recommendations.SCENARIOS)
    families = items["product_key"].map(big_inputs().products.set_index("product_key")["family"])
    assert items.groupby(["customer_id", families]).size().max() <= 2


def test_stock_limits_hold_over_all_customers() -> None:
    named = big().items["product_key"].value_counts()
    available = big_inputs().products.set_index("product_key")["available"]
    assert (named <= np.floor(available.reindex(named.index) / 0.3 + 1e-9)).all()
    assert big().engine["displaced_by_stock"] > 0


def test_text_has_no_holes_and_fits() -> None:
    items = big().items
    openings = items["customer_sentence"].str.split("[«“„]", regex=True).str[0]
    assert not pd.DataFrame({"customer": items["customer_id"], "opening": openings}).duplicated().any()
    for column in ("explain_short", "customer_sentence"):
        assert items[column].str.len().min() > 0
        assert not items[column].str.contains(r"None|nan|NaT|[{}]|  ").any()
    assert items["explain_short"].str.len().max() <= phrases.EXPLAIN_MAX


def test_reasons_are_json_of_the_facts_that_have_no_column() -> None:
    for row in big().items.head(300).to_dict("records"):
        reasons = json.loads(row["reasons"])
        assert not set(reasons) & set(row)
        assert reasons["state"] in recommendations.STATES
        assert (reasons["days_since_bought"] is None) == (reasons["list"] == "explore")
        assert (reasons["orders_of_wine"] > 0) == (reasons["list"] == "repeat")
        assert (reasons["price_to"] is None) == (row["scenario"] != "upsell")


def test_same_inputs_in_any_row_order_make_the_same_bytes() -> None:
    inputs = big_inputs()
    shuffled = RecommendationInputs(
        **{
            field.name: getattr(inputs, field.name).sample(frac=1, random_state=place)
            for place, field in enumerate(dataclasses.fields(inputs))
        }
    )
    again = recommend(shuffled, RULES, AS_OF, "fr")
    assert again.items.to_csv() == big().items.to_csv()
    assert json.dumps(again.engine, sort_keys=True) == json.dumps(big().engine, sort_keys=True)


def test_probabilities_are_calibrated_on_the_past_or_say_why_not() -> None:
    calibration = big().engine["calibration"]
    assert calibration["repeat"]["method"] == "isotonic"
    assert calibration["repeat"]["mean_predicted"] == pytest.approx(calibration["repeat"]["mean_observed"], abs=0.05)
    young = estate().customer("a", (50, "w0"), (10, "w1")).inputs()
    result = recommend(young, RULES, AS_OF, "fr")
    assert result.engine["calibration"]["explore"]["method"] == "base_rate"
    assert result.engine["calibration"]["explore"]["reason"] == "history too short"
    assert set(result.items["probability"]) == {0.0}


def test_nobody_and_nothing_are_no_error() -> None:
    nobody = recommend(estate().inputs(), RULES, AS_OF, "fr")
    assert nobody.items.empty
    no_wine = recommend(
        Estate(product("w", is_recommendable=False)).customer("c", (90, "w"), (10, "w")).inputs(),
        RULES,
        AS_OF,
        "fr",
    )
    assert no_wine.items.empty
    assert list(no_wine.items.columns) == list(big().items.columns)


def test_a_young_estate_is_measured_at_the_cut_that_its_history_allows() -> None:
    young = estate()
    for number in range(150):
        young.customer(f"c{number:03d}", (40 - number % 20, f"w{number % 6}"), (1 + number % 9, f"w{number % 6}"))
    made = recommend(young.inputs(), RULES, AS_OF, "fr")
    lists = made.backtests[made.backtests["engine"] != "policy"]
    window = made.engine["ranking"]["window_days"]
    assert window == 10  # a quarter of the history
    assert set(lists["cut"]) == {AS_OF + timedelta(days=1 - window)}
    assert set(lists["window_days"]) == {window}
    assert lists[(lists["part"] == "repeat") & (lists["engine"] == "gp_topfreq")]["recall"].eq(1.0).all()


def test_a_wine_is_most_like_those_of_its_family_grape_sweetness_aromas_and_price() -> None:
    family, grape, sweetness = np.array([0, 0, 1, 0]), np.array([0, 0, 1, -1]), np.array([0, 0, 0, 0])
    aromas = np.array([[0.2] * 7, [0.2] * 7, [0.9] * 7, [np.nan] * 7])
    price = np.array([10.0, 12.0, 40.0, np.nan])
    leans = likeness([family, grape, sweetness], aromas, price, 2).toarray()
    assert np.allclose(leans.sum(axis=1), 1.0)
    assert not leans.diagonal().any()
    assert leans[0].argsort()[::-1][:2].tolist() == [1, 3]
    # 5 of 5 alike but for a price of 10/12, squared; the wine of unknowns: neutral where nothing is known.
    one, other = (4 + 10 / 12) ** 2, (2 + 3 * 0.5) ** 2
    assert leans[0, 1] == pytest.approx(one / (one + other))


def test_a_wine_that_nobody_has_ordered_goes_to_those_who_buy_its_like() -> None:
    new, strange = product("new", family="F"), product("strange", family="G", grape="Merlot", sweetness="doux")
    made = Estate(product("a", family="F"), product("b", family="F"), product("c", family="H"), new, strange)
    for number in range(40):
        made.customer(f"f{number:02d}", (400, "a"), (300, "b"), (200, "a"), (100, "a b"))
        made.customer(f"h{number:02d}", (400, "c"), (200, "c"))
    world = _World.of(made.inputs(), RULES)
    columns = {wine: position for position, wine in enumerate(world.wines)}
    day = day_number(AS_OF) + 1
    regression = ranking.learn(world.transactions, day, RULES.ranking.recipe, RULES.ranking)
    history = ranking.history_at(world.transactions, day, RULES.ranking.recipe.memory_days)
    popular = ranking.popularity(world.transactions, day, 365)
    scores = {}
    for name, leans in (("with", world.likeness), ("without", None)):
        ranker = ranking.Ranker.of(RULES.ranking.recipe, regression, popular, RULES.ranking, leans)
        scores[name] = ranker.scores(history, slice(0, 80))
    friend, stranger = 0, 40  # who buys family F, and who never does
    assert scores["without"][friend, columns["new"]] == pytest.approx(0.0, abs=1e-6)
    # Among five wines each leans on all the others, but not alike.
    assert scores["with"][friend, columns["new"]] > 1.3 * scores["with"][friend, columns["strange"]] > 0
    assert scores["with"][friend, columns["new"]] > scores["with"][stranger, columns["new"]]
    assert "new" in made.list_of("f00")
