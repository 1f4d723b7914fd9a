"""The business rules: the shape of `config/rules.yaml`, and a tenant's overrides laid over it.

The numbers live in the YAML file, never here: a field without a value in the file is an error, not a default.
Unknown keys are refused, so that a misspelt override cannot be silently without effect.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict

RULES_FILE = Path(__file__).parent / "config" / "rules.yaml"


class Section(BaseModel):
    """A part of the rules: frozen, and closed to keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SalesBatchShares(Section):
    required: float
    date: float
    number: float
    postal_code: float


class ProductBatchShares(Section):
    required: float
    number: float
    vintage: float


class BatchShares(Section):
    sales_lines: SalesBatchShares
    products: ProductBatchShares


class StockFreshness(Section):
    error_days: int | None


class Freshness(StockFreshness):
    warn_days: int


class FreshnessRules(Section):
    stock: StockFreshness
    customers: Freshness
    products: Freshness
    contacts: Freshness


class MaxShortfall(Section):
    sales_lines: float
    customers: float
    products: float
    stock: float
    contacts: float


class WorkbookLimits(Section):
    inflated_bytes: int
    ratio: float
    ratio_from_bytes: int
    cells: int


class Landing(Section):
    settle_seconds: float
    settled_after_seconds: float
    workbook_rows: int
    workbook: WorkbookLimits
    key_bytes: int
    batch_sample: int
    batch_shares: BatchShares
    needed_datasets: list[str]
    freshness: FreshnessRules
    max_shortfall: MaxShortfall


class Vat(Section):
    default: float
    by_country: dict[str, float]
    other_countries: float
    by_family: dict[str, float]


class BottleCoefficient(Section):
    pattern: str
    coefficient: float


class Values(Section):
    vat: Vat
    two_digit_year_pivot: int
    bottle_coefficients: list[BottleCoefficient]
    countries: dict[str, str] = {}


class ToleratedShares(Section):
    split: float
    number_reused: float
    positive_credit: float
    document_inferred: float
    amount_derived: float


class Documents(Section):
    tolerated_shares: ToleratedShares
    same_number_max_days: int
    types: dict[str, Literal["count", "credit", "ignore"]]


class TypePattern(Section):
    pattern: str
    type: str


class StatusPattern(Section):
    pattern: str
    status: str


class KindPattern(Section):
    pattern: str
    kind: str


class Customers(Section):
    name_similarity: float
    phone_max_codes: int
    email_max_names: int
    invalid_email_share: float
    collective_order_share: float
    collective_min_orders: int
    exclude_customers: list[str]
    types: list[TypePattern]
    professional_types: list[str]
    statuses: list[StatusPattern]


class PriceSegments(Section):
    standard: float
    premium: float
    luxury: float


class Products(Section):
    fuzzy_match: float
    fuzzy_margin: float
    suggestion_min: float
    stock_coverage_min: float
    stock_max_age_days: int
    price_segments: PriceSegments
    customer_price_months: int
    missing_price_days: int
    popularity_days: int
    recommendable_kinds: list[str]
    kinds: list[KindPattern]


class RfmEdges(Section):
    recency: list[float]
    frequency: list[float]
    monetary: list[float]


class Rfm(Section):
    method: Literal["quintile", "edges"]
    edges_below_customers: int
    edges: RfmEdges


class ConfidenceLevels(Section):
    medium: float
    high: float


class Taste(Section):
    half_weight_days: float
    shrinkage_orders: float
    full_confidence_orders: float
    confidence_levels: ConfidenceLevels


class Clusters(Section):
    seed: int
    k_min: int
    k_max: int
    starts: int
    deviations_max: float
    stability_min: float
    stability_resamples: int
    smallest_share_min: float
    silhouette_tolerance: float
    stability_tolerance: float
    match_distance_max: float
    sample_max: int
    silhouette_sample: int


class Engagement(Section):
    open: float
    click: float
    bounce: float


class Predictions(Section):
    horizon_days: int
    value_days: int
    churn_interval_factor: float
    churn_p_active: float
    engagement_days: int
    engagement: Engagement
    prior_orders: float
    min_customers: int
    min_history_days: int
    sample_max: int
    min_gain: float
    slope_tolerance: float
    learning_cuts: int
    learning_min_positives: int
    holdout_auc_min: float
    holdout_total_factor: float


class ComponentWeights(Section):
    collaborative: float
    content: float
    popularity: float
    rhythm: float
    margin: float
    season: float


class ScenarioWeights(Section):
    rebuy: ComponentWeights
    cross_sell: ComponentWeights
    upsell: ComponentWeights
    winback: ComponentWeights
    nurture: ComponentWeights


class Multipliers(Section):
    rebuy: float
    cross_sell: float
    upsell: float
    winback: float
    nurture: float


class Explanations(Section):
    """From when on a fact is a reason that staff read.

    shortest_rhythm_days; late_days, late_share: of the interval, beyond it; orders_together: with both wines;
    share: of the customer's spend; close_taste: 1 - distance of taste and wine; tops: "among the so many most
    bought"; low_stock: bottles left.
    """

    shortest_rhythm_days: float
    late_days: float
    late_share: float
    orders_together: int
    share: float
    close_taste: float
    tops: list[int]
    low_stock: float


class UnratedOpinions(Section):
    """What a decision without a rating says of the wine, 0..1."""

    approve: float
    later: float
    reject: float


class Feedback(Section):
    """days: how long a review counts; prior: neutral reviews that every wine has; see `logic.feedback`."""

    days: int
    prior: float
    unrated: UnratedOpinions


