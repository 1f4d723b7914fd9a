"""What is known of one customer, read from a tenant's database for `logic/why.py`. Shared by `crm why` and by the job
`explain_customer`; runs without Dagster and without the lock of a run, and writes nothing.

A customer is asked for by any of its client codes, or by its customer_id.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd

from crm_assets import activation as planning
from crm_assets import databases, gating
from crm_assets.campaigns import Campaign, CampaignFiles
from crm_assets.logic import activation, audit
from crm_assets.logic import why as logic
from crm_assets.logic.why import CampaignState, Known
from crm_assets.resources.warehouse import Warehouse
from crm_assets.run_context import GATE_IN_FORCE
from crm_assets.settings import Settings
from crm_assets.tenants import Registry, Tenant

Row = dict[str, Any]
# How many codes like the one that nobody has are named, and how like they must be.
_SUGGESTIONS, _LIKENESS = 3, 75
_LIKE_A_CODE = re.compile(r"(?=.*\d)[\w./-]{1,30}")


class UnknownError(Exception):
    """There is nobody, or no run, to tell of; the message says what to do."""


def of_customer(config: Settings, slug: str, code: str, run_id: str | None = None) -> logic.Answer:
    """Why the customer of an estate gets a message, or none; by default in the run of the gate in force."""
    tenant = Registry(config.tenants).get(slug)
    warehouse = Warehouse(databases.ensure_tenant(databases.cluster(config), slug), application_name="crm-why")
    return logic.answer(known_of(warehouse, tenant, config.tenants, code, run_id))


def known_of(warehouse: Warehouse, tenant: Tenant, tenants_folder: Path, code: str, run_id: str | None = None) -> Known:
    """All that is known of a customer for one run. UnknownError: no such code, or no such run."""
    # The run first: an estate that has none has no tables to look a code up in.
    run, decision = _run(warehouse, tenant, run_id)
    asked, customer_id, matched_by = _resolved(warehouse, tenant, code)
    of_customer: Row = {"where": "customer_id = %s", "params": [customer_id]}
    of_both: Row = {"where": "run_id = %s and customer_id = %s", "params": [run["run_id"], customer_id]}
    facts = warehouse.read("audit", "customer_facts", None, **of_customer)
    if facts.empty:
        raise UnknownError(
            f"customer {asked} has landed since the last refresh: `./crm run --tenant {tenant.slug}`, then ask again"
        )
    customer = _first(facts) or {}
    codes = warehouse.read("curated", "customer_xref", ["client_code", "matched_by"], **of_customer)
    actions = warehouse.read("gate", "next_actions", None, **of_both)
    sample = warehouse.rows(
        "select count(*), count(*) filter (where customer_id = %s) from review.samples where run_id = %s",
        [customer_id, run["run_id"]],
    )
    files = CampaignFiles(tenants_folder, tenant)
    return Known(
        tenant=tenant,
        rules=tenant.business_rules,
        asked=asked,
        matched_by=matched_by,
        customer=customer,
        run=run,
        decision=decision,
        action=_first(actions),
        codes=codes.sort_values("client_code", kind="stable"),
        cards=_cards(warehouse, customer_id),
        sales=_sales(warehouse, customer_id),
        refused_rows=_refused(warehouse, codes["client_code"].tolist()),
        orders=_orders(warehouse, customer_id),
        profile=_profile(warehouse, customer_id),
        items=_items(warehouse, run["run_id"], customer_id),
        checks=_checks(warehouse, tenant, run, facts) if run["is_in_force"] else _no_checks(),
        findings=warehouse.read("audit", "findings", None, order_by='rule_no, product_key collate "C"', **of_both),
        is_sampled=sample[0][1] > 0,
        sample_size=sample[0][0],
        contacts=_contacts(warehouse, customer),
        events=_events(warehouse, customer),
        contact_code=_contact_code(warehouse, customer),
        tripped=_tripped(warehouse, run["run_id"]),
        campaigns=[
            _campaign_state(warehouse, customer, campaign, run["as_of"]) for campaign in files.campaigns.values()
        ],
        campaign_errors=files.errors,
    )


def _first(frame: pd.DataFrame) -> Row | None:
    rows = frame.to_dict("records")
    return {str(name): value for name, value in rows[0].items()} if rows else None


def _resolved(warehouse: Warehouse, tenant: Tenant, code: str) -> tuple[str, str, str]:
    """The code as it is written, the customer it belongs to, and how it came to belong to it."""
    if not code.strip():
        raise UnknownError("which customer? A client code is needed, in quotes where it begins with a zero: '00123'")
    found = warehouse.rows(
        "select client_code, customer_id, matched_by from curated.customer_xref"
        " where client_code = upper(trim(%(code)s))"
        " union all select customer_id, customer_id, 'code' from curated.dim_customers"
        " where customer_id = trim(%(code)s) limit 1",
        {"code": code},
    )
    if found:
        return found[0]
    # Somebody may have typed a name or an address, which no log should repeat: a code has a digit.
    shown = f"the code {code.strip()!r}" if _LIKE_A_CODE.fullmatch(code.strip()) else "that code"
    refused = warehouse.rows(
        "select dataset, count(*) from curated.quarantined_rows"
        " where upper(trim(row ->> 'client_code')) = upper(trim(%s)) and resolved_by is null group by 1 order by 1",
        [code],
    )
    if refused:
        rows = ", ".join(f"{count} of {dataset}" for dataset, count in refused)
        raise UnknownError(
            f"no customer of {tenant.slug} has {shown}, but refused rows do ({rows}):"
            f" `./crm quarantine --tenant {tenant.slug} --to FILE.xlsx` hands them back to be mended"
        )
    from rapidfuzz import process

    known = [row[0] for row in warehouse.rows("select client_code from curated.customer_xref order by 1")]
    near = process.extract(code.strip().upper(), known, limit=_SUGGESTIONS, score_cutoff=_LIKENESS)
    like = f" Codes like it: {', '.join(name for name, _, _ in near)}." if near else ""
    raise UnknownError(
        f"no customer of {tenant.slug} has {shown}: no export that landed has it. Codes are texts, leading"
        f" zeros count.{like} Drop an export that has the customer, or `./crm status --tenant {tenant.slug}` for files"
        " that were refused"
    )


def _run(warehouse: Warehouse, tenant: Tenant, run_id: str | None) -> tuple[Row, Row]:
    """The run and its row of gate.decisions."""
    which = "where run_id = %s" if run_id else GATE_IN_FORCE
    decision = _first(warehouse.query(f"select * from gate.decisions {which}", [run_id] if run_id else None))
    if decision is None:
        raise UnknownError(
            f"no run {run_id!r} of {tenant.slug} has reached the gate: gate.decisions lists them"
            if run_id
            else f"{tenant.slug} has no run yet: `./crm run --tenant {tenant.slug}` makes one"
        )
    in_force = warehouse.rows("select run_id from gate.decisions" + GATE_IN_FORCE)
    names = ("run_id", "as_of", "rules_version", "is_historical")
    run = {name: decision[name] for name in names}
    return {**run, "is_in_force": in_force == [(run["run_id"],)]}, decision


def _tripped(warehouse: Warehouse, run_id: str) -> list[str]:
    found = warehouse.rows(
        "select check_code from audit.data_quality where run_id = %s and severity = 'ERROR' and score = 0 order by 1",
        [run_id],
    )
    return [code for (code,) in found]


# A content may lie under two names; the one that was loaded is where its rows are said to come from.
_PATH = (
    "left join lateral (select path from raw.files where raw.files.file_id = {table}.file_id"
    " order by status <> 'loaded', path collate \"C\" limit 1) as files on true"
)


def _cards(warehouse: Warehouse, customer_id: str) -> pd.DataFrame:
    return warehouse.query(
        "select files.path, cards.source_line, cards.client_code, cards.file_date from staging.stg_customers as cards "
        + _PATH.format(table="cards")
        + " where cards.customer_id = %s"
        + ' order by cards.file_rank desc, cards.source_line, cards.client_code collate "C"',
        [customer_id],
    )


def _sales(warehouse: Warehouse, customer_id: str) -> pd.DataFrame:
    return warehouse.query(
        "select files.path, lines.* from (select source_line, file_id, sale_date, document_no, document_type,"
        " product_key, quantity, amount_ht, is_counted from curated.fct_sales_lines where customer_id = %s) as lines "
        + _PATH.format(table="lines")
        + ' order by lines.sale_date desc, files.path collate "C", lines.source_line desc',
        [customer_id],
    )


def _refused(warehouse: Warehouse, codes: list[str]) -> pd.DataFrame:
    return warehouse.query(
        "select files.path || ':' || refused.source_line as place, refused.codes, refused.resolved_by"
        " from curated.quarantined_rows as refused "
        + _PATH.format(table="refused")
        + " where upper(trim(refused.row ->> 'client_code')) = any(%s) order by 1",
        [codes],
    )


def _orders(warehouse: Warehouse, customer_id: str) -> pd.DataFrame:
    columns = ["order_date", "document_no", "document_type", "lines", "amount_ht", "is_qualifying", "is_credit_note"]
    return warehouse.read(
        "curated", "fct_orders", columns, "customer_id = %s", [customer_id], 'order_date desc, order_id collate "C"'
    )


def _profile(warehouse: Warehouse, customer_id: str) -> Row:
    """Segment, cluster, prediction and state, by the names under which they are shown."""
    found = warehouse.query(
        "select rfm.segment, rfm.rfm_code, rfm.recency_days, rfm.frequency, rfm.monetary, clusters.cluster_id,"
        " clusters.cluster_name, predictions.probability_90d, predictions.expected_value_365d, predictions.p_active,"
        " predictions.is_churning, predictions.lead_score, predictions.method as prediction_method,"
        " rfm.profiling_objected from (select %s::text as customer_id) as asked"
        " left join rfm.customer_rfm as rfm on rfm.customer_id = asked.customer_id"
        " left join customers.clusters as clusters on clusters.customer_id = asked.customer_id"
        " left join customers.predictions as predictions on predictions.customer_id = asked.customer_id",
        [customer_id],
    )
    return _first(found) or {}


def _items(warehouse: Warehouse, run_id: str, customer_id: str) -> pd.DataFrame:
    """What the engine proposed, with the rank that is left after review and the decision that holds on each."""
    proposed = warehouse.query(
        "select items.rank, items.scenario, items.product_key, items.wine_id, items.score, items.probability,"
        " items.confidence, items.explain_short, applied.decision, applied.decided_at, applied.decided_run_id"
        " from recommendations.items as items left join review.applied_decisions as applied"
        " using (run_id, customer_id, wine_id, scenario)"
        " where items.run_id = %s and items.customer_id = %s order by items.rank",
        [run_id, customer_id],
    )
    listed = gating.listed_items(warehouse, run_id, ["wine_id", "rank"], customer_id).set_index("wine_id")["rank"]
    return proposed.assign(listed_rank=proposed["wine_id"].map(listed).astype("Int64"))


def _no_checks() -> pd.DataFrame:
    return pd.DataFrame(columns=audit.EXPLAIN_COLUMNS)


def _checks(warehouse: Warehouse, tenant: Tenant, run: Row, facts: pd.DataFrame) -> pd.DataFrame:
    """Every permission reason and every audit rule with what it sees in the present data."""
    customer_id = facts["customer_id"].iloc[0]
    items = gating.listed_items(warehouse, run["run_id"], audit.ITEM_COLUMNS, customer_id)
    return audit.explain(
        items,
        facts[audit.FACT_COLUMNS],
        warehouse.read(
            "curated", "dim_products", audit.PRODUCT_COLUMNS, "product_key = any(%s)", [items["product_key"].tolist()]
        ),
        warehouse.read(
            "rfm", "customer_wines", ["customer_id", "wine_id", "last_date"], "customer_id = %s", [customer_id]
        ),
        gating.sent_wines(warehouse, customer_id),
        tenant,
        tenant.business_rules,
        pd.Timestamp(run["as_of"]).date(),
    )


def _contacts(warehouse: Warehouse, customer: Row) -> pd.DataFrame:
    return warehouse.query(
        "select events.contact_date, events.channel, events.status, events.campaign_id,"
        " files.path || ':' || events.source_line as place from (select * from curated.contact_events"
        " where customer_id = %s or address = %s) as events "
        + _PATH.format(table="events")
        + ' order by events.contact_date desc, events.contact_id collate "C"',
        [customer["customer_id"], _address(customer)],
    )


def _events(warehouse: Warehouse, customer: Row) -> pd.DataFrame:
    columns = ["occurred_at", "event", "campaign", "channel"]
    return warehouse.read(
        "outcomes", "events", columns, "address = %s", [_address(customer)], 'occurred_at desc, event_key collate "C"'
    )


def _address(customer: Row) -> str | None:
    email = customer.get("email")
    return None if email is None or pd.isna(email) else str(email)


def _contact_code(warehouse: Warehouse, customer: Row) -> str | None:
    """The code of another customer who is the contact of this one's address."""
    found = warehouse.rows(
        "select people.client_code from curated.addresses as addresses"
        " join curated.dim_customers as people on people.customer_id = addresses.contact_customer_id"
        " where addresses.address = %s and people.customer_id <> %s",
        [_address(customer), customer["customer_id"]],
    )
    return found[0][0] if found else None


