"""The ranker: which products a customer's next order is likely to hold, from transactions alone.

Everything is arrays: customers and products are positions, days are numbers since 1970-01-01. What a customer
bought, decayed by age, goes through a matrix products × products: a ridge regression in closed form, learned
over everybody's past orders, from the history before an order to that order, plus co-purchase where it pays.
The customer's own share of each product and what sells now are added to it.

Which weights serve is decided by a back-test (`backtesting`); scenarios, exclusions and words are not here
(`recommendations`). No SQL, no Dagster, no clock, no chance and no loop over customers: the same
transactions in any order give the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from scipy import sparse

    from crm_assets.rules import Ranking, Recipe

Floats = np.ndarray[Any, np.dtype[np.float32]]
Ints = np.ndarray[Any, np.dtype[np.int64]]
Flags = np.ndarray[Any, np.dtype[np.bool_]]

NOTHING = -1  # at a place of a list: no product
_CELLS_AT_ONCE = 500_000  # scores that one thread holds: 2 MB stay in the processor's cache
_ROWS_AT_ONCE = (64, 20_000)  # but no fewer and no more customers than that
_GROUPS_PER_PLACE = 8  # of columns that `top` looks at together, by place of the list
_THREADS = 2  # NumPy and SciPy let go of the interpreter in the products and selections that take the time


# Transactions


@dataclass(frozen=True)
class Transactions:
    """Orders as positions, by customer, then day, then order, then product; a product stands once in an order.

    Per line: `product`, `order`. Per order: `order_customer`, `order_day`; its lines are
    order_start[i]:order_start[i + 1]. The orders of a customer are customer_start[i]:customer_start[i + 1].
    """

    n_products: int
    product: Ints
    order: Ints
    order_customer: Ints
    order_day: Ints
    order_start: Ints
    customer_start: Ints

    @classmethod
    def of(
        cls, n_customers: int, n_products: int, customer: Ints, product: Ints, day: Ints, order: Ints | None = None
    ) -> Transactions:
        """From one entry per line, in any order.

        `order` (codes 0..) tells orders apart and sorts those of one day; an order counts on its first day.
        None: what a customer buys on one day is one order.
        """
        first, span = (int(day.min()), int(day.max() - day.min()) + 1) if len(day) else (0, 1)
        if order is None:
            owner = customer * span + (day - first)
        else:
            n_orders = int(order.max(initial=-1)) + 1
            its_customer, its_day = np.zeros(n_orders, dtype=np.int64), np.full(n_orders, span)
            its_customer[order] = customer
            np.minimum.at(its_day, order, day - first)
            place = np.empty(n_orders, dtype=np.int64)
            place[np.lexsort((its_day, its_customer))] = np.arange(n_orders)
            owner = place[order]
        # One integer per line: sorting those is many times faster than sorting by several columns.
        keys = np.sort(owner * n_products + product)
        keys = keys[changes(keys)]
        owner, products = np.divmod(keys, max(n_products, 1))
        is_new = changes(owner)
        start = np.flatnonzero(is_new)
        if order is None:
            order_customer, order_day = np.divmod(owner[start], span)
        else:
            at = np.argsort(place)[owner[start]]
            order_customer, order_day = its_customer[at], its_day[at]
        return cls(
            n_products=n_products,
            product=products,
            order=np.cumsum(is_new) - 1,
            order_customer=order_customer,
            order_day=order_day + first,
            order_start=np.append(start, len(keys)),
            customer_start=np.searchsorted(order_customer, np.arange(n_customers + 1)),
        )

    @property
    def n_customers(self) -> int:
        return len(self.customer_start) - 1

    @property
    def n_orders(self) -> int:
        return len(self.order_day)

    def before(self, day: int) -> Transactions:
        """Only the orders before `day`."""
        return self._only(self.order_day < day)

    def of_customers(self, who: Ints) -> Transactions:
        """Only the orders of the customers `who` (sorted positions), who become customers 0..len(who)-1."""
        place = np.full(self.n_customers, -1)
        place[who] = np.arange(len(who))
        kept = self._only(place[self.order_customer] >= 0)
        customer = place[kept.order_customer]
        start = np.searchsorted(customer, np.arange(len(who) + 1))
        return replace(kept, order_customer=customer, customer_start=start)

    def of_products(self, which: Ints) -> Transactions:
        """Only the products `which` (sorted positions), who become products 0..len(which)-1; no order goes."""
        place = np.full(self.n_products, -1)
        place[which] = np.arange(len(which))
        lines = place[self.product] >= 0
        return replace(
            self,
            n_products=len(which),
            product=place[self.product[lines]],
            order=self.order[lines],
            order_start=np.append(0, np.cumsum(lines))[self.order_start],
        )

    def _only(self, kept: Flags) -> Transactions:
        if kept.all():
            return self
        lines = kept[self.order]
        size = np.diff(self.order_start)[kept]
        customer = self.order_customer[kept]
        return Transactions(
            n_products=self.n_products,
            product=self.product[lines],
            order=np.repeat(np.arange(len(size)), size),
            order_customer=customer,
            order_day=self.order_day[kept],
            order_start=np.append(0, np.cumsum(size)),
            customer_start=np.searchsorted(customer, np.arange(self.n_customers + 1)),
        )

    def baskets(self, orders: Ints) -> sparse.csr_matrix:
        """The products of each order, orders × products, ones."""
        line, row = ranges(self.order_start[orders], self.order_start[orders + 1])
        return _rows(np.ones(len(line), dtype=np.float32), self.product[line], row, len(orders), self.n_products)

    def first_orders(self, day: int, until: int) -> Ints:
        """The first order in [day, until) of each customer who has one and had one before `day`."""
        inside = np.flatnonzero((self.order_day >= day) & (self.order_day < until))
        first = inside[np.unique(self.order_customer[inside], return_index=True)[1]]
        earlier = self.order_day[self.customer_start[self.order_customer[first]]] < day if len(first) else first > 0
        return first[earlier]


def changes(*columns: np.ndarray) -> Flags:
    """True where any of the sorted columns differs from the row before, and on the first row."""
    changed = np.zeros(len(columns[0]), dtype=bool)
    changed[:1] = True
    for column in columns:
        changed[1:] |= column[1:] != column[:-1]
    return changed


def ranges(begin: Ints, end: Ints) -> tuple[Ints, Ints]:
    """All positions of the ranges begin..end, and which range each belongs to."""
    length = end - begin
    row = np.repeat(np.arange(len(begin)), length)
    offset = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
    return begin[row] + offset, row


# Histories


@dataclass(frozen=True)
class History:
    """What customers bought: `weight` (sparse, customers × products) sums exp(-age / memory) over the orders
    that hold the product, `orders` the same over all orders of the customer.
    """

    weight: sparse.csr_matrix
    orders: Floats

    def scaled(self, scale: str) -> sparse.csr_matrix:
        """Rows divided by the weight of all orders (so that they are shares) or by their Euclidean length."""
        if scale == "orders":
            by = self.orders
        else:
            by = np.sqrt(np.bincount(row_of(self.weight), self.weight.data**2, self.weight.shape[0]))
        return _times_rows(self.weight, 1.0 / np.maximum(by, 1e-12))

    def share(self, prior_orders: float) -> sparse.csr_matrix:
        """Decayed share of the customer's orders that hold the product, beside `prior_orders` of none."""
        return _times_rows(self.weight, 1.0 / (self.orders + prior_orders))


