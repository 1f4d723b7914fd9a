"""Contacts and lists handed over to Brevo's stand-in: what changed and nothing else, and never anybody who refused."""

from __future__ import annotations

import json
import re
from datetime import UTC, date, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pandas as pd
import pytest

from benchmarks import sending_estate
from crm_assets import contacts, databases, feedback
from crm_assets.contacts import ContactsSummary
from crm_assets.dbt_manifest import ensure_manifest
from crm_assets.logic.activation import RefusalError
from crm_assets.logic.contacts import ATTRIBUTES
from crm_assets.resources import brevo
from crm_assets.resources.warehouse import Warehouse
from crm_assets.settings import ROOT, settings
from crm_assets.tenants import Tenant
from tests import standin as standins

DAY = date(2026, 3, 10)
NOW = datetime(2026, 3, 10, 9, tzinfo=UTC)
BREVO = {"live": True, "sender_email": standins.SENDER, "reply_to": standins.SENDER}


class World:
    """An estate of eight customers, and its account at Brevo."""

    def __init__(self, warehouse: Warehouse, home: Path) -> None:
        self.warehouse = warehouse
        self.standin = standins.in_process()
        assert self.standin.standin is not None
        self.there = self.standin.standin.contacts
        # Where an instance keeps its half; the client takes its pace from the control database of the session.
        self.config = settings().model_copy(update={"live": True, "home": home})
        self.client_config = settings().model_copy(update={"live": True, "brevo_url": "http://127.0.0.1/v3"})
        self.tenant = self.estate()
        sending_estate.build(warehouse, self.tenant, 8, DAY, NOW)
        warehouse.execute("alter table curated.dim_customers add column first_name text, add column last_name text")
        warehouse.execute("update curated.dim_customers set first_name = 'Zoé', last_name = 'Müller ' || customer_id")
        warehouse.execute(
            "insert into customers.clusters select customer_id, 'private', 'private_1', 'frequent, recent'"
            " from curated.dim_customers"
        )
        warehouse.execute(
            "insert into customers.predictions select customer_id, 0.4567, 1, 100, 0.9, false, 71.4, 'method'"
            " from curated.dim_customers"
        )

    def estate(self, **rules: Any) -> Tenant:
        return sending_estate.tenant(brevo=BREVO, rules={"brevo": rules} if rules else {})

    def client(self, mode: brevo.Mode = "live") -> brevo.Brevo:
        clock, transport = self.standin.clock, self.standin.transport
        return brevo.client(self.tenant, self.client_config, clock, mode=mode, transport=transport)

    def sync(self, mode: brevo.Mode = "live") -> ContactsSummary:
        run: Any = SimpleNamespace(
            warehouse=self.warehouse, tenant=self.tenant, rules=self.tenant.business_rules, config=self.config,
            as_of=DAY, is_historical=False,
        )  # fmt: skip
        return contacts.sync(run, self.client(mode), self.standin.clock)

    def written(self, path: str) -> list[dict[str, Any]]:
        """Calls that changed something there, since the last look."""
        calls = [call for call in self.standin.control.requests(path) if call["method"] == "POST"]
        return [call for call in calls if call["path"] == f"/v3{path}"]

    def members(self) -> dict[str, set[str]]:
        return {
            each.name: {str(contact.email).split("@")[0] for contact in self.there.members(each.id)}
            for each in self.there.lists.values()
        }

    def kept(self, customer: str) -> dict[str, Any]:
        found = self.there.find("email", f"{customer}@example.com")
        assert found is not None
        return found.attributes

    def rows(self) -> list[tuple[Any, ...]]:
        return self.warehouse.rows("select address, row_hash, list_ids from activation.contacts order by 1")


