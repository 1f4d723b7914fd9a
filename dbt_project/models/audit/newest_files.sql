{#- A workbook of ours that comes back mended holds the few rows that had been refused: it is no export, and nothing an
    export could be compared with. -#}
{%- set datasets = ['sales_lines', 'customers', 'products', 'stock', 'contacts', 'aliases'] -%}
with parameters as (

    select {{ as_of() }} as as_of

),

mended as (

    {% for dataset in datasets -%}
    select files.file_id
    from {{ ref('stg_files') }} as files
    where
        files.dataset = '{{ dataset }}'
        and exists (
            select 1
            from (
                select lines.mends
                from {{ source('raw', dataset) }} as lines
                where files.file_id = lines.file_id
                order by lines.source_line
                limit 20
            ) as first_rows
            where first_rows.mends is not null
        )
    {{ 'union all' if not loop.last }}
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
    where files.is_clipped and files.dataset = 'sales_lines' and lines.sale_date > {{ as_of() }}
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

-- Of the sales, the same weekdays 52 weeks before.
year_before as (

    select
        newest.dataset,
        count(*) / (newest.last_date - newest.first_date + 1)::double precision as volume
    from volumes as newest
    inner join {{ ref('fct_sales_lines') }} as known
        on known.sale_date between newest.first_date - 364 and newest.last_date - 364
    where
        newest.age = 1
        and newest.dataset = 'sales_lines'
        -- Only where the history reaches back so far; else the window would look emptier than it was.
        and exists (
            select 1 from {{ ref('known_sales_lines') }} as earlier
            where earlier.sale_date <= newest.first_date - 364
        )
    group by newest.dataset, newest.first_date, newest.last_date

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
