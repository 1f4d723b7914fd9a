"""How a run's rankers did on the estate's own past, as the asset `recommendations.backtests` shows and judges it.

`rows` are rows of recommendations.backtests of one run; which engine serves, and why, is said in the run's
engine. No measuring here (that is `logic/backtesting.py`), and no assets.
"""

from typing import Any

import dagster as dg
import pandas as pd

from crm_assets.defs.common import new_figure, plot
from crm_assets.logic.backtesting import BASELINES, ENGINES, GP_TOP_FREQ, LISTS, MEASURES, POPULARITY
from crm_assets.logic.recommendations import SCENARIOS
from crm_assets.resources.warehouse import Warehouse

# How a plot heads a measure and a list.
_MEASURE_HEADS = {"recall": "recall", "ndcg": "NDCG", "hit_rate": "hit rate"}
_LIST_HEADS = {
    "mixed": "mixed: any product",
    "repeat": "repeat: bought before",
    "explore": "explore: never bought",
}
_SERVING, _OTHER, _BASELINE = "#7a2531", "#c9b3a5", "#8d99a6"

# The run that is shown, and of each earlier day the newest of its runs of the present.
_KEPT = """
    with kept as (
        select distinct on (as_of) run_id
        from recommendations.runs
        where completed_at is not null and as_of <= %s and (not is_historical or run_id = %s)
        order by as_of, (run_id = %s) desc, completed_at desc, run_id
    )
    select run_id, part, engine, top, cut, customers, ndcg, is_serving, as_of
    from recommendations.backtests inner join kept using (run_id)
    where part = any(%s) and customers > 0
    order by as_of, part, engine, top
"""


def of_run(warehouse: Warehouse, run_id: str) -> pd.DataFrame:
    """The rows of one run."""
    return warehouse.read("recommendations", "backtests", where="run_id = %s", params=[run_id])


def kept_over_time(warehouse: Warehouse, run_id: str, as_of: object) -> pd.DataFrame:
    """What the runs up to `as_of` measured of the lists, one run a day: what the plot over time is drawn from."""
    return warehouse.query(_KEPT, [as_of, run_id, run_id, list(LISTS)])


# What the asset shows


def figures(rows: pd.DataFrame, top: int) -> dict[str, float]:
    """Each measure of each list at `top`, of the engine that serves it, under names that Dagster plots over time."""
    serving = rows[rows["is_serving"].astype(bool) & (rows["top"] == top) & rows["part"].isin(LISTS)]
    return {
        f"{row['part']}_{measure}_at_{top}": float(row[measure])
        for row in serving.to_dict("records")
        for measure in MEASURES
    }


def serving_table(ranking: dict[str, Any]) -> dg.MarkdownMetadataValue:
    """Per list: the engine that serves, why, and the weights it serves with."""
    lines = ["| list | engine | why | weights |", "|---|---|---|---|"]
    for name in LISTS:
        recipe = ranking["recipes"].get(name, {})
        weights = ", ".join(f"{key} {_plain(value)}" for key, value in sorted(recipe.items()))
        lines.append(f"| {name} | {ranking['choice'][name]} | {ranking['reasons'][name]} | {weights} |")
    return dg.MetadataValue.md("\n".join(lines))


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def engines_table(rows: pd.DataFrame) -> dg.MarkdownMetadataValue:
    """Every engine at every length of every list, then the scenarios."""
    lines = [
        "| part | engine | top | customers | recall | NDCG | hit rate | recall of repeats | recall of new | |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|---|",
    ]
    for row in in_order(rows).to_dict("records"):
        measures = [row[name] for name in (*MEASURES, "recall_repeat", "recall_explore")]
        shown = " | ".join("" if pd.isna(value) else f"{value:.4f}" for value in measures)
        serves = "serves" if row["is_serving"] else ""
        lines.append(f"| {row['part']} | {row['engine']} | {row['top']} | {row['customers']:,} | {shown} | {serves} |")
    return dg.MetadataValue.md("\n".join(lines))


def in_order(rows: pd.DataFrame) -> pd.DataFrame:
    """Lists before scenarios, baselines before what has to beat them, short before long."""
    parts, engines = (*LISTS, *SCENARIOS), (*ENGINES, "policy")
    place = pd.DataFrame(
        {"part": rows["part"].map(parts.index), "engine": rows["engine"].map(engines.index), "top": rows["top"]}
    )
    return rows.loc[place.sort_values(["part", "engine", "top"]).index]


