"""Drop files that nobody should ever send: each a pure function of a seed and a number.

`drops(number)` makes one case: usually one file, sometimes two that only make sense together. Good files are among
them; they say which rows must be found, so that a bad neighbour which spoils them shows. Every value of a case
carries the case's own token: whatever quotes it has quoted content, and no case can meet another one's keys.

Nothing here reads the clock or the environment, imports `crm_assets`, or writes a file: `lay` puts a drop down, and
what the product must make of it is `hostile.py`'s business beyond the statuses that a drop itself allows.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import io
import os
import random
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Literal

import xlsxwriter

SEED = 20260105
_OLE_MAGIC = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
# When every file was modified, for `lay`: long enough ago that nobody may still be writing.
MODIFIED = datetime(2025, 12, 1, 12).timestamp()
GIB = 1 << 30

TAKEN = frozenset({"loaded", "duplicate"})
REFUSED = frozenset({"unreadable", "refused", "unrecognised"})
ANY = TAKEN | REFUSED
# A name that no export can bear is not looked at, and so is what is no regular file.
UNSEEN = frozenset({"unseen"})

Row = tuple[str | None, ...]


@dataclass(frozen=True)
class Drop:
    """One entry of the drop folder, and what must become of it.

    `rows` of a good file: its values by `fields`, in file order, as the raw table must have them; null = blank.
    """

    kind: str
    path: bytes  # relative to the drop folder; any bytes a file system takes
    content: bytes = b""
    shape: Literal["file", "link", "fifo", "folder", "locked"] = "file"
    target: str = ""  # of a link; `{outside}` stands for a folder beside the drop folder
    statuses: frozenset[str] = ANY
    dataset: str = ""  # raw table of a good file
    fields: tuple[str, ...] = ()
    rows: tuple[Row, ...] = ()
    secret: str = ""  # stands in the values: no message may repeat it

    @property
    def file_id(self) -> str:
        return hashlib.sha256(self.content).hexdigest()[:16]


def lay(folder: Path, drop: Drop) -> None:
    """Put a drop into the folder, as if it had been there for a while."""
    outside = folder.parent / "outside"
    place = os.path.join(os.fsencode(folder), drop.path)
    os.makedirs(os.path.dirname(place), exist_ok=True)
    if drop.shape == "link":
        os.symlink(drop.target.format(outside=outside), place)
        return
    if drop.shape == "fifo":
        os.mkfifo(place)
        return
    if drop.shape == "folder":
        os.makedirs(place)
        place = os.path.join(place, b"inside.csv")
    with open(place, "wb") as stream:
        stream.write(drop.content)
    os.utime(place, (MODIFIED, MODIFIED))
    if drop.shape == "locked":
        os.chmod(place, 0)


# --- good tables


@dataclass(frozen=True)
class Table:
    """A small export: texts by header, and the field each header means."""

    dataset: str
    folder: str
    fields: tuple[str, ...]
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    token: str

    @property
    def raw_rows(self) -> tuple[Row, ...]:
        return tuple(tuple(value or None for value in row) for row in self.rows)


_HEADERS = {
    "sales_lines": (
        "ventes_lignes", "client_code document_no line_no product_key product_label order_date quantity amount_ht",
        "Code client;N° pièce;Num ligne;Code produit;Désignation;Date commande;Quantité;Montant HT",
    ),
    "customers": (
        "clients", "client_code last_name first_name email phone postal_code city",
        "Code client;Nom;Prénom;E-mail;Téléphone;Code postal;Ville",
    ),
    "products": ("produits", "product_key label vintage family price_ttc",
                 "Code produit;Libellé;Millésime;Famille;Prix TTC"),
    "stock": ("stock", "product_key warehouse quantity reserved as_of",
              "Code produit;Entrepôt;Quantité;Stock réservé;Date snapshot"),
    "contacts": ("contacts", "client_code email contact_date channel status campaign_id",
                 "Code client;E-mail;Date contact;Canal;Statut;Campagne"),
    "aliases": ("alias", "label product_key", "Libellé;Produit key"),
}  # fmt: skip
FOLDERS = {dataset: about[0] for dataset, about in _HEADERS.items()}
DATASETS = tuple(_HEADERS)
_WORDS = ("Crémant", "Riesling", "Sylvaner", "Edelzwicker", "Pinot Noir", "Gewürztraminer", "Muscat", "Auxerrois")


def token(number: int, seed: int) -> str:
    """Eight characters that no other case has."""
    return hashlib.sha256(f"{seed}:{number}".encode()).hexdigest()[:8]


def table(dice: random.Random, mark: str, *, dataset: str = "", french: bool = True, rows: int = 0) -> Table:
    """An export without a fault. `french`: decimal commas and day-first dates, else as a spreadsheet shows them."""
    dataset = dataset or dice.choice(DATASETS)
    folder, fields, headers = _HEADERS[dataset]

    def day() -> str:
        found = date(2024, 1, 1) + timedelta(days=dice.randrange(700))
        return found.strftime("%d/%m/%Y") if french else found.isoformat()

    def money() -> str:
        text = f"{dice.randrange(100, 90_000) / 100:g}"
        return text.replace(".", ",") if french else text

    made = []
    for number in range(rows or dice.randrange(2, 9)):
        code, product, label = f"C{mark}{number}", f"P{mark}{number}", f"{dice.choice(_WORDS)} {mark}{number}"
        email = f"{mark}.{number}@example.org"
        values = {
            "sales_lines": (code, f"F{mark}",
            str(number + 1), product, label, day(), str(dice.randrange(1, 60)), money()),
            "customers": (code, f"Nom {mark}{number}", "Anne", email, "", "67000", "Strasbourg"),
            "products": (product, label, "2022", "Riesling", money()),
            "stock": (product, "Caveau", str(dice.randrange(500)), "0", day()),
            "contacts": (code, email, day(), "email", "ouvert", f"K{mark}"),
            "aliases": (label, product),
        }  # fmt: skip
        made.append(values[dataset])
    return Table(dataset, folder, tuple(fields.split()), tuple(headers.split(";")), tuple(made), mark)


def as_csv(
    content: Table, *, delimiter: str = ";", encoding: str = "utf-8", newline: str = "\r\n", bom: bool = False
) -> bytes:
    """A table as a text file."""
    sink = io.StringIO(newline="")
    writer = csv.writer(sink, delimiter=delimiter, lineterminator=newline)
    writer.writerow(content.headers)
    writer.writerows(content.rows)
    return (b"\xef\xbb\xbf" if bom else b"") + sink.getvalue().encode(encoding)


_NUMBERS = frozenset({"quantity", "amount_ht", "price_ttc", "reserved"})
_DAYS = frozenset({"order_date", "as_of", "contact_date"})


def as_xlsx(content: Table) -> bytes:
    """A table as Excel would save it: numbers and dates typed, codes as text. Its texts must not be `french`."""
    sink = io.BytesIO()
    book = xlsxwriter.Workbook(sink, {"in_memory": True})
    book.set_properties({"created": datetime(2025, 1, 1)})
    sheet, day = book.add_worksheet(), book.add_format({"num_format": "dd/mm/yyyy"})
    sheet.write_row(0, 0, content.headers)
    for line, row in enumerate(content.rows, start=1):
        for column, (field, value) in enumerate(zip(content.fields, row, strict=True)):
            if field in _DAYS:
                sheet.write_datetime(line, column, datetime.fromisoformat(value), day)
            elif field in _NUMBERS:
                sheet.write_number(line, column, float(value))
            elif value:
                sheet.write_string(line, column, value)
    book.close()
    return sink.getvalue()


# --- the old workbook format, for which no writer is at hand

SERIAL_EPOCH = date(1899, 12, 30)
_END_OF_CHAIN, _FREE, _TABLE = 0xFFFFFFFE, 0xFFFFFFFF, 0xFFFFFFFD  # of sectors


def old_workbook(rows: Sequence[Sequence[str | float | date]]) -> bytes:
    """Rows as XLS (BIFF8): texts, numbers, days shown by a date format; an empty text is no cell."""

    def record(kind: int, content: bytes = b"") -> bytes:
        return struct.pack("<HH", kind, len(content)) + content

    def text(value: str) -> bytes:
        encoded = value.encode("utf-16-le")
        return struct.pack("<HB", len(encoded) // 2, 1) + encoded

    def begin(kind: int) -> bytes:
        return record(0x0809, struct.pack("<HHHHII", 0x0600, kind, 0x0DBB, 0x07CC, 0, 6))

    end = record(0x000A)
    cells = [begin(0x0010)]
    for line, row in enumerate(rows):
        for column, value in enumerate(row):
            if isinstance(value, str):
                if value:
                    cells.append(record(0x0204, struct.pack("<HHH", line, column, 0) + text(value)))
            else:
                number = (value - SERIAL_EPOCH).days if isinstance(value, date) else value
                cells.append(record(0x0203, struct.pack("<HHHd", line, column, isinstance(value, date), number)))
    styles = b"".join(record(0x00E0, struct.pack("<HH16x", 0, number)) for number in (0, 164))
    opening = begin(0x0005) + record(0x041E, struct.pack("<H", 164) + text("dd/mm/yyyy")) + styles
    name = struct.pack("<BB", 6, 0) + b"Export"
    at = len(opening) + 4 + 6 + len(name) + len(end)
    return _compound(opening + record(0x0085, struct.pack("<IH", at, 0) + name) + end + b"".join([*cells, end]))


def _compound(stream: bytes) -> bytes:
    """A compound file that holds one stream, `Workbook`: its table of sectors, its directory, the stream."""
    stream = stream.ljust(-(-max(len(stream), 4096) // 512) * 512, b"\0")
    count = len(stream) // 512
    tables = -(-(count + 2) // 127)
    chain = [_TABLE] * tables + [_END_OF_CHAIN, *range(tables + 2, tables + 1 + count), _END_OF_CHAIN]
    chain += [_FREE] * (tables * 128 - len(chain))

    def entry(name: str, kind: int, child: int, start: int, size: int) -> bytes:
        encoded = name.encode("utf-16-le") + b"\0\0"
        links = struct.pack("<BBIII36x", kind, 1, _FREE, _FREE, child)
        return encoded.ljust(64, b"\0") + struct.pack("<H", len(encoded)) + links + struct.pack("<IQ", start, size)

    directory = entry("Root Entry", 5, 1, _END_OF_CHAIN, 0) + entry("Workbook", 2, _FREE, tables + 1, len(stream))
    head = _OLE_MAGIC + bytes(16) + struct.pack("<HHHHH6x", 62, 3, 0xFFFE, 9, 6)
    head += struct.pack("<IIIIIIIII", 0, tables, tables, 0, 4096, _END_OF_CHAIN, 0, _END_OF_CHAIN, 0)
    head += struct.pack("<109I", *range(tables), *([_FREE] * (109 - tables)))
    return head + struct.pack(f"<{len(chain)}I", *chain) + directory.ljust(512, b"\0") + stream


def as_xls(content: Table) -> bytes:
    """A table as an old Excel would save it, like `as_xlsx`."""
    rows: list[list[str | float | date]] = [list(content.headers)]
    for row in content.rows:
        rows.append([
            date.fromisoformat(value) if field in _DAYS else float(value) if field in _NUMBERS else value
            for field, value in zip(content.fields, row, strict=True)
        ])  # fmt: skip
    return old_workbook(rows)


# --- workbooks by hand, for what no writer would write

_MAIN = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006"
_PARTS = {
    "[Content_Types].xml": f'<Types xmlns="{_PACKAGE}/content-types">'
    '<Default Extension="xml" ContentType="application/xml"/></Types>',
    "_rels/.rels": f'<Relationships xmlns="{_PACKAGE}/relationships">'
    f'<Relationship Id="rId1" Type="{_OFFICE}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
    "xl/workbook.xml": f'<workbook {_MAIN} xmlns:r="{_OFFICE}"><sheets>'
    '<sheet name="Export" sheetId="1" r:id="rId1"/></sheets></workbook>',
    "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{_PACKAGE}/relationships">'
    f'<Relationship Id="rId1" Type="{_OFFICE}/worksheet" Target="worksheets/sheet1.xml"/></Relationships>',
}
_SHEET = "xl/worksheets/sheet1.xml"
_STYLES = "xl/styles.xml"
_ZEROS = (
    f'<styleSheet {_MAIN}><numFmts count="1"><numFmt numFmtId="164" formatCode="00000"/></numFmts>'
    '<cellXfs count="2"><xf numFmtId="0"/><xf numFmtId="164"/></cellXfs></styleSheet>'
)


def _cells(rows: Sequence[Sequence[str]]) -> str:
    return "".join(
        "<row>" + "".join(f'<c t="inlineStr"><is><t>{_xml(value)}</t></is></c>' for value in row) + "</row>"
        for row in rows
    )


def _xml(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")


def _sheet(inner: str, prolog: str = "") -> str:
    return f"{prolog}<worksheet {_MAIN}><sheetData>{inner}</sheetData></worksheet>"


def _zip(parts: dict[str, str | bytes]) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            info = zipfile.ZipInfo(name, (2025, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    return sink.getvalue()


def _workbook(sheet: str | bytes, **more: str) -> bytes:
    """An XLSX of one sheet; `more` by part: workbook, styles, strings."""
    names = {"workbook": "xl/workbook.xml", "styles": _STYLES, "strings": "xl/sharedStrings.xml"}
    return _zip({**_PARTS, _SHEET: sheet, **{names[key]: value for key, value in more.items()}})


@dataclass(frozen=True)
class _Inflating:
    """A part whose deflated bytes are written by hand: `pattern` again and again between two ends."""

    head: bytes
    pattern: bytes
    times: int
    tail: bytes
    declared: int | None = None  # size that the directory claims


def _bomb(parts: dict[str, str | _Inflating]) -> bytes:
    """An archive whose inflated parts never existed: a pattern is deflated once and its blocks are repeated."""
    out, directory = io.BytesIO(), io.BytesIO()
    for name, content in parts.items():
        if isinstance(content, str):
            content = _Inflating(content.encode(), b"", 0, b"")
        packed, check, size = _deflated(content)
        size = size if content.declared is None else content.declared
        at, encoded = out.tell(), name.encode()
        shape = struct.pack("<HHHHHIII", 20, 0, 8, 0, 0x5A21, check, len(packed), size)
        out.write(b"PK\x03\x04" + shape + struct.pack("<HH", len(encoded), 0) + encoded + packed)
        directory.write(b"PK\x01\x02" + struct.pack("<H", 20) + shape)
        directory.write(struct.pack("<HHHHHII", len(encoded), 0, 0, 0, 0, 0, at) + encoded)
    entries = directory.getvalue()
    end = struct.pack("<HHHHIIH", 0, 0, len(parts), len(parts), len(entries), out.tell(), 0)
    return out.getvalue() + entries + b"PK\x05\x06" + end


@functools.lru_cache(maxsize=8)
def _deflated(content: _Inflating) -> tuple[bytes, int, int]:
    """(deflated bytes, CRC, inflated size)."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    blocks = [packer.compress(content.head) + packer.flush(zlib.Z_FULL_FLUSH)]
    if content.times:
        blocks += [packer.compress(content.pattern) + packer.flush(zlib.Z_FULL_FLUSH)] * content.times
    blocks.append(packer.compress(content.tail) + packer.flush(zlib.Z_FINISH))
    check = zlib.crc32(content.head)
    for _ in range(content.times):
        check = zlib.crc32(content.pattern, check)
    size = len(content.head) + len(content.pattern) * content.times + len(content.tail)
    return b"".join(blocks), zlib.crc32(content.tail, check), size


