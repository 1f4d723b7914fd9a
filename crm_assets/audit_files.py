"""`crm audit`: any list of recommendations from a file, audited as a run's own list is.

The file is read into the frames that `logic/audit.py` and `logic/gate.py` work on, whatever made it; the columns are
those of `reco_output`. What is wrong with the file itself is told row by row; an unknown customer or product is no
fault of the file but a finding. Nothing is decided here, and nothing is written to the database.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from crm_assets import documents, gating
from crm_assets.logic import audit, exports, gate
from crm_assets.logic.curated import normalize_code
from crm_assets.logic.reading import UnreadableError, open_table
from crm_assets.logic.recommendations import SCENARIOS
from crm_assets.resources.warehouse import Warehouse
from crm_assets.rules import BusinessRules
from crm_assets.tenants import Tenant

REQUIRED = ("customer_code", "scenario", "rank", "product_key")
OPTIONAL = ("wine_id", "score", "confidence", "explain_short", "run_id")
PROBLEM_COLUMNS = ["line", "column", "problem", "todo", "left_out"]
_SHOWN_PROBLEMS = 20
# What a rank of recommendations.items can hold: an integer of PostgreSQL.
_MOST_RANK = np.iinfo(np.int32).max


class FileError(Exception):
    """A file that is no list of recommendations; the message names it, what is wrong and what to do."""


@dataclass(frozen=True)
class ListFile:
    """A list as it stands in a file.

    items: line, customer_code, scenario, rank, product_key, wine_id, score, explain_short, and confidence where the
    file gives it; codes as curated tables write them. customers: the codes in file order, each once, those without an
    item too. problems: PROBLEM_COLUMNS, one row per cell that is wrong; `left_out`: its row is not audited.
    ignored: columns that mean nothing here. run_id: the one run that the file names, else a hash of its bytes.
    """

    path: Path
    items: pd.DataFrame
    customers: pd.Series
    problems: pd.DataFrame
    ignored: list[str]
    run_id: str
    n_rows: int


@dataclass(frozen=True)
class ListAudit:
    """What an audit of a list found: frames as of a run, and `decision` as a row of gate.decisions."""

    listed: ListFile
    as_of: date
    items: pd.DataFrame
    result: audit.AuditResult
    actions: pd.DataFrame
    decision: dict[str, Any]
    problems: pd.DataFrame
    not_judged: list[str]
    n_unknown_customers: int


def read_list(path: Path) -> ListFile:
    """The list in a file: CSV (comma, semicolon or tab; UTF-8 with or without BOM, Windows-1252) or a workbook.

    Columns in any order, capitals do not count. A row with a customer and no product says that nothing is proposed to
    that customer. FileError: unreadable, a column missing or there twice, or no row that can be audited.
    """
    table, header, ignored, ragged, sha256 = _read(path)
    n_rows = len(table) + len(ragged)
    problems = [
        pd.DataFrame(
            {
                "line": ragged,
                "column": "",
                "problem": "the row has not as many values as the header",
                "todo": "put texts with separators in quotes",
                "left_out": True,
            }
        )
    ]

    def wrong(rows: pd.Series, column: str, problem: str, todo: str, left_out: bool = True) -> pd.Series:
        found = table.loc[rows.to_numpy(dtype=bool), ["line"]]
        problems.append(found.assign(column=column, problem=problem, todo=todo, left_out=left_out))
        return ~rows if left_out else pd.Series(True, index=table.index)

    for name in ("customer_code", "product_key"):
        codes = normalize_code(table[name])
        table[name] = codes.where(codes != "")
    has_customer = wrong(
        table["customer_code"].isna(), "customer_code", "no customer", "write the customer's code, or delete the row"
    )
    lists_nothing = table[["product_key", "scenario", "rank"]].isna().all(axis=1)
    table["scenario"] = table["scenario"].str.lower()
    is_good = wrong(
        table["product_key"].isna() & ~lists_nothing & has_customer,
        "product_key",
        "no product",
        "write the product's key, or empty scenario and rank if nothing is proposed",
    )
    is_good &= wrong(
        ~table["scenario"].isin(SCENARIOS) & ~lists_nothing,
        "scenario",
        "no scenario of ours",
        f"write one of {', '.join(SCENARIOS)}",
    )
    rank = _numbers(table["rank"])
    is_good &= wrong(
        ~(rank.between(1, _MOST_RANK) & (rank % 1 == 0)) & ~lists_nothing,
        "rank",
        "no rank",
        "write a whole number from 1 on",
    )
    table["rank"] = rank
    for name, (least, most) in {"score": (0, 100), "confidence": (0, 1)}.items():
        if name not in header:
            continue
        number = _numbers(table[name])
        is_good &= wrong(
            table[name].notna() & ~number.between(least, most),
            name,
            f"no {name}",
            f"write a number from {least} to {most}, or nothing",
        )
        table[name] = number
    known = table[is_good & has_customer & ~lists_nothing].reset_index(drop=True)
    customers = table.loc[has_customer, "customer_code"].drop_duplicates().reset_index(drop=True)
    if customers.empty:
        raise FileError(f"{path}: none of its {n_rows} rows can be audited: {_first_of(problems)}")
    runs = table["run_id"].dropna().unique() if "run_id" in header else np.empty(0)
    columns = ["line", *REQUIRED, "wine_id", "score", "explain_short"]
    if "confidence" in header and known["confidence"].notna().any():
        columns.append("confidence")
    return ListFile(
        path=path,
        items=known.reindex(columns=columns).astype({"rank": "int64", "score": "float64"}),
        customers=customers,
        problems=_in_order(problems),
        ignored=ignored,
        run_id=str(runs[0]) if len(runs) == 1 else sha256[:16],
        n_rows=n_rows,
    )


def _read(path: Path) -> tuple[pd.DataFrame, list[str], list[str], list[int], str]:
    """The file's texts with their line, the columns that it has of ours, the others, lines of ragged rows, its hash."""
    if path.exists() and not path.is_file():
        # A pipe would be waited for without end.
        raise FileError(f"{path} is no file: write the list to one first")
    try:
        file = open_table(path)
        header = [name.strip().lower() for name in file.header]
        if missing := [name for name in REQUIRED if name not in header]:
            raise FileError(
                f"{path}: line {file.header_line} lacks the column{'s'[: len(missing) > 1]} {', '.join(missing)};"
                f" it has {', '.join(file.header[:12])}. A list has {', '.join(REQUIRED)},"
                f" and may have {', '.join(OPTIONAL)}"
            )
        ours = [name for name in (*REQUIRED, *OPTIONAL) if name in header]
        if twice := [name for name in ours if header.count(name) > 1]:
            raise FileError(f"{path}: line {file.header_line} has the column {twice[0]} twice: keep one of them")
        columns: dict[str, list[pa.Array]] = {name: [] for name in ours}
        lines: list[np.ndarray] = []
        ragged: list[int] = []
        for batch in file.batches():
            for name in ours:
                columns[name].append(batch.columns[header.index(name)])
            lines.append(batch.lines)
            ragged += [record.line for record in batch.ragged]
    except FileNotFoundError:
        raise FileError(f"{path} is not there") from None
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror or error}") from None
    except UnreadableError as error:
        raise FileError(f"{path} {error}") from None
    table = pd.DataFrame({"line": np.concatenate([np.empty(0, dtype="int64"), *lines])})
    for name, arrays in columns.items():
        texts = pa.chunked_array(arrays, pa.string()).to_pandas().astype("str").str.strip()
        table[name] = texts.where(texts.notna() & (texts != ""))
    if not len(table) and not ragged:
        raise FileError(f"{path} has no rows after its header")
    return table, ours, [name for name in file.header if name.strip().lower() not in ours], ragged, file.sha256


