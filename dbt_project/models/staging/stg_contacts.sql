with source as (

    select
        contacts.*,
        files.file_rank,
        files.date_order,
        files.is_spreadsheet,
        files.year_pivot,
        coalesce(mended.file_date, mended.modified_on, files.file_date, files.modified_on) as file_date,
        {{ row_position('contacts', 'files') }} as position
    from {{ source('raw', 'contacts') }} as contacts
    inner join {{ ref('stg_files') }} as files on contacts.file_id = files.file_id
    left join {{ mended_file('contacts', 'files') }}

),

statuses as (

    select {{ normalize_label('key') }} as label, value as status
    from jsonb_each_text({{ rule_json('contacts.statuses') }})

),

cleaned as (

    select
        file_id,
        file_rank,
        source_line,
        position,
        file_date,
        date_order,
        is_spreadsheet,
        year_pivot,
        problems,
        email as raw_email,
        {{ client_code('client_code') }} as client_code,
        {{ clean_text('email') }} as email_text,
        {{ date_text('contact_date') }} as contact_date,
        lower({{ normalize_label('channel') }}) as channel,
        coalesce({{ normalize_label('status') }}, '') as status_label,
        coalesce({{ clean_text('campaign_id') }}, '') as campaign_id
    from source
    limit all

),

typed as (

    select
        cleaned.*,
        {{ parse_date(
            'cleaned.contact_date', 'cleaned.date_order', 'cleaned.is_spreadsheet', 'cleaned.year_pivot'
        ) }} as contact_day
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
        emails.email,
        case
            when coalesce(typed.channel, '') in ('', 'email', 'e mail', 'mail', 'courriel', 'mailing', 'emailing')
                then 'email'
            when typed.channel in ('telephone', 'tel', 'phone', 'appel') then 'phone'
            when typed.channel in ('courrier', 'poste', 'postal', 'post', 'letter') then 'post'
            else typed.channel
        end as channel,
        typed.campaign_id,
        typed.status_label,
        coalesce(statuses.status, 'unknown') as status,

        typed.contact_day as contact_date,

        case
            when typed.problems <> '{}' then typed.problems
            when
                (typed.client_code is null and emails.email is null)
                or {{ is_invalid_code('typed.client_code') }}
                or typed.contact_day is null
                then array_remove(array[
                    case when typed.client_code is null and typed.email_text is null then 'MISSING_CLIENT' end,
                    case when typed.contact_date is null then 'MISSING_DATE' end,
                    case when typed.contact_day is null and typed.contact_date is not null then 'INVALID_DATE' end,
                    case
                        when
                            {{ is_invalid_code('typed.client_code') }}
                            or (typed.client_code is null and typed.email_text is not null and emails.email is null)
                            then 'INVALID_KEY'
                    end
                ], null)
        end as codes
    from typed
    left join {{ source('staging', 'emails') }} as emails on typed.raw_email = emails.raw_email
    left join statuses on typed.status_label = statuses.label

)

select * from renamed
