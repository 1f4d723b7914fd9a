"""Checks of the run's recommendation list: its shape, its windows, its numbers and its words; and of its back-test.

They look at the tables as any reader would, not through the engine that made them.
"""

from collections.abc import Sequence

import dagster as dg
import pandas as pd

from crm_assets import tables
from crm_assets.defs.common import TenantRun, tenant_check
from crm_assets.defs.data_docs import judged
from crm_assets.defs.recommendations import backtests
from crm_assets.expectations import Expected, Suite
from crm_assets.logic.phrases import EXPLAIN_MAX
from crm_assets.logic.recommendations import COMPONENTS, SCENARIOS

ITEMS = ["recommendations", "items"]
BACKTESTS = ["recommendations", "backtests"]


def _items(tenant_run: TenantRun, columns: list[str]) -> pd.DataFrame:
    return tenant_run.warehouse.read("recommendations", "items", columns, "run_id = %s", [tenant_run.run_id])


@tenant_check(["recommendations", "runs"])
def the_run_is_complete(context: dg.AssetCheckExecutionContext, tenant_run: TenantRun) -> dg.AssetCheckResult:
    """The run has its row, is complete, and has as many items as the row says."""
    found = tenant_run.warehouse.rows(
        "select n_items from recommendations.runs where run_id = %s and completed_at is not null",
        [tenant_run.run_id],
    )
    said = int(found[0][0]) if found else -1
    kept = len(_items(tenant_run, ["customer_id"]))
    return dg.AssetCheckResult(
        passed=said == kept, metadata={"items_said": said, "items_kept": kept, "threshold": "equal"}
    )


@tenant_check(ITEMS)
def lists_are_short_and_ranked_from_one(
    context: dg.AssetCheckExecutionContext, tenant_run: TenantRun
) -> dg.AssetCheckResult:
    """Nobody has more wines than the rules allow, and ranks are 1, 2, 3 without a gap."""
    items = _items(tenant_run, ["customer_id", "rank"])
    most = tenant_run.rules.recommendations.max_per_customer
    lists = items.groupby("customer_id")["rank"].agg(["count", "min", "max", "nunique"])
    long = int((lists["count"] > most).sum())
    gaps = int(((lists["min"] != 1) | (lists["max"] != lists["count"]) | (lists["nunique"] != lists["count"])).sum())
    return dg.AssetCheckResult(
        passed=long == 0 and gaps == 0,
        metadata={
            "lists_too_long": long,
            "lists_with_gaps": gaps,
            "threshold": 0,
            "most_items": int(lists["count"].max()) if len(lists) else 0,
            "most_allowed": most,
        },
    )


@tenant_check(ITEMS)
def nothing_bought_lately_is_recommended(
    context: dg.AssetCheckExecutionContext, tenant_run: TenantRun
) -> dg.AssetCheckResult:
    """No recommended wine was bought by that customer inside the window of its population."""
    rules, warehouse = tenant_run.rules.recommendations, tenant_run.warehouse
    private, professional = rules.bought_window_days, rules.bought_window_days_professional
    bought = warehouse.read(
        "rfm",
        "purchases",
        ["customer_id", "wine_id", "sale_date"],
        "%s - sale_date < %s",
        [tenant_run.as_of, max(private, professional)],
    )
    population = warehouse.read("rfm", "customer_rfm", ["customer_id", "population"])
    both = _items(tenant_run, ["customer_id", "wine_id"]).merge(bought, on=["customer_id", "wine_id"])
    both = both.merge(population, on="customer_id", how="left")
    age = (pd.Timestamp(tenant_run.as_of) - pd.to_datetime(both["sale_date"])).dt.days
    is_professional = (both["population"] == "professional").astype("int64")
    window = private + is_professional * (professional - private)
    wrong = int((age < window).sum())
    return dg.AssetCheckResult(
        passed=wrong == 0,
        metadata={
            "items_bought_inside_window": wrong,
            "threshold": 0,
            "window_days": private,
            "window_days_professional": professional,
        },
    )


@tenant_check(ITEMS)
def numbers_are_on_their_scales(context: dg.AssetCheckExecutionContext, tenant_run: TenantRun) -> dg.AssetCheckResult:
    """Scores lie in 0..100, probabilities, confidences and components in 0..1, and none is missing."""
    items = _items(tenant_run, ["score", "probability", "confidence", *COMPONENTS]).astype("float64")
    shares = items.drop(columns="score")
    outside = int((~items["score"].between(0, 100)).sum())
    outside_shares = int((~((shares >= 0) & (shares <= 1)).all(axis=1)).sum())
    return dg.AssetCheckResult(
        passed=outside == 0 and outside_shares == 0,
        metadata={
            "scores_outside": outside,
            "shares_outside": outside_shares,
            "threshold": 0,
            "highest_score": float(items["score"].max()) if len(items) else 0.0,
        },
    )


# Python's word for nothing, or a placeholder left over, standing alone between blanks or punctuation. Written without
# \b: RE2 needs twenty times as long for it.
HOLES = r"[{}]|(?:^|[ -/:-@«’])(?:None|nan|NaN|NaT|null)(?:[ -/:-@»’]|$)"


