"""POST /smtp/email: every documented limit and combination, idempotency in three modes, all accepted or nothing.

A request is accepted whole or refused whole; no partial failure is documented (brevo.md A1).
"""

from __future__ import annotations

import json
import random
import re
import uuid
import zlib
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, Literal

from brevo_standin.wire import RefusedError, Request, invalid, missing

IdempotencyMode = Literal["body", "http", "none"]
MAX_RECIPIENTS = 2000
MAX_RECIPIENTS_PER_VERSION = 99
MAX_VERSIONS = 1000
MAX_PARAMS = 100 * 1024  # bytes of JSON, of one version
MAX_ALL_PARAMS = 1000 * 1024
MAX_NAME = 70
KEY_SECONDS = 30 * 60
MAX_SCHEDULED_AHEAD = timedelta(days=3)
# Only what is surely no address: Brevo's own test is not known, and the client has its own.
_ADDRESS = re.compile(r"[^@\s,;<>()\"\\]+@[^@\s,;<>()\"\\]+\.[^@\s.,;<>()\"\\]{2,}")
_UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", re.IGNORECASE)
_VERSION_KEYS = {"to", "cc", "bcc", "replyTo", "subject", "htmlContent", "textContent", "params", "templateId"}


@dataclass(slots=True, eq=False)
class Message:
    """What one recipient gets. `version`: its place in the call, None without message versions."""

    call: Call
    address: str
    version: int | None
    message_id: str
    subject: str
    role: str = "to"
    blocked: bool = False
    uuid: str = ""

    def content(self) -> dict[str, Any]:
        """params, html and text as the recipient's version has them."""
        said = self.call.request
        version = said["messageVersions"][self.version] if self.version is not None else {}
        return {
            "params": {**said.get("params", {}), **version.get("params", {})},
            "html": version.get("htmlContent") or said.get("htmlContent"),
            "text": version.get("textContent") or said.get("textContent"),
            "name": next(
                (each.get("name") for each in version.get("to", said.get("to", [])) if each["email"] == self.address),
                None,
            ),
        }


@dataclass(eq=False)
class Call:
    """One accepted request. Its bytes are kept compressed: HTML of thousands of messages is much the same."""

    number: int
    at: datetime
    packed: bytes = field(repr=False)
    sender: str
    tags: list[str]
    template_id: int | None
    idempotency_key: str | None  # whichever was recognised
    scheduled_at: datetime | None = None
    batch_id: str | None = None
    status: str = "processed"  # scheduled: queued -> processed | cancelled
    messages: list[Message] = field(default_factory=list, repr=False)
    message_ids: list[str] = field(default_factory=list, repr=False)

    @property
    def body(self) -> bytes:
        return zlib.decompress(self.packed)

    @cached_property
    def request(self) -> dict[str, Any]:
        return dict(json.loads(self.body))

    def forget_parsed(self) -> None:
        """Keep the bytes only."""
        self.__dict__.pop("request", None)


@dataclass
class Parsed:
    """A request that breaks no rule of its own; what the account says of it is asked afterwards."""

    sender: str | None
    template_id: int | None
    template_ids: set[int]
    recipients: list[tuple[int | None, str, str, str | None]]  # version, role, address, subject
    tags: list[str]
    scheduled_at: datetime | None
    batch_id: str | None
    is_sandbox: bool


def key_of(request: Request, mode: IdempotencyMode) -> str | None:
    """The idempotency key where the mode looks for it. Only the spelling without a hyphen counts (brevo.md A2)."""
    if mode == "body":
        headers = request.mapping.get("headers") or {}
        found = next((value for name, value in headers.items() if name.lower() == "idempotencykey"), None)
        return str(found) if found else None
    return request.headers.get("idempotencykey") if mode == "http" else None


def _people(said: Any, what: str) -> list[str]:
    """Addresses of a list of recipients; RefusedError when it is none or one of them is none."""
    if not isinstance(said, list) or not said:
        raise missing(f"{what} is missing")
    found = []
    for each in said:
        if not isinstance(each, dict) or not isinstance(each.get("email"), str):
            raise missing(f"email is missing in {what}")
        if not _ADDRESS.fullmatch(each["email"]) or ".." in each["email"]:
            raise invalid(f"email is not valid in {what}")
        if not isinstance(each.get("name", ""), str) or len(each.get("name", "")) > MAX_NAME:
            raise invalid(f"name is not valid in {what}")
        found.append(each["email"])
    return found


def _size(params: Any) -> int:
    if params is None:
        return 0
    if not isinstance(params, dict):
        raise invalid("params should be an object")
    return len(json.dumps(params, ensure_ascii=False, separators=(",", ":")).encode())


def _schedule(said: Any, now: datetime) -> datetime | None:
    if said is None:
        return None
    try:
        moment = datetime.fromisoformat(said)
    except (TypeError, ValueError):
        raise invalid("scheduledAt is not a valid date-time") from None
    if moment.tzinfo is None:
        raise invalid("scheduledAt needs a time zone")
    if not now < moment <= now + MAX_SCHEDULED_AHEAD:
        raise invalid("scheduledAt should lie in the next 72 hours")
    return moment


