{#- The rules in force for this refresh, from landing.parameters by their dotted name. Scalar subqueries: PostgreSQL
    evaluates each once per statement. No --vars and no environment: both would invalidate dbt's partial parse. -#}

{% macro rule_json(name) -%}
    (select value from {{ source('landing', 'parameters') }} where name = '{{ name }}')
{%- endmacro %}

{% macro rule_text(name) -%}
    (select value #>> '{}' from {{ source('landing', 'parameters') }} where name = '{{ name }}')
{%- endmacro %}

{% macro rule_number(name) -%}
    (select (value #>> '{}')::numeric from {{ source('landing', 'parameters') }} where name = '{{ name }}')
{%- endmacro %}

{#- The day the refresh looks from (spec.md §4): a date. -#}
{% macro as_of() -%}
    (select (value #>> '{}')::date from {{ source('landing', 'parameters') }} where name = 'as_of')
{%- endmacro %}
