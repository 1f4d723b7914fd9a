"""Wines that a campaign puts first: who gets them, and who does not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

from crm_assets import rules as rules_module
from crm_assets.logic import pushed
from tests.logic import estate
from tests.logic.estate import AS_OF, ago, customer, facts, item, items, product, products

RULES = rules_module.load()
TENANT = estate.tenant()
CUSTOMERS = ["c1", "c2", "c3"]


def catalogue(**of_p9: Any) -> pd.DataFrame:
    more = {"is_recommendable": True, "allocation": None, "available": None, "grape": None, "colour": None}
    more |= {"macro_category": None, "awards": None}
    more |= {f"aroma_{name}": None for name in ("fruit", "floral", "spice", "mineral", "acidity", "body", "tannin")}
    rows = [product(f"p{n}", **{**more, **(of_p9 if n == 9 else {})}) for n in range(1, 10)]
    return products(*rows).astype({"available": "float64"})


def given(**changes: Any) -> pushed.Facts:
    """Three customers who have bought nothing; p9 is the wine that tests push."""
    nothing = pd.DataFrame({"customer_id": pd.Series(dtype="str"), "wine_id": pd.Series(dtype="str")})
    known = pushed.Facts(
        facts=facts(*[customer(c) for c in CUSTOMERS]),
        products=catalogue(),
        customer_wines=nothing.assign(last_date=pd.Series(dtype="datetime64[s]")),
        sent_wines=nothing.assign(sent_date=pd.Series(dtype="datetime64[s]")),
        rejections=nothing.assign(rejected_date=pd.Series(dtype="datetime64[s]")),
        allocations=pd.DataFrame({"product_key": pd.Series(dtype="str"), "customer_id": pd.Series(dtype="str")}),
        may_insert=True,
        addressed=pd.Series(CUSTOMERS),
    )
    return replace(known, **changes)


def listed(*products_of: list[str]) -> pd.DataFrame:
    """The list of c1, c2 …: each customer's products in order."""
    rows = [item(f"c{n}", key, rank) for n, keys in enumerate(products_of, 1) for rank, key in enumerate(keys, 1)]
    return items(*rows)


def leads(push: list[str], known: pushed.Facts, list_: pd.DataFrame | None = None) -> dict[str, list[str]]:
    """customer_id -> products in the order of their ranks."""
    own = listed(*[["p1", "p2", "p3"]] * 3) if list_ is None else list_
    made = pushed.pushed_items(push, own, known, TENANT, RULES, AS_OF).sort_values(["customer_id", "rank"])
    assert (made["rank"] == made.groupby("customer_id").cumcount() + 1).all()
    return {str(name): group["product_key"].tolist() for name, group in made.groupby("customer_id")}


def test_a_wine_of_the_list_comes_first_and_one_that_lacks_is_put_in_front() -> None:
    own = listed(["p1", "p9"], ["p1", "p2", "p3"], ["p1"])
    assert leads(["p9"], given(), own) == {"c1": ["p9", "p1"], "c2": ["p9", "p1", "p2"], "c3": ["p9", "p1"]}
    assert leads(["p9"], given(may_insert=False), own)["c2"] == ["p1", "p2", "p3"]
    assert leads(["p9"], given(addressed=pd.Series(["c3"])), own)["c2"] == ["p1", "p2", "p3"]


@pytest.mark.parametrize("name", ["p9", "w9", "family p9"])
def test_a_wine_is_named_by_product_wine_or_family(name: str) -> None:
    assert leads([name], given())["c1"][0] == "p9"
    assert leads(["nothing of this name"], given())["c1"][0] == "p1"


def test_the_first_of_several_that_somebody_may_get_is_put_in_front() -> None:
    bought = pd.DataFrame({"customer_id": ["c1"], "wine_id": ["w9"], "last_date": [ago(900)]})
    assert {k: v[0] for k, v in leads(["p9", "p8"], given(customer_wines=bought)).items()} == {
        "c1": "p8",
        "c2": "p9",
        "c3": "p9",
    }


@pytest.mark.parametrize(
    ("changes", "who_gets_it"),
    [
        ({"sent_wines": pd.DataFrame({"customer_id": ["c1"], "wine_id": ["w9"], "sent_date": [ago(59)]})}, "c2 c3"),
        ({"sent_wines": pd.DataFrame({"customer_id": ["c1"], "wine_id": ["w9"], "sent_date": [ago(60)]})}, "c1 c2 c3"),
        (
            {"rejections": pd.DataFrame({"customer_id": ["c2"], "wine_id": ["w9"], "rejected_date": [ago(179)]})},
            "c1 c3",
        ),
        ({"allocations": pd.DataFrame({"product_key": ["p9"], "customer_id": ["c3"]})}, "c3"),
        ({"products": catalogue(allocation="GC")}, ""),
        ({"products": catalogue(is_recommendable=False)}, ""),
        ({"products": catalogue(stock_status="out")}, ""),
        ({"products": catalogue(available=0.3)}, "c1"),  # a message needs 6 bottles x 0.05
        ({"products": catalogue(available=0.0)}, ""),
    ],
)
def test_every_rule_holds_for_a_pushed_wine(changes: dict[str, Any], who_gets_it: str) -> None:
    made = leads(["p9"], given(**changes))
    assert [name for name, keys in made.items() if keys[0] == "p9"] == who_gets_it.split()
    assert all(len(keys) == 3 for keys in made.values())


def test_what_is_put_in_front_says_a_sentence_of_its_own_and_is_what_it_is() -> None:
    own = items(item("c1", "p1", scenario="rebuy"), item("c2", "p1", scenario="nurture"))
    made = pushed.pushed_items(["p9"], own, given(), TENANT, RULES, AS_OF)
    first = made[made["rank"] == 1].set_index("customer_id")
    assert first["scenario"].to_dict() == {"c1": "cross_sell", "c2": "nurture"}
    assert first["customer_sentence"].str.contains("Riesling").all()