def _campaign_state(warehouse: Warehouse, customer: Row, campaign: Campaign, as_of: Any) -> CampaignState:
    """The newest plan of a campaign, this customer's message in it, and whoever has that of the same address."""
    plan = _first(
        warehouse.query(
            "select campaign, occurrence, step, run_id, as_of, expires_on from activation.campaigns where campaign = %s"
            ' order by planned_at desc, occurrence collate "C" desc limit 1',
            [campaign.name],
        )
    )
    paused = warehouse.rows(
        "select reason from activation.pauses where resumed_at is null and campaign in ('*', %s) limit 1",
        [campaign.name],
    )
    message, contact_code = None, None
    if plan is not None:
        found = warehouse.query(
            "select messages.customer_id, messages.status, messages.scenario, messages.sent_at, messages.product_keys,"
            " batches.batch_no, people.client_code from activation.messages as messages"
            " left join activation.batches as batches using (batch_id)"
            " left join curated.dim_customers as people on people.customer_id = messages.customer_id"
            " where messages.campaign = %s and messages.occurrence = %s and messages.step = %s"
            " and (messages.customer_id = %s or messages.address = %s)",
            [plan["campaign"], plan["occurrence"], int(plan["step"]), customer["customer_id"], _address(customer)],
        )
        own = found["customer_id"] == customer["customer_id"]
        message, other = _first(found[own]), _first(found[~own])
        contact_code = other["client_code"] if other else None
    return CampaignState(
        campaign,
        plan,
        message,
        contact_code,
        paused[0][0] if paused else None,
        _purchase_misses(warehouse, customer["customer_id"], campaign, as_of),
        _barred_from_channel(warehouse, customer["customer_id"], campaign),
    )


