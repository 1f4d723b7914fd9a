"""Models of when customers buy and for how much, fitted by maximum likelihood: BG/NBD, Pareto/NBD, Gamma-Gamma.

Every customer is three numbers: x repeat orders, t_x from the first to the last order, age (T in the papers) from
the first order to the day of judgement, in one unit of time (days here; the parameters follow the unit). Arrays
in, arrays out, vectorised over customers; a fit works on the distinct rows with their counts. Which model serves
an estate, and on what evidence, is not decided here (`predictions.py`).

BG/NBD: Fader, Hardie, Lee, "Counting your customers the easy way", Marketing Science 24(2), 2005.
Pareto/NBD: Schmittlein, Morrison, Colombo, Management Science 33(1), 1987; here with the time of dropping out
integrated numerically (all terms positive), where the published form takes differences of 2F1.
Gamma-Gamma: Fader, Hardie, "The Gamma-Gamma model of monetary value", 2013.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, dataclass, fields
from functools import lru_cache
from typing import Any, ClassVar, Protocol, Self

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.float64]]

# Bounds of the parameters, times in units of the mean age. Beyond them a mixing distribution is a point, and the
# likelihood flat.
_LOG_LOW, _LOG_HIGH = np.log(1e-4), np.log(1e4)
_LOG_HIGH_A = np.log(30.0)  # keeps 2F1 in range, for dropout shares as alike as a beta of that size makes them
_NODES = 16  # of Gauss-Legendre, exact to 1e-9 over the e-folds below
_E_FOLDS = 20.0  # where the integrand has fallen to 2e-9 of its start
_NEAR_ONE = 1e-6
_DIGITS = 5  # of a fitted parameter; its standard error shows in the second or third


class _Parameters:
    """What the fitted models share: their parameters are their fields."""

    def parameters(self) -> dict[str, float]:
        """By name, rounded for a report."""
        return {field.name: float(f"{getattr(self, field.name):.6g}") for field in fields(self)}  # type: ignore[arg-type]


class FitError(ValueError):
    """The data do not determine the model: the message says why, in words for a report."""


class PurchaseModel(Protocol):
    """What every model of orders answers; arrays x, t_x, age of one entry per customer, and a horizon.

    Of (age, age + horizon]: P(at least one order) and E[orders] are the answers for a customer who is active at age,
    times P(active).
    """

    name: ClassVar[str]

    def parameters(self) -> dict[str, float]:
        """By name, rounded for a report."""
        ...

    def p_active(self, x: Floats, t_x: Floats, age: Floats) -> Floats:
        """P(still a customer at age)."""
        ...

    def p_order_if_active(self, x: Floats, age: Floats, horizon: float) -> Floats:
        """P(at least one order in (age, age + horizon]) of a customer active at age."""
        ...

    def orders_if_active(self, x: Floats, age: Floats, horizon: float) -> Floats:
        """E[orders in (age, age + horizon]] of a customer active at age."""
        ...


@dataclass(frozen=True)
class BetaGeometric(_Parameters):
    """BG/NBD: orders at rate lambda ~ Gamma(r, alpha); after each order gone with p ~ Beta(a, b)."""

    name: ClassVar[str] = "bg_nbd"
    r: float
    alpha: float
    a: float
    b: float

    @classmethod
    def fit(cls, x: Floats, t_x: Floats, age: Floats) -> Self:
        """Raises FitError without repeat orders, or when no maximum is found."""
        x, t_x, age, weight, unit = _condensed(x, t_x, age)
        start = np.log([0.5, 0.5, 0.7, 2.0])
        high = [_LOG_HIGH, _LOG_HIGH, _LOG_HIGH_A, _LOG_HIGH]

        def loss(log_parameters: Floats) -> tuple[float, Floats]:
            value, gradient = _bg_nbd_likelihood(np.exp(log_parameters), x, t_x, age)
            return -float(weight @ value), -(gradient @ weight) * np.exp(log_parameters)

        r, alpha, a, b = _minimise(loss, start, high)
        return cls(r, alpha * unit, a, b)

    def log_likelihood(self, x: Floats, t_x: Floats, age: Floats) -> Floats:
        """Per customer."""
        return _bg_nbd_likelihood(np.array(astuple(self)), x, t_x, age)[0]

    def p_active(self, x: Floats, t_x: Floats, age: Floats) -> Floats:
        """P(still a customer at age): 1 for who never came back, because they can only leave after an order."""
        x = np.asarray(x, dtype=np.float64)
        log_odds_gone = np.where(
            x > 0,
            np.log(self.a)
            - np.log(self.b + np.maximum(x, 1.0) - 1.0)
            + (self.r + x) * (np.log(self.alpha + age) - np.log(self.alpha + t_x)),
            -np.inf,
        )
        return _logistic(-log_odds_gone)

    def p_order_if_active(self, x: Floats, age: Floats, horizon: float) -> Floats:
        """Until the next order nobody who is active leaves: rate and waiting time alone decide."""
        return -np.expm1((self.r + x) * (np.log(self.alpha + age) - np.log(self.alpha + age + horizon)))

    def orders_if_active(self, x: Floats, age: Floats, horizon: float) -> Floats:
        """Equation 10 of the paper without P(active), its 2F1 after Euler's transformation: no power of it
        overflows, whatever x and the horizon.
        """
        return _per_pair(x, age, lambda x, age: self._orders_if_active(x, age, horizon))

    def _orders_if_active(self, x: Floats, age: Floats, horizon: float) -> Floats:
        from scipy.special import hyp2f1

        a = self.a if abs(self.a - 1.0) > _NEAR_ONE else 1.0 + _NEAR_ONE
        c = a + self.b + x - 1.0
        c = np.where(np.abs(c) > _NEAR_ONE, c, _NEAR_ONE)
        z = horizon / (self.alpha + age + horizon)
        series = hyp2f1(a + self.b - 1.0 - self.r, a - 1.0, c, z)
        expected: Floats = c / (a - 1.0) * (1.0 - (1.0 - z) ** (a - 1.0) * series)
        return np.maximum(expected, 0.0)


@dataclass(frozen=True)
class ParetoNBD(_Parameters):
    """Pareto/NBD: orders at rate lambda ~ Gamma(r, alpha), gone at any moment at rate mu ~ Gamma(s, beta)."""

    name: ClassVar[str] = "pareto_nbd"
    r: float
    alpha: float
    s: float
    beta: float

    @classmethod
    def fit(cls, x: Floats, t_x: Floats, age: Floats) -> Self:
        """Raises FitError without repeat orders, or when no maximum is found."""
        x, t_x, age, weight, unit = _condensed(x, t_x, age)
        start = np.log([0.6, 0.4, 0.5, 0.4])

        def loss(log_parameters: Floats) -> tuple[float, Floats]:
            value, gradient = _pareto_nbd_likelihood(np.exp(log_parameters), x, t_x, age)
            return -float(weight @ value), -(gradient @ weight) * np.exp(log_parameters)

        r, alpha, s, beta = _minimise(loss, start, [_LOG_HIGH] * 4)
        return cls(r, alpha * unit, s, beta * unit)

    def log_likelihood(self, x: Floats, t_x: Floats, age: Floats) -> Floats:
        """Per customer."""
        return _pareto_nbd_likelihood(np.array(astuple(self)), x, t_x, age)[0]

    def p_active(self, x: Floats, t_x: Floats, age: Floats) -> Floats:
        """P(still a customer at age)."""
        log_alive, log_gone = _pareto_nbd_parts(self.r, self.alpha, self.s, self.beta, x, t_x, age)
        return _logistic(log_alive - log_gone)

    def p_order_if_active(self, x: Floats, age: Floats, horizon: float) -> Floats:
        """The density of the first order's time × not having left before, integrated over the horizon."""
        return _per_pair(x, age, lambda x, age: self._p_order_if_active(x, age, horizon))

    def _p_order_if_active(self, x: Floats, age: Floats, horizon: float) -> Floats:
        # Of v = log(1 + u / (alpha + age)), u being the order's time, the density is (r + x) exp(-(r + x) v).
        shape, now, life = self.r + x, self.alpha + age, self.beta + age
        node, weight = _legendre(_NODES)
        end = np.minimum(np.log1p(horizon / now), _E_FOLDS / shape)
        v = end * node[:, None]
        density = np.exp(-shape * v - self.s * np.log1p(now * np.expm1(v) / life))
        return np.asarray(shape * end * np.einsum("i,ij->j", weight, density), dtype=np.float64)

    def orders_if_active(self, x: Floats, age: Floats, horizon: float) -> Floats:
        """The rate (r + x) / (alpha + age) times the expected time until leaving, within the horizon."""
        longer = np.log1p(horizon / (self.beta + age))
        slope = self.s - 1.0
        time = longer if abs(slope) < _NEAR_ONE else -np.expm1(-slope * longer) / slope
        return np.asarray((self.r + x) / (self.alpha + age) * (self.beta + age) * time, dtype=np.float64)


