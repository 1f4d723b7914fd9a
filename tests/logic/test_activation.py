"""Planning: audience, holdout, batches, what a message says, the plan's hash."""

from __future__ import annotations

import json
from dataclasses import fields
from datetime import date
from typing import Any

import pandas as pd
import pytest

from crm_assets import rules as rules_module
from crm_assets.campaigns import Campaign
from crm_assets.logic import activation
from crm_assets.logic.activation import Gate, RefusalError
from tests.logic import estate
from tests.logic.estate import item, items, product, products

RULES = rules_module.load()
GATE = Gate("run", estate.AS_OF, "open", ())


def campaign(**changes: Any) -> Campaign:
    settings: dict[str, Any] = {"name": "spring", "kind": "reco", "subject": {"fr": "Notre sélection"}}
    return Campaign.model_validate({**settings, **changes})


def people(count: int = 3, **changes: Any) -> pd.DataFrame:
    """Customers c1 .. cn, as `crm_assets.activation` reads them."""
    ids = [f"c{n}" for n in range(1, count + 1)]
    row: dict[str, Any] = {
        "type": "private",
        "segment": "Champions",
        "cluster_id": "k1",
        "cluster_name": "Fidèles",
        "scenario": "rebuy",
        "postal_code": "68000",
        "country": "FR",
        "eligible": True,
        "reason": None,
    }
    addresses = [f"{i}@example.com" for i in ids]
    return pd.DataFrame({"customer_id": ids, "address": addresses, "holdout_key": addresses, **row, **changes})


def plan(**changes: Any) -> activation.Plan:
    """The plan of a step; `changes`: arguments of `activation.plan`, or what `activation.Known` holds."""
    given: dict[str, Any] = {
        "tenant": estate.tenant(),
        "campaign": campaign(),
        "gate": GATE,
        "rules": RULES,
        "as_of": estate.AS_OF,
    }
    known: dict[str, Any] = {"people": people(), "products": products()}
    for name, value in changes.items():
        (known if name in {entry.name for entry in fields(activation.Known)} else given)[name] = value
    ids = known["people"]["customer_id"]
    known.setdefault("items", items(*[item(i, k, r) for i in ids for r, k in enumerate(["p1", "p2"], start=1)]))
    return activation.plan(known=activation.Known(**known), **given)


def test_the_same_inputs_are_the_same_plan() -> None:
    first, second = plan(), plan(people=people().sample(frac=1, random_state=1))
    assert first.plan_hash == second.plan_hash
    pd.testing.assert_frame_equal(first.messages, second.messages)
    pd.testing.assert_frame_equal(first.batches, second.batches)


@pytest.mark.parametrize(
    "changes",
    [
        {"campaign": campaign(subject={"fr": "Une autre sélection"})},
        {"tenant": estate.tenant(siren="987654321")},
        {"gate": Gate("other", estate.AS_OF, "open", ())},
        {"people": people(2)},
        {"products": products(product("p1", price_ttc=15.01), product("p2"))},
        {"items": items(*[item(f"c{n}", customer_sentence="Autre.") for n in (1, 2, 3)])},
    ],
)
def test_any_change_of_content_changes_the_hash(changes: dict[str, Any]) -> None:
    assert plan(**changes).plan_hash != plan().plan_hash


def test_the_hash_can_be_computed_again_from_what_is_stored() -> None:
    made = plan(people=people(600))
    stored = made.messages.assign(params=[json.loads(json.dumps(p)) for p in made.messages["params"]], status="sent")
    shuffled = stored.sample(frac=1, random_state=2)
    assert activation.plan_hash(estate.tenant(), campaign(), "once", "run", shuffled) == made.plan_hash


def test_an_address_is_written_to_once() -> None:
    crowd = people(4)
    crowd["address"] = ["A@example.com", " a@EXAMPLE.com", "b@example.com", "c@example.com"]
    made = plan(people=crowd)
    assert sorted(made.messages["address"]) == ["a@example.com", "b@example.com", "c@example.com"]
    assert made.messages.set_index("address").loc["a@example.com", "customer_id"] == "c1"
    assert made.left_out == {"SAME_ADDRESS": 1}


def test_who_is_not_eligible_is_left_out_and_counted() -> None:
    made = plan(people=people(3, eligible=[True, False, True]))
    assert sorted(made.messages["customer_id"]) == ["c1", "c3"]
    assert made.left_out == {"NOT_ELIGIBLE": 1}


@pytest.mark.parametrize(
    ("audience", "column", "values"),
    [
        ({}, "type", ["private", "horeca", "merchant"]),
        ({"types": ["horeca"]}, "type", ["horeca", "private", "private"]),
        ({"segments": ["At Risk"]}, "segment", ["At Risk", "Others", None]),
        ({"clusters": ["k7"]}, "cluster_id", ["k7", "k1", None]),
        ({"clusters": ["Curieux"]}, "cluster_name", ["Curieux", "Fidèles", None]),
        ({"scenarios": ["winback", "upsell"]}, "scenario", ["winback", "rebuy", None]),
        ({"departments": ["68"]}, "postal_code", ["68420", "67000", None]),
        ({"departments": ["2A"]}, "postal_code", ["20000", "20200", "75020"]),
        ({"departments": ["2B"]}, "postal_code", ["20200", "20100", "75020"]),
        ({"departments": ["974"]}, "postal_code", ["97400", "97100", "74000"]),
        ({"countries": ["DE"]}, "country", ["DE", "FR", None]),
        ({"countries": ["FR"]}, "country", [None, "DE", "CH"]),
    ],
)
def test_the_audience(audience: dict[str, Any], column: str, values: list[Any]) -> None:
    made = plan(campaign=campaign(audience=audience), people=people(3).assign(**{column: values}))
    assert made.messages["customer_id"].tolist() == ["c1"]


