with source as (

    select
        customers.*,
        files.file_rank,
        files.date_order,
        files.is_spreadsheet,
        files.year_pivot,
        coalesce(mended.file_date, mended.modified_on, files.file_date, files.modified_on) as file_date,
        {{ row_position('customers', 'files') }} as position
    from {{ source('raw', 'customers') }} as customers
    inner join {{ ref('stg_files') }} as files on customers.file_id = files.file_id
    left join {{ mended_file('customers', 'files') }}

),

types as (

    select
        types.type_text,
        coalesce({{ first_pattern('types.label', 'customers.types', 'type') }}, 'private') as type
    from (
        select distinct type as type_text, {{ normalize_label('type') }} as label
        from {{ source('raw', 'customers') }}
    ) as types
    where types.label <> ''

),

statuses as (

    select
        statuses.status_text,
        coalesce({{ first_pattern('statuses.label', 'customers.statuses', 'status') }}, 'active') as status
    from (
        select distinct status as status_text, {{ normalize_label('status') }} as label
        from {{ source('raw', 'customers') }}
    ) as statuses
    where statuses.label <> ''

),

cleaned as (

    select
        source.file_id,
        source.file_rank,
        source.source_line,
        source.position,
        source.file_date,
        source.date_order,
        source.is_spreadsheet,
        source.year_pivot,
        source.problems,
        source.type as raw_type,
        source.status as raw_status,
        source.country as raw_country,
        source.email as raw_email,
        source.phone as raw_phone,
        source.mobile as raw_mobile,
        {{ client_code('source.client_code') }} as client_code,
        {% for field in ['last_name', 'first_name', 'full_name', 'address', 'postal_code', 'city', 'email_opt_in',
                         'opt_in_source', 'email_opt_out', 'phone_opt_out', 'post_opt_out', 'profiling_opt_out'] -%}
        {{ clean_text('source.' ~ field) }} as {{ field }},
        {% endfor -%}
        {{ date_text('source.opt_in_date') }} as opt_in_date,
        {{ date_text('source.birth_date') }} as birth_date,
        lower({{ clean_text('source.language') }}) as language
    from source
    limit all

),

typed as (

    select
        cleaned.*,
        {{ parse_date(
            'cleaned.opt_in_date', 'cleaned.date_order', 'cleaned.is_spreadsheet', 'cleaned.year_pivot'
        ) }} as opt_in_day,
        {{ parse_date(
            'cleaned.birth_date', 'cleaned.date_order', 'cleaned.is_spreadsheet', 'cleaned.year_pivot'
        ) }} as birth_day
    from cleaned
    limit all

),

renamed as (

    select
        typed.file_id,
        typed.file_rank,
        typed.source_line,
        typed.position,
        typed.file_date,

        typed.client_code,
        customers.customer_id,
        typed.last_name,
        typed.first_name,
        typed.full_name,

        emails.email,
        nullif(btrim(typed.raw_email), '') is not null as has_email,
        typed.raw_phone,
        typed.raw_mobile,
        typed.address,
        typed.postal_code,
        typed.city,
        countries.country,

        types.type,
        statuses.status,
        case
            when typed.language ~ '^fr' then 'fr'
            when typed.language ~ '^(de|al|ger)' then 'de'
            when typed.language ~ '^(en|an|br)' then 'en'
            when typed.language ~ '^[a-z]{2}$' then typed.language
        end as language,

        {{ parse_bool('typed.email_opt_in') }} as email_opt_in,
        typed.opt_in_day as opt_in_date,
        typed.opt_in_source,
        -- Whatever is written in a refusal column, short of a clear no, is a refusal.
        {% for field in ['email_opt_out', 'phone_opt_out', 'post_opt_out', 'profiling_opt_out'] -%}
        typed.{{ field }} is not null and coalesce({{ parse_bool('typed.' ~ field) }}, true) as {{ field }},
        {% endfor -%}
        -- A two-digit birth year is never in the future.
        case
            when typed.birth_day > {{ as_of() }} and typed.birth_date !~ '[0-9]{4}'
                then (typed.birth_day - interval '100 years')::date
            else typed.birth_day
        end as birth_date,

        case
            when typed.problems <> '{}' then typed.problems
            when
                typed.client_code is null or {{ is_invalid_code('typed.client_code') }}
                or (typed.opt_in_day is null and typed.opt_in_date is not null)
                or (typed.birth_day is null and typed.birth_date is not null)
                then array_remove(array[
                    case when typed.client_code is null then 'MISSING_CLIENT' end,
                    case
                        when
                            (typed.opt_in_day is null and typed.opt_in_date is not null)
                            or (typed.birth_day is null and typed.birth_date is not null)
                            then 'INVALID_DATE'
                    end,
                    case when {{ is_invalid_code('typed.client_code') }} then 'INVALID_KEY' end
                ], null)
            -- Whatever the identities do not know is refused rather than lost in a join.
            when customers.customer_id is null then array['INVALID_KEY']
        end as codes
    from typed
    left join {{ source('curated', 'customer_xref') }} as customers on typed.client_code = customers.client_code
    left join {{ source('staging', 'emails') }} as emails on typed.raw_email = emails.raw_email
    left join {{ ref('country_texts') }} as countries on typed.raw_country = countries.country_text
    left join types on typed.raw_type = types.type_text
    left join statuses on typed.raw_status = statuses.status_text

)

select * from renamed
