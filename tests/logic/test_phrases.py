"""The words of a recommendation: every approved phrase in every language, with and without facts, reads whole."""

from __future__ import annotations

import itertools
import re
from datetime import date
from string import Formatter
from typing import Any

import numpy as np
import pandas as pd
import pytest

from crm_assets import rules as rules_module
from crm_assets.logic import phrases
from crm_assets.logic.customers import AROMA_AXES, day_number
from crm_assets.logic.recommendations import SCENARIOS, STATES

AS_OF = date(2025, 12, 31)
RULES = rules_module.load()
LISTS = [(scenario, kind) for scenario, kinds in phrases.phrases("fr")["explain"].items() for kind in kinds]
EXPLAINED = [
    (language, scenario, kind, place)
    for language in phrases.LANGUAGES
    for scenario, kind in LISTS
    for place in range(len(phrases.phrases(language)["explain"][scenario][kind]))
]
HOLES = re.compile(r"None|nan|NaT|[{}]|  | [,.)]|\( |[,:;(]\.|\.\.|^\W*$|: *$|[;,] *$")

UNKNOWN: dict[str, Any] = {
    "scenario": "rebuy",
    "is_repeat": True,
    "state": "regular",
    "n_orders": 0,
    "last_day": -1,
    "interval": np.nan,
    "interval_of": "",
    "days_late": np.nan,
    "because_label": "",
    "n_together": 0,
    "grape": "",
    "grape_share": 0.0,
    "family": "",
    "family_share": 0.0,
    "price_from": np.nan,
    "price_to": np.nan,
    "top": 0,
    "gone_day": -1,
    "new_vintage": 0,
    "season": "",
    "left": -1.0,
    "is_taste": False,
    "is_entry": False,
}
# What makes a fact of a phrase, or a condition of one, known.
KNOWN: dict[str, dict[str, Any]] = {
    "n": {"n_orders": 3},
    "often": {"n_orders": 3},
    "rhythm": {"interval": 90.0},
    "own_rhythm": {"interval_of": "own", "n_orders": 2},
    "wine_rhythm": {"interval_of": "wine"},
    "family_rhythm": {"interval_of": "family"},
    "last_date": {"last_day": day_number(date(2025, 3, 12))},
    "ordered": {"n_orders": 1, "last_day": day_number(date(2025, 3, 12))},
    "late": {"days_late": 45.0},
    "because": {"because_label": "Riesling Tradition 2024"},
    "together": {"n_together": 12},
    "grape": {"grape": "Riesling"},
    "grape_share": {"grape_share": 0.4},
    "family": {"family": "Blancs secs"},
    "family_share": {"family_share": 0.55},
    "price_from": {"price_from": 12.0},
    "price_to": {"price_to": 18.5},
    "top": {"top": 10},
    "gone": {"gone_day": day_number(date(2024, 3, 1))},
    "standing": {"state": "one_order"},
    "taste": {"is_taste": True},
    "entry": {"is_entry": True},
}


def arrays(*rows: dict[str, Any]) -> dict[str, np.ndarray]:
    """The facts of items as arrays of the types that the engine has them in."""
    return {
        name: np.array([row[name] for row in rows], dtype=object if isinstance(unknown, str) else type(unknown))
        for name, unknown in UNKNOWN.items()
    }


def explain(language: str = "fr", **given: Any) -> str:
    """`explain_short` of one item of which nothing is known but what is given."""
    return str(phrases.explanations(arrays(UNKNOWN | given), AS_OF, language)[0])


def wanted(phrase: dict[str, Any]) -> list[str]:
    return [*(fact for _, fact, _, _ in Formatter().parse(phrase["text"]) if fact), *phrase.get("when", [])]


# What staff read


