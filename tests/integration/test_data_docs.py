"""Great Expectations: what is not met is told by counts, the Data Docs name nobody and fetch nothing."""

from __future__ import annotations

import os
import re
import socket
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pandas as pd
import pytest

from crm_assets import expectations, rules, tables
from crm_assets.defs.raw import checks as raw_checks
from crm_assets.defs.recommendations import checks as list_checks
from crm_assets.expectations import Expected, Suite
from crm_assets.logic.phrases import EXPLAIN_MAX
from crm_assets.resources.warehouse import Warehouse
from tests.lights import evaluated

NOW = datetime(2026, 1, 1, tzinfo=UTC)
RULES = rules.load({})
NAMES = ("Wolfgang Schwendimann", "w.schwendimann@example.org", "12 rue des Tonneliers", "0388123456")


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever opens a connection, or asks for an address, fails."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("something wanted to reach the network")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def listed(**changed: Any) -> pd.DataFrame:
    """A right list of three wines for one customer; `changed` columns are of its last row."""
    good: dict[str, Any] = {column.name: "x" for column in tables.items.columns if column.name != "reasons"}
    numbers = [name for name in good if isinstance(tables.items.columns[name].type, type(tables.items.c.score.type))]
    good |= dict.fromkeys(numbers, 0.5) | {"scenario": "rebuy"}
    frame = pd.DataFrame([good | {"rank": float(rank), "wine_id": f"w{rank}"} for rank in (1, 2, 3)])
    for name, value in changed.items():
        frame[name] = [*frame[name].iloc[:-1], value]
    return frame


LIST_SUITE = list_checks.list_suite(list(listed().columns), RULES.recommendations.max_per_customer)


FAULTS: tuple[tuple[dict[str, Any], dict[str, int]], ...] = (
    ({}, {}),
    ({"wine_id": "w1"}, {"customer_id, wine_id: to be unique": 2}),
    ({"rank": 2.0}, {"customer_id, rank: to be unique": 2}),
    ({"rank": 4.0}, {"rank: values to be between 1 .. 3": 1}),
    ({"score": 100.5}, {"score: values to be between 0 .. 100": 1}),
    ({"score": 100.0, "probability": -0.001}, {"probability: values to be between 0 .. 1": 1}),
    ({"probability": 0.0, "confidence": 1.001}, {"confidence: values to be between 0 .. 1": 1}),
    ({"scenario": "gift"}, {"scenario: values to be in set rebuy, cross_sell, upsell, winback, nurture": 1}),
    ({"explain_short": "nan € of Riesling"}, {"explain_short: values to not match regex": 1}),
    ({"explain_short": "x" * (EXPLAIN_MAX + 1)}, {f"explain_short: value lengths to be between 1 .. {EXPLAIN_MAX}": 1}),
    ({"explain_short": "x" * EXPLAIN_MAX}, {}),
    ({"customer_sentence": "Cher {name}"}, {"customer_sentence: values to not match regex": 1}),
    ({"customer_sentence": "Fernand, Nantes et la nanette"}, {}),
    ({"customer_sentence": ""}, {"customer_sentence: value lengths to be between 1 ..": 1}),
    ({"season": None}, {"season: values to not be null": 1}),
)


def test_each_fault_of_a_list_is_named_and_counted_and_nothing_else(tmp_path: Path) -> None:
    lists = [listed(**changed).assign(customer_id=f"c{n}") for n, (changed, _) in enumerate(FAULTS)]
    verdict = expectations.judge(pd.concat(lists, ignore_index=True), LIST_SUITE, tmp_path, NOW)
    expected = Counter(name for _, unmet in FAULTS for name, n in unmet.items() for _ in range(n))
    assert {o.title: o.n_unexpected for o in verdict.outcomes if not o.is_met} == expected
    assert not verdict.is_met


