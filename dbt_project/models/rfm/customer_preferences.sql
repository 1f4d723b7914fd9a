{%- set traits = ['family', 'grape', 'sweetness', 'price_band'] -%}
{#- Spend decides, EUR HT net of credit notes per wine; of the usual format, the orders in it. -#}
{%- set weights = {
    'family': 'amount_ht', 'grape': 'amount_ht', 'sweetness': 'amount_ht', 'price_band': 'amount_ht',
    'premium_tier': 'amount_ht', 'usual_format_cl': 'n_orders',
} -%}

-- A wine's traits are those of its newest vintage that has a price. Not materialized: PostgreSQL can then work on
-- several traits at once.
with wines as not materialized (
    select distinct on (wine_id)
        wine_id,
        family,
        grape,
        sweetness,
        coalesce(price_band, price_segment) as price_band,
        premium_tier
    from {{ ref('dim_products') }}
    where not is_inferred and price_ttc is not null
    order by wine_id, vintage desc nulls last, product_key collate "C"
),

-- What the catalogue leaves unsaid is out of the shares' denominator: the shares of a trait sum to 1.
tops as (
    {%- for trait, weight in weights.items() %}
    select
        customer_id,
        '{{ trait }}' as trait,
        (array_agg(value order by weight desc, value collate "C"))[1:2] as top_values,
        (array_agg(weight order by weight desc, value collate "C"))[1:2] as top_weights,
        sum(weight) as total,
        sum(weight * weight) as squares
    from (
        select
            bought.customer_id,
            {{ trait }}::text as value,
            sum(bought.{{ weight }}) as weight
        from {{ ref('customer_wines') }} as bought
        inner join wines on wines.wine_id = bought.wine_id
        where {{ trait }} is not null
        group by bought.customer_id, {{ trait }}
    ) as {{ trait }}_weights
    group by customer_id
    {%- if not loop.last %}
    union all
    {%- endif %}
    {%- endfor %}
),

tastes as (
    select
        customer_id,
        {%- for trait in traits %}
        {%- for place in (1, 2) %}
        max(top_values[{{ place }}]) filter (where trait = '{{ trait }}') as top_{{ trait }}_{{ place }},
        max(top_weights[{{ place }}] / total) filter (where trait = '{{ trait }}')::double precision
            as top_{{ trait }}_{{ place }}_share,
        {%- endfor %}
        {%- endfor %}
        max(1 - squares / (total * total)) filter (where trait = 'family')::double precision as diversity,
        max(top_values[1]) filter (where trait = 'premium_tier')::integer as tier_mode,
        max(top_values[1]) filter (where trait = 'usual_format_cl')::numeric as usual_format_cl
    from tops
    group by customer_id
),

-- EUR TTC per 75 cl over positive wine lines of the last months, the customer's own level of price.
prices as (
    select
        customer_id,
        round(sum(amount_ttc) / sum(bottles), 4) as price_75cl_ttc
    from {{ ref('known_sales_lines') }}
    where
        kind = 'wine'
        and not is_gift
        and not is_product_inferred
        and amount_ttc > 0
        and bottles > 0
        and sale_date
        > {{ as_of() }} - make_interval(months => {{ rule_number('products.customer_price_months') }}::integer)
    group by customer_id
),

budgets as (
    select
        population,
        percentile_cont(array[1 / 3.0, 2 / 3.0])
        within group (order by average_order_value::double precision) as tertiles
    from {{ ref('customer_rfm') }}
    where frequency > 0 and not profiling_objected
    group by population
)

select
    people.customer_id,
    {%- for trait in traits %}
    {%- for place in (1, 2) %}
    tastes.top_{{ trait }}_{{ place }},
    tastes.top_{{ trait }}_{{ place }}_share,
    {%- endfor %}
    {%- endfor %}
    tastes.diversity,
    people.average_order_value,
    case
        when people.average_order_value <= budgets.tertiles[1] then 'low'
        when people.average_order_value <= budgets.tertiles[2] then 'medium'
        when people.average_order_value > budgets.tertiles[2] then 'high'
    end as budget_band,
    prices.price_75cl_ttc,
    case
        when prices.price_75cl_ttc < {{ rule_number('products.price_segments.standard') }} then 'entry'
        when prices.price_75cl_ttc < {{ rule_number('products.price_segments.premium') }} then 'standard'
        when prices.price_75cl_ttc < {{ rule_number('products.price_segments.luxury') }} then 'premium'
        when prices.price_75cl_ttc is not null then 'luxury'
    end as price_segment,
    tastes.usual_format_cl,
    tastes.tier_mode
from {{ ref('customer_rfm') }} as people
left join tastes on tastes.customer_id = people.customer_id
left join prices on prices.customer_id = people.customer_id
left join budgets on budgets.population = people.population
where not people.profiling_objected
