"""Before a launch: ask every host what it is, and say in one line what must be put right.

    findings = examine(recipe, hosts, Asking(command, port=29500))

A host is asked by running `tools/doctor.py --probe` on it, over ssh as a launcher would. Each check of each host is one
finding; its advice is empty where all is well.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from megas2s.data.corpus import Corpus
from megas2s.errors import BadConfig, Refusal
from megas2s.hosts import Host
from megas2s.models.parameters import parameter_shapes
from megas2s.prepare import model_config
from megas2s.probe import NO_DRIVER, PACKAGES, REACHED, SHARED_MEMORY, UNREADABLE
from megas2s.recipe import Recipe
from megas2s.tokenizer.load import Tokenizer
from megas2s.train import checkpoint
from megas2s.train.record import ABSENT

Facts = Mapping[str, Any]

SHARED_BYTES_PER_SLOT = 256 << 20  # NCCL, DeepSpeed's sums on CPUs and loader processes keep buffers there
CLOCK_SECONDS = 5.0
SSH = (
    *("ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "PasswordAuthentication=no"),
    *("-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3"),  # a host that vanishes meanwhile is noticed
)
ANSWER_SECONDS = 180.0  # torch is imported there, from a shared file system perhaps
END_SECONDS = 10.0  # for what listens to hear that nobody asks any more


class Finding(NamedTuple):
    """One check of one host."""

    host: str
    check: str
    found: str
    advice: str = ""

    @property
    def sentence(self) -> str:
        """Host, check, what was found and what to do, in one line."""
        return f"{self.host}: {self.check}: {self.found or 'none'}; {self.advice}"


class Asking(NamedTuple):
    """How hosts are asked: the doctor's own command, the folder it runs in, and the port of the rendezvous."""

    command: Sequence[str]
    folder: Path
    port: int
    remote: bool  # over ssh; else on this machine


def examine(recipe: Recipe, hosts: Sequence[Host], asking: Asking) -> list[Finding]:
    """Every check of every host, in the order of the hosts."""
    if asking.remote and shutil.which(SSH[0]) is None:
        raise BadConfig("hosts are asked over ssh, and there is no ssh here; install its client")
    with _rendezvous(hosts[0], asking) as trouble, ThreadPoolExecutor(max_workers=32) as pool:
        answers = list(pool.map(lambda host: _ask(host, hosts[0], asking), hosts))
    for facts, _ in answers:
        if trouble and "error" not in facts:
            facts["reaches"] = trouble
    names = [host.name for host in hosts]
    late = dict(zip(names, (seconds for _, seconds in answers), strict=True))
    facts = dict(zip(names, (facts for facts, _ in answers), strict=True))
    return judge(hosts, facts, late=late, needed=needed_bytes(recipe))


def needed_bytes(recipe: Recipe) -> int | None:
    """Room that a run takes on disk: its checkpoints, one more while it is written; None without a corpus here."""
    try:
        corpus = Corpus.open(Path(recipe.corpus))
        vocabulary = Tokenizer.load(corpus.tokenizer_folder).vocabulary
    except Refusal:
        return None
    largest = 0
    for stage in recipe.stages:
        config = model_config(recipe, stage, vocabulary)
        parameters = sum(math.prod(shape) for shape in parameter_shapes(config).values())
        largest = max(largest, checkpoint.size(config, trainable=parameters))
    return (recipe.checkpoints.keep_last + 1) * largest


def judge(
    hosts: Sequence[Host], facts: Mapping[str, Facts], *, late: Mapping[str, float], needed: int | None
) -> list[Finding]:
    """Every check of every host. `late` is by how many seconds a host's clock differs from ours, at least."""
    findings = []
    answered = [host.name for host in hosts if "error" not in facts[host.name]]
    with_gpus = next((name for name in answered if facts[name]["gpus"]), None)
    machines: dict[str, str] = {}  # the name that a machine gives itself -> the host that answered so first
    for host in hosts:
        own = facts[host.name]
        if host.name not in answered:
            findings.append(Finding(host.name, "answers", "no", str(own["error"])))
            continue
        same = machines.setdefault(own["name"], host.name)
        twice = "" if same == host.name else f"so does {same}; name each machine once, with all its slots"
        findings.append(Finding(host.name, "answers", f"as {own['name']}", twice))
        findings += _alike(host.name, own, facts[answered[0]], answered[0])
        findings.append(_gpus(host, own, with_gpus, facts[with_gpus]["gpus"] if with_gpus else ()))
        findings += _able(host, own, late[host.name], needed)
    return findings


def _alike(name: str, own: Facts, first: Facts, of: str) -> list[Finding]:
    """What must be there, and the same on every host."""
    advice = {
        **dict.fromkeys(("python", *PACKAGES), "install the same version on every host"),
        "code": "check out one revision on every host, or copy the project again",
        "driver": "install the same GPU driver on every host",
        "recipe": "let every host see the same recipe, and pass the same overrides",
        "corpus": "let every host see the same corpus, or copy it again",
    }
    found = [Finding(name, "revision", _told(own, "revision"))]  # for people; "code" knows what was changed since
    for check, what in advice.items():
        value, expected = _told(own, check), _told(first, check)
        absent = value == ABSENT or value.startswith(UNREADABLE)
        same = value == expected
        found.append(Finding(name, check, value, what if absent else "" if same else f"{of} has {expected}; {what}"))
    return found