# --- the kinds

Maker = Callable[[random.Random, str], Drop | Sequence[Drop]]
_KINDS: dict[str, tuple[int, Maker]] = {}


def _kind(weight: int = 10) -> Callable[[Maker], Maker]:
    def register(maker: Maker) -> Maker:
        _KINDS[maker.__name__.strip("_")] = (weight, maker)
        return maker

    return register


def kinds() -> list[str]:
    """Every kind of case."""
    return list(_KINDS)


def drops(number: int, seed: int = SEED) -> list[Drop]:
    """The entries of case `number`. The first cases go once through all kinds."""
    dice = random.Random(f"{seed}:{number}")
    names = list(_KINDS)
    if number < len(names):
        name = names[number]
    else:
        name = dice.choices(names, [weight for weight, _ in _KINDS.values()])[0]
    mark = token(number, seed)
    made = _KINDS[name][1](dice, mark)
    found = [made] if isinstance(made, Drop) else list(made)
    return [replace(drop, kind=name, path=drop.path.replace(b"#", str(number).encode()), secret=mark) for drop in found]


def stream(count: int, seed: int = SEED, start: int = 0) -> Iterator[Drop]:
    """`count` drops, from case `start` on."""
    made = 0
    number = start
    while made < count:
        for drop in drops(number, seed)[: count - made]:
            made += 1
            yield drop
        number += 1


