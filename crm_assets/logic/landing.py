"""What an export means: which dataset a file is, which column is which field, what its values say about it.

Values are never typed or corrected here: they go to the raw tables as the text they were (architecture.md,
decision 3), apart from the transformations a tenant names. What this module finds out is about the file:
its mapping, decimal style, date order, period, order among files, anomalies. No files are opened here
(`reading.py`), and no database is known.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from crm_assets.logic.reading import Batch

ISAVIGNE = Path(__file__).resolve().parent.parent / "config" / "sources" / "isavigne.yaml"
RAGGED_ROW = "RAGGED_ROW"
SEVERITIES = ("Critical", "High", "Medium")
MAX_EXAMPLES = 5
# Heads the column of our own workbooks that says which refused row a mended one stands for.
REFERENCE_HEADER = "crm_ref"

Transform = Callable[[str | None], str | None]
DateOrder = Literal["dmy", "mdy"]


# --- the source as config/sources/*.yaml describes it


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FieldSpec(_Model):
    """One field of a dataset: how its header may be spelt, and what its values should be."""

    synonyms: list[str]
    added: list[str] = []  # the tenant's own spellings: they come before all others
    transformations: list[Any] = []
    type: Literal["text", "number", "date", "bool"] = "text"
    required: bool = False
    expected: bool = False
    range: tuple[float | None, float | None] | None = None


class DatasetSpec(_Model):
    """One kind of export."""

    folder: str
    keywords: list[str]
    fields: dict[str, FieldSpec]
    one_of: list[list[str]] = []
    inferred: list[str] = []
    period: list[str] = []

    @property
    def requirements(self) -> list[list[str]]:
        """What a row needs: groups of fields, one of each group."""
        return [[name] for name, spec in self.fields.items() if spec.required] + self.one_of


class Booleans(_Model):
    true_words: list[str | bool]
    false_words: list[str | bool]

    @property
    def words(self) -> frozenset[str]:
        """Every spelling of yes and no, normalised like a header."""
        return frozenset(normalise_header(str(word)) for word in [*self.true_words, *self.false_words])


class SourceSpec(_Model):
    """The exports of one system; dataset names are the raw tables' names."""

    source: str
    folder: str
    extensions: list[str] = Field(min_length=1)
    booleans: Booleans
    datasets: dict[str, DatasetSpec]

    def with_tenant(
        self, synonyms: dict[str, dict[str, list[str]]], transformations: dict[str, dict[str, list[Any]]]
    ) -> SourceSpec:
        """The same source with a tenant's spellings and transformations; ValueError names what is unknown."""
        content = self.model_dump()
        for key, additions in (("added", synonyms), ("transformations", transformations)):
            for given, by_field in additions.items():
                name = self._dataset_name(given)
                for field_name, values in by_field.items():
                    if field_name not in content["datasets"][name]["fields"]:
                        raise ValueError(f"source: dataset {name!r} has no field {field_name!r}")
                    if key == "added":
                        values = [normalise_header(value) for value in values]
                    else:
                        compile_transformations(values)
                    content["datasets"][name]["fields"][field_name][key] = list(values)
        return SourceSpec.model_validate(content)

    def _dataset_name(self, given: str) -> str:
        for name, dataset in self.datasets.items():
            if given in (name, dataset.folder):
                return name
        raise ValueError(f"source: no dataset {given!r} (known: {', '.join(self.datasets)})")


def load_source(path: Path = ISAVIGNE) -> SourceSpec:
    """The source that a YAML file describes; ValueError says what is wrong with it."""
    try:
        return SourceSpec.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        raise ValueError(f"{path.name}: {error}") from error


# --- names of files and headers


def normalise_header(text: str) -> str:
    """A header as synonyms are written (spec.md §2.1): `N° Pièce` -> `n_piece`, `Cœur` -> `coeur`."""
    text = unicodedata.normalize("NFKD", text.translate(_LIGATURES))
    text = "".join(character for character in text if not unicodedata.combining(character)).lower()
    return re.sub(r"[^a-z0-9]+", "_", text).strip("_")


