-- Normalised once per distinct text: a million lines name a handful of countries.
with texts as (

    select unnest(array[country, delivery_country]) as country_text
    from (select distinct country, delivery_country from {{ source('staging', 'client_texts') }}) as sales
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
