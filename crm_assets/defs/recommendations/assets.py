"""One recommendation run, under the run_id of spec.md §5: its row in `runs`, its wines in `items`, and in `backtests`
how its engines did on the estate's own past.

What is recommended, and why, is in `logic/recommendations.py`; what the back-test shows in `backtests.py`. A complete
run is reused as it is, never appended to.
"""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import dagster as dg
import pandas as pd
import psycopg

from crm_assets import gating, run_context, tables, versions
from crm_assets.defs.common import PROFILED, TenantRun, materialized, new_figure, plot, table_spec
from crm_assets.defs.customers.assets import taste_profiles_of
from crm_assets.defs.recommendations import backtests
from crm_assets.logic import feedback, recommendations
from crm_assets.logic.backtesting import LISTS
from crm_assets.resources.warehouse import replace_run, upsert
from crm_assets.rules import BusinessRules

DEPS = [
    ("rfm", "purchases"),
    ("rfm", "customer_rfm"),
    ("rfm", "customer_preferences"),
    ("rfm", "product_popularity"),
    ("curated", "dim_customers"),
    ("curated", "dim_products"),
    ("customers", "taste_profiles"),
    ("state", "messages"),
    ("state", "decisions"),
]


def inputs_of(tenant_run: TenantRun) -> recommendations.RecommendationInputs:
    """What the engine works from, read table by table, as of the run's day."""
    warehouse = tenant_run.warehouse
    facts = warehouse.read(
        "rfm", "customer_rfm", ["customer_id", "population", "frequency", "monetary", "last_order_date"], PROFILED
    )
    people = facts.rename(columns={"frequency": "n_qualifying_orders", "monetary": "lifetime_amount_ht"})
    if tenant_run.is_historical:
        taste = taste_profiles_of(tenant_run)  # the table holds the present
    else:
        taste = warehouse.read("customers", "taste_profiles")
    preferences = [
        "customer_id",
        "top_family_1",
        "top_sweetness_1",
        "price_75cl_ttc",
        "price_segment",
        "usual_format_cl",
        "tier_mode",
    ]
    purchases = ["customer_id", "wine_id", "order_id", "sale_date", "amount_ht"]
    decisions = _decisions(tenant_run)
    rejected = decisions.loc[decisions["decision"] == "reject", ["customer_id", "wine_id", "decided_at"]]
    return recommendations.RecommendationInputs(
        purchases=warehouse.read("rfm", "purchases", purchases),
        customers=people,
        preferences=warehouse.read("rfm", "customer_preferences", preferences),
        taste=taste,
        products=warehouse.read("curated", "dim_products"),
        popularity=warehouse.read("rfm", "product_popularity", ["population", "wine_id", "share"]),
        sent_wines=_known_then(tenant_run, gating.sent_wines(warehouse), "sent_date"),
        rejections=rejected.rename(columns={"decided_at": "rejected_date"}),
        allocations=gating.allocations(tenant_run.warehouse, tenant_run.tenant),
        opinions=feedback.wine_opinions(decisions, tenant_run.as_of, tenant_run.rules),
    )


def _decisions(tenant_run: TenantRun) -> pd.DataFrame:
    """What people decided on recommended wines, decided_at where the estate is, as known on the run's day."""
    columns = ["run_id", "customer_id", "wine_id", "scenario", "decision", "rating", "decided_at"]
    decisions = tenant_run.warehouse.read("review", "decisions", columns)
    local = pd.to_datetime(decisions["decided_at"], utc=True).dt.tz_convert(tenant_run.tenant.timezone)
    return _known_then(tenant_run, decisions.assign(decided_at=local.dt.tz_localize(None)), "decided_at")


def _known_then(tenant_run: TenantRun, frame: pd.DataFrame, column: str) -> pd.DataFrame:
    """A run for an earlier day does not know what happened since; any other takes it as of its day."""
    if not tenant_run.is_historical:
        return frame
    return frame[pd.to_datetime(frame[column]).dt.normalize() <= pd.Timestamp(tenant_run.as_of)]


