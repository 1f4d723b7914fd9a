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
from crm_assets.logic.recommendations import RecommendationInputs, recommend
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


def decided(warehouse: Warehouse, decision: str, when: datetime, wine: str = "w", customer: str = "c") -> None:
    row = {"run_id": "r", "customer_id": customer, "wine_id": wine, "scenario": "nurture", "decision": decision}
    warehouse.append(tables.review_decisions, pd.DataFrame([{**row, "reviewer": "cellar", "decided_at": when}]))


def offered(tenant_run: run_context.TenantRun) -> dict[str, set[str]]:
    """Who is offered which of the wines w and x, nobody having bought anything, given what review decided."""
    wine: dict[str, Any] = {
        "kind": "wine", "vintage": 2023, "format_cl": 75.0, "grape": None, "sweetness": None, "price_ttc": 12.0,
        "price_75cl_ttc": 12.0, "price_segment": "entry", "premium_tier": 0, "margin": None, "season_tags": [],
        "stock_status": "in", "available": None, "is_recommendable": True, "is_inferred": False, "allocation": None,
        "awards": None, **dict.fromkeys(AROMA_AXES),
    }  # fmt: skip
    named = [{**wine, "product_key": key, "wine_id": key, "label": key, "family": key} for key in "wx"]
    people = pd.DataFrame({"customer_id": ["c", "d"], "population": "private", "n_qualifying_orders": 0})
    nothing = pd.DataFrame(columns=["customer_id", "wine_id", "order_id", "sale_date", "amount_ht", "sent_date"])
    likes = ["top_family_1", "top_sweetness_1", "price_75cl_ttc", "price_segment", "usual_format_cl", "tier_mode"]
    inputs = RecommendationInputs(
        purchases=nothing.astype({"sale_date": "datetime64[s]", "amount_ht": "float64"}),
        customers=people.assign(last_order_date=pd.Series(pd.NaT, index=people.index), lifetime_amount_ht=0.0),
        preferences=people[["customer_id"]].reindex(columns=["customer_id", *likes]),
        taste=people[["customer_id"]]
        .reindex(columns=["customer_id", *AROMA_AXES, "confidence"])
        .astype(dict.fromkeys([*AROMA_AXES, "confidence"], "float64")),
        products=pd.DataFrame(named),
        popularity=pd.DataFrame({"population": "private", "wine_id": ["w", "x"], "share": [0.5, 0.2]}),
        sent_wines=nothing,
        rejections=assets._known_then(tenant_run, assets._rejections(tenant_run), "rejected_date"),
        allocations=pd.DataFrame(columns=["product_key", "customer_id"]),
    )
    items = recommend(inputs, RULES, tenant_run.as_of, "fr").items
    return {str(customer): set(wines) for customer, wines in items.groupby("customer_id")["wine_id"]}


@pytest.mark.parametrize(("days", "is_free"), [(DAYS, True), (DAYS - 1, False), (0, False)])
def test_a_rejected_wine_is_not_offered_to_that_customer_again_for_its_time(
    tenant_run: run_context.TenantRun, days: int, is_free: bool
) -> None:
    noon = datetime(AS_OF.year, AS_OF.month, AS_OF.day, 12, tzinfo=UTC)
    decided(tenant_run.warehouse, "reject", noon - timedelta(days=days))
    assert offered(tenant_run) == {"c": {"w", "x"} if is_free else {"x"}, "d": {"w", "x"}}


def test_only_a_rejection_excludes(tenant_run: run_context.TenantRun) -> None:
    decided(tenant_run.warehouse, "approve", datetime(2025, 12, 30, tzinfo=UTC))
    decided(tenant_run.warehouse, "later", datetime(2025, 12, 30, tzinfo=UTC), wine="x")
    assert offered(tenant_run) == {"c": {"w", "x"}, "d": {"w", "x"}}


def test_a_run_for_an_earlier_day_does_not_know_what_was_decided_since(tenant_run: run_context.TenantRun) -> None:
    # 23:30 UTC is the next day at the estate.
    decided(tenant_run.warehouse, "reject", datetime(2025, 11, 30, 23, 30, tzinfo=UTC))
    for as_of, knows in ((date(2025, 11, 30), False), (date(2025, 12, 1), True)):
        then = dataclasses.replace(tenant_run, as_of=as_of, is_historical=True)
        assert offered(then)["c"] == ({"x"} if knows else {"w", "x"})
    # The present counts a decision after its fixed day as of that day.
    assert offered(dataclasses.replace(tenant_run, as_of=date(2025, 11, 30)))["c"] == {"x"}
