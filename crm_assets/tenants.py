"""Tenants: one wine estate each, described by `tenants/<slug>.yaml`.

A wrong file names itself, the key and the reason, and takes no other tenant down: `Registry` keeps what is
wrong beside what is right. No database and no Dagster here.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Iterator
from datetime import date, datetime
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, available_timezones

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from crm_assets import rules as rules_module
from crm_assets import yaml_places
from crm_assets.rules import BusinessRules
from crm_assets.settings import ROOT, Settings, settings
from crm_assets.yaml_places import Problem

SLUG = re.compile(r"^[a-z][a-z0-9_]{1,39}$")
# Their databases would carry the names of ours.
RESERVED_SLUGS = frozenset({"control", "dagster"})


class TenantError(Exception):
    """A tenant file that cannot be used: says which file, which key and why."""


_zones = cache(available_timezones)  # it reads hundreds of files


def _known_zone(value: str) -> str:
    if value not in _zones():
        raise ValueError(f"{value!r} is no time zone of the IANA database, e.g. Europe/Paris")
    return value


Country = Annotated[str, Field(pattern=r"^[A-Z]{2}$")]


def _is_address(value: str) -> str:
    from email_validator import EmailNotValidError, validate_email

    try:
        validate_email(value, check_deliverability=False)
    except EmailNotValidError:
        # Neither the address nor the library's reason, which quotes it: this is shown in the UI.
        raise ValueError("no e-mail address") from None
    return value


Address = Annotated[str, AfterValidator(_is_address)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DateRange(_Model):
    """Days from first to last, both included."""

    first: date
    last: date

    @model_validator(mode="after")
    def _in_order(self) -> DateRange:
        if self.first > self.last:
            raise ValueError(f"first {self.first} lies after last {self.last}")
        return self


class BrevoSettings(_Model):
    """How the estate sends. The key itself never stands here, only the name of its variable."""

    live: bool = False
    api_key_variable: str = Field("CRM_BREVO_KEY", pattern=r"^[A-Z][A-Z0-9_]*$")
    sender_name: str = ""
    sender_email: str = ""
    reply_to: str = ""
    folder: str = "CRM"  # where our lists lie at Brevo
    templates: dict[str, int] = {}  # name -> id of a template kept at Brevo, for campaigns that ask for brevo:<name>
    test_addresses: list[Address] = []  # who gets the test of a template before a campaign may leave
    sync_contacts: bool = True  # live only: attributes and lists are handed over daily
    webhook_token_variable: str = Field("CRM_BREVO_WEBHOOK_TOKEN", pattern=r"^CRM_[A-Z0-9_]+$")


class SendingDays(_Model):
    """The estate's own days on which nothing leaves, beside rules.activation.calendar."""

    blackout: list[date | DateRange] = []  # 2026-08-01, or {first: 2026-08-01, last: 2026-08-15}


class WebhookEndpoint(_Model):
    """A receiver of our outgoing webhooks (Standard Webhooks)."""

    url: str = Field(pattern=r"^https://[^\s@]+$")
    secret_variable: str = Field(pattern=r"^CRM_[A-Z0-9_]+$")  # NAME of the variable: whsec_…
    events: list[Literal["run.finished", "gate.closed", "campaign.sent", "customer.at_risk"]] = Field(min_length=1)


class ReportSettings(_Model):
    """Where what is written for the estate's people goes, beside `CRM_HOME/exports/<slug>/`."""

    folder: str | None = None  # exports, reports and review workbooks are written there; a path
    emails: list[Address] = []  # who gets the weekly and the monthly report by mail, where a mail server is set


# What a drop folder on another machine takes: scheme of its URL -> options, and secrets by the name of a variable.
# Other fsspec file systems take what their driver takes.
_S3 = (
    {"endpoint_url", "region", "profile", "anon", "requester_pays", "addressing_style", "ca_file"},
    {"key", "secret", "token"},
)
_AZURE = (
    {"account_name", "account_host", "tenant_id", "client_id", "anon"},
    {"account_key", "sas_token", "connection_string", "client_secret"},
)
_SFTP = (
    {"host", "port", "username", "known_hosts", "host_key", "key_filename"},
    {"password", "passphrase", "private_key"},
)
_DROP_OPTIONS = {
    **dict.fromkeys(("s3", "s3a"), _S3),
    **dict.fromkeys(("abfs", "abfss", "az"), _AZURE),
    **dict.fromkeys(("sftp", "ssh"), _SFTP),
    "file": (set[str](), set[str]()),
}
_SECRET_LIKE = re.compile(r"pass|secret|token|credential|connection_string|(^|_)key$")


