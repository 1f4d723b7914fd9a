"""The gate: who may be written to from a run, and whether anything may be planned from it at all (spec.md
§6).

`gate.decisions` is the row that activation obeys; it is not a Dagster check, which would stop only its own
run. No SQL, no clock here: permission and scores come from `logic/audit.py`, the moment of decision from the
caller.
"""

from __future__ import annotations

import hashlib
from datetime import date, datetime, timedelta

import numpy as np
import pandas as pd

from crm_assets.logic.audit import Breaker
from crm_assets.rules import BusinessRules

OPEN, CLOSED = "open", "closed"
REVIEW_PENDING, REVIEW_REJECTED = "REVIEW_PENDING", "REVIEW_REJECTED"
# Not a check of the breaker but a measure beside them: document types that no rule maps (spec.md §3).
UNMAPPED_DOCUMENT_TYPE = "UNMAPPED_DOCUMENT_TYPE"


def _sample(first_items: pd.DataFrame, size: int) -> pd.Index:
    """The customers a reviewer must look at: `size` of them, spread over scenarios in proportion.

    Drawn by the hash of the customer id, so that the sample is the same however often it is asked for.
    """
    if len(first_items) <= size:
        return pd.Index(first_items["customer_id"])
    drawn = first_items.assign(draw=[hashlib.sha256(str(i).encode()).hexdigest() for i in first_items["customer_id"]])
    drawn = drawn.sort_values(["draw"], kind="stable")
    # Position within the scenario as a share of it: taking the smallest shares keeps the proportions.
    within = (drawn.groupby("scenario").cumcount() + 0.5) / drawn.groupby("scenario")["draw"].transform("size")
    return pd.Index(drawn.assign(within=within).sort_values(["within", "draw"]).head(size)["customer_id"])


def review_verdicts(
    items: pd.DataFrame,
    candidates: pd.Series,
    decisions: pd.DataFrame,
    mode: str,
    rules: BusinessRules,
    now: datetime,
) -> pd.Series:
    """Per candidate customer, why review holds the message back: REVIEW_PENDING, REVIEW_REJECTED, or null.

    `candidates`: customers that permission and audit let through. `decisions`: rows of review.decisions; the
    latest for a (customer, wine, scenario) counts for `carry_days`. auto: nothing is held back. required:
    every item approved. sample: the sample all decided and at most `max_rejected_share` of it rejected; a
    customer with a rejected item is held back in every case.
    """
    ids = pd.Index(pd.unique(candidates))
    verdict = pd.Series(None, index=ids, dtype="object")
    if mode == "auto" or ids.empty:
        return verdict
    since = pd.Timestamp(now - timedelta(days=rules.review.carry_days))
    decided_at = pd.to_datetime(decisions["decided_at"], utc=True)
    key = ["customer_id", "wine_id", "scenario"]
    latest = decisions[decided_at >= since].sort_values("decided_at").drop_duplicates(key, keep="last")
    reviewed = items.loc[items["customer_id"].isin(ids), [*key, "rank"]].merge(
        latest[[*key, "decision"]], on=key, how="left"
    )
    by_customer = reviewed.groupby("customer_id")["decision"]
    rejected = by_customer.agg(lambda d: bool((d == "reject").any())).reindex(ids, fill_value=False).astype(bool)
    if mode == "required":
        approved = by_customer.agg(lambda d: bool((d == "approve").all())).reindex(ids, fill_value=False).astype(bool)
        verdict[~approved] = REVIEW_PENDING
    else:
        decided = by_customer.agg(lambda d: bool(d.isin(["approve", "reject"]).all())).reindex(ids, fill_value=False)
        first = reviewed.sort_values(["customer_id", "rank"]).drop_duplicates("customer_id")
        sample = _sample(first[["customer_id", "scenario"]], rules.review.sample_size)
        passes = decided[sample].all() and rejected[sample].mean() <= rules.review.max_rejected_share
        if not passes:
            verdict[:] = REVIEW_PENDING
    verdict[rejected] = REVIEW_REJECTED
    return verdict


def next_actions(
    people: pd.DataFrame,
    permissions: pd.DataFrame,
    scores: pd.DataFrame,
    items: pd.DataFrame,
    decisions: pd.DataFrame,
    review: str,
    rules: BusinessRules,
    now: datetime,
) -> pd.DataFrame:
    """One row per customer of a run: gate.next_actions without run_id.

    `people`: customer_id, client_code. Eligible = permitted, no error, score >= min_score, review allows it.
    reason = permission reason, else first error, else what review says, else first warning.
    """
    first = items.sort_values(["customer_id", "rank"], kind="stable").drop_duplicates("customer_id")
    sizes = items.groupby("customer_id", sort=False).size().rename("n_items").reset_index()
    rows = (
        people[["customer_id", "client_code"]]
        .merge(permissions, on="customer_id", how="left", validate="one_to_one")
        .merge(scores, on="customer_id", how="left", validate="one_to_one")
        .merge(first[["customer_id", "scenario"]], on="customer_id", how="left", validate="one_to_one")
        .merge(sizes, on="customer_id", how="left", validate="one_to_one")
    )
    rows["n_items"] = rows["n_items"].fillna(0).astype("int64")
    passes = rows["permitted"].astype(bool) & (rows["n_errors"] == 0) & (rows["audit_score"] >= rules.audit.min_score)
    verdicts = review_verdicts(items, rows.loc[passes, "customer_id"], decisions, review, rules, now)
    held = rows["customer_id"].map(verdicts)
    rows["eligible"] = passes & held.isna()
    rows["reason"] = np.select(
        [rows["permission_reason"].notna(), rows["n_errors"] > 0, held.notna()],
        [
            rows["permission_reason"].astype("object"),
            rows["first_rule"].astype("object"),
            held.astype("object"),
        ],
        default=rows["first_rule"].astype("object"),
    )
    # fmt: off
    columns = [
        "customer_id", "client_code", "permitted", "permission_reason", "scenario", "n_items", "audit_score",
        "eligible", "reason",
    ]
    # fmt: on
    return rows[columns].assign(rules_version=rules.version)


def decide(
    actions: pd.DataFrame,
    scores: pd.DataFrame,
    breaker: Breaker,
    n_unmapped_document_types: int,
    is_historical: bool,
    as_of: date,
    now: datetime,
    rules: BusinessRules,
) -> pd.DataFrame:
    """The one row of gate.decisions, without run_id: open, or closed with every reason that holds.

    gate_export = the breaker has not tripped and somebody is eligible (spec.md §6).
    """
    n_eligible = int(actions["eligible"].sum())
    reasons = [
        reason
        for reason, holds in {
            "HISTORICAL": is_historical,
            "CIRCUIT_BREAKER": breaker.tripped,
            UNMAPPED_DOCUMENT_TYPE: n_unmapped_document_types > 0,
            "NO_ELIGIBLE_CUSTOMER": n_eligible == 0,
        }.items()
        if holds
    ]
    row = {
        "as_of": as_of,
        "status": CLOSED if reasons else OPEN,
        "reasons": reasons,
        "data_quality_score": breaker.score,
        "gate_export": not breaker.tripped and n_eligible > 0,
        "n_customers": len(actions),
        "n_permitted": int(actions["permitted"].sum()),
        "n_eligible": n_eligible,
        "n_errors": int(scores["n_errors"].sum()),
        "n_warnings": int(scores["n_warnings"].sum()),
        "mean_audit_score": float(scores["audit_score"].mean()) if len(scores) else None,
        "is_historical": is_historical,
        "decided_at": now,
        "rules_version": rules.version,
    }
    return pd.DataFrame([row])
