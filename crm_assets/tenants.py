"""Tenants: one wine estate each, described by `tenants/<slug>.yaml`.

A wrong file names itself, the key and the reason, and takes no other tenant down: `Registry` keeps what is
wrong beside what is right. No database and no Dagster here.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from datetime import date, datetime
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, available_timezones

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from crm_assets import rules as rules_module
from crm_assets.rules import BusinessRules

SLUG = re.compile(r"^[a-z][a-z0-9_]{1,39}$")
# Their databases would carry the names of ours.
RESERVED_SLUGS = frozenset({"control", "dagster"})


class TenantError(Exception):
    """A tenant file that cannot be used: says which file, which key and why."""


def _known_zone(value: str) -> str:
    if value not in available_timezones():
        raise ValueError(f"{value!r} is no time zone of the IANA database, e.g. Europe/Paris")
    return value


Country = Annotated[str, Field(pattern=r"^[A-Z]{2}$")]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BrevoSettings(_Model):
    """How the estate sends. The key itself never stands here, only the name of its variable."""

    live: bool = False
    api_key_variable: str = Field("CRM_BREVO_KEY", pattern=r"^[A-Z][A-Z0-9_]*$")
    sender_name: str = ""
    sender_email: str = ""
    reply_to: str = ""
    folder: str = "CRM"
    templates: dict[str, int] = {}


class Source(_Model):
    """What this estate's exports have of their own, beside `config/sources/isavigne.yaml`."""

    raw_url: str | None = None  # another drop folder: a path or an fsspec URL
    synonyms: dict[str, dict[str, list[str]]] = {}  # dataset -> field -> more header spellings
    transformations: dict[str, dict[str, list[Any]]] = {}  # dataset -> field -> transformations in order


class Tenant(_Model):
    """One estate."""

    slug: str
    name: str
    legal_name: str
    address: str
    siren: str = Field(pattern=r"^\d{9}$")
    locale: Literal["fr", "en", "de"] = "fr"
    timezone: Annotated[str, AfterValidator(_known_zone)] = "Europe/Paris"
    country: Country = "FR"
    send_countries: list[Country] = ["FR"]
    existing_customer_basis: bool = False
    own_addresses: list[str] = []
    document_numbers: Literal["plain", "yearly"] = "plain"
    exports: Literal["partial", "full"] = "partial"
    review: Literal["auto", "sample", "required"] = "sample"
    allocation: dict[str, list[str]] = {}  # product key -> client codes it may be offered to
    website: str = ""
    phone: str = ""
    brevo: BrevoSettings = BrevoSettings()
    source: Source = Source()
    rules: dict[str, Any] = {}
    as_of: date | None = None

    @cached_property
    def business_rules(self) -> BusinessRules:
        """The rules in force: the product's, with the tenant's overrides."""
        return rules_module.load(self.rules)

    @cached_property
    def version(self) -> str:
        """First 12 hex of the SHA-256 of all that the estate's file says and a result may depend on, rules included."""
        said = self.model_dump(mode="json", exclude={"brevo", "rules", "as_of"})
        canonical = json.dumps([self.business_rules.version, said], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.timezone)

    def today(self, now: datetime) -> date:
        """The as-of date of a run that was given none: the fixed one, else today where the estate is."""
        return self.as_of or now.astimezone(self.zone).date()


def _explain(path: Path, error: ValidationError, below: str = "") -> str:
    lines = []
    for problem in error.errors():
        key = ".".join([*([below] if below else []), *(str(part) for part in problem["loc"])])
        reason = "unknown key" if problem["type"] == "extra_forbidden" else problem["msg"]
        lines.append(f"{path.name}: key {key!r}: {reason}")
    return "; ".join(lines)


def load_tenant(path: Path) -> Tenant:
    """The tenant that `path` describes; TenantError says file, key and reason."""
    slug = path.stem
    if not SLUG.match(slug) or slug in RESERVED_SLUGS:
        raise TenantError(
            f"{path.name}: key 'slug': the file name must be <slug>.yaml, slug matching {SLUG.pattern}"
            f" and not one of {', '.join(sorted(RESERVED_SLUGS))}"
        )
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise TenantError(f"{path.name}: not readable as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise TenantError(f"{path.name}: a mapping of keys is expected, found {type(content).__name__}")
    if content.get("slug", slug) != slug:
        raise TenantError(f"{path.name}: key 'slug': says {content['slug']!r}, the file name says {slug!r}")
    try:
        tenant = Tenant.model_validate({**content, "slug": slug})
    except ValidationError as error:
        raise TenantError(_explain(path, error)) from error
    try:
        tenant.business_rules  # noqa: B018 - a wrong override must show here, not in the middle of a run
    except ValidationError as error:
        raise TenantError(_explain(path, error, "rules")) from error
    return tenant


class Registry:
    """The tenants of a folder: those that can be used, and for each other file why not."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tenants: dict[str, Tenant] = {}
        self.errors: dict[str, str] = {}
        for path in sorted(folder.glob("*.y*ml")) if folder.is_dir() else []:
            if path.suffix not in {".yaml", ".yml"}:
                continue
            if path.stem in self.tenants or path.stem in self.errors:
                self.tenants.pop(path.stem, None)
                self.errors[path.stem] = f"{path.name}: there is a {path.stem}.yaml too; keep one of the two"
                continue
            try:
                self.tenants[path.stem] = load_tenant(path)
            except TenantError as error:
                self.errors[path.stem] = str(error)

    def __iter__(self) -> Iterator[Tenant]:
        return iter(self.tenants.values())

    def get(self, slug: str) -> Tenant:
        """The tenant `slug`; TenantError when its file is wrong or missing."""
        if slug in self.tenants:
            return self.tenants[slug]
        if slug in self.errors:
            raise TenantError(self.errors[slug])
        known = ", ".join(self.tenants) or "none"
        raise TenantError(f"no tenant {slug!r} in {self.folder} (known: {known}); add one with: crm tenant add {slug}")


TEMPLATE = """\
# One wine estate. Every key is explained in docs/tenants.md; a wrong one is refused by name.
name: {name}
legal_name: {name}
address: "1 rue de la Cave, 68000 Colmar, France"   # shown in every message: replace it
siren: "000000000"                                  # nine digits: replace them
locale: fr
timezone: Europe/Paris
send_countries: [FR]
existing_customer_basis: false   # true: you declare that customers may be written to about similar wines
review: sample
"""
