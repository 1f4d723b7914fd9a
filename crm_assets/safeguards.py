"""What must hold before a live send may begin, and how far it may go on: every refusal is a code and a sentence that
says what to do (spec.md §7, "Safe by default").

A refused or stopped send leaves its messages planned. Which instance may send at all is in `instances.py`; calls are
made in `sending.py`; when the window is open is computed in `logic/sending_calendar.py`.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import psycopg

from crm_assets import instances, run_context
from crm_assets.activation import gate_in_force, require_running
from crm_assets.campaigns import CampaignFiles
from crm_assets.clock import Clock
from crm_assets.logic import activation, outbox, sending_calendar
from crm_assets.logic.activation import RefusalError
from crm_assets.logic.gate import NO_ELIGIBLE_CUSTOMER
from crm_assets.resources.drop_zone import DropZone, DropZoneError
from crm_assets.resources.warehouse import Warehouse
from crm_assets.rules import BusinessRules
from crm_assets.settings import Settings, brevo_key, settings
from crm_assets.tenants import Tenant

AUTOMATIC = "automatic"  # who paused, where no person did
CONTINUE_SENDS = "continue_sends"  # the one schedule that may go on with what a person has begun
# What a campaign that waits goes on after by itself.
WAITS = (
    *("RAMP_UP", sending_calendar.OUTSIDE_WINDOW, sending_calendar.CLOSED_DAY),
    *("SETTLING", "THROTTLED", "NOT_CONNECTED"),
)
# Tags of a Dagster run that no person has started with this very configuration.
_SCHEDULE_TAG = "dagster/schedule_name"
_AUTOMATIC_TAGS = {
    _SCHEDULE_TAG: "a schedule",
    "dagster/sensor_name": "a sensor",
    "dagster/backfill": "a backfill",
    "dagster/parent_run_id": "a retry",
    "dagster/root_run_id": "a retry",
    "dagster/retry_number": "a retry",
    "dagster/auto_materialize": "an automation condition",
    "dagster/from_automation_condition": "an automation condition",
}
_HARD_BOUNCES, _COMPLAINTS = ("hard_bounce", "invalid"), ("spam",)


@dataclass(frozen=True)
class Allowance:
    """How many messages may leave now. `wait_until`: when it goes on by itself; None with no messages: a person must
    act. `reason`: a code.
    """

    messages: int
    wait_until: datetime | None = None
    reason: str | None = None


def refuse_automatic(tags: Mapping[str, str]) -> None:
    """RefusalError when a live send was started by a schedule, sensor, backfill or retry: only people start one.

    The schedule that continues what a person has confirmed and begun is the exception.
    """
    for tag, what in _AUTOMATIC_TAGS.items():
        if tag in tags and not (tag == _SCHEDULE_TAG and tags[tag] == CONTINUE_SENDS):
            raise RefusalError("AUTOMATIC", f"a live send was started by {what}; start it by hand, as a new run")


def require_live(
    warehouse: Warehouse,
    tenant: Tenant,
    config: Settings,
    stored_plan: dict[str, Any],
    confirmed_hash: str | None,
    rules: BusinessRules,
    clock: Clock,
    *,
    by: str,
) -> None:
    """RefusalError with the first thing that is missing for a live send of this plan; else the confirmation is
    recorded.

    `stored_plan`: the row of activation.campaigns. `confirmed_hash`, `by`: of the run's configuration, or of an
    earlier `crm activation confirm`.
    """
    name, now = stored_plan["campaign"], clock.now()
    _require_switched_on(tenant, config)
    _require_confirmed(tenant, stored_plan, confirmed_hash, by)
    last_day = stored_plan["expires_on"].date()
    if tenant.today(now) > last_day:
        raise RefusalError(
            "EXPIRED", f"the plan of {name} {stored_plan['occurrence']} expired on {last_day}: plan anew"
        )
    activation.require_open(
        gate_in_force(warehouse), tenant.today(now), rules, despite=frozenset({NO_ELIGIBLE_CUSTOMER})
    )
    _require_accepted_test(warehouse, tenant, stored_plan)
    instances.require_armed(warehouse, config, tenant.slug)
    _require_no_stop_sign(tenant, config)
    with warehouse.transaction() as connection:
        require_running(connection, name)
    _require_fresh_refusals(warehouse, rules, now)
    _require_open(tenant, rules, now)
    _require_its_day(tenant, config, name, rules, now)
    warehouse.execute(
        "update activation.campaigns set confirmed_by = %(by)s, confirmed_at = %(now)s"
        " where (campaign, occurrence, step) = (%(campaign)s, %(occurrence)s, %(step)s)"
        " and (confirmed_by is distinct from %(by)s or confirmed_at is null)",
        {"by": by, "now": now, **_key(stored_plan)},
    )


def _key(stored_plan: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "campaign": stored_plan["campaign"],
        "occurrence": stored_plan["occurrence"],
        "step": int(stored_plan["step"]),
    }


def _require_switched_on(tenant: Tenant, config: Settings) -> None:
    if not tenant.brevo.live:
        raise RefusalError("LIVE_REFUSED", f"tenants/{tenant.slug}.yaml does not say brevo.live: true")
    if not config.live:
        raise RefusalError("LIVE_REFUSED", "CRM_LIVE is not 1 where this runs: set it there, and start it again")
    if brevo_key(config, tenant.brevo.api_key_variable) is None:
        raise RefusalError("LIVE_REFUSED", f"there is no Brevo key: set the variable {tenant.brevo.api_key_variable}")


def _require_confirmed(tenant: Tenant, stored_plan: Mapping[str, Any], confirmed_hash: str | None, by: str) -> None:
    name = stored_plan["campaign"]
    if not confirmed_hash:
        raise RefusalError(
            "NOT_CONFIRMED",
            f"nobody has confirmed the plan of {name} {stored_plan['occurrence']}. Look at it, then:"
            f" crm activation confirm --tenant {tenant.slug} --campaign {name} --hash {stored_plan['plan_hash'][:12]}…"
            " --by NAME",
        )
    if not by.strip():
        raise RefusalError("NOT_CONFIRMED", "a live send is confirmed by a named person: say who (--by NAME)")
    if confirmed_hash != stored_plan["plan_hash"]:
        raise RefusalError(
            "PLAN_HASH",
            f"the confirmed hash is not that of the plan of {name} {stored_plan['occurrence']}, which is"
            f" {stored_plan['plan_hash']}: look at that plan before it is confirmed",
        )


def _require_accepted_test(warehouse: Warehouse, tenant: Tenant, stored_plan: Mapping[str, Any]) -> None:
    name = stored_plan["campaign"]
    accepted = warehouse.rows(
        "select 1 from activation.test_sends where campaign = %s and template_hash = %s and accepted_at is not null",
        [name, stored_plan["template_hash"]],
    )
    if not accepted:
        raise RefusalError(
            "NO_ACCEPTED_TEST",
            f"no test of the templates of {name} as they are now has been accepted. Send one, look at it, accept it:"
            f" crm activation test --tenant {tenant.slug} --campaign {name}, then crm activation accept-test"
            f" --tenant {tenant.slug} --campaign {name} --by NAME",
        )


# Drop folders that are looked into before each call: opening one on another machine takes longer than the call.
_zones: dict[str, DropZone] = {}


def stop_sign(tenant: Tenant, config: Settings) -> tuple[str, str] | None:
    """STOP_FILE or STOP_FILE_UNKNOWN with a sentence where a file in the drop folder says stop, or nobody knows."""
    fresh = run_context.drop_zone(tenant, config)
    zone = _zones.setdefault(f"{tenant.slug} {fresh.url}", fresh) if fresh.is_remote else fresh
    try:
        found = zone.stop_sign()
    except (OSError, DropZoneError) as error:
        zone.close()
        said = str(error) if isinstance(error, DropZoneError) else error.strerror or type(error).__name__
        return "STOP_FILE_UNKNOWN", f"whether a STOP file lies in the drop folder cannot be seen: {said}"
    if found is None:
        return None
    return "STOP_FILE", f"the file {found} in the drop folder says stop: remove it to go on"


def _require_no_stop_sign(tenant: Tenant, config: Settings) -> None:
    if found := stop_sign(tenant, config):
        raise RefusalError(*found)


def _require_fresh_refusals(warehouse: Warehouse, rules: BusinessRules, now: datetime) -> None:
    from crm_assets import feedback

    if not feedback.is_fresh(warehouse, rules, now):
        raise RefusalError(
            "REFUSALS_UNREADABLE",
            "who has refused at Brevo was not read within the last"
            f" {rules.activation.pulls.fresh_minutes} minutes; nothing leaves before it is: see the pulls in"
            " crm activation status",
        )


def _require_open(tenant: Tenant, rules: BusinessRules, now: datetime) -> None:
    if reason := closed_reason(tenant, rules, now):
        opens = next_opening(tenant, rules, now).astimezone(tenant.zone)
        raise RefusalError(reason, f"nothing leaves now; from {opens:%Y-%m-%d %H:%M} ({tenant.timezone}) on it may")


def closed_reason(tenant: Tenant, rules: BusinessRules, now: datetime) -> str | None:
    """Why nothing may leave at `now` by the estate's window and calendar."""
    return sending_calendar.closed_reason(now, tenant.zone, rules, tenant.sending_days.blackout, tenant.country)


