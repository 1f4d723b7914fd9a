"""An invented Alsace estate in iSaVigne's clothes: the sample data, and the same shape at 10 k to 10 M lines.

Two doors, each a pure function of its arguments and a seed:

* `build_samples()` makes the files of `data/samples/isavigne/`: a small,
believable estate with every kind of bad
  row once or more, and says where each one stands and which quarantine code it deserves (`Samples.defects`).
* `write_scale()` writes the same layout (CSV only) with as many lines as asked, vectorised and chunked.

Every person, e-mail and address here is invented (reserved mail domains, numbers reserved for fiction where a
country has them).

What this module must not do: import `crm_assets` (data that checks the product may not share its mistakes),
read the clock, the environment or the network, write outside `--out`,
or know what the pipeline makes of a row
beyond the code it is expected to be refused with.
"""

from __future__ import annotations

import argparse
import csv
import io
import random
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xlsxwriter

AS_OF = date(2025, 12, 31)
START = date(2023, 1, 1)
SEED = 20251231
BAD_ROW_CODES = (
    "MISSING_CLIENT", "MISSING_DOCUMENT", "MISSING_PRODUCT", "MISSING_DATE", "INVALID_DATE",
    "MISSING_QUANTITY", "INVALID_NUMBER", "MISSING_AMOUNT", "INVALID_KEY", "RAGGED_ROW",
)  # fmt: skip
VAT_FRANCE = 1.2  # outside France the estate invoices without VAT
PRICE_INDEX = {2023: 0.94, 2024: 0.97, 2025: 1.0}  # what today's list price was worth that year
NBSP, NNBSP = "\u00a0", "\u202f"
TILL = "COMPTOIR"

# field -> header, per dataset; a file takes the fields it carries, in this order unless it says otherwise
HEADERS: dict[str, dict[str, str]] = {
    "ventes_lignes": {
        "client": "Code client", "type": "Type pièce", "document": "N° pièce", "line": "Num ligne",
        "product": "Code produit", "label": "Désignation", "article": "Conditionnement",
        "vintage": "Millésime", "ordered": "Date commande", "delivered": "Date livraison",
        "quantity": "Quantité", "unit": "PU HT", "ht": "Montant HT", "ttc": "Montant TTC", "margin": "Marge",
        "postcode": "Code postal", "country": "Pays", "to_name": "Nom livraison",
        "to_postcode": "CP livraison", "to_country": "Pays livraison", "seller": "Représentant",
    },
    "clients": {
        "client": "Code client", "last": "Nom", "first": "Prénom", "company": "Raison sociale",
        "email": "E-mail", "phone": "Téléphone", "mobile": "Portable", "address": "Adresse",
        "postcode": "Code postal", "city": "Ville", "country": "Pays", "type": "Type client",
        "status": "Statut", "opt_in": "Opt-in", "opt_in_date": "Date consentement",
        "opt_in_source": "Source consentement", "opt_out": "Désabonné", "no_phone": "Refus téléphone",
        "no_post": "Refus courrier", "birth": "Date naissance", "language": "Langue",
    },
    "produits": {
        "product": "Code produit", "label": "Libellé", "format": "Format", "vintage": "Millésime",
        "family": "Famille CRM", "sub_family": "Sous-famille", "macro": "Macro catégorie",
        "colour": "Couleur", "kind": "Nature", "grape": "Cépage", "sweetness": "Sucrosité niveau",
        "price": "Prix TTC", "cost": "Coût", "margin": "Marge", "tier": "Premium tier",
        "fruit": "Aroma fruit", "floral": "Aroma floral", "spice": "Aroma spice", "mineral": "Aroma mineral",
        "acidity": "Aroma acidity", "body": "Aroma body", "tannin": "Aroma tannin", "seasons": "Saison",
        "active": "Actif", "archived": "Archivé", "allocation": "Allocation", "sold_by": "Vendu par",
        "url": "Lien", "image": "Image", "description": "Description", "awards": "Médailles",
    },
    "stock": {
        "product": "Code produit", "warehouse": "Entrepôt", "quantity": "Quantité",
        "reserved": "Stock réservé", "as_of": "Date snapshot",
    },
    "contacts": {
        "client": "Code client", "email": "E-mail", "date": "Date contact", "channel": "Canal",
        "status": "Statut", "campaign": "Campagne",
    },
    "alias": {"label": "Libellé", "product": "Produit key"},
}  # fmt: skip
AROMAS = ("fruit", "floral", "spice", "mineral", "acidity", "body", "tannin")

# The estate: what it sells


@dataclass(frozen=True)
class Wine:
    """One wine without its vintage; `calendar` names the entry of CALENDARS with its vintages."""

    code: str
    label: str  # `{v}` marks where the vintage stands
    format: str
    family: str
    grape: str
    colour: str
    sweetness: str
    price: int  # cents TTC
    tier: str
    aromas: str  # seven digits 1..5 in the order of AROMAS; empty = unknown
    tags: str  # what the taste profiles weigh
    calendar: str
    popularity: float
    seasons: str = ""
    awards: str = ""


# (vintage, first day of sale): a vintage is sold until the next one comes
CALENDARS: dict[str, tuple[tuple[int | None, date], ...]] = {
    "nv": ((None, START),),
    "yearly": ((2022, START), (2023, date(2024, 4, 1)), (2024, date(2025, 4, 1))),
    "second": ((2021, START), (2023, date(2024, 9, 1))),
    "late": ((2020, START), (2022, date(2025, 2, 1))),
    "2017": ((2017, START),),
    "2018": ((2018, START),),
    "2019": ((2019, START),),
    "2021": ((2021, START),),
    "2022": ((2022, date(2023, 9, 1)),),
}

_R, _G, _PG, _PN, _PB, _S, _M = (
    "Riesling", "Gewurztraminer", "Pinot Gris", "Pinot Noir", "Pinot Blanc", "Sylvaner", "Muscat",
)  # fmt: skip
_DRY, _AROMATIC, _RED, _PINK, _FIZZ, _GRAND, _SWEET, _EVERYDAY = (
    "Blancs secs", "Blancs aromatiques", "Rouges", "Rosés", "Crémants", "Grands Crus", "Liquoreux",
    "Quotidien",
)  # fmt: skip
WINES: tuple[Wine, ...] = (
    Wine("CR-BRUT", "Crémant d'Alsace Brut", "75cl", _FIZZ, _PB, "blanc", "brut", 1150, "Standard", "4312421",
         "bulles", "nv", 9.0, "noel,ete", "Médaille d'or Colmar 2024"),
    Wine("CR-EXBR", "Crémant d'Alsace Extra-Brut", "75cl", _FIZZ, _PB, "blanc", "brut", 1390, "Premium",
         "3313521", "bulles sec", "nv", 5.0, "noel"),
    Wine("CR-ROSE", "Crémant d'Alsace Rosé", "75cl", _FIZZ, _PN, "rosé", "brut", 1290, "Standard", "5212421",
         "bulles ete", "nv", 5.0, "ete,paques"),
    Wine("CR-BDN", "Crémant d'Alsace Blanc de Noirs", "75cl", _FIZZ, _PN, "blanc", "brut", 1750, "Prestige",
         "4223431", "bulles prestige", "nv", 2.5, "noel"),
    Wine("CR-COEUR", "Crémant d'Alsace Cœur de Cuvée {v}", "75cl", _FIZZ, "Chardonnay", "blanc", "brut", 3200,
         "Prestige", "3224541", "bulles prestige", "2019", 1.2, "noel", "Médaille d'argent Paris 2025"),
    Wine("CR-MAG", "Crémant d'Alsace Brut Magnum", "Magnum", _FIZZ, _PB, "blanc", "brut", 2650, "Premium",
         "4312421", "bulles fete", "nv", 1.2, "noel"),
    Wine("SY-TRAD", "Sylvaner Tradition {v}", "75cl", _EVERYDAY, _S, "blanc", "sec", 790, "Standard",
         "3314411", "sec budget", "yearly", 4.0, "ete"),
    Wine("SY-VV", "Sylvaner Vieilles Vignes {v}", "75cl", _DRY, _S, "blanc", "sec", 1080, "Premium",
         "3314421", "sec", "second", 2.5),
    Wine("PB-TRAD", "Pinot Blanc Tradition {v}", "75cl", _EVERYDAY, _PB, "blanc", "sec", 850, "Standard",
         "4312321", "sec budget", "yearly", 5.0, "ete"),
    Wine("PB-AUX", "Auxerrois Les Terrasses {v}", "75cl", _DRY, "Auxerrois", "blanc", "sec", 1120, "Premium",
         "4322331", "sec", "second", 2.0),
    Wine("PB-BIB5", "Pinot Blanc BIB 5L", "BIB 5L", _EVERYDAY, _PB, "blanc", "sec", 3150, "Standard",
         "4312321", "budget ete", "nv", 1.5, "ete"),
    Wine("ED-BIB3", "Edelzwicker BIB 3L", "BIB 3L", _EVERYDAY, "Assemblage", "blanc", "sec", 1850,
         "Standard", "", "budget", "nv", 1.5, "ete"),
    Wine("MU-TRAD", "Muscat Tradition {v}", "75cl", _AROMATIC, _M, "blanc", "sec", 1050, "Standard",
         "5421321", "doux ete", "yearly", 3.0, "paques,ete"),
    Wine("MU-AMAN", "Muscat Les Amandiers {v}", "75cl", _AROMATIC, _M, "blanc", "demi-sec", 1380, "Premium",
         "5521331", "doux", "second", 1.5, "paques"),
    Wine("RI-TRAD", "Riesling Tradition {v}", "75cl", _DRY, _R, "blanc", "sec", 970, "Standard", "3315511",
         "sec budget", "yearly", 8.0, "", "Médaille d'argent Colmar 2025"),
    Wine("RI-DEMI", "Riesling Tradition 37.5cl {v}", "37.5cl", _DRY, _R, "blanc", "sec", 620, "Standard",
         "3315511", "sec budget", "2022", 0.8),
    Wine("RI-VV", "Riesling Vieilles Vignes {v}", "75cl", _DRY, _R, "blanc", "sec", 1290, "Premium",
         "3315521", "sec", "second", 5.0),
    Wine("RI-VVMAG", "Riesling Vieilles Vignes Magnum {v}", "Magnum", _DRY, _R, "blanc", "sec", 2850,
         "Premium", "3315521", "sec fete", "2021", 0.8, "noel"),
    Wine("RI-SCH", "Riesling Schieferberg {v}", "75cl", _DRY, _R, "blanc", "sec", 1590, "Premium", "3215531",
         "sec prestige", "second", 2.0),
    Wine("RI-FRA", "Riesling Grand Cru Frankstein {v}", "75cl", _GRAND, _R, "blanc", "sec", 1980, "Prestige",
         "3315541", "sec prestige", "late", 3.0, "noel", "Médaille d'or Riesling du Monde 2024"),
    Wine("RI-MUE", "Riesling Grand Cru Muenchberg {v}", "75cl", _GRAND, _R, "blanc", "sec", 2350, "Prestige",
         "3325541", "sec prestige", "late", 1.8),
    Wine("PG-TRAD", "Pinot Gris Tradition {v}", "75cl", _AROMATIC, _PG, "blanc", "demi-sec", 1090, "Standard",
         "4232341", "doux", "yearly", 6.0, "hiver"),
    Wine("PG-RES", "Pinot Gris Réserve {v}", "75cl", _AROMATIC, _PG, "blanc", "demi-sec", 1450, "Premium",
         "4233341", "doux", "second", 3.0, "hiver"),
    Wine("PG-ZOT", "Pinot Gris Grand Cru Zotzenberg {v}", "75cl", _GRAND, _PG, "blanc", "moelleux", 2150,
         "Prestige", "4343351", "doux prestige", "late", 1.8, "noel"),
    Wine("PG-VT", "Pinot Gris Vendanges Tardives {v}", "75cl", _SWEET, _PG, "blanc", "liquoreux", 3450,
         "Prestige", "5342351", "doux prestige", "2018", 0.8, "noel"),
    Wine("GW-TRAD", "Gewurztraminer Tradition {v}", "75cl", _AROMATIC, _G, "blanc", "moelleux", 1180,
         "Standard", "4541241", "doux", "yearly", 8.0, "hiver,noel"),
    Wine("GW-DEMI", "Gewurztraminer Tradition 37.5cl {v}", "37.5cl", _AROMATIC, _G, "blanc", "moelleux", 720,
         "Standard", "4541241", "doux", "2022", 0.8),
    Wine("GW-VV", "Gewurztraminer Vieilles Vignes {v}", "75cl", _AROMATIC, _G, "blanc", "moelleux", 1520,
         "Premium", "4552241", "doux", "second", 4.0, "hiver"),
    Wine("GW-KIR", "Gewurztraminer Grand Cru Kirchberg {v}", "75cl", _GRAND, _G, "blanc", "moelleux", 2250,
         "Prestige", "4552251", "doux prestige", "late", 2.2, "noel"),
    Wine("GW-VT", "Gewurztraminer Vendanges Tardives {v}", "75cl", _SWEET, _G, "blanc", "liquoreux", 2950,
         "Prestige", "5551251", "doux prestige", "late", 1.5, "noel,paques", "Médaille d'or Strasbourg 2024"),
    Wine("GW-SGN", "Gewurztraminer Sélection de Grains Nobles {v}", "37.5cl", _SWEET, _G, "blanc",
         "liquoreux", 4200, "Icon", "5552351", "doux prestige", "2017", 0.4, "noel"),
    Wine("PN-TRAD", "Pinot Noir Tradition {v}", "75cl", _RED, _PN, "rouge", "sec", 1090, "Standard",
         "4222332", "rouge", "yearly", 5.0, "ete"),
    Wine("PN-ROSE", "Pinot Noir Rosé Œil de Perdrix {v}", "75cl", _PINK, _PN, "rosé", "sec", 920, "Standard",
         "5212411", "rouge budget ete", "yearly", 3.0, "ete"),
    Wine("PN-BAR", "Pinot Noir Élevé en Barrique {v}", "75cl", _RED, _PN, "rouge", "sec", 1780, "Premium",
         "4243344", "rouge", "second", 2.5, "hiver"),
    Wine("PN-ECL", "Pinot Noir L'Éclat {v}", "75cl", _RED, _PN, "rouge", "sec", 3600, "Prestige", "4243354",
         "rouge prestige", "late", 1.0, "noel"),
)  # fmt: skip


