"""What an export means: which dataset a file is, which column is which field, what its values say about it.

Values are never typed or corrected here: they go to the raw tables as the text they were (architecture.md,
decision 3), apart from the transformations a tenant names. What this module finds out is about the file:
its mapping, decimal style, date order, period, order among files, anomalies. No files are opened here
(`reading.py`), and no database is known.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from crm_assets.logic.reading import Batch, Ragged
from crm_assets.logic.spellings import (
    DAY_AND_TIME,
    NO_DATES,
    DateOrder,
    DateText,
    NumberText,
    calendar_day,
    full_year,
    read_date,
    read_number,
)
from crm_assets.logic.transformations import (
    SPLIT_NAME,
    Transform,
    compile_transformations,
    name_part,
    with_country,
)

if TYPE_CHECKING:
    from crm_assets.tenants import Tenant

ISAVIGNE = Path(__file__).resolve().parent.parent / "config" / "sources" / "isavigne.yaml"
RAGGED_ROW, INVALID_KEY = "RAGGED_ROW", "INVALID_KEY"
# What rows are found and joined by. The database's indexes have an end, and so have codes and names.
KEY_FIELDS = frozenset({
    "client_code", "document_no", "document_type", "line_no", "product_key", "product_label", "label", "article",
    "vintage", "warehouse", "email", "phone", "mobile", "country", "delivery_country",
    "channel", "campaign_id", "type", "status",
})  # fmt: skip
SEVERITIES = ("Critical", "High", "Medium")
MAX_EXAMPLES = 5
# Heads the column of our own workbooks that says which refused row a mended one stands for.
REFERENCE_HEADER = "crm_ref"
_REFERENCE = re.compile(r"[0-9a-f]{16}:[0-9]+")


# --- the source as config/sources/*.yaml describes it


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FieldSpec(_Model):
    """One field of a dataset: how its header may be spelt, and what its values should be."""

    synonyms: list[str]
    added: list[str] = []  # the tenant's own spellings: they come before all others
    transformations: list[Any] = []
    fixed: str | None = None  # the tenant's: stands in every row of a file without such a column
    type: Literal["text", "number", "date", "bool", "choice"] = "text"
    required: bool = False
    expected: bool = False
    rare: bool = False
    range: tuple[float | None, float | None] | None = None
    values: list[str] = []  # what may stand here; of a choice nothing else is read


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
    true_words: list[str]
    false_words: list[str]

    @property
    def words(self) -> frozenset[str]:
        """Every spelling of yes and no, normalised like a header."""
        return frozenset([*self.true_words, *self.false_words])


class SourceSpec(_Model):
    """The exports of one system; dataset names are the raw tables' names."""

    source: str
    folder: str
    extensions: list[str] = Field(min_length=1)
    booleans: Booleans
    datasets: dict[str, DatasetSpec]

    @cached_property
    def versions(self) -> dict[str, str]:
        """First 12 hex of the SHA-256 of all that is said of a dataset: while it stays, so does any file's mapping."""
        said = {name: dataset.model_dump_json().encode() for name, dataset in self.datasets.items()}
        return {name: hashlib.sha256(text).hexdigest()[:12] for name, text in said.items()}

    def of_tenant(self, tenant: Tenant) -> SourceSpec:
        """The same source as a tenant's file has it; ValueError names the key that is wrong and what is known."""
        return self.with_tenant(
            tenant.source.synonyms, tenant.source.transformations, tenant.source.fixed, country=tenant.country
        )

    def with_tenant(
        self,
        synonyms: Mapping[str, Mapping[str, list[str]]],
        transformations: Mapping[str, Mapping[str, list[Any]]],
        fixed: Mapping[str, Mapping[str, Any]] | None = None,
        *,
        country: str = "FR",
    ) -> SourceSpec:
        """The same source with a tenant's spellings, transformations and fixed values; ValueError as `of_tenant`.

        `country` (ISO alpha-2) is the one whose phone numbers `parse_phone` reads.
        """
        content = self.model_dump()
        given_by_key = {"synonyms": synonyms, "transformations": transformations, "fixed": fixed or {}}
        for key, given in given_by_key.items():
            for folder_or_name, by_field in given.items():
                try:
                    name = self.dataset_name(folder_or_name)
                except ValueError as error:
                    raise ValueError(f"source.{key}: {error}") from None
                dataset = self.datasets[name]
                for field_name, value in by_field.items():
                    if field_name not in dataset.fields:
                        raise ValueError(
                            f"source.{key}.{folder_or_name}: no field {field_name!r}{_nearest(field_name, dataset)}"
                            f" (known: {', '.join(dataset.fields)})"
                        )
                    setting = content["datasets"][name]["fields"][field_name]
                    try:
                        if key == "synonyms":
                            setting["added"] = [_synonym(text) for text in value]
                        elif key == "transformations":
                            setting["transformations"] = self._steps(with_country(value, country), dataset)
                        else:
                            setting["fixed"] = self._fixed(value, field_name, dataset)
                    except ValueError as error:
                        raise ValueError(f"source.{key}.{folder_or_name}.{field_name}: {error}") from None
        return SourceSpec.model_validate(content)

    @staticmethod
    def _steps(steps: list[Any], dataset: DatasetSpec) -> list[Any]:
        compile_transformations(steps)
        if SPLIT_NAME in steps and not dataset.fields.keys() >= {"last_name", "first_name"}:
            raise ValueError(f"{SPLIT_NAME} needs the fields last_name and first_name, which {dataset.folder} has not")
        return steps

    def _fixed(self, value: Any, name: str, dataset: DatasetSpec) -> str:
        """A fixed value as text that can be read in one way only; ValueError when it cannot be read."""
        if name in dataset.inferred:
            raise ValueError("cannot be fixed: one value for all rows would make one document of them")
        if isinstance(value, bool):
            value = "1" if value else "0"
        text = " ".join(str(value).split())
        spec = dataset.fields[name]
        if not text or isinstance(value, list | dict) or value is None:
            raise ValueError(f"one text, number or date is expected, found {value!r}")
        if spec.type == "number":
            if (number := read_number(text)) is None:
                raise ValueError(f"{text!r} is no number")
            text = format(number.exact(None), "f")
            # 1.234 would be a thousand in a file with decimal commas; 1.2340 is not.
            return f"{text}0" if read_number(text) == NumberText(text, None) and "." in text else text
        if spec.type == "date":
            try:
                return date.fromisoformat(text).isoformat()
            except ValueError:
                raise ValueError(f"{text!r} is no date: write it as 2024-03-25") from None
        if spec.type == "bool" and normalise_header(text) not in self.booleans.words:
            raise ValueError(f"{text!r} is neither yes nor no: write oui or non")
        if spec.type == "choice" and _choice(text) not in self.booleans.words.union(spec.values):
            raise ValueError(f"{text!r} is none of {', '.join(spec.values)}")
        return text

    def dataset_name(self, given: str) -> str:
        """The dataset of that name or folder; ValueError names those there are."""
        for name, dataset in self.datasets.items():
            if given in (name, dataset.folder):
                return name
        known = ", ".join(f"{name} or {d.folder}" if name != d.folder else name for name, d in self.datasets.items())
        raise ValueError(f"no dataset {given!r} (known: {known})")


