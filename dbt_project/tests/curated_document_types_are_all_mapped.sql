{{ config(severity='warn') }}

-- An unmapped type is reported and closes the gate (spec.md §3).
select document_type, count(*) as lines
from {{ ref('fct_sales_lines') }}
where treatment = 'unmapped'
group by document_type
