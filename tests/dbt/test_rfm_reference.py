"""The reference case of spec.md §4.1, from raw lines to scores, against numpy.

The numbers that dbt must find are computed here from the documents by other means: nothing of the models'
SQL, nor of their expected literals, is shared.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas as pd

from crm_assets.resources.warehouse import Warehouse
from tests.dbt.estate import AS_OF, Line, build, fill, set_parameters

CASE: dict[str, Sequence[Line]] = {
    "C01": [("A1", 0, "P1", 6, 60), ("A2", 30, "P2", 2, 24), ("A3", 60, "P3", 2, 50)],
    "C02": [("B1", 10, "P1", 1, 10)],
    "C03": [("C1", 20, "P5", 3, 120), ("C1", 20, "P2", 1, 12)],
    "C04": [("D1", 45, "P2", 6, 72), ("D2", 90, "P2", 6, 72)],
    "C05": [("E1", 100, "P4", 2, 36)],
    "C06": [
        ("F1", 200, "P1", 12, 120),
        ("F2", 260, "P1", 12, 120),
        ("F3", 300, "P3", 1, 25),
        ("F4", 400, "P3", 1, 25),
    ],
    "C07": [("G1", 365, "P2", 1, 12)],
    "C08": [("H1", 400, "P3", 2, 50)],
    "C11": [],
}
PRODUCTS = [
    {"product_key": key, "label": f"Vin {key}", "family": "Blanc", "price_ttc": "14.40", "is_active": "1"}
    for key in ("P1", "P2", "P3", "P4", "P5")
]
MEASURES = {
    "C01": (0, 3, 134),
    "C02": (10, 1, 10),
    "C03": (20, 1, 132),
    "C04": (45, 2, 144),
    "C05": (100, 1, 36),
    "C06": (200, 4, 290),
    "C07": (365, 1, 12),
    "C08": (400, 1, 50),
}


def expected(as_of: date) -> pd.DataFrame:
    """Measures, scores and segments of those who ordered by `as_of`, indexed by customer."""
    shift = (AS_OF - as_of).days
    known = {
        customer: [line for line in lines if line[1] >= shift]
        for customer, lines in CASE.items()
        if any(line[1] >= shift for line in lines)
    }
    customers = list(known)
    recency = np.array([min(line[1] for line in lines) - shift for lines in known.values()])
    frequency = np.array([len({line[0] for line in lines}) for lines in known.values()])
    monetary = np.array([sum(line[4] for line in lines) for lines in known.values()])

    def quintile(values: np.ndarray) -> np.ndarray:
        """1 for the lowest fifth to 5 for the highest; a cut point belongs to the fifth below."""
        return 1 + np.searchsorted(np.quantile(values, [0.2, 0.4, 0.6, 0.8]), values, side="left")

    r, f, m = 6 - quintile(recency), quintile(frequency), quintile(monetary)
    segments = np.select(
        [
            (r >= 4) & (f >= 4) & (m >= 4),
            (f >= 4) & (r >= 3),
            (m >= 4) & (f >= 3),
            (r >= 4) & (f <= 2),
            (r >= 3) & (f >= 2) & (m >= 2),
            (r <= 2) & (f <= 2),
        ],
        ["Champions", "Loyal Customers", "Big Spenders", "Recent Customers", "Promising", "At Risk"],
        default="Others",
    )
    columns = {
        "recency_days": recency,
        "frequency": frequency,
        "monetary": monetary,
        "r_score": r,
        "f_score": f,
        "m_score": m,
        "rfm_score": r + f + m,
        "rfm_code": [f"{a}{b}{c}" for a, b, c in zip(r, f, m, strict=True)],
        "segment": segments,
    }
    return pd.DataFrame(columns, index=pd.Index(customers, name="customer_id")).sort_index()


def _scores(warehouse: Warehouse, name: str, where: str = "segment <> 'Prospects'") -> pd.DataFrame:
    frame = warehouse.read("rfm", name, where=where).set_index("customer_id").sort_index()
    return frame[list(expected(AS_OF).columns)]


def test_the_measures_of_the_case_are_those_written_in_the_spec() -> None:
    frame = expected(AS_OF)
    assert {row.Index: (row.recency_days, row.frequency, row.monetary) for row in frame.itertuples()} == MEASURES


def test_reference_case_from_raw_lines_to_segments(tenant_warehouse: Warehouse, tmp_path: Path) -> None:
    fill(tenant_warehouse, CASE, PRODUCTS)
    # Eight customers would be scored by edges: the case is about quintiles.
    set_parameters(tenant_warehouse, AS_OF, {"edges_below_customers": 0})
    build(tenant_warehouse, tmp_path, ["+customer_rfm_history"])

    found = _scores(tenant_warehouse, "customer_rfm")
    pd.testing.assert_frame_equal(found, expected(AS_OF), check_dtype=False)
    prospects = tenant_warehouse.read("rfm", "customer_rfm", where="segment = 'Prospects'")
    assert list(prospects["customer_id"]) == ["C11"]
    assert prospects[["r_score", "f_score", "m_score", "rfm_score", "rfm_code", "method"]].isna().all().all()

    # An earlier day sees what was known then, keeps both days in the history, and twice is the same as once.
    earlier = AS_OF - timedelta(days=50)
    set_parameters(tenant_warehouse, earlier, {"edges_below_customers": 0})
    for _ in range(2):
        build(
            tenant_warehouse,
            tmp_path,
            ["known_sales_lines", "fct_orders", "customer_rfm", "customer_rfm_history"],
        )
    pd.testing.assert_frame_equal(_scores(tenant_warehouse, "customer_rfm"), expected(earlier), check_dtype=False)
    for day in (AS_OF, earlier):
        found = _scores(tenant_warehouse, "customer_rfm_history", f"segment <> 'Prospects' and as_of = '{day}'")
        pd.testing.assert_frame_equal(found, expected(day), check_dtype=False)
    assert tenant_warehouse.count("rfm", "customer_rfm_history") == 2 * len(CASE)
