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
        min(sale_date) as first_sale_date,
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

-- Loaded files of each dataset, 1 the newest in the file order of spec.md §2.
files as (
    select
        known.file_id,
        known.dataset,
        known.mapping,
        known.row_count,
        known.first_date,
        least(known.last_date, parameters.as_of) as last_date,
        known.last_date > parameters.as_of as is_clipped,
        row_number() over (partition by known.dataset order by ordered.file_rank desc) as age
    from {{ source('raw', 'files') }} as known
    inner join {{ ref('stg_files') }} as ordered on ordered.file_id = known.file_id and ordered.path = known.path
    cross join parameters
    where known.first_date is null or known.first_date <= parameters.as_of
),

quarantine as (
    select
        sum(accounting.quarantined) as n_quarantined,
        sum(accounting.rows) as n_rows
    from files
    inner join {{ ref('file_accounting') }} as accounting on accounting.file_id = files.file_id
    where files.age = 1
),

fields as (
    select
        count(*) as n_fields,
        count(*) filter (where newest.field is null) as n_gone
    from (
        select files.dataset, field.value as field
        from files, jsonb_each_text(files.mapping) as field
        where files.age = 2
    ) as previous
    left join (
        select files.dataset, field.value as field
        from files, jsonb_each_text(files.mapping) as field
        where files.age = 1
    ) as newest on newest.dataset = previous.dataset and newest.field = previous.field
),

-- Rows of a clipped export outside its span. Most refreshes clip none, and then the lines are not read at all.
later_rows as (
    select
        lines.file_id,
        count(*) as n_rows
    from files
    inner join {{ ref('stg_sales_lines') }} as lines on lines.file_id = files.file_id
    where files.is_clipped and files.dataset = 'sales_lines' and lines.sale_date > {{ as_of() }}
    group by lines.file_id
),

-- Rows per covered day of each sales export, and of the same weekdays 52 weeks before the newest one.
volumes as (
    select
        files.age,
        files.first_date,
        files.last_date,
        (files.row_count - coalesce(later_rows.n_rows, 0))
        / (files.last_date - files.first_date + 1)::double precision as rows_per_day
    from files
    left join later_rows on later_rows.file_id = files.file_id
    where files.dataset = 'sales_lines' and files.first_date <= files.last_date
),

year_before as (
    select
        count(*) / (newest.last_date - newest.first_date + 1)::double precision as rows_per_day
    from volumes as newest
    inner join {{ ref('fct_sales_lines') }} as known
        on known.sale_date between newest.first_date - 364 and newest.last_date - 364
    cross join lines
    -- Only where the history reaches back so far; else the window would look emptier than it was.
    where newest.age = 1 and lines.first_sale_date <= newest.first_date - 364
    group by newest.first_date, newest.last_date
),

volume as (
    select
        -- A newest export without a single dated row covers nothing with nothing.
        coalesce(newest.rows_per_day, 0) as rows_per_day,
        coalesce(
            (select year_before.rows_per_day from year_before),
            (
                select percentile_cont(0.5) within group (order by earlier.rows_per_day)
                from volumes as earlier
                where earlier.age between 2 and 1 + {{ rule_number('circuit_breaker.volume_history_files') }}
            )
        ) as expected_per_day
    from parameters
    left join volumes as newest on newest.age = 1
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
