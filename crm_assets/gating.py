"""The list of a run as it stands after review, and the gate decided on it: once when the run is made, and again when
people have decided.

recommendations.items keeps what the engine made; an item that a person rejected leaves the list, and ranks close up.
Audit, gate, activation and exports read `listed_items`. The rules are in `logic/audit.py`, `logic/review.py` and
`logic/gate.py`; here their tables are read and handed over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pandas as pd
from psycopg import sql

from crm_assets.logic import audit, gate, review
from crm_assets.resources.warehouse import Warehouse
from crm_assets.run_context import TenantRun
from crm_assets.tenants import Tenant

_LISTED = """
    select {columns} from (
        select
            items.*,
            row_number() over (partition by items.customer_id order by items.rank)::integer as listed_rank
        from recommendations.items as items
        left join review.applied_decisions as decisions
            on
                items.run_id = decisions.run_id
                and items.customer_id = decisions.customer_id
                and items.wine_id = decisions.wine_id
                and items.scenario = decisions.scenario
                and decisions.decision = 'reject'
        where items.run_id = %s and decisions.run_id is null
    ) as listed
"""
DECISION_COLUMNS = [*("run_id", *review.ITEM_KEY), *("decision", "reviewer", "decided_at", "origin", "file_id")]
SCORE_COLUMNS = ["customer_id", "n_errors", "n_warnings", "audit_score", "first_rule"]


@dataclass(frozen=True)
class GatedRun:
    """The run that a gate is decided for: whose, which, as of which day, at which moment."""

    warehouse: Warehouse
    tenant: Tenant
    run_id: str
    as_of: date
    now: datetime
    is_historical: bool

    @classmethod
    def of(cls, run: TenantRun) -> GatedRun:
        """The run that is being made."""
        return cls(run.warehouse, run.tenant, run.run_id, run.as_of, run.now, run.is_historical)

    def read(self, schema: str, name: str, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """The run's rows of a table that is keyed by run."""
        return self.warehouse.read(schema, name, columns, "run_id = %s", [self.run_id])

    def proposed(self) -> pd.DataFrame:
        """customer_id, wine_id, scenario of all that the engine proposed."""
        return self.read("recommendations", "items", review.ITEM_KEY)

    def listed(self, columns: Sequence[str]) -> pd.DataFrame:
        return listed_items(self.warehouse, self.run_id, columns)


def listed_items(
    warehouse: Warehouse, run_id: str, columns: Sequence[str], customer_id: str | None = None
) -> pd.DataFrame:
    """Those columns of the items of a run, or of one customer in it, that nobody has rejected; `rank` is 1..n among
    them.
    """
    names = [sql.SQL("listed_rank as rank") if name == "rank" else sql.Identifier(name) for name in columns]
    statement, params = sql.SQL(_LISTED).format(columns=sql.SQL(", ").join(names)), [run_id]
    if customer_id is not None:
        statement, params = statement + sql.SQL("where customer_id = %s"), [run_id, customer_id]
    return warehouse.query(statement, params)


def applied_decisions(run: GatedRun) -> pd.DataFrame:
    """Rows of review.applied_decisions for the run.

    Decisions of other runs carry over from `carry_days` before this one was made: what held when it was made holds
    as long as it lives. A run for an earlier day knows those of its day.
    """
    carry = timedelta(days=run.tenant.business_rules.review.carry_days)
    if run.is_historical:
        ends = datetime(run.as_of.year, run.as_of.month, run.as_of.day, tzinfo=run.tenant.zone) + timedelta(days=1)
        decisions = run.warehouse.read("review", "decisions", DECISION_COLUMNS, "decided_at < %s", [ends])
        since = ends - carry
    else:
        decisions = run.warehouse.read("review", "decisions", DECISION_COLUMNS)
        since = _made_at(run) - carry
    if decisions.empty:
        return review.applied(pd.DataFrame(columns=review.ITEM_KEY), decisions, run.run_id, since)
    return review.applied(run.proposed(), decisions, run.run_id, since)


def _made_at(run: GatedRun) -> datetime:
    found = run.warehouse.rows("select created_at from recommendations.runs where run_id = %s", [run.run_id])
    return found[0][0].astimezone(UTC) if found else run.now


def audited(run: GatedRun) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows of audit.findings and of audit.scores for the run's list as it stands."""
    items = run.listed(audit.ITEM_COLUMNS)
    result = audit.audit(items, *audit_frames(run.warehouse), run.tenant, run.tenant.business_rules, run.as_of)
    return result.findings, result.scores


