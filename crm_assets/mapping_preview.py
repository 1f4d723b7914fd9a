"""What an export would become, before anything is loaded: `crm mapping preview`. No database, nothing is written.

The report itself is `logic/mapping_report.py`; here a file is found, read and told in plain words, in the estate's
language (`templates/mapping_*.yaml`). What the reader has to say about a damaged file is in English.
"""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Iterable, Sequence
from datetime import date
from decimal import Decimal
from itertools import zip_longest
from pathlib import Path

import numpy as np
from babel.dates import format_date
from babel.numbers import format_decimal

from crm_assets import rendering
from crm_assets.logic.landing import (
    Profiler,
    RowMaker,
    SourceSpec,
    date_in_name,
    map_header,
    normalise_header,
    recognise,
)
from crm_assets.logic.mapping_report import Report, file_report
from crm_assets.logic.mended import as_export, own_dataset
from crm_assets.logic.reading import TableFile, UnreadableError, open_table
from crm_assets.rules import BusinessRules

SHOWN_ROWS = 3
MAX_WIDTH = {"header": 34, "cell": 26}
WRAP = 100
INDENT = "  "


def preview(
    path: Path, source: SourceSpec, rules: BusinessRules, *, dataset: str | None = None, root: Path | None = None
) -> Report:
    """The report of a local file, wherever it lies: that of `file_report`, with `file`, `verdict` and `recognised`.

    `dataset`: which one it is, by name or folder; else its place and name decide, below the drop folder `root` as
    landing has it; else the dataset that its header fits best, and `recognised` says so. ValueError: no such dataset.
    `verdict` {status, reason}: loads, or no_header, missing, empty, ragged, unreadable, unknown.
    """
    folders = [spec.folder for spec in source.datasets.values()]
    report: Report = {"file": path.name, "source_folder": source.folder, "folders": folders}
    found = recognise(_place(path, source, root), source)
    if dataset is not None:
        name: str | None = source.dataset_name(dataset)
        report["recognised"] = {"how": "option", "reason": None}
    else:
        name = found.dataset
        report["recognised"] = {"how": "path" if name else "guess", "reason": found.reason}
    try:
        table = open_table(path, rules.landing.workbook)
        if own := own_dataset(table.header, source):
            name, table = own, as_export(table, source.datasets[own])
            report["recognised"] = {"how": "own", "reason": None}
        name = name or _best_match(table, source)
        if name is None:
            report["recognised"]["how"] = "none"
            reason = f"{found.reason}; nor does its first line have a name known for any dataset"
            return {**report, "verdict": {"status": "unknown", "reason": reason}}
        return {**report, **_examined(table, source, name, rules.values.two_digit_year_pivot, path)}
    except UnreadableError as error:
        return {**report, "dataset": name, "verdict": {"status": "unreadable", "reason": str(error)}}


def _place(path: Path, source: SourceSpec, root: Path | None) -> str:
    """The file's path as landing would see it: below the drop folder, else from the source's folder on, or its name."""
    path = path.absolute()
    if root is not None and path.is_relative_to(root.absolute()):
        return path.relative_to(root.absolute()).as_posix()
    folders = [normalise_header(part) for part in path.parts[:-1]]
    if source.folder in folders:
        last = len(folders) - 1 - folders[::-1].index(source.folder)
        return "/".join(path.parts[last:])
    return path.name


def _best_match(table: TableFile, source: SourceSpec) -> str | None:
    """The dataset that lacks least of what it needs, then has the best mapping; None when no header is known."""
    mappings = {name: map_header(table.header, spec) for name, spec in source.datasets.items()}
    known = {name: mapping for name, mapping in mappings.items() if mapping.columns}
    return max(known, key=lambda name: (-len(known[name].missing_requirements), len(known[name].columns)), default=None)


def _examined(table: TableFile, source: SourceSpec, name: str, pivot: int, path: Path) -> Report:
    mapping = map_header(table.header, source.datasets[name])
    if fault := mapping.fault(table.header_line):
        status = "missing" if mapping.columns else "no_header"
        report = file_report(table, mapping, source, name, pivot)
        return {**report, "verdict": {"status": status, "reason": fault}}
    rows = RowMaker(mapping, "", is_spreadsheet=table.format != "csv")
    named = date_in_name(path.name, pivot)
    profiler = Profiler(mapping, source, pivot, is_spreadsheet=table.format != "csv", has_dated_name=named is not None)
    for batch in table.batches():
        profiler.add(batch, rows.fields(batch))
    profile = profiler.finish(has_decimal_points=table.has_decimal_points)
    report = file_report(table, mapping, source, name, pivot, profile)
    day = named or profile.last_date
    report["file_date"] = day.isoformat() if day else None
    status = "loads" if profile.plain_rows else "ragged" if profile.row_count else "empty"
    return {**report, "verdict": {"status": status, "reason": None}}


