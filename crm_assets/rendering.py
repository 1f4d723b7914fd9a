"""Templates to text: e-mails and reports, their wording per language, numbers as its readers write them.

Structure lives once in `templates/*.html.j2`, wording once per language in `templates/<area>_<locale>.yaml`. A
template that asks for a value it was not given fails: nothing is ever rendered empty. No data access here.
"""

from __future__ import annotations

import hashlib
import re
from datetime import date
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import jinja2
import yaml
from babel import Locale
from babel.dates import format_date, format_skeleton
from babel.numbers import format_currency, format_decimal, format_percent
from markupsafe import Markup, escape

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
AREAS = (
    EMAIL_AREA,
    "words",
    "workbooks",
    "mapping",
    "findings",
    "review",
    "receipt",
    "report",
    "monthly",
    "kpis",
    "calls",
)


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


# What no text of a customer, a product or an estate needs, and what can do harm in a message: control characters, line
# breaks of other alphabets, invisible marks, marks that turn the reading direction (a price would read backwards).
_HARMFUL = dict.fromkeys(
    [
        *(code for code in range(0x20) if chr(code) not in "\t\n"),
        *range(0x7F, 0xA0),
        *(0x061C, 0x200B, 0x200E, 0x200F, 0x2028, 0x2029, 0xFEFF),
        *range(0x202A, 0x202F),
        *range(0x2060, 0x2070),
        *range(0xD800, 0xE000),
        *range(0xFFF9, 0xFFFC),
    ]
)
# Brevo reads {{ }}, {% %} and {# #} in a message, and [NAME] in the older of its two template languages.
_SYNTAX_AS_HTML = str.maketrans({"{": "&#123;", "}": "&#125;", "[": "&#91;", "]": "&#93;"})
_SYNTAX_AS_TEXT = str.maketrans({"{": "(", "}": ")", "[": "(", "]": ")"})


def harmless(value: Any) -> str:
    """A value as text that shows what it says: without control characters and marks that turn the direction."""
    return str(value).translate(_HARMFUL)


def plain(value: Any) -> str:
    """A value as plain text in which Brevo finds nothing of its template languages."""
    return _plain(str(value))


@lru_cache(maxsize=10_000)
def _plain(text: str) -> str:
    return harmless(text).translate(_SYNTAX_AS_TEXT)


def _as_html(value: Any) -> Markup:
    """A value escaped for HTML and for Brevo's template languages; what our own templates have made is left alone."""
    return value if isinstance(value, Markup) else _escaped(str(value))


@lru_cache(maxsize=10_000)  # a campaign says the same of the same wines thousands of times
def _escaped(text: str) -> Markup:
    return Markup(str(escape(harmless(text))).translate(_SYNTAX_AS_HTML))


@cache
def message_environment(locale: str, *, is_html: bool = True) -> jinja2.Environment:
    """Jinja2 for messages that go through Brevo: what a template is given is never read as markup or template syntax.

    Not `is_html`: for plain text.
    """
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=is_html,
        finalize=_as_html if is_html else plain,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals["t"] = texts(locale)
    made.globals["locale"] = locale
    return made


@cache
def sources_hash(*names: str) -> str:
    """First 16 hex of the SHA-256 of these files of the templates' folder."""
    digest = hashlib.sha256()
    for name in names:
        digest.update(f"{name}\n".encode() + (FOLDER / name).read_bytes())
    return digest.hexdigest()[:16]


def email_wording(locale: str) -> tuple[str, ...]:
    """The files whose wording an e-mail is made of: the notices of the law stand in French in every language."""
    return tuple(sorted({f"{EMAIL_AREA}_{locale}.yaml", f"{EMAIL_AREA}_fr.yaml"}))


def euros(amount: float, locale: str) -> str:
    """An amount in EUR as written in `locale`: 12,50 € or €12.50."""
    return str(format_currency(amount, "EUR", locale=locale))


def centilitres(format_cl: float, locale: str) -> str:
    """A bottle's content: 75 cl, 37,5 cl."""
    return f"{format_decimal(format_cl, format='0.##', locale=locale)}{_NBSP}cl"


# Signs that a line of French must not begin or end with.
_FRENCH_SPACES = re.compile(r" (?=[;:!?»])|(?<=\d) (?=[%€])|(?<=«) ")


def spaced(text: str, locale: str) -> str:
    """A written text on one line: its runs of spaces are one, no-break spaces stay, and French has those it needs."""
    line = re.sub(r"[ \t\r\n]+", " ", text).strip(" ")
    return _FRENCH_SPACES.sub(_NBSP, line) if locale == "fr" else line


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
