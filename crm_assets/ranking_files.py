"""Ranking outside the estates: `crm rank` and `crm backtest` on any file of order lines.

A file is read into the arrays that `logic/` works on, ranked by exactly the code the pipeline uses, and written.
Which products come next is decided there, nothing of it here. No database, no Dagster, nothing about wine.
"""

from __future__ import annotations

import csv
import gzip
import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from crm_assets.logic.backtesting import LISTS, List, Prepared, backtest, prepare
from crm_assets.logic.customers import date_of, day_number
from crm_assets.logic.ranking import NOTHING, Flags, Ints, Transactions

if TYPE_CHECKING:
    import pyarrow as pa

    from crm_assets.rules import Ranking

Say = Callable[[str], None]
Result = dict[str, Any]
Ids = np.ndarray[Any, np.dtype[np.object_]]

IDS = ("customer_id", "order_id", "product_key")
DATE = "order_date"
# What makes a line a return: no order, so nothing to learn from.
IS_RETURN: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "quantity": lambda values: values <= 0,
    "amount": lambda values: values < 0,
}
_DAY = r"^\d{4}-\d{2}-\d{2}(?:[T ]\d{2}:\d{2}\S*)?$"
_NUMBER = r"^\s*[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?\s*$"
_BLOCK_BYTES = 1 << 23  # no line is longer
_CUSTOMERS_AT_ONCE = 100_000
_SHOWN = ("recall", "ndcg", "hit_rate", "recall_repeat", "recall_explore", "customers")


class FileError(Exception):
    """A file cannot be used; the message names it and, where there is one, the line."""


# Reading


@dataclass(frozen=True)
class Lines:
    """The lines of orders in a file, returns left out: positions in `customers` and `products`, both sorted.

    order: codes 0.. of the orders; what has another customer or day is another order, whatever its order_id. day:
    since 1970-01-01. newest: the newest day of the file, returns included. returns: how many lines were left out.
    """

    customers: Ids
    products: Ids
    customer: Ints
    product: Ints
    day: Ints
    order: Ints
    newest: int
    returns: int

    def __len__(self) -> int:
        return len(self.day)

    def only(self, lines: Flags) -> Lines:
        """Some of the lines, with the customers and products that they name."""
        customer, customers = _compact(self.customer[lines], self.customers)
        product, products = _compact(self.product[lines], self.products)
        order, _ = _compact(self.order[lines], np.empty(int(self.order.max(initial=-1)) + 1, dtype=object))
        return Lines(customers, products, customer, product, self.day[lines], order, self.newest, self.returns)


def _compact(positions: Ints, names: Ids) -> tuple[Ints, Ids]:
    """Positions among the names that occur."""
    used = np.zeros(len(names), dtype=bool)
    used[positions] = True
    return (np.cumsum(used) - 1)[positions], names[used]


def read_lines(path: Path) -> Lines:
    """The order lines of a CSV file (.csv.gz too) with customer_id, order_id, order_date and product_key.

    Comma, UTF-8, a header; dates YYYY-MM-DD, a time of day behind them is not looked at.
    `quantity` and `amount` only tell returns: a quantity of 0 or less or an amount below 0. Other columns are
    ignored. FileError: unreadable, a column missing, an id
    blank, a date or number wrong, or no order in it.
    """
    table = _read(path, (*IDS, DATE), tuple(IS_RETURN))
    if not table.num_rows:
        raise FileError(f"{path} has no lines after its header")
    ids = {name: _coded(path, table, name) for name in IDS}
    day = _days(path, table)
    newest = int(day.max())
    is_return = np.zeros(len(day), dtype=bool)
    for name, test in IS_RETURN.items():
        if name in table.column_names:
            is_return |= _tested(path, table, name, test)
    del table
    customer, names = ids["customer_id"]
    order, orders = ids["order_id"]
    order = _orders(customer, day, order, len(orders))
    product, products = ids["product_key"]
    returns = int(is_return.sum())
    lines = Lines(names, products, customer, product, day, order, newest, returns)
    if returns == len(day):
        raise FileError(f"{path}: all {returns} lines are returns (quantity 0 or less, or amount below 0)")
    return lines.only(~is_return) if returns else lines


