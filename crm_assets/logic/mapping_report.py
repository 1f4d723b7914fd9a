"""The mapping report of one file: how it was read, what its columns mean, how its values would be typed, what is wrong.

A dict that is JSON as it stands: `crm mapping preview` prints it before anything is loaded, landing keeps it in
`raw.file_reports`, and its `masked` version is shown in Dagster. No files are opened here, nothing is worded for
people (`crm_assets/mapping_preview.py`), and no database is known: rows that only a join can refuse are not foretold.
"""

from __future__ import annotations

import copy
from typing import Any

from crm_assets.logic.landing import (
    MISSING_CODES,
    SEVERITIES,
    FieldSpec,
    FileProfile,
    HeaderMapping,
    SourceSpec,
    normalise_header,
)
from crm_assets.logic.reading import TableFile
from crm_assets.logic.spellings import NO_DATES, read_date, read_number

MAX_TEXT = 120  # characters of a cell that are kept
Report = dict[str, Any]


def file_report(
    table: TableFile,
    mapping: HeaderMapping,
    source: SourceSpec,
    dataset: str,
    two_digit_year_pivot: int,
    profile: FileProfile | None = None,
) -> Report:
    """The report of a file whose header is mapped; without a profile, of its header alone.

    Keys: dataset, folder, header in file order; format {format, encoding, delimiter, header_line, decimal_separator,
    date_order};
    mapping {quality, version, columns, fixed, unmapped, missing}; rows {count, ragged, refused, first_date, last_date};
    first_rows; anomalies {counts, findings}; refusals. Dates are ISO texts, numbers texts with a decimal point.
    """
    report: Report = {
        "dataset": dataset,
        "folder": mapping.dataset.folder,
        "header": list(mapping.header),
        "format": {
            "format": table.format,
            "encoding": table.encoding,
            "delimiter": table.delimiter,
            "header_line": table.header_line,
            "decimal_separator": profile.decimal_separator if profile else None,
            "date_order": profile.date_order if profile else None,
        },
        "mapping": _mapping(mapping),
    }
    if profile is None:
        return report
    reader = _Reader(source, profile, two_digit_year_pivot, is_spreadsheet=table.format != "csv")
    report["rows"] = {
        "count": profile.row_count,
        "ragged": profile.row_count - profile.plain_rows,
        "refused": profile.refused_rows,
        "first_date": profile.first_date.isoformat() if profile.first_date else None,
        "last_date": profile.last_date.isoformat() if profile.last_date else None,
    }
    report["first_rows"] = [
        {"line": line, "cells": {n: reader.cell(text, mapping.dataset.fields[n]) for n, text in texts.items()}}
        for line, texts in profile.first_rows
    ]
    report["anomalies"] = {
        "counts": profile.anomalies,
        "findings": [
            {
                "severity": finding.severity,
                "fields": finding.name.split(" or ") if finding.name else [],
                "problem": finding.problem,
                "count": finding.count,
                "lines": finding.lines,
                "values": [_short(text) for text in finding.values],
            }
            for finding in profile.findings
        ],
    }
    report["refusals"] = [
        {"code": code, "count": rows.count, "lines": rows.lines, "fields": _fields_of(code, mapping)}
        for code, rows in sorted(profile.refusals.items(), key=lambda item: -item[1].count)
    ]
    return report


