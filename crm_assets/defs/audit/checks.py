"""Whether the audit's tables agree with each other, and whether the data can be trusted."""

import dagster as dg

from crm_assets.defs.common import TenantRun, tenant_check
from crm_assets.logic import audit


@tenant_check(("audit", "scores"), name="scores_equal_findings", blocking=True)
def scores_equal_findings(context: dg.AssetCheckExecutionContext, tenant_run: TenantRun) -> dg.AssetCheckResult:
    """Each customer's errors and warnings are its findings, and the score follows from them."""
    rules = tenant_run.rules.audit
    (wrong,) = tenant_run.warehouse.rows(
        """
        select count(*) from (select * from audit.scores where run_id = %(run)s) as scores
        full join (
            select customer_id, count(*) filter (where severity = 'ERROR') as n_errors,
                count(*) filter (where severity = 'WARN') as n_warnings
            from audit.findings where run_id = %(run)s group by customer_id
        ) as found using (customer_id)
        where scores.customer_id is null
            or scores.n_errors <> coalesce(found.n_errors, 0) or scores.n_warnings <>
            coalesce(found.n_warnings, 0)
            or scores.audit_score <> greatest(0, 100 - %(error)s * scores.n_errors - %(warning)s *
            scores.n_warnings)
        """,
        {"run": tenant_run.run_id, "error": rules.error_points, "warning": rules.warning_points},
    )[0]
    return dg.AssetCheckResult(passed=wrong == 0, metadata={"customers_that_differ": wrong, "allowed": 0})


@tenant_check(("audit", "findings"), name="findings_follow_the_rules", blocking=True)
def findings_follow_the_rules(context: dg.AssetCheckExecutionContext, tenant_run: TenantRun) -> dg.AssetCheckResult:
    """Every finding carries the number and the severity of its rule."""
    found = tenant_run.warehouse.rows(
        "select distinct rule_code, rule_no, severity from audit.findings where run_id = %s",
        [tenant_run.run_id],
    )
    wrong = sorted(
        code
        for code, number, severity in found
        if (audit.NUMBERS.get(code), audit.SEVERITIES.get(code)) != (number, severity)
    )
    return dg.AssetCheckResult(passed=not wrong, metadata={"rules": len(found), "wrong": ", ".join(wrong) or "none"})


@tenant_check(("audit", "data_quality"), name="circuit_breaker")
def circuit_breaker(context: dg.AssetCheckExecutionContext, tenant_run: TenantRun) -> dg.AssetCheckResult:
    """The data are good enough to write to people from: a red light closes the gate."""
    quality = tenant_run.warehouse.read("audit", "data_quality", where="run_id = %s", params=[tenant_run.run_id])
    breaker = audit.breaker(quality, tenant_run.rules)
    worst = quality.sort_values(["score", "check_code"]).head(3)
    return dg.AssetCheckResult(
        passed=not breaker.tripped,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "score": breaker.score,
            "threshold": tenant_run.rules.circuit_breaker.min_score,
            "error_checks_at_0": ", ".join(breaker.failed_checks) or "none",
            "lowest": ", ".join(
                f"{code} {score:.1f}" for code, score in zip(worst.check_code, worst.score, strict=True)
            ),
        },
    )
