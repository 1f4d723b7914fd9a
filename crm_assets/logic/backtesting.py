"""Which ranking serves: rankers compared on the tenant's own past, at calendar cuts.

Known is what was ordered before a cut; right is what the next order within the horizon held. Everything that
is measured at a cut was learned, and its weights were chosen, before that cut. Three lists are judged apart:
`mixed` (any product), `repeat` (bought before) and `explore` (never bought), because a mixed list is nearly
all repeats. Beside the product's engines stand the baselines that a published method has to beat. No SQL, no
Dagster, no chance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from crm_assets.logic import ranking, reranking
from crm_assets.logic.customers import date_of
from crm_assets.logic.ranking import NOTHING, Flags, Floats, Ints, Ranker, Transactions
from crm_assets.logic.reranking import Examples, Facts, Reranker
from crm_assets.rules import Recipe

if TYPE_CHECKING:
    from scipy import sparse

    from crm_assets.rules import Ranking

List = Literal["mixed", "repeat", "explore"]
LISTS: tuple[List, ...] = ("mixed", "repeat", "explore")
# Simplest first: of equals, the simpler serves.
POPULARITY, PERSONAL, GP_TOP_FREQ, RIDGE, RERANKED = "popularity", "personal", "gp_topfreq", "ridge", "reranked"
ENGINES = (POPULARITY, PERSONAL, GP_TOP_FREQ, RIDGE, RERANKED)
BASELINES = (POPULARITY, PERSONAL, GP_TOP_FREQ)
MEASURES = ("recall", "ndcg", "hit_rate")

Progress = Callable[[str], None]


def silent(message: str) -> None:
    """Progress that nobody asked for."""


# Measures


class Judge:
    """What the customers of `orders` ordered next, against what they had ordered before `day`.

    Of `repeat` and `explore` only the products that the customer had, or had not, ordered before are to be
    found, and only orders that hold such a product are judged.
    """

    def __init__(self, transactions: Transactions, orders: Ints, day: int) -> None:
        p = transactions.n_products
        baskets = transactions.baskets(orders)
        truth = np.sort(ranking.cells_of(baskets))
        past = transactions.before(day).of_customers(transactions.order_customer[orders])
        bought = np.sort(past.order_customer[past.order] * p + past.product)
        is_repeat = _is_in(truth, bought[ranking.changes(bought)])
        self.n_products, self.n_orders = p, len(orders)
        self.wanted: dict[List, Ints] = {"mixed": truth, "repeat": truth[is_repeat], "explore": truth[~is_repeat]}

    def measure(self, lists: Ints, kind: List, k: int) -> dict[str, float]:
        """Recall, NDCG and hit rate at `k` of one list per order; lists: orders × places, NOTHING where empty.

        NDCG is over the whole of what is to be found, not capped at k. Of `mixed` the recall of what was
        ordered again and of what was new are given too.
        """
        keys = np.where(lists == NOTHING, -1, np.arange(self.n_orders)[:, None] * self.n_products + lists)[:, :k]
        found, size = self._found(keys, kind)
        judged = np.flatnonzero(size)
        discount = 1.0 / np.log2(np.arange(2, max(int(size.max(initial=0)), k) + 2))
        ideal = np.cumsum(discount)
        result = {
            "customers": float(len(judged)),
            "recall": _mean((found.sum(axis=1) / np.maximum(size, 1))[judged]),
            "ndcg": _mean(((found * discount[: keys.shape[1]]).sum(axis=1) / ideal[np.maximum(size, 1) - 1])[judged]),
            "hit_rate": _mean(found.max(axis=1, initial=0.0)[judged]),
        }
        parts: tuple[List, ...] = ("repeat", "explore") if kind == "mixed" else ()
        for part in parts:
            found, size = self._found(keys, part)
            result[f"recall_{part}"] = _mean((found.sum(axis=1) / np.maximum(size, 1))[size > 0])
        return result

    def _found(self, keys: Ints, kind: List) -> tuple[np.ndarray[Any, np.dtype[np.float64]], Ints]:
        wanted = self.wanted[kind]
        return _is_in(keys, wanted).astype(np.float64), np.bincount(
            wanted // max(self.n_products, 1), minlength=self.n_orders
        )


def _is_in(values: Ints, sorted_values: Ints) -> Flags:
    if not len(sorted_values):
        return np.zeros(values.shape, dtype=bool)
    at = np.minimum(np.searchsorted(sorted_values, values), len(sorted_values) - 1)
    return np.asarray(sorted_values[at] == values, dtype=bool)


def _mean(values: np.ndarray) -> float:
    return round(float(values.mean()), 6) if len(values) else 0.0


# Engines


@dataclass(frozen=True)
class Engine:
    """Something that ranks: a ranker per list and, of `reranked`, the second look at its candidates."""

    name: str
    rankers: dict[List, Ranker]
    reranker: Reranker | None = None


def baselines(past: Transactions, settings: Ranking) -> dict[str, Engine]:
    """All-time popularity, the customer's own counts, and those with popularity behind them (GP-TopFreq)."""
    orders_with = np.bincount(past.product, minlength=past.n_products).astype(np.float32)
    popular = orders_with / max(float(orders_with.max(initial=0.0)), 1.0)
    nothing = np.zeros((0, 0), dtype=np.float32)
    columns = np.zeros(0, dtype=np.int64)
    # A memory without end makes the history a count of orders; a count of one outweighs any popularity.
    counts = settings.recipe.model_copy(update={"memory_days": np.inf, "personal": 1.0})

    def engine(name: str, personal: float, base: Floats) -> Engine:
        recipe = counts.model_copy(update={"personal": personal})
        return Engine(name, dict.fromkeys(LISTS, Ranker(recipe, columns, nothing, base, settings.prior_orders)))

    return {
        POPULARITY: engine(POPULARITY, 0.0, popular),
        PERSONAL: engine(PERSONAL, 1.0, np.zeros_like(popular)),
        GP_TOP_FREQ: engine(GP_TOP_FREQ, 1.0, popular * np.float32(1e-6)),
    }


