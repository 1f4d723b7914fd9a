"""Campaign files: what is right, and that what is wrong names file, key and reason."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path

import pytest

from crm_assets import campaigns
from crm_assets.campaigns import CampaignError, CampaignFiles
from crm_assets.settings import ROOT
from crm_assets.tenants import Registry
from tests.logic import estate

RIGHT = """
kind: reco
subject: {fr: Notre sélection}
"""
EVENT = """
kind: event
subject: {fr: Portes ouvertes}
text: {fr: "Venez nous voir."}
"""


def write(folder: Path, content: str, name: str = "spring") -> Path:
    path = campaigns.folder(folder, "demo") / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def test_defaults_are_the_careful_ones(tmp_path: Path) -> None:
    made = campaigns.load_campaign(write(tmp_path, RIGHT), estate.tenant())
    assert made.name == "spring"
    assert made.audience.types == ["private"]
    assert made.channel == "email"
    assert made.holdout
    assert made.occurrence_on(date(2025, 12, 31)) == "once"


@pytest.mark.parametrize(
    ("content", "key", "reason"),
    [
        ("kind: letter\nsubject: {fr: Bonjour}", "kind", "'reco', 'event' or 'news'"),
        (RIGHT + "chanel: email", "chanel", "unknown key"),
        (RIGHT + "channel: postal", "channel", "'email'"),
        (RIGHT + "audience: {segments: [Champion]}", "audience.segments.0", "Champions"),
        (RIGHT + "audience: {types: []}", "audience.types", "at least 1"),
        (RIGHT + 'audience: {departments: ["6"]}', "audience.departments.0", "pattern"),
        (RIGHT + "send_on: someday", "send_on", "date"),
        (RIGHT + "occurrence: weekly\nsend_on: 2026-01-05", "send_on", "no single day"),
        ("kind: reco", "subject", "required"),
        ("kind: reco\nsubject: {en: Hello}", "subject", "language 'fr'"),
        ("kind: reco\nsubject: {fr: Vin GRATUIT ici}", "subject.fr", "forbidden words: gratuit"),
        ("kind: news\nsubject: {fr: Nouvelles}", "text", "language 'fr'"),
        (EVENT + "audience: {scenarios: [rebuy]}", "audience.scenarios", "kind reco"),
        (EVENT.replace("Venez nous voir", "Dernière chance"), "text.fr", "forbidden words: dernière chance"),
        (RIGHT + "name: autumn", "name", "the file name says 'spring'"),
    ],
)
def test_a_wrong_file_names_itself_the_key_and_the_reason(tmp_path: Path, content: str, key: str, reason: str) -> None:
    with pytest.raises(CampaignError) as raised:
        campaigns.load_campaign(write(tmp_path, content), estate.tenant())
    message = str(raised.value)
    assert message.startswith("demo/campaigns/spring.yaml: ")
    assert f"key '{key}'" in message
    assert reason in message


@pytest.mark.parametrize(("content", "reason"), [("a: [", "not readable as YAML"), ("- a", "a mapping of keys")])
def test_a_file_that_is_no_mapping(tmp_path: Path, content: str, reason: str) -> None:
    with pytest.raises(CampaignError, match=reason):
        campaigns.load_campaign(write(tmp_path, content), estate.tenant())


def test_a_forbidden_word_inside_another_is_allowed(tmp_path: Path) -> None:
    write(tmp_path, "kind: reco\nsubject: {fr: Un cadeautier sans sulfites}")
    assert CampaignFiles(tmp_path, estate.tenant()).errors == {}


def test_a_wrong_file_takes_no_other_down(tmp_path: Path) -> None:
    write(tmp_path, RIGHT)
    write(tmp_path, "kind: letter", "bad")
    files = CampaignFiles(tmp_path, estate.tenant())
    assert list(files.campaigns) == ["spring"]
    assert "bad.yaml" in files.errors["bad"]
    with pytest.raises(CampaignError, match="key 'kind'"):
        files.get("bad")
    with pytest.raises(CampaignError, match="known: spring"):
        files.get("summer")


@pytest.mark.parametrize(
    ("day", "week"),
    [(date(2025, 12, 28), "2025-W52"), (date(2025, 12, 31), "2026-W01"), (date(2027, 1, 1), "2026-W53")],
)
def test_a_weekly_occurrence_is_its_iso_week(tmp_path: Path, day: date, week: str) -> None:
    made = campaigns.load_campaign(write(tmp_path, RIGHT + "occurrence: weekly"), estate.tenant())
    assert made.occurrence_on(day) == week


@pytest.mark.parametrize(("day", "is_due"), [(28, False), (29, True), (31, True)])
def test_a_campaign_with_a_day_is_planned_seven_days_before(tmp_path: Path, day: int, is_due: bool) -> None:
    tenant = estate.tenant()
    made = campaigns.load_campaign(write(tmp_path, RIGHT + "send_on: 2026-01-05"), tenant)
    assert made.is_due(date(2025, 12, day), tenant.business_rules) == is_due
    assert not made.is_due(date(2026, 1, 6), tenant.business_rules)


def test_weekly_campaigns_follow_the_weekly_refresh_only(tmp_path: Path) -> None:
    write(tmp_path, RIGHT, "once")
    write(tmp_path, RIGHT + "occurrence: weekly", "weekly")
    write(tmp_path, RIGHT + "active: false", "asleep")
    files = CampaignFiles(tmp_path, estate.tenant())
    assert [c.name for c in files.following_refresh(is_weekly=False)] == ["once"]
    assert [c.name for c in files.following_refresh(is_weekly=True)] == ["once", "weekly"]


def test_the_campaigns_of_the_repository_are_right() -> None:
    for tenant in Registry(ROOT / "tenants"):
        files = CampaignFiles(ROOT / "tenants", tenant)
        assert files.errors == {}
        assert files.campaigns


ARMS = "arms: {A: {share: 0.5}, B: {share: 0.5, subject: {fr: Trois vins pour vous}}}\n"
STEPS = (
    "steps: [{after_days: 0}, {after_days: 14, subject: {fr: Encore une idée}}, {after_days: 35, template: welcome}]\n"
)


@pytest.mark.parametrize(
    ("content", "key", "reason"),
    [
        (RIGHT + "arms: {A: {share: 1.0}}", "arms.A.share", "less than 1"),
        (RIGHT + "arms: {A: {share: 0.5}}", "arms", "2 to 4 arms"),
        (RIGHT + "arms: {E: {share: 0.5}}", "arms.E", "one of A, B, C, D"),
        (RIGHT + ARMS.replace("B: {share: 0.5", "B: {share: 0.4"), "arms", "they sum to 0.9"),
        (RIGHT + "arms: {A: {share: 0.5}, B: {share: 0.5}}", "arms", "nothing to compare"),
        (RIGHT + ARMS.replace("Trois vins pour vous", "Vin gratuit"), "arms.B.subject.fr", "gratuit"),
        (RIGHT + "channel: phone\n" + ARMS, "arms", "only e-mails"),
        (RIGHT + STEPS.replace("after_days: 14", "after_days: 13"), "steps.1.after_days", "at least 14"),
        # Days count from the first message: 13 lie between the second and the third.
        (RIGHT + STEPS.replace("after_days: 35", "after_days: 27"), "steps.2.after_days", "at least 28"),
        (RIGHT + STEPS.replace("after_days: 35", "after_days: 14"), "steps.2.after_days", "14 days of silence"),
        (RIGHT + STEPS.replace("after_days: 35", "after_days: 10"), "steps.2.after_days", "at least 28"),
        (RIGHT + STEPS.replace("after_days: 0", "after_days: 1"), "steps.0.after_days", "the first step"),
        (RIGHT + "occurrence: weekly\n" + STEPS, "steps", "weekly"),
        (RIGHT + "channel: post\n" + STEPS, "steps", "only e-mails"),
        (RIGHT + STEPS.replace("Encore une idée", "Dernière chance"), "steps.1.subject.fr", "dernière chance"),
        (RIGHT + "template: valentine", "template", "known: rebuy"),
        (RIGHT + "template: news", "template", "shows no wines"),
        (EVENT + "template: winback", "template", "wines chosen"),
        (RIGHT + "template: brevo:spring", "template", "known: none"),
        (RIGHT + "channel: phone\ntemplate: rebuy", "template", "only e-mails"),
        (EVENT + "wines: {push: [p1]}", "wines", "shows no wines"),
        (RIGHT + "wines: {push: [p1], exclude: [p1]}", "wines.push", "at once: p1"),
        (RIGHT + "audience: {bought: {days: 0}}", "audience.bought.days", "greater than or equal to 1"),
        (RIGHT + "feast: whitsun", "feast", "'christmas' or 'easter'"),
        (RIGHT + "stop_on: [open]", "stop_on.0", "'click'"),
        (RIGHT + "sender_email: nobody", "sender_email", "no e-mail address"),
    ],
)
def test_what_contradicts_itself_names_key_and_line(tmp_path: Path, content: str, key: str, reason: str) -> None:
    with pytest.raises(CampaignError) as raised:
        campaigns.load_campaign(write(tmp_path, content), estate.tenant())
    message = str(raised.value)
    assert f"key '{key}'" in message
    assert reason in message
    assert re.match(r"demo/campaigns/spring\.yaml: line \d+: ", message)


def test_a_list_of_calls_needs_no_subject(tmp_path: Path) -> None:
    assert campaigns.load_campaign(write(tmp_path, "kind: reco\nchannel: phone"), estate.tenant()).channel == "phone"


def test_a_step_says_its_own_then_its_arms_then_the_campaigns(tmp_path: Path) -> None:
    made = campaigns.load_campaign(write(tmp_path, RIGHT + "text: {fr: Bonjour.}\n" + ARMS + STEPS), estate.tenant())
    said = {(step, arm): made.says(step, arm).subject["fr"] for step, arm in made.variants}
    assert said == {
        (1, "A"): "Notre sélection",
        (1, "B"): "Trois vins pour vous",
        (2, "A"): "Encore une idée",
        (2, "B"): "Encore une idée",
        (3, "A"): "Notre sélection",
        (3, "B"): "Trois vins pour vous",
    }
    assert made.says(3, "B").text == {"fr": "Bonjour."}
    assert [made.template_of("upsell", step) for step in (1, 2, 3)] == ["upsell", "upsell", "welcome"]
    assert [made.gap_days(step) for step in (1, 2, 3)] == [0, 14, 21]


def test_a_template_of_brevo_is_known_by_the_estates_name_of_it(tmp_path: Path) -> None:
    brevo = {"sender_email": "cave@demo.example.com", "templates": {"spring": 7}}
    path = write(tmp_path, RIGHT + "template: brevo:spring")
    made = campaigns.load_campaign(path, estate.tenant(brevo=brevo))
    assert made.template_of("rebuy") == "brevo:spring"


@pytest.mark.parametrize(
    ("content", "is_profiled"),
    [
        (RIGHT, True),
        (EVENT, False),
        (EVENT + "audience: {segments: [At Risk]}", True),
        (EVENT + "audience: {not_bought: {families: [Crémant]}}", True),
        (EVENT + 'audience: {departments: ["67"]}', False),
    ],
)
def test_what_purchases_choose_is_profiling(tmp_path: Path, content: str, is_profiled: bool) -> None:
    assert campaigns.load_campaign(write(tmp_path, content), estate.tenant()).is_profiled == is_profiled
