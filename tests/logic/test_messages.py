"""What a message says: the pieces of each item, its kinds and languages, what it must have; nothing in it is obeyed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import pytest

from crm_assets import rendering
from crm_assets import rules as rules_module
from crm_assets.campaigns import Campaign, forbidden_words
from crm_assets.logic import message_checks, messages
from crm_assets.logic.activation import RefusalError
from crm_assets.logic.message_checks import text_of
from crm_assets.settings import ROOT
from crm_assets.tenants import Tenant, load_tenant
from tests.logic import estate
from tests.logic.estate import item, items, product, products

RULES = rules_module.load()


def campaign(**changes: Any) -> Campaign:
    settings: dict[str, Any] = {"name": "spring", "kind": "reco", "subject": {"fr": "Notre sélection"}}
    return Campaign.model_validate({**settings, **changes})


def params(*rows: dict[str, Any], locale: str = "fr") -> dict[str, Any]:
    """What the message of one customer says of these products."""
    shown = products(*(rows or (product("p1"), product("p2"))))
    pieces, lacking = messages.product_pieces(shown, True, locale, RULES)
    assert not lacking
    listed = items(*[item("c1", key, rank) for rank, key in enumerate(shown["product_key"], start=1)])
    return dict(messages.message_items(listed, pieces)[0].iloc[0]["params"])


class TestWhatAMessageSays:
    def shown(self, *rows: dict[str, Any], **given: Any) -> tuple[dict[str, Any], dict[str, list[str]]]:
        return messages.product_pieces(products(*rows), given.get("can_order", True), given.get("locale", "fr"), RULES)

    def test_every_piece_of_an_item(self) -> None:
        made = params()["items"][0]
        assert made == {
            "name": "Riesling p1",
            "vintage": "2022",
            "format": "75\u00a0cl",
            "unit": "bottle",
            "price": "15,00\u00a0€",
            "price_carton": "90,00\u00a0€",
            "carton_bottles": 6,
            "sold_by": 1,
            "sentence": "Un riesling droit et salin.",
            "url": None,
        }

    @pytest.mark.parametrize(
        ("changes", "lacks"),
        [
            ({"label": None}, ["name"]),
            ({"label": " "}, ["name"]),
            ({"format_cl": None}, ["format"]),
            ({"price_ttc": None}, ["price"]),
            ({"price_ttc": 0.0}, ["price"]),
            ({"is_price_estimated": True}, ["price"]),
            ({"label": None, "price_ttc": None}, ["name", "price"]),
        ],
    )
    def test_a_product_that_lacks_a_piece_is_refused(self, changes: dict[str, Any], lacks: list[str]) -> None:
        pieces, lacking = self.shown(product("p1", **changes), product("p2"))
        assert list(pieces) == ["p2"]
        assert lacking == {"p1": lacks}

    def test_a_link_is_needed_where_nobody_can_be_answered_or_called(self) -> None:
        rows = product("p1"), product("p2", url="https://demo.example.com/p2")
        assert self.shown(*rows, can_order=False)[1] == {"p1": ["link"]}
        assert self.shown(*rows, can_order=True)[1] == {}

    def test_a_wine_without_any_vintage_says_so_and_a_missing_vintage_is_refused(self) -> None:
        pieces, lacking = self.shown(
            product("p1", vintage=None, label="Crémant Brut"),
            product("p2", vintage=None),
            product("p3", wine_id="w2"),
        )
        assert pieces["p1"]["vintage"] == "non millésimé"
        assert lacking == {"p2": ["vintage"]}

    @pytest.mark.parametrize(
        ("sold_by", "carton", "multiple"),
        [(1, 6, 1), (3, 6, 3), (6, 6, 6), (12, 12, 12), (None, 6, 1), (4, 8, 4)],
    )
    def test_a_carton_is_a_multiple_of_what_is_sold(self, sold_by: int | None, carton: int, multiple: int) -> None:
        piece = self.shown(product("p1", sold_by=sold_by))[0]["p1"]
        assert (piece["carton_bottles"], piece["sold_by"]) == (carton, multiple)
        assert piece["price_carton"] == f"{15 * carton},00\u00a0€"

    def test_a_gift_box_says_its_name_and_price_and_nothing_of_bottles(self) -> None:
        box = product("p1", kind="gift_box", label="Coffret Noël 2025", vintage=None, format_cl=None, sold_by=6)
        pieces, lacking = self.shown(box, product("p2"))
        assert lacking == {}
        assert pieces["p1"] == {
            "name": "Coffret Noël 2025",
            "unit": "gift_box",
            "price": "15,00\u00a0€",
            "url": None,
        }
        linked = {**pieces["p1"], "sentence": "Un coffret.", "url": "https://demo.example.com/p1"}
        html = messages.render(campaign(), estate.tenant(), {"items": [linked]}, kind="rebuy")
        assert "Voir ce coffret" in html
        assert "15,00 € TTC le coffret" in text_of(html)
        assert not re.search("non millésimé|carton|bouteille|\u00a0cl<", html)
        assert self.shown({**box, "price_ttc": None, "label": None})[1] == {"p1": ["name", "price"]}

    @pytest.mark.parametrize(
        ("changes", "price"),
        [
            ({"format_cl": 500.0}, "TTC l&#39;unité"),
            ({"label": "BIB Pinot Noir"}, "TTC l&#39;unité"),
            ({"label": "Biblis Riesling", "format_cl": 150.0}, "TTC la bouteille"),
        ],
    )
    def test_a_bag_in_box_is_not_priced_as_a_bottle(self, changes: dict[str, Any], price: str) -> None:
        piece = self.shown(product("p1", **changes))[0]["p1"]
        html = messages.render(campaign(), estate.tenant(), {"items": [{**piece, "sentence": "Un vin."}]}, kind="rebuy")
        assert html.count(price) == 1
        assert ("Vendu à la bouteille" in html) is (price == "TTC la bouteille")

    def test_numbers_are_written_as_the_estate_reads_them(self) -> None:
        row = product("p1", format_cl=37.5, price_ttc=8.5)
        assert self.shown(row, locale="fr")[0]["p1"]["format"] == "37,5\u00a0cl"
        assert self.shown(row, locale="en")[0]["p1"]["price"] == "€8.50"

    def test_the_mail_carries_all_that_the_law_and_the_spec_ask_for(self) -> None:
        html = messages.render(campaign(), estate.tenant(), params(), kind="rebuy")
        text = text_of(html)
        for piece in (
            "EARL Domaine Demo · 12 rue des Vignerons, 68420 Husseren · SIREN 123 456 789",
            "L'abus d'alcool est dangereux pour la santé, à consommer avec modération.",
            "Vente interdite aux mineurs",
            "Vous recevez ce message parce que",
            "Ne plus recevoir nos messages",
            "Pour commander, répondez simplement à ce message ou appelez-nous au +33 3 89 00 00 00.",
            "Riesling p1",
            "15,00 € TTC la bouteille",
            "90,00 € TTC le carton de 6",
        ):
            assert piece in text
        assert 'href="{{ unsubscribe }}"' in html
        assert 'href="mailto:cave@demo.example.com?subject=D%C3%A9sinscription"' in html
        assert "None" not in html

    def test_another_language_keeps_the_notice_in_french(self) -> None:
        tenant = estate.tenant(locale="en")
        html = messages.render(campaign(subject={"en": "Our selection"}), tenant, {"items": []}, kind="rebuy")
        assert "à consommer avec modération" in html
        assert "Alcohol abuse is dangerous" in html

    def test_markup_in_a_label_is_shown_not_obeyed(self) -> None:
        html = messages.render(campaign(), estate.tenant(), params(product("p1", label="Riesling <b>&")), kind="rebuy")
        assert "Riesling &lt;b&gt;&amp;" in html


LOCALES = ("fr", "en", "de")
HOSTILE = (
    "<script>alert(1)</script> {{ 7*7 }} {% raw %} {{ contact.EMAIL }} \"'> [UNSUBSCRIBE] \u202eevil\u2066 \x00\x1b"
)


def said(locale: str, kind: str, **changes: Any) -> tuple[Campaign, Tenant]:
    """A campaign whose messages are made with the template of that kind, in that language."""
    text = {"text": {locale: "17.01."}} if kind == "news" else {}
    about = {"kind": "news" if kind == "news" else "reco", "template": kind, "subject": {locale: "Domaine Demo"}}
    return campaign(**{**about, **text, **changes}), estate.tenant(locale=locale, website="https://demo.example.com")


class TestTemplates:
    @pytest.mark.parametrize("locale", LOCALES)
    @pytest.mark.parametrize("kind", messages.KINDS)
    def test_every_kind_in_every_language_says_what_it_must_and_is_light(self, kind: str, locale: str) -> None:
        made, tenant = said(locale, kind)
        shown = message_checks.sample_items(tenant, RULES)
        html = messages.render(made, tenant, {"items": shown}, kind=kind)
        assert message_checks.check_message(html, "Domaine Demo", tenant, RULES, shown) == []
        assert len(html.encode()) < 12_000
        assert f'<html lang="{locale}"' in html
        wording = rendering.texts(locale)["email"]["kinds"][kind]
        assert wording.get("heading", "Domaine Demo") in text_of(html)

    @pytest.mark.parametrize("locale", LOCALES)
    @pytest.mark.parametrize("kind", messages.KINDS)
    def test_the_plain_text_says_the_same(self, kind: str, locale: str) -> None:
        made, tenant = said(locale, kind)
        shown = message_checks.sample_items(tenant, RULES)
        text = messages.render_text(made, tenant, {"items": shown}, kind=kind)
        for one in messages.brevo_params({"items": shown}, tenant)["items"]:
            for name in {*one} - {"image_url"}:
                assert one[name] in text
        legal = rendering.texts("fr")["legal"], rendering.texts(locale)["legal"]
        for piece in (*legal[0].values(), *legal[1].values(), tenant.legal_name, tenant.address, "{{ unsubscribe }}"):
            assert piece in text
        assert "None" not in text
        assert "&#" not in text
        assert "<" not in text

    def test_nothing_is_fetched_but_the_pictures_of_the_wines(self) -> None:
        made, tenant = said("fr", "rebuy")
        html = messages.render(made, tenant, {"items": message_checks.sample_items(tenant, RULES)}, kind="rebuy")
        assert re.findall(r'src="([^"]*)"', html) == ["https://estate.example/wine.jpg"]
        assert 'alt="Riesling Zinnkoepflé"' in html
        assert not re.search(r"<link|@import|url\(|<script|<iframe|background=", html)

    def test_a_campaigns_own_text_stands_above_the_wines(self) -> None:
        made = campaign(text={"fr": "Un mot\nde nous.\n\nEt un autre."})
        text = text_of(messages.render(made, estate.tenant(), params(), kind="upsell"))
        lead = rendering.texts("fr")["email"]["kinds"]["upsell"]["lead"]
        assert f"Un mot de nous.\nEt un autre.\n{' '.join(lead.split())}\n" in text
        assert "Vous connaissez nos vins." not in text

    def test_each_arm_and_step_says_its_own(self) -> None:
        made = campaign(
            subject={"fr": "Commun"},
            arms={"A": {"share": 0.5}, "B": {"share": 0.5, "subject": {"fr": "De B"}, "text": {"fr": "Texte de B."}}},
            steps=[{"after_days": 0}, {"after_days": 20, "subject": {"fr": "Relance"}, "template": "winback"}],
        )
        tenant = estate.tenant()
        assert [messages.subject_of(made, tenant, arm, 1) for arm in (None, "A", "B")] == ["Commun", "Commun", "De B"]
        assert messages.subject_of(made, tenant, "B", 2) == "Relance"
        html = messages.render(made, tenant, params(), kind="upsell", arm="B", step=1)
        assert "Texte de B." in html
        assert "Texte de B." not in messages.render(made, tenant, params(), kind="upsell", arm="A", step=1)

    def test_who_may_be_a_professional_is_told_so(self) -> None:
        private = text_of(messages.render(campaign(), estate.tenant(), params(), kind="rebuy"))
        mixed = campaign(audience={"types": ["private", "horeca"]})
        assert "métiers du vin" not in private
        assert "métiers du vin" in text_of(messages.render(mixed, estate.tenant(), params(), kind="rebuy"))

    @pytest.mark.parametrize(
        ("changes", "shown"),
        [
            ({"phone": ""}, "Pour commander, répondez simplement à ce message."),
            ({"brevo": {}}, "Pour commander, appelez-nous au +33 3 89 00 00 00."),
        ],
    )
    def test_only_ways_to_order_that_exist_are_offered(self, changes: dict[str, Any], shown: str) -> None:
        assert shown in text_of(messages.render(campaign(), estate.tenant(**changes), params(), kind="rebuy"))

    def test_news_without_wines_say_how_to_ask(self) -> None:
        made, tenant = said("fr", "news")
        html = messages.render(made, tenant, {"items": []}, kind="news")
        assert "Une question ? Répondez simplement à ce message ou appelez-nous" in text_of(html)
        assert "Pour commander" not in html


class TestWording:
    @pytest.mark.parametrize("locale", LOCALES)
    def test_no_wording_holds_a_forbidden_word(self, locale: str) -> None:
        words = (rendering.FOLDER / f"email_{locale}.yaml").read_text(encoding="utf-8")
        assert forbidden_words(words, RULES) == []

    @pytest.mark.parametrize("name", sorted({*messages.TEMPLATES.values(), messages.TEXT_TEMPLATE}))
    def test_no_template_holds_a_forbidden_word(self, name: str) -> None:
        shown = re.sub(
            r"<[^>]*>|\{#.*?#\}", " ", (rendering.FOLDER / name).read_text(encoding="utf-8"), flags=re.DOTALL
        )
        assert forbidden_words(shown, RULES) == []

    @pytest.mark.parametrize("locale", LOCALES)
    def test_no_message_names_a_segment(self, locale: str) -> None:
        words = rendering.texts(locale)
        kinds = str(words["email"]["kinds"]).casefold()
        names = {code: name.casefold() for code, name in words["segment"].items() if code != "Others"}
        assert not [name for name in names.values() if name in kinds]

    def test_the_languages_have_the_same_sentences(self) -> None:
        def shape(value: Any) -> Any:
            return {key: shape(inner) for key, inner in value.items()} if isinstance(value, dict) else type(value)

        french, english, german = (shape({k: rendering.texts(loc)[k] for k in ("email", "legal")}) for loc in LOCALES)
        assert french == english == german

    @pytest.mark.parametrize("word", RULES.activation.forbidden_words)
    def test_a_forbidden_word_is_found_in_subject_and_text(self, word: str) -> None:
        made = campaign(text={"fr": f"Un vin, {word.upper()}, pour vous."})
        html = messages.render(made, estate.tenant(), params(), kind="rebuy")
        found = message_checks.check_message(html, f"{word} !", estate.tenant(), RULES)
        assert f"FORBIDDEN_WORD:{word}" in found
        assert f"SUBJECT_FORBIDDEN_WORD:{word}" in found

    def test_a_wines_name_is_its_own(self) -> None:
        shown = params(product("p1", label="Cuvée Cadeau 2022"))
        html = messages.render(campaign(), estate.tenant(), shown, kind="rebuy")
        assert message_checks.check_message(html, "Bonjour", estate.tenant(), RULES, shown["items"]) == []


class TestTypography:
    def test_no_line_begins_or_ends_with_a_french_sign(self) -> None:
        text = "Il reste 10 % ; venez  !\n« Bon » :\u202f5\u00a0€\n \nEt après ?"
        assert messages._paragraphs(text, "fr") == [
            "Il reste 10\u00a0%\u00a0; venez\u00a0! «\u00a0Bon\u00a0»\u00a0:\u202f5\u00a0€", "Et après\u00a0?"
        ]  # fmt: skip
        assert messages._paragraphs("What ? 5\u00a0€", "en") == ["What ? 5\u00a0€"]

    @pytest.mark.parametrize(
        ("locale", "said"), [("fr", "messages\u00a0: {{ unsub"), ("en", "Unsubscribe: {{"), ("de", "erhalten: {{")]
    )
    def test_a_colon_of_plain_text_is_the_languages(self, locale: str, said: str) -> None:
        made = campaign(subject={locale: "Subject"})
        assert said in messages.render_text(made, estate.tenant(locale=locale), params(), kind="rebuy")

    def test_a_number_written_for_both_countries_can_be_dialled(self) -> None:
        html = messages.render(campaign(), estate.tenant(phone="+33 (0)3 89 00 00 00"), params(), kind="rebuy")
        assert 'href="tel:+33389000000"' in html


class TestHostileData:
    def hostile(self) -> tuple[Campaign, dict[str, Any], str]:
        made = campaign(subject={"fr": HOSTILE}, text={"fr": HOSTILE})
        shown = params(product("p1", label=HOSTILE, url='https://demo.example.com/{{7*7}}"><b>?a=1&b=%C3%A9'))
        shown["items"][0]["sentence"] = HOSTILE
        return made, shown, messages.render(made, estate.tenant(name=HOSTILE), shown, kind="rebuy")

    def test_data_are_shown_and_never_obeyed(self) -> None:
        _, _, html = self.hostile()
        assert re.findall(
            r"\{.\}|\{\{[^}]*\}\}|\{%|%\}|\{#", re.sub(r"<style.*?</style>", "", html, flags=re.DOTALL)
        ) == ["{{ unsubscribe }}"]
        assert "<script" not in html
        assert "<b>?a" not in html
        assert "[" not in re.sub(r"<!\[endif\]-->|<!--\[if mso\]>", "", html)
        assert not re.search("[\u202a-\u202e\u2066-\u2069\x00-\x08\x1b]", html)
        shown = text_of(html)
        assert "<script>alert(1)</script> {{ 7*7 }} {% raw %} {{ contact.EMAIL }}" in shown
        assert 'href="https://demo.example.com/%7B%7B7*7%7D%7D%22%3E%3Cb%3E?a=1&amp;b=%C3%A9"' in html

    def test_the_plain_text_and_the_params_hold_no_template_syntax(self) -> None:
        made, shown, _ = self.hostile()
        text = messages.render_text(made, estate.tenant(name=HOSTILE), shown, kind="rebuy")
        assert re.findall(r"[{\[].", text) == ["{{"]
        assert "{{ unsubscribe }}" in text
        (item,) = messages.brevo_params(shown, estate.tenant())["items"]
        assert not re.search(r"[{}\[\]\u202e\x00]", "".join(item.values()))

    def test_a_name_without_a_space_does_not_push_the_price_off_the_screen(self) -> None:
        html = messages.render(campaign(), estate.tenant(), params(product("p1", label="X" * 200)), kind="rebuy")
        assert re.search(r'<table[^>]*class="card"[^>]*overflow-wrap:anywhere', html)

    @pytest.mark.parametrize(
        ("written", "sent"),
        [
            ("Bonjour\r\nBcc: a@example.com", "Bonjour Bcc: a@example.com"),
            ("Bon\u2028jour\x00", "Bonjour"),
            ("{{ contact.EMAIL }} {% x %}", "(( contact.EMAIL )) (% x %)"),
            ("\u202eruojnoB", "ruojnoB"),
        ],
    )
    def test_a_subject_is_one_line_and_no_header_can_be_added(self, written: str, sent: str) -> None:
        made = campaign(subject={"fr": written})
        assert messages.subject_of(made, estate.tenant()) == sent
        wrong = message_checks.check_campaign(made, estate.tenant(), RULES)
        assert any(code.startswith("SUBJECT_") for codes in wrong.values() for code in codes)

    @pytest.mark.parametrize(
        ("url", "link"),
        [
            ("https://demo.example.com/p?a=b#c", "https://demo.example.com/p?a=b#c"),
            ("http://demo.example.com", "http://demo.example.com"),
            (" HTTPS://demo.example.com/é ", "https://demo.example.com/%C3%A9"),
            ("https://vignoble-müller.example/", "https://xn--vignoble-mller-psb.example/"),
            ("javascript:alert(1)", None),
            ("data:text/html,x", None),
            ("//demo.example.com", None),
            ("https://user:pass@demo.example.com", None),
            ("https://demo.example.com:port/", None),
            ("https://demo example.com", None),
            ("https://\u202edemo.example.com", None),
            ("voir le site", None),
            (None, None),
        ],
    )
    def test_a_link_is_the_address_of_a_page_or_none(self, url: str | None, link: str | None) -> None:
        rows = products(product("p1", url=url))
        pieces, lacking = messages.product_pieces(rows, False, "fr", RULES)
        assert (pieces["p1"]["url"] if link else lacking) == (link or {"p1": ["link"]})

    @pytest.mark.parametrize(
        ("image", "shown"),
        [("https://demo.example.com/p.jpg", True), ("http://demo.example.com/p.jpg", False), ("p.jpg", False)],
    )
    def test_a_picture_is_shown_only_by_https(self, image: str, shown: bool) -> None:
        html = messages.render(campaign(), estate.tenant(), params(product("p1", image_url=image)), kind="rebuy")
        assert ("<img" in html) is shown


# What makes each piece of a message disappear: code, pattern, what stands there instead.
MUTILATIONS = [
    ("LEGAL_NAME", r"EARL Domaine Demo", "Domaine Demo"),
    ("ADDRESS", r"68420 Husseren", "Husseren"),
    ("SIREN", r"123\s456\s789", "123\u00a0456\u00a0780"),
    ("WHY", r"Vous recevez ce message parce que", "Parce que"),
    ("UNSUBSCRIBE", r'<a [^>]*href="(\{\{ unsubscribe \}\}|mailto:[^"]*sinscription)".*?</a>', "Au revoir"),
    ("ALCOHOL_FRENCH", r"à consommer avec modération", "à consommer"),
    ("MINORS", r"Vente interdite aux mineurs", "Vente aux majeurs"),
    ("ITEM_1:name", r"Riesling Zinnkoepflé", "Riesling"),
    ("ITEM_1:vintage", r"\b2021\b", ""),
    ("ITEM_1:format", r"\b75\scl", ""),
    ("ITEM_1:price", r"14,50\s€", "sur demande"),
    ("ITEM_1:carton", r"87,00\s€", "sur demande"),
    ("ITEM_1:link", r'href="https://estate.example/wine"', 'href="https://demo.example.com"'),
    ("ITEM_2:sold_by", r"par multiples de 6", "au détail"),
    ("ITEM_2:link", r'href="(mailto|tel):[^"]*"|\+33 3 89 00 00 00', ""),
    ("ITEM_3:price", r"TTC le coffret", "HT le coffret"),
    ("FORBIDDEN_WORD:gratuit", r"Bonjour,", "C'est gratuit :"),
    ("NOT_SAFE", r"</body>", "<script>1</script></body>"),
    ("NOT_SAFE", r"https://estate.example/wine.jpg", "http://estate.example/wine.jpg"),
    ("NOT_SAFE", r'href="https://estate.example/wines"', 'href="javascript:x()"'),
    ("TOO_LONG", r"</body>", "<!--" + "x" * 100_000 + "--></body>"),
]

# Not seen is not said.
WAYS_OF_HIDING = [
    "<!-- {} -->",
    '<p style="display: none">{}</p>',
    '<div style="visibility:hidden"><p>{}</p></div>',
    '<p style="font-size:0px">{}</p>',
    '<td style="background:#FFF"><p style="color:#ffffff">{}</p></td>',
    "<style>{}</style>",
    '<img alt="{}" src="https://demo.example.com/p.jpg">',
    "<p hidden>{}</p>",
]


class TestChecks:
    def ours(self) -> tuple[str, list[dict[str, Any]]]:
        made, tenant = said("fr", "rebuy")
        shown = message_checks.sample_items(tenant, RULES)
        return messages.render(made, tenant, {"items": shown}, kind="rebuy"), shown

    @pytest.mark.parametrize(("code", "pattern", "instead"), MUTILATIONS)
    def test_a_piece_that_is_missing_is_found(self, code: str, pattern: str, instead: str) -> None:
        html, shown = self.ours()
        mutilated = re.sub(pattern, instead, html, flags=re.DOTALL)
        assert mutilated != html
        assert code in message_checks.check_message(mutilated, "Bonjour", estate.tenant(), RULES, shown)

    @pytest.mark.parametrize("hiding", WAYS_OF_HIDING)
    def test_what_no_reader_sees_is_not_said(self, hiding: str) -> None:
        html, _ = self.ours()
        hidden = html.replace("Vente interdite aux mineurs.", hiding.format("Vente interdite aux mineurs."))
        assert message_checks.check_message(hidden, "Bonjour", estate.tenant(), RULES) == ["MINORS"]

    def test_a_link_that_nobody_sees_ends_nothing(self) -> None:
        html, _ = self.ours()
        unseen = re.sub(r"(<a [^>]*(unsubscribe|sinscription)[^>]*>).*?</a>", r"\1</a>", html)
        assert message_checks.check_message(unseen, "Bonjour", estate.tenant(), RULES) == ["UNSUBSCRIBE"]

    @pytest.mark.parametrize("locale", ["en", "de"])
    def test_the_notices_stand_in_french_and_are_translated_after_it(self, locale: str) -> None:
        made, tenant = said(locale, "rebuy")
        html = messages.render(made, tenant, {"items": []}, kind="rebuy")
        legal = rendering.texts(locale)["legal"]
        french = messages.rendering.texts("fr")["legal"]["alcohol"].replace("'", "&#39;")
        swapped = html.replace(french, "@").replace(legal["alcohol"], french).replace("@", legal["alcohol"])
        check = message_checks.check_message
        assert check(html.replace(french, ""), "Hello", tenant, RULES) == ["ALCOHOL_FRENCH"]
        assert check(html.replace(legal["alcohol"], ""), "Hello", tenant, RULES) == ["ALCOHOL_TRANSLATED"]
        assert check(html.replace(legal["minors"], ""), "Hello", tenant, RULES) == ["MINORS_TRANSLATED"]
        assert check(swapped, "Hello", tenant, RULES) == ["ALCOHOL_TRANSLATED"]

    def test_an_item_that_lacks_a_piece_is_named(self) -> None:
        html, shown = self.ours()
        shown[0].pop("vintage")
        shown[1].pop("price_carton")
        found = message_checks.check_message(html, "Bonjour", estate.tenant(), RULES, shown)
        assert found == ["ITEM_1:vintage", "ITEM_2:price_carton"]

    def test_every_wording_of_a_campaign_is_checked(self) -> None:
        arms = {"A": {"share": 0.5}, "B": {"share": 0.5, "text": {"fr": "{{ contact.PRENOM }}, c'est gratuit."}}}
        found = message_checks.check_campaign(campaign(arms=arms), estate.tenant(), RULES)
        assert set(found) == {f"step 1, arm B, {kind}" for kind in messages.SCENARIOS}
        assert set(map(tuple, found.values())) == {("FORBIDDEN_WORD:gratuit", "TEXT_TEMPLATE_SYNTAX")}
        assert message_checks.check_campaign(campaign(), estate.tenant(), RULES) == {}
        few = campaign(arms=arms, audience={"scenarios": ["rebuy"]})
        assert set(message_checks.check_campaign(few, estate.tenant(), RULES)) == {"step 1, arm B, rebuy"}

    def test_a_campaign_that_says_what_it_may_not_is_refused_with_all_that_is_wrong(self) -> None:
        wrong = campaign(subject={"fr": "Gratuit"}, text={"fr": "[NOM], urgent"}, audience={"scenarios": ["rebuy"]})
        with pytest.raises(
            RefusalError, match="TEMPLATE_UNFIT: messages of campaign spring may not be sent"
        ) as refused:
            message_checks.require_fit(wrong, estate.tenant(), RULES)
        for piece in ("in its subject (gratuit)", "a forbidden word (urgent)", "template syntax", "(in step 1, rebuy)"):
            assert piece in str(refused.value)
        message_checks.require_fit(campaign(), estate.tenant(), RULES)
        message_checks.require_fit(campaign(channel="phone", subject={}), estate.tenant(), RULES)

    def test_every_code_has_words(self) -> None:
        codes = [code for code, _, _ in MUTILATIONS]
        assert not re.search(r"\b[A-Z]{3,}_[A-Z0-9]+", message_checks.in_words(codes))
        assert "(gratuit)" in message_checks.in_words(["FORBIDDEN_WORD:gratuit"])


AT_BREVO = """<!DOCTYPE html><html><head><style>@media print{p{margin:0}}</style></head><body>
<p>Bonjour{% if contact.PRENOM %} {{ contact.PRENOM|title }}{% endif %},</p>
{% for item in params.items %}
<h2>{{ item.name }}</h2><p>{{ item.vintage }} {{ item.format }}</p><p>{{ item.sentence|default:"" }}</p>
{% if item.image_url %}<img src="{{ item.image_url }}" alt="{{ item.name }}">{% endif %}
<p>{{ item.price }}<br>{{ item.carton }}<br>{{ item.sold_by }}</p>
{% if item.url %}<a href="{{ item.url }}">Voir</a>{% endif %}
{% if not forloop.last %}<hr>{% endif %}
{% empty %}<p>Rien</p>
{% endfor %}
<p>Pour commander : <a href="tel:+33389000000">+33 3 89 00 00 00</a></p>
<p>L\u2019ABUS D\u2019ALCOOL EST DANGEREUX POUR LA SANTÉ. À CONSOMMER AVEC MODÉRATION. Vente interdite aux mineurs.</p>
<p>Vous recevez cet e-mail parce que vous êtes client. <a href="{{ unsubscribe }}">Se désinscrire</a></p>
<p>EARL Domaine Demo<br>12 rue des Vignerons<br>68420 Husseren<br>SIREN 123456789</p>
</body></html>"""


@dataclass
class AtBrevo:
    """A template as Brevo's client reads it."""

    html: str = AT_BREVO
    subject: str = "Bonjour {{ contact.PRENOM }}"
    name: str = "Sélection"
    is_active: bool = True


