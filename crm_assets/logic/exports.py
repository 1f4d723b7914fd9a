"""The four export files of a run, exactly as spec.md §6 names them: frames in, CSV and JSON bytes out.

CSV is UTF-8 with commas and a header even when there is no row. It begins with a byte order mark, without which Excel
takes accents for those of Windows, and texts stand in quotes, so that a reader that is told so keeps `01000` a text.
JSON is an array with the same columns, counts as objects, without a mark. Rows are sorted, so the same run gives the
same bytes. No database and no folder here.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

# fmt: off
COLUMNS = {
    "reco_output": ["run_id", "customer_code", "scenario", "rank", "product_key", "score", "explain_short"],
    "audit_output": ["run_id", "customer_code", "severity", "rule_code", "details"],
    "next_action_output": ["run_id", "customer_code", "eligible", "reason", "scenario", "audit_score"],
    "run_summary": [
        "run_id", "as_of", "total_clients", "total_recommendations", "gating_rate", "scenario_counts",
        "rule_counts", "permission_counts", "n_errors", "n_warns", "mean_audit_score",
        "data_quality_score", "gate_export",
    ],
}
# fmt: on


def _counts(values: pd.Series) -> dict[str, int]:
    return {str(name): int(count) for name, count in values.dropna().value_counts().sort_index().items()}


def run_exports(
    items: pd.DataFrame, findings: pd.DataFrame, actions: pd.DataFrame, decision: Mapping[str, Any]
) -> dict[str, pd.DataFrame]:
    """The four frames of one run, COLUMNS each, sorted.

    `items`, `findings`, `actions`: the run's rows of recommendations.items, audit.findings and
    gate.next_actions; `decision`: its row of gate.decisions. customer_code is the client code of the next
    action. gating_rate = eligible customers / all customers, 0..1.
    """
    run_id = decision["run_id"]
    codes = actions[["customer_id", "client_code"]].rename(columns={"client_code": "customer_code"})

    def coded(rows: pd.DataFrame, name: str, by: list[str]) -> pd.DataFrame:
        merged = rows.merge(codes, on="customer_id", how="left", validate="many_to_one")
        # A row whose customer the gate does not know still shows: under its id.
        merged["customer_code"] = merged["customer_code"].fillna(merged["customer_id"])
        return merged.assign(run_id=run_id).sort_values(by, kind="stable")[COLUMNS[name]].reset_index(drop=True)

    n_customers = int(decision["n_customers"])
    summary = {
        "run_id": run_id,
        "as_of": pd.Timestamp(decision["as_of"]).date().isoformat(),
        "total_clients": n_customers,
        "total_recommendations": len(items),
        "gating_rate": round(int(decision["n_eligible"]) / n_customers, 6) if n_customers else 0.0,
        "scenario_counts": _counts(items["scenario"]),
        "rule_counts": _counts(findings["rule_code"]),
        "permission_counts": _counts(actions["permission_reason"]),
        "n_errors": int(decision["n_errors"]),
        "n_warns": int(decision["n_warnings"]),
        "mean_audit_score": decision["mean_audit_score"],
        "data_quality_score": decision["data_quality_score"],
        "gate_export": bool(decision["gate_export"]),
    }
    return {
        "reco_output": coded(items, "reco_output", ["customer_code", "rank", "product_key"]),
        "audit_output": coded(findings, "audit_output", ["customer_code", "rule_no", "product_key"]),
        "next_action_output": coded(actions, "next_action_output", ["customer_code"]),
        "run_summary": pd.DataFrame([summary], columns=COLUMNS["run_summary"]),
    }


def _plain(value: Any) -> Any:
    """A cell as JSON knows it: Python's own types, null for what is missing."""
    if isinstance(value, dict):
        return value
    if value is None or pd.isna(value):
        return None
    return value.item() if isinstance(value, np.generic) else value


def _cell(value: Any) -> str | int | float:
    """A cell as the CSV shows it: true/false, JSON for counts, empty for what is missing."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return value
    return json.dumps(value, ensure_ascii=False, sort_keys=True) if isinstance(value, dict) else str(value)


def csv_bytes(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    """A table as CSV that Excel opens with its accents."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerow(columns)
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerows([_cell(value) for value in row] for row in rows)
    return codecs.BOM_UTF8 + text.getvalue().encode()


def json_bytes(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    """A table as a JSON array of objects."""
    records = [dict(zip(columns, row, strict=True)) for row in rows]
    return (json.dumps(records, ensure_ascii=False, indent=1) + "\n").encode()


def files(frames: Mapping[str, pd.DataFrame]) -> dict[str, bytes]:
    """File name -> bytes: each frame as .csv and .json."""
    written: dict[str, bytes] = {}
    for name, frame in frames.items():
        columns = list(frame.columns)
        rows = [[_plain(value) for value in row] for row in frame.itertuples(index=False, name=None)]
        written[f"{name}.csv"] = csv_bytes(columns, rows)
        written[f"{name}.json"] = json_bytes(columns, rows)
    return written
