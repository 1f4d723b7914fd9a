select
    customer_id,
    wine_id,
    count(*) as n_orders,
    min(sale_date) as first_date,
    max(sale_date) as last_date,
    sum(bottles) as bottles,
    max(net_amount_ht) as amount_ht,
    -- From first to last there are n - 1 intervals: their mean needs no window over the dates.
    (max(sale_date) - min(sale_date))::double precision / nullif(count(*) - 1, 0) as mean_interval_days,
    mode() within group (order by format_cl) as usual_format_cl
from {{ ref('purchases') }}
group by customer_id, wine_id
