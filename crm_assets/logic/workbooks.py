"""Workbooks for the estate, in its language: refused rows to mend, product labels to recognise (spec.md §2.3, §3).

Each can be dropped back as it is: its first sheet maps to the same dataset as the exports did, its cells are the
texts that stood there, and a reference column says which refused row a row stands for (`logic/mended.py` takes it
in again). Nothing is corrected or guessed here; no database, no folder and no clock.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

import pandas as pd

from crm_assets import rendering
from crm_assets.logic.curated import is_valid_code, normalize_code, normalize_label
from crm_assets.logic.landing import DatasetSpec, FieldSpec, map_header, normalise_header
from crm_assets.logic.mended import KEY_AND_LABEL, OWN_HEADER, SURPLUS_HEADER, guard, reference_header
from crm_assets.logic.spellings import DateOrder, read_date, read_number

if TYPE_CHECKING:
    from xlsxwriter.format import Format
    from xlsxwriter.workbook import Workbook
    from xlsxwriter.worksheet import Worksheet

# What the format of spreadsheets allows: UTF-16 units in a cell, characters that a header is worth keeping for.
MAX_CELL = 32_767
_MAX_HEADER = 200

_TO_MEND, _GREY, _PALE = "#FFD966", "#D9D9D9", "#F2F2F2"
_NARROWEST, _WIDEST, _WHY_WIDTH = 9, 40, 60  # letters
_LINE_HEIGHT = 15  # points

# The fields a code points at, where its dataset has them. What does not parse is found by looking at the values.
_POINTS_AT = {
    "MISSING_CLIENT": ("client_code", "email"),
    "MISSING_DOCUMENT": ("document_no",),
    "MISSING_PRODUCT": ("product_key", "product_label", "label"),
    "MISSING_QUANTITY": ("quantity",),
    "MISSING_AMOUNT": ("amount_ht", "amount_ttc", "unit_price_ht"),
    "INVALID_KEY": ("client_code", "product_key"),
}


@dataclass(frozen=True)
class ExportFile:
    """A landed file, as far as its rows need it to be shown again."""

    path: str
    order_key: str
    date_order: DateOrder
    is_spreadsheet: bool
    fields: Mapping[str, str]  # header -> field
    header: Sequence[str] | None = None  # in file order, where the ledger kept it


@dataclass(frozen=True)
class RefusedRow:
    """A refused row to hand back: the newest attempt at it, and the row of an export that it all began with."""

    origin: str  # file_id of the export
    origin_line: int
    file_id: str  # where the newest attempt stands: another file once it was mended in vain
    source_line: int
    codes: Sequence[str]
    row: Mapping[str, Any]  # field -> text; `extra`: other columns, or the whole of a ragged row as a list

    @property
    def reference(self) -> str:
        return f"{self.origin}:{self.origin_line}"


@dataclass(frozen=True)
class Written:
    """A workbook's bytes, the rows in it, and the rows whose texts are longer than a cell can be."""

    content: bytes
    rows: int
    too_long: int = 0


# A column: the field it is, or (its header,) where it is none of ours.
_Key = str | tuple[str]


@dataclass
class Column:
    """A column of a workbook, and the headers it may have, best first."""

    key: _Key
    names: list[str]
    header: str = ""

    @property
    def field(self) -> str | None:
        return self.key if isinstance(self.key, str) else None


@dataclass
class _Cells:
    """A row laid out: text by column, what none has room for, and the fields that each code points at."""

    texts: dict[_Key, str]
    surplus: list[str] = field(default_factory=list)
    pointed: dict[str, set[str]] = field(default_factory=dict)

    @property
    def faulty(self) -> set[str]:
        return set().union(*self.pointed.values())


# --- refused rows