def history_at(transactions: Transactions, day: int, memory_days: float) -> History:
    """The decayed history of every customer at `day`; all the transactions must lie before it."""
    decay = np.exp((transactions.order_day - day) / memory_days).astype(np.float32)
    customer = transactions.order_customer
    weight = _rows(
        decay[transactions.order],
        transactions.product,
        customer[transactions.order],
        transactions.n_customers,
        transactions.n_products,
    )
    weight.sum_duplicates()
    orders = np.bincount(customer, decay, transactions.n_customers).astype(np.float32)
    return History(weight, orders)


def history_before(transactions: Transactions, orders: Ints, memory_days: float) -> History:
    """The decayed history of each order's customer just before that order, one row per order."""
    of = transactions.order_customer[orders]
    line, row = ranges(transactions.order_start[transactions.customer_start[of]], transactions.order_start[orders])
    age = transactions.order_day[orders][row] - transactions.order_day[transactions.order[line]]
    decay = np.exp(-age / memory_days).astype(np.float32)
    weight = _rows(decay, transactions.product[line], row, len(orders), transactions.n_products)
    weight.sum_duplicates()
    earlier, row = ranges(transactions.customer_start[of], orders)
    decay = np.exp((transactions.order_day[earlier] - transactions.order_day[orders][row]) / memory_days)
    return History(weight, np.bincount(row, decay, len(orders)).astype(np.float32))


