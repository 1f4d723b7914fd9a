"""The weekly report as a page: its sentences, tables and charts in the estate's language, one file for all.

`html_of` is the page, self-contained: charts stand in it as pictures with their facts in words, nothing is fetched
and no script runs. `headlines` are its first sentences, for an e-mail or the UI, without anybody's name. What is
told is decided in `logic/reports.py`; wording is in `templates/report_<locale>.yaml`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from typing import Any

import pandas as pd

from crm_assets import charts, rendering
from crm_assets.logic import customers, sales
from crm_assets.logic.reports import GONE, NEW, WeeklyReport

TEMPLATE = "weekly_report.html.j2"
_MOVEMENTS = 8
_POINTS = ("uplift", "uplift_low", "uplift_high")
_EUROS = frozenset({"average_order_value", "revenue_week", "revenue_month"})


class Words:
    """The wording of a report in one language, with numbers written as its readers do."""

    def __init__(self, locale: str) -> None:
        self.locale = locale
        self.all = rendering.texts(locale)
        self.report: dict[str, Any] = self.all["report"]

    def say(self, key: str, count: float = 0, **values: Any) -> str:
        """The sentence `report.<key>`, in the form of that count; dots lead into groups."""
        forms: Any = self.report
        for part in key.split("."):
            forms = forms[part]
        return rendering.plural(forms, count, self.locale).format(count=self.number(count), **values)

    def of(self, group: str, code: str) -> str:
        """The words for a code; the code itself where a newer part of the product has none yet."""
        return str(self.all[group].get(code, code))

    def number(self, value: float, pattern: str = "#,##0") -> str:
        return rendering.number(value, self.locale, pattern)

    def euros(self, value: float) -> str:
        return rendering.whole_euros(value, self.locale)

    def percent(self, value: float, digits: int = 1) -> str:
        return rendering.percent(value, self.locale, digits)

    def change(self, value: float, digits: int = 1) -> str:
        return rendering.signed_percent(value, self.locale, digits)

    def day(self, value: Any) -> str:
        return rendering.long_date(pd.Timestamp(value).date(), self.locale)

    def day_before(self, value: date, last: date) -> str:
        """A day that is told together with a later one: its year only where that is another."""
        return rendering.short_date(value, self.locale) if value.year == last.year else self.day(value)

    def month(self, value: Any) -> str:
        return rendering.month_year(pd.Timestamp(value).date(), self.locale)

    def calendar_month(self, month: int) -> str:
        return str(rendering.format_date(date(2001, month, 1), "LLLL", locale=self.locale))


def cluster_label(name: str, locale: str) -> str:
    """A cluster's English name (`customers.cluster_profiles`) in the estate's language."""
    words, number = customers.cluster_words(name)
    said = ", ".join(rendering.texts(locale)["cluster_word"][word] for word in words)
    return f"{said[:1].upper()}{said[1:]}{f' ({number})' if number else ''}"


# --- sentences


def _light(report: WeeklyReport, words: Words) -> str:
    if report.is_open:
        return words.say("gate_open", report.n_eligible)
    return words.say("gate_closed", reasons=", ".join(words.of("gate_reason", code) for code in report.gate_reasons))


def _planned(report: WeeklyReport, words: Words) -> str:
    if not report.planned_messages:
        return words.say("not_planned")
    planned = words.say("planned", report.planned_messages)
    return words.say("planned_batches", int(report.batches["batches"].sum()), planned=planned)


def _week(report: WeeklyReport, words: Words) -> str:
    week = report.sales.week
    said = words.say(
        "week_sales",
        week.now.orders,
        first=words.day_before(week.now.first, week.now.last),
        last=words.day(week.now.last),
        amount=words.euros(week.now.amount),
    )
    if week.before is None:
        return words.say("week_alone", sales=said)
    if week.change is None:
        return words.say("week_against_nothing", sales=said)
    return words.say(
        "week_against", sales=said, before=words.euros(week.before.amount), change=words.change(week.change)
    )


def _movement(report: WeeklyReport, words: Words) -> str:
    newcomers = words.say("newcomers" if report.new_customers else "no_newcomers", report.new_customers)
    if report.previous is None or report.segments["before"].isna().all():
        return f"{newcomers}."
    return words.say("and_moved" if report.moved else "and_none_moved", report.moved, newcomers=newcomers)


def _eligible(report: WeeklyReport, words: Words) -> str:
    assert report.previous is not None
    now, before = report.n_eligible, report.previous.n_eligible
    key = "eligible_more" if now > before else "eligible_fewer" if now < before else "eligible_same"
    return words.say(key, abs(now - before), now=words.number(now), before=words.number(before))


def changes(report: WeeklyReport, words: Words) -> list[str]:
    """What changed since last week, in three sentences of facts; without such a week what there is to tell."""
    if report.previous is None:
        return [words.say("first_report"), _week(report, words), _movement(report, words)]
    return [_week(report, words), _movement(report, words), _eligible(report, words)]


def headlines(report: WeeklyReport, locale: str) -> list[str]:
    """The first sentences of the page: the light, what is planned, what changed. No names, no codes."""
    words = Words(locale)
    return [_light(report, words), _planned(report, words), *changes(report, words)]


def _tiles(report: WeeklyReport, words: Words) -> list[dict[str, Any]]:
    """The figures at the top of the page; what a check reads back stands with them as it was measured."""
    tiles: list[dict[str, Any]] = [
        {"value": words.number(count), "name": words.say(f"tile.{name}", count)}
        for name, count in (("eligible", report.n_eligible), ("planned", report.planned_messages))
    ]
    if report.sales.first_day is not None:
        amount = report.sales.rolling.now.amount
        rolling = {"figure": "rolling", "exact": f"{amount:.2f}"}
        tiles.append({"value": words.euros(amount), "name": words.say("tile.rolling"), **rolling})
    at_risk = {"figure": "at_risk", "exact": report.at_risk}
    tiles.append({"value": words.number(report.at_risk), "name": words.say("tile.at_risk", report.at_risk), **at_risk})
    tiles.append({"value": words.number(report.data_quality_score, "0.0"), "name": words.say("tile.quality")})
    return tiles


def _foretold(report: WeeklyReport, words: Words) -> str:
    foretold = report.foretold
    if foretold is None:
        return ""
    return words.say(
        "foretold",
        customers=words.number(foretold.customers),
        first=words.day(foretold.first),
        last=words.day(foretold.last),
        served=words.percent(foretold.served),
        top=foretold.top,
        plain=words.percent(foretold.plain),
    )


def _sales_sentences(told: sales.Sales, words: Words) -> list[str]:
    rolling = told.rolling
    said = words.say("rolling", rolling.now.orders, amount=words.euros(rolling.now.amount))
    if rolling.now.average_order_value is not None:
        said = words.say("basket", rolling=said, basket=words.euros(rolling.now.average_order_value))
    sentences = []
    if rolling.before is None:
        sentences.append(words.say("no_year_before", said=said))
    elif rolling.change is None:
        sentences.append(words.say("against_nothing", said=said, before=words.euros(rolling.before.amount)))
    else:
        before = rolling.before
        sentences.append(
            words.say("against", said=said, change=words.change(rolling.change), before=words.euros(before.amount))
        )
        if before.average_order_value is not None:
            sentences.append(words.say("basket_before", basket=words.euros(before.average_order_value)))
    year = told.year
    if year.before is not None and year.change is not None and (told.as_of.month, told.as_of.day) != (12, 31):
        sentences.append(
            words.say(
                "year_to_date",
                amount=words.euros(year.now.amount),
                change=words.change(year.change),
                year=told.as_of.year - 1,
                before=words.euros(year.before.amount),
            )
        )
    return sentences


def _projection(told: sales.Sales, words: Words) -> tuple[str, str]:
    """What is expected of the year, and how it was calculated ('' where it was not)."""
    if (told.as_of.month, told.as_of.day) == (12, 31):
        return words.say("year_over", year=told.as_of.year, amount=words.euros(told.year.now.amount)), ""
    projected = told.projection
    if projected is None:
        key = f"no_projection.{told.no_projection}"
        return words.say(key, min_years=told.min_years, min_share=words.percent(told.min_share, 0)), ""
    said = words.say(
        "projection",
        year=projected.year,
        expected=words.euros(projected.expected),
        low=words.euros(projected.low),
        high=words.euros(projected.high),
        level=words.percent(projected.level, 0),
    )
    how = words.say(
        "projection_note",
        to_date=words.euros(projected.to_date),
        factor=words.number(projected.factor, "#,##0.00"),
        years=projected.years,
    )
    return said, how


def _extremes(frame: pd.DataFrame, column: str) -> tuple[pd.Series, pd.Series]:
    """The rows with most and with least of a column; of equals the first."""
    return frame.iloc[int(frame[column].argmax())], frame.iloc[int(frame[column].argmin())]


def _season(told: sales.Sales, words: Words, key: str, digits: int) -> str:
    if told.seasons.empty:
        return ""
    best, least = _extremes(told.seasons, "share")
    return words.say(
        key,
        month=words.calendar_month(int(best["month"])),
        share=words.percent(best["share"], digits),
        low_month=words.calendar_month(int(least["month"])),
        low_share=words.percent(least["share"], digits),
    )


# --- charts


def _picture(name: str, data: Any, caption: str, alt: str, locale: str) -> dict[str, str]:
    return {"source": charts.data_uri(charts.drawn(name, data, locale)), "caption": caption, "alt": alt}


def _months_alt(told: sales.Sales, words: Words) -> str:
    frame = told.months
    best, worst = _extremes(frame, "amount")
    said = words.say(
        "chart.months_alt",
        best=words.month(best["month"]),
        best_amount=words.euros(best["amount"]),
        worst=words.month(worst["month"]),
        worst_amount=words.euros(worst["amount"]),
    )
    known = frame[frame["amount_before"].notna()]
    ahead = int((known["amount"] > known["amount_before"]).sum())
    return f"{said} {words.say('chart.months_ahead', ahead, of=len(known))}" if len(known) else said


def _year_end_alt(told: sales.Sales, words: Words) -> str:
    past = told.years[told.years["is_complete"] & (told.years["year"] < told.as_of.year)].tail(charts.PAST_YEARS)
    years = ", ".join(
        f"{year} {words.euros(amount)}" for year, amount in past[["year", "amount"]].itertuples(index=False)
    )
    to_date = words.euros(told.year.now.amount)
    projected = told.projection
    if projected is None or projected.expected <= projected.to_date:
        this = words.say("chart.year_end_so_far", year=told.as_of.year, to_date=to_date)
    else:
        this = words.say(
            "chart.year_end_expected",
            year=projected.year,
            to_date=to_date,
            expected=words.euros(projected.expected),
            low=words.euros(projected.low),
            high=words.euros(projected.high),
        )
    return f"{words.say('chart.year_end_alt', years=years)} {this}" if years else this


def _sales_pictures(told: sales.Sales, words: Words) -> list[dict[str, str]]:
    if told.first_day is None:
        return []
    made = [_picture("months", told, words.say("chart.months"), _months_alt(told, words), words.locale)]
    if len(told.trend) > 1:
        first, last = told.trend.iloc[0], told.trend.iloc[-1]
        alt = words.say(
            "chart.trend_alt",
            first=words.month(first["day"]),
            first_amount=words.euros(first["amount"]),
            last=words.day(last["day"]),
            last_amount=words.euros(last["amount"]),
        )
        made.append(_picture("trend", told, words.say("chart.trend"), alt, words.locale))
    if (told.years["is_complete"] & (told.years["year"] < told.as_of.year)).any():
        alt = _year_end_alt(told, words)
        made.append(_picture("year_end", told, words.say("chart.year_end"), alt, words.locale))
    if len(told.seasons):
        alt = _season(told, words, "chart.seasons_alt", 1)
        made.append(_picture("seasons", told, words.say("chart.seasons"), alt, words.locale))
    return made


def _segments_picture(counted: pd.DataFrame, words: Words) -> dict[str, str] | None:
    if counted.empty:
        return None
    facts, compared = [], counted["before"].notna().any()
    for row in _records(counted):
        values = {"name": words.of("segment", row["segment"])}
        if compared and row["before"] != row["customers"]:
            change = rendering.signed(row["customers"] - row["before"], words.locale)
            facts.append(words.say("chart.segment_fact_moved", row["customers"], change=change, **values))
        else:
            facts.append(words.say("chart.segment_fact", row["customers"], **values))
    caption = words.say("chart.segments_change" if compared else "chart.segments")
    alt = words.say("chart.segments_alt", facts=", ".join(facts))
    return _picture("segments", counted, caption, alt, words.locale)


# --- tables


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a frame, by column name."""
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def _dash(value: Any, write: Any, words: Words) -> str:
    return str(words.report["none"]) if pd.isna(value) else str(write(value))


