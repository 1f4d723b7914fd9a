"""Sales against last year, with known answers, and the interval of the year's end on simulated estates."""

from __future__ import annotations

from datetime import date
from typing import Any

import numpy as np
import pandas as pd
import pytest

from crm_assets.logic import sales

AS_OF = date(2025, 10, 13)


def days(*rows: tuple[str, float]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["day", "amount_ht"]).assign(day=lambda frame: pd.to_datetime(frame["day"]))


def orders(*rows: tuple[str, int, float]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["day", "orders", "amount_ht"])
    return frame.assign(day=pd.to_datetime(frame["day"]))


def told(revenue: pd.DataFrame, ordered: pd.DataFrame | None = None, as_of: date = AS_OF, **given: Any) -> sales.Sales:
    asked = {"since": date(2025, 10, 6), "level": 0.8, "min_years": 2, "min_share": 0.1, **given}
    return sales.of_days(revenue, orders() if ordered is None else ordered, as_of, **asked)


def every_day(first: str, last: str, amount: float = 1.0) -> pd.DataFrame:
    return pd.DataFrame({"day": pd.date_range(first, last), "amount_ht": amount})


def test_spans_end_with_the_day_and_are_compared_with_the_same_ones_a_year_before() -> None:
    found = told(every_day("2023-01-01", "2025-12-31"), orders(("2025-10-08", 2, 30.0), ("2024-10-09", 1, 10.0)))
    assert (found.week.now.first, found.week.now.last) == (date(2025, 10, 7), AS_OF)
    assert found.week.before is not None
    assert (found.week.before.first.weekday(), found.week.before.amount) == (found.week.now.first.weekday(), 7)
    assert (found.week.now.orders, found.week.now.average_order_value) == (2, 15.0)
    assert found.month.now.amount == 13
    assert found.rolling.before is not None
    assert (found.rolling.now.amount, found.rolling.before.amount) == (365, 366)
    assert found.rolling.change == pytest.approx(365 / 366 - 1)
    assert found.year.before is not None
    assert (found.year.now.amount, found.year.before.amount) == (286, 287)


def test_the_month_that_is_not_over_is_compared_up_to_the_same_day() -> None:
    months = told(every_day("2023-01-01", "2025-12-31")).months
    assert months["month"].iloc[0] == date(2024, 11, 1)
    last = months.iloc[-1]
    assert (last["month"], last["amount"], last["amount_before"], last["is_partial"]) == (
        date(2025, 10, 1),
        13,
        13,
        True,
    )
    september = months.iloc[-2]
    assert (september["amount"], september["amount_before"], september["is_partial"]) == (30, 30, False)
    february = months[months["month"] == date(2025, 2, 1)].iloc[0]
    assert (february["amount"], february["amount_before"]) == (28, 29)


def test_what_lies_after_the_day_counts_nowhere() -> None:
    found = told(every_day("2023-01-01", "2025-12-31"))
    assert found.years.set_index("year")["amount"].to_dict() == {2023: 365, 2024: 366, 2025: 286}
    assert found.trend["amount"].iloc[-1] == 365


def test_a_history_that_does_not_reach_back_is_not_compared() -> None:
    found = told(every_day("2025-03-01", "2025-10-13"))
    assert found.rolling.before is None
    assert found.rolling.change is None
    assert found.week.before is None
    assert found.months["amount_before"].isna().all()
    assert found.trend.empty
    assert found.seasons.empty
    assert (found.projection, found.no_projection) == (None, "FEW_YEARS")


def test_the_leap_day_has_its_like() -> None:
    found = told(every_day("2022-01-01", "2024-02-29"), as_of=date(2024, 2, 29), since=date(2024, 2, 22))
    assert found.year.before is not None
    assert (found.year.now.amount, found.year.before.amount) == (60, 59)
    assert found.month.before is not None
    assert (found.month.now.amount, found.month.before.amount) == (29, 28)


def test_the_end_of_february_stays_one_after_a_leap_year() -> None:
    """As in kpis.monthly_sales, which the page is held against: twelve whole months, not a day more."""
    found = told(every_day("2023-01-01", "2025-02-28"), as_of=date(2025, 2, 28), since=date(2025, 2, 21))
    assert found.rolling.before is not None
    assert (found.rolling.now.amount, found.rolling.before.amount) == (365, 366)
    assert found.month.before is not None
    assert (found.month.now.amount, found.month.before.amount) == (28, 29)
    assert found.trend["amount"].iloc[-1] == 365


def test_a_history_that_begins_late_in_a_month_or_a_week_is_not_held_against_it() -> None:
    late = told(every_day("2024-10-09", "2025-10-13"))
    assert late.month.before is None
    assert late.months["amount_before"].notna().sum() == 0
    assert told(every_day("2024-10-13", "2025-10-13")).week.before is None
    assert told(every_day("2024-10-03", "2025-10-13")).month.before is not None