def original_record(path: Path, line: int, rules: BusinessRules) -> tuple[int, list[tuple[str, str]]] | None:
    """The record of a file that a line belongs to, as it stands there: its first line, and (header, text) per value.

    What a row of a raw table was made of is led back to by its file and `source_line`. Values that no header stands
    over have an empty one. None: no record there. UnreadableError: no table.
    """
    table = open_table(path, rules.landing.workbook)
    found: tuple[int, list[str]] | None = None
    for batch in table.batches():
        ragged = [(row.line, row.values) for row in batch.ragged if row.line <= line]
        at = int(np.searchsorted(batch.lines, line, side="right")) - 1
        if at >= 0:
            ragged.append((int(batch.lines[at]), [column[at].as_py() or "" for column in batch.columns]))
        found = max([*([found] if found else []), *ragged], default=None, key=lambda record: record[0])
        if (len(batch.lines) and batch.lines[-1] > line) or any(row.line > line for row in batch.ragged):
            break
    return (found[0], list(zip_longest(table.header, found[1], fillvalue=""))) if found else None


# --- in words


def as_text(report: Report, locale: str, *, tenant: str = "", folder: str = "") -> str:
    """The report as aligned plain text. `folder`: where the file is to be dropped; `tenant`: the estate's slug.

    A report without a verdict, as landing keeps it, is of a file that is loaded: nothing is to be done about it.
    """
    return "\n".join(_Words(report, locale, tenant, folder).lines())


