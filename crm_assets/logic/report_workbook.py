"""The weekly and the monthly report as workbooks: their tables to sort and filter, with charts that stay alive.

A sheet is one table under its title, its header in view, its columns as wide as what stands in them, ready to print.
All text is inert: a name that begins like a formula stays a name. What is told is decided in `logic/reports.py` and
`logic/monthly_reports.py`; wording is in `templates/monthly_<locale>.yaml` (`workbook`). No folder and no clock here.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

import pandas as pd

from crm_assets import charts as colours
from crm_assets import rendering
from crm_assets.logic.mended import guard
from crm_assets.logic.monthly_page import MonthWords
from crm_assets.logic.monthly_reports import UPLIFT, MonthlyReport
from crm_assets.logic.report_page import cluster_label
from crm_assets.logic.reports import WeeklyReport

if TYPE_CHECKING:
    from xlsxwriter.workbook import Workbook
    from xlsxwriter.worksheet import Worksheet

# What the format allows; Excel refuses a longer text in a cell.
_MAX_CELL = 32_767
_NARROWEST, _WIDEST = 9, 60  # letters
_HEAD, _FIRST = 3, 4  # rows: the table's header, its first row
_CHART_WIDTH, _CHART_HEIGHT = 620, 330  # pixels
_LANDSCAPE_A4 = 9
_DAYS = {"fr": "dd/mm/yyyy", "en": "dd/mm/yyyy", "de": "dd.mm.yyyy"}
_EUROS = {"fr": '#,##0\u00a0"€"', "en": '"€"#,##0', "de": '#,##0\u00a0"€"'}
# A month's name in the reader's language, whatever the program's.
_MONTHS = {"fr": "[$-40C]mmm yyyy", "en": "[$-809]mmm yyyy", "de": "[$-407]mmm yyyy"}
# Letters that a column of numbers needs.
_NUMBER_WIDTH = {"count": 9, "signed": 9, "number": 9, "euros": 12, "percent": 9, "change": 10, "score": 8, "day": 12}
_LINE_HEIGHT = 15  # points: not every program works a row's height out from wrapped text
_ROWS_OF_A_PAGE, _PAGE_WIDTH = 40, 180  # rows, letters: more would be too small to read
_ROOM = 75  # letters: charts stand right of a table that leaves room on the page, else below it
_PERCENT = {"fr": "0.0\u00a0%", "en": "0.0%", "de": "0.0\u00a0%"}


@dataclass(frozen=True)
class Column:
    """A column: `kind` is text, wrapped, count, number, euros, percent, change (signed
    percent), score, day, month, or mixed: pairs of a value and its kind."""

    header: str
    kind: str
    values: Sequence[Any]


@dataclass(frozen=True)
class Chart:
    """A chart of a sheet's own columns, by their places: `kind` column, bar or line."""

    kind: str
    title: str
    categories: int
    series: Sequence[int]
    alt: str


@dataclass(frozen=True)
class Sheet:
    """One table: `shade` colours its percentages from there on, light to dark."""

    name: str
    title: str
    columns: Sequence[Column]
    note: str = ""
    charts: Sequence[Chart] = ()
    shade: int | None = None

    @property
    def rows(self) -> int:
        return len(self.columns[0].values) if self.columns else 0


