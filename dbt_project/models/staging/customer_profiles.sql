{%- set newest = 'order by cards.position desc, cards.file_rank desc' -%}
with cards as (

    select *
    from {{ ref('stg_customers') }}
    where customer_id is not null

),

countries as (

    select {{ rule_text('tenant.country') }} as tenant_country

),

phones as (

    -- A number is read in the country of its row; the reading of that very country comes first.
    select raw_phone, country, phone
    from {{ source('staging', 'phones') }}
    where phone is not null

),

codes as (

    select
        customer_id,
        array_agg(client_code order by client_code collate "C") as client_codes,
        coalesce(
            min(client_code collate "C") filter (where matched_by = 'code'), min(client_code collate "C")
        ) as client_code
    from {{ source('curated', 'customer_xref') }}
    group by customer_id

),

survivors as (

    -- Newest non-null of each field; of a refused row only what bars counts, below and in address_refusals.
    select
        cards.customer_id,
        {% for field in ['last_name', 'first_name', 'full_name', 'email', 'address', 'postal_code', 'city', 'country',
                         'type', 'status', 'language', 'birth_date', 'email_opt_in'] -%}
        (array_agg(cards.{{ field }} {{ newest }}) filter (where cards.{{ field }} is not null))[1] as {{ field }},
        {% endfor -%}
        (array_agg(phones.phone {{ newest }}) filter (where phones.phone is not null))[1] as phone,
        (array_agg(mobiles.phone {{ newest }}) filter (where mobiles.phone is not null))[1] as mobile,
        bool_or(cards.has_email) as has_email,
        max(cards.opt_in_date) filter (where cards.email_opt_in is not false) as opt_in_date,
        (
            array_agg(cards.opt_in_source order by cards.opt_in_date desc, cards.position desc, cards.file_rank desc)
            filter (where cards.email_opt_in is not false and cards.opt_in_date is not null)
        )[1] as opt_in_source
    from cards
    cross join countries
    left join phones
        on cards.raw_phone = phones.raw_phone and coalesce(cards.country, countries.tenant_country) = phones.country
    left join phones as mobiles
        on cards.raw_mobile = mobiles.raw_phone and coalesce(cards.country, countries.tenant_country) = mobiles.country
    where cards.codes is null
    group by cards.customer_id

),

refusals as (

    select
        customer_id,
        bool_or(phone_opt_out) as phone_opt_out,
        bool_or(post_opt_out) as post_opt_out,
        bool_or(profiling_opt_out) as profiling_objected,
        bool_or(status = 'deceased') as is_deceased,
        bool_or(status = 'do_not_contact') as is_do_not_contact
    from cards
    group by customer_id

),

strangers as (

    -- Customers no customer file knows: what the newest sale that says anything says of them.
    select distinct on (members.customer_id collate "C")
        members.customer_id,
        emails.email,
        sales.raw_email is not null as has_email,
        {{ clean_text('sales.raw_postal_code') }} as postal_code,
        {{ clean_text('sales.raw_city') }} as city,
        sale_countries.country
    from {{ source('curated', 'customer_xref') }} as members
    left join survivors on members.customer_id = survivors.customer_id
    inner join {{ ref('stg_sales_lines') }} as sales on members.client_code = sales.client_code
    inner join {{ ref('stg_files') }} as files on sales.file_id = files.file_id
    left join {{ source('staging', 'emails') }} as emails on sales.raw_email = emails.raw_email
    left join {{ ref('country_texts') }} as sale_countries on sales.raw_country = sale_countries.country_text
    where survivors.customer_id is null and sales.codes is null
    order by
        members.customer_id collate "C",
        emails.email is not null desc,
        sales.sale_date desc,
        files.file_rank desc,
        sales.source_line desc

)

select
    codes.customer_id,
    codes.client_code,
    codes.client_codes,

    coalesce(survivors.type, 'private') as type,
    case
        when refusals.is_deceased then 'deceased'
        when refusals.is_do_not_contact then 'do_not_contact'
        else coalesce(survivors.status, 'active')
    end as status,

    survivors.last_name,
    survivors.first_name,
    survivors.full_name,
    string_to_array(
        {{ normalize_label("concat_ws(' ', survivors.last_name, survivors.first_name, survivors.full_name)") }}, ' '
    ) as name_words,

    coalesce(survivors.email, strangers.email) as email,
    coalesce(survivors.has_email, strangers.has_email, false) as has_email,
    coalesce(survivors.mobile, survivors.phone) as phone,
    survivors.address,
    coalesce(survivors.postal_code, strangers.postal_code) as postal_code,
    coalesce(survivors.city, strangers.city) as city,
    coalesce(survivors.country, strangers.country, countries.tenant_country) as country,
    survivors.language,
    survivors.birth_date,

    survivors.email_opt_in as opt_in,
    survivors.opt_in_date,
    survivors.opt_in_source,
    coalesce(refusals.phone_opt_out, false) as phone_opt_out,
    coalesce(refusals.post_opt_out, false) as post_opt_out,
    coalesce(refusals.profiling_objected, false) as profiling_objected,

    survivors.customer_id is null as is_inferred
from codes
cross join countries
left join survivors on codes.customer_id = survivors.customer_id
left join refusals on codes.customer_id = refusals.customer_id
left join strangers on codes.customer_id = strangers.customer_id
