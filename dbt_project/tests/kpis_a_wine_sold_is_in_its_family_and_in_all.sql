{{ config(
    tags=['kpis'],
    meta={
        'dagster': {'ref': {'name': 'product_performance'}},
        'description':
            "What the wines brought is what the families brought, of each population and in both years, and the " ~
            "populations add up to all."
    },
) }}

with wines as (
    select
        population,
        sum(revenue_ht_12m) as revenue,
        sum(revenue_ht_12m_before) as before
    from {{ ref('product_performance') }}
    group by population
),

families as (
    select
        population,
        sum(revenue_ht_12m) as revenue,
        sum(revenue_ht_12m_before) as before
    from {{ ref('family_performance') }}
    group by population
)

select coalesce(wines.population, families.population) as population
from wines
full join families on families.population = wines.population
where
    coalesce(wines.revenue, 0) <> coalesce(families.revenue, 0)
    or coalesce(wines.before, 0) <> coalesce(families.before, 0)
union all
select 'sum' as population
from wines
having
    sum(revenue) filter (where population = 'all') <> sum(revenue) filter (where population <> 'all')
    or sum(before) filter (where population = 'all') <> sum(before) filter (where population <> 'all')
