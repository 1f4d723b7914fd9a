"""A gated estate for measuring and testing sends: customers, a catalogue, two wines for everybody, an open gate.

Only what planning and sending read is there, made from frames in a second instead of by a pipeline in minutes. What
is planned and sent on it is the product's own code.
"""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Any

import pandas as pd

from crm_assets import tables
from crm_assets.logic import audit, gate
from crm_assets.resources.warehouse import Warehouse
from crm_assets.tenants import Tenant

RUN_ID = "run"
SENDER = "cave@demo.example.com"

TEMPLATE_ID = 7
TEMPLATE = """<!DOCTYPE html><html><body><p>Bonjour,</p>
{% for item in params.items %}
<h2>{{ item.name }}</h2><p>{{ item.vintage }} {{ item.format }}</p><p>{{ item.sentence }}</p>
{% if item.image_url %}<img src="{{ item.image_url }}" alt="{{ item.name }}">{% endif %}
<p>{{ item.price }}<br>{{ item.carton }}<br>{{ item.sold_by }}</p>
{% if item.url %}<a href="{{ item.url }}">Voir</a>{% endif %}
{% endfor %}
<p>Pour commander : <a href="tel:+33389000000">+33 3 89 00 00 00</a></p>
<p>L'abus d'alcool est dangereux pour la santé, à consommer avec modération. Vente interdite aux mineurs.</p>
<p>Vous recevez cet e-mail parce que vous êtes client. <a href="{{ unsubscribe }}">Se désinscrire</a></p>
<p>EARL Domaine Demo<br>12 rue des Vignerons<br>68420 Husseren<br>SIREN 123456789</p>
</body></html>"""

# What dbt builds, with the columns that planning, sending and the audit read.
DBT_TABLES = """
create table audit.customer_facts (
    customer_id text, client_code text, population text, type text, status text, is_collective boolean,
    opt_in boolean, opt_in_date date, opt_in_source text, n_qualifying_orders bigint, email text,
    email_status text, is_email_contact boolean, is_refused boolean, is_bounced boolean,
    last_contact_date date, contacts_90d bigint, last_order_date date, last_engagement_date date,
    birth_date date, country text, postal_code text, language text,
    price_75cl_ttc numeric, dominant_sweetness text);
create table curated.dim_products (
    product_key text, wine_id text, kind text, label text, vintage integer, format_cl numeric, family text,
    sweetness text, price_ttc numeric, price_75cl_ttc numeric, is_price_estimated boolean, stock_status text,
    sold_by integer, url text, image_url text, available numeric, stock_date date, is_active boolean,
    is_archived boolean, is_inferred boolean);
create table curated.dim_customers (customer_id text, profiling_objected boolean);
create table rfm.customer_rfm (customer_id text, segment text);
create table rfm.customer_wines (customer_id text, wine_id text, last_date date);
create table if not exists staging.address_refusals (address text, refused_on date, opted_in_on date,
    is_refused_at_brevo boolean, is_refused boolean);
"""


def tenant(**changes: Any) -> Tenant:
    """An estate that may write to its customers, and may send live."""
    settings: dict[str, Any] = {
        "slug": "demo",
        "name": "Domaine Demo",
        "legal_name": "EARL Domaine Demo",
        "address": "12 rue des Vignerons, 68420 Husseren",
        "siren": "123456789",
        "existing_customer_basis": True,
        "review": "auto",
        "phone": "+33 3 89 00 00 00",
        "brevo": {"live": True, "sender_email": SENDER, "reply_to": SENDER, "templates": {"selection": TEMPLATE_ID}},
    }
    return Tenant.model_validate({**settings, **changes})


def customers(count: int, as_of: date) -> pd.DataFrame:
    """Rows of audit.customer_facts and the columns that planning reads beside them: c00001 …, all to be written to."""
    ids = [f"c{number:05d}" for number in range(1, count + 1)]
    row = {
        **{"population": "private", "type": "private", "status": "active", "is_collective": False, "opt_in": False},
        **{"n_qualifying_orders": 3, "email_status": "valid", "is_email_contact": True, "is_refused": False},
        **{"is_bounced": False, "contacts_90d": 0, "last_order_date": pd.Timestamp(as_of - timedelta(days=100))},
        **{"country": "FR", "postal_code": "68000", "price_75cl_ttc": 10.0, "dominant_sweetness": "sec"},
    }
    frame = pd.DataFrame({"customer_id": ids, "client_code": ids, "email": [f"{i}@example.com" for i in ids], **row})
    for name in ("opt_in_date", "last_contact_date", "last_engagement_date", "birth_date"):
        frame[name] = pd.Series(pd.NaT, index=frame.index, dtype="datetime64[s]")
    for name in ("opt_in_source", "language"):
        frame[name] = pd.Series(None, index=frame.index, dtype="str")
    return frame


