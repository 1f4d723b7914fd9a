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
from typing import Any

from brevo_standin import limits as buckets
from brevo_standin.account import Account
from brevo_standin.faults import Fault, Rule
from brevo_standin.log import VOCABULARIES
from brevo_standin.mail import IdempotencyMode
from brevo_standin.times import Times
from brevo_standin.wire import RefusedError, Reply, Request, invalid

Endpoint = Callable[..., Reply]
SERVER_ERROR = "<html>\r\n<head><title>{0}</title></head>\r\n<body><center><h1>{0}</h1></center></body>\r\n</html>\r\n"
REASON = {500: "500 Internal Server Error", 502: "502 Bad Gateway", 503: "503 Service Temporarily Unavailable"}
ACCEPTED_FIELDS = ("tag", "address", "params", "at", "message_id", "blocked")


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
    ) -> None:
        """`start`: of the virtual clock, None for the machine's; `limits`: calls per bucket, None for no throttling."""
        self.lock = threading.RLock()
        self.times = Times(start)
        self.key = key
        self.account = Account(self.times, mode, seed)
        self.limits = buckets.Limits(limits)
        self.faults: list[Rule] = []
        self.requests: list[dict[str, Any]] = []
        self.seeds: list[dict[str, Any]] = []
        account = self.account
        self.routes: list[tuple[str, str, Endpoint]] = [
            ("POST", "/smtp/email", account.send),
            ("DELETE", "/smtp/email/{identifier}", lambda _request, identifier: account.cancel(identifier)),
            ("GET", "/smtp/emailStatus/{identifier}", lambda _request, identifier: account.status_of(identifier)),
            ("GET", "/smtp/statistics/events", lambda request: account.log.answer(request, self.times.now())),
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
            ("POST", "log_lag"): self._log_lag,
        }

    # --- a request

    def handle(self, request: Request) -> Reply:
        """The answer to a request, and what was changed by it is changed."""
        with self.lock:
            if request.path.startswith("/standin/"):
                return self._handle_control(request)
            if request.path.startswith("/v3/"):
                return self._handle_api(request)
            return RefusedError(404, "document_not_found", "Route not found").reply

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
        return said if isinstance(said, Reply) else Reply.of(said)

    def _reset(self, request: Request) -> dict[str, Any]:
        """Back to what was seeded; `{"seeds": false}` forgets that too. The clock goes on."""
        self.times.forget()
        self.account.forget()
        self.limits.forget()
        self.faults, self.requests = [], []
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
    ) -> dict[str, Any]:
        """State that a person made at Brevo's own screens; `reset` comes back to it."""
        self.seeds.append({"senders": senders, "templates": templates, "blocked": blocked, "credits": credits})
        account = self.account
        for sender in senders or []:
            account.add_sender(sender)
        for template in templates or []:
            account.templates[int(template["id"])] = {
                "subject": "", "htmlContent": "", "isActive": True, "name": f"template {template['id']}", **template
            }  # fmt: skip
        for block in blocked or []:
            for sender in [block["sender"]] if "sender" in block else [each for each, _ in account.senders.values()]:
                account.block(block["email"], sender, block.get("code", "adminBlocked"))
        if credits is not None:
            account.credits = credits
        return {"senders": len(account.senders), "templates": sorted(account.templates)}

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
        self.advance(target or self.times.now() + timedelta(seconds=float(said.get("advance", 0))))
        return {"now": self.times.now().isoformat()}

    def advance(self, target: datetime) -> None:
        """Let time pass until `target`, doing everything that falls due, each at its moment."""
        if not self.times.is_virtual:
            raise invalid("the clock is the machine's")
        if target.tzinfo is None:
            target = target.replace(tzinfo=UTC)
        self._run_due(target)

    def catch_up(self) -> None:
        """Do what has fallen due by the machine's clock."""
        self._run_due(datetime.now(UTC))

    def _run_due(self, target: datetime) -> None:
        going_on = True
        while going_on:
            with self.lock:
                going_on = self.times.step(target)

    def _set_faults(self, request: Request) -> dict[str, Any]:
        """Replace the rules by a list of them."""
        if not isinstance(request.json, list):
            raise invalid("a list of rules is expected")
        self.faults = [Rule.of(rule) for rule in request.json]
        return {"rules": len(self.faults)}

    def _log_lag(self, request: Request) -> dict[str, Any]:
        self.account.log.lag = float(request.mapping["seconds"])
        return {"seconds": self.account.log.lag}

    def _script(self, request: Request) -> dict[str, Any]:
        """Make things happen to accepted messages: a list of `{event, tag?, address?, message_id?, after?, at?, lag?,
        times?, link?, reason?, ip?}`; a message that all given ones name, or every message."""
        happened = 0
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
