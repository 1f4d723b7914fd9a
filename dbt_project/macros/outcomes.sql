{#- What the outcomes share. -#}

{#- The day that a moment falls on where the estate is. -#}
{% macro local_day(moment) -%}
    ({{ moment }} at time zone {{ rule_text('tenant.timezone') }})::date
{%- endmacro %}

{#- Days after a message within which an order counts for it: an integer. -#}
{% macro conversion_days() -%}
    {{ rule_number('activation.conversion_days') }}::integer
{%- endmacro %}
