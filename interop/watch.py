"""Watches, output for output: Debian's etcdctl 3.4 against etcd and quorate, and every field of every answer against etcd 3.7.

With etcdctl, each scenario starts one `etcdctl watch`, waits until the server counts its watchers (both have the metric), runs
commands, and then compares what the watch has printed. The comparison of fields is a Go test (watch/).
"""

import os
import re
import shlex
import signal
import subprocess
import time
import urllib.request

import etcdctl
import gotests
import install
from report import Problem
from server import Server, free_ports

TESTS_MIN = 6
LINE_TIMEOUT_SECS = 10
# etcd looks after watchers of the past every 100 ms.
CATCH_UP_SECS = 0.25
# After the last expected line: what else comes is too much.
QUIET_SECS = 0.3

WATCHERS = re.compile(r"^etcd_debugging_mvcc_watcher_total (\d+)", re.M)
# cluster_id, member_id and raft_term in headers are the servers' own.
MASKED = re.compile(r'("(?:cluster_id|member_id|raft_term)":)\d+|^("(?:ClusterID|MemberID|RaftTerm)" : )\d+$', re.M)


class Scenario:
    """`watch` is etcdctl's arguments; `asks` is typed into an interactive one; `watchers` are there when `commands` start."""

    def __init__(self, name, watch, commands=(), before=(), asks=(), watchers=1):
        self.name, self.watch, self.before, self.commands = name, watch, before, commands
        self.asks, self.watchers = asks, watchers


SCENARIOS = [
    Scenario("a key", "watch a", ["put a 1", "put b 1", "put a 2", "del a", "del a"]),
    Scenario("a prefix", "watch --prefix a", ["put a 1", "put ab 2", "put b 3", "del --prefix a"]),
    Scenario("a range", "watch b d", ["put a 1", "put b 1", "put c 1", "put d 1", "del a z"]),
    Scenario("everything", 'watch --prefix ""', ["put a 1", "del a"]),
    Scenario("what was there before", "watch --prev-kv a", ["put a 1", "put a 2", "del a", "put a 3"]),
    Scenario("as JSON", "watch -w json --prev-kv --prefix a", ["put a 1", "put a 2", "del a"]),
    Scenario("as fields", "watch -w fields --prev-kv a", ["put a 1", "put a 2", "del a"]),
    Scenario("from the first revision", "watch --rev 1 --prefix a", ["put a 9"], ["put a 1", "put ab 2", "del a"]),
    Scenario("from the past, as JSON", "watch -w json --rev 3 a", ["put a 9"], ["put a 1", "put a 2", "put b 1", "put a 3"]),
    Scenario("from the future", "watch --rev 6 a", ["put a 1", "put a 2", "put a 3", "put a 4", "put a 5", "put a 6"]),
    Scenario("a compacted revision", "watch --rev 2 a", [], ["put a 1", "put a 2", "put a 3", "compact 4"], watchers=None),
    Scenario("the compacted revision itself", "watch --rev 4 a", ["put a 4"], ["put a 1", "put a 2", "put a 3", "compact 4"]),
    Scenario("a command for each event", "watch a -- sh -c 'echo $ETCD_WATCH_EVENT_TYPE $ETCD_WATCH_KEY $ETCD_WATCH_VALUE $ETCD_WATCH_REVISION'", ["put a 1", "del a"]),
    Scenario("several, interactively", "watch -i", ["put a 1", "put b 2", "put c 3", "del a"], asks=["watch a", "watch b d"], watchers=2),
    Scenario("from the past, interactively", "watch -i", ["put a 3"], ["put a 1", "put a 2"], asks=["watch --rev=2 a"], watchers=1),
]


def check(report, options, work):
    ports = free_ports(2)
    for number, scenario in enumerate(SCENARIOS):
        said = []
        for kind, binary, flags in (
            ("etcd", install.etcd(), ["--logger=zap"]),
            ("quorate", options.server, options.server_flags),
        ):
            with Server(binary, work / f"{kind}-{number}", ports, flags=flags) as server:
                server.start()
                wanted = len(said[0][1]) if said else None
                said.append(play(scenario, server, wanted))
                server.stop()
        report.check(f"etcdctl {scenario.watch}: {scenario.name}", said[0] == said[1], difference(*said))
        report.check(f"etcdctl {scenario.watch}: something was said", any(said[0][1:]))
    timeout_secs = 1200 if options.full else gotests.TIMEOUT_SECS
    gotests.check(report, "watch", install.HERE, "./watch", gotests.with_both_servers(options, work), TESTS_MIN, timeout_secs)


def play(scenario, server, wanted_lines):
    """(exit status if it ended by itself, lines of standard output, lines of standard error)."""
    for command in scenario.before:
        run(command, server)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("ETCD_", "ETCDCTL_"))}
    environment |= {"ETCDCTL_API": "3", "ETCDCTL_ENDPOINTS": server.endpoint}
    out_path, err_path = server.data_dir.with_suffix(".out"), server.data_dir.with_suffix(".err")
    with open(out_path, "wb") as out, open(err_path, "wb") as err:
        watching = subprocess.Popen(
            [install.etcdctl(), *shlex.split(scenario.watch)], stdin=subprocess.PIPE, stdout=out, stderr=err, env=environment
        )
        try:
            for line in scenario.asks:
                watching.stdin.write(f"{line}\n".encode())
                watching.stdin.flush()
            if scenario.watchers is not None:
                wait_for_watchers(server, scenario.watchers)
                time.sleep(CATCH_UP_SECS)
            for command in scenario.commands:
                run(command, server)
            wait_for_lines(out_path, wanted_lines, watching)
            status = watching.poll()
        finally:
            if watching.poll() is None:
                watching.send_signal(signal.SIGKILL)
            watching.wait()
    return status, lines_of(out_path), lines_of(err_path)


def run(command, server):
    status, _, stderr = etcdctl.run_command(etcdctl.Command(0, command), server.endpoint)
    if status != 0:
        raise Problem(f"etcdctl {command} against {server.binary} ended with status {status}: {stderr}")


def wait_for_watchers(server, count):
    deadline = time.monotonic() + LINE_TIMEOUT_SECS
    while True:
        with urllib.request.urlopen(server.endpoint + "/metrics", timeout=5) as answer:
            found = WATCHERS.search(answer.read().decode())
        if found and int(found[1]) >= count:
            return
        if time.monotonic() > deadline:
            raise Problem(f"{server.binary} has no {count} watchers after {LINE_TIMEOUT_SECS} s")
        time.sleep(0.01)


def wait_for_lines(path, wanted, process):
    """Until there are as many lines as are wanted and nothing more comes, or (for the first server) nothing comes for long."""
    deadline = time.monotonic() + LINE_TIMEOUT_SECS
    size, since = -1, time.monotonic()
    quiet = QUIET_SECS if wanted is not None else 3 * QUIET_SECS
    while time.monotonic() < deadline:
        now = path.stat().st_size
        if now != size:
            size, since = now, time.monotonic()
        enough = wanted is None or len(lines_of(path)) >= wanted
        if enough and time.monotonic() - since > quiet and (size > 0 or process.poll() is not None):
            return
        time.sleep(0.02)


def lines_of(path):
    text = MASKED.sub(lambda found: (found[1] or found[2]) + "*", path.read_text(errors="replace"))
    return etcdctl.MASKED_WARNING.sub("*", text).splitlines()


def difference(theirs, ours):
    def text(said):
        status, out, err = said
        return (str(status), "\n".join(out) + "\n", "\n".join(err))

    return etcdctl.difference(text(theirs), text(ours))
