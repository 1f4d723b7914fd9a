{{ config(
    meta={
        'dagster': {'ref': {'name': 'fct_sales_lines'}},
        'description':
            "Every client code of a line or an order stands in customer_xref, and with the customer that it is on " ~
            "there."
    },
) }}

-- By distinct pairs, as lines and as orders have them: an order is on the customer of its lines.
with pairs as (

    select client_code, customer_id from {{ ref('fct_sales_lines') }}
    group by client_code, customer_id
    union
    select client_code, customer_id from {{ ref('fct_orders') }}

)

select
    pairs.client_code,
    pairs.customer_id,
    known.customer_id as expected_customer_id
from pairs
left join {{ source('curated', 'customer_xref') }} as known on pairs.client_code = known.client_code
where known.customer_id is distinct from pairs.customer_id