def _synonym(text: str) -> str:
    normal = normalise_header(text)
    if not normal:
        raise ValueError(f"{text!r} has neither letter nor digit")
    return normal


def _nearest(name: str, dataset: DatasetSpec) -> str:
    """Which field was perhaps meant, as part of a sentence."""
    normal = normalise_header(name)
    meant = next((field_name for field_name, spec in dataset.fields.items() if normal in spec.synonyms), None)
    return f", {meant} is meant perhaps" if meant else ""


def _choice(text: str) -> str:
    """A value of a closed list as the list has it: `Prestige ` -> `prestige`, `2.0` -> `2`."""
    plain = text.strip().lower()
    return plain[0] if plain in ("1,0", "0,0") else plain.removesuffix(".0").strip("-")


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
            day = calendar_day(full_year(match["y"], two_digit_year_pivot), int(match["m"]), int(match["d"]))
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
    fixed: dict[str, str]  # field -> the tenant's value for all rows, where the file has no column
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
        return [name for name in self.dataset.fields if name not in self.columns and name not in self.fixed]

    @property
    def missing_requirements(self) -> list[list[str]]:
        """Groups of fields of which the file has none."""
        missing = self.missing_fields
        return [group for group in self.dataset.requirements if all(name in missing for name in group)]

    @property
    def quality(self) -> int:
        """Mapping quality 0..100 = int(60·mapped/total + 40·(1 − required_missing/total)), spec.md §2.1.

        A field with a fixed value counts as mapped; one that few exports have does not count at all.
        """
        fields = [name for name, spec in self.dataset.fields.items() if not spec.rare]
        total = len(fields)
        mapped = len(set(fields) - set(self.missing_fields))
        return int((60 * mapped + 40 * (total - len(self.missing_requirements))) / total)

    @property
    def version(self) -> str:
        """First 12 hex of the SHA-256 of all that decides what the file's rows become."""
        applied = {
            "columns": self.columns,
            "fixed": self.fixed,
            "reference": self.reference,
            "extra": sorted(self.extra.items()),
            "steps": {name: steps for name in self.columns if (steps := self.dataset.fields[name].transformations)},
        }
        return hashlib.sha256(json.dumps(applied, sort_keys=True).encode()).hexdigest()[:12]

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
    fixed = {name: s.fixed for name, s in dataset.fields.items() if s.fixed is not None and name not in columns}
    return HeaderMapping(dataset, list(header), ordered, fixed, extra, reference)


