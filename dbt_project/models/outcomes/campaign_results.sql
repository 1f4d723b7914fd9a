{#- Every count but n_messages and n_orders is of distinct addresses, so that no rate can exceed 1. -#}
{%- set reactions = [
    ('delivered', 'is_delivered'), ('opened', 'is_opened'), ('machine_opened', 'is_machine_opened'),
    ('clicked', 'is_clicked'), ('bounced', 'is_bounced'), ('unsubscribed', 'is_unsubscribed'),
    ('complained', 'is_complained'), ('converted', 'is_converted'), ('ordered', 'has_ordered'),
] -%}
{%- set rates = [
    ('delivery_rate', 'delivered', 'sent'), ('bounce_rate', 'bounced', 'sent'), ('open_rate', 'opened', 'delivered'),
    ('click_rate', 'clicked', 'delivered'), ('unsubscribe_rate', 'unsubscribed', 'delivered'),
    ('complaint_rate', 'complained', 'delivered'), ('conversion_rate', 'converted', 'sent'),
    ('order_rate', 'ordered', 'sent'),
] -%}
{%- set dimensions = [
    ('all', "'all'"), ('step', 'step::text'), ('scenario', 'scenario'), ('template', "coalesce(template, 'none')"),
    ('arm', 'arm'), ('cluster', "coalesce(cluster_id, 'none')"),
] -%}
{%- set amounts = ['revenue_ht', 'margin_ht', 'recommended_revenue_ht'] -%}

with messages as (
    select
        planned.campaign,
        planned.occurrence,
        planned.step,
        planned.scenario,
        planned.template,
        planned.arm,
        planned.cluster_id,
        planned.address,
        planned.status,
        outcomes.message_id is not null as is_sent,
        {%- for _, flag in reactions %}
        coalesce(outcomes.{{ flag }}, false) as {{ flag }},
        {%- endfor %}
        {%- for amount in amounts %}
        outcomes.{{ amount }},
        {%- endfor %}
        outcomes.n_orders,
        outcomes.sent_on
    from {{ source('activation', 'messages') }} as planned
    left join {{ ref('message_outcomes') }} as outcomes on outcomes.message_id = planned.message_id
),

sides as (
    {%- for dimension, value in dimensions %}
    select
        *,
        '{{ dimension }}' as dimension,
        {{ value }} as value
    from messages
    {%- if dimension == 'arm' %}
    where arm is not null
    {%- endif %}
    {%- if not loop.last %}
    union all
    {%- endif %}
    {%- endfor %}
),

counted as (
    select
        coalesce(campaign, '*') as campaign,
        coalesce(occurrence, '*') as occurrence,
        dimension,
        value,
        count(distinct address) filter (where status <> 'holdout') as planned,
        count(distinct address) filter (where status = 'holdout') as holdout,
        count(distinct address) filter (where status = 'superseded') as held_back,
        count(distinct address) filter (where status = 'failed') as failed,
        count(distinct address) filter (where status = 'unknown') as unknown,
        count(distinct address) filter (where is_sent) as sent,
        count(*) filter (where is_sent) as n_messages,
        {%- for name, flag in reactions %}
        count(distinct address) filter (where {{ flag }}) as {{ name }},
        {%- endfor %}
        coalesce(sum(n_orders), 0)::bigint as n_orders,
        {%- for amount in amounts %}
        coalesce(sum({{ amount }}), 0) as {{ amount }},
        {%- endfor %}
        min(sent_on) as first_sent_on,
        max(sent_on) as last_sent_on
    from sides
    group by grouping sets ((campaign, occurrence, dimension, value), (campaign, dimension, value), (dimension, value))
    -- Steps of different campaigns have nothing in common but their number; arms are drawn anew for each occurrence.
    having (campaign is not null or dimension <> 'step') and (occurrence is not null or dimension <> 'arm')
),

rated as (
    select
        *,
        {%- for name, part, whole in rates %}
        {{ part }}::double precision / nullif({{ whole }}, 0) as {{ name }},
        {%- endfor %}
        last_sent_on + {{ conversion_days() }} as final_on
    from counted
),

newest_sale as (
    select max(order_date) as order_date
    from {{ ref('fct_orders') }}
    where is_qualifying
)

select
    rated.campaign,
    rated.occurrence,
    rated.dimension,
    rated.value,
    coalesce(clusters.cluster_name, rated.value) as label,
    rated.planned,
    rated.holdout,
    rated.held_back,
    rated.failed,
    rated.unknown,
    rated.sent,
    rated.n_messages,
    {%- for name, _ in reactions %}
    rated.{{ name }},
    {%- endfor %}
    rated.n_orders,
    {%- for amount in amounts %}
    rated.{{ amount }},
    {%- endfor %}
    {%- for name, _, whole in rates %}
    rated.{{ name }},
    {%- for end, sign in [('low', '-'), ('high', '+')] %}
    round(
        ({{ wilson('rated.' ~ name, 'rated.' ~ whole, sign) }})::numeric, 6
    )::double precision as {{ name }}_{{ end }},
    {%- endfor %}
    {%- endfor %}
    rated.first_sent_on,
    rated.last_sent_on,
    rated.final_on,
    coalesce(newest_sale.order_date >= rated.final_on, false) as is_final
from rated
left join {{ source('customers', 'cluster_profiles') }} as clusters
    on rated.dimension = 'cluster' and clusters.cluster_id = rated.value
cross join newest_sale