def test_a_german_postal_code_is_no_department() -> None:
    crowd = people(1, country="DE", postal_code="68159")
    with pytest.raises(RefusalError, match="EMPTY_AUDIENCE"):
        plan(campaign=campaign(audience={"departments": ["68"]}), people=crowd)


@pytest.mark.parametrize(
    ("gate", "as_of", "code"),
    [
        (None, estate.AS_OF, "NO_DECISION"),
        (Gate("run", estate.AS_OF, "closed", ("CIRCUIT_BREAKER",)), estate.AS_OF, "GATE_CLOSED"),
        (GATE, date(2025, 12, 30), "HISTORICAL"),
        (GATE, date(2026, 1, 8), "STALE_GATE"),
    ],
)
def test_a_gate_that_does_not_allow_planning(gate: Gate | None, as_of: date, code: str) -> None:
    with pytest.raises(RefusalError) as raised:
        activation.require_open(gate, as_of, RULES)
    assert raised.value.code == code


def test_a_gate_seven_days_old_still_allows_planning() -> None:
    assert activation.require_open(GATE, date(2026, 1, 7), RULES) is GATE


@pytest.mark.parametrize(
    ("count", "sizes"),
    [
        (0, []),
        (1, [1]),
        (199, [199]),
        (300, [300]),
        (301, [151, 150]),
        (399, [200, 199]),
        (400, [200, 200]),
        (500, [250, 250]),
        (620, [207, 207, 206]),
        (1100, [275, 275, 275, 275]),
    ],
)
def test_batches_are_balanced(count: int, sizes: list[int]) -> None:
    assert activation.batch_sizes(count, RULES) == sizes


def test_batches_of_every_size_keep_to_the_limits() -> None:
    for count in range(400, 3000):
        sizes = activation.batch_sizes(count, RULES)
        assert sum(sizes) == count
        assert 200 <= min(sizes) <= max(sizes) <= 300
        assert max(sizes) - min(sizes) <= 1


def test_every_message_of_a_batch_is_counted() -> None:
    made = plan(people=people(700))
    in_batches = made.messages["batch_id"].value_counts()
    assert in_batches.to_dict() == made.batches.set_index("batch_id")["n_messages"].to_dict()
    assert made.n_planned + made.n_holdout == 700
    assert made.messages.loc[made.messages["status"] == "holdout", "batch_id"].isna().all()


def test_the_holdout_starts_at_500_and_is_a_tenth() -> None:
    assert plan(people=people(499)).n_holdout == 0
    share = plan(people=people(3000)).n_holdout / 3000
    assert 0.08 < share < 0.12
    assert plan(people=people(600), campaign=campaign(holdout=False)).n_holdout == 0


def test_the_holdout_is_the_same_for_every_campaign_of_the_quarter_and_another_in_the_next() -> None:
    addresses = [f"{n}@example.com" for n in range(1000)]
    december = activation.is_held_out("demo", date(2025, 12, 31), addresses, 0.10)
    october = activation.is_held_out("demo", date(2025, 10, 1), addresses, 0.10)
    january = activation.is_held_out("demo", date(2026, 1, 1), addresses, 0.10)
    assert (december == october).all()
    assert (december != january).any()
    assert not activation.is_held_out("demo", date(2026, 1, 1), addresses, 0.0).any()


def test_nobody_is_held_out_of_an_event() -> None:
    event = campaign(kind="event", text={"fr": "Venez."})
    made = plan(campaign=event, people=people(600))
    assert made.n_holdout == 0
    assert set(made.messages["scenario"]) == {"event"}
    assert made.messages["wine_ids"].map(len).eq(0).all()


def test_an_event_needs_permission_and_an_address_but_no_wine() -> None:
    actions = pd.DataFrame(
        {
            "customer_id": ["c1", "c2", "c3", "c4"],
            "permitted": [True, True, True, False],
            "eligible": [False, False, True, False],
        }
    )
    found = pd.DataFrame(
        [("c1", 11, "NO_RECOMMENDATION", "ERROR"), ("c2", 5, "BOUNCED", "ERROR"), ("c3", 14, "SUGAR_MISMATCH", "WARN")],
        columns=["customer_id", "rule_no", "rule_code", "severity"],
    )
    event = campaign(kind="event", text={"fr": "Venez."})
    assert activation.verdicts(event, actions, found, RULES)["eligible"].tolist() == [True, False, True, False]
    assert activation.verdicts(campaign(), actions, found, RULES)["eligible"].tolist() == [False, False, True, False]


def test_a_refused_item_leaves_the_message_and_a_message_without_items_is_not_planned() -> None:
    listed = items(item("c1", "p1"), item("c1", "p2", 2), item("c2", "p2"), item("c3", customer_sentence=None))
    made = plan(products=products(product("p1"), product("p2", price_ttc=None)), items=listed)
    assert made.messages["customer_id"].tolist() == ["c1"]
    assert made.messages.iloc[0]["product_keys"] == ["p1"]
    assert made.refused_products == {"p2": ["price"]}
    assert made.left_out == {
        "ITEMS_WITHOUT_SENTENCE": 1,
        "ITEMS_WITHOUT_PRODUCT": 2,
        "NO_ITEM_TO_SHOW": 2,
    }
