"""Workbooks of an estate, from its database to files: refused rows to mend, product labels to recognise.

What stands in them is decided in `logic/workbooks.py`; which refused rows are still open is asked here. A file is
written whole or not at all. Nothing is written to the database.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from crm_assets import tables
from crm_assets.documents import write_whole
from crm_assets.logic.landing import load_source
from crm_assets.logic.workbooks import (
    ExportFile,
    RefusedRow,
    refused_workbook,
    unmatched_labels,
    unmatched_workbook,
)
from crm_assets.resources.warehouse import Warehouse
from crm_assets.tenants import Tenant

_MAX_NAMED = 20

# An open row: neither it nor any attempt at mending it was accepted. Only the newest attempt stands for it: one that
# came back is newer than the export it began with, among them the file order decides. A reference that leads to no
# refused row of the dataset is none.
_OPEN_ROWS = f"""
with references_back as (

    {
    " union all ".join(
        f"select '{name}' as dataset, file_id, source_line, mends from {table} where mends is not null"
        for name, table in tables.RAW_TABLES.items()
    )
}

),

refused as (

    select
        rows.*,
        coalesce(origins.file_id, rows.file_id) as origin,
        coalesce(origins.source_line, rows.source_line) as origin_line,
        origins.file_id is not null as is_attempt
    from curated.quarantined_rows as rows
    left join references_back as back
        on rows.dataset = back.dataset and rows.file_id = back.file_id and rows.source_line = back.source_line
    left join curated.quarantined_rows as origins
        on rows.dataset = origins.dataset and back.mends = origins.file_id || ':' || origins.source_line

),

newest as (

    select distinct on (refused.dataset, refused.origin, refused.origin_line) refused.*
    from refused
    left join (select file_id, max(order_key collate "C") as order_key from raw.files group by file_id) as files
        on refused.file_id = files.file_id
    where not exists (
        select from refused as other
        where other.dataset = refused.dataset and other.origin = refused.origin
            and other.origin_line = refused.origin_line and other.resolved_by is not null
    )
    order by
        refused.dataset, refused.origin, refused.origin_line, refused.is_attempt desc, files.order_key desc,
        refused.file_id, refused.source_line desc

)

select * from newest
"""


class WorkbookError(Exception):
    """What was asked cannot be written; the message says why."""


@dataclass(frozen=True)
class Book:
    """A workbook to be saved."""

    path: Path
    folder: str  # of the dataset it maps to
    content: bytes
    rows: int
    left: int = 0  # rows over what one workbook takes
    too_long: int = 0  # rows with a text longer than a cell can be: not in the workbook


def save(book: Book) -> None:
    write_whole(book.path, book.content)


def _needs(warehouse: Warehouse, tenant: Tenant, table: str) -> None:
    if warehouse.rows("select to_regclass(%s)", [table]) == [(None,)]:
        raise WorkbookError(f"{tenant.slug} has no run yet: ./crm run --tenant {tenant.slug}")


def refused_workbooks(
    warehouse: Warehouse, tenant: Tenant, made_at: datetime, target: Path, file: str | None = None
) -> list[Book]:
    """The open refused rows as one workbook per dataset that has any.

    They go to `target`; with several datasets to its name with the dataset's folder added: `FILE-clients.xlsx`.
    `file`: a path or file_id of raw.files that the rows must come from.
    """
    _needs(warehouse, tenant, "curated.quarantined_rows")
    only = None if file is None else _file_ids(warehouse, tenant, file)
    chosen = "" if only is None else " where origin = any(%(only)s) or file_id = any(%(only)s)"
    rules = tenant.business_rules
    found = warehouse.rows(
        "select dataset, origin, origin_line, file_id, source_line, codes, row, open_rows from ("
        " select *, count(*) over (partition by dataset) as open_rows,"
        " row_number() over (partition by dataset order by origin, origin_line) as number"
        f" from ({_OPEN_ROWS}) as open{chosen}) as numbered where number <= %(limit)s",
        {"only": only, "limit": rules.landing.workbook_rows},
    )
    rows: dict[str, list[RefusedRow]] = defaultdict(list)
    counts: dict[str, int] = {}
    for dataset, *about, open_rows in found:
        rows[dataset].append(RefusedRow(*about))
        counts[dataset] = open_rows
    files = _export_files(warehouse, {i for some in rows.values() for row in some for i in (row.origin, row.file_id)})
    books = []
    for name, spec in load_source().of_tenant(tenant).datasets.items():
        if name not in rows:
            continue
        written = refused_workbook(
            spec,
            rows[name],
            files,
            locale=tenant.locale,
            year_pivot=rules.values.two_digit_year_pivot,
            made_at=made_at,
        )
        path = target if len(rows) == 1 else target.with_stem(f"{target.stem}-{spec.folder}")
        left = counts[name] - len(rows[name])
        books.append(Book(path, spec.folder, written.content, written.rows, left, written.too_long))
    return books


def _file_ids(warehouse: Warehouse, tenant: Tenant, file: str) -> list[str]:
    """The contents that a path or file_id stands for; WorkbookError lists what it could have been."""
    known = warehouse.rows("select path, file_id, sha256 from raw.files where status in ('loaded', 'duplicate')")
    found = {file_id for path, file_id, sha256 in known if file in (path, file_id, sha256)}
    if not found:  # as the shell completes it: the folder of the drop zone goes before
        found = {file_id for path, file_id, _ in known if f"/{file}".endswith(f"/{path}")}
    if not found:
        refused = warehouse.rows(
            "select distinct files.path, files.file_id from raw.files as files"
            " inner join curated.quarantined_rows as rows on files.file_id = rows.file_id"
            " where rows.resolved_by is null and files.status = 'loaded' order by 1 limit %s",
            [_MAX_NAMED],
        )
        named = "; ".join(f"{path} ({file_id})" for path, file_id in refused) or "none"
        raise WorkbookError(f"{tenant.slug} has loaded no file {file!r}; files with refused rows: {named}")
    return sorted(found)


def _export_files(warehouse: Warehouse, file_ids: set[str]) -> dict[str, ExportFile]:
    rows = warehouse.rows(
        "select distinct on (files.file_id) files.file_id, files.path, files.order_key, files.date_order, files.format,"
        " files.mapping, reports.report -> 'header'"
        " from raw.files as files left join raw.file_reports as reports on files.file_id = reports.file_id"
        " where files.status = 'loaded' and files.file_id = any(%s) order by files.file_id",
        [sorted(file_ids)],
    )
    return {
        file_id: ExportFile(path, order_key, date_order or "dmy", kind in ("xlsx", "xls"), mapping or {}, header)
        for file_id, path, order_key, date_order, kind, mapping, header in rows
    }


def unmatched_products(warehouse: Warehouse, tenant: Tenant, made_at: datetime, target: Path) -> Book | None:
    """The labels that no product of the catalogue has for certain, as an alias file to fill in; None without any."""
    _needs(warehouse, tenant, "curated.unmatched_products")
    aliases = "select label, product_key from staging.stg_aliases where codes is null order by file_rank, source_line"
    labels = unmatched_labels(warehouse.read("curated", "unmatched_products"), warehouse.query(aliases))
    if not labels:
        return None
    catalogue = warehouse.rows(
        "select product_key, concat_ws(' ', label, case when strpos(label, vintage::text) = 0 then vintage::text end)"
        " from curated.dim_products where not is_inferred"
    )
    spec = load_source().of_tenant(tenant).datasets["aliases"]
    written = unmatched_workbook(spec, labels, dict(catalogue), locale=tenant.locale, made_at=made_at)
    return Book(target, spec.folder, written.content, written.rows)
