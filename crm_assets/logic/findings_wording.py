"""What a finding of the audit says to people: rule, measured value and threshold as one sentence of a language.

The sentences are in `templates/findings_<locale>.yaml`, group `finding`; what measured and threshold may hold is in
`logic/audit.py`. Nothing is decided here, and no fact is looked up.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pandas as pd

from crm_assets import rendering

COLUMNS = ["rule_code", "measured", "threshold"]


@lru_cache(maxsize=20_000)
def _written(text: str, unit: str, locale: str) -> str:
    """A value as a language writes it: {measured:days}. Without a unit it stands as it is."""
    words = rendering.texts(locale)["finding_words"]
    if unit == "":
        return text
    if unit == "euros":
        return _euros(f"{float(text):.2f}", locale)
    if unit == "percent":
        shown = f"{100 * float(text):.1f}".removesuffix(".0").replace(".", words["decimal_separator"])
        return str(words["percent"]).format(n=shown)
    forms = words[unit]
    return str(forms.get("one" if text == "1" else text, forms["other"])).format(n=text)


@lru_cache(maxsize=20_000)
def _euros(amount: str, locale: str) -> str:
    # By cents, of which there are few: babel takes its time.
    return rendering.euros(float(amount), locale)


class _Value(str):
    """A text that a sentence writes by the unit of its placeholder."""

    locale: str

    def __new__(cls, text: str, locale: str) -> _Value:
        value = super().__new__(cls, text)
        value.locale = locale
        return value

    def __format__(self, unit: str) -> str:
        return _written(str(self), unit, self.locale)


def _sentence(code: str, measured: str, threshold: str, locale: str) -> str:
    said, value = rendering.texts(locale)["finding"][code], measured
    if not isinstance(said, str):
        # `bought:12`: the word chooses the sentence, what follows stands in it.
        word, _, rest = value.partition(":")
        if word not in said and "other" not in said:
            raise ValueError(f"findings_{locale}.yaml: finding.{code} has no sentence for {word!r}")
        said, value = (said[word], rest) if word in said else (said["other"], value)
    return str(said).format(measured=_Value(value, locale), threshold=_Value(threshold, locale))


def findings_said(findings: pd.DataFrame, locale: str) -> pd.Series:
    """One sentence per finding, with the index of `findings`: rule_code, measured, threshold of audit.findings.

    Permission reasons that hold are said too, under their code as rule_code. KeyError: a code that has no sentence;
    ValueError: a cause that has none.
    """
    # Each different finding is said once.
    key = np.zeros(len(findings), dtype=np.int64)
    for name in COLUMNS:
        which, names = pd.factorize(findings[name])
        key = key * (len(names) + 1) + which + 1
    _, first, place = np.unique(key, return_index=True, return_inverse=True)
    different = findings[COLUMNS].iloc[first].astype("object").fillna("")
    said = [
        _sentence(code, measured, threshold, locale)
        for code, measured, threshold in different.itertuples(index=False, name=None)
    ]
    return pd.Series(said, dtype="str").take(place).set_axis(findings.index)
