{{ config(
    tags=['outcomes'],
    meta={
        'dagster': {'ref': {'name': 'campaign_results'}},
        'description':
            "Messages, orders and amounts by step, scenario, template and cluster add up to those of all; so do all " ~
            "occurrences and all campaigns."
    },
) }}

with parts as (
    select
        campaign, occurrence, dimension, n_messages, n_orders, revenue_ht,
        margin_ht, recommended_revenue_ht
    from {{ ref('campaign_results') }}
    where dimension not in ('all', 'arm')
    union all
    select
        campaign, '*' as occurrence, 'occurrences' as dimension, n_messages, n_orders, revenue_ht,
        margin_ht, recommended_revenue_ht
    from {{ ref('campaign_results') }}
    where dimension = 'all' and occurrence <> '*'
    union all
    select
        '*' as campaign, '*' as occurrence, 'campaigns' as dimension, n_messages, n_orders, revenue_ht,
        margin_ht, recommended_revenue_ht
    from {{ ref('campaign_results') }}
    where dimension = 'all' and occurrence = '*' and campaign <> '*'
),

summed as (
    select
        campaign,
        occurrence,
        dimension,
        sum(n_messages) as n_messages,
        sum(n_orders) as n_orders,
        sum(revenue_ht) as revenue_ht,
        sum(margin_ht) as margin_ht,
        sum(recommended_revenue_ht) as recommended_revenue_ht
    from parts
    group by campaign, occurrence, dimension
)

select summed.campaign, summed.occurrence, summed.dimension
from summed
inner join {{ ref('campaign_results') }} as whole
    on whole.campaign = summed.campaign and whole.occurrence = summed.occurrence and whole.dimension = 'all'
where
    summed.n_messages <> whole.n_messages
    or summed.n_orders <> whole.n_orders
    or summed.revenue_ht <> whole.revenue_ht
    or summed.margin_ht <> whole.margin_ht
    or summed.recommended_revenue_ht <> whole.recommended_revenue_ht
