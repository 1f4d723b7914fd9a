"""Landing real folders into a real database: once, whole or not at all, in any order, whatever happens."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fsspec
import psycopg
import pytest

from crm_assets import tables
from crm_assets.logic import reading
from crm_assets.logic.landing import load_source
from crm_assets.resources import raw_store
from crm_assets.resources.drop_zone import DroppedFile, DropZone, settled
from crm_assets.resources.raw_store import LandingReport, failures, has_news, land
from crm_assets.resources.warehouse import Warehouse
from crm_assets.tenants import Source, Tenant
from crm_assets.versions import dataset_version
from tests.conftest import drop

NOW = datetime(2026, 1, 5, 6, tzinfo=UTC)
CLIENTS = "Code client;Nom;Prénom;E-mail\n00123;Muller;Anne;anne@example.org\nC2;Haas;Luc;\n"
SALES = """Code client;N° pièce;SKU;Date commande;Quantité;Mt HT
00123;F1;P1;05/03/2024;6;60,50
C2;F2;P1;06/03/2024;1;9
"""


def tenant(source: Source | None = None) -> Tenant:
    return Tenant(slug="test", name="T", legal_name="T", address="1 rue", siren="123456789", source=source or Source())


def landing(
    warehouse: Warehouse,
    folder: Path | str,
    *,
    now: datetime = NOW,
    who: Tenant | None = None,
    pause: Callable[[float], None] = lambda seconds: None,
) -> LandingReport:
    return land(warehouse, DropZone(folder), who or tenant(), load_source(), now, pause=pause)


def statuses(report: LandingReport) -> dict[str, str]:
    return {outcome.path: outcome.status for outcome in report.outcomes}


def contents(warehouse: Warehouse) -> dict[str, list[tuple[object, ...]]]:
    """All raw rows, the paths' own story aside."""
    found: dict[str, list[tuple[object, ...]]] = {
        name: warehouse.rows(f"select * from raw.{name} order by file_id, source_line") for name in tables.RAW_TABLES
    }
    found["files"] = warehouse.rows(
        "select distinct sha256, dataset, order_key, row_count, decimal_separator, date_order, first_date,"
        " last_date from raw.files where status in ('loaded', 'duplicate') order by sha256"
    )
    return found


def test_a_drop_lands_with_its_lines_as_text(tenant_warehouse: Warehouse, folder: Path) -> None:
    drop(folder, "isavigne/clients/clients_31-12-2025.csv", CLIENTS)
    drop(folder, "ventes.csv", SALES + "C3;F3\n")
    report = landing(tenant_warehouse, folder)
    assert report.status_counts == {"loaded": 2}
    assert report.loaded_rows == {"customers": 2, "sales_lines": 3}
    rows = tenant_warehouse.rows(
        "select source_line, row_no, client_code, amount_ht, problems, extra from raw.sales_lines order by row_no"
    )
    assert rows == [
        (2, 1, "00123", "60,50", None, None),
        (3, 2, "C2", "9", None, None),
        (4, 3, None, None, ["RAGGED_ROW"], ["C3", "F3"]),
    ]
    ledger = tenant_warehouse.rows(
        "select path, status, row_count, decimal_separator, file_date::text, first_date::text,"
        " last_date::text, encoding, delimiter, format, missing_fields @> '{line_no}', unmapped_headers"
        " from raw.files order by path"
    )
    assert ledger == [
        ("isavigne/clients/clients_31-12-2025.csv", "loaded", 2, None, "2025-12-31", None, None,
         "utf-8", ";", "csv", False, []),
        ("ventes.csv", "loaded", 3, ",", "2024-03-06", "2024-03-05", "2024-03-06",
         "utf-8", ";", "csv", True, []),
    ]  # fmt: skip
    assert tenant_warehouse.rows("select path, dataset from landing.files order by path") == [
        ("isavigne/clients/clients_31-12-2025.csv", "customers"),
        ("ventes.csv", "sales_lines"),
    ]