_LIGATURES = str.maketrans({"œ": "oe", "Œ": "OE", "æ": "ae", "Æ": "AE"})


@dataclass(frozen=True)
class Recognition:
    """The dataset a path stands for, or why it stands for none."""

    dataset: str | None
    reason: str | None = None


def recognise(path: str, source: SourceSpec) -> Recognition:
    """Which dataset a file is by its place or name (spec.md §2); never by a guess."""
    parts = PurePosixPath(path).parts
    *folders, name = parts
    extension = name.rpartition(".")[2].lower()
    hint = f"put it into {source.folder}/<dataset>/, dataset one of " + ", ".join(
        dataset.folder for dataset in source.datasets.values()
    )
    if "." not in name or extension not in source.extensions:
        return Recognition(None, f"is no export: the name must end in .{', .'.join(source.extensions)}")
    if folders and normalise_header(folders[0]) == normalise_header(source.folder):
        folders = folders[1:]
        if folders:
            for key, dataset in source.datasets.items():
                if normalise_header(folders[0]) == dataset.folder:
                    return Recognition(key)
            return Recognition(None, f"lies in a folder that is no dataset: {hint}")
    if folders:
        return Recognition(None, f"lies in a folder that no layout names: {hint}")
    stem = normalise_header(name.rpartition(".")[0])
    found = [key for key, dataset in source.datasets.items() if any(word in stem for word in dataset.keywords)]
    if len(found) == 1:
        return Recognition(found[0])
    if found:
        named = " and ".join(source.datasets[key].folder for key in found)
        return Recognition(None, f"has a name that could mean {named}: {hint}")
    return Recognition(None, f"has a name that no rule recognises: {hint}")


_DATE_IN_NAME = (
    re.compile(
        r"(?<!\d)(?P<y>(?:19|20)\d\d)(?P<s>[-_. ]?)(?P<m>\d\d)(?P=s)(?P<d>\d\d)"
        r"(?=\d{4}(?:\d\d)?(?!\d)|(?!\d))"  # a time of day may follow
    ),
    re.compile(r"(?<!\d)(?P<d>\d{1,2})(?P<s>[-_. ])(?P<m>\d{1,2})(?P=s)(?P<y>(?:19|20)\d\d|\d\d)(?!\d)"),
    re.compile(r"(?<!\d)(?P<d>\d\d)(?P<m>\d\d)(?P<y>(?:19|20)\d\d)(?!\d)"),
)


def date_in_name(path: str, two_digit_year_pivot: int) -> date | None:
    """The newest date in a file's name, ISO or day-first, or None."""
    stem = PurePosixPath(path).stem
    found: list[date] = []
    for pattern in _DATE_IN_NAME:
        rest = stem
        for match in pattern.finditer(stem):
            day = _date(_full_year(match["y"], two_digit_year_pivot), int(match["m"]), int(match["d"]))
            if day is not None:
                found.append(day)
                # What is one date must not be read as another one by a later pattern.
                rest = rest[: match.start()] + "#" * len(match[0]) + rest[match.end() :]
        stem = rest
    return max(found, default=None)


def order_key(file_date: date | None, modified_at: datetime, sha256: str) -> str:
    """The place of a file among the files of its dataset, as text to be sorted byte by byte (spec.md §2).

    `file_date` is the date in the name, else the newest date inside; without one the day of modification
    counts. Files of one date come in the order they were modified.
    """
    modified = modified_at.astimezone(UTC)
    return f"{(file_date or modified.date()).isoformat()}|{modified:%Y-%m-%dT%H:%M:%S.%f}|{sha256}"


# --- the mapping of a file


