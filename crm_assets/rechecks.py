"""Whether planned messages may still leave, on the data of this moment (spec.md §6, §7): asked inside the transaction
that freezes them into a call.

Between plan and send people unsubscribe, bounce, buy, object, are written to by others, and wines run out. Only the
customers of the messages in hand are read. Permission and rules are the audit's own (`logic/audit.py`); here it is
handed facts that include what has come in since the last refresh. Nothing is written here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

import numpy as np
import pandas as pd
import psycopg

from crm_assets import feedback
from crm_assets.campaigns import Campaign
from crm_assets.gating import SENT_STATES
from crm_assets.logic import activation, audit, outbox
from crm_assets.logic.activation import RefusalError
from crm_assets.logic.events import TEST
from crm_assets.logic.gate import NO_ELIGIBLE_CUSTOMER, REVIEW_REJECTED
from crm_assets.logic.recommendations import stock_capacity
from crm_assets.resources.warehouse import Warehouse
from crm_assets.run_context import GATE_IN_FORCE
from crm_assets.tenants import Tenant

# Why a message is superseded, beside the codes of permission, rules and review.
ADDRESS_CHANGED, OUT_OF_STOCK, STOPPED_BY_ORDER, STOPPED_BY_CLICK = (
    *("ADDRESS_CHANGED", "OUT_OF_STOCK", "STOPPED_BY_ORDER", "STOPPED_BY_CLICK"),
)
# What a re-check reads of a planned message.
COLUMNS = ["message_id", "address", "customer_id", "scenario", "wine_ids", "product_keys"]
_STOCK_COLUMNS = ["product_key", "available", "stock_date"]

# Messages that left, or may have, and messages of others: one row per address and day and campaign of a contact.
_CONTACTS = """
select address, (coalesce(sent_at, planned_at) at time zone 'UTC')::date as contact_date, campaign
from activation.messages
where address = any(%(addresses)s) and status = any(%(states)s) and not message_id = any(%(own)s)
union
select events.address, (events.occurred_at at time zone 'UTC')::date, coalesce(events.campaign, events.tag, '')
from outcomes.events as events
where
    events.address = any(%(addresses)s) and events.event in ('sent', 'delivered', 'deferred', 'soft_bounce')
    and events.occurrence is distinct from %(test)s
    and not exists (
        select 1 from activation.messages as messages
        where
            messages.address = events.address and messages.campaign = events.campaign
            and (messages.occurrence, messages.step)
            = (coalesce(events.occurrence, messages.occurrence), coalesce(events.step, messages.step))
            and messages.status = any(%(states)s)
    )
"""
# A message of this very step that Brevo says it has, whatever the ledger believes: a restored or a late one.
_FOUND_AT_BREVO = """
select address, min(occurred_at) from outcomes.events
where address = any(%s) and (campaign, occurrence, step) = (%s, %s, %s)
group by address
"""
_STEP_BEFORE = """
select messages.address, messages.sent_at, exists (
    select 1 from outcomes.events as events
    where
        events.address = messages.address and events.event = 'clicked' and not coalesce(events.is_machine, false)
        and (events.campaign, events.occurrence) = (messages.campaign, messages.occurrence)
) as clicked
from activation.messages as messages
where
    messages.address = any(%s) and (campaign, occurrence, step) = (%s, %s, %s) and messages.status = any(%s)
"""


class WithinTransaction(Warehouse):
    """A tenant's database as an open transaction sees it."""

    def __init__(self, connection: psycopg.Connection, schema_suffix: str = "") -> None:
        super().__init__("", schema_suffix=schema_suffix)
        self._connection = connection

    @contextmanager
    def transaction(self) -> Iterator[psycopg.Connection]:
        """The open transaction itself: whoever began it ends it, and turns its errors into WarehouseError."""
        yield self._connection


