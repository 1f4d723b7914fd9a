"""Mail over a real server on loopback: protection, log-in, refusals, and what is known when a connection breaks."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from datetime import UTC, datetime
from email.policy import SMTP
from pathlib import Path

import pytest

from crm_assets.resources import mailer
from crm_assets.settings import Settings
from tests.mail_server import PASSWORD, USER, MailServer, certificate, mail_server, mail_settings
from tests.servers import free_port

MAIL = mailer.Mail(
    sender_name="Domaine de l'Été\nBcc: x@example.com",
    subject="Votre semaine\r\nen chiffres : 12,50 €",
    text="Bonjour,\n.\n..deux points\nà bientôt\n",
    attachments=[
        mailer.Attachment("rapport.html", "text/html", "<p>Cœur</p>\n.\n".encode()),
        mailer.Attachment("rapport.pdf", "application/pdf", b"%PDF-1.7 \x00\xff"),
    ],
    sent_at=datetime(2026, 1, 5, 6, 0, tzinfo=UTC),
    key="demo weekly 2026-W02",
)
TO = "gerant@domaine.example.com"


@pytest.fixture
def server() -> Iterator[MailServer]:
    with mail_server() as made:
        yield made


def send(config: Settings, recipient: str = TO) -> None:
    with mailer.mailer(config) as connection:
        connection.send(MAIL, recipient)


@pytest.mark.parametrize("end", ["\u2028", "\x85", "\x0b", "\r", "\r\nBcc: x@example.com\r\n"])
def test_a_name_of_several_lines_is_one_header_and_the_message_is_ascii(end: str) -> None:
    """An estate's name pasted from elsewhere: refused by the e-mail library only once `sending` is noted."""
    named = dataclasses.replace(MAIL, sender_name=f"Domaine{end}Été", subject=f"Domaine{end}Été")
    message = mailer._message(named, "crm@example.com", TO)
    assert "\n" not in message["Subject"]
    assert message["Bcc"] is None
    assert message["From"].addresses[0].addr_spec == "crm@example.com"
    assert message.as_bytes(policy=SMTP).isascii()


def test_a_mail_arrives_whole(server: MailServer) -> None:
    send(mail_settings(server.port))
    send(mail_settings(server.port))
    ((recipient, message), (_, again)) = server.taken
    assert recipient == TO
    assert message["To"] == TO
    assert message["Subject"] == "Votre semaine en chiffres : 12,50 €"
    assert message["From"].addresses[0].display_name == "Domaine de l'Été Bcc: x@example.com"
    assert message["Bcc"] is None
    assert message["Auto-Submitted"] == "auto-generated"
    body = message.get_body(("plain",))
    assert body is not None
    assert body.get_content().replace("\r\n", "\n") == MAIL.text
    attached = {part.get_filename(): part for part in message.iter_attachments()}
    assert set(attached) == {"rapport.html", "rapport.pdf"}
    for attachment in MAIL.attachments:
        part = attached[attachment.name]
        assert part.get_content_type() == attachment.mime_type
        assert part.get_payload(decode=True) == attachment.content
    assert message["Message-ID"] == again["Message-ID"]


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_a_certificate_must_be_trusted(security: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = certificate(tmp_path)
    with mail_server(security, certificate=mine, log_in=security == "starttls") as server:
        config = mail_settings(server.port, smtp_security=security, smtp_user=USER, smtp_password=PASSWORD)
        if security == "tls":
            config = mail_settings(server.port, smtp_security=security)
        with pytest.raises(mailer.ServerError, match=r"certificate is not to be trusted: self.signed"):
            send(config)
        assert server.taken == []
        monkeypatch.setenv("SSL_CERT_FILE", str(mine))
        send(config)
        assert len(server.taken) == 1


def test_a_certificate_must_be_the_servers_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = certificate(tmp_path, "mail.example.com")
    monkeypatch.setenv("SSL_CERT_FILE", str(other))
    with mail_server("starttls", certificate=other) as server:
        with pytest.raises(mailer.ServerError, match="certificate is not to be trusted: IP address mismatch"):
            send(mail_settings(server.port, smtp_security="starttls"))
        assert server.taken == []


def test_no_starttls_on_offer_means_no_mail(server: MailServer) -> None:
    with pytest.raises(mailer.ServerError, match="offers no STARTTLS"):
        send(mail_settings(server.port, smtp_security="starttls"))
    assert server.taken == []


def test_a_log_in_is_used_and_a_wrong_one_says_so_without_quoting_it() -> None:
    with mail_server(log_in=True) as server:
        send(mail_settings(server.port, smtp_user=USER, smtp_password=PASSWORD))
        assert len(server.taken) == 1
        with pytest.raises(mailer.ServerError, match="refused the log-in with code 535") as wrong:
            send(mail_settings(server.port, smtp_user=USER, smtp_password="premier cru"))
        assert "premier" not in str(wrong.value)
        with pytest.raises(mailer.ServerError, match="refused the sender with code 530"):
            send(mail_settings(server.port))


def test_a_refused_recipient_is_not_sent_and_the_others_are(server: MailServer) -> None:
    server.refuses["nobody@domaine.example.com"] = "550 5.1.1 <nobody@domaine.example.com> unknown"
    with mailer.mailer(mail_settings(server.port)) as connection:
        with pytest.raises(mailer.NotSentError, match="refused the recipient with code 550") as refused:
            connection.send(MAIL, "nobody@domaine.example.com")
        connection.send(MAIL, TO)
    assert not isinstance(refused.value, mailer.ServerError)
    assert "nobody" not in str(refused.value)
    assert [recipient for recipient, _ in server.taken] == [TO]


def test_a_message_refused_at_its_end_is_not_sent(server: MailServer) -> None:
    server.refuses_message = "552 too big"
    with pytest.raises(mailer.NotSentError, match="refused the message with code 552"):
        send(mail_settings(server.port))


def test_a_connection_that_breaks_within_the_message_leaves_it_unknown(server: MailServer) -> None:
    server.breaks_at.add(TO)
    with pytest.raises(mailer.UnknownError, match="broke within the message"):
        send(mail_settings(server.port))


def test_no_server_there_is_a_reason() -> None:
    with pytest.raises(mailer.ServerError, match="no connection to the mail server"):
        send(mail_settings(free_port()))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"smtp_host": ""}, "CRM_SMTP_HOST"),
        ({"smtp_from": "rapports"}, "CRM_SMTP_FROM"),
        ({"smtp_host": "mail.example.com"}, "CRM_SMTP_SECURITY=none"),
        ({"smtp_host": "192.0.2.1"}, "CRM_SMTP_SECURITY=none"),
        ({"smtp_user": USER, "smtp_password": None}, "CRM_SMTP_PASSWORD"),
    ],
)
def test_settings_that_cannot_work_name_what_is_missing(given: dict[str, str | None], said: str) -> None:
    config = mail_settings(25, **given)
    (line,) = mailer.missing(config)
    assert said in line
    with pytest.raises(mailer.ServerError, match=said):
        send(config)


def test_settings_that_can_work_miss_nothing() -> None:
    assert mailer.missing(mail_settings(25, smtp_host="localhost")) == []
    assert mailer.missing(mail_settings(25, smtp_host="mail.example.com", smtp_security="tls")) == []
