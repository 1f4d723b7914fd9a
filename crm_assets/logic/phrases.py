"""The words of a recommendation: `explain_short` for staff and the sentence a customer reads (spec.md §5).

The wording itself is in `templates/phrases_<language>.yaml`, approved by people; this module only fills it
in, whole columns at a time. A phrase with an unknown fact is not rendered: the caller picks one whose facts
are all known. No business rule and no choice of wine here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import date
from functools import cache
from pathlib import Path
from string import Formatter
from typing import Any

import numpy as np
import pandas as pd
import yaml

from crm_assets.logic.curated import normalize_label

TEMPLATES = Path(__file__).resolve().parent.parent / "templates"
LANGUAGES = ("fr", "en", "de")
EXPLAIN_MAX = 120
LABEL_MAX = 50
GIFT_BOX = "gift_box"

# What catalogues in other languages call the sweetness and colour of a wine, beside the French words.
_FRENCH = {
    **{"DRY": "SEC", "TROCKEN": "SEC", "OFF DRY": "DEMI SEC", "HALBTROCKEN": "DEMI SEC", "DEMISEC": "DEMI SEC"},
    **{"MEDIUM SWEET": "MOELLEUX", "LIEBLICH": "MOELLEUX", "EDELSUSS": "LIQUOREUX", "SWEET": "DOUX", "SUSS": "DOUX"},
    **{"WHITE": "BLANC", "WEISS": "BLANC", "RED": "ROUGE", "ROT": "ROUGE", "SPARKLING": "EFFERVESCENT"},
    **{"MOUSSEUX": "EFFERVESCENT", "SCHAUMWEIN": "EFFERVESCENT"},
}
# What people write into a cell to say that there is nothing to say, and grapes that are none.
_NOTHING = {"NON", "NO", "NONE", "NAN", "NULL", "NA", "N A", "AUCUN", "AUCUNE", "NEANT", "INCONNU", "NEIN", "KEINE"}
_BLENDS = {"ASSEMBLAGE", "BLEND", "CUVEE", "MELANGE", "COUPAGE", "VERSCHNITT", "COMPLANTATION"}
# The co-purchase is of all vintages of a wine; nobody bought that of its newest label alone.
_YEAR_AT_END = re.compile(r"(?<=\w) (?:19[89]|20\d)\d$")
_SEVERAL = re.compile(r"[,;/+&|]| (?:et|and|und) ")

Strings = np.ndarray[Any, np.dtype[np.object_]]
Flags = np.ndarray[Any, np.dtype[np.bool_]]


@cache
def phrases(language: str) -> dict[str, Any]:
    """The approved wording of one language, as its file has it."""
    content = yaml.safe_load((TEMPLATES / f"phrases_{language}.yaml").read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content


def render(template: str, facts: dict[str, Strings], rows: np.ndarray) -> Strings:
    """`template` filled in for each of `rows`; `{fact}` takes those of the fact's column of strings."""
    import pyarrow as pa
    import pyarrow.compute as pc

    parts: list[Any] = [pa.repeat(pa.scalar("", pa.string()), len(rows))]
    for literal, fact, _, _ in Formatter().parse(template):
        parts.append(pa.scalar(literal, pa.string()))
        if fact is not None:
            parts.append(pa.array(facts[fact][rows], pa.string()))
    # The last argument stands between the parts: nothing does.
    text: Strings = pc.binary_join_element_wise(*parts, "").to_numpy(zero_copy_only=False)
    return text


def shorten(text: str, limit: int) -> str:
    """At most `limit` characters, cut between words, with an ellipsis where something is missing."""
    if len(text) <= limit:
        return text
    cut = text[: limit - 1]
    head = cut.rsplit(" ", 1)[0] if " " in cut else cut
    return head.rstrip(" ,;:·-") + "…"


def day_texts(days: np.ndarray, as_of: date, language: str) -> Strings:
    """Day numbers as people write dates: `12 mars`, with the year when it is not the as-of date's; '' below
    0.
    """
    from babel.dates import format_date

    def text(number: float) -> str:
        if number < 0:
            return ""
        day = np.datetime64(int(number), "D").astype(object)
        patterns = phrases(language)["first_of_month" if day.day == 1 else "date"]
        pattern = patterns["this_year" if day.year == as_of.year else "another"]
        return str(format_date(day, pattern, locale=language))

    return _texts(days, text)


