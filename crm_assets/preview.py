"""A customer's message as it would be, to be looked at: as HTML, and as a picture where Chromium is present.

Shared by `crm preview` and by the job `preview_message`; runs without Dagster and without the lock of a run. Nothing is
planned and nothing leaves: what would keep the customer from getting it is said beside it. A message that is planned or
sent is shown as it stands in the outbox, one that is not as it would be planned now.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from crm_assets import databases, gating, why
from crm_assets.campaigns import BREVO_TEMPLATE, NEWS, WELCOME, Campaign, CampaignFiles
from crm_assets.logic import activation, message_checks, messages
from crm_assets.resources.warehouse import Warehouse
from crm_assets.settings import Settings
from crm_assets.tenants import Registry, Tenant

FOLDER = "previews"  # of CRM_HOME
WIDTHS = (375, 800)  # a phone, a desktop
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_SECONDS = 60
_TALLEST, _BELOW = 8000, 28  # pixels; what is empty below the message is cut off but for a margin
# What Brevo fills in leads nowhere from here.
_UNSUBSCRIBE_HERE = "#unsubscribe"


class NoPreviewError(Exception):
    """There is no message to be shown; the sentence says why and what to do."""


class NoPictureError(Exception):
    """No picture can be made here; the sentence says what is missing."""


@dataclass(frozen=True)
class Preview:
    """One message. `standing`: whether the customer gets a message, or why not; `problems`: what is wrong with it, in
    words; `is_planned`: it stands in the outbox.
    """

    tenant: str
    client_code: str
    campaign: str
    template: str
    step: int
    arm: str | None
    is_planned: bool
    standing: str
    problems: str
    subject: str = field(repr=False)
    html: str = field(repr=False)

    def as_dict(self) -> dict[str, Any]:
        """What it is, without what it says."""
        names = ("tenant", "client_code", "campaign", "template", "step", "arm", "is_planned", "standing", "problems")
        return {name: getattr(self, name) for name in names}


def of_customer(
    config: Settings, slug: str, code: str, *, campaign: str | None = None, kind: str | None = None
) -> Preview:
    """The message of a customer of an estate; why.UnknownError, NoPreviewError or CampaignError: there is none."""
    tenant = Registry(config.tenants).get(slug)
    warehouse = Warehouse(databases.ensure_tenant(databases.cluster(config), slug), application_name="crm-preview")
    return preview_of(warehouse, tenant, config.tenants, code, campaign=campaign, kind=kind)


def preview_of(
    warehouse: Warehouse,
    tenant: Tenant,
    tenants_folder: Path,
    code: str,
    *,
    campaign: str | None = None,
    kind: str | None = None,
) -> Preview:
    """The message of the customer with that code: of `campaign`, else of the newest plan that has one for it, else of
    the first campaign of recommendations. `kind`: made with that template of ours instead of its own.
    """
    if kind is not None and kind not in messages.KINDS:
        raise NoPreviewError(f"no template {kind!r}; ours are {', '.join(messages.KINDS)}")
    files = CampaignFiles(tenants_folder, tenant)
    if campaign is not None and (channel := files.get(campaign).channel) != "email":
        raise NoPreviewError(f"campaign {campaign} is by {channel}: it has no e-mail to look at")
    known = why.known_of(warehouse, tenant, tenants_folder, code)
    answer = why.logic.answer(known)
    customer = str(known.customer["customer_id"])
    stored = _stored(warehouse, customer, campaign)
    chosen = _campaign(files, tenant, campaign or (stored or {}).get("campaign"), kind)
    step, arm, items = 1, _first_arm(chosen), None
    if stored is not None:
        step, arm, items = int(stored["step"]), stored["arm"], stored["params"]["items"]
    scenario = stored["scenario"] if stored else None
    if items is None:
        items, scenario = _items(warehouse, tenant, chosen, known.run["run_id"], customer, kind)
    template = kind or (stored or {}).get("template") or chosen.template_of(str(scenario), step, arm)
    html, subject = _made(warehouse, tenant, chosen, {"items": items}, template, arm, step)
    standing = answer.sentence
    if stored is None and chosen.wines.push:
        standing += "; the wines that the campaign puts first are not shown yet: planning adds them"
    wrong = message_checks.check_message(html, subject, tenant, tenant.business_rules, items)
    return Preview(
        tenant=tenant.slug,
        client_code=answer.client_code,
        campaign=chosen.name,
        template=template,
        step=step,
        arm=arm,
        is_planned=stored is not None and kind in (None, stored["template"]),
        standing=standing,
        problems=message_checks.in_words(wrong),
        subject=subject,
        html=re.sub(r"\{\{\s*unsubscribe\s*\}\}|\[UNSUBSCRIBE\]", _UNSUBSCRIBE_HERE, html),
    )


def _stored(warehouse: Warehouse, customer: str, campaign: str | None) -> dict[str, Any] | None:
    """The customer's newest message in the outbox, of that campaign or of any; e-mails alone are shown."""
    found = warehouse.query(
        "select messages.campaign, messages.step, messages.arm, messages.template, messages.scenario, messages.params"
        " from activation.messages as messages join activation.campaigns as campaigns"
        " using (campaign, occurrence, step) where messages.customer_id = %s"
        " and messages.campaign = coalesce(%s, messages.campaign)"
        " and coalesce(campaigns.channel, 'email') = 'email' and messages.status <> 'superseded'"
        ' order by campaigns.planned_at desc, messages.step desc, messages.campaign collate "C" limit 1',
        [customer, campaign],
    )
    if found.empty:
        return None
    row = {str(name): value for name, value in found.iloc[0].items()}
    return {**row, **{name: None for name in ("arm", "template") if pd.isna(row[name])}}


