"""Contacts, their attributes, lists and folders, and the imports that run as processes (brevo.md A3).

What Brevo swallows in silence is swallowed here too: unknown attributes, values of the wrong type. Whoever lifts a
refusal gets away with it, as at Brevo, but `unblocked` remembers it: no client of ours may ever do so.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

from brevo_standin.processes import Processes
from brevo_standin.times import Times, in_utc
from brevo_standin.wire import RefusedError, Reply, Request, invalid, missing, not_found, whole_number

MAX_IMPORT_BYTES = 10 * 1024 * 1024
MAX_ADDED = 150  # identifiers of one add or remove
TYPES = {"text", "date", "float", "boolean", "id", "category", "multiple-choice", "user"}
CATEGORIES = {"normal", "transactional", "category", "calculated", "global"}
_ADDRESS = re.compile(r"[^@\s,;<>()]+@[^@\s,;<>()]+\.[^@\s.,;<>()]{2,}")
_NAME = re.compile(r"[A-Z0-9_]{1,50}")
_PHONE = re.compile(r"(\+|00)?[1-9]\d{5,14}")


@dataclass
class Contact:
    """One contact. Identifiers are unique in the account: e-mail, ext_id, the attribute SMS."""

    id: int
    created_at: datetime
    modified_at: datetime
    email: str | None = None
    ext_id: str | None = None
    attributes: dict[str, Any] = field(default_factory=dict)
    email_blacklisted: bool = False
    sms_blacklisted: bool = False
    lists: list[int] = field(default_factory=list)
    unsubscribed_lists: list[int] = field(default_factory=list)

    def row(self) -> dict[str, Any]:
        row = {
            "id": self.id,
            "emailBlacklisted": self.email_blacklisted,
            "smsBlacklisted": self.sms_blacklisted,
            "createdAt": in_utc(self.created_at),
            "modifiedAt": in_utc(self.modified_at),
            "listIds": self.lists,
            "attributes": self.attributes | ({"EXT_ID": self.ext_id} if self.ext_id else {}),
        }
        if self.email:
            row["email"] = self.email
        if self.unsubscribed_lists:
            row["listUnsubscribed"] = self.unsubscribed_lists
        return row


@dataclass
class ListOf:
    """A list of contacts in a folder."""

    id: int
    name: str
    folder: int


class Contacts:
    """The contact half of an account. `block(email, sender)`: puts an address on a sender's transactional blocklist."""

    def __init__(self, times: Times, processes: Processes, block: Callable[[str, str], None]) -> None:
        self.times = times
        self.processes = processes
        self._block = block
        self.statistics: Callable[[Contact], dict[str, Any]] = lambda _contact: {}
        self.on_change: Callable[[str, Contact, list[int]], None] = lambda _event, _contact, _lists: None
        self.forget()

    def forget(self) -> None:
        """As in an account just opened: three attributes, one folder, nobody."""
        self.by_id: dict[int, Contact] = {}
        self._ids: dict[tuple[str, str], int] = {}  # (kind, value) -> contact
        self.attributes: dict[str, dict[str, Any]] = {
            name: {"name": name, "category": "normal", "type": "text"} for name in ("LASTNAME", "FIRSTNAME", "SMS")
        }
        self.folders: dict[int, str] = {1: "Your first folder"}
        self.lists: dict[int, ListOf] = {}
        self.unblocked: list[str] = []
        self._last_id = 0
        self._last_list = 1

    def routes(self) -> list[tuple[str, str, Callable[..., Reply]]]:
        return [
            ("POST", "/contacts", self.create),
            ("GET", "/contacts", self.all),
            ("POST", "/contacts/batch", self.update_many),
            ("POST", "/contacts/import", self.import_many),
            ("GET", "/contacts/attributes", lambda _request: Reply.of({"attributes": list(self.attributes.values())})),
            ("POST", "/contacts/attributes/{category}/{name}", self.create_attribute),
            ("GET", "/contacts/folders", self.all_folders),
            ("POST", "/contacts/folders", self.create_folder),
            ("GET", "/contacts/folders/{folder}/lists", self.lists_of_folder),
            ("GET", "/contacts/lists", self.all_lists),
            ("POST", "/contacts/lists", self.create_list),
            ("GET", "/contacts/lists/{number}", self.one_list),
            ("PUT", "/contacts/lists/{number}", self.rename_list),
            ("DELETE", "/contacts/lists/{number}", self.delete_list),
            ("GET", "/contacts/lists/{number}/contacts", self.contacts_of_list),
            ("POST", "/contacts/lists/{number}/contacts/add", self.add_to_list),
            ("POST", "/contacts/lists/{number}/contacts/remove", self.remove_from_list),
            ("GET", "/contacts/{identifier}", self.one),
            ("GET", "/contacts/{identifier}/campaignStats", self.one_statistics),
            ("PUT", "/contacts/{identifier}", self.update),
            ("DELETE", "/contacts/{identifier}", self.delete),
        ]

    # --- one contact

    def find(self, kind: str, value: Any) -> Contact | None:
        """By `email`, `ext_id`, `sms` or `id`."""
        if kind == "id":
            return self.by_id.get(int(value))
        number = self._ids.get((kind, str(value).lower() if kind == "email" else str(value)))
        return None if number is None else self.by_id[number]

    def create(self, request: Request) -> Reply:
        """POST /contacts: 201 created, 204 updated where `updateEnabled`."""
        said = request.mapping
        attributes = self._attributes(said.get("attributes"))
        identifiers = self._identifiers(said, attributes)
        if not identifiers:
            raise missing("email, SMS or ext_id is missing")
        self._check_lists(said.get("listIds", []))
        known = next((found for each in identifiers if (found := self.find(*each)) is not None), None)
        if known is not None:
            if not said.get("updateEnabled", False):
                raise self._duplicate([kind for kind, value in identifiers if self.find(kind, value) is not None])
            self._change(known, said, attributes, identifiers)
            return Reply(204)
        contact = self._new()
        self._change(contact, said, attributes, identifiers)
        return Reply.of({"id": contact.id}, 201)

    def _new(self) -> Contact:
        self._last_id += 1
        contact = Contact(self._last_id, self.times.now(), self.times.now())
        self.by_id[contact.id] = contact
        return contact

    def _identifiers(self, said: dict[str, Any], attributes: dict[str, Any]) -> list[tuple[str, str]]:
        found = []
        if said.get("email"):
            if not isinstance(said["email"], str) or not _ADDRESS.fullmatch(said["email"]):
                raise invalid("Invalid email address")
            found.append(("email", said["email"].lower()))
        if said.get("ext_id"):
            found.append(("ext_id", str(said["ext_id"])))
        if attributes.get("SMS"):
            number = re.sub(r"[\s.-]", "", str(attributes["SMS"]))
            if not _PHONE.fullmatch(number):
                raise invalid("Invalid phone number")
            attributes["SMS"] = number
            found.append(("sms", number))
        return found

    @staticmethod
    def _duplicate(kinds: list[str]) -> RefusedError:
        names = [kind if kind == "ext_id" else kind.upper() if kind == "sms" else kind for kind in kinds]
        message = f"Unable to create contact, {' or '.join(names)} is already associated with another Contact"
        return RefusedError(400, "duplicate_parameter", message, metadata={"duplicate_identifiers": names})

    def _change(
        self,
        contact: Contact,
        said: dict[str, Any],
        attributes: dict[str, Any],
        identifiers: Iterable[tuple[str, str]],
    ) -> None:
        taken = [kind for kind, value in identifiers if (other := self.find(kind, value)) and other is not contact]
        if taken:
            if not self._ids.keys() & {(kind, value) for kind, value in self._of(contact)}:
                self.by_id.pop(contact.id, None)
            raise self._duplicate(taken)
        for kind, value in identifiers:
            for old in [key for key, number in self._ids.items() if key[0] == kind and number == contact.id]:
                del self._ids[old]
            self._ids[kind, value] = contact.id
        contact.email = said.get("email") or contact.email
        contact.ext_id = said.get("ext_id") or contact.ext_id
        contact.attributes.update(attributes)
        for name in [name for name, value in attributes.items() if value == ""]:
            del contact.attributes[name]
        if "emailBlacklisted" in said:
            self.blacklist(contact, bool(said["emailBlacklisted"]))
        if "smsBlacklisted" in said:
            contact.sms_blacklisted = bool(said["smsBlacklisted"])
        for sender in said.get("smtpBlacklistSender", []):
            self._block(str(contact.email), sender)
        added = [number for number in said.get("listIds", []) if number not in contact.lists]
        contact.lists += added
        contact.lists = [number for number in contact.lists if number not in said.get("unlinkListIds", [])]
        contact.modified_at = self.times.now()
        self.on_change("contact_updated", contact, [])
        if added:
            self.on_change("list_addition", contact, added)

    @staticmethod
    def _of(contact: Contact) -> list[tuple[str, str]]:
        return [
            *([("email", contact.email.lower())] if contact.email else []),
            *([("ext_id", contact.ext_id)] if contact.ext_id else []),
            *([("sms", contact.attributes["SMS"])] if "SMS" in contact.attributes else []),
        ]

    def blacklist(self, contact: Contact, value: bool) -> None:
        """Refuse campaigns, or, which nobody of ours may do, lift that."""
        if contact.email_blacklisted and not value:
            self.unblocked.append(str(contact.email))
        contact.email_blacklisted = value
        contact.modified_at = self.times.now()

    def _attributes(self, said: Any) -> dict[str, Any]:
        """Those that exist with a value of their type; the rest is dropped without a word."""
        if said is None:
            return {}
        if not isinstance(said, dict):
            raise invalid("attributes should be an object")
        return {
            name: value
            for name, value in said.items()
            if name in self.attributes and (value == "" or _fits(value, self.attributes[name]))
        }

    def _by_identifier(self, request: Request, identifier: str) -> Contact:
        kind = request.first("identifierType")
        kinds = {"email_id": "email", "contact_id": "id", "ext_id": "ext_id", "phone_id": "sms"}
        if kind is not None and kind not in kinds:
            raise invalid("identifierType is not valid")
        guess = "email" if "@" in identifier else "id" if identifier.isdecimal() else "ext_id"
        contact = self.find(kinds[kind] if kind else guess, identifier)
        if contact is None:
            raise not_found("Contact does not exist")
        return contact

    def one(self, request: Request, identifier: str) -> Reply:
        contact = self._by_identifier(request, identifier)
        return Reply.of({**contact.row(), "statistics": self.statistics(contact)})

    def one_statistics(self, request: Request, identifier: str) -> Reply:
        return Reply.of(self.statistics(self._by_identifier(request, identifier)))

    def update(self, request: Request, identifier: str) -> Reply:
        contact = self._by_identifier(request, identifier)
        said = request.mapping
        attributes = self._attributes(said.get("attributes"))
        if "EMAIL" in said.get("attributes", {}):
            said = {**said, "email": said["attributes"]["EMAIL"]}
        self._check_lists(said.get("listIds", []))
        self._change(contact, said, attributes, self._identifiers(said, attributes))
        return Reply(204)

    def delete(self, request: Request, identifier: str) -> Reply:
        contact = self._by_identifier(request, identifier)
        del self.by_id[contact.id]
        self._ids = {key: number for key, number in self._ids.items() if number != contact.id}
        self.on_change("contact_deleted", contact, [])
        return Reply(204)

    # --- many

    def all(self, request: Request) -> Reply:
        """GET /contacts, in the order of creation."""
        if request.first("filter") or request.first("segmentId"):
            raise RefusedError(400, "bad_request", "the stand-in has no segments and no filter")
        return self._page(request, list(self.by_id.values()), 1000)

    def _page(self, request: Request, contacts: list[Contact], most: int) -> Reply:
        limit, offset = whole_number(request, "limit", 50, most=most), whole_number(request, "offset", 0)
        for name in ("modifiedSince", "createdSince"):
            if (text := request.first(name)) is not None:
                since = _moment(text, name)
                attribute = "modified_at" if name == "modifiedSince" else "created_at"
                contacts = [contact for contact in contacts if getattr(contact, attribute) >= since]
        if wanted := {int(number) for text in request.query.get("listIds", []) for number in text.split(",")}:
            contacts = [contact for contact in contacts if wanted & set(contact.lists)]
        if request.first("sort") != "asc":
            contacts = contacts[::-1]
        rows = [contact.row() for contact in contacts[offset : offset + limit]]
        return Reply.of({"contacts": rows, "count": len(contacts)})

    def update_many(self, request: Request) -> Reply:
        """POST /contacts/batch: updates only, one identifier a row; 207 where some failed (brevo.md A3)."""
        rows = request.mapping.get("contacts")
        if not isinstance(rows, list) or not rows:
            raise missing("contacts is missing")
        done, failed = [], []
        for row in rows:
            kinds = [kind for kind in ("email", "id", "sms", "ext_id") if kind in row]
            contact = self.find(kinds[0], row[kinds[0]]) if kinds else None
            if contact is None:
                failed.append(row.get("id") or row.get("email"))
                continue
            self._change(contact, {**row, "email": None, "ext_id": None}, self._attributes(row.get("attributes")), [])
            done.append(contact.id)
        if failed and not done:
            raise invalid("No contact could be updated")
        return Reply.of({"successIds": done, "failureIds": failed}, 207) if failed else Reply(204)

    def import_many(self, request: Request) -> Reply:
        """POST /contacts/import: 202 and a process; the contacts change when it is completed."""
        if len(request.body) > MAX_IMPORT_BYTES:
            raise RefusedError(400, "out_of_range", "Import should not exceed 10 MB")
        said = request.mapping
        given = [name for name in ("jsonBody", "fileBody", "fileUrl") if said.get(name)]
        if len(given) != 1:
            raise missing("One of fileUrl, fileBody or jsonBody is missing")
        if given == ["fileUrl"]:
            raise RefusedError(400, "bad_request", "the stand-in fetches nothing: give fileBody or jsonBody")
        if not said.get("listIds") and not said.get("newList"):
            raise missing("listIds or newList is missing")
        self._check_lists(said.get("listIds", []))
        numbers = list(said.get("listIds", []))
        if new := said.get("newList"):
            numbers.append(self.add_list(str(new["listName"]), int(new["folderId"])))
        rows = said["jsonBody"] if given == ["jsonBody"] else _rows_of_csv(str(said["fileBody"]))

        def work() -> dict[str, Any]:
            bad = sum(not self._import_row(row, said, numbers) for row in rows)
            return {"import": {"invalid_emails": bad or None}}

        number = self.processes.start("IMPORTUSER", work, notify=said.get("notifyUrl"))
        return Reply.of({"processId": number}, 202)

    def _import_row(self, row: dict[str, Any], said: dict[str, Any], numbers: list[int]) -> bool:
        given = dict(row.get("attributes") or {})
        if not said.get("emptyContactsAttributes", False):
            given = {name: value for name, value in given.items() if value != ""}
        attributes = self._attributes(given)
        person = {"email": row.get("email"), "ext_id": row.get("ext_id"), "listIds": numbers}
        if said.get("emailBlacklist"):
            person["emailBlacklisted"] = True
        try:
            identifiers = self._identifiers(person, attributes)
            if not identifiers:
                return False
            known = next((found for each in identifiers if (found := self.find(*each)) is not None), None)
            if known is not None and not said.get("updateExistingContacts", True):
                person, attributes, identifiers = {"listIds": numbers}, {}, []
            self._change(known or self._new(), person, attributes, identifiers)
        except RefusedError:
            return False
        return True

    # --- attributes

    def create_attribute(self, request: Request, category: str, name: str) -> Reply:
        said = request.mapping
        if category not in CATEGORIES:
            raise invalid("Attribute category is not valid")
        if not _NAME.fullmatch(name):
            raise invalid("Attribute name should be alphanumeric, in upper case")
        if name in self.attributes:
            raise invalid("Attribute name must be unique")
        kind = said.get("type", "category" if category == "category" else None)
        if category in ("normal", "transactional", "category"):
            if kind is None:
                raise missing("type is missing")
            if kind not in TYPES or (kind == "id") != (category == "transactional" and kind == "id"):
                raise invalid("Attribute type is not valid")
        if category in ("calculated", "global") and not said.get("value"):
            raise missing("value is missing")
        made: dict[str, Any] = {"name": name, "category": category}
        if kind is not None and kind != "category":
            made["type"] = kind
        for given, kept in (
            ("enumeration", "enumeration"),
            ("multiCategoryOptions", "multiCategoryOptions"),
            ("value", "calculatedValue"),
        ):
            if given in said:
                made[kept] = said[given]
        self.attributes[name] = made
        return Reply(201)

    # --- lists and folders

    def _check_lists(self, numbers: Any) -> None:
        if not isinstance(numbers, list) or not all(number in self.lists for number in numbers):
            raise invalid("List ids do not exist")

    def add_list(self, name: str, folder: int) -> int:
        if folder not in self.folders:
            raise not_found("Folder ID does not exist")
        self._last_list += 1
        self.lists[self._last_list] = ListOf(self._last_list, name, folder)
        return self._last_list

    def create_list(self, request: Request) -> Reply:
        said = request.mapping
        for name in ("name", "folderId"):
            if name not in said:
                raise missing(f"{name} is missing")
        return Reply.of({"id": self.add_list(str(said["name"]), int(said["folderId"]))}, 201)

    def create_folder(self, request: Request) -> Reply:
        if not request.mapping.get("name"):
            raise missing("name is missing")
        number = max(self.folders) + 1
        self.folders[number] = str(request.mapping["name"])
        return Reply.of({"id": number}, 201)

    def members(self, number: int) -> list[Contact]:
        return [contact for contact in self.by_id.values() if number in contact.lists]

    def _list_row(self, each: ListOf) -> dict[str, Any]:
        members = self.members(each.id)
        refused = sum(contact.email_blacklisted for contact in members)
        return {
            "id": each.id,
            "name": each.name,
            "folderId": each.folder,
            "totalBlacklisted": refused,
            "totalSubscribers": len(members) - refused,
            "uniqueSubscribers": len(members),
        }

    def _paged(self, request: Request, rows: list[dict[str, Any]], name: str) -> Reply:
        limit, offset = whole_number(request, "limit", 10, most=50), whole_number(request, "offset", 0)
        rows = rows if request.first("sort") == "asc" else rows[::-1]
        page = rows[offset : offset + limit]
        # An account without lists answers without the key, as with the events.
        return Reply.of({name: page, "count": len(rows)} if page else {"count": len(rows)})

    def all_lists(self, request: Request) -> Reply:
        return self._paged(request, [self._list_row(each) for each in self.lists.values()], "lists")

    def lists_of_folder(self, request: Request, folder: str) -> Reply:
        if int(folder) not in self.folders:
            raise not_found("Folder ID does not exist")
        rows = [self._list_row(each) for each in self.lists.values() if each.folder == int(folder)]
        return self._paged(request, rows, "lists")

    def all_folders(self, request: Request) -> Reply:
        rows = []
        for number, name in self.folders.items():
            lists = [self._list_row(each) for each in self.lists.values() if each.folder == number]
            totals = ("totalBlacklisted", "totalSubscribers", "uniqueSubscribers")
            rows.append({"id": number, "name": name} | {key: sum(row[key] for row in lists) for key in totals})
        return self._paged(request, rows, "folders")

    def _list(self, number: str) -> ListOf:
        if not number.isdecimal() or int(number) not in self.lists:
            raise not_found("List ID does not exist")
        return self.lists[int(number)]

    def one_list(self, request: Request, number: str) -> Reply:
        return Reply.of(self._list_row(self._list(number)))

    def rename_list(self, request: Request, number: str) -> Reply:
        each = self._list(number)
        each.name = str(request.mapping.get("name", each.name))
        each.folder = int(request.mapping.get("folderId", each.folder))
        return Reply(204)

    def delete_list(self, request: Request, number: str) -> Reply:
        gone = self._list(number).id
        for contact in self.members(gone):
            contact.lists.remove(gone)
        del self.lists[gone]
        return Reply(204)

    def contacts_of_list(self, request: Request, number: str) -> Reply:
        return self._page(request, self.members(self._list(number).id), 500)

    def _named(self, request: Request) -> tuple[list[Any], list[Contact | None]]:
        said = request.mapping
        given = [
            (name, kind) for name, kind in (("emails", "email"), ("ids", "id"), ("extIds", "ext_id")) if name in said
        ]
        if len(given) != 1:
            raise missing("One of emails, ids or extIds is missing")
        values = said[given[0][0]]
        if not isinstance(values, list) or not values:
            raise invalid(f"{given[0][0]} should be a non-empty array")
        if len(values) > MAX_ADDED:
            raise RefusedError(400, "out_of_range", f"{given[0][0]} should not exceed {MAX_ADDED}")
        return values, [self.find(given[0][1], value) for value in values]

    def _moved(self, values: list[Any], contacts: list[Contact | None], good: list[bool], why: str) -> Reply:
        if not any(good):
            raise invalid(why)
        now = self.times.now()
        for contact, was_good in zip(contacts, good, strict=True):
            if contact is not None and was_good:
                contact.modified_at = now
        done = [value for value, was_good in zip(values, good, strict=True) if was_good]
        failed = [value for value, was_good in zip(values, good, strict=True) if not was_good]
        return Reply.of({"contacts": {"success": done, "failure": failed, "total": len(done)}}, 201)

    def add_to_list(self, request: Request, number: str) -> Reply:
        each = self._list(number)
        values, contacts = self._named(request)
        good = [contact is not None and each.id not in contact.lists for contact in contacts]
        for contact, is_new in zip(contacts, good, strict=True):
            if contact is not None and is_new:
                contact.lists.append(each.id)
                self.on_change("list_addition", contact, [each.id])
        return self._moved(values, contacts, good, "Contact already in list and/or does not exist")

    def remove_from_list(self, request: Request, number: str) -> Reply:
        each = self._list(number)
        if request.mapping.get("all") is True:
            for member in self.members(each.id):
                member.lists.remove(each.id)
            work = self.processes.start("LIST_EXPORT", lambda: None)
            return Reply.of({"contacts": {"processId": work}}, 201)
        values, contacts = self._named(request)
        good = [contact is not None and each.id in contact.lists for contact in contacts]
        for contact, is_member in zip(contacts, good, strict=True):
            if contact is not None and is_member:
                contact.lists.remove(each.id)
        return self._moved(values, contacts, good, "Contact already removed from list and/or does not exist")

    def seed(self, rows: Iterable[dict[str, Any]]) -> None:
        """Contacts that a person has put there: as POST /contacts has them."""
        for row in rows:
            request = Request("POST", "/v3/contacts", body=json.dumps({**row, "updateEnabled": True}).encode())
            self.create(request)