def rankers(
    past: Transactions,
    day: int,
    window: int,
    recipes: dict[List, Recipe],
    settings: Ranking,
    likeness: sparse.csr_matrix | None = None,
) -> dict[List, Ranker]:
    """The tuned ranker of each list, learned from `past`, which lies before `day`; equal recipes share one."""
    regression = ranking.learn(past, day, recipes["mixed"], settings)
    popular = ranking.popularity(past, day, window)
    made = {recipe: Ranker.of(recipe, regression, popular, settings, likeness) for recipe in {*recipes.values()}}
    return {name: made[recipes[name]] for name in LISTS}


def lists_of(
    engine: Engine,
    past: Transactions,
    who: Ints,
    day: int,
    window: int,
    kinds: tuple[List, ...],
    k: int,
    settings: Ranking,
) -> dict[List, tuple[Ints, Floats]]:
    """The `k` best products of the customers `who` at `day` and their scores, one array of lists per kind.

    Scores of a re-ranked list are chances of the product to be in the next order.
    """
    theirs = past.of_customers(who)
    histories = {
        r.recipe.memory_days: ranking.history_at(theirs, day, r.recipe.memory_days) for r in engine.rankers.values()
    }
    facts = Facts.at(past, who, day, window) if engine.reranker else None

    def work(rows: slice) -> dict[List, tuple[Ints, Floats]]:
        if engine.reranker is not None and facts is not None:
            ranker = engine.rankers["mixed"]
            history = histories[ranker.recipe.memory_days]
            return _reranked(engine.reranker, facts, ranker, history, rows, kinds, k, settings)
        found = {}
        for kind in kinds:
            ranker = engine.rankers[kind]
            history = histories[ranker.recipe.memory_days]
            bought = history.weight[rows]
            if engine.name == PERSONAL:
                # What was never bought is in none of its lists.
                bought = bought if kind != "explore" else bought[:, :0]
                found[kind] = reranking.top_bought(ranker.scores(history, rows), bought, k)
            else:
                found[kind] = _best(ranker.scores(history, rows), bought, kind, k)
        return found

    parts = ranking.in_parts(len(who), past.n_products, work)
    width = min(k, past.n_products)
    empty = (np.zeros((0, width), dtype=np.int64), np.zeros((0, width), dtype=np.float32))
    return {
        kind: tuple(np.concatenate(column) for column in zip(*(part[kind] for part in parts), strict=True)) or empty  # type: ignore[misc]
        for kind in kinds
    }