def next_opening(tenant: Tenant, rules: BusinessRules, now: datetime) -> datetime:
    """When messages may leave again."""
    return sending_calendar.next_opening(now, tenant.zone, rules, tenant.sending_days.blackout, tenant.country)


def _require_its_day(tenant: Tenant, config: Settings, name: str, rules: BusinessRules, now: datetime) -> None:
    """RefusalError before the day that the campaign's file names, or after the last order day of its feast."""
    campaign, today = CampaignFiles(config.tenants, tenant).campaigns.get(name), tenant.today(now)
    if campaign is None:
        return
    if campaign.send_on is not None and today < campaign.send_on:
        raise RefusalError("NOT_DUE", f"campaign {name} leaves on {campaign.send_on}; today is {today}")
    activation.require_before_last_order(campaign, today, rules)


def allowance(
    connection: psycopg.Connection,
    warehouse: Warehouse,
    tenant: Tenant,
    stored_plan: Mapping[str, Any],
    rules: BusinessRules,
    now: datetime,
    *,
    config: Settings | None = None,
) -> Allowance:
    """How many messages may leave with the call that is being frozen in this transaction.

    Stop file and pauses first, then window and calendar, then the ramp-up: `ramp_up.messages`, its wait, and news of
    how they were received. News that came in since the call before is judged too.
    """
    _judge_news(connection, warehouse, stored_plan, rules, now)
    if found := stop_sign(tenant, config or settings()):
        return Allowance(0, None, found[0])
    try:
        require_running(connection, stored_plan["campaign"])
    except RefusalError as refusal:
        return Allowance(0, None, refusal.code)
    if reason := closed_reason(tenant, rules, now):
        return Allowance(0, next_opening(tenant, rules, now), reason)
    return _ramp_up(connection, stored_plan, rules, now)


