"""Preprocessing under mpirun with one rank and with two, in turns: seconds of the whole command, and the ratio.

python docs/runs/scale/ranks.py tokenizers/sample 300      300 MB of the sample corpus, every line numbered

Beside it what the machine itself gives to two processes: two commands at once that know nothing of each other, each
with one rank and half of the text.
"""

from __future__ import annotations

import itertools
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
SAMPLE = ROOT / "launch" / "sample_corpus"
WORK = ROOT / "build" / "ranks"
LANGUAGES = ("de", "en", "es", "fr")
ROUNDS = 3


def write(megabytes: float) -> list[Path]:
    """Two folders with two files of text each, no two lines alike."""
    folders = [WORK / "text" / half for half in ("a", "b")]
    for place, language in enumerate(LANGUAGES):
        folder = folders[place // 2]
        folder.mkdir(parents=True, exist_ok=True)
        lines = (SAMPLE / f"{language}.txt").read_text(encoding="utf-8").splitlines()
        left = megabytes * 1e6 / len(LANGUAGES)
        with (folder / f"{language}.txt").open("w", encoding="utf-8") as file:
            for number, line in enumerate(itertools.cycle(lines)):
                written = f"{number} {line}\n"
                file.write(written)
                left -= len(written.encode())
                if left <= 0:
                    break
    return folders


def seconds(ranks: int, tokenizer: str, *inputs: list[Path]) -> float:
    """How long the commands take, one for each list of folders and all at once, from nothing to complete corpora."""
    out = WORK / "corpora"
    shutil.rmtree(out, ignore_errors=True)
    command = ["mpirun", "--allow-run-as-root", "--bind-to", "none", "-n", str(ranks), sys.executable]
    since = time.perf_counter()
    running = []
    for number, folders in enumerate(inputs):
        flags = ["--input", *map(str, folders), "--tokenizer", tokenizer, "--output", str(out / str(number))]
        running.append(
            subprocess.Popen(
                [*command, "tools/preprocess.py", *flags, "--workers", "1"], cwd=ROOT, stdout=subprocess.DEVNULL
            )
        )
    codes = [process.wait() for process in running]
    if any(codes):
        raise SystemExit(f"preprocessing ended with {codes}")
    return time.perf_counter() - since


def main() -> None:
    """Measure and print."""
    tokenizer, megabytes = sys.argv[1], float(sys.argv[2])
    first, second = write(megabytes)
    rounds = []
    for _ in range(ROUNDS):
        one = seconds(1, tokenizer, [first, second])
        two = seconds(2, tokenizer, [first, second])
        apart = seconds(1, tokenizer, [first], [second])
        rounds.append((one, two, apart))
        print(
            f"{megabytes:g} MB: one rank {one:.1f} s, two ranks {two:.1f} s, {one / two:.2f} x; "
            f"two commands with half each {apart:.1f} s, {one / apart:.2f} x",
            flush=True,
        )
    shared = statistics.median(one / two for one, two, _ in rounds)
    alone = statistics.median(one / apart for one, _, apart in rounds)
    print(f"median {shared:.2f} x, two commands {alone:.2f} x")
    shutil.rmtree(WORK)


if __name__ == "__main__":
    main()
