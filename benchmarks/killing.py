"""A live send that is killed again and again: nobody twice, nobody lost (`./crm bench --cases kill --rounds N`).

Each round is a fresh tenant database with a planned campaign, a stand-in of Brevo with a virtual clock in one of its
three idempotency modes, and a programme of violence drawn from the round's number: faults of the calls, SIGKILL of the
sender at chosen and at random moments, SIGKILL of PostgreSQL. The sender, a process of its own without Dagster, is
started again until it is done. Then the stand-in's record of what it accepted is held against who was to be written
to, and against the ledger.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from benchmarks import sending_estate
from brevo_standin.clock import StandInClock
from brevo_standin.mail import IdempotencyMode
from brevo_standin.server import in_thread
from brevo_standin.standin import StandIn
from brevo_standin.times import VIRTUAL_START
from brevo_standin.transport import StandInTransport
from brevo_standin.wire import Request
from crm_assets import activation, databases, local, sending
from crm_assets.campaigns import Campaign
from crm_assets.logic.activation import RefusalError
from crm_assets.resources import brevo
from crm_assets.resources.warehouse import Warehouse
from crm_assets.settings import Settings, settings
from crm_assets.tenants import Tenant

KEY = "xkeysib-standin-kill-bench"
NOW = VIRTUAL_START
AS_OF = date(NOW.year, NOW.month, NOW.day)
CAMPAIGN = Campaign.model_validate(
    {"name": "spring", "kind": "reco", "subject": {"fr": "Notre sélection"}, "template": "brevo:selection"}
)
SEED: dict[str, Any] = {
    "senders": [sending_estate.SENDER],
    "templates": [{"id": sending_estate.TEMPLATE_ID, "subject": "Bonjour", "html": sending_estate.TEMPLATE}],
}
MODES: tuple[IdempotencyMode, ...] = ("body", "http", "none")
FAULTS = (
    *("error_after", "reset_after", "close_after", "hang_after", "truncated", "garbled"),
    *("error_before", "reset_before", "close_before", "hang_before", "throttle", "unauthorized", "no_credit"),
)
# When the sender is killed: `frozen`: once its call is in the ledger; `arrived`, `accepted`: once the stand-in has got
# or accepted it, before the answer; `answered`: with the answer; `lookup`: while it asks for the log; `any`: after a
# random time.
MOMENTS = ("frozen", "arrived", "accepted", "answered", "lookup", "any")
_ROUND_SECONDS = 180


def rules(chunk: int) -> dict[str, Any]:
    """Small calls, and an answer that is not waited for for long: a hang is a hang after half a second too."""
    api_seconds = {"connect": 2, "read": 0.5, "write": 2, "pool": 2, "total": 3}
    return {"activation": {"chunk_max_messages": chunk}, "brevo": {"api_seconds": api_seconds}}


def plan(
    warehouse: Warehouse, tenant: Tenant, campaign: Campaign, as_of: date = AS_OF, now: datetime = NOW
) -> activation.PlanSummary:
    """Plan with the product's own code; the template is read from a stand-in within the process."""
    standin = StandIn(mode="none", key=KEY, start=NOW)
    standin.seed(**SEED)
    config = settings().model_copy(update={"brevo_url": "http://127.0.0.1:9/v3"})
    clock = StandInClock("http://127.0.0.1:9", transport=StandInTransport(standin))
    client = brevo.client(tenant, config, clock, mode="read", transport=StandInTransport(standin))
    return activation.plan_campaign(warehouse, tenant, campaign, tenant.business_rules, as_of, now, client=client)


# --- the sender, in a process of its own


