"""The review workbook: how long it takes to write, how large it is, and how fast it opens and comes back.

    python -m benchmarks.review_workbook [--rows 20000,60000] [--repeat 3] [--out FILE.json]

Made customers with three items each, texts as long as the engine's, a finding on two of three items. `write` is from
frames to bytes; `open_calamine` loads the sheet of rows; `read` is what landing does with a returned one, guards
included; `office_csv` and `office_xlsx` are LibreOffice opening and saving it again, starting of the program
included, left out where it is not installed. Seconds, best of some.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from python_calamine import CalamineWorkbook

from benchmarks.bench import peak_mib
from crm_assets import rules
from crm_assets.logic.review import ITEM_KEY
from crm_assets.logic.review_workbook import About, read, review_items, review_workbook

RUN = "0123456789abcdef"
SCENARIOS = ("rebuy", "cross_sell", "upsell", "winback", "nurture")
SAVED_AS = {"office_csv": "csv:Text - txt - csv (StarCalc):59,34,ANSI,1", "office_xlsx": "xlsx:Calc MS Excel 2007 XML"}


def estate(n_items: int) -> dict[str, Any]:
    """Frames of a run with so many items, as `review_items` takes them."""
    rng = np.random.default_rng(1)
    ids = np.array([f"{number:016x}" for number in range((n_items + 2) // 3)])
    items = pd.DataFrame({"customer_id": np.repeat(ids, 3)[:n_items], "rank": np.tile([1, 2, 3], len(ids))[:n_items]})
    wines = rng.integers(0, 300, n_items)
    items["wine_id"] = [f"wine-{wine}-{rank}" for wine, rank in zip(wines, items["rank"], strict=True)]
    items["product_key"] = [f"P{wine}" for wine in wines]
    items["scenario"] = rng.choice(SCENARIOS, n_items)
    items["score"] = rng.integers(0, 10_001, n_items) / 100
    items["confidence"] = rng.integers(0, 101, n_items) / 100
    bought = rng.integers(1, 300, n_items)
    items["explain_short"] = [
        f"commandé {count} fois, tous les {count % 9 + 2} mois environ ; dernière commande le {count % 28 + 1} mars"
        for count in bought
    ]
    items["customer_sentence"] = [
        f"Nous vous proposons à nouveau « Cuvée {wine} » : un vin blanc demi-sec, ample et fruité, millésime 2023, issu"
        " de nos plus vieilles vignes."
        for wine in wines
    ]
    people = pd.DataFrame({"customer_id": ids, "client_code": [f"{number:06d}" for number in range(len(ids))]})
    names = people[["customer_id"]].assign(first_name="Anne-Marie", full_name=None)
    names["last_name"] = [f"Muller-{number}" for number in range(len(ids))]
    orders = pd.DataFrame({"customer_id": np.repeat(ids, 3), "n_orders": 7})
    orders["order_date"] = pd.Timestamp("2023-01-01") + pd.to_timedelta(rng.integers(0, 1000, len(orders)), unit="D")
    orders["amount_ht"] = rng.integers(1000, 90_000, len(orders)) / 100
    told = items.loc[rng.random(n_items) < 2 / 3, ["customer_id", "product_key"]]
    return {
        "items": items,
        "actions": people.assign(permitted=True, audit_score=100),
        "customers": names,
        "products": pd.DataFrame({"product_key": [f"P{n}" for n in range(300)]}).assign(
            label=[f"Riesling Cuvée {n}" for n in range(300)], vintage=2023, format_cl=75.0
        ),
        "orders": orders,
        "findings": told.assign(rule_code="SUGAR_MISMATCH", severity="WARN", measured=None, threshold=None),
        "decided": pd.DataFrame(columns=[*ITEM_KEY, "decision", "rating", "comment"], dtype="object"),
        "sampled": pd.Series(ids[:50]),
    }


def best(repeat: int, work: Callable[[], Any]) -> float:
    """Seconds of the fastest of some calls."""
    seconds = []
    for _ in range(repeat):
        started = time.monotonic()
        work()
        seconds.append(time.monotonic() - started)
    return round(min(seconds), 2)


def measure(n_items: int, repeat: int) -> dict[str, float]:
    """The figures of a workbook of so many rows."""
    effective = rules.load()
    frames = estate(n_items)
    items = review_items(**frames, run_id=RUN, rules=effective, locale="fr")
    about = About("Domaine", RUN, date(2025, 12, 31), date(2026, 1, 7), "sample")

    def write() -> bytes:
        made_at = datetime(2025, 12, 31, tzinfo=UTC)
        return review_workbook(items, frames["findings"], about, effective, locale="fr", made_at=made_at)

    with tempfile.TemporaryDirectory(prefix="crmbench-review-") as folder:
        path = Path(folder, "review.xlsx")
        path.write_bytes(write())
        figures = {
            "rows": float(n_items),
            "mib": round(path.stat().st_size / 2**20, 2),
            "gather": best(repeat, lambda: review_items(**frames, run_id=RUN, rules=effective, locale="fr")),
            "write": best(repeat, write),
            "open_calamine": best(repeat, lambda: CalamineWorkbook.from_path(path).get_sheet_by_index(0).to_python()),
            "read": best(repeat, lambda: read(path, effective.landing.workbook)),
        }
        if office := shutil.which("soffice"):
            for name, kind in SAVED_AS.items():
                command = [office, f"-env:UserInstallation=file://{folder}/office", "--headless", "--convert-to", kind,
                           "--outdir", f"{folder}/out", str(path)]  # fmt: skip
                figures[name] = best(repeat, lambda: subprocess.run(command, check=True, capture_output=True))  # noqa: B023
    figures["peak_mib"] = peak_mib()
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default="20000,60000")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    found = {f"{rows} rows": measure(int(rows), args.repeat) for rows in args.rows.split(",")}
    print(json.dumps(found, indent=2))
    if args.out:
        args.out.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
