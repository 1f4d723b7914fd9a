"""Recommendations: which wines to propose to whom, why, and how likely they are to be ordered (spec.md §5).

`recommend` is the whole of it: two lists of candidates per customer (repeat: bought before; explore: never
bought), ranked by the engine that won the last back-test (`backtesting`), scored by components 0..1, chosen by
the customer's state, cut by family diversity and stock, and given a probability calibrated on the tenant's own
past. Frames in, frames out: no SQL, no Dagster, no clock,
no unseeded chance, and no loop over customers. The same inputs in any row order give the same bytes.
Permission and audit are not decided here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from crm_assets.logic import backtesting, phrases, ranking, reranking
from crm_assets.logic import customers as customer_logic
from crm_assets.logic.backtesting import Engine, Prepared
from crm_assets.logic.customers import AROMA_AXES, Floats, Ints, date_of, day_number, day_numbers, positions, totals
from crm_assets.logic.feedback import NEUTRAL
from crm_assets.logic.ranking import Ranker, Transactions, changes, ranges
from crm_assets.logic.reranking import Facts

if TYPE_CHECKING:
    from scipy import sparse

    from crm_assets.rules import BusinessRules

SCENARIOS = ("rebuy", "cross_sell", "upsell", "winback", "nurture")
REBUY, CROSS_SELL, UPSELL, WINBACK, NURTURE = range(5)
COMPONENTS = ("collaborative", "content", "popularity", "rhythm", "margin", "season")
STATES = ("no_order", "lapsed", "one_order", "regular")
NO_ORDER, LAPSED, ONE_ORDER, REGULAR = range(4)
PRICE_SEGMENTS = ("entry", "standard", "premium", "luxury")
INTERVAL_SOURCES = ("own", "wine", "family", "unknown")
KINDS: tuple[backtesting.List, ...] = ("repeat", "explore")
STANDARD_FORMAT_CL = 75.0

# Which part of the next order each scenario speaks of.
_JUDGED_BY: tuple[backtesting.List, ...] = ("repeat", "explore", "explore", "mixed", "explore")
_ROWS_AT_ONCE = 10_000  # customers x wines in float32: 20 MB a matrix at 500 wines
_COMPONENT_DECIMALS = 4
_SCORE_DECIMALS = 2
_NEVER = -(10**6)  # a day number long before any sale

Flags = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True)
class RecommendationInputs:
    """What is known at the as-of date; extra columns are ignored.

    * purchases: customer_id, wine_id, order_id, sale_date, amount_ht; customer × wine × qualifying order.
    * customers (people only): customer_id, population, n_qualifying_orders, last_order_date,
      lifetime_amount_ht.
    * preferences: customer_id, top_family_1, top_sweetness_1, price_75cl_ttc, price_segment, usual_format_cl,
      tier_mode.
    * taste: rows of customers.taste_profiles. products: rows of curated.dim_products.
    * popularity: population, wine_id, share of distinct buyers.
    * sent_wines: customer_id, wine_id, sent_date, of really sent messages.
    * rejections: customer_id, wine_id, rejected_date.
    * allocations: product_key, customer_id it may be offered to.
    * opinions: wine_id, opinion 0..1 of the people who reviewed it (0.5: none).
    """

    purchases: pd.DataFrame
    customers: pd.DataFrame
    preferences: pd.DataFrame
    taste: pd.DataFrame
    products: pd.DataFrame
    popularity: pd.DataFrame
    sent_wines: pd.DataFrame
    rejections: pd.DataFrame
    allocations: pd.DataFrame
    opinions: pd.DataFrame = field(default_factory=lambda: pd.DataFrame({"wine_id": [], "opinion": []}))


@dataclass(frozen=True)
class RecommendationResult:
    """`items`: rows of recommendations.items without run_id, by customer_id and rank. `engine`: how they
    were made. `backtests`: rows of recommendations.backtests without run_id, as_of and rules_version.
    """

    items: pd.DataFrame
    engine: dict[str, Any]
    backtests: pd.DataFrame


def recommend(inputs: RecommendationInputs, rules: BusinessRules, as_of: date, locale: str) -> RecommendationResult:
    """The recommended wines of every person at `as_of`; `locale` is the tenant's (spec.md §5)."""
    world = _World.of(inputs, rules)
    until = day_number(as_of)
    horizon = rules.recommendations.probability_days
    prepared = backtesting.prepare(
        world.transactions, until + 1, horizon, rules.ranking, lists=KINDS, likeness=world.likeness
    )
    served = _Served.of(world, until, prepared.window, _served_engines(prepared, prepared.engines))
    facts, popularity = world.facts_given(inputs.customers), world.popularity_given(inputs.popularity)
    moment = _Moment.at(world, until, facts, popularity, served)
    blocked = _blocked(world, moment, until, inputs.sent_wines, inputs.rejections)
    past = _past(world, inputs, until, prepared)
    calibration = _calibrate(past, world, until)

    capacity = stock_capacity(world.offers["available"].to_numpy(dtype="float64"), rules)
    everyone = np.arange(len(world.customers))
    candidates = _score(_candidates(world, moment, everyone, blocked, capacity > 0), world, served, None)
    reference = candidates.reference
    chosen, displaced = choose(candidates.frame, capacity, rules)
    found = [candidates.frame[chosen]]
    # Whoever lost all to the stock limits gets another look at what is left.
    hungry = np.setdiff1d(candidates.frame["customer"].to_numpy(), found[0]["customer"].to_numpy())
    while len(hungry):
        capacity = capacity - np.bincount(found[-1]["offer"], minlength=len(capacity))
        again = _score(_candidates(world, moment, hungry, blocked, capacity > 0), world, served, reference)
        chosen, more = choose(again.frame, capacity, rules)
        displaced += more
        if not chosen.any():
            break
        found.append(again.frame[chosen])
        hungry = np.setdiff1d(again.frame["customer"].to_numpy(), found[-1]["customer"].to_numpy())

    selected = pd.concat(found, ignore_index=True)
    items = _items(selected, world, moment, calibration, as_of, locale)
    engine = {
        "ranking": _ranking_report(prepared),
        "customers": len(world.customers),
        "customers_by_state": {s: int((moment.state == i).sum()) for i, s in enumerate(STATES)},
        "customers_with_items": int(selected["customer"].nunique()),
        "items_by_scenario": {s: int((selected["scenario"] == i).sum()) for i, s in enumerate(SCENARIOS)},
        "offers": len(world.offers),
        "candidates": len(candidates.frame),
        "displaced_by_stock": displaced,
        "calibration": calibration.report,
    }
    return RecommendationResult(items, engine, _backtest_rows(prepared, past, world))


def _ranking_report(prepared: Prepared) -> dict[str, Any]:
    """Which engine serves each list, why, with which weights, and what it was learned from."""
    return {
        "choice": dict(prepared.choice),
        "reasons": dict(prepared.reasons),
        "recipes": {name: recipe.model_dump(mode="json") for name, recipe in prepared.recipes.items()},
        "cut": str(date_of(prepared.cut)),
        "window_days": prepared.window,
        **prepared.report,
    }


def stock_capacity(available: Floats, rules: BusinessRules) -> Floats:
    """How many messages may name each product: available ÷ (bottles per message × response rate); inf when
    unknown.
    """
    settings = rules.recommendations
    per_message = settings.stock_bottles_per_message * settings.stock_response_rate
    messages = np.floor(np.round(available / per_message, 6))
    return np.where(np.isnan(available), np.inf, np.maximum(messages, 0.0)).astype(np.float64)


# The world: customers, wines and offers as positions


