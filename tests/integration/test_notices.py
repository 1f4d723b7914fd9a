"""Outgoing webhooks against a real database and a real TLS server: queued once, signed, tried again, given up,
refused.
"""

from __future__ import annotations

import datetime as dt
import http.server
import ipaddress
import json
import logging
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import psycopg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydantic import SecretStr
from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError

from crm_assets import notices
from crm_assets.defs.customers.assets import write_predictions
from crm_assets.logic.notices import Happening
from crm_assets.notices import DeliveryError, Door
from crm_assets.resources.warehouse import Warehouse
from crm_assets.settings import ROOT
from crm_assets.tenants import Registry, Tenant
from tests.clock import StillClock

SECRET = "whsec_" + "c2VjcmV0" * 4
HOST = "hooks.example.test"


def at_the_second() -> StillClock:
    """A clock that stands at this second."""
    return StillClock(datetime.now(UTC).replace(microsecond=0))


@dataclass
class Receiver:
    """A receiver on a real port: what it got, and what it answers."""

    port: int
    context: ssl.SSLContext  # trusts its certificate
    got: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)  # then 204
    resolved: list[str] = field(default_factory=list)

    def url(self, path: str = "/in/path-secret?token=query-secret") -> str:
        return f"https://{HOST}:{self.port}{path}"

    def door(self, **different: Any) -> Door:
        """A door whose name server knows this receiver, and which lets loopback pass."""

        def resolve(host: str, port: int) -> list[str]:
            self.resolved.append(host)
            return ["127.0.0.1"]

        return Door(
            **{"resolve": resolve, "is_allowed": lambda _: True, "ports": None, "context": self.context} | different
        )


