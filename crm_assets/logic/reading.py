"""Reading an export: from the bytes of a local file to records of text, each with the line it starts on.

What is decided here is decided from the content: format, encoding, delimiter, where a record begins and ends.
No dataset, header spelling or business rule is known here (that is `landing.py`), and no database.

Two ways through a CSV file give the same records. `csv` is the reference and copes with everything. Where a
block of the file is proven plain (every quote opens or closes a field, one record per line), Arrow reads it
instead, several times faster. Memory holds one block at a time, whatever the size of the file; a spreadsheet,
bounded by its format to a million rows, is held by its reader and turned into text block by block.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, Protocol
from xml.parsers import expat

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from crm_assets import rules
from crm_assets.logic import workbook_guard

if TYPE_CHECKING:
    from python_calamine import CalamineSheet, CalamineWorkbook

    from crm_assets.rules import WorkbookLimits

Format = Literal["csv", "xlsx", "xls"]

DELIMITERS = (";", ",", "\t", "|")
BLOCK_BYTES = 1 << 22
LINE_BYTES = 1 << 25  # what has longer lines than this is no table, and must not fill the memory
SHEET_BLOCK_CELLS = 1 << 18

_SAMPLE_LINES = 200
_SAMPLE_BYTES = 1 << 16
_END = "\x00"  # stands after the last line: a record that holds it has an open quote
_OLE_MAGIC = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_ZIP_MAGIC = b"PK\x03\x04"
_FOREIGN_MAGIC = {
    b"%PDF": "a PDF document",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"GIF8": "a picture",
    b"\x1f\x8b": "a compressed archive",
    b"Rar!": "a compressed archive",
    b"7z\xbc\xaf": "a compressed archive",
}
_SAVE_AGAIN = "export it again from iSaVigne, or save it as CSV or XLSX"

# What Windows-1252 has where other 8-bit encodings have letters: € … Œ quotes dashes ™ œ, common in French.
_TYPOGRAPHIC_C1 = frozenset(b"\x80\x85\x8c\x91\x92\x93\x94\x96\x97\x99\x9c\xa0")
_EIGHT_BIT_ENCODINGS = ["cp1252", "cp850", "cp437", "mac_roman", "cp1250"]
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f]")
_MARKUP = re.compile(rb"\s*<(\?xml|!doctype|html|table|workbook)", re.IGNORECASE)
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?\s*$', re.IGNORECASE)


class UnreadableError(Exception):
    """A file that is no table. The message goes on after the file's name: what is wrong, what to do."""


@dataclass(frozen=True)
class Ragged:
    """A record that is kept as a list: its number of values is not the header's, which belongs where is unknown.

    Or it is `overlong`: there is a value in it that can be no code or name (see `landing.py`).
    """

    line: int
    row_no: int
    values: list[str]
    is_overlong: bool = False


@dataclass(frozen=True)
class Batch:
    """Some consecutive records: one text array per header column (null = nothing there), ragged ones apart.

    `lines` and `row_numbers` go with the arrays: the physical line a record starts on, and its ordinal from 1
    among all records of the file. Records without any value are in neither.
    """

    columns: list[pa.Array]
    lines: np.ndarray
    row_numbers: np.ndarray
    ragged: list[Ragged]

    @property
    def n_rows(self) -> int:
        return len(self.lines) + len(self.ragged)

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """All records in file order as (line, values), ragged ones included."""
        values = zip(*(column.to_pylist() for column in self.columns), strict=True)
        plain = ((int(line), [v or "" for v in row]) for line, row in zip(self.lines, values, strict=True))
        ragged = ((record.line, record.values) for record in self.ragged)
        return iter(sorted([*plain, *ragged], key=lambda record: record[0]))


@dataclass
class TableFile:
    """A file opened as a table. `batches()` can be gone through once; then `sha256` tells what was read."""

    format: Format
    encoding: str | None
    delimiter: str | None
    header: list[str]
    header_line: int
    _body: _Body = field(repr=False)

    def batches(self, *, vectorised: bool = True) -> Iterator[Batch]:
        """The records after the header, block by block; the same ones whichever way they are read."""
        return self._body.batches(len(self.header), vectorised=vectorised)

    def records(self) -> Iterator[tuple[int, list[str]]]:
        """The records one by one, as (line, values)."""
        for batch in self.batches(vectorised=False):
            yield from batch.rows()

    @property
    def sha256(self) -> str:
        """SHA-256 of the bytes that were read, once `batches()` is exhausted."""
        return self._body.sha256()

    @property
    def has_decimal_points(self) -> bool:
        """Whether cells that are numbers in the spreadsheet were written here with a decimal point."""
        return self._body.has_decimal_points


