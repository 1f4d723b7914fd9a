"""Whether a workbook may be opened at all: looked at before a reader unpacks it, in memory that stays small.

An XLSX is a ZIP of XML, an XLS a small file system. Either can be written so that a reader fills the memory, never
ends, or takes the process down: parts that inflate a thousandfold, XML that expands itself, one cell at the far end
of the sheet, chains of sectors that lead round in circles. What is refused here is refused for such reasons only;
what the cells say, and whether the rest is sound, is the reader's business (`reading.py`). No workbook is changed.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator
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
# Other ways to write a cell's element: XML allows them, few programs use them.
_ODD_CELLS = (b"<c>", b"<c/", b"<c\t", b"<c\n", b"<c\r", b":c ", b":c>", b":c/", b":c\t", b":c\n", b":c\r")
_REFERENCE_BYTES = 16  # `XFD1048576"` and some
_SECTOR_IDS = 0xFFFFFFFA  # from here on a number is a sign, not a sector


class GuardError(Exception):
    """A workbook that must not be opened. The message goes on after the file's name: what is wrong."""


def check_zip(path: Path, limits: WorkbookLimits) -> None:
    """Look at all parts of an archive; GuardError for one that would inflate, expand or lay out too much.

    What makes it no sound archive or no XML is raised as the libraries do: see `DAMAGES`.
    """
    most = limits.inflated_bytes
    if path.stat().st_size > most:
        raise GuardError(f"is larger than {_in_mib(most)}")
    with path.open("rb") as stream, zipfile.ZipFile(stream) as archive:
        parts = archive.infolist()
        if any(part.flag_bits & 1 for part in parts):
            raise GuardError("is protected by a password")
        first = first_sheet(archive)
        inflated = 0
        for part in parts:
            is_xml = part.filename.lower().endswith((".xml", ".rels"))
            _check_size(part.file_size, part.compress_size, inflated, limits)
            is_first = first is not None and part.filename.lower() == first.lower()
            reach = _Reach(limits) if is_first else None
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


def first_sheet(archive: zipfile.ZipFile) -> str | None:
    """The part of the archive that holds the first sheet of cells that is not hidden, as `reading.py` chooses it."""
    names = archive.namelist()
    if not {"xl/workbook.xml", _RELATIONS} <= set(names):
        return None
    relations = {relation.get("Id"): relation for relation in _small_xml(archive, _RELATIONS)}
    for sheet in _small_xml(archive, "xl/workbook.xml").iterfind(f"{SHEET_NS}sheets/{SHEET_NS}sheet"):
        relation = relations.get(sheet.get(_OFFICE_REL))
        is_hidden = sheet.get("state", "visible") != "visible"
        if relation is None or is_hidden or not relation.get("Type", "").endswith("/worksheet"):
            continue
        target = relation.get("Target", "")
        wanted = target.lstrip("/") if target.startswith("/") else f"xl/{target}"
        return next((name for name in names if name.lower() == wanted.lower()), None)
    return None


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
        self._filled = 0
        self.is_uncertain = False

    def add(self, chunk: bytes) -> None:
        """Take the next chunk of the sheet's XML; GuardError once it has too many cells."""
        text = self._rest + chunk
        # Half an element waits for its other half; what goes on for so long without one is no cell.
        cut = text.rfind(b"<")
        self._rest, text = (text[cut:][-_CHUNK:], text[:cut]) if cut >= 0 else (b"", text)
        self._filled += text.count(b"<v>") + text.count(b"<is>")
        if self._filled > self._limits.cells:
            raise _too_many(self._limits)
        if self.is_uncertain:
            return
        cells = text.count(_CELL)
        if text.count(b"<c ") != cells or any(text.count(odd) for odd in _ODD_CELLS):
            self.is_uncertain = True
        elif cells:
            self._rectangle = _around(self._rectangle, *_places(text))
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


def _places(text: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns, from 1, of the cells in a piece of XML, by their references."""
    data = np.frombuffer(text + bytes(len(_CELL) + _REFERENCE_BYTES), np.uint8)
    starts = data[: len(text)] == _CELL[0]
    for offset, byte in enumerate(_CELL[1:], start=1):
        starts &= data[offset : offset + len(text)] == byte
    at = np.flatnonzero(starts) + len(_CELL)
    columns, rows = np.zeros(len(at), np.int64), np.zeros(len(at), np.int64)
    goes_on = np.ones(len(at), bool)
    for offset in range(_REFERENCE_BYTES):
        codes = data[at + offset].astype(np.int64)
        is_letter = goes_on & (codes >= ord("A")) & (codes <= ord("Z"))
        is_digit = goes_on & (codes >= ord("0")) & (codes <= ord("9"))
        goes_on = is_letter | is_digit
        if not goes_on.any():
            break
        columns = np.where(is_letter, columns * 26 + codes - ord("A") + 1, columns)
        rows = np.where(is_digit, rows * 10 + codes - ord("0"), rows)
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


def check_compound(content: bytes) -> None:
    """Look at the chains of an old Office document's sectors; GuardError when one is broken or never ends."""
    if len(content) < 512:
        raise GuardError("is a damaged spreadsheet: it is cut off")
    (shift,) = struct.unpack_from("<H", content, 30)
    if shift not in (9, 12):
        raise GuardError("is a damaged spreadsheet: its sectors have a size that no program writes")
    size = 1 << shift
    count = max(len(content) // size, 1)
    mini_start, _, next_list, _ = struct.unpack_from("<IIII", content, 60)
    table_sectors = [sector for sector in struct.unpack_from("<109I", content, 76) if sector < _SECTOR_IDS]
    lists: set[int] = set()
    while next_list < _SECTOR_IDS:
        if next_list in lists or next_list >= count:
            raise GuardError("is a damaged spreadsheet: its list of sectors leads nowhere")
        lists.add(next_list)
        *sectors, next_list = _sector(content, next_list, size)
        table_sectors += [sector for sector in sectors if sector < _SECTOR_IDS]
    if any(sector >= count for sector in table_sectors) or len(table_sectors) > count:
        raise GuardError("is a damaged spreadsheet: its list of sectors leads nowhere")
    followers = np.array([n for sector in table_sectors for n in _sector(content, sector, size)], dtype=np.int64)
    _check_chains(followers)
    chain, mini = mini_start, []
    while chain < len(followers) and chain < count:  # ends: no chain goes round in circles
        mini += _sector(content, chain, size)
        chain = int(followers[chain])
    _check_chains(np.array(mini, dtype=np.int64))


def _sector(content: bytes, number: int, size: int) -> list[int]:
    """The numbers in a sector; a last one that is cut off is filled up."""
    piece = content[size * (number + 1) : size * (number + 2)].ljust(size, b"\xff")
    return list(struct.unpack(f"<{size // 4}I", piece))


def _check_chains(followers: np.ndarray) -> None:
    """GuardError when following the numbers leads round in circles: `followers[n]` comes after sector n."""
    end = len(followers)
    reached = np.append(np.where(followers < end, followers, end), end)
    for _ in range(end.bit_length()):
        reached = reached[reached]  # twice as many steps each time
    if (reached != end).any():
        raise GuardError("is a damaged spreadsheet: its sectors lead round in circles")
