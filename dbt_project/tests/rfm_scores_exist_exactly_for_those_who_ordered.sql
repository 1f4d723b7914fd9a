{{ config(
    meta={
        'description':
            "A customer with a qualifying order has scores 3..15 and a segment; everybody else is a prospect " ~
            "without scores."
    },
) }}

select customer_id
from {{ ref('customer_rfm') }}
where
    (frequency > 0) <> (segment <> 'Prospects')
    or (frequency > 0) <> (num_nulls(recency_days, r_score, f_score, m_score, rfm_score, rfm_code, method) = 0)
    or rfm_score not between 3 and 15