class _Body(Protocol):
    has_decimal_points: bool

    def batches(self, width: int, *, vectorised: bool) -> Iterator[Batch]: ...

    def sha256(self) -> str: ...


def open_table(
    path: Path, limits: WorkbookLimits | None = None, wanted: Callable[[Sequence[str]], bool] | None = None
) -> TableFile:
    """Open a local file as a table; UnreadableError says why it is none.

    `limits`: what a workbook may become when it is opened; the product's own unless a tenant has others. Of a workbook
    the first sheet is opened; with `wanted` the first one whose header that takes, if there is any.
    """
    with path.open("rb") as stream:
        head = stream.read(_SAMPLE_BYTES)
    if not head.strip(b"\x00 \t\r\n"):
        raise UnreadableError(f"is empty: {_SAVE_AGAIN}")
    if head.startswith((_ZIP_MAGIC, _OLE_MAGIC)):
        return _open_spreadsheet(path, head, limits or rules.load().landing.workbook, wanted)
    for magic, what in _FOREIGN_MAGIC.items():
        if head.startswith(magic):
            raise UnreadableError(f"is {what}, not a table: {_SAVE_AGAIN}")
    return _open_csv(path, head)


# --- text files


def detect_encoding(path: Path) -> str:
    """The encoding of a text file: by BOM, else UTF-16 by its zero bytes, else UTF-8, else 8-bit."""
    with path.open("rb") as stream:
        head = stream.read(4096)
    if head.startswith(codecs.BOM_UTF8):
        return "utf-8-sig"
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    zeros = [head[offset::2].count(0) / max(len(head[offset::2]), 1) for offset in (0, 1)]
    for offset, name in ((1, "utf-16-le"), (0, "utf-16-be")):
        if zeros[offset] > 0.4 and zeros[1 - offset] < 0.05:
            return name
    damaged_at = _first_damage(path)
    return "utf-8" if damaged_at is None else _eight_bit_encoding(path, damaged_at)


def _first_damage(path: Path) -> int | None:
    """The line of the first byte sequence that UTF-8 does not know; None when there is none."""
    rest = b""
    with path.open("rb") as stream:
        while chunk := stream.read(BLOCK_BYTES):
            chunk = rest + chunk
            cut = _whole_characters(chunk)
            if not _is_utf8(chunk[:cut]):
                return _line_of_damage(path)
            rest = chunk[cut:]
    return _line_of_damage(path) if rest else None


def _is_utf8(text: bytes) -> bool:
    """Whether bytes are UTF-8; twenty times as fast as decoding them."""
    offsets = pa.py_buffer(np.array([0, len(text)], dtype=np.int32))
    try:
        pa.StringArray.from_buffers(1, offsets, pa.py_buffer(text)).validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _whole_characters(text: bytes) -> int:
    """How many bytes remain without a UTF-8 character that is cut off at the end."""
    for back, byte in enumerate(reversed(text[-3:]), start=1):
        if byte >= 0xC0:
            length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return len(text) - (back if back < length else 0)
        if byte < 0x80:
            break
    return len(text)


