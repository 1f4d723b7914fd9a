"""Predictions of the next orders: how good on a hold-out of real transactions, and how fast on made ones.

    python -m benchmarks.predicting --lines FILE --cut 1997-09-30 --horizon 273 [--least-days 180]
    python -m benchmarks.predicting --customers 100000 [--repeat 3]

With --lines: everything up to and including the cut is known, the days after it are predicted by the code of the
pipeline (`crm_assets/logic/predictions.py`) as one private population, and the measures are printed as JSON. The
file is a CSV with customer_id, order_date and amount, or Fader & Hardie's `cdnow_master.txt`. A cut with less
history than the rules ask for is measured with --least-days. With --customers: seconds and CPU seconds of the
computation, best of some, for customers of five years with some four and a half orders each.
"""

from __future__ import annotations

import argparse
import json
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from crm_assets import rules as rules_module
from crm_assets.logic import customers, predictions

YEARS = 5


def read(path: Path) -> pd.DataFrame:
    """One row per line: customer_id, order_date, amount_ht."""
    if path.suffix == ".txt":
        frame = pd.read_csv(path, sep=r"\s+", header=None, names=["customer_id", "order_date", "items", "amount"])
        frame = frame[pd.to_numeric(frame["customer_id"], errors="coerce").notna()]
    else:
        frame = pd.read_csv(path, usecols=["customer_id", "order_date", "amount"], dtype={"customer_id": str})
    return pd.DataFrame(
        {
            "customer_id": frame["customer_id"].astype(str),
            "order_date": pd.to_datetime(frame["order_date"].astype(str)),
            "amount_ht": frame["amount"].astype("float64"),
        }
    )


def private(ids: Any) -> pd.DataFrame:
    """These customers, all private."""
    return pd.DataFrame({"customer_id": ids, "population": "private"})


def hold_out(lines: pd.DataFrame, cut: date, horizon: int, rules: rules_module.BusinessRules) -> dict[str, Any]:
    """Measures of what is predicted at the cut for the `horizon` days after it, beside what was chosen and why."""
    known = lines["order_date"] <= pd.Timestamp(cut)
    end = pd.Timestamp(cut) + pd.Timedelta(days=horizon)
    later = lines[~known & (lines["order_date"] <= end)]
    found = predictions.predict(private(lines.loc[known, "customer_id"].unique()), lines[known], cut, rules)
    ids = pd.Index(found.rows["customer_id"])
    days = later.drop_duplicates(["customer_id", "order_date"])["customer_id"].value_counts()
    orders = days.reindex(ids, fill_value=0).to_numpy(dtype="float64")
    spend = later.groupby("customer_id")["amount_ht"].sum().reindex(ids, fill_value=0.0).to_numpy(dtype="float64")
    expected, probability = found.active.expected_orders(horizon), found.active.probability(horizon)
    value = (found.rows["expected_value_365d"] / found.rows["expected_orders_365d"]).fillna(0.0).to_numpy()
    top = np.argsort(-expected * value, kind="stable")[: max(len(ids) // 10, 1)]
    quality = found.quality["private"]
    return {
        "customers": len(ids),
        "method": quality["method"],
        "reason": quality["reason"],
        "value": quality.get("value", {}).get("method"),
        "rmse_orders": round(float(np.sqrt(np.mean((expected - orders) ** 2))), 4),
        "auc_active_by_expected_orders": customers.auc(expected, orders > 0),
        "auc_active_by_probability": customers.auc(probability, orders > 0),
        "brier": round(float(np.mean((probability - (orders > 0)) ** 2)), 4),
        "top_decile_share_of_spend": round(float(spend[top].sum() / spend.sum()), 4),
        "expected_orders": round(float(expected.sum()), 1),
        "observed_orders": int(orders.sum()),
        "mean_probability": round(float(probability.mean()), 4),
        "share_that_ordered": round(float((orders > 0).mean()), 4),
    }


def made(n: int) -> pd.DataFrame:
    """Orders of n customers who come at a rate and leave at a rate of their own, over five years."""
    chance = np.random.default_rng(1)
    days = YEARS * 365
    rate, leave, joined = chance.gamma(0.8, 1 / 120, n), chance.gamma(0.7, 1 / 400, n), chance.integers(0, days, n)
    stay = np.minimum(chance.exponential(1 / leave), days - joined)
    repeats = np.minimum(chance.poisson(rate * stay), 200)
    customer = np.concatenate([np.arange(n), np.repeat(np.arange(n), repeats)])
    day = joined[customer] + np.concatenate([np.zeros(n), chance.random(repeats.sum())]) * stay[customer]
    ids = np.array([f"{number:016x}" for number in range(n)], dtype=object)
    return pd.DataFrame(
        {
            "customer_id": ids[customer],
            "order_date": pd.Timestamp("2021-01-01") + pd.to_timedelta(day.astype(int), unit="D"),
            "amount_ht": chance.gamma(2, 60, n)[customer] * chance.gamma(4, 0.25, len(customer)),
        }
    )


def speed(n: int, repeat: int, rules: rules_module.BusinessRules) -> dict[str, Any]:
    """Best of `repeat`, the first left out: it loads the libraries."""
    orders = made(n)
    who = private(orders["customer_id"].unique())
    as_of = date(2021 + YEARS - 1, 12, 31)
    measured = []
    for _ in range(repeat + 1):
        started, worked = time.perf_counter(), time.process_time()
        predictions.predict(who, orders, as_of, rules)
        measured.append((time.perf_counter() - started, time.process_time() - worked))
    seconds, cpu = min(measured[1:])
    return {"customers": n, "orders": len(orders), "seconds": round(seconds, 2), "cpu_seconds": round(cpu, 2)}


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--lines", type=Path)
    parser.add_argument("--cut", type=date.fromisoformat)
    parser.add_argument("--horizon", type=int, default=90)
    parser.add_argument("--least-days", type=int, help="of history, instead of the rules'")
    parser.add_argument("--customers", type=int)
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()
    rules = rules_module.load()
    if args.least_days is not None:
        least = rules.predictions.model_copy(update={"min_history_days": args.least_days})
        rules = rules.model_copy(update={"predictions": least})
    if args.lines is not None:
        if args.cut is None:
            parser.error("--lines needs --cut")
        print(json.dumps(hold_out(read(args.lines), args.cut, args.horizon, rules), indent=2))
    if args.customers is not None:
        print(json.dumps(speed(args.customers, args.repeat, rules), indent=2))


if __name__ == "__main__":
    main()
