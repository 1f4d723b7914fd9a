"""The speeds that the README states: whole-process seconds and peak memory of `./crm`, medians of some runs.

No figure here decides whether a build passes: timings on a shared machine lie. The case fuzz fails on a fault. Each
case gets a CRM_HOME, a drop folder and an embedded server of its own.

    ./crm bench [--cases sample,100k,1m,load,sensor,landing,building,ranking,reranking,orii,
                 review_workbook,audit,fuzz] [--repeat 3]
                [--out results.json]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
AIMS = {
    "sample": "crm run, sample estate: <= 20 s",
    "sample, no change": "crm run, nothing new: <= 3 s",
    "100k": "crm run, 100 k lines / 10 k customers: <= 25 s",
    "1m": "crm run, 1 M lines / 100 k customers / 500 products: <= 60 s, <= 3 GiB",
    "load": "code location load: <= 5 s",
    "sensor: dropped_files, unchanged": "a tick of the file sensor, 1,000 tenants x 10 files: <= 2 s",
    "import of great_expectations": "stated apart: part of every run that computes",
}
RANKING = {"ranking": "100k,1m", "reranking": "reranking", "orii": "orii"}  # cases of benchmarks/ranking.py
SCALES = {"100k": (100_000, 10_000, 500), "1m": (1_000_000, 100_000, 500)}


@dataclass(frozen=True)
class Measure:
    """One process: seconds from start to end, and the highest sum of its tree's resident memory in MiB."""

    seconds: float
    peak_mib: float


def _children(pid: int) -> list[int]:
    found, queue = [], [pid]
    while queue:
        current = queue.pop()
        found.append(current)
        for task in Path(f"/proc/{current}/task").glob("*/children"):
            try:
                queue += [int(child) for child in task.read_text().split()]
            except OSError:
                continue
    return found


def write_results(results: dict[str, Any], out: Path | None) -> None:
    """As JSON into a file, else on stdout."""
    text = json.dumps(results, indent=2)
    if out:
        out.write_text(text)
    else:
        print(text)


def resident_mib(pid: int) -> float:
    """The memory of a process and its children, what they share counted once."""
    total = 0.0
    for each in _children(pid):
        try:
            match = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{each}/smaps_rollup").read_text(), re.MULTILINE)
        except OSError:
            continue
        total += int(match.group(1)) / 1024 if match else 0
    return total


def peak_mib() -> int:
    """The most memory this process has held.

    Not getrusage's: Linux hands that of the process which started this one on to it.
    """
    match = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert match is not None
    return int(match.group(1)) >> 10


def measure(command: list[str], environment: dict[str, str]) -> Measure:
    """Run a command to its end; CalledProcessError with its output when it fails."""
    started = time.monotonic()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, resident_mib(process.pid))
            time.sleep(0.1)
        seconds = time.monotonic() - started
        if process.returncode:
            output.seek(0)
            raise subprocess.CalledProcessError(process.returncode, command, output.read()[-3000:])
    return Measure(seconds, peak)


class Case:
    """A CRM_HOME with one estate and its files, made for a measurement and removed after it."""

    def __init__(self, name: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=f"crmbench-{name}-"))
        self.folder.chmod(0o755)
        (self.folder / "tenants").mkdir()
        shutil.copy(ROOT / "tenants" / "demo.yaml", self.folder / "tenants" / "demo.yaml")
        self.environment = {
            **os.environ,
            "CRM_HOME": str(self.folder / "var"),
            "CRM_DATA": str(self.folder / "data"),
            "CRM_TENANTS": str(self.folder / "tenants"),
        }
        self.environment.pop("CRM_DATABASE_URL", None)

    def crm(self, *arguments: str) -> Measure:
        return measure([str(ROOT / "crm"), *arguments], self.environment)

    def files(self, name: str) -> None:
        if name == "sample":
            self.crm("demo")
            return
        lines, customers, products = SCALES[name]
        target = self.folder / "data" / "demo" / "raw"
        measure(
            [sys.executable, "-m", "benchmarks.generate_estate", "scale", "--lines", str(lines)]
            + ["--customers", str(customers), "--products", str(products), "--out", str(target)],
            {**self.environment, "PYTHONPATH": str(ROOT)},
        )

    def close(self) -> None:
        self.crm("down")
        shutil.rmtree(self.folder, ignore_errors=True)


