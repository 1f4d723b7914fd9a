{{ config(severity='warn') }}

-- The same number on another client, or too many days apart, and documents split over files: reported (spec.md §3).
select order_id, is_number_reused, is_split
from {{ ref('fct_orders') }}
where is_number_reused or is_split
