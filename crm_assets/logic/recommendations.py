"""Recommendations: which wines to propose to whom, why, and how likely they are to be ordered (spec.md §5).

`recommend` is the whole of it: two lists of candidates per customer (repeat: bought before; explore: never
bought), scored by components 0..1, chosen by the customer's state, cut by family diversity and stock, and
given a probability calibrated on the tenant's own past. Frames in, frames out: no SQL, no Dagster, no clock,
no unseeded chance, and no loop over customers. The same inputs in any row order give the same bytes.
Permission and audit are not decided here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from crm_assets.logic import customers as customer_logic
from crm_assets.logic import phrases
from crm_assets.logic.customers import AROMA_AXES, Floats, Ints, day_number, day_numbers, positions, totals

if TYPE_CHECKING:
    from crm_assets.rules import BusinessRules

SCENARIOS = ("rebuy", "cross_sell", "upsell", "winback", "nurture")
REBUY, CROSS_SELL, UPSELL, WINBACK, NURTURE = range(5)
COMPONENTS = ("collaborative", "content", "popularity", "rhythm", "margin", "season")
STATES = ("no_order", "lapsed", "one_order", "regular")
NO_ORDER, LAPSED, ONE_ORDER, REGULAR = range(4)
PRICE_SEGMENTS = ("entry", "standard", "premium", "luxury")
INTERVAL_SOURCES = ("own", "wine", "family", "unknown")
KINDS = ("repeat", "explore")
STANDARD_FORMAT_CL = 75.0

NEUTRAL = 0.5  # a component about which nothing is known
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
    * preferences: customer_id, top_family_1, price_75cl_ttc, price_segment, usual_format_cl, tier_mode.
    * taste: rows of customers.taste_profiles. products: rows of curated.dim_products.
    * popularity: population, wine_id, share of distinct buyers.
    * sent_wines: customer_id, wine_id, sent_date, of really sent messages.
    * rejections: customer_id, wine_id, rejected_date.
    * allocations: product_key, customer_id it may be offered to.
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


@dataclass(frozen=True)
class RecommendationResult:
    """`items`: rows of recommendations.items without run_id, by customer_id and rank. `engine`: how they
    were made.
    """

    items: pd.DataFrame
    engine: dict[str, Any]


def recommend(inputs: RecommendationInputs, rules: BusinessRules, as_of: date, locale: str) -> RecommendationResult:
    """The recommended wines of every person at `as_of`; `locale` is the tenant's (spec.md §5)."""
    world = _World.of(inputs, rules)
    until = day_number(as_of)
    moment = _Moment.at(world, until, world.facts_given(inputs.customers), world.popularity_given(inputs.popularity))
    blocked = _blocked(world, moment, until, inputs.sent_wines, inputs.rejections)
    calibration = _calibrate(world, inputs, until)

    capacity = stock_capacity(world.offers["available"].to_numpy(dtype="float64"), rules)
    everyone = np.arange(len(world.customers))
    candidates = _score(_candidates(world, moment, everyone, blocked, capacity > 0), world, None)
    reference = candidates.reference
    chosen, displaced = choose(candidates.frame, capacity, rules)
    found = [candidates.frame[chosen]]
    # Whoever lost all to the stock limits gets another look at what is left.
    hungry = np.setdiff1d(candidates.frame["customer"].to_numpy(), found[0]["customer"].to_numpy())
    while len(hungry):
        capacity = capacity - np.bincount(found[-1]["offer"], minlength=len(capacity))
        again = _score(_candidates(world, moment, hungry, blocked, capacity > 0), world, reference)
        chosen, more = choose(again.frame, capacity, rules)
        displaced += more
        if not chosen.any():
            break
        found.append(again.frame[chosen])
        hungry = np.setdiff1d(again.frame["customer"].to_numpy(), found[-1]["customer"].to_numpy())

    selected = pd.concat(found, ignore_index=True)
    items = _items(selected, world, moment, calibration, as_of, locale)
    engine = {
        "ranker": "decayed personal share (repeat), basket cosine (explore)",
        "customers": len(world.customers),
        "customers_by_state": {s: int((moment.state == i).sum()) for i, s in enumerate(STATES)},
        "customers_with_items": int(selected["customer"].nunique()),
        "items_by_scenario": {s: int((selected["scenario"] == i).sum()) for i, s in enumerate(SCENARIOS)},
        "offers": len(world.offers),
        "candidates": len(candidates.frame),
        "displaced_by_stock": displaced,
        "calibration": calibration.report,
    }
    return RecommendationResult(items, engine)


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
    order. wine_family, wine_grape: code per wine, -1 unknown; codes index `families`, `grapes`.
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
    wine_aroma: Floats
    rows: dict[str, np.ndarray]
    is_professional: Flags
    taste: Floats
    has_taste: Flags
    price: Floats
    segment: Ints
    tier: Ints
    top_family: Ints
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
        aromas = customer_logic.wine_aromas(products).reindex(wines).to_numpy(dtype="float64")

        people = inputs.customers.assign(customer_id=inputs.customers["customer_id"].astype(str))
        people = people.drop_duplicates("customer_id").set_index("customer_id").loc[customers]
        likes = inputs.preferences.assign(customer_id=inputs.preferences["customer_id"].astype(str))
        likes = likes.set_index("customer_id").reindex(customers)
        taste = inputs.taste.assign(customer_id=inputs.taste["customer_id"].astype(str))
        taste = taste.set_index("customer_id").reindex(customers)
        formats = likes["usual_format_cl"].fillna(STANDARD_FORMAT_CL).to_numpy(dtype="float64")
        group, groups = _offer_groups(formats, customers, offers, inputs.allocations)
        return cls(
            rules=rules,
            customers=customers,
            wines=wines,
            offers=offers,
            wine_label=faces["label"].fillna("").astype(str).to_numpy(dtype=object),
            families=families,
            grapes=grapes,
            wine_family=positions(faces["family"], families),
            wine_grape=positions(faces["grape"], grapes),
            wine_aroma=aromas,
            rows=_purchase_rows(inputs.purchases, customers, wines),
            is_professional=(people["population"] == "professional").to_numpy(dtype=bool),
            taste=taste[AROMA_AXES].to_numpy(dtype="float64"),
            has_taste=(taste["confidence"].fillna(0.0) > 0).to_numpy(dtype=bool),
            price=likes["price_75cl_ttc"].to_numpy(dtype="float64"),
            segment=_segments(likes["price_segment"], len(PRICE_SEGMENTS)),
            tier=likes["tier_mode"].astype("float64").fillna(99.0).to_numpy().astype(np.int64),
            top_family=positions(likes["top_family_1"], families),
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
class _Moment:
    """Everything that depends on the day: personal histories, co-purchase, rhythm, activity, state.

    Pairs (customer × wine bought) are sorted by customer, wine; `starts` has one entry per customer plus
    one. cosine: wines × wines over baskets. share: customers × wines, sparse, personal decayed weights
    summing to 1 a row.
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
    share: Any
    cosine: np.ndarray
    family_share: np.ndarray
    grape_share: np.ndarray
    popularity: np.ndarray
    p_order: Floats
    expected_orders: Floats
    state: Ints

    @classmethod
    def at(cls, world: _World, until: int, facts: _Facts | None, popularity: Floats | None) -> _Moment:
        from scipy import sparse

        rules = world.rules
        n, n_wines = len(world.customers), len(world.wines)
        known = world.rows["day"] <= until
        customer, wine, day, amount, order = (
            world.rows[name][known] for name in ("customer", "wine", "day", "amount", "order")
        )
        decay = np.exp(-(until - day) / rules.recommendations.memory_days)

        new_pair = _changes(customer, wine)
        start = np.flatnonzero(new_pair)
        pair_customer, pair_wine = customer[start], wine[start]
        first, last = day[start], day[np.append(start[1:], len(day)) - 1] if len(start) else day[:0]
        n_days = _sums(new_pair | _changes(day), start)
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

        baskets = sparse.csr_matrix(
            (np.ones(len(order), dtype=np.float32), (order, wine)),
            shape=(int(order.max(initial=0)) + 1, n_wines),
        )
        baskets.data[:] = 1.0  # a wine twice in a basket is once
        counts = (baskets.T @ baskets).toarray()
        size = np.sqrt(np.maximum(np.diag(counts), 1.0))
        cosine = (counts / size[:, None] / size[None, :]).astype(np.float32)
        np.fill_diagonal(cosine, 0.0)

        starts = np.searchsorted(pair_customer, np.arange(n + 1))
        total = totals(pair_customer, weight, n)
        normal = (weight / total[pair_customer]).astype(np.float32)
        share = sparse.csr_matrix((normal, pair_wine, starts), shape=(n, n_wines))
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
            share=share,
            cosine=cosine,
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


def _changes(*columns: np.ndarray) -> Flags:
    """True where any of the sorted columns differs from the row before, and on the first row."""
    changed = np.zeros(len(columns[0]), dtype=bool)
    changed[:1] = True
    for column in columns:
        changed[1:] |= column[1:] != column[:-1]
    return changed


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

    Columns: customer, wine, offer, scenario, state, tier (what comes first), is_repeat, raw (the ranker's
    value), the components but `collaborative`, pair (position in the moment's pairs, -1 for explore).
    """
    rules = world.rules
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
    if len(pair):
        customer = rows[row]
        raw = moment.weight[pair] / (moment.orders_weight[customer] + settings.ranker_prior_orders)
        if state == LAPSED:
            # Expected purchases × value (spec.md §5): how often still, this wine's part of it, EUR HT each
            # time.
            value = np.maximum(moment.amount[pair], 0.0) / moment.n_orders[pair]
            raw = moment.expected_orders[customer] * raw * value
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
        }

    # Never bought.
    _mark(barred, rows, column, moment.customer, moment.wine)
    raw_all = np.asarray(moment.share[rows] @ moment.cosine[:, targets])
    best = raw_all.max(axis=1, keepdims=True)
    collaborative = np.divide(raw_all, best, out=np.zeros_like(raw_all), where=best > 0)
    for scenario, eligible in _explore_scenarios(world, moment, rows, state, targets, offer, raw_all, barred):
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
        }


