"""What a message must say and may not say (spec.md §7), looked for in what a reader sees of it.

A template that lacks a piece is refused before anything is planned with it: our own as rendered, one that is kept at
Brevo as its params would fill it. What stands in a comment, in the head or in an element that is not shown is not said.
Nothing is repaired here, and nothing is fetched.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any, Protocol

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError
from markupsafe import Markup

from crm_assets import rendering
from crm_assets.campaigns import Campaign, forbidden_words
from crm_assets.logic import messages
from crm_assets.logic.activation import RefusalError
from crm_assets.rules import BusinessRules
from crm_assets.tenants import Tenant

TEMPLATE_UNFIT = "TEMPLATE_UNFIT"
_SHOWN = 3  # of the wordings with something wrong are named
# What Brevo itself fills in, in either of its template languages; a link to it is made by Brevo for each recipient.
_UNSUBSCRIBE = re.compile(r"^\s*(\{\{\s*unsubscribe\s*\}\}|\[UNSUBSCRIBE\])\s*$")
_BREVO_FILLS = re.compile(r"\{\{\s*(unsubscribe|mirror|update_profile)\s*\}\}|\[(UNSUBSCRIBE|MIRROR)\]")
_SYNTAX = re.compile(r"\{[{%#]|[%#}]\}|\[[A-Z_]{3,}\]")
_NOT_SHOWN = {"head", "style", "script", "template", "title", "noscript"}
_VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
_BLOCKS = {"p", "div", "td", "tr", "table", "li", "ul", "ol", "h1", "h2", "h3", "h4", "br", "hr", "section", "footer"}
_ACTIVE = {"script", "iframe", "object", "embed", "form", "input", "base"}
_HIDING = re.compile(
    r"(^|;)\s*(display\s*:\s*none|visibility\s*:\s*hidden|mso-hide\s*:\s*all|opacity\s*:\s*0(\.0*)?\s*(;|!|$)"
    r"|font-size\s*:\s*[01](\.\d+)?\s*(px|pt|em|%)?\s*(;|!|$)|(max-)?height\s*:\s*0(px)?\s*(;|!|$))",
    re.IGNORECASE,
)
_COLOUR = re.compile(r"(?:^|;)\s*color\s*:\s*([^;!]+)", re.IGNORECASE)
_BACKGROUND = re.compile(r"(?:^|;)\s*background(?:-color)?\s*:\s*([^;!]+)", re.IGNORECASE)

# What a template that is no template raises when it is filled.
UNREADABLE = (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError)
# What is wrong, in words; a code may go on after a colon.
PROBLEMS = {
    "LEGAL_NAME": "the estate's legal name is missing",
    "ADDRESS": "the estate's address is missing",
    "SIREN": "the estate's SIREN is missing",
    "WHY": "it does not say why the person receives it",
    "UNSUBSCRIBE": "no visible link to unsubscribe ({{ unsubscribe }}, or a mail to the estate)",
    "ALCOHOL_FRENCH": "the French sentence on alcohol is missing",
    "ALCOHOL_TRANSLATED": "the sentence on alcohol does not follow in the estate's language",
    "MINORS": "« Vente interdite aux mineurs » is missing",
    "MINORS_TRANSLATED": "that minors are not sold to is not said in the estate's language",
    "NO_SUBJECT": "it has no subject",
    "SUBJECT_NOT_ONE_LINE": "its subject holds line breaks, control characters or marks that turn the direction",
    "SUBJECT_TEMPLATE_SYNTAX": "its subject holds template syntax",
    "TEXT_TEMPLATE_SYNTAX": "its text holds template syntax, which would be shown as it stands",
    "SUBJECT_FORBIDDEN_WORD": "a forbidden word in its subject",
    "FORBIDDEN_WORD": "a forbidden word",
    "TEMPLATE_SYNTAX": "it holds template syntax that Brevo would read",
    "NOT_SAFE": "it holds a script, a form, or a picture that is not fetched by https",
    "TOO_LONG": "it is so long that mail programmes would cut its end off",
    "ITEM_1": "a wine by the bottle, with a link, is not shown whole",
    "ITEM_2": "a wine sold by the carton, without a link, is not shown whole",
    "ITEM_3": "a gift box is not shown whole",
    "NO_ITEMS": "it shows no wines (params.items)",
    "PARAM_UNKNOWN": "it asks for a param that no message brings",
    "UNREADABLE": "its template syntax cannot be read",
    "INACTIVE": "it is not active",
}


def in_words(codes: Sequence[str]) -> str:
    """Problems as one line for a person."""
    said = []
    for code in codes:
        kind, _, detail = code.partition(":")
        said.append(
            PROBLEMS.get(kind, "an item is not shown whole" if kind.startswith("ITEM_") else kind)
            + (f" ({detail})" if detail else "")
        )
    return "; ".join(said)


@dataclass
class Page:
    """What a reader sees of an HTML message: its text, and its links (target, text).

    `active`: what it holds that a message may not: scripts, forms, pictures over http.
    """

    text: str = ""
    links: list[tuple[str, str]] = field(default_factory=list)
    active: list[str] = field(default_factory=list)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.page = Page()
        self.pieces: list[str] = []
        # Of each open element: tag, whether it is shown, colours of its text and of what lies behind it.
        self.open: list[tuple[str, bool, str, str]] = []
        self.link: tuple[str, int] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = {name: value or "" for name, value in attrs}
        if tag in _ACTIVE or any(name.startswith("on") for name in said):
            self.page.active.append(tag)
        if re.match(r"\s*(javascript|vbscript|data):", said.get("href", ""), re.IGNORECASE):
            self.page.active.append("link")
        if tag == "img" and not said.get("src", "").lower().startswith(("https:", "cid:")):
            self.page.active.append("img")
        if tag in _BLOCKS:
            self.pieces.append("\n")
        if tag in _VOID:
            return
        _, shown, colour, behind = self.open[-1] if self.open else ("", True, "", "")
        style = said.get("style", "")
        colour = _colour(_COLOUR, style) or colour
        behind = _colour(_BACKGROUND, style) or said.get("bgcolor", "").strip().lower() or behind
        hidden = tag in _NOT_SHOWN or "hidden" in said or bool(_HIDING.search(style)) or (colour and colour == behind)
        self.open.append((tag, shown and not hidden, colour, behind))
        if tag == "a":
            self.link = (said.get("href", ""), len(self.pieces))

    def handle_endtag(self, tag: str) -> None:
        if tag == "a" and self.link:
            target, start = self.link
            self.page.links.append((target, "".join(self.pieces[start:]).strip()))
            self.link = None
        if any(tag == name for name, *_ in self.open):
            while self.open.pop()[0] != tag:
                pass
        if tag in _BLOCKS:
            self.pieces.append("\n")

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1][1]:
            self.pieces.append(data)


def _colour(pattern: re.Pattern[str], style: str) -> str:
    found = pattern.search(style)
    if not found:
        return ""
    colour = found[1].strip().lower()
    short = re.fullmatch(r"#([0-9a-f])([0-9a-f])([0-9a-f])", colour)
    return "#" + "".join(digit * 2 for digit in short.groups()) if short else {"white": "#ffffff"}.get(colour, colour)


def read(html: str) -> Page:
    """What a reader sees of an HTML message."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    lines = (" ".join(line.split()) for line in "".join(reader.pieces).split("\n"))
    reader.page.text = "\n".join(line for line in lines if line)
    return reader.page