@pytest.mark.usefixtures("no_network")
def test_the_pages_name_nobody_and_fetch_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GX_ANALYTICS_ENABLED")
    name, email, street, phone = NAMES
    frame = listed(explain_short=f"{name} nan", customer_sentence=f"{{{street}}}", scenario=email, product_key=phone)
    verdict = expectations.judge(frame, LIST_SUITE, tmp_path, NOW)
    assert verdict.page == tmp_path / "recommendation_list" / "index.html"
    pages = {path.name: path.read_text("utf-8") for path in verdict.page.parent.iterdir()}
    assert sorted(pages) == ["expectations.html", "index.html"]
    for page in pages.values():
        assert not [secret for secret in NAMES if secret in page]
        # Links to follow may stand there; nothing is fetched by itself.
        assert not re.findall(r"<script|<link|<img|<iframe|@import|url\(|https?://", page)
        assert re.findall(r'href="([^#"][^"]*)"', page)
        assert set(re.findall(r'href="([^#"][^"]*)"', page)) <= set(pages)
    assert "1 unexpected values found" in pages["index.html"]
    assert "Nobody is offered the same wine twice." in pages["expectations.html"]
    assert not [secret for secret in NAMES if secret in expectations.markdown(verdict)]
    assert os.environ["GX_ANALYTICS_ENABLED"] == "false"


def test_what_cannot_be_measured_is_not_met_and_quotes_nothing(tmp_path: Path) -> None:
    suite = Suite(
        "broken", "why", (Expected("ExpectColumnValuesToBeBetween", "why", {"column": "age", "min_value": 1}),)
    )
    verdict = expectations.judge(pd.DataFrame({"age": ["Wolfgang", 3]}), suite, tmp_path, NOW)
    assert (verdict.is_met, verdict.page, list(tmp_path.rglob("*.html"))) == (False, None, [])
    assert "not measured" in expectations.markdown(verdict)
    assert "Wolfgang" not in repr(verdict)


def test_the_pages_of_runs_long_past_are_removed(tmp_path: Path) -> None:
    assert expectations.remove_old(tmp_path, "estate", 2) == 0
    for age, run_id in enumerate(["d", "a", "c", "b"]):
        page = expectations.data_docs_folder(tmp_path, "estate", run_id) / "suite" / "index.html"
        page.parent.mkdir(parents=True)
        page.write_text("")
        os.utime(page, (1000 - age, 1000 - age))
    assert expectations.remove_old(tmp_path, "estate", 2) == 2
    assert sorted(path.name for path in (tmp_path / "data_docs" / "estate").iterdir()) == ["a", "d"]


# --- the landed batch


@pytest.fixture
def landed(tenant_warehouse: Warehouse) -> Warehouse:
    """A loaded sales file of a hundred right lines."""
    about = {"path": "sales.csv", "file_id": "S", "sha256": "S", "dataset": "sales_lines", "status": "loaded"}
    stamps = {"modified_at": NOW, "first_seen_at": NOW, "order_key": "1", "size_bytes": 1, "row_count": 100}
    tenant_warehouse.append(tables.raw_files, pd.DataFrame([about | stamps]))
    line = {"client_code": "C1", "product_key": "P1", "order_date": "24/12/2025", "quantity": "6", "amount_ht": "60,00"}
    lines = [{"file_id": "S", "source_line": n + 1, "row_no": n, **line} for n in range(1, 101)]
    tenant_warehouse.append(tables.RAW_TABLES["sales_lines"], pd.DataFrame(lines))
    return tenant_warehouse


def light(warehouse: Warehouse, home: Path) -> dg.AssetCheckEvaluation:
    """What the check of the newest sales file says."""
    tenant = SimpleNamespace(slug="estate")
    run: Any = SimpleNamespace(warehouse=warehouse, rules=RULES, home=home, tenant=tenant, run_id="r1", now=NOW)

    return evaluated(run, raw_checks.sales_batch_expectations)["sales_lines", "landed_batch_expectations"]


def test_the_newest_sales_file_is_judged_and_its_pages_are_linked(landed: Warehouse, tmp_path: Path) -> None:
    landed.execute("update raw.sales_lines set quantity = 'six' where row_no <= 2")
    green = light(landed, tmp_path)
    told = {name: value.value for name, value in green.metadata.items()}
    page = tmp_path / "data_docs" / "estate" / "r1" / "landed_sales_lines" / "index.html"
    assert (green.passed, told["data_docs"], told["data_docs_url"]) == (True, str(page), page.as_uri())
    assert page.is_file()
    assert "| ✅ | quantity: values to match regex | 100 | 2 | 0.9800 | 0.9800 |" in str(told["expectations"])

    landed.execute("update raw.sales_lines set quantity = 'six' where row_no = 3")
    red = light(landed, tmp_path)
    assert (red.passed, red.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert red.metadata["n_not_met"].value == 1
    assert "six" not in page.read_text("utf-8")