def _rows(data: Floats, column: Ints, row: Ints, n: int, p: int) -> sparse.csr_matrix:
    """A sparse matrix from entries sorted by row."""
    from scipy import sparse

    start = np.searchsorted(row, np.arange(n + 1)).astype(np.int32)
    return sparse.csr_matrix((data, column.astype(np.int32), start), shape=(n, p))


def row_of(matrix: sparse.csr_matrix) -> Ints:
    """The row of each stored value."""
    return np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))


def cells_of(matrix: sparse.csr_matrix) -> Ints:
    """Where each stored value stands in the matrix written out row by row."""
    return row_of(matrix) * matrix.shape[1] + matrix.indices


def _times_rows(matrix: sparse.csr_matrix, factor: np.ndarray) -> sparse.csr_matrix:
    from scipy import sparse

    data = matrix.data * np.repeat(factor.astype(np.float32), np.diff(matrix.indptr))
    return sparse.csr_matrix((data, matrix.indices, matrix.indptr), shape=matrix.shape)


# The ranker


@dataclass(frozen=True)
class Regression:
    """Learned from past orders: matrices over the products `columns`, the most ordered ones.

    ridge: from scaled history to the chance of the next order. copurchase: cosine of two products over
    orders, lately ordered ones above older, zero on the diagonal. orders_with: how many of the orders learned
    from held the product.
    """

    columns: Ints
    ridge: Floats
    copurchase: Floats
    orders_with: Ints