def _line_of_damage(path: Path) -> int:
    """The line on which a file that is no UTF-8 stops being it."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    line = 1
    with path.open("rb") as stream:
        try:
            while chunk := stream.read(BLOCK_BYTES):
                line += decoder.decode(chunk).count("\n")
            decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            line += bytes(error.object)[: error.start].count(b"\n")
    return line


def _eight_bit_encoding(path: Path, damaged_at: int) -> str:
    """Windows-1252, unless the bytes speak against it; a file that is half UTF-8 is not guessed at."""
    in_utf8 = 0
    counts = np.zeros(0x100, dtype=np.int64)
    evidence = bytearray()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            if chunk.isascii():
                continue
            text = np.frombuffer(chunk + b"\0\0\0", np.uint8)
            at = np.flatnonzero(text >= 0x80)
            counts += np.bincount(text[at], minlength=0x100)
            in_utf8 += _count_in_utf8(text, at)
            if len(evidence) < _SAMPLE_BYTES:
                evidence += b"\n".join(text for text in chunk.splitlines() if not text.isascii())[:_SAMPLE_BYTES]
    high, letters = int(counts.sum()), int(counts[0xA0:].sum())
    odd = int(sum(counts[byte] for byte in range(0x80, 0xA0) if byte not in _TYPOGRAPHIC_C1))
    if in_utf8 > high / 2:
        raise UnreadableError(
            f"is UTF-8 except from line {damaged_at} on, where other bytes are mixed in: save it as CSV UTF-8"
        )
    if odd <= letters:
        try:
            bytes(evidence).decode("cp1252")
        except UnicodeDecodeError:
            pass
        else:
            return "windows-1252"
    # charset-normalizer breaks the tie; it is too easily wrong on short texts to decide alone.
    from charset_normalizer import from_bytes

    best = from_bytes(bytes(evidence), cp_isolation=_EIGHT_BIT_ENCODINGS).best()
    if best is None:
        raise UnreadableError(f"holds bytes on line {damaged_at} that are no text in any known encoding: {_SAVE_AGAIN}")
    return "windows-1252" if best.encoding == "cp1252" else best.encoding


def _count_in_utf8(text: np.ndarray, at: np.ndarray) -> int:
    """How many of the bytes `at` (all that are not ASCII) make up UTF-8 characters; three more bytes follow them."""
    first, follows = text[at], np.ones(len(at), dtype=bool)
    found = 0
    for step, (low, high) in enumerate(((0xC2, 0xDF), (0xE0, 0xEF), (0xF0, 0xF4)), start=1):
        follows &= (text[at + step] & 0xC0) == 0x80
        found += (step + 1) * int(np.count_nonzero(follows & (first >= low) & (first <= high)))
    return found


class _Utf8Blocks:
    """A text file as UTF-8 blocks that end with a line, hashed as it is read.

    Where the file itself says it is UTF-8, nothing has looked at every byte yet: who decodes a block may fail.
    """

    def __init__(self, path: Path, encoding: str) -> None:
        self._path = path
        self._encoding = encoding
        self._digest = hashlib.sha256()

    def sha256(self) -> str:
        return self._digest.hexdigest()

    def _pieces(self, stream: BinaryIO) -> Iterator[bytes]:
        if self._encoding.startswith("utf-8"):
            is_first = self._encoding == "utf-8-sig"
            while chunk := stream.read(BLOCK_BYTES):
                self._digest.update(chunk)
                yield chunk.removeprefix(codecs.BOM_UTF8) if is_first else chunk
                is_first = False
            return
        decoder = codecs.getincrementaldecoder(self._encoding)()
        try:
            while chunk := stream.read(BLOCK_BYTES):
                self._digest.update(chunk)
                yield decoder.decode(chunk).encode()
            yield decoder.decode(b"", final=True).encode()
        except UnicodeDecodeError as error:
            raise UnreadableError(f"holds bytes that are not {self._encoding}: {_SAVE_AGAIN}") from error

    def __iter__(self) -> Iterator[bytes]:
        rest = b""
        old_mac: bool | None = None
        with self._path.open("rb") as stream:
            for piece in self._pieces(stream):
                if old_mac is None and piece:
                    old_mac = b"\n" not in piece and b"\r" in piece
                if old_mac:
                    piece = piece.replace(b"\r", b"\n")
                cut = piece.rfind(b"\n") + 1
                if cut:
                    yield rest + piece[:cut]
                    rest = piece[cut:]
                else:
                    rest += piece
                    if len(rest) > LINE_BYTES:
                        raise UnreadableError(f"has a line of more than {LINE_BYTES >> 20} MiB: {_SAVE_AGAIN}")
        if rest:
            yield rest


def detect_delimiter(lines: Iterable[str]) -> str:
    """The delimiter that makes the widest regular table of the lines; ',' when none makes two columns."""
    text = "".join(lines)
    best, best_score = ",", 0.0
    for delimiter in DELIMITERS:
        widths = [len(row) for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if any(row)]
        if widths and widths[0] > 1:
            score = widths[0] * widths.count(widths[0]) / len(widths)
            if score > best_score:
                best, best_score = delimiter, score
    return best


def _open_csv(path: Path, head: bytes) -> TableFile:
    encoding = detect_encoding(path)
    sample = codecs.getincrementaldecoder(encoding)("replace").decode(head)
    if _MARKUP.match(sample.encode()):
        raise UnreadableError(f"is a web page or XML under another name, not a table: {_SAVE_AGAIN}")
    if len(_CONTROL.findall(sample)) > len(sample) / 100:
        raise UnreadableError(f"holds binary data, not text: {_SAVE_AGAIN}")
    source = _Utf8Blocks(path, encoding)
    blocks = iter(source)
    block = next(blocks, b"")
    lines = _physical_lines(block, 0)
    opening = list(islice(lines, _SAMPLE_LINES))
    if not opening:
        raise UnreadableError(f"is empty: {_SAVE_AGAIN}")
    skipped = 0
    if found := _SEPARATOR_LINE.match(opening[0]):  # Excel's own way of naming the delimiter
        delimiter, skipped = found[1], 1
    else:
        try:
            delimiter = detect_delimiter(opening)
        except csv.Error as error:
            raise UnreadableError(f"is no regular table in its first lines ({error}): {_SAVE_AGAIN}") from error
    taken = opening[:skipped]

    def take() -> Iterator[str]:
        for line in chain(opening[skipped:], lines):
            taken.append(line)
            yield line

    reader = csv.reader(take(), delimiter=delimiter)
    header: list[str] = []
    header_line = 0
    while not any(name.strip() for name in header):
        header_line = skipped + reader.line_num + 1
        try:
            header = next(reader)
        except StopIteration:
            raise UnreadableError(f"is empty: {_SAVE_AGAIN}") from None
        except csv.Error as error:
            raise UnreadableError(f"has an unreadable header on line {header_line} ({error}): {_SAVE_AGAIN}") from error
    first = block[len("".join(taken).encode()) :]
    body = _CsvBody(source, blocks, first, len(taken), delimiter)
    return TableFile("csv", encoding, delimiter, header, header_line, body)


def _physical_lines(block: bytes, lines_before: int) -> Iterator[str]:
    """The lines as `csv` counts them: ended by CRLF, LF or a lone CR, and by nothing else."""
    if (zero := block.find(b"\x00")) >= 0:
        at = lines_before + 1 + block.count(b"\n", 0, zero)
        raise UnreadableError(f"holds binary data on line {at}: {_SAVE_AGAIN}")
    if not _is_utf8(block):
        try:
            block.decode()
        except UnicodeDecodeError as error:
            at = lines_before + 1 + block.count(b"\n", 0, error.start)
            raise UnreadableError(f"says it is UTF-8 and is not on line {at}: save it as CSV UTF-8") from error
    return io.TextIOWrapper(io.BytesIO(block), encoding="utf-8", newline="")


class _CsvBody:
    """The records of a CSV file after its header."""

    has_decimal_points = False

    def __init__(self, source: _Utf8Blocks, blocks: Iterator[bytes], first: bytes, line: int, delimiter: str) -> None:
        self._source = source
        self._blocks = blocks
        self._first = first
        self._line = line  # physical lines gone by
        self._delimiter = delimiter

    def sha256(self) -> str:
        return self._source.sha256()

    def batches(self, width: int, *, vectorised: bool) -> Iterator[Batch]:
        row_no = 0
        remaining = chain([self._first] if self._first else [], self._blocks)
        for block in remaining:
            found = _read_plain(block, width, self._delimiter, self._line) if vectorised else None
            if found is None:
                batch = _batch_of_records(self._walk(block, remaining), width, row_no)
            else:
                columns, lines, ragged, n_lines = found
                self._line += n_lines
                batch = _batch(columns, lines, ragged, row_no)
            row_no += batch.n_rows
            if batch.n_rows:
                yield batch

    def _walk(self, block: bytes, following: Iterator[bytes]) -> Iterator[tuple[int, list[str]]]:
        """The records of a block by `csv`; a record cut by the block's end draws on the next ones."""
        lines, position = list(_physical_lines(block, self._line)), 0

        def feed() -> Iterator[str]:
            nonlocal lines, position
            while True:
                if position == len(lines):
                    more = next(following, None)
                    if more is None:
                        yield _END
                        return
                    lines, position = list(_physical_lines(more, self._line)), 0
                position += 1
                self._line += 1
                yield lines[position - 1]

        reader = csv.reader(feed(), delimiter=self._delimiter)
        while position < len(lines):
            start = self._line + 1
            try:
                record = next(reader)
            except csv.Error as error:
                raise UnreadableError(
                    f"has a record from line {start} on that never ends properly ({error}): look for a"
                    f" quotation mark that is not closed, or {_SAVE_AGAIN}"
                ) from error
            if record and record[-1].endswith(_END):
                raise UnreadableError(
                    f"opens a quotation mark in the record of line {start} and never closes it: {_SAVE_AGAIN}"
                )
            yield start, record


