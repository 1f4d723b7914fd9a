"""News from Brevo by themselves: once a day where a key is set, tried again when a feed fails, an alert after three."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest

from crm_assets import feedback
from crm_assets.databases import Cluster
from crm_assets.dbt_manifest import ensure_manifest
from crm_assets.resources import brevo
from crm_assets.resources.control import Control
from crm_assets.resources.warehouse import Warehouse
from crm_assets.settings import Settings, settings
from tests.logic import estate

ensure_manifest()

from crm_assets.defs import automation  # noqa: E402
from crm_assets.defs.common import DAY_TAG  # noqa: E402
from crm_assets.defs.outcomes import feedback as assets  # noqa: E402

TENANT = estate.tenant(brevo={"api_key_variable": "CRM_BREVO_KEY_DEMO"})
NOW = datetime(2026, 3, 10, 9, tzinfo=UTC)


@pytest.mark.parametrize(
    ("moment", "has_key", "expected"),
    [
        ("2026-03-10T03:59:59+00:00", True, None),  # 04:59 in Paris
        ("2026-03-10T04:00:00+00:00", True, "2026-03-10"),
        ("2026-03-10T23:30:00+00:00", True, None),  # the next day in Paris, before its hour
        ("2026-07-10T03:00:00+00:00", True, "2026-07-10"),  # summer time
        ("2026-03-10T12:00:00+00:00", False, None),
    ],
)
def test_the_day_is_due_from_its_hour_where_the_estate_is_and_has_a_key(
    monkeypatch: pytest.MonkeyPatch, moment: str, has_key: bool, expected: str | None
) -> None:
    if has_key:
        monkeypatch.setenv("CRM_BREVO_KEY_DEMO", "xkeysib-any")
    assert automation.day_due(TENANT, datetime.fromisoformat(moment)) == expected


def test_the_schedule_asks_once_a_day(environment: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRM_BREVO_KEY_DEMO", "xkeysib-any")
    monkeypatch.setattr(automation, "Registry", lambda folder: [TENANT])
    with dg.instance_for_test() as instance:
        instance.add_dynamic_partitions("tenant", ["demo"])

        def tick(moment: datetime) -> list[dg.RunRequest]:
            with dg.build_schedule_context(instance=instance, scheduled_execution_time=moment) as context:
                return [r for r in automation.daily_feedback(context) if isinstance(r, dg.RunRequest)]

        [request] = tick(NOW)
        assert (request.run_key, request.tags[DAY_TAG]) == ("daily:2026-03-10:demo:0", "2026-03-10")
        tags = {**request.tags, "dagster/partition": "demo"}
        instance.add_run(dg.DagsterRun(job_name="pull_feedback", tags=tags))
        assert tick(NOW + timedelta(minutes=15)) == []
        assert len(tick(NOW + timedelta(days=1))) == 1


class Quiet:
    """Brevo with nothing to say, or out of reach."""

    is_down = False
    account = "the estate's"

    def __enter__(self) -> Quiet:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def _said(self, *_: Any, **__: Any) -> Any:
        if self.is_down:
            raise brevo.BrevoUnavailableError("server_error", "Brevo does not answer")
        return iter(())

    events = blocked_contacts = contacts = email_campaigns = _said


@pytest.fixture
def run(tenant_warehouse: Warehouse, environment: Settings, cluster: Cluster, tmp_path: Path) -> Any:
    """What the asset needs of a run."""
    tenant = TENANT.model_copy(update={"slug": f"feedback_{tmp_path.name}"[:40]})
    return SimpleNamespace(
        tenant=tenant, warehouse=tenant_warehouse, rules=TENANT.business_rules, config=settings(), now=NOW,
        as_of=NOW.date(), tags={},
    )  # fmt: skip


def read(run: Any) -> list[dg.MaterializeResult[Any]]:
    with dg.build_asset_context(partition_key="demo") as context:
        function: Any = assets.read_feedback.op.compute_fn.decorated_fn  # type: ignore[union-attr]
        return list(function(context, run))


def test_without_a_key_nothing_is_read_and_that_is_no_failure(run: Any) -> None:
    results = read(run)
    assert [result.asset_key.path[-1] for result in results if result.asset_key] == [
        "events", "brevo_campaigns", "pulls",
    ]  # fmt: skip
    assert all("CRM_BREVO_KEY_DEMO" in str((result.metadata or {})["not_read"]) for result in results)
    assert run.warehouse.count("activation", "pulls") == 0


def test_a_feed_that_fails_is_an_alert_after_three_times_and_recovers(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = Quiet()
    monkeypatch.setattr(brevo, "client", lambda *_, **__: there)

    def alerts() -> set[str]:
        return {alert.cause for alert in Control(run.config).open_alerts(run.tenant.slug)}

    there.is_down = True
    for number in (1, 2, 3):
        with pytest.raises(dg.Failure, match="events, blocked, contacts, campaigns"):
            read(run)
        assert alerts() == ({f"brevo:{feed}" for feed in feedback.FEEDS} if number == 3 else set())
    there.is_down = False
    metadata = read(run)[0].metadata or {}
    assert (metadata["events_read"], metadata["of_other_estates"]) == (0, 0)
    assert alerts() == set()


def test_lights_show_what_is_not_read_and_not_understood(run: Any) -> None:
    def lights() -> dict[str, tuple[bool, dict[str, Any]]]:
        function: Any = assets.feedback_is_read.op.compute_fn.decorated_fn  # type: ignore[union-attr]
        return {str(each.check_name): (bool(each.passed), each.metadata) for each in function(None, run)}

    assert all(passed for passed, _ in lights().values())
    run.warehouse.execute("insert into activation.pulls values ('campaigns', null, now(), 'not known yet', 0, 0)")
    run.warehouse.execute("insert into outcomes.received values ('h', 'x', now()), ('i', 'y', now())")
    run.warehouse.execute("update outcomes.received set read_at = now(), problem = 'no JSON' where content_hash = 'i'")
    run.warehouse.execute(
        "insert into outcomes.events (event_key, address, event, occurred_at, channel)"
        " values ('k', 'ada@x.fr', 'other:teleported', now(), 'email')"
    )
    found = lights()
    assert not any(passed for passed, _ in found.values())
    assert found["feeds_from_brevo_are_read"][1]["campaigns"].value == "not known yet"
    assert found["names_of_events_are_all_known"][1]["names"].value == "other:teleported"
    assert "@" not in str(found)
