"""What an answer of Brevo's to a call means: accepted, rejected, not sent, or nobody knows (brevo.md A8).

Pure: status, headers and bytes in, a verdict out. What is done about it is decided by whoever called.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

# What became of a call: the four that settle what to do next, and the dry run.
Outcome = Literal["accepted", "rejected", "not_sent", "unknown", "dry_run"]
# Why: accepted = ok | duplicate (already accepted, ids unknown); rejected = bad_request | too_large | not_found;
# not_sent = throttled | unauthorized | forbidden | no_credit | not_connected; unknown = server_error | timed_out |
# disconnected | unreadable. Of reading page by page alone: moved.
Reason = Literal[
    "ok", "duplicate", "bad_request", "too_large", "not_found", "throttled", "unauthorized", "forbidden", "no_credit",
    "not_connected", "server_error", "timed_out", "disconnected", "unreadable", "moved", "dry_run",
]  # fmt: skip

# How a call ended without a whole answer. not_connected: no byte has left. The others: the server may have got, and
# acted on, all of it.
Failure = Literal["not_connected", "timed_out", "disconnected", "unreadable"]

# The longest window that Brevo limits by. A reset beyond it is no number of seconds (an epoch, say).
LONGEST_RESET_SECONDS = 3600.0

# Codes that are words of Brevo's own; anything else in their place may be a sentence that names somebody.
_ERROR_CODES = frozenset({
    "invalid_parameter", "missing_parameter", "out_of_range", "campaign_processing", "campaign_sent",
    "document_not_found", "not_enough_credits", "permission_denied", "duplicate_parameter", "duplicate_request",
    "method_not_allowed", "unauthorized", "account_under_validation", "not_acceptable", "bad_request",
    "unprocessable_entity", "Insufficient credits", "Request already processed",
})  # fmt: skip
# On a send with our idempotency key: it has been accepted before, and does not say under which ids.
_ACCEPTED_BEFORE = frozenset({"duplicate_parameter", "duplicate_request", "Request already processed"})
_CODES_NOT_SENT: Mapping[str | None, Reason] = {
    "not_enough_credits": "no_credit",
    "Insufficient credits": "no_credit",
    "unauthorized": "unauthorized",
    "permission_denied": "forbidden",
    "account_under_validation": "forbidden",
}
_STATUS_NOT_SENT: Mapping[int, Reason] = {
    401: "unauthorized",
    402: "no_credit",
    403: "forbidden",
    425: "throttled",  # RFC 8470: refused because it might be a replay; not processed
    429: "throttled",
}
_STATUS_REJECTED: Mapping[int, Reason] = {
    400: "bad_request",
    404: "not_found",
    405: "bad_request",
    406: "bad_request",
    413: "too_large",
    415: "bad_request",
    422: "bad_request",
}


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


@dataclass(frozen=True)
class Reply:
    """What came back. Header names are lower-case; the content may name people."""

    status: int
    headers: Mapping[str, str]
    content: bytes = field(repr=False)


@dataclass(frozen=True)
class Broken:
    """No whole answer came back. `status` where at least that was read."""

    failure: Failure
    status: int | None = None


@dataclass(frozen=True)
class Limits:
    """What the headers of an answer say of the group's limit. `reset`: seconds until it is full again."""

    remaining: int | None = None
    reset: float | None = None


def limits_of(headers: Mapping[str, str]) -> Limits:
    """What x-sib-ratelimit-* say; what is no sensible number is left out. The reset is in seconds from now."""

    def number(name: str) -> float | None:
        try:
            found = float(headers[name])
        except (KeyError, ValueError):
            return None
        return found if 0 <= found < float("inf") else None

    remaining, reset = number("x-sib-ratelimit-remaining"), number("x-sib-ratelimit-reset")
    return Limits(
        remaining=int(remaining) if remaining is not None else None,
        reset=min(reset, LONGEST_RESET_SECONDS) if reset is not None else None,
    )


def decoded(content: bytes) -> Any:
    """The content as JSON; None when it is none."""
    try:
        return json.loads(content)
    except ValueError:
        return None


def classify(reply: Reply | Broken, *, n_versions: int | None = None) -> Answer:
    """What became of a write. `n_versions`: it was a send of so many; null: any other call.

    Whatever may have been processed is `unknown`, never `not_sent`: redirects too (they are not followed, so that
    nothing is sent elsewhere), and any status that Brevo does not document.
    """
    if isinstance(reply, Broken):
        return Answer("not_sent" if reply.failure == "not_connected" else "unknown", reply.failure, reply.status)
    said = decoded(reply.content)
    code = said.get("code") if isinstance(said, dict) else None
    code = code if code in _ERROR_CODES else None
    outcome, reason = _verdict(reply.status, code, said, reply.content, n_versions)
    retry_after = limits_of(reply.headers).reset if reason == "throttled" else None
    return Answer(outcome, reason, reply.status, code, reply.content, retry_after)


def _verdict(
    status: int, code: str | None, said: Any, content: bytes, n_versions: int | None
) -> tuple[Outcome, Reason]:
    if 200 <= status < 300:
        return _accepted(status, said, content, n_versions)
    if status in (400, 409, 422, 425) and n_versions is not None and code in _ACCEPTED_BEFORE:
        return "accepted", "duplicate"
    if status in (400, 406, 422) and code in _CODES_NOT_SENT:
        return "not_sent", _CODES_NOT_SENT[code]
    if status in _STATUS_NOT_SENT:
        return "not_sent", _STATUS_NOT_SENT[status]
    if status in _STATUS_REJECTED:
        return "rejected", _STATUS_REJECTED[status]
    return "unknown", "server_error" if status >= 400 else "unreadable"


def _accepted(status: int, said: Any, content: bytes, n_versions: int | None) -> tuple[Outcome, Reason]:
    """A success only where it can be read whole: a cut-off answer may be another's, or half of one."""
    if n_versions is None:
        return ("accepted", "ok") if isinstance(said, dict) or not content.strip() else ("unknown", "unreadable")
    if isinstance(said, dict) and status in (201, 202):
        ids = said.get("messageIds", [said["messageId"]] if said.get("messageId") else [])
        if isinstance(ids, list) and len(ids) == n_versions:
            return "accepted", "ok"
    return "unknown", "unreadable"