def _explore_scenarios(
    world: _World,
    moment: _Moment,
    rows: Ints,
    state: int,
    targets: Ints,
    offer: Ints,
    raw: np.ndarray,
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
    similar = raw > 0
    similar |= (moment.family_share[rows] > 0)[:, family] & (family >= 0)[None, :] if len(world.families) else False
    similar |= (moment.grape_share[rows] > 0)[:, grape] & (grape >= 0)[None, :] if len(world.grapes) else False
    yield CROSS_SELL, free & similar & ~upsell


def _content(world: _World, moment: _Moment, rows: Ints, targets: Ints, offer: Ints) -> np.ndarray:
    """Likeness 0..1 of wines to what customers like, rows × targets: mean of taste, family, grape and price.

    taste = 1 - root mean square distance of the profiles; family and grape = share of the customer's spend;
    price = the smaller of the two prices per 75 cl over the larger. What is unknown of either is neutral.
    """
    taste, aroma = world.taste[rows], world.wine_aroma[targets]
    unknown_taste, unknown_aroma = np.isnan(taste).any(axis=1), np.isnan(aroma).any(axis=1)
    a, b = np.nan_to_num(taste).astype(np.float32), np.nan_to_num(aroma).astype(np.float32)
    squared = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None, :] - 2.0 * (a @ b.T)
    total = 1.0 - np.sqrt(np.maximum(squared, 0.0) / len(AROMA_AXES))
    total[unknown_taste, :] = NEUTRAL
    total[:, unknown_aroma] = NEUTRAL
    for share, code in (
        (moment.family_share, world.wine_family[targets]),
        (moment.grape_share, world.wine_grape[targets]),
    ):
        if share.shape[1]:
            total += np.where(code >= 0, share[rows][:, code], np.float32(NEUTRAL))
        else:
            total += np.float32(NEUTRAL)
    wine_price = world.offers["price_75cl_ttc"].to_numpy(dtype="float64")[offer]
    own = np.where(world.price[rows] > 0, world.price[rows], np.nan).astype(np.float32)[:, None]
    other = np.where(wine_price > 0, wine_price, np.nan).astype(np.float32)[None, :]
    closeness = np.minimum(own, other) / np.maximum(own, other)
    total += np.nan_to_num(closeness, copy=False, nan=NEUTRAL)
    return total / np.float32(4.0)


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
    month = np.datetime64(day, "D").astype("datetime64[M]").astype(int) % 12 + 1
    months = rules.recommendations.season_tags
    values = []
    for given in tags:
        known = [months[tag] for tag in given if tag in months] if isinstance(given, list | tuple | np.ndarray) else []
        values.append(NEUTRAL if not known else float(any(month in span for span in known)))
    return np.array(values, dtype=np.float32)


