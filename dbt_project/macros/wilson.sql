{#- A bound (sign '-' or '+') of a proportion's interval by its score, at 95 % unless another quantile `z` of the normal
    distribution is given: E. B. Wilson, "Probable inference, the law of succession, and statistical inference",
    JASA 22 (1927), 209-212. Null where `n` is 0. #}
{% macro wilson(share, n, sign, z='1.959963984540054') -%}
(
    {{ share }} + {{ z }} ^ 2 / 2 / nullif({{ n }}, 0)
    {{ sign }} {{ z }} * sqrt({{ share }} * (1 - {{ share }}) / nullif({{ n }}, 0) + {{ z }} ^ 2 / 4 / (nullif({{ n }}, 0) ^ 2))
) / (1 + {{ z }} ^ 2 / nullif({{ n }}, 0))
{%- endmacro %}

{#- A bound of the difference share - other_share by the two Wilson intervals: R. G. Newcombe, "Interval estimation for
    the difference between independent proportions", Statistics in Medicine 17 (1998), 873-890, method 10. #}
{% macro newcombe(share, n, other_share, other_n, sign, z='1.959963984540054') -%}
{%- set other_sign = '+' if sign == '-' else '-' -%}
(
    {{ share }} - {{ other_share }} {{ sign }} sqrt(
        ({{ share }} - {{ wilson(share, n, sign, z) }}) ^ 2
        + ({{ other_share }} - {{ wilson(other_share, other_n, other_sign, z) }}) ^ 2
    )
)
{%- endmacro %}