def _path(folder: str, ending: str = ".csv") -> bytes:
    """Where an export of a dataset lies; `#` becomes the number of the case."""
    return f"isavigne/{folder}/h#{ending}".encode()


def _plain(dice: random.Random, content: bytes, ending: str = ".csv", statuses: frozenset[str] = ANY) -> Drop:
    return Drop("", _path(FOLDERS[dice.choice(DATASETS)], ending), content, statuses=statuses)


def _good(content: Table, data: bytes, path: bytes = b"", ending: str = ".csv") -> Drop:
    return Drop(
        "", path or _path(content.folder, ending), data, statuses=frozenset({"loaded"}),
        dataset=content.dataset, fields=content.fields, rows=content.raw_rows,
    )  # fmt: skip


@_kind(60)
def _good_csv(dice: random.Random, mark: str) -> Drop:
    encoding, bom = dice.choice([("utf-8", False), ("utf-8", True), ("cp1252", False), ("utf-16", False)])
    made = table(dice, mark)
    data = as_csv(made, delimiter=dice.choice(";,\t|"), encoding=encoding, newline=dice.choice(["\n", "\r\n"]), bom=bom)
    return _good(made, data, ending=dice.choice([".csv", ".txt", ".CSV", ".tsv"]))


@_kind(20)
def _good_xlsx(dice: random.Random, mark: str) -> Drop:
    made = table(dice, mark, french=False)
    return _good(made, as_xlsx(made), ending=".xlsx")


@_kind(10)
def _good_xls(dice: random.Random, mark: str) -> Drop:
    made = table(dice, mark, french=False)
    return _good(made, as_xls(made), ending=".xls")


@_kind()
def _good_quoted(dice: random.Random, mark: str) -> Drop:
    """Delimiters, quotes and line ends inside quoted values."""
    made = table(dice, mark, dataset="products")
    odd = ['a;b"c', "two\nlines", "two\r\nlines", '"', "; ;", "'"]
    rows = tuple((key, f"{label} {dice.choice(odd)} x", *rest) for key, label, *rest in made.rows)
    made = replace(made, rows=rows)
    return _good(made, as_csv(made, newline="\n"))


