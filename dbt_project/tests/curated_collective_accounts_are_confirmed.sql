{{ config(
    severity='warn',
    meta={
        'description':
            "A customer with a large share of all orders and neither e-mail nor address is taken for a till, not " ~
            "a person (spec.md §3). Confirm it: put its code under `rules: customers: exclude_customers:` in the " ~
            "estate's file."
    },
) }}

select customer_id
from {{ ref('dim_customers') }}
where collective_reason = 'order_share'
