"""The history of a tenant's data quality: one decision per day, and what a ratio of nothing is."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pandas as pd
import pytest

from crm_assets import tables
from crm_assets.quality_history import HISTORY_COLUMNS, quality_history
from crm_assets.resources.warehouse import Warehouse


def decide(
    warehouse: Warehouse,
    run_id: str,
    day: date,
    hour: int,
    measured: dict[str, tuple[float, float]],
    overall: float = 90.0,
    *,
    is_historical: bool = False,
) -> None:
    """A run's decision and what it measured: check -> (bad, total)."""
    warehouse.append(
        tables.decisions,
        pd.DataFrame(
            [
                {
                    "run_id": run_id,
                    "as_of": day,
                    "status": "open",
                    "reasons": [],
                    "data_quality_score": overall,
                    "gate_export": True,
                    "n_customers": 1,
                    "n_permitted": 1,
                    "n_eligible": 1,
                    "n_errors": 0,
                    "n_warnings": 0,
                    "mean_audit_score": 100.0,
                    "is_historical": is_historical,
                    "decided_at": datetime(2026, 2, 1, hour, tzinfo=UTC),
                    "rules_version": "r",
                }
            ]
        ),
    )
    warehouse.append(
        tables.data_quality,
        pd.DataFrame(
            [
                {
                    "run_id": run_id,
                    "check_code": code,
                    "severity": "WARN",
                    "weight": 1.0,
                    "bad": bad,
                    "total": total,
                    "tolerance": 0.1,
                    "score": 50.0,
                }
                for code, (bad, total) in measured.items()
            ]
        ),
    )


@pytest.fixture
def warehouse(tenant_warehouse: Warehouse) -> Warehouse:
    """Two days: one decided twice and once more with hindsight, one decided with hindsight only."""
    decide(tenant_warehouse, "first", date(2025, 12, 24), 8, {"QUARANTINE_RATE": (1, 10)})
    decide(
        tenant_warehouse, "last", date(2025, 12, 24), 9, {"QUARANTINE_RATE": (1, 20), "DUPLICATE_EMAIL": (0, 0)}, 80.0
    )
    decide(tenant_warehouse, "again", date(2025, 12, 24), 10, {"QUARANTINE_RATE": (1, 40)}, is_historical=True)
    decide(tenant_warehouse, "past", date(2025, 6, 30), 11, {"QUARANTINE_RATE": (3, 0)}, 70.0, is_historical=True)
    return tenant_warehouse


def told(frame: pd.DataFrame) -> list[tuple[object, ...]]:
    shown = frame.assign(as_of=frame["as_of"].dt.date)
    return list(shown[["run_id", "as_of", "check_code", "ratio", "overall"]].itertuples(index=False, name=None))


def test_the_last_decision_of_each_day_is_its_history(warehouse: Warehouse) -> None:
    history = quality_history(warehouse)
    assert list(history.columns) == HISTORY_COLUMNS
    assert told(history) == [
        ("past", date(2025, 6, 30), "QUARANTINE_RATE", 1.0, 70.0),
        ("last", date(2025, 12, 24), "DUPLICATE_EMAIL", 0.0, 80.0),
        ("last", date(2025, 12, 24), "QUARANTINE_RATE", 0.05, 80.0),
    ]


def test_the_history_can_be_asked_for_a_span_of_days(warehouse: Warehouse) -> None:
    assert set(quality_history(warehouse, date(2025, 12, 24))["run_id"]) == {"last"}
    assert set(quality_history(warehouse, until=date(2025, 12, 23))["run_id"]) == {"past"}
    assert quality_history(warehouse, date(2025, 12, 25)).empty
