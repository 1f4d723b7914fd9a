with lines as (

    select
        order_id,
        count(*) as lines,
        sum(amount_ht) as amount_ht,
        sum(amount_ttc) as amount_ttc,
        sum(bottles) as bottles
    from {{ ref('fct_sales_lines') }}
    group by order_id

)

select order_id
from {{ ref('fct_orders') }} as orders
full outer join lines using (order_id)
where
    orders.lines is distinct from lines.lines
    or orders.amount_ht is distinct from lines.amount_ht
    or orders.amount_ttc is distinct from lines.amount_ttc
    or orders.bottles is distinct from lines.bottles
