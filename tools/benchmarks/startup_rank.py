"""One rank of the start-up benchmark: builds a ZeRO-3 engine, saves its weights or begins from saved ones, tells peaks.

deepspeed --num_gpus 2 tools/benchmarks/startup_rank.py --width 512 --vocab-size 150016 --out build/startup
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from megas2s import dist
from megas2s.engine import Zero, make_engine
from megas2s.engine.base import Batch, LossPart, Setup
from megas2s.engine.optim import AdamW
from megas2s.engine.zero import join
from megas2s.files import empty_temporary, publish
from megas2s.models.config import ModelConfig
from megas2s.models.init import first_values
from megas2s.models.output import ModelOutput, Reader
from megas2s.models.transformer import construct
from megas2s.models.weights import open_weights, save_weights

LAYERS = (8, 6)  # AlexaTM's shape, six times as shallow
SHARD = 64 << 20


class NoLosses:
    """Nothing is trained here."""

    def counts(self, batch: Batch) -> Mapping[str, Tensor]:
        """None."""
        return {}

    def inputs(self, batch: Batch) -> Batch:
        """All."""
        return batch

    def loss(self, output: ModelOutput, batch: Batch, step: int | None = None) -> Mapping[str, LossPart]:
        """None."""
        return {}

    def predictions(self, model: Reader, batch: Batch) -> Tensor:
        """None."""
        return torch.empty(0)


def config(width: int, vocab_size: int) -> ModelConfig:
    """AlexaTM 20B's kind of model: pre-norm, nothing tied, more layers of encoder than of decoder."""
    return ModelConfig(
        vocab_size=vocab_size,
        hidden_size=width,
        num_heads=width // 64,
        ffn_size=4 * width,
        num_encoder_layers=LAYERS[0],
        num_decoder_layers=LAYERS[1],
        max_positions=1024,
        tying="untied",
        pad_id=0,
    )


def resident() -> tuple[int, int]:
    """Bytes of this process now and at its peak since the last `forget`, mapped files included."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return tuple(int(status[key].split()[0]) * 1024 for key in ("VmRSS", "VmHWM"))  # type: ignore[return-value]


def forget() -> None:
    """Let the peak begin anew."""
    Path("/proc/self/clear_refs").write_text("5")


def main() -> None:
    parser = argparse.ArgumentParser()
    add = parser.add_argument
    add("--width", type=int, required=True)
    add("--vocab-size", type=int, required=True)
    add("--out", type=Path, required=True)
    add("--begin", choices=("drawn", "read"), default="drawn")
    add("--local_rank", type=int)
    given = parser.parse_args()
    model = config(given.width, given.vocab_size)
    join()
    forget()
    before, _ = resident()
    weights = given.out / "weights"
    setup = Setup(
        build=lambda: construct(model),
        initial=first_values(model, 17) if given.begin == "drawn" else open_weights(weights).tensor,
        losses=NoLosses(),
        optimizer=AdamW(),
        precision="bf16",
        micro_batch=1,
        micro_batches=1,
        languages=1,
        dropout_seed=lambda step, index, rank: 0,
    )
    engine = make_engine(Zero(config="ds_configs/zero3.json"), setup)
    held, peak = resident()
    found = {"held": held - before, "start": peak - before}
    if given.begin == "drawn":
        forget()
        save(engine, model, weights)
        found["save"] = resident()[1] - before
    (given.out / f"{given.begin}-{dist.place().rank}.json").write_text(json.dumps(found))
    dist.barrier()
    engine.close()


def save(engine, model: ModelConfig, folder: Path) -> None:
    """Canonical weights, as a checkpoint has them."""
    if dist.is_main():
        empty_temporary(folder)
        temporary = folder.with_name(f".tmp-{folder.name}")
        save_weights(temporary, engine.values(), config=model, metadata={}, shard_bytes=SHARD)
        publish(temporary, folder, {"kind": "weights"})
    else:
        for _ in engine.values():
            pass
    dist.barrier()


if __name__ == "__main__":
    main()
