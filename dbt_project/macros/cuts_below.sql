{#- How many of the four ascending numbers of the array `cuts` lie strictly below the value: null when either is. -#}
{% macro cuts_below(value, cuts) -%}
    ({% for i in range(1, 5) %}({{ value }} > {{ cuts }}[{{ i }}])::integer{{ ' + ' if not loop.last }}{% endfor %})
{%- endmacro %}