def resume(url: str, standin: str, home: str, chunk: int) -> None:
    """Send until there is nothing to wait for; the exit code says how it ended: 3 is a refusal, 1 an error."""
    there = settings().model_copy(update={"live": True, "brevo_url": f"{standin}/v3"})
    # The estate's own half of what binds a live instance is the round's, the server and its control database are not.
    config = there.model_copy(update={"home": Path(home), "data": Path(home) / "data"})
    warehouse, tenant, clock = Warehouse(url), sending_estate.tenant(rules=rules(chunk)), StandInClock(standin)

    def connect(tenant: Any, _: Settings, clock: Any, *, mode: Any) -> brevo.Brevo:
        return brevo.client(tenant, there, clock, mode=mode)

    with contextlib.redirect_stderr(open(Path(home) / "sender.log", "a")):
        try:
            plan_hash = warehouse.rows("select plan_hash from activation.campaigns")[0][0]
            run = sending.Sending(
                warehouse, tenant, CAMPAIGN, config, clock, confirmed_hash=plan_hash, by="the bench", connect=connect
            )
            while (done := sending.send_campaign(run)).wait_until is not None:
                print(done.sentence(), file=sys.stderr, flush=True)
                clock.sleep(max((done.wait_until - clock.now()).total_seconds(), 1))
        except RefusalError as refusal:
            print(refusal, file=sys.stderr, flush=True)
            sys.exit(3)
        except Exception as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            sys.exit(1)


# --- a round


@dataclass
class Tally:
    """What happened over all rounds."""

    rounds: int = 0
    sends: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    database_kills: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    messages: int = 0
    duplicates: int = 0
    losses: int = 0
    strangers: int = 0
    ledger_differences: int = 0
    unfinished: int = 0
    seconds: float = 0.0

    @property
    def is_clean(self) -> bool:
        return not (self.duplicates or self.losses or self.strangers or self.ledger_differences or self.unfinished)

    def as_dict(self) -> dict[str, Any]:
        said = {**self.__dict__, "kills": sum(self.kills.values()), "kills_by_moment": dict(sorted(self.kills.items()))}
        return {**said, "faults": sum(self.faults.values()), "faults_by_kind": dict(sorted(self.faults.items()))}


@dataclass(frozen=True)
class Size:
    """How large a round is: messages planned for, messages a call, and at most so many faults and kills."""

    customers: int = 5000
    chunk: int = 500
    faults: int = 4
    kills: int = 4
    database_kill_share: float = 0.4


