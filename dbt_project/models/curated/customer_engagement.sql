-- What an address did is said of every customer who has it. That somebody opened or clicked may be looked at only where
-- the address has consented to tracking; that a message bounced or was refused is no tracking.
with dated as (
    select
        lower(address) as address,
        event,
        coalesce(is_machine, false) as is_machine,
        {{ as_of() }} - {{ local_day('occurred_at') }} as age
    from {{ source('outcomes', 'events') }}
),

recent as (
    select
        address,
        event,
        is_machine
    from dated
    where age >= 0 and age < {{ rule_number('predictions.engagement_days') }}
),

by_address as (
    select
        recent.address,
        bool_or(
            recent.event = 'opened' and not recent.is_machine and coalesce(contacts.tracking_consent, false)
        ) as is_opened,
        bool_or(
            recent.event = 'clicked' and not recent.is_machine and coalesce(contacts.tracking_consent, false)
        ) as is_clicked,
        bool_or(recent.event in ('hard_bounce', 'blocked', 'invalid')) as is_bounced,
        bool_or(recent.event in ('unsubscribed', 'spam')) as is_unsubscribed
    from recent
    left join {{ source('activation', 'contacts') }} as contacts on lower(contacts.address) = recent.address
    group by recent.address
)

select
    customers.customer_id,
    by_address.is_opened as opened,
    by_address.is_clicked as clicked,
    by_address.is_bounced as bounced,
    by_address.is_unsubscribed as unsubscribed
from {{ ref('dim_customers') }} as customers
inner join by_address on by_address.address = customers.email
where by_address.is_opened or by_address.is_clicked or by_address.is_bounced or by_address.is_unsubscribed
