"""The receipt of a review workbook: what was taken of it and what was not, row by row, in the estate's language.

What became of a row is decided in `logic/review.py`; here it is said. No database, no folder and no clock.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping
from datetime import date, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pandas as pd

from crm_assets import rendering
from crm_assets.logic.mended import guard
from crm_assets.logic.review import ACCEPTED

_HEAD, _REFUSED = "#7A2531", "#FCE8D9"
_LINE_HEIGHT = 15  # points
# Widths in letters.
_COLUMNS = {
    "line": 8, "client_code": 14, "product_key": 14, "wine": 36, "scenario": 20, "decision": 20, "rating": 7,
    "comment": 36, "outcome": 70,
}  # fmt: skip


def receipt_workbook(
    receipt: Mapping[str, Any],
    lines: pd.DataFrame,
    gate: tuple[date, str, list[str], int, int] | None,
    held: Mapping[str, int],
    estate: str,
    locale: str,
    timezone: str,
) -> bytes:
    """The receipt as XLSX.

    `receipt`: the row of review.receipts. `lines`: rows of review.receipt_lines with client_code, product_key and wine,
    by source_line. `gate`: as_of, status, reasons, n_eligible, n_customers of the run; null where there is none.
    `held`: review's reason -> customers that it still holds back.
    """
    import xlsxwriter

    words = rendering.texts(locale)
    said = words["receipt"]
    target = io.BytesIO()
    book = xlsxwriter.Workbook(
        target, {"constant_memory": True, "strings_to_formulas": False, "strings_to_urls": False}
    )
    book.set_properties({"created": receipt["read_at"].to_pydatetime().replace(tzinfo=None)})
    plain = {"valign": "top", "align": "left", "text_wrap": True}
    styles = {
        "title": book.add_format({"bold": True, "font_size": 16, "font_color": _HEAD}),
        "status": book.add_format({"italic": True}),
        "label": book.add_format({"bold": True, "valign": "top"}),
        "value": book.add_format({"align": "left", "valign": "top"}),
        "head": book.add_format({"bold": True, "font_color": "#FFFFFF", "bg_color": _HEAD, **plain}),
        "taken": book.add_format(plain),
        "refused": book.add_format({"bg_color": _REFUSED, **plain}),
    }
    sheet = book.add_worksheet(said["sheet"])
    sheet.set_landscape()
    sheet.set_paper(9)  # A4
    sheet.fit_to_pages(1, 0)
    for place, width in enumerate(_COLUMNS.values()):
        sheet.set_column(place, place, width)
    sheet.write_string(0, 0, said["title"], styles["title"])
    sheet.write_string(1, 0, said["statuses"][receipt["status"]], styles["status"])
    for row, (label, value) in enumerate(_summary(receipt, gate, held, estate, words, locale, timezone), start=3):
        sheet.write_string(row, 0, said["labels"][label], styles["label"])
        sheet.write(row, 3, guard(value) if isinstance(value, str) else value, styles["value"])
    head = 4 + len(said["labels"])
    sheet.freeze_panes(head + 1, 0)
    sheet.repeat_rows(head)
    for place, name in enumerate(_COLUMNS):
        sheet.write_string(head, place, said["columns"][name], styles["head"])
    # What a person has to do something about comes first.
    ordered = lines.assign(is_taken=lines["outcome"].isin(ACCEPTED)).sort_values(["is_taken", "source_line"])
    for row, line in enumerate(ordered.to_dict("records"), start=head + 1):
        style = styles["taken" if line["is_taken"] else "refused"]
        sheet.set_row(row, _LINE_HEIGHT * _lines_of({str(k): v for k, v in line.items()}, said))
        for place, value in enumerate(_cells({str(k): v for k, v in line.items()}, words)):
            if isinstance(value, int):
                sheet.write_number(row, place, value, style)
            else:
                sheet.write_string(row, place, guard(value), style)
    if lines.empty:
        sheet.write_string(head + 1, 0, said["no_lines"], styles["status"])
    else:
        sheet.autofilter(head, 0, head + len(lines), len(_COLUMNS) - 1)
    book.close()
    return target.getvalue()


def _lines_of(line: Mapping[str, Any], said: Mapping[str, Any]) -> int:
    """How many lines a row needs: not every spreadsheet works it out from wrapped text."""
    texts = {"outcome": said["outcomes"][line["outcome"]], "comment": line["comment"], "wine": line["wine"]}
    filled = {name: str(text) for name, text in texts.items() if pd.notna(text)}
    return max(len(textwrap.wrap(text, _COLUMNS[name])) for name, text in filled.items())


def _summary(
    receipt: Mapping[str, Any],
    gate: tuple[date, str, list[str], int, int] | None,
    held: Mapping[str, int],
    estate: str,
    words: Mapping[str, Any],
    locale: str,
    timezone: str,
) -> list[tuple[str, str | int]]:
    """What stands over the rows: (label, value)."""
    said = words["receipt"]

    def moment(at: datetime) -> str:
        local = at.astimezone(ZoneInfo(timezone))
        return f"{rendering.long_date(local.date(), locale)}, {local:%H:%M}"

    verdict = said["no_gate"]
    if gate is not None:
        _, status, reasons, n_eligible, n_customers = gate
        closed = said["gate_closed"].format(reasons=", ".join(words["gate_reason"][reason] for reason in reasons))
        verdict = said["gate_open"].format(eligible=n_eligible, customers=n_customers) if status == "open" else closed
        if held:
            waiting = ", ".join(f"{words['reason'][reason]} ({count})" for reason, count in held.items())
            verdict += "; " + said["held"].format(held=waiting)
    return [
        ("estate", estate),
        ("file", receipt["path"]),
        ("run", receipt["run_id"] if isinstance(receipt["run_id"], str) else "–"),
        ("as_of", rendering.long_date(gate[0], locale) if gate is not None else "–"),
        ("reviewer", receipt["reviewer"] or said["anonymous"]),
        ("saved_at", moment(receipt["modified_at"])),
        ("read_at", moment(receipt["read_at"])),
        ("taken", int(receipt["n_taken"])),
        ("refused", int(receipt["n_refused"])),
        ("blank", int(receipt["n_blank"])),
        ("rest", _rest(receipt, words)),
        ("gate", verdict),
    ]


def _rest(receipt: Mapping[str, Any], words: Mapping[str, Any]) -> str | int:
    """How many were approved with the rest, and where the answer said neither yes nor no."""
    unclear = receipt["unclear_rest"]
    if not isinstance(unclear, list) or not unclear:
        return int(receipt["n_approved_rest"])
    names = ", ".join(words["scenario"].get(name, name) for name in unclear)
    return f"{receipt['n_approved_rest']}; {words['receipt']['unclear_rest'].format(scenarios=names)}"


def _cells(line: Mapping[str, Any], words: Mapping[str, Any]) -> list[str | int]:
    """The cells of a row, in the order of _COLUMNS."""
    said = words["receipt"]
    known = {name: value for name, value in line.items() if pd.notna(value)}
    return [
        int(line["source_line"]),
        *(str(known.get(name, "")) for name in ("client_code", "product_key", "wine")),
        words["scenario"][known["scenario"]] if "scenario" in known else "",
        said["decisions"][known["decision"]] if "decision" in known else "",
        int(known["rating"]) if "rating" in known else "",
        str(known.get("comment", "")),
        said["outcomes"][line["outcome"]],
    ]
