"""What a refused action says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from crm_assets.logic.activation import RefusalError


def refusal(action: Callable[[], Any]) -> tuple[str, str]:
    """Code and sentence of the refusal that an action ends with."""
    with pytest.raises(RefusalError) as raised:
        action()
    return raised.value.code, str(raised.value)


def refusal_code(action: Callable[[], Any]) -> str:
    """Its code alone."""
    return refusal(action)[0]