@dataclass(frozen=True)
class Product:
    """One line of the catalogue: a wine in one vintage, or an article that is not a wine."""

    code: str
    label: str
    format: str
    vintage: int | None
    price: int | None  # cents TTC
    kind: str  # blank where the label alone has to say it
    family: str = ""
    wine: Wine | None = None
    active: bool = True
    archived: bool = False

    @property
    def cost(self) -> int | None:
        """Cents HT; dear wines leave more."""
        if self.price is None:
            return None
        return round(self.price / VAT_FRANCE * (0.40 if self.price >= 1800 else 0.52))


def _wine_products() -> Iterator[Product]:
    for wine in WINES:
        calendar = CALENDARS[wine.calendar]
        for nth, (vintage, _) in enumerate(calendar):
            # The vintage before the newest is still listed while the cellar empties; older ones are archived.
            behind = len(calendar) - 1 - nth
            yield Product(
                code=wine.code if vintage is None else f"{wine.code}-{vintage % 100:02d}",
                label=" ".join(wine.label.format(v=vintage or "").split()),
                format=wine.format,
                vintage=vintage,
                price=wine.price,
                kind="wine",
                family=wine.family,
                wine=wine,
                active=behind == 0,
                archived=behind >= 2,
            )


SHIPPING, DISCOUNT, DEPOSIT, TASTING = "PORT", "REMISE", "CONSIGNE", "DEGUST"
OTHER_PRODUCTS: tuple[Product, ...] = (
    Product("CO-DECOU", "Coffret Découverte 3 bouteilles", "coffret", None, 3490, "gift_box", "Coffrets"),
    Product("CO-NOEL", "Coffret Noël en Alsace 2 bouteilles", "coffret", None, 2890, "gift_box", "Coffrets"),
    Product("CO-GC", "Coffret Grands Crus 3 bouteilles", "coffret", None, 6450, "gift_box", "Coffrets"),
    Product("JU-BLANC", "Jus de raisin blanc", "75cl", None, 490, "other_drink", "Jus de raisin"),
    Product("JU-PETIL", "Pétillant de raisin sans alcool", "75cl", None, 650, "other_drink", "Jus de raisin"),
    Product("VE-ALS6", "Verres à vin d'Alsace, lot de 6", "lot", None, 2400, "glassware", "Accessoires"),
    # the till's own articles: no Nature, the label has to tell what they are
    Product(SHIPPING, "Frais de port", "", None, None, ""),
    Product(DISCOUNT, "Remise fidélité", "", None, None, ""),
    Product(DEPOSIT, "Consigne caisse bois", "", None, None, ""),
    Product(TASTING, "Dégustation commentée", "", None, 1200, ""),
    Product("BONCAD50", "Bon cadeau 50 euros", "", None, 5000, ""),
)
PRODUCTS: dict[str, Product] = {p.code: p for p in (*_wine_products(), *OTHER_PRODUCTS)}

# taste -> how much it multiplies the odds of a wine with that tag
TASTES: dict[str, dict[str, float]] = {
    "mineral": {"sec": 6, "doux": 0.15, "rouge": 0.4, "prestige": 1.2},
    "aromatique": {"doux": 6, "sec": 0.3, "rouge": 0.3},
    "bulles": {"bulles": 8, "fete": 2, "rouge": 0.5},
    "rouge": {"rouge": 8, "bulles": 1.2, "doux": 0.3},
    "quotidien": {"budget": 6, "prestige": 0.05, "fete": 0.3},
    "prestige": {"prestige": 7, "budget": 0.1, "fete": 2},
}

# What the till wrote before the codes came: label as typed -> product key
ALIASES: dict[str, str] = {
    "Gewurz Trad": "GW-TRAD-22", "Crémant BRUT 75": "CR-BRUT", "Riesling VV caveau": "RI-VV-21",
    "PG Trad.": "PG-TRAD-22", "P. Noir rouge": "PN-TRAD-22", "Clairet": "PN-ROSE-22",
    "Coffret 3 btl": "CO-DECOU", "Port colis": SHIPPING,
}  # fmt: skip
UNKNOWN_LABELS = ("Marc de Gewurztraminer hors d'âge", "Vin chaud du marché", "Bretzel géant")

# The people: longer names only, so that a search for a name in logs finds people and not ordinary words

LAST_NAMES = (
    "Kieffer", "Schaeffer", "Muller", "Schmitt", "Zimmermann", "Oberlin", "Hirtzlin", "Wurtzel", "Burgard",
    "Dietrich", "Ehrhart", "Gerling", "Hoffstetter", "Jaeglé", "Kuntzmann", "Lauffer", "Metzinger",
    "Nonnenmacher", "Ostertag", "Pfirsch", "Reibel", "Sengelin", "Trautmann", "Uhlrich", "Vogelsang",
    "Wackermann", "Zeyssolff", "Bergerat", "Charpenay", "Delaunoy", "Fontanel", "Garrigou", "Lhéritier",
    "Marchandeau", "Pelissard", "Rousselot", "Thévenoux", "Vaugelas", "D'Angelmont", "Cœurdevey",
    "Boissonnard", "Guyonnet", "Lemercier", "Montavon", "Perrochet", "Saint-Clivier", "Tournebise",
    "Valentigny",
)  # fmt: skip
FIRST_NAMES = (
    "Martine", "Bernard", "Sylvie", "Jean-Paul", "Christiane", "Gérard", "Nathalie", "Philippe", "Isabelle",
    "Laurent", "Hélène", "François", "Anne-Marie", "Thierry", "Béatrice", "Stéphane", "Corinne", "Olivier",
    "Véronique", "Mathieu", "Élodie", "Nicolas", "Aurélie", "Sébastien", "Delphine", "Julien", "Mélanie",
    "Raphaël",
)  # fmt: skip
GERMAN_NAMES = (
    "Schäferling",
    "Grünwaldt",
    "Lindenauer",
    "Böttinger",
    "Kaltenbrunn",
    "Weisshaupt",
    "Hölzmann",
)
GERMAN_FIRST = ("Jürgen", "Sabine", "Dietmar", "Heike", "Torsten", "Ulrike", "Matthias", "Katrin")
STREETS = (
    "rue des Tanneurs", "rue du Vignoble", "route de Barr", "rue de l'Église", "impasse des Tilleuls",
    "avenue des Vosges", "rue du Maréchal-Foch", "chemin du Moulin", "place du Marché", "rue des Cigognes",
)  # fmt: skip
GERMAN_STREETS = ("Lindenstraße", "Am Rebberg", "Schillerplatz", "Bahnhofstraße", "Mühlenweg")
TOWNS = (
    ("67000", "Strasbourg"), ("67000", "Strasbourg"), ("67600", "Sélestat"), ("67140", "Barr"),
    ("67210", "Obernai"), ("67500", "Haguenau"), ("67300", "Schiltigheim"), ("68000", "Colmar"),
    ("68000", "Colmar"), ("68100", "Mulhouse"), ("68500", "Guebwiller"), ("68150", "Ribeauvillé"),
    ("67120", "Molsheim"), ("57000", "Metz"), ("54000", "Nancy"), ("88000", "Épinal"), ("25000", "Besançon"),
    ("21000", "Dijon"), ("75011", "Paris"), ("75015", "Paris"), ("69003", "Lyon"), ("59000", "Lille"),
    ("01000", "Bourg-en-Bresse"), ("06000", "Nice"), ("35000", "Rennes"), ("44000", "Nantes"),
)  # fmt: skip
GERMAN_TOWNS = (("79098", "Freiburg"), ("77652", "Offenburg"), ("76530", "Baden-Baden"), ("01067", "Dresden"))
SWISS_TOWNS = (("4051", "Basel"), ("8001", "Zürich"), ("3011", "Bern"))
MAIL_DOMAINS = ("example.org", "example.com", "example.net")  # reserved, yet accepted by a real validator
OPT_IN_SOURCES = ("Formulaire site", "Bulletin caveau", "Salon des vins", "Boutique en ligne")
FRANCE, GERMANY, SWITZERLAND, BELGIUM = "France", "Allemagne", "Suisse", "Belgique"
PRIVATE, HORECA, MERCHANT, EXPORT, COUNCIL, STAFF = (
    "Particulier", "CHR", "Caviste", "Export", "Comité d'entreprise", "Personnel",
)  # fmt: skip
TRADE_PRICE = {PRIVATE: 1.0, HORECA: 0.72, MERCHANT: 0.66, EXPORT: 0.60, COUNCIL: 0.85, STAFF: 0.75}

# behaviour -> number of customers, the till is the 400th; the first seven are private people
BEHAVIOURS: dict[str, int] = {
    "regular": 110, "christmas": 45, "summer": 25, "one_time": 50, "lapsed": 45, "new": 25, "prospect": 50,
    "horeca": 20, "merchant": 12, "export": 5, "council": 7, "staff": 5,
}  # fmt: skip
TRADE_TYPES = {"horeca": HORECA, "merchant": MERCHANT, "export": EXPORT, "council": COUNCIL, "staff": STAFF}
COMPANY_WORDS = {
    "horeca": ("Winstub au Vieux Pressoir", "Restaurant La Cigogne Bleue", "Hôtel des Trois Tilleuls",
               "Brasserie du Faubourg Fleuri", "Auberge du Sentier"),
    "merchant": ("Cave des Quatre Vents", "Aux Flacons Rieurs", "Le Cellier de la Poste",
    "Vins & Saveurs du Quai"), "export": ("Weinhandel Rebgarten GmbH", "Vinimport Léman SA",
               "Belgo Vins SPRL", "Getränke Sonnfeld GmbH", "Weinkontor Elbwiese"),
    "council": ("CSE Mécanique du Ried", "CE Papeterie de la Bruche", "Amicale du Lycée des Vosges"),
}  # fmt: skip


