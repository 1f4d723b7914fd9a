{%- set datasets = {
    'sales_lines': ('stg_sales_lines', ['client_code', 'document_no', 'line_no']),
    'customers': ('stg_customers', ['client_code']),
    'products': ('stg_products', ['product_key']),
    'stock': ('stg_stock', ['product_key', 'warehouse', 'stock_date']),
    'contacts': ('stg_contacts', ['client_code', 'contact_date']),
    'aliases': ('stg_aliases', ['label']),
} -%}
with {% for dataset, (model, key) in datasets.items() -%}
refused_{{ dataset }} as (

    select
        rows.file_id, files.file_rank, rows.source_line, rows.codes,
        rows.{{ key | join(', rows.') }}
    from {{ ref(model) }} as rows
    inner join {{ ref('stg_files') }} as files on rows.file_id = files.file_id
    where rows.codes is not null

),

resolved_{{ dataset }} as (

    -- A mended row that names it, or the same key from a newer file, was accepted.
    select resolvers.file_id, resolvers.source_line, max(resolvers.file_rank) as file_rank
    from (
        select
            split_part(texts.mends, ':', 1) as file_id,
            substring(texts.mends from ':([0-9]{1,9})$')::bigint as source_line,
            files.file_rank
        from {{ source('raw', dataset) }} as texts
        inner join {{ ref(model) }} as mended
            on texts.file_id = mended.file_id and texts.source_line = mended.source_line
        inner join {{ ref('stg_files') }} as files on texts.file_id = files.file_id
        where texts.mends is not null and mended.codes is null

        union all

        select refused.file_id, refused.source_line, files.file_rank
        from refused_{{ dataset }} as refused
        inner join {{ ref(model) }} as accepted
            on
                refused.{{ key[0] }} = accepted.{{ key[0] }}
                {%- for field in key[1:] %}
                and refused.{{ field }} is not distinct from accepted.{{ field }}
                {%- endfor %}
        inner join {{ ref('stg_files') }} as files on accepted.file_id = files.file_id
        where
            accepted.codes is null
            and files.file_rank > refused.file_rank
            -- A mended row stands for the one it names, not for all that its key fits.
            and not exists (
                select from {{ source('raw', dataset) }} as own
                where
                    accepted.file_id = own.file_id
                    and accepted.source_line = own.source_line
                    and own.mends is not null
            )
    ) as resolvers
    group by resolvers.file_id, resolvers.source_line

){{ ',' if not loop.last }}

{% endfor %}
{% for dataset in datasets -%}
select
    refused.file_id,
    files.dataset,
    refused.source_line,
    refused.codes,
    jsonb_strip_nulls(to_jsonb(source) - '{file_id,source_line,row_no,problems,mends}'::text[]) as row,
    resolvers.file_id as resolved_by
from refused_{{ dataset }} as refused
inner join {{ ref('stg_files') }} as files on refused.file_id = files.file_id
inner join {{ source('raw', dataset) }} as source
    on refused.file_id = source.file_id and refused.source_line = source.source_line
left join resolved_{{ dataset }} as resolved
    on refused.file_id = resolved.file_id and refused.source_line = resolved.source_line
left join {{ ref('stg_files') }} as resolvers on resolved.file_rank = resolvers.file_rank
{{ 'union all' if not loop.last }}
{% endfor %}
