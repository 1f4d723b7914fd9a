{{ config(
    meta={
        'dagster': {'ref': {'name': 'fct_orders'}},
        'description':
            "Each order has the number of lines, the amounts, bottles and margin that its lines add up to."
    },
) }}

-- In 256 heaps of orders, each order with a weight of its own: what one order has too much and another too little does
-- not cancel out, and a million lines take a part of a second where a sum per order takes two.
with lines as (

    select
        hashtext(order_id) & 255 as heap,
        1 + (hashtext(order_id) >> 8 & 1023) as weight,
        amount_ht,
        amount_ttc,
        bottles,
        margin
    from {{ ref('fct_sales_lines') }}

),

line_sums as (

    select
        heap,
        sum(weight) as lines,
        coalesce(sum(weight * amount_ht), 0) as amount_ht,
        coalesce(sum(weight * amount_ttc), 0) as amount_ttc,
        coalesce(sum(weight * bottles), 0) as bottles,
        coalesce(sum(weight * margin), 0) as margin
    from lines
    group by heap

),

orders as (

    select
        hashtext(order_id) & 255 as heap,
        1 + (hashtext(order_id) >> 8 & 1023) as weight,
        lines,
        amount_ht,
        amount_ttc,
        bottles,
        margin
    from {{ ref('fct_orders') }}

),

order_sums as (

    select
        heap,
        sum(weight * lines) as lines,
        coalesce(sum(weight * amount_ht), 0) as amount_ht,
        coalesce(sum(weight * amount_ttc), 0) as amount_ttc,
        coalesce(sum(weight * bottles), 0) as bottles,
        coalesce(sum(weight * margin), 0) as margin
    from orders
    group by heap

)

select heap
from line_sums
full outer join order_sums using (heap)
where
    (line_sums.lines, line_sums.amount_ht, line_sums.amount_ttc, line_sums.bottles, line_sums.margin)
    is distinct from
    (order_sums.lines, order_sums.amount_ht, order_sums.amount_ttc, order_sums.bottles, order_sums.margin)
