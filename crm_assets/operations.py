"""What a person asks of campaigns that leave, or have left: where they stand, stop, go on, confirm, try dead letters
again, give up what is left, decide what nobody can know (spec.md §7).

Shared by `crm activation …` and the jobs of the UI; runs without Dagster. Nothing here calls Brevo but `look_up`, which
only reads; calls that write to people are made in `sending.py` and, for tests, in `test_sends.py`. Every change
names the person who asked for it.
"""

from __future__ import annotations

import uuid
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

import psycopg

from crm_assets import instances, safeguards, settlement
from crm_assets.activation import stored_plan
from crm_assets.campaigns import CampaignFiles
from crm_assets.clock import Clock
from crm_assets.logic.activation import RefusalError
from crm_assets.resources.brevo import Brevo
from crm_assets.resources.warehouse import Warehouse
from crm_assets.rules import BusinessRules
from crm_assets.settings import Settings
from crm_assets.tenants import Tenant

ABANDONED = "ABANDONED"
ALL = "*"
_INTERRUPTED = "send-interrupted:"  # how the cause of such an alert begins
_OF = "(campaign, occurrence, step) = (%(campaign)s, %(occurrence)s, %(step)s)"


@dataclass(frozen=True)
class Estate:
    """Whose campaigns: what every operation works with."""

    tenant: Tenant
    warehouse: Warehouse
    config: Settings

    @property
    def rules(self) -> BusinessRules:
        return self.tenant.business_rules


def named(by: str) -> str:
    """The name of a person; RefusalError without one."""
    if not by.strip():
        raise RefusalError("NOT_NAMED", "this is decided by a named person: say who (--by NAME)")
    return " ".join(by.split())


def plan_of(estate: Estate, campaign: str, occurrence: str | None) -> dict[str, Any]:
    """The row of activation.campaigns of an occurrence (None: the newest); RefusalError when nothing is planned."""
    stored = stored_plan(estate.warehouse, campaign, occurrence)
    if stored is None:
        which = f" {occurrence}" if occurrence else ""
        raise RefusalError(
            "NOT_PLANNED",
            f"campaign {campaign} has no plan{which}: crm plan --tenant {estate.tenant.slug} --campaign {campaign}",
        )
    return stored


def _key(stored: dict[str, Any]) -> dict[str, Any]:
    return {"campaign": stored["campaign"], "occurrence": stored["occurrence"], "step": int(stored["step"])}


# --- where things stand


def status(estate: Estate, now: datetime) -> dict[str, Any]:
    """Per occurrence and step the messages by state, what waits and until when, what is unknown and what happens to it
    next, dead letters by reason; whether live is armed, which stops are in force, and when Brevo was last read.
    """
    with estate.warehouse.transaction() as connection:
        disarmed = instances.why_disarmed(connection, estate.config, estate.tenant.slug)
        bound = instances.bound(connection)
        campaigns = _campaigns(connection)
        interrupted = {tuple(_key(each).values()) for each in _interrupted(connection)}
        unknown = _unknown_chunks(connection, estate.rules, now)
        dead = _rows(
            connection,
            "select campaign, occurrence, step, coalesce(reason, 'UNKNOWN') as reason, count(*) as messages"
            " from activation.messages where status = 'failed' group by 1, 2, 3, 4 order by 1, 2, 3, 4",
        )
        stops = _rows(
            connection,
            "select campaign, reason, paused_by, paused_at from activation.pauses where resumed_at is null"
            " order by paused_at",
        )
        pulls = _rows(
            connection, "select feed, read_until, tried_at, problem, n_rows from activation.pulls order by feed"
        )
        tests = _rows(
            connection,
            "select distinct on (campaign) campaign, template_hash, outcome, sent_at, accepted_by, accepted_at"
            " from activation.test_sends order by campaign, sent_at desc",
        )
    sign = safeguards.stop_sign(estate.tenant, estate.config)
    return {
        "tenant": estate.tenant.slug,
        "live": {
            "tenant_file": estate.tenant.brevo.live,
            "CRM_LIVE": estate.config.live,
            "armed": disarmed is None,
            "disarmed_because": disarmed,
            "armed_by": bound.armed_by if bound else None,
            "armed_at": bound.armed_at if bound else None,
            "closed_now": safeguards.closed_reason(estate.tenant, estate.rules, now),
            "opens_at": safeguards.next_opening(estate.tenant, estate.rules, now),
        },
        "stop_sign": sign[1] if sign else None,
        "stops": stops,
        "campaigns": [{**each, "is_interrupted": tuple(_key(each).values()) in interrupted} for each in campaigns],
        "unknown": unknown,
        "dead_letters": dead,
        "pulls": pulls,
        "tests": tests,
    }


