{{ spans_of(ref('customer_rfm_history')) }},

ways as (
    select
        coalesce(after.span, before.span) as span,
        coalesce(after.population, before.population) as population,
        coalesce(after.from_date, before.from_date) as from_date,
        coalesce(after.to_date, before.to_date) as to_date,
        coalesce(before.segment, 'New') as from_segment,
        coalesce(after.segment, 'Gone') as to_segment,
        count(*) as customers
    from before
    full join after on after.span = before.span and after.customer_id = before.customer_id
    group by
        coalesce(after.span, before.span),
        coalesce(after.population, before.population),
        coalesce(after.from_date, before.from_date),
        coalesce(after.to_date, before.to_date),
        before.segment,
        after.segment
)

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
