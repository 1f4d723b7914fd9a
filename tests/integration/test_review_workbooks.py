"""Review workbooks of a run from a real database, through the real LibreOffice, and back."""

from __future__ import annotations

import shutil
from datetime import UTC, date, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import openpyxl
import pandas as pd
import pytest
from dagster import DagsterEvent

from crm_assets import rules, tables
from crm_assets.dbt_manifest import ensure_manifest
from crm_assets.defs.common import PARTITION_TAG
from crm_assets.defs.review import workbooks
from crm_assets.logic.review import ITEM_KEY, item_reference
from crm_assets.logic.review_workbook import decision_codes, read
from crm_assets.resources.warehouse import Warehouse
from crm_assets.review_documents import write_review_workbooks
from crm_assets.reviews import ReviewError
from crm_assets.rules import BusinessRules
from crm_assets.settings import Settings
from crm_assets.tenants import TEMPLATE, Tenant
from tests.integration.test_activation import insert
from tests.lights import evaluated, metadata_of, run_for
from tests.logic.test_review_workbook import RUN, estate, found
from tests.office import OFFICE, run_macro

ensure_manifest()

from crm_assets.defs import automation  # noqa: E402

AS_OF = date(2025, 12, 31)
NOW = datetime(2025, 12, 31, 7, tzinfo=UTC)
CHECK = "workbooks_are_where_they_were_put"
RULES = rules.load()
TENANT = Tenant(slug="test", name="Domaine", legal_name="T", address="1 rue", siren="123456789", review="sample")
DBT_TABLES = """
create table curated.dim_customers (customer_id text, last_name text, first_name text, full_name text);
create table curated.dim_products (product_key text, label text, vintage integer, format_cl numeric);
create table curated.fct_orders (
    order_id text, customer_id text, order_date date, amount_ht numeric, is_qualifying boolean);
"""


def of_rows(most: int) -> BusinessRules:
    """The rules with workbooks of so many rows."""
    tenant = Tenant(**{**TENANT.model_dump(), "rules": {"review": {"workbook_rows": most}}})
    return tenant.business_rules


@pytest.fixture
def reviewed(tenant_warehouse: Warehouse) -> Warehouse:
    """A gated run: eight customers with three items each, one of them in the sample."""
    frames, warehouse = estate(), tenant_warehouse
    warehouse.execute(DBT_TABLES)
    insert(warehouse, "curated.dim_customers", frames["customers"])
    insert(warehouse, "curated.dim_products", frames["products"])
    orders = frames["orders"].drop(columns="n_orders").assign(is_qualifying=True)
    orders["order_id"] = [f"o{number:02d}" for number in range(len(orders))]
    others = orders.assign(order_id="x" + orders["order_id"], amount_ht=-1.0, is_qualifying=False)
    insert(warehouse, "curated.fct_orders", pd.concat([orders, others]))
    components = dict.fromkeys(["collaborative", "content", "popularity", "rhythm", "margin", "season"], 0.5)
    items = frames["items"].assign(run_id=RUN, probability=0.1, reasons="{}", rules_version="v", **components)
    warehouse.append(tables.items, items)
    actions = frames["actions"].assign(run_id=RUN, n_items=3, eligible=True, rules_version="v")
    warehouse.append(tables.next_actions, actions)
    findings = pd.DataFrame([found("c1", "LOW_CONFIDENCE", "WARN", "P1"), found("c3", "MISSING_EMAIL", "ERROR")])
    warehouse.append(tables.findings, findings.assign(run_id=RUN, rule_no=1, details="d"))
    warehouse.append(tables.review_samples, pd.DataFrame([{"run_id": RUN, "customer_id": "c5", "scenario": "rebuy"}]))
    decision = {"run_id": RUN, "as_of": AS_OF, "status": "open", "reasons": [], "data_quality_score": 100.0,
                "gate_export": True, "n_customers": 8, "n_permitted": 8, "n_eligible": 8, "n_errors": 0,
                "n_warnings": 0, "is_historical": False, "decided_at": NOW, "rules_version": "v"}  # fmt: skip
    warehouse.append(tables.decisions, pd.DataFrame([decision]))
    return warehouse


def decide(warehouse: Warehouse, customer: str, run_id: str = RUN) -> None:
    """The customer's first wine was rejected in a run, and that holds."""
    first = estate()["items"].query(f"customer_id == '{customer}' and rank == 1")[ITEM_KEY]
    row = first.assign(decision="reject", reviewer="cave", decided_at=NOW)
    warehouse.append(tables.review_decisions, row.assign(run_id=run_id, rating=1, comment="trop jeune", origin="row"))
    warehouse.append(tables.review_applied, row.assign(run_id=RUN, decided_run_id=run_id))


