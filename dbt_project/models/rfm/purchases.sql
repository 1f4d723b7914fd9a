-- One scan of the lines serves every later model of taste and rhythm. The wine's net over all its lines, credit
-- notes included, comes from the same sort as the sums per order.
with per_order as (
    select
        lines.customer_id,
        lines.wine_id,
        lines.order_id,
        bool_or(orders.is_qualifying) as is_qualifying,
        max(lines.sale_date) as sale_date,
        (max(array[lines.bottles, products.format_cl]))[2] as format_cl,
        sum(lines.bottles) as bottles,
        sum(lines.amount_ht) as amount_ht,
        sum(lines.amount_ttc) as amount_ttc,
        sum(sum(lines.amount_ht)) over (partition by lines.customer_id, lines.wine_id) as net_amount_ht
    from {{ ref('known_sales_lines') }} as lines
    inner join {{ ref('dim_products') }} as products on products.product_key = lines.product_key
    inner join {{ ref('fct_orders') }} as orders on orders.order_id = lines.order_id
    where
        not lines.is_gift
        and not lines.is_product_inferred
        and lines.kind in (select jsonb_array_elements_text({{ rule_json('products.recommendable_kinds') }}))
        and lines.customer_id not in (
            select customers.customer_id from {{ ref('dim_customers') }} as customers where customers.is_collective
        )
    group by lines.customer_id, lines.wine_id, lines.order_id
)

select
    customer_id,
    wine_id,
    order_id,
    sale_date,
    format_cl,
    bottles,
    amount_ht,
    amount_ttc,
    net_amount_ht
from per_order
where is_qualifying and amount_ht > 0 and net_amount_ht > 0
