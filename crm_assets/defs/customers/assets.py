"""Taste profiles, clusters and predictions: the latest state of every person.

How they are computed is in `logic/customers.py` and `logic/predictions.py`. A run for an earlier day computes them
and shows what it found, but writes nothing: these tables hold the present (spec.md §5).
"""

from collections.abc import Iterator
from datetime import date
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd
import sqlalchemy as sa

from crm_assets import tables
from crm_assets.defs.common import (
    PROFILED,
    TenantRun,
    materialized,
    new_figure,
    plot,
    table_spec,
    tenant_asset,
)
from crm_assets.defs.customers import holdout
from crm_assets.logic import customers
from crm_assets.logic import predictions as prediction_logic
from crm_assets.resources.warehouse import copy_frame
from crm_assets.rules import Clusters as ClusterRules


def write_present(tenant_run: TenantRun, table: sa.Table, frame: pd.DataFrame) -> dict[str, Any]:
    """Replace a table of the latest state, unless the run is for an earlier day; the metadata that says
    which.
    """
    if not tenant_run.is_historical:
        tenant_run.warehouse.replace(table, frame)
    return {"written": not tenant_run.is_historical}


def taste_profiles_of(tenant_run: TenantRun) -> pd.DataFrame:
    """Taste profiles as of the run's day, computed."""
    warehouse = tenant_run.warehouse
    people = warehouse.read("curated", "dim_customers", ["customer_id"], f"not is_collective and {PROFILED}")
    columns = ["customer_id", "wine_id", "order_id", "sale_date", "amount_ht", "net_amount_ht"]
    purchases = customers.net_purchases(warehouse.read("rfm", "purchases", columns))
    products = warehouse.read(
        "curated", "dim_products", ["product_key", "wine_id", "is_inferred", *customers.AROMA_AXES]
    )
    return customers.taste_profiles(people, purchases, products, tenant_run.as_of, tenant_run.rules)


@tenant_asset(
    tables.taste_profiles,
    deps=[("curated", "dim_customers"), ("curated", "dim_products"), ("rfm", "purchases")],
)
def taste_profiles(context: dg.AssetExecutionContext, tenant_run: TenantRun) -> dg.MaterializeResult[Any]:
    """Every person who does not object to profiling has a row; without described purchases it is the estate's
    mean with confidence 0.
    """
    profiles = taste_profiles_of(tenant_run)
    written = write_present(tenant_run, tables.taste_profiles, profiles)
    levels = profiles["confidence_level"].value_counts()
    counts: dict[str, Any] = {f"confidence_{str(name).lower()}": int(n) for name, n in levels.items()}
    return materialized(
        len(profiles),
        run=tenant_run,
        **counts,
        with_described_purchases=int((profiles["confidence"] > 0).sum()),
        **written,
    )


@dg.multi_asset(
    name="customers__clusters",
    specs=[
        table_spec(
            table,
            deps=[("rfm", "customer_rfm"), ("rfm", "customer_preferences")],
            description="Seeded k-means within private and within professional; ids stay from run to run.",
        )
        for table in (tables.clusters, tables.cluster_profiles, tables.cluster_history)
    ],
)
def clusters(context: dg.AssetExecutionContext, tenant_run: TenantRun) -> Iterator[dg.MaterializeResult[Any]]:
    warehouse = tenant_run.warehouse
    natural = [name for name in customers.CLUSTER_FEATURES if name != "diversity"]
    rfm = warehouse.read("rfm", "customer_rfm", ["customer_id", "population", *natural], PROFILED)
    preferences = warehouse.read("rfm", "customer_preferences", ["customer_id", "diversity"])
    previous = warehouse.read(
        "customers", "cluster_profiles", ["cluster_id", "population", "cluster_name", "centroid", "last_number"]
    )
    found = customers.cluster_customers(rfm, preferences, previous, tenant_run.rules)
    written = write_present(tenant_run, tables.clusters, found.assignments)
    write_present(tenant_run, tables.cluster_profiles, found.profiles)
    yield materialized(
        len(found.assignments),
        tables.clusters,
        tenant_run,
        **written,
        choice_of_k=dg.JsonMetadataValue(found.quality),
        tried=tried_table(found.quality),
    )
    shown: dict[str, Any] = {}
    if len(found.profiles):
        shown["profile"] = profile_plot(found.profiles)
    if any(quality.get("tried") for quality in found.quality.values()):
        shown["choice_of_k"] = choice_plot(found.quality, tenant_run.rules.clusters)
    yield materialized(len(found.profiles), tables.cluster_profiles, tenant_run, **written, **shown)
    kept = keep_history(tenant_run, found.assignments)
    yield materialized(sum(kept.values()), tables.cluster_history, tenant_run, **written, days=len(kept))


