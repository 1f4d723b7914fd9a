"""The dbt models as assets: one `@dbt_assets` for the refresh, another for outcomes and KPIs.

A model's key is [stage, model], its group the stage, and its tests are its checks. dbt runs once per tenant run,
against that tenant's database, with the tenant's own target folder so that its partial parse stays good.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import dagster as dg
from dagster_dbt import (
    DagsterDbtCliRuntimeError,
    DagsterDbtTranslator,
    DagsterDbtTranslatorSettings,
    DbtCliResource,
    DbtProject,
    dbt_assets,
)

from crm_assets import run_context
from crm_assets.dbt_manifest import MANIFEST, PROJECT, dbt_executable
from crm_assets.defs.common import STATE_TABLES, TenantRun, bars, tenants_partitions
from crm_assets.defs.kpis import plots
from crm_assets.defs.outcomes import plots as outcome_plots
from crm_assets.resources.warehouse import Warehouse

project = DbtProject(project_dir=PROJECT)
_STATE = {(table.schema, table.name) for table in STATE_TABLES}
# Of these, what no asset of its own writes: also the outcomes read it as it was when the run started.
_ONLY_STATE = {("outcomes", "events"), ("activation", "chunks")}

if not MANIFEST.exists():
    raise FileNotFoundError(f"{MANIFEST} is missing: every ./crm command makes it; or run: ./crm check")


class StageTranslator(DagsterDbtTranslator):
    """Keys and groups by stage. State that later stages write is read under ["state", table]: no cycle."""

    def __init__(self, reads_state: bool) -> None:
        super().__init__(DagsterDbtTranslatorSettings(enable_source_tests_as_checks=False))
        self.reads_state = reads_state

    def get_asset_spec(self, manifest: Mapping[str, Any], unique_id: str, project: DbtProject | None) -> dg.AssetSpec:
        spec = super().get_asset_spec(manifest, unique_id, project)
        props = self.get_resource_props(manifest, unique_id)
        if props["resource_type"] == "source":
            schema, name = props["source_name"], props["name"]
            is_state = (schema, name) in _STATE and (self.reads_state or (schema, name) in _ONLY_STATE)
            return spec.replace_attributes(key=dg.AssetKey(["state" if is_state else schema, name]))
        stage = props["fqn"][1]
        return spec.replace_attributes(
            key=dg.AssetKey([stage, props["name"]]),
            group_name=stage,
            kinds={"dbt", "postgres"},
            partitions_def=tenants_partitions,
        )

    def get_asset_check_spec(
        self, asset_spec: dg.AssetSpec, manifest: Mapping[str, Any], unique_id: str, project: DbtProject | None
    ) -> dg.AssetCheckSpec | None:
        spec = super().get_asset_check_spec(asset_spec, manifest, unique_id, project)
        # Without partitions a red check would not say whose it is, without a description not what it means.
        meaning = check_meaning(self.get_resource_props(manifest, unique_id))
        return spec and spec._replace(partitions_def=tenants_partitions, description=meaning)


def check_meaning(test: Mapping[str, Any]) -> str | None:
    """What a data test wants, for the light in the UI: as it says itself, else what its kind says of its columns.

    A singular test says it in its meta: a description in a .yml is lost when dbt parses the changed file alone.
    """
    if said := test.get("description") or test.get("meta", {}).get("description"):
        return str(said)
    generic = test.get("test_metadata") or {}
    asked = generic.get("kwargs", {})
    column = f"`{asked.get('column_name')}`"
    match generic.get("name"):
        case "unique":
            return f"No two rows have the same {column}."
        case "not_null":
            return f"Every row has a {column}."
        case "accepted_values":
            return f"{column} is one of " + ", ".join(f"`{value}`" for value in asked["values"]) + "."
        case "relationships":
            found = re.search(r"'(\w+)'\s*\)", asked["to"])
            return f"Every {column} is a `{asked['field']}` of `{found[1] if found else asked['to']}`."
        case "unique_together":
            return "No two rows agree in all of " + ", ".join(f"`{name}`" for name in asked["columns"]) + "."
    return None


class Dbt(DbtCliResource):
    """dbt's command line, without what costs seconds and serves nothing here."""

    def _initialize_dbt_core_adapter(self, args: Sequence[str]) -> None:  # type: ignore[override]
        # Loads all of dbt into this process a second time, for row counts: one SELECT gives those.
        return None

    @property
    def _cli_version(self) -> Any:
        # `dbt --version` starts a process and asks the network; the installed package knows.
        from importlib.metadata import version as installed

        from packaging import version

        return version.parse(installed("dbt-core"))


