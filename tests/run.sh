#!/usr/bin/env bash
# Make the environment and run every check: formatting, lint, types, tests.
#
#   bash tests/run.sh [pytest arguments]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. launch/environment.sh
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false

# What DeepSpeed compiles on first use must not count against a test's time-out: a test that is killed while it compiles
# takes the next ones along. Its asynchronous I/O takes many minutes and one test needs it, so that begins, and goes on.
compile_extensions() {
  python - "$@" >/dev/null <<'COMPILE'
import sys

from deepspeed.ops import op_builder

from megas2s.engine.compiled import drop_dead_locks, extensions_folder

drop_dead_locks(extensions_folder())
for name in sys.argv[1:]:
    builder = getattr(op_builder, name)()
    if builder.is_compatible(verbose=False):
        builder.load(verbose=False)
COMPILE
}
compile_extensions ShareMemCommBuilder CPUAdamBuilder &
compiling=$!

ruff check .
ruff format --check .
mypy
wait "$compiling"
compile_extensions AsyncIOBuilder 2>/dev/null &
exec pytest -q -n 2 --dist loadfile --no-loadscope-reorder "$@" # two at a time: a file's tests share what they made
