"""`crm audit`: a list from a file, with each fault planted in it, against an estate's own database."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from crm_assets import audit_files, cli, tables
from crm_assets import rules as rules_module
from crm_assets.audit_files import FileError, ListFile, read_list
from crm_assets.logic import audit, exports
from crm_assets.resources.warehouse import Warehouse
from tests.frames import make_table
from tests.logic import estate
from tests.logic.estate import ago, bought, customer, facts, product, products

RULES = rules_module.load()
NOW = datetime(2026, 1, 1, tzinfo=UTC)
HEADER = "customer_code,scenario,rank,product_key"


def written(tmp_path: Path, text: str, encoding: str = "utf-8") -> Path:
    path = tmp_path / "list.csv"
    path.write_bytes(text.encode(encoding))
    return path


def read(tmp_path: Path, *rows: str, header: str = HEADER) -> ListFile:
    return read_list(written(tmp_path, "\n".join([header, *rows]) + "\n"))


# --- the file


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_list_is_read_whoever_saved_it(tmp_path: Path, encoding: str, delimiter: str) -> None:
    rows = [
        ["Rank", "PRODUCT_KEY", "explain_short", "confidence", "customer_code", "Scenario", "wine_id"],
        ["1", "cr-brut", "déjà goûté", '"0,25"' if delimiter == "," else "0,25", " 00012 ", "Rebuy", "w1"],
        ["2", "RI-24", "", "0.8", "00012", "upsell", ""],
    ]
    listed = read_list(written(tmp_path, "\r\n".join(delimiter.join(row) for row in rows) + "\r\n", encoding))
    assert listed.problems.empty
    shown = ["line", "customer_code", "scenario", "rank", "product_key", "confidence", "explain_short"]
    texts = listed.items[shown].astype("object").where(listed.items[shown].notna(), None)
    assert texts.values.tolist() == [
        [2, "00012", "rebuy", 1, "CR-BRUT", 0.25, "déjà goûté"],
        [3, "00012", "upsell", 2, "RI-24", 0.8, None],
    ]
    assert listed.customers.tolist() == ["00012"]


@pytest.mark.parametrize(
    ("row", "column", "todo"),
    [
        (",rebuy,1,P1", "customer_code", "write the customer's code"),
        ("C9,rebuy,1,", "product_key", "write the product's key"),
        ("C9,best,1,P1", "scenario", "one of rebuy, cross_sell, upsell, winback, nurture"),
        ("C9,,1,P1", "scenario", "one of rebuy"),
        ("C9,rebuy,first,P1", "rank", "a whole number from 1 on"),
        ("C9,rebuy,0,P1", "rank", "a whole number from 1 on"),
        ("C9,rebuy,1.5,P1", "rank", "a whole number from 1 on"),
        ("C9,rebuy,,P1", "rank", "a whole number from 1 on"),
        ("C9,rebuy,1e20,P1", "rank", "a whole number from 1 on"),  # no integer of 64 bits
        ("C9,rebuy,1", "", "in quotes"),
        ("C9,rebuy,1,P1,P2", "", "in quotes"),
    ],
)
def test_a_row_that_cannot_be_understood_is_told_and_left_out(tmp_path: Path, row: str, column: str, todo: str) -> None:
    listed = read(tmp_path, "C1,rebuy,1,P1", row, "C2,rebuy,1,P1")
    (problem,) = listed.problems.to_dict("records")
    assert (problem["line"], problem["column"], problem["left_out"]) == (3, column, True)
    assert todo in problem["todo"]
    assert listed.items["customer_code"].tolist() == ["C1", "C2"]


@pytest.mark.parametrize(("column", "value"), [("confidence", "high"), ("confidence", "85"), ("score", "101")])
def test_a_measure_out_of_its_range_is_told(tmp_path: Path, column: str, value: str) -> None:
    listed = read(tmp_path, "C1,rebuy,1,P1,", f"C2,rebuy,1,P1,{value}", header=f"{HEADER},{column}")
    assert listed.problems[["line", "column"]].values.tolist() == [[3, column]]
    assert listed.items["customer_code"].tolist() == ["C1"]


def test_a_customer_without_anything_is_listed_with_nothing(tmp_path: Path) -> None:
    listed = read(tmp_path, "C1,rebuy,1,P1", "C2,,,")
    assert listed.problems.empty
    assert listed.items["customer_code"].tolist() == ["C1"]
    assert listed.customers.tolist() == ["C1", "C2"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("customer;wine\nC1;P1\n", "line 1 lacks the columns customer_code, scenario, rank, product_key"),
        (f"{HEADER},rank\nC1,rebuy,1,P1,1\n", "has the column rank twice"),
        (f"{HEADER}\n", "has no rows"),
        (f"{HEADER}\n,rebuy,1,P1\n", "none of its 1 rows can be audited: line 2, customer_code: no customer"),
        ("", "is empty"),
        ("PK\x03\x04 not a workbook", "list.csv"),
    ],
)
def test_a_file_that_is_no_list_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(FileError, match=message):
        read_list(written(tmp_path, text))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="is not there"):
        read_list(tmp_path / "nowhere.csv")


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "list.csv")
    with pytest.raises(FileError, match="is no file"):
        read_list(tmp_path / "list.csv")


def test_the_run_of_the_file_is_kept_where_it_names_one(tmp_path: Path) -> None:
    header = f"{HEADER},run_id"
    assert read(tmp_path, "C1,rebuy,1,P1,run7", "C2,rebuy,1,P1,run7", header=header).run_id == "run7"
    assert len(read(tmp_path, "C1,rebuy,1,P1,run7", "C2,rebuy,1,P1,run8", header=header).run_id) == 16


# --- against an estate

# Who has what wrong: the customer's facts, what the list says of them (scenario, product), and what is found.
ONE_FAMILY = {"family": "Riesling"}
PRODUCTS = [
    *(product(f"P{n}") for n in range(1, 5)),
    *(product(f"P{n}", **ONE_FAMILY) for n in range(5, 8)),
    product("P8", stock_status="out"),
    product("P9", sweetness="doux"),
]
GOOD = [("rebuy", "P1"), ("rebuy", "P2")]
PEOPLE: list[tuple[str, dict[str, Any], list[tuple[str, str]], list[str]]] = [
    ("fine", {}, GOOD, []),
    ("no_email", {"email": None, "email_status": "missing", "is_email_contact": False}, GOOD, ["MISSING_EMAIL"]),
    ("bad_email", {"email": None, "email_status": "invalid", "is_email_contact": False}, GOOD, ["INVALID_EMAIL"]),
    ("second", {"is_email_contact": False}, GOOD, ["DUPLICATE_EMAIL"]),
    ("refused", {"is_refused": True}, GOOD, ["OPT_OUT"]),
    ("bounced", {"is_bounced": True}, GOOD, ["BOUNCED"]),
    ("silent", {"last_contact_date": ago(13)}, GOOD, ["SILENCE_WINDOW"]),
    ("tired", {"contacts_90d": 4}, GOOD, ["MARKETING_FATIGUE"]),
    ("again", {}, [("rebuy", "P3")], ["RECENT_DUPLICATE"]),
    ("gone", {}, [("rebuy", "P8")], ["UNAVAILABLE_PRODUCT"]),
    ("unknown", {}, [("rebuy", "P77")], ["UNAVAILABLE_PRODUCT"]),
    ("cheap", {"price_75cl_ttc": 15.0}, [("upsell", "P1")], ["UPSELL_NOT_HIGHER"]),
    ("empty", {}, [], ["NO_RECOMMENDATION"]),
    ("old_news", {}, [("cross_sell", "P4")], ["CROSS_SELL_NOT_NEW"]),
    ("one_family", {}, [("rebuy", "P5"), ("rebuy", "P6"), ("rebuy", "P7")], ["LOW_DIVERSITY"]),
    ("sweet", {}, [("rebuy", "P1"), ("rebuy", "P9")], ["SUGAR_MISMATCH"]),
    ("unsure", {}, GOOD, ["LOW_CONFIDENCE"]),
]


def codes_of(name: str) -> str:
    return f"C-{name.upper()}"


@pytest.fixture
def warehouse(tenant_warehouse: Warehouse) -> Warehouse:
    """An estate with those people, as its tables were made for the as-of day."""
    people = facts(*[customer(name, client_code=codes_of(name), **changes) for name, changes, _, _ in PEOPLE])
    catalogue = products(*PRODUCTS).assign(wine_id=[f"w{key[1:]}" for key in products(*PRODUCTS)["product_key"]])
    measures = pd.DataFrame({"check_code": list(RULES.circuit_breaker.tolerances), "bad": 0.0, "total": 100.0})
    make_table(tenant_warehouse, "audit.customer_facts", people[audit.FACT_COLUMNS])
    make_table(tenant_warehouse, "curated.dim_products", catalogue.assign(sub_family=None)[audit.PRODUCT_COLUMNS])
    make_table(tenant_warehouse, "rfm.customer_wines", bought(("again", "w3", 59), ("old_news", "w4", 900)))
    make_table(tenant_warehouse, "audit.quality_measures", measures)
    xref = [(codes_of(name), name, "code") for name, *_ in PEOPLE] + [("C-ALIAS", "fine", "email")]
    tenant_warehouse.append(
        tables.customer_xref, pd.DataFrame(xref, columns=["client_code", "customer_id", "matched_by"])
    )
    tenant_warehouse.append(
        tables.landing_parameters, pd.DataFrame({"name": ["as_of"], "value": [json.dumps(estate.AS_OF.isoformat())]})
    )
    return tenant_warehouse


def planted(tmp_path: Path) -> Path:
    """Everybody's list in a file, and a customer whom nobody knows."""
    rows = [f"{HEADER},confidence", "C-NOBODY,rebuy,1,P1,0.8"]
    for name, _, offers, _ in PEOPLE:
        confidence = 0.29 if name == "unsure" else 0.3
        rows += [
            f"{codes_of(name)},{scenario},{rank},{key},{confidence}"
            for rank, (scenario, key) in enumerate(offers, start=1)
        ] or [f"{codes_of(name)},,,,"]
    return written(tmp_path, "\n".join(rows) + "\n")


