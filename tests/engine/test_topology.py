"""A checkpoint knows no layout: what one engine leaves, every other goes on from, bit for bit.

Each layout is given one canonical state and must give the same back, and what it has trained itself must come back from
an engine made anew: so a run may go from any layout to any other.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from megas2s import files

PROGRAM = Path(__file__).with_name("topology.py")
ROOT = Path(__file__).resolve().parents[2]
LAYOUTS = {
    "local": 1,
    **{f"zero{stage} on 2": 2 for stage in range(4)},
    "pipe2 on 2": 2,
    **{f"zero{stage} on 4": 4 for stage in (1, 3)},
    "pipe2 on 4": 4,
    "pipe3 on 3": 3,
}

pytestmark = [pytest.mark.slow, pytest.mark.ranks, pytest.mark.timeout(1000)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, script, ranks) -> Callable[[str, str], Path]:
    """`folders("zero1 on 4", "bf16")`: what the program left of a layout; one launch for each number of ranks."""
    root = tmp_path_factory.mktemp("topology")
    done = set()

    def launched(number: int, precision: str) -> None:
        names = [layout.split(" on ")[0] for layout, count in LAYOUTS.items() if count == number]
        engines = [str(ROOT / "ds_configs" / f"{name}.json") if name.startswith("zero") else name for name in names]
        command = (PROGRAM, start(root, precision), root / f"{number}-{precision}", precision, ",".join(engines))
        run = script(*command, timeout=300) if number == 1 else ranks(number, *command, timeout=900)
        assert run.returncode == 0, run.stdout[-4000:]
        done.add((number, precision))

    def found(layout: str, precision: str) -> Path:
        for number in (1, LAYOUTS[layout]):  # one rank makes the state that all begin with
            if (number, precision) not in done:
                launched(number, precision)
        return root / f"{LAYOUTS[layout]}-{precision}" / layout.split(" on ")[0]

    return found


def start(root: Path, precision: str) -> Path:
    return root / f"start-{precision}" / "checkpoints" / "step"


def content(folder: Path) -> dict[str, bytes]:
    """Every tensor of a checkpoint, as bytes, and the counters beside them."""
    tensors = {}
    for path in sorted(folder.rglob("*.safetensors")):
        where = path.relative_to(folder).as_posix()
        tensors |= {f"{where}: {name}": value.numpy().tobytes() for name, value in load_file(path).items()}
    assert any("optimizer" in name for name in tensors)
    return tensors | {"counters": repr(files.read_json(folder / "state.json")["counters"]).encode()}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_canonical_state_comes_back_from_every_layout_bit_for_bit(folders, layout: str, precision: str):
    folder = folders(layout, precision)
    begun = content(start(folder.parents[1], precision))
    assert content(folder / "same" / "checkpoints" / "step") == begun


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_a_layout_has_trained_comes_back_from_it_bit_for_bit(folders, layout: str, precision: str):
    folder = folders(layout, precision)
    trained = content(folder / "trained" / "checkpoints" / "step")
    assert content(folder / "again" / "checkpoints" / "step") == trained
    assert trained != content(folder / "same" / "checkpoints" / "step")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_trains_on_alike(folders, layout: str):
    local = files.read_json(folders("local", "fp32") / "losses.json")
    assert files.read_json(folders(layout, "fp32") / "losses.json") == pytest.approx(local, rel=1e-5)
