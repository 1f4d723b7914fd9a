"""Sales against last year: twelve months against the twelve before, the seasons, and where the year will end.

All from sums per day, as of a day. No database, no wording, no drawing here.

The projection of the year is the chain-ladder estimate of one step: what stood on this day, times how much past
years grew from the same day to their end. Its interval is Mack's distribution-free standard error (T. Mack,
"Distribution-free calculation of the standard error of chain ladder reserve estimates", ASTIN Bulletin 23, 1993,
213-225), with Student's t for the few years there are, as in the regression through the origin that the method is.
"""

from __future__ import annotations

from calendar import monthrange
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Literal

import numpy as np
import pandas as pd

# Same weekdays a year before.
_YEAR_OF_WEEKS = timedelta(days=364)
# A history that begins this many days into a span still covers it: nobody sells on the first of January. Of a short
# span at most this part, or a month would be held against its last day.
_LATE_START, _LATE_PART = timedelta(days=31), 4

NoProjection = Literal["FEW_YEARS", "TOO_EARLY"]


@dataclass(frozen=True)
class Span:
    """Sales from `first` to `last`, both included: revenue EUR HT, qualifying orders and what those were worth."""

    first: date
    last: date
    amount: float
    orders: int
    order_amount: float

    @property
    def average_order_value(self) -> float | None:
        return self.order_amount / self.orders if self.orders else None


@dataclass(frozen=True)
class Comparison:
    """A span and the same one a year before; `before` is None where the history does not reach back so far."""

    now: Span
    before: Span | None

    @property
    def change(self) -> float | None:
        """Relative change of the revenue, 0.1 = a tenth more; None without anything to compare with."""
        if self.before is None or self.before.amount <= 0:
            return None
        return self.now.amount / self.before.amount - 1


@dataclass(frozen=True)
class Projection:
    """Where the year will end: `expected` EUR HT, between `low` and `high` with probability `level`.

    `to_date`: what the year has brought so far; `factor`: what past years grew by from the same day on; `years`:
    how many complete ones there are.
    """

    year: int
    to_date: float
    factor: float
    expected: float
    low: float
    high: float
    level: float
    years: int


@dataclass(frozen=True)
class Sales:
    """What the report says of sales.

    `week`: since the last report, against the same weekdays a year before; `month`, `year`: to date, against the
    same days a year before; `rolling`: twelve months, against the twelve before. `months`: the twelve that end
    with this day's, `month` (its first day), `amount`, `amount_before` (null: no history), `orders`,
    `orders_before`, `is_partial` (both sides up to this day). `trend`: `day` (a month's end, at last this day) and
    `amount` of the twelve months up to it. `seasons`: `month` 1..12, `share` of a year (mean over the complete
    ones), `low` and `high` among them; empty without one. `years`: `year`, `amount`, `to_date` (up to the same day
    of it), `is_complete`. `projection`, or the reason `no_projection`; it needs `min_years` complete years and
    `min_share` of a year's revenue to be past.
    """

    as_of: date
    first_day: date | None
    week: Comparison
    month: Comparison
    year: Comparison
    rolling: Comparison
    months: pd.DataFrame
    trend: pd.DataFrame
    seasons: pd.DataFrame
    years: pd.DataFrame
    projection: Projection | None
    no_projection: NoProjection | None
    min_years: int
    min_share: float


def same_day(day: date, year: int) -> date:
    """The day of another year; the end of February stays one, as in kpis.monthly_sales: 28 or 29."""
    if day.month == 2 and day.day == monthrange(day.year, 2)[1]:
        return date(year, 2, monthrange(year, 2)[1])
    return day.replace(year=year)


class _Days:
    """Sums over spans of days, from cumulated ones."""

    def __init__(self, revenue: pd.DataFrame, orders: pd.DataFrame, as_of: date) -> None:
        self.revenue = self._series(revenue, "amount_ht", as_of)
        self.orders = self._series(orders, "orders", as_of)
        self.order_amount = self._series(orders, "amount_ht", as_of)
        known = self.revenue[self.revenue != 0]
        self.first_day: date | None = None if known.empty else known.index[0].date()

    @staticmethod
    def _series(frame: pd.DataFrame, column: str, as_of: date) -> pd.Series:
        days = pd.to_datetime(frame["day"])
        values = pd.Series(frame[column].to_numpy(dtype=float), index=pd.DatetimeIndex(days))
        return values[values.index <= pd.Timestamp(as_of)].groupby(level=0).sum().sort_index()

    def amount(self, first: date, last: date) -> float:
        return float(self.revenue.loc[pd.Timestamp(first) : pd.Timestamp(last)].sum())

    def span(self, first: date, last: date) -> Span:
        bounds = slice(pd.Timestamp(first), pd.Timestamp(last))
        return Span(
            first,
            last,
            round(self.amount(first, last), 2),
            int(self.orders.loc[bounds].sum()),
            round(float(self.order_amount.loc[bounds].sum()), 2),
        )

    def covers(self, first: date, last: date) -> bool:
        """Whether the history begins before, or early enough in, the span."""
        start = first + min(_LATE_START, (last - first) / _LATE_PART)
        return self.first_day is not None and self.first_day <= start

    def against(self, now: tuple[date, date], before: tuple[date, date]) -> Comparison:
        return Comparison(self.span(*now), self.span(*before) if self.covers(*before) else None)