@dataclass(frozen=True)
class HeaderMapping:
    """Which column of a file is which field."""

    dataset: DatasetSpec
    header: list[str]
    columns: dict[str, int]  # field -> place in the header, fields in the dataset's order
    extra: dict[int, str]  # place -> name of a column that is no field
    reference: int | None = None  # place of the column that leads back to refused rows

    @property
    def fields_by_header(self) -> dict[str, str]:
        """header -> field."""
        return {self.header[place]: name for name, place in self.columns.items()}

    @property
    def unmapped_headers(self) -> list[str]:
        """Headers that are no field, blank ones aside."""
        return [name for place, name in self.extra.items() if self.header[place].strip()]

    @property
    def missing_fields(self) -> list[str]:
        return [name for name in self.dataset.fields if name not in self.columns]

    @property
    def missing_requirements(self) -> list[list[str]]:
        """Groups of fields of which the file has none."""
        return [group for group in self.dataset.requirements if not any(name in self.columns for name in group)]

    @property
    def quality(self) -> int:
        """Mapping quality 0..100 = int(60·mapped/total + 40·(1 − required_missing/total)), spec.md §2.1."""
        total = len(self.dataset.fields)
        return int((60 * len(self.columns) + 40 * (total - len(self.missing_requirements))) / total)

    def fault(self, header_line: int) -> str | None:
        """Why the file cannot be that dataset, to be read after its name; None when it can.

        Header texts are not repeated: in a file without a header they are some person's data.
        """
        if not self.columns:
            return (
                f"has no header row: line {header_line} has no name known for {self.dataset.folder};"
                " export it with column names, or add your spellings under source.synonyms of the tenant"
            )
        lacking = [
            group for group in self.missing_requirements if not all(name in self.dataset.inferred for name in group)
        ]
        if not lacking:
            return None
        named = "; ".join(
            " or ".join(f"{name} (e.g. {', '.join(self.dataset.fields[name].synonyms[:3])})" for name in group)
            for group in lacking
        )
        return (
            f"lacks a column for {named}: export it with that column, or add your spelling under"
            " source.synonyms of the tenant"
        )


def map_header(header: Sequence[str], dataset: DatasetSpec) -> HeaderMapping:
    """Give each field its column: the first synonym present wins, a column serves one field.

    A tenant's own spellings are all tried before the common ones: they can take a column from another field.
    """
    places: dict[str, int] = {}
    for place, text in enumerate(header):
        places.setdefault(normalise_header(text), place)
    places.pop("", None)
    reference = next((place for name, place in places.items() if name.startswith(REFERENCE_HEADER)), None)
    columns: dict[str, int] = {}
    for own in (True, False):
        for name, spec in dataset.fields.items():
            if name in columns:
                continue
            present = (synonym for synonym in (spec.added if own else spec.synonyms) if synonym in places)
            if (found := next(present, None)) is not None:
                columns[name] = places.pop(found)
    extra: dict[int, str] = {}
    for place, text in enumerate(header):
        if place not in columns.values() and place != reference:
            name = text.strip() or f"column_{place + 1}"
            extra[place] = name if name not in extra.values() else f"{name} ({place + 1})"
    ordered = {name: columns[name] for name in dataset.fields if name in columns}
    return HeaderMapping(dataset, list(header), ordered, extra, reference)


# --- transformations a tenant may name (spec.md §2.1)

_NULL_WORDS = frozenset({"null", "none", "nan", "n/a", "na", "#n/a", "-"})
_EMAIL_INSIDE = re.compile(r"[^\s<>;,\"']+@[^\s<>;,\"']+")
_CURRENCY = re.compile(r"€|\beur(?:os?)?\b|[\s\u00a0\u202f]", re.IGNORECASE)


def _parse_email(text: str) -> str:
    found = _EMAIL_INSIDE.search(text)
    return found[0].lower().removeprefix("mailto:") if found else text


def _parse_phone(text: str) -> str:
    digits = re.sub(r"\D", "", text.replace("(0)", ""))
    return ("+" if text.strip().startswith("+") else "") + digits if digits else text


def _parse_date(text: str, *, pattern: str) -> str:
    try:
        return datetime.strptime(text.strip(), pattern).date().isoformat()
    except ValueError:
        return text  # as it was: what does not parse is rejected with its text, never nulled


