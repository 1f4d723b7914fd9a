"""How many calls Brevo takes, by bucket (brevo.md A8): windows of a second, a minute or an hour, three headers on every
answer, 429 without Retry-After."""

from __future__ import annotations

import math
import re
from datetime import datetime

from brevo_standin.wire import RefusedError, Reply, Request

# bucket -> (calls, seconds). `batches` is the guide's 100 calls a minute with message versions, which contradicts the
# table of limits (1 000 a second): the stricter of the two documents holds.
GENERAL: dict[str, tuple[int, int]] = {
    "batches": (100, 60),
    "send": (1000, 1),
    "blocked": (1000, 1),
    "emails": (2, 1),
    "smtp": (300, 3600),
    "contacts": (10, 1),
    "events": (10, 1),
    "other": (100, 3600),
}
_PLACES = (
    ("POST", re.compile(r"/smtp/email$"), "send"),
    ("GET", re.compile(r"/smtp/blockedContacts$"), "blocked"),
    ("GET", re.compile(r"/smtp/emails$"), "emails"),
    (None, re.compile(r"/smtp/"), "smtp"),
    (None, re.compile(r"/contacts(/|$)"), "contacts"),
    (None, re.compile(r"/events(/|$)"), "events"),
)


def bucket_of(request: Request) -> str:
    path = request.path.removeprefix("/v3")
    for method, place, bucket in _PLACES:
        if method in (None, request.method) and place.match(path):
            if bucket == "send" and b'"messageVersions"' in request.body:
                return "batches"
            return bucket
    return "other"


class Limits:
    """Calls counted in fixed windows of the stand-in's clock."""

    def __init__(self, table: dict[str, tuple[int, int]] | None) -> None:
        """`table`: bucket -> (calls, seconds); None: nobody is throttled, and the headers say there is room."""
        self.table = table
        self._counts: dict[str, tuple[int, int]] = {}

    def take(self, request: Request, now: datetime) -> tuple[dict[str, str], bool]:
        """Count one call: the three headers, and whether there was room."""
        bucket = bucket_of(request)
        most, seconds = (self.table or GENERAL)[bucket]
        window = int(now.timestamp() // seconds)
        began, used = self._counts.get(bucket, (window, 0))
        used = used if began == window else 0
        has_room = self.table is None or used < most
        if self.table is not None and has_room:
            used += 1
        self._counts[bucket] = (window, used)
        reset = max(1, math.ceil((window + 1) * seconds - now.timestamp()))
        return {
            "x-sib-ratelimit-limit": str(most),
            "x-sib-ratelimit-remaining": str(most - used),
            "x-sib-ratelimit-reset": str(reset),
        }, has_room

    def forget(self) -> None:
        self._counts.clear()


def throttled(headers: dict[str, str], seconds: float | None = None) -> Reply:
    """The answer of a full bucket."""
    reply = RefusedError(429, "too_many_requests", "Too many requests").reply
    reply.headers = {**headers, "x-sib-ratelimit-remaining": "0"}
    if seconds is not None:
        reply.headers["x-sib-ratelimit-reset"] = str(math.ceil(seconds))
    return reply
