"""Brevo's stand-in for tests: on a real port, in a process of its own, or under an httpx client of this one."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import httpx
import pytest
import yaml

from brevo_standin.clock import StandInClock
from brevo_standin.limits import GENERAL
from brevo_standin.mail import IdempotencyMode
from brevo_standin.server import in_thread
from brevo_standin.standin import StandIn
from brevo_standin.times import VIRTUAL_START
from brevo_standin.transport import StandInTransport
from brevo_standin.wire import Reply, Request
from crm_assets.settings import ROOT

DESCRIPTION = ROOT.parent / "shared" / "contracts" / "brevo-openapi.yml"
KEY = "xkeysib-standin-0123456789abcdef"
SENDER = "cave@domaine-demo.example.com"


@dataclass
class Control:
    """The control API: what a test asks of the stand-in and makes it do."""

    root: str
    transport: httpx.BaseTransport | None = None
    _client: httpx.Client = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._client = httpx.Client(
            base_url=f"{self.root}/standin", timeout=60, transport=self.transport, trust_env=False
        )

    def get(self, what: str, **query: Any) -> Any:
        return self._said(self._client.get(what, params=query))

    def post(self, what: str, content: Any = None) -> Any:
        return self._said(self._client.post(what, json={} if content is None else content))

    @staticmethod
    def _said(answer: httpx.Response) -> Any:
        assert answer.is_success, answer.text
        return answer.json()

    def reset(self, **how: Any) -> None:
        """Back to what was seeded; `seeds=False` forgets that too. The clock goes on."""
        self.post("reset", how)

    def seed(self, **what: Any) -> Any:
        """senders, templates, blocked, credits …"""
        return self.post("seed", what)

    def accepted(self, *fields: str, tag: str | None = None) -> list[dict[str, Any]]:
        """Accepted messages in order; `fields`: tag, address, params, at, message_id, blocked unless said."""
        query = {"fields": ",".join(fields)} if fields else {}
        return list(self.get("accepted", **query, **({"tag": tag} if tag else {}))["accepted"])

    def addresses(self, tag: str | None = None) -> list[str]:
        """Who was written to, once per message."""
        return [row["address"] for row in self.accepted("address", tag=tag)]

    def faults(self, *rules: dict[str, Any]) -> None:
        """Replace the rules, see brevo_standin/faults.py."""
        self.post("faults", list(rules))

    def events(self, *script: dict[str, Any]) -> int:
        """Make things happen to accepted messages: how many did."""
        return int(self.post("events", list(script))["events"])

    def log_lag(self, seconds: float) -> None:
        self.post("log_lag", {"seconds": seconds})

    def advance(self, seconds: float) -> None:
        self.post("clock", {"advance": seconds})

    def now(self) -> datetime:
        return datetime.fromisoformat(self.get("clock")["now"])

    def requests(self, path: str = "") -> list[dict[str, Any]]:
        """Calls to the API so far, of one path under /v3 where said."""
        return [each for each in self.get("requests") if each["path"].startswith(f"/v3{path}")]


def description_of_brevo() -> dict[str, Any]:
    """Brevo's own OpenAPI document, patched where it contradicts itself; the test is skipped where it is not there."""
    if not DESCRIPTION.is_file():
        pytest.skip(f"{DESCRIPTION} is not there")
    said: dict[str, Any] = yaml.load(DESCRIPTION.read_bytes(), Loader=yaml.CSafeLoader)
    for verb in ("add", "remove"):
        # `oneOf` over objects without a required key: each fits all of them, so that nothing would ever be right.
        body = said["paths"][f"/contacts/lists/{{listId}}/contacts/{verb}"]["post"]["requestBody"]
        schema = body["content"]["application/json"]["schema"]
        schema["anyOf"] = schema.pop("oneOf")
    # The text allows a template per version, the schema has no such property (brevo.md A1).
    email = said["paths"]["/smtp/email"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    email["properties"]["messageVersions"]["items"]["properties"]["templateId"] = {"type": "integer"}
    # A list of successes or failures that is empty is a list of strings and one of numbers at once.
    for name in ("success", "failure"):
        moved = said["components"]["schemas"]["postContactInfo"]["properties"]["contacts"]["properties"][name]
        moved["anyOf"] = moved.pop("oneOf")
    return said


class Honesty:
    """Compares what the stand-in accepted, and what it answered, with Brevo's own description."""

    VERSIONS = 20  # of a request, so that one of a thousand takes no second

    def __init__(self) -> None:
        from referencing import Registry, Resource
        from referencing.jsonschema import DRAFT4

        self.said = description_of_brevo()
        self.registry: Any = Registry().with_resource(
            "urn:brevo",
            Resource(contents=self.said, specification=DRAFT4),  # what OpenAPI 3.0 builds on
        )
        # What the path parameters are called differs: compared without their names.
        self.paths = {re.sub(r"{\w+}", "{}", path): path for path in self.said["paths"]}
        self.problems: list[str] = []
        self.compared: Counter[str] = Counter()

    def __call__(self, request: Request, route: str, reply: Reply) -> None:
        path = self.paths.get(re.sub(r"{\w+}", "{}", route))
        operation = self.said["paths"].get(path, {}).get(request.method.lower())
        if operation is None:
            self.problems.append(f"{request.method} {route} is not described")
            return
        self.compared[f"{request.method} {route}"] += 1
        place = ["paths", path, request.method.lower()]
        if "requestBody" in operation and request.body:
            sent = dict(request.mapping)
            if isinstance(sent.get("messageVersions"), list):
                sent["messageVersions"] = sent["messageVersions"][: self.VERSIONS]
            self._compare(sent, [*place, "requestBody", "content", "application/json", "schema"], "request")
        if str(reply.status) not in operation["responses"]:
            self.problems.append(f"{request.method} {route}: {reply.status} is not described")
        elif reply.body:
            answered, here = operation["responses"][str(reply.status)], [*place, "responses", str(reply.status)]
            if "$ref" in answered:
                here = answered["$ref"].removeprefix("#/").split("/")
            self._compare(json.loads(reply.body), [*here, "content", "application/json", "schema"], "answer")

    def _compare(self, value: Any, place: list[str], what: str) -> None:
        from openapi_schema_validator import OAS30Validator

        pointer = "/".join(part.replace("~", "~0").replace("/", "~1") for part in place)
        for error in OAS30Validator({"$ref": f"urn:brevo#/{pointer}"}, registry=self.registry).iter_errors(value):
            where = "/".join(map(str, error.absolute_path))
            self.problems.append(f"{what} {place[1]} {where}: {error.message[:200]}")


@dataclass
class Running:
    """A stand-in that serves. `url`: Brevo's base address, with /v3; `standin`: None in a process of its own."""

    root: str
    key: str
    control: Control
    clock: StandInClock
    standin: StandIn | None = None
    transport: httpx.BaseTransport | None = None

    @property
    def url(self) -> str:
        return f"{self.root}/v3"


def made(
    mode: IdempotencyMode = "body", *, virtual: bool = True, key: str = KEY, limits: bool = True,
    senders: tuple[str, ...] = (SENDER,),
) -> StandIn:  # fmt: skip
    """A stand-in without a port."""
    standin = StandIn(mode=mode, key=key, start=VIRTUAL_START if virtual else None,
                      limits=dict(GENERAL) if limits else None)  # fmt: skip
    standin.seed(senders=list(senders))
    return standin


@contextlib.contextmanager
def running(
    mode: IdempotencyMode = "body", *, virtual: bool = True, key: str = KEY, limits: bool = True,
    senders: tuple[str, ...] = (SENDER,), process: bool = False,
) -> Iterator[Running]:  # fmt: skip
    """A stand-in on a real port, in a thread, or in a process of its own (for senders that get killed)."""
    if not process:
        standin = made(mode, virtual=virtual, key=key, limits=limits, senders=senders)
        with in_thread(standin) as root:
            yield Running(root, key, Control(root), StandInClock(root), standin)
        return
    command = [sys.executable, "-m", "brevo_standin", "--mode", mode, "--key", key]
    command += ["--virtual-clock", VIRTUAL_START.isoformat()] if virtual else []
    command += [] if limits else ["--no-limits"]
    command += [word for sender in senders for word in ("--sender", sender)]
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        root = child.stdout.readline().strip()
        yield Running(root, key, Control(root), StandInClock(root))
    finally:
        child.terminate()
        child.wait(timeout=10)


def in_process(mode: IdempotencyMode = "body", **how: Any) -> Running:
    """A stand-in without a port: give `transport` to an httpx client. The quickest, and nothing ever waits."""
    standin = made(mode, **how)
    transport = StandInTransport(standin)
    root = "http://standin.invalid"
    key = how.get("key", KEY)
    return Running(root, key, Control(root, transport), StandInClock(root, transport=transport), standin, transport)
