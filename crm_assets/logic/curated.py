"""Identity: which texts are contacts, which client codes are one customer, which labels are one product.

Frames in, frames out. What is decided here depends on the rows of the loaded files alone, never on the order
in which they came or on what an earlier run decided: the same files end in the same customers (spec.md §2,
§3). No SQL, no Dagster, no clock here; reading distinct texts and writing the tables is the assets' business.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from crm_assets.rules import Customers, Products

# --- texts and codes (spec.md §2.2)

_SPACES = {0x00A0: " ", 0x202F: " "}  # NBSP, NNBSP
_LIGATURES = str.maketrans({"œ": "oe", "Œ": "OE", "æ": "ae", "Æ": "AE"})
_ACCENTS = re.compile("[\u0300-\u036f]")
_NOT_LABEL = re.compile(r"[^A-Z0-9]+")
# What surrounds a code without being part of it: the spaces PostgreSQL's \s knows, and what nobody sees (soft hyphen,
# zero-width characters, direction marks, byte order mark).
_AROUND_CODES = (
    "\t\n\x0b\x0c\r \x85\u1680\u2028\u2029\u205f\u3000"
    + "".join(map(chr, range(0x2000, 0x2010)))
    + "\u00ad\u2060\ufeff"
)
_LETTER_OR_DIGIT = re.compile("[0-9A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u1fff\u3040-\ufaff]")
# What Excel writes into a cell it cannot compute, in whatever language, and what it leaves of a long number.
_EXCEL_DAMAGE = re.compile(r"#(?:N/A|NV|[^ ]+[!?])|[0-9](?:[.,][0-9]+)?E\+[0-9]{2,3}")


def _label(text: str) -> str:
    if not text.isascii():
        text = _ACCENTS.sub("", unicodedata.normalize("NFKD", text.translate(_LIGATURES)))
    return _NOT_LABEL.sub(" ", text.upper()).strip()


def _upper(character: str) -> str:
    """Upper case of one character where that is one character too, as PostgreSQL's upper() has it."""
    return next((upper for upper in (character.upper(), character.title()) if len(upper) == 1), character)


def _code(text: str) -> str:
    text = text.translate(_SPACES).strip(_AROUND_CODES)
    return text.upper() if text.isascii() else "".join(map(_upper, text))


def _mapped(texts: pd.Series, function: Callable[[str], Any], dtype: str) -> pd.Series:
    """`function` of every text, computed once per distinct text; null counts as the empty text."""
    place, distinct = pd.factorize(texts.to_numpy(dtype=object, na_value=""))
    results = np.array([function(text) for text in distinct], dtype=object)
    return pd.Series(results[place], index=texts.index, dtype=dtype)


@overload
def normalize_label(text: str | None) -> str: ...
@overload
def normalize_label(text: pd.Series) -> pd.Series: ...
def normalize_label(text: str | pd.Series | None) -> str | pd.Series:
    """The form under which labels compare equal: `Crémant d’Alsace` -> `CREMANT D ALSACE`; null -> ''."""
    return _mapped(text, _label, "str") if isinstance(text, pd.Series) else _label(text or "")


@overload
def normalize_code(text: str | None) -> str: ...
@overload
def normalize_code(text: pd.Series) -> pd.Series: ...
def normalize_code(text: str | pd.Series | None) -> str | pd.Series:
    """A client or product code: trimmed, upper case, inner characters kept: `c-01 ` -> `C-01`; null -> ''."""
    return _mapped(text, _code, "str") if isinstance(text, pd.Series) else _code(text or "")


def is_valid_code(codes: pd.Series) -> pd.Series:
    """Whether a normalised code can be a key: it has a letter or digit, and Excel has not destroyed it.

    `#N/A` is no code, nor is `1,23E+11`: the digits of that long number are gone. As macro is_invalid_code.
    """
    return _mapped(codes, lambda c: bool(_LETTER_OR_DIGIT.search(c)) and not _EXCEL_DAMAGE.fullmatch(c), "bool")


