{{ sales_by("coalesce(products.family, '')", family=true) }}

select
    sold as family,
    population,
    n_wines,
    revenue_ht_12m,
    revenue_ht_12m_before,
    {{ change('revenue_ht_12m', 'revenue_ht_12m_before') }} as revenue_change,
    bottles_12m,
    bottles_12m_before,
    orders_12m,
    customers_12m,
    customers_12m_before,
    margin_ht_12m,
    {{ share('revenue_ht_12m') }} as share_12m,
    {{ share('revenue_ht_12m_before') }} as share_12m_before,
    revenue_ht_recent,
    revenue_ht_recent_year_before,
    bottles_recent,
    bottles_recent_year_before,
    {{ change('bottles_recent', 'bottles_recent_year_before') }} as bottles_recent_change,
    {{ trend('revenue_ht_12m', 'revenue_ht_12m_before') }} as trend,
    {{ measured_until() }} as measured_until
from sold
