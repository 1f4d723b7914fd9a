"""Transformations that an estate may name for a field: the text of a cell before it is typed (spec.md §2.1).

Text in, text out; null is None, and nothing is ever made null that a step was not asked to make null: what a step
cannot read stays as it was, so that typing refuses it with its text. Typing itself is SQL's (`dbt_project/macros`).
The cell as it stood in the file is not kept here: the file is, and `source_line` says where (`crm mapping line`).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime
from functools import cache, partial
from typing import Any

from crm_assets.logic.spellings import read_number

Transform = Callable[[str | None], str | None]
# Works on two columns, after the other steps: see RowMaker in landing.py.
SPLIT_NAME = "split_name"

_NULL_WORDS = frozenset(
    {"null", "(null)", "none", "nil", "nan", "n/a", "na", "#n/a", "#nv", "(vide)", "néant", "-", "--"}
)
_EMAIL_INSIDE = re.compile(r"[^\s<>()\[\];,:\"']+@[^\s<>()\[\];,:\"'?]+")
_AROUND_AT = re.compile(r"\s*@\s*")
_EURO = re.compile(r"€|\beur(?:os?)?\b", re.IGNORECASE)
_EURO_AS_POINT = re.compile(r"(?<=\d)\s*(?:€|eur(?:os?)?)\s*(?=\d{2}$)", re.IGNORECASE)  # 12€50
_NO_CENTS = re.compile(r"(?<=\d)[.,]\s*(?:-{1,2}|–|—)$")  # 12,- and 12.–
_BLANKS = re.compile(r"\s")
_WORDS_APART = re.compile(r"([\s\-'’]+)")
# Small inside a name or a place: Jean de la Tour, Saint-Jean-de-Luz, comte d'Alsace.
_SMALL_WORDS = frozenset(
    {"de", "du", "des", "la", "les", "et", "en", "sur", "sous", "au", "aux", "von", "zu", "und", "d"}
)
_TITLES = frozenset(
    {"m", "mr", "mme", "mlle", "mm", "monsieur", "madame", "mademoiselle", "messieurs", "dr", "docteur", "me", "maitre",
     "maître", "herr", "frau", "mrs", "ms"}
)  # fmt: skip
_PARTICLES = frozenset({"de", "du", "des", "d'", "d’", "la", "le", "von", "van", "der", "den", "zu", "zur", "di", "da"})


def _capitalize(text: str) -> str:
    """Names of people and places: `jean-pierre` -> `Jean-Pierre`, `MARIE D'ALSACE` -> `Marie d'Alsace`."""
    parts = _WORDS_APART.split(text.lower())
    made: list[str] = []
    before = ""  # the word before
    for place, word in enumerate(parts):
        if place % 2 or not word:
            made.append(word)
            continue
        elided = place + 1 < len(parts) and parts[place + 1][0] in "'’"
        is_small = before and ((word in _SMALL_WORDS and (word != "d" or elided)) or (word == "l" and elided))
        made.append(word if is_small else word[0].upper() + word[1:])
        before = word
    return "".join(made)


def _remove_special_chars(text: str) -> str:
    """Letters, digits and spaces stay, accents too."""
    return re.sub(r"[^\w\s]|_", "", unicodedata.normalize("NFC", text))


def _parse_email(text: str) -> str:
    """The first valid address inside: `Jean <Jean@Exemple.fr>` -> `jean@exemple.fr`."""
    from email_validator import EmailNotValidError, validate_email

    for found in _EMAIL_INSIDE.findall(_AROUND_AT.sub("@", text)):
        try:
            return validate_email(found.strip(".").lower(), check_deliverability=False).normalized.lower()
        except EmailNotValidError:
            continue
    return text


def _parse_phone(text: str, *, country: str) -> str:
    """The first valid number inside as E.164, read as in `country`: `03 88 00 00 01 (bureau)` -> `+33388000001`."""
    import phonenumbers

    found = [match.number for match in phonenumbers.PhoneNumberMatcher(text, country)]
    if not found:
        try:
            found = [phonenumbers.parse(text, country)]
        except phonenumbers.NumberParseException:
            return text
    number = next((number for number in found if phonenumbers.is_valid_number(number)), None)
    if number is None:
        return text
    return str(phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164))


@cache
def _months() -> Mapping[str, str]:
    """Names of months in the languages of our estates, short ones too -> two digits."""
    from babel.dates import get_month_names

    found: dict[str, str] = {}
    for locale in ("en", "de", "fr"):
        for width in ("abbreviated", "wide"):
            for number, name in get_month_names(width, locale=locale).items():
                plain = name.lower().rstrip(".")
                for spelling in (plain, _unaccented(plain), _unaccented(plain)[:3]):
                    found.setdefault(spelling, f"{number:02}")
    found.pop("jui")  # June or July
    return {**found, "mrz": "03"}


def _unaccented(text: str) -> str:
    return "".join(letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))


def _parse_date(text: str, *, patterns: tuple[str, ...]) -> str:
    """The day in the first format that fits, ISO: `5 mars 2024` by `%d %B %Y` -> `2024-03-05`."""
    plain = " ".join(text.split())
    for pattern in patterns:
        candidate = plain
        if "%B" in pattern or "%b" in pattern:
            candidate = re.sub(r"[^\W\d_]+\.?", lambda m: _months().get(m[0].lower().rstrip("."), m[0]), plain)
            candidate = re.sub(r"(?<=\d)(?:er|st|nd|rd|th)\b", "", candidate)  # 1er mars
            pattern = pattern.replace("%B", "%m").replace("%b", "%m")
        try:
            return datetime.strptime(candidate, pattern).date().isoformat()
        except ValueError:
            continue
    return text


def _parse_currency(text: str) -> str:
    """An amount in euros without what surrounds its digits; another currency stays, and is refused as no number."""
    plain = _EURO_AS_POINT.sub(",", text.strip()) if "," not in text and "." not in text else text
    plain = _BLANKS.sub("", _EURO.sub("", plain))
    plain = _NO_CENTS.sub("", plain)
    return plain if read_number(plain) else text


def _null_to_empty(text: str) -> str:
    return "" if text.strip().lower() in _NULL_WORDS else text


# Steps without an argument.
PLAIN: dict[str, Callable[[str], str]] = {
    "trim": lambda text: text.strip().strip("\u200b\ufeff").strip(),
    "collapse_spaces": lambda text: " ".join(text.split()),
    "lowercase": str.lower,
    "uppercase": str.upper,
    "capitalize": _capitalize,
    "remove_special_chars": _remove_special_chars,
    "parse_email": _parse_email,
    "parse_currency": _parse_currency,
    "null_to_empty": _null_to_empty,
}
KNOWN = (
    *PLAIN, "empty_to_zero", SPLIT_NAME, "parse_phone", "parse_phone: <country>", "parse_date: <format>",
    "map_values: {text: text}",
)  # fmt: skip
_A_DAY = date(2024, 3, 25)


def _date_patterns(argument: Any) -> tuple[str, ...]:
    """Formats of `parse_date`; ValueError for one that would not find a day again that it has written."""
    patterns = tuple(argument) if isinstance(argument, list) and argument else (argument,)
    for pattern in patterns:
        try:
            is_right = datetime.strptime(_A_DAY.strftime(pattern), pattern).date() == _A_DAY
        except (ValueError, TypeError):
            is_right = False
        if not is_right:
            raise ValueError(
                f"parse_date: {pattern!r} is no format of a date: write day, month and year as %d, %m (or %B), %Y,"
                " e.g. '%d.%m.%Y'"
            )
    return patterns


def _values_map(argument: Any) -> dict[str, str | None]:
    """What `map_values` was given; ValueError for a key that YAML has taken for something else than text."""
    if not isinstance(argument, dict) or not argument:
        raise ValueError('map_values: expects pairs, e.g. {"01": PARTICULIER}')
    for key, value in argument.items():
        if not isinstance(key, str):
            raise ValueError(f"map_values: put {key!r} into quotes: it must be the text of the file")
        if value is not None and not isinstance(value, str | int):
            raise ValueError(f"map_values: put the value of {key!r} into quotes")
    return {key: None if value is None else str(value) for key, value in argument.items()}


def _map_value(text: str | None, *, values: Mapping[str, str | None]) -> str | None:
    return values.get(text or "", text)


def _on_text(change: Callable[[str], str]) -> Transform:
    return lambda text: None if text is None else change(text)


def with_country(steps: Iterable[Any], country: str) -> list[Any]:
    """The same steps, `parse_phone` saying which country's numbers are meant."""
    return [{"parse_phone": country} if step == "parse_phone" else step for step in steps]


