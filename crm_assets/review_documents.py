"""Review workbooks of a run, from a tenant's database to files. Shared by Dagster and by `crm review export`.

What stands in them is decided in `logic/review_workbook.py`. Nothing is written to the database, and no file is ever
written over: somebody may be filling it in.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, time
from pathlib import Path

import pandas as pd

from crm_assets import rendering, reviews
from crm_assets.documents import write_whole
from crm_assets.logic.review import ITEM_KEY
from crm_assets.logic.review_workbook import About, parts_of, review_items, review_workbook
from crm_assets.resources.warehouse import Warehouse
from crm_assets.rules import BusinessRules
from crm_assets.tenants import Tenant

# The three newest qualifying orders of the customers of a run, and how many they have.
_ORDERS = """
    select customer_id, order_date, amount_ht, n_orders from (
        select
            orders.customer_id, orders.order_date, orders.amount_ht,
            count(*) over (partition by orders.customer_id) as n_orders,
            row_number() over (
                partition by orders.customer_id order by orders.order_date desc, orders.order_id collate "C"
            ) as number
        from curated.fct_orders as orders
        where
            orders.is_qualifying
            and orders.customer_id in (select customer_id from recommendations.items where run_id = %s)
    ) as numbered
    where number <= 3
"""
# The decisions that hold, with the rating and the comment that were given with them.
_DECIDED = """
    select held.customer_id, held.wine_id, held.scenario, held.decision, given.rating, given.comment
    from review.applied_decisions as held
    left join lateral (
        select decisions.rating, decisions.comment from review.decisions
        where
            (decisions.run_id, decisions.customer_id, decisions.wine_id, decisions.scenario)
            = (held.decided_run_id, held.customer_id, held.wine_id, held.scenario)
            and decisions.decided_at = held.decided_at
        limit 1
    ) as given on true
    where held.run_id = %s
"""


@dataclass(frozen=True)
class ReviewBook:
    """A workbook as it lies: `is_new` where it was written now."""

    path: Path
    items: int
    customers: int
    sampled: int  # customers
    is_new: bool


def write_review_workbooks(
    warehouse: Warehouse, tenant: Tenant, rules: BusinessRules, run_id: str, directory: Path, most: int | None = None
) -> list[ReviewBook]:
    """The review workbooks of a run in `directory`, at most so many; the same content is not written twice.

    Where one lies that differs, because something has been decided since or somebody is filling it in, the new one
    gets a name of its own. ReviewError: the run never reached the gate.
    """
    run_id, as_of = reviews.run_to_review(warehouse, run_id)
    items, findings = _gathered(warehouse, tenant, rules, run_id)
    stem = rendering.texts(tenant.locale)["review_workbook"]["file"]
    parts = parts_of(items, rules.review.workbook_rows)
    books = []
    for number, part in enumerate(parts[:most], start=1):
        content = review_workbook(
            part,
            findings[findings["customer_id"].isin(part["customer_id"])],
            About(
                estate=tenant.name,
                run_id=run_id,
                as_of=as_of,
                last_day=reviews.last_day(as_of, tenant),
                mode=tenant.review,
                part=number,
                parts=len(parts),
            ),
            rules,
            locale=tenant.locale,
            # Not the clock: the same items and decisions are the same bytes, by which a file is known again.
            made_at=datetime.combine(as_of, time(), UTC),
        )
        name = f"{stem}-{run_id}" + (f"-{number}" if number > 1 else "")
        path, is_new = _saved(directory, name, content)
        sampled = part.loc[part["is_sampled"], "customer_id"].nunique()
        books.append(ReviewBook(path, len(part), part["customer_id"].nunique(), sampled, is_new))
    return books


def _saved(directory: Path, stem: str, content: bytes) -> tuple[Path, bool]:
    """Where the content lies, and whether it was written: under the first name that is free or holds it already."""
    for path in _names(directory, stem):
        if not path.exists():
            return write_whole(path, content), True
        if path.read_bytes() == content:
            return path, False
    raise AssertionError  # names never end


def _names(directory: Path, stem: str) -> Iterator[Path]:
    yield directory / f"{stem}.xlsx"
    number = 2
    while True:
        yield directory / f"{stem}.v{number}.xlsx"
        number += 1


def _gathered(
    warehouse: Warehouse, tenant: Tenant, rules: BusinessRules, run_id: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The items for the workbooks of a run, and what the audit found about them."""

    def of_run(schema: str, name: str, columns: list[str]) -> pd.DataFrame:
        return warehouse.read(schema, name, columns, "run_id = %s", [run_id])

    findings = of_run(
        "audit", "findings", ["customer_id", "product_key", "rule_code", "severity", "measured", "threshold"]
    )
    numbers = ["rank", "score", "confidence"]
    items = review_items(
        of_run("recommendations", "items", [*ITEM_KEY, "product_key", *numbers, "explain_short", "customer_sentence"]),
        of_run("gate", "next_actions", ["customer_id", "client_code", "permitted", "audit_score"]),
        warehouse.read("curated", "dim_customers", ["customer_id", "last_name", "first_name", "full_name"]),
        warehouse.read("curated", "dim_products", ["product_key", "label", "vintage", "format_cl"]),
        warehouse.query(_ORDERS, [run_id]),
        findings,
        warehouse.query(_DECIDED, [run_id]),
        of_run("review", "samples", ["customer_id"])["customer_id"],
        run_id,
        rules,
        tenant.locale,
    )
    key = ["customer_id", "product_key"]
    is_shown = pd.MultiIndex.from_frame(findings[key]).isin(pd.MultiIndex.from_frame(items[key]))
    return items, findings[is_shown | findings["product_key"].eq("")]