def count_texts(values: np.ndarray) -> Strings:
    """Whole numbers as text."""
    return _texts(values, lambda value: str(int(value)))


def span_texts(days: np.ndarray, language: str) -> Strings:
    """Lengths of time as people say them: days, then months, then years; '' where NaN.

    From 30 days on in fives, from 120 in months, from 730 in years: an average rhythm is not known better.
    """
    wording = phrases(language)["span"]

    def text(value: float) -> str:
        if value < 120:
            return str(wording["days"].format(n=round(value / 5) * 5 if value >= 30 else round(value)))
        if value < 730:
            return str(wording["months"].format(n=round(value / 30.4375)))
        return str(wording["years"].format(n=round(value / 365.25)))

    return _texts(np.round(days), text)


def euro_texts(amounts: np.ndarray, language: str) -> Strings:
    """Prices without cents where there are none; '' where NaN."""
    wording = phrases(language)

    def text(value: float) -> str:
        whole, cents = divmod(round(value * 100), 100)
        pattern = wording["price_with_cents" if cents else "price"]
        return str(pattern.format(whole=whole, cents=f"{cents:02d}"))

    return _texts(np.round(amounts, 2), text)


def _texts(values: np.ndarray, text: Callable[[Any], str]) -> Strings:
    """`text` of each number, computed once per distinct one; '' where NaN."""
    codes, unique = pd.factorize(values)
    return np.array([*(text(value) for value in unique), ""], dtype=object)[codes]


# What staff read


def explanations(items: Mapping[str, np.ndarray], as_of: date, language: str) -> Strings:
    """`explain_short` of each item: the facts that made the choice, at most 120 characters.

    items: arrays of one length, of which '', NaN, 0 and negative mean unknown unless said otherwise:
    * scenario; is_repeat; state (no_order, lapsed, one_order, regular); is_taste (close to a known taste);
      is_entry (price).
    * n_orders of the wine by the customer; last_day (day number of the last); interval (days) and interval_of
      (own, wine, family); days_late (beyond the own interval, where that is worth saying).
    * because_label (the wine bought that speaks for it) and n_together (orders with both, of all customers);
      grape, grape_share, family, family_share (of the customer's spend).
    * price_from, price_to (EUR TTC per 75 cl: what the customer pays on average, the offer); top (among the
      so many most bought); gone_day (day number of the customer's last purchase of wine).
    * new_vintage; season (a tag of the rules); left (in stock, where little is).
    """
    wording = phrases(language)
    n = len(items["scenario"])
    facts, known = _facts(items, as_of, language)
    codes, scenarios = pd.factorize(items["scenario"])
    is_repeat = items["is_repeat"]
    text: Strings = np.full(n, "", dtype=object)
    for code, name in enumerate(scenarios):
        for kind, listed in wording["explain"][name].items():
            open_rows = (codes == code) & (is_repeat == (kind == "repeat"))
            # The first phrase whose facts are all known and that fits; the last of each list needs none.
            for phrase in listed:
                where = _usable(phrase, known, open_rows)
                made = render(phrase["text"], facts, where)
                fits = _fits(made)
                text[where[fits]] = made[fits]
                open_rows[where[fits]] = False
    for phrase in wording["more"]:
        where = _usable(phrase, known, np.ones(n, dtype=bool))
        made = text[where] + render(phrase["text"], facts, where)
        fits = _fits(made)
        text[where[fits]] = made[fits]
    return text


def _fits(texts: Strings) -> Flags:
    return np.fromiter(map(len, texts.tolist()), dtype=np.int64, count=len(texts)) <= EXPLAIN_MAX


def _usable(phrase: dict[str, Any], known: dict[str, Flags], rows: Flags) -> np.ndarray:
    """Which of `rows` have every fact that a phrase names or asks for."""
    usable = rows.copy()
    for fact in [*(name for _, name, _, _ in Formatter().parse(phrase["text"]) if name), *phrase.get("when", [])]:
        usable &= known[fact]
    return np.flatnonzero(usable)


