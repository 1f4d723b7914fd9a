{{ config(severity='warn') }}

select
    unknown.status,
    count(*) as contacts
from {{ ref('contact_events') }} as events
cross join lateral unnest(events.unknown_statuses) as unknown (status)
where events.is_unknown_status
group by unknown.status
