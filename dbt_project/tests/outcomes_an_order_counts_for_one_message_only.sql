{{ config(
    tags=['outcomes'],
    meta={
        'dagster': {'ref': {'name': 'message_outcomes'}},
        'description':
            "An order that follows several messages is credited to one of them."
    },
) }}

select
    credited.n_orders,
    existing.n_orders as n_existing
from (select coalesce(sum(n_orders), 0) as n_orders from {{ ref('message_outcomes') }}) as credited
cross join (
    select count(*) as n_orders
    from {{ ref('fct_orders') }} as orders
    where
        orders.is_qualifying
        and orders.customer_id in (select messages.customer_id from {{ ref('message_outcomes') }} as messages)
) as existing
where credited.n_orders > existing.n_orders