def audited(warehouse: Warehouse, path: Path, **changes: Any) -> audit_files.ListAudit:
    return audit_files.audit_list(read_list(path), warehouse, estate.tenant(**changes), RULES, None, NOW)


def test_each_planted_fault_is_caught_with_its_code_and_nothing_else(warehouse: Warehouse, tmp_path: Path) -> None:
    result = audited(warehouse, planted(tmp_path))
    assert result.as_of == estate.AS_OF
    assert result.problems.empty
    assert result.not_judged == []
    found = result.result.findings.groupby("customer_id")["rule_code"].agg(list).to_dict()
    assert found == {name: codes for name, _, _, codes in PEOPLE if codes} | {"C-NOBODY": ["MISSING_EMAIL"]}
    actions = result.actions.set_index("client_code")
    assert actions.loc["C-NOBODY", "reason"] == "NO_LEGAL_BASIS"
    warned = ["old_news", "one_family", "sweet", "unsure"]
    assert sorted(actions.index[actions["eligible"]]) == sorted(map(codes_of, ["fine", *warned]))
    assert warehouse.count("audit", "findings") == 0


def test_the_files_are_those_of_a_run(warehouse: Warehouse, tmp_path: Path) -> None:
    result = audited(warehouse, planted(tmp_path))
    paths = audit_files.write_exports(result, tmp_path / "out")
    assert sorted(path.name for path in paths) == sorted(f"{n}.{e}" for n in exports.COLUMNS for e in ("csv", "json"))
    findings = json.loads((tmp_path / "out" / "audit_output.json").read_text(encoding="utf-8-sig"))
    assert {"customer_code": "C-SILENT", "rule_code": "SILENCE_WINDOW"}.items() <= next(
        row for row in findings if row["rule_code"] == "SILENCE_WINDOW"
    ).items()
    (total,) = json.loads((tmp_path / "out" / "run_summary.json").read_text(encoding="utf-8-sig"))
    assert (total["run_id"], total["total_clients"]) == (result.listed.run_id, len(PEOPLE) + 1)
    assert total["gate_export"] is True
    # What was written can be audited again; it has no confidence, and nobody without an item.
    again = audited(warehouse, tmp_path / "out" / "reco_output.csv")
    assert again.listed.run_id == result.listed.run_id
    assert again.not_judged == ["LOW_CONFIDENCE"]
    left = ~result.result.findings["rule_code"].isin(["LOW_CONFIDENCE", "NO_RECOMMENDATION"])
    pd.testing.assert_frame_equal(
        again.result.findings, result.result.findings[left].reset_index(drop=True), check_dtype=False
    )


