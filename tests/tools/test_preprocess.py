"""The real command: killed, interrupted, out of space or given bad input, it loses nothing and says what is wrong."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "launch" / "sample_corpus"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def start(*arguments, script="preprocess.py", **settings):
    command = [sys.executable, str(ROOT / "tools" / script), *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, **settings
    )


def run(*arguments, **settings):
    process = start(*arguments, **settings)
    out, err = process.communicate(timeout=200)
    return process.returncode, out, err


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer") / "tiny"
    code, _, err = run(
        "--input", SAMPLE, "--output", folder, "--vocab-size", 4096, "--threads", 1, script="train_tokenizer.py"
    )
    assert code == 0, err
    return folder


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Eight files of about two megabytes of varied text."""
    folder = tmp_path_factory.mktemp("inputs")
    words = (SAMPLE / "en.txt").read_text().split()
    for number in range(8):
        lines = (
            " ".join(words[(number * 31 + line * 7 + step * step) % len(words)] for step in range(100))
            for line in range(3200)
        )
        (folder / f"en-{number}.txt").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def straight(inputs, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight") / "corpus"
    code, out, err = run("--input", inputs, "--tokenizer", tokenizer, "--output", folder, "--workers", 1)
    assert code == 0, err
    assert "is complete" in out
    return folder


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def pieces_done(folder):
    return len(list((folder / ".staging" / "parts").glob("*.json")))


def wait_for_pieces(process, folder, count):
    while pieces_done(folder) < count:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def workers_of(pid):
    return [int(number) for number in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_killed_run_goes_on_with_the_other_pieces_and_ends_in_the_same_bytes(inputs, tokenizer, straight, tmp_path):
    folder = tmp_path / "corpus"
    arguments = ("--input", inputs, "--tokenizer", tokenizer, "--output", folder, "--workers", 2)
    process = start(*arguments)
    wait_for_pieces(process, folder, 1)
    workers = workers_of(process.pid)
    process.kill()
    process.communicate()
    assert len(workers) >= 2
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{worker}/exe").exists() for worker in workers):
        assert time.monotonic() < deadline, "workers outlive the run"
        time.sleep(0.05)
    done = pieces_done(folder)
    code, out, err = run(*arguments)
    assert code == 0, err
    going_on = re.search(r"going on after (\d+) of (\d+) pieces of input", err)
    assert int(going_on[1]) == done < int(going_on[2])
    assert content(folder) == content(straight)
    code, out, _ = run(*arguments, "--verify")
    assert code == 0
    assert "already complete" in out
    assert "every shard matches its SHA-256" in out


def test_ctrl_c_is_answered_and_loses_nothing(inputs, tokenizer, straight, tmp_path):
    folder = tmp_path / "corpus"
    arguments = ("--input", inputs, "--tokenizer", tokenizer, "--output", folder, "--workers", 2)
    process = start(*arguments, start_new_session=True)
    wait_for_pieces(process, folder, 1)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.strip() == "interrupted; the same command continues"
    assert run(*arguments)[0] == 0
    assert content(folder) == content(straight)


def test_a_full_disk_ends_in_a_sentence_and_loses_nothing(inputs, tokenizer, straight, tmp_path):
    folder = tmp_path / "corpus"
    arguments = ("--input", inputs, "--tokenizer", tokenizer, "--output", folder, "--workers", 1)

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 18, 1 << 18))

    code, _, err = run(*arguments, preexec_fn=limit)
    assert code == 5
    assert err.startswith("error: no room to write ")
    assert err.count("\n") == 1
    assert not (folder / "corpus.json").exists()
    assert run(*arguments)[0] == 0
    assert content(folder) == content(straight)


@pytest.mark.parametrize(
    ("name", "text", "flags", "code", "said"),
    [
        ("en.txt", b"a\n\xff\n", [], 3, "en.txt, line 2: invalid UTF-8; repair it, or use --invalid-utf8 drop"),
        ("en.jsonl", b'{"body": "a"}\n', [], 3, "en.jsonl, line 1: no field 'text' (found 'body')"),
        ("en.jsonl", b'{"text": "a"\n', [], 3, "en.jsonl, line 1: malformed JSON"),
        ("en.txt", b"", [], 3, "no documents of language en"),
        ("data.txt", b"a\n", [], 3, "its name and folder state no language"),
        ("en.txt", b"a\n", ["--lang", "english"], 3, "unknown language 'english'"),
        ("en.txt", b"a\n", ["--held-out", "2"], 2, "held_out must lie in [0, 0.5], found 2"),
        ("en.txt", b"a\n", ["--workers", "0"], 2, "--workers must be at least 1"),
        ("en.txt", b"a\n", ["--input", "nowhere/en.txt"], 3, "there is no file or folder nowhere/en.txt"),
        ("en.txt", b"a\n", ["--tokenizer", "./nowhere"], 3, "there is no tokenizer at nowhere"),
        ("en.txt", b"a\n", ["--tokenizer", "nowhere"], 2, "there is no folder nowhere, and the hub gave no repository"),
        ("en.txt", b"a\n", ["--inputs", "nowhere.yaml"], 2, "nowhere.yaml cannot be read"),
    ],
)
def test_bad_input_ends_in_one_sentence(tokenizer, tmp_path, name, text, flags, code, said):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(text)
    found, _, err = run(
        "--tokenizer", tokenizer, "--output", tmp_path / "out", "--input", tmp_path / "in" / name, *flags
    )
    assert found == code, err
    assert said in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert not (tmp_path / "out" / "corpus.json").exists()


