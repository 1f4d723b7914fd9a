"""What a person asks of campaigns that leave, or have left: where they stand, stop, go on, confirm, try dead letters
again, give up what is left, decide what nobody can know (spec.md §7).

Shared by `crm activation …` and the jobs of the UI; runs without Dagster. Nothing here calls Brevo but `reconcile`,
which only reads; calls that write to people are made in `sending.py` and, for tests, in `test_sends.py`. Every change
names the person who asked for it.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import psycopg

from crm_assets import instances, safeguards
from crm_assets.activation import stored_plan
from crm_assets.campaigns import CampaignFiles
from crm_assets.logic.activation import RefusalError
from crm_assets.resources.warehouse import Warehouse
from crm_assets.rules import BusinessRules
from crm_assets.settings import Settings
from crm_assets.tenants import Tenant

ABANDONED = "ABANDONED"
ALL = "*"
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


def _plan(estate: Estate, campaign: str, occurrence: str | None) -> dict[str, Any]:
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
        "campaigns": campaigns,
        "unknown": unknown,
        "dead_letters": dead,
        "pulls": pulls,
        "tests": tests,
    }


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


def _unknown_chunks(connection: psycopg.Connection, rules: BusinessRules, now: datetime) -> list[dict[str, Any]]:
    settling = rules.activation.settling
    found = _rows(
        connection,
        "select tag, campaign, occurrence, step, n_messages, looks, looked_at,"
        " coalesce(first_tried_at, frozen_at) as tried_at from activation.chunks"
        " where status in ('sending', 'unknown') order by 8, 1",
    )
    for chunk in found:
        age = now - chunk["tried_at"]
        chunk["age_minutes"] = int(age / timedelta(minutes=1))
        if age >= timedelta(hours=settling.person_after_hours):
            chunk["next"] = "a person decides: crm activation reconcile --tag TAG --as sent|failed --by NAME"
        else:
            absent_from = chunk["tried_at"] + timedelta(minutes=settling.absent_minutes)
            again = (chunk["looked_at"] or chunk["tried_at"]) + timedelta(minutes=settling.look_gap_minutes)
            chunk["next"] = (
                f"the next send looks it up in Brevo's log; absent, it is sent again from {max(absent_from, again).isoformat(timespec='minutes')} on"  # noqa: E501
            )
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

        Control(estate.config).recover(estate.tenant.slug, safeguards.pause_cause(campaign), now)
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
    stored, who = _plan(estate, campaign, occurrence), named(by)
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
    stored, who = _plan(estate, campaign, occurrence), named(by)
    with estate.warehouse.transaction() as connection:
        again = connection.execute(
            f"""
            update activation.messages as messages set status = 'planned', reason = null, tag = null
            where
                {_OF} and status = 'failed'
                and exists (
                    select 1 from activation.chunks as chunks
                    where chunks.tag = messages.tag and chunks.status = 'rejected'
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
    stored, who = _plan(estate, campaign, occurrence), named(by)
    key = _key(stored)
    with estate.warehouse.transaction() as connection:
        given_up = connection.execute(
            "update activation.messages set status = 'superseded', reason = %(why)s"
            f" where {_OF} and status = 'planned'".encode(),
            {**key, "why": ABANDONED},
        ).rowcount
        connection.execute(
            f"update activation.batches set status = 'superseded' where {_OF} and status = 'planned'".encode(), key
        )
        connection.execute(
            "update activation.campaigns set status = 'abandoned', ended_at = %(now)s, wait_until = null,"
            f" wait_reason = null where {_OF}".encode(),
            {**key, "now": now},
        )
        _intervened(connection, key, "abandon", given_up, who, now)
    return {**key, "given_up": given_up, "by": who}
