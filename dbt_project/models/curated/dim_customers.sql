with activity as (

    select
        customer_id,
        min(order_date) filter (where is_qualifying) as first_order_date,
        max(order_date) filter (where is_qualifying) as last_order_date,
        count(*) filter (where is_qualifying) as n_qualifying_orders,
        count(*) filter (where is_counted) as n_documents
    from {{ ref('fct_orders') }}
    group by customer_id

),

volume as (

    select coalesce(sum(n_documents), 0) as n_documents from activity

),

own_refusals as (

    -- A person who refused without leaving an address has refused all the same.
    select
        cards.customer_id,
        coalesce(
            max(cards.file_date) filter (where cards.email_opt_out)
            >= coalesce(
                max(cards.opt_in_date) filter (
                    where
                    cards.email_opt_in and cards.opt_in_source is not null and not cards.email_opt_out
                    and cards.codes is null and cards.opt_in_date <= {{ as_of() }}
                ),
                date '-infinity'
            ),
            false
        ) as is_refused
    from {{ ref('stg_customers') }} as cards
    where cards.customer_id is not null
    group by cards.customer_id

),

excluded as (

    -- COMPTOIR, CLIENTS DIVERS, VENTE CAVEAU 2: the word alone or with what tills add, never RESTAURANT LE CAVEAU.
    select
        '^(?:(?:CLIENT|VENTE|COMPTE)S? )?(?:(?:DE|DU|AU|LE|LA) )?(?:'
        || string_agg({{ normalize_label('value') }}, '|')
        || ')S?(?: (?:CLIENT|VENTE)S?)?(?: ?[0-9]+)?$' as pattern
    from jsonb_array_elements_text({{ rule_json('customers.exclude_customers') }})

),

own_addresses as (

    select lower(btrim(value)) as address
    from jsonb_array_elements_text({{ rule_json('tenant.own_addresses') }})

),

judged as (

    select
        profiles.*,
        activity.first_order_date,
        activity.last_order_date,
        coalesce(activity.n_qualifying_orders, 0) as n_qualifying_orders,
        case
            when
                {{ normalize_label('profiles.client_code') }} ~ excluded.pattern
                or {{ normalize_label("concat_ws(' ', profiles.full_name, profiles.last_name, profiles.first_name)") }}
                ~ excluded.pattern
                then 'excluded_code'
            when profiles.email in (select own_addresses.address from own_addresses) then 'own_address'
            when
                profiles.email is null and profiles.address is null
                and volume.n_documents >= {{ rule_number('customers.collective_min_orders') }}
                and activity.n_documents > {{ rule_number('customers.collective_order_share') }} * volume.n_documents
                then 'order_share'
        end as collective_reason
    from {{ ref('customer_profiles') }} as profiles
    cross join volume
    cross join excluded
    left join activity on profiles.customer_id = activity.customer_id
    limit all

)

select
    judged.customer_id,
    judged.client_code,
    judged.client_codes,
    judged.type,
    case
        when judged.collective_reason is not null then 'other'
        when judged.type = 'private' then 'private'
        when {{ rule_json('customers.professional_types') }} ? judged.type then 'professional'
        else 'other'
    end as population,
    judged.status,
    judged.last_name,
    judged.first_name,
    judged.full_name,
    judged.email,
    case
        when judged.email is not null then 'valid'
        when judged.has_email then 'invalid'
        else 'missing'
    end as email_status,
    judged.opt_in,
    judged.opt_in_date,
    judged.opt_in_source,
    coalesce(address_refusals.is_refused, false) or coalesce(own_refusals.is_refused, false) as opted_out,
    judged.phone_opt_out,
    judged.post_opt_out,
    judged.profiling_objected,
    -- People before tills that have an address, then the most recent buyer.
    judged.email is not null
    and row_number() over (
        partition by judged.email
        order by
            judged.collective_reason is not null, judged.last_order_date desc nulls last, judged.customer_id collate "C"
    ) = 1 as is_email_contact,
    judged.phone,
    judged.address,
    judged.postal_code,
    judged.city,
    judged.country,
    judged.language,
    judged.birth_date,
    judged.first_order_date,
    judged.last_order_date,
    judged.n_qualifying_orders,
    judged.collective_reason is not null as is_collective,
    judged.collective_reason,
    judged.is_inferred
from judged
left join {{ ref('address_refusals') }} as address_refusals on judged.email = address_refusals.address
left join own_refusals on judged.customer_id = own_refusals.customer_id