class Recommendations(Section):
    max_per_customer: int
    bought_window_days: int
    bought_window_days_professional: int
    rejection_days: int
    winback_after_days: int
    winback_min_lifetime: float
    rebuy_min_days: int
    rebuy_max_days: int
    rebuy_rhythm_share: float
    upsell_max_price_ratio: float
    nurture_price_segment: str
    max_family_share: float
    stock_bottles_per_message: float
    stock_response_rate: float
    probability_days: int
    confidence_percentile: float
    candidates_per_list: int
    memory_days: float
    calibration_max_customers: int
    calibration_min_positives: int
    season_tags: dict[str, list[int]]
    explanations: Explanations
    feedback: Feedback
    weights: ScenarioWeights
    multipliers: Multipliers


class Recipe(Section):
    """How a ranker is made; see `logic.ranking.Ranker` for what each weight does.

    memory_days, scale: of a customer's history; order_memory_days: of the orders learned from; penalty: of the
    ridge, in mean diagonals of its Gram matrix; personal, copurchase, popularity: what is added to the ridge.
    """

    scale: Literal["orders", "length"]
    memory_days: float
    order_memory_days: float
    penalty: float
    personal: float
    copurchase: float
    popularity: float


class Tuning(Section):
    max_orders: int
    max_products: int
    max_customers: int
    min_customers: int
    least_gain: float
    scale: list[Literal["orders", "length"]]
    memory_days: list[float]
    order_memory_days: list[float]
    penalty: list[float]
    personal: list[float]
    copurchase: list[float]
    popularity: list[float]


class RerankerRules(Section):
    min_orders: int
    orders_per_cut: int
    cuts: int
    unordered_step: int
    iterations: int
    learning_rate: float
    leaves: int
    bins: int
    leaf_candidates: int
    l2: float
    seed: int


class BacktestRules(Section):
    tops: list[int]
    judged_by: int
    max_customers: int
    shortest_window_days: int
    windows_in_history: int


class Ranking(Section):
    prior_orders: float
    max_orders: int
    orders_per_product: int
    max_products: int
    least_popularity: float
    new_product_orders: float
    likeness_neighbours: int
    recipe: Recipe
    tuning: Tuning
    candidates_repeat: int
    candidates_explore: int
    reranker: RerankerRules
    backtest: BacktestRules


class Permission(Section):
    adult_age: int
    inactive_days: int
    recent_order_days: int
    professional_basis: bool
    wine_trade_types: list[str]


class Audit(Section):
    error_points: int
    warning_points: int
    min_score: int
    silence_days: int
    fatigue_contacts: int
    fatigue_days: int
    duplicate_days: int
    diversity_min_items: int
    diversity_max_share: float
    low_confidence: float


class Tolerance(Section):
    severity: Literal["ERROR", "WARN"]
    tolerance: float


class CircuitBreaker(Section):
    weights: dict[Literal["ERROR", "WARN"], float]
    min_score: float
    window_days: int
    stale_after_days: int
    stale_span_days: int
    volume_history_files: int
    max_realistic_price: float
    tolerances: dict[str, Tolerance]


class Contacts(Section):
    statuses: dict[str, Literal["contact", "engagement", "bounced", "refused"]]


class Review(Section):
    sample_size: int
    max_rejected_share: float
    carry_days: int


class Activation(Section):
    batch_size: int
    batch_min: int
    batch_max: int
    carton_bottles: int
    unit_min_cl: float
    forbidden_words: list[str]
    chunk_max_messages: int
    chunk_max_bytes: int
    plan_expires_days: int
    holdout_share: float
    holdout_min_eligible: int
    conversion_days: int


class Weekly(Section):
    weekday: int
    hour: int


class Automation(Section):
    weekly: Weekly
    retry_after_minutes: int
    max_tries: int


class BusinessRules(Section):
    """All business rules in force for one tenant."""

    landing: Landing
    values: Values
    documents: Documents
    customers: Customers
    products: Products
    rfm: Rfm
    taste: Taste
    clusters: Clusters
    predictions: Predictions
    recommendations: Recommendations
    ranking: Ranking
    permission: Permission
    audit: Audit
    circuit_breaker: CircuitBreaker
    contacts: Contacts
    review: Review
    activation: Activation
    automation: Automation

    @cached_property
    def version(self) -> str:
        """First 12 hex of the SHA-256 of the effective rules."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]

    def parameters(self) -> dict[str, Any]:
        """Every node of the rules under its dotted name, for `landing.parameters`."""
        nodes: dict[str, Any] = {}

        def walk(prefix: str, node: Any) -> None:
            if prefix:
                nodes[prefix] = node
            if isinstance(node, dict):
                for key, value in node.items():
                    walk(f"{prefix}.{key}" if prefix else str(key), value)

        walk("", self.model_dump(mode="json"))
        return nodes


@cache
def defaults() -> dict[str, Any]:
    """The rules as `config/rules.yaml` has them."""
    loaded = yaml.safe_load(RULES_FILE.read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded


def merge(base: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """`base` with `overrides` laid over it, mapping by mapping; lists and scalars are replaced whole."""
    merged = dict(base)
    for key, value in overrides.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def load(overrides: dict[str, Any] | None = None) -> BusinessRules:
    """The rules in force under a tenant's `rules:` mapping; pydantic.ValidationError names a wrong key."""
    return BusinessRules.model_validate(merge(defaults(), overrides or {}))