class Headers:
    """The words of a workbook in one language."""

    def __init__(self, locale: str) -> None:
        self.words = MonthWords(locale)
        self.locale = locale
        self.own: dict[str, Any] = self.words.all["workbook"]

    def column(self, name: str, kind: str, values: Iterable[Any], header: str | None = None) -> Column:
        return Column(header or self.own["columns"][name], kind, list(values))

    def of(self, group: str, codes: Iterable[Any]) -> list[str]:
        names = self.words.all[group]
        return [str(names.get(code, code)) for code in codes]

    def sheet(self, key: str, columns: Sequence[Column], charts: Sequence[Chart] = (), **more: Any) -> Sheet:
        said = self.own["sheets"][key]
        return Sheet(said["name"], said["title"], columns, said.get("note", ""), charts, **more)

    def chart(self, key: str, kind: str, categories: int, series: Sequence[int], columns: Sequence[Column]) -> Chart:
        """A chart with its title, and its figures in words for those who cannot see it."""
        facts = []
        for place, name in enumerate(columns[categories].values):
            values = [columns[of].values[place] for of in series]
            said = ", ".join(self._said(value, columns[of].kind) for value, of in zip(values, series, strict=True))
            facts.append(f"{_month_name(name, self.locale)} {said}")
        title = self.own["charts"][key]
        return Chart(kind, title, categories, series, f"{title}: {'; '.join(facts)}.")

    def bars(self, key: str, series: Sequence[int], columns: Sequence[Column]) -> list[Chart]:
        """The series by what the first column names, as bars; nothing where there are no rows."""
        return [self.chart(key, "bar", 0, series, columns)] if columns[0].values else []

    def _said(self, value: Any, kind: str) -> str:
        if _is_blank(value):
            return "–"
        if kind == "euros":
            return rendering.whole_euros(float(value), self.locale)
        return rendering.number(float(value), self.locale, "#,##0")


def _month_name(value: Any, locale: str) -> str:
    return rendering.month_year(value, locale) if isinstance(value, date) else str(value)


def _is_blank(value: Any) -> bool:
    return value is None or (not isinstance(value, (str, list)) and pd.isna(value))


# --- the weekly report


def weekly_workbook(report: WeeklyReport, locale: str, made_at: datetime) -> bytes:
    """The weekly report as XLSX. The same report and moment give the same bytes."""
    said = Headers(locale)
    subtitle = f"{report.estate} · {said.words.say('as_of', day=said.words.day(report.as_of))}"
    summary = _weekly_summary(report, said)
    sheets = [
        _weekly_sales(report, said),
        _to_send(report, said),
        _blocked(report, said),
        _segments(report.segments, said, "week_before"),
        _movements(report.movements, said),
        _clusters(report, said),
        _at_risk(report, said),
        _signals(report.anomalies, said),
        _campaigns(report.campaigns, said),
        _weekly_files(report, said),
        _refused(report.refused, said),
        _quality(report.quality, said),
    ]
    return _written(summary, sheets, said, subtitle, made_at)


def _weekly_summary(report: WeeklyReport, said: Headers) -> Sheet:
    own = said.own["facts"]
    sales = report.sales
    rows: list[tuple[str, Any, str]] = [
        (own["light"], own["open"] if report.is_open else own["closed"], "word"),
        (own["eligible"], report.n_eligible, "count"),
        (own["permitted"], report.n_permitted, "count"),
        (own["known"], report.n_customers, "count"),
        (own["planned"], report.planned_messages, "count"),
        (own["sales_week"], sales.week.now.amount, "euros"),
        (own["sales_month"], sales.month.now.amount, "euros"),
        (own["sales_rolling"], sales.rolling.now.amount, "euros"),
        (own["sales_rolling_before"], sales.rolling.before.amount if sales.rolling.before else None, "euros"),
        (own["change"], sales.rolling.change, "change"),
    ]
    # A year that is over needs no projection.
    if sales.projection is not None and sales.projection.expected > sales.projection.to_date:
        rows += [
            (own["expected"], sales.projection.expected, "euros"),
            (own["expected_low"], sales.projection.low, "euros"),
            (own["expected_high"], sales.projection.high, "euros"),
        ]
    rows += [
        (own["new_customers"], report.new_customers, "count"),
        (own["at_risk"], report.at_risk, "count"),
        (own["refused_rows"], report.refused_rows, "count"),
        (own["quality"], report.data_quality_score, "score"),
    ]
    return _facts(said, "weekly", rows)


def _facts(said: Headers, key: str, rows: list[tuple[str, Any, str]]) -> Sheet:
    names = Column(said.own["columns"]["fact"], "text", [row[0] for row in rows])
    values = Column(said.own["columns"]["value"], "mixed", [(row[1], row[2]) for row in rows])
    return said.sheet(key, [names, values])


