"""Whether the outbox is as it must be before anything could leave."""

import dagster as dg

from crm_assets.defs.common import TenantRun, tenant_check


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
    recommends wines.

    A review that came back since may bar customers of an older plan: these are counted, and held back at the send.
    """
    wrong, held = tenant_run.warehouse.rows(
        "select count(*) filter (where messages.planned_at >= %(now)s),"
        " count(*) filter (where messages.planned_at < %(now)s and messages.status = 'planned')"
        " from activation.messages as messages"
        " left join gate.next_actions as actions using (run_id, customer_id)"
        " where actions.customer_id is null or not actions.permitted"
        " or (not actions.eligible and cardinality(messages.wine_ids) > 0)",
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
    """A message has left its planned state only where its occurrence had a call that was no dry run."""
    (moved,) = tenant_run.warehouse.rows(
        "select count(*) from activation.messages as messages"
        " where messages.status in ('sending', 'sent', 'failed', 'unknown') and not exists ("
        " select 1 from activation.attempts as attempts where not attempts.is_dry_run"
        " and (attempts.campaign, attempts.occurrence, attempts.step)"
        " = (messages.campaign, messages.occurrence, messages.step))"
    )[0]
    return dg.AssetCheckResult(passed=moved == 0, metadata={"messages_moved": moved, "allowed": 0})
