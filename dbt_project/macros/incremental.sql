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

{#- Whether the table exists and was built with the rules and the code in force: its comment says so. -#}
{% macro is_built_alike() -%}
    {%- set description = run_query("select obj_description(to_regclass('" ~ this ~ "'))").columns[0].values()[0] or '' -%}
    {{- return(description.split(' ')[0] == built_with()) -}}
{%- endmacro %}

{#- The number of the table's last build, from its comment too. -#}
{% macro last_build() -%}
    (select split_part(obj_description('{{ this }}'::regclass), ' ', 2)::bigint)
{%- endmacro %}

{#- dbt's own answer; else yes when the table was built with other rules or code than those in force, or when so much of
    what it follows is new that building it anew is quicker. dbt asks several times for one model: answered once. -#}
{% macro should_full_refresh() -%}
    {%- set asked = config.get('full_refresh') -%}
    {%- set asked = flags.FULL_REFRESH if asked is none else asked -%}
    {%- set follows = config.get('meta', {}).get('follows') -%}
    {%- if asked or not execute or not follows -%}
        {{- return(asked) -}}
    {%- endif -%}
    {%- if 'is_built_anew' not in model -%}
        {%- do model.update({'is_built_anew': not is_built_alike() or share_of_news(follows) > 0.3}) -%}
    {%- endif -%}
    {{- return(model['is_built_anew']) -}}
{%- endmacro %}

{#- The share 0..1 of the rows it follows that the table has not seen. -#}
{% macro share_of_news(follows) -%}
    {%- if follows == 'stg_files' -%}
        {%- set share -%}
            with {{ built_files() }}

            select sum(files.row_count) filter (where built.file_no is null) / sum(files.row_count)
            from {{ ref('stg_files') }} as files
            left join built on files.file_no = built.file_no and files.file_version = built.file_version
            where files.dataset = 'sales_lines'
        {%- endset -%}
    {%- else -%}
        {%- set share -%}
            select avg((build_no > {{ last_build() }})::int) from {{ ref(follows) }}
        {%- endset -%}
    {%- endif -%}
    {{- return(run_query(share).columns[0].values()[0] or 0) -}}
{%- endmacro %}

{#- What the incremental models share beside their tables, made before the first of them: stg_files, which all follow. -#}
{% macro make_build_numbers() -%}
    create sequence if not exists {{ this.schema }}.builds;
    create table if not exists {{ this.schema }}.touched_orders (order_id text)
{%- endmacro %}

{#- A number that grows from build to build tells one table what another has written since. It is drawn before the
    statement, for `nextval` inside it would keep PostgreSQL from running it in parallel. -#}
{% macro draw_build_number() -%}
    select set_config('crm.build_no', nextval('{{ ref('stg_files').schema }}.builds')::text, true)
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

{#- A condition where the table is added to; where it is built anew, none. -#}
{% macro when_incremental(condition) -%}
    {{ condition if is_incremental() else 'true' }}
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

{#- A table that is made anew each time and tells which of its rows have changed: a row that says what it said keeps its
    build number. `rows` is the CTE of the new rows, `key` their columns, `version` the hash of what they say. -#}
{% macro rows_with_build_of_change(rows, key, version) -%}
    {%- set before = before_this_build() -%}
    select
        {{ rows }}.*,
        {% if before -%}
        coalesce(before.build_no, {{ build_no() }}) as build_no
        {%- else -%}
        {{ build_no() }} as build_no
        {%- endif %}
    from {{ rows }}
    {%- if before %}
    left join {{ before }} as before
        on
            {{ rows }}.{{ version }} = before.{{ version }}
            {%- for column in key %}
            and {{ rows }}.{{ column }} = before.{{ column }}
            {%- endfor %}
    {%- endif %}
{%- endmacro %}

{#- The table as the last build left it, if there was one that this build follows. -#}
{% macro before_this_build() -%}
    {{- return(this if execute and not flags.FULL_REFRESH and is_built_alike() else none) -}}
{%- endmacro %}

{#- Orders whose lines have changed and whose totals have not yet: written with the lines, cleared with the totals. -#}
{% macro touched_orders() -%}
    {{ ref('stg_files').schema }}.touched_orders
{%- endmacro %}

{#- Before fct_sales_lines: the lines that were decided anew, whose file is gone, or whose client or product says
    something else than it did. -#}
{% macro forget_changed_lines() -%}
    {%- if is_incremental() -%}
        create temporary table changed_lines on commit drop as
        with recursive files as (

            (select row_id >> 32 as file_no from {{ this }} order by row_id limit 1)
            union all
            select (
                select facts.row_id >> 32
                from {{ this }} as facts
                where facts.row_id >= (files.file_no + 1) << 32
                order by facts.row_id
                limit 1
            )
            from files
            where files.file_no is not null

        ),

        gone as (

            select files.file_no
            from files
            left join {{ ref('stg_files') }} as known on files.file_no = known.file_no
            where files.file_no is not null and known.file_no is null

        )

        select versions.row_id
        from {{ ref('sales_line_versions') }} as versions
        where versions.build_no > {{ last_build() }}
        union
        select facts.row_id
        from {{ this }} as facts
        inner join {{ ref('sale_clients') }} as clients on facts.client_code = clients.client_code
        where clients.build_no > {{ last_build() }}
        union
        select facts.row_id
        from {{ this }} as facts
        inner join {{ ref('product_texts') }} as texts on facts.text_id = texts.text_id
        where texts.build_no > {{ last_build() }}
        union
        select facts.row_id
        from gone
        inner join {{ this }} as facts on {{ is_row_of('facts.row_id', 'gone.file_no') }};
        analyze changed_lines;
        insert into {{ touched_orders() }} (order_id)
        select facts.order_id
        from changed_lines as changed
        inner join {{ this }} as facts on changed.row_id = facts.row_id
        union
        select versions.order_id
        from changed_lines as changed
        inner join {{ ref('sales_line_versions') }} as versions on changed.row_id = versions.row_id;
        delete from {{ this }} as kept
        using changed_lines as changed
        where kept.row_id = changed.row_id
    {%- endif -%}
{%- endmacro %}

{#- Before order_totals: the orders of which a line has come, gone or changed. -#}
{% macro forget_changed_orders() -%}
    {%- if is_incremental() -%}
        create temporary table changed_orders on commit drop as
        select distinct order_id from {{ touched_orders() }};
        analyze changed_orders;
        delete from {{ this }} as kept
        using changed_orders as changed
        where kept.order_id = changed.order_id
    {%- endif -%}
{%- endmacro %}

{#- After such a model: say with what it was built, and in which build. -#}
{% macro note_what_it_was_built_with() -%}
    do $$
    begin
        execute format(
            'comment on table {{ this }} is %L', concat('{{ built_with() }} ', current_setting('crm.build_no', true))
        );
    end $$
{%- endmacro %}

{#- After an incremental model that was built anew: count its rows, as is done after every plain table. -#}
{% macro settle_when_built_anew() -%}
    {%- if not is_incremental() %}
        {%- if this.name == 'stg_sales_lines' %}
        create index on {{ this }} (mends_file_id) where mends_file_id is not null;
        {%- endif %}
        analyze {{ this }}
    {%- endif %}
{%- endmacro %}
