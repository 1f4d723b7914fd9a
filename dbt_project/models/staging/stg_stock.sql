with source as (

    select
        stock.*,
        files.file_rank,
        files.decimal_separator,
        files.date_order,
        files.is_spreadsheet,
        files.year_pivot,
        -- What a mended row does not say is what the file it was refused in said.
        coalesce(mended.file_date, files.file_date) as file_date,
        {{ row_position('stock', 'files') }} as position
    from {{ source('raw', 'stock') }} as stock
    inner join {{ ref('stg_files') }} as files on stock.file_id = files.file_id
    left join {{ mended_file('stock', 'files') }}

),

cleaned as (

    select
        file_id,
        file_rank,
        source_line,
        position,
        decimal_separator,
        date_order,
        is_spreadsheet,
        year_pivot,
        file_date,
        problems,
        {{ client_code('product_key') }} as product_key,
        {{ clean_text('warehouse') }} as warehouse,
        {{ number_text('quantity') }} as quantity,
        {{ number_text('reserved') }} as reserved,
        {{ date_text('as_of') }} as stock_date
    from source
    limit all

),

typed as (

    select
        cleaned.*,
        {{ parse_number('cleaned.quantity', 'cleaned.decimal_separator') }} as quantity_number,
        {{ parse_number('cleaned.reserved', 'cleaned.decimal_separator') }} as reserved_number,
        {{ parse_date(
            'cleaned.stock_date', 'cleaned.date_order', 'cleaned.is_spreadsheet', 'cleaned.year_pivot'
        ) }} as stock_day
    from cleaned
    limit all

),

renamed as (

    select
        typed.file_id,
        typed.file_rank,
        typed.source_line,
        typed.position,

        typed.product_key,
        coalesce(typed.warehouse, 'Principal') as warehouse,

        typed.quantity_number as quantity,
        coalesce(typed.reserved_number, 0) as reserved,

        coalesce(typed.stock_day, typed.file_date) as stock_date,

        case
            when typed.problems <> '{}' then typed.problems
            when
                typed.product_key is null or {{ is_invalid_code('typed.product_key') }}
                or typed.quantity_number is null
                or (typed.reserved_number is null and typed.reserved is not null)
                or (typed.stock_day is null and (typed.stock_date is not null or typed.file_date is null))
                then array_remove(array[
                    case when typed.product_key is null then 'MISSING_PRODUCT' end,
                    case when typed.stock_date is null and typed.file_date is null then 'MISSING_DATE' end,
                    case when typed.stock_day is null and typed.stock_date is not null then 'INVALID_DATE' end,
                    case when typed.quantity is null then 'MISSING_QUANTITY' end,
                    case
                        when
                            (typed.quantity_number is null and typed.quantity is not null)
                            or (typed.reserved_number is null and typed.reserved is not null)
                            then 'INVALID_NUMBER'
                    end,
                    case when {{ is_invalid_code('typed.product_key') }} then 'INVALID_KEY' end
                ], null)
        end as codes
    from typed

)

select * from renamed
