"""Review workbooks come back to a real database: decisions, receipts, and the gate decided again."""

from __future__ import annotations

import csv
import dataclasses
import os
import shutil
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest
import xlsxwriter
from python_calamine import CalamineWorkbook

from crm_assets import activation, databases, gating, rendering, reviews, run_context, sending, tables
from crm_assets.campaigns import Campaign
from crm_assets.defs.activation import assets
from crm_assets.defs.common import AFTER_REFRESH, TRIGGER_TAG
from crm_assets.defs.review import receipts
from crm_assets.gating import GatedRun
from crm_assets.logic import review
from crm_assets.resources import raw_store
from crm_assets.resources.control import Control
from crm_assets.resources.warehouse import Warehouse
from crm_assets.settings import Settings
from tests.integration.test_activation import DBT_TABLES, insert
from tests.logic import estate
from tests.logic.estate import AS_OF, customer, facts, item, items, product, products

RUN, NEXT = "aaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbb"
MADE = datetime(2025, 12, 31, 6, tzinfo=UTC)
NOW = datetime(2025, 12, 31, 18, tzinfo=UTC)
WORDS = rendering.texts("en")["review_workbook"]["columns"]
HEADER = [WORDS[name] for name in ("client_code", "decision", "rating", "comment", "product_key")] + [
    "crm_ref_review",
    "crm_before",
]
MORE_TABLES = "create table curated.fct_orders (document_type text, treatment text, order_date date);"
Make = Callable[..., run_context.TenantRun]


@pytest.fixture
def make(
    tenant_warehouse: Warehouse, at_home: Callable[..., Settings], cluster: databases.Cluster, tmp_path: Path
) -> Make:
    """Opens a run of an estate whose review is `required` unless said, with four customers and two wines for each."""
    warehouse = tenant_warehouse
    warehouse.execute(DBT_TABLES + MORE_TABLES)
    insert(warehouse, "audit.customer_facts", facts(*[customer(f"c{n}") for n in range(1, 5)]))
    catalogue = products(*[product(f"p{n}", vintage=2022) for n in range(1, 10)])
    insert(warehouse, "curated.dim_products", catalogue)

    def open_run(mode: str = "required", **changes: Any) -> run_context.TenantRun:
        run = run_context.TenantRun(
            tenant=estate.tenant(review=mode, locale="en", source={"raw_url": str(tmp_path / "raw")}),
            as_of=AS_OF,
            now=NOW,
            warehouse=warehouse,
            is_historical=False,
            state_version="state",
            config=at_home(tmp_path / "home"),
            cluster=cluster,
        )
        return dataclasses.replace(run, **changes)

    propose(warehouse, RUN, AS_OF)
    gated(open_run(), RUN, AS_OF)
    (tmp_path / "raw").mkdir()
    return open_run


def propose(warehouse: Warehouse, run_id: str, as_of: date) -> None:
    """A complete run with two items for each customer, rebuy p1 and upsell p2, and its data quality."""
    listed = items(
        *[item(f"c{n}", "p1", 1, run_id=run_id) for n in range(1, 5)],
        *[item(f"c{n}", "p2", 2, run_id=run_id, scenario="upsell") for n in range(1, 5)],
    )
    components = dict.fromkeys(["collaborative", "content", "popularity", "rhythm", "margin", "season"], 0.5)
    stored = listed.assign(probability=0.1, reasons="{}", rules_version="r", **components)
    warehouse.replace_run(tables.items, stored, run_id)
    run = dict.fromkeys(("dataset_version", "state_version", "rules_version", "code_version"), "v")
    made = {"run_id": run_id, "as_of": as_of, "is_historical": False, "created_at": MADE, "completed_at": MADE}
    warehouse.append(tables.runs, pd.DataFrame([{**run, **made}]))
    quality = {"check_code": "X", "severity": "WARN", "weight": 1.0, "bad": 0.0, "total": 1.0, "tolerance": 1.0}
    warehouse.replace_run(tables.data_quality, pd.DataFrame([{"run_id": run_id, **quality, "score": 100.0}]), run_id)