@_kind()
def _good_mixed_line_ends(dice: random.Random, mark: str) -> Drop:
    made = table(dice, mark)
    lines = as_csv(made, newline="\n").split(b"\n")[:-1]
    return _good(made, b"".join(line + dice.choice([b"\n", b"\r\n"]) for line in lines))


@_kind()
def _good_formulas(dice: random.Random, mark: str) -> Drop:
    """What a spreadsheet would run. It is text here, and stays what it was."""
    made = table(dice, mark, dataset="customers")
    rows = tuple((code, dice.choice(FORMULAS) + mark, *rest) for code, _, *rest in made.rows)
    made = replace(made, rows=rows)
    return _good(made, as_csv(made))


FORMULAS = (
    "=1+1", "=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(1,1)", '=HYPERLINK("http://example.org";"x")',
    "=IMPORTXML(CONCAT(1))", "\t=1", "=WEBSERVICE(1)", "＝1+1", "%0A=1", "=DDE(1)", "|=1", "=-1",
)  # fmt: skip


@_kind()
def _good_utf16_without_bom(dice: random.Random, mark: str) -> Drop:
    made = table(dice, mark)
    return _good(made, as_csv(made, delimiter="\t", encoding=dice.choice(["utf-16-le", "utf-16-be"])))


@_kind()
def _good_odd_texts(dice: random.Random, mark: str) -> Drop:
    """Emoji, other scripts, marks that turn the direction, texts that look like SQL, Jinja, Markdown or JSON."""
    made = table(dice, mark, dataset="customers")
    rows = tuple((code, f"{dice.choice(_ODD)} {mark}", *rest) for code, _, *rest in made.rows)
    made = replace(made, rows=rows)
    return _good(made, as_csv(made))


_ODD = (
    "🍷🍷🏽‍♀️", "李 小龙", "\u202eremlluM", "\u200b", "'; drop table raw.files; --", "{{ var('x') }}", "{% raw %}",
    "%s %(x)s",
    "\\copy", "\\N", "\\.", '{"a": 1}', "| a | b |", "<script>alert(1)</script>", "NULL", "null", "e\u0301\u0327",
    "\U0010ffff", "\ufdd0", "Ａ", "ﬀ", "ẞ", "İ", "a" * 5000, "'" * 9, "$$", "${x}", "0x41", "\u2028",
)  # fmt: skip


@_kind(20)
def _random_bytes(dice: random.Random, mark: str) -> Drop:
    size = dice.choice([1, 2, 3, 7, 100, 4096, 65_537])
    return _plain(dice, dice.randbytes(size), dice.choice([".csv", ".xlsx", ".xls", ".txt"]))


@_kind(20)
def _truncated_encoding(dice: random.Random, mark: str) -> Drop:
    data = as_csv(table(dice, mark), encoding=dice.choice(["utf-8", "utf-16", "utf-16-le", "utf-32"]))
    return _plain(dice, data[: dice.randrange(1, len(data))])