def _month_rows(told: sales.Sales, words: Words) -> list[dict[str, str]]:
    usual = dict(zip(told.seasons["month"], told.seasons["share"], strict=True)) if len(told.seasons) else {}
    rows = []
    for row in _records(told.months):
        name = words.month(row["month"])
        before = row["amount_before"]
        rows.append(
            {
                "name": words.say("month_until", month=name, day=told.as_of.day) if row["is_partial"] else name,
                "amount": words.euros(row["amount"]),
                "before": _dash(before, words.euros, words),
                "change": words.change(row["amount"] / before - 1, 0)
                if pd.notna(before) and before > 0
                else str(words.report["none"]),
                "orders": words.number(row["orders"]),
                "orders_before": _dash(row["orders_before"], words.number, words),
                "usual": words.percent(usual[row["month"].month]) if usual else "",
            }
        )
    return rows


def _segment_name(code: str, words: Words) -> str:
    own = {NEW: "new_customer", GONE: "gone_customer"}
    return words.say(own[code]) if code in own else words.of("segment", code)


def _changed(movements: pd.DataFrame) -> pd.DataFrame:
    """Changes of segment first, then who came and who went."""
    passing = (movements["segment_from"] == NEW) | (movements["segment_to"] == GONE)
    return pd.concat([movements[~passing], movements[passing]])


