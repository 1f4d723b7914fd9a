{#- What the KPIs share. -#}

{#- The newest day of which the exports tell: a date. What they do not tell yet is neither silence nor a fall. -#}
{% macro measured_until() -%}
    (select max(order_date) from {{ ref('fct_orders') }} where is_qualifying)
{%- endmacro %}

{#- A change as a share of what it was, null when that was nothing. -#}
{% macro change(now, before) -%}
    ({{ now }} / nullif(greatest({{ before }}, 0), 0) - 1)::double precision
{%- endmacro %}

{#- Rising, falling or neither: by revenue over twelve months. -#}
{% macro trend(now, before) -%}
    case
        when {{ now }} <= 0 and {{ before }} <= 0 then 'none'
        when {{ before }} <= 0 then 'new'
        when {{ now }} <= 0 then 'gone'
        when {{ now }} / {{ before }} - 1 >= {{ rule_number('kpis.trend_change') }} then 'rising'
        when {{ now }} / {{ before }} - 1 <= -{{ rule_number('kpis.trend_change') }} then 'falling'
        else 'stable'
    end
{%- endmacro %}

{#- What was sold by `key` (a column of the line or of its product) and population, and in all populations: the last
    twelve months beside the twelve before, the last days beside the same days a year before. Of a document with a
    line of it, one row before anything is counted: what is distinct is then only people. -#}
{% macro sales_by(key, family=false) -%}
    with days as (
        select
            {{ measured_until() }} as until,
            ({{ measured_until() }} - interval '1 year')::date as year_before,
            ({{ measured_until() }} - interval '2 years')::date as two_years_before,
            {{ rule_number('kpis.recent_days') }}::integer as recent
    ),

    lines as (
        select
            {{ key }} as sold,
            lines.wine_id,
            lines.order_id,
            case when not customers.is_collective then lines.customer_id end as person,
            coalesce(customers.population, 'other') as population,
            lines.sale_date,
            lines.amount_ht,
            lines.margin,
            lines.bottles,
            lines.revenue_date > days.year_before as is_now,
            lines.revenue_date > days.until - days.recent as is_recent,
            lines.revenue_date between days.year_before - days.recent + 1 and days.year_before as was_recent
        from {{ ref('known_sales_lines') }} as lines
        inner join days on lines.revenue_date > days.two_years_before and lines.revenue_date <= days.until
        left join {{ ref('dim_customers') }} as customers on customers.customer_id = lines.customer_id
        {%- if family %}
        left join {{ ref('dim_products') }} as products on products.product_key = lines.product_key
        {%- endif %}
    ),

    sold as (
        select
            sold,
            coalesce(population, 'all') as population,
            coalesce(sum(amount_ht) filter (where is_now), 0) as revenue_ht_12m,
            coalesce(sum(amount_ht) filter (where not is_now), 0) as revenue_ht_12m_before,
            coalesce(round(sum(bottles) filter (where is_now), 2), 0) as bottles_12m,
            coalesce(round(sum(bottles) filter (where not is_now), 2), 0) as bottles_12m_before,
            sum(margin) filter (where is_now) as margin_ht_12m,
            coalesce(sum(amount_ht) filter (where is_recent), 0) as revenue_ht_recent,
            coalesce(sum(amount_ht) filter (where was_recent), 0) as revenue_ht_recent_year_before,
            coalesce(round(sum(bottles) filter (where is_recent), 2), 0) as bottles_recent,
            coalesce(round(sum(bottles) filter (where was_recent), 2), 0) as bottles_recent_year_before,
            count(distinct wine_id) filter (where is_now) as n_wines,
            count(distinct order_id) filter (where is_now and amount_ht > 0) as orders_12m,
            count(distinct order_id) filter (where is_recent and amount_ht > 0) as orders_recent,
            count(distinct order_id) filter (where was_recent and amount_ht > 0) as orders_recent_year_before,
            count(distinct person) filter (where is_now and amount_ht > 0) as customers_12m,
            count(distinct person) filter (where not is_now and amount_ht > 0) as customers_12m_before,
            max(sale_date) as last_sale_date
        from lines
        group by grouping sets ((sold, population), (sold))
    )
{%- endmacro %}

{#- A row's share of the revenue of its population, null where that is nothing. -#}
{% macro share(revenue) -%}
    ({{ revenue }} / nullif(sum({{ revenue }}) over (partition by population), 0))::double precision
{%- endmacro %}

{#- The CTEs `spans (span, from_date, to_date)`, `before` and `after`: the newest day of a history not after the as-of
    date, and for each span the newest day far enough before it. Found by hops along the index of as_of. -#}
{% macro spans_of(history) -%}
    with newest as (
        select max(as_of) as to_date
        from {{ history }}
        where as_of <= {{ as_of() }}
    ),

    spans as (
        {%- for span in ('week', 'month') %}
        select
            '{{ span }}' as span,
            newest.to_date,
            (
                select max(as_of)
                from {{ history }}
                where as_of <= newest.to_date - {{ rule_number('kpis.span_days.' ~ span) }}::integer
            ) as from_date
        from newest
        {%- if not loop.last %}
        union all
        {%- endif %}
        {%- endfor %}
    ),

    before as (
        select
            spans.span,
            spans.from_date,
            spans.to_date,
            history.*
        from spans
        inner join {{ history }} as history on history.as_of = spans.from_date
    ),

    after as (
        select
            spans.span,
            spans.from_date,
            spans.to_date,
            history.*
        from spans
        inner join {{ history }} as history on history.as_of = spans.to_date
        where spans.from_date is not null
    )
{%- endmacro %}

{#- The CTE `ways`, after `spans_of`: customers by the `code` that they had and the one that they have, per span and
    population. Who was in no group before is New, who is in none any more is Gone. -#}
{% macro ways_of(code) -%}
    ways as (
        select
            {%- for column in ('span', 'population', 'from_date', 'to_date') %}
            coalesce(after.{{ column }}, before.{{ column }}) as {{ column }},
            {%- endfor %}
            coalesce(before.{{ code }}, 'New') as from_{{ code }},
            coalesce(after.{{ code }}, 'Gone') as to_{{ code }},
            count(*) as customers
        from before
        full join after on after.span = before.span and after.customer_id = before.customer_id
        group by 1, 2, 3, 4, 5, 6
    )
{%- endmacro %}