def test_a_workbook_is_made_of_what_the_database_holds(reviewed: Warehouse, tmp_path: Path) -> None:
    decide(reviewed, "c2", run_id="earlier")
    (book,) = write_review_workbooks(reviewed, TENANT, RULES, RUN, tmp_path)
    assert book.path == tmp_path / f"relecture-{RUN}.xlsx"
    assert (book.items, book.customers, book.sampled, book.is_new) == (21, 7, 1, True)
    sheet = openpyxl.load_workbook(book.path).worksheets[0]
    header, *rows = [list(row) for row in sheet.iter_rows(values_only=True)]
    shown = [dict(zip(map(str, header), row, strict=True)) for row in rows]
    assert [row["Échantillon"] for row in shown[:4]] == ["à relire"] * 3 + [None]
    by_key = {(str(row["Code client"]), row["Rang"]): row for row in shown}
    assert "003" not in {code for code, _ in by_key}
    rejected, warned = by_key["002", 1], by_key["001", 1]
    assert [rejected[name] for name in ("Décision", "Note (1-5)", "Commentaire")] == ["Rejeter", 1, "trop jeune"]
    assert warned["À vérifier"] == "Proposition trop incertaine"
    assert (warned["Client"], warned["Vin proposé"], warned["Commandes"]) == (
        "Muller Anne",
        "Riesling 2023 (75\u00a0cl)",
        3,
    )
    assert warned["Dernière commande"] == datetime(2025, 11, 12)
    assert str(warned["Trois dernières commandes (HT)"]).count("1\u202f234,50") == 3


def test_nothing_is_written_over_what_somebody_may_be_filling_in(reviewed: Warehouse, tmp_path: Path) -> None:
    (first,) = write_review_workbooks(reviewed, TENANT, RULES, RUN, tmp_path)
    (again,) = write_review_workbooks(reviewed, TENANT, RULES, RUN, tmp_path)
    assert (again.path, again.is_new) == (first.path, False)
    filled_in = first.path.read_bytes() + b"\0"
    first.path.write_bytes(filled_in)
    decide(reviewed, "c2")
    (second,) = write_review_workbooks(reviewed, TENANT, RULES, RUN, tmp_path)
    assert (second.path.name, second.is_new) == (f"relecture-{RUN}.v2.xlsx", True)
    assert first.path.read_bytes() == filled_in
    (same,) = write_review_workbooks(reviewed, TENANT, RULES, RUN, tmp_path)
    assert (same.path, same.is_new) == (second.path, False)


def test_a_long_run_is_several_workbooks_each_complete_in_itself(reviewed: Warehouse, tmp_path: Path) -> None:
    books = write_review_workbooks(reviewed, TENANT, of_rows(9), RUN, tmp_path)
    assert [(book.path.name, book.items, book.sampled) for book in books] == [
        (f"relecture-{RUN}.xlsx", 9, 1), (f"relecture-{RUN}-2.xlsx", 9, 0), (f"relecture-{RUN}-3.xlsx", 3, 0)
    ]  # fmt: skip
    sheets = [read(book.path, RULES.landing.workbook) for book in books]
    assert {sheet.run_id for sheet in sheets} == {RUN}
    items = estate()["items"].query("customer_id != 'c3'")
    assert sorted(pd.concat(sheet.rows for sheet in sheets)["reference"]) == sorted(item_reference(RUN, items))
    (only,) = write_review_workbooks(reviewed, TENANT, of_rows(9), RUN, tmp_path / "first", most=1)
    assert only.path.read_bytes() == books[0].path.read_bytes()


def test_a_run_that_never_reached_the_gate_has_no_workbook(reviewed: Warehouse, tmp_path: Path) -> None:
    with pytest.raises(ReviewError, match="f" * 16):
        write_review_workbooks(reviewed, TENANT, RULES, "f" * 16, tmp_path)
    assert not list(tmp_path.iterdir())


def materialised(
    warehouse: Warehouse, home: Path, *, with_asset: bool
) -> tuple[dict[str, Any], dg.AssetCheckEvaluation]:
    """Metadata of the asset, where it was made, and what its check says."""
    run: Any = SimpleNamespace(
        warehouse=warehouse, tenant=TENANT, rules=of_rows(9), home=home, now=NOW, as_of=AS_OF, run_id="another"
    )
    if not with_asset:
        return {}, evaluated(run, workbooks.workbooks_are_where_they_were_put)["workbooks", CHECK]
    done = run_for(run, workbooks.review_workbooks, workbooks.workbooks_are_where_they_were_put)
    (light,) = done.get_asset_check_evaluations()
    return metadata_of(done), light