@dataclass(frozen=True)
class _World:
    """Ids turned into positions, and what does not change with the day.

    customers, wines: sorted ids. offers: products that may be recommended, by product_key, with `wine`
    (position). rows: purchases as arrays sorted by customer, wine, day, amount: customer, wine, day, amount,
    order. wine_family, wine_grape, wine_sweetness: code per wine, -1 unknown; codes index `families`, `grapes`
    and `sweetnesses`. wine_price: EUR TTC per 75 cl. likeness: which wines a new one leans on.
    """

    rules: BusinessRules
    customers: pd.Index
    wines: pd.Index
    offers: pd.DataFrame
    wine_label: np.ndarray[Any, np.dtype[np.object_]]
    families: pd.Index
    grapes: pd.Index
    wine_family: Ints
    wine_grape: Ints
    wine_sweetness: Ints
    wine_aroma: Floats
    opinion: Floats
    likeness: sparse.csr_matrix
    rows: dict[str, np.ndarray]
    transactions: Transactions
    is_professional: Flags
    taste: Floats
    has_taste: Flags
    price: Floats
    segment: Ints
    tier: Ints
    top_family: Ints
    top_sweetness: Ints
    group: Ints
    groups: list[tuple[float, Flags]]

    @classmethod
    def of(cls, inputs: RecommendationInputs, rules: BusinessRules) -> _World:
        customers = customer_logic.sorted_ids(inputs.customers["customer_id"])
        products = inputs.products.assign(
            product_key=inputs.products["product_key"].astype(str),
            wine_id=inputs.products["wine_id"].astype(str),
        )
        products = products.iloc[_code_point_order(products["product_key"])].reset_index(drop=True)
        wines = customer_logic.sorted_ids(pd.concat([products["wine_id"], inputs.purchases["wine_id"].astype(str)]))
        may = products["is_recommendable"].fillna(False).astype(bool) & (products["stock_status"] != "out")
        offers = products[may].reset_index(drop=True)
        offers["wine"] = positions(offers["wine_id"], wines)

        # A wine speaks through its newest product, a recommendable one first.
        vintage = products["vintage"].astype("float64").fillna(-1.0).to_numpy()
        newest = np.lexsort((np.arange(len(products)), -vintage, ~may.to_numpy()))
        faces = products.iloc[newest].drop_duplicates("wine_id").set_index("wine_id").reindex(wines)
        families = customer_logic.sorted_ids(faces["family"].dropna())
        grapes = customer_logic.sorted_ids(faces["grape"].dropna())
        sweetnesses = customer_logic.sorted_ids(faces["sweetness"].dropna())
        codes = {
            "family": positions(faces["family"], families),
            "grape": positions(faces["grape"], grapes),
            "sweetness": positions(faces["sweetness"], sweetnesses),
        }
        aromas = customer_logic.wine_aromas(products).reindex(wines).to_numpy(dtype="float64")

        people = inputs.customers.assign(customer_id=inputs.customers["customer_id"].astype(str))
        people = people.drop_duplicates("customer_id").set_index("customer_id").loc[customers]
        likes = inputs.preferences.assign(customer_id=inputs.preferences["customer_id"].astype(str))
        likes = likes.set_index("customer_id").reindex(customers)
        taste = inputs.taste.assign(customer_id=inputs.taste["customer_id"].astype(str))
        taste = taste.set_index("customer_id").reindex(customers)
        formats = likes["usual_format_cl"].fillna(STANDARD_FORMAT_CL).to_numpy(dtype="float64")
        group, groups = _offer_groups(formats, customers, offers, inputs.allocations)
        rows = _purchase_rows(inputs.purchases, customers, wines)
        opinions = inputs.opinions.assign(wine_id=inputs.opinions["wine_id"].astype(str)).set_index("wine_id")
        price = faces["price_75cl_ttc"].to_numpy(dtype="float64")
        return cls(
            rules=rules,
            customers=customers,
            wines=wines,
            offers=offers,
            wine_label=faces["label"].fillna("").astype(str).to_numpy(dtype=object),
            families=families,
            grapes=grapes,
            wine_family=codes["family"],
            wine_grape=codes["grape"],
            wine_sweetness=codes["sweetness"],
            wine_aroma=aromas,
            opinion=opinions["opinion"].reindex(wines).fillna(NEUTRAL).to_numpy(dtype="float64"),
            likeness=likeness(list(codes.values()), aromas, price, rules.ranking.likeness_neighbours),
            rows=rows,
            # What a customer buys on one day is one order to the ranker.
            transactions=Transactions.of(len(customers), len(wines), rows["customer"], rows["wine"], rows["day"]),
            is_professional=(people["population"] == "professional").to_numpy(dtype=bool),
            taste=taste[AROMA_AXES].to_numpy(dtype="float64"),
            has_taste=(taste["confidence"].fillna(0.0) > 0).to_numpy(dtype=bool),
            price=likes["price_75cl_ttc"].to_numpy(dtype="float64"),
            segment=_segments(likes["price_segment"], len(PRICE_SEGMENTS)),
            tier=likes["tier_mode"].astype("float64").fillna(99.0).to_numpy().astype(np.int64),
            top_family=positions(likes["top_family_1"], families),
            top_sweetness=positions(likes["top_sweetness_1"], sweetnesses),
            group=group,
            groups=groups,
        )

    def offers_for(self, group: int, is_open: Flags) -> Ints:
        """Per wine, for one group of customers: its newest vintage in the usual format among the open
        offers, else -1.

        Without the usual format the bottle of 75 cl, else the nearest; the same vintage twice: the first
        product_key.
        """
        usual, allowed = self.groups[group]
        best = np.full(len(self.wines), -1, dtype=np.int64)
        usable = np.flatnonzero(allowed & is_open)
        offers = self.offers.iloc[usable]
        size = offers["format_cl"].astype("float64").fillna(STANDARD_FORMAT_CL).to_numpy()
        distance = np.where(
            size == usual, -2.0, np.where(size == STANDARD_FORMAT_CL, -1.0, np.abs(np.log(size / usual)))
        )
        vintage = offers["vintage"].astype("float64").fillna(-1.0).to_numpy()
        wine = offers["wine"].to_numpy()
        order = np.lexsort((usable, -vintage, distance, wine))
        first = np.unique(wine[order], return_index=True)
        best[first[0]] = usable[order[first[1]]]
        return best

    def facts_given(self, customers: pd.DataFrame) -> _Facts:
        """Orders, last order and lifetime amount as the customer table has them."""
        people = customers.assign(customer_id=customers["customer_id"].astype(str)).drop_duplicates("customer_id")
        people = people.set_index("customer_id").loc[self.customers]
        last = day_numbers(people["last_order_date"])
        return _Facts(
            n_orders=people["n_qualifying_orders"].fillna(0).to_numpy(dtype="int64"),
            last=np.where(last < _NEVER, _NEVER, last),
            lifetime=people["lifetime_amount_ht"].fillna(0.0).to_numpy(dtype="float64"),
        )

    def popularity_given(self, popularity: pd.DataFrame) -> Floats:
        """Share of buyers per wine: row 0 private, row 1 professional."""
        shares = np.zeros((2, len(self.wines)))
        for row, population in enumerate(customer_logic.POPULATIONS):
            part = popularity[popularity["population"] == population]
            wine = positions(part["wine_id"], self.wines)
            shares[row, wine[wine >= 0]] = part["share"].to_numpy(dtype="float64")[wine >= 0]
        return shares


@dataclass(frozen=True)
class _Facts:
    """Per customer: qualifying orders, day of the last one, EUR HT of a lifetime."""

    n_orders: Ints
    last: Ints
    lifetime: Floats


def likeness(codes: list[Ints], aromas: Floats, price: Floats, neighbours: int) -> sparse.csr_matrix:
    """For each wine the `neighbours` most like it and how much of it each stands for, wines × wines.

    Likeness of two = mean of same family, grape, sweetness (1, 0, unknown 0.5), closeness of aromas and of
    price, as in `_content`; the neighbours share in proportion to its square. Ties: the first wine.
    """
    from scipy import sparse

    n = len(price)
    total = np.zeros((n, n), dtype=np.float32)
    for code in codes:
        unknown = code < 0
        same = (code[:, None] == code[None, :]).astype(np.float32)
        same[unknown, :] = NEUTRAL
        same[:, unknown] = NEUTRAL
        total += same
    total += _aroma_closeness(aromas, aromas)
    total += _price_closeness(price, price)
    np.fill_diagonal(total, -1.0)
    nearest, value = ranking.top(total, min(neighbours, max(n - 1, 0)))
    squares = np.square(value)
    share = squares / np.maximum(squares.sum(axis=1, keepdims=True), 1e-9)
    row = np.repeat(np.arange(n), nearest.shape[1])
    return sparse.csr_matrix((share.reshape(-1).astype(np.float32), (row, nearest.reshape(-1))), shape=(n, n))


def _aroma_closeness(tastes: Floats, aromas: Floats) -> np.ndarray:
    """1 - root mean square distance of aroma profiles 0..1, tastes × aromas; unknown: neutral."""
    unknown_taste, unknown_aroma = np.isnan(tastes).any(axis=1), np.isnan(aromas).any(axis=1)
    a, b = np.nan_to_num(tastes).astype(np.float32), np.nan_to_num(aromas).astype(np.float32)
    squared = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None, :] - 2.0 * (a @ b.T)
    closeness: np.ndarray = 1.0 - np.sqrt(np.maximum(squared, 0.0) / len(AROMA_AXES))
    closeness[unknown_taste, :] = NEUTRAL
    closeness[:, unknown_aroma] = NEUTRAL
    return closeness


