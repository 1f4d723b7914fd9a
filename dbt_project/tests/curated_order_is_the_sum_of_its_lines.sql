-- By the first two digits of the order's hash: a difference in one order shows, and a million lines take a second.
with lines as (

    select
        left(order_id, 2) as orders,
        count(*) as lines,
        sum(amount_ht) as amount_ht,
        sum(amount_ttc) as amount_ttc,
        sum(bottles) as bottles
    from {{ ref('fct_sales_lines') }}
    group by left(order_id, 2)

),

totals as (

    select
        left(order_id, 2) as orders,
        sum(lines) as lines,
        sum(amount_ht) as amount_ht,
        sum(amount_ttc) as amount_ttc,
        sum(bottles) as bottles
    from {{ ref('fct_orders') }}
    group by left(order_id, 2)

)

select orders
from lines
full outer join totals using (orders)
where
    lines.lines is distinct from totals.lines
    or lines.amount_ht is distinct from totals.amount_ht
    or lines.amount_ttc is distinct from totals.amount_ttc
    or lines.bottles is distinct from totals.bottles
