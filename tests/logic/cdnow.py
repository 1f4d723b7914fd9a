"""Fader & Hardie's CDNOW data, for tests that skip without it: it is for development and no part of the project."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

CDNOW = Path(__file__).parents[3] / "shared" / "data" / "cdnow_master.txt"
CALIBRATION_END = pd.Timestamp("1997-09-30")


def cdnow_orders() -> pd.DataFrame:
    """One row per purchase: customer_id, order_date, amount_ht. Skips the test without the file."""
    if not CDNOW.exists():
        pytest.skip(f"needs {CDNOW}")
    frame = pd.read_csv(
        CDNOW, sep=r"\s+", header=None, names=["customer_id", "order_date", "items", "amount_ht"], dtype=str
    )
    frame = frame[frame["customer_id"].str.isdigit()]
    frame["order_date"] = pd.to_datetime(frame["order_date"], format="%Y%m%d")
    return frame.assign(amount_ht=frame["amount_ht"].astype("float64"))[["customer_id", "order_date", "amount_ht"]]


def calibration_summary() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, t_x and age in days at the end of the 39 weeks; several purchases on one day are one."""
    orders = cdnow_orders()
    days = orders.loc[orders["order_date"] <= CALIBRATION_END, ["customer_id", "order_date"]].drop_duplicates()
    of_customer = days.groupby("customer_id")["order_date"]
    first, last = of_customer.min(), of_customer.max()
    return (
        of_customer.size().to_numpy(dtype="float64") - 1,
        (last - first).dt.days.to_numpy(dtype="float64"),
        (CALIBRATION_END - first).dt.days.to_numpy(dtype="float64"),
    )