def _weekly_sales(report: WeeklyReport, said: Headers) -> Sheet:
    columns = _sales_columns(report.sales.months, said)
    return said.sheet("sales", columns, _sales_charts(said, columns))


def _sales_columns(months: pd.DataFrame, said: Headers) -> list[Column]:
    """Months beside the same months a year before."""
    change = months["amount"] / months["amount_before"].where(months["amount_before"] > 0) - 1
    return [
        said.column("month", "month", months["month"]),
        said.column("amount", "euros", months["amount"]),
        said.column("amount_before", "euros", months["amount_before"]),
        said.column("change", "change", change),
        said.column("orders", "count", months["orders"]),
        said.column("orders_before", "count", months["orders_before"]),
    ]


def _sales_charts(said: Headers, columns: Sequence[Column]) -> list[Chart]:
    """Months beside the year before as columns, orders as lines."""
    orders = [place for place, column in enumerate(columns) if column.kind == "count"][:2]
    return [
        said.chart("months", "column", 0, [2, 1], columns),
        said.chart("orders", "line", 0, orders[::-1], columns),
    ]


def _to_send(report: WeeklyReport, said: Headers) -> Sheet:
    frame = report.scenarios
    columns = [
        said.column("scenario", "text", said.of("scenario", frame["scenario"])),
        said.column("customers", "count", frame["customers"]),
        said.column("wines", "wrapped", [", ".join(f"{name} ({n})" for name, n in wines) for wines in frame["wines"]]),
        said.column("code", "text", frame["code"]),
        said.column("name", "text", frame["name"]),
        said.column("why", "wrapped", frame["reason"]),
    ]
    return said.sheet("to_send", columns, said.bars("scenarios", [1], columns))


def _blocked(report: WeeklyReport, said: Headers) -> Sheet:
    frame = report.blocked
    columns = [
        said.column("reason", "wrapped", said.of("reason", frame["code"])),
        said.column("kind", "text", [said.own["kinds"].get(kind, kind) for kind in frame["kind"]]),
        said.column("rule", "text", frame["code"]),
        said.column("customers", "count", frame["customers"]),
    ]
    return said.sheet("blocked", columns, said.bars("blocked", [3], columns))


def _segment_names(said: Headers, codes: Iterable[str]) -> list[str]:
    weekly = said.words.weekly
    names = {**said.words.all["segment"], "New": weekly["new_customer"], "Gone": weekly["gone_customer"]}
    return [str(names.get(code, code)) for code in codes]


def _segments(frame: pd.DataFrame, said: Headers, before: str) -> Sheet:
    columns = [
        said.column("segment", "text", _segment_names(said, frame["segment"])),
        said.column("customers", "count", frame["customers"]),
        said.column(before, "count", frame["before"]),
        said.column("difference", "signed", frame["customers"] - frame["before"]),
    ]
    return said.sheet("segments", columns, said.bars("segments", [1], columns))


def _movements(frame: pd.DataFrame, said: Headers) -> Sheet:
    columns = [
        said.column("from", "text", _segment_names(said, frame["segment_from"])),
        said.column("to", "text", _segment_names(said, frame["segment_to"])),
        said.column("customers", "count", frame["customers"]),
    ]
    return said.sheet("movements", columns)


def _clusters(report: WeeklyReport, said: Headers) -> Sheet:
    frame = report.clusters
    columns = [
        said.column("population", "text", said.of("population", frame["population"])),
        said.column("cluster", "text", [cluster_label(name, said.locale) for name in frame["cluster_name"]]),
        said.column("customers", "count", frame["customers"]),
        said.column("share", "percent", frame["share"]),
        said.column("week_before", "count", frame["before"]),
        said.column("orders_median", "number", frame["frequency"]),
        said.column("spend_median", "euros", frame["monetary"]),
    ]
    return said.sheet("clusters", columns)


