{{ config(meta={'dagster': {'ref': {'name': 'fct_sales_lines'}}}) }}

-- What takes a line's place is a line of the same document: a later one of its number, or those of a newer export. Only
-- where every export tells all (spec.md §3) may a document vanish.
select order_id
from {{ ref('sales_line_versions') }}
group by order_id
having
    not bool_or(is_current)
    and {{ rule_text('tenant.exports') }} <> 'full'
