"""UCI Online Retail II as a file of order lines, cleaned as the figures of docs/ranking.md take it.

Kept: quantity above 0, price above 0, no cancellation (an invoice beginning with C), stock codes beginning with five
digits (the others are postage, samples, fees). An order is all that a customer bought on one day. The data (Chen,
2019; CC BY 4.0) is not part of the project.

    python -m benchmarks.online_retail ../shared/data/online_retail_ii.csv.gz FILE.csv
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

from crm_assets.settings import ROOT

SOURCE = ROOT.parent / "shared" / "data" / "online_retail_ii.csv.gz"


def order_lines(source: Path = SOURCE) -> pd.DataFrame:
    """customer_id, order_id, order_date, product_key, quantity, amount: 788,187 lines of 5,852 customers."""
    columns = ["customer", "invoice", "date", "stock_code", "quantity", "price"]
    text = {"customer": str, "invoice": str, "date": str, "stock_code": str}
    lines = pd.read_csv(source, usecols=columns, dtype=text)
    is_sale = (lines["quantity"] > 0) & (lines["price"] > 0) & ~lines["invoice"].str.startswith("C")
    lines = lines[is_sale & lines["stock_code"].str.match(r"\d{5}") & lines["customer"].notna()]
    return pd.DataFrame(
        {
            "customer_id": lines["customer"],
            "order_id": lines["customer"] + "_" + lines["date"],
            "order_date": lines["date"],
            "product_key": lines["stock_code"],
            "quantity": lines["quantity"],
            "amount": (lines["quantity"] * lines["price"]).round(2),
        }
    )


def main() -> None:
    """Write the file."""
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    lines = order_lines(source)
    lines.to_csv(target, index=False)
    print(f"{len(lines)} lines of {lines['customer_id'].nunique()} customers in {target}")


if __name__ == "__main__":
    main()
