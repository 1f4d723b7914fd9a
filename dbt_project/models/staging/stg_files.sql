{{ config(pre_hook="{{ make_build_numbers() }}") }}
with source as (

    select * from {{ source('raw', 'files') }}

),

renamed as (

    select distinct on (file_id collate "C")
        file_id,
        file_no,
        path,
        dataset,
        min(order_key collate "C") over (partition by file_id) as order_key,

        file_date,
        modified_at::date as modified_on,

        decimal_separator,
        coalesce(date_order, 'dmy') as date_order,
        coalesce(format in ('xlsx', 'xls'), false) as is_spreadsheet,
        not coalesce('document_no' = any(missing_fields), false) as has_document_no,

        row_count
    from source
    where status = 'loaded'
    order by file_id collate "C", path collate "C"

)

select
    *,
    -- Rules every row of the file needs, as columns: a join runs in parallel, a scalar subquery may not.
    {{ rule_number('values.two_digit_year_pivot') }} as year_pivot,
    {{ rule_text('tenant.document_numbers') }} = 'yearly' as has_yearly_numbers,
    row_number() over (order by order_key collate "C", file_id collate "C") as file_rank,
    -- The file's place among the others: a copy dropped later under another name may move it.
    hashtextextended(order_key, 0) as file_version
from renamed