def test_the_asset_writes_the_first_workbook_of_the_gate_in_force_and_its_light_sees_it(
    reviewed: Warehouse, tmp_path: Path
) -> None:
    told, light = materialised(reviewed, tmp_path, with_asset=True)
    ((path, n_items),) = reviewed.rows("select path, n_items from review.workbooks where run_id = %s", [RUN])
    assert path == f"exports/test/{RUN}/relecture-{RUN}.xlsx"
    assert told["review_workbook"] == str(tmp_path / path)
    assert (told["items"], told["customers"], told["sampled"], told["run_id"]) == (n_items, 3, 1, RUN)
    assert "Muller" not in str(told)
    assert light.passed

    (tmp_path / path).write_bytes(b"being filled in")
    _, light = materialised(reviewed, tmp_path, with_asset=False)
    assert light.passed
    assert light.metadata["being_filled_in"].value == 1
    (tmp_path / path).unlink()
    _, light = materialised(reviewed, tmp_path, with_asset=False)
    assert not light.passed
    assert light.metadata["missing"].value == path


def test_after_a_refresh_the_estates_that_ask_for_review_get_their_workbook(environment: Settings) -> None:
    environment.tenants.mkdir(parents=True, exist_ok=True)
    for slug in ("sample", "auto", "required"):
        (environment.tenants / f"{slug}.yaml").write_text(
            TEMPLATE.format(name=slug).replace("review: sample", f"review: {slug}")
        )

    def asked(slug: str) -> str | None:
        run = dg.DagsterRun(job_name="refresh", run_id="r1", tags={PARTITION_TAG: slug})
        with dg.DagsterInstance.ephemeral() as instance:
            answer = automation.review_workbook_after_refresh(
                dg.build_run_status_sensor_context(
                    "review_workbook_after_refresh", DagsterEvent("PIPELINE_SUCCESS", "refresh"), instance, run
                )
            )
        return answer.partition_key if isinstance(answer, dg.RunRequest) else None

    try:
        assert [asked(slug) for slug in ("sample", "auto", "required", "nobody")] == ["sample", None, "required", None]
    finally:
        shutil.rmtree(environment.tenants)


# What a person does: sort, filter, hide a column, decide on every other row and say why, approve a rest, delete two
# rows, save in three formats, then move the reference to the front and save once more. {…} is filled in.
AS_A_PERSON = """
Function PlaceOf(sheet, header)
  Dim place
  For place = 0 To 30
    If sheet.getCellByPosition(place, 0).String = header Then PlaceOf = place : Exit Function
  Next
  Error 5
End Function
Sub SortBy(area, place)
  Dim by(0) As New com.sun.star.table.TableSortField
  Dim how(1) As New com.sun.star.beans.PropertyValue
  by(0).Field = place : by(0).IsAscending = True
  how(0).Name = "SortFields" : how(0).Value = by()
  how(1).Name = "ContainsHeader" : how(1).Value = True
  area.sort(how())
End Sub
Sub Work
  doc = Loaded("{source}")
  sheet = doc.Sheets.getByIndex(0)
  summary = doc.Sheets.getByIndex(1)
  decision = PlaceOf(sheet, "Décision") : rating = PlaceOf(sheet, "Note (1-5)")
  comment = PlaceOf(sheet, "Commentaire") : score = PlaceOf(sheet, "Score /100")
  kind = PlaceOf(sheet, "Type de proposition") : reference = PlaceOf(sheet, "crm_ref_review")
  area = sheet.getCellRangeByPosition(0, 0, reference, {rows})

  Note "protected " & sheet.isProtected() & " " & summary.isProtected()
  Note "locked " & sheet.getCellByPosition(0, 1).CellProtection.IsLocked & " " & _
    sheet.getCellByPosition(decision, 1).CellProtection.IsLocked
  before = sheet.getCellByPosition(reference, 1).String
  SortBy(area, score)
  Note "sorted while protected " & (before <> sheet.getCellByPosition(reference, 1).String)
  filter = area.createFilterDescriptor(True)
  Dim only(0) As New com.sun.star.sheet.TableFilterField
  only(0).Field = kind : only(0).Operator = com.sun.star.sheet.FilterOperator.EQUAL
  only(0).StringValue = sheet.getCellByPosition(kind, 1).String
  filter.FilterFields = only() : filter.ContainsHeader = True
  area.filter(filter)
  hidden = 0
  For line = 1 To {rows}
    If Not sheet.Rows.getByIndex(line).IsVisible Then hidden = hidden + 1
  Next
  Note "filtered while protected " & (hidden > 0)

  sheet.unprotect("")
  Dim none()
  filter.FilterFields = none()
  area.filter(filter)
  SortBy(area, score)
  Note "sorted " & (before <> sheet.getCellByPosition(reference, 1).String)
  For line = 1 To {rows} Step 2
    value = sheet.getCellByPosition(score, line).Value
    said = "Approuver"
    If value < 70 Then said = "Plus tard"
    If value < 40 Then said = "Rejeter"
    sheet.getCellByPosition(decision, line).String = said
    sheet.getCellByPosition(rating, line).Value = 1 + (line Mod 5)
    sheet.getCellByPosition(comment, line).String = "vu, œuvre ; " & sheet.getCellByPosition(reference, line).String
  Next
  sheet.Columns.getByIndex(kind).IsVisible = False
  sheet.Rows.removeByIndex({rows} - 1, 2)
  only(0).Field = decision : only(0).StringValue = "Approuver"
  filter.FilterFields = only()
  area.filter(filter)
  For line = 0 To 30
    If summary.getCellByPosition(0, line).String = "crm_reviewer" Then
      summary.getCellByPosition(2, line).String = "Zoé Kœnig"
    End If
    If summary.getCellByPosition(0, line).String = "crm_rest_rebuy" Then
      summary.getCellByPosition(9, line).String = "oui"
    End If
  Next
  doc.calculateAll()
  SaveAs(doc, "{target}.xlsx", "Calc MS Excel 2007 XML", "")
  SaveAs(doc, "{target}.xls", "MS Excel 97", "")
  SaveAs(doc, "{target}.csv", "Text - txt - csv (StarCalc)", "59,34,ANSI,1")
  sheet.Columns.insertByIndex(0, 1)
  moved = sheet.getCellRangeByPosition(reference + 1, 0, reference + 1, {rows} - 2)
  sheet.moveRange(sheet.getCellByPosition(0, 0).CellAddress, moved.RangeAddress)
  SaveAs(doc, "{target} moved.xlsx", "Calc MS Excel 2007 XML", "")
  doc.close(True)
End Sub
"""


