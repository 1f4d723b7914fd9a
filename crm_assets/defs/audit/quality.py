"""The fifteen checks of the circuit breaker as lights, and how they went over the runs.

What each counts is in `dbt_project/models/audit/quality_measures.sql`, its score in `logic/audit.py`. A light stops
nothing: what closes the gate is the row of gate.decisions.
"""

from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import dagster as dg

from crm_assets import run_context
from crm_assets.defs.common import TenantRun, check_spec, new_figure, plot
from crm_assets.logic.audit import ratios
from crm_assets.quality_history import quality_history

if TYPE_CHECKING:
    import pandas as pd

DATA_QUALITY = ("audit", "data_quality")
MAX_DAYS_DRAWN, MAX_DAYS_LISTED = 60, 8
WINE, GREY = "#7a2531", "#777777"


class Light(NamedTuple):
    """What a check counts (`bad` of `total`), and what a person does about it."""

    counts: str
    advice: str


LIGHTS = {
    "UNKNOWN_PRODUCT": Light(
        "Recent sales lines whose product stands in no catalogue, of recent lines.",
        "Export the catalogue with all products, archived ones too; curated.unmatched_products lists labels and"
        " suggestions, which an alias file settles.",
    ),
    "UNKNOWN_CLIENT": Light(
        "Recent sales lines whose customer stands in no customer file, of recent lines.",
        "Export all customers, not those of one list or one salesman.",
    ),
    "INVALID_SALE_VALUE": Light(
        "Counted lines with an amount of 0, or an amount and a quantity of opposite signs, of all counted lines.",
        "Look whether the export has the right amount column, and whether credit notes are of a document type of"
        " their own.",
    ),
    "ZERO_QUANTITY": Light(
        "Counted lines with a quantity of 0, of all counted lines.",
        "Look whether the export has the right quantity column; lines of text belong to no sale.",
    ),
    "DUPLICATE_LINE": Light(
        "Counted lines whose document and line number stand twice in one file with different content, of all counted"
        " lines.",
        "The last line wins. Export each line once, with a line number of its own.",
    ),
    "NEGATIVE_MARGIN": Light(
        "Products of the catalogue with a margin below 0, of all products of the catalogue.",
        "Look at cost and price columns: mostly a cost of a case beside a price of a bottle, or VAT on one side.",
    ),
    "STALE_SALES": Light(
        "Days since the newest sale, beyond those that are tolerated, of the span in which the score falls to 0.",
        "Export the sales up to today.",
    ),
    "VOLUME_DROP": Light(
        "Rows per covered day that the newest sales file lacks against the same weeks a year before, else against the"
        " last files.",
        "Look whether the export was cut, filtered or half written; drop it again whole.",
    ),
    "MISSING_EMAIL_RATE": Light(
        "Active customers without an e-mail address, of all active customers.",
        "Look whether the export has the e-mail column; else collect addresses, they are what can be written to.",
    ),
    "DUPLICATE_EMAIL": Light(
        "Customers who share an e-mail address, of all customers.",
        "One of each is written to. Merge the customers, or look for an address of the house on everybody's card.",
    ),
    "INCOMPLETE_PROFILE": Light(
        "Active customers without a name or a postal code, of all active customers.",
        "Look whether the export has both columns.",
    ),
    "MISSING_FAMILY": Light(
        "Active products of the catalogue without a family, of all active products of the catalogue.",
        "Fill the family in the catalogue: recommendations and reports go by it.",
    ),
    "UNREALISTIC_PRICE": Light(
        "Products of the catalogue with a price of 0 or less, or beyond what a bottle can cost, of all of them.",
        "Look at the price column: mostly another unit, or a decimal separator read as one of thousands.",
    ),
    "QUARANTINE_RATE": Light(
        "Rows refused in the newest file of each dataset, of all rows of these files.",
        "`crm quarantine` hands the refused rows back with the reason, to be mended and dropped again.",
    ),
    "SCHEMA_DRIFT": Light(
        "Fields that the newest file of a dataset lacks and the one before it had, of the fields it had.",
        "Export with all columns; a new spelling of a header goes into the estate's file.",
    ),
}