def compile_transformations(steps: Iterable[Any]) -> Transform | None:
    """One function for a list of steps (`trim`, `{map_values: {…}}`, …); None when no value changes.

    ValueError names a step that is none.
    """
    made: list[Transform] = []
    for step in steps:
        name, argument = next(iter(step.items())) if isinstance(step, dict) and len(step) == 1 else (step, None)
        if not isinstance(name, str):
            raise ValueError(f"no transformation {step!r} (known: {', '.join(KNOWN)})")
        if name in PLAIN and argument is None:
            made.append(_on_text(PLAIN[name]))
        elif name == "parse_phone" and isinstance(argument, str) and re.fullmatch("[A-Z]{2}", argument):
            made.append(_on_text(partial(_parse_phone, country=argument)))
        elif name == "parse_date" and argument is not None:
            made.append(_on_text(partial(_parse_date, patterns=_date_patterns(argument))))
        elif name == "map_values" and argument is not None:
            made.append(partial(_map_value, values=_values_map(argument)))
        elif name == "empty_to_zero" and argument is None:
            made.append(lambda text: text if text and text.strip() else "0")
        elif name != SPLIT_NAME or argument is not None:
            raise ValueError(f"no transformation {step!r} (known: {', '.join(KNOWN)})")
    if not made:
        return None

    def apply(text: str | None) -> str | None:
        for transform in made:
            text = transform(text) or None
        return text

    return apply


