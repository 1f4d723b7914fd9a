"""Identity on tiny cases: each rule, both sides of each threshold, whatever the order of rows and files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from random import Random

import pandas as pd
import pytest
from email_validator import EmailNotValidError, validate_email
from hypothesis import given, settings
from hypothesis import strategies as st

from crm_assets import rules as rules_module
from crm_assets.logic import curated

RULES = rules_module.load()
YEARS = range(2020, 2027)


# Labels and codes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Crémant d'Alsace Extra-Brut", "CREMANT D ALSACE EXTRA BRUT"),
        ("Crémant d’Alsace Extra Brut", "CREMANT D ALSACE EXTRA BRUT"),
        ("Cœur de Cuvée", "COEUR DE CUVEE"),
        ("  Riesling\u00a0 (75 cl) ", "RIESLING 75 CL"),
        ("Ægir", "AEGIR"),
        ("---", ""),
        ("", ""),
        (None, ""),
    ],
)
def test_normalize_label(text: str | None, expected: str) -> None:
    assert curated.normalize_label(text) == expected
    assert curated.normalize_label(pd.Series([text, "x"])).tolist() == [expected, "X"]


def test_normalize_label_keeps_the_index() -> None:
    labels = curated.normalize_label(pd.Series(["b", "a", "b"], index=[7, 3, 5]))
    assert labels.to_dict() == {7: "B", 3: "A", 5: "B"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" c-001\u202f", "C-001"),
        ("C001", "C001"),
        ("00123", "00123"),
        ("a  b", "A  B"),
        ("é1", "É1"),
        ("straße", "STRAßE"),  # as PostgreSQL's upper() has it
        (None, ""),
    ],
)
def test_normalize_code(text: str | None, expected: str) -> None:
    assert curated.normalize_code(text) == expected


def test_codes_that_are_no_keys() -> None:
    codes = ["C001", "0", "#12", "1E5", "", "---", "???", "#N/A", "#REF!", "#DIV/0!", "#VALEUR!", "#NOM?", "1,23E+11"]
    valid = curated.is_valid_code(pd.Series(codes, dtype="str"))
    assert valid.tolist() == [*[True] * 4, *[False] * 9]


# E-mail addresses and phones


def library_says(text: str) -> str | None:
    address = text.replace("\u00a0", " ").replace("\u202f", " ").strip().lower()
    try:
        return validate_email(address, check_deliverability=False).normalized.lower()
    except EmailNotValidError:
        return None


def test_emails_are_trimmed_lowered_and_explained() -> None:
    texts = ["\u00a0Anne.Muller@Example.ORG ", "pas d'adresse", "jp@example", "a@b..fr", "é@exämple.fr"]
    frame = curated.validate_emails(texts)
    assert frame["raw_email"].tolist() == texts
    assert frame["email"].tolist()[0] == "anne.muller@example.org"
    assert frame["email"].isna().tolist() == [False, True, True, True, False]
    assert frame["reason"].isna().tolist() == [True, False, False, False, True]


def test_no_emails_at_all() -> None:
    assert curated.validate_emails([]).columns.tolist() == ["raw_email", "email", "reason"]


WORDS = "a A é ß jean . .. - _ + ' \" @ < > 1 xn-- xn--p1ai [127.0.0.1] test fr .fr ..fr -.fr example.org example"
ADDRESS_PIECES = st.sampled_from([*WORDS.split(), " ", "\u00a0", "b" * 40, "x" * 64 + ".fr"])


@settings(max_examples=400, deadline=None)
@given(st.lists(ADDRESS_PIECES, max_size=9).map("".join))
def test_asking_once_per_domain_gives_the_library_s_answer(text: str) -> None:
    # The same domain comes first with a good local part, so that the answer is remembered.
    texts = [f"ok@{text.rpartition('@')[2]}", text]
    answers = curated.validate_emails(texts)["email"]
    assert [None if pd.isna(email) else email for email in answers] == [library_says(t) for t in texts]


@pytest.mark.parametrize("length", [254, 255])
def test_the_longest_address_is_the_library_s(length: int) -> None:
    domain = ".".join(["d" * 60] * 3) + ".fr"
    address = "a" * (length - len(domain) - 1) + "@" + domain
    answer = curated.validate_emails([f"a@{domain}", address])["email"].isna().tolist()
    assert answer == [False, library_says(address) is None] == [False, length > 254]


def test_phones_are_read_in_the_country_of_the_row() -> None:
    phones = pd.DataFrame(
        [
            ("03 89 41 00 00", "FR", "+33389410000"),
            ("0389\u00a041.00.00", "FR", "+33389410000"),
            ("0033 3 89 41 00 00", "FR", "+33389410000"),
            ("+49 761 202000", "FR", "+49761202000"),
            ("0761 202000", "DE", "+49761202000"),
            ("12", "FR", None),
            ("06 39 98 00 08", "FR", None),  # the range reserved for fiction
        ],
        columns=["raw_phone", "country", "expected"],
    )
    parsed = curated.parse_phones(phones)["phone"]
    assert [None if pd.isna(phone) else phone for phone in parsed] == [
        None if pd.isna(phone) else phone for phone in phones["expected"]
    ]


def test_countries_are_known_in_three_languages() -> None:
    texts = ["Allemagne", "GERMANY", "Deutschland", "de", "États-Unis", "Österreich", "NO", "Atlantide"]
    codes = curated.country_codes(texts, RULES.values.countries)
    assert [codes.get(text) for text in texts] == ["DE", "DE", "DE", "DE", "US", "AT", "NO", None]


# Customers


def card(code: str, last: str = "", first: str = "", **fields: str | int) -> dict[str, str | int]:
    return {"client_code": code, "last_name": last, "first_name": first, **fields}


CARD_FIELDS = ["client_code", "last_name", "first_name", "full_name", "email", "phone", "mobile"]


def as_frames(rows: Iterable[dict[str, str | int]], sold: Iterable[str] = ()) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Codes and cards as the assets read them; a card's place in the list is its position unless told."""
    cards = pd.DataFrame([{"newest": place, **row} for place, row in enumerate(rows, 1)])
    cards = cards.reindex(columns=[*CARD_FIELDS, "newest"])
    cards[CARD_FIELDS] = cards[CARD_FIELDS].astype("str").replace("", None)
    codes = cards[["client_code"]].assign(position=cards["newest"])
    later = pd.DataFrame({"client_code": list(sold)}, dtype="str")
    later["position"] = range(1000, 1000 + len(later))
    return pd.concat([codes, later], ignore_index=True), cards.astype({"newest": "int64"})


