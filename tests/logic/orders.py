"""Orders with planted habits for the tests of the ranker: small, seeded, in which something is to be found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from crm_assets.logic.ranking import Transactions
from crm_assets.rules import Ranking

FIRST_DAY = 18_000


@dataclass
class Rows:
    """One entry per order line."""

    customer: np.ndarray
    product: np.ndarray
    day: np.ndarray
    order: np.ndarray

    def transactions(self, n_customers: int, n_products: int) -> Transactions:
        return Transactions.of(n_customers, n_products, self.customer, self.product, self.day, self.order)

    def shuffled(self, seed: int) -> Rows:
        by = np.random.default_rng(seed).permutation(len(self.day))
        return Rows(self.customer[by], self.product[by], self.day[by], self.order[by])

    def where(self, kept: np.ndarray) -> Rows:
        return Rows(self.customer[kept], self.product[kept], self.day[kept], self.order[kept])


def habits(n_customers: int = 300, n_products: int = 40, days: int = 720, seed: int = 7) -> Rows:
    """Each customer keeps to three products, and whoever buys product i tends to try the next one."""
    random = np.random.default_rng(seed)
    own = random.integers(0, n_products, (n_customers, 3))
    of = np.repeat(np.arange(n_customers), random.integers(2, 9, n_customers))
    day = FIRST_DAY + random.integers(0, days, len(of))
    order = np.repeat(np.arange(len(of)), 3)
    customer = of[order]
    product = own[customer, random.integers(0, 3, len(order))]
    is_new = random.random(len(order)) < 0.4
    product[is_new] = (product[is_new] + 1) % n_products
    return Rows(customer, product, day[order], order)


def smaller(settings: Ranking, **reranker: Any) -> Ranking:
    """The product's rules with little to try and a small re-ranker, so that a test is quick."""
    rules = {"min_orders": 200, "orders_per_cut": 200, "cuts": 3, "iterations": 8, "leaf_candidates": 20}
    rules["unordered_step"] = 1  # every candidate is an example
    return settings.model_copy(
        update={
            "candidates_repeat": 8,
            "candidates_explore": 8,
            "tuning": settings.tuning.model_copy(
                update={"min_customers": 30, "memory_days": [120.0, 240.0], "personal": [0.0, 0.4]}
            ),
            "reranker": settings.reranker.model_copy(update={**rules, **reranker}),
        }
    )
