"""Two parts on three data ranks: are copies of a matrix still equal, and what does a gradient that is no number do?

deepspeed --num_gpus 6 copies.py FOLDER
"""

import dataclasses
import json
import sys
from pathlib import Path

import program
import torch
from program import batches, held, setup, spec_of, starting_weights, unlike

from megas2s import dist
from megas2s.engine import join, make_engine, pipe_stages, zero_state

program.ROWS = 12
STEPS = 12


def drift(engine) -> int:
    """Let what the other parts than the owner train of a shared matrix be another one; how many ranks did."""
    own = engine._pieces.copies
    others = [copy.parameter for copy in own if dist.place().rank // dist.data_place().world_size > 0]
    for parameter in others:
        value = zero_state.read(engine._engine, parameter).clone() + 0.25
        zero_state.write(engine._engine, parameter, lambda rows, value=value: value)
    assert own
    return len(others)


def look(precision: str) -> dict:
    """Train, then poison the head of one rank's part."""
    spec = spec_of("pipe2")
    config = dataclasses.replace(program.CONFIG, tying="tied")  # one matrix, read at both ends
    engine = make_engine(spec, setup(spec, precision, (), held(starting_weights(config)), config=config))
    results = [engine.train_step(batches(step), step=step, lr=1e-2) for step in range(STEPS - 1)]
    apart = drift(engine)
    results.append(engine.train_step(batches(STEPS - 1), step=STEPS - 1, lr=1e-2))
    assert apart == len(engine._pieces.copies) * (dist.place().rank >= 3)
    astray = dist.gather_texts(" ".join(unlike(engine)))
    before = {name: value.clone() for name, value in engine.values()}
    poisoned = None
    if precision == "fp32":
        if dist.place().rank == dist.place().world_size - 1:
            parameter = engine._parameters["decoder.layers.1.ffn.down.bias"]
            parameter.register_hook(lambda gradient: gradient * float("nan"))
        step = engine.train_step(batches(STEPS), step=STEPS, lr=1e-2)
        moved = [name for name, value in engine.values() if not torch.equal(value, before[name])]
        poisoned = {"skipped": dist.gather_texts(str(step.skipped)), "norm": step.grad_norm, "moved": moved}
    engine.close()
    return {"astray": astray, "skipped": sum(result.skipped for result in results), "poisoned": poisoned}


def main() -> None:
    folder = Path(next(word for word in sys.argv[1:] if not word.startswith("--local_rank")))
    torch.set_num_threads(1)
    join(120)
    dist.lay_out(pipe_stages(spec_of("pipe2")))
    found = {precision: look(precision) for precision in ("bf16", "fp32")}
    if dist.is_main():
        (folder / "copies.json").write_text(json.dumps(found))
    dist.barrier()


if __name__ == "__main__":
    main()
