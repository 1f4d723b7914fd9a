{#- A workbook of ours that comes back mended holds the few rows that had been refused: it is no export, and nothing an
    export could be compared with. -#}
{%- set datasets = ['sales_lines', 'customers', 'products', 'stock', 'contacts', 'aliases'] -%}
with parameters as (

    select {{ as_of() }} as as_of

),

mended as (

    -- Such a workbook says so from its first rows on; the index of the raw tables knows where those are.
    {% for dataset in datasets -%}
    select file_id
    from {{ source('raw', dataset) }}
    where source_line <= 64 and mends is not null
    {{ 'union' if not loop.last else '' }}
    {% endfor %}
),

-- Loaded files of each dataset, 1 the newest in the file order of spec.md §2.
files as (

    select
        known.file_id,
        known.path,
        known.dataset,
        known.row_count,
        known.first_date,
        least(known.last_date, parameters.as_of) as last_date,
        known.last_date > parameters.as_of as is_clipped,
        row_number() over (partition by known.dataset order by ordered.file_rank desc) as age
    from {{ source('raw', 'files') }} as known
    inner join {{ ref('stg_files') }} as ordered on known.file_id = ordered.file_id and known.path = ordered.path
    cross join parameters
    where
        (known.first_date is null or known.first_date <= parameters.as_of)
        and known.file_id not in (select mended.file_id from mended)

),

-- Rows of a clipped export outside its span. Most refreshes clip none, and then the lines are not read at all.
later_rows as (

    select
        lines.file_id,
        count(*) as n_rows
    from files
    inner join {{ ref('stg_sales_lines') }} as lines on files.file_id = lines.file_id
    where
        files.is_clipped
        and files.dataset = 'sales_lines'
        and lines.sale_date > {{ as_of() }}
        and (select bool_or(clipped.is_clipped) from files as clipped)
    group by lines.file_id

),

-- Sales exports cover a span of days each, every other export the whole of its dataset.
volumes as (

    select
        files.dataset,
        files.age,
        files.first_date,
        files.last_date,
        case
            when files.dataset = 'sales_lines'
                then
                    (files.row_count - coalesce(later_rows.n_rows, 0))
                    / (files.last_date - files.first_date + 1)::double precision
            else files.row_count::double precision
        end as volume
    from files
    left join later_rows on files.file_id = later_rows.file_id

),

-- Of the sales, the same weekdays 52 weeks before, as long as the history reaches back so far; else the window would
-- look emptier than it was.
window_before as (

    select
        first_date - 364 as first_date,
        last_date - 364 as last_date
    from volumes
    where dataset = 'sales_lines' and age = 1

),

year_before as materialized (

    select
        'sales_lines' as dataset,
        count(*) filter (
            where
            sale_date between (select past.first_date from window_before as past)
            and (select past.last_date from window_before as past)
        )
        / (select (past.last_date - past.first_date + 1)::double precision from window_before as past) as volume
    from {{ ref('fct_sales_lines') }}
    having min(sale_date) filter (where is_counted) <= (select past.first_date from window_before as past)

),

last_files as (

    select
        dataset,
        percentile_cont(0.5) within group (order by volume) as volume,
        count(volume) as n_files
    from volumes
    where age between 2 and 1 + {{ rule_number('circuit_breaker.volume_history_files') }}
    group by dataset

)

select
    newest.dataset,
    newest.file_id,
    newest.path,
    newest.row_count,
    previous.file_id as previous_file_id,
    previous.path as previous_path,
    case when newest.dataset = 'sales_lines' then 'rows per day' else 'rows' end as volume_unit,
    -- A newest export without a single dated row covers nothing with nothing.
    coalesce(volumes.volume, 0) as volume,
    coalesce(year_before.volume, last_files.volume) as expected_volume,
    case
        when year_before.volume is not null then 'the same days a year before'
        when last_files.volume is not null then 'the median of the files before it'
    end as compared_with,
    case when year_before.volume is null then coalesce(last_files.n_files, 0) else 0 end as n_files_compared
from files as newest
inner join volumes on newest.dataset = volumes.dataset and volumes.age = 1
left join files as previous on newest.dataset = previous.dataset and previous.age = 2
left join year_before on newest.dataset = year_before.dataset
left join last_files on newest.dataset = last_files.dataset
where newest.age = 1
