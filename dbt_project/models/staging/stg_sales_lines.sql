{{ config(
    materialized='incremental',
    incremental_strategy='append',
    meta={'follows': 'stg_files'},
    indexes=[{'columns': ['row_id'], 'unique': true}],
    pre_hook="{{ forget_stale_files() }}",
    post_hook=["{{ settle_when_built_anew() }}", "{{ note_what_it_was_built_with() }}"],
) }}
{#- Three steps, each fenced with `limit all` so that PostgreSQL computes a value once and not wherever it
    is named (`offset 0` would do so too, but never in parallel):
    texts cleaned, values typed, reasons to refuse the row. Nothing is joined but the file: a row never changes
    until its file does, so only the rows of new files are read. -#}
with source as (

    select
        lines.*,
        {{ text_id() }} as text_id,
        files.file_no,
        files.file_version,
        -- A mended row has the style of the file it was refused from: that is what its other cells are written in.
        coalesce(mended.decimal_separator, files.decimal_separator) as decimal_separator,
        coalesce(mended.date_order, files.date_order) as date_order,
        files.is_spreadsheet or coalesce(mended.is_spreadsheet, false) as is_spreadsheet,
        files.year_pivot,
        files.has_yearly_numbers,
        coalesce(mended.has_document_no, files.has_document_no) as has_document_no
    from {{ source('raw', 'sales_lines') }} as lines
    inner join {{ ref('stg_files') }} as files on lines.file_id = files.file_id
    left join {{ ref('stg_files') }} as mended
        on split_part(lines.mends, ':', 1) = mended.file_id
    where {{ when_incremental('files.file_no not in (' ~ built_file_numbers() ~ ')') }}

),

cleaned as (

    select
        file_id,
        (file_no << 32) + source_line as row_id,
        file_version,
        source_line,
        decimal_separator,
        date_order,
        is_spreadsheet,
        year_pivot,
        has_yearly_numbers,
        has_document_no,
        problems,

        {{ client_code('client_code') }} as client_code,
        {{ clean_text('document_no') }} as document_no,
        case
            when document_type ~ '^[A-Z0-9]+$' then document_type
            else coalesce({{ normalize_label('document_type') }}, '')
        end as document_type,
        {{ clean_text('line_no') }} as line_no,

        text_id,
        {{ client_code('product_key') }} as product_code,
        {{ clean_text('product_label') }} as product_label,

        {{ date_text('order_date') }} as order_date,
        {{ date_text('delivery_date') }} as delivery_date,

        {{ number_text('quantity') }} as quantity,
        {{ number_text('unit_price_ht') }} as unit_price_ht,
        {{ number_text('amount_ht') }} as amount_ht,
        {{ number_text('amount_ttc') }} as amount_ttc,
        {{ number_text('margin') }} as margin,

        email as raw_email,
        postal_code as raw_postal_code,
        city as raw_city,
        country as raw_country,
        {{ clean_text('delivery_name') }} as delivery_name,
        {{ clean_text('delivery_postal_code') }} as delivery_postal_code,
        delivery_country as raw_delivery_country,
        case when mends ~ '^[0-9a-f]{16}:[0-9]{1,9}$' then mends end as mends
    from source
    limit all

),

typed as (

    select
        cleaned.*,
        {% for field in ['quantity', 'unit_price_ht', 'amount_ht', 'amount_ttc', 'margin'] -%}
        {{ parse_number('cleaned.' ~ field, 'cleaned.decimal_separator') }} as {{ field }}_number,
        {% endfor -%}
        {{ parse_date(
            'cleaned.order_date', 'cleaned.date_order', 'cleaned.is_spreadsheet', 'cleaned.year_pivot'
        ) }} as order_day,
        {{ parse_date(
            'cleaned.delivery_date', 'cleaned.date_order', 'cleaned.is_spreadsheet', 'cleaned.year_pivot'
        ) }} as delivery_day
    from cleaned
    limit all

),

renamed as (

    select
        typed.row_id,
        typed.file_version,
        typed.file_id,
        typed.source_line,

        typed.client_code,
        typed.document_type,
        case
            when typed.has_document_no then typed.document_no
            else typed.client_code || '|' || coalesce(typed.order_day, typed.delivery_day)
        end as document_no,
        not typed.has_document_no as is_document_inferred,
        typed.line_no,
        -- What makes a document one (spec.md §3), but for numbers used again long after: sales_line_versions. 64 bits:
        -- among ten million documents two meet by chance once in 400,000 estates.
        hashtextextended(concat_ws(
            chr(31),
            typed.document_type,
            typed.client_code,
            case
                when typed.has_document_no then typed.document_no
                else coalesce(typed.order_day, typed.delivery_day)::text
            end,
            case
                when typed.has_yearly_numbers then extract(year from coalesce(typed.order_day, typed.delivery_day))
            end
        ), 0) as document_id,
        -- Tells two lines with one number apart (the circuit breaker's DUPLICATE_LINE).
        hashtextextended(concat_ws(
            chr(31), typed.text_id, typed.order_date, typed.delivery_date, typed.quantity, typed.unit_price_ht,
            typed.amount_ht, typed.amount_ttc
        ), 0) as content_hash,

        typed.text_id,

        coalesce(typed.order_day, typed.delivery_day) as sale_date,
        coalesce(typed.delivery_day, typed.order_day) as delivery_date,

        typed.quantity_number as quantity,
        typed.unit_price_ht_number as unit_price_ht,
        typed.amount_ht_number as amount_ht,
        typed.amount_ttc_number as amount_ttc,
        typed.margin_number as margin,

        typed.raw_email,
        typed.raw_postal_code,
        typed.raw_city,
        typed.raw_country,
        typed.delivery_name,
        typed.delivery_postal_code,
        typed.raw_delivery_country,

        split_part(typed.mends, ':', 1) as mends_file_id,
        split_part(typed.mends, ':', 2)::bigint as mends_line,

        case
            when typed.problems <> '{}' then typed.problems
            when
                typed.client_code is null or {{ is_invalid_code('typed.client_code') }}
                or (typed.document_no is null and typed.has_document_no)
                or (
                    (typed.product_code is null or {{ is_invalid_code('typed.product_code') }})
                    and (typed.product_label is null or {{ is_invalid_code('upper(typed.product_label)') }})
                )
                or (typed.order_day is null and typed.delivery_day is null)
                or (typed.order_day is null and typed.order_date is not null)
                or (typed.delivery_day is null and typed.delivery_date is not null)
                or typed.quantity_number is null
                or (typed.unit_price_ht_number is null and typed.unit_price_ht is not null)
                or (typed.amount_ht_number is null and typed.amount_ht is not null)
                or (typed.amount_ttc_number is null and typed.amount_ttc is not null)
                or (typed.margin_number is null and typed.margin is not null)
                or (typed.unit_price_ht is null and typed.amount_ht is null and typed.amount_ttc is null)
                then array_remove(array[
                    case when typed.client_code is null then 'MISSING_CLIENT' end,
                    case when typed.document_no is null and typed.has_document_no then 'MISSING_DOCUMENT' end,
                    case
                        when
                            typed.product_code is null
                            and (typed.product_label is null or {{ is_invalid_code('upper(typed.product_label)') }})
                            then 'MISSING_PRODUCT'
                    end,
                    case when typed.order_date is null and typed.delivery_date is null then 'MISSING_DATE' end,
                    case
                        when
                            (typed.order_day is null and typed.order_date is not null)
                            or (typed.delivery_day is null and typed.delivery_date is not null)
                            then 'INVALID_DATE'
                    end,
                    case when typed.quantity is null then 'MISSING_QUANTITY' end,
                    case
                        when
                            (typed.quantity_number is null and typed.quantity is not null)
                            or (typed.unit_price_ht_number is null and typed.unit_price_ht is not null)
                            or (typed.amount_ht_number is null and typed.amount_ht is not null)
                            or (typed.amount_ttc_number is null and typed.amount_ttc is not null)
                            or (typed.margin_number is null and typed.margin is not null)
                            then 'INVALID_NUMBER'
                    end,
                    case
                        when typed.unit_price_ht is null and typed.amount_ht is null and typed.amount_ttc is null
                            then 'MISSING_AMOUNT'
                    end,
                    case
                        when
                            {{ is_invalid_code('typed.client_code') }}
                            or (
                                {{ is_invalid_code('typed.product_code') }}
                                and (typed.product_label is null or {{ is_invalid_code('upper(typed.product_label)') }})
                            )
                            then 'INVALID_KEY'
                    end
                ], null)
        end as codes
    from typed

)

select * from renamed
