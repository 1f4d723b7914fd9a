"""`crm rank` and `crm backtest` on files: what they hold, what they refuse, and that it comes out the same again."""

from __future__ import annotations

import csv
import gzip
import json
import random
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crm_assets import cli, rules
from crm_assets.ranking_files import FileError, backtest_file, rank_file, read_customers, read_lines, table_of
from tests.logic.orders import FIRST_DAY, habits, smaller

SETTINGS = smaller(rules.load().ranking)
HEADER = "customer_id,order_id,order_date,product_key"


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def to(*rows: str, header: str = HEADER, name: str = "lines.csv") -> Path:
        path = tmp_path / name
        path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
        return path

    return to


def silent(message: str) -> None:
    """Say nothing."""


@pytest.fixture(scope="module")
def rows() -> list[str]:
    """Lines of 300 customers and 40 products; ids with leading zeros, order ids that other customers have too."""
    made = habits()
    first = date(1970, 1, 1)
    return [
        f"{customer:04d},{order % 7},{first + timedelta(days=int(day))},0{product:02d}"
        for customer, product, day, order in zip(made.customer, made.product, made.day, made.order, strict=True)
    ]


def ranked(path: Path, out: Path, **more: Any) -> list[dict[str, str]]:
    options = {"kind": "mixed", "top": 5, "horizon": 90, **more}
    rank_file(path, out, SETTINGS, say=silent, **options)
    with out.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


# Reading


def test_lines_are_read_as_they_stand(write: Callable[..., Path]) -> None:
    path = write(
        'x,"007",b1,2024-02-29,00-7,"2",10.50',
        "y,007,b1,2024-02-29 18:30:00,0A,,",
        ",08,b1,2024-03-01T09:00,00-7, +3 ,0",
        header="note,customer_id,order_id,order_date,product_key,quantity,amount",
    )
    lines = read_lines(path)
    assert lines.customers.tolist() == ["007", "08"]
    assert lines.products.tolist() == ["00-7", "0A"]
    assert lines.customer.tolist() == [0, 0, 1]
    assert lines.product.tolist() == [0, 1, 0]
    assert [str(np.datetime64(int(day), "D")) for day in lines.day] == ["2024-02-29", "2024-02-29", "2024-03-01"]
    assert lines.order.tolist() == [0, 0, 1], "b1 of another customer is another order"
    assert lines.returns == 0


def test_returns_are_no_orders(write: Callable[..., Path]) -> None:
    path = write(
        "1,a,2024-01-01,p,1,5",
        "1,b,2024-01-02,q,0,5",
        "1,c,2024-01-03,r,-1,5",
        "2,d,2024-01-04,s,1,-5",
        "1,e,2024-01-02,p,,0",
        header=f"{HEADER},quantity,amount",
    )
    lines = read_lines(path)
    assert (len(lines), lines.returns) == (2, 3)
    assert lines.customers.tolist() == ["1"]
    assert lines.products.tolist() == ["p"]
    assert str(np.datetime64(lines.newest, "D")) == "2024-01-04"


