"""Brevo's client on real connections: what it sends, what it makes of what comes back, its pace, and its key."""

from __future__ import annotations

import io
import json
import logging
import re
import socket
import ssl
import threading
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from crm_assets import attempts, databases
from crm_assets.clock import Clock
from crm_assets.logic import brevo_requests
from crm_assets.logic.brevo_answers import Limits
from crm_assets.resources import brevo
from crm_assets.resources.throttle import Throttle, interval
from crm_assets.resources.warehouse import Warehouse
from crm_assets.settings import settings
from crm_assets.tenants import Tenant
from tests import mail_server
from tests import standin as standins
from tests.clock import StillClock
from tests.logic import estate
from tests.servers import free_port

KEY = "xkeysib-0123456789abcdef-NEVERSHOWN"
IDEMPOTENCY = "2b0d3f2e-6a55-4c39-8f0e-0d9a2b7c1e44"
TAG = "demo-spring-once-1-0123456789ab"
QUICK = {"brevo": {"api_seconds": {"connect": 2, "read": 0.3, "write": 0.5, "pool": 1, "total": 0.6}}}


START = datetime(2026, 3, 3, 10, tzinfo=UTC)


def tenant(**rules: Any) -> Tenant:
    given = {"live": True, "sender_email": "cave@demo.example.com", "reply_to": "cave@demo.example.com"}
    return estate.tenant(brevo=given, rules={**QUICK, **rules})


def body(n: int = 1) -> bytes:
    return json.dumps(
        {
            "sender": {"email": "cave@demo.example.com", "name": "Domaine Démo"},
            "subject": "Millésime",
            "htmlContent": "<p>",
            "headers": {"idempotencyKey": IDEMPOTENCY},
            "tags": [TAG],
            "messageVersions": [{"to": [{"email": f"p{i}@example.com"}], "params": {"i": i}} for i in range(n)],
        },
        ensure_ascii=False,
    ).encode()


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRM_BREVO_KEY", KEY)


Making = Callable[..., brevo.Brevo]


@pytest.fixture
def connect(cluster: databases.Cluster, key: None) -> Iterator[Making]:
    """A live client for an address or a handler within the process, with an account's pace of its own."""
    databases.ensure_control(cluster)
    opened: list[brevo.Brevo] = []

    def make(
        url: str = "https://brevo.invalid/v3",
        *,
        mode: brevo.Mode = "live",
        answering: Callable[[httpx.Request], httpx.Response] | None = None,
        clock: Clock | None = None,
        who: Tenant | None = None,
    ) -> brevo.Brevo:
        config = settings().model_copy(update={"live": True, "brevo_url": url})
        transport = httpx.MockTransport(answering) if answering else None
        made = brevo.client(who or tenant(), config, clock or StillClock(START), mode=mode, transport=transport)
        opened.append(made)
        return made

    Warehouse(cluster.control_url).execute("delete from brevo.buckets")
    yield make
    for client in opened:
        client.close()


