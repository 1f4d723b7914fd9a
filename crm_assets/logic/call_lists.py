"""Call lists and letters: the people of a phone or postal campaign as a workbook for the estate's people (spec.md §7).

One sheet says whom to reach, with their wines; the other is what they hand back, in the columns of a contacts file:
only then does it count as a contact. Wording is in `templates/calls_<locale>.yaml`. No folder and no clock here.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

import pandas as pd

from crm_assets import charts as colours
from crm_assets import rendering
from crm_assets.logic.mended import guard

if TYPE_CHECKING:
    from xlsxwriter.format import Format
    from xlsxwriter.worksheet import Worksheet

PHONE = "phone"
_COLUMNS = {
    "phone": ["client_code", "customer", "phone", "city", "wines", "last_order"],
    "post": ["client_code", "customer", "address", "postal_code", "city", "country", "wines", "last_order"],
}
_BACK = ["client_code", "contact_date", "channel", "status", "campaign"]
_WIDTHS = {"customer": 28, "phone": 18, "address": 34, "postal_code": 12, "city": 22, "country": 8, "wines": 90}
_DAYS = {"fr": "dd/mm/yyyy", "en": "dd/mm/yyyy", "de": "dd.mm.yyyy"}
_LINE_HEIGHT, _HEAD = 15, 4  # points; the row of the header
_A4 = 9


@dataclass(frozen=True)
class About:
    """What a list is of. `text`: what the campaign wants said, in the estate's language; `last_day`: it counts till."""

    estate: str
    campaign: str
    channel: str
    text: str
    last_day: date


def rows(messages: pd.DataFrame, customers: pd.DataFrame, locale: str) -> pd.DataFrame:
    """One row per person: message_id, client_code, customer, phone, address, postal_code, city, country, wines (a line
    each), last_order; by town and name.

    `messages`: message_id, customer_id, params. `customers`: rows of curated.dim_customers. Whoever has been erased
    since the plan is on no list.
    """
    words = rendering.texts(locale)["call_list"]
    names = customers[["last_name", "first_name", "full_name"]].fillna("").astype("str")
    surname_first = (names["last_name"] + " " + names["first_name"]).str.strip()
    people = customers.assign(customer=surname_first.where(names["last_name"] != "", names["full_name"]))
    wines = [
        "\n".join(
            words["wine"].format(
                name=" ".join(filter(None, (item["name"], item.get("vintage")))),
                price=item["price"],
                sentence=item["sentence"],
            )
            for item in params["items"]
        )
        for params in messages["params"]
    ]
    found = messages[["message_id", "customer_id"]].assign(wines=wines)
    found = found.merge(people, on="customer_id", how="inner", validate="many_to_one")
    found = found.rename(columns={"last_order_date": "last_order"})
    columns = ["message_id", *dict.fromkeys([*_COLUMNS["phone"], *_COLUMNS["post"]])]
    return found.sort_values(["city", "customer", "client_code"], kind="stable", ignore_index=True)[columns]


def file_name(about: About, occurrence: str, locale: str) -> str:
    """appels-winter_calls-once.xlsx"""
    stem = rendering.texts(locale)["call_list"]["file"][about.channel]
    return f"{stem}-{about.campaign}-{occurrence}.xlsx"


def workbook(people: pd.DataFrame, about: About, locale: str, made_at: datetime) -> bytes:
    """The list and the sheet that comes back. The same rows and moment give the same bytes; every text is inert."""
    import xlsxwriter

    words = rendering.texts(locale)["call_list"]
    target = io.BytesIO()
    book = xlsxwriter.Workbook(target, {"strings_to_formulas": False, "strings_to_urls": False})
    title = words["titles"][about.channel]
    book.set_properties({"title": f"{title} – {about.estate}", "created": made_at.replace(tzinfo=None)})
    line = {"bottom": 1, "bottom_color": colours.GRID, "valign": "top", "font_color": colours.INK}
    head = book.add_format({"bold": True, "bottom": 2, "bottom_color": colours.WINE})
    text = book.add_format({**line, "num_format": "@", "text_wrap": True})
    day = book.add_format({**line, "num_format": _DAYS[locale], "align": "left"})
    large = book.add_format({"bold": True, "font_size": 14, "font_color": colours.WINE})
    muted = book.add_format({"font_color": colours.MUTED})

    page = book.add_worksheet(words["sheets"][about.channel])
    note = words["note"].format(last_day=rendering.long_date(about.last_day, locale))
    page.write_string(0, 0, title, large)
    page.write_string(1, 0, guard(f"{about.estate} · {about.campaign}"), muted)
    page.write_string(2, 0, note, muted)
    page.write_string(3, 0, guard(" ".join(about.text.split())))
    columns = _COLUMNS[about.channel]
    _table(page, _HEAD, [words["columns"][name] for name in columns], people[columns], {"text": text, "day": day}, head)
    for number, wines in enumerate(people["wines"], start=_HEAD + 1):
        page.set_row(number, _LINE_HEIGHT * max(1, str(wines).count("\n") + 1))
    for place, name in enumerate(columns):
        page.set_column(place, place, _WIDTHS.get(name, 15))
    page.freeze_panes(_HEAD + 1, 2)
    page.set_landscape()
    page.set_paper(_A4)
    page.fit_to_pages(1, 0)
    page.repeat_rows(_HEAD)

    back = book.add_worksheet(words["sheets"]["back"])
    given = people[["client_code"]].assign(
        contact_date=None, channel=words["channels"][about.channel], status=None, campaign=about.campaign
    )
    _table(back, 0, [words["columns"][name] for name in _BACK], given[_BACK], {"text": text, "day": day}, head)
    back.set_column(0, len(_BACK) - 1, 16)
    back.freeze_panes(1, 1)
    back.insert_textbox(1, len(_BACK) + 1, words["back"], {"width": 380, "height": 150})
    book.close()
    return target.getvalue()


def _table(
    page: Worksheet, top: int, headers: Sequence[str], frame: pd.DataFrame, styles: dict[str, Format], head: Format
) -> None:
    """A header row and the rows of a frame below it: days as days, everything else as text."""
    for place, header in enumerate(headers):
        page.write_string(top, place, header, head)
    for row, values in enumerate(frame.itertuples(index=False), start=top + 1):
        for place, value in enumerate(values):
            _cell(page, row, place, value, styles)


def _cell(page: Worksheet, row: int, place: int, value: Any, styles: dict[str, Format]) -> None:
    if value is None or pd.isna(value):
        page.write_blank(row, place, None, styles["day" if place == 1 else "text"])
    elif isinstance(value, (date, pd.Timestamp)):
        page.write_datetime(row, place, pd.Timestamp(value).to_pydatetime(), styles["day"])
    else:
        page.write_string(row, place, guard(str(value)), styles["text"])
