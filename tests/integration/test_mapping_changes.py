"""An estate changes its mapping after files were loaded: what is read again, what is kept, and what is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from crm_assets.logic import mapping_report
from crm_assets.resources import raw_store
from crm_assets.resources.raw_store import READ_AGAIN
from crm_assets.resources.warehouse import Warehouse
from crm_assets.tenants import Source
from tests.conftest import drop
from tests.integration.test_landing import CLIENTS, SALES, landing, statuses, tenant

SYNONYM = Source(synonyms={"customers": {"city": ["Commune"]}})
NO_CITY = "Code client;Nom;Commune\nC1;Muller;Colmar\nC2;Haas;\n"


def files(warehouse: Warehouse) -> dict[str, tuple[int, str, str | None]]:
    """path -> (file_no, status, reason)."""
    return {path: (*rest,) for path, *rest in warehouse.rows("select path, file_no, status, reason from raw.files")}


def cities(warehouse: Warehouse) -> list[tuple[int, str | None]]:
    return warehouse.rows("select source_line, city from raw.customers where file_id is not null order by source_line")


def test_a_loaded_file_is_read_again_when_its_mapping_changes(tenant_warehouse: Warehouse, folder: Path) -> None:
    drop(folder, "clients.csv", NO_CITY)
    drop(folder, "ventes.csv", SALES)
    landing(tenant_warehouse, folder)
    before = files(tenant_warehouse)
    assert cities(tenant_warehouse) == [(2, None), (3, None)]

    report = landing(tenant_warehouse, folder, who=tenant(SYNONYM))
    assert report.loaded_rows == {"customers": 2}, "the sales' mapping is what it was"
    assert {o.path: o.reason for o in report.outcomes} == {"clients.csv": READ_AGAIN, "ventes.csv": None}
    after = files(tenant_warehouse)
    assert cities(tenant_warehouse) == [(2, "Colmar"), (3, None)]
    assert after["clients.csv"][0] != before["clients.csv"][0], "whatever was computed from the old rows is of old"
    assert after["ventes.csv"] == before["ventes.csv"]
    assert tenant_warehouse.rows("select count(*), count(distinct file_id) from raw.file_reports") == [(2, 2)]

    again = landing(tenant_warehouse, folder, who=tenant(SYNONYM))
    assert again.loaded_rows == {}
    assert files(tenant_warehouse) == after
    assert landing(tenant_warehouse, folder).loaded_rows == {"customers": 2}, "and back again"
    assert cities(tenant_warehouse) == [(2, None), (3, None)]


@pytest.mark.parametrize(
    ("source", "row"),
    [
        (Source(transformations={"clients": {"last_name": ["uppercase"]}}), ("MULLER", None)),
        (Source(fixed={"clients": {"country": "DE"}}), ("Muller", "DE")),
    ],
)
def test_transformations_and_fixed_values_reach_loaded_files(
    tenant_warehouse: Warehouse, folder: Path, source: Source, row: tuple[str, str | None]
) -> None:
    drop(folder, "clients.csv", CLIENTS)
    landing(tenant_warehouse, folder)
    landing(tenant_warehouse, folder, who=tenant(source))
    assert tenant_warehouse.rows("select last_name, country from raw.customers order by row_no limit 1") == [row]
    assert tenant_warehouse.count("raw", "customers") == 2
    assert tenant_warehouse.rows("select 'country' = any(missing_fields) from raw.files") == [(row[1] is None,)]


def test_a_change_that_does_not_concern_a_file_leaves_it_alone(tenant_warehouse: Warehouse, folder: Path) -> None:
    drop(folder, "clients.csv", CLIENTS)
    landing(tenant_warehouse, folder)
    before = files(tenant_warehouse)
    other = Source(synonyms={"customers": {"city": ["Commune"]}}, fixed={"customers": {"email": "x@example.org"}})
    assert landing(tenant_warehouse, folder, who=tenant(other)).loaded_rows == {}
    assert files(tenant_warehouse) == before


def test_a_mapping_that_cannot_read_a_loaded_file_leaves_its_rows_and_says_so(
    tenant_warehouse: Warehouse, folder: Path
) -> None:
    drop(folder, "clients.csv", "Ref;Nom\nC1;Muller\n")
    with_spelling = tenant(Source(synonyms={"clients": {"client_code": ["Ref"]}}))
    landing(tenant_warehouse, folder, who=with_spelling)
    for _ in range(2):
        report = landing(tenant_warehouse, folder)
        assert statuses(report) == {"clients.csv": "loaded"}
        assert tenant_warehouse.rows("select client_code from raw.customers") == [("C1",)]
        reason = files(tenant_warehouse)["clients.csv"][2]
        assert reason is not None
        assert reason.startswith(
            "keeps the rows it was loaded with: by the mapping of now it lacks a column for client"
        )
    landing(tenant_warehouse, folder, who=with_spelling)
    assert files(tenant_warehouse)["clients.csv"][2] is None


def test_a_content_is_read_again_from_the_copy_that_is_left(tenant_warehouse: Warehouse, folder: Path) -> None:
    drop(folder, "clients_a.csv", NO_CITY)
    landing(tenant_warehouse, folder)
    drop(folder, "clients_b.csv", NO_CITY)
    landing(tenant_warehouse, folder)
    (folder / "clients_a.csv").unlink()
    report = landing(tenant_warehouse, folder, who=tenant(SYNONYM))
    assert statuses(report) == {"clients_b.csv": "loaded"}
    assert {path: status for path, (_, status, _) in files(tenant_warehouse).items()} == {
        "clients_a.csv": "duplicate",
        "clients_b.csv": "loaded",
    }
    assert cities(tenant_warehouse) == [(2, "Colmar"), (3, None)]


def test_a_deleted_file_keeps_what_it_was_read_with(tenant_warehouse: Warehouse, folder: Path) -> None:
    path = drop(folder, "clients.csv", NO_CITY)
    landing(tenant_warehouse, folder)
    path.unlink()
    landing(tenant_warehouse, folder, who=tenant(SYNONYM))
    assert cities(tenant_warehouse) == [(2, None), (3, None)]
    drop(folder, "clients.csv", NO_CITY)
    landing(tenant_warehouse, folder, who=tenant(SYNONYM))
    assert cities(tenant_warehouse) == [(2, "Colmar"), (3, None)], "it came back"


def test_a_crash_while_reading_again_leaves_the_old_rows(
    tenant_warehouse: Warehouse, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop(folder, "clients.csv", NO_CITY)
    landing(tenant_warehouse, folder)
    before = files(tenant_warehouse), cities(tenant_warehouse)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(raw_store._Landing, "_write", killed)
        with pytest.raises(KeyboardInterrupt):
            landing(tenant_warehouse, folder, who=tenant(SYNONYM))
    assert (files(tenant_warehouse), cities(tenant_warehouse)) == before


def test_the_whole_report_is_kept_and_a_masked_one_handed_on(tenant_warehouse: Warehouse, folder: Path) -> None:
    drop(folder, "clients.csv", CLIENTS + "C3;Weiß;Élodie;pas d'adresse\n#N/A;Klein;Jo;\n")
    report = landing(tenant_warehouse, folder)
    ((whole,),) = tenant_warehouse.rows("select report from raw.file_reports")
    assert whole["rows"] == {"count": 4, "ragged": 0, "refused": 1, "first_date": None, "last_date": None}
    assert whole["first_rows"][0]["cells"]["last_name"]["text"] == "Muller"
    assert whole["refusals"] == [{"code": "INVALID_KEY", "count": 1, "lines": [5], "fields": ["client_code"]}]
    masked = report.mapping_reports["customers"]["clients.csv"]
    assert masked == mapping_report.masked(whole)
    assert masked["first_rows"][0]["cells"]["email"]["text"] == "xxxx@xxxxxxx.xxx"
    assert not any(name in str(masked) for name in ("Muller", "Anne", "anne@", "Weiß", "Élodie", "00123"))


def test_the_ui_is_shown_a_few_masked_reports(tenant_warehouse: Warehouse, folder: Path) -> None:
    from crm_assets.defs.landing.assets import mapping_reports

    for number in range(raw_store.MAX_REPORTS + 2):
        drop(folder, f"clients_{number}.csv", CLIENTS + f"X{number};Zimmermann;Jo;jo{number}@example.org\n")
    reports = landing(tenant_warehouse, folder).mapping_reports["customers"]
    assert len(reports) == raw_store.MAX_REPORTS
    shown = mapping_reports(reports).md_str
    assert "known name “code_client”" in shown
    assert "Xxxxxx" in shown
    assert not any(name in shown for name in ("Muller", "Anne", "Zimmermann", "jo0@", "00123"))
