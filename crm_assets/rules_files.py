"""The rules as a person meets them: in which file each value stands, what it may be, what is wrong, what has changed.

`crm rules show`, `check` and `diff`. The rules themselves, their ranges and how overrides are laid over them are in
`rules.py`; nothing is changed here, files are the person's to edit.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from crm_assets import rules, tables, tenants, yaml_places
from crm_assets.resources.warehouse import Warehouse
from crm_assets.rules import BusinessRules
from crm_assets.settings import ROOT
from crm_assets.tenants import Tenant
from crm_assets.yaml_places import Places, Problem, Shape, flatten, shown

# Longer mappings are counted, not printed, unless they are asked for by name.
_LONGEST_SHOWN = 20


class RulesError(Exception):
    """What was asked of the rules has no answer; the message says why."""


@dataclass(frozen=True)
class Rule:
    """One value in force. `source`: file:line; `default`, `default_source`: the product's, where a tenant overrides."""

    key: str
    value: Any
    source: str
    allowed: str
    comment: str
    is_override: bool = False
    default: Any = None
    default_source: str | None = None


def shown_path(path: Path) -> str:
    """A file as a person finds it: from the project's folder where it lies in it."""
    return (path.relative_to(ROOT) if path.is_relative_to(ROOT) else path).as_posix()


def tenant_file(folder: Path, slug: str) -> Path:
    """The file of an estate."""
    found = [path for name in (f"{slug}.yaml", f"{slug}.yml") if (path := folder / name).is_file()]
    return found[0] if found else folder / f"{slug}.yaml"


def effective(tenant: Tenant, folder: Path) -> list[Rule]:
    """Every rule in force for a tenant, in the order of rules.yaml, with where it comes from."""
    shape, path = Shape(BusinessRules), tenant_file(folder, tenant.slug)
    own = Places(path.read_text(encoding="utf-8"))
    ours = Places(rules.RULES_FILE.read_text(encoding="utf-8"))
    defaults = dict(flatten(rules.defaults()))
    found = []
    for key, value in flatten(rules.merge(rules.defaults(), tenant.rules)):
        place, default_place = own.get(("rules", *key)), ours.get(key)
        default_source = f"{shown_path(rules.RULES_FILE)}:{default_place.line}" if default_place else None
        # A comment of the estate's own says why it differs; without one the product's says what it is.
        comment = (place.comment if place else "") or (default_place.comment if default_place else "")
        found.append(
            Rule(
                key=".".join(key),
                value=value,
                source=f"{shown_path(path)}:{place.line}" if place else default_source or shown_path(path),
                allowed=shape.allowed(key),
                comment=comment,
                is_override=place is not None,
                default=defaults.get(key) if place else None,
                default_source=default_source if place else None,
            )
        )
    return found


def asked_for(found: list[Rule], key: str | None) -> list[Rule]:
    """The rules under a key; RulesError when there is none, with the nearest."""
    if key is None:
        return found
    under = [rule for rule in found if rule.key == key or rule.key.startswith(f"{key}.")]
    if not under:
        from rapidfuzz import process

        near = process.extractOne(key, [rule.key for rule in found], score_cutoff=50)
        raise RulesError(f"no rule {key!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    return under


def as_text(tenant: Tenant, found: list[Rule], key: str | None) -> str:
    """The rules as lines of text, overrides marked."""
    lines = [f"rules_version {tenant.business_rules.version}; * = of {tenant.slug}'s own file"]
    sections: dict[str, list[Rule]] = {}
    for rule in found:
        sections.setdefault(rule.key.rpartition(".")[0], []).append(rule)
    for section, members in sections.items():
        hidden = [rule for rule in members if not rule.is_override] if len(members) > _LONGEST_SHOWN else []
        if key is not None:
            hidden = []
        for rule in members:
            if rule not in hidden:
                lines += _lines_of(rule, in_full=key is not None)
        if hidden:
            lines.append(
                f"  {section}: {len(hidden)} entries of {hidden[0].source.rpartition(':')[0]}: see --key {section}"
            )
    return "\n".join(lines)


def _lines_of(rule: Rule, in_full: bool) -> list[str]:
    mark = "*" if rule.is_override else " "
    default = f" (the product's: {shown(rule.default)}, {rule.default_source})" if rule.default_source else ""
    line = f"{mark} {rule.key}: {shown(rule.value)}  [{rule.source}]{default}"
    if not in_full:
        return [line]
    more = [f"    allowed: {rule.allowed}" if rule.allowed else "", f"    # {rule.comment}" if rule.comment else ""]
    return [line, *filter(None, more)]


def problems(folder: Path, slug: str | None = None) -> list[Problem]:
    """All that is wrong with rules.yaml and with the files of the estates, or of one of them."""
    file = shown_path(rules.RULES_FILE)
    found = _problems_of_the_product(file)
    wrong = {problem.key for problem in found}
    paths = [tenant_file(folder, slug)] if slug else sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")])
    for path in paths:
        theirs = tenants.problems_of(path, shown_path(path))
        # What is wrong with the product's own value is wrong for every estate that has no other: said once.
        said = [problem for problem in theirs if problem.key.removeprefix("rules.") in wrong]
        own = Places(path.read_text(encoding="utf-8")) if said else None
        found += [each for each in theirs if each not in said or (own and own.get(tuple(each.key.split("."))))]
    return found


def _problems_of_the_product(file: str) -> list[Problem]:
    text = ""
    try:
        text = rules.RULES_FILE.read_text(encoding="utf-8")
        content, places = yaml_places.load(text, forgiving=True), Places(text)
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        return [yaml_places.unreadable(file, error, text)]
    found = yaml_places.keys_twice(file, places)
    try:
        BusinessRules.model_validate(content)
    except ValidationError as error:
        found += yaml_places.problems(error, BusinessRules, file, places)
    return sorted(found, key=lambda problem: problem.line or 0)


ABSENT = "(no such rule)"


@dataclass(frozen=True)
class Change:
    """A rule that is another one now than in a run. ABSENT: there was, or is, no such rule."""

    key: str
    then: Any
    now: Any

    def __str__(self) -> str:
        then, now = (value if value == ABSENT else shown(value) for value in (self.then, self.now))
        return f"{self.key}: {then} -> {now}"


def changes(then: dict[str, Any], now: BusinessRules) -> list[Change]:
    """What differs between the rules of a run and those in force."""
    before, after = dict(flatten(then)), dict(flatten(now.model_dump(mode="json")))
    return [
        Change(".".join(key), before.get(key, ABSENT), after.get(key, ABSENT))
        for key in [*after, *(key for key in before if key not in after)]
        if before.get(key, ABSENT) != after.get(key, ABSENT)
    ]


def rules_of_run(warehouse: Warehouse, run_id: str) -> tuple[str, dict[str, Any]]:
    """rules_version and rules of a run; RulesError when there is no such run, or its rules were not kept."""
    found = warehouse.rows(
        "select runs.rules_version, sets.rules from recommendations.runs as runs"
        f" left join {tables.rule_sets.fullname} as sets on runs.rules_version = sets.rules_version"
        " where runs.run_id = %s",
        [run_id],
    )
    if not found:
        raise RulesError(f"no run {run_id!r}: recommendations.runs lists them")
    version, kept = found[0]
    if kept is None:
        raise RulesError(
            f"the rules of run {run_id} (rules_version {version}) were not kept: it was made before"
            f" {tables.rule_sets.fullname} existed"
        )
    return version, kept
