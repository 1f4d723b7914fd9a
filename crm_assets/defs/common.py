"""What every asset shares: the tenant partitions, the shape of a Python asset and of a check, plots as metadata.

Keep stage logic out of here.
"""

from __future__ import annotations

import base64
import inspect
import io
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg
import sqlalchemy as sa

from crm_assets import run_context, tables
from crm_assets.databases import TENANT_SCHEMAS

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

# A check without partitions would not say whose it is; the releases are pinned, so the preview cannot shift under us.
warnings.filterwarnings("ignore", message=".*partitions_def on an AssetCheckSpec.*", category=dg.PreviewWarning)

tenants_partitions = dg.DynamicPartitionsDefinition(name="tenant")

# In an asset's signature: `tenant_run: TenantRun`.
TenantRun = dg.ResourceParam[run_context.TenantRun]

OWNERS = ("team:data",)

# Tags of a run: its tenant (Dagster's own), the day of a daily one, the ISO week of a weekly refresh, the month
# (2025-12) of a monthly one, and what started it.
PARTITION_TAG = "dagster/partition"
DAY_TAG = "crm/day"
WEEK_TAG = "crm/week"
MONTH_TAG = "crm/month"
TRIGGER_TAG = "crm/trigger"
AFTER_REFRESH = "after-refresh"
STAGES = tuple(TENANT_SCHEMAS)

# In `where` of curated.dim_customers and rfm.customer_rfm: who may be scored, clustered, predicted and recommended to
# (spec.md §4.4, a person who objects to profiling).
PROFILED = "not profiling_objected"


def column_schema(table: sa.Table) -> dg.TableSchema:
    """A table's columns as Dagster shows them."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                name=column.name,
                type=str(column.type.compile(dialect=_dialect())).lower(),
                constraints=dg.TableColumnConstraints(nullable=bool(column.nullable), unique=False),
            )
            for column in table.columns
        ]
    )


def _dialect() -> sa.engine.Dialect:
    from sqlalchemy.dialects import postgresql

    return postgresql.dialect()


def table_spec(
    table: sa.Table,
    *,
    deps: Sequence[Sequence[str]] = (),
    description: str | None = None,
    kinds: Iterable[str] = ("python", "postgres"),
) -> dg.AssetSpec:
    """The spec of an asset that is a table written by Python."""
    assert table.schema is not None
    return dg.AssetSpec(
        key=dg.AssetKey([table.schema, table.name]),
        deps=[dg.AssetKey(list(key)) for key in deps],
        description="\n\n".join(text for text in (table.comment, description) if text),
        group_name=table.schema,
        owners=list(OWNERS),
        kinds=set(kinds),
        partitions_def=tenants_partitions,
        metadata={"dagster/column_schema": column_schema(table), "dagster/table_name": table.fullname},
    )


def tenant_asset(
    table: sa.Table, *, deps: Sequence[Sequence[str]] = (), kinds: Iterable[str] = ("python", "postgres")
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """An asset that is one table of a tenant. Its description is the table's comment and the function's docstring."""

    def decorate(function: Callable[..., Any]) -> dg.AssetsDefinition:
        spec = table_spec(table, deps=deps, description=inspect.getdoc(function), kinds=kinds)
        made: dg.AssetsDefinition = dg.multi_asset(specs=[spec], name=f"{table.schema}__{table.name}")(function)
        return made

    return decorate


def tenant_check(
    asset: Sequence[str],
    *,
    blocking: bool = False,
    description: str | None = None,
    name: str | None = None,
    additional_deps: Sequence[Sequence[str]] = (),
) -> Callable[[Callable[..., Any]], dg.AssetChecksDefinition]:
    """A check of a tenant's table. A red one must explain itself: measured value and threshold in its metadata."""

    def decorate(function: Callable[..., Any]) -> dg.AssetChecksDefinition:
        return dg.asset_check(
            asset=dg.AssetKey(list(asset)),
            name=name,
            blocking=blocking,
            description=description or inspect.getdoc(function),
            additional_deps=[dg.AssetKey(list(key)) for key in additional_deps],
            partitions_def=tenants_partitions,
        )(function)

    return decorate


def check_spec(
    asset: Sequence[str],
    name: str,
    description: str,
    *,
    blocking: bool = False,
    additional_deps: Sequence[Sequence[str]] = (),
) -> dg.AssetCheckSpec:
    """One of the checks of a `dg.multi_asset_check`: several lights from one look at the tables, in one step."""
    return dg.AssetCheckSpec(
        name,
        asset=dg.AssetKey(list(asset)),
        description=description,
        blocking=blocking,
        additional_deps=[dg.AssetKey(list(key)) for key in additional_deps],
        partitions_def=tenants_partitions,
    )


def materialized(
    rows: int, table: sa.Table | None = None, run: run_context.TenantRun | None = None, **metadata: Any
) -> dg.MaterializeResult[Any]:
    """The result of an asset: how many rows, as of when, and what a person would look at. No personal data."""
    shown: dict[str, Any] = {"dagster/row_count": rows, **metadata}
    if run is not None:
        shown["as_of"] = run.as_of.isoformat()
    return dg.MaterializeResult(
        asset_key=[table.schema or "", table.name] if table is not None else None, metadata=shown
    )


def plot(figure: Figure) -> dg.MarkdownMetadataValue:
    """A matplotlib figure as an image that the UI shows in line."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=80, bbox_inches="tight", metadata={"Software": None})
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return dg.MetadataValue.md(f"![plot](data:image/png;base64,{encoded})")


def new_figure(width: float = 8, height: float = 4) -> Figure:
    """An empty figure, without a display and without pyplot's global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def bars(counts: pd.Series, title: str) -> dg.MarkdownMetadataValue:
    """Counts by name as horizontal bars, the largest on top; a word where there is nothing to draw."""
    if counts.empty:
        return dg.MetadataValue.md(f"{title}: none")
    figure = new_figure(7, 0.6 + 0.32 * len(counts))
    axes = figure.subplots()
    ordered = counts.sort_values(kind="stable")
    drawn = axes.barh([str(name) for name in ordered.index], ordered.to_numpy(), color="#7a2531")
    axes.bar_label(drawn, padding=3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title)
    return plot(figure)


# External assets: what later stages write and earlier ones read, as of the run's start (no cycle).
STATE_TABLES = (
    tables.messages,
    tables.chunks,
    tables.activation_contacts,
    tables.events,
    tables.review_decisions,
)


def state_key(table: sa.Table) -> dg.AssetKey:
    """The key under which a table that later stages write is read by earlier ones."""
    return dg.AssetKey(["state", table.name])