def catalogue(count: int = 9) -> pd.DataFrame:
    """Rows of curated.dim_products: p1 … in stock, each a wine of its own."""
    numbers = range(1, count + 1)
    row = {
        **{"kind": "wine", "vintage": 2022, "format_cl": 75.0, "sweetness": "sec", "price_ttc": 15.0},
        **{
            "price_75cl_ttc": 15.0,
            "is_price_estimated": False,
            "stock_status": "in",
            "sold_by": 1,
            "url": None,
            "image_url": None,
        },
        **{"is_active": True, "is_archived": False, "is_inferred": False},
    }
    return pd.DataFrame(
        {
            "product_key": [f"p{n}" for n in numbers],
            "wine_id": [f"w{n}" for n in numbers],
            "label": [f"Riesling {n}" for n in numbers],
            "family": [f"family {n}" for n in numbers],
            **row,
        }
    )


def listed(people: pd.DataFrame) -> pd.DataFrame:
    """Rows of recommendations.items: p1 and p2 for everybody."""
    first = people[["customer_id"]].assign(rank=1, product_key="p1", wine_id="w1")
    second = people[["customer_id"]].assign(rank=2, product_key="p2", wine_id="w2")
    made = pd.concat([first, second]).sort_values(["customer_id", "rank"], ignore_index=True)
    components = dict.fromkeys(["collaborative", "content", "popularity", "rhythm", "margin", "season"], 0.5)
    said = {"explain_short": "Riesling, déjà apprécié", "customer_sentence": "Un riesling droit et salin."}
    return made.assign(
        scenario="rebuy", score=80.0, confidence=0.8, probability=0.1, reasons="{}", **said, **components
    )


def insert(warehouse: Warehouse, table: str, frame: pd.DataFrame) -> None:
    """Rows of a frame into a table that Python does not own."""
    names = ", ".join(frame.columns)
    rows = frame.astype("object").where(frame.notna(), None)
    with warehouse.transaction() as connection:
        with connection.cursor().copy(f"copy {table} ({names}) from stdin".encode()) as copy:
            for row in rows.itertuples(index=False):
                copy.write_row(row)
        connection.execute(f"analyze {table}".encode())


def decide(warehouse: Warehouse, tenant: Tenant, people: pd.DataFrame, run_id: str, as_of: date, now: datetime) -> None:
    """Audit and gate of a run that proposes two wines to everybody, as the assets decide them."""
    rules = tenant.business_rules
    items = listed(people)
    bought = pd.DataFrame({"customer_id": pd.Series(dtype="str"), "wine_id": pd.Series(dtype="str")})
    nothing = bought.assign(last_date=pd.Series(dtype="datetime64[s]"), sent_date=pd.Series(dtype="datetime64[s]"))
    found = audit.audit(items, people, catalogue(), nothing, nothing, tenant, rules, as_of)
    nobody = pd.Series(dtype="object")
    actions = gate.next_actions(people, found.permissions, found.scores, items, nobody, rules)
    open_breaker = audit.Breaker(100.0, False, ())
    decision = gate.decide(actions, found.scores, open_breaker, 0, False, as_of, now, rules)
    for table, frame in (
        (tables.items, items.assign(rules_version=rules.version)),
        (tables.findings, found.findings),
        (tables.scores, found.scores),
        (tables.next_actions, actions),
        (tables.decisions, decision),
    ):
        warehouse.replace_run(table, frame.assign(run_id=run_id), run_id)


def build(warehouse: Warehouse, tenant: Tenant, count: int, as_of: date, now: datetime) -> pd.DataFrame:
    """Make the estate in an empty tenant database; its customers."""
    warehouse.execute(DBT_TABLES)
    people = customers(count, as_of)
    insert(warehouse, "audit.customer_facts", people)
    insert(warehouse, "curated.dim_products", catalogue())
    insert(warehouse, "rfm.customer_rfm", people[["customer_id"]].assign(segment="Champions"))
    insert(warehouse, "curated.dim_customers", people[["customer_id"]].assign(profiling_objected=False))
    decide(warehouse, tenant, people, RUN_ID, as_of, now)
    return people


def accept_test(warehouse: Warehouse, campaign: str, now: datetime) -> None:
    """A named person has accepted a test of the templates that the latest plan is made with."""
    warehouse.execute(
        "insert into activation.test_sends (test_id, campaign, template_hash, n_addresses, outcome, sent_at,"
        " accepted_by, accepted_at) select 'test', campaign, template_hash, 1, 'accepted', %(now)s, 'Anna', %(now)s"
        " from activation.campaigns where campaign = %(campaign)s order by planned_at desc limit 1"
        " on conflict do nothing",
        {"campaign": campaign, "now": now},
    )
