"""What the results of campaigns show of themselves in Dagster, as pictures: how far messages came, uplift, arms.

Drawn from the marts alone, counts and shares: nothing here names or tells apart a person.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from crm_assets.charts import GRID, INK, MUTED, WINE
from crm_assets.defs.common import bars, new_figure, plot

if TYPE_CHECKING:
    import dagster as dg

    from crm_assets.resources.warehouse import Warehouse

MAX_CAMPAIGNS = 8
# Stages of a message, each with its rate in outcomes.campaign_results and what that is a share of.
STAGES = {
    "delivered": ("delivery_rate", "sent"),
    "opened": ("open_rate", "delivered"),
    "clicked": ("click_rate", "delivered"),
    "ordered": ("order_rate", "sent"),
    "unsubscribed": ("unsubscribe_rate", "delivered"),
}


def _named(row: dict[str, Any]) -> str:
    """Campaign and occurrence, with a star where the figures are not final."""
    occurrence = "" if row["occurrence"] in ("once", "*") else f" {row['occurrence']}"
    return f"{row['campaign']}{occurrence}{'' if row['is_final'] else ' *'}"


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def funnel(warehouse: Warehouse) -> dg.MarkdownMetadataValue:
    """The newest occurrences: which share of their addresses came to each stage, with its 95 % interval."""
    columns = ["campaign", "occurrence", "sent", "last_sent_on", "is_final"]
    columns += [f"{rate}{end}" for rate, _ in STAGES.values() for end in ("", "_low", "_high")]
    found = warehouse.read(
        "outcomes",
        "campaign_results",
        columns,
        "dimension = 'all' and occurrence <> '*' and sent > 0",
        order_by='last_sent_on desc, campaign collate "C", occurrence collate "C"',
    )
    rows = _rows(found.head(MAX_CAMPAIGNS))[::-1]
    if not rows:
        return bars(pd.Series(dtype="int64"), "Campaigns sent")
    figure = new_figure(12, 1.3 + 0.36 * len(rows))
    panels = figure.subplots(1, len(STAGES), sharey=True)
    for axes, (stage, (rate, whole)) in zip(panels, STAGES.items(), strict=True):
        for place, row in enumerate(rows):
            share = row[rate]
            if pd.isna(share):
                continue
            error = [[max(share - row[f"{rate}_low"], 0)], [max(row[f"{rate}_high"] - share, 0)]]
            axes.errorbar([share], [place], xerr=error, fmt="o", color=WINE, ecolor=MUTED, capsize=3)
            axes.annotate(f"{share:.1%}", (share, place), (0, 7), textcoords="offset points", ha="center", fontsize=7)
        axes.set_yticks(range(len(rows)), [f"{_named(row)} ({row['sent']:,})" for row in rows], fontsize=8)
        axes.set_ylim(-0.6, len(rows) - 0.3)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axes.tick_params(axis="x", labelsize=7)
        axes.set_title(f"{stage}\nof those {whole}", fontsize=9)
        axes.grid(True, axis="y", color=GRID)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle("Shares of addresses, with 95 % intervals (in brackets: sent to; *: not final)", fontsize=10)
    return plot(figure)


def _differences(labelled: list[tuple[str, dict[str, Any]]], name: str, title: str) -> dg.MarkdownMetadataValue:
    """Differences `name` of the rows in percentage points, as dots with their intervals beside 0; pale where not
    final.
    """
    figure = new_figure(8.5, 1.1 + 0.34 * len(labelled))
    axes = figure.subplots()
    axes.axvline(0, color=MUTED, linewidth=1)
    for place, (_, row) in enumerate(labelled):
        middle, low, high = (100 * float(row[f"{name}{end}"]) for end in ("", "_low", "_high"))
        axes.errorbar(
            [middle],
            [place],
            xerr=[[max(middle - low, 0)], [max(high - middle, 0)]],
            fmt="o",
            color=WINE if low > 0 or high < 0 else INK,
            capsize=3,
            alpha=1 if row["is_final"] else 0.45,
        )
        said = f"{middle:+.1f} ({low:+.1f} to {high:+.1f})"
        axes.annotate(said, (middle, place), (0, 6), textcoords="offset points", ha="center", fontsize=7)
    axes.set_yticks(range(len(labelled)), [label for label, _ in labelled], fontsize=8)
    axes.set_ylim(len(labelled) - 0.4, -0.8)
    axes.set_xlabel("percentage points")
    axes.set_title(title, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    return plot(figure)


def uplift(warehouse: Warehouse) -> dg.MarkdownMetadataValue:
    """What the newest campaigns and quarters brought against their control groups."""
    title = "Uplift: share that ordered, against the control group"
    found = warehouse.read(
        "outcomes",
        "campaign_uplift",
        order_by='scope desc, began_on desc, campaign collate "C", occurrence collate "C"',
    )
    if found.empty:
        return bars(pd.Series(dtype="int64"), title)
    labelled = []
    for row in _rows(found.groupby("scope", sort=False).head(MAX_CAMPAIGNS)):
        name = _named(row | {"campaign": f"all of {row['quarter']}"} if row["scope"] == "quarter" else row)
        labelled.append((f"{name} ({row['treated']:,} : {row['held_out']:,})", row))
    return _differences(
        labelled, "uplift", f"{title}\n(95 % intervals; in brackets: drawn : held out; pale, *: not final)"
    )


def arms(warehouse: Warehouse) -> dg.MarkdownMetadataValue:
    """The arms of the newest A/B tests: what differs in clicks and orders."""
    title = "A/B: first arm less the other"
    found = warehouse.read(
        "outcomes",
        "campaign_arms",
        where="measure in ('clicked', 'ordered')",
        order_by='final_on desc, campaign collate "C", occurrence collate "C", measure, arm, other_arm',
    ).head(2 * MAX_CAMPAIGNS)
    if found.empty:
        return bars(pd.Series(dtype="int64"), title)
    return _differences(
        [(f"{_named(row)}: {row['arm']} – {row['other_arm']}, {row['measure']}", row) for row in _rows(found)],
        "difference",
        f"{title}\n(95 % intervals for all pairs together; red: beyond chance; pale, *: not final)",
    )
