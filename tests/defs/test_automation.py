"""The sensors and the schedule, with real folders, a real control database and a real clock's readings."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from crm_assets import reviews
from crm_assets.databases import Cluster, ensure_tenant
from crm_assets.dbt_manifest import ensure_manifest
from crm_assets.logic.landing import load_source
from crm_assets.resources.control import Control, Drop, is_due
from crm_assets.resources.raw_store import land
from crm_assets.resources.warehouse import Warehouse
from crm_assets.run_context import TenantRun, drop_files
from crm_assets.settings import Settings
from crm_assets.tenants import TEMPLATE, Registry, load_tenant
from tests.servers import sftp_server, silent_server

ensure_manifest()

from crm_assets.defs import automation  # noqa: E402
from crm_assets.defs.common import MONTH_TAG, WEEK_TAG  # noqa: E402


@pytest.fixture
def estates(environment: Settings, cluster: Cluster) -> Iterator[Settings]:
    """A tenants folder with `left` and `right`, and empty drop folders."""
    environment.tenants.mkdir(parents=True, exist_ok=True)
    for slug in ("left", "right"):
        (environment.tenants / f"{slug}.yaml").write_text(TEMPLATE.format(name=slug))
    yield environment
    shutil.rmtree(environment.tenants)
    shutil.rmtree(environment.data, ignore_errors=True)
    control = Control(environment)
    with control._connect() as connection:
        connection.execute("delete from watch.drops")
        connection.execute("delete from alerts.causes")


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as made:
        yield made


def drop(config: Settings, slug: str, name: str, text: str) -> Path:
    path = config.data / slug / "raw" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def look(instance: dg.DagsterInstance) -> list[str]:
    """One tick of the file sensor: the run keys it asks for."""
    with dg.build_sensor_context(instance=instance) as context:
        result = automation.dropped_files(context)
    return [request.run_key for request in result.run_requests] if isinstance(result, dg.SensorResult) else []


def follow_files(instance: dg.DagsterInstance) -> None:
    with dg.build_sensor_context(instance=instance) as context:
        result = automation.tenant_files(context)
    for request in result.dynamic_partitions_requests or [] if isinstance(result, dg.SensorResult) else []:
        if isinstance(request, dg.AddDynamicPartitionsRequest):
            instance.add_dynamic_partitions("tenant", list(request.partition_keys))
        else:
            for key in request.partition_keys:
                instance.delete_dynamic_partition("tenant", key)


def test_partitions_follow_the_tenant_files(estates: Settings, instance: dg.DagsterInstance) -> None:
    follow_files(instance)
    assert set(instance.get_dynamic_partitions("tenant")) == {"left", "right"}
    (estates.tenants / "third.yaml").write_text(TEMPLATE.format(name="third"))
    (estates.tenants / "left.yaml").write_text("name: [broken")
    (estates.tenants / "right.yaml").unlink()
    follow_files(instance)
    # A file that is wrong for the moment keeps its partition; one that is gone loses it.
    assert set(instance.get_dynamic_partitions("tenant")) == {"left", "third"}
    (alert,) = Control(estates).open_alerts("left")
    assert "left.yaml" in alert.message
    (estates.tenants / "left.yaml").write_text(TEMPLATE.format(name="left"))
    follow_files(instance)
    assert Control(estates).open_alerts("left") == []


def test_one_run_per_settled_drop(estates: Settings, instance: dg.DagsterInstance) -> None:
    follow_files(instance)
    assert look(instance) == []
    assert look(instance) == [], "an estate that never had a file has nothing to refresh"
    drop(estates, "left", "ventes.csv", "a")
    drop(estates, "left", "clients.csv", "b")
    assert look(instance) == [], "seen once, it may still be growing"
    drop(estates, "left", "ventes.csv", "ab")
    assert look(instance) == [], "it has grown"
    assert look(instance) == ["files:left:1"]
    assert look(instance) == [], "asked for once"


def test_content_that_comes_back_is_asked_for_again_under_a_new_key(
    estates: Settings, instance: dg.DagsterInstance
) -> None:
    follow_files(instance)
    control = Control(estates)
    path = drop(estates, "left", "ventes.csv", "a")
    keys = []
    for text in ("a", "b", "a"):
        path.write_text(text)
        look(instance)
        keys += look(instance)
        state = control.drops()["left"].requested_fingerprint
        assert state
        control.landed("left", state)
    assert keys == ["files:left:1", "files:left:2", "files:left:3"]


def test_changed_content_with_the_same_size_and_time_is_seen(estates: Settings, instance: dg.DagsterInstance) -> None:
    follow_files(instance)
    path = drop(estates, "left", "ventes.csv", "a")
    look(instance)
    assert look(instance) == ["files:left:1"]
    before = path.stat()
    path.write_text("b")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    look(instance)
    assert look(instance) == ["files:left:2"]


def asked(instance: dg.DagsterInstance) -> list[str | None]:
    """Two ticks of the file sensor, so that what was dropped has settled: the jobs it asks for."""
    jobs = []
    for _ in range(2):
        with dg.build_sensor_context(instance=instance) as context:
            result = automation.dropped_files(context)
        if isinstance(result, dg.SensorResult):
            jobs += [request.job_name for request in result.run_requests or []]
    return jobs


def landed(config: Settings, cluster: Cluster, slug: str, *, read_reviews: bool = False) -> None:
    """What a refresh leaves that has reached the gate; with `read_reviews` what the job of that name leaves."""
    tenant = Registry(config.tenants).get(slug)
    warehouse = Warehouse(ensure_tenant(cluster, slug))
    now = datetime.now(UTC)
    run = TenantRun(
        tenant, now.date(), now, warehouse, False, "", config, cluster, drop_files=drop_files(tenant, config)
    )
    if read_reviews:
        reviews.read_dropped(run)
        run.mark_reviews_read()
        return
    with run.drop_zone() as zone:
        land(warehouse, zone, tenant, load_source(), now, pause=lambda _: None)
    reviews.read_dropped(run)
    run.mark_refreshed()


REVIEW = "Code client;Code produit;Décision;crm_ref_review\nC1;P1;{};0123456789abcdef-0123456789abcdef\n"


def test_a_review_workbook_alone_asks_for_its_reading_and_anything_else_for_a_refresh(
    estates: Settings, instance: dg.DagsterInstance, cluster: Cluster
) -> None:
    follow_files(instance)
    drop(estates, "left", "clients.csv", "Code client;Nom\nC1;Haas\n")
    drop(estates, "left", "old review.csv", REVIEW.format("Approuver"))
    assert asked(instance) == ["refresh"], "the first time nothing is known of the folder"
    landed(estates, cluster, "left")
    assert asked(instance) == []
    # Its name says nothing, its place neither.
    drop(estates, "left", "isavigne/clients/clients de mai.csv", REVIEW.format("Rejeter"))
    assert asked(instance) == ["read_reviews"]
    landed(estates, cluster, "left", read_reviews=True)
    assert asked(instance) == []
    # A workbook with an export beside it: the refresh reads both.
    drop(estates, "left", "another.csv", REVIEW.format("Plus tard"))
    drop(estates, "left", "ventes.csv", "Code client;N° pièce;SKU;Date;Quantité;Mt HT\nC1;F1;P1;05/03/2024;6;60\n")
    assert asked(instance) == ["refresh"]
    # The export comes while the workbook is being read: it is not lost.
    landed(estates, cluster, "left")
    drop(estates, "left", "third.csv", REVIEW.format("?"))
    assert asked(instance) == ["read_reviews"]
    drop(estates, "left", "stock.csv", "SKU;Quantité\nP1;5\n")
    landed(estates, cluster, "left", read_reviews=True)
    assert asked(instance) == ["refresh"]
    landed(estates, cluster, "left")
    # Content changed under a known name, and a workbook taken away.
    drop(estates, "left", "third.csv", REVIEW.format("Freigeben"))
    (estates.data / "left" / "raw" / "old review.csv").unlink()
    assert asked(instance) == ["read_reviews"]
    landed(estates, cluster, "left", read_reviews=True)
    warehouse = Warehouse(ensure_tenant(cluster, "left"))
    assert warehouse.rows("select count(*) from review.receipts") == [(5,)]
    (estates.data / "left" / "raw" / "ventes.csv").unlink()
    assert asked(instance) == ["refresh"]


def test_a_review_that_came_back_plans_and_the_weekly_campaigns_once_their_refresh_is_done(
    estates: Settings, instance: dg.DagsterInstance
) -> None:
    weekly = 'kind: reco\noccurrence: weekly\nsubject: {fr: "Notre sélection"}\n'
    (estates.tenants / "left" / "campaigns").mkdir(parents=True)
    (estates.tenants / "left" / "campaigns" / "monday.yaml").write_text(weekly, encoding="utf-8")

    def after(number: int, job: str, **tags: str) -> dict[str, str] | None:
        run = dg.DagsterRun(
            job_name=job,
            run_id=f"00000000-0000-0000-0002-{number:012d}",
            tags={"dagster/partition": "left", **tags},
            status=dg.DagsterRunStatus.SUCCESS,
        )
        instance.add_run(run)
        event = dg.DagsterEvent("PIPELINE_SUCCESS", job_name=job)
        context = dg.build_run_status_sensor_context("plan_after_refresh", event, instance, run)
        result = automation.plan_after_refresh(context)
        return dict(result.tags) if isinstance(result, dg.RunRequest) else None

    tenant = Registry(estates.tenants).get("left")
    week = automation.week_due(tenant, datetime.now(UTC))
    assert after(1, "read_reviews") is None, "no weekly refresh yet: the weekly campaign is not its business"
    if week is not None:  # not on a Monday before six
        assert after(2, "refresh", **{"crm/week": week}) is not None
        planned = after(3, "read_reviews")
        assert planned is not None
        assert planned["crm/week"] == week


def test_two_estates_dropped_at_the_same_moment_get_a_run_each(estates: Settings, instance: dg.DagsterInstance) -> None:
    follow_files(instance)
    for slug in ("left", "right"):
        drop(estates, slug, "ventes.csv", "a")
    look(instance)
    assert look(instance) == ["files:left:1", "files:right:1"]


def test_a_folder_that_cannot_be_read_is_one_alert_and_no_other_estates_concern(
    estates: Settings, instance: dg.DagsterInstance
) -> None:
    follow_files(instance)
    control = Control(estates)
    folder = estates.data / "left" / "raw"
    drop(estates, "left", "ventes.csv", "a")
    look(instance)
    look(instance)
    control.landed("left", control.drops()["left"].looked_fingerprint or "")
    folder.rename(folder.with_name("unmounted"))
    drop(estates, "right", "ventes.csv", "a")
    look(instance)
    assert look(instance) == ["files:right:1"]
    (alert,) = control.open_alerts("left")
    assert (alert.cause, alert.occurrences) == ("drop-folder", 2)
    folder.with_name("unmounted").rename(folder)
    assert look(instance) == [], "nothing has changed while it was away"
    assert control.open_alerts() == []


def test_folders_on_other_machines_are_looked_at_side_by_side(
    estates: Settings, instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def elsewhere() -> list[str]:
        with dg.build_sensor_context(instance=instance) as context:
            result = automation.dropped_files_elsewhere(context)
        return [request.run_key for request in result.run_requests] if isinstance(result, dg.SensorResult) else []

    def at(slug: str, port: int, host_key: str) -> None:
        source = {
            "raw_url": f"sftp://cave@127.0.0.1:{port}/",
            "raw_options": {"host_key": host_key},
            "raw_secrets": {"password": "CRM_DROP_PASSWORD"},
        }
        text = TEMPLATE.format(name=slug) + f"source: {json.dumps(source)}\n"
        (estates.tenants / f"{slug}.yaml").write_text(text, encoding="utf-8")

    monkeypatch.setattr(automation, "MAX_LOOK_SECONDS", 3.0)
    monkeypatch.setenv("CRM_DROP_PASSWORD", "geheim")
    control = Control(estates)
    drop(estates, "third", "ventes.csv", "a")
    (tmp_path / "clients.csv").write_text("a")
    with sftp_server(tmp_path, "geheim") as server, silent_server() as silent:
        at("left", silent, server.host_key)
        at("right", server.port, server.host_key)
        (estates.tenants / "third.yaml").write_text(TEMPLATE.format(name="third"))
        follow_files(instance)
        assert look(instance) == []
        assert set(control.drops()) == {"third"}, "the local folders are looked at apart"
        elsewhere()
        assert elsewhere() == ["files:right:1"], "an answer is not waited for beyond the tick's time"
        assert look(instance) == ["files:third:1"]
        at("left", server.port, server.host_key)
        monkeypatch.setenv("CRM_DROP_PASSWORD", "wrong")
        automation._under_way.clear()
        elsewhere()
        elsewhere()
        alerts = {alert.tenant: alert for alert in control.open_alerts()}
        assert {slug: alert.occurrences for slug, alert in alerts.items()} == {"left": 2, "right": 2}
        assert "left.yaml: sftp://127.0.0.1" in alerts["left"].message
        assert "wrong" not in alerts["left"].message
        monkeypatch.setenv("CRM_DROP_PASSWORD", "geheim")
        elsewhere()
        assert control.open_alerts() == []


def test_a_drop_that_did_not_land_is_asked_for_again_a_few_times_only() -> None:
    now = datetime(2026, 1, 5, 12, tzinfo=UTC)
    wait = timedelta(minutes=15)
    asked = Drop("t", "s", "s", None, 1, 1, now)
    assert not is_due(asked, "s", now + timedelta(minutes=14), wait, 3)
    assert is_due(asked, "s", now + timedelta(minutes=15), wait, 3)
    assert not is_due(Drop("t", "s", "s", None, 3, 3, now), "s", now + timedelta(days=1), wait, 3)
    assert not is_due(Drop("t", "s", "s", "s", 1, 1, now), "s", now + timedelta(days=1), wait, 3)
    assert is_due(Drop("t", "s2", "s", None, 3, 3, now), "s2", now, wait, 3), "a new state starts anew"


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        ("2026-01-05T04:59:59+00:00", None),  # Monday 05:59 in Paris
        ("2026-01-05T05:00:00+00:00", "2026-W02"),
        ("2026-01-11T22:59:00+00:00", "2026-W02"),  # a late tick, Sunday evening
        ("2026-01-11T23:30:00+00:00", None),  # Monday 00:30 in Paris: the new week's hour has not come
        ("2026-06-01T04:00:00+00:00", "2026-W23"),  # summer time
    ],
)
def test_the_week_is_due_from_monday_six_where_the_estate_is(tmp_path: Path, moment: str, expected: str | None) -> None:
    path = tmp_path / "left.yaml"
    path.write_text(TEMPLATE.format(name="left"))
    assert automation.week_due(load_tenant(path), datetime.fromisoformat(moment)) == expected


def test_the_weekly_schedule_asks_once_per_estate_and_week(estates: Settings, instance: dg.DagsterInstance) -> None:
    follow_files(instance)
    monday = datetime(2026, 1, 5, 5, 15, tzinfo=UTC)

    def tick(moment: datetime) -> list[dg.RunRequest]:
        with dg.build_schedule_context(instance=instance, scheduled_execution_time=moment) as context:
            return [r for r in automation.weekly_refresh(context) if isinstance(r, dg.RunRequest)]

    requests = tick(monday)
    assert sorted(request.partition_key or "" for request in requests) == ["left", "right"]
    for request in requests:
        instance.add_run(
            dg.DagsterRun(
                job_name="refresh",
                run_id=f"00000000-0000-0000-0000-{requests.index(request):012d}",
                tags={**request.tags, "dagster/partition": request.partition_key or ""},
            )
        )
    assert tick(monday + timedelta(minutes=15)) == []
    assert len(tick(monday + timedelta(days=7))) == 2
    # A refresh that failed is asked for again, under another key, and not for ever.
    for failures in (1, 2, 3):
        run = instance.get_run_records(dg.RunsFilter(tags={"dagster/partition": "left"}))[0].dagster_run
        instance.report_run_failed(run)
        again = tick(monday + timedelta(minutes=15 * (failures + 1)))
        assert [r.run_key for r in again] == ([f"weekly:2026-W02:left:{failures}"] if failures < 3 else [])
        instance.add_run(
            dg.DagsterRun(
                job_name="refresh",
                run_id=f"00000000-0000-0000-0001-{failures:012d}",
                tags={**requests[0].tags, "dagster/partition": "left"},
            )
        )


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        ("2026-01-01T04:59:59+00:00", None),  # 05:59 in Paris
        ("2026-01-01T05:00:00+00:00", "2025-12"),
        ("2025-12-31T23:30:00+00:00", None),  # 00:30 of the 1st in Paris: the hour has not come
        ("2026-01-31T22:00:00+00:00", "2025-12"),  # a late tick
        ("2026-06-01T04:00:00+00:00", "2026-05"),  # summer time
    ],
)
def test_the_month_is_due_from_the_first_where_the_estate_is(tmp_path: Path, moment: str, expected: str | None) -> None:
    path = tmp_path / "left.yaml"
    path.write_text(TEMPLATE.format(name="left"))
    assert automation.month_due(load_tenant(path), datetime.fromisoformat(moment)) == expected


def test_the_monthly_schedule_asks_once_per_estate_and_month(estates: Settings, instance: dg.DagsterInstance) -> None:
    follow_files(instance)

    def tick(moment: datetime) -> list[dg.RunRequest]:
        with dg.build_schedule_context(instance=instance, scheduled_execution_time=moment) as context:
            return [r for r in automation.monthly_report(context) if isinstance(r, dg.RunRequest)]

    first = datetime(2026, 1, 1, 5, 15, tzinfo=UTC)
    requests = tick(first)
    assert sorted(r.run_key or "" for r in requests) == ["monthly:2025-12:left:0", "monthly:2025-12:right:0"]
    assert {r.tags[MONTH_TAG] for r in requests} == {"2025-12"}
    for number, request in enumerate(requests):
        tags = {**request.tags, "dagster/partition": request.partition_key or ""}
        instance.add_run(dg.DagsterRun(job_name="refresh", run_id=f"00000000-0000-0000-0002-{number:012d}", tags=tags))
    assert tick(first + timedelta(days=20)) == []
    assert len(tick(datetime(2026, 2, 3, 12, tzinfo=UTC))) == 2, "a late tick catches up"


@pytest.mark.parametrize(
    ("sensor", "tags", "has_campaign", "expected"),
    [
        (automation.report_after_refresh, {WEEK_TAG: "2026-W02"}, False, {WEEK_TAG: "2026-W02"}),
        (automation.report_after_refresh, {WEEK_TAG: "2026-W02"}, True, None),  # it follows the plan
        (automation.report_after_refresh, {}, False, None),  # after a drop: no report without a plan
        (automation.monthly_report_after_refresh, {MONTH_TAG: "2025-12"}, True, {MONTH_TAG: "2025-12"}),
        (automation.monthly_report_after_refresh, {WEEK_TAG: "2026-W02"}, False, None),
    ],
)
def test_what_reports_a_refresh(
    estates: Settings,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
    sensor: dg.RunStatusSensorDefinition,
    tags: dict[str, str],
    has_campaign: bool,
    expected: dict[str, str] | None,
) -> None:
    monkeypatch.setattr("crm_assets.campaigns.due", lambda *_, **__: ["weekly"] if has_campaign else [])
    run = dg.DagsterRun(job_name="refresh", tags={**tags, "dagster/partition": "left"})
    event = dg.DagsterEvent(event_type_value="PIPELINE_SUCCESS", job_name="refresh")
    context = dg.build_run_status_sensor_context(
        sensor_name=sensor.name, dagster_event=event, dagster_instance=instance, dagster_run=run
    )
    found: Any = sensor(context)
    assert isinstance(found, dg.RunRequest) == (expected is not None)
    if expected is not None:
        assert found.partition_key == "left"
        assert expected.items() <= found.tags.items()


def test_an_alert_is_written_once_per_cause_and_its_end_is_told(environment: Settings, cluster: Cluster) -> None:
    control, now = Control(environment), datetime(2026, 1, 5, 12, tzinfo=UTC)
    notices = environment.home / "alerts.jsonl"
    notices.unlink(missing_ok=True)
    assert control.raise_alert("left", "run:refresh:x:E", "failed", now)
    assert not control.raise_alert("left", "run:refresh:x:E", "failed", now + timedelta(hours=1))
    assert [a.occurrences for a in control.open_alerts("left")] == [2]
    assert control.recover("left", "run:refresh:", now + timedelta(hours=2)) == ["run:refresh:x:E"]
    assert control.recover("left", "run:refresh:", now + timedelta(hours=3)) == []
    assert control.raise_alert("left", "run:refresh:x:E", "failed", now + timedelta(hours=4)), "a new occurrence"
    control.recover("left", "run:", now)
    kinds = [line.split('"kind": "')[1].split('"')[0] for line in notices.read_text().splitlines()]
    assert kinds == ["alert", "recovered", "alert", "recovered"]


def test_webhooks_that_are_given_up_are_an_alert_until_the_receiver_takes_one(
    estates: Settings, instance: dg.DagsterInstance, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    from crm_assets import notices

    follow_files(instance)
    rounds = [
        notices.Deliveries(given_up=1, hosts_lost={"hooks.example.com": "HTTP_STATUS"}),
        notices.Deliveries(failed=1),
        notices.Deliveries(delivered=1, hosts_taken={"hooks.example.com"}),
    ]
    told: list[str] = []

    def deliver(warehouse: Warehouse, tenant: Any, *_: Any, **__: Any) -> notices.Deliveries:
        told.append(tenant.slug)
        return rounds[len(told) - 1]

    monkeypatch.setattr(notices, "observe", lambda *_: 0)
    monkeypatch.setattr(notices, "deliver", deliver)

    def tick() -> list[str]:
        with dg.build_sensor_context(instance=instance) as context:
            automation.outgoing_webhooks(context)
        return [alert.message for alert in Control(estates).open_alerts("left")]

    assert (tick(), told) == ([], []), "no estate has a receiver"
    receiver = "{url: 'https://hooks.example.com/secret', secret_variable: CRM_TEST_HOOK, events: [run.finished]}"
    (estates.tenants / "left.yaml").write_text(TEMPLATE.format(name="left") + f"\nwebhooks:\n  - {receiver}\n")
    (message,) = tick()
    assert "hooks.example.com is given up: HTTP_STATUS" in message
    assert "secret" not in message
    assert len(tick()) == 1
    assert tick() == []
    assert told == ["left"] * 3
