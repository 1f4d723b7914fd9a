"""The fifteen measures of the circuit breaker (spec.md §6) at each side of their tolerance.

The models' own SQL over hand-made tables of one healthy estate: each case spoils it just below a tolerance, or just
up to it, and says how much is bad of how much. Below, the check still scores; at the tolerance it scores 0.
"""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
import psycopg
import pytest
import yaml

from crm_assets import databases, rules
from crm_assets.dbt_manifest import PROJECT
from crm_assets.logic import audit
from tests.conftest import PREFIX, fresh_warehouse
from tests.dbt.macros import model

RULES = rules.load({})
BREAKER = RULES.circuit_breaker

# 200 counted lines: 100 of the last 365 days (the oldest 364 days old) and 100 before them, of products and customers
# nobody knows; two of them later than the as-of date or of no sale. 40 products of a catalogue, half of them active,
# and one only seen in sales; 40 customers, half of them active, and a till. The newest sales file has 10 rows a day, as
# the same days a year before had; its lines are those of ages 364 and 365.
HEALTHY = """
    insert into landing.parameters (name, value) values
        ('as_of', '"2025-12-31"'),
        ('circuit_breaker.window_days', '365'), ('circuit_breaker.stale_after_days', '14'),
        ('circuit_breaker.stale_span_days', '31'), ('circuit_breaker.volume_history_files', '8'),
        ('circuit_breaker.max_realistic_price', '1000');

    insert into curated.fct_sales_lines (
        line_id, sale_date, quantity, amount_ht, is_counted, is_product_inferred, is_customer_inferred, has_conflict
    )
    select n::text, '2025-12-31'::date - age, 1, 10, true, n > 100, n > 100, false
    from generate_series(1, 200) as n
    cross join lateral (
        select case when n < 100 then 1 when n = 100 then 364 when n < 200 then 365 else 400 end as age
    ) as ages
    union all
    values
        ('future', '2026-01-01'::date, 0::numeric, 0::numeric, true, true, true, true),
        ('quote', '2025-12-30', 0, 0, false, true, true, true);

    insert into curated.dim_products (product_key, margin, price_ttc, family, is_active, is_archived, is_inferred)
    select n::text, 0, case n when 40 then null when 39 then 0.01 else 1000 end,
        case when n <= 20 then 'Blanc' end, n <> 21, n > 21, false
    from generate_series(1, 40) as n
    union all
    values ('seen', -5, 0, null, true, false, true);

    insert into curated.dim_customers (
        customer_id, status, email, email_status, last_name, full_name, postal_code, is_collective
    )
    select n::text, case when n <= 20 then 'active' else 'moved' end,
        case when n < 20 then n || '@example.org' end, case when n < 20 then 'valid' when n = 20 then 'invalid'
        else 'missing' end, case when n between 2 and 20 then 'A' end, case when n = 1 then 'B' end,
        case when n <= 20 then '67000' end, false
    from generate_series(1, 40) as n
    union all
    values ('till', 'active', '1@example.org', 'missing', null, null, null, true);

    insert into raw.files (
        path, sha256, file_id, dataset, status, size_bytes, modified_at, first_seen_at, order_key, row_count, mapping,
        unmapped_headers, first_date, last_date
    )
    select id || '.csv', id, id, dataset, 'loaded', 1, now(), now(), id, rows, mapping::jsonb, '{}', first, last
    from (values
        ('S1', 'sales_lines', 100, '{"A": "a", "B": "b", "C": "c", "D": "d", "E": "e", "F": "f"}',
            '2025-12-12'::date, '2025-12-21'::date),
        ('S2', 'sales_lines', 100, '{"A": "a", "B": "b", "C": "c", "D": "d", "E": "e", "F": "f", "Z": "new"}',
            '2025-12-22', '2025-12-31'),
        ('C1', 'customers', 100, '{"A": "a", "B": "b", "C": "c", "D": "d"}', null, null),
        ('C2', 'customers', 100, '{"A": "a", "B": "b", "C": "c", "D": "d"}', null, null)
    ) as files (id, dataset, rows, mapping, first, last);

    insert into curated.file_accounting (file_id, path, dataset, rows, curated, superseded, quarantined)
    select file_id, path, dataset, row_count, 0, 0, case when file_id like '%1' then 100 else 0 end from raw.files;
"""