def _read_plain(
    block: bytes, width: int, delimiter: str, lines_before: int
) -> tuple[list[pa.Array], np.ndarray, list[tuple[int, list[str]]], int] | None:
    """A block by Arrow: columns, their lines, ragged records, number of lines. None: not proven plain.

    Proof that this equals what `csv` finds: quotes, taken in pairs, stand where a field begins and ends (or
    doubled inside one), no carriage return stands alone, and there are as many records as lines.
    """
    if width < 2 or b"\x00" in block or not _has_plain_quotes(block, delimiter):
        return None
    if block.startswith(codecs.BOM_UTF8):
        return None  # in the middle of a file it is a character; Arrow would skip it
    n_lines = _count_lines(block)
    if n_lines is None:
        return None
    invalid: list[Any] = []

    def keep_apart(row: Any) -> str:
        invalid.append(row)
        return "skip"

    names = [str(number) for number in range(width)]
    try:
        table = pa_csv.read_csv(
            pa.py_buffer(block),
            # One thread: only then does Arrow say on which line an invalid row stands.
            read_options=pa_csv.ReadOptions(column_names=names, use_threads=False, block_size=len(block) + 1),
            parse_options=pa_csv.ParseOptions(
                delimiter=delimiter, ignore_empty_lines=False, invalid_row_handler=keep_apart
            ),
            convert_options=pa_csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), null_values=[""], strings_can_be_null=True
            ),
        )
    except pa.ArrowInvalid:
        return None  # whatever Arrow stumbles over, `csv` reads or names
    if table.num_rows + len(invalid) != n_lines:
        return None
    lines = np.arange(lines_before + 1, lines_before + n_lines + 1, dtype=np.int64)
    ragged = []
    if invalid:
        at = np.array([row.number for row in invalid], dtype=np.int64) - 1
        texts = [next(csv.reader([row.text], delimiter=delimiter), []) for row in invalid]
        ragged = [(int(line), values) for line, values in zip(lines[at], texts, strict=True) if not _is_blank(values)]
        lines = np.delete(lines, at)
    return [column.combine_chunks() for column in table.columns], lines, ragged, n_lines


