"""Campaign files: `tenants/<slug>/campaigns/<name>.yaml`, checked before anything is planned from them.

A wrong file names itself, the key and the reason, and takes no other campaign down. No database and no
Dagster here; who is written to is decided by `logic/activation.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from crm_assets import yaml_places
from crm_assets.rules import BusinessRules, CustomerType
from crm_assets.tenants import Address, Country, Registry, Tenant, TenantError

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
ArmName = Literal["A", "B", "C", "D"]
StopReason = Literal["order", "click", "unsubscribe"]
Department = Annotated[str, Field(pattern=r"^(\d{2}|2[AB]|9[78]\d)$")]

# Our own templates: one for each scenario, and those that are about no wine chosen for the customer.
WELCOME, NEWS = "welcome", "news"
OWN_TEMPLATES: tuple[str, ...] = (*get_args(Scenario), WELCOME, NEWS)
BREVO_TEMPLATE = "brevo:"  # followed by a name of tenant.brevo.templates


def _is_template(value: str) -> str:
    if value not in OWN_TEMPLATES and not value.startswith(BREVO_TEMPLATE):
        raise ValueError(f"no template; known: {', '.join(OWN_TEMPLATES)}, or {BREVO_TEMPLATE}<name>")
    return value


TemplateName = Annotated[str, AfterValidator(_is_template)]
Subjects = dict[Locale, Annotated[str, Field(min_length=3, max_length=150)]]
Texts = dict[Locale, Annotated[str, Field(min_length=3)]]


class CampaignError(TenantError):
    """A campaign file that cannot be used: says which file, which key and why."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Purchase(_Model):
    """Wines bought within the last `days`: by wine_id, product key or family; nothing named is any wine."""

    wines: list[str] = []  # wine_ids or product keys
    families: list[str] = []
    days: int = Field(365, ge=1, le=3650)


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
    bought: Purchase | None = None
    not_bought: Purchase | None = None


class Wines(_Model):
    """Wines that the campaign puts first or leaves out: wine_ids, product keys or families."""

    push: list[str] = []
    exclude: list[str] = []


class _Wording(_Model):
    """What may differ between steps and arms; what is not said is the campaign's."""

    subject: Subjects = {}
    text: Texts = {}
    template: TemplateName | None = None


class Arm(_Wording):
    """One arm of an A/B test."""

    share: float = Field(gt=0, lt=1)  # of the audience


class Step(_Wording):
    """One message of a sequence."""

    after_days: int = Field(ge=0, le=730)  # after the first message; 0 for the first


@dataclass(frozen=True)
class Says:
    """What the messages of one step and arm are made with, by language. `template`: None lets each message's scenario
    choose it (see `Campaign.template_of`).
    """

    subject: dict[str, str]
    text: dict[str, str]
    template: str | None


class Campaign(_Model):
    """One campaign of an estate."""

    name: str
    kind: Literal["reco", "event", "news"]
    channel: Literal["email", "phone", "post"] = "email"
    active: bool = True
    occurrence: Literal["once", "weekly"] = "once"
    send_on: date | None = None  # once: the day it leaves; planned from `plan_expires_days` before
    feast: Literal["christmas", "easter"] | None = None  # speaks of an order for it: leaves by its last order date
    audience: Audience = Audience.model_validate({})
    wines: Wines = Wines()  # kind reco only
    subject: Subjects = {}  # e-mail only, and needed there
    text: Texts = {}  # paragraphs above the wines; needed unless reco
    template: TemplateName | None = None  # reco: each message's scenario chooses; event, news: news
    arms: dict[ArmName, Arm] = {}
    steps: list[Step] = Field([], max_length=12)  # none: one message
    stop_on: list[StopReason] = ["order", "click", "unsubscribe"]  # since the step before: no further step
    sender_name: str | None = Field(None, max_length=70)  # Brevo's limit
    sender_email: Address | None = None
    reply_to: Address | None = None
    holdout: bool = True  # never for kind event

    @property
    def n_steps(self) -> int:
        return max(len(self.steps), 1)

    @property
    def is_profiled(self) -> bool:
        """Whether purchases or scores choose whom or what: not for people who object to profiling (spec.md §4.4)."""
        audience = self.audience
        criteria = (audience.segments, audience.clusters, audience.scenarios, audience.bought, audience.not_bought)
        return self.kind == "reco" or any(criteria)

    def gap_days(self, step: int) -> int:
        """How long after the step before was really sent this one is due; 0 for the first."""
        if step <= 1 or not self.steps:
            return 0
        return self.steps[step - 1].after_days - self.steps[step - 2].after_days

    def says(self, step: int = 1, arm: str | None = None) -> Says:
        """What a step says in an arm: the step's own, else the arm's, else the campaign's, language by language."""
        layers: list[Any] = [self, *(a for name, a in self.arms.items() if name == arm)]
        layers += self.steps[step - 1 : step]
        subject: dict[str, str] = {}
        text: dict[str, str] = {}
        template: str | None = None
        for layer in layers:
            subject |= layer.subject
            text |= layer.text
            template = layer.template or template
        return Says(subject, text, template)

    def template_of(self, scenario: str, step: int = 1, arm: str | None = None) -> str:
        """The template of a message: the one that is said, else the scenario's own; `brevo:<name>` as it is written."""
        own = scenario if scenario in OWN_TEMPLATES else NEWS
        return self.says(step, arm).template or own

    @property
    def variants(self) -> list[tuple[int, str | None]]:
        """Every (step, arm) that has a wording."""
        arms: list[str | None] = [*sorted(self.arms)] or [None]
        return [(step, arm) for step in range(1, self.n_steps + 1) for arm in arms]

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
    """The campaign that `path` describes; CampaignError says file, line, key and reason."""
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
    places = yaml_places.Places(text)
    try:
        campaign = Campaign.model_validate({**content, "name": name})
    except ValidationError as error:
        problems = yaml_places.problems(error, Campaign, shown, places, show_values=False)
        raise CampaignError("; ".join(map(str, problems))) from error
    problems = []
    for key, reason in _contradictions(campaign, tenant):
        place = places.nearest(tuple(key.split(".")))
        problems.append(yaml_places.Problem(shown, key, reason, place.line if place else None))
    if problems:
        raise CampaignError("; ".join(map(str, problems)))
    return campaign


