"""What a message says: the pieces of each item, its kinds and languages, what it must have; nothing in it is obeyed."""

from __future__ import annotations

import re
from typing import Any

import pytest

from crm_assets import rules as rules_module
from crm_assets.campaigns import Campaign
from crm_assets.logic import messages
from crm_assets.logic.message_checks import text_of
from tests.logic import estate
from tests.logic.estate import item, items, product, products

RULES = rules_module.load()


def campaign(**changes: Any) -> Campaign:
    settings: dict[str, Any] = {"name": "spring", "kind": "reco", "subject": {"fr": "Notre sélection"}}
    return Campaign.model_validate({**settings, **changes})


def params(*rows: dict[str, Any], locale: str = "fr") -> dict[str, Any]:
    """What the message of one customer says of these products."""
    shown = products(*(rows or (product("p1"), product("p2"))))
    pieces, lacking = messages.product_pieces(shown, True, locale, RULES)
    assert not lacking
    listed = items(*[item("c1", key, rank) for rank, key in enumerate(shown["product_key"], start=1)])
    return dict(messages.message_items(listed, pieces)[0].iloc[0]["params"])


class TestWhatAMessageSays:
    def shown(self, *rows: dict[str, Any], **given: Any) -> tuple[dict[str, Any], dict[str, list[str]]]:
        return messages.product_pieces(products(*rows), given.get("can_order", True), given.get("locale", "fr"), RULES)

    def test_every_piece_of_an_item(self) -> None:
        made = params()["items"][0]
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
        html = messages.render(campaign(), estate.tenant(), {"items": [linked]}, kind="rebuy")
        assert "Voir ce coffret" in html
        assert "15,00 € TTC le coffret" in text_of(html)
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
        html = messages.render(campaign(), estate.tenant(), {"items": [{**piece, "sentence": "Un vin."}]}, kind="rebuy")
        assert html.count(price) == 1
        assert ("Vendu à la bouteille" in html) is (price == "TTC la bouteille")

    def test_numbers_are_written_as_the_estate_reads_them(self) -> None:
        row = product("p1", format_cl=37.5, price_ttc=8.5)
        assert self.shown(row, locale="fr")[0]["p1"]["format"] == "37,5 cl"
        assert self.shown(row, locale="en")[0]["p1"]["price"] == "€8.50"

    def test_the_mail_carries_all_that_the_law_and_the_spec_ask_for(self) -> None:
        html = messages.render(campaign(), estate.tenant(), params(), kind="rebuy")
        text = text_of(html)
        for piece in (
            "EARL Domaine Demo · 12 rue des Vignerons, 68420 Husseren · SIREN 123 456 789",
            "L'abus d'alcool est dangereux pour la santé, à consommer avec modération.",
            "Vente interdite aux mineurs",
            "Vous recevez ce message parce que",
            "Ne plus recevoir nos messages",
            "Pour commander, répondez simplement à ce message ou appelez-nous au +33 3 89 00 00 00.",
            "Riesling p1",
            "15,00 € TTC la bouteille",
            "90,00 € TTC le carton de 6",
        ):
            assert piece in text
        assert 'href="{{ unsubscribe }}"' in html
        assert 'href="mailto:cave@demo.example.com?subject=D%C3%A9sinscription"' in html
        assert "None" not in html

    def test_another_language_keeps_the_notice_in_french(self) -> None:
        tenant = estate.tenant(locale="en")
        html = messages.render(campaign(subject={"en": "Our selection"}), tenant, {"items": []}, kind="rebuy")
        assert "à consommer avec modération" in html
        assert "Alcohol abuse is dangerous" in html

    def test_markup_in_a_label_is_shown_not_obeyed(self) -> None:
        html = messages.render(campaign(), estate.tenant(), params(product("p1", label="Riesling <b>&")), kind="rebuy")
        assert "Riesling &lt;b&gt;&amp;" in html