def _best(scores: Floats, bought: sparse.csr_matrix, kind: List, k: int) -> tuple[Ints, Floats]:
    """The list of each row of scores, which may be overwritten."""
    if kind == "repeat":
        return reranking.top_bought(scores, bought, k)
    if kind == "explore":
        ranking.bar_bought(scores, bought)
    return ranking.top(scores, k)


def _reranked(
    reranker: Reranker,
    facts: Facts,
    ranker: Ranker,
    history: ranking.History,
    rows: slice,
    kinds: tuple[List, ...],
    k: int,
    settings: Ranking,
) -> dict[List, tuple[Ints, Floats]]:
    n_repeat, n_explore = max(k, settings.candidates_repeat), max(k, settings.candidates_explore)
    found = reranking.candidates(ranker, history, rows, n_repeat, n_explore)
    parts = {"mixed": slice(None), "repeat": slice(None, found.n_repeat), "explore": slice(found.n_repeat, None)}
    wanted = np.zeros(found.product.shape, dtype=bool)
    for kind in kinds:
        wanted[:, parts[kind]] = True
    wanted &= found.there
    chance = np.full(found.product.shape, -np.inf, dtype=np.float32)
    chance[wanted] = reranker.chances(reranking.features_of(found, facts, rows.start, wanted))
    # The model has never seen a customer without an order: those keep the ranker's list.
    unknown = history.orders[rows] <= 0
    chance[unknown] = found.score[unknown]
    result: dict[List, tuple[Ints, Floats]] = {}
    for kind in kinds:
        product, score = found.product[:, parts[kind]], np.round(chance[:, parts[kind]], 6)
        # Falling chance, ties by product.
        order = np.lexsort((product, -score), axis=1)[:, : min(k, facts.n_products)]
        result[kind] = (np.take_along_axis(product, order, 1), np.take_along_axis(score, order, 1))
    return result


# Tuning


@dataclass(frozen=True)
class Tuned:
    """The recipe of each list (they share memory, scale and penalty), and what was tried or why nothing was."""

    recipes: dict[List, Recipe]
    report: dict[str, Any]