def _price_closeness(own: Floats, other: Floats) -> np.ndarray:
    """The smaller of two prices over the larger, own × other; unknown: neutral."""
    a = np.where(own > 0, own, np.nan).astype(np.float32)[:, None]
    b = np.where(other > 0, other, np.nan).astype(np.float32)[None, :]
    return np.nan_to_num(np.minimum(a, b) / np.maximum(a, b), copy=False, nan=NEUTRAL)


def _code_point_order(keys: pd.Series) -> Ints:
    return np.array(sorted(range(len(keys)), key=keys.tolist().__getitem__), dtype=np.int64)


def _segments(names: pd.Series, unknown: int) -> Ints:
    """Position of each price segment from entry 0 up; `unknown` where it is none."""
    found = positions(names, pd.Index(PRICE_SEGMENTS))
    return np.where(found < 0, unknown, found)


def _purchase_rows(purchases: pd.DataFrame, customers: pd.Index, wines: pd.Index) -> dict[str, np.ndarray]:
    customer = positions(purchases["customer_id"], customers)
    wine = positions(purchases["wine_id"], wines)
    day = day_numbers(purchases["sale_date"])
    amount = purchases["amount_ht"].to_numpy(dtype="float64")
    order = pd.factorize(purchases["order_id"])[0]
    # Rows equal in all four hold equal numbers: whatever order they came in, sums add the same.
    kept = np.flatnonzero(customer >= 0)
    kept = kept[np.lexsort((amount[kept], day[kept], wine[kept], customer[kept]))]
    columns = {"customer": customer, "wine": wine, "day": day, "amount": amount, "order": order}
    return {name: values[kept] for name, values in columns.items()}