def _cluster_sentence(report: WeeklyReport, words: Words) -> str:
    """Who changed group; newcomers and those gone are no change of habits."""
    ways = report.cluster_movements
    ways = ways[~ways["from_id"].isin([NEW]) & ~ways["to_id"].isin([GONE])]
    if ways.empty:
        return ""
    total, first = int(ways["customers"].sum()), ways.iloc[0]
    return words.say(
        "cluster_moves_only" if len(ways) == 1 else "cluster_moves_way",
        int(first["customers"]),
        moved=words.say("cluster_moves", total),
        **{
            "from": cluster_label(first["from_name"], words.locale),
            "to": cluster_label(first["to_name"], words.locale),
        },
    )


def _cluster_rows(clusters: pd.DataFrame, words: Words) -> list[dict[str, str]]:
    return [
        {
            "name": cluster_label(row["cluster_name"], words.locale),
            "customers": words.number(row["customers"]),
            "share": words.percent(row["share"]),
            "before": _dash(row["before"], words.number, words),
            "frequency": words.number(row["frequency"], "#,##0.#"),
            "monetary": words.euros(row["monetary"]),
        }
        for row in _records(clusters)
    ]


def _risk_rows(report: WeeklyReport, words: Words) -> list[dict[str, str]]:
    rows = []
    for row in _records(report.at_risk_top):
        rhythm = row["mean_interval_days"]
        days = 0 if pd.isna(rhythm) else round(rhythm)
        rows.append(
            {
                "name": row["name"],
                "code": row["client_code"],
                "last_order": _dash(row["last_order_date"], words.day, words),
                "rhythm": words.say("rhythm_days", max(1, days)) if pd.notna(rhythm) else words.say("one_order"),
                "silent": _dash(row["silent_days"], lambda value: words.say("days", int(value)), words),
                "spend": _dash(row["monetary"], words.euros, words),
                "expected": _dash(row["expected"], words.euros, words),
            }
        )
    return rows