def test_compressed_with_a_byte_order_mark_and_line_breaks_in_values(tmp_path: Path) -> None:
    text = f'\ufeff{HEADER},note\r\n1,a,2024-01-01,p,"two\r\nlines"\r\n\r\n2,b,2024-01-02,q,\r\n'
    path = tmp_path / "lines.csv.gz"
    path.write_bytes(gzip.compress(text.encode()))
    assert read_lines(path).customers.tolist() == ["1", "2"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is empty"),
        (f"{HEADER}\n".encode(), "has no lines after its header"),
        (b"customer_id,order_date,product_key\n1,2024-01-01,p\n", "line 1 lacks the column order_id"),
        (f"{HEADER}\n1,a,2024-01-01,p\n\n1,a,2024-02-30,p\n".encode(), "line 4: order_date '2024-02-30' is no date"),
        (f"{HEADER}\n1,a,01.02.2024,p\n".encode(), "line 2: order_date '01.02.2024' is no date, YYYY-MM-DD"),
        (f"{HEADER}\n1,a,2024-01-01,p\n ,a,2024-01-01,p\n".encode(), "line 3: customer_id is blank"),
        (f"{HEADER}\n1,a,2024-01-01,\n".encode(), "line 2: product_key is blank"),
        (f"{HEADER}\n1,a,,p\n".encode(), "line 2: order_date is blank"),
        (f"{HEADER}\n1,a,2024-01-01,p\n1,a,2024-01-01\n".encode(), "line 3 has 3 values, the header 4"),
        (f'{HEADER},t\n1,a,2024-01-01,p,"x\ny"\n1,a,x,p,\n'.encode(), "line 4: order_date 'x' is no date"),
        (f"{HEADER}\n1,a,2024-01-01,p\n1,a,2024-01-01,caf\xe9\n".encode("latin-1"), "line 3 is no UTF-8"),
        (f"{HEADER},quantity\n1,a,2024-01-01,p,1\n1,a,2024-01-01,p,zwei\n".encode(), "line 3: quantity 'zwei' is no n"),
        (f"{HEADER},quantity\n1,a,2024-01-01,p,-1\n".encode(), "all 1 lines are returns"),
        (f"{HEADER},order_id\n1,a,2024-01-01,p,b\n".encode(), "line 1 has the column order_id twice"),
    ],
)
def test_faults_are_told_with_file_and_line(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "lines.csv"
    path.write_bytes(content)
    with pytest.raises(FileError) as fault:
        read_lines(path)
    assert told in str(fault.value)
    assert str(path) in str(fault.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    broken = tmp_path / "lines.csv.gz"
    broken.write_bytes(gzip.compress(b"x" * 10_000)[:20])
    for path in (tmp_path / "absent.csv", tmp_path, broken):
        with pytest.raises(FileError, match=r"cannot be read|no header"):
            read_lines(path)


# Ranking


def test_rows_in_any_order_give_the_same_bytes(rows: list[str], write: Callable[..., Path], tmp_path: Path) -> None:
    shuffled = rows[:]
    random.Random(3).shuffle(shuffled)
    first, second = tmp_path / "first.csv", tmp_path / "second.csv"
    assert ranked(write(*rows), first)
    ranked(write(*shuffled, name="shuffled.csv"), second)
    assert first.read_bytes() == second.read_bytes()


def test_lists_by_kind(rows: list[str], write: Callable[..., Path], tmp_path: Path) -> None:
    path, bought = write(*rows), {(line.split(",")[0], line.split(",")[3]) for line in rows}
    for kind in ("mixed", "repeat", "explore"):
        found = ranked(path, tmp_path / "out.csv", kind=kind)
        assert list(found[0]) == ["customer_id", "rank", "product_key", "score", "list"]
        by_customer: dict[str, list[dict[str, str]]] = {}
        for row in found:
            by_customer.setdefault(row["customer_id"], []).append(row)
            assert ((row["customer_id"], row["product_key"]) in bought) == (row["list"] == "repeat")
        assert list(by_customer) == sorted({line.split(",")[0] for line in rows})
        for theirs in by_customer.values():
            assert [int(row["rank"]) for row in theirs] == list(range(1, len(theirs) + 1))
            assert kind == "repeat" or len(theirs) == 5
        assert {row["list"] for row in found} == ({"repeat", "explore"} if kind == "mixed" else {kind})


def test_only_whom_was_asked_for_and_strangers_get_what_sells(
    rows: list[str], write: Callable[..., Path], tmp_path: Path
) -> None:
    asked = write("zz", "0003", "0001", "0003", "9999", header="customer_id", name="customers.csv")
    assert read_customers(asked).tolist() == ["0001", "0003", "9999", "zz"]
    lines = write(*rows)
    found = ranked(lines, tmp_path / "out.csv", customers=asked, top=3)
    assert [row["customer_id"] for row in found] == ["0001"] * 3 + ["0003"] * 3 + ["9999"] * 3 + ["zz"] * 3
    everybody = ranked(lines, tmp_path / "all.csv", top=3)
    assert [row for row in everybody if row["customer_id"] in ("0001", "0003")] == found[:6]
    strangers = [[row["product_key"] for row in found if row["customer_id"] == who] for who in ("9999", "zz")]
    assert strangers[0] == strangers[1]
    newest = max(line.split(",")[2] for line in rows)
    since = str(date.fromisoformat(newest) - timedelta(days=89))
    buyers: dict[str, set[str]] = {}
    for customer, _, day, product in (line.split(",") for line in rows):
        if day >= since:
            buyers.setdefault(product, set()).add(customer)
    assert strangers[0] == sorted(buyers, key=lambda product: (-len(buyers[product]), product))[:3]


def test_as_of_a_day_is_what_a_file_up_to_that_day_gives(
    rows: list[str], write: Callable[..., Path], tmp_path: Path
) -> None:
    day = date(1970, 1, 1) + timedelta(days=FIRST_DAY + 600)
    until = [line for line in rows if line.split(",")[2] <= str(day)]
    assert any(line.split(",")[2] == str(day) for line in until), "the day itself is known"
    # A file of another shop from the day after on: other customers and products.
    later = [f"n{i},1,{day + timedelta(days=1 + i % 80)},000new{i % 9}" for i in range(500)]
    first = ranked(write(*until), tmp_path / "first.csv", as_of=day)
    second = ranked(write(*until, *later, name="more.csv"), tmp_path / "second.csv", as_of=day)
    assert first == second
    with pytest.raises(FileError, match="no order up to 1999-12-31"):
        ranked(write(*until), tmp_path / "third.csv", as_of=date(1999, 12, 31))
    assert not (tmp_path / "third.csv").exists()


def test_ids_with_commas_and_quotes_survive(write: Callable[..., Path], tmp_path: Path) -> None:
    path = write('"a,1",x,2024-01-01,"say ""p"""', "b,y,2024-01-02,q")
    found = ranked(path, tmp_path / "out.csv")
    assert {row["customer_id"] for row in found} == {"a,1", "b"}
    assert {row["product_key"] for row in found} == {'say "p"', "q"}


def test_an_input_is_never_written_over(write: Callable[..., Path], tmp_path: Path) -> None:
    path = write("1,a,2024-01-01,p")
    with pytest.raises(FileError, match="also to be read"):
        ranked(path, path)
    with pytest.raises(FileError, match="there is no folder"):
        ranked(path, tmp_path / "nowhere" / "out.csv")


# The back-test


def test_figures_of_a_back_test_and_no_leak_into_its_choice(rows: list[str], write: Callable[..., Path]) -> None:
    cut = date(1970, 1, 1) + timedelta(days=FIRST_DAY + 600)
    options: dict[str, Any] = {"horizon": 90, "tops": (5, 2), "say": silent}
    found = backtest_file(write(*rows), cut, SETTINGS, **options)
    assert json.loads(json.dumps(found)) == found
    assert (found["cut"], found["horizon"], found["lines"]) == (str(cut), 90, len(rows))
    for kind, engines in found["lists"].items():
        assert {"popularity", "personal", "gp_topfreq", "ridge"} <= set(engines)
        assert found["served"][kind] in engines
        for tops in engines.values():
            assert list(tops) == ["2", "5"]
            for figures in tops.values():
                assert 0 < figures["customers"] <= found["customers"]
                assert ("recall_repeat" in figures) == (kind == "mixed")
    assert "* " + found["served"]["mixed"] in table_of(found)
    # What is bought from the cut on, and what did not exist before, decides what was right and nothing else.
    other = [line if line.split(",")[2] < str(cut) else line[:-3] + "000new" for line in rows]
    later = backtest_file(write(*other, name="other.csv"), cut, SETTINGS, **options)
    assert {key: later[key] for key in ("served", "reasons", "recipes", "chosen_at")} == {
        key: found[key] for key in ("served", "reasons", "recipes", "chosen_at")
    }
    assert later["customers"] == found["customers"]
    assert later["lists"]["mixed"]["ridge"]["5"]["recall"] == 0.0


def test_nobody_to_judge_by_is_told(write: Callable[..., Path]) -> None:
    path = write("1,a,2024-01-01,p", "2,b,2024-03-01,p")
    with pytest.raises(FileError, match="nobody ordered before 2024-02-01 and again in the 90 days"):
        backtest_file(path, date(2024, 2, 1), SETTINGS, horizon=90, tops=[10], say=silent)


# The commands


def test_the_commands(
    rows: list[str], write: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = write(*rows[:400]), tmp_path / "out.csv"
    assert cli.main(["rank", "--lines", str(path), "--explore-only", "--top", "2", "--out", str(out), "--json"]) == 0
    printed = capsys.readouterr()
    told = json.loads(printed.out)
    assert (told["list"], told["out"]) == ("explore", str(out))
    assert told["rows"] == len(out.read_text().splitlines()) - 1 == 2 * told["customers"]
    assert "reading" in printed.err
    cut = str(date(1970, 1, 1) + timedelta(days=FIRST_DAY + 600))
    judge = ["backtest", "--lines", str(path), "--cut", cut]
    assert cli.main([*judge, "--top", "3", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["lists"]["mixed"]["gp_topfreq"]["3"]["customers"] > 0
    assert cli.main(judge) == 0
    assert "gp_topfreq" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["rank", "--lines", "{path}", "--top", "2", "--out", "{out}"],
        ["backtest", "--lines", "{path}", "--cut", "2024-01-01", "--json"],
    ],
)
def test_a_fault_ends_a_command_without_a_traceback(
    arguments: list[str], write: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write("1,a,yesterday,p")
    with pytest.raises(SystemExit) as left:
        cli.main([each.format(path=path, out=tmp_path / "out.csv") for each in arguments])
    assert left.value.code == 1
    assert "line 2: order_date 'yesterday' is no date" in capsys.readouterr().err
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        ["--top", "0"],
        ["--top", "2", "--explore-only", "--repeat-only"],
        ["--top", "2", "--as-of", "1.2.2024"],
    ],
)
def test_wrong_usage(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(["rank", "--lines", "a.csv", "--out", "b.csv", *wrong])
    assert left.value.code == 2