def _mark(cells: Flags, rows: Ints, column: Ints, customer: Ints, wine: Ints) -> None:
    """Set the cells of the given (customer, wine) pairs, sorted by customer; `rows` are sorted customers."""
    begin, end = np.searchsorted(customer, rows), np.searchsorted(customer, rows, side="right")
    pair, row = _ranges(begin, end)
    at = column[wine[pair]]
    cells[row[at >= 0], at[at >= 0]] = True


def _pairs_of(moment: _Moment, rows: Ints) -> tuple[Ints, Ints]:
    return _ranges(moment.starts[rows], moment.starts[rows + 1])


def _ranges(begin: Ints, end: Ints) -> tuple[Ints, Ints]:
    """All positions of the ranges begin..end, and which range each belongs to."""
    length = end - begin
    row = np.repeat(np.arange(len(begin)), length)
    offset = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
    return begin[row] + offset, row


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


def _score(
    parts: list[dict[str, np.ndarray]], world: _World, reference: dict[tuple[bool, bool], Floats] | None
) -> _Scored:
    """Add `collaborative`, `base` (weighted components 0..1) and `score` (0..100) to the candidates.

    collaborative = share of the run's candidates of the same list whose ranker value is smaller. Winback
    ranks by money and the others by share, so they are different lists. `reference` = the distributions of a
    first pass.
    """
    numbers = ["customer", "wine", "offer", "scenario", "state", "tier", "pair"]
    columns = [*numbers, "raw", "content", "popularity", "rhythm", "margin", "season"]
    table = {c: np.concatenate([part[c] for part in parts]) if parts else np.zeros(0, np.int64) for c in columns}
    raw = np.round(table.pop("raw"), 6)
    is_repeat, is_winback = table["pair"] >= 0, table["scenario"] == WINBACK
    collaborative = np.zeros(len(raw))
    seen: dict[tuple[bool, bool], Floats] = {}
    for repeat in (True, False):
        for winback in (True, False):
            rows = np.flatnonzero((is_repeat == repeat) & (is_winback == winback))
            known = np.sort(raw[rows]) if reference is None else reference[repeat, winback]
            seen[repeat, winback] = known
            distinct, where = np.unique(raw[rows], return_inverse=True)
            collaborative[rows] = (np.searchsorted(known, distinct) / max(len(known) - 1, 1))[where]
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
    start = np.flatnonzero(_changes(keys))
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


