# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Which variables a source has, looked up when that is first asked for."""

from __future__ import annotations

from collections.abc import Callable, Container

Vocabulary = Callable[[], Container[str]]


def lexicon(name: str) -> Vocabulary:
    """The variables of one of Earth2Studio's lexicons."""

    def load() -> Container[str]:
        from earth2studio import lexicon

        vocabulary: Container[str] = getattr(lexicon, name)
        return vocabulary

    return load


def demo_variables() -> Container[str]:
    """The variables of the demo's weather."""
    from earth2_corrdiff.demo import DemoWeather

    variables: Container[str] = DemoWeather.VARIABLES
    return variables
