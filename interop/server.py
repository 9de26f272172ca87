"""Starts and stops one etcd-compatible server process with a single member.

The same class runs Debian's etcd (the reference) and quorate (the candidate): both take etcd's flags. Ports are
given by the caller, so that two servers can be run one after the other on the same addresses and then print the same
addresses.
"""

import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

from report import Problem

# quorate's line (etcd's since 3.5), and the one that etcd 3.4 writes at the same point.
READY_LINES = ("ready to serve client requests", "serving client traffic insecurely")
START_TIMEOUT_SECS = 30
STOP_TIMEOUT_SECS = 20


def free_ports(count):
    """TCP ports on the loopback address that nobody listens on right now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


class Server:
    """`prefix` is put in front of the command (strace and its flags)."""

    def __init__(self, binary, data_dir, ports, flags=(), prefix=()):
        self.binary = str(binary)
        self.data_dir = Path(data_dir)
        self.client_port, self.peer_port = ports
        self.flags = list(flags)
        self.prefix = list(prefix)
        self.log_path = self.data_dir.with_name(self.data_dir.name + ".log")
        self.process = None
        self._log_start = 0

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.client_port}"

    @property
    def wal_dir(self):
        return self.data_dir / "member" / "wal"

    def command(self):
        peer = f"http://127.0.0.1:{self.peer_port}"
        return [
            *self.prefix,
            self.binary,
            "--name", "m1",
            "--data-dir", str(self.data_dir),
            "--listen-client-urls", self.endpoint,
            "--advertise-client-urls", self.endpoint,
            "--listen-peer-urls", peer,
            "--initial-advertise-peer-urls", peer,
            "--initial-cluster", f"m1={peer}",
            *self.flags,
        ]

    def spawn(self):
        """Starts the process and returns without waiting for it to be ready."""
        if self.process is not None:
            raise Problem(f"{self.binary} runs already")
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("ETCD_", "ETCDCTL_"))}
        with open(self.log_path, "ab") as log:
            self._log_start = log.tell()
            self.process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
            )

    def start(self):
        self.spawn()
        self.wait_ready()
        return self

    def wait_ready(self):
        """Waits for the log's ready line, then until the cluster version is agreed on.

        Neither adds an entry to the raft log, unlike etcd 3.4's `/health`, and after both nothing of the start is left
        to be added: from here raft indexes can be compared.
        """
        deadline = time.monotonic() + START_TIMEOUT_SECS
        while time.monotonic() < deadline:
            status = self.process.poll()
            if status is not None:
                self.process = None
                raise Problem(f"{self.binary} exited with status {status} while starting\n{self.log_tail()}")
            log = self.log_text()
            if any(line in log for line in READY_LINES) and self._cluster_version_decided():
                return
            time.sleep(0.02)
        tail = self.log_tail()
        self.kill()
        raise Problem(f"{self.binary} is not ready after {START_TIMEOUT_SECS} s\n{tail}")

    def _cluster_version_decided(self):
        try:
            with urllib.request.urlopen(self.endpoint + "/version", timeout=2) as answer:
                return json.load(answer).get("etcdcluster", "not_decided") != "not_decided"
        except (OSError, ValueError):
            return False

    def server_pid(self):
        """The server's own process id, also when it runs below a prefix such as strace."""
        if not self.prefix:
            return self.process.pid
        outer = self.process.pid
        children = Path(f"/proc/{outer}/task/{outer}/children").read_text().split()
        if len(children) != 1:
            raise Problem(f"expected one child of {self.prefix[0]} (process {outer}), found {children}")
        return int(children[0])

    def stop(self):
        """SIGTERM; returns the exit status."""
        return self._end(signal.SIGTERM)

    def kill(self):
        """SIGKILL: what `kill -9` does."""
        return self._end(signal.SIGKILL)

    def _end(self, signal_number):
        if self.process is None:
            return None
        process, pid = self.process, self.server_pid() if self.process.poll() is None else None
        if pid is not None:
            os.kill(pid, signal_number)
        try:
            status = process.wait(STOP_TIMEOUT_SECS)
        except subprocess.TimeoutExpired:
            os.kill(pid, signal.SIGKILL)
            process.wait()
            self.process = None
            raise Problem(
                f"{self.binary} did not end within {STOP_TIMEOUT_SECS} s of signal {signal_number}\n{self.log_tail()}"
            ) from None
        self.process = None
        return status

    def log_text(self):
        """What the current (or last) process wrote to its log."""
        if not self.log_path.exists():
            return ""
        with open(self.log_path, "rb") as log:
            log.seek(self._log_start)
            return log.read().decode("utf-8", "replace")

    def log_tail(self, lines=15):
        return "\n".join([f"-- the last lines of {self.log_path}:", *self.log_text().splitlines()[-lines:]])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # A `with` block that raised must not leave a server behind; one that ended well has stopped it itself.
        self.kill()