def _not_ours(name: str) -> str:
    if name.removeprefix("CRM_").lower() in Settings.model_fields:
        raise ValueError(f"{name} is the product's own, not a drop folder's: give the secret a variable of its own")
    return name


SecretVariable = Annotated[str, Field(pattern=r"^CRM_[A-Z0-9_]+$"), AfterValidator(_not_ours)]


class Source(_Model):
    """What this estate's exports have of their own, beside `config/sources/isavigne.yaml`."""

    raw_url: str | None = None  # another drop folder: a path or an fsspec URL
    raw_options: dict[str, str | int | bool] = {}  # how it is reached; never a secret
    raw_secrets: dict[str, SecretVariable] = {}  # option -> NAME of the environment variable that holds it
    synonyms: dict[str, dict[str, list[str]]] = {}  # dataset -> field -> more header spellings
    transformations: dict[str, dict[str, list[Any]]] = {}  # dataset -> field -> transformations in order
    fixed: dict[str, dict[str, Any]] = {}  # dataset -> field -> its value in files without such a column

    @field_validator("raw_url")
    @classmethod
    def _is_one_address(cls, value: str | None) -> str | None:
        if value and "::" in value.partition("://")[0]:
            raise ValueError("one address is expected, not a chain of them")
        if value and "://" in value and (urlsplit(value).password or urlsplit(value).query):
            raise ValueError("an address has no password and no ?query: see raw_secrets and raw_options")
        return value

    @model_validator(mode="after")
    def _has_known_options(self) -> Source:
        scheme = (self.raw_url or "").partition("://")[0] if "://" in (self.raw_url or "") else "file"
        options, secrets = _DROP_OPTIONS.get(scheme, (None, None))
        for where, keys, known in (
            ("raw_options", self.raw_options, options),
            ("raw_secrets", self.raw_secrets, secrets),
        ):
            for key in keys:
                if where == "raw_options" and _SECRET_LIKE.search(key) and key not in (options or ()):
                    raise ValueError(f"raw_options.{key}: a secret stands in no file: name its variable in raw_secrets")
                if known is not None and key not in known:
                    raise ValueError(
                        f"{where}.{key}: unknown for {scheme}; known: {', '.join(sorted(known)) or 'none'}"
                    )
        return self


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
    reports: ReportSettings = ReportSettings()
    sending_days: SendingDays = SendingDays()
    webhooks: list[WebhookEndpoint] = []
    rules: dict[str, Any] = {}
    as_of: date | None = None

    @cached_property
    def business_rules(self) -> BusinessRules:
        """The rules in force: the product's, with the tenant's overrides."""
        return rules_module.load(self.rules)

    @cached_property
    def version(self) -> str:
        """First 12 hex of the SHA-256 of all that the estate's file says and a result may depend on, rules included."""
        # Where the files come from changes no result: they are their content.
        where = {"raw_url", "raw_options", "raw_secrets"}
        said = self.model_dump(
            mode="json",
            exclude={
                "brevo": True,
                "reports": True,
                "sending_days": True,
                "webhooks": True,
                "rules": True,
                "as_of": True,
                "source": where,
            },
        )
        canonical = json.dumps([self.business_rules.version, said], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.timezone)

    def today(self, now: datetime) -> date:
        """The as-of date of a run that was given none: the fixed one, else today where the estate is."""
        return self.as_of or now.astimezone(self.zone).date()