def resolve(*rows: dict[str, str | int], sold: Iterable[str] = (), own: Iterable[str] = ()) -> pd.DataFrame:
    return curated.resolve_customers(*as_frames(rows, sold), RULES.customers, own)


def groups(xref: pd.DataFrame) -> set[frozenset[str]]:
    return {frozenset(codes) for _, codes in xref.groupby("customer_id")["client_code"]}


def same(*rows: dict[str, str | int], own: Iterable[str] = ()) -> bool:
    """Whether the first two rows are one customer."""
    xref = resolve(*rows, own=own).set_index("client_code")["customer_id"]
    left, right = (xref[str(row["client_code"]).upper()] for row in rows[:2])
    return left == right


MAIL = {"email": "a@example.org"}
PHONE = {"phone": "+33389410000"}


def test_every_valid_code_is_one_customer() -> None:
    xref = resolve(card("c1 ", "Muller"), card("#N/A"), card("---"), sold=["C1", "S9", "#REF!", "s9"])
    assert xref["client_code"].tolist() == ["C1", "S9"]
    assert xref["matched_by"].tolist() == ["code", "code"]
    assert xref["customer_id"].tolist() == [hashlib.sha256(c.encode()).hexdigest()[:16] for c in ("C1", "S9")]


def test_nothing_known_is_no_customer() -> None:
    frames = as_frames([card("C1", "Muller", **MAIL)])
    xref = curated.resolve_customers(*(frame.iloc[:0] for frame in frames), RULES.customers)
    assert xref.empty
    assert xref.columns.tolist() == ["client_code", "customer_id", "matched_by"]