def _certificate(folder: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(
            name, name, key.public_key(), x509.random_serial_number(), now, now + dt.timedelta(days=1)
        )
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate, secret = folder / "cert.pem", folder / "key.pem"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate, secret


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return _certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def receiver(certificate: tuple[Path, Path]) -> Iterator[Receiver]:
    made: Receiver

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            made.got.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
            status = made.answers.pop(0) if made.answers else 204
            if status == 103:
                self.wfile.write(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
                status = 200
            self.send_response(status)
            if status == 302:
                self.send_header("Location", made.url("/elsewhere"))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*map(str, certificate))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    made = Receiver(server.server_address[1], ssl.create_default_context(cafile=str(certificate[0])))
    thread = threading.Thread(target=lambda: server.serve_forever(0.01), daemon=True)
    thread.start()
    yield made
    server.shutdown()
    server.server_close()


def estate(*urls: str, events: tuple[str, ...] = ("run.finished", "gate.closed", "campaign.sent")) -> Tenant:
    endpoints = [{"url": url, "secret_variable": "CRM_TEST_HOOK", "events": list(events)} for url in urls]
    demo = Registry(ROOT / "tenants").get("demo")
    return Tenant.model_validate(demo.model_dump() | {"webhooks": endpoints})


def queue(warehouse: Warehouse, tenant: Tenant, now: datetime, *subjects: str) -> int:
    happened = [Happening("run.finished", subject, now, {"run_id": subject}) for subject in subjects]
    with warehouse.transaction() as connection:
        return notices.queue(connection, tenant, happened, now)


def secret_of(_: str) -> SecretStr:
    return SecretStr(SECRET)


def states(warehouse: Warehouse) -> list[tuple[Any, ...]]:
    return warehouse.rows(
        "select status, tries, last_status, last_problem from activation.notices order by tries desc, notice_id"
    )


def test_a_notice_is_signed_and_delivered_once(tenant_warehouse: Warehouse, receiver: Receiver) -> None:
    tenant, clock = estate(receiver.url()), at_the_second()
    assert queue(tenant_warehouse, tenant, clock.now(), "r1") == 1
    assert queue(tenant_warehouse, tenant, clock.now() + timedelta(hours=1), "r1") == 0
    receiver.answers = [103]
    done = notices.deliver(tenant_warehouse, tenant, clock, door=receiver.door(), secret_of=secret_of)
    assert (done.delivered, done.tried, done.hosts_taken) == (1, 1, {f"{HOST}:{receiver.port}"})
    ((path, headers, body),) = receiver.got
    assert path == "/in/path-secret?token=query-secret"
    assert headers["host"] == f"{HOST}:{receiver.port}"
    told = Webhook(SECRET).verify(body, headers)
    assert (told["type"], told["data"]) == ("run.finished", {"tenant": "demo", "run_id": "r1"})
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(body.replace(b"r1", b"r2"), headers)
    assert headers["webhook-id"] == tenant_warehouse.rows("select notice_id from activation.notices")[0][0]
    assert states(tenant_warehouse) == [("delivered", 1, 200, None)]
    clock.sleep(86_400)
    assert queue(tenant_warehouse, tenant, clock.now(), "r1") == 0
    assert notices.deliver(tenant_warehouse, tenant, clock, door=receiver.door(), secret_of=secret_of).tried == 0
    assert len(receiver.got) == 1


def test_three_tries_follow_the_first_with_the_same_bytes_then_it_is_given_up_until_somebody_asks(
    tenant_warehouse: Warehouse, receiver: Receiver
) -> None:
    tenant, clock = estate(receiver.url()), at_the_second()
    queue(tenant_warehouse, tenant, clock.now(), "r1", "r2")
    receiver.answers = [500, 503, 404, 429]

    def deliver() -> notices.Deliveries:
        return notices.deliver(tenant_warehouse, tenant, clock, door=receiver.door(), secret_of=secret_of)

    # Who did not take the first is not asked for the second in the same round.
    assert deliver().failed == 1
    tenant_warehouse.execute("delete from activation.notices where tries = 0")
    assert deliver().tried == 0
    for minutes in (1, 10):
        clock.sleep(minutes * 60 - 1)
        assert deliver().tried == 0
        clock.sleep(1)
        assert deliver().failed == 1
    clock.sleep(3600)
    last = deliver()
    assert (last.given_up, last.hosts_lost) == (1, {f"{HOST}:{receiver.port}": "HTTP_STATUS"})
    assert states(tenant_warehouse) == [("given_up", 4, 429, "HTTP_STATUS")]
    assert (
        len({body for _, _, body in receiver.got})
        == len({headers["webhook-id"] for _, headers, _ in receiver.got})
        == 1
    )
    assert len({headers["webhook-timestamp"] for _, headers, _ in receiver.got}) == 4
    clock.sleep(86_400)
    assert deliver().tried == 0
    assert notices.retry(tenant_warehouse, tenant, clock.now(), "another") == 0
    assert notices.retry(tenant_warehouse, tenant, clock.now()) == 1
    assert deliver().delivered == 1
    assert notices.listed(tenant_warehouse)[0]["status"] == "delivered"


@pytest.mark.parametrize(("status", "problem"), [(302, "REDIRECT"), (410, "GONE")])
def test_a_receiver_that_is_gone_is_given_up_politely(
    tenant_warehouse: Warehouse, receiver: Receiver, status: int, problem: str
) -> None:
    tenant, clock = estate(receiver.url()), at_the_second()
    queue(tenant_warehouse, tenant, clock.now(), "r1", "r2")
    receiver.answers = [status]
    notices.deliver(tenant_warehouse, tenant, clock, door=receiver.door(), secret_of=secret_of)
    assert len(receiver.got) == 1, "no redirect is followed"
    other: tuple[Any, ...] = ("given_up", 0, None, "GONE") if status == 410 else ("waiting", 0, None, None)
    assert states(tenant_warehouse) == [("given_up", 1, status, problem), other]
    without = tenant.model_copy(update={"webhooks": []})
    notices.deliver(tenant_warehouse, without, clock, door=receiver.door(), secret_of=secret_of)
    assert {row[0] for row in states(tenant_warehouse)} == {"given_up"}
    assert notices.retry(tenant_warehouse, without, clock.now()) == 0


def test_a_program_that_dies_in_a_try_tells_it_again_and_gives_the_last_one_up(
    tenant_warehouse: Warehouse, receiver: Receiver
) -> None:
    tenant, clock = estate(receiver.url()), at_the_second()
    queue(tenant_warehouse, tenant, clock.now(), "r1")

    class _DiedError(BaseException):
        pass

    def die(host: str, port: int) -> list[str]:
        raise _DiedError

    for _ in range(3):
        with pytest.raises(_DiedError):
            notices.deliver(tenant_warehouse, tenant, clock, door=receiver.door(resolve=die), secret_of=secret_of)
        clock.sleep(3600)
    assert states(tenant_warehouse) == [("waiting", 3, None, None)]
    with pytest.raises(_DiedError):
        notices.deliver(tenant_warehouse, tenant, clock, door=receiver.door(resolve=die), secret_of=secret_of)
    clock.sleep(3600)
    assert notices.deliver(tenant_warehouse, tenant, clock, door=receiver.door(), secret_of=secret_of).given_up == 1
    assert states(tenant_warehouse) == [("given_up", 4, None, "INTERRUPTED")]
    assert receiver.got == []


def test_what_happened_is_read_from_the_tables_and_only_what_is_news(tenant_warehouse: Warehouse) -> None:
    tenant, clock = estate("https://hooks.example.com/x"), at_the_second()
    now = clock.now()
    insert = (
        "insert into gate.decisions (run_id, as_of, status, reasons, data_quality_score, gate_export, n_customers,"
        " n_permitted, n_eligible, n_errors, n_warnings, is_historical, decided_at, rules_version)"
        " values (%s, %s, %s, %s, 80, true, 10, 8, 6, 0, 0, %s, %s, 'v')"
    )
    for run_id, status, is_historical, age in (
        ("open", "open", False, 1),
        ("shut", "closed", False, 2),
        ("past", "closed", True, 1),
        ("old", "closed", False, 8),
    ):
        reasons = [] if status == "open" else ["STALE_SALES"]
        decided = now - timedelta(days=age)
        tenant_warehouse.execute(insert, [run_id, decided.date(), status, reasons, is_historical, decided])
    for name, status in (("spring", "done"), ("summer", "sending")):
        tenant_warehouse.execute(
            "insert into activation.campaigns (campaign, occurrence, step, run_id, plan_hash, audience, holdout, as_of,"
            " planned_at, expires_on, channel, status, began_at, ended_at)"
            " values (%s, 'once', 1, 'open', 'h', 2, 1, %s, %s, %s, 'email', %s, %s, %s)",
            [name, now.date(), now, now.date(), status, now, now],
        )
        for number, state in enumerate(("sent", "sent", "holdout")):
            tenant_warehouse.execute(
                "insert into activation.messages (message_id, campaign, occurrence, step, address, customer_id, run_id,"
                " scenario, wine_ids, product_keys, params, status, planned_at)"
                " values (%s, %s, 'once', 1, %s, 'c', 'open', 'rebuy', '{}', '{}', '{}', %s, %s)",
                [f"{name}{number}", name, f"someone{number}@example.org", state, now],
            )
    assert notices.observe(tenant_warehouse, tenant, now) == 4
    assert notices.observe(tenant_warehouse, tenant, now + timedelta(hours=1)) == 0
    told = [row[0] for row in tenant_warehouse.rows("select payload from activation.notices order by payload::text")]
    found = {(payload["type"], payload["data"].get("campaign") or payload["data"]["run_id"]) for payload in told}
    assert found == {
        *(("run.finished", "open"), ("run.finished", "shut"), ("gate.closed", "shut"), ("campaign.sent", "spring")),
    }
    (sent,) = (payload["data"] for payload in told if payload["type"] == "campaign.sent")
    assert (sent["sent"], sent["failed"], sent["holdout"], sent["step"]) == (2, 0, 1, 1)
    assert "@" not in json.dumps(told)
    assert notices.observe(tenant_warehouse, tenant.model_copy(update={"webhooks": []}), now) == 0


class _Run:
    """As much of a run as the writing of predictions looks at."""

    def __init__(self, warehouse: Warehouse, tenant: Tenant, run_id: str, *, is_historical: bool = False) -> None:
        self.warehouse, self.tenant, self.run_id, self.is_historical = warehouse, tenant, run_id, is_historical
        self.as_of, self.now = dt.date(2026, 3, 2), datetime(2026, 3, 2, 6, tzinfo=UTC)


def test_customers_newly_at_risk_are_told_by_code_in_the_transaction_of_their_flag(
    tenant_warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = estate("https://hooks.example.com/x", events=("customer.at_risk",))
    tenant_warehouse.execute("create schema if not exists curated")
    tenant_warehouse.execute(
        "create table curated.dim_customers as select 'c' || n as customer_id, 'CODE' || n as client_code"
        " from generate_series(1, 5) as n"
    )

    def write(run_id: str, churning: set[str], **how: bool) -> Any:
        rows = pd.DataFrame({"customer_id": [f"c{n}" for n in range(1, 5)]})
        rows = rows.assign(
            is_churning=rows["customer_id"].isin(churning),
            **dict.fromkeys(("probability_90d", "expected_orders_365d", "expected_value_365d", "p_active"), 0.5),
            lead_score=10.0,
            method="rule",
        )
        return write_predictions(_Run(tenant_warehouse, tenant, run_id, **how), rows)  # type: ignore[arg-type]

    def told() -> list[dict[str, Any]]:
        found = tenant_warehouse.rows("select payload -> 'data' from activation.notices order by payload::text")
        return [row[0] for row in found]

    write("r1", {"c1"})
    assert told() == [], "of a first prediction nobody is told"
    write("r2", {"c1", "c2", "c4"}, is_historical=True)
    assert told() == []
    assert write("r2", {"c1", "c2", "c4"}) == {"written": True, "newly_at_risk": 2}
    write("r2", {"c1", "c2", "c4"})
    (data,) = told()
    assert data["client_codes"] == ["CODE2", "CODE4"]
    assert (data["customers"], data["run_id"], data["as_of"]) == (2, "r2", "2026-03-02")

    def fail(*_: Any) -> None:
        raise psycopg.OperationalError

    with monkeypatch.context() as patched:
        patched.setattr(notices, "queue", fail)
        with pytest.raises(Exception, match="OperationalError"):
            write("r3", {"c1", "c2", "c3"})
    write("r4", {"c1", "c2", "c3"})
    assert [data["client_codes"] for data in told() if data["run_id"] == "r4"] == [["CODE3"]], "not lost with r3"


# --- the door


@pytest.mark.parametrize(
    ("url", "addresses", "problem"),
    [
        ("https://hooks.example.com/x", ["10.0.0.7"], "PRIVATE_ADDRESS"),
        ("https://hooks.example.com/x", ["93.184.216.34", "127.0.0.1"], "PRIVATE_ADDRESS"),
        ("https://hooks.example.com/x", ["::ffff:169.254.169.254"], "PRIVATE_ADDRESS"),
        ("https://hooks.example.com/x", ["64:ff9b::a9fe:a9fe"], "PRIVATE_ADDRESS"),
        ("https://hooks.example.com:22/x", ["93.184.216.34"], "PORT"),
        ("https://hooks.example.com:99999/x", ["93.184.216.34"], "PORT"),
        ("https://[::zz]/x", ["93.184.216.34"], "BAD_URL"),
        ("https://hooks.example.com/x", [], "NO_ADDRESS"),
    ],
)
def test_a_refused_address_opens_no_connection(
    monkeypatch: pytest.MonkeyPatch, url: str, addresses: list[str], problem: str
) -> None:
    monkeypatch.setattr(socket, "create_connection", _no_connection)
    with pytest.raises(DeliveryError) as refused:
        Door(resolve=lambda *_: addresses).post(url, {}, b"{}", 5)
    assert refused.value.problem == problem


def _no_connection(*_: Any, **__: Any) -> None:
    raise AssertionError("a connection was opened")


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "[::1]", "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "localhost", "[::ffff:127.0.0.1]"]
)
def test_every_spelling_of_loopback_is_refused_by_the_machines_own_resolver(
    monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setattr(socket, "create_connection", _no_connection)
    with pytest.raises(DeliveryError) as refused:
        Door().post(f"https://{host}/", {}, b"{}", 5)
    assert refused.value.problem in ("PRIVATE_ADDRESS", "NO_ADDRESS", "BAD_URL")


def test_a_refused_notice_is_not_tried_again_and_names_no_path(
    tenant_warehouse: Warehouse, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    tenant, clock = estate(receiver.url()), at_the_second()
    queue(tenant_warehouse, tenant, clock.now(), "r1")
    closed = receiver.door(is_allowed=lambda address: not ipaddress.ip_address(address).is_loopback)
    done = notices.deliver(tenant_warehouse, tenant, clock, door=closed, secret_of=secret_of)
    assert (done.refused, done.hosts_lost) == (1, {f"{HOST}:{receiver.port}": "PRIVATE_ADDRESS"})
    assert states(tenant_warehouse) == [("refused", 1, None, "PRIVATE_ADDRESS")]
    clock.sleep(86_400)
    assert notices.deliver(tenant_warehouse, tenant, clock, door=closed, secret_of=secret_of).tried == 0
    kept = str(tenant_warehouse.rows("select notices::text from activation.notices")) + caplog.text + str(done)
    for secret in (SECRET, SECRET.removeprefix("whsec_"), "path-secret", "query-secret"):
        assert secret not in kept


def test_the_name_is_resolved_once_and_the_connection_goes_to_that_address(receiver: Receiver) -> None:
    """A name that answers with a public address first and a private one after gains nothing."""
    looked: list[str] = []

    def allowed(address: str) -> bool:
        looked.append(address)
        return True

    assert receiver.door(is_allowed=allowed).post(receiver.url(), {}, b"{}", 5) == 204
    assert (receiver.resolved, looked) == ([HOST], ["127.0.0.1"])


def test_a_certificate_must_be_valid_for_the_name(receiver: Receiver) -> None:
    other = f"https://other.example.test:{receiver.port}/"
    with pytest.raises(DeliveryError) as refused:
        receiver.door().post(other, {}, b"{}", 5)
    assert refused.value.problem == "TLS"
    with pytest.raises(DeliveryError) as refused:
        receiver.door(context=ssl.create_default_context()).post(receiver.url(), {}, b"{}", 5)
    assert refused.value.problem == "TLS"
    assert receiver.got == []


@pytest.fixture
def speaking(certificate: tuple[Path, Path]) -> Iterator[Callable[[bytes], Door]]:
    """A door to a server that answers each request with these bytes, and keeps the line open."""
    listener = socket.create_server(("127.0.0.1", 0))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*map(str, certificate))
    answers: list[bytes] = []
    held: list[Any] = []

    def serve() -> None:
        while True:
            try:
                plain, _ = listener.accept()
                secure = context.wrap_socket(plain, server_side=True)
                held.append(secure)
                secure.recv(65_536)
                secure.sendall(answers[0])
            except OSError:
                return

    threading.Thread(target=serve, daemon=True).start()

    def door(answer: bytes) -> Door:
        answers[:] = [answer]
        trusting = ssl.create_default_context(cafile=str(certificate[0]))
        port = listener.getsockname()[1]
        return Door(lambda *_: ["127.0.0.1"], lambda _: True, frozenset({port}), trusting)

    yield door
    listener.close()
    for each in held:
        each.close()


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\n", 200),  # its body is not waited for
        (b"HTTP/1.1 200\r\n", 200),
        (b"SSH-2.0-OpenSSH_9\r\n", "NO_HTTP"),
        (b"HTTP/1.1 103 Early Hints\r\n" + b"Link: </x>\r\n" * 3000, "NO_HTTP"),  # endless lines
        (b"HTTP/1.1 2", "NO_ANSWER"),  # no more comes
    ],
    ids=["long body", "bare", "no HTTP", "endless", "silent"],
)
def test_of_an_answer_only_the_status_is_read_and_not_for_ever(
    speaking: Callable[[bytes], Door], answer: bytes, expected: int | str
) -> None:
    door = speaking(answer)
    assert door.ports is not None
    url = f"https://{HOST}:{min(door.ports)}/"
    try:
        found: int | str = door.post(url, {}, b"{}", 0.3)
    except DeliveryError as error:
        found = error.problem
    assert found == expected


@pytest.mark.parametrize(
    ("secret", "problem"),
    [
        (None, "NO_SECRET"),
        ("c2VjcmV0", "BAD_SECRET"),
        ("whsec_", "BAD_SECRET"),
        ("whsec_\u00e9\u00e9\u00e9", "BAD_SECRET"),
    ],
)
def test_without_a_good_secret_nothing_is_sent_and_it_waits(
    tenant_warehouse: Warehouse, receiver: Receiver, secret: str | None, problem: str
) -> None:
    tenant, clock = estate(receiver.url()), at_the_second()
    queue(tenant_warehouse, tenant, clock.now(), "r1")
    kept = SecretStr(secret) if secret else None
    notices.deliver(tenant_warehouse, tenant, clock, door=receiver.door(), secret_of=lambda _: kept)
    assert states(tenant_warehouse) == [("waiting", 1, None, problem)]
    assert (receiver.got, receiver.resolved) == ([], [])
