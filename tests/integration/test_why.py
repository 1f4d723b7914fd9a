"""What is read of one customer, by any of its codes, from a real database; and the job that answers in the UI."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pandas as pd
import pytest

from benchmarks.sending_estate import DBT_TABLES, insert
from crm_assets import activation, tables, why
from crm_assets.campaigns import CampaignFiles, folder
from crm_assets.defs import explain
from crm_assets.logic import audit, gate
from crm_assets.resources.warehouse import Warehouse
from tests.logic import estate
from tests.logic.estate import AS_OF, ago, customer, facts, item, items, product, products

NOW = datetime(2025, 12, 31, 7, tzinfo=UTC)
TENANT = estate.tenant()
RULES = TENANT.business_rules
SECRETS = ("Jeanne", "Muller", "+33612345678", "7 rue du Paradis", "Turckheim", "jeanne.muller@example.com")

# What dbt builds beside the tables of activation, with the columns that are read, personal ones included.
MORE_TABLES = """
alter table curated.dim_customers add client_code text, add last_name text, add email text;
alter table rfm.customer_rfm add rfm_code text, add recency_days integer, add frequency bigint, add monetary numeric,
    add profiling_objected boolean;
create table staging.stg_customers (
    file_id text, file_rank bigint, source_line bigint, file_date date, client_code text, customer_id text,
    last_name text, first_name text, email text, raw_phone text, address text, city text);
create table curated.fct_sales_lines (
    customer_id text, file_id text, source_line bigint, sale_date date, document_no text, document_type text,
    product_key text, quantity numeric, amount_ht numeric, is_counted boolean);
create table curated.fct_orders (
    order_id text, customer_id text, order_date date, document_no text, document_type text, lines bigint,
    amount_ht numeric, is_qualifying boolean, is_credit_note boolean);
create table curated.quarantined_rows (
    file_id text, dataset text, source_line bigint, codes text[], row jsonb, resolved_by text);
create table curated.contact_events (
    contact_id text, address text, customer_id text, contact_date date, channel text, status text, campaign_id text,
    file_id text, source_line bigint);
create table curated.addresses (address text, contact_customer_id text);
"""


def _gated(warehouse: Warehouse, people: pd.DataFrame, run_id: str, historical: bool = False) -> None:
    """A run with one item for everybody, audited and gated as the assets do it."""
    listed = items(*[item(c) for c in people["customer_id"]])
    result = audit.audit(listed, people, products(), estate.bought(), estate.sent(), TENANT, RULES, AS_OF)
    nobody = pd.Series(dtype="object")
    actions = gate.next_actions(people, result.permissions, result.scores, listed, nobody, RULES)
    breaker = audit.Breaker(100.0, False, ())
    decision = gate.decide(actions, result.scores, breaker, 0, historical, AS_OF, NOW, RULES)
    components = dict.fromkeys(["collaborative", "content", "popularity", "rhythm", "margin", "season"], 0.5)
    stored = listed.assign(probability=0.1, reasons="{}", rules_version=RULES.version, **components)
    for table, frame in (
        (tables.items, stored),
        (tables.findings, result.findings),
        (tables.next_actions, actions),
        (tables.decisions, decision),
    ):
        warehouse.replace_run(table, frame.assign(run_id=run_id), run_id)


@pytest.fixture
def warehouse(tenant_warehouse: Warehouse) -> Warehouse:
    """c1 with two codes, planned; c2 contacted nine days ago; c3 of another run only by then."""
    tenant_warehouse.execute(DBT_TABLES)
    tenant_warehouse.execute(MORE_TABLES)
    people = facts(
        customer("c1", email=SECRETS[5], client_code="00123"),
        customer("c2", last_contact_date=ago(9), client_code="C2"),
        customer("c3", client_code="C3"),
    )
    insert(tenant_warehouse, "audit.customer_facts", people)
    insert(tenant_warehouse, "curated.dim_products", products(*[product(f"p{n}", vintage=2022) for n in (1, 2)]))
    everybody = people[["customer_id", "client_code", "email"]].assign(profiling_objected=False, last_name=SECRETS[1])
    insert(tenant_warehouse, "curated.dim_customers", everybody)
    insert(
        tenant_warehouse,
        "rfm.customer_rfm",
        people[["customer_id"]].assign(segment="Champions", rfm_code="555", profiling_objected=False),
    )
    xref = [("00123", "c1", "code"), ("OLD-7", "c1", "email"), ("C2", "c2", "code"), ("C3", "c3", "code")]
    xref.append(("NEW-1", "c9", "code"))
    tenant_warehouse.append(
        tables.customer_xref, pd.DataFrame(xref, columns=["client_code", "customer_id", "matched_by"])
    )
    seen = {"size_bytes": 1, "modified_at": NOW, "first_seen_at": NOW}
    files = [("copy.csv", "s1", "f1", "duplicate"), ("ventes/v.csv", "s1", "f1", "loaded")]
    files.append(("clients/c.csv", "s2", "f2", "loaded"))
    ledger = pd.DataFrame(files, columns=["path", "sha256", "file_id", "status"]).assign(**seen)
    tenant_warehouse.append(tables.raw_files, ledger)
    card = {"first_name": SECRETS[0], "last_name": SECRETS[1], "raw_phone": SECRETS[2], "address": SECRETS[3]}
    card |= {"city": SECRETS[4], "email": SECRETS[5], "customer_id": "c1", "file_id": "f2", "file_rank": 1}
    cards = pd.DataFrame([{**card, "client_code": code, "source_line": n} for n, code in ((2, "00123"), (9, "OLD-7"))])
    insert(tenant_warehouse, "staging.stg_customers", cards)
    lines = pd.DataFrame(
        [("c1", "f1", n, ago(100 + n), f"F{n}", "FACTURE", "p1", 6, 60, True) for n in (2, 3, 4)],
        columns=[
            *("customer_id", "file_id", "source_line", "sale_date", "document_no", "document_type", "product_key"),
            *("quantity", "amount_ht", "is_counted"),
        ],
    )
    insert(tenant_warehouse, "curated.fct_sales_lines", lines)
    tenant_warehouse.execute(
        "insert into curated.quarantined_rows values"
        " ('f1', 'sales_lines', 7, '{INVALID_DATE}', '{\"client_code\": \" old-7\"}', null),"
        " ('f2', 'customers', 8, '{RAGGED_ROW}', '{\"client_code\": \"X-99\"}', null)"
    )
    tenant_warehouse.execute(
        "insert into curated.contact_events values"
        " ('k1', %s, 'c1', '2025-10-01', 'email', 'contact', 'AUTOMNE', 'f2', 3)",
        [SECRETS[5]],
    )
    _gated(tenant_warehouse, people[people["customer_id"] != "c3"], "run")
    _gated(tenant_warehouse, people, "past", historical=True)
    return tenant_warehouse


@pytest.fixture
def tenants_folder(tmp_path: Path) -> Path:
    """The estate's folder with one weekly campaign."""
    files = folder(tmp_path, TENANT.slug)
    files.mkdir(parents=True)
    (files / "weekly.yaml").write_text("kind: reco\noccurrence: weekly\nsubject: {fr: Notre sélection}\n", "utf-8")
    return tmp_path


