"""A Great Expectations verdict as an asset check: the table of what is met, and the way to its Data Docs.

What is expected stands with the checks of each stage; how it is judged is in `crm_assets/expectations.py`.
"""

from typing import TYPE_CHECKING, Any

import dagster as dg

from crm_assets import expectations, run_context
from crm_assets.expectations import Suite

if TYPE_CHECKING:
    import pandas as pd


def judged(
    run: run_context.TenantRun,
    frame: "pd.DataFrame",
    suite: Suite,
    severity: dg.AssetCheckSeverity,
    **more: Any,
) -> dg.AssetCheckResult:
    """Judge a table in a run, write its Data Docs, and drop those of runs long past. Counts only, no value of a row."""
    folder = expectations.data_docs_folder(run.home, run.tenant.slug, run.run_id)
    verdict = expectations.judge(frame, suite, folder, run.now)
    expectations.remove_old(run.home, run.tenant.slug, run.rules.audit.data_docs_runs_kept)
    page = verdict.page
    docs: dict[str, Any] = {"data_docs": "not written: an expectation could not be measured"}
    if page is not None:
        docs = {"data_docs": dg.MetadataValue.path(str(page)), "data_docs_url": dg.MetadataValue.url(page.as_uri())}
    return dg.AssetCheckResult(
        passed=verdict.is_met,
        severity=severity,
        metadata={
            **more,
            "suite": suite.name,
            "n_rows_measured": len(frame),
            "n_expectations": len(verdict.outcomes),
            "n_not_met": sum(not outcome.is_met for outcome in verdict.outcomes),
            "n_allowed": 0,
            "expectations": dg.MetadataValue.md(expectations.markdown(verdict)),
            **docs,
        },
    )
