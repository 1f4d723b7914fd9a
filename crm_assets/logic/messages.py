"""What a message says, and its HTML (spec.md §7): pieces of each product, items in order, sender, estate, rendering.

No SQL, no network, no clock; who gets a message is decided in `logic/activation.py`.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any
from urllib.parse import quote, urlsplit

import pandas as pd

from crm_assets import rendering
from crm_assets.campaigns import BREVO_TEMPLATE, NEWS, OWN_TEMPLATES, WELCOME, Campaign
from crm_assets.rules import BusinessRules
from crm_assets.tenants import Tenant

EMAIL_TEMPLATE = "email.html.j2"
TEXT_TEMPLATE = "email.txt.j2"
# Our own templates, by kind: a scenario's differ in their wording alone.
TEMPLATES = {
    **dict.fromkeys(OWN_TEMPLATES, EMAIL_TEMPLATE),
    WELCOME: "email_welcome.html.j2",
    NEWS: "email_news.html.j2",
}
KINDS = tuple(TEMPLATES)
SCENARIOS = tuple(kind for kind in KINDS if kind not in (WELCOME, NEWS))
# How to order, by (reply address, phone), as `email.order` of the texts words it.
_WAYS = {(True, True): "both", (True, False): "reply", (False, True): "phone", (False, False): None}
_PREHEADER_ITEMS, _PREHEADER_CHARACTERS = 3, 110
# fmt: off
PRODUCT_COLUMNS = [
    "product_key", "wine_id", "kind", "label", "vintage", "format_cl", "price_ttc", "is_price_estimated",
    "sold_by", "url", "image_url",
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
    }


def web_address(value: Any, *schemes: str) -> str | None:
    """The address of a page as a link may hold it; None where it is none, or of another scheme (http, https)."""
    text = str(value).strip() if _present(value) else ""
    if not text or any(char.isspace() or not char.isprintable() for char in text) or text != rendering.harmless(text):
        return None
    try:
        parts = urlsplit(text)
        _ = parts.port  # that it is no number is only found when it is asked for
        host = parts.netloc.encode("idna").decode()
    except ValueError:
        return None
    if parts.scheme not in (schemes or ("https", "http")) or not parts.hostname or parts.username is not None:
        return None
    # Braces, brackets and quotes are no part of an address; what is encoded stays as it is.
    return quote(parts._replace(netloc=host).geturl(), safe="%/:?#@!$&()*+,;=~-._'")


def siren_as_written(siren: str) -> str:
    """123 456 789."""
    return "\u00a0".join(siren[at : at + 3] for at in range(0, len(siren), 3))


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
    none: nobody has set it. A product whose sold_by is unknown is sold one by one. A link
    that is no address of a page is none; a picture is fetched by https or not at all.
    """
    words = rendering.texts(locale)["email"]
    dated = set(products.loc[products["vintage"].notna(), "wine_id"])
    pieces: dict[str, dict[str, Any]] = {}
    lacking: dict[str, list[str]] = {}
    for row in products[PRODUCT_COLUMNS].itertuples(index=False):
        key, wine, kind, label, vintage, format_cl, price, is_estimated, sold_by, url, image_url = row
        link, picture = web_address(url), web_address(image_url, "https")
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
                "link": link is not None or can_order_by_message,
            }.items()
            if not is_there
        ]
        if missing:
            lacking[str(key)] = missing
            continue
        shown = {
            "unit": unit,
            "price": rendering.euros(float(price), locale),
            "url": link,
            **({"image_url": picture} if picture else {}),
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


def _paragraphs(text: str, locale: str) -> list[str]:
    return [rendering.spaced(paragraph, locale) for paragraph in re.split(r"\n[ \t]*\n", text) if paragraph.strip()]


def subject_of(campaign: Campaign, tenant: Tenant, arm: str | None = None, step: int = 1) -> str:
    """The subject line in the estate's language: one line, in which no header and no template syntax can be read."""
    return rendering.spaced(rendering.plain(campaign.says(step, arm).subject[tenant.locale]), tenant.locale)


def _preheader(items: Sequence[Mapping[str, Any]], paragraphs: Sequence[str]) -> str:
    """What an inbox shows beside the subject: the first wines by name, else how the text begins."""
    names = [f"{item['name']} {item['vintage']}" if "vintage" in item else item["name"] for item in items]
    shown = " · ".join(names[:_PREHEADER_ITEMS])
    return shown or textwrap.shorten(paragraphs[0], _PREHEADER_CHARACTERS, placeholder="…")


def _values(
    campaign: Campaign, tenant: Tenant, params: Mapping[str, Any], kind: str, arm: str | None, step: int
) -> dict[str, Any]:
    """What the template of a kind asks for (see email.html.j2)."""
    locale = tenant.locale
    words = rendering.texts(locale)["email"]
    wording = words["kinds"][kind]
    estate = estate_of(campaign, tenant)
    items = params["items"]
    subject = subject_of(campaign, tenant, arm, step)
    text = campaign.says(step, arm).text.get(locale)
    paragraphs = _paragraphs(text, locale) if text else wording.get("intro", [])
    leads = bool(items) and (bool(text) or kind in (WELCOME, NEWS))
    is_private = set(campaign.audience.types) <= {"private"}
    return {
        "subject": subject,
        "preheader": _preheader(items, paragraphs or [subject]),
        "heading": wording.get("heading", subject),
        "paragraphs": paragraphs,
        "lead": wording["lead"] if leads else None,
        "closing": words["closing"],
        "items": items,
        "estate": estate,
        "website": web_address(tenant.website),
        "site": tenant.website.removeprefix("https://").removeprefix("http://").strip("/"),
        "way": _WAYS[bool(estate["reply_to"]), bool(estate["phone"])],
        "phone_number": re.sub(r"\(0\)|[^+\d]", "", estate["phone"]),
        "why": words["why"]["private" if is_private else "professional"].format(name=tenant.name),
        "is_chosen": kind in SCENARIOS,
        "siren": siren_as_written(tenant.siren),
        "french": rendering.texts("fr")["legal"],
    }


def render(
    campaign: Campaign,
    tenant: Tenant,
    params: Mapping[str, Any],
    *,
    kind: str,
    arm: str | None = None,
    step: int = 1,
) -> str:
    """The HTML of one message. `kind`: one of KINDS, as `Campaign.template_of` names it."""
    template = rendering.message_environment(tenant.locale).get_template(TEMPLATES[kind])
    return template.render(_values(campaign, tenant, params, kind, arm, step))


def render_text(
    campaign: Campaign,
    tenant: Tenant,
    params: Mapping[str, Any],
    *,
    kind: str,
    arm: str | None = None,
    step: int = 1,
) -> str:
    """The same message as plain text (Brevo's textContent)."""
    template = rendering.message_environment(tenant.locale, is_html=False).get_template(TEXT_TEMPLATE)
    return template.render(_values(campaign, tenant, params, kind, arm, step))


def brevo_params(params: Mapping[str, Any], tenant: Tenant) -> dict[str, Any]:
    """What a template kept at Brevo is given as `params` for one message: `items`, each with texts ready to be shown:
    name, vintage, format, sentence, price (15,00 € TTC la bouteille), carton, sold_by, url, image_url.

    What an item has not (a gift box its vintage, a wine a link) is left out: Brevo renders it empty, and `{% if
    item.url %}` works. The estate's data and the notices of the law stand in the template itself.
    """
    words = rendering.texts(tenant.locale)["email"]
    items = []
    for item in params["items"]:
        unit = words["units"][item["unit"]]
        shown = {
            "name": item["name"],
            "sentence": item["sentence"],
            "price": unit["price"].format(price=item["price"]),
            **{name: item[name] for name in ("vintage", "format", "url", "image_url") if item.get(name)},
        }
        if item["unit"] != GIFT_BOX:
            multiple = item["sold_by"]
            shown["carton"] = words["per_carton"].format(price=item["price_carton"], bottles=item["carton_bottles"])
            shown["sold_by"] = unit["sold_by_one"] if multiple == 1 else unit["sold_by"].format(count=multiple)
        items.append({name: rendering.plain(text) for name, text in shown.items()})
    return {"items": items}


def template_hash_of(campaign: Campaign, tenant: Tenant, rules: BusinessRules, fetched: Mapping[int, str]) -> str:
    """First 16 hex over all that decides what the campaign's messages look like, whoever gets them: its texts and
    subjects, our templates and wording or the Brevo templates it names, the estate, how prices and cartons are worded.

    A test of one hash is no test of another. `fetched`: id of a Brevo template -> its content hash; KeyError when one
    that the campaign names is missing.
    """
    variants = [(step, arm, asdict(campaign.says(step, arm))) for step, arm in campaign.variants]
    named = [said["template"] or "" for _, _, said in variants]
    at_brevo = {name.removeprefix(BREVO_TEMPLATE) for name in named if name.startswith(BREVO_TEMPLATE)}
    ids = sorted({tenant.brevo.templates[name] for name in at_brevo})
    is_all_at_brevo = all(name.startswith(BREVO_TEMPLATE) for name in named)
    content = {
        "variants": variants,
        "types": sorted(campaign.audience.types),
        "estate": {**estate_of(campaign, tenant), "website": tenant.website, "locale": tenant.locale},
        "sender": sender_of(campaign, tenant),
        "own": None if is_all_at_brevo else _own_templates(tenant.locale),
        "brevo": [[number, fetched[number]] for number in ids],
        "cartons": [rules.activation.carton_bottles, rules.activation.unit_min_cl],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]


def _own_templates(locale: str) -> str:
    """Hash of our own templates and their wording."""
    return rendering.sources_hash(*sorted({*TEMPLATES.values(), TEXT_TEMPLATE}), *rendering.email_wording(locale))
