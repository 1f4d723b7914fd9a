"""The monthly report as a page: its sentences, tables and chart in the estate's language, one file for all.

`html_of` is the page, self-contained. `digest` is what Dagster shows of it: figures, nobody's name. What is told is
decided in `logic/monthly_reports.py`; wording is in `templates/monthly_<locale>.yaml`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from datetime import date
from types import SimpleNamespace
from typing import Any

import pandas as pd
from babel.dates import format_date

from crm_assets import charts, rendering
from crm_assets.logic.monthly_reports import UPLIFT, MonthlyReport
from crm_assets.logic.report_page import Words

TEMPLATE = "monthly_report.html.j2"
_EUROS = frozenset({"revenue_ht", "average_order_value", "revenue_week", "revenue_month"})
# How many ways between segments a page shows.
_MOVEMENTS = 8
_SENTENCES = {
    "CUSTOMER_SILENT": "customer_value",
    "ORDER_VALUE_DOWN": "order_value",
    "PRODUCT_FALLING": "wine_value",
    "VOLUME_OFF": "estate_value",
}


class MonthWords(Words):
    """The wording of the monthly report: `say` looks among its own sentences."""

    def __init__(self, locale: str) -> None:
        super().__init__(locale)
        self.weekly = self.report
        self.report = self.all["monthly"]

    @property
    def year_before(self) -> str:
        """The header of a column that stands beside its own of a year later."""
        return str(self.all["workbook"]["columns"]["amount_before"])

    def amount(self, value: float | None, write: Callable[[float], str] | None = None) -> str:
        """An amount in EUR, or what `write` makes of it; a dash for what is not known."""
        return self.report["unknown"] if value is None or pd.isna(value) else (write or self.euros)(value)

    def measure(self, name: str, value: float | None) -> str:
        return self.amount(value, self.euros if name in _EUROS else self.number)

    def change_of(self, value: float | None, before: float | None) -> str:
        """+12,5 %; a dash without anything to compare with."""
        if value is None or before is None or pd.isna(value) or pd.isna(before) or before <= 0:
            return str(self.report["unknown"])
        return self.change(value / before - 1)

    def signed_euros(self, value: float) -> str:
        written = self.euros(value)
        return f"+{written}" if round(value) > 0 else written

    def title_month(self, value: date) -> str:
        """The month as a sentence begins with it: Décembre 2025."""
        said = self.month(value)
        return said[:1].upper() + said[1:]

    def quarter(self, value: date) -> str:
        return str(format_date(value, "QQQ y", locale=self.locale))


def _sentences(report: MonthlyReport, words: MonthWords) -> list[str]:
    revenue, month = report.figure("revenue_ht"), words.title_month(report.month)
    month_before = words.month(report.month.replace(year=report.month.year - 1))
    value, before = revenue["value"] or 0.0, revenue["before"]
    if before is None:
        said = [words.say("sales_alone", month=month, amount=words.euros(value), month_before=month_before)]
    elif before <= 0:
        # Nothing sold, or more returned than sold, is no history that is missing.
        amounts = {"amount": words.euros(value), "before": words.euros(before)}
        said = [words.say("sales_against_nothing", 0, month=month, month_before=month_before, **amounts)]
    else:
        said = [
            words.say(
                "sales_against",
                month=month,
                amount=words.euros(value),
                change=words.change(value / before - 1),
                month_before=month_before,
                before=words.euros(before),
            )
        ]
    year, ago = revenue["year"], revenue["year_before"]
    if report.month.month > 1 and year is not None:
        if ago is None or ago <= 0:
            said.append(words.say("year_alone", amount=words.euros(year)))
        else:
            said.append(
                words.say(
                    "year_against",
                    amount=words.euros(year),
                    change=words.change(year / ago - 1),
                    year=report.month.year - 1,
                    before=words.euros(ago),
                )
            )
    count, new = report.figure("customers")["value"] or 0, report.figure("new_customers")["value"] or 0
    customers = words.say("customers", count)
    said.append(words.say("newcomers" if new else "no_newcomers", new, customers=customers))
    for key, wines in (("riser", report.risers), ("faller", report.fallers)):
        for row in wines.head(1).to_dict("records"):
            said.append(words.say(key, label=row["label"], difference=words.signed_euros(row["difference"])))
    if not report.is_current:
        said.append(words.say("past_month"))
    elif points := len(report.to_do) + len(report.low_stock):
        said.append(words.say("next_steps", points))
    return said


def _tiles(report: MonthlyReport, words: MonthWords) -> list[dict[str, str]]:
    tiles = []
    for measure in report.figures["measure"]:
        figure = report.figure(measure)
        value, before = figure["value"], figure["before"]
        if before is None or pd.isna(before):
            than = words.say("than_unknown")
        elif before <= 0:
            than = words.say("than_nothing")
        else:
            change = words.change((value or 0.0) / before - 1)
            than = words.say("than", change=change, before=words.measure(measure, before))
        name = words.report["measure"][measure]
        tiles.append({"name": name, "value": words.measure(measure, value), "than": than})
    return tiles


_Table = dict[str, Any]


def _table(columns: list[tuple[str, str]], rows: list[list[str]]) -> _Table:
    return {"columns": columns, "rows": rows}


def _figures(report: MonthlyReport, words: MonthWords) -> _Table:
    m, year = words.report, report.month.year
    month = words.calendar_month(report.month.month)
    columns = [(m["figure"], "")]
    for name in (words.title_month(report.month), words.say("this_year", year=year, month=month)):
        columns += [(name, "n"), (str(year - 1), "n"), (m["change"], "n")]
    rows = []
    for measure in report.figures["measure"]:
        figure, cells = report.figure(measure), [m["measure"][measure]]
        for now, before in (("value", "before"), ("year", "year_before")):
            cells += [
                words.measure(measure, figure[now]),
                words.measure(measure, figure[before]),
                words.change_of(figure[now], figure[before]),
            ]
        rows.append(cells)
    return _table(columns, rows)


def _populations(report: MonthlyReport, words: MonthWords) -> _Table:
    m = words.report
    columns = [(m["population"], ""), (m["measure"]["revenue_ht"], "n"), (str(report.month.year - 1), "n")]
    columns += [(m["change"], "n"), (m["measure"]["orders"], "n"), (m["measure"]["customers"], "n")]
    rows = [
        [
            m["population_names"].get(row["population"], row["population"]),
            words.amount(row["revenue_ht"]),
            words.amount(row["before"]),
            words.change_of(row["revenue_ht"], row["before"]),
            words.amount(row["orders"], words.number),
            words.amount(row["customers"], words.number),
        ]
        for row in report.populations.to_dict("records")
    ]
    return _table(columns, rows)


def _months(report: MonthlyReport, words: MonthWords) -> _Table:
    m = words.report
    columns = [(m["month"], ""), (m["measure"]["revenue_ht"], "n"), (words.year_before, "n")]
    columns += [(m["change"], "n"), *((m["measure"][name], "n") for name in _MONTH_COLUMNS)]
    rows = [
        [
            words.title_month(row["month"]),
            words.amount(row["amount"]),
            words.amount(row["amount_before"]),
            words.change_of(row["amount"], row["amount_before"]),
            *(words.measure(name, row[name]) for name in _MONTH_COLUMNS),
        ]
        for row in report.months.to_dict("records")
    ]
    return _table(columns, rows)


_MONTH_COLUMNS = ("orders", "customers", "average_order_value", "bottles")


def _months_chart(report: MonthlyReport, words: MonthWords) -> dict[str, str]:
    known = report.months.dropna(subset=["amount"]).sort_values("amount", kind="stable")
    worst, best = known.iloc[0], known.iloc[-1]
    drawn = charts.drawn("months", SimpleNamespace(months=report.months.fillna({"amount": 0.0})), words.locale)
    return {
        "source": charts.data_uri(drawn),
        "caption": words.say("months_chart"),
        "alt": words.say(
            "months_alt",
            best=words.month(best["month"]),
            best_amount=words.euros(best["amount"]),
            worst=words.month(worst["month"]),
            worst_amount=words.euros(worst["amount"]),
        ),
    }


def _families(report: MonthlyReport, words: MonthWords) -> _Table:
    m = words.report
    columns = [(m["family"], ""), (m["measure"]["revenue_ht"], "n"), (words.year_before, "n")]
    columns += [(m["change"], "n"), (m["measure"]["bottles"], "n"), (m["share"], "n"), (m["change_12m"], "n")]
    rows = [
        [
            row["family"] or m["no_family"],
            words.amount(row["revenue_ht"]),
            words.amount(row["before"]),
            words.amount(row["change"], words.change),
            words.amount(row["bottles"], words.number),
            words.amount(row["share"], words.percent),
            words.amount(row["change_12m"], words.change),
        ]
        for row in report.families.to_dict("records")
    ]
    return _table(columns, rows)


def _wines(wines: pd.DataFrame, words: MonthWords) -> _Table:
    m = words.report
    columns = [(m["wine"], ""), (m["difference"], "n"), (m["measure"]["revenue_ht"], "n")]
    columns += [(words.year_before, "n"), (m["measure"]["bottles"], "n")]
    columns += [(words.year_before, "n")]
    rows = [
        [
            row["label"],
            words.signed_euros(row["difference"]),
            words.amount(row["revenue_ht"]),
            words.amount(row["before"]),
            words.amount(row["bottles"], words.number),
            words.amount(row["bottles_before"], words.number),
        ]
        for row in wines.to_dict("records")
    ]
    return _table(columns, rows)


def _segments(report: MonthlyReport, words: MonthWords) -> dict[str, Any] | None:
    if report.compared is None:
        return None
    m, (first, last) = words.report, report.compared
    names = {**words.all["segment"], "New": words.weekly["new_customer"], "Gone": words.weekly["gone_customer"]}
    rows = [
        [
            names.get(row["segment"], row["segment"]),
            words.number(row["customers"]),
            words.number(row["before"]),
            rendering.signed(row["customers"] - row["before"], words.locale),
        ]
        for row in report.segments.to_dict("records")
    ]
    ways = [
        [
            names.get(row["segment_from"], row["segment_from"]),
            names.get(row["segment_to"], row["segment_to"]),
            words.number(row["customers"]),
        ]
        for row in report.movements.head(_MOVEMENTS).to_dict("records")
    ]
    counted = [(m["segment"], ""), (m["customer_count"], "n"), (m["before"], "n"), (m["change"], "n")]
    return {
        "between": words.say("segments_between", first=words.day(first), last=words.day(last)),
        "table": _table(counted, rows),
        "movements": _table([(m["from"], ""), (m["to"], ""), (m["customer_count"], "n")], ways),
    }


# A cell at its darkest: ink still reads on it (4.5:1, WCAG 2.2 §1.4.3; a test computes it).
_DARKEST = 0.55


def heat(share: float) -> str:
    """The paper of a cell, from white to the darkest, for a share 0..1 of the largest value."""
    dark = (int(charts.WINE[place : place + 2], 16) for place in (1, 3, 5))
    return "#" + "".join(f"{round(255 + (channel - 255) * _DARKEST * share):02x}" for channel in dark)


def _cohorts(report: MonthlyReport, words: MonthWords) -> dict[str, Any]:
    """Per quarter of the first order, the share that ordered again in each quarter since; the first is all of them."""
    later = report.cohorts[report.cohorts["quarters_since"] > 0]
    if later.empty:
        return {"columns": [], "rows": []}
    last = int(later["quarters_since"].max())
    largest = max(float(later["retention"].max()), 0.01)
    rows = []
    for cohort, of_it in report.cohorts.groupby("cohort", sort=True):
        shares = of_it.set_index("quarters_since")["retention"]
        cells: list[dict[str, str] | None] = []
        for quarter in range(1, last + 1):
            if quarter not in shares.index:
                cells.append(None)
                continue
            share = float(shares[quarter])
            cells.append({"text": words.percent(share, 0), "paper": heat(share / largest)})
        if any(cells):
            name = words.quarter(pd.Timestamp(str(cohort)).date())
            rows.append({"name": name, "customers": words.number(int(of_it["customers"].iloc[0])), "cells": cells})
    return {"columns": [words.say("quarters", quarter) for quarter in range(1, last + 1)], "rows": rows}


def _campaign_name(row: Mapping[Hashable, Any], words: MonthWords) -> str:
    occurrence = words.weekly["once"] if row["occurrence"] == "once" else row["occurrence"]
    return f"{row['campaign']} ({occurrence})"


def _campaigns(report: MonthlyReport, words: MonthWords) -> _Table:
    w = words.weekly

    def rate(part: float, whole: float) -> str:
        return words.number(part) + (f" ({words.percent(part / whole)})" if whole else "")

    columns = [(w["campaign"], ""), *((w[name], "n") for name in ("sent", "delivered", "opened", "clicked"))]
    columns += [(w["bounced"], "n"), (w["unsubscribed"], "n"), (words.report["ordered"], "n")]
    columns += [(words.report["measure"]["revenue_ht"], "n")]
    rows = [
        [
            _campaign_name(row, words),
            words.number(row["sent"]),
            rate(row["delivered"], row["sent"]),
            *(rate(row[name], row["delivered"]) for name in ("opened", "clicked")),
            rate(row["bounced"], row["sent"]),
            rate(row["unsubscribed"], row["delivered"]),
            rate(row["ordered"], row["sent"]),
            words.euros(row["revenue_ht"]),
        ]
        for row in report.campaigns.to_dict("records")
    ]
    return _table(columns, rows)


def _campaign_sentences(report: MonthlyReport, words: MonthWords) -> list[str]:
    said = []
    for row in report.campaigns.to_dict("records"):
        name = _campaign_name(row, words)
        if not row["is_final"]:
            said.append(words.say("provisional", campaign=name, day=words.day(row["final_on"])))
        elif pd.isna(row["uplift"]):
            said.append(words.say("uplift_none", campaign=name))
        else:
            is_proven, is_harm = row["uplift_low"] > 0, row["uplift_high"] < 0
            verdict = "uplift_yes" if is_proven else "uplift_harm" if is_harm else "uplift_no"
            uplift, low, high = (rendering.signed(round(100 * row[key], 1), words.locale, "0.0") for key in UPLIFT)
            holdout, verdict = words.number(row["held_out"]), words.report[verdict]
            said.append(
                words.say("uplift", campaign=name, holdout=holdout, verdict=verdict, uplift=uplift, low=low, high=high)
            )
    return said


def _quality_sentence(report: MonthlyReport, words: MonthWords) -> str:
    days = report.quality_days
    if days.empty:
        return words.say("quality_none")
    last, worst = days.iloc[-1], days.sort_values("overall", kind="stable").iloc[0]
    minimum, score = words.number(report.min_quality), words.number(last["overall"], "0.0")
    said = words.say("quality_sentence", day=words.day(last["as_of"]), score=score, minimum=minimum)
    if round(worst["overall"], 1) < round(last["overall"], 1):
        lowest = words.number(worst["overall"], "0.0")
        said += " " + words.say("quality_worst", day=words.day(worst["as_of"]), score=lowest)
    return said if len(report.quality) else f"{said} {words.say('quality_all')}"


def _check(words: MonthWords, code: str) -> dict[str, str]:
    return words.all["check"].get(code, {"name": code, "measures": ""})


def _quality(report: MonthlyReport, words: MonthWords) -> _Table:
    m = words.report
    names = ("measured", "tolerance", "score", "worst")
    rows = [
        [
            _check(words, row["check_code"])["name"],
            words.percent(row["ratio"]),
            words.percent(row["tolerance"], 0),
            words.number(row["score"], "0.0"),
            words.number(row["worst"], "0.0"),
        ]
        for row in report.quality.to_dict("records")
    ]
    return _table([(m["check"], ""), *((m[name], "n") for name in names)], rows)


def _files(report: MonthlyReport, words: MonthWords) -> _Table:
    m, datasets = words.report, words.all["mapping"]["datasets"]
    rows = []
    for row in report.files.to_dict("records"):
        name = datasets.get(row["dataset"], row["dataset"])
        counts = [words.number(row[column]) for column in ("files", "rows", "refused")]
        rows.append([name[:1].upper() + name[1:], *counts])
    columns = [(m["dataset"], ""), (m["file_count"], "n"), (m["rows"], "n"), (m["refused_rows"], "n")]
    return _table(columns, rows)


def _refused(report: MonthlyReport, words: MonthWords) -> _Table:
    reasons = words.weekly["refusal"]
    rows = []
    for code, count in report.refused[["code", "rows"]].itertuples(index=False):
        said = str(reasons.get(code, code))
        rows.append([said[:1].upper() + said[1:], words.number(count)])
    return _table([(words.report["reason"], ""), (words.report["rows"], "n")], rows)


def _next(report: MonthlyReport, words: MonthWords) -> list[dict[str, Any]]:
    groups = []
    found = dict(report.to_do_counts.itertuples(index=False, name=None))
    for kind in _SENTENCES:
        of_it = report.to_do[report.to_do["kind"] == kind]
        if of_it.empty:
            continue
        sentences = [_action(row, words) for row in of_it.to_dict("records")]
        if (more := found[kind] - len(of_it)) > 0:
            sentences.append(words.say("more", more))
        groups.append({"name": words.report["action"][kind], "sentences": sentences})
    if len(report.low_stock):
        sentences = [_stock(row, words) for row in report.low_stock.to_dict("records")]
        groups.append({"name": words.report["action"]["low_stock"], "sentences": sentences})
    if sentences := _to_mend(report, words):
        groups.append({"name": words.report["action"]["data"], "sentences": sentences})
    return groups


def _action(row: Mapping[Hashable, Any], words: MonthWords) -> str:
    measure = row["measure"]
    said = words.weekly["anomaly_sentence"][measure].format(
        measured=words.measure(_AMOUNTS.get(measure, measure), row["measured"]),
        expected=words.measure(_AMOUNTS.get(measure, measure), row["expected"]),
    )
    subject = row["label"] or row["client_code"]
    if row["name"]:
        subject = words.say("subject", name=row["name"], code=row["client_code"])
    sentence = words.say(_SENTENCES[row["kind"]], subject=subject, said=said, value=words.euros(row["value"]))
    return sentence[:1].upper() + sentence[1:]


_AMOUNTS = {"average_order_value": "revenue_ht"}


def _stock(row: Mapping[Hashable, Any], words: MonthWords) -> str:
    if not row["bottles"] or row["bottles"] < 1:
        return words.say("stock_none", label=row["label"])
    months = words.number(row["months_of_stock"], "0.0")
    return words.say("stock_left", row["bottles"], label=row["label"], months=months)


def _to_mend(report: MonthlyReport, words: MonthWords) -> list[str]:
    """What of the data somebody can mend: files that were refused, rows, and the checks that lose most."""
    said = []
    if len(report.bad_files):
        said.append(words.say("data_bad_files", len(report.bad_files)))
    if refused := int(report.files["refused"].sum()):
        said.append(words.say("data_refused", refused))
    for row in report.quality.head(3).to_dict("records"):
        check = _check(words, row["check_code"])
        said.append(
            words.say("data_check", name=check["name"], ratio=words.percent(row["ratio"]), measures=check["measures"])
        )
    return said


def contents(report: MonthlyReport, locale: str) -> dict[str, Any]:
    """All texts and tables of the page, in that language."""
    words = MonthWords(locale)
    days = words.number(report.conversion_days)
    return {
        "estate": report.estate,
        "month": words.month(report.month),
        "as_of": words.say("as_of", day=words.day(report.as_of)),
        "run_id": report.run_id,
        "is_current": report.is_current,
        "sentences": _sentences(report, words),
        "tiles": _tiles(report, words),
        "figures": _figures(report, words),
        "populations": _populations(report, words),
        "months": _months(report, words),
        "families": _families(report, words),
        "risers": _wines(report.risers, words),
        "fallers": _wines(report.fallers, words),
        "segments": _segments(report, words),
        "cohorts": _cohorts(report, words),
        "campaigns": _campaigns(report, words),
        "campaign_sentences": _campaign_sentences(report, words),
        "campaigns_note": words.say("campaigns_note", days=days),
        "quality_sentence": _quality_sentence(report, words),
        "quality": _quality(report, words),
        "files": _files(report, words),
        "refused": _refused(report, words),
        "bad_files": [
            words.say(
                "bad_file", path=row["path"], status=words.of("file_status", row["status"]), reason=row["reason"]
            ).strip()
            for row in report.bad_files.to_dict("records")
        ],
        "next": _next(report, words),
    }


def html_of(report: MonthlyReport, locale: str) -> str:
    """The page, in that language. The same report gives the same bytes."""
    words = MonthWords(locale)
    template = rendering.environment(locale).get_template(TEMPLATE)
    return template.render(
        title=title_of(report, locale),
        months_chart=_months_chart(report, words),
        colours=charts,
        **contents(report, locale),
    )


def title_of(report: MonthlyReport, locale: str) -> str:
    """The document's title: Domaine Demo – Le point du mois, décembre 2025."""
    words = MonthWords(locale)
    return f"{report.estate} – {words.report['title']}, {words.month(report.month)}"


def digest(report: MonthlyReport, locale: str) -> str:
    """The month in Markdown for the UI: figures and wines, no customer."""
    words = MonthWords(locale)
    lines = [f"**{words.title_month(report.month)}**", ""]
    lines += [f"* {sentence}" for sentence in _sentences(report, words)]
    table = _figures(report, words)
    lines += ["", "| " + " | ".join(name for name, _ in table["columns"]) + " |"]
    lines += ["|" + "|".join("---:" if kind else "---" for _, kind in table["columns"]) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in table["rows"]]
    return "\n".join(lines)