def parse(request: dict[str, Any], now: datetime) -> Parsed:
    """The request's own rules: required combinations, counts, sizes, addresses. RefusedError names no recipient."""
    template = request.get("templateId")
    if template is not None and (not isinstance(template, int) or isinstance(template, bool)):
        raise invalid("templateId should be a number")
    has_content = bool(request.get("htmlContent") or request.get("textContent"))
    sender = _sender(request, template)
    if template is None and not has_content:
        raise missing("htmlContent or textContent is missing")
    if template is None and not request.get("subject"):
        raise missing("subject is missing")
    tags = request.get("tags", [])
    if not isinstance(tags, list) or not all(isinstance(tag, str) and tag for tag in tags):
        raise invalid("tags should be an array of strings")
    headers = request.get("headers") or {}
    if not isinstance(headers, dict):
        raise invalid("headers should be an object")
    if "replyTo" in request:
        _people([request["replyTo"]], "replyTo")
    batch_id = request.get("batchId")
    if batch_id is not None and not (isinstance(batch_id, str) and _UUID4.fullmatch(batch_id)):
        raise invalid("batchId should be a UUIDv4")
    recipients, templates = _recipients(request, template, has_content)
    sandbox = next((value for name, value in headers.items() if name.lower() == "x-sib-sandbox"), None)
    return Parsed(
        sender=sender,
        template_id=template,
        template_ids=templates,
        recipients=recipients,
        tags=list(tags),
        scheduled_at=_schedule(request.get("scheduledAt"), now),
        batch_id=batch_id,
        is_sandbox=sandbox == "drop",
    )


def _sender(request: dict[str, Any], template: int | None) -> str | None:
    sender = request.get("sender")
    if sender is None:
        if template is None:
            raise missing("sender is missing")
        return None
    if not isinstance(sender, dict):
        raise invalid("sender should be an object")
    if "id" in sender:
        return f"id:{sender['id']}"
    if len(str(sender.get("name", ""))) > MAX_NAME:
        raise invalid("sender name should not exceed 70 characters")
    return _people([sender], "sender")[0]


def _recipients(
    request: dict[str, Any], template: int | None, has_content: bool
) -> tuple[list[tuple[int | None, str, str, str | None]], set[int]]:
    versions = request.get("messageVersions")
    templates = set() if template is None else {template}
    if "messageVersions" not in request:
        if _size(request.get("params")) > MAX_PARAMS:
            raise RefusedError(400, "out_of_range", "params should not exceed 100 KB")
        found: list[tuple[int | None, str, str, str | None]] = [
            (None, role, address, request.get("subject"))
            for role in ("to", "cc", "bcc")
            if role == "to" or role in request
            for address in _people(request.get(role), role)
        ]
        if len(found) > MAX_RECIPIENTS_PER_VERSION:
            raise RefusedError(400, "out_of_range", "Number of recipients should not exceed 99")
        return found, templates
    if not isinstance(versions, list) or not versions:
        raise invalid("messageVersions should be a non-empty array")
    if len(versions) > MAX_VERSIONS:
        raise RefusedError(400, "out_of_range", "messageVersions should not exceed 1000")
    shared, total = _size(request.get("params")), 0
    recipients: list[tuple[int | None, str, str, str | None]] = []
    for index, version in enumerate(versions):
        what = f"messageVersions[{index}]"
        if not isinstance(version, dict):
            raise invalid(f"{what} should be an object")
        if unknown := set(version) - _VERSION_KEYS:
            raise invalid(f"{sorted(unknown)[0]} is not allowed in {what}")
        if (version.get("htmlContent") or version.get("textContent")) and not has_content:
            raise invalid(f"{what} has content of its own, but the request has none")
        if "templateId" in version:
            if template is None:
                raise invalid(f"{what} has a templateId, but the request has none")
            templates.add(version["templateId"])
        if "replyTo" in version:
            _people([version["replyTo"]], f"{what}.replyTo")
        size = _size(version.get("params"))
        total += size or shared
        if max(size, shared) > MAX_PARAMS:
            raise RefusedError(400, "out_of_range", f"params of {what} should not exceed 100 KB")
        people = [
            (index, role, address, version.get("subject") or request.get("subject"))
            for role in ("to", "cc", "bcc")
            if role == "to" or role in version
            for address in _people(version.get(role), f"{what}.{role}")
        ]
        if len(people) > MAX_RECIPIENTS_PER_VERSION:
            raise RefusedError(400, "out_of_range", f"{what} should not exceed 99 recipients")
        recipients += people
    if total > MAX_ALL_PARAMS:
        raise RefusedError(400, "out_of_range", "Cumulative params should not exceed 1000 KB")
    if len(recipients) > MAX_RECIPIENTS:
        raise RefusedError(400, "out_of_range", "Number of recipients should not exceed 2000")
    return recipients, templates


class Identifiers:
    """Ids as Brevo makes them, by a seeded chance."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)

    def message_id(self, now: datetime) -> str:
        return f"<{now:%Y%m%d%H%M}.{self._chance.randrange(10**11):011d}@smtp-relay.mailin.fr>"

    def uuid(self) -> str:
        return str(uuid.UUID(int=self._chance.getrandbits(128), version=4))

    def shuffled(self, items: list[str]) -> list[str]:
        return self._chance.sample(items, len(items))
