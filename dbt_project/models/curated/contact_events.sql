with owners as (

    select email, min(customer_id collate "C") as customer_id
    from {{ ref('customer_profiles') }}
    where email is not null
    group by email

),

told as (

    select
        contacts.*,
        coalesce(xref.customer_id, owners.customer_id) as customer_id,
        coalesce(contacts.email, profiles.email) as address,
        case contacts.status
            when 'refused' then 5
            when 'bounced' then 4
            when 'engagement' then 3
            when 'contact' then 2
            else 1
        end as strength
    from {{ ref('stg_contacts') }} as contacts
    left join {{ source('curated', 'customer_xref') }} as xref on contacts.client_code = xref.client_code
    left join {{ ref('customer_profiles') }} as profiles on xref.customer_id = profiles.customer_id
    left join owners on contacts.email = owners.email
    where contacts.codes is null

)

select
    md5(concat_ws('|', coalesce(address, 'code ' || client_code), contact_date, channel, campaign_id)) as contact_id,
    address,
    (array_agg(customer_id order by customer_id is null, position desc, file_rank desc))[1] as customer_id,
    (array_agg(client_code order by client_code is null, position desc, file_rank desc))[1] as client_code,
    contact_date,
    channel,
    campaign_id,
    (array_agg(status order by strength desc))[1] as status,
    bool_or(status <> 'unknown') as is_contact,
    bool_or(status = 'engagement') as is_engagement,
    bool_or(status = 'engagement' and status_label !~ '^(OUVERT|OPEN)') as is_response,
    bool_or(status = 'bounced') as is_bounced,
    bool_or(status = 'refused') as is_refused,
    bool_or(status = 'unknown') as is_unknown_status,
    array_agg(distinct status_label) filter (where status = 'unknown') as unknown_statuses,
    (array_agg(file_id order by position desc, file_rank desc))[1] as file_id,
    (array_agg(source_line order by position desc, file_rank desc))[1] as source_line
from told
group by address, coalesce(address, 'code ' || client_code), contact_date, channel, campaign_id
