"""When things run: jobs, the file sensor, the weekly schedule, what follows a run, and who hears of a failure.

The spine is sensors and one schedule, in every environment. None of them ever sends: `send_campaign` is started
by a person, and is a dry run unless the tenant's file, the environment and the plan's hash all say otherwise.
"""

import inspect
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg

from crm_assets import run_context
from crm_assets.defs.common import (
    AFTER_REFRESH,
    DAY_TAG,
    MONTH_TAG,
    PARTITION_TAG,
    STAGES,
    TRIGGER_TAG,
    WEEK_TAG,
    tenants_partitions,
)
from crm_assets.settings import brevo_key, settings
from crm_assets.tenants import Registry, Tenant

READ_REVIEWS = ("review.decisions", "review.receipts", "review.receipt_lines")
REFRESH_STAGES = STAGES[: STAGES.index("gate") + 1]
# A tick has 60 s: many tenants at once are asked for over several ticks.
MAX_REQUESTS_PER_TICK = 50
# Which files are review workbooks, their content tells. Where that would take long a refresh is asked for, which is
# always right: it reads them too.
MAX_UNKNOWN_FILES, MAX_UNKNOWN_BYTES, MAX_CONTENT_SECONDS = 20, 64 << 20, 10.0
# Drop folders on other machines: a tick waits this long for all of them, this many at once.
MAX_LOOK_SECONDS, MAX_LOOKS_AT_ONCE = 40.0, 16
# Webhooks: the last try of a tick may begin just before, and take webhooks.timeout_seconds.
MAX_DELIVERY_SECONDS = 25.0


def _tables(*names: str) -> dg.AssetSelection:
    return dg.AssetSelection.assets(*(dg.AssetKey(name.split(".")) for name in names))


refresh_job = dg.define_asset_job(
    "refresh",
    # Of the review: what of earlier decisions holds on the new list, the sample that the gate asks for, and the
    # workbooks that came with the exports.
    selection=dg.AssetSelection.groups(*REFRESH_STAGES)
    | _tables("review.applied_decisions", "review.samples", *READ_REVIEWS),
    partitions_def=tenants_partitions,
    description="Lands what is new and computes everything up to the gate. Sends nothing.",
)
read_reviews_job = dg.define_asset_job(
    "read_reviews",
    selection=_tables(*READ_REVIEWS),
    partitions_def=tenants_partitions,
    description="Reads the review workbooks that came back, and decides the gate of their runs again. Sends nothing.",
)
ingest_job = dg.define_asset_job(
    "ingest",
    selection=dg.AssetSelection.groups("landing", "raw"),
    partitions_def=tenants_partitions,
    description="Lands what is new and computes nothing from it.",
)
plan_campaign_job = dg.define_asset_job(
    "plan_campaign",
    selection=_tables("activation.campaigns", "activation.batches", "activation.messages", "activation.call_lists"),
    partitions_def=tenants_partitions,
    description="Plans the messages of the estate's campaigns from the gate in force. Sends nothing.",
)
send_campaign_job = dg.define_asset_job(
    "send_campaign",
    selection=_tables("activation.attempts", "activation.chunks"),
    partitions_def=tenants_partitions,
    description="Hands planned batches to Brevo: a dry run unless live sending is switched on everywhere it must be.",
)
review_workbook_job = dg.define_asset_job(
    "review_workbook",
    selection=_tables("review.workbooks"),
    partitions_def=tenants_partitions,
    description="Writes the workbook in which people approve or reject what the run in force recommends.",
)
# What is read from Brevo day by day; before a send, the sender reads refusals by itself.
FEEDBACK = ("outcomes.events", "outcomes.brevo_campaigns", "activation.pulls")
pull_feedback_job = dg.define_asset_job(
    "pull_feedback",
    selection=_tables(*FEEDBACK),
    partitions_def=tenants_partitions,
    description="Reads what came back from Brevo: events, refusals, campaigns of its own screens. Sends nothing.",
)
sync_contacts_job = dg.define_asset_job(
    "sync_contacts",
    selection=_tables("activation.contact_lists"),
    partitions_def=tenants_partitions,
    description="Hands contacts and lists over to Brevo as far as they changed. Dry unless it is asked to be live.",
)
report_job = dg.define_asset_job(
    "report",
    selection=dg.AssetSelection.groups("outcomes", "kpis", "reports") - _tables("reports.monthly_reports", *FEEDBACK)
    | _tables("review.workbooks"),
    partitions_def=tenants_partitions,
    description="What became of the messages, the KPIs, the exports and the weekly report of the gate in force.",
)
monthly_report_job = dg.define_asset_job(
    "monthly_report",
    selection=dg.AssetSelection.groups("outcomes", "kpis") - _tables(*FEEDBACK)
    | _tables("reports.monthly_reports", "reports.mailings"),
    partitions_def=tenants_partitions,
    description="The monthly report of the newest month that is over; mailed when its schedule has asked for it.",
)
JOBS = [
    ingest_job,
    refresh_job,
    read_reviews_job,
    plan_campaign_job,
    send_campaign_job,
    report_job,
    monthly_report_job,
    review_workbook_job,
    pull_feedback_job,
    sync_contacts_job,
]


