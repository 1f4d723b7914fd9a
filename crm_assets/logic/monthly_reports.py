"""The monthly report: the month that is over, against the same month of last year, in the estate's language.

`monthly` gathers the figures in a `MonthlyReport`, without a word of any language; `logic/monthly_page.py` is
the page that it makes. The workbook (`logic/report_workbook.py`)
is made of the same `MonthlyReport`. It is a file for the estate's own people: customers' codes and names stand in
it, no address and no phone. No database and no clock here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import pandas as pd

from crm_assets.rules import BusinessRules
from crm_assets.tenants import Tenant

# Of the month and of the year up to its end: kpis.monthly_sales.
SUMMED = ("revenue_ht", "orders", "bottles", "new_customers")
MEASURES = ("revenue_ht", "orders", "customers", "new_customers", "average_order_value", "bottles")
# An effect and its 95 % interval: outcomes.campaign_uplift.
UPLIFT = ("uplift", "uplift_low", "uplift_high")
_CAMPAIGN_COUNTS = [
    *("sent", "delivered", "opened", "clicked", "bounced", "unsubscribed", "ordered", "converted"),
    *("revenue_ht", "holdout"),
]


@dataclass(frozen=True)
class MonthlyReport:
    """All figures of one estate's monthly report; codes where the page has words. Frames are sorted as shown.

    Amounts are EUR HT. `before` is the same month (or the year up to its end) a year earlier; null where the history
    does not reach back. `is_current`: the month is the newest whole one of the run, so that what the tables say of
    today (segments, cohorts, anomalies) is said too; else those frames are empty.
    Sales: `figures`: measure (MEASURES), value, before, year, year_before (no customers of a year). `months`: the
    twelve that end with this one: month (its first day), amount, amount_before, orders, orders_before, customers,
    average_order_value, bottles. `populations`: population, revenue_ht, before, orders, customers.
    Products: `families`: family ('' without one), revenue_ht, before, difference, change, bottles, share,
    change_12m. `risers`, `fallers`: label, family, revenue_ht, before, difference, bottles, bottles_before,
    months_of_stock; wines and gift boxes by what the month brings more, or less, than the one before.
    Customers: `compared`: days between which segments are compared. `segments`: segment, customers, before.
    `movements`: segment_from, segment_to, customers. `cohorts`: cohort (first day of the quarter), customers,
    quarters_since, retention: whole quarters only.
    Campaigns: `campaigns`: those last sent in the month: campaign, occurrence, last_sent_on, final_on, counts of
    distinct addresses, revenue_ht, is_final, and of outcomes.campaign_uplift held_out, uplift, uplift_low, uplift_high:
    share of those planned who ordered less that of the holdout, with its 95 % interval; null without one, or before it
    is final.
    Data: `quality_days`: as_of, overall. `quality`: check_code, severity, ratio, tolerance, score on the last day,
    worst of the month; checks that lost something. `files`: dataset, files, rows, refused. `refused`: code, rows; a
    row counts for each of its codes. `bad_files`: path, status, reason of those that could not be read.
    `to_do`: kind, measure, client_code, name, label, measured, expected, value, severity, since: what left its habit,
    the dearest of each kind first; `to_do_counts`: kind, found: of them all. `low_stock`: label, bottles,
    months_of_stock of wines that sell.
    """

    estate: str
    run_id: str
    as_of: date
    month: date
    is_current: bool
    figures: pd.DataFrame
    months: pd.DataFrame
    populations: pd.DataFrame
    families: pd.DataFrame
    risers: pd.DataFrame
    fallers: pd.DataFrame
    compared: tuple[date, date] | None
    segments: pd.DataFrame
    movements: pd.DataFrame
    cohorts: pd.DataFrame
    campaigns: pd.DataFrame
    quality_days: pd.DataFrame
    quality: pd.DataFrame
    min_quality: float
    conversion_days: int
    files: pd.DataFrame
    refused: pd.DataFrame
    bad_files: pd.DataFrame
    to_do: pd.DataFrame
    to_do_counts: pd.DataFrame
    low_stock: pd.DataFrame

    @property
    def period(self) -> str:
        """The month as files and mailings name it: 2025-12."""
        return period_of(self.month)

    def figure(self, measure: str) -> dict[str, float | None]:
        """value, before, year, year_before of a measure; None where it is not known."""
        row = self.figures.set_index("measure").loc[measure]
        return {str(name): None if pd.isna(value) else float(value) for name, value in row.items()}


@dataclass(frozen=True)
class Tables:
    """What `monthly` is made of: a frame per table, rows in any order, columns at least those named.

    `sales`: kpis.monthly_sales. `lines`: wine_id, family, month (first day: of the report or a year before),
    amount_ht, bottles of counted lines. `products`, `families`: kpis.product_performance and family_performance of
    population all. `transitions`: rows of the span month of kpis.rfm_transitions. `cohorts`: kpis.cohort_retention
    of population all. `results`: outcomes.campaign_results. `uplift`: outcomes.campaign_uplift.
    `severities`: check_code, severity; `quality_history`: as
    `quality_history.quality_history` of the month. `files`: file_id, path, dataset, status, reason, row_count of the
    files of the month. `refused`: file_id, codes, rows that nothing has replaced. `anomalies`: kpis.anomalies with
    client_code, name, label.
    """

    sales: pd.DataFrame
    lines: pd.DataFrame
    products: pd.DataFrame
    families: pd.DataFrame
    transitions: pd.DataFrame
    cohorts: pd.DataFrame
    results: pd.DataFrame
    uplift: pd.DataFrame
    severities: pd.DataFrame
    quality_history: pd.DataFrame
    files: pd.DataFrame
    refused: pd.DataFrame
    anomalies: pd.DataFrame


class NoSalesError(LookupError):
    """The estate has no sales of the month or before: there is nothing to tell."""


def period_of(month: date) -> str:
    """2025-12 of a day of it."""
    return f"{month:%Y-%m}"


def last_whole_month(as_of: date) -> date:
    """First day of the newest month that lies wholly on or before a day: on the 31st it is its own month."""
    end = pd.Timestamp(as_of) + pd.Timedelta(days=1)
    return (end.to_period("M") - 1).to_timestamp().date()


def year_before(month: date) -> date:
    return month.replace(year=month.year - 1)


def _of_months(sales: pd.DataFrame, population: str) -> pd.DataFrame:
    """kpis.monthly_sales of one population by month, amounts as doubles."""
    of_it = sales[sales["population"] == population].set_index(pd.DatetimeIndex(pd.to_datetime(sales.loc[
        sales["population"] == population, "month"])))  # fmt: skip
    return of_it[list(MEASURES)].astype(float).sort_index()


def _figures(of_months: pd.DataFrame, month: date) -> pd.DataFrame:
    before = year_before(month)

    def year_to(end: date) -> pd.Series:
        first = end.replace(month=1)
        spanned = of_months.loc[pd.Timestamp(first) : pd.Timestamp(end)]
        if len(spanned) < end.month:
            return pd.Series(dtype=float)
        sums = spanned[list(SUMMED)].sum()
        ordered = (spanned["average_order_value"].fillna(0) * spanned["orders"]).sum()
        sums["average_order_value"] = ordered / sums["orders"] if sums["orders"] else np.nan
        return sums

    def of(end: date) -> pd.Series:
        return of_months[of_months.index == pd.Timestamp(end)].sum(min_count=1)

    columns = {"value": of(month), "before": of(before), "year": year_to(month), "year_before": year_to(before)}
    table = pd.DataFrame({name: column.reindex(MEASURES) for name, column in columns.items()})
    return table.astype(float).round(2).rename_axis("measure").reset_index()


def _months(of_months: pd.DataFrame, month: date) -> pd.DataFrame:
    wanted = pd.date_range(end=pd.Timestamp(month), periods=12, freq="MS")
    now = of_months.reindex(wanted)
    ago = of_months.reindex(wanted - pd.DateOffset(years=1))
    return pd.DataFrame(
        {
            "month": [day.date() for day in wanted],
            "amount": now["revenue_ht"].to_numpy(),
            "amount_before": ago["revenue_ht"].to_numpy(),
            "orders": now["orders"].to_numpy(),
            "orders_before": ago["orders"].to_numpy(),
            "customers": now["customers"].to_numpy(),
            "average_order_value": now["average_order_value"].to_numpy(),
            "bottles": now["bottles"].to_numpy(),
        }
    )


def _populations(sales: pd.DataFrame, month: date) -> pd.DataFrame:
    rows = []
    for population in ("private", "professional", "other"):
        figures = _figures(_of_months(sales, population), month).set_index("measure")
        value, before = figures["value"], figures["before"]
        if value["revenue_ht"] or before["revenue_ht"] == before["revenue_ht"] != 0:
            rows.append((population, value["revenue_ht"], before["revenue_ht"], value["orders"], value["customers"]))
    return pd.DataFrame(rows, columns=["population", "revenue_ht", "before", "orders", "customers"])


def _against(lines: pd.DataFrame, by: str, month: date) -> pd.DataFrame:
    """Revenue and bottles of the month by `by`, beside those a year before."""
    summed = lines.assign(is_now=pd.to_datetime(lines["month"]) == pd.Timestamp(month))
    columns = ["amount_ht", "bottles"]
    now = summed[summed["is_now"]].groupby(by)[columns].sum().astype(float)
    ago = summed[~summed["is_now"]].groupby(by)[columns].sum().astype(float)
    keys = now.index.union(ago.index).sort_values()
    table = pd.DataFrame(
        {
            "revenue_ht": now["amount_ht"].reindex(keys).fillna(0.0).round(2),
            "before": ago["amount_ht"].reindex(keys).fillna(0.0).round(2),
            "bottles": now["bottles"].reindex(keys).fillna(0.0).round(2),
            "bottles_before": ago["bottles"].reindex(keys).fillna(0.0).round(2),
        }
    ).rename_axis(by)
    return table.assign(difference=(table["revenue_ht"] - table["before"]).round(2)).reset_index()


def _families(tables: Tables, month: date) -> pd.DataFrame:
    found = _against(tables.lines.assign(family=tables.lines["family"].fillna("")), "family", month)
    total = found["revenue_ht"].sum()
    yearly = tables.families.drop_duplicates("family").set_index("family")["revenue_change"].astype(float)
    found = found.assign(
        change=(found["revenue_ht"] / found["before"].where(found["before"] > 0) - 1).round(6),
        share=(found["revenue_ht"] / total if total else 0.0),
        change_12m=found["family"].map(yearly).astype(float),
    )
    shown = found[(found["revenue_ht"] != 0) | (found["before"] != 0)]
    columns = ["family", "revenue_ht", "before", "difference", "change", "bottles", "share", "change_12m"]
    return shown.sort_values(["revenue_ht", "family"], ascending=[False, True], kind="stable")[columns].reset_index(
        drop=True
    )


def _wines(
    tables: Tables, month: date, rows: int, low_stock_months: float
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Those that rise, those that fall, and those that will soon be sold out at the year's pace."""
    known = tables.products[tables.products["kind"].isin(["wine", "gift_box"])].drop_duplicates("wine_id")
    known = known[["wine_id", "label", "family", "months_of_stock", "stock_bottles", "is_active", "rank_12m"]]
    found = _against(tables.lines.drop(columns="family"), "wine_id", month).merge(known, on="wine_id")
    columns = ["label", "family", "revenue_ht", "before", "difference", "bottles", "bottles_before", "months_of_stock"]
    order = ["difference", "label"]
    risers = found[found["difference"] > 0].sort_values(order, ascending=[False, True], kind="stable").head(rows)
    fallers = found[found["difference"] < 0].sort_values(order, kind="stable").head(rows)
    sells = known[known["is_active"].astype(bool) & (known["months_of_stock"].astype(float) < low_stock_months)]
    low = sells.sort_values(["rank_12m", "label"], kind="stable").head(rows)
    low = low.rename(columns={"stock_bottles": "bottles"})[["label", "bottles", "months_of_stock"]]
    return risers[columns].reset_index(drop=True), fallers[columns].reset_index(drop=True), low.reset_index(drop=True)


