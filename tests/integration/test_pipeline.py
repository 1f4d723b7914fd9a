"""The whole path, really run: dropped files to a gated, planned batch, for two estates at once.

One estate's life in order (the tests of this module build on one another): first drop, no change, the same again,
an earlier day, one more export beside a file of garbage, a plan and its dry run. Few runs, many looks.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from crm_assets import run_context, up
from crm_assets.databases import Cluster
from crm_assets.dbt_manifest import PROJECT, dbt_executable
from crm_assets.resources.warehouse import Warehouse, WarehouseError
from crm_assets.settings import ROOT, Settings
from crm_assets.tenants import Registry

CAMPAIGN_FOLDERS = ("demo", "vieux_lavoir")


@dataclass
class Estates:
    """Two estates, their folders and databases."""

    config: Settings
    cluster: Cluster
    first: dict[str, dict[str, Any]]

    def warehouse(self, slug: str) -> Warehouse:
        return Warehouse(self.cluster.tenant_url(slug))

    def crm(self, *arguments: str, code: int = 0) -> dict[str, Any]:
        return finish(start(*arguments), code)


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "crm_assets.cli", *arguments, "--json"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], code: int = 0) -> dict[str, Any]:
    out, err = process.communicate(timeout=240)
    assert process.returncode == code, f"{err[-3000:]}\n{out[-2000:]}"
    lines = out.strip().splitlines()
    assert len(lines) == 1, f"one JSON object on stdout, found: {out[:500]}"
    loaded: dict[str, Any] = json.loads(lines[0])
    return loaded


@pytest.fixture(scope="module")
def estates(environment: Settings, cluster: Cluster) -> Iterator[Estates]:
    environment.tenants.mkdir(parents=True, exist_ok=True)
    for name in ("demo.yaml", "vieux_lavoir.yaml"):
        shutil.copy(ROOT / "tenants" / name, environment.tenants / name)
    for slug in CAMPAIGN_FOLDERS:
        shutil.copytree(ROOT / "tenants" / slug, environment.tenants / slug, dirs_exist_ok=True)
    # Both estates have the samples, the second without its last year: what they end with must differ.
    for slug in ("demo", "vieux_lavoir"):
        up.drop_samples(environment, slug)
    for late in (environment.data / "vieux_lavoir" / "raw" / "isavigne" / "ventes_lignes").glob("*2025*"):
        late.unlink()
    runs = {slug: start("run", "--tenant", slug) for slug in ("demo", "vieux_lavoir")}
    yield Estates(environment, cluster, {slug: finish(process) for slug, process in runs.items()})
    shutil.rmtree(environment.tenants)
    shutil.rmtree(environment.data)


# What a run must leave alone when nothing has changed: the rows that another stage, a person or Brevo acts on.
COUNTED = [
    "raw.files",
    "raw.sales_lines",
    "raw.customers",
    "curated.dim_customers",
    "curated.dim_products",
    "curated.fct_sales_lines",
    "curated.fct_orders",
    "curated.quarantined_rows",
    "rfm.customer_rfm",
    "rfm.customer_rfm_history",
    "customers.clusters",
    "customers.predictions",
    "recommendations.runs",
    "recommendations.items",
    "recommendations.backtests",
    "audit.findings",
    "audit.scores",
    "gate.decisions",
    "gate.next_actions",
]


def counts(warehouse: Warehouse) -> dict[str, int]:
    return {name: warehouse.count(*name.split(".")) for name in COUNTED}


def content(warehouse: Warehouse, table: str, order: str) -> str:
    """A hash over all bytes of a table."""
    rows = warehouse.rows(f"select t::text from {table} t order by {order}")
    return hashlib.sha256("\n".join(row[0] for row in rows).encode()).hexdigest()


def run_content(warehouse: Warehouse, run_id: str | None = None) -> dict[str, str]:
    """A hash per run-keyed table of what recommendation runs, or one of them, left behind."""
    keys = {
        "runs": "run_id",
        "items": 'run_id, customer_id collate "C", rank',
        "backtests": "run_id, part, engine, top",
    }
    where = f" where run_id = '{run_id}'" if run_id else ""
    return {
        table: content(warehouse, f"(select * from recommendations.{table}{where})", key) for table, key in keys.items()
    }


def latest_state(warehouse: Warehouse) -> dict[str, str]:
    keys = {
        "rfm.customer_rfm": "customer_id",
        "curated.dim_customers": "customer_id",
        "curated.dim_products": "product_key",
        "customers.clusters": "customer_id",
        "customers.predictions": "customer_id",
        "customers.taste_profiles": "customer_id",
        "landing.parameters": "name",
    }
    return {table: content(warehouse, table, f'{key} collate "C"') for table, key in keys.items()}


def test_two_estates_dropped_at_the_same_moment_both_end_right(estates: Estates) -> None:
    demo, other = estates.first["demo"], estates.first["vieux_lavoir"]
    assert demo["changed"]
    assert demo["gate"]["status"] == "open", demo["gate"]["reasons"]
    assert demo["gate"]["as_of"] == "2025-12-31"
    assert demo["gate"]["n_eligible"] >= 50
    # The second follows the calendar: by today its last sale is long ago, and the breaker must say so.
    assert other["gate"]["status"] == "closed"
    assert "CIRCUIT_BREAKER" in other["gate"]["reasons"]
    assert other["run_id"] != demo["run_id"]
    left, right = (estates.warehouse(slug).count("curated", "fct_sales_lines") for slug in CAMPAIGN_FOLDERS)
    assert left > right > 0


def test_neither_role_can_read_the_others_database(estates: Estates) -> None:
    cluster = estates.cluster
    for mine, other in (CAMPAIGN_FOLDERS, CAMPAIGN_FOLDERS[::-1]):
        with pytest.raises(psycopg.OperationalError, match="permission denied"):
            psycopg.connect(cluster.url(cluster.role(mine), database=cluster.role(other)))


def test_rows_in_are_curated_superseded_or_quarantined_for_every_file(estates: Estates) -> None:
    for slug in CAMPAIGN_FOLDERS:
        warehouse = estates.warehouse(slug)
        files = warehouse.rows("select file_id, row_count from raw.files where status = 'loaded'")
        accounted = warehouse.rows(
            "select file_id, rows, curated, superseded, quarantined from curated.file_accounting"
        )
        assert {file_id for file_id, _ in files} == {row[0] for row in accounted}
        for file_id, rows, curated, superseded, quarantined in accounted:
            assert rows == dict(files)[file_id]
            assert rows == curated + superseded + quarantined, file_id


def test_every_bad_row_of_the_samples_is_quarantined_with_its_codes(estates: Estates) -> None:
    from benchmarks.generate_estate import build_samples

    warehouse = estates.warehouse("demo")
    found = {
        (path, line): set(codes)
        for path, line, codes in warehouse.rows(
            "select f.path, q.source_line, q.codes from curated.quarantined_rows q join raw.files f using (file_id)"
        )
    }
    expected = {(f"isavigne/{d.path.removeprefix('isavigne/')}", d.line): set(d.codes) for d in build_samples().defects}
    assert set(found) == set(expected)
    for place, codes in expected.items():
        assert codes <= found[place], place


def test_mapping_reports_foretold_what_is_quarantined(estates: Estates) -> None:
    """`crm mapping preview` reads no database and says which rows will be refused: staging must agree, row by row."""
    warehouse = estates.warehouse("demo")
    foretold = {
        (file_id, refusal["code"]): (refusal["count"], refusal["lines"])
        for file_id, report in warehouse.rows("select file_id, report from raw.file_reports")
        for refusal in report["refusals"]
    }
    quarantined = {
        (file_id, code): (count, lines)
        for file_id, code, count, lines in warehouse.rows(
            "select file_id, code, count(*), (array_agg(source_line order by source_line))[:5]"
            " from curated.quarantined_rows cross join unnest(codes) as code group by 1, 2"
        )
    }
    assert foretold == quarantined
    assert warehouse.rows("select sum((report #>> '{rows,refused}')::int) from raw.file_reports") == [
        (warehouse.count("curated", "quarantined_rows"),)
    ]


def test_curated_columns_are_those_of_the_spec(estates: Estates) -> None:
    main_columns = {
        "fct_sales_lines": "line_id customer_id client_code document_type document_no line_no order_id sale_date"
        " delivery_date product_key wine_id product_label quantity bottles unit_price_ht amount_ht amount_ttc margin"
        " amount_derived is_gift file_id source_line",
        "fct_orders": "order_id customer_id document_type document_no order_date lines bottles amount_ht amount_ttc"
        " margin is_credit_note is_qualifying",
        "dim_customers": "customer_id client_codes type status last_name first_name email email_status opt_in"
        " opted_out is_email_contact phone address postal_code city country language first_order_date"
        " last_order_date is_collective is_inferred",
        "dim_products": "product_key wine_id kind label vintage format_cl family sub_family colour grape sweetness"
        " price_ttc price_75cl_ttc cost margin price_segment premium_tier aroma_fruit aroma_floral aroma_spice"
        " aroma_mineral aroma_acidity aroma_body aroma_tannin season_tags available is_active is_archived is_inferred",
        "quarantined_rows": "file_id dataset source_line codes row resolved_by",
    }
    warehouse = estates.warehouse("demo")
    for table, columns in main_columns.items():
        rows = warehouse.rows(
            "select column_name from information_schema.columns where table_schema = 'curated' and table_name = %s",
            [table],
        )
        assert set(columns.split()) <= {row[0] for row in rows}, table


def test_every_customer_has_one_next_action_with_a_reason_or_none(estates: Estates) -> None:
    warehouse = estates.warehouse("demo")
    customers = warehouse.count("curated", "dim_customers")
    rows = warehouse.rows(
        "select count(*), count(distinct customer_id), count(*) filter (where not eligible and reason is null)"
        " from gate.next_actions"
    )
    assert rows == [(customers, customers, 0)]
    scenarios = {row[0] for row in warehouse.rows("select distinct scenario from recommendations.items")}
    assert scenarios == {"rebuy", "cross_sell", "upsell", "winback", "nurture"}


def test_nobody_who_said_no_is_eligible(estates: Estates) -> None:
    wrong = estates.warehouse("demo").rows(
        "select count(*) from gate.next_actions a join curated.dim_customers c using (customer_id)"
        " left join curated.addresses e on e.address = c.email where a.eligible and"
        " (c.opted_out or coalesce(e.is_refused or e.is_bounced, false) or c.status in ('deceased', 'do_not_contact')"
        "  or c.is_collective or c.email is null or not c.is_email_contact)"
    )
    assert wrong == [(0,)]


def test_without_news_nothing_runs(estates: Estates) -> None:
    warehouse = estates.warehouse("demo")
    before = counts(warehouse)
    again = estates.crm("run", "--tenant", "demo")
    assert again["changed"] is False
    assert again["run_id"] == estates.first["demo"]["run_id"]
    assert counts(warehouse) == before


def test_the_same_again_is_the_same_bytes(estates: Estates) -> None:
    warehouse = estates.warehouse("demo")
    before = counts(warehouse), run_content(warehouse), latest_state(warehouse)
    again = estates.crm("run", "--tenant", "demo", "--force")
    assert again["run_id"] == estates.first["demo"]["run_id"]
    assert (counts(warehouse), run_content(warehouse), latest_state(warehouse)) == before


def test_a_run_for_an_earlier_day_leaves_the_present_alone(estates: Estates) -> None:
    warehouse = estates.warehouse("demo")
    state = latest_state(warehouse)
    of_first = run_content(warehouse, estates.first["demo"]["run_id"])
    earlier = estates.crm("run", "--tenant", "demo", "--as-of", "2025-06-30")
    assert earlier["gate"]["status"] == "closed"
    assert "HISTORICAL" in earlier["gate"]["reasons"]
    assert latest_state(warehouse) == state
    assert run_content(warehouse, estates.first["demo"]["run_id"]) == of_first
    ((as_of, is_historical),) = warehouse.rows(
        "select as_of::text, is_historical from recommendations.runs where run_id = %s", [earlier["run_id"]]
    )
    assert (as_of, is_historical) == ("2025-06-30", True)
    ((last_day,),) = warehouse.rows(
        "select max(cut + window_days)::text from recommendations.backtests where run_id = %s", [earlier["run_id"]]
    )
    assert last_day <= "2025-07-01", "nothing after its day is known"
    assert warehouse.rows("select distinct as_of::text from rfm.customer_rfm_history order by 1") == [
        ("2025-06-30",),
        ("2025-12-31",),
    ]
    assert warehouse.rows("select nspname from pg_namespace where nspname like '%\\_asof'") == []
    status = estates.crm("status", "--tenant", "demo")["tenants"]["demo"]
    assert status["gate"]["run_id"] == estates.first["demo"]["run_id"]
    known_later = warehouse.rows(
        "select count(*) from recommendations.items i join curated.fct_sales_lines l"
        " on l.customer_id = i.customer_id and l.wine_id = i.wine_id and l.is_counted"
        " where i.run_id = %s and i.scenario = 'rebuy'"
        " group by i.customer_id, i.wine_id having min(l.sale_date) > date '2025-06-30'",
        [earlier["run_id"]],
    )
    assert known_later == [], "a rebuy can only be of a wine bought by then"


def test_one_more_export_updates_everything_and_garbage_fails_alone(estates: Estates) -> None:
    warehouse = estates.warehouse("demo")
    before = counts(warehouse)
    runs_before = run_content(warehouse, estates.first["demo"]["run_id"])
    folder = estates.config.data / "demo" / "raw" / "isavigne" / "ventes_lignes"
    header = (folder / "ventes_2025-12-10.csv").read_bytes().decode("utf-8-sig").splitlines()[0]
    ((fields,),) = warehouse.rows("select mapping from raw.files where path like '%ventes_2025-12-10.csv'")
    buyer, product = warehouse.rows(
        "select a.client_code, p.product_key from gate.next_actions a, curated.dim_products p"
        " where a.eligible and p.kind = 'wine' and p.is_recommendable order by 1, 2 limit 1"
    )[0]
    values = {
        "client_code": buyer,
        "document_no": "NEW-1",
        "document_type": "FACTURE",
        "line_no": "1",
        "product_key": product,
        "order_date": "31/12/2025",
        "delivery_date": "31/12/2025",
        "quantity": "6",
        "unit_price_ht": "10,00",
        "amount_ht": "60,00",
        "amount_ttc": "72,00",
    }
    row = [values.get(fields.get(name, ""), "") for name in header.split(";")]
    (folder / "ventes_2026-01-01.csv").write_text(f"{header}\n{';'.join(row)}\n", encoding="utf-8")
    (folder / "ventes_garbage.csv").write_bytes(bytes(range(256)) * 40)
    objector = object_to_profiling(estates)
    after = estates.crm("run", "--tenant", "demo")
    assert after["changed"]
    assert after["run_id"] != estates.first["demo"]["run_id"]
    now = counts(warehouse)
    assert now["curated.fct_sales_lines"] == before["curated.fct_sales_lines"] + 1
    assert now["curated.fct_orders"] == before["curated.fct_orders"] + 1
    assert now["gate.decisions"] == before["gate.decisions"] + 1
    assert now["recommendations.runs"] == before["recommendations.runs"] + 1
    assert run_content(warehouse, estates.first["demo"]["run_id"]) == runs_before
    ((recency, reason),) = warehouse.rows(
        "select r.recency_days, a.reason from rfm.customer_rfm r join gate.next_actions a using (customer_id)"
        " where a.client_code = %s and a.run_id = %s",
        [buyer, after["run_id"]],
    )
    assert (recency, reason) == (0, "RECENT_ORDER")
    status = estates.crm("status", "--tenant", "demo")["tenants"]["demo"]
    (bad,) = status["troubled_files"]
    assert bad["path"].endswith("ventes_garbage.csv")
    assert bad["status"] in {"unreadable", "refused"}
    assert bad["reason"]
    assert any("ventes_garbage.csv" in alert["message"] for alert in status["alerts"])
    assert any("readable" in check for check in after["failed_checks"])
    assert objector in known_to(warehouse, "gate.next_actions", f"run_id = '{after['run_id']}'")


def object_to_profiling(estates: Estates) -> str:
    """Drop the two columns that say so of a buyer who has everything it takes away (docs/operations.md); who it is."""
    code, customer = estates.warehouse("demo").rows(
        "select a.client_code, a.customer_id from gate.next_actions a join customers.clusters using (customer_id)"
        " where a.eligible and a.run_id = %s order by 1 desc limit 1",
        [estates.first["demo"]["run_id"]],
    )[0]
    folder = estates.config.data / "demo" / "raw" / "isavigne" / "clients"
    (folder / "clients_2026-01-01.csv").write_text(f"Code client;Opposition profilage\n{code};oui\n", "utf-8")
    return str(customer)


def known_to(warehouse: Warehouse, table: str, where: str = "true") -> set[str]:
    return {row[0] for row in warehouse.rows(f"select customer_id from {table} where {where}")}


def test_who_objects_to_profiling_is_in_the_accounts_and_nowhere_else(estates: Estates) -> None:
    """spec.md §4.4: from the drop of the test above to the gate. What was known before stays in the older run."""
    warehouse = estates.warehouse("demo")
    (objector,) = known_to(warehouse, "curated.dim_customers", "profiling_objected")
    assert known_to(warehouse, "curated.dim_customers", "email <> '' and postal_code <> ''") >= {objector}
    for table in ("clusters", "predictions", "taste_profiles"):
        assert warehouse.count("customers", table) > 0
        assert objector not in known_to(warehouse, f"customers.{table}"), table
    assert objector not in known_to(warehouse, "rfm.customer_preferences")
    ((segment, frequency, score, method),) = warehouse.rows(
        "select segment, frequency, rfm_score, method from rfm.customer_rfm where customer_id = %s", [objector]
    )
    assert (segment, score, method) == ("Not profiled", None, None)
    assert frequency > 0
    runs = warehouse.rows("select run_id from gate.decisions where as_of = date '2025-12-31' order by decided_at")
    before, after = runs[0][0], runs[-1][0]
    assert objector in known_to(warehouse, "recommendations.items", f"run_id = '{before}'")
    assert objector not in known_to(warehouse, "recommendations.items", f"run_id = '{after}'")
    assert warehouse.rows(
        "select eligible, permitted, reason, scenario from gate.next_actions where customer_id = %s and run_id = %s",
        [objector, after],
    ) == [(False, True, "NO_RECOMMENDATION", None)]
    assert objector in known_to(warehouse, "rfm.purchases"), "what was sold still counts"


def test_a_plan_is_made_once_and_its_dry_run_opens_no_door(estates: Estates) -> None:
    warehouse = estates.warehouse("demo")
    campaign = sorted((ROOT / "tenants" / "demo" / "campaigns").glob("*.yaml"))[0].stem
    planned = estates.crm("plan", "--tenant", "demo", "--campaign", campaign)
    assert planned["planned"] > 0
    assert planned["batches"] > 0
    messages = content(warehouse, "activation.messages", "message_id")
    estates.crm("plan", "--tenant", "demo", "--campaign", campaign)
    assert content(warehouse, "activation.messages", "message_id") == messages
    sent = estates.crm("send", "--tenant", "demo", "--campaign", campaign)
    assert sent["dry_run"] is True
    estates.crm("send", "--tenant", "demo", "--campaign", campaign)
    outcomes = warehouse.rows("select is_dry_run, outcome, count(*) from activation.attempts group by 1, 2")
    assert outcomes == [(True, "dry_run", sent["chunks"])]
    assert warehouse.rows("select distinct status from activation.messages where status <> 'holdout'") == [("planned",)]
    twice = warehouse.rows(
        "select address from activation.messages group by campaign, occurrence, step, address having count(*) > 1"
    )
    assert twice == []


def test_a_closed_gate_refuses_a_plan(estates: Estates) -> None:
    campaign = sorted((ROOT / "tenants" / "vieux_lavoir" / "campaigns").glob("*.yaml"))[0].stem
    refused = estates.crm("plan", "--tenant", "vieux_lavoir", "--campaign", campaign, code=1)
    assert "CIRCUIT_BREAKER" in refused["error"]
    assert estates.warehouse("vieux_lavoir").count("activation", "messages") == 0


def test_exports_are_the_four_files_of_the_spec(estates: Estates, tmp_path: Path) -> None:
    written = estates.crm("export", "--tenant", "demo", "--to", str(tmp_path))
    names = {Path(path).name for path in written["files"]}
    stems = {"reco_output", "audit_output", "next_action_output", "run_summary"}
    assert names == {f"{stem}.{ending}" for stem in stems for ending in ("csv", "json")}
    header = (tmp_path / "reco_output.csv").read_text("utf-8-sig").splitlines()[0]
    assert header == "run_id,customer_code,scenario,rank,product_key,score,explain_short"


def test_a_day_that_has_not_come_is_refused(estates: Estates) -> None:
    refused = estates.crm("run", "--tenant", "demo", "--as-of", "2026-01-01", code=1)
    assert "2026-01-01 has not come yet" in refused["error"]


def test_what_postgresql_quotes_does_not_reach_an_exception(estates: Estates) -> None:
    warehouse = estates.warehouse("demo")
    with pytest.raises(WarehouseError) as refused:
        warehouse.execute(
            "insert into staging.emails (raw_email, email) select raw_email, email from staging.emails limit 1"
        )
    assert "UniqueViolation 23505 staging.emails" in str(refused.value)
    assert "@" not in str(refused.value)
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__


def test_every_unit_test_of_the_models_holds(estates: Estates, tmp_path: Path) -> None:
    """They need the models' parents, which a refreshed estate has; a refresh itself leaves them out.

    `dbt build` runs the unit tests of the models that it builds and no others, whatever is selected: `dbt test` all.
    """
    warehouse = estates.warehouse("demo")
    _, variables = run_context.dbt_target(Registry(estates.config.tenants).get("demo"), warehouse, estates.config)

    def dbt(*arguments: str) -> str:
        done = subprocess.run(
            [dbt_executable(), *arguments]
            + ["--project-dir", str(PROJECT), "--profiles-dir", str(PROJECT), "--target-path", str(tmp_path)],
            env={**os.environ, **variables},
            cwd=PROJECT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout[-3000:]
        return done.stdout

    dbt("build", "--select", "tag:outcomes", "tag:kpis", "--exclude-resource-type", "unit_test")
    out = dbt("test", "--select", "test_type:unit")
    known, passed = re.search(r"Found .* (\d+) unit tests", out), re.search(r"Finished running (\d+) unit tests", out)
    assert known is not None
    assert passed is not None
    assert int(passed.group(1)) == int(known.group(1)) >= 38


PERSONAL = ("last_name", "first_name", "email", "phone", "address")


def test_dagsters_storage_holds_no_personal_data(estates: Estates) -> None:
    """Every name, address and phone of the samples, searched in everything Dagster stores."""
    values: set[str] = set()
    for column in PERSONAL:
        rows = estates.warehouse("demo").rows(
            f"select distinct {column} from curated.dim_customers where {column} <> ''"
        )
        values |= {row[0] for row in rows}
    raw = estates.warehouse("demo").rows(
        "select distinct unnest(array[email, phone, mobile, address]) from raw.customers"
    )
    values |= {row[0].strip() for row in raw if row[0] and row[0].strip()}
    # Short words would be found by chance: a first name "Ali" stands in "validate".
    values = {value for value in values if len(value) >= 6}
    assert len(values) > 1000
    url = estates.cluster.url(estates.cluster.config.dagster_database)
    with psycopg.connect(url) as connection:
        tables = connection.execute(
            "select table_name from information_schema.tables where table_schema = 'public'"
        ).fetchall()
        stored = "\n".join(
            row[0]
            for (table,) in tables
            for row in connection.execute(f'select t::text from "{table}" t'.encode()).fetchall()
        )
    words = set(re.findall(r"[^\s\"'\\,;(){}\[\]|]+", stored))
    found = {value for value in values if (value in words if " " not in value else value in stored)}
    # Surnames of the estate are also words of its wines and streets only where the samples say so: none may appear.
    assert found == set()
