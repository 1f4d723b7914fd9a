"""Returned workbooks row by row, and which of several decisions holds (spec.md §6)."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
import pytest

from crm_assets.logic import review

RUN, OTHER = "0123456789abcdef", "fedcba9876543210"
NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)
STORED = ["run_id", *review.ITEM_KEY, "decision", "rating", "comment", "reviewer", "decided_at", "origin", "file_id"]
NOTHING = pd.DataFrame(columns=STORED).astype({"rating": "Int64"})


def items() -> pd.DataFrame:
    """Two wines of c1 (code 00123), one each of c2 and c3, with their references in RUN."""
    rows = [
        ("c1", "w1", "rebuy", "00123", "P1"),
        ("c1", "w2", "rebuy", "00123", "P2"),
        ("c2", "w1", "upsell", "C2", "P1"),
        ("c3", "w1", "upsell", "C3", "P1"),
    ]
    made = pd.DataFrame(rows, columns=[*review.ITEM_KEY, "client_code", "product_key"])
    return made.assign(reference=review.item_reference(RUN, made))


def sheet(*filled: dict[str, Any]) -> pd.DataFrame:
    """The rows of a workbook with all items, lines 2 and on; `filled[n]` changes the n-th."""
    rows = items()[["reference", "client_code", "product_key"]].assign(decision="", rating="", comment="")
    rows.insert(0, "line", range(2, 2 + len(rows)))
    for number, changes in enumerate(filled):
        for name, text in changes.items():
            rows.loc[number, name] = text
    return rows


def judge(
    rows: pd.DataFrame, stored: pd.DataFrame = NOTHING, holding: pd.DataFrame | None = None, **more: Any
) -> review.Judged:
    given: dict[str, Any] = {
        "run_id": RUN, "file_id": "f" * 16, "reviewer": "Anne", "decided_at": NOW,
    }  # fmt: skip
    return review.judge(rows, items(), stored, stored if holding is None else holding, **{**given, **more})


def outcomes(judged: review.Judged) -> dict[int, str]:
    return dict(zip(judged.lines["source_line"], judged.lines["outcome"], strict=True))


def decisions(judged: review.Judged) -> dict[tuple[str, str], str]:
    made = judged.decisions
    return dict(zip(zip(made["customer_id"], made["wine_id"], strict=True), made["decision"], strict=True))


def test_a_reference_is_the_items_alone() -> None:
    made = items()["reference"]
    assert made.str.fullmatch(f"{RUN}-[0-9a-f]{{16}}").all()
    assert made.is_unique
    assert set(made) & set(review.item_reference(OTHER, items())) == set()
    shuffled = items().sample(frac=1, random_state=1)
    assert review.item_reference(RUN, shuffled).equals(shuffled["reference"])


def test_decisions_are_taken_with_rating_and_comment_and_blank_rows_are_not_refused() -> None:
    made = judge(sheet({"decision": "approve", "rating": "4,0", "comment": "bien vu"}, {"decision": " Rejeter "}))
    assert outcomes(made) == {2: "TAKEN", 3: "TAKEN"}
    assert (made.n_taken, made.n_blank, made.n_approved_rest) == (2, 2, 0)
    first, second = made.decisions.to_dict("records")
    assert (first["decision"], first["rating"], first["comment"]) == ("approve", 4, "bien vu")
    assert (first["reviewer"], first["origin"], first["run_id"], first["decided_at"]) == ("Anne", "row", RUN, NOW)
    assert (second["decision"], pd.isna(second["rating"]), pd.isna(second["comment"])) == ("reject", True, True)


@pytest.mark.parametrize(
    ("filled", "outcome"),
    [
        ({"decision": "Ablehnen"}, "TAKEN"),
        ({"decision": "PLUS TARD"}, "TAKEN"),
        ({"decision": "peut-être"}, "UNKNOWN_VALUE"),
        ({"decision": "approve", "rating": "6"}, "UNKNOWN_VALUE"),
        ({"decision": "approve", "rating": "0"}, "UNKNOWN_VALUE"),
        ({"decision": "approve", "rating": "3.5"}, "UNKNOWN_VALUE"),
        ({"decision": "approve", "rating": "1"}, "TAKEN"),
        ({"decision": "approve", "rating": "5"}, "TAKEN"),
        ({"decision": "Approuver / Rejeter"}, "CONFLICT"),
        ({"decision": "approve,reject"}, "CONFLICT"),
        ({"rating": "4"}, "NO_DECISION"),
        ({"comment": "à revoir"}, "NO_DECISION"),
        ({"decision": "approve", "reference": f"{RUN}-{'0' * 16}"}, "EDITED_KEY"),
        ({"decision": "approve", "reference": review.item_reference(OTHER, items())[0]}, "EDITED_KEY"),
        ({"decision": "approve", "reference": ""}, "EDITED_KEY"),
        ({"decision": "approve", "client_code": "C2"}, "EDITED_KEY"),
        ({"decision": "approve", "product_key": "P2"}, "EDITED_KEY"),
        ({"decision": "approve", "product_key": ""}, "EDITED_KEY"),
        ({"decision": "approve", "client_code": "123"}, "TAKEN"),  # a spreadsheet took the code for a number
        ({"decision": "approve", "client_code": "123.0"}, "TAKEN"),
    ],
)
def test_what_becomes_of_a_row_and_no_other_goes_down_with_it(filled: dict[str, str], outcome: str) -> None:
    made = judge(sheet(filled, {}, {"decision": "approve"}))
    assert outcomes(made) == {2: outcome, 4: "TAKEN"}
    assert (("c1", "w1") in decisions(made)) == (outcome == "TAKEN")
    assert decisions(made)["c2", "w1"] == "approve"
    assert made.n_taken == 1 + (outcome == "TAKEN")


def test_a_sheet_sorted_in_part_is_refused_where_it_is_wrong() -> None:
    rows = sheet(*[{"decision": "approve"}] * 4)
    rows["reference"] = rows["reference"].iloc[[0, 2, 1, 3]].to_numpy()
    assert outcomes(judge(rows)) == {2: "TAKEN", 3: "EDITED_KEY", 4: "EDITED_KEY", 5: "TAKEN"}


def test_a_column_of_keys_that_is_gone_says_nothing_and_both_gone_say_too_little() -> None:
    rows = sheet({"decision": "approve"}).assign(client_code="")
    assert outcomes(judge(rows)) == {2: "TAKEN"}
    assert outcomes(judge(rows.assign(product_key=""))) == {2: "EDITED_KEY"}


def test_rows_of_one_item_that_contradict_each_other_are_both_refused() -> None:
    rows = pd.concat([sheet({"decision": "approve"}), sheet({"decision": "reject"}).assign(line=range(6, 10))])
    made = judge(rows.reset_index(drop=True))
    assert outcomes(made) == {2: "CONFLICT", 6: "CONFLICT"}
    assert made.decisions.empty
    rows = pd.concat([sheet({"decision": "approve"}), sheet({"decision": "approve"}).assign(line=range(6, 10))])
    assert outcomes(judge(rows.reset_index(drop=True))) == {2: "UNCHANGED", 6: "TAKEN"}


@pytest.mark.parametrize("refusal", ["STALE_RUN", "UNKNOWN_RUN", "SEVERAL_RUNS"])
def test_a_workbook_that_is_not_taken_refuses_what_was_filled_in(refusal: str) -> None:
    made = judge(sheet({"decision": "approve"}, {"rating": "9"}), refusal=refusal, approve_rest={"upsell"})
    assert outcomes(made) == {2: refusal, 3: refusal}
    assert (made.n_taken, made.n_blank, made.n_approved_rest, len(made.decisions)) == (0, 2, 0, 0)


def test_the_rest_of_a_scenario_is_what_was_left_blank_and_nobody_has_decided_on() -> None:
    earlier = judge(sheet({}, {}, {"decision": "later"}), file_id="e" * 16).decisions
    rows = sheet({}, {"comment": "hm"}, {}, {})
    made = judge(rows, earlier, approve_rest={"rebuy", "upsell"})
    # c1/w2 has a comment, c2/w1 was put off; c3/w1 and c1/w1 are left.
    assert decisions(made) == {("c1", "w1"): "approve", ("c3", "w1"): "approve"}
    assert made.n_approved_rest == 2
    assert set(made.decisions["origin"]) == {"rest"}
    assert judge(rows, earlier, approve_rest={"winback"}).decisions.empty
    # Rows that were taken out of the workbook are none of its rest.
    assert decisions(judge(rows.drop(index=3), earlier, approve_rest={"upsell"})) == {}


def test_what_was_said_before_is_unchanged_and_what_is_older_is_overtaken() -> None:
    stored = judge(sheet({"decision": "approve", "rating": "4"}, {"decision": "reject"})).decisions
    again = sheet({"decision": "approve", "rating": "4"}, {"decision": "approve"})
    later = judge(again, stored, file_id="g" * 16, decided_at=NOW + timedelta(hours=1))
    assert outcomes(later) == {2: "UNCHANGED", 3: "TAKEN"}
    older = judge(again, stored, file_id="g" * 16, decided_at=NOW - timedelta(hours=1))
    assert outcomes(older) == {2: "UNCHANGED", 3: "OVERTAKEN"}
    assert older.decisions.empty
    assert older.n_taken == 1
    # Another comment is news.
    other = judge(sheet({"decision": "approve", "rating": "5"}), stored, file_id="g" * 16, decided_at=NOW)
    assert outcomes(other) == {2: "TAKEN"}


def test_who_gave_no_name_does_not_take_one_away() -> None:
    named, nameless = {"file_id": "a" * 16}, {"file_id": "b" * 16, "reviewer": "", "decided_at": NOW + timedelta(1)}
    rows = sheet({"decision": "approve"}, {"decision": "approve"})
    again = sheet({"decision": "approve"}, {"decision": "reject"})
    ends = []
    for order in ([(rows, named), (again, nameless)], [(again, nameless), (rows, named)]):
        first = judge(order[0][0], **order[0][1]).decisions
        second = judge(order[1][0], first, **order[1][1]).decisions
        kept = pd.concat([first, second]).drop_duplicates(review.ITEM_KEY, keep="last").sort_values("wine_id")
        ends.append(kept[["wine_id", "decision", "reviewer", "file_id"]].to_numpy().tolist())
    assert ends[0] == ends[1]
    assert [row[:3] for row in ends[0]] == [["w1", "approve", "Anne"], ["w2", "reject", ""]]


def test_what_was_carried_over_is_no_rest_and_said_again_it_is_nothing_new() -> None:
    carried = items().loc[[0, 2], review.ITEM_KEY].assign(decision=["approve", "reject"])
    rows = sheet({"decision": "approve"}, {}, {"decision": "approve"})
    made = judge(rows, holding=carried, approve_rest={"rebuy", "upsell"})
    assert outcomes(made) == {2: "UNCHANGED", 4: "TAKEN"}
    assert set(made.decisions["origin"]) == {"row", "rest"}
    # What somebody hands back is said on this run: it holds as if it had not been carried over.
    assert decisions(made)["c1", "w1"] == "approve"
    assert decisions(judge(sheet(), holding=carried, approve_rest={"rebuy"})) == {("c1", "w2"): "approve"}


@pytest.mark.parametrize("before", ["approve-12345678", "approve-ffffffff"])
@pytest.mark.parametrize("where", ["stored", "holding"])
def test_what_a_row_went_out_with_overrides_nothing_newer_whatever_is_written_beside_it(
    before: str, where: str
) -> None:
    earlier: dict[str, Any] = {"decided_at": NOW - timedelta(hours=1), "reviewer": "Luc", "file_id": "b" * 16}
    rejected = judge(sheet({"decision": "reject"}), **earlier).decisions
    since = {"stored": rejected} if where == "stored" else {"holding": rejected[[*review.ITEM_KEY, "decision"]]}
    stale = sheet({"decision": "approve", "comment": "a word", "rating": "5"}).assign(before="")
    stale.loc[0, "before"] = before
    made = judge(stale, **since)
    assert (outcomes(made), decisions(made)) == ({2: "OVERTAKEN"}, {})
    # Who changed the decision of such a row has said something.
    made = judge(stale.assign(before=before.replace("approve", "reject")), **since)
    assert (outcomes(made), decisions(made)) == ({2: "TAKEN"}, {("c1", "w1"): "approve"})
    # What still holds may be rated and commented.
    rows = stale.assign(decision=["reject", "", "", ""], before="reject-12345678")
    assert outcomes(judge(rows, **since))[2] != "OVERTAKEN"


def test_a_copy_handed_in_again_says_nothing_anew() -> None:
    """Monday Anne approves, Tuesday Luc rejects, Wednesday Anne fills in more of her workbook and hands it in again."""
    monday, tuesday = NOW - timedelta(days=2), NOW - timedelta(days=1)
    first = judge(sheet({"decision": "approve"}).assign(before=""), decided_at=monday)
    luc = judge(
        sheet({"decision": "reject"}), stored=first.decisions, decided_at=tuesday, reviewer="Luc", file_id="b" * 16
    )
    more = sheet({"decision": "approve"}, {"decision": "approve"}).assign(before="")
    again = judge(more, stored=luc.decisions, earlier=first.lines)
    assert outcomes(again) == {2: "OVERTAKEN", 3: "TAKEN"}
    assert again.decisions["decided_at"].tolist() == [NOW]
    third = judge(more, stored=luc.decisions, earlier=pd.concat([first.lines, again.lines]))
    assert outcomes(third)[2] == "OVERTAKEN", "however often"
    # In a newer copy, which shows what Luc said, it is a new word; so it is when she had changed her mind meanwhile.
    fresh = more.assign(before="reject-12345678")
    assert outcomes(judge(fresh, stored=luc.decisions, earlier=first.lines))[2] == "TAKEN"
    changed = judge(sheet({"decision": "later"}).assign(before=""), decided_at=tuesday, earlier=first.lines)
    back = judge(more, stored=changed.decisions, earlier=pd.concat([first.lines, changed.lines]))
    assert outcomes(back)[2] == "TAKEN"


def test_where_nobody_can_tell_what_is_new_an_approval_overrides_nothing() -> None:
    made_at, before = NOW - timedelta(days=3), NOW - timedelta(days=1)
    luc = judge(
        sheet({"decision": "reject"}, {"decision": "approve"}), decided_at=before, reviewer="Luc"
    ).decisions.assign(file_id="b" * 16)
    rows = sheet({"decision": "approve"}, {"decision": "reject"}, {"decision": "approve"})
    made = judge(rows, stored=luc, approved_at=made_at)
    assert outcomes(made) == {2: "OVERTAKEN", 3: "TAKEN", 4: "TAKEN"}
    assert decisions(made) == {("c1", "w2"): "reject", ("c2", "w1"): "approve"}


BOOKS: list[tuple[pd.DataFrame, dict[str, Any]]] = [
    (sheet({"decision": "approve"}, {"decision": "later"}), {"file_id": "a" * 16, "decided_at": NOW}),
    (
        sheet({"decision": "reject"}, {}, {"decision": "reject"}),
        {"file_id": "b" * 16, "decided_at": NOW + timedelta(hours=1), "reviewer": "Luc"},
    ),
    (sheet(), {"file_id": "c" * 16, "decided_at": NOW + timedelta(hours=2), "approve_rest": {"rebuy", "upsell"}}),
    (sheet({"decision": "approve"}), {"file_id": "d" * 16, "decided_at": NOW + timedelta(hours=1)}),
]


def test_workbooks_end_the_same_in_whatever_order_they_come_back() -> None:
    ends = []
    for order in itertools.permutations(BOOKS):
        stored = NOTHING
        for rows, more in order:
            new = judge(rows, stored, **more).decisions
            key = review.ITEM_KEY
            kept = stored[~stored.set_index(key).index.isin(new.set_index(key).index)]
            stored = pd.concat([kept, new]) if len(kept) else new
        ends.append(
            stored.sort_values(review.ITEM_KEY)[[*review.ITEM_KEY, "decision", "origin", "file_id"]].to_csv(index=False)
        )
    assert len(set(ends)) == 1
    assert "c3,w1,upsell,approve,rest" in ends[0]
    assert "c1,w2,rebuy,later,row" in ends[0], "a rest is what nobody speaks of, whoever comes first"


def stored(*rows: tuple[str, str, str, int, str]) -> pd.DataFrame:
    """Rows of review.decisions from (run, wine, decision, days ago, origin), all on c1 and rebuy."""
    frame = pd.DataFrame(rows, columns=["run_id", "wine_id", "decision", "days", "origin"])
    frame["decided_at"] = [NOW - timedelta(days=days) for days in frame["days"]]
    return frame.assign(customer_id="c1", scenario="rebuy", reviewer="Anne", file_id=None).drop(columns="days")


def held(*rows: tuple[str, str, str, int, str]) -> dict[str, str]:
    made = review.applied(items(), stored(*rows), RUN, NOW - timedelta(days=14))
    return dict(zip(made["wine_id"], made["decision"], strict=True))


def test_a_decision_of_another_run_carries_over_for_its_time_only() -> None:
    assert held((OTHER, "w1", "reject", 14, "row"), (OTHER, "w2", "reject", 15, "row")) == {"w1": "reject"}
    assert held((RUN, "w1", "reject", 15, "row")) == {"w1": "reject"}, "on the run itself it holds"
    assert held((OTHER, "w9", "reject", 1, "row")) == {}, "a wine that is not proposed"
    elsewhere = stored((OTHER, "w1", "approve", 1, "row")).assign(scenario="upsell")
    assert review.applied(items(), elsewhere, RUN, NOW - timedelta(days=14)).empty


def test_a_rejected_wine_does_not_come_back_under_another_scenario() -> None:
    since = NOW - timedelta(days=14)
    elsewhere = stored((OTHER, "w1", "reject", 2, "row")).assign(scenario="winback")
    made = review.applied(items(), elsewhere, RUN, since)
    assert made[[*review.ITEM_KEY, "decision"]].to_numpy().tolist() == [["c1", "w1", "rebuy", "reject"]]
    late = stored((RUN, "w1", "approve", 1, "row"))
    assert review.applied(items(), pd.concat([elsewhere, late]), RUN, since)["decision"].tolist() == ["approve"]
    early = stored((RUN, "w1", "approve", 3, "row"))
    assert review.applied(items(), pd.concat([elsewhere, early]), RUN, since)["decision"].tolist() == ["reject"]


def test_of_several_decisions_the_newest_on_the_item_holds() -> None:
    assert held((OTHER, "w1", "reject", 3, "row"), (RUN, "w1", "approve", 2, "row")) == {"w1": "approve"}
    assert held((RUN, "w1", "approve", 3, "row"), (OTHER, "w1", "reject", 2, "row")) == {"w1": "reject"}
    assert held((RUN, "w1", "reject", 3, "row"), (RUN, "w1", "approve", 2, "rest")) == {"w1": "reject"}
    made = review.applied(items(), stored((OTHER, "w1", "later", 3, "row")), RUN, NOW - timedelta(days=14))
    assert made["decided_run_id"].tolist() == [OTHER]