@dg.multi_asset_check(
    name="data_quality_lights",
    specs=[
        check_spec(DATA_QUALITY, code.lower(), f"{light.counts} When it is red: {light.advice}")
        for code, light in LIGHTS.items()
    ],
    can_subset=True,
)
def data_quality_lights(context: dg.AssetCheckExecutionContext, tenant_run: TenantRun) -> Iterator[dg.AssetCheckResult]:
    """Each check of the circuit breaker: green below its tolerance, however little is left of it."""
    quality = tenant_run.warehouse.read(*DATA_QUALITY, where="run_id = %s", params=[tenant_run.run_id])
    measured = quality.assign(ratio=ratios(quality["bad"], quality["total"])).set_index("check_code")
    for key in context.selected_asset_check_keys:
        code = key.name.upper()
        found = measured.loc[code]
        is_red = bool(found["score"] <= 0)
        closes = "closes the gate" if found["severity"] == "ERROR" else "lowers the score of the data"
        yield dg.AssetCheckResult(
            asset_key=key.asset_key,
            check_name=key.name,
            passed=not is_red,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={
                "verdict": f"{found['bad']:.6g} of {found['total']:.6g}: {found['ratio']:.2%}, tolerated below"
                f" {found['tolerance']:.2%}" + (f"; this {closes}" if is_red else ""),
                "bad": float(found["bad"]),
                "total": float(found["total"]),
                "ratio": float(found["ratio"]),
                "tolerance": float(found["tolerance"]),
                "score": float(found["score"]),
                "severity": str(found["severity"]),
                "what_to_do": LIGHTS[code].advice,
            },
        )


def history(run: run_context.TenantRun, quality: "pd.DataFrame", overall: float) -> dict[str, Any]:
    """How the data were over the days of earlier runs and are in this one: a drawing and a table, as metadata.

    `quality` and `overall` are of this run, which has no decision of the gate yet.
    """
    import pandas as pd

    before = quality_history(run.warehouse, until=run.as_of - timedelta(days=1))
    today = quality.assign(
        as_of=pd.Timestamp(run.as_of), ratio=ratios(quality["bad"], quality["total"]), overall=overall
    )
    columns = ["as_of", "check_code", "ratio", "tolerance", "score", "overall"]
    known = pd.concat([part[columns] for part in (before, today) if len(part)], ignore_index=True)
    days = known["as_of"].drop_duplicates().sort_values()
    return {
        "history": _drawn(known[known["as_of"].isin(days.tail(MAX_DAYS_DRAWN))], run.rules.circuit_breaker.min_score),
        "ratios_by_day": _listed(known[known["as_of"].isin(days.tail(MAX_DAYS_LISTED))], quality),
    }


def _drawn(known: "pd.DataFrame", least: float) -> dg.MarkdownMetadataValue:
    """The score of all checks by day, against the least that leaves the gate open."""
    overall = known.groupby("as_of")["overall"].first()
    figure = new_figure(8, 3)
    axes = figure.subplots()
    axes.plot(overall.index, overall.to_numpy(), marker="o", markersize=4, color=WINE)
    axes.axhline(least, color=GREY, linestyle="--", linewidth=1)
    axes.annotate(
        f"below {least:g} the gate closes",
        (0.01, least),
        xycoords=("axes fraction", "data"),
        xytext=(0, -4),
        textcoords="offset points",
        va="top",
        color=GREY,
    )
    axes.set(ylim=(0, 105), ylabel="score (0..100)", title="Quality of the data by day")
    ends = list(dict.fromkeys([overall.index[0], overall.index[-1]]))
    axes.set_xticks(ends, labels=[f"{day:%Y-%m-%d}" for day in ends])
    axes.spines[["top", "right"]].set_visible(False)
    return plot(figure)


def _listed(known: "pd.DataFrame", quality: "pd.DataFrame") -> dg.MarkdownMetadataValue:
    """Ratios of the last days beside their tolerance, the worst check of today first; bold where it is reached."""
    share = known["ratio"].map("{:.2%}".format)
    shown = known.assign(share=share.where(known["score"] > 0, "**" + share + "**"))
    table = shown.pivot(index="check_code", columns="as_of", values="share").fillna("")
    days = " | ".join(f"{day:%Y-%m-%d}" for day in table.columns)
    lines = [f"| check | severity | tolerance | {days} |", "|---|---|---:|" + "---:|" * len(table.columns)]
    worst_first = quality.sort_values(["score", "check_code"])[["check_code", "severity", "tolerance"]]
    for code, severity, tolerance in worst_first.itertuples(index=False, name=None):
        lines.append(f"| {code} | {severity} | {tolerance:.0%} | {' | '.join(table.loc[code])} |")
    return dg.MetadataValue.md("\n".join(lines))