def _at_risk(report: WeeklyReport, said: Headers) -> Sheet:
    frame = report.at_risk_top
    columns = [
        said.column("code", "text", frame["client_code"]),
        said.column("name", "text", frame["name"]),
        said.column("last_order", "day", frame["last_order_date"]),
        said.column("rhythm", "count", frame["mean_interval_days"]),
        said.column("silent", "count", frame["silent_days"]),
        said.column("spend", "euros", frame["monetary"]),
        said.column("expected", "euros", frame["expected"]),
    ]
    return said.sheet("at_risk", columns)


def _signals(frame: pd.DataFrame, said: Headers) -> Sheet:
    """What left its habit; the estate where it is about no customer and no wine."""
    estate = said.own["the_estate"]
    subject = [name or label or estate for name, label in zip(frame["name"], frame["label"], strict=True)]
    columns = [
        said.column("signal", "wrapped", [said.words.weekly["anomaly_kind"].get(kind, kind) for kind in frame["kind"]]),
        said.column("subject", "text", subject),
        said.column("code", "text", frame["client_code"]),
        said.column("measure", "text", [said.own["measures"].get(code, code) for code in frame["measure"]]),
        said.column("measured", "number", frame["measured"]),
        said.column("usual", "number", frame["expected"]),
        said.column("at_stake", "euros", frame["value"]),
    ]
    return said.sheet("signals", columns)


def _campaigns(frame: pd.DataFrame, said: Headers) -> Sheet:
    """Counts and rates with what they are of: sent for delivered, bounced and ordered, delivered for the others."""

    def rate(part: str, whole: str) -> pd.Series:
        return frame[part] / frame[whole].where(frame[whole] > 0)

    once = said.words.weekly["once"]
    columns = [
        said.column("campaign", "text", frame["campaign"]),
        said.column("occurrence", "text", [once if name == "once" else name for name in frame["occurrence"]]),
        said.column("sent_on", "day", frame["last_sent_on"]),
        said.column("sent", "count", frame["sent"]),
        said.column("delivered", "count", frame["delivered"]),
        said.column("delivered_rate", "percent", rate("delivered", "sent")),
        said.column("opened", "count", frame["opened"]),
        said.column("opened_rate", "percent", rate("opened", "delivered")),
        said.column("clicked", "count", frame["clicked"]),
        said.column("clicked_rate", "percent", rate("clicked", "delivered")),
        said.column("bounced", "count", frame["bounced"]),
        said.column("unsubscribed", "count", frame["unsubscribed"]),
        said.column("ordered", "count", frame["ordered"]),
        said.column("ordered_rate", "percent", rate("ordered", "sent")),
        said.column("amount", "euros", frame["revenue_ht"]),
        said.column("holdout", "count", frame["holdout"]),
    ]
    for name in UPLIFT:
        columns.append(said.column(name, "change", frame[name]))
    columns.append(said.column("final_on", "day", frame["final_on"]))
    columns.append(
        said.column(
            "state", "text", [said.own["facts"]["final" if final else "open_end"] for final in frame["is_final"]]
        )
    )
    return said.sheet("campaigns", columns)


def _datasets(said: Headers, codes: Iterable[Any]) -> list[str]:
    known = said.words.all["mapping"]["datasets"]
    return [name[:1].upper() + name[1:] for name in (known.get(code, "") for code in codes)]


def _weekly_files(report: WeeklyReport, said: Headers) -> Sheet:
    frame = report.files
    columns = [
        said.column("file", "text", frame["path"]),
        said.column("dataset", "text", _datasets(said, frame["dataset"])),
        said.column("status", "text", said.of("file_status", frame["status"])),
        said.column("rows", "count", frame["rows"]),
        said.column("refused", "count", frame["refused"]),
        said.column("why", "wrapped", frame["reason"]),
    ]
    return said.sheet("files", columns)


