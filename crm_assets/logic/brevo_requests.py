"""What is asked of Brevo that changes something there: bodies with the limits it documents, checked before they leave.

Pure. Only what stands here can be written: nothing in it can lift a block or an unsubscription, and a body that
speaks of one is refused whatever it says. Messages themselves are made in `logic/outbox.py`.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Literal

# POST /smtp/email, as documented by Brevo.
MAX_VERSIONS = 1000
MAX_RECIPIENTS_PER_VERSION = 99
MAX_RECIPIENTS = 2000
MAX_PARAMS_BYTES = 100_000  # of a version
MAX_CALL_PARAMS_BYTES = 1_000_000
MAX_SENDER_NAME = 70
IDEMPOTENCY_HEADER = "idempotencyKey"  # any spelling with a hyphen was measured to do nothing
# POST /contacts/lists/{listId}/contacts/add and remove.
MAX_LIST_ROWS = 150

AttributeType = Literal["text", "date", "float", "boolean"]
AttributeValue = str | float | bool | date | None

# What says who may be written to. It is Brevo's and the recipient's to write, never ours (brevo.md A9).
_REFUSAL_KEYS = frozenset({"emailblacklisted", "smsblacklisted", "smtpblacklistsender", "emailblacklist"})
_ATTRIBUTE = re.compile(r"^[A-Z][A-Z0-9_]{0,49}$")
# Every call that changes something, messages aside: what the ledger calls it, and its path.
_PATHS = {
    "POST /contacts/attributes/{attributeCategory}/{attributeName}": r"/contacts/attributes/normal/[A-Z][A-Z0-9_]*",
    "POST /contacts/folders": r"/contacts/folders",
    "POST /contacts/lists": r"/contacts/lists",
    "POST /contacts": r"/contacts",
    "POST /contacts/import": r"/contacts/import",
    "POST /contacts/lists/{listId}/contacts/add": r"/contacts/lists/\d+/contacts/add",
    "POST /contacts/lists/{listId}/contacts/remove": r"/contacts/lists/\d+/contacts/remove",
}


class InvalidRequestError(Exception):
    """A body that Brevo would refuse, or that must never be written; found before anything is sent."""


@dataclass(frozen=True)
class WriteRequest:
    """A call that changes something, frozen. `endpoint`: how the ledger calls it; `n_rows`: people or things in it."""

    endpoint: str
    path: str
    body: bytes = field(repr=False)
    n_rows: int = 1


@dataclass(frozen=True)
class ContactRow:
    """A contact as it is handed over: its address, and attributes by name (null ones are left out)."""

    email: str = field(repr=False)
    attributes: Mapping[str, AttributeValue] = field(repr=False)


@dataclass(frozen=True)
class SendRequest:
    """What a checked POST /smtp/email body says of itself."""

    idempotency_key: str
    n_versions: int


def canonical(value: Any) -> bytes:
    """A value as compact JSON in UTF-8: the same value is the same bytes."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()


def check_body(body: bytes) -> SendRequest:
    """InvalidRequestError when a POST /smtp/email body breaks a documented limit. Names no recipient."""
    request = json.loads(body)
    _check_content(request)
    key = request.get("headers", {}).get(IDEMPOTENCY_HEADER)
    if not key:
        raise InvalidRequestError(f"the request carries no headers.{IDEMPOTENCY_HEADER}")
    try:
        uuid.UUID(key)
    except (ValueError, AttributeError, TypeError):
        raise InvalidRequestError(f"headers.{IDEMPOTENCY_HEADER} is no UUID") from None
    versions = request.get("messageVersions", [{"to": request["to"]}] if request.get("to") else [])
    if not 1 <= len(versions) <= MAX_VERSIONS:
        raise InvalidRequestError(f"{len(versions)} message versions; 1 to {MAX_VERSIONS} are allowed")
    recipients = [[to for field in ("to", "cc", "bcc") for to in version.get(field, [])] for version in versions]
    if any(
        not version.get("to") or len(found) > MAX_RECIPIENTS_PER_VERSION
        for version, found in zip(versions, recipients, strict=True)
    ):
        raise InvalidRequestError(f"a version needs 1 to {MAX_RECIPIENTS_PER_VERSION} recipients")
    addresses = [to["email"] for found in recipients for to in found]
    if len(addresses) > MAX_RECIPIENTS:
        raise InvalidRequestError(f"{len(addresses)} recipients; {MAX_RECIPIENTS} are allowed in one request")
    if len({address.lower() for address in addresses}) != len(addresses):
        raise InvalidRequestError("an address stands twice in one request")
    params = [len(canonical(part["params"])) for part in (request, *versions) if part.get("params")]
    if any(size > MAX_PARAMS_BYTES for size in params) or sum(params) > MAX_CALL_PARAMS_BYTES:
        raise InvalidRequestError(
            f"params are {max(params)} bytes in a version and {sum(params)} in the request; {MAX_PARAMS_BYTES} and"
            f" {MAX_CALL_PARAMS_BYTES} are allowed"
        )
    return SendRequest(str(key), len(versions))


