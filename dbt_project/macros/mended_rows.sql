{#- A row that names the refused row it stands for (raw column `mends`, `<file_id>:<source_line>`) stands at that row's
    place. Two parts, for the models that read raw: `join {{ mended_file() }}` beside `files`, then the place itself. -#}

{#- The file of the row that `rows` mends, of the same dataset as `files`: none for an ordinary row, none for a
    reference to a file that is not loaded. -#}
{% macro mended_file(rows, files) -%}
    {{ ref('stg_files') }} as mended
        on
            split_part({{ rows }}.mends, ':', 1) = mended.file_id
            and {{ rows }}.mends ~ '^[^:]+:[0-9]{1,9}$'
            and {{ files }}.dataset = mended.dataset
{%- endmacro %}

{#- The row's place among all rows in file order: of a mended row the place of the one it mends. -#}
{% macro row_position(rows, files) -%}
    case
        when mended.file_id is not null then (mended.file_rank << 32) + split_part({{ rows }}.mends, ':', 2)::bigint
        else ({{ files }}.file_rank << 32) + {{ rows }}.source_line
    end
{%- endmacro %}
