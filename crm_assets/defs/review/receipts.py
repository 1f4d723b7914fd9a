"""What comes back of the people who review: decisions, and a receipt of each workbook. How is in `reviews.py`.

Metadata shows counts and paths, never who was decided on or what was commented.
"""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from crm_assets import reviews, run_context, tables
from crm_assets.defs.common import TenantRun, bars, check_spec, materialized, table_spec

_DEPS = (("gate", "decisions"), ("recommendations", "items"), ("review", "applied_decisions"))
# What is decided again once decisions have come in, for the runs that they are about.
_DECIDED_AGAIN = (
    tables.review_applied,
    tables.findings,
    tables.scores,
    tables.review_samples,
    tables.next_actions,
    tables.decisions,
)
# A table of more workbooks than this would make the run's event log heavy; review.receipts has them all.
_MAX_SHOWN = 50


@dg.multi_asset(
    name="review__read_workbooks",
    specs=[
        table_spec(
            tables.review_decisions, deps=_DEPS, description="Read from returned workbooks, or said by command."
        ),
        table_spec(tables.receipts, deps=_DEPS, description="A workbook is read once, whatever its name."),
        table_spec(tables.receipt_lines, deps=_DEPS, description="Written with the receipt, in one transaction."),
    ],
)
def read_workbooks(context: dg.AssetExecutionContext, tenant_run: TenantRun) -> Iterator[dg.MaterializeResult[Any]]:
    """Reads the review workbooks of the drop folder that have no receipt yet, and decides again what follows."""
    warehouse = tenant_run.warehouse
    n_read, settled = 0, list[str]()
    # A run for an earlier day looks at the tables of that day; the workbooks are the present's.
    if not tenant_run.is_historical:
        try:
            n_read = reviews.read_dropped(tenant_run)
        except run_context.DropZoneError as error:  # as at landing: what needs no file goes on
            context.log.warning(f"the drop folder cannot be read, no workbook was looked for: {error}")
        settled = reviews.settle(tenant_run)
        tenant_run.mark_reviews_read()
    if settled:
        in_force, _ = reviews.run_to_review(warehouse)
        for table in _DECIDED_AGAIN:
            context.log_event(
                dg.AssetMaterialization(
                    dg.AssetKey([str(table.schema), table.name]),
                    partition=context.partition_key,
                    description="Decided again after review.",
                    metadata={"run_id": in_force, "decided_again": ", ".join(settled)},
                )
            )
    found = warehouse.query(
        "select run_id, path, status, n_rows, n_taken, n_refused, n_blank, n_approved_rest, document"
        f' from review.receipts where read_at = %s order by path collate "C" limit {_MAX_SHOWN}',
        [tenant_run.now],
    )
    outcomes = warehouse.query(
        "select lines.outcome, count(*) as n from review.receipt_lines as lines join review.receipts as receipts"
        ' using (file_id) where receipts.read_at = %s group by 1 order by lines.outcome collate "C"',
        [tenant_run.now],
    ).set_index("outcome")["n"]
    shown = {
        "workbooks_read": n_read,
        "decided_again": ", ".join(settled) or "none",
        "outcomes": bars(outcomes, "Rows of the workbooks read, by outcome"),
        "receipts": _receipts_table(found.to_dict("records")),
    }
    yield materialized(warehouse.count("review", "decisions"), tables.review_decisions, tenant_run, **shown)
    yield materialized(warehouse.count("review", "receipts"), tables.receipts, tenant_run, **shown)
    yield materialized(warehouse.count("review", "receipt_lines"), tables.receipt_lines, tenant_run)


def _receipts_table(rows: list[dict[Any, Any]]) -> dg.MarkdownMetadataValue:
    columns = ["path", "run_id", "status", "n_taken", "n_refused", "n_blank", "n_approved_rest", "document"]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        cells = ["" if row[name] is None else str(row[name]).replace("|", "\\|") for name in columns]
        lines.append("| " + " | ".join(cells) + " |")
    return dg.MetadataValue.md("\n".join(lines) if rows else "no workbook came back")


@dg.multi_asset_check(
    name="review__checks",
    specs=[
        check_spec(
            ("review", "receipts"),
            "returned_workbooks_were_taken",
            "Every row filled in that came back in the last 7 days was taken. Amber: its receipt says which was not.",
        ),
        check_spec(
            ("review", "decisions"),
            "decisions_are_about_what_was_proposed",
            "Every decision is about an item of its run.",
        ),
    ],
)
def review_checks(context: dg.AssetCheckExecutionContext, tenant_run: TenantRun) -> Iterator[dg.AssetCheckResult]:
    refused, workbooks = tenant_run.warehouse.rows(
        "select coalesce(sum(n_refused), 0), count(*) filter (where status <> 'read') from review.receipts"
        " where read_at > %s - interval '7 days'",
        [tenant_run.now],
    )[0]
    yield dg.AssetCheckResult(
        passed=refused == 0 and workbooks == 0,
        severity=dg.AssetCheckSeverity.WARN,
        asset_key=["review", "receipts"],
        check_name="returned_workbooks_were_taken",
        metadata={"rows_refused": int(refused), "workbooks_refused": int(workbooks), "allowed": 0},
    )
    (strangers,) = tenant_run.warehouse.rows(
        "select count(*) from review.decisions as said where not exists (select from recommendations.items as items"
        " where (items.run_id, items.customer_id, items.wine_id, items.scenario)"
        " = (said.run_id, said.customer_id, said.wine_id, said.scenario))"
        " and exists (select from recommendations.items as items where items.run_id = said.run_id)"
    )[0]
    yield dg.AssetCheckResult(
        passed=strangers == 0,
        asset_key=["review", "decisions"],
        check_name="decisions_are_about_what_was_proposed",
        metadata={"decisions_about_nothing": int(strangers), "allowed": 0},
    )