def refused_workbook(
    dataset: DatasetSpec,
    rows: Iterable[RefusedRow],
    files: Mapping[str, ExportFile],
    *,
    locale: str,
    year_pivot: int,
    made_at: datetime,
) -> Written:
    """The rows of one dataset as a workbook: what to mend on its first sheet, how on its second.

    Rows come in the order of their exports. Headers are the estate's own; where its files differ, the newest file's.
    """
    words = rendering.texts(locale)["workbooks"]
    ordered = sorted(rows, key=lambda row: (files[row.origin].order_key, row.origin, row.origin_line))
    no_keys = _no_keys(ordered)
    laid_out = [_lay_out(row, files[row.file_id], dataset, year_pivot, no_keys, words["incomplete"]) for row in ordered]
    kept = [number for number, cells in enumerate(laid_out) if _fits(cells)]
    columns = _columns(dataset, [ordered[n] for n in kept], [laid_out[n] for n in kept], files)
    n_surplus = max((len(laid_out[n].surplus) for n in kept), default=0)
    names = words["columns"]
    surplus = [f"{SURPLUS_HEADER}_{number + 1}" for number in range(n_surplus)]
    header = [names["why"], *(c.header for c in columns), *surplus, names["file"], names["line"]]
    header.append(reference_header(dataset))
    places = {column.key: place for place, column in enumerate(columns, start=1)}
    shown = {column.key: column.header for column in columns}

    with _Book(header, made_at, words["refused"]["sheet"], words["help_sheet"]) as book:
        first_surplus = 1 + len(columns)
        book.width(0, _WHY_WIDTH, "why")
        for place, column in enumerate(columns, start=1):
            texts = (laid_out[n].texts.get(column.key, "") for n in kept[:500])
            book.width(place, max(len(column.header), *map(len, texts), 0), "plain")
        for place in range(first_surplus, first_surplus + n_surplus):
            book.width(place, 18, "plain")
        book.width(first_surplus + n_surplus, 28, "own")
        book.width(first_surplus + n_surplus + 1, 8, "own")
        book.width(len(header) - 1, 3, "own")
        book.head(to_mend={places[key] for n in kept for key in laid_out[n].faulty if key in places})
        for line, number in enumerate(kept, start=1):
            row, cells = ordered[number], laid_out[number]
            why = _why(row, cells, files, shown, words)
            book.height(line, lines=len(textwrap.wrap(why, _WHY_WIDTH)))
            book.text(line, 0, why, "why")
            for key, place in places.items():
                book.text(line, place, cells.texts.get(key, ""), "mend" if key in cells.faulty else "plain")
            for place, text in enumerate(cells.surplus, start=first_surplus):
                book.text(line, place, text, "mend")
            about = (files[row.origin].path, str(row.origin_line), row.reference)
            for place, text in enumerate(about, start=first_surplus + n_surplus):
                book.text(line, place, text, "own")
        book.explain_reference(len(kept), words)
        book.finish(len(kept))
        book.instructions(_instructions(words, "refused", dataset.folder, bool(n_surplus)))
    return Written(book.content, len(kept), len(ordered) - len(kept))


def _no_keys(rows: Iterable[RefusedRow]) -> set[str]:
    """The texts in rows with INVALID_KEY that can be no key, looked at all at once."""
    about = _POINTS_AT["INVALID_KEY"]
    texts = {str(row.row[name]) for row in rows if "INVALID_KEY" in row.codes for name in about if row.row.get(name)}
    found = pd.Series(sorted(texts), dtype="str")
    return set(found[~is_valid_code(normalize_code(found))])