@pytest.mark.skipif(OFFICE is None, reason="LibreOffice is not installed")
def test_filled_in_with_the_real_office_every_decision_arrives_at_its_item(reviewed: Warehouse, tmp_path: Path) -> None:
    (book,) = write_review_workbooks(reviewed, TENANT, RULES, RUN, tmp_path)
    target, rows = tmp_path / "rendu", book.items
    notes = run_macro(
        tmp_path,
        AS_A_PERSON.replace("{source}", str(book.path)).replace("{target}", str(target)).replace("{rows}", str(rows)),
    )
    assert notes == [
        "protected True True", "locked True False", "sorted while protected False", "filtered while protected True",
        "sorted True",
    ]  # fmt: skip

    items = estate()["items"].query("customer_id != 'c3'")
    items = items.assign(reference=item_reference(RUN, items)).sort_values("score").reset_index(drop=True)
    kept = items.head(rows - 2).set_index("reference")
    decided = kept.iloc[::2]
    expected = pd.cut(decided["score"], [-1, 40, 70, 101], right=False, labels=["reject", "later", "approve"])
    assert set(expected) == {"reject", "later", "approve"}
    for name in ("rendu.xlsx", "rendu.xls", "rendu.csv", "rendu moved.xlsx"):
        sheet = read(tmp_path / name, RULES.landing.workbook)
        assert (sheet.run_id, sheet.problem) == (RUN, None), name
        is_csv = name.endswith(".csv")
        assert sheet.reviewer == ("" if is_csv else "Zoé Kœnig")
        assert sheet.approve_rest == (frozenset() if is_csv else {"rebuy"})
        back = sheet.rows.set_index("reference")
        assert set(back.index) == set(kept.index), name
        said = back[back["decision"] != ""]
        assert said["decision"].map(lambda word: decision_codes()[word.lower().replace(" ", "_")]).to_dict() == (
            expected.astype(str).to_dict()
        ), name
        assert said["comment"].to_list() == [f"vu, œuvre ; {reference}" for reference in said.index], name
        assert said["rating"].isin(list("12345")).all()
        assert (back["client_code"] == "00" + kept["customer_id"].reindex(back.index).str[1:]).all(), name
        assert (back["product_key"] == kept["product_key"].reindex(back.index)).all(), name

    # The summary has counted along.
    summary = openpyxl.load_workbook(f"{target}.xlsx", data_only=True).worksheets[1]
    shown = {row[1]: row for row in summary.iter_rows(values_only=True)}
    assert shown["Lignes sans décision"][2] == len(kept) - len(decided)
    counts = expected.value_counts()
    assert shown["Total"][6:9] == tuple(counts[code] for code in ("approve", "reject", "later"))
