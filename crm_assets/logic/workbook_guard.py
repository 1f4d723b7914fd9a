"""Whether a workbook may be opened at all: looked at before a reader unpacks it, in memory that stays small.

An XLSX is a ZIP of XML, an XLS a small file system. Either can be written so that a reader fills the memory, never
ends, or takes the process down: parts that inflate a thousandfold, XML that expands itself, one cell at the far end
of the sheet, chains of sectors that lead round in circles. What is refused here is refused for such reasons only;
what the cells say, and whether the rest is sound, is the reader's business (`reading.py`). No workbook is changed.
"""

from __future__ import annotations

import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from xml.etree import ElementTree
from xml.parsers import expat

import numpy as np

if TYPE_CHECKING:
    from crm_assets.rules import WorkbookLimits

SHEET_NS = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
# What the libraries under this module and under the reader raise for an archive or XML that is broken.
DAMAGES = (
    zipfile.BadZipFile, zlib.error, ElementTree.ParseError, expat.ExpatError, struct.error,
    NotImplementedError, RuntimeError, EOFError, KeyError, ValueError,
)  # fmt: skip
_OFFICE_REL = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"
_RELATIONS = "xl/_rels/workbook.xml.rels"
_CHUNK = 1 << 20
_CELL = b'<c r="'
# A cell's element with a prefix of its own: XML allows it, few programs write it.
_PREFIXED_CELL = re.compile(rb":c[\s/>]")
_ENDS_NAME = np.isin(np.arange(256), list(b" \t\r\n/>"))
_REFERENCE_BYTES = 10  # of `XFD1048576`, the last cell of a sheet
_SECTOR_IDS = 0xFFFFFFFA  # from here on a number is a sign, not a sector
_STREAM, _ROOT = 2, 5  # kinds of directory entries
_RECORD = struct.Struct("<HH")
_END_RECORD, _SHEET_RECORD, _TEXTS_RECORD, _EXTENT_RECORD = 0x000A, 0x0085, 0x00FC, 0x0200
_CELL_RECORDS = frozenset({0x0006, 0x00BD, 0x00D6, 0x00FD, 0x0203, 0x0204, 0x0205, 0x0207, 0x027E})


class GuardError(Exception):
    """A workbook that must not be opened. The message goes on after the file's name: what is wrong."""


class LockedError(GuardError):
    """A workbook that a password locks. The message also says what to do."""


def check_zip(path: Path, limits: WorkbookLimits, *, every_sheet: bool = False) -> None:
    """Look at all parts of an archive; GuardError for one that would inflate, expand or lay out too much.

    How far cells reach is looked at on the first sheet, the one that is read; on all for who reads others too.
    What makes it no sound archive or no XML is raised as the libraries do: see `DAMAGES`.
    """
    most = limits.inflated_bytes
    if path.stat().st_size > most:
        raise GuardError(f"is larger than {_in_mib(most)}")
    with path.open("rb") as stream, zipfile.ZipFile(stream) as archive:
        parts = archive.infolist()
        if any(part.flag_bits & 1 for part in parts):
            raise LockedError("is protected by a password: save it without one")
        names = [name for name, _ in _sheets(archive)] if every_sheet else [first_sheet(archive)]
        read = {name.lower() for name in names if name}
        inflated = 0
        for part in parts:
            is_xml = part.filename.lower().endswith((".xml", ".rels"))
            _check_size(part.file_size, part.compress_size, inflated, limits)
            reach = _Reach(limits) if part.filename.lower() in read else None
            size = 0
            for chunk in inflated_chunks(stream, part):
                if not size and is_xml and b"<!DOCTYPE" in chunk:
                    raise GuardError("holds XML with entities of its own, which no export has")
                size += len(chunk)
                _check_size(size, part.compress_size, inflated, limits)
                if reach is not None:
                    reach.add(chunk)
            inflated += size
            if reach is not None and reach.is_uncertain:
                _check_cells_one_by_one(inflated_chunks(stream, part), limits)


def first_sheet(archive: zipfile.ZipFile, number: int = 0) -> str | None:
    """The part of the archive that holds the first sheet of cells that is not hidden, as `reading.py` chooses it, or
    the one that stands `number` places behind it.
    """
    return next(islice((name for name, is_hidden in _sheets(archive) if not is_hidden), number, None), None)