def _hex(text: str, length: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:length]


# --- e-mail addresses and phones

_ATEXT = r"[a-z0-9_!#$%&'*+\-/=?^`{|}~]+"
_PLAIN_EMAIL = re.compile(rf"({_ATEXT}(?:\.{_ATEXT})*)@([a-z0-9.\-]+)")
_EMAIL_MAX_LENGTH = 254  # RFC 5321, as the library has it


def validate_emails(texts: Iterable[str]) -> pd.DataFrame:
    """One row per text (raw_email): its normalised address `email`, or null and the `reason` why it is none.

    The library decides (email-validator, no DNS). Of an address whose local part is a plain ASCII dot-atom it
    looks at nothing but the domain and the length, so it is asked once per domain: same answer, much sooner.
    """
    from email_validator import EmailNotValidError, validate_email

    def ask(address: str) -> tuple[str | None, str | None]:
        try:
            return validate_email(address, check_deliverability=False).normalized.lower(), None
        except EmailNotValidError as error:
            return None, str(error)

    by_domain: dict[str, tuple[str | None, str | None]] = {}

    def decide(text: str) -> tuple[str | None, str | None]:
        address = text.translate(_SPACES).strip().lower()
        plain = _PLAIN_EMAIL.fullmatch(address)
        if plain is None or len(address) > _EMAIL_MAX_LENGTH or "xn--" in address:
            return ask(address)
        domain = plain[2]
        if domain not in by_domain:
            by_domain[domain] = ask(f"a@{domain}")
        valid, reason = by_domain[domain]
        return (address if valid else None), reason

    raw = list(texts)
    emails, reasons = zip(*map(decide, raw), strict=True) if raw else ((), ())
    return pd.DataFrame({"raw_email": raw, "email": emails, "reason": reasons}, dtype="str")


def country_codes(texts: Iterable[str], countries: Mapping[str, str]) -> dict[str, str]:
    """The ISO alpha-2 code of each country text known to rules `values.countries`; others are left out."""
    labels = {text: _label(text) for text in texts}
    return {text: countries[label] for text, label in labels.items() if label in countries}


def parse_phones(phones: pd.DataFrame) -> pd.DataFrame:
    """Rows (raw_phone, country: ISO alpha-2) with `phone`: its E.164 number in that region, null if none."""
    import phonenumbers

    def parse(text: str, region: str) -> str | None:
        try:
            number = phonenumbers.parse(text.translate(_SPACES), region)
        except phonenumbers.NumberParseException:
            return None
        if not phonenumbers.is_valid_number(number):
            return None
        return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)

    parsed = list(map(parse, phones["raw_phone"], phones["country"]))
    return phones[["raw_phone", "country"]].assign(phone=pd.Series(parsed, index=phones.index, dtype="str"))


# --- customers (spec.md §3)