def _months(days: _Days, as_of: date) -> pd.DataFrame:
    rows = []
    for start in pd.date_range(end=as_of.replace(day=1), periods=12, freq="MS"):
        end = (start + pd.offsets.MonthEnd(0)).date()
        first, last = start.date(), min(end, as_of)
        ago = same_day(first, first.year - 1)
        whole_before = (pd.Timestamp(ago) + pd.offsets.MonthEnd(0)).date()
        compared = days.against((first, last), (ago, same_day(last, last.year - 1) if last < end else whole_before))
        rows.append(
            {
                "month": first,
                "amount": compared.now.amount,
                "amount_before": compared.before.amount if compared.before else np.nan,
                "orders": compared.now.orders,
                "orders_before": compared.before.orders if compared.before else np.nan,
                "is_partial": last < end,
            }
        )
    return pd.DataFrame(rows)


def _trend(days: _Days, as_of: date, points: int = 25) -> pd.DataFrame:
    ends = [day.date() for day in pd.date_range(end=as_of, periods=points - 1, freq="ME")]
    ends += [as_of] if not ends or ends[-1] != as_of else []
    rows = []
    for end in ends[-points:]:
        first = same_day(end, end.year - 1) + timedelta(days=1)
        if days.covers(first, end):
            rows.append((end, round(days.amount(first, end), 2)))
    return pd.DataFrame(rows, columns=["day", "amount"])


def _years(days: _Days, as_of: date) -> pd.DataFrame:
    columns = ["year", "amount", "to_date", "is_complete"]
    if days.first_day is None:
        return pd.DataFrame(columns=columns)
    rows = []
    for year in range(days.first_day.year, as_of.year + 1):
        first, last = date(year, 1, 1), date(year, 12, 31)
        to_date = days.amount(first, same_day(as_of, year))
        complete = last <= as_of and days.first_day <= first + _LATE_START
        rows.append((year, round(days.amount(first, last), 2), round(to_date, 2), complete))
    return pd.DataFrame(rows, columns=columns)


def _seasons(days: _Days, years: pd.DataFrame) -> pd.DataFrame:
    shares = []
    for year, amount in years.loc[years["is_complete"] & (years["amount"] > 0), ["year", "amount"]].itertuples(
        index=False
    ):
        starts = pd.date_range(f"{year}-01-01", periods=12, freq="MS")
        shares.append([days.amount(day.date(), (day + pd.offsets.MonthEnd(0)).date()) / amount for day in starts])
    columns = ["month", "share", "low", "high"]
    if not shares:
        return pd.DataFrame(columns=columns)
    table = np.round(np.array(shares), 6)
    return pd.DataFrame(
        dict(zip(columns, (range(1, 13), table.mean(axis=0), table.min(axis=0), table.max(axis=0)), strict=True))
    )


def projection(
    years: pd.DataFrame, as_of: date, level: float, min_years: int, min_share: float
) -> Projection | NoProjection:
    """Where the year of `as_of` will end, from `years` as in `Sales`; or why that cannot be said.

    With revenues to date Y_i and totals T_i of n complete past years: f = ΣT / ΣY, σ² = Σ Y_i (T_i/Y_i - f)² / (n - 1),
    expected = Y f, standard error σ √(Y + Y² / ΣY), times Student's t with n - 1 degrees of freedom (Mack 1993).
    """
    from scipy import special

    past = years[years["is_complete"].astype(bool) & (years["year"] < as_of.year)]
    if len(past) < min_years:
        return "FEW_YEARS"
    this = years.loc[years["year"] == as_of.year, "to_date"]
    to_date = float(this.iloc[0]) if len(this) else 0.0
    begun, totals = past["to_date"].to_numpy(dtype=float), past["amount"].to_numpy(dtype=float)
    if to_date <= 0 or (begun <= 0).any() or begun.sum() < min_share * totals.sum():
        return "TOO_EARLY"
    factor = totals.sum() / begun.sum()
    variance = float((begun * (totals / begun - factor) ** 2).sum() / (len(past) - 1))
    error = np.sqrt(variance * (to_date + to_date**2 / begun.sum()))
    reach = float(special.stdtrit(len(past) - 1, (1 + level) / 2) * error)
    expected = to_date * factor
    # What has been sold is sold.
    low = max(expected - reach, min(to_date, expected))
    return Projection(
        as_of.year,
        round(to_date, 2),
        round(float(factor), 6),
        round(expected, 2),
        round(low, 2),
        round(expected + reach, 2),
        level,
        len(past),
    )


def of_days(
    revenue: pd.DataFrame,
    orders: pd.DataFrame,
    as_of: date,
    since: date,
    *,
    level: float,
    min_years: int,
    min_share: float,
) -> Sales:
    """What the report says of sales as of `as_of`, from sums per day.

    `revenue`: day, amount_ht of all counted lines; `orders`: day, orders, amount_ht of the qualifying ones, by
    order date; in any order. `since`: the last day that the report before this one has told of. The others are
    `rules.reports`.
    """
    days = _Days(revenue, orders, as_of)
    after = since + timedelta(days=1)
    month, year = as_of.replace(day=1), as_of.replace(month=1, day=1)
    ago = same_day(as_of, as_of.year - 1)
    further = same_day(as_of, as_of.year - 2)
    years = _years(days, as_of)
    projected = projection(years, as_of, level, min_years, min_share)
    return Sales(
        as_of=as_of,
        first_day=days.first_day,
        week=days.against((after, as_of), (after - _YEAR_OF_WEEKS, as_of - _YEAR_OF_WEEKS)),
        month=days.against((month, as_of), (ago.replace(day=1), ago)),
        year=days.against((year, as_of), (ago.replace(month=1, day=1), ago)),
        rolling=days.against((ago + timedelta(days=1), as_of), (further + timedelta(days=1), ago)),
        months=_months(days, as_of),
        trend=_trend(days, as_of),
        seasons=_seasons(days, years),
        years=years,
        projection=None if isinstance(projected, str) else projected,
        no_projection=projected if isinstance(projected, str) else None,
        min_years=min_years,
        min_share=min_share,
    )
