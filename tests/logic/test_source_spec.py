"""config/sources/isavigne.yaml against the table of spec.md §2.1, copied here word for word."""

from __future__ import annotations

import re

import pytest

from crm_assets import rules
from crm_assets.logic.landing import load_source

SOURCE = load_source()
MACROS = rules.RULES_FILE.parents[2] / "dbt_project" / "macros"

CODE = "client_code, code_client, customer_code, customer_key, customer_id, id_client, client"
EMAIL = "email, mail, e_mail, email_address, courriel"
KEY = "product_key, produit_key, sku, code_produit, product_id, id_produit"
AROMAS = ("fruit", "floral", "spice", "mineral", "acidity", "body", "tannin")

# dataset.field -> synonyms in the spec's order.
SPEC = {
    "sales_lines.client_code": CODE,
    "sales_lines.document_no": "document_no, document_id, doc_id, doc_ref, invoice, piece, n_piece, no_piece,"
    " num_piece, numero_piece, id_piece, facture, n_facture, no_facture, num_facture, numero_facture, numero, order_id",
    "sales_lines.document_type": "document_type, doc_type, type_document, type_piece",
    "sales_lines.line_no": "order_detail_no, num_ligne, line_no, sale_line_key, sale_id",
    "sales_lines.product_key": KEY,
    "sales_lines.product_label": "product_label, produit_label, produit, designation, libelle, nom_produit,"
    " product_name",
    "sales_lines.article": "article, conditionnement, unite, unit, format",
    "sales_lines.vintage": "millesime, annee, vintage",
    "sales_lines.order_date": "date_commande, order_date, date_piece, date_vente, sold_at",
    "sales_lines.delivery_date": "date_livraison, sale_date, date_sale, date_facture, date",
    "sales_lines.quantity": "qty_line, quantity, qty, quantite, qte, quantity_units",
    "sales_lines.unit_price_ht": "pu_ht, prix_unitaire, price_unit, unit_price",
    "sales_lines.amount_ht": "mt_ht, amount_ht, montant_ht, total_ht, ca_ht",
    "sales_lines.amount_ttc": "mt_ttc, amount_ttc, montant_ttc, total_ttc, ttc, amount, montant, total, ca",
    "sales_lines.margin": "marge, margin",
    "sales_lines.email": EMAIL,
    "sales_lines.postal_code": "code_postal, cp, zip, postal_code",
    "sales_lines.city": "ville, city",
    "sales_lines.country": "pays, country",
    "sales_lines.delivery_name": "nom_livraison, livre_a",
    "sales_lines.delivery_postal_code": "cp_livraison",
    "sales_lines.delivery_country": "pays_livraison",
    "customers.client_code": CODE,
    "customers.last_name": "nom, last_name",
    "customers.first_name": "prenom, first_name",
    "customers.full_name": "name, raison_sociale, customer_name, client_name, nom_complet",
    "customers.email": EMAIL,
    "customers.phone": "telephone, tel, phone",
    "customers.mobile": "mobile, portable",
    "customers.address": "adresse, address",
    "customers.postal_code": "code_postal, cp, zip, zip_code, postal_code",
    "customers.city": "ville, city",
    "customers.country": "pays, country",
    "customers.type": "type_client, categorie_client, customer_type, tarif",
    "customers.status": "statut, status, etat, observation_code",
    "customers.email_opt_in": "opt_in, optin, consentement, newsletter",
    "customers.opt_in_date": "date_consentement",
    "customers.opt_in_source": "source_consentement",
    "customers.email_opt_out": "opt_out, desinscrit, desabonne, is_optout, refus_email",
    "customers.phone_opt_out": "refus_telephone, stop_sms",
    "customers.post_opt_out": "refus_courrier",
    "customers.birth_date": "date_naissance",
    "customers.language": "langue, language",
    "products.product_key": "product_key, produit_key, sku, code_produit, id_produit",
    "products.label": "produit, nom, name, libelle, designation, product_label, product_name",
    "products.article": "article, format",
    "products.vintage": "millesime, vintage",
    "products.family": "famille_crm, family_crm, famille, family, category",
    "products.sub_family": "sous_famille",
    "products.macro_category": "macro_categorie",
    "products.colour": "couleur, colour",
    "products.kind": "nature, kind",
    "products.grape": "cepage, cepages, grape, grape_varieties",
    "products.sweetness": "sucrosite_niveau, sucrosite, sugar, residual_sugar",
    "products.price_ttc": "prix_ttc, price_ttc, pv_ttc, prix, price, list_price, tarif",
    "products.cost": "cout, cost, standard_price",
    "products.margin": "marge, margin",
    "products.price_band": "price_band",
    "products.premium_tier": "premium_tier",
    **{f"products.aroma_{aroma}": f"aroma_{aroma}, {aroma}" for aroma in AROMAS},
    "products.season_tags": "saison",
    "products.is_active": "actif",
    "products.is_archived": "archive",
    "products.allocation": "allocation",
    "products.sold_by": "vendu_par",
    "products.url": "url, lien",
    "products.image_url": "image",
    "products.description": "description",
    "products.awards": "medailles, awards",
    "stock.product_key": KEY,
    "stock.warehouse": "entrepot, warehouse",
    "stock.quantity": "quantite, quantity, stock_total",
    "stock.reserved": "stock_reserve, reserved_qty",
    "stock.as_of": "date_snapshot",
    "contacts.client_code": CODE,
    "contacts.email": EMAIL,
    "contacts.contact_date": "date_contact",
    "contacts.channel": "canal",
    "contacts.status": "statut",
    "contacts.campaign_id": "campagne",
    "aliases.label": "label, libelle, label_raw",
    "aliases.product_key": "product_key, produit_key",
}
# `*` of the table, and its "one of".
REQUIRED = {
    "sales_lines": ["client_code", "document_no", "quantity"],
    "customers": ["client_code"],
    "products": ["label"],
    "stock": ["product_key", "quantity"],
    "contacts": ["contact_date"],
    "aliases": ["label", "product_key"],
}
ONE_OF = {
    "sales_lines": [
        {"product_key", "product_label"},
        {"order_date", "delivery_date"},  # "with only one date, it serves as both"; none: MISSING_DATE
        {"amount_ht", "amount_ttc", "unit_price_ht"},
    ],
    "contacts": [{"client_code", "email"}],
}
TYPES = {
    "date": {
        *("sales_lines.order_date", "sales_lines.delivery_date", "customers.opt_in_date", "customers.birth_date"),
        *("stock.as_of", "contacts.contact_date"),
    },
    "number": {
        *("sales_lines.quantity", "sales_lines.unit_price_ht", "sales_lines.amount_ht", "sales_lines.amount_ttc"),
        *("sales_lines.margin", "products.price_ttc", "products.cost", "products.margin", "products.sold_by"),
        *("stock.quantity", "stock.reserved", *(f"products.aroma_{aroma}" for aroma in AROMAS)),
    },
    "bool": {
        *("customers.email_opt_in", "customers.email_opt_out", "customers.phone_opt_out", "customers.post_opt_out"),
        *("products.is_active", "products.is_archived"),
    },
    "choice": {"products.premium_tier"},
}
FIELDS = {
    f"{dataset}.{name}": spec
    for dataset, described in SOURCE.datasets.items()
    for name, spec in described.fields.items()
}


