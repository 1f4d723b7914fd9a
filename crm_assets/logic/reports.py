"""The weekly report: one HTML page in the estate's language, from what the tables say (spec.md §8).

What came in and what was refused, the segments and clusters, who will be written to and why the others will
not, what is planned, and how far the data can be trusted. Counts only: no customer's name, address or code. No
database here.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import pandas as pd

from crm_assets import rendering
from crm_assets.logic import backtesting, customers
from crm_assets.rules import BusinessRules
from crm_assets.tenants import Tenant

TEMPLATE = "weekly_report.html.j2"
CHART_TEMPLATE = "segments_chart.svg.j2"
_BAR_WIDTH, _BAR_STEP = 420, 26


def _tally(values: pd.Series) -> list[dict[str, Any]]:
    """Values and how often they occur, most frequent first, ties by name."""
    counts = values.dropna().value_counts().rename_axis("code").reset_index(name="count")
    ordered = counts.sort_values(["count", "code"], ascending=[False, True], kind="stable")
    return [{"code": code, "count": int(count)} for code, count in ordered.itertuples(index=False)]


def segment_chart(segments: pd.Series, locale: str) -> dict[str, str]:
    """The number of customers per segment as bars: `svg_base64`, and `facts` for those who cannot see it."""
    names = rendering.texts(locale)["segment"]
    rows = [{**row, "name": names[row["code"]]} for row in _tally(segments)]
    largest = max((row["count"] for row in rows), default=1)
    bars = [
        {"label": row["name"], "count": row["count"], "width": round(_BAR_WIDTH * row["count"] / largest)}
        for row in rows
    ]
    svg = rendering.environment(locale).get_template(CHART_TEMPLATE).render(bars=bars, height=_BAR_STEP * len(bars) + 4)
    facts = ", ".join(f"{row['name']} {row['count']}" for row in rows)
    return {"svg_base64": base64.b64encode(svg.encode()).decode(), "facts": facts}


def cluster_label(name: str, locale: str) -> str:
    """A cluster's English name (`customers.cluster_profiles`) in the estate's language."""
    words, number = customers.cluster_words(name)
    said = ", ".join(rendering.texts(locale)["cluster_word"][word] for word in words)
    return f"{said[:1].upper()}{said[1:]}{f' ({number})' if number else ''}"


def _foretold(backtests: pd.DataFrame, rules: BusinessRules) -> dict[str, Any] | None:
    """How many of those who ordered again took one of the first wines that the run's engine had for them, and of
    the best-selling ones; None where too few customers could tell.
    """
    top = min(rules.ranking.backtest.tops)
    rows = backtests[(backtests["part"] == "mixed") & (backtests["top"] == top)]
    served, plain = rows[rows["is_serving"].astype(bool)], rows[rows["engine"] == backtesting.POPULARITY]
    if served.empty or served["customers"].iloc[0] < rules.ranking.tuning.min_customers:
        return None
    first = pd.Timestamp(served["cut"].iloc[0])
    return {
        "customers": int(served["customers"].iloc[0]),
        "first": first.date(),
        "last": (first + pd.Timedelta(days=int(served["window_days"].iloc[0]) - 1)).date(),
        "top": top,
        "served": float(served["hit_rate"].iloc[0]),
        "plain": float(plain["hit_rate"].iloc[0]),
    }


def weekly_report(
    tenant: Tenant,
    rules: BusinessRules,
    decision: Mapping[str, Any],
    actions: pd.DataFrame,
    segments: pd.Series,
    at_risk: int,
    clusters: pd.DataFrame,
    received: pd.DataFrame,
    planned: pd.DataFrame,
    quality: pd.DataFrame,
    backtests: pd.DataFrame,
) -> str:
    """The report's HTML.

    `decision`: a row of gate.decisions; `actions`: gate.next_actions of that run; `segments`: one per
    customer; `at_risk`: customers with the churn flag; `clusters`: customers.cluster_profiles; `received`:
    path, status, reason, row_count of raw.files with `quarantined` rows; `planned`: campaign, occurrence,
    batches, messages, holdout; `quality`: audit.data_quality of that run; `backtests`:
    recommendations.backtests of that run.
    """
    quality_rows = [
        {**row, "ratio": row["bad"] / row["total"] if row["total"] else 0.0}
        for row in quality.sort_values(["score", "check_code"]).to_dict("records")
    ]
    files = [
        {
            "path": row["path"],
            "status": row["status"],
            "reason": None if pd.isna(row["reason"]) else row["reason"],
            "rows": None if pd.isna(row["row_count"]) else int(row["row_count"]),
            "quarantined": 0 if pd.isna(row["quarantined"]) else int(row["quarantined"]),
        }
        for row in received.sort_values("path").to_dict("records")
    ]
    template = rendering.environment(tenant.locale).get_template(TEMPLATE)
    return template.render(
        estate=tenant.name,
        run_id=decision["run_id"],
        as_of=pd.Timestamp(decision["as_of"]).date(),
        gate=decision,
        scenarios=_tally(actions.loc[actions["eligible"].astype(bool), "scenario"]),
        reasons=_tally(actions.loc[~actions["eligible"].astype(bool), "reason"]),
        foretold=_foretold(backtests, rules),
        batches=planned.to_dict("records"),
        chart=segment_chart(segments, tenant.locale),
        at_risk=at_risk,
        clusters=[
            {**row, "name": cluster_label(row["cluster_name"], tenant.locale)}
            for row in clusters.sort_values(["population", "cluster_id"], kind="stable").to_dict("records")
        ],
        files=files,
        quality=quality_rows,
        min_quality=rules.circuit_breaker.min_score,
    )