def test_any_code_of_a_customer_leads_to_the_same_answer(warehouse: Warehouse, tenants_folder: Path) -> None:
    campaign = CampaignFiles(tenants_folder, TENANT).get("weekly")
    activation.plan_campaign(warehouse, TENANT, campaign, RULES, AS_OF, NOW)
    by_code = {}
    for code in ("00123", " 00123 ", "old-7", "c1"):
        by_code[code] = why.logic.answer(why.known_of(warehouse, TENANT, tenants_folder, code))
    assert {answer.sentence for answer in by_code.values()} == {"Planned in weekly 2026-W01, batch 1; not sent yet"}
    assert {(answer.customer_id, answer.client_code) for answer in by_code.values()} == {("c1", "00123")}
    found = by_code["old-7"].as_dict()
    assert found["notes"]["customer"] == "OLD-7 is another code of customer 00123, merged by the same e-mail address."
    sections = found["sections"]
    assert [row["line"] for row in sections["cards_in_client_files"]] == [2, 9]
    assert sections["sales_lines_by_file"] == [{"file": "ventes/v.csv", "lines": 3, "first": 2, "last": 4}]
    assert sections["last_sales_lines"][0]["file:line"] == "ventes/v.csv:2"
    assert [row["file:line"] for row in sections["refused_rows"]] == ["ventes/v.csv:7"]
    assert sections["contacts_of_the_address"][0]["file:line"] == "clients/c.csv:3"
    assert [row["product"] for row in sections["recommended_items"]] == ["p1"]
    assert {row["code"] for row in sections["permission"]} == set(audit.PERMISSION_REASONS)
    told = " ".join([by_code["old-7"].as_text(), by_code["old-7"].as_markdown(), json.dumps(found)])
    assert [secret for secret in SECRETS if secret.lower() in told.lower()] == []