def sample(run: GatedRun) -> pd.DataFrame:
    """customer_id, scenario of the run's pinned sample, drawn now if there is none yet; empty where none is needed."""
    pinned = run.read("review", "samples", ["customer_id", "scenario"])
    if len(pinned) or run.tenant.review != "sample":
        return pinned
    items = run.listed(["customer_id", "scenario", "rank"])
    _, permissions, scores = _people(run, items)
    rules = run.tenant.business_rules
    return gate.draw_sample(gate.candidates(permissions, scores, rules), items, rules)


def next_actions(run: GatedRun) -> pd.DataFrame:
    """Rows of gate.next_actions for the run: permission, then audit, then review."""
    rules = run.tenant.business_rules
    items = run.listed(["customer_id", "wine_id", "scenario", "rank"])
    people, permissions, scores = _people(run, items)
    held = gate.review_verdicts(
        gate.candidates(permissions, scores, rules),
        run.proposed() if run.tenant.review != "auto" else pd.DataFrame(columns=review.ITEM_KEY),
        run.read("review", "applied_decisions", [*review.ITEM_KEY, "decision"]),
        run.read("review", "samples", ["customer_id"])["customer_id"],
        run.tenant.review,
        rules,
    )
    return gate.next_actions(people, permissions, scores, items, held, rules)


def _people(run: GatedRun, items: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """The customers of a run, their permissions and their audit scores."""
    people = audit.everyone(run.warehouse.read("audit", "customer_facts", audit.FACT_COLUMNS), items)
    permissions = audit.permissions(people, run.tenant, run.tenant.business_rules, run.as_of)
    return people, permissions, run.read("audit", "scores", SCORE_COLUMNS)


def decision(run: GatedRun) -> pd.DataFrame:
    """The row of gate.decisions for the run."""
    rules = run.tenant.business_rules
    return gate.decide(
        run.read("gate", "next_actions", ["permitted", "eligible"]),
        run.read("audit", "scores", ["n_errors", "n_warnings", "audit_score"]),
        audit.breaker(run.read("audit", "data_quality"), rules),
        unmapped_document_types(run),
        run.is_historical,
        run.as_of,
        run.now,
        rules,
    )


def unmapped_document_types(run: GatedRun) -> int:
    """How many document types no rule maps."""
    where: dict[str, Any] = {"where": "treatment = 'unmapped' and order_date <= %s", "params": [run.as_of]}
    return int(run.warehouse.read("curated", "fct_orders", ["document_type"], **where)["document_type"].nunique())


# Messages in these states reached the person, or may have.
SENT_STATES = ("sending", "sent", "unknown")


def sent_wines(warehouse: Warehouse, customer_id: str | None = None) -> pd.DataFrame:
    """One row per wine of a really sent message, to anybody or to one customer: customer_id, wine_id, sent_date."""
    return warehouse.query(
        "select customer_id, unnest(wine_ids) as wine_id, coalesce(sent_at, planned_at)::date as sent_date"
        " from activation.messages where status = any(%s) and customer_id = coalesce(%s, customer_id)",
        [list(SENT_STATES), customer_id],
    )


def audit_frames(warehouse: Warehouse) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """What the audit looks at beside the list: customer_facts, dim_products, customer_wines, sent wines."""
    return (
        warehouse.read("audit", "customer_facts", audit.FACT_COLUMNS),
        warehouse.read("curated", "dim_products", audit.PRODUCT_COLUMNS),
        warehouse.read("rfm", "customer_wines", ["customer_id", "wine_id", "last_date"]),
        sent_wines(warehouse),
    )


def allocations(warehouse: Warehouse, tenant: Tenant) -> pd.DataFrame:
    """One row per (product, customer) that the tenant's file lists: product_key, customer_id."""
    listed = [(product, code) for product, codes in tenant.allocation.items() for code in codes or [""]]
    frame = pd.DataFrame(listed, columns=["product_key", "client_code"], dtype="str")
    if frame.empty:
        return frame.rename(columns={"client_code": "customer_id"})
    xref = warehouse.read("curated", "customer_xref", ["client_code", "customer_id"])
    found = frame["client_code"].str.strip().str.upper().map(xref.set_index("client_code")["customer_id"])
    # A code nobody has keeps its row: the product is under allocation all the same.
    return frame[["product_key"]].assign(customer_id=found.fillna(""))