def _segments(moves: pd.DataFrame) -> tuple[tuple[date, date] | None, pd.DataFrame, pd.DataFrame]:
    if moves.empty:
        return None, pd.DataFrame(columns=["segment", "customers", "before"]), pd.DataFrame(columns=_MOVES)
    now = moves[moves["to_segment"] != "Gone"].groupby("to_segment")["customers"].sum()
    ago = moves[moves["from_segment"] != "New"].groupby("from_segment")["customers"].sum()
    names = now.index.union(ago.index).sort_values()
    table = pd.DataFrame({"customers": now.reindex(names).fillna(0), "before": ago.reindex(names).fillna(0)})
    table = table.astype("int64").rename_axis("segment").reset_index()
    ways = moves[moves["from_segment"] != moves["to_segment"]]
    changed = ways.groupby(["from_segment", "to_segment"])["customers"].sum().reset_index().set_axis(_MOVES, axis=1)
    days = pd.Timestamp(moves["from_date"].iloc[0]).date(), pd.Timestamp(moves["to_date"].iloc[0]).date()
    # Names are in order already.
    table = table.sort_values("customers", ascending=False, kind="stable")
    changed = changed.sort_values("customers", ascending=False, kind="stable")
    return days, table.reset_index(drop=True), changed.reset_index(drop=True)


