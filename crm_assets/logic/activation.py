"""Planning, the plain part: who gets which message in which batch (spec.md §7).

`plan` turns a gated run and a campaign into messages, batches and a hash of their exact content: same inputs, same
ids. No SQL, no network, no clock; the transaction that stores a plan is in `crm_assets/activation.py`, what a message
says in `logic/messages.py`, how messages become calls in `logic/outbox.py`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import numpy as np
import pandas as pd

from crm_assets import rendering
from crm_assets.campaigns import Campaign
from crm_assets.logic import audit
from crm_assets.logic.messages import EMAIL_TEMPLATE, estate_of, message_items, product_pieces, sender_of
from crm_assets.rules import BusinessRules
from crm_assets.tenants import Tenant

PLANNED, HOLDOUT = "planned", "holdout"
FIRST_STEP = 1


class RefusalError(Exception):
    """Nothing is planned or sent, and why: `code` for machines, the message for people."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(f"{code}: {sentence}")
        self.code = code


@dataclass(frozen=True)
class Gate:
    """The row of gate.decisions that is in force."""

    run_id: str
    as_of: date
    status: str
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """One occurrence of a campaign, ready to be stored.

    `messages`: columns of activation.messages without planned_at and sent_at; `batches`: columns of
    activation.batches. `left_out`: how many customers of the audience were not planned, by reason.
    `refused_products`: product_key -> the pieces that its item lacks.
    """

    campaign: str
    occurrence: str
    step: int
    run_id: str
    plan_hash: str
    expires_on: date
    messages: pd.DataFrame
    batches: pd.DataFrame
    left_out: dict[str, int]
    refused_products: dict[str, list[str]]

    @property
    def n_planned(self) -> int:
        return int((self.messages["status"] == PLANNED).sum())

    @property
    def n_holdout(self) -> int:
        return int((self.messages["status"] == HOLDOUT).sum())


