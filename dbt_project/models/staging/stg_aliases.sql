with source as (

    select aliases.*, files.file_rank, {{ row_position('aliases', 'files') }} as position
    from {{ source('raw', 'aliases') }} as aliases
    inner join {{ ref('stg_files') }} as files on aliases.file_id = files.file_id
    left join {{ mended_file('aliases', 'files') }}

),

cleaned as (

    select
        file_id,
        file_rank,
        source_line,
        position,
        problems,
        coalesce({{ normalize_label('label') }}, '') as label,
        {{ client_code('product_key') }} as product_key
    from source
    limit all

),

renamed as (

    select
        file_id,
        file_rank,
        source_line,
        position,

        label,
        product_key,

        case
            when problems <> '{}' then problems
            when label = '' or product_key is null or {{ is_invalid_code('product_key') }}
                then array_remove(array[
                    case when label = '' or product_key is null then 'MISSING_PRODUCT' end,
                    case when {{ is_invalid_code('product_key') }} then 'INVALID_KEY' end
                ], null)
        end as codes
    from cleaned

)

select * from renamed
