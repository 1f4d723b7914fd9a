{{ config(severity='warn') }}

-- Taken for a till by their share of all orders alone: a person should say so in `exclude_customers`.
select customer_id
from {{ ref('dim_customers') }}
where collective_reason = 'order_share'
