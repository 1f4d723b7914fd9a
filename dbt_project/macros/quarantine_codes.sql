{#- Every code under which a row can be refused (spec.md §2.3). Landing gives RAGGED_ROW, staging the rest. -#}
{% macro quarantine_codes() -%}
    array[
        'MISSING_CLIENT', 'MISSING_DOCUMENT', 'MISSING_PRODUCT', 'MISSING_DATE', 'INVALID_DATE', 'MISSING_QUANTITY',
        'INVALID_NUMBER', 'MISSING_AMOUNT', 'INVALID_KEY', 'RAGGED_ROW'
    ]
{%- endmacro %}