_MOVES = ["segment_from", "segment_to", "customers"]
_TO_DO = ["kind", "measure", "client_code", "name", "label", "measured", "expected", "value", "severity", "since"]


def _cohorts(cohorts: pd.DataFrame, most: int, quarters: int) -> pd.DataFrame:
    whole = cohorts[cohorts["is_complete"].astype(bool) & (cohorts["customers"] > 0)]
    starts = sorted(pd.to_datetime(whole["cohort"]).dt.date.unique())[-most:]
    shown = whole.assign(cohort=pd.to_datetime(whole["cohort"]).dt.date)
    shown = shown[shown["cohort"].isin(starts) & (shown["quarters_since"] < quarters)]
    columns = ["cohort", "customers", "quarters_since", "retention"]
    return shown.sort_values(["cohort", "quarters_since"], kind="stable")[columns].reset_index(drop=True)


def _campaigns(tables: Tables, month: date) -> pd.DataFrame:
    """Occurrences whose last sending lies in the month; their scenarios summed: nobody is in two of them."""
    keys, effect = ["campaign", "occurrence"], ["held_out", *UPLIFT]
    results = tables.results.assign(last_sent_on=pd.to_datetime(tables.results["last_sent_on"]))
    inside = results[(results["sent"] > 0) & (results["last_sent_on"].dt.to_period("M") == pd.Period(month, "M"))]
    of_them = inside.assign(is_final=inside["is_final"].fillna(False).astype(bool)).groupby(keys, sort=True)
    summed = of_them[_CAMPAIGN_COUNTS].sum().astype(float)
    summed = summed.assign(
        last_sent_on=of_them["last_sent_on"].max(),
        final_on=pd.to_datetime(of_them["final_on"].max()),
        is_final=of_them["is_final"].min().astype(bool),
    )
    final = tables.uplift[tables.uplift["is_final"].fillna(False).astype(bool)][[*keys, *effect]]
    found = summed.reset_index().merge(final, on=keys, how="left")
    found = found[[*keys, "last_sent_on", "final_on", *_CAMPAIGN_COUNTS, "is_final", *effect]]
    return found.sort_values(["last_sent_on", *keys], kind="stable").reset_index(drop=True)