def measure_run(name: str) -> dict[str, Measure]:
    """First `crm run` of an estate that was added (its server is up), then one without news."""
    case = Case(name)
    try:
        case.files(name)
        case.crm("tenant", "add", "demo")  # its database and its dbt parse: once in an estate's life
        first = case.crm("run", "--tenant", "demo")
        return {name: first, f"{name}, no change": case.crm("run", "--tenant", "demo")}
    finally:
        case.close()


def measure_load() -> dict[str, Measure]:
    """Importing the code location, and Great Expectations alone."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GX_ANALYTICS_ENABLED": "false"}
    return {
        "load": measure(
            [sys.executable, "-c", "import crm_assets.definitions as d; d.defs.get_repository_def()"], environment
        ),
        "import of great_expectations": measure([sys.executable, "-c", "import great_expectations"], environment),
    }


def fire(files: int) -> int:
    """Hostile files through landing and dbt, figures and faults printed as they come; 0 when nothing broke."""
    case = Case("fuzz")
    try:
        command = [sys.executable, "-m", "benchmarks.hostile", "run", "--files", str(files)]
        return subprocess.run(command, cwd=ROOT, env={**case.environment, "PYTHONPATH": str(ROOT)}).returncode
    finally:
        case.close()


def measure_sensor() -> dict[str, Measure]:
    """Ticks of the file sensors with 1,000 tenants; seconds inside the process, its peak for each."""
    case = Case("sensor")
    try:
        out = case.folder / "sensor.json"
        command = [sys.executable, "-m", "benchmarks.sensor", "--out", str(out)]
        whole = measure(command, {**case.environment, "PYTHONPATH": str(ROOT)})
        return {f"sensor: {name}": Measure(s, whole.peak_mib) for name, s in json.loads(out.read_text()).items()}
    finally:
        case.close()


def measure_landing(name: str, repeat: int) -> dict[str, dict[str, float]]:
    """Landing beside a bare COPY (see benchmarks/landing.py), by variant; of `landing-5m` and more the plain one."""
    case = Case(name)
    try:
        out = case.folder / "landing.json"
        command = [sys.executable, "-m", "benchmarks.landing", "--out", str(out), "--repeat", str(repeat)]
        if size := name.removeprefix("landing").removeprefix("-").removesuffix("m"):
            command += ["--lines", f"{size}000000", "--variants", "plain"]
        measure(command, {**case.environment, "PYTHONPATH": str(ROOT)})
        found: dict[str, dict[str, float]] = json.loads(out.read_text())
        return {f"{name} {variant}": row for variant, row in found.items()}
    finally:
        case.close()


def measure_building(name: str) -> dict[str, object]:
    """From raw to curated, then a week's file (see benchmarks/building.py); `building-10m` is of ten million lines."""
    case = Case(name)
    try:
        out = case.folder / "building.json"
        command = [sys.executable, "-m", "benchmarks.building", "--out", str(out)]
        if size := name.removeprefix("building").removeprefix("-").removesuffix("m"):
            command += ["--lines", f"{size}000000", "--customers", f"{size}00000"]
        measure(command, {**case.environment, "PYTHONPATH": str(ROOT)})
        found: dict[str, object] = json.loads(out.read_text())
        return found
    finally:
        case.close()


def measure_ranking(name: str, repeat: int) -> dict[str, object]:
    """The ranker beside the bare product and selection, the re-ranker, or the figures on real orders."""
    with tempfile.TemporaryDirectory(prefix="crmbench-ranking-") as folder:
        out = Path(folder, "ranking.json")
        command = [sys.executable, "-m", "benchmarks.ranking", "--out", str(out), "--repeat", str(repeat)]
        command += ["--cases", RANKING[name]]
        subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
        found: dict[str, object] = json.loads(out.read_text())
        return {f"{name} {case}" if name != case else name: figures for case, figures in found.items()}


def measure_review_workbook(repeat: int) -> dict[str, object]:
    """Writing, opening and reading review workbooks of 20,000 and 60,000 rows; see benchmarks/review_workbook.py."""
    with tempfile.TemporaryDirectory(prefix="crmbench-review-") as folder:
        out = Path(folder, "review.json")
        command = [sys.executable, "-m", "benchmarks.review_workbook", "--out", str(out), "--repeat", str(repeat)]
        measure(command, {**os.environ, "PYTHONPATH": str(ROOT)})
        found: dict[str, object] = json.loads(out.read_text())
        return {f"review_workbook, {rows}": figures for rows, figures in found.items()}


