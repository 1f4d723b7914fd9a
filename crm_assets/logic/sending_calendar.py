"""When messages may leave: the estate's window of the week, public holidays, its own closed days, and the last order
dates of feasts (spec.md §8).

Pure: the moment is an argument. Times are compared where the estate is, so that a change to or from summer time moves
nothing. Who asks and what then happens is in `crm_assets/safeguards.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, time, timedelta
from functools import lru_cache
from typing import Literal
from zoneinfo import ZoneInfo

from dateutil.easter import easter

from crm_assets.rules import BusinessRules, SendingCalendar
from crm_assets.tenants import DateRange

Blackout = Sequence[date | DateRange]
Feast = Literal["christmas", "easter"]
OUTSIDE_WINDOW, CLOSED_DAY = "OUTSIDE_WINDOW", "CLOSED_DAY"
# Of the package `holidays`: Alsace and Moselle keep Good Friday and 26 December, the rest of France does not.
_ALSACE_MOSELLE = ("6AE", "57")
_LONGEST_CLOSURE = 366 * 2  # days looked ahead for an opening


@lru_cache(maxsize=64)
def public_holidays(country: str, year: int, alsace_moselle: bool) -> frozenset[date]:
    """The public holidays of a year; none for a country that the package `holidays` does not know."""
    import holidays

    if country not in holidays.list_supported_countries():
        return frozenset()
    regions: tuple[str | None, ...] = _ALSACE_MOSELLE if country == "FR" and alsace_moselle else (None,)
    return frozenset(day for region in regions for day in holidays.country_holidays(country, region, years=year))


def is_closed_day(day: date, rules: BusinessRules, blackout: Blackout, country: str) -> bool:
    """Whether nothing leaves on that day: no weekday of the window, a public holiday, or a day of the estate's own."""
    window, calendar = rules.activation.window, rules.activation.calendar
    if day.isoweekday() not in window.weekdays:
        return True
    if calendar.public_holidays and day in public_holidays(country, day.year, calendar.alsace_moselle):
        return True
    return any(each.first <= day <= each.last if isinstance(each, DateRange) else each == day for each in blackout)


def closed_reason(now: datetime, zone: ZoneInfo, rules: BusinessRules, blackout: Blackout, country: str) -> str | None:
    """CLOSED_DAY, OUTSIDE_WINDOW (the hour), or None: messages may leave at `now`."""
    window, local = rules.activation.window, now.astimezone(zone)
    if is_closed_day(local.date(), rules, blackout, country):
        return CLOSED_DAY
    if not time.fromisoformat(window.opens) <= local.time() < time.fromisoformat(window.closes):
        return OUTSIDE_WINDOW
    return None


def next_opening(now: datetime, zone: ZoneInfo, rules: BusinessRules, blackout: Blackout, country: str) -> datetime:
    """The first moment from `now` on at which messages may leave, with the zone of `now`; `now` itself when they may.

    ValueError when the calendar leaves no day open for two years.
    """
    if closed_reason(now, zone, rules, blackout, country) is None:
        return now
    today = now.astimezone(zone).date()
    for ahead in range(_LONGEST_CLOSURE):
        day = today + timedelta(days=ahead)
        opens = datetime.combine(day, time.fromisoformat(rules.activation.window.opens), zone)
        if opens >= now and not is_closed_day(day, rules, blackout, country):
            return opens.astimezone(now.tzinfo)
    raise ValueError("window and calendar leave no day on which anything may be sent")


def last_order_day(feast: Feast, day: date, calendar: SendingCalendar) -> date:
    """The last day on which a message about the next such feast may leave, as seen from `day`.

    Between the last order day and the feast it lies in the past; once the feast is over, the next year's counts.
    """
    if feast == "christmas":
        month, of_month = map(int, calendar.christmas_last_order.split("-"))
        year = day.year if day <= date(day.year, 12, 25) else day.year + 1
        return date(year, month, of_month)
    year = day.year if day <= easter(day.year) else day.year + 1
    return easter(year) - timedelta(days=calendar.easter_last_order_days)
