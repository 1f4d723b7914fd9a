"""House rules on the loaded graph: keys, groups, descriptions, owners, columns, checks, and no cycle."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import dagster as dg
import pytest

from crm_assets import tables
from crm_assets.dbt_manifest import ensure_manifest
from crm_assets.settings import ROOT

ensure_manifest()

from crm_assets.definitions import defs  # noqa: E402
from crm_assets.defs.common import STAGES, tenants_partitions  # noqa: E402

SPECS = {spec.key: spec for spec in defs.resolve_all_asset_specs()}
GRAPH = defs.resolve_asset_graph()
OURS = {key: spec for key, spec in SPECS.items() if key.path[0] != "state"}

# The tables that other programs may rely on (issue 2, §9).
PROMISED = [
    "raw.files",
    "raw.sales_lines",
    "raw.customers",
    "raw.products",
    "raw.stock",
    "raw.contacts",
    "raw.aliases",
    "curated.dim_customers",
    "curated.customer_xref",
    "curated.dim_products",
    "curated.fct_sales_lines",
    "curated.fct_orders",
    "curated.stock_levels",
    "curated.contact_events",
    "curated.quarantined_rows",
    "curated.unmatched_products",
    "rfm.customer_rfm",
    "rfm.customer_rfm_history",
    "rfm.customer_preferences",
    "rfm.product_popularity",
    "customers.taste_profiles",
    "customers.clusters",
    "customers.cluster_profiles",
    "customers.predictions",
    "recommendations.runs",
    "recommendations.items",
    "recommendations.backtests",
    "audit.findings",
    "audit.scores",
    "audit.data_quality",
    "gate.decisions",
    "gate.next_actions",
    "review.decisions",
    "activation.campaigns",
    "activation.batches",
    "activation.messages",
    "activation.attempts",
    "customers.cluster_history",
    "kpis.monthly_sales",
    "kpis.cohort_retention",
    "kpis.rfm_transitions",
    "kpis.cluster_transitions",
    "kpis.product_performance",
    "kpis.family_performance",
    "kpis.habits",
    "kpis.anomalies",
    "kpis.anomaly_counts",
]
STATE = [
    *(
        f"activation.{name}"
        for name in (
            "contacts",
            "pauses",
            "payloads",
            "instances",
            "armings",
            "interventions",
            "test_sends",
            "notices",
        )
    ),
    "activation.brevo_templates",
    *(f"outcomes.{name}" for name in ("received",)),
]


@pytest.mark.parametrize("name", PROMISED)
def test_a_promised_table_is_an_asset(name: str) -> None:
    assert dg.AssetKey(name.split(".")) in OURS


@pytest.mark.parametrize("name", STATE)
def test_a_promised_state_table_exists(name: str) -> None:
    assert name in tables.metadata.tables


@pytest.mark.parametrize("key", sorted(OURS), ids=lambda key: key.to_user_string())
def test_an_asset_follows_the_house_rules(key: dg.AssetKey) -> None:
    spec = OURS[key]
    stage, table = key.path
    assert stage in STAGES
    assert spec.group_name == stage
    assert re.fullmatch(r"[a-z][a-z0-9_]*", table)
    assert (spec.description or "").startswith("One row per "), "a description says what a row is"
    assert list(spec.owners)
    assert set(spec.kinds) & {"python", "dbt"}
    assert "postgres" in spec.kinds
    assert spec.partitions_def == tenants_partitions
    schema = spec.metadata.get("dagster/column_schema")
    assert schema is not None, "every table shows its columns"
    columns = getattr(schema, "value", schema).columns
    assert columns
    assert all(column.type for column in columns)


def test_every_python_table_is_written_by_an_asset_or_is_state() -> None:
    written = {".".join(key.path) for key in OURS}
    assert set(tables.metadata.tables) - written == set(STATE)


def test_every_stage_is_a_group_and_every_group_a_stage_or_state() -> None:
    groups = {spec.group_name for spec in SPECS.values()}
    assert groups - {"state"} == set(STAGES)


def test_lineage_is_unbroken_from_a_file_to_a_batch() -> None:
    reached = {dg.AssetKey(["activation", "batches"])}
    while True:
        more = {parent for key in reached for parent in GRAPH.get(key).parent_keys} | reached
        if more == reached:
            break
        reached = more
    passed = {key.path[0] for key in reached}
    assert {"landing", "raw", "staging", "curated", "rfm", "customers", "recommendations", "audit", "gate"} <= passed
    assert dg.AssetKey(["landing", "files"]) in reached


def test_stages_are_in_the_order_in_which_the_documentation_tells_them() -> None:
    told = re.search(r"^landing → .*", (ROOT / "docs" / "naming.md").read_text("utf-8"), re.MULTILINE)
    assert told is not None
    named = re.findall(r"\w+", told[0].partition("(")[0])
    assert named == [stage for stage in STAGES if stage != "review"]
    assert told[0].partition("(")[0].strip() in (ROOT / "README.md").read_text("utf-8")


def test_kpis_are_built_with_the_outcomes_and_never_in_the_refresh() -> None:
    repository = defs.get_repository_def()
    kpis = {key for key in OURS if key.path[0] == "kpis"}
    reached = {name: repository.get_job(name).asset_layer.executable_asset_keys for name in ("refresh", "report")}
    assert kpis <= reached["report"]
    assert not kpis & reached["refresh"]
    assert GRAPH.get(dg.AssetKey(["outcomes", "campaign_results"])).assets_def.keys >= kpis


def test_what_no_asset_reads_or_that_nothing_makes_is_known() -> None:
    dangling = [key for key in SPECS if key.path[0] != "state" and not GRAPH.get(key).is_materializable]
    assert dangling == [], "only state may come from outside the graph"


@pytest.mark.parametrize(
    "stage", ["raw", "staging", "curated", "rfm", "recommendations", "audit", "gate", "activation", "kpis"]
)
def test_a_stage_where_data_can_be_wrong_has_checks(stage: str) -> None:
    assert [key for key in GRAPH.asset_check_keys if key.asset_key.path[0] == stage]


def test_great_expectations_watches_the_landed_batch_and_the_recommendations() -> None:
    names = {(key.asset_key.path[0], key.name) for key in GRAPH.asset_check_keys}
    assert any(stage == "raw" and "expectations" in name for stage, name in names)
    assert any(stage == "recommendations" and "expectations" in name for stage, name in names)


def test_jobs_sensors_and_schedules_are_there_and_on() -> None:
    repository = defs.get_repository_def()
    assert {"refresh", "plan_campaign", "send_campaign", "explain_customer"} <= set(repository.job_names)
    assert {"stop_sending", "resume_sending", "test_campaign", "accept_test"} <= set(repository.job_names)
    sensors = {sensor.name: sensor for sensor in repository.sensor_defs}
    assert {"dropped_files", "tenant_files", "run_failures", "plan_after_refresh"} <= set(sensors)
    assert all(sensor.default_status == dg.DefaultSensorStatus.RUNNING for sensor in sensors.values())
    schedules = {schedule.name: schedule for schedule in repository.schedule_defs}
    assert {"weekly_refresh", "monthly_report", "continue_sends", "daily_feedback"} <= set(schedules)
    assert all(schedule.default_status == dg.DefaultScheduleStatus.RUNNING for schedule in schedules.values())


def test_no_sensor_or_schedule_ever_starts_the_sending_job_but_the_one_that_goes_on() -> None:
    repository = defs.get_repository_def()
    targets = {name for sensor in repository.sensor_defs for name in [t.job_name for t in sensor.targets]}
    beginning = [schedule for schedule in repository.schedule_defs if schedule.name != "continue_sends"]
    targets |= {schedule.job_name for schedule in beginning}
    assert "send_campaign" not in targets


LOGIC = sorted((ROOT / "crm_assets" / "logic").glob("*.py"))
HEAVY = {"great_expectations", "sklearn", "matplotlib", "scipy", "rapidfuzz", "phonenumbers", "email_validator"}
FOREIGN = {"dagster", "dagster_dbt", "dbt", "psycopg", "psycopg2", "sqlalchemy", "httpx", "os", "time", "random"}


def imports(path: Path, top_only: bool) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_only else list(ast.walk(tree))
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("path", LOGIC, ids=lambda path: path.name)
def test_logic_knows_no_orchestrator_driver_clock_or_environment(path: Path) -> None:
    assert not imports(path, top_only=False) & FOREIGN


@pytest.mark.parametrize(
    "path", sorted((ROOT / "crm_assets").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT))
)
def test_heavy_libraries_are_imported_where_they_are_used(path: Path) -> None:
    assert not imports(path, top_only=True) & HEAVY
