"""Whether the outbox is as it must be: before anything could leave, and after it has."""

from datetime import timedelta

import dagster as dg

from crm_assets.defs.common import TenantRun, tenant_check
from crm_assets.rearming import RESTORED


@tenant_check(("activation", "messages"), name="an_address_once_per_occurrence", blocking=True)
def an_address_once_per_occurrence(
    context: dg.AssetCheckExecutionContext, tenant_run: TenantRun
) -> dg.AssetCheckResult:
    """No address stands twice in an occurrence of a campaign, whatever its letter case."""
    (twice,) = tenant_run.warehouse.rows(
        "select count(*) from (select 1 from activation.messages"
        " group by campaign, occurrence, step, lower(trim(address)) having count(*) > 1) as doubles"
    )[0]
    return dg.AssetCheckResult(passed=twice == 0, metadata={"addresses_twice": twice, "allowed": 0})


@tenant_check(("activation", "messages"), name="planned_only_if_eligible", blocking=True)
def planned_only_if_eligible(context: dg.AssetCheckExecutionContext, tenant_run: TenantRun) -> dg.AssetCheckResult:
    """Every message that this run planned is to a customer who is permitted in the run it pins, and eligible where it
    recommends wines by e-mail: the gate's word for a call or a letter would ask for an e-mail address.

    A review that came back since may bar customers of an older plan: these are counted, and held back at the send.
    """
    wrong, held = tenant_run.warehouse.rows(
        "select count(*) filter (where messages.planned_at >= %(now)s),"
        " count(*) filter (where messages.planned_at < %(now)s and messages.status = 'planned')"
        " from activation.messages as messages"
        " left join gate.next_actions as actions using (run_id, customer_id)"
        " where actions.customer_id is null or not actions.permitted"
        " or (not actions.eligible and cardinality(messages.wine_ids) > 0 and not exists ("
        "select 1 from activation.campaigns as campaigns where campaigns.channel in ('phone', 'post')"
        " and (campaigns.campaign, campaigns.occurrence, campaigns.step)"
        " = (messages.campaign, messages.occurrence, messages.step)))",
        {"now": tenant_run.now},
    )[0]
    return dg.AssetCheckResult(
        passed=wrong == 0,
        metadata={"messages_not_eligible": wrong, "allowed": 0, "barred_since_they_were_planned": held},
    )


@tenant_check(("activation", "batches"), name="batches_hold_their_messages", blocking=True)
def batches_hold_their_messages(context: dg.AssetCheckExecutionContext, tenant_run: TenantRun) -> dg.AssetCheckResult:
    """A batch has as many messages as it says, at most the largest size, and the campaign's counts add up."""
    largest = tenant_run.rules.activation.batch_max
    (batches, campaigns) = tenant_run.warehouse.rows(
        """
        select (
            select count(*) from activation.batches as batches
            where batches.n_messages > %s or batches.n_messages <> (
                select count(*) from activation.messages as messages where messages.batch_id =
                batches.batch_id)
        ), (
            select count(*) from activation.campaigns as campaigns
            where campaigns.audience <> (
                select count(*) from activation.messages as messages
                where (messages.campaign, messages.occurrence, messages.step)
                    = (campaigns.campaign, campaigns.occurrence, campaigns.step))
        )
        """,
        [largest],
    )[0]
    return dg.AssetCheckResult(
        passed=batches == 0 and campaigns == 0,
        metadata={"wrong_batches": batches, "wrong_campaigns": campaigns, "largest_batch_allowed": largest},
    )


@tenant_check(("activation", "attempts"), name="a_dry_run_moves_no_message", blocking=True)
def a_dry_run_moves_no_message(context: dg.AssetCheckExecutionContext, tenant_run: TenantRun) -> dg.AssetCheckResult:
    """An e-mail has left its planned state only where its occurrence had a call that was no dry run, or where Brevo's
    log named it when live sending was armed again.
    """
    (moved,) = tenant_run.warehouse.rows(
        "select count(*) from activation.messages as messages"
        " left join activation.campaigns as campaigns using (campaign, occurrence, step)"
        " where messages.status in ('sending', 'sent', 'failed', 'unknown') and not exists ("
        " select 1 from activation.attempts as attempts where not attempts.is_dry_run"
        " and (attempts.campaign, attempts.occurrence, attempts.step)"
        " = (messages.campaign, messages.occurrence, messages.step))"
        " and coalesce(campaigns.channel, 'email') = 'email' and messages.reason is distinct from %s",
        [RESTORED.upper()],
    )[0]
    return dg.AssetCheckResult(passed=moved == 0, metadata={"messages_moved": moved, "allowed": 0})


