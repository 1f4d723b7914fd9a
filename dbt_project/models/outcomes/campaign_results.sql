{#- Every count is of distinct addresses, so that no rate can exceed 1. -#}
{%- set reactions = [
    ('delivered', 'is_delivered'), ('opened', 'is_opened'), ('clicked', 'is_clicked'), ('bounced', 'is_bounced'),
    ('unsubscribed', 'is_unsubscribed'), ('complained', 'is_complained'), ('converted', 'is_converted'),
    ('ordered', 'has_ordered'),
] -%}
{%- set rates = [
    ('delivery_rate', 'delivered', 'sent'), ('bounce_rate', 'bounced', 'sent'), ('open_rate', 'opened', 'delivered'),
    ('click_rate', 'clicked', 'delivered'), ('unsubscribe_rate', 'unsubscribed', 'delivered'),
    ('complaint_rate', 'complained', 'delivered'), ('conversion_rate', 'converted', 'sent'),
    ('order_rate', 'ordered', 'sent'),
] -%}

with planned as (
    select
        campaign,
        occurrence,
        scenario,
        count(distinct address) filter (where status not in ('holdout', 'superseded')) as planned,
        count(distinct address) filter (where status = 'holdout') as holdout
    from {{ source('activation', 'messages') }}
    group by campaign, occurrence, scenario
),

results as (
    select
        campaign,
        occurrence,
        scenario,
        count(distinct address) as sent,
        {%- for name, flag in reactions %}
        count(distinct address) filter (where {{ flag }}) as {{ name }},
        {%- endfor %}
        sum(n_orders)::bigint as n_orders,
        sum(revenue_ht) as revenue_ht,
        sum(margin_ht) as margin_ht,
        sum(recommended_revenue_ht) as recommended_revenue_ht,
        max(sent_on) as last_sent_on
    from {{ ref('message_outcomes') }}
    group by campaign, occurrence, scenario
),

newest_sale as (
    select max(order_date) as order_date
    from {{ ref('fct_orders') }}
    where is_qualifying
)

select
    planned.campaign,
    planned.occurrence,
    planned.scenario,
    planned.planned,
    planned.holdout,
    coalesce(results.sent, 0) as sent,
    {%- for name, _ in reactions %}
    coalesce(results.{{ name }}, 0) as {{ name }},
    {%- endfor %}
    coalesce(results.n_orders, 0) as n_orders,
    coalesce(results.revenue_ht, 0) as revenue_ht,
    coalesce(results.margin_ht, 0) as margin_ht,
    coalesce(results.recommended_revenue_ht, 0) as recommended_revenue_ht,
    {%- for name, part, whole in rates %}
    results.{{ part }}::double precision / nullif(results.{{ whole }}, 0) as {{ name }},
    {%- endfor %}
    results.last_sent_on,
    coalesce(
        newest_sale.order_date >= results.last_sent_on + {{ rule_number('activation.conversion_days') }}::integer, false
    ) as is_final
from planned
left join results
    on
        results.campaign = planned.campaign
        and results.occurrence = planned.occurrence
        and results.scenario = planned.scenario
cross join newest_sale