def _calibrate(world: _World, inputs: RecommendationInputs, until: int) -> _Calibration:
    """Run the same candidates and scores 90 days earlier, and learn how often the wine was then in an order.

    An isotonic curve per list kind; the measures in the report are of a curve learned on every second
    customer and judged on the others. With too little history the probability is the base rate observed, 0
    when there is none, and the report says so. Taste is recomputed at that day; preferences, allocations and
    the catalogue are today's (they are not kept by day), and stock, messages and reviews play no part.
    Customers without an order then are left out: who appears by ordering would make them look keen. Today's
    get the curve's lowest value.
    """
    settings = world.rules.recommendations
    cut = until - settings.probability_days
    day = world.rows["day"]
    past = day <= cut
    buyers = np.unique(world.rows["customer"][past])
    history_days = int(until - day.min()) if len(day) else 0
    enough = len(buyers) >= world.rules.predictions.min_customers
    enough = enough and history_days >= world.rules.predictions.min_history_days
    report: dict[str, Any] = {"cut_days_before": settings.probability_days, "history_days": history_days}
    curves: dict[str, tuple[Floats, Floats]] = {}
    step = -(-len(buyers) // settings.calibration_max_customers) if len(buyers) else 1
    who = buyers[::step]
    candidates, happened, moment = _past_candidates(world, inputs, cut, until, who)
    for kind in KINDS:
        rows = (candidates["pair"].to_numpy() >= 0) == (kind == "repeat")
        label = happened[rows]
        positives = int(label.sum())
        facts = {"customers": len(who), "candidates": int(rows.sum()), "ordered": positives}
        if enough and positives >= settings.calibration_min_positives:
            signal = _signal(candidates[rows], moment)
            odd = candidates["customer"].to_numpy()[rows] % 2 == 1
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


def _isotonic(signal: Floats, happened: Flags) -> tuple[Floats, Floats]:
    from sklearn.isotonic import IsotonicRegression

    model = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(signal, happened.astype("float64"))
    return np.asarray(model.X_thresholds_, dtype="float64"), np.asarray(model.y_thresholds_, dtype="float64")


def _past_candidates(
    world: _World, inputs: RecommendationInputs, cut: int, until: int, who: Ints
) -> tuple[pd.DataFrame, Flags, _Moment]:
    """Scored candidates of the customers `who` at day `cut`, and whether each wine was ordered in (cut,
    until].
    """
    from dataclasses import replace

    day = np.datetime64(cut, "D").astype(object)
    people = pd.DataFrame({"customer_id": world.customers[who]})
    theirs = inputs.purchases
    if len(who) < len(world.customers):
        theirs = theirs[theirs["customer_id"].isin(people["customer_id"])]
    taste = np.full(world.taste.shape, np.nan)
    profiles = customer_logic.taste_profiles(people, theirs, inputs.products, day, world.rules)
    taste[who] = profiles[AROMA_AXES].to_numpy(dtype="float64")
    then = replace(world, taste=taste)
    moment = _Moment.at(then, cut, None, None)
    blocked = _blocked(then, moment, cut, None, None)
    parts = _candidates(then, moment, who, blocked, np.ones(len(world.offers), dtype=bool))
    candidates = _score(parts, then, None).frame
    since = (world.rows["day"] > cut) & (world.rows["day"] <= until)
    n_wines = len(world.wines)
    ordered = np.unique(world.rows["customer"][since] * n_wines + world.rows["wine"][since])
    happened = np.isin(candidates["customer"].to_numpy() * n_wines + candidates["wine"].to_numpy(), ordered)
    return candidates, happened, moment


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
    signal = _signal(chosen, moment)
    probability = calibration.probability(signal, is_repeat)
    scenario = np.array(SCENARIOS, dtype=object)[chosen["scenario"].to_numpy(dtype=np.int64)]

    has_pair = np.where(is_repeat, pair, 0)
    if len(moment.wine):
        last_day = np.where(is_repeat, moment.last[has_pair], -1)
        interval = np.where(is_repeat, moment.interval[has_pair], np.nan)
        source = np.where(is_repeat, moment.interval_source[has_pair], len(INTERVAL_SOURCES) - 1)
        n_orders = np.where(is_repeat, moment.n_orders[has_pair], 0)
    else:
        last_day, interval = np.full(len(chosen), -1), np.full(len(chosen), np.nan)
        source, n_orders = (
            np.full(len(chosen), len(INTERVAL_SOURCES) - 1),
            np.zeros(len(chosen), dtype=np.int64),
        )
    because = _because(moment, customer, np.where(is_repeat, -1, wine))
    families = np.append(world.families.to_numpy(dtype=object), "")
    segment = _segments(world.offers["price_segment"].iloc[offer], -1)
    is_taste = world.has_taste[customer] & ~np.isnan(world.wine_aroma[wine]).any(axis=1)
    entry = PRICE_SEGMENTS.index(world.rules.recommendations.nurture_price_segment)
    facts = pd.DataFrame(
        {
            "scenario": scenario,
            "is_repeat": is_repeat,
            "interval": interval,
            "last_day": last_day,
            "because_label": np.append(world.wine_label, "")[because],
            "family": families[world.wine_family[wine]],
            "is_taste": is_taste,
            "is_entry": segment == entry,
        }
    )
    frame = pd.DataFrame(
        {
            "customer_id": world.customers.to_numpy(dtype=object)[customer],
            "wine_id": world.wines.to_numpy(dtype=object)[wine],
            "product_key": world.offers["product_key"].to_numpy(dtype=object)[offer],
            "scenario": scenario,
            "rank": _place(customer) + 1,
            "score": chosen["score"].to_numpy(),
            "probability": probability,
            "confidence": confidence(probability, is_repeat, world.rules),
            **{name: chosen[name].to_numpy() for name in COMPONENTS},
            "explain_short": phrases.explanations(facts, as_of, locale),
            "customer_sentence": phrases.sentences(scenario, locale, offer, world.offers),
        }
    )
    frame["reasons"] = _reasons(frame, chosen, moment, interval, source, n_orders, last_day, because, world, is_repeat)
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


def _because(moment: _Moment, customer: Ints, wine: Ints) -> Ints:
    """The bought wine that speaks most for each explored one (share × cosine); -1: none, or `wine` is -1."""
    begin, end = moment.starts[customer], moment.starts[customer + 1]
    pair, row = _ranges(np.where(wine >= 0, begin, 0), np.where(wine >= 0, end, 0))
    voice = np.round(moment.weight[pair] * moment.cosine[moment.wine[pair], wine[row]], 6)
    order = np.lexsort((moment.wine[pair], -voice, row))
    first = order[np.unique(row[order], return_index=True)[1]]
    result = np.full(len(customer), -1, dtype=np.int64)
    speaks = first[voice[first] > 0]
    result[row[speaks]] = moment.wine[pair[speaks]]
    return result


def _reasons(
    frame: pd.DataFrame,
    chosen: pd.DataFrame,
    moment: _Moment,
    interval: Floats,
    source: Ints,
    n_orders: Ints,
    last_day: Ints,
    because: Ints,
    world: _World,
    is_repeat: Flags,
) -> np.ndarray:
    """JSON of the facts behind each item: state, list, chance of an order, components, rhythm, ids; no
    personal data.
    """
    n = len(frame)
    state = np.array([json.dumps(name) for name in STATES], dtype=object)[chosen["state"].to_numpy(dtype=np.int64)]
    wine_ids = np.array([*(json.dumps(w, ensure_ascii=False) for w in world.wines), "null"], dtype=object)
    sources = np.array([*(json.dumps(name) for name in INTERVAL_SOURCES[:-1]), "null"], dtype=object)
    facts: dict[str, np.ndarray] = {
        "state": state,
        "list": np.where(is_repeat, '"repeat"', '"explore"').astype(object),
        "order_probability": _number_texts(np.round(moment.p_order[chosen["customer"].to_numpy(dtype=np.int64)], 4)),
        "orders_of_wine": _number_texts(n_orders),
        "days_since_bought": _number_texts(np.where(is_repeat, float(moment.until) - last_day, np.nan)),
        "interval_days": _number_texts(np.round(interval, 1)),
        "interval_of": sources[source],
        "because_wine_id": wine_ids[because],
        **{name: _number_texts(frame[name].to_numpy()) for name in COMPONENTS},
    }
    # The facts stand in one template; doubled braces are JSON's own.
    template = "{{" + ",".join(f'"{name}":{{{name}}}' for name in facts) + "}}"
    return phrases.render(template, facts, n)


def _number_texts(values: np.ndarray) -> np.ndarray[Any, np.dtype[np.object_]]:
    """Numbers as JSON: whole ones without a point, NaN as null."""
    codes, unique = pd.factorize(values)
    texts = [str(int(v)) if float(v).is_integer() else repr(float(v)) for v in unique]
    return np.array([*texts, "null"], dtype=object)[codes]