def _refused(frame: pd.DataFrame, said: Headers) -> Sheet:
    reasons = said.words.weekly["refusal"]
    columns = [
        said.column("reason", "text", [reasons.get(code, code) for code in frame["code"]]),
        said.column("rule", "text", frame["code"]),
        said.column("rows", "count", frame["rows"]),
    ]
    return said.sheet("refused", columns, said.bars("refused", [2], columns))


def _quality(frame: pd.DataFrame, said: Headers) -> Sheet:
    checks = said.words.all["check"]
    known = [checks.get(code, {"name": code, "measures": ""}) for code in frame["check_code"]]
    columns = [
        said.column("check", "text", [check["name"] for check in known]),
        said.column("what", "wrapped", [check["measures"] for check in known]),
        said.column("rule", "text", frame["check_code"]),
        said.column("measured", "percent", frame["ratio"]),
        said.column("tolerance", "percent", frame["tolerance"]),
        said.column("score", "score", frame["score"]),
    ]
    if "worst" in frame:
        columns.append(said.column("worst", "score", frame["worst"]))
    return said.sheet("quality", columns)


# --- the monthly report


def monthly_workbook(report: MonthlyReport, locale: str, made_at: datetime) -> bytes:
    """The monthly report as XLSX. The same report and moment give the same bytes."""
    said = Headers(locale)
    words = said.words
    as_of = words.say("as_of", day=words.day(report.as_of))
    subtitle = f"{report.estate} · {words.title_month(report.month)} · {as_of}"
    sheets = [_monthly_sales(report, said), _families(report, said), _wines(report, said)]
    if report.is_current:
        sheets += [
            _segments(report.segments, said, "month_before"),
            _movements(report.movements, said),
            _cohorts(report, said),
        ]
    sheets += [
        _campaigns(report.campaigns, said),
        _monthly_files(report, said),
        _refused(report.refused, said),
        _quality(report.quality, said),
    ]
    if report.is_current:
        sheets += [_signals(report.to_do, said), _low_stock(report, said)]
    return _written(_monthly_summary(report, said), sheets, said, subtitle, made_at)


def _monthly_summary(report: MonthlyReport, said: Headers) -> Sheet:
    frame, names = report.figures, said.words.report["measure"]
    kinds = {"revenue_ht": "euros", "average_order_value": "euros"}
    year = str(report.month.year - 1)
    columns = [Column(said.own["columns"]["fact"], "text", [names[measure] for measure in frame["measure"]])]
    month, this_year = said.words.title_month(report.month), said.own["columns"]["year"]
    for now, before, header in (("value", "before", month), ("year", "year_before", this_year)):
        change = frame[now] / frame[before].where(frame[before] > 0) - 1
        for column, title in ((now, header), (before, f"{header} ({year})")):
            of = frame[["measure", column]].itertuples(index=False)
            columns.append(Column(title, "mixed", [(value, kinds.get(measure, "count")) for measure, value in of]))
        columns.append(said.column("change", "change", change))
    return said.sheet("monthly", columns)


def _monthly_sales(report: MonthlyReport, said: Headers) -> Sheet:
    months = report.months
    columns = [
        *_sales_columns(months, said),
        said.column("customers", "count", months["customers"]),
        said.column("average", "euros", months["average_order_value"]),
        said.column("bottles", "count", months["bottles"]),
    ]
    return said.sheet("sales", columns, _sales_charts(said, columns))


def _families(report: MonthlyReport, said: Headers) -> Sheet:
    frame = report.families
    columns = [
        said.column("family", "text", [name or said.words.report["no_family"] for name in frame["family"]]),
        said.column("amount", "euros", frame["revenue_ht"]),
        said.column("amount_before", "euros", frame["before"]),
        said.column("change", "change", frame["change"]),
        said.column("bottles", "count", frame["bottles"]),
        said.column("share", "percent", frame["share"]),
        said.column("change_12m", "change", frame["change_12m"]),
    ]
    return said.sheet("families", columns, said.bars("families", [2, 1], columns))