def _facts(items: Mapping[str, np.ndarray], as_of: date, language: str) -> tuple[dict[str, Strings], dict[str, Flags]]:
    """The texts that phrases name, and which rows have them or meet the conditions of phrases."""
    wording = phrases(language)
    n_orders, rhythm, interval_of = items["n_orders"], items["interval"], items["interval_of"]
    facts = {
        "n": count_texts(n_orders),
        "rhythm": span_texts(np.where(rhythm > 0, rhythm, np.nan), language),
        "last_date": day_texts(items["last_day"], as_of, language),
        "late": span_texts(_positive(items["days_late"]), language),
        "because": _mapped(
            items["because_label"], lambda label: shorten(_YEAR_AT_END.sub("", _text(label)), LABEL_MAX)
        ),
        "together": _texts(_positive(items["n_together"]), lambda value: str(int(value))),
        "grape": _mapped(items["grape"], lambda value: "" if is_blend(value) else grape_words(value, language)),
        "family": _shortened(items["family"]),
        **{name: _percents(items[name], language) for name in ("grape_share", "family_share")},
        **{name: euro_texts(_positive(items[name]), language) for name in ("price_from", "price_to")},
        "top": _texts(_positive(items["top"]), lambda value: str(int(value))),
        "gone": day_texts(items["gone_day"], as_of, language),
        "standing": _mapped(items["state"], lambda value: str(wording["standing"].get(value, ""))),
        "new_vintage": _texts(_positive(items["new_vintage"]), lambda value: str(int(value))),
        "season": _mapped(items["season"], lambda value: str(wording["season"].get(value, ""))),
        "left": _texts(_positive(items["left"]), lambda value: str(int(value))),
    }
    facts["ordered"] = np.full(len(n_orders), "", dtype=object)
    for pattern, rows in (
        ("ordered_once", n_orders == 1),
        ("ordered_twice", n_orders == 2),
        ("ordered_often", n_orders > 2),
    ):
        where = np.flatnonzero(rows & (facts["last_date"] != ""))
        facts["ordered"][where] = render(wording[pattern], facts, where)
    known = {name: values != "" for name, values in facts.items()}
    known |= {f"{source}_rhythm": (interval_of == source) & known["rhythm"] for source in ("own", "wine", "family")}
    known["often"] = n_orders > 2
    known["taste"] = items["is_taste"]
    known["entry"] = items["is_entry"]
    return facts, known


def _positive(numbers: np.ndarray) -> np.ndarray:
    return np.where(numbers > 0, numbers, np.nan)


def _percents(shares: np.ndarray, language: str) -> Strings:
    pattern = phrases(language)["percent"]
    return _texts(np.round(_positive(shares) * 100), lambda value: str(pattern.format(n=int(value))))


def _mapped(values: np.ndarray, text: Callable[[str], str]) -> Strings:
    codes, unique = pd.factorize(values)
    return np.array([*(text(value) for value in unique), ""], dtype=object)[codes]


def _shortened(values: np.ndarray) -> Strings:
    return _mapped(values, lambda value: shorten(_text(value), LABEL_MAX))


# What the customer reads