def learn(transactions: Transactions, day: int, recipe: Recipe, settings: Ranking) -> Regression:
    """The regression from the orders before `day` that had an earlier one: at most `max_orders` of them, and
    `orders_per_product` for each product.

    An order weighs exp(-age / recipe.order_memory_days) / √products: lately above long ago, and a list of fifty
    products no more than it can teach. Every k-th order is taken where there are too many.
    """
    from scipy import linalg

    past = transactions.before(day)
    lately = np.exp((past.order_day - day) / recipe.order_memory_days)
    columns = most_ordered(past, lately, settings.max_products)
    later = np.flatnonzero(np.arange(past.n_orders) > past.customer_start[past.order_customer])
    most = max(1, min(settings.max_orders, settings.orders_per_product * len(columns)))
    targets = later[:: -(-len(later) // most) or 1]
    root = np.sqrt(lately / np.sqrt(np.maximum(np.diff(past.order_start), 1)))[targets]
    before = _columns(
        _times_rows(history_before(past, targets, recipe.memory_days).scaled(recipe.scale), root), columns
    )
    after = _columns(_times_rows(past.baskets(targets), root), columns)
    gram, ridge = _dense(before.T @ before), _dense(before.T @ after)
    diagonal = np.einsum("ii->i", gram)
    diagonal += recipe.penalty * max(float(diagonal.mean(dtype=np.float64)) if len(columns) else 0.0, 1e-6)
    if len(targets) and len(columns):
        factor = linalg.cho_factor(gram, lower=True, overwrite_a=True, check_finite=False)
        ridge = linalg.cho_solve(factor, ridge, overwrite_b=True, check_finite=False)
    else:
        ridge = np.zeros((len(columns), len(columns)), dtype=np.float32)
    copurchase = _copurchase(past, np.sqrt(lately), columns, most)
    return Regression(columns, np.ascontiguousarray(ridge), copurchase, np.diff(after.tocsc().indptr))


def most_ordered(past: Transactions, importance: np.ndarray, most: int) -> Ints:
    """The `most` products in the most orders, an order counting by its importance; sorted. All of them where they
    are no more, those never ordered too.
    """
    if past.n_products <= most:
        return np.arange(past.n_products)
    weight = np.bincount(past.product, importance[past.order], past.n_products)
    best = np.argsort(-np.round(weight, 9), kind="stable")[:most]
    return np.sort(best[weight[best] > 0])


def _copurchase(past: Transactions, root: np.ndarray, columns: Ints, most: int) -> Floats:
    orders = np.arange(past.n_orders)[:: -(-past.n_orders // most) or 1]
    baskets = _columns(_times_rows(past.baskets(orders), root[orders]), columns)
    counts = _dense(baskets.T @ baskets)
    length = np.sqrt(np.maximum(counts.diagonal(), 1e-6))
    counts /= length[:, None]
    counts /= length[None, :]
    np.fill_diagonal(counts, 0.0)
    return counts


def _columns(matrix: sparse.csr_matrix, columns: Ints) -> sparse.csr_matrix:
    return matrix if len(columns) == matrix.shape[1] else matrix[:, columns]


def _dense(matrix: sparse.csr_matrix) -> Floats:
    return np.asarray(matrix.toarray(), dtype=np.float32)


def popularity(transactions: Transactions, day: int, days: int) -> Floats:
    """Share of the customers with an order in [day - days, day) who ordered the product then."""
    inside = (transactions.order_day >= day - days) & (transactions.order_day < day)
    lines = inside[transactions.order]
    customer = transactions.order_customer[transactions.order[lines]]
    pairs = np.sort(transactions.product[lines] * transactions.n_customers + customer)
    product = pairs[changes(pairs)] // max(transactions.n_customers, 1)
    buyers = len(np.unique(transactions.order_customer[inside]))
    return (np.bincount(product, minlength=transactions.n_products) / max(buyers, 1)).astype(np.float32)


@dataclass(frozen=True)
class Ranker:
    """Scores of all products for customers with the given histories; larger is likelier, comparable in a run.

    `matrix` (columns × columns) stands for ridge and co-purchase; `base` (products) for popularity.
    """

    recipe: Recipe
    columns: Ints
    matrix: Floats
    base: Floats
    prior_orders: float

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        regression: Regression,
        popular: Floats,
        settings: Ranking,
        likeness: sparse.csr_matrix | None = None,
    ) -> Ranker:
        """The matrices weighed by the recipe. Whoever has no history gets what is popular.

        `likeness` (products × products, rows summing to 1): on which others a product leans while few orders
        hold it, so that a new one has a place from its first day. With n orders it speaks for itself by
        n / (n + new_product_orders).
        """
        matrix = regression.ridge
        if recipe.copurchase:
            matrix = matrix + np.float32(recipe.copurchase) * regression.copurchase
        base = popular * np.float32(max(recipe.popularity, settings.least_popularity))
        if likeness is not None:
            columns = regression.columns
            own = (regression.orders_with / (regression.orders_with + settings.new_product_orders)).astype(np.float32)
            others = likeness[columns][:, columns].T
            matrix = matrix * own + np.asarray(matrix @ others) * (1.0 - own)
            base = base.copy()
            base[columns] = base[columns] * own + (base[columns] @ others) * (1.0 - own)
        return cls(recipe, regression.columns, np.ascontiguousarray(matrix), base, settings.prior_orders)

    def scores(self, history: History, rows: slice | Ints) -> Floats:
        """Scores of the customers `rows` of a history taken with the recipe's memory, rows × products."""
        part = History(history.weight[rows], history.orders[rows])
        known = part.scaled(self.recipe.scale)
        n, p = part.weight.shape
        if len(self.columns) == p:
            scores = known @ self.matrix
            scores += self.base
        else:
            scores = np.tile(self.base, (n, 1))
            scores[:, self.columns] += _columns(known, self.columns) @ self.matrix
        if self.recipe.personal:
            own = part.share(self.prior_orders)
            scores.reshape(-1)[cells_of(own)] += np.float32(self.recipe.personal) * own.data
        return scores


# Lists


def in_parts(n_rows: int, n_columns: int, work: Callable[[slice], Any]) -> list[Any]:
    """Results of `work` on consecutive row ranges, two at a time, in the order of the rows."""
    least, most = _ROWS_AT_ONCE
    size = max(least, min(most, _CELLS_AT_ONCE // max(n_columns, 1)))
    parts = [slice(begin, min(begin + size, n_rows)) for begin in range(0, n_rows, size)]
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(work, parts))


def top(scores: Floats, k: int) -> tuple[Ints, Floats]:
    """Columns of the k largest scores of each row, falling, and those scores; ties go to the first column.

    Scores of -inf are no candidates: their places hold NOTHING.
    """
    n, p = scores.shape
    k = min(k, p)
    if not n or not k:
        return np.full((n, k), NOTHING), np.full((n, k), -np.inf, dtype=np.float32)
    # Columns in groups: k groups reach the k-th largest of the groups' maxima, so the k largest scores do too. The
    # maxima take one pass, and few of them are to be searched.
    depth = max(1, min(64, p // (_GROUPS_PER_PLACE * k)))
    groups = p // depth
    maxima = np.empty((n, groups + p - groups * depth), dtype=np.float32)
    scores[:, : groups * depth].reshape(n, depth, groups).max(axis=1, out=maxima[:, :groups])
    maxima[:, groups:] = scores[:, groups * depth :]
    width = maxima.shape[1]
    least = np.partition(maxima, width - k, axis=1)[:, width - k]
    cell = np.flatnonzero(scores >= np.maximum(least, np.finfo(np.float32).min)[:, None])
    row = cell // p
    return first_of_rows(row, cell - row * p, scores.reshape(-1)[cell], n, k)


def first_of_rows(row: Ints, column: Ints, value: Floats, n: int, k: int) -> tuple[Ints, Floats]:
    """The k largest values of each of n rows and their columns, falling, ties in the order given; sorted by row.

    Values of -inf are no candidates: their places hold NOTHING.
    """
    # Row, then falling value, in one integer: the bits of a float sort as it does, once those of negative ones are
    # turned over.
    bits = (np.float32(0.0) - value).view(np.int32)
    bits ^= (bits >> 31) & np.int32(0x7FFFFFFF)
    order = np.argsort((row << 32) + bits, kind="stable")
    place = np.arange(len(row)) - np.searchsorted(row, np.arange(n))[row]
    kept = (place < k) & (value[order] > -np.inf)
    columns, values = np.full((n, k), NOTHING), np.full((n, k), -np.inf, dtype=np.float32)
    columns[row[kept], place[kept]] = column[order[kept]]
    values[row[kept], place[kept]] = value[order[kept]]
    return columns, values


def bar_bought(scores: Floats, history: sparse.csr_matrix) -> None:
    """Set the scores of the products bought before to -inf: no candidates."""
    scores.reshape(-1)[cells_of(history)] = -np.inf