def test_same_email_and_surname_is_one_customer() -> None:
    xref = resolve(card("C2", "Müller", "Anne", **MAIL), card("C1", "MULLER", "Paul", **MAIL))
    assert xref["customer_id"].nunique() == 1
    assert dict(zip(xref["client_code"], xref["matched_by"], strict=True)) == {"C2": "code", "C1": "email"}
    assert xref["customer_id"].iloc[0] == hashlib.sha256(b"C2").hexdigest()[:16]


@pytest.mark.parametrize(
    ("left", "right", "agree"),
    [
        ("Schmidt", "Schmitt", True),  # 85.7
        ("Dupont", "Dupond", False),  # 83.3
        ("ABCDEFGHIJKLMNOPQRST", "ABCDEFGHIJKLMNOPQXYZ", True),  # 85.0, the threshold itself
        ("ABCDEFGHIJKLMNOPQRS", "ABCDEFGHIJKLMNOPXYZ", False),  # 84.2
        ("Dupont-Martin", "Martin Dupont", True),
        ("Martin", "Martin Dupont", False),
    ],
)
def test_surnames_agree_from_the_threshold_on(left: str, right: str, agree: bool) -> None:
    assert same(card("C1", left, **MAIL), card("C2", right, **MAIL)) is agree


def test_different_surnames_on_one_email_are_two_customers() -> None:
    assert not same(card("C1", "Hoffstetter", **MAIL), card("C2", "Garrigou", **MAIL))


def test_a_nameless_code_joins_the_only_name_of_its_address() -> None:
    assert same(card("C1", **MAIL), card("C2", "Muller", **MAIL))
    assert same(card("C1", **MAIL), card("C2", **MAIL))


def test_a_nameless_code_does_not_tie_two_names_together() -> None:
    xref = resolve(card("C1", "Muller", **MAIL), card("C2", **MAIL), card("C3", "Garrigou", **MAIL))
    assert groups(xref) == {frozenset({"C1"}), frozenset({"C2"}), frozenset({"C3"})}


def test_a_full_name_is_compared_with_first_and_last() -> None:
    whole = {"client_code": "C1", "full_name": "Muller Anne", **MAIL}
    assert same(whole, card("C2", "Müller", "Anne", **MAIL))
    assert not same(whole, card("C2", "Müller", "Bernadette", **MAIL))


def test_the_estate_s_own_address_proves_nothing() -> None:
    rows = card("C1", "Muller", **MAIL), card("C2", "Muller", **MAIL)
    assert not same(*rows, own=["A@example.org "])


def test_the_till_is_nobody() -> None:
    assert not same(card("COMPTOIR", "Muller", **MAIL), card("C2", "Muller", **MAIL))


@pytest.mark.parametrize("till", ["COMPTOIR", "comptoir 2", "CLIENTS DIVERS", "PASSAGE1", "VENTE CAVEAU"])
def test_a_till_with_a_card_joins_nobody(till: str) -> None:
    assert not same(card(till, **MAIL), card("C2", "Muller", **MAIL))


def strangers(count: int) -> list[dict[str, str | int]]:
    return [card(f"N{n}", letter * 6, **MAIL) for n, letter in enumerate("ABCDEFGHIJKLMNOPQRSTUVWXYZ"[:count])]