def _sheets(archive: zipfile.ZipFile) -> Iterator[tuple[str | None, bool]]:
    """The sheets of cells in order: the part of the archive that holds each, if any, and whether it is hidden."""
    names = archive.namelist()
    if not {"xl/workbook.xml", _RELATIONS} <= set(names):
        return
    relations = {relation.get("Id"): relation for relation in _small_xml(archive, _RELATIONS)}
    for sheet in _small_xml(archive, "xl/workbook.xml").iterfind(f"{SHEET_NS}sheets/{SHEET_NS}sheet"):
        relation = relations.get(sheet.get(_OFFICE_REL))
        if relation is None or not relation.get("Type", "").endswith("/worksheet"):
            continue
        target = relation.get("Target", "")
        wanted = target.lstrip("/") if target.startswith("/") else f"xl/{target}"
        part = next((name for name in names if name.lower() == wanted.lower()), None)
        yield part, sheet.get("state", "visible") != "visible"


def _small_xml(archive: zipfile.ZipFile, name: str) -> ElementTree.Element:
    with archive.open(name) as stream:
        content = stream.read(_CHUNK + 1)
    if len(content) > _CHUNK or b"<!DOCTYPE" in content:
        raise GuardError("describes its sheets in a way that no export does")
    return ElementTree.fromstring(content)


def _check_size(size: int, packed: int, before: int, limits: WorkbookLimits) -> None:
    if before + size > limits.inflated_bytes:
        raise GuardError(f"would unpack to more than {_in_mib(limits.inflated_bytes)}")
    if size > limits.ratio_from_bytes and size > limits.ratio * packed:
        raise GuardError(f"would unpack to more than {limits.ratio:g} times its size, as no export does")


def _in_mib(size: int) -> str:
    return f"{size >> 20} MiB"


