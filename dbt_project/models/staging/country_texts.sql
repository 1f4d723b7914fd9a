-- Normalised once per distinct text: a million lines name a handful of countries.
with texts as (

    select country as country_text from {{ source('raw', 'sales_lines') }}
    union
    select delivery_country from {{ source('raw', 'sales_lines') }}
    union
    select country from {{ source('raw', 'customers') }}

),

rules as (

    select key as label, value as country
    from jsonb_each_text({{ rule_json('values.countries') }})

)

select texts.country_text, rules.country
from texts
inner join rules on rules.label = {{ normalize_label('texts.country_text') }}