def status_lines(found: dict[str, Any]) -> list[str]:
    """`status` as lines for a person."""
    live = found["live"]
    switched = "on" if live["tenant_file"] and live["CRM_LIVE"] else "off"
    lines = [f"{found['tenant']}: live sending is switched {switched}"]
    if not live["armed"]:
        lines.append(f"  DISARMED: {live['disarmed_because']}")
    elif live["armed_by"]:
        lines.append(f"  armed by {live['armed_by']}, {_at(live['armed_at'])}")
    if live["closed_now"]:
        lines.append(f"  {live['closed_now']}: messages may leave again from {_at(live['opens_at'])} on")
    lines += [f"  STOP: {found['stop_sign']}"] if found["stop_sign"] else []
    for stop in found["stops"]:
        what = "all campaigns" if stop["campaign"] == ALL else stop["campaign"]
        lines.append(f"  stopped: {what}: {stop['reason']} ({stop['paused_by']}, {_at(stop['paused_at'])})")
    for each in found["campaigns"]:
        counts = ", ".join(f"{count} {state}" for state, count in each["messages"].items())
        waits = f", {each['wait_reason']} until {_at(each['wait_until'])}" if each["wait_reason"] else ""
        by = f", confirmed by {each['confirmed_by']}" if each["confirmed_by"] else ""
        lines.append(
            f"  {each['campaign']} {each['occurrence']} step {each['step']}: {each['status']}{waits}{by}: {counts}"
        )
        if each["is_interrupted"]:
            lines.append(f"    INTERRUPTED: {_what_to_do(found['tenant'], each)}")
    for chunk in found["unknown"]:
        lines.append(
            f"  unknown: {chunk['tag']}: {chunk['n_messages']} messages, {chunk['age_minutes']} minutes old;"
            f" {chunk['next']}"
        )
    for each in found["dead_letters"]:
        lines.append(f"  dead letters: {each['campaign']} {each['occurrence']}: {each['messages']} {each['reason']}")
    for pull in found["pulls"]:
        problem = f"; the last try failed: {pull['problem']}" if pull["problem"] else ""
        lines.append(f"  {pull['feed']} of Brevo read until {_at(pull['read_until'])}{problem}")
    return lines


def _at(moment: datetime | None) -> str:
    return moment.isoformat(timespec="minutes") if moment else "a person acts"


