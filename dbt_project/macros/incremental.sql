{#- What an incremental model of the sales keeps from run to run. Its rows are a function of the raw rows, which never
    change, of the place of their files in file order (`file_version` of stg_files), and of everything else that
    `built_with` sums up: when that changes, the table is built anew. A table tells by itself which files it holds, so
    that a run which was killed between two models leaves nothing that the next one does not see. -#}

{#- One text for the rules, the estate's settings and the code in force; the day is not part of it. Where every export
    tells all (spec.md §3), a newer one may remove any document: then the newest file is part of it. -#}
{% macro built_with() -%}
    {%- if not execute -%}
        {{- return('') -}}
    {%- endif -%}
    {%- set found = run_query(
        "select md5(concat_ws('|', "
        ~ "(select string_agg(name || '=' || value, '|' order by name collate \"C\") from " ~ source('landing', 'parameters')
        ~ " where name not in ('as_of', 'is_historical')), "
        ~ "case when " ~ rule_text('tenant.exports') ~ " = 'full' then (select max(order_key collate \"C\") from "
        ~ source('raw', 'files') ~ " where dataset = 'sales_lines' and status = 'loaded') end))"
    ) -%}
    {{- return(found.columns[0].values()[0]) -}}
{%- endmacro %}

{#- dbt's own answer; else yes when the table was built with other rules or code than those in force, or when so much of
    what it follows is new that building it anew is quicker. -#}
{% macro should_full_refresh() -%}
    {%- set asked = config.get('full_refresh') -%}
    {%- set asked = flags.FULL_REFRESH if asked is none else asked -%}
    {%- set follows = config.get('meta', {}).get('follows') -%}
    {%- if asked or not execute or not follows -%}
        {{- return(asked) -}}
    {%- endif -%}
    {%- set description = run_query("select obj_description(to_regclass('" ~ this ~ "'))").columns[0].values()[0] -%}
    {%- if description != built_with() -%}
        {{- return(true) -}}
    {%- endif -%}
    {%- if follows == 'stg_files' -%}
        {%- set share_new -%}
            with {{ built_files() }}

            select sum(files.row_count) filter (where built.file_no is null) / sum(files.row_count)
            from {{ ref('stg_files') }} as files
            left join built on files.file_no = built.file_no and files.file_version = built.file_version
            where files.dataset = 'sales_lines'
        {%- endset -%}
    {%- else -%}
        {%- set share_new -%}
            select avg((build_no > (select coalesce(max(build_no), 0) from {{ this }}))::int)
            from {{ ref(follows) }}
        {%- endset -%}
    {%- endif -%}
    {{- return((run_query(share_new).columns[0].values()[0] or 0) > 0.3) -}}
{%- endmacro %}

{#- A number that grows from build to build tells one table what another has written since. It is drawn before the
    statement, for `nextval` inside it would keep PostgreSQL from running it in parallel. -#}
{% macro draw_build_number() -%}
    {%- set sequence = ref('stg_files').schema ~ '.builds' -%}
    create sequence if not exists {{ sequence }};
    select set_config('crm.build_no', nextval('{{ sequence }}')::text, true)
{%- endmacro %}

{% macro build_no() -%}
    current_setting('crm.build_no', true)::bigint
{%- endmacro %}

{#- The CTE `built (file_no, file_version)`: the files whose rows a table holds, by hops along the index of row_id. -#}
{% macro built_files() -%}
    recursive built as (
        (select row_id >> 32 as file_no, file_version from {{ this }} order by row_id limit 1)
        union all
        select following.row_id >> 32, following.file_version
        from built
        cross join lateral (
            select row_id, file_version
            from {{ this }}
            where row_id >= (built.file_no + 1) << 32
            order by row_id
            limit 1
        ) as following
    )
{%- endmacro %}

{#- The numbers of these files, as a query. -#}
{% macro built_file_numbers() -%}
    with {{ built_files() }}

    select built.file_no from built
{%- endmacro %}

{#- Whether a row is of a file: by its number, so that the index of row_id serves. -#}
{% macro is_row_of(row_id, file_no) -%}
    {{ row_id }} >= {{ file_no }} << 32 and {{ row_id }} < ({{ file_no }} + 1) << 32
{%- endmacro %}

{#- Before stg_sales_lines: forget files that were read anew or have another place among the others, and those that mend
    a file which is new, for its rows are read in that file's style. -#}
{% macro forget_stale_files() -%}
    {%- if is_incremental() -%}
        delete from {{ this }} as kept
        using (
            with {{ built_files() }}

            select built.file_no
            from built
            left join {{ ref('stg_files') }} as files
                on built.file_no = files.file_no and built.file_version = files.file_version
            where files.file_no is null
            union
            select mending.row_id >> 32
            from {{ ref('stg_files') }} as files
            inner join {{ this }} as mending on files.file_id = mending.mends_file_id
            where files.file_no not in (select built.file_no from built)
        ) as stale
        where {{ is_row_of('kept.row_id', 'stale.file_no') }}
    {%- endif -%}
{%- endmacro %}

{#- Before sales_line_versions: the documents of which any line is new, gone or elsewhere; they are decided anew. -#}
{% macro forget_touched_documents() -%}
    {%- if is_incremental() %}
        create temporary table touched_documents on commit drop as
        with {{ built_files() }},

        fresh as (

            select files.file_no, files.file_id
            from {{ ref('stg_files') }} as files
            left join built on files.file_no = built.file_no and files.file_version = built.file_version
            where built.file_no is null and files.dataset = 'sales_lines'

        ),

        stale as (

            select built.file_no
            from built
            left join {{ ref('stg_files') }} as files
                on built.file_no = files.file_no and built.file_version = files.file_version
            where files.file_no is null

        )

        select lines.document_id
        from fresh
        inner join {{ ref('stg_sales_lines') }} as lines on {{ is_row_of('lines.row_id', 'fresh.file_no') }}
        where lines.codes is null
        union
        select lines.document_id
        from stale
        inner join {{ this }} as lines on {{ is_row_of('lines.row_id', 'stale.file_no') }}
        union
        -- What mends a row of a new file, or a row that a new file mends too.
        select lines.document_id
        from {{ ref('stg_sales_lines') }} as lines
        where
            lines.mends_file_id is not null
            and lines.codes is null
            and (
                lines.mends_file_id in (select fresh.file_id from fresh)
                or (lines.mends_file_id, lines.mends_line) in (
                    select other.mends_file_id, other.mends_line
                    from fresh
                    inner join {{ ref('stg_sales_lines') }} as other on {{ is_row_of('other.row_id', 'fresh.file_no') }}
                    where other.mends_file_id is not null
                )
            );
        analyze touched_documents;
        delete from {{ this }} as kept
        using touched_documents as touched
        where kept.document_id = touched.document_id;
    {%- endif -%}
{%- endmacro %}

{#- Before fct_sales_lines: the lines that were decided anew, whose file is gone, or whose client or product says
    something else than it did. -#}
{% macro forget_changed_lines() -%}
    {%- if is_incremental() -%}
        create temporary table changed_lines on commit drop as
        select facts.row_id
        from {{ this }} as facts
        left join {{ ref('stg_files') }} as files
            on facts.row_id >> 32 = files.file_no and facts.file_version = files.file_version
        left join {{ ref('sale_clients') }} as clients on facts.client_code = clients.client_code
        left join {{ ref('product_texts') }} as texts
            on facts.text_id = texts.text_id and texts.sale_year in (0, extract(year from facts.sale_date))
        where
            files.file_no is null
            or facts.client_version is distinct from clients.client_version
            or facts.product_version is distinct from texts.product_version
        union
        select row_id
        from {{ ref('sales_line_versions') }}
        where build_no > (select coalesce(max(build_no), 0) from {{ this }});
        analyze changed_lines;
        delete from {{ this }} as kept
        using changed_lines as changed
        where kept.row_id = changed.row_id;
    {%- endif -%}
{%- endmacro %}

{#- Before order_totals: the orders of which a line was decided or written anew, and those that have none left. -#}
{% macro forget_changed_orders() -%}
    {%- if is_incremental() -%}
        create temporary table changed_orders on commit drop as
        select order_id
        from {{ ref('fct_sales_lines') }}
        where build_no > (select coalesce(max(build_no), 0) from {{ this }})
        group by order_id;
        analyze changed_orders;
        delete from {{ this }} as kept
        using changed_orders as changed
        where kept.order_id = changed.order_id;
        -- Only where the lines do not add up is there an order to look for that is gone altogether.
        delete from {{ this }} as kept
        where
            (select sum(lines) from {{ this }}) <> (
                select count(*)
                from {{ ref('fct_sales_lines') }} as facts
                left join changed_orders as changed on facts.order_id = changed.order_id
                where changed.order_id is null
            )
            and not exists (select from {{ ref('fct_sales_lines') }} as facts where facts.order_id = kept.order_id);
    {%- endif -%}
{%- endmacro %}

{#- After such a model: say what it was built with, and count it when it was built anew. -#}
{% macro note_what_it_was_built_with() -%}
    {%- if not is_incremental() %}
        analyze {{ this }};
    {%- endif %}
    comment on table {{ this }} is '{{ built_with() }}'
{%- endmacro %}
