"""One Brevo account: what it knows, and what it has accepted. Plain state; `reset` goes back to what was seeded."""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from brevo_standin.log import Event, Log
from brevo_standin.mail import KEY_SECONDS, Call, IdempotencyMode, Identifiers, Message, Parsed, key_of, parse
from brevo_standin.times import Times, in_utc
from brevo_standin.wire import RefusedError, Reply, Request, invalid, not_found

# Events after which Brevo writes to an address no more, of that sender: kind -> reason code of the blocklist.
BLOCKING = {"hard_bounce": "hardBounce", "spam": "contactFlaggedAsSpam", "unsubscribed": "unsubscribedViaEmail"}
REASONS = {
    "unsubscribedViaMA": "Unsubscribed via MA",
    "unsubscribedViaEmail": "Unsubscribed via email",
    "adminBlocked": "Admin blocked",
    "unsubscribedViaApi": "Unsubscribed via API",
    "hardBounce": "Hard bounce",
    "contactFlaggedAsSpam": "Contact flagged as spam",
}


@dataclass(frozen=True)
class Block:
    """One entry of the blocklist of transactional mail, which is kept per sender."""

    email: str
    sender: str
    code: str
    at: datetime


class Account:
    """State and its changes. `on_event` is told of every event: webhooks and simulated people hang there."""

    def __init__(self, times: Times, mode: IdempotencyMode, seed: int = 0) -> None:
        self.times = times
        self.mode: IdempotencyMode = mode
        self.seed = seed
        self.log = Log()
        self.on_event: Callable[[Event], None] = lambda _event: None
        self.on_accepted: Callable[[Call], None] = lambda _call: None
        self.forget()

    def forget(self) -> None:
        """An account just opened."""
        self.ids = Identifiers(self.seed)
        self.log.forget()
        self.log.lag = 0.0
        self.calls: list[Call] = []
        self.sandboxed = 0
        self.keys: dict[str, datetime] = {}
        self.credits: int | None = None  # None: unlimited
        self.senders: dict[int, tuple[str, str]] = {}  # id -> address, name
        self.templates: dict[int, dict[str, Any]] = {}
        self.blocks: dict[tuple[str, str], Block] = {}
        self.by_message_id: dict[str, list[Message]] = defaultdict(list)
        self.by_uuid: dict[str, Message] = {}

    # --- senders, blocklist

    def add_sender(self, email: str, name: str = "") -> int:
        known = next((number for number, (address, _) in self.senders.items() if address == email.lower()), None)
        number = known or len(self.senders) + 1
        self.senders[number] = (email.lower(), name)
        return number

    def registered(self, sender: str) -> str:
        """The address of a registered sender; RefusedError otherwise."""
        for number, (address, _) in self.senders.items():
            if sender.lower() == address or sender == f"id:{number}":
                return address
        raise invalid("Sending has been rejected because the sender you used is not valid. Validate your sender")

    def block(self, email: str, sender: str, code: str) -> None:
        key = (sender.lower(), email.lower())
        self.blocks.setdefault(key, Block(email, sender.lower(), code, self.times.now()))

    def is_blocked(self, email: str, sender: str) -> bool:
        return (sender.lower(), email.lower()) in self.blocks

    # --- sending

    def send(self, request: Request) -> Reply:
        """POST /smtp/email."""
        now = self.times.now()
        said = parse(request.mapping, now)
        sender, templates = self._known(said)
        key = key_of(request, self.mode)
        if said.is_sandbox:  # a check of the form: nothing leaves, nothing is logged, no key is remembered
            self.sandboxed += 1
            return Reply.of(self._ids_of([self.ids.message_id(now) for _ in _versions(said)], said), 201)
        if key is not None:
            self.keys = {known: at for known, at in self.keys.items() if now < at + timedelta(seconds=KEY_SECONDS)}
            if key in self.keys:
                raise RefusedError(400, "duplicate_parameter", "Request already processed: idempotencyKey is used")
        if self.credits is not None:
            if self.credits < len(said.recipients):
                raise RefusedError(402, "not_enough_credits", "Insufficient credits")
            self.credits -= len(said.recipients)
        if key is not None:
            self.keys[key] = now
        call = Call(
            number=len(self.calls) + 1,
            at=now,
            packed=zlib.compress(request.body, 1),
            sender=sender,
            tags=said.tags,
            template_id=said.template_id,
            idempotency_key=key,
            scheduled_at=said.scheduled_at,
            batch_id=(said.batch_id or self.ids.uuid()) if said.scheduled_at else None,
            status="queued" if said.scheduled_at else "processed",
        )
        self._add_messages(call, said, templates)
        self.calls.append(call)
        answer = self._ids_of(call.message_ids, said)
        if said.scheduled_at is not None:
            self.times.at(said.scheduled_at, lambda: self._leave(call))
            return Reply.of({**answer, "batchId": call.batch_id}, 202)
        self._leave(call)
        return Reply.of(answer, 201)

    def _known(self, said: Parsed) -> tuple[str, dict[str, Any] | None]:
        """The sender's address and the template; RefusedError when the account knows them not."""
        for number in said.template_ids:
            if number not in self.templates:
                raise RefusedError(400, "invalid_parameter", "Template not found: templateId does not exist")
            if not self.templates[number]["isActive"]:
                raise RefusedError(400, "invalid_parameter", "Template is not active")
        template = None if said.template_id is None else self.templates[said.template_id]
        return self.registered(said.sender or template["sender"]["email"] if template else str(said.sender)), template

    def _add_messages(self, call: Call, said: Parsed, template: dict[str, Any] | None) -> None:
        by_version = {version: self.ids.message_id(call.at) for version in _versions(said)}
        call.message_ids = list(by_version.values())
        for version, role, address, subject in said.recipients:
            message = Message(
                call=call,
                address=address,
                version=version,
                message_id=by_version[version],
                subject=subject or (template or {}).get("subject", ""),
                role=role,
                uuid=self.ids.uuid(),
            )
            call.messages.append(message)
            self.by_message_id[message.message_id].append(message)
            self.by_uuid[message.uuid] = message

    def _ids_of(self, message_ids: list[str], said: Parsed) -> dict[str, Any]:
        """One id per version, in no order one could rely on: none is stated (brevo.md A1)."""
        if said.recipients[0][0] is None:
            return {"messageId": message_ids[0]}
        return {"messageIds": self.ids.shuffled(message_ids)}

    def _leave(self, call: Call) -> None:
        if call.status == "cancelled":
            return
        call.status = "processed"
        for message in call.messages:
            self.happen("request", message)
            if self.is_blocked(message.address, call.sender):
                message.blocked = True
                self.happen("blocked", message, reason="blocked : due to blacklist user")
        self.on_accepted(call)

    # --- what happens to messages

    def happen(
        self,
        kind: str,
        message: Message,
        *,
        at: datetime | None = None,
        lag: float | None = None,
        times: int = 1,
        link: str | None = None,
        reason: str | None = None,
        ip: str | None = None,
    ) -> None:
        """An event of a message, now unless said, in the log after its lag, as often as said."""
        moment = at or self.times.now()
        seen = self.times.now() + timedelta(seconds=self.log.lag if lag is None else lag)
        for _ in range(times):
            event = Event(moment, seen, kind, message, link, reason, ip)
            self.log.write(event)
            self.on_event(event)
        if kind in BLOCKING:
            self.block(message.address, message.call.sender, BLOCKING[kind])

    # --- scheduled mail

    def status_of(self, identifier: str) -> Reply:
        """GET /smtp/emailStatus/{batchId or messageId}."""
        calls = self._scheduled(identifier)
        if not calls:
            raise not_found("Batch ID or message ID not found")
        rows = [
            {
                "scheduledAt": in_utc(call.scheduled_at),
                "createdAt": in_utc(call.at),
                "status": "error" if call.status == "cancelled" else call.status,
            }
            for call in calls
            if call.scheduled_at
        ]
        return Reply.of({"count": len(rows), "batches": rows} if _looks_like_batch(identifier) else rows[0])

    def cancel(self, identifier: str) -> Reply:
        """DELETE /smtp/email/{batchId or messageId}."""
        calls = [call for call in self._scheduled(identifier) if call.status == "queued"]
        if not calls:
            raise not_found("Batch ID or message ID not found, or already sent")
        for call in calls:
            call.status = "cancelled"
        return Reply(204)

    def _scheduled(self, identifier: str) -> list[Call]:
        return [
            call
            for call in self.calls
            if call.scheduled_at and (identifier == call.batch_id or identifier in call.message_ids)
        ]


def _looks_like_batch(identifier: str) -> bool:
    return "@" not in identifier


def _versions(said: Parsed) -> list[int | None]:
    return list(dict.fromkeys(version for version, *_ in said.recipients))
