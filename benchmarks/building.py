"""From raw to curated, first at one go and then with a week's file of one per cent, beside one plain statement.

The estate is `generate_estate scale`: sales in one file, customers, products, stock, contacts. The week's file has nine
tenths new documents and one tenth documents that are already known, changed. Stated are the seconds of landing, of the
identities computed by Python, and of each dbt model by dbt's own account; dbt's start-up is in neither. The plain
statement is one `create table as select` over the same raw lines with the very casts of the product (its macros), and
for comparison the same with the casts a person would write who knows how this one file is written.
`./crm bench --cases building` (or building-10m) runs this in a CRM_HOME of its own.

    python -m benchmarks.building --lines 1000000 --customers 100000 --out FILE
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import hostile
from benchmarks.bench import resident_mib
from benchmarks.generate_estate import write_scale

if TYPE_CHECKING:
    from crm_assets.resources.warehouse import Warehouse
    from crm_assets.run_context import TenantRun

SALES_MODELS = ("stg_sales_lines", "sales_line_versions", "fct_sales_lines", "order_totals", "fct_orders")
WEEK_SHARE, WEEK_KNOWN = 0.01, 0.1
NUMBERS = ("quantity", "unit_price_ht", "amount_ht", "amount_ttc", "margin")
DATES = ("order_date", "delivery_date")
COMMA, DAY_FIRST = "','", "'dmy'"
TEXTS = (
    "file_id, source_line, client_code, document_no, document_type, line_no, product_key, product_label, article,"
    " vintage, country, delivery_name, delivery_postal_code, delivery_country"
)


@contextmanager
def watched(found: dict[str, Any]) -> Iterator[None]:
    """Note the highest memory in MiB of this process with its children, and of the embedded server."""
    from crm_assets.settings import settings

    server_pid = int((settings().home / "postgres" / "data" / "postmaster.pid").read_text().split()[0])
    peaks = {"peak MiB": 0.0, "peak MiB of the server": 0.0}
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(0.2):
            peaks["peak MiB"] = max(peaks["peak MiB"], resident_mib(os.getpid()))
            peaks["peak MiB of the server"] = max(peaks["peak MiB of the server"], resident_mib(server_pid))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        found.update({name: round(peak) for name, peak in peaks.items()})


def week_of(sales: Path, target: Path) -> int:
    """Write the week's file beside a sales export; its lines."""
    with sales.open(encoding="utf-8-sig", newline="") as stream:
        header, *rows = csv.reader(stream, delimiter=";")
    rows = [row for row in rows if len(row) == len(header)]
    place = {name: header.index(name) for name in ("N° pièce", "Date commande", "Date livraison", "Quantité")}
    count = int(len(rows) * WEEK_SHARE)
    known = int(count * WEEK_KNOWN)
    new = [list(row) for row in rows[: count - known]]
    for row in new:
        row[place["N° pièce"]] += "-W"
        row[place["Date commande"]] = row[place["Date livraison"]] = "31/12/2025"
    changed = [list(row) for row in rows[-known:]]
    for row in changed:
        row[place["Quantité"]] = "7"
    with target.open("w", encoding="utf-8-sig", newline="") as stream:
        writer = csv.writer(stream, delimiter=";")
        writer.writerow(header)
        writer.writerows(new + changed)
    return count


