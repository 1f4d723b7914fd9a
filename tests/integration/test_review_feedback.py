"""What people decide in review comes back into the next list: from rows of review.decisions to who is offered what."""

from __future__ import annotations

import dataclasses
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pandas as pd
import pytest

from crm_assets import databases, rules, run_context, tables
from crm_assets.defs.recommendations import assets
from crm_assets.logic.customers import AROMA_AXES
from crm_assets.logic.recommendations import recommend
from crm_assets.resources.warehouse import Warehouse
from crm_assets.settings import ROOT, Settings
from crm_assets.tenants import load_tenant

AS_OF = date(2025, 12, 31)
RULES = rules.load()
DAYS = RULES.recommendations.rejection_days


@pytest.fixture
def tenant_run(tenant_warehouse: Warehouse, environment: Settings, cluster: databases.Cluster) -> run_context.TenantRun:
    return run_context.TenantRun(
        tenant=load_tenant(ROOT / "tenants" / "demo.yaml"),
        as_of=AS_OF,
        now=datetime.now(UTC),
        warehouse=tenant_warehouse,
        is_historical=False,
        state_version="state",
        config=environment,
        cluster=cluster,
    )


def decided(warehouse: Warehouse, decision: str, when: datetime, wine: str = "w", **given: Any) -> None:
    row = {"run_id": "r", "customer_id": "c", "wine_id": wine, "scenario": "nurture", "decision": decision, **given}
    warehouse.append(tables.review_decisions, pd.DataFrame([{**row, "reviewer": "cellar", "decided_at": when}]))


def listed(tenant_run: run_context.TenantRun, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Who is offered which of the wines w and x, alike but for what review decided, in rank order."""
    wine: dict[str, Any] = {
        "kind": "wine", "vintage": 2023, "format_cl": 75.0, "grape": None, "sweetness": None, "price_ttc": 12.0,
        "price_75cl_ttc": 12.0, "price_segment": "entry", "premium_tier": 0, "margin": None, "season_tags": [],
        "stock_status": "in", "available": None, "is_recommendable": True, "is_inferred": False, "allocation": None,
        "awards": None, **dict.fromkeys(AROMA_AXES),
    }  # fmt: skip
    named = [{**wine, "product_key": key, "wine_id": key, "label": key, "family": key} for key in "wx"]
    people = pd.DataFrame({"customer_id": ["c", "d"], "population": "private", "frequency": 0, "monetary": 0.0})
    people["last_order_date"] = pd.NaT
    purchases = pd.DataFrame(columns=["customer_id", "wine_id", "order_id", "sale_date", "amount_ht"])
    tastes = [*AROMA_AXES, "confidence"]
    likes = ["top_family_1", "top_sweetness_1", "price_75cl_ttc", "price_segment", "usual_format_cl", "tier_mode"]
    # What dbt makes of files; decisions and messages are read from the database.
    made = {
        "customer_rfm": people,
        "taste_profiles": people.reindex(columns=["customer_id", *tastes]).astype(dict.fromkeys(tastes, "float64")),
        "purchases": purchases.astype({"sale_date": "datetime64[s]", "amount_ht": "float64"}),
        "customer_preferences": people.reindex(columns=["customer_id", *likes]),
        "dim_products": pd.DataFrame(named),
        "product_popularity": pd.DataFrame({"population": "private", "wine_id": ["w", "x"], "share": [0.5, 0.5]}),
    }
    read = Warehouse.read

    def from_either(warehouse: Warehouse, schema: str, name: str, *more: Any, **options: Any) -> pd.DataFrame:
        return made[name] if name in made else read(warehouse, schema, name, *more, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Warehouse, "read", from_either)
        patched.setattr(assets, "taste_profiles_of", lambda run: made["taste_profiles"])
        inputs = assets.inputs_of(tenant_run)
    items = recommend(inputs, RULES, tenant_run.as_of, "fr").items
    return {str(customer): wines.tolist() for customer, wines in items.groupby("customer_id")["wine_id"]}


def offered(tenant_run: run_context.TenantRun, monkeypatch: pytest.MonkeyPatch) -> dict[str, set[str]]:
    return {customer: set(wines) for customer, wines in listed(tenant_run, monkeypatch).items()}


@pytest.mark.parametrize(("days", "is_free"), [(DAYS, True), (DAYS - 1, False), (0, False)])
def test_a_rejected_wine_is_not_offered_to_that_customer_again_for_its_time(
    tenant_run: run_context.TenantRun, monkeypatch: pytest.MonkeyPatch, days: int, is_free: bool
) -> None:
    noon = datetime(AS_OF.year, AS_OF.month, AS_OF.day, 12, tzinfo=UTC)
    decided(tenant_run.warehouse, "reject", noon - timedelta(days=days))
    assert offered(tenant_run, monkeypatch) == {"c": {"w", "x"} if is_free else {"x"}, "d": {"w", "x"}}


def test_only_a_rejection_excludes(tenant_run: run_context.TenantRun, monkeypatch: pytest.MonkeyPatch) -> None:
    decided(tenant_run.warehouse, "approve", datetime(2025, 12, 30, tzinfo=UTC))
    decided(tenant_run.warehouse, "later", datetime(2025, 12, 30, tzinfo=UTC), wine="x")
    assert offered(tenant_run, monkeypatch) == {"c": {"w", "x"}, "d": {"w", "x"}}


def test_a_run_for_an_earlier_day_does_not_know_what_was_decided_since(
    tenant_run: run_context.TenantRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 23:30 UTC is the next day at the estate.
    decided(tenant_run.warehouse, "reject", datetime(2025, 11, 30, 23, 30, tzinfo=UTC))
    for as_of, knows in ((date(2025, 11, 30), False), (date(2025, 12, 1), True)):
        then = dataclasses.replace(tenant_run, as_of=as_of, is_historical=True)
        assert offered(then, monkeypatch)["c"] == ({"x"} if knows else {"w", "x"})
    # The present counts a decision after its fixed day as of that day.
    assert offered(dataclasses.replace(tenant_run, as_of=date(2025, 11, 30)), monkeypatch)["c"] == {"x"}


def test_a_wine_that_reviewers_rate_badly_stands_behind_its_like(
    tenant_run: run_context.TenantRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert listed(tenant_run, monkeypatch)["d"] == ["w", "x"]
    decided(tenant_run.warehouse, "approve", datetime(2025, 12, 1, tzinfo=UTC), rating=1)
    assert listed(tenant_run, monkeypatch) == {"c": ["x", "w"], "d": ["x", "w"]}
    decided(tenant_run.warehouse, "approve", datetime(2025, 12, 2, tzinfo=UTC), rating=5, run_id="r2")
    assert listed(tenant_run, monkeypatch)["d"] == ["w", "x"]
    earlier = dataclasses.replace(tenant_run, as_of=date(2025, 12, 1), is_historical=True)
    assert listed(earlier, monkeypatch)["d"] == ["x", "w"]