def _count_lines(block: bytes) -> int | None:
    """The lines of a block, ended by line feeds; None when a carriage return stands before anything else."""
    text = np.frombuffer(block, np.uint8)
    feeds = text == ord("\n")
    if b"\r" in block:
        returns = text == ord("\r")
        if returns[-1] or (returns[:-1] > feeds[1:]).any():
            return None
    return int(np.count_nonzero(feeds)) + (not block.endswith(b"\n"))


def _has_plain_quotes(block: bytes, delimiter: str) -> bool:
    """Whether the quotes of a block, in pairs, open and close fields or stand doubled inside them."""
    if b'"' not in block:
        return True
    text = np.frombuffer(b"\n" + block + b"\n", np.uint8)
    at = np.flatnonzero(text == ord('"'))
    if len(at) % 2:
        return False
    opens, closes = at[0::2], at[1::2]
    before, after = text[opens - 1], text[closes + 1]
    field_start = (before == ord(delimiter)) | (before == ord("\n"))
    field_end = (after == ord(delimiter)) | (after == ord("\n")) | (after == ord("\r"))
    doubled = closes[:-1] + 1 == opens[1:]  # closes and opens at once: "" inside a quoted field
    field_start[1:] |= doubled
    field_end[:-1] |= doubled
    return bool(field_start.all() and field_end.all())


def _is_blank(values: list[str]) -> bool:
    return not any(value.strip() for value in values)


def _batch_of_records(records: Iterable[tuple[int, list[str]]], width: int, rows_before: int) -> Batch:
    """Records found one by one, as a batch."""
    plain, lines, ragged = [], [], []
    for line, values in records:
        if len(values) == width:
            plain.append(values)
            lines.append(line)
        elif not _is_blank(values):
            ragged.append((line, values))
    columns = [pa.array(values, pa.string()) for values in zip(*plain, strict=True)] if plain else []
    columns = columns or [pa.array([], pa.string())] * width
    columns = [_null_where_empty(column) for column in columns]
    return _batch(columns, np.array(lines, dtype=np.int64), ragged, rows_before)


def _null_where_empty(column: pa.Array) -> pa.Array:
    return pc.if_else(pc.equal(column, ""), None, column)


