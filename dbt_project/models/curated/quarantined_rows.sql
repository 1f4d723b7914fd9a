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
        file_id, file_rank, source_line, codes,
        {{ key | join(', ') }}
    from {{ ref(model) }}
    where codes is not null

),

resolved_{{ dataset }} as (

    -- The same key accepted from a newer file.
    select refused.file_id, refused.source_line, max(accepted.file_rank) as file_rank
    from refused_{{ dataset }} as refused
    inner join {{ ref(model) }} as accepted
        on
            refused.{{ key[0] }} = accepted.{{ key[0] }}
            {%- for field in key[1:] %}
            and refused.{{ field }} is not distinct from accepted.{{ field }}
            {%- endfor %}
    where accepted.codes is null and accepted.file_rank > refused.file_rank
    group by refused.file_id, refused.source_line

){{ ',' if not loop.last }}

{% endfor %}
{% for dataset in datasets -%}
select
    refused.file_id,
    files.dataset,
    refused.source_line,
    refused.codes,
    jsonb_strip_nulls(to_jsonb(source) - '{file_id,source_line,row_no,problems}'::text[]) as row,
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
