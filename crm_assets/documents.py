"""Exports and reports of a run, from a tenant's database to files. Shared by Dagster and by `crm export`.

What stands in the files is decided in `logic/exports.py` and `logic/reports.py`; files are written whole or
not at all, and the same run gives the same bytes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

from crm_assets import gating
from crm_assets.logic import exports, reports
from crm_assets.resources.warehouse import Warehouse
from crm_assets.rules import BusinessRules
from crm_assets.settings import ROOT
from crm_assets.tenants import Tenant

REPORT_NAME = "weekly_report.html"


def decision_of(warehouse: Warehouse, run_id: str) -> dict[str, Any]:
    """The row of gate.decisions of a run; LookupError when the run never reached the gate."""
    found = warehouse.read("gate", "decisions", where="run_id = %s", params=[run_id])
    if found.empty:
        raise LookupError(f"run {run_id} has no decision of the gate")
    return {str(name): value for name, value in found.to_dict("records")[0].items()}


def folder_of(tenant: Tenant, home: Path, *parts: str) -> Path:
    """Where documents for the estate's people go: the folder its file names, else `CRM_HOME/exports/<slug>/`."""
    own = tenant.reports.folder
    return (ROOT / Path(own).expanduser() if own else home / "exports" / tenant.slug).joinpath(*parts)


def written(paths: Iterable[Path], home: Path, now: datetime, **more: Any) -> pd.DataFrame:
    """Rows of a table of documents (all but run_id): `path` relative to CRM_HOME where it lies below it."""
    rows = []
    for path in paths:
        content = path.read_bytes()
        shown = path.relative_to(home) if path.is_relative_to(home) else path
        row = {"path": shown.as_posix(), "sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}
        rows.append({**row, "written_at": now, **more})
    return pd.DataFrame(rows)


def missing_or_changed(documents: pd.DataFrame, home: Path) -> list[str]:
    """The documents that no longer lie where their table says, with the bytes it says."""
    return [
        path
        for path, sha256 in documents[["path", "sha256"]].itertuples(index=False)
        if not (home / path).is_file() or hashlib.sha256((home / path).read_bytes()).hexdigest() != sha256
    ]


def write_whole(path: Path, content: bytes) -> Path:
    """Write a file so that nobody ever sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_bytes(content)
    scratch.replace(path)
    return path


def _of_run(warehouse: Warehouse, schema: str, name: str, run_id: str, columns: list[str]) -> pd.DataFrame:
    return warehouse.read(schema, name, columns, "run_id = %s", [run_id])


def export_run(warehouse: Warehouse, run_id: str, directory: Path) -> list[Path]:
    """Write the four export files of a run, as CSV and as JSON, into `directory`."""
    # fmt: off
    frames = exports.run_exports(
        items=gating.listed_items(warehouse, run_id, [
            "customer_id", "scenario", "rank", "product_key", "score", "explain_short"]),
        findings=_of_run(warehouse, "audit", "findings", run_id, [
            "customer_id", "severity", "rule_code", "rule_no", "product_key", "details"]),
        actions=_of_run(warehouse, "gate", "next_actions", run_id, [
            "customer_id", "client_code", "eligible", "reason", "scenario", "audit_score",
            "permission_reason"]),
        decision=decision_of(warehouse, run_id),
    )
    # fmt: on
    return [write_whole(directory / name, content) for name, content in exports.files(frames).items()]


def write_report(warehouse: Warehouse, tenant: Tenant, rules: BusinessRules, run_id: str, directory: Path) -> Path:
    """Write the weekly report of a run into `directory`."""
    received = warehouse.read(
        "raw", "files", ["path", "file_id", "status", "reason", "row_count"], "deleted_at is null"
    )
    refused = warehouse.read("curated", "file_accounting", ["file_id", "quarantined"]).groupby("file_id").sum()
    # Content dropped under two names is loaded once: only the loaded file has rows that were refused.
    of_file = received["file_id"].map(refused["quarantined"]).where(received["status"] == "loaded")
    planned = warehouse.query(
        "select c.campaign, c.occurrence, c.audience - c.holdout as messages, c.holdout,"
        " (select count(*) from activation.batches b"
        " where (b.campaign, b.occurrence, b.step) = (c.campaign, c.occurrence, c.step)) as batches"
        " from activation.campaigns c where c.run_id = %s"
        ' order by c.campaign collate "C", c.occurrence collate "C"',
        [run_id],
    )
    html = reports.weekly_report(
        tenant,
        rules,
        decision_of(warehouse, run_id),
        _of_run(warehouse, "gate", "next_actions", run_id, ["eligible", "reason", "scenario"]),
        warehouse.read("rfm", "customer_rfm", ["segment"])["segment"],
        len(warehouse.read("customers", "predictions", ["customer_id"], "is_churning")),
        warehouse.read(
            "customers",
            "cluster_profiles",
            ["population", "cluster_id", "cluster_name", "size", "share", "frequency", "monetary"],
        ),
        received.assign(quarantined=of_file),
        planned,
        _of_run(
            warehouse,
            "audit",
            "data_quality",
            run_id,
            ["check_code", "severity", "bad", "total", "tolerance", "score"],
        ),
        _of_run(
            warehouse,
            "recommendations",
            "backtests",
            run_id,
            ["part", "engine", "top", "cut", "window_days", "customers", "hit_rate", "is_serving"],
        ),
    )
    return write_whole(directory / REPORT_NAME, html.encode())