def resolve_customers(
    codes: pd.DataFrame, cards: pd.DataFrame, rules: Customers, own_addresses: Iterable[str] = ()
) -> pd.DataFrame:
    """One row per client code: client_code, customer_id, matched_by (code, email or phone).

    `codes`: client_code as in the files, position = where it first appears (grows in file order).
    `cards`: what customer files say of a code: client_code, last_name, first_name, full_name as in the files;
    email, phone, mobile normalised or null; newest = the position of the newest row that says so.

    A customer's id is the hash of their code that appears first. Newer files only add later positions, so
    they never change it: on a merge the older code's id survives; a code that leaves a group gets its own.
    Codes in `exclude_customers` (the till) and the estate's own addresses are evidence of no identity.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    seen = codes[["position"]].assign(client_code=normalize_code(codes["client_code"]))
    seen = seen.sort_values(["position", "client_code"]).drop_duplicates("client_code")
    known = seen.loc[is_valid_code(seen["client_code"]), "client_code"].reset_index(drop=True)

    people = _people(cards, known, rules.exclude_customers)
    own = {address.strip().lower() for address in own_addresses}
    people["email"] = people["email"].mask(people["email"].isin(own))
    by_email = _email_edges(people, rules)
    by_phone = _phone_edges(people, rules)

    size = len(known)
    edges = np.concatenate([by_email, by_phone])
    graph = coo_array((np.ones(len(edges), dtype=np.int8), (edges[:, 0], edges[:, 1])), shape=(size, size))
    count, group = connected_components(graph, directed=False)
    first = np.full(count, size)
    np.minimum.at(first, group, np.arange(size))
    first_of = first[group]

    matched_by = np.where(np.isin(np.arange(size), by_email), "email", "phone")
    matched_by = np.where(first_of == np.arange(size), "code", matched_by)
    code = known.to_numpy(dtype=object)
    ids = np.array([_hex(code[number], 16) for number in first], dtype=object)
    return pd.DataFrame({"client_code": code, "customer_id": ids[group], "matched_by": matched_by}, dtype="str")


def _till_pattern(excluded: Iterable[str]) -> re.Pattern[str]:
    """Normalised labels of codes that are tills, not people; as dim_customers tells them: COMPTOIR, CAVEAU 2."""
    words = "|".join(sorted(filter(None, map(_label, excluded)))) or "(?!)"
    return re.compile(
        rf"(?:(?:CLIENT|VENTE|COMPTE)S? )?(?:(?:DE|DU|AU|LE|LA) )?(?:{words})S?(?: (?:CLIENT|VENTE)S?)?(?: ?[0-9]+)?"
    )


def _people(cards: pd.DataFrame, known: pd.Series, excluded: Iterable[str]) -> pd.DataFrame:
    """One row per code with a card, indexed by its number in `known`: newest non-null names and contacts.

    surname, first_name, full_name are normalised labels, '' if unknown; full_name falls back on first + last.
    """
    is_till = _till_pattern(excluded)
    number_of = {code: number for number, code in enumerate(known) if not is_till.fullmatch(_label(code))}
    number = normalize_code(cards["client_code"]).map(number_of)
    cards = cards.assign(number=number)[number.notna()].rename(columns={"last_name": "surname"})
    names = ["surname", "first_name", "full_name"]
    for name in names:
        label = normalize_label(cards[name])
        cards[name] = label.mask(label.eq(""))
    cards = cards.sort_values("newest", ascending=False, kind="stable")
    columns = [*names, "email", "phone", "mobile"]
    people = cards.astype({"number": np.int64}).groupby("number")[columns].first()  # first() passes over nulls
    people[names] = people[names].fillna("").astype("str")
    assembled = (people["first_name"] + " " + people["surname"]).str.strip().where(people["surname"].ne(""), "")
    people["full_name"] = people["full_name"].mask(people["full_name"].eq(""), assembled)
    return people


_NO_EDGES = np.empty((0, 2), dtype=np.int64)


def _similar(left: pd.Series, right: pd.Series, threshold: float) -> np.ndarray:
    """Whether two columns of normalised names agree: similarity 0..100, words in any order, >= threshold.

    token_sort_ratio rather than token_set_ratio: that one takes MARTIN and MARTIN DUPONT for one name, and a
    wrong merge cannot be undone, while a missed one is caught where the address is written to (audit rule 3).
    """
    from rapidfuzz import fuzz, process

    a, b = left.to_numpy(dtype=object), right.to_numpy(dtype=object)
    agree = a == b
    if not agree.all():
        scores = process.cpdist(a[~agree], b[~agree], scorer=fuzz.token_sort_ratio, dtype=np.float64)
        agree[~agree] = scores.round(6) >= threshold
    return agree.astype(bool)


def _pairs(keys: pd.Series) -> pd.DataFrame:
    """All pairs (i < j) of row numbers whose key is equal."""
    rows = pd.DataFrame({"key": keys.to_numpy(), "row": np.arange(len(keys))})
    rows = rows[rows["key"].duplicated(keep=False)]
    pairs = rows.merge(rows, on="key", suffixes=("_i", "_j"))
    pairs = pairs[pairs["row_i"] < pairs["row_j"]]
    return pairs.rename(columns={"row_i": "i", "row_j": "j"}).reset_index(drop=True)[["i", "j"]]


def _names_agree(rows: pd.DataFrame, pairs: pd.DataFrame, threshold: float) -> pd.Series:
    """Whether the surnames of a pair agree; their full names where one of them has nothing else."""
    i, j = rows.iloc[pairs["i"]], rows.iloc[pairs["j"]]
    split = i["surname"].ne("").to_numpy() & j["surname"].ne("").to_numpy()
    left = pd.Series(np.where(split, i["surname"], i["full_name"]))
    right = pd.Series(np.where(split, j["surname"], j["full_name"]))
    named = left.ne("") & right.ne("")
    return pd.Series(_similar(left, right, threshold), index=pairs.index) & named.to_numpy()


def _settled(size: int, pairs: pd.DataFrame, agree: np.ndarray, is_open: np.ndarray, blank: np.ndarray) -> np.ndarray:
    """Which pairs are one person, as a mask: those that agree, and open ones whose blank row has one choice.

    A row with a blank name fits anybody. It joins the rows it fits when these are one person among them;
    between two different people it stays alone, so that it never ties them together, whatever the order.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    i, j = pairs["i"].to_numpy(), pairs["j"].to_numpy()
    strong = coo_array((np.ones(int(agree.sum()), dtype=np.int8), (i[agree], j[agree])), shape=(size, size))
    _, group = connected_components(strong, directed=False)

    to_named = is_open & (blank[i] != blank[j])
    who = np.where(blank[i], i, j)[to_named]
    fits = pd.Series(group[np.where(blank[i], j, i)[to_named]]).groupby(who).agg(["nunique", "first"])
    nobody, unclear = -1, -2
    choice = np.full(size, nobody)
    choice[fits.index] = np.where(fits["nunique"].eq(1), fits["first"], unclear)

    clear_i, clear_j = choice[i] != unclear, choice[j] != unclear
    both_blank = blank[i] & blank[j]
    same = (choice[i] == choice[j]) | (choice[i] == nobody) | (choice[j] == nobody)
    return agree | (to_named & clear_i & clear_j) | (is_open & both_blank & clear_i & clear_j & same)