def _orders(customer: Ints, day: Ints, order: Ints, n_orders: int) -> Ints:
    """Codes of (customer, day, order_id). An id may be unique only within its customer, or come round again; and
    an order of several days would carry what comes after a cut to before it.
    """
    of_order, on_day = np.zeros(n_orders, dtype=np.int64), np.zeros(n_orders, dtype=np.int64)
    of_order[order], on_day[order] = customer, day
    if (of_order[order] == customer).all() and (on_day[order] == day).all():
        return order
    first = int(day.min())
    _, place = np.unique(customer * (int(day.max()) - first + 1) + day - first, return_inverse=True)
    _, codes = np.unique(place * n_orders + order, return_inverse=True)
    return codes


def read_customers(path: Path) -> Ids:
    """The customers of a file with a column customer_id, sorted, each once. FileError as `read_lines`."""
    table = _read(path, ("customer_id",), ())
    if not table.num_rows:
        raise FileError(f"{path} has no lines after its header")
    return _coded(path, table, "customer_id")[1]


def _read(path: Path, required: Sequence[str], optional: Sequence[str]) -> pa.Table:
    """Columns of text as dictionaries, rows as in the file."""
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    header = _header(path)
    missing = [name for name in required if name not in header]
    if missing:
        raise FileError(
            f"{path}: line 1 lacks the column{'s'[: len(missing) > 1]} {', '.join(missing)};"
            f" it has {', '.join(header[:12])}{' …' if len(header) > 12 else ''}"
        )
    wanted = [name for name in (*required, *optional) if name in header]
    if twice := [name for name in wanted if header.count(name) > 1]:
        raise FileError(f"{path}: line 1 has the column {twice[0]} twice")
    convert = arrow_csv.ConvertOptions(
        include_columns=wanted, column_types={name: pa.dictionary(pa.int32(), pa.string()) for name in wanted}
    )
    reading = arrow_csv.ReadOptions(block_size=_BLOCK_BYTES)
    problem = ""
    # Values with a line break are rare, and allowing for them reads slower.
    for breaks in (False, True):
        try:
            with pa.input_stream(str(path), compression="detect") as stream:
                return arrow_csv.read_csv(
                    stream, reading, arrow_csv.ParseOptions(newlines_in_values=breaks), convert
                ).unify_dictionaries()
        except pa.ArrowInvalid as error:
            problem = str(error)
        except (OSError, EOFError) as error:
            raise FileError(f"{path} cannot be read: {error}") from None
    raise FileError(_malformed(path, len(header)) or f"{path} is no CSV file: {problem}")


def _open(path: Path) -> TextIO:
    opened: TextIO = (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8-sig", newline="")
    return opened


def _header(path: Path) -> list[str]:
    try:
        # Bytes: a decoder reads ahead, and would stumble over a later line.
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as stream:
            header = next(csv.reader([stream.readline(_BLOCK_BYTES).decode("utf-8-sig")]), None)
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror or error}") from None
    except (EOFError, UnicodeDecodeError, csv.Error):
        raise FileError(f"{path}: line 1 is no header in UTF-8") from None
    if not header:
        raise FileError(f"{path} is empty: its first line names the columns")
    return header


def _malformed(path: Path, width: int) -> str | None:
    """What is wrong with the first line that is not `width` values in UTF-8: a slow second look."""
    number = 0
    try:
        with _open(path) as stream:
            reader = csv.reader(stream)
            for row in reader:
                if row and len(row) != width:
                    return f"{path}: line {reader.line_num} has {len(row)} values, the header {width}"
                number = reader.line_num
    except UnicodeDecodeError:
        # The decoder works ahead of the reader: count in the bytes.
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as raw:
            for number, line in enumerate(raw, start=1):
                if line.decode("utf-8", "ignore").encode() != line:
                    return f"{path}: line {number} is no UTF-8"
    except (csv.Error, OSError, EOFError) as error:
        return f"{path}: after line {number}: {error}"
    return None


def _line_of(path: Path, row: int) -> int:
    """The line on which a row of the table stands: a slow second look, for messages."""
    with _open(path) as stream:
        reader = csv.reader(stream)
        next(reader)
        before = reader.line_num
        for values in reader:
            if values:
                if row == 0:
                    break
                row -= 1
            before = reader.line_num
    return before + 1