@dataclass(frozen=True)
class GammaGamma(_Parameters):
    """Value of an order: Gamma(p, nu) with nu ~ Gamma(q, gamma) from customer to customer."""

    name: ClassVar[str] = "gamma_gamma"
    p: float
    q: float
    gamma: float

    @classmethod
    def fit(cls, n: Floats, mean: Floats) -> Self:
        """From customers' numbers of orders and mean order values, both > 0.

        Raises FitError with nobody of several orders (the spread within customers is unknown), or when q <= 1
        (the mean of all customers is infinite).
        """
        if not (n > 1).any():
            raise FitError("no customer with several orders")
        order = np.lexsort((mean, n))
        n, mean = np.asarray(n, dtype=np.float64)[order], np.asarray(mean, dtype=np.float64)[order]
        unit = float(mean.mean())
        mean = mean / unit

        def loss(log_parameters: Floats) -> tuple[float, Floats]:
            value, gradient = _gamma_gamma_likelihood(np.exp(log_parameters), n, mean)
            return -float(value.sum()), -gradient.sum(axis=1) * np.exp(log_parameters)

        p, q, gamma = _minimise(loss, np.log([2.0, 3.0, 1.0]), [_LOG_HIGH] * 3)
        if q <= 1.0:
            raise FitError("order values spread too widely for a mean (q <= 1)")
        return cls(p, q, gamma * unit)

    def expected_value(self, n: Floats, mean: Floats) -> Floats:
        """E[mean value of the orders to come]: own mean and everybody's, weighed by pn and q - 1."""
        return (self.gamma + n * mean) * self.p / (self.p * n + self.q - 1.0)


