from __future__ import annotations

import dataclasses

import pytest

from .small import ENCODER


def test_embeddings_as_wide_as_the_layers_are_not_called_narrow():
    """They would get a projection between equal widths, which no family of transformers has."""
    with pytest.raises(ValueError, match="embedding_size 16 is that of the layers; leave it out"):
        dataclasses.replace(ENCODER, embedding_size=16)
    assert dataclasses.replace(ENCODER, embedding_size=8).embedding_width == 8