def inflated_chunks(stream: BinaryIO, part: zipfile.ZipInfo) -> Iterator[bytes]:
    """What a part really unpacks to, in chunks, whatever its directory declares."""
    stream.seek(max(part.header_offset, 0))  # damaged directories point before the file
    header = stream.read(30)
    if len(header) < 30 or not header.startswith(b"PK\x03\x04"):
        raise zipfile.BadZipFile("no local header")
    stream.seek(sum(struct.unpack("<HH", header[26:30])), 1)
    left = part.compress_size
    if part.compress_type == zipfile.ZIP_STORED:
        while left > 0 and (chunk := stream.read(min(left, _CHUNK))):
            left -= len(chunk)
            yield chunk
        return
    if part.compress_type != zipfile.ZIP_DEFLATED:
        raise GuardError("is compressed in a way that spreadsheets are not")
    unpacker = zlib.decompressobj(-15)
    while left > 0 and not unpacker.eof and (packed := stream.read(min(left, _CHUNK // 8))):
        left -= len(packed)
        while packed and not unpacker.eof:
            if chunk := unpacker.decompress(packed, _CHUNK):
                yield chunk
            packed = unpacker.unconsumed_tail


# --- how far the cells of a sheet reach


class _Reach:
    """The rectangle that the cells of a sheet lie in: readers lay out every cell of it, also where nothing stands.

    Found at a glance for the way nearly all programs write; `is_uncertain` where a parser must look.
    """

    def __init__(self, limits: WorkbookLimits) -> None:
        self._limits = limits
        self._rest = b""
        self._rectangle = _NOWHERE
        self._cells = 0
        self.is_uncertain = False

    def add(self, chunk: bytes) -> None:
        """Take the next chunk of the sheet's XML."""
        text = self._rest + chunk
        # Half an element waits for its other half; what goes on for so long without one is no cell.
        cut = text.rfind(b"<")
        self._rest, text = (text[cut:][-_CHUNK:], text[:cut]) if cut >= 0 else (b"", text)
        if self.is_uncertain:
            return
        data = np.frombuffer(text + bytes(len(_CELL) + _REFERENCE_BYTES), np.uint8)
        opens = np.flatnonzero((data[:-1] == ord("<")) & (data[1:] == ord("c")))
        at = opens[np.logical_and.reduce([data[opens + n] == byte for n, byte in enumerate(_CELL)])] + len(_CELL)
        # Of the elements that begin with a c: `c` itself, not `col` or `conditionalFormatting`.
        is_otherwise = len(at) < int(np.count_nonzero(_ENDS_NAME[data[opens + 2]]))
        self._cells += len(at)
        if is_otherwise or self._cells > self._limits.cells or _PREFIXED_CELL.search(text):
            self.is_uncertain = True
        elif len(at):
            self._rectangle = _around(self._rectangle, *_places(data, at))
            self.is_uncertain = _span(self._rectangle) > self._limits.cells or _is_outside(self._rectangle)


_Rectangle = tuple[int, int, int, int]  # lowest and highest row, lowest and highest column
_NOWHERE: _Rectangle = (1 << 60, 0, 1 << 60, 0)


def _around(rectangle: _Rectangle, rows: np.ndarray, columns: np.ndarray) -> _Rectangle:
    top, bottom, left, right = rectangle
    return (
        min(top, int(rows.min())), max(bottom, int(rows.max())),
        min(left, int(columns.min())), max(right, int(columns.max())),
    )  # fmt: skip


def _span(rectangle: _Rectangle) -> int:
    top, bottom, left, right = rectangle
    return max(bottom - top + 1, 0) * max(right - left + 1, 0)


def _is_outside(rectangle: _Rectangle) -> bool:
    """Whether it leaves the sheet of 1,048,576 rows and 16,384 columns: readers count on and begin anew at 2³²."""
    return rectangle[1] > 1 << 20 or rectangle[3] > 1 << 14


def _too_many(limits: WorkbookLimits) -> GuardError:
    return GuardError(f"spans more than {limits.cells} cells: delete what stands far below or far to the right")


def _places(data: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns, from 1, of the references that begin at some places of a text; enormous where they go on."""
    columns, rows = np.zeros(len(at), np.int32), np.zeros(len(at), np.int32)
    goes_on = np.ones(len(at), bool)
    is_enormous = np.zeros(len(at), bool)
    for offset in range(_REFERENCE_BYTES):
        codes = data[at + offset]
        is_digit = goes_on & (codes - ord("0") < 10)  # bytes below a digit come round to large ones
        is_letter = goes_on & (codes - ord("A") < 26)
        if is_letter.any():
            if offset > 2:
                is_enormous |= is_letter
            np.multiply(columns, 26, out=columns, where=is_letter)
            np.add(columns, codes - (ord("A") - 1), out=columns, where=is_letter, casting="unsafe")
        np.multiply(rows, 10, out=rows, where=is_digit)
        np.add(rows, codes - ord("0"), out=rows, where=is_digit, casting="unsafe")
        goes_on = is_digit | is_letter
        if not goes_on.any():
            break
    if goes_on.any():
        is_enormous |= goes_on & (data[at + _REFERENCE_BYTES] != ord('"'))
    rows[is_enormous | (columns == 0)] = np.iinfo(np.int32).max
    return rows, columns


def _check_cells_one_by_one(chunks: Iterator[bytes], limits: WorkbookLimits) -> None:
    """The same by an XML parser: whatever way cells are written in, and without those that hold nothing."""
    row = column = filled = 0
    is_filled = False
    rectangle = _NOWHERE

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal row, column, is_filled
        local = name.rpartition(":")[2]
        if local == "row":
            row, column = _number(attributes.get("r", ""), row + 1), 0
        elif local == "c":
            letters = (reference := attributes.get("r", "")).rstrip("0123456789")
            column = _column(letters) if letters else column + 1
            row = _number(reference[len(letters) :], max(row, 1))
            is_filled = False
        elif local in ("v", "is"):
            is_filled = True

    def end(name: str) -> None:
        nonlocal filled, rectangle
        if is_filled and name.rpartition(":")[2] == "c":
            top, bottom, left, right = rectangle
            rectangle = min(top, row), max(bottom, row), min(left, column), max(right, column)
            filled += 1
            if max(filled, _span(rectangle)) > limits.cells:
                raise _too_many(limits)
            if _is_outside(rectangle):
                raise GuardError("has cells beyond the edge of a sheet")

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = start, end
    for chunk in chunks:
        parser.Parse(chunk)


def _number(text: str, otherwise: int) -> int:
    return int(text[:_REFERENCE_BYTES]) if text.isascii() and text.isdigit() else otherwise


def _column(letters: str) -> int:
    """`B` -> 2."""
    column = 0
    for letter in letters[:_REFERENCE_BYTES]:
        column = column * 26 + (ord(letter) & 31)
    return column


# --- compound files


def check_compound(content: bytes, limits: WorkbookLimits) -> None:
    """Look at the chains of an old workbook's sectors and at its records; GuardError when its reader must not.

    Chains may be broken or never end; records may announce more cells or texts than the file has bytes.
    """
    if len(content) < 512:
        raise GuardError("is a damaged spreadsheet: it is cut off")
    (shift,) = struct.unpack_from("<H", content, 30)
    if shift not in (9, 12):
        raise GuardError("is a damaged spreadsheet: its sectors have a size that no program writes")
    size = 1 << shift
    count = max(len(content) // size, 1)
    directory_start, _, mini_below, mini_start, _, next_list = struct.unpack_from("<IIIIII", content, 48)
    table_sectors = [sector for sector in struct.unpack_from("<109I", content, 76) if sector < _SECTOR_IDS]
    lists: set[int] = set()
    while next_list < _SECTOR_IDS:
        if next_list in lists or next_list >= count:
            raise GuardError("is a damaged spreadsheet: its list of sectors leads nowhere")
        lists.add(next_list)
        *sectors, next_list = _numbers(_sector(content, next_list, size))
        table_sectors += [sector for sector in sectors if sector < _SECTOR_IDS]
    if any(sector >= count for sector in table_sectors) or len(table_sectors) > count:
        raise GuardError("is a damaged spreadsheet: its list of sectors leads nowhere")
    followers = _followers(b"".join(_sector(content, sector, size) for sector in table_sectors))

    def chain(start: int) -> bytes:
        return b"".join(_sector(content, sector, size) for sector in _chain(followers, start) if sector < count)

    mini_followers = _followers(chain(mini_start))
    entries = _entries(chain(directory_start), is_wide=shift == 12)
    if any(length > len(content) for _, _, length in entries.values()):
        raise GuardError("is a damaged spreadsheet: its directory announces more than the file holds")
    if "EncryptedPackage" in entries:
        raise LockedError("is protected by a password: save it without one")
    if (workbook := entries.get("Workbook", entries.get("Book"))) is None:
        raise GuardError("is an old Office document, but no workbook")
    _, start, length = workbook
    if length >= mini_below:
        stream = chain(start)
    else:
        minis = chain(next((begin for kind, begin, _ in entries.values() if kind == _ROOT), _SECTOR_IDS))
        stream = b"".join(minis[64 * sector : 64 * (sector + 1)] for sector in _chain(mini_followers, start))
    _check_records(stream[:length], limits)


def _entries(directory: bytes, *, is_wide: bool) -> dict[str, tuple[int, int, int]]:
    """name -> kind, first sector, size of the streams in a directory, and of its root; the first of a name counts."""
    found: dict[str, tuple[int, int, int]] = {}
    for at in range(0, len(directory) - 127, 128):
        kind, (start, size) = directory[at + 66], struct.unpack_from("<IQ", directory, at + 116)
        if kind in (_STREAM, _ROOT):
            name = directory[at : at + 64].decode("utf-16-le", "replace").partition("\0")[0]
            found.setdefault(name, (kind, start, size if is_wide else size & 0xFFFFFFFF))
    return found


def _check_records(stream: bytes, limits: WorkbookLimits) -> None:
    """Go through the records as the reader will: those of the book, then each sheet's from where it begins."""
    sheets: list[int] = []
    left = limits.cells
    for kind, at, length in _records(stream, 0):
        if kind == _SHEET_RECORD and length >= 4:
            sheets += struct.unpack_from("<I", stream, at)
        elif kind == _TEXTS_RECORD and length >= 8 and struct.unpack_from("<I", stream, at + 4)[0] > len(stream):
            raise GuardError("is a damaged spreadsheet: it announces more texts than it holds")
    for sheet in sheets:
        for kind, at, length in _records(stream, sheet):
            if kind == _EXTENT_RECORD and length >= 10:
                top, bottom, first, end = struct.unpack_from("<IIHH" if length >= 12 else "<HHHH", stream, at)
                # The reader reserves them all at once; where an end is missing or comes first, it counts on past zero.
                if bottom and end and not (bottom >= top and end >= first and bottom <= 1 << 16 and end <= 256):
                    raise GuardError("has cells beyond the edge of a sheet")
            elif kind in _CELL_RECORDS and length >= 4 and struct.unpack_from("<H", stream, at + 2)[0] > 255:
                raise GuardError("has cells beyond the edge of a sheet")
            left -= 1
            if left < 0:
                raise _too_many(limits)


def _records(stream: bytes, at: int) -> Iterator[tuple[int, int, int]]:
    """(kind, where its content begins, length) of the records from `at` to the end of their part."""
    end = len(stream) - 4
    while at <= end:
        kind, length = _RECORD.unpack_from(stream, at)
        at += 4
        if kind == _END_RECORD or at + length > len(stream):
            return
        yield kind, at, length
        at += length


def _chain(followers: np.ndarray, start: int) -> Iterator[int]:
    """The sectors from `start` on: `_followers` has made sure that they end."""
    while start < len(followers):
        yield start
        start = int(followers[start])


def _sector(content: bytes, number: int, size: int) -> bytes:
    """A sector; a last one that is cut off is filled up."""
    return content[size * (number + 1) : size * (number + 2)].ljust(size, b"\xff")


def _numbers(sector: bytes) -> list[int]:
    return list(struct.unpack(f"<{len(sector) // 4}I", sector))


def _followers(table: bytes) -> np.ndarray:
    """Which sector comes after sector n; GuardError when following them leads round in circles."""
    followers = np.frombuffer(table[: len(table) // 4 * 4], "<u4").astype(np.int64)
    end = len(followers)
    reached = np.append(np.where(followers < end, followers, end), end)
    for _ in range(end.bit_length()):
        reached = reached[reached]  # twice as many steps each time
    if (reached != end).any():
        raise GuardError("is a damaged spreadsheet: its sectors lead round in circles")
    return followers