def _numbers(texts: pd.Series) -> pd.Series:
    """Texts as numbers, a decimal comma too; NaN where one is none."""
    return pd.to_numeric(texts.str.replace(",", ".", regex=False), errors="coerce").astype("float64")


def _in_order(problems: list[pd.DataFrame]) -> pd.DataFrame:
    found = pd.concat(problems, ignore_index=True)[PROBLEM_COLUMNS]
    return found.astype({"line": "int64", "left_out": "bool"}).sort_values("line", kind="stable", ignore_index=True)


def _first_of(problems: list[pd.DataFrame]) -> str:
    row = _in_order(problems).iloc[0]
    return f"line {row['line']}{', ' if row['column'] else ''}{row['column']}: {row['problem']}; {row['todo']}"


def audit_list(
    listed: ListFile, warehouse: Warehouse, tenant: Tenant, rules: BusinessRules, as_of: date | None, now: datetime
) -> ListAudit:
    """The audit of a list against the estate's data, for the customers that it names.

    `as_of`: the day that ages are counted to; None: the day that the estate's tables were made for. Review is not
    asked: eligible means permitted, no error, and a score that is high enough. FileError: the estate has no data yet.
    """
    made_for = warehouse.rows("select value #>> '{}' from landing.parameters where name = 'as_of'")
    if not made_for:
        raise FileError(
            f"{tenant.slug} has no data to audit a list against: run `crm run --tenant {tenant.slug}` first"
        )
    day = as_of or date.fromisoformat(made_for[0][0])
    facts, products, customer_wines, sent_wines = gating.audit_frames(warehouse)
    xref = warehouse.read("curated", "customer_xref", ["client_code", "customer_id"])
    ids = xref.set_index("client_code")["customer_id"]

    def customer_ids(codes: pd.Series) -> pd.Series:
        # A code that nobody has stands for itself: the audit finds that nobody knows it.
        return codes.map(ids).astype("str").fillna(codes)

    items = listed.items.drop(columns="customer_code")
    items["customer_id"] = customer_ids(listed.items["customer_code"])
    people = pd.DataFrame({"customer_id": customer_ids(listed.customers), "customer_code": listed.customers})
    people = people.drop_duplicates("customer_id", ignore_index=True)
    known = audit.everyone(facts[facts["customer_id"].isin(people["customer_id"])], people)
    result = audit.audit(items, known, products, customer_wines, sent_wines, tenant, rules, day)
    people = people.rename(columns={"customer_code": "client_code"})
    nobody_held = pd.Series(dtype="object")
    actions = gate.next_actions(people, result.permissions, result.scores, items, nobody_held, rules)
    breaker = audit.breaker(audit.data_quality(warehouse.read("audit", "quality_measures"), rules), rules)
    decision = gate.decide(actions, result.scores, breaker, 0, False, day, now, rules).iloc[0]
    again = items.duplicated(["customer_id", "rank"])
    problems = items.loc[again, ["line"]].assign(
        column="rank",
        problem="the customer has another item of this rank",
        todo="number each customer's items 1, 2, 3 …",
        left_out=False,
    )
    return ListAudit(
        listed=listed,
        as_of=day,
        items=items,
        result=result,
        actions=actions,
        decision={**{str(name): value for name, value in decision.items()}, "run_id": listed.run_id},
        problems=_in_order([listed.problems, problems]),
        not_judged=[] if "confidence" in items else ["LOW_CONFIDENCE"],
        n_unknown_customers=int((~people["customer_id"].isin(facts["customer_id"])).sum()),
    )


