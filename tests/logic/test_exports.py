"""The export files of a run, and that every code of theirs has words."""

from __future__ import annotations

import codecs
import csv
import io
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any, get_args

import openpyxl
import pandas as pd
import pytest

from crm_assets import campaigns, rendering, tables
from crm_assets import rules as rules_module
from crm_assets.campaigns import forbidden_words
from crm_assets.logic import audit, customers, exports, gate
from tests.logic import estate
from tests.logic.estate import item, items

RULES = rules_module.load()
DECISION: dict[str, Any] = {
    "run_id": "run",
    "as_of": pd.Timestamp(estate.AS_OF),
    "status": "open",
    "reasons": [],
    "data_quality_score": 97.5,
    "gate_export": True,
    "n_customers": 3,
    "n_permitted": 2,
    "n_eligible": 1,
    "n_errors": 1,
    "n_warnings": 1,
    "mean_audit_score": 83.333333,
    "is_historical": False,
}
FINDINGS = pd.DataFrame(
    [
        ("c2", "ERROR", "BOUNCED", 5, "", "the address bounced or complained"),
        ("c1", "WARN", "LOW_CONFIDENCE", 15, "p1", "confidence 0.100, below 0.30"),
    ],
    columns=["customer_id", "severity", "rule_code", "rule_no", "product_key", "details"],
)
ACTIONS = pd.DataFrame(
    [
        ("c2", "B2", False, "BOUNCED", "rebuy", 60, None),
        ("c1", "A1", True, "LOW_CONFIDENCE", "rebuy", 90, None),
        ("c3", "C3", False, "OBJECTED", None, 60, "OBJECTED"),
    ],
    columns=[
        "customer_id",
        "client_code",
        "eligible",
        "reason",
        "scenario",
        "audit_score",
        "permission_reason",
    ],
)
ITEMS = items(item("c2", "p3"), item("c1", "p2", 2, explain_short='Un "vieux", connu'), item("c1", "p1", 1))


def written(**changes: Any) -> dict[str, bytes]:
    given: dict[str, Any] = {"items": ITEMS, "findings": FINDINGS, "actions": ACTIONS, "decision": DECISION}
    return exports.files(exports.run_exports(**{**given, **changes}))


def read_csv(content: bytes) -> list[list[str]]:
    assert content.startswith(codecs.BOM_UTF8), "Excel reads accents right only behind this mark"
    return list(csv.reader(io.StringIO(content.decode("utf-8-sig"))))


HEADERS = {
    "reco_output": "run_id,customer_code,scenario,rank,product_key,score,explain_short",
    "audit_output": "run_id,customer_code,severity,rule_code,details",
    "next_action_output": "run_id,customer_code,eligible,reason,scenario,audit_score",
    "run_summary": "run_id,as_of,total_clients,total_recommendations,gating_rate,scenario_counts,rule_counts,"
    "permission_counts,n_errors,n_warns,mean_audit_score,data_quality_score,gate_export",
}


def test_the_files_and_their_columns_are_those_of_the_spec() -> None:
    files = written()
    assert sorted(files) == sorted(f"{name}.{kind}" for name in HEADERS for kind in ("csv", "json"))
    for name, header in HEADERS.items():
        assert files[f"{name}.csv"].startswith(codecs.BOM_UTF8 + header.encode() + b"\n")
        assert not files[f"{name}.json"].startswith(codecs.BOM_UTF8)
        for record in json.loads(files[f"{name}.json"]):
            assert ",".join(record) == header


def test_rows_are_sorted_and_carry_client_codes() -> None:
    files = written()
    assert [row[1:5] for row in read_csv(files["reco_output.csv"])[1:]] == [
        ["A1", "rebuy", "1", "p1"],
        ["A1", "rebuy", "2", "p2"],
        ["B2", "rebuy", "1", "p3"],
    ]
    assert read_csv(files["reco_output.csv"])[2][6] == 'Un "vieux", connu'
    assert [row[1] for row in read_csv(files["audit_output.csv"])[1:]] == ["A1", "B2"]
    assert read_csv(files["next_action_output.csv"])[1:] == [
        ["run", "A1", "true", "LOW_CONFIDENCE", "rebuy", "90"],
        ["run", "B2", "false", "BOUNCED", "rebuy", "60"],
        ["run", "C3", "false", "OBJECTED", "", "60"],
    ]


def test_the_summary_counts() -> None:
    (summary,) = json.loads(written()["run_summary.json"])
    assert summary == {
        "run_id": "run",
        "as_of": "2025-12-31",
        "total_clients": 3,
        "total_recommendations": 3,
        "gating_rate": 0.333333,
        "scenario_counts": {"rebuy": 3},
        "rule_counts": {"BOUNCED": 1, "LOW_CONFIDENCE": 1},
        "permission_counts": {"OBJECTED": 1},
        "n_errors": 1,
        "n_warns": 1,
        "mean_audit_score": 83.333333,
        "data_quality_score": 97.5,
        "gate_export": True,
    }
    row = dict(zip(*read_csv(written()["run_summary.csv"]), strict=True))
    assert json.loads(row["scenario_counts"]) == {"rebuy": 3}
    assert row["gate_export"] == "true"