def _logistic(z: Floats) -> Floats:
    from scipy.special import expit

    return np.asarray(expit(z), dtype=np.float64)


@lru_cache(maxsize=4)
def _legendre(n: int) -> tuple[Floats, Floats]:
    """Nodes and weights of Gauss-Legendre on 0..1."""
    node, weight = np.polynomial.legendre.leggauss(n)
    return (node + 1.0) / 2.0, weight / 2.0


def _per_pair(x: Floats, age: Floats, function: Callable[[Floats, Floats], Floats]) -> Floats:
    """`function(x, age)` computed once per distinct pair: a million customers have some ten thousand."""
    x, age = np.broadcast_arrays(np.asarray(x, dtype=np.float64), np.asarray(age, dtype=np.float64))
    if x.size < 2:
        return function(x, age)
    _, x_code = np.unique(x, return_inverse=True)
    distinct_age, age_code = np.unique(age, return_inverse=True)
    _, first, inverse = np.unique(x_code * len(distinct_age) + age_code, return_index=True, return_inverse=True)
    return function(x[first], age[first])[inverse]


def _condensed(x: Floats, t_x: Floats, age: Floats) -> tuple[Floats, Floats, Floats, Floats, float]:
    """Distinct rows in sorted order with their counts, times in units of the mean age, and that unit."""
    x, t_x, age = (np.asarray(values, dtype=np.float64) for values in (x, t_x, age))
    if not (x > 0).any():
        raise FitError("no repeat order")
    if (t_x > age).any() or ((x > 0) != (t_x > 0)).any():
        raise ValueError("t_x must be 0 without repeat orders, positive with them, and at most age")
    order = np.lexsort((age, t_x, x))
    rows = np.stack([x, t_x, age])[:, order]
    new = np.ones(rows.shape[1], dtype=bool)
    new[1:] = (np.diff(rows) != 0).any(axis=0)
    weight = np.diff(np.append(np.flatnonzero(new), rows.shape[1])).astype(np.float64)
    x, t_x, age = rows[:, new]
    unit = float(weight @ age / weight.sum())
    return x, t_x / unit, age / unit, weight, unit


