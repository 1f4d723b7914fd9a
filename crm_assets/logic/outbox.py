"""The outbox, the plain part: planned messages become frozen calls, or are held back (spec.md §7).

Pure: same messages, same chunks, same bytes. The states that messages move through are written in
`crm_assets/sending.py`.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from crm_assets.campaigns import BREVO_TEMPLATE, NEWS, Campaign
from crm_assets.logic import audit
from crm_assets.logic.activation import RefusalError, canonical, short_hash
from crm_assets.logic.messages import brevo_params, render, render_text, sender_of, subject_of
from crm_assets.rules import BusinessRules
from crm_assets.tenants import Tenant

MESSAGE_TOO_LARGE = "MESSAGE_TOO_LARGE"
# What freezing reads of a planned message.
COLUMNS = ["message_id", "address", "scenario", "arm", "template", "params"]

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
    if found is None:
        return None
    tenant, campaign, occurrence, step, digest = found.groups()
    return Tag(tenant, campaign, occurrence, int(step), digest)


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
    why: dict[Any, str] = dict.fromkeys(objected if campaign.is_profiled else set(), "PROFILING_OBJECTED")
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
    """One API call: its tag, the idempotency key, the exact bytes of its body and the messages inside.

    The bytes hold addresses: they are in no repr.
    """

    tag: str
    idempotency_key: str
    body: bytes = field(repr=False)
    message_ids: tuple[str, ...]

    @property
    def request_hash(self) -> str:
        return hashlib.sha256(self.body).hexdigest()


@dataclass(frozen=True)
class Packed:
    """What became of messages: those in the `chunk`, and those that no call has room for (`too_large`).

    The others wait for another call.
    """

    chunk: Chunk | None
    too_large: tuple[str, ...] = ()


def idempotency_key(tag: str) -> str:
    """The key of a chunk: its tag's hash in the shape of a UUID of version 4, which Brevo recommends."""
    return str(uuid.UUID(bytes=hashlib.sha256(tag.encode()).digest()[:16], version=4))


@dataclass(frozen=True)
class Packer:
    """Freezes messages of one step of a campaign into request bodies, each within Brevo's limits and ours.

    An address stands once in a chunk. Messages of our own templates may share one, whatever their arm; a template kept
    at Brevo is named once per call.
    """

    tenant: Tenant
    campaign: Campaign
    occurrence: str
    step: int
    rules: BusinessRules

    def freeze(self, messages: pd.DataFrame, *, most: int, nonce: str = "") -> Packed:
        """The first messages (COLUMNS, in order of sending) that one call takes, at most `most`.

        `nonce`: makes the tag another one; messages that are frozen a second time are a second chunk.
        """
        envelope = self._envelope(messages)
        limits = self.rules.activation
        most = min(most, limits.chunk_max_messages)
        room = limits.chunk_max_bytes - len(self._body(envelope, self._tag("", ""), []))
        params_room = limits.params_max_bytes.call
        versions: list[bytes] = []
        ids: list[str] = []
        too_large: list[str] = []
        addresses: set[str] = set()
        for message, address, scenario, arm, template, params in messages[COLUMNS].itertuples(index=False):
            if len(ids) >= most:
                break
            if address in addresses or self._template_id(template) != envelope.get("templateId"):
                continue
            version, n_params = self._version(envelope, address, scenario, arm, template, params)
            if n_params > limits.params_max_bytes.version or (len(version) > room and not ids):
                too_large.append(message)
                continue
            if len(version) + 1 > room or n_params > params_room:
                break
            versions.append(version)
            ids.append(message)
            addresses.add(address)
            room -= len(version) + 1
            params_room -= n_params
        if not ids:
            return Packed(None, tuple(too_large))
        tag = self._tag(nonce, *ids)
        return Packed(
            Chunk(tag, idempotency_key(tag), self._body(envelope, tag, versions), tuple(ids)), tuple(too_large)
        )

    def _tag(self, *parts: str) -> str:
        digest = short_hash(*parts, length=12)
        return tag_of(self.tenant.slug, self.campaign.name, self.occurrence, self.step, digest)

    def _template_id(self, template: str | None) -> int | None:
        """Brevo's id of a template kept there; None: one of our own."""
        if not isinstance(template, str) or not template.startswith(BREVO_TEMPLATE):
            return None
        return int(template.removeprefix(BREVO_TEMPLATE))

    def _envelope(self, messages: pd.DataFrame) -> dict[str, Any]:
        """What all versions of a call share; the subject and the template are the first message's."""
        sender = sender_of(self.campaign, self.tenant)
        if not sender["email"]:
            named = f"neither campaign {self.campaign.name} nor tenant {self.tenant.slug} names a sender's e-mail"
            raise RefusalError("NO_SENDER", named)
        first = messages.iloc[0]
        shared: dict[str, Any] = {
            "sender": {"name": sender["name"], "email": sender["email"]},
            "replyTo": {"email": sender["reply_to"]},
            "subject": self._subject(first["arm"]),
        }
        template = self._template_id(first["template"])
        if template is not None:
            return {**shared, "templateId": template}
        # Versions may carry a content of their own only beside a global one; nobody receives this.
        nothing: dict[str, Any] = {"items": []}
        return {
            **shared,
            "htmlContent": render(self.campaign, self.tenant, nothing, kind=NEWS, step=self.step),
            "textContent": render_text(self.campaign, self.tenant, nothing, kind=NEWS, step=self.step),
        }

    def _subject(self, arm: str | None) -> str:
        return subject_of(self.campaign, self.tenant, arm if isinstance(arm, str) else None, self.step)

    def _version(
        self,
        envelope: Mapping[str, Any],
        address: str,
        scenario: str,
        arm: str | None,
        template: str | None,
        params: Mapping[str, Any],
    ) -> tuple[bytes, int]:
        """One message as a version of a call, and the bytes of its params."""
        arm = arm if isinstance(arm, str) else None
        said: dict[str, Any] = {"to": [{"email": address}]}
        subject, n_params = self._subject(arm), 0
        if subject != envelope["subject"]:
            said["subject"] = subject
        if "templateId" in envelope:
            said["params"] = brevo_params(params, self.tenant)
            n_params = len(canonical(said["params"]))
        else:
            own = template if isinstance(template, str) else self.campaign.template_of(scenario, self.step, arm)
            said["htmlContent"] = render(self.campaign, self.tenant, params, kind=own, arm=arm, step=self.step)
            said["textContent"] = render_text(self.campaign, self.tenant, params, kind=own, arm=arm, step=self.step)
        return canonical(said), n_params

    def _body(self, envelope: Mapping[str, Any], tag: str, versions: list[bytes]) -> bytes:
        headers = {"idempotencyKey": idempotency_key(tag), "X-Mailin-Custom": tag}
        head = canonical({**envelope, "tags": [tag], "headers": headers})
        return head[:-1] + b',"messageVersions":[' + b",".join(versions) + b"]}"


def chunks(packer: Packer, messages: pd.DataFrame) -> Iterator[Chunk]:
    """All of the messages as calls, in their order; RefusalError where no call has room for one."""
    left = messages
    while len(left):
        packed = packer.freeze(left, most=packer.rules.activation.chunk_max_messages)
        if packed.too_large:
            raise RefusalError(MESSAGE_TOO_LARGE, f"message {packed.too_large[0]} is larger than a call may be")
        assert packed.chunk is not None
        yield packed.chunk
        left = left[~left["message_id"].isin(packed.chunk.message_ids)]