def _purchase_misses(warehouse: Warehouse, customer_id: str, campaign: Campaign, as_of: Any) -> list[str]:
    """`bought`, `not_bought`: those of the two that the customer does not meet."""
    wanted = {
        name: (purchase, should)
        for name, purchase, should in (
            ("bought", campaign.audience.bought, True),
            ("not_bought", campaign.audience.not_bought, False),
        )
        if purchase is not None
    }
    if not wanted:
        return []
    columns = ["customer_id", "wine_id", "sale_date"]
    purchases = warehouse.read("rfm", "purchases", columns, "customer_id = %s", [customer_id])
    products = warehouse.read("curated", "dim_products", ["wine_id", "product_key", "family"])
    person, day = pd.DataFrame({"customer_id": [customer_id]}), pd.Timestamp(as_of).date()
    return [
        name
        for name, (purchase, should) in wanted.items()
        if activation.purchase_filter(person, purchase, purchases, products, day)[0] != should
    ]


def _barred_from_channel(warehouse: Warehouse, customer_id: str, campaign: Campaign) -> str | None:
    """Why the customer cannot be called or written a letter; None for a campaign by e-mail."""
    if campaign.channel == activation.EMAIL:
        return None
    cards = planning.cards_of_channel(warehouse, campaign)
    barred = activation.barred_from_channel(campaign, cards)[cards["customer_id"] == customer_id].dropna()
    return str(barred.iloc[0]) if len(barred) else None