@tenant_check(("activation", "attempts"), name="nobody_is_sent_a_message_twice")
def nobody_is_sent_a_message_twice(
    context: dg.AssetCheckExecutionContext, tenant_run: TenantRun
) -> dg.AssetCheckResult:
    """No address has two messages of one step of an occurrence: not in Brevo's log, whatever the ledger says, and none
    that the ledger does not have as sent.
    """
    twice, strangers = tenant_run.warehouse.rows(
        """
        with logged as (
            select campaign, occurrence, step, address, count(distinct coalesce(message_ref, tag)) as messages
            from outcomes.events
            where event = 'sent' and occurrence is not null
            group by campaign, occurrence, step, address
        )

        select
            count(*) filter (where logged.messages > 1),
            count(*) filter (where messages.status is null or messages.status in ('planned', 'superseded', 'holdout'))
        from logged
        left join activation.messages as messages using (campaign, occurrence, step, address)
        """
    )[0]
    return dg.AssetCheckResult(
        passed=twice == 0 and strangers == 0,
        metadata={"addresses_twice": twice, "sent_but_not_so_in_the_ledger": strangers, "allowed": 0},
    )


@tenant_check(("activation", "chunks"), name="the_ledger_agrees_with_itself")
def the_ledger_agrees_with_itself(context: dg.AssetCheckExecutionContext, tenant_run: TenantRun) -> dg.AssetCheckResult:
    """Messages, calls and tries say the same: a message on its way or sent has its call, a call that Brevo took has no
    message that did not leave, and every call was tried before it was taken.
    """
    without, unsettled, untried = tenant_run.warehouse.rows(
        """
        select (
            select count(*) from activation.messages as messages
            where messages.status in ('sending', 'unknown')
            and not exists (
                select 1 from activation.chunks as chunks
                where chunks.tag = messages.tag and chunks.status in ('sending', 'unknown')
            )
        ), (
            select count(*) from activation.messages as messages
            inner join activation.chunks as chunks on messages.tag = chunks.tag
            where (chunks.status = 'accepted' and messages.status in ('planned', 'sending', 'unknown'))
            or (chunks.status in ('released', 'split') and messages.status in ('sending', 'unknown'))
        ), (
            select count(*) from activation.chunks as chunks
            where chunks.settled_by = 'answer' and chunks.status in ('accepted', 'rejected', 'split')
            and not exists (
                select 1 from activation.attempts as attempts
                where attempts.tag = chunks.tag and not attempts.is_dry_run and attempts.ended_at is not null
            )
        )
        """
    )[0]
    return dg.AssetCheckResult(
        passed=without == unsettled == untried == 0,
        metadata={
            "messages_on_their_way_without_a_call": without,
            "messages_that_differ_from_their_call": unsettled,
            "calls_settled_without_a_try": untried,
            "allowed": 0,
        },
    )


@tenant_check(("activation", "chunks"), name="no_call_is_unknown_for_a_day")
def no_call_is_unknown_for_a_day(context: dg.AssetCheckExecutionContext, tenant_run: TenantRun) -> dg.AssetCheckResult:
    """Calls whose answer was lost are settled by Brevo's log within hours; one that is not wants a person
    (`crm activation reconcile`).
    """
    hours = tenant_run.rules.activation.settling.person_after_hours
    since = tenant_run.now - timedelta(hours=hours)
    unknown, old = tenant_run.warehouse.rows(
        "select count(*), count(*) filter (where coalesce(unknown_since, first_tried_at, frozen_at) < %s)"
        " from activation.chunks where status in ('sending', 'unknown')",
        [since],
    )[0]
    return dg.AssetCheckResult(
        passed=old == 0, metadata={"unknown_calls": unknown, "older_than_allowed": old, "hours_allowed": hours}
    )


@tenant_check(("activation", "attempts"), name="few_dead_letters")
def few_dead_letters(context: dg.AssetCheckExecutionContext, tenant_run: TenantRun) -> dg.AssetCheckResult:
    """In no step of an occurrence does Brevo refuse more than a small share of the messages."""
    most = tenant_run.rules.activation.max_dead_letter_share
    worst, failed = tenant_run.warehouse.rows(
        """
        select coalesce(max(failed::float / tried), 0), coalesce(sum(failed), 0)
        from (
            select
                count(*) filter (where status = 'failed') as failed,
                count(*) filter (where status in ('failed', 'sent', 'unknown')) as tried
            from activation.messages
            group by campaign, occurrence, step
        ) as counted
        where tried > 0
        """
    )[0]
    return dg.AssetCheckResult(
        passed=worst <= most,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"dead_letters": int(failed), "largest_share": round(worst, 4), "share_allowed": most},
    )
