"""What the KPI marts show of themselves in Dagster, as pictures: months beside last year's, returning customers, ways.

Drawn from the marts alone, counts and sums: nothing here names or tells apart a person.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from crm_assets.defs.common import bars, new_figure, plot

if TYPE_CHECKING:
    import dagster as dg

    from crm_assets.resources.warehouse import Warehouse

WINE, GREY = "#7a2531", "#b9b2a8"
MAX_COHORTS, MAX_MONTHS = 16, 24


def revenue_by_month(warehouse: Warehouse) -> dg.MarkdownMetadataValue:
    """Revenue of the last months, each beside the same month a year before."""
    columns = ["month", "revenue_ht", "revenue_ht_year_before", "is_complete"]
    months = warehouse.read("kpis", "monthly_sales", columns, "population = 'all'", order_by="month").tail(MAX_MONTHS)
    if months.empty:
        return bars(pd.Series(dtype="int64"), "Revenue by month")
    figure = new_figure(11, 3.6)
    axes = figure.subplots()
    place = np.arange(len(months))
    axes.bar(place - 0.2, months["revenue_ht_year_before"].fillna(0) / 1000, 0.4, color=GREY, label="a year before")
    drawn = axes.bar(place + 0.2, months["revenue_ht"] / 1000, 0.4, color=WINE, label="revenue")
    for bar, whole in zip(drawn, months["is_complete"], strict=True):
        if not whole:
            bar.set_alpha(0.5)
    axes.set_xticks(place, [f"{month:%b %y}" for month in months["month"]], rotation=60, fontsize=8)
    axes.set_ylabel("thousand EUR, net of VAT")
    axes.set_title("Revenue by month" + ("" if months["is_complete"].iloc[-1] else " (pale: not over yet)"))
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return plot(figure)


def retention(warehouse: Warehouse) -> dg.MarkdownMetadataValue:
    """The newest cohorts as a heat map: which share of each was active how many quarters later."""
    columns = ["cohort", "quarters_since", "retention", "customers"]
    found = warehouse.read("kpis", "cohort_retention", columns, "population = 'all' and is_complete")
    if found.empty:
        return bars(pd.Series(dtype="int64"), "Retention by cohort")
    shares = found.pivot(index="cohort", columns="quarters_since", values="retention").sort_index().tail(MAX_COHORTS)
    shares = shares.loc[:, shares.notna().any()].iloc[:, : MAX_COHORTS + 1]
    sizes = found.groupby("cohort")["customers"].first()
    figure = new_figure(2.4 + 0.55 * shares.shape[1], 1.2 + 0.32 * len(shares))
    axes = figure.subplots()
    values = shares.to_numpy(dtype="float64")
    axes.imshow(values, cmap="Reds", vmin=0, vmax=1, aspect="auto")
    for row, column in np.argwhere(~np.isnan(values)):
        share = values[row, column]
        axes.text(
            column, row, f"{share:.0%}", ha="center", va="center", fontsize=8, color="white" if share > 0.6 else "black"
        )
    labels = [f"{cohort.year} Q{cohort.quarter} ({sizes[cohort]:,})" for cohort in shares.index]
    axes.set_yticks(range(len(shares)), labels, fontsize=8)
    axes.set_xticks(range(shares.shape[1]), [str(quarter) for quarter in shares.columns], fontsize=8)
    axes.set_xlabel("quarters since the first order")
    axes.set_title("Share of a cohort that ordered, by quarter (in brackets: people)", fontsize=10)
    axes.spines[:].set_visible(False)
    return plot(figure)


def transitions(warehouse: Warehouse, name: str, side: str) -> dg.MarkdownMetadataValue:
    """Who went where in the shortest span there is, stayers left pale: from down the side, to along the top.

    `name`: the mart; `side`: its columns are from_<side> and to_<side>.
    """
    columns = ["span", "population", "from_date", "to_date", f"from_{side}", f"to_{side}", "customers"]
    found = warehouse.read("kpis", name, columns)
    title = "Movement between segments" if side == "segment" else "Movement between clusters"
    if found.empty:
        return bars(pd.Series(dtype="int64"), title)
    span = "week" if (found["span"] == "week").any() else "month"
    found = found[found["span"] == span]
    if side != "segment":
        # Each population has clusters of its own, and two of them may bear one name.
        for column in (f"from_{side}", f"to_{side}"):
            is_cluster = ~found[column].isin(["New", "Gone"])
            found[column] = found[column].where(~is_cluster, found[column] + " (" + found["population"].str[:4] + ".)")
    ways = found.pivot_table(index=f"from_{side}", columns=f"to_{side}", values="customers", aggfunc="sum")
    counts = ways.to_numpy(dtype="float64")
    stayed = np.equal.outer(ways.index.to_numpy(dtype=str), ways.columns.to_numpy(dtype=str))
    moved = np.where(stayed, np.nan, counts)
    most = np.nanmax(moved) if np.isfinite(moved).any() else 1.0
    figure = new_figure(3 + 0.95 * counts.shape[1], 1.8 + 0.38 * counts.shape[0])
    axes = figure.subplots()
    axes.imshow(np.where(stayed, 0, np.nan_to_num(moved)), cmap="Reds", vmin=0, vmax=most, aspect="auto")
    for row, column in np.argwhere(~np.isnan(counts)):
        dark = not stayed[row, column] and counts[row, column] > 0.6 * most
        colour = "white" if dark else "#999999" if stayed[row, column] else "black"
        axes.text(column, row, f"{counts[row, column]:,.0f}", ha="center", va="center", fontsize=8, color=colour)
    axes.set_yticks(range(len(ways.index)), ways.index, fontsize=8)
    axes.set_xticks(range(len(ways.columns)), ways.columns, fontsize=8, rotation=40, ha="left")
    axes.xaxis.tick_top()
    axes.set_ylabel("from", fontsize=9)
    axes.spines[:].set_visible(False)
    first, last = found["from_date"].iloc[0], found["to_date"].iloc[0]
    axes.set_title(f"{title}, {first:%Y-%m-%d} to {last:%Y-%m-%d} (grey: stayed)", fontsize=10)
    return plot(figure)