def write_exports(audited: ListAudit, directory: Path) -> list[Path]:
    """Write the four files of an audited list as those of a run: CSV and JSON."""
    frames = exports.run_exports(audited.items, audited.result.findings, audited.actions, audited.decision)
    return [documents.write_whole(directory / name, content) for name, content in exports.files(frames).items()]


def summary(audited: ListAudit) -> dict[str, Any]:
    """What `crm audit --json` prints: counts, codes, and the rows of the file that are wrong."""
    found, permissions = audited.result.findings, audited.result.permissions
    rules = {
        rule.code: {
            "severity": rule.severity,
            "customers": int(rows["customer_id"].nunique()),
            "findings": len(rows),
        }
        for rule in audit.RULES
        if len(rows := found[found["rule_code"] == rule.code])
    }
    reasons = permissions["permission_reason"].value_counts()
    return {
        "file": str(audited.listed.path),
        "run_id": audited.listed.run_id,
        "as_of": audited.as_of.isoformat(),
        "rows": audited.listed.n_rows,
        "rows_left_out": int(audited.problems.loc[audited.problems["left_out"], "line"].nunique()),
        "customers": len(audited.actions),
        "items": len(audited.items),
        "unknown_customers": int(audited.n_unknown_customers),
        "eligible": int(audited.actions["eligible"].sum()),
        "data_quality_score": audited.decision["data_quality_score"],
        "gate_export": bool(audited.decision["gate_export"]),
        "rules": rules,
        "not_judged": audited.not_judged,
        "permission": {code: int(reasons[code]) for code in audit.PERMISSION_REASONS if code in reasons},
        "problems": audited.problems.to_dict("records"),
        "ignored_columns": audited.listed.ignored,
    }


def text_of(result: dict[str, Any]) -> str:
    """A summary to be read by people."""
    lines = [
        f"{result['items']} items of {result['customers']} customers as of {result['as_of']}:"
        f" {result['eligible']} customers eligible (permitted, no error, score high enough; review is not asked)",
    ]
    if result["rules"]:
        lines += ["", f"{'rule':<22}{'':<7}{'customers':>10}{'findings':>10}"]
        lines += [
            f"{code:<22}{row['severity']:<7}{row['customers']:>10}{row['findings']:>10}"
            for code, row in result["rules"].items()
        ]
    else:
        lines.append("no rule is broken")
    if result["not_judged"]:
        lines.append(f"not judged, the file gives no confidence: {', '.join(result['not_judged'])}")
    if result["permission"]:
        lines += ["", f"{'not permitted':<29}{'customers':>10}"]
        lines += [f"{code:<29}{n:>10}" for code, n in result["permission"].items()]
    if unknown := result["unknown_customers"]:
        lines.append(
            f"{unknown} of the customers are unknown to the estate"
            " (a list that Excel saved may have lost the zeros that codes begin with)"
        )
    if problems := result["problems"]:
        lines += ["", f"{len(problems)} things to mend in {result['file']}, {result['rows_left_out']} rows left out:"]
        for row in problems[:_SHOWN_PROBLEMS]:
            place = f"line {row['line']}" + (f", {row['column']}" if row["column"] else "")
            lines.append(
                f"  {place}: {row['problem']}; {row['todo']}{'' if row['left_out'] else ' (audited all the same)'}"
            )
        if more := len(problems) - _SHOWN_PROBLEMS:
            lines += [f"  … and {more} more (--json shows all)"] if more > 0 else []
    if result["ignored_columns"]:
        lines.append(f"columns that were not looked at: {', '.join(result['ignored_columns'])}")
    return "\n".join(lines)