def test_landing_twice_changes_nothing(tenant_warehouse: Warehouse, samples: Path) -> None:
    report = landing(tenant_warehouse, samples)
    assert set(report.status_counts) == {"loaded"}
    before = (
        contents(tenant_warehouse),
        tenant_warehouse.rows("select * from raw.files order by path, sha256"),
    )
    again = landing(tenant_warehouse, samples)
    assert again.loaded_rows == {}
    assert not any(outcome.is_new for outcome in again.outcomes)
    assert before == (
        contents(tenant_warehouse),
        tenant_warehouse.rows("select * from raw.files order by path, sha256"),
    )
    for name in tables.RAW_TABLES:
        counted = tenant_warehouse.rows(
            "select coalesce(sum(row_count), 0) from raw.files where status = 'loaded' and dataset = %s",
            [name],
        )
        assert counted == [(tenant_warehouse.count("raw", name),)]


def test_the_same_content_under_two_names_loads_once(tenant_warehouse: Warehouse, folder: Path) -> None:
    drop(folder, "clients_2025-01-01.csv", CLIENTS)
    landing(tenant_warehouse, folder)
    drop(folder, "clients_2025-06-30.csv", CLIENTS)
    report = landing(tenant_warehouse, folder)
    assert statuses(report) == {"clients_2025-01-01.csv": "loaded", "clients_2025-06-30.csv": "duplicate"}
    assert tenant_warehouse.count("raw", "customers") == 2
    keys = tenant_warehouse.rows("select distinct left(order_key, 10), file_date::text from raw.files")
    assert keys == [("2025-06-30", "2025-06-30")], "one content has one place: the newest of its names"


