select
    null::text as address,
    null::text as contact_customer_id,
    null::bigint as n_customers,
    null::boolean as is_refused,
    null::boolean as is_bounced,
    null::date as last_contact_date,
    null::bigint as contacts_90d,
    null::date as last_engagement_date
where false
