"""Refused rows and unknown labels on their way to the estate and back, on a real database and real folders.

What dbt decides (which rows are refused, which mended ones resolve them) is written by hand in the first tests and
built for real in the last one.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import openpyxl
import pytest

from crm_assets import cli, tables, up, workbooks
from crm_assets.logic.landing import load_source
from crm_assets.resources.drop_zone import DropZone
from crm_assets.resources.raw_store import LandingReport, land
from crm_assets.resources.warehouse import Warehouse
from crm_assets.settings import Settings
from crm_assets.tenants import Registry, Tenant
from tests.conftest import drop

NOW = datetime(2026, 1, 5, 6, tzinfo=UTC)
SOURCE = load_source()
SALES = """Code client;N° pièce;SKU;Date commande;Quantité;Mt HT;Remarque
00123;F1;P1;05/03/2024;6;60,50;
;F2;01000;06/03/2024;1.234;-9;=1+1
C3;F3;P1;31/04/2024;x;9;"deux
lignes"
C4;F4
"""
CLIENTS = "Code client;Nom;E-mail\n#N/A;Haas;luc@example.org\n00123;Muller;anne@example.org\n"
TENANT = Tenant(slug="test", name="T", legal_name="T", address="1 rue", siren="123456789")


def landing(warehouse: Warehouse, folder: Path) -> LandingReport:
    return land(warehouse, DropZone(folder), TENANT, SOURCE, NOW, pause=lambda seconds: None)


def statuses(report: LandingReport) -> dict[str, tuple[str | None, str]]:
    return {outcome.path: (outcome.dataset, outcome.status) for outcome in report.outcomes}


def quarantine(
    warehouse: Warehouse, refused: dict[tuple[str, int], list[str]], resolved: tuple[str, int] | None = None
) -> None:
    """curated.quarantined_rows as the model fills it, for rows named by (path, line)."""
    warehouse.execute("create schema if not exists curated")
    warehouse.execute("drop table if exists curated.quarantined_rows")
    warehouse.execute(
        "create table curated.quarantined_rows (file_id text, dataset text, source_line bigint, codes text[],"
        " row jsonb, resolved_by text)"
    )
    for (path, line), codes in refused.items():
        ((file_id, dataset),) = warehouse.rows("select file_id, dataset from raw.files where path = %s", [path])
        inserted = warehouse.execute(
            "insert into curated.quarantined_rows select file_id, %s, source_line, %s,"
            " jsonb_strip_nulls(to_jsonb(source) - '{file_id,source_line,row_no,problems,mends}'::text[]), %s"
            f" from raw.{dataset} as source where file_id = %s and source_line = %s",
            [dataset, codes, "resolver" if (path, line) == resolved else None, file_id, line],
        )
        assert inserted == 1, (path, line)


BAD = {
    ("ventes.csv", 3): ["MISSING_CLIENT"],
    ("ventes.csv", 4): ["INVALID_DATE", "INVALID_NUMBER"],
    ("ventes.csv", 6): ["RAGGED_ROW"],
}


def books(warehouse: Warehouse, tmp_path: Path, file: str | None = None, tenant: Tenant = TENANT) -> dict[str, Path]:
    """The workbooks, saved: folder of the dataset -> path."""
    made = workbooks.refused_workbooks(warehouse, tenant, NOW, tmp_path / "refus.xlsx", file)
    for book in made:
        workbooks.save(book)
    return {book.folder: book.path for book in made}


def shown(path: Path) -> list[dict[str, str | None]]:
    header, *rows = openpyxl.load_workbook(path).worksheets[0].iter_rows(values_only=True)
    return [dict(zip(map(str, header), row, strict=True)) for row in rows]


def references(path: Path, dataset: str = "ventes_lignes") -> list[str | None]:
    return [row[f"crm_ref_{dataset}"] for row in shown(path)]


def mend(path: Path, changes: Mapping[str, Mapping[str, str | None]]) -> bytes:
    """The workbook with cells changed: reference -> header -> text."""
    book = openpyxl.load_workbook(path)
    sheet = book.worksheets[0]
    header = [str(cell.value) for cell in sheet[1]]
    place = next(n for n, name in enumerate(header) if name.startswith("crm_ref"))
    for row in sheet.iter_rows(min_row=2):
        for name, text in changes.get(str(row[place].value), {}).items():
            row[header.index(name)].value = text
    book.save(path)
    return path.read_bytes()


@pytest.fixture
def refused(tenant_warehouse: Warehouse, folder: Path) -> Warehouse:
    """An estate with three bad sales lines and one bad customer."""
    drop(folder, "ventes.csv", SALES)
    drop(folder, "isavigne/clients/clients.csv", CLIENTS)
    landing(tenant_warehouse, folder)
    quarantine(tenant_warehouse, {**BAD, ("isavigne/clients/clients.csv", 2): ["INVALID_KEY"]})
    return tenant_warehouse


def file_id(warehouse: Warehouse, path: str) -> str:
    return str(warehouse.rows("select file_id from raw.files where path = %s", [path])[0][0])


# --- what is handed back


def test_each_dataset_has_its_workbook(refused: Warehouse, tmp_path: Path) -> None:
    made = books(refused, tmp_path)
    assert {name: path.name for name, path in made.items()} == {
        "ventes_lignes": "refus-ventes_lignes.xlsx",
        "clients": "refus-clients.xlsx",
    }
    sales = file_id(refused, "ventes.csv")
    assert references(made["ventes_lignes"]) == [f"{sales}:{line}" for line in (3, 4, 6)]
    (client,) = shown(made["clients"])
    assert (client["Code client"], client["Nom"], client["crm_fichier"]) == (
        "#N/A",
        "Haas",
        "isavigne/clients/clients.csv",
    )
    assert "« " not in str(client["crm_pourquoi"])
    assert "«\u00a0Code client\u00a0»" in str(client["crm_pourquoi"])


@pytest.mark.parametrize("which", ["ventes.csv", "file_id", "sha256", "data/test/raw/ventes.csv"])
def test_one_file_may_be_asked_for(refused: Warehouse, tmp_path: Path, which: str) -> None:
    if which in ("file_id", "sha256"):
        which = refused.rows(f"select {which} from raw.files where path = 'ventes.csv'")[0][0]
    assert {name: path.name for name, path in books(refused, tmp_path, which).items()} == {
        "ventes_lignes": "refus.xlsx"
    }


def test_a_file_that_nobody_knows_names_those_with_refused_rows(refused: Warehouse, tmp_path: Path) -> None:
    with pytest.raises(workbooks.WorkbookError, match=r"(?s)nowhere.csv.*clients/clients.csv \(.*ventes.csv \("):
        books(refused, tmp_path, "nowhere.csv")


def test_nothing_to_hand_back_is_no_workbook(refused: Warehouse, tmp_path: Path) -> None:
    refused.execute("update curated.quarantined_rows set resolved_by = 'x' where dataset = 'customers'")
    assert books(refused, tmp_path, "isavigne/clients/clients.csv") == {}
    refused.execute("delete from curated.quarantined_rows")
    assert books(refused, tmp_path) == {}


def test_before_the_first_run_there_is_nothing_to_ask(tenant_warehouse: Warehouse, tmp_path: Path) -> None:
    with pytest.raises(workbooks.WorkbookError, match="crm run --tenant test"):
        books(tenant_warehouse, tmp_path)
    with pytest.raises(workbooks.WorkbookError, match="crm run --tenant test"):
        workbooks.unmatched_products(tenant_warehouse, TENANT, NOW, tmp_path / "x.xlsx")


def test_a_workbook_takes_so_many_rows_and_says_how_many_are_left(refused: Warehouse, tmp_path: Path) -> None:
    few = Tenant(**{**TENANT.model_dump(), "rules": {"landing": {"workbook_rows": 2}}})
    made = workbooks.refused_workbooks(refused, few, NOW, tmp_path / "x.xlsx")
    assert {(book.folder, book.rows, book.left) for book in made} == {("ventes_lignes", 2, 1), ("clients", 1, 0)}


# --- what comes back


@pytest.mark.parametrize(
    "path", ["n'importe quoi.xlsx", "isavigne/stock/refus.xlsx", "isavigne/nulle part/x.xlsx", "clients et stock.xlsx"]
)
def test_it_is_known_by_its_content_wherever_it_lies(
    refused: Warehouse, folder: Path, tmp_path: Path, path: str
) -> None:
    sales = file_id(refused, "ventes.csv")
    content = mend(books(refused, tmp_path, "ventes.csv")["ventes_lignes"], {f"{sales}:3": {"Code client": "C9"}})
    drop(folder, path, content)
    report = landing(refused, folder)
    assert statuses(report)[path] == ("sales_lines", "loaded")
    assert refused.rows(
        "select mends, client_code, product_key, quantity, amount_ht, order_date, extra, problems from raw.sales_lines"
        f" where file_id = '{file_id(refused, path)}' order by source_line"
    ) == [
        (f"{sales}:3", "C9", "01000", "1.234", "-9", "06/03/2024", {"Remarque": "=1+1"}, None),
        (f"{sales}:4", "C3", "P1", "x", "9", "31/04/2024", {"Remarque": "deux\nlignes"}, None),
        (f"{sales}:6", None, None, None, None, None,
         ["C4", "F4", "", "", "", "", "", f"{sales}:6", "à vérifier, puis vider cette case"], ["RAGGED_ROW"]),
    ]  # fmt: skip
    ((unmapped, quality, original),) = refused.rows(
        "select back.unmapped_headers, back.mapping_quality, first.mapping_quality from raw.files as back, raw.files"
        " as first where back.path = %s and first.path = 'ventes.csv'",
        [path],
    )
    assert unmapped == ["Remarque"]
    assert quality == original
    # Looking again changes nothing, and a copy elsewhere is one.
    shutil.copy(folder / path, folder / "copie.xlsx")
    assert statuses(landing(refused, folder))["copie.xlsx"] == ("sales_lines", "duplicate")


def test_other_files_stay_unrecognised(tenant_warehouse: Warehouse, folder: Path) -> None:
    drop(folder, "n'importe quoi.csv", "crm_ref_inconnu;Nom\nx;y\n")
    drop(folder, "autre.csv", "")
    drop(folder, "refus.docx", "crm_ref_clients;Nom\nx;y\n")
    for _ in range(2):
        assert {status for _, status in statuses(landing(tenant_warehouse, folder)).values()} == {"unrecognised"}


def test_a_workbook_that_cannot_be_loaded_is_listed_under_its_own_dataset(
    tenant_warehouse: Warehouse, folder: Path
) -> None:
    drop(folder, "isavigne/clients/x.csv", "crm_ref_ventes_lignes;Nom\nx;y\n")
    assert statuses(landing(tenant_warehouse, folder)) == {"isavigne/clients/x.csv": ("sales_lines", "refused")}
    assert tenant_warehouse.rows("select dataset from raw.files") == [("sales_lines",)]


def test_a_reference_made_up_is_kept_as_it_was_written(tenant_warehouse: Warehouse, folder: Path) -> None:
    drop(
        folder, "x.csv", "crm_ref_clients;client;nom\nn'importe quoi;C1;Haas\n;C2;Muller\n0123456789abcdef:99;C3;Roth\n"
    )
    landing(tenant_warehouse, folder)
    assert tenant_warehouse.rows("select client_code, mends from raw.customers order by client_code") == [
        ("C1", "n'importe quoi"), ("C2", None), ("C3", "0123456789abcdef:99"),
    ]  # fmt: skip


def test_a_mended_file_is_as_new_as_its_last_save(refused: Warehouse, folder: Path, tmp_path: Path) -> None:
    path = books(refused, tmp_path, "ventes.csv")["ventes_lignes"]
    drop(folder, "x.xlsx", path.read_bytes(), modified="2025-12-01T12:00:00+00:00")
    landing(refused, folder)
    assert refused.rows("select order_key like '2025-12-01|%%' from raw.files where path = 'x.xlsx'") == [(True,)]


def test_only_the_newest_attempt_is_handed_back_with_the_first_reference(
    refused: Warehouse, folder: Path, tmp_path: Path
) -> None:
    sales = file_id(refused, "ventes.csv")
    path = books(refused, tmp_path, "ventes.csv")["ventes_lignes"]
    first = mend(path, {f"{sales}:3": {"Code client": "#REF!"}, f"{sales}:4": {"Quantité": "deux"}})
    drop(folder, "un.xlsx", first, modified="2025-12-01T12:00:00+00:00")
    second = mend(path, {f"{sales}:3": {"Code client": "#NOM?"}, f"{sales}:4": {"Quantité": "2"}})
    drop(folder, "deux.xlsx", second, modified="2025-12-02T12:00:00+00:00")
    landing(refused, folder)
    attempts = {
        (name, line): BAD["ventes.csv", at] for name in ("un.xlsx", "deux.xlsx") for line, at in ((2, 3), (3, 4))
    }
    quarantine(refused, {**BAD, **attempts})
    rows = shown(books(refused, tmp_path)["ventes_lignes"])
    assert [row["crm_ref_ventes_lignes"] for row in rows] == [f"{sales}:{line}" for line in (3, 4, 6)]
    assert [row["Code client"] for row in rows][:2] == ["#NOM?", "C3"]
    assert [row["Quantité"] for row in rows][:2] == ["1.234", "2"]
    assert "deux.xlsx" in str(rows[0]["crm_pourquoi"])
    assert "xlsx" not in str(rows[2]["crm_pourquoi"])
    # An attempt belongs to the export it began with, and to the file it stands in.
    assert len(shown(books(refused, tmp_path, "deux.xlsx")["ventes_lignes"])) == 2
    assert len(shown(books(refused, tmp_path, "ventes.csv")["ventes_lignes"])) == 3

    # Once any of them was accepted, neither the row nor what was tried is handed back.
    quarantine(refused, {**BAD, **attempts}, resolved=("ventes.csv", 3))
    assert references(books(refused, tmp_path)["ventes_lignes"]) == [f"{sales}:4", f"{sales}:6"]
    quarantine(refused, {**BAD, **attempts}, resolved=("un.xlsx", 3))
    assert references(books(refused, tmp_path)["ventes_lignes"]) == [f"{sales}:3", f"{sales}:6"]


def test_a_ragged_row_goes_round_until_it_is_mended(refused: Warehouse, folder: Path, tmp_path: Path) -> None:
    sales = file_id(refused, "ventes.csv")
    path = books(refused, tmp_path, "ventes.csv")["ventes_lignes"]
    drop(folder, "un.xlsx", path.read_bytes())
    landing(refused, folder)
    quarantine(refused, {("ventes.csv", 6): ["RAGGED_ROW"], ("un.xlsx", 4): ["RAGGED_ROW"]})
    path = books(refused, tmp_path)["ventes_lignes"]
    (row,) = shown(path)
    assert (row["Code client"], row["N° pièce"], row["SKU"]) == ("C4", "F4", None)
    assert row["crm_ref_ventes_lignes"] == f"{sales}:6"
    mended = {"SKU": "P1", "Date commande": "1/2/24", "Quantité": "1", "Mt HT": "9", "crm_plus_1": None}
    drop(folder, "deux.xlsx", mend(path, {f"{sales}:6": mended}))
    landing(refused, folder)
    assert refused.rows(
        "select mends, client_code, product_key, amount_ht, problems from raw.sales_lines where file_id = %s",
        [file_id(refused, "deux.xlsx")],
    ) == [(f"{sales}:6", "C4", "P1", "9", None)]


OFFICE = shutil.which("soffice")
# What LibreOffice is asked to save as -> the ending of what it writes.
SAVED_AS = {
    "xlsx:Calc MS Excel 2007 XML": "xlsx",
    "xls:MS Excel 97": "xls",
    "csv:Text - txt - csv (StarCalc):59,34,ANSI,1": "csv",
    "csv:Text - txt - csv (StarCalc):44,34,UTF8,1": "csv",
}


@pytest.mark.skipif(OFFICE is None, reason="LibreOffice is not installed")
def test_saved_again_by_an_office_it_is_the_same(refused: Warehouse, folder: Path, tmp_path: Path) -> None:
    path = books(refused, tmp_path, "ventes.csv")["ventes_lignes"]
    drop(folder, "ours.xlsx", path.read_bytes())
    for number, target in enumerate(SAVED_AS):
        command = [
            str(OFFICE), f"-env:UserInstallation=file://{tmp_path}/office", "--headless", "--convert-to", target,
            "--outdir", str(tmp_path / str(number)), str(path),
        ]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        (written,) = (tmp_path / str(number)).iterdir()
        drop(folder, f"saved {number}.{SAVED_AS[target]}", written.read_bytes())
    report = landing(refused, folder)
    assert all(status == "loaded" for _, status in statuses(report).values()), statuses(report)
    columns = "client_code, document_no, product_key, order_date, quantity, amount_ht, extra, problems, mends"
    ours, *others = (
        refused.rows(
            f"select {columns} from raw.sales_lines where file_id = %s order by mends", [file_id(refused, name)]
        )
        for name in ("ours.xlsx", *(f"saved {n}.{end}" for n, end in enumerate(SAVED_AS.values())))
    )
    assert len(ours) == 3
    for other in others:
        assert other == ours


# --- labels


def unmatched(warehouse: Warehouse) -> None:
    warehouse.execute("create schema if not exists curated")
    warehouse.execute("create schema if not exists staging")
    warehouse.execute(
        "create table curated.unmatched_products as select '' as raw_product_key, label as raw_product_label,"
        " '' as raw_vintage, 0 as sale_year, key as product_key, how as matched_by, score::numeric as score,"
        " suggestion, 2::bigint as lines, amount::numeric as amount_ht, date '2025-03-01' as last_sale_date"
        " from (values"
        " ('Riesling GC', 'P1', 'fuzzy', 96.0, null, 20), ('Muscat sec', 'INF-1', 'inferred', 85.0, 'P2', 50),"
        " ('Divers', 'INF-2', 'inferred', null, null, 5)) as found (label, key, how, score, suggestion, amount)"
    )
    warehouse.execute(
        "create table curated.dim_products as select * from (values ('P1', 'Riesling Grand Cru', 2022, false),"
        " ('P2', 'Muscat 2021', 2021, false), ('INF-1', 'Muscat sec', null, true))"
        " as products (product_key, label, vintage, is_inferred)"
    )
    warehouse.execute(
        "create table staging.stg_aliases as select 'DIVERS' as label, 'NULLE-PART' as product_key,"
        " null::text[] as codes, 1 as file_rank, 2 as source_line"
    )


def test_labels_go_out_and_come_back_as_aliases(tenant_warehouse: Warehouse, folder: Path, tmp_path: Path) -> None:
    unmatched(tenant_warehouse)
    book = workbooks.unmatched_products(tenant_warehouse, TENANT, NOW, tmp_path / "labels.xlsx")
    assert book is not None
    workbooks.save(book)
    rows = shown(book.path)
    assert [(row["libelle"], row["produit_key"], row["crm_proposition"], row["crm_ca_ht"]) for row in rows] == [
        ("Muscat sec", None, "P2 – Muscat 2021", 50),
        ("Riesling GC", None, "P1 – Riesling Grand Cru 2022", 20),
        ("Divers", None, None, 5),
    ]
    assert "NULLE-PART" in str(rows[2]["crm_en_attendant"])
    drop(folder, "rien.xlsx", book.path.read_bytes())
    made = openpyxl.load_workbook(book.path)
    made.worksheets[0]["B2"].value = "P2 – Muscat 2021"
    made.save(book.path)
    drop(folder, "isavigne/produits/produits 2025.xlsx", book.path.read_bytes())
    report = landing(tenant_warehouse, folder)
    assert statuses(report) == {
        "rien.xlsx": ("aliases", "refused"),
        "isavigne/produits/produits 2025.xlsx": ("aliases", "loaded"),
    }
    assert "nothing filled in" in str(next(o.reason for o in report.outcomes if o.path == "rien.xlsx"))
    assert statuses(landing(tenant_warehouse, folder)) == statuses(report)
    assert tenant_warehouse.rows("select label, product_key, mends, extra from raw.aliases") == [
        ("Muscat sec", "P2", None, None)
    ]
    assert tenant_warehouse.rows("select row_count from raw.files where status = 'loaded'") == [(1,)]


def test_a_known_catalogue_leaves_nothing_to_ask(tenant_warehouse: Warehouse, tmp_path: Path) -> None:
    unmatched(tenant_warehouse)
    tenant_warehouse.execute("delete from curated.unmatched_products")
    assert workbooks.unmatched_products(tenant_warehouse, TENANT, NOW, tmp_path / "x.xlsx") is None


# --- the commands


@pytest.fixture
def crm(
    environment: Settings,
    cluster: Any,
    monkeypatch: pytest.MonkeyPatch,
    refused: Warehouse,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., tuple[int, dict[str, Any], str]]:
    """A command on the estate of `refused`: its exit code, JSON and what it said."""
    environment.tenants.mkdir(parents=True, exist_ok=True)
    (environment.tenants / "test.yaml").write_text(
        "name: T\nlegal_name: T\naddress: 1 rue\nsiren: '123456789'\nlocale: de\n", encoding="utf-8"
    )
    monkeypatch.setattr(cli, "_warehouse", lambda config, slug: refused)

    def run(*arguments: str) -> tuple[int, dict[str, Any], str]:
        try:
            code = cli.main([*arguments, "--tenant", "test", "--json"])
        except SystemExit as stopped:
            code = int(str(stopped.code))
        out, err = capsys.readouterr()
        return code, json.loads(out) if out else {}, err

    return run


def test_the_commands(crm: Callable[..., tuple[int, dict[str, Any], str]], refused: Warehouse, tmp_path: Path) -> None:
    target = tmp_path / "aus" / "zurück.xlsx"
    code, said, told = crm("quarantine", "--to", str(target))
    assert code == 0, told
    assert [(Path(book["path"]).name, book["rows"]) for book in said["workbooks"]] == [
        ("zurück-ventes_lignes.xlsx", 3), ("zurück-clients.xlsx", 1),
    ]  # fmt: skip
    assert "Haas" not in told
    assert "example.org" not in told
    assert "crm_warum" in shown(tmp_path / "aus" / "zurück-clients.xlsx")[0]
    code, _, told = crm("quarantine", "--to", str(target))
    assert code == 1
    assert "exists already" in told
    code, _, told = crm("quarantine", "--to", str(target), "--file", "nope")
    assert (code, "clients.csv" in told) == (1, True)
    refused.execute("delete from curated.quarantined_rows")
    code, said, told = crm("quarantine", "--to", str(target))
    assert (code, said["workbooks"], target.exists()) == (0, [], False)
    assert "nothing written" in told
    code, _, _ = crm("quarantine", "--to", "here.csv")
    assert code == 2

    code, _, told = crm("unmatched", "--to", str(target))
    assert code == 1
    assert "no run yet" in told
    unmatched(refused)
    code, said, _ = crm("unmatched", "--to", str(target))
    assert (code, said["labels"], target.exists()) == (0, 3, True)
    assert crm("unmatched", "--to", str(target))[0] == 1
    refused.execute("delete from curated.unmatched_products")
    code, said, told = crm("unmatched", "--to", str(tmp_path / "none.xlsx"))
    assert (code, said["labels"], (tmp_path / "none.xlsx").exists()) == (0, 0, False)


def test_every_raw_table_is_asked_for_references() -> None:
    assert all(f"raw.{name}" in workbooks._OPEN_ROWS for name in tables.RAW_TABLES)


# --- the whole way, with what dbt decides


EXPORT = """Code client;N° pièce;Code produit;Date commande;Quantité;Mt HT
C1;F1;P1;05/03/2024;6;60
;F1;P2;05/03/2024;3;30
C1;F1;P1;05/03/2024;1;neuf
C2;F2;P1;31/04/2024;1;9
C2;F2;P1;30/04/2024;2;18
C3;F3;P1
C3;F4;P1;06/03/2024;x;9
C2;F5;P9;07/03/2024;1;9
"""
PRODUCTS = "Code produit;Produit;Prix TTC;Famille\nP1;Riesling 2022;12;Vins\nP2;Muscat 2022;9;Vins\n"


@pytest.fixture(scope="module")
def estate(environment: Settings, cluster: Any) -> Iterator[Callable[[], Warehouse]]:
    """An estate whose folder is landed and built up to curated by each call."""
    environment.tenants.mkdir(parents=True, exist_ok=True)
    file = environment.tenants / "mending.yaml"
    file.write_text("name: M\nlegal_name: M\naddress: 1 rue\nsiren: '123456789'\nas_of: 2025-12-31\n", encoding="utf-8")
    os.environ.update(up.prepare(environment, lambda _: None))
    os.environ["DBT_EXCLUDE_RESOURCE_TYPES"] = "unit_test"  # a part of the models would run theirs
    from crm_assets.definitions import defs

    stages = dg.AssetSelection.groups("landing", "raw", "staging", "curated").without_checks()
    curate = dg.Definitions(
        assets=defs.assets, resources=defs.resources, jobs=[dg.define_asset_job("curate", selection=stages)]
    ).resolve_job_def("curate")

    def build() -> Warehouse:
        with dg.DagsterInstance.ephemeral() as instance:
            instance.add_dynamic_partitions("tenant", ["mending"])
            assert curate.execute_in_process(instance=instance, partition_key="mending").success
        return Warehouse(cluster.tenant_url("mending"))

    yield build
    del os.environ["DBT_EXCLUDE_RESOURCE_TYPES"]
    file.unlink()
    shutil.rmtree(environment.data / "mending", ignore_errors=True)


def test_mended_rows_count_and_the_others_come_back_once(
    estate: Callable[[], Warehouse], environment: Settings, tmp_path: Path
) -> None:
    folder = environment.data / "mending" / "raw"
    drop(folder, "ventes.csv", EXPORT)
    drop(folder, "produits.csv", PRODUCTS)
    drop(folder, "clients.csv", "Code client;Nom\nC1;Haas\nC2;Roth\n#N/A;Kuhn\n")
    warehouse = estate()
    sales = file_id(warehouse, "ventes.csv")
    tenant = Registry(environment.tenants).get("mending")
    made = books(warehouse, tmp_path, tenant=tenant)
    path = made["ventes_lignes"]
    assert references(path) == [f"{sales}:{line}" for line in (3, 4, 5, 7, 8)]
    (client,) = references(made["clients"], "clients")
    drop(folder, "x.xlsx", mend(made["clients"], {str(client): {"Code client": "C3"}}))
    labels = workbooks.unmatched_products(warehouse, tenant, NOW, tmp_path / "labels.xlsx")
    assert labels is not None
    workbooks.save(labels)
    assert [(row["libelle"], row["crm_lignes"]) for row in shown(labels.path)] == [("P9", 1)]
    answered = openpyxl.load_workbook(labels.path)
    answered.worksheets[0]["B2"].value = "P2 – Muscat 2022"
    answered.save(labels.path)
    drop(folder, "y.xlsx", labels.path.read_bytes())

    # Two people mend copies of the workbook; the later one knows better how many line 3 and line 8 are.
    copy = tmp_path / "copie.xlsx"
    shutil.copy(path, copy)
    first = {
        f"{sales}:3": {"Code client": "C1", "Quantité": "4"},
        f"{sales}:5": {"Date commande": "30/04/2024"},
        f"{sales}:8": {"Quantité": "deux"},
    }
    drop(folder, "corrigé.xlsx", mend(path, first), modified="2025-11-01T12:00:00+00:00")
    second = {f"{sales}:3": {"Code client": "C1"}, f"{sales}:8": {"Quantité": "2"}}
    drop(folder, "encore.xlsx", mend(copy, second), modified="2025-11-02T12:00:00+00:00")
    estate()
    one, two = file_id(warehouse, "corrigé.xlsx"), file_id(warehouse, "encore.xlsx")
    assert warehouse.rows(
        "select document_no, client_code, product_key, quantity::int, file_id from curated.fct_sales_lines"
        " order by document_no, product_key, quantity"
    ) == [
        ("F1", "C1", "P1", 6, sales), ("F1", "C1", "P2", 3, two),
        ("F2", "C2", "P1", 1, one), ("F2", "C2", "P1", 2, sales),
        ("F4", "C3", "P1", 2, two),
        ("F5", "C2", "P2", 1, sales),
    ]  # fmt: skip
    assert workbooks.unmatched_products(warehouse, tenant, NOW, tmp_path / "again.xlsx") is None
    assert warehouse.rows("select last_name from curated.dim_customers where 'C3' = any(client_codes)") == [("Kuhn",)]
    assert warehouse.rows(
        "select source_line, resolved_by from curated.quarantined_rows where file_id = %s order by source_line", [sales]
    ) == [(3, two), (4, None), (5, one), (7, None), (8, two)]
    again = books(warehouse, tmp_path / "2", tenant=tenant)["ventes_lignes"]
    assert references(again) == [f"{sales}:{line}" for line in (4, 7)]
    assert not (tmp_path / "2" / "refus-clients.xlsx").exists()
    # Every row of every file is accounted for.
    assert warehouse.rows(
        "select (select sum(row_count) from raw.files where dataset = 'sales_lines'),"
        " sum(curated + superseded + quarantined) from curated.file_accounting"
        " inner join raw.files using (file_id) where raw.files.dataset = 'sales_lines'"
    ) == [(18, 18)]
