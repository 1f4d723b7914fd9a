{#- Text of the files as SQL values (spec.md §2.2). Expressions only, no functions to install: every macro renders one
    expression over its argument. Those that name the argument often are meant for distinct values, not for whole
    tables: a staging model parses each distinct text once and joins it back. -#}

{#- Characters nobody sees, which copies from web pages and right-to-left texts leave behind: soft hyphen, zero-width
    space and joiners, direction marks, word joiner, byte order mark. In U&'' notation, for translate(). -#}
{% macro invisible() -%}
    \00ad\200b\200c\200d\200e\200f\2060\feff
{%- endmacro %}

{#- NBSP, NNBSP and their kin are spaces, what nobody sees is gone; trimmed, runs of spaces collapsed, blank is null.
    The regular expression decides first, because nearly every value is clean already. -#}
{% macro clean_text(text) -%}
    case
        when {{ text }} ~ '^\s|\s$|\s\s|[\t\r\n\u00a0\u00ad\u2007\u2009\u200b-\u200f\u202f\u2060\ufeff]'
            then nullif(btrim(regexp_replace(
                translate({{ text }}, U&'\00a0\2007\2009\202f{{ invisible() }}', '    '), '\s+', ' ', 'g'
            )), '')
        else nullif({{ text }}, '')
    end
{%- endmacro %}

{#- A client or product code: NBSP and NNBSP are spaces, trimmed (of what nobody sees too), upper; inner characters are
    kept: C-001 and C001 are two codes. The same as logic/curated.py normalize_code, whose codes it meets. -#}
{% macro client_code(text) -%}
    {%- set outer = '[\s\u00ad\u200b-\u200f\u2060\ufeff]' -%}
    nullif(upper(case
        when {{ text }} ~ '^{{ outer }}|{{ outer }}$|[\u00a0\u202f]'
            then regexp_replace(
                translate({{ text }}, U&'\00a0\202f', '  '), '^{{ outer }}+|{{ outer }}+$', '', 'g'
            )
        else {{ text }}
    end), '')
{%- endmacro %}

{#- Whether a code can be no key: it has neither letter nor digit, is what Excel writes for an error (#N/A, #REF!,
    #VALEUR!), or is what Excel has left of a long number (1,23E+11), whose digits are gone. The same as
    logic/curated.py is_valid_code. -#}
{% macro is_invalid_code(code) -%}
    (
        {{ code }} !~ '^[A-Za-z]'  {#- most are told by this alone #}
        and (
            {{ code }} !~ '[0-9A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u1fff\u3040-\ufaff]'
            or {{ code }} ~ '^(#(N/A|NV|[^ ]+[!?])|[0-9]([.,][0-9]+)?E\+[0-9]{2,3})$'
        )
    )
{%- endmacro %}

{#- Ligatures expanded, accents stripped; everything else as it was. -#}
{% macro strip_accents(text) -%}
    regexp_replace(
        normalize(
            replace(replace(replace(replace(replace({{ text }}, 'œ', 'oe'), 'Œ', 'OE'), 'æ', 'ae'), 'Æ', 'AE'), 'ß', 'ss'),
            NFKD
        ),
        '[\u0300-\u036f]', '', 'g'
    )
{%- endmacro %}

{#- Crémant d’Alsace Extra-Brut -> CREMANT D ALSACE EXTRA BRUT; '' when nothing is left, null for null. -#}
{% macro normalize_label(text) -%}
    btrim(regexp_replace(upper({{ strip_accents(text) }}), '[^A-Z0-9]+', ' ', 'g'))
{%- endmacro %}

{#- oui, non, 1, 0, vrai, ja, inactif … -> boolean; null when blank or neither. -#}
{% macro parse_bool(text) -%}
    case lower(btrim({{ text }}))
        {% for word in ['1', '1.0', '1,0', 'o', 'oui', 'y', 'yes', 't', 'true', 'v', 'vrai', 'x', 'j', 'ja', 'ok',
                        'actif', 'active', 'aktiv'] -%}
        when '{{ word }}' then true
        {% endfor -%}
        {% for word in ['0', '0.0', '0,0', 'n', 'non', 'no', 'f', 'false', 'faux', 'falsch', 'nein', '-', 'inactif',
                        'inactive', 'inaktiv'] -%}
        when '{{ word }}' then false
        {% endfor -%}
    end
{%- endmacro %}

{#- What the first pattern of a rule list that fits says: rules = [{pattern, <result>}, …]; null when none fits.
    For distinct values. -#}
{% macro first_pattern(text, rules, result) -%}
    (
        select rule.value ->> '{{ result }}'
        from jsonb_array_elements({{ rule_json(rules) }}) with ordinality as rule (value, position)
        where {{ text }} ~ (rule.value ->> 'pattern')
        order by rule.position
        limit 1
    )
{%- endmacro %}

{#- 75 cl bottles of one sales unit, from an article or a label; null when the text names no format (one bottle then).
    `caisse|carton (de) N` comes before the rules, which know CAISSE alone as twelve. For distinct values. -#}
{% macro bottle_coefficient(text) -%}
    coalesce(
        substring(upper({{ strip_accents(text) }}) from '(?:CAISSE|CARTON)S?(?: BOIS)?(?: DE)?[ -]?([0-9]{1,2})(?![0-9]| ?(?:CL|ML|L)\M)')::numeric,
        {{ first_pattern('upper(' ~ strip_accents(text) ~ ')', 'values.bottle_coefficients', 'coefficient') }}::numeric
    )
{%- endmacro %}

{#- Content of one unit as its text has it (75 cl, 0,75 L, 1L, 375 ml), in cl; null when it names none. -#}
{% macro centilitres(text) -%}
    {%- set number = '([0-9]{1,3}(?:[.,][0-9]+)?) ?' -%}
    coalesce(
        replace(substring(upper({{ text }}) from '{{ number }}CL\M'), ',', '.')::numeric,
        replace(substring(upper({{ text }}) from '{{ number }}ML\M'), ',', '.')::numeric / 10,
        replace(substring(upper({{ text }}) from '{{ number }}L(?:ITRES?)?\M'), ',', '.')::numeric * 100
    )
{%- endmacro %}
