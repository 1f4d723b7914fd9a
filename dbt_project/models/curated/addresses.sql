with contacts as (

    select address, contact_date, channel, campaign_id
    from {{ ref('contact_events') }}
    where is_contact and address is not null

    union

    -- A message under way or of unknown fate may have been read: it silences the address like a sent one.
    select
        lower(address) as address,
        (coalesce(sent_at, planned_at) at time zone 'UTC')::date as contact_date,
        'email' as channel,
        campaign as campaign_id
    from {{ source('activation', 'messages') }}
    where status in ('sending', 'sent', 'unknown')

    union

    -- Campaigns sent from Brevo's own screens; of ours the outbox tells, and tests are no contacts. One message is one
    -- contact, of the day it was heard of first, though it arrives after midnight; without a message to go by, each day
    -- is a contact of its own (spec.md §6): a newsletter repeats under one name, or has none.
    select
        lower(events.address) as address,
        (min(events.occurred_at) at time zone 'UTC')::date as contact_date,
        events.channel,
        coalesce(max(events.campaign), max(events.tag), '') as campaign_id
    from {{ source('outcomes', 'events') }} as events
    where
        events.event in ('requests', 'request', 'sent', 'delivered')
        and events.occurrence is distinct from 'test'
        and not exists (
            select 1
            from {{ source('activation', 'messages') }} as messages
            where
                lower(messages.address) = lower(events.address)
                and messages.campaign = events.campaign
                and (events.occurrence is null or events.occurrence = messages.occurrence)
                and (events.step is null or events.step = messages.step)
                and messages.status in ('sending', 'sent', 'unknown')
        )
    group by
        lower(events.address),
        events.channel,
        coalesce(
            events.message_ref,
            concat_ws('|', (events.occurred_at at time zone 'UTC')::date, coalesce(events.campaign, events.tag))
        )

),

contacted as (

    select
        address,
        max(contact_date) as last_contact_date,
        count(*) filter (
            where {{ as_of() }} - contact_date < {{ rule_number('audit.fatigue_days') }}
        ) as contacts_90d
    from contacts
    group by address

),

reactions as (

    -- A letter that came back says nothing of the e-mail address.
    select address, contact_date as happened_on, is_bounced and channel = 'email' as is_bounced, is_response
    from {{ ref('contact_events') }}
    where address is not null and (is_bounced or is_response)

    union all

    select
        lower(address) as address,
        (occurred_at at time zone 'UTC')::date as happened_on,
        event in (
            'hard_bounce', 'hardBounces', 'blocked', 'invalid', 'invalid_email', 'spam', 'complaint'
        ) as is_bounced,
        event in ('click', 'clicked', 'reply', 'replied') and not coalesce(is_machine, false) as is_response
    from {{ source('outcomes', 'events') }}

    union all

    -- Of the blocked the log may not reach back to why.
    select
        lower(address) as address,
        (refused_at at time zone 'UTC')::date as happened_on,
        true as is_bounced,
        false as is_response
    from {{ source('activation', 'contacts') }}
    where blocked_reason in ('hardBounce', 'contactFlaggedAsSpam')

),

reacted as (

    select
        address,
        bool_or(is_bounced) as is_bounced,
        max(happened_on) filter (where is_response) as last_engagement_date
    from reactions
    group by address

),

owners as (

    select
        email as address,
        min(customer_id) filter (where is_email_contact) as contact_customer_id,
        count(*) as n_customers,
        bool_or(opted_out) as is_refused
    from {{ ref('dim_customers') }}
    where email is not null
    group by email

),

known as (

    select address from owners
    union
    select address from contacted
    union
    select address from reacted
    union
    select address from {{ ref('address_refusals') }}

)

select
    known.address,
    owners.contact_customer_id,
    coalesce(owners.n_customers, 0) as n_customers,
    coalesce(refusals.is_refused, false) or coalesce(owners.is_refused, false) as is_refused,
    coalesce(reacted.is_bounced, false) as is_bounced,
    contacted.last_contact_date,
    coalesce(contacted.contacts_90d, 0) as contacts_90d,
    reacted.last_engagement_date
from known
left join owners on known.address = owners.address
left join contacted on known.address = contacted.address
left join reacted on known.address = reacted.address
left join {{ ref('address_refusals') }} as refusals on known.address = refusals.address
