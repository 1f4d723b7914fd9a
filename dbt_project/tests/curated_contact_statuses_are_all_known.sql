{{ config(
    severity='warn',
    meta={
        'description':
            "Each contact status maps to contact, engagement, bounced or refused (spec.md §6). An unknown one is " ~
            "counted as a contact: map it under `rules: contacts: statuses:` in the estate's file."
    },
) }}

select
    unknown.status,
    count(*) as contacts
from {{ ref('contact_events') }} as events
cross join lateral unnest(events.unknown_statuses) as unknown (status)
where events.is_unknown_status
group by unknown.status
