"""The stand-in whole: every request goes through `handle`, which says what the server answers. No sockets, one lock.

Order of a call to the API: faults that strike before, the key, the bucket, the endpoint, faults that strike after.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from brevo_standin import limits as buckets
from brevo_standin import page
from brevo_standin.account import Account
from brevo_standin.campaigns import Campaigns
from brevo_standin.contacts import Contact, Contacts
from brevo_standin.faults import Fault, Rule
from brevo_standin.history import History
from brevo_standin.library import Library
from brevo_standin.log import VOCABULARIES
from brevo_standin.mail import IdempotencyMode
from brevo_standin.processes import Processes
from brevo_standin.times import Times
from brevo_standin.webhooks import Webhooks
from brevo_standin.wire import RefusedError, Reply, Request, invalid

Endpoint = Callable[..., Reply]
Post = Callable[[str, bytes, dict[str, str]], int | None]
SERVER_ERROR = "<html>\r\n<head><title>{0}</title></head>\r\n<body><center><h1>{0}</h1></center></body>\r\n</html>\r\n"
REASON = {500: "500 Internal Server Error", 502: "502 Bad Gateway", 503: "503 Service Temporarily Unavailable"}
ACCEPTED_FIELDS = ("tag", "address", "params", "at", "message_id", "blocked")
POST_SECONDS = 10.0
# Controls that are written into the journal, beside the accepted writes of the API.
JOURNALED = {"seed", "events", "campaign_events", "log_lag"}


def post_by_http(url: str, content: bytes, headers: dict[str, str]) -> int | None:
    """POST a webhook: its status, None when nobody answers."""
    try:
        return httpx.post(url, content=content, headers=headers, timeout=POST_SECONDS, trust_env=False).status_code
    except httpx.HTTPError:
        return None


class StandIn:
    """One account behind one key, its control API, and the record of every call."""

    def __init__(
        self,
        *,
        mode: IdempotencyMode = "body",
        key: str = "xkeysib-standin",
        start: datetime | None = None,
        limits: dict[str, tuple[int, int]] | None = None,
        seed: int = 0,
        post: Post = post_by_http,
    ) -> None:
        """`start`: of the virtual clock, None for the machine's; `limits`: calls per bucket, None for no throttling;
        `post`: how webhooks leave.
        """
        self.lock = threading.RLock()
        self.times = Times(start)
        self.key = key
        self.account = Account(self.times, mode, seed)
        self.processes = Processes(self.times)
        self.contacts = Contacts(self.times, self.processes, self._block_for_sender)
        self.webhooks = Webhooks(self.times, self.account)
        self.campaigns = Campaigns(self.account, self.contacts, self.processes, self.webhooks)
        self.library = Library(self.account)
        self.history = History(self.account)
        self.limits = buckets.Limits(limits)
        self.post = post
        self.faults: list[Rule] = []
        self.requests: list[dict[str, Any]] = []
        # Told of each call that was not refused: request, route, reply. Tests compare them with Brevo's description.
        self.on_answer: Callable[[Request, str, Reply], None] = lambda _request, _route, _reply: None
        self.seeds: list[dict[str, Any]] = []
        self.journal: Path | None = None
        self._target: datetime | None = None  # until when the control that is being handled lets time pass
        account = self.account
        account.on_event = self.webhooks.transactional
        self.processes.notify = self.webhooks.notify
        self.contacts.on_change = self._contact_changed
        self.webhooks.contact_id = lambda address: contact.id if (contact := self._contact(address)) else 0
        self.routes: list[tuple[str, str, Endpoint]] = [
            ("POST", "/smtp/email", account.send),
            ("DELETE", "/smtp/email/{identifier}", lambda _request, identifier: account.cancel(identifier)),
            ("GET", "/smtp/emailStatus/{identifier}", lambda _request, identifier: account.status_of(identifier)),
            ("GET", "/smtp/statistics/events", lambda request: account.log.answer(request, self.times.now())),
            *self.history.routes(),
            *self.library.routes(),
            *self.contacts.routes(),
            *self.processes.routes(),
            *self.campaigns.routes(),
            *self.webhooks.routes(),
        ]
        self._compiled = [(method, path, _pattern(path), endpoint) for method, path, endpoint in self.routes]
        self._control: dict[tuple[str, str], Callable[[Request], Any]] = {
            ("POST", "reset"): self._reset,
            ("GET", "accepted"): self._accepted,
            ("POST", "seed"): lambda request: self.seed(**request.mapping),
            ("GET", "clock"): lambda _request: {"now": self.times.now().isoformat()},
            ("POST", "clock"): self._clock,
            ("GET", "faults"): lambda _request: [{"do": rule.do, "struck": rule.struck} for rule in self.faults],
            ("POST", "faults"): self._set_faults,
            ("GET", "requests"): lambda _request: self.requests,
            ("POST", "events"): self._script,
            ("POST", "campaign_events"): self._script_campaigns,
            ("POST", "log_lag"): self._log_lag,
            ("GET", "state"): self._state,
            ("GET", "deliveries"): self._deliveries,
        }

    def _block_for_sender(self, email: str, sender: str) -> None:
        self.account.block(email, sender, "adminBlocked")

    def _contact(self, address: str) -> Contact | None:
        return self.contacts.find("email", address)

    def _contact_changed(self, event: str, contact: Contact, lists: list[int]) -> None:
        names = {
            "list_addition": "listAddition",
            "contact_updated": "contactUpdated",
            "contact_deleted": "contactDeleted",
        }
        more = {"list_id": lists} if lists else {}
        self.webhooks.marketing(event, names[event], str(contact.email), **more)

    # --- a request

    def handle(self, request: Request) -> Reply:
        """The answer to a request, and what was changed by it is changed."""
        with self.lock, self.times.one_moment():
            self._target = None
            if request.path.startswith("/v3/"):
                reply = self._handle_api(request)
            elif request.path.startswith("/standin/exports/"):
                reply = self._export(request)
            elif request.path.startswith("/standin/"):
                reply = self._handle_control(request)
            elif request.path.startswith("/messages/"):
                reply = page.one(self.account, request.path.removeprefix("/messages/"))
            elif request.path == "/":
                reply = page.overview(self.account, request)
            else:
                reply = RefusedError(404, "document_not_found", "Route not found").reply
            target = self._target
        if target is not None and reply.status == 200:
            # What falls due is done without the lock: a receiver of webhooks may ask the API meanwhile.
            self._run_due(target)
            reply = Reply.of({**json.loads(reply.body), "now": self.times.now().isoformat()})
        return reply

    def _handle_api(self, request: Request) -> Reply:
        fault = next((found for rule in self.faults if (found := rule.meets(request))), None)
        headers: dict[str, str] = {}
        route = ""
        if fault is not None and fault.is_before:
            reply = _struck(fault)
        else:
            route, endpoint, values = self._route(request)
            headers, has_room = self.limits.take(request, self.times.now())
            if not has_room:
                reply = buckets.throttled(headers)
            else:
                reply = self._answer(request, route, endpoint, values)
        for name, value in headers.items():
            reply.headers.setdefault(name, value)
        if reply.status < 300 and route:
            self.on_answer(request, route, reply)
            if request.method != "GET":
                self._write_journal(request)
        self.requests.append(
            {
                "at": self.times.now().isoformat(),
                "method": request.method,
                "path": request.path,
                "route": route,
                "query": dict(request.query),
                "n_bytes": len(request.body),
                "status": reply.status,
                "fault": fault.kind if fault else None,
            }
        )
        if fault is not None and not fault.is_before:
            if fault.kind == "error_after":
                reply = _server_error(fault.status)
            reply.fault = fault
        return reply

    def _route(self, request: Request) -> tuple[str, Endpoint | None, dict[str, str]]:
        path = request.path.removeprefix("/v3")
        known = ""
        for method, template, pattern, endpoint in self._compiled:
            if found := pattern.fullmatch(path):
                known = template
                if method == request.method:
                    return template, endpoint, found.groupdict()
        return known, None, {}

    def _answer(self, request: Request, route: str, endpoint: Endpoint | None, values: dict[str, str]) -> Reply:
        try:
            if request.headers.get("api-key") != self.key:
                raise RefusedError(401, "unauthorized", "Key not found")
            if endpoint is None and route:
                raise RefusedError(405, "method_not_allowed", f"{request.method} Method is not allowed on this path")
            if endpoint is None:
                raise RefusedError(404, "document_not_found", "Route not found")
            return endpoint(request, **values)
        except RefusedError as refused:
            return refused.reply

    # --- control

    def _handle_control(self, request: Request) -> Reply:
        endpoint = self._control.get((request.method, request.path.removeprefix("/standin/")))
        if endpoint is None:
            return RefusedError(404, "document_not_found", "no such control").reply
        try:
            said = endpoint(request)
        except RefusedError as refused:
            return refused.reply
        except (TypeError, ValueError, KeyError) as error:
            return invalid(f"{type(error).__name__}: {error}").reply
        if request.method == "POST" and request.path.removeprefix("/standin/") in JOURNALED:
            self._write_journal(request)
        return said if isinstance(said, Reply) else Reply.of(said)

    def _export(self, request: Request) -> Reply:
        """The file behind a process's export_url."""
        number = request.path.rpartition("/")[2].removesuffix(".csv")
        process = self.processes.by_id.get(int(number)) if number.isdecimal() else None
        if process is None or process.export_url is None:
            return RefusedError(404, "document_not_found", "no such export").reply
        return Reply(200, process.content.encode(), content_type="text/csv; charset=utf-8")

    def _reset(self, request: Request) -> dict[str, Any]:
        """Back to what was seeded; `{"seeds": false}` forgets that too. The clock goes on."""
        self.times.forget()
        for part in (self.account, self.contacts, self.processes, self.campaigns, self.webhooks, self.library,
                     self.history, self.limits):  # fmt: skip
            part.forget()
        self.faults, self.requests = [], []
        if self.journal is not None:
            self.journal.unlink(missing_ok=True)
        seeds, self.seeds = self.seeds if request.mapping.get("seeds", True) else [], []
        for seed in seeds:
            self.seed(**seed)
        return {"now": self.times.now().isoformat()}

    def seed(
        self,
        *,
        senders: list[str] | None = None,
        templates: list[dict[str, Any]] | None = None,
        blocked: list[dict[str, str]] | None = None,
        credits: int | None = None,
        attributes: list[dict[str, Any]] | None = None,
        lists: list[str] | None = None,
        contacts: list[dict[str, Any]] | None = None,
        campaigns: list[dict[str, Any]] | None = None,
    ) -> dict[str, Any]:
        """State that a person made at Brevo's own screens; `reset` comes back to it.

        `templates`: id, html, subject, sender, isActive; `blocked`: email, code, and sender unless for every one;
        `attributes`: name, type, category; `contacts`: as in POST /contacts; `campaigns`: see `Campaigns.seed`.
        """
        given = {name: value for name, value in locals().items() if name != "self" and value is not None}
        self.seeds.append(given)
        for sender in senders or []:
            self.account.add_sender(sender)
        for template in templates or []:
            self.library.seed(template)
        for attribute in attributes or []:
            self.contacts.attributes[attribute["name"]] = {"category": "normal", "type": "text", **attribute}
        for name in lists or []:
            self.contacts.add_list(name, 1)
        self.contacts.seed(contacts or [])
        for campaign in campaigns or []:
            self.campaigns.seed(campaign)
        for block in blocked or []:
            every = [each for each, _ in self.account.senders.values()]
            for sender in [block["sender"]] if "sender" in block else every:
                self.account.block(block["email"], sender, block.get("code", "adminBlocked"))
        if credits is not None:
            self.account.credits = credits
        return {
            "senders": len(self.account.senders),
            "templates": sorted(self.account.templates),
            "lists": {each.name: each.id for each in self.contacts.lists.values()},
        }

    def _state(self, request: Request) -> dict[str, Any]:
        """What an assertion may want to know of the account."""
        return {
            "credits": self.account.credits,
            "blocked": [
                {"email": block.email, "sender": block.sender, "code": block.code}
                for block in self.account.blocks.values()
            ],
            "contacts": [contact.row() for contact in self.contacts.by_id.values()],
            "lists": {each.name: len(self.contacts.members(each.id)) for each in self.contacts.lists.values()},
            "attributes": list(self.contacts.attributes.values()),
            # Refusals that a client has lifted: never one of ours.
            "unblocked": [*self.contacts.unblocked, *self.history.unblocked],
            "test_sends": self.library.tests,
            "sandboxed": self.account.sandboxed,
        }

    def _deliveries(self, request: Request) -> list[dict[str, Any]]:
        return [
            {"webhook": each.webhook, "n_events": each.n_events, "tries": each.tries, "outcome": each.outcome}
            for each in self.webhooks.deliveries
        ]

    def _accepted(self, request: Request) -> dict[str, Any]:
        """Each accepted message, in order. `fields`: which of its values; `since`: after that call."""
        fields = (request.first("fields") or ",".join(ACCEPTED_FIELDS)).split(",")
        tag, since = request.first("tag"), int(request.first("since") or 0)
        heavy = not {"params", "html", "text", "name"}.isdisjoint(fields)
        rows = []
        for call in self.account.calls[since:]:
            if tag is not None and tag not in call.tags:
                continue
            plain = {
                "tag": call.tags[0] if call.tags else None,
                "tags": call.tags,
                "at": call.at.isoformat(),
                "call": call.number,
                "sender": call.sender,
                "template_id": call.template_id,
                "status": call.status,
                "key": call.idempotency_key,
            }
            for message in call.messages:
                row = {
                    **plain,
                    "address": message.address,
                    "message_id": message.message_id,
                    "blocked": message.blocked,
                    "subject": message.subject,
                    "role": message.role,
                    "version": message.version,
                    **(message.content() if heavy else {}),
                }
                rows.append({name: row[name] for name in fields})
            call.forget_parsed()
        return {"accepted": rows, "calls": len(self.account.calls), "sandboxed": self.account.sandboxed}

    def _clock(self, request: Request) -> dict[str, Any]:
        said = request.mapping
        target = datetime.fromisoformat(said["to"]) if "to" in said else None
        self._target = target or self.times.now() + timedelta(seconds=float(said.get("advance", 0)))
        if not self.times.is_virtual:
            raise invalid("the clock is the machine's")
        return {}

    def advance(self, seconds: float) -> None:
        """Let time pass, doing everything that falls due, each at its moment."""
        self._run_due(self.times.now() + timedelta(seconds=seconds))

    def catch_up(self) -> None:
        """Do what has fallen due by the machine's clock."""
        self._run_due(datetime.now(UTC))

    def _run_due(self, target: datetime) -> None:
        going_on = True
        while going_on:
            with self.lock:
                going_on = self.times.step(target)
                due, self.webhooks.due = self.webhooks.due, []
            for delivery in due:
                status = self.post(delivery.url, delivery.body, delivery.headers)
                with self.lock:
                    self.webhooks.answered(delivery, status)
            going_on = going_on or bool(due)

    # --- the journal

    def keep_journal(self, path: Path) -> int:
        """Play back what `path` holds, then write every change there: a restart forgets nothing. How many were read."""
        records = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        post, self.post = self.post, lambda _url, _content, _headers: 200
        for record in records:
            at = datetime.fromisoformat(record.pop("at"))
            request = Request(**{**record, "body": record["body"].encode()})
            self._run_due(at)
            self.times.set(at)
            if request.path.startswith("/standin/"):
                self._handle_control(request)
            else:
                route, endpoint, values = self._route(request)
                self._answer(request, route, endpoint, values)
        self._run_due(self.times.now())
        if not self.times.is_virtual:
            self.times.set(None)
        self.post = post
        self.journal = path
        return len(records)

    def _write_journal(self, request: Request) -> None:
        if self.journal is None:
            return
        record = {
            "at": self.times.now().isoformat(),
            "method": request.method,
            "path": request.path,
            "query": dict(request.query),
            "headers": {"api-key": self.key, "idempotencykey": request.headers.get("idempotencykey", "")},
            "body": request.body.decode(),
        }
        with self.journal.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")

    def _set_faults(self, request: Request) -> dict[str, Any]:
        """Replace the rules by a list of them."""
        if not isinstance(request.json, list):
            raise invalid("a list of rules is expected")
        self.faults = [Rule.of(rule) for rule in request.json]
        return {"rules": len(self.faults)}

    def _script_campaigns(self, request: Request) -> dict[str, Any]:
        """Make things happen to recipients of campaigns: a list of `{campaign, event, email?, at?}`."""
        self._target = self.times.now()
        script = request.json if isinstance(request.json, list) else [request.json]
        return {"events": sum(self.campaigns.script(each) for each in script)}

    def _log_lag(self, request: Request) -> dict[str, Any]:
        self.account.log.lag = float(request.mapping["seconds"])
        return {"seconds": self.account.log.lag}

    def _script(self, request: Request) -> dict[str, Any]:
        """Make things happen to accepted messages: a list of `{event, tag?, address?, message_id?, after?, at?, lag?,
        times?, link?, reason?, ip?}`; a message that all given ones name, or every message."""
        happened, self._target = 0, self.times.now()
        for each in request.json if isinstance(request.json, list) else [request.json]:
            kind = each["event"]
            if kind not in VOCABULARIES:
                raise invalid(f"no such event: {kind}; known: {', '.join(VOCABULARIES)}")
            chosen = [
                message
                for call in self.account.calls
                if each.get("tag") is None or each["tag"] in call.tags
                for message in call.messages
                if each.get("address") in (None, message.address)
                and each.get("message_id") in (None, message.message_id)
            ]
            more = {name: each[name] for name in ("lag", "times", "link", "reason", "ip") if name in each}
            at = datetime.fromisoformat(each["at"]) if "at" in each else None
            for message in chosen:
                happened += 1
                if "after" in each:
                    self.times.after(float(each["after"]), partial(self.account.happen, kind, message, **more))
                else:
                    self.account.happen(kind, message, at=at, **more)
        return {"events": happened}


def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path))


def _server_error(status: int) -> Reply:
    return Reply.html(SERVER_ERROR.format(REASON.get(status, str(status))), status)


def _struck(fault: Fault) -> Reply:
    """The answer of a fault that strikes before anything is accepted."""
    if fault.kind == "throttle":
        full = {"x-sib-ratelimit-limit": "1000", "x-sib-ratelimit-reset": "1"}
        return buckets.throttled(full, fault.seconds)
    if fault.kind == "error_before":
        return _server_error(fault.status)
    if fault.kind == "unauthorized":
        return RefusedError(401, "unauthorized", "Key not found").reply
    if fault.kind == "no_credit":
        return RefusedError(402, "not_enough_credits", "Insufficient credits").reply
    if fault.kind == "bad_row":
        return invalid("email is not valid in to").reply
    return Reply(500, json.dumps({}).encode(), fault=fault)