def _fits(cells: _Cells) -> bool:
    """Whether each text fits into a cell: what is cut could not come back as it was."""
    texts = [*cells.texts.values(), *cells.surplus]
    return all(len(text) < MAX_CELL // 2 or len(guard(text).encode("utf-16-le")) // 2 <= MAX_CELL for text in texts)


def _lay_out(
    row: RefusedRow, file: ExportFile, dataset: DatasetSpec, year_pivot: int, no_keys: set[str], incomplete: str
) -> _Cells:
    extra = row.row.get("extra")
    if isinstance(extra, list):
        return _lay_out_ragged([str(text or "") for text in extra], file, dataset, incomplete)
    # A field that the file has no column for was worked out at landing, and will be again.
    own = set(file.fields.values())
    cells = _Cells({name: str(row.row[name]) for name in dataset.fields if name in own and row.row.get(name)})
    for name, text in (extra or {}).items():
        if text:
            cells.texts[(name,)] = str(text)
    typed = {name: cells.texts.get(name, "") for name in dataset.fields}
    for code in row.codes:
        cells.pointed[code] = _faulty(code, dataset, typed, file, year_pivot, no_keys)
    return cells


def _lay_out_ragged(values: list[str], file: ExportFile, dataset: DatasetSpec, incomplete: str) -> _Cells:
    """The values of a row that has too many or too few of them, in the order they stood, none left out.

    What lies beyond the last column goes into surplus columns. A row with too few gets a note there: as long as it
    is not taken away, nobody has said that the values stand in the right columns.
    """
    if file.header is None:
        return _Cells({}, [value for value in values if value] or [incomplete])
    by_place = {place: key for key, place, _ in _columns_of(file, dataset)}
    cells = _Cells({by_place[place]: value for place, value in enumerate(values) if value and place in by_place})
    cells.surplus = [value for value in values[len(file.header) :] if value] or [incomplete]
    return cells


def _faulty(
    code: str,
    dataset: DatasetSpec,
    values: Mapping[str, str],
    file: ExportFile,
    year_pivot: int,
    no_keys: set[str],
) -> set[str]:
    """The fields that a code points at in one row."""
    if code in ("INVALID_NUMBER", "INVALID_DATE"):
        types = ("number", "choice") if code == "INVALID_NUMBER" else ("date",)
        filled = {name for name, spec in dataset.fields.items() if spec.type in types and values[name].strip()}

        def parses(text: str, spec: FieldSpec) -> bool:
            if spec.type == "date":
                day = read_date(text, year_pivot, file.is_spreadsheet)
                return day is not None and day.as_date(file.date_order) is not None
            return read_number(text) is not None if spec.type == "number" else normalise_header(text) in spec.values

        # Where SQL is stricter (a number too long for its column), any of them may be meant.
        return {name for name in filled if not parses(values[name], dataset.fields[name])} or filled
    pointed = dataset.period if code == "MISSING_DATE" else _POINTS_AT.get(code, ())
    fields = [name for name in pointed if name in dataset.fields]
    if code == "INVALID_KEY":
        return {name for name in fields if values[name] in no_keys} or {name for name in fields if values[name].strip()}
    if code == "MISSING_CLIENT" and "client_code" in fields and dataset.fields["client_code"].required:
        fields = ["client_code"]
    return {name for name in fields if not values[name].strip()} or set(fields)


def _columns(
    dataset: DatasetSpec, rows: Sequence[RefusedRow], cells: Sequence[_Cells], files: Mapping[str, ExportFile]
) -> list[Column]:
    """The columns of the export, in the newest file's order, with headers that land as what they are."""
    involved = {file_id for row in rows for file_id in (row.file_id, row.origin)}
    newest_first = sorted((files[file_id] for file_id in involved), key=lambda file: file.order_key, reverse=True)
    names: dict[_Key, list[str]] = {}
    for file in newest_first:
        for key, _, header in _columns_of(file, dataset):
            names.setdefault(key, []).append(header)
    filled = {key for row in cells for key in row.texts}
    wanted = {key: headers for key, headers in names.items() if isinstance(key, str) or key in filled}
    for key in sorted(filled - wanted.keys(), key=str):
        wanted[key] = [] if isinstance(key, str) else [key[0]]
    for row in cells:
        # A value that is missing needs a column to be written into: one of those that would do.
        if row.faulty and not row.faulty & wanted.keys():
            wanted[next(name for name in dataset.fields if name in row.faulty)] = []
    columns = [Column(key, headers) for key, headers in wanted.items()]
    name_columns(columns, dataset)
    return columns


def _columns_of(file: ExportFile, dataset: DatasetSpec) -> list[tuple[_Key, int, str]]:
    """The columns of a landed file as (key, place, header); without its header, its fields in their usual order."""
    if file.header is None:
        headers = {name: header for header, name in file.fields.items()}
        return [(name, place, headers[name]) for place, name in enumerate(dataset.fields) if name in headers]
    mapping = map_header(file.header, dataset)
    columns: list[tuple[_Key, int, str]] = [(key, place, file.header[place]) for key, place in mapping.columns.items()]
    columns += [((name,), place, name) for place, name in mapping.extra.items()]
    return sorted(columns, key=lambda column: column[1])


def name_columns(columns: Sequence[Column], dataset: DatasetSpec) -> None:
    """Choose each column's header so that landing maps every column to its own field, and extra ones to none.

    The first name of a column is the best one; a field goes on to its other names and then its synonyms, an extra
    column gets a number. ValueError when the dataset's synonyms allow no header at all.
    """
    choices = [_names(column, dataset.fields.get(column.field or "")) for column in columns]
    at = [0] * len(columns)
    for _ in range(sum(map(len, choices)) + 1):
        headers = [names[min(place, len(names) - 1)] for names, place in zip(choices, at, strict=True)]
        mapping = map_header(headers, dataset)
        taken = {place: name for name, place in mapping.columns.items()}
        wrong = [place for place, column in enumerate(columns) if taken.get(place) != column.field]
        if not wrong:
            for column, header in zip(columns, headers, strict=True):
                column.header = header
            return
        # An extra column that is taken for a field gives way first; the field may be right then.
        place = next((place for place in wrong if columns[place].field is None), None)
        place = place if place is not None else next((p for p in wrong if at[p] + 1 < len(choices[p])), wrong[0])
        at[place] += 1
    raise ValueError(f"{dataset.folder}: no headers tell its fields apart; look at the synonyms of the source")


def _names(column: Column, spec: FieldSpec | None) -> list[str]:
    """The headers a column may have, best first."""
    if spec is None:
        name = column.names[0][:_MAX_HEADER]
        if normalise_header(name).startswith(OWN_HEADER):
            name = f"col_{name}"  # the estate's own: it would be taken for one of ours
        return [name, *(f"{name} ({number})" for number in range(2, 20))]
    own = [text for text in column.names if len(text) <= _MAX_HEADER]
    return list(dict.fromkeys([*own, *spec.added, *spec.synonyms]))


def _why(
    row: RefusedRow,
    cells: _Cells,
    files: Mapping[str, ExportFile],
    shown: Mapping[_Key, str],
    words: Mapping[str, Any],
) -> str:
    """Why the row was refused, in plain words that name its columns."""
    sentences = []
    for code in row.codes:
        faulty = [key for key in shown if key in cells.pointed.get(code, ())]
        named = ", ".join(words["quoted"].format(text=shown[key]) for key in faulty)
        sentence = words["codes"].get(code, code).format(columns=named)
        sentences.append(sentence if named else sentence.replace(" ()", ""))
    if (row.file_id, row.source_line) != (row.origin, row.origin_line):
        again = words["refused_again"].format(file=files[row.file_id].path, line=row.source_line)
        sentences.insert(0, again)
    return " ".join(sentences)


# --- labels that no product has


@dataclass(frozen=True)
class UnmatchedLabel:
    """A label as sold that the catalogue does not know for certain, with all its sales."""

    label: str
    codes: str  # product codes it was sold under
    lines: int
    amount_ht: float
    last_sale_date: date | None
    matched_by: str  # fuzzy: taken for `suggestion`, to be confirmed; inferred: taken for no product
    suggestion: str | None  # product key
    score: float | None  # likeness to the suggestion, 0..100
    answered: str | None = None  # an alias file names this key, which the catalogue does not have


def unmatched_labels(unmatched: pd.DataFrame, aliases: pd.DataFrame) -> list[UnmatchedLabel]:
    """One row per label as an alias file would name it, whatever vintages, years and codes it was sold under.

    `unmatched`: curated.unmatched_products; `aliases`: label (normalised), product_key of all alias files, newest
    last. A label that stands here though an alias names it was given a key that the catalogue does not have. Sales
    without a label go by their code, as they do for aliases.
    """
    answered = dict(zip(aliases["label"], aliases["product_key"], strict=True))
    texts = unmatched["raw_product_label"].where(
        normalize_label(unmatched["raw_product_label"]).ne(""), unmatched["raw_product_key"]
    )
    found = []
    for label, rows in unmatched.assign(text=texts).groupby(normalize_label(texts), sort=True):
        # The likeliest product of the label speaks for it; its best-selling spelling is the one shown.
        rows = rows.sort_values(["amount_ht", "text"], ascending=[False, True], kind="stable")
        best = rows.sort_values("score", ascending=False, kind="stable").iloc[0]
        is_fuzzy = best["matched_by"] == "fuzzy"
        suggestion = best["product_key"] if is_fuzzy else best["suggestion"]
        found.append(
            UnmatchedLabel(
                label=rows["text"].iloc[0],
                codes=", ".join(sorted(set(rows["raw_product_key"]) - {""})),
                lines=int(rows["lines"].sum()),
                amount_ht=float(rows["amount_ht"].fillna(0).sum()),
                last_sale_date=pd.Timestamp(rows["last_sale_date"].max()).date(),
                matched_by="fuzzy" if is_fuzzy else "inferred",
                suggestion=None if pd.isna(suggestion) else suggestion,
                score=None if pd.isna(best["score"]) else float(best["score"]),
                answered=answered.get(label),
            )
        )
    return found


def unmatched_workbook(
    dataset: DatasetSpec,
    labels: Sequence[UnmatchedLabel],
    catalogue: Mapping[str, str],
    *,
    locale: str,
    made_at: datetime,
) -> Written:
    """Labels by revenue with a column for the product key, which makes it an alias file; `catalogue`: key -> label."""
    words = rendering.texts(locale)["workbooks"]
    names = words["unmatched"]["columns"]
    asked = [Column("label", [names["label"]]), Column("product_key", [names["product_key"]])]
    name_columns(asked, dataset)
    own = [names[name] for name in ("assumed", "suggestion", "likeness", "lines", "revenue", "last_sale", "codes")]
    header = [*(column.header for column in asked), *own, reference_header(dataset)]
    entries = {key: f"{key}{KEY_AND_LABEL}{label}" for key, label in catalogue.items()}
    ordered = sorted(labels, key=lambda row: (-row.amount_ht, row.label))
    sheets = (words["unmatched"]["sheet"], words["unmatched"]["catalogue_sheet"], words["help_sheet"])
    with _Book(header, made_at, *sheets) as book:
        widest = max((len(row.label) for row in ordered), default=0)
        for place, (width, style) in enumerate(
            [(widest, "own"), (36, "plain"), (44, "own"), (44, "own"), (9, "count"), (8, "count"), (14, "money"),
             (14, "day"), (20, "own"), (3, "own")]
        ):  # fmt: skip
            book.width(place, width, style)
        book.head(to_mend={1})
        for line, row in enumerate(ordered, start=1):
            book.text(line, 0, row.label, "own")
            book.text(line, 1, "", "mend")
            book.text(line, 2, _assumed(row, entries, words["unmatched"]), "own")
            book.text(line, 3, entries.get(row.suggestion or "", row.suggestion or ""), "own")
            book.number(line, 4, row.score, "count")
            book.number(line, 5, row.lines, "count")
            book.number(line, 6, row.amount_ht, "money")
            book.day(line, 7, row.last_sale_date, "day")
            book.text(line, 8, row.codes, "own")
        if entries:
            book.choices(1, len(ordered), sheets[1], len(entries))
        book.finish(len(ordered))
        book.list(sheets[1], words["unmatched"]["catalogue_header"], [entries[key] for key in sorted(entries)])
        book.instructions(_instructions(words, "unmatched", dataset.folder, False))
    return Written(book.content, len(ordered))


def _assumed(row: UnmatchedLabel, entries: Mapping[str, str], words: Mapping[str, Any]) -> str:
    """What the sales of a label were counted as until somebody answers."""
    if row.matched_by == "fuzzy":
        said = words["fuzzy"].format(product=entries.get(row.suggestion or "", row.suggestion or ""))
    else:
        said = words["inferred"]
    return f"{said} {words['unknown_answer'].format(key=row.answered)}" if row.answered else said


def _instructions(words: Mapping[str, Any], kind: str, folder: str, has_surplus: bool) -> list[str]:
    lines = [words[kind]["title"], *words[kind]["steps"], *words["always"]]
    if has_surplus:
        lines += words["refused"]["surplus"]
    return [line.format(folder=folder, surplus=f"{SURPLUS_HEADER}_1") for line in lines]


# --- the file


class _Book:
    """A workbook being written, one row after another: a protected sheet of texts, more sheets behind it."""

    def __init__(self, header: Sequence[str], made_at: datetime, sheet: str, *more: str) -> None:
        import xlsxwriter

        self._target = io.BytesIO()
        options = {"constant_memory": True, "strings_to_formulas": False, "strings_to_urls": False}
        self._book: Workbook = xlsxwriter.Workbook(self._target, options)
        self._book.set_properties({"created": made_at.replace(tzinfo=None)})
        self._header = header
        self._sheet: Worksheet = self._book.add_worksheet(sheet)
        self._more = {name: self._book.add_worksheet(name) for name in more}
        self._last = more[-1]
        self._styles = {name: self._book.add_format(properties) for name, properties in _STYLES.items()}
        self.content = b""

    def __enter__(self) -> _Book:
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        if kind is None:
            self._book.close()
            self.content = self._target.getvalue()

    def _style(self, name: str) -> Format:
        return self._styles[name]

    def width(self, place: int, letters: int, style: str) -> None:
        """A column's width, and the style of its empty cells; `own` columns of 3 letters are all but hidden."""
        width = letters if letters <= 3 or style == "why" else min(max(letters + 2, _NARROWEST), _WIDEST)
        self._sheet.set_column(place, place, width, self._style(style))

    def height(self, line: int, lines: int) -> None:
        """A row's height; not every spreadsheet works it out from wrapped text. To be called before its cells."""
        self._sheet.set_row(line, _LINE_HEIGHT * max(lines, 1))

    def head(self, to_mend: set[int]) -> None:
        for place, text in enumerate(self._header):
            is_own = normalise_header(text).startswith(OWN_HEADER)
            style = "head_mend" if place in to_mend else "head_own" if is_own else "head"
            self._sheet.write_string(0, place, guard(text), self._style(style))

    def text(self, line: int, place: int, text: str, style: str) -> None:
        """A cell of text: never a formula, a number or a link, here or saved as CSV."""
        if text:
            self._sheet.write_string(line, place, guard(text), self._style(style))
        else:
            self._sheet.write_blank(line, place, None, self._style(style))

    def number(self, line: int, place: int, value: float | None, style: str) -> None:
        if value is not None:
            self._sheet.write_number(line, place, value, self._style(style))

    def day(self, line: int, place: int, day: date | None, style: str) -> None:
        if day is not None:
            self._sheet.write_datetime(line, place, day, self._style(style))

    def choices(self, place: int, n_rows: int, sheet: str, n_entries: int) -> None:
        """A drop-down list; what is typed instead of chosen is accepted."""
        source = f"='{sheet}'!$A$2:$A${n_entries + 1}"
        rule = {"validate": "list", "source": source, "show_error": False}
        self._sheet.data_validation(1, place, n_rows, place, rule)

    def explain_reference(self, n_rows: int, words: Mapping[str, Any]) -> None:
        place = len(self._header) - 1
        message = {"input_title": words["reference"]["title"], "input_message": words["reference"]["message"]}
        self._sheet.data_validation(0, place, n_rows, place, {"validate": "any", **message})

    def finish(self, n_rows: int) -> None:
        """Header and first column stay in view; what is ours is locked, without a password."""
        self._sheet.freeze_panes(1, 1)
        self._sheet.autofilter(0, 0, max(n_rows, 1), len(self._header) - 1)
        allowed = ("autofilter", "sort", "format_cells", "format_columns", "format_rows")
        self._sheet.protect("", dict.fromkeys(allowed, True))

    def list(self, sheet: str, header: str, entries: Iterable[str]) -> None:
        target = self._more[sheet]
        target.set_column(0, 0, 60, self._style("own"))
        target.write_string(0, 0, header, self._style("head_own"))
        for line, text in enumerate(entries, start=1):
            target.write_string(line, 0, guard(text), self._style("own"))

    def instructions(self, lines: Sequence[str]) -> None:
        target = self._more[self._last]
        target.hide_gridlines(2)
        target.set_column(0, 0, 110, self._style("help"))
        for line, text in enumerate(lines):
            target.write_string(2 * line, 0, text, self._style("help" if line else "title"))


_STYLES: dict[str, dict[str, Any]] = {
    "plain": {"num_format": "@", "locked": False, "valign": "top"},
    "mend": {"num_format": "@", "locked": False, "valign": "top", "bg_color": _TO_MEND},
    "own": {"num_format": "@", "valign": "top", "font_color": "#595959", "bg_color": _PALE},
    "why": {"num_format": "@", "text_wrap": True, "valign": "top", "bg_color": _PALE},
    "count": {"num_format": "0", "font_color": "#595959", "bg_color": _PALE},
    "money": {"num_format": "#,##0.00", "font_color": "#595959", "bg_color": _PALE},
    "day": {"num_format": "dd/mm/yyyy", "font_color": "#595959", "bg_color": _PALE},
    "head": {"num_format": "@", "bold": True, "bottom": 1},
    "head_mend": {"num_format": "@", "bold": True, "bottom": 1, "bg_color": _TO_MEND},
    "head_own": {"num_format": "@", "bold": True, "bottom": 1, "bg_color": _GREY, "font_color": "#595959"},
    "help": {"text_wrap": True, "valign": "top"},
    "title": {"bold": True, "font_size": 14},
}