def _numbered(rows: pd.DataFrame, pairs: pd.DataFrame) -> np.ndarray:
    number = rows["number"].to_numpy(dtype=np.int64)
    return np.column_stack([number[pairs["i"]], number[pairs["j"]]])


def _email_edges(people: pd.DataFrame, rules: Customers) -> np.ndarray:
    """Pairs of code numbers with one e-mail address whose surnames agree. A code without a name is blank."""
    rows = people[people["email"].notna()]
    rows = rows[rows["email"].duplicated(keep=False)].reset_index(names="number")
    if rows.empty:
        return _NO_EDGES
    name = ["email", "surname", "full_name"]
    one_of = rows.groupby(name, sort=False)["number"].transform("first")
    distinct = rows.drop_duplicates(name, ignore_index=True)
    is_shared = distinct.groupby("email")["number"].transform("size").gt(rules.email_max_names)
    shared = set(distinct.loc[is_shared, "email"])
    nameless_in_shared = rows["full_name"].eq("") & rows["email"].isin(shared)
    equal = rows[one_of.ne(rows["number"]) & ~nameless_in_shared]
    equal_names = np.column_stack([one_of[equal.index], equal["number"]])

    distinct = distinct[~is_shared].reset_index(drop=True)
    pairs = _pairs(distinct["email"])
    blank = distinct["full_name"].eq("").to_numpy()
    agree = _names_agree(distinct, pairs, rules.name_similarity).to_numpy()
    is_open = blank[pairs["i"]] | blank[pairs["j"]]
    pairs = pairs[_settled(len(distinct), pairs, agree, is_open, blank)]
    return np.concatenate([equal_names, _numbered(distinct, pairs)])