@_kind(1)
def _one_long_line(dice: random.Random, mark: str) -> Drop:
    unit = dice.choice([b"x", b"Code client;", b'"', b"a b ", "é".encode(), b"1,2;", b"\x00a"])
    return _plain(dice, unit * (10_000_000 // len(unit)))


@_kind(2)
def _five_thousand_columns(dice: random.Random, mark: str) -> Drop:
    made = table(dice, mark)
    more = [f"Colonne {number}" for number in range(5000)] if dice.random() < 0.7 else ["x"] * 5000
    rows = [[*row, *dice.choices(["", "1", mark], k=5000)] for row in made.rows]
    wide = replace(made, headers=(*made.headers, *more), rows=tuple(map(tuple, rows)))
    return _good(made, as_csv(wide))


@_kind()
def _duplicate_headers(dice: random.Random, mark: str) -> Drop:
    made = table(dice, mark)
    twice = replace(made, headers=made.headers * 2, rows=tuple(row + row[::-1] for row in made.rows))
    return _good(made, as_csv(twice))


@_kind()
def _nothing_inside(dice: random.Random, mark: str) -> Drop:
    data = dice.choice(
        [b"", b" ", b"\n\n\n", b"\x00" * 100, b"\xef\xbb\xbf", b"\xff\xfe", b";;;;\n;;;;\n", b"\r\r", b"\t \n"]
    )
    return _plain(dice, data, dice.choice([".csv", ".xlsx", ".xls"]), REFUSED | {"duplicate"})


@_kind()
def _header_only(dice: random.Random, mark: str) -> Drop:
    made = replace(table(dice, mark), rows=())
    data = as_csv(made) + dice.choice([b"", b"\r\n" * 3, b";;;\r\n"])
    return Drop("", _path(made.folder), data, statuses=frozenset({"refused", "unreadable"}))


@_kind()
def _unclosed_quote(dice: random.Random, mark: str) -> Drop:
    lines = as_csv(table(dice, mark, rows=12), newline="\n").split(b"\n")
    at = dice.randrange(len(lines) - 1)
    lines[at] = lines[at].replace(b";", b';"', 1)
    return _plain(dice, b"\n".join(lines))


@_kind()
def _nul_bytes(dice: random.Random, mark: str) -> Drop:
    made = table(dice, mark)
    data = bytearray(as_csv(made))
    for _ in range(dice.choice([1, 1, 5, 200])):
        data.insert(dice.randrange(len(data)), 0)
    return Drop("", _path(made.folder), bytes(data))


@_kind()
def _control_characters(dice: random.Random, mark: str) -> Drop:
    made = table(dice, mark)
    data = bytearray(as_csv(made))
    for _ in range(dice.choice([1, 3, 50])):
        data.insert(dice.randrange(len(data)), dice.choice([1, 7, 8, 11, 12, 13, 26, 27, 28, 29, 30, 31, 127, 0x85]))
    return Drop("", _path(made.folder), bytes(data))


@_kind(20)
def _impossible_values(dice: random.Random, mark: str) -> Drop:
    """Numbers, dates and codes out of this world in a table that is otherwise good."""
    made = table(dice, mark, rows=dice.randrange(4, 20))
    rows = []
    for row in made.rows:
        place = dice.randrange(len(row))
        field = made.fields[place]
        pool = _NUMBER_TEXTS if field in _NUMBERS else _DAY_TEXTS if field in _DAYS else _CODE_TEXTS
        rows.append((*row[:place], dice.choice(pool if dice.random() < 0.8 else _ODD), *row[place + 1 :]))
    broken = replace(made, rows=tuple(rows))
    return Drop("", _path(made.folder), as_csv(broken), statuses=frozenset({"loaded", "refused"}))


_NUMBER_TEXTS = (
    "1e400", "NaN", "nan", "inf", "-inf", "Infinity", "9" * 5000, "0," + "1" * 5000, "1e-400", "0x10", "--3",
    "(3", "((3))",
    "1..2", "1,2,3", "1.234.56", ",", ".", "-", "+", "€", "²", "١٢٣", "½", "1 2 3", "#N/A", "#DIV/0!", "1E+5",
    "1e5", "3-",
    "99999999999999999999", "0.1e", "1_000", "−5", "1'2", "()", "Ⅳ", "1" + "0" * 40 + ",5", "-0", "00", "1/2",
)  # fmt: skip
_DAY_TEXTS = (
    "31/04/2024", "0000-00-00", "00/00/0000", "9999-12-31", "31/12/9999", "10000-01-01", "1/1/1", "2024-02-30",
    "29/02/2023",
    "32/01/2024", "2024-13-01", "13/13/2024", "99/99/99", "0001-01-01", "1900-01-00", "60", "-1", "2958466", "45356.99",
    "2024-01-01T25:61:61", "hier", "01/01/24 BC", "infinity", "-infinity", "epoch", "now", "today", "٠١/٠١/٢٠٢٤", "1e5",
    "2024-W01", "2024-001", "5 mars 2024", "01/01/2024 00:00:00.000000000001", "2024/1/1", "1.1.24", "2024-01-01+99:99",
)  # fmt: skip
_CODE_TEXTS = (
    "", " ", "\u00a0", "#N/A", "#REF!", "1E+05", "1,5", "'", "''", '"', "\\", "\\x00", "%", "_", "\ufeff",
    "\u200b", "\u00ad",
    "NULL", "-", "...", "00000", "٣", "C" * 300, "é" * 2000, "𝒞𝑜𝒹𝑒", "\u202e", "ß", "ı", "A\u0308", "{}", "{a,b}", "[]",
)  # fmt: skip


@_kind(3)
def _megabyte_value(dice: random.Random, mark: str) -> Drop:
    """One value of a megabyte that no compression makes small, in any column."""
    made = table(dice, mark)
    place = dice.randrange(len(made.fields))
    huge = dice.randbytes(dice.choice([2_000, 6_000, 524_288])).hex()
    rows = list(made.rows)
    rows[-1] = (*rows[-1][:place], mark + huge, *rows[-1][place + 1 :])
    broken = replace(made, rows=tuple(rows))
    return Drop("", _path(made.folder), as_csv(broken), statuses=frozenset({"loaded", "refused", "unreadable"}))


@_kind()
def _surrogates(dice: random.Random, mark: str) -> Drop:
    """Half characters: as UTF-8 bytes that UTF-8 forbids, or alone in UTF-16."""
    made = table(dice, mark)
    if dice.random() < 0.5:
        data = as_csv(made, encoding="utf-16-le")
        at = 2 * dice.randrange(len(data) // 2)
        data = b"\xff\xfe" + data[:at] + b"\x00\xd8" + data[at:]
    else:
        data = as_csv(made)
        at = dice.randrange(len(data))
        data = data[:at] + dice.choice([b"\xed\xa0\x80", b"\xc0\x80", b"\xf8\x88\x80\x80\x80"]) + data[at:]
    return Drop("", _path(made.folder), data)


@_kind()
def _another_format(dice: random.Random, mark: str) -> Drop:
    """What people rename: web pages, JSON, XML, pictures, PDF, mail, SQL, archives."""
    made = table(dice, mark)
    cells = "".join(f"<tr>{''.join(f'<td>{v}</td>' for v in row)}</tr>" for row in made.rows)
    data, ending = dice.choice(
        [
            (f"<html><body><table>{cells}</table></body></html>".encode(), ".xls"),
            (f"<?xml version='1.0'?><Workbook>{cells}</Workbook>".encode(), ".xls"),
            (f'[{{"code": "{mark}", "rows": [1, 2]}}]'.encode(), ".csv"),
            (f'{{"code": "{mark}"}}\n'.encode() * 20, ".csv"),
            (b"%PDF-1.7\n" + mark.encode() * 50, ".csv"),
            (b"\x89PNG\r\n\x1a\n" + dice.randbytes(300), ".xlsx"),
            (b"\x1f\x8b\x08" + dice.randbytes(300), ".csv"),
            (f"From: {mark}@example.org\nSubject: x\n\nBonjour\n".encode(), ".csv"),
            (f"INSERT INTO clients VALUES ('{mark}', 'x');\n".encode() * 5, ".txt"),
            (b"{\\rtf1\\ansi " + mark.encode() + b"}", ".xls"),
            (b"\x7fELF" + dice.randbytes(300), ".csv"),
            (b"PAR1" + dice.randbytes(300), ".csv"),
            (as_csv(made).replace(b";", b"~"), ".csv"),
        ]
    )
    return _plain(dice, data, ending, REFUSED | {"duplicate"})


# --- bombs and other archives


@_kind(1)
def _bomb_sheet(dice: random.Random, mark: str) -> Drop:
    """A sheet of more than a gigabyte in a megabyte."""
    filler = dice.choice([b"<row/>", b" ", b'<row><c t="n"><v>1</v></c></row>', b"<!-- -->", b"<c><v>1</v></c>"])
    pattern = filler * ((1 << 22) // len(filler))
    sheet = _Inflating(_sheet("@").split("@")[0].encode(), pattern, 300, _sheet("@").split("@")[1].encode())
    return _plain(dice, _bomb({**_PARTS, _SHEET: sheet}), ".xlsx", frozenset({"unreadable", "duplicate"}))


@_kind(1)
def _bomb_strings(dice: random.Random, mark: str) -> Drop:
    """The same with the shared texts, or the styles, which a reader may take whole."""
    name, element = dice.choice([("xl/sharedStrings.xml", b"<si><t>a</t></si>"), (_STYLES, b"<font><b/></font>")])
    root = b"sst" if "shared" in name else b"styleSheet"
    part = _Inflating(b"<%s %s>" % (root, _MAIN.encode()), element * 100_000, 700, b"</%s>" % root)
    parts = {**_PARTS, _SHEET: _sheet(_cells([[mark, "b"]])), name: part}
    return _plain(dice, _bomb(parts), ".xlsx", frozenset({"unreadable", "duplicate"}))


@_kind(1)
def _bomb_that_lies(dice: random.Random, mark: str) -> Drop:
    """A directory that declares a small part, and one that declares an enormous one."""
    small = _Inflating(b" ", b" " * (1 << 22), 300, b" ", declared=dice.choice([0, 100, 5000]))
    large = _Inflating(_sheet(_cells([["a", mark]])).encode(), b"", 0, b"", declared=0xFFFFFFFE)
    parts = {**_PARTS, _SHEET: dice.choice([small, large])}
    return _plain(dice, _bomb(parts), ".xlsx", frozenset({"unreadable", "duplicate"}))


@_kind(2)
def _far_cell(dice: random.Random, mark: str) -> Drop:
    """A cell at the far end of the sheet: whoever lays all cells in between out needs half a terabyte."""
    far = dice.choice(["XFD1048576", "ZZ1048576", "XFD300000", "ABC999999", "XFE1048577", "ZZZZZ99999999"])
    inner = f'<row r="1"><c r="A1" t="inlineStr"><is><t>{mark}</t></is></c></row><row><c r="{far}"><v>1</v></c></row>'
    return _plain(dice, _workbook(_sheet(inner)), ".xlsx", REFUSED)


@_kind()
def _entities(dice: random.Random, mark: str) -> Drop:
    """Entities that multiply, and entities that read files."""
    laughs = "".join(
        f'<!ENTITY l{level} "{f"&l{level - 1};" * 10}">' if level else '<!ENTITY l0 "ha">' for level in range(10)
    )
    doctype = dice.choice(
        [
            f"<!DOCTYPE x [{laughs}]>",
            '<!DOCTYPE x [<!ENTITY l9 SYSTEM "file:///etc/passwd">]>',
            '<!DOCTYPE x SYSTEM "http://127.0.0.1:9/x.dtd">',
            f'<!DOCTYPE x [<!ENTITY l9 "{"a" * 100_000}">]>',
        ]
    )
    prolog = f'<?xml version="1.0"?>{doctype}'
    use = "&l9;" if "ENTITY" in doctype else ""
    rows = f'<row><c t="inlineStr"><is><t>{use * 20}</t></is></c></row>' + _cells([["a", mark]])
    styles = f'{prolog}<styleSheet {_MAIN}><numFmts><numFmt formatCode="{use}00"/></numFmts></styleSheet>'
    data = dice.choice(
        [
            _workbook(_sheet(rows, prolog), styles=_ZEROS),
            _workbook(_sheet(_cells([["Code client", "Nom"], [mark, "b"]])), styles=styles),
            _workbook(_sheet(rows), workbook=prolog + _PARTS["xl/workbook.xml"].replace("Export", use or "x")),
            _workbook(_sheet(rows), strings=f"{prolog}<sst {_MAIN}><si><t>{use}</t></si></sst>"),
        ]
    )
    return _plain(dice, data, ".xlsx", frozenset({"unreadable"}))


@_kind()
def _other_archive(dice: random.Random, mark: str) -> Drop:
    """Archives that are no workbook, or half of one."""
    book = _workbook(_sheet(_cells([["a", mark]])))
    inner = _zip({"a.xlsx": book})
    for _ in range(5):
        inner = _zip({"a.zip": inner, "xl/workbook.xml": inner})
    good = {**_PARTS, _SHEET: _sheet(_cells([["a", mark]]))}
    data = dice.choice(
        [
            inner,
            _zip({"word/document.xml": mark, "[Content_Types].xml": "<Types/>"}),
            _zip({"content.xml": mark, "mimetype": "application/vnd.oasis.opendocument.spreadsheet"}),
            _zip({**good, "xl/workbook.xml": "<workbook/>"}),
            _zip({**good, "xl/workbook.xml": "not xml at all"}),
            _zip({name: text for name, text in good.items() if name != _SHEET}),
            _zip({name: text for name, text in good.items() if not name.endswith("workbook.xml.rels")}),
            _zip({**good, "xl/_rels/workbook.xml.rels": good["xl/_rels/workbook.xml.rels"].replace(
                "worksheets/sheet1.xml", dice.choice(["../../../../etc/passwd", "/etc/passwd", "", "x" * 70_000]))}),
            _zip({**good, _SHEET: "<worksheet><sheetData><row><c"}),
            _zip({**good, _SHEET: dice.randbytes(2000)}),
            _zip({**good, _STYLES: "<styleSheet><numFmts"}),
            _zip({**good, _STYLES: "<a>" * 200_000}),
            book[: dice.randrange(4, len(book))],
            book[: len(book) - 30] + dice.randbytes(30),
            b"PK\x03\x04" + dice.randbytes(500),
            b"PK\x05\x06" + bytes(18),
            book.replace(b"\x00\x00\x08\x00", b"\x01\x00\x08\x00"),  # says it is encrypted
            book.replace(b"\x00\x00\x08\x00", b"\x00\x00\x63\x00"),  # compressed in a way nobody knows
        ]
    )  # fmt: skip
    return _plain(dice, data, dice.choice([".xlsx", ".xlsx", ".xls", ".csv"]), REFUSED | {"duplicate"})


@_kind(15)
def _odd_workbook(dice: random.Random, mark: str) -> Drop:
    """Workbooks a reader may take, with cells, references and styles that no program writes."""
    made = table(dice, mark, french=False)
    cell = dice.choice(
        [
            '<c r="A0"><v>1</v></c>', '<c r="1A"><v>1</v></c>', '<c r=""><v>1</v></c>', '<c r="a1"><v>1</v></c>',
            '<c r="A1"><v>1</v></c><c r="A1"><v>2</v></c>', '<c s="99999"><v>1</v></c>', '<c s="-1"><v>1</v></c>',
            '<c s="x"><v>1</v></c>', '<c t="s"><v>99999999</v></c>', '<c t="s"><v>-1</v></c>', '<c t="s"><v>x</v></c>',
            '<c t="b"><v>7</v></c>', '<c t="e"><v>#N/A</v></c>', '<c t="e"><v>nonsense</v></c>',
            '<c t="zz"><v>1</v></c>',
            '<c t="d"><v>2024-13-45</v></c>', '<c t="d"><v>2024-01-05T10:00:00</v></c>', "<c><v>1e400</v></c>",
            "<c><v>nan</v></c>", '<c r="B2" s="1"><v>1e300</v></c>', '<c r="B2" s="1"><v>-5</v></c>',
            "<c><f>1+1</f></c>", '<c t="str"><f>x</f><v>=1+1</v></c>', '<c t="inlineStr"><is><r><t>a</t></r></is></c>',
            "<c><v>&#0;</v></c>", '<c t="inlineStr"><is><t>_x0000_</t></is></c>', "<c><v>2958466</v></c>",
            '<c r="A99999999999999999999"><v>1</v></c>', '<c r="A1:B2"><v>1</v></c>', '<c r="$A$1"><v>1</v></c>',
            '<c r="Ä1"><v>1</v></c>', "<c><c><v>1</v></c></c>", "<v>1</v>", '<c t="inlineStr"><is><t>\x01</t></is></c>',
        ]
    )  # fmt: skip
    rows = _cells([made.headers, *made.rows])
    inner = dice.choice(
        [rows + f"<row>{cell}</row>", f"<row>{cell}</row>" + rows, rows.replace("<row>", f"<row>{cell}", 2)]
    )
    styles = dice.choice([_ZEROS, _ZEROS.replace("00000", "0" * 20_000), _ZEROS.replace('"164"', '"x"')])
    return Drop("", _path(made.folder, ".xlsx"), _workbook(_sheet(inner), styles=styles))


@_kind(15)
def _compound_file(dice: random.Random, mark: str) -> Drop:
    """The magic of an old Office document before nonsense, or before a directory that leads round in circles."""
    shape = dice.randrange(3)
    if shape == 0:
        return _plain(
            dice, _OLE_MAGIC + dice.randbytes(dice.choice([0, 10, 504, 5000])), ".xls", frozenset({"unreadable"})
        )
    head = _OLE_MAGIC + bytes(16) + struct.pack("<HHHHH", 62, 3, 0xFFFE, 9, 6) + bytes(6)
    head += struct.pack("<IIIIIIIII", 0, 1, 1, 0, 4096, 1, 1, 0xFFFFFFFE, 0) + struct.pack("<I", 0)
    head += struct.pack("<I", 0xFFFFFFFF) * 108
    loop = [1, 2, 1] if shape == 1 else [0xFFFFFFFD, 1, dice.randrange(128)]
    table_of_sectors = struct.pack("<128I", *loop, *([3] * 125))
    return _plain(
        dice, head + table_of_sectors + dice.randbytes(512 * dice.choice([1, 3, 8])), ".xls", frozenset({"unreadable"})
    )


# --- good files that something happened to


def _mutated(dice: random.Random, data: bytes) -> bytes:
    """Bytes with one accident."""
    changed = bytearray(data)
    size = len(changed)
    at, other = sorted(dice.randrange(size) for _ in range(2))
    accident = dice.randrange(8)
    if accident == 0:
        for _ in range(dice.choice([1, 1, 3, 30])):
            changed[dice.randrange(size)] ^= 1 << dice.randrange(8)
    elif accident == 1:
        del changed[at : at + dice.choice([1, 2, 40])]
    elif accident == 2:
        changed[at:at] = changed[at : min(other, at + 300)]
    elif accident == 3:
        del changed[at:]
    elif accident == 4:
        changed[at:at] = dice.randbytes(dice.choice([1, 2, 8]))
    elif accident == 5:
        changed += bytes(changed)
    elif accident == 6:
        changed[at:other] = changed[at:other][::-1]
    else:
        changed[at : at + 16] = bytes(len(changed[at : at + 16]))
    return bytes(changed)


@_kind(60)
def _mutated_csv(dice: random.Random, mark: str) -> Drop:
    made = table(dice, mark)
    encoding = dice.choice(["utf-8", "utf-8", "cp1252", "utf-16"])
    return Drop(
        "", _path(made.folder), _mutated(dice, as_csv(made, encoding=encoding, newline=dice.choice(["\n", "\r\n"])))
    )


@_kind(30)
def _mutated_xlsx(dice: random.Random, mark: str) -> Drop:
    """Bytes changed in the archive, or in one of its parts."""
    made = table(dice, mark, french=False)
    data = as_xlsx(made)
    if dice.random() < 0.5:
        data = _mutated(dice, data)
    else:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            parts: dict[str, str | bytes] = {name: archive.read(name) for name in archive.namelist()}
        name = dice.choice([_SHEET, _SHEET, "xl/sharedStrings.xml", _STYLES, "xl/workbook.xml", *parts])
        part = parts.get(name, b"x")
        assert isinstance(part, bytes)
        data = _zip({**parts, name: _mutated(dice, part)})
    return Drop("", _path(made.folder, ".xlsx"), data)


@_kind(30)
def _mutated_xls(dice: random.Random, mark: str) -> Drop:
    made = table(dice, mark, french=False)
    return Drop("", _path(made.folder, ".xls"), _mutated(dice, as_xls(made)))


@_kind(30)
def _mutated_table(dice: random.Random, mark: str) -> Drop:
    """Columns swapped, the wrong delimiter in half of the lines, the header somewhere else, two exports in one."""
    made = table(dice, mark, rows=dice.randrange(4, 30))
    lines = as_csv(made, newline="\n").decode().splitlines()
    accident = dice.randrange(7)
    if accident == 0:
        order = dice.sample(range(len(made.fields)), len(made.fields))
        swapped = replace(made, rows=tuple(tuple(row[place] for place in order) for row in made.rows))
        return Drop("", _path(made.folder), as_csv(swapped))
    if accident == 1:
        half = len(lines) // 2
        lines[half:] = [line.replace(";", dice.choice(",\t|")) for line in lines[half:]]
    elif accident == 2:
        lines.insert(dice.randrange(1, len(lines)), lines.pop(0))
    elif accident == 3:
        lines.append(lines[0])
        lines += as_csv(table(dice, mark), newline="\n").decode().splitlines()
    elif accident == 4:
        lines = ["", "Export du 05/12/2025", "", *lines, "", f"Total;{mark};;"]
    elif accident == 5:
        dice.shuffle(lines)
    else:
        lines = [line + ";" * dice.randrange(3) for line in lines]
    half = len("\n".join(lines)) // 2
    text = "\n".join(lines)
    data = text.encode() if dice.random() < 0.8 else text[:half].encode() + text[half:].encode("cp1252")
    return Drop("", _path(made.folder), data)


# --- names and places


@_kind(20)
def _odd_name(dice: random.Random, mark: str) -> Drop:
    """A good file under a name made to break something. Its rows are found, or its name is said to be no export's."""
    made = table(dice, mark, dataset="customers")
    name = dice.choice(
        [
            "..clients.csv", "clients..csv", "clients .csv", "clients\n2.csv", "clients\t.csv", "clients'.csv",
            'cl"ients.csv',
            "clients;drop.csv", "clients`id`.csv", "$(id)clients.csv", "clients%s%n.csv", "clients{{7*7}}.csv",
            "clients|a|b|.csv", "clients[x](y).csv", "<b>clients</b>.csv", "clients\\..\\x.csv", "C:clients.csv",
            "-rf clients.csv", "clients\u202evsc.csv", "clients\u200b.csv", "🍷clients🍷.csv", "clients\x7f.csv",
            "clients\x1b[31m.csv", "CON.csv", "aux.clients.csv", "clients.csv.csv", "clients.XLSX.csv",
            "clients\ufeff.csv",
            "clients 2025-99-99.csv", "clients_31-04-2025.csv", "clients_99999999999999.csv", "clients_٢٠٢٥-٠١-٠١.csv",
            "clients_0000-00-00.csv", "clients_2025-01-01_2024-01-01.csv", "ｃｌｉｅｎｔｓ.csv",
            "clients" + "x" * 200 + ".csv",
            "clïents.csv", "clients\r.csv", "clients*.csv", "clients?.csv", "clients&.csv", "~clients.csv",
            "clients.csv ",
            "clients#%23.csv", "null.clients.csv", "clients\u2028.csv", "clients.cſv", "clients.tsv",
        ]
    )  # fmt: skip
    flat = dice.random() < 0.5
    path = f"#{name}".encode() if flat else f"isavigne/clients/#{name}".encode()
    return replace(_good(made, as_csv(made), path), statuses=frozenset({"loaded", "unrecognised"}))


@_kind()
def _name_of_bytes(dice: random.Random, mark: str) -> Sequence[Drop]:
    """Names that are not UTF-8, beside the name that is written like their replacement."""
    one, two = (table(dice, f"{mark}{side}", dataset="customers") for side in "ab")
    raw = dice.choice([b"ao\xfbt", b"\xff\xfe", b"\xed\xa0\x80", b"\xc3", b"\x80\x81"])
    shown = raw.decode("utf-8", "backslashreplace").encode()
    base = b"isavigne/clients/h#_%s.csv"
    return [_good(one, as_csv(one), base % raw), _good(two, as_csv(two), base % shown)]


@_kind()
def _normalisation_twins(dice: random.Random, mark: str) -> Sequence[Drop]:
    """Two names that look alike: one composed, one decomposed; or one in capitals."""
    one, two = (table(dice, f"{mark}{side}", dataset="customers") for side in "ab")
    name = "isavigne/clients/h#_août_é.csv"
    other = dice.choice(
        [unicodedata.normalize("NFD", name), "isavigne/clients/h#_AOÛT_É.csv", "ISAVIGNE/Clients/h#_août_é.csv"]
    )
    return [_good(one, as_csv(one), name.encode()), _good(two, as_csv(two), other.encode())]


@_kind(4)
def _deep_path(dice: random.Random, mark: str) -> Drop:
    """A path longer than an index entry, of folders whose names no compression makes short."""
    made = table(dice, mark, dataset="customers")
    folders = "/".join(dice.randbytes(100).hex() for _ in range(dice.choice([3, 13, 17])))
    path = f"isavigne/clients/h#/{folders}/clients.csv".encode()
    return replace(_good(made, as_csv(made), path), statuses=frozenset({"loaded", "refused", "unreadable"}))


@_kind()
def _ignored_name(dice: random.Random, mark: str) -> Drop:
    """Names that mark a file as unfinished, hidden, or none of ours."""
    name = dice.choice(["~$h#.xlsx", ".h#.csv", "h#.csv.part", "h#.tmp", "h#.crdownload", ".h#/clients.csv"])
    return Drop("", f"isavigne/clients/{name}".encode(), as_csv(table(dice, mark)), statuses=UNSEEN)


@_kind()
def _no_dataset(dice: random.Random, mark: str) -> Drop:
    name = dice.choice(
        ["h#.csv", "clients_ventes_#.csv", "isavigne/h#.csv", "isavigne/autre/h#.csv", "autre/clients_#.csv",
         "clients_#", "clients_#.pdf", "clients_#.csv.exe",
          "clients#.ods", "stock_produits_#.csv", "isavigne/clients/h#.docx"]
    )  # fmt: skip
    return Drop("", name.encode(), as_csv(table(dice, mark)), statuses=frozenset({"unrecognised"}))


@_kind(15)
def _odd_place(dice: random.Random, mark: str) -> Drop:
    """Links out of the folder, in circles, to nothing or to devices; pipes; folders named like files."""
    path = _path("clients")
    links = [
        "{outside}/clients.csv",
        "/dev/zero",
        "/etc/passwd",
        "/nowhere/at/all.csv",
        "h#.csv",
        ".",
        "..",
        "/",
        "/proc/self/mem",
    ]
    shape = dice.choice(["link", "link", "link", "fifo", "folder", "locked"])
    if shape == "link":
        return Drop("", path, shape="link", target=dice.choice(links).replace("#", mark), statuses=UNSEEN)
    if shape == "fifo":
        return Drop("", path, shape="fifo", statuses=UNSEEN)
    made = table(dice, mark, dataset="customers")
    if shape == "folder":  # what lies in it lies below the dataset's folder, and is an export
        return replace(_good(made, as_csv(made), path), shape="folder")
    return Drop("", path, as_csv(made), shape="locked", statuses=frozenset({"loaded", "unreadable"}))


@_kind()
def _link_in_circles(dice: random.Random, mark: str) -> Sequence[Drop]:
    base = b"isavigne/clients/h#_%s.csv"
    statuses = UNSEEN | {"unreadable"}
    return [
        Drop("", base % b"a", shape="link", target=dice.choice(["h_b.csv", "."]), statuses=statuses),
        Drop("", base % b"self", shape="link", target="h_self.csv", statuses=statuses),
    ]


@_kind()
def _same_content_twice(dice: random.Random, mark: str) -> Sequence[Drop]:
    made = table(dice, mark)
    first = _good(made, as_csv(made), _path(made.folder, "_a.csv"))
    return [first, replace(first, path=_path(made.folder, "_b.csv"), statuses=frozenset({"duplicate"}))]


def is_regular(path: bytes) -> bool:
    """Whether a laid drop is a regular file, its links followed or not."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False
