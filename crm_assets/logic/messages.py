"""What a message says, and its HTML (spec.md §7): pieces of each product, items in order, sender, estate, rendering.

No SQL, no network, no clock; who gets a message is decided in `logic/activation.py`.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from typing import Any

import pandas as pd

from crm_assets import rendering
from crm_assets.campaigns import Campaign
from crm_assets.rules import BusinessRules
from crm_assets.tenants import Tenant

EMAIL_TEMPLATE = "email.html.j2"
SCENARIOS = ("rebuy", "cross_sell", "upsell", "winback", "nurture")
WELCOME, NEWS = "welcome", "news"
# Our own templates: one per scenario, a welcome, and news, which invites to an event too.
KINDS = (*SCENARIOS, WELCOME, NEWS)
# fmt: off
PRODUCT_COLUMNS = [
    "product_key", "wine_id", "kind", "label", "vintage", "format_cl", "price_ttc", "is_price_estimated",
    "sold_by", "url",
]
# fmt: on
ITEM_COLUMNS = ["customer_id", "wine_id", "product_key", "rank", "customer_sentence"]
# How a product is sold, as `email.units` of the texts words it.
BOTTLE, UNIT, GIFT_BOX = "bottle", "unit", "gift_box"


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


def kind_of(campaign: Campaign, scenario: str) -> str:
    """The kind of our own template that a message of that scenario is made with (one of KINDS)."""
    return scenario if campaign.kind == "reco" and scenario in SCENARIOS else NEWS


def subject_of(campaign: Campaign, tenant: Tenant, arm: str | None = None, step: int = 1) -> str:
    """The subject line: one line, nothing that could be read as a header or as template syntax."""
    return " ".join(campaign.subject[tenant.locale].split())


def render(
    campaign: Campaign,
    tenant: Tenant,
    params: Mapping[str, Any],
    *,
    kind: str | None = None,
    arm: str | None = None,
    step: int = 1,
) -> str:
    """The HTML of one message. `kind`: one of KINDS, from `kind_of`."""
    text = campaign.text.get(tenant.locale)
    paragraphs = text.split("\n\n") if text else [rendering.texts(tenant.locale)["email"]["intro"]]
    template = rendering.environment(tenant.locale).get_template(EMAIL_TEMPLATE)
    return template.render(
        subject=subject_of(campaign, tenant, arm, step),
        paragraphs=[" ".join(paragraph.split()) for paragraph in paragraphs if paragraph.strip()],
        items=params["items"],
        estate=estate_of(campaign, tenant),
        french=rendering.texts("fr")["legal"],
    )


def brevo_params(params: Mapping[str, Any], tenant: Tenant) -> dict[str, Any]:
    """What a template kept at Brevo is given as `params`: the items of one message, as plain texts."""
    return {"items": [dict(item) for item in params["items"]]}


def template_hash_of(campaign: Campaign, tenant: Tenant, rules: BusinessRules, fetched: Mapping[int, str]) -> str:
    """First 16 hex over every template and wording that the campaign's arms, steps and scenarios can use.

    `fetched`: id of a Brevo template -> its content hash (`brevo_templates.FetchedTemplate.content_hash`).
    """
    digest = hashlib.sha256(rendering.template_hash(EMAIL_TEMPLATE, tenant.locale).encode())
    for template_id in sorted(fetched):
        digest.update(f"\n{template_id}:{fetched[template_id]}".encode())
    return digest.hexdigest()[:16]
