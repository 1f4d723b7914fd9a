"""The jobs by which people stop, resume and test sending from the UI alone, and the schedule that goes on with what
they have begun.

The jobs are small, take no run's lock and write nothing but what was asked for. The work is in `operations.py` and
`test_sends.py`; sending itself is the asset activation/attempts. Whoever decides is named in the run's configuration.
"""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import dagster as dg
from pydantic import Field

from crm_assets import operations
from crm_assets.clock import SystemClock
from crm_assets.defs.automation import send_campaign_job
from crm_assets.defs.common import PARTITION_TAG, TRIGGER_TAG, tenants_partitions
from crm_assets.logic.activation import RefusalError
from crm_assets.resources.warehouse import Warehouse, WarehouseError
from crm_assets.safeguards import CONTINUE_SENDS
from crm_assets.settings import settings
from crm_assets.tenants import Registry, Tenant, TenantError

CAMPAIGNS = dg.AssetKey(["activation", "campaigns"])
_UNDER_WAY = (
    *(dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED),
    *(dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED),
)


def _estate(tenant: Tenant) -> operations.Estate:
    from crm_assets import databases

    config = settings()
    url = databases.cluster(config).tenant_url(tenant.slug)
    return operations.Estate(tenant, Warehouse(url, application_name="crm-ui"), config)


class Stop(dg.Config):
    """What to stop, and who says so."""

    # With defaults, so that the Launchpad shows all from the start.
    campaign: str = Field("", description="Name of a campaign file; empty: all campaigns of the estate.")
    reason: str = Field("", description="Why: it is shown wherever a send is refused.")
    by: str = Field("", description="Your name.")


class Resume(dg.Config):
    """What goes on, and who says so."""

    campaign: str = Field("", description="Name of a campaign file; empty: the stop of all campaigns.")
    by: str = Field("", description="Your name.")


class Test(dg.Config):
    """Which campaign to test."""

    campaign: str = Field("", description="Name of a campaign file that has been planned.")


class AcceptTest(dg.Config):
    """Whose test is accepted, and by whom."""

    campaign: str = Field("", description="Name of a campaign file.")
    by: str = Field("", description="Your name: you have looked at the messages of the test.")


def _answered(
    context: dg.OpExecutionContext, work: Callable[[operations.Estate], tuple[list[str], dict[str, Any]]]
) -> None:
    """Do it for the chosen estate; the answer stands in the log and in an observation of activation/campaigns.

    A refusal is an answer too, and fails the run: whoever asked for a stop must see that there is none.
    """
    if not context.has_partition_key:
        raise dg.Failure("Which estate? Choose it as Partition above the configuration, and launch again.")
    slug = context.partition_key
    try:
        lines, metadata = work(_estate(Registry(settings().tenants).get(slug)))
    except (RefusalError, TenantError) as refusal:
        raise dg.Failure(str(refusal), metadata={"refused": getattr(refusal, "code", "TENANT")}) from refusal
    for line in lines:
        context.log.info(line)
    shown = {"answer": dg.MetadataValue.md("\n".join(f"* {line}" for line in lines)), **metadata}
    context.log_event(dg.AssetObservation(CAMPAIGNS, partition=slug, metadata=shown))


@dg.op(name="stop", out=dg.Out(dg.Nothing))
def stop_now(context: dg.OpExecutionContext, config: Stop) -> None:
    def work(estate: operations.Estate) -> tuple[list[str], dict[str, Any]]:
        now = SystemClock().now()
        done = operations.stop(estate, config.campaign.strip() or None, config.reason, config.by, now)
        return [f"stopped: {done['campaign']}; no call follows the one under way"], done

    _answered(context, work)


@dg.op(name="resume", out=dg.Out(dg.Nothing))
def resume_now(context: dg.OpExecutionContext, config: Resume) -> None:
    def work(estate: operations.Estate) -> tuple[list[str], dict[str, Any]]:
        done = operations.resume(estate, config.campaign.strip() or None, config.by, SystemClock().now())
        still = [f"still stopped: {each['campaign']}: {each['reason']}" for each in done.pop("still_stopped")]
        return [f"{done['ended']} stops of {done['campaign']} ended", *still], done

    _answered(context, work)


@dg.op(name="test", out=dg.Out(dg.Nothing))
def test_now(context: dg.OpExecutionContext, config: Test) -> None:
    def work(estate: operations.Estate) -> tuple[list[str], dict[str, Any]]:
        from crm_assets import test_sends
        from crm_assets.resources import brevo

        clock = SystemClock()
        try:
            client = brevo.client(estate.tenant, estate.config, clock, mode="live")
        except brevo.LiveRefusedError as error:
            raise RefusalError("LIVE_REFUSED", str(error)) from None
        with client:
            sent = test_sends.send_test(estate, config.campaign.strip(), client, clock)
        return [f"{sent.messages} messages to each of {sent.addresses} test addresses: {sent.outcome}"], sent.as_dict()

    _answered(context, work)


