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

mended_{{ dataset }} as (

    -- Accepted rows that stand for a refused one.
    {% if dataset == 'sales_lines' -%}
    select file_id, source_line, mends_file_id, mends_line
    from {{ ref(model) }}
    where mends_file_id is not null and codes is null
    {%- else -%}
    select
        texts.file_id,
        texts.source_line,
        split_part(texts.mends, ':', 1) as mends_file_id,
        substring(texts.mends from ':([0-9]{1,9})$')::bigint as mends_line
    from {{ source('raw', dataset) }} as texts
    inner join {{ ref(model) }} as accepted
        on texts.file_id = accepted.file_id and texts.source_line = accepted.source_line
    where texts.mends is not null and accepted.codes is null
    {%- endif %}

),

resolved_{{ dataset }} as (

    -- A mended row that names it, or the same key from a newer file, was accepted.
    select resolvers.file_id, resolvers.source_line, max(resolvers.file_rank) as file_rank
    from (
        select mended.mends_file_id as file_id, mended.mends_line as source_line, files.file_rank
        from mended_{{ dataset }} as mended
        inner join {{ ref('stg_files') }} as files on mended.file_id = files.file_id

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
            and (accepted.file_id, accepted.source_line) not in (
                select mended.file_id, mended.source_line from mended_{{ dataset }} as mended
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
