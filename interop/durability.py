"""`kill -9` under load, many times: no acknowledged write is lost, and the server is back soon.

First 100,000 keys are filled in. Then each round: writers put as fast as they can, the server is killed at a random
moment, started again on the same directory, and everything that had been acknowledged, in this round and in all before
it, must be there with its value and revision; a write that was in flight may be there, but whole. The time from the
start of the process to the first linearizable get that finds a filled-in key must stay below the limit.

A kill leaves the kernel's page cache alone, so this can't show a missing fdatasync: syscalls.py does.

    python3 interop/durability.py --server target/release/quorate --kills 20
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import install
from report import Problem, Report
from server import Server, free_ports

KILLS_SHORT, KILLS_FULL = 3, 20
WRITERS = 64
KEYS = 100_000
RESTART_SECS_MAX = 2.0
# The server is killed this long after every writer has had its first acknowledgement.
KILL_AFTER_SECS = (0.1, 0.8)
STEP_TIMEOUT_SECS = 120


def load(*arguments):
    """Runs a command of interop/load and returns its answer."""
    command = [str(install.go_build("load")), *map(str, arguments)]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=STEP_TIMEOUT_SECS
        )
    except subprocess.TimeoutExpired:
        raise Problem(f"no end within {STEP_TIMEOUT_SECS} s: {' '.join(command)}") from None
    if done.returncode != 0:
        raise Problem(f"exit {done.returncode}: {' '.join(command)}\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def write_until_killed(server, prefix, acks, kill_after_secs):
    """Returns how many puts were acknowledged before the server died."""
    writing = subprocess.Popen(
        [str(install.go_build("load")), "write", "-endpoint", server.endpoint, "-prefix", prefix,
         "-writers", str(WRITERS), "-acks", str(acks)],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )
    try:
        first = writing.stdout.readline().strip()
        if first != "running":
            _, errors = writing.communicate(timeout=STEP_TIMEOUT_SECS)
            raise Problem(f"not every writer had a put acknowledged: {first} {errors}\n{server.log_tail()}")
        time.sleep(kill_after_secs)
        if server.process.poll() is not None:
            raise Problem(f"the server ended under load, before it was killed\n{server.log_tail()}")
        server.kill()
        output, errors = writing.communicate(timeout=STEP_TIMEOUT_SECS)
    finally:
        writing.kill()
        writing.wait()
    if writing.returncode != 0:
        raise Problem(f"the writers failed: {errors}")
    return json.loads(output.splitlines()[-1])["acknowledged"]


def restart_secs(server, key):
    """Starts the server and measures until it answers a linearizable get."""
    waiting = subprocess.Popen(
        [str(install.go_build("load")), "await", "-endpoint", server.endpoint, "-key", key],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )
    try:
        time.sleep(0.05)  # the waiting program is up before the clock starts
        started_ns = time.time_ns()
        server.spawn()
        output, errors = waiting.communicate(timeout=STEP_TIMEOUT_SECS)
    except subprocess.TimeoutExpired:
        raise Problem(f"the restarted server does not answer\n{server.log_tail()}") from None
    finally:
        waiting.kill()
        waiting.wait()
    if waiting.returncode != 0:
        raise Problem(f"after the restart: {errors}\n{server.log_tail()}")
    return (json.loads(output)["answered_unix_ns"] - started_ns) / 1e9


def verify(server, prefix, acks):
    return load("verify", "-endpoint", server.endpoint, "-prefix", prefix, "-acks", acks)


def check_verifier(report, server, prefix, acks):
    """A write that never was, and one at another revision: if `load verify` misses them, its silence means nothing."""
    lines = acks.read_text().splitlines()
    key, revision = lines[0].split("\t")
    forged = acks.with_suffix(".forged")
    forged.write_text("\n".join([f"{prefix}/999/0000000\t{revision}", f"{key}\t{int(revision) + 1}", *lines[1:], ""]))
    result = verify(server, prefix, forged)
    report.check("the check notices a lost and a changed write", (result["lost"], result["wrong"]) == (1, 1), result)


def check(report, options, work):
    kills = options.kills or (KILLS_FULL if options.full else KILLS_SHORT)
    # Drawn from a printed seed, although what a kill hits depends on the machine's timing as well.
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 32)
    draw = random.Random(seed)
    print(f"   {kills} kills, {WRITERS} writers, {options.keys} keys filled in, --seed {seed}", flush=True)
    with Server(options.server, work / "member", free_ports(2), flags=options.server_flags) as server:
        server.start()
        filled = load("fill", "-endpoint", server.endpoint, "-prefix", "filled", "-keys", options.keys)
        print(f"   filled in {filled['keys']} keys in {filled['secs']:.1f} s", flush=True)
        probe = f"filled/000/{options.keys - 1:07d}"  # the newest key, the last to be replayed
        rounds = []
        for number in range(1, kills + 1):
            prefix, acks = f"round{number:03d}", work / f"acks-{number:03d}"
            acknowledged = write_until_killed(server, prefix, acks, draw.uniform(*KILL_AFTER_SECS))
            secs = restart_secs(server, probe)
            result = verify(server, prefix, acks)
            rounds.append((prefix, acks, result))
            report.check(
                f"kill {number}: none of {acknowledged} acknowledged writes lost or changed "
                f"({result['unacknowledged_found']} in flight kept)",
                acknowledged >= WRITERS and result["acknowledged"] == acknowledged and not (result["lost"] or result["wrong"]),
                json.dumps(result, indent=1),
            )
            report.check(
                f"kill {number}: answers again after {secs:.2f} s (limit {RESTART_SECS_MAX} s)",
                secs < RESTART_SECS_MAX,
                server.log_tail(),
            )
        check_verifier(report, server, prefix, acks)
        changed = [(prefix, now) for prefix, acks, then in rounds if (now := verify(server, prefix, acks)) != then]
        report.check("after the last kill everything of every round is still there", not changed, changed)
        count = load("count", "-endpoint", server.endpoint, "-prefix", "filled")["count"]
        report.check("and every key that was filled in first", count == options.keys, f"{count} of {options.keys}")
        server.stop()


def add_options(parser):
    parser.add_argument("--kills", type=int, help=f"how often to kill ({KILLS_SHORT}, with --full {KILLS_FULL})")
    parser.add_argument("--keys", type=int, default=KEYS, help="keys to fill in first (%(default)s)")
    parser.add_argument("--seed", type=int, help="for the moments of the kills (drawn and printed otherwise)")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", type=Path, required=True, help="the server's binary")
    parser.add_argument("--server-flag", action="append", default=[], dest="server_flags", help="one more flag for the server")
    parser.set_defaults(full=True)
    add_options(parser)
    options = parser.parse_args()
    report = Report()
    with tempfile.TemporaryDirectory(prefix="quorate-durability-") as work, report.group("kill -9 under load"):
        check(report, options, Path(work))
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
