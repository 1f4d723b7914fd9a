"""A real mail server on loopback for tests (aiosmtpd): plain, TLS, STARTTLS, log-in, refusals, broken connections."""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from crm_assets.settings import Settings
from tests.servers import free_port

USER, PASSWORD = "cave", "grand cru"


@dataclass
class MailServer:
    """What the server has taken, and how it is to behave: by recipient, a code to answer with."""

    port: int
    taken: list[tuple[str, EmailMessage]] = field(default_factory=list)
    refuses: dict[str, str] = field(default_factory=dict)  # at RCPT
    refuses_message: str | None = None  # after the message
    breaks_at: set[str] = field(default_factory=set)  # connection dropped once the message is there
    sessions: int = 0

    async def handle_EHLO(  # noqa: N802 - aiosmtpd's names
        self, server: SMTP, session: Session, envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        self.sessions += 1
        session.host_name = hostname
        return responses

    async def handle_RCPT(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address in self.refuses:
            return self.refuses[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        if self.breaks_at & set(envelope.rcpt_tos):
            assert isinstance(server.transport, asyncio.Transport)
            server.transport.abort()
            return "250 nobody hears this"
        if self.refuses_message:
            return self.refuses_message
        assert isinstance(envelope.content, bytes)
        message = message_from_bytes(envelope.content, policy=policy.default)
        self.taken += [(recipient, message) for recipient in envelope.rcpt_tos]
        return "250 taken"


@contextmanager
def mail_server(
    security: str = "none", *, certificate: Path | None = None, log_in: bool = False
) -> Iterator[MailServer]:
    """Serve until the block ends; `certificate` is a PEM with its key, for `tls` and `starttls`."""
    made = MailServer(free_port())
    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
    arguments: dict[str, Any] = {}
    if security == "starttls" and context is not None:
        arguments |= {"tls_context": context, "require_starttls": True}
    if security == "tls":
        arguments |= {"ssl_context": context}
    if log_in:
        arguments |= {"auth_required": True, "auth_require_tls": security == "starttls", "authenticator": _authenticate}
    controller = Controller(made, hostname="127.0.0.1", port=made.port, **arguments)
    controller.start()
    try:
        yield made
    finally:
        controller.stop()


def _authenticate(server: SMTP, session: Session, envelope: Envelope, mechanism: str, given: Any) -> AuthResult:
    is_right = isinstance(given, LoginPassword) and (given.login, given.password) == (
        USER.encode(),
        PASSWORD.encode(),
    )
    return AuthResult(success=is_right, handled=is_right)


def certificate(folder: Path, host: str = "127.0.0.1") -> Path:
    """A self-signed certificate with its key for a host, as one PEM file."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mail server of a test")])
    alternative: x509.GeneralName
    try:
        alternative = x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        alternative = x509.DNSName(host)
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / f"{host}.pem"
    path.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return path


def mail_settings(port: int, **more: Any) -> Settings:
    """Settings that name the server on a port."""
    given = {
        "smtp_host": "127.0.0.1",
        "smtp_port": port,
        "smtp_security": "none",
        "smtp_from": "rapports@domaine.example.com",
        **more,
    }
    return Settings(**given)