def test_two_codes_of_one_person_are_one_customer(warehouse: Warehouse, tmp_path: Path) -> None:
    path = written(tmp_path, f"{HEADER}\nC-FINE,rebuy,1,P1\nc-alias,rebuy,1,P2\n")
    result = audited(warehouse, path)
    assert result.actions["client_code"].tolist() == ["C-FINE"]
    (problem,) = result.problems.to_dict("records")
    assert (problem["line"], problem["column"], problem["left_out"]) == (3, "rank", False)
    assert len(result.items) == 2


def test_ages_are_counted_to_the_day_asked_for(warehouse: Warehouse, tmp_path: Path) -> None:
    path = written(tmp_path, f"{HEADER}\nC-SILENT,rebuy,1,P1\n")
    listed = read_list(path)
    later = audit_files.audit_list(listed, warehouse, estate.tenant(), RULES, NOW.date(), NOW)
    assert later.result.findings.empty
    assert audited(warehouse, path).result.findings["measured"].tolist() == ["13"]


def test_the_command(
    warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "_registry", lambda config: {"demo": estate.tenant()})
    monkeypatch.setattr(cli, "_warehouse", lambda config, slug: warehouse)
    command = ["audit", "--tenant", "demo", "--recommendations", str(planted(tmp_path)), "--to", str(tmp_path / "out")]
    assert cli.main([*command, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["rules"]["SILENCE_WINDOW"] == {"severity": "ERROR", "customers": 1, "findings": 1}
    assert (printed["customers"], printed["unknown_customers"], printed["eligible"]) == (len(PEOPLE) + 1, 1, 5)
    assert printed["permission"] == {"NO_LEGAL_BASIS": 1, "OBJECTED": 1}
    assert len(printed["files"]) == 8
    assert cli.main(command) == 0
    shown = capsys.readouterr().out
    assert all(code in shown for code in audit.NUMBERS)
    command[4] = str(written(tmp_path, "a,b\n1,2\n"))
    with pytest.raises(SystemExit) as refused:
        cli.main(command)
    assert refused.value.code == 1
    assert "lacks the columns" in capsys.readouterr().err


def test_an_estate_without_data_refuses(tenant_warehouse: Warehouse, tmp_path: Path) -> None:
    with pytest.raises(FileError, match="crm run --tenant demo"):
        audited(tenant_warehouse, planted(tmp_path))
