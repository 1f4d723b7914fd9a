{{ config(
    meta={
        'description':
            "A customer with a qualifying order has scores 3..15 and a segment; everybody else is a prospect " ~
            "without scores. Who objects to profiling has neither scores nor an RFM segment."
    },
) }}

select customer_id
from {{ ref('customer_rfm') }}
where
    profiling_objected <> (segment = 'Not profiled')
    or (frequency > 0 and not profiling_objected) <> (segment not in ('Prospects', 'Not profiled'))
    or (frequency > 0 and not profiling_objected)
    <> (num_nulls(recency_days, r_score, f_score, m_score, rfm_score, rfm_code, method) = 0)
    or (profiling_objected and num_nonnulls(r_score, f_score, m_score, rfm_score, rfm_code, method) > 0)
    or rfm_score not between 3 and 15
