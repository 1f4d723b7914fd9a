"""A small estate in frames, right in every respect: each test breaks one thing and looks at what is found."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import pandas as pd

from crm_assets.tenants import Tenant

AS_OF = date(2025, 12, 31)


def ago(days: int) -> pd.Timestamp:
    """The day `days` before the as-of date."""
    return pd.Timestamp(AS_OF - timedelta(days=days))


def tenant(**changes: Any) -> Tenant:
    """An estate that may write to its customers in France."""
    settings: dict[str, Any] = {
        "slug": "demo",
        "name": "Domaine Demo",
        "legal_name": "EARL Domaine Demo",
        "address": "12 rue des Vignerons, 68420 Husseren",
        "siren": "123456789",
        "existing_customer_basis": True,
        "review": "auto",
        "phone": "+33 3 89 00 00 00",
        "brevo": {"sender_email": "cave@demo.example.com", "reply_to": "cave@demo.example.com"},
    }
    return Tenant.model_validate({**settings, **changes})


def customer(customer_id: str = "c1", **changes: Any) -> dict[str, Any]:
    """A row of audit.customer_facts: a private customer who may be written to."""
    row: dict[str, Any] = {
        "customer_id": customer_id,
        "client_code": f"CODE-{customer_id}",
        "population": "private",
        "type": "private",
        "status": "active",
        "is_collective": False,
        "opt_in": False,
        "opt_in_date": None,
        "opt_in_source": None,
        "n_qualifying_orders": 3,
        "email": f"{customer_id}@example.com",
        "email_status": "valid",
        "is_email_contact": True,
        "is_refused": False,
        "is_bounced": False,
        "last_contact_date": None,
        "contacts_90d": 0,
        "last_order_date": ago(100),
        "last_engagement_date": None,
        "birth_date": None,
        "country": "FR",
        "postal_code": "68000",
        "language": None,
        "price_75cl_ttc": 10.0,
        "dominant_sweetness": "sec",
    }
    return {**row, **changes}


_DATES = ["opt_in_date", "last_contact_date", "last_order_date", "last_engagement_date", "birth_date"]
_TEXTS = ["opt_in_source", "country", "postal_code", "language", "dominant_sweetness", "email", "status", "type"]
_FLAGS = ["is_collective", "opt_in", "is_email_contact", "is_refused", "is_bounced"]


def facts(*rows: dict[str, Any]) -> pd.DataFrame:
    """Rows of audit.customer_facts with the types that the warehouse reads them with."""
    frame = pd.DataFrame(list(rows) or [customer()])
    for name in _DATES:
        frame[name] = pd.to_datetime(frame[name]).astype("datetime64[s]")
    for name in _TEXTS:
        frame[name] = frame[name].astype("str").where(frame[name].notna())
    for name in _FLAGS:
        frame[name] = frame[name].astype("boolean")
    return frame


def product(product_key: str = "p1", **changes: Any) -> dict[str, Any]:
    """A row of curated.dim_products: a wine in stock; its wine_id is `w` and the key's number."""
    row: dict[str, Any] = {
        "product_key": product_key,
        "wine_id": f"w{product_key[1:]}",
        "kind": "wine",
        "label": f"Riesling {product_key} 2022",
        "vintage": "2022",
        "format_cl": 75.0,
        "family": f"family {product_key}",
        "sweetness": "sec",
        "price_ttc": 15.0,
        "price_75cl_ttc": 15.0,
        "is_price_estimated": False,
        "stock_status": "in",
        "sold_by": 1,
        "url": None,
        "image_url": None,
        "is_active": True,
        "is_archived": False,
        "is_inferred": False,
    }
    return {**row, **changes}


def products(*rows: dict[str, Any]) -> pd.DataFrame:
    """Rows of curated.dim_products; p1 to p9 when none is given."""
    return pd.DataFrame(list(rows) or [product(f"p{n}") for n in range(1, 10)])


def item(customer_id: str = "c1", product_key: str = "p1", rank: int = 1, **changes: Any) -> dict[str, Any]:
    """A row of recommendations.items."""
    row: dict[str, Any] = {
        "run_id": "run",
        "customer_id": customer_id,
        "wine_id": f"w{product_key[1:]}",
        "product_key": product_key,
        "scenario": "rebuy",
        "rank": rank,
        "score": 80.0,
        "confidence": 0.8,
        "explain_short": "Riesling, déjà apprécié",
        "customer_sentence": "Un riesling droit et salin.",
    }
    return {**row, **changes}


def items(*rows: dict[str, Any]) -> pd.DataFrame:
    """Rows of recommendations.items; one for c1 when none is given."""
    return pd.DataFrame(list(rows) or [item()])


def no_items() -> pd.DataFrame:
    """An empty list, with its columns."""
    return items().iloc[:0]


def bought(*rows: tuple[str, str, int]) -> pd.DataFrame:
    """Rows of rfm.customer_wines from (customer, wine, days ago)."""
    return pd.DataFrame(
        {
            "customer_id": pd.Series([customer for customer, _, _ in rows], dtype="str"),
            "wine_id": pd.Series([wine for _, wine, _ in rows], dtype="str"),
            "last_date": pd.Series([ago(days) for _, _, days in rows], dtype="datetime64[s]"),
        }
    )


def sent(*rows: tuple[str, str, int]) -> pd.DataFrame:
    """Wines of really sent messages from (customer, wine, days ago)."""
    return bought(*rows).rename(columns={"last_date": "sent_date"})