def _campaign(files: CampaignFiles, tenant: Tenant, name: str | None, kind: str | None) -> Campaign:
    """The campaign of that name; without one the first of recommendations by e-mail, else one that stands for it."""
    if name is not None:
        return files.get(name)
    for campaign in files.campaigns.values():
        if campaign.active and campaign.kind == "reco" and campaign.channel == "email":
            return campaign
    return Campaign.model_validate({"name": "preview", "kind": "reco", "subject": {tenant.locale: tenant.name}})


def _first_arm(campaign: Campaign) -> str | None:
    return min(campaign.arms, default=None)


def _items(
    warehouse: Warehouse, tenant: Tenant, campaign: Campaign, run_id: str, customer: str, kind: str | None
) -> tuple[list[dict[str, Any]], str]:
    """What the customer's message would show, as planning makes it, and its scenario."""
    if campaign.kind != "reco":
        return [], campaign.kind
    listed = gating.listed_items(warehouse, run_id, [*messages.ITEM_COLUMNS, "scenario"], customer)
    products = warehouse.read(
        "curated", "dim_products", messages.PRODUCT_COLUMNS, "wine_id = any(%s)", [listed["wine_id"].tolist()]
    )
    estate = messages.estate_of(campaign, tenant)
    can_order = bool(estate["reply_to"] or estate["phone"])
    pieces, lacking = messages.product_pieces(products, can_order, tenant.locale, tenant.business_rules)
    if campaign.wines.exclude:
        listed = listed[~listed["wine_id"].isin(activation.named_wines(products, campaign.wines.exclude))]
    content, _ = messages.message_items(listed, pieces)
    if content.empty:
        if kind in (WELCOME, NEWS):
            return [], kind
        if listed.empty:
            reason = "no wine is recommended to this customer"
        else:
            pieces_missing = "; ".join(f"{key} lacks {', '.join(what)}" for key, what in sorted(lacking.items()))
            reason = f"none of the recommended wines can be shown: {pieces_missing or 'they have no sentence'}"
        raise NoPreviewError(f"{reason}; `--kind {WELCOME}` shows a message about no wine")
    first = content.iloc[0]
    scenarios = listed.set_index("wine_id")["scenario"]
    return list(first["params"]["items"]), str(scenarios[first["wine_ids"][0]])


