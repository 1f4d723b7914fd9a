"""What a person sets up at Brevo: senders, templates, the account's plan; and what a template says with its params.

Brevo's template language is rendered by Jinja, which reads the common part of it: values, if, for, default.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jinja2 import TemplateError
from jinja2.sandbox import SandboxedEnvironment

from brevo_standin.account import Account
from brevo_standin.times import in_utc
from brevo_standin.wire import RefusedError, Reply, Request, invalid, missing, not_found, whole_number

MIN_HTML = 10
_JINJA = SandboxedEnvironment(autoescape=True)


def rendered(html: str | None, params: dict[str, Any], contact: dict[str, Any] | None = None) -> str:
    """The HTML with its values; as it stands where it is no template that can be read."""
    if not html:
        return ""
    try:
        return _JINJA.from_string(html).render(params=params, contact=contact or {}, unsubscribe="#", mirror="#")
    except (TemplateError, TypeError, ValueError):
        return html


class Library:
    """Senders, templates and plan of an account."""

    def __init__(self, account: Account) -> None:
        self.account = account
        self.tests: list[dict[str, Any]] = []  # test sends of templates: to whom, of which

    def forget(self) -> None:
        self.tests = []

    def routes(self) -> list[tuple[str, str, Callable[..., Reply]]]:
        return [
            ("GET", "/account", self.plan),
            ("GET", "/senders", self.senders),
            ("POST", "/senders", self.create_sender),
            ("POST", "/smtp/templates", self.create),
            ("GET", "/smtp/templates", self.all),
            ("GET", "/smtp/templates/{number}", lambda _request, number: Reply.of(self._row(self._one(number)))),
            ("PUT", "/smtp/templates/{number}", self.update),
            ("DELETE", "/smtp/templates/{number}", self.delete),
            ("POST", "/smtp/template/preview", self.preview),
            ("POST", "/smtp/templates/{number}/sendTest", self.send_test),
        ]

    def plan(self, request: Request) -> Reply:
        """GET /account."""
        credits = self.account.credits
        return Reply.of(
            {
                "organization_id": "5fa2b8c123456789abcdef01",
                "user_id": 1,
                "enterprise": False,
                "companyName": "Brevo stand-in",
                "email": "standin@example.com",
                "firstName": "Stand",
                "lastName": "In",
                "address": {"city": "Paris", "country": "France", "street": "1 rue X", "zipCode": "75001"},
                "dateTimePreferences": {"timezone": "Europe/Paris", "timeFormat": "24", "dateFormat": "dd-mm-yyyy"},
                "marketingAutomation": {"enabled": False},
                "plan": [
                    {
                        "type": "payAsYouGo",
                        "creditsType": "sendLimit",
                        "credits": 1_000_000 if credits is None else credits,
                    }
                ],
                "planVerticals": [],
                "relay": {"enabled": True, "data": {"port": 587, "relay": "smtp-relay.brevo.com", "userName": "x"}},
            }
        )

    # --- senders

    def senders(self, request: Request) -> Reply:
        rows = [
            {"id": number, "email": email, "name": name, "active": True, "ips": []}
            for number, (email, name) in self.account.senders.items()
        ]
        return Reply.of({"senders": rows} if rows else {})

    def create_sender(self, request: Request) -> Reply:
        """POST /senders: nobody has to click in a mail to confirm it here."""
        said = request.mapping
        for name in ("email", "name"):
            if not said.get(name):
                raise missing(f"{name} is missing")
        return Reply.of({"id": self.account.add_sender(said["email"], said["name"])}, 201)

    # --- templates

    def seed(self, said: dict[str, Any]) -> None:
        """A template with a number of our choice; `sender` an address."""
        sender = said.get("sender", next((email for email, _ in self.account.senders.values()), "sender@example.com"))
        self._put(
            int(said["id"]),
            {
                "name": said.get("name", f"template {said['id']}"),
                "subject": said.get("subject", ""),
                "htmlContent": said.get("htmlContent", said.get("html", "")),
                "isActive": said.get("isActive", True),
                "sender": {"email": sender, "name": ""} if isinstance(sender, str) else sender,
                "tag": said.get("tag", ""),
                "replyTo": said.get("replyTo", ""),
            },
        )

    def _put(self, number: int, values: dict[str, Any]) -> None:
        now = self.account.times.now()
        known = self.account.templates.get(number, {"createdAt": now, "testSent": False, "toField": ""})
        self.account.templates[number] = {**known, **values, "modifiedAt": now}

    def _one(self, number: str) -> tuple[int, dict[str, Any]]:
        if not number.isdecimal() or int(number) not in self.account.templates:
            raise not_found("Template ID does not exist")
        return int(number), self.account.templates[int(number)]

    @staticmethod
    def _row(one: tuple[int, dict[str, Any]]) -> dict[str, Any]:
        number, template = one
        dated = {name: in_utc(template[name]) for name in ("createdAt", "modifiedAt")}
        sender = {name: str(value) for name, value in template["sender"].items()}
        return {"id": number, **template, **dated, "sender": sender, "doiTemplate": False}

    def _values(self, said: dict[str, Any]) -> dict[str, Any]:
        if "htmlUrl" in said:
            raise RefusedError(400, "bad_request", "the stand-in fetches nothing: give htmlContent")
        if "htmlContent" in said and len(said["htmlContent"]) <= MIN_HTML:
            raise invalid("htmlContent should have more than 10 characters")
        values = {
            name: said[given]
            for given, name in (
                ("templateName", "name"), ("subject", "subject"), ("htmlContent", "htmlContent"),
                ("isActive", "isActive"), ("tag", "tag"), ("replyTo", "replyTo"), ("toField", "toField"),
            )
            if given in said
        }  # fmt: skip
        if "sender" in said:
            sender = said["sender"]
            if not isinstance(sender, dict) or not ("email" in sender or "id" in sender):
                raise missing("sender is missing")
            email = self.account.registered(sender.get("email") or f"id:{sender['id']}")
            values["sender"] = {"email": email, "name": sender.get("name", "")}
        return values

    def create(self, request: Request) -> Reply:
        said = request.mapping
        for name in ("sender", "subject", "templateName"):
            if not said.get(name):
                raise missing(f"{name} is missing")
        if not said.get("htmlContent") and "htmlUrl" not in said:
            raise missing("htmlContent or htmlUrl is missing")
        number = max(self.account.templates, default=0) + 1
        self._put(number, {"isActive": False, "tag": "", "replyTo": "", **self._values(said)})
        return Reply.of({"id": number}, 201)

    def update(self, request: Request, number: str) -> Reply:
        self._put(self._one(number)[0], self._values(request.mapping))
        return Reply(204)

    def delete(self, request: Request, number: str) -> Reply:
        key, template = self._one(number)
        if template["isActive"]:
            raise invalid("Template is active: deactivate it first")
        del self.account.templates[key]
        return Reply(204)

    def all(self, request: Request) -> Reply:
        limit, offset = whole_number(request, "limit", 50, most=1000), whole_number(request, "offset", 0)
        rows = [self._row(one) for one in self.account.templates.items()]
        if (wanted := request.first("templateStatus")) is not None:
            rows = [row for row in rows if row["isActive"] == (wanted == "true")]
        rows = rows if request.first("sort") == "asc" else rows[::-1]
        return Reply.of({"templates": rows[offset : offset + limit], "count": len(rows)} if rows else {"count": 0})

    def preview(self, request: Request) -> Reply:
        said = request.mapping
        if "email" not in said and "params" not in said:
            raise missing("email or params is missing")
        _, template = self._one(str(said.get("templateId", "")))
        params = said.get("params", {})
        return Reply.of(
            {
                "html": rendered(template["htmlContent"], params),
                "subject": rendered(template["subject"], params),
                "previewText": "",
                "fromName": template["sender"].get("name", ""),
                "fromEmail": template["sender"]["email"],
                "usedFeedNames": [],
            }
        )

    def send_test(self, request: Request, number: str) -> Reply:
        """POST …/sendTest: goes out outside of the log of transactional mail; no tag, no event."""
        key, template = self._one(number)
        for address in request.mapping.get("emailTo", []):
            self.tests.append({"template_id": key, "address": address, "at": self.account.times.now().isoformat()})
        template["testSent"] = True
        return Reply(204)