def _batch(columns: list[pa.Array], lines: np.ndarray, ragged: list[tuple[int, list[str]]], rows_before: int) -> Batch:
    """Leave out records without any value and number the others through."""
    blank = np.ones(len(lines), dtype=bool)
    for column in columns:
        if not blank.any():
            break
        blank &= np.asarray(pc.fill_null(pc.equal(pc.utf8_trim_whitespace(column), ""), True))
    if blank.any():
        columns = [column.filter(pa.array(~blank)) for column in columns]
        lines = lines[~blank]
    ragged_lines = np.array([line for line, _ in ragged], dtype=np.int64)
    # The ordinal of a record: those before the batch, then those of the batch on earlier lines, both kinds.
    row_numbers = rows_before + 1 + np.arange(len(lines)) + np.searchsorted(ragged_lines, lines)
    ragged_numbers = rows_before + 1 + np.arange(len(ragged)) + np.searchsorted(lines, ragged_lines)
    apart = [Ragged(line, int(number), values) for (line, values), number in zip(ragged, ragged_numbers, strict=True)]
    return Batch(columns, lines, row_numbers, apart)


# --- spreadsheets


def _open_spreadsheet(
    path: Path, head: bytes, limits: WorkbookLimits, wanted: Callable[[Sequence[str]], bool] | None
) -> TableFile:
    from python_calamine import CalamineWorkbook

    is_zip = head.startswith(_ZIP_MAGIC)
    if is_zip and not _is_xlsx(path):
        raise UnreadableError(f"is a compressed archive or another office document, not an XLSX: {_SAVE_AGAIN}")
    with _reader_faults():
        if is_zip:
            workbook_guard.check_zip(path, limits, every_sheet=wanted is not None)
        content = path.read_bytes()
        if not is_zip:
            workbook_guard.check_compound(content, limits)
        workbook = CalamineWorkbook.from_filelike(io.BytesIO(content))
        sheet_name, others = _first_sheet(workbook)
        number = 0  # of the sheet among those that are not hidden
        if wanted is not None:
            seen = enumerate([sheet_name, *others])
            number, sheet_name = next(
                ((place, name) for place, name in seen if wanted(_header(workbook.get_sheet_by_name(name)))),
                (0, sheet_name),
            )
        sheet = workbook.get_sheet_by_name(sheet_name)
        first_column = (sheet.start or (0, 0))[1]
        padded = _zero_padded_cells(path, number) if is_zip else {}
        errors = _error_cells(path, number) if is_zip else {}
    body = _SheetBody(_rows_of(sheet), first_column, padded, errors, hashlib.sha256(content).hexdigest())
    try:
        header_line, header = body.take_header()
    except StopIteration:
        if not others:
            raise UnreadableError(f"is empty: {_SAVE_AGAIN}") from None
        raise UnreadableError(
            f"has nothing on its first sheet ({sheet_name!r}), and only the first one is read: move the sheet with the"
            f" table to the front (there {'is' if len(others) == 1 else 'are'} also {', '.join(map(repr, others))})"
        ) from None
    return TableFile("xlsx" if is_zip else "xls", None, None, header, header_line, body)


def _header(sheet: CalamineSheet) -> list[str]:
    """The texts of the first row that holds anything."""
    return next((texts for row in sheet.iter_rows() if not _is_blank(texts := list(map(cell_text, row)))), [])


def every_sheet(path: Path, limits: WorkbookLimits, most_rows: int) -> Iterator[list[list[str]]]:
    """The texts of the sheets of cells of a workbook, of each its first `most_rows` rows; a CSV file has none.

    Hidden sheets too: whoever hid one has filled it in before.
    """
    from python_calamine import CalamineWorkbook, SheetTypeEnum

    content = path.read_bytes()
    if not content.startswith((_ZIP_MAGIC, _OLE_MAGIC)):
        return
    with _reader_faults():
        if content.startswith(_ZIP_MAGIC):
            workbook_guard.check_zip(path, limits, every_sheet=True)
        else:
            workbook_guard.check_compound(content, limits)
        workbook = CalamineWorkbook.from_filelike(io.BytesIO(content))
        for sheet in workbook.sheets_metadata:
            if sheet.typ == SheetTypeEnum.WorkSheet:
                rows = workbook.get_sheet_by_name(sheet.name).iter_rows()
                yield [list(map(cell_text, row)) for row in islice(rows, most_rows)]


