"""What is read from Brevo, row by row, with types. Pure: decoded JSON in, rows out.

Addresses are normalised as everywhere (trimmed, lower case). What a row means for the estate is decided where it is
stored; vocabularies of events are mapped in `logic/events.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pandas as pd

from crm_assets.logic.curated import validate_emails

# Brevo's log is dated in Paris time; where a date says no offset, this is its zone (brevo.md A2, A6).
LOG_ZONE = ZoneInfo("Europe/Paris")


def instant(text: str) -> datetime:
    """The moment that a date of Brevo's means, in UTC; ValueError when it is none."""
    said = datetime.fromisoformat(text.strip())
    return (said if said.tzinfo else said.replace(tzinfo=LOG_ZONE)).astimezone(UTC)


def _maybe_instant(text: Any) -> datetime | None:
    return instant(text) if text else None


def address(text: str) -> str:
    """An address as we key by it: of one with letters beyond ASCII Brevo may say the domain in either of its forms."""
    plain = text.strip().lower()
    if plain.isascii() and "xn--" not in plain:
        return plain
    known = validate_emails([plain])["email"].iloc[0]
    return plain if pd.isna(known) else str(known)


def _text(value: Any) -> str | None:
    return str(value) if value not in (None, "") else None


@dataclass(frozen=True)
class Event:
    """One line of Brevo's log of transactional messages. `event`: a word of its statistics vocabulary; it has no id."""

    email: str = field(repr=False)
    event: str
    message_id: str
    date: str  # as it was said: duplicates are told by it
    at: datetime
    tag: str | None = None
    template_id: int | None = None
    link: str | None = field(default=None, repr=False)
    reason: str | None = field(default=None, repr=False)
    sender: str | None = field(default=None, repr=False)

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Event:
        return cls(
            email=address(row["email"]),
            event=row["event"],
            message_id=row.get("messageId") or "",
            date=row["date"],
            at=instant(row["date"]),
            tag=_text(row.get("tag")),
            template_id=int(row["templateId"]) if row.get("templateId") else None,
            link=_text(row.get("link")),
            reason=_text(row.get("reason")),
            sender=_text(row.get("from")),
        )


@dataclass(frozen=True)
class BlockedContact:
    """A recipient whom Brevo no longer writes transactional messages to, in the name of one sender."""

    email: str = field(repr=False)
    reason: str | None  # code: unsubscribedViaEmail hardBounce contactFlaggedAsSpam …
    blocked_at: datetime | None
    sender: str | None = field(repr=False)  # null: all of them

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> BlockedContact:
        return cls(
            email=address(row["email"]),
            reason=_text((row.get("reason") or {}).get("code")),
            blocked_at=_maybe_instant(row.get("blockedAt")),
            sender=address(row["senderEmail"]) if row.get("senderEmail") else None,
        )


@dataclass(frozen=True)
class Contact:
    """A contact as Brevo keeps it. `is_unsubscribed`: emailBlacklisted, no campaigns."""

    contact_id: int
    email: str | None = field(repr=False)  # null: known by a telephone number only
    is_unsubscribed: bool
    list_ids: tuple[int, ...]
    unsubscribed_list_ids: tuple[int, ...]
    attributes: Mapping[str, Any] = field(repr=False)
    modified_at: datetime | None

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Contact:
        return cls(
            contact_id=int(row["id"]),
            email=address(row["email"]) if row.get("email") else None,
            is_unsubscribed=bool(row["emailBlacklisted"]),
            list_ids=tuple(map(int, row.get("listIds") or ())),
            unsubscribed_list_ids=tuple(map(int, row.get("listUnsubscribed") or ())),
            attributes=row.get("attributes") or {},
            modified_at=_maybe_instant(row.get("modifiedAt")),
        )


@dataclass(frozen=True)
class Process:
    """Work that Brevo does by itself: an import. `n_invalid`: addresses that it refused."""

    process_id: int
    status: str  # queued processing completed failed cancelled
    n_invalid: int
    has_error: bool
    export_url: str | None = field(default=None, repr=False)  # where what was asked for lies

    @property
    def is_over(self) -> bool:
        return self.status in ("completed", "failed", "cancelled")

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Process:
        counted = ((row.get("info") or {}).get("import") or {}).get("invalid_emails")
        return cls(int(row["id"]), row["status"], int(counted or 0), bool(row.get("error")), row.get("export_url"))


@dataclass(frozen=True)
class Template:
    """A template kept at Brevo."""

    template_id: int
    name: str
    subject: str
    html: str = field(repr=False)
    is_active: bool
    sender_email: str | None = field(repr=False)
    reply_to: str | None = field(repr=False)
    modified_at: datetime | None

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Template:
        return cls(
            template_id=int(row["id"]),
            name=row["name"],
            subject=row["subject"],
            html=row["htmlContent"],
            is_active=bool(row["isActive"]),
            sender_email=_text((row.get("sender") or {}).get("email")),
            reply_to=_text(row.get("replyTo")),
            modified_at=_maybe_instant(row.get("modifiedAt")),
        )


@dataclass(frozen=True)
class ContactList:
    """A list of contacts."""

    list_id: int
    name: str
    folder_id: int | None

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> ContactList:
        return cls(int(row["id"]), row["name"], int(row["folderId"]) if row.get("folderId") is not None else None)


@dataclass(frozen=True)
class Folder:
    """A folder of lists."""

    folder_id: int
    name: str

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Folder:
        return cls(int(row["id"]), row["name"])


@dataclass(frozen=True)
class Attribute:
    """Something that contacts can have. `kind`: its type; null for calculated ones."""

    name: str
    category: str  # normal transactional category calculated global
    kind: str | None

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Attribute:
        return cls(row["name"], row["category"], _text(row.get("type")))


@dataclass(frozen=True)
class EmailCampaign:
    """A campaign made on Brevo's own screens. `n_recipients`: as its statistics count."""

    campaign_id: int
    name: str
    status: str  # draft sent archive queued suspended in_process
    sent_at: datetime | None
    list_ids: tuple[int, ...]
    excluded_list_ids: tuple[int, ...]
    n_recipients: int | None
    tag: str | None

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> EmailCampaign:
        recipients = row.get("recipients") or {}
        counted = ((row.get("statistics") or {}).get("globalStats") or {}).get("sent")
        return cls(
            campaign_id=int(row["id"]),
            name=row["name"],
            status=row["status"],
            sent_at=_maybe_instant(row.get("sentDate")),
            list_ids=tuple(map(int, recipients.get("lists") or ())),
            excluded_list_ids=tuple(map(int, recipients.get("exclusionLists") or ())),
            n_recipients=int(counted) if counted is not None else None,
            tag=_text(row.get("tag")),
        )
