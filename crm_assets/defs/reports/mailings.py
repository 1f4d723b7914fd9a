"""The reports by mail: to whom the estate's file names, once per period, from the runs that are for it."""

from typing import Any

import dagster as dg

from crm_assets import activation, mailings, run_context, tables
from crm_assets.defs.common import MONTH_TAG, WEEK_TAG, TenantRun, materialized, tenant_asset, tenant_check
from crm_assets.resources import mailer

ALERT_CAUSE = "mail"


class MailingsConfig(dg.Config):
    """`send`: mail the newest reports now, to whoever has not got them, whatever started the run. `resend_unknown`:
    hand over once more what may have arrived already; look in the mailboxes first.
    """

    send: bool = False
    resend_unknown: bool = False


@tenant_asset(tables.mailings, deps=[("reports", "weekly_reports"), ("reports", "monthly_reports")])
def reports_mailings(
    context: dg.AssetExecutionContext, config: MailingsConfig, tenant_run: TenantRun
) -> dg.MaterializeResult[Any]:
    """The weekly report leaves with the weekly refresh, the monthly one with its schedule. Runs by hand or after a
    drop mail nothing new by themselves: they only try again what failed. Addresses stand nowhere here.
    """
    shown = mail_reports(tenant_run, is_asked_for=config.send, resend_unknown=config.resend_unknown)
    return materialized(tenant_run.warehouse.count("reports", "mailings"), run=tenant_run, **shown)


def mail_reports(tenant_run: run_context.TenantRun, *, is_asked_for: bool, resend_unknown: bool) -> dict[str, Any]:
    """Mail what is due of the run in force; what is shown of it: counts and reasons, no address."""
    tenant, warehouse = tenant_run.tenant, tenant_run.warehouse
    due = {kind for kind, tag in zip(mailings.KINDS, (WEEK_TAG, MONTH_TAG), strict=True) if tag in tenant_run.tags}
    new = set(mailings.KINDS) if is_asked_for else due
    gate = activation.gate_in_force(warehouse)
    missing = mailer.missing(tenant_run.config)
    if not tenant.reports.emails:
        missing = ["reports.emails in the tenant's file names nobody", *missing]
    done = mailings.Delivery()
    if gate is not None and not missing:
        parcels = []
        for kind in mailings.KINDS:
            try:
                found = mailings.parcel(warehouse, tenant_run.home, kind, gate.run_id, gate.as_of)
            except LookupError as error:
                done.problems.append(str(error))
                continue
            parcels += [found] if found is not None else []
        sent = mailings.deliver(
            warehouse,
            tenant,
            tenant_run.config,
            parcels,
            tenant_run.now,
            new=new,
            resend_unknown=resend_unknown,
        )
        done = mailings.Delivery(sent.outcomes, done.problems + sent.problems)
        _alert(tenant_run, done)
    shown: dict[str, Any] = {
        "recipients": len(mailings.recipients(tenant)),
        "asked_for": ", ".join(sorted(new)) or "nothing new",
        **{f"mails: {name}": count for name, count in sorted(done.outcomes.items())},
    }
    if missing:
        shown["not_mailed"] = "; ".join(missing)
    if done.problems:
        shown["problems"] = "; ".join(done.problems)
    return shown


def _alert(tenant_run: TenantRun, done: mailings.Delivery) -> None:
    """One alert while reports do not leave, closed when all that was tried has left."""
    from crm_assets.resources.control import Control

    control, slug = Control(tenant_run.config), tenant_run.tenant.slug
    if done.problems:
        control.raise_alert(slug, ALERT_CAUSE, f"reports were not mailed: {'; '.join(done.problems)}", tenant_run.now)
    elif any(name.endswith(" sent") for name in done.outcomes):
        control.recover(slug, ALERT_CAUSE, tenant_run.now)


@tenant_check(("reports", "mailings"), name="mailings_are_settled")
def mailings_are_settled(context: dg.AssetCheckExecutionContext, tenant_run: TenantRun) -> dg.AssetCheckResult:
    """Whoever is to get the newest reports has got them, as far as is known. `failed` is tried again by the next run;
    `unknown` may have arrived and is not repeated: ask the recipient, then mail with `resend_unknown` if it is needed.
    """
    found = dict(
        tenant_run.warehouse.rows(
            "select status, count(*) from reports.mailings as mailings where period ="
            " (select max(period) from reports.mailings as others where others.kind = mailings.kind) group by status"
        )
    )
    open_ends = {status: count for status, count in found.items() if status != "sent"}
    missing = mailer.missing(tenant_run.config) if tenant_run.tenant.reports.emails else []
    return dg.AssetCheckResult(
        passed=not open_ends and not missing,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "sent": found.get("sent", 0),
            **{status: count for status, count in sorted(open_ends.items())},
            "threshold": 0,
            "missing_settings": "; ".join(missing) or "none",
        },
    )
