"""The gate: who may be written to from a run, and whether anything may be planned from it at all (spec.md
§6).

`gate.decisions` is the row that activation obeys; it is not a Dagster check, which would stop only its own
run. No SQL, no clock here: permission and scores come from `logic/audit.py`, the moment of decision from the
caller.
"""

from __future__ import annotations

import hashlib
from datetime import date, datetime

import numpy as np
import pandas as pd

from crm_assets.logic.audit import Breaker
from crm_assets.rules import BusinessRules

OPEN, CLOSED = "open", "closed"
# What review says of a customer, and of a message whose wine was rejected once it had been planned.
REVIEW_PENDING, REVIEW_FAILED, REVIEW_REJECTED = "REVIEW_PENDING", "REVIEW_FAILED", "REVIEW_REJECTED"
# Not a check of the breaker but a measure beside them: document types that no rule maps (spec.md §3).
UNMAPPED_DOCUMENT_TYPE = "UNMAPPED_DOCUMENT_TYPE"
# Nothing is wrong with the data: a review that nobody has done yet is enough.
NO_ELIGIBLE_CUSTOMER = "NO_ELIGIBLE_CUSTOMER"


def candidates(permissions: pd.DataFrame, scores: pd.DataFrame, rules: BusinessRules) -> pd.Series:
    """The customers of a run whom permission and audit let through: review decides on these."""
    rows = permissions[["customer_id", "permitted"]].merge(scores, on="customer_id", validate="one_to_one")
    passes = rows["permitted"].astype(bool) & (rows["n_errors"] == 0) & (rows["audit_score"] >= rules.audit.min_score)
    return rows.loc[passes, "customer_id"]


def draw_sample(customers: pd.Series, items: pd.DataFrame, rules: BusinessRules) -> pd.DataFrame:
    """The customers a reviewer must look at: `sample_size` of them, spread over scenarios in proportion.

    One row per customer: customer_id, scenario of the first of `items` (customer_id, scenario, rank). Drawn by the
    hash of the customer id: the same customers give the same sample.
    """
    first = items[items["customer_id"].isin(customers)].sort_values(["customer_id", "rank"], kind="stable")
    first = first.drop_duplicates("customer_id")[["customer_id", "scenario"]]
    drawn = first.assign(draw=[hashlib.sha256(str(i).encode()).hexdigest() for i in first["customer_id"]])
    drawn = drawn.sort_values("draw", kind="stable")
    # Position within the scenario as a share of it: taking the smallest shares keeps the proportions.
    within = (drawn.groupby("scenario").cumcount() + 0.5) / drawn.groupby("scenario")["draw"].transform("size")
    drawn = drawn.assign(within=within).sort_values(["within", "draw"]).head(rules.review.sample_size)
    return drawn[["customer_id", "scenario"]].reset_index(drop=True)


def review_verdicts(
    customers: pd.Series,
    items: pd.DataFrame,
    decisions: pd.DataFrame,
    sample: pd.Series,
    mode: str,
    rules: BusinessRules,
) -> pd.Series:
    """Per candidate whom review holds back, why: REVIEW_PENDING or REVIEW_FAILED, by customer_id.

    `customers`: those whom permission and audit let through. `items`: customer_id, wine_id, scenario of all that the
    engine proposed, what was rejected since included (`auto` does not look at them). `decisions`: customer_id, wine_id,
    scenario, decision that hold on them. `sample`: the pinned sample's customers.

    * In every mode an item put off (`later`) holds its customer back. What was rejected has left the list: who has
      nothing left is not among the candidates.
    * auto: nothing else.
    * required: every item left is approved.
    * sample: each sampled customer's items are all approved or rejected, and at most `max_rejected_share` of these
      customers had one rejected. Where more had, the sample has failed, whatever is decided on the others: then the
      list is to be decided item by item as under `required`, or made anew.
    """
    ids = pd.Index(pd.unique(customers))
    held = pd.Series(None, index=ids, dtype="object")
    if mode == "required":
        held[_flags(ids, items, decisions)["undecided"]] = REVIEW_PENDING
    elif mode == "sample":
        sampled = _flags(pd.Index(sample), items, decisions)
        if len(sampled) and sampled["rejected"].mean() > rules.review.max_rejected_share:
            held[_flags(ids, items, decisions)["undecided"]] = REVIEW_FAILED
        elif not len(sampled) or sampled["undecided"].any():
            held[:] = REVIEW_PENDING
    put_off = decisions.loc[decisions["decision"] == "later", "customer_id"]
    held[ids.isin(put_off)] = REVIEW_PENDING
    return held.dropna()


def _flags(ids: pd.Index, items: pd.DataFrame, decisions: pd.DataFrame) -> pd.DataFrame:
    """Per customer, in the order of `ids`: whether an item was `rejected`, whether one is `undecided` (or put off)."""
    key = ["customer_id", "wine_id", "scenario"]
    looked_at = items.loc[items["customer_id"].isin(ids), key]
    said = looked_at.merge(decisions[[*key, "decision"]], on=key, how="left", validate="one_to_one")
    flags = pd.DataFrame(
        {"rejected": said["decision"].eq("reject"), "undecided": ~said["decision"].isin(["approve", "reject"])}
    )
    return flags.groupby(said["customer_id"], sort=False).any().reindex(ids, fill_value=False)


def next_actions(
    people: pd.DataFrame,
    permissions: pd.DataFrame,
    scores: pd.DataFrame,
    items: pd.DataFrame,
    held: pd.Series,
    rules: BusinessRules,
) -> pd.DataFrame:
    """One row per customer of a run: gate.next_actions without run_id.

    `people`: customer_id, client_code. `items`: the list as it stands after review. `held`: by customer_id, why review
    holds a candidate back. Eligible = permitted, no error, score >= min_score, review allows it.
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
    why = rows["customer_id"].map(held).astype("object")
    rows["eligible"] = rows["customer_id"].isin(candidates(permissions, scores, rules)) & why.isna()
    rows["reason"] = np.select(
        [rows["permission_reason"].notna(), rows["n_errors"] > 0, why.notna()],
        [rows["permission_reason"].astype("object"), rows["first_rule"].astype("object"), why],
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
            NO_ELIGIBLE_CUSTOMER: n_eligible == 0,
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
