{{ config(
    tags=['outcomes'],
    meta={
        'dagster': {'ref': {'name': 'campaign_results'}},
        'description':
            "Of a campaign no more is sent than was planned, no rate lies outside 0..1 and each lies in its interval."
    },
) }}

select campaign, occurrence, dimension, value
from {{ ref('campaign_results') }}
where
    sent > planned
    {%- for rate in ('delivery', 'bounce', 'open', 'click', 'unsubscribe', 'complaint', 'conversion', 'order') %}
    or {{ rate }}_rate not between 0 and 1
    or {{ rate }}_rate not between {{ rate }}_rate_low - 0.000001 and {{ rate }}_rate_high + 0.000001
    {%- endfor %}
