"""The heads that an objective or a task put on a model: a file beside an export, under our names.

No class of transformers has a place for them, so none reads the file; our import does.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from megas2s import files
from megas2s.errors import BadCheckpoint
from megas2s.models.config import ModelConfig
from megas2s.models.parameters import parameter_shapes
from megas2s.models.weights import WeightsReader

FILE = "heads.safetensors"


def names(config: ModelConfig) -> list[str]:
    """The parameters of those heads."""
    return sorted(parameter_shapes(config).keys() - parameter_shapes(config.without_heads()).keys())


def write_heads(reader: WeightsReader, folder: Path, dtype: torch.dtype) -> None:
    """Write the heads of `reader`'s model, all of them small, into `folder`."""
    kept = names(reader.config)
    heads = {name: reader.tensor(name).to(dtype).contiguous() for name in kept}
    with files.disk_trouble(folder / FILE):
        save_file(heads, folder / FILE, metadata={"format": "pt"})


def read_heads(folder: Path, config: ModelConfig) -> tuple[ModelConfig, dict[str, Tensor]]:
    """The model with the heads that lie in `folder`, and their values; as it is where none do."""
    path = folder / FILE
    if not path.is_file():
        return config, {}
    try:
        heads = load_file(path)
    except SafetensorError as error:
        raise BadCheckpoint(f"{path} is damaged ({error}); restore it, or remove it to do without") from None
    tokens, texts = (len(heads[name]) if name in heads else 0 for name in ("classes.bias", "text.out.bias"))
    restores = any(name.startswith("mlm.") for name in heads)
    whole = dataclasses.replace(config, token_classes=tokens, text_classes=texts, encoder_restores=restores)
    expected = {name: shape for name, shape in parameter_shapes(whole).items() if name not in parameter_shapes(config)}
    found = {name: tuple(tensor.shape) for name, tensor in heads.items()}
    if found != expected:
        raise BadCheckpoint(f"{path} holds {found}, and the model has room for {expected}; restore it, or remove it")
    return whole, heads
