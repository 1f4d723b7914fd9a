{{ config(
    meta={
        'dagster': {'ref': {'name': 'customer_rfm_history'}},
        'description':
            "The history of the as-of date is the state of that day, customer by customer."
    },
) }}

-- The unique index on (as_of, customer_id) keeps one row per customer and day; the day's rows are the state's.
select coalesce(state.customer_id, history.customer_id) as customer_id
from {{ ref('customer_rfm') }} as state
full join (select * from {{ ref('customer_rfm_history') }} where as_of = {{ as_of() }}) as history
    on history.customer_id = state.customer_id
where
    (state.recency_days, state.frequency, state.monetary, state.rfm_code, state.segment)
    is distinct from
    (history.recency_days, history.frequency, history.monetary, history.rfm_code, history.segment)
