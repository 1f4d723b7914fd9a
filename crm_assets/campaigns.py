"""Campaign files: `tenants/<slug>/campaigns/<name>.yaml`, checked before anything is planned from them.

A wrong file names itself, the key and the reason, and takes no other campaign down. No database and no
Dagster here; who is written to is decided by `logic/activation.py`.
"""

from __future__ import annotations

import re
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from crm_assets import yaml_places
from crm_assets.rules import BusinessRules, CustomerType
from crm_assets.tenants import Country, Registry, Tenant, TenantError

NAME = re.compile(r"^[a-z][a-z0-9_]{1,39}$")

Scenario = Literal["rebuy", "cross_sell", "upsell", "winback", "nurture"]
Segment = Literal[
    "Champions",
    "Loyal Customers",
    "Big Spenders",
    "Recent Customers",
    "Promising",
    "At Risk",
    "Others",
    "Prospects",
]
Locale = Literal["fr", "en", "de"]
Department = Annotated[str, Field(pattern=r"^(\d{2}|2[AB]|9[78]\d)$")]


class CampaignError(TenantError):
    """A campaign file that cannot be used: says which file, which key and why."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Audience(_Model):
    """Whom the campaign addresses. An empty list leaves that criterion open; private customers unless said
    otherwise.
    """

    types: list[CustomerType] = Field(["private"], min_length=1)
    segments: list[Segment] = []
    clusters: list[str] = []  # names or ids of customers.clusters
    scenarios: list[Scenario] = []  # of the first item; kind reco only
    departments: list[Department] = []  # French departments: 67, 2A, 974
    countries: list[Country] = []


class Campaign(_Model):
    """One campaign of an estate."""

    name: str
    kind: Literal["reco", "event", "news"]
    channel: Literal["email"] = "email"
    active: bool = True
    occurrence: Literal["once", "weekly"] = "once"
    send_on: date | None = None  # once: the day it leaves; planned from `plan_expires_days` before
    audience: Audience = Audience.model_validate({})
    subject: dict[Locale, Annotated[str, Field(min_length=3, max_length=150)]]
    text: dict[Locale, Annotated[str, Field(min_length=3)]] = {}  # paragraphs above the wines; needed unless reco
    sender_name: str | None = Field(None, max_length=70)  # Brevo's limit
    sender_email: str | None = None
    reply_to: str | None = None
    holdout: bool = True  # never for kind event

    def occurrence_on(self, as_of: date) -> str:
        """The occurrence that `as_of` belongs to: `once`, or its ISO week, e.g. 2026-W01."""
        if self.occurrence == "once":
            return "once"
        week = as_of.isocalendar()
        return f"{week.year}-W{week.week:02d}"

    def is_due(self, as_of: date, rules: BusinessRules) -> bool:
        """Whether it is time to plan this campaign: its day, if it has one, is neither too far ahead nor
        past.
        """
        if self.send_on is None:
            return True
        return self.send_on - timedelta(days=rules.activation.plan_expires_days) <= as_of <= self.send_on


def forbidden_words(text: str, rules: BusinessRules) -> list[str]:
    """The forbidden words that `text` contains as whole words, case ignored."""
    return [
        word
        for word in rules.activation.forbidden_words
        if re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE)
    ]


def folder(tenants_folder: Path, slug: str) -> Path:
    """Where a tenant's campaign files lie."""
    return tenants_folder / slug / "campaigns"


def load_campaign(path: Path, tenant: Tenant) -> Campaign:
    """The campaign that `path` describes; CampaignError says file, key and reason."""
    name, shown = path.stem, f"{tenant.slug}/campaigns/{path.name}"

    def wrong(key: str, reason: str) -> CampaignError:
        return CampaignError(f"{shown}: key {key!r}: {reason}")

    if not NAME.match(name):
        raise wrong("name", f"the file name must be <name>.yaml, name matching {NAME.pattern}")
    text = ""
    try:
        text = path.read_text(encoding="utf-8")
        content: Any = yaml_places.load(text)
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise CampaignError(str(yaml_places.unreadable(shown, error, text))) from error
    if not isinstance(content, dict):
        raise CampaignError(f"{shown}: a mapping of keys is expected, found {type(content).__name__}")
    if content.get("name", name) != name:
        raise wrong("name", f"says {content['name']!r}, the file name says {name!r}")
    try:
        campaign = Campaign.model_validate({**content, "name": name})
    except ValidationError as error:
        places = yaml_places.Places(text)
        problems = yaml_places.problems(error, Campaign, shown, places, show_values=False)
        raise CampaignError("; ".join(map(str, problems))) from error
    if tenant.locale not in campaign.subject:
        raise wrong("subject", f"nothing in the estate's language {tenant.locale!r}")
    if campaign.kind != "reco" and tenant.locale not in campaign.text:
        raise wrong(
            "text",
            f"a campaign of kind {campaign.kind} needs a text in the estate's language {tenant.locale!r}",
        )
    if campaign.kind != "reco" and campaign.audience.scenarios:
        raise wrong("audience.scenarios", "only campaigns of kind reco have scenarios")
    if campaign.occurrence == "weekly" and campaign.send_on is not None:
        raise wrong("send_on", "a weekly campaign has no single day")
    for key, texts in (("subject", campaign.subject), ("text", campaign.text)):
        for locale, text in texts.items():
            if words := forbidden_words(text, tenant.business_rules):
                raise wrong(f"{key}.{locale}", f"forbidden words: {', '.join(words)}")
    return campaign


class CampaignFiles:
    """A tenant's campaigns: those that can be used, and for each other file why not."""

    def __init__(self, tenants_folder: Path, tenant: Tenant) -> None:
        self.folder = folder(tenants_folder, tenant.slug)
        self.tenant = tenant
        self.campaigns: dict[str, Campaign] = {}
        self.errors: dict[str, str] = {}
        for path in sorted(self.folder.glob("*.yaml")):
            try:
                self.campaigns[path.stem] = load_campaign(path, tenant)
            except CampaignError as error:
                self.errors[path.stem] = str(error)

    def get(self, name: str) -> Campaign:
        """The campaign `name`; CampaignError when its file is wrong or missing."""
        if name in self.campaigns:
            return self.campaigns[name]
        if name in self.errors:
            raise CampaignError(self.errors[name])
        known = ", ".join(self.campaigns) or "none"
        raise CampaignError(f"no campaign {name!r} in {self.folder} (known: {known})")

    def following_refresh(self, *, is_weekly: bool) -> list[Campaign]:
        """The active campaigns that follow a refresh, by name; weekly ones follow only the weekly refresh."""
        return [c for c in self.campaigns.values() if c.active and (is_weekly or c.occurrence == "once")]


def due(tenants_folder: Path, slug: str, *, is_weekly: bool) -> list[Campaign]:
    """The campaigns of a tenant that follow a refresh; whether it is their day yet is seen when they are
    planned.
    """
    files = CampaignFiles(tenants_folder, Registry(tenants_folder).get(slug))
    return files.following_refresh(is_weekly=is_weekly)


def problems(tenants_folder: Path, slug: str) -> dict[str, str]:
    """What is wrong with a tenant's campaign files: `<slug>/campaigns/<name>` -> file, key and reason."""
    files = CampaignFiles(tenants_folder, Registry(tenants_folder).get(slug))
    return {f"{slug}/campaigns/{name}": reason for name, reason in files.errors.items()}
