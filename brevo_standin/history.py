"""Reading what was sent: /smtp/emails, one mail with its events, the blocklist, totals."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from brevo_standin.account import REASONS, Account
from brevo_standin.library import rendered
from brevo_standin.log import DEFAULT_DAYS, MAX_DAYS, VOCABULARIES, Event, period
from brevo_standin.mail import Message
from brevo_standin.times import PARIS, in_paris, in_utc
from brevo_standin.wire import Reply, Request, missing, not_found, whole_number

MAX_MONTH = 31
_TOTALS = {
    "request": "requests",
    "delivered": "delivered",
    "hard_bounce": "hardBounces",
    "soft_bounce": "softBounces",
    "click": "clicks",
    "opened": "opens",
    "spam": "spamReports",
    "blocked": "blocked",
    "invalid": "invalid",
    "unsubscribed": "unsubscribed",
}


def body_of(account: Account, message: Message) -> str:
    """The HTML that one recipient gets."""
    said = message.content()
    html = said["html"]
    if message.call.template_id is not None:
        html = account.templates.get(message.call.template_id, {}).get("htmlContent", "")
    return rendered(html or said["text"], said["params"], {"EMAIL": message.address})


def subject_of(message: Message) -> str:
    """The subject that one recipient reads."""
    return rendered(message.subject, message.content()["params"]) if "{{" in message.subject else message.subject


class History:
    """The questions to an account's log beside /smtp/statistics/events."""

    def __init__(self, account: Account) -> None:
        self.account = account
        self.unblocked: list[str] = []  # lifted blocks: no client of ours may ever do that

    def forget(self) -> None:
        self.unblocked = []

    def routes(self) -> list[tuple[str, str, Callable[..., Reply]]]:
        return [
            ("GET", "/smtp/emails", self.emails),
            ("GET", "/smtp/emails/{uuid}", self.email),
            ("GET", "/smtp/blockedContacts", self.blocked),
            ("DELETE", "/smtp/blockedContacts/{email}", self.unblock),
            ("GET", "/smtp/statistics/aggregatedReport", self.totals),
            ("GET", "/smtp/statistics/reports", self.by_day),
            ("DELETE", "/smtp/log/{identifier}", self.forget_log),
        ]

    def emails(self, request: Request) -> Reply:
        """GET /smtp/emails: one of email, templateId, messageId is mandatory."""
        asked = {name: request.first(name) for name in ("email", "templateId", "messageId")}
        if not any(asked.values()):
            raise missing("One of email, templateId or messageId is mandatory")
        limit, offset = whole_number(request, "limit", 500, most=1000), whole_number(request, "offset", 0)
        now = self.account.times.now()
        first, last = period(request, now, MAX_MONTH, DEFAULT_DAYS)
        shown = now - timedelta(seconds=self.account.log.lag)
        rows = [
            {
                "email": message.address,
                "subject": message.subject,
                "messageId": message.message_id,
                "uuid": message.uuid,
                "date": in_paris(call.scheduled_at or call.at),
                "tags": call.tags,
                "from": call.sender,
                **({"templateId": call.template_id} if call.template_id is not None else {}),
            }
            for call in self.account.calls
            if call.status == "processed"
            and (call.scheduled_at or call.at) <= shown
            and first <= (call.scheduled_at or call.at).astimezone(PARIS).date() <= last
            and asked["templateId"] in (None, str(call.template_id))
            for message in call.messages
            if asked["email"] in (None, message.address) and asked["messageId"] in (None, message.message_id)
        ]
        rows = rows if request.first("sort") == "asc" else rows[::-1]
        return Reply.of({"count": len(rows), "transactionalEmails": rows[offset : offset + limit]} if rows else {})

    def email(self, request: Request, uuid: str) -> Reply:
        """GET /smtp/emails/{uuid}: the mail as it was sent, its events in the words of webhooks."""
        message = self.account.by_uuid.get(uuid)
        if message is None:
            raise not_found("Email not found")
        events = [event for event in self.account.log.of(message) if event.seen_from <= self.account.times.now()]
        return Reply.of(
            {
                "email": message.address,
                "subject": message.subject,
                "date": in_paris(message.call.at),
                "events": [{"name": _name(event), "time": in_paris(event.at)} for event in events],
                "body": body_of(self.account, message),
                "attachmentCount": 0,
                **({"templateId": message.call.template_id} if message.call.template_id is not None else {}),
            }
        )

    # --- blocklist

    def blocked(self, request: Request) -> Reply:
        """GET /smtp/blockedContacts."""
        limit, offset = whole_number(request, "limit", 50, most=100), whole_number(request, "offset", 0)
        blocks = list(self.account.blocks.values())
        if request.first("startDate") or request.first("endDate"):
            first, last = period(request, self.account.times.now(), 10_000, DEFAULT_DAYS)
            blocks = [block for block in blocks if first <= block.at.astimezone(PARIS).date() <= last]
        if senders := {sender.lower() for text in request.query.get("senders", []) for sender in text.split(",")}:
            blocks = [block for block in blocks if block.sender in senders]
        rows = [
            {
                "email": block.email,
                "senderEmail": block.sender,
                "blockedAt": in_utc(block.at),
                "reason": {"code": block.code, "message": REASONS.get(block.code, block.code)},
            }
            for block in blocks
        ]
        rows = rows if request.first("sort") == "asc" else rows[::-1]
        return Reply.of({"contacts": rows[offset : offset + limit], "count": len(rows)} if rows else {"count": 0})

    def unblock(self, request: Request, email: str) -> Reply:
        """DELETE /smtp/blockedContacts/{email}: Brevo does it, and so the stand-in does, and remembers."""
        address = email.lower()
        keys = [key for key in self.account.blocks if key[1] == address]
        if not keys:
            raise not_found("Contact not found")
        for key in keys:
            del self.account.blocks[key]
        self.unblocked.append(address)
        return Reply(204)

    def forget_log(self, request: Request, identifier: str) -> Reply:
        """DELETE /smtp/log/{message id or e-mail}: the log forgets; our record of what was accepted does not."""
        kept = [
            event
            for event in self.account.log.events
            if identifier not in (event.message.message_id, event.message.address)
        ]
        if len(kept) == len(self.account.log.events):
            raise not_found("Log not found")
        self.account.log.replace(kept)
        return Reply(204)

    # --- totals

    def _events(self, request: Request) -> list[Event]:
        now = self.account.times.now()
        first, last = period(request, now, MAX_DAYS, DEFAULT_DAYS)
        tag = request.first("tag")
        return [
            event
            for event in self.account.log.events
            if event.seen_from <= now and first <= event.day <= last and (tag is None or tag in event.message.call.tags)
        ]

    def totals(self, request: Request) -> Reply:
        first, last = period(request, self.account.times.now(), MAX_DAYS, DEFAULT_DAYS)
        return Reply.of({"range": f"{first}|{last}", **_counted(self._events(request))})

    def by_day(self, request: Request) -> Reply:
        days: dict[str, list[Event]] = defaultdict(list)
        for event in self._events(request):
            days[event.day.isoformat()].append(event)
        limit, offset = whole_number(request, "limit", 10, most=30), whole_number(request, "offset", 0)
        rows: list[dict[str, Any]] = [{"date": day, **_counted(days[day])} for day in sorted(days)]
        rows = rows if request.first("sort") == "asc" else rows[::-1]
        return Reply.of({"reports": rows[offset : offset + limit]})


def _name(event: Event) -> str:
    return "sent" if event.kind == "request" else VOCABULARIES[event.kind][1]


def _counted(events: list[Event]) -> dict[str, int]:
    found = Counter(event.kind for event in events)
    unique = Counter(kind for kind, _ in {(event.kind, event.message.uuid) for event in events})
    return {name: found[kind] for kind, name in _TOTALS.items()} | {
        "uniqueClicks": unique["click"],
        "uniqueOpens": unique["opened"],
    }
