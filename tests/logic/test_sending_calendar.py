"""When messages may leave: by the clock where the estate is, its public holidays, its own days and the feasts."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from crm_assets.logic import sending_calendar
from crm_assets.logic.sending_calendar import Blackout, last_order_day, public_holidays
from crm_assets.rules import load
from crm_assets.tenants import DateRange

RULES = load()
PARIS = ZoneInfo("Europe/Paris")


def local(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=PARIS).astimezone(UTC)


def reason(at: datetime, blackout: Blackout = (), country: str = "FR") -> str | None:
    return sending_calendar.closed_reason(at, PARIS, RULES, blackout, country)


def opening(at: datetime, blackout: Blackout = (), country: str = "FR") -> str:
    found = sending_calendar.next_opening(at, PARIS, RULES, blackout, country)
    assert found.tzinfo is at.tzinfo
    return found.astimezone(PARIS).strftime("%a %m-%d %H:%M")


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        ("2026-11-24T08:59:59", "OUTSIDE_WINDOW"),  # a Tuesday
        ("2026-11-24T09:00", None),
        ("2026-11-24T18:59:59", None),
        ("2026-11-24T19:00", "OUTSIDE_WINDOW"),
        ("2026-11-28T12:00", None),  # Saturday
        ("2026-11-29T12:00", "CLOSED_DAY"),  # Sunday
        ("2026-11-30T12:00", "CLOSED_DAY"),  # Monday
    ],
)
def test_tuesday_to_saturday_nine_to_seven_by_the_estates_clock(moment: str, expected: str | None) -> None:
    assert reason(local(moment)) == expected


def test_the_window_opens_at_nine_before_and_after_the_clocks_change() -> None:
    # Clocks go forward on Sunday 2026-03-29, back on Sunday 2026-10-25.
    for friday, utc_hour in (("2026-03-27", 8), ("2026-03-31", 7), ("2026-10-23", 7), ("2026-10-27", 8)):
        opens = sending_calendar.next_opening(local(f"{friday}T00:30"), PARIS, RULES, (), "FR")
        assert (opens.hour, opens.minute) == (utc_hour, 0), friday
    assert opening(local("2026-03-28T20:00")) == "Tue 03-31 09:00"
    assert opening(local("2026-10-24T20:00")) == "Tue 10-27 09:00"


def test_an_open_moment_is_its_own_opening() -> None:
    now = local("2026-11-24T10:00")
    assert sending_calendar.next_opening(now, PARIS, RULES, (), "FR") == now
    assert opening(local("2026-11-24T06:00")) == "Tue 11-24 09:00"
    assert opening(local("2026-11-24T19:00")) == "Wed 11-25 09:00"


def test_alsace_moselle_keeps_good_friday_and_the_second_day_of_christmas() -> None:
    good_friday, boxing_day = date(2026, 4, 3), date(2026, 12, 26)
    assert {good_friday, boxing_day} == public_holidays("FR", 2026, True) - public_holidays("FR", 2026, False)
    assert reason(local("2026-04-03T12:00")) == "CLOSED_DAY"
    assert reason(local("2026-12-26T12:00")) == "CLOSED_DAY"  # a Saturday
    elsewhere = load({"activation": {"calendar": {"alsace_moselle": False}}})
    at = local("2026-04-03T12:00")
    assert sending_calendar.closed_reason(at, PARIS, elsewhere, (), "FR") is None


def test_public_holidays_are_the_countrys() -> None:
    assert reason(local("2026-07-14T12:00")) == "CLOSED_DAY"
    assert reason(local("2026-07-14T12:00"), country="DE") is None
    assert reason(local("2026-10-03T12:00"), country="DE") == "CLOSED_DAY"
    assert public_holidays("XX", 2026, True) == frozenset(), "a country nobody knows has its window only"
    without = load({"activation": {"calendar": {"public_holidays": False}}})
    assert sending_calendar.closed_reason(local("2026-07-14T12:00"), PARIS, without, (), "FR") is None


def test_christmas_is_skipped_with_the_sunday_and_monday_after_it() -> None:
    assert opening(local("2026-12-24T19:30")) == "Tue 12-29 09:00"


def test_the_estates_own_days_are_closed() -> None:
    harvest = [date(2026, 9, 1), DateRange(first=date(2026, 9, 8), last=date(2026, 9, 12))]
    assert reason(local("2026-09-01T12:00"), harvest) == "CLOSED_DAY"
    assert opening(local("2026-09-01T12:00"), harvest) == "Wed 09-02 09:00"
    assert opening(local("2026-09-05T19:00"), harvest) == "Tue 09-15 09:00"
    ever = [DateRange(first=date(2026, 1, 1), last=date(2040, 1, 1))]
    with pytest.raises(ValueError, match="no day"):
        opening(local("2026-09-01T12:00"), ever)


def test_last_order_days_belong_to_the_next_feast() -> None:
    calendar = RULES.activation.calendar
    assert last_order_day("christmas", date(2026, 11, 22), calendar) == date(2026, 12, 16)
    assert last_order_day("christmas", date(2026, 12, 20), calendar) == date(2026, 12, 16), "it is over"
    assert last_order_day("christmas", date(2026, 12, 26), calendar) == date(2027, 12, 16)
    easter_sunday = date(2026, 4, 5)
    last = easter_sunday - timedelta(days=calendar.easter_last_order_days)
    assert {last_order_day("easter", day, calendar) for day in (date(2026, 1, 2), easter_sunday)} == {last}
    assert last_order_day("easter", date(2026, 4, 6), calendar).year == 2027
