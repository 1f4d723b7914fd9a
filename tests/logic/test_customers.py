"""Taste and clusters: the formulas by hand, and results that no row order can change."""

from __future__ import annotations

import math
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from crm_assets import rules as rules_module
from crm_assets.logic import customers
from crm_assets.logic.customers import AROMA_AXES, CLUSTER_FEATURES

ROOT = Path(__file__).resolve().parents[2]
AS_OF = date(2025, 12, 31)
RULES = rules_module.load()


def ago(days: int) -> pd.Timestamp:
    return pd.Timestamp(AS_OF - timedelta(days=days))


def people(*ids: str) -> pd.DataFrame:
    return pd.DataFrame({"customer_id": list(ids)})


def purchases(*rows: tuple[str, str, str, int, float]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["customer_id", "wine_id", "order_id", "days", "amount_ht"])
    return frame.assign(sale_date=[ago(days) for days in frame["days"]])


def products(**fruit: float | None) -> pd.DataFrame:
    """One product per wine: the fruit axis as given, the others in the middle; None: nothing known."""
    rows: list[dict[str, Any]] = []
    for wine, grade in fruit.items():
        axes = {axis: None if grade is None else 2.5 for axis in AROMA_AXES}
        rows.append({"product_key": f"P-{wine}", "wine_id": wine, "is_inferred": False, **axes, "aroma_fruit": grade})
    return pd.DataFrame(rows)


# Taste


def test_taste_is_the_weighted_mean_shrunk_to_the_estate() -> None:
    bought = purchases(("a", "w5", "o1", 0, 100.0), ("a", "w1", "o2", 730, 100.0), ("b", "w1", "o3", 0, 50.0))
    found = customers.taste_profiles(people("a", "b", "c"), bought, products(w5=5.0, w1=1.0), AS_OF, RULES)
    decay = math.exp(-1.0)
    own_a = (100 * 1.0 + 100 * decay * 0.2) / (100 + 100 * decay)
    estate = (100 * 1.0 + 100 * decay * 0.2 + 50 * 0.2) / (100 + 100 * decay + 50)
    fruit = found.set_index("customer_id")["aroma_fruit"]
    assert fruit["a"] == pytest.approx((2 * own_a + 2 * estate) / 4, abs=1e-6)
    assert fruit["b"] == pytest.approx((1 * 0.2 + 2 * estate) / 3, abs=1e-6)
    assert fruit["c"] == pytest.approx(estate, abs=1e-6)
    assert found["aroma_body"].tolist() == [0.5, 0.5, 0.5]


def test_what_was_partly_returned_weighs_by_what_was_kept() -> None:
    bought = purchases(("a", "w5", "o1", 0, 90.0), ("a", "w5", "o2", 9, 30.0), ("a", "w1", "o3", 0, 60.0))
    bought["net_amount_ht"] = [60.0, 60.0, 60.0]
    found = customers.net_purchases(bought.sample(frac=1, random_state=1)).set_index("order_id")["amount_ht"]
    assert found.to_dict() == {"o1": 45.0, "o2": 15.0, "o3": 60.0}
    assert customers.net_purchases(bought.iloc[:0])["amount_ht"].tolist() == []