class TestTemplatesKeptAtBrevo:
    def check(self, template: Any, **options: Any) -> list[str]:
        return message_checks.check_brevo_template(template, estate.tenant(), RULES, **options)

    def test_one_that_has_everything_is_fit(self) -> None:
        assert self.check(AtBrevo()) == []
        old_language = AT_BREVO.replace("{{ unsubscribe }}", "[UNSUBSCRIBE]")
        assert self.check(AtBrevo(old_language)) == []

    def test_the_one_in_the_documentation_is_fit(self) -> None:
        text = (ROOT / "docs" / "tenants.md").read_text(encoding="utf-8")
        demo = load_tenant(ROOT / "tenants" / "demo.yaml")
        html = text.split("```html\n")[1].split("```")[0]
        assert message_checks.check_brevo_template(AtBrevo(html, "Nos vins"), demo, RULES) == []

    @pytest.mark.parametrize(
        ("code", "piece", "instead"),
        [
            ("LEGAL_NAME", "EARL Domaine Demo", "Domaine Demo"),
            ("ADDRESS", "68420 Husseren", "Alsace"),
            ("SIREN", "123456789", "12345678"),
            ("WHY", "Vous recevez cet e-mail parce que vous êtes client.", ""),
            ("UNSUBSCRIBE", "{{ unsubscribe }}", "https://demo.example.com/au-revoir"),
            ("ALCOHOL_FRENCH", "À CONSOMMER AVEC MODÉRATION", ""),
            ("MINORS", "Vente interdite aux mineurs", ""),
            ("ITEM_1:name", "<h2>{{ item.name }}</h2>", ""),
            ("ITEM_1:vintage", "{{ item.vintage }}", ""),
            ("ITEM_1:format", "{{ item.format }}", ""),
            ("ITEM_3:price", "{{ item.price }}", ""),
            ("ITEM_1:carton", "{{ item.carton }}", ""),
            ("ITEM_2:sold_by", "{{ item.sold_by }}", ""),
            ("ITEM_1:link", '<a href="{{ item.url }}">', '<a href="https://demo.example.com">'),
            ("ITEM_2:link", '<a href="tel:+33389000000">+33 3 89 00 00 00</a>', ""),
            ("ITEM_3:price", "{% for item in params.items %}", '{% for item in params.items|slice:":2" %}'),
            ("PARAM_UNKNOWN:items.prix", "{{ item.price }}", "{{ item.price }}{{ item.prix }}"),
            ("PARAM_UNKNOWN:prenom", "Bonjour", "Bonjour {{ params.prenom }}"),
            ("FORBIDDEN_WORD:dernière chance", "Bonjour", "Dernière chance"),
            ("NOT_SAFE", "</body>", "<form></form></body>"),
            ("TEMPLATE_SYNTAX", "Bonjour", "{% verbatim %}{{ x }}{% endverbatim %}"),
            ("UNREADABLE", "{% endfor %}", ""),
            ("UNREADABLE", "Bonjour", "{{ 'x' * 1000000000 }}"),
            ("UNREADABLE", "Bonjour", "{% include 'x' %}"),
            ("UNREADABLE", "Bonjour", "{% for a in 'x'.join(range(9)) %}{% endfor %}"),
        ],
    )
    def test_one_that_lacks_a_piece_is_not(self, code: str, piece: str, instead: str) -> None:
        assert piece in AT_BREVO
        assert code in self.check(AtBrevo(AT_BREVO.replace(piece, instead)))

    def test_its_subject_is_checked_too(self) -> None:
        assert self.check(AtBrevo(subject="Vins gratuits, cadeau")) == ["SUBJECT_FORBIDDEN_WORD:cadeau"]
        assert self.check(AtBrevo(subject="")) == ["NO_SUBJECT"]
        assert self.check(AtBrevo(subject="{{ params.titre }} !")) == ["PARAM_UNKNOWN:titre"]

    def test_recommendations_need_the_wines_and_news_do_not(self) -> None:
        start, end = AT_BREVO.index("{% for"), AT_BREVO.index("{% endfor %}")
        without = AtBrevo(AT_BREVO[:start] + AT_BREVO[end + len("{% endfor %}") :])
        assert self.check(without) == ["NO_ITEMS"]
        assert self.check(without, needs_items=False) == []

    def test_params_are_texts_ready_to_be_shown(self) -> None:
        wine, box = messages.brevo_params(
            params(
                product(
                    "p1", sold_by=6, url="https://demo.example.com/p1", image_url="https://demo.example.com/p1.jpg"
                ),
                product("p2", kind="gift_box", label="Coffret Noël"),
            ),
            estate.tenant(),
        )["items"]
        assert wine == {
            "name": "Riesling p1",
            "vintage": "2022",
            "format": "75\u00a0cl",
            "sentence": "Un riesling droit et salin.",
            "price": "15,00\u00a0€ TTC la bouteille",
            "carton": "90,00\u00a0€ TTC le carton de 6",
            "sold_by": "Vendu par multiples de 6\u00a0bouteilles",
            "url": "https://demo.example.com/p1",
            "image_url": "https://demo.example.com/p1.jpg",
        }
        assert set(box) == {"name", "sentence", "price"}


