"""News from Brevo as assets: events, refusals, campaigns sent from its own screens. Read here, never written there.

What is read and kept is `crm_assets/feedback.py`'s business; here it is started, shown and alarmed about.
"""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from crm_assets import attempts, feedback, run_context, tables
from crm_assets.clock import SystemClock
from crm_assets.defs.common import TenantRun, check_spec, materialized, table_spec
from crm_assets.resources import brevo

ALERT_CAUSE = "brevo:"
_TABLES = (tables.events, tables.brevo_campaigns, tables.pulls)
_FROM = (("activation", "attempts"),)


@dg.multi_asset(
    name="outcomes__feedback",
    specs=[
        table_spec(
            tables.events,
            deps=_FROM,
            description="Read from Brevo's log since the last reading, with an overlap, and from what its webhooks"
            " brought. Refusals go to `activation.contacts`, and are only ever added.",
        ),
        table_spec(tables.brevo_campaigns, deps=_FROM, description="Listed for as long as they count for silence."),
        table_spec(tables.pulls, deps=_FROM, description="A feed that fails is read again from where it stood."),
    ],
)
def read_feedback(context: dg.AssetExecutionContext, tenant_run: TenantRun) -> Iterator[dg.MaterializeResult[Any]]:
    """Read what came back from Brevo. Without a key nothing is read, and that is no failure.

    Where a feed cannot be read the run fails once the others are in: its schedule tries again within the day.
    """
    clock = SystemClock()
    shown: dict[str, Any] = {}
    failed: dict[str, str] = {}
    try:
        client = brevo.client(tenant_run.tenant, tenant_run.config, clock, mode="read")
    except brevo.LiveRefusedError as refusal:
        shown["not_read"] = str(refusal)
        feedback.ingest_received(tenant_run.warehouse, tenant_run.tenant.slug, clock.now())
    else:
        with client:
            found = feedback.pull(tenant_run.warehouse, tenant_run.tenant, client, tenant_run.rules, clock)
        failed = found.failed
        shown |= _shown(found)
        alert(tenant_run, found)
    with tenant_run.warehouse.transaction() as connection:
        shown["bodies_forgotten"] = attempts.forget_old(connection, tenant_run.rules, clock.now())
    for name, value in shown.items():
        context.log.info(f"{name}: {value}")
    for table in _TABLES:
        yield materialized(tenant_run.warehouse.count(str(table.schema), table.name), table, tenant_run, **shown)
    if failed:
        raise dg.Failure(f"not read: {', '.join(failed)}; read again by the next run", metadata=failed)


def _shown(found: feedback.PullSummary) -> dict[str, Any]:
    """What of a pull people see: counts, names of events and reasons."""
    shown: dict[str, Any] = {}
    for feed, summary in found.feeds.items():
        shown |= {f"{feed}_read": summary.n_read, f"{feed}_new": summary.n_new}
        if summary.problem:
            shown[f"{feed}_problem"] = summary.problem
    if found.unknown:
        shown["unknown_events"] = ", ".join(f"{name} {count}" for name, count in sorted(found.unknown.items()))
    shown |= {"of_other_estates": found.n_foreign, "unreadable_events": found.n_unreadable}
    return shown


def alert(tenant_run: run_context.TenantRun, found: feedback.PullSummary) -> None:
    """One alert per feed that has failed so often in a row, closed when it has been read."""
    from crm_assets.resources.control import Control

    control, slug, now = Control(tenant_run.config), tenant_run.tenant.slug, tenant_run.now
    tries = dict(tenant_run.warehouse.rows("select feed, n_failures from activation.pulls"))
    open_causes = {cause.cause for cause in control.open_alerts(slug)}
    for feed, summary in found.feeds.items():
        cause = f"{ALERT_CAUSE}{feed}"
        if summary.has_failed and tries[feed] >= tenant_run.rules.activation.pulls.alert_after:
            told = f"{feed} could not be read from Brevo {tries[feed]} times in a row: {summary.problem}"
            control.raise_alert(slug, cause, told, now)
        elif not summary.has_failed and cause in open_causes:
            control.recover(slug, cause, now)


@dg.multi_asset_check(
    name="feedback_is_read",
    specs=[
        check_spec(
            ("activation", "pulls"),
            "feeds_from_brevo_are_read",
            "Every feed was read at the last try, and nothing in it was beyond reading: contacts from Brevo's own"
            " screens count for silence and fatigue only once they are known.",
        ),
        check_spec(
            ("outcomes", "events"),
            "names_of_events_are_all_known",
            "Every event has a name that one of Brevo's vocabularies has; others are kept as `other:<name>`, and say"
            " nothing until logic/events.py knows them.",
        ),
        check_spec(
            ("outcomes", "events"),
            "bodies_of_webhooks_are_all_read",
            "Every body that the receiver has kept was read into events, or is none of Brevo's.",
        ),
    ],
)
def feedback_is_read(context: dg.AssetCheckExecutionContext, tenant_run: TenantRun) -> Iterator[dg.AssetCheckResult]:
    """What came back is here and is understood."""
    warehouse = tenant_run.warehouse
    problems = dict(warehouse.rows("select feed, problem from activation.pulls where problem is not null"))
    others = dict(
        warehouse.rows(
            "select event, count(*) from outcomes.events where starts_with(event, 'other:') group by event order by 1"
        )
    )
    [(unread, unreadable)] = warehouse.rows(
        "select count(*) filter (where read_at is null), count(*) filter (where problem is not null)"
        " from outcomes.received"
    )

    def light(asset: tuple[str, str], name: str, passed: bool, **measured: Any) -> dg.AssetCheckResult:
        return dg.AssetCheckResult(
            asset_key=dg.AssetKey(list(asset)),
            check_name=name,
            passed=passed,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={**measured, "threshold": 0},
        )

    yield light(("activation", "pulls"), "feeds_from_brevo_are_read", not problems, problems=len(problems), **problems)
    yield light(
        ("outcomes", "events"),
        "names_of_events_are_all_known",
        not others,
        unknown=sum(others.values()),
        names=", ".join(others) or "none",
    )
    yield light(
        ("outcomes", "events"),
        "bodies_of_webhooks_are_all_read",
        not unread and not unreadable,
        unread=unread,
        none_of_brevos=unreadable,
    )