def keep_history(tenant_run: TenantRun, assignments: pd.DataFrame) -> dict[date, int]:
    """Write who is in which cluster as the history's row of the day; the rows of each day that is kept.

    A day computed again replaces itself. Of the past, the last weeks stay, and the newest day before them: an estate
    that exports once a quarter has something to compare with too. A run for an earlier day writes none: its clusters
    are not those of the present, whose ids the history tells of.
    """
    days = tenant_run.rules.kpis.cluster_history_days
    with tenant_run.warehouse.transaction() as connection:
        if not tenant_run.is_historical:
            connection.execute("delete from customers.cluster_history where as_of = %s", [tenant_run.as_of])
            copy_frame(connection, tables.cluster_history, assignments.assign(as_of=tenant_run.as_of))
            connection.execute(
                "delete from customers.cluster_history where as_of < ("
                " select max(as_of) from customers.cluster_history where as_of < %s::date - %s::integer)",
                [tenant_run.as_of, days],
            )
        counted = connection.execute("select as_of, count(*) from customers.cluster_history group by as_of")
        return dict(counted.fetchall())


# Centroid features as the plot heads them, with their unit.
_FEATURE_HEADS = {
    "recency_days": "days since\nlast order",
    "frequency": "orders",
    "monetary": "spend\nEUR HT",
    "average_order_value": "EUR HT\nper order",
    "mean_interval_days": "days between\norders",
    "diversity": "variety of\nfamilies, 0..1",
}


def profile_plot(profiles: pd.DataFrame) -> dg.MarkdownMetadataValue:
    """Per population, clusters × features: medians in natural units, on the colour of the centroid's distance
    from the population's mean, in the spread of the clusters.
    """
    features = list(_FEATURE_HEADS)
    groups = list(profiles.groupby("population", sort=True))
    figure = new_figure(11, sum(1.15 + 0.5 * len(group) for _, group in groups))
    panels = figure.subplots(len(groups), 1, squeeze=False, height_ratios=[1 + len(group) for _, group in groups])
    for axes, (population, group) in zip(panels[:, 0], groups, strict=True):
        centroids, share = np.array(group["centroid"].tolist(), dtype="float64"), group["share"].to_numpy()
        apart = centroids - np.average(centroids, axis=0, weights=share)
        spread = np.sqrt(np.average(apart**2, axis=0, weights=share))
        shades = np.divide(apart, spread, out=np.zeros_like(apart), where=spread > 1e-9)
        medians = group[features].to_numpy(dtype="float64")
        axes.imshow(np.where(np.isnan(medians), 0.0, shades), cmap="RdBu_r", vmin=-2.2, vmax=2.2, aspect="auto")
        axes.set_xticks(range(len(features)), list(_FEATURE_HEADS.values()), fontsize=9)
        axes.xaxis.tick_top()
        labels = [
            f"{row.cluster_name}\n{row.cluster_id} · {row.size:,} customers · {row.share:.0%}"
            for row in group.itertuples()
        ]
        axes.set_yticks(range(len(group)), labels, fontsize=9)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        for row, column in np.ndindex(medians.shape):
            value = medians[row, column]
            text = "" if np.isnan(value) else f"{value:.2f}" if features[column] == "diversity" else f"{value:,.0f}"
            colour = "white" if abs(shades[row, column]) > 1.3 else "black"
            axes.text(column, row, text, ha="center", va="center", fontsize=10, color=colour)
        axes.set_title(_headline(str(population), group), loc="left", fontsize=11, fontweight="bold")
    panels[-1, 0].set_xlabel("red: above the population's mean · blue: below it", fontsize=9, color="#666666")
    return plot(figure)