_PLAIN: dict[str, Callable[[str], str]] = {
    "trim": lambda text: text.strip(),
    "collapse_spaces": lambda text: " ".join(text.split()),
    "lowercase": str.lower,
    "uppercase": str.upper,
    "capitalize": str.capitalize,
    "remove_special_chars": lambda text: re.sub(r"[^\w\s]|_", "", text),
    "parse_email": _parse_email,
    "parse_phone": _parse_phone,
    "parse_currency": lambda text: _CURRENCY.sub("", text),
    "null_to_empty": lambda text: "" if text.strip().lower() in _NULL_WORDS else text,
}
# On columns rather than values: see `raw_table`.
_SPLIT_NAME = "split_name"


def compile_transformations(steps: Iterable[Any]) -> Transform | None:
    """One function for a list of steps (`trim`, `{map_values: {...}}`, ...); None when no value changes."""
    made: list[Transform] = []
    for step in steps:
        name, argument = next(iter(step.items())) if isinstance(step, dict) and len(step) == 1 else (step, None)
        if name in _PLAIN and argument is None:
            made.append(_on_text(_PLAIN[name]))
        elif name == "parse_date" and isinstance(argument, str):
            made.append(_on_text(partial(_parse_date, pattern=argument)))
        elif name == "map_values" and isinstance(argument, dict):
            made.append(partial(_map_value, values={str(key): value for key, value in argument.items()}))
        elif name == "empty_to_zero" and argument is None:
            made.append(lambda text: text or "0")
        elif name != _SPLIT_NAME or argument is not None:
            raise ValueError(
                f"source: no transformation {step!r} (known: {', '.join(_PLAIN)}, empty_to_zero,"
                f" {_SPLIT_NAME}, parse_date: <format>, map_values: {{...}})"
            )
    if not made:
        return None

    def apply(text: str | None) -> str | None:
        for transform in made:
            text = transform(text) or None
        return text

    return apply


def _map_value(text: str | None, *, values: dict[str, Any]) -> str | None:
    found = values.get(text or "", text)
    return None if found is None else str(found)


def _on_text(change: Callable[[str], str]) -> Transform:
    return lambda text: None if text is None else change(text)


def split_name(text: str) -> tuple[str, str]:
    """A full name as (last name, first name): words in capitals are the last name, else the last word is."""
    words = text.split()
    if len(words) < 2:
        return text.strip(), ""
    capitals = [word for word in words if word.isupper() and len(word) > 1]
    last = capitals if 0 < len(capitals) < len(words) else words[-1:]
    if capitals and len(capitals) == len(words):
        last = words[:1]  # all in capitals: offices write the last name first
        return last[0], " ".join(words[1:])
    return " ".join(last), " ".join(word for word in words if word not in last)


def _name_part(text: str | None, *, position: int) -> str | None:
    return split_name(text)[position] or None if text else None


# --- rows for the raw tables

_SERIAL = r"^[1-9]\d{4}(\.\d+)?$"
_SERIAL_EPOCH = date(1899, 12, 30)


