-- spec.md §2.3, always, for every file.
select file_id, dataset, rows, curated, superseded, quarantined
from {{ ref('file_accounting') }}
where
    rows is distinct from curated + superseded + quarantined
    or superseded < 0
