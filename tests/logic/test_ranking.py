"""The ranker against the same thing written out plainly: sums over orders, and normal equations in numpy."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from crm_assets import rules
from crm_assets.logic import ranking
from crm_assets.logic.ranking import NOTHING, Ranker, Transactions
from tests.logic.orders import FIRST_DAY, habits

SETTINGS = rules.load().ranking
RECIPE = SETTINGS.recipe
N, P = 5, 6

lines = st.lists(
    st.tuples(st.integers(0, N - 1), st.integers(0, P - 1), st.integers(100, 130), st.integers(0, 2)), max_size=40
)


def arrays(rows: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
    """Customer, product, day and order code; an order code is of one customer."""
    customer, product, day, number = (np.array(column, dtype=np.int64) for column in zip(*rows, strict=True))
    _, order = np.unique(customer * 3 + number, return_inverse=True)
    return [customer, product, day, order]


def naive(rows: Sequence[tuple[int, ...]], by_day: bool) -> list[tuple[int, int, list[int]]]:
    """(customer, day, sorted products) of each order, by customer, day, order code."""
    found: dict[tuple[int, int], tuple[int, set[int]]] = {}
    for customer, product, day, number in rows:
        first, products = found.get((customer, day if by_day else number), (day, set()))
        found[customer, day if by_day else number] = (min(first, day), products | {product})
    ordered = sorted((customer, day, number, products) for (customer, number), (day, products) in found.items())
    return [(customer, day, sorted(products)) for customer, day, _, products in ordered]


def told(transactions: Transactions) -> list[tuple[int, int, list[int]]]:
    """The same of transactions."""
    starts = transactions.order_start
    return [
        (int(customer), int(day), transactions.product[begin:end].tolist())
        for customer, day, (begin, end) in zip(
            transactions.order_customer, transactions.order_day, pairwise(starts), strict=True
        )
    ]


def made(rows: Sequence[tuple[int, ...]], by_day: bool = False) -> Transactions:
    """Transactions of N customers and P products."""
    if not rows:
        none = np.zeros(0, dtype=np.int64)
        return Transactions.of(N, P, none, none, none, None if by_day else none)
    customer, product, day, order = arrays(rows)
    return Transactions.of(N, P, customer, product, day, None if by_day else order)


# Transactions


@settings(deadline=None)
@given(lines, st.booleans())
def test_transactions_hold_what_a_plain_grouping_holds(rows: list[tuple[int, ...]], by_day: bool) -> None:
    transactions, orders = made(rows, by_day), naive(rows, by_day)
    assert told(transactions) == orders
    assert transactions.n_customers == N
    assert transactions.n_orders == len(orders)
    assert_array_equal(np.diff(transactions.customer_start), np.bincount([c for c, _, _ in orders], minlength=N)[:N])
    assert_array_equal(transactions.order, np.repeat(np.arange(len(orders)), [len(p) for _, _, p in orders]))


@settings(deadline=None)
@given(lines, st.integers(99, 131), st.integers(1, 20))
def test_parts_of_transactions(rows: list[tuple[int, ...]], day: int, days: int) -> None:
    transactions, orders = made(rows), naive(rows, by_day=False)
    assert told(transactions.before(day)) == [each for each in orders if each[1] < day]
    who = np.array([1, 3])
    assert told(transactions.of_customers(who)) == [(int(c == 3), d, p) for c, d, p in orders if c in who]
    kept = transactions.of_products(np.array([0, 4]))
    assert told(kept) == [(c, d, [[0, 4].index(each) for each in p if each in (0, 4)]) for c, d, p in orders]
    expected = []
    for customer in range(N):
        theirs = [(d, i) for i, (c, d, _) in enumerate(orders) if c == customer]
        inside = [i for d, i in theirs if day <= d < day + days]
        if inside and theirs[0][0] < day:
            expected.append(inside[0])
    assert transactions.first_orders(day, day + days).tolist() == expected
    everything = transactions.baskets(np.arange(transactions.n_orders)).toarray()
    assert_array_equal(everything, [[float(i in p) for i in range(P)] for _, _, p in orders] or np.zeros((0, P)))


@settings(deadline=None)
@given(lines, st.randoms())
def test_the_order_of_the_rows_does_not_matter(rows: list[tuple[int, ...]], random: Any) -> None:
    shuffled = rows[:]
    random.shuffle(shuffled)
    assert told(made(shuffled)) == told(made(rows))


# Histories


@settings(deadline=None)
@given(lines, st.sampled_from([7.0, 60.0, np.inf]))
def test_histories_are_decayed_sums_over_orders(rows: list[tuple[int, ...]], memory: float) -> None:
    transactions, orders = made(rows), naive(rows, by_day=False)
    weight, total = np.zeros((N, P)), np.zeros(N)
    for customer, day, products in orders:
        weight[customer, products] += np.exp(-(131 - day) / memory)
        total[customer] += np.exp(-(131 - day) / memory)
    found = ranking.history_at(transactions, 131, memory)
    assert_allclose(found.weight.toarray(), weight, rtol=1e-5)
    assert_allclose(found.orders, total, rtol=1e-5)
    some = total > 0
    assert_allclose(found.scaled("orders").toarray()[some], (weight / total[:, None].clip(1e-12))[some], rtol=1e-5)
    length = np.linalg.norm(weight, axis=1, keepdims=True)
    assert_allclose(found.scaled("length").toarray()[some], (weight / length.clip(1e-12))[some], rtol=1e-5)
    assert_allclose(found.share(2.0).toarray(), weight / (total + 2.0)[:, None], rtol=1e-5)


@settings(deadline=None)
@given(lines, st.sampled_from([7.0, 60.0]))
def test_the_history_before_an_order_has_the_orders_before_it(rows: list[tuple[int, ...]], memory: float) -> None:
    transactions, orders = made(rows), naive(rows, by_day=False)
    weight, total = np.zeros((len(orders), P)), np.zeros(len(orders))
    for i, (customer, day, _) in enumerate(orders):
        for other, earlier, products in orders[:i]:
            if other == customer:
                weight[i, products] += np.exp(-(day - earlier) / memory)
                total[i] += np.exp(-(day - earlier) / memory)
    found = ranking.history_before(transactions, np.arange(len(orders)), memory)
    assert_allclose(found.weight.toarray(), weight, rtol=1e-5)
    assert_allclose(found.orders, total, rtol=1e-5)


# The ranker


def plain_regression(transactions: Transactions, day: int, recipe: Any) -> tuple[np.ndarray, np.ndarray]:
    """Ridge and co-purchase by their formulas, dense and in double precision."""
    p = transactions.n_products
    baskets = [np.isin(np.arange(p), products) * 1.0 for _, _, products in told(transactions)]
    days, owners = transactions.order_day, transactions.order_customer
    gram, cross, together = np.zeros((p, p)), np.zeros((p, p)), np.zeros((p, p))
    for i, basket in enumerate(baskets):
        if days[i] >= day:
            continue
        importance = np.exp(-(day - days[i]) / recipe.order_memory_days)
        together += importance * np.outer(basket, basket)
        earlier = [j for j in range(i) if owners[j] == owners[i]]
        if not earlier:
            continue
        decay = np.exp(-(days[i] - days[earlier]) / recipe.memory_days)
        before = decay @ np.array([baskets[j] for j in earlier])
        before /= decay.sum() if recipe.scale == "orders" else np.linalg.norm(before)
        importance /= np.sqrt(basket.sum())
        gram += importance * np.outer(before, before)
        cross += importance * np.outer(before, basket)
    ridge = np.linalg.solve(gram + recipe.penalty * np.diag(gram).mean() * np.eye(p), cross)
    length = np.sqrt(np.diag(together))
    together = together / np.outer(length, length)
    np.fill_diagonal(together, 0.0)
    return ridge, together


@pytest.mark.parametrize("scale", ["orders", "length"])
def test_the_regression_is_weighted_ridge_and_cosine(scale: str) -> None:
    recipe = RECIPE.model_copy(update={"scale": scale})
    transactions = habits(60, 12).transactions(60, 12)
    day = FIRST_DAY + 600
    found = ranking.learn(transactions, day, recipe, SETTINGS)
    ridge, copurchase = plain_regression(transactions, day, recipe)
    assert_allclose(found.ridge, ridge, atol=2e-5)
    assert_allclose(found.copurchase, copurchase, atol=2e-5)


def test_a_regression_from_no_order_says_nothing() -> None:
    none = ranking.learn(made([]), 100, RECIPE, SETTINGS)
    once = ranking.learn(made([(0, 1, 100, 0), (1, 2, 101, 0)]), 130, RECIPE, SETTINGS)
    assert not none.ridge.any()
    assert not once.ridge.any()


def test_only_the_most_ordered_products_are_related() -> None:
    transactions = habits(60, 12).transactions(60, 12)
    found = ranking.learn(transactions, FIRST_DAY + 720, RECIPE, SETTINGS.model_copy(update={"max_products": 4}))
    lately = np.exp((transactions.order_day - FIRST_DAY - 720) / RECIPE.order_memory_days)
    weight = np.bincount(transactions.product, lately[transactions.order], 12)
    assert found.columns.tolist() == sorted(np.argsort(-weight)[:4].tolist())
    assert found.ridge.shape == (4, 4)


def test_popularity_is_the_share_of_those_who_ordered_lately() -> None:
    rows = [(0, 1, 110, 0), (0, 1, 112, 1), (1, 1, 119, 0), (1, 2, 119, 0), (2, 3, 120, 0), (3, 3, 109, 0)]
    assert ranking.popularity(made(rows), 120, 10).tolist() == [0, 1.0, 0.5, 0, 0, 0]


@pytest.mark.parametrize("most", [12, 5])
def test_scores_are_ridge_copurchase_own_share_and_popularity(most: int) -> None:
    settings = SETTINGS.model_copy(update={"max_products": most})
    recipe = RECIPE.model_copy(update={"personal": 0.3, "copurchase": 0.2, "popularity": 0.1})
    transactions, day = habits(60, 12).transactions(60, 12), FIRST_DAY + 720
    regression, popular = ranking.learn(transactions, day, recipe, settings), ranking.popularity(transactions, day, 90)
    history = ranking.history_at(transactions, day, recipe.memory_days)
    matrix = np.zeros((12, 12))
    matrix[np.ix_(regression.columns, regression.columns)] = regression.ridge + 0.2 * regression.copurchase
    expected = history.scaled("orders") @ matrix + 0.1 * popular + 0.3 * history.share(settings.prior_orders).toarray()
    found = Ranker.of(recipe, regression, popular, settings).scores(history, slice(10, 40))
    assert_allclose(found, expected[10:40], atol=1e-5)


def test_whoever_never_ordered_gets_what_is_popular() -> None:
    rows = habits(200, 500, seed=3)
    transactions, day = rows.transactions(201, 500), FIRST_DAY + 720
    popular = ranking.popularity(transactions, day, 90)
    ranker = Ranker.of(RECIPE, ranking.learn(transactions, day, RECIPE, SETTINGS), popular, SETTINGS)
    history = ranking.history_at(transactions, day, RECIPE.memory_days)
    found, _ = ranking.top(ranker.scores(history, slice(0, 201)), 10)
    assert_array_equal(found[200], np.argsort(-popular, kind="stable")[:10])


# Lists


def best(scores: np.ndarray, k: int) -> np.ndarray:
    """The k best columns, ties to the first, by a full sort."""
    columns = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.where(np.take_along_axis(scores, columns, axis=1) == -np.inf, NOTHING, columns)


@pytest.mark.parametrize(("rows", "columns"), [(50, 1), (50, 7), (40, 500), (5, 5000), (3, 70_000)])
@pytest.mark.parametrize("k", [1, 3, 10, 60])
def test_top_is_a_full_sort(rows: int, columns: int, k: int) -> None:
    random = np.random.default_rng(rows + columns + k)
    scores = random.standard_normal((rows, columns)).astype(np.float32)
    scores[::2] = np.round(scores[::2], 1)  # many ties
    scores[random.random(scores.shape) < 0.3] = -np.inf
    scores[-1] = -np.inf
    untouched = scores.copy()
    found, value = ranking.top(scores, k)
    assert_array_equal(found, best(untouched, k))
    there = found != NOTHING
    expected = np.take_along_axis(untouched, np.where(there, found, 0), axis=1)
    assert_array_equal(value, np.where(there, expected, -np.inf))


def test_top_tells_small_scores_apart_beside_large_ones() -> None:
    # As GP-TopFreq has it: what was bought counts 0.1 and more, popularity behind it a millionth.
    random = np.random.default_rng(0)
    scores = (random.random((30, 5000)) * 1e-6).astype(np.float32)
    scores[:29, 17] += 1.3
    found, _ = ranking.top(scores.copy(), 10)
    assert_array_equal(found, best(scores, 10))


def test_top_of_nothing() -> None:
    for shape in ((0, 5), (4, 0), (0, 0)):
        found, value = ranking.top(np.zeros(shape, dtype=np.float32), 3)
        assert found.shape == value.shape == (shape[0], min(3, shape[1]))


@settings(deadline=None)
@given(lines)
def test_what_was_bought_is_barred(rows: list[tuple[int, ...]]) -> None:
    history = ranking.history_at(made(rows), 131, 60.0).weight
    scores = np.random.default_rng(len(rows)).random((N, P)).astype(np.float32)
    new = scores.copy()
    ranking.bar_bought(new, history)
    assert_array_equal(new, np.where(history.toarray() > 0, -np.inf, scores))


def test_parts_come_in_the_order_of_the_rows_and_cover_them() -> None:
    for n in (0, 1, 20_001, 45_000):
        parts = ranking.in_parts(n, 500, lambda rows: np.arange(rows.start, rows.stop))
        assert_array_equal(np.concatenate([np.zeros(0, dtype=int), *parts]), np.arange(n))
