"""Reviews against a tenant's database: how far a run's review has come, and what comes back of it.

Shared by the Dagster assets and by `crm review`; runs without Dagster. What a row of a workbook means is
`logic/review.py`, what decisions mean for the gate `logic/gate.py`.
"""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

from crm_assets.resources.warehouse import Warehouse
from crm_assets.run_context import GATE_IN_FORCE
from crm_assets.tenants import Tenant

# Per scenario: items, and what has been decided on them.
_BY_SCENARIO = """
    select
        items.scenario,
        count(*) as items,
        count(*) filter (where decisions.decision = 'approve') as approved,
        count(*) filter (where decisions.decision = 'reject') as rejected,
        count(*) filter (where decisions.decision = 'later') as later,
        count(*) filter (where decisions.decision is null) as undecided
    from recommendations.items as items
    left join review.applied_decisions as decisions using (run_id, customer_id, wine_id)
    where items.run_id = %s
    group by 1
    order by items.scenario collate "C"
"""
# Of the sample, by all items that the run gave them, the rejected ones included.
_SAMPLE = """
    select count(*), count(*) filter (where decided), count(*) filter (where rejected) from (
        select
            bool_and(coalesce(decisions.decision in ('approve', 'reject'), false)) as decided,
            bool_or(coalesce(decisions.decision = 'reject', false)) as rejected
        from review.samples as sample
        join recommendations.items as items using (run_id, customer_id)
        left join review.applied_decisions as decisions using (run_id, customer_id, wine_id)
        where sample.run_id = %s
        group by sample.customer_id
    ) as customers
"""


class ReviewError(Exception):
    """A review that cannot be made as asked; the message says why."""


def run_to_review(warehouse: Warehouse, run_id: str | None = None) -> tuple[str, date]:
    """(run_id, as_of) of a run that reached the gate, by default the one in force; ReviewError without one."""
    which = " where run_id = %s" if run_id else GATE_IN_FORCE
    found = warehouse.rows(f"select run_id, as_of from gate.decisions{which}", [run_id] if run_id else None)
    if not found:
        raise ReviewError(f"no run {run_id} has reached the gate" if run_id else "there is no run to review yet")
    return found[0]


def last_day(as_of: date, tenant: Tenant) -> date:
    """The last day on which a run is reviewed: as long as its plans would live."""
    return as_of + timedelta(days=tenant.business_rules.activation.plan_expires_days)


def status(warehouse: Warehouse, tenant: Tenant, run_id: str | None = None) -> dict[str, Any]:
    """How far the review of a run has come: mode, sample, items per scenario, who waits, until when."""
    run_id, as_of = run_to_review(warehouse, run_id)
    names = ("scenario", "items", "approved", "rejected", "later", "undecided")
    scenarios = [dict(zip(names, row, strict=True)) for row in warehouse.rows(_BY_SCENARIO, [run_id])]
    (size, decided, rejected) = warehouse.rows(_SAMPLE, [run_id])[0]
    held = warehouse.rows(
        "select reason, count(*) from gate.next_actions where run_id = %s and starts_with(reason, 'REVIEW_')"
        ' group by 1 order by reason collate "C"',
        [run_id],
    )
    eligible = warehouse.rows("select count(*) from gate.next_actions where run_id = %s and eligible", [run_id])
    return {
        "tenant": tenant.slug,
        "run_id": run_id,
        "as_of": as_of,
        "last_day": last_day(as_of, tenant),
        "mode": tenant.review,
        "sample": {
            "customers": size,
            "decided": decided,
            "rejected": rejected,
            "rejected_share": round(rejected / size, 4) if size else 0.0,
            "max_rejected_share": tenant.business_rules.review.max_rejected_share,
        },
        "scenarios": {str(row.pop("scenario")): row for row in scenarios},
        "held_back": dict(held),
        "eligible": eligible[0][0],
    }