@pytest.mark.parametrize("extra", [0, 1])
def test_an_address_under_too_many_names_joins_equal_names_only(extra: int) -> None:
    rows = [card("C1", "Schmidt", **MAIL), card("C2", "Schmitt", **MAIL), card("C3", "SCHMITT", **MAIL)]
    rows += strangers(RULES.customers.email_max_names - 2 + extra)
    joined = {group for group in groups(resolve(*rows)) if len(group) > 1}
    assert joined == {frozenset({"C2", "C3"} if extra else {"C1", "C2", "C3"})}


def test_nameless_codes_of_a_shared_mailbox_stay_apart() -> None:
    rows = [card("X1", **MAIL), card("X2", **MAIL), *strangers(RULES.customers.email_max_names)]
    assert {len(group) for group in groups(resolve(*rows))} == {1}


@pytest.mark.parametrize(
    ("first", "other", "agree"),
    [("Anne", "ANNE", True), ("Anne", "", True), ("", "", True), ("Anne", "Paul", False)],
)
def test_surname_and_phone_need_first_names_that_agree(first: str, other: str, agree: bool) -> None:
    xref = resolve(card("C1", "Muller", first, **PHONE), card("C2", "Müller", other, mobile="+33389410000"))
    assert (xref["customer_id"].nunique() == 1) is agree
    assert xref["matched_by"].tolist() == ["code", "phone" if agree else "code"]


def test_a_phone_without_a_surname_proves_nothing() -> None:
    assert not same(card("C1", "", "Anne", **PHONE), card("C2", "Muller", "Anne", **PHONE))
    assert not same(card("C1", "Garrigou", "Anne", **PHONE), card("C2", "Muller", "Anne", **PHONE))


@pytest.mark.parametrize("n_codes", [3, 4])
def test_a_phone_of_too_many_codes_proves_nothing(n_codes: int) -> None:
    rows = [card(f"C{n}", "Muller", "Anne", **PHONE) for n in range(1, 3)]
    rows += [card(f"D{n}", "Garrigou", **PHONE) for n in range(n_codes - 2)]
    assert same(*rows) is (n_codes <= RULES.customers.phone_max_codes)


def test_a_blank_first_name_does_not_tie_two_people_together() -> None:
    rows = [
        card("C1", "Muller", "Anne", **PHONE),
        card("C2", "Muller", **PHONE),
        card("C3", "Muller", "Paul", **PHONE),
    ]
    assert {len(group) for group in groups(resolve(*rows))} == {1}


def test_groups_grow_across_email_and_phone() -> None:
    xref = resolve(
        card("C1", "Muller", "Anne", **MAIL),
        card("C2", "Muller", "Anne", **MAIL, **PHONE),
        card("C3", "Muller", "Anne", **PHONE),
    )
    assert groups(xref) == {frozenset({"C1", "C2", "C3"})}
    assert xref["matched_by"].tolist() == ["code", "email", "phone"]


def test_the_newest_known_value_of_a_code_counts() -> None:
    old, new = card("C1", "Muller", "Anne", email="old@example.org"), card("c1", "", "", **MAIL)
    assert same(new, card("C2", "Muller", **MAIL), old | {"newest": 0})
    assert not same(old, card("C2", "Muller", email="old@example.org"), new)


def test_on_a_merge_the_older_survives_and_newer_files_change_no_other_id() -> None:
    before = resolve(card("C1", "Muller", **MAIL), card("C2", "Muller"), card("C3", "Garrigou"))
    after = resolve(
        card("C1", "Muller", **MAIL),
        card("C2", "Muller"),
        card("C3", "Garrigou"),
        card("C2", "Muller", **MAIL),
        card("A0", "Garrigou", email="g@example.org"),
    )
    old, new = (xref.set_index("client_code")["customer_id"] for xref in (before, after))
    assert new["C1"] == new["C2"] == old["C1"]
    assert new["C3"] == old["C3"]


