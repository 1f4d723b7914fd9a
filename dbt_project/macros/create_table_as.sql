{#- dbt-postgres fills a table with an enforced contract by `insert into … select`, which PostgreSQL never runs in
    parallel. `create table … as` may; the contract (names, types, order) is asserted before it. Constraints other
    than the contract's names and types are tests here, never DDL. -#}
{% macro postgres__create_table_as(temporary, relation, sql) -%}
    {%- set contracted = config.get('contract').enforced and not temporary -%}
    {%- if contracted -%}
        {{ get_assert_columns_equivalent(sql) }}
    {%- endif %}
    create {% if temporary -%} temporary {%- elif config.get('unlogged') -%} unlogged {%- endif %} table {{ relation }}
    as (
        {%- if contracted %}
        {{ get_select_subquery(sql) }}
        {%- else %}
        {{ sql }}
        {%- endif %}
    );
{%- endmacro %}
