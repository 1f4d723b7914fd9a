{#- Generic test: no two rows of the model agree in all these columns. -#}
{% test unique_together(model, columns) %}
{{ repeated_rows(model, columns) }}
{% endtest %}

{#- dbt's own test `unique`, which leaves nulls out. -#}
{% macro postgres__test_unique(model, column_name) %}
{{ repeated_rows(model, [column_name], column_name ~ ' is not null') }}
{% endmacro %}

{#- The second row of each repeated key. Sorted, not hashed: a hash of a million keys that outgrows work_mem has taken
    PostgreSQL minutes, filling and clearing its table again for each small part; a sort takes 0.3 s. -#}
{% macro repeated_rows(model, columns, condition='true') %}
select {{ columns | join(', ') }}
from (
    select
        {{ columns | join(', ') }},
        row_number() over (partition by {{ columns | join(', ') }}) as place
    from {{ model }}
    where {{ condition }}
) as numbered
where place = 2
{% endmacro %}
