"""Landing of one sales export beside a bare COPY of the same bytes into text columns of the same server.

`landing` is the whole of `raw_store.land` for one file: hash, look, detect, map, profile, COPY, ledger, commit; the
imports it needs are done before. The bare COPY goes into a fresh logged table without an index, made in an earlier
transaction; PostgreSQL reads no UTF-16 and no XLSX, there it gets the same rows as UTF-8 text. The two take turns.
Each landing is a process of its own, whose tree's memory is watched; the server's is stated apart.
`./crm bench --cases landing` (or landing-5m, landing-10m) runs this in a CRM_HOME of its own.

    python -m benchmarks.landing --lines 1000000 --out FILE [--variants plain,quoted] [--repeat 3]
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.bench import ROOT, resident_mib, write_results
from benchmarks.generate_estate import write_scale
from crm_assets.settings import settings

SHEET_LINES = 100_000
# name -> file name, delimiter and encoding of the bytes that the bare COPY gets
VARIANTS = {
    "plain": ("ventes.csv", ";", "UTF8"),  # `;`, UTF-8
    "quoted": ("ventes_quoted.csv", ";", "UTF8"),  # the same, every value in quotation marks, CRLF
    "cp1252": ("ventes_cp1252.csv", ",", "WIN1252"),  # `,`, Windows-1252, decimal points
    "utf16": ("ventes_utf16.txt", "\t", "UTF8"),  # Excel's "Unicode text"
    "xlsx": ("ventes.xlsx", ";", "UTF8"),
}


@dataclass(frozen=True)
class Landed:
    """One variant: the best seconds of each way, and the highest memory of any landing in MiB."""

    lines: int
    file_mib: float
    copy_seconds: float
    landing_seconds: float
    ratio: float
    peak_mib: float
    server_peak_mib: float


def write_files(folder: Path, lines: int, variants: list[str]) -> dict[str, tuple[Path, Path]]:
    """variant -> (the export, the text that a bare COPY can read), all of the same rows."""
    estate = folder / "estate"
    write_scale(estate, lines, files=1)
    (source,) = (estate / "isavigne" / "ventes_lignes").iterdir()
    plain = folder / VARIANTS["plain"][0]
    with source.open(encoding="utf-8-sig", newline="") as text, plain.open("w", encoding="utf-8", newline="") as sink:
        header = next(text)
        width = header.count(";")
        sink.write(header)
        # COPY stops at ragged lines, and without quotation marks the other spellings are plain replacements.
        sink.writelines(line for line in text if line.count(";") == width and '"' not in line)
    shutil.rmtree(estate)
    made = {}
    for name in variants:
        export = folder / VARIANTS[name][0]
        copied = export
        if name == "utf16":
            copied = folder / "ventes_tab.txt"
            with (
                plain.open(encoding="utf-8", newline="") as text,
                copied.open("w", encoding="utf-8", newline="") as sink,
                export.open("w", encoding="utf-16", newline="") as wide,
            ):
                for line in text:
                    tabbed = line.replace(";", "\t")
                    sink.write(tabbed)
                    wide.write(tabbed)
        elif name == "xlsx":
            copied = folder / "ventes_short.csv"
            _write_sheet(plain, export, copied)
        elif name != "plain":
            encoding = "cp1252" if name == "cp1252" else "utf-8"
            with (
                plain.open(encoding="utf-8", newline="") as text,
                export.open("w", encoding=encoding, newline="") as sink,
            ):
                for line in text:
                    values = line.rstrip("\r\n")
                    if name == "quoted":
                        sink.write('"' + values.replace(";", '";"') + '"\r\n')
                    else:
                        sink.write(values.replace(",", ".").replace(";", ",") + "\n")
        made[name] = (export, copied)
    return made


def _write_sheet(plain: Path, export: Path, copied: Path) -> None:
    """The first rows as a workbook, numbers as numbers, and as the text of the same rows."""
    import xlsxwriter

    with (
        plain.open(encoding="utf-8", newline="") as text,
        copied.open("w", encoding="utf-8", newline="") as sink,
        xlsxwriter.Workbook(str(export), {"constant_memory": True}) as book,
    ):
        sheet = book.add_worksheet("Ventes")
        for number, line in zip(range(SHEET_LINES + 1), text, strict=False):
            sink.write(line)
            for column, value in enumerate(next(csv.reader([line], delimiter=";"))):
                if "," in value and value.replace(",", "").lstrip("-").isdigit():
                    sheet.write_number(number, column, float(value.replace(",", ".")))
                else:
                    sheet.write_string(number, column, value)


def copy_seconds(url: str, path: Path, delimiter: str, encoding: str) -> float:
    """A COPY of a file's bytes into as many text columns as its header has, commit included."""
    import psycopg
    from psycopg import sql

    with path.open("rb") as stream:
        width = stream.readline().count(delimiter.encode()) + 1
    columns = sql.SQL(", ").join(sql.SQL("{} text").format(sql.Identifier(f"c{n}")) for n in range(width))
    with psycopg.connect(url) as connection:
        connection.execute("drop table if exists public.bare")
        connection.execute(sql.SQL("create table public.bare ({})").format(columns))
    statement = sql.SQL("copy public.bare from stdin (format csv, header, delimiter {}, encoding {})")
    started = time.perf_counter()
    with (
        psycopg.connect(url) as connection,
        path.open("rb") as stream,
        connection.cursor().copy(statement.format(delimiter, encoding)) as copy,
    ):
        while chunk := stream.read(1 << 20):
            copy.write(chunk)
    seconds = time.perf_counter() - started
    with psycopg.connect(url) as connection:
        connection.execute("drop table public.bare")
    return seconds