class RowMaker:
    """Turns batches of a mapped file into rows of its raw table."""

    def __init__(self, mapping: HeaderMapping, file_id: str, *, is_spreadsheet: bool) -> None:
        self.mapping = mapping
        self.file_id = file_id
        self.is_spreadsheet = is_spreadsheet
        self._transforms = {
            name: transform
            for name in mapping.columns
            if (transform := compile_transformations(mapping.dataset.fields[name].transformations))
        }
        self._splits = [
            name
            for name in mapping.columns
            if _SPLIT_NAME in mapping.dataset.fields[name].transformations
            and {"last_name", "first_name"} <= mapping.dataset.fields.keys()
        ]

    def fields(self, batch: Batch) -> dict[str, pa.Array]:
        """The batch's mapped columns by field, transformed where the tenant asks for it."""
        found: dict[str, pa.Array] = {}
        for name, place in self.mapping.columns.items():
            column = batch.columns[place]
            if transform := self._transforms.get(name):
                column = _each_text(column, transform)
            if self.is_spreadsheet and self.mapping.dataset.fields[name].type == "date":
                column = _serials_as_dates(column)
            found[name] = column
        for name in self._splits:
            for position, part in enumerate(("last_name", "first_name")):
                split = _each_text(found[name], partial(_name_part, position=position))
                found[part] = pc.coalesce(found[part], split) if part in found else split
        return found

    def table(self, batch: Batch, fields: dict[str, pa.Array]) -> pa.Table:
        """Rows of the raw table: file_id, source_line, row_no, the dataset's fields, extra, problems."""
        n_plain, ragged = len(batch.lines), batch.ragged
        nothing = pa.nulls(len(ragged), pa.string())

        def stacked(column: pa.Array, below: pa.Array = nothing) -> pa.Array:
            return pa.concat_arrays([column, below]) if ragged else column

        absent = pa.nulls(n_plain, pa.string())
        columns: dict[str, pa.Array] = {
            "file_id": pa.array([self.file_id]).take(pa.array(np.zeros(batch.n_rows, dtype=np.int64))),
            "source_line": stacked(pa.array(batch.lines), pa.array([row.line for row in ragged], pa.int64())),
            "row_no": stacked(pa.array(batch.row_numbers), pa.array([row.row_no for row in ragged], pa.int64())),
        }
        for name in self.mapping.dataset.fields:
            columns[name] = stacked(fields.get(name, absent))
        whole_rows = pa.array([json.dumps(row.values, ensure_ascii=False) for row in ragged], pa.string())
        columns["extra"] = stacked(self._extra(batch), whole_rows)
        columns["problems"] = stacked(absent, pa.array([f"{{{RAGGED_ROW}}}"] * len(ragged), pa.string()))
        reference = self.mapping.reference
        columns["mends"] = stacked(absent if reference is None else batch.columns[reference])
        return pa.table(columns)

    def _extra(self, batch: Batch) -> pa.Array:
        """The values of columns that are no field, one JSON object per row; null where the batch has none."""
        members = [
            pc.binary_join_element_wise(f"{json.dumps(name, ensure_ascii=False)}: ", _as_json(batch.columns[place]), "")
            for place, name in self.mapping.extra.items()
            if batch.columns[place].null_count < len(batch.columns[place])
        ]
        if not members:
            return pa.nulls(len(batch.lines), pa.string())
        return pc.binary_join_element_wise("{", pc.binary_join_element_wise(*members, ", "), "}", "")


def _each_text(column: pa.Array, change: Transform) -> pa.Array:
    """`change` on every value; each distinct text is worked out once."""
    encoded = column.dictionary_encode()
    # The text of null stands last in the dictionary: a transformation may give it a value.
    changed = pa.array([*map(change, encoded.dictionary.to_pylist()), change(None)], pa.string())
    return changed.take(pc.fill_null(encoded.indices, len(changed) - 1))


def _serials_as_dates(column: pa.Array) -> pa.Array:
    """A spreadsheet's day numbers as ISO dates: 45356 -> 2024-03-05."""
    if not pc.any(pc.match_substring_regex(column, _SERIAL)).as_py():
        return column

    def as_date(text: str | None) -> str | None:
        if text is None or not re.match(_SERIAL, text):
            return text
        return (_SERIAL_EPOCH + timedelta(days=int(float(text)))).isoformat()

    return _each_text(column, as_date)


def _as_json(column: pa.Array) -> pa.Array:
    """Texts as JSON strings, null as null."""
    if pc.any(pc.match_substring_regex(column, "[\x01-\x1f]")).as_py():
        return _each_text(column, lambda text: json.dumps(text, ensure_ascii=False))
    escaped = pc.replace_substring(pc.replace_substring(column, "\\", "\\\\"), '"', '\\"')
    return pc.fill_null(pc.binary_join_element_wise('"', escaped, '"', ""), "null")


# --- what the values say about the file

_SPACES = re.compile(r"[\s\u00a0\u202f'\u2019]")
_CURRENCY_SIGN = re.compile(r"€|eur(?:os?)?", re.IGNORECASE)
_PLAIN_NUMBER = re.compile(r"\d+")
_GROUPED = {",": re.compile(r"\d{1,3}(,\d{3})+"), ".": re.compile(r"\d{1,3}(\.\d{3})+")}


