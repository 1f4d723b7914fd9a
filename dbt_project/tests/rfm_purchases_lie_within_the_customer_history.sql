{{ config(
    meta={
        'dagster': {'ref': {'name': 'customer_wines'}},
        'description':
            "No wine is bought before the first or after the last qualifying order, nor after the as-of date."
    },
) }}

select
    bought.customer_id,
    bought.wine_id
from {{ ref('customer_wines') }} as bought
left join {{ ref('customer_rfm') }} as people on people.customer_id = bought.customer_id
where
    people.customer_id is null
    or bought.n_orders > people.frequency
    or bought.first_date < people.first_order_date
    or bought.last_date > people.as_of