def _contradictions(campaign: Campaign, tenant: Tenant) -> Iterator[tuple[str, str]]:
    """What is wrong with a campaign though each of its values is allowed: key and reason."""
    yield from _wording_problems(campaign, tenant)
    yield from _arm_problems(campaign)
    yield from _step_problems(campaign, tenant.business_rules)
    yield from _template_problems(campaign, tenant)
    if campaign.kind != "reco" and campaign.audience.scenarios:
        yield "audience.scenarios", "only campaigns of kind reco have scenarios"
    if campaign.kind != "reco" and (campaign.wines.push or campaign.wines.exclude):
        yield "wines", f"a campaign of kind {campaign.kind} shows no wines; only kind reco does"
    if both := sorted(set(campaign.wines.push) & set(campaign.wines.exclude)):
        yield "wines.push", f"pushed and left out at once: {', '.join(both)}"
    if campaign.occurrence == "weekly" and campaign.send_on is not None:
        yield "send_on", "a weekly campaign has no single day"


def _wording_problems(campaign: Campaign, tenant: Tenant) -> Iterator[tuple[str, str]]:
    if campaign.channel == "email":
        for step, arm in campaign.variants:
            said = campaign.says(step, arm)
            if tenant.locale not in said.subject:
                where = f" (step {step}{f', arm {arm}' if arm else ''})" if len(campaign.variants) > 1 else ""
                yield "subject", f"required: nothing in the estate's language {tenant.locale!r}{where}"
                break
    if campaign.kind != "reco":
        missing = [v for v in campaign.variants if tenant.locale not in campaign.says(*v).text]
        if missing:
            yield (
                "text",
                f"a campaign of kind {campaign.kind} needs a text in the estate's language {tenant.locale!r}",
            )
    layers: list[tuple[str, Any]] = [("", campaign)]
    layers += [(f"arms.{name}.", arm) for name, arm in campaign.arms.items()]
    layers += [(f"steps.{number}.", step) for number, step in enumerate(campaign.steps)]
    for prefix, layer in layers:
        for key, texts in (("subject", layer.subject), ("text", layer.text)):
            for locale, text in texts.items():
                if words := forbidden_words(text, tenant.business_rules):
                    yield f"{prefix}{key}.{locale}", f"forbidden words: {', '.join(words)}"


def _arm_problems(campaign: Campaign) -> Iterator[tuple[str, str]]:
    arms = campaign.arms
    if not arms:
        return
    if campaign.channel != "email":
        yield "arms", "only e-mails are compared with each other"
    if len(arms) < 2:
        yield "arms", "a comparison needs 2 to 4 arms"
    if abs((total := sum(arm.share for arm in arms.values())) - 1) > 1e-6:
        yield "arms", f"the shares must sum to 1; they sum to {total:g}"
    first = [campaign.says(1, name) for name in arms]
    if any(said in first[:number] for number, said in enumerate(first)):
        yield "arms", "two arms say the same in the first step: there is nothing to compare"


def _step_problems(campaign: Campaign, rules: BusinessRules) -> Iterator[tuple[str, str]]:
    steps = campaign.steps
    if not steps:
        return
    if len(steps) > 1 and campaign.channel != "email":
        yield "steps", "only e-mails come in several steps"
    if len(steps) > 1 and campaign.occurrence == "weekly":
        yield "steps", "a weekly campaign has one step: the next week is its next message"
    if steps[0].after_days:
        yield "steps.0.after_days", "the first step waits for none: 0"
    silence = rules.audit.silence_days
    for number in range(2, len(steps) + 1):
        if campaign.gap_days(number) < silence:
            least = steps[number - 2].after_days + silence
            yield (
                f"steps.{number - 1}.after_days",
                f"at least {least}: days count from the first message, and nobody is written to twice within the"
                f" {silence} days of silence (audit rule 6), so that this step would never leave",
            )


def _template_problems(campaign: Campaign, tenant: Tenant) -> Iterator[tuple[str, str]]:
    for step, arm in campaign.variants:
        template = campaign.says(step, arm).template
        if template is None:
            continue
        if campaign.channel != "email":
            yield "template", "only e-mails have a template"
        elif template.startswith(BREVO_TEMPLATE):
            name, known = template.removeprefix(BREVO_TEMPLATE), tenant.brevo.templates
            if name not in known:
                names = ", ".join(sorted(known)) or "none"
                yield "template", f"brevo.templates of the estate's file has no {name!r}; known: {names}"
        elif campaign.kind != "reco" and template in get_args(Scenario):
            yield "template", f"{template} speaks of wines chosen for the customer; kind {campaign.kind} shows none"
        elif campaign.kind == "reco" and template == NEWS:
            yield "template", "news shows no wines; kind reco does"
        else:
            continue
        return


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