class Dice:
    """Seeded chance built on `Random.random` alone, the one stream Python promises never to change."""

    def __init__(self, *seed: object) -> None:
        self._next: Callable[[], float] = random.Random(":".join(map(str, seed))).random

    def between(self, low: float, high: float) -> float:
        """A number of low..high."""
        return low + (high - low) * self._next()

    def integer(self, low: int, high: int) -> int:
        """An integer in low..high, both included."""
        return low + int((high - low + 1) * self._next())

    def chance(self, probability: float) -> bool:
        """True that often."""
        return self._next() < probability

    def pick(self, items: Sequence[Any]) -> Any:
        """One of the items, all alike."""
        return items[int(len(items) * self._next())]

    def weighted(self, weights: dict[str, float]) -> str:
        """One of the keys, by weight."""
        point = sum(weights.values()) * self._next()
        for key, weight in weights.items():
            point -= weight
            if point < 0:
                return key
        return key

    def some(self, items: Sequence[Any], count: int) -> list[Any]:
        """`count` distinct items in their own order."""
        rank = sorted(range(len(items)), key=[self._next() for _ in items].__getitem__)
        return [items[i] for i in sorted(rank[:count])]


@dataclass(frozen=True)
class Client:
    """One client code of the estate's books, as the newest export writes it."""

    code: str
    behaviour: str
    type: str = PRIVATE
    last: str = ""
    first: str = ""
    company: str = ""
    email: str = ""
    phone: str = ""
    mobile: str = ""
    address: str = ""
    postcode: str = ""
    city: str = ""
    country: str = FRANCE
    status: str = "Actif"
    opt_in: str = ""
    opt_in_date: date | None = None
    opt_in_source: str = ""
    opt_out: str = ""
    no_phone: str = ""
    no_post: str = ""
    birth: date | None = None
    language: str = "fr"


def ascii_slug(text: str) -> str:
    """A name as it stands in an e-mail address."""
    text = text.replace("œ", "oe").replace("ß", "ss")
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return "".join(c for c in plain if c.isalnum())


def french_phone(prefix: str, number: int) -> str:
    """A number of a range the French regulator keeps for fiction: `prefix` is its first six digits."""
    digits = f"{prefix}{number % 10_000:04d}"
    return " ".join(digits[i : i + 2] for i in range(0, 10, 2))


def make_clients(seed: int = SEED) -> list[Client]:
    """The 400 codes, with the duplicates, statuses, refusals and odd addresses the rules meet."""
    clients: list[Client] = []
    for behaviour, count in BEHAVIOURS.items():
        for nth in range(count):
            serial = len(clients) + 1
            dice = Dice(seed, "client", behaviour, nth)
            trade = behaviour in COMPANY_WORDS
            # C-001 and C001 are two codes: hyphens of a code are part of it
            code = f"{'C-' if nth % 2 else 'C'}{nth // 2 + 1:03d}" if behaviour == "horeca" else f"{serial:05d}"
            country = FRANCE
            if behaviour == "export":
                country = (GERMANY, SWITZERLAND, BELGIUM, GERMANY, GERMANY)[nth]
            elif not trade and behaviour != "staff":
                country = dice.weighted({FRANCE: 84, GERMANY: 10, SWITZERLAND: 6})
            german = country in (GERMANY, SWITZERLAND)
            last = dice.pick(GERMAN_NAMES if german else LAST_NAMES)
            first = dice.pick(GERMAN_FIRST if german else FIRST_NAMES)
            towns = {
                FRANCE: TOWNS,
                GERMANY: GERMAN_TOWNS,
                SWITZERLAND: SWISS_TOWNS,
                BELGIUM: (("4000", "Liège"),),
            }
            postcode, city = dice.pick(towns[country])
            number = dice.integer(1, 98)
            street = dice.pick(GERMAN_STREETS if german else STREETS)
            phones = {
                # The mobile range kept for fiction is refused by a real validator: few have one.
                FRANCE: (
                    "" if dice.chance(0.1) else french_phone("035301", serial),
                    "" if dice.chance(0.8) else french_phone("063998", serial),
                ),
                GERMANY: ("", f"+49 171 39200{serial % 100:02d}"),
                SWITZERLAND: ("", f"+41 79 555 {serial // 100 + 10} {serial % 100:02d}"),
                BELGIUM: (f"+32 4 221 {serial % 90 + 10} {serial % 80 + 10}", ""),
            }[country]
            opted = not trade and (nth % 2 == 0 if behaviour == "prospect" else dice.chance(0.34))
            address = f"{street} {number}" if german else f"{number}, {street}"
            domain = dice.pick(MAIL_DOMAINS)
            client = Client(
                code=code,
                behaviour=behaviour,
                type=TRADE_TYPES.get(behaviour, PRIVATE),
                last="" if trade else last,
                first="" if trade else first,
                company=f"{COMPANY_WORDS[behaviour][nth % len(COMPANY_WORDS[behaviour])]} {city}" if trade else "",
                email=f"{ascii_slug(first)}.{ascii_slug(last)}{serial}@{domain}",
                phone=phones[0],
                mobile=phones[1],
                address=address,
                postcode=postcode,
                city=city,
                country=country,
                opt_in="oui" if opted else "",
                opt_in_date=START + timedelta(days=dice.integer(0, 1000)) if opted else None,
                opt_in_source=dice.pick(OPT_IN_SOURCES) if opted else "",
                birth=date(dice.integer(1942, 1996), dice.integer(1, 12), dice.integer(1, 28))
                if not trade and dice.chance(0.3)
                else None,
                language="de" if german else "fr",
            )
            if not trade and dice.chance(0.12):
                client = replace(client, email="")
            if dice.chance(0.15):
                client = replace(client, status="")
            clients.append(client)
    clients.append(Client(TILL, "till", company="Vente au caveau", status="", country=FRANCE))
    return _with_particulars(clients)


def _with_particulars(clients: list[Client]) -> list[Client]:
    """Hand-placed oddities, by behaviour and rank, so that no chance decides whether a case is there."""
    at = {(c.behaviour, sum(d.behaviour == c.behaviour for d in clients[:i])): i for i, c in enumerate(clients)}

    def change(behaviour: str, nth: int, **values: Any) -> None:
        clients[at[behaviour, nth]] = replace(clients[at[behaviour, nth]], **values)

    def of(behaviour: str, nth: int) -> Client:
        return clients[at[behaviour, nth]]

    for nth in range(6):  # the same person under two codes: one e-mail, one surname
        other = of("regular", nth)
        email = other.email or f"{ascii_slug(other.first)}.{ascii_slug(other.last)}@example.org"
        change("regular", nth, email=email)
        change(
            "one_time",
            nth,
            last=other.last.upper(),
            first=other.first,
            email=f" {email.upper()} ",
            country=other.country,
            postcode=other.postcode,
            city=other.city,
            language=other.language,
        )
    for nth in (6, 7):  # one mailbox, two surnames: two customers, one contact
        email = of("regular", nth).email or f"famille{nth}@example.org"
        change("regular", nth, email=email, last="Hoffstetter")
        change("one_time", nth, email=email, last="Garrigou")
    for nth in (8, 9, 10):  # the same person without e-mail: surname and phone
        other = of("regular", nth)
        phone = french_phone("035301", 9000 + nth)
        change("regular", nth, phone=phone, country=FRANCE, postcode="67140", city="Barr", language="fr")
        change(
            "one_time",
            nth,
            email="",
            last=other.last,
            first="" if nth == 8 else other.first,
            phone=phone.replace(" ", "."),
            country=FRANCE,
            postcode="67140",
            city="Barr",
        )
    change("regular", 11, email="martine.kieffer@")
    change("summer", 3, email="jp.schaeffer@example")
    change("lapsed", 5, email="pas d'adresse")
    for behaviour, nth, status in (
        ("regular", 12, "Décédé"),
        ("lapsed", 6, "Décédé"),
        ("regular", 13, "NPAI"),
        ("lapsed", 7, "NPAI"),
        ("regular", 14, "Ne plus contacter"),
        ("christmas", 4, "Ne plus contacter"),
        ("regular", 15, "Litige"),
        ("one_time", 12, "Parti sans laisser d'adresse"),
        ("horeca", 3, "Litige"),
    ):
        change(behaviour, nth, status=status)
    for behaviour, nth in (
        ("regular", 16),
        ("regular", 17),
        ("christmas", 5),
        ("lapsed", 8),
        ("prospect", 2),
    ):
        change(behaviour, nth, opt_out="oui")
    change("regular", 18, no_phone="oui")
    change("regular", 19, no_post="oui")
    change("new", 2, birth=date(2009, 5, 17))  # under age: never written to
    change("prospect", 4, opt_in="oui", opt_in_date=None, opt_in_source="")  # a consent nobody can prove
    change("prospect", 6, opt_in="oui", opt_in_source="")
    change("regular", 20, address='12, rue des Tanneurs; bâtiment "B"\n2e étage')
    change("regular", 21, city="")
    change("regular", 22, postcode="", city="")
    change("regular", 23, postcode="01000", city="Bourg-en-Bresse", country=FRANCE)
    change("export", 0, country="DE")  # some rows carry the ISO code
    return clients


# Three years of orders


@dataclass(frozen=True)
class Line:
    """One line of a document before it is written in a file's own way; money in cents."""

    product: str
    quantity: int
    article: str
    unit: int
    label: str = ""  # as typed, where it is not the catalogue's
    no_code: bool = False
    ordered: date | None = None  # a line ordered on another day than its document


@dataclass
class Document:
    """One paper of the estate's books."""

    client: Client
    type: str
    ordered: date
    delivered: date
    lines: list[Line]
    to: tuple[str, str, str] = ("", "", "")  # name, postal code, country of whom it is delivered to
    number: str = ""


def current_product(wine: Wine, day: date) -> Product | None:
    """The vintage of a wine on sale that day."""
    sold = [vintage for vintage, since in CALENDARS[wine.calendar] if since <= day]
    if not sold:
        return None
    return PRODUCTS[wine.code if sold[-1] is None else f"{wine.code}-{sold[-1] % 100:02d}"]


def unit_price(product: Product, client: Client, day: date) -> int:
    """Cents HT for that client on that day."""
    assert product.price is not None
    return round(product.price / VAT_FRANCE * TRADE_PRICE[client.type] * PRICE_INDEX[day.year])