def _ramp_up(
    connection: psycopg.Connection, stored_plan: Mapping[str, Any], rules: BusinessRules, now: datetime
) -> Allowance:
    """The first messages, then a wait, then the rest: whatever may have left counts."""
    ramp = rules.activation.ramp_up
    rows = connection.execute(
        "select coalesce(first_tried_at, frozen_at), n_messages from activation.chunks"
        " where (campaign, occurrence, step) = (%(campaign)s, %(occurrence)s, %(step)s)"
        " and status in ('sending', 'accepted', 'unknown') order by 1",
        _key(stored_plan),
    ).fetchall()
    left, ended_at = ramp.messages, None
    for at, count in rows:
        left, ended_at = left - count, at
        if left <= 0:
            break
    if left > 0:
        return Allowance(min(left, rules.activation.chunk_max_messages))
    assert ended_at is not None
    goes_on = ended_at + timedelta(minutes=ramp.wait_minutes)
    if now < goes_on:
        return Allowance(0, goes_on, "RAMP_UP")
    read = connection.execute(
        "select 1 from activation.pulls where feed = 'events' and problem is null and tried_at >= %s", [goes_on]
    ).fetchone()
    if read is None:
        # How the first messages were received is not known yet: the next send reads it before it begins.
        return Allowance(0, now, "RAMP_UP")
    return Allowance(rules.activation.chunk_max_messages)