def _risk_sentences(report: WeeklyReport, words: Words) -> list[str]:
    if not report.at_risk:
        return [words.say("at_risk_none")]
    said = [words.say("at_risk_count", report.at_risk)]
    before = report.previous.at_risk if report.previous else None
    if before is not None:
        key = "more" if report.at_risk > before else "fewer" if report.at_risk < before else "same"
        said.append(words.say(f"at_risk_{key}", abs(report.at_risk - before)))
    if len(report.at_risk_top) and len(report.at_risk_top) < report.at_risk:
        said.append(words.say("at_risk_top", len(report.at_risk_top)))
    return said


def _anomaly_rows(report: WeeklyReport, words: Words) -> list[dict[str, str]]:
    rows = []
    for row in _records(report.anomalies):
        measure = row["measure"]
        write = words.euros if measure in _EUROS else words.number
        rows.append(
            {
                "who": row["name"] or row["client_code"] or row["label"] or words.say("the_estate"),
                "code": row["client_code"] if row["name"] else "",
                "what": words.say(
                    f"anomaly_sentence.{measure}", measured=write(row["measured"]), expected=write(row["expected"])
                ),
                "value": words.euros(row["value"]),
            }
        )
    return rows


def _rate(part: float, whole: float, words: Words) -> str:
    """A count with its rate: 12 (4,8 %)."""
    return words.number(part) + (f" ({words.percent(part / whole)})" if whole else "")