def test_changed_content_is_a_new_file_also_with_size_and_time_kept(tenant_warehouse: Warehouse, folder: Path) -> None:
    path = drop(folder, "clients.csv", CLIENTS)
    landing(tenant_warehouse, folder)
    before = path.stat()
    drop(folder, "clients.csv", CLIENTS.replace("Haas", "Hess"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert has_news(tenant_warehouse, DropZone(folder))
    report = landing(tenant_warehouse, folder)
    assert report.loaded_rows == {"customers": 2}
    assert report.deleted == ["clients.csv"]
    assert tenant_warehouse.rows(
        "select count(*), count(deleted_at), count(distinct sha256) from raw.files where status = 'loaded'"
    ) == [(2, 1, 2)]
    assert tenant_warehouse.count("raw", "customers") == 4


def test_bad_files_fail_alone_and_stay_listed_until_a_good_one_replaces_them(
    tenant_warehouse: Warehouse, folder: Path
) -> None:
    drop(folder, "clients.csv", CLIENTS)
    drop(folder, "isavigne/produits/garbage.csv", bytes(range(256)) * 8)
    drop(folder, "isavigne/produits/empty.csv", b"")
    drop(folder, "isavigne/produits/only_header.csv", "libelle;prix\n")
    drop(folder, "isavigne/stock/headless.csv", "P1;3\nP2;4\n")
    drop(folder, "isavigne/stock/short.csv", "produit_key;entrepot\nP1;Caveau\n")
    drop(folder, "isavigne/stock/fake.xlsx", b"PK\x03\x04 nothing")
    drop(folder, "isavigne/ventes_lignes/shifted.csv", SALES.splitlines()[0] + "\n1;2\n3;4\n")
    drop(folder, "mystery.csv", CLIENTS)
    report = landing(tenant_warehouse, folder)
    assert statuses(report) == {
        "clients.csv": "loaded",
        "isavigne/produits/empty.csv": "unreadable",
        "isavigne/produits/garbage.csv": "unreadable",
        "isavigne/produits/only_header.csv": "refused",
        "isavigne/stock/fake.xlsx": "unreadable",
        "isavigne/stock/headless.csv": "refused",
        "isavigne/stock/short.csv": "refused",
        "isavigne/ventes_lignes/shifted.csv": "refused",
        "mystery.csv": "unrecognised",
    }
    assert {name for name in tables.RAW_TABLES if tenant_warehouse.count("raw", name)} == {"customers"}
    listed = {path: reason for path, _, reason in failures(tenant_warehouse)}
    assert len(listed) == 8
    assert all(listed.values())

    drop(folder, "isavigne/produits/garbage.csv", "libelle;prix\nA;9\n")  # replaced under its name
    (folder / "isavigne/produits/empty.csv").unlink()  # gone, and a product file came since
    (folder / "mystery.csv").rename(folder / "isavigne/clients.csv")
    (folder / "isavigne/stock/short.csv").unlink()  # gone, and no stock file came
    landing(tenant_warehouse, folder, now=datetime(2026, 1, 6, tzinfo=UTC))
    assert sorted(path for path, _, _ in failures(tenant_warehouse)) == [
        "isavigne/produits/only_header.csv",
        "isavigne/stock/fake.xlsx",
        "isavigne/stock/headless.csv",
        "isavigne/stock/short.csv",
        "isavigne/ventes_lignes/shifted.csv",
    ]


def test_a_refused_file_lands_once_the_tenants_file_knows_its_spelling(
    tenant_warehouse: Warehouse, folder: Path
) -> None:
    drop(folder, "clients.csv", "Tiers;Nom\n00123;Muller\n")
    assert landing(tenant_warehouse, folder).status_counts == {"refused": 1}
    taught = tenant(Source(synonyms={"customers": {"client_code": ["Tiers"]}}))
    assert landing(tenant_warehouse, folder, who=taught).status_counts == {"loaded": 1}
    assert failures(tenant_warehouse) == []
    assert tenant_warehouse.rows("select client_code, last_name from raw.customers") == [("00123", "Muller")]


def test_a_deleted_file_is_noted_its_rows_stay_and_it_may_come_back(tenant_warehouse: Warehouse, folder: Path) -> None:
    path = drop(folder, "clients.csv", CLIENTS)
    landing(tenant_warehouse, folder)
    path.unlink()
    assert has_news(tenant_warehouse, DropZone(folder))
    assert landing(tenant_warehouse, folder).deleted == ["clients.csv"]
    assert tenant_warehouse.rows("select status, deleted_at from raw.files") == [("loaded", NOW)]
    assert tenant_warehouse.count("raw", "customers") == 2
    assert tenant_warehouse.count("landing", "files") == 0
    drop(folder, "clients.csv", CLIENTS)
    assert landing(tenant_warehouse, folder).loaded_rows == {}
    assert tenant_warehouse.rows("select status, deleted_at from raw.files") == [("loaded", None)]


def test_a_missing_folder_deletes_nothing(tenant_warehouse: Warehouse, folder: Path) -> None:
    drop(folder, "clients.csv", CLIENTS)
    landing(tenant_warehouse, folder)
    folder.rename(folder.with_name("unmounted"))
    report = landing(tenant_warehouse, folder)
    assert report.folder_missing
    assert tenant_warehouse.rows("select deleted_at from raw.files") == [(None,)]
    assert not has_news(tenant_warehouse, DropZone(folder))


def test_a_crash_between_rows_and_ledger_leaves_neither(
    tenant_warehouse: Warehouse, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop(folder, "clients.csv", CLIENTS)
    drop(folder, "ventes.csv", SALES)

    write = raw_store._Landing._write

    def killed_at_the_ledger(self: object, connection: object, file: DroppedFile, *rest: object) -> None:
        if file.path == "ventes.csv":
            raise KeyboardInterrupt
        write(self, connection, file, *rest)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(raw_store._Landing, "_write", killed_at_the_ledger)
        with pytest.raises(KeyboardInterrupt):
            landing(tenant_warehouse, folder)
    assert tenant_warehouse.rows("select path from raw.files") == [("clients.csv",)]
    assert tenant_warehouse.count("raw", "customers") == 2
    assert tenant_warehouse.count("raw", "sales_lines") == 0
    report = landing(tenant_warehouse, folder)
    assert report.loaded_rows == {"sales_lines": 2}
    assert report.status_counts == {"loaded": 2}


def test_a_file_that_breaks_off_after_many_blocks_leaves_no_row(
    tenant_warehouse: Warehouse, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "BLOCK_BYTES", 1000)
    header, line, _ = SALES.splitlines(keepends=True)
    drop(folder, "ventes.csv", header + line * 500 + '00123;F1;"P1;05/03/2024;6;60,50\n')
    drop(folder, "ventes_2.csv", header + line * 500)
    report = landing(tenant_warehouse, folder)
    assert statuses(report) == {"ventes.csv": "unreadable", "ventes_2.csv": "loaded"}
    found = tenant_warehouse.rows(
        "select count(*), count(distinct source_line), count(distinct row_no), count(distinct file_id)"
        " from raw.sales_lines"
    )
    assert found == [(500, 500, 500, 1)]


def test_two_landings_at_once_load_a_content_once(
    tenant_warehouse: Warehouse, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop(folder, "ventes.csv", SALES)
    drop(folder, "ventes_copy.csv", SALES)
    claim = raw_store._Landing._claim
    reports = []

    def other_was_faster(connection: psycopg.Connection, *content: Any) -> None:
        if not reports:
            reports.append(None)
            reports.append(landing(tenant_warehouse, folder))
        claim(connection, *content)

    monkeypatch.setattr(raw_store._Landing, "_claim", staticmethod(other_was_faster))
    late = landing(tenant_warehouse, folder)
    assert late.loaded_rows == {}
    assert statuses(late) == statuses(reports[1]) == {"ventes.csv": "loaded", "ventes_copy.csv": "duplicate"}
    assert tenant_warehouse.count("raw", "sales_lines") == 2
    ledger = tenant_warehouse.rows("select path, status from raw.files order by path")
    assert ledger == [("ventes.csv", "loaded"), ("ventes_copy.csv", "duplicate")]


def test_the_index_leads_to_a_files_rows_as_soon_as_it_is_loaded(tenant_warehouse: Warehouse, folder: Path) -> None:
    drop(folder, "ventes.csv", SALES)
    landing(tenant_warehouse, folder)
    with tenant_warehouse.transaction() as connection:
        connection.execute("set enable_seqscan = off")
        plan = connection.execute(
            "explain (analyze, costs off) select from raw.sales_lines where file_id = repeat('0', 16)"
        ).fetchall()
    text = "\n".join(line for (line,) in plan)
    assert "sales_lines_place" in text
    assert "Rows Removed by Index Recheck" not in text, "the pages are summarised: no page is read for another file"


def test_a_growing_file_waits_and_temporary_names_are_not_seen(tenant_warehouse: Warehouse, folder: Path) -> None:
    drop(folder, "clients.csv", CLIENTS)
    for name in (
        "ventes.csv.part",
        "ventes.tmp",
        "~$ventes.xlsx",
        ".ventes.csv",
        "STOP",
        ".hidden/ventes.csv",
    ):
        drop(folder, name, SALES)
    growing = drop(folder, "ventes.csv", SALES.splitlines()[0], modified=NOW.isoformat())
    pauses: list[float] = []

    def write_on(seconds: float) -> None:
        pauses.append(seconds)
        with growing.open("a") as stream:
            stream.write("\n")

    report = landing(tenant_warehouse, folder, pause=write_on)
    assert len(pauses) == 1
    assert statuses(report) == {"clients.csv": "loaded", "ventes.csv": "waiting"}
    assert tenant_warehouse.rows("select sha256, reason from raw.files where status = 'waiting'") == [
        ("", "is still being written")
    ]
    assert has_news(tenant_warehouse, DropZone(folder))
    drop(folder, "ventes.csv", SALES)
    assert landing(tenant_warehouse, folder).status_counts == {"loaded": 2}
    assert tenant_warehouse.rows("select count(*) from raw.files where status = 'waiting'") == [(0,)]


def test_a_file_written_to_while_it_is_read_is_not_kept(
    tenant_warehouse: Warehouse, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = drop(folder, "clients.csv", CLIENTS)
    hashed = DropZone.sha256

    def hash_then_write(zone: DropZone, name: str) -> str:
        found = hashed(zone, name)
        with path.open("a") as stream:
            stream.write("C3;Weber;Eve;\n")
        return found

    with monkeypatch.context() as patch:
        patch.setattr(DropZone, "sha256", hash_then_write)
        assert landing(tenant_warehouse, folder).status_counts == {"waiting": 1}
    assert tenant_warehouse.count("raw", "customers") == 0
    assert landing(tenant_warehouse, folder).loaded_rows == {"customers": 3}


def test_nothing_new_is_known_without_reading_a_file(
    tenant_warehouse: Warehouse, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop(folder, "clients.csv", CLIENTS)
    monkeypatch.setattr("crm_assets.resources.drop_zone.FINE_TICK", 0.0)  # written long before it is hashed
    landing(tenant_warehouse, folder)
    monkeypatch.setattr(DropZone, "open", lambda *arguments: pytest.fail("a file was opened"))
    assert not has_news(tenant_warehouse, DropZone(folder))
    assert landing(tenant_warehouse, folder).status_counts == {"loaded": 1}


def test_any_order_of_arrival_ends_in_the_same_rows(
    tenant_warehouse: Warehouse,
    samples: Path,
    tmp_path: Path,
    cluster: object,
    request: pytest.FixtureRequest,
) -> None:
    files = sorted(path for path in (samples / "isavigne").rglob("*.*"))
    folder = tmp_path / "piecemeal"
    for path in reversed(files):
        target = folder / path.relative_to(samples)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
        landing(tenant_warehouse, folder)
    piecemeal = contents(tenant_warehouse)
    for name in ("files", *tables.RAW_TABLES):
        tenant_warehouse.execute(f"truncate raw.{name}")
    tenant_warehouse.execute("truncate landing.files")
    landing(tenant_warehouse, samples)
    assert contents(tenant_warehouse) == piecemeal


def test_links_out_of_the_folder_are_not_followed(tenant_warehouse: Warehouse, folder: Path, tmp_path: Path) -> None:
    outside = drop(tmp_path, "elsewhere/clients.csv", CLIENTS)
    (folder / "clients.csv").symlink_to(outside)
    (folder / "isavigne").symlink_to(outside.parent)
    assert landing(tenant_warehouse, folder).outcomes == []
    with pytest.raises(ValueError, match="leads out"):
        DropZone(folder).open("clients.csv")


def test_a_name_in_an_old_encoding_lands(tenant_warehouse: Warehouse, folder: Path) -> None:
    (folder / os.fsdecode("clients_août.csv".encode("cp1252"))).write_text(CLIENTS)
    report = landing(tenant_warehouse, folder)
    assert statuses(report) == {"clients_ao\\xfbt.csv": "loaded"}


def test_a_remote_folder_lands_the_same_way(tenant_warehouse: Warehouse) -> None:
    filesystem = fsspec.filesystem("memory")
    filesystem.pipe("/estate/raw/isavigne/clients/a.csv", CLIENTS.encode())
    filesystem.pipe("/estate/raw/ventes.csv.part", SALES.encode())
    zone = DropZone("memory://estate/raw")
    assert [file.path for file in zone.list()] == ["isavigne/clients/a.csv"]
    assert settled(zone.list(), zone.list()) == {"isavigne/clients/a.csv"}
    report = landing(tenant_warehouse, "memory://estate/raw")
    assert report.loaded_rows == {"customers": 2}
    filesystem.rm("/estate", recursive=True)
    assert landing(tenant_warehouse, "memory://estate/raw").folder_missing


def test_a_returned_review_workbook_is_known_wherever_it_lies_and_loads_nothing(
    tenant_warehouse: Warehouse, folder: Path
) -> None:
    book = "Code client;Décision;crm_ref_review\nC1;Approuver;0123456789abcdef-0123456789abcdef\n"
    drop(folder, "isavigne/clients/clients.csv", CLIENTS)
    landing(tenant_warehouse, folder)
    before = contents(tenant_warehouse), dataset_version(tenant_warehouse)
    drop(folder, "isavigne/clients/clients 2.csv", book)
    drop(folder, "n'importe quoi.csv", book.encode("utf-16"))
    drop(folder, "later/again.csv", book)
    report = landing(tenant_warehouse, folder)
    assert report.status_counts == {"loaded": 1, "review": 3}
    assert (contents(tenant_warehouse), dataset_version(tenant_warehouse)) == before
    assert failures(tenant_warehouse) == []
    assert statuses(landing(tenant_warehouse, folder)) == statuses(report)
    # A file that merely speaks of one is none.
    drop(folder, "notes.csv", "Code client;Note\nC1;crm_ref_review\n")
    assert statuses(landing(tenant_warehouse, folder))["notes.csv"] == "unrecognised"
