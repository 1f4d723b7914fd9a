"""What Brevo says became of messages, in one vocabulary: rows of its log and bodies of its webhooks become rows of
`outcomes.events` (spec.md §7, brevo.md A4, A6).

Brevo has three vocabularies for the same events and writes their dates in two zones; nothing carries an event id. Here
the names meet, the moments become UTC, and each event gets a key that is the same whichever way it came. A name that
nobody knows is kept as `other:<name>`. Pure: nothing is fetched and nothing is stored.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd

from crm_assets.logic.curated import validate_emails
from crm_assets.logic.outbox import Tag, parse_tag

# Canonical names. A message that Brevo has taken is `sent`; `opened` by a proxy is told apart by `is_machine`.
SENT, DELIVERED, DEFERRED, ERROR = "sent", "delivered", "deferred", "error"
OPENED, CLICKED, PROXY_OPENED = "opened", "clicked", "proxy_opened"
SOFT_BOUNCE, HARD_BOUNCE, BOUNCED = "soft_bounce", "hard_bounce", "bounced"
BLOCKED, INVALID, SPAM, UNSUBSCRIBED = "blocked", "invalid", "spam", "unsubscribed"
TEST = "test"  # the occurrence in the tag of a test send (crm_assets/test_sends.py)
# Of a contact, not of a message: no event of ours.
NOT_OF_A_MESSAGE = "not_of_a_message"


def _plain(name: str) -> str:
    """A name without what its spellings differ by: capitals, underscores, hyphens, blanks."""
    return "".join(sign for sign in name.casefold() if sign.isalnum())


# How a webhook is told which events to send (POST /webhooks).
CREATION = {
    "sent": SENT,
    "request": SENT,
    "delivered": DELIVERED,
    "hardBounce": HARD_BOUNCE,
    "softBounce": SOFT_BOUNCE,
    "blocked": BLOCKED,
    "spam": SPAM,
    "invalid": INVALID,
    "deferred": DEFERRED,
    "click": CLICKED,
    "opened": OPENED,
    "uniqueOpened": OPENED,
    "proxyOpen": PROXY_OPENED,
    "uniqueProxyOpen": PROXY_OPENED,
    "unsubscribed": UNSUBSCRIBED,
    "listAddition": NOT_OF_A_MESSAGE,
    "contactUpdated": NOT_OF_A_MESSAGE,
    "contactDeleted": NOT_OF_A_MESSAGE,
}
# How the body of a webhook, transactional or marketing, calls them; and the content of one message.
PAYLOAD = {
    "request": SENT,
    "sent": SENT,
    "delivered": DELIVERED,
    "hard_bounce": HARD_BOUNCE,
    "soft_bounce": SOFT_BOUNCE,
    "blocked": BLOCKED,
    "spam": SPAM,
    "complaint": SPAM,
    "invalid": INVALID,
    "invalid_email": INVALID,
    "deferred": DEFERRED,
    "error": ERROR,
    "click": CLICKED,
    "open": OPENED,
    "opened": OPENED,
    "unique_opened": OPENED,
    "proxy_open": PROXY_OPENED,
    "unique_proxy_open": PROXY_OPENED,
    "unsubscribe": UNSUBSCRIBED,
    "unsubscribed": UNSUBSCRIBED,
    "list_addition": NOT_OF_A_MESSAGE,
    "contact_updated": NOT_OF_A_MESSAGE,
    "contact_deleted": NOT_OF_A_MESSAGE,
}
# How the log calls them (GET /smtp/statistics/events).
STATISTICS = {
    "requests": SENT,
    "delivered": DELIVERED,
    "bounces": BOUNCED,  # of which kind it does not say
    "hardBounces": HARD_BOUNCE,
    "softBounces": SOFT_BOUNCE,
    "opened": OPENED,
    "clicks": CLICKED,
    "spam": SPAM,
    "invalid": INVALID,
    "deferred": DEFERRED,
    "blocked": BLOCKED,
    "unsubscribed": UNSUBSCRIBED,
    "error": ERROR,
    "loadedByProxy": PROXY_OPENED,
}
# The names agree where two vocabularies share one (tested), so nobody has to say which one a row is written in.
# Brevo's own pages drift in capitals and hyphens: a refusal must not depend on them.
_CANONICAL = {_plain(name): meant for name, meant in {**CREATION, **PAYLOAD, **STATISTICS}.items()}
_OTHER = "other:"

# Brevo dates its log, and `date` in its webhooks, as clocks in Paris do, whatever the estate's zone.
PARIS = "Europe/Paris"
_MILLISECONDS_FROM = 100_000_000_000  # a count of seconds this large would be the year 5138

_NO_MOMENT_FROM = 10**15
_EARLIEST, _LATEST = pd.Timestamp("2000-01-01", tz="UTC"), pd.Timestamp("2200-01-01", tz="UTC")  # of any event

# One said event: how a row of the log and an item of a body look before they are understood.
SAID = ["address", "event", "moment", "message_ref", "tag", "campaign", "link", "reason"]


@dataclass(frozen=True)
class Events:
    """Rows of outcomes.events without `origin` and `read_at`, and what did not become one, by name or as a count."""

    rows: pd.DataFrame
    unknown: dict[str, int] = field(default_factory=dict)  # kept, as other:<name>
    n_foreign: int = 0  # of another estate that uses the same account: none of ours
    n_unreadable: int = 0  # without an address or a moment
    n_not_of_a_message: int = 0


def canonical(name: str) -> str:
    """The one name of an event, in whichever of the three vocabularies it was said; other:<name> where none has it."""
    return _CANONICAL.get(_plain(name), _OTHER + name.strip())


def normalised(addresses: pd.Series) -> pd.Series:
    """Addresses as the estate's own are written; one that is none stays as it is, in lower case."""
    texts = addresses.dropna().astype(str).unique()
    known = validate_emails(texts)
    written = known["email"].where(known["email"].notna(), known["raw_email"].str.strip().str.lower())
    return addresses.map(dict(zip(known["raw_email"], written, strict=True))).astype("str")


