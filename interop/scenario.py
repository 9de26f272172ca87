"""Runs a client's scenario: a program that prints `ok NAME` or `FAIL NAME: why` for each check and `end` last.

`check_failover` runs one against a single member and against three at once. In the middle of its work the scenario prints
`kill leader`: whoever leads is then ended with SIGKILL, `killed` is written to the scenario's standard input, and the
member is started again a little later, while the scenario goes on.
"""

import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from cluster import NAMES, Cluster
from report import Problem
from server import free_ports

TIMEOUT_SECS = 120
# Longer than the others need to elect a new leader, so that the client has to go on without the one that died. Alone, a member
# is started again at once: nothing goes on without it.
DOWN_SECS = {1: 0, 3: 3}
MEMBERS_ALIKE_SECS_MAX = 30
# A list of everything that was seen may be long.
SHOWN_CHARACTERS_MAX = 2000
KILL = "kill leader"


def run(report, name, command, log, kill_leader=None):
    """Reports each line as a check of `name`. `log` is a file for what the scenario writes to standard error."""
    with open(log, "wb") as stderr:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True)
    late = threading.Timer(TIMEOUT_SECS, process.kill)
    late.start()
    last = None
    try:
        for line in map(str.rstrip, process.stdout):
            last = line
            verdict, _, rest = line.partition(" ")
            if verdict == "ok":
                report.ok(f"{name}: {rest}")
            elif line == KILL and kill_leader:
                kill_leader()
                process.stdin.write("killed\n")
                process.stdin.flush()
            elif line != "end":
                report.fail(f"{name}: {rest.split(':')[0]}", line[:SHOWN_CHARACTERS_MAX])
        status = process.wait()
    finally:
        late.cancel()
        process.kill()
        process.wait()
    why = f"exit {status} (by the harness if not within {TIMEOUT_SECS} s), the last line is {last!r}\n{log.read_text(errors='replace')[-3000:]}"
    report.check(f"{name}: the scenario ran to its end", last == "end" and status == 0, why)


def check_failover(report, options, work, name, command):
    """`command` takes a list of endpoints such as http://127.0.0.1:2379, the leader's first, and returns a command line."""
    with ThreadPoolExecutor() as pool:
        runs = [pool.submit(run_with_members, report, options, work, name, command, count) for count in (1, 3)]
    for each in runs:
        each.result()


def run_with_members(report, options, work, name, command, count):
    flat = free_ports(2 * count)
    ports = {member: (flat[2 * place], flat[2 * place + 1]) for place, member in enumerate(NAMES[:count])}
    label = f"{name}, {'one member' if count == 1 else 'three members'}"
    directory = work / f"{name}-members-{count}"
    with Cluster(options.server, directory, ports, options.server_flags) as cluster, ThreadPoolExecutor() as pool:
        restarts = []

        def kill_leader():
            leader = cluster.members[cluster.leader()]
            leader.kill()
            restarts.append(pool.submit(start_again, leader, DOWN_SECS[count]))

        # The leader's first: a client that speaks with one endpoint at a time loses the one that it has.
        names = sorted(cluster.members, key=cluster.leader().__ne__)
        run(report, label, command([cluster.endpoint(each) for each in names]), directory / "scenario.log", kill_leader)
        report.check(f"{label}: the scenario had the leader killed once", len(restarts) == 1, f"{len(restarts)} times")
        for restart in restarts:
            restart.result()
        hashes = wait_alike(cluster)
        report.check(f"{label}: all members hold the same at the end", len(set(hashes.values())) == 1, hashes)


def start_again(member, down_secs):
    time.sleep(down_secs)
    member.start()


def wait_alike(cluster):
    """The hash of each member's keys, equal unless they stay different for long: the one that was killed has to catch up."""
    deadline = time.monotonic() + MEMBERS_ALIKE_SECS_MAX
    while True:
        hashes = {}
        for name in cluster.members:
            try:
                hashes[name] = cluster.json(name, "endpoint", "hashkv")[0]["HashKV"]["hash"]
            except Problem as problem:
                hashes[name] = str(problem)
        if len(set(hashes.values())) == 1 or time.monotonic() > deadline:
            return hashes
        time.sleep(0.2)
