{{ spans_of(source('customers', 'cluster_history')) }},

-- A cluster keeps its id; its name may change with its profile: the newest is shown on both sides.
names as (
    select distinct on (span, cluster_id)
        span,
        cluster_id,
        cluster_name
    from (
        select span, cluster_id, cluster_name, to_date as day
        from after
        union all
        select span, cluster_id, cluster_name, from_date as day
        from before
    ) as named
    order by span, cluster_id, day desc, cluster_name collate "C"
),

{{ ways_of('cluster_id') }}

select
    ways.span,
    ways.population,
    ways.from_date,
    ways.to_date,
    ways.from_cluster_id,
    coalesce(from_names.cluster_name, ways.from_cluster_id) as from_cluster_name,
    ways.to_cluster_id,
    coalesce(to_names.cluster_name, ways.to_cluster_id) as to_cluster_name,
    ways.customers,
    ways.customers::double precision
    / sum(ways.customers) over (partition by ways.span, ways.population, ways.from_cluster_id) as share
from ways
left join names as from_names on from_names.span = ways.span and from_names.cluster_id = ways.from_cluster_id
left join names as to_names on to_names.span = ways.span and to_names.cluster_id = ways.to_cluster_id