def moments(said: pd.Series) -> pd.Series:
    """What was said of when, as UTC: texts with a zone, texts without one (clocks in Paris), seconds or milliseconds.

    NaT where it is nothing of these, or of no century that has e-mails. In the hour that clocks in Paris show twice, a
    text without a zone is its first pass.
    """
    numbers = pd.to_numeric(said, errors="coerce")
    seconds = numbers.where(numbers < _MILLISECONDS_FROM, numbers / 1000)
    found = pd.to_datetime(seconds, unit="s", utc=True, errors="coerce").astype("datetime64[us, UTC]")
    texts = said[numbers.isna()].dropna().astype(str).str.strip()
    if texts.empty:
        return found.where(found.between(_EARLIEST, _LATEST))
    has_zone = texts.str.contains(r"(?:[zZ]|[+-]\d{2}:?\d{2})$", regex=True)
    zoned = pd.to_datetime(texts[has_zone], utc=True, format="ISO8601", errors="coerce")
    local = pd.to_datetime(texts[~has_zone], format="ISO8601", errors="coerce")
    shown = local.dt.tz_localize(PARIS, ambiguous=np.ones(len(local), dtype=bool), nonexistent="shift_forward")
    for part in (zoned, shown.dt.tz_convert("UTC")):
        found.loc[part.index] = part.astype("datetime64[us, UTC]")
    return found.where(found.between(_EARLIEST, _LATEST))


def keys(rows: pd.DataFrame) -> list[str]:
    """sha256(message id, address, event, second in UTC, link), in hex: the same however the event came.

    A log without zones cannot tell the two passes of the hour that clocks in Paris show twice: the second pass
    counts as the first, for everybody.
    """
    shown = rows["occurred_at"].dt.tz_convert(PARIS).dt.tz_localize(None)
    first_pass = shown.dt.tz_localize(PARIS, ambiguous=np.ones(len(rows), dtype=bool), nonexistent="shift_forward")
    seconds = first_pass.dt.tz_convert("UTC").dt.strftime("%Y-%m-%dT%H:%M:%S")
    parts = zip(
        rows["message_ref"].fillna(""), rows["address"], rows["name"], seconds, rows["link"].fillna(""), strict=True
    )
    return [hashlib.sha256("\n".join(part).encode()).hexdigest() for part in parts]


def understood(said: pd.DataFrame, tenant: str) -> Events:
    """What was said (SAID columns, `moment` as `moments` takes it), as rows of outcomes.events.

    Duplicates collapse: of the same event said twice, the first non-null value of each column holds.
    """
    if said.empty:
        return Events(pd.DataFrame(columns=["event_key", "address", "event", "occurred_at"]))
    rows = said.reindex(columns=SAID).reset_index(drop=True)
    rows = rows.assign(
        name=rows["event"].map(lambda name: canonical(str(name)) if name else _OTHER),
        address=normalised(rows["address"].where(rows["address"].notna() & (rows["address"] != ""))),
        occurred_at=moments(rows["moment"]),
        message_ref=_blank_to_none(rows["message_ref"].astype("object").str.strip().str.strip("<>")),
    )
    unreadable = ~rows["address"].str.contains("@", na=False) | rows["occurred_at"].isna()
    of_contact = rows["name"] == NOT_OF_A_MESSAGE
    ours = {tag: parsed for tag in rows["tag"].dropna().unique() if (parsed := _parsed(tag)) is not None}
    foreign = rows["tag"].map({tag: parsed.tenant != tenant for tag, parsed in ours.items()}).eq(True)
    kept = rows[~unreadable & ~of_contact & ~foreign].copy()
    kept["link"] = _blank_to_none(kept["link"].astype("object").str.strip()).where(kept["name"] == CLICKED, None)
    for column in ("campaign", "occurrence", "step"):
        kept[f"{column}_of_tag"] = kept["tag"].map({tag: getattr(parsed, column) for tag, parsed in ours.items()})
    kept["campaign"] = kept["campaign_of_tag"].astype("object").fillna(kept["campaign"])
    kept["occurrence"] = kept["occurrence_of_tag"]
    kept["step"] = kept["step_of_tag"].astype("Int64")
    kept["is_machine"] = kept["name"] == PROXY_OPENED
    kept["event"] = kept["name"].replace(PROXY_OPENED, OPENED)
    kept["event_key"] = keys(kept)
    kept["channel"] = "email"
    columns = ["event_key", "address", "tag", "event", "occurred_at", "campaign", "channel", "occurrence", "step"]
    columns += ["message_ref", "link", "reason", "is_machine"]
    others = kept.loc[kept["name"].str.startswith(_OTHER), "name"].str.removeprefix(_OTHER)
    return Events(
        _collapsed(kept[columns]),
        unknown=dict(Counter(others)),
        n_foreign=int((foreign & ~unreadable & ~of_contact).sum()),
        n_unreadable=int(unreadable.sum()),
        n_not_of_a_message=int((of_contact & ~unreadable).sum()),
    )