def _wines(report: MonthlyReport, said: Headers) -> Sheet:
    frame = pd.concat([report.risers, report.fallers.iloc[::-1]], ignore_index=True)
    columns = [
        said.column("wine", "text", frame["label"]),
        said.column("family", "text", frame["family"]),
        said.column("difference", "euros", frame["difference"]),
        said.column("amount", "euros", frame["revenue_ht"]),
        said.column("amount_before", "euros", frame["before"]),
        said.column("bottles", "count", frame["bottles"]),
        said.column("bottles_before", "count", frame["bottles_before"]),
        said.column("months_of_stock", "number", frame["months_of_stock"]),
    ]
    return said.sheet("wines", columns, said.bars("wines", [2], columns))


def _cohorts(report: MonthlyReport, said: Headers) -> Sheet:
    frame = report.cohorts
    later = frame[frame["quarters_since"] > 0]
    table = later.pivot_table(index="cohort", columns="quarters_since", values="retention", aggfunc="first")
    sizes = frame.drop_duplicates("cohort").set_index("cohort")["customers"].reindex(table.index)
    columns = [
        said.column("cohort", "text", [said.words.quarter(pd.Timestamp(day).date()) for day in table.index]),
        said.column("customers", "count", sizes),
        *(Column(said.words.say("quarters", int(n)), "percent", table[n].tolist()) for n in table.columns),
    ]
    return said.sheet("cohorts", columns, shade=2)


def _monthly_files(report: MonthlyReport, said: Headers) -> Sheet:
    frame = report.files
    columns = [
        said.column("dataset", "text", _datasets(said, frame["dataset"])),
        said.column("files", "count", frame["files"]),
        said.column("rows", "count", frame["rows"]),
        said.column("refused", "count", frame["refused"]),
        said.column("refused_share", "percent", frame["refused"] / frame["rows"].where(frame["rows"] > 0)),
    ]
    return said.sheet("files", columns)


def _low_stock(report: MonthlyReport, said: Headers) -> Sheet:
    frame = report.low_stock
    columns = [
        said.column("wine", "text", frame["label"]),
        said.column("stock", "count", frame["bottles"]),
        said.column("months_of_stock", "number", frame["months_of_stock"]),
    ]
    return said.sheet("low_stock", columns)


# --- the file


def _written(summary: Sheet, sheets: Sequence[Sheet], said: Headers, subtitle: str, made_at: datetime) -> bytes:
    import xlsxwriter

    target = io.BytesIO()
    book: Workbook = xlsxwriter.Workbook(target, {"strings_to_formulas": False, "strings_to_urls": False})
    book.set_properties(
        {"title": f"{summary.title} – {subtitle}", "created": made_at.replace(tzinfo=None), "comments": summary.note}
    )
    writer = _Writer(book, said, subtitle)
    first = writer.add(summary)
    for sheet in sheets:
        writer.add(sheet)
    # The sales of the months stand on the first page too.
    writer.draw(first, sheets[0], sheets[0].charts[:1], below=_FIRST + summary.rows + 2)
    first.fit_to_pages(1, 1)
    book.close()
    return target.getvalue()


