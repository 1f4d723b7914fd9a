"""Runs of recommendations are kept: what went in and came out of each, and its back-test; none is written twice.

The asset writes to a real database what a hand-made engine gives it; the whole path is in test_pipeline.py.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd
import pytest

from crm_assets import databases, rules, rules_files, run_context, tables, versions
from crm_assets.defs.common import tenants_partitions
from crm_assets.defs.recommendations import assets, backtests, checks
from crm_assets.logic.backtesting import ENGINES, LISTS, MEASURES
from crm_assets.logic.recommendations import COMPONENTS, SCENARIOS
from crm_assets.resources.warehouse import Warehouse, WarehouseError
from crm_assets.settings import ROOT, Settings
from crm_assets.tenants import Tenant, load_tenant

AS_OF = date(2025, 12, 29)
TOPS = rules.load().ranking.backtest.tops
TOP = rules.load().ranking.backtest.judged_by
SERVING = {"mixed": "reranked", "repeat": "reranked", "explore": "ridge"}
Run = Callable[..., Any]


def measures(as_of: date = AS_OF, ndcg: float = 0.2) -> pd.DataFrame:
    """A back-test as `recommend` gives it: the later the engine stands in ENGINES, the better it is."""
    about = {"cut": as_of - timedelta(days=91), "window_days": 91, "customers": 500}
    rows = [
        {
            **about,
            "part": part,
            "engine": engine,
            "top": top,
            **dict.fromkeys(MEASURES, ndcg * (1 + place) / len(ENGINES)),
            **dict.fromkeys(("recall_repeat", "recall_explore"), 0.1 if part == "mixed" else np.nan),
            "is_serving": SERVING[part] == engine,
        }
        for part in LISTS
        for place, engine in enumerate(ENGINES)
        for top in TOPS
    ]
    rows += [
        {
            **about,
            "part": part,
            "engine": "policy",
            "top": top,
            **dict.fromkeys(MEASURES, 0.1 * top),
            "is_serving": True,
        }
        for part in SCENARIOS
        for top in (1, 3)
    ]
    return pd.DataFrame(rows)


def made(as_of: date = AS_OF, ndcg: float = 0.2, product: str = "P1") -> Any:
    """What `recommend` gives: two people with a wine each, and a back-test."""
    items = pd.DataFrame(
        {
            "customer_id": ["c1", "c2"],
            "wine_id": "w1",
            "product_key": product,
            "scenario": ["rebuy", "nurture"],
            "rank": 1,
            "score": [80.0, 40.0],
            "probability": 0.2,
            "confidence": 0.5,
            **dict.fromkeys(COMPONENTS, 0.5),
            "explain_short": "déjà apprécié",
            "customer_sentence": "Un vin droit.",
            "reasons": "{}",
            "rules_version": "r",
        }
    )
    bands = [{"predicted": share, "observed": share} for share in (0.3, 0.1, 0.02)]
    engine = {
        "customers": 3,
        "customers_with_items": 2,
        "items_by_scenario": {"rebuy": 1, "nurture": 1},
        "displaced_by_stock": 0,
        "calibration": {
            "cut_days_before": 90,
            "history_days": 900,
            "repeat": {"method": "isotonic", "candidates": 300, "ordered": 40, "deciles": bands},
            "explore": {"method": "base_rate", "base_rate": 0.01, "reason": "too short", "candidates": 9, "ordered": 0},
        },
        "ranking": {
            "choice": SERVING,
            "reasons": dict.fromkeys(LISTS, "NDCG@10 0.2000 at the last cut"),
            "recipes": {name: rules.load().ranking.recipe.model_dump() for name in LISTS},
            "tuning": {"status": "default"},
            "labelled_orders": 5000,
            "cut": "2025-09-29",
            "window_days": 91,
        },
    }
    return SimpleNamespace(items=items, engine=engine, backtests=measures(as_of, ndcg))


@pytest.fixture
def run(
    tenant_warehouse: Warehouse, environment: Settings, cluster: databases.Cluster, monkeypatch: pytest.MonkeyPatch
) -> Run:
    """Make a run with a hand-made engine: its run_id, and the metadata of each table."""
    estate = load_tenant(ROOT / "tenants" / "demo.yaml").model_dump(mode="json")

    def one(
        result: Any = None, *, as_of: date = AS_OF, is_historical: bool = False, **overrides: Any
    ) -> tuple[str, dict[str, dict[str, Any]]]:
        monkeypatch.setattr(assets, "inputs_of", lambda tenant_run: None)
        monkeypatch.setattr(assets.recommendations, "recommend", lambda *given: result)
        tenant = Tenant.model_validate({**estate, **overrides})
        of_run = run_context.TenantRun(
            tenant=tenant,
            as_of=as_of,
            now=datetime.now(UTC),
            warehouse=tenant_warehouse,
            is_historical=is_historical,
            state_version="state",
            config=environment,
            cluster=cluster,
        )
        with dg.DagsterInstance.ephemeral() as instance:
            instance.add_dynamic_partitions(str(tenants_partitions.name), ["demo"])
            done = dg.materialize(
                [assets.runs_and_items, checks.what_serves_beats_the_baselines, checks.the_backtest_is_whole],
                partition_key="demo",
                instance=instance,
                resources={"tenant_run": of_run},
            )
        shown = {
            made.asset_key.path[-1]: {name: value.value for name, value in made.metadata.items()}
            for made in (event.materialization for event in done.get_asset_materialization_events())
        }
        shown["lights"] = {e.check_name: e.passed for e in done.get_asset_check_evaluations()}
        return of_run.run_id, shown

    return one


def loaded(warehouse: Warehouse, sha256: str) -> None:
    """One more file in the ledger, so that the dataset is another one."""
    seen = datetime(2025, 12, 1, tzinfo=UTC)
    line = {"path": f"{sha256}.csv", "sha256": sha256, "file_id": sha256, "status": "loaded", "size_bytes": 1}
    warehouse.append(tables.raw_files, pd.DataFrame([{**line, "modified_at": seen, "first_seen_at": seen}]))


def kept(warehouse: Warehouse, run_id: str) -> dict[str, list[str]]:
    """Every byte of a run."""
    return {
        table: [
            row[0]
            for row in warehouse.rows(
                f"select t::text from recommendations.{table} t where run_id = %s order by 1", [run_id]
            )
        ]
        for table in ("runs", "items", "backtests")
    }


def test_a_run_says_what_went_in_which_engine_served_why_and_with_which_weights(
    run: Run, tenant_warehouse: Warehouse
) -> None:
    loaded(tenant_warehouse, "a")
    result = made()
    run_id, _ = run(result)
    (row,) = tenant_warehouse.read("recommendations", "runs").to_dict("records")
    estate = load_tenant(ROOT / "tenants" / "demo.yaml")
    assert row["run_id"] == run_id
    assert (row["rules_version"], row["config_version"]) == (estate.business_rules.version, estate.version)
    assert row["code_version"] == versions.code_version()
    assert row["dataset_version"] == versions.dataset_version(tenant_warehouse)
    assert row["state_version"] == "state"
    assert row["engine"]["ranking"] == result.engine["ranking"]
    written = tenant_warehouse.read("recommendations", "backtests")
    columns = list(result.backtests.columns)
    key = ["part", "engine", "top"]
    pd.testing.assert_frame_equal(
        written.sort_values(key)[columns].reset_index(drop=True),
        result.backtests.assign(cut=pd.to_datetime(result.backtests["cut"])).sort_values(key).reset_index(drop=True),
        check_dtype=False,
    )
    assert set(written["run_id"]) == {run_id}
    assert set(written["as_of"]) == {pd.Timestamp(AS_OF)}
    assert set(written["rules_version"]) == {estate.business_rules.version}


def test_the_same_run_twice_leaves_the_same_bytes_whatever_the_engine_would_say(
    run: Run, tenant_warehouse: Warehouse
) -> None:
    run_id, first = run(made())
    before = kept(tenant_warehouse, run_id)
    again, second = run(made(ndcg=0.9, product="P2"))
    assert again == run_id
    assert kept(tenant_warehouse, run_id) == before
    assert {name: len(rows) for name, rows in before.items()} == {
        "runs": 1,
        "items": 2,
        "backtests": len(made().backtests),
    }
    for name in ("runs", "items", "backtests"):
        assert (first[name].pop("reused"), second[name].pop("reused")) == (False, True)
        assert second[name] == first[name], "a reused run shows what the first one did"


def test_a_new_file_a_changed_rule_another_language_and_an_earlier_day_are_runs_of_their_own(
    run: Run, tenant_warehouse: Warehouse
) -> None:
    made_runs = {"first": run(made())[0]}
    bytes_of = {"first": kept(tenant_warehouse, made_runs["first"])}
    steps: dict[str, dict[str, Any]] = {
        "new file": {},
        "changed rule": {"rules": {"recommendations": {"max_per_customer": 2}}},
        "other language": {"locale": "de"},
        "earlier day": {"as_of": date(2025, 6, 30), "is_historical": True},
    }
    for number, (name, given) in enumerate(steps.items(), start=2):
        if name == "new file":
            loaded(tenant_warehouse, "b")
        made_runs[name], _ = run(made(given.get("as_of", AS_OF), ndcg=0.1 * number, product=f"P{number}"), **given)
        bytes_of[name] = kept(tenant_warehouse, made_runs[name])
        assert all(bytes_of[name].values())
    assert len(set(made_runs.values())) == 1 + len(steps)
    assert {name: kept(tenant_warehouse, run_id) for name, run_id in made_runs.items()} == bytes_of
    runs = tenant_warehouse.read("recommendations", "runs").set_index("run_id")
    assert runs["is_historical"].to_dict() == {run_id: name == "earlier day" for name, run_id in made_runs.items()}
    for column in ("dataset_version", "rules_version", "config_version"):
        assert runs[column].nunique() == {"dataset_version": 2, "rules_version": 2, "config_version": 3}[column]
    rule_sets = tenant_warehouse.read("recommendations", "rule_sets")
    assert set(rule_sets["rules_version"]) == set(runs["rules_version"])


def test_a_run_that_breaks_off_is_not_there_and_can_be_made_again(
    run: Run, tenant_warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = made()
    broken.backtests.loc[0, "ndcg"] = None
    with pytest.raises(WarehouseError, match="NotNullViolation"):
        run(broken)
    assert [tenant_warehouse.count("recommendations", name) for name in ("runs", "items", "backtests")] == [0, 0, 0]
    run_id, _ = run(made())
    assert all(kept(tenant_warehouse, run_id).values())


def png(markdown: str) -> bytes:
    return base64.b64decode(markdown.partition("base64,")[2].rstrip(")"))


def test_the_asset_shows_who_serves_its_figures_and_its_plots(run: Run) -> None:
    _, shown = run(made())
    seen = shown["backtests"]
    assert {name: seen[f"serves_{name}"] for name in LISTS} == SERVING
    assert seen[f"explore_ndcg_at_{TOP}"] == pytest.approx(0.2 * 4 / 5)
    assert seen[f"mixed_hit_rate_at_{TOP}"] == pytest.approx(0.2)
    assert "| explore | ridge | NDCG@10 0.2000 at the last cut | " in seen["serving"]
    assert "personal 0.4" in seen["serving"]
    assert seen["measures"].count("\n") == 1 + len(made().backtests)
    for name in ("engines", "over_time", "scenarios"):
        assert png(seen[name]).startswith(b"\x89PNG")
    assert png(shown["items"]["calibration"]).startswith(b"\x89PNG")
    assert shown["lights"] == {"what_serves_beats_the_baselines": True, "the_backtest_is_whole": True}


@pytest.mark.parametrize("rows", [(), SCENARIOS])
def test_without_enough_history_there_is_a_reason_instead_of_figures(
    run: Run, tenant_warehouse: Warehouse, rows: tuple[str, ...]
) -> None:
    young = made()
    young.backtests = young.backtests[young.backtests["part"].isin(rows)]
    young.backtests[["customers", *MEASURES]] = 0
    young.engine["ranking"]["reasons"] = dict.fromkeys(LISTS, "12 customers to judge by, 100 needed")
    _, shown = run(young)
    assert tenant_warehouse.count("recommendations", "backtests") == 2 * len(rows)
    assert "12 customers to judge by" in shown["backtests"]["serving"]
    assert not {"engines", "over_time", "scenarios"} & set(shown["backtests"])
    assert shown["lights"] == {"what_serves_beats_the_baselines": True, "the_backtest_is_whole": True}


def test_over_time_stands_the_newest_run_of_each_day_and_no_historical_one_but_the_run_itself(
    run: Run, tenant_warehouse: Warehouse
) -> None:
    weeks = [AS_OF - timedelta(days=7 * number) for number in (3, 2, 1, 0)]
    first, *others = [run(made(week), as_of=week)[0] for week in weeks]
    loaded(tenant_warehouse, "b")
    second, _ = run(made(weeks[0]), as_of=weeks[0])
    historical, _ = run(made(date(2025, 7, 1)), as_of=date(2025, 7, 1), is_historical=True)

    def seen(run_id: str, as_of: date) -> list[str]:
        return list(backtests.kept_over_time(tenant_warehouse, run_id, as_of)["run_id"].unique())

    assert seen(others[-1], AS_OF) == [second, *others]
    assert seen(others[0], weeks[1]) == [second, others[0]], "a run does not show what came after its day"
    assert seen(first, weeks[0]) == [first], "of its own day a run shows itself"
    assert seen(historical, date(2025, 7, 1)) == [historical]


@pytest.mark.parametrize(
    ("change", "light"),
    [
        ({"part": "explore", "engine": "popularity", "ndcg": 0.17}, "what_serves_beats_the_baselines"),
        ({"part": "mixed", "engine": "gp_topfreq", "ndcg": 0.21}, "what_serves_beats_the_baselines"),
        ({"part": "rebuy", "engine": "policy", "hit_rate": 1.2}, "the_backtest_is_whole"),
        ({"part": "mixed", "engine": "ridge", "recall_explore": -0.1}, "the_backtest_is_whole"),
        ({"part": "repeat", "engine": "ridge", "is_serving": True}, "the_backtest_is_whole"),
        ({"part": "repeat", "engine": "ridge"}, "the_backtest_is_whole"),
        ({"part": "upsell", "engine": "policy"}, "the_backtest_is_whole"),
    ],
)
def test_a_breach_turns_its_light_amber_alone(run: Run, change: dict[str, Any], light: str) -> None:
    """A change without a value: one row is missing."""
    result = made()
    rows, column = result.backtests, list(change)[-1]
    hit = (rows["part"] == change["part"]) & (rows["engine"] == change["engine"]) & rows["top"].isin([1, TOP])
    if column == "engine":
        result.backtests = rows[~hit]
    else:
        rows.loc[hit, column] = change[column]
    _, shown = run(result)
    assert {name for name, passed in shown["lights"].items() if not passed} == {light}


def test_few_customers_judge_nobody(run: Run) -> None:
    few = made()
    few.backtests["customers"] = rules.load().ranking.tuning.min_customers - 1
    few.backtests.loc[few.backtests["engine"] == "popularity", "ndcg"] = 0.9
    assert run(few)[1]["lights"]["what_serves_beats_the_baselines"]


def test_the_rules_of_a_run_are_kept_so_that_a_change_shows(run: Run, tenant_warehouse: Warehouse) -> None:
    run_id, shown = run(made())
    version, then = rules_files.rules_of_run(tenant_warehouse, run_id)
    demo = load_tenant(ROOT / "tenants" / "demo.yaml")
    of_demo = demo.business_rules
    assert (version, then) == (of_demo.version, of_demo.model_dump(mode="json"))
    assert shown["rule_sets"]["rules_version"] == version
    assert rules_files.changes(then, of_demo) == []
    now = rules.load({**demo.rules, "audit": {"silence_days": 21}})
    assert [str(change) for change in rules_files.changes(then, now)] == ["audit.silence_days: 14 -> 21"]
    tenant_warehouse.execute("delete from recommendations.rule_sets")
    with pytest.raises(rules_files.RulesError, match=f"the rules of run {run_id} .* were not kept"):
        rules_files.rules_of_run(tenant_warehouse, run_id)
    with pytest.raises(rules_files.RulesError, match="no run 'feedc0de'"):
        rules_files.rules_of_run(tenant_warehouse, "feedc0de")