def _told(facts: Facts, check: str) -> str:
    """A host's answer; older code than ours may not know the question."""
    return str(facts.get(check, ABSENT))


def _gpus(host: Host, own: Facts, other: str | None, of_other: Sequence[str]) -> Finding:
    """As many GPUs as slots, of one kind on all hosts; `other` is the first host that has any, None where none has."""
    gpus: Sequence[str] = own["gpus"]
    found = ", ".join(f"{count} x {name}" for name, count in Counter(gpus).items())
    if other is None:
        unseen = "a driver is there, but torch sees no GPU; install torch for CUDA, or see to CUDA_VISIBLE_DEVICES"
        return Finding(host.name, "GPUs", "none, ranks run on the CPU", "" if own["driver"] == NO_DRIVER else unseen)
    if len(gpus) < host.slots:
        return Finding(
            host.name, "GPUs", found or "none", f"slots={host.slots} are more; lower them or see to the GPUs"
        )
    alike = set(gpus) == set(of_other)
    kinds = " and ".join(sorted(set(of_other)))
    return Finding(host.name, "GPUs", found, "" if alike else f"{other} has {kinds}; let all hosts have the same GPUs")


def _able(host: Host, own: Facts, late: float, needed: int | None) -> list[Finding]:
    """What a host must have."""
    compilers, room = own["compiler"], needed or 0
    shared = SHARED_BYTES_PER_SLOT * host.slots
    checks = [
        ("compiler", " ".join(compilers), len(compilers) == 2, "DeepSpeed compiles with g++ and ninja; install both"),
        ("free disk", _gib(own["disk"]), own["disk"] >= room, f"checkpoints take {_gib(room)}; make room for the run"),
        (
            "shared memory",
            _gib(own["shared_memory"]),
            own["shared_memory"] >= shared,
            f"{_gib(shared)} are needed in {SHARED_MEMORY}; in a container raise --shm-size",
        ),
        ("clock", f"{late:.1f} s off", late <= CLOCK_SECONDS, "let the hosts keep time by one server (chrony, NTP)"),
        ("network", own["interface"] or "none", own["interface"], "no way leads to the first host; see `ip route`"),
        ("rendezvous", own["reaches"], own["reaches"] == REACHED, _about_port(own["reaches"])),
    ]
    return [Finding(host.name, check, found, "" if well else advice) for check, found, well, advice in checks]


def _about_port(found: str) -> str:
    if "in use" in found:
        return "another run may hold the port; take another one with --master_port"
    return "a firewall may close the port; open it between the hosts, or take another one with --master_port"


def _gib(size: int) -> str:
    return f"{size / (1 << 30):.1f} GiB"


def _ask(host: Host, first: Host, asking: Asking) -> tuple[dict[str, Any], float]:
    """A host's facts, and by how many seconds its clock is off at least; `error` where it does not answer."""
    facts: dict[str, Any] = {}
    late, began = 0.0, time.time()
    with tempfile.TemporaryFile("w+", errors="replace") as complaints:
        process = subprocess.Popen(
            _on(host, asking, "--probe", first.name),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
        )
        with _deadline(process):
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("{"):  # whatever else a login shell may say
                    facts |= json.loads(line)
                if facts.keys() == {"time"}:  # its first word, before it imports what takes long
                    late = max(late, began - facts["time"], facts["time"] - time.time())
            code = process.wait()
        if code == -signal.SIGKILL:
            return {"error": f"no answer within {ANSWER_SECONDS:g} s; try `ssh {host.name} hostname`"}, 0.0
        if code or "name" not in facts:
            complaints.seek(0)
            return {"error": _why(host, code, complaints.read())}, 0.0
    return facts, late


@contextlib.contextmanager
def _deadline(process: subprocess.Popen[str]) -> Iterator[None]:
    """End a process that has not said all within ANSWER_SECONDS, so that reading from it ends too."""
    timer = threading.Timer(ANSWER_SECONDS, process.kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _why(host: Host, code: int, complaints: str) -> str:
    said = (complaints.strip().splitlines() or ["nothing was said"])[-1]
    if code == 255:  # ssh's own
        return f"{said}; let `ssh {host.name} hostname` work without a password"
    return f"the doctor fails there: {said}; the same folder and Python must be on every host"


def _on(host: Host, asking: Asking, *more: str) -> list[str]:
    command = [*asking.command, "--port", str(asking.port), *more]
    if not asking.remote:
        return command
    exported = [f"{name}={value}" for name, value in os.environ.items() if name.startswith("PYTHON")]
    there = shlex.join(["env", *exported, *command])
    return [*SSH, host.name, f"cd {shlex.quote(str(asking.folder))} && exec {there}"]


@contextlib.contextmanager
def _rendezvous(first: Host, asking: Asking) -> Iterator[str]:
    """Something that listens on the first host as rank 0 will; gives what stands against it, or nothing."""
    listener = subprocess.Popen(
        _on(first, asking, "--listen"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert listener.stdout is not None
    assert listener.stdin is not None
    with _deadline(listener):
        said = listener.stdout.readline().strip()
    try:
        yield "" if said in ("listening", "") else said
    finally:
        with contextlib.suppress(OSError):
            listener.stdin.close()  # which is its sign to end
        try:
            listener.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            listener.kill()
            listener.wait()
