"""What happened to messages: Brevo's log of events, its three vocabularies, and how the log may be asked.

A row is dated in Paris, appears only after the log's lag, carries no id, and stands in the order of its creation,
which is not that of its date.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from brevo_standin.times import PARIS, in_paris
from brevo_standin.wire import RefusedError, Reply, Request, invalid, whole_number

if TYPE_CHECKING:
    from brevo_standin.mail import Message

# kind -> (name in the log of statistics, name in webhooks and /smtp/emails/{uuid}, name when a webhook is created).
# Kinds without a name for creation reach no webhook that asks by name of them.
VOCABULARIES: dict[str, tuple[str, str, str | None]] = {
    "request": ("requests", "request", "request"),
    "delivered": ("delivered", "delivered", "delivered"),
    "hard_bounce": ("hardBounces", "hard_bounce", "hardBounce"),
    "soft_bounce": ("softBounces", "soft_bounce", "softBounce"),
    "blocked": ("blocked", "blocked", "blocked"),
    "spam": ("spam", "spam", "spam"),
    "invalid": ("invalid", "invalid_email", "invalid"),
    "deferred": ("deferred", "deferred", "deferred"),
    "click": ("clicks", "click", "click"),
    "opened": ("opened", "opened", "opened"),
    "proxy_open": ("loadedByProxy", "proxy_open", "opened"),
    "unsubscribed": ("unsubscribed", "unsubscribed", "unsubscribed"),
    "error": ("error", "error", None),
}
BOUNCES = {"hard_bounce", "soft_bounce"}
STATISTICS_NAMES = {names[0] for names in VOCABULARIES.values()} | {"bounces"}
MAX_DAYS, DEFAULT_DAYS = 90, 30
DEFAULT_LIMIT, MAX_LIMIT = 2500, 5000


@dataclass(slots=True)
class Event:
    """One thing that happened to one message. `seen_from`: when the log shows it."""

    at: datetime
    seen_from: datetime
    kind: str
    message: Message
    link: str | None = None
    reason: str | None = None
    ip: str | None = None

    @property
    def day(self) -> date:
        return self.at.astimezone(PARIS).date()

    def row(self) -> dict[str, Any]:
        call = self.message.call
        row: dict[str, Any] = {
            "date": in_paris(self.at),
            "email": self.message.address,
            "event": VOCABULARIES[self.kind][0],
            "messageId": self.message.message_id,
            "subject": self.message.subject,
            "tag": call.tags[0] if len(call.tags) == 1 else json.dumps(call.tags),
            "from": call.sender,
        }
        if call.template_id is not None:
            row["templateId"] = call.template_id
        for name in ("link", "reason", "ip"):
            if getattr(self, name) is not None:
                row[name] = getattr(self, name)
        return row


class Log:
    """All events, in the order in which they were written down."""

    def __init__(self) -> None:
        self.lag = 0.0  # seconds until the log shows an event
        self.forget()

    def forget(self) -> None:
        self.events: list[Event] = []
        self._by_tag: dict[str, list[Event]] = defaultdict(list)
        self._by_email: dict[str, list[Event]] = defaultdict(list)

    def write(self, event: Event) -> None:
        self.events.append(event)
        for tag in event.message.call.tags:
            self._by_tag[tag].append(event)
        self._by_email[event.message.address.lower()].append(event)

    def replace(self, events: list[Event]) -> None:
        """Keep these only."""
        self.forget()
        for event in events:
            self.write(event)

    def of(self, message: Message) -> list[Event]:
        return [event for event in self._by_email[message.address.lower()] if event.message is message]

    def answer(self, request: Request, now: datetime) -> Reply:
        """GET /smtp/statistics/events."""
        limit = whole_number(request, "limit", DEFAULT_LIMIT, most=MAX_LIMIT)
        offset = whole_number(request, "offset", 0)
        sort = request.first("sort") or "desc"
        if sort not in ("asc", "desc"):
            raise invalid("sort should be one of asc, desc")
        first, last = period(request, now, MAX_DAYS, DEFAULT_DAYS)
        name, tags = request.first("event"), _tags(request)
        if name is not None and name not in STATISTICS_NAMES:
            raise invalid("event is not valid")
        email, message_id, template = (request.first(key) for key in ("email", "messageId", "templateId"))
        found: Iterable[Event] = self.events
        if email is not None:
            found = self._by_email.get(email.lower(), [])
        elif tags:
            found = (event for tag in dict.fromkeys(tags) for event in self._by_tag.get(tag, []))
        chosen = [
            event
            for event in found
            if event.seen_from <= now
            and event.at <= now
            and first <= event.day <= last
            and (name is None or name == VOCABULARIES[event.kind][0] or (name == "bounces" and event.kind in BOUNCES))
            and (not tags or not set(tags).isdisjoint(event.message.call.tags))
            and (message_id is None or message_id == event.message.message_id)
            and (template is None or template == str(event.message.call.template_id))
        ]
        if sort == "desc":
            chosen.reverse()
        rows = [event.row() for event in chosen[offset : offset + limit]]
        return Reply.of({"events": rows} if rows else {})


def _tags(request: Request) -> list[str]:
    """The filter, which is a list in JSON (the document: "serialized and urlencoded array")."""
    text = request.first("tags")
    if text is None:
        return []
    try:
        tags = json.loads(text)
    except ValueError:
        tags = None
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise invalid("tags should be a serialized array")
    return tags


def _day(request: Request, name: str) -> date | None:
    text = request.first(name)
    if text is None:
        return None
    try:
        return datetime.strptime(text, "%Y-%m-%d").date()
    except ValueError:
        raise invalid(f"{name} should be of the form YYYY-MM-DD") from None


def period(request: Request, now: datetime, most: int, default: int) -> tuple[date, date]:
    """First and last day asked for. Dates are checked against the day in UTC, rows are dated in Paris (brevo.md A2):
    what happens between midnight in Paris and midnight UTC cannot be asked for by its date yet."""
    today = now.astimezone(UTC).date()
    first, last, days = _day(request, "startDate"), _day(request, "endDate"), request.first("days")
    if days is not None:
        if first or last:
            raise invalid("days is not compatible with startDate and endDate")
        count = whole_number(request, "days", default, most=most)
        return today - timedelta(days=max(count, 1) - 1), today
    if first is None and last is None:
        return today - timedelta(days=default - 1), today
    if first is None or last is None:
        raise missing_date("startDate" if first is None else "endDate")
    if last > today:
        raise invalid("endDate should not be a future date")
    if first > last:
        raise invalid("startDate should not be after endDate")
    if (last - first).days > most:
        raise RefusedError(400, "out_of_range", f"The range should not exceed {most} days")
    return first, last


def missing_date(name: str) -> RefusedError:
    return RefusedError(400, "missing_parameter", f"{name} is missing")
