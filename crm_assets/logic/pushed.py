"""Wines that a campaign puts first (`wines.push`): they lead the list of each customer who may get them.

A pushed wine that stands in somebody's list comes first in it. Somebody whose list lacks it gets it in front only where
every rule of the recommendations holds: never bought (when to offer a wine again is the engine's to judge), in no
message and not rejected lately, for sale, not under somebody else's allocation, within what its stock can serve; and
the audit must find nothing against the list as it then stands. No SQL, no clock here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import pandas as pd

from crm_assets.logic import audit, phrases
from crm_assets.logic.recommendations import stock_capacity
from crm_assets.rules import BusinessRules
from crm_assets.tenants import Tenant

# Scenarios of people for whom any wine is what the scenario says; for all others a wine never bought is a cross-sell.
_WHOLE_LIST = ("nurture", "winback")
_CROSS_SELL = "cross_sell"
_USUAL_CL = 75.0
ITEM_COLUMNS = [*audit.ITEM_COLUMNS, "customer_sentence"]


@dataclass(frozen=True)
class Facts:
    """What decides who may get a wine. facts, products, customer_wines, sent_wines: as the audit reads them, products
    with all of curated.dim_products. rejections: customer_id, wine_id, rejected_date. allocations: product_key,
    customer_id, of products that are offered to nobody else. may_insert: false where people approve every item.
    addressed: customers whom the campaign may reach.
    """

    facts: pd.DataFrame
    products: pd.DataFrame
    customer_wines: pd.DataFrame
    sent_wines: pd.DataFrame
    rejections: pd.DataFrame
    allocations: pd.DataFrame
    may_insert: bool
    addressed: pd.Series


def offers_of(products: pd.DataFrame, push: Sequence[str], items: pd.DataFrame) -> pd.DataFrame:
    """The products that can be put first, in order: as named, then by how many lists name them; one of each wine.

    A product is itself; a wine or a family stands for what of it is for sale, in the usual format and newest vintage.
    """
    sold = products[products["is_recommendable"].fillna(False).astype(bool)].copy()
    place = {name: number for number, name in reversed(list(enumerate(push)))}
    named = pd.concat([sold[column].map(place) for column in ("product_key", "wine_id", "family")], axis=1)
    sold["place"] = named.min(axis=1)
    sold["is_itself"] = sold["product_key"].isin(push)
    sold["listed"] = sold["wine_id"].map(items["wine_id"].value_counts()).fillna(0)
    sold["off_size"] = (sold["format_cl"] - _USUAL_CL).abs()
    sold = sold[sold["place"].notna()].sort_values(
        ["place", "listed", "wine_id", "is_itself", "off_size", "vintage", "product_key"],
        ascending=[True, False, True, False, True, False, True],
        kind="stable",
    )
    return sold.drop_duplicates("wine_id").reset_index(drop=True)


def pushed_items(
    push: Sequence[str], items: pd.DataFrame, given: Facts, tenant: Tenant, rules: BusinessRules, as_of: date
) -> pd.DataFrame:
    """`items` (ITEM_COLUMNS) with the pushed wines in front, ranks 1..n, at most `max_per_customer` each.

    Only customers of `given.addressed` get a wine that is not in their list: nobody else takes of its stock.
    """
    offers = offers_of(given.products, push, items)
    if offers.empty or items.empty:
        return items
    ordered = items.sort_values(["customer_id", "rank", "product_key"], kind="stable")
    is_pushed = ordered["wine_id"].isin(offers["wine_id"])
    has_one = ordered["customer_id"].isin(ordered.loc[is_pushed, "customer_id"])
    led = _ranked(ordered.assign(rank=ordered["rank"] + np.where(is_pushed, 0, len(ordered)))[has_one])
    has_none = ordered["customer_id"].isin(given.addressed) & ~has_one
    led = pd.concat([led, ordered[~has_one & ~has_none]], ignore_index=True)
    others = ordered[has_none]
    if not given.may_insert or others.empty:
        return pd.concat([led, others], ignore_index=True)
    added = _added(offers, others, items, given, tenant, rules, as_of)
    changed = others[others["customer_id"].isin(added["customer_id"])]
    longer = _ranked(pd.concat([added, changed], ignore_index=True))
    longer = longer[longer["rank"] <= rules.recommendations.max_per_customer]
    scores = audit.audit(
        longer, given.facts, given.products, given.customer_wines, given.sent_wines, tenant, rules, as_of
    ).scores
    fit = scores.loc[(scores["n_errors"] == 0) & (scores["audit_score"] >= rules.audit.min_score), "customer_id"]
    longer = longer[longer["customer_id"].isin(fit)]
    return pd.concat([led, longer, others[~others["customer_id"].isin(longer["customer_id"])]], ignore_index=True)


def _ranked(items: pd.DataFrame) -> pd.DataFrame:
    """The items with ranks 1..n in the order of their present ones."""
    ordered = items.sort_values(["customer_id", "rank", "product_key"], kind="stable", ignore_index=True)
    return ordered.assign(rank=ordered.groupby("customer_id").cumcount() + 1)


def _added(
    offers: pd.DataFrame,
    lists: pd.DataFrame,
    every_item: pd.DataFrame,
    given: Facts,
    tenant: Tenant,
    rules: BusinessRules,
    as_of: date,
) -> pd.DataFrame:
    """One item per customer of `lists` who may get a pushed wine, rank 0: the first that they may get."""
    first = lists.drop_duplicates("customer_id").set_index("customer_id")
    size = lists.groupby("customer_id").size()
    customers = first.index
    named = every_item["product_key"].value_counts()
    room = stock_capacity(offers["available"].to_numpy(dtype="float64"), rules)
    room = room - offers["product_key"].map(named).fillna(0).to_numpy(dtype="float64")
    gets = np.full(len(customers), -1)
    is_allocated = offers["allocation"].notna().to_numpy()
    for number, (wine, product) in enumerate(offers[["wine_id", "product_key"]].itertuples(index=False)):
        may = ~customers.isin(_barred(wine, given, rules, as_of)) & (gets < 0)
        listed = given.allocations.loc[given.allocations["product_key"] == product, "customer_id"]
        if len(listed) or is_allocated[number]:
            may &= customers.isin(listed)
        chosen = np.flatnonzero(may)
        if np.isfinite(room[number]):
            chosen = chosen[: max(int(room[number]), 0)]
        gets[chosen] = number
    rows = first[gets >= 0].reset_index()
    offer_of = gets[gets >= 0]
    scenario = rows["scenario"].where(rows["scenario"].isin(_WHOLE_LIST), _CROSS_SELL).to_numpy(dtype=object)
    # The opening that no other item of the message has: that of the place which the list has filled last.
    opening = np.minimum(rows["customer_id"].map(size).to_numpy() + 1, rules.recommendations.max_per_customer)
    never_bought = np.zeros(len(rows), dtype=bool)
    sentences = phrases.sentences(scenario, never_bought, opening, tenant.locale, offer_of, offers)
    return rows.assign(
        wine_id=offers["wine_id"].to_numpy()[offer_of],
        product_key=offers["product_key"].to_numpy()[offer_of],
        scenario=scenario,
        rank=0,
        customer_sentence=sentences,
    )[ITEM_COLUMNS]


def _barred(wine: str, given: Facts, rules: BusinessRules, as_of: date) -> set[str]:
    """The customers who bought the wine ever, were sent it or rejected it lately."""
    bought = given.customer_wines.loc[given.customer_wines["wine_id"] == wine, "customer_id"]
    barred = set(bought)
    for frame, column, days in (
        (given.sent_wines, "sent_date", rules.audit.duplicate_days),
        (given.rejections, "rejected_date", rules.recommendations.rejection_days),
    ):
        theirs = frame[frame["wine_id"] == wine]
        age = (pd.Timestamp(as_of) - pd.to_datetime(theirs[column])).dt.days
        barred |= set(theirs.loc[age < days, "customer_id"])
    return barred