def _parsed(tag: str) -> Tag | None:
    """What a tag of ours says, that of a test included: its occurrence is `test`, which counts as none anywhere."""
    of_test = parse_tag(tag.replace(f"-{TEST}-", "-once-", 1)) if f"-{TEST}-" in tag else None
    return replace(of_test, occurrence=TEST) if of_test else parse_tag(tag)


def _collapsed(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per event_key: of each column the first value that says something."""
    is_repeated = rows.duplicated("event_key", keep=False)
    merged = rows[is_repeated].groupby("event_key", sort=False, as_index=False).first()
    return pd.concat([rows[~is_repeated], merged], ignore_index=True) if len(merged) else rows.reset_index(drop=True)


def _blank_to_none(texts: pd.Series) -> pd.Series:
    return texts.where(texts.notna() & (texts != ""), None)


def one_tag(said: Any) -> str | None:
    """The tag that tells most, of a text, a list, or a text that is a list: ours where there is one, else the first."""
    if isinstance(said, str) and said.startswith("["):
        with contextlib.suppress(ValueError):
            said = json.loads(said)
    tags = [tag for tag in (said if isinstance(said, list) else [said]) if isinstance(tag, str) and tag]
    return next((tag for tag in tags if parse_tag(tag)), tags[0] if tags else None)


def said_in_body(body: bytes) -> pd.DataFrame:
    """The events of a webhook's body, one or a list of them, as SAID rows; ValueError where it is no such thing."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        raise ValueError("no JSON") from None
    items = content if isinstance(content, list) else [content]
    if not all(isinstance(item, dict) for item in items):
        raise ValueError("no event, and no list of events")
    return pd.DataFrame([_said(item) for item in items], columns=SAID, dtype="object")


def _said(item: Mapping[str, Any]) -> dict[str, Any]:
    campaign_id = item.get("camp_id")
    # `ts` is left aside: it has been seen shifted to local time. `date` is what the clock in Paris showed.
    moment = next((item[name] for name in ("ts_event", "ts_epoch", "date_event", "date") if item.get(name)), None)
    is_number = isinstance(moment, int | float) and not isinstance(moment, bool) and abs(moment) < _NO_MOMENT_FROM
    if not is_number and not isinstance(moment, str):
        moment = None
    tag = one_tag(item.get("tags")) or one_tag(item.get("tag"))
    custom = one_tag(item.get("X-Mailin-custom"))
    said = {
        "address": item.get("email"),
        "event": item.get("event"),
        "moment": moment,
        "message_ref": item.get("message-id") or (campaign_ref(campaign_id) if campaign_id else None),
        "tag": custom if custom and parse_tag(custom) and not parse_tag(tag or "") else tag,
        "campaign": item.get("campaign name"),
        "link": item.get("link"),
        "reason": item.get("reason"),
    }
    return {name: value if name == "moment" and is_number else _text(value) for name, value in said.items()}


def _text(value: Any) -> str | None:
    """A value as text that a database can keep: no NUL, no half of a character."""
    return None if value is None else str(value).replace("\0", "").encode("utf-8", "ignore").decode().strip()


def campaign_ref(campaign_id: int | str) -> str:
    """What stands for the message id where Brevo's own campaigns have none."""
    return f"campaign:{campaign_id}"


def said_in_log(entries: Iterable[Any]) -> pd.DataFrame:
    """Rows of Brevo's log (objects with date, email, event, message_id, tag, link, reason) as SAID rows."""
    rows = [
        (e.email, e.event, e.date, e.message_id, one_tag(e.tag), None, e.link, e.reason) for e in entries
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=SAID, dtype="object")


def said_of_recipients(
    addresses: Iterable[str], campaign_id: int, name: str, sent_at: datetime, event: str = "sent"
) -> pd.DataFrame:
    """The recipients of a campaign sent from Brevo's own screens as SAID rows: one event each, of when it was sent."""
    frame = pd.DataFrame({"address": pd.Series(list(addresses), dtype="object")})
    said = {"event": event, "moment": sent_at.isoformat(), "message_ref": campaign_ref(campaign_id)}
    said["campaign"] = name.strip()
    return frame.assign(**said).reindex(columns=SAID).astype("object")
