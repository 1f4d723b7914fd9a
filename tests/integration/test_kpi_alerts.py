"""When more has left its habits than the rules allow: the light turns amber, one alert per kind opens, and closes."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import dagster as dg

from crm_assets import rules
from crm_assets.defs.kpis.checks import anomalies_stay_within_bounds
from crm_assets.resources.control import Control
from crm_assets.resources.warehouse import Warehouse
from crm_assets.settings import Settings
from tests.lights import evaluated

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def write(warehouse: Warehouse, **is_over: bool) -> None:
    """anomaly_counts as dbt leaves it; by kind whether it is over its bound."""
    warehouse.execute("drop table if exists kpis.anomaly_counts")
    warehouse.execute(
        "create table kpis.anomaly_counts (kind text, examined bigint, found bigint, high bigint, share float8,"
        " max_share float8, is_over boolean, value_at_stake_ht numeric, rules_version text)"
    )
    for kind, over in is_over.items():
        warehouse.execute(
            "insert into kpis.anomaly_counts values (%s, 40, 12, 3, 0.3, 0.25, %s, 1234.5, 'v')", [kind, over]
        )


def look(warehouse: Warehouse, config: Settings, is_historical: bool = False) -> dg.AssetCheckEvaluation:
    run: Any = SimpleNamespace(
        warehouse=warehouse,
        rules=rules.load(),
        config=config,
        now=NOW,
        is_historical=is_historical,
        tenant=SimpleNamespace(slug="kpis_estate"),
    )
    (evaluation,) = evaluated(run, anomalies_stay_within_bounds).values()
    return evaluation


def test_each_kind_beyond_its_bound_is_one_alert_until_it_is_back(
    environment: Settings, tenant_warehouse: Warehouse
) -> None:
    control = Control(environment)

    def open_causes() -> dict[str, int]:
        return {alert.cause: alert.occurrences for alert in control.open_alerts("kpis_estate")}

    write(tenant_warehouse, CUSTOMER_SILENT=True, VOLUME_OFF=True, PRODUCT_FALLING=False)
    assert not look(tenant_warehouse, environment, is_historical=True).passed
    assert open_causes() == {}, "an earlier day alarms nobody"
    red = look(tenant_warehouse, environment)
    assert not red.passed
    assert red.severity == dg.AssetCheckSeverity.WARN
    assert red.metadata["over"].value == "CUSTOMER_SILENT, VOLUME_OFF"
    assert "| PRODUCT_FALLING | 40 | 12 | 3 | 30.0% | 25.0% | 1,234 | Fewer bottles" in str(
        red.metadata["anomalies"].value
    )
    assert open_causes() == {"anomaly:CUSTOMER_SILENT": 1, "anomaly:VOLUME_OFF": 1}
    (silent, _) = sorted(control.open_alerts("kpis_estate"), key=lambda alert: alert.cause)
    assert silent.message == ("CUSTOMER_SILENT: 12 of 40 (30.0%), more than 25.0%; EUR 1,234 net of VAT at stake")

    write(tenant_warehouse, CUSTOMER_SILENT=True, VOLUME_OFF=False, PRODUCT_FALLING=False)
    look(tenant_warehouse, environment)
    assert open_causes() == {"anomaly:CUSTOMER_SILENT": 2}, "the same cause is counted, what is back is closed"
    write(tenant_warehouse, CUSTOMER_SILENT=False, VOLUME_OFF=False, PRODUCT_FALLING=False)
    assert look(tenant_warehouse, environment).passed
    assert open_causes() == {}