@pytest.mark.parametrize(("language", "scenario", "kind", "place"), EXPLAINED)
def test_each_phrase_is_said_of_the_facts_it_names_and_has_no_hole(
    language: str, scenario: str, kind: str, place: int
) -> None:
    phrase = phrases.phrases(language)["explain"][scenario][kind][place]
    given: dict[str, Any] = {"scenario": scenario, "is_repeat": kind == "repeat"}
    for fact in wanted(phrase):
        given |= {name: max(value, given.get(name, value)) if name == "n_orders" else value
                  for name, value in KNOWN[fact].items()}  # fmt: skip
    text = explain(language, **given)
    pattern = re.sub(r"\\{\w+\\}", ".+", re.escape(phrase["text"]))
    assert re.fullmatch(pattern, text), text
    assert not HOLES.search(text)
    assert len(text) <= phrases.EXPLAIN_MAX


@pytest.mark.parametrize("language", phrases.LANGUAGES)
@pytest.mark.parametrize(("scenario", "kind"), LISTS)
def test_where_nothing_is_known_something_is_said_all_the_same(language: str, scenario: str, kind: str) -> None:
    text = explain(language, scenario=scenario, is_repeat=kind == "repeat")
    assert len(text) > 5
    assert not HOLES.search(text)


RHYTHM = {"n_orders": 3, "last_day": day_number(date(2025, 10, 2)), "interval": 90.0, "interval_of": "own"}
BECAUSE = {"scenario": "cross_sell", "is_repeat": False, "because_label": "Muscat 2023", "n_together": 12}


@pytest.mark.parametrize(
    ("given", "language", "text"),
    [
        (RHYTHM, "fr", "commandé 3 fois, tous les 90 jours environ ; dernière commande le 2 octobre"),
        (RHYTHM, "en", "ordered 3 times, about every 90 days; last order on 2 October"),
        (RHYTHM, "de", "3-mal bestellt, etwa alle 90 Tage; letzte Bestellung am 2. Oktober"),
        (
            {**RHYTHM, "days_late": 38.0},
            "fr",
            "commandé 3 fois, tous les 90 jours environ ; dernière commande le 2 octobre (40 jours de retard)",
        ),
        (
            {**RHYTHM, "n_orders": 2, "days_late": 38.0},
            "fr",
            "commandé deux fois, à 90 jours d'intervalle environ ; dernière commande le 2 octobre",
        ),
        # The rhythm of others is not said of this customer.
        (
            {**RHYTHM, "n_orders": 1, "interval_of": "wine", "interval": 183.0},
            "fr",
            "commandé une fois, le 2 octobre ; d'autres le rachètent tous les 6 mois environ",
        ),
        (
            {**RHYTHM, "n_orders": 2, "interval_of": "family", "interval": 800.0},
            "en",
            "ordered twice, last on 2 October; wines of this family bought again about every 2 years",
        ),
        (
            {**RHYTHM, "scenario": "winback", "new_vintage": 2024, "season": "noel", "left": 18.0},
            "fr",
            "à reconquérir ; commandé 3 fois, la dernière le 2 octobre ; nouveau millésime 2024 ; de saison (Noël)"
            " ; il en reste 18",
        ),
        (BECAUSE, "fr", "jamais commandé ; d'autres clients l'achètent avec Muscat (12 commandes)"),
        ({**BECAUSE, "left": 18.0}, "en", "never ordered; others buy it with Muscat (12 orders); 18 left"),
        (
            {**BECAUSE, "n_together": 0, "grape": "Riesling", "grape_share": 0.404, "family_share": 1.0},
            "fr",
            "jamais commandé ; cépage Riesling, 40\u00a0% de ses achats",
        ),
        # A blend is no grape that two wines share.
        (
            {**BECAUSE, "n_together": 0, "grape": "Assemblage", "grape_share": 0.4, "top": 5},
            "fr",
            "jamais commandé ; parmi les 5 vins les plus achetés",
        ),
        (
            {"scenario": "upsell", "is_repeat": False, "price_from": 12.0, "price_to": 18.5, "family": "Rouges"},
            "fr",
            "montée en gamme dans sa famille préférée (Rouges) : 12\u00a0€ → 18,50\u00a0€ les 75 cl",
        ),
        (
            {"scenario": "upsell", "is_repeat": False, "price_from": 12.0, "price_to": 18.5, "family": "Rouges"},
            "en",
            "a step up in their preferred family (Rouges): €12 → €18.50 per 75 cl",
        ),
        (
            {"scenario": "nurture", "is_repeat": False, "state": "no_order", "top": 3, "is_entry": True},
            "de",
            "noch keine Bestellung; unter den 3 meistgekauften Weinen, Einstiegspreis",
        ),
    ],
)
def test_staff_read_the_facts_that_made_the_choice(given: dict[str, Any], language: str, text: str) -> None:
    assert explain(language, **given) == text