def text_of(html: str) -> str:
    """The text that a reader sees of an HTML message, a line per block."""
    return read(html).text


def _words(text: str) -> str:
    """A text as its words in lower case, one space around each: spelling counts, typography does not."""
    words = re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold())
    return f" {' '.join(words)} "


def check_message(
    html: str,
    subject: str,
    tenant: Tenant,
    rules: BusinessRules,
    items: Sequence[Mapping[str, Any]] | None = None,
) -> list[str]:
    """What is wrong with a message as rendered, by code; nothing when it may leave.

    Missing: LEGAL_NAME, ADDRESS, SIREN, WHY, UNSUBSCRIBE, ALCOHOL_FRENCH, ALCOHOL_TRANSLATED (or before the French),
    MINORS, MINORS_TRANSLATED, NO_SUBJECT; of each of `items` (its params' items), ITEM_1:price …. Found:
    FORBIDDEN_WORD:…, SUBJECT_FORBIDDEN_WORD:…, SUBJECT_NOT_ONE_LINE, TEMPLATE_SYNTAX and SUBJECT_TEMPLATE_SYNTAX (what
    Brevo would read, beside its own links), NOT_SAFE (script, form, picture over http), TOO_LONG (Gmail would cut it,
    and the unsubscribe link with it).
    """
    page = read(html)
    found = _notices_missing(page, tenant)
    found += _subject_problems(subject, rules)
    said = page.text
    for number, item in enumerate(items or (), start=1):
        found += [f"ITEM_{number}:{piece}" for piece in _pieces_missing(page, item, tenant)]
        for name in ("name", "sentence"):  # a wine's name is its own
            said = said.replace(" ".join(str(item.get(name, "")).split()), " ")
    found += [f"FORBIDDEN_WORD:{word}" for word in forbidden_words(said, rules)]
    if _SYNTAX.search(_BREVO_FILLS.sub("", _without_styles(html))):
        found.append("TEMPLATE_SYNTAX")
    if page.active:
        found.append("NOT_SAFE")
    if len(html.encode()) > rules.activation.message_max_bytes:
        found.append("TOO_LONG")
    return found


