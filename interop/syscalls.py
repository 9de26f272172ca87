"""A trace of the server's system calls: no answer leaves before the fdatasync that covers it.

The server runs under strace. A client puts the same key again and again, one put at a time, with a value that names
its number, and asks for the value before. So the trace shows for put number i

    W  the end of the write of value i to a file of the log,
    S  the end of an fdatasync (or fsync) of that file which began after W and succeeded,
    A  the begin of the write of value i-1, which only the answer holds, to a socket,

and W < S < A must hold for each. The same check on a server with --unsafe-no-fsync must fail, or it proves nothing.
"""

import re
import subprocess

import install
from report import Problem
from server import Server, free_ports

PUTS = 20
TRACED = "write,writev,pwrite64,pwritev,pwritev2,sendto,sendmsg,sendmmsg,fdatasync,fsync,io_uring_enter"
# Long enough that the values, which lie near the start of what is written, are shown whole.
SHOWN_BYTES = 65536

# `PID NAME(FD<TARGET>, ...) = RESULT`, or cut in two where another thread's call came in between.
LINE = re.compile(r"^(\d+)\s+(.*)$")
BEGUN = re.compile(r"^(\w+)\((\d+)<(.*?)>(?=[,)]| <unfinished)")
RESULT = re.compile(r"= (-?\d+)")
RESUMED = re.compile(r"^<\.\.\. (\w+) resumed>")


class Call:
    """One system call; `begin` and `end` are line numbers of the trace, whose order is the order of events."""

    def __init__(self, name, target, text, begin):
        self.name, self.target, self.text = name, target, text
        self.begin, self.end, self.result = begin, None, None

    def __repr__(self):
        return f"line {self.begin}-{self.end}: {self.name}({self.target}) = {self.result}"


def parse(lines):
    calls, unfinished = [], {}
    for number, line in enumerate(lines, start=1):
        matched = LINE.match(line)
        if not matched:
            continue
        pid, text = matched.groups()
        if RESUMED.match(text):
            call = unfinished.pop(pid, None)
            if call is None:
                continue
        else:
            begun = BEGUN.match(text)
            if not begun:
                if text.startswith("io_uring_enter("):
                    raise Problem("the server uses io_uring, whose writes strace doesn't show: this check needs another way")
                continue
            call = Call(begun[1], begun[3], text, number)
            calls.append(call)
            if text.endswith("<unfinished ...>"):
                unfinished[pid] = call
                continue
        call.end = number
        result = RESULT.search(text[text.rfind(") ") + 1 :])
        call.result = int(result[1]) if result else None
    return calls


def value(number):
    return f"value-number-{number:06d}"


def is_log(call):
    return call.target.endswith(".wal") or "/wal/" in call.target


def verdicts(calls):
    """For each put but the first (which has no value before): None if the order is right, or what is wrong."""
    syncs = [call for call in calls if call.name in ("fdatasync", "fsync") and call.result == 0 and is_log(call)]
    writes = [call for call in calls if call.name not in ("fdatasync", "fsync")]
    found = []
    for number in range(2, PUTS + 1):
        written = next((c for c in writes if is_log(c) and value(number) in c.text), None)
        answered = next((c for c in writes if not c.target.startswith("/") and value(number - 1) in c.text), None)
        if written is None or answered is None or written.end is None:
            raise Problem(f"put {number}: write to the log: {written}; answer: {answered}: one is not in the trace")
        synced = next((c for c in syncs if c.begin > written.end and c.target == written.target), None)
        if synced is None:
            found.append(f"put {number}: answered at line {answered.begin}, its write ({written}) is never synced")
        elif synced.end >= answered.begin:
            found.append(f"put {number}: answered at line {answered.begin}, before its sync was done: {synced}")
        else:
            found.append(None)
    return found


def trace(options, work, name, flags):
    """Runs the puts against a traced server; returns its calls."""
    path = work / f"{name}.strace"
    prefix = [install.strace(), "-f", "-yy", "-s", str(SHOWN_BYTES), "-e", f"trace={TRACED}", "-e", "signal=none", "-o", str(path)]
    with Server(options.server, work / name, free_ports(2), flags=[*options.server_flags, *flags], prefix=prefix) as server:
        server.start()
        for number in range(1, PUTS + 1):
            done = subprocess.run(
                [install.etcdctl(), f"--endpoints={server.endpoint}", "put", "traced", value(number), "--prev-kv"],
                stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30,
            )
            expected = ["OK"] if number == 1 else ["OK", "traced", value(number - 1)]
            if done.stdout.split() != expected:
                raise Problem(f"put {number} printed {done.stdout!r} {done.stderr!r}\n{server.log_tail()}")
        server.stop()
    return parse(path.read_text(errors="replace").splitlines())


def check(report, options, work):
    found = verdicts(trace(options, work, "synced", []))
    wrong = [each for each in found if each]
    report.check(f"no answer before the fdatasync that covers it, in {len(found)} puts", not wrong, "\n".join(wrong))
    canary = verdicts(trace(options, work, "unsynced", ["--unsafe-no-fsync"]))
    late = [each for each in canary if each]
    report.check(
        f"the same check fails with --unsafe-no-fsync ({len(late)} of {len(canary)} puts not synced)",
        len(late) == len(canary),
        "the server syncs although it is told not to, or this check sees syncs where there are none",
    )
