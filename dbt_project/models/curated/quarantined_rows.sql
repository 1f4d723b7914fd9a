select
    null::text as file_id,
    null::text as dataset,
    null::bigint as source_line,
    null::text[] as codes,
    null::jsonb as row,
    null::text as resolved_by
where false
