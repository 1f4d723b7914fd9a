"""The re-ranker's features against plain sums, its examples against the orders, and what it must not know."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from crm_assets import rules
from crm_assets.logic import ranking, reranking
from crm_assets.logic.ranking import NOTHING, Ranker, Transactions
from crm_assets.logic.reranking import FEATURES, Facts, Reranker
from tests.logic.orders import FIRST_DAY, Rows, habits, smaller

SETTINGS = smaller(rules.load().ranking)
RECIPE = SETTINGS.recipe
DAY = FIRST_DAY + 540
N, P = 300, 40


def ranker_of(past: Transactions, day: int) -> Ranker:
    """The first recipe, learned from the past."""
    regression = ranking.learn(past, day, RECIPE, SETTINGS)
    return Ranker.of(RECIPE, regression, ranking.popularity(past, day, 90), SETTINGS)


def row(facts: Facts, customer: int, product: int) -> dict[str, float]:
    """The features of one candidate."""
    pair = np.array([customer]), np.array([product])
    found = reranking.features(facts, *pair, np.array([0.5], np.float32), np.array([1.0], np.float32))
    return dict(zip(FEATURES, found[0].tolist(), strict=True))


@pytest.fixture(scope="module")
def small() -> Facts:
    """Customer 0: products 0, 1 on day 10, 0 on day 40, 2 on day 60; 1: product 0 on day 90; 2: nothing. Day 100."""
    rows = [(0, 0, 10), (0, 1, 10), (0, 0, 40), (0, 2, 60), (1, 0, 90)]
    customer, product, day = (np.array(column) for column in zip(*rows, strict=True))
    past = Transactions.of(3, 4, customer, product, day)
    return Facts.at(past, np.array([0, 1, 2]), 100, 50)


def test_features_of_a_product_bought_before(small: Facts) -> None:
    found = row(small, 0, 0)
    expected = {
        "score": 0.5, "score_share": 0.5,
        "orders_with": 2, "share_of_orders": 2 / 3, "share_lately": np.exp(-90 / 60) + np.exp(-60 / 60),
        "days_since": 60, "orders_since": 1, "own_interval": 30, "elapsed_intervals": 2, "days_known": 90,
        "in_last_orders": 2,
        # In the last 50 days customers 0 (product 2) and 1 (product 0) ordered; in the 50 before them customer 0.
        "popular_now": 0.5, "popular_before": 1.0, "popular_drift": np.log(0.5001 / 1.0001),
        # 1 of 2 buyers came again, after 30 days.
        "repeat_rate": 2 / 7, "product_interval": 30, "product_age": 90, "elapsed_product_intervals": 2,
        "orders": 3, "tenure": 90, "silence": 40, "order_interval": 25, "silent_intervals": 40 / 25,
        "basket": 4 / 3, "last_basket": 1, "novelty": 3 / 4,
    }  # fmt: skip
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-5), name
    assert np.isnan(found["popular_season"])  # no year of history


def test_features_of_a_new_product_and_of_a_new_customer(small: Facts) -> None:
    new = row(small, 1, 2)
    assert [new[name] for name in ("orders_with", "share_of_orders", "share_lately", "in_last_orders")] == [0, 0, 0, 0]
    assert np.isnan([new[name] for name in ("days_since", "own_interval", "elapsed_product_intervals")]).all()
    assert (new["orders"], new["silence"], new["popular_now"]) == (1, 10, 0.5)
    nobody = row(small, 2, 0)
    assert (nobody["orders"], nobody["basket"], nobody["novelty"]) == (0, 0, 0)


def test_facts_of_nobody_and_of_no_orders() -> None:
    none = np.zeros(0, dtype=np.int64)
    empty = Facts.at(Transactions.of(2, 3, none, none, none), np.array([0, 1]), 100, 30)
    assert row(empty, 1, 2)["orders"] == 0
    past = Transactions.of(1, 3, np.array([0]), np.array([1]), np.array([5]))
    nobody = Facts.at(past, none, 100, 30)
    assert reranking.features(nobody, none, none, none.astype(np.float32), none.astype(np.float32)).shape == (
        0,
        len(FEATURES),
    )


def test_candidates_are_the_best_of_each_part() -> None:
    past = habits().transactions(N, P).before(DAY)
    history = ranking.history_at(past, DAY, RECIPE.memory_days)
    ranker = ranker_of(past, DAY)
    found = reranking.candidates(ranker, history, slice(20, 50), 5, 4)
    scores, bought = ranker.scores(history, slice(20, 50)), history.weight[20:50].toarray() > 0
    for i in range(30):
        by_score = np.argsort(-scores[i], kind="stable")
        old = [p for p in by_score if bought[i, p]][:5]
        new = [p for p in by_score if not bought[i, p]][:4]
        assert found.product[i].tolist() == old + [NOTHING] * (5 - len(old)) + new
    assert found.n_repeat == 5


def test_examples_know_which_candidates_were_in_the_next_order() -> None:
    rows = habits()
    transactions = rows.transactions(N, P)
    orders = transactions.first_orders(DAY, DAY + 90)
    made = reranking.examples(ranker_of(transactions.before(DAY), DAY), transactions, DAY, 90, SETTINGS)
    assert made.n_orders == len(orders) > 30
    baskets = transactions.baskets(orders).toarray() > 0
    # All the products of an order that are candidates, and only those: 16 of 40 products are.
    assert baskets.sum() * 0.6 < made.ordered.sum() <= baskets.sum()
    assert set(np.round(made.weight, 5)) <= set(np.round(1 / np.sqrt(baskets.sum(axis=1)), 5).astype(np.float32))


def test_every_other_product_that_was_not_ordered_stands_for_two() -> None:
    transactions = habits().transactions(N, P)
    ranker = ranker_of(transactions.before(DAY), DAY)
    every = reranking.examples(ranker, transactions, DAY, 90, SETTINGS)
    half = reranking.examples(ranker, transactions, DAY, 90, smaller(rules.load().ranking, unordered_step=2))
    assert half.ordered.sum() == every.ordered.sum()
    assert (~half.ordered).sum() == (~every.ordered).sum() // 2
    assert half.weight[~half.ordered].sum() == pytest.approx(every.weight[~every.ordered].sum(), rel=0.05)


def test_the_features_of_examples_ignore_the_future() -> None:
    rows = habits()
    ranker = ranker_of(rows.transactions(N, P).before(DAY), DAY)
    made = reranking.examples(ranker, rows.transactions(N, P), DAY, 90, SETTINGS)
    # From the cut on every customer orders as often, but something else.
    later = rows.day >= DAY
    changed = Rows(rows.customer, np.where(later, (rows.product * 7 + 11) % P, rows.product), rows.day, rows.order)
    other = reranking.examples(ranker, changed.transactions(N, P), DAY, 90, SETTINGS)
    assert_array_equal(made.table, other.table)
    assert (made.ordered != other.ordered).any()


def test_a_model_finds_a_rule_and_is_the_same_again() -> None:
    table = np.random.default_rng(1).integers(0, 21, (4000, len(FEATURES))).astype(np.float32) / 20
    ordered = table[:, FEATURES.index("days_since")] > 0.8
    cut = reranking.Examples(table, ordered, np.ones(4000, np.float32), 500)
    model, again = Reranker.fit([cut], SETTINGS), Reranker.fit([cut], SETTINGS)
    assert model is not None
    assert again is not None
    chance = model.chances(table)
    days = table[:, FEATURES.index("days_since")]
    assert chance[days > 0.85].min() > 4 * chance[days < 0.75].max()  # between them the edge of a bin may lie
    assert_array_equal(chance, again.chances(table))
    assert model.chances(table[:0]).shape == (0,)


def test_a_feature_that_the_history_cannot_tell_is_left_out() -> None:
    table = np.random.default_rng(1).random((1000, len(FEATURES))).astype(np.float32)
    ordered = table[:, 0] > 0.5
    season = FEATURES.index("popular_season")
    table[:, season] = np.nan
    model = Reranker.fit([reranking.Examples(table, ordered, np.ones(1000, np.float32), 500)], SETTINGS)
    assert model is not None
    assert season not in model.edges
    with_season = table.copy()
    with_season[:, season] = 1.0
    assert_allclose(model.chances(with_season), model.chances(table))


@pytest.mark.parametrize(("n_orders", "share"), [(199, 0.5), (500, 0.0), (500, 1.0)])
def test_no_model_from_too_little(n_orders: int, share: float) -> None:
    table = np.zeros((100, len(FEATURES)), np.float32)
    cut = reranking.Examples(table, np.arange(100) < 100 * share, np.ones(100, np.float32), n_orders)
    assert Reranker.fit([cut], SETTINGS) is None
    assert Reranker.fit([], SETTINGS) is None