class TestTemplateHash:
    def made(self, fetched: dict[int, str] | None = None, tenant: dict[str, Any] | None = None, **changes: Any) -> str:
        rules = rules_module.load(changes.pop("rules", {}))
        at_brevo = {"brevo": {"templates": {"noel": 7}, "sender_email": "cave@demo.example.com"}}
        return messages.template_hash_of(
            campaign(**changes), estate.tenant(**{**at_brevo, **(tenant or {})}), rules, fetched or {}
        )

    @pytest.mark.parametrize(
        "changes",
        [
            {"subject": {"fr": "Autre"}},
            {"text": {"fr": "Un mot."}},
            {"template": "welcome"},
            {"arms": {"A": {"share": 0.5}, "B": {"share": 0.5, "text": {"fr": "Autre."}}}},
            {"steps": [{"after_days": 0}, {"after_days": 14, "subject": {"fr": "Relance"}}]},
            {"audience": {"types": ["horeca"]}},
            {"sender_name": "Autre"},
            {"tenant": {"siren": "987654321"}},
            {"tenant": {"website": "https://demo.example.com"}},
            {"rules": {"activation": {"carton_bottles": 12}}},
        ],
    )
    def test_whatever_a_reader_would_see_changes_it(self, changes: dict[str, Any]) -> None:
        assert self.made(**changes) != self.made()

    def test_who_gets_it_does_not(self) -> None:
        assert self.made(audience={"departments": ["68"]}, send_on="2026-01-05", holdout=False) == self.made()

    def test_a_change_of_our_own_templates_and_wording_does(self, monkeypatch: pytest.MonkeyPatch) -> None:
        before, at_brevo = self.made(), self.made({7: "a"}, template="brevo:noel")
        monkeypatch.setattr(rendering, "sources_hash", lambda *_: "other")
        assert self.made() != before
        assert self.made({7: "a"}, template="brevo:noel") == at_brevo  # it is made with neither

    def test_a_change_at_brevo_does(self) -> None:
        assert self.made({7: "a"}, template="brevo:noel") != self.made({7: "b"}, template="brevo:noel")
        assert self.made({7: "a", 8: "b"}, template="brevo:noel") == self.made({7: "a"}, template="brevo:noel")
        with pytest.raises(KeyError):
            self.made(template="brevo:noel")
