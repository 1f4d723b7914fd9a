"""House rules on the checks: what is landed and curated is watched, and every light explains itself."""

from __future__ import annotations

import json

import dagster as dg
import pytest

from crm_assets import tables
from crm_assets.dbt_manifest import MANIFEST, PROJECT, ensure_manifest

ensure_manifest()

from crm_assets.definitions import defs  # noqa: E402
from crm_assets.defs.common import tenants_partitions  # noqa: E402

GRAPH = defs.resolve_asset_graph()
CHECKS = {key: GRAPH.get_check_spec(key) for key in GRAPH.asset_check_keys}
WATCHED = [
    key for key in GRAPH.get_all_asset_keys() if key.path[0] in ("landing", "raw", "curated") and len(key.path) == 2
]
MODELS = json.loads(MANIFEST.read_text("utf-8"))["nodes"]
CURATED = sorted(
    node["name"] for node in MODELS.values() if node["resource_type"] == "model" and node["fqn"][1] == "curated"
)


@pytest.mark.parametrize("key", sorted(WATCHED), ids=lambda key: key.to_user_string())
def test_everything_landed_or_curated_has_a_check(key: dg.AssetKey) -> None:
    assert [check for check in CHECKS if check.asset_key == key]


@pytest.mark.parametrize("key", sorted(CHECKS, key=str), ids=lambda key: f"{key.asset_key.to_user_string()}:{key.name}")
def test_a_light_is_of_an_estate_and_says_what_it_means(key: dg.AssetCheckKey) -> None:
    spec = CHECKS[key]
    assert spec.partitions_def == tenants_partitions, "a red light says whose it is"
    assert spec.description or key.asset_key.path[0] not in ("landing", "raw", "staging", "curated", "audit")


def test_every_data_test_of_dbt_is_a_light() -> None:
    written = {node["name"] for node in MODELS.values() if node["resource_type"] == "test"}
    assert written - {key.name for key in CHECKS} == set()


def test_every_raw_table_is_compared_with_its_past() -> None:
    for name in tables.RAW_TABLES:
        names = {key.name for key in CHECKS if key.asset_key == dg.AssetKey(["raw", name])}
        assert "schema_is_unchanged" in names
        # Aliases are written by hand, when they are needed: neither age nor size says anything.
        assert (name == "aliases") == ({"is_fresh", "volume_is_usual"} & names == set())


def test_faults_of_ours_stop_what_would_be_built_on_them() -> None:
    blocking = {(key.asset_key.to_user_string(), key.name) for key, spec in CHECKS.items() if spec.blocking}
    assert {
        ("raw/files", "raw_rows_match_the_ledger"),
        ("curated/file_accounting", "rows_of_a_file_add_up"),
        ("curated/file_accounting", "all_rows_ever_loaded_are_accounted_for"),
        ("curated/fct_sales_lines", "curated_accepted_revenue_reaches_the_facts"),
        ("curated/fct_orders", "curated_order_is_the_sum_of_its_lines"),
    } <= blocking


@pytest.mark.parametrize("name", CURATED)
def test_a_curated_model_has_its_own_yml_a_contract_and_says_what_each_column_is(name: str) -> None:
    node = MODELS[f"model.crm.{name}"]
    assert node["patch_path"].endswith(f"models/curated/{name}.yml")
    assert (PROJECT / "models" / "curated" / f"{name}.yml").read_text("utf-8").count("  - name: " + name + "\n") == 1
    assert node["contract"]["enforced"]
    assert node["description"].startswith("One row per ")
    assert [column["name"] for column in node["columns"].values() if not column["description"]] == []
    assert [column["name"] for column in node["columns"].values() if not column["data_type"]] == []
