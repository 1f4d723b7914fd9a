-- Rules about the address (spec.md §6, rules 4 to 7) read the address, not the customer: joined here once.
select
    customers.customer_id,
    customers.client_code,
    customers.population,
    customers.type,
    customers.status,
    customers.is_collective,
    customers.opt_in,
    customers.opt_in_date,
    customers.opt_in_source,
    customers.n_qualifying_orders,
    customers.email,
    customers.email_status,
    coalesce(customers.is_email_contact, false) as is_email_contact,
    coalesce(customers.opted_out, false) or coalesce(addresses.is_refused, false) as is_refused,
    coalesce(addresses.is_bounced, false) as is_bounced,
    addresses.last_contact_date,
    coalesce(addresses.contacts_90d, 0)::bigint as contacts_90d,
    customers.last_order_date,
    addresses.last_engagement_date,
    customers.birth_date,
    customers.country,
    customers.postal_code,
    customers.language,
    preferences.price_75cl_ttc,
    preferences.top_sweetness_1 as dominant_sweetness
from {{ ref('dim_customers') }} as customers
left join {{ ref('addresses') }} as addresses on addresses.address = customers.email
left join {{ ref('customer_preferences') }} as preferences on preferences.customer_id = customers.customer_id
