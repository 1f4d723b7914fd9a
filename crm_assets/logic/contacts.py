"""Who is handed over to Brevo as a contact, with which attributes, in which lists, and what of it is new (spec.md §7).

Pure. Only people whom we may write to and who have refused nothing are handed over; everybody else is in none of our
lists. Nothing here can lift a refusal: there is no value for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from crm_assets.logic.brevo_requests import AttributeType, AttributeValue, ContactRow
from crm_assets.logic.brevo_rows import Attribute

# Name at Brevo -> type. Ours alone, so that no attribute of the estate's own is written over.
ATTRIBUTES: Mapping[str, AttributeType] = {
    "CRM_CODE": "text",
    "CRM_FIRST_NAME": "text",
    "CRM_LAST_NAME": "text",
    "CRM_SEGMENT": "text",
    "CRM_CLUSTER": "text",
    "CRM_LEAD_SCORE": "float",  # 0..100
    "CRM_ORDER_PROBABILITY": "float",  # 0..1, of an order within 90 days
    "CRM_TOP_WINE": "text",
    "CRM_LAST_ORDER": "date",
}
# Column of `people` -> attribute.
_COLUMNS = {
    "client_code": "CRM_CODE",
    "first_name": "CRM_FIRST_NAME",
    "last_name": "CRM_LAST_NAME",
    "segment": "CRM_SEGMENT",
    "cluster_name": "CRM_CLUSTER",
    "lead_score": "CRM_LEAD_SCORE",
    "probability_90d": "CRM_ORDER_PROBABILITY",
    "top_wine": "CRM_TOP_WINE",
    "last_order_date": "CRM_LAST_ORDER",
}
# What a person's purchases say of them: not handed over of those who object to profiling (spec.md §4.4).
_PROFILE = ["segment", "cluster_name", "lead_score", "probability_90d", "top_wine", "scenario"]
# Keys of lists: everybody who is handed over, and those of a segment (segment:Champions) or a scenario.
EVERYBODY = "all"


def allowed(people: pd.DataFrame, barred: Collection[str]) -> pd.DataFrame:
    """Those of `people` who may be handed over: one row per address, permitted, refused nothing, bounced nowhere.

    `people`: customer_id, address, permitted, is_email_contact, is_refused, is_bounced …; `barred`: addresses that
    Brevo's news bar at this moment.
    """
    may = (
        people["address"].notna()
        & people["permitted"].fillna(False).astype(bool)
        & people["is_email_contact"].fillna(False).astype(bool)
        & ~people["is_refused"].fillna(True).astype(bool)
        & ~people["is_bounced"].fillna(True).astype(bool)
        & ~people["address"].isin(list(barred))
    )
    return people[may].drop_duplicates("address").sort_values("address", ignore_index=True)


def handed_over(people: pd.DataFrame) -> pd.DataFrame:
    """address, row_hash, list_keys and a column per attribute (object, null where unknown) of people who are allowed.

    Scores are rounded as people read them, so that a contact changes when something about it does. `row_hash`: first
    16 hex of the SHA-256 of its attributes.
    """
    known = people.copy()
    objected = known["profiling_objected"].fillna(True).astype(bool)
    for column in _PROFILE:
        known[column] = known[column].where(~objected)
    known["lead_score"] = known["lead_score"].astype("Float64").round(0)
    known["probability_90d"] = known["probability_90d"].astype("Float64").round(2)
    known["last_order_date"] = pd.to_datetime(known["last_order_date"]).dt.strftime("%Y-%m-%d")
    made = known[["address", *_COLUMNS]].rename(columns=_COLUMNS)
    texts = made.drop(columns="address").to_json(orient="records", lines=True, force_ascii=False).splitlines()
    hashes = [hashlib.sha256(text.encode()).hexdigest()[:16] for text in texts] if len(made) else []
    keys = pd.DataFrame({EVERYBODY: EVERYBODY}, index=known.index)
    for kind in ("segment", "scenario"):
        keys[kind] = (f"{kind}:" + known[kind].astype("str")).where(known[kind].notna())
    lists = [[key for key in row if pd.notna(key)] for row in keys.to_numpy().tolist()]
    return made.assign(row_hash=pd.Series(hashes, dtype="str"), list_keys=pd.Series(lists, dtype="object"))


def contact_row(row: Mapping[str, Any], *, clears: bool) -> ContactRow:
    """A row of `handed_over` as it is written. `clears`: what is unknown now may be known there, and is blanked."""

    def said(name: str) -> AttributeValue:
        value = row[name]
        if pd.isna(value):
            return "" if clears else None
        return float(value) if ATTRIBUTES[name] == "float" else str(value)

    return ContactRow(str(row["address"]), {name: said(name) for name in ATTRIBUTES})


def differs(row: ContactRow, found: Mapping[str, Any]) -> list[str]:
    """Attributes that Brevo has not kept as they were written: it drops unknown ones and wrong types in silence."""

    def same(value: AttributeValue, kept: Any) -> bool:
        if value in (None, ""):
            return kept in (None, "")
        if isinstance(value, float):
            return isinstance(kept, int | float) and abs(value - kept) < 1e-6
        # A date may come back with a time.
        return isinstance(kept, str) and (kept == value or kept[:10] == value)

    return sorted(name for name, value in row.attributes.items() if not same(value, found.get(name)))


def attributes_missing(known: Collection[Attribute]) -> list[str]:
    """Those of ours that the account does not have yet."""
    names = {attribute.name for attribute in known}
    return [name for name in ATTRIBUTES if name not in names]


def attributes_of_another_type(known: Collection[Attribute]) -> list[str]:
    """Those of ours that the account has, but not as what we write: Brevo would drop our values in silence."""
    return sorted(
        attribute.name
        for attribute in known
        if attribute.name in ATTRIBUTES
        and (attribute.category != "normal" or attribute.kind not in (ATTRIBUTES[attribute.name], None))
    )


@dataclass(frozen=True)
class Moves:
    """What must change in the lists. Each: list_key, address."""

    added: pd.DataFrame
    removed: pd.DataFrame


def moves(wanted: pd.DataFrame, members: pd.DataFrame) -> Moves:
    """`wanted`: rows of `handed_over`; `members`: list_key, address of those who are in our lists.

    Whoever is not wanted in a list leaves it, whoever put them there: it is ours, and nobody who refused may stay.
    """
    columns = ["list_key", "address"]
    target = wanted[["list_keys", "address"]].explode("list_keys").rename(columns={"list_keys": "list_key"})[columns]
    both = target.merge(members[columns].drop_duplicates(), on=columns, how="outer", indicator="side")
    both = both.sort_values(columns, ignore_index=True)

    def of(side: str) -> pd.DataFrame:
        return both.loc[both["side"] == side, columns].reset_index(drop=True)

    return Moves(of("left_only"), of("right_only"))


def changed(wanted: pd.DataFrame, hashes: Mapping[str, str]) -> pd.DataFrame:
    """Rows whose attributes are not those that Brevo accepted last. `hashes`: row_hash by address."""
    last = wanted["address"].map(hashes)
    return wanted[last.isna() | (last != wanted["row_hash"])].reset_index(drop=True)