def engines_plot(rows: pd.DataFrame, top: int) -> dg.MarkdownMetadataValue:
    """Recall, NDCG and hit rate at `top` by engine (measures × lists), in colour what serves."""
    rows = in_order(rows[rows["part"].isin(LISTS) & (rows["top"] == top)])
    figure = new_figure(11, 6)
    panels = figure.subplots(len(MEASURES), len(LISTS))
    for column, name in enumerate(LISTS):
        part = rows[rows["part"] == name]
        colours = [
            _SERVING if serves else _BASELINE if engine in BASELINES else _OTHER
            for engine, serves in zip(part["engine"], part["is_serving"].astype(bool), strict=True)
        ]
        for line, measure in enumerate(MEASURES):
            axes = panels[line, column]
            drawn = axes.barh(part["engine"], part[measure].to_numpy(), color=colours, height=0.72)
            axes.bar_label(drawn, fmt="%.3f", padding=3, fontsize=8)
            axes.invert_yaxis()
            axes.margins(x=0.16)
            axes.set_xlim(left=0)
            axes.tick_params(labelsize=8, length=0)
            axes.set_xticks([])
            axes.spines[["top", "right", "bottom"]].set_visible(False)
            axes.set_title(f"{_MEASURE_HEADS[measure]}@{top}", fontsize=9, loc="left")
            if column:
                axes.set_yticklabels([])
        customers = int(part["customers"].max()) if len(part) else 0
        panels[0, column].set_title(
            f"{_LIST_HEADS[name]}\n{customers:,} customers judged\n\n{_MEASURE_HEADS[MEASURES[0]]}@{top}",
            fontsize=9,
            loc="left",
        )
    _headline(figure, f"What the next order held, {_when(rows)}, by engine")
    _legend(figure, {"serves": _SERVING, "other baseline": _BASELINE, "other engine": _OTHER})
    return plot(figure)


