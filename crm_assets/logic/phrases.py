"""The words of a recommendation: `explain_short` for staff and the sentence a customer reads (spec.md §5).

The wording itself is in `templates/phrases_<language>.yaml`, approved by people; this module only fills it
in, whole columns at a time. A phrase with an unknown fact is not rendered: the caller picks one whose facts
are all known. No business rule and no choice of wine here.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from functools import cache
from itertools import repeat
from pathlib import Path
from string import Formatter
from typing import Any

import numpy as np
import pandas as pd
import yaml

TEMPLATES = Path(__file__).resolve().parent.parent / "templates"
LANGUAGES = ("fr", "en", "de")
EXPLAIN_MAX = 120
LABEL_MAX = 50

Strings = np.ndarray[Any, np.dtype[np.object_]]


@cache
def phrases(language: str) -> dict[str, Any]:
    """The approved wording of one language, as its file has it."""
    content = yaml.safe_load((TEMPLATES / f"phrases_{language}.yaml").read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content


def render(template: str, facts: dict[str, Strings], n: int) -> Strings:
    """`template` filled in for n rows; `{fact}` takes the fact's column of strings."""
    parts: list[Iterable[str]] = []
    for literal, fact, _, _ in Formatter().parse(template):
        parts.append(repeat(literal, n))
        if fact is not None:
            parts.append(facts[fact].tolist())
    return np.array(["".join(row) for row in zip(*parts, strict=True)] or [""] * n, dtype=object)


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

    unique, where = np.unique(days, return_inverse=True)
    texts = []
    for number in unique:
        if number < 0:
            texts.append("")
            continue
        day = np.datetime64(int(number), "D").astype(object)
        patterns = phrases(language)["first_of_month" if day.day == 1 else "date"]
        texts.append(format_date(day, patterns["this_year" if day.year == as_of.year else "another"], locale=language))
    return np.array(texts, dtype=object)[where]


def count_texts(values: np.ndarray) -> Strings:
    """Whole numbers as text."""
    unique, where = np.unique(values, return_inverse=True)
    return np.array([str(int(value)) for value in unique], dtype=object)[where]


# What staff read


def explanations(items: pd.DataFrame, as_of: date, language: str) -> Strings:
    """`explain_short` of each item: the facts that made the choice, at most 120 characters.

    items: scenario, is_repeat, interval (days, NaN unknown), last_day (day number, negative unknown), label
    (of the wine it was chosen for, '' unknown), family ('' unknown), is_taste (chosen with a known taste),
    is_entry (price).
    """
    wording = phrases(language)["explain"]
    n = len(items)
    interval = items["interval"].to_numpy(dtype="float64")
    known_interval = ~np.isnan(interval)
    last_day = items["last_day"].to_numpy(dtype="int64")
    labels = _shortened(items["because_label"])
    families = _shortened(items["family"])
    facts = {
        "interval": count_texts(np.where(known_interval, np.maximum(np.round(np.nan_to_num(interval)), 1), 0)),
        "last_date": day_texts(last_day, as_of, language),
        "because": labels,
        "family": families,
    }
    known = {
        "interval": known_interval,
        "last_date": last_day >= 0,
        "because": labels != "",
        "family": families != "",
        "is_taste": items["is_taste"].to_numpy(dtype=bool),
        "is_entry": items["is_entry"].to_numpy(dtype=bool),
    }
    scenario, is_repeat = items["scenario"].to_numpy(dtype=object), items["is_repeat"].to_numpy(dtype=bool)
    text: Strings = np.full(n, "", dtype=object)
    for name in np.unique(scenario):
        for is_old, kind in ((True, "repeat"), (False, "explore")):
            rows = (scenario == name) & (is_repeat == is_old)
            # The first phrase whose facts are all known; the last of each list needs none.
            for phrase in wording[name][kind] if rows.any() else []:
                wanted = [fact for _, fact, _, _ in Formatter().parse(phrase["text"]) if fact] + phrase.get("when", [])
                usable = rows & (text == "")
                for fact in wanted:
                    usable &= known[fact]
                where = np.flatnonzero(usable)
                text[where] = render(phrase["text"], {k: v[where] for k, v in facts.items()}, len(where))
    return np.array([shorten(value, EXPLAIN_MAX) for value in text], dtype=object)


def _shortened(values: pd.Series) -> Strings:
    codes, unique = pd.factorize(values.fillna("").astype(str))
    return np.array([shorten(" ".join(value.split()), LABEL_MAX) for value in unique] or [""], dtype=object)[codes]


# What the customer reads


def sentences(scenario: Strings, language: str, product: np.ndarray, products: pd.DataFrame) -> Strings:
    """`customer_sentence` of each item, from the catalogue and the approved phrases alone.

    `language` is the tenant's, the one the whole message is written in. `product` = row number in `products`
    (kind, label, grape, vintage, awards, aroma_*). Nothing here is about the person.
    """
    names, name = np.unique(scenario.astype(str), return_inverse=True)
    width = max(len(products), 1)
    keys, where = np.unique(name * width + product, return_inverse=True)
    records = products.to_dict("records")
    made = [sentence(str(names[key // width]), language, records[key % width]) for key in keys]
    return np.array([*made, ""], dtype=object)[where]


def sentence(scenario: str, language: str, product: dict[str, Any]) -> str:
    """One approved phrase of the scenario, with what the catalogue says of the wine; unknown facts leave no
    trace.
    """
    wording = phrases(language)
    label = _text(product.get("label"))
    is_gift_box = product.get("kind") == "gift_box"
    # A box holds several wines: one grape, vintage or taste would be said of all of them.
    details = [] if is_gift_box else _wine_details(product, label, language)
    awards = _text(product.get("awards"))
    if awards:
        details.append(wording["awards"].format(awards=awards))
    openings = wording["sentence"] | (wording["sentence_gift_box"] if is_gift_box else {})
    opening = openings[scenario].format(name=wording["name"].format(name=label) if label else wording["this_wine"])
    return f"{opening}{wording['before_details']}{', '.join(details)}." if details else f"{opening}."


def _wine_details(product: dict[str, Any], label: str, language: str) -> list[str]:
    """Grape, vintage and taste in words; what the name already says is not said again."""
    wording = phrases(language)
    details = []
    grape, vintage = _text(product.get("grape")), product.get("vintage")
    if grape and grape.lower() not in label.lower():
        details.append(wording["grape"].format(grape=grape))
    if vintage is not None and not pd.isna(vintage) and str(int(vintage)) not in label:
        details.append(wording["vintage"].format(vintage=int(vintage)))
    taste = taste_words(product, language)
    if taste:
        details.append(wording["taste"].format(taste=taste))
    return details


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
