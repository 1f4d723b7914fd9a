{{ config(
    tags=['kpis'],
    meta={
        'dagster': {'ref': {'name': 'product_performance'}},
        'description':
            "Every rule that a KPI asks for is in landing.parameters: one that is missing would be a null in a " ~
            "formula. It is missing after an update of the program: a refresh writes it."
    },
) }}

-- depends_on: {{ ref('product_performance') }}
select needed.name
from (
    values
    ('as_of'), ('rules_version'), ('products.recommendable_kinds'), ('permission.inactive_days'),
    ('predictions.churn_interval_factor'), ('kpis.recent_days'), ('kpis.trend_change'), ('kpis.span_days.week'),
    ('kpis.span_days.month'), ('kpis.anomalies.customer_silent.min_orders'),
    ('kpis.anomalies.customer_silent.min_days'), ('kpis.anomalies.customer_silent.given_up_intervals'),
    ('kpis.anomalies.order_value_down.recent_orders'), ('kpis.anomalies.order_value_down.min_past_orders'),
    ('kpis.anomalies.order_value_down.drop'), ('kpis.anomalies.order_value_down.deviations'),
    ('kpis.anomalies.order_value_down.active_days'), ('kpis.anomalies.product_falling.min_orders'),
    ('kpis.anomalies.product_falling.drop'), ('kpis.anomalies.product_falling.deviations'),
    ('kpis.anomalies.volume_off.min_past_years'), ('kpis.anomalies.volume_off.change'),
    ('kpis.anomalies.volume_off.deviations'), ('kpis.anomalies.high_value_ht'), ('kpis.anomalies.max_shares')
) as needed (name)
left join {{ source('landing', 'parameters') }} as parameters on needed.name = parameters.name
where parameters.name is null
