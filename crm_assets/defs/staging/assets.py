"""E-mail and phone texts, validated once each by a library. Only texts never met before are looked at.

What makes an address or a number valid is `logic/curated.py`'s business; typing other fields is dbt's.
"""

import json
from typing import Any

import dagster as dg
import sqlalchemy as sa

from crm_assets import run_context, tables
from crm_assets.defs.common import TenantRun, materialized, tenant_asset
from crm_assets.logic import curated

# What a million lines say of clients and products is a few thousand texts. They are gathered once per file.
FORGET_TEXTS = (
    "delete from staging.{table} where file_no not in (select file_no from raw.files where status = 'loaded')"
)
NEW_CLIENT_TEXTS = """
    insert into staging.client_texts (file_no, client_code, email, country, delivery_country, source_line)
    select files.file_no, lines.client_code, lines.email, lines.country, lines.delivery_country, min(lines.source_line)
    from raw.files as files
    inner join raw.sales_lines as lines on lines.file_id = files.file_id
    where files.status = 'loaded' and files.dataset = 'sales_lines'
        and files.file_no not in (select file_no from staging.client_texts)
    group by 1, 2, 3, 4, 5
"""
NEW_PRODUCT_TEXTS = """
    insert into staging.product_texts_met (file_no, product_key, product_label, vintage, article)
    select distinct files.file_no, coalesce(lines.product_key, ''), coalesce(lines.product_label, ''),
        coalesce(lines.vintage, ''), coalesce(lines.article, '')
    from raw.files as files
    inner join raw.sales_lines as lines on lines.file_id = files.file_id
    where files.status = 'loaded' and files.dataset = 'sales_lines'
        and files.file_no not in (select file_no from staging.product_texts_met)
"""

NEW_EMAILS = """
    select met.email as raw_email
    from (
        select email from raw.customers
        union
        select email from raw.contacts
        union
        select email from staging.client_texts
    ) as met
    where met.email ~ '[^[:space:]]'
        and not exists (select from staging.emails as known where known.raw_email = met.email)
"""

NEW_PHONES = """
    select distinct met.raw_phone, met.country
    from (
        select phone as raw_phone, coalesce(%s::jsonb ->> country, %s) as country from raw.customers
        union
        select mobile, coalesce(%s::jsonb ->> country, %s) from raw.customers
    ) as met
    where met.raw_phone ~ '[0-9]'
        and not exists (
            select from staging.phones as known
            where known.raw_phone = met.raw_phone and known.country = met.country
        )
"""


def country_parameters(run: run_context.TenantRun) -> list[str]:
    """SQL parameters that turn a raw country text into ISO alpha-2: those known as JSON, the default."""
    met = run.warehouse.rows("select distinct country from raw.customers where country is not null")
    codes = curated.country_codes((text for (text,) in met), run.rules.values.countries)
    return [json.dumps(codes), run.tenant.country]


def _gather(run: run_context.TenantRun, table: sa.Table, statement: str) -> dg.MaterializeResult[Any]:
    """Bring a table of texts per file up to the loaded files: files that are new to it, files that were read anew."""
    with run.warehouse.transaction() as connection:
        connection.execute(FORGET_TEXTS.format(table=table.name).encode())
        new = connection.execute(statement.encode()).rowcount
    return materialized(run.warehouse.count("staging", table.name), table, run, new=new)


@tenant_asset(tables.client_texts, deps=[("raw", "files"), ("raw", "sales_lines")])
def client_texts(context: dg.AssetExecutionContext, tenant_run: TenantRun) -> dg.MaterializeResult[Any]:
    """Gathered once per file, as the file has them: who a client is, is decided from these."""
    return _gather(tenant_run, tables.client_texts, NEW_CLIENT_TEXTS)


@tenant_asset(tables.product_texts_met, deps=[("raw", "files"), ("raw", "sales_lines")])
def product_texts_met(context: dg.AssetExecutionContext, tenant_run: TenantRun) -> dg.MaterializeResult[Any]:
    """Gathered once per file, as the file has them: which product is meant, is decided from these."""
    return _gather(tenant_run, tables.product_texts_met, NEW_PRODUCT_TEXTS)


@tenant_asset(tables.emails, deps=[("raw", "customers"), ("raw", "contacts"), ("staging", "client_texts")])
def emails(context: dg.AssetExecutionContext, tenant_run: TenantRun) -> dg.MaterializeResult[Any]:
    """Syntax only: nobody is asked whether the address exists. Keyed by the text as raw tables have it."""
    met = tenant_run.warehouse.query(NEW_EMAILS)
    validated = curated.validate_emails(met["raw_email"])
    tenant_run.warehouse.upsert(tables.emails, validated)
    return materialized(
        tenant_run.warehouse.count("staging", "emails"),
        run=tenant_run,
        new=len(validated),
        new_invalid=int(validated["email"].isna().sum()),
    )


@tenant_asset(tables.phones, deps=[("raw", "customers")])
def phones(context: dg.AssetExecutionContext, tenant_run: TenantRun) -> dg.MaterializeResult[Any]:
    """Read in the country of the customer's row, the estate's when that is blank or unknown."""
    met = tenant_run.warehouse.query(NEW_PHONES, country_parameters(tenant_run) * 2)
    parsed = curated.parse_phones(met)
    tenant_run.warehouse.upsert(tables.phones, parsed)
    return materialized(
        tenant_run.warehouse.count("staging", "phones"),
        run=tenant_run,
        new=len(parsed),
        new_invalid=int(parsed["phone"].isna().sum()),
    )