# What had been read of a campaign's results when they were last judged, by this process.
_judged: dict[tuple[str, tuple[Any, ...]], tuple[Any, ...] | None] = {}


def _judge_news(
    connection: psycopg.Connection,
    warehouse: Warehouse,
    stored_plan: Mapping[str, Any],
    rules: BusinessRules,
    now: datetime,
) -> None:
    """`judge`, where events have been read since this process last did: it counts all messages of the step."""
    news = connection.execute(
        "select (select tried_at from activation.pulls where feed = 'events'),"
        " (select max(read_at) from outcomes.received)"
    ).fetchone()
    what = (warehouse.url, tuple(_key(stored_plan).values()))
    if what not in _judged or _judged[what] != news:
        judge(warehouse, stored_plan, rules, now)
        _judged[what] = news


def judge(warehouse: Warehouse, stored_plan: Mapping[str, Any], rules: BusinessRules, now: datetime) -> str | None:
    """Pause the campaign when too many of its messages bounced hard or were complained about; why, or None.

    Of the messages sent since a person last resumed it: who resumes has seen what came before. Read the events first.
    """
    key = _key(stored_plan)
    with warehouse.transaction() as connection:
        counted = connection.execute(
            """
            with since as (
                select max(resumed_at) as at from activation.pauses
                where campaign = %(campaign)s and paused_by = %(automatic)s
            ),

            sent as (
                select address, tag from activation.messages
                where
                    (campaign, occurrence, step) = (%(campaign)s, %(occurrence)s, %(step)s) and status = 'sent'
                    and sent_at > coalesce((select at from since), '-infinity')
            ),

            results as (
                select distinct events.address, events.event = any(%(bounces)s) as bounced
                from outcomes.events as events
                inner join sent on events.address = sent.address and events.tag = sent.tag
                where events.event = any(%(bounces)s) or events.event = any(%(complaints)s)
            )

            select
                (select count(*) from sent), (select min(tag) from sent),
                (select count(*) from results where bounced), (select count(*) from results where not bounced)
            """,
            {**key, "automatic": AUTOMATIC, "bounces": list(_HARD_BOUNCES), "complaints": list(_COMPLAINTS)},
        ).fetchone()
        assert counted is not None
        n_sent, tag, n_bounced, n_complained = counted
        reason = _too_many(n_sent, n_bounced, n_complained, rules)
        if reason is None:
            return None
        if not pause(connection, key["campaign"], reason, AUTOMATIC, now):
            return reason
    parsed = outbox.parse_tag(tag or "")
    if parsed is not None:
        from crm_assets.resources.control import Control

        Control().raise_alert(parsed.tenant, pause_cause(key["campaign"]), f"{key['campaign']}: {reason}", now)
    return reason


def _too_many(n_sent: int, n_bounced: int, n_complained: int, rules: BusinessRules) -> str | None:
    ramp = rules.activation.ramp_up
    for count, most, what in (
        (n_bounced, ramp.max_hard_bounce_share, "bounced hard"),
        (n_complained, ramp.max_complaint_share, "were complained about"),
    ):
        if n_sent and count / n_sent > most:
            return f"{count} of {n_sent} messages ({count / n_sent:.1%}) {what}, above {most:.1%}"
    return None


def pause_cause(campaign: str) -> str:
    """Cause of the alert of a campaign that has paused itself."""
    return f"campaign-paused:{campaign}"


def pause(connection: psycopg.Connection, campaign: str, reason: str, by: str, now: datetime) -> bool:
    """Stop a campaign ('*': all of them); False when the same stop by the same is in force already."""
    connection.execute("lock table activation.pauses in share row exclusive mode")
    return bool(
        connection.execute(
            "insert into activation.pauses (pause_id, campaign, reason, paused_by, paused_at)"
            " select %(id)s, %(campaign)s, %(reason)s, %(by)s, %(now)s where not exists (select 1"
            " from activation.pauses where campaign = %(campaign)s and paused_by = %(by)s and resumed_at is null)",
            {"id": uuid.uuid4().hex, "campaign": campaign, "reason": reason, "by": by, "now": now},
        ).rowcount
    )
