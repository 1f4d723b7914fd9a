{{ config(
    tags=['outcomes'],
    meta={
        'dagster': {'ref': {'name': 'campaign_results'}},
        'description':
            "Of a campaign no more is sent than was planned, and no rate lies outside 0..1."
    },
) }}

select campaign, occurrence, scenario
from {{ ref('campaign_results') }}
where
    sent > planned
    {%- for rate in ('delivery', 'bounce', 'open', 'click', 'unsubscribe', 'complaint', 'conversion', 'order') %}
    or {{ rate }}_rate not between 0 and 1
    {%- endfor %}