class Bench:
    """The server, the template database and the rounds."""

    def __init__(self, cluster: databases.Cluster, prefix: str, home: Path, size: Size) -> None:
        self.cluster, self.prefix, self.home, self.size = cluster, prefix, home, size
        self.role = cluster.role("kill")
        self.tally = Tally()
        # Processes are forked from one that has imported everything and holds no connection.
        self.processes = multiprocessing.get_context("forkserver")
        self.processes.set_forkserver_preload(["benchmarks.killing", "crm_assets.sending", "crm_assets.feedback"])

    @property
    def _admin(self) -> psycopg.Connection:
        return psycopg.connect(self.cluster.admin_url, autocommit=True)

    def prepare(self) -> None:
        """The template: an estate, planned by the product's own code, its test accepted."""
        url = databases.ensure_tenant(self.cluster, "kill")
        databases.ensure_control(self.cluster)
        warehouse, tenant = Warehouse(url), sending_estate.tenant(rules=rules(self.size.chunk))
        sending_estate.build(warehouse, tenant, self.size.customers, AS_OF, NOW)
        plan(warehouse, tenant, CAMPAIGN)
        sending_estate.accept_test(warehouse, CAMPAIGN.name, NOW)

    @contextlib.contextmanager
    def _database(self, number: int) -> Iterator[str]:
        name = f"{self.prefix}kill{number}"
        with self._admin as admin:
            parts = (sql.Identifier(name), sql.Identifier(self.role), sql.Identifier(self.role))
            admin.execute(sql.SQL("create database {} template {} owner {}").format(*parts))
        try:
            yield self.cluster.url(self.role, database=name)
        finally:
            with self._admin as admin:
                admin.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))

    def run(self, number: int) -> None:
        """One round; its programme follows from its number."""
        chance = random.Random(number)
        home = self.home / f"round{number}"
        (home / "data" / "demo" / "raw").mkdir(parents=True)
        standin = StandIn(mode=MODES[number % len(MODES)], key=KEY, start=NOW, seed=number)
        standin.seed(**SEED)
        began = time.monotonic()
        with self._database(number) as url, in_thread(standin) as root:
            Round(self, chance, standin, root, url, home).play()
        self.tally.rounds += 1
        self.tally.seconds += time.monotonic() - began
        shutil.rmtree(home, ignore_errors=True)

    def kill_database(self, *, whole: bool) -> None:
        """SIGKILL the server with all its processes, and start it again; or one backend, of which it recovers."""
        server = json.loads((local._folder(self.cluster.config) / "server.json").read_text())
        (postmaster,) = _children(server["owner_pid"])
        children = _children(postmaster)
        victims = [postmaster, *children] if whole else children[-1:]
        for pid in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.tally.database_kills += 1
        deadline = time.monotonic() + 300  # it replays its log first
        while time.monotonic() < deadline:
            try:
                if whole:
                    local.ensure_server(self.cluster.config)
                with psycopg.connect(self.cluster.admin_url, connect_timeout=5) as admin:
                    admin.execute("select 1")
                return
            except (psycopg.Error, local.ServerError):
                time.sleep(0.1)
        raise RuntimeError("PostgreSQL did not come back")


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class Round:
    """One send, however often it is interrupted."""

    def __init__(self, bench: Bench, chance: random.Random, standin: StandIn, root: str, url: str, home: Path) -> None:
        self.bench, self.chance, self.standin, self.root, self.url, self.home = bench, chance, standin, root, url, home
        self.warehouse = Warehouse(url)
        self.process: Any = None
        self.due: str | None = None  # the moment at which the sender is to be killed next
        self.calls_until_due = 0
        standin_handle = standin.handle

        def handle(request: Any) -> Any:
            is_send = request.method == "POST" and request.path == "/v3/smtp/email"
            is_lookup = request.path == "/v3/smtp/statistics/events"
            if is_send and self.due in ("arrived", "accepted", "answered"):
                self.calls_until_due -= 1
            is_due = self.calls_until_due <= 0
            if (is_send and is_due and self.due == "arrived") or (is_lookup and self.due == "lookup"):
                self.kill()
            reply = standin_handle(request)
            if is_send and is_due and self.due == "accepted":
                self.kill()
            elif is_send and is_due and self.due == "answered":
                threading.Timer(self.chance.uniform(0, 0.02), self.kill).start()
            return reply

        standin.handle = handle  # type: ignore[method-assign]

    def kill(self) -> None:
        """SIGKILL the sender, once."""
        moment, self.due = self.due, None
        if moment is not None and self.process is not None and self.process.is_alive():
            os.kill(self.process.pid, signal.SIGKILL)
            self.bench.tally.kills[moment] += 1

    def barred(self) -> set[str]:
        """Between plan and send: who unsubscribes, is blocked at Brevo, or bounces."""
        addresses = sorted(a for (a,) in self.warehouse.rows("select address from activation.messages"))
        picked = self.chance.sample(addresses, max(6, len(addresses) // 100))
        third = len(picked) // 3
        self.standin.seed(
            blocked=[{"email": address, "code": "unsubscribedViaEmail"} for address in picked[:third]],
        )
        self.warehouse.execute(
            "update audit.customer_facts set is_refused = true where email = any(%s)", [picked[third : 2 * third]]
        )
        self.warehouse.execute(
            "insert into outcomes.events (event_key, address, event, occurred_at, channel)"
            " select 'bounce ' || address, address, 'hard_bounce', %s, 'email' from unnest(%s::text[]) as address",
            [NOW, picked[2 * third :]],
        )
        return set(picked)

    def play(self) -> None:
        size, chance = self.bench.size, self.chance
        planned = {
            a for (a,) in self.warehouse.rows("select address from activation.messages where status = 'planned'")
        }
        expected = planned - self.barred()
        n_calls = len(planned) // size.chunk + 3
        faults = [
            {
                "do": chance.choice(FAULTS), "method": "POST", "path": "/smtp/email", "nth": nth,
                "seconds": chance.choice([0.05, 1.0]),
            }
            for nth in chance.sample(range(1, n_calls + 2), min(chance.randint(1, size.faults), n_calls))
        ]  # fmt: skip
        self.standin.handle(_control("faults", faults))
        self.standin.handle(_control("log_lag", {"seconds": chance.choice([0, 60, 300, 900])}))
        kills = [chance.choice(MOMENTS) for _ in range(chance.randint(1, size.kills))]
        database = chance.choice(["whole", "backend"]) if chance.random() < size.database_kill_share else None
        deadline = time.monotonic() + _ROUND_SECONDS
        while time.monotonic() < deadline:
            self.due = kills.pop() if kills else None
            self.calls_until_due = chance.randint(1, max(2, n_calls // 2))
            arguments = (self.url, self.root, str(self.home), size.chunk)
            self.process = self.bench.processes.Process(target=resume, args=arguments)
            self.process.start()
            self.bench.tally.sends += 1
            self._torment()
            if database is not None and chance.random() < 0.5:
                self.process.join(chance.uniform(0.2, 1.5))
                self.bench.kill_database(whole=database == "whole")
                database = None
            self.process.join(max(deadline - time.monotonic(), 1))
            if self.process.exitcode is None:
                break
            if self.process.exitcode == 0 and not kills:
                break
            if self.process.exitcode == 1:
                time.sleep(0.2)  # the server is coming back
        self._judge(expected, self.process.exitcode == 0)
        for rule in self.standin.faults:
            self.bench.tally.faults.update(rule.do if rule.struck else [])

    def _torment(self) -> None:
        """Kill at moments that the stand-in does not see."""
        if self.due == "any":
            self.process.join(self.chance.uniform(0, 1.5))
            self.kill()
        elif self.due == "frozen":
            nth = self.warehouse.rows("select count(*) from activation.attempts")[0][0] + self.chance.randint(1, 3)
            until = time.monotonic() + 10
            with contextlib.suppress(psycopg.Error), psycopg.connect(self.url, autocommit=True) as connection:
                while self.process.is_alive() and time.monotonic() < until:
                    row = connection.execute("select count(*) from activation.attempts").fetchone()
                    if row and row[0] >= nth:
                        self.kill()
                        return

    def _judge(self, expected: set[str], is_done: bool) -> None:
        tally = self.bench.tally
        accepted = [(row["tag"], row["address"]) for row in self._accepted()]
        times = Counter(address for _, address in accepted)
        statuses = dict(self.warehouse.rows("select status, count(*) from activation.messages group by status"))
        ledger = self.warehouse.rows("select tag, address from activation.messages where status = 'sent'")
        tally.messages += len(accepted)
        tally.duplicates += sum(count - 1 for count in times.values())
        tally.losses += len(expected - set(times))
        tally.strangers += len(set(times) - expected)
        tally.ledger_differences += len(set(ledger) ^ set(accepted))
        pending = sum(statuses.get(status, 0) for status in ("planned", "sending", "unknown", "failed"))
        if pending or not is_done:
            tally.unfinished += 1
        if not tally.is_clean:
            log = (self.home / "sender.log").read_text()[-3000:]
            raise AssertionError(f"{tally.as_dict()}\n{statuses}\n{log}")

    def _accepted(self) -> list[dict[str, Any]]:
        reply = self.standin.handle(_control("accepted?fields=tag,address", method="GET"))
        found: list[dict[str, Any]] = json.loads(reply.body)["accepted"]
        return found


def _control(what: str, content: Any = None, method: str = "POST") -> Request:
    body = b"" if method == "GET" else json.dumps(content).encode()
    return Request.of(method, f"/standin/{what}", body, {"content-type": "application/json"})


def main() -> int:
    """Play rounds and print what happened; 1 when anybody was written to twice, or not at all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="number of the first round")
    parser.add_argument("--customers", type=int, default=Size.customers)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="crmkill-"))
    home.chmod(0o755)
    os.environ |= {
        "CRM_HOME": str(home / "var"), "CRM_DATA": str(home / "data"), "CRM_BREVO_KEY": KEY, "CRM_SECRET": "of a bench"
    }  # fmt: skip
    os.environ.pop("CRM_DATABASE_URL", None)
    settings.cache_clear()
    cluster = databases.cluster(settings())
    began = time.monotonic()
    try:
        bench = Bench(cluster, "crmkill_", home, Size(customers=args.customers))
        bench.prepare()
        for number in range(args.first, args.first + args.rounds):
            bench.run(number)
            if (number - args.first + 1) % 10 == 0:
                print(f"{number - args.first + 1} rounds: {bench.tally.as_dict()}", file=sys.stderr, flush=True)
        found = {**bench.tally.as_dict(), "seconds": round(time.monotonic() - began)}
        print(json.dumps(found, indent=2))
        if args.out:
            args.out.write_text(json.dumps(found))
        return 0 if bench.tally.is_clean else 1
    finally:
        local.stop_server(settings())
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
