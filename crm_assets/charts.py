"""The charts of reports: matplotlib figures, the same bytes for the same figures, and in words what they show.

Text is drawn as outlines, so that a page needs no font; shapes differ in lightness and hatching, not in colour
alone. What is drawn is decided in `logic/reports.py` and `logic/sales.py`; wording stands in
`templates/report_<locale>.yaml`.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from datetime import date
from typing import TYPE_CHECKING, Any

import pandas as pd
from babel.dates import format_date

from crm_assets import rendering
from crm_assets.logic.sales import Sales

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Dark enough to be read on white (4.5:1, WCAG 2.2 §1.4.3): a test computes it.
INK, MUTED, WINE, STRAW_EDGE = "#2b2622", "#6b6258", "#7a2531", "#7d6225"
PAPER, STRAW, GRID = "#ffffff", "#ead9b0", "#e4ddd2"
TEXT_COLOURS = (INK, MUTED, WINE)
# The light: its edge, and the paper that its words stand on.
GO, GO_PAPER, STOP, STOP_PAPER = "#3b7d4f", "#eef6f0", "#a3333d", "#faeff0"

_STYLE: Any = {
    "svg.fonttype": "path",
    "svg.hashsalt": "crm",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid.axis": "y",
    "grid.color": GRID,
    "hatch.linewidth": 0.6,
    "path.simplify": True,
}
_WIDTH, _HEIGHT = 4.8, 2.9
PAST_YEARS = 4
_BEFORE: dict[str, Any] = {"color": STRAW, "edgecolor": STRAW_EDGE, "hatch": "////", "linewidth": 0.8}


def _figure(height: float = _HEIGHT) -> tuple[Figure, Axes]:
    """An empty figure without a display or pyplot's global state, narrow enough for a phone."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    return figure, figure.subplots()


def _euro_axis(axis: Any, locale: str) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: rendering.short_euros(value, locale)))


def _month(day: date, locale: str) -> str:
    return str(format_date(day, "LLL", locale=locale))


def _tick(day: date, locale: str) -> str:
    return str(format_date(day, "LLL yy", locale=locale))


def months(sales: Sales, locale: str) -> Figure:
    """The last twelve months beside the same months a year before."""
    words = rendering.texts(locale)["report"]["chart"]
    figure, axes = _figure()
    frame = sales.months
    places = range(len(frame))
    if frame["amount_before"].notna().any():
        axes.bar(
            [place - 0.21 for place in places], frame["amount_before"].fillna(0), 0.4, label=words["before"], **_BEFORE
        )
    axes.bar([place + 0.21 for place in places], frame["amount"], 0.4, color=WINE, label=words["now"])
    axes.set_xticks(list(places), [_month(day, locale) for day in frame["month"]], fontsize=7.5)
    axes.tick_params(axis="x", length=0)
    axes.grid(True, axis="y")
    axes.set_axisbelow(True)
    axes.axhline(0, color=MUTED, linewidth=0.8)
    _euro_axis(axes.yaxis, locale)
    figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=8.5)
    return figure