def test_a_code_sold_to_before_its_card_came_keeps_its_id() -> None:
    codes, cards = as_frames([card("T1", "Muller", **MAIL), card("S1", "Muller", **MAIL)], sold=["S1"])
    codes["position"] = codes["position"].mask(codes["position"].ge(1000), 0)
    xref = curated.resolve_customers(codes, cards, RULES.customers).set_index("client_code")
    assert xref["customer_id"].eq(hashlib.sha256(b"S1").hexdigest()[:16]).all()


PERSON = st.fixed_dictionaries(
    {
        "client_code": st.sampled_from([f"C{n}" for n in range(9)]),
        "last_name": st.sampled_from(["", "Muller", "Müller", "Schmidt", "Schmitt", "Garrigou"]),
        "first_name": st.sampled_from(["", "Anne", "Paul"]),
        "full_name": st.sampled_from(["", "", "", "Muller Anne"]),
        "email": st.sampled_from(["", "a@example.org", "b@example.org"]),
        "phone": st.sampled_from(["", "", "+33389410000", "+33389410001"]),
    }
)


@settings(max_examples=40, deadline=None)
@given(st.lists(PERSON, min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_the_order_in_which_rows_are_read_does_not_matter(rows: list[dict[str, str | int]], chance: Random) -> None:
    codes, cards = as_frames(rows, sold=["C1", "S1"])
    expected = curated.resolve_customers(codes, cards, RULES.customers)
    places = list(range(len(codes))), list(range(len(cards)))
    for order in places:
        chance.shuffle(order)
    shuffled = curated.resolve_customers(codes.iloc[places[0]], cards.iloc[places[1]], RULES.customers)
    pd.testing.assert_frame_equal(shuffled, expected)
    # Each id is the hash of the first code of its group, and that code alone is matched by code.
    firsts = expected.drop_duplicates("customer_id")
    assert firsts["customer_id"].tolist() == [
        hashlib.sha256(code.encode()).hexdigest()[:16] for code in firsts["client_code"]
    ]
    assert expected["matched_by"].eq("code").sum() == len(firsts)


# Products


def products(*rows: tuple[str, str, str]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["product_key", "label", "vintage"], dtype="str")
    return frame.assign(newest=range(1, len(frame) + 1))


def aliases(*rows: tuple[str, str]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["label", "product_key"], dtype="str")
    return frame.assign(newest=range(1, len(frame) + 1))


def match(sold: list[tuple[str, str, str]], catalogue: pd.DataFrame, also: pd.DataFrame | None = None) -> pd.DataFrame:
    frame = pd.DataFrame(sold, columns=["product_key", "product_label", "vintage"], dtype="str")
    return curated.match_products(frame, catalogue, aliases() if also is None else also, YEARS, RULES.products)


def one(sold: tuple[str, str, str], catalogue: pd.DataFrame, also: pd.DataFrame | None = None) -> pd.Series:
    matched = match([sold], catalogue, also)
    assert len(matched) == 1
    return matched.iloc[0]


RIESLING = ("RI-21", "Riesling Grand Cru", "2021")


def test_the_ladder_takes_key_then_alias_then_label() -> None:
    catalogue = products(RIESLING, ("PG-22", "Pinot Gris", "2022"))
    also = aliases(("Pinot Gris", "RI-21"), ("Vieux nom", "PG-22"))
    found = match(
        [
            (" ri-21", "Pinot Gris", ""),
            ("", "Vieux nom", ""),
            ("", "PINOT-GRIS", ""),
            ("OLD", "Riesling Grand Cru", "2021"),
        ],
        catalogue,
        also,
    )
    assert found["matched_by"].tolist() == ["key", "alias", "alias", "label"]
    assert found["product_key"].tolist() == ["RI-21", "PG-22", "RI-21", "RI-21"]
    assert found["sale_year"].eq(0).all()
    assert not found["vintage_ambiguous"].any()


def test_the_newest_alias_counts_and_one_to_an_unknown_product_does_not() -> None:
    catalogue = products(RIESLING, ("PG-22", "Pinot Gris", "2022"))
    also = aliases(("RGC", "PG-22"), ("rgc.", "RI-21"), ("R.G.C", "NOWHERE"))
    assert one(("", "RGC", ""), catalogue, also)["product_key"] == "RI-21"


@pytest.mark.parametrize(
    ("label", "vintage", "key", "how"),
    [
        ("Riesling Grand-Cru", "2021", "RI-21", "label"),
        ("Riesling Grand Cru 2021", "", "RI-21", "label"),
        ("RIESLING GRAND CRU 2021", "2021.0", "RI-21", "label"),
        ("Riesling Grand Cru", "", "RI-21", "label"),  # there is but one
        ("Riesling Grand Cru", "2019", None, "inferred"),
        ("Cuvée 1900", "", "C1900", "label"),
        ("Cuvée 1900", "2020", "C1900", "label"),
        ("Crémant", "2018", "CR", "label"),  # an entry without vintage stands for all
    ],
)
def test_labels_and_vintages(label: str, vintage: str, key: str | None, how: str) -> None:
    catalogue = products(RIESLING, ("C1900", "Cuvée 1900", ""), ("CR", "Crémant", ""))
    found = one(("", label, vintage), catalogue)
    assert found["matched_by"] == how
    assert found["product_key"] == key or found["product_key"].startswith("INF-")


def test_a_label_without_vintage_is_the_newest_not_after_the_sale() -> None:
    catalogue = products(RIESLING, ("RI-23", "Riesling Grand Cru 2023", ""), ("PG", "Pinot Gris", ""))
    found = match([("", "Riesling Grand Cru", ""), ("", "Pinot Gris", "")], catalogue)
    chosen = found[found["raw_product_label"].eq("Riesling Grand Cru")].set_index("sale_year")
    assert chosen["vintage_ambiguous"].all()
    assert chosen["product_key"].to_dict() == {
        2020: "RI-21",  # sold before any of them: the oldest
        2021: "RI-21",
        2022: "RI-21",
        **dict.fromkeys(range(2023, 2027), "RI-23"),
    }
    assert found.loc[
        found["raw_product_label"].eq("Pinot Gris"), ["sale_year", "vintage_ambiguous"]
    ].values.tolist() == [[0, False]]


def test_a_product_answers_to_its_old_label_unless_another_has_it_now() -> None:
    catalogue = products(
        ("A", "Cuvée Anne", ""), ("B", "Cuvée Paul", ""), ("A", "Cuvée Marie", ""), ("B", "Cuvée Anne", "")
    )
    found = match([("", label, "") for label in ("Cuvée Anne", "Cuvée Marie", "Cuvée Paul")], catalogue)
    assert found["product_key"].tolist() == ["B", "A", "B"]


LETTERS = "ABCDEFGHIJKLMNOPQRST"  # twenty letters: one of them changed is a similarity of 95


def changed(count: int, letters: str = LETTERS) -> str:
    return letters[: len(letters) - count] + "z" * count


@pytest.mark.parametrize(
    ("label", "how", "suggestion"),
    [
        (changed(1), "fuzzy", None),  # 95.0
        (changed(1, LETTERS[:19]) + "T", "fuzzy", None),
        (changed(2), "inferred", "K1"),  # 90.0
        (changed(4), "inferred", "K1"),  # 80.0
        (changed(5), "inferred", None),  # 75.0
    ],
)
def test_likeness_matches_suggests_or_does_nothing(label: str, how: str, suggestion: str | None) -> None:
    found = one(("", label, ""), products(("K1", LETTERS, "")))
    assert found["matched_by"] == how
    assert found["product_key"] == (
        "K1" if how == "fuzzy" else f"INF-{hashlib.sha256(label.upper().encode()).hexdigest()[:10]}"
    )
    assert (None if pd.isna(found["suggestion"]) else found["suggestion"]) == suggestion


@pytest.mark.parametrize(("rival", "how"), [(changed(3, LETTERS * 2), "fuzzy"), (changed(2, LETTERS * 2), "inferred")])
def test_a_match_is_clear_of_the_second(rival: str, how: str) -> None:
    # 97.5 to the first; 92.5 or 95 to the second.
    sold = LETTERS * 2
    catalogue = products(("K1", "y" + sold[1:], ""), ("K2", rival, ""))
    assert one(("", sold, ""), catalogue)["matched_by"] == how


def test_numbers_must_be_the_same_however_alike() -> None:
    catalogue = products(("K1", "Crémant d'Alsace Cuvée Prestige Brut numéro 1", ""))
    found = one(("", "Crémant d'Alsace Cuvée Prestige Brut numéro 2", ""), catalogue)
    assert found["score"] > RULES.products.fuzzy_match
    assert (found["matched_by"], found["suggestion"]) == ("inferred", "K1")


def test_a_misspelt_label_finds_its_vintage() -> None:
    catalogue = products(
        ("RI-21", "Riesling Grand Cru Kirchberg 2021", ""), ("RI-22", "Riesling Grand Cru Kirchberg 2022", "")
    )
    found = one(("", "Riesling Grand Cru Kirchbrg 2022", ""), catalogue)
    assert (found["product_key"], found["matched_by"]) == ("RI-22", "fuzzy")
    missing = one(("", "Riesling Grand Cru Kirchbrg 2019", ""), catalogue)
    assert (missing["matched_by"], missing["suggestion"]) == ("inferred", "RI-22")
    assert set(match([("", "Riesling Grand Cru Kirchbrg", "")], catalogue)["vintage_ambiguous"]) == {True}


def test_what_is_found_nowhere_is_inferred_from_key_else_label() -> None:
    catalogue = products(RIESLING)
    found = match([("x-1", "Bretzel", ""), ("#N/A", "Bretzel", ""), ("", "bretzel!", "2020"), ("y", "", "")], catalogue)
    inferred = "INF-" + hashlib.sha256(b"BRETZEL").hexdigest()[:10]
    assert found["product_key"].tolist() == ["X-1", inferred, inferred, "Y"]
    assert found["matched_by"].eq("inferred").all()


def test_a_product_without_key_goes_by_its_label() -> None:
    catalogue = products(("", "Crémant d’Alsace", "2019"), ("#N/A", "Muscat", ""), ("K", "#REF!", ""))
    found = match([("", "cremant d'alsace", ""), ("cremant d alsace 2019", "", ""), ("", "Muscat", "")], catalogue)
    assert found["product_key"].tolist()[:2] == ["CREMANT D ALSACE 2019"] * 2
    assert found["matched_by"].tolist() == ["label", "key", "inferred"]
    assert one(("K", "", ""), catalogue)["matched_by"] == "inferred"


def test_rows_without_key_and_label_and_products_without_either_are_none() -> None:
    catalogue = products(("#REF!", "Bretzel", ""), ("K", "---", ""))
    nothing = [
        ("", "", "2020"),
        ("#N/A", " \u00a0", ""),
        ("", "---", ""),
        ("", "#VALEUR!", ""),
        ("???", "1,23E+11", ""),
    ]
    assert match(nothing, catalogue).empty
    assert one(("K", "", ""), catalogue)["matched_by"] == "inferred"
    assert one(("", "Bretzel", ""), catalogue)["matched_by"] == "inferred"


def test_sale_years_stay_in_what_staging_takes() -> None:
    assert curated.sale_years(2023, 2025) == range(2022, 2027)
    assert curated.sale_years(205, 9999) == range(1900, 2200)
    assert len(curated.sale_years(None, None)) == 0


def test_rows_come_in_the_shape_of_the_table() -> None:
    from crm_assets import tables

    found = match([("", "Riesling Grand Cru", "")], products(RIESLING))
    assert found.columns.tolist() == [column.name for column in tables.product_matches.columns]
    assert set(resolve(card("C1"))) == {column.name for column in tables.customer_xref.columns}