def _made(
    warehouse: Warehouse,
    tenant: Tenant,
    campaign: Campaign,
    params: dict[str, Any],
    template: str,
    arm: str | None,
    step: int,
) -> tuple[str, str]:
    """HTML and subject of a message; a template kept at Brevo is taken as it was read last."""
    subject = messages.subject_of(campaign, tenant, arm, step)
    if not template.startswith(BREVO_TEMPLATE):
        return messages.render(campaign, tenant, params, kind=template, arm=arm, step=step), subject
    named = template.removeprefix(BREVO_TEMPLATE)
    number = int(named) if named.isdecimal() else tenant.brevo.templates[named]
    found = warehouse.rows(
        "select html from activation.brevo_templates where template_id = %s order by fetched_at desc limit 1", [number]
    )
    if not found:
        raise NoPreviewError(
            f"template {number} kept at Brevo has not been read yet: planning campaign {campaign.name} reads it;"
            " `--kind` shows the message with a template of ours"
        )
    try:
        return message_checks.filled(found[0][0], tenant, params["items"]), subject
    except message_checks.UNREADABLE as error:
        raise NoPreviewError(f"template {number} kept at Brevo cannot be read: {type(error).__name__}") from None


def write(preview: Preview, config: Settings, target: Path | None = None) -> Path:
    """Write the message where it was asked for, else into CRM_HOME/previews/<tenant>/; the path of the file."""
    if target is None:
        code = re.sub(r"[^\w-]", "_", preview.client_code)
        template = re.sub(r"[^\w-]", "_", preview.template)
        folder = config.home / FOLDER / preview.tenant
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / f"{code}-{preview.campaign}-{template}.html"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.touch(mode=0o600)
    target.write_text(preview.html, encoding="utf-8")
    return target


def picture(page: Path, width: int) -> Path:
    """A picture of a written preview, beside it; NoPictureError where there is no Chromium, or it fails.

    Chromium runs by itself, with a profile of its own that is thrown away, and is ended with all its children when it
    takes too long.
    """
    browser = next((path for name in _BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        raise NoPictureError("no picture: Chromium is not installed here; open the HTML in any browser")
    target = page.with_name(f"{page.stem}-{width}.png")
    with tempfile.TemporaryDirectory(prefix="crm-preview-", ignore_cleanup_errors=True) as profile:
        drawn = Path(profile, "page.png")
        command = [
            *(browser, "--headless", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--disable-extensions"),
            *("--disable-background-networking", "--disable-sync", "--mute-audio", "--disable-dev-shm-usage"),
            *(["--no-sandbox"] if os.geteuid() == 0 else []),  # Chromium refuses its sandbox to root
            *(f"--user-data-dir={profile}", "--virtual-time-budget=5000"),
            *(f"--screenshot={drawn}", f"--window-size={width},{_TALLEST}", page.resolve().as_uri()),
        ]
        _run(command, profile)
        if not drawn.is_file():
            raise NoPictureError("no picture: Chromium made none; open the HTML in any browser")
        _cut(drawn, target)
    return target


def _run(command: list[str], home: str) -> None:
    try:
        child = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={"HOME": home, "PATH": os.defpath, "LC_ALL": "C.UTF-8"},
            start_new_session=True,
        )
    except OSError as error:
        raise NoPictureError(f"no picture: Chromium could not be started ({type(error).__name__})") from error
    try:
        child.wait(timeout=_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise NoPictureError(f"no picture: Chromium took longer than {_SECONDS} s") from error
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _cut(drawn: Path, target: Path) -> None:
    """Save the picture without what is empty below the message."""
    from matplotlib import image

    page = image.imread(drawn)
    rows = (page != page[-1, 0]).any(axis=(1, 2)).nonzero()[0]
    last = rows[-1] if len(rows) else len(page) - 1
    image.imsave(target, page[: last + _BELOW])