def line_of(product: Product, quantity: int, client: Client, day: date, carton: bool = False) -> Line:
    """A line of a catalogue product, by the bottle or by the carton of six."""
    unit = unit_price(product, client, day)
    if carton and product.format == "75cl" and quantity % 6 == 0:
        return Line(product.code, quantity // 6, "CARTON6", unit * 6)
    return Line(product.code, quantity, product.format, unit)


_BY_CODE = {wine.code: wine for wine in WINES}
_SEASON_MONTHS = {"hiver": (11, 12, 1, 2), "ete": (5, 6, 7, 8), "noel": (11, 12), "paques": (3, 4)}


def _odds(taste: dict[str, float], day: date) -> dict[str, float]:
    """How likely each wine is for a taste, on a day: popularity x taste x season."""
    odds: dict[str, float] = {}
    for wine in WINES:
        if current_product(wine, day) is None:
            continue
        odds[wine.code] = wine.popularity
        for tag in wine.tags.split():
            odds[wine.code] *= taste.get(tag, 1.0)
        if any(day.month in _SEASON_MONTHS[s] for s in wine.seasons.split(",") if s):
            odds[wine.code] *= 2.0
    return odds


def order_days(client: Client, dice: Dice) -> list[date]:
    """The days a client orders: a rhythm, a season, or a single visit."""
    days: list[date] = []
    kind = client.behaviour

    def rhythm(first: date, low: float, high: float, until: date = AS_OF) -> None:
        interval = dice.between(low, high)
        day = first
        while day <= until:
            days.append(day)
            day += timedelta(days=round(interval * dice.between(0.8, 1.2)))

    if kind == "regular":
        rhythm(START + timedelta(days=dice.integer(0, 560)), 90, 200)
    elif kind == "lapsed":
        rhythm(START + timedelta(days=dice.integer(0, 200)), 110, 200, date(2024, dice.integer(2, 11), 28))
    elif kind == "new":
        rhythm(date(2025, 7, 1) + timedelta(days=dice.integer(0, 170)), 60, 120)
    elif kind == "one_time":
        # weighed to the summer, when visitors come by
        year = dice.integer(2023, 2025)
        days.append(
            date(year, 1, 1)
            + timedelta(days=int(dice.weighted({str(d): 1 + 2 * (170 < d < 250) for d in range(5, 360)})))
        )
    elif kind in ("christmas", "council"):
        first = 2023 if dice.chance(0.7) else 2024
        days += [date(y, 11, 15) + timedelta(days=dice.integer(0, 33)) for y in range(first, 2026)]
    elif kind == "summer":
        for year in range(2023, 2026):
            days.append(date(year, 4, 5) + timedelta(days=dice.integer(0, 40)))
            if dice.chance(0.6):
                days.append(date(year, 6, 20) + timedelta(days=dice.integer(0, 60)))
    elif kind == "horeca":
        rhythm(START + timedelta(days=dice.integer(5, 400)), 55, 95)
    elif kind == "merchant":
        rhythm(START + timedelta(days=dice.integer(5, 300)), 90, 150)
    elif kind == "export":
        rhythm(START + timedelta(days=dice.integer(20, 120)), 160, 240)
    elif kind == "staff":
        rhythm(START + timedelta(days=dice.integer(20, 120)), 130, 220)
    elif kind == "till":
        # Sales over the counter up to the last day of the year: what keeps the newest sale fresh
        rhythm(date(2023, 1, 3), 13, 13)
        days.append(date(2025, 12, 30))
        days.append(AS_OF)
    return sorted(set(days))


def _quantity(wine: Wine, client: Client, dice: Dice, favourite: bool) -> int:
    if client.type in (HORECA, MERCHANT, EXPORT):
        return dice.pick((6, 12, 12, 24)) * (12 if client.type == EXPORT else 1)
    if client.behaviour == "till":
        return dice.integer(1, 3)
    if wine.format != "75cl" or wine.price >= 2500:
        return dice.integer(1, 2)
    return dice.pick((6, 6, 6, 12)) if favourite else dice.pick((2, 3, 3, 6))


def client_documents(client: Client, seed: int) -> list[Document]:
    """What one client orders in three years: favourites as they run out, at times another of their taste."""
    dice = Dice(seed, "orders", client.code)
    taste = TASTES[dice.weighted(dict.fromkeys(TASTES, 1.0))]
    if client.behaviour == "till":
        taste = {}
    favourites: dict[str, float] = {}
    while len(favourites) < 3:
        favourites.setdefault(dice.weighted(_odds(taste, START)), dice.between(75, 190))
    last_bought: dict[str, date] = {}
    carton_buyer = dice.chance(0.15)
    documents = []
    for day in order_days(client, dice):
        wanted = [
            w for w, gap in favourites.items() if w not in last_bought or (day - last_bought[w]).days >= 0.8 * gap
        ]
        chosen = dict.fromkeys(wanted if client.behaviour not in ("one_time", "till") else wanted[:1])
        for _ in range(2 if client.type in (HORECA, MERCHANT, EXPORT) else 1):
            if not chosen or dice.chance(0.45):
                chosen.setdefault(dice.weighted(_odds(taste, day)))
        lines = []
        for code in chosen:
            product = current_product(_BY_CODE[code], day)
            if product is None:
                continue
            last_bought[code] = day
            quantity = _quantity(_BY_CODE[code], client, dice, code in favourites)
            lines.append(line_of(product, quantity, client, day, carton_buyer))
        shipped = client.behaviour != "till" and dice.chance(0.4)
        to = ("", "", "")
        if day.month in (11, 12) and client.type in (PRIVATE, COUNCIL) and client.behaviour != "till":
            if dice.chance(0.3):
                lines.append(line_of(PRODUCTS["CO-NOEL"], dice.integer(1, 4), client, day))
            if dice.chance(0.35 if client.behaviour == "christmas" else 0.12):  # a present for somebody else
                shipped = True
                postcode, _ = dice.pick(TOWNS)
                to = (f"{dice.pick(LAST_NAMES)} {dice.pick(FIRST_NAMES)}", postcode, FRANCE)
        elif day.month in (6, 7, 8) and client.type == PRIVATE and dice.chance(0.08):
            lines.append(line_of(PRODUCTS["JU-BLANC"], 6, client, day))
        if client.behaviour == "till" and dice.chance(0.15):
            lines.append(line_of(PRODUCTS[TASTING], 2, client, day))
        if client.type == HORECA and dice.chance(0.06):
            lines.append(Line(DEPOSIT, dice.integer(1, 4), "", 500))
        total = sum(line.unit * line.quantity for line in lines)
        if shipped and total < 30_000:
            lines.append(Line(SHIPPING, 1, "", dice.pick((1250, 1490, 1890))))
        if client.type == PRIVATE and total > 25_000 and dice.chance(0.25):
            lines.append(Line(DISCOUNT, -1, "", round(total * 0.05)))
        if shipped and not to[0] and client.last and dice.chance(0.3):
            to = (f"{client.last} {client.first}", client.postcode, client.country)
        delivered = min(AS_OF, day + timedelta(days=dice.integer(2, 8))) if shipped else day
        kind = "TICKET" if client.behaviour == "till" else "FACTURE"
        documents.append(Document(client, kind, day, delivered, lines, to))
    return documents


_PREFIX = {
    "FACTURE": "F",
    "TICKET": "T",
    "AVOIR": "AV",
    "RETOUR": "AV",
    "DEVIS": "DE",
    "PROFORMA": "PF",
    "BL": "BL",
}


def make_documents(clients: Sequence[Client], seed: int = SEED) -> list[Document]:
    """Every document of three years, numbered in order of date, papers that count for nothing included."""
    documents = [d for c in clients for d in client_documents(c, seed)]
    invoices = sorted((d for d in documents if d.type == "FACTURE"), key=lambda d: (d.ordered, d.client.code))
    dice = Dice(seed, "papers")
    extra: list[Document] = []

    def again(source: Document, kind: str, day: date, lines: list[Line] | None = None) -> None:
        day = min(day, AS_OF)
        extra.append(Document(source.client, kind, day, day, source.lines if lines is None else lines))

    for invoice in dice.some(invoices, 16):
        again(invoice, "DEVIS", invoice.ordered - timedelta(days=7))
    for invoice in dice.some([d for d in invoices if d.client.type == HORECA], 18):
        again(invoice, "BL", invoice.ordered)
    for invoice in dice.some([d for d in invoices if d.client.type == EXPORT], 4):
        again(invoice, "PROFORMA", invoice.ordered - timedelta(days=3))
    for nth, invoice in enumerate(dice.some(invoices, 14)):
        first = invoice.lines[0]
        back = replace(first, quantity=-max(1, first.quantity // 2))
        if nth % 5 == 4:  # some write a credit note's lines as positive figures
            back = replace(back, quantity=-back.quantity)
        again(invoice, "RETOUR" if nth == 3 else "AVOIR", invoice.ordered + timedelta(days=12), [back])
    # A credit note that takes back all of an invoice, and an invoice whose own lines cancel out
    whole = invoices[len(invoices) // 2]
    reversed_lines = [replace(line, quantity=-line.quantity) for line in whole.lines]
    again(whole, "AVOIR", whole.ordered + timedelta(days=5), reversed_lines)
    own = invoices[len(invoices) // 2 + 40]
    again(
        own,
        "FACTURE",
        own.ordered + timedelta(days=1),
        [*own.lines, *(replace(line, quantity=-line.quantity) for line in own.lines)],
    )

    documents = sorted(
        (d for d in documents + extra if d.ordered >= START), key=lambda d: (d.ordered, d.type, d.client.code)
    )
    counters: Counter[tuple[str, int]] = Counter()
    for document in documents:
        prefix = _PREFIX[document.type]
        counters[prefix, document.ordered.year] += 1
        document.number = f"{prefix}{document.ordered.year}-{counters[prefix, document.ordered.year]:05d}"
    _spell_oddly(documents)
    return documents


def _spell_oddly(documents: list[Document]) -> None:
    """Labels as people type them: aliases, typographic apostrophes, ligatures, no vintage, unknown goods."""
    by_alias = {key: label for label, key in ALIASES.items()}
    seen: Counter[str] = Counter()
    identical_done = False
    for document in documents:
        if document.type not in ("FACTURE", "TICKET"):
            continue
        if not identical_done and document.ordered >= date(2023, 3, 1):
            # two identical lines on one invoice are two lines
            document.lines = [document.lines[0], *document.lines]
            identical_done = True
        for i, line in enumerate(document.lines):
            product = PRODUCTS[line.product]
            label = product.label
            seen[line.product] += 1
            nth = seen[line.product]
            if document.ordered.year == 2023 and line.product in by_alias and nth % 6 == 2:
                label = by_alias[line.product]
            elif "'" in label and nth % 4 == 1:
                label = label.replace("'", "’")
            elif "Œ" in label and nth % 3 == 1:
                label = label.replace("Œ", "Oe").upper()
            elif "Extra-Brut" in label and nth % 3 == 0:
                label = label.replace("Extra-Brut", "Extra Brut")
            elif product.vintage and nth % 37 == 11:
                label = label.replace(f" {product.vintage}", "")  # which vintage? the newest of that year
            elif line.product == "RI-VV-21" and nth % 20 == 6:  # a slip of the pen, near enough to be told
                label = label.replace("Vieilles", "Vieille")
            if label != product.label:
                document.lines[i] = replace(line, label=label, no_code=nth % 2 == 0 or "’" in label)
    for year, label in zip((2023, 2024, 2025), UNKNOWN_LABELS, strict=True):
        document = next(d for d in documents if d.ordered >= date(year, 10, 1) and d.type == "TICKET")
        document.lines.append(Line(TASTING, 2, "", 1250, label=label, no_code=True))


# Writing: one file's own way with numbers, dates and letters


def french_number(cents: int, thousands: str = "") -> str:
    """1234,56 with the file's own thousands separator."""
    euros, rest = divmod(abs(cents), 100)
    grouped = f"{euros:,}".replace(",", thousands)
    return f"{'-' if cents < 0 else ''}{grouped},{rest:02d}"


def french_date(day: date | None) -> str:
    """dd/mm/yyyy, or nothing."""
    return "" if day is None else f"{day:%d/%m/%Y}"


@dataclass(frozen=True)
class Defect:
    """A bad row of a sample file: where it stands and every code it is expected to be refused with."""

    path: str
    line: int  # physical line of the file (row of the sheet) where the record begins; the header is line 1
    record: int  # rank among the data records, from 1
    codes: tuple[str, ...]
    note: str


@dataclass
class BadRow:
    """Marks a record to be refused: every code it deserves, and why in words."""

    codes: tuple[str, ...]
    note: str


Record = dict[str, Any]
"""Field -> cell. `_bad` carries a BadRow; `_ragged` +n or -n cells."""


@dataclass
class SampleFile:
    """One file of the samples before it becomes bytes."""

    dataset: str
    name: str
    fields: tuple[str, ...]
    records: list[Record] = field(default_factory=list)
    encoding: str = "utf-8-sig"
    newline: str = "\r\n"
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """Where the file stands under the samples' root."""
        return f"isavigne/{self.dataset}/{self.name}"

    def header(self) -> list[str]:
        """The headers of the file, as iSaVigne spells them."""
        return [self.headers.get(f, HEADERS[self.dataset][f]) for f in self.fields]

    def cells(self, record: Record) -> list[Any]:
        """A record in the order of the file's columns, too long or too short where it is ragged."""
        cells = [record.get(f, "") for f in self.fields]
        extra = record.get("_ragged", 0)
        return cells + ["?"] * extra if extra >= 0 else cells[:extra]

    def insert_bad(self, share: float, codes: Sequence[str], note: str, ragged: int = 0, **changes: Any) -> None:
        """Put a bad copy of the record at `share` of the file after it; the good row stays whole.

        The copy gets a document of its own, so that a row repaired by a person never doubles a line.
        """
        at = int(len(self.records) * share)
        while "_bad" in self.records[at]:
            at += 1
        copy = {**self.records[at], **changes, "_bad": BadRow(tuple(codes), note), "_ragged": ragged}
        if "document" in copy and "document" not in changes:
            copy["document"] = f"{copy['document']}B"
        self.records.insert(at + 1, copy)

    def render(self) -> tuple[bytes, list[Defect]]:
        """The file's bytes and its bad rows."""
        return self._render_xlsx() if self.name.endswith(".xlsx") else self._render_csv()

    def _defect(self, record: Record, line: int, rank: int) -> Iterator[Defect]:
        if "_bad" in record:
            yield Defect(self.path, line, rank, record["_bad"].codes, record["_bad"].note)

    def _render_csv(self) -> tuple[bytes, list[Defect]]:
        out = io.StringIO(newline="")
        writer = csv.writer(out, delimiter=";", lineterminator=self.newline)
        writer.writerow(self.header())
        line = 2
        defects: list[Defect] = []
        for rank, record in enumerate(self.records, start=1):
            cells = [str(c) for c in self.cells(record)]
            writer.writerow(cells)
            defects += self._defect(record, line, rank)
            line += 1 + sum(c.count("\n") for c in cells)
        return out.getvalue().encode(self.encoding), defects

    def _render_xlsx(self) -> tuple[bytes, list[Defect]]:
        raw = io.BytesIO()
        defects: list[Defect] = []
        with xlsxwriter.Workbook(raw, {"in_memory": True}) as book:
            book.set_properties({"created": datetime(2025, 12, 31, 18, 0)})
            sheet = book.add_worksheet("Ventes")
            as_date = book.add_format({"num_format": "dd/mm/yyyy"})
            sheet.write_row(0, 0, self.header())
            for rank, record in enumerate(self.records, start=1):
                for column, cell in enumerate(self.cells(record)):
                    if isinstance(cell, date):
                        sheet.write_datetime(rank, column, datetime(cell.year, cell.month, cell.day), as_date)
                    elif isinstance(cell, (int, float)):
                        sheet.write_number(rank, column, cell)
                    elif cell:
                        sheet.write_string(rank, column, cell)
                defects += self._defect(record, rank + 1, rank)
        # Stored, not deflated: compressed bytes differ between builds of zlib, and the samples are compared.
        stored = io.BytesIO()
        with zipfile.ZipFile(raw) as old, zipfile.ZipFile(stored, "w", zipfile.ZIP_STORED) as new:
            for entry in old.infolist():
                info = zipfile.ZipInfo(entry.filename, (1980, 1, 1, 0, 0, 0))
                info.create_system = 0
                new.writestr(info, old.read(entry.filename))
        return stored.getvalue(), defects


@dataclass
class Samples:
    """The sample estate: bytes per path, data records per path, and the bad rows with their codes."""

    files: dict[str, bytes]
    records: dict[str, int]
    defects: list[Defect]


# --- sales


def sales_records(documents: Sequence[Document], thousands: str = "", brackets: bool = False) -> list[Record]:
    """The lines of documents as a CSV export writes them; `brackets`: negative figures as (3)."""

    def number(text: str) -> str:
        return f"({text[1:]})" if brackets and text.startswith("-") else text

    records: list[Record] = []
    for typed in typed_sales(documents):
        record = dict(typed)
        for key in ("unit", "ht", "ttc", "margin"):
            record[key] = "" if typed[key] is None else number(french_number(typed[key], thousands))
        record["quantity"] = number(str(typed["quantity"]))
        record["ordered"], record["delivered"] = (
            french_date(typed["ordered"]),
            french_date(typed["delivered"]),
        )
        records.append(record)
    return records


def typed_sales(documents: Sequence[Document]) -> Iterator[Record]:
    """The lines of documents, money in cents, dates as dates."""
    for document in documents:
        client = document.client
        taxed = client.country == FRANCE
        for number, line in enumerate(document.lines, start=1):
            product = PRODUCTS[line.product]
            ht = line.unit * line.quantity
            bottles = line.quantity * (6 if line.article == "CARTON6" else 1)
            costed = product.cost is not None and product.kind
            yield {
                "client": client.code,
                "type": document.type,
                "document": document.number,
                "line": str(number),
                "product": "" if line.no_code else line.product,
                "label": line.label or product.label,
                "article": line.article,
                "vintage": "" if line.label else str(product.vintage or ""),
                "ordered": line.ordered or document.ordered,
                "delivered": document.delivered,
                "quantity": line.quantity,
                "unit": line.unit,
                "ht": ht,
                "ttc": round(ht * VAT_FRANCE) if taxed else ht,
                "margin": ht - bottles * (product.cost or 0) if costed else None,
                "postcode": client.postcode,
                "country": client.country,
                "to_name": document.to[0],
                "to_postcode": document.to[1],
                "to_country": document.to[2],
                "seller": "Caveau" if document.type == "TICKET" else "Bureau",
            }


def _spell_types(records: list[Record]) -> None:
    """Give one invoice each of the other names that a document which counts, or counts not, may have."""
    spelt = {"VENTE": "FACTURE", "": "FACTURE", "Facture": "FACTURE", "Bon de livraison": "BL", "COMMANDE": "DEVIS"}
    taken: set[str] = set()
    for name, kind in spelt.items():
        chosen = next(
            r
            for r in records
            if r["type"] == kind and r["line"] == "1" and r["document"] not in taken and not r["to_name"]
        )
        taken.add(chosen["document"])
        for record in records:
            if (record["document"], record["client"]) == (chosen["document"], chosen["client"]):
                record["type"] = name


SALES_FIELDS = tuple(HEADERS["ventes_lignes"])
OVERLAP_FROM, OVERLAP_TO = date(2025, 12, 1), date(2025, 12, 10)  # days told by the two newest sales files


def sales_files(documents: list[Document]) -> list[SampleFile]:
    """Five drops; the last, the December workbook, corrects the days it shares with the one before."""

    def within(first: date, last: date) -> list[Document]:
        return [d for d in documents if first <= d.ordered <= last]

    def drop(name: str, records: list[Record], **style: Any) -> SampleFile:
        return SampleFile("ventes_lignes", name, style.pop("fields", SALES_FIELDS), records, **style)

    # 2023: the old till, without codes, line numbers, margins; one date only
    old = drop(
        "ventes_2023-12-31.csv",
        sales_records(within(START, date(2023, 12, 31)), thousands=NBSP),
        encoding="cp1252",
        headers={"delivered": "Date facture", "label": "Libellé"},
        fields=tuple(f for f in SALES_FIELDS if f not in ("line", "product", "ordered", "ttc", "margin", "seller")),
    )
    for record in old.records:
        record["delivered"] = record["ordered"]
    for nth, record in enumerate(old.records):
        if nth % 60 == 7:
            record["unit"] += f"{NBSP}€"
        if nth % 90 == 11:  # two-digit year
            record["delivered"] = record["delivered"][:6] + record["delivered"][8:]
    old.insert_bad(0.10, ["MISSING_CLIENT"], "no client code", client="")
    old.insert_bad(0.30, ["MISSING_PRODUCT"], "neither code nor label", label="")
    old.insert_bad(0.50, ["INVALID_DATE"], "31 April", delivered="31/04/2023")
    old.insert_bad(0.70, ["RAGGED_ROW"], "two cells too few", ragged=-2)
    total = {
        "_bad": BadRow(
            ("MISSING_CLIENT", "MISSING_DOCUMENT", "MISSING_PRODUCT", "MISSING_DATE", "MISSING_QUANTITY"),
            "the export's own total line",
        ),
        "ht": french_number(9_876_543, NBSP),
    }
    old.records.append(total)

    year = drop(
        "ventes_2024-12-31.csv",
        sales_records(within(date(2024, 1, 1), date(2024, 12, 31)), NNBSP, brackets=True),
    )
    for nth, record in enumerate(year.records):
        if nth % 200 == 13:  # only the amount with VAT, or only the unit price
            record["ht"] = ""
        elif nth % 200 == 113:
            record["ht"] = record["ttc"] = ""
        elif nth % 150 == 17:
            record["delivered"] = record["delivered"].replace("/", "-")
        elif nth % 150 == 57:
            day, month, number = record["ordered"].split("/")
            record["ordered"] = f"{number}-{month}-{day} 10:22:00"
    for record in year.records:
        if record["product"] == "CO-NOEL":  # one label with a delimiter, quotes and a line break in it
            record["label"] = 'Coffret "Noël en Alsace"; 2 bouteilles\n(ruban rouge)'
            break
    year.insert_bad(0.10, ["INVALID_DATE"], "30 February", ordered="30/02/2024")
    year.insert_bad(0.20, ["INVALID_NUMBER"], "a quantity in letters", quantity="douze")
    year.insert_bad(0.30, ["MISSING_AMOUNT"], "no amount, no price", unit="", ht="", ttc="")
    year.insert_bad(0.40, ["MISSING_DOCUMENT"], "no document number", document="")
    year.insert_bad(0.50, ["MISSING_QUANTITY"], "no quantity", quantity="")
    year.insert_bad(0.60, ["MISSING_DATE"], "neither date", ordered="", delivered="")
    year.insert_bad(0.70, ["INVALID_KEY"], "an Excel error for a client code", client="#REF!")
    year.insert_bad(0.80, ["RAGGED_ROW"], "one cell too many", ragged=1)
    year.insert_bad(0.90, ["MISSING_CLIENT", "INVALID_NUMBER"], "two faults in one row", client="", ht="12,3,4")

    half = drop(
        "ventes_30-06-2025.csv",
        sales_records(within(date(2025, 1, 1), date(2025, 6, 30))),
        encoding="cp1252",
        fields=SALES_FIELDS[2:4] + SALES_FIELDS[:2] + SALES_FIELDS[4:],
    )
    _spell_types(half.records)
    for record in half.records:  # thousands as some offices write them: 1.234,56 and 1 234,56
        for name, mark in (("ht", "."), ("ttc", " ")):
            whole, _, cents = record[name].partition(",")
            if len(whole) == 4 and whole.isdigit():
                record[name] = f"{whole[0]}{mark}{whole[1:]},{cents}"
    half.insert_bad(0.25, ["INVALID_NUMBER"], "an amount that is a word", ht="offert")
    half.insert_bad(0.75, ["INVALID_KEY"], "a client code of punctuation", client="---")
    # One line number told twice with another content: not refused, the breaker counts it (DUPLICATE_LINE)
    twin = next(r for r in half.records if r["type"] == "FACTURE" and "_bad" not in r and r["quantity"] == "6")
    half.records.insert(half.records.index(twin) + 1, {**twin, "quantity": "12"})
    # Buyers nobody knows: they count, an inferred member stands for each
    for nth, record in enumerate(r for r in list(half.records) if r["type"] == "FACTURE" and "_bad" not in r):
        if nth % 150 == 75:
            at = half.records.index(record)
            half.records.insert(
                at + 1,
                {
                    **record,
                    "client": f"0{9000 + nth}",
                    "line": "1",
                    "document": f"F2025-9{nth:04d}",
                    "to_name": "",
                    "to_postcode": "",
                    "to_country": "",
                },
            )

    until = drop("ventes_2025-12-10.csv", sales_records(within(date(2025, 7, 1), OVERLAP_TO)), newline="\n")
    # A document number given to two clients: two documents, reported
    first, other = [r for r in until.records if r["type"] == "FACTURE" and r["line"] == "1"][:2]
    at = until.records.index(other)
    until.records.insert(at, {**other, "document": first["document"], "line": "1"})
    until.insert_bad(0.30, ["MISSING_AMOUNT"], "no amount, no price", unit="", ht="", ttc="")
    # What the December workbook corrects: the first word was one bottle more on every third line
    for nth, record in enumerate(r for r in until.records if r["ordered"][3:] == "12/2025" and "_bad" not in r):
        if nth % 3 == 0 and record["type"] == "FACTURE" and record["quantity"] == "6":
            record["quantity"] = "7"
            record["ht"] = french_number(7 * round(float(record["unit"].replace(",", ".")) * 100))
            record["ttc"] = ""

    december: list[Record] = []
    for typed in typed_sales(within(OVERLAP_FROM, AS_OF)):
        money = {k: None if typed[k] is None else typed[k] / 100 for k in ("unit", "ht", "ttc", "margin")}
        december.append({**typed, **{k: "" if v is None else v for k, v in money.items()}})
    book = drop("ventes_2025-12-31.xlsx", december)
    # An order in two parts: its first line is of 28 November, outside the workbook's days, so it lives on
    split = next(r for r in until.records if r["ordered"][3:] == "11/2025" and r["type"] == "FACTURE")
    part = next(r for r in december if r["type"] == "FACTURE" and r["client"] not in (TILL, split["client"]))
    until.records.insert(
        until.records.index(split),
        {
            **split,
            "client": part["client"],
            "document": part["document"],
            "type": "FACTURE",
            "line": "90",
            "postcode": part["postcode"],
            "country": part["country"],
            "to_name": "",
            "to_postcode": "",
            "to_country": "",
            "ordered": "28/11/2025",
            "delivered": "28/11/2025",
        },
    )
    for nth, record in enumerate(december):  # serials and text where other rows hold real dates
        if nth % 80 == 20:
            record["delivered"] = (record["delivered"] - date(1899, 12, 30)).days
        elif nth % 80 == 60:
            record["delivered"] = french_date(record["delivered"])
    book.insert_bad(0.5, ["MISSING_QUANTITY"], "no quantity", quantity="")
    return [old, year, half, until, book]


# --- customers


def client_record(client: Client) -> Record:
    """One row of the client export."""
    names = (
        "last",
        "first",
        "company",
        "email",
        "phone",
        "mobile",
        "address",
        "postcode",
        "city",
        "country",
        "type",
        "status",
        "opt_in",
        "opt_in_source",
        "opt_out",
        "no_phone",
        "no_post",
        "language",
    )
    return {
        "client": client.code,
        **{n: getattr(client, n) for n in names},
        "opt_in_date": french_date(client.opt_in_date),
        "birth": french_date(client.birth),
    }


def client_files(clients: list[Client], documents: list[Document], seed: int) -> list[SampleFile]:
    """Two exports: the March one knows fewer clients and older addresses; the December one is complete."""
    march = date(2025, 3, 31)
    first_order: dict[str, date] = {}
    for document in documents:
        first_order.setdefault(document.client.code, document.ordered)
    fields = tuple(HEADERS["clients"])
    dice = Dice(seed, "moves")
    older: list[Record] = []
    for nth, client in enumerate(clients):
        if first_order.get(client.code, AS_OF if nth % 2 else START) > march:
            continue
        past = client_record(client)
        if client.opt_in_date and client.opt_in_date > march:
            past["opt_in"] = past["opt_in_date"] = past["opt_in_source"] = ""
        if client.behaviour == "regular" and dice.chance(0.25):
            past["address"] = f"{dice.integer(1, 98)}, {dice.pick(STREETS)}"
            past["phone"] = ""
        if client.status in ("Décédé", "Litige"):
            past["status"] = "Actif"
        older.append(past)
    # A refusal the newer export has forgotten stays a refusal
    forgotten = [r for r in older if r["email"] and not r["opt_out"] and r["type"] == PRIVATE][24:26]
    for record in forgotten:
        record["opt_out"] = "oui"
    first = SampleFile(
        "clients",
        "clients_31-03-2025.csv",
        tuple(f for f in fields if f not in ("birth", "language")),
        older,
        encoding="cp1252",
    )
    first.insert_bad(0.4, ["MISSING_CLIENT"], "no client code", client="")
    newest = SampleFile("clients", "clients_2025-12-31.csv", fields, [client_record(c) for c in clients])
    newest.insert_bad(0.3, ["INVALID_KEY"], "an Excel error for a client code", client="#N/A")
    newest.insert_bad(0.6, ["RAGGED_ROW"], "two cells too many", ragged=2, client="09998")
    newest.insert_bad(0.8, ["INVALID_DATE"], "a consent of 29 February 2025", opt_in_date="29/02/2025")
    return [first, newest]


# --- products, stock, contacts, alias


def product_record(product: Product) -> Record:
    """One row of the catalogue export."""
    wine = product.wine
    record: Record = {
        "product": product.code,
        "label": product.label,
        "format": product.format,
        "vintage": product.vintage or "",
        "family": product.family,
        "kind": product.kind,
        "active": "oui" if product.active else "non",
        "archived": "oui" if product.archived else "non",
        "allocation": "non",
        "sold_by": "1",
        "price": "" if product.price is None else french_number(product.price),
    }
    if product.kind and product.price and product.cost is not None:
        record["cost"] = french_number(product.cost)
        record["margin"] = french_number(round(product.price / VAT_FRANCE) - product.cost)
        record["url"] = f"https://boutique.example.org/vins/{product.code.lower()}"
        record["image"] = f"https://boutique.example.org/images/{product.code.lower()}.jpg"
    if wine:
        record |= {
            "sub_family": wine.grape,
            "macro": "Effervescent" if wine.family == _FIZZ else "Tranquille",
            "colour": wine.colour,
            "grape": wine.grape,
            "sweetness": wine.sweetness,
            "tier": wine.tier,
            "seasons": wine.seasons,
            "awards": wine.awards,
            "allocation": "oui" if wine.tier == "Icon" else "non",
            "sold_by": "6" if wine.tier == "Standard" and wine.format == "75cl" else "1",
            "description": f"{wine.grape} {wine.sweetness} du domaine.",
            **dict(zip(AROMAS, wine.aromas, strict=False)),
        }
    return record


OUT_OF_STOCK = ("RI-MUE-22", "PN-ROSE-24", "CO-GC", "GW-DEMI-22")


def stock_records(day: date, seed: int) -> list[Record]:
    """Bottles in the two cellars on a day; the older vintage is nearly gone."""
    records = []
    for product in PRODUCTS.values():
        if not product.kind or product.archived:
            continue
        dice = Dice(seed, "stock", product.code, day)
        main = dice.integer(120, 900) if product.active else dice.integer(0, 6)
        if product.wine and product.wine.tier in ("Prestige", "Icon") and product.active:
            main = main // 3
        if product.code in OUT_OF_STOCK:
            main = 0
        reserved = min(main, dice.integer(0, 24))
        common = {"product": product.code, "as_of": french_date(day)}
        records.append({**common, "warehouse": "Principal", "quantity": main, "reserved": reserved})
        if product.wine and product.active:
            shop = 0 if product.code in OUT_OF_STOCK else dice.integer(6, 36)
            records.append({**common, "warehouse": "Caveau", "quantity": shop, "reserved": 0})
    return records


def contact_records(clients: list[Client], seed: int) -> list[Record]:
    """Whom the estate wrote to or rang: campaigns, the last fortnight, too often, refusals."""
    dice = Dice(seed, "contacts")
    people = [c for c in clients if c.type == PRIVATE and c.behaviour != "till"]
    mailed = [c for c in people if "@example." in c.email and not c.opt_out]
    records: list[Record] = []

    def add(client: Client, day: date, channel: str, status: str, campaign: str, by_email: bool = False) -> None:
        records.append(
            {
                "client": "" if by_email else client.code,
                "email": client.email if channel == "email" else "",
                "date": french_date(day),
                "channel": channel,
                "status": status,
                "campaign": campaign,
            }
        )

    newsletter = {"envoyé": 50.0, "ouvert": 28.0, "cliqué": 10.0, "": 6.0, "délivré": 6.0}
    for day, campaign, share in (
        (date(2024, 3, 12), "PRINTEMPS-2024", 0.3),
        (date(2024, 11, 19), "NOEL-2024", 0.4),
        (date(2025, 3, 18), "PRINTEMPS-2025", 0.35),
        (date(2025, 6, 10), "ETE-2025", 0.35),
        (date(2025, 11, 18), "NOEL-2025", 0.4),
    ):
        for nth, client in enumerate(dice.some(mailed, int(len(mailed) * share))):
            add(client, day, "email", dice.weighted(newsletter), campaign, by_email=nth % 9 == 4)
    for client in dice.some(people, 40):
        add(client, date(2025, 10, 7), "courrier", dice.weighted({"envoyé": 9, "": 2}), "CATALOGUE-2025")
    for client in dice.some(people, 15):
        add(client, date(2025, 12, 9), "téléphone", dice.weighted({"envoyé": 4, "": 2}), "APPELS-2025")
    for client in dice.some(mailed, 28):  # inside the silence window of the as-of date
        add(client, date(2025, 12, 18 + dice.integer(0, 12)), "email", dice.weighted(newsletter), "VOEUX-2025")
    tired = dice.some([c for c in mailed if c.behaviour == "regular"], 7)
    for client in tired:  # four and more contacts in ninety days, none in the last fortnight
        for week in range(dice.integer(4, 6)):
            add(
                client,
                date(2025, 10, 14) + timedelta(days=9 * week),
                "email",
                "envoyé",
                f"RELANCE-{week + 1}",
            )
    ended = dice.some(mailed, 14)
    for client, status in zip(
        ended,
        (
            "bounce",
            "NPAI",
            "bounce",
            "hard bounce",
            "désabonné",
            "STOP",
            "désabonné",
            "bounce",
            "désabonné",
            "STOP",
            "NPAI",
            "désabonné",
            "plainte",
            "répondeur",
        ),
        strict=True,
    ):
        channel = {"STOP": "sms", "NPAI": "courrier", "répondeur": "téléphone"}.get(status, "email")
        add(client, date(2025, 9, 2), channel, status, "RENTREE-2025")
    return sorted(records, key=lambda r: (r["date"][6:] + r["date"][3:5] + r["date"][:2], r["campaign"], r["client"]))


def other_files(clients: list[Client], seed: int) -> list[SampleFile]:
    """Catalogue, two stock counts, contacts and aliases, each with its own bad rows."""
    products = SampleFile(
        "produits",
        "produits_2025-12-31.csv",
        tuple(HEADERS["produits"]),
        [product_record(p) for p in PRODUCTS.values()],
    )
    products.insert_bad(0.6, ["MISSING_PRODUCT"], "neither code nor label", product="", label="")
    products.insert_bad(
        0.8,
        ["INVALID_NUMBER"],
        "a price in words",
        product="XX-PRIX",
        label="Essai prix",
        price="sur demande",
    )
    products.insert_bad(0.3, ["INVALID_KEY"], "a long code that Excel has made a number", product="4,52E+11")
    products.insert_bad(0.9, ["RAGGED_ROW"], "a cell too few", ragged=-1)

    november = SampleFile(
        "stock",
        "stock_2025-11-30.csv",
        tuple(HEADERS["stock"]),
        stock_records(date(2025, 11, 30), seed),
        encoding="cp1252",
    )
    newest = SampleFile("stock", "stock_2025-12-31.csv", tuple(HEADERS["stock"]), stock_records(AS_OF, seed))
    for nth, record in enumerate(november.records):  # dates and numbers in the other spellings of spec.md §2.2
        day, month, year = record["as_of"].split("/")
        spellings = (f"{year}-{month}-{day}", f"{year}/{month}/{day}", f"{year}.{month}.{day}", f"{day}.{month}.{year}")
        record["as_of"] = (*spellings, record["as_of"])[nth % 5]
        if nth % 20 == 3:
            record["quantity"] = f"{record['quantity'] + 1000:,}.00"
        elif nth % 20 == 13:
            record["quantity"] = f"{record['quantity'] + 1000:,}.00".replace(",", "'")
    november.insert_bad(0.2, ["INVALID_DATE"], "30 February", as_of="30/02/2024")
    november.insert_bad(0.3, ["MISSING_PRODUCT"], "no product key", product="")
    november.insert_bad(0.8, ["RAGGED_ROW"], "a cell too many", ragged=1)
    november.insert_bad(0.5, ["INVALID_NUMBER"], "a quantity in letters", quantity="beaucoup", warehouse="Annexe")
    newest.insert_bad(0.4, ["INVALID_KEY"], "an Excel error for a product key", product="#N/A")
    newest.insert_bad(0.7, ["MISSING_QUANTITY"], "no quantity", quantity="", warehouse="Annexe")

    contacts = SampleFile(
        "contacts",
        "contacts_2025-12-31.csv",
        tuple(HEADERS["contacts"]),
        contact_records(clients, seed),
        encoding="cp1252",
    )
    contacts.insert_bad(0.2, ["MISSING_CLIENT"], "neither client code nor e-mail", client="", email="")
    contacts.insert_bad(0.5, ["MISSING_DATE"], "no date", date="")
    contacts.insert_bad(0.8, ["INVALID_DATE"], "29 February of a common year", date="29/02/2025")
    contacts.insert_bad(0.6, ["INVALID_KEY"], "an Excel error for a client code", client="#N/A")
    contacts.insert_bad(0.3, ["RAGGED_ROW"], "two cells too few", ragged=-2)

    alias = SampleFile(
        "alias",
        "alias_2025-12-31.csv",
        tuple(HEADERS["alias"]),
        [{"label": label, "product": key} for label, key in ALIASES.items()],
    )
    alias.insert_bad(0.5, ["INVALID_KEY"], "a product key of punctuation", label="Ancien libellé", product="???")
    alias.insert_bad(0.2, ["MISSING_PRODUCT"], "a label that means nothing yet", label="Vieux libellé", product="")
    alias.insert_bad(0.8, ["RAGGED_ROW"], "a cell too many", ragged=1)
    return [products, november, newest, contacts, alias]


def build_samples(seed: int = SEED) -> Samples:
    """The whole sample estate in memory; the same seed gives the same bytes."""
    clients = make_clients(seed)
    documents = make_documents(clients, seed)
    samples = Samples({}, {}, [])
    for file in (
        *sales_files(documents),
        *client_files(clients, documents, seed),
        *other_files(clients, seed),
    ):
        samples.files[file.path], defects = file.render()
        samples.records[file.path] = len(file.records)
        samples.defects += defects
    return samples


def write_samples(out: Path, seed: int = SEED) -> Samples:
    """Write the samples under `out`."""
    samples = build_samples(seed)
    for path, content in samples.files.items():
        target = out / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    return samples


# The same clothes at any size: integers first, whole columns at a time, text only chunk by chunk

CHUNK_LINES = 250_000
SCALE_BAD_SHARE = 0.0005
_DAYS = (AS_OF - START).days + 1
_ORDER_SIZES = np.array([0.28, 0.24, 0.20, 0.13, 0.09, 0.06])  # 1..6 lines
_SCALE_VINTAGES = (2022, 2023, 2024)  # each sold in the year after

Cells = list[str]


def _break(code: str) -> Callable[[Cells], Cells]:
    """How a good row of sales becomes one that is refused with `code`."""
    values = {
        "MISSING_CLIENT": {"client": ""},
        "MISSING_DOCUMENT": {"document": ""},
        "MISSING_PRODUCT": {"product": "", "label": ""},
        "MISSING_DATE": {"ordered": "", "delivered": ""},
        "INVALID_DATE": {"ordered": "30/02/2024"},
        "MISSING_QUANTITY": {"quantity": ""},
        "INVALID_NUMBER": {"quantity": "douze"},
        "MISSING_AMOUNT": {"unit": "", "ht": "", "ttc": ""},
        "INVALID_KEY": {"client": "#REF!"},
        "RAGGED_ROW": {},
    }[code]

    def apply(cells: Cells) -> Cells:
        changed = [values.get(f, c) for f, c in zip(SALES_FIELDS, cells, strict=True)]
        return changed[:-2] if code == "RAGGED_ROW" else changed

    return apply


@dataclass(frozen=True)
class ScaleFile:
    """One file written: its path under `out`, its data records and how many of them are bad, by code."""

    path: str
    records: int
    bad: dict[str, int]


def _texts(values: Sequence[str]) -> pa.Array:
    return pa.array(values, type=pa.string())


def _padded(numbers: np.ndarray, width: int) -> pa.Array:
    return pc.utf8_lpad(pc.cast(pa.array(numbers), pa.string()), width, "0")


_CENTS = _texts([f"{c:02d}" for c in range(100)])
_DATES = _texts([f"{START + timedelta(days=d):%d/%m/%Y}" for d in range(_DAYS)])


def _money(cents: np.ndarray) -> pa.Array:
    size = np.abs(cents)
    sign = _texts(["", "-"]).take(pa.array((cents < 0).astype(np.int8)))
    euros = pc.cast(pa.array(size // 100), pa.string())
    return pc.binary_join_element_wise(sign, euros, ",", _CENTS.take(pa.array(size % 100)), "")


def _rows(*columns: Any) -> pa.Array:
    """Columns (arrays or one constant text) -> one text per row, line end included."""
    return pc.binary_join_element_wise(*columns[:-1], pc.binary_join_element_wise(columns[-1], "\r\n", ""), ";")


class _Sink:
    """A CSV file being written from arrays of ready rows."""

    def __init__(self, out: Path, dataset: str, name: str, fields: Sequence[str]) -> None:
        self.path, self.records, self.bad = f"isavigne/{dataset}/{name}", 0, Counter[str]()
        target = out / self.path
        target.parent.mkdir(parents=True, exist_ok=True)
        self._file = target.open("wb")
        header = ";".join(HEADERS[dataset][f] for f in fields)
        self._file.write(f"\ufeff{header}\r\n".encode())

    def write(self, rows: pa.Array) -> None:
        offsets = np.frombuffer(rows.buffers()[1], dtype=np.int32)
        start, stop = offsets[rows.offset], offsets[rows.offset + len(rows)]
        self._file.write(memoryview(rows.buffers()[2])[start:stop])
        self.records += len(rows)

    def close(self) -> ScaleFile:
        self._file.close()
        return ScaleFile(self.path, self.records, dict(self.bad))


def scale_products(count: int) -> tuple[list[Product], np.ndarray]:
    """`count` catalogue lines, and for each wine the index of its first vintage (three follow each other)."""
    others = list(OTHER_PRODUCTS)
    templates = [w for w in WINES if w.calendar != "nv" and w.format == "75cl"]
    if count < len(others) + len(_SCALE_VINTAGES):
        raise ValueError(f"at least {len(others) + len(_SCALE_VINTAGES)} products are needed")
    wines, rest = divmod(count - len(others), len(_SCALE_VINTAGES))
    products = others + [
        replace(
            OTHER_PRODUCTS[0],
            code=f"JU-{n}",
            label=f"Jus de raisin cuvée {n}",
            price=500,
            kind="other_drink",
            family="Jus de raisin",
        )
        for n in range(rest)
    ]
    starts = np.arange(wines, dtype=np.int32) * len(_SCALE_VINTAGES) + len(products)
    for n in range(wines):
        wine, plot = templates[n % len(templates)], n // len(templates)
        base = wine.label.replace(" {v}", f" Clos {plot:03d}" if plot else "")
        products += [
            Product(
                f"{wine.code}-{plot:03d}-{v % 100}",
                f"{base} {v}",
                wine.format,
                v,
                wine.price + 37 * (plot % 20),
                "wine",
                wine.family,
                wine,
                active=v == _SCALE_VINTAGES[-1],
            )
            for v in _SCALE_VINTAGES
        ]
    return products, starts


@dataclass(frozen=True)
class _Orders:
    """Every order in order of date, as columns."""

    customer: np.ndarray
    day: np.ndarray
    lines: np.ndarray


def scale_orders(lines: int, customers: int, rng: np.random.Generator) -> _Orders:
    """Who orders when, and how many lines: own rhythms, some lapsed, some new, a third drawn to Christmas."""
    sizes = rng.choice(np.arange(1, 7, dtype=np.int8), size=lines, p=_ORDER_SIZES)
    ends = np.cumsum(sizes, dtype=np.int64)
    count = int(np.searchsorted(ends, lines)) + 1
    sizes = sizes[:count].copy()
    sizes[-1] -= ends[count - 1] - lines

    buyers = max(1, round(customers * 0.85))  # the others are prospects
    weight = np.cumsum(rng.gamma(0.8, size=buyers) + 0.1)
    who = np.sort(np.searchsorted(weight, rng.random(count) * weight[-1]).astype(np.int32))
    orders_of = np.bincount(who, minlength=buyers)
    rank = np.arange(count) - np.repeat(np.cumsum(orders_of) - orders_of, orders_of)
    fate = rng.random(buyers)
    first = np.where(fate > 0.85, rng.integers(900, _DAYS - 20, buyers), rng.integers(0, 200, buyers))
    last = np.where(fate < 0.25, rng.integers(250, 700, buyers), _DAYS)
    span = np.maximum(last - first, 20)
    day = first[who] + span[who] * (rank + rng.uniform(0.25, 0.75, count)) / orders_of[who]
    christmas = rng.random(count) < 0.15
    year_start = np.searchsorted([365, 731], day, side="right") * 365.4
    day = np.where(christmas & (fate[who] >= 0.25), year_start + rng.integers(318, 355, count), day)
    day = np.clip(day, 0, _DAYS - 1).astype(np.int16)
    day[-1] = _DAYS - 1  # the estate is alive: its newest sale is of the as-of date
    order = np.argsort(day, kind="stable")
    return _Orders(who[order], day[order], sizes)


def _scale_sales(
    out: Path, lines: int, customers: int, products: int, files: int, rng: np.random.Generator
) -> Iterator[ScaleFile]:
    catalogue, starts = scale_products(products)
    orders = scale_orders(lines, customers, rng)
    ends = np.cumsum(orders.lines, dtype=np.int64)

    popularity = np.cumsum(1.0 / np.arange(1, len(starts) + 1) ** 0.8)
    templates = sum(w.calendar != "nv" and w.format == "75cl" for w in WINES)

    def popular(count: int) -> np.ndarray:
        return np.searchsorted(popularity, rng.random(count) * popularity[-1]).astype(np.int32)

    # three favourites each; the second and third are often the same kind of wine from another plot
    love = popular(customers)
    kin = (love[:, None] + templates * rng.integers(0, 9, (customers, 2))) % len(starts)
    favourites = np.column_stack([love, np.where(rng.random((customers, 2)) < 0.6, kin, love[::-1, None])])

    per_product = _texts([";".join([p.code, p.label, p.format, str(p.vintage or "")]) for p in catalogue])
    price_ht = np.array([round((p.price or 1800) / VAT_FRANCE) for p in catalogue])
    cost = np.array([p.cost or 0 for p in catalogue])
    shipping = next(i for i, p in enumerate(catalogue) if p.code == SHIPPING)
    index = np.array([PRICE_INDEX[y] for y in (2023, 2024, 2025)])
    towns = _texts([f"{postcode};{FRANCE}" for postcode, _ in TOWNS])
    gifts = _texts([";;", *(f"{last} {FIRST_NAMES[0]};67000;{FRANCE}" for last in LAST_NAMES)])
    kinds, prefixes = _texts(["FACTURE", "AVOIR", "DEVIS"]), _texts(["F", "AV", "DE"])
    years = _texts(["2023", "2024", "2025"])

    bad_count = max(len(BAD_ROW_CODES), round(lines * SCALE_BAD_SHARE))
    bad_lines = np.sort(rng.choice(lines, size=min(lines, bad_count), replace=False))

    # files end on whole days; a file that would be empty is not made
    cuts = sorted({int(orders.day[np.searchsorted(ends, lines * (n + 1) // files)]) for n in range(files - 1)})
    cuts = [c for c in cuts if c < _DAYS - 1] + [_DAYS - 1]
    begin = 0
    for cut in cuts:
        stop = int(np.searchsorted(orders.day, cut, side="right"))
        sink = _Sink(out, "ventes_lignes", f"ventes_{START + timedelta(days=cut)}.csv", SALES_FIELDS)
        while begin < stop:
            offset = int(ends[begin - 1]) if begin else 0
            end = min(stop, max(begin + 1, int(np.searchsorted(ends, offset + CHUNK_LINES))))
            size = orders.lines[begin:end].astype(np.int64)
            day, who = orders.day[begin:end], orders.customer[begin:end]
            year = np.searchsorted([365, 731], day, side="right")
            kind = np.searchsorted([0.98, 0.99], rng.random(end - begin), side="right")
            ship = np.minimum(
                day + np.where(rng.random(end - begin) < 0.4, rng.integers(2, 9, end - begin), 0), _DAYS - 1
            )
            gift = np.where(
                (day % 365 > 310) & (rng.random(end - begin) < 0.15),
                rng.integers(1, len(gifts), end - begin),
                0,
            )
            of = np.repeat(np.arange(end - begin), size)  # line -> its order
            number = np.arange(len(of)) - np.repeat(np.cumsum(size) - size, size) + 1
            wine = np.where(
                rng.random(len(of)) < 0.65, favourites[who[of], rng.integers(0, 3, len(of))], popular(len(of))
            )
            # the last line of some longer orders is the shipping
            is_shipping = (number == size[of]) & (number > 2) & (rng.random(len(of)) < 0.4)
            product = np.where(is_shipping, shipping, starts[wine] + year[of])
            quantity = np.where(is_shipping, 1, np.array([1, 2, 3, 6, 6, 6, 12, 12])[rng.integers(0, 8, len(of))])
            quantity = np.where(kind[of] == 1, -quantity, quantity)
            unit = np.rint(price_ht[product] * index[year[of]]).astype(np.int64)
            ht = unit * quantity
            code = pc.binary_join_element_wise("C", _padded(who + 1, 7), "")
            document = pc.binary_join_element_wise(
                prefixes.take(pa.array(kind)),
                years.take(pa.array(year)),
                _padded(np.arange(begin, end) + 1, 8),
                "-",
            )
            by_order = pc.binary_join_element_wise(code, kinds.take(pa.array(kind)), document, ";")
            dates = pc.binary_join_element_wise(_DATES.take(pa.array(day)), _DATES.take(pa.array(ship)), ";")
            place = pc.binary_join_element_wise(
                towns.take(pa.array(who % len(towns))), gifts.take(pa.array(gift)), "Bureau", ";"
            )
            line = pa.array(of)
            rows = _rows(
                by_order.take(line),
                pc.cast(pa.array(number), pa.string()),
                per_product.take(pa.array(product)),
                dates.take(line),
                pc.cast(pa.array(quantity), pa.string()),
                _money(unit),
                _money(ht),
                _money(np.rint(ht * VAT_FRANCE).astype(np.int64)),
                _money(ht - cost[product] * quantity),
                place.take(line),
            )
            lowest, highest = np.searchsorted(bad_lines, [offset, offset + len(of)])
            if highest > lowest:
                mask, broken = np.zeros(len(of), dtype=bool), []
                for nth in range(lowest, highest):
                    at = int(bad_lines[nth]) - offset
                    reason = BAD_ROW_CODES[nth % len(BAD_ROW_CODES)]
                    mask[at] = True
                    broken.append(";".join(_break(reason)(rows[at].as_py()[:-2].split(";"))) + "\r\n")
                    sink.bad[reason] += 1
                rows = pc.replace_with_mask(rows, pa.array(mask), _texts(broken))
            sink.write(rows)
            begin = end
        yield sink.close()


def _scale_clients(out: Path, customers: int, rng: np.random.Generator) -> ScaleFile:
    fields = tuple(HEADERS["clients"])
    sink = _Sink(out, "clients", f"clients_{AS_OF}.csv", fields)
    last_names, first_names = _texts(LAST_NAMES), _texts(FIRST_NAMES)
    slugs = [_texts([ascii_slug(n) for n in names]) for names in (FIRST_NAMES, LAST_NAMES)]
    towns = _texts([f"{postcode};{city};{FRANCE}" for postcode, city in TOWNS])
    types, streets = _texts([PRIVATE, HORECA, MERCHANT]), _texts(STREETS)
    opt = _texts([f"oui;{d};{s};" for d in ("12/03/2024", "04/05/2025") for s in OPT_IN_SOURCES] + [";;;", ";;;oui"])
    for begin in range(0, customers, CHUNK_LINES):
        ids = np.arange(begin, min(customers, begin + CHUNK_LINES))
        number = _padded(ids + 1, 7)
        last, first = rng.integers(0, len(LAST_NAMES), len(ids)), rng.integers(0, len(FIRST_NAMES), len(ids))
        email = pc.binary_join_element_wise(
            slugs[0].take(pa.array(first)),
            slugs[1].take(pa.array(last)),
            pc.binary_join_element_wise(number, "@example.org", ""),
            ".",
        )
        email = pc.if_else(pa.array(rng.random(len(ids)) < 0.12), "", email)
        # only the 10 000 numbers reserved for fiction: nobody else's phone, and none shared
        mobile = pc.if_else(
            pa.array(ids < 10_000), pc.binary_join_element_wise("063998", _padded(ids % 10_000, 4), ""), ""
        )
        consent = rng.random(len(ids))
        which = np.where(consent < 0.34, ids % 8, np.where(consent > 0.98, 9, 8))
        address = pc.binary_join_element_wise(
            pc.cast(pa.array(ids % 97 + 1), pa.string()), streets.take(pa.array(ids % len(STREETS))), ", "
        )
        sink.write(
            _rows(
                pc.binary_join_element_wise("C", number, ""),
                last_names.take(pa.array(last)),
                first_names.take(pa.array(first)),
                "",
                email,
                "",
                mobile,
                address,
                towns.take(pa.array(ids % len(TOWNS))),
                types.take(pa.array(np.searchsorted([0.94, 0.98], rng.random(len(ids)), side="right"))),
                "Actif",
                opt.take(pa.array(which)),
                "",
                "",
                "",
                "fr",
            )
        )
    return sink.close()


def _scale_contacts(out: Path, customers: int, rng: np.random.Generator) -> ScaleFile:
    sink = _Sink(out, "contacts", f"contacts_{AS_OF}.csv", tuple(HEADERS["contacts"]))
    statuses = _texts(["envoyé", "envoyé", "envoyé", "ouvert", "ouvert", "cliqué", "bounce", "désabonné"])
    for begin in range(0, max(1, customers // 2), CHUNK_LINES):
        count = min(max(1, customers // 2), begin + CHUNK_LINES) - begin
        who = rng.integers(0, customers, count)
        # refusals and bounces stay rare: 1 in 100
        status = np.where(rng.random(count) < 0.01, rng.integers(6, 8, count), rng.integers(0, 6, count))
        sink.write(
            _rows(
                pc.binary_join_element_wise("C", _padded(who + 1, 7), ""),
                "",
                _DATES.take(pa.array(rng.integers(_DAYS - 400, _DAYS, count))),
                "email",
                statuses.take(pa.array(status)),
                "NOUVELLES",
            )
        )
    return sink.close()


def _scale_small(out: Path, dataset: str, records: Sequence[Record]) -> ScaleFile:
    """Catalogue, stock and alias are small at any size: written as the samples are."""
    file = SampleFile(dataset, f"{dataset}_{AS_OF}.csv", tuple(HEADERS[dataset]), list(records))
    target = out / file.path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(file.render()[0])
    return ScaleFile(file.path, len(records), {})


def write_scale(
    out: Path, lines: int, customers: int | None = None, products: int = 500, files: int | None = None,
    seed: int = SEED,
) -> list[ScaleFile]:  # fmt: skip
    """Write an estate of exactly `lines` sales lines (bad ones included) under `out`, CSV only.

    Memory follows the number of orders and customers, not the text: 10 M lines fit well under 2 GiB.
    """
    if lines < 1:
        raise ValueError("at least one line is needed")
    customers = max(1, lines // 10) if customers is None else customers
    files = max(3, -(-lines // 1_000_000)) if files is None else files
    if customers < 1 or files < 1:
        raise ValueError("customers and files are at least one")
    streams = [np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(4)]
    catalogue, _ = scale_products(products)
    stock = [
        {
            "product": p.code,
            "warehouse": house,
            "quantity": int(quantity),
            "reserved": int(quantity) // 20,
            "as_of": french_date(AS_OF),
        }
        for p, most in zip(catalogue, streams[3].integers(0, 40_000, len(catalogue)), strict=True)
        if p.kind and p.active
        for house, quantity in (("Principal", most), ("Caveau", most // 10))
    ]
    return [
        *_scale_sales(out, lines, customers, products, files, streams[0]),
        _scale_clients(out, customers, streams[1]),
        _scale_contacts(out, customers, streams[2]),
        _scale_small(out, "produits", [product_record(p) for p in catalogue]),
        _scale_small(out, "stock", stock),
        _scale_small(out, "alias", [{"label": "Port colis", "product": SHIPPING}]),
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """The command line: `samples` or `scale`, and what was written."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.generate_estate", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    samples = commands.add_parser("samples", help="the small estate of data/samples, every defect included")
    samples.add_argument("--out", type=Path, required=True)
    scale = commands.add_parser("scale", help="the same layout with as many lines as wanted, CSV only")
    scale.add_argument("--lines", type=int, required=True)
    scale.add_argument("--customers", type=int, help="default: one per ten lines")
    scale.add_argument("--products", type=int, default=500)
    scale.add_argument("--files", type=int, help="sales files; default: one per million lines, three at least")
    scale.add_argument("--out", type=Path, required=True)
    for command in (samples, scale):
        command.add_argument("--seed", type=int, default=SEED)
    options = parser.parse_args(argv)
    if options.command == "samples":
        written = write_samples(options.out, options.seed)
        for path, records in written.records.items():
            print(f"{path}: {records} records, {len(written.files[path])} bytes")
        for defect in written.defects:
            print(f"{defect.path}:{defect.line} (record {defect.record}): {', '.join(defect.codes)} - {defect.note}")
    else:
        for file in write_scale(
            options.out, options.lines, options.customers, options.products, options.files, options.seed
        ):
            print(f"{file.path}: {file.records} records, {sum(file.bad.values())} bad")


if __name__ == "__main__":
    main()
