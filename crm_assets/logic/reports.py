"""The weekly report: what an owner reads in two minutes, in the estate's language, from what the tables say.

`weekly` gathers the figures of a run in a `WeeklyReport`, without a word of any language; `logic/report_page.py`
makes the page of it, `logic/report_workbook.py` the workbook. It is for the estate's own people: customers' codes
and names stand in it, no address and no phone. No database, no clock and no wording here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import numpy as np
import pandas as pd

from crm_assets.logic import backtesting, sales
from crm_assets.logic.audit import ratios
from crm_assets.rules import BusinessRules
from crm_assets.tenants import Tenant

SCENARIOS = ("rebuy", "cross_sell", "upsell", "winback", "nurture")
# kpis.rfm_transitions: not known before, not known any more.
NEW, GONE = "New", "Gone"


@dataclass(frozen=True)
class Foretold:
    """How many of `customers` who ordered again from `first` to `last` took one of the `top` wines that the run's
    engine had for them (`served`, a share), and of the best-selling ones (`plain`).
    """

    customers: int
    first: date
    last: date
    top: int
    served: float
    plain: float


@dataclass(frozen=True)
class Previous:
    """The run that this one is compared with: the newest of the present, at least six days before."""

    run_id: str
    as_of: date
    n_eligible: int
    at_risk: int | None  # None where no report of that run was recorded
    data_quality_score: float


@dataclass(frozen=True)
class WeeklyReport:
    """All figures of one estate's weekly report; codes where the page has words. Frames are sorted as shown.

    `since`: what happened after this day is new: the previous run's, a week before without one.
    Sent: `scenarios`: scenario, customers, wines (list of (label, customers)), code, name, reason (an example).
    `batches`: campaign, occurrence, batches, messages, holdout.
    Blocked: `blocked`: kind (permission, rule, review), code, customers; each customer once, by the first reason.
    Sales: see `sales.Sales`. All amounts are EUR HT.
    Customers: `segments`: segment, customers, before (null without a week to compare). `movements`: segment_from,
    segment_to, customers; `moved`: their sum without who came or went. `clusters`: population, cluster_id, cluster_name
    (English, see `cluster_label`), customers, share, frequency, monetary (medians), before (customers a week ago;
    null: no such week, or a new group). `cluster_movements`: population, from_id, from_name, to_id, to_name,
    customers. `at_risk_top`: client_code, name, last_order_date, mean_interval_days, silent_days, monetary (to
    date), expected (value of the next 365 days).
    `anomaly_counts`: kind, found, examined, high, is_over, value. `anomalies`: kind, measure, client_code, name,
    label (of a wine), measured, expected, value, severity: the dearest of kpis.anomalies; texts '' where not about
    such a thing.
    Campaigns: `campaigns`: campaign, occurrence, last_sent_on, final_on, sent, delivered, opened, clicked, bounced,
    unsubscribed, ordered, converted, revenue_ht, holdout, is_final: distinct addresses, one row per occurrence;
    rates are of `sent` (delivered, bounced, ordered, converted) or of `delivered` (the others). Against the control
    group: treated, treated_ordered, held_out, held_out_ordered, uplift, uplift_low, uplift_high (shares, 95 %); null
    without one, or until it is final. `arms`: of these campaigns, measure (clicked; ordered once that is final), arm,
    sent, share, and `more_than`: the arms (list) in which it was fewer, beyond chance. `quarter`: the newest quarter
    whose campaigns together are final: quarter (2025Q4) and the columns of the comparison.
    Files: `files`: path, dataset, status, reason, rows, refused: those since the previous run, what needs a look
    first; `more_files`: how many are not shown, nothing wrong with them when `more_files_fine`. `refused`: code,
    rows, all of those files; a row counts for each of its codes. `refused_rows`: rows in all.
    Quality: `quality`: check_code, severity, bad, total, ratio, tolerance, score: the checks below 100.
    """

    estate: str
    run_id: str
    as_of: date
    since: date
    previous: Previous | None
    is_open: bool
    gate_reasons: tuple[str, ...]
    n_customers: int
    n_permitted: int
    n_eligible: int
    planned_messages: int
    scenarios: pd.DataFrame
    batches: pd.DataFrame
    blocked: pd.DataFrame
    sales: sales.Sales
    new_customers: int
    segments: pd.DataFrame
    moved: int
    movements: pd.DataFrame
    clusters: pd.DataFrame
    cluster_movements: pd.DataFrame
    at_risk: int
    at_risk_top: pd.DataFrame
    anomaly_counts: pd.DataFrame
    anomalies: pd.DataFrame
    campaigns: pd.DataFrame
    arms: pd.DataFrame
    quarter: Mapping[str, Any] | None
    conversion_days: int
    files: pd.DataFrame
    more_files: int
    more_files_fine: bool
    refused: pd.DataFrame
    refused_rows: int
    quality: pd.DataFrame
    data_quality_score: float
    min_quality: float
    foretold: Foretold | None


@dataclass(frozen=True)
class Tables:
    """What `weekly` is made of: a frame per table, rows in any order, columns at least those named.

    `actions`: gate.next_actions of the run. `items`: `gating.listed_items` of it: customer_id, rank, product_key,
    score, explain_short. `products`: product_key, wine_id, label. `people`: curated.dim_customers: customer_id,
    client_code, last_name, first_name, full_name. `planned`: campaign, occurrence, batches, messages, holdout of
    the run. `revenue`: day, amount_ht; `orders`: day, orders, amount_ht. `rfm`: rfm.customer_rfm. `segment_moves`,
    `cluster_moves`: rows of the span week of kpis.rfm_transitions, kpis.cluster_transitions. `clusters`:
    customers.cluster_profiles. `churning`: customer_id, expected_value_365d of customers.predictions with the
    flag. `anomaly_counts`, `anomalies`: of kpis. `results`: outcomes.campaign_results of whole occurrences. `uplift`,
    `quarters`: outcomes.campaign_uplift of occurrences and of quarters. `arms`: outcomes.campaign_arms.
    `files`: file_id, path, dataset, status, reason, row_count of raw.files since the previous run. `refused`:
    file_id, codes, rows of curated.quarantined_rows that nothing has replaced. `quality`: audit.data_quality of the
    run. `backtests`: recommendations.backtests of the run.
    """

    actions: pd.DataFrame
    items: pd.DataFrame
    products: pd.DataFrame
    people: pd.DataFrame
    planned: pd.DataFrame
    revenue: pd.DataFrame
    orders: pd.DataFrame
    rfm: pd.DataFrame
    segment_moves: pd.DataFrame
    cluster_moves: pd.DataFrame
    clusters: pd.DataFrame
    churning: pd.DataFrame
    anomaly_counts: pd.DataFrame
    anomalies: pd.DataFrame
    results: pd.DataFrame
    uplift: pd.DataFrame
    quarters: pd.DataFrame
    arms: pd.DataFrame
    files: pd.DataFrame
    refused: pd.DataFrame
    quality: pd.DataFrame
    backtests: pd.DataFrame


def _day(value: Any) -> date:
    return pd.Timestamp(value).date()


def _tally(frame: pd.DataFrame, by: list[str], count: str = "customers") -> pd.DataFrame:
    """How often each combination occurs, most frequent first, ties by name."""
    counts = frame.groupby(by, sort=False).size().rename(count).reset_index()
    return counts.sort_values([count, *by], ascending=[False] + [True] * len(by), kind="stable").reset_index(drop=True)


def _names(people: pd.DataFrame) -> pd.DataFrame:
    """Per customer_id the code and the name as a person writes it: first name last name, else what there is."""
    parts = people[["first_name", "last_name"]].fillna("").astype(str)
    joined = (parts["first_name"] + " " + parts["last_name"]).str.strip()
    name = joined.where(joined != "", people["full_name"].fillna("").astype(str))
    return pd.DataFrame({"client_code": people["client_code"].astype(str), "name": name}).set_axis(
        pd.Index(people["customer_id"]), axis=0
    )


def _scenarios(tables: Tables, names: pd.DataFrame, wines: int) -> pd.DataFrame:
    """Per scenario of those who may be written to: how many, their first wines, and the strongest case of it."""
    columns = ["scenario", "customers", "wines", "code", "name", "reason"]
    eligible = tables.actions[tables.actions["eligible"].astype(bool)]
    first = tables.items[tables.items["rank"] == 1].merge(eligible[["customer_id", "client_code"]], on="customer_id")
    first = first.merge(eligible[["customer_id", "scenario"]], on="customer_id", suffixes=("_item", ""))
    labels = tables.products.drop_duplicates("product_key").set_index("product_key")["label"]
    first = first.assign(label=first["product_key"].map(labels).fillna(first["product_key"]))
    rows = []
    for scenario in SCENARIOS:
        count = int((eligible["scenario"] == scenario).sum())
        if not count:
            continue
        of_it = first[first["scenario"] == scenario]
        best = of_it.sort_values(["score", "client_code"], ascending=[False, True], kind="stable").head(1)
        example = best.to_dict("records")[0] if len(best) else {}
        named = names["name"].get(example.get("customer_id"), "")
        top = _tally(of_it, ["label"]).head(wines)
        rows.append(
            (
                scenario,
                count,
                list(top.itertuples(index=False, name=None)),
                example.get("client_code", ""),
                named,
                example.get("explain_short", ""),
            )
        )
    return pd.DataFrame(rows, columns=columns).sort_values("customers", ascending=False, kind="stable")


def _blocked(actions: pd.DataFrame) -> pd.DataFrame:
    """Who gets nothing, by the first reason: no permission, a rule of the audit, the review."""
    out = actions[~actions["eligible"].astype(bool)]
    reason = out["reason"].astype("object").fillna("")
    kind = np.where(
        out["permission_reason"].notna(), "permission", np.where(reason.str.startswith("REVIEW_"), "review", "rule")
    )
    counted = _tally(pd.DataFrame({"kind": kind, "code": reason}), ["kind", "code"])
    order = {"permission": 0, "rule": 1, "review": 2}
    return counted.sort_values("kind", key=lambda kinds: kinds.map(order), kind="stable").reset_index(drop=True)


def _segments(rfm: pd.DataFrame, moves: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Customers per segment now and before, and who changed, without those who stayed."""
    now = _tally(rfm[["segment"]], ["segment"])
    before = moves.groupby("from_segment")["customers"].sum()
    counted = now.assign(before=now["segment"].map(before).astype(float).fillna(0.0) if len(moves) else np.nan)
    ways = moves[moves["from_segment"] != moves["to_segment"]]
    changed = ways.groupby(["from_segment", "to_segment"], sort=True)["customers"].sum().reset_index()
    changed.columns = pd.Index(["segment_from", "segment_to", "customers"])
    return counted, changed.sort_values("customers", ascending=False, kind="stable").reset_index(drop=True)


