"""Customer intelligence: taste, behavioural clusters, and the probability of the next order (spec.md
§4.2-§4.4).

Frames in, frames out. No SQL, no Dagster, no clock and no unseeded chance here: the as-of date is an
argument, and the order of the input rows never changes a result. RFM scores and preferences are dbt models
(`rfm`), not here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, fields
from datetime import date
from functools import cached_property
from itertools import combinations
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd

from crm_assets.logic.purchase_models import BetaGeometric, FitError, ParetoNBD, PurchaseModel

if TYPE_CHECKING:
    from crm_assets.rules import BusinessRules
    from crm_assets.rules import Clusters as ClusterRules

Floats = np.ndarray[Any, np.dtype[np.float64]]
Ints = np.ndarray[Any, np.dtype[np.int64]]

AROMA_AXES = [f"aroma_{axis}" for axis in ("fruit", "floral", "spice", "mineral", "acidity", "body", "tannin")]
AROMA_MAX = 5.0  # the catalogue grades every axis 1..5
POPULATIONS = ["private", "professional"]
METHOD_RATE = "rate_with_dropout"
METHOD_NO_ORDER = "no_order"
PURCHASE_MODELS = (BetaGeometric.name, ParetoNBD.name)
DECIMALS = 6  # what is written: enough to tell customers apart, few enough to be the same on every machine


def day_numbers(dates: pd.Series) -> Ints:
    """Days since 1970-01-01 of a date column; the smallest integer where it is null."""
    return pd.to_datetime(dates).to_numpy(dtype="datetime64[D]").astype(np.int64)


def day_number(day: date) -> int:
    """Days since 1970-01-01 of one date."""
    return int(np.datetime64(day, "D").astype(np.int64))


def date_of(day: int) -> date:
    """The date of a day number."""
    found: date = np.datetime64(day, "D").astype(object)
    return found


def positions(values: pd.Series, index: pd.Index) -> Ints:
    """Where each value stands in `index`; -1 for one that is not in it."""
    return index.get_indexer(pd.Index(values)).astype(np.int64)


def sorted_ids(values: pd.Series) -> pd.Index:
    """Distinct ids in the order of their code points, as `COLLATE "C"` sorts them."""
    return pd.Index(sorted(values.astype(str).unique()), dtype="str")


def totals(codes: Ints, amounts: Floats, n: int) -> Floats:
    """Sum of the amounts of each code 0..n-1; NumPy alone makes integers of no rows."""
    return np.bincount(codes, weights=amounts, minlength=n).astype(np.float64)


# Taste (spec.md §4.2)


def wine_aromas(products: pd.DataFrame) -> pd.DataFrame:
    """One row per wine with aroma data: mean of each axis over its catalogue products, scaled to 0..1, null
    unknown.
    """
    known = products.loc[~products["is_inferred"].fillna(False).astype(bool)]
    axes = known[AROMA_AXES].astype("float64") / AROMA_MAX
    by_wine = axes.groupby(known["wine_id"].astype(str)).mean().dropna(how="all")
    return by_wine.sort_index()


def net_purchases(purchases: pd.DataFrame) -> pd.DataFrame:
    """`rfm.purchases` (customer_id, wine_id, amount_ht, net_amount_ht, …) with the amounts of each customer's wine
    brought to its net: what was partly returned weighs by what was kept, and no more.
    """
    rows = purchases.sort_values(["customer_id", "wine_id", "order_id"], kind="stable")
    pair = rows.groupby(["customer_id", "wine_id"], sort=False).ngroup().to_numpy().astype(np.int64)
    amount = rows["amount_ht"].to_numpy(dtype="float64")
    gross = totals(pair, amount, int(pair.max(initial=-1)) + 1)[pair]
    net = np.maximum(rows["net_amount_ht"].to_numpy(dtype="float64"), 0.0)
    return rows.assign(amount_ht=amount * np.divide(net, gross, out=np.zeros(len(rows)), where=gross > 0))


def taste_profiles(
    customers: pd.DataFrame,
    purchases: pd.DataFrame,
    products: pd.DataFrame,
    as_of: date,
    rules: BusinessRules,
) -> pd.DataFrame:
    """Rows of `customers.taste_profiles`: one per person, ordered by customer_id.

    A purchase (customer × wine × order) weighs amount_ht × exp(-age / 730), and a customer's axis is the
    weighted mean of the wines' axes. It is shrunk to the estate's mean, which counts for two orders, the
    customer's own for as many as have aroma data. An axis without data is the estate's mean; when the estate
    has none either, the catalogue's mean; null when no wine is described. confidence = min(1, orders / 10) ×
    described share of spend.

    `customers` are people (customer_id); `purchases` has customer_id, wine_id, order_id, sale_date,
    amount_ht.
    """
    taste = rules.taste
    ids = sorted_ids(customers["customer_id"])
    aromas = wine_aromas(products)
    rows = pd.DataFrame(
        {
            "customer": positions(purchases["customer_id"], ids),
            "wine": positions(purchases["wine_id"], aromas.index),
            "day": day_numbers(purchases["sale_date"]),
            "amount": purchases["amount_ht"].to_numpy(dtype="float64"),
            "order": pd.factorize(purchases["order_id"])[0],
        }
    )
    today = day_number(as_of)
    rows = rows[(rows["customer"] >= 0) & (rows["day"] <= today)]
    # Equal keys hold equal values, so the sums below add the same numbers in the same order whatever came
    # first.
    rows = rows.sort_values(["customer", "wine", "day", "amount"], kind="stable")
    customer, wine = rows["customer"].to_numpy(), rows["wine"].to_numpy()
    amount = np.maximum(rows["amount"].to_numpy(), 0.0)
    weight = amount * np.exp(-(today - rows["day"].to_numpy()) / taste.half_weight_days)
    described = wine >= 0
    n = len(ids)

    axes_of_wine = aromas.to_numpy(dtype="float64")
    catalogue_mean = _mean_of_known(axes_of_wine)
    shrinkage = float(taste.shrinkage_orders)
    n_described_orders = _distinct_orders(customer[described], rows["order"].to_numpy()[described], n)
    profile = np.empty((n, len(AROMA_AXES)))
    for axis in range(len(AROMA_AXES)):
        value = np.full(len(rows), np.nan)
        value[described] = axes_of_wine[wine[described], axis]
        usable = ~np.isnan(value) & (weight > 0)
        total = totals(customer[usable], weight[usable], n)
        summed = totals(customer[usable], weight[usable] * value[usable], n)
        estate = summed.sum() / total.sum() if total.sum() > 0 else catalogue_mean[axis]
        own = np.divide(summed, total, out=np.full(n, estate), where=total > 0)
        orders = np.where(total > 0, n_described_orders, 0)
        profile[:, axis] = (orders * own + shrinkage * estate) / (orders + shrinkage)

    n_orders = _distinct_orders(customer, rows["order"].to_numpy(), n)
    spend = totals(customer, amount, n)
    described_spend = totals(customer[described], amount[described], n)
    share = np.divide(described_spend, spend, out=np.zeros(n), where=spend > 0)
    confidence = np.round(np.minimum(1.0, n_orders / taste.full_confidence_orders) * share, DECIMALS)
    levels = taste.confidence_levels
    frame = pd.DataFrame(np.round(profile, DECIMALS), columns=AROMA_AXES)
    frame.insert(0, "customer_id", ids)
    frame["confidence"] = confidence
    frame["confidence_level"] = np.select(
        [confidence >= levels.high, confidence >= levels.medium], ["High", "Medium"], "Low"
    )
    return frame


def _mean_of_known(values: Floats) -> Floats:
    known = ~np.isnan(values)
    count = known.sum(axis=0)
    total = np.where(known, values, 0.0).sum(axis=0)
    return np.divide(total, count, out=np.full(values.shape[1], np.nan), where=count > 0)


def _distinct_orders(customer: Ints, order: Ints, n: int) -> Ints:
    """Number of distinct orders per customer position 0..n-1."""
    pairs = np.unique(customer * (int(order.max(initial=0)) + 1) + order)
    return np.bincount(pairs // (int(order.max(initial=0)) + 1), minlength=n)


# Clusters (spec.md §4.3)

CLUSTER_FEATURES = [
    "recency_days",
    "frequency",
    "monetary",
    "average_order_value",
    "mean_interval_days",
    "diversity",
]
_LOGGED = CLUSTER_FEATURES[:5]
# What a low and a high centroid of a feature are called. Money and habit first: names are read in this order.
_NAME_WORDS = {
    "monetary": ("low spending", "high spending"),
    "frequency": ("occasional", "frequent"),
    "recency_days": ("recent", "lapsed"),
    "average_order_value": ("small orders", "large orders"),
    "mean_interval_days": ("short rhythm", "long rhythm"),
    "diversity": ("single taste", "varied taste"),
}
_UNREMARKABLE = "average"
CLUSTER_WORDS = [*(word for pair in _NAME_WORDS.values() for word in pair), _UNREMARKABLE]
_REMARKABLE = 0.25  # standard deviations from the population's mean: less is not worth a word


@dataclass(frozen=True)
class Clustering:
    """Rows of `customers.clusters` and `customers.cluster_profiles`, and per population how k was chosen."""

    assignments: pd.DataFrame
    profiles: pd.DataFrame
    quality: dict[str, dict[str, Any]]


def cluster_features(rfm: pd.DataFrame, preferences: pd.DataFrame) -> pd.DataFrame:
    """One row per customer with a qualifying order, by customer_id: population and the six features, logs
    taken.

    log1p of recency, frequency, monetary (floored at 0), average order value and interval (one order: the
    tenant's median); diversity as it is (unknown: the tenant's median). Standard scaling follows, diversity
    included: left in its 0..1 it would hardly weigh beside the others.
    """
    buyers = rfm[(rfm["frequency"].fillna(0) > 0) & rfm["population"].isin(POPULATIONS)].copy()
    buyers["customer_id"] = buyers["customer_id"].astype(str)
    diversity = preferences.assign(customer_id=preferences["customer_id"].astype(str)).set_index("customer_id")
    buyers["diversity"] = buyers["customer_id"].map(diversity["diversity"]).astype("float64")
    buyers = buyers.sort_values("customer_id", kind="stable").reset_index(drop=True)
    for column in ["mean_interval_days", "diversity"]:
        values = buyers[column].astype("float64")
        buyers[column] = values.fillna(values.median()).fillna(0.0)
    features = buyers[_LOGGED].astype("float64").clip(lower=0.0).apply(np.log1p)
    features["diversity"] = buyers["diversity"]
    return pd.concat([buyers[["customer_id", "population"]], features], axis=1)


def cluster_customers(
    rfm: pd.DataFrame, preferences: pd.DataFrame, previous: pd.DataFrame | None, rules: BusinessRules
) -> Clustering:
    """Seeded k-means within private and within professional customers.

    `previous` = the last `customers.cluster_profiles`: k stays while it is as good as any, a new cluster takes
    the id of the old centroid it is matched with, and its name while that is true, so that a campaign written
    for a cluster finds it again. A centroid is stored in unscaled feature units (logs, diversity as it is).
    """
    # Both before the limit: it binds the thread pools that are loaded when it is set.
    import sklearn.cluster
    import sklearn.metrics  # noqa: F401
    from threadpoolctl import threadpool_limits

    features = cluster_features(rfm, preferences)
    natural = rfm.assign(customer_id=rfm["customer_id"].astype(str)).set_index("customer_id")
    diversity = preferences.assign(customer_id=preferences["customer_id"].astype(str)).set_index("customer_id")
    natural = natural.assign(diversity=diversity["diversity"].reindex(natural.index))
    assignments, profiles, quality = [], [], {}
    for population in POPULATIONS:
        members = features[features["population"] == population]
        if members.empty:
            quality[population] = {"customers": 0, "k": 0, "relaxed": []}
            continue
        matrix = members[CLUSTER_FEATURES].to_numpy(dtype="float64")
        mean, deviation = matrix.mean(axis=0), matrix.std(axis=0)
        deviation = np.where(deviation > 0, deviation, 1.0)
        # A trait that few have (a second family, where nearly all buy one) would be a cluster of its own.
        scaled = np.clip((matrix - mean) / deviation, -rules.clusters.deviations_max, rules.clusters.deviations_max)
        known = _known_clusters(previous, population)
        # One thread: sums add up in one order, on any machine.
        with threadpool_limits(limits=1):
            labels, chosen = _fit(np.round(scaled, 9), len(known.ids), rules.clusters)
        centroids = np.stack([matrix[labels == label].mean(axis=0) for label in range(labels.max() + 1)])
        ids, last_number = _stable_ids(centroids, deviation, population, known, rules.clusters.match_distance_max)
        own = natural.loc[members["customer_id"], CLUSTER_FEATURES].astype("float64").reset_index(drop=True)
        standardised = (centroids - mean) / deviation
        # Of a feature that few members have (the rhythm of customers with one order), nothing is said.
        standardised[own.notna().groupby(labels).mean().to_numpy() < 0.5] = 0.0
        names = _names(standardised, ids, known)
        quality[population] = {"customers": len(members), **chosen}
        assignments.append(
            pd.DataFrame(
                {
                    "customer_id": members["customer_id"].to_numpy(),
                    "population": population,
                    "cluster_id": np.array(ids, dtype=object)[labels],
                    "cluster_name": np.array(names, dtype=object)[labels],
                }
            )
        )
        sizes = np.bincount(labels)
        frame = own.groupby(labels).median().round(DECIMALS).reset_index(drop=True)
        frame.insert(0, "cluster_id", ids)
        frame.insert(1, "population", population)
        frame.insert(2, "cluster_name", names)
        frame.insert(3, "size", sizes)
        frame.insert(4, "share", np.round(sizes / len(members), DECIMALS))
        frame["centroid"] = [[round(float(v), DECIMALS) for v in row] for row in centroids]
        frame["silhouette"], frame["stability"] = chosen["silhouette"], chosen["stability"]
        frame["last_number"] = last_number
        profiles.append(frame)
    columns = ["customer_id", "population", "cluster_id", "cluster_name"]
    head, tail = (
        ["cluster_id", "population", "cluster_name", "size", "share"],
        ["centroid", "silhouette", "stability", "last_number"],
    )
    profile_columns = [*head, *CLUSTER_FEATURES, *tail]
    return Clustering(
        assignments=_stack(assignments, columns, ["customer_id"]),
        profiles=_stack(profiles, profile_columns, ["cluster_id"]),
        quality=quality,
    )


def _stack(frames: list[pd.DataFrame], columns: list[str], by: list[str]) -> pd.DataFrame:
    if not frames:
        return pd.DataFrame({column: [] for column in columns})
    return pd.concat(frames, ignore_index=True)[columns].sort_values(by, kind="stable").reset_index(drop=True)


def _fit(scaled: Floats, last_k: int, rules: ClusterRules) -> tuple[Ints, dict[str, Any]]:
    """Cluster label 0..k-1 of each row, and {k, silhouette, stability, smallest_share, relaxed, tried}.

    `scaled`: customers × features; `last_k`: the number of clusters of the last run, 0 without any.
    stability: mean adjusted Rand index of the fits on bootstrap resamples, two by two, over the whole sample
    (von Luxburg 2010, "Clustering stability"). A k qualifies when it is stable and its smallest cluster large
    enough. Silhouettes closer than `silhouette_tolerance` to the best are level: of those the last run's k,
    else the most stable. When none qualifies, the criterion given up is named in `relaxed`: stability first
    (of the most stable k with large enough clusters, level within `stability_tolerance`, the last run's, else the
    fewest), then the smallest share, then both. Under 3·k_min customers k = n // 3 (at least 1), and nothing is
    measured.
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score, silhouette_score

    n, n_distinct = len(scaled), len(np.unique(scaled, axis=0))
    candidates = [k for k in range(rules.k_min, rules.k_max + 1) if n >= 3 * k and n_distinct > k]
    if not candidates:
        k = max(1, min(n // 3, rules.k_min, n_distinct))
        labels = KMeans(k, n_init=rules.starts, random_state=rules.seed).fit_predict(scaled)
        return labels.astype(np.int64), {"k": k, "silhouette": None, "stability": None, "relaxed": ["customers"]}

    chance = np.random.default_rng(rules.seed)
    sample = scaled if n <= rules.sample_max else scaled[np.sort(chance.choice(n, rules.sample_max, False))]
    judged = np.sort(chance.permutation(len(sample))[: rules.silhouette_sample])
    # How often each row is drawn: a resample as weights needs only the rows drawn at all.
    draws = [
        np.bincount(chance.integers(0, len(sample), len(sample)), minlength=len(sample)).astype("float64")
        for _ in range(rules.stability_resamples)
    ]
    tried, centres = [], {}
    for k in candidates:
        model = KMeans(k, n_init=rules.starts, random_state=rules.seed).fit(sample)
        labels = model.labels_
        predicted = []
        for number, times in enumerate(draws, start=1):
            drawn = np.flatnonzero(times)
            # Other starts for each: the same ones would make agree what only began alike.
            fit = KMeans(min(k, len(drawn)), n_init=rules.starts, random_state=rules.seed + number)
            predicted.append(fit.fit(sample[drawn], sample_weight=times[drawn]).predict(sample))
        agreement = [adjusted_rand_score(a, b) for a, b in combinations(predicted, 2)]
        everybody = labels if len(sample) == n else model.predict(scaled)
        is_told_apart = 1 < len(np.unique(labels[judged])) < len(judged)
        centres[k] = model.cluster_centers_
        tried.append(
            {
                "k": k,
                "silhouette": round(float(silhouette_score(sample[judged], labels[judged])), 4)
                if is_told_apart
                else -1.0,
                "stability": round(float(np.mean(agreement)), 4),
                "stability_lowest": round(float(np.min(agreement)), 4),
                "smallest_share": round(float(np.bincount(everybody, minlength=k).min() / n), 4),
            }
        )
    best, relaxed = _choose(tried, last_k, rules)
    k = int(best["k"])
    fit = KMeans(k, init=centres[k], n_init=1, tol=0, random_state=rules.seed).fit(scaled)
    # Gapless, should a cluster come out empty.
    labels = np.unique(fit.labels_, return_inverse=True)[1].astype(np.int64)
    share = round(float(np.bincount(labels).min() / n), 4)
    return labels, {**best, "smallest_share": share, "relaxed": relaxed, "tried": tried}


def _choose(tried: list[dict[str, Any]], last_k: int, rules: ClusterRules) -> tuple[dict[str, Any], list[str]]:
    """The chosen one of the tried k, and the criteria given up."""
    stable = [t for t in tried if t["stability"] >= rules.stability_min]
    large = [t for t in tried if t["smallest_share"] >= rules.smallest_share_min]
    both = [t for t in stable if t in large]
    if both:
        silhouette = max(t["silhouette"] for t in both) - rules.silhouette_tolerance
        level = [t for t in both if t["silhouette"] >= silhouette]
        return max(level, key=lambda t: (t["k"] == last_k, t["stability"], -t["k"])), []
    if stable and not large:
        return max(stable, key=lambda t: (t["smallest_share"], -t["k"])), ["smallest_share"]
    stability = max(t["stability"] for t in large or tried) - rules.stability_tolerance
    level = [t for t in large or tried if t["stability"] >= stability]
    best = max(level, key=lambda t: (t["k"] == last_k, -t["k"]))
    return best, ["stability"] if large else ["stability", "smallest_share"]


@dataclass(frozen=True)
class _KnownClusters:
    """A population's clusters of the last run, by id: centroids in unscaled feature units; the highest number
    ever given.
    """

    ids: list[str]
    names: list[str]
    centroids: Floats
    last_number: int


def _known_clusters(previous: pd.DataFrame | None, population: str) -> _KnownClusters:
    n_features = len(CLUSTER_FEATURES)
    rows = None if previous is None else previous[previous["population"] == population]
    if rows is None or rows.empty:
        return _KnownClusters([], [], np.empty((0, n_features)), 0)
    rows = rows.sort_values("cluster_id", kind="stable")
    ids = rows["cluster_id"].astype(str).tolist()
    numbers = [int(cluster_id.rsplit("_", 1)[1]) for cluster_id in ids]
    numbers += rows["last_number"].dropna().astype(int).tolist()
    centroids = [list(centroid) for centroid in rows["centroid"]]
    return _KnownClusters(
        ids, rows["cluster_name"].astype(str).tolist(), np.array(centroids, dtype="float64"), max(numbers)
    )


def _stable_ids(
    centroids: Floats, scale: Floats, population: str, known: _KnownClusters, distance_max: float
) -> tuple[list[str], int]:
    """Ids `<population>_<nn>` of the new centroids, and the highest number ever given.

    A new centroid takes the id of an old one at most `distance_max` standard deviations away, by the assignment
    of most pairs, then of least total distance. Without an old partner it gets a number that no cluster ever
    had; numbers are given in order of falling spend.
    """
    from scipy.optimize import linear_sum_assignment

    ids: list[str | None] = [None] * len(centroids)
    taken = known.last_number
    if known.ids:
        distance = np.linalg.norm((centroids[:, None, :] - known.centroids[None, :, :]) / scale, axis=2)
        far = distance > distance_max
        # A pair too far apart costs more than all the near ones together: it is made only where nothing else is left.
        cost = np.where(far, distance_max * (1 + max(distance.shape)), distance)
        for new, old in zip(*linear_sum_assignment(cost), strict=True):
            if not far[new, old]:
                ids[new] = known.ids[old]
    monetary = CLUSTER_FEATURES.index("monetary")
    for new in np.lexsort((np.arange(len(centroids)), -centroids[:, monetary])):
        if ids[new] is None:
            taken += 1
            ids[new] = f"{population}_{taken:02d}"
    return [cluster_id for cluster_id in ids if cluster_id is not None], taken


def _names(standardised: Floats, ids: list[str], known: _KnownClusters) -> list[str]:
    """English names from what sets each centroid most apart, e.g. `High spending, frequent`; unique among
    them.

    Two words, then a third and so on while another cluster has the same; at last the number of the id. A
    cluster of the last run keeps its name while every word of it is still true.
    """
    names: dict[int, str] = {}
    by_id = dict(zip(known.ids, known.names, strict=True))
    in_order = sorted(range(len(ids)), key=lambda c: ids[c])
    for cluster in in_order:
        old = by_id.get(ids[cluster])
        if old is not None and old not in names.values() and _is_true(old, standardised[cluster]):
            names[cluster] = old
    for cluster in in_order:
        if cluster in names:
            continue
        z = np.round(standardised[cluster], DECIMALS)
        apart = [f for f in np.argsort(-np.abs(z), kind="stable") if abs(z[f]) >= _REMARKABLE]
        taken = set(names.values())
        options = [_name(z, apart[:length]) for length in range(min(2, len(apart)), len(apart) + 1)]
        options.append(f"{options[0]} ({ids[cluster].rsplit('_', 1)[1]})")
        names[cluster] = next(option for option in options if option not in taken)
    return [names[cluster] for cluster in range(len(ids))]


def _name(z: Floats, features: list[Any]) -> str:
    """The words of some features (positions), in the order names are read."""
    chosen = {CLUSTER_FEATURES[f]: bool(z[f] > 0) for f in features}
    words = [pair[int(chosen[feature])] for feature, pair in _NAME_WORDS.items() if feature in chosen]
    return ", ".join(words or [_UNREMARKABLE]).capitalize()


def cluster_words(name: str) -> tuple[list[str], str]:
    """The words of a cluster's English name, and the number that tells it from another of the same words."""
    words, _, number = name.partition(" (")
    return words.lower().split(", "), number.rstrip(")")


def _is_true(name: str, z: Floats) -> bool:
    """Whether a name still says what sets the centroid apart; one with a number is always looked at anew."""
    words, number = cluster_words(name)
    signs = {
        word: (CLUSTER_FEATURES.index(feature), sign)
        for feature, pair in _NAME_WORDS.items()
        for word, sign in zip(pair, (-1, 1), strict=True)
    }
    return not number and all(word in signs and z[signs[word][0]] * signs[word][1] >= _REMARKABLE for word in words)


# Prediction (spec.md §4.4): what order dates say, and the purchase models that read them. Measured, learned and
# valued in `predictions.py`.


@dataclass(frozen=True)
class OrderHistory:
    """What a customer's order dates say at one day; one entry per customer position.

    n_days: distinct order days; first, last: day numbers (0 without order); amount: EUR HT; n_orders.
    """

    n_orders: Ints
    n_days: Ints
    first: Ints
    last: Ints
    amount: Floats

    @property
    def interval(self) -> Floats:
        """Mean days between order days; NaN under two of them."""
        gaps = self.n_days - 1
        return np.divide(self.last - self.first, gaps, out=np.full(len(gaps), np.nan), where=gaps > 0)

    def of(self, members: Ints) -> OrderHistory:
        """The same of some positions, in their order."""
        return OrderHistory(*(getattr(self, field.name)[members] for field in fields(self)))

    def purchases(self, until: int) -> tuple[Floats, Floats, Floats]:
        """x, t_x and age in days, as `purchase_models` reads them; several orders of one day are one."""
        return (
            (self.n_days - 1).astype("float64"),
            (self.last - self.first).astype("float64"),
            (until - self.first).astype("float64"),
        )


def order_history(customer: Ints, day: Ints, amount: Floats, n: int, until: int) -> OrderHistory:
    """Order history at day `until` of customers 0..n-1, from one entry per qualifying order."""
    known = (customer >= 0) & (day <= until)
    order = np.lexsort((amount[known], day[known], customer[known]))
    customer, day, amount = customer[known][order], day[known][order], amount[known][order]
    new_day = np.ones(len(customer), dtype=bool)
    new_day[1:] = (np.diff(customer) != 0) | (np.diff(day) != 0)
    n_orders = np.bincount(customer, minlength=n)
    last_row = np.cumsum(n_orders) - 1
    has = n_orders > 0
    first, last = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
    first[has] = day[(last_row - n_orders + 1)[has]]
    last[has] = day[last_row[has]]
    return OrderHistory(
        n_orders=n_orders,
        n_days=np.bincount(customer[new_day], minlength=n),
        first=first,
        last=last,
        amount=totals(customer, amount, n),
    )


class Activity(Protocol):
    """How active each customer is, per position: what the rule, the purchase models and the learned one answer."""

    @property
    def p_active(self) -> Floats:
        """Probability of still being a customer; 0 without an order."""
        ...

    def probability(self, days: float) -> Floats:
        """Probability of at least one order within `days`."""
        ...

    def expected_orders(self, days: float) -> Floats:
        """Expected order days within `days`."""
        ...


@dataclass(frozen=True)
class RateWithDropout:
    """The simple rule `rate_with_dropout`. Order rate per day while active, probability of still being active,
    dropout share.
    """

    rate: Floats
    p_active: Floats
    dropout: float

    @classmethod
    def fit(cls, history: OrderHistory, until: int, rules: BusinessRules) -> RateWithDropout:
        """For customers who have all ordered.

        rate = (repeats + s) / (days from first to last order + s / pooled rate): a Poisson rate shrunk by s
        prior orders to the pooled one (all repeats / all such days). dropout d = customers silent for longer
        than two expected intervals / all orders. A customer silent for t days is active with p =
        (1-d)·exp(-rate·t) / ((1-d)·exp(-rate·t) + d).
        """
        settings = rules.predictions
        repeats, span, age = history.purchases(until)
        silence = age - span
        # No repeat yet in the whole population: one order a year is the least surprising guess.
        pooled = repeats.sum() / span.sum() if span.sum() > 0 else 1.0 / settings.value_days
        rate = (repeats + settings.prior_orders) / (span + settings.prior_orders / pooled)
        silent = silence * rate > settings.churn_interval_factor
        dropout = float(np.clip(silent.sum() / max(history.n_orders.sum(), 1), 0.01, 0.99))
        alive = (1.0 - dropout) * np.exp(-rate * np.maximum(silence, 0.0))
        return cls(rate, alive / (alive + dropout), dropout)

    def probability(self, days: float) -> Floats:
        """Probability of at least one order within `days`."""
        return self.p_active * -np.expm1(-self.rate * days)

    def expected_orders(self, days: float) -> Floats:
        """Expected orders within `days`, dropping out after any of them with the dropout share."""
        return self.p_active * -np.expm1(-self.rate * self.dropout * days) / self.dropout


@dataclass(frozen=True)
class ModelledActivity:
    """A purchase model's answers for customers with x repeat orders, the last t_x days after the first, which is
    `age` days ago.
    """

    model: PurchaseModel
    x: Floats
    t_x: Floats
    age: Floats

    @cached_property
    def p_active(self) -> Floats:
        return self.model.p_active(self.x, self.t_x, self.age)

    def probability(self, days: float) -> Floats:
        return self.p_active * self.model.p_order_if_active(self.x, self.age, days)

    def expected_orders(self, days: float) -> Floats:
        return self.p_active * self.model.orders_if_active(self.x, self.age, days)


@dataclass(frozen=True)
class JoinedActivity:
    """The populations put together: positions of n customers, and the answers for those. Nobody else ever
    orders. `report`: per population, what answers and why.
    """

    n: int
    parts: list[tuple[Ints, Activity]]
    report: dict[str, dict[str, Any]]

    @property
    def p_active(self) -> Floats:
        return self._joined(lambda part: part.p_active)

    def probability(self, days: float) -> Floats:
        return self._joined(lambda part: part.probability(days))

    def expected_orders(self, days: float) -> Floats:
        return self._joined(lambda part: part.expected_orders(days))

    def _joined(self, answer: Callable[[Activity], Floats]) -> Floats:
        result = np.zeros(self.n)
        for members, part in self.parts:
            result[members] = answer(part)
        return result


def population_members(has_order: np.ndarray, is_professional: np.ndarray) -> list[tuple[str, Ints]]:
    """Name and positions of each population's customers with an order; one without any is left out."""
    found = [
        (population, np.flatnonzero(has_order & (is_professional == (population == "professional"))).astype(np.int64))
        for population in POPULATIONS
    ]
    return [(population, members) for population, members in found if len(members)]


def too_little_history(n_customers: int, history_days: int, rules: BusinessRules) -> str | None:
    """Why a population is left to the simple rule (spec.md §4.4); None when it has enough history for a model."""
    settings = rules.predictions
    if n_customers < settings.min_customers:
        return f"{n_customers} customers with an order, a model needs {settings.min_customers}"
    if history_days < settings.min_history_days:
        return f"{history_days} days of history, a model needs {settings.min_history_days}"
    return None


def purchase_models_of(
    history: OrderHistory, until: int, rules: BusinessRules, names: Collection[str] = PURCHASE_MODELS
) -> tuple[dict[str, PurchaseModel], dict[str, Floats], dict[str, str]]:
    """The named purchase models fitted to customers who have all ordered; their log-likelihoods of the same customers;
    and why one could not be fitted. Fitted on every k-th customer where there are more than `sample_max`.
    """
    fitted: dict[str, PurchaseModel] = {}
    likelihood, failed = {}, {}
    sample = history.of(np.arange(0, len(history.first), stride(len(history.first), rules)))
    x, t_x, age = sample.purchases(until)
    for kind in (BetaGeometric, ParetoNBD):
        if kind.name not in names:
            continue
        try:
            model = kind.fit(x, t_x, age)
        except FitError as error:
            failed[kind.name] = str(error)
            continue
        fitted[kind.name] = model
        likelihood[kind.name] = model.log_likelihood(x, t_x, age)
    return fitted, likelihood, failed


def stride(n: int, rules: BusinessRules) -> int:
    """Every how manieth of n customers, in the order of their ids, makes a sample of at most `sample_max`."""
    return max(1, -(-n // rules.predictions.sample_max))


def activity(history: OrderHistory, is_professional: np.ndarray, until: int, rules: BusinessRules) -> JoinedActivity:
    """BG/NBD or Pareto/NBD, the likelier, fitted within private and within professional customers; where a
    population has too little history or no repeat order, the rule `rate_with_dropout`. Without an order all
    answers are 0.
    """
    parts: list[tuple[Ints, Activity]] = []
    report: dict[str, dict[str, Any]] = {}
    for population, members in population_members(history.n_orders > 0, is_professional):
        own = history.of(members)
        reason = too_little_history(len(members), int(until - own.first.min()), rules)
        models, likelihood, failed = ({}, {}, {}) if reason else purchase_models_of(own, until, rules)
        if models:
            name = max(models, key=lambda name: round(float(likelihood[name].mean()), DECIMALS))
            parts.append((members, ModelledActivity(models[name], *own.purchases(until))))
            report[population] = {"method": name, "reason": "the likelier of the purchase models"}
        else:
            parts.append((members, RateWithDropout.fit(own, until, rules)))
            report[population] = {"method": METHOD_RATE, "reason": reason or "; ".join(sorted(set(failed.values())))}
    return JoinedActivity(len(history.n_orders), parts, report)


def measure(predicted: Floats, happened: np.ndarray) -> dict[str, Any]:
    """AUC (null when all or none happened), Brier score, mean predicted and observed, deciles from the top,
    top-decile lift.
    """
    n, positives = len(predicted), int(happened.sum())
    order = np.argsort(-predicted, kind="stable")
    deciles = [
        {
            "predicted": round(float(predicted[part].mean()), 4),
            "observed": round(float(happened[part].mean()), 4),
        }
        for part in np.array_split(order, min(10, n))
    ]
    observed = positives / n
    return {
        "n": n,
        "auc": auc(predicted, happened),
        "brier": round(float(np.mean((predicted - happened) ** 2)), 4),
        "mean_predicted": round(float(predicted.mean()), 4),
        "mean_observed": round(observed, 4),
        "top_decile_lift": round(deciles[0]["observed"] / observed, 2) if observed else None,
        "deciles": deciles,
    }


def auc(score: Floats, happened: np.ndarray) -> float | None:
    """Chance that one to whom it happened scores above one to whom it did not, ties half; None without both."""
    from scipy.stats import rankdata

    n, positives = len(score), int(happened.sum())
    if not 0 < positives < n:
        return None
    ranks = rankdata(score)
    return round(float((ranks[happened].sum() - positives * (positives + 1) / 2) / (positives * (n - positives))), 4)
