-- What the current rows of the files add up to is what the facts add up to, credits by their size.
with staged as (

    select
        count(*) as lines,
        coalesce(sum(abs(coalesce(sales.amount_ht, 0))), 0) as amount_ht
    from {{ ref('sales_line_versions') }} as versions
    inner join {{ ref('stg_sales_lines') }} as sales on versions.row_id = sales.row_id
    where versions.is_current

),

facts as (

    select
        count(*) as lines,
        coalesce(sum(abs(amount_ht)) filter (where not amount_derived), 0) as amount_ht
    from {{ ref('fct_sales_lines') }}

)

select staged.lines, facts.lines as fact_lines, staged.amount_ht, facts.amount_ht as fact_amount_ht
from staged
cross join facts
where staged.lines <> facts.lines or staged.amount_ht <> facts.amount_ht
