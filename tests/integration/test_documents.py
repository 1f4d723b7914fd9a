"""Exports in any order of arrival end in the same curated tables, built bit by bit or at one go (spec.md §2, §3).

A made-up estate exports its two years in every way that hurts: overlapping periods, corrected and shrunken documents,
documents cut by the edge of an export, numbers used again, lines with and without numbers, one content under two
names, refused rows that come back mended. Each example shuffles the drops, builds after each handful, and is compared
with an estate that found all files at once in an empty database.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import random
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from benchmarks import hostile
from crm_assets.databases import Cluster
from crm_assets.logic.landing import load_source
from crm_assets.resources.drop_zone import DropZone
from crm_assets.resources.raw_store import land
from crm_assets.resources.warehouse import Warehouse
from tests.conftest import PREFIX, fresh_warehouse
from tests.integration.test_formats import curated

HEADER = ["Code client", "Type pièce", "N° pièce", "Num ligne", "Code produit", "Désignation", "Date commande"]
HEADER += ["Quantité", "Montant HT"]
NAMES = ["Muller", "Schmitt", "Weber", "Klein", "Haas", "Roth", "Kuntz", "Meyer"]
Line = tuple[str, ...]


def as_csv(header: list[str], rows: list[Line]) -> bytes:
    sink = io.StringIO()
    writer = csv.writer(sink, delimiter=";", lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return sink.getvalue().encode()


def documents(chance: random.Random) -> list[Line]:
    """Lines of two years of sales; every fourth document has lines of two days, as deliveries in parts do."""
    lines: list[Line] = []
    for number in range(160):
        day = date(2024, 1, 3) + timedelta(days=chance.randrange(700))
        kind = chance.choice(["FACTURE"] * 8 + ["AVOIR", "DEVIS"])
        client = f"C{chance.randrange(40):03d}"
        document = f"F{number % 120}"  # the last forty numbers are used a second time
        for line in range(1, chance.randrange(1, 5)):
            on = day + timedelta(days=9) if number % 4 == 0 and line == 2 else day
            product = f"P{chance.randrange(6)}"
            amount = f"{chance.randrange(500, 9000) / 100:.2f}".replace(".", ",")
            sold = (str(chance.randrange(1, 13)), amount)
            lines.append((client, kind, document, str(line), product, f"Vin {product}", f"{on:%d/%m/%Y}", *sold))
    return lines


def between(lines: list[Line], first: date, last: date) -> list[Line]:
    return [line for line in lines if first <= datetime.strptime(line[6], "%d/%m/%Y").date() <= last]


def corrected(chance: random.Random, lines: list[Line]) -> list[Line]:
    """A later export of the same days: some lines are gone, some say something else, some stand elsewhere."""
    kept = [line for line in lines if chance.random() > 0.06]
    changed = [(*line[:7], "99", line[8]) if chance.random() < 0.08 else line for line in kept]
    return sorted(changed, key=lambda line: (line[2], chance.random()))


def exports(seed: int) -> dict[str, bytes]:
    """path -> content."""
    chance = random.Random(seed)
    lines = documents(chance)
    unnumbered = [*HEADER[:3], *HEADER[4:]]
    first_half = between(lines, date(2024, 1, 1), date(2024, 6, 30))
    # Two rows that are refused: no such day, no number.
    bad = [(*first_half[0][:6], "31/04/2024", "1", "10,00"), (*first_half[-1][:7], "douze", "10,00")]
    found = {
        "ventes_2024-06-30.csv": as_csv(HEADER, first_half[:9] + bad + first_half[9:]),
        "ventes_2024-12-31.csv": as_csv(HEADER, between(lines, date(2024, 5, 15), date(2024, 12, 31))),
        "ventes_2025-06-30.csv": as_csv(HEADER, between(lines, date(2025, 1, 1), date(2025, 6, 30))),
        "ventes_2025-12-31.csv": as_csv(HEADER, between(lines, date(2025, 6, 1), date(2025, 12, 31))),
        "ventes_corrigees_2025-01-15.csv": as_csv(HEADER, corrected(chance, between(lines, *_span(chance, 2024)))),
        "ventes_corrigees_2026-01-02.csv": as_csv(HEADER, corrected(chance, between(lines, *_span(chance, 2025)))),
        "clients_2024-12-31.csv": clients(chance, 30),
        "clients_2025-12-31.csv": clients(chance, 36),
        "produits_2025-12-31.csv": as_csv(
            ["Code produit", "Désignation", "Prix TTC"], [(f"P{n}", f"Vin P{n}", f"{8 + n},50") for n in range(5)]
        ),
    }
    till = [(*line[:2], f"T{line[2]}", *line[4:]) for line in between(lines, *_span(chance, 2025))]
    found["ventes_caveau_2025-11-30.csv"] = as_csv(unnumbered, till + till[:3])
    found["ventes_caveau_2025-12-15.csv"] = as_csv(unnumbered, till[5:])
    # The same content again under a newer name: its place is the newer one, whichever came first.
    found["ventes_2025-07-01_copie.csv"] = found["ventes_2025-06-30.csv"]
    file_id = hashlib.sha256(found["ventes_2024-06-30.csv"]).hexdigest()[:16]
    found["lignes_a_corriger.csv"] = as_csv(
        [*HEADER, "crm_ref_ventes_lignes"],
        [
            (*bad[0][:6], "30/04/2024", *bad[0][7:], f"{file_id}:11"),
            (*bad[1][:7], "12", bad[1][8], f"{file_id}:12"),
        ],
    )
    return found


def _span(chance: random.Random, year: int) -> tuple[date, date]:
    first = date(year, 1, 1) + timedelta(days=chance.randrange(200))
    return first, first + timedelta(days=chance.randrange(30, 120))


def clients(chance: random.Random, count: int) -> bytes:
    """Cards; every fifth shares its address and name with another code, every seventh has refused."""
    rows: list[Line] = []
    for number in range(count):
        person = number - 1 if number % 5 == 4 else number
        name = NAMES[person % len(NAMES)]
        refused = "oui" if number % 7 == 3 and chance.random() < 0.7 else ""
        rows.append((f"C{number:03d}", name, f"p{person}@example.org", f"67{chance.randrange(1000):03d}", refused))
    return as_csv(["Code client", "Nom", "E-mail", "Code postal", "Désabonné"], rows)


def drop(folder: Path, path: str, content: bytes) -> None:
    folder.mkdir(exist_ok=True)
    (folder / path).write_bytes(content)
    # A file's own time, whenever it arrives.
    seconds = datetime(2026, 1, 3, tzinfo=UTC).timestamp() + int(hashlib.sha256(path.encode()).hexdigest()[:4], 16)
    os.utime(folder / path, (seconds, seconds))


def refresh(warehouse: Warehouse, folder: Path) -> None:
    land(warehouse, DropZone(folder), hostile.estate(), load_source(), hostile.NOW, pause=lambda seconds: None)
    failed = hostile.build(warehouse, with_tests=False)
    assert not failed, failed


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_any_order_of_arrival_ends_in_the_same_tables(
    cluster: Cluster, template: str, tmp_path: Path, seed: int
) -> None:
    files = exports(seed)
    order = sorted(files)
    random.Random(seed).shuffle(order)
    database = f"{PREFIX}documents"
    with fresh_warehouse(cluster, template, database) as warehouse:
        for path, content in files.items():
            drop(tmp_path / "all", path, content)
        refresh(warehouse, tmp_path / "all")
        expected = curated(warehouse)
        assert {status for (status,) in warehouse.rows("select distinct status from raw.files")} == {
            "loaded",
            "duplicate",
        }
        assert warehouse.rows("select resolved_by is null from curated.quarantined_rows") == [(False,)] * 2
        assert warehouse.rows("select count(*) > 0 from curated.fct_orders where is_number_reused")[0][0]
        if seed == 1:
            assert warehouse.rows("select count(*) > 0 from curated.fct_orders where is_split")[0][0]

    with fresh_warehouse(cluster, template, database) as warehouse:
        for handful in (order[:-4], order[-4:-2], order[-2:]):
            for path in handful:
                drop(tmp_path / "some", path, files[path])
            refresh(warehouse, tmp_path / "some")
            assert not warehouse.rows(
                "select path from curated.file_accounting where rows <> curated + superseded + quarantined"
            )
        builds = warehouse.rows("select min(build_no) < max(build_no) from staging.sales_line_versions")
        found = curated(warehouse)
        assert found.keys() == expected.keys()
        for table, rows in expected.items():
            lost = sorted(set(rows) - set(found[table]))[:3]
            strange = sorted(set(found[table]) - set(rows))[:3]
            assert found[table] == rows, f"{table}, order {order}: lost {lost}, strange {strange}"
        if seed == 1:
            assert builds == [(True,)], "all was built anew: nothing was tried"
