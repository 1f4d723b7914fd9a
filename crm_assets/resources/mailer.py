"""The mail server that reports leave by: one message to one recipient at a time, over a verified connection.

Whether the server has a message is known or it is not: `NotSentError` means that it surely has not, `UnknownError`
that the connection broke once the message was under way. No address, no password and none of the server's words
stand in an error: codes only. What is written, and who has it already, is not decided here.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
import smtplib
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP

from crm_assets.settings import Settings

TIMEOUT_SECONDS = 30.0
_START_OF_MAIL_INPUT = 354
_OK = range(200, 300)


class MailerError(Exception):
    """What went wrong, in one line without an address."""


class NotSentError(MailerError):
    """The server surely has not taken the message for this recipient: it may be tried again."""


class ServerError(NotSentError):
    """No message can be handed over at all: no connection, no protection, no log-in."""


class UnknownError(MailerError):
    """The connection broke while the message was under way: it may have been taken, or not."""


@dataclass(frozen=True)
class Attachment:
    name: str
    mime_type: str  # text/html, application/pdf
    content: bytes


@dataclass(frozen=True)
class Mail:
    """What goes to each recipient: `key` tells one mail from all others, so that a repeated one is recognised."""

    sender_name: str
    subject: str
    text: str
    attachments: Sequence[Attachment]
    sent_at: datetime
    key: str


def recipient_hash(address: str) -> str:
    """First 16 hex of the SHA-256 of an address, whatever its case: how it is known where no address may stand."""
    return hashlib.sha256(address.strip().lower().encode()).hexdigest()[:16]


def missing(config: Settings) -> list[str]:
    """What keeps the mail server of the settings from being used, one line each; empty: nothing."""
    if not config.smtp_host:
        return ["CRM_SMTP_HOST is not set: there is no mail server"]
    found = []
    if not re.fullmatch(r"[^@\s]+@[^@\s]+", config.smtp_from):
        found.append("CRM_SMTP_FROM is not an e-mail address: the sender of the reports")
    if config.smtp_security == "none" and not _is_this_machine(config.smtp_host):
        found.append("CRM_SMTP_SECURITY=none is for a mail server on this machine (loopback) only")
    if config.smtp_user and config.smtp_password is None:
        found.append("CRM_SMTP_USER is set and CRM_SMTP_PASSWORD is not")
    return found


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class Mailer:
    """An open connection to the mail server of the settings."""

    def __init__(self, connection: smtplib.SMTP, sender: str) -> None:
        self._connection = connection
        self._sender = sender

    def send(self, mail: Mail, recipient: str) -> None:
        """Hand one mail to the server for one recipient. NotSentError, ServerError or UnknownError otherwise."""
        address = _ascii(recipient)
        content = _message(mail, self._sender, address).as_bytes(policy=SMTP)
        options = [f"size={len(content)}"] if self._connection.has_extn("size") else []
        try:
            self._demand(self._connection.mail(self._sender, options), ServerError, "the sender")
            self._demand(self._connection.rcpt(address), NotSentError, "the recipient")
            self._demand(self._connection.docmd("data"), NotSentError, "the message", {_START_OF_MAIL_INPUT})
        except NotSentError:
            self._reset()
            raise
        except (OSError, smtplib.SMTPException) as error:
            raise ServerError(f"the mail server went away before the message ({type(error).__name__})") from None
        # From here on the server may have the message without our knowing.
        try:
            self._connection.send(_dotted(content))
            code, _ = self._connection.getreply()
        except (OSError, smtplib.SMTPException) as error:
            self._connection.close()
            raise UnknownError(f"the connection broke within the message ({type(error).__name__})") from None
        if code not in _OK:
            self._reset()
            raise NotSentError(f"the mail server refused the message with code {code}")

    def _demand(
        self, reply: tuple[int, bytes], kind: type[NotSentError], what: str, wanted: range | set[int] = _OK
    ) -> None:
        if reply[0] not in wanted:
            raise kind(f"the mail server refused {what} with code {reply[0]}")

    def _reset(self) -> None:
        """Make the connection fit for the next recipient; one that is gone says so at the next command."""
        try:
            self._connection.rset()
        except (OSError, smtplib.SMTPException):
            self._connection.close()


@contextmanager
def mailer(config: Settings) -> Iterator[Mailer]:
    """A connection to the mail server, protected and logged in as the settings say; ServerError when there is none."""
    if wrong := missing(config):
        raise ServerError("; ".join(wrong))
    try:
        connection = _connect(config)
    except smtplib.SMTPAuthenticationError as error:
        raise ServerError(f"the mail server refused the log-in with code {error.smtp_code}") from None
    except ssl.SSLCertVerificationError as error:
        raise ServerError(f"the mail server's certificate is not to be trusted: {error.verify_message}") from None
    except smtplib.SMTPNotSupportedError:
        raise ServerError("the mail server offers no STARTTLS, or no log-in, as the settings ask for") from None
    except (OSError, smtplib.SMTPException) as error:
        raise ServerError(f"no connection to the mail server ({type(error).__name__})") from None
    try:
        yield Mailer(connection, config.smtp_from)
    finally:
        try:
            connection.quit()
        except (OSError, smtplib.SMTPException):
            connection.close()


def _connect(config: Settings) -> smtplib.SMTP:
    host, port = config.smtp_host, config.smtp_port
    # The name it greets with: asking the resolver for ours may take longer than the whole mailing.
    greeting = config.smtp_from.rpartition("@")[2]
    if config.smtp_security == "tls":
        connection: smtplib.SMTP = smtplib.SMTP_SSL(
            host, port, local_hostname=greeting, timeout=TIMEOUT_SECONDS, context=ssl.create_default_context()
        )
    else:
        connection = smtplib.SMTP(host, port, local_hostname=greeting, timeout=TIMEOUT_SECONDS)
    try:
        if config.smtp_security == "starttls":
            connection.starttls(context=ssl.create_default_context())  # raises when the server offers none
        connection.ehlo_or_helo_if_needed()
        if config.smtp_user and config.smtp_password is not None:
            connection.login(config.smtp_user, config.smtp_password.get_secret_value())
    except BaseException:
        connection.close()
        raise
    return connection


def _ascii(address: str) -> str:
    from email_validator import validate_email

    written = validate_email(address, check_deliverability=False).ascii_email
    if written is None:
        raise NotSentError("the address has letters before the @ that few mail servers take")
    return written


def _message(mail: Mail, sender: str, recipient: str) -> EmailMessage:
    message = EmailMessage(policy=SMTP)
    message["From"] = Address(_one_line(mail.sender_name), addr_spec=sender)
    message["To"] = Address(addr_spec=recipient)
    message["Subject"] = _one_line(mail.subject)
    message["Date"] = mail.sent_at
    # The same mail to the same person has the same id: whoever gets it twice after all sees it once.
    identity = hashlib.sha256(f"{mail.key} {recipient_hash(recipient)}".encode()).hexdigest()[:32]
    message["Message-ID"] = f"<{identity}@{sender.rpartition('@')[2]}>"
    message["Auto-Submitted"] = "auto-generated"
    # Not every server takes letters with accents as they are (8BITMIME).
    message.set_content(mail.text, cte="quoted-printable")
    for attachment in mail.attachments:
        main, _, sub = attachment.mime_type.partition("/")
        message.add_attachment(attachment.content, maintype=main, subtype=sub, filename=attachment.name)
    return message


def _one_line(text: str) -> str:
    """A header has one line, whatever its text takes for an end of line: word processors write other ones."""
    return " ".join(part.strip() for part in text.splitlines()).strip()


def _dotted(content: bytes) -> bytes:
    """A message as it stands after DATA: CRLF, a dot more where a line begins with one, a lone dot at the end."""
    lines = re.sub(rb"\r?\n|\r", b"\r\n", content)
    body = re.sub(rb"(?m)^\.", b"..", lines)
    return body + (b"" if body.endswith(b"\r\n") else b"\r\n") + b".\r\n"
