{{ config(
    meta={
        'dagster': {'ref': {'name': 'stg_files'}},
        'description':
            "Every rule that a model asks for is in landing.parameters: one that is missing would be a null in a " ~
            "formula."
    },
) }}

-- depends_on: {{ ref('stg_files') }}
select needed.name
from (
    values
    ('as_of'), ('tenant.country'), ('tenant.own_addresses'), ('tenant.document_numbers'), ('tenant.exports'),
    ('values.two_digit_year_pivot'), ('values.countries'), ('values.bottle_coefficients'), ('values.vat.default'),
    ('values.vat.by_country'), ('values.vat.by_family'), ('values.vat.other_countries'), ('documents.types'),
    ('documents.same_number_max_days'), ('customers.types'), ('customers.statuses'), ('customers.exclude_customers'),
    ('customers.professional_types'), ('customers.collective_order_share'), ('customers.collective_min_orders'),
    ('products.kinds'), ('products.recommendable_kinds'), ('products.missing_price_days'),
    ('products.stock_coverage_min'), ('products.stock_max_age_days'), ('products.price_segments.standard'),
    ('products.price_segments.premium'), ('products.price_segments.luxury'), ('contacts.statuses'),
    ('audit.fatigue_days')
) as needed (name)
left join {{ source('landing', 'parameters') }} as parameters on needed.name = parameters.name
where parameters.name is null
