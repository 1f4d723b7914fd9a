{{ sales_by('lines.wine_id') }},

wines as (
    select
        wine_id,
        bool_or(is_active and not is_archived) as is_active,
        bool_or(is_recommendable) as is_recommendable,
        round(sum(available * format_cl / 75), 2) as stock_bottles
    from {{ ref('dim_products') }}
    group by wine_id
),

faces as (
    select distinct on (wine_id)
        wine_id,
        kind,
        coalesce(family, '') as family,
        case
            when label like '% ' || vintage::text then btrim(left(label, -length(vintage::text)))
            else label
        end as label
    from {{ ref('dim_products') }}
    order by
        wine_id,
        is_active and not is_archived desc,
        vintage desc nulls last,
        abs(format_cl - 75) nulls last,
        product_key collate "C"
),

shown as (
    select
        sold,
        population
    from sold
    union
    select
        wine_id as sold,
        'all' as population
    from wines
    where is_recommendable
),

filled as (
    select
        shown.sold as wine_id,
        shown.population,
        faces.label,
        faces.kind,
        faces.family,
        wines.is_active,
        {%- for column in (
            'revenue_ht_12m', 'revenue_ht_12m_before', 'bottles_12m', 'bottles_12m_before', 'orders_12m',
            'customers_12m', 'customers_12m_before', 'revenue_ht_recent', 'revenue_ht_recent_year_before',
            'bottles_recent', 'bottles_recent_year_before', 'orders_recent', 'orders_recent_year_before',
        ) %}
        coalesce(sold.{{ column }}, 0) as {{ column }},
        {%- endfor %}
        sold.margin_ht_12m,
        sold.last_sale_date,
        wines.stock_bottles
    from shown
    left join sold on sold.sold = shown.sold and sold.population = shown.population
    left join wines on wines.wine_id = shown.sold
    left join faces on faces.wine_id = shown.sold
)

select
    wine_id,
    population,
    label,
    kind,
    family,
    is_active,
    revenue_ht_12m,
    revenue_ht_12m_before,
    {{ change('revenue_ht_12m', 'revenue_ht_12m_before') }} as revenue_change,
    bottles_12m,
    bottles_12m_before,
    orders_12m,
    customers_12m,
    customers_12m_before,
    margin_ht_12m,
    {{ share('revenue_ht_12m') }} as share_12m,
    {{ share('revenue_ht_12m_before') }} as share_12m_before,
    row_number() over (partition by population order by revenue_ht_12m desc, wine_id collate "C") as rank_12m,
    revenue_ht_recent,
    revenue_ht_recent_year_before,
    bottles_recent,
    bottles_recent_year_before,
    {{ change('bottles_recent', 'bottles_recent_year_before') }} as bottles_recent_change,
    orders_recent,
    orders_recent_year_before,
    {{ trend('revenue_ht_12m', 'revenue_ht_12m_before') }} as trend,
    last_sale_date,
    stock_bottles,
    (
        stock_bottles * 12
        / nullif(greatest(max(bottles_12m) filter (where population = 'all') over (partition by wine_id), 0), 0)
    )::double precision as months_of_stock,
    {{ measured_until() }} as measured_until
from filled