def _uplift(row: Mapping[str, Any], words: Words) -> str:
    """What the message brought against the control group; until that is final, when it will be told."""
    if pd.isna(row["uplift"]):
        return (
            "" if row["is_final"] or not row["holdout"] else words.say("uplift_later", day=words.day(row["final_on"]))
        )
    points: dict[str, Any] = {name: rendering.signed(100 * row[name], words.locale, "#,##0.0") for name in _POINTS}
    said = words.say(
        "uplift",
        treated=words.number(row["treated_ordered"]),
        treated_of=words.number(row["treated"]),
        control=words.number(row["held_out_ordered"]),
        control_of=words.number(row["held_out"]),
        **points,
    )
    return said if row["uplift_low"] > 0 or row["uplift_high"] < 0 else f"{said} {words.say('uplift_by_chance')}"


def _campaign_rows(report: WeeklyReport, words: Words) -> list[dict[str, Any]]:
    rows = []
    for row in _records(report.campaigns):
        sold = words.say(
            "sold",
            row["ordered"],
            share=words.percent(row["ordered"] / row["sent"]),
            converted=words.number(row["converted"]),
            amount=words.euros(row["revenue_ht"]),
        )
        rows.append(
            {
                "campaign": row["campaign"],
                "occurrence": _occurrence(row["occurrence"], words),
                "sent_on": words.day(row["last_sent_on"]),
                "sent": words.number(row["sent"]),
                **{name: _rate(row[name], row["sent"], words) for name in ("delivered", "bounced")},
                **{name: _rate(row[name], row["delivered"], words) for name in ("opened", "clicked", "unsubscribed")},
                "sold": f"{sold} {_uplift(row, words)}".strip(),
                "arms": [_arm_sentence(measure, of_it, words) for measure, of_it in _arms_of(report, row)],
                "not_final": "" if row["is_final"] else words.say("not_final", day=words.day(row["final_on"])),
            }
        )
    return rows