def _values(table: pa.Table, name: str) -> tuple[Ints, pa.Array]:
    """The distinct values of a column and which of them each row has."""
    import pyarrow as pa

    column = table[name]
    if not column.num_chunks:
        return np.zeros(0, dtype=np.int64), pa.array([], pa.string())
    index = np.concatenate([chunk.indices.to_numpy(zero_copy_only=False) for chunk in column.chunks])
    return index.astype(np.int64), column.chunk(0).dictionary


def _refuse(path: Path, name: str, index: Ints, values: pa.Array, wrong: np.ndarray, expected: str) -> None:
    """FileError at the first row whose value is wrong, if there is one."""
    if not wrong.any():
        return
    row = int(np.flatnonzero(wrong[index])[0])
    value = values[int(index[row])].as_py()
    found = f"{value[:40]!r} is {expected}" if value.strip() else f"is blank, it is {expected}"
    raise FileError(f"{path}: line {_line_of(path, row)}: {name} {found}")


def _matches(values: pa.Array, pattern: str) -> np.ndarray:
    from pyarrow import compute

    return np.asarray(compute.match_substring_regex(values, pattern).to_numpy(zero_copy_only=False), dtype=bool)


def _coded(path: Path, table: pa.Table, name: str) -> tuple[Ints, Ids]:
    """Positions among the sorted ids of a column, and these."""
    from pyarrow import compute

    index, values = _values(table, name)
    _refuse(path, name, index, values, ~_matches(values, r"\S"), "to name one")
    by_value = compute.sort_indices(values).to_numpy()
    place = np.empty(len(values), dtype=np.int64)
    place[by_value] = np.arange(len(values))
    return place[index], values.take(by_value).to_numpy(zero_copy_only=False)


def _days(path: Path, table: pa.Table) -> Ints:
    from pyarrow import compute

    index, values = _values(table, DATE)
    expected = "no date, YYYY-MM-DD is expected"
    _refuse(path, DATE, index, values, ~_matches(values, _DAY), expected)
    texts, place = np.unique(
        compute.utf8_slice_codeunits(values, 0, 10).to_numpy(zero_copy_only=False), return_inverse=True
    )
    days = np.zeros(len(texts), dtype=np.int64)
    wrong = np.zeros(len(texts), dtype=bool)
    for i, text in enumerate(texts):
        try:
            days[i] = date.fromisoformat(text).toordinal()
        except ValueError:
            wrong[i] = True
    _refuse(path, DATE, index, values, wrong[place], expected)
    day: Ints = (days - date(1970, 1, 1).toordinal())[place][index]
    return day


