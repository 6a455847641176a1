#!/usr/bin/env bash
# Make the environment and run every check: formatting, lint, types, tests.
#
#   bash tests/run.sh [pytest arguments]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. launch/environment.sh
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false

if [ -n "${TORCH_EXTENSIONS_DIR:-}" ]; then
  rm -f "$TORCH_EXTENSIONS_DIR"/*/lock # of a compilation that was killed; the next one would wait for it without end
fi
# DeepSpeed compiles its CPU Adam and asynchronous I/O on first use, for minutes: begin now, beside what needs neither.
python - >/dev/null 2>&1 <<'COMPILE' &
from deepspeed.ops.op_builder import AsyncIOBuilder, CPUAdamBuilder

for builder in (CPUAdamBuilder(), AsyncIOBuilder()):
    if builder.is_compatible(verbose=False):
        builder.load(verbose=False)
COMPILE

ruff check .
ruff format --check .
mypy
exec pytest -q -n 2 --dist loadfile --no-loadscope-reorder "$@" # two at a time: a file's tests share what they made