# --- rows for the raw tables

_SERIAL = r"^[1-9]\d{4}(\.\d+)?$"
_SERIAL_EPOCH = date(1899, 12, 30)


def without_overlong_keys(batch: Batch, mapping: HeaderMapping, key_bytes: int) -> Batch:
    """The batch with the rows apart that hold a longer text than `key_bytes` where a code or name belongs."""
    places = [place for name, place in mapping.columns.items() if name in KEY_FIELDS]
    places += [] if mapping.reference is None else [mapping.reference]
    is_overlong = np.zeros(len(batch.lines), dtype=bool)
    for place in places:
        size = pc.binary_length(batch.columns[place])
        if (pc.max(size).as_py() or 0) > key_bytes:
            is_overlong |= np.asarray(pc.fill_null(pc.greater(size, key_bytes), False))
    if not is_overlong.any():
        return batch
    at = np.flatnonzero(is_overlong)
    values = zip(*(column.take(pa.array(at)).to_pylist() for column in batch.columns), strict=True)
    apart = [
        Ragged(int(batch.lines[row]), int(batch.row_numbers[row]), [text or "" for text in texts], is_overlong=True)
        for row, texts in zip(at, values, strict=True)
    ]
    return replace(
        batch,
        columns=[column.filter(pa.array(~is_overlong)) for column in batch.columns],
        lines=batch.lines[~is_overlong],
        row_numbers=batch.row_numbers[~is_overlong],
        ragged=sorted([*batch.ragged, *apart], key=lambda row: row.row_no),
    )


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
            if SPLIT_NAME in mapping.dataset.fields[name].transformations
            and {"last_name", "first_name"} <= mapping.dataset.fields.keys()
        ]

    @property
    def columns(self) -> list[str]:
        """The columns of the raw table in which a row of this file can have a value."""
        mapping = self.mapping
        filled = {*mapping.columns, *mapping.fixed, *(("last_name", "first_name") if self._splits else ())}
        return [
            *("file_id", "source_line", "row_no"),
            *(name for name in mapping.dataset.fields if name in filled),
            *("extra", "problems"),
            *(["mends"] if mapping.reference is not None else []),
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
            whole = found[name]
            for position, part in enumerate(("last_name", "first_name")):
                split = _each_text(whole, partial(name_part, position=position))
                # A column of the part itself that holds whole names gives way to what is split off it.
                found[part] = pc.coalesce(found[part], split) if part in found and part != name else split
        for name, value in self.mapping.fixed.items():
            found.setdefault(name, pa.array([value]).take(pa.array(np.zeros(len(batch.lines), dtype=np.int64))))
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
        problems = [f"{{{INVALID_KEY if row.is_overlong else RAGGED_ROW}}}" for row in ragged]
        columns["problems"] = stacked(absent, pa.array(problems, pa.string()))
        reference = self.mapping.reference
        if reference is None:
            columns["mends"] = stacked(absent)
        else:
            # A ragged row's values may stand anywhere, its reference too.
            found = [next(filter(_REFERENCE.fullmatch, map(str.strip, row.values)), None) for row in ragged]
            columns["mends"] = stacked(batch.columns[reference], pa.array(found, pa.string()))
        return pa.table(columns)

    def _extra(self, batch: Batch) -> pa.Array:
        """The values of columns that are no field, one JSON object per row; null where the batch has none."""
        members = [
            _json_member(name, batch.columns[place])
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


def _json_member(name: str, column: pa.Array) -> pa.Array:
    """`"name": "text"` for each text, null as null."""
    encoded = column.dictionary_encode()
    texts = encoded.dictionary
    if pc.any(pc.match_substring_regex(texts, "[\x01-\x1f]")).as_py():
        written = pa.array([json.dumps(text, ensure_ascii=False) for text in texts.to_pylist()], pa.string())
    else:
        escaped = pc.replace_substring(pc.replace_substring(texts, "\\", "\\\\"), '"', '\\"')
        written = pc.binary_join_element_wise('"', escaped, '"', "")
    whole = pa.concat_arrays([written, pa.array(["null"])])
    members = pc.binary_join_element_wise(f"{json.dumps(name, ensure_ascii=False)}: ", whole, "")
    return members.take(pc.fill_null(encoded.indices, len(texts)))


# --- what the values say about the file


@dataclass
class Finding:
    """One kind of anomaly in one field: how often, on which first lines, and the texts that stand there."""

    severity: str
    name: str  # the field, several as `a or b`, '' for a row as a whole
    problem: str
    count: int = 0
    lines: list[int] = field(default_factory=list)
    values: list[str] = field(default_factory=list)  # as in the file; never to be shown unmasked outside the database

    def note(self, count: int, lines: Sequence[int], values: Sequence[str] = ()) -> None:
        self.count += count
        room = max(MAX_EXAMPLES - len(self.lines), 0)
        self.lines += [int(line) for line in lines[:room]]
        self.values += [text for text in values[:room] if text not in self.values]


@dataclass
class Refusals:
    """Rows that staging will refuse with one code of spec.md §2.3: how many, and the first lines."""

    count: int = 0
    lines: list[int] = field(default_factory=list)

    def note(self, mask: np.ndarray, lines: np.ndarray) -> None:
        if found := int(mask.sum()):
            self.count += found
            room = max(MAX_EXAMPLES - len(self.lines), 0)
            self.lines += lines[np.flatnonzero(mask)[:room]].tolist()


@dataclass
class FileProfile:
    """What all values of a file say about it."""

    row_count: int = 0  # records, ragged ones included
    plain_rows: int = 0  # records with as many values as the header
    decimal_separator: str | None = None
    date_order: DateOrder = "dmy"
    first_date: date | None = None
    last_date: date | None = None
    findings: list[Finding] = field(default_factory=list)  # worst first
    refusals: dict[str, Refusals] = field(default_factory=dict)  # code -> rows, as far as one file can tell
    refused_rows: int = 0
    first_rows: list[tuple[int, dict[str, str | None]]] = field(default_factory=list)  # line, field -> text

    @property
    def anomalies(self) -> dict[str, int]:
        """severity -> count."""
        return {severity: sum(f.count for f in self.findings if f.severity == severity) for severity in SEVERITIES}

    @property
    def examples(self) -> list[dict[str, Any]]:
        """A few of each severity: line, field, severity, problem; never a value."""
        found: list[dict[str, Any]] = []
        for severity in SEVERITIES:
            kinds = [f for f in self.findings if f.severity == severity]
            # The first of each kind, then the second of each …
            by_turns = [(f, f.lines[turn]) for turn in range(MAX_EXAMPLES) for f in kinds if turn < len(f.lines)]
            found += [
                {"line": line, "field": f.name, "severity": severity, "problem": f.problem}
                for f, line in by_turns[:MAX_EXAMPLES]
            ]
        return found


@dataclass
class _Seen:
    """A distinct date: how often, and where first, with its text there."""

    count: int
    line: int
    text: str


@dataclass(frozen=True)
class _Days:
    """One date column of one batch: its distinct texts, what day each is, and where each stands.

    `indices` has one place per row; the last place of the arrays per text is that of null.
    """

    texts: list[str]
    days: list[DateText | None]
    is_blank: np.ndarray
    indices: np.ndarray


# Which code a row gets that has none of these fields (spec.md §2.3), by the first field of the group.
MISSING_CODES = {
    "client_code": "MISSING_CLIENT",
    "document_no": "MISSING_DOCUMENT",
    "product_key": "MISSING_PRODUCT",
    "label": "MISSING_PRODUCT",
    "order_date": "MISSING_DATE",
    "contact_date": "MISSING_DATE",
    "quantity": "MISSING_QUANTITY",
    "amount_ht": "MISSING_AMOUNT",
}
INVALID_DATE, INVALID_NUMBER, INVALID_KEY = "INVALID_DATE", "INVALID_NUMBER", "INVALID_KEY"
# A code that can be no key, as the macro is_invalid_code has it.
_NO_KEY = re.compile(r"#(?:N/A|NV|[^ ]+[!?])|[0-9](?:[.,][0-9]+)?E\+[0-9]{2,3}", re.IGNORECASE)


def is_no_key(code: str) -> bool:
    """Whether a client or product code says something and yet names nothing: `-`, `#N/A`, `1,23E+11`."""
    plain = code.strip()
    return bool(plain) and (not any(map(str.isalnum, plain)) or bool(_NO_KEY.fullmatch(plain)))


class Profiler:
    """Goes through a file's batches and ends with its profile. Memory grows with the distinct days only."""

    def __init__(
        self,
        mapping: HeaderMapping,
        source: SourceSpec,
        two_digit_year_pivot: int,
        *,
        is_spreadsheet: bool = False,
        has_dated_name: bool = False,
    ) -> None:
        self._mapping = mapping
        self._boolean_words = source.booleans.words
        self._pivot = two_digit_year_pivot
        self._is_spreadsheet = is_spreadsheet
        self._proofs: set[str] = set()
        self._dates: dict[str, dict[DateText, _Seen]] = {}
        self._period: set[DateText] = set()
        self._findings: dict[tuple[str, str, str], Finding] = {}
        self._profile = FileProfile()
        # What is no day of the calendar depends on the order of day and month, which is known at the end.
        self._bad_days: dict[DateOrder, Refusals] = {"dmy": Refusals(), "mdy": Refusals()}
        self._refused_rows: dict[DateOrder, int] = {"dmy": 0, "mdy": 0}
        # Stock without a day is of the file's day; of no day where neither name nor rows have one.
        self._has_dated_name = has_dated_name
        self._undated = Refusals()
        self._refused_undated: dict[DateOrder, int] = {"dmy": 0, "mdy": 0}

    def add(self, batch: Batch, fields: dict[str, pa.Array]) -> None:
        """Take in one batch, its columns by field."""
        self._profile.row_count += batch.n_rows
        self._profile.plain_rows += len(batch.lines)
        for code, problem in (
            (RAGGED_ROW, "the number of values is not the header's"),
            (INVALID_KEY, "has a text too long to be a code or a name"),
        ):
            lines = np.array([row.line for row in batch.ragged if row.is_overlong == (code == INVALID_KEY)])
            if not len(lines):
                continue
            self._profile.refusals.setdefault(code, Refusals()).note(np.ones(len(lines), dtype=bool), lines)
            for order in self._refused_rows:
                self._refused_rows[order] += len(lines)
            width = len(self._mapping.header)
            counts = [f"{len(row.values)} ≠ {width}" for row in batch.ragged if not row.is_overlong]
            found = counts[:MAX_EXAMPLES] if code == RAGGED_ROW else []
            self._note("Critical", "", problem, len(lines), lines[:MAX_EXAMPLES].tolist(), found)
        if not len(batch.lines):
            return
        if room := MAX_EXAMPLES - len(self._profile.first_rows):
            head = {name: column[:room].to_pylist() for name, column in fields.items()}
            for place, line in enumerate(batch.lines[:room]):
                self._profile.first_rows.append((int(line), {name: texts[place] for name, texts in head.items()}))
        dataset = self._mapping.dataset
        days = {name: self._days(c) for name, c in fields.items() if dataset.fields[name].type == "date"}
        blanks: dict[str, np.ndarray] = {}

        def blank(name: str) -> np.ndarray:
            if name not in blanks:
                if name in days:
                    blanks[name] = days[name].is_blank[days[name].indices]
                else:
                    absent = np.ones(len(batch.lines), dtype=bool)
                    blanks[name] = _blank(fields[name]) if name in fields else absent
            return blanks[name]

        codes: dict[str, np.ndarray] = {}

        def refuse(code: str, mask: np.ndarray) -> None:
            codes[code] = codes[code] | mask if code in codes else mask

        for group in dataset.requirements:
            if any(name in fields for name in group):
                lacking = np.logical_and.reduce([blank(name) for name in group])
                if lacking.any():
                    self._note_mask("Critical", " or ".join(group), "is blank", lacking, batch.lines)
                    refuse(MISSING_CODES[group[0]], lacking)
        for name, column in fields.items():
            spec = dataset.fields[name]
            if spec.expected:
                self._note_mask("Medium", name, "is blank", blank(name), batch.lines)
            bad = None
            if spec.type == "number":
                bad = self._numbers(name, column, spec, batch.lines)
            elif spec.type == "bool":
                self._texts("High", name, column, "is neither yes nor no", self._is_boolean, batch.lines)
            elif spec.type == "choice":
                is_known = partial(_is_choice, self._boolean_words.union(spec.values))
                bad = self._texts("High", name, column, _UNKNOWN_VALUE, is_known, batch.lines)
            elif spec.type == "date":
                bad = self._note_days(name, days[name], batch.lines)
            elif spec.values:
                self._texts("Medium", name, column, _UNKNOWN_VALUE, partial(_names_only, spec.values), batch.lines)
            if name == "label" and (no_key := _no_keys(column)) is not None:
                self._note_mask("High", name, "can be no code", no_key, batch.lines, column)
                refuse(MISSING_CODES[name], no_key)
            if name in ("client_code", "product_key"):
                no_key = _no_keys(column)
                if no_key is not None and "product_label" in dataset.fields and name == "product_key":
                    no_key = no_key & blank("product_label")  # a product is known by its label too
                if no_key is not None and no_key.any():
                    self._note_mask("High", name, "can be no code", no_key, batch.lines, column)
                    refuse(INVALID_KEY, no_key)
            if bad is not None:
                refuse(INVALID_DATE if spec.type == "date" else INVALID_NUMBER, bad)
        if "email" in fields and ["client_code", "email"] in dataset.one_of:
            unnamed = blank("client_code") & ~blank("email")
            if unnamed.any() and (wrong := _no_emails(fields["email"], unnamed)).any():
                self._note_mask("High", "email", "is no e-mail address", wrong, batch.lines, fields["email"])
                refuse(INVALID_KEY, wrong)
        undated = blank("as_of") if "as_of" in dataset.fields else None
        self._count_refusals(codes, list(days.values()), batch.lines, undated)
        self._note_period(fields, days)

    def finish(self, *, has_decimal_points: bool = False) -> FileProfile:
        """The profile, when all batches have gone by."""
        profile = self._profile
        proofs = self._proofs | ({"."} if has_decimal_points else set())
        profile.decimal_separator = proofs.pop() if len(proofs) == 1 else None
        orders = {day.proves() for days in self._dates.values() for day in days}
        profile.date_order = "mdy" if "mdy" in orders and "dmy" not in orders else "dmy"
        for name, days in self._dates.items():
            bad = [(s.line, s.text, s.count) for day, s in days.items() if day.as_date(profile.date_order) is None]
            if bad:
                lines, texts, counts = zip(*sorted(bad), strict=True)
                self._note("High", name, "is no day of the calendar", sum(counts), lines, texts)
        if self._bad_days[profile.date_order].count:
            profile.refusals[INVALID_DATE] = self._bad_days[profile.date_order]
        profile.refused_rows = self._refused_rows[profile.date_order]
        profile.findings = sorted(self._findings.values(), key=lambda f: (SEVERITIES.index(f.severity), -f.count))
        known = [found for day in self._period if (found := day.as_date(profile.date_order))]
        profile.first_date, profile.last_date = min(known, default=None), max(known, default=None)
        if self._undated.count and not known and not self._has_dated_name:
            ragged = profile.row_count - profile.plain_rows
            profile.refusals["MISSING_DATE"] = self._undated
            profile.refused_rows = self._refused_undated[profile.date_order] + ragged
        return profile

    # --- notes

    def _note(
        self, severity: str, name: str, problem: str, count: int, lines: Sequence[int], values: Sequence[str] = ()
    ) -> None:
        key = (severity, name, problem)
        self._findings.setdefault(key, Finding(*key)).note(count, lines, values)

    def _note_mask(
        self,
        severity: str,
        name: str,
        problem: str,
        mask: np.ndarray,
        lines: np.ndarray,
        texts: pa.Array | None = None,
    ) -> None:
        if count := int(mask.sum()):
            first = np.flatnonzero(mask)[:MAX_EXAMPLES]
            values = [] if texts is None else [text or "" for text in texts.take(pa.array(first)).to_pylist()]
            self._note(severity, name, problem, count, lines[first].tolist(), values)

    def _count_refusals(
        self, codes: dict[str, np.ndarray], days: list[_Days], lines: np.ndarray, undated_stock: np.ndarray | None
    ) -> None:
        """Count the batch's rows by code, and those that have any."""
        if undated_stock is not None:
            self._undated.note(undated_stock, lines)
        undated = codes.pop(INVALID_DATE, None)  # texts that are no date in either order
        for code, mask in codes.items():
            self._profile.refusals.setdefault(code, Refusals()).note(mask, lines)
        common = np.logical_or.reduce(list(codes.values())) if codes else None
        for order, tally in self._bad_days.items():
            masks = [] if undated is None else [undated]
            for column in days:
                bad = np.array([*[d is not None and d.as_date(order) is None for d in column.days], False], dtype=bool)
                if (bad := bad & ~column.is_blank).any():
                    masks.append(bad[column.indices])
            if masks:
                tally.note(masks := np.logical_or.reduce(masks), lines)
            refused = [mask for mask in (common, masks) if isinstance(mask, np.ndarray)]
            if refused:
                self._refused_rows[order] += int(np.logical_or.reduce(refused).sum())
            if undated_stock is not None:
                refused.append(undated_stock)
                self._refused_undated[order] += int(np.logical_or.reduce(refused).sum())

    # --- columns by type

    def _numbers(self, name: str, column: pa.Array, spec: FieldSpec, lines: np.ndarray) -> np.ndarray | None:
        """Note what numbers prove and which are out of range; the rows whose text is no number."""
        encoded = column.dictionary_encode()
        distinct = encoded.dictionary
        try:
            values = pc.cast(pc.replace_substring(distinct, ",", "."), pa.float64())
            # Arrow also takes `nan`, `inf`, `1e5` and `5.` for numbers.
            is_plain = pc.all(pc.is_finite(values), min_count=0).as_py() and not _has_exponent_or_open_end(distinct)
        except pa.ArrowInvalid:
            is_plain = False
        if not is_plain:
            return self._numbers_one_by_one(name, encoded, spec, column, lines)
        # Every value has at most one separator: no need to look at each to know how it is written.
        for mark in ",.":
            if mark not in self._proofs:
                texts = distinct.filter(pc.match_substring(distinct, mark))
                could_group = pc.match_substring_regex(texts, rf"^[-+]?[1-9]\d{{0,2}}\{mark}\d{{3}}$")
                if not pc.all(could_group, min_count=0).as_py():
                    self._proofs.add(mark)
        self._range(name, np.asarray(values), encoded, spec, column, lines)
        return None

    def _range(
        self, name: str, values: np.ndarray, encoded: pa.DictionaryArray, spec: FieldSpec, column: pa.Array,
        lines: np.ndarray,
    ) -> None:  # fmt: skip
        """Note the rows whose number is out of range; `values` are those of the distinct texts."""
        outside = None
        if spec.range is not None:
            low, high = spec.range
            outside = (values < (-np.inf if low is None else low)) | (values > (np.inf if high is None else high))
        elif spec.values:
            outside = ~np.isnan(values) & ~np.isin(values, [float(value) for value in spec.values])
        if outside is not None and outside.any():
            self._note_mask("Medium", name, "is outside its range", _by_row(outside, encoded), lines, column)

    def _numbers_one_by_one(
        self, name: str, encoded: pa.DictionaryArray, spec: FieldSpec, column: pa.Array, lines: np.ndarray
    ) -> np.ndarray | None:
        """Numbers in richer spellings, or texts that are none: each distinct text is looked at."""
        read = [read_number(text) if text.strip() else NumberText("", None) for text in encoded.dictionary.to_pylist()]
        self._proofs.update(number.proves for number in read if number and number.proves)
        values = np.array([number.value if number else np.nan for number in read], dtype=float)
        self._range(name, values, encoded, spec, column, lines)
        bad = np.array([number is None for number in read], dtype=bool)
        if not bad.any():
            return None
        mask = _by_row(bad, encoded)
        self._note_mask("High", name, "is no number", mask, lines, column)
        return mask

    def _is_boolean(self, text: str) -> bool:
        return normalise_header(text) in self._boolean_words

    def _texts(
        self,
        severity: str,
        name: str,
        column: pa.Array,
        problem: str,
        is_right: Callable[[str], bool],
        lines: np.ndarray,
    ) -> np.ndarray | None:
        """Note and return the rows whose text says something that is not right."""
        encoded = column.dictionary_encode()
        texts = encoded.dictionary.to_pylist()
        bad = np.array([bool(text.strip()) and not is_right(text) for text in texts], dtype=bool)
        if not bad.any():
            return None
        mask = _by_row(bad, encoded)
        self._note_mask(severity, name, problem, mask, lines, column)
        return mask

    def _days(self, column: pa.Array) -> _Days:
        """The distinct texts of a date column; a time of day would make every text distinct, and is cut off."""
        encoded = column.dictionary_encode()
        distinct, indices = encoded.dictionary, encoded.indices
        if pc.any(pc.match_substring(distinct, ":")).as_py():
            without_time = pc.replace_substring_regex(distinct, DAY_AND_TIME, r"\1").dictionary_encode()
            distinct, indices = without_time.dictionary, without_time.indices.take(indices)
        texts = distinct.to_pylist()
        is_blank = np.array([*[not text.strip() or text.strip() in NO_DATES for text in texts], True], dtype=bool)
        days = [
            None if blank else read_date(text, self._pivot, self._is_spreadsheet)
            for text, blank in zip(texts, is_blank, strict=False)
        ]
        return _Days(texts, days, is_blank, np.asarray(pc.fill_null(indices, len(texts))))

    def _note_days(self, name: str, column: _Days, lines: np.ndarray) -> np.ndarray | None:
        """Take in a batch's days; the rows whose text is no date in any order."""
        size = len(column.texts) + 1
        counts = np.bincount(column.indices, minlength=size)
        first = np.zeros(size, dtype=np.int64)
        first[column.indices[::-1]] = np.arange(len(column.indices))[::-1]
        seen = self._dates.setdefault(name, {})
        for number, (text, day) in enumerate(zip(column.texts, column.days, strict=True)):
            if day in seen:
                seen[day].count += int(counts[number])
            elif day is not None:
                seen[day] = _Seen(int(counts[number]), int(lines[first[number]]), text)
        bad = np.array([*[day is None for day in column.days], False], dtype=bool) & ~column.is_blank
        if not bad.any():
            return None
        mask = bad[column.indices]
        texts = pa.array([*column.texts, None], pa.string()).take(pa.array(column.indices))
        self._note_mask("High", name, "is no date", mask, lines, texts)
        return mask

    def _note_period(self, fields: dict[str, pa.Array], days: dict[str, _Days]) -> None:
        """The days a row counts for: its first date that says something (never fewer than staging counts)."""
        undated: np.ndarray | None = None
        for name in self._mapping.dataset.period:
            if name in fields and (undated is None or undated.any()):
                column = days[name]
                present = column.indices if undated is None else column.indices[undated]
                counted = np.bincount(present, minlength=len(column.texts) + 1)
                self._period.update(d for d, n in zip(column.days, counted, strict=False) if d is not None and n)
                blank = column.is_blank[column.indices]
                undated = blank if undated is None else undated & blank


_UNKNOWN_VALUE = "is none of the values known"


def _is_choice(known: frozenset[str], text: str) -> bool:
    return _choice(text) in known


def _names_only(known: Sequence[str], text: str) -> bool:
    """Whether a text like `noel, ete` names nothing but known values."""
    return set(normalise_header(text).split("_")) <= set(known)


def _no_emails(column: pa.Array, among: np.ndarray) -> np.ndarray:
    """The rows among those given whose text is no e-mail address, by the validator that staging asks."""
    from crm_assets.logic.curated import validate_emails

    at = np.flatnonzero(among)
    texts = column.take(pa.array(at)).to_pylist()
    found = validate_emails(dict.fromkeys(texts))
    wrong = set(found.loc[found["email"].isna(), "raw_email"])
    mask = np.zeros(len(column), dtype=bool)
    mask[at[np.array([text in wrong for text in texts], dtype=bool)]] = True
    return mask


def _by_row(of_distinct: np.ndarray, encoded: pa.DictionaryArray) -> np.ndarray:
    """What was found out about each distinct text, for each row; false where there is none."""
    by_row: np.ndarray = np.append(of_distinct, False)[np.asarray(pc.fill_null(encoded.indices, len(of_distinct)))]
    return by_row


def _blank(column: pa.Array) -> np.ndarray:
    """Where a column says nothing: null, or nothing but spaces."""
    if not column.null_count and not pc.any(pc.utf8_is_space(column)).as_py():
        return np.zeros(len(column), dtype=bool)
    return np.asarray(pc.fill_null(pc.equal(pc.utf8_trim_whitespace(column), ""), True))


def _bytes(column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """The UTF-8 bytes of a text column, and where each value begins (and the last one ends)."""
    _, offsets, data = column.buffers()
    places = np.frombuffer(offsets, np.int32)[column.offset : column.offset + len(column) + 1]
    return np.frombuffer(data or b"", np.uint8), places


def _has_exponent_or_open_end(column: pa.Array) -> bool:
    """Whether a value holds a letter e or ends with a separator. May say yes for a neighbour's sake."""
    data, places = _bytes(column)
    if not len(data):
        return False
    used = data[places[0] : places[-1]]
    ends = data[np.maximum(places[1:] - 1, 0)]
    return bool(
        np.isin(used, np.frombuffer(b"eE", np.uint8)).any() or np.isin(ends, np.frombuffer(b",.", np.uint8)).any()
    )


_ALNUM = np.isin(
    np.arange(256), np.frombuffer(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", np.uint8)
)
_PLUS = ord("+")


def _no_keys(column: pa.Array) -> np.ndarray | None:
    """Where a code can be no key; None when it can everywhere. Only texts that begin or go on oddly are looked at."""
    data, places = _bytes(column)
    if not len(data):
        return None
    begins = data[np.minimum(places[:-1], len(data) - 1)]
    odd = ~_ALNUM[begins] & (places[1:] > places[:-1])
    if (data[places[0] : places[-1]] == _PLUS).any():
        odd |= np.asarray(pc.fill_null(pc.match_substring(column, "+"), False))
    if not odd.any():
        return None
    at = np.flatnonzero(odd)
    wrong = [text is not None and is_no_key(text) for text in column.take(pa.array(at)).to_pylist()]
    mask = np.zeros(len(column), dtype=bool)
    mask[at[np.array(wrong, dtype=bool)]] = True
    return mask if mask.any() else None
