"""Planning: audience, holdout, batches, what a message says, the plan's hash."""

from __future__ import annotations

import json
import re
from datetime import date
from typing import Any

import pandas as pd
import pytest

from crm_assets import rules as rules_module
from crm_assets.campaigns import Campaign
from crm_assets.logic import activation, messages
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
    }
    return pd.DataFrame({"customer_id": ids, "address": [f"{i}@example.com" for i in ids], **row, **changes})


def plan(**changes: Any) -> activation.Plan:
    given: dict[str, Any] = {
        "tenant": estate.tenant(),
        "campaign": campaign(),
        "gate": GATE,
        "people": people(),
        "products": products(),
        "rules": RULES,
        "as_of": estate.AS_OF,
    }
    given |= changes
    ids = given["people"]["customer_id"]
    given.setdefault("items", items(*[item(i, k, r) for i in ids for r, k in enumerate(["p1", "p2"], start=1)]))
    return activation.plan(**given)


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
        [("c1", 11, "ERROR"), ("c2", 5, "ERROR"), ("c3", 14, "WARN")],
        columns=["customer_id", "rule_no", "severity"],
    )
    event = campaign(kind="event", text={"fr": "Venez."})
    assert activation.eligible_for(event, actions, found).tolist() == [True, False, True, False]
    assert activation.eligible_for(campaign(), actions, found).tolist() == [False, False, True, False]