def test_taste_is_what_plain_loops_find() -> None:
    """spec.md §4.2, once more, one number at a time."""
    chance = np.random.default_rng(7)
    grades = {f"w{n}": float(chance.integers(1, 6)) for n in range(5)} | {"plain": None}
    lines = [(line // 2, str(chance.choice(list(grades))), 10.0 + line) for line in range(90)]
    rows = [(f"c{order % 7}", wine, f"o{order}", 37 * order, amount) for order, wine, amount in lines]
    found = customers.taste_profiles(
        people(*(f"c{n}" for n in range(8))), purchases(*rows), products(**grades), AS_OF, RULES
    ).set_index("customer_id")

    def mean(lines: list[tuple[str, str, str, int, float]]) -> float:
        weights = [amount * math.exp(-day / 730) for _, _, _, day, amount in lines]
        return sum(w * (grades[line[1]] or 0) / 5 for w, line in zip(weights, lines, strict=True)) / sum(weights)

    estate_mean = mean([row for row in rows if grades[row[1]] is not None])
    for customer, profile in found.iterrows():
        own = [row for row in rows if row[0] == customer]
        known = [row for row in own if grades[row[1]] is not None]
        n_orders = len({row[2] for row in known})
        expected = (n_orders * mean(known) + 2 * estate_mean) / (n_orders + 2) if known else estate_mean
        spend = sum(row[4] for row in own)
        confidence = min(1, len({row[2] for row in own}) / 10) * (sum(row[4] for row in known) / spend if spend else 0)
        assert profile["aroma_fruit"] == pytest.approx(expected, abs=1e-6)
        assert profile["confidence"] == pytest.approx(confidence, abs=1e-6)
        level = "Low" if confidence < 0.45 else "Medium" if confidence < 0.70 else "High"
        assert profile["confidence_level"] == level
    assert set(found["confidence_level"]) == {"Low", "Medium"}


def test_taste_confidence_is_orders_times_described_share() -> None:
    rows = [("a", "w", f"o{n}", n, 10.0) for n in range(5)]
    rows += [("b", "w", f"p{n}", n, 10.0) for n in range(12)] + [("b", "plain", "p0", 0, 40.0)]
    found = customers.taste_profiles(people("a", "b", "c"), purchases(*rows), products(w=3.0, plain=None), AS_OF, RULES)
    by_id = found.set_index("customer_id")
    assert by_id["confidence"].tolist() == [0.5, 0.75, 0.0]
    assert by_id["confidence_level"].tolist() == ["Medium", "High", "Low"]


@pytest.mark.parametrize(("orders", "level"), [(4, "Low"), (5, "Medium"), (6, "Medium"), (7, "High")])
def test_taste_confidence_levels_have_their_edges(orders: int, level: str) -> None:
    rows = [("a", "w", f"o{n}", n, 10.0) for n in range(orders)]
    found = customers.taste_profiles(people("a"), purchases(*rows), products(w=3.0), AS_OF, RULES)
    assert found["confidence_level"].tolist() == [level]


def test_taste_knows_nothing_of_the_future_nor_of_inferred_products() -> None:
    catalogue = products(w5=5.0, w1=1.0)
    catalogue.loc[catalogue["wine_id"] == "w1", "is_inferred"] = True
    bought = purchases(("a", "w5", "o1", 3, 10.0), ("a", "w1", "o2", 3, 10.0), ("a", "w5", "o3", -1, 10.0))
    found = customers.taste_profiles(people("a"), bought, catalogue, AS_OF, RULES)
    assert found["aroma_fruit"].tolist() == [1.0]
    assert found["confidence"].tolist() == [pytest.approx(0.2 * 0.5)]


def test_taste_without_any_purchase_is_the_catalogue_and_without_catalogue_null() -> None:
    nothing = purchases()
    found = customers.taste_profiles(people("a"), nothing, products(w5=5.0, w1=1.0), AS_OF, RULES)
    assert found["aroma_fruit"].tolist() == [pytest.approx(0.6)]
    assert found["confidence"].tolist() == [0.0]
    empty = customers.taste_profiles(people("a"), nothing, products(w=None), AS_OF, RULES)
    assert empty[AROMA_AXES].isna().all(axis=None)
    assert empty["confidence_level"].tolist() == ["Low"]


def test_taste_does_not_depend_on_row_order() -> None:
    chance = np.random.default_rng(1)
    rows = [
        (
            f"c{chance.integers(9)}",
            f"w{chance.integers(3)}",
            f"o{n}",
            int(chance.integers(900)),
            chance.random() * 99,
        )
        for n in range(200)
    ]
    bought, catalogue = purchases(*rows), products(w0=1.0, w1=3.3, w2=5.0)
    ids = people(*(f"c{n}" for n in range(9)))
    first = customers.taste_profiles(ids, bought, catalogue, AS_OF, RULES)
    again = customers.taste_profiles(
        ids.sample(frac=1, random_state=2),
        bought.sample(frac=1, random_state=3),
        catalogue.sample(frac=1, random_state=4),
        AS_OF,
        RULES,
    )
    assert first.to_csv() == again.to_csv()


# Clusters


def estate(n: int, seed: int = 5, population: str = "private") -> tuple[pd.DataFrame, pd.DataFrame]:
    """RFM and preferences of n customers in three groups that lie far apart."""
    chance = np.random.default_rng(seed)
    group = np.arange(n) % 3
    frequency = np.array([12, 4, 1])[group]
    rfm = pd.DataFrame(
        {
            "customer_id": [f"{population}{i:05d}" for i in range(n)],
            "population": population,
            "recency_days": np.array([20, 150, 900])[group] * chance.uniform(0.8, 1.2, n),
            "frequency": frequency,
            "monetary": np.array([4000, 700, 60])[group] * chance.uniform(0.8, 1.2, n),
            "average_order_value": np.array([330, 170, 60])[group] * chance.uniform(0.8, 1.2, n),
            "mean_interval_days": np.where(frequency > 1, np.array([60, 250, 0])[group], np.nan),
        }
    )
    diversity = np.array([0.7, 0.4, 0.0])[group] + chance.uniform(0, 0.1, n)
    return rfm, pd.DataFrame({"customer_id": rfm["customer_id"], "diversity": diversity})


def test_features_are_logs_with_the_tenant_median_for_one_order() -> None:
    rfm = pd.DataFrame(
        {
            "customer_id": ["b", "a", "p", "s"],
            "population": ["private", "private", "private", "other"],
            "recency_days": [9.0, 0.0, None, 1.0],
            "frequency": [3, 1, 0, 2],
            "monetary": [-5.0, 99.0, 0.0, 10.0],
            "average_order_value": [10.0, 99.0, None, 5.0],
            "mean_interval_days": [30.0, None, None, 4.0],
        }
    )
    preferences = pd.DataFrame({"customer_id": ["a", "b"], "diversity": [None, 0.4]})
    found = customers.cluster_features(rfm, preferences)
    assert found["customer_id"].tolist() == ["a", "b"]
    expected = [[0.0, math.log(2), math.log(100), math.log(100), math.log(31), 0.4]]
    expected += [[math.log(10), math.log(4), 0.0, math.log(11), math.log(31), 0.4]]
    assert found[CLUSTER_FEATURES].to_numpy() == pytest.approx(np.array(expected))


def test_far_groups_are_found_named_apart_and_measured() -> None:
    rfm, preferences = estate(180)
    found = customers.cluster_customers(rfm, preferences, None, RULES)
    quality = found.quality["private"]
    assert quality["k"] == 3
    assert quality["relaxed"] == []
    assert quality["stability"] >= RULES.clusters.stability_min
    assert quality["smallest_share"] >= RULES.clusters.smallest_share_min
    assert found.assignments["customer_id"].tolist() == sorted(rfm["customer_id"])
    together = found.assignments.set_index("customer_id")["cluster_id"].reindex(rfm["customer_id"]).to_numpy()
    for group in range(3):
        assert len(set(together[np.arange(180) % 3 == group])) == 1
    assert found.profiles["cluster_name"].is_unique
    assert found.profiles["size"].tolist() == [60, 60, 60]
    best = found.profiles.iloc[0]  # ids are first given by falling spend
    assert best["cluster_id"] == "private_01"
    assert best["frequency"] == 12
    assert math.isnan(found.profiles.iloc[2]["mean_interval_days"]), "a median in natural units invents no interval"


def test_ids_stay_when_customers_change_and_rows_move() -> None:
    rfm, preferences = estate(180)
    first = customers.cluster_customers(rfm, preferences, None, RULES)
    # As if the clusters had been found in another order: the ids are what has to survive.
    renamed = first.profiles.assign(cluster_id=["private_07", "private_02", "private_05"])
    other_rfm, other_preferences = estate(240, seed=6)
    second = customers.cluster_customers(other_rfm.sample(frac=1, random_state=1), other_preferences, renamed, RULES)
    by_id = second.profiles.set_index("cluster_id")["frequency"]
    assert by_id.to_dict() == {"private_07": 12, "private_02": 4, "private_05": 1}


def test_a_cluster_without_a_partner_gets_a_number_nobody_had() -> None:
    rfm, preferences = estate(180)
    first = customers.cluster_customers(rfm, preferences, None, RULES)
    two = first.profiles.iloc[:2].assign(cluster_id=["private_04", "private_09"], last_number=12)
    second = customers.cluster_customers(rfm, preferences, two, RULES)
    assert second.profiles["cluster_id"].tolist() == ["private_04", "private_09", "private_13"]
    assert second.profiles["last_number"].tolist() == [13, 13, 13]


def centroid(**changes: float) -> np.ndarray:
    """A centroid in logs, one standard deviation (1.0) per unit."""
    values = dict.fromkeys(CLUSTER_FEATURES, 3.0) | changes
    return np.array([values[feature] for feature in CLUSTER_FEATURES])


def ids_after(new: list[np.ndarray], old: dict[str, np.ndarray], last_number: int) -> list[str]:
    known = customers._KnownClusters(list(old), [""] * len(old), np.array(list(old.values())), last_number)
    found, _ = customers._stable_ids(np.array(new), np.ones(6), "private", known, 1.0)
    return found


def test_of_a_cluster_that_splits_the_nearer_half_keeps_the_id() -> None:
    old = {"private_01": centroid(monetary=6.0), "private_02": centroid(monetary=3.0)}
    new = [centroid(monetary=3.6), centroid(monetary=2.8), centroid(monetary=6.1)]
    assert ids_after(new, old, 2) == ["private_03", "private_02", "private_01"]


def test_the_id_of_a_cluster_that_vanishes_goes_to_nobody() -> None:
    """The third group is gone, another has come far from it: as many as before, and yet no match."""
    old = {"private_01": centroid(monetary=6.0), "private_02": centroid(), "private_03": centroid(recency_days=7.0)}
    new = [centroid(monetary=6.1), centroid(), centroid(frequency=6.0)]
    assert ids_after(new, old, 3) == ["private_01", "private_02", "private_04"]
    # Next time the vanished number is known by nothing but the highest ever given.
    del old["private_03"]
    assert ids_after([*new, centroid(recency_days=7.0)], old, 4)[-2:] == ["private_05", "private_06"]


def test_a_name_stays_while_it_is_true() -> None:
    named = customers._KnownClusters(["private_01"], ["Frequent, recent"], np.zeros((1, 6)), 1)
    z = np.array([[-0.5, 0.6, 1.5, 1.2, 0.0, 0.0]])  # recency, frequency, monetary, order value, interval, diversity
    assert customers._names(z, ["private_01"], named) == ["Frequent, recent"]
    z[0, 0] = 0.1
    assert customers._names(z, ["private_01"], named) == ["High spending, large orders"]
    assert customers._names(z, ["private_02"], named) == ["High spending, large orders"]


def test_names_say_only_what_is_remarkable_and_differ() -> None:
    nobody = customers._KnownClusters([], [], np.empty((0, 6)), 0)
    z = np.array([[0.1] * 6, [0, 0, 0.3, 0, 0, 0], [0, 0, 0.4, 0, 0, 0], [1.0, 0, 0.9, 0, 0, 0.5]])
    names = customers._names(z, [f"private_0{n}" for n in range(1, 5)], nobody)
    assert names == ["Average", "High spending", "High spending (03)", "High spending, lapsed"]
    assert customers.cluster_words(names[2]) == (["high spending"], "03")


def test_of_a_rhythm_that_most_do_not_have_nothing_is_said() -> None:
    rfm, preferences = estate(180)
    found = customers.cluster_customers(rfm, preferences, None, RULES)
    once = found.profiles.loc[found.profiles["frequency"] == 1, "cluster_name"].item()
    assert "rhythm" not in once


def level(*measured: tuple[int, float, float, float]) -> list[dict[str, Any]]:
    return [
        {"k": k, "silhouette": silhouette, "stability": stability, "smallest_share": share}
        for k, silhouette, stability, share in measured
    ]


@pytest.mark.parametrize(
    ("tried", "last_k", "k", "relaxed"),
    [
        (level((3, 0.50, 0.70, 0.3), (4, 0.40, 0.90, 0.3), (5, 0.45, 0.99, 0.04)), 0, 4, []),
        (level((3, 0.40, 0.90, 0.3), (4, 0.415, 0.86, 0.3), (5, 0.41, 0.95, 0.3)), 0, 5, []),  # level: most stable
        (level((3, 0.40, 0.90, 0.3), (4, 0.415, 0.86, 0.3), (5, 0.41, 0.95, 0.3)), 4, 4, []),  # level: the last one
        (level((3, 0.30, 0.90, 0.3), (4, 0.415, 0.86, 0.3)), 3, 4, []),  # not level: the last one does not hold on
        (level((3, 0.40, 0.70, 0.3), (4, 0.415, 0.84, 0.3), (5, 0.5, 0.95, 0.01)), 0, 4, ["stability"]),
        (level((3, 0.40, 0.80, 0.3), (4, 0.415, 0.84, 0.3), (5, 0.5, 0.82, 0.3)), 0, 3, ["stability"]),  # level: fewest
        (level((3, 0.40, 0.80, 0.3), (4, 0.415, 0.84, 0.3), (5, 0.5, 0.82, 0.3)), 5, 5, ["stability"]),
        (level((3, 0.40, 0.90, 0.02), (4, 0.4, 0.84, 0.01)), 0, 3, ["smallest_share"]),
        (level((3, 0.40, 0.70, 0.02), (4, 0.4, 0.84, 0.01)), 0, 4, ["stability", "smallest_share"]),
    ],
)
def test_k_is_stable_and_large_before_it_is_well_separated(
    tried: list[dict[str, Any]], last_k: int, k: int, relaxed: list[str]
) -> None:
    best, given_up = customers._choose(tried, last_k, RULES.clusters)
    assert (best["k"], given_up) == (k, relaxed)


def test_the_thread_limit_binds_scikit_learn_too() -> None:
    """It binds the pools that are loaded when it is set: with two threads sums add up in any order."""
    script = """
import sys, threadpoolctl
real = threadpoolctl.threadpool_limits
def limits(limits):
    assert "sklearn.cluster" in sys.modules, "not loaded yet"
    print("limited", limits)
    return real(limits=limits)
threadpoolctl.threadpool_limits = limits
import pandas as pd
from crm_assets import rules
from crm_assets.logic import customers
columns = ["recency_days", "frequency", "monetary", "average_order_value", "mean_interval_days"]
rfm = pd.DataFrame({"customer_id": ["a", "b"], "population": "private"} | dict.fromkeys(columns, 1.0))
customers.cluster_customers(rfm, rfm[["customer_id"]].assign(diversity=0.5), None, rules.load())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "limited 1\n"


def test_clusters_do_not_depend_on_row_order_and_repeat() -> None:
    rfm, preferences = estate(90)
    first = customers.cluster_customers(rfm, preferences, None, RULES)
    again = customers.cluster_customers(
        rfm.sample(frac=1, random_state=1), preferences.sample(frac=1, random_state=2), first.profiles, RULES
    )
    assert first.assignments.to_csv() == again.assignments.to_csv()
    assert first.profiles.to_csv() == again.profiles.to_csv()


@pytest.mark.parametrize(("n", "k"), [(0, 0), (1, 1), (2, 1), (5, 1), (6, 2), (8, 2), (9, 3)])
def test_fewer_customers_make_fewer_clusters_and_no_error(n: int, k: int) -> None:
    rfm, preferences = estate(max(n, 1))
    found = customers.cluster_customers(rfm.iloc[:n], preferences, None, RULES)
    assert len(found.profiles) == k
    assert len(found.assignments) == n
    assert found.profiles["size"].sum() == n


def test_customers_all_alike_are_one_cluster() -> None:
    rfm, preferences = estate(30)
    same = rfm.assign(**{name: 5.0 for name in CLUSTER_FEATURES[:5]})
    found = customers.cluster_customers(same, preferences.assign(diversity=0.5), None, RULES)
    assert len(found.profiles) == 1


def test_populations_are_clustered_apart() -> None:
    private, private_taste = estate(60)
    professional, professional_taste = estate(30, population="professional")
    found = customers.cluster_customers(
        pd.concat([private, professional]), pd.concat([private_taste, professional_taste]), None, RULES
    )
    assert found.profiles.groupby("population")["share"].sum().round(5).to_dict() == {
        "private": 1.0,
        "professional": 1.0,
    }
    assert (found.assignments["cluster_id"].str.split("_").str[0] == found.assignments["population"]).all()