def _headline(population: str, group: pd.DataFrame) -> str:
    """How many customers in how many clusters, and how far they are to be trusted."""
    said = [f"{population}: {int(group['size'].sum()):,} customers in {len(group)} clusters (medians)"]
    stability, silhouette = group["stability"].iloc[0], group["silhouette"].iloc[0]
    if pd.notna(stability):
        said.append(f"stability {stability:.2f}, silhouette {silhouette:.2f}")
    return " · ".join(said)


def tried_table(quality: dict[str, dict[str, Any]]) -> dg.MarkdownMetadataValue:
    """Every k that was tried, and why the chosen one."""
    lines = [
        "| population | k | silhouette | stability | least stable pair | smallest share | |",
        "|---|--:|--:|--:|--:|--:|---|",
    ]
    for population, found in quality.items():
        relaxed = ", ".join(found["relaxed"])
        chosen = f"chosen, in spite of its {relaxed}" if relaxed else "chosen"
        for tried in found.get("tried", []):
            lines.append(
                f"| {population} | {tried['k']} | {tried['silhouette']:.3f} | {tried['stability']:.3f} |"
                f" {tried['stability_lowest']:.3f} | {tried['smallest_share']:.1%} |"
                f" {chosen if tried['k'] == found['k'] else ''} |"
            )
        if not found.get("tried"):
            lines.append(f"| {population} | {found['k']} | | | | | {found['customers']} customers: nothing measured |")
    return dg.MetadataValue.md("\n".join(lines))


def choice_plot(quality: dict[str, dict[str, Any]], rules: ClusterRules) -> dg.MarkdownMetadataValue:
    """Silhouette, stability and smallest share against k, with the thresholds; a ring around what was chosen."""
    measures = {
        "silhouette": ("silhouette", None),
        "stability": ("stability (mean ARI of resamples)", rules.stability_min),
        "smallest_share": ("share of the smallest cluster", rules.smallest_share_min),
    }
    figure = new_figure(11, 3)
    for axes, (measure, (title, threshold)) in zip(figure.subplots(1, len(measures)), measures.items(), strict=True):
        for population, found in quality.items():
            tried = found.get("tried", [])
            if not tried:
                continue
            drawn = axes.plot([t["k"] for t in tried], [t[measure] for t in tried], marker="o", label=population)
            best = next(t for t in tried if t["k"] == found["k"])
            axes.plot(best["k"], best[measure], "o", markersize=14, fillstyle="none", color=drawn[0].get_color())
        if threshold is not None:
            axes.axhline(threshold, color="#999999", linestyle="--", linewidth=1)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("k")
        axes.margins(0.1, 0.15)
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(frameon=False, fontsize=9)
    return plot(figure)


def write_predictions(tenant_run: TenantRun, rows: pd.DataFrame) -> dict[str, Any]:
    """Replace the predictions, unless the run is for an earlier day, and queue the notice of those whose churn flag
    has come up: in one transaction, since only the rows that go know who had it before. Of a first prediction nobody
    is told, nor of people who were not known before.
    """
    from crm_assets import notices
    from crm_assets.logic.notices import newly_at_risk

    if tenant_run.is_historical:
        return {"written": False}
    with tenant_run.warehouse.transaction() as connection:
        before = dict(connection.execute("select customer_id, is_churning from customers.predictions").fetchall())
        connection.execute("delete from customers.predictions")
        copy_frame(connection, tables.predictions, rows)
        after = dict(zip(rows["customer_id"], rows["is_churning"].astype(bool).tolist(), strict=True))
        newly = newly_at_risk(before, after)
        notices.queue_at_risk(
            connection, tenant_run.tenant, newly, tenant_run.run_id, tenant_run.as_of.isoformat(), tenant_run.now
        )
    return {"written": True, "newly_at_risk": len(newly)}