def _without_styles(html: str) -> str:
    """Rules of CSS end with two braces where one stands in another; Brevo reads nothing into them."""
    return re.sub(r"<style.*?</style>", "", html, flags=re.DOTALL | re.IGNORECASE)


def _notices_missing(page: Page, tenant: Tenant) -> list[str]:
    text, words = page.text, rendering.texts(tenant.locale)
    all_words = _words(text)
    french, own = rendering.texts("fr")["legal"], words["legal"]
    siren = r"[\s.\u00a0]?".join(tenant.siren)
    # The country may be left out of an address that names its town.
    parts = [part for part in tenant.address.split(",") if part.strip()]
    parts = parts[:-1] if len(parts) > 2 and not re.search(r"\d", parts[-1]) else parts
    is_there = {
        "LEGAL_NAME": _words(tenant.legal_name) in all_words,
        "ADDRESS": all(_words(part) in all_words for part in parts),
        "SIREN": re.search(rf"(?<!\d){siren}(?!\d)|(?<!\d){siren}[\s.\u00a0]?\d{{5}}(?!\d)", text) is not None,
        "WHY": any(_words(beginning) in all_words for beginning in words["email"]["why"]["begins"]),
        "UNSUBSCRIBE": any(_unsubscribes(*link, tenant) for link in page.links),
        "ALCOHOL_FRENCH": _words(french["alcohol"]) in all_words,
        "ALCOHOL_TRANSLATED": _words(own["alcohol"]) in all_words,
        "MINORS": _words(french["minors"]) in all_words,
        "MINORS_TRANSLATED": _words(own["minors"]) in all_words,
    }
    if tenant.locale != "fr":
        # Translated after it (spec.md §7), so that the sentence of the law comes first.
        is_there["ALCOHOL_TRANSLATED"] &= all_words.find(_words(own["alcohol"])) > all_words.find(
            _words(french["alcohol"])
        )
    missing = [code for code, there in is_there.items() if not there]
    return [code for code in missing if tenant.locale != "fr" or not code.endswith("_TRANSLATED")]


def _unsubscribes(target: str, text: str, tenant: Tenant) -> bool:
    """Whether a link that can be seen ends the messages: Brevo's own, or a mail to the estate that says so."""
    if not text:
        return False
    if _UNSUBSCRIBE.match(target):
        return True
    said = f"{target} {text}".casefold()
    wording = {
        word for locale in {tenant.locale, "fr"} for word in rendering.texts(locale)["email"]["unsubscribe_words"]
    }
    return target.startswith("mailto:") and "@" in target and any(word in said for word in wording)


def _subject_problems(subject: str, rules: BusinessRules) -> list[str]:
    found = []
    if not subject.strip():
        found.append("NO_SUBJECT")
    if subject != rendering.harmless(subject) or "\n" in subject or "\t" in subject:
        found.append("SUBJECT_NOT_ONE_LINE")
    if _SYNTAX.search(subject):
        found.append("SUBJECT_TEMPLATE_SYNTAX")
    return found + [f"SUBJECT_FORBIDDEN_WORD:{word}" for word in forbidden_words(subject, rules)]


def _pieces_missing(page: Page, item: Mapping[str, Any], tenant: Tenant) -> list[str]:
    """The pieces of an item that the message does not show, by name (spec.md §7)."""
    is_gift_box = item.get("unit") == messages.GIFT_BOX
    needed = ["name", "price"] if is_gift_box else ["name", "vintage", "format", "price", "carton", "sold_by"]
    try:
        (shown,) = messages.brevo_params({"items": [item]}, tenant)["items"]
    except KeyError as error:
        return [str(error.args[0])]
    words = _words(page.text)
    missing = [piece for piece in needed if not shown.get(piece) or _words(shown[piece]) not in words]
    if shown.get("url"):
        can_be_ordered = any(target == shown["url"] for target, text in page.links if text)
    else:
        can_be_ordered = any(target.startswith(("mailto:", "tel:")) for target, text in page.links if text)
        can_be_ordered |= bool(tenant.phone) and re.sub(r"\D", "", tenant.phone) in re.sub(r"\D", "", page.text)
    return missing if can_be_ordered else [*missing, "link"]


