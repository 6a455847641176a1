"""Hosts on one machine: a network namespace each, with an address, a name and an SSH server of its own.

    with Cluster(Path("/tmp/cluster"), ("alpha", "beta")) as cluster:
        cluster.run(["deepspeed", "--hostfile", cluster.hostfile(slots=1), ...], timeout=120)
        cluster.cut("beta")

The namespaces hang on a bridge; this process stands beside them on it like a login node. All see the same files, as
hosts of a cluster see a shared file system. Needs root.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

SSHD = """\
ListenAddress {address}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/user_key.pub
PidFile none
StrictModes no
UsePAM no
PermitRootLogin yes
PasswordAuthentication no
"""
SSH = """\
Host *
  IdentityFile {folder}/user_key
  UserKnownHostsFile /dev/null
  StrictHostKeyChecking no
  LogLevel ERROR
  ServerAliveInterval 5
  ServerAliveCountMax 2
"""


class Cluster:
    """Hosts by name, in order; addresses are 10.77.N.1, 10.77.N.2 and so on, and 10.77.N.254 is this process."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder = folder
        self.names = tuple(names)
        self._net = os.getpid() % 250
        self._bridge = f"m2s{self._net}"

    def __enter__(self) -> Cluster:
        self.folder.mkdir(parents=True, exist_ok=True)
        Path("/run/sshd").mkdir(exist_ok=True)
        for name in ("host_key", "user_key"):
            _call("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / name))
        (self.folder / "ssh_config").write_text(SSH.format(folder=self.folder))
        wrapper = self.folder / "bin" / "ssh"  # ssh reads a user's own configuration from his home, and nowhere else
        wrapper.parent.mkdir()
        wrapper.write_text(f'#!/bin/sh\nexec /usr/bin/ssh -F {self.folder}/ssh_config "$@"\n')
        wrapper.chmod(0o755)
        try:
            self._connect()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def address(self, name: str) -> str:
        """The address of a host."""
        return f"10.77.{self._net}.{self.names.index(name) + 1}"

    def hostfile(self, *, slots: int) -> Path:
        """A hostfile of all hosts with so many slots each."""
        path = self.folder / f"hosts_{slots}"
        path.write_text("".join(f"{self.address(name)} slots={slots}\n" for name in self.names))
        return path

    def exported(self) -> dict[str, str]:
        """What every rank needs in its environment."""
        return {
            "GLOO_SOCKET_IFNAME": "eth0",
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin:/usr/sbin:/sbin",
            "MASTER_ADDR": self.address(self.names[0]),
            **{name: os.environ[name] for name in ("TORCH_EXTENSIONS_DIR", "PYTHONPATH") if name in os.environ},
        }

    def environment(self) -> dict[str, str]:
        """What a launcher needs: our ssh, and what it hands on to the hosts."""
        handed_on = self.folder / "deepspeed_env"
        handed_on.write_text("".join(f"{name}={value}\n" for name, value in self.exported().items()))
        path = f"{self.folder}/bin:{Path(sys.executable).parent}:{os.environ['PATH']}"
        kept = {key: value for key, value in os.environ.items() if key not in ("MASTER_ADDR", "MASTER_PORT")}
        return {**kept, "OMP_NUM_THREADS": "1", "PATH": path, "DS_ENV_FILE": str(handed_on), "PDSH_RCMD_TYPE": "ssh"}

    def start(self, command: Sequence[object], log: Path, *, on: str | None = None) -> subprocess.Popen:
        """Start a command beside the hosts, or on one of them."""
        inside = ["ip", "netns", "exec", self._space(on)] if on is not None else []
        with open(log, "wb") as sink:
            return subprocess.Popen(
                [*inside, *map(str, command)],
                env=self.environment(),
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def run(self, command: Sequence[object], *, timeout: float, on: str | None = None) -> tuple[int, str]:
        """Exit code and output of a command; it and all that runs on the hosts ends with the time-out."""
        log = self.folder / "output.txt"
        process = self.start(command, log, on=on)
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            end(process)
            self.kill()
            raise AssertionError(f"did not end within {timeout} s:\n{log.read_text()[-4000:]}") from None
        return code, log.read_text()

    def ranks(self) -> list[int]:
        """Processes of Python on the hosts."""
        found = [int(pid) for name in self.names for pid in _call("ip", "netns", "pids", self._space(name)).split()]
        return [pid for pid in found if "python" in _name(pid)]

    def cut(self, name: str) -> None:
        """Take a host off the network: nothing reaches it, and nobody is told."""
        _call("ip", "-n", self._space(name), "link", "set", "eth0", "down")

    def mend(self, name: str) -> None:
        """Bring it back."""
        _call("ip", "-n", self._space(name), "link", "set", "eth0", "up")

    def kill(self) -> None:
        """End everything on the hosts but their SSH servers."""
        for pid in self.ranks():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        """Take it all down."""
        for name in self.names:
            space = self._space(name)
            listed = subprocess.run(["ip", "netns", "pids", space], capture_output=True, text=True, check=False)
            for pid in listed.stdout.split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            subprocess.run(["ip", "netns", "del", space], capture_output=True, check=False)
        subprocess.run(["ip", "link", "del", self._bridge], capture_output=True, check=False)

    def _connect(self) -> None:
        _call("ip", "link", "add", self._bridge, "type", "bridge")
        _call("ip", "addr", "add", f"10.77.{self._net}.254/24", "dev", self._bridge)
        _call("ip", "link", "set", self._bridge, "up")
        for number, name in enumerate(self.names):
            space, end_here = self._space(name), f"{self._bridge}v{number}"
            _call("ip", "netns", "add", space)
            _call("ip", "link", "add", end_here, "type", "veth", "peer", "name", "eth0", "netns", space)
            _call("ip", "link", "set", end_here, "master", self._bridge, "up")
            _call("ip", "-n", space, "addr", "add", f"{self.address(name)}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _call("ip", "-n", space, "link", "set", device, "up")
            config = self.folder / f"sshd_{name}"
            config.write_text(SSHD.format(address=self.address(name), folder=self.folder))
            server = f"hostname {name} && exec /usr/sbin/sshd -D -e -f {config}"
            with open(self.folder / f"sshd_{name}.log", "wb") as sink:
                subprocess.Popen(
                    ["ip", "netns", "exec", space, "unshare", "--uts", "sh", "-c", server],
                    stdout=sink,
                    stderr=sink,
                    start_new_session=True,
                )
        for name in self.names:
            self._await(name)

    def _await(self, name: str) -> None:
        for _ in range(100):
            asked = [str(self.folder / "bin" / "ssh"), self.address(name), "hostname"]
            found = subprocess.run(asked, capture_output=True, text=True, check=False)
            if found.stdout.strip() == name:
                return
            time.sleep(0.1)
        raise RuntimeError(f"host {name} does not answer: {found.stderr}")

    def _space(self, name: str) -> str:
        return f"{self._bridge}-{name}"


def end(process: subprocess.Popen) -> None:
    """Kill a launcher with its session."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _call(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def _name(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode()
    return ""