@dg.multi_asset(
    name="recommendations__items",
    specs=[
        table_spec(
            tables.runs,
            deps=DEPS,
            description="Written with the run's items in one transaction; complete from then on.",
        ),
        table_spec(
            tables.items,
            deps=DEPS,
            description="Up to three wines a person, chosen by the customer's state (spec.md §5). "
            "Permission and audit come after.",
        ),
        table_spec(
            tables.backtests,
            deps=DEPS,
            description="Written with the run's items, and kept: each engine learned before the cut, judged by the "
            "first order in the window after it, repeat and explore apart (docs/glossary.md). No rows where the "
            "history is too short to say anything.",
        ),
        table_spec(
            tables.rule_sets,
            deps=[("landing", "parameters")],
            description="Kept, so that `crm rules diff` can say what has changed since a run.",
        ),
    ],
)
def runs_and_items(context: dg.AssetExecutionContext, tenant_run: TenantRun) -> Iterator[dg.MaterializeResult[Any]]:
    warehouse, run_id = tenant_run.warehouse, tenant_run.run_id
    complete = warehouse.rows(
        "select engine from recommendations.runs where run_id = %s and completed_at is not null", [run_id]
    )
    if complete:
        engine = complete[0][0]
        items = warehouse.read("recommendations", "items", ["scenario", "score"], "run_id = %s", [run_id])
    else:
        made = recommendations.recommend(
            inputs_of(tenant_run), tenant_run.rules, tenant_run.as_of, tenant_run.tenant.locale
        )
        engine, items = made.engine, made.items
        _write(tenant_run, made)
    with warehouse.transaction() as connection:
        keep_rules(connection, tenant_run.rules, tenant_run.now)
    measured = backtests.of_run(warehouse, run_id)
    yield materialized(
        warehouse.count("recommendations", "runs"),
        tables.runs,
        tenant_run,
        reused=bool(complete),
        recommendation_run=run_id,
        customers=engine["customers"],
        customers_with_items=engine["customers_with_items"],
        engine=dg.JsonMetadataValue(engine),
    )
    shown: dict[str, Any] = {"score_distribution": score_plot(items)} if len(items) else {}
    calibration = backtests.calibration_plot(engine["calibration"])
    if calibration is not None:
        shown["calibration"] = calibration
    yield materialized(
        len(items),
        tables.items,
        tenant_run,
        reused=bool(complete),
        recommendation_run=run_id,
        **{f"items_{scenario}": count for scenario, count in engine["items_by_scenario"].items()},
        displaced_by_stock=engine["displaced_by_stock"],
        **shown,
    )
    yield materialized(
        len(measured),
        tables.backtests,
        tenant_run,
        reused=bool(complete),
        recommendation_run=run_id,
        **{f"serves_{name}": served for name, served in engine["ranking"]["choice"].items()},
        serving=backtests.serving_table(engine["ranking"]),
        **_measures_shown(tenant_run, measured),
    )
    yield materialized(
        warehouse.count("recommendations", "rule_sets"),
        tables.rule_sets,
        tenant_run,
        rules_version=tenant_run.rules.version,
    )


def keep_rules(connection: psycopg.Connection, rules: BusinessRules, now: datetime) -> None:
    """Keep the rules in force under their version; a version that is known stays as it was written first."""
    connection.execute(
        "insert into recommendations.rule_sets (rules_version, rules, first_used_at) values (%s, %s, %s)"
        " on conflict (rules_version) do nothing",
        [rules.version, tables.json_text(rules.model_dump(mode="json")), now],
    )


def _measures_shown(tenant_run: run_context.TenantRun, measured: pd.DataFrame) -> dict[str, Any]:
    """Figures, table and plots of a back-test; of none where there is none."""
    judged_by = tenant_run.rules.ranking.backtest.judged_by
    shown: dict[str, Any] = {}
    if measured["part"].isin(LISTS).any():
        shown |= backtests.figures(measured, judged_by)
        shown["engines"] = backtests.engines_plot(measured, judged_by)
    if (measured["part"].isin(recommendations.SCENARIOS) & (measured["customers"] > 0)).any():
        shown["scenarios"] = backtests.scenarios_plot(measured)
    kept = backtests.kept_over_time(tenant_run.warehouse, tenant_run.run_id, tenant_run.as_of)
    if len(kept):
        shown["over_time"] = backtests.history_plot(kept, judged_by)
    if len(measured):
        shown["measures"] = backtests.engines_table(measured)
    return shown


def _write(tenant_run: run_context.TenantRun, made: recommendations.RecommendationResult) -> None:
    """The run, its items and its back-test, in one transaction: a run is complete or is not there."""
    run_id, rules_version = tenant_run.run_id, tenant_run.rules.version
    measured = made.backtests.assign(run_id=run_id, as_of=tenant_run.as_of, rules_version=rules_version)
    run = pd.DataFrame(
        [
            {
                "run_id": run_id,
                "as_of": tenant_run.as_of,
                "is_historical": tenant_run.is_historical,
                "dataset_version": tenant_run.dataset_version,
                "state_version": tenant_run.state_version,
                "rules_version": rules_version,
                "config_version": tenant_run.tenant.version,
                "code_version": versions.code_version(),
                "engine": made.engine,
                "n_customers": made.engine["customers_with_items"],
                "n_items": len(made.items),
                "created_at": tenant_run.now,
                "completed_at": tenant_run.now,
            }
        ]
    )
    with tenant_run.warehouse.transaction() as connection:
        replace_run(connection, tables.items, made.items.assign(run_id=run_id), run_id)
        replace_run(connection, tables.backtests, measured, run_id)
        upsert(connection, tables.runs, run)


def score_plot(items: pd.DataFrame) -> dg.MarkdownMetadataValue:
    """How scores are spread, per scenario."""
    figure = new_figure(8, 3.6)
    axes = figure.subplots()
    scenarios = [name for name in recommendations.SCENARIOS if (items["scenario"] == name).any()]
    values = [items.loc[items["scenario"] == name, "score"].to_numpy() for name in scenarios]
    axes.hist(values, bins=25, range=(0, 100), stacked=True, label=scenarios)
    axes.set_title("Scores of the recommended wines, by scenario")
    axes.set_xlabel("score")
    axes.set_ylabel("recommended wines")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return plot(figure)