# What the table lacks and §4.4 needs stored: rare, so that the mapping quality stays that of the table's fields.
ADDED = {"customers.profiling_opt_out"}


def test_the_table_and_the_file_have_the_same_fields() -> None:
    assert [name for name in FIELDS if name not in ADDED] == list(SPEC)
    assert {name for name, field in FIELDS.items() if field.rare} == ADDED
    assert {FIELDS[name].type for name in ADDED} == {"bool"}


@pytest.mark.parametrize("name", SPEC)
def test_synonyms_stand_in_the_specs_order_ours_after_them(name: str) -> None:
    expected = re.split(r",\s*", SPEC[name])
    assert FIELDS[name].synonyms[: len(expected)] == expected
    # What we added is the field's own name and nothing else.
    assert set(FIELDS[name].synonyms) - set(expected) <= {name.partition(".")[2]}


def test_what_a_row_needs_is_the_specs() -> None:
    for name, dataset in SOURCE.datasets.items():
        assert [field for field, spec in dataset.fields.items() if spec.required] == REQUIRED[name]
        assert [set(group) for group in dataset.one_of] == ONE_OF.get(name, [])
    assert SOURCE.datasets["sales_lines"].inferred == ["document_no"]


def test_types_ranges_and_values_are_the_specs() -> None:
    for kind, names in TYPES.items():
        assert {name for name, spec in FIELDS.items() if spec.type == kind} - ADDED == names
    assert all(FIELDS[f"products.aroma_{aroma}"].range == (1, 5) for aroma in AROMAS)
    assert FIELDS["products.sold_by"].values == ["1", "3", "6", "12"]
    assert FIELDS["products.premium_tier"].values == ["0", "1", "2", "3", "standard", "premium", "prestige", "icon"]
    seasons = next(iter(re.findall(r"season_tags: \{(.*?)\}", rules.RULES_FILE.read_text("utf-8"))))
    assert FIELDS["products.season_tags"].values == re.findall(r"(\w+):", seasons) == ["hiver", "ete", "noel", "paques"]


def test_words_of_yes_and_no_are_those_that_staging_reads() -> None:
    macro = (MACROS / "text_values.sql").read_text("utf-8").partition("macro parse_bool")[2].partition("endmacro")[0]
    lists = [re.findall(r"'([^']*)'", words) for words in re.findall(r"in \[(.*?)\]", macro, re.DOTALL)]
    as_headers = [[word.replace(".", "_").replace(",", "_").strip("-") for word in words] for words in lists]
    assert set(SOURCE.booleans.true_words) == set(as_headers[0])
    assert set(SOURCE.booleans.false_words) == set(as_headers[1])
