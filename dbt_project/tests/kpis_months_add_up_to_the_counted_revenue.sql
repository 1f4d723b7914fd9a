{{ config(
    tags=['kpis'],
    meta={
        'dagster': {'ref': {'name': 'monthly_sales'}},
        'description':
            "The revenue of all months is the revenue of the counted lines whose revenue date has come, to the cent " ~
            "and beyond: of all populations, and of each population added up. Orders likewise are those of people."
    },
) }}

with months as (
    select
        sum(revenue_ht) filter (where population = 'all') as revenue,
        sum(revenue_ht) filter (where population <> 'all') as revenue_of_populations,
        coalesce(sum(orders) filter (where population = 'all'), 0) as orders,
        coalesce(sum(new_customers) filter (where population = 'all'), 0) as new_customers
    from {{ ref('monthly_sales') }}
),

facts as (
    select
        (
            select sum(lines.amount_ht)
            from {{ ref('fct_sales_lines') }} as lines
            where lines.is_counted and lines.sale_date <= {{ as_of() }} and lines.revenue_date <= {{ as_of() }}
        ) as revenue,
        sum(customers.n_qualifying_orders) as orders,
        count(*) filter (where customers.n_qualifying_orders > 0) as customers
    from {{ ref('dim_customers') }} as customers
    where not customers.is_collective
)

select months.*
from months
cross join facts
where
    coalesce(months.revenue, 0) <> coalesce(facts.revenue, 0)
    or coalesce(months.revenue_of_populations, 0) <> coalesce(facts.revenue, 0)
    or months.orders <> coalesce(facts.orders, 0)
    or months.new_customers <> facts.customers