def test_purchases_and_refused_calls_are_named(warehouse: Warehouse, tenants_folder: Path) -> None:
    warehouse.execute(
        "create table rfm.purchases (customer_id text, wine_id text, sale_date date);"
        "insert into rfm.purchases values ('c1', 'w1', '2025-12-01');"
        "alter table curated.dim_customers add column if not exists status text, add column if not exists phone text,"
        " add column if not exists phone_opt_out boolean, add column if not exists post_opt_out boolean,"
        " add column if not exists address text, add column if not exists postal_code text,"
        " add column if not exists city text;"
        "update curated.dim_customers set phone = '+33388000001' where customer_id in ('c1', 'c2');"
        "update curated.dim_customers set phone_opt_out = true where customer_id = 'c2'"
    )
    (files := folder(tenants_folder, TENANT.slug)).joinpath("weekly.yaml").unlink()

    def answer(content: str) -> str:
        (files / "spring.yaml").write_text(f"kind: reco\nsubject: {{fr: Notre sélection}}\n{content}", "utf-8")
        return why.logic.answer(why.known_of(warehouse, TENANT, tenants_folder, "00123")).sentence

    assert "(not_bought: has bought" in answer("audience: {not_bought: {wines: [w1]}}")
    assert "(bought: none of" in answer("audience: {bought: {wines: [w1], days: 10}}")
    assert "has not been planned" in answer("audience: {bought: {wines: [p1]}, not_bought: {wines: [w2]}}")
    assert "PHONE_OPT_OUT: calls to this number are refused" in answer("channel: phone"), "C2 has the same number"
    assert "NO_POSTAL_ADDRESS" in answer("channel: post")


def test_a_reason_a_run_of_the_past_and_a_customer_who_was_not_there(
    warehouse: Warehouse, tenants_folder: Path
) -> None:
    def answer(code: str, run: str | None = None) -> str:
        return why.logic.answer(why.known_of(warehouse, TENANT, tenants_folder, code, run)).sentence

    assert answer("C2").startswith("No message: SILENCE_WINDOW: last contact 9 days ago; silence lasts 14 days")
    assert answer("C3").startswith("No message: the customer was not known when the run was made")
    assert answer("C2", "past").startswith("No message: the gate is closed: HISTORICAL; besides, SILENCE_WINDOW: last")
    assert answer("00123").startswith(
        "No message yet: the customer may be written to, but campaign weekly has not been"
    )
    with pytest.raises(why.UnknownError, match="no run 'nope' of demo has reached the gate"):
        answer("C2", "nope")


def test_who_is_not_there(warehouse: Warehouse, tenants_folder: Path) -> None:
    def said(code: str) -> str:
        with pytest.raises(why.UnknownError) as unknown:
            why.known_of(warehouse, TENANT, tenants_folder, code)
        return str(unknown.value)

    assert "no customer of demo has the code '0123'" in said("0123")
    assert "Codes like it: 00123." in said("0123")
    assert "refused rows do (1 of customers)" in said("x-99")
    assert "crm quarantine --tenant demo" in said("x-99")
    assert "customer NEW-1 has landed since the last refresh: `./crm run --tenant demo`" in said("new-1")
    assert "A client code is needed" in said("  ")
    for secret in ("jeanne.muller@example.com", "Jeanne Muller", "Muller", "7 rue du Paradis"):
        assert secret not in said(secret)


def test_an_estate_without_a_run_has_no_curated_tables_either(
    tenant_warehouse: Warehouse, tenants_folder: Path
) -> None:
    with pytest.raises(why.UnknownError, match="demo has no run yet"):
        why.known_of(tenant_warehouse, TENANT, tenants_folder, "C2")


def test_the_job_answers_in_its_log_and_on_the_next_actions(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    answer = why.logic.Answer("No message: BOUNCED", "BOUNCED", "demo", "run", "c1", "00123", [])

    def of_customer(config: Any, slug: str, code: str, run_id: str | None) -> Any:
        asked.append((slug, code, run_id))
        if code == "nobody":
            raise why.UnknownError("no customer of demo has that code")
        return answer

    monkeypatch.setattr(explain, "why", SimpleNamespace(of_customer=of_customer, UnknownError=why.UnknownError))
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("tenant", ["demo"])
        for code in ("00123", "nobody"):
            done = explain.explain_customer_job.execute_in_process(
                run_config={"ops": {"why": {"config": {"customer": code}}}}, partition_key="demo", instance=instance
            )
            assert done.success
        assert explain.explain_customer_job.execute_in_process(instance=instance).success  # no estate chosen
        (record,) = instance.fetch_observations(explain.NEXT_ACTIONS, limit=9).records
    seen = record.asset_observation
    assert seen is not None
    assert (seen.partition, seen.description) == ("demo", "No message: BOUNCED")
    assert str(seen.metadata["grounds"].value).startswith("## No message: BOUNCED")
    assert asked == [("demo", "00123", None), ("demo", "nobody", None)]
