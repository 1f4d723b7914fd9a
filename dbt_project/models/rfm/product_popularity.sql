with recent as (
    select distinct
        customers.population,
        purchases.customer_id,
        purchases.wine_id
    from {{ ref('purchases') }} as purchases
    inner join {{ ref('dim_customers') }} as customers on customers.customer_id = purchases.customer_id
    where
        {{ as_of() }} - purchases.sale_date < {{ rule_number('products.popularity_days') }}
        and customers.population in ('private', 'professional')
),

buyers as (
    select
        population,
        count(distinct customer_id) as n_buyers
    from recent
    group by population
)

select
    recent.population,
    recent.wine_id,
    count(*) as n_buyers,
    count(*)::double precision / buyers.n_buyers as share
from recent
inner join buyers on buyers.population = recent.population
where
    recent.wine_id in (
        select products.wine_id from {{ ref('dim_products') }} as products where products.price_ttc is not null
    )
group by recent.population, recent.wine_id, buyers.n_buyers
