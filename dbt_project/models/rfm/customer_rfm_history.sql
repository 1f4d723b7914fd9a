{#- Keyed by day: the day's rows are replaced as a whole, so that a customer merged away since leaves no ghost.
    The history is evidence: it is never rebuilt from nothing, and a run for an earlier day writes it too. -#}
{{
    config(
        materialized='incremental',
        incremental_strategy='delete+insert',
        unique_key='as_of',
        on_schema_change='append_new_columns',
        full_refresh=false,
        indexes=[{'columns': ['as_of', 'customer_id'], 'unique': true}],
        meta={'keeps_history': true},
    )
}}

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
    rfm_score,
    rfm_code,
    segment,
    method
from {{ ref('customer_rfm') }}
