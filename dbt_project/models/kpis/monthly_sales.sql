with lines as (
    select
        date_trunc('month', lines.revenue_date)::date as month,
        coalesce(customers.population, 'other') as population,
        sum(lines.amount_ht) as revenue_ht,
        sum(lines.amount_ht) filter (
            where extract(day from lines.revenue_date) <= extract(day from {{ as_of() }})
        ) as revenue_ht_to_day,
        sum(lines.amount_ttc) as revenue_ttc,
        sum(lines.margin) as margin_ht,
        sum(lines.amount_ht) filter (where lines.amount_ht > 0 and lines.margin is not null) as sold_with_margin_ht,
        sum(lines.amount_ht) filter (where lines.amount_ht > 0) as sold_ht,
        sum(lines.bottles) as bottles
    from {{ ref('known_sales_lines') }} as lines
    left join {{ ref('dim_customers') }} as customers on customers.customer_id = lines.customer_id
    where lines.revenue_date <= {{ as_of() }}
    group by date_trunc('month', lines.revenue_date), coalesce(customers.population, 'other')
),

orders as (
    select
        date_trunc('month', orders.order_date)::date as month,
        customers.population,
        count(*) as orders,
        count(*) filter (
            where extract(day from orders.order_date) <= extract(day from {{ as_of() }})
        ) as orders_to_day,
        count(distinct orders.customer_id) as customers,
        count(distinct orders.customer_id) filter (
            where date_trunc('month', customers.first_order_date) = date_trunc('month', orders.order_date)
        ) as new_customers,
        sum(orders.amount_ht) as ordered_ht
    from {{ ref('fct_orders') }} as orders
    inner join {{ ref('dim_customers') }} as customers
        on customers.customer_id = orders.customer_id and not customers.is_collective
    where orders.is_qualifying
    group by date_trunc('month', orders.order_date), customers.population
),

months as (
    select generate_series(
        (select least((select min(lines.month) from lines), (select min(orders.month) from orders))),
        date_trunc('month', {{ as_of() }}),
        interval '1 month'
    )::date as month
),

-- A person is of one population: what is distinct within each adds up to all.
filled as (
    select
        months.month,
        coalesce(populations.population, 'all') as population,
        (months.month + interval '1 month')::date - 1 <= {{ as_of() }} as is_complete,
        coalesce(sum(lines.revenue_ht), 0) as revenue_ht,
        coalesce(sum(lines.revenue_ht_to_day), 0) as revenue_ht_to_day,
        coalesce(sum(lines.revenue_ttc), 0) as revenue_ttc,
        sum(lines.margin_ht) as margin_ht,
        coalesce(sum(lines.sold_with_margin_ht), 0) / sum(lines.sold_ht) as margin_known_share,
        coalesce(round(sum(lines.bottles), 2), 0) as bottles,
        coalesce(sum(orders.orders), 0)::bigint as orders,
        coalesce(sum(orders.orders_to_day), 0)::bigint as orders_to_day,
        coalesce(sum(orders.customers), 0)::bigint as customers,
        coalesce(sum(orders.new_customers), 0)::bigint as new_customers,
        sum(orders.ordered_ht) as ordered_ht
    from months
    cross join (values ('private'), ('professional'), ('other')) as populations (population)
    left join lines on lines.month = months.month and lines.population = populations.population
    left join orders on orders.month = months.month and orders.population = populations.population
    group by grouping sets ((months.month, populations.population), (months.month))
),

summed as (
    select
        *,
        row_number() over past as place,
        sum(revenue_ht) over (past rows between 11 preceding and current row) as revenue_12m,
        sum(revenue_ht) over year_of_it as year_revenue,
        count(*) filter (where is_complete) over year_of_it = 12 as is_year_complete
    from filled
    window
        past as (partition by population order by month),
        year_of_it as (partition by population, extract(year from month))
),

-- In the as-of month what is set beside it ends on the same day: the rest of its month a year before is taken off,
-- or, where twelve months are to be whole, put on.
compared as (
    select
        *,
        lag(revenue_ht, 12) over past as month_before,
        lag(revenue_ht_to_day, 12) over past as month_before_to_day,
        lag(revenue_ht, 24) over past - lag(revenue_ht_to_day, 24) over past as rest_two_years_before,
        lag(revenue_12m, 12) over past as revenue_12m_before,
        lag(orders, 12) over past as orders_before,
        lag(orders_to_day, 12) over past as orders_before_to_day,
        sum(revenue_ht) filter (where is_year_complete) over same_months as same_months_revenue,
        sum(year_revenue) filter (where is_year_complete) over same_months as years_revenue
    from summed
    window
        past as (partition by population order by month),
        same_months as (
            partition by population, extract(month from month)
            order by month
            rows between unbounded preceding and 1 preceding
        )
)

select
    month,
    population,
    revenue_ht,
    revenue_ttc,
    margin_ht,
    margin_known_share::double precision as margin_known_share,
    bottles,
    orders,
    customers,
    new_customers,
    round(ordered_ht / nullif(orders, 0), 2) as average_order_value,
    case when is_complete then month_before else month_before_to_day end as revenue_ht_year_before,
    case when is_complete then orders_before else orders_before_to_day end as orders_year_before,
    is_complete,
    case
        when is_complete and place >= 12 then revenue_12m
        when not is_complete then revenue_12m + month_before - month_before_to_day
    end as rolling_12m_revenue_ht,
    case
        when is_complete and place >= 24 then revenue_12m_before
        when not is_complete then revenue_12m_before - month_before + month_before_to_day + rest_two_years_before
    end as rolling_12m_revenue_ht_year_before,
    (same_months_revenue / nullif(years_revenue, 0))::double precision as seasonal_share
from compared