def _phone_edges(people: pd.DataFrame, rules: Customers) -> np.ndarray:
    """Pairs of code numbers on a phone few share, whose surnames agree, and first names or one is blank."""
    numbers = pd.concat([people["phone"], people["mobile"]]).dropna()
    numbers = numbers.rename_axis("number").reset_index(name="shared")
    numbers = numbers.drop_duplicates(ignore_index=True)
    n_codes = numbers.groupby("shared")["number"].transform("size")
    numbers = numbers[n_codes.between(2, rules.phone_max_codes)]
    rows = numbers.join(people, on="number")
    rows = rows[rows["full_name"].ne("")].sort_values(["shared", "number"], ignore_index=True)
    if rows.empty:
        return _NO_EDGES
    pairs = _pairs(rows["shared"])
    agree = _names_agree(rows, pairs, rules.name_similarity).to_numpy()
    pairs, agree = pairs[agree].reset_index(drop=True), agree[agree]

    i, j = rows.iloc[pairs["i"]], rows.iloc[pairs["j"]]
    # Names compared whole already hold the first name.
    split = i["surname"].ne("").to_numpy() & j["surname"].ne("").to_numpy()
    blank = (rows["first_name"].eq("") & rows["surname"].ne("")).to_numpy()
    is_open = split & (blank[pairs["i"]] | blank[pairs["j"]])
    agree &= ~split | (~is_open & _similar(i["first_name"], j["first_name"], rules.name_similarity))
    pairs = pairs[_settled(len(rows), pairs, agree, is_open, blank)]
    return _numbered(rows, pairs)


# --- products (spec.md §3)

_YEAR = re.compile(r"(?:19|20)\d\d")
_DIGITS = re.compile(r"\d+")
_FIRST_YEAR, _LAST_YEAR = 1900, 2199  # as dbt_project/macros/parse_date.sql
EXACT = 100.0


class Wine(NamedTuple):
    """What a label says: the normalised label without the vintage, and the vintage if there is one."""

    label: str
    vintage: int | None


def sale_years(first: int | None, last: int | None) -> range:
    """The years a vintage is asked for: those of the files, one more at each end for dates read otherwise.

    Never more than the years staging takes for a date: one typed as 9999 must not make thousands of rows.
    """
    if first is None or last is None:
        return range(0)
    return range(max(first - 1, _FIRST_YEAR), min(last + 1, _LAST_YEAR) + 1)


def _year(text: str) -> int | None:
    found = _YEAR.search(text)
    return int(found[0]) if found else None


def _readings(label: str, vintage: str) -> list[Wine]:
    """How a normalised label and a vintage text can be read, the more literal first.

    `RIESLING 2021` is a Riesling of 2021; `CUVEE 1900` may be just that, or a Cuvée of 1900.
    """
    year = _year(vintage)
    words = label.split(" ")
    years = [word for word in words if _YEAR.fullmatch(word)] if year is None else [str(year)]
    readings = [Wine(label, year)]
    if years and years[-1] in words and len(words) > 1:
        place = len(words) - 1 - words[::-1].index(years[-1])
        readings.append(Wine(" ".join(words[:place] + words[place + 1 :]), int(years[-1])))
    return readings


