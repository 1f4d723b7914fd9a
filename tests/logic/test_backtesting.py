"""Measures by hand, choices by rule, and that nothing from the cut on has a say in what is ranked before it."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal

from benchmarks import online_retail
from crm_assets import rules
from crm_assets.logic import backtesting
from crm_assets.logic.backtesting import GP_TOP_FREQ, LISTS, PERSONAL, POPULARITY, RERANKED, RIDGE, Judge, Prepared
from crm_assets.logic.customers import day_number
from crm_assets.logic.ranking import NOTHING, Transactions
from crm_assets.ranking_files import read_lines
from crm_assets.rules import Ranking
from tests.logic.orders import FIRST_DAY, Rows, habits, smaller

SETTINGS = smaller(rules.load().ranking)
N, P = 300, 40
CUT = FIRST_DAY + 600
HORIZON = 90


def by_discount(*places: int) -> float:
    """The sum of 1 / log2(1 + place), places counted from 1."""
    return float(sum(1 / np.log2(1 + place) for place in places))


# Measures


@pytest.fixture
def judged() -> Judge:
    """Before day 50 customer 0 had products 0 and 1, 1 had 5, 2 had 2; then 0 orders 0, 3, 4; 1: 5; 2: 3, 4."""
    rows = [(0, 0, 10), (0, 1, 10), (1, 5, 20), (2, 2, 30)]
    rows += [(0, 0, 50), (0, 3, 50), (0, 4, 50), (1, 5, 60), (2, 3, 70), (2, 4, 70), (0, 2, 80)]
    customer, product, day = (np.array(column) for column in zip(*rows, strict=True))
    transactions = Transactions.of(3, 6, customer, product, day)
    return Judge(transactions, transactions.first_orders(50, 100), 50)


def test_measures_of_a_mixed_list(judged: Judge) -> None:
    lists = np.array([[3, 1, 0], [2, NOTHING, NOTHING], [0, 4, 1]])
    found = judged.measure(lists, "mixed", 3)
    # Customer 0 is given 3 and 0 of 0, 3, 4 at the places 1 and 3; 1 nothing of 5; 2 has 4 at place 2 of 3, 4.
    assert found["customers"] == 3
    assert found["recall"] == pytest.approx((2 / 3 + 0 + 1 / 2) / 3, abs=1e-6)
    ndcg = by_discount(1, 3) / by_discount(1, 2, 3), 0.0, by_discount(2) / by_discount(1, 2)
    assert found["ndcg"] == pytest.approx(sum(ndcg) / 3, abs=1e-6)
    assert found["hit_rate"] == pytest.approx(2 / 3, abs=1e-6)
    # Ordered again: 0 by customer 0, 5 by customer 1. New: 3, 4 of customer 0 and of customer 2.
    assert found["recall_repeat"] == pytest.approx((1 + 0) / 2)
    assert found["recall_explore"] == pytest.approx((1 / 2 + 1 / 2) / 2)


def test_ndcg_is_over_the_whole_basket_even_where_the_list_is_shorter(judged: Judge) -> None:
    lists = np.array([[3, 1, 0], [5, 0, 1], [0, 4, 1]])
    ndcg = 1 / by_discount(1, 2, 3), 1.0, 0.0
    assert judged.measure(lists, "mixed", 1)["ndcg"] == pytest.approx(sum(ndcg) / 3, abs=1e-6)


def test_measures_of_the_lists_apart(judged: Judge) -> None:
    repeat = judged.measure(np.array([[1, 0], [5, NOTHING], [2, NOTHING]]), "repeat", 2)
    # Customer 2 ordered nothing again and is not judged.
    assert repeat["customers"] == 2
    assert repeat["recall"] == 1.0
    assert repeat["ndcg"] == pytest.approx((by_discount(2) + 1) / 2, abs=1e-6)
    explore = judged.measure(np.array([[4, 5], [0, 1], [5, 3]]), "explore", 2)
    assert explore["customers"] == 2
    assert explore["recall"] == pytest.approx(1 / 2)
    assert explore["hit_rate"] == 1.0


def test_an_empty_list_finds_nothing(judged: Judge) -> None:
    found = judged.measure(np.full((3, 4), NOTHING), "mixed", 3)
    assert (found["recall"], found["ndcg"], found["hit_rate"]) == (0.0, 0.0, 0.0)


# Baselines


def test_baselines_by_hand() -> None:
    rows = [(0, 3, 1), (0, 3, 2), (0, 1, 3), (1, 0, 1), (1, 1, 2), (2, 0, 2), (3, 0, 3), (1, 4, 4)]
    customer, product, day = (np.array(column) for column in zip(*rows, strict=True))
    past = Transactions.of(5, 6, customer, product, day)
    engines = backtesting.baselines(past, SETTINGS)
    who = np.array([0, 1, 4])

    def lists(name: str, kind: Any) -> list[list[int]]:
        found = backtesting.lists_of(engines[name], past, who, 10, 90, (kind,), 4, SETTINGS)[kind][0]
        return [[int(p) for p in row if p != NOTHING] for row in found]

    # Orders with product 0: 3; 1: 2; 3: 2; 4: 1.
    assert lists(POPULARITY, "mixed") == [[0, 1, 3, 4]] * 3
    assert lists(POPULARITY, "explore")[0] == [0, 4, 2, 5]
    assert lists(PERSONAL, "mixed") == [[3, 1], [0, 1, 4], []]
    assert lists(PERSONAL, "explore") == [[], [], []]
    assert lists(GP_TOP_FREQ, "mixed") == [[3, 1, 0, 4], [0, 1, 4, 3], [0, 1, 3, 4]]
    assert lists(GP_TOP_FREQ, "repeat") == [[3, 1], [0, 1, 4], []]


# The choice


def measured(ndcg: dict[str, float], customers: int = 500) -> pd.DataFrame:
    rows = [
        {"list": n, "engine": e, "top": 10, "customers": customers, "ndcg": v} for n in LISTS for e, v in ndcg.items()
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("ndcg", "winner"),
    [
        ({POPULARITY: 0.1, GP_TOP_FREQ: 0.2, RIDGE: 0.3, RERANKED: 0.31}, RERANKED),
        ({POPULARITY: 0.1, GP_TOP_FREQ: 0.2, RIDGE: 0.3, RERANKED: 0.29}, RIDGE),
        ({POPULARITY: 0.1, GP_TOP_FREQ: 0.3, RIDGE: 0.3, RERANKED: 0.3}, GP_TOP_FREQ),
        ({POPULARITY: 0.1, PERSONAL: 0.3, GP_TOP_FREQ: 0.3, RIDGE: 0.2}, GP_TOP_FREQ),
    ],
)
def test_the_engine_that_won_serves_the_simpler_of_equals(ndcg: dict[str, float], winner: str) -> None:
    choice, reasons = backtesting.choose(measured(ndcg), SETTINGS)
    assert set(choice.values()) == {winner}
    assert all(f"{max(ndcg.values()):.4f}" in reason for reason in reasons.values())


def test_too_few_to_judge_by_choose_nothing() -> None:
    choice, reasons = backtesting.choose(measured({POPULARITY: 0.9, RIDGE: 0.1}, customers=29), SETTINGS)
    assert set(choice.values()) == {RIDGE}
    assert "29 customers" in reasons["mixed"]


# No leak, and the same again


def prepared(rows: Rows, **more: Any) -> Prepared:
    return backtesting.prepare(rows.transactions(N, P), CUT, HORIZON, SETTINGS, all_engines=True, **more)


def as_bytes(found: Prepared, rows: Rows) -> dict[str, bytes]:
    """All lists that each engine would give at the cut."""
    past = rows.transactions(N, P).before(CUT)
    who = np.arange(N)
    result: dict[str, bytes] = {}
    for name, engine in found.engines.items():
        lists = backtesting.lists_of(engine, past, who, CUT, found.window, LISTS, 10, SETTINGS)
        result |= {
            f"{name} {kind}": products.tobytes() + scores.tobytes() for kind, (products, scores) in lists.items()
        }
    return result


@pytest.fixture(scope="module")
def rows() -> Rows:
    return habits()


@pytest.fixture(scope="module")
def before(rows: Rows) -> tuple[Prepared, dict[str, bytes]]:
    found = prepared(rows)
    assert set(found.engines) == set(backtesting.ENGINES), "the re-ranker must take part, or the tests below prove less"
    assert found.report["tuning"]["status"] == "tuned"
    return found, as_bytes(found, rows)


def changed_future(rows: Rows, how: str) -> Rows:
    later = np.flatnonzero(rows.day >= CUT)
    product, day = rows.product.copy(), rows.day.copy()
    if how == "gone":
        return rows.where(rows.day < CUT)
    if how == "shuffled":
        product[later] = product[np.random.default_rng(5).permutation(later)]
    else:
        day[later] = CUT
    return Rows(rows.customer, product, day, rows.order)


@pytest.mark.parametrize("how", ["gone", "shuffled", "all on the day of the cut"])
def test_the_future_changes_nothing_before_it(rows: Rows, before: tuple[Prepared, dict[str, bytes]], how: str) -> None:
    assert (rows.day >= CUT).sum() > 300
    changed = changed_future(rows, how)
    found = prepared(changed)
    assert found.recipes == before[0].recipes
    assert (found.choice, found.reasons, found.report) == (before[0].choice, before[0].reasons, before[0].report)
    pd.testing.assert_frame_equal(found.measures, before[0].measures)
    assert as_bytes(found, changed) == before[1]


def test_what_is_learned_at_the_last_cut_ignores_the_window_it_is_judged_by(
    rows: Rows, before: tuple[Prepared, dict[str, bytes]]
) -> None:
    # The orders of the last window decide who serves, but the engines measured there must not have seen them.
    window = (rows.day >= before[0].cut) & (rows.day < CUT)
    other = Rows(rows.customer, np.where(window, (rows.product * 7 + 11) % P, rows.product), rows.day, rows.order)
    found = prepared(other)
    assert found.recipes == before[0].recipes, "weights are tuned before the last cut"
    for name, engine in before[0].then.items():
        past, who = rows.transactions(N, P).before(before[0].cut), np.arange(N)
        lists = [
            backtesting.lists_of(each, past, who, before[0].cut, HORIZON, LISTS, 10, SETTINGS)
            for each in (engine, found.then[name])
        ]
        for kind in LISTS:
            assert_array_equal(lists[0][kind][0], lists[1][kind][0], err_msg=f"{name} {kind}")
            assert_array_equal(lists[0][kind][1], lists[1][kind][1], err_msg=f"{name} {kind}")
    assert not found.measures.equals(before[0].measures)


def test_rows_in_any_order_give_the_same_bytes(rows: Rows, before: tuple[Prepared, dict[str, bytes]]) -> None:
    shuffled = rows.shuffled(11)
    found = prepared(shuffled)
    assert (found.choice, found.recipes) == (before[0].choice, before[0].recipes)
    assert as_bytes(found, shuffled) == before[1]


def test_habits_are_found(rows: Rows, before: tuple[Prepared, dict[str, bytes]]) -> None:
    found = backtesting.backtest(before[0].engines, rows.transactions(N, P), CUT, HORIZON, SETTINGS)
    at_ten = found[found["top"] == 10].set_index(["list", "engine"])["ndcg"]
    for kind in LISTS:
        assert at_ten[kind, RIDGE] > at_ten[kind, POPULARITY]
    # Whoever buys product i tends to try the next one: counts of one's own cannot know.
    assert at_ten["mixed", RIDGE] > at_ten["mixed", GP_TOP_FREQ]
    assert at_ten["explore", RIDGE] > 1.5 * at_ten["explore", GP_TOP_FREQ]


def test_lists_hold_each_product_once_and_keep_apart_what_was_bought(
    rows: Rows, before: tuple[Prepared, dict[str, bytes]]
) -> None:
    past = rows.transactions(N, P).before(CUT)
    bought = {(int(c), int(p)) for c, p in zip(past.order_customer[past.order], past.product, strict=True)}
    for name, engine in before[0].engines.items():
        lists = backtesting.lists_of(engine, past, np.arange(N), CUT, HORIZON, LISTS, 60, SETTINGS)
        for kind, (products, scores) in lists.items():
            for customer in range(N):
                there = products[customer] != NOTHING
                named = products[customer][there].tolist()
                assert len(set(named)) == len(named), (name, kind)
                assert (np.diff(scores[customer][there]) <= 0).all(), (name, kind)
                if kind != "mixed":
                    assert all(((customer, p) in bought) == (kind == "repeat") for p in named), (name, kind)


# A real merchant


def test_the_first_recipe_alone_reaches_the_bounds_on_online_retail_ii(tmp_path: Path) -> None:
    # Tuned and re-ranked it takes minutes: `crm bench --cases orii`.
    if not online_retail.SOURCE.exists():
        pytest.skip(f"needs {online_retail.SOURCE}")
    path = tmp_path / "orders.csv"
    online_retail.order_lines().to_csv(path, index=False)
    lines = read_lines(path)
    assert (len(lines), len(lines.customers), len(lines.products)) == (788_187, 5_852, 4_619)
    transactions = Transactions.of(5_852, 4_619, lines.customer, lines.product, lines.day, lines.order)
    cut, settings = day_number(date(2011, 9, 9)), rules.load().ranking
    learned = backtesting.rankers(transactions.before(cut), cut, 91, dict.fromkeys(LISTS, settings.recipe), settings)
    found = backtesting.backtest({RIDGE: backtesting.Engine(RIDGE, learned)}, transactions, cut, 91, settings)
    rows = found[found["top"] == 10].set_index("list")
    assert rows.loc["mixed", "customers"] == 2_292
    assert rows.loc["mixed", "recall"] >= 0.152
    assert rows.loc["mixed", "ndcg"] >= 0.185
    assert rows.loc["mixed", "hit_rate"] >= 0.758
    assert rows.loc["explore", "recall"] >= 0.041
    assert rows.loc["explore", "hit_rate"] >= 0.352


# Estates in which there is little to learn from

LITTLE: dict[str, list[tuple[int, int, int]]] = {
    "nothing at all": [],
    "one line": [(0, 0, 100)],
    "one customer": [(0, i % 3, 100 + 30 * i) for i in range(12)],
    "all on one day": [(i % 9, i % 7, 100) for i in range(60)],
    "one product": [(i % 60, 0, 100 + i) for i in range(600)],
    "one order each": [(i, i % 7, 100 + i) for i in range(60)],
    "forty days": [(i * 7 % 60, i * 11 % 13, 100 + i % 40) for i in range(900)],
    "decades apart": [(i % 60, i * 11 % 13, 100 + 9000 * (i // 300) + i % 40) for i in range(600)],
}


@pytest.mark.parametrize("name", LITTLE)
def test_little_to_learn_from_is_no_fault(name: str) -> None:
    lines = LITTLE[name]
    customer, product, day = (
        (np.array(column) for column in zip(*lines, strict=True)) if lines else (np.zeros(0, dtype=np.int64),) * 3
    )
    transactions = Transactions.of(61, 13, customer, product, day)
    settings: Ranking = smaller(rules.load().ranking, min_orders=20)
    today = int(day.max(initial=100)) + 1
    found = backtesting.prepare(transactions, today, 30, settings, all_engines=True)
    for engine in found.engines.values():
        # Customer 60 never ordered; nobody is asked for; more products are wanted than there are.
        for who in (np.arange(61), np.array([60]), np.zeros(0, dtype=np.int64)):
            lists = backtesting.lists_of(engine, transactions, who, today, found.window, LISTS, 50, settings)
            assert {products.shape for products, _ in lists.values()} == {(len(who), 13)}
    if lines:
        unknown, _ = found.lists(transactions, np.array([60]), "mixed", 5, settings)
        popular = np.bincount(product, minlength=13)
        assert popular[unknown[0, 0]] > 0, "whoever never ordered gets what sells"


def test_a_list_is_the_same_whether_others_are_asked_for_or_not(
    rows: Rows, before: tuple[Prepared, dict[str, bytes]]
) -> None:
    past, who = rows.transactions(N, P).before(CUT), np.arange(0, N, 7)
    for engine in before[0].engines.values():
        together = backtesting.lists_of(engine, past, who, CUT, HORIZON, LISTS, 10, SETTINGS)
        for kind in LISTS:
            alone = backtesting.lists_of(engine, past, who, CUT, HORIZON, (kind,), 10, SETTINGS)[kind]
            assert_array_equal(alone[0], together[kind][0])
            assert_array_equal(alone[1], together[kind][1])
