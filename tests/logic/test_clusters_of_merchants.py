"""Clusters of two real merchants, where their transactions are at hand (`../shared/data`, never copied here).

Features come straight from the lines by pandas; what is tested is the function that the pipeline runs.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from crm_assets import rules
from crm_assets.logic import customers

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
RULES = rules.load()


def need(name: str) -> Path:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{path} is not here")
    return path


def measures(lines: pd.DataFrame, as_of: pd.Timestamp) -> tuple[pd.DataFrame, pd.DataFrame]:
    """RFM and diversity as `rfm.customer_rfm` and `rfm.customer_preferences` have them; an order is a day."""
    known = lines[lines["day"] <= as_of]
    orders = known.groupby(["customer_id", "day"], as_index=False)["amount"].sum()
    by_customer = orders.groupby("customer_id")
    first, last = by_customer["day"].min(), by_customer["day"].max()
    rfm = pd.DataFrame(
        {
            "population": "private",
            "recency_days": (as_of - last).dt.days,
            "frequency": by_customer.size(),
            "monetary": by_customer["amount"].sum(),
        }
    )
    rfm["average_order_value"] = rfm["monetary"] / rfm["frequency"]
    gaps = (rfm["frequency"] - 1).replace(0, np.nan)
    rfm["mean_interval_days"] = (last - first).dt.days / gaps
    spend = known.groupby(["customer_id", "family"], as_index=False)["amount"].sum()
    share = spend["amount"] / spend.groupby("customer_id")["amount"].transform("sum")
    diversity = 1 - (share**2).groupby(spend["customer_id"]).sum()
    return rfm.reset_index(), diversity.rename("diversity").reset_index()


@pytest.fixture(scope="module")
def online_retail() -> pd.DataFrame:
    columns = ["customer", "invoice", "date", "stock_code", "quantity", "price"]
    lines = pd.read_csv(need("online_retail_ii.csv.gz"), usecols=columns, dtype=dict.fromkeys(columns[:4], "str"))
    is_sale = (lines["quantity"] > 0) & (lines["price"] > 0) & ~lines["invoice"].str.startswith("C")
    lines = lines[is_sale & lines["stock_code"].str.match(r"\d{5}") & lines["customer"].notna()]
    return pd.DataFrame(
        {
            "customer_id": lines["customer"],
            "day": pd.to_datetime(lines["date"].str[:10]),
            "amount": lines["quantity"] * lines["price"],
            "family": lines["stock_code"].str[:2],
        }
    )


@pytest.fixture(scope="module")
def cdnow() -> pd.DataFrame:
    names = ["customer_id", "day", "quantity", "amount"]
    lines = pd.read_csv(need("cdnow_master.txt"), sep=r"\s+", names=names, skiprows=1, dtype={"customer_id": "str"})
    return lines.assign(day=pd.to_datetime(lines["day"].astype(str)), family="CD")


@pytest.mark.parametrize("merchant", ["online_retail", "cdnow"])
@pytest.mark.parametrize("with_diversity", [True, False])
def test_clusters_of_a_merchant_are_stable_and_large(
    merchant: str, with_diversity: bool, request: pytest.FixtureRequest
) -> None:
    lines = request.getfixturevalue(merchant)
    rfm, diversity = measures(lines, lines["day"].max())
    assert len(rfm) > 5000
    found = customers.cluster_customers(rfm, diversity if with_diversity else diversity.iloc[:0], None, RULES)
    quality = found.quality["private"]
    assert quality["relaxed"] == []
    assert 3 <= quality["k"] <= 8
    assert quality["stability"] >= 0.85
    assert found.profiles["share"].min() >= 0.05


def test_next_weeks_customers_are_where_they_were(online_retail: pd.DataFrame) -> None:
    newest = online_retail["day"].max()
    before = customers.cluster_customers(*measures(online_retail, newest - pd.Timedelta(days=7)), None, RULES)
    after = customers.cluster_customers(*measures(online_retail, newest), before.profiles, RULES)
    assert after.profiles["cluster_id"].tolist() == before.profiles["cluster_id"].tolist()
    assert after.profiles["cluster_name"].tolist() == before.profiles["cluster_name"].tolist()
    both = before.assignments.merge(after.assignments, on="customer_id")
    assert (both["cluster_id_x"] == both["cluster_id_y"]).mean() > 0.9
    # The same customers once more change nothing.
    again = customers.cluster_customers(*measures(online_retail, newest), after.profiles, RULES)
    assert again.assignments.to_csv() == after.assignments.to_csv()
    assert again.profiles.to_csv() == after.profiles.to_csv()
