"""The audit of 100,000 customers with three items each: the rules, scores and permissions, then with the database.

`compute`: `logic.audit.audit` on frames in memory. `run`: what the assets of a run do: the list and the facts read from
PostgreSQL, the same computation, findings and scores written back. Each on two lists: `usual`, where some customers in
a hundred break each rule and three in four lists are of low confidence, as engines make them; and `worst`, where every
item breaks each rule about items that it can, nearly each with a value of its own.
`./crm bench --cases audit` runs this in a CRM_HOME of its own.

    python -m benchmarks.auditing --out FILE [--repeat 3] [--customers 100000]
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.bench import peak_mib, write_results
from benchmarks.ranking import best_of

AS_OF = date(2025, 12, 31)
PRODUCTS = 500
ITEMS, BOUGHT, SENT = 3, 8, 2  # rows a customer
SCENARIOS = np.array(["rebuy", "cross_sell", "upsell", "winback", "nurture"])
SWEETNESS = np.array(["sec", "demi-sec", "moelleux", "brut"])
AIM = "100 k customers x 3 items: rules, scores and permissions <= 5 s"

Frames = tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, pd.DataFrame, pd.DataFrame]


def frames(n_customers: int, kind: str, seed: int = 1) -> Frames:
    """Items, facts, products, purchases and sent wines, as `audit.audit` takes them."""
    random = np.random.default_rng(seed)

    def days_ago(n: int, most: int, least: int = 0) -> pd.Series:
        days = random.integers(least, most, n).astype("timedelta64[D]")
        return pd.Series((np.datetime64(AS_OF) - days).astype("datetime64[s]"))

    def some(share: float, n: int = n_customers) -> np.ndarray:
        return random.random(n) < share

    ids = pd.Series(np.sort([f"{number:016x}" for number in random.integers(0, 1 << 62, n_customers)]), dtype="str")
    status = np.select([some(0.12), some(0.01)], ["missing", "invalid"], default="valid")
    facts = pd.DataFrame(
        {
            "customer_id": ids,
            "client_code": pd.Series([f"C{number:07d}" for number in range(n_customers)], dtype="str"),
            "population": "private",
            "type": "private",
            "status": "active",
            "is_collective": False,
            "opt_in": some(0.5),
            "opt_in_date": days_ago(n_customers, 2000),
            "opt_in_source": "salon",
            "n_qualifying_orders": random.integers(0, 9, n_customers),
            "email": ids + "@example.com",
            "email_status": status,
            "is_email_contact": ~some(0.02),
            "is_refused": some(0.02),
            "is_bounced": some(0.01),
            "last_contact_date": days_ago(n_customers, 400),
            "contacts_90d": random.integers(0, 5, n_customers),
            "last_order_date": days_ago(n_customers, 1500),
            "last_engagement_date": days_ago(n_customers, 1500),
            "birth_date": days_ago(n_customers, 30_000, 6_000),
            "country": "FR",
            "price_75cl_ttc": random.uniform(5, 40, n_customers).round(4),
            "dominant_sweetness": SWEETNESS[random.integers(0, len(SWEETNESS), n_customers)],
        }
    )
    worst = kind == "worst"
    products = pd.DataFrame(
        {
            "product_key": pd.Series([f"P{number:04d}" for number in range(PRODUCTS)], dtype="str"),
            "wine_id": pd.Series([f"w{number:04d}" for number in range(PRODUCTS)], dtype="str"),
            "kind": "wine",
            "family": pd.Series([f"F{number % 12}" for number in range(PRODUCTS)], dtype="str"),
            "sweetness": SWEETNESS[random.integers(0, len(SWEETNESS), PRODUCTS)],
            "price_75cl_ttc": random.uniform(5, 40, PRODUCTS).round(4) if not worst else 4.0,
            "stock_status": np.where(some(1.0 if worst else 0.02, PRODUCTS), "out", "in"),
            "is_active": True,
            "is_archived": False,
            "is_inferred": False,
        }
    )

    def wines(per_customer: int) -> np.ndarray:
        # No wine twice to a customer: steps of an odd number go round all products.
        first = random.integers(0, PRODUCTS, n_customers)
        return ((first[:, None] + 37 * np.arange(per_customer)) % PRODUCTS).ravel()

    n_items = n_customers * ITEMS
    offered = wines(ITEMS)
    scenario = random.integers(0, len(SCENARIOS), n_items)
    if worst:
        scenario = random.integers(1, 3, n_items)
    items = pd.DataFrame(
        {
            "customer_id": ids.repeat(ITEMS).reset_index(drop=True),
            "wine_id": products["wine_id"].take(offered).reset_index(drop=True),
            "product_key": products["product_key"].take(offered).reset_index(drop=True),
            "scenario": SCENARIOS[scenario],
            "rank": np.tile(np.arange(1, ITEMS + 1), n_customers),
            "confidence": (random.beta(1, 4, n_items) * (0.3 if worst else 1)).round(6),
        }
    )
    owned = wines(BOUGHT)
    owned[random.integers(0, BOUGHT, n_customers) + BOUGHT * np.arange(n_customers)] = offered[::ITEMS]
    if worst:
        owned.reshape(n_customers, BOUGHT)[:, :ITEMS] = offered.reshape(n_customers, ITEMS)
    bought = pd.DataFrame(
        {
            "customer_id": ids.repeat(BOUGHT).reset_index(drop=True),
            "wine_id": products["wine_id"].take(owned).reset_index(drop=True),
            "last_date": days_ago(len(owned), 60 if worst else 2000),
        }
    )
    sent = pd.DataFrame(
        {
            "customer_id": ids.repeat(SENT).reset_index(drop=True),
            "wine_id": products["wine_id"].take(wines(SENT)).reset_index(drop=True),
            "sent_date": days_ago(n_customers * SENT, 400),
        }
    )
    return items, facts, products, bought, sent


def computed(given: Frames, repeat: int) -> dict[str, Any]:
    """The audit on frames."""
    from crm_assets import rules
    from crm_assets.logic import audit

    settings, tenant = rules.load(), _tenant()
    processor: list[float] = []

    def once() -> audit.AuditResult:
        started = time.process_time()
        result = audit.audit(*given, tenant, settings, AS_OF)
        processor.append(time.process_time() - started)
        return result

    seconds, result = best_of(repeat, once)
    return {
        "seconds": seconds,
        "processor_seconds": round(min(processor), 3),
        "findings": len(result.findings),
        "items": len(given[0]),
    }


def run(kind: str, given: Frames, repeat: int) -> dict[str, Any]:
    """The audit of a stored list, from reading to written findings and scores."""
    from crm_assets import databases, gating, rules, tables
    from crm_assets.logic import audit
    from crm_assets.resources.warehouse import Warehouse
    from crm_assets.settings import settings
    from tests.frames import make_table

    config, business = settings(), rules.load()
    warehouse = Warehouse(databases.ensure_tenant(databases.cluster(config), f"audit_{kind}"))
    items, facts, products, bought, sent = given
    make_table(warehouse, "audit.customer_facts", facts)
    make_table(warehouse, "curated.dim_products", products)
    make_table(warehouse, "rfm.customer_wines", bought)
    whole = items.assign(
        run_id="run",
        rules_version="r",
        as_of=AS_OF,
        score=50.0,
        probability=0.1,
        explain_short="",
        customer_sentence="",
        reasons="{}",
        components="{}",
    )
    stored = [column.name for column in tables.items.columns if column.name in whole]
    warehouse.append(tables.items, whole[stored])
    seconds: dict[str, float] = {}

    def timed(step: str, work: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        result = work()
        seconds[step] = min(seconds.get(step, float("inf")), round(time.perf_counter() - started, 3))
        return result

    def once() -> int:
        listed = timed("read_list", lambda: gating.listed_items(warehouse, "run", audit.ITEM_COLUMNS))
        known = timed("read_facts", lambda: gating.audit_frames(warehouse))
        frames_read = (listed, *known[:3], sent)  # the outbox is empty here: what was sent is given
        result = timed("audit", lambda: audit.audit(*frames_read, _tenant(), business, AS_OF))
        found, scored = result.findings.assign(run_id="run"), result.scores.assign(run_id="run")
        timed("write_findings", lambda: warehouse.replace_run(tables.findings, found, "run"))
        timed("write_scores", lambda: warehouse.replace_run(tables.scores, scored, "run"))
        return len(result.findings)

    whole_seconds, findings = best_of(repeat, once)
    return {"seconds": whole_seconds, "of_it_least": seconds, "findings": findings}


def _tenant() -> Any:
    from tests.logic import estate

    return estate.tenant()


def main() -> None:
    """Measure and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--customers", type=int, default=100_000)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    results: dict[str, Any] = {"aim": AIM}
    for kind in ("usual", "worst"):
        given = frames(args.customers, kind)
        results[f"{kind}: compute"] = computed(given, args.repeat)
        results[f"{kind}: run"] = run(kind, given, args.repeat)
    results["peak_mib"] = peak_mib()
    results["load_average"] = round(os.getloadavg()[0], 1)
    write_results(results, args.out)


if __name__ == "__main__":
    main()
