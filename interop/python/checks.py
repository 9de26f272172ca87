"""How a scenario tells what it found: a line for each check (../scenario.py reads them)."""

import sys


def check(name, found, expected):
    if found == expected:
        ok(name)
    else:
        fail(name, f"found {found!r}, expected {expected!r}")


def ok(name):
    print(f"ok {name}", flush=True)


def fail(name, why):
    print(f"FAIL {name}: {' | '.join(str(why).splitlines())}", flush=True)


def have_leader_killed():
    """Returns once the leader is dead."""
    print("kill leader", flush=True)
    if sys.stdin.readline() != "killed\n":
        sys.exit("nobody kills the leader")