class _Words:
    """One report in one language."""

    def __init__(self, report: Report, locale: str, tenant: str, folder: str) -> None:
        self.report = report
        self.locale = locale
        self.t = rendering.texts(locale)["mapping"]
        self.tenant = tenant
        self.folder = folder

    def lines(self) -> list[str]:
        parts: list[list[str]] = [self._summary()]
        if "mapping" in self.report:
            parts += [self._columns(), self._missing()]
        if self.report.get("rows", {}).get("count"):
            parts += [self._first_rows(), self._findings(), self._refusals()]
        parts.append(self._advice())
        return [line for part in parts if part for line in [*part, ""]][:-1]

    # --- pieces of text

    def _field(self, name: str) -> str:
        return str(self.t["fields"].get(name, name.replace("_", " ")))

    def _fields(self, names: Iterable[str]) -> str:
        *most, last = [*map(self._field, names)] or [""]
        return f"{', '.join(most)} {self.t['or']} {last}" if most else last

    def _quoted(self, text: str) -> str:
        return str(self.t["quoted"].format(text=_clip(text, "header")))

    def _number(self, value: int) -> str:
        return str(format_decimal(value, locale=self.locale))

    def _day(self, iso: str) -> str:
        return rendering.long_date(date.fromisoformat(iso), self.locale)

    def _numbers(self, lines: Sequence[int], count: int) -> str:
        shown = ", ".join(map(str, lines))
        return f"{shown} …" if count > len(lines) else shown

    # --- parts

    def _summary(self) -> list[str]:
        report, t = self.report, self.t
        rows: list[tuple[str, str]] = [("file", report["file"])]
        name, how = report.get("dataset"), report.get("recognised", {}).get("how", "path")
        text = t["datasets"][name] if name else ""
        rows.append(("dataset", t["recognised"][how if name else "none"].format(dataset=text)))
        verdict = report.get("verdict", {"status": "loads", "reason": None})
        rows.append(("verdict", self._verdict(verdict["status"])))
        if verdict["status"] in ("unreadable", "unknown"):
            rows.append(("detail", f"this file {verdict['reason']}"))
        if how == "guess" and name:
            rows.append(("", t["guess_note"]))
            rows.append(("detail", f"this file {report['recognised']['reason']}"))
        if found := report.get("format"):
            rows.append(("format", self._format(found)))
        if report.get("rows", {}).get("count"):
            span = report["rows"]
            numeric = any(column["type"] == "number" for column in report["mapping"]["columns"])
            dated = any(column["type"] == "date" for column in report["mapping"]["columns"])
            # A number of a sheet is a number: how it would be written matters for text only.
            if numeric and (report["format"]["format"] == "csv" or report["format"]["decimal_separator"] == ","):
                rows.append(("numbers", t["decimal"][report["format"]["decimal_separator"] or ""]))
            if dated:
                rows.append(("dates", t["date_order"][report["format"]["date_order"]]))
            if span["first_date"]:
                first, last = self._day(span["first_date"]), self._day(span["last_date"])
                rows.append(("period", first if first == last else t["period"].format(first=first, last=last)))
            if report.get("file_date"):
                rows.append(("place", self._day(report["file_date"])))
        if mapping := report.get("mapping"):
            mapped = len(mapping["columns"]) + len(mapping["fixed"])
            missing = {name for group in mapping["missing"] for name in group["fields"]}
            text = t["column_count"].format(mapped=mapped, total=mapped + len(missing), quality=mapping["quality"])
            rows.append(("columns", text))
        labels = [(t["labels"][label] if label else "", text) for label, text in rows]
        width = max(len(label) for label, _ in labels) + 2
        return [line for label, text in labels for line in _wrapped(label, text, width)]

    def _verdict(self, status: str) -> str:
        rows = self.report.get("rows")
        if status == "loads" and rows:
            key = "loads_refusing" if rows["refused"] else "loads"
            numbers = {"accepted": rows["count"] - rows["refused"], "count": rows["count"], "refused": rows["refused"]}
            return str(self.t["verdicts"][key].format(**{name: self._number(n) for name, n in numbers.items()}))
        line = self.report.get("format", {}).get("header_line")
        return str(self.t["verdicts"][status].format(line=line))

    def _format(self, found: Report) -> str:
        t = self.t
        parts = [t["formats"][found["format"]]]
        if found["delimiter"]:
            parts.append(t["delimiter"].format(name=t["delimiters"].get(found["delimiter"], found["delimiter"])))
        if found["encoding"]:
            parts.append(t["encoding"].format(name=_encoding(found["encoding"])))
        parts.append(t["header_line"].format(line=found["header_line"]))
        return ", ".join(parts)

    def _columns(self) -> list[str]:
        t, mapping = self.t, self.report["mapping"]
        rows = []
        for column in mapping["columns"]:
            how = t["origin"][column["origin"]].format(synonym=self._quoted(column["synonym"]))
            if column["transformations"]:
                how += f"; {t['transformed'].format(steps=', '.join(column['transformations']))}"
            mark = {"alone": " *", "one_of": " (*)"}.get(column["required"], "")
            rows.append([_clip(column["header"], "header"), self._field(column["field"]) + mark, how])
        for fixed in mapping["fixed"]:
            how = t["origin"]["fixed"].format(value=self._quoted(fixed["value"]))
            rows.append([t["none"], self._field(fixed["field"]), how])
        rows += [[_clip(header, "header"), t["none"], t["origin"]["none"]] for header in mapping["unmapped"]]
        if mapping["reference"]:
            rows.append(["crm_ref…", t["none"], t["origin"]["reference"]])
        return [t["columns_title"], *_table(t["columns_head"], rows), INDENT + t["required_mark"]] if rows else []

    def _missing(self) -> list[str]:
        t, missing = self.t, self.report["mapping"]["missing"]
        if not missing:
            return []
        lines = [t["missing_title"]]
        for group in missing:
            if group["required"] or group["inferred"]:
                key = "missing_required" if group["required"] else "missing_inferred"
                synonyms = ", ".join(map(self._quoted, self._examples(group)))
                text = t[key].format(fields=self._fields(group["fields"]), synonyms=synonyms)
                lines += _wrapped("", text[0].upper() + text[1:], 0)
        optional = [group["fields"][0] for group in missing if not (group["required"] or group["inferred"])]
        if optional:
            lines += _wrapped("", t["missing_optional"].format(fields=", ".join(map(self._field, optional))), 0)
        return lines

    def _examples(self, group: Report) -> list[str]:
        """A few names that the missing column could have, one in the reader's language first."""
        own = [name for field in group["fields"] if (name := normalise_header(self._field(field))) in group["synonyms"]]
        return [*own, *(name for name in group["synonyms"] if name not in own)][:4]

    def _first_rows(self) -> list[str]:
        t = self.t
        shown = self.report["first_rows"][:SHOWN_ROWS]
        if not shown:
            return []
        types = {column["field"]: column["type"] for column in self.report["mapping"]["columns"]}
        is_masked = any(row.get("is_masked") for row in shown)
        head = [t["field_head"], *(t["line_head"].format(line=row["line"]) for row in shown)]
        rows = [
            [self._field(name), *(self._cell(row["cells"][name], types.get(name, "text"), is_masked) for row in shown)]
            for name in shown[0]["cells"]
            if any(row["cells"][name]["text"] for row in shown)
        ]
        return [t["rows_title"], *_table(head, rows), *([INDENT + t["masked"]] if is_masked else [])]

    def _cell(self, cell: Report, kind: str, is_masked: bool) -> str:
        value = cell["value"]
        if not cell["is_read"]:
            return _clip(str(self.t["unread"].format(text=cell["text"])), "cell")
        if value is None:
            return str(self.t["none"])
        if isinstance(value, bool):
            return str(self.t["bool"][value])
        if kind == "number" and not is_masked:
            digits = len(value.partition(".")[2])
            return str(format_decimal(Decimal(value), format=f"#,##0.{'0' * digits}", locale=self.locale))
        if kind == "date" and not is_masked:
            return str(format_date(date.fromisoformat(value), format="medium", locale=self.locale))
        return _clip(value, "cell")

    def _findings(self) -> list[str]:
        t = self.t
        rows = [
            [
                t["severities"][finding["severity"]],
                self._fields(finding["fields"]) or t["whole_row"],
                t["problems"].get(finding["problem"], finding["problem"]),
                self._number(finding["count"]),
                self._numbers(finding["lines"], finding["count"]),
                ", ".join(self._quoted(_clip(value, "cell")) for value in finding["values"][:2]),
            ]
            for finding in self.report["anomalies"]["findings"]
        ]
        if not rows:
            return [t["findings_title"], INDENT + t["nothing"]]
        return [t["findings_title"], *_table(t["findings_head"], rows, right=(3,))]

    def _refusals(self) -> list[str]:
        t = self.t
        why = rendering.texts(self.locale)["workbooks"]["codes"]
        rows = []
        for refusal in self.report["refusals"]:
            # Of the workbooks' sentence the first part: which columns it is stands above, the rest is about a workbook.
            text = (
                why.get(refusal["code"], refusal["code"])
                .replace(" ({columns})", "")
                .split(".")[0]
                .split("\u00a0:")[0]
                .split(": ")[0]
            )
            rows.append([text, self._number(refusal["count"]), self._numbers(refusal["lines"], refusal["count"])])
            rows[-1].append(refusal["code"])
        if not rows:
            return []
        is_loaded = self.report.get("verdict", {"status": "loads"})["status"] == "loads"
        note = [INDENT + t["refusals_note"]] if is_loaded else []
        return [t["refusals_title"], *_table(t["refusals_head"], rows, right=(1,)), *note]

    def _advice(self) -> list[str]:
        t, report = self.t, self.report
        status = report.get("verdict", {}).get("status")
        if status is None:
            return []
        known = {"ragged": "unreadable"}.get(status, status)
        steps = [known]
        if status == "loads":
            steps = [
                *(["refused"] if report["rows"]["refused"] else []),
                *(["unmapped"] if report["mapping"]["unmapped"] else []),
                *(["loads"] if self.folder else []),
            ]
        if status in ("unreadable", "unknown") and report.get("recognised", {}).get("how") == "none":
            steps = ["unknown"]
        root = f"{self.folder.rstrip('/')}/{report['source_folder']}"
        values = {
            "tenant": self.tenant,
            "folder": f"{root}/{report.get('folder')}/",
            "folders": ", ".join(f"{root}/{folder}/" for folder in report["folders"]),
        }
        lines = [line for step in steps for line in _wrapped("", t["advice"][step].format(**values), 0)]
        return [t["advice_title"], *lines] if lines else []


