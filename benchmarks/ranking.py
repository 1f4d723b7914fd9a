"""The ranker's speed beside the bare sparse product and selection of the same size, and its figures on real orders.

`ranker`: learning, histories, popularity, scores and the full top 10 of every customer, by the functions that
`recommendations` and `crm rank` call, on transactions that are prepared (that time is apart). `product`: the same
histories (sparse) times the learned matrix (dense), `selection`: numpy.argpartition of as many scores and a sort of
the few, both in the same chunks on as many threads. Each size ranks in a process of its own, whose peak is taken.
`reranking`: the re-ranker on 100 k customers, all three lists. `orii`: what `crm backtest` prints for Online Retail II
(docs/ranking.md), left out without ../shared/data; CDNOW is in benchmarks/predicting.py.
`./crm bench --cases ranking` runs the sizes, `--cases reranking` and `--cases orii` the others.

    python -m benchmarks.ranking --out FILE [--cases 100k,1m,reranking,orii] [--repeat 3]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import online_retail
from benchmarks.bench import ROOT, peak_mib, write_results

CUSTOMERS = {"100k": 100_000, "1m": 1_000_000, "reranking": 100_000}
PRODUCTS = 500
AIMS = {
    "100k": "ranker <= 0.6 s",
    "1m": "ranker <= 12 s, aim 7; <= 1.5 GiB",
    "orii": "mixed, top 10: recall >= .152, NDCG >= .185, hit rate >= .758; explore: recall >= .041, hit rate >= .352",
}
K = 10
LINES_PER_CUSTOMER = 14.8
ORDERS_PER_CUSTOMER = 5
FAVOURITES = 8
FAVOURITE_SHARE = 0.55
FIRST_DAY, DAYS = 20_000, 730
CUT, HORIZON = date(2011, 9, 9), 91  # of Online Retail II


def lines(n_customers: int, n_products: int, seed: int = 1) -> dict[str, np.ndarray]:
    """Positions and days of order lines, about 15 a customer: Zipf products, personal favourites, uneven rhythms."""
    random = np.random.default_rng(seed)
    chance = np.cumsum(1.0 / np.arange(1, n_products + 1) ** 0.8)

    def drawn(n: int | tuple[int, int]) -> np.ndarray:
        return np.searchsorted(chance, random.random(n) * chance[-1], side="right")

    favourites = drawn((n_customers, FAVOURITES))
    orders = 1 + random.geometric(1 / (ORDERS_PER_CUSTOMER - 1), n_customers)
    of = np.repeat(np.arange(n_customers), orders)
    day = FIRST_DAY + random.integers(0, DAYS, len(of))
    size = 1 + random.poisson(LINES_PER_CUSTOMER * n_customers / len(of) - 0.9, len(of))
    customer = np.repeat(of, size)
    product = drawn(len(customer))
    is_habit = random.random(len(customer)) < FAVOURITE_SHARE
    product[is_habit] = favourites[customer[is_habit], random.integers(0, FAVOURITES, int(is_habit.sum()))]
    return {"customer": customer, "product": product, "day": np.repeat(day, size)}


def best_of(repeat: int, work: Callable[[], Any]) -> tuple[float, Any]:
    """The least seconds of some runs, and the last result."""
    seconds, result = [], None
    for _ in range(repeat):
        result = None  # the run before's must not count into the peak
        started = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - started)
    return round(min(seconds), 3), result


def prepare(name: str, folder: Path) -> dict[str, Any]:
    """Write the transactions of a case for the processes that rank them."""
    from dataclasses import asdict

    from crm_assets.logic.ranking import Transactions

    made = lines(CUSTOMERS[name], PRODUCTS)
    seconds, transactions = best_of(1, lambda: Transactions.of(CUSTOMERS[name], PRODUCTS, **made))
    np.savez(folder / f"{name}.npz", **asdict(transactions))
    return {"lines": len(made["product"]), "orders": transactions.n_orders, "preparing_seconds": seconds}


def rank(name: str, folder: Path, repeat: int) -> dict[str, Any]:
    """The ranker of a case, then what its size costs at least."""
    from crm_assets import rules
    from crm_assets.logic import ranking
    from crm_assets.logic.ranking import Ranker, Transactions

    with np.load(folder / f"{name}.npz") as stored:
        transactions = Transactions(**{key: stored[key] for key in stored.files} | {"n_products": PRODUCTS})
    settings = rules.load().ranking
    recipe, day, n = settings.recipe, FIRST_DAY + DAYS, transactions.n_customers

    before = peak_mib()
    shares: dict[str, float] = {}

    def ranked() -> np.ndarray:
        started = time.perf_counter()
        regression = ranking.learn(transactions, day, recipe, settings)
        shares["learn"] = time.perf_counter() - started
        history = ranking.history_at(transactions, day, recipe.memory_days)
        ranker = Ranker.of(recipe, regression, ranking.popularity(transactions, day, 90), settings)
        shares["histories"] = time.perf_counter() - started - shares["learn"]
        parts = ranking.in_parts(n, PRODUCTS, lambda rows: ranking.top(ranker.scores(history, rows), K))
        found = np.concatenate([columns for columns, _ in parts])
        shares["lists"] = time.perf_counter() - started - shares["learn"] - shares["histories"]
        return found

    seconds, found = best_of(repeat, ranked)
    if found.shape != (n, K) or (np.sort(found[:100], axis=1)[:, 1:] == np.sort(found[:100], axis=1)[:, :-1]).any():
        raise SystemExit("the lists are no lists")
    result: dict[str, Any] = {"ranker_seconds": seconds, "of_it_last_run": {k: round(v, 3) for k, v in shares.items()}}
    result |= {"peak_mib": peak_mib(), "peak_before_mib": before}
    del found
    regression = ranking.learn(transactions, day, recipe, settings)
    known = ranking.history_at(transactions, day, recipe.memory_days).scaled(recipe.scale)
    one_chunk = np.asarray(known[:20_000] @ regression.ridge)

    def product(rows: slice) -> float:
        return float((known[rows] @ regression.ridge)[0, 0])

    def selection(rows: slice) -> np.ndarray:
        scores = one_chunk[: rows.stop - rows.start]
        best = np.argpartition(scores, PRODUCTS - K, axis=1)[:, PRODUCTS - K :]
        order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1)
        return np.take_along_axis(best, order, axis=1)

    result["product_seconds"], _ = best_of(repeat, lambda: ranking.in_parts(n, PRODUCTS, product))
    result["selection_seconds"], _ = best_of(repeat, lambda: ranking.in_parts(n, PRODUCTS, selection))
    return result


def rerank(name: str, folder: Path) -> dict[str, Any]:
    """Learning the re-ranker from past cuts, and the lists of all customers by it."""
    from crm_assets import rules
    from crm_assets.logic import backtesting, ranking, reranking
    from crm_assets.logic.backtesting import LISTS, RERANKED, Engine
    from crm_assets.logic.ranking import Ranker, Transactions
    from crm_assets.logic.reranking import Reranker

    with np.load(folder / f"{name}.npz") as stored:
        transactions = Transactions(**{key: stored[key] for key in stored.files} | {"n_products": PRODUCTS})
    settings = rules.load().ranking
    day = FIRST_DAY + DAYS

    def ranker(until: int) -> Ranker:
        past = transactions.before(until)
        regression = ranking.learn(past, until, settings.recipe, settings)
        return Ranker.of(settings.recipe, regression, ranking.popularity(past, until, 90), settings)

    def examples() -> list[reranking.Examples]:
        cuts = [day - 90 * (number + 1) for number in range(settings.reranker.cuts)]
        return [reranking.examples(ranker(cut), transactions, cut, 90, settings) for cut in cuts]

    example_seconds, made = best_of(1, examples)
    fit_seconds, model = best_of(1, lambda: Reranker.fit(made, settings))
    engine = Engine(RERANKED, dict.fromkeys(LISTS, ranker(day)), model)
    everybody = np.arange(transactions.n_customers)
    seconds, _ = best_of(1, lambda: backtesting.lists_of(engine, transactions, everybody, day, 90, LISTS, K, settings))
    return {
        "examples_seconds": example_seconds,
        "fit_seconds": fit_seconds,
        "lists_seconds": seconds,
        "peak_mib": peak_mib(),
    }


def judge(folder: Path) -> dict[str, Any]:
    """`crm backtest` of Online Retail II; its table goes to stderr."""
    from crm_assets import ranking_files, rules

    path = folder / "online_retail_ii.csv"
    online_retail.order_lines().to_csv(path, index=False)
    found = ranking_files.backtest_file(
        path, CUT, rules.load().ranking, horizon=HORIZON, tops=[10, 20], say=lambda message: None
    )
    print(ranking_files.table_of(found), file=sys.stderr)
    served = {kind: found["lists"][kind][engine]["10"] for kind, engine in found["served"].items()}
    return {"served": found["served"], "top_10": served, "seconds": found["seconds"]}


def child(step: str, name: str, folder: Path, repeat: int) -> dict[str, Any]:
    """One step in a process of its own, on one BLAS thread as the pipeline has it."""
    command = [sys.executable, "-m", "benchmarks.ranking", "--step", f"{step}:{name}"]
    command += ["--folder", str(folder), "--repeat", str(repeat)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    output = subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    return found


def main() -> None:
    """Measure and write JSON, or be the process that is measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", default="100k,1m,reranking,orii")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        step, _, name = args.step.partition(":")
        steps: dict[str, Callable[[], dict[str, Any]]] = {
            "prepare": lambda: prepare(name, args.folder),
            "rank": lambda: rank(name, args.folder, args.repeat),
            "rerank": lambda: rerank(name, args.folder),
            "judge": lambda: judge(args.folder),
        }
        print(json.dumps(steps[step]()))
        return
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="crmbench-ranking-") as name:
        folder = Path(name)
        for case in args.cases.split(","):
            if case == "orii" and not online_retail.SOURCE.exists():
                print(f"orii: left out, {online_retail.SOURCE} is not there", file=sys.stderr)
                continue
            if case == "orii":
                results[case] = child("judge", case, folder, args.repeat)
            else:
                results[case] = child("prepare", case, folder, args.repeat)
                results[case] |= child("rerank" if case == "reranking" else "rank", case, folder, args.repeat)
            if case in AIMS:
                results[case]["aim"] = AIMS[case]
    write_results(results, args.out)


if __name__ == "__main__":
    main()