def sentences(
    scenario: Strings,
    is_repeat: np.ndarray,
    rank: np.ndarray,
    language: str,
    product: np.ndarray,
    products: pd.DataFrame,
) -> Strings:
    """`customer_sentence` of each item, from the catalogue and the approved phrases alone.

    `language` is the tenant's, the one the whole message is written in. `rank` 1..n within the customer's
    list decides which of the approved openings is used, so that one message has each but once. `product` =
    row number in `products` (kind, label, grape, vintage, colour, macro_category, sweetness, awards,
    aroma_*). Nothing here is about the person but that a wine was bought before.
    """
    names, name = np.unique(scenario.astype(str), return_inverse=True)
    variants = max((len(o) for kinds in phrases(language)["sentence"].values() for o in kinds.values()), default=1)
    variant = (rank.astype(np.int64) - 1) % variants
    width = max(len(products), 1)
    packed = ((name * 2 + is_repeat.astype(np.int64)) * variants + variant) * width + product
    keys, where = np.unique(packed, return_inverse=True)
    records = products.to_dict("records")
    made = []
    for key in keys.tolist():
        (rest, place), row = divmod(key // width, variants), key % width
        made.append(sentence(str(names[rest // 2]), bool(rest % 2), place, language, records[row]))
    return np.array([*made, ""], dtype=object)[where]


def sentence(scenario: str, is_repeat: bool, variant: int, language: str, product: dict[str, Any]) -> str:
    """One approved phrase of the scenario, with what the catalogue says of the wine; unknown facts leave no
    trace.
    """
    wording = phrases(language)
    is_gift_box = product.get("kind") == GIFT_BOX
    label = _text(product.get("label"))
    # A box holds several wines: one grape, vintage or taste would be said of all of them.
    name = label if is_gift_box else without_vintage(label, product.get("vintage"))
    details = [] if is_gift_box else _wine_details(product, name, language)
    kind = "repeat" if is_repeat else "explore"
    openings = wording["sentence"][scenario][kind]
    if is_gift_box:
        openings = wording["sentence_gift_box"].get(scenario, {}).get(kind, openings)
    bare = wording["this_gift_box" if is_gift_box else "this_wine"]
    opening = openings[variant % len(openings)].format(name=wording["name"].format(name=name) if name else bare)
    said = f"{opening}{wording['before_details']}{', '.join(details)}." if details else f"{opening}."
    awards = _fact(product.get("awards")).rstrip(" .;,")
    return said + (wording["awards"].format(awards=awards) if awards else "")


def without_vintage(label: str, vintage: Any) -> str:
    """The name of a wine without its year, which stands beside it: who knows a wine may know another vintage."""
    if vintage is None or pd.isna(vintage):
        return label
    return " ".join(re.sub(rf"(?<!\d){int(vintage)}(?!\d)", " ", label).split()).strip(" -–,") or label


def _wine_details(product: dict[str, Any], name: str, language: str) -> list[str]:
    """Colour, sweetness and taste, grape and vintage in words; what the name already says is not said again."""
    wording = phrases(language)
    said = f" {normalize_label(name)} "
    details = []
    sugar = _catalogue_word(product.get("sweetness"))
    sweetness = "" if f" {sugar} " in said else _word("sweetness", sugar, language)
    sparkling = _word("colours", product.get("macro_category"), language)
    colour = sparkling or _word("colours", product.get("colour"), language)
    taste = taste_words(product, language)
    which = {(True, True): "both", (True, False): "colour", (False, True): "sweetness"}.get(
        (bool(colour), bool(sweetness))
    )
    if which:
        details.append(wording["wine"][which].format(colour=colour, sweetness=sweetness))
    if taste:
        details.append(taste if details else wording["wine"]["aromas"].format(aromas=taste))
    grape, vintage = _fact(product.get("grape")), product.get("vintage")
    if grape and f" {normalize_label(grape)} " not in said:
        details.append(grape_words(grape, language))
    if vintage is not None and not pd.isna(vintage) and str(int(vintage)) not in name:
        details.append(wording["vintage"].format(vintage=int(vintage)))
    return details


def _catalogue_word(value: object) -> str:
    """A colour or sweetness of the catalogue as the wording has it: normalised, in French."""
    found = normalize_label(_text(value))
    return _FRENCH.get(found, found)


def _word(group: str, value: object, language: str) -> str:
    """The language's word for a colour or sweetness of the catalogue; '' when it is unknown."""
    return str(phrases(language)[group].get(_catalogue_word(value), ""))


def grape_words(grape: str, language: str) -> str:
    """`cépage Riesling`, `cépages Pinot Blanc, Auxerrois`; '' when there is none to name."""
    grape, wording = _fact(grape), phrases(language)
    if not grape:
        return ""
    if is_blend(grape):
        return str(wording["blend"])
    return str(wording["grapes" if _SEVERAL.search(grape) else "grape"].format(grape=grape))


def is_blend(grape: str) -> bool:
    """Whether the catalogue names no grape but says that there are several."""
    return normalize_label(grape) in _BLENDS


def taste_words(product: dict[str, Any], language: str) -> str:
    """The one or two axes that mark a wine (graded 4 or more out of 5, the strongest first), as an adjective
    list.
    """
    wording = phrases(language)
    grades = [(axis, product.get(axis)) for axis in wording["aromas"]]
    marked = sorted(((-float(grade), axis) for axis, grade in grades if grade is not None and float(grade) >= 4.0))
    return wording["and"].join(wording["aromas"][axis] for _, axis in marked[:2])


def _text(value: object) -> str:
    return " ".join(value.split()) if isinstance(value, str) else ""


def _fact(value: object) -> str:
    """A text of the catalogue that says something: it has a letter and is none of the words for nothing."""
    text = _text(value)
    return text if any(c.isalpha() for c in text) and normalize_label(text) not in _NOTHING else ""