def problems_of(path: Path, file: str | None = None) -> list[Problem]:
    """Everything that is wrong with a tenant file, by line and key. `file`: how it is called there.

    Values are quoted for the rules only: elsewhere they may be addresses, or a secret that should not stand there.
    """
    file = file or path.name
    slug = path.stem
    if not SLUG.match(slug) or slug in RESERVED_SLUGS:
        names = f"slug matching {SLUG.pattern} and not one of {', '.join(sorted(RESERVED_SLUGS))}"
        return [Problem(file, "slug", f"the file name must be <slug>.yaml, {names}")]
    text = ""
    try:
        text = path.read_text(encoding="utf-8")
        content, places = yaml_places.load(text, forgiving=True), yaml_places.Places(text)
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        return [yaml_places.unreadable(file, error, text)]
    except RecursionError:
        return [Problem(file, "", "not readable as YAML: something in it is nested in itself, or far too deep")]
    if not isinstance(content, dict):
        return [Problem(file, "", f"a mapping of keys is expected, found {type(content).__name__}")]
    found = yaml_places.keys_twice(file, places)
    if content.get("slug", slug) != slug:
        found.append(Problem(file, "slug", f"says {content['slug']!r}, the file name says {slug!r}"))
    try:
        tenant = Tenant.model_validate({**content, "slug": slug})
        if reason := _reports_among_exports(tenant):
            place = places.nearest(("reports", "folder"))
            found.append(Problem(file, "reports.folder", reason, place.line if place else None))
    except ValidationError as error:
        found += yaml_places.problems(error, Tenant, file, places, show_values=False)
    overrides = content.get("rules", {})
    if isinstance(overrides, dict):
        try:
            rules_module.load(overrides)
        except ValidationError as error:
            found += yaml_places.problems(error, BusinessRules, file, places, ("rules",))
    return sorted(found, key=lambda problem: problem.line or 0)


def _reports_among_exports(tenant: Tenant) -> str | None:
    """Why the folder of the reports will not do: inside the drop folder, what is written would come in as exports."""
    drop = (tenant.source.raw_url or str(settings().data / tenant.slug / "raw")).removeprefix("file://")
    if tenant.reports.folder is None or "://" in drop:
        return None
    reports, exports = ((ROOT / Path(text).expanduser()).resolve() for text in (tenant.reports.folder, drop))
    if not reports.is_relative_to(exports):
        return None
    return f"lies in the drop folder {exports}: what is written there would be taken for an export"


def load_tenant(path: Path) -> Tenant:
    """The tenant that `path` describes; TenantError says file, key and reason."""
    if SLUG.match(path.stem) and path.stem not in RESERVED_SLUGS:
        try:
            content = yaml_places.load(path.read_text(encoding="utf-8"))
            if isinstance(content, dict) and content.get("slug", path.stem) == path.stem:
                tenant = Tenant.model_validate({**content, "slug": path.stem})
                tenant.business_rules  # noqa: B018 - a wrong override must show here, not in the middle of a run
                if _reports_among_exports(tenant) is None:
                    return tenant
        except (yaml.YAMLError, UnicodeDecodeError, OSError, ValidationError, RecursionError):
            pass  # said below, with everything else that is wrong
    raise TenantError("; ".join(map(str, problems_of(path))))


# What the files of a folder said when they were last read: name -> (mark, tenant or error). Sensors ask every few
# seconds, and a thousand files that have not changed need not be read again.
_READ: dict[Path, dict[str, tuple[tuple[int, ...], Tenant | TenantError]]] = {}
# Seconds within which a second change might leave a file's times as they are.
_TICK = 2.0


def _read_folder(folder: Path) -> dict[str, Tenant | TenantError]:
    """Each tenant file of the folder by its name, in order: what it describes or why it cannot be used."""
    before = _READ.get(folder, {})
    kept: dict[str, tuple[tuple[int, ...], Tenant | TenantError]] = {}
    found: dict[str, Tenant | TenantError] = {}
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name) if folder.is_dir() else []:
        if not entry.name.endswith((".yaml", ".yml")):
            continue
        try:
            status = entry.stat()
            mark: tuple[int, ...] = (status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino)
        except OSError:  # a link to nowhere, or gone by now: reading it says which
            mark = ()
        known = before.get(entry.name)
        if known is not None and known[0] == mark:
            found[entry.name] = known[1]
        else:
            try:
                found[entry.name] = load_tenant(Path(entry.path))
            except TenantError as error:
                found[entry.name] = error
        if mark and time.time() - status.st_ctime > _TICK:
            kept[entry.name] = (mark, found[entry.name])
    _READ[folder] = kept
    return found


class Registry:
    """The tenants of a folder: those that can be used, and for each other file why not."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tenants: dict[str, Tenant] = {}
        self.errors: dict[str, str] = {}
        for name, said in _read_folder(folder).items():
            slug = name.rpartition(".")[0]
            if slug in self.tenants or slug in self.errors:
                self.tenants.pop(slug, None)
                self.errors[slug] = f"{name}: there is a {slug}.yaml too; keep one of the two"
            elif isinstance(said, Tenant):
                self.tenants[slug] = said
            else:
                self.errors[slug] = str(said)

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