def gated(run: run_context.TenantRun, run_id: str, as_of: date) -> None:
    reviews._decide_again(GatedRun(run.warehouse, run.tenant, run_id, as_of, run.now, False), True)


def workbook(
    path: Path,
    said: dict[tuple[str, str], tuple[str, ...]],
    run_id: str = RUN,
    when: datetime = NOW,
    before: dict[tuple[str, str], str] | None = None,
    header: list[str] = HEADER,
) -> Path:
    """A review workbook saved as CSV at `when`: (customer, product) -> decision, rating, comment.

    `before`: what the rows went out with, as the workbook's own column has it.
    """
    rows = [
        {"customer_id": f"c{n}", "wine_id": f"w{p}", "scenario": scenario, "code": f"CODE-c{n}", "product": f"p{p}"}
        for n in range(1, 5)
        for p, scenario in ((1, "rebuy"), (2, "upsell"))
    ]
    references = review.item_reference(run_id, pd.DataFrame(rows))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerow(header)
        for row, reference in zip(rows, references, strict=True):
            filled = (*said.get((row["customer_id"], row["product"]), ()), "", "", "")[:3]
            was = (before or {}).get((row["customer_id"], row["product"]), "")
            writer.writerow([row["code"], *filled, row["product"], reference, was][: len(header)])
    os.utime(path, (when.timestamp(), when.timestamp()))
    return path


def folder(run: run_context.TenantRun) -> Path:
    return Path(run.tenant.source.raw_url or "")


def read(run: run_context.TenantRun) -> int:
    """What the job does."""
    n_read = reviews.read_dropped(run)
    reviews.settle(run)
    return n_read


def verdicts(run: run_context.TenantRun, run_id: str = RUN) -> dict[str, str]:
    rows = run.warehouse.rows(
        "select customer_id, case when eligible then 'ok' else reason end from gate.next_actions where run_id = %s",
        [run_id],
    )
    return dict(rows)


def gate_of(run: run_context.TenantRun, run_id: str = RUN) -> tuple[str, int]:
    return run.warehouse.rows("select status, n_eligible from gate.decisions where run_id = %s", [run_id])[0]


def test_a_workbook_changes_the_gate_as_it_says(make: Make) -> None:
    run = make()
    assert set(verdicts(run).values()) == {"REVIEW_PENDING"}
    assert gate_of(run) == ("closed", 0)
    said = {
        ("c1", "p1"): ("Approve", "5", "très bien"), ("c1", "p2"): ("approuver",),
        ("c2", "p1"): ("Reject", "1"), ("c2", "p2"): ("Approve",),
        ("c3", "p1"): ("Reject",), ("c3", "p2"): ("Ablehnen",),
        ("c4", "p1"): ("Approve",), ("c4", "p2"): ("Later",),
    }  # fmt: skip
    workbook(folder(run) / "isavigne" / "clients" / "clients du 3 mai.csv", said)
    assert read(run) == 1
    assert verdicts(run) == {"c1": "ok", "c2": "ok", "c3": "NO_RECOMMENDATION", "c4": "REVIEW_PENDING"}
    assert gate_of(run) == ("open", 2)
    listed = gating.listed_items(run.warehouse, RUN, ["customer_id", "product_key", "rank"])
    assert listed[listed["customer_id"] == "c2"].to_numpy().tolist() == [["c2", "p2", 1]], "ranks close up"
    assert run.warehouse.count("recommendations", "items") == 8, "what the engine made stays"
    audited = run.warehouse.rows("select first_rule from audit.scores where run_id = %s and customer_id = 'c3'", [RUN])
    assert audited == [("NO_RECOMMENDATION",)]
    (kept,) = run.warehouse.rows(
        "select decision, rating, comment, reviewer, decided_at, origin from review.decisions"
        " where customer_id = 'c1' and wine_id = 'w1'"
    )
    assert kept == ("approve", 5, "très bien", "", NOW, "row")


