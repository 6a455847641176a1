from __future__ import annotations

import pytest
import torch

from megas2s import files
from megas2s.models.config import ModelConfig
from megas2s.models.parameters import canonical_parameters
from megas2s.models.transformer import build
from megas2s.models.weights import open_weights, save_weights
from megas2s.tokenizer.train import TokenizerSpec, train_tokenizer

WORDS = ["the", "keeper", "wrote", "a", "letter", "every", "evening", "but", "nobody", "knew", "to", "whom"]


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer") / "small"
    documents = [("en", " ".join(WORDS[turn % 9 :] + WORDS[: turn % 7])) for turn in range(40)]
    train_tokenizer(iter(documents), TokenizerSpec(vocab_size=512, num_threads=1, language_slots=8), folder)
    return folder


@pytest.fixture(scope="session")
def stored(tokenizer_folder):
    from megas2s.convert.source import read_tokenizer

    return read_tokenizer(tokenizer_folder)


@pytest.fixture
def small(stored):
    """A configuration of a small model for the tokenizer at hand."""

    def make(**changes):
        sizes = {"vocab_size": stored.metadata.size, "hidden_size": 32, "num_heads": 4, "ffn_size": 48}
        return ModelConfig(**{**sizes, "num_encoder_layers": 2, "max_positions": 24, **changes})

    return make


@pytest.fixture
def write_weights(stored):
    """Publish random weights of a configuration; every tensor differs from every other and from its first values."""

    def write(config, folder, **metadata):
        model = build(config)
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(0.0, 0.2, generator=generator)
        described = {"tokenizer": stored.fingerprint, "stage": "mlm", "languages": "en", **metadata}
        temporary = files.temporary_folder(folder)
        tensors = ((name, parameter.detach()) for name, parameter in canonical_parameters(model).items())
        save_weights(temporary, tensors, config=config, metadata=described)
        files.publish(temporary, folder, {"kind": "weights"})
        return open_weights(folder)

    return write
