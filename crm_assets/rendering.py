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
from babel.dates import format_date
from babel.numbers import format_currency, format_decimal, format_percent

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
    made.filters["percent"] = lambda value: format_percent(value, format="#,##0.0 %", locale=locale)
    made.filters["day"] = lambda value: long_date(value, locale)
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
    written = str(format_date(day, format="long", locale=locale))
    return f"1er{written[1:]}" if locale == "fr" and day.day == 1 else written
