{#- `customers`, `wines` and the estate's `volumes` have the same columns, so that one rule book reads them all. -#}
{%- set columns -%}
    kind, subject_type, subject_id, population, measure, measured, expected, threshold, is_beyond, value_at_stake_ht,
    since_date
{%- endset -%}
{%- set periods = [('week', 7), ('month', 28)] -%}

with days as (
    select
        {{ measured_until() }} as until,
        {{ rule_number('predictions.churn_interval_factor') }}::double precision as silent_intervals,
        {{ rule_number('kpis.anomalies.customer_silent.min_days') }}::double precision as silent_days,
        {{ rule_number('kpis.anomalies.order_value_down.recent_orders') }}::integer as recent_orders,
        {{ rule_number('kpis.anomalies.order_value_down.drop') }}::double precision as value_drop,
        {{ rule_number('kpis.anomalies.order_value_down.deviations') }}::double precision as value_deviations,
        {{ rule_number('kpis.anomalies.product_falling.drop') }}::double precision as product_drop,
        {{ rule_number('kpis.anomalies.product_falling.deviations') }}::double precision as product_deviations,
        {{ rule_number('kpis.anomalies.volume_off.change') }}::double precision as volume_change,
        {{ rule_number('kpis.anomalies.volume_off.deviations') }}::double precision as volume_deviations
),

-- Who may be looked at for their habits, and could still be spoken to.
people as (
    select
        customer_id,
        population
    from {{ ref('dim_customers') }}
    where
        not is_collective
        and not profiling_objected
        and population in ('private', 'professional')
        and status not in ('deceased', 'do_not_contact')
),

orders as (
    select
        customer_id,
        order_date,
        amount_ht,
        row_number() over (partition by customer_id order by order_date desc, order_id collate "C") as place,
        max(order_date) over (partition by customer_id) as last_date
    from {{ ref('fct_orders') }}
    where is_qualifying
),

per_customer as (
    select
        orders.customer_id,
        count(*) as n_orders,
        min(orders.order_date) as first_date,
        max(orders.order_date) as last_date,
        sum(orders.amount_ht) filter (where orders.last_date - orders.order_date < 365) as last_year_ht,
        min(orders.order_date) filter (where orders.place <= days.recent_orders) as recent_from,
        avg(orders.amount_ht::double precision) filter (where orders.place <= days.recent_orders) as recent_value,
        count(*) filter (where orders.place > days.recent_orders) as n_past,
        avg(orders.amount_ht::double precision) filter (where orders.place > days.recent_orders) as past_value,
        stddev_samp(orders.amount_ht::double precision) filter (where orders.place > days.recent_orders) as past_spread
    from orders
    cross join days
    group by orders.customer_id
),

habits_of_people as (
    select
        people.customer_id,
        people.population,
        per_customer.n_orders,
        per_customer.last_date,
        per_customer.last_year_ht,
        per_customer.recent_from,
        per_customer.recent_value,
        per_customer.n_past,
        per_customer.past_value,
        per_customer.past_spread,
        (days.until - per_customer.last_date)::double precision as silent_days,
        (per_customer.last_date - per_customer.first_date)::double precision
        / nullif(per_customer.n_orders - 1, 0) as interval_days
    from people
    inner join per_customer on per_customer.customer_id = people.customer_id
    cross join days
),

bounds as (
    select
        habits_of_people.*,
        days.recent_orders,
        greatest(days.silent_intervals * habits_of_people.interval_days, days.silent_days) as silent_threshold,
        -- Whoever orders now much, now little leaves the own habit with a larger drop only.
        habits_of_people.past_value - greatest(
            days.value_drop * habits_of_people.past_value,
            days.value_deviations * coalesce(habits_of_people.past_spread, 0)
            * sqrt((1.0 / days.recent_orders + 1.0 / nullif(habits_of_people.n_past, 0))::double precision)
        ) as value_threshold
    from habits_of_people
    cross join days
),

-- In the end everybody has gone: who has been silent for long is no news.
silences as (
    select
        'CUSTOMER_SILENT' as kind,
        'customer' as subject_type,
        customer_id as subject_id,
        population,
        'silent_days' as measure,
        silent_days as measured,
        interval_days as expected,
        silent_threshold as threshold,
        silent_days > silent_threshold as is_beyond,
        last_year_ht as value_at_stake_ht,
        last_date + floor(silent_threshold)::integer + 1 as since_date
    from bounds
    where
        n_orders >= {{ rule_number('kpis.anomalies.customer_silent.min_orders') }}
        and silent_days <= silent_threshold * {{ rule_number('kpis.anomalies.customer_silent.given_up_intervals') }}
        / {{ rule_number('predictions.churn_interval_factor') }}
        and silent_days <= {{ rule_number('permission.inactive_days') }}
),

order_values as (
    select
        'ORDER_VALUE_DOWN' as kind,
        'customer' as subject_type,
        customer_id as subject_id,
        population,
        'average_order_value' as measure,
        recent_value as measured,
        past_value as expected,
        value_threshold as threshold,
        recent_value <= value_threshold as is_beyond,
        (greatest(past_value - recent_value, 0) * recent_orders)::numeric as value_at_stake_ht,
        recent_from as since_date
    from bounds
    where
        n_past >= {{ rule_number('kpis.anomalies.order_value_down.min_past_orders') }}
        and silent_days <= {{ rule_number('kpis.anomalies.order_value_down.active_days') }}
),

-- The bound counts orders: of so few, a few less are chance.
wines as (
    select
        'PRODUCT_FALLING' as kind,
        'wine' as subject_type,
        wines.wine_id as subject_id,
        wines.population,
        'bottles_recent' as measure,
        wines.bottles_recent::double precision as measured,
        wines.bottles_recent_year_before::double precision as expected,
        (1 - days.product_drop) * wines.bottles_recent_year_before::double precision as threshold,
        wines.bottles_recent <= (1 - days.product_drop) * wines.bottles_recent_year_before::double precision
        and wines.orders_recent_year_before - wines.orders_recent
        >= days.product_deviations * sqrt((wines.orders_recent_year_before + wines.orders_recent)::double precision)
            as is_beyond,
        greatest(wines.revenue_ht_recent_year_before - wines.revenue_ht_recent, 0) as value_at_stake_ht,
        days.until - {{ rule_number('kpis.recent_days') }}::integer + 1 as since_date
    from {{ ref('product_performance') }} as wines
    cross join days
    where
        wines.population = 'all'
        and wines.is_active
        and wines.kind in (select jsonb_array_elements_text({{ rule_json('products.recommendable_kinds') }}))
        -- What is sold out falls of itself.
        and coalesce(wines.stock_bottles, 1) > 0
        and wines.bottles_recent_year_before > 0
        and wines.orders_recent_year_before >= {{ rule_number('kpis.anomalies.product_falling.min_orders') }}
),

-- The estate's days: orders of people by their day, revenue of all by the revenue date.
calendar as (
    select generate_series(
        (select min(first_order_date) from {{ ref('dim_customers') }}), {{ measured_until() }}, interval '1 day'
    )::date as day
),

sales as (
    select
        calendar.day,
        coalesce(ordered.orders, 0)::double precision as orders,
        coalesce(ordered.squared, 0) as squared,
        coalesce(ordered.amount_ht, 0) as ordered_ht,
        coalesce(sold.revenue, 0)::double precision as revenue
    from calendar
    left join (
        select
            order_date,
            count(*) as orders,
            sum(amount_ht)::double precision as amount_ht,
            sum(amount_ht * amount_ht)::double precision as squared
        from {{ ref('fct_orders') }}
        where
            is_qualifying
            and customer_id not in (
                select customers.customer_id from {{ ref('dim_customers') }} as customers where customers.is_collective
            )
        group by order_date
    ) as ordered on ordered.order_date = calendar.day
    left join (
        select
            revenue_date,
            sum(amount_ht) as revenue
        from {{ ref('known_sales_lines') }}
        group by revenue_date
    ) as sold on sold.revenue_date = calendar.day
),

-- Sums up to each day: over the period, and over the 364 days (whole weeks) that end with it.
levels as (
    select
        day,
        {%- for period, length in periods %}
        {%- for measure in ('orders', 'revenue') %}
        sum({{ measure }}) over (order by day rows between {{ length - 1 }} preceding and current row)
            as {{ measure }}_{{ period }},
        {%- endfor %}
        {%- endfor %}
        sum(orders) over year_to_it as orders_year,
        sum(revenue) over year_to_it as revenue_year,
        sum(squared) over year_to_it as squared_year,
        sum(ordered_ht) over year_to_it as ordered_year,
        count(*) over year_to_it as n_days
    from sales
    window year_to_it as (order by day rows between 363 preceding and current row)
),

-- The same weeks of past years and their neighbours: holidays move by a week.
past as (
    select
        levels.*,
        round((days.until - levels.day) / 364.0) as years
    from levels
    cross join days
    where
        days.until - levels.day > 350
        and (days.until - levels.day + 7) % 364 in (0, 7, 14)
        and levels.n_days = 364
        and levels.orders_year > 0
        and levels.revenue_year > 0
),

-- What a period was of its year, laid on what the year before this period brought.
volumes as (
    {%- for period, length in periods %}
    {%- for measure in ('orders', 'revenue') %}
    select
        '{{ measure }}_{{ period }}' as measure,
        now.{{ measure }}_{{ period }} as measured,
        (now.{{ measure }}_year - now.{{ measure }}_{{ period }})
        * expectation.share / (1 - expectation.share) as expected,
        expectation.spread * now.{{ measure }}_year as spread,
        -- Chance alone: of orders that come one by one, each of its own size.
        {% if measure == 'orders' -%}
        expectation.share * now.orders_year as chance,
        {%- else -%}
        expectation.share * now.squared_year as chance,
        {%- endif %}
        {% if measure == 'orders' -%}
        now.ordered_year / nullif(now.orders_year, 0) as value_of_one,
        {%- else -%}
        1.0 as value_of_one,
        {%- endif %}
        {{ length }} as length
    from levels as now
    inner join days on days.until = now.day
    cross join (
        select
            avg({{ measure }}_{{ period }} / {{ measure }}_year) as share,
            coalesce(stddev_samp({{ measure }}_{{ period }} / {{ measure }}_year), 0) as spread,
            count(distinct years) as n_years
        from past
    ) as expectation
    where
        now.n_days = 364
        and expectation.n_years >= {{ rule_number('kpis.anomalies.volume_off.min_past_years') }}
        and expectation.share between 0 and 0.5
    {% if not loop.last %}
    union all
    {% endif %}
    {%- endfor %}
    {%- if not loop.last %}
    union all
    {% endif %}
    {%- endfor %}
),

rooms as (
    select
        volumes.*,
        days.until - volumes.length + 1 as since_date,
        greatest(
            days.volume_change * volumes.expected,
            days.volume_deviations * sqrt(volumes.spread * volumes.spread + volumes.chance)
        ) as room
    from volumes
    cross join days
),

estate as (
    select
        'VOLUME_OFF' as kind,
        'estate' as subject_type,
        'estate' as subject_id,
        'all' as population,
        measure,
        measured,
        expected,
        case when measured < expected then greatest(expected - room, 0) else expected + room end as threshold,
        abs(measured - expected) > room as is_beyond,
        (abs(measured - expected) * value_of_one)::numeric as value_at_stake_ht,
        since_date
    from rooms
),

known as (
    {%- for part in ('silences', 'order_values', 'wines', 'estate') %}
    select {{ columns }} from {{ part }}
    {%- if not loop.last %}
    union all
    {%- endif %}
    {%- endfor %}
)

select
    known.kind,
    known.subject_type,
    known.subject_id,
    known.population,
    known.measure,
    known.measured,
    known.expected,
    known.threshold,
    (known.measured / nullif(known.expected, 0) - 1)::double precision as change,
    known.is_beyond,
    round(known.value_at_stake_ht, 2) as value_at_stake_ht,
    known.since_date,
    days.until as measured_until
from known
cross join days