@dataclass(frozen=True)
class Verdict:
    """`held`: message_id -> why it must not leave. `at_brevo`: message_id -> since when Brevo has it already."""

    held: dict[str, str] = field(default_factory=dict)
    at_brevo: dict[str, datetime] = field(default_factory=dict)

    @property
    def stays(self) -> set[str]:
        """The messages that must not leave with the call in hand."""
        return {*self.held, *self.at_brevo}


class Recheck:
    """The re-check of one planned step. Reads through the connection it is given, nothing else."""

    def __init__(self, tenant: Tenant, campaign: Campaign, stored: dict[str, Any]) -> None:
        self.tenant, self.campaign = tenant, campaign
        self.rules = tenant.business_rules
        self.run_id: str = stored["run_id"]
        self.occurrence: str = stored["occurrence"]
        self.step = int(stored["step"])
        self._left: tuple[pd.DataFrame, pd.Series] | None = None  # stock as read, messages left by product

    def gates(self, connection: psycopg.Connection, as_of: date) -> None:
        """RefusalError unless the gate of the pinned run and the gate in force are open.

        Newer data may have been found unfit since: nothing is sent on them either. That nobody of a newer run is
        eligible yet, for want of a review, does not stale a plan (spec.md §6); each of its customers is checked again.
        """
        pinned = connection.execute(
            "select status, reasons from gate.decisions where run_id = %s", [self.run_id]
        ).fetchone()
        if pinned is None:
            raise RefusalError("NO_DECISION", f"run {self.run_id}, which the plan pins, has no decision of the gate")
        closed_for = set(pinned[1]) - activation.closures_that_do_not_count(self.campaign)
        if pinned[0] != "open" and (closed_for or not pinned[1]):
            raise RefusalError(
                "GATE_CLOSED", f"the gate of the pinned run {self.run_id} is closed: {', '.join(pinned[1])}"
            )
        newest = connection.execute(
            f"select run_id, as_of, status, reasons from gate.decisions{GATE_IN_FORCE}".encode()
        ).fetchone()
        gate = activation.Gate(newest[0], newest[1], newest[2], tuple(newest[3])) if newest else None
        activation.require_open(gate, as_of, self.rules, despite=frozenset({NO_ELIGIBLE_CUSTOMER}))

    def of(self, connection: psycopg.Connection, messages: pd.DataFrame, as_of: date) -> Verdict:
        """What must not leave of `messages` (COLUMNS), as of the tenant's day."""
        warehouse = WithinTransaction(connection)
        addresses, customers = messages["address"].tolist(), messages["customer_id"].tolist()
        facts = warehouse.read(
            "audit", "customer_facts", audit.FACT_COLUMNS, "customer_id = any(%s)", [customers]
        ).drop_duplicates("customer_id")
        at_brevo: dict[str, datetime] = dict(
            connection.execute(
                _FOUND_AT_BREVO.encode(), [addresses, self.campaign.name, self.occurrence, self.step]
            ).fetchall()
        )
        known = self._as_of_now(connection, facts, messages, as_of)
        items = _items(messages)
        result = audit.audit(
            items[items["customer_id"].isin(known["customer_id"])],
            known,
            warehouse.read(
                "curated", "dim_products", audit.PRODUCT_COLUMNS, "wine_id = any(%s)", [_names(items["wine_id"])]
            ),
            warehouse.read(
                "rfm",
                "customer_wines",
                ["customer_id", "wine_id", "last_date"],
                "customer_id = any(%s) and wine_id = any(%s)",
                [customers, _names(items["wine_id"])],
            ),
            self._sent_wines(warehouse, customers, messages["message_id"].tolist()),
            self.tenant,
            self.rules,
            as_of,
        )
        objected = warehouse.read(
            "curated", "dim_customers", ["customer_id"], "profiling_objected and customer_id = any(%s)", [customers]
        )
        held = self._stopped(connection, messages, facts) | self._without_stock(warehouse, messages)
        moved = messages.merge(facts[["customer_id", "email"]], on="customer_id")
        is_moved = moved["email"].notna() & (moved["email"].str.strip().str.lower() != moved["address"])
        held |= dict.fromkeys(moved.loc[is_moved, "message_id"], ADDRESS_CHANGED)
        held |= outbox.held_back(
            messages,
            result.permissions,
            result.findings,
            set(objected["customer_id"]),
            self._rejected_since(warehouse, messages),
            self.campaign,
        )
        there = {
            message: at_brevo[address]
            for message, address in zip(messages["message_id"], addresses, strict=True)
            if address in at_brevo
        }
        return Verdict({message: why for message, why in held.items() if message not in there}, there)

    def _as_of_now(
        self, connection: psycopg.Connection, facts: pd.DataFrame, messages: pd.DataFrame, as_of: date
    ) -> pd.DataFrame:
        """The facts of the last refresh, and what has come in since: refusals, bounces, contacts of the address."""
        people = facts.merge(messages[["customer_id", "address"]], on="customer_id", how="left")
        barred = people["address"].map(feedback.barred(connection, messages["address"].tolist()))
        people = people.assign(
            is_refused=people["is_refused"].fillna(False) | (barred == "OPT_OUT"),
            is_bounced=people["is_bounced"].fillna(False) | (barred == "BOUNCED"),
        )
        given = {
            "addresses": messages["address"].tolist(),
            "states": list(SENT_STATES),
            "own": messages["message_id"].tolist(),
            "test": TEST,
        }
        rows = connection.execute(_CONTACTS.encode(), given).fetchall()
        if not rows:
            return people
        contacts = pd.DataFrame(rows, columns=["address", "contact_date", "campaign"])
        contacts["contact_date"] = pd.to_datetime(contacts["contact_date"]).astype("datetime64[s]")
        newest = pd.to_datetime(people["address"].map(contacts.groupby("address")["contact_date"].max().to_dict()))
        last = pd.to_datetime(people["last_contact_date"])
        # A contact that the refresh has counted lies no later than the last one that it knows.
        seen = pd.to_datetime(contacts["address"].map(dict(zip(people["address"], last, strict=True))))
        recent = (pd.Timestamp(as_of) - contacts["contact_date"]).dt.days < self.rules.audit.fatigue_days
        unseen = contacts[recent & ~(contacts["contact_date"] <= seen)].groupby("address").size().to_dict()
        return people.assign(
            last_contact_date=last.where(last.notna() & ~(newest > last), newest),
            contacts_90d=people["contacts_90d"].fillna(0) + people["address"].map(unseen).fillna(0),
        )

    def _sent_wines(self, warehouse: Warehouse, customers: list[str], own: list[str]) -> pd.DataFrame:
        return warehouse.query(
            "select customer_id, unnest(wine_ids) as wine_id, coalesce(sent_at, planned_at)::date as sent_date"
            " from activation.messages where status = any(%s) and customer_id = any(%s) and not message_id = any(%s)",
            [list(SENT_STATES), customers, own],
        )

    def _rejected_since(self, warehouse: Warehouse, messages: pd.DataFrame) -> dict[str, str]:
        """customer_id -> why review has held a planned message back since: a wine of it was rejected, or put off."""
        if self.campaign.kind != "reco":
            return {}
        customers = messages["customer_id"].tolist()
        held = warehouse.rows(
            "select customer_id, reason from gate.next_actions"
            " where run_id = %s and starts_with(reason, 'REVIEW_') and customer_id = any(%s)",
            [self.run_id, customers],
        )
        rejected = warehouse.read(
            "review",
            "applied_decisions",
            ["customer_id", "wine_id"],
            "run_id = %s and decision = 'reject' and customer_id = any(%s)",
            [self.run_id, customers],
        )
        shown = messages[["customer_id", "wine_ids"]].explode("wine_ids").rename(columns={"wine_ids": "wine_id"})
        hit = shown.merge(rejected, on=["customer_id", "wine_id"])["customer_id"]
        return dict.fromkeys(hit, REVIEW_REJECTED) | dict(held)

    def _stopped(self, connection: psycopg.Connection, messages: pd.DataFrame, facts: pd.DataFrame) -> dict[str, str]:
        """A further step ends with an order or a click since the step before."""
        if self.step == 1:
            return {}
        key = [self.campaign.name, self.occurrence, self.step - 1]
        addresses = messages["address"].tolist()  # customers may have been merged since, or read back without a name
        rows = connection.execute(_STEP_BEFORE.encode(), [addresses, *key, list(SENT_STATES)]).fetchall()
        before = pd.DataFrame(rows, columns=["address", "sent_at", "clicked"])
        before = messages[["message_id", "customer_id", "address"]].merge(before, on="address")
        before = before.merge(facts[["customer_id", "last_order_date"]], on="customer_id")
        sent_on = pd.to_datetime(before["sent_at"], utc=True).dt.tz_localize(None).dt.normalize()
        why: dict[str, str] = {}
        if "click" in self.campaign.stop_on:
            why |= dict.fromkeys(before.loc[before["clicked"].astype(bool), "message_id"], STOPPED_BY_CLICK)
        if "order" in self.campaign.stop_on:
            has_ordered = before["last_order_date"] >= sent_on
            why |= dict.fromkeys(before.loc[has_ordered, "message_id"], STOPPED_BY_ORDER)
        return why

    def _without_stock(self, warehouse: Warehouse, messages: pd.DataFrame) -> dict[str, str]:
        """Messages that would name a product more often than its stock can serve (spec.md §5), the last ones first."""
        shown = messages[["message_id", "product_keys"]].explode("product_keys").dropna()
        if shown.empty:
            return {}
        left = self._stock_left(warehouse)
        allowed = shown["product_keys"].map(left).fillna(np.inf)
        over = shown.groupby("product_keys").cumcount() >= allowed
        return dict.fromkeys(shown.loc[over, "message_id"], OUT_OF_STOCK)

    def _stock_left(self, warehouse: Warehouse) -> pd.Series:
        """How many more messages may name each product whose stock is known."""
        stock = warehouse.read("curated", "dim_products", _STOCK_COLUMNS, "available is not null", order_by="1")
        if self._left is None or not self._left[0].equals(stock):
            sent = dict(
                warehouse.rows(
                    "select product_key, count(*) from ("
                    " select unnest(product_keys) as product_key, coalesce(sent_at, planned_at)::date as sent_date"
                    " from activation.messages where status = any(%s)) as sent"
                    " inner join curated.dim_products as products using (product_key)"
                    " where products.available is not null and sent_date >= coalesce(products.stock_date, '-infinity')"
                    " group by product_key",
                    [list(SENT_STATES)],
                )
            )
            capacity = stock_capacity(stock["available"].to_numpy(dtype="float64"), self.rules)
            left = pd.Series(capacity, index=stock["product_key"])
            self._left = stock, left.sub(pd.Series(sent, dtype="float64"), fill_value=0).reindex(left.index)
        return self._left[1]

    def leaving(self, messages: pd.DataFrame) -> None:
        """These messages are frozen into a call: what they name is as good as sold."""
        if self._left is not None:
            named = messages["product_keys"].explode().dropna().value_counts()
            left = self._left[1]
            self._left = self._left[0], left - named.reindex(left.index).fillna(0)

    def recount(self) -> None:
        """A call did not end as it was meant to: what was sent is counted anew."""
        self._left = None


def _items(messages: pd.DataFrame) -> pd.DataFrame:
    """What the messages show, as rows of a recommendation list."""
    shown = messages[["customer_id", "scenario", "wine_ids", "product_keys"]].explode(["wine_ids", "product_keys"])
    shown = shown.rename(columns={"wine_ids": "wine_id", "product_keys": "product_key"}).dropna(subset=["product_key"])
    texts = {name: shown[name].astype("str") for name in ("wine_id", "product_key")}
    return shown.assign(rank=shown.groupby("customer_id").cumcount() + 1, **texts).reset_index(drop=True)


def _names(values: pd.Series) -> Sequence[str]:
    return sorted(set(values))