def test_a_receipt_says_row_by_row_what_was_taken(make: Make) -> None:
    run = make()
    said = {
        ("c1", "p1"): ("Approve",), ("c1", "p2"): ("maybe",), ("c2", "p1"): ("", "4"),
        ("c2", "p2"): ("Approve / Reject",), ("c3", "p1"): ("Reject", "1", "=1+1"),
    }  # fmt: skip
    path = workbook(folder(run) / "back.csv", said)
    path.write_text(path.read_text(encoding="utf-8-sig").replace("CODE-c3", "CODE-c4"), encoding="utf-8")
    read(run)
    lines = run.warehouse.rows("select source_line, outcome, customer_id from review.receipt_lines order by 1")
    assert lines == [
        (2, "TAKEN", "c1"), (3, "UNKNOWN_VALUE", "c1"), (4, "NO_DECISION", "c2"), (5, "CONFLICT", "c2"),
        (6, "EDITED_KEY", None),
    ]  # fmt: skip
    ((path_of, status, taken, refused, blank, document),) = run.warehouse.rows(
        "select path, status, n_taken, n_refused, n_blank, document from review.receipts"
    )
    assert (path_of, status, taken, refused, blank) == ("back.csv", "read", 1, 4, 3)
    rows = CalamineWorkbook.from_path(run.home / document).get_sheet_by_index(0).to_python()
    words = rendering.texts("en")["receipt"]
    told = {row[0]: row[8] for row in rows if isinstance(row[0], float)}
    assert told == {line: words["outcomes"][outcome] for line, outcome, _ in lines}
    assert [row[0] for row in rows if isinstance(row[0], float)] == [3, 4, 5, 6, 2], "first what is to be done"
    assert any("review to be done (4)" in str(cell) for row in rows for cell in row)


def test_the_same_content_is_read_once_and_asks_for_no_landing(make: Make) -> None:
    run = make()
    first = workbook(folder(run) / "back.csv", {("c1", "p1"): ("Approve",)})
    assert read(run) == 1
    shutil.copy2(first, folder(run) / "copy of back.csv")
    assert read(run) == 0
    assert run.warehouse.count("review", "receipts") == 1
    ledger = run.warehouse.rows("select path, status, dataset from raw.files order by path")
    assert ledger == [("back.csv", "review", None), ("copy of back.csv", "review", None)]
    assert set(raw_store.read_ledger(run.warehouse)) == {"back.csv", "copy of back.csv"}
    assert raw_store.noted_reviews(run.warehouse) == {"back.csv": True, "copy of back.csv": True}


@pytest.mark.parametrize(("days", "status"), [(7, "read"), (8, "STALE_RUN")])
def test_a_workbook_is_taken_as_long_as_plans_of_its_run_live_whatever_newer_run_there_is(
    make: Make, days: int, status: str
) -> None:
    later = AS_OF + timedelta(days=days)
    run = make(as_of=later, now=NOW + timedelta(days=days))
    propose(run.warehouse, NEXT, later)
    gated(run, NEXT, later)
    workbook(folder(run) / "back.csv", {("c1", "p1"): ("Approve",), ("c1", "p2"): ("Approve",)})
    read(run)
    assert run.warehouse.rows("select status, run_id from review.receipts") == [(status, RUN)]
    taken = status == "read"
    assert run.warehouse.count("review", "decisions") == (2 if taken else 0)
    # It speaks of the same wines to the same customer: the newer run, in force, hears of it.
    assert verdicts(run, RUN)["c1"] == ("ok" if taken else "REVIEW_PENDING")
    assert verdicts(run, NEXT)["c1"] == ("ok" if taken else "REVIEW_PENDING")
    assert reviews.run_to_review(run.warehouse) == (NEXT, later), "an older run does not come into force again"


def test_a_workbook_of_no_run_of_ours(make: Make) -> None:
    run = make()
    workbook(folder(run) / "other.csv", {("c1", "p1"): ("Approve",)}, run_id="c" * 16)
    read(run)
    assert run.warehouse.rows("select status, run_id, document is null from review.receipts") == [
        ("UNKNOWN_RUN", None, False)
    ]
    assert run.warehouse.rows("select outcome from review.receipt_lines") == [("UNKNOWN_RUN",)]


