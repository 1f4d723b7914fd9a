"""The KPI marts on an estate drawn at random, against pandas.

The models run as SQL without dbt's start-up; what must come out is counted here from the same lines by other means:
nothing of the models' SQL is shared. Money is compared to the cent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from crm_assets import databases, rendering, rules, tables
from crm_assets.dbt_manifest import PROJECT, ensure_manifest
from crm_assets.defs.customers.assets import keep_history
from crm_assets.resources.warehouse import Warehouse
from tests.conftest import PREFIX, fresh_warehouse
from tests.dbt.macros import model, statement

ensure_manifest()

from crm_assets.defs.dbt import PICTURES  # noqa: E402

FIRST, AS_OF = date(2022, 3, 10), date(2025, 11, 18)
RULES = rules.load({"kpis": {"anomalies": {"product_falling": {"deviations": 1}, "volume_off": {"deviations": 1}}}})
DAYS = [date(2025, 10, 14), date(2025, 10, 22), date(2025, 11, 13), AS_OF, AS_OF + timedelta(days=1)]
MARTS = [
    "monthly_sales",
    "cohort_retention",
    "product_performance",
    "family_performance",
    "rfm_transitions",
    "cluster_transitions",
    "habits",
    "anomalies",
    "anomaly_counts",
]
TABLES = """
    create schema if not exists curated; create schema if not exists rfm; create schema if not exists kpis;
    create table curated.dim_customers (
        customer_id text, population text, status text, is_collective boolean, profiling_objected boolean,
        first_order_date date, n_qualifying_orders bigint
    );
    create table curated.dim_products (
        product_key text, wine_id text, label text, vintage integer, format_cl numeric, kind text, family text,
        is_active boolean, is_archived boolean, is_recommendable boolean, available numeric
    );
    create table curated.fct_orders (
        order_id text, customer_id text, order_date date, amount_ht numeric, is_qualifying boolean
    );
    create table curated.fct_sales_lines (
        order_id text, customer_id text, product_key text, wine_id text, sale_date date, revenue_date date,
        amount_ht numeric, amount_ttc numeric, margin numeric, bottles numeric, is_counted boolean
    );
    create view curated.known_sales_lines as
    select * from curated.fct_sales_lines
    where is_counted and sale_date <= (select (value #>> '{}')::date from landing.parameters where name = 'as_of');
    create table rfm.customer_rfm_history (customer_id text, as_of date, population text, segment text);
"""


@dataclass
class Estate:
    """The estate's tables as frames, dates as datetime64, and its database."""

    warehouse: Warehouse
    customers: pd.DataFrame
    products: pd.DataFrame
    lines: pd.DataFrame
    orders: pd.DataFrame
    history: pd.DataFrame

    def people(self) -> pd.DataFrame:
        """The qualifying orders of people, with their customer."""
        joined = self.orders[self.orders["is_qualifying"]].merge(self.customers, on="customer_id")
        return joined[~joined["is_collective"]]

    def mart(self, name: str) -> pd.DataFrame:
        return self.warehouse.read("kpis", name)


def drawn() -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Customers with rhythms of their own, a till, who objects and who died; wines of which one fades out."""
    rng = np.random.default_rng(5)
    n = 90
    customers = pd.DataFrame(
        {
            "customer_id": [f"C{i:02d}" for i in range(n)],
            "population": ["professional" if i % 6 == 0 else "other" if i % 29 == 1 else "private" for i in range(n)],
            "status": ["deceased" if i == 7 else "active" for i in range(n)],
            "is_collective": [i == 1 for i in range(n)],
            "profiling_objected": [i in (9, 10) for i in range(n)],
        }
    )
    products = pd.DataFrame(
        {
            "product_key": ["A-22", "A-23", "AM-23", "B", "C-21", "BOX", "PORT", "OLD", "NEVER"],
            "wine_id": ["a", "a", "a", "b", "c", "box", "port", "old", "never"],
            "label": ["Vin A 2022", "Vin A 2023", "Vin A Magnum", "Vin B", "C 2021", "Coffret", "Port", "Old", "New"],
            "vintage": pd.array([2022, 2023, 2023, None, 2021, None, None, 2015, None], dtype="Int64"),
            "format_cl": [75, 75, 150, 75, 75, 75, None, 75, 75],
            "kind": ["wine"] * 5 + ["gift_box", "shipping", "wine", "wine"],
            "family": ["Blancs", "Blancs", "Blancs", "Rouges", "Rouges", "Coffrets", None, "Rouges", "Blancs"],
            "is_active": [True] * 7 + [False, True],
            "is_archived": False,
            "is_recommendable": [True] * 6 + [False, False, True],
            "available": [0, 100, 10, 40, None, 5, None, 0, 60],
        }
    )
    lines: list[dict[str, Any]] = []
    number = 0
    for i, customer in enumerate(customers["customer_id"]):
        interval, size, day = float(rng.integers(12, 200)), float(rng.integers(50, 400)), float(rng.integers(0, 500))
        stops = rng.integers(600, 1500) if i % 3 == 0 else 5000  # who falls silent
        smaller = i % 4 == 1  # whose baskets shrink
        while day <= (AS_OF - FIRST).days + 20 and day < stops:
            number += 1
            sold = FIRST + timedelta(days=int(day))
            credit, ignored = rng.random() < 0.05, rng.random() < 0.03
            for _ in range(int(rng.integers(1, 4))):
                fading = 0.2 if sold > date(2025, 6, 1) else 1.0
                weights = np.array([1, 3, 1, 4 * fading, 2, 1, 1.5, 0.5 if sold.year < 2024 else 0, 0])
                product = products.iloc[rng.choice(len(products), p=weights / weights.sum())]
                amount = round(size * rng.lognormal(0, 0.3) * (0.4 if smaller and sold.year == 2025 else 1), 2)
                bottles = int(rng.integers(1, 13)) if product["kind"] != "shipping" else 0
                sign = -1 if credit else 1
                lines.append(
                    {
                        "order_id": f"O{number:05d}",
                        "customer_id": customer,
                        "product_key": product["product_key"],
                        "wine_id": product["wine_id"],
                        "sale_date": sold,
                        "revenue_date": sold + timedelta(days=int(rng.integers(1, 40)) if rng.random() < 0.3 else 0),
                        "amount_ht": sign * amount,
                        "amount_ttc": round(sign * amount * 1.2, 2),
                        "margin": round(sign * amount * 0.4, 2) if rng.random() < 0.7 else None,
                        "bottles": sign * bottles,
                        "is_counted": not ignored,
                    }
                )
            day += interval * rng.gamma(3, 1 / 3)
    frame = pd.DataFrame(lines)
    orders = (
        frame.groupby("order_id")
        .agg(
            customer_id=("customer_id", "first"),
            order_date=("sale_date", "min"),
            amount_ht=("amount_ht", "sum"),
            is_counted=("is_counted", "all"),
        )
        .reset_index()
    )
    orders["amount_ht"] = orders["amount_ht"].round(2)
    orders["is_qualifying"] = orders["is_counted"] & (orders["amount_ht"] > 0) & (orders["order_date"] <= AS_OF)
    first = orders[orders["is_qualifying"]].groupby("customer_id")["order_date"]
    customers["first_order_date"] = customers["customer_id"].map(first.min())
    customers["n_qualifying_orders"] = customers["customer_id"].map(first.count()).fillna(0).astype(int)
    return customers, products, frame, orders.drop(columns="is_counted")


def days_of_states() -> pd.DataFrame:
    """Who was in which segment (and cluster) on each of the DAYS; some are not there yet, or not any more."""
    rng = np.random.default_rng(3)
    return pd.DataFrame(
        [
            {
                "customer_id": f"C{i:02d}",
                "as_of": day,
                "population": "professional" if i % 5 == 0 else "private",
                "segment": str(rng.choice(["Champions", "At Risk", "Others"])),
            }
            for i in range(40)
            for day in DAYS
            if rng.random() < 0.9
        ]
    )


def copy(warehouse: Warehouse, table: str, frame: pd.DataFrame) -> None:
    """Write a frame into a table of the test's own."""
    with warehouse.transaction() as connection:
        names = ", ".join(frame.columns)
        with connection.cursor().copy(f"copy {table} ({names}) from stdin".encode()) as stream:
            for row in frame.astype("object").where(frame.notna(), None).itertuples(index=False, name=None):
                stream.write_row(row)


def build(warehouse: Warehouse, as_of: date, *names: str) -> None:
    values = RULES.parameters() | {"as_of": as_of.isoformat(), "rules_version": RULES.version}
    frame = pd.DataFrame({"name": name, "value": json.dumps(value)} for name, value in values.items())
    warehouse.replace(tables.landing_parameters, frame)
    for name in names:
        warehouse.execute(f"drop table if exists kpis.{name}")
        warehouse.execute(f"create table kpis.{name} as {model(name)}")


@pytest.fixture(scope="module")
def estate(cluster: databases.Cluster, template: str) -> Iterator[Estate]:
    with fresh_warehouse(cluster, template, f"{PREFIX}kpis") as warehouse:
        warehouse.execute(TABLES)
        customers, products, lines, orders = drawn()
        for name, frame in (("dim_customers", customers), ("dim_products", products), ("fct_orders", orders)):
            copy(warehouse, f"curated.{name}", frame)
        copy(warehouse, "curated.fct_sales_lines", lines)
        history = days_of_states()
        copy(warehouse, "rfm.customer_rfm_history", history)
        # A name that changes from day to day, as a cluster's may.
        clusters = history.rename(columns={"segment": "cluster_id"})
        clusters["cluster_name"] = "named " + clusters["cluster_id"] + clusters["as_of"].astype(str)
        warehouse.append(tables.cluster_history, clusters)
        build(warehouse, AS_OF, *MARTS)
        for frame in (customers, lines, orders):
            for name in frame.columns:
                if name.endswith("_date"):
                    frame[name] = pd.to_datetime(frame[name])
        known = lines[lines["is_counted"] & (lines["sale_date"] <= pd.Timestamp(AS_OF))]
        yield Estate(warehouse, customers, products, known, orders, history)


# --- months


@pytest.mark.parametrize("as_of", [date(2025, 10, 31), AS_OF], ids=["at a month's end", "within a month"])
@pytest.mark.parametrize("population", ["all", "private", "professional", "other"])
def test_months_are_those_of_the_lines_and_the_orders(estate: Estate, as_of: date, population: str) -> None:
    build(estate.warehouse, as_of, "monthly_sales")
    today = pd.Timestamp(as_of)
    months = estate.mart("monthly_sales").set_index(["population", "month"]).sort_index().loc[population]
    of = estate.customers.set_index("customer_id")["population"]
    lines = estate.lines.assign(population=estate.lines["customer_id"].map(of))
    lines = lines[(lines["revenue_date"] <= today) & (lines["sale_date"] <= today)]
    # The test's orders are qualifying as of AS_OF; an earlier day needs no other column here.
    orders = estate.people()
    if population != "all":
        lines, orders = lines[lines["population"] == population], orders[orders["population"] == population]
    calendar = pd.period_range(estate.lines["sale_date"].min(), today, freq="M")
    assert list(months.index) == [period.start_time for period in calendar]

    def revenue(first: pd.Timestamp, last: pd.Timestamp) -> float:
        return float(lines.loc[lines["revenue_date"].between(first, last), "amount_ht"].sum())

    def year_before(day: pd.Timestamp) -> pd.Timestamp:
        return day - pd.DateOffset(years=1)

    for period, (_, row) in zip(calendar, months.iterrows(), strict=True):
        first, last = period.start_time, min(period.end_time.normalize(), today)
        assert row["is_complete"] == (period.end_time.normalize() <= today)
        assert round(row["revenue_ht"], 2) == pytest.approx(revenue(first, last), abs=0.004)
        inside = lines[lines["revenue_date"].between(first, last)]
        assert row["bottles"] == inside["bottles"].sum()
        assert (row["margin_ht"] if pd.notna(row["margin_ht"]) else 0) == pytest.approx(
            inside["margin"].sum(), abs=0.004
        )
        ordered = orders[orders["order_date"].between(first, last)]
        if last < today or as_of == AS_OF:
            assert row["orders"] == len(ordered)
            assert row["customers"] == ordered["customer_id"].nunique()
            newcomers = estate.customers["first_order_date"].between(first, last) & ~estate.customers["is_collective"]
            if population != "all":
                newcomers &= estate.customers["population"] == population
            assert row["new_customers"] == newcomers.sum()
            if len(ordered):
                assert row["average_order_value"] == pytest.approx(ordered["amount_ht"].mean(), abs=0.0051)
        start = calendar[0].start_time
        if year_before(first) >= start:
            before = year_before(last) if last == today else period.end_time.normalize() - pd.DateOffset(years=1)
            before = (period - 12).end_time.normalize() if row["is_complete"] else before
            assert row["revenue_ht_year_before"] == pytest.approx(revenue(year_before(first), before), abs=0.004)
        else:
            assert pd.isna(row["revenue_ht_year_before"])
        for column, back in (("rolling_12m_revenue_ht", 0), ("rolling_12m_revenue_ht_year_before", 1)):
            until = last if back == 0 else last - pd.DateOffset(years=1)
            if row["is_complete"]:
                until = (period - 12 * back).end_time.normalize()
            since = until - pd.DateOffset(years=1) + pd.Timedelta(days=1)
            if row["is_complete"]:
                since = (period - 12 * back - 11).start_time
            if since.to_period("M").start_time >= start:
                assert row[column] == pytest.approx(revenue(since, until), abs=0.004), (period, column)
            else:
                assert pd.isna(row[column]), (period, column)
        years = [y for y in range(2023, period.year) if y < today.year or as_of.month == 12]
        whole = sum(revenue(pd.Timestamp(y, 1, 1), pd.Timestamp(y, 12, 31)) for y in years)
        if years:
            share = sum(
                revenue(pd.Period(year=y, month=period.month, freq="M").start_time,
                        pd.Period(year=y, month=period.month, freq="M").end_time) for y in years
            ) / whole  # fmt: skip
            assert row["seasonal_share"] == pytest.approx(share, rel=1e-9)
        else:
            assert pd.isna(row["seasonal_share"])


def test_the_accounting_identities_hold_and_would_be_missed(estate: Estate) -> None:
    build(estate.warehouse, AS_OF, "monthly_sales")
    for name in ("kpis_months_add_up_to_the_counted_revenue", "kpis_a_wine_sold_is_in_its_family_and_in_all"):
        assert estate.warehouse.rows(statement(name)) == []
    with estate.warehouse.transaction() as connection:
        lost = (
            "update kpis.{} set {} = {} + 0.01 where population = 'all' and ctid in (select ctid from kpis.{} limit 1)"
        )
        for mart, column, name in (
            ("monthly_sales", "revenue_ht", "kpis_months_add_up_to_the_counted_revenue"),
            ("family_performance", "revenue_ht_12m", "kpis_a_wine_sold_is_in_its_family_and_in_all"),
        ):
            connection.execute(lost.format(mart, column, column, f"{mart} where population = 'all'").encode())
            assert connection.execute(statement(name).encode()).fetchall() != []
        connection.rollback()


def test_every_rule_that_a_mart_asks_for_is_looked_for_before_it_is_used(estate: Estate) -> None:
    test = "kpis_rules_that_sql_reads_are_all_there"
    asked = {
        name
        for path in [*(PROJECT / "models" / "kpis").glob("*.sql"), PROJECT / "macros" / "kpis.sql"]
        for name in re.findall(r"rule_\w+\('([\w.]+)'\)", path.read_text("utf-8"))
    }
    assert estate.warehouse.rows(statement(test)) == []
    with estate.warehouse.transaction() as connection:
        connection.execute("delete from landing.parameters")
        looked_for = {name for (name,) in connection.execute(statement(test).encode())}
        connection.rollback()
    assert len(asked) > 20
    assert asked <= looked_for


# --- cohorts


@pytest.mark.parametrize("population", ["all", "private", "professional"])
def test_cohorts_are_followed_quarter_by_quarter(estate: Estate, population: str) -> None:
    found = estate.mart("cohort_retention").query("population == @population").set_index(["cohort", "quarters_since"])
    orders = estate.people()
    if population != "all":
        orders = orders[orders["population"] == population]
    orders = orders.assign(
        cohort=orders["first_order_date"].dt.to_period("Q"), quarter=orders["order_date"].dt.to_period("Q")
    )
    now = pd.Period(AS_OF, freq="Q")
    expected = 0
    for cohort, members in orders.groupby("cohort"):
        people = members["customer_id"].nunique()
        for quarter in pd.period_range(cohort, now, freq="Q"):
            expected += 1
            row = found.loc[(cohort.start_time, (quarter - cohort).n)]
            active = members[members["quarter"] == quarter]
            later = members[(members["quarter"] > cohort) & (members["quarter"] <= quarter)]
            assert row["quarter"] == quarter.start_time
            assert row["customers"] == people
            assert row["active_customers"] == active["customer_id"].nunique()
            assert row["retention"] == pytest.approx(active["customer_id"].nunique() / people)
            assert row["returned_customers"] == later["customer_id"].nunique()
            assert row["returned_share"] == pytest.approx(later["customer_id"].nunique() / people)
            assert row["revenue_ht"] == pytest.approx(active["amount_ht"].sum(), abs=0.004)
            so_far = members.loc[members["quarter"] <= quarter, "amount_ht"].sum()
            assert row["cumulative_revenue_ht"] == pytest.approx(so_far, abs=0.004)
            assert row["is_complete"] == (quarter < now)
    assert len(found) == expected > 50


# --- movement


def test_movement_is_between_the_newest_day_and_the_newest_far_enough_before(estate: Estate) -> None:
    history = estate.history
    after = history[history["as_of"] == AS_OF].set_index("customer_id")
    expected = []
    # 13 November is 5 days before, 22 October 27: neither is far enough for its span.
    for span, day in (("week", DAYS[1]), ("month", DAYS[0])):
        before = history[history["as_of"] == day].set_index("customer_id")
        for customer in after.index.union(before.index):
            was = before["segment"].get(customer, "New")
            became = after["segment"].get(customer, "Gone")
            population = (after if customer in after.index else before).loc[customer, "population"]
            expected.append((span, population, pd.Timestamp(day), pd.Timestamp(AS_OF), was, became))
    keys = ["span", "population", "from_date", "to_date", "from_segment", "to_segment"]
    ways = pd.DataFrame(expected, columns=keys).value_counts().rename("customers").sort_index()
    found = estate.mart("rfm_transitions").set_index(keys).sort_index()
    assert found["customers"].to_dict() == ways.to_dict()
    whole = ways.groupby(level=["span", "population", "from_segment"]).transform("sum")
    assert found["share"].to_dict() == pytest.approx((ways / whole).to_dict())
    assert {"New", "Gone"} <= {name for way in ways.index for name in way}

    clusters = estate.mart("cluster_transitions")
    renamed = clusters.rename(columns={"from_cluster_id": "from_segment", "to_cluster_id": "to_segment"})
    assert renamed.set_index(keys)["customers"].to_dict() == ways.to_dict()
    both = clusters[clusters["from_cluster_id"].isin(["Champions", "At Risk", "Others"])]
    assert (both["from_cluster_name"] == "named " + both["from_cluster_id"] + AS_OF.isoformat()).all()
    assert set(clusters.loc[clusters["from_cluster_id"] == "New", "from_cluster_name"]) == {"New"}


def test_the_history_of_clusters_keeps_its_days_and_the_newest_before(tenant_warehouse: Warehouse) -> None:
    def refresh(day: date, cluster: str, is_historical: bool = False) -> dict[date, int]:
        run: Any = SimpleNamespace(warehouse=tenant_warehouse, rules=RULES, as_of=day, is_historical=is_historical)
        clusters = pd.DataFrame({"customer_id": ["C1", "C2"], "population": "private", "cluster_id": cluster})
        return keep_history(run, clusters.assign(cluster_name="name"))

    days = RULES.kpis.cluster_history_days
    start = date(2025, 1, 1)
    for after in (0, 10, 20, days + 15):
        refresh(start + timedelta(days=after), "P1")
    newest = start + timedelta(days=days + 15)
    # Day 15 is the first that is kept; day 10 the newest before it, and still there to compare with.
    assert refresh(newest, "P2") == {start + timedelta(days=n): 2 for n in (10, 20, days + 15)}
    assert refresh(start, "P9", is_historical=True).keys() == {start + timedelta(days=n) for n in (10, 20, days + 15)}
    last = tenant_warehouse.read("customers", "cluster_history", where="as_of = %s", params=[newest])
    assert set(last["cluster_id"]) == {"P2"}


# --- wines and families


@pytest.mark.parametrize(("mart", "key"), [("product_performance", "wine_id"), ("family_performance", "family")])
@pytest.mark.parametrize("population", ["all", "private", "professional", "other"])
def test_wines_and_families_are_set_beside_the_year_before(
    estate: Estate, mart: str, key: str, population: str
) -> None:
    found = estate.mart(mart).query("population == @population").set_index(key)
    until = estate.people()["order_date"].max()  # tills order too, but never last in this estate
    until = max(until, estate.orders.loc[estate.orders["is_qualifying"], "order_date"].max())
    lines = estate.lines.merge(estate.products[["product_key", "family"]], on="product_key").fillna({"family": ""})
    lines = lines.merge(estate.customers[["customer_id", "population", "is_collective"]], on="customer_id")
    if population != "all":
        lines = lines[lines["population"] == population]
    day = lines["revenue_date"]
    year = pd.DateOffset(years=1)
    windows = {
        "12m": (day > until - year) & (day <= until),
        "12m_before": (day > until - year - year) & (day <= until - year),
        "recent": (day > until - pd.Timedelta(days=90)) & (day <= until),
        "recent_year_before": (day > until - year - pd.Timedelta(days=90)) & (day <= until - year),
    }
    sold = set(lines.loc[windows["12m"] | windows["12m_before"], key])
    catalogue = {"never", "a", "b", "c", "box"} if mart == "product_performance" and population == "all" else set()
    assert set(found.index) == sold | catalogue
    assert (set(found["measured_until"]) == {until}) or found.empty
    whole = {name: lines.loc[inside, "amount_ht"].sum() for name, inside in windows.items()}
    for name, row in found.iterrows():
        mine = lines[key] == name
        for window, inside in windows.items():
            chosen = lines[mine & inside]
            assert row[f"revenue_ht_{window}"] == pytest.approx(chosen["amount_ht"].sum(), abs=0.004)
            assert row[f"bottles_{window}"] == chosen["bottles"].sum()
            positive = chosen[chosen["amount_ht"] > 0]
            if f"orders_{window}" in found:
                assert row[f"orders_{window}"] == positive["order_id"].nunique()
            if f"customers_{window}" in found:
                assert row[f"customers_{window}"] == positive.loc[~positive["is_collective"], "customer_id"].nunique()
            if f"share_{window}" in found:
                assert row[f"share_{window}"] == pytest.approx(row[f"revenue_ht_{window}"] / whole[window])
        now, before = row["revenue_ht_12m"], row["revenue_ht_12m_before"]
        if before > 0:
            assert row["revenue_change"] == pytest.approx(now / before - 1)
        trend = "none" if max(now, before) <= 0 else "new" if before <= 0 else "gone" if now <= 0 else None
        trend = trend or ("rising" if now / before >= 1.15 else "falling" if now / before <= 0.85 else "stable")
        assert row["trend"] == trend
    if mart == "product_performance":
        ranked = found.sort_values("rank_12m")
        assert list(ranked["rank_12m"]) == list(range(1, len(found) + 1))
        assert ranked["revenue_ht_12m"].is_monotonic_decreasing


def test_a_wine_shows_its_newest_face_and_what_is_left_of_it(estate: Estate) -> None:
    wines = estate.mart("product_performance").query("population == 'all'").set_index("wine_id")
    assert wines["label"].drop("old", errors="ignore").to_dict() == {
        "a": "Vin A", "b": "Vin B", "c": "C", "box": "Coffret", "port": "Port", "never": "New",
    }  # fmt: skip
    assert wines.loc["a", "stock_bottles"] == 120
    assert wines.loc["a", "months_of_stock"] == pytest.approx(120 / wines.loc["a", "bottles_12m"] * 12)
    assert pd.isna(wines.loc["c", "stock_bottles"])
    assert wines.loc["port", "family"] == ""
    assert wines.loc["never", ["revenue_ht_12m", "trend"]].tolist() == [0, "none"]


# --- anomalies


def test_customers_are_measured_by_their_own_past(estate: Estate) -> None:
    until = estate.orders.loc[estate.orders["is_qualifying"], "order_date"].max()
    people = estate.people().query(
        "population in ('private', 'professional') and not profiling_objected and status == 'active'"
    )
    expected: dict[tuple[str, str], tuple[float, float, float, bool, float]] = {}
    for customer, orders in people.sort_values(["order_date", "order_id"]).groupby("customer_id"):
        dates = orders["order_date"]
        silent = (until - dates.iloc[-1]).days
        if len(orders) >= 3:
            interval = (dates.iloc[-1] - dates.iloc[0]).days / (len(orders) - 1)
            bound = max(2 * interval, 60)
            if silent <= 2 * bound and silent <= 1095:
                year = orders.loc[dates > dates.iloc[-1] - pd.Timedelta(days=365), "amount_ht"].sum()
                expected["CUSTOMER_SILENT", str(customer)] = (silent, interval, bound, silent > bound, year)
        # The same day's orders stand in the order of their id, the greater the earlier: as the model sorts them.
        newest = orders.sort_values(["order_date", "order_id"], ascending=[False, True])["amount_ht"].to_numpy()
        recent, past = newest[:3], newest[3:]
        if len(past) >= 3 and silent <= 365:
            spread = past.std(ddof=1) * np.sqrt(1 / 3 + 1 / len(past))
            bound = past.mean() - max(0.3 * past.mean(), 2 * spread)
            stake = 3 * max(past.mean() - recent.mean(), 0)
            expected["ORDER_VALUE_DOWN", str(customer)] = (
                recent.mean(), past.mean(), bound, recent.mean() <= bound, stake
            )  # fmt: skip
    habits = estate.mart("habits").query("subject_type == 'customer'").set_index(["kind", "subject_id"])
    assert set(habits.index) == set(expected)
    for key, (measured, usual, bound, beyond, stake) in expected.items():
        row = habits.loc[key]
        assert row["measured"] == pytest.approx(measured)
        assert row["expected"] == pytest.approx(usual)
        assert row["threshold"] == pytest.approx(bound)
        assert row["is_beyond"] == beyond, key
        assert row["value_at_stake_ht"] == pytest.approx(stake, abs=0.006)
    found = estate.mart("anomalies").query("subject_type == 'customer'").set_index(["kind", "subject_id"])
    assert set(found.index) == {key for key, (*_, beyond, _stake) in expected.items() if beyond}
    assert {kind for kind, _ in found.index} == {"CUSTOMER_SILENT", "ORDER_VALUE_DOWN"}
    high = np.where(found.index.get_level_values(0) == "CUSTOMER_SILENT", 500, 300)
    assert list(found["severity"]) == list(np.where(found["value_at_stake_ht"] >= high, "HIGH", "LOW"))


def test_a_wine_falls_when_its_orders_do(estate: Estate) -> None:
    wines = estate.mart("product_performance").query("population == 'all'").set_index("wine_id")
    fallen = set(estate.mart("anomalies").query("kind == 'PRODUCT_FALLING'")["subject_id"])
    expected = set()
    for name, row in wines.iterrows():
        now, before = row["orders_recent"], row["orders_recent_year_before"]
        if row["kind"] in ("wine", "gift_box") and row["is_active"] and before >= 10 and row["stock_bottles"] != 0:
            fewer = (before - now) / np.sqrt(before + now)
            if row["bottles_recent"] <= 0.7 * row["bottles_recent_year_before"] and fewer >= 1:
                expected.add(name)
    assert fallen == expected
    assert "b" in fallen


def test_the_estate_is_measured_by_the_same_weeks_of_past_years(estate: Estate) -> None:
    until = estate.orders.loc[estate.orders["is_qualifying"], "order_date"].max()
    start = estate.orders.loc[estate.orders["is_qualifying"], "order_date"].min()
    days = pd.date_range(start, until)
    orders = estate.people()
    daily = {
        "orders": orders.groupby("order_date").size().reindex(days, fill_value=0).to_numpy(float),
        "revenue": estate.lines.groupby("revenue_date")["amount_ht"].sum().reindex(days, fill_value=0).to_numpy(float),
    }
    amounts = orders.groupby("order_date")["amount_ht"].sum().reindex(days, fill_value=0).to_numpy(float)
    squares = (orders["amount_ht"] ** 2).groupby(orders["order_date"]).sum().reindex(days, fill_value=0).to_numpy(float)
    habits = estate.mart("habits").query("kind == 'VOLUME_OFF'").set_index("measure")
    assert set(habits.index) == {"orders_week", "orders_month", "revenue_week", "revenue_month"}
    end = len(days)
    for period, length in (("week", 7), ("month", 28)):
        for measure, values in daily.items():
            shares = [
                values[last - length : last].sum() / values[last - 364 : last].sum()
                for years in (1, 2, 3)
                for off in (-7, 0, 7)
                if (last := end - 364 * years + off) >= 364
            ]
            share, spread = float(np.mean(shares)), float(np.std(shares, ddof=1))
            year, now = values[end - 364 :].sum(), values[end - length :].sum()
            usual = share / (1 - share) * (year - now)
            chance = share * (daily["orders"][end - 364 :].sum() if measure == "orders" else squares[end - 364 :].sum())
            room = max(0.3 * usual, np.sqrt((spread * year) ** 2 + chance))
            row = habits.loc[f"{measure}_{period}"]
            assert row["measured"] == pytest.approx(now)
            assert row["expected"] == pytest.approx(usual)
            assert row["threshold"] == pytest.approx(max(usual - room, 0) if now < usual else usual + room)
            assert row["is_beyond"] == (abs(now - usual) > room)
            one = 1 if measure == "revenue" else amounts[end - 364 :].sum() / daily["orders"][end - 364 :].sum()
            assert row["value_at_stake_ht"] == pytest.approx(abs(now - usual) * one, abs=0.006)


def test_counts_say_among_how_many_and_whether_that_is_too_many(estate: Estate) -> None:
    habits, counts = estate.mart("habits"), estate.mart("anomaly_counts").set_index("kind")
    assert set(counts.index) == {"CUSTOMER_SILENT", "ORDER_VALUE_DOWN", "PRODUCT_FALLING", "VOLUME_OFF"}
    for kind, row in counts.iterrows():
        of_kind = habits[habits["kind"] == kind]
        share = of_kind["is_beyond"].mean() if len(of_kind) else 0.0
        assert (row["examined"], row["found"]) == (len(of_kind), of_kind["is_beyond"].sum())
        assert row["share"] == pytest.approx(float(share))
        assert row["is_over"] == (share > getattr(RULES.kpis.anomalies.max_shares, str(kind)))
        stakes = of_kind.loc[of_kind["is_beyond"].astype(bool), "value_at_stake_ht"]
        value = (stakes.max() if kind == "VOLUME_OFF" else stakes.sum()) if len(stakes) else 0
        assert row["value_at_stake_ht"] == pytest.approx(value, abs=0.006)


@pytest.mark.parametrize("locale", ["fr", "en", "de"])
def test_every_anomaly_has_its_words_in_every_language(estate: Estate, locale: str) -> None:
    words = rendering.texts(locale)
    kinds, measures = set(estate.mart("anomaly_counts")["kind"]), set(estate.mart("habits")["measure"])
    assert set(words["anomaly"]["meaning"]) == set(words["report"]["anomaly_kind"]) == kinds
    assert set(words["report"]["anomaly_sentence"]) == measures


KPI_PICTURES = {mart: draw for (stage, mart), (_, draw) in PICTURES.items() if stage == "kpis"}


def test_an_estate_without_sales_has_empty_marts_and_says_so(tenant_warehouse: Warehouse) -> None:
    tenant_warehouse.execute(TABLES)
    build(tenant_warehouse, AS_OF, *MARTS)
    assert {name: tenant_warehouse.count("kpis", name) for name in MARTS if name != "anomaly_counts"} == {
        name: 0 for name in MARTS if name != "anomaly_counts"
    }
    assert tenant_warehouse.read("kpis", "anomaly_counts")["examined"].sum() == 0
    assert {draw(tenant_warehouse).md_str.split(": ")[1] for draw in KPI_PICTURES.values()} == {"none"}


def test_marts_show_themselves_as_pictures(estate: Estate) -> None:
    for mart, draw in KPI_PICTURES.items():
        assert draw(estate.warehouse).md_str.startswith("![plot](data:image/png;base64,"), mart
    assert set(KPI_PICTURES) == {"monthly_sales", "cohort_retention", "rfm_transitions", "cluster_transitions"}