def _tested(path: Path, table: pa.Table, name: str, test: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Which rows have a number that passes; a blank one does not."""
    from pyarrow import compute

    index, values = _values(table, name)
    is_blank = ~_matches(values, r"\S")
    _refuse(path, name, index, values, ~(is_blank | _matches(values, _NUMBER)), "no number")
    texts = compute.if_else(is_blank, "1", compute.utf8_trim_whitespace(values))
    numbers = compute.cast(compute.replace_substring_regex(texts, r"^\+", ""), "float64").to_numpy()
    return np.asarray(test(numbers))[index]


# Ranking


def progress_of(say: Say) -> Say:
    """`say` with the seconds since now before each message."""
    started = time.monotonic()
    return lambda message: say(f"{time.monotonic() - started:7.1f} s  {message}")


def rank_file(
    path: Path,
    out: Path,
    settings: Ranking,
    *,
    kind: List,
    top: int,
    horizon: int,
    customers: Path | None = None,
    as_of: date | None = None,
    say: Say,
) -> Result:
    """Write customer_id, rank, product_key, score, list of the `top` products of each customer, and tell how.

    Known is what was ordered up to `as_of`, that day included (default: the newest day in the file). `list` is
    repeat or explore: whether the customer has bought the product before. Rows go by customer, then rank.
    FileError: a file cannot be used, or has no order up to that day.
    """
    progress = progress_of(say)
    for given in (path, customers):
        if given is not None and given.exists() and out.exists() and os.path.samefile(given, out):
            raise FileError(f"{out} is also to be read: choose another name")
    if not out.absolute().parent.is_dir():
        raise FileError(f"{out}: there is no folder {out.absolute().parent}")
    asked = read_customers(customers) if customers else None
    progress(f"reading {path}")
    lines = read_lines(path)
    day = (day_number(as_of) if as_of else lines.newest) + 1
    known = lines.only(lines.day < day)
    if not len(known):
        raise FileError(f"{path} has no order up to {date_of(day - 1)}")
    progress(_read_message(known, lines.returns) + f", up to {date_of(day - 1)}")
    del lines
    names = known.customers
    if asked is not None:
        # Whoever never ordered joins behind the others, as a customer without orders.
        names = np.concatenate([known.customers, np.setdiff1d(asked, known.customers)])
    past = Transactions.of(len(names), len(known.products), known.customer, known.product, known.day, known.order)
    prepared = prepare(past, day, horizon, settings, progress=progress)
    progress(f"{kind}: {prepared.choice[kind]} serves: {prepared.reasons[kind]}")
    position = np.arange(len(names))
    if asked is not None:
        position = position[np.isin(names, asked)]
    rows = _write(out, prepared, past, position, names, known.products, kind, top, settings, progress)
    progress(f"wrote {rows} rows of {len(position)} customers to {out}")
    return {
        "out": str(out),
        "rows": rows,
        "customers": len(position),
        "without_history": int(len(position) - (np.diff(past.customer_start)[position] > 0).sum()),
        "as_of": str(date_of(day - 1)),
        "horizon": horizon,
        "list": kind,
        "served": prepared.choice[kind],
        "reason": prepared.reasons[kind],
        "recipe": prepared.recipes[kind].model_dump(),
        "lines": len(known),
        "left_out": {"returns": known.returns},
    }


def _read_message(lines: Lines, returns: int) -> str:
    left_out = f", {returns} returns left out" if returns else ""
    return f"{len(lines)} lines, {len(lines.customers)} customers, {len(lines.products)} products{left_out}"


def _write(
    out: Path,
    prepared: Prepared,
    past: Transactions,
    who: Ints,
    names: Ids,
    products: Ids,
    kind: List,
    top: int,
    settings: Ranking,
    progress: Say,
) -> int:
    """Write the lists of the customers `who`, sorted by name; how many rows."""
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    schema = pa.schema(
        [
            ("customer_id", pa.string()),
            ("rank", pa.int64()),
            ("product_key", pa.string()),
            ("score", pa.float64()),
            ("list", pa.string()),
        ]
    )
    who = who[np.argsort(names[who], kind="stable")]
    bought = np.unique(past.order_customer[past.order] * past.n_products + past.product)
    text = pa.array(products, pa.string())
    ids = pa.array(names, pa.string())
    labels = pa.array(["explore", "repeat"])
    special = any(_matches(values, r'[",\r\n]').any() for values in (text, ids))
    writing = arrow_csv.WriteOptions(quoting_style="needed" if special else "none", quoting_header="none")
    partial = out.with_name(f".{out.name}.partial")
    rows = 0
    try:
        # The name given decides about compression, the file gets it when it is whole.
        with (
            pa.output_stream(str(partial), compression="gzip" if out.suffix == ".gz" else None) as stream,
            arrow_csv.CSVWriter(stream, schema, write_options=writing) as writer,
        ):
            for begin in range(0, len(who), _CUSTOMERS_AT_ONCE):
                part = who[begin : begin + _CUSTOMERS_AT_ONCE]
                by_position = np.sort(part)
                found, score = prepared.lists(past, by_position, kind, top, settings)
                at = np.searchsorted(by_position, part)
                found, score = found[at], score[at]
                there = found != NOTHING
                row, place = np.nonzero(there)
                product = found[there]
                key = part[row] * past.n_products + product
                is_old = bought[np.minimum(np.searchsorted(bought, key), len(bought) - 1)] == key
                table = pa.table(
                    [
                        ids.take(pa.array(part[row])),
                        pa.array(place + 1),
                        text.take(pa.array(product)),
                        pa.array(np.round(score[there].astype(np.float64), 6)),
                        labels.take(pa.array(is_old.astype(np.int64))),
                    ],
                    schema=schema,
                )
                writer.write_table(table)
                rows += len(row)
                progress(f"ranked {begin + len(part)} of {len(who)} customers")
        partial.replace(out)
    except OSError as error:
        raise FileError(f"{out} cannot be written: {error}") from None
    finally:
        with suppress(FileNotFoundError):
            partial.unlink()
    return rows


def backtest_file(path: Path, cut: date, settings: Ranking, *, horizon: int, tops: Iterable[int], say: Say) -> Result:
    """How well the orders of [cut, cut + horizon) would have been foretold by what was known before the cut.

    Judged are the customers with an order before it, by their next one. `lists` holds, by list, engine and top,
    recall, ndcg (over the whole basket, not capped), hit_rate and the number of customers; `served` the engine
    that was chosen for each list on earlier cuts. FileError: a file cannot be used, or nobody can be judged.
    """
    progress = progress_of(say)
    seconds: dict[str, float] = {}
    started = time.monotonic()

    def took(step: str) -> None:
        seconds[step] = round(time.monotonic() - started - sum(seconds.values()), 2)

    progress(f"reading {path}")
    lines = read_lines(path)
    day = day_number(cut)
    progress(_read_message(lines, lines.returns))
    counts = {"lines": len(lines), "left_out": {"returns": lines.returns}}
    # Products sold only later come last, so that what is known can be cut off before them.
    is_later = np.ones(len(lines.products), dtype=bool)
    is_later[lines.product[lines.day < day]] = False
    n_known = int((~is_later).sum())
    place = np.empty(len(is_later), dtype=np.int64)
    place[np.argsort(is_later, kind="stable")] = np.arange(len(is_later))
    transactions = Transactions.of(
        len(lines.customers), len(lines.products), lines.customer, place[lines.product], lines.day, lines.order
    )
    orders = transactions.first_orders(day, day + horizon)
    if not len(orders):
        raise FileError(
            f"{path}: nobody ordered before {date_of(day)} and again in the {horizon} days from then on"
            f" (its days: {date_of(int(lines.day.min()))} to {date_of(int(lines.day.max()))})"
        )
    del lines
    past = replace(transactions.before(day), n_products=n_known)
    took("read")
    prepared = prepare(past, day, horizon, settings, all_engines=True, progress=progress)
    took("prepare")
    progress(f"measuring by the next orders of {len(orders)} customers")
    judging = settings.model_copy(
        update={
            "backtest": settings.backtest.model_copy(update={"tops": sorted({*tops}), "max_customers": len(orders)})
        }
    )
    measures = backtest(prepared.engines, transactions, day, horizon, judging, past=past, window=prepared.window)
    took("measure")
    progress("done")
    lists: Result = {kind: {} for kind in LISTS}
    for row in measures.to_dict("records"):
        # Only the mixed list has the recall of its parts.
        figures = {name: row[name] for name in _SHOWN if row[name] == row[name]}
        figures["customers"] = int(figures["customers"])
        lists[row["list"]].setdefault(row["engine"], {})[str(row["top"])] = figures
    return {
        "file": str(path),
        "cut": str(date_of(day)),
        "horizon": horizon,
        "customers": len(orders),
        **counts,
        "chosen_at": {"cut": str(date_of(prepared.cut)), "window": prepared.window},
        "served": prepared.choice,
        "reasons": prepared.reasons,
        "recipes": {kind: prepared.recipes[kind].model_dump() for kind in LISTS},
        "report": prepared.report,
        "lists": lists,
        "seconds": seconds,
    }


def table_of(result: Result) -> str:
    """What `backtest_file` found, to be read by people."""
    served, lists = result["served"], result["lists"]
    parts = []
    for kind, engines in lists.items():
        parts.append(f"{kind}: {served[kind]} serves: {result['reasons'][kind]}")
        titles = ("recall", "NDCG", "hit rate", "repeat", "explore", "customers")
        parts.append(f"  {'engine':<12}{'top':>5}{''.join(f'{title:>10}' for title in titles)}")
        for engine, tops in engines.items():
            for top, found in tops.items():
                figures = [f"{found[name]:.4f}" if name in found else "" for name in _SHOWN if name != "customers"]
                shown = "".join(f"{text:>10}" for text in (*figures, str(found["customers"])))
                parts.append(f"{'*' if engine == served[kind] else ' '} {engine:<12}{top:>5}{shown}")
        parts.append("")
    return "\n".join(parts)