class KeptAtBrevo(Protocol):
    """A template kept at Brevo, as it was fetched."""

    @property
    def subject(self) -> str: ...

    @property
    def html(self) -> str: ...


def check_brevo_template(
    template: KeptAtBrevo, tenant: Tenant, rules: BusinessRules, *, needs_items: bool = True
) -> list[str]:
    """What is wrong with a template kept at Brevo, filled in as it would be; codes of `check_message`, and:

    UNREADABLE: its template syntax is none that is known. PARAM_UNKNOWN:…: asks for a param that no message brings, and
    would be rendered empty. NO_ITEMS: shows no wines, which a campaign of recommendations needs (`needs_items`).
    """
    items = sample_items(tenant, rules)
    asked: set[str] = set()
    try:
        html = filled(template.html, tenant, items, asked)
        subject = filled(template.subject, tenant, items, asked)
    except UNREADABLE:
        return ["UNREADABLE"]
    shows_items = bool(re.search(r"params\.items", template.html))
    found = check_message(html, subject, tenant, rules, items if shows_items else None)
    found += [f"PARAM_UNKNOWN:{name}" for name in sorted(asked)]
    if needs_items and not shows_items:
        found.append("NO_ITEMS")
    return found


def sample_items(tenant: Tenant, rules: BusinessRules) -> list[dict[str, Any]]:
    """Invented items: a bottle with link and picture, one sold by the carton without, a gift box."""
    euros = lambda amount: rendering.euros(amount, tenant.locale)  # noqa: E731
    carton = rules.activation.carton_bottles
    page = "https://estate.example/wine"
    wine = {"vintage": "2021", "format": "75 cl", "carton_bottles": carton}
    return [
        {
            "name": "Riesling Zinnkoepflé",
            "unit": messages.BOTTLE,
            "price": euros(14.5),
            "price_carton": euros(14.5 * carton),
            "sold_by": 1,
            "sentence": "Un vin blanc sec, droit et salin.",
            "url": page,
            "image_url": f"{page}.jpg",
            **wine,
        },
        {
            **wine,
            "name": "Pinot Gris Clos Sainte-Odile",
            "vintage": "2019",
            "format": "50 cl",
            "unit": messages.BOTTLE,
            "price": euros(21.3),
            "price_carton": euros(21.3 * carton),
            "sold_by": carton,
            "sentence": "Un vin blanc moelleux, ample et rond.",
            "url": None,
        },
        {
            "name": "Coffret des Quatre Terroirs",
            "unit": messages.GIFT_BOX,
            "price": euros(59.9),
            "sentence": "Quatre vins, quatre lieux.",
            "url": f"{page}s",
        },
    ]


class _Params(dict[str, Any]):
    """Params as a template asks for them: what no message brings is noted, and empty."""

    def __init__(self, values: Mapping[str, Any], allowed: set[str], place: str, asked: set[str]) -> None:
        super().__init__(values)
        self.allowed, self.place, self.asked = allowed, place, asked

    def __missing__(self, name: str) -> str:
        if name not in self.allowed:
            self.asked.add(f"{self.place}{name}")
        return ""


class _Filters(dict[str, Callable[..., Any]]):
    """Filters of Brevo's language that change how a value is written: here they change nothing."""

    def __missing__(self, name: str) -> Callable[..., Any]:
        return lambda value, *_: value

    def get(self, name: str, default: Any = None) -> Any:
        return self[name]

    def __contains__(self, name: object) -> bool:
        return True


class _Brevo(ImmutableSandboxedEnvironment):
    """Brevo's template language as far as a template that shows a message needs it: Django's, read by Jinja2.

    Arithmetic is refused: a template could fill the memory with it.
    """

    intercepted_binops = frozenset(["*", "**", "+", "-", "/", "//", "%"])

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        raise SecurityError(f"arithmetic in a template: {operator}")

    def getattr(self, obj: Any, attribute: str) -> Any:
        return obj[attribute] if isinstance(obj, _Params) else super().getattr(obj, attribute)