def tune(transactions: Transactions, day: int, window: int, settings: Ranking, progress: Progress = silent) -> Tuned:
    """The weights that rank best at `day`: learned before it, judged by the next orders in [day, day + window).

    Memory, order memory, penalty and scale are climbed one after the other, judged by the mean over the lists
    of NDCG relative to the first recipe's; the weights beside the ridge are chosen for each list apart. A step
    must gain `least_gain`, more where fewer customers judge (by the root of their number): less is noise, and the
    first recipe has proved itself elsewhere.
    """
    grid = settings.tuning
    past = transactions.before(day)
    orders = transactions.first_orders(day, day + window)
    report: dict[str, Any] = {"customers": len(orders), "window_days": window}
    if len(orders) < grid.min_customers:
        reason = f"{len(orders)} customers with an order in the window, {grid.min_customers} needed"
        return Tuned(dict.fromkeys(LISTS, settings.recipe), {**report, "status": "default", "reason": reason})
    orders = orders[:: -(-len(orders) // grid.max_customers)]
    trial = _Trial(past, transactions, orders, day, window, settings)
    first = trial.weighed(dict.fromkeys(LISTS, settings.recipe))
    tried = 1

    def value(found: dict[List, tuple[float, Recipe]]) -> float:
        return float(np.mean([found[name][0] / max(first[name][0], 1e-9) for name in LISTS]))

    def told(found: dict[List, tuple[float, Recipe]]) -> dict[List, tuple[float, Recipe]]:
        recipe = found["mixed"][1]
        shown = ", ".join(f"{name} {ndcg:.4f}" for name, (ndcg, _) in found.items())
        progress(
            f"memory {recipe.memory_days:g} d, orders {recipe.order_memory_days:g} d, "
            f"penalty {recipe.penalty:g}, by {recipe.scale}: NDCG {shown}"
        )
        return found

    best = told(first)
    for name in ("memory_days", "order_memory_days", "penalty", "scale"):
        steps = list(getattr(grid, name))
        at = steps.index(getattr(best["mixed"][1], name))
        for direction in (1, -1):
            moved = False
            while 0 <= at + direction < len(steps):
                there = {
                    kind: recipe.model_copy(update={name: steps[at + direction]}) for kind, (_, recipe) in best.items()
                }
                # With the weights as they are; only where that gains, they are chosen again.
                found, tried = told(trial.as_given(there)), tried + 1
                if value(found) < value(best) + trial.least_gain:
                    break
                best, at, moved = trial.weighed(there), at + direction, True
            if moved:
                break
    report |= {"status": "tuned", "recipes_tried": tried, "judged_customers": len(orders)}
    return Tuned({name: recipe for name, (_, recipe) in best.items()}, report)


class _Trial:
    """Judges recipes on one cut, over the most ordered products: each regression is learned once, and its parts
    are weighed many times.
    """

    def __init__(
        self, past: Transactions, transactions: Transactions, orders: Ints, day: int, window: int, settings: Ranking
    ) -> None:
        grid = settings.tuning
        lately = np.exp((past.order_day - day) / settings.recipe.order_memory_days)
        which = ranking.most_ordered(past, lately, grid.max_products)
        self.settings = settings.model_copy(update={"max_orders": grid.max_orders})
        self.past, transactions = past.of_products(which), transactions.of_products(which)
        self.day = day
        self.least_gain = grid.least_gain * float(np.sqrt(max(1.0, grid.max_customers / len(orders))))
        self.judge = Judge(transactions, orders, day)
        self.theirs = self.past.of_customers(transactions.order_customer[orders])
        self.popular = ranking.popularity(self.past, day, window)

    def as_given(self, recipes: dict[List, Recipe]) -> dict[List, tuple[float, Recipe]]:
        """NDCG of each list by its recipe; they share what the regression and the history are made with."""
        learned = self._learned(recipes["mixed"])
        return {kind: (self._ndcg(kind, recipes[kind], *learned), recipes[kind]) for kind in LISTS}

    def weighed(self, recipes: dict[List, Recipe]) -> dict[List, tuple[float, Recipe]]:
        """The same, with the best weights for personal, copurchase and popularity, one after the other."""
        learned = self._learned(recipes["mixed"])
        gain = 1.0 + self.least_gain
        found = {}
        for kind in LISTS:
            best = recipes[kind]
            value = self._ndcg(kind, best, *learned)
            # The own share of a product never bought is nothing.
            for name in ("copurchase", "popularity") if kind == "explore" else ("personal", "copurchase", "popularity"):
                for step in getattr(self.settings.tuning, name):
                    other = best.model_copy(update={name: step})
                    if other != best and (ndcg := self._ndcg(kind, other, *learned)) > value * gain:
                        value, best = ndcg, other
            found[kind] = (value, best)
        return found

    def _learned(self, recipe: Recipe) -> tuple[Ints, dict[str, Floats], Any]:
        """Columns and parts of the scores that the weights have no part in, and the own shares."""
        regression = ranking.learn(self.past, self.day, recipe, self.settings)
        history = ranking.history_at(self.theirs, self.day, recipe.memory_days)
        known = history.scaled(recipe.scale)[:, regression.columns]
        parts = {"ridge": known @ regression.ridge, "copurchase": known @ regression.copurchase}
        return regression.columns, parts, history.share(self.settings.prior_orders)

    def _ndcg(self, kind: List, recipe: Recipe, columns: Ints, parts: dict[str, Floats], own: Any) -> float:
        p = self.past.n_products
        k = self.settings.backtest.judged_by
        base = self.popular * np.float32(max(recipe.popularity, self.settings.least_popularity))

        def work(rows: slice) -> Ints:
            scores = np.tile(base, (rows.stop - rows.start, 1))
            scores[:, columns] += parts["ridge"][rows]
            if recipe.copurchase:
                scores[:, columns] += np.float32(recipe.copurchase) * parts["copurchase"][rows]
            mine = own[rows]
            if recipe.personal:
                scores.reshape(-1)[ranking.cells_of(mine)] += np.float32(recipe.personal) * mine.data
            return _best(scores, mine, kind, k)[0]

        lists = np.concatenate(ranking.in_parts(self.judge.n_orders, p, work))
        return self.judge.measure(lists, kind, k)["ndcg"]


# The back-test and what it decides


@dataclass(frozen=True)
class Prepared:
    """What serves at a day: the engine of each list and why, the engines, and the measures of the last cut.

    then: the engines that were measured, which know nothing from `cut` on. measures: list, engine, top,
    customers, recall, ndcg, hit_rate, recall_repeat, recall_explore, one row per list × engine × k, at `cut`;
    empty where the history is too short.
    """

    day: int
    cut: int
    window: int
    choice: dict[List, str]
    reasons: dict[List, str]
    engines: dict[str, Engine]
    then: dict[str, Engine]
    recipes: dict[List, Recipe]
    measures: pd.DataFrame
    report: dict[str, Any]

    def lists(self, past: Transactions, who: Ints, kind: List, k: int, settings: Ranking) -> tuple[Ints, Floats]:
        """The list that serves the customers `who`."""
        engine = self.engines[self.choice[kind]]
        return lists_of(engine, past, who, self.day, self.window, (kind,), k, settings)[kind]


def prepare(
    transactions: Transactions,
    day: int,
    horizon: int,
    settings: Ranking,
    *,
    lists: tuple[List, ...] = LISTS,
    all_engines: bool = False,
    likeness: sparse.csr_matrix | None = None,
    progress: Progress = silent,
) -> Prepared:
    """Everything that ranks at `day`, from the orders before it alone.

    The weights are chosen on the window before the last cut, the engines measured at the last cut (`day` minus
    the horizon, less where the history is short), and the best of each list learned again up to `day`.
    `lists`: what will be asked for. `all_engines`: keep also those that lost. `likeness`: see `Ranker.of`.
    """
    past = transactions.before(day)
    rules = settings.backtest
    span = int(day - past.order_day.min()) if past.n_orders else 0
    window = min(horizon, max(rules.shortest_window_days, span // rules.windows_in_history))
    cut = day - window
    progress(f"choosing weights on the {window} days before {date_of(cut)}")
    tuned = tune(past, cut - window, window, settings, progress)
    learned = rankers(past.before(cut), cut, window, tuned.recipes, settings, likeness)
    examples = _examples(past, day, window, learned["mixed"], settings, progress)
    then = _engines(past.before(cut), learned, examples[1:], settings)
    progress(f"measuring {', '.join(then)} at {date_of(cut)}")
    rows = backtest(then, past, cut, window, settings)
    choice, reasons = choose(rows, settings)
    kept = set(ENGINES) if all_engines else {choice[name] for name in lists}
    progress(f"learning up to {date_of(day)}")
    newest = rankers(past, day, window, tuned.recipes, settings, likeness)
    latest = examples[: settings.reranker.cuts]
    now = _engines(past, newest, latest if RERANKED in kept else [], settings)
    for name in lists:
        if choice[name] not in now:  # the newest cuts have fewer labelled orders than those before
            choice[name], reasons[name] = RIDGE, f"{reasons[name]}; too few labelled orders to learn it again"
    engines = {name: engine for name, engine in now.items() if name in kept or name == RIDGE}
    report = {"tuning": tuned.report, "labelled_orders": sum(cut.n_orders for cut in latest)}
    return Prepared(day, cut, window, choice, reasons, engines, then, tuned.recipes, rows, report)


def _examples(
    past: Transactions, day: int, window: int, newest: Ranker, settings: Ranking, progress: Progress
) -> list[Examples]:
    """Examples at the cuts before `day`, newest first, one more than a model learns from; [] where too few.

    `newest`: the ranker of the last cut. Those of the earlier ones are made as it was, each of what was known
    then.
    """
    first = int(past.order_day.min(initial=day))
    cuts = [cut for cut in range(day - window, first, -window)][: settings.reranker.cuts + 1]
    enough = sum(min(len(past.first_orders(cut, cut + window)), settings.reranker.orders_per_cut) for cut in cuts[1:])
    if enough < settings.reranker.min_orders:
        return []
    found: list[Examples] = []
    for cut in cuts:
        progress(f"examples of the re-ranker at {date_of(cut)}")
        ranker = newest
        if found:
            known = past.before(cut)
            regression = ranking.learn(known, cut, newest.recipe, settings)
            ranker = Ranker.of(newest.recipe, regression, ranking.popularity(known, cut, window), settings)
        found.append(reranking.examples(ranker, past, cut, window, settings))
    return found


def _engines(
    past: Transactions, learned: dict[List, Ranker], examples: list[Examples], settings: Ranking
) -> dict[str, Engine]:
    engines = baselines(past, settings) | {RIDGE: Engine(RIDGE, learned)}
    reranker = Reranker.fit(examples, settings)
    if reranker is not None:
        engines[RERANKED] = Engine(RERANKED, learned, reranker)
    return engines


def backtest(
    engines: dict[str, Engine],
    transactions: Transactions,
    cut: int,
    horizon: int,
    settings: Ranking,
    *,
    past: Transactions | None = None,
    window: int | None = None,
) -> pd.DataFrame:
    """Measures of engines that know nothing from `cut` on, by the first orders in [cut, cut + horizon).

    past: what they know, where that is of fewer products (the first ones). window: that they were learned with,
    where it is not the horizon.
    """
    past = past or transactions.before(cut)
    orders = transactions.first_orders(cut, cut + horizon)
    orders = orders[:: -(-len(orders) // settings.backtest.max_customers) or 1]
    who = transactions.order_customer[orders]
    judge = Judge(transactions, orders, cut)
    rows = []
    for name, engine in engines.items():
        lists = (
            lists_of(engine, past, who, cut, window or horizon, LISTS, max(settings.backtest.tops), settings)
            if len(who)
            else {}
        )
        for kind, (products, _) in lists.items():
            for k in settings.backtest.tops:
                rows.append({"list": kind, "engine": name, "top": k, **judge.measure(products, kind, k)})
    columns = ["list", "engine", "top", "customers", *MEASURES, "recall_repeat", "recall_explore"]
    return pd.DataFrame(rows).reindex(columns=columns)


def choose(measures: pd.DataFrame, settings: Ranking) -> tuple[dict[List, str], dict[List, str]]:
    """The engine of each list with the best NDCG, the simpler of equals, and why in words."""
    choice: dict[List, str] = {}
    reasons: dict[List, str] = {}
    k = settings.backtest.judged_by
    for name in LISTS:
        rows = measures[(measures["list"] == name) & (measures["top"] == k)].set_index("engine")
        by_engine = {str(engine): float(ndcg) for engine, ndcg in rows["ndcg"].items()}
        customers = int(rows["customers"].max()) if len(rows) else 0
        if customers < settings.tuning.min_customers:
            choice[name] = RIDGE
            reasons[name] = (
                f"{customers} customers to judge by, {settings.tuning.min_customers} needed: the ridge unjudged"
            )
            continue
        # The customer's own counts alone have nothing for whoever never ordered; GP-TopFreq is the same and more.
        ndcg = {engine: by_engine[engine] for engine in ENGINES if engine in by_engine and engine != PERSONAL}
        best = max(ndcg, key=lambda engine: (ndcg[engine], -ENGINES.index(engine)))
        second = max((engine for engine in ndcg if engine != best), key=lambda engine: ndcg[engine])
        choice[name] = best
        reasons[name] = (
            f"NDCG@{k} {ndcg[best]:.4f} at the last cut, {second} {ndcg[second]:.4f}, of {customers} customers"
        )
    return choice, reasons
