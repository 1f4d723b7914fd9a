"""Webhooks: their registry, and a sender with Brevo's rules of trying again (brevo.md A6).

Five tries, 10 minutes, 1, 2 and 8 hours apart. Only 429 and a host that does not answer are tried again; any other
4xx and any 5xx discards the event for ever. The posts themselves are made by whoever holds the clock, see `StandIn`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from brevo_standin.account import Account
from brevo_standin.log import VOCABULARIES, Event
from brevo_standin.times import PARIS, Times, in_utc
from brevo_standin.wire import RefusedError, Reply, Request, invalid, missing, not_found

RETRIES = (600.0, 3600.0, 7200.0, 28800.0)
HOST_PAUSE = 600.0
BATCH_SECONDS, BATCH_EVENTS = 300.0, 500
MAX_WEBHOOKS = 40
TRANSACTIONAL = {
    "sent", "request", "delivered", "hardBounce", "softBounce", "blocked", "spam", "invalid", "deferred", "click",
    "opened", "uniqueOpened", "unsubscribed",
}  # fmt: skip
MARKETING = {
    "spam", "opened", "click", "hardBounce", "softBounce", "unsubscribed", "listAddition", "delivered",
    "contactUpdated", "contactDeleted",
}  # fmt: skip
EVENTS = {"transactional": TRANSACTIONAL, "marketing": MARKETING, "inbound": {"inboundEmailProcessed"}}


@dataclass
class Delivery:
    """One POST to be made, and how it went so far."""

    webhook: int
    url: str
    headers: dict[str, str]
    body: bytes = field(repr=False)
    n_events: int = 1
    tries: list[int | None] = field(default_factory=list)  # status of each; None: no answer
    outcome: str = "waiting"  # delivered | discarded | given_up


class Webhooks:
    """All webhooks of an account and what they have still to say."""

    def __init__(self, times: Times, account: Account) -> None:
        self.times = times
        self.account = account
        self.contact_id: Callable[[str], int] = lambda _address: 0
        self.forget()

    def forget(self) -> None:
        self.by_id: dict[int, dict[str, Any]] = {}
        self.deliveries: list[Delivery] = []
        self.due: list[Delivery] = []  # to be posted now
        self._waiting: dict[int, list[dict[str, Any]]] = {}
        self._opened: set[str] = set()
        self._paused: dict[str, datetime] = {}
        self._last_id = 0

    def routes(self) -> list[tuple[str, str, Callable[..., Reply]]]:
        return [
            ("GET", "/webhooks", self.all),
            ("POST", "/webhooks", self.create),
            ("GET", "/webhooks/{number}", lambda _request, number: Reply.of(self._row(self._one(number)))),
            ("PUT", "/webhooks/{number}", self.update),
            ("DELETE", "/webhooks/{number}", self.delete),
        ]

    # --- registry

    def _check(self, said: dict[str, Any]) -> None:
        if not isinstance(said.get("url"), str) or urlsplit(said["url"]).scheme not in ("http", "https"):
            raise missing("url is missing or not valid")
        if said["type"] not in EVENTS:
            raise invalid("type is not valid")
        if not said.get("events") or not set(said["events"]) <= EVENTS[said["type"]]:
            raise invalid("events is missing or not valid for this type")
        if said.get("auth") and (said["auth"].get("type") != "bearer" or not said["auth"].get("token")):
            raise invalid("auth is not valid")

    def create(self, request: Request) -> Reply:
        said = {"type": "transactional", "channel": "email", "batched": False, **request.mapping}
        self._check(said)
        if len(self.by_id) >= MAX_WEBHOOKS:
            raise RefusedError(400, "out_of_range", "Number of webhooks should not exceed 40")
        self._last_id += 1
        now = self.times.now()
        self.by_id[self._last_id] = {**said, "id": self._last_id, "createdAt": now, "modifiedAt": now}
        return Reply.of({"id": self._last_id}, 201)

    def _one(self, number: str) -> dict[str, Any]:
        if not number.isdecimal() or int(number) not in self.by_id:
            raise not_found("Webhook ID does not exist")
        return self.by_id[int(number)]

    @staticmethod
    def _row(webhook: dict[str, Any]) -> dict[str, Any]:
        dated = {name: in_utc(webhook[name]) for name in ("createdAt", "modifiedAt")}
        return {"description": "", **webhook, **dated}

    def all(self, request: Request) -> Reply:
        kind = request.first("type") or "transactional"
        rows = [self._row(webhook) for webhook in self.by_id.values() if webhook["type"] == kind]
        if not rows:
            raise not_found("No webhooks found")
        return Reply.of({"webhooks": rows if request.first("sort") == "asc" else rows[::-1]})

    def update(self, request: Request, number: str) -> Reply:
        webhook = self._one(number)
        changed = {**webhook, **request.mapping}
        self._check(changed)
        webhook.update(changed, modifiedAt=self.times.now())
        return Reply(204)

    def delete(self, request: Request, number: str) -> Reply:
        del self.by_id[int(self._one(number)["id"])]
        return Reply(204)

    # --- what they say

    def transactional(self, event: Event) -> None:
        """Tell of an event of a transactional message."""
        creation = VOCABULARIES[event.kind][2]
        is_first_open = event.kind == "opened" and event.message.uuid not in self._opened
        if is_first_open:
            self._opened.add(event.message.uuid)
        for webhook in self.by_id.values():
            if webhook["type"] != "transactional":
                continue
            wanted = set(webhook["events"])
            if creation in wanted or (creation == "request" and "sent" in wanted):
                self._queue(webhook, self._payload(webhook, event, VOCABULARIES[event.kind][1]))
            if is_first_open and "uniqueOpened" in wanted:
                self._queue(webhook, self._payload(webhook, event, "unique_opened"))

    def _payload(self, webhook: dict[str, Any], event: Event, name: str) -> dict[str, Any]:
        call, message = event.message.call, event.message
        headers = {key.lower(): value for key, value in call.request.get("headers", {}).items()}
        call.forget_parsed()
        seconds = int(event.at.timestamp())
        payload: dict[str, Any] = {
            "event": name,
            "email": message.address,
            "id": webhook["id"],
            "date": event.at.astimezone(PARIS).strftime("%Y-%m-%d %H:%M:%S"),
            "ts": seconds,
            "message-id": message.message_id,
            "ts_event": seconds,
            "ts_epoch": int(event.at.timestamp() * 1000),
            "subject": message.subject,
            "sending_ip": "1.179.112.10",
            "tag": json.dumps(call.tags),
            "tags": call.tags,
            "mirror_link": f"https://app-smtp.brevo.com/log/preview/{message.uuid}",
            "contact_id": self.contact_id(message.address),
        }
        if "x-mailin-custom" in headers:
            payload["X-Mailin-custom"] = headers["x-mailin-custom"]
        if call.template_id is not None:
            payload["template_id"] = call.template_id
        for key in ("link", "reason"):
            if getattr(event, key) is not None:
                payload[key] = getattr(event, key)
        return payload

    def marketing(self, event: str, creation: str, email: str, **more: Any) -> None:
        """Tell of an event of a campaign, or of a contact that changed."""
        now = self.times.now()
        for webhook in self.by_id.values():
            if webhook["type"] == "marketing" and creation in webhook["events"]:
                payload = {
                    "event": event,
                    "email": email,
                    "id": webhook["id"],
                    "ts_event": int(now.timestamp()),
                    **more,
                }
                payload["date_event"] = now.astimezone(PARIS).strftime("%Y-%m-%d %H:%M:%S")
                self._queue(webhook, payload)

    def _queue(self, webhook: dict[str, Any], payload: dict[str, Any]) -> None:
        if not webhook["batched"]:
            self._post(webhook, payload, 1)
            return
        waiting = self._waiting.setdefault(webhook["id"], [])
        waiting.append(payload)
        if len(waiting) == 1:
            self.times.after(BATCH_SECONDS, lambda: self._end_window(webhook))

    def _end_window(self, webhook: dict[str, Any]) -> None:
        waiting = self._waiting.pop(webhook["id"], [])
        for start in range(0, len(waiting), BATCH_EVENTS):
            part = waiting[start : start + BATCH_EVENTS]
            self._post(webhook, part, len(part))

    def _post(self, webhook: dict[str, Any], content: Any, n_events: int) -> None:
        headers = {"content-type": "application/json", "user-agent": "Brevo stand-in"}
        headers |= {each["key"]: each["value"] for each in webhook.get("headers", [])}
        if webhook.get("auth"):
            headers["authorization"] = f"Bearer {webhook['auth']['token']}"
        body = json.dumps(content, ensure_ascii=False).encode()
        self.send(Delivery(webhook["id"], webhook["url"], headers, body, n_events))

    def notify(self, url: str, content: dict[str, Any]) -> None:
        """Post to the `notifyUrl` of a process, under the same rules."""
        self.send(Delivery(0, url, {"content-type": "application/json"}, json.dumps(content).encode()))

    def send(self, delivery: Delivery) -> None:
        self.deliveries.append(delivery)
        self._when_free(delivery)

    def _when_free(self, delivery: Delivery) -> None:
        """Now, or when the pause of a host that did not answer is over."""
        until = self._paused.get(urlsplit(delivery.url).netloc)
        if until is not None and until > self.times.now():
            self.times.at(until, lambda: self._when_free(delivery))
        else:
            self.due.append(delivery)

    def answered(self, delivery: Delivery, status: int | None) -> None:
        """How a POST ended: its HTTP status, None when nobody answered."""
        delivery.tries.append(status)
        if status is not None and 200 <= status < 300:
            delivery.outcome = "delivered"
        elif status not in (None, 429):
            delivery.outcome = "discarded"
        elif len(delivery.tries) > len(RETRIES):
            delivery.outcome = "given_up"
        else:
            if status is None:
                self._paused[urlsplit(delivery.url).netloc] = self.times.now() + timedelta(seconds=HOST_PAUSE)
            self.times.after(RETRIES[len(delivery.tries) - 1], lambda: self._when_free(delivery))
