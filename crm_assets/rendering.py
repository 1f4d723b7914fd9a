"""Templates to text: e-mails and reports, their wording per language, numbers as its readers write them.

Structure lives once in `templates/*.html.j2`, wording once per language in `templates/<area>_<locale>.yaml`. A
template that asks for a value it was not given fails: nothing is ever rendered empty. No data access here.
"""

from __future__ import annotations

import hashlib
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import yaml
from babel import Locale
from babel.dates import format_date, format_skeleton
from babel.numbers import format_currency, format_decimal, format_percent

_NBSP = "\u00a0"
# An estate that reads English lies in Europe: 31 December 2025.
_DATES = {"en": "en_GB"}
_PERCENT = {"en": "%"}
_EUROS = {"en": "¤#,##0"}
# What stands before and after units, thousands and millions of euros.
_SHORT_EUROS = {
    "fr": (("", f"{_NBSP}€"), ("", f"{_NBSP}k€"), ("", f"{_NBSP}M€")),
    "en": (("€", ""), ("€", "k"), ("€", "m")),
    "de": (("", f"{_NBSP}€"), ("", f"{_NBSP}Tsd.{_NBSP}€"), ("", f"{_NBSP}Mio.{_NBSP}€")),
}
FOLDER = Path(__file__).parent / "templates"
_YamlLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


# Each a file per language; a group of sentences stands in one of them. The e-mail's wording is part of what is planned.
EMAIL_AREA = "email"
AREAS = (EMAIL_AREA, "words", "workbooks", "mapping", "findings", "review", "receipt", "report", "monthly", "kpis")


@cache
def texts(locale: str) -> dict[str, Any]:
    """The wording of one language, of all areas: dotted groups of sentences, some with {placeholders}."""
    loaded: dict[str, Any] = {}
    for area in AREAS:
        groups = yaml.load((FOLDER / f"{area}_{locale}.yaml").read_text(encoding="utf-8"), Loader=_YamlLoader)
        if twice := loaded.keys() & groups.keys():
            raise ValueError(f"{area}_{locale}.yaml: {', '.join(sorted(twice))} stands in another area too")
        loaded.update(groups)
    return loaded


@cache
def environment(locale: str) -> jinja2.Environment:
    """Jinja2 for one language: HTML-escaping, strict about missing values, with filters for numbers and
    dates.
    """
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["number"] = lambda value, pattern=None: format_decimal(value, format=pattern, locale=locale)
    made.filters["percent"] = lambda value, digits=1: percent(value, locale, digits)
    made.filters["day"] = lambda value: long_date(value, locale)
    made.filters["euros"] = lambda value: whole_euros(value, locale)
    made.globals["t"] = texts(locale)
    made.globals["locale"] = locale
    return made


@cache
def template_hash(name: str, locale: str) -> str:
    """First 16 hex of the SHA-256 of a template and the wording that goes into it."""
    digest = hashlib.sha256((FOLDER / name).read_bytes())
    digest.update((FOLDER / f"{EMAIL_AREA}_{locale}.yaml").read_bytes())
    digest.update(
        (FOLDER / f"{EMAIL_AREA}_fr.yaml").read_bytes()
    )  # the legal notices stand in French in every language
    return digest.hexdigest()[:16]


def euros(amount: float, locale: str) -> str:
    """An amount in EUR as written in `locale`: 12,50 € or €12.50."""
    return str(format_currency(amount, "EUR", locale=locale))


def centilitres(format_cl: float, locale: str) -> str:
    """A bottle's content: 75 cl, 37,5 cl."""
    return f"{format_decimal(format_cl, format='0.##', locale=locale)} cl"


def long_date(day: date, locale: str) -> str:
    """A date as written in `locale`: 31 décembre 2025, 1er janvier 2026."""
    written = str(format_date(day, format="long", locale=_DATES.get(locale, locale)))
    return f"1er{written[1:]}" if locale == "fr" and day.day == 1 else written


def number(value: float, locale: str, pattern: str | None = None) -> str:
    """1 234,5 or 1,234.5."""
    return str(format_decimal(value, format=pattern, locale=locale))


def signed(value: float, locale: str, pattern: str = "#,##0") -> str:
    """+12 or −3, with a real minus; 0 has no sign."""
    written = number(abs(value), locale, pattern)
    return written if value == 0 else f"{'+' if value > 0 else '−'}{written}"


def percent(share: float, locale: str, digits: int = 1) -> str:
    """12,5 % or 12.5%."""
    decimals = f".{'0' * digits}" if digits else ""
    return str(format_percent(share, format=f"#,##0{decimals}{_PERCENT.get(locale, _NBSP + '%')}", locale=locale))


def signed_percent(share: float, locale: str, digits: int = 1) -> str:
    """+12,5 % or −3.1%; nothing that rounds to zero has a sign."""
    rounded = round(share, digits + 2)
    sign = "" if rounded == 0 else "+" if rounded > 0 else "−"
    return f"{sign}{percent(abs(rounded), locale, digits)}"


def whole_euros(amount: float, locale: str) -> str:
    """An amount without cents: 1 235 € or €1,235; a real minus."""
    written = str(
        format_currency(
            abs(round(amount)), "EUR", locale=locale, format=_EUROS.get(locale, f"#,##0{_NBSP}¤"), currency_digits=False
        )
    )
    return f"−{written}" if round(amount) < 0 else written


def short_euros(amount: float, locale: str, digits: int = 0) -> str:
    """An amount for a chart: 182 k€, €182k or 182 Tsd. € from a thousand on, millions likewise."""
    power = 2 if abs(amount) >= 1e6 else 1 if abs(amount) >= 1e3 else 0
    value = number(abs(amount) / 1000**power, locale, f"#,##0.{'0' * digits}" if digits and power else "#,##0.##")
    before, after = _SHORT_EUROS[locale][power]
    return f"{'−' if amount < 0 else ''}{before}{value}{after}"


def short_date(day: date, locale: str) -> str:
    """A day whose year is plain: 31 décembre, 1er janvier, 31 December, 31. Dezember."""
    written = str(format_skeleton("MMMMd", day, locale=_DATES.get(locale, locale)))
    return f"1er{written[1:]}" if locale == "fr" and day.day == 1 else written


def month_year(day: date, locale: str) -> str:
    """A month in a sentence: décembre 2025, December 2025, Dezember 2025."""
    return str(format_date(day, "MMMM y", locale=_DATES.get(locale, locale)))


def plural(forms: str | dict[str, str], count: float, locale: str) -> str:
    """The wording for that many: `one` or `other`, as the language counts; `zero` where none has words of its own."""
    if isinstance(forms, str):
        return forms
    if count == 0 and "zero" in forms:
        return forms["zero"]
    rule = Locale.parse(locale).plural_form(abs(count))
    return forms.get(rule, forms["other"])