def _control() -> Any:
    from crm_assets.resources.control import Control

    return Control()


def _troubled(control: Any, cause: str) -> set[str]:
    """The tenants with an open alert of this cause: one look for all, where most ticks have nothing to close."""
    return {alert.tenant for alert in control.open_alerts() if alert.cause == cause}


@dg.sensor(
    name="tenant_files",
    minimum_interval_seconds=15,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Keeps the `tenant` partitions equal to the tenant files, and reports a file that is wrong.",
)
def tenant_files(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    registry, now = Registry(settings().tenants), datetime.now(UTC)
    known = set(context.instance.get_dynamic_partitions("tenant"))
    new = [slug for slug in registry.tenants if slug not in known]
    # An estate whose file is wrong for the moment keeps its partition and its history.
    gone = [slug for slug in known if slug not in registry.tenants and slug not in registry.errors]
    with _control().session() as control:
        for slug, problem in registry.errors.items():
            control.raise_alert(slug, "tenant-file", problem, now)
        for slug in _troubled(control, "tenant-file") & set(registry.tenants):
            control.recover(slug, "tenant-file", now)
    requests: list[Any] = []
    if new:
        requests.append(tenants_partitions.build_add_request(new))
    if gone:
        requests.append(tenants_partitions.build_delete_request(gone))
    if requests:
        return dg.SensorResult(dynamic_partitions_requests=requests)
    wrong = "; ".join(registry.errors.values())
    return dg.SkipReason(f"{len(registry.tenants)} tenants, no change" + (f"; {wrong}" if wrong else ""))


@dg.sensor(
    name="dropped_files",
    jobs=[refresh_job, read_reviews_job],
    minimum_interval_seconds=10,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Asks for one run per settled drop: when a folder looks the same twice and has not landed so. Where"
    " review workbooks alone are new, they are read, and the run that they are about stays in force; else a refresh.",
)
def dropped_files(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    tenants = [tenant for tenant in _estates(context) if not run_context.is_elsewhere(tenant)]
    return _ask_for_drops(tenants, ((tenant, _look(tenant)) for tenant in tenants))


@dg.sensor(
    name="dropped_files_elsewhere",
    jobs=[refresh_job, read_reviews_job],
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="The same for drop folders on other machines: less often, side by side, so that none delays another.",
)
def dropped_files_elsewhere(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    tenants = [tenant for tenant in _estates(context) if run_context.is_elsewhere(tenant)]
    # Who was not reached in the last tick's time comes first in this one.
    start = next((n for n, tenant in enumerate(tenants) if tenant.slug == context.cursor), 0)
    tenants = tenants[start:] + tenants[:start]
    looks, late = _look_side_by_side(tenants)
    context.update_cursor(late[0].slug if late else "")
    return _ask_for_drops(tenants, looks, late)


def _estates(context: dg.SensorEvaluationContext) -> list[Tenant]:
    partitions = set(context.instance.get_dynamic_partitions("tenant"))
    return [tenant for tenant in Registry(settings().tenants) if tenant.slug in partitions]


def _look(tenant: Tenant) -> dict[str, str] | Exception | None:
    """Path -> signature of the files in a tenant's folder; None without a folder, the reason when it cannot be read."""
    try:
        with run_context.drop_zone(tenant, settings()) as zone:
            files = {file.path: file.signature for file in zone.list()}
            return files if files or zone.exists() else None
    except (OSError, run_context.DropZoneError) as error:  # one folder out of reach must not stop the others
        return error


# Looks that a tick did not wait for, by tenant: a later tick takes what they saw.
_under_way: dict[str, Future[dict[str, str] | Exception | None]] = {}


def _look_side_by_side(
    tenants: list[Tenant],
) -> tuple[list[tuple[Tenant, dict[str, str] | Exception | None]], list[Tenant]]:
    """The folders as they are, and the tenants whose servers did not answer within the tick's time."""
    pool = ThreadPoolExecutor(MAX_LOOKS_AT_ONCE, "drop-folders")
    looks = {
        tenant.slug: _under_way.pop(tenant.slug) if tenant.slug in _under_way else pool.submit(_look, tenant)
        for tenant in tenants
    }
    _, unfinished = wait(looks.values(), timeout=MAX_LOOK_SECONDS)
    pool.shutdown(wait=False, cancel_futures=True)
    _under_way.update({slug: looks[slug] for slug in looks if looks[slug] in unfinished and looks[slug].running()})
    done = [(tenant, looks[tenant.slug].result()) for tenant in tenants if looks[tenant.slug] not in unfinished]
    return done, [tenant for tenant in tenants if looks[tenant.slug] in unfinished]


def _ask_for_drops(
    tenants: list[Tenant],
    looks: Iterable[tuple[Tenant, dict[str, str] | Exception | None]],
    late: Sequence[Tenant] = (),
) -> dg.SensorResult | dg.SkipReason:
    """Note what was seen, alert what cannot be, and ask for a run of each tenant whose folder has settled anew."""
    if not tenants:
        return dg.SkipReason("no drop folder to look at")
    from crm_assets.resources.control import Drop, fingerprint, is_due

    now = datetime.now(UTC)
    requests: list[dg.RunRequest] = []
    states: dict[str, str] = {}
    unreachable = [tenant.slug for tenant in late]
    deadline = time.monotonic() + MAX_CONTENT_SECONDS
    with _control().session() as control:
        drops, out_of_reach = control.drops(), _troubled(control, "drop-folder")
        for tenant, files in looks:
            drop = drops.get(tenant.slug, Drop(tenant.slug))
            if files is None and drop.landed_fingerprint:
                files = FileNotFoundError("it is not there any more; is a share not mounted?")
            if isinstance(files, Exception):
                control.raise_alert(tenant.slug, "drop-folder", f"the drop folder cannot be read: {files}", now)
                unreachable.append(tenant.slug)
                continue
            if tenant.slug in out_of_reach:
                control.recover(tenant.slug, "drop-folder", now)
            state = fingerprint(files or {})
            states[tenant.slug] = state
            rules = tenant.business_rules.automation
            settled = drop.looked_fingerprint == state
            waits = drop.landed_fingerprint is None and not files
            if not settled or waits or len(requests) >= MAX_REQUESTS_PER_TICK:
                continue
            if is_due(drop, state, now, timedelta(minutes=rules.retry_after_minutes), rules.max_tries):
                number = control.requested(tenant.slug, state, now)
                asked = read_reviews_job if _brings_reviews_only(tenant, drop, deadline) else refresh_job
                requests.append(
                    dg.RunRequest(
                        job_name=asked.name,
                        # The number grows: content that comes back to an earlier state must not look already done.
                        run_key=f"files:{tenant.slug}:{number}",
                        partition_key=tenant.slug,
                        tags={TRIGGER_TAG: "files"},
                    )
                )
        control.looked(
            {
                slug: state
                for slug, state in states.items()
                if slug not in drops or drops[slug].looked_fingerprint != state
            }
        )
    if requests:
        return dg.SensorResult(run_requests=requests)
    return dg.SkipReason(
        f"{len(states)} folders looked at, nothing new has settled"
        + (f"; out of reach: {', '.join(unreachable)}" if unreachable else "")
    )


def _brings_reviews_only(tenant: Tenant, drop: Any, deadline: float) -> bool:
    """Whether a folder differs from what has landed by review workbooks alone. False where nobody knows in time."""
    if drop.exports_fingerprint is None:
        return False
    left = deadline - time.monotonic()
    if left <= 0:
        return False
    pool = ThreadPoolExecutor(1, "drop-content")
    try:
        return pool.submit(_exports_fingerprint, tenant).result(timeout=left) == drop.exports_fingerprint
    except (TimeoutError, OSError, run_context.DropZoneError):
        return False
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _exports_fingerprint(tenant: Tenant) -> str | None:
    """The state of the folder's files that are no review workbooks; None where that takes too long to tell."""
    from crm_assets import databases
    from crm_assets.resources import raw_store
    from crm_assets.resources.control import fingerprint
    from crm_assets.resources.warehouse import Warehouse

    warehouse = Warehouse(databases.cluster().tenant_url(tenant.slug))
    with run_context.drop_zone(tenant, settings()) as zone:
        files = zone.list()
        unknown = raw_store.unknown_files(warehouse, files)
        if len(unknown) > MAX_UNKNOWN_FILES or sum(file.size_bytes for file in unknown) > MAX_UNKNOWN_BYTES:
            return None
        reviews = set(raw_store.review_paths(warehouse, zone, files, tenant.business_rules.landing.workbook))
    return fingerprint({file.path: file.signature for file in files if file.path not in reviews})


def week_due(tenant: Tenant, now: datetime) -> str | None:
    """The ISO week whose weekly refresh is due for the estate at `now`, None before its hour has come."""
    weekly = tenant.business_rules.automation.weekly
    local = now.astimezone(tenant.zone)
    if (local.isoweekday(), local.hour) < (weekly.weekday, weekly.hour):
        return None
    year, week, _ = local.isocalendar()
    return f"{year}-W{week:02d}"


@dg.schedule(
    job=refresh_job,
    cron_schedule="*/15 * * * *",
    execution_timezone="UTC",
    name="weekly_refresh",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="From Monday 06:00 where the estate is: one refresh a week, then the campaigns that follow it.",
)
def weekly_refresh(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
    yield from _once_a_period(context, refresh_job, week_due, WEEK_TAG, "weekly")


def month_due(tenant: Tenant, now: datetime) -> str | None:
    """The month (2025-12) whose report is due for the estate at `now`: the one before, once its hour has come."""
    monthly = tenant.business_rules.automation.monthly
    local = now.astimezone(tenant.zone)
    if (local.day, local.hour) < (monthly.day, monthly.hour):
        return None
    return f"{local.date().replace(day=1) - timedelta(days=1):%Y-%m}"


@dg.schedule(
    job=refresh_job,
    cron_schedule="*/15 * * * *",
    execution_timezone="UTC",
    name="monthly_report",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="From the 1st at 06:00 where the estate is: one refresh a month, then the report of the month before.",
)
def monthly_report(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
    yield from _once_a_period(context, refresh_job, month_due, MONTH_TAG, "monthly")


def day_due(tenant: Tenant, now: datetime) -> str | None:
    """The day whose news from Brevo are due for the estate at `now`, None before its hour and without a key."""
    local = now.astimezone(tenant.zone)
    if local.hour < tenant.business_rules.automation.daily.hour:
        return None
    return local.date().isoformat() if brevo_key(settings(), tenant.brevo.api_key_variable) else None


@dg.schedule(
    job=pull_feedback_job,
    cron_schedule="*/15 * * * *",
    execution_timezone="UTC",
    name="daily_feedback",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="From 05:00 where the estate is: once a day, what came back from Brevo. Estates with a key only.",
)
def daily_feedback(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
    yield from _once_a_period(context, pull_feedback_job, day_due, DAY_TAG, "daily")


def _once_a_period(
    context: dg.ScheduleEvaluationContext,
    job: Any,
    due_of: Callable[[Tenant, datetime], str | None],
    tag: str,
    what: str,
) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """One run per estate and period, from its hour on: a late tick catches up, a failed one is tried again."""
    now = context.scheduled_execution_time.astimezone(UTC)
    partitions = set(context.instance.get_dynamic_partitions("tenant"))
    estates = [tenant for tenant in Registry(settings().tenants) if tenant.slug in partitions]
    due = {tenant.slug: period for tenant in estates if (period := due_of(tenant, now))}
    tries = {tenant.slug: tenant.business_rules.automation.max_tries for tenant in estates}
    done: set[tuple[str, str]] = set()
    failed: Counter[tuple[str, str]] = Counter()
    for period in set(due.values()):
        for record in context.instance.get_run_records(dg.RunsFilter(job_name=job.name, tags={tag: period})):
            asked = (record.dagster_run.tags.get(PARTITION_TAG, ""), period)
            if record.dagster_run.status in (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED):
                failed[asked] += 1
            else:
                done.add(asked)
    requests = [
        (slug, period)
        for slug, period in due.items()
        if (slug, period) not in done and failed[slug, period] < tries[slug]
    ]
    for slug, period in requests[:MAX_REQUESTS_PER_TICK]:
        yield dg.RunRequest(
            run_key=f"{what}:{period}:{slug}:{failed[slug, period]}",
            partition_key=slug,
            tags={tag: period, TRIGGER_TAG: what},
        )
    if not requests:
        yield dg.SkipReason(f"no estate has a {what} run due ({len(due)} done)")


def _follow(context: dg.RunStatusSensorContext, reason: str, week: str | None = None) -> dg.RunRequest | dg.SkipReason:
    """The same tenant's next job after a run; one per run, however often the sensor looks. It is of the run's week."""
    run = context.dagster_run
    week = week or run.tags.get(WEEK_TAG)
    slug = run.tags.get(PARTITION_TAG)
    if not slug:
        return dg.SkipReason("the run names no tenant")
    return dg.RunRequest(
        run_key=f"{reason}:{run.run_id}",
        partition_key=slug,
        tags={TRIGGER_TAG: reason, **({WEEK_TAG: week} if week else {})},
    )


_Following = Callable[[dg.RunStatusSensorContext], dg.RunRequest | dg.SkipReason]


def _after(*jobs: Any, ask_for: Any) -> Callable[[_Following], dg.RunStatusSensorDefinition]:
    """A sensor: once a run of one of the jobs has succeeded, its function asks for the next job, or says why not."""

    def decorate(function: _Following) -> dg.RunStatusSensorDefinition:
        return dg.run_status_sensor(
            run_status=dg.DagsterRunStatus.SUCCESS,
            monitored_jobs=list(jobs),
            request_job=ask_for,
            minimum_interval_seconds=10,
            default_status=dg.DefaultSensorStatus.RUNNING,
            description=inspect.getdoc(function),
        )(function)

    return decorate


@_after(refresh_job, read_reviews_job, ask_for=plan_campaign_job)
def plan_after_refresh(context: dg.RunStatusSensorContext) -> dg.RunRequest | dg.SkipReason:
    """After a refresh, and once a review has come back: plans the campaigns that follow it, the weekly ones from the
    weekly refresh on.
    """
    from crm_assets import campaigns

    run = context.dagster_run
    slug = run.tags.get(PARTITION_TAG, "")
    registry = Registry(settings().tenants)
    if slug not in registry.tenants:
        return dg.SkipReason(f"no usable tenant file for {slug!r}")
    week = run.tags.get(WEEK_TAG)
    if run.job_name == read_reviews_job.name:
        # What the weekly refresh could not plan for want of a review is planned by the review that was waited for.
        week = _refreshed_week(context.instance, registry.get(slug), datetime.now(UTC))
    due = campaigns.due(registry.folder, slug, is_weekly=week is not None)
    if not due:
        return dg.SkipReason(f"{slug} has no campaign that follows this refresh")
    return _follow(context, AFTER_REFRESH, week)


def _refreshed_week(instance: dg.DagsterInstance, tenant: Tenant, now: datetime) -> str | None:
    """The ISO week, if the estate's weekly refresh of it is done."""
    if (week := week_due(tenant, now)) is None:
        return None
    done = dg.RunsFilter(
        job_name=refresh_job.name,
        statuses=[dg.DagsterRunStatus.SUCCESS],
        tags={WEEK_TAG: week, PARTITION_TAG: tenant.slug},
    )
    return week if instance.get_run_records(done, limit=1) else None


@_after(plan_campaign_job, ask_for=report_job)
def report_after_plan(context: dg.RunStatusSensorContext) -> dg.RunRequest | dg.SkipReason:
    """After a plan: writes the exports and the report of the run it was planned from."""
    return _follow(context, "after-plan")


@_after(refresh_job, ask_for=report_job)
def report_after_refresh(context: dg.RunStatusSensorContext) -> dg.RunRequest | dg.SkipReason:
    """After a weekly refresh that no campaign follows: writes exports and weekly report all the same."""
    from crm_assets import campaigns

    run = context.dagster_run
    if WEEK_TAG not in run.tags:
        return dg.SkipReason("not the weekly refresh")
    if campaigns.due(settings().tenants, run.tags.get(PARTITION_TAG, ""), is_weekly=True):
        return dg.SkipReason("the report follows the plan")
    return _follow(context, AFTER_REFRESH)


@_after(refresh_job, ask_for=monthly_report_job)
def monthly_report_after_refresh(context: dg.RunStatusSensorContext) -> dg.RunRequest | dg.SkipReason:
    """After the refresh that the monthly schedule has asked for: writes and mails the monthly report."""
    run = context.dagster_run
    if MONTH_TAG not in run.tags:
        return dg.SkipReason("not the monthly refresh")
    return dg.RunRequest(
        run_key=f"monthly:{run.run_id}",
        partition_key=run.tags[PARTITION_TAG],
        tags={TRIGGER_TAG: "monthly", MONTH_TAG: run.tags[MONTH_TAG]},
    )


@_after(refresh_job, ask_for=review_workbook_job)
def review_workbook_after_refresh(context: dg.RunStatusSensorContext) -> dg.RunRequest | dg.SkipReason:
    """After a refresh of an estate that asks for review: its workbook, before anything can be planned."""
    tenant = Registry(settings().tenants).tenants.get(context.dagster_run.tags.get(PARTITION_TAG, ""))
    if tenant is None or tenant.review == "auto":
        return dg.SkipReason("the estate asks for no review: its workbook comes with the report")
    return _follow(context, AFTER_REFRESH)


@dg.run_failure_sensor(
    name="run_failures",
    minimum_interval_seconds=10,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Writes one alert per cause: the same step failing for the same reason is one alert, counted.",
)
def run_failures(context: dg.RunFailureSensorContext) -> None:
    run = context.dagster_run
    slug = run.tags.get(PARTITION_TAG, "-")
    steps = context.get_step_failure_events()
    step = steps[0].step_key or "run" if steps else "run"
    error = steps[0].step_failure_data.error if steps else None
    kind = (error.cause or error).cls_name if error else "RunFailure"
    if run.job_name == pull_feedback_job.name and kind == "Failure":
        return  # a feed that Brevo did not answer for: tried again, and the asset says when that is too often
    # The error's text may quote data: the alert names its class and says where to read it.
    _control().raise_alert(
        slug,
        f"run:{run.job_name}:{step}:{kind}",
        f"job {run.job_name} failed in {step} with {kind}; run {run.run_id}",
        datetime.now(UTC),
    )


@dg.run_status_sensor(
    run_status=dg.DagsterRunStatus.SUCCESS,
    name="run_recoveries",
    minimum_interval_seconds=10,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Closes the alerts of a job that has succeeded again for the same tenant.",
)
def run_recoveries(context: dg.RunStatusSensorContext) -> None:
    run = context.dagster_run
    _control().recover(run.tags.get(PARTITION_TAG, "-"), f"run:{run.job_name}:", datetime.now(UTC))


@dg.sensor(
    name="lost_runs",
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Fails the runs whose process is gone: a killed worker leaves its run started for ever.",
)
def lost_runs(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    from crm_assets import databases
    from crm_assets.resources.warehouse import Warehouse, WarehouseError

    cluster, registry = databases.cluster(), Registry(settings().tenants)
    suspects = set((context.cursor or "").split())
    living: dict[str, set[str]] = {}
    lost: list[str] = []
    started = context.instance.get_run_records(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
    for run in (record.dagster_run for record in started):
        slug = run.tags.get(PARTITION_TAG, "")
        if slug not in registry.tenants:
            continue
        if slug not in living:
            try:
                living[slug] = run_context.living_runs(Warehouse(cluster.tenant_url(slug)))
            except WarehouseError:  # out of reach: nothing is known of its runs, and the others' go on
                living[slug] = {record.dagster_run.run_id for record in started}
        if run.run_id in living[slug]:
            continue
        lost.append(run.run_id)
        # Seen twice: a run that is just opening or closing its lock is not lost.
        if run.run_id in suspects:
            context.instance.report_run_failed(run, message="the run's process is gone")
    context.update_cursor(" ".join(lost))
    return dg.SkipReason(f"{len(started)} runs under way, {len(lost)} without a process")


@dg.sensor(
    name="outgoing_webhooks",
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Tells the receivers of the estates' files what has happened: runs, gates, campaigns, customers newly"
    " at risk. Tries again by webhooks.backoff_minutes; what is given up is an alert until the receiver takes one.",
)
def outgoing_webhooks(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    from crm_assets import databases, notices
    from crm_assets.clock import SystemClock
    from crm_assets.resources.warehouse import Warehouse, WarehouseError

    tenants = [tenant for tenant in _estates(context) if tenant.webhooks]
    # Who was not reached in the last tick's time comes first in this one.
    start = next((n for n, tenant in enumerate(tenants) if tenant.slug == context.cursor), 0)
    clock, until = SystemClock(), time.monotonic() + MAX_DELIVERY_SECONDS
    tried, unreached = 0, ""
    for tenant in tenants[start:] + tenants[:start]:
        left = until - time.monotonic()
        if left <= 0:
            unreached = tenant.slug
            break
        warehouse = Warehouse(databases.cluster().tenant_url(tenant.slug))
        try:
            notices.observe(warehouse, tenant, clock.now())
            done = notices.deliver(warehouse, tenant, clock, seconds=left)
        except WarehouseError:  # out of reach: what waits is told later, and the others' now
            continue
        tried += done.tried
        if done.hosts_taken or done.hosts_lost:
            with _control().session() as control:
                for host in done.hosts_taken - set(done.hosts_lost):
                    control.recover(tenant.slug, f"webhook:{host}", clock.now())
                for host, problem in done.hosts_lost.items():
                    told = f"a notice to {host} is given up: {problem}; `crm webhooks list` shows it"
                    control.raise_alert(tenant.slug, f"webhook:{host}", told, clock.now())
    context.update_cursor(unreached)
    return dg.SkipReason(f"{len(tenants)} estates with receivers, {tried} notices tried")


@_after(pull_feedback_job, ask_for=sync_contacts_job)
def contacts_after_feedback(context: dg.RunStatusSensorContext) -> dg.RunRequest | dg.SkipReason:
    """Once the day's refusals are read, contacts and lists follow: live, where file and CRM_LIVE allow it."""
    asked = _follow(context, "after-feedback")
    if isinstance(asked, dg.SkipReason):
        return asked
    tenant = Registry(settings().tenants).get(str(asked.partition_key))
    if not (tenant.brevo.live and tenant.brevo.sync_contacts and settings().live):
        return dg.SkipReason(f"{tenant.slug} hands nobody over: brevo.live, brevo.sync_contacts or CRM_LIVE is off")
    live = {"ops": {"activation__contact_lists": {"config": {"live": True}}}}
    return dg.RunRequest(asked.run_key, run_config=live, tags=asked.tags, partition_key=asked.partition_key)


SENSORS = [
    lost_runs,
    tenant_files,
    dropped_files,
    dropped_files_elsewhere,
    plan_after_refresh,
    report_after_plan,
    report_after_refresh,
    monthly_report_after_refresh,
    review_workbook_after_refresh,
    run_failures,
    run_recoveries,
    outgoing_webhooks,
    contacts_after_feedback,
]
SCHEDULES = [weekly_refresh, monthly_report, daily_feedback]