def _quality(history: pd.DataFrame, severities: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    ordered = history.sort_values(["as_of", "check_code"], kind="stable")
    days = ordered.drop_duplicates("as_of")[["as_of", "overall"]].reset_index(drop=True)
    last = ordered.drop_duplicates("check_code", keep="last").set_index("check_code")
    worst = ordered.groupby("check_code")["score"].min()
    severity = severities.drop_duplicates("check_code").set_index("check_code")["severity"]
    table = last[["ratio", "tolerance", "score"]].assign(worst=worst, severity=severity).reset_index()
    table = table[table["worst"].round(1) < 100].sort_values(["score", "check_code"], kind="stable")
    return days, table[["check_code", "severity", "ratio", "tolerance", "score", "worst"]].reset_index(drop=True)


def _files(files: pd.DataFrame, refused: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    loaded = files[files["status"] == "loaded"]
    mine = refused[refused["file_id"].isin(loaded["file_id"])]
    by_file = loaded["file_id"].map(mine.groupby("file_id")["rows"].sum()).fillna(0)
    table = loaded.assign(refused=by_file.astype("int64"), rows=loaded["row_count"].fillna(0).astype("int64"), files=1)
    summed = table.groupby("dataset")[["files", "rows", "refused"]].sum().reset_index()
    codes = mine[["codes", "rows"]].explode("codes").groupby("codes")["rows"].sum().reset_index()
    codes = codes.set_axis(["code", "rows"], axis=1).sort_values(["rows", "code"], ascending=[False, True])
    bad = files[files["status"].isin(["refused", "unreadable", "unrecognised"])].sort_values("path", kind="stable")
    return summed, codes.reset_index(drop=True), bad[["path", "status", "reason"]].fillna("").reset_index(drop=True)


def _to_do(anomalies: pd.DataFrame, rows: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The dearest of each kind, and how many there are of it."""
    found = anomalies.assign(value=anomalies["value_at_stake_ht"].astype(float), since=anomalies["since_date"])
    ordered = found.sort_values(
        ["kind", "value", "subject_id", "measure"], ascending=[True, False, True, True], kind="stable"
    )
    shown = ordered.groupby("kind", sort=True).head(rows)[_TO_DO]
    texts = ["client_code", "name", "label"]
    counts = ordered.groupby("kind", sort=True).size().rename("found").reset_index()
    return shown.assign(**{name: shown[name].fillna("") for name in texts}).reset_index(drop=True), counts


def monthly(
    tenant: Tenant, rules: BusinessRules, decision: Mapping[str, Any], month: date, tables: Tables
) -> MonthlyReport:
    """The figures of a month. `decision`: the row of gate.decisions of the run that they are taken from; `month`:
    first day of a month that is over, else LookupError. NoSalesError for one of which the estate has no sales.
    """
    as_of = pd.Timestamp(decision["as_of"]).date()
    of_months = _of_months(tables.sales, "all")
    if month > last_whole_month(as_of):
        raise LookupError(f"{period_of(month)} is not over: the newest data are of {as_of}")
    if pd.Timestamp(month) not in of_months.index:
        raise NoSalesError(f"no sales of {period_of(month)} or before are known")
    is_current = month == last_whole_month(as_of)
    limits = rules.reports.monthly
    risers, fallers, low_stock = _wines(tables, month, limits.wines, limits.low_stock_months)
    compared, segments, movements = _segments(tables.transitions[: None if is_current else 0])
    quality_days, quality = _quality(tables.quality_history, tables.severities)
    files, refused, bad_files = _files(tables.files, tables.refused)
    to_do, to_do_counts = _to_do(tables.anomalies[: None if is_current else 0], limits.actions)
    return MonthlyReport(
        estate=tenant.name,
        run_id=str(decision["run_id"]),
        as_of=as_of,
        month=month,
        is_current=is_current,
        figures=_figures(of_months, month),
        months=_months(of_months, month),
        populations=_populations(tables.sales, month),
        families=_families(tables, month),
        risers=risers,
        fallers=fallers,
        compared=compared,
        segments=segments,
        movements=movements,
        cohorts=_cohorts(tables.cohorts[: None if is_current else 0], limits.cohorts, limits.quarters),
        campaigns=_campaigns(tables, month),
        quality_days=quality_days,
        quality=quality,
        min_quality=rules.circuit_breaker.min_score,
        conversion_days=rules.activation.conversion_days,
        files=files,
        refused=refused,
        bad_files=bad_files,
        to_do=to_do,
        to_do_counts=to_do_counts,
        low_stock=low_stock if is_current else low_stock[:0],
    )
