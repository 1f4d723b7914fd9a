"""Templates kept at Brevo: fetched and checked when a campaign is planned with them, and again before it is sent.

What was checked is kept by the hash of its content; a template that somebody changes at Brevo afterwards is not sent
with. Nothing is written at Brevo. What a template must have is in `logic/message_checks.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

import pandas as pd

from crm_assets import tables
from crm_assets.logic import message_checks
from crm_assets.logic.activation import RefusalError
from crm_assets.logic.brevo_rows import Template
from crm_assets.logic.message_checks import TEMPLATE_UNFIT
from crm_assets.resources.brevo import BrevoUnavailableError
from crm_assets.resources.warehouse import Warehouse
from crm_assets.rules import BusinessRules
from crm_assets.tenants import Tenant

TEMPLATE_UNREADABLE, TEMPLATE_CHANGED = "TEMPLATE_UNREADABLE", "TEMPLATE_CHANGED"
INACTIVE = "INACTIVE"


class TemplateReader(Protocol):
    """What is asked of Brevo's client here."""

    def template(self, template_id: int) -> Template: ...


@dataclass(frozen=True)
class FetchedTemplate:
    """A template as it was at Brevo when it was fetched. `problems`: codes of `message_checks`, none when it is fit."""

    template_id: int
    name: str
    subject: str
    html: str = field(repr=False)
    content_hash: str
    problems: tuple[str, ...]


def content_hash(subject: str, html: str) -> str:
    """SHA-256 of what a template says."""
    return hashlib.sha256(f"{subject}\n{html}".encode()).hexdigest()


def _read(client: TemplateReader, template_id: int) -> Template:
    try:
        return client.template(template_id)
    except BrevoUnavailableError as error:
        raise RefusalError(
            TEMPLATE_UNREADABLE, f"template {template_id} could not be read at Brevo: {error}"
        ) from error


def fetch_checked(
    warehouse: Warehouse,
    client: TemplateReader,
    tenant: Tenant,
    template_id: int,
    rules: BusinessRules,
    now: datetime,
    *,
    needs_items: bool = True,
) -> FetchedTemplate:
    """A template as it is at Brevo now, checked and kept in activation.brevo_templates.

    `needs_items`: it is for recommendations, so it must show them. RefusalError TEMPLATE_UNREADABLE when Brevo cannot
    be asked or has no such template; what is wrong with one that was read stands in its `problems` (`require_fit`).
    """
    found = _read(client, template_id)
    problems = message_checks.check_brevo_template(found, tenant, rules, needs_items=needs_items)
    if not found.is_active:
        problems.append(INACTIVE)
    template = FetchedTemplate(
        template_id, found.name, found.subject, found.html, content_hash(found.subject, found.html), tuple(problems)
    )
    row = {
        "template_id": template_id,
        "content_hash": template.content_hash,
        "name": template.name,
        "subject": template.subject,
        "html": template.html,
        "problems": list(problems),
        "fetched_at": now,
    }
    warehouse.upsert(tables.brevo_templates, pd.DataFrame([row]))
    return template


def require_fit(template: FetchedTemplate) -> None:
    """RefusalError TEMPLATE_UNFIT that says all that the template lacks."""
    if template.problems:
        wrong = message_checks.in_words(template.problems)
        raise RefusalError(TEMPLATE_UNFIT, f"template {template.template_id} at Brevo may not be sent with: {wrong}")


def require_unchanged(client: TemplateReader, fetched: Mapping[int, str]) -> None:
    """RefusalError TEMPLATE_CHANGED when a template is no longer what was checked, TEMPLATE_UNREADABLE when Brevo does
    not say. `fetched`: template id -> the content hash that the plan is made with.
    """
    for template_id, expected in sorted(fetched.items()):
        found = _read(client, template_id)
        if content_hash(found.subject, found.html) != expected or not found.is_active:
            changed = "was changed" if found.is_active else "was made inactive"
            raise RefusalError(
                TEMPLATE_CHANGED,
                f"template {template_id} {changed} at Brevo since the plan was made with it: abandon the plan and plan"
                " again, and test it again",
            )