@pytest.mark.parametrize("language", phrases.LANGUAGES)
def test_what_does_not_fit_is_left_out_and_never_cut_in_two(language: str) -> None:
    long = "Gewurztraminer Vendanges Tardives Cuvée du Bicentenaire du Domaine"
    assert len(phrases.shorten(long, phrases.LABEL_MAX)) <= phrases.LABEL_MAX
    facts = {**BECAUSE, "scenario": "winback", "because_label": long, "gone_day": day_number(date(2024, 9, 12))}
    text = explain(language, **facts, new_vintage=2024, season="noel", left=12.0)
    assert len(text) <= phrases.EXPLAIN_MAX
    assert re.search(r"Gewurztraminer Vendanges Tardives Cuvée du…? ?\(12 \w+\)", text.replace("… ", "…"))
    upsell = {"scenario": "upsell", "is_repeat": False, "family": long, "price_from": 1234.5, "price_to": 2345.5}
    assert long[:14] not in explain("fr", **upsell) or len(explain("fr", **upsell)) <= phrases.EXPLAIN_MAX


@pytest.mark.parametrize(
    ("days", "text"),
    [(7.4, "7 jours"), (29.0, "29 jours"), (31.0, "30 jours"), (88.0, "90 jours"), (119.0, "120 jours"),
     (120.0, "4 mois"), (365.0, "12 mois"), (729.0, "24 mois"), (731.0, "2 ans"), (np.nan, "")],
)  # fmt: skip
def test_lengths_of_time_are_said_as_people_say_them(days: float, text: str) -> None:
    assert phrases.span_texts(np.array([days]), "fr").tolist() == [text]


@pytest.mark.parametrize(
    ("day", "language", "text"),
    [
        (date(2025, 3, 12), "fr", "12 mars"),
        (date(2025, 9, 1), "fr", "1er septembre"),
        (date(2024, 9, 1), "fr", "1er septembre 2024"),
        (date(2024, 9, 1), "en", "1 September 2024"),
        (date(2025, 3, 1), "de", "1. März"),
    ],
)
def test_dates_are_written_as_people_do(day: date, language: str, text: str) -> None:
    assert phrases.day_texts(np.array([day_number(day), -1]), AS_OF, language).tolist() == [text, ""]


def test_the_order_of_items_changes_no_text() -> None:
    rows = [UNKNOWN | RHYTHM, UNKNOWN | BECAUSE, UNKNOWN | RHYTHM | {"days_late": 20.0}]
    texts = phrases.explanations(arrays(*rows), AS_OF, "fr")
    assert phrases.explanations(arrays(*reversed(rows)), AS_OF, "fr").tolist() == texts[::-1].tolist()


# What the customer reads