def split_name(text: str) -> tuple[str, str]:
    """A full name as (last name, first name), without its title.

    A comma ends the last name; else words in capitals are the last name; else the last word is, with the particles
    before it. All in capitals: offices write the last name first.
    """
    last, comma, first = text.partition(",")
    if comma and last.strip() and first.strip():
        return " ".join(last.split()), " ".join(_untitled(first.split()))
    words = _untitled(text.replace(",", " ").split())
    if len(words) < 2:
        return " ".join(words), ""
    is_capital = [word.isupper() and len(word) > 1 for word in words]
    if all(is_capital):
        return words[0], " ".join(words[1:])
    if any(is_capital):
        pairs = list(zip(words, is_capital, strict=True))
        return " ".join(w for w, capital in pairs if capital), " ".join(w for w, capital in pairs if not capital)
    start = len(words) - 1
    while start > 1 and words[start - 1].lower() in _PARTICLES:
        start -= 1
    return " ".join(words[start:]), " ".join(words[:start])


def _untitled(words: list[str]) -> list[str]:
    """Without `M.`, `Mme`, `M. et Mme` at the front."""
    kept = list(words)
    while len(kept) > 1 and (kept[0].lower().rstrip(".") in _TITLES or (kept is not words and kept[0] in ("et", "&"))):
        kept = kept[1:]
    return kept


def name_part(text: str | None, *, position: int) -> str | None:
    """The last name (0) or the first name (1) of a full name, None when it has none."""
    return split_name(text)[position] or None if text else None
