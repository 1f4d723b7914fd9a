{{ config(
    materialized='incremental',
    incremental_strategy='append',
    meta={'follows': 'stg_files'},
    indexes=[{'columns': ['row_id'], 'unique': true}],
    pre_hook=["{{ draw_build_number() }}", "{{ forget_touched_documents() }}"],
    post_hook=["{{ settle_when_built_anew() }}", "{{ note_what_it_was_built_with() }}"],
) }}
-- Narrow on purpose: every window and every set of keys of the sales runs over these few columns.
with attempts as (

    -- Mended rows: each stands where the refused row stood that it names, and of several only the newest counts. A name
    -- that leads to no refused row is not believed.
    select
        mending.row_id,
        mended.file_rank,
        mending.mends_line as place,
        row_number() over (partition by refused.row_id order by files.file_rank desc) = 1 as is_newest
    from {{ ref('stg_sales_lines') }} as mending
    inner join {{ ref('stg_files') }} as files on mending.file_id = files.file_id
    inner join {{ ref('stg_files') }} as mended on mending.mends_file_id = mended.file_id
    inner join {{ ref('stg_sales_lines') }} as refused
        on refused.row_id = (mended.file_no << 32) + mending.mends_line
    where mending.mends_file_id is not null and mending.codes is null and refused.codes is not null

),

lines as (

    select
        sales.row_id,
        sales.file_version,
        sales.document_id,
        sales.sale_date,
        sales.line_no,
        sales.content_hash,
        coalesce(attempts.file_rank, files.file_rank) as file_rank,
        coalesce(attempts.place, sales.source_line) as place,
        coalesce(attempts.is_newest, true) as is_newest_attempt
    from {{ ref('stg_sales_lines') }} as sales
    inner join {{ ref('stg_files') }} as files on sales.row_id >> 32 = files.file_no
    left join attempts on sales.row_id = attempts.row_id
    where
        sales.codes is null
        and {{ when_incremental('sales.document_id in (select document_id from touched_documents)') }}

),

spans as (

    -- Days a file speaks about, refused rows included, those it only mends not.
    select files.file_rank, min(days.first_date) as first_date, max(days.last_date) as last_date
    from (
        select row_id >> 32 as file_no, min(sale_date) as first_date, max(sale_date) as last_date
        from {{ ref('stg_sales_lines') }}
        where mends_file_id is null
        group by row_id >> 32

        union all

        select sales.row_id >> 32 as file_no, sales.sale_date as first_date, sales.sale_date as last_date
        from {{ ref('stg_sales_lines') }} as sales
        left join attempts on sales.row_id = attempts.row_id
        where sales.mends_file_id is not null and attempts.row_id is null
    ) as days
    inner join {{ ref('stg_files') }} as files on days.file_no = files.file_no
    group by files.file_rank

),

documents as (

    -- The few that need a closer look.
    select
        document_id,
        max(sale_date) - min(sale_date) > {{ rule_number('documents.same_number_max_days') }} as is_far_apart,
        min(file_rank) < max(file_rank) as is_in_many_files
    from lines
    group by document_id
    having
        max(sale_date) - min(sale_date) > {{ rule_number('documents.same_number_max_days') }}
        or min(file_rank) < max(file_rank)

),

days as (

    select
        day.document_id,
        day.sale_date,
        day.sale_date - lag(day.sale_date) over (partition by day.document_id order by day.sale_date) as gap
    from (
        select distinct lines.document_id, lines.sale_date
        from lines
        inner join documents on lines.document_id = documents.document_id
        where documents.is_far_apart
    ) as day

),

reuses as (

    -- A number used again after a long silence: the day its later document begins.
    select
        days.document_id,
        days.sale_date,
        max(days.sale_date) filter (
            where days.gap > {{ rule_number('documents.same_number_max_days') }}
        ) over (partition by days.document_id order by days.sale_date) as started_on
    from days

),

