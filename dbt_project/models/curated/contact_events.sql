select
    null::text as contact_id,
    null::text as address,
    null::text as customer_id,
    null::text as client_code,
    null::date as contact_date,
    null::text as channel,
    null::text as campaign_id,
    null::text as status,
    null::boolean as is_contact,
    null::boolean as is_engagement,
    null::boolean as is_bounced,
    null::boolean as is_refused,
    null::boolean as is_unknown_status,
    null::text[] as unknown_statuses,
    null::text as file_id,
    null::bigint as source_line
where false
