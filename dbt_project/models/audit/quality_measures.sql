-- The raw counts of the circuit breaker (spec.md §6); tolerances, weights and scores belong to the audit.
with parameters as (
    select
        {{ as_of() }} as as_of,
        {{ rule_number('circuit_breaker.stale_span_days') }} as stale_span_days,
        {{ rule_number('circuit_breaker.stale_after_days') }} as stale_after_days
),

lines as (
    select
        count(*) filter (where is_recent) as n_recent,
        count(*) filter (where is_recent and is_product_inferred) as n_unknown_product,
        count(*) filter (where is_recent and is_customer_inferred) as n_unknown_client,
        count(*) as n_lines,
        count(*) filter (where amount_ht = 0 or sign(amount_ht) <> sign(quantity)) as n_invalid_value,
        count(*) filter (where quantity = 0) as n_zero_quantity,
        count(*) filter (where has_conflict) as n_conflicts,
        max(sale_date) as last_sale_date
    from (
        select
            *,
            {{ as_of() }} - sale_date < {{ rule_number('circuit_breaker.window_days') }} as is_recent
        from {{ ref('known_sales_lines') }}
    ) as known
),

products as (
    select
        count(*) as n_products,
        count(*) filter (where margin < 0) as n_negative_margin,
        count(*) filter (
            where price_ttc <= 0 or price_ttc > {{ rule_number('circuit_breaker.max_realistic_price') }}
        ) as n_unrealistic_price,
        count(*) filter (where is_active and not is_archived) as n_active,
        count(*) filter (where is_active and not is_archived and family is null) as n_without_family
    from {{ ref('dim_products') }}
    where not is_inferred
),

customers as (
    select
        count(*) as n_customers,
        count(*) filter (where n_at_address > 1) as n_sharing,
        count(*) filter (where status = 'active') as n_active,
        count(*) filter (where status = 'active' and email_status = 'missing') as n_without_email,
        count(*) filter (
            where status = 'active' and (coalesce(last_name, full_name) is null or postal_code is null)
        ) as n_incomplete
    from (
        select
            *,
            case when email is not null then count(*) over (partition by email) end as n_at_address
        from {{ ref('dim_customers') }}
        where not is_collective
    ) as people
),

-- What the newest file of each dataset holds against the files before it has its home in newest_files and
-- schema_changes: the lights on the raw tables read the same.
quarantine as (
    select
        sum(accounting.quarantined) as n_quarantined,
        sum(accounting.rows) as n_rows
    from {{ ref('newest_files') }} as files
    inner join {{ ref('file_accounting') }} as accounting on accounting.file_id = files.file_id
),

fields as (
    select
        count(*) filter (where change <> 'new') as n_fields,
        count(*) filter (where change = 'gone') as n_gone
    from {{ ref('schema_changes') }}
    where kind = 'field'
),

volume as (
    -- One row at most; one in any case when it is summed.
    select
        coalesce(sum(volume), 0) as rows_per_day,
        sum(expected_volume) as expected_per_day
    from {{ ref('newest_files') }}
    where dataset = 'sales_lines'
),

measures (check_code, bad, total) as (
    select 'UNKNOWN_PRODUCT', n_unknown_product::double precision, n_recent::double precision from lines
    union all
    select 'UNKNOWN_CLIENT', n_unknown_client, n_recent from lines
    union all
    select 'INVALID_SALE_VALUE', n_invalid_value, n_lines from lines
    union all
    select 'ZERO_QUANTITY', n_zero_quantity, n_lines from lines
    union all
    select 'DUPLICATE_LINE', n_conflicts, n_lines from lines
    union all
    select 'NEGATIVE_MARGIN', n_negative_margin, n_products from products
    union all
    -- Without any sale, nothing is as stale as can be.
    select
        'STALE_SALES',
        case
            when lines.last_sale_date is null then parameters.stale_span_days
            else greatest(0, parameters.as_of - lines.last_sale_date - parameters.stale_after_days)
        end,
        parameters.stale_span_days
    from lines cross join parameters
    union all
    select 'VOLUME_DROP', greatest(0, expected_per_day - rows_per_day), expected_per_day from volume
    union all
    select 'MISSING_EMAIL_RATE', n_without_email, n_active from customers
    union all
    select 'DUPLICATE_EMAIL', n_sharing, n_customers from customers
    union all
    select 'INCOMPLETE_PROFILE', n_incomplete, n_active from customers
    union all
    select 'MISSING_FAMILY', n_without_family, n_active from products
    union all
    select 'UNREALISTIC_PRICE', n_unrealistic_price, n_products from products
    union all
    select 'QUARANTINE_RATE', n_quarantined, n_rows from quarantine
    union all
    select 'SCHEMA_DRIFT', n_gone, n_fields from fields
)

-- Nothing to look at (no file to compare with, say) is 0 of 0.
select
    check_code,
    coalesce(bad, 0) as bad,
    coalesce(total, 0) as total
from measures
