select
    null::text as file_id,
    null::text as path,
    null::text as dataset,
    null::bigint as rows,
    null::bigint as curated,
    null::bigint as superseded,
    null::bigint as quarantined
where false