def trend(sales: Sales, locale: str) -> Figure:
    """The twelve months up to each month's end."""
    figure, axes = _figure()
    frame = sales.trend
    places = range(len(frame))
    axes.plot(places, frame["amount"], color=WINE, linewidth=2, marker="o", markersize=3)
    # Of a history too young for twelve months nothing is drawn; more may have been returned than sold.
    lowest, highest = (float(frame["amount"].agg(end)) if len(frame) else 0.0 for end in ("min", "max"))
    axes.set_ylim(min(lowest * 1.18, 0.0), max(highest * 1.18, 1.0))
    step = max(1, len(frame) // 5)
    shown = list(places)[::-1][::step][::-1]
    axes.set_xticks(shown, [_tick(frame["day"].iloc[place], locale) for place in shown], fontsize=8)
    axes.grid(True, axis="y")
    _euro_axis(axes.yaxis, locale)
    for place in {0, len(frame) - 1} if len(frame) else ():
        amount = float(frame["amount"].iloc[place])
        is_first = place == 0 and len(frame) > 1
        side = "left" if is_first else "right"
        axes.annotate(
            rendering.short_euros(amount, locale, digits=1),
            (place, amount),
            (0, -16 if is_first else 8),
            textcoords="offset points",
            ha=side,
            fontweight="bold",
        )
    return figure


def seasons(sales: Sales, locale: str) -> Figure:
    """What each month usually brings of a year, and between what this varied."""
    figure, axes = _figure()
    frame = sales.seasons
    places = range(len(frame))
    axes.bar(places, frame["share"], 0.66, **_BEFORE)
    # Of years alike, their mean may lie a last bit outside.
    below = (frame["share"] - frame["low"]).clip(lower=0)
    above = (frame["high"] - frame["share"]).clip(lower=0)
    axes.errorbar(
        places, frame["share"], yerr=[below, above], fmt="none", ecolor=INK, elinewidth=1.1, capsize=2.5, capthick=1.1
    )
    names = [_month(date(2001, int(month), 1), locale) for month in frame["month"]]
    axes.set_xticks(list(places), names, fontsize=7.5)
    axes.tick_params(axis="x", length=0)
    axes.grid(True, axis="y")
    axes.set_axisbelow(True)
    axes.yaxis.set_major_formatter(lambda value, _: rendering.percent(value, locale, 0))
    return figure


def year_end(sales: Sales, locale: str) -> Figure:
    """Past years whole, this one so far, and where it will end with its interval."""
    words = rendering.texts(locale)["report"]["chart"]
    projection = sales.projection
    past = sales.years[sales.years["is_complete"] & (sales.years["year"] < sales.as_of.year)].tail(PAST_YEARS)
    names = [str(year) for year in [*past["year"], sales.as_of.year]]
    this = len(past)
    figure, axes = _figure(0.9 + 0.42 * (len(past) + 1))
    largest = max([*past["amount"], projection.high if projection else sales.year.now.amount])
    axes.barh(range(this), past["amount"], 0.62, **_BEFORE)
    for place, amount in enumerate(past["amount"]):
        axes.text(amount + largest * 0.015, place, rendering.short_euros(amount, locale, digits=1), va="center")
    axes.barh([this], [sales.year.now.amount], 0.62, color=WINE, label=words["to_date"])
    if projection and projection.expected > projection.to_date:
        axes.errorbar(
            [projection.expected],
            [this],
            xerr=[[projection.expected - projection.low], [projection.high - projection.expected]],
            fmt="D",
            markersize=6,
            color=INK,
            markerfacecolor=PAPER,
            elinewidth=1.6,
            capsize=5,
            capthick=1.6,
            label=words["expected"],
        )
        said = rendering.short_euros(projection.expected, locale, digits=1)
        axes.text(projection.high + largest * 0.02, this, said, va="center", fontweight="bold")
    else:
        said = rendering.short_euros(sales.year.now.amount, locale, digits=1)
        axes.text(sales.year.now.amount + largest * 0.015, this, said, va="center", fontweight="bold")
    axes.set_yticks(range(this + 1), names)
    axes.set_xlim(0, largest * 1.2)
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    _euro_axis(axes.xaxis, locale)
    figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=8.5)
    return figure


def segments(counted: pd.DataFrame, locale: str) -> Figure:
    """Customers per RFM segment, and how many more or fewer than a week before."""
    names = rendering.texts(locale)["segment"]
    figure, axes = _figure(0.5 + 0.3 * len(counted))
    largest = max(1, int(counted["customers"].max()))
    shown = [names.get(code, code) for code in counted["segment"]]
    axes.barh(range(len(shown)), counted["customers"], 0.66, color=WINE)
    axes.set_yticks(range(len(shown)), shown)
    for place, (count, before) in enumerate(zip(counted["customers"], counted["before"], strict=True)):
        moved = "" if pd.isna(before) or before == count else f" ({rendering.signed(count - before, locale)})"
        axes.text(count + largest * 0.015, place, rendering.number(count, locale) + moved, va="center")
    axes.set_xlim(0, largest * 1.22)
    axes.xaxis.set_visible(False)
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    return figure


_CHARTS: dict[str, Callable[[Any, str], Figure]] = {
    "months": months,
    "trend": trend,
    "seasons": seasons,
    "year_end": year_end,
    "segments": segments,
}


def drawn(name: str, data: Any, locale: str) -> Figure:
    """The chart of that name: months, trend, seasons, year_end of `Sales`; segments of `WeeklyReport.segments`."""
    import matplotlib as mpl

    with mpl.rc_context(_STYLE):
        return _CHARTS[name](data, locale)


def svg(figure: Figure) -> bytes:
    """The figure as SVG, its size left to the page."""
    import matplotlib as mpl

    buffer = io.BytesIO()
    with mpl.rc_context(_STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=False)
    text = buffer.getvalue().decode()
    # The document type names an address on the web; nothing of a report does.
    return re.sub(r"^<\?xml.*?\?>\s*<!DOCTYPE.*?>\s*", "", text, flags=re.DOTALL).encode()


def data_uri(figure: Figure) -> str:
    """The figure as a page holds it: nothing has to be fetched."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg(figure)).decode()