def test_two_workbooks_end_the_same_in_either_order(make: Make) -> None:
    run = make()
    books = {
        "old.csv": ({("c1", "p1"): ("Approve",), ("c2", "p1"): ("Reject",)}, NOW - timedelta(hours=3)),
        "new.csv": ({("c1", "p1"): ("Reject",), ("c3", "p1"): ("Approve", "4")}, NOW - timedelta(hours=1)),
    }
    ends = []
    for order in (list(books), list(books)[::-1]):
        for name in ("decisions", "applied_decisions", "receipts", "receipt_lines"):
            run.warehouse.execute(f"delete from review.{name}")
        for name in order:
            workbook(folder(run) / name, books[name][0], when=books[name][1])
            read(run)
            (folder(run) / name).unlink()
        ends.append(
            (
                run.warehouse.rows("select * from review.decisions order by customer_id, wine_id"),
                run.warehouse.rows("select * from gate.next_actions order by customer_id"),
            )
        )
    assert ends[0] == ends[1]
    outcomes = run.warehouse.rows("select outcome, count(*) from review.receipt_lines group by 1 order by 1")
    assert outcomes == [("OVERTAKEN", 1), ("TAKEN", 3)]


def test_a_stale_copy_overrides_no_newer_decision(make: Make) -> None:
    run = make()
    key = ("c1", "p1")
    first = workbook(folder(run) / "z.csv", {key: ("Approve",)}, when=NOW - timedelta(hours=5))
    # Both lie there when they are read: what was saved first is read first, whatever the names.
    workbook(folder(run) / "a.csv", {key: ("Reject",), ("c2", "p1"): ("Approve",)}, when=NOW - timedelta(hours=4))
    assert read(run) == 2
    rejected = (("c1", "w1", "reject"), ("c2", "w1", "approve"))
    held = "select customer_id, wine_id, decision from review.applied_decisions order by 1, 2"
    assert tuple(run.warehouse.rows(held)) == rejected
    # The same copy with one row more, but the reviewer of z.csv is the one of a.csv here: nobody. So it is new there.
    run.warehouse.execute("update review.receipts set reviewer = 'Luc' where path = 'a.csv'")
    workbook(first, {key: ("Approve",), ("c3", "p1"): ("Approve",)}, when=NOW - timedelta(hours=3))
    # A copy of before the rejection, in which only a word was added; and one that lost what it went out with.
    stale = {key: "approve-ec972bf7"}
    workbook(folder(run) / "b.csv", {key: ("Approve", "", "a word")}, when=NOW - timedelta(hours=2), before=stale)
    workbook(folder(run) / "c.csv", {key: ("Approve", "5")}, when=NOW - timedelta(hours=1), header=HEADER[:-1])
    assert read(run) == 3
    assert tuple(run.warehouse.rows(held)) == (*rejected, ("c3", "w1", "approve"))
    told = "select outcome, count(*) from review.receipt_lines where customer_id = 'c1' group by 1 order by 1"
    assert run.warehouse.rows(told) == [("OVERTAKEN", 3), ("TAKEN", 2)]
    # A copy that shows the rejection, and an approval all the same: a new word.
    workbook(folder(run) / "d.csv", {key: ("Approve",)}, before={key: "reject-bb8e09cc"})
    assert read(run) == 1
    assert run.warehouse.rows(held)[0] == ("c1", "w1", "approve")


def test_a_decision_is_as_old_as_its_file_within_the_runs_life(make: Make) -> None:
    run = make()
    for name, when in (("early.csv", MADE - timedelta(days=9)), ("late.csv", NOW + timedelta(days=9))):
        who = "c1" if name == "early.csv" else "c2"
        workbook(folder(run) / name, {(who, "p1"): ("Approve",)}, when=when)
    assert read(run) == 2
    assert run.warehouse.rows("select decided_at from review.decisions order by customer_id") == [(MADE,), (NOW,)]


