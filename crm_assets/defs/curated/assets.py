"""Which client codes are one customer, which labels one product: read from raw, decided once, joined by dbt.

Both tables depend on the loaded files alone, not on the as-of date, so that any run writes the same rows.
How it is decided is `logic/curated.py`'s business.
"""

from typing import Any

import dagster as dg

from crm_assets import tables
from crm_assets.defs.common import TenantRun, materialized, tenant_asset
from crm_assets.defs.staging.assets import country_parameters
from crm_assets.logic import curated

# Loaded files in file order (spec.md §2); with the line it makes a position that grows along all of them.
FILE_ORDER = """
    file_order as (
        select
            file_id,
            file_no,
            dataset,
            4294967296 * row_number() over (order by order_key collate "C" nulls first, file_id collate "C") as start
        from raw.files
        where status = 'loaded'
    )
"""

# The rows of a raw table with their position. A mended row has that of the row it stands for, and of several that
# stand for one the newest is taken: the same as dbt_project/macros/mended_rows.sql and its callers say.
PLACED = """
    (
        select
            texts.*,
            case
                when mended.file_id is not null and texts.mends ~ '^[^:]+:[0-9]{{1,9}}$'
                    then mended.start + split_part(texts.mends, ':', 2)::bigint
                else own.start + texts.source_line
            end as position
        from raw.{table} as texts
        inner join file_order as own on own.file_id = texts.file_id
        left join file_order as mended
            on mended.file_id = split_part(texts.mends, ':', 1) and mended.dataset = own.dataset
        where texts.mends is null or not exists (
            select from raw.{table} as later
            inner join file_order as its on its.file_id = later.file_id
            where later.mends = texts.mends and its.start > own.start
        )
    ) as {table}
"""

CODES = f"""
    with {FILE_ORDER}
    select met.client_code, min(file_order.start + met.source_line) as position
    from (
        select file_no, client_code, source_line from staging.client_texts
        union all
        select file_order.file_no, codes.client_code, codes.source_line
        from (
            select file_id, client_code, min(source_line) as source_line from raw.customers group by 1, 2
            union all
            select file_id, client_code, min(source_line) from raw.contacts group by 1, 2
        ) as codes
        inner join file_order using (file_id)
    ) as met
    inner join file_order using (file_no)
    where met.client_code is not null
    group by met.client_code
"""

CARDS = f"""
    with {FILE_ORDER},

    cards as (
        select
            client_code, last_name, first_name, full_name, email, phone, mobile,
            coalesce(%s::jsonb ->> country, %s) as country,
            max(position) as newest
        from {PLACED.format(table="customers")}
        where client_code is not null
        group by 1, 2, 3, 4, 5, 6, 7, 8
    )

    select
        cards.client_code, cards.last_name, cards.first_name, cards.full_name,
        emails.email, phones.phone, mobiles.phone as mobile, cards.newest
    from cards
    left join staging.emails as emails on emails.raw_email = cards.email
    left join staging.phones as phones on phones.raw_phone = cards.phone and phones.country = cards.country
    left join staging.phones as mobiles
        on mobiles.raw_phone = cards.mobile and mobiles.country = cards.country
"""

SOLD = """
    select distinct product_key, product_label, vintage from staging.product_texts_met
"""

PRODUCTS = f"""
    with {FILE_ORDER}
    select product_key, label, vintage, max(position) as newest
    from {PLACED.format(table="products")}
    group by 1, 2, 3
"""

ALIASES = f"""
    with {FILE_ORDER}
    select label, product_key, max(position) as newest
    from {PLACED.format(table="aliases")}
    group by 1, 2
"""

# Dates of the files, and of the sales as far as landing could read them.
SOLD_YEARS = """
    select extract(year from min(day))::int, extract(year from max(day))::int
    from raw.files
    cross join lateral (values (first_date), (last_date), (left(order_key, 10)::date)) as dates (day)
    where status = 'loaded'
"""


@tenant_asset(
    tables.customer_xref,
    deps=[
        ("raw", "files"),
        ("raw", "customers"),
        ("raw", "contacts"),
        ("staging", "client_texts"),
        ("staging", "emails"),
        ("staging", "phones"),
    ],
)
def customer_xref(context: dg.AssetExecutionContext, tenant_run: TenantRun) -> dg.MaterializeResult[Any]:
    """Codes of one person, by e-mail and surname or phone and name, share the id of the first of them."""
    warehouse = tenant_run.warehouse
    xref = curated.resolve_customers(
        codes=warehouse.query(CODES),
        cards=warehouse.query(CARDS, country_parameters(tenant_run)),
        rules=tenant_run.rules.customers,
        own_addresses=tenant_run.tenant.own_addresses,
    )
    warehouse.replace(tables.customer_xref, xref)
    matched = xref["matched_by"].value_counts()
    return materialized(
        len(xref),
        run=tenant_run,
        customers=int(xref["customer_id"].nunique()),
        codes_merged_by_email=int(matched.get("email", 0)),
        codes_merged_by_phone=int(matched.get("phone", 0)),
    )


@tenant_asset(
    tables.product_matches,
    deps=[("raw", "files"), ("staging", "product_texts_met"), ("raw", "products"), ("raw", "aliases")],
)
def product_matches(context: dg.AssetExecutionContext, tenant_run: TenantRun) -> dg.MaterializeResult[Any]:
    """By key, alias, label or likeness; what none of these finds is inferred, and reported as unmatched."""
    warehouse = tenant_run.warehouse
    matches = curated.match_products(
        sold=warehouse.query(SOLD),
        products=warehouse.query(PRODUCTS),
        aliases=warehouse.query(ALIASES),
        years=curated.sale_years(*warehouse.rows(SOLD_YEARS)[0]),
        rules=tenant_run.rules.products,
    )
    warehouse.replace(tables.product_matches, matches)
    texts = matches.drop_duplicates(["raw_product_key", "raw_product_label", "raw_vintage"])
    ways: dict[str, Any] = {f"matched_by_{way}": int(n) for way, n in texts["matched_by"].value_counts().items()}
    return materialized(
        len(matches),
        run=tenant_run,
        **ways,
        vintage_ambiguous=int(texts["vintage_ambiguous"].sum()),
        suggestions=int(texts["suggestion"].notna().sum()),
    )
