"""Brevo's client, the parts that need no network: what may be asked of it, and what an answer means."""

from __future__ import annotations

import json
from typing import Any

import pytest

from crm_assets.clock import SystemClock
from crm_assets.logic import brevo_answers, brevo_requests
from crm_assets.logic.brevo_answers import Broken, Failure, Reply
from crm_assets.resources import brevo
from crm_assets.settings import Settings, settings
from tests.logic import estate

KEY = "2b0d3f2e-6a55-4c39-8f0e-0d9a2b7c1e44"
BODY: dict[str, Any] = {
    "sender": {"name": "A", "email": "a@example.com"},
    "subject": "Bonjour",
    "htmlContent": "<p>",
    "headers": {"idempotencyKey": KEY},
    "messageVersions": [{"to": [{"email": "b@example.com"}]}],
}


def dry() -> brevo.Brevo:
    return brevo.client(estate.tenant(), settings(), SystemClock(), mode="dry")


def config(live: bool = True, url: str = "https://api.brevo.com/v3") -> Settings:
    return settings().model_copy(update={"live": live, "brevo_url": url})


class TestWhatIsNeeded:
    def test_a_dry_run_opens_no_socket(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import socket

        def refuse(*_: Any, **__: Any) -> None:
            raise AssertionError("a socket was opened")

        monkeypatch.setattr(socket, "socket", refuse)
        monkeypatch.setattr(socket, "create_connection", refuse)
        monkeypatch.setenv("CRM_BREVO_KEY", "xkeysib-secret")
        client = dry()
        assert client.is_dry_run
        assert client.send_email(json.dumps(BODY).encode()) == brevo.Answer("dry_run", "dry_run")
        assert client.write(brevo_requests.create_folder("CRM")) == brevo.Answer("dry_run", "dry_run")
        with pytest.raises(brevo.BrevoUnavailableError) as raised:
            list(client.blocked_contacts())
        assert raised.value.reason == "dry_run"
        assert "xkeysib-secret" not in repr(vars(client))

    @pytest.mark.parametrize(
        ("live", "allowed", "key", "reason"),
        [
            (False, True, "k", "does not say brevo.live: true"),
            (True, False, "k", "CRM_LIVE is not 1"),
            (True, True, "", "no Brevo key in CRM_BREVO_KEY"),
        ],
    )
    def test_a_live_client_is_refused_in_a_sentence(
        self, live: bool, allowed: bool, key: str, reason: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CRM_BREVO_KEY", key and "xkeysib-secret")
        tenant = estate.tenant(brevo={"live": live})
        with pytest.raises(brevo.LiveRefusedError, match=reason) as raised:
            brevo.client(tenant, config(allowed), SystemClock(), mode="live")
        assert "xkeysib" not in str(raised.value)

    @pytest.mark.parametrize(
        "url",
        ["http://api.brevo.com/v3", "ftp://127.0.0.1/", "https://u:p@api.brevo.com/v3", "http://127.0.0.1.evil.fr/v3"],
    )
    def test_the_key_goes_to_no_unprotected_server(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CRM_BREVO_KEY", "xkeysib-secret")
        with pytest.raises(brevo.LiveRefusedError, match="CRM_BREVO_URL") as raised:
            brevo.client(estate.tenant(), config(url=url), SystemClock(), mode="read")
        assert url not in str(raised.value)

    @pytest.mark.parametrize("url", ["http://127.0.0.1:8000/v3", "http://localhost:1/v3", "http://[::1]:1/v3"])
    def test_this_machine_needs_no_certificate(self, url: str) -> None:
        assert brevo.problem_of_url(url) is None


class TestBodies:
    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"sender": {"name": "A"}}, "no sender"),
            ({"sender": {"email": "a@example.com", "name": "A" * 71}}, "longer than 70"),
            ({"subject": ""}, "no subject"),
            ({"messageVersions": []}, "0 message versions"),
            (
                {"messageVersions": [{"to": [{"email": f"{n}@x.fr"}]} for n in range(1001)]},
                "1001 message versions",
            ),
            ({"messageVersions": [{"to": []}]}, "1 to 99 recipients"),
            ({"messageVersions": [{"to": [{"email": f"{n}@x.fr"} for n in range(100)]}]}, "1 to 99 recipients"),
            (
                {"messageVersions": [{"to": [{"email": f"{n}-{m}@x.fr"} for n in range(99)]} for m in range(21)]},
                "2079 recipients",
            ),
            ({"messageVersions": [{"to": [{"email": "a@x.fr"}]}, {"to": [{"email": "A@x.fr"}]}]}, "twice"),
            (
                {"messageVersions": [{"to": [{"email": "a@x.fr"}], "params": {"a": "x" * 100_000}}]},
                "params are 100008 bytes",
            ),
            (
                {
                    "messageVersions": [
                        {"to": [{"email": f"{n}@x.fr"}], "params": {"a": "x" * 99_000}} for n in range(11)
                    ]
                },
                "1089088 in the request",
            ),
            ({"headers": {"Idempotency-Key": KEY}}, "no headers.idempotencyKey"),
            ({"headers": {"idempotencyKey": "spring"}}, "no UUID"),
        ],
    )
    def test_a_body_that_brevo_would_refuse(self, changes: dict[str, Any], reason: str) -> None:
        with pytest.raises(brevo.InvalidRequestError, match=reason) as raised:
            dry().send_email(json.dumps({**BODY, **changes}).encode())
        assert "x.fr" not in str(raised.value)

    def test_a_template_brings_sender_and_subject(self) -> None:
        body = {"templateId": 3, "headers": BODY["headers"], "to": [{"email": "b@example.com"}]}
        assert brevo_requests.check_body(json.dumps(body).encode()) == brevo_requests.SendRequest(KEY, 1)