def test_what_a_crash_left_open_is_finished_the_next_time(make: Make) -> None:
    run = make("auto")
    workbook(folder(run) / "back.csv", {("c1", "p1"): ("Reject",), ("c1", "p2"): ("Reject",)})
    assert reviews.read_dropped(run) == 1  # and then the process is killed
    assert verdicts(run)["c1"] == "REVIEW_PENDING"
    assert reviews.read_dropped(run) == 0
    assert reviews.settle(run) == [RUN]
    assert verdicts(run)["c1"] == "NO_RECOMMENDATION"
    assert reviews.settle(run) == []


def test_a_sample_is_pinned_and_opens_the_gate(make: Make) -> None:
    run = make("sample")
    run.warehouse.execute("update audit.customer_facts set is_bounced = true where customer_id = 'c4'")
    gated(run, RUN, AS_OF)
    sampled = "select customer_id from review.samples order by 1"
    assert run.warehouse.rows(sampled) == [("c1",), ("c2",), ("c3",)]
    # Who comes free later is none of the sample; who is lost stays in it.
    run.warehouse.execute("update audit.customer_facts set is_bounced = customer_id = 'c3'")
    said = {(c, p): ("Approve",) for c in ("c1", "c2", "c3") for p in ("p1", "p2")}
    workbook(folder(run) / "most.csv", dict(list(said.items())[:-1]), when=NOW - timedelta(minutes=2))
    read(run)
    assert run.warehouse.rows(sampled) == [("c1",), ("c2",), ("c3",)]
    assert verdicts(run) == {"c1": "REVIEW_PENDING", "c2": "REVIEW_PENDING", "c3": "BOUNCED", "c4": "REVIEW_PENDING"}
    assert reviews.waiting(run.warehouse) == 1
    workbook(folder(run) / "all.csv", said, when=NOW - timedelta(minutes=1))
    read(run)
    assert verdicts(run) == {"c1": "ok", "c2": "ok", "c3": "BOUNCED", "c4": "ok"}
    told = reviews.status(run.warehouse, run.tenant)
    assert (told["sample"]["customers"], told["sample"]["decided"], told["eligible"]) == (3, 3, 3)
    # One of three is far above 5 %: who was approved item by item may go, nobody else.
    workbook(folder(run) / "no.csv", {("c3", "p1"): ("Reject",)}, when=NOW)
    read(run)
    assert verdicts(run)["c4"] == "REVIEW_FAILED"
    assert verdicts(run)["c1"] == "ok"


def summary_workbook(path: Path, rest: str) -> Path:
    """A workbook with a summary that approves the rest of a scenario, nothing filled in but one row."""
    rows = list(
        csv.reader(
            workbook(path.with_suffix(".csv"), {("c1", "p2"): ("Reject",)}).open(encoding="utf-8-sig"), delimiter=";"
        )
    )
    path.with_suffix(".csv").unlink()
    with xlsxwriter.Workbook(path) as book:
        first, second = book.add_worksheet("Review"), book.add_worksheet("Summary")
        for line, row in enumerate(rows):
            first.write_row(line, 0, row)
        asked = rendering.texts("en")["review_workbook"]["summary"]["columns"]["rest"]
        for line, row in enumerate(
            [["crm_run", "Run", RUN], ["crm_reviewer", "Reviewed by", "Luc"], ["crm_rest", "Kind", asked],
             ["crm_rest_rebuy", "Restock", "no"], ["crm_rest_upsell", "A step up", rest]]
        ):  # fmt: skip
            second.write_row(line, 0, row)
    os.utime(path, (NOW.timestamp(), NOW.timestamp()))
    return path


