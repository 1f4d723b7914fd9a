{{ config(materialized='view') }}

-- The only place that decides what is future (spec.md §3, Dates).
select *
from {{ ref('fct_sales_lines') }}
where is_counted and sale_date <= {{ as_of() }}