class TestWrites:
    @pytest.mark.parametrize(
        ("body", "path"),
        [
            (b'{"email":"a@x.fr","emailBlacklisted":false}', "/contacts"),
            (b'{"jsonBody":[{"email":"a@x.fr","emailBlacklisted":true}]}', "/contacts"),
            (b'{"emailBlacklist":false}', "/contacts"),
            (b'{"smtpBlacklistSender":[]}', "/contacts"),
            (b"{}", "/smtp/blockedContacts/a@x.fr"),
            (b"{}", "/contacts/lists/1/contacts/remove"),
        ],
    )
    def test_nothing_says_who_may_be_written_to(self, body: bytes, path: str) -> None:
        with pytest.raises(brevo.InvalidRequestError):
            dry().write(brevo_requests.WriteRequest("POST /contacts", path, body))

    def test_an_import_is_cut_by_bytes_and_keeps_everybody(self) -> None:
        rows = [brevo_requests.ContactRow(f"{n}@x.fr", {"CODE": "é" * 10, "LAST": None}) for n in range(50)]
        calls = list(brevo_requests.import_contacts(rows, 7, 500))
        assert all(len(call.body) <= 500 for call in calls)
        assert len(calls) > 1
        handed = [row for call in calls for row in json.loads(call.body)["jsonBody"]]
        assert [row["email"] for row in handed] == [row.email for row in rows]
        assert handed[0]["attributes"] == {"CODE": "é" * 10}
        assert sum(call.n_rows for call in calls) == 50


def reply(status: int, said: Any = None, **headers: str) -> Reply:
    content = said if isinstance(said, bytes) else b"" if said is None else json.dumps(said).encode()
    return Reply(status, headers, content)


