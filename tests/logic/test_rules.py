"""Every rule has a range: what makes no sense is refused, with file, line, key, value and what is allowed."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from crm_assets import cli, rules, rules_files, yaml_places
from crm_assets.rules import BusinessRules
from crm_assets.settings import ROOT, settings
from crm_assets.tenants import TEMPLATE, load_tenant, problems_of
from crm_assets.yaml_places import Places, Shape, flatten

GOOD = TEMPLATE.format(name="Domaine Test")
BARE = {"integer", "number"}


def nested(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return value  # type: ignore[no-any-return]


def refused(key: str, value: Any) -> list[str]:
    """Keys that are refused when one rule is overridden; empty: it is allowed."""
    try:
        rules.load(nested(key, value))
    except ValidationError as error:
        return [".".join(map(str, problem["loc"])) for problem in error.errors()]
    return []


@pytest.mark.parametrize(
    ("key", "allowed", "wrong"),
    [
        ("audit.silence_days", 0, -1),
        ("audit.silence_days", 3650, 3651),
        ("audit.min_score", 100, 101),
        ("audit.low_confidence", 1, 1.01),
        ("audit.fatigue_contacts", 1, 0),
        ("audit.silence_days", 14, 14.5),
        ("audit.silence_days", 14, "14"),
        ("audit.silence_days", 14, True),
        ("audit.low_confidence", 0.5, float("nan")),
        ("circuit_breaker.tolerances.STALE_SALES.tolerance", 0.01, 0),
        ("circuit_breaker.tolerances.STALE_SALES.severity", "WARN", "INFO"),
        ("activation.holdout_share", 0.5, 0.51),
        ("activation.chunk_max_messages", 1000, 1001),
        ("automation.weekly.weekday", 7, 8),
        ("automation.weekly.weekday", 1, 0),
        ("automation.weekly.hour", 23, 24),
        ("recommendations.upsell_max_price_ratio", 1.01, 1),
        ("recommendations.nurture_price_segment", "standard", "cheap"),
        ("recommendations.season_tags.noel", [12], [13]),
        ("rfm.method", "edges", "deciles"),
        ("permission.adult_age", 18, 17),
        ("permission.wine_trade_types", ["merchant"], ["private"]),
        ("permission.inactive_days", 1095, 1096),
        ("customers.professional_types", ["works_council"], ["private"]),
        ("documents.types.FACTURE PRO", "count", "counts"),
        ("values.countries.NARNIA", "NA", "Narnia"),
        ("products.kinds", [{"pattern": r"\mPORT\M", "kind": "shipping"}], [{"pattern": "(PORT", "kind": "shipping"}]),
        ("customers.statuses", [{"pattern": "A", "status": "moved"}], [{"pattern": "A", "status": "gone"}]),
        ("landing.freshness.stock.error_days", None, 0),
    ],
)
def test_a_value_beyond_its_range_is_refused_and_the_last_one_within_is_not(key: str, allowed: Any, wrong: Any) -> None:
    assert refused(key, allowed) == []
    (place,) = refused(key, wrong)
    assert place.startswith(key)


@pytest.mark.parametrize(
    ("section", "allowed", "wrong"),
    [
        ("recommendations.weights.rebuy", {"rhythm": 0.45 + 1e-12}, {"rhythm": 0.46}),
        ("recommendations", {"rebuy_max_days": 61}, {"rebuy_max_days": 60}),
        ("recommendations.feedback.unrated", {"later": 0.75}, {"later": 0.76}),
        ("recommendations.explanations", {"tops": [1, 2]}, {"tops": [2, 1]}),
        ("activation", {"batch_size": 300}, {"batch_size": 301}),
        ("activation", {"batch_size": 200}, {"batch_size": 199}),
        ("taste.confidence_levels", {"medium": 0.69}, {"medium": 0.7}),
        ("products.price_segments", {"premium": 74}, {"premium": 75}),
        ("products", {"suggestion_min": 95}, {"suggestion_min": 96}),
        ("rfm.edges", {"recency": [1, 2, 3, 4]}, {"recency": [1, 3, 3, 4]}),
        ("clusters", {"k_min": 8}, {"k_min": 9}),
        ("landing.freshness.customers", {"warn_days": 185}, {"warn_days": 186}),
        ("ranking.backtest", {"judged_by": 20}, {"judged_by": 5}),
    ],
)
def test_what_must_hold_between_the_values_of_a_section(
    section: str, allowed: dict[str, Any], wrong: dict[str, Any]
) -> None:
    assert refused(section, allowed) == []
    assert refused(section, wrong) == [section]


def test_a_check_without_a_tolerance_is_refused() -> None:
    content = rules.merge(rules.defaults(), {})
    breaker = {**content["circuit_breaker"], "tolerances": {}}
    with pytest.raises(ValidationError, match=r"every check has a tolerance.*none for UNKNOWN_PRODUCT"):
        BusinessRules.model_validate({**content, "circuit_breaker": breaker})


def test_every_number_of_the_rules_has_a_range() -> None:
    shape = Shape(BusinessRules)

    def bare(node: dict[str, Any]) -> bool:
        if "anyOf" in node:
            return any(bare(option) for option in node["anyOf"])
        if node.get("type") == "array":
            return bare(node["items"])
        limits = {"minimum", "maximum", "exclusiveMinimum"}
        return node.get("type") in BARE and not limits & set(node)

    without = [".".join(key) for key, _ in flatten(rules.defaults()) if bare(dict(shape.node(key) or {}))]
    assert without == []


def test_every_problem_of_a_file_is_said_at_once_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "a_test.yaml"
    first = len(GOOD.splitlines()) + 1
    path.write_text(
        GOOD
        + "locale: en\n"
        + "lokale: fr\n"
        + "rules:\n"
        + "  silence_days: 4\n"
        + "  audit:\n"
        + "    min_scor: 70\n"
        + "    silence_days: -1\n"
        + "  recommendations:\n"
        + "    weights: {rebuy: {rhythm: 0.5}}\n"
        + "  circuit_breaker: {tolerances: {STALE_SALE: {severity: ERROR, tolerance: 0.1}}}\n"
        + "  review:\n",
        encoding="utf-8",
    )
    found = {(problem.line, problem.key): str(problem) for problem in problems_of(path)}
    assert {(line - first, key) for line, key in found if line} == {
        (0, "locale"),
        (1, "lokale"),
        (3, "rules.silence_days"),
        (5, "rules.audit.min_scor"),
        (6, "rules.audit.silence_days"),
        (8, "rules.recommendations.weights.rebuy"),
        (9, "rules.circuit_breaker.tolerances.STALE_SALE"),
        (10, "rules.review"),
    }
    said = {key: text for (_, key), text in found.items()}
    assert said["locale"].endswith("this key stands in line 6 already: of two, only one can count")
    assert "did you mean 'locale'?" in said["lokale"]
    assert "did you mean 'audit.silence_days'?" in said["rules.silence_days"]
    assert "did you mean 'min_score'?" in said["rules.audit.min_scor"]
    assert said["rules.audit.silence_days"].endswith("not allowed; found -1; allowed: a whole number 0..3650")
    # All six, of which the estate's file has one.
    assert said["rules.recommendations.weights.rebuy"].endswith(
        "sum to 1 (± 1e-09); they sum to 1.05:"
        " collaborative 0.3, content 0.1, popularity 0.05, rhythm 0.5, margin 0.05, season 0.05"
    )
    assert "did you mean 'STALE_SALES'?" in said["rules.circuit_breaker.tolerances.STALE_SALE"]


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("rules:\n\taudit: 1\n", 2, "indented with a tab: YAML takes spaces only"),
        ("rules:\n  audit\n    silence_days: 3\n", 3, "is the ':' missing in the line above"),
        ("rules:\n  audit: 'x\n", 3, "opened above and not closed?"),
        ("rules:\n  audit:\n    silence_days: 3\n   min_score: 80\n", 4, "indented otherwise than its neighbours?"),
        ("rules:\n", 1, "nothing stands in this section: write its keys below it"),
        ("rules: 3\n", 1, "a section is expected, with keys of its own below it"),
        ("rules:\n  audit:\n", 2, "nothing stands in this section"),
        ("rules:\n  audit.silence_days: 3\n", 2, "one in the other: audit: {silence_days: …}"),
        ("rules: {audit: {low_confidence: '0,30'}}\n", 1, "a number 0..1; did you mean 0.3?"),
        ("rules: {audit: {low_confidence: 30 %}}\n", 1, "a number 0..1; did you mean 0.3?"),
        ("rules: {clusters: {silhouette_tolerance: '0.02'}}\n", 1, "a number 0..1; did you mean 0.02?"),
        ("rules: {circuit_breaker: {min_score: 60%}}\n", 1, "; did you mean 60?"),
        ("rules: {values: {countries: {NO: NO}}}\n", 1, "for true or false: put the word in quotes"),
    ],
)
def test_what_people_mistype_is_answered_with_what_to_write(tmp_path: Path, text: str, line: int, said: str) -> None:
    path = tmp_path / "a_test.yaml"
    path.write_text(GOOD + text, encoding="utf-8")
    (problem,) = problems_of(path)
    assert problem.line == len(GOOD.splitlines()) + line
    assert said in str(problem)


def test_no_value_outside_the_rules_is_quoted(tmp_path: Path) -> None:
    path = tmp_path / "a_test.yaml"
    path.write_text(
        GOOD + "reports: {emails: [jeanne.muller]}\nbrevo: {api_key_variable: xkeysib-123}\n", encoding="utf-8"
    )
    said = " ".join(map(str, problems_of(path)))
    assert "key 'reports.emails.0': no e-mail address" in said
    assert "jeanne" not in said
    assert "xkeysib" not in said


def test_the_places_of_keys_and_their_comments() -> None:
    places = Places(
        "a:          # of the section\n  b: 1   # one\n  c: {d: '#', e: 2}   # both\n  f:\n    - x # x\ng: 3\n"
    )
    assert {".".join(key): (place.line, place.comment) for key, place in places._places.items()} == {
        "a": (1, "of the section"),
        "a.b": (2, "one"),
        "a.c": (3, "both"),
        "a.c.d": (3, "both"),
        "a.c.e": (3, "both"),
        "a.f": (4, "of the section"),
        "a.f.0": (5, "x"),
        "g": (6, ""),
    }


def test_each_value_in_force_says_where_it_comes_from(tmp_path: Path) -> None:
    path = tmp_path / "a_test.yaml"
    path.write_text(GOOD + "rules:\n  audit: {silence_days: 21}   # a quiet estate\n", encoding="utf-8")
    tenant = load_tenant(path)
    found = {rule.key: rule for rule in rules_files.effective(tenant, tmp_path)}
    silence, fatigue = found["audit.silence_days"], found["audit.fatigue_days"]
    assert (silence.value, silence.default) == (21, 14)
    assert silence.source == f"{path}:{len(GOOD.splitlines()) + 2}"
    product = (ROOT / "crm_assets/config/rules.yaml").read_text(encoding="utf-8").splitlines()
    file, _, line = str(silence.default_source).rpartition(":")
    assert file == "crm_assets/config/rules.yaml"
    assert product[int(line) - 1].strip().startswith("silence_days: 14")
    assert silence.allowed == "a whole number 0..3650"
    assert silence.comment == "a quiet estate"
    assert (fatigue.is_override, fatigue.source.partition(":")[0]) == (False, file)
    assert set(found) == {".".join(key) for key, _ in flatten(tenant.business_rules.model_dump(mode="json"))}
    text = rules_files.as_text(tenant, list(found.values()), None)
    assert f"* audit.silence_days: 21  [{silence.source}] (the product's: 14, {file}:{line})" in text
    assert tenant.business_rules.version in text
    with pytest.raises(rules_files.RulesError, match=r"did you mean 'audit\.silence_days'"):
        rules_files.asked_for(list(found.values()), "audit.silence_dayz")


def test_the_check_looks_at_every_file_and_says_the_products_faults_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "tenants"
    folder.mkdir()
    for slug, override in (("one", "{audit: {min_score: 101}}"), ("two", "{rfm: {methode: edges}}"), ("three", "{}")):
        (folder / f"{slug}.yaml").write_text(f"{GOOD}rules: {override}\n", encoding="utf-8")
    wrong = tmp_path / "rules.yaml"
    text = rules.RULES_FILE.read_text(encoding="utf-8")
    wrong.write_text(text.replace("silence_days: 14", "silence_days: 9999"), encoding="utf-8")
    assert [problem.key for problem in rules_files.problems(folder)] == ["rules.audit.min_score", "rules.rfm.methode"]
    assert [problem.key for problem in rules_files.problems(folder, "two")] == ["rules.rfm.methode"]
    monkeypatch.setattr(rules, "RULES_FILE", wrong)
    rules.defaults.cache_clear()
    try:
        found = [(Path(problem.file).name, problem.key) for problem in rules_files.problems(folder)]
    finally:
        monkeypatch.undo()
        rules.defaults.cache_clear()
    assert found == [
        ("rules.yaml", "audit.silence_days"),
        ("one.yaml", "rules.audit.min_score"),
        ("two.yaml", "rules.rfm.methode"),
    ]


def test_the_projects_own_rules_are_right() -> None:
    assert rules_files.problems(ROOT / "tenants") == []


def test_whoever_has_read_enough_of_a_long_list_sees_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    config = settings().model_copy(update={"tenants": ROOT / "tenants"})
    monkeypatch.setattr(cli, "settings", lambda: config)
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        assert cli.main(["rules", "show", "--tenant", "demo"]) == 1


def test_changes_since_other_rules() -> None:
    then = rules.load({"audit": {"silence_days": 21}, "documents": {"types": {"FACTURE PRO": "count"}}})
    before = then.model_dump(mode="json")
    del before["audit"]["min_score"]
    said = {change.key: (change.then, change.now) for change in rules_files.changes(before, rules.load())}
    assert said == {
        "audit.silence_days": (21, 14),
        "audit.min_score": (rules_files.ABSENT, 80),
        "documents.types.FACTURE PRO": ("count", rules_files.ABSENT),
    }


class _Plain(BaseModel):
    size: int


def test_a_missing_key_names_the_section_it_is_missing_from() -> None:
    with pytest.raises(ValidationError) as error:
        _Plain.model_validate({})
    (problem,) = yaml_places.problems(error.value, _Plain, "x.yaml", Places("other: 1\n"))
    assert str(problem) == "x.yaml: key 'size': this key is required and missing"
