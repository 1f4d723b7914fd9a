"""The review workbooks of the gate in force, and whether they still lie where they were put."""

from typing import Any

import dagster as dg

from crm_assets import documents, review_documents, tables
from crm_assets.defs.common import TenantRun, materialized, tenant_asset, tenant_check
from crm_assets.defs.recorded import gate_in_force, recorded, run_in_force


@tenant_asset(
    tables.review_workbooks,
    deps=[
        ("gate", "decisions"),
        ("gate", "next_actions"),
        ("recommendations", "items"),
        ("review", "applied_decisions"),
        ("review", "samples"),
        ("audit", "findings"),
        ("curated", "dim_customers"),
        ("curated", "dim_products"),
        ("curated", "fct_orders"),
    ],
)
def review_workbooks(context: dg.AssetExecutionContext, tenant_run: TenantRun) -> dg.MaterializeResult[Any]:
    """The items of the run in force, for people to approve or reject in a spreadsheet. A file that lies there is never
    written over: when decisions have changed since, the new one gets a name of its own. Where review does not ask for
    every item, a long run gets its first workbook, with the sample; `crm review export` writes them all.
    """
    gate = gate_in_force(tenant_run, "review")
    folder = documents.folder_of(tenant_run.tenant, tenant_run.home, gate.run_id)
    most = None if tenant_run.tenant.review == "required" else 1
    books = review_documents.write_review_workbooks(
        tenant_run.warehouse, tenant_run.tenant, tenant_run.rules, gate.run_id, folder, most
    )
    rows = documents.written([book.path for book in books], tenant_run.home, tenant_run.now)
    rows["n_items"] = [book.items for book in books]
    tenant_run.warehouse.replace_run(tables.review_workbooks, rows.assign(run_id=gate.run_id), gate.run_id)
    return materialized(
        len(books),
        run=tenant_run,
        run_id=gate.run_id,
        review=tenant_run.tenant.review,
        review_workbook=dg.MetadataValue.path(str(books[0].path)),
        items=sum(book.items for book in books),
        customers=sum(book.customers for book in books),
        sampled=sum(book.sampled for book in books),
        newly_written=sum(book.is_new for book in books),
        bytes=int(rows["size_bytes"].sum()),
    )


@tenant_check(("review", "workbooks"), name="workbooks_are_where_they_were_put")
def workbooks_are_where_they_were_put(
    context: dg.AssetCheckExecutionContext, tenant_run: TenantRun
) -> dg.AssetCheckResult:
    """Each review workbook of the run in force is there. One that holds other bytes than were written is being filled
    in where it lies: it is counted, and no fault.
    """
    found = recorded(tenant_run.warehouse, tables.review_workbooks, run_in_force(tenant_run.warehouse))
    changed = documents.missing_or_changed(found, tenant_run.home)
    missing = [path for path in changed if not (tenant_run.home / path).is_file()]
    return dg.AssetCheckResult(
        passed=len(found) > 0 and not missing,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "workbooks": len(found),
            "missing": ", ".join(missing) or "none",
            "being_filled_in": len(changed) - len(missing),
            "threshold": 0,
        },
    )