@pytest.fixture
def world(
    cluster: databases.Cluster, tenant_warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> World:
    monkeypatch.setenv("CRM_BREVO_KEY", standins.KEY)
    Warehouse(databases.ensure_control(cluster)).execute("delete from brevo.buckets")
    return World(tenant_warehouse, tmp_path)


EVERYBODY = {f"c0000{n}" for n in range(1, 9)}


def test_what_changed_is_handed_over_once(world: World) -> None:
    standin = world.standin.standin
    assert standin is not None
    honesty = standins.Honesty() if standins.DESCRIPTION.is_file() else None
    if honesty is not None:
        standin.on_answer = honesty
    first = world.sync()
    assert first.problem is None
    assert (first.handed_over, first.changed, first.accepted, first.failed) == (8, 8, 8, 0)
    assert (first.attributes_created, first.lists_created, first.added) == (len(ATTRIBUTES), 3, 24)
    assert world.members() == dict.fromkeys(
        ["[demo] Clients", "[demo] Segment\u00a0: Champions", "[demo] Recommandation\u00a0: Réassort"], EVERYBODY
    )
    kinds = {name: world.there.attributes[name]["type"] for name in ATTRIBUTES}
    assert kinds == ATTRIBUTES
    assert world.kept("c00001") == {
        "CRM_CODE": "c00001", "CRM_FIRST_NAME": "Zoé", "CRM_LAST_NAME": "Müller c00001", "CRM_SEGMENT": "Champions",
        "CRM_CLUSTER": "frequent, recent", "CRM_LEAD_SCORE": 71.0, "CRM_ORDER_PROBABILITY": 0.46,
        "CRM_TOP_WINE": "Riesling 1", "CRM_LAST_ORDER": "2025-11-30",
    }  # fmt: skip
    before = world.rows()
    assert all(row_hash and len(list_ids) == 3 for _, row_hash, list_ids in before)

    n_calls = len(world.standin.control.requests())
    again = world.sync()
    assert (again.changed, again.added, again.removed, again.problem) == (0, 0, 0, None)
    assert {call["method"] for call in world.standin.control.requests()[n_calls:]} == {"GET"}
    assert world.rows() == before

    world.warehouse.execute("update rfm.customer_rfm set segment = 'At Risk' where customer_id = 'c00003'")
    world.warehouse.execute("delete from customers.predictions where customer_id = 'c00003'")
    third = world.sync()
    assert (third.changed, third.accepted, third.added, third.removed, third.failed) == (1, 1, 1, 1, 0)
    assert len(world.written("/contacts")) == 9
    assert world.kept("c00003")["CRM_SEGMENT"] == "At Risk"
    assert "CRM_LEAD_SCORE" not in world.kept("c00003")  # what is not known any more is not shown any more
    assert world.members()["[demo] Segment\u00a0: En sommeil"] == {"c00003"}
    assert world.members()["[demo] Segment\u00a0: Champions"] == EVERYBODY - {"c00003"}
    attempted = dict(world.warehouse.rows("select outcome, count(*) from activation.attempts group by 1"))
    assert attempted == {"accepted": sum(call["method"] == "POST" for call in world.standin.control.requests())}
    if honesty is not None:
        assert honesty.problems == []
        assert {"POST /contacts", "POST /contacts/lists", "GET /contacts/{identifier}"} <= honesty.compared.keys()


def test_whoever_refused_is_never_handed_over_and_stays_refused(world: World) -> None:
    world.standin.control.seed(
        contacts=[{"email": "c00001@example.com", "emailBlacklisted": True}],
        blocked=[
            {"email": "c00002@example.com", "code": "unsubscribedViaEmail"},
            {"email": "c00003@example.com", "code": "hardBounce"},
        ],
    )
    world.warehouse.execute("update audit.customer_facts set is_refused = true where customer_id = 'c00004'")
    world.warehouse.execute("update gate.next_actions set permitted = false where customer_id = 'c00005'")
    left = {"c00006", "c00007", "c00008"}
    assert world.sync().handed_over == 3
    assert all(members == left for members in world.members().values())
    assert len(world.written("/contacts")) == 3
    assert world.there.find("email", "c00002@example.com") is None
    assert world.kept("c00001") == {}

    # Somebody who is in our lists says no to Brevo; somebody puts a person who refused into a list of ours by hand.
    clients = next(each.id for each in world.there.lists.values() if each.name == "[demo] Clients")
    person = world.there.find("email", "c00006@example.com")
    refused = world.there.find("email", "c00001@example.com")
    assert person is not None
    assert refused is not None
    world.there.blacklist(person, True)
    refused.lists.append(clients)
    world.standin.control.advance(7200)
    second = world.sync()
    assert (second.handed_over, second.refused, second.problem) == (2, 2, None)
    assert all(members == {"c00007", "c00008"} for members in world.members().values())
    assert len(world.written("/contacts")) == 3
    assert person.email_blacklisted
    assert refused.email_blacklisted
    assert world.there.unblocked == []
    assert standin_blocks(world) == {"c00002@example.com", "c00003@example.com"}
    assert not [call for call in world.standin.control.requests() if call["method"] in ("DELETE", "PUT", "PATCH")]


def standin_blocks(world: World) -> set[str]:
    assert world.standin.standin is not None
    return {email for _, email in world.standin.standin.account.blocks}


def test_a_large_first_load_is_imported_and_those_left_out_come_next_time(world: World) -> None:
    world.tenant = world.estate(contacts={"import_from_rows": 3, "import_max_bytes": 900})
    # An address that our reading takes and Brevo's import does not.
    change = "update audit.customer_facts set email = %s where customer_id = 'c00005'"
    world.warehouse.execute(change, ["c00005@exa(mple.com"])
    first = world.sync()
    assert first.problem is None
    assert (first.changed, first.accepted, first.failed) == (8, 7, 1)
    imports = world.written("/contacts/import")
    assert len(imports) > 1
    assert all(call["n_bytes"] <= 900 for call in imports)
    assert len(world.written("/contacts")) == 1  # the one that is read back
    assert world.members()["[demo] Clients"] == EVERYBODY - {"c00005"}
    assert world.kept("c00008")["CRM_LEAD_SCORE"] == 71.0
    world.warehouse.execute(change, ["c00005@example.com"])
    second = world.sync()
    assert (second.changed, second.accepted) == (1, 1)
    assert world.members()["[demo] Clients"] == EVERYBODY


def test_who_refuses_while_an_import_is_waited_for_is_in_no_later_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.tenant = world.estate(contacts={"import_from_rows": 3, "import_max_bytes": 900})
    sleep = world.standin.clock.sleep

    def meanwhile(seconds: float) -> None:
        if seconds > 30:  # a process at Brevo is waited for: a webhook is kept
            with world.warehouse.transaction() as connection:
                said = pd.DataFrame({"address": ["c00008@example.com"], "is_unsubscribed": [True], "refused_at": [NOW]})
                feedback.keep_refusals(connection, said, NOW)
        sleep(seconds)

    monkeypatch.setattr(world.standin.clock, "sleep", meanwhile)
    assert world.sync().accepted == 7
    assert world.there.find("email", "c00008@example.com") is None
    assert all("c00008" not in members for members in world.members().values())


def test_attributes_that_brevo_would_drop_stop_everything(world: World) -> None:
    world.standin.control.seed(attributes=[{"name": "CRM_LEAD_SCORE", "type": "text"}])
    done = world.sync()
    assert done.problem is not None
    assert "CRM_LEAD_SCORE" in done.problem
    assert (done.accepted, world.written("/contacts")) == (0, [])
    assert all(members == set() for members in world.members().values())


def test_what_brevo_dropped_all_the_same_is_seen_and_nothing_is_taken_for_handed_over(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contacts.rules_of, "attributes_of_another_type", lambda _: [])
    world.standin.control.seed(attributes=[{"name": "CRM_LEAD_SCORE", "type": "text"}])
    done = world.sync()
    assert done.problem is not None
    assert "CRM_LEAD_SCORE" in done.problem
    assert (done.accepted, len(world.written("/contacts"))) == (0, 1)
    assert not [address for address, row_hash, _ in world.rows() if row_hash]


def test_a_call_that_failed_is_made_up_for_by_the_next_sync(world: World) -> None:
    world.standin.control.faults(
        {"do": "error_after", "path": "/contacts/lists", "method": "POST", "nth": 1},  # made, and nobody was told
        {"do": "error_before", "path": "/contacts", "address": "c00004@example.com", "nth": 1},
    )
    first = world.sync()
    assert first.problem is not None
    assert first.lists_created == 0
    second = world.sync()
    assert (second.problem, second.lists_created, second.accepted, second.failed) == (None, 2, 7, 1)
    assert len(world.there.lists) == 3  # the one that was made is found by its name
    third = world.sync()
    assert (third.changed, third.accepted, third.added) == (1, 1, 3)
    assert all(members == EVERYBODY for members in world.members().values())


def test_a_refused_key_ends_the_sync_with_what_to_do(world: World) -> None:
    world.standin.control.faults({"do": "unauthorized", "path": "/contacts", "method": "POST", "first": 15})
    done = world.sync()
    assert done.problem is not None
    assert "CRM_BREVO_KEY" in done.problem
    world.standin.control.faults()
    assert world.sync().problem is None
    assert all(members == EVERYBODY for members in world.members().values())


def test_behind_a_closed_gate_nobody_is_handed_over_and_refusals_are_followed(world: World) -> None:
    world.sync()
    person = world.there.find("email", "c00006@example.com")
    assert person is not None
    world.there.blacklist(person, True)
    world.warehouse.execute("update gate.decisions set status = 'closed', reasons = '{CIRCUIT_BREAKER}'")
    world.warehouse.execute("update rfm.customer_rfm set segment = 'At Risk'")
    world.standin.control.advance(7200)
    n_written = len(world.written("/contacts"))
    with pytest.raises(RefusalError, match="CIRCUIT_BREAKER"):
        world.sync()
    assert len(world.written("/contacts")) == n_written
    assert all(members == EVERYBODY - {"c00006"} for members in world.members().values())
    with_off = BREVO | {"sync_contacts": False}
    world.tenant = sending_estate.tenant(brevo=with_off)
    with pytest.raises(RefusalError, match="sync_contacts"):
        world.sync()


def test_a_dry_run_says_what_would_change_and_asks_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CRM_BREVO_KEY")
    first = world.sync("dry")
    assert first == ContactsSummary(dry_run=True, handed_over=8, changed=8, added=24, lists_created=3)
    recorded = world.warehouse.rows("select * from activation.attempts order by 1")
    assert world.sync("dry") == first
    again = world.warehouse.rows("select attempt_id, is_dry_run, outcome from activation.attempts order by 1")
    assert [row[0] for row in recorded] == [row[0] for row in again]
    assert {row[1:] for row in again} == {(True, "dry_run")}
    assert world.rows() == []
    assert world.standin.control.requests() == []
    assert world.warehouse.rows("select count(*) from activation.payloads") == [(0,)]


def test_no_code_can_lift_a_refusal() -> None:
    """Neither by a call that deletes a block or changes a contact's refusal, nor by a value for one."""
    surface = {name for name in vars(brevo.Brevo) if not name.startswith("_")}
    assert surface == {
        "attributes", "blocked_contacts", "close", "contact", "contacts", "email_campaigns", "events",
        "export_recipients", "exported", "folders", "is_dry_run", "list_contacts", "lists", "process", "send_email",
        "template", "write",
    }  # fmt: skip
    for path in sorted((ROOT / "crm_assets").rglob("*.py")):
        text = path.read_text("utf-8")
        if path.name not in ("brevo_requests.py", "brevo_rows.py"):
            assert not re.search(r"[\"']emailBlacklist(ed)?[\"']", text), path
        if "brevo" in path.name or path.name in ("wire.py", "contacts.py", "feedback.py"):
            assert not re.search(r"[\"'](DELETE|PUT|PATCH)[\"']", text), path
    answers = json.dumps(sorted(vars(contacts)))
    assert "unblock" not in answers


@pytest.mark.parametrize(
    ("live", "sync", "allowed", "is_asked"),
    [(True, True, True, True), (False, True, True, False), (True, False, True, False), (True, True, False, False)],
)
def test_after_the_days_news_contacts_follow_live_only_where_it_is_allowed(
    live: bool, sync: bool, allowed: bool, is_asked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensure_manifest()
    from crm_assets.defs import automation
    from crm_assets.defs.activation.contacts import ContactsConfig

    said = {"name": "Demo", "legal_name": "EARL Demo", "address": "1 rue", "siren": "123456789"}
    said_to_brevo = {"live": live, "sync_contacts": sync}
    (tmp_path / "demo.yaml").write_text(json.dumps({**said, "brevo": said_to_brevo}))
    config = settings().model_copy(update={"tenants": tmp_path, "live": allowed})
    monkeypatch.setattr(automation, "settings", lambda: config)
    run = dg.DagsterRun(job_name="pull_feedback", tags={"dagster/partition": "demo"})
    event = dg.DagsterEvent(event_type_value="PIPELINE_SUCCESS", job_name="pull_feedback")
    with dg.DagsterInstance.ephemeral() as instance:
        context = dg.build_run_status_sensor_context("contacts_after_feedback", event, instance, run)
        found: Any = automation.contacts_after_feedback(context)
    assert isinstance(found, dg.RunRequest) == is_asked
    if is_asked:
        ((op, asked),) = found.run_config["ops"].items()
        assert op == "activation__contact_lists"
        assert ContactsConfig(**asked["config"]).live
    assert not ContactsConfig().live