def _fits(value: Any, attribute: dict[str, Any]) -> bool:
    """Whether a value has an attribute's type."""
    if attribute["category"] == "category":
        options = attribute.get("enumeration", [])
        return any(value in (option["value"], option["label"]) for option in options)
    if attribute["category"] in ("calculated", "global"):
        return False
    kind = attribute.get("type")
    if kind == "float":
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind == "boolean":
        return isinstance(value, bool)
    if kind == "date":
        try:
            return isinstance(value, str) and bool(date.fromisoformat(value))
        except ValueError:
            return False
    if kind == "multiple-choice":
        options = attribute.get("multiCategoryOptions", [])
        return isinstance(value, list) and all(each in options for each in value)
    return isinstance(value, str)


def _moment(text: str, name: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise invalid(f"{name} should be a UTC date-time: YYYY-MM-DDTHH:mm:ss.SSSZ") from None
    if moment.tzinfo is None:
        raise invalid(f"{name} needs a time zone")
    return moment


def _rows_of_csv(text: str) -> list[dict[str, Any]]:
    """Rows of a `fileBody`: CSV with semicolons, EMAIL and EXT_ID among the attributes' names."""
    rows = []
    for line in csv.DictReader(io.StringIO(text), delimiter=";"):
        named = {(name or "").strip().upper(): value or "" for name, value in line.items()}
        email, ext_id = named.pop("EMAIL", ""), named.pop("EXT_ID", "")
        rows.append({"email": email, "ext_id": ext_id, "attributes": named})
    return rows
