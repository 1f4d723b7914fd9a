{{ config(tags=['outcomes'], meta={'dagster': {'ref': {'name': 'campaign_results'}}}) }}

select campaign, occurrence, scenario
from {{ ref('campaign_results') }}
where
    sent > planned
    {%- for rate in ('delivery', 'bounce', 'open', 'click', 'unsubscribe', 'complaint', 'conversion', 'order') %}
    or {{ rate }}_rate not between 0 and 1
    {%- endfor %}
