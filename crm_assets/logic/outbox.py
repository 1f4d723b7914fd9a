"""The outbox, the plain part: planned messages become frozen calls, or are held back (spec.md §7).

Pure: same messages, same chunks, same bytes. The states that messages move through are written in
`crm_assets/sending.py`.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from crm_assets.campaigns import Campaign
from crm_assets.logic import audit
from crm_assets.logic.activation import FIRST_STEP, RefusalError, canonical, short_hash
from crm_assets.logic.messages import render, sender_of
from crm_assets.rules import BusinessRules
from crm_assets.tenants import Tenant

_IDEMPOTENCY_NAMESPACE = uuid.UUID("5f1b7a52-6c0e-5f3e-9d58-0a8b1c7f2d10")  # any constant: ours

# A slug and a campaign's name have no hyphen (tenants.SLUG, campaigns.NAME); a week has one.
_TAG = re.compile(
    r"(?P<tenant>[a-z][a-z0-9_]{1,39})-(?P<campaign>[a-z][a-z0-9_]{1,39})-(?P<occurrence>once|\d{4}-W\d{2})"
    r"-(?P<step>[1-9]\d?)-(?P<digest>[0-9a-f]{12})"
)


@dataclass(frozen=True)
class Tag:
    """What the tag of a chunk says: whose call it was, of which occurrence and step; `digest` tells chunks apart."""

    tenant: str
    campaign: str
    occurrence: str
    step: int
    digest: str


def tag_of(tenant: str, campaign: str, occurrence: str, step: int, digest: str) -> str:
    """The tag that every message of a chunk bears at Brevo: its log is looked up by it."""
    return f"{tenant}-{campaign}-{occurrence}-{step}-{digest}"


def parse_tag(text: str) -> Tag | None:
    """The tag as `tag_of` wrote it; None where the text is nothing of ours."""
    found = _TAG.fullmatch(text)
    return Tag(**{**found.groupdict(), "step": int(found["step"])}) if found else None


def held_back(
    messages: pd.DataFrame,
    permissions: pd.DataFrame,
    found: pd.DataFrame,
    objected: set[str],
    reviewed: Mapping[str, str],
    campaign: Campaign,
) -> dict[str, str]:
    """message_id -> reason, for planned messages that current data no longer allow.

    `objected`: customers who object to profiling; no message that their purchases chose may leave (spec.md §4.4).

    `reviewed`: customer_id -> why review no longer lets a message of recommendations leave.

    `permissions` and `found` are the audit of the planned items on current data: permission and rules 1 to 9
    count at a send, 1 to 7 where the message is about no wine (spec.md §6, §7).
    """
    last = audit.LAST_RULE_RECHECKED_AT_SEND if campaign.kind == "reco" else audit.LAST_RULE_OF_ANY_MESSAGE
    refused = permissions.loc[~permissions["permitted"].astype(bool)].set_index("customer_id")["permission_reason"]
    broken = found[(found["severity"] == audit.ERROR) & (found["rule_no"] <= last)]
    rules_broken = broken.sort_values("rule_no", kind="stable").drop_duplicates("customer_id")
    is_profiled = campaign.kind == "reco" or campaign.audience.segments or campaign.audience.clusters
    why: dict[Any, str] = dict.fromkeys(objected if is_profiled else set(), "PROFILING_OBJECTED")
    why |= dict(reviewed) if campaign.kind == "reco" else {}
    why |= rules_broken.set_index("customer_id")["rule_code"].to_dict()
    why |= refused.to_dict()
    known = set(permissions["customer_id"])
    return {
        message: why.get(customer, "UNKNOWN_CUSTOMER")
        for message, customer in messages[["message_id", "customer_id"]].itertuples(index=False)
        if customer in why or customer not in known
    }


@dataclass(frozen=True)
class Chunk:
    """One API call: its tag, the idempotency key, the exact bytes of its body and the messages inside."""

    tag: str
    idempotency_key: str
    body: bytes
    message_ids: tuple[str, ...]

    @property
    def request_hash(self) -> str:
        return hashlib.sha256(self.body).hexdigest()


def chunks(
    tenant: Tenant, campaign: Campaign, occurrence: str, messages: pd.DataFrame, rules: BusinessRules
) -> Iterator[Chunk]:
    """Planned messages packed into request bodies, each within the limits of count and bytes; an address once
    per chunk.

    Messages go in the order of their batches; one call may hold several batches of a campaign.
    """
    sender = sender_of(campaign, tenant)
    if not sender["email"]:
        raise RefusalError(
            "NO_SENDER", f"neither campaign {campaign.name} nor tenant {tenant.slug} names a sender's e-mail"
        )
    limits = rules.activation
    envelope: dict[str, Any] = {
        "sender": {"name": sender["name"], "email": sender["email"]},
        "replyTo": {"email": sender["reply_to"]},
        "subject": campaign.subject[tenant.locale],
        # Versions may carry their own HTML only beside a global one; nobody receives this.
        "htmlContent": render(campaign, tenant, {"items": []}),
    }

    def pack(versions: list[bytes], ids: list[str]) -> Chunk:
        tag = tag_of(tenant.slug, campaign.name, occurrence, FIRST_STEP, short_hash(*ids, length=12))
        key = str(uuid.uuid5(_IDEMPOTENCY_NAMESPACE, tag))
        head = canonical({**envelope, "tags": [tag], "headers": {"idempotencyKey": key, "X-Mailin-Custom": tag}})
        body = head[:-1] + b',"messageVersions":[' + b",".join(versions) + b"]}"
        return Chunk(tag, key, body, tuple(ids))

    room = limits.chunk_max_bytes - len(pack([], [""]).body)
    versions: list[bytes] = []
    ids: list[str] = []
    used = 0
    for message, address, params in messages[["message_id", "address", "params"]].itertuples(index=False):
        version = canonical({"to": [{"email": address}], "htmlContent": render(campaign, tenant, params)})
        size = len(version) + 1
        if size > room:
            raise RefusalError(
                "MESSAGE_TOO_LARGE", f"message {message} alone is {size} bytes; a call has room for {room}"
            )
        if versions and (used + size > room or len(versions) >= limits.chunk_max_messages):
            yield pack(versions, ids)
            versions, ids, used = [], [], 0
        versions.append(version)
        ids.append(message)
        used += size
    if versions:
        yield pack(versions, ids)