def list_suite(columns: Sequence[str], most: int) -> Suite:
    """The expectations of a run's list: its columns, its keys, its scales and its words; every row counts."""
    share = {"min_value": 0, "max_value": 1}
    return Suite(
        "recommendation_list",
        "The list that a run made, as review, audit, exports and messages read it: whoever reads it relies on what"
        " stands here, and one row that breaks it may be the message of one customer.",
        (
            Expected(
                "ExpectTableColumnsToMatchSet",
                "Everybody who reads the list asks for these columns by name.",
                {"column_set": list(columns), "exact_match": True},
            ),
            Expected(
                "ExpectCompoundColumnsToBeUnique",
                "Nobody is offered the same wine twice.",
                {"column_list": ["customer_id", "wine_id"]},
            ),
            Expected(
                "ExpectCompoundColumnsToBeUnique",
                "A customer's list has one first wine, one second, one third.",
                {"column_list": ["customer_id", "rank"]},
            ),
            Expected(
                "ExpectColumnValuesToBeBetween",
                "A message shows a few wines: ranks end at recommendations.max_per_customer.",
                {"column": "rank", "min_value": 1, "max_value": most},
            ),
            Expected(
                "ExpectColumnValuesToBeBetween",
                "Scores are comparable in a run, 0 to 100.",
                {"column": "score", "min_value": 0, "max_value": 100},
            ),
            Expected("ExpectColumnValuesToBeBetween", "A probability.", {"column": "probability", **share}),
            Expected(
                "ExpectColumnValuesToBeBetween",
                "LOW_CONFIDENCE of the audit compares it with a share.",
                {"column": "confidence", **share},
            ),
            Expected(
                "ExpectColumnValuesToBeInSet",
                "Texts, reviews and campaigns know these scenarios and no other.",
                {"column": "scenario", "value_set": list(SCENARIOS)},
            ),
            Expected(
                "ExpectColumnValueLengthsToBeBetween",
                "The reason fits into a column of the export and of the workbook.",
                {"column": "explain_short", "min_value": 1, "max_value": EXPLAIN_MAX},
            ),
            Expected(
                "ExpectColumnValueLengthsToBeBetween",
                "A customer never reads an empty sentence.",
                {"column": "customer_sentence", "min_value": 1},
            ),
            *(
                Expected(
                    "ExpectColumnValuesToNotMatchRegex",
                    "A word of the program, or a placeholder nobody filled, is no text for a person.",
                    {"column": column, "regex": HOLES},
                )
                for column in ("explain_short", "customer_sentence")
            ),
            *(
                Expected("ExpectColumnValuesToNotBeNull", "Every column of the list is always filled.", {"column": c})
                for c in columns
            ),
        ),
    )


@tenant_check(ITEMS)
def recommendation_list_expectations(
    context: dg.AssetCheckExecutionContext, tenant_run: TenantRun
) -> dg.AssetCheckResult:
    """Great Expectations on every row of the run's list: columns, keys, ranges, scenarios, and text without holes."""
    columns = [column.name for column in tables.items.columns if column.name != "reasons"]
    items = _items(tenant_run, columns)
    items["rank"] = items["rank"].astype("float64")  # Great Expectations compares integers one by one
    suite = list_suite(columns, tenant_run.rules.recommendations.max_per_customer)
    return judged(tenant_run, items, suite, dg.AssetCheckSeverity.ERROR)


@tenant_check(BACKTESTS)
def what_serves_beats_the_baselines(
    context: dg.AssetCheckExecutionContext, tenant_run: TenantRun
) -> dg.AssetCheckResult:
    """At the last cut, no list's engine ranked worse (NDCG) than global popularity or GP-TopFreq. Amber otherwise; a
    list that too few customers could judge is told apart.
    """
    rules = tenant_run.rules.ranking
    rows = backtests.of_run(tenant_run.warehouse, tenant_run.run_id)
    told = backtests.worse_than_baselines(rows, rules.backtest.judged_by, rules.tuning.min_customers)
    return dg.AssetCheckResult(
        passed=told["lists_worse"] == 0, severity=dg.AssetCheckSeverity.WARN, metadata={**told, "threshold": 0}
    )


@tenant_check(BACKTESTS)
def the_backtest_is_whole(context: dg.AssetCheckExecutionContext, tenant_run: TenantRun) -> dg.AssetCheckResult:
    """Where there is a back-test: each engine at each length of each list, each scenario at each of its lengths, all
    measures in 0..1, and one engine that serves each list. Amber otherwise.
    """
    rows = backtests.of_run(tenant_run.warehouse, tenant_run.run_id)
    found = backtests.faults(rows, tenant_run.rules.ranking.backtest.tops)
    return dg.AssetCheckResult(
        passed=not any(found.values()),
        severity=dg.AssetCheckSeverity.WARN,
        metadata={**found, "threshold": 0, "rows": len(rows)},
    )
