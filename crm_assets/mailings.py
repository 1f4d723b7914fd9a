"""Reports by mail: each to each recipient of the estate's file, once per period, whatever starts or stops the run.

`reports.mailings` is written `sending` before a message is handed over and `sent` after. What a crash leaves
`sending` is `unknown`: it may have arrived, so it is not repeated unless a person says so. What surely has not left
is `failed` and tried again by the next run. Addresses stand in the tenant's file and in the message, nowhere else.
"""

from __future__ import annotations

import mimetypes
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import Any

from crm_assets import documents, rendering
from crm_assets.resources import mailer
from crm_assets.resources.warehouse import Warehouse
from crm_assets.settings import Settings
from crm_assets.tenants import Tenant

KINDS = ("weekly", "monthly")
# What a mail carries, in this order; the workbook stays in the folder.
_ATTACHED = (".html", ".pdf")


@dataclass(frozen=True)
class Parcel:
    """A report to mail: its period (2025-W52, 2025-12), its files, and the SHA-256 of its page."""

    kind: str
    period: str
    run_id: str
    as_of: date
    sha256: str
    files: list[Path]


@dataclass
class Delivery:
    """What became of the reports: counts by kind and outcome, and the reasons of what went wrong."""

    outcomes: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)


def parcel(warehouse: Warehouse, home: Path, kind: str, run_id: str, as_of: date) -> Parcel | None:
    """The report of a run as it lies on disk; None when there is none, LookupError when it is not as recorded."""
    period = {"weekly": "week", "monthly": "month"}[kind]
    found = warehouse.query(
        f"select {period} as period, path, sha256 from reports.{kind}_reports where run_id = %s"
        f" and {period} = (select max({period}) from reports.{kind}_reports where run_id = %s)",
        [run_id, run_id],
    )
    pages = found[found["path"].str.endswith(".html")] if len(found) else found
    if pages.empty:
        return None
    attached = found[found["path"].map(lambda path: Path(path).suffix in _ATTACHED)]
    if wrong := documents.missing_or_changed(attached, home):
        raise LookupError(f"{', '.join(wrong)}: not as recorded; write the {kind} report again")
    files = sorted((home / path for path in attached["path"]), key=lambda path: _ATTACHED.index(path.suffix))
    return Parcel(kind, pages["period"].iloc[0], run_id, as_of, pages["sha256"].iloc[0], files)


def deliver(
    warehouse: Warehouse,
    tenant: Tenant,
    config: Settings,
    parcels: Collection[Parcel],
    now: datetime,
    *,
    new: Collection[str],
    resend_unknown: bool = False,
) -> Delivery:
    """Mail what is due: of kinds in `new` to whoever has not got it, of all kinds what failed before."""
    done = Delivery()
    # One run per tenant at a time: nobody is sending now.
    warehouse.execute("update reports.mailings set status = 'unknown' where status = 'sending'")
    server_fails = False
    for sent in parcels:
        known: dict[str, str] = dict(
            warehouse.rows(
                "select recipient_hash, status from reports.mailings where kind = %s and period = %s",
                [sent.kind, sent.period],
            )
        )
        for hashed, address in recipients(tenant).items():
            status = known.get(hashed)
            if status == "sent":
                done.outcomes[f"{sent.kind} sent before"] += 1
            elif status == "unknown" and not resend_unknown:
                done.outcomes[f"{sent.kind} unknown"] += 1
            elif status is None and sent.kind not in new:
                done.outcomes[f"{sent.kind} not asked for"] += 1
            else:
                if not server_fails:
                    outcome, server_fails = _hand_over(warehouse, tenant, config, sent, address, now, done.problems)
                else:
                    outcome = "failed"
                    _note(warehouse, sent, address, outcome, now)
                done.outcomes[f"{sent.kind} {outcome}"] += 1
    return done


def recipients(tenant: Tenant) -> dict[str, str]:
    """Each person once, as first written in the estate's file."""
    found: dict[str, str] = {}
    for address in tenant.reports.emails:
        found.setdefault(mailer.recipient_hash(address), address)
    return found


def _hand_over(
    warehouse: Warehouse,
    tenant: Tenant,
    config: Settings,
    sent: Parcel,
    address: str,
    now: datetime,
    problems: list[str],
) -> tuple[str, bool]:
    """Mail one report to one recipient: how it ended, and whether the server can be asked no more."""
    mail = _mail(tenant, sent, now)
    _note(warehouse, sent, address, "sending", now)
    try:
        with mailer.mailer(config) as connection:
            connection.send(mail, address)
    except mailer.MailerError as error:
        outcome = "unknown" if isinstance(error, mailer.UnknownError) else "failed"
        _note(warehouse, sent, address, outcome, now)
        if str(error) not in problems:
            problems.append(str(error))
        return outcome, isinstance(error, mailer.ServerError)
    _note(warehouse, sent, address, "sent", now)
    return "sent", False


def _note(warehouse: Warehouse, sent: Parcel, address: str, status: str, now: datetime) -> None:
    warehouse.execute(
        "insert into reports.mailings (kind, period, recipient_hash, run_id, sha256, status, sent_at)"
        " values (%s, %s, %s, %s, %s, %s, %s) on conflict (kind, period, recipient_hash) do update set"
        " run_id = excluded.run_id, sha256 = excluded.sha256, status = excluded.status, sent_at = excluded.sent_at",
        [sent.kind, sent.period, mailer.recipient_hash(address), sent.run_id, sent.sha256, status, now],
    )


def _mail(tenant: Tenant, sent: Parcel, now: datetime) -> mailer.Mail:
    words: dict[str, Any] = rendering.texts(tenant.locale)["mail"]
    year, _, number = sent.period.partition("-")
    if sent.kind == "weekly":
        told = words["weekly"].format(day=rendering.long_date(sent.as_of, tenant.locale))
        subject = words["weekly_subject"].format(estate=tenant.name, week=int(number.removeprefix("W")), year=year)
    else:
        month = rendering.month_year(date(int(year), int(number), 1), tenant.locale)
        told = words["monthly"].format(month=month)
        subject = words["monthly_subject"].format(estate=tenant.name, month=month)
    names = {path: f"{path.stem.removesuffix('_' + sent.period)}_{sent.period}{path.suffix}" for path in sent.files}
    listed = [f"- {words[path.suffix.removeprefix('.')].format(name=name)}" for path, name in names.items()]
    paragraphs = [words["hello"], told, "\n".join([words["attached"], *listed]), words["private"], words["automatic"]]
    return mailer.Mail(
        sender_name=tenant.name,
        subject=subject,
        text="\n\n".join([*paragraphs, tenant.name]) + "\n",
        attachments=[
            mailer.Attachment(name, mimetypes.guess_type(name)[0] or "application/octet-stream", path.read_bytes())
            for path, name in names.items()
        ],
        sent_at=now,
        key=f"{tenant.slug} {sent.kind} {sent.period}",
    )
