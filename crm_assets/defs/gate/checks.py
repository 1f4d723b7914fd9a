"""The gate as a light. What activation obeys is the row of gate.decisions, not this."""

import dagster as dg

from crm_assets.defs.common import TenantRun, tenant_check


@tenant_check(("gate", "decisions"), name="gate_is_open")
def gate_is_open(context: dg.AssetCheckExecutionContext, tenant_run: TenantRun) -> dg.AssetCheckResult:
    """Green: messages may be planned from this run. Red: they may not, and the reasons say why."""
    decision = tenant_run.warehouse.read("gate", "decisions", where="run_id = %s", params=[tenant_run.run_id]).iloc[0]
    return dg.AssetCheckResult(
        passed=bool(decision["status"] == "open"),
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "status": decision["status"],
            "reasons": ", ".join(decision["reasons"]) or "none",
            "data_quality_score": float(decision["data_quality_score"]),
            "data_quality_threshold": tenant_run.rules.circuit_breaker.min_score,
            "eligible": int(decision["n_eligible"]),
            "eligible_threshold": 1,
            "customers": int(decision["n_customers"]),
        },
    )


@tenant_check(("gate", "next_actions"), name="one_next_action_per_customer", blocking=True)
def one_next_action_per_customer(context: dg.AssetCheckExecutionContext, tenant_run: TenantRun) -> dg.AssetCheckResult:
    """Each audited customer has exactly one next action, and whoever is not eligible has a reason."""
    (audited, actions, without_reason) = tenant_run.warehouse.rows(
        "select (select count(*) from audit.scores where run_id = %(run)s),"
        " count(*), count(*) filter (where not eligible and reason is null)"
        " from gate.next_actions where run_id = %(run)s",
        {"run": tenant_run.run_id},
    )[0]
    return dg.AssetCheckResult(
        passed=audited == actions and without_reason == 0,
        metadata={
            "customers": audited,
            "next_actions": actions,
            "not_eligible_without_reason": without_reason,
        },
    )


@tenant_check(("gate", "next_actions"), name="eligible_only_if_permitted_and_clean", blocking=True)
def eligible_only_if_permitted_and_clean(
    context: dg.AssetCheckExecutionContext, tenant_run: TenantRun
) -> dg.AssetCheckResult:
    """Nobody is eligible without permission, with an error, below the score, or with nothing to send."""
    (wrong,) = tenant_run.warehouse.rows(
        """
        select count(*) from gate.next_actions as actions join audit.scores as scores using (run_id,
        customer_id)
        where actions.run_id = %s and actions.eligible
            and (not actions.permitted or scores.n_errors > 0 or scores.audit_score < %s or actions.n_items
            = 0)
        """,
        [tenant_run.run_id, tenant_run.rules.audit.min_score],
    )[0]
    return dg.AssetCheckResult(
        passed=wrong == 0,
        metadata={"wrongly_eligible": wrong, "allowed": 0, "min_score": tenant_run.rules.audit.min_score},
    )
