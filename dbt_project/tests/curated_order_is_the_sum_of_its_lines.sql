{{ config(
    meta={
        'dagster': {'ref': {'name': 'fct_orders'}},
        'description':
            "Each order has the number of lines, the amounts, bottles and margin that its lines add up to."
    },
) }}

-- Sums over all, and once more with a weight that each order has for itself: what one order has too much and another
-- too little does not cancel out. A sum per order would take ten times as long.
with line_sums as (

    select
        count(*) as lines,
        sum(amount_ht) as amount_ht,
        sum(amount_ttc) as amount_ttc,
        sum(bottles) as bottles,
        sum(margin) as margin,
        sum(
            (1 + (hashtext(order_id) & 1023)) * (1 + amount_ht + amount_ttc + bottles + coalesce(margin, 0))
        ) as weighted
    from {{ ref('fct_sales_lines') }}

),

order_sums as (

    select
        coalesce(sum(lines), 0) as lines,
        sum(amount_ht) as amount_ht,
        sum(amount_ttc) as amount_ttc,
        sum(bottles) as bottles,
        sum(margin) as margin,
        sum(
            (1 + (hashtext(order_id) & 1023)) * (lines + amount_ht + amount_ttc + bottles + coalesce(margin, 0))
        ) as weighted
    from {{ ref('fct_orders') }}

)

select
    to_jsonb(line_sums) as of_lines,
    to_jsonb(order_sums) as of_orders
from line_sums
cross join order_sums
where
    to_jsonb(line_sums) <> to_jsonb(order_sums)