@dataclass(frozen=True)
class NumberText:
    """A number as it was written, and what it proves about the file's style."""

    digits: str  # sign, digits, separators; grouping spaces gone
    proves: str | None  # ',' or '.': this text can only be read with that decimal separator

    @property
    def value(self) -> float:
        """Its value; a lone separator that proves nothing is taken for the decimal one."""
        if self.proves:
            return float(self.digits.replace("." if self.proves == "," else ",", "").replace(self.proves, "."))
        return float(self.digits.replace(",", ".") or "nan")


@lru_cache(maxsize=1 << 16)
def read_number(text: str) -> NumberText | None:
    """A number in one of the spellings of spec.md §2.2, or None when it is none."""
    core = _CURRENCY_SIGN.sub("", text.strip()).replace("\u2212", "-").strip()
    negative = core.startswith("(") and core.endswith(")")
    core = core[1:-1] if negative else core
    sign = "-" if negative or core.startswith("-") else ""
    core = core.removeprefix("-" if not negative else "\0").removeprefix("+").strip()
    grouped_by_space = bool(_SPACES.search(core))
    core = _SPACES.sub("", core)
    if _PLAIN_NUMBER.fullmatch(core):
        return NumberText(sign + core, None)
    last = max(core.rfind(","), core.rfind("."))
    if last < 0 or not core[last + 1 :].isdigit() or not core.isascii():
        return None
    mark = core[last]
    other = "." if mark == "," else ","
    whole, decimals = core[:last], core[last + 1 :]
    if other in whole:  # 1.234,56
        fits = mark not in whole and _GROUPED[other].fullmatch(whole)
        return NumberText(sign + core, mark) if fits else None
    if mark in whole:  # 1.234.567
        return NumberText(sign + core, other) if _GROUPED[mark].fullmatch(core) else None
    if whole and not whole.isdigit():
        return None
    could_group = len(decimals) == 3 and 1 <= len(whole) <= 3 and whole != "0" and not grouped_by_space
    return NumberText(sign + core, None if could_group else mark)


_DATE_TEXT = re.compile(
    r"(?:(?P<y>\d{4})(?P<s>[-/.])(?P<m>\d{1,2})(?P=s)(?P<d>\d{1,2})"
    r"|(?P<a>\d{1,2})(?P<t>[-/.])(?P<b>\d{1,2})(?P=t)(?P<z>\d{4}|\d\d))"
    r"(?:[T ]+\d{1,2}:\d{2}(?::\d{2}(?:[.,]\d+)?)?\s*(?:Z|[+-]\d{2}:?\d{2})?)?"
)


@dataclass(frozen=True)
class DateText:
    """A date as it was written: (year, month, day) where the year came first, else (year, second, first)."""

    year: int
    month: int
    day: int
    year_first: bool

    def proves(self) -> DateOrder | None:
        """The order that alone makes sense of it."""
        if self.year_first or (self.day > 12) == (self.month > 12):
            return None
        return "dmy" if self.day > 12 else "mdy"

    def as_date(self, order: DateOrder) -> date | None:
        """The day it means, None when there is no such day."""
        if self.year_first or order == "dmy":
            return _date(self.year, self.month, self.day)
        return _date(self.year, self.day, self.month)


@lru_cache(maxsize=1 << 16)
def read_date(text: str, two_digit_year_pivot: int) -> DateText | None:
    """A date in one of the spellings of spec.md §2.2, or None; 30 February is still a DateText."""
    match = _DATE_TEXT.fullmatch(" ".join(text.split()))
    if match is None:
        return None
    if match["y"]:
        return DateText(int(match["y"]), int(match["m"]), int(match["d"]), True)
    return DateText(_full_year(match["z"], two_digit_year_pivot), int(match["b"]), int(match["a"]), False)


def _full_year(text: str, pivot: int) -> int:
    year = int(text)
    return year if len(text) == 4 else year + (2000 if year <= pivot else 1900)


def _date(year: int, month: int, day: int) -> date | None:
    try:
        return date(year, month, day)
    except ValueError:
        return None


@dataclass
class FileProfile:
    """What all values of a file say about it."""

    row_count: int = 0  # records, ragged ones included
    plain_rows: int = 0  # records with as many values as the header
    decimal_separator: str | None = None
    date_order: DateOrder = "dmy"
    first_date: date | None = None
    last_date: date | None = None
    anomalies: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SEVERITIES, 0))
    examples: list[dict[str, Any]] = field(default_factory=list)  # line, field, severity, problem: never a value