def _clusters(profiles: pd.DataFrame, moves: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    before = moves.groupby("from_cluster_id")["customers"].sum()
    kept = ["population", "cluster_id", "cluster_name", "size", "share", "frequency", "monetary"]
    counted = profiles.sort_values(["population", "cluster_id"], kind="stable")[kept].rename(
        columns={"size": "customers"}
    )
    counted = counted.assign(before=counted["cluster_id"].map(before).astype(float))
    ways = moves[moves["from_cluster_id"] != moves["to_cluster_id"]]
    ways = ways.sort_values(["customers", "population", "from_cluster_id", "to_cluster_id"], kind="stable")
    ways = ways.sort_values("customers", ascending=False, kind="stable")
    renamed = {
        "from_cluster_id": "from_id",
        "from_cluster_name": "from_name",
        "to_cluster_id": "to_id",
        "to_cluster_name": "to_name",
    }
    shown = ways.rename(columns=renamed)[["population", *renamed.values(), "customers"]]
    return counted.reset_index(drop=True), shown.reset_index(drop=True)


def _at_risk(tables: Tables, names: pd.DataFrame, rows: int, as_of: date) -> pd.DataFrame:
    found = tables.churning.merge(
        tables.rfm[["customer_id", "last_order_date", "mean_interval_days", "monetary"]], on="customer_id", how="left"
    ).join(names, on="customer_id")
    found = found.assign(
        client_code=found["client_code"].fillna(found["customer_id"]),
        name=found["name"].fillna(""),
        last_order_date=pd.to_datetime(found["last_order_date"]),
        expected=found["expected_value_365d"].astype(float),
    )
    top = found.sort_values(
        ["expected", "monetary", "client_code"], ascending=[False, False, True], kind="stable"
    ).head(rows)
    top = top.assign(silent_days=(pd.Timestamp(as_of) - top["last_order_date"]).dt.days)
    columns = "client_code name last_order_date mean_interval_days silent_days monetary expected"
    return top[columns.split()].reset_index(drop=True)


def _anomalies(tables: Tables, names: pd.DataFrame, rows: int) -> pd.DataFrame:
    found = tables.anomalies.assign(value=tables.anomalies["value_at_stake_ht"].astype(float))
    order, ascending = ["value", "kind", "subject_id", "measure"], [False, True, True, True]
    found = found.sort_values(order, kind="stable", ascending=ascending)
    # The first of each kind before the second of any: silence, of which there is most, would hide the rest.
    turns = found.assign(turn=found.groupby("kind").cumcount()).sort_values("turn", kind="stable").head(rows)
    top = turns.sort_values(order, kind="stable", ascending=ascending)
    wines = tables.products.sort_values("product_key").drop_duplicates("wine_id").set_index("wine_id")["label"]
    is_customer, is_wine = top["subject_type"] == "customer", top["subject_type"] == "wine"
    shown = top.assign(
        client_code=top["subject_id"].map(names["client_code"]).where(is_customer).fillna(""),
        name=top["subject_id"].map(names["name"]).where(is_customer).fillna(""),
        label=top["subject_id"].map(wines).where(is_wine).fillna(""),
    )
    columns = "kind measure client_code name label measured expected value severity"
    return shown[columns.split()].reset_index(drop=True)


_COUNTED = [
    *("sent", "delivered", "opened", "clicked", "bounced", "unsubscribed", "ordered", "converted"),
    *("revenue_ht", "holdout"),
]


_COMPARED = ["treated", "treated_ordered", "held_out", "held_out_ordered", "uplift", "uplift_low", "uplift_high"]


def _campaigns(results: pd.DataFrame, uplift: pd.DataFrame, rows: int) -> pd.DataFrame:
    """The newest occurrences that were really sent; their scenarios summed: nobody is in two of them."""
    sent = results[results["sent"] > 0] if len(results) else results
    keys = ["campaign", "occurrence"]
    totals = sent.groupby(keys, sort=True)[_COUNTED].sum()
    summed = totals.assign(
        last_sent_on=pd.to_datetime(sent.groupby(keys)["last_sent_on"].max()),
        final_on=pd.to_datetime(sent.groupby(keys)["final_on"].max()),
        is_final=sent.groupby(keys)["is_final"].min().astype(bool) if len(sent) else pd.Series(dtype=bool),
    ).reset_index()
    final = uplift[uplift["is_final"].astype(bool)][[*keys, *_COMPARED]]
    found = summed.sort_values("last_sent_on", ascending=False, kind="stable").head(rows).merge(final, "left", keys)
    return found[[*keys, "last_sent_on", "final_on", *_COUNTED, "is_final", *_COMPARED]].reset_index(drop=True)


_ARM_MEASURES = ("clicked", "ordered")


def _arms(pairs: pd.DataFrame, campaigns: pd.DataFrame) -> pd.DataFrame:
    """Per arm what its pairs say of it. Orders are told once they are final: looked at every week, one of many looks
    would find a difference by chance.
    """
    keys = ["campaign", "occurrence", "measure", "arm"]
    told = pairs.merge(campaigns[["campaign", "occurrence"]], on=["campaign", "occurrence"])
    told = told[told["measure"].isin(_ARM_MEASURES) & ((told["measure"] != "ordered") | told["is_final"].astype(bool))]
    swapped = told.drop(columns=["arm", "sent", "share"]).rename(
        columns={"other_arm": "arm", "other_sent": "sent", "other_share": "share"}
    )
    sides = pd.concat([told.assign(other=told["other_arm"]), swapped.assign(other=told["arm"])])
    fewer = sides[sides["more"] == sides["arm"]].groupby(keys)["other"].agg(lambda others: sorted(others))
    once = sides.drop_duplicates(keys)[[*keys, "sent", "share"]].sort_values(keys, kind="stable")
    once = once.join(fewer.rename("more_than"), on=keys)
    once["more_than"] = [arms if isinstance(arms, list) else [] for arms in once["more_than"]]
    return once.reset_index(drop=True)


def _quarter(quarters: pd.DataFrame) -> Mapping[str, Any] | None:
    final = quarters[quarters["is_final"].astype(bool)].sort_values("quarter")
    return {str(name): value for name, value in final.iloc[-1].items()} if len(final) else None


# raw.files of these was understood: nobody needs to look at it.
_READ = ("loaded", "duplicate", "review")


def _files(tables: Tables, rows: int) -> tuple[pd.DataFrame, int, bool, pd.DataFrame, int]:
    """The files to show, how many more there are and whether they are fine, refused rows by code and in all."""
    files = tables.files
    refused = tables.refused[tables.refused["file_id"].isin(files.loc[files["status"] == "loaded", "file_id"])]
    per_file = refused.groupby("file_id")["rows"].sum()
    # Content dropped under two names is loaded once: only the loaded file has rows that were refused.
    of_file = files["file_id"].map(per_file).where(files["status"] == "loaded").fillna(0).astype(int)
    listed = files.assign(rows=files["row_count"], refused=of_file)
    # Whatever somebody must look at comes first, then the newest.
    listed = listed.assign(fine=listed["status"].isin(_READ) & (listed["refused"] == 0))
    listed = listed.assign(read=listed["status"].isin(_READ))
    listed = listed.sort_values("path", kind="stable").sort_values(["read", "fine"], kind="stable")
    shown = listed.head(rows)[["path", "dataset", "status", "reason", "rows", "refused"]].reset_index(drop=True)
    by_code = refused[["codes", "rows"]].explode("codes").groupby("codes", sort=True)["rows"].sum().reset_index()
    by_code.columns = pd.Index(["code", "rows"])
    by_code = by_code.sort_values("rows", ascending=False, kind="stable").reset_index(drop=True)
    rest_is_fine = bool(listed["fine"].iloc[rows:].all())
    return shown, len(listed) - len(shown), rest_is_fine, by_code, int(refused["rows"].sum())


def _quality(quality: pd.DataFrame) -> pd.DataFrame:
    losing = quality[quality["score"].round(1) < 100].sort_values(["score", "check_code"], kind="stable")
    ratio = ratios(losing["bad"], losing["total"])
    columns = "check_code severity bad total ratio tolerance score"
    return losing.assign(ratio=ratio)[columns.split()].reset_index(drop=True)


def _foretold(backtests: pd.DataFrame, rules: BusinessRules) -> Foretold | None:
    """None where too few customers could tell."""
    top = min(rules.ranking.backtest.tops)
    rows = backtests[(backtests["part"] == "mixed") & (backtests["top"] == top)]
    served, plain = rows[rows["is_serving"].astype(bool)], rows[rows["engine"] == backtesting.POPULARITY]
    if served.empty or served["customers"].iloc[0] < rules.ranking.tuning.min_customers:
        return None
    first = pd.Timestamp(served["cut"].iloc[0])
    return Foretold(
        customers=int(served["customers"].iloc[0]),
        first=first.date(),
        last=(first + pd.Timedelta(days=int(served["window_days"].iloc[0]) - 1)).date(),
        top=top,
        served=float(served["hit_rate"].iloc[0]),
        plain=float(plain["hit_rate"].iloc[0]),
    )


def weekly(
    tenant: Tenant,
    rules: BusinessRules,
    decision: Mapping[str, Any],
    previous: Previous | None,
    tables: Tables,
) -> WeeklyReport:
    """The figures of a run's report. `decision`: its row of gate.decisions."""
    as_of, limits = _day(decision["as_of"]), rules.reports
    since = previous.as_of if previous else as_of - timedelta(days=7)
    names = _names(tables.people)
    segments, movements = _segments(tables.rfm, tables.segment_moves)
    clusters, cluster_movements = _clusters(tables.clusters, tables.cluster_moves)
    files, more_files, more_files_fine, refused, refused_rows = _files(tables, limits.rows.files)
    counts = tables.anomaly_counts.sort_values("kind", kind="stable").rename(columns={"value_at_stake_ht": "value"})
    passing = (movements["segment_from"] == NEW) | (movements["segment_to"] == GONE)
    first_orders = pd.to_datetime(tables.rfm["first_order_date"])
    campaigns = _campaigns(tables.results, tables.uplift, limits.rows.campaigns)
    return WeeklyReport(
        estate=tenant.name,
        run_id=str(decision["run_id"]),
        as_of=as_of,
        since=since,
        previous=previous,
        is_open=decision["status"] == "open",
        gate_reasons=tuple(decision["reasons"]),
        n_customers=int(decision["n_customers"]),
        n_permitted=int(decision["n_permitted"]),
        n_eligible=int(decision["n_eligible"]),
        planned_messages=int(tables.planned["messages"].sum()),
        scenarios=_scenarios(tables, names, limits.rows.wines).reset_index(drop=True),
        batches=tables.planned.sort_values(["campaign", "occurrence"], kind="stable").reset_index(drop=True),
        blocked=_blocked(tables.actions),
        sales=sales.of_days(
            tables.revenue,
            tables.orders,
            as_of,
            since,
            level=limits.projection.level,
            min_years=limits.projection.min_years,
            min_share=limits.projection.min_share,
        ),
        new_customers=int((first_orders > pd.Timestamp(since)).sum()),
        segments=segments,
        moved=int(movements.loc[~passing, "customers"].sum()),
        movements=movements,
        clusters=clusters,
        cluster_movements=cluster_movements,
        at_risk=len(tables.churning),
        at_risk_top=_at_risk(tables, names, limits.rows.at_risk, as_of),
        anomaly_counts=counts[["kind", "found", "examined", "high", "is_over", "value"]].reset_index(drop=True),
        anomalies=_anomalies(tables, names, limits.rows.anomalies),
        campaigns=campaigns,
        arms=_arms(tables.arms, campaigns),
        quarter=_quarter(tables.quarters),
        conversion_days=rules.activation.conversion_days,
        files=files,
        more_files=more_files,
        more_files_fine=more_files_fine,
        refused=refused,
        refused_rows=refused_rows,
        quality=_quality(tables.quality),
        data_quality_score=float(decision["data_quality_score"]),
        min_quality=rules.circuit_breaker.min_score,
        foretold=_foretold(tables.backtests, rules),
    )