def _minimise(
    loss: Callable[[Floats], tuple[float, Floats]], start: Floats, log_high: list[float]
) -> tuple[float, ...]:
    """Parameters (not their logs) of least loss, without the last digits, which are the machine's. The loss is scaled
    by its start, so that tolerances mean something.
    """
    from scipy.optimize import minimize
    from threadpoolctl import threadpool_limits

    scale = max(abs(loss(start)[0]), 1e-12)

    def scaled(log_parameters: Floats) -> tuple[float, Floats]:
        value, gradient = loss(log_parameters)
        return value / scale, gradient / scale

    # One thread: sums add up in one order, and matrices of four rows are not worth waking others for.
    with threadpool_limits(limits=1):
        found = minimize(
            scaled,
            start,
            jac=True,
            method="L-BFGS-B",
            bounds=[(_LOG_LOW, high) for high in log_high],
            options={"maxiter": 500, "ftol": 1e-12, "gtol": 1e-8},
        )
    if not (np.isfinite(found.fun) and np.isfinite(found.x).all()):
        raise FitError("no maximum of the likelihood found")
    return tuple(float(f"{value:.{_DIGITS}g}") for value in np.exp(found.x))


def _bg_nbd_likelihood(parameters: Floats, x: Floats, t_x: Floats, age: Floats) -> tuple[Floats, Floats]:
    """Log-likelihood per customer, and its gradient (4, n) by r, alpha, a, b."""
    from scipy.special import gammaln, psi

    r, alpha, a, b = parameters
    repeated = x > 0
    shape = r + x
    log_now, log_last = np.log(alpha + age), np.log(alpha + t_x)
    last = np.maximum(b + x - 1.0, 1e-300)
    alive = -shape * log_now
    gone = np.where(repeated, np.log(a) - np.log(last) - shape * log_last, -np.inf)
    either = np.logaddexp(alive, gone)
    value = (
        gammaln(shape)
        - gammaln(r)
        + r * np.log(alpha)
        + gammaln(a + b)
        + gammaln(b + x)
        - gammaln(b)
        - gammaln(a + b + x)
        + either
    )
    was_gone = np.exp(gone - either)
    was_alive = 1.0 - was_gone
    gradient = np.stack(
        [
            psi(shape) - psi(r) + np.log(alpha) - was_alive * log_now - was_gone * log_last,
            r / alpha - shape * (was_alive / (alpha + age) + was_gone / (alpha + t_x)),
            psi(a + b) - psi(a + b + x) + was_gone / a,
            psi(a + b) + psi(b + x) - psi(b) - psi(a + b + x) - np.where(repeated, was_gone / last, 0.0),
        ]
    )
    return value, gradient


