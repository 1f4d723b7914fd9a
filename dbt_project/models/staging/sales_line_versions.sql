-- Narrow on purpose: every window and every set of keys of the sales runs over these few columns.
with lines as (

    select row_id, file_rank, document_id, sale_date, line_no, content_hash
    from {{ ref('stg_sales_lines') }}
    where codes is null

),

spans as (

    -- Days a file speaks about, refused rows included.
    select file_rank, min(sale_date) as first_date, max(sale_date) as last_date
    from {{ ref('stg_sales_lines') }}
    group by file_rank

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
        lines.row_id,
        lines.file_rank,
        lines.sale_date,
        lines.line_no,
        lines.content_hash,
        case
            when reuses.started_on is null then lines.document_id
            else md5(lines.document_id || '|' || reuses.started_on)
        end as order_id,
        coalesce(documents.is_in_many_files, false) as is_in_many_files
    from lines
    left join documents on lines.document_id = documents.document_id
    left join reuses
        on lines.document_id = reuses.document_id and lines.sale_date = reuses.sale_date and documents.is_far_apart

),

exported as (

    select distinct identified.order_id, identified.file_rank, spans.first_date, spans.last_date
    from identified
    inner join spans on identified.file_rank = spans.file_rank
    where identified.is_in_many_files

),

replaced as (

    -- A newer file replaces the document's lines whose date lies inside its own first and last date.
    select distinct older.row_id
    from identified as older
    inner join exported as newer on older.order_id = newer.order_id
    where
        older.is_in_many_files
        and newer.file_rank > older.file_rank
        and older.sale_date between newer.first_date and newer.last_date

),

numbered as (

    select
        identified.row_id,
        identified.file_rank,
        identified.order_id,
        identified.line_no,
        identified.content_hash,
        identified.line_no as line_key
    from identified
    where identified.line_no is not null

    union all

    select
        unnumbered.row_id,
        unnumbered.file_rank,
        unnumbered.order_id,
        unnumbered.ordinal::text as line_no,
        unnumbered.content_hash,
        unnumbered.sale_date || '#' || unnumbered.ordinal as line_key
    from (
        select
            row_id,
            file_rank,
            order_id,
            sale_date,
            content_hash,
            row_number() over (partition by order_id, file_rank, sale_date order by row_id) as ordinal
        from identified
        where line_no is null
    ) as unnumbered

),

repeated as (

    -- The same key again: the newest file wins, in one file the last line.
    select order_id, line_key, max(row_id) as row_id, max(file_rank) as file_rank
    from numbered
    group by order_id, line_key
    having count(*) > 1

),

conflicts as (

    select repeated.row_id
    from repeated
    inner join numbered
        on
            repeated.order_id = numbered.order_id
            and repeated.line_key = numbered.line_key
            and repeated.file_rank = numbered.file_rank
    group by repeated.row_id
    having min(numbered.content_hash) < max(numbered.content_hash)

),

newest_export as (

    -- Where every export tells all, the documents that still exist; empty otherwise.
    select distinct order_id
    from identified
    where
        {{ rule_text('tenant.exports') }} = 'full'
        and file_rank = (select max(spans.file_rank) from spans)

)

select
    numbered.row_id,
    numbered.order_id,
    numbered.line_no,
    md5(numbered.order_id || '|' || numbered.line_key) as line_id,
    replaced.row_id is null
    and (repeated.row_id is null or repeated.row_id = numbered.row_id)
    and ({{ rule_text('tenant.exports') }} <> 'full' or newest_export.order_id is not null) as is_current,
    conflicts.row_id is not null as has_conflict
from numbered
left join replaced on numbered.row_id = replaced.row_id
left join repeated on numbered.order_id = repeated.order_id and numbered.line_key = repeated.line_key
left join conflicts on numbered.row_id = conflicts.row_id
left join newest_export on numbered.order_id = newest_export.order_id
