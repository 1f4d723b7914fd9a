"""Activation, the plain part: who gets which message in which batch, and how messages pack into calls
(spec.md §7).

`plan` turns a gated run and a campaign into messages, batches and a hash of their exact content; `chunks`
packs planned messages into request bodies within Brevo's limits. Both are pure: same inputs, same ids, same
bytes. No SQL, no network, no clock; the transaction that stores a plan is in `crm_assets/activation.py`.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import numpy as np
import pandas as pd

from crm_assets import rendering
from crm_assets.campaigns import Campaign
from crm_assets.logic import audit
from crm_assets.rules import BusinessRules
from crm_assets.tenants import Tenant

EMAIL_TEMPLATE = "email.html.j2"
# fmt: off
PRODUCT_COLUMNS = [
    "product_key", "wine_id", "kind", "label", "vintage", "format_cl", "price_ttc", "is_price_estimated",
    "sold_by", "url",
]
# fmt: on
ITEM_COLUMNS = ["customer_id", "wine_id", "product_key", "rank", "customer_sentence"]
PLANNED, HOLDOUT = "planned", "holdout"
FIRST_STEP = 1
# How a product is sold, as `email.units` of the texts words it.
BOTTLE, UNIT, GIFT_BOX = "bottle", "unit", "gift_box"
_IDEMPOTENCY_NAMESPACE = uuid.UUID("5f1b7a52-6c0e-5f3e-9d58-0a8b1c7f2d10")  # any constant: ours


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


def sender_of(campaign: Campaign, tenant: Tenant) -> dict[str, str]:
    """Who signs: name, email, reply_to; empty where neither the campaign nor the tenant says."""
    brevo = tenant.brevo
    email = campaign.sender_email or brevo.sender_email
    return {
        "name": campaign.sender_name or brevo.sender_name or tenant.name,
        "email": email,
        "reply_to": campaign.reply_to or brevo.reply_to or email,
    }


def estate_of(campaign: Campaign, tenant: Tenant) -> dict[str, str]:
    """What every message says of the estate."""
    reply_to = sender_of(campaign, tenant)["reply_to"]
    return {
        "name": tenant.name,
        "legal_name": tenant.legal_name,
        "address": tenant.address,
        "siren": tenant.siren,
        "phone": tenant.phone,
        "reply_to": reply_to,
        "unsubscribe_to": reply_to,
    }


def _present(value: Any) -> bool:
    return not pd.isna(value) and str(value).strip() != ""


def sales_unit(kind: Any, label: Any, format_cl: Any, rules: BusinessRules) -> str:
    """What one price buys: a gift box, a bag-in-box or other large container (a unit), else a bottle."""
    if kind == GIFT_BOX:
        return GIFT_BOX
    is_large = _present(format_cl) and format_cl >= rules.activation.unit_min_cl
    return UNIT if is_large or (_present(label) and re.search(r"\bBIB(?![a-z])", str(label), re.IGNORECASE)) else BOTTLE


def product_pieces(
    products: pd.DataFrame, can_order_by_message: bool, locale: str, rules: BusinessRules
) -> tuple[dict[str, dict[str, Any]], dict[str, list[str]]]:
    """What a message says of each product, and for each product that cannot be shown, what it lacks.

    Needed: name, vintage, format, TTC price, and a link where the estate has neither reply address nor phone;
    a gift box has no vintage, format or carton of its own and says none. A wine of which no product carries a
    vintage is non-vintage and says so; a null vintage beside dated ones is missing. An estimated price is
    none: nobody has set it. A product whose sold_by is unknown is sold one by one.
    """
    words = rendering.texts(locale)["email"]
    dated = set(products.loc[products["vintage"].notna(), "wine_id"])
    pieces: dict[str, dict[str, Any]] = {}
    lacking: dict[str, list[str]] = {}
    for row in products[PRODUCT_COLUMNS].itertuples(index=False):
        key, wine, kind, label, vintage, format_cl, price, is_estimated, sold_by, url = row
        unit = sales_unit(kind, label, format_cl, rules)
        is_gift_box = unit == GIFT_BOX
        has_vintage = _present(vintage)
        missing = [
            name
            for name, is_there in {
                "name": _present(label),
                "vintage": is_gift_box or has_vintage or wine not in dated,
                "format": is_gift_box or (_present(format_cl) and format_cl > 0),
                "price": _present(price) and price > 0 and not (_present(is_estimated) and is_estimated),
                "link": _present(url) or can_order_by_message,
            }.items()
            if not is_there
        ]
        if missing:
            lacking[str(key)] = missing
            continue
        shown = {
            "unit": unit,
            "price": rendering.euros(float(price), locale),
            "url": str(url) if _present(url) else None,
        }
        if is_gift_box:
            pieces[str(key)] = {"name": str(label).strip(), **shown}
            continue
        year = str(vintage).removesuffix(".0") if has_vintage else words["non_vintage"]
        multiple = int(sold_by) if _present(sold_by) and int(sold_by) > 0 else 1
        carton = math.ceil(rules.activation.carton_bottles / multiple) * multiple
        name = re.sub(rf"\s*\b{re.escape(year)}\b", "", str(label)).strip() or str(label)
        pieces[str(key)] = {
            "name": name,
            "vintage": year,
            "format": rendering.centilitres(float(format_cl), locale),
            "price_carton": rendering.euros(round(float(price) * carton, 2), locale),
            "carton_bottles": carton,
            "sold_by": multiple,
            **shown,
        }
    return pieces, lacking


def message_items(items: pd.DataFrame, pieces: dict[str, dict[str, Any]]) -> tuple[pd.DataFrame, dict[str, int]]:
    """Per customer the items that can be shown, in rank order: customer_id, wine_ids, product_keys, params.

    Beside it, how many items were refused because their product lacks a piece or they have no sentence.
    """
    ordered = items.sort_values(["customer_id", "rank", "product_key"], kind="stable")
    has_sentence = ordered["customer_sentence"].notna() & (ordered["customer_sentence"].astype("str").str.strip() != "")
    has_product = ordered["product_key"].isin(pieces)
    refused = {
        "sentence": int((~has_sentence).sum()),
        "product": int((has_sentence & ~has_product).sum()),
    }
    shown = ordered[has_sentence & has_product]
    wines: dict[str, list[str]] = {}
    keys: dict[str, list[str]] = {}
    params: dict[str, list[dict[str, Any]]] = {}
    columns = ["customer_id", "wine_id", "product_key", "customer_sentence"]
    for customer, wine, key, sentence in shown[columns].itertuples(index=False):
        wines.setdefault(customer, []).append(wine)
        keys.setdefault(customer, []).append(key)
        params.setdefault(customer, []).append({**pieces[key], "sentence": sentence})
    ids = list(wines)
    frame = pd.DataFrame(
        {
            "customer_id": pd.Series(ids, dtype="str"),
            "wine_ids": pd.Series(list(wines.values()), dtype="object"),
            "product_keys": pd.Series(list(keys.values()), dtype="object"),
            "params": pd.Series([{"items": params[i]} for i in ids], dtype="object"),
        }
    )
    return frame, refused


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
        "scenario", "wine_ids", "product_keys", "params", "status",
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


def render(campaign: Campaign, tenant: Tenant, params: dict[str, Any]) -> str:
    """The HTML of one message."""
    text = campaign.text.get(tenant.locale)
    paragraphs = text.split("\n\n") if text else [rendering.texts(tenant.locale)["email"]["intro"]]
    template = rendering.environment(tenant.locale).get_template(EMAIL_TEMPLATE)
    return template.render(
        subject=campaign.subject[tenant.locale],
        paragraphs=[" ".join(paragraph.split()) for paragraph in paragraphs if paragraph.strip()],
        items=params["items"],
        estate=estate_of(campaign, tenant),
        french=rendering.texts("fr")["legal"],
    )


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
        tag = f"{tenant.slug}-{campaign.name}-{occurrence}-{FIRST_STEP}-{short_hash(*ids, length=12)}"
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