class Server:
    """A server that answers as it is told, and remembers what it was sent."""

    def __init__(self, certificate: Path | None = None) -> None:
        self.heard: list[tuple[str, str, dict[str, str], bytes]] = []
        self.connections = 0
        self.answer: Callable[[BaseHTTPRequestHandler], None] = lambda handler: said(handler, 201, {"messageId": "<1>"})
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                outer.connections += 1

            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers.get("content-length", 0)))
                outer.heard.append((self.command, self.path, dict(self.headers), content))
                outer.answer(self)

            do_GET = do_POST  # noqa: N815

            def log_message(self, *_: Any) -> None:
                """Nobody reads it."""

        class Listening(ThreadingHTTPServer):
            def handle_error(self, *_: Any) -> None:
                """A client that gave up is what some tests are about."""

        self._server = Listening(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"http{'s' if certificate else ''}://127.0.0.1:{self._server.server_port}/v3"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def said(handler: BaseHTTPRequestHandler, status: int, content: Any = None, **headers: str) -> None:
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    handler.send_response(status)
    for name, value in {"content-length": str(len(raw)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(raw)


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


class TestWhatIsSent:
    def test_the_exact_bytes_and_the_idempotency_key_twice(self, connect: Making, server: Server) -> None:
        client = connect(server.url)
        assert client.send_email(body()).outcome == "accepted"
        ((method, path, headers, content),) = server.heard
        assert (method, path, content) == ("POST", "/v3/smtp/email", body())
        assert headers["idempotencyKey"] == IDEMPOTENCY
        assert headers["api-key"] == KEY
        assert headers["content-type"] == "application/json"
        assert "Idempotency-Key" not in headers

    def test_connections_are_kept_and_no_proxy_is_taken_from_the_environment(
        self, connect: Making, server: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, "http://127.0.0.1:9")
        client = connect(server.url)
        assert [client.send_email(body()).outcome for _ in range(3)] == ["accepted"] * 3
        assert server.connections == 1

    def test_a_redirect_is_not_followed(self, connect: Making, server: Server) -> None:
        other = Server()
        server.answer = lambda handler: said(handler, 307, b"", location=f"{other.url}/smtp/email")
        answer = connect(server.url).send_email(body())
        other.close()
        assert (answer.outcome, answer.reason, other.heard) == ("unknown", "unreadable", [])

    def test_the_body_is_that_of_brevos_own_library(self, connect: Making, server: Server) -> None:
        from brevo import Brevo as Library
        from brevo.transactional_emails import (
            SendTransacEmailRequestMessageVersionsItem,
            SendTransacEmailRequestMessageVersionsItemToItem,
            SendTransacEmailRequestReplyTo,
            SendTransacEmailRequestSender,
        )

        from crm_assets.logic.brevo_requests import check_body

        ours = {
            "sender": {"name": "Domaine Démo", "email": "cave@demo.example.com"},
            "replyTo": {"email": "cave@demo.example.com"},
            "subject": "Millésime",
            "htmlContent": "<p>",
            "tags": [TAG],
            "headers": {"idempotencyKey": IDEMPOTENCY, "X-Mailin-Custom": TAG},
            "messageVersions": [{"to": [{"email": "p@example.com"}], "params": {"n": 1}, "subject": "À vous"}],
        }
        check_body(json.dumps(ours).encode())
        assert connect(server.url).send_email(json.dumps(ours).encode()).outcome == "accepted"
        library = Library(api_key=KEY, base_url=server.url)
        library.transactional_emails.send_transac_email(
            sender=SendTransacEmailRequestSender(name="Domaine Démo", email="cave@demo.example.com"),
            reply_to=SendTransacEmailRequestReplyTo(email="cave@demo.example.com"),
            subject="Millésime",
            html_content="<p>",
            tags=[TAG],
            headers={"idempotencyKey": IDEMPOTENCY, "X-Mailin-Custom": TAG},
            message_versions=[
                SendTransacEmailRequestMessageVersionsItem(
                    to=[SendTransacEmailRequestMessageVersionsItemToItem(email="p@example.com")],
                    params={"n": 1},
                    subject="À vous",
                )
            ],
            request_options={"max_retries": 0},
        )
        (mine, theirs) = server.heard
        assert mine[1] == theirs[1]
        assert json.loads(mine[3]) == json.loads(theirs[3])
        assert mine[2]["api-key"] == theirs[2]["api-key"]


class TestWhatComesBack:
    def test_nothing_has_left_when_nobody_listens(self, connect: Making) -> None:
        answer = connect(f"http://127.0.0.1:{free_port()}/v3").send_email(body())
        assert (answer.outcome, answer.reason) == ("not_sent", "not_connected")

    def test_nothing_has_left_when_the_name_leads_nowhere(
        self, connect: Making, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def nowhere(*_: Any, **__: Any) -> Any:
            raise socket.gaierror(-2, "Name or service not known")

        client = connect("https://api.brevo.invalid/v3")
        monkeypatch.setattr(socket, "create_connection", nowhere)
        assert client.send_email(body()).reason == "not_connected"

    def test_nothing_has_left_when_connecting_takes_too_long(
        self, connect: Making, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def slow(*_: Any, **__: Any) -> Any:
            raise TimeoutError

        client = connect("http://127.0.0.1:9/v3")
        monkeypatch.setattr(socket, "create_connection", slow)
        assert client.send_email(body()).outcome == "not_sent"

    def test_a_server_whose_certificate_is_not_trusted_gets_nothing(self, connect: Making, server: Server) -> None:
        answer = connect(server.url.replace("http://", "https://")).send_email(body())
        assert (answer.outcome, answer.reason, server.heard) == ("not_sent", "not_connected", [])

    def test_the_key_reaches_a_server_whose_certificate_is_trusted(
        self, connect: Making, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        mine = mail_server.certificate(tmp_path)
        strangers = Server(mine)
        assert connect(strangers.url).send_email(body()).reason == "not_connected"
        monkeypatch.setattr(httpx, "create_ssl_context", lambda **_: ssl.create_default_context(cafile=str(mine)))
        client = connect(strangers.url)
        assert [client.send_email(body()).outcome for _ in range(2)] == ["accepted"] * 2
        strangers.close()
        assert [headers["api-key"] for _, _, headers, _ in strangers.heard] == [KEY] * 2

    @pytest.mark.parametrize(
        ("how", "reason"),
        [
            ("hang", "timed_out"),
            ("reset", "disconnected"),
            ("close", "disconnected"),
            ("truncated", "disconnected"),
            ("dribble", "timed_out"),
            ("headers", "timed_out"),
            ("garbage", "disconnected"),
            ("gzip", "unreadable"),
        ],
    )
    def test_nobody_knows_once_bytes_have_left(self, how: str, reason: str, connect: Making, server: Server) -> None:
        """A body, or headers, that come drop by drop end at the call's own deadline, though no drop is late."""
        released = threading.Event()

        def misbehave(handler: BaseHTTPRequestHandler) -> None:
            handler.close_connection = True
            if how == "hang":
                released.wait(5)
            elif how == "reset":
                handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                handler.connection.close()
            elif how == "truncated":
                handler.wfile.write(b'HTTP/1.1 201 Created\r\ncontent-length: 99\r\n\r\n{"messageId":')
            elif how in ("dribble", "headers"):
                handler.wfile.write(b"HTTP/1.1 201 Created\r\ncontent-length: 99\r\n")
                handler.wfile.write(b"\r\n" if how == "dribble" else b"x-slow: ")
                while not released.wait(0.05):
                    try:
                        handler.wfile.write(b"x")
                    except OSError:
                        return
            elif how == "garbage":
                handler.wfile.write(b"SMTP ready\r\n")
            elif how == "gzip":
                said(handler, 201, b"no gzip", content_encoding="gzip")

        server.answer = misbehave
        answer = connect(server.url).send_email(body())
        released.set()
        assert (answer.outcome, answer.reason, len(server.heard)) == ("unknown", reason, 1)

    @pytest.mark.parametrize("status", [500, 502, 503, 504])
    def test_a_write_is_never_tried_again(self, status: int, connect: Making) -> None:
        calls = []

        def answering(request: httpx.Request) -> httpx.Response:
            calls.append(request.method)
            return httpx.Response(status)

        client = connect(answering=answering)
        assert client.send_email(body()).outcome == "unknown"
        assert client.write(brevo_requests.create_folder("CRM")).outcome == "unknown"
        assert calls == ["POST", "POST"]

    def test_a_throttled_call_pushes_the_next_one(self, connect: Making) -> None:
        clock, answers = StillClock(START), [429, 201]
        client = connect(
            answering=lambda _: httpx.Response(
                answers.pop(0), json={"messageId": "<1>"}, headers={"x-sib-ratelimit-reset": "7"}
            ),
            clock=clock,
        )
        first = client.send_email(body())
        assert (first.outcome, first.reason, first.retry_after) == ("not_sent", "throttled", 7.0)
        assert client.send_email(body()).outcome == "accepted"
        assert sum(clock.slept) == pytest.approx(7)

    def test_a_turn_that_lies_far_away_is_not_waited_for(self, connect: Making) -> None:
        calls = []

        def answering(request: httpx.Request) -> httpx.Response:
            calls.append(request)
            return httpx.Response(429, headers={"x-sib-ratelimit-reset": "30"})

        clock = StillClock(START)
        client = connect(answering=answering, clock=clock)
        client.send_email(body())
        second = client.send_email(body())
        assert (second.outcome, second.reason, second.retry_after) == ("not_sent", "throttled", 30.0)
        assert (len(calls), clock.slept) == (1, [])

    def test_a_key_that_only_reads_writes_nothing(self, connect: Making) -> None:
        client = connect(answering=lambda _: httpx.Response(201), mode="read")
        with pytest.raises(brevo.LiveRefusedError):
            client.send_email(body())
        with pytest.raises(brevo.LiveRefusedError):
            client.write(brevo_requests.create_folder("CRM"))


def event(n: int) -> dict[str, Any]:
    return {
        "date": "2026-03-01T23:30:00.000+01:00",
        "email": f"P{n}@Example.com ",
        "event": "requests",
        "messageId": f"<{n}>",
        "tag": TAG,
    }


class TestReads:
    def test_all_pages_are_read(self, connect: Making) -> None:
        asked = []

        def answering(request: httpx.Request) -> httpx.Response:
            query = dict(request.url.params)
            asked.append(query)
            offset, limit = int(query["offset"]), int(query["limit"])
            return httpx.Response(200, json={"events": [event(n) for n in range(offset, min(offset + limit, 6000))]})

        found = list(connect(answering=answering, mode="read").events(date(2026, 3, 1), date(2026, 3, 9), tag=TAG))
        assert len({row.message_id for row in found}) == 6000
        assert [query["offset"] for query in asked] == ["0", "4750"]
        assert len(found) == 6000
        assert asked[0] == {
            "tags": json.dumps([TAG]), "startDate": "2026-03-01", "endDate": "2026-03-03", "sort": "asc",
            "limit": "5000", "offset": "0",
        }  # fmt: skip
        assert (found[3].email, found[3].at) == ("p3@example.com", datetime(2026, 3, 1, 22, 30, tzinfo=UTC))

    def test_a_server_that_gives_smaller_pages_loses_nothing(self, connect: Making) -> None:
        """Were its largest page cut to the default one, a message that left would be taken for lost, and sent again."""

        def answering(request: httpx.Request) -> httpx.Response:
            offset = int(request.url.params["offset"])
            return httpx.Response(200, json={"events": [event(n) for n in range(offset, min(offset + 2500, 5200))]})

        found = connect(answering=answering, mode="read").events(date(2026, 3, 1), date(2026, 3, 1))
        assert len({row.message_id for row in found}) == 5200

    @pytest.mark.parametrize("gone", [0, 3, 5])
    def test_rows_that_go_while_pages_are_read_hide_nobody(self, connect: Making, gone: int) -> None:
        """Whoever was skipped would be taken for somebody who refused nothing."""
        people = [{"email": f"p{n}@example.com", "reason": {"code": "hardBounce"}} for n in range(250)]

        def answering(request: httpx.Request) -> httpx.Response:
            offset, limit = int(request.url.params["offset"]), int(request.url.params["limit"])
            page = people[offset : offset + limit]
            del people[:gone]  # unblocked, or erased, between two pages
            return httpx.Response(200, json={"contacts": page})

        client = connect(answering=answering, mode="read")
        if gone == 5:
            with pytest.raises(brevo.BrevoUnavailableError) as failed:
                list(client.blocked_contacts())
            assert failed.value.reason == "moved"
        else:
            assert [row.email for row in client.blocked_contacts()] == [f"p{n}@example.com" for n in range(250)]

    def test_an_address_is_one_in_either_form_of_its_domain(self, connect: Making) -> None:
        """In the other form, a message that left would be taken for lost, and sent again."""
        said = [{**event(1), "email": "Jean@xn--chteau-xta.fr"}, {**event(2), "email": "jean@CHÂTEAU.fr"}]
        client = connect(answering=lambda _: httpx.Response(200, json={"events": said}), mode="read")
        found = client.events(date(2026, 3, 1), date(2026, 3, 1))
        assert {row.email for row in found} == {"jean@château.fr"}

    def test_long_spans_are_asked_for_in_pieces(self, connect: Making) -> None:
        spans = []

        def answering(request: httpx.Request) -> httpx.Response:
            spans.append((request.url.params["startDate"], request.url.params["endDate"]))
            return httpx.Response(200, json={})

        assert list(connect(answering=answering, mode="read").events(date(2025, 9, 1), date(2026, 3, 3))) == []
        assert spans == [("2025-09-01", "2025-11-29"), ("2025-11-30", "2026-02-27"), ("2026-02-28", "2026-03-03")]

    def test_a_read_is_tried_again_in_bounds(self, connect: Making, caplog: pytest.LogCaptureFixture) -> None:
        answers = [500, 502, 200]
        clock = StillClock(START)

        def answering(_: httpx.Request) -> httpx.Response:
            status = answers.pop(0)
            return httpx.Response(status, json={"contacts": []})

        client = connect(answering=answering, clock=clock, mode="read")
        with caplog.at_level(logging.INFO, "crm.brevo"):
            assert list(client.blocked_contacts()) == []
        assert "tried again" in caplog.text
        assert clock.slept == [2.0, 4.0]
        answers += [500, 500, 500, 200]
        with pytest.raises(brevo.BrevoUnavailableError) as raised:
            list(client.blocked_contacts())
        assert (raised.value.reason, answers) == ("server_error", [200])

    @pytest.mark.parametrize(
        ("status", "reason", "sentence"),
        [(401, "unauthorized", "CRM_BREVO_KEY"), (402, "no_credit", "credit"), (403, "forbidden", "validation")],
    )
    def test_what_will_not_pass_is_said_at_once(self, status: int, reason: str, sentence: str, connect: Making) -> None:
        calls: list[int] = []

        def answering(_: httpx.Request) -> httpx.Response:
            calls.append(status)
            return httpx.Response(status, json={"code": "x", "message": "p1@example.com"})

        with pytest.raises(brevo.BrevoUnavailableError, match=sentence) as raised:
            connect(answering=answering, mode="read").contact("p1@example.com")
        assert (raised.value.reason, len(calls)) == (reason, 1)
        assert "p1@example.com" not in str(raised.value)

    @pytest.mark.parametrize("content", [b"[]", b"<html>", b'{"contacts": [{"email": "p1@example.com"}]}'])
    def test_what_cannot_be_read_is_not_taken_for_nothing(self, content: bytes, connect: Making) -> None:
        client = connect(answering=lambda _: httpx.Response(200, content=content), mode="read")
        with pytest.raises(brevo.BrevoUnavailableError) as raised:
            list(client.contacts())
        assert raised.value.reason == "unreadable"
        assert "p1@example.com" not in "".join(traceback.format_exception(raised.value))

    def test_an_export_is_fetched_without_the_key(self, connect: Making, server: Server) -> None:
        server.answer = lambda handler: said(handler, 200, b"Email_ID;Name\n")
        client = connect(server.url, mode="read")
        assert client.exported(f"{server.url}/file.csv?signature=abc") == b"Email_ID;Name\n"
        ((_, path, headers, _),) = server.heard
        assert path == "/v3/file.csv?signature=abc"
        assert KEY not in str(headers)
        assert "api-key" not in headers
        with pytest.raises(brevo.BrevoUnavailableError):
            client.exported("http://example.com/file.csv")


class TestAgainstTheStandIn:
    def test_every_call_is_as_brevo_describes_it(self, connect: Making, monkeypatch: pytest.MonkeyPatch) -> None:
        """Bodies and answers by Brevo's schemas, and no query parameter that it does not know."""
        monkeypatch.setenv("CRM_BREVO_KEY", standins.KEY)
        running = standins.in_process(senders=("cave@demo.example.com",))
        assert running.standin is not None
        running.standin.on_answer = honesty = standins.Honesty()
        template = {"id": 3, "name": "t", "subject": "s", "htmlContent": "<p>template</p>", "isActive": True}
        running.control.seed(
            templates=[{**template, "sender": {"email": "cave@demo.example.com", "name": "D"}}],
            blocked=[{"email": "b@example.com", "code": "hardBounce"}],
            contacts=[{"email": "c@example.com", "emailBlacklisted": True}],
        )
        client = brevo.client(
            tenant(),
            settings().model_copy(update={"live": True, "brevo_url": "http://127.0.0.1/v3"}),
            running.clock,
            mode="live",
            transport=running.transport,
        )
        with client:
            assert client.send_email(body(3)).outcome == "accepted"
            assert client.send_email(body(3)).reason == "duplicate"
            today = running.clock.now().date()
            assert len(list(client.events(today, today, tag=TAG, event="requests"))) == 3
            assert [row.reason for row in client.blocked_contacts(today)] == ["hardBounce"]
            assert [row.is_unsubscribed for row in client.contacts(running.clock.now() - timedelta(days=1))] == [True]
            assert client.contact("nobody@example.com") is None
            folder = json.loads(client.write(brevo_requests.create_folder("CRM")).content)["id"]
            made = json.loads(client.write(brevo_requests.create_list("Clients", folder)).content)["id"]
            row = brevo_requests.ContactRow("d@example.com", {})
            (request,) = brevo_requests.import_contacts([row], made, 1000)
            process = json.loads(client.write(request).content)["processId"]
            running.control.advance(600)
            assert client.process(process).status == "completed"
            assert [found.email for found in client.list_contacts(made)] == ["d@example.com"]
            assert client.write(brevo_requests.remove_from_list(made, ["d@example.com"])).outcome == "accepted"
            assert client.write(brevo_requests.create_attribute("CRM_CODE", "text")).outcome == "accepted"
            assert "CRM_CODE" in {attribute.name for attribute in client.attributes()}
            assert [folder.name for folder in client.folders()][-1] == "CRM"
            assert client.template(3).subject == "s"
            assert list(client.email_campaigns(status="sent", since=today, statistics="globalStats")) == []
        assert honesty.problems == []
        described = {
            (verb.upper(), path): {each["name"] for each in operation.get("parameters", []) if each["in"] == "query"}
            for path, operations in honesty.said["paths"].items()
            for verb, operation in operations.items()
            if isinstance(operation, dict)
        }
        for call in running.control.requests():
            known = described[call["method"], honesty.paths[re.sub(r"{\w+}", "{}", call["route"])]]
            assert call["query"].keys() <= known, call["route"]

    def test_a_hundred_calls_a_minute_are_nearly_all_used(
        self, connect: Making, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With the stand-in's own limit, its headers and its clock: no 429, and 95 of 100 calls a minute."""
        monkeypatch.setenv("CRM_BREVO_KEY", standins.KEY)
        running = standins.in_process(senders=("cave@demo.example.com",))
        config = settings().model_copy(update={"live": True, "brevo_url": "http://127.0.0.1/v3"})
        with brevo.client(tenant(), config, running.clock, mode="live", transport=running.transport) as client:
            start = running.clock.now()
            for n in range(110):
                content = body().replace(IDEMPOTENCY.encode(), f"{n:08d}-6a55-4c39-8f0e-0d9a2b7c1e44".encode())
                assert client.send_email(content).outcome == "accepted"
            minutes = (running.clock.now() - start).total_seconds() / 60
        assert 95 <= 110 / minutes <= 104


class TestPace:
    @pytest.fixture
    def control_url(self, cluster: databases.Cluster) -> str:
        url = databases.ensure_control(cluster)
        Warehouse(url).execute("delete from brevo.buckets")
        return url

    def test_a_minute_holds_no_more_than_its_limit_and_nearly_as_many(self, control_url: str) -> None:
        """Calls that take a while, now and then a long one: lateness is caught up with, never beyond the limit."""
        clock = StillClock(START)
        pace = Throttle(control_url, "a", tenant().business_rules.brevo, clock)
        made: list[float] = []
        start = clock.moment
        for n in range(150):
            assert pace.wait("smtp_email") == 0
            made.append((clock.moment - start).total_seconds())
            clock.moment += timedelta(seconds=1.5 if n % 20 == 0 else 0.3)
        for first in made:
            assert sum(first <= at < first + 60 for at in made) <= 100
        assert 150 / (made[-1] / 60) >= 95

    @pytest.mark.parametrize("bucket", ["smtp_email", "blocked_contacts", "smtp", "contacts", "other"])
    def test_no_span_holds_more_than_the_limit(self, bucket: str) -> None:
        pace = getattr(tenant().business_rules.brevo.buckets, bucket)
        assert pace.seconds / interval(pace) + pace.at_once - 1 <= pace.calls + 1e-9

    def test_an_accounts_processes_share_one_pace(self, control_url: str) -> None:
        clock = StillClock(START)
        slots: list[float] = []
        lock = threading.Lock()

        class Noting(StillClock):
            def sleep(self, seconds: float) -> None:
                with lock:
                    slots.append(seconds)

        rules = tenant().business_rules.brevo
        paces = [Throttle(control_url, "b", rules, Noting(clock.moment)) for _ in range(4)]
        threads = [
            threading.Thread(target=lambda pace=pace: [pace.wait("smtp_email") for _ in range(5)]) for pace in paces
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        step = interval(rules.buckets.smtp_email)
        waited = sorted(slot for slot in slots if slot > 1e-3)
        assert waited == pytest.approx([step * n for n in range(1, 17)], abs=1e-4)
        other = Throttle(control_url, "c", rules, Noting(clock.moment))
        slots.clear()
        other.wait("smtp_email")
        assert slots == []

    def test_brevos_headers_slow_and_never_hasten(self, control_url: str) -> None:
        clock = StillClock(START)
        pace = Throttle(control_url, "d", tenant().business_rules.brevo, clock)
        pace.wait("smtp_email")
        pace.note("smtp_email", Limits(remaining=3, reset=30), is_throttled=False)
        pace.wait("smtp_email")
        assert clock.slept == [pytest.approx(10)]
        pace.note("smtp_email", Limits(remaining=0, reset=25), is_throttled=False)
        pace.wait("smtp_email")
        assert clock.slept[1:] == [pytest.approx(25)]
        pace.note("smtp_email", Limits(remaining=999, reset=1), is_throttled=False)
        for _ in range(20):
            pace.wait("smtp_email")
        step = interval(tenant().business_rules.brevo.buckets.smtp_email)
        assert sum(clock.slept[2:]) == pytest.approx(20 * step)

    def test_a_row_of_another_clock_is_not_believed(self, control_url: str) -> None:
        """A test of next year, or a machine whose clock was wrong, must not stop an account for a year."""
        rules, next_year = tenant().business_rules.brevo, datetime(2027, 1, 1, tzinfo=UTC)
        Throttle(control_url, "e", rules, StillClock(next_year)).wait("other")
        clock = StillClock(START)
        assert Throttle(control_url, "e", rules, clock).wait("other") == 0
        assert clock.slept == []


def everything_said(error: BaseException | None) -> str:
    """A traceback with the locals of every frame, whatever it was raised from."""
    said: list[str] = []
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        said += traceback.TracebackException.from_exception(error, capture_locals=True).format()
        error = error.__cause__ or error.__context__
    return "".join(said)


class TestTheKeyIsNowhere:
    @pytest.fixture
    def logged(self) -> Iterator[io.StringIO]:
        """All that is logged at DEBUG by anybody."""
        buffer = io.StringIO()
        handler = logging.StreamHandler(buffer)
        root = logging.getLogger()
        level = root.level
        root.addHandler(handler)
        root.setLevel(logging.DEBUG)
        yield buffer
        root.removeHandler(handler)
        root.setLevel(level)

    def test_after_calls_that_fail(
        self, connect: Making, server: Server, tenant_warehouse: Warehouse, logged: io.StringIO,
        capfd: pytest.CaptureFixture[str],
    ) -> None:  # fmt: skip
        clock = StillClock(START)
        client = connect(server.url, clock=clock)
        said_back: list[str] = [repr(client), repr(vars(client)), repr(vars(client._wire))]
        failures: list[Callable[[BaseHTTPRequestHandler], None]] = [
            lambda handler: said(handler, 401, {"code": "unauthorized", "message": f"Key {KEY} not found"}),
            lambda handler: said(handler, 500, f"<html>{KEY}".encode()),
            lambda handler: handler.connection.close(),
            lambda handler: said(handler, 201, {"messageId": KEY}),
        ]
        for failure in failures:
            server.answer = failure
            with tenant_warehouse.transaction() as connection:
                attempt = attempts.begin(connection, brevo.SEND, body(), 1, clock.now(), is_dry_run=False, tag=TAG)
            answer = client.send_email(body())
            said_back += [repr(answer), answer.content.decode()]
            with tenant_warehouse.transaction() as connection:
                attempts.end(connection, attempt, answer, clock.now())
            try:
                list(client.contacts())
            except brevo.BrevoUnavailableError as error:
                said_back.append(everything_said(error))
        assert any(KEY in str(headers) for _, _, headers, _ in server.heard)
        out, err = capfd.readouterr()
        rows = tenant_warehouse.rows("select * from activation.attempts")
        assert len(rows) == len(failures)
        kept = [
            attempts.kept_content(content)
            for (content,) in tenant_warehouse.rows("select content from activation.payloads")
        ]
        assert len(kept) == 4  # the request once, three answers
        assert "send_request_headers" in logged.getvalue()
        for place in (logged.getvalue(), out, err, repr(rows), repr(kept), *said_back):
            assert KEY not in place
            assert "example.com" not in logged.getvalue()

    def test_in_the_frames_of_a_call_that_is_interrupted(
        self, connect: Making, server: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A KeyboardInterrupt passes through all of httpx, httpcore and h11 with their locals."""
        import httpcore

        def interrupted(*_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

        for method in ("write", "read"):
            client = connect(server.url)
            with monkeypatch.context() as patched:
                patched.setattr(httpcore._backends.sync.SyncStream, method, interrupted)
                with pytest.raises(KeyboardInterrupt) as raised:
                    client.send_email(body())
            said_locals = everything_said(raised.value)
            assert "idempotencyKey" in said_locals
            assert KEY not in said_locals

    def test_in_a_dagster_run_that_fails(
        self, connect: Making, server: Server, logged: io.StringIO, capfd: pytest.CaptureFixture[str]
    ) -> None:
        import dagster as dg

        server.answer = lambda handler: said(handler, 401, {"code": "unauthorized", "message": KEY})
        client = connect(server.url)

        @dg.asset
        def send() -> None:
            answer = client.send_email(body())
            logging.getLogger("crm").warning("the call ended: %s", answer)
            raise dg.Failure(brevo.advice(answer.reason, tenant()), metadata={"answer": repr(answer)})

        with dg.DagsterInstance.ephemeral() as instance:
            result = dg.materialize([send], instance=instance, raise_on_error=False)
            assert not result.success
            events = [repr(record) for record in instance.all_logs(result.run_id)]
            run = instance.get_run_by_id(result.run_id)
        out, err = capfd.readouterr()
        assert any("CRM_BREVO_KEY" in line for line in events)
        for place in (*events, repr(run), logged.getvalue(), out, err):
            assert KEY not in place