def history_plot(history: pd.DataFrame, top: int) -> dg.MarkdownMetadataValue:
    """NDCG at `top` of the engine that served and of GP-TopFreq, per list, by the day that the run looked from."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    history = history[(history["top"] == top) & history["part"].isin(LISTS)]
    figure = new_figure(11, 3.4)
    for axes, name in zip(figure.subplots(1, len(LISTS)), LISTS, strict=True):
        part = history[history["part"] == name].sort_values("as_of", kind="stable")
        plain, served = part[part["engine"] == GP_TOP_FREQ], part[part["is_serving"].astype(bool)]
        axes.plot(served["as_of"], served["ndcg"], marker="o", color=_SERVING, label="what served")
        # Open rings, so that the one shows through the other where they are equal.
        rings = {"marker": "o", "markersize": 9, "fillstyle": "none", "linestyle": "--"}
        axes.plot(plain["as_of"], plain["ndcg"], color=_BASELINE, label=GP_TOP_FREQ, **rings)
        changed = served["engine"].ne(served["engine"].shift())
        for row in served[changed].itertuples():
            axes.annotate(
                row.engine, (row.as_of, row.ndcg), (0, 7), textcoords="offset points", fontsize=8, ha="center"
            )
        axes.set_title(_LIST_HEADS[name], loc="left", fontsize=10)
        days = part["as_of"].drop_duplicates()
        if len(days) < 4:
            # The locator would fill the gap between few days with hours.
            axes.set_xticks(days, [str(pd.Timestamp(day).date()) for day in days], fontsize=8)
        else:
            locator = AutoDateLocator(minticks=3, maxticks=6)
            axes.xaxis.set_major_locator(locator)
            axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
            axes.tick_params(axis="x", labelsize=8)
        axes.margins(x=0.15)
        axes.set_ylim(0, max(1.2 * float(part["ndcg"].max()), 1e-3) if len(part) else 1)
        axes.tick_params(axis="y", labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel(f"NDCG@{top}")
    figure.axes[0].legend(frameon=False, fontsize=8, loc="lower left")
    _headline(figure, "The back-test of each run, by the day it looked from")
    return plot(figure)


def scenarios_plot(rows: pd.DataFrame) -> dg.MarkdownMetadataValue:
    """Share of customers of each scenario whose next order held one of the first wines proposed."""
    rows = rows[rows["part"].isin(SCENARIOS)]
    names = [name for name in SCENARIOS if (rows["part"] == name).any()]
    tops = sorted(rows["top"].unique())
    figure = new_figure(8, 1.3 + 0.62 * len(names))
    axes = figure.subplots()
    height = 0.8 / len(tops)
    for number, (top, colour) in enumerate(zip(tops, (_SERVING, _OTHER, _BASELINE), strict=False)):
        part = rows[rows["top"] == top].set_index("part").reindex(names)
        places = [place + (number - (len(tops) - 1) / 2) * height for place in range(len(names))]
        words = "the first wine" if top == 1 else f"one of the first {top}"
        drawn = axes.barh(places, part["hit_rate"].to_numpy(), height * 0.9, color=colour, label=words)
        rates = [f"{rate:.1%}" if n else "" for rate, n in zip(part["hit_rate"], part["customers"], strict=True)]
        axes.bar_label(drawn, rates, padding=3, fontsize=8)
    customers = rows.groupby("part")["customers"].max()
    axes.set_yticks(range(len(names)), [f"{name}\n{customers[name]:,} customers" for name in names], fontsize=9)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter("{x:.0%}")
    axes.tick_params(length=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("share of customers whose next order held it")
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    axes.set_title(f"Hit rate by scenario, {_when(rows)}", loc="left", fontsize=11, fontweight="bold")
    return plot(figure)


def _when(rows: pd.DataFrame) -> str:
    """The cut and the window of rows that share them."""
    return f"foretold at {pd.Timestamp(rows['cut'].iloc[0]).date()} for {int(rows['window_days'].iloc[0])} days"


def calibration_plot(calibration: dict[str, Any]) -> dg.MarkdownMetadataValue | None:
    """Per list: the probability given to wines, by band, against the share then ordered; None where unmeasured.

    A list without a curve says why. Bands of the same probability are one point, the larger the more they are.
    """
    lists = {name: calibration[name] for name in LISTS if name in calibration}
    if not any(found.get("deciles") for found in lists.values()):
        return None
    figure = new_figure(4.6 * len(lists), 4.2)
    for axes, (name, found) in zip(figure.subplots(1, len(lists), squeeze=False)[0], lists.items(), strict=True):
        facts = f"{found['candidates']:,} candidates, {found['ordered']:,} ordered"
        axes.set_title(f"{_LIST_HEADS[name]}\n{facts}", loc="left", fontsize=9)
        if not found.get("deciles"):
            axes.text(0.5, 0.5, f"{found['base_rate']:.1%} for every wine:\n{found['reason']}", ha="center", fontsize=9)
            axes.set_axis_off()
            continue
        bands = pd.DataFrame(found["deciles"]).groupby("predicted")["observed"].agg(["mean", "size"])
        top = max(bands.index.max(), bands["mean"].max(), 1e-9)
        axes.plot([0, top], [0, top], color="#999999", linewidth=1, label="as many as said")
        axes.plot(bands.index, bands["mean"], color=_SERVING, linewidth=1)
        axes.scatter(bands.index, bands["mean"], 30 * bands["size"], color=_SERVING, label="by tenth of the candidates")
        axes.set_xlabel("probability given")
        axes.set_ylabel(f"share ordered in the {calibration['cut_days_before']} days that followed", fontsize=9)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:.1%}" if top < 0.1 else "{x:.0%}")
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8, loc="upper left", markerscale=0.6)
    _headline(figure, "Probability of a wine, against what was ordered, by band")
    return plot(figure)


def _headline(figure: Any, text: str) -> None:
    figure.suptitle(text, x=0.01, ha="left", fontsize=11, fontweight="bold")


def _legend(figure: Any, colours: dict[str, str]) -> None:
    """Below the panels: what those colours mean that are in the figure."""
    from matplotlib.colors import to_hex
    from matplotlib.patches import Patch

    seen = {to_hex(patch.get_facecolor()) for axes in figure.axes for patch in axes.patches}
    patches = [Patch(color=colour, label=name) for name, colour in colours.items() if colour in seen]
    figure.legend(handles=patches, loc="outside lower left", ncols=len(patches), frameon=False, fontsize=9)


# What its lights say


def worse_than_baselines(rows: pd.DataFrame, top: int, least_customers: int) -> dict[str, Any]:
    """Per list, what serves beside the plain baselines, and how many lists are served by something worse.

    A list that fewer customers than the rules ask for could judge is told apart, and not held against anybody.
    """
    told: dict[str, Any] = {"threshold_lists_worse": 0, "least_customers": least_customers}
    worse = 0
    for name in LISTS:
        part = rows[(rows["part"] == name) & (rows["top"] == top)].set_index("engine")
        customers = int(part["customers"].max()) if len(part) else 0
        if customers < least_customers:
            told[f"{name}_not_measured"] = f"{customers} customers to judge by"
            continue
        serving = part[part["is_serving"].astype(bool)]
        ndcg = float(serving["ndcg"].iloc[0]) if len(serving) else 0.0
        plain = {
            str(engine): float(value) for engine, value in part["ndcg"].items() if engine in (POPULARITY, GP_TOP_FREQ)
        }
        told[f"{name}_ndcg"] = ndcg
        told |= {f"{name}_ndcg_{baseline}": value for baseline, value in plain.items()}
        worse += ndcg < max(plain.values(), default=0.0)
    return {**told, "lists_worse": int(worse)}


def faults(rows: pd.DataFrame, tops: list[int]) -> dict[str, int]:
    """What is missing from a back-test, or is off its scale; all zero where it is whole, or where there is none."""
    lists, scenarios = rows[rows["part"].isin(LISTS)], rows[rows["part"].isin(SCENARIOS)]
    expected = lists["part"].nunique() * lists["engine"].nunique() * len(tops)
    expected += scenarios["part"].nunique() * scenarios["top"].nunique()
    always = rows[list(MEASURES)].astype("float64")
    split = rows[["recall_repeat", "recall_explore"]].astype("float64")
    serving = lists[lists["is_serving"].astype(bool)].groupby(["part", "top"])["engine"].nunique()
    return {
        "rows_missing": expected - len(rows),
        "lists_missing": len(LISTS) - lists["part"].nunique() if len(lists) else 0,
        "outside_0_to_1": int((~always.apply(lambda c: c.between(0, 1))).sum().sum())
        + int((split.notna() & ~split.apply(lambda c: c.between(0, 1))).sum().sum()),
        "lists_without_one_serving_engine": int((serving != 1).sum())
        + lists["part"].nunique() * len(tops)
        - len(serving),
    }
