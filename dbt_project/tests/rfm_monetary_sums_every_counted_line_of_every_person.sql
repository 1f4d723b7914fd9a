{{ config(
    meta={
        'dagster': {'ref': {'name': 'customer_rfm'}},
        'description':
            "The monetary values of all persons add up to the counted lines of all persons, collective accounts " ~
            "left out."
    },
) }}

select
    people.monetary,
    lines.amount_ht
from (select coalesce(sum(monetary), 0) as monetary from {{ ref('customer_rfm') }}) as people
cross join (
    select coalesce(sum(known.amount_ht), 0) as amount_ht
    from {{ ref('known_sales_lines') }} as known
    where known.customer_id in (
        select customers.customer_id from {{ ref('dim_customers') }} as customers where not customers.is_collective
    )
) as lines
where people.monetary <> lines.amount_ht