def test_no_sale_at_all() -> None:
    found = told(days())
    assert found.first_day is None
    assert found.rolling.now.amount == 0
    assert found.rolling.now.average_order_value is None
    assert len(found.months) == 12
    assert found.years.empty
    assert found.no_projection == "FEW_YEARS"


def test_seasons_are_the_mean_shares_of_the_complete_years() -> None:
    found = told(
        days(("2023-01-05", 30), ("2023-12-05", 70), ("2024-01-05", 50), ("2024-12-05", 50), ("2025-01-05", 1))
    )
    assert found.seasons.iloc[0].tolist() == [1, pytest.approx(0.4), pytest.approx(0.3), pytest.approx(0.5)]
    assert found.seasons["share"].sum() == pytest.approx(1)


def years(*rows: tuple[int, float, float, bool]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["year", "amount", "to_date", "is_complete"])


def test_the_projection_is_the_chain_ladders() -> None:
    """By hand: f = 320/200 = 1.6; σ² = 100(1.7-1.6)² + 100(1.5-1.6)² = 2; s.e. = √(2(150 + 150²/200)) = √525."""
    past = years((2023, 170, 100, True), (2024, 150, 100, True), (2025, 150, 150, False))
    found = sales.projection(past, AS_OF, 0.8, 2, 0.1)
    assert isinstance(found, sales.Projection)
    assert (found.to_date, found.factor, found.expected, found.years) == (150, 1.6, 240, 2)
    reach = 3.0776835 * np.sqrt(525)  # Student's t, one degree of freedom, 90 %
    assert (found.low, found.high) == (pytest.approx(240 - reach, abs=0.01), pytest.approx(240 + reach, abs=0.01))


def test_what_has_been_sold_is_sold() -> None:
    wild = years((2023, 900, 100, True), (2024, 150, 100, True), (2025, 150, 150, False))
    found = sales.projection(wild, AS_OF, 0.8, 2, 0.1)
    assert isinstance(found, sales.Projection)
    assert found.low == found.to_date


@pytest.mark.parametrize(
    ("past", "reason"),
    [
        (years((2024, 150, 100, True), (2025, 150, 150, False)), "FEW_YEARS"),
        (years((2023, 150, 100, False), (2024, 150, 100, True), (2025, 150, 150, False)), "FEW_YEARS"),
        (years((2023, 1000, 90, True), (2024, 1000, 90, True), (2025, 90, 90, False)), "TOO_EARLY"),
        (years((2023, 1000, 500, True), (2024, 1000, 500, True), (2025, 0, 0, False)), "TOO_EARLY"),
        (years((2023, 1000, 500, True), (2024, 1000, 500, True)), "TOO_EARLY"),
    ],
)
def test_a_projection_that_cannot_be_made_says_why(past: pd.DataFrame, reason: str) -> None:
    assert sales.projection(past, AS_OF, 0.8, 2, 0.1) == reason


def test_a_tenth_of_a_year_is_enough() -> None:
    exactly = years((2023, 1000, 100, True), (2024, 1000, 100, True), (2025, 100, 100, False))
    assert isinstance(sales.projection(exactly, AS_OF, 0.8, 2, 0.1), sales.Projection)


@pytest.mark.parametrize("n_years", [2, 5])
def test_the_interval_holds_what_it_says(n_years: int) -> None:
    """Estates whose year from this day on grows as the method assumes: eight ends in ten fall inside."""
    draw = np.random.default_rng(20251013)
    inside, estates = 0, 300
    for _ in range(estates):
        begun = draw.uniform(60_000, 140_000, n_years + 1)
        ends = begun * 1.4 + draw.normal(0, 25 * np.sqrt(begun))
        rows = [(2025 - n_years + i, ends[i], begun[i], i < n_years) for i in range(n_years + 1)]
        found = sales.projection(years(*rows), AS_OF, 0.8, 2, 0.1)
        assert isinstance(found, sales.Projection)
        inside += found.low <= ends[-1] <= found.high
    assert 0.76 <= inside / estates <= 0.84


def test_the_order_of_rows_decides_nothing() -> None:
    draw = np.random.default_rng(1)
    revenue = every_day("2022-01-01", "2025-10-13").assign(
        amount_ht=lambda f: draw.gamma(0.5, 321.123, len(f)).round(2)
    )
    one = told(revenue)
    other = told(revenue.sample(frac=1, random_state=2))
    assert one.projection == other.projection
    assert one.rolling == other.rolling
    pd.testing.assert_frame_equal(one.months, other.months)
    pd.testing.assert_frame_equal(one.trend, other.trend)
