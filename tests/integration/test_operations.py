"""What people ask of campaigns: stop, resume, test, accept, confirm, retry, abandon, decide; what goes on by itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest

from crm_assets import attempts, operations, safeguards, sending, tables, test_sends
from crm_assets.dbt_manifest import ensure_manifest
from crm_assets.logic.outbox import parse_tag
from crm_assets.operations import Estate
from crm_assets.resources.control import Control
from crm_assets.resources.warehouse import Warehouse
from tests.integration.test_instances import Live, live
from tests.integration.test_safeguards import KEY, NOW, chunk, config, event, message, put, ready, tenant
from tests.lights import evaluated
from tests.refusals import refusal

__all__ = ["config", "live", "ready", "tenant"]  # fixtures

ensure_manifest()

from crm_assets.defs import sending_controls  # noqa: E402
from crm_assets.defs.activation import checks  # noqa: E402


@pytest.fixture
def estate(ready: Warehouse, tenant: Any, config: Any) -> Estate:
    """A planned campaign of six messages that everything has been done for."""
    put(ready, tables.messages, *(message(n, "planned", "none") for n in range(6)))
    ready.execute("update activation.messages set tag = null")
    return Estate(tenant, ready, config)


def states(estate: Estate) -> dict[str, int]:
    return dict(estate.warehouse.rows("select status, count(*) from activation.messages group by 1"))


def test_a_stop_holds_until_it_is_resumed_by_a_named_person(estate: Estate) -> None:
    assert refusal(lambda: operations.stop(estate, "sprnig", "a typo", "Anne", NOW))[0] == "NO_CAMPAIGN"
    assert refusal(lambda: operations.stop(estate, None, "harvest", " ", NOW))[0] == "NOT_NAMED"
    assert operations.stop(estate, None, "harvest", "Anne", NOW)["is_new"]
    assert not operations.stop(estate, None, "harvest", "Anne", NOW)["is_new"]
    operations.stop(estate, "spring", "a wrong price", "Paul", NOW)
    with estate.warehouse.transaction() as connection:
        stored = operations.plan_of(estate, "spring", None)
        found = safeguards.allowance(
            connection, estate.warehouse, estate.tenant, stored, estate.rules, NOW, config=estate.config
        )
    assert (found.messages, found.reason) == (0, "PAUSED")
    done = operations.resume(estate, None, "Anne", NOW)
    assert (done["ended"], done["still_stopped"]) == (1, [{"campaign": "spring", "reason": "a wrong price"}])
    assert operations.resume(estate, "spring", "Paul", NOW)["still_stopped"] == []
    assert estate.warehouse.rows("select paused_by, resumed_by from activation.pauses order by 1") == [
        ("Anne", "Anne"),
        ("Paul", "Paul"),
    ]


def test_only_the_exact_hash_is_confirmed(estate: Estate) -> None:
    stored = operations.plan_of(estate, "spring", None)
    assert (
        refusal(lambda: operations.confirm(estate, "spring", stored["plan_hash"][:12], "Anne", NOW))[0] == "PLAN_HASH"
    )
    assert refusal(lambda: operations.confirm(estate, "autumn", stored["plan_hash"], "Anne", NOW))[0] == "NOT_PLANNED"
    assert operations.confirm(estate, "spring", stored["plan_hash"], " Anne  Muller ", NOW)["audience"] == 60
    assert estate.warehouse.rows("select confirmed_by, confirmed_at from activation.campaigns") == [
        ("Anne Muller", NOW)
    ]


def test_dead_letters_are_planned_again_only_where_brevo_has_refused_them(estate: Estate) -> None:
    warehouse = estate.warehouse
    put(warehouse, tables.chunks, *(chunk(n, 1, NOW, "rejected") for n in (1, 2, 3)))
    for number, tag in ((0, 1), (1, 2), (2, 3), (3, None)):
        warehouse.execute(
            "update activation.messages set status = 'failed', reason = 'REJECTED_BAD_REQUEST', tag = %s"
            " where message_id = %s",
            [tag and f"demo-spring-once-1-{tag:012x}", f"m{number}"],
        )
    warehouse.execute("update activation.messages set reason = 'MESSAGE_TOO_LARGE' where message_id = 'm3'")
    put(warehouse, tables.events, {**event(1, "sent"), "tag": f"demo-spring-once-1-{2:012x}"})  # the log knows better
    put(
        warehouse,
        tables.interventions,
        {**KEY, "intervention_id": "i", "tag": f"demo-spring-once-1-{3:012x}", "what": "failed", "n_messages": 1,
         "decided_by": "Anne", "decided_at": NOW},
    )  # fmt: skip
    warehouse.execute("update activation.campaigns set status = 'done', ended_at = now()")
    done = operations.retry(estate, "spring", "Anne", NOW)
    assert (done["planned_again"], done["still_failed"]) == (2, 2)
    assert warehouse.rows("select message_id from activation.messages where status = 'failed' order by 1") == [
        ("m1",),
        ("m2",),
    ]
    assert warehouse.rows("select status, ended_at from activation.campaigns") == [("planned", None)]


def test_what_is_given_up_is_never_sent(estate: Estate) -> None:
    estate.warehouse.execute("update activation.messages set status = 'sent' where message_id = 'm0'")
    assert operations.abandon(estate, "spring", "Anne", NOW)["given_up"] == 5
    assert states(estate) == {"sent": 1, "superseded": 5}
    assert estate.warehouse.rows("select distinct reason from activation.messages where status = 'superseded'") == [
        ("ABANDONED",)
    ]
    assert estate.warehouse.rows("select status from activation.campaigns") == [("abandoned",)]
    assert estate.warehouse.rows("select what, n_messages, decided_by from activation.interventions") == [
        ("abandon", 5, "Anne")
    ]


@pytest.mark.parametrize(("is_sent", "status", "of_chunk"), [(True, "sent", "accepted"), (False, "failed", "rejected")])
def test_a_person_decides_what_nobody_knows_after_a_day(
    estate: Estate, is_sent: bool, status: str, of_chunk: str
) -> None:
    tag = f"demo-spring-once-1-{7:012x}"
    put(estate.warehouse, tables.chunks, {**chunk(7, 2, NOW, "unknown"), "unknown_since": NOW})
    estate.warehouse.execute(
        "update activation.messages set status = 'unknown', tag = %s where message_id in ('m0', 'm1')", [tag]
    )
    soon, later = NOW + timedelta(hours=23), NOW + timedelta(hours=24)
    (told,) = operations.status(estate, soon)["unknown"]
    assert (told["age_minutes"], "next send" in told["next"]) == (23 * 60, True)
    assert refusal(lambda: operations.decide(estate, tag, is_sent, "Anne", soon))[0] == "TOO_EARLY"
    assert "reconcile" in operations.status(estate, later)["unknown"][0]["next"]
    assert refusal(lambda: operations.decide(estate, tag, is_sent, "", later))[0] == "NOT_NAMED"
    assert operations.decide(estate, tag, is_sent, "Anne", later)["messages"] == 2
    assert states(estate) == {"planned": 4, status: 2}
    assert estate.warehouse.rows("select status, settled_by from activation.chunks") == [(of_chunk, "Anne")]
    assert refusal(lambda: operations.decide(estate, tag, is_sent, "Anne", later))[0] == "NOT_UNKNOWN"
    assert operations.retry(estate, "spring", "Anne", later)["planned_again"] == 0, "it may have been received"


def test_status_tells_where_everything_stands(estate: Estate) -> None:
    estate.warehouse.execute(
        "update activation.campaigns set status = 'waiting', wait_reason = 'RAMP_UP', wait_until = %s,"
        " confirmed_by = 'Anne'",
        [NOW],
    )
    estate.warehouse.execute(
        "update activation.messages set status = 'failed', reason = 'REJECTED' where message_id = 'm0'"
    )
    operations.stop(estate, None, "harvest", "Paul", NOW)
    lines = "\n".join(operations.status_lines(operations.status(estate, NOW.replace(hour=20))))
    for part in (
        *("live sending is switched on", "OUTSIDE_WINDOW", "stopped: all campaigns: harvest (Paul", "RAMP_UP until"),
        *("1 failed, 5 planned", "dead letters: spring once: 1 REJECTED", "confirmed by Anne", "events of Brevo read"),
    ):
        assert part in lines
    assert "@" not in lines


def test_a_send_that_ended_in_the_middle_is_told_and_goes_on_by_nobody(estate: Estate) -> None:
    estate.warehouse.execute(
        "update activation.campaigns set status = 'sending', confirmed_by = 'Anne', began_at = %s", [NOW]
    )
    control = Control(estate.config)
    causes = lambda: {alert.cause for alert in control.open_alerts("demo") if "interrupted" in alert.cause}  # noqa: E731
    with sending._Ledger.open(estate.warehouse):
        assert "INTERRUPTED" not in "".join(operations.status_lines(operations.status(estate, NOW)))
        assert operations.tell_interrupted(estate, NOW) == []
    said = "".join(operations.status_lines(operations.status(estate, NOW)))
    assert "crm send --tenant demo --campaign spring --occurrence once --live" in said
    assert operations.tell_interrupted(estate, NOW) == ["send-interrupted:spring once 1"]
    assert causes() == {"send-interrupted:spring once 1"}
    assert operations.to_continue(estate, NOW) == [], "somebody may have meant to stop it"
    estate.warehouse.execute("update activation.campaigns set status = 'done'")
    assert operations.tell_interrupted(estate, NOW) == []
    assert causes() == set()


def test_only_what_a_person_began_and_that_waits_goes_on(estate: Estate, monkeypatch: pytest.MonkeyPatch) -> None:
    warehouse = estate.warehouse

    def names(now: Any = NOW, of: Estate = estate) -> list[str]:
        return [each["campaign"] for each in operations.to_continue(of, now)]

    waiting = (
        "update activation.campaigns set status = 'waiting', wait_reason = 'RAMP_UP', wait_until = %(now)s,"
        " confirmed_by = 'Anne', began_at = %(now)s, expires_on = '2026-11-30'"
    )
    assert names() == []
    warehouse.execute(waiting, {"now": NOW})
    assert operations.to_continue(estate, NOW) == [
        {**KEY, "plan_hash": "a" * 64, "confirmed_by": "Anne"},
    ]
    assert names(NOW - timedelta(seconds=1)) == []
    assert names(NOW.replace(hour=20)) == [], "the window is closed"
    assert names(of=Estate(estate.tenant, warehouse, estate.config.model_copy(update={"live": False}))) == []
    for change in (
        *("began_at = null", "confirmed_by = null", "status = 'done'", "wait_reason = 'PAUSED'", "wait_until = null"),
        "expires_on = '2026-11-23'",
    ):
        warehouse.execute(f"update activation.campaigns set {change}")
        assert names() == [], change
        warehouse.execute(waiting, {"now": NOW})
    operations.stop(estate, "spring", "a typo", "Anne", NOW)
    assert names() == []
    operations.resume(estate, "spring", "Anne", NOW)
    put(warehouse, tables.chunks, chunk(1, 1, NOW))
    put(
        warehouse,
        tables.attempts,
        {**KEY, "attempt_id": "a", "n_messages": 1, "n_bytes": 1, "request_hash": "h", "is_dry_run": False,
         "outcome": "accepted", "started_at": NOW, "ended_at": NOW, "tag": f"demo-spring-once-1-{1:012x}"},
    )  # fmt: skip
    assert names() == [], "something was sent live by an instance that is not this one"


class _Estates:
    """The registry of one estate."""

    def __init__(self, tenant: Any) -> None:
        self.tenant = tenant

    def __iter__(self) -> Iterator[Any]:
        return iter([self.tenant])

    def get(self, slug: str) -> Any:
        assert slug == self.tenant.slug
        return self.tenant


def test_the_ui_stops_resumes_and_goes_on(estate: Estate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending_controls, "Registry", lambda _: _Estates(estate.tenant))
    monkeypatch.setattr(sending_controls, "_estate", lambda _: estate)
    monkeypatch.setattr(sending_controls, "SystemClock", lambda: SimpleNamespace(now=lambda: NOW))
    estate.warehouse.execute(
        "update activation.campaigns set status = 'waiting', wait_reason = 'RAMP_UP', wait_until = %s,"
        " confirmed_by = 'Anne', began_at = %s",
        [NOW, NOW],
    )
    with dg.instance_for_test() as instance:
        instance.add_dynamic_partitions("tenant", ["demo"])

        def ran(job: dg.JobDefinition, op: str, **config: Any) -> bool:
            return job.execute_in_process(
                run_config={"ops": {op: {"config": config}}} if config else {},
                partition_key="demo", instance=instance, raise_on_error=False,
            ).success  # fmt: skip

        def asked() -> list[dg.RunRequest]:
            with dg.build_schedule_context(instance=instance, scheduled_execution_time=NOW) as context:
                return [each for each in sending_controls.continue_sends(context) if isinstance(each, dg.RunRequest)]

        (request,) = asked()
        assert request.partition_key == "demo"
        assert request.run_config["ops"]["activation__send"]["config"] == {
            "campaign": "spring", "occurrence": "once", "confirmed_plan_hash": "a" * 64, "confirmed_by": "Anne",
        }  # fmt: skip
        assert not ran(sending_controls.stop_sending_job, "stop", reason="harvest"), "nobody has said who stops"
        assert len(asked()) == 1
        assert ran(sending_controls.stop_sending_job, "stop", reason="harvest", by="Anne")
        assert asked() == []
        assert ran(sending_controls.activation_status_job, "status")
        assert ran(sending_controls.resume_sending_job, "resume", by="Anne")
        assert len(asked()) == 1
        assert not ran(sending_controls.accept_test_job, "accept", campaign="spring", by=" ")
        instance.add_run(dg.DagsterRun(job_name="send_campaign", run_id="0" * 32, tags={"dagster/partition": "demo"}))
        assert asked() == [], "one is under way"
        (newest, *_) = instance.fetch_observations(sending_controls.CAMPAIGNS, limit=9).records
    assert newest.asset_observation
    assert "1 stops of * ended" in str(newest.asset_observation.metadata["answer"].value)


# --- the test of a campaign, against the stand-in


def test_a_test_goes_to_the_test_addresses_alone_and_lets_these_templates_go_live(live: Live) -> None:
    tenant = live.estate.tenant
    addressed = tenant.brevo.model_copy(update={"test_addresses": ["anne@cave.example.com", "paul@cave.example.com"]})
    campaigns = live.estate.config.tenants / "demo" / "campaigns"
    campaigns.mkdir(parents=True)
    (campaigns / "spring.yaml").write_text("kind: reco\nsubject: {fr: Notre sélection}\n")
    live.plan()
    estate = Estate(tenant.model_copy(update={"brevo": addressed}), live.warehouse, live.estate.config)
    clock = live.running.clock

    def client() -> Any:
        return live.connect(estate.tenant, estate.config, clock, mode="live")

    assert refusal(lambda: test_sends.send_test(live.estate, "spring", client(), clock))[0] == "NO_TEST_ADDRESS"
    assert refusal(lambda: test_sends.accept_test(estate, "spring", clock, by="Anne"))[0] == "NO_TEST"
    sent = test_sends.send_test(estate, "spring", client(), clock)
    assert (sent.outcome, sent.messages, sent.addresses) == ("accepted", 1, 2)
    accepted = live.running.control.accepted("address", "tag")
    assert Counter(row["address"] for row in accepted) == {address: 1 for address in addressed.test_addresses}
    assert {row["tag"].rsplit("-", 1)[0] for row in accepted} == {"demo-spring-test-1"}
    assert parse_tag(accepted[0]["tag"]) is None, "it is no message of the outbox"
    with live.warehouse.transaction() as connection:
        asked = connection.execute("select request_hash from activation.attempts").fetchone()
        body = attempts.kept(connection, asked[0] if asked else "")
    assert body is not None
    assert "[TEST] Notre sélection" in body.decode()
    assert live.warehouse.rows("select distinct status from activation.messages") == [("planned",)]
    assert live.warehouse.rows("select campaign, is_dry_run, outcome from activation.attempts") == [
        (None, False, "accepted")
    ]
    assert test_sends.accept_test(estate, "spring", clock, by="Anne Muller")["accepted_by"] == "Anne Muller"
    (campaigns / "spring.yaml").write_text("kind: reco\nsubject: {fr: Une autre}\n")
    assert refusal(lambda: test_sends.send_test(estate, "spring", client(), clock))[0] == "TEMPLATE_CHANGED"
    assert refusal(lambda: test_sends.accept_test(estate, "spring", clock, by="Anne"))[0] == "TEMPLATE_CHANGED"


# --- lights


def light(estate: Estate, check: Any) -> tuple[bool, dict[str, Any]]:
    run = SimpleNamespace(warehouse=estate.warehouse, now=NOW, rules=estate.rules)
    (found,) = evaluated(run, check).values()
    return found.passed, {name: value.value for name, value in found.metadata.items()}


def test_the_lights_see_a_double_a_contradiction_and_a_call_nobody_settles(estate: Estate) -> None:
    warehouse = estate.warehouse
    tag = f"demo-spring-once-1-{1:012x}"
    lights = (checks.nobody_is_sent_a_message_twice, checks.the_ledger_agrees_with_itself, checks.few_dead_letters,
              checks.no_call_is_unknown_for_a_day, checks.a_dry_run_moves_no_message)  # fmt: skip
    put(warehouse, tables.chunks, {**chunk(1, 2, NOW), "settled_by": "answer"})
    put(
        warehouse,
        tables.attempts,
        {**KEY, "attempt_id": "a", "n_messages": 2, "n_bytes": 1, "request_hash": "h", "is_dry_run": False,
         "outcome": "accepted", "started_at": NOW, "ended_at": NOW, "tag": tag},
    )  # fmt: skip
    warehouse.execute(
        "update activation.messages set status = 'sent', tag = %s where message_id in ('m0', 'm1')", [tag]
    )
    put(
        warehouse,
        tables.events,
        {**event(0, "sent"), "message_ref": "r0"},
        {**event(0, "delivered"), "message_ref": "r0"},
    )
    assert [light(estate, check)[0] for check in lights] == [True] * 5

    put(warehouse, tables.events, {**event(0, "sent", NOW + timedelta(hours=1)), "message_ref": "r1"})
    put(warehouse, tables.events, {**event(5, "sent"), "message_ref": "r5"})
    passed, told = light(estate, checks.nobody_is_sent_a_message_twice)
    assert (passed, told["addresses_twice"], told["sent_but_not_so_in_the_ledger"]) == (False, 1, 1)
    warehouse.execute("update activation.messages set status = 'unknown' where message_id = 'm0'")
    passed, told = light(estate, checks.the_ledger_agrees_with_itself)
    assert (passed, told["messages_that_differ_from_their_call"]) == (False, 1)
    warehouse.execute("update activation.messages set status = 'failed' where message_id = 'm0'")
    passed, told = light(estate, checks.few_dead_letters)
    assert (passed, told["largest_share"], told["share_allowed"]) == (False, 0.5, 0.02)
    put(warehouse, tables.chunks, {**chunk(2, 1, NOW, "unknown"), "unknown_since": NOW - timedelta(hours=25)})
    passed, told = light(estate, checks.no_call_is_unknown_for_a_day)
    assert (passed, told["older_than_allowed"]) == (False, 1)
    warehouse.execute("update activation.attempts set is_dry_run = true")
    assert light(estate, checks.a_dry_run_moves_no_message)[1]["messages_moved"] == 2
