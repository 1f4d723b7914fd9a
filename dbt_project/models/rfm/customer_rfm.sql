{%- set segments = [
    ('Champions', 'r_score >= 4 and f_score >= 4 and m_score >= 4'),
    ('Loyal Customers', 'f_score >= 4 and r_score >= 3'),
    ('Big Spenders', 'm_score >= 4 and f_score >= 3'),
    ('Recent Customers', 'r_score >= 4 and f_score <= 2'),
    ('Promising', 'r_score >= 3 and f_score >= 2 and m_score >= 2'),
    ('At Risk', 'r_score <= 2 and f_score <= 2'),
] -%}

with orders as (
    select
        customer_id,
        min(order_date) as first_order_date,
        max(order_date) as last_order_date,
        count(*) as frequency,
        sum(amount_ht) as ordered_ht
    from {{ ref('fct_orders') }}
    where is_qualifying
    group by customer_id
),

spend as (
    select
        customer_id,
        sum(amount_ht) as monetary
    from {{ ref('known_sales_lines') }}
    group by customer_id
),

people as (
    select
        customers.customer_id,
        {{ as_of() }} as as_of,
        customers.population,
        customers.profiling_objected,
        {{ as_of() }} - orders.last_order_date as recency_days,
        coalesce(orders.frequency, 0) as frequency,
        coalesce(spend.monetary, 0) as monetary,
        round(orders.ordered_ht / orders.frequency, 2) as average_order_value,
        (orders.last_order_date - orders.first_order_date)::double precision
        / nullif(orders.frequency - 1, 0) as mean_interval_days,
        orders.first_order_date,
        orders.last_order_date
    from {{ ref('dim_customers') }} as customers
    left join orders on orders.customer_id = customers.customer_id
    left join spend on spend.customer_id = customers.customer_id
    where not customers.is_collective
),

-- Cut points of each population apart, over those with a qualifying order, by linear interpolation. Whoever objects
-- to profiling is neither scored nor a measure for others.
cuts as (
    select
        population,
        case
            when {{ rule_text('rfm.method') }} = 'edges' or count(*) < {{ rule_number('rfm.edges_below_customers') }}
                then 'edges'
            else 'quintile'
        end as method,
        percentile_cont(array[0.2, 0.4, 0.6, 0.8]) within group (order by recency_days::double precision) as recency,
        percentile_cont(array[0.2, 0.4, 0.6, 0.8]) within group (order by frequency::double precision) as frequency,
        percentile_cont(array[0.2, 0.4, 0.6, 0.8]) within group (order by monetary::double precision) as monetary
    from people
    where frequency > 0 and not profiling_objected
    group by population
),

edges as (
    select
    {%- for measure in ('recency', 'frequency', 'monetary') %}
        (
            select array_agg(edge::numeric order by edge::numeric)
            from jsonb_array_elements_text({{ rule_json('rfm.edges.' ~ measure) }}) as edge
        ) as {{ measure }}{{ ',' if not loop.last }}
    {%- endfor %}
),

-- A customer without an order, or who objects, meets no cuts: the scores are null. An edge belongs to the better class.
scored as (
    select
        people.*,
        cuts.method,
        case cuts.method
            when 'edges' then 5 - {{ cuts_below('people.recency_days', 'edges.recency') }}
            else 5 - {{ cuts_below('people.recency_days', 'cuts.recency') }}
        end as r_score,
        case cuts.method
            when 'edges' then 1 + width_bucket(people.frequency::numeric, edges.frequency)
            else 1 + {{ cuts_below('people.frequency', 'cuts.frequency') }}
        end as f_score,
        case cuts.method
            when 'edges' then 1 + width_bucket(people.monetary, edges.monetary)
            else 1 + {{ cuts_below('people.monetary::double precision', 'cuts.monetary') }}
        end as m_score
    from people
    left join cuts
        on cuts.population = people.population and people.frequency > 0 and not people.profiling_objected
    cross join edges
)

select
    customer_id,
    as_of,
    population,
    recency_days,
    frequency,
    monetary,
    average_order_value,
    mean_interval_days,
    first_order_date,
    last_order_date,
    r_score,
    f_score,
    m_score,
    r_score + f_score + m_score as rfm_score,
    r_score::text || f_score::text || m_score::text as rfm_code,
    case
        when profiling_objected then 'Not profiled'
        when method is null then 'Prospects'
        {%- for name, condition in segments %}
        when {{ condition }} then '{{ name }}'
        {%- endfor %}
        else 'Others'
    end as segment,
    method,
    profiling_objected
from scored
