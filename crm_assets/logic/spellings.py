"""How people write numbers and dates (spec.md §2.2): what a text means, and what it proves about its file.

The same forms as the macros `parse_number` and `parse_date` of the dbt project read, which type the values; a test
runs both over one table of texts. Nothing is corrected here, and no file or column is known.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Literal

DateOrder = Literal["dmy", "mdy"]

# --- numbers

_INVISIBLE = dict.fromkeys(map(ord, "\u00ad\u200b\u200c\u200d\u200e\u200f\u2060\ufeff"))
_SPACES = {
    **dict.fromkeys(map(ord, "\u00a0\u2007\u2009\u202f"), " "), ord("\u2019"): "'", ord("\u2212"): "-", **_INVISIBLE
}  # fmt: skip
_CURRENCY_AFTER = re.compile(r"([0-9.,)])\s*(?:€|EUR(?:OS?)?)\s*(\)?)$", re.IGNORECASE)
_CURRENCY_BEFORE = re.compile(r"^([-+(]?)\s*(?:(?:€|EUR(?:OS?)?)\s*)?(?=[-(0-9.,])", re.IGNORECASE)
_PLAIN = re.compile(r"[0-9]+")
_GROUPED_BY_SPACE = re.compile(r"[0-9]{1,3}(?: +[0-9]{3}|'[0-9]{3})+(?:([.,])[0-9]+)?")
_GROUPED_BY_MARK = re.compile(r"[0-9]{1,3}(?:(?:\.[0-9]{3})+(,)[0-9]+|(?:,[0-9]{3})+(\.)[0-9]+)")
_GROUPED_OFTEN = re.compile(r"[0-9]{1,3}(?:(?:(\.)[0-9]{3}){2,}|(?:(,)[0-9]{3}){2,})")
_ONE_MARK = re.compile(r"[0-9]*([.,])[0-9]+")
_COULD_GROUP = re.compile(r"[1-9][0-9]{0,2}[.,][0-9]{3}")
_LONGEST_NUMBER = 60


@dataclass(frozen=True)
class NumberText:
    """A number as it was written, and what it proves about the file's style."""

    digits: str  # sign, digits, separators; grouping spaces gone
    proves: str | None  # ',' or '.': this text can only be read with that decimal separator

    @property
    def value(self) -> float:
        """Its value; a lone separator that proves nothing is taken for the decimal one."""
        return float(self.exact(None)) if self.digits else float("nan")

    def exact(self, decimal_separator: str | None) -> Decimal:
        """Its value in a file of that style; None: no value of the file proves one, a lone mark is decimal."""
        mark = self.proves
        if mark is None:
            alone = next((m for m in ",." if m in self.digits), None)
            mark = decimal_separator if alone and decimal_separator else alone
        other = "." if mark == "," else ","
        digits = self.digits.replace(other, "") if mark else self.digits
        return Decimal(digits.replace(mark, ".") if mark else digits)


@lru_cache(maxsize=1 << 16)
def read_number(text: str) -> NumberText | None:
    """A number in one of the spellings of spec.md §2.2, or None when it is none."""
    core = text.translate(_SPACES).strip(" \t\r\n")
    core = _CURRENCY_BEFORE.sub(r"\1", _CURRENCY_AFTER.sub(r"\1\2", core))
    if core.startswith("(") and core.endswith(")"):
        core = f"-{core[1:-1].rstrip()}"
    sign = "-" if core.startswith("-") else ""
    core = core[1:] if core.startswith(("-", "+")) else core
    if len(core) > _LONGEST_NUMBER:
        return None
    if _PLAIN.fullmatch(core):
        return NumberText(sign + core, None)
    if found := _GROUPED_BY_SPACE.fullmatch(core):
        return NumberText(sign + core.replace(" ", "").replace("'", ""), found[1])
    if found := _GROUPED_BY_MARK.fullmatch(core):
        return NumberText(sign + core, found[1] or found[2])
    if found := _GROUPED_OFTEN.fullmatch(core):
        return NumberText(sign + core, "," if found[1] else ".")
    if found := _ONE_MARK.fullmatch(core):
        return NumberText(sign + core, None if _COULD_GROUP.fullmatch(core) else found[1])
    return None


# --- dates

_TIME = (
    r"[T ]+(?:[01]?[0-9]|2[0-3])[:hH./-][0-5][0-9](?:[:./-][0-5][0-9](?:[.,/-][0-9]+)?)?"
    r"(?: ?[AaPp][Mm])?(?: ?Z| ?[+-][0-9]{2}:?[0-9]{2})?"
)
# A date with a time of day; the first group is the date. For RE2, in which columns are searched.
DAY_AND_TIME = rf"^(.*[0-9]){_TIME}$"
_TIME_AT_END = re.compile(_TIME + "$")
_YEAR_FIRST = re.compile(r"([0-9]{4})([-/.])([0-9]{1,2})\2([0-9]{1,2})")
_YEAR_LAST = re.compile(r"([0-9]{1,2})([-/.])([0-9]{1,2})\2([0-9]{4}|[0-9]{2})")
_DIGITS = re.compile(r"([0-9]{4})([0-9]{2})([0-9]{2})")
_SERIAL = re.compile(r"([1-9][0-9]{4})(?:[.,][0-9]+)?")
_SERIAL_EPOCH = date(1899, 12, 30)
_YEARS = range(1900, 2200)  # outside of them a text is a slip of the pen
NO_DATES = frozenset({"00/00/0000", "0000-00-00"})  # how cellar software writes an empty date


@dataclass(frozen=True)
class DateText:
    """A date as it was written: (year, month, day) where the year came first, else (year, second, first)."""

    year: int
    month: int
    day: int
    year_first: bool

    def proves(self) -> DateOrder | None:
        """The order that alone makes sense of it."""
        if self.year_first or (self.day > 12) == (self.month > 12):
            return None
        return "dmy" if self.day > 12 else "mdy"

    def as_date(self, order: DateOrder) -> date | None:
        """The day it means, None when there is no such day."""
        if self.year not in _YEARS:
            return None
        if self.year_first or order == "dmy":
            return calendar_day(self.year, self.month, self.day)
        return calendar_day(self.year, self.day, self.month)


@lru_cache(maxsize=1 << 16)
def read_date(text: str, two_digit_year_pivot: int, is_spreadsheet: bool = False) -> DateText | None:
    """A date in one of the spellings of spec.md §2.2, or None; 30 February is still a DateText."""
    plain = _TIME_AT_END.sub("", " ".join(text.translate(_INVISIBLE).split()))
    if found := _YEAR_FIRST.fullmatch(plain):
        return DateText(int(found[1]), int(found[3]), int(found[4]), True)
    if found := _DIGITS.fullmatch(plain):
        return DateText(int(found[1]), int(found[2]), int(found[3]), True)
    if found := _YEAR_LAST.fullmatch(plain):
        return DateText(full_year(found[4], two_digit_year_pivot), int(found[3]), int(found[1]), False)
    if is_spreadsheet and (found := _SERIAL.fullmatch(plain)):
        day = _SERIAL_EPOCH + timedelta(days=int(found[1]))
        return DateText(day.year, day.month, day.day, True)
    return None


def full_year(text: str, pivot: int) -> int:
    """A year of two or four digits as four: up to `pivot` 20xx, above it 19xx."""
    year = int(text)
    return year if len(text) == 4 else year + (2000 if year <= pivot else 1900)


def calendar_day(year: int, month: int, day: int) -> date | None:
    """That day, None when the calendar has none."""
    try:
        return date(year, month, day)
    except ValueError:
        return None
