"""Preferences of spec.md §4.2, from raw lines to shares and bands, against plain loops.

What dbt must find is computed here from the documents by other means; nothing of the models' SQL is shared.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crm_assets.resources.warehouse import Warehouse
from tests.dbt.estate import AS_OF, Line, build, fill, set_parameters

TRAITS = ("family", "grape", "sweetness", "price_band")
CATALOGUE: dict[str, dict[str, str]] = {
    "P1": {"family": "Blanc", "grape": "Riesling", "sweetness": "sec", "price_band": "B"},
    "P2": {"family": "Blanc", "grape": "Pinot gris", "sweetness": "doux", "price_band": "B"},
    "P3": {"family": "Rouge", "grape": "Pinot noir", "sweetness": "sec", "price_band": "C"},
    "P4": {"family": "Cremant", "grape": "", "sweetness": "brut", "price_band": "A"},
    "P5": {"family": "", "grape": "Riesling", "sweetness": "", "price_band": "A"},
}
PRODUCTS = [
    {"product_key": key, "label": f"Vin {key}", "price_ttc": "14.40", "is_active": "1", **traits}
    for key, traits in CATALOGUE.items()
]


def random_case() -> dict[str, list[Line]]:
    """Thirty buyers; some give back a part, all, or (an error of the till) more than all of a wine."""
    chance = np.random.default_rng(11)
    case: dict[str, list[Line]] = {}
    for number in range(30):
        lines: list[Line] = []
        for document in range(1 + number % 4):
            wines = chance.choice(list(CATALOGUE), size=int(chance.integers(2, 5)), replace=False)
            day = int(chance.integers(30, 500))
            lines += [
                (f"F{number}-{document}", day, wine, 6.0, round(float(chance.uniform(20, 200)), 2)) for wine in wines
            ]
        if number % 3 == 0:
            kept = (0.4, 0.0, -0.5)[number % 9 // 3]
            wine = lines[0][2]
            bought = sum(line[4] for line in lines if line[2] == wine)
            lines.append((f"A{number}", 10, wine, -1.0, -round(bought * (1 - kept), 2)))
        case[f"C{number:02d}"] = lines
    return case


def expected(case: Mapping[str, list[Line]]) -> dict[str, dict[str, Any]]:
    """customer -> top values and shares of each trait, diversity and budget band."""
    mean_order = {}
    for customer, lines in case.items():
        orders: dict[str, float] = defaultdict(float)
        for document, _, _, _, amount in lines:
            orders[document] += amount
        qualifying = [amount for amount in orders.values() if amount > 0]
        mean_order[customer] = round(sum(qualifying) / len(qualifying), 2)
    low, high = np.quantile(list(mean_order.values()), [1 / 3, 2 / 3])
    found: dict[str, dict[str, Any]] = {}
    for customer, lines in case.items():
        net: dict[str, float] = defaultdict(float)
        for _, _, wine, _, amount in lines:
            net[wine] += amount
        row: dict[str, Any] = {}
        for trait in TRAITS:
            spend: dict[str, float] = defaultdict(float)
            for wine, amount in net.items():
                if CATALOGUE[wine][trait]:
                    spend[CATALOGUE[wine][trait]] += max(amount, 0.0)
            total = sum(spend.values())
            ranked = sorted(((amount / total, name) for name, amount in spend.items() if amount > 1e-6), reverse=True)
            for place in (1, 2):
                share, name = ranked[place - 1] if len(ranked) >= place else (None, None)
                row[f"top_{trait}_{place}"], row[f"top_{trait}_{place}_share"] = name, share
            if trait == "family":
                row["diversity"] = 1 - sum(share**2 for share, _ in ranked) if ranked else None
        value = mean_order[customer]
        row["budget_band"] = "low" if value <= low else "medium" if value <= high else "high"
        found[customer] = row
    return found


def test_preferences_of_a_random_case_are_those_of_plain_loops(tenant_warehouse: Warehouse, tmp_path: Path) -> None:
    case = random_case()
    fill(tenant_warehouse, case, PRODUCTS)
    set_parameters(tenant_warehouse, AS_OF, {})
    build(tenant_warehouse, tmp_path, ["+customer_preferences"])
    wanted = expected(case)
    found = tenant_warehouse.read("rfm", "customer_preferences").set_index("customer_id")
    assert sorted(found.index) == sorted(wanted)
    for customer, row in wanted.items():
        for name, value in row.items():
            measured = found.loc[customer, name]
            if value is None:
                assert measured != measured or measured is None, (customer, name)
            elif isinstance(value, str):
                assert measured == value, (customer, name)
            else:
                assert measured == pytest.approx(value, abs=1e-9), (customer, name)
    assert {row["budget_band"] for row in wanted.values()} == {"low", "medium", "high"}
