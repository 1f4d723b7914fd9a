"""Brevo's API: one call, one answer, and what became of it. Facts relied on: docs/brevo.md.

A dry run is a property of the client: it has neither a key nor anything that could open a socket. A write is tried
once and never raises for what server or network do: its Answer says whether it was accepted, rejected, not sent, or
nobody knows. Reads are typed rows, or BrevoUnavailableError. Every call takes its turn at the throttle. There is no
method that lifts a block or an unsubscription: POST and GET are all it knows, on the paths that stand here and in
`logic/brevo_requests.py`. Nothing is planned, decided or recorded
here: the ledger is `crm_assets/attempts.py`.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import quote, urlsplit

from crm_assets.clock import Clock
from crm_assets.logic.brevo_answers import Answer, Broken, Outcome, Reason, Reply, classify, decoded, limits_of
from crm_assets.logic.brevo_requests import (
    IDEMPOTENCY_HEADER,
    InvalidRequestError,
    WriteRequest,
    canonical,
    check_body,
    check_write,
)
from crm_assets.logic.brevo_rows import (
    Attribute,
    BlockedContact,
    Contact,
    ContactList,
    EmailCampaign,
    Event,
    Folder,
    Process,
    Template,
)
from crm_assets.resources.throttle import Throttle
from crm_assets.rules import BrevoRules
from crm_assets.settings import Settings, brevo_key
from crm_assets.tenants import Tenant

if TYPE_CHECKING:
    import httpx

    from crm_assets.resources.wire import Wire

__all__ = [
    "Answer", "Brevo", "BrevoUnavailableError", "InvalidRequestError", "LiveRefusedError", "Mode", "Outcome", "Reason",
    "advice", "client",
]  # fmt: skip

log = logging.getLogger("crm.brevo")

Mode = Literal["dry", "read", "live"]

SEND = "POST /smtp/email"

# A read is tried again after these; the others would come back the same.
_PASSING = frozenset({"throttled", "not_connected", "server_error", "timed_out", "disconnected", "unreadable"})

_ADVICE: Mapping[str, str] = {
    "bad_request": "Brevo refused the request as malformed",
    "too_large": "Brevo refused the request as too large",
    "not_found": "Brevo does not know what was asked for",
    "throttled": "Brevo's rate limit is reached: try again later; other programs that use this account share it",
    "unauthorized": "Brevo refused the key: check the variable {variable}, and whether the account blocks unknown IPs",
    "forbidden": "Brevo does not let this account do it: look whether it is still under validation, and what the key"
    " in {variable} may do",
    "no_credit": "the Brevo account has no sending credit left: buy some, then go on",
    "not_connected": "Brevo could not be reached: check the network and CRM_BREVO_URL",
    "server_error": "Brevo answered with an error of its own",
    "timed_out": "Brevo did not answer in time",
    "disconnected": "the connection to Brevo broke",
    "unreadable": "the answer is none that Brevo documents",
    "moved": "what was read changed too much in between: read it again",
    "dry_run": "a dry run asks Brevo nothing",
}

# Rows of a page: what Brevo gives at most, and what it gives where nothing is said. A page shorter than the latter is
# the last one even on a server that ignores what was asked for.
_EVENTS_PAGE, _BLOCKED_PAGE, _CONTACTS_PAGE, _MEMBERS_PAGE, _LISTS_PAGE, _CAMPAIGNS_PAGE = (
    (5000, 2500), (100, 50), (1000, 50), (500, 50), (50, 10), (100, 50),
)  # fmt: skip
_EVENTS_SPAN = timedelta(days=89)  # Brevo: 90 days at most, both included

T = TypeVar("T")


class LiveRefusedError(Exception):
    """Brevo may not be called as asked; the message says which of the safeguards is missing and what to do."""


class BrevoUnavailableError(Exception):
    """Something could not be read from Brevo. `reason`: a Reason; the message says what to do and names nobody."""

    def __init__(self, reason: Reason, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason


def advice(reason: Reason, tenant: Tenant) -> str:
    """What happened and what to do about it, in a sentence."""
    return _ADVICE.get(reason, reason).format(variable=tenant.brevo.api_key_variable)


def bucket_of(method: str, path: str) -> str:
    """The group of endpoints whose rate limit a call counts for: a key of rules.brevo.buckets."""
    if path.startswith("/smtp/email") and method == "POST":
        return "smtp_email"
    if path.startswith("/smtp/blockedContacts"):
        return "blocked_contacts"
    if path.startswith("/smtp/"):
        return "smtp"
    return "contacts" if path.startswith("/contacts") else "other"


def problem_of_url(url: str, *, may_have_query: bool = False) -> str | None:
    """What is wrong with an address that is to be called; None when nothing is. The address itself is not quoted."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        loopback = host == "localhost" or (
            (host[:1].isdigit() or ":" in host) and ipaddress.ip_address(host).is_loopback
        )
    except ValueError:
        return "is no address"
    if parts.scheme != "https" and not (parts.scheme == "http" and loopback):
        return "is no https:// address (http:// on this machine only)"
    if not host or parts.username or parts.password or (parts.query and not may_have_query):
        return "is to be an address without user, password or query"
    return None