def _leaving(r: float, alpha: float, s: float, beta: float, x: Floats, t_x: Floats, age: Floats) -> tuple[Floats, ...]:
    """Of leaving at times y between t_x and age, one row per node of the quadrature: log(alpha + y), log(beta + y),
    and the log of s (alpha + y)^-(r + x) (beta + y)^-(s + 1) with the node's weight.

    The nodes are even in log(y + min(alpha, beta)), on which powers of alpha + y and beta + y are smooth, and
    end where the integrand has died away.
    """
    near, far = min(alpha, beta), max(alpha, beta)
    fall = (r + x) * (near + t_x) / (alpha + t_x) + (s + 1.0) * (near + t_x) / (beta + t_x)
    end = np.minimum(np.log((near + age) / (near + t_x)), _E_FOLDS / fall)
    node, weight = _legendre(_NODES)
    log_near = np.log(near + t_x) + end * node[:, None]
    log_far = np.log(np.exp(log_near) + (far - near))
    log_order, log_leave = (log_near, log_far) if alpha <= beta else (log_far, log_near)
    with np.errstate(divide="ignore"):  # age = t_x: an integral over nothing
        log_weight = np.log(weight)[:, None] + np.log(s * end) + log_near
    return log_order, log_leave, log_weight - (r + x) * log_order - (s + 1.0) * log_leave


def _pareto_nbd_parts(
    r: float, alpha: float, s: float, beta: float, x: Floats, t_x: Floats, age: Floats
) -> tuple[Floats, Floats]:
    """Log of the likelihood's two parts, but for a common factor: still active at age, left between t_x and age."""
    alive = -(r + x) * np.log(alpha + age) - s * np.log(beta + age)
    top, total, _ = _log_sum(_leaving(r, alpha, s, beta, x, t_x, age)[2])
    return alive, top + np.log(total)


def _pareto_nbd_likelihood(parameters: Floats, x: Floats, t_x: Floats, age: Floats) -> tuple[Floats, Floats]:
    """Log-likelihood per customer, and its gradient (4, n) by r, alpha, s, beta."""
    from scipy.special import gammaln, psi

    r, alpha, s, beta = parameters
    shape = r + x
    log_now, log_life = np.log(alpha + age), np.log(beta + age)
    alive = -shape * log_now - s * log_life
    log_order, log_leave, density = _leaving(r, alpha, s, beta, x, t_x, age)
    top, total, gone = _log_sum(density)
    either = np.logaddexp(alive, top + np.log(total))
    p_alive = np.exp(alive - either)
    gone *= np.exp(top - either)  # probability of having left by each node's time
    gradient = np.stack(
        [
            psi(shape) - psi(r) + np.log(alpha) - p_alive * log_now - (gone * log_order).sum(axis=0),
            r / alpha - shape * (p_alive / (alpha + age) + (gone * np.exp(-log_order)).sum(axis=0)),
            np.log(beta) - p_alive * log_life + gone.sum(axis=0) / s - (gone * log_leave).sum(axis=0),
            s / beta - s * p_alive / (beta + age) - (s + 1.0) * (gone * np.exp(-log_leave)).sum(axis=0),
        ]
    )
    value = gammaln(shape) - gammaln(r) + r * np.log(alpha) + s * np.log(beta) + either
    return value, gradient


def _log_sum(logs: Floats) -> tuple[Floats, Floats, Floats]:
    """Highest log of each column, the sum of exp(logs - highest), and its terms."""
    top = np.maximum(logs.max(axis=0), -1e300)  # all -inf: nothing to add, not a NaN
    terms = np.exp(logs - top)
    return top, np.maximum(terms.sum(axis=0), 1e-300), terms


def _gamma_gamma_likelihood(parameters: Floats, n: Floats, mean: Floats) -> tuple[Floats, Floats]:
    """Log-likelihood per customer, and its gradient (3, n) by p, q, gamma."""
    from scipy.special import gammaln, psi

    p, q, gamma = parameters
    pn, log_mean, total = p * n, np.log(mean), gamma + n * mean
    log_total = np.log(total)
    value = (
        gammaln(pn + q)
        - gammaln(pn)
        - gammaln(q)
        + q * np.log(gamma)
        + (pn - 1.0) * log_mean
        + pn * np.log(n)
        - (pn + q) * log_total
    )
    gradient = np.stack(
        [
            n * (psi(pn + q) - psi(pn) + log_mean + np.log(n) - log_total),
            psi(pn + q) - psi(q) + np.log(gamma) - log_total,
            q / gamma - (pn + q) / total,
        ]
    )
    return value, gradient
