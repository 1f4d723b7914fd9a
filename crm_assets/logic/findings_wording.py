"""What a finding of the audit says to people: rule, measured value and threshold as one sentence of a language.

The sentences are in `templates/findings_<locale>.yaml`, group `finding`; what measured and threshold may hold is in
`logic/audit.py`. Nothing is decided here, and no fact is looked up.
"""

from __future__ import annotations

from string import Formatter

import pandas as pd

from crm_assets import rendering


def _written(text: str, unit: str, locale: str) -> str:
    """A value as a language writes it: {measured:days}. Without a unit it stands as it is."""
    words = rendering.texts(locale)["finding_words"]
    if unit == "":
        return text
    if unit == "number":
        return text.replace(".", words["decimal_separator"])
    if unit == "euros":
        return rendering.euros(float(text), locale)
    if unit == "percent":
        return str(words["percent"]).format(n=f"{100 * float(text):.0f}")
    forms = words[unit]
    return str(forms.get("one" if text == "1" else text, forms["other"])).format(n=text)


def _column(texts: pd.Series, unit: str, locale: str) -> pd.Series:
    """Texts as a language writes them; each different one is written once."""
    which, names = pd.factorize(texts)
    written = pd.Series([_written(str(name), unit, locale) for name in names], dtype="str")
    return written.take(which).set_axis(texts.index)


def _sentence(locale: str, code: str, cause: str) -> str:
    said = rendering.texts(locale)["finding"][code]
    if isinstance(said, str):
        return said
    if cause not in said and "other" not in said:
        raise ValueError(f"findings_{locale}.yaml: finding.{code} has no sentence for {cause!r}")
    return str(said[cause] if cause in said else said["other"])


def findings_said(findings: pd.DataFrame, locale: str) -> pd.Series:
    """One sentence per finding, with the index of `findings`: rule_code, measured, threshold of audit.findings.

    Permission reasons that hold are said too, under their code as rule_code. KeyError: a code that has no sentence;
    ValueError: a cause that has none.
    """
    measured = findings["measured"].fillna("").astype("str")
    # `bought:12`: the word chooses the sentence, the number stands in it.
    parts = {
        "threshold": findings["threshold"].fillna("").astype("str"),
        "measured": measured.str.replace(r"^.*:", "", regex=True),
    }
    cause = measured.str.extract(r"^([a-z_0-9]*[a-z_]+)(?::|$)", expand=False).fillna("")
    said = pd.Series("", index=findings.index, dtype="str")
    kinds = pd.DataFrame({"code": findings["rule_code"], "cause": cause})
    for code, word in kinds.drop_duplicates().itertuples(index=False, name=None):
        rows = (kinds["code"] == code) & (kinds["cause"] == word)
        text = pd.Series("", index=findings.index[rows], dtype="str")
        for literal, name, unit, _ in Formatter().parse(_sentence(locale, code, word)):
            text = text + literal
            if name:
                text = text + _column(parts[name][rows], unit or "", locale)
        said[rows] = text
    return said