identified as (

    select
        lines.*,
        case
            when reuses.started_on is null then lines.document_id
            else hashtextextended(lines.document_id || '|' || reuses.started_on, 0)
        end as order_hash,
        coalesce(documents.is_in_many_files, false) as is_in_many_files
    from lines
    left join documents on lines.document_id = documents.document_id
    left join reuses
        on lines.document_id = reuses.document_id and lines.sale_date = reuses.sale_date and documents.is_far_apart

),

exported as (

    select distinct identified.order_hash, identified.file_rank, spans.first_date, spans.last_date
    from identified
    inner join spans on identified.file_rank = spans.file_rank
    where identified.is_in_many_files

),

replaced as (

    -- A newer file replaces the document's lines whose date lies inside its own first and last date.
    select distinct older.row_id
    from identified as older
    inner join exported as newer on older.order_hash = newer.order_hash
    where
        older.is_in_many_files
        and newer.file_rank > older.file_rank
        and older.sale_date between newer.first_date and newer.last_date

),

ordinals as (

    -- A line without a number is the nth of its document and day in its file.
    select
        row_id,
        dense_rank() over (partition by order_hash, file_rank, sale_date order by place) as ordinal
    from identified
    where line_no is null

),

numbered as (

    select
        identified.*,
        coalesce(identified.line_no, ordinals.ordinal::text) as line_number,
        hashtextextended(concat_ws(
            '|',
            identified.order_hash,
            coalesce(identified.line_no, identified.sale_date || '#' || ordinals.ordinal)
        ), 0) as line_hash
    from identified
    left join ordinals on identified.row_id = ordinals.row_id

),

repeated as (

    select line_hash
    from numbered
    group by line_hash
    having count(*) > 1

),

winners as (

    -- The same key again: the newest file wins, in one file the last line.
    select distinct on (numbered.line_hash) numbered.line_hash, numbered.row_id
    from numbered
    inner join repeated on numbered.line_hash = repeated.line_hash
    order by numbered.line_hash, numbered.is_newest_attempt desc, numbered.file_rank desc, numbered.place desc

),

conflicts as (

    select winners.row_id
    from winners
    inner join numbered on winners.line_hash = numbered.line_hash and winners.row_id >> 32 = numbered.row_id >> 32
    group by winners.row_id
    having min(numbered.content_hash) < max(numbered.content_hash)

),

newest_export as (

    -- Where every export tells all, the documents that still exist; empty otherwise.
    select distinct order_hash
    from identified
    where
        {{ rule_text('tenant.exports') }} = 'full'
        and file_rank = (select max(spans.file_rank) from spans)

),

decided as (

    select
        numbered.row_id,
        numbered.file_version,
        numbered.document_id,
        numbered.order_hash,
        numbered.file_rank,
        numbered.is_in_many_files,
        numbered.line_number as line_no,
        numbered.line_hash,
        numbered.is_newest_attempt
        and replaced.row_id is null
        and (winners.row_id is null or winners.row_id = numbered.row_id)
        and ({{ rule_text('tenant.exports') }} <> 'full' or newest_export.order_hash is not null) as is_current,
        conflicts.row_id is not null as has_conflict
    from numbered
    left join replaced on numbered.row_id = replaced.row_id
    left join winners on numbered.line_hash = winners.line_hash
    left join conflicts on numbered.row_id = conflicts.row_id
    left join newest_export on numbered.order_hash = newest_export.order_hash

),

split as (

    select order_hash
    from decided
    where is_in_many_files and is_current
    group by order_hash
    having min(file_rank) < max(file_rank)

)

select
    decided.row_id,
    decided.file_version,
    decided.document_id,
    to_hex(decided.order_hash) as order_id,
    decided.line_no,
    to_hex(decided.line_hash) as line_id,
    decided.is_current,
    decided.has_conflict,
    split.order_hash is not null as is_split,
    {{ build_no() }} as build_no
from decided
left join split on decided.order_hash = split.order_hash
