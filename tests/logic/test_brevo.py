"""Brevo's client, the parts that need no network."""

from __future__ import annotations

import json
from typing import Any, ClassVar

import pytest

from crm_assets import rules as rules_module
from crm_assets.logic import outbox
from crm_assets.resources import brevo
from tests.logic import estate
from tests.logic.test_outbox import campaign, planned


class TestBrevo:
    ARMED: ClassVar[dict[str, Any]] = {
        "live_allowed": True,
        "api_key": "xkeysib-test",
        "confirmed_plan_hash": "h",
        "plan_hash": "h",
    }

    def test_without_a_confirmed_plan_it_is_a_dry_run(self) -> None:
        tenant = estate.tenant(brevo={"live": True})
        client = brevo.client(tenant, **{**self.ARMED, "confirmed_plan_hash": None})
        assert client.is_dry_run

    @pytest.mark.parametrize(
        ("live", "changes", "reason"),
        [
            (False, {}, "does not say brevo.live: true"),
            (True, {"live_allowed": False}, "CRM_LIVE is not 1"),
            (True, {"api_key": None}, "no Brevo key in CRM_BREVO_KEY"),
            (True, {"confirmed_plan_hash": "other"}, "not that of this plan"),
            (True, {}, "no network transport"),
        ],
    )
    def test_a_live_send_is_refused_in_a_sentence(self, live: bool, changes: dict[str, Any], reason: str) -> None:
        tenant = estate.tenant(brevo={"live": live})
        with pytest.raises(brevo.LiveRefusedError, match=reason) as raised:
            brevo.client(tenant, **{**self.ARMED, **changes})
        assert "xkeysib" not in str(raised.value)

    def test_a_dry_run_opens_no_socket(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import socket

        def refuse(*_: Any, **__: Any) -> None:
            raise AssertionError("a socket was opened")

        monkeypatch.setattr(socket, "socket", refuse)
        monkeypatch.setattr(socket, "create_connection", refuse)
        (chunk,) = outbox.chunks(estate.tenant(), campaign(), "once", planned(3), rules_module.load())
        assert brevo.Brevo().send_email(chunk.body) == brevo.Answer("dry_run", "dry_run")

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
            ({"messageVersions": [{"to": [{"email": "a@x.fr"}]}] * 2}, "twice"),
        ],
    )
    def test_a_body_that_brevo_would_refuse(self, changes: dict[str, Any], reason: str) -> None:
        body = {
            "sender": {"name": "A", "email": "a@example.com"},
            "subject": "Bonjour",
            "htmlContent": "<p>",
            "messageVersions": [{"to": [{"email": "b@example.com"}]}],
        }
        with pytest.raises(brevo.InvalidRequestError, match=reason):
            brevo.Brevo().send_email(json.dumps({**body, **changes}).encode())