@dataclass
class _Seen:
    """A distinct date: how often, and where first."""

    count: int
    line: int


class Profiler:
    """Goes through a file's batches and ends with its profile. Memory grows with the distinct days only."""

    def __init__(self, mapping: HeaderMapping, source: SourceSpec, two_digit_year_pivot: int) -> None:
        self._mapping = mapping
        self._boolean_words = source.booleans.words
        self._pivot = two_digit_year_pivot
        self._proofs: set[str] = set()
        self._dates: dict[str, dict[DateText, _Seen]] = {}
        self._period: set[DateText] = set()
        self._profile = FileProfile()

    def add(self, batch: Batch, fields: dict[str, pa.Array]) -> None:
        """Take in one batch, its columns by field."""
        self._profile.row_count += batch.n_rows
        self._profile.plain_rows += len(batch.lines)
        for row in batch.ragged:
            self._note("Critical", "", "the number of values is not the header's", [row.line], 1)
        if not len(batch.lines):
            return
        blanks: dict[str, np.ndarray] = {}

        def blank(name: str) -> np.ndarray:
            if name not in blanks:
                blanks[name] = _blank(fields[name]) if name in fields else np.ones(len(batch.lines), dtype=bool)
            return blanks[name]

        for group in self._mapping.dataset.requirements:
            if any(name in fields for name in group):
                lacking = np.logical_and.reduce([blank(name) for name in group])
                self._note_mask("Critical", " or ".join(group), "is blank", lacking, batch.lines)
        for name, column in fields.items():
            spec = self._mapping.dataset.fields[name]
            if spec.expected:
                self._note_mask("Medium", name, "is blank", blank(name), batch.lines)
            if spec.type == "number":
                self._numbers(name, column, spec, batch.lines)
            elif spec.type == "bool":
                self._booleans(name, column, batch.lines)
            elif spec.type == "date":
                self._days(name, column, batch.lines)
        dated = [fields[name] for name in self._mapping.dataset.period if name in fields]
        if len(dated) == 1 or (dated and not dated[0].null_count):
            self._period.update(self._dates[next(n for n in self._mapping.dataset.period if n in fields)])
        elif dated:
            self._period.update(day for _, day, _ in self._distinct_days(pc.coalesce(*dated)) if day)

    def finish(self, *, has_decimal_points: bool = False) -> FileProfile:
        """The profile, when all batches have gone by."""
        profile = self._profile
        proofs = self._proofs | ({"."} if has_decimal_points else set())
        profile.decimal_separator = proofs.pop() if len(proofs) == 1 else None
        orders = {day.proves() for days in self._dates.values() for day in days}
        profile.date_order = "mdy" if "mdy" in orders and "dmy" not in orders else "dmy"
        for name, days in self._dates.items():
            for day, seen in days.items():
                if day.as_date(profile.date_order) is None:
                    self._note("High", name, "is no day of the calendar", [seen.line], seen.count)
        known = [found for day in self._period if (found := day.as_date(profile.date_order))]
        profile.first_date, profile.last_date = min(known, default=None), max(known, default=None)
        return profile

    def _note(self, severity: str, name: str, problem: str, lines: Sequence[int], count: int) -> None:
        profile = self._profile
        profile.anomalies[severity] += count
        room = MAX_EXAMPLES - sum(example["severity"] == severity for example in profile.examples)
        for line in lines[: max(room, 0)]:
            profile.examples.append({"line": int(line), "field": name, "severity": severity, "problem": problem})

    def _note_mask(self, severity: str, name: str, problem: str, mask: np.ndarray, lines: np.ndarray) -> None:
        if count := int(mask.sum()):
            self._note(severity, name, problem, lines[np.flatnonzero(mask)[:MAX_EXAMPLES]].tolist(), count)

    def _numbers(self, name: str, column: pa.Array, spec: FieldSpec, lines: np.ndarray) -> None:
        try:
            values = pc.cast(pc.replace_substring(column, ",", "."), pa.float64())
            is_plain = pc.all(pc.is_finite(values), min_count=0).as_py()  # Arrow takes `nan` and `inf` for numbers
        except pa.ArrowInvalid:
            is_plain = False
        if not is_plain:
            self._numbers_one_by_one(name, column, spec, lines)
            return
        # Every value has at most one separator: no need to look at each to know how it is written.
        for mark in ",.":
            if mark not in self._proofs:
                texts = column.filter(pc.match_substring(column, mark))
                could_group = pc.match_substring_regex(texts, rf"^[-+]?([1-9]\d{{0,2}}|0\d{{1,2}})\{mark}\d{{3}}$")
                if not pc.all(could_group, min_count=0).as_py():
                    self._proofs.add(mark)
        self._range(name, np.asarray(pc.fill_null(values, float("nan"))), spec, lines)

    def _range(self, name: str, values: np.ndarray, spec: FieldSpec, lines: np.ndarray) -> None:
        if spec.range is not None:
            low, high = spec.range
            outside = (values < (-np.inf if low is None else low)) | (values > (np.inf if high is None else high))
            self._note_mask("Medium", name, "is outside its range", outside, lines)

    def _numbers_one_by_one(self, name: str, column: pa.Array, spec: FieldSpec, lines: np.ndarray) -> None:
        """Numbers in richer spellings, or texts that are none: each distinct text is looked at."""
        encoded = column.dictionary_encode()
        read = [read_number(text) if text.strip() else NumberText("", None) for text in encoded.dictionary.to_pylist()]
        self._proofs.update(number.proves for number in read if number and number.proves)
        indices = np.asarray(pc.fill_null(encoded.indices, len(read)))
        bad = np.array([*[number is None for number in read], False], dtype=bool)
        self._note_mask("High", name, "is no number", bad[indices], lines)
        values = np.array([*[number.value if number else np.nan for number in read], np.nan])
        self._range(name, values[indices], spec, lines)

    def _booleans(self, name: str, column: pa.Array, lines: np.ndarray) -> None:
        encoded = column.dictionary_encode()
        texts = encoded.dictionary.to_pylist()
        bad = [bool(text.strip()) and normalise_header(text) not in self._boolean_words for text in texts]
        mask = np.array([*bad, False], dtype=bool)[np.asarray(pc.fill_null(encoded.indices, len(texts)))]
        self._note_mask("High", name, "is neither yes nor no", mask, lines)

    def _days(self, name: str, column: pa.Array, lines: np.ndarray) -> None:
        days = self._dates.setdefault(name, {})
        for text, day, where in self._distinct_days(column):
            if day is None:
                if text.strip():
                    self._note("High", name, "is no date", lines[where[:MAX_EXAMPLES]].tolist(), len(where))
            elif day in days:
                days[day].count += len(where)
            else:
                days[day] = _Seen(len(where), int(lines[where[0]]))

    def _distinct_days(self, column: pa.Array) -> Iterator[tuple[str, DateText | None, np.ndarray]]:
        """Each distinct text, the day it is, and the rows it stands in."""
        if pc.any(pc.match_substring(column, ":")).as_py():  # a time of day would make every text distinct
            column = pc.replace_substring_regex(column, r"(\d)[T ]+\d{1,2}:\d{2}\S*\s*\S*$", r"\1")
        encoded = column.dictionary_encode()
        indices = np.asarray(pc.fill_null(encoded.indices, -1))
        order = np.argsort(indices, kind="stable")
        starts = np.searchsorted(indices[order], np.arange(len(encoded.dictionary) + 1))
        for number, text in enumerate(encoded.dictionary.to_pylist()):
            yield text, read_date(text, self._pivot), order[starts[number] : starts[number + 1]]


def _blank(column: pa.Array) -> np.ndarray:
    """Where a column says nothing: null, or nothing but spaces."""
    if not column.null_count and not pc.any(pc.utf8_is_space(column)).as_py():
        return np.zeros(len(column), dtype=bool)
    return np.asarray(pc.fill_null(pc.equal(pc.utf8_trim_whitespace(column), ""), True))