def _check_content(request: Mapping[str, Any]) -> None:
    sender = request.get("sender") or {}
    if request.get("templateId") is None:
        if not sender.get("email") and not sender.get("id"):
            raise InvalidRequestError("the request names no sender")
        if not request.get("subject") or not (request.get("htmlContent") or request.get("textContent")):
            raise InvalidRequestError("the request has no subject or no content")
    if len(sender.get("name") or "") > MAX_SENDER_NAME:
        raise InvalidRequestError(f"the sender's name is longer than {MAX_SENDER_NAME} characters")


def check_write(request: WriteRequest) -> None:
    """InvalidRequestError when a call is none of those below, or says anything about who may be written to."""
    if not re.fullmatch(_PATHS.get(request.endpoint, ""), request.path):
        raise InvalidRequestError(f"{request.endpoint} is nothing that is written from here")

    def refuse(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        said = dict(pairs)
        if _REFUSAL_KEYS & {name.lower() for name in said}:
            raise InvalidRequestError("the request speaks of a refusal: those are never written from here")
        return said

    json.loads(request.body, object_pairs_hook=refuse)


def _attribute(name: str) -> str:
    if not _ATTRIBUTE.match(name):
        raise InvalidRequestError(f"{name!r} is no name of an attribute: upper-case letters, digits and underscores")
    return name


def create_attribute(name: str, kind: AttributeType) -> WriteRequest:
    """An attribute that contacts can have from then on."""
    path = f"/contacts/attributes/normal/{_attribute(name)}"
    return WriteRequest(
        "POST /contacts/attributes/{attributeCategory}/{attributeName}", path, canonical({"type": kind})
    )


def create_folder(name: str) -> WriteRequest:
    """A folder for lists."""
    return WriteRequest("POST /contacts/folders", "/contacts/folders", canonical({"name": name}))


def create_list(name: str, folder_id: int) -> WriteRequest:
    """An empty list in a folder."""
    return WriteRequest("POST /contacts/lists", "/contacts/lists", canonical({"name": name, "folderId": folder_id}))


def _attributes(row: ContactRow) -> dict[str, Any]:
    return {
        _attribute(name): value.isoformat() if isinstance(value, date) else value
        for name, value in row.attributes.items()
        if value is not None
    }


def upsert_contact(row: ContactRow) -> WriteRequest:
    """A contact, made or brought up to date; attributes that it does not name stay as they are."""
    body = {"email": row.email, "attributes": _attributes(row), "updateEnabled": True}
    return WriteRequest("POST /contacts", "/contacts", canonical(body))


def import_contacts(rows: Iterable[ContactRow], list_id: int, max_bytes: int) -> Iterator[WriteRequest]:
    """Contacts, made or brought up to date in bulk by processes at Brevo, and put into a list, which Brevo asks for;
    bodies within `max_bytes`, in order.
    """
    head = b'{"disableNotification":true,"listIds":[%d],"updateExistingContacts":true,"jsonBody":[' % list_id
    tail = b"]}"
    room = max_bytes - len(head) - len(tail)

    def pack(taken: list[bytes]) -> WriteRequest:
        return WriteRequest("POST /contacts/import", "/contacts/import", head + b",".join(taken) + tail, len(taken))

    taken: list[bytes] = []
    used = 0
    for row in rows:
        piece = canonical({"email": row.email, "attributes": _attributes(row)})
        if len(piece) > room:
            raise InvalidRequestError(f"one contact alone is {len(piece)} bytes; a call has room for {room}")
        if taken and used + len(piece) + 1 > room:
            yield pack(taken)
            taken, used = [], 0
        taken.append(piece)
        used += len(piece) + 1
    if taken:
        yield pack(taken)


def _membership(what: Literal["add", "remove"], list_id: int, emails: Sequence[str]) -> WriteRequest:
    if not 1 <= len(emails) <= MAX_LIST_ROWS:
        raise InvalidRequestError(f"{len(emails)} addresses; 1 to {MAX_LIST_ROWS} are allowed")
    return WriteRequest(
        f"POST /contacts/lists/{{listId}}/contacts/{what}",
        f"/contacts/lists/{list_id}/contacts/{what}",
        canonical({"emails": list(emails)}),
        len(emails),
    )


def add_to_list(list_id: int, emails: Sequence[str]) -> WriteRequest:
    """Contacts put into a list."""
    return _membership("add", list_id, emails)


def remove_from_list(list_id: int, emails: Sequence[str]) -> WriteRequest:
    """Contacts taken off a list; they stay contacts."""
    return _membership("remove", list_id, emails)
