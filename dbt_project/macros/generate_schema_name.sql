{#- A model's schema is its stage. A run for an earlier day (spec.md §5) builds the same models in `<stage>_asof`
    schemas, so that the latest state stays as it is; models that keep history write to the one real schema. -#}
{% macro generate_schema_name(custom_schema_name, node) -%}
    {%- set schema = (custom_schema_name or target.schema) | trim -%}
    {%- if node.config.get('meta', {}).get('keeps_history') -%}
        {{ schema }}
    {%- else -%}
        {{ schema }}{{ env_var('CRM_DBT_SCHEMA_SUFFIX', '') }}
    {%- endif -%}
{%- endmacro %}
