"""The circuit breaker's lights, and what data_quality shows of earlier days."""

from __future__ import annotations

import base64
from datetime import date
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pandas as pd
import pytest

from crm_assets import rules, tables
from crm_assets.defs.audit import quality
from crm_assets.logic import audit
from crm_assets.resources.warehouse import Warehouse
from tests.integration.test_quality_history import decide
from tests.lights import evaluated

RULES = rules.load({})
BREAKER = RULES.circuit_breaker
AS_OF = date(2025, 12, 31)


def measured(**changed: tuple[float, float]) -> pd.DataFrame:
    """audit.data_quality of a run: nothing bad but what is changed, check -> (bad, total)."""
    found = {code: (0.0, 200.0) for code in BREAKER.tolerances} | changed
    rows = [(code, bad, total) for code, (bad, total) in found.items()]
    return audit.data_quality(pd.DataFrame(rows, columns=["check_code", "bad", "total"]), RULES)


@pytest.fixture
def run(tenant_warehouse: Warehouse) -> Any:
    return SimpleNamespace(warehouse=tenant_warehouse, rules=RULES, as_of=AS_OF, run_id="now")


def test_every_check_of_the_breaker_has_a_light_that_says_what_to_do() -> None:
    assert set(quality.LIGHTS) == set(BREAKER.tolerances)
    assert all(light.counts.endswith(".") and light.advice.endswith(".") for light in quality.LIGHTS.values())


def test_a_light_is_red_at_its_tolerance_and_tells_its_figures(run: Any) -> None:
    found = measured(ZERO_QUANTITY=(20, 200), UNKNOWN_CLIENT=(39, 200), QUARANTINE_RATE=(50, 200), SCHEMA_DRIFT=(0, 0))
    run.warehouse.append(tables.data_quality, found.assign(run_id="now"))
    run.warehouse.append(tables.data_quality, measured(STALE_SALES=(31, 31)).assign(run_id="before"))
    by_name = {name: light for (_, name), light in evaluated(run, quality.data_quality_lights).items()}
    assert {name for name, light in by_name.items() if not light.passed} == {"zero_quantity", "quarantine_rate"}
    assert len(by_name) == 15
    assert {light.severity for light in by_name.values()} == {dg.AssetCheckSeverity.WARN}
    assert not any(light.blocking for light in by_name.values())
    assert {name: value.value for name, value in by_name["zero_quantity"].metadata.items()} == {
        "verdict": "20 of 200: 10.00%, tolerated below 10.00%; this closes the gate",
        "bad": 20.0,
        "total": 200.0,
        "ratio": 0.1,
        "tolerance": 0.1,
        "score": 0.0,
        "severity": "ERROR",
        "what_to_do": quality.LIGHTS["ZERO_QUANTITY"].advice,
    }
    almost = by_name["unknown_client"].metadata
    assert (almost["score"].value, almost["ratio"].value) == (pytest.approx(2.5), 0.195)
    assert almost["verdict"].value == "39 of 200: 19.50%, tolerated below 20.00%"
    assert by_name["quarantine_rate"].metadata["verdict"].value == (
        "50 of 200: 25.00%, tolerated below 10.00%; this lowers the score of the data"
    )
    assert by_name["schema_drift"].metadata["ratio"].value == 0.0


def test_the_past_of_a_run_ends_the_day_before_it(run: Any) -> None:
    for day, bad in ((22, 10.0), (29, 2.0), (31, 4.0)):
        decide(run.warehouse, f"d{day}", date(2025, 12, day), 8, {"QUARANTINE_RATE": (bad, 100.0)})
    run.warehouse.execute("update audit.data_quality set score = 0 where run_id = 'd22'")
    shown = quality.history(run, measured(QUARANTINE_RATE=(1, 200)), 99.9)
    lines = str(shown["ratios_by_day"].value).splitlines()
    assert lines[0] == "| check | severity | tolerance | 2025-12-22 | 2025-12-29 | 2025-12-31 |"
    assert lines[2] == "| QUARANTINE_RATE | WARN | 10% | **10.00%** | 2.00% | 0.50% |"
    assert len(lines) == 2 + 15
    image = str(shown["history"].value).split("base64,")[1].rstrip(")")
    assert base64.b64decode(image).startswith(b"\x89PNG")


def test_a_first_run_has_a_history_of_one_day(run: Any) -> None:
    shown = quality.history(run, measured(), 100.0)
    assert "| check | severity | tolerance | 2025-12-31 |" in str(shown["ratios_by_day"].value)


def test_only_the_last_days_are_shown(run: Any) -> None:
    for n in range(quality.MAX_DAYS_LISTED + 3):
        decide(run.warehouse, f"r{n}", date(2025, 11, 1 + n), 8, {"QUARANTINE_RATE": (1.0, 100.0)})
    head = str(quality.history(run, measured(), 100.0)["ratios_by_day"].value).splitlines()[0]
    assert head.count("2025-") == quality.MAX_DAYS_LISTED
    assert head.endswith("2025-11-11 | 2025-12-31 |")
