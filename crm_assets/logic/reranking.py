"""The re-ranker: a second look at the ranker's best products with everything else that is known of them.

A candidate is a customer and a product; its features are what the past says of the pair (how often, when,
its rhythm), of the product (what sells now, in this season, how often it is bought again) and of the customer
(how often, how much, how lately). A gradient boosting learns from past calendar cuts which candidates were in
the next order. At each of those cuts the ranker that scores the candidates has learned from earlier orders
only: a score that had seen the answer would teach the model to trust it. No choice of engine here
(`backtesting`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from crm_assets.logic import ranking
from crm_assets.logic.ranking import NOTHING, Flags, Floats, Ints, Ranker, Transactions

if TYPE_CHECKING:
    from scipy import sparse

    from crm_assets.rules import Ranking

PAIR_FEATURES = (
    "score", "score_share", "orders_with", "share_of_orders", "share_lately", "days_since",
    "orders_since", "own_interval", "elapsed_intervals", "days_known", "in_last_orders",
)  # fmt: skip
PRODUCT_FEATURES = (
    "popular_now", "popular_before", "popular_drift", "popular_season", "repeat_rate", "product_interval",
    "product_age", "elapsed_product_intervals",
)  # fmt: skip
CUSTOMER_FEATURES = (
    "orders", "tenure", "silence", "order_interval", "silent_intervals", "basket", "last_basket", "novelty",
)  # fmt: skip
FEATURES = PAIR_FEATURES + PRODUCT_FEATURES + CUSTOMER_FEATURES
_LATELY_DAYS = 60.0
_LAST_ORDERS = 3


@dataclass(frozen=True)
class Facts:
    """What is known at a day of customers and products, and of the pairs that were bought.

    Pairs are sorted by `key` = customer × products + product. Days are counted back from the day.
    """

    n_products: int
    key: Ints
    pair: dict[str, Floats]
    product: dict[str, Floats]
    customer: dict[str, Floats]

    @classmethod
    def at(cls, past: Transactions, who: Ints, day: int, horizon: int) -> Facts:
        """Facts at `day` of the customers `who` (their positions become 0..); all of `past` lies before it."""
        theirs = past.of_customers(who)
        p = theirs.n_products
        orders = np.diff(theirs.customer_start)
        customer = theirs.order_customer[theirs.order]
        count = max(int(orders.max(initial=0)), 1)
        number = theirs.order - theirs.customer_start[customer]
        lines = np.sort((customer * p + theirs.product) * count + number)
        keys, number = np.divmod(lines, count)
        start = np.flatnonzero(ranking.changes(keys))
        end = np.append(start[1:], len(keys))[: len(start)]
        key = keys[start]
        owner = key // p
        first_order = theirs.customer_start[owner] + number[start]
        last_order = theirs.customer_start[owner] + (number[end - 1] if len(start) else number[start])
        n_with = (end - start).astype(np.float32)
        first = day - theirs.order_day[first_order]
        last = day - theirs.order_day[last_order]
        age = (day - theirs.order_day[theirs.customer_start[keys // p] + number]).astype(np.float64)
        lately = _sum_runs(np.exp(-age / _LATELY_DAYS), start)
        late = _sum_runs((orders[keys // p] - number <= _LAST_ORDERS).astype(np.float64), start)
        own_interval = np.divide(first - last, n_with - 1, out=np.full(len(start), np.nan), where=n_with > 1)
        pair = {
            "orders_with": n_with,
            "share_of_orders": n_with / orders[owner],
            "share_lately": lately,
            "days_since": last,
            "orders_since": theirs.customer_start[owner + 1] - 1 - last_order,
            "own_interval": own_interval,
            "elapsed_intervals": last / np.maximum(own_interval, 1.0),
            "days_known": first,
            "in_last_orders": late,
        }
        return cls(
            n_products=p,
            key=key,
            pair={name: value.astype(np.float32) for name, value in pair.items()},
            product=_product_facts(past, day, horizon),
            customer=_customer_facts(theirs, day, key // p),
        )


def _sum_runs(values: np.ndarray, start: Ints) -> np.ndarray:
    return np.add.reduceat(values, start) if len(start) else np.zeros(0)


def _product_facts(past: Transactions, day: int, horizon: int) -> dict[str, Floats]:
    n, p = past.n_customers, past.n_products
    now = ranking.popularity(past, day, horizon)
    before = ranking.popularity(past.before(day - horizon), day - horizon, horizon)
    season_end = day - 365 + horizon
    season = ranking.popularity(past.before(season_end), season_end, horizon)
    if not len(past.order_day) or past.order_day.min() > day - 365:
        season = np.full(p, np.nan, dtype=np.float32)
    customer = past.order_customer[past.order]
    keys = np.sort((past.product * n + customer) * (past.n_orders + 1) + past.order)
    pair, order = np.divmod(keys, past.n_orders + 1)
    start = np.flatnonzero(ranking.changes(pair))
    end = np.append(start[1:], len(pair))[: len(start)]
    times = end - start
    product = pair[start] // max(n, 1)
    span = past.order_day[order[end - 1]] - past.order_day[order[start]] if len(start) else times
    buyers = np.bincount(product, minlength=p)
    again = np.bincount(product, times > 1, p)
    gaps = np.bincount(product, times - 1, p)
    first_day = np.full(p, day)
    np.minimum.at(first_day, past.product, past.order_day[past.order])
    facts = {
        "popular_now": now,
        "popular_before": before,
        "popular_drift": np.log((now + 1e-4) / (before + 1e-4)),
        "popular_season": season,
        "repeat_rate": (again + 1.0) / (buyers + 5.0),
        "product_interval": np.divide(np.bincount(product, span, p), gaps, out=np.full(p, np.nan), where=gaps > 0),
        "product_age": day - first_day,
    }
    return {name: value.astype(np.float32) for name, value in facts.items()}


def _customer_facts(theirs: Transactions, day: int, pair_customer: Ints) -> dict[str, Floats]:
    n = theirs.n_customers
    orders = np.diff(theirs.customer_start)
    has = orders > 0
    first = np.where(has, day - theirs.order_day[np.where(has, theirs.customer_start[:-1], 0)] if has.any() else 0, 0)
    last = np.where(has, day - theirs.order_day[np.where(has, theirs.customer_start[1:] - 1, 0)] if has.any() else 0, 0)
    sizes = np.diff(theirs.order_start)
    lines = np.bincount(theirs.order_customer, sizes, n)
    interval = np.divide(first - last, orders - 1, out=np.full(n, np.nan), where=orders > 1)
    last_size = sizes[np.where(has, theirs.customer_start[1:] - 1, 0)] if has.any() else np.zeros(n)
    facts = {
        "orders": orders,
        "tenure": first,
        "silence": last,
        "order_interval": interval,
        "silent_intervals": last / np.maximum(interval, 1.0),
        "basket": lines / np.maximum(orders, 1),
        "last_basket": np.where(has, last_size, 0),
        "novelty": np.bincount(pair_customer, minlength=n) / np.maximum(lines, 1.0),
    }
    return {name: value.astype(np.float32) for name, value in facts.items()}


def features(facts: Facts, customer: Ints, product: Ints, score: Floats, best: Floats) -> Floats:
    """One row of FEATURES per candidate; NaN where the past says nothing.

    score: the ranker's; best: the best score of its customer.
    """
    table = np.full((len(customer), len(FEATURES)), np.nan, dtype=np.float32)
    column = {name: table[:, i] for i, name in enumerate(FEATURES)}
    column["score"][:] = score
    column["score_share"][:] = score / np.maximum(best, 1e-9)
    key = customer * facts.n_products + product
    at = np.minimum(np.searchsorted(facts.key, key), max(len(facts.key) - 1, 0))
    known = facts.key[at] == key if len(facts.key) else np.zeros(len(key), dtype=bool)
    for name, values in facts.pair.items():
        column[name][known] = values[at[known]]
    for name in ("orders_with", "share_of_orders", "share_lately", "in_last_orders"):
        column[name][~known] = 0.0
    for name, values in facts.product.items():
        column[name][:] = values[product]
    for name, values in facts.customer.items():
        column[name][:] = values[customer]
    column["elapsed_product_intervals"][:] = column["days_since"] / np.maximum(column["product_interval"], 1.0)
    return table


@dataclass(frozen=True)
class Candidates:
    """The ranker's best products bought before and best new ones, customers × places; NOTHING where none.

    The first `n_repeat` places are of products bought before, by falling score in each part.
    """

    product: Ints
    score: Floats
    n_repeat: int

    @property
    def there(self) -> Flags:
        """Which places hold a product."""
        return self.product != NOTHING


def top_bought(scores: Floats, bought: sparse.csr_matrix, k: int) -> tuple[Ints, Floats]:
    """`ranking.top` of the products bought before alone (the stored values of `bought`, columns in order).

    They are few: sorting them takes a hundredth of a search through rows of which nearly all is barred.
    """
    n, p = scores.shape
    row = ranking.row_of(bought)
    value = scores.reshape(-1)[row * p + bought.indices]
    return ranking.first_of_rows(row, bought.indices, value, n, min(k, p))


def candidates(ranker: Ranker, history: ranking.History, rows: slice, n_repeat: int, n_explore: int) -> Candidates:
    """At most `n_repeat` products bought before and `n_explore` new ones of each customer in `rows`."""
    scores = ranker.scores(history, rows)
    bought = history.weight[rows]
    old, old_score = top_bought(scores, bought, n_repeat)
    ranking.bar_bought(scores, bought)
    new, new_score = ranking.top(scores, n_explore)
    return Candidates(np.hstack([old, new]), np.hstack([old_score, new_score]), old.shape[1])


def features_of(found: Candidates, facts: Facts, first_customer: int, which: Flags | None = None) -> Floats:
    """Features of the candidates that are there, row by row; of `which` of them only."""
    there = found.there
    best = np.where(there, found.score, -np.inf).max(axis=1, initial=-np.inf)
    which = there if which is None else which
    row, _ = np.nonzero(which)
    return features(facts, row + first_customer, found.product[which], found.score[which], best[row])


@dataclass(frozen=True)
class Examples:
    """Candidates at a past cut and whether the next order held them: FEATURES, `ordered`, and `weight`, by which
    a long order teaches no more than it should. `n_orders` orders made them.
    """

    table: Floats
    ordered: Flags
    weight: Floats
    n_orders: int


def examples(ranker: Ranker, transactions: Transactions, day: int, horizon: int, settings: Ranking) -> Examples:
    """What the candidates at `day` came to within the horizon; the ranker must know nothing from `day` on.

    At most `reranker.orders_per_cut` orders, every k-th where there are more.
    """
    orders = transactions.first_orders(day, day + horizon)
    orders = orders[:: -(-len(orders) // settings.reranker.orders_per_cut) or 1]
    past = transactions.before(day)
    who = transactions.order_customer[orders]
    facts = Facts.at(past, who, day, horizon)
    history = ranking.history_at(past.of_customers(who), day, ranker.recipe.memory_days)
    baskets = transactions.baskets(orders)
    truth = ranking.cells_of(baskets)
    size = np.diff(transactions.order_start)[orders]

    def work(rows: slice) -> tuple[Floats, Flags, Floats]:
        found = candidates(ranker, history, rows, settings.candidates_repeat, settings.candidates_explore)
        row, _ = np.nonzero(found.there)
        ordered = np.isin((row + rows.start) * past.n_products + found.product[found.there], truth)
        # What was not ordered is plenty: every k-th of it stands for k.
        step = settings.reranker.unordered_step
        kept = ordered | (np.cumsum(~ordered) % step == 0)
        weight = np.where(ordered, 1.0, step) / np.sqrt(size[row + rows.start])
        return features_of(found, facts, rows.start)[kept], ordered[kept], weight[kept].astype(np.float32)

    parts = ranking.in_parts(len(orders), past.n_products, work)
    if not parts:
        return Examples(np.zeros((0, len(FEATURES)), np.float32), np.zeros(0, bool), np.zeros(0, np.float32), 0)
    table, ordered, weight = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Examples(table, ordered, weight, len(orders))


@dataclass(frozen=True)
class Reranker:
    """A fitted model, the FEATURES it uses by position with the edges of their bins, and how many labelled orders
    it has learned from.
    """

    model: Any
    edges: dict[int, Floats]
    n_orders: int

    @classmethod
    def fit(cls, cuts: list[Examples], settings: Ranking) -> Reranker | None:
        """Learned from the examples of several cuts; None where they are of too few orders."""
        from sklearn.ensemble import HistGradientBoostingClassifier
        from threadpoolctl import threadpool_limits

        n_orders = sum(cut.n_orders for cut in cuts)
        ordered = np.concatenate([cut.ordered for cut in cuts]) if cuts else np.zeros(0, bool)
        if n_orders < settings.reranker.min_orders or ordered.all() or not ordered.any():
            return None
        model = HistGradientBoostingClassifier(
            max_iter=settings.reranker.iterations,
            learning_rate=settings.reranker.learning_rate,
            max_leaf_nodes=settings.reranker.leaves,
            min_samples_leaf=settings.reranker.leaf_candidates,
            l2_regularization=settings.reranker.l2,
            early_stopping=False,
            random_state=settings.reranker.seed,
        )
        table = np.concatenate([cut.table for cut in cuts])
        parts = np.linspace(0.0, 1.0, settings.reranker.bins + 1)[1:-1]
        edges = {}
        for position, values in enumerate(table.T):
            known = values[~np.isnan(values)]
            # What a short history never says (last year's season) has no value to split at, which is refused.
            if len(known):
                edges[position] = np.unique(np.quantile(known, parts).astype(np.float32))
        # Binned here: beside weights, scikit-learn sorts a column anew for each of its quantiles. And on one thread:
        # they wait for one another at every node, and beside other work two are many times slower than one.
        with threadpool_limits(limits=1):
            model.fit(_binned(table, edges), ordered, sample_weight=np.concatenate([cut.weight for cut in cuts]))
        return cls(model, edges, n_orders)

    def chances(self, table: Floats) -> Floats:
        """Chance of each candidate (rows of FEATURES) to be in the next order."""
        if not len(table):
            return np.zeros(0, dtype=np.float32)
        chance: Floats = self.model.predict_proba(_binned(table, self.edges))[:, 1].astype(np.float32)
        return chance


def _binned(table: Floats, edges: dict[int, Floats]) -> Floats:
    """The bin of each value, from 0; NaN stays."""
    bins = np.empty((len(table), len(edges)), dtype=np.float32)
    for place, (position, its_edges) in enumerate(edges.items()):
        values = table[:, position]
        bins[:, place] = np.searchsorted(its_edges, values, side="right")
        bins[np.isnan(values), place] = np.nan
    return bins