def land_once(url: str, path: Path) -> None:
    """Land one file into empty raw tables and print the seconds and rows as JSON: the child process."""
    import psycopg.types.json  # noqa: F401
    import pyarrow.compute
    import pyarrow.csv  # noqa: F401

    from crm_assets import tables
    from crm_assets.logic import reading  # noqa: F401
    from crm_assets.logic.landing import load_source
    from crm_assets.resources.drop_zone import DropZone
    from crm_assets.resources.raw_store import land
    from crm_assets.resources.warehouse import Warehouse
    from crm_assets.tenants import load_tenant

    tenant = load_tenant(ROOT / "tenants" / "demo.yaml")
    warehouse = Warehouse(url)
    emptied = ["raw.files", "landing.files", *(f"raw.{name}" for name in tables.RAW_TABLES)]
    warehouse.execute(f"truncate {', '.join(emptied)}")
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        target = Path(folder, "isavigne", "ventes_lignes", path.name)
        target.parent.mkdir(parents=True)
        os.link(path, target)
        started = time.perf_counter()
        report = land(warehouse, DropZone(folder), tenant, load_source(), datetime.now(UTC), pause=lambda _: None)
        seconds = time.perf_counter() - started
    if report.status_counts != {"loaded": 1}:
        raise SystemExit(f"{path.name} was not loaded: {report.status_counts}")
    print(json.dumps({"seconds": seconds, "lines": report.loaded_rows["sales_lines"]}))


def _watched(command: list[str], server_pid: int | None) -> tuple[str, float, float]:
    """Run a command: its output, and the peak memory of its tree and of the server's."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    peak = server_peak = 0.0
    while process.poll() is None:
        peak = max(peak, resident_mib(process.pid))
        server_peak = max(server_peak, resident_mib(server_pid) if server_pid else 0.0)
        time.sleep(0.1)
    output = process.stdout.read() if process.stdout else ""
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, output)
    return output, peak, server_peak


def measure(url: str, folder: Path, lines: int, variants: list[str], repeat: int) -> dict[str, Landed]:
    """Each variant `repeat` times both ways in turn."""
    server = settings().home / "postgres" / "data" / "postmaster.pid"
    server_pid = int(server.read_text().split()[0]) if server.exists() else None
    found = {}
    for name, (export, copied) in write_files(folder, lines, variants).items():
        copies, landings, peaks, server_peaks, rows = [], [], [], [], 0
        for _ in range(repeat):
            copies.append(copy_seconds(url, copied, *VARIANTS[name][1:]))
            command = [sys.executable, "-m", "benchmarks.landing", "--land", str(export)]
            output, peak, server_peak = _watched(command, server_pid)
            landed = json.loads(output.splitlines()[-1])
            landings.append(landed["seconds"])
            rows = landed["lines"]
            peaks.append(peak)
            server_peaks.append(server_peak)
        best, copied_in = min(landings), min(copies)
        found[name] = Landed(
            rows, round(export.stat().st_size / (1 << 20), 1), round(copied_in, 2), round(best, 2),
            round(best / copied_in, 2), round(max(peaks)), round(max(server_peaks)),
        )  # fmt: skip
    return found


def main() -> None:
    """Measure and write JSON, or be the landing process that is measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--land", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    from crm_assets import databases

    url = databases.ensure_tenant(databases.cluster(), "demo")
    if args.land:
        land_once(url, args.land)
        return
    with tempfile.TemporaryDirectory(prefix="crmbench-files-") as folder:
        found = measure(url, Path(folder), args.lines, args.variants.split(","), args.repeat)
    write_results({name: asdict(each) for name, each in found.items()}, args.out)


if __name__ == "__main__":
    main()
