"""How the predictions did on the estate's own last days, as the asset `customers.predictions` shows it, and its light.

`quality` is what `logic/predictions.py` measured, per population. No computing here, and no assets.
"""

from typing import Any

import dagster as dg

from crm_assets.defs.common import check_spec
from crm_assets.rules import BusinessRules

HOLDOUT_CHECK = check_spec(
    ["customers", "predictions"],
    "predictions_hold_on_the_past",
    "Where a hold-out is measured: its AUC is not below the rules' least; the customers who were to order are within"
    " the rules' factor of those who did, and so are the orders of a year, where there is one to look back to. Amber"
    " otherwise; looked at within the step that measures.",
)


def holdout_holds(quality: dict[str, dict[str, Any]], rules: BusinessRules) -> dg.AssetCheckResult:
    """The light of `HOLDOUT_CHECK` from the measures of each population."""
    least, factor = rules.predictions.holdout_auc_min, rules.predictions.holdout_total_factor
    metadata: dict[str, Any] = {"threshold_auc": least, "threshold_factor": factor}
    passed = True
    for population, found in quality.items():
        if found["status"] != "measured":
            metadata[f"{population}_not_measured"] = found["reason"]
            continue
        ratios = {"customers": found["mean_predicted"] / max(found["mean_observed"], 1.0 / found["n"])}
        if found["year"] is not None:
            ratios["orders_of_a_year"] = found["year"]["expected_orders"] / max(found["year"]["observed_orders"], 1)
        metadata[f"{population}_auc"] = found["auc"]
        for what, ratio in ratios.items():
            metadata[f"{population}_{what}_expected_by_observed"] = round(ratio, 4)
        passed = passed and found["auc"] >= least and all(1.0 / factor <= ratio <= factor for ratio in ratios.values())
    return dg.AssetCheckResult(
        asset_key=HOLDOUT_CHECK.asset_key,
        check_name=HOLDOUT_CHECK.name,
        passed=passed,
        severity=dg.AssetCheckSeverity.WARN,
        metadata=metadata,
    )


def models_table(quality: dict[str, dict[str, Any]]) -> dg.MarkdownMetadataValue:
    """Per population every model that was tried on the hold-out, which one serves, and why."""
    lines = [
        "| population | model | AUC | log-loss | Brier | mean predicted | |",
        "|---|---|--:|--:|--:|--:|---|",
    ]
    for population, found in quality.items():
        for tried in found.get("tried", []):
            serves = f"serves; {found['reason']}{_corrected(found)}" if tried["method"] == found["method"] else ""
            lines.append(
                f"| {population} | {tried['method']} | {tried['auc']:.4f} | {tried['log_loss']:.4f} |"
                f" {tried['brier']:.4f} | {tried['mean_predicted']:.1%} | {serves} |"
            )
        if not found.get("tried"):
            lines.append(f"| {population} | {found['method']} | | | | | serves, not measured; {found['reason']} |")
    return dg.MetadataValue.md("\n".join(lines))


def _corrected(found: dict[str, Any]) -> str:
    """What the hold-out taught for today's probabilities, in words; nothing where it taught nothing."""
    said = ""
    if found["steepness"] != 1.0:
        said += (
            f"; today's log-odds × {found['steepness']:.2f} (slope of the hold-out {found['calibration_slope']:.2f})"
        )
    if found["season_log_odds"]:
        said += f"; season of a year ago {found['season_log_odds']:+.2f}"
    return said


def calibration_table(measured: dict[str, dict[str, Any]]) -> dg.MarkdownMetadataValue:
    """Per tenth of the customers, the likeliest first: how many were to order, and how many did."""
    lines = ["| population | tenth | predicted | observed |", "|---|--:|--:|--:|"]
    for population, found in measured.items():
        for number, tenth in enumerate(found["deciles"], start=1):
            lines.append(f"| {population} | {number} | {tenth['predicted']:.1%} | {tenth['observed']:.1%} |")
    return dg.MetadataValue.md("\n".join(lines))


def totals_table(measured: dict[str, dict[str, Any]]) -> dg.MarkdownMetadataValue:
    """Expected against observed on the hold-out: order days, spend, and the order days of a whole year."""
    lines = ["| population | what | expected | observed |", "|---|---|--:|--:|"]
    for population, found in measured.items():
        value, year = found["value"], found["year"]
        rows = [
            (f"order days in {found['holdout_days']} days", found["expected_orders"], found["observed_orders"]),
            (f"EUR HT in them ({value['method']})", value["expected_spend"], value["observed_spend"]),
        ]
        if year is not None:
            rows.append(("order days in 365 days", year["expected_orders"], year["observed_orders"]))
        lines += [f"| {population} | {what} | {expected:,.0f} | {seen:,.0f} |" for what, expected, seen in rows]
    return dg.MetadataValue.md("\n".join(lines))
