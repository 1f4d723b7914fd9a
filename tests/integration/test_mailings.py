"""Reports by mail from a tenant's database: once per recipient and period, whatever breaks, and never by accident."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pandas as pd
import pytest

from crm_assets import documents, mailings, tables
from crm_assets.databases import Cluster
from crm_assets.defs.common import MONTH_TAG, WEEK_TAG
from crm_assets.defs.reports.mailings import mail_reports, mailings_are_settled, reports_mailings
from crm_assets.resources import mailer
from crm_assets.resources.control import Control
from crm_assets.resources.warehouse import Warehouse
from crm_assets.settings import Settings
from tests.integration.test_weekly_report import decision
from tests.lights import evaluated, metadata_of, run_for
from tests.logic import estate
from tests.mail_server import MailServer, mail_server, mail_settings
from tests.servers import free_port

AS_OF, NOW = date(2025, 12, 29), datetime(2025, 12, 29, 5, tzinfo=UTC)
ANNE, BRUNO = "anne@domaine.example.com", "bruno@domaine.example.com"
TENANT = estate.tenant(slug="mailed", reports={"emails": [ANNE, BRUNO, ANNE.upper()]})
MONDAY, FIRST = {WEEK_TAG: "2026-W01"}, {MONTH_TAG: "2025-11"}


@pytest.fixture
def server() -> Iterator[MailServer]:
    with mail_server() as made:
        yield made


class Mailed:
    """An estate whose weekly and monthly report lie written."""

    def __init__(self, warehouse: Warehouse, home: Path, environment: Settings, port: int) -> None:
        self.warehouse, self.home = warehouse, home
        given = mail_settings(port)
        fields = ("smtp_host", "smtp_port", "smtp_security", "smtp_from")
        self.config = environment.model_copy(update={name: getattr(given, name) for name in fields})
        warehouse.append(tables.decisions, pd.DataFrame([decision("now", AS_OF, NOW)]))
        self.write("weekly_report", tables.weekly_reports, week="2025-W01")
        self.write("monthly_report_2025-11", tables.monthly_reports, month="2025-11")

    def write(self, name: str, table: Any, **period: str) -> None:
        folder = self.home / "exports"
        paths = [
            documents.write_whole(folder / f"{name}.{kind}", f"{name} {kind}".encode())
            for kind in ("html", "pdf", "xlsx")
        ]
        self.warehouse.append(table, documents.written(paths, self.home, NOW, run_id="now", **period))

    def run(self, tags: dict[str, str], tenant: Any = TENANT) -> Any:
        return SimpleNamespace(
            tenant=tenant, warehouse=self.warehouse, home=self.home, config=self.config, now=NOW, as_of=AS_OF, tags=tags
        )

    def mail(self, tags: dict[str, str] | None = None, tenant: Any = TENANT, **config: bool) -> dict[str, Any]:
        """What a run with these tags mails, and shows of it."""
        given = {"is_asked_for": False, "resend_unknown": False, **config}
        return mail_reports(self.run(tags or {}, tenant), **given)

    def states(self) -> dict[tuple[str, str], str]:
        rows = self.warehouse.rows("select kind, recipient_hash, status from reports.mailings")
        names = {mailer.recipient_hash(address): address for address in (ANNE, BRUNO)}
        return {(kind, names[hashed]): status for kind, hashed, status in rows}

    def light(self) -> dg.AssetCheckEvaluation:
        (found,) = evaluated(self.run({}), mailings_are_settled).values()
        return found


@pytest.fixture
def mailed(
    tenant_warehouse: Warehouse, tmp_path: Path, environment: Settings, cluster: Cluster, server: MailServer
) -> Mailed:
    return Mailed(tenant_warehouse, tmp_path, environment, server.port)


def recipients(server: MailServer) -> list[str]:
    return sorted(recipient for recipient, _ in server.taken)


def test_only_the_runs_that_are_for_it_mail_and_nobody_gets_a_report_twice(mailed: Mailed, server: MailServer) -> None:
    by_hand = mailed.mail()
    assert server.taken == []
    assert by_hand["mails: weekly not asked for"] == 2
    monday = mailed.mail(MONDAY)
    assert recipients(server) == [ANNE, BRUNO], "the same address in capitals is the same person"
    assert (monday["mails: weekly sent"], monday["mails: monthly not asked for"]) == (2, 2)
    again = mailed.mail(MONDAY, is_asked_for=False)
    assert again["mails: weekly sent before"] == 2
    mailed.mail(FIRST)
    mailed.mail(FIRST | MONDAY, is_asked_for=True, resend_unknown=True)
    assert recipients(server) == [ANNE, ANNE, BRUNO, BRUNO]
    subjects = {message["Subject"] for _, message in server.taken}
    assert subjects == {
        "Domaine Demo\u00a0: le point de la semaine 1 (2025)",
        "Domaine Demo\u00a0: le point du mois, novembre 2025",
    }
    attached = sorted(part.get_filename() or "" for part in server.taken[0][1].iter_attachments())
    assert attached == ["weekly_report_2025-W01.html", "weekly_report_2025-W01.pdf"]
    assert set(mailed.states().values()) == {"sent"}
    assert mailed.light().passed
    shown = json.dumps([by_hand, monday, again], default=str)
    assert "@" not in shown


def test_a_hand_may_ask_for_it_in_the_ui(mailed: Mailed, server: MailServer) -> None:
    told = metadata_of(run_for(mailed.run({}), reports_mailings, config={"send": True}))
    assert len(server.taken) == 4
    assert told["mails: weekly sent"] == 2
    assert "@" not in json.dumps(told, default=str)


def test_a_connection_that_breaks_is_unknown_and_waits_for_a_person(mailed: Mailed, server: MailServer) -> None:
    server.breaks_at.add(ANNE)
    done = mailed.mail(MONDAY)
    assert mailed.states() == {("weekly", ANNE): "unknown", ("weekly", BRUNO): "sent"}
    assert "broke within the message" in done["problems"]
    server.breaks_at.clear()
    assert mailed.mail(MONDAY, is_asked_for=False)["mails: weekly unknown"] == 1
    assert recipients(server) == [BRUNO]
    red = mailed.light()
    assert not red.passed
    assert red.metadata["unknown"].value == 1
    mailed.mail(MONDAY, resend_unknown=True)
    assert recipients(server) == [ANNE, BRUNO]
    assert mailed.light().passed


def test_what_a_crash_left_under_way_is_unknown(mailed: Mailed, server: MailServer, monkeypatch: Any) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    sent = mailings.parcel(mailed.warehouse, mailed.home, "weekly", "now", AS_OF)
    assert sent is not None
    with monkeypatch.context() as patched:
        patched.setattr(mailer.Mailer, "send", killed)
        with pytest.raises(KeyboardInterrupt):
            mailings.deliver(mailed.warehouse, TENANT, mailed.config, [sent], NOW, new={"weekly"})
    assert mailed.states() == {("weekly", ANNE): "sending"}
    mailed.mail(MONDAY)
    assert mailed.states() == {("weekly", ANNE): "unknown", ("weekly", BRUNO): "sent"}
    assert recipients(server) == [BRUNO]


def test_a_server_that_is_away_raises_an_alert_and_the_next_run_tries_again(mailed: Mailed, server: MailServer) -> None:
    control, there = Control(mailed.config), mailed.config
    mailed.config = there.model_copy(update={"smtp_port": free_port()})
    done = mailed.mail(MONDAY)
    assert done["mails: weekly failed"] == 2
    assert set(mailed.states().values()) == {"failed"}
    assert not mailed.light().passed
    (alert,) = control.open_alerts(TENANT.slug)
    assert "no connection to the mail server" in alert.message
    mailed.config = there
    assert mailed.mail()["mails: weekly sent"] == 2, "by hand: not new, but left over"
    assert control.open_alerts(TENANT.slug) == []


def test_a_refused_recipient_takes_nobody_else_down(mailed: Mailed, server: MailServer) -> None:
    server.refuses[ANNE] = f"550 <{ANNE}> unknown"
    done = mailed.mail(MONDAY)
    assert mailed.states() == {("weekly", ANNE): "failed", ("weekly", BRUNO): "sent"}
    assert "code 550" in done["problems"]
    assert "anne" not in json.dumps(done, default=str)
    Control(mailed.config).recover(TENANT.slug, "mail", NOW)


def test_without_a_server_or_a_recipient_nothing_is_mailed_and_it_says_why(mailed: Mailed, server: MailServer) -> None:
    nobody = mailed.mail(MONDAY, tenant=estate.tenant(slug="mailed"))
    assert "reports.emails" in nobody["not_mailed"]
    mailed.config = mailed.config.model_copy(update={"smtp_host": ""})
    assert "CRM_SMTP_HOST" in mailed.mail(MONDAY)["not_mailed"]
    assert "CRM_SMTP_HOST" in str(mailed.light().metadata["missing_settings"].value)
    assert not mailed.light().passed
    assert server.taken == []
    assert mailed.states() == {}


def test_a_report_that_was_changed_is_not_mailed(mailed: Mailed, server: MailServer) -> None:
    (mailed.home / "exports" / "weekly_report.html").write_text("changed")
    done = mailed.mail(MONDAY | FIRST)
    assert "weekly_report.html: not as recorded" in done["problems"]
    assert [message["Subject"][-13:] for _, message in server.taken] == ["novembre 2025"] * 2
    Control(mailed.config).recover(TENANT.slug, "mail", NOW)