WINE: dict[str, Any] = {
    "kind": "wine",
    "label": "Muenchberg 2022",
    "grape": "Riesling",
    "vintage": 2022,
    "colour": "blanc",
    "macro_category": "Tranquille",
    "sweetness": "sec",
    "awards": "Or Paris 2024",
    **dict.fromkeys(AROMA_AXES, 3.0),
    "aroma_mineral": 5.0,
    "aroma_acidity": 4.0,
}
BARE = {"kind": "wine", "label": None, "grape": None, "vintage": np.nan, "awards": None}
BOX = {**WINE, "kind": "gift_box", "label": "Coffret Découverte", "sweetness": "brut"}
BARE_BOX = {**BARE, "kind": "gift_box"}
VARIANTS = 3
SAID = [
    (language, scenario, kind, variant)
    for language, (scenario, kind), variant in itertools.product(phrases.LANGUAGES, LISTS, range(VARIANTS))
]
# Rhythm, amounts, segments, scores and predictions, as a customer must never read them; and what a message about
# wine may not promise.
FORBIDDEN = re.compile(
    r"€|%|\b\d+ (?:jours?|mois|days?|months?|tagen?|monaten?)\b|"
    r"\b(?:eur|euros?|jours?|fois|rythme|retard|habitude\w*|fréquen\w*|prix|montant|dépens\w*|achats?|panier|"
    r"clients?|segment|score|champion\w*|fidèles?|reconqu\w*|probab\w*|gamme|dernière commande|"
    r"days?|times|rhythm|late|habits?|frequen\w*|price|amount|spen[dt]\w*|purchases?|customers?|loyal|win back|"
    r"likely|last order|range|tage?|mal|rhythmus|überfällig|gewohnheit\w*|häufig|preis\w*|betrag|ausgegeben|käufe|"
    r"kunden?|kundin|treue\w*|zurückzugewinnen|wahrscheinlich\w*|letzte bestellung|stufe|"
    r"gratuit|offert|cadeau|free|santé|health|gesund\w*|meilleure?s?|best|beste\w*)\b"
)


@pytest.mark.parametrize(("language", "scenario", "kind", "variant"), SAID)
def test_every_opening_reads_whole_with_any_product(language: str, scenario: str, kind: str, variant: int) -> None:
    for product in (WINE, BARE, BOX, BARE_BOX, {**BARE, "label": "L'Éclat"}, {**WINE, "grape": "Riesling, Muscat"}):
        text = phrases.sentence(scenario, kind == "repeat", variant, language, product)
        assert text[0].isupper()
        assert text.endswith(".")
        assert not HOLES.search(text), text
        assert text.count("«") == text.count("»")
        assert text.count("“") == 1 or "“" not in text
        assert len(text) <= 300
        assert not FORBIDDEN.search(text.lower()), text


@pytest.mark.parametrize("language", phrases.LANGUAGES)
def test_openings_differ_within_a_list_and_between_lists(language: str) -> None:
    for group in ("sentence", "sentence_gift_box"):
        lists = [openings for kinds in phrases.phrases(language)[group].values() for openings in kinds.values()]
        said = [opening for openings in lists for opening in openings]
        assert len(set(said)) == len(said)
        assert {len(openings) for openings in lists} == {VARIANTS}
    assert RULES.recommendations.max_per_customer <= VARIANTS, "one message would say the same twice"


def test_one_message_has_each_opening_once_and_a_wine_the_same_words_for_all() -> None:
    products = pd.DataFrame([{**WINE, "label": name, "vintage": None} for name in "ABC"])
    scenario = np.array(["cross_sell"] * 6, dtype=object)
    rank, product = np.array([1, 2, 3, 1, 2, 3]), np.array([0, 1, 2, 0, 2, 1])
    made = phrases.sentences(scenario, np.zeros(6, dtype=bool), rank, "fr", product, products)
    assert len({text.split("«")[0] for text in made[:3]}) == 3
    assert made[0] == made[3]
    assert made[1].split("«")[0] == made[4].split("«")[0]


@pytest.mark.parametrize("language", phrases.LANGUAGES)
@pytest.mark.parametrize(("scenario", "kind"), LISTS)
def test_a_gift_box_is_not_called_a_wine(scenario: str, kind: str, language: str) -> None:
    for variant in range(VARIANTS):
        text = phrases.sentence(scenario, kind == "repeat", variant, language, BOX)
        assert "Découverte" in text
        assert not re.search(r"\b(vin|cuvée|wine|wein)\b|2022|Riesling|gout|goût|taste|probier", text, re.IGNORECASE)


