"""Taste profiles, clusters and predictions: the latest state of every person.

How they are computed is in `logic/customers.py`. A run for an earlier day computes them and shows what it
found, but writes nothing: these tables hold the present (spec.md §5).
"""

from collections.abc import Iterator
from typing import Any

import dagster as dg
import pandas as pd
import sqlalchemy as sa

from crm_assets import tables
from crm_assets.defs.common import (
    TenantRun,
    materialized,
    new_figure,
    plot,
    table_spec,
    tenant_asset,
)
from crm_assets.logic import customers

# In `where` of curated.dim_customers and rfm.customer_rfm: who may be scored, clustered, predicted and recommended to
# (spec.md §4.4, a person who objects to profiling).
PROFILED = "not profiling_objected"


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
    columns = ["customer_id", "wine_id", "order_id", "sale_date", "amount_ht"]
    purchases = warehouse.read("rfm", "purchases", columns)
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
        for table in (tables.clusters, tables.cluster_profiles)
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
    )
    shown = {"profile": profile_plot(found.profiles)} if len(found.profiles) else {}
    yield materialized(len(found.profiles), tables.cluster_profiles, tenant_run, **written, **shown)


def profile_plot(profiles: pd.DataFrame) -> dg.MarkdownMetadataValue:
    """Clusters × features: medians in natural units, coloured by how far they lie from the mean of the
    clusters.
    """
    features = customers.CLUSTER_FEATURES
    medians = profiles[features].astype("float64")
    spread = medians.std(ddof=0).replace(0.0, 1.0)
    colours = ((medians - medians.mean()) / spread).fillna(0.0)
    figure = new_figure(10, 1.2 + 0.42 * len(profiles))
    axes = figure.subplots()
    axes.imshow(colours.to_numpy(), cmap="RdBu_r", vmin=-2, vmax=2, aspect="auto")
    axes.set_xticks(range(len(features)), [name.replace("_", "\n") for name in features], fontsize=8)
    labels = profiles["cluster_id"] + "  " + profiles["cluster_name"] + " · " + profiles["size"].astype(str)
    axes.set_yticks(range(len(profiles)), labels.tolist(), fontsize=8)
    shades = colours.to_numpy()
    for row, values in enumerate(medians.to_numpy()):
        for column, value in enumerate(values):
            text = "" if value != value else f"{value:.2f}" if features[column] == "diversity" else f"{value:,.0f}"
            is_dark = abs(shades[row, column]) > 1.1
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color="white" if is_dark else "black")
    axes.set_title("Median of each cluster")
    return plot(figure)


@tenant_asset(tables.predictions, deps=[("rfm", "customer_rfm"), ("curated", "fct_orders")])
def predictions(context: dg.AssetExecutionContext, tenant_run: TenantRun) -> dg.MaterializeResult[Any]:
    """The rule is named by `method`; how well it did 90 days ago, on this estate's own history, is in the
    metadata of each run.
    """
    warehouse = tenant_run.warehouse
    people = warehouse.read("rfm", "customer_rfm", ["customer_id", "population"], PROFILED)
    orders = warehouse.read(
        "curated",
        "fct_orders",
        ["customer_id", "order_id", "order_date", "amount_ht"],
        "is_qualifying and order_date <= %s",
        [tenant_run.as_of],
    )
    found = customers.predict(people, orders, tenant_run.as_of, tenant_run.rules)
    written = write_present(tenant_run, tables.predictions, found.rows)
    shown: dict[str, Any] = {"holdout": dg.JsonMetadataValue(found.quality)}
    if found.quality["status"] == "measured":
        shown["calibration"] = calibration_plot({"order in 90 days": found.quality["deciles"]})
        if found.quality["auc"] is not None:
            shown["auc"] = found.quality["auc"]
        if found.quality["top_decile_lift"] is not None:
            shown["top_decile_lift"] = found.quality["top_decile_lift"]
    return materialized(
        len(found.rows),
        run=tenant_run,
        churning=int(found.rows["is_churning"].sum()),
        expected_orders_365d=round(float(found.rows["expected_orders_365d"].sum()), 1),
        expected_value_365d=round(float(found.rows["expected_value_365d"].sum()), 2),
        **written,
        **shown,
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
