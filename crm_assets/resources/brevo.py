"""Brevo, as far as the product talks to it today: request bodies are checked, and nothing leaves the machine.

A dry run is a property of the client: it holds no key and has no transport, so no socket can be opened by
mistake. Sending over the network, with the outbox's settlement of unknown outcomes, is not part of this
client; asking for it is refused in a sentence. What is documented about the service is in `docs/`; nothing is
planned or decided here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal

from crm_assets.tenants import Tenant

# POST /smtp/email, as documented by Brevo.
MAX_VERSIONS = 1000
MAX_RECIPIENTS_PER_VERSION = 99
MAX_SENDER_NAME = 70

# What became of a call: the four that settle what to do next, and the dry run.
Outcome = Literal["accepted", "rejected", "not_sent", "unknown", "dry_run"]
# Why: accepted = ok | duplicate (already accepted, ids unknown); rejected = bad_request | too_large | not_found;
# not_sent = throttled | unauthorized | forbidden | no_credit | not_connected; unknown = server_error | timed_out |
# disconnected | unreadable.
Reason = Literal[
    "ok", "duplicate", "bad_request", "too_large", "not_found", "throttled", "unauthorized", "forbidden", "no_credit",
    "not_connected", "server_error", "timed_out", "disconnected", "unreadable", "dry_run",
]  # fmt: skip


class LiveRefusedError(Exception):
    """A live send was asked for and is not allowed; the message says which of the safeguards is missing."""


class InvalidRequestError(Exception):
    """A body that Brevo would refuse; found before anything is sent."""


@dataclass(frozen=True)
class Answer:
    """How one call ended. `content`: the exact bytes of the answer; they may name people, so they are in no repr."""

    outcome: Outcome
    reason: Reason
    status: int | None = None  # HTTP
    error_code: str | None = None  # Brevo's own, where it is one of its documented words
    content: bytes = field(default=b"", repr=False)
    retry_after: float | None = None  # seconds until the bucket is full again, by Brevo's own header

    def json(self) -> Any:
        """The answer's content; ValueError when it is no JSON."""
        return json.loads(self.content)


def check_body(body: bytes) -> None:
    """InvalidRequestError when a POST /smtp/email body breaks a documented limit. Names no recipient."""
    request = json.loads(body)
    versions = request.get("messageVersions", [])
    if not request.get("sender", {}).get("email"):
        raise InvalidRequestError("the request names no sender")
    if len(request["sender"].get("name", "")) > MAX_SENDER_NAME:
        raise InvalidRequestError(f"the sender's name is longer than {MAX_SENDER_NAME} characters")
    if not request.get("subject") or not request.get("htmlContent"):
        raise InvalidRequestError("the request has no subject or no content")
    if not 1 <= len(versions) <= MAX_VERSIONS:
        raise InvalidRequestError(f"{len(versions)} message versions; 1 to {MAX_VERSIONS} are allowed")
    if any(not 1 <= len(version["to"]) <= MAX_RECIPIENTS_PER_VERSION for version in versions):
        raise InvalidRequestError(f"a version needs 1 to {MAX_RECIPIENTS_PER_VERSION} recipients")
    addresses = [to["email"] for version in versions for to in version["to"]]
    if len(set(addresses)) != len(addresses):
        raise InvalidRequestError("an address stands twice in one request")


class Brevo:
    """A client that only ever runs dry: it checks a request as Brevo would and answers `dry_run`."""

    is_dry_run = True

    def send_email(self, body: bytes) -> Answer:
        """Check the body of a POST /smtp/email; nothing is sent."""
        check_body(body)
        return Answer("dry_run", "dry_run")


def client(
    tenant: Tenant,
    *,
    live_allowed: bool,
    api_key: str | None,
    confirmed_plan_hash: str | None,
    plan_hash: str,
) -> Brevo:
    """The client for one send. Without a confirmed plan hash it is a dry run; with one, a live send is being
    asked for.

    `live_allowed` is CRM_LIVE; `api_key` the value of the variable that the tenant's file names.
    LiveRefusedError names the first safeguard that is missing (spec.md §7).
    """
    if not confirmed_plan_hash:
        return Brevo()
    if not tenant.brevo.live:
        raise LiveRefusedError(f"live sending is not allowed: tenants/{tenant.slug}.yaml does not say brevo.live: true")
    if not live_allowed:
        raise LiveRefusedError("live sending is not allowed: CRM_LIVE is not 1")
    if not api_key:
        raise LiveRefusedError(f"live sending is not possible: no Brevo key in {tenant.brevo.api_key_variable}")
    if confirmed_plan_hash != plan_hash:
        raise LiveRefusedError("live sending is not allowed: the confirmed hash is not that of this plan")
    raise LiveRefusedError(
        "live sending is not possible in this version: its Brevo client has no network transport, because the"
        " settlement of unknown outcomes that a live send needs is not there yet; run it dry"
    )
