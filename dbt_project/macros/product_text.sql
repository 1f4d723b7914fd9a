{#- One number for what a line calls its product: key, label, vintage and article as in the file. `of` is the alias of
    the table they are columns of, with its dot. -#}
{% macro text_id(of='') -%}
    hashtextextended(concat_ws(
        chr(31),
        {% for text in ['product_key', 'product_label', 'vintage', 'article'] -%}
        coalesce({{ of }}{{ text }}, ''){{ ',' if not loop.last }}
        {% endfor -%}
    ), 0)
{%- endmacro %}