def _first_sheet(workbook: CalamineWorkbook) -> tuple[str, list[str]]:
    """The first sheet of cells that is not hidden, and the names of the others: what a person sees on opening it."""
    from python_calamine import SheetTypeEnum, SheetVisibleEnum

    seen = [
        sheet.name
        for sheet in workbook.sheets_metadata
        if sheet.typ == SheetTypeEnum.WorkSheet and sheet.visible == SheetVisibleEnum.Visible
    ]
    if not seen:
        raise UnreadableError(f"has no sheet of cells that is not hidden: {_SAVE_AGAIN}")
    return seen[0], seen[1:]


def _rows_of(sheet: CalamineSheet) -> Iterator[list[Any]]:
    with _reader_faults():
        yield from sheet.iter_rows()


def _is_xlsx(path: Path) -> bool:
    with _reader_faults(), zipfile.ZipFile(path) as archive:
        return "xl/workbook.xml" in archive.namelist()


@contextmanager
def _reader_faults() -> Iterator[None]:
    """Whatever a workbook's readers stumble over, as UnreadableError. Their messages may quote cells: not repeated."""
    from python_calamine import CalamineError, PasswordError

    try:
        yield
    except workbook_guard.LockedError as error:
        raise UnreadableError(str(error)) from error
    except workbook_guard.GuardError as error:
        raise UnreadableError(f"{error}: {_SAVE_AGAIN}") from error
    except PasswordError as error:
        raise UnreadableError("is protected by a password: save it without one") from error
    except (CalamineError, *workbook_guard.DAMAGES) as error:
        raise UnreadableError(f"is a damaged spreadsheet: {_SAVE_AGAIN}") from error
    except BaseException as error:
        # A panic of the reader's Rust code: PyO3 puts it beside Exception, and it cannot be imported.
        if type(error).__name__ != "PanicException":
            raise
        raise UnreadableError(f"is a damaged spreadsheet: {_SAVE_AGAIN}") from error