def _mapping(mapping: HeaderMapping) -> Report:
    dataset = mapping.dataset
    needed = {name: "alone" if len(group) == 1 else "one_of" for group in dataset.requirements for name in group}
    missing_groups = mapping.missing_requirements
    in_groups = {name for group in missing_groups for name in group}
    columns = []
    for name, place in sorted(mapping.columns.items(), key=lambda item: item[1]):
        synonym = normalise_header(mapping.header[place])
        spec = dataset.fields[name]
        columns.append(
            {
                "header": _short(mapping.header[place]),
                "field": name,
                "synonym": synonym,
                "origin": "tenant" if synonym in spec.added else "source",
                "type": spec.type,
                "required": needed.get(name),
                "transformations": [
                    next(iter(step)) if isinstance(step, dict) else step for step in spec.transformations
                ],
            }
        )
    return {
        "quality": mapping.quality,
        "version": mapping.version,
        "columns": columns,
        "fixed": [{"field": name, "value": _short(value)} for name, value in mapping.fixed.items()],
        "unmapped": [_short(header) for header in mapping.unmapped_headers],
        "reference": mapping.reference is not None,
        "missing": [
            *(
                {
                    "fields": group,
                    "required": not all(name in dataset.inferred for name in group),
                    "inferred": all(name in dataset.inferred for name in group),
                    "synonyms": [synonym for name in group for synonym in dataset.fields[name].synonyms],
                }
                for group in missing_groups
            ),
            *(
                {"fields": [name], "required": False, "inferred": False, "synonyms": dataset.fields[name].synonyms}
                for name in mapping.missing_fields
                if name not in in_groups
            ),
        ],
    }


def _fields_of(code: str, mapping: HeaderMapping) -> list[str]:
    """The mapped fields that can earn a row this code."""
    dataset = mapping.dataset
    present = [*mapping.columns, *mapping.fixed]
    if code.startswith("MISSING_"):
        groups = [group for group in dataset.requirements if MISSING_CODES.get(group[0]) == code]
        return [name for group in groups for name in group if name in present]
    types = {"INVALID_DATE": {"date"}, "INVALID_NUMBER": {"number", "choice"}}.get(code, set())
    if code == "INVALID_KEY":
        return [name for name in ("client_code", "product_key") if name in present]
    return [name for name in present if dataset.fields[name].type in types]


class _Reader:
    """Reads texts as staging will, knowing what the whole file proves."""

    def __init__(self, source: SourceSpec, profile: FileProfile, pivot: int, *, is_spreadsheet: bool) -> None:
        self._booleans = source.booleans
        self._profile = profile
        self._pivot = pivot
        self._is_spreadsheet = is_spreadsheet

    def cell(self, text: str | None, spec: FieldSpec) -> Report:
        """{text, value, is_read}: value is null for a blank, and for what cannot be read."""
        if text is None or not text.strip() or (spec.type == "date" and text.strip() in NO_DATES):
            return {"text": text, "value": None, "is_read": True}
        value = self._value(text, spec)
        return {"text": _short(text), "value": value, "is_read": value is not None}

    def _value(self, text: str, spec: FieldSpec) -> str | bool | None:
        if spec.type == "number":
            number = read_number(text)
            return format(number.exact(self._profile.decimal_separator), "f") if number else None
        if spec.type == "date":
            found = read_date(text, self._pivot, self._is_spreadsheet)
            day = found.as_date(self._profile.date_order) if found else None
            return day.isoformat() if day else None
        if spec.type == "bool":
            word = normalise_header(text)
            return True if word in self._booleans.true_words else False if word in self._booleans.false_words else None
        return _short(" ".join(text.split()))


def _short(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 1]}…"


def mask(text: str) -> str:
    """The shape of a text and nothing else of it: `Jean-1@b.fr` -> `Xxxx-9@x.xx`."""
    return "".join("9" if c.isdigit() else "X" if c.isupper() else "x" if c.isalpha() else c for c in text)


def masked(report: Report) -> Report:
    """The same report with the file's values as shapes, for wherever Dagster can show it."""
    hidden = copy.deepcopy(report)
    for row in hidden.get("first_rows", []):
        for cell in row["cells"].values():
            cell["text"] = cell["text"] and mask(cell["text"])
            cell["value"] = mask(cell["value"]) if isinstance(cell["value"], str) else cell["value"]
        row["is_masked"] = True
    for finding in hidden.get("anomalies", {}).get("findings", []):
        finding["values"] = [mask(text) for text in finding["values"]]
    return hidden


def worst_severity(report: Report) -> str | None:
    """The worst severity of which the file has an anomaly."""
    counts = report.get("anomalies", {}).get("counts", {})
    return next((severity for severity in SEVERITIES if counts.get(severity)), None)