@dg.multi_asset(
    name="customers__predictions",
    specs=[
        table_spec(
            tables.predictions,
            deps=[("rfm", "customer_rfm"), ("curated", "fct_orders"), ("curated", "customer_engagement")],
            description="The model is named by `method`, within private and within professional customers; how each"
            " did in the last 90 days of this estate's own history is in the metadata of each run.",
        )
    ],
    check_specs=[holdout.HOLDOUT_CHECK],
)
def predictions(context: dg.AssetExecutionContext, tenant_run: TenantRun) -> Iterator[dg.MaterializeResult[Any]]:
    warehouse = tenant_run.warehouse
    people = warehouse.read("rfm", "customer_rfm", ["customer_id", "population"], PROFILED)
    orders = warehouse.read(
        "curated",
        "fct_orders",
        ["customer_id", "order_date", "amount_ht"],
        "is_qualifying and order_date <= %s",
        [tenant_run.as_of],
    )
    engagement = warehouse.read("curated", "customer_engagement")
    found = prediction_logic.predict(people, orders, tenant_run.as_of, tenant_run.rules, engagement)
    written = write_predictions(tenant_run, found.rows)
    shown: dict[str, Any] = {"models": holdout.models_table(found.quality)}
    measured = {name: quality for name, quality in found.quality.items() if quality["status"] == "measured"}
    if measured:
        shown["calibration"] = calibration_plot({name: quality["deciles"] for name, quality in measured.items()})
        shown["calibration_table"] = holdout.calibration_table(measured)
        shown["totals"] = holdout.totals_table(measured)
    for name, quality in measured.items():
        for figure in ("auc", "brier", "top_decile_lift", "top_decile_share_of_orders"):
            if quality[figure] is not None:
                shown[f"{name}_{figure}"] = quality[figure]
        if quality["value"]["top_decile_share_of_spend"] is not None:
            shown[f"{name}_top_decile_share_of_spend"] = quality["value"]["top_decile_share_of_spend"]
    yield dg.MaterializeResult(
        metadata={
            "dagster/row_count": len(found.rows),
            "as_of": tenant_run.as_of.isoformat(),
            "churning": int(found.rows["is_churning"].sum()),
            "engaged": int(engagement[["opened", "clicked"]].any(axis=1).sum()),
            "expected_orders_365d": round(float(found.rows["expected_orders_365d"].sum()), 1),
            "expected_value_365d": round(float(found.rows["expected_value_365d"].sum()), 2),
            "holdout": dg.JsonMetadataValue(found.quality),
            **written,
            **shown,
        },
        check_results=[holdout.holdout_holds(found.quality, tenant_run.rules)],
    )


def calibration_plot(curves: dict[str, list[dict[str, float]]]) -> dg.MarkdownMetadataValue:
    """Predicted against observed share per tenth of what was predicted; on the diagonal predictions are
    right.
    """
    figure = new_figure(5.5, 4)
    axes = figure.subplots()
    top = max((value for tenths in curves.values() for tenth in tenths for value in tenth.values()), default=1.0)
    axes.plot([0, top], [0, top], color="#999999", linewidth=1)
    for name, tenths in curves.items():
        axes.plot([t["predicted"] for t in tenths], [t["observed"] for t in tenths], marker="o", label=name)
    axes.set_xlabel("predicted")
    axes.set_ylabel("observed in the 90 days that followed")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return plot(figure)
