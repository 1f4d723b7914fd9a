{{ config(
    meta={
        'dagster': {'ref': {'name': 'sales_line_versions'}},
        'description':
            "A line gives way to a line of its own document only, so a document that was ever accepted has a " ~
            "current line; but where the estate says `exports: full`, which lets documents vanish (spec.md §3)."
    },
) }}

with superseded as (

    select distinct order_id
    from {{ ref('sales_line_versions') }}
    where not is_current

),

kept as (

    select distinct versions.order_id
    from {{ ref('sales_line_versions') }} as versions
    inner join superseded on versions.order_id = superseded.order_id
    where versions.is_current

)

select superseded.order_id
from superseded
left join kept on superseded.order_id = kept.order_id
where kept.order_id is null and {{ rule_text('tenant.exports') }} <> 'full'