@dg.op(name="accept", out=dg.Out(dg.Nothing))
def accept_now(context: dg.OpExecutionContext, config: AcceptTest) -> None:
    def work(estate: operations.Estate) -> tuple[list[str], dict[str, Any]]:
        from crm_assets import test_sends

        done = test_sends.accept_test(estate, config.campaign.strip(), SystemClock(), by=config.by)
        return [f"test of {done['campaign']} accepted by {done['accepted_by']}"], done

    _answered(context, work)


@dg.op(name="status", out=dg.Out(dg.Nothing))
def status_now(context: dg.OpExecutionContext) -> None:
    def work(estate: operations.Estate) -> tuple[list[str], dict[str, Any]]:
        return operations.status_lines(operations.status(estate, SystemClock().now())), {}

    _answered(context, work)


_HOW = "In the Launchpad choose the estate as partition, fill in the configuration and launch."


@dg.job(
    name="stop_sending",
    partitions_def=tenants_partitions,
    description=f"Stops a campaign, or all of an estate: no call to Brevo follows the one under way. {_HOW}",
)
def stop_sending_job() -> None:
    stop_now()


@dg.job(
    name="resume_sending",
    partitions_def=tenants_partitions,
    description=f"Ends the stop of a campaign, or the stop of all. Sends nothing by itself. {_HOW}",
)
def resume_sending_job() -> None:
    resume_now()


@dg.job(
    name="test_campaign",
    partitions_def=tenants_partitions,
    description=f"Sends one message of each kind of a planned campaign to the estate's own test addresses. {_HOW}",
)
def test_campaign_job() -> None:
    test_now()


@dg.job(
    name="accept_test",
    partitions_def=tenants_partitions,
    description=f"Accepts the newest test of a campaign: its templates may go live as they are. {_HOW}",
)
def accept_test_job() -> None:
    accept_now()


@dg.job(
    name="activation_status",
    partitions_def=tenants_partitions,
    description="Where an estate's campaigns stand: what waits and why, what is unknown, whether live is armed.",
)
def activation_status_job() -> None:
    status_now()


@dg.schedule(
    job=send_campaign_job,
    cron_schedule="*/15 * * * *",
    execution_timezone="UTC",
    name=CONTINUE_SENDS,
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Goes on with campaigns that a person has confirmed and begun live, once what they wait for is over:"
    " the pause after the first messages, the sending window, a closed day, a look at Brevo's log. It begins none.",
)
def continue_sends(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
    now = context.scheduled_execution_time.astimezone(UTC)
    partitions = set(context.instance.get_dynamic_partitions("tenant"))
    requests: list[dg.RunRequest] = []
    unreachable: list[str] = []
    for tenant in Registry(settings().tenants):
        if tenant.slug not in partitions or not tenant.brevo.live or _is_sending(context.instance, tenant.slug):
            continue
        try:
            requests += _continued(tenant, now)
        except WarehouseError:  # one estate out of reach must not hold up the others
            unreachable.append(tenant.slug)
    yield from requests
    if not requests:
        also = f"; out of reach: {', '.join(unreachable)}" if unreachable else ""
        yield dg.SkipReason(f"no campaign that was begun live has waited long enough{also}")


def _is_sending(instance: dg.DagsterInstance, slug: str) -> bool:
    wanted = dg.RunsFilter(job_name=send_campaign_job.name, tags={PARTITION_TAG: slug}, statuses=list(_UNDER_WAY))
    return bool(instance.get_run_records(wanted, limit=1))


def _continued(tenant: Tenant, now: datetime) -> Iterator[dg.RunRequest]:
    estate = _estate(tenant)
    operations.tell_interrupted(estate, now)
    for each in operations.to_continue(estate, now):
        config = {
            "campaign": each["campaign"],
            "occurrence": each["occurrence"],
            "confirmed_plan_hash": each["plan_hash"],
            "confirmed_by": each["confirmed_by"],
        }
        yield dg.RunRequest(
            # The tick is in it: what could not go on at this one is asked for again at the next.
            run_key=f"continue:{tenant.slug}:{each['campaign']}:{each['occurrence']}:{each['step']}:{now:%Y%m%dT%H%M}",
            partition_key=tenant.slug,
            run_config={"ops": {"activation__send": {"config": config}}},
            tags={TRIGGER_TAG: "continue"},
        )


JOBS = [stop_sending_job, resume_sending_job, test_campaign_job, accept_test_job, activation_status_job]
SCHEDULES = [continue_sends]