def measure_audit(repeat: int) -> dict[str, object]:
    """The audit of 100,000 customers x 3 items, on frames and with the database (see benchmarks/auditing.py)."""
    case = Case("audit")
    try:
        out = case.folder / "audit.json"
        command = [sys.executable, "-m", "benchmarks.auditing", "--out", str(out), "--repeat", str(repeat)]
        measure(command, {**case.environment, "PYTHONPATH": str(ROOT)})
        return {"audit": json.loads(out.read_text())}
    finally:
        case.close()


def kill(rounds: int) -> int:
    """Live sends that are killed in the middle, figures printed as they come; 0 when nobody was written to twice."""
    program = "import sys; from benchmarks.killing import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "--rounds", str(rounds)]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}).returncode


def measure_throughput() -> dict[str, object]:
    """Messages per minute of a live send and the sender's peak memory; see benchmarks/throughput.py."""
    with tempfile.TemporaryDirectory(prefix="crmbench-throughput-") as folder:
        out = Path(folder, "throughput.json")
        command = [sys.executable, "-m", "benchmarks.throughput", "--out", str(out)]
        subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
        return {f"throughput, {name}": found for name, found in json.loads(out.read_text()).items()}


def main() -> int:
    """Measure the chosen cases and print a table; JSON where asked."""
    parser = argparse.ArgumentParser(prog="crm bench", description=__doc__.splitlines()[0])
    parser.add_argument("--cases", default="load,sample,100k,1m")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=200, help="of the case kill")
    parser.add_argument("--files", type=int, default=20_000, help="of the case fuzz")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    results: dict[str, list[Measure]] = {}
    names = args.cases.split(",")
    failed = fire(args.files) if "fuzz" in names else 0
    landed: dict[str, dict[str, float]] = {}
    for name in (name for name in names if name.startswith("landing")):
        landed |= measure_landing(name, args.repeat)
    built: dict[str, object] = {name: measure_building(name) for name in names if name.startswith("building")}
    for name in (name for name in names if name in RANKING):
        built |= measure_ranking(name, args.repeat)
    if "review_workbook" in names:
        built |= measure_review_workbook(args.repeat)
    if "audit" in names:
        built |= measure_audit(args.repeat)
    if "kill" in names:
        failed |= kill(args.rounds)
    if "throughput" in names:
        built |= measure_throughput()
    apart = ("fuzz", "landing", "building", "review_workbook", "audit", "kill", "throughput", *RANKING)
    for name in (name for name in names if not name.startswith(apart)):
        for number in range(args.repeat):
            print(f"{name}: {number + 1} of {args.repeat}", file=sys.stderr, flush=True)
            other = {"load": measure_load, "sensor": measure_sensor}.get(name)
            for label, one in (other() if other else measure_run(name)).items():
                results.setdefault(label, []).append(one)
    rows = {
        label: {
            "median_seconds": round(statistics.median(m.seconds for m in measures), 1),
            "median_peak_mib": round(statistics.median(m.peak_mib for m in measures)),
            "all_seconds": [round(m.seconds, 1) for m in measures],
            "aim": AIMS.get(label, ""),
        }
        for label, measures in results.items()
    }
    for label, row in rows.items():
        figures = f"{row['median_seconds']:7.1f} s {row['median_peak_mib']:7} MiB"
        print(f"{label:32} {figures}   {row['all_seconds']}  {row['aim']}")
    for label, found in landed.items():
        print(
            f"{label:32} {found['ratio']:7.2f} x the bare COPY, {found['landing_seconds']} s to"
            f" {found['copy_seconds']} s for {found['lines']} lines, {found['file_mib']} MiB; peak"
            f" {found['peak_mib']} MiB, the server {found['server_peak_mib']} MiB"
            "   1 M lines: <= 2.5 x; 5 M: <= 1 GiB"
        )
    for name, known in built.items():
        print(f"{name}: {json.dumps(known, indent=2)}")
    if args.out:
        args.out.write_text(json.dumps({**rows, **landed, **built}, indent=2))
    return failed


if __name__ == "__main__":
    sys.exit(main())