def filled(source: str, tenant: Tenant, items: Sequence[Mapping[str, Any]], asked: set[str] | None = None) -> str:
    """A template kept at Brevo as it would be filled for one message; what Brevo knows of the contact is left empty.

    `asked`: takes the names of the params it asked for that no message brings. A template that cannot be read raises
    one of UNREADABLE.
    """
    asked = set() if asked is None else asked
    environment = _Brevo(autoescape=True, undefined=jinja2.ChainableUndefined, extensions=["jinja2.ext.do"])
    environment.filters = _Filters(
        {
            name: jinja2.defaults.DEFAULT_FILTERS[name]
            for name in ("safe", "escape", "upper", "lower", "title", "default")
        }
    )
    environment.filters["slice"] = _first
    environment.globals = {}
    listed = messages.brevo_params({"items": items}, tenant)["items"]
    fields = {name for item in listed for name in item}
    shown = [_Params(item, fields, "items.", asked) for item in listed]
    values = {
        "params": _Params({"items": shown}, set(), "", asked),
        **{name: Markup(f"{{{{ {name} }}}}") for name in ("unsubscribe", "mirror", "update_profile")},
    }
    return environment.from_string(_as_jinja(source)).render(values)


def _first(rows: Any, span: str) -> Any:
    """The first rows, as `slice:":3"` asks for them."""
    count = str(span).removeprefix(":")
    return rows[: int(count)] if str(span).startswith(":") and count.isdecimal() else rows


def _as_jinja(source: str) -> str:
    """Brevo's language in Jinja2's spelling: arguments of filters, the counters of a loop, `empty`, `verbatim`."""

    def tag(found: re.Match[str]) -> str:
        inside = re.sub(r"\|\s*(\w+)\s*:\s*('[^']*'|\"[^\"]*\"|[\w.]+)", r"|\1(\2)", found[0])
        inside = re.sub(r"\bforloop\.counter0\b", "loop.index0", inside)
        inside = re.sub(r"\bforloop\.counter\b", "loop.index", inside)
        inside = re.sub(r"\bforloop\.(first|last)\b", r"loop.\1", inside)
        inside = re.sub(r"\{%(-?)\s*empty\s*(-?)%\}", r"{%\1 else \2%}", inside)
        inside = re.sub(r"\{%(-?)\s*(end)?verbatim\s*(-?)%\}", r"{%\1 \2raw \3%}", inside)
        inside = re.sub(r"\{%(-?)\s*autoescape\s+off\s*(-?)%\}", r"{%\1 autoescape false \2%}", inside)
        return re.sub(r"\{%(-?)\s*autoescape\s+on\s*(-?)%\}", r"{%\1 autoescape true \2%}", inside)

    return re.sub(r"\{\{.*?\}\}|\{%.*?%\}", tag, source, flags=re.DOTALL)


def check_campaign(campaign: Campaign, tenant: Tenant, rules: BusinessRules) -> dict[str, list[str]]:
    """What is wrong with a campaign's messages made with our own templates, before there are any: each step and arm
    with each template that it can have, rendered with `sample_items`.

    Key: step 1, arm A, rebuy; value: codes of `check_message`. Empty: nothing is wrong.
    """
    items = sample_items(tenant, rules) if campaign.kind == "reco" else []
    scenarios: Sequence[str] = [messages.NEWS]
    if campaign.kind == "reco":
        scenarios = campaign.audience.scenarios or messages.SCENARIOS
    found: dict[str, list[str]] = {}
    for step, arm in campaign.variants:
        for kind in sorted({campaign.template_of(scenario, step, arm) for scenario in scenarios} & set(messages.KINDS)):
            html = messages.render(campaign, tenant, {"items": items}, kind=kind, arm=arm, step=step)
            said = campaign.says(step, arm)
            wrong = check_message(html, said.subject[tenant.locale], tenant, rules, items)
            if _SYNTAX.search(said.text.get(tenant.locale, "")):
                wrong.append("TEXT_TEMPLATE_SYNTAX")
            if wrong:
                found[", ".join([f"step {step}", *([f"arm {arm}"] if arm else []), kind])] = wrong
    return found


def require_fit(campaign: Campaign, tenant: Tenant, rules: BusinessRules) -> None:
    """RefusalError TEMPLATE_UNFIT that says what is wrong with a campaign's messages made with our own templates."""
    if campaign.channel != "email":
        return
    if found := check_campaign(campaign, tenant, rules):
        wrong = sorted({code for codes in found.values() for code in codes})
        where = "; ".join(list(found)[:_SHOWN]) + (" …" if len(found) > _SHOWN else "")
        raise RefusalError(
            TEMPLATE_UNFIT, f"messages of campaign {campaign.name} may not be sent: {in_words(wrong)} (in {where})"
        )
