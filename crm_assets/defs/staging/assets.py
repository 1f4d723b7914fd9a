"""E-mail and phone texts, validated once each by a library. Only texts never met before are looked at.

What makes an address or a number valid is `logic/curated.py`'s business; typing other fields is dbt's.
"""

import json
from typing import Any

import dagster as dg

from crm_assets import run_context, tables
from crm_assets.defs.common import TenantRun, materialized, tenant_asset
from crm_assets.logic import curated

NEW_EMAILS = """
    select met.email as raw_email
    from (
        select email from raw.customers
        union
        select email from raw.contacts
        union
        select email from raw.sales_lines
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


@tenant_asset(tables.emails, deps=[("raw", "customers"), ("raw", "contacts"), ("raw", "sales_lines")])
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