class TestWhatAMessageSays:
    def shown(self, *rows: dict[str, Any], **given: Any) -> tuple[dict[str, Any], dict[str, list[str]]]:
        return messages.product_pieces(products(*rows), given.get("can_order", True), given.get("locale", "fr"), RULES)

    def test_every_piece_of_an_item(self) -> None:
        made = plan().messages.iloc[0]["params"]["items"][0]
        assert made == {
            "name": "Riesling p1",
            "vintage": "2022",
            "format": "75 cl",
            "unit": "bottle",
            "price": "15,00\u00a0€",
            "price_carton": "90,00\u00a0€",
            "carton_bottles": 6,
            "sold_by": 1,
            "sentence": "Un riesling droit et salin.",
            "url": None,
        }

    @pytest.mark.parametrize(
        ("changes", "lacks"),
        [
            ({"label": None}, ["name"]),
            ({"label": " "}, ["name"]),
            ({"format_cl": None}, ["format"]),
            ({"price_ttc": None}, ["price"]),
            ({"price_ttc": 0.0}, ["price"]),
            ({"is_price_estimated": True}, ["price"]),
            ({"label": None, "price_ttc": None}, ["name", "price"]),
        ],
    )
    def test_a_product_that_lacks_a_piece_is_refused(self, changes: dict[str, Any], lacks: list[str]) -> None:
        pieces, lacking = self.shown(product("p1", **changes), product("p2"))
        assert list(pieces) == ["p2"]
        assert lacking == {"p1": lacks}

    def test_a_link_is_needed_where_nobody_can_be_answered_or_called(self) -> None:
        rows = product("p1"), product("p2", url="https://demo.example.com/p2")
        assert self.shown(*rows, can_order=False)[1] == {"p1": ["link"]}
        assert self.shown(*rows, can_order=True)[1] == {}

    def test_a_wine_without_any_vintage_says_so_and_a_missing_vintage_is_refused(self) -> None:
        pieces, lacking = self.shown(
            product("p1", vintage=None, label="Crémant Brut"),
            product("p2", vintage=None),
            product("p3", wine_id="w2"),
        )
        assert pieces["p1"]["vintage"] == "non millésimé"
        assert lacking == {"p2": ["vintage"]}

    @pytest.mark.parametrize(
        ("sold_by", "carton", "multiple"),
        [(1, 6, 1), (3, 6, 3), (6, 6, 6), (12, 12, 12), (None, 6, 1), (4, 8, 4)],
    )
    def test_a_carton_is_a_multiple_of_what_is_sold(self, sold_by: int | None, carton: int, multiple: int) -> None:
        piece = self.shown(product("p1", sold_by=sold_by))[0]["p1"]
        assert (piece["carton_bottles"], piece["sold_by"]) == (carton, multiple)
        assert piece["price_carton"] == f"{15 * carton},00\u00a0€"

    def test_a_gift_box_says_its_name_and_price_and_nothing_of_bottles(self) -> None:
        box = product("p1", kind="gift_box", label="Coffret Noël 2025", vintage=None, format_cl=None, sold_by=6)
        pieces, lacking = self.shown(box, product("p2"))
        assert lacking == {}
        assert pieces["p1"] == {
            "name": "Coffret Noël 2025",
            "unit": "gift_box",
            "price": "15,00\u00a0€",
            "url": None,
        }
        linked = {**pieces["p1"], "sentence": "Un coffret.", "url": "https://demo.example.com/p1"}
        html = messages.render(campaign(), estate.tenant(), {"items": [linked]})
        assert "Voir ce coffret" in html
        assert "15,00\u00a0€ TTC le coffret" in html
        assert not re.search("non millésimé|carton|bouteille| cl<", html)
        assert self.shown({**box, "price_ttc": None, "label": None})[1] == {"p1": ["name", "price"]}

    @pytest.mark.parametrize(
        ("changes", "price"),
        [
            ({"format_cl": 500.0}, "TTC l&#39;unité"),
            ({"label": "BIB Pinot Noir"}, "TTC l&#39;unité"),
            ({"label": "Biblis Riesling", "format_cl": 150.0}, "TTC la bouteille"),
        ],
    )
    def test_a_bag_in_box_is_not_priced_as_a_bottle(self, changes: dict[str, Any], price: str) -> None:
        piece = self.shown(product("p1", **changes))[0]["p1"]
        html = messages.render(campaign(), estate.tenant(), {"items": [{**piece, "sentence": "Un vin."}]})
        assert html.count(price) == 1
        assert ("Vendu à la bouteille" in html) is (price == "TTC la bouteille")

    def test_numbers_are_written_as_the_estate_reads_them(self) -> None:
        row = product("p1", format_cl=37.5, price_ttc=8.5)
        assert self.shown(row, locale="fr")[0]["p1"]["format"] == "37,5 cl"
        assert self.shown(row, locale="en")[0]["p1"]["price"] == "€8.50"

    def test_a_refused_item_leaves_the_message_and_a_message_without_items_is_not_planned(self) -> None:
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

    def test_the_mail_carries_all_that_the_law_and_the_spec_ask_for(self) -> None:
        html = messages.render(campaign(), estate.tenant(), plan().messages.iloc[0]["params"])
        for text in (
            "EARL Domaine Demo",
            "12 rue des Vignerons, 68420 Husseren",
            "123456789",
            "L&#39;abus d&#39;alcool est dangereux pour la santé, à consommer avec modération.",
            "Vente interdite aux mineurs",
            "Vous recevez ce message parce que",
            'mailto:cave@demo.example.com?subject=D%C3%A9sinscription"',
            "Pour commander\u202f:\n",
            "Riesling p1",
            "15,00\u00a0€ TTC la bouteille",
            "90,00\u00a0€ TTC le carton de 6",
        ):
            assert text in html
        assert "None" not in html

    def test_another_language_keeps_the_notice_in_french(self) -> None:
        tenant = estate.tenant(locale="en")
        html = messages.render(campaign(subject={"en": "Our selection"}), tenant, {"items": []})
        assert "à consommer avec modération" in html
        assert "Alcohol abuse is dangerous" in html

    def test_markup_in_a_label_is_shown_not_obeyed(self) -> None:
        made = plan(products=products(product("p1", label="Riesling <b>&"), product("p2")))
        html = messages.render(campaign(), estate.tenant(), made.messages.iloc[0]["params"])
        assert "Riesling &lt;b&gt;&amp;" in html