@pytest.mark.parametrize(
    ("language", "text"),
    [
        (
            "fr",
            "Vous connaissez déjà «\u202fMuenchberg\u202f»\u202f: un vin blanc sec, minéral et vif, cépage Riesling, "
            "millésime 2022. Au palmarès\u202f: Or Paris 2024.",
        ),
        (
            "en",
            "You already know “Muenchberg”: a dry white wine, mineral and crisp, grape variety Riesling, vintage 2022. "
            "Award-winning: Or Paris 2024.",
        ),
        (
            "de",
            "Sie kennen bereits „Muenchberg“: ein Weißwein, trocken, mineralisch und frisch, Rebsorte Riesling, "
            "Jahrgang 2022. Prämiert: Or Paris 2024.",
        ),
    ],
)
def test_the_customer_reads_what_the_catalogue_says_in_the_language_of_the_message(language: str, text: str) -> None:
    # The year is apart from the name: who knows the wine may know another vintage of it.
    assert phrases.sentence("rebuy", True, 0, language, WINE) == text


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"label": "Riesling Tradition 2022"}, "un vin blanc sec, minéral et vif, millésime 2022"),
        ({"label": "Crémant Brut", "sweetness": "brut", "macro_category": "Effervescent", "vintage": None},
         "un vin effervescent, minéral et vif, cépage Riesling"),
        ({"label": "Pinot Blanc", "grape": "Pinot Blanc"}, "un vin blanc sec, minéral et vif, millésime 2022"),
        ({"grape": "Pinot Blanc, Auxerrois", "sweetness": None, "colour": None},
         "un vin minéral et vif, cépages Pinot Blanc, Auxerrois, millésime 2022"),
        ({"grape": "Assemblage", "aroma_mineral": None, "aroma_acidity": None, "colour": "Rouge", "vintage": np.nan},
         "un vin rouge sec, assemblage de cépages"),
        ({"grape": "non", "colour": None, "sweetness": "Demi-sec"}, "un vin demi-sec, minéral et vif, millésime 2022"),
        ({"grape": " - ", "colour": "WHITE", "sweetness": "???"}, "un vin blanc, minéral et vif, millésime 2022"),
    ],
)  # fmt: skip
def test_only_facts_are_said_and_none_twice(given: dict[str, Any], said: str) -> None:
    text = phrases.sentence("rebuy", True, 0, "fr", {**WINE, "awards": "aucun", **given})
    assert text.split("\u202f»\u202f: ")[1] == f"{said}."


@pytest.mark.parametrize(
    ("label", "vintage", "name"),
    [
        ("Riesling Tradition 2023", 2023, "Riesling Tradition"),
        ("2023 Riesling", 2023, "Riesling"),
        ("Riesling - 2023", 2023.0, "Riesling"),
        ("Riesling 1789", 2023, "Riesling 1789"),
        ("Riesling 12023", 2023, "Riesling 12023"),
        ("2023", 2023, "2023"),
        ("Riesling 2023", None, "Riesling 2023"),
    ],
)
def test_a_name_stands_without_its_year(label: str, vintage: Any, name: str) -> None:
    assert phrases.without_vintage(label, vintage) == name


# The files


@pytest.mark.parametrize("language", phrases.LANGUAGES)
def test_every_language_words_the_same_things(language: str) -> None:
    french, other = phrases.phrases("fr"), phrases.phrases(language)

    def shape(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: shape(part) for key, part in value.items() if key != "text"} | (
                {"facts": {f for f in wanted(value) if f != "n"}} if "text" in value else {}
            )
        return [shape(part) for part in value] if isinstance(value, list) else None

    for group in french.keys() - {"date", "first_of_month", "sentence", "sentence_gift_box"}:
        assert shape(other[group]) == shape(french[group]), group
    assert other.keys() == french.keys()
    for group in ("sentence", "sentence_gift_box"):
        assert {s: list(k) for s, k in other[group].items()} == {s: list(k) for s, k in french[group].items()}
    assert other["sentence"].keys() == other["explain"].keys() == set(SCENARIOS)
    assert list(other["aromas"]) == AROMA_AXES
    assert other["season"].keys() == RULES.recommendations.season_tags.keys()
    assert other["standing"].keys() <= set(STATES)


@pytest.mark.parametrize("language", phrases.LANGUAGES)
def test_phrases_keep_to_the_words_that_messages_may_have(language: str) -> None:
    wording = phrases.phrases(language)
    said = [
        o for group in ("sentence", "sentence_gift_box") for k in wording[group].values() for v in k.values() for o in v
    ]
    for word in RULES.activation.forbidden_words:
        assert not [text for text in said if re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE)]