def test_a_run_of_nothing_has_headers_and_one_summary() -> None:
    empty = {**DECISION, "n_customers": 0, "n_eligible": 0, "mean_audit_score": None, "gate_export": False}
    files = written(items=ITEMS.iloc[:0], findings=FINDINGS.iloc[:0], actions=ACTIONS.iloc[:0], decision=empty)
    for name in ("reco_output", "audit_output", "next_action_output"):
        assert files[f"{name}.csv"] == codecs.BOM_UTF8 + HEADERS[name].encode() + b"\n"
        assert json.loads(files[f"{name}.json"]) == []
    (summary,) = json.loads(files["run_summary.json"])
    assert summary["mean_audit_score"] is None
    assert summary["gating_rate"] == 0


def test_the_same_run_is_the_same_bytes() -> None:
    assert written() == written(items=ITEMS.iloc[::-1], actions=ACTIONS.iloc[::-1], findings=FINDINGS.iloc[::-1])


def test_texts_stand_in_quotes_and_numbers_do_not() -> None:
    line = written()["next_action_output.csv"].decode("utf-8-sig").splitlines()[1]
    assert line == '"run","A1","true","LOW_CONFIDENCE","rebuy",90'


@pytest.mark.skipif(shutil.which("soffice") is None, reason="LibreOffice is not here")
def test_a_spreadsheet_reads_accents_and_leading_zeros_right(tmp_path: Path) -> None:
    accents = "Crémant d’Alsace « Cœur », déjà aimé €"
    actions = ACTIONS.assign(client_code=ACTIONS["client_code"].replace({"A1": "00123"}))
    found = written(actions=actions, items=items(item("c1", "00042", 1, explain_short=accents)))
    path = tmp_path / "reco_output.csv"
    path.write_bytes(found["reco_output.csv"])
    # Comma, double quote, character set "automatic" (the mark decides), from line 1, quoted fields are texts.
    command = ["soffice", f"-env:UserInstallation=file://{tmp_path}/profile", "--headless", "--convert-to", "xlsx"]
    options = ["--infilter=CSV:44,34,0,1,,0,true,false", "--outdir", str(tmp_path), str(path)]
    subprocess.run([*command, *options], check=True, capture_output=True, timeout=120)
    header, row = openpyxl.load_workbook(path.with_suffix(".xlsx")).active.iter_rows(values_only=True)
    assert ",".join(header) == HEADERS["reco_output"]
    assert (row[1], row[3], row[4], row[6]) == ("00123", 1, "00042", accents)


@pytest.mark.parametrize("locale", ["fr", "en", "de"])
def test_every_word_of_a_cluster_has_its_own_in_every_language(locale: str) -> None:
    words = rendering.texts(locale)["cluster_word"]
    assert set(words) == set(customers.CLUSTER_WORDS)
    assert len(set(words.values())) == len(words)
    assert set(rendering.texts(locale)["population"]) == set(customers.POPULATIONS)


@pytest.mark.parametrize("locale", ["fr", "en", "de"])
def test_every_segment_has_a_name_and_none_is_at_risk(locale: str) -> None:
    """In reports "at risk" means the churn flag (spec.md §4.1)."""
    names = rendering.texts(locale)["segment"]
    assert set(names) == {*get_args(campaigns.Segment), "Not profiled"}
    assert len(set(names.values())) == len(names)
    assert not any("risk" in name.lower() or "risque" in name.lower() for name in names.values())


@pytest.mark.parametrize("locale", ["fr", "en", "de"])
def test_every_code_has_words_in_every_language(locale: str) -> None:
    words = rendering.texts(locale)
    codes = {rule.code for rule in audit.RULES} | set(audit.PERMISSION_REASONS)
    codes |= {gate.REVIEW_PENDING, gate.REVIEW_FAILED, gate.REVIEW_REJECTED}
    assert set(words["reason"]) == codes
    assert set(words["scenario"]) == {"rebuy", "cross_sell", "upsell", "winback", "nurture"}
    french = rendering.texts("fr")
    assert {k: sorted(v) for k, v in words.items()} == {k: sorted(v) for k, v in french.items()}


@pytest.mark.parametrize("name", ["email.html.j2", "email_fr.yaml", "email_en.yaml", "email_de.yaml"])
def test_templates_carry_no_forbidden_word(name: str) -> None:
    assert forbidden_words((rendering.FOLDER / name).read_text(encoding="utf-8"), RULES) == []


def test_statuses_of_files_are_all_worded() -> None:
    comment = ["waiting", "loaded", "review", "duplicate", "unrecognised", "unreadable", "refused"]
    assert sorted(rendering.texts("fr")["file_status"]) == sorted(comment)
    assert "status" in tables.raw_files.columns