def _offer_groups(
    formats: Floats, customers: pd.Index, offers: pd.DataFrame, allocations: pd.DataFrame
) -> tuple[Ints, list[tuple[float, Flags]]]:
    """Customers by usual format and by the allocated products they are listed for.

    Returns the group of each customer, and per group (format_cl, which offers it may be given).
    """
    listed = offers["allocation"].notna().to_numpy(dtype=bool, copy=True)
    offer = positions(allocations["product_key"], pd.Index(offers["product_key"]))
    customer = positions(allocations["customer_id"], customers)
    known = (offer >= 0) & (customer >= 0)
    # A product that the tenant's list names is under allocation whatever the catalogue says.
    listed[offer[offer >= 0]] = True
    entitlements: dict[int, list[int]] = {}
    for position, product in sorted(set(zip(customer[known].tolist(), offer[known].tolist(), strict=True))):
        entitlements.setdefault(position, []).append(product)
    rights: dict[tuple[int, ...], int] = {(): 0}
    right = np.zeros(len(customers), dtype=np.int64)
    for position, allowed in entitlements.items():
        right[position] = rights.setdefault(tuple(allowed), len(rights))
    sizes, size = np.unique(formats, return_inverse=True)
    keys, group = np.unique(right * len(sizes) + size, return_inverse=True)
    allowed_offers = list(rights)
    groups = []
    for key in keys:
        may = ~listed
        may[list(allowed_offers[int(key) // len(sizes)])] = True
        groups.append((float(sizes[int(key) % len(sizes)]), may))
    return group.astype(np.int64), groups


# The moment: what purchases say at one day


@dataclass(frozen=True)
class _Served:
    """The engines of the two lists at a day, and the histories and facts that they look at."""

    engines: dict[backtesting.List, Engine]
    histories: dict[float, ranking.History]
    facts: Facts | None

    @classmethod
    def of(cls, world: _World, until: int, window: int, engines: dict[backtesting.List, Engine]) -> _Served:
        past = world.transactions.before(until + 1)
        memories = {r.recipe.memory_days for engine in engines.values() for r in engine.rankers.values()}
        everyone = np.arange(len(world.customers))
        is_reranked = any(engine.reranker is not None for engine in engines.values())
        return cls(
            engines=engines,
            histories={memory: ranking.history_at(past, until + 1, memory) for memory in sorted(memories)},
            facts=Facts.at(past, everyone, until + 1, window) if is_reranked else None,
        )

    def ranker(self, kind: backtesting.List) -> Ranker:
        """What ranks a list before any second look."""
        return self.engines[kind].rankers[kind]

    @property
    def mixed(self) -> Ranker | None:
        """The ranker whose scores the second look knows; None where no list gets one."""
        return next((e.rankers["mixed"] for e in self.engines.values() if e.reranker is not None), None)

    def rankers(self) -> list[Ranker]:
        """All of them, once each."""
        found = [self.ranker("repeat"), self.ranker("explore"), *([self.mixed] if self.mixed is not None else [])]
        return list({id(ranker): ranker for ranker in found}.values())

    def scores(self, ranker: Ranker, rows: Ints) -> np.ndarray:
        """The ranker's scores of the customers `rows`, rows × wines."""
        return ranker.scores(self.histories[ranker.recipe.memory_days], rows)


def _served_engines(prepared: Prepared, engines: dict[str, Engine]) -> dict[backtesting.List, Engine]:
    return {kind: engines[prepared.choice[kind]] for kind in KINDS}


@dataclass(frozen=True)
class _Moment:
    """Everything that depends on the day: personal histories, rankers, rhythm, activity, state.

    Pairs (customer × wine bought) are sorted by customer, wine; `starts` has one entry per customer plus one.
    """

    until: int
    starts: Ints
    customer: Ints
    wine: Ints
    n_orders: Ints
    last: Ints
    amount: Floats
    weight: Floats
    interval: Floats
    interval_source: Ints
    orders_weight: Floats
    served: _Served
    family_share: np.ndarray
    grape_share: np.ndarray
    popularity: np.ndarray
    p_order: Floats
    expected_orders: Floats
    state: Ints

    @classmethod
    def at(cls, world: _World, until: int, facts: _Facts | None, popularity: Floats | None, served: _Served) -> _Moment:
        rules = world.rules
        n = len(world.customers)
        known = world.rows["day"] <= until
        customer, wine, day, amount, order = (
            world.rows[name][known] for name in ("customer", "wine", "day", "amount", "order")
        )
        decay = np.exp(-(until - day) / rules.recommendations.memory_days)

        new_pair = changes(customer, wine)
        start = np.flatnonzero(new_pair)
        pair_customer, pair_wine = customer[start], wine[start]
        first, last = day[start], day[np.append(start[1:], len(day)) - 1] if len(start) else day[:0]
        n_days = _sums(new_pair | changes(day), start)
        weight = _sums(decay, start)
        pair_amount = _sums(amount, start)
        gaps = n_days - 1
        own = np.divide(last - first, gaps, out=np.full(len(start), np.nan), where=gaps > 0)
        interval, source = _intervals(own, pair_wine, world.wine_family)

        # Orders, for the activity and as baskets.
        order_first = np.unique(order, return_index=True)[1]
        order_customer, order_day = customer[order_first], day[order_first]
        order_amount = totals(order, amount, int(order.max(initial=0)) + 1)[order[order_first]]
        history = customer_logic.order_history(order_customer, order_day, order_amount, n, until)
        active = customer_logic.activity(history, world.is_professional, until, rules)
        by_customer = np.lexsort((order_day, order_customer))
        orders_weight = totals(
            order_customer[by_customer],
            np.exp(-(until - order_day[by_customer]) / rules.recommendations.memory_days),
            n,
        )
        if facts is None:
            facts = _Facts(history.n_orders, np.where(history.n_orders > 0, history.last, _NEVER), history.amount)
        if popularity is None:
            popularity = _popularity(world, pair_customer, pair_wine, last, until)

        starts = np.searchsorted(pair_customer, np.arange(n + 1))
        spend = np.maximum(pair_amount, 0.0)
        top = popularity.max(axis=1, keepdims=True, initial=0.0)
        return cls(
            until=until,
            starts=starts,
            customer=pair_customer,
            wine=pair_wine,
            n_orders=_sums(np.ones(len(day), dtype=np.int64), start),
            last=last,
            amount=pair_amount,
            weight=weight,
            interval=interval,
            interval_source=source,
            orders_weight=orders_weight,
            served=served,
            family_share=_shares(pair_customer, world.wine_family[pair_wine], spend, n, len(world.families)),
            grape_share=_shares(pair_customer, world.wine_grape[pair_wine], spend, n, len(world.grapes)),
            popularity=np.divide(popularity, top, out=np.zeros_like(popularity), where=top > 0).astype(np.float32),
            p_order=active.probability(rules.recommendations.probability_days),
            expected_orders=active.expected_orders(rules.predictions.value_days),
            state=states(facts.n_orders, until - facts.last, facts.lifetime, rules),
        )


def states(n_orders: Ints, days_since_last: Ints, lifetime: Floats, rules: BusinessRules) -> Ints:
    """The state of each customer, first match (spec.md §5): no order, lapsed, one order, regular."""
    settings = rules.recommendations
    lapsed = (days_since_last > settings.winback_after_days) & (lifetime >= settings.winback_min_lifetime)
    return np.select([n_orders == 0, lapsed, n_orders == 1], [NO_ORDER, LAPSED, ONE_ORDER], REGULAR).astype(np.int64)


def _sums(values: np.ndarray, start: Ints) -> np.ndarray:
    """Sums of the runs of rows that begin at `start`."""
    if not len(start):
        return np.zeros(0, dtype=np.float64 if values.dtype.kind == "f" else np.int64)
    return np.add.reduceat(values if values.dtype.kind == "f" else values.astype(np.int64), start)


def _shares(customer: Ints, code: Ints, spend: Floats, n: int, n_codes: int) -> np.ndarray:
    """Share of each customer's spend per code, customers × codes."""
    known = code >= 0
    cells = totals(customer[known] * n_codes + code[known], spend[known], n * n_codes)
    table = cells.reshape(n, n_codes)
    total = table.sum(axis=1, keepdims=True)
    return np.divide(table, total, out=np.zeros_like(table), where=total > 0).astype(np.float32)


def _intervals(own: Floats, wine: Ints, wine_family: Ints) -> tuple[Floats, Ints]:
    """Days between orders of each pair and where they come from: its own, else the wine's median, else the
    family's.
    """
    known = ~np.isnan(own)
    by_wine = pd.Series(own[known]).groupby(wine[known]).median()
    by_family = pd.Series(own[known]).groupby(wine_family[wine[known]]).median()
    of_wine = by_wine.reindex(wine).to_numpy()
    families = wine_family[wine]
    of_family = np.where(families >= 0, by_family.reindex(families).to_numpy(), np.nan)
    source = np.select([known, ~np.isnan(of_wine), ~np.isnan(of_family)], [0, 1, 2], 3).astype(np.int64)
    return np.where(known, own, np.where(np.isnan(of_wine), of_family, of_wine)), source


def _popularity(world: _World, customer: Ints, wine: Ints, last: Ints, until: int) -> Floats:
    """What rfm.product_popularity says, for an earlier day: share of the distinct buyers of the last 365
    days.

    The calibration alone needs it; the present one is the dbt model's.
    """
    recent = last > until - world.rules.products.popularity_days
    shares = np.zeros((2, len(world.wines)))
    for row, is_in in enumerate((~world.is_professional, world.is_professional)):
        rows = recent & is_in[customer]
        buyers = len(np.unique(customer[rows]))
        shares[row] = np.bincount(wine[rows], minlength=len(world.wines)) / max(buyers, 1)
    return shares


def _blocked(
    world: _World, moment: _Moment, until: int, sent: pd.DataFrame | None, rejections: pd.DataFrame | None
) -> tuple[Ints, Ints]:
    """(customer, wine) positions never to be recommended today: bought or sent too lately, or rejected.

    Windows are strict: at exactly 60 (30, 180) days a wine is free again. What lies after the as-of counts
    as age 0.
    """
    settings = world.rules.recommendations
    window = np.where(world.is_professional, settings.bought_window_days_professional, settings.bought_window_days)
    bought = until - moment.last < window[moment.customer]
    customers, wines = [moment.customer[bought]], [moment.wine[bought]]
    for frame, column in ((sent, "sent_date"), (rejections, "rejected_date")):
        if frame is None or frame.empty:
            continue
        customer, wine = (
            positions(frame["customer_id"], world.customers),
            positions(frame["wine_id"], world.wines),
        )
        days = settings.rejection_days if frame is rejections else window[np.maximum(customer, 0)]
        barred = (customer >= 0) & (wine >= 0) & (np.maximum(until - day_numbers(frame[column]), 0) < days)
        customers.append(customer[barred])
        wines.append(wine[barred])
    customer, wine = np.concatenate(customers), np.concatenate(wines)
    order = np.lexsort((wine, customer))
    return customer[order], wine[order]


# Candidates


def _candidates(
    world: _World, moment: _Moment, who: Ints, blocked: tuple[Ints, Ints], is_open: Flags
) -> list[dict[str, np.ndarray]]:
    """Candidate columns of the customers `who` (sorted positions), batch by batch; see `_batch` for the
    columns.
    """
    found: list[dict[str, np.ndarray]] = []
    tables = [world.offers_for(group, is_open) for group in range(len(world.groups))]
    season = season_component(world.offers["season_tags"], moment.until, world.rules)
    margin = margin_component(world.offers)
    keys = (moment.state[who] * len(world.groups) + world.group[who]) * 2 + world.is_professional[who]
    for key in np.unique(keys):
        members = who[keys == key]
        state = int(key) // 2 // len(world.groups)
        table = tables[int(key) // 2 % len(world.groups)]
        for begin in range(0, len(members), _ROWS_AT_ONCE):
            rows = members[begin : begin + _ROWS_AT_ONCE]
            found.extend(_batch(world, moment, rows, state, table, blocked, season, margin))
    return found


def _batch(
    world: _World,
    moment: _Moment,
    rows: Ints,
    state: int,
    table: Ints,
    blocked: tuple[Ints, Ints],
    season: np.ndarray,
    margin: np.ndarray,
) -> Iterator[dict[str, np.ndarray]]:
    """Candidates of customers that share state, population, usual format and allocations.

    Columns: customer, wine, offer, scenario, state, tier (what comes first), raw (the ranker's value; EUR HT
    expected for a past favourite to win back), the components but `collaborative`, pair (position in the
    moment's pairs, -1 for explore), score and best (the mixed list's score of it and of its customer's first,
    for a second look).
    """
    rules, served = world.rules, moment.served
    targets = np.flatnonzero(table >= 0)
    targets = targets[np.argsort(table[targets])]  # columns in the order of product_key: ties fall that way
    if not len(targets):
        return
    offer = table[targets]
    content = _content(world, moment, rows, targets, offer)
    popularity = moment.popularity[int(world.is_professional[rows[0]])][targets]
    column = np.full(len(world.wines), -1)
    column[targets] = np.arange(len(targets))
    barred = np.zeros((len(rows), len(targets)), dtype=bool)
    _mark(barred, rows, column, *blocked)

    # Bought before.
    pair, row = _pairs_of(moment, rows)
    elapsed = moment.until - moment.last[pair]
    at = column[moment.wine[pair]]
    usable = (at >= 0) & ~barred[row, at]
    ratio = elapsed / moment.interval[pair]
    settings = rules.recommendations
    if state == LAPSED:
        scenario = WINBACK
    else:
        scenario = REBUY
        usable &= (elapsed >= settings.rebuy_min_days) & (elapsed <= settings.rebuy_max_days)
        usable &= ratio >= settings.rebuy_rhythm_share  # false where no rhythm is known
    pair, row, at, ratio = pair[usable], row[usable], at[usable], ratio[usable]
    explore = served.ranker("explore")
    dense = {id(ranker): served.scores(ranker, rows) for ranker in served.rankers()}
    mixed = dense[id(served.mixed)] if served.mixed is not None else dense[id(explore)]
    best = mixed.max(axis=1)
    if len(pair):
        customer = rows[row]
        if state == LAPSED:
            # Expected purchases × value (spec.md §5): how often still, this wine's part of it, EUR HT each
            # time.
            value = np.maximum(moment.amount[pair], 0.0) / moment.n_orders[pair]
            part = moment.weight[pair] / (moment.orders_weight[customer] + rules.ranking.prior_orders)
            raw = moment.expected_orders[customer] * part * value
        else:
            raw = dense[id(served.ranker("repeat"))][row, targets[at]].astype("float64")
        yield {
            "customer": customer,
            "wine": targets[at],
            "offer": offer[at],
            "scenario": np.full(len(pair), scenario),
            "state": np.full(len(pair), state),
            "tier": np.zeros(len(pair), dtype=np.int64),
            "raw": raw,
            "content": content[row, at],
            "popularity": popularity[at],
            "rhythm": rhythm_component(ratio, rules),
            "margin": margin[offer[at]],
            "season": season[offer[at]],
            "pair": pair,
            "score": mixed[row, targets[at]],
            "best": best[row],
        }

    # Never bought.
    _mark(barred, rows, column, moment.customer, moment.wine)
    raw_all = dense[id(explore)][:, targets]
    highest = np.where(barred, 0.0, raw_all).max(axis=1, keepdims=True)
    collaborative = np.divide(np.maximum(raw_all, 0.0), highest, out=np.zeros_like(raw_all), where=highest > 0)
    # Likelier than for somebody of whom nothing is known: bought by those who buy what the customer buys.
    lifted = raw_all > explore.base[targets]
    for scenario, eligible in _explore_scenarios(world, moment, rows, state, targets, offer, lifted, barred):
        weight = getattr(rules.recommendations.weights, SCENARIOS[scenario])
        fixed = weight.popularity * popularity + weight.margin * margin[offer] + weight.season * season[offer]
        value = weight.collaborative * collaborative + weight.content * content + fixed.astype(np.float32)
        row, at = _top(value, eligible, settings.candidates_per_list)
        yield {
            "customer": rows[row],
            "wine": targets[at],
            "offer": offer[at],
            "scenario": np.full(len(row), scenario),
            "state": np.full(len(row), state),
            "tier": np.full(len(row), 0 if state == REGULAR else 1),
            "raw": raw_all[row, at].astype("float64"),
            "content": content[row, at],
            "popularity": popularity[at],
            "rhythm": np.zeros(len(row)),
            "margin": margin[offer[at]],
            "season": season[offer[at]],
            "pair": np.full(len(row), -1),
            "score": mixed[row, targets[at]],
            "best": best[row],
        }


def _explore_scenarios(
    world: _World,
    moment: _Moment,
    rows: Ints,
    state: int,
    targets: Ints,
    offer: Ints,
    lifted: Flags,
    barred: Flags,
) -> Iterator[tuple[int, Flags]]:
    """The scenarios of never-bought wines that a state has, each with its (customer, wine) cells."""
    settings = world.rules.recommendations
    free = ~barred
    if state == LAPSED:
        yield WINBACK, free
        return
    segment = _segments(world.offers["price_segment"].iloc[offer], -1)
    if state != REGULAR:
        entry = free & (segment == PRICE_SEGMENTS.index(settings.nurture_price_segment))[None, :]
        # Nothing at entry price is left for them: rather another popular wine than none.
        yield NURTURE, np.where(entry.any(axis=1)[:, None], entry, free)
        return
    family, grape = world.wine_family[targets], world.wine_grape[targets]
    price = world.offers["price_75cl_ttc"].to_numpy(dtype="float64")[offer][None, :]
    tier = world.offers["premium_tier"].astype("float64").fillna(-1.0).to_numpy()[offer][None, :]
    own_price = world.price[rows][:, None]
    above = (tier >= world.tier[rows][:, None] + 1) | (segment[None, :] > world.segment[rows][:, None])
    preferred = (family[None, :] == world.top_family[rows][:, None]) & (family >= 0)[None, :]
    upsell = free & preferred & above & (price > own_price) & (price <= settings.upsell_max_price_ratio * own_price)
    upsell &= (moment.starts[rows + 1] > moment.starts[rows])[:, None]  # nothing bought, nothing to rise from
    yield UPSELL, upsell
    similar = lifted.copy()
    similar |= (moment.family_share[rows] > 0)[:, family] & (family >= 0)[None, :] if len(world.families) else False
    similar |= (moment.grape_share[rows] > 0)[:, grape] & (grape >= 0)[None, :] if len(world.grapes) else False
    yield CROSS_SELL, free & similar & ~upsell


def _content(world: _World, moment: _Moment, rows: Ints, targets: Ints, offer: Ints) -> np.ndarray:
    """Likeness 0..1 of wines to what customers like, rows × targets: mean of taste, family, grape, sweetness and
    price, moved by what the estate's people say of the wine.

    taste = 1 - root mean square distance of the profiles; family and grape = share of the customer's spend;
    sweetness = 1 where it is the one they spend most on, else 0; price = the smaller of the two prices per
    75 cl over the larger. What is unknown of either is neutral, and a neutral opinion moves nothing.
    """
    total = _aroma_closeness(world.taste[rows], world.wine_aroma[targets])
    for share, code in (
        (moment.family_share, world.wine_family[targets]),
        (moment.grape_share, world.wine_grape[targets]),
    ):
        if share.shape[1]:
            total += np.where(code >= 0, share[rows][:, code], np.float32(NEUTRAL))
        else:
            total += np.float32(NEUTRAL)
    own, sweetness = world.top_sweetness[rows][:, None], world.wine_sweetness[targets][None, :]
    total += np.where((own < 0) | (sweetness < 0), np.float32(NEUTRAL), (own == sweetness).astype(np.float32))
    wine_price = world.offers["price_75cl_ttc"].to_numpy(dtype="float64")[offer]
    total += _price_closeness(world.price[rows], wine_price)
    total += (world.opinion[targets] - NEUTRAL).astype(np.float32)
    return np.clip(total / np.float32(5.0), 0.0, 1.0)


def rhythm_component(ratio: Floats, rules: BusinessRules) -> Floats:
    """How due a wine is, from elapsed ÷ interval: rises to 1 at 1, stays, and fades as 2 / ratio beyond 2;
    NaN: 0.5.
    """
    late = rules.predictions.churn_interval_factor
    due = np.where(ratio <= late, np.minimum(ratio, 1.0), late / np.maximum(ratio, late))
    return np.where(np.isnan(ratio), NEUTRAL, due)


def margin_component(offers: pd.DataFrame) -> np.ndarray:
    """Where an offer's margin rate (margin ÷ price) stands among all, 0..1; unknown 0.5."""
    rate = offers["margin"].to_numpy(dtype="float64") / offers["price_ttc"].to_numpy(dtype="float64")
    rate = np.where(np.isfinite(rate), rate, np.nan)
    known = np.sort(np.round(rate[~np.isnan(rate)], 6))
    if len(known) < 2:
        return np.full(len(offers), NEUTRAL, dtype=np.float32)
    below = np.searchsorted(known, np.round(rate, 6), side="left") / (len(known) - 1)
    return np.where(np.isnan(rate), NEUTRAL, np.minimum(below, 1.0)).astype(np.float32)


def season_component(tags: pd.Series, day: int, rules: BusinessRules) -> np.ndarray:
    """1 in one of the offer's seasons, 0 outside them, 0.5 for a wine of all seasons (no known tag)."""
    month = date_of(day).month
    months = rules.recommendations.season_tags
    values = []
    for given in tags:
        known = [months[tag] for tag in given if tag in months] if isinstance(given, list | tuple | np.ndarray) else []
        values.append(NEUTRAL if not known else float(any(month in span for span in known)))
    return np.array(values, dtype=np.float32)


def _mark(cells: Flags, rows: Ints, column: Ints, customer: Ints, wine: Ints) -> None:
    """Set the cells of the given (customer, wine) pairs, sorted by customer; `rows` are sorted customers."""
    begin, end = np.searchsorted(customer, rows), np.searchsorted(customer, rows, side="right")
    pair, row = ranges(begin, end)
    at = column[wine[pair]]
    cells[row[at >= 0], at[at >= 0]] = True


def _pairs_of(moment: _Moment, rows: Ints) -> tuple[Ints, Ints]:
    return ranges(moment.starts[rows], moment.starts[rows + 1])


def _top(value: np.ndarray, eligible: Flags, k: int) -> tuple[Ints, Ints]:
    """(row, column) of the k best eligible cells of each row; values are quantised, ties go to the first
    column.
    """
    keyed = np.rint(value * 100_000).astype(np.int32)
    keyed[~eligible] = -1
    every = np.arange(len(keyed))
    rows, columns = [], []
    # k passes of argmax are faster than one partition for the few that are wanted.
    for _ in range(min(k, keyed.shape[1])):
        best = keyed.argmax(axis=1)
        kept = np.flatnonzero(keyed[every, best] >= 0)
        rows.append(kept)
        columns.append(best[kept])
        keyed[every, best] = -1
    return np.concatenate(rows), np.concatenate(columns)


# Scores


@dataclass(frozen=True)
class _Scored:
    """Candidates with their scores, ordered by customer, falling score, product_key; and the rankers'
    distributions.
    """

    frame: pd.DataFrame
    reference: dict[tuple[bool, bool], Floats]


def _look_again(part: dict[str, np.ndarray], served: _Served) -> None:
    """Replace `raw` by the chance of the next order where a re-ranker serves the list; favourites to win back stay
    ranked by money, and who never ordered by the ranker.
    """
    if served.facts is None or not len(part["pair"]):
        return
    is_repeat, is_winback = part["pair"][0] >= 0, part["scenario"][0] == WINBACK
    reranker = served.engines["repeat" if is_repeat else "explore"].reranker
    if reranker is None or (is_repeat and is_winback) or part["state"][0] == NO_ORDER:
        return
    known = [part[name] for name in ("customer", "wine", "score", "best")]
    part["raw"] = reranker.chances(reranking.features(served.facts, *known)).astype(np.float64)


def _score(
    parts: list[dict[str, np.ndarray]],
    world: _World,
    served: _Served,
    reference: dict[tuple[bool, bool], Floats] | None,
) -> _Scored:
    """Add `collaborative`, `base` (weighted components 0..1) and `score` (0..100) to the candidates.

    collaborative = share of the run's candidates of the same list whose ranker value is smaller. Winback
    ranks by money and the others by share, so they are different lists. `reference` = the distributions of a
    first pass.
    """
    numbers = ["customer", "wine", "offer", "scenario", "state", "tier", "pair"]
    columns = [*numbers, "raw", "content", "popularity", "rhythm", "margin", "season"]
    for part in parts:
        _look_again(part, served)
    table = {c: np.concatenate([part[c] for part in parts]) if parts else np.zeros(0, np.int64) for c in columns}
    raw = np.round(table.pop("raw"), 6)
    is_repeat, is_winback = table["pair"] >= 0, table["scenario"] == WINBACK
    collaborative = np.zeros(len(raw))
    seen: dict[tuple[bool, bool], Floats] = {}
    for repeat in (True, False):
        for winback in (True, False):
            rows = np.flatnonzero((is_repeat == repeat) & (is_winback == winback))
            order = np.argsort(raw[rows])
            values = raw[rows][order]
            known = values if reference is None else reference[repeat, winback]
            seen[repeat, winback] = known
            first = np.flatnonzero(changes(values))
            below = np.searchsorted(known, values[first]) / max(len(known) - 1, 1)
            collaborative[rows[order]] = np.repeat(below, np.diff(np.append(first, len(values))))
    table["collaborative"] = collaborative
    weights = world.rules.recommendations.weights
    by_scenario = np.array([[getattr(getattr(weights, s), c) for c in COMPONENTS] for s in SCENARIOS])
    multiplier = np.array([getattr(world.rules.recommendations.multipliers, s) for s in SCENARIOS])
    base = np.zeros(len(raw))
    for position, name in enumerate(COMPONENTS):
        component = table[name].astype(np.float64)
        np.round(np.clip(component, 0.0, 1.0, out=component), _COMPONENT_DECIMALS, out=component)
        table[name] = component
        base += by_scenario[table["scenario"], position] * component
    table["base"] = np.round(base, 6)
    score = np.clip(100.0 * base * multiplier[table["scenario"]], 0.0, 100.0)
    table["score"] = np.round(score, _SCORE_DECIMALS)
    table["family"] = world.wine_family[table["wine"]]
    falling = np.rint((100.0 - table["score"]) * 10**_SCORE_DECIMALS).astype(np.int64)
    # One integer that sorts by customer, falling score, product_key.
    key = (table["customer"] * (100 * 10**_SCORE_DECIMALS + 1) + falling) * max(len(world.offers), 1) + table["offer"]
    order = np.argsort(key)
    return _Scored(pd.DataFrame({name: values[order] for name, values in table.items()}), seen)


# The choice


def choose(candidates: pd.DataFrame, capacity: Floats, rules: BusinessRules) -> tuple[Flags, int]:
    """Which candidates are recommended, and how many choices the stock limits displaced.

    candidates: customer, offer, scenario, state, tier, family, score, ordered by customer, falling score,
    product_key. A regular customer gets the best of each scenario first, then by score; others tier by tier,
    one rebuy at most for a customer of one order. Family diversity applies before the cut. A product named
    more often than its `capacity` keeps the highest scores (ties: the first customer); the others choose
    again without it, until all fit.
    """
    customer, offer = candidates["customer"].to_numpy(), candidates["offer"].to_numpy()
    score = candidates["score"].to_numpy()
    alive = np.ones(len(candidates), dtype=bool)
    chosen = np.zeros(len(candidates), dtype=bool)
    affected = np.arange(len(candidates))
    displaced = 0
    while len(affected):
        chosen[affected] = False
        chosen[_select(candidates, affected[alive[affected]], rules)] = True
        rows = np.flatnonzero(chosen)
        over = np.bincount(offer[rows], minlength=len(capacity)) > capacity
        rows = rows[over[offer[rows]]]
        rows = rows[np.lexsort((customer[rows], -score[rows], offer[rows]))]
        losers = rows[_place(offer[rows]) >= capacity[offer[rows]]]
        displaced += len(losers)
        alive[losers] = False
        affected = np.flatnonzero(np.isin(customer, customer[losers])) if len(losers) else losers
    return chosen, displaced


def _select(candidates: pd.DataFrame, rows: Ints, rules: BusinessRules) -> Ints:
    """Which of the candidates `rows` are chosen, without regard to stock."""
    part = candidates.iloc[rows]
    customer, scenario, state = (part[c].to_numpy() for c in ("customer", "scenario", "state"))
    is_best = np.zeros(len(rows), dtype=bool)
    is_best[np.unique(customer * len(SCENARIOS) + scenario, return_index=True)[1]] = True
    turn = np.where(state == REGULAR, (~is_best).astype(np.int64), part["tier"].to_numpy())
    may = ~((state == ONE_ORDER) & (scenario == REBUY) & ~is_best)
    order = np.flatnonzero(may)
    order = order[np.argsort(customer[order] * 2 + turn[order], kind="stable")]
    settings = rules.recommendations
    per_family = max(1, int(np.floor(settings.max_family_share * settings.max_per_customer + 1e-9)))
    family = part["family"].to_numpy() + 1
    by_family = customer[order] * (int(family.max(initial=0)) + 1) + family[order]
    grouped = np.argsort(by_family, kind="stable")
    place = np.empty(len(order), dtype=np.int64)
    place[grouped] = _place(by_family[grouped])
    order = order[place < per_family]
    order = order[_place(customer[order]) < settings.max_per_customer]
    return rows[order]


def _place(keys: np.ndarray) -> Ints:
    """0, 1, 2 … within each run of equal keys."""
    start = np.flatnonzero(changes(keys))
    return np.arange(len(keys)) - np.repeat(start, np.diff(np.append(start, len(keys))))


# Probability


@dataclass(frozen=True)
class _Calibration:
    """Per list kind: probability as a function of the signal (chance of any order × weighted components)."""

    curves: dict[str, tuple[Floats, Floats]]
    report: dict[str, Any]

    def probability(self, signal: Floats, is_repeat: Flags) -> Floats:
        result = np.zeros(len(signal))
        for kind, rows in (("repeat", is_repeat), ("explore", ~is_repeat)):
            x, y = self.curves[kind]
            result[rows] = np.interp(signal[rows], x, y)
        return np.clip(result, 0.0, 1.0).round(6)


def _signal(candidates: pd.DataFrame, moment: _Moment) -> Floats:
    base = candidates["base"].to_numpy(dtype="float64")
    signal: Floats = np.round(moment.p_order[candidates["customer"].to_numpy()] * base, 6)
    return signal


@dataclass(frozen=True)
class _Past:
    """What the same engines and policies would have proposed at `cut` (the last known day), and what came.

    candidates: scored, of the customers `who`; happened: whether that wine was ordered within the horizon;
    chosen: the ones that would have been recommended.
    """

    cut: int
    who: Ints
    moment: _Moment
    candidates: pd.DataFrame
    happened: Flags
    chosen: Flags


def _past(world: _World, inputs: RecommendationInputs, until: int, prepared: Prepared) -> _Past:
    """The candidates of 90 days earlier, from what was known then.

    Taste is recomputed at that day; preferences, allocations and the catalogue are today's (they are not kept
    by day), and stock, messages, reviews and opinions play no part. Customers without an order then are left
    out: who appears by ordering would make them look keen.
    """
    settings = world.rules.recommendations
    cut = until - settings.probability_days
    buyers = np.unique(world.rows["customer"][world.rows["day"] <= cut])
    step = -(-len(buyers) // settings.calibration_max_customers) if len(buyers) else 1
    who = buyers[::step]
    day = date_of(cut)
    people = pd.DataFrame({"customer_id": world.customers[who]})
    theirs = inputs.purchases
    if len(who) < len(world.customers):
        theirs = theirs[theirs["customer_id"].isin(people["customer_id"])]
    taste = np.full(world.taste.shape, np.nan)
    profiles = customer_logic.taste_profiles(people, theirs, inputs.products, day, world.rules)
    taste[who] = profiles[AROMA_AXES].to_numpy(dtype="float64")
    then = replace(world, taste=taste, opinion=np.full_like(world.opinion, NEUTRAL))
    engines = prepared.then
    if prepared.cut != cut + 1:
        # The history is too short for the whole horizon: what was measured knows more than was known then.
        known = world.transactions.before(cut + 1)
        unjudged = dict.fromkeys(backtesting.LISTS, world.rules.ranking.recipe)
        learned = backtesting.rankers(known, cut + 1, prepared.window, unjudged, world.rules.ranking, world.likeness)
        engines = dict.fromkeys(engines, Engine(backtesting.RIDGE, learned))
    served = _Served.of(then, cut, prepared.window, _served_engines(prepared, engines))
    moment = _Moment.at(then, cut, None, None, served)
    blocked = _blocked(then, moment, cut, None, None)
    parts = _candidates(then, moment, who, blocked, np.ones(len(world.offers), dtype=bool))
    candidates = _score(parts, then, served, None).frame
    since = (world.rows["day"] > cut) & (world.rows["day"] <= until)
    n_wines = len(world.wines)
    ordered = np.unique(world.rows["customer"][since] * n_wines + world.rows["wine"][since])
    happened = np.isin(candidates["customer"].to_numpy() * n_wines + candidates["wine"].to_numpy(), ordered)
    chosen, _ = choose(candidates, np.full(len(world.offers), np.inf), world.rules)
    return _Past(cut, who, moment, candidates, happened, chosen)


def _calibrate(past: _Past, world: _World, until: int) -> _Calibration:
    """How often the wine was in an order of the 90 days after the cut, as a function of the signal.

    An isotonic curve per list kind; the measures in the report are of a curve learned on every second
    customer and judged on the others. With too little history the probability is the base rate observed, 0
    when there is none, and the report says so. Whoever had no order then gets the curve's lowest value.
    """
    settings = world.rules.recommendations
    day = world.rows["day"]
    buyers = len(np.unique(world.rows["customer"][day <= past.cut]))
    history_days = int(until - day.min()) if len(day) else 0
    enough = buyers >= world.rules.predictions.min_customers
    enough = enough and history_days >= world.rules.predictions.min_history_days
    report: dict[str, Any] = {"cut_days_before": settings.probability_days, "history_days": history_days}
    curves: dict[str, tuple[Floats, Floats]] = {}
    for kind in KINDS:
        rows = (past.candidates["pair"].to_numpy() >= 0) == (kind == "repeat")
        label = past.happened[rows]
        positives = int(label.sum())
        facts = {"customers": len(past.who), "candidates": int(rows.sum()), "ordered": positives}
        if enough and positives >= settings.calibration_min_positives:
            signal = _signal(past.candidates[rows], past.moment)
            odd = past.candidates["customer"].to_numpy()[rows] % 2 == 1
            curves[kind] = _isotonic(signal, label)
            judged = odd if label[~odd].any() and odd.any() else np.ones(len(odd), dtype=bool)
            learned = _isotonic(signal[~odd], label[~odd]) if judged is odd else curves[kind]
            measures = customer_logic.measure(np.interp(signal[judged], *learned), label[judged])
            report[kind] = {"method": "isotonic", **facts, **measures}
        else:
            rate = positives / max(int(rows.sum()), 1)
            curves[kind] = (np.array([0.0]), np.array([rate]))
            report[kind] = {
                "method": "base_rate",
                "base_rate": round(rate, 6),
                "reason": "history too short",
                **facts,
            }
    return _Calibration(curves, report)


def _backtest_rows(prepared: Prepared, past: _Past, world: _World) -> pd.DataFrame:
    """Rows of recommendations.backtests: every engine on every list, and what each scenario's wines came to.

    A scenario is judged on the customers who would have been given it and ordered within the window: the wines
    chosen for them against what their next order held of wines bought before (rebuy), of new ones (cross_sell,
    upsell, nurture), or of both (winback).
    """
    lists = prepared.measures.rename(columns={"list": "part"})
    lists["cut"] = date_of(prepared.cut)
    lists["is_serving"] = [prepared.choice[p] == e for p, e in zip(lists["part"], lists["engine"], strict=True)]
    frames = [lists]
    chosen = past.candidates[past.chosen]
    transactions, day = world.transactions, past.cut + 1
    orders = transactions.first_orders(day, day + prepared.window)
    owner = transactions.order_customer[orders]
    for number, scenario in enumerate(SCENARIOS):
        part = chosen[chosen["scenario"] == number]
        part = part[part["customer"].isin(owner)]
        who, row = np.unique(part["customer"].to_numpy(dtype=np.int64), return_inverse=True)
        judge = backtesting.Judge(transactions, orders[np.isin(owner, who)], day)
        width = world.rules.recommendations.max_per_customer
        wines = np.full((len(who), width), ranking.NOTHING)
        wines[row, _place(row)] = part["wine"].to_numpy(dtype=np.int64)
        kind = _JUDGED_BY[number]
        rows = [{"part": scenario, "top": k, **judge.measure(wines, kind, k)} for k in sorted({1, width})]
        cut = date_of(day)
        frames.append(pd.DataFrame(rows).assign(engine="policy", is_serving=True, cut=cut))
    table = pd.concat([frame for frame in frames if len(frame)], ignore_index=True)
    table.loc[table["engine"] == "policy", ["recall_repeat", "recall_explore"]] = np.nan
    return table.assign(window_days=prepared.window)


def _isotonic(signal: Floats, happened: Flags) -> tuple[Floats, Floats]:
    from sklearn.isotonic import IsotonicRegression

    model = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(signal, happened.astype("float64"))
    return np.asarray(model.X_thresholds_, dtype="float64"), np.asarray(model.y_thresholds_, dtype="float64")


# Items


def _items(
    selected: pd.DataFrame,
    world: _World,
    moment: _Moment,
    calibration: _Calibration,
    as_of: date,
    locale: str,
) -> pd.DataFrame:
    """Rows of recommendations.items without run_id, by customer_id and rank."""
    order = np.lexsort((selected["offer"], -selected["score"].to_numpy(), selected["tier"], selected["customer"]))
    chosen = selected.iloc[order].reset_index(drop=True)
    customer, wine, pair = (chosen[c].to_numpy(dtype=np.int64) for c in ("customer", "wine", "pair"))
    is_repeat = pair >= 0
    offer = chosen["offer"].to_numpy(dtype=np.int64)
    probability = calibration.probability(_signal(chosen, moment), is_repeat)
    scenario = np.array(SCENARIOS, dtype=object)[chosen["scenario"].to_numpy(dtype=np.int64)]
    rank = _place(customer) + 1
    together = _orders_together(world, moment.until)
    because = _because(moment, together, customer, np.where(is_repeat, -1, wine))
    facts = _facts_of(chosen, world, moment, because, np.where(because >= 0, together[because, wine], 0))
    frame = pd.DataFrame(
        {
            "customer_id": world.customers.to_numpy(dtype=object)[customer],
            "wine_id": world.wines.to_numpy(dtype=object)[wine],
            "product_key": world.offers["product_key"].to_numpy(dtype=object)[offer],
            "scenario": scenario,
            "rank": rank,
            "score": chosen["score"].to_numpy(),
            "probability": probability,
            "confidence": confidence(probability, is_repeat, world.rules),
            **{name: chosen[name].to_numpy() for name in COMPONENTS},
            "explain_short": phrases.explanations(facts, as_of, locale),
            "customer_sentence": phrases.sentences(scenario, is_repeat, rank, locale, offer, world.offers),
        }
    )
    frame["reasons"] = _reasons(facts, moment, customer, because, world)
    frame["rules_version"] = world.rules.version
    return frame


def confidence(probability: Floats, is_repeat: Flags, rules: BusinessRules) -> Floats:
    """Probability ÷ the 95th percentile of its list kind, at most 1; 0 when that percentile is 0."""
    result = np.zeros(len(probability))
    for rows in (is_repeat, ~is_repeat):
        if rows.any():
            top = np.percentile(probability[rows], rules.recommendations.confidence_percentile)
            result[rows] = np.minimum(1.0, probability[rows] / top) if top > 0 else 0.0
    return np.round(result, _COMPONENT_DECIMALS)


def _orders_together(world: _World, until: int) -> Ints:
    """In how many orders, of all customers until that day, both of two wines were, wines × wines."""
    past = world.transactions.before(until + 1)
    baskets = past.baskets(np.arange(past.n_orders))
    return np.rint((baskets.T @ baskets).toarray()).astype(np.int64)


def _because(moment: _Moment, together: Ints, customer: Ints, wine: Ints) -> Ints:
    """The bought wine that speaks most for each explored one (own weight × cosine over orders); -1: none, or `wine`
    is -1.
    """
    begin, end = moment.starts[customer], moment.starts[customer + 1]
    pair, row = ranges(np.where(wine >= 0, begin, 0), np.where(wine >= 0, end, 0))
    size = np.sqrt(np.maximum(together.diagonal(), 1.0))
    bought, other = moment.wine[pair], wine[row]
    voice = np.round(moment.weight[pair] * together[bought, other] / size[bought] / size[other], 6)
    order = np.lexsort((bought, -voice, row))
    first = order[np.unique(row[order], return_index=True)[1]]
    result = np.full(len(customer), -1, dtype=np.int64)
    speaks = first[voice[first] > 0]
    result[row[speaks]] = moment.wine[pair[speaks]]
    return result


# What is said of an item


def _facts_of(
    chosen: pd.DataFrame, world: _World, moment: _Moment, because: Ints, together: Ints
) -> dict[str, np.ndarray]:
    """The facts behind each item, as `phrases.explanations` takes them; what is unknown, or too little to be a
    reason, is '', NaN, 0 or -1 there. `together`: orders with the item and what speaks for it.
    """
    settings = world.rules.recommendations.explanations
    customer, wine, offer, pair = (chosen[c].to_numpy(dtype=np.int64) for c in ("customer", "wine", "offer", "pair"))
    scenario = chosen["scenario"].to_numpy(dtype=np.int64)
    offers = world.offers
    is_repeat = pair >= 0
    # One pair more, of what was never bought.
    past = np.where(is_repeat, pair, len(moment.wine))
    n_orders, last_day = np.append(moment.n_orders, 0)[past], np.append(moment.last, -1)[past]
    interval = np.append(moment.interval, np.nan)[past]
    interval = np.where(interval >= settings.shortest_rhythm_days, interval, np.nan)
    source = np.append(moment.interval_source, INTERVAL_SOURCES.index("unknown"))[past]
    late = np.where(source == INTERVAL_SOURCES.index("own"), moment.until - last_day - interval, np.nan)
    late = np.where(late >= np.maximum(settings.late_days, settings.late_share * interval), late, np.nan)
    segment = _segments(offers["price_segment"].iloc[offer], -1)
    vintage = offers["vintage"].astype("float64").fillna(0.0).to_numpy()[offer]
    available = offers["available"].to_numpy(dtype="float64")[offer]
    price_to = offers["price_75cl_ttc"].to_numpy(dtype="float64")[offer]
    closeness = 1.0 - np.sqrt(np.mean((world.taste[customer] - world.wine_aroma[wine]) ** 2, axis=1))
    is_close = world.has_taste[customer] & (closeness >= settings.close_taste)
    shares = {}
    for name, table, code in (
        ("grape", moment.grape_share, world.wine_grape[wine]),
        ("family", moment.family_share, world.wine_family[wine]),
    ):
        known = np.flatnonzero(code >= 0)
        share = np.zeros(len(chosen))
        share[known] = table[customer[known], code[known]]
        shares[f"{name}_share"] = np.where(share >= settings.share, share, 0.0)
    return {
        "scenario": np.array(SCENARIOS, dtype=object)[scenario],
        "is_repeat": is_repeat,
        "state": np.array(STATES, dtype=object)[chosen["state"].to_numpy(dtype=np.int64)],
        "n_orders": n_orders,
        "last_day": last_day,
        "interval": interval,
        "interval_of": np.array([*INTERVAL_SOURCES[:-1], ""], dtype=object)[source],
        "days_late": late,
        "because_label": np.append(world.wine_label, "")[because],
        "n_together": np.where(together >= settings.orders_together, together, 0),
        "grape": np.append(world.grapes.to_numpy(dtype=object), "")[world.wine_grape[wine]],
        "family": np.append(world.families.to_numpy(dtype=object), "")[world.wine_family[wine]],
        **shares,
        "price_from": np.where(scenario == UPSELL, world.price[customer], np.nan),
        "price_to": np.where(scenario == UPSELL, price_to, np.nan),
        "top": _tops(moment.popularity, settings.tops)[world.is_professional[customer].astype(np.int64), wine],
        "gone_day": _last_days(moment)[customer],
        # Its grapes were still on the vine when the customer last bought the wine.
        "new_vintage": np.where(is_repeat & (last_day < _harvest_days(vintage)), vintage, 0.0).astype(np.int64),
        "season": _seasons(offers["season_tags"], moment.until, world.rules)[offer],
        "left": np.where((available > 0) & (available <= settings.low_stock), np.floor(available), -1.0),
        "is_taste": is_close,
        "is_entry": segment == PRICE_SEGMENTS.index(world.rules.recommendations.nurture_price_segment),
    }


def _tops(popularity: np.ndarray, tops: list[int]) -> Ints:
    """Populations × wines: the smallest of `tops` that a wine is among by share of buyers; 0: none, or the
    estate sells fewer than twice as many.
    """
    result = np.zeros(popularity.shape, dtype=np.int64)
    for row, share in enumerate(np.round(popularity.astype("float64"), 6)):
        sold = np.sort(share[share > 0])
        place = len(sold) - np.searchsorted(sold, share, side="left")  # of equals all have the last place
        for top in sorted((t for t in tops if 2 * t <= len(sold)), reverse=True):
            result[row, (share > 0) & (place <= top)] = top
    return result


def _last_days(moment: _Moment) -> Ints:
    """Day number of each customer's last purchase of any wine, -1 without one."""
    result = np.full(len(moment.starts) - 1, -1, dtype=np.int64)
    has = np.diff(moment.starts) > 0
    if has.any():
        result[has] = np.maximum.reduceat(moment.last, moment.starts[:-1][has])
    return result


def _harvest_days(vintage: Floats) -> Ints:
    """Day number of the first of September of each year; before all days where the year is 0."""
    unique, where = np.unique(vintage, return_inverse=True)
    days = [day_number(date(int(year), 9, 1)) if year >= 1 else _NEVER for year in unique]
    return np.array(days, dtype=np.int64)[where]


def _seasons(tags: pd.Series, day: int, rules: BusinessRules) -> np.ndarray[Any, np.dtype[np.object_]]:
    """Per offer the season of its own that `day` is in, the shortest of several; '' for none."""
    month = date_of(day).month
    months = rules.recommendations.season_tags
    now = sorted((tag for tag, span in months.items() if month in span), key=lambda tag: (len(months[tag]), tag))
    found = []
    for given in tags:
        own = set(given) if isinstance(given, list | tuple | np.ndarray) else set()
        found.append(next((tag for tag in now if tag in own), ""))
    return np.array([*found, ""], dtype=object)[:-1]


def _reasons(
    facts: dict[str, np.ndarray],
    moment: _Moment,
    customer: Ints,
    because: Ints,
    world: _World,
) -> np.ndarray:
    """JSON of the facts behind each item that have no column: state, list, chance of an order, rhythm, what it was
    bought with, shares and prices; no personal data.
    """
    wine_ids = np.array([*(json.dumps(w, ensure_ascii=False) for w in world.wines), "null"], dtype=object)
    last_day = facts["last_day"]
    values: dict[str, np.ndarray] = {
        "state": _json_texts(facts["state"]),
        "list": np.where(facts["is_repeat"], '"repeat"', '"explore"').astype(object),
        "order_probability": _number_texts(np.round(moment.p_order[customer], 4)),
        "orders_of_wine": _number_texts(facts["n_orders"]),
        "days_since_bought": _number_texts(np.where(last_day >= 0, float(moment.until) - last_day, np.nan)),
        "interval_days": _number_texts(np.round(facts["interval"], 1)),
        "interval_of": _json_texts(facts["interval_of"]),
        "days_late": _number_texts(np.round(facts["days_late"], 0)),
        "because_wine_id": wine_ids[because],
        "orders_together": _number_texts(facts["n_together"]),
        "grape_share": _number_texts(np.round(facts["grape_share"], 4)),
        "family_share": _number_texts(np.round(facts["family_share"], 4)),
        "price_from": _number_texts(np.round(facts["price_from"], 2)),
        "price_to": _number_texts(np.round(facts["price_to"], 2)),
        "among_most_bought": _number_texts(facts["top"]),
        "new_vintage": _number_texts(np.where(facts["new_vintage"] > 0, facts["new_vintage"], np.nan)),
        "in_season": _json_texts(facts["season"]),
    }
    # The facts stand in one template; doubled braces are JSON's own.
    template = "{{" + ",".join(f'"{name}":{{{name}}}' for name in values) + "}}"
    return phrases.render(template, values, np.arange(len(customer)))


def _json_texts(values: np.ndarray) -> np.ndarray[Any, np.dtype[np.object_]]:
    """Words as JSON: '' as null."""
    codes, unique = pd.factorize(values)
    texts = [json.dumps(value, ensure_ascii=False) if value else "null" for value in unique]
    return np.array([*texts, "null"], dtype=object)[codes]


def _number_texts(values: np.ndarray) -> np.ndarray[Any, np.dtype[np.object_]]:
    """Numbers as JSON: whole ones without a point, NaN as null."""
    codes, unique = pd.factorize(values)
    texts = [str(int(v)) if float(v).is_integer() else repr(float(v)) for v in unique]
    return np.array([*texts, "null"], dtype=object)[codes]
