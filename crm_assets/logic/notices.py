"""Outgoing webhooks, the plain part: what is told, to whom, when it is tried again, and where nothing may be sent.

Payloads are those of Standard Webhooks: type, timestamp, data; codes and counts, no personal data. Queueing, signing
and delivery are in `crm_assets/notices.py`.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from crm_assets.rules import WebhookRules
from crm_assets.tenants import Tenant, WebhookEndpoint

RUN_FINISHED, GATE_CLOSED = "run.finished", "gate.closed"
CAMPAIGN_SENT, CUSTOMER_AT_RISK = "campaign.sent", "customer.at_risk"

WAITING, DELIVERED, GIVEN_UP, REFUSED = "waiting", "delivered", "given_up", "refused"

# Why a notice has not been taken -> whether trying again is of no use, and what a person may do.
PROBLEMS: dict[str, tuple[bool, str]] = {
    "HTTP_STATUS": (False, "the receiver answered with an error: see its log"),
    "REDIRECT": (
        True,
        "the receiver answered with a redirect, which is not followed: write its new address in the file",
    ),
    "GONE": (True, "the receiver answered 410: it wants nothing more; take it out of the estate's file"),
    "NO_ANSWER": (False, "no connection, or no answer in time"),
    "NO_ADDRESS": (False, "the receiver's name leads to no address"),
    "TLS": (False, "the receiver's certificate is not valid for its name, or no secure connection came about"),
    "NO_HTTP": (False, "what was answered is no HTTP"),
    "INTERRUPTED": (True, "the last try was cut off by the end of the program: whether it arrived is not known"),
    "NO_SECRET": (False, "the variable of the signing secret is not set"),
    "BAD_SECRET": (False, "the signing secret is no whsec_… in base64"),
    "PRIVATE_ADDRESS": (True, "the receiver's name leads into a private network: nothing is sent there"),
    "PORT": (True, "the receiver's port is neither 443 nor 8443"),
    "BAD_URL": (True, "the receiver's address cannot be read"),
    "ENDPOINT_REMOVED": (True, "the receiver no longer stands in the estate's file"),
}
REFUSALS = frozenset({"PRIVATE_ADDRESS", "PORT", "BAD_URL"})
PORTS = frozenset({443, 8443})


@dataclass(frozen=True)
class Happening:
    """What happened in an estate. `subject`: what it happened to; together with `event` it is told once."""

    event: str
    subject: str
    at: datetime
    data: Mapping[str, Any]


def endpoint_key(url: str) -> str:
    """First 12 hex of the SHA-256 of a receiver's URL: which one it is, without its path, which may be a secret."""
    return hashlib.sha256(url.encode()).hexdigest()[:12]


def host_of(url: str) -> str:
    """Host and port of a URL, for people: hooks.example.com, hooks.example.com:8443; `?` of one that is none."""
    try:
        return urlsplit(url).netloc.lower()
    except ValueError:
        return "?"


def notice_id(tenant: str, endpoint: str, happening: Happening) -> str:
    """The `webhook-id`: the same happening told to the same receiver has one, however often it is seen or sent."""
    text = "\n".join([tenant, endpoint, happening.event, happening.subject])
    return "msg_" + hashlib.sha256(text.encode()).hexdigest()[:32]


def payload_of(tenant: str, happening: Happening) -> dict[str, Any]:
    """What is told of a happening."""
    return {
        "type": happening.event,
        "timestamp": happening.at.isoformat(),
        "data": {"tenant": tenant, **happening.data},
    }


def body_of(payload: Mapping[str, Any]) -> str:
    """A payload as the exact text that is signed and sent: every try sends the same."""
    return json.dumps(payload, sort_keys=True, ensure_ascii=True, separators=(",", ":"))


def notices_of(tenant: Tenant, happenings: Iterable[Happening], now: datetime) -> list[dict[str, Any]]:
    """Rows of activation.notices: one per happening and receiver that asked for its event."""
    return [
        {
            "notice_id": notice_id(tenant.slug, endpoint_key(endpoint.url), happening),
            "event": happening.event,
            "endpoint": host_of(endpoint.url),
            "endpoint_key": endpoint_key(endpoint.url),
            "payload": payload_of(tenant.slug, happening),
            "status": WAITING,
            "tries": 0,
            "created_at": now,
            "next_try_at": now,
        }
        for happening in happenings
        for endpoint in tenant.webhooks
        if happening.event in endpoint.events
    ]


def endpoints_by_key(tenant: Tenant) -> dict[str, WebhookEndpoint]:
    """The receivers of an estate's file."""
    return {endpoint_key(endpoint.url): endpoint for endpoint in tenant.webhooks}


def next_try_at(tries: int, now: datetime, rules: WebhookRules) -> datetime | None:
    """When to try again after the try of that number, from 1; None: it was the last."""
    if tries >= rules.max_tries:
        return None
    return now + timedelta(minutes=rules.backoff_minutes[tries - 1])


def newly_at_risk(before: Mapping[str, bool], after: Mapping[str, bool]) -> list[str]:
    """The customers whose churn flag was down and is up. Who was not known before has not become anything."""
    return sorted(customer for customer, is_churning in after.items() if is_churning and before.get(customer) is False)


def at_risk_happenings(
    codes: Sequence[str], run_id: str, as_of: str, at: datetime, rules: WebhookRules
) -> list[Happening]:
    """Client codes of customers newly at risk, some hundreds to a notice, as few notices as hold them."""
    parts = [codes[start : start + rules.codes_per_notice] for start in range(0, len(codes), rules.codes_per_notice)]
    return [
        Happening(
            CUSTOMER_AT_RISK,
            f"{run_id}:{hashlib.sha256(chr(10).join(part).encode()).hexdigest()[:16]}",
            at,
            {
                "run_id": run_id,
                "as_of": as_of,
                "customers": len(codes),
                "part": number,
                "parts": len(parts),
                "client_codes": list(part),
            },
        )
        for number, part in enumerate(parts, start=1)
    ]


# Refused beside what `ipaddress` flags: IPv4 addresses of protocols and relays; IPv6 ranges that hold an IPv4 address
# inside (6to4, Teredo, NAT64, translated and compatible forms) or were site-local. No receiver lies behind them.
_REFUSED_RANGES = [
    ipaddress.ip_network(range_)
    for range_ in (
        *("192.0.0.0/24", "192.88.99.0/24", "2002::/16", "2001::/32", "64:ff9b::/96", "64:ff9b:1::/48"),
        *("::/96", "::ffff:0:0:0/96", "fec0::/10"),
    )
]


def is_public(address: str) -> bool:
    """Whether an IP address may be connected to: of the public Internet, to one host.

    Refused: private, loopback, link-local, shared, multicast, reserved, unspecified, documentation, and what hides an
    IPv4 address in an IPv6 one, but for the mapped form, of which the inner address counts.
    """
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return is_public(str(ip.ipv4_mapped))
        if ip.scope_id:
            return False
    if any(ip in refused for refused in _REFUSED_RANGES):
        return False
    flagged = ip.is_private or ip.is_loopback or ip.is_link_local or ip.is_multicast or ip.is_reserved
    return ip.is_global and not flagged and not ip.is_unspecified