def dbt_resource() -> Dbt:
    """The dbt of this Python environment, on our project and its profile."""
    return Dbt(project_dir=os.fspath(PROJECT), profiles_dir=os.fspath(PROJECT), dbt_executable=dbt_executable())


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Variables for dbt, which takes a connection from nowhere else. One run per process: nobody else sees them."""
    before = {name: os.environ.get(name) for name in variables}  # noqa: TID251
    os.environ.update(variables)  # noqa: TID251
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]  # noqa: TID251
            else:
                os.environ[name] = value  # noqa: TID251


def _build(context: dg.AssetExecutionContext, dbt: DbtCliResource, tenant_run: run_context.TenantRun) -> Iterator[Any]:
    """Run dbt and pass its events on, each model's with its row count and the as-of date."""
    target, variables = run_context.dbt_target(tenant_run.tenant, tenant_run.warehouse, tenant_run.config)
    # Code is tested by ./crm test, data in every run: also when the UI is asked for a part of the models, where the
    # selection of `@dbt_assets` does not count.
    with _environment({**variables, "DBT_EXCLUDE_RESOURCE_TYPES": "unit_test"}):
        invocation = dbt.cli(["build"], context=context, target_path=target)
    for event in _without_values(invocation.stream()):
        if isinstance(event, dg.Output):
            stage, model = context.asset_key_for_output(event.output_name).path
            shown: dict[str, Any] = {
                **event.metadata,
                "dagster/row_count": tenant_run.warehouse.count(stage, model),
                "as_of": tenant_run.as_of.isoformat(),
            }
            if picture := PICTURES.get((stage, model)):
                name, draw = picture
                shown[name] = draw(tenant_run.warehouse)
            event = event.with_metadata(shown)
        yield event


def _without_values(events: Iterator[Any]) -> Iterator[Any]:
    """dbt's events; its error without the values that PostgreSQL quotes, which may be personal."""
    try:
        yield from events
    except DagsterDbtCliRuntimeError as error:
        text = re.sub(r"DETAIL:.*", "DETAIL: (left out)", str(error))
        text = re.sub(r'(invalid input [^:]*|out of range[^:]*|syntax[^:]*): "[^"]*"', r"\1: (left out)", text)
        raise dg.Failure(f"dbt failed: {text}") from None


def _segment_sizes(warehouse: Warehouse) -> dg.MarkdownMetadataValue:
    """How many customers each RFM segment has, as a picture."""
    found = warehouse.read("rfm", "customer_rfm", columns=["segment", "as_of"])
    day = f", {found['as_of'].iloc[0]:%Y-%m-%d}" if len(found) else ""
    return bars(found["segment"].value_counts(), f"Customers by RFM segment{day}")


# (stage, model) -> the name and the maker of the picture that its asset shows.
PICTURES: dict[tuple[str, str], tuple[str, Callable[[Warehouse], dg.MarkdownMetadataValue]]] = {
    ("rfm", "customer_rfm"): ("segment_sizes", _segment_sizes),
    ("outcomes", "campaign_results"): ("funnel", outcome_plots.funnel),
    ("outcomes", "campaign_uplift"): ("uplift", outcome_plots.uplift),
    ("outcomes", "campaign_arms"): ("arms", outcome_plots.arms),
    ("kpis", "monthly_sales"): ("revenue_by_month", plots.revenue_by_month),
    ("kpis", "cohort_retention"): ("retention", plots.retention),
    ("kpis", "rfm_transitions"): ("movement", partial(plots.transitions, name="rfm_transitions", side="segment")),
    ("kpis", "cluster_transitions"): (
        "movement",
        partial(plots.transitions, name="cluster_transitions", side="cluster_name"),
    ),
}


@dbt_assets(
    manifest=MANIFEST,
    project=project,
    exclude="tag:outcomes tag:kpis resource_type:unit_test",
    name="dbt_refresh",
    partitions_def=tenants_partitions,
    dagster_dbt_translator=StageTranslator(reads_state=True),
)
def dbt_refresh(context: dg.AssetExecutionContext, dbt: DbtCliResource, tenant_run: TenantRun) -> Iterator[Any]:
    """Staging, curated, rfm and the facts that the audit looks at."""
    yield from _build(context, dbt, tenant_run)


@dbt_assets(
    manifest=MANIFEST,
    project=project,
    select="tag:outcomes tag:kpis",
    exclude="resource_type:unit_test",
    name="dbt_outcomes",
    partitions_def=tenants_partitions,
    dagster_dbt_translator=StageTranslator(reads_state=False),
)
def dbt_outcomes(context: dg.AssetExecutionContext, dbt: DbtCliResource, tenant_run: TenantRun) -> Iterator[Any]:
    """What became of the messages, and what the estate's figures say."""
    yield from _build(context, dbt, tenant_run)