HAND_MADE = (
    *("staging.stg_sales_lines", "curated.fct_sales_lines", "curated.dim_products", "curated.dim_customers"),
    "curated.file_accounting",
)
MODELS = ("curated.known_sales_lines", "audit.newest_files", "audit.schema_changes", "audit.quality_measures")
# Of the model only what newest_files asks of it; the real one numbers the files of a build.
FILES_VIEW = """
    create view staging.stg_files as
    select file_id, path, row_number() over (order by order_key collate "C") as file_rank from raw.files
"""


def lines(change: str, n: int) -> str:
    """The n newest known lines, changed."""
    return f"update curated.fct_sales_lines set {change} where line_id in (select generate_series(1, {n})::text)"


def products(change: str, which: str) -> str:
    return f"update curated.dim_products set {change} where not is_inferred and product_key::int {which}"


def customers(change: str, which: str) -> str:
    return f"update curated.dim_customers set {change} where not is_collective and customer_id::int {which}"


def rows_of(file_id: str, n: int) -> str:
    return f"update raw.files set row_count = {n} where file_id = '{file_id}'"


def newest_sale(age: int) -> str:
    """No known sale is younger than so many days."""
    day = f"'2025-12-31'::date - {age}"
    return (
        f"update curated.fct_sales_lines set sale_date = {day} where line_id in (select generate_series(1, 99)::text)"
    )


# Eight files of 5 and 15 rows a day, and one before them of 1,000; nothing is known of a year before.
NINE_FILES = """
    delete from curated.fct_sales_lines where sale_date < '2025-12-01';
    insert into raw.files (
        path, sha256, file_id, dataset, status, size_bytes, modified_at, first_seen_at, order_key, row_count,
        first_date, last_date
    )
    select n::text, n::text, n::text, 'sales_lines', 'loaded', 1, now(), now(), 'A' || n,
        case n when 1 then 10000 when 2 then 50 when 3 then 50 when 4 then 50 when 5 then 50 else 150 end,
        '2025-11-01', '2025-11-10'
    from generate_series(1, 8) as n;
    update raw.files set row_count = 150 where file_id = 'S1';
"""

# check, what is done to the healthy estate, bad, total, is the tolerance reached
CASES: tuple[tuple[str, str, float, float, bool], ...] = (
    ("UNKNOWN_PRODUCT", lines("is_product_inferred = true", 19), 19, 100, False),
    ("UNKNOWN_PRODUCT", lines("is_product_inferred = true", 20), 20, 100, True),
    ("UNKNOWN_CLIENT", lines("is_customer_inferred = true", 19), 19, 100, False),
    ("UNKNOWN_CLIENT", lines("is_customer_inferred = true", 20), 20, 100, True),
    ("INVALID_SALE_VALUE", lines("amount_ht = 0", 19), 19, 200, False),
    ("INVALID_SALE_VALUE", lines("amount_ht = 0", 20), 20, 200, True),
    ("INVALID_SALE_VALUE", lines("amount_ht = -10", 20), 20, 200, True),
    ("INVALID_SALE_VALUE", lines("quantity = -1, amount_ht = -10", 100), 0, 200, False),
    ("ZERO_QUANTITY", lines("quantity = 0", 19), 19, 200, False),
    ("ZERO_QUANTITY", lines("quantity = 0", 20), 20, 200, True),
    ("DUPLICATE_LINE", lines("has_conflict = true", 9), 9, 200, False),
    ("DUPLICATE_LINE", lines("has_conflict = true", 10), 10, 200, True),
    ("NEGATIVE_MARGIN", products("margin = -0.01", "<= 11"), 11, 40, False),
    ("NEGATIVE_MARGIN", products("margin = -0.01", "<= 12"), 12, 40, True),
    ("STALE_SALES", newest_sale(14), 0, 31, False),
    ("STALE_SALES", newest_sale(15), 1, 31, False),
    ("STALE_SALES", newest_sale(44), 30, 31, False),
    ("STALE_SALES", newest_sale(45), 31, 31, True),
    ("STALE_SALES", newest_sale(46), 32, 31, True),
    ("STALE_SALES", "delete from curated.fct_sales_lines", 31, 31, True),
    ("VOLUME_DROP", rows_of("S2", 11), 8.9, 10, False),
    ("VOLUME_DROP", rows_of("S2", 10), 9, 10, True),
    ("VOLUME_DROP", rows_of("S2", 1000), 0, 10, False),
    ("VOLUME_DROP", NINE_FILES + rows_of("S2", 11), 8.9, 10, False),
    ("VOLUME_DROP", NINE_FILES + rows_of("S2", 10), 9, 10, True),
    ("MISSING_EMAIL_RATE", customers("email_status = 'missing'", "<= 11"), 11, 20, False),
    ("MISSING_EMAIL_RATE", customers("email_status = 'missing'", "<= 12"), 12, 20, True),
    ("DUPLICATE_EMAIL", customers("email = 'a@a.fr'", "between 1 and 3"), 3, 40, False),
    ("DUPLICATE_EMAIL", customers("email = 'a@a.fr'", "between 18 and 21"), 4, 40, True),
    ("INCOMPLETE_PROFILE", customers("postal_code = null", "<= 7"), 7, 20, False),
    ("INCOMPLETE_PROFILE", customers("full_name = null, last_name = null", "<= 8"), 8, 20, True),
    ("MISSING_FAMILY", products("family = null", "<= 5"), 5, 20, False),
    ("MISSING_FAMILY", products("family = null", "<= 6"), 6, 20, True),
    ("UNREALISTIC_PRICE", products("price_ttc = 1000.01", "= 1"), 1, 40, False),
    ("UNREALISTIC_PRICE", products("price_ttc = 0", "in (1, 40)"), 2, 40, True),
    ("QUARANTINE_RATE", "update curated.file_accounting set quarantined = 19 where file_id = 'S2'", 19, 200, False),
    ("QUARANTINE_RATE", "update curated.file_accounting set quarantined = 10 where file_id like '%2'", 20, 200, True),
    ("SCHEMA_DRIFT", "update raw.files set mapping = mapping - 'A' where file_id like '%2'", 2, 10, False),
    ("SCHEMA_DRIFT", "update raw.files set mapping = mapping - 'A' - 'B' where file_id = 'S2';"
     " update raw.files set mapping = mapping - 'C' where file_id = 'C2'", 3, 10, True),
)  # fmt: skip