def _rows(connection: psycopg.Connection, statement: str, params: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    cursor = connection.execute(statement.encode(), params)
    names = [column.name for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def _campaigns(connection: psycopg.Connection) -> list[dict[str, Any]]:
    return _rows(
        connection,
        """
        select
            campaigns.campaign, campaigns.occurrence, campaigns.step, campaigns.channel, campaigns.status,
            campaigns.plan_hash, campaigns.expires_on, campaigns.began_at, campaigns.wait_until,
            campaigns.wait_reason, campaigns.confirmed_by, campaigns.confirmed_at, campaigns.ended_at,
            coalesce(counted.messages, '{}'::jsonb) as messages
        from activation.campaigns as campaigns
        left join (
            select campaign, occurrence, step, jsonb_object_agg(status, n order by status) as messages
            from (
                select campaign, occurrence, step, status, count(*) as n
                from activation.messages group by campaign, occurrence, step, status
            ) as states
            group by campaign, occurrence, step
        ) as counted using (campaign, occurrence, step)
        order by campaigns.planned_at, campaigns.campaign, campaigns.occurrence, campaigns.step
        """,
    )


def _interrupted(connection: psycopg.Connection) -> list[dict[str, Any]]:
    """Steps that a sender has begun and left in the middle, killed or by an error: nothing goes on with them."""
    from crm_assets import sending

    if sending.is_under_way(connection):
        return []
    return _rows(
        connection,
        "select campaign, occurrence, step from activation.campaigns where status = 'sending' order by 1, 2, 3",
    )


def _what_to_do(slug: str, each: dict[str, Any]) -> str:
    return (
        "its sender ended in the middle, and nothing goes on by itself: somebody may have meant to stop it. To go on:"
        f" crm send --tenant {slug} --campaign {each['campaign']} --occurrence {each['occurrence']} --live"
    )


def tell_interrupted(estate: Estate, now: datetime) -> list[str]:
    """Raise an alert for each send that ended in the middle, and end those of sends that went on; their causes."""
    from crm_assets.resources.control import Control

    with estate.warehouse.transaction() as connection:
        found = {
            f"{_INTERRUPTED}{each['campaign']} {each['occurrence']} {each['step']}": each
            for each in _interrupted(connection)
        }
    control, slug = Control(estate.config), estate.tenant.slug
    for cause, each in found.items():
        control.raise_alert(slug, cause, f"{each['campaign']} {each['occurrence']}: {_what_to_do(slug, each)}", now)
    control.recover(slug, _INTERRUPTED, now, still_open=found)
    return list(found)


def _unknown_chunks(connection: psycopg.Connection, rules: BusinessRules, now: datetime) -> list[dict[str, Any]]:
    settling = rules.activation.settling
    found = _rows(
        connection,
        "select tag, campaign, occurrence, step, n_messages, looks, looked_at,"
        " coalesce(unknown_since, first_tried_at, frozen_at) as since from activation.chunks"
        " where status in ('sending', 'unknown') order by 8, 1",
    )
    for chunk in found:
        age = now - chunk["since"]
        chunk["age_minutes"] = int(age / timedelta(minutes=1))
        if age >= timedelta(hours=settling.person_after_hours):
            chunk["next"] = (
                "a person decides, once Brevo's log was looked at: crm activation reconcile --tag TAG --as sent|failed"
                " --by NAME"
            )
        else:
            absent_from = chunk["since"] + timedelta(minutes=settling.absent_minutes)
            again = (chunk["looked_at"] or chunk["since"]) + timedelta(minutes=settling.look_gap_minutes)
            at = max(absent_from, again) if chunk["looks"] else again
            chunk["next"] = f"looked up in Brevo's log by the next send from {at.isoformat(timespec='minutes')} on"
    return found


# --- stop and go on


def stop(estate: Estate, campaign: str | None, reason: str, by: str, now: datetime) -> dict[str, Any]:
    """Stop a campaign, or all of them; a send under way makes no further call."""
    what, who = campaign or ALL, named(by)
    if campaign is not None:
        _known(estate, campaign)
    with estate.warehouse.transaction() as connection:
        is_new = safeguards.pause(connection, what, " ".join(reason.split()) or "stopped", who, now)
    return {"campaign": what, "stopped_by": who, "is_new": is_new}


def _known(estate: Estate, campaign: str) -> None:
    """RefusalError for the name of no campaign: a stop with a slip in it would stop nothing."""
    files = CampaignFiles(estate.config.tenants, estate.tenant)
    known = {*files.campaigns, *files.errors}
    known |= {row[0] for row in estate.warehouse.rows("select distinct campaign from activation.campaigns")}
    if campaign not in known:
        raise RefusalError("NO_CAMPAIGN", f"no campaign {campaign!r} (known: {', '.join(sorted(known)) or 'none'})")


def resume(estate: Estate, campaign: str | None, by: str, now: datetime) -> dict[str, Any]:
    """End the stops of a campaign, or (without one) the stop of all; a campaign's own stop outlives that."""
    what, who = campaign or ALL, named(by)
    ended = estate.warehouse.execute(
        "update activation.pauses set resumed_at = %s, resumed_by = %s where campaign = %s and resumed_at is null",
        [now, who, what],
    )
    left = estate.warehouse.rows(
        "select distinct campaign, reason from activation.pauses where resumed_at is null order by 1, 2"
    )
    if ended and campaign is not None:
        from crm_assets.resources.control import Control

        control, slug, cause = Control(estate.config), estate.tenant.slug, safeguards.pause_cause(campaign)
        # Of this campaign only, not of those whose names begin with its name.
        others = [alert.cause for alert in control.open_alerts(slug) if alert.cause != cause]
        control.recover(slug, cause, now, still_open=others)
    return {
        "campaign": what,
        "resumed_by": who,
        "ended": ended,
        "still_stopped": [{"campaign": name, "reason": reason} for name, reason in left],
    }


# --- confirm, retry, abandon


def _intervened(
    connection: psycopg.Connection,
    key: dict[str, Any],
    what: str,
    n_messages: int,
    by: str,
    now: datetime,
    tag: str | None = None,
) -> None:
    """Record a person's decision."""
    connection.execute(
        "insert into activation.interventions (intervention_id, campaign, occurrence, step, tag, what, n_messages,"
        " decided_by, decided_at) values (%(id)s, %(campaign)s, %(occurrence)s, %(step)s, %(tag)s, %(what)s, %(n)s,"
        " %(by)s, %(now)s)",
        {**key, "id": uuid.uuid4().hex, "tag": tag, "what": what, "n": n_messages, "by": by, "now": now},
    )


def confirm(
    estate: Estate, campaign: str, plan_hash: str, by: str, now: datetime, occurrence: str | None = None
) -> dict[str, Any]:
    """Let exactly the plan of that hash go live, in the name of a person. Nothing is sent by it."""
    stored, who = plan_of(estate, campaign, occurrence), named(by)
    if plan_hash.strip() != stored["plan_hash"]:
        raise RefusalError(
            "PLAN_HASH",
            f"the plan of {campaign} {stored['occurrence']} has the hash {stored['plan_hash']}, not the one given:"
            " look at that plan, then confirm its hash",
        )
    estate.warehouse.execute(
        f"update activation.campaigns set confirmed_by = %(by)s, confirmed_at = %(now)s where {_OF}",
        {"by": who, "now": now, **_key(stored)},
    )
    return {**_key(stored), "plan_hash": stored["plan_hash"], "confirmed_by": who, "audience": int(stored["audience"])}


def retry(estate: Estate, campaign: str, by: str, now: datetime, occurrence: str | None = None) -> dict[str, Any]:
    """Dead letters of an occurrence become planned again: those that Brevo has refused, and that its log does not name.

    A message that a person has given up as failed without anybody knowing stays: it may have been received.
    """
    stored, who = plan_of(estate, campaign, occurrence), named(by)
    with estate.warehouse.transaction() as connection:
        again = connection.execute(
            f"""
            update activation.messages as messages set status = 'planned', reason = null, tag = null
            where
                {_OF} and status = 'failed'
                and (
                    messages.tag is null
                    or exists (
                        select 1 from activation.chunks as chunks
                        where chunks.tag = messages.tag and chunks.status = 'rejected'
                    )
                )
                and not exists (
                    select 1 from activation.interventions as decided
                    where decided.tag = messages.tag and decided.what = 'failed'
                )
                and not exists (
                    select 1 from outcomes.events as events
                    where events.tag = messages.tag and events.address = messages.address
                )
            """.encode(),
            _key(stored),
        ).rowcount
        if again:
            connection.execute(
                f"update activation.campaigns set status = 'planned', ended_at = null where {_OF} and status = 'done'".encode(),  # noqa: E501
                _key(stored),
            )
        _intervened(connection, _key(stored), "retry", again, who, now)
        left = connection.execute(
            f"select count(*) from activation.messages where {_OF} and status = 'failed'".encode(), _key(stored)
        ).fetchone()
    return {**_key(stored), "planned_again": again, "still_failed": left[0] if left else 0, "by": who}


def abandon(estate: Estate, campaign: str, by: str, now: datetime, occurrence: str | None = None) -> dict[str, Any]:
    """Give up what is left of an occurrence: planned messages are superseded; what has left stays as it is."""
    stored, who = plan_of(estate, campaign, occurrence), named(by)
    key = _key(stored)
    with estate.warehouse.transaction() as connection:
        # First, since a send under way locks it before each call, and ends when it finds this.
        connection.execute(
            "update activation.campaigns set status = 'abandoned', ended_at = %(now)s, wait_until = null,"
            f" wait_reason = null where {_OF}".encode(),
            {**key, "now": now},
        )
        given_up = connection.execute(
            "update activation.messages set status = 'superseded', reason = %(why)s"
            f" where {_OF} and status = 'planned'".encode(),
            {**key, "why": ABANDONED},
        ).rowcount
        connection.execute(
            f"update activation.batches set status = 'superseded' where {_OF} and status = 'planned'".encode(), key
        )
        _intervened(connection, key, "abandon", given_up, who, now)
    return {**key, "given_up": given_up, "by": who}


# --- what nobody knows


def look_up(estate: Estate, client: Brevo, clock: Clock) -> dict[str, Any]:
    """Look every call of unknown fate up in Brevo's log now, as a send would; what never arrived is planned again, or
    superseded where its occurrence is over. Only for who holds the estate's lock.
    """
    settled = settlement.settle(estate.warehouse, estate.tenant, client, estate.rules, clock)
    with estate.warehouse.transaction() as connection:
        settlement.let_go(connection, settled.absent, clock.now())
    return asdict(settled)


def decide(estate: Estate, tag: str, is_sent: bool, by: str, now: datetime) -> dict[str, Any]:
    """A person says what became of a call's messages that the log did not settle within a day.

    Said to be sent, they count as contacts; said to have failed, they are dead letters that no retry takes up, since
    nobody knows.
    """
    who, what = named(by), "sent" if is_sent else "failed"
    hours = estate.rules.activation.settling.person_after_hours
    with estate.warehouse.transaction() as connection:
        found = connection.execute(
            "select campaign, occurrence, step, coalesce(unknown_since, first_tried_at, frozen_at)"
            " from activation.chunks where tag = %s and status = 'unknown' for update",
            [tag],
        ).fetchone()
        if found is None:
            raise RefusalError("NOT_UNKNOWN", f"no call {tag} of unknown fate; see crm activation status")
        campaign, occurrence, step, since = found
        from_then = since + timedelta(hours=hours)
        if now < from_then:
            raise RefusalError(
                "TOO_EARLY",
                f"Brevo's log may still settle it by itself; a person decides from"
                f" {from_then.astimezone(estate.tenant.zone):%Y-%m-%d %H:%M} ({estate.tenant.timezone}) on",
            )
        decided = connection.execute(
            "update activation.messages set status = %(what)s, reason = 'DECIDED',"
            " sent_at = case when %(is_sent)s then coalesce(sent_at, %(since)s) end"
            " where tag = %(tag)s and status = 'unknown'",
            {"what": what, "is_sent": is_sent, "since": since, "tag": tag},
        ).rowcount
        connection.execute(
            "update activation.chunks set status = %s, settled_at = %s, settled_by = %s where tag = %s",
            ["accepted" if is_sent else "rejected", now, who, tag],
        )
        key = {"campaign": campaign, "occurrence": occurrence, "step": step}
        _intervened(connection, key, what, decided, who, now, tag)
    from crm_assets.resources.control import Control

    Control(estate.config).recover(estate.tenant.slug, f"SETTLING {tag}", now)
    return {**key, "tag": tag, "decided": what, "messages": decided, "by": who}


# --- what goes on by itself


def to_continue(estate: Estate, now: datetime) -> list[dict[str, Any]]:
    """The campaigns that a person has confirmed and begun live, that wait, and whose wait is over: campaign,
    occurrence, step, plan_hash, confirmed_by. None while anything stops the estate.
    """
    if not (estate.tenant.brevo.live and estate.config.live):
        return []
    if safeguards.closed_reason(estate.tenant, estate.rules, now):
        return []
    with estate.warehouse.transaction() as connection:
        found = _rows(
            connection,
            "select campaign, occurrence, step, plan_hash, confirmed_by from activation.campaigns as campaigns"
            " where status = 'waiting' and wait_until <= %(now)s and wait_reason = any(%(waits)s)"
            " and confirmed_by is not null and began_at is not null and expires_on >= %(today)s"
            " and not exists (select 1 from activation.pauses as pauses where pauses.resumed_at is null"
            " and pauses.campaign in ('*', campaigns.campaign)) order by wait_until, campaign, occurrence, step",
            {"now": now, "waits": list(safeguards.WAITS), "today": estate.tenant.today(now)},
        )
        if found and instances.why_disarmed(connection, estate.config, estate.tenant.slug):
            return []
    if found and safeguards.stop_sign(estate.tenant, estate.config):
        return []
    return found