def _encoding(name: str) -> str:
    return {"utf-8-sig": "UTF-8", "utf-8": "UTF-8", "windows-1252": "Windows-1252"}.get(name, name.upper())


def _clip(text: str, what: str) -> str:
    """One line of text no wider than its column."""
    flat = " ".join(str(text).split())
    return flat if len(flat) <= MAX_WIDTH[what] else f"{flat[: MAX_WIDTH[what] - 1]}…"


def _width(text: str) -> int:
    """Places a text takes on a screen."""
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    return len(text) + wide - sum(unicodedata.combining(letter) > 0 for letter in text)


def _padded(text: str, width: int, *, right: bool = False) -> str:
    space = " " * max(width - _width(text), 0)
    return space + text if right else text + space


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    """Aligned columns under a ruled header."""
    widths = [max(_width(row[place]) for row in [head, *rows]) for place in range(len(head))]
    rule = ["─" * width for width in widths]
    return [
        (
            INDENT
            + INDENT.join(_padded(text, widths[place], right=place in right) for place, text in enumerate(row)).rstrip()
        )
        for row in [head, rule, *rows]
    ]


def _wrapped(label: str, text: str, width: int) -> list[str]:
    """A text beside its label, broken into lines."""
    indent = INDENT + " " * width
    first = INDENT + _padded(label, width)
    return textwrap.wrap(text, WRAP, initial_indent=first, subsequent_indent=indent, break_on_hyphens=False) or [first]