class Catalogue:
    """The products of an estate, by key and by label and vintage."""

    def __init__(self, products: pd.DataFrame) -> None:
        """`products`: product_key, label, vintage as in the files, newest = position of the newest such row.

        Labels a product had in older exports still lead to it, unless another product has that label now.
        """
        rows = pd.DataFrame(
            {
                "key": normalize_code(products["product_key"]),
                "label": normalize_label(products["label"]),
                "vintage": products["vintage"].fillna(""),
                "newest": products["newest"],
            }
        )
        # A product without a key goes by its label, as stg_products has it; one called #N/A is none.
        named = (products["label"].fillna("") + " " + rows["vintage"]).set_axis(rows.index)
        rows["key"] = rows["key"].mask(rows["key"].eq(""), normalize_label(named))
        is_named = rows["label"].ne("") & is_valid_code(normalize_code(products["label"]))
        rows = rows[is_valid_code(rows["key"]) & is_named]
        rows["is_old"] = rows["newest"] < rows.groupby("key")["newest"].transform("max")
        self.keys: set[str] = set(rows["key"])
        # Of products with one label and vintage (formats) the first key stands for all: a label says no more.
        self.by_label: dict[str, dict[int | None, str]] = {}
        self.wines: set[str] = set()  # labels without vintage
        for row in rows.sort_values(["is_old", "key"]).itertuples():
            readings = _readings(str(row.label), str(row.vintage))
            self.wines.add(readings[-1].label)
            for label, vintage in readings:
                self.by_label.setdefault(label, {}).setdefault(vintage, str(row.key))

    def find(self, wine: Wine, years: range) -> dict[int, str]:
        """Sale year -> product key; year 0 when it does not matter; empty when there is no such wine.

        An entry without vintage stands for all of them. A wine without vintage against several is the newest
        vintage not after the sale's year, the oldest for sales before all of them.
        """
        vintages = self.by_label.get(wine.label)
        if not vintages:
            return {}
        if wine.vintage in vintages:
            return {0: vintages[wine.vintage]}
        if None in vintages:
            return {0: vintages[None]}
        if wine.vintage is not None:
            return {}
        if len(set(vintages.values())) == 1:
            return {0: next(iter(vintages.values()))}
        known = sorted(vintage for vintage in vintages if vintage is not None)
        return {year: vintages[max((v for v in known if v <= year), default=known[0])] for year in years}

    def find_first(self, readings: list[Wine], years: range) -> dict[int, str]:
        """`find` of the first reading that the catalogue knows."""
        return next(filter(None, (self.find(wine, years) for wine in readings)), {})

    def newest(self, label: str) -> str:
        """The product a person would think of first under this label: its newest vintage."""
        vintages = self.by_label[label]
        return vintages[max(vintages, key=lambda vintage: vintage or 0)]


_MATCH_TYPES = {
    "raw_product_key": "str",
    "raw_product_label": "str",
    "raw_vintage": "str",
    "sale_year": "int64",
    "product_key": "str",
    "matched_by": "str",
    "score": "float64",
    "suggestion": "str",
    "vintage_ambiguous": "bool",
}