def test_the_rest_of_a_scenario_is_approved_by_its_workbook_and_by_command(make: Make) -> None:
    run = make()
    summary_workbook(folder(run) / "back.xlsx", "yes")
    read(run)
    rows = run.warehouse.rows("select customer_id, decision, origin, reviewer from review.decisions order by 1")
    assert rows == [("c1", "reject", "row", "Luc"), *[(f"c{n}", "approve", "rest", "Luc") for n in (2, 3, 4)]]
    assert run.warehouse.rows("select n_taken, n_blank, n_approved_rest from review.receipts") == [(1, 7, 3)]
    assert gate_of(run) == ("closed", 0)
    told = reviews.approve_rest(run, "rebuy", None, "Anne")
    assert (told["approved_rest"], told["eligible"]) == (4, 4)
    assert gate_of(run) == ("open", 4)
    with pytest.raises(reviews.ReviewError, match="'winback'"):
        reviews.approve_rest(run, "winback", None, "Anne")
    with pytest.raises(reviews.ReviewError, match="could be reviewed until 2026-01-07"):
        reviews.approve_rest(make(as_of=AS_OF + timedelta(days=8)), "rebuy", None, "Anne")


def test_an_answer_about_the_rest_that_is_none_is_told(make: Make) -> None:
    run = make()
    summary_workbook(folder(run) / "back.xlsx", "perhaps")
    read(run)
    assert run.warehouse.rows("select unclear_rest, n_approved_rest from review.receipts") == [(["upsell"], 0)]


def test_a_rejection_since_the_plan_is_held_back_at_the_send(make: Make, tmp_path: Path) -> None:
    run = make("auto")
    gated(run, RUN, AS_OF)
    people = [f"c{n}" for n in range(1, 5)]
    insert(run.warehouse, "rfm.customer_rfm", pd.DataFrame({"customer_id": people, "segment": "Champions"}))
    insert(run.warehouse, "curated.dim_customers", pd.DataFrame({"customer_id": people, "profiling_objected": False}))
    spring = Campaign.model_validate({"name": "spring", "kind": "reco", "subject": {"en": "Our selection"}})
    rules = run.tenant.business_rules
    assert activation.plan_campaign(run.warehouse, run.tenant, spring, rules, AS_OF, NOW).planned == 4
    # The plan pins RUN: a newer run is in force by now, and a workbook of that one says the same wine is wrong.
    propose(run.warehouse, NEXT, AS_OF)
    gated(dataclasses.replace(run, now=NOW + timedelta(minutes=1)), NEXT, AS_OF)
    workbook(folder(run) / "back.csv", {("c1", "p2"): ("Reject",), ("c2", "p1"): ("Later",)}, run_id=NEXT)
    assert reviews.read_dropped(run) == 1  # killed before the gate is decided again
    campaigns = tmp_path / "tenants" / "demo" / "campaigns"
    campaigns.mkdir(parents=True)
    (campaigns / "spring.yaml").write_text("kind: reco\nsubject: {en: Our selection}\n")
    run.config = run.config.model_copy(update={"tenants": tmp_path / "tenants"})
    sent = sending.send_campaign(sending.sending_of(run, "spring"))
    assert sent.held_back == {"REVIEW_PENDING": 1, "REVIEW_REJECTED": 1}
    assert sent.messages == 2


def test_no_recommendation_is_planned_by_itself_while_customers_wait_for_review(make: Make, tmp_path: Path) -> None:
    folder_of_campaigns = tmp_path / "tenants" / "demo" / "campaigns"
    folder_of_campaigns.mkdir(parents=True)
    (folder_of_campaigns / "spring.yaml").write_text("kind: reco\nsubject: {en: Our selection}\n")
    run = make(tags={TRIGGER_TAG: AFTER_REFRESH})
    run.config = run.config.model_copy(update={"tenants": tmp_path / "tenants"})
    people = [f"c{n}" for n in range(1, 5)]
    insert(run.warehouse, "rfm.customer_rfm", pd.DataFrame({"customer_id": people, "segment": "Champions"}))
    insert(run.warehouse, "curated.dim_customers", pd.DataFrame({"customer_id": people, "profiling_objected": False}))

    def planned(by: run_context.TenantRun) -> int:
        with dg.build_asset_context() as context:
            list(assets.plan_campaign(context, assets.PlanConfig(campaign=""), by))
        return run.warehouse.count("activation", "messages")

    said = {(c, p): ("Approve",) for c in people[:3] for p in ("p1", "p2")}
    workbook(folder(run) / "half.csv", said)
    read(run)
    assert gate_of(run) == ("open", 3)
    assert planned(run) == 0
    # Put off is an answer: it is not waited for.
    workbook(folder(run) / "rest.csv", {("c4", "p1"): ("Later",), ("c4", "p2"): ("Approve",)})
    read(run)
    assert reviews.waiting(run.warehouse) == 0
    assert planned(run) == 3