def plain_statement(warehouse: Warehouse, casts: str) -> float:
    """Seconds of one `create table as select` over raw.sales_lines; `casts` of the product, or a person's."""
    from tests.dbt.macros import render

    if casts == "product":
        # In two steps, as the models take them: a text is cleaned once and parsed once.
        cleaned = [f"{render('number_text', name)} as {name}" for name in NUMBERS]
        cleaned += [f"{render('date_text', name)} as {name}" for name in DATES]
        source = f"(select {TEXTS}, {', '.join(cleaned)} from raw.sales_lines limit all) as cleaned"
        typed = [f"{render('parse_number', name, COMMA)} as {name}" for name in NUMBERS]
        typed += [f"{render('parse_date', name, DAY_FIRST, 'false', '68')} as {name}" for name in DATES]
    else:
        source = "raw.sales_lines"
        typed = [
            f"case when {name} ~ '^-?[0-9]+(,[0-9]+)?$' then replace({name}, ',', '.')::numeric end as {name}"
            for name in NUMBERS
        ]
        typed += [
            f"case when {name} ~ '^(0[1-9]|1[0-9]|2[0-8])/(0[1-9]|1[0-2])/[0-9]{{4}}$'"
            f" then to_date({name}, 'DD/MM/YYYY') end as {name}"
            for name in DATES
        ]
    statement = f"create table public.plain as select {TEXTS}, {', '.join(typed)} from {source}"
    with warehouse.transaction() as connection:
        connection.execute("set local jit = off")
        started = time.perf_counter()
        connection.execute(statement.encode())
        seconds = time.perf_counter() - started
        connection.execute("drop table public.plain")
    return seconds


def refresh(run: TenantRun, folder: Path) -> dict[str, Any]:
    """Land what is new and build on it: seconds by part."""
    from crm_assets.logic.landing import load_source
    from crm_assets.resources.drop_zone import DropZone
    from crm_assets.resources.raw_store import land

    found: dict[str, Any] = {}
    started = time.perf_counter()
    report = land(run.warehouse, DropZone(folder), run.tenant, load_source(), run.now, pause=lambda seconds: None)
    found["landing"] = time.perf_counter() - started
    found["rows"] = dict(report.loaded_rows)
    started = time.perf_counter()
    failed = hostile.compute_identities(run)
    found["identities"] = time.perf_counter() - started
    started = time.perf_counter()
    failed = failed or hostile.build_models(run, with_tests=False)
    found["dbt, whole process"] = time.perf_counter() - started
    if failed:
        raise SystemExit(failed)
    results = json.loads((hostile.target_of(run)[0] / "run_results.json").read_text())
    models = {each["unique_id"].rpartition(".")[2]: each["execution_time"] for each in results["results"]}
    found["models"] = models
    found["sales models"] = sum(models[name] for name in SALES_MODELS)
    found["all models"] = sum(models.values())
    return found


def measure(lines: int, customers: int) -> dict[str, Any]:
    """The first build, the plain statements, the week."""
    from crm_assets import databases
    from crm_assets.dbt_manifest import ensure_manifest
    from crm_assets.resources.warehouse import Warehouse

    ensure_manifest()
    warehouse = Warehouse(databases.ensure_tenant(databases.cluster(), "demo"))
    run = hostile.run_of(warehouse)
    with tempfile.TemporaryDirectory(prefix="crmbench-estate-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        write_scale(folder, lines, customers, files=1)
        (sales,) = (folder / "isavigne" / "ventes_lignes").iterdir()
        hostile.build_models(run, with_tests=False)  # parses the project: once in an estate's life
        peaks: dict[str, Any] = {}
        with watched(peaks):
            first = refresh(run, folder)
        product = min(plain_statement(warehouse, "product") for _ in range(2))
        person = min(plain_statement(warehouse, "person") for _ in range(2))
        week_of(sales, sales.with_name("ventes_2026-01-04.csv"))
        week = refresh(run, folder)
        again = refresh(run, folder)

    def share(*parts: str) -> float:
        return round(sum(week[part] for part in parts) / sum(first[part] for part in parts), 3)

    return {
        "lines": lines,
        **peaks,
        "first": first,
        "week": week,
        "nothing new": again,
        "plain statement, the product's casts": round(product, 2),
        "plain statement, a person's casts": round(person, 2),
        "raw to curated sales / plain, the product's casts": round(first["sales models"] / product, 2),
        "raw to curated sales / plain, a person's casts": round(first["sales models"] / person, 2),
        "week / first: landing and sales SQL": share("landing", "sales models"),
        "week / first: landing, identities and all SQL": share("landing", "identities", "all models"),
    }


def main() -> None:
    """Measure and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--customers", type=int, default=100_000)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.write_text(json.dumps(measure(args.lines, args.customers), indent=2))


if __name__ == "__main__":
    main()