class Brevo:
    """A client for one account. Without a wire it is a dry run; only a live one writes."""

    def __init__(
        self,
        tenant: Tenant,
        clock: Clock,
        *,
        wire: Wire | None = None,
        transport: httpx.BaseTransport | None = None,
        throttle: Throttle | None = None,
        account: str = "",
        may_write: bool = False,
    ) -> None:
        self.account = account  # first 16 hex of the SHA-256 of address and key; empty in a dry run
        self._tenant = tenant
        self._clock = clock
        self._wire = wire
        self._transport = transport
        self._throttle = throttle
        self._may_write = may_write

    @property
    def is_dry_run(self) -> bool:
        return self._wire is None

    @property
    def _rules(self) -> BrevoRules:
        return self._tenant.business_rules.brevo

    def __repr__(self) -> str:
        kind = "dry" if self._wire is None else "live" if self._may_write else "read"
        return f"<Brevo {self._tenant.slug} {kind}>"

    def __enter__(self) -> Brevo:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close its connections, if there are any."""
        if self._wire is not None:
            self._wire.close()
        if self._throttle is not None:
            self._throttle.close()

    # --- writes: tried once

    def send_email(self, body: bytes) -> Answer:
        """POST /smtp/email with these exact bytes; the idempotency key in them goes as an HTTP header too.

        InvalidRequestError when they break a documented limit.
        """
        said = check_body(body)
        headers = {IDEMPOTENCY_HEADER: said.idempotency_key}
        return self._write(SEND, "/smtp/email", body, headers=headers, n_versions=said.n_versions)

    def write(self, request: WriteRequest) -> Answer:
        """Any other call that changes something; made by `logic/brevo_requests.py`."""
        check_write(request)
        return self._write(request.endpoint, request.path, request.body)

    def _write(
        self,
        endpoint: str,
        path: str,
        body: bytes,
        *,
        headers: Mapping[str, str] | None = None,
        n_versions: int | None = None,
    ) -> Answer:
        if self._wire is not None and not self._may_write:
            raise LiveRefusedError(f"{endpoint} refused: this client only reads")
        return self._called(endpoint, path, body, headers=headers, n_versions=n_versions)

    def _called(
        self,
        endpoint: str,
        path: str,
        body: bytes,
        *,
        headers: Mapping[str, str] | None = None,
        n_versions: int | None = None,
    ) -> Answer:
        """One POST, once."""
        if self._wire is None:
            return Answer("dry_run", "dry_run")
        bucket = bucket_of("POST", path)
        # Who was checked before a message was frozen is not checked again while it waits.
        patience = self._rules.backoff_seconds.send if n_versions is not None else None
        if self._throttle is not None and (far := self._throttle.wait(bucket, patience)):
            return Answer("not_sent", "throttled", retry_after=far)
        reply = self._wire.call("POST", path, headers=headers, content=body)
        answer = classify(reply, n_versions=n_versions)
        self._note(bucket, endpoint, reply, answer.reason)
        return answer

    def _note(self, bucket: str, endpoint: str, reply: Reply | Broken, reason: str) -> None:
        log.info("%s: %s %s", endpoint, reply.status, reason)
        if self._throttle is not None and isinstance(reply, Reply):
            self._throttle.note(bucket, limits_of(reply.headers), is_throttled=reason == "throttled")

    # --- reads

    def events(
        self, start: date, end: date, *, tag: str | None = None, event: str | None = None, email: str | None = None
    ) -> Iterator[Event]:
        """Lines of the log of the days start..end, oldest first; `event`: a word of the statistics vocabulary.

        Brevo refuses days that have not come, so `end` is at most today.
        """
        tags = json.dumps([tag]) if tag is not None else None  # Brevo: a serialized array
        wanted = {"tags": tags, "event": event, "email": email}
        filters = {name: value for name, value in wanted.items() if value is not None}
        end = min(end, self._clock.now().date())
        first = min(start, end)
        while first <= end:
            last = min(first + _EVENTS_SPAN, end)
            span = {"startDate": first.isoformat(), "endDate": last.isoformat(), "sort": "asc"}
            yield from self._pages("/smtp/statistics/events", "events", _EVENTS_PAGE, Event.of, **filters, **span)
            first = last + timedelta(days=1)

    def blocked_contacts(self, since: date | None = None) -> Iterator[BlockedContact]:
        """Recipients to whom transactional messages are blocked, oldest first; all of them unless `since` a day."""
        span: dict[str, str] = {}
        if since is not None:
            today = self._clock.now().date()
            span = {"startDate": min(since, today).isoformat(), "endDate": today.isoformat()}
        return self._pages("/smtp/blockedContacts", "contacts", _BLOCKED_PAGE, BlockedContact.of, **span, sort="asc")

    def contacts(self, modified_since: datetime | None = None) -> Iterator[Contact]:
        """Contacts in the order in which they were made; those modified since a moment, or all of them."""
        since: dict[str, str] = {}
        if modified_since is not None:
            since = {"modifiedSince": modified_since.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")}
        return self._pages("/contacts", "contacts", _CONTACTS_PAGE, Contact.of, **since, sort="asc")

    def contact(self, email: str) -> Contact | None:
        """One contact; None when Brevo has none of that address."""
        try:
            return self._one(f"/contacts/{quote(email, safe='')}", Contact.of, "/contacts/{identifier}")
        except BrevoUnavailableError as error:
            if error.reason == "not_found":
                return None
            raise

    def process(self, process_id: int) -> Process:
        """How far an import is. In the group of 100 calls an hour: ask slowly."""
        return self._one(f"/processes/{process_id}", Process.of, "/processes/{processId}")

    def template(self, template_id: int) -> Template:
        """A template kept at Brevo."""
        return self._one(f"/smtp/templates/{template_id}", Template.of, "/smtp/templates/{templateId}")

    def folders(self) -> list[Folder]:
        """The folders of lists."""
        return list(self._pages("/contacts/folders", "folders", _LISTS_PAGE, Folder.of, sort="asc"))

    def lists(self) -> list[ContactList]:
        """The lists of contacts."""
        return list(self._pages("/contacts/lists", "lists", _LISTS_PAGE, ContactList.of, sort="asc"))

    def list_contacts(self, list_id: int) -> Iterator[Contact]:
        """Who is in a list, in the order in which they were made contacts."""
        endpoint = "/contacts/lists/{listId}/contacts"
        return self._pages(
            f"/contacts/lists/{list_id}/contacts", "contacts", _MEMBERS_PAGE, Contact.of, endpoint, sort="asc"
        )

    def attributes(self) -> list[Attribute]:
        """What contacts can have."""
        said = self._read("/contacts/attributes", {})
        return self._rows(said, "attributes", Attribute.of, "/contacts/attributes")

    def email_campaigns(
        self, *, status: str | None = None, since: date | None = None, statistics: str | None = None
    ) -> Iterator[EmailCampaign]:
        """Campaigns made on Brevo's own screens; with `since` those sent since a day (status `sent` only)."""
        wanted: dict[str, str] = {"excludeHtmlContent": "true", "sort": "asc"}
        if status is not None:
            wanted["status"] = status
        if since is not None:
            now = self._clock.now().astimezone(UTC)
            wanted |= {
                "startDate": f"{min(since, now.date()).isoformat()}T00:00:00.000Z",
                "endDate": now.strftime("%Y-%m-%dT%H:%M:%S.000Z"),
            }
        if statistics is not None:
            wanted["statistics"] = statistics
        return self._pages("/emailCampaigns", "campaigns", _CAMPAIGNS_PAGE, EmailCampaign.of, **wanted)

    def export_recipients(self, campaign_id: int) -> int:
        """Have Brevo write down who got a campaign; the process that does. Nothing changes by it, so that a client
        that only reads may ask for it; tried once.
        """
        endpoint, path = "POST /emailCampaigns/{campaignId}/exportRecipients", f"/emailCampaigns/{campaign_id}"
        body = canonical({"recipientsType": "all"})
        answer = self._called(endpoint, f"{path}/exportRecipients", body)
        said = decoded(answer.content)
        if answer.reason == "ok" and isinstance(said, dict) and isinstance(said.get("processId"), int):
            return int(said["processId"])
        raise self._unavailable("unreadable" if answer.reason == "ok" else answer.reason, endpoint)

    def exported(self, url: str) -> bytes:
        """The file that a process wrote. It may lie on any server, so that it is asked for without the key."""
        from crm_assets.resources.wire import Wire

        endpoint = "GET export_url"
        if self._wire is None:
            raise self._unavailable("dry_run", endpoint)
        if problem_of_url(url, may_have_query=True):
            raise self._unavailable("unreadable", endpoint)
        parts = urlsplit(url)
        wire = Wire(f"{parts.scheme}://{parts.netloc}", self._rules.api_seconds, transport=self._transport)
        try:
            reply = wire.call("GET", url.removeprefix(wire.base_url))
        finally:
            if self._transport is None:
                wire.close()
        if isinstance(reply, Reply) and reply.status == 200:
            return reply.content
        raise self._unavailable(classify(reply).reason if isinstance(reply, Broken) else "not_found", endpoint)

    def _pages(
        self,
        path: str,
        name: str,
        page: tuple[int, int],
        of: Callable[[Mapping[str, Any]], T],
        endpoint: str | None = None,
        **params: str,
    ) -> Iterator[T]:
        limit, unasked = page
        offset, last = 0, list[T]()
        while True:
            said = self._read(path, {**params, "limit": limit, "offset": offset}, endpoint)
            rows = self._rows(said, name, of, endpoint or path)
            # Where rows went from before the offset meanwhile, the others moved up: what a page begins with has been
            # seen, or something was skipped.
            if last and not any(row in last for row in rows):
                raise self._unavailable("moved", f"GET {endpoint or path}")
            yield from (row for row in rows[: len(last)] if row not in last)
            yield from rows[len(last) :]
            if len(rows) < unasked:
                return
            last = rows[-(unasked // 10) :]
            offset += len(rows) - len(last)

    def _rows(self, said: Any, name: str, of: Callable[[Mapping[str, Any]], T], endpoint: str) -> list[T]:
        """The rows of a page. Brevo leaves the key out, or gives null, where there are none."""
        found = said.get(name) if isinstance(said, dict) else said
        try:
            return [of(row) for row in (found if found is not None else [])]
        except (KeyError, TypeError, ValueError, AttributeError):
            pass  # said below, without the row
        raise self._unavailable("unreadable", f"GET {endpoint}")

    def _one(self, path: str, of: Callable[[Mapping[str, Any]], T], endpoint: str) -> T:
        said = self._read(path, {}, endpoint)
        return self._rows({"rows": [said]}, "rows", of, endpoint)[0]

    def _unavailable(self, reason: Reason, endpoint: str) -> BrevoUnavailableError:
        return BrevoUnavailableError(reason, f"{endpoint}: {advice(reason, self._tenant)}")

    def _read(self, path: str, params: Mapping[str, str | int], endpoint: str | None = None) -> Any:
        """The answer to a GET as JSON. The one place where something is tried again: reading changes nothing."""
        endpoint = f"GET {endpoint or path}"
        if self._wire is None:
            raise self._unavailable("dry_run", endpoint)
        bucket = bucket_of("GET", path)
        reason: Reason = "throttled"
        for n_try in range(1, self._rules.read_tries + 1):
            if self._throttle is not None and self._throttle.wait(bucket):
                break
            reply = self._wire.call("GET", path, params=params)
            answer = classify(reply)
            said = decoded(answer.content)
            reason = answer.reason
            if reason == "ok" and not isinstance(said, dict):
                reason = "unreadable"
            self._note(bucket, endpoint, reply, reason)
            if reason == "ok":
                return said
            if reason not in _PASSING or n_try == self._rules.read_tries:
                break
            pause = self._rules.backoff_seconds.first * 2 ** (n_try - 1)
            log.info("%s: tried again in %s seconds", endpoint, pause)
            self._clock.sleep(min(pause, self._rules.backoff_seconds.most))
        raise self._unavailable(reason, endpoint)


def client(
    tenant: Tenant,
    config: Settings,
    clock: Clock,
    *,
    mode: Mode,
    transport: httpx.BaseTransport | None = None,
) -> Brevo:
    """The client of an estate. `dry`: no socket, no key; `read`: GET only; `live`: may write.

    LiveRefusedError names what is missing: a key, and for `live` the tenant's own leave and CRM_LIVE. The plan's hash
    and all else that a send needs is the safeguards' business. `transport`: a server within the process, for tests.
    """
    if mode == "dry":
        return Brevo(tenant, clock)
    if mode == "live" and not tenant.brevo.live:
        raise LiveRefusedError(
            f"live sending is not allowed: tenants/{tenant.slug}.yaml does not say brevo.live: true; say so there, or"
            " run it dry"
        )
    if mode == "live" and not config.live:
        raise LiveRefusedError("live sending is not allowed: CRM_LIVE is not 1; set it, or run it dry")
    key = brevo_key(config, tenant.brevo.api_key_variable)
    if key is None:
        raise LiveRefusedError(
            f"Brevo cannot be asked: no Brevo key in {tenant.brevo.api_key_variable}; put it there, or run it dry"
        )
    if problem := problem_of_url(config.brevo_url):
        raise LiveRefusedError(f"Brevo cannot be asked: CRM_BREVO_URL {problem}")
    from crm_assets import databases
    from crm_assets.resources.wire import Wire

    # The same key opens another account at another address: a stand-in's log says nothing of Brevo's.
    account = hashlib.sha256(f"{config.brevo_url} {key.get_secret_value()}".encode()).hexdigest()[:16]
    rules = tenant.business_rules.brevo
    control_url = databases.ensure_control(databases.cluster(config))
    return Brevo(
        tenant,
        clock,
        wire=Wire(config.brevo_url, rules.api_seconds, secret=("api-key", key), transport=transport),
        transport=transport,
        throttle=Throttle(control_url, account, rules, clock),
        account=account,
        may_write=mode == "live",
    )
