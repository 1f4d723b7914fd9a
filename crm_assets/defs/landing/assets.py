"""Landing a drop: one act that fills the ledger and all raw tables, so one step for all of them.

How a file is read, recognised and loaded is `resources/raw_store.py` and the logic under it. Metadata shows
file names, counts and reasons, never a value of a file.
"""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from crm_assets import run_context, tables
from crm_assets.defs.common import TenantRun, materialized, table_spec
from crm_assets.resources.raw_store import FileOutcome, LandingReport

FILES_KEY = (tables.landing_files.schema or "", tables.landing_files.name)
# A table of more files than this would make the run's event log heavy; the ledger has them all.
MAX_FILES_SHOWN = 200


@dg.multi_asset(
    name="land_drop",
    specs=[
        table_spec(tables.landing_files),
        *(
            table_spec(table, deps=[FILES_KEY])
            for table in (tables.raw_files, tables.file_reports, *tables.RAW_TABLES.values())
        ),
    ],
)
def land_drop(context: dg.AssetExecutionContext, tenant_run: TenantRun) -> Iterator[dg.MaterializeResult[Any]]:
    """Loads each content that is new in the drop folder into its raw table; notes what became of files."""
    from crm_assets.logic.landing import load_source
    from crm_assets.resources.raw_store import land

    warehouse = tenant_run.warehouse
    with tenant_run.drop_zone() as zone:
        report = land(warehouse, zone, tenant_run.tenant, load_source(), tenant_run.now)
    alert_failures(tenant_run, report)
    if report.folder_missing:
        reason = report.out_of_reach or "it is not there"
        context.log.warning(f"the drop folder cannot be read: {reason}; what was loaded before stays")
    counts: dict[str, Any] = {f"n_{status}": count for status, count in report.status_counts.items()}
    shown = {**counts, "files": files_table(report)}
    yield materialized(len(report.outcomes), tables.landing_files, tenant_run, **shown)
    yield materialized(
        warehouse.count("raw", "files"), tables.raw_files, tenant_run, n_deleted=len(report.deleted), **shown
    )
    yield materialized(warehouse.count("raw", "file_reports"), tables.file_reports, tenant_run)
    for name, table in tables.RAW_TABLES.items():
        mine = [outcome for outcome in report.outcomes if outcome.dataset == name and outcome.row_count is not None]
        yield materialized(
            warehouse.count("raw", name),
            table,
            tenant_run,
            new_rows=report.loaded_rows[name],
            new_files=sum(outcome.is_new for outcome in mine),
            **({"worst_mapping_quality": quality} if (quality := _worst_quality(mine)) is not None else {}),
            **({"mapping": mapping_reports(files)} if (files := report.mapping_reports.get(name)) else {}),
        )


def alert_failures(run: run_context.TenantRun, report: LandingReport) -> None:
    """One alert per file that could not be taken, closed when a good one has replaced it; one for the folder."""
    from crm_assets.resources.control import Control
    from crm_assets.resources.raw_store import failures

    control, slug = Control(run.config), run.tenant.slug
    failing = {f"file:{path}": f"{path}: {status}: {reason}" for path, status, reason in failures(run.warehouse)}
    for cause, message in failing.items():
        control.raise_alert(slug, cause, message, run.now)
    control.recover(slug, "file:", run.now, still_open=failing)
    if report.out_of_reach:
        control.raise_alert(slug, "drop-folder", f"the drop folder cannot be read: {report.out_of_reach}", run.now)
    elif not report.folder_missing:
        control.recover(slug, "drop-folder", run.now)


def _worst_quality(outcomes: list[FileOutcome]) -> int | None:
    return min((o.mapping_quality for o in outcomes if o.mapping_quality is not None), default=None)


def mapping_reports(reports: dict[str, dict[str, Any]]) -> dg.MarkdownMetadataValue:
    """How files that came in were read, with masked examples: what `crm mapping preview` tells."""
    from crm_assets.mapping_preview import as_text

    told = [f"```text\n{as_text(one, 'en').replace('```', '')}\n```" for one in reports.values()]
    return dg.MetadataValue.md("\n\n".join([*told, "The reports of all files are in raw.file_reports."]))


def files_table(report: LandingReport) -> dg.MarkdownMetadataValue:
    """The files of the drop folder as a person wants to see them: the troubled ones first."""
    rank = {"unreadable": 0, "refused": 0, "unrecognised": 0, "waiting": 1}
    outcomes = sorted(
        report.outcomes, key=lambda outcome: (rank.get(outcome.status, 2), not outcome.is_new, outcome.path)
    )
    lines = ["| file | dataset | status | rows | mapping | note |", "|---|---|---|---:|---:|---|"]
    for outcome in outcomes[:MAX_FILES_SHOWN]:
        ignored = ", ".join(outcome.unmapped_headers or [])
        note = outcome.reason or (f"columns not used: {ignored}" if ignored else "")
        cells = [
            outcome.path,
            outcome.dataset or "",
            outcome.status + (" (new)" if outcome.is_new else ""),
            "" if outcome.row_count is None else str(outcome.row_count),
            "" if outcome.mapping_quality is None else str(outcome.mapping_quality),
            note,
        ]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    if len(outcomes) > MAX_FILES_SHOWN:
        lines.append(f"\n… and {len(outcomes) - MAX_FILES_SHOWN} more, all in raw.files")
    return dg.MetadataValue.md("\n".join(lines))