def test_an_altered_shard_is_found_by_verify(tokenizer, tmp_path):
    arguments = ("--input", SAMPLE, "--tokenizer", tokenizer, "--output", tmp_path / "out", "--verify")
    assert run(*arguments)[0] == 0
    shard = next((tmp_path / "out" / "train").rglob("*.arrow"))
    altered = bytearray(shard.read_bytes())
    altered[len(altered) // 2] ^= 1
    shard.write_bytes(altered)
    code, _, err = run(*arguments)
    assert code == 3
    assert f"{shard} is truncated or altered" in err


def test_a_list_of_sources_is_read_each_in_its_own_way(tokenizer, tmp_path):
    (tmp_path / "books.txt").write_text("one\ntwo\n\nthree\n")
    (tmp_path / "web.jsonl").write_text('{"body": "vier", "lang": "de"}\n{"body": "five", "lang": "en"}\n')
    (tmp_path / "test.txt").write_text("three\n")
    (tmp_path / "sources.yaml").write_text(f"""
- {{paths: ["{tmp_path}/books.txt"], language: en, source: books, documents: paragraphs}}
- {{paths: ["{tmp_path}/web.jsonl"], language_column: lang, text_column: body, source: web}}
""")
    flags = ("--inputs", tmp_path / "sources.yaml", "--held-out-input", f"en={tmp_path}/test.txt")
    code, out, err = run(*flags, "--tokenizer", tokenizer, "--output", tmp_path / "out")
    assert code == 0, err
    splits = json.loads((tmp_path / "out" / "corpus.json").read_text())["splits"]
    found = {split: [(s["language"], s["source"], s["documents"]) for s in shards] for split, shards in splits.items()}
    assert found == {
        "train": [("de", "web", 1), ("en", "books", 1), ("en", "web", 1)],
        "heldout": [("en", "text", 1)],
    }
    assert "1 duplicate" in out  # "three" is in the held-out file


def test_a_dry_run_lists_and_writes_nothing(tmp_path):
    code, out, _ = run("--input", SAMPLE, "--tokenizer", "nowhere", "--output", tmp_path / "out", "--dry-run")
    assert code == 0
    size = (SAMPLE / "sw.txt").stat().st_size
    assert f"sw          {size:>15,}  {SAMPLE}/sw.txt" in out
    assert not (tmp_path / "out").exists()


def test_help_imports_nothing_heavy():
    program = (
        "import runpy, sys\nsys.argv = ['preprocess.py', '--help']\n"
        f"try: runpy.run_path({str(ROOT / 'tools' / 'preprocess.py')!r}, run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print(sorted({'numpy', 'torch', 'pyarrow', 'datasets', 'pydantic'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=ENVIRONMENT)
    assert result.stdout.endswith("[]\n"), result.stderr
    assert "--held-out" in result.stdout


def test_what_is_left_out_is_counted_by_reason(tokenizer, tmp_path):
    lines = (SAMPLE / "en.txt").read_text().splitlines()
    text = [line for line in lines if len(line.split()) > 20][:60]
    (tmp_path / "en.txt").write_text(
        "\n".join([*text, f"{text[0]} Once more.", "Guten Morgen, wie geht es Ihnen heute?"])
    )
    (tmp_path / "test.txt").write_text(f"{text[1]}\n")
    flags = ["--near-duplicates", 0.7, "--evaluation", tmp_path / "test.txt", "--identify", 0.9]
    flags += ["--quota", "text=1e9", "text/en=800", "--spoken", 0.5, "--spoken-digits", "spelled"]
    arguments = ["--input", tmp_path / "en.txt", "--tokenizer", tokenizer, "--output", tmp_path / "out", "--workers", 1]
    code, out, err = run(*arguments, *flags)
    assert code == 0, err
    assert "1 evaluation text" in out
    assert "1 near duplicate" in out
    assert "1 other language" in out
    assert "beyond the quota" in out
    assert run(*arguments, *flags)[0] == 0
    code, _, err = run(*arguments, *flags[2:])
    assert code == 2
    assert "near duplicates (was 0.7, now 0.0)" in err


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--quota", "text"], "--quota text: expected SOURCE=TOKENS"),
        (["--quota", "=5"], "a quota is SOURCE=TOKENS"),
        (["--quota", "other=5"], "quota 'other' is of no source; the input has text"),
        (["--near-duplicates", "7"], "near_duplicates must lie in [0, 1], found 7.0"),
        (["--spoken", "-1"], "spoken must lie in [0, 1]"),
        (["--evaluation", "absent"], "absent: no evaluation file here"),
        (["--identify", "0.5", "--language-model", "absent.bin"], "there is no model of languages at absent.bin"),
    ],
)
def test_wrong_flags_are_said_in_a_sentence(tokenizer, tmp_path, flags, sentence):
    output = tmp_path / "out"
    code, _, err = run("--input", SAMPLE, "--tokenizer", tokenizer, "--output", output, "--workers", 1, *flags)
    assert code != 0
    assert sentence in err
    assert "Traceback" not in err