def match_products(
    sold: pd.DataFrame, products: pd.DataFrame, aliases: pd.DataFrame, years: range, rules: Products
) -> pd.DataFrame:
    """One row per distinct (key, label, vintage) text of the sales, as `tables.product_matches` has it.

    `sold`: product_key, product_label, vintage as in raw.sales_lines, '' for null. `products`: as Catalogue.
    `aliases`: label, product_key as in the files, newest = position. `years`: in which anything was sold: a
    label whose vintage must be chosen has one row per year, all others one row with sale_year 0.
    Ladder (spec.md §3): key, alias, label, fuzzy, else inferred. Rows with neither key nor label are none.
    """
    catalogue = Catalogue(products)
    meaning = _aliases(aliases, catalogue)
    keys = normalize_code(sold["product_key"])
    keys = keys.where(is_valid_code(keys), "")
    labels = normalize_label(sold["product_label"])
    # A label of punctuation alone, or what Excel writes for an error, names nothing.
    has_product = keys.ne("") | is_valid_code(normalize_code(sold["product_label"]))

    matched: list[tuple[str, str, str, int, str, str, float | None, str | None, bool]] = []
    unmatched: list[tuple[tuple[str, str, str], str, str]] = []

    def add(raw: tuple[str, str, str], found: dict[int, str], how: str, score: float) -> None:
        matched.extend((*raw, year, key, how, score, None, year != 0) for year, key in found.items())

    texts = zip(sold["product_key"], sold["product_label"], sold["vintage"], strict=True)
    for raw, key, label, is_product in zip(texts, keys, labels, has_product, strict=True):
        if not is_product:
            continue
        if key in catalogue.keys:
            add(raw, {0: key}, "key", EXACT)
        elif alias := (meaning.get(label) if label else None) or meaning.get(_label(key)):
            add(raw, {0: alias}, "alias", EXACT)
        elif found := catalogue.find_first(_readings(label, raw[2]), years):
            add(raw, found, "label", EXACT)
        else:
            unmatched.append((raw, key, label))

    nearest = _nearest({_readings(label, raw[2])[-1].label for raw, _, label in unmatched}, catalogue, rules)
    for raw, key, label in unmatched:
        wine = _readings(label, raw[2])[-1]
        near, score, is_clear = nearest.get(wine.label, ("", None, False))
        found = catalogue.find(Wine(near, wine.vintage), years)
        if found and is_clear and score is not None:
            add(raw, found, "fuzzy", score)
            continue
        suggestion = (found[max(found)] if found else catalogue.newest(near)) if near else None
        inferred = key or f"INF-{_hex(label, 10)}"
        matched.append((*raw, 0, inferred, "inferred", score, suggestion, False))

    return pd.DataFrame(matched, columns=list(_MATCH_TYPES)).astype(_MATCH_TYPES)


def _aliases(aliases: pd.DataFrame, catalogue: Catalogue) -> dict[str, str]:
    """Normalised label -> catalogue key, as the newest alias file that names one has it."""
    rows = aliases.assign(label=normalize_label(aliases["label"]), key=normalize_code(aliases["product_key"]))
    rows = rows[rows["label"].ne("") & rows["key"].isin(catalogue.keys)].sort_values("newest", kind="stable")
    return dict(zip(rows["label"], rows["key"], strict=True))


def _nearest(labels: set[str], catalogue: Catalogue, rules: Products) -> dict[str, tuple[str, float, bool]]:
    """Label -> (nearest catalogue label, similarity 0..100, whether it is a match).

    Labels under `suggestion_min` are left out; vintages are no part of them. A match: `fuzzy_match` alike,
    `fuzzy_margin` clear of the second, the same numbers in both (`CUVEE 1` is not `CUVEE 2`, however alike).
    """
    from rapidfuzz import fuzz, process

    asked = sorted(label for label in labels if label)
    known = sorted(catalogue.wines)
    if not asked or not known:
        return {}
    # Sorting the words first makes the plain ratio, which rapidfuzz vectorises, the token sort ratio.
    asked_sorted, known_sorted = ([" ".join(sorted(x.split())) for x in names] for names in (asked, known))
    cutoff = min(rules.suggestion_min, rules.fuzzy_match - rules.fuzzy_margin)
    block = max(1, 4_000_000 // len(known))
    nearest: dict[str, tuple[str, float, bool]] = {}
    for start in range(0, len(asked), block):
        some = asked_sorted[start : start + block]
        scores = process.cdist(some, known_sorted, scorer=fuzz.ratio, score_cutoff=cutoff, dtype=np.float64)
        rows = np.arange(len(some))
        best = scores.argmax(axis=1)
        top = scores[rows, best].round(6)
        scores[rows, best] = 0
        margin = (top - scores.max(axis=1)).round(6)
        is_enough = (top >= rules.fuzzy_match) & (margin >= rules.fuzzy_margin)
        for row in np.flatnonzero(top >= rules.suggestion_min):
            label, near = asked[start + row], known[best[row]]
            same_numbers = sorted(_DIGITS.findall(label)) == sorted(_DIGITS.findall(near))
            nearest[label] = (near, float(top[row].round(2)), bool(is_enough[row]) and same_numbers)
    return nearest
