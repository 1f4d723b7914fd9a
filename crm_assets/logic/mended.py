"""Workbooks of ours that come back: how landing knows them by their content and what it takes from them.

`logic/workbooks.py` hands refused rows and unknown product labels to the estate; people mend them, save them with
whatever they have, and drop them anywhere. What says that a file is ours is one header, `crm_ref_<folder>`. Its
columns named `crm_…` explain and hold no data: they are left out here, so that the file is an export like any other
afterwards. Nothing is written here, and whether a reference is true is the database's to say.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from crm_assets.logic import workbook_guard
from crm_assets.logic.landing import REFERENCE_HEADER, DatasetSpec, SourceSpec, map_header, normalise_header
from crm_assets.logic.reading import Batch, Ragged, TableFile, UnreadableError, open_table

if TYPE_CHECKING:
    from crm_assets.rules import WorkbookLimits

# Heads the columns of our own workbooks. None of them is a synonym of a field.
OWN_HEADER = "crm_"
# Heads the columns for values that no column of the export has room for: while one holds anything, the row is ragged.
SURPLUS_HEADER = "crm_plus"
# The header of a review workbook (`logic/review_workbook.py`), in the bytes of a file: one or two to a letter.
_REVIEW_MARK = re.compile(b"c\\0?r\\0?m\\0?.\\0?r\\0?e\\0?f\\0?.\\0?r\\0?e\\0?v\\0?i\\0?e\\0?w", re.IGNORECASE)
# Where a header may stand: at the start of a text or a sheet; anywhere among the texts that sheets share.
_HEAD_BYTES, _SHARED_BYTES = 1 << 18, 1 << 27
_MARK_BYTES = 32  # at most, of what the pattern finds
_COMPOUND = b"\xd0\xcf\x11\xe0"  # how an old XLS starts
# Between a product's key and its label where a person picks it from a list.
KEY_AND_LABEL = " – "

# What a spreadsheet would take for a formula when it opens the row as CSV (tab, line ends and full-width signs too).
_STARTS_FORMULA = "[=+\\-@\\t\\r\\n\uff1d\uff0b\uff0d\uff20]"
_ACTIVE = re.compile(f"'*{_STARTS_FORMULA}")
_GUARDED = f"^'('*{_STARTS_FORMULA})"
# An amount or a phone number: `-12,50`, `+33 (0)3 89 00 00 00`. No formula can be made of digits and one sign.
_HARMLESS = re.compile("[+\\-][0-9 .,()€\u00a0\u202f]*")


def guard(text: str) -> str:
    """A text that no spreadsheet runs, in whatever format it is saved again: `=1+1` -> `'=1+1`.

    In a workbook a text is inert anyhow; saved as CSV and opened again it would not be. Numbers stay as they are.
    """
    return f"'{text}" if _ACTIVE.match(text) and not _HARMLESS.fullmatch(text) else text


def unguard(text: str) -> str:
    """What `guard` was given; any other text stays as it is."""
    return re.sub(_GUARDED, r"\1", text)


def reference_header(dataset: DatasetSpec) -> str:
    """The header that makes a workbook one of ours: `crm_ref_clients`."""
    return f"{REFERENCE_HEADER}_{dataset.folder}"


def own_dataset(header: Sequence[str], source: SourceSpec) -> str | None:
    """The dataset that a file of ours was made for, by its reference header; None for all other files."""
    names = {normalise_header(text) for text in header}
    return next((name for name, dataset in source.datasets.items() if reference_header(dataset) in names), None)


def is_review_workbook(path: Path, limits: WorkbookLimits) -> bool:
    """Whether a local file is a review workbook come back: known by its header, whatever its name and place.

    Nearly every other file is told by its bytes alone: what an estate exports is not opened for this.
    """
    from crm_assets.logic.review_workbook import is_review

    if not _may_be_review(path):
        return False
    # Whoever adds a sheet of notes in front, or puts the summary there, hands in a review all the same.
    for wanted in (None, is_review):
        try:
            if is_review(open_table(path, limits, wanted).header):
                return True
        except UnreadableError:
            continue
    return False


def _may_be_review(path: Path) -> bool:
    with path.open("rb") as stream:
        if zipfile.is_zipfile(stream):
            try:
                with zipfile.ZipFile(stream) as archive:
                    return any(_has_mark(archive, name) for name in archive.namelist())
            except workbook_guard.DAMAGES:  # what there is to say of it, landing says
                return False
        # An old XLS keeps its texts anywhere; a text file has its header at the start.
        stream.seek(0)
        is_compound = stream.read(len(_COMPOUND)) == _COMPOUND
        stream.seek(0)
        return _is_marked(stream, _SHARED_BYTES if is_compound else _HEAD_BYTES)


def _has_mark(archive: zipfile.ZipFile, name: str) -> bool:
    if name != "xl/sharedStrings.xml" and not name.startswith("xl/worksheets/"):
        return False
    with archive.open(name) as part:
        return _is_marked(part, _HEAD_BYTES if name.startswith("xl/worksheets/") else _SHARED_BYTES)


def _is_marked(stream: IO[bytes], most: int) -> bool:
    kept = b""
    for _ in range(0, most, _HEAD_BYTES):
        if not (block := stream.read(_HEAD_BYTES)):
            return False
        if _REVIEW_MARK.search(kept + block):
            return True
        kept = block[-_MARK_BYTES:]
    return False


def as_export(table: TableFile, dataset: DatasetSpec) -> TableFile:
    """A workbook of ours as the export it stands for: the estate's columns and the reference, nothing else.

    * Values are as they were before they were guarded against being run.
    * A row with anything left in its surplus columns is ragged still.
    * In an alias workbook a row without product key is no record: nobody has answered it. Neither counted nor
      refused, it is asked again by the next workbook. A key picked from the list may carry its label
      (`P12 – Riesling`).
    """
    names = [normalise_header(text) for text in table.header]
    surplus = [place for place, name in enumerate(names) if name.startswith(SURPLUS_HEADER)]
    reference = reference_header(dataset)
    kept = [place for place, name in enumerate(names) if name == reference or not name.startswith(OWN_HEADER)]
    header = [unguard(table.header[place]) for place in kept]
    key = map_header(header, dataset).columns.get("product_key") if dataset.folder == "alias" else None
    return replace(table, header=header, _body=_OwnBody(table, kept, surplus, key))


@dataclass
class _OwnBody:
    """The records of a workbook of ours, without our columns."""

    table: TableFile
    kept: list[int]  # places of the columns that stay
    surplus: list[int]
    answer: int | None  # place, among those kept, of the column that makes an alias row a record
    has_decimal_points: bool = False

    def sha256(self) -> str:
        return self.table.sha256

    def batches(self, width: int, *, vectorised: bool) -> Iterator[Batch]:
        for batch in self.table.batches(vectorised=vectorised):
            self.has_decimal_points = self.table.has_decimal_points
            plain = self._answered(self._plain(batch))
            if plain.n_rows:
                yield plain

    def _plain(self, batch: Batch) -> Batch:
        """The batch with the kept columns only, rows with something left over among the ragged ones."""
        columns = [_unguarded(batch.columns[place]) for place in self.kept]
        ragged = [replace(row, values=self._own_left_out(row.values)) for row in batch.ragged]
        is_left_over = np.zeros(len(batch.lines), dtype=bool)
        for place in self.surplus:
            is_left_over |= ~_blank(batch.columns[place])
        if is_left_over.any():
            for row in np.flatnonzero(is_left_over).tolist():
                values = [column[row].as_py() or "" for column in columns]
                values += [unguard(text) for place in self.surplus if (text := batch.columns[place][row].as_py())]
                ragged.append(Ragged(int(batch.lines[row]), int(batch.row_numbers[row]), values))
            ragged.sort(key=lambda row: row.row_no)
        return _where(replace(batch, columns=columns, ragged=ragged), ~is_left_over)

    def _own_left_out(self, values: list[str]) -> list[str]:
        """A ragged row without the values under our headers, what lies beyond the header kept."""
        width = len(self.table.header)
        return [unguard(values[place]) for place in self.kept if place < len(values)] + values[width:]

    def _answered(self, batch: Batch) -> Batch:
        if self.answer is None:
            return batch
        keys = pc.replace_substring_regex(batch.columns[self.answer], f"(?s)^(.*?){KEY_AND_LABEL}.*$", r"\1")
        columns = [*batch.columns[: self.answer], keys, *batch.columns[self.answer + 1 :]]
        return _where(replace(batch, columns=columns), ~_blank(keys))


def _where(batch: Batch, mask: np.ndarray) -> Batch:
    """The batch with those of its whole rows for which `mask` holds."""
    if mask.all():
        return batch
    chosen = pa.array(mask)
    return replace(
        batch,
        columns=[column.filter(chosen) for column in batch.columns],
        lines=batch.lines[mask],
        row_numbers=batch.row_numbers[mask],
    )


def _unguarded(column: pa.Array) -> pa.Array:
    return pc.replace_substring_regex(column, _GUARDED, r"\1")


def _blank(column: pa.Array) -> np.ndarray:
    return np.asarray(pc.fill_null(pc.equal(pc.utf8_trim_whitespace(column), ""), True))