class TestAnswers:
    @pytest.mark.parametrize(
        ("status", "said", "outcome", "reason"),
        [
            (201, {"messageIds": ["<1>", "<2>"]}, "accepted", "ok"),
            (202, {"messageIds": ["<1>", "<2>"], "batchId": "b"}, "accepted", "ok"),
            (201, {"messageIds": ["<1>"]}, "unknown", "unreadable"),
            (201, b'{"messageIds": ["<1>', "unknown", "unreadable"),
            (201, b"", "unknown", "unreadable"),
            (200, b"<html>portal</html>", "unknown", "unreadable"),
            (400, {"code": "duplicate_parameter", "message": "a@x.fr"}, "accepted", "duplicate"),
            (400, {"code": "duplicate_request"}, "accepted", "duplicate"),
            (400, {"code": "Request already processed"}, "accepted", "duplicate"),
            (400, {"code": "invalid_parameter"}, "rejected", "bad_request"),
            (400, {"code": "not_enough_credits"}, "not_sent", "no_credit"),
            (400, b"<html>", "rejected", "bad_request"),
            (401, {"code": "unauthorized"}, "not_sent", "unauthorized"),
            (402, {"code": "not_enough_credits"}, "not_sent", "no_credit"),
            (403, {"code": "permission_denied"}, "not_sent", "forbidden"),
            (404, None, "rejected", "not_found"),
            (413, b"<html>", "rejected", "too_large"),
            (422, {"code": "unprocessable_entity"}, "rejected", "bad_request"),
            (429, {"code": "too_many_requests"}, "not_sent", "throttled"),
            (301, None, "unknown", "unreadable"),
            (308, None, "unknown", "unreadable"),
            (408, None, "unknown", "server_error"),
            (409, None, "unknown", "server_error"),
            (500, {"code": "duplicate_parameter"}, "unknown", "server_error"),
            (502, b"<html>", "unknown", "server_error"),
            (503, None, "unknown", "server_error"),
        ],
    )
    def test_a_send(self, status: int, said: Any, outcome: str, reason: str) -> None:
        answer = brevo_answers.classify(reply(status, said), n_versions=2)
        assert (answer.outcome, answer.reason, answer.status) == (outcome, reason, status)

    @pytest.mark.parametrize(
        ("failure", "outcome"),
        [
            ("not_connected", "not_sent"),
            ("timed_out", "unknown"),
            ("disconnected", "unknown"),
            ("unreadable", "unknown"),
        ],
    )
    def test_no_answer(self, failure: Failure, outcome: str) -> None:
        assert brevo_answers.classify(Broken(failure), n_versions=2).outcome == outcome

    def test_a_duplicate_is_a_refusal_where_nothing_was_sent(self) -> None:
        answer = brevo_answers.classify(reply(400, {"code": "duplicate_parameter"}))
        assert (answer.outcome, answer.error_code) == ("rejected", "duplicate_parameter")

    def test_an_empty_success_is_one_where_nothing_was_sent(self) -> None:
        assert brevo_answers.classify(reply(204)).outcome == "accepted"
        assert brevo_answers.classify(reply(204), n_versions=1).outcome == "unknown"

    def test_a_code_that_is_a_sentence_is_not_repeated(self) -> None:
        answer = brevo_answers.classify(reply(400, {"code": "a@x.fr is blocked", "message": "a@x.fr"}), n_versions=1)
        assert answer.error_code is None
        assert "a@x.fr" not in repr(answer)

    @pytest.mark.parametrize(
        ("said", "seconds"), [("7", 7.0), ("1799999999", 3600.0), ("-1", None), ("soon", None), ("nan", None)]
    )
    def test_a_throttled_call_says_when_to_come_back(self, said: str, seconds: float | None) -> None:
        answer = brevo_answers.classify(reply(429, None, **{"x-sib-ratelimit-reset": said}), n_versions=1)
        assert answer.retry_after == seconds


@pytest.mark.parametrize(
    ("method", "path", "bucket"),
    [
        ("POST", "/smtp/email", "smtp_email"),
        ("GET", "/smtp/blockedContacts", "blocked_contacts"),
        ("GET", "/smtp/statistics/events", "smtp"),
        ("GET", "/contacts/attributes", "contacts"),
        ("GET", "/processes/1", "other"),
    ],
)
def test_calls_count_for_their_group(method: str, path: str, bucket: str) -> None:
    assert brevo.bucket_of(method, path) == bucket