class _Writer:
    """Sheets of one workbook: the same look for all."""

    def __init__(self, book: Workbook, said: Headers, subtitle: str) -> None:
        self._book, self._said, self._subtitle = book, said, subtitle
        numbers = {
            "text": "@",
            "wrapped": "@",
            "count": "#,##0",
            "signed": "+#,##0;\u2212#,##0;0",
            "number": "#,##0.0",
            "euros": f"{_EUROS[said.locale]};\u2212{_EUROS[said.locale]}",
            "percent": _PERCENT[said.locale],
            "change": f"+{_PERCENT[said.locale]};\u2212{_PERCENT[said.locale]};{_PERCENT[said.locale]}",
            "score": "0.0",
            "day": _DAYS[said.locale],
            "month": _MONTHS[said.locale],
            "word": "@",
        }
        line = {"bottom": 1, "bottom_color": colours.GRID, "valign": "top", "font_color": colours.INK}
        self._formats = {
            kind: book.add_format({**line, "num_format": number, "text_wrap": kind == "wrapped", "align": _align(kind)})
            for kind, number in numbers.items()
        }
        head = {"bold": True, "bottom": 2, "bottom_color": colours.WINE, "text_wrap": True, "valign": "bottom"}
        self._heads = {align: book.add_format({**head, "align": align}) for align in ("left", "right")}
        # Text beside a column of numbers stands off from them.
        self._heads["inner"] = book.add_format({**head, "align": "left", "indent": 1})
        for kind in ("text", "wrapped", "day"):
            self._formats[f"inner {kind}"] = book.add_format(
                {**line, "num_format": numbers[kind], "text_wrap": kind == "wrapped", "align": "left", "indent": 1}
            )
        self._title = book.add_format({"bold": True, "font_size": 14, "font_color": colours.WINE})
        self._muted = book.add_format({"font_color": colours.MUTED})

    def add(self, sheet: Sheet) -> Worksheet:
        """A sheet with its table and its charts."""
        page: Worksheet = self._book.add_worksheet(sheet.name)
        page.hide_gridlines(2)
        page.write_string(0, 0, sheet.title, self._title)
        page.write_string(1, 0, guard(self._subtitle), self._muted)
        page.write_string(2, 0, sheet.note, self._muted)
        widths = [self._width(column) for column in sheet.columns]
        lines = [_lines([column.header for column in sheet.columns], widths)]
        lines += [
            _lines([column.values[row] if column.kind == "wrapped" else "" for column in sheet.columns], widths)
            for row in range(sheet.rows)
        ]
        for row, needed in enumerate(lines, start=_HEAD):
            page.set_row(row, _LINE_HEIGHT * needed)
        for place, (column, width) in enumerate(zip(sheet.columns, widths, strict=True)):
            align = _align(_kind(column))
            head = "inner" if place and align == "left" else align
            page.write_string(_HEAD, place, guard(column.header), self._heads[head])
            for row, value in enumerate(column.values, start=_FIRST):
                cell, kind = value if column.kind == "mixed" else (value, column.kind)
                self._cell(page, row, place, cell, kind)
            page.set_column(place, place, width)
        if not sheet.rows:
            page.write_string(_FIRST, 0, self._said.own["nothing"], self._muted)
        else:
            page.autofilter(_HEAD, 0, _HEAD + sheet.rows, len(sheet.columns) - 1)
        if sheet.shade is not None and sheet.rows and len(sheet.columns) > sheet.shade:
            scale = {"type": "2_color_scale", "min_color": colours.PAPER, "max_color": "#C9A5AA"}
            page.conditional_format(_FIRST, sheet.shade, _HEAD + sheet.rows, len(sheet.columns) - 1, scale)
        page.freeze_panes(_FIRST, 1)
        self._print(page, sum(widths))
        if sum(widths) <= _ROOM:
            self.draw(page, sheet, sheet.charts, right=len(sheet.columns) + 1)
        else:
            self.draw(page, sheet, sheet.charts, below=_FIRST + sheet.rows + 1)
        if sheet.charts and sheet.rows <= _ROWS_OF_A_PAGE:
            page.fit_to_pages(1, 1)  # no chart is cut in two
        return page

    def _cell(self, page: Worksheet, row: int, place: int, value: Any, kind: str) -> None:
        style = self._formats.get(f"inner {kind}" if place else kind, self._formats[kind])
        if _is_blank(value):
            page.write_blank(row, place, None, style)
        elif kind in ("text", "wrapped", "word"):
            page.write_string(row, place, guard(str(value))[:_MAX_CELL], style)
        elif kind in ("day", "month"):
            page.write_datetime(row, place, pd.Timestamp(value).to_pydatetime(), style)
        else:
            page.write_number(row, place, float(value), style)

    def _width(self, column: Column) -> float:
        kind = _kind(column)
        # A filter's arrow takes some of the header's room; long headers are wrapped at their words.
        words = max((len(word) for word in column.header.split()), default=0) + 4
        longest = _NUMBER_WIDTH.get(kind, 0) or max((len(str(value)) + 2 for value in column.values), default=0)
        return float(min(max(longest, words, _NARROWEST), _WIDEST))

    def _print(self, page: Worksheet, width: float) -> None:
        page.set_landscape()
        page.set_paper(_LANDSCAPE_A4)
        page.set_margins(left=0.5, right=0.5, top=0.6, bottom=0.7)
        page.fit_to_pages(-(-int(width) // _PAGE_WIDTH), 0)
        page.repeat_columns(0)
        page.repeat_rows(_HEAD)
        page.set_footer("&L&8&A&R&8&P / &N")

    def draw(
        self, page: Worksheet, sheet: Sheet, charts: Sequence[Chart], *, right: int = 0, below: int = _HEAD
    ) -> None:
        """Charts of a sheet's table, one under the other, on a page of the book."""
        if not sheet.rows:
            return
        for number, chart in enumerate(charts):
            made = self._book.add_chart({"type": chart.kind})
            palette = [colours.STRAW, colours.WINE] if len(chart.series) == 2 else [colours.WINE]
            last = _HEAD + sheet.rows
            for place, colour in zip(chart.series, palette, strict=True):
                edge = colours.STRAW_EDGE if colour == colours.STRAW else colour
                look = {"line": {"color": edge, "width": 2.25}, "marker": {"type": "circle", "size": 5}}
                bars = {"fill": {"color": colour}, "border": {"color": edge}, "gap": 60, "overlap": 0}
                made.add_series(
                    {
                        "name": [sheet.name, _HEAD, place],
                        "categories": [sheet.name, _FIRST, chart.categories, last, chart.categories],
                        "values": [sheet.name, _FIRST, place, last, place],
                        **(look if chart.kind == "line" else bars),
                    }
                )
            made.set_title({"name": chart.title, "name_font": {"size": 12, "color": colours.INK}, "overlay": False})
            made.set_legend({"position": "none" if len(chart.series) == 1 else "bottom"})
            grid = {"major_gridlines": {"visible": True, "line": {"color": colours.GRID}}}
            values = {**grid, "num_format": self._axis(sheet, chart)}
            if chart.kind == "bar":
                made.set_y_axis({"reverse": True, "label_position": "low"})
                made.set_x_axis({**values, "label_position": "high"})
            else:
                months = {"num_format": _MONTHS[self._said.locale].removesuffix("yy"), "text_axis": True}
                made.set_x_axis(months if sheet.columns[chart.categories].kind == "month" else {})
                made.set_y_axis(values)
            height = _CHART_HEIGHT if chart.kind != "bar" else max(220, 90 + 26 * sheet.rows * len(chart.series))
            made.set_size({"width": _CHART_WIDTH, "height": height})
            row = below + number * (_CHART_HEIGHT // 20 + 2)
            page.insert_chart(row, right, made, {"description": chart.alt[:_MAX_CELL], "object_position": 2})

    def _axis(self, sheet: Sheet, chart: Chart) -> str:
        return _EUROS[self._said.locale] if sheet.columns[chart.series[0]].kind == "euros" else "#,##0"


def _lines(texts: Sequence[Any], widths: Sequence[float]) -> int:
    """The lines that the longest of the texts takes in its column, wrapped at its words."""
    wrapped = (textwrap.wrap(str(text), max(int(width) - 2, 1)) for text, width in zip(texts, widths, strict=True))
    return max((len(lines) for lines in wrapped), default=1) or 1


def _kind(column: Column) -> str:
    """What most of a column's values are: the facts of a summary are of several kinds."""
    return "euros" if column.kind == "mixed" else column.kind


def _align(kind: str) -> str:
    return "left" if kind in ("text", "wrapped", "day", "month") else "right"
