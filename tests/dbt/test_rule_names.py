"""The names under which SQL asks for a rule: one that is misspelt would be null, and nothing would say so."""

from __future__ import annotations

import re
from datetime import date

from crm_assets import rules
from crm_assets.defs.landing.parameters import parameters
from crm_assets.settings import ROOT
from crm_assets.tenants import Registry

CALL = re.compile(r"rule_(?:number|text|json)\(\s*'([^']+)'\s*\)")


class _Run:
    """As much of a run as `parameters` looks at."""

    def __init__(self) -> None:
        self.tenant = Registry(ROOT / "tenants").get("demo")
        self.rules = rules.load()
        self.as_of = date(2025, 12, 31)
        self.is_historical = False


def test_every_rule_that_sql_asks_for_is_written_before_it() -> None:
    written = set(parameters(_Run()))  # type: ignore[arg-type]
    asked = {
        name
        for folder in ("models", "macros", "tests")
        for path in (ROOT / "dbt_project" / folder).rglob("*.sql")
        for name in CALL.findall(path.read_text(encoding="utf-8"))
    }
    assert asked
    assert asked <= written
