with cards as (

    -- A row without a client code names nobody whom we know, but an address that says no.
    select cards.*, profiles.email as current_email
    from {{ ref('stg_customers') }} as cards
    left join {{ ref('customer_profiles') }} as profiles on cards.customer_id = profiles.customer_id

),

statements as (

    -- A refusal holds for the address it was written beside, and for the one its person has now.
    select
        unnest(array[cards.email, cards.current_email]) as address,
        case when cards.email_opt_out then cards.file_date end as refused_on,
        -- An opt-in of a day to come is none yet; one in a refused row is not believed.
        case
            when
                cards.email_opt_in and cards.opt_in_source is not null and not cards.email_opt_out
                and cards.codes is null and cards.opt_in_date <= {{ as_of() }}
                then cards.opt_in_date
        end as opted_in_on,
        false as is_refused_at_brevo
    from cards

    union all

    -- Whoever says STOP on one channel is left alone on this one too.
    select
        unnest(array[events.address, profiles.email]) as address,
        events.contact_date as refused_on,
        null as opted_in_on,
        false as is_refused_at_brevo
    from {{ ref('contact_events') }} as events
    left join {{ ref('customer_profiles') }} as profiles on events.customer_id = profiles.customer_id
    where events.is_refused

    union all

    -- A row that cannot be taken, for want of a date say, still says no: on the day of its file.
    select
        unnest(array[contacts.email, profiles.email]) as address,
        coalesce(contacts.contact_date, contacts.file_date) as refused_on,
        null as opted_in_on,
        false as is_refused_at_brevo
    from {{ ref('stg_contacts') }} as contacts
    left join {{ source('curated', 'customer_xref') }} as xref on contacts.client_code = xref.client_code
    left join {{ ref('customer_profiles') }} as profiles on xref.customer_id = profiles.customer_id
    where contacts.codes is not null and contacts.status = 'refused'

    union all

    select
        lower(address) as address,
        (occurred_at at time zone 'UTC')::date as refused_on,
        null as opted_in_on,
        false as is_refused_at_brevo
    from {{ source('outcomes', 'events') }}
    where event in ('unsubscribed', 'unsubscribe')

    union all

    -- What Brevo still says holds; what it says no more is a refusal of its day, and without a day it holds too.
    select
        lower(address) as address,
        (refused_at at time zone 'UTC')::date as refused_on,
        null as opted_in_on,
        coalesce(is_unsubscribed_now, is_unsubscribed) or coalesce(is_blocked_now, is_blocked)
        or refused_at is null as is_refused_at_brevo
    from {{ source('activation', 'contacts') }}
    where is_unsubscribed or is_blocked

)

select
    address,
    max(refused_on) as refused_on,
    max(opted_in_on) as opted_in_on,
    bool_or(is_refused_at_brevo) as is_refused_at_brevo,
    bool_or(is_refused_at_brevo)
    or coalesce(max(refused_on) >= coalesce(max(opted_in_on), date '-infinity'), false) as is_refused
from statements
where address is not null
group by address
