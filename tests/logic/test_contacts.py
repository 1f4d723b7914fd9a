"""Who is handed over to Brevo, with what, and what of it is new."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from crm_assets.logic import contacts
from crm_assets.logic.brevo_rows import Attribute
from crm_assets.logic.contacts import ATTRIBUTES


def people(*changes: dict[str, Any]) -> pd.DataFrame:
    """One row per given difference from a customer who may be handed over."""
    row = {
        **{"permitted": True, "scenario": "rebuy", "client_code": "C1", "is_email_contact": True, "is_refused": False},
        **{"is_bounced": False, "last_order_date": pd.Timestamp("2025-11-30"), "first_name": "Zoé"},
        **{"last_name": "Müller", "profiling_objected": False, "segment": "Champions", "cluster_name": "frequent"},
        **{"lead_score": 71.4, "probability_90d": 0.4567, "top_wine": "Riesling 1"},
    }
    rows = [{"customer_id": f"c{n}", "address": f"c{n}@x.fr", **row, **given} for n, given in enumerate(changes)]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    "why",
    [
        {"permitted": False},
        {"permitted": None},
        {"is_email_contact": False},
        {"is_refused": True},
        {"is_refused": None},
        {"is_bounced": True},
        {"address": None},
        {"address": "barred@x.fr"},
    ],
)
def test_nobody_is_handed_over_who_may_not_be_written_to(why: dict[str, Any]) -> None:
    found = contacts.allowed(people({}, why), {"barred@x.fr"})
    assert found["customer_id"].tolist() == ["c0"]


def test_an_address_is_handed_over_once() -> None:
    assert len(contacts.allowed(people({"address": "a@x.fr"}, {"address": "a@x.fr"}), set())) == 1


def test_what_is_handed_over_is_rounded_and_named() -> None:
    row = contacts.handed_over(people({})).to_dict("records")[0]
    written = contacts.contact_row(row, clears=False)
    assert written.attributes == {
        "CRM_CODE": "C1", "CRM_FIRST_NAME": "Zoé", "CRM_LAST_NAME": "Müller", "CRM_SEGMENT": "Champions",
        "CRM_CLUSTER": "frequent", "CRM_LEAD_SCORE": 71.0, "CRM_ORDER_PROBABILITY": 0.46, "CRM_TOP_WINE": "Riesling 1",
        "CRM_LAST_ORDER": "2025-11-30",
    }  # fmt: skip
    assert row["list_keys"] == ["all", "segment:Champions", "scenario:rebuy"]


def test_a_persons_purchases_say_nothing_of_them_who_objected() -> None:
    row = contacts.handed_over(people({"profiling_objected": True})).to_dict("records")[0]
    said = contacts.contact_row(row, clears=False).attributes
    assert {name for name, value in said.items() if value is not None} == {
        "CRM_CODE", "CRM_FIRST_NAME", "CRM_LAST_NAME", "CRM_LAST_ORDER",
    }  # fmt: skip
    assert row["list_keys"] == ["all"]


def test_a_contact_changes_when_something_people_read_does() -> None:
    before = contacts.handed_over(people({}, {}, {}, {}))
    hashes = dict(zip(before["address"], before["row_hash"], strict=True))
    after = contacts.handed_over(
        people({"probability_90d": 0.4571}, {"segment": "At Risk"}, {"top_wine": None}, {"scenario": "winback"})
    )
    assert contacts.changed(after, hashes)["address"].tolist() == ["c1@x.fr", "c2@x.fr"]
    assert len(contacts.changed(after, {})) == 4


def test_what_is_not_known_any_more_is_blanked_only_where_it_was_handed_over() -> None:
    row = contacts.handed_over(people({"lead_score": None})).to_dict("records")[0]
    assert contacts.contact_row(row, clears=True).attributes["CRM_LEAD_SCORE"] == ""
    assert contacts.contact_row(row, clears=False).attributes["CRM_LEAD_SCORE"] is None


def test_lists_become_what_is_wanted() -> None:
    wanted = contacts.handed_over(people({}, {"segment": None}))
    members = pd.DataFrame(
        [("all", "c0@x.fr"), ("all", "gone@x.fr"), ("segment:Champions", "c1@x.fr"), ("scenario:old", "c0@x.fr")],
        columns=["list_key", "address"],
    )
    moves = contacts.moves(wanted, members)
    assert set(moves.added.itertuples(index=False, name=None)) == {
        ("all", "c1@x.fr"), ("segment:Champions", "c0@x.fr"), ("scenario:rebuy", "c0@x.fr"),
        ("scenario:rebuy", "c1@x.fr"),
    }  # fmt: skip
    assert set(moves.removed.itertuples(index=False, name=None)) == {
        ("all", "gone@x.fr"), ("segment:Champions", "c1@x.fr"), ("scenario:old", "c0@x.fr"),
    }  # fmt: skip


def test_nobody_wanted_empties_the_lists() -> None:
    nobody = contacts.handed_over(contacts.allowed(people({"permitted": False}), set()))
    members = pd.DataFrame([("all", "c0@x.fr")], columns=["list_key", "address"])
    assert contacts.moves(nobody, members).removed["address"].tolist() == ["c0@x.fr"]
    assert contacts.changed(nobody, {}).empty


@pytest.mark.parametrize(
    ("kept", "differing"),
    [
        ({}, []),
        ({"CRM_LAST_ORDER": "2025-11-30T00:00:00.000Z"}, []),
        ({"CRM_LEAD_SCORE": 71}, []),
        ({"CRM_LEAD_SCORE": "71"}, ["CRM_LEAD_SCORE"]),
        ({"CRM_LEAD_SCORE": None}, ["CRM_LEAD_SCORE"]),
        ({"CRM_SEGMENT": "Others", "CRM_LAST_ORDER": "2025-11-29"}, ["CRM_LAST_ORDER", "CRM_SEGMENT"]),
    ],
)
def test_what_brevo_did_not_keep_is_seen(kept: dict[str, Any], differing: list[str]) -> None:
    row = contacts.handed_over(people({})).to_dict("records")[0]
    written = contacts.contact_row(row, clears=False)
    assert contacts.differs(written, {**written.attributes, **kept}) == differing


def test_attributes_are_missing_or_of_another_type() -> None:
    known = [Attribute(name, "normal", kind) for name, kind in ATTRIBUTES.items() if name != "CRM_CODE"]
    assert contacts.attributes_missing(known) == ["CRM_CODE"]
    assert contacts.attributes_of_another_type(known) == []
    strange = [Attribute("CRM_CODE", "normal", "float"), Attribute("CRM_SEGMENT", "category", None)]
    assert contacts.attributes_of_another_type([*strange, Attribute("SEGMENT", "normal", "float")]) == [
        "CRM_CODE", "CRM_SEGMENT",
    ]  # fmt: skip
