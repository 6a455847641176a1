"""Preprocessing under mpirun with one rank and with two, in turns: seconds of the whole command, and the ratio.

python docs/runs/scale/ranks.py tokenizers/sample 60      60 MB of the sample corpus, every line numbered
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
ROUNDS = 3


def write(megabytes: float) -> Path:
    """Four files of text, no two lines alike."""
    folder = WORK / "text"
    folder.mkdir(parents=True, exist_ok=True)
    for language in ("de", "en", "es", "fr"):
        lines = (SAMPLE / f"{language}.txt").read_text(encoding="utf-8").splitlines()
        left = megabytes * 1e6 / 4
        with (folder / f"{language}.txt").open("w", encoding="utf-8") as file:
            for number, line in enumerate(itertools.cycle(lines)):
                written = f"{number} {line}\n"
                file.write(written)
                left -= len(written.encode())
                if left <= 0:
                    break
    return folder


def seconds(ranks: int, text: Path, tokenizer: str) -> float:
    """How long the command takes, from nothing to a complete corpus."""
    out = WORK / "corpus"
    shutil.rmtree(out, ignore_errors=True)
    command = ["mpirun", "--allow-run-as-root", "--bind-to", "none", "-n", str(ranks), sys.executable]
    flags = ["--input", str(text), "--tokenizer", tokenizer, "--output", str(out), "--workers", "1"]
    since = time.perf_counter()
    subprocess.run([*command, "tools/preprocess.py", *flags], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - since


def main() -> None:
    """Measure and print."""
    tokenizer, megabytes = sys.argv[1], float(sys.argv[2])
    text = write(megabytes)
    rounds = [(seconds(1, text, tokenizer), seconds(2, text, tokenizer)) for _ in range(ROUNDS)]
    for one, two in rounds:
        print(f"{megabytes:g} MB: one rank {one:.1f} s, two ranks {two:.1f} s, {one / two:.2f} x")
    print(f"median {statistics.median(one / two for one, two in rounds):.2f} x")
    shutil.rmtree(WORK)


if __name__ == "__main__":
    main()