class _SheetBody:
    """The rows of a sheet; a line is a row number as the spreadsheet shows it."""

    has_decimal_points = False

    def __init__(
        self,
        rows: Iterator[list[Any]],
        first_column: int,
        padded: dict[tuple[int, int], int],
        errors: dict[tuple[int, int], str],
        digest: str,
    ) -> None:
        self._rows = enumerate(rows)
        self._first_column = first_column
        self._padded = padded
        self._padded_columns = {column for _, column in padded}
        self._errors = errors
        self._error_columns = {column for _, column in errors}
        self._digest = digest

    def sha256(self) -> str:
        return self._digest

    def _texts(self, place: int, values: Sequence[Any], numbers: Sequence[int]) -> list[str]:
        """The cells of column `place` in some rows as text; each distinct value is worked out once."""
        kinds = set(map(type, values))
        if bool in kinds and kinds & {int, float}:  # true is 1 to Python, and 1 is no `true`
            texts = list(map(cell_text, values))
        else:
            known = {value: cell_text(value) for value in set(values)}
            texts = list(map(known.__getitem__, values))
        column = self._first_column + place
        if column in self._error_columns:
            texts = [
                text or self._errors.get((number, column), "") for number, text in zip(numbers, texts, strict=True)
            ]
        if float in kinds:
            self.has_decimal_points |= any("." in t for v, t in zip(values, texts, strict=True) if type(v) is float)
            if column in self._padded_columns:
                texts = [
                    text.zfill(self._padded.get((number, column), 0)) if type(value) is float else text
                    for number, value, text in zip(numbers, values, texts, strict=True)
                ]
        return texts

    def take_header(self) -> tuple[int, list[str]]:
        """The first row that holds anything, and its row number; StopIteration without one.

        All rows of a sheet have one width.
        """
        for number, row in self._rows:
            header = [self._texts(place, [value], [number])[0] for place, value in enumerate(row)]
            if not _is_blank(header):
                return number + 1, header
        raise StopIteration

    def batches(self, width: int, *, vectorised: bool) -> Iterator[Batch]:
        """`vectorised` makes no difference to a sheet: its cells come one by one."""
        row_no = 0
        while rows := list(islice(self._rows, max(SHEET_BLOCK_CELLS // width, 1))):
            numbers = [number for number, _ in rows]
            cells = zip(*(row for _, row in rows), strict=True)
            texts = (self._texts(place, values, numbers) for place, values in enumerate(cells))
            columns = [_null_where_empty(pa.array(column, pa.string())) for column in texts]
            batch = _batch(columns, np.array(numbers, dtype=np.int64) + 1, [], row_no)
            row_no += batch.n_rows
            if batch.n_rows:
                yield batch


def cell_text(value: Any) -> str:
    """A cell as the text a person would have typed: 5.0 is `5`, a date is ISO, an empty cell is ''."""
    if isinstance(value, str):
        return value.replace("\x00", "")
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        if value.is_integer():
            return str(int(value))
        text = format(value, ".15g")  # the digits a spreadsheet shows: 0.1 + 0.2 is 0.3
        return format(Decimal(text), "f") if "e" in text else text
    if isinstance(value, datetime):
        return value.date().isoformat() if value.time() == time() else value.isoformat(" ", "seconds")
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return str(value)
    return str(value)


_ALL_ZEROS = re.compile(r"^(0{2,15})$")


def _zero_padded_cells(path: Path, number: int) -> dict[tuple[int, int], int]:
    """Cells shown with leading zeros by a number format like `00000`: (row, column) from 0 -> digits shown.

    The reader gives such a cell as a bare number; a postal code typed as 01000 would become 1000.
    """
    cells: dict[tuple[int, int], int] = {}
    with path.open("rb") as stream, zipfile.ZipFile(stream) as archive:
        first = workbook_guard.first_sheet(archive, number)
        if first is None or "xl/styles.xml" not in archive.namelist():
            return {}
        widths = _padding_styles(workbook_guard.inflated_chunks(stream, archive.getinfo("xl/styles.xml")))

        def start(name: str, attributes: dict[str, str]) -> None:
            if name == "c" and (width := widths.get(attributes.get("s", ""))) and (place := attributes.get("r")):
                cells[_position(place)] = width

        if widths:
            _parse(workbook_guard.inflated_chunks(stream, archive.getinfo(first)), start)
    return cells


_ERROR_CELL = re.compile(rb"""\st=["']e["']""")


def _error_cells(path: Path, number: int) -> dict[tuple[int, int], str]:
    """Cells that hold an error, as `#N/A`: (row, column) from 0 -> its text. The reader gives them as empty ones."""
    cells: dict[tuple[int, int], str] = {}
    place: str | None = None  # of the error cell that is open
    is_value = False

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal place, is_value
        if name == "c":
            place = attributes.get("r") if attributes.get("t") == "e" else None
        is_value = name == "v" and place is not None

    def text(part: str) -> None:
        if is_value and place is not None:
            cells[_position(place)] = cells.get(_position(place), "") + part.strip()

    with path.open("rb") as stream, zipfile.ZipFile(stream) as archive:
        first = workbook_guard.first_sheet(archive, number)
        if first is None:
            return {}
        end = b""
        for chunk in workbook_guard.inflated_chunks(stream, archive.getinfo(first)):
            if _ERROR_CELL.search(end + chunk):
                _parse(workbook_guard.inflated_chunks(stream, archive.getinfo(first)), start, text)
                break
            end = chunk[-8:]
    return cells


def _padding_styles(chunks: Iterable[bytes]) -> dict[str, int]:
    """Style number of a cell -> digits that its number format shows, of formats that are nothing but zeros."""
    formats: dict[str, int] = {}
    widths: dict[str, int] = {}
    number = -1  # of the style gone by; below 0 outside the list of cell styles

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal number
        if name == "numFmt" and _ALL_ZEROS.match(code := attributes.get("formatCode", "")):
            formats[attributes.get("numFmtId", "")] = len(code)
        elif name == "cellXfs":
            number = 0
        elif name == "cellStyles":
            number = -1
        elif name == "xf" and number >= 0:
            if width := formats.get(attributes.get("numFmtId", "")):
                widths[str(number)] = width
            number += 1

    _parse(chunks, start)
    return widths


def _parse(
    chunks: Iterable[bytes], start: Callable[[str, dict[str, str]], None], text: Callable[[str], None] | None = None
) -> None:
    """Go through XML: `start` gets each element's name, without its prefix, and its attributes; `text` the rest."""
    parser = expat.ParserCreate()
    if text is not None:
        parser.CharacterDataHandler = text
    parser.StartElementHandler = lambda name, attributes: start(name.rpartition(":")[2], attributes)
    for chunk in chunks:
        parser.Parse(chunk)


def _position(reference: str) -> tuple[int, int]:
    """`B3` -> (2, 1)."""
    column = 0
    letters = reference.rstrip("0123456789")
    for letter in letters:
        column = column * 26 + ord(letter) - ord("A") + 1
    return int(reference[len(letters) :]) - 1, column - 1
