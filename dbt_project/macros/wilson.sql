{#- A bound (sign '-' or '+') of a proportion's 95 % interval by its score: E. B. Wilson, "Probable inference, the law
    of succession, and statistical inference", JASA 22 (1927), 209-212. #}
{% macro wilson(share, n, sign) -%}
{%- set z = 1.959963984540054 -%}
(
    {{ share }} + {{ z * z / 2 }} / {{ n }}
    {{ sign }} {{ z }} * sqrt({{ share }} * (1 - {{ share }}) / {{ n }} + {{ z * z / 4 }} / ({{ n }} ^ 2))
) / (1 + {{ z * z }} / {{ n }})
{%- endmacro %}