def _arms_of(report: WeeklyReport, row: dict[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    """The arms of a campaign, by measure; nothing without an A/B test."""
    mine = report.arms[(report.arms["campaign"] == row["campaign"]) & (report.arms["occurrence"] == row["occurrence"])]
    return [(str(measure), _records(of_it)) for measure, of_it in mine.groupby("measure", sort=True)]


def _arm_sentence(measure: str, arms: list[dict[str, Any]], words: Words) -> str:
    """Each arm's share, and where it is more than another's beyond chance."""
    shares = [
        words.say("arm_share", arm=arm["arm"], share=words.percent(arm["share"]), sent=words.number(arm["sent"]))
        for arm in arms
    ]
    more = [words.say("arm_more", more=arm["arm"], less=less) for arm in arms for less in arm["more_than"]]
    verdict = words.say("arms_differ", pairs=", ".join(more)) if more else words.say("uplift_by_chance")
    return words.say(f"arms_{measure}", shares=", ".join(shares), verdict=verdict)


def _quarter_sentence(report: WeeklyReport, words: Words) -> str:
    """What all campaigns of the newest final quarter brought together."""
    if report.quarter is None:
        return ""
    year, number = str(report.quarter["quarter"]).split("Q")
    first = date(int(year), 3 * int(number) - 2, 1)
    name = str(rendering.format_date(first, "QQQ y", locale=words.locale))
    return words.say("quarter_together", quarter=name, effect=_uplift(report.quarter, words))


def _occurrence(occurrence: str, words: Words) -> str:
    return words.say("once") if occurrence == "once" else occurrence


def _files_sentence(report: WeeklyReport, words: Words) -> str:
    count = len(report.files) + report.more_files
    if report.previous is None:
        return words.say("all_files" if count else "no_files", count)
    return words.say("new_files" if count else "no_new_files", count, day=words.day(report.since))


def _file_reason(reason: Any, words: Words) -> dict[str, str]:
    """Why a file was not read, in the estate's language; what nobody has translated stays as landing says it."""
    if not isinstance(reason, str):
        return {"reason": "", "untranslated": ""}
    said = next((said for part, said in words.report["file_reason"].items() if part in reason), "")
    return {"reason": said, "untranslated": "" if said else reason}


def _quality_rows(report: WeeklyReport, words: Words) -> list[dict[str, str]]:
    rows = []
    for row in _records(report.quality):
        check = words.all["check"].get(row["check_code"], {"name": row["check_code"], "measures": ""})
        rows.append(
            {
                "name": check["name"],
                "measures": check["measures"],
                "code": row["check_code"],
                "measured": words.percent(row["ratio"]),
                "tolerance": words.percent(row["tolerance"], 0),
                "score": words.number(row["score"], "0.0"),
            }
        )
    return rows


def _contents(report: WeeklyReport, words: Words) -> dict[str, Any]:
    """The values of the page that are words: the template adds structure only."""
    projection, how = _projection(report.sales, words)
    blocked = [
        {
            "kind": kind,
            "name": words.say(f"kind.{kind}"),
            "rows": [
                {
                    "code": row["code"],
                    "words": words.of("reason", row["code"]) if row["code"] else words.say("no_reason"),
                    "customers": words.number(row["customers"]),
                    "value": int(row["customers"]),
                }
                for row in _records(rows)
            ],
        }
        for kind, rows in report.blocked.groupby("kind", sort=False)
    ]
    pending = report.blocked.loc[report.blocked["code"] == "REVIEW_PENDING", "customers"].sum()
    n_blocked = int(report.blocked["customers"].sum())
    return {
        "light": _light(report, words),
        "planned": _planned(report, words),
        "tiles": _tiles(report, words),
        "foretold": _foretold(report, words),
        "changes": changes(report, words),
        "changes_title": words.say("since", day=words.day(report.since)) if report.previous else words.say("this_week"),
        "scenarios": [
            {
                "name": words.of("scenario", row["scenario"]),
                "customers": words.number(row["customers"]),
                "wines": [f"{label} ({words.number(count)})" for label, count in row["wines"]],
                "example": words.say("example_of" if row["name"] else "example_nameless", 0, **_example(row))
                if row["reason"]
                else "",
            }
            for row in _records(report.scenarios)
        ],
        "contacts_sentence": words.say(
            "contacts_sentence",
            report.n_eligible,
            permitted=words.number(report.n_permitted),
            total=words.number(report.n_customers),
        ),
        "batches": [{**row, "occurrence": _occurrence(row["occurrence"], words)} for row in _records(report.batches)],
        "has_holdout": bool(report.batches["holdout"].sum()),
        "blocked": blocked,
        "blocked_sentence": words.say("not_contacted_sentence", n_blocked) if n_blocked else words.say("everybody"),
        "pending": words.say("review_pending", int(pending)) if pending else "",
        "sales_sentences": _sales_sentences(report.sales, words) if report.sales.first_day else [],
        "projection": projection,
        "projection_note": how,
        "season": _season(report.sales, words, "high_season", 0),
        "pictures": _sales_pictures(report.sales, words),
        "months": _month_rows(report.sales, words) if report.sales.first_day else [],
        "segments_picture": _segments_picture(report.segments, words),
        "has_before": bool(report.segments["before"].notna().any()),
        "movements": [
            {
                "from": _segment_name(row["segment_from"], words),
                "to": _segment_name(row["segment_to"], words),
                "customers": words.number(row["customers"]),
            }
            for row in _records(_changed(report.movements).head(_MOVEMENTS))
        ],
        "clusters": [
            {"name": words.of("population", str(population)), "rows": _cluster_rows(rows, words)}
            for population, rows in report.clusters.groupby("population", sort=True)
        ],
        "clusters_compared": bool(report.clusters["before"].notna().any()),
        "cluster_sentence": _cluster_sentence(report, words),
        "risk_sentences": _risk_sentences(report, words),
        "risk": _risk_rows(report, words),
        "anomaly_counts": [
            {
                "name": words.say(f"anomaly_kind.{row['kind']}"),
                "found": words.number(row["found"]),
                "examined": words.number(row["examined"]),
                "value": words.euros(row["value"]),
                "is_over": bool(row["is_over"]),
            }
            for row in _records(report.anomaly_counts[report.anomaly_counts["found"] > 0])
        ],
        "anomalies": _anomaly_rows(report, words),
        "campaigns": _campaign_rows(report, words),
        "quarter_sentence": _quarter_sentence(report, words),
        "campaigns_note": words.say("campaigns_note", days=report.conversion_days),
        "files_sentence": _files_sentence(report, words),
        "files": [
            {
                "path": row["path"].rsplit("/", 1)[-1],
                "status": words.of("file_status", row["status"]),
                **_file_reason(row["reason"], words),
                "rows": _dash(row["rows"], words.number, words),
                "refused": words.number(row["refused"]),
            }
            for row in _records(report.files)
        ],
        "more_files": words.say("more_files" if report.more_files_fine else "more_files_wrong", report.more_files)
        if report.more_files
        else "",
        "refused_sentence": words.say(
            "refused_sentence" if report.refused_rows else "refused_none", report.refused_rows
        ),
        "refused": [
            {
                "code": row["code"],
                "words": words.report["refusal"].get(row["code"], row["code"]),
                "rows": words.number(row["rows"]),
            }
            for row in _records(report.refused)
        ],
        "quality_sentence": words.say(
            "quality_sentence",
            score=words.number(report.data_quality_score, "0.0"),
            minimum=words.number(report.min_quality),
        ),
        "quality": _quality_rows(report, words),
    }


def _example(row: dict[str, Any]) -> dict[str, Any]:
    # French signs that stand apart never begin a line.
    reason = re.sub(r" ([;:?!»])", "\u00a0\\1", str(row["reason"]))
    return {"name": row["name"], "code": row["code"], "reason": reason}


def title_of(report: WeeklyReport, locale: str) -> str:
    """What the report is called: of a document's properties, of an e-mail."""
    words = Words(locale)
    return f"{report.estate} – {words.say('title')}, {words.day(report.as_of)}"


def html_of(report: WeeklyReport, locale: str) -> str:
    """The page, in that language. The same report gives the same bytes."""
    template = rendering.environment(locale).get_template(TEMPLATE)
    return template.render(
        report=report, title=title_of(report, locale), colours=charts, **_contents(report, Words(locale))
    )
