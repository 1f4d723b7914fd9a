with active as (
    select
        orders.customer_id,
        customers.population,
        date_trunc('quarter', customers.first_order_date)::date as cohort,
        date_trunc('quarter', orders.order_date)::date as quarter,
        sum(orders.amount_ht) as revenue_ht
    from {{ ref('fct_orders') }} as orders
    inner join {{ ref('dim_customers') }} as customers
        on customers.customer_id = orders.customer_id and not customers.is_collective
    where orders.is_qualifying
    group by
        orders.customer_id,
        customers.population,
        customers.first_order_date,
        date_trunc('quarter', orders.order_date)
),

-- A person's second active quarter is the one in which they came back.
numbered as (
    select
        *,
        row_number() over (partition by customer_id order by quarter) = 2 as is_return
    from active
),

counted as (
    select
        cohort,
        quarter,
        coalesce(population, 'all') as population,
        count(*) as active_customers,
        count(*) filter (where is_return) as returns,
        sum(revenue_ht) as revenue_ht
    from numbered
    group by grouping sets ((cohort, quarter, population), (cohort, quarter))
),

-- Everybody is active in the quarter of the first order: the cohort is who was.
cohorts as (
    select
        cohort,
        population,
        active_customers as customers
    from counted
    where quarter = cohort and population in ('private', 'professional', 'all')
),

filled as (
    select
        cohorts.cohort,
        cohorts.population,
        quarters.quarter::date as quarter,
        cohorts.customers,
        (
            (extract(year from quarters.quarter) - extract(year from cohorts.cohort)) * 4
            + extract(quarter from quarters.quarter) - extract(quarter from cohorts.cohort)
        )::integer as quarters_since,
        coalesce(counted.active_customers, 0) as active_customers,
        coalesce(counted.returns, 0) as returns,
        coalesce(counted.revenue_ht, 0) as revenue_ht
    from cohorts
    cross join lateral generate_series(cohorts.cohort, {{ as_of() }}, interval '3 months') as quarters (quarter)
    left join counted
        on
            counted.cohort = cohorts.cohort
            and counted.population = cohorts.population
            and counted.quarter = quarters.quarter
),

summed as (
    select
        *,
        (sum(returns) over cohort_so_far)::bigint as returned_customers,
        sum(revenue_ht) over cohort_so_far as cumulative_revenue_ht
    from filled
    window cohort_so_far as (partition by cohort, population order by quarter)
)

select
    cohort,
    population,
    quarters_since,
    quarter,
    customers,
    active_customers,
    active_customers::double precision / customers as retention,
    returned_customers,
    returned_customers::double precision / customers as returned_share,
    revenue_ht,
    cumulative_revenue_ht,
    (quarter + interval '3 months')::date - 1 <= {{ as_of() }} as is_complete
from summed
