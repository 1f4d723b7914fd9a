"""The page at the stand-in's root: what was "sent", for a person to look at. Newest first, a hundred a page."""

from __future__ import annotations

from html import escape

from brevo_standin.account import Account
from brevo_standin.history import body_of, subject_of
from brevo_standin.log import VOCABULARIES
from brevo_standin.times import PARIS
from brevo_standin.wire import Reply, Request, whole_number

ROWS = 100
STYLE = """body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:#222}
table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.35rem .6rem;border-bottom:1px solid #ddd}
th{font-weight:600}a{color:#7a1f3d}.note{background:#f6f1e7;padding:.6rem .9rem;border-radius:.3rem}
iframe{width:100%;height:80vh;border:1px solid #ccc}.scroll{overflow-x:auto}"""


def _page(title: str, content: str) -> Reply:
    return Reply.html(
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{STYLE}</style></head>'
        f"<body><h1>{escape(title)}</h1>{content}</body></html>"
    )


def overview(account: Account, request: Request) -> Reply:
    """Every accepted message, with what became of it."""
    messages = [message for call in reversed(account.calls) for message in call.messages]
    start = whole_number(request, "from", 0)
    rows = []
    for message in messages[start : start + ROWS]:
        happened = dict.fromkeys(VOCABULARIES[event.kind][1] for event in account.log.of(message))
        moment = message.call.at.astimezone(PARIS).strftime("%Y-%m-%d %H:%M:%S")
        rows.append(
            f"<tr><td>{moment}</td><td>{escape(message.address)}</td>"
            f'<td><a href="/messages/{message.uuid}">{escape(subject_of(message)) or "(no subject)"}</a></td>'
            f"<td>{escape(', '.join(message.call.tags))}</td><td>{escape(', '.join(happened))}</td></tr>"
        )
    for call in account.calls:
        call.forget_parsed()
    before = f'<a href="/?from={max(0, start - ROWS)}">newer</a> ' if start else ""
    after = f'<a href="/?from={start + ROWS}">older</a>' if start + ROWS < len(messages) else ""
    table = (
        '<div class="scroll"><table><tr><th>Accepted (Paris)</th><th>To</th><th>Subject</th><th>Tag</th>'
        f"<th>Events</th></tr>{''.join(rows)}</table></div>"
    )
    return _page(
        "Brevo stand-in",
        '<p class="note">This takes the place of Brevo. Nothing here was sent to anybody; deliveries, opens, clicks'
        f" and bounces are made up.</p><p>{len(messages)} messages in {len(account.calls)} calls. {before}{after}</p>"
        + (table if messages else "<p>No message has been accepted yet.</p>"),
    )


def one(account: Account, uuid: str) -> Reply:
    """One message as its recipient would see it: in a frame that may run nothing and load nothing of ours."""
    message = account.by_uuid.get(uuid)
    if message is None:
        return Reply.html("<p>No such message.</p>", 404)
    html, subject = body_of(account, message), subject_of(message)
    message.call.forget_parsed()
    events = "".join(
        f"<li>{event.at.astimezone(PARIS):%Y-%m-%d %H:%M:%S} {escape(VOCABULARIES[event.kind][1])}"
        f"{' ' + escape(event.link) if event.link else ''}</li>"
        for event in account.log.of(message)
    )
    return _page(
        subject or "(no subject)",
        f'<p><a href="/">All messages</a></p><p>From {escape(message.call.sender)} to {escape(message.address)},'
        f" tag {escape(', '.join(message.call.tags))}</p><ul>{events}</ul>"
        f'<iframe sandbox srcdoc="{escape(html, quote=True)}" title="message"></iframe>',
    )
