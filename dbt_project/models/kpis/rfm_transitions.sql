{{ spans_of(ref('customer_rfm_history')) }},

{{ ways_of('segment') }}

select
    span,
    population,
    from_date,
    to_date,
    from_segment,
    to_segment,
    customers,
    customers::double precision / sum(customers) over (partition by span, population, from_segment) as share
from ways