def canonical(value: Any) -> bytes:
    """`value` as JSON that is the same bytes wherever and whenever it is written."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


def short_hash(*parts: object, length: int = 32) -> str:
    """First `length` hex of the SHA-256 over the parts."""
    return hashlib.sha256("\n".join(str(part) for part in parts).encode()).hexdigest()[:length]


def require_open(
    gate: Gate | None, as_of: date, rules: BusinessRules, *, despite: frozenset[str] = frozenset()
) -> Gate:
    """The gate, or RefusalError: no decision, closed, of a later day, or too old to plan from.

    `despite`: reasons that do not count: closed for nothing else, it passes.
    """
    if gate is None:
        raise RefusalError("NO_DECISION", "no run has passed the gate yet; refresh the estate first")
    if gate.status != "open" and (not gate.reasons or set(gate.reasons) - despite):
        raise RefusalError("GATE_CLOSED", f"the gate of run {gate.run_id} is closed: {', '.join(gate.reasons)}")
    age = (as_of - gate.as_of).days
    if age < 0:
        raise RefusalError(
            "HISTORICAL", f"the gate in force is of {gate.as_of}, after {as_of}: the past is not planned"
        )
    if age > rules.activation.plan_expires_days:
        raise RefusalError(
            "STALE_GATE",
            f"the gate in force is of {gate.as_of}, {age} days before {as_of}"
            f" (at most {rules.activation.plan_expires_days}); refresh the estate first",
        )
    return gate


def departments(postal_code: pd.Series, country: pd.Series) -> pd.Series:
    """French department of each row, null outside France: 67, 2A, 974."""
    code = postal_code.astype("str").where(country == "FR")
    found = code.str[:2]
    found = found.mask(code.str[:2].isin(["97", "98"]), code.str[:3])
    corsica = code.str[:2] == "20"
    found = found.mask(corsica & (code.str[:3].isin(["200", "201"])), "2A")
    return found.mask(corsica & ~code.str[:3].isin(["200", "201"]), "2B")


def in_audience(people: pd.DataFrame, campaign: Campaign, home_country: str) -> pd.Series:
    """Whether each customer belongs to the campaign's audience, eligible or not.

    `people`: type, segment, cluster_id, cluster_name, scenario, postal_code, country.
    """
    audience = campaign.audience
    country = people["country"].where(people["country"].notna(), home_country)
    inside = people["type"].isin(audience.types)
    if audience.segments:
        inside &= people["segment"].isin(audience.segments)
    if audience.clusters:
        inside &= people["cluster_id"].isin(audience.clusters) | people["cluster_name"].isin(audience.clusters)
    if audience.scenarios:
        inside &= people["scenario"].isin(audience.scenarios)
    if audience.departments:
        inside &= departments(people["postal_code"], country).isin(audience.departments)
    if audience.countries:
        inside &= country.isin(audience.countries)
    return inside.astype(bool)


def eligible_for(campaign: Campaign, actions: pd.DataFrame, found: pd.DataFrame) -> pd.Series:
    """Whether each row of gate.next_actions may get this campaign.

    A recommendation needs an eligible next action. An event or news is about no wine: rules 8 to 15 and the
    review of wines do not apply (spec.md §7), permission and the errors of rules 1 to 7 do. `found`:
    audit.findings.
    """
    if campaign.kind == "reco":
        return actions["eligible"].astype(bool)
    errors = found[(found["severity"] == audit.ERROR) & (found["rule_no"] <= audit.LAST_RULE_OF_ANY_MESSAGE)]
    return actions["permitted"].astype(bool) & ~actions["customer_id"].isin(errors["customer_id"])


def quarter(day: date) -> str:
    """2025Q4."""
    return f"{day.year}Q{(day.month + 2) // 3}"


def is_held_out(tenant: str, day: date, addresses: Iterable[str], share: float) -> np.ndarray:
    """Whether each address belongs to the holdout of the quarter: hash(tenant, quarter, address) < share."""
    threshold = math.floor(share * 2**64)
    prefix = f"{tenant}\n{quarter(day)}\n"
    draws = [int.from_bytes(hashlib.sha256((prefix + a).encode()).digest()[:8]) for a in addresses]
    return np.array([draw < threshold for draw in draws], dtype=bool)


def batch_sizes(count: int, rules: BusinessRules) -> list[int]:
    """Sizes of balanced batches: as near to `batch_size` as can be, never above `batch_max`, all within one
    of each other.

    Below `batch_min` only where the count leaves no choice (one small batch, or 301 to 399 messages).
    """
    if count == 0:
        return []
    activation = rules.activation
    number = max(math.ceil(count / activation.batch_max), round(count / activation.batch_size), 1)
    while number > 1 and count / number < activation.batch_min and count / (number - 1) <= activation.batch_max:
        number -= 1
    base, more = divmod(count, number)
    return [base + 1] * more + [base] * (number - more)


def plan_hash(tenant: Tenant, campaign: Campaign, occurrence: str, run_id: str, messages: pd.DataFrame) -> str:
    """SHA-256 over the exact content of a plan: campaign file, template and wording, sender, estate, every
    message.

    Nothing that a send changes is in it, so it can be computed again from what is stored and compared.
    """
    digest = hashlib.sha256(
        canonical(
            {
                "tenant": tenant.slug,
                "campaign": campaign.model_dump(mode="json"),
                "occurrence": occurrence,
                "run_id": run_id,
                "template": rendering.template_hash(EMAIL_TEMPLATE, tenant.locale),
                "sender": sender_of(campaign, tenant),
                "estate": estate_of(campaign, tenant),
            }
        )
    )
    columns = ["message_id", "batch_id", "address", "customer_id", "params"]
    for message in messages.sort_values("message_id")[columns].itertuples(index=False):
        digest.update(canonical([None if not isinstance(v, dict) and pd.isna(v) else v for v in message]))
    return digest.hexdigest()


def plan(
    tenant: Tenant,
    campaign: Campaign,
    gate: Gate,
    people: pd.DataFrame,
    items: pd.DataFrame,
    products: pd.DataFrame,
    rules: BusinessRules,
    as_of: date,
) -> Plan:
    """The messages of one occurrence, held out or in balanced batches.

    `people`: one row per customer of the gate's run: customer_id, address (e-mail), type, segment,
    cluster_id, cluster_name, scenario, postal_code, country, eligible (by `eligible_for`). `items`: the run's
    rows of recommendations.items. `products`: curated.dim_products. RefusalError when nobody is left to write
    to.
    """
    audience = people[in_audience(people, campaign, tenant.country)]
    left_out = {"NOT_ELIGIBLE": int((~audience["eligible"].astype(bool)).sum())}
    chosen = audience[audience["eligible"].astype(bool)]
    chosen = chosen.assign(address=chosen["address"].astype("str").str.strip().str.lower())
    chosen = chosen.sort_values(["address", "customer_id"], kind="stable")
    once = chosen.drop_duplicates("address")
    left_out["SAME_ADDRESS"] = len(chosen) - len(once)

    lacking: dict[str, list[str]] = {}
    if campaign.kind == "reco":
        estate = estate_of(campaign, tenant)
        pieces, every_lack = product_pieces(products, bool(estate["reply_to"] or estate["phone"]), tenant.locale, rules)
        offered = items[items["customer_id"].isin(once["customer_id"])]
        content, refused = message_items(offered, pieces)
        lacking = {key: every_lack.get(key, ["catalogue"]) for key in sorted(set(offered["product_key"]) - set(pieces))}
        left_out |= {f"ITEMS_WITHOUT_{name.upper()}": count for name, count in refused.items() if count}
        with_content = once.merge(content, on="customer_id", how="inner", validate="one_to_one")
        left_out["NO_ITEM_TO_SHOW"] = len(once) - len(with_content)
    else:
        with_content = once.assign(
            scenario=campaign.kind,
            wine_ids=pd.Series([[] for _ in range(len(once))], index=once.index, dtype="object"),
            product_keys=pd.Series([[] for _ in range(len(once))], index=once.index, dtype="object"),
            params=pd.Series([{"items": []} for _ in range(len(once))], index=once.index, dtype="object"),
        )
    if with_content.empty:
        counts = ", ".join(f"{name} {count}" for name, count in left_out.items() if count) or "the audience is empty"
        raise RefusalError("EMPTY_AUDIENCE", f"nobody is left to write to in campaign {campaign.name} ({counts})")

    occurrence = campaign.occurrence_on(as_of)
    identity = (tenant.slug, campaign.name, occurrence, FIRST_STEP)
    messages = with_content.assign(
        message_id=[short_hash(*identity, address) for address in with_content["address"]],
        campaign=campaign.name,
        occurrence=occurrence,
        step=FIRST_STEP,
        run_id=gate.run_id,
    ).sort_values(["scenario", "message_id"], kind="stable", ignore_index=True)
    has_holdout = (
        campaign.holdout and campaign.kind != "event" and len(messages) >= rules.activation.holdout_min_eligible
    )
    held = np.zeros(len(messages), dtype=bool)
    if has_holdout:
        held = is_held_out(tenant.slug, as_of, messages["address"], rules.activation.holdout_share)
    messages["status"] = np.where(held, HOLDOUT, PLANNED)

    sizes = batch_sizes(int((~held).sum()), rules)
    batch_ids = [short_hash(*identity, gate.run_id, number, length=16) for number in range(1, len(sizes) + 1)]
    messages["batch_id"] = pd.Series([None] * len(messages), dtype="object")
    messages.loc[~held, "batch_id"] = np.repeat(np.array(batch_ids, dtype=object), sizes)
    batches = pd.DataFrame(
        {
            "batch_id": batch_ids,
            "campaign": campaign.name,
            "occurrence": occurrence,
            "step": FIRST_STEP,
            "batch_no": range(1, len(sizes) + 1),
            "run_id": gate.run_id,
            "n_messages": sizes,
            "status": PLANNED,
        }
    )
    # fmt: off
    columns = [
        "message_id", "campaign", "occurrence", "step", "address", "customer_id", "run_id", "batch_id",
        "scenario", "wine_ids", "product_keys", "params", "status", "cluster_id",
    ]
    # fmt: on
    messages = messages[columns]
    return Plan(
        campaign=campaign.name,
        occurrence=occurrence,
        step=FIRST_STEP,
        run_id=gate.run_id,
        plan_hash=plan_hash(tenant, campaign, occurrence, gate.run_id, messages),
        expires_on=as_of + timedelta(days=rules.activation.plan_expires_days),
        messages=messages,
        batches=batches,
        left_out={name: count for name, count in left_out.items() if count},
        refused_products=lacking,
    )