def create_table(name: str) -> str:
    """A table as the contract of its model says, without its constraints."""
    schema, model_name = name.split(".")
    said = yaml.safe_load((PROJECT / "models" / schema / f"{model_name}.yml").read_text("utf-8"))
    (columns,) = (one["columns"] for one in said["models"] if one["name"] == model_name)
    described = ", ".join(f"{one['name']} {one['data_type']}" for one in columns)
    return f"create table {name} ({described})"


@pytest.fixture(scope="module")
def estate(cluster: databases.Cluster, template: str) -> Iterator[psycopg.Connection]:
    """A healthy estate, and the models over it as views."""
    with (
        fresh_warehouse(cluster, template, f"{PREFIX}quality") as warehouse,
        psycopg.connect(warehouse.url) as connection,
    ):
        for name in HAND_MADE:
            connection.execute(create_table(name).encode())
        connection.execute(FILES_VIEW.encode())
        for name in MODELS:
            connection.execute(f"create view {name} as {model(name.split('.')[1])}".encode())
        connection.execute(HEALTHY.encode())
        connection.commit()
        yield connection


def measured(estate: psycopg.Connection, change: str = "") -> pd.DataFrame:
    """check_code, bad, total after a change that is taken back."""
    if change:
        estate.execute(change.encode())
    rows = estate.execute("select check_code, bad, total from audit.quality_measures").fetchall()
    estate.rollback()
    return pd.DataFrame(rows, columns=["check_code", "bad", "total"])


def test_a_healthy_estate_has_nothing_bad(estate: psycopg.Connection) -> None:
    assert not measured(estate)["bad"].any()
    assert {code for code, *_ in CASES} == set(BREAKER.tolerances)


@pytest.mark.parametrize(
    ("code", "change", "bad", "total", "is_reached"), CASES, ids=[f"{c[0]}-{c[2]:g}-of-{c[3]:g}" for c in CASES]
)
def test_a_check_scores_below_its_tolerance_and_not_at_it(
    estate: psycopg.Connection, code: str, change: str, bad: float, total: float, is_reached: bool
) -> None:
    measures = measured(estate, change)
    found = measures.set_index("check_code").loc[code]
    assert (found["bad"], found["total"]) == (pytest.approx(bad), total)
    quality = audit.data_quality(measures, RULES).set_index("check_code").loc[code]
    assert (quality["score"] == 0) == is_reached
    trips = audit.breaker(audit.data_quality(measures, RULES), RULES)
    assert (code in trips.failed_checks) == (is_reached and quality["severity"] == "ERROR")