def test_the_folder_has_landed_only_where_nothing_but_workbooks_is_new(make: Make) -> None:
    run = make()
    control = Control(run.config)
    exports = {"ventes.csv": "1"}
    control.looked({run.tenant.slug: "x"})
    dataclasses.replace(run, drop_files=exports).mark_refreshed()
    refreshed = control.drops()[run.tenant.slug]
    assert refreshed.landed_fingerprint == refreshed.exports_fingerprint
    workbook(folder(run) / "back.csv", {("c1", "p1"): ("Approve",)})
    assert read(run) == 1
    # A sales file that arrived meanwhile must still cause a refresh.
    dataclasses.replace(run, drop_files={**exports, "back.csv": "2", "more.csv": "3"}).mark_reviews_read()
    assert control.drops()[run.tenant.slug] == refreshed
    dataclasses.replace(run, drop_files={**exports, "back.csv": "2"}).mark_reviews_read()
    landed = control.drops()[run.tenant.slug]
    assert landed.landed_fingerprint != refreshed.landed_fingerprint
    assert landed.exports_fingerprint == refreshed.exports_fingerprint
    # A refresh that landed a workbook and could not read it leaves the folder due.
    run.warehouse.execute("delete from review.receipts")
    dataclasses.replace(run, drop_files={**exports, "back.csv": "2"}).mark_refreshed()
    assert control.drops()[run.tenant.slug] == refreshed


def test_a_workbook_that_lies_elsewhere_is_read_by_command(make: Make, tmp_path: Path) -> None:
    run = make()
    path = workbook(tmp_path / "elsewhere.csv", {("c1", "p1"): ("Approve",), ("c1", "p2"): ("Approve",)})
    told = reviews.import_file(run, path, "Anne")
    assert (told["is_new"], told["n_taken"], told["outcomes"]) == (True, 2, {"TAKEN": 2})
    assert verdicts(run)["c1"] == "ok"
    assert run.warehouse.rows("select distinct reviewer, file_id is null from review.decisions") == [("Anne", False)]
    assert reviews.import_file(run, path, "Luc")["is_new"] is False
    (tmp_path / "other.csv").write_text("Code client;Nom\nC1;Haas\n")
    with pytest.raises(reviews.ReviewError, match="no review workbook"):
        reviews.import_file(run, tmp_path / "other.csv")
    with pytest.raises(reviews.ReviewError, match="reviews are of the present"):
        reviews.import_file(make(is_historical=True), path)


def test_a_workbook_that_cannot_be_opened_any_more_stops_no_other(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make()
    closed = workbook(folder(run) / "a.csv", {("c1", "p1"): ("Approve",)})
    assert read(run) == 1
    workbook(folder(run) / "b.csv", {("c2", "p1"): ("Approve",)})
    opened = Path.read_bytes

    def refuse(path: Path) -> bytes:
        if path.name == closed.name:
            raise PermissionError(13, "Permission denied")
        return opened(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert read(run) == 1


def test_a_folder_out_of_reach_stops_no_refresh(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(run: run_context.TenantRun) -> int:
        raise run_context.DropZoneError("sftp: no answer")

    run = make()
    monkeypatch.setattr(reviews, "read_dropped", unreachable)
    with dg.build_asset_context(partition_key="demo") as context:
        results = list(receipts.read_workbooks(context, run))
    assert [str(result.asset_key) for result in results if isinstance(result, dg.MaterializeResult)] == [
        str(dg.AssetKey(["review", name])) for name in ("decisions", "receipts", "receipt_lines")
    ]
