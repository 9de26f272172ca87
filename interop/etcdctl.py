"""etcdctl against etcd and against quorate: the same commands, equal output.

Each line of commands.txt is run by Debian's etcdctl (a few by the newest) against a fresh Debian etcd, then, on the
same addresses, against a fresh quorate. Standard output, standard error and exit status must be equal. Only these are masked:

- cluster_id, member_id (the leader's too), raft_term, the server's version, and sizes in bytes of its database;
- what etcdctl itself draws or measures: in its warnings the time, the client's id and its own port; how long a health
  check took.

The raft index is *not* masked: with one member the log's first four entries are the same, and then each accepted
change is one entry. Because the member id and the cluster id are derived from flags, they are compared unmasked in a
check of their own.
"""

import difflib
import os
import re
import shlex
import subprocess
from pathlib import Path

import install
from report import Problem
from server import Server, free_ports

COMMANDS = Path(__file__).resolve().parent / "commands.txt"
COMMANDS_MIN = 80
COMMAND_TIMEOUT_SECS = 30
SHOWN_CHARACTERS_MAX = 400

# Names as in -w json, then as in -w fields. A version in quotes is a server's, a bare one is a key's and is compared.
MASKED_JSON = re.compile(r'"(cluster_id|member_id|raft_term|raftTerm|leader|ID|dbSize|dbSizeInUse)":\d+')
MASKED_FIELDS = re.compile(r'^"(ClusterID|MemberID|RaftTerm|Leader|ID|DBSize|DBSizeInUse)" : \d+$', re.M)
MASKED_VERSION = re.compile(r'"(version|Version)"( ?: ?)"[^"]*"')
MASKED_TOOK = re.compile(r'(took = |"took":"|"Took" : )[0-9.]+(µs|ms|s)')
MASKED_WARNING = re.compile(r'"ts":"[^"]*"|endpoint://client-[0-9a-f-]{36}/|endpoints://0x[0-9a-f]+/|LocalAddr: \'[^\']*\'')
MASKED_COLUMNS = {"ID", "VERSION", "DB SIZE", "RAFT TERM", "TOOK"}
# `endpoint status` and `member list` without headings: columns by position.
STATUS_COLUMNS = {1: "ID", 2: "VERSION", 3: "DB SIZE", 6: "RAFT TERM"}
MEMBER_COLUMNS = {0: "ID"}


NEWEST = "3.7: "


class Command:
    def __init__(self, line_number, text):
        self.line_number = line_number
        self.newest = text.startswith(NEWEST)
        self.text = text = text.removeprefix(NEWEST)
        self.words = shlex.split(text)
        self.stdin_lines = []

    @property
    def name(self):
        return f"etcdctl{' 3.7' if self.newest else ''} {self.text}  [commands.txt:{self.line_number}]"

    def stdin(self):
        return "".join(line + "\n" for line in self.stdin_lines).encode()


def read_commands(path=COMMANDS):
    commands = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if not line or line.startswith(("#", "==")):
            continue
        if not line.startswith("|"):
            commands.append(Command(number, line))
            continue
        repeated = re.fullmatch(r"\|\*(\d+) (.*)", line)
        if repeated:
            count, text = int(repeated[1]), repeated[2]
            commands[-1].stdin_lines += [text.replace("{i}", str(i)) for i in range(count)]
        else:
            commands[-1].stdin_lines.append(line[2:])
    return commands


def run_command(command, endpoint):
    """(exit status, standard output, standard error), as etcdctl gave them."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("ETCD_", "ETCDCTL_"))}
    environment |= {"ETCDCTL_API": "3", "ETCDCTL_ENDPOINTS": endpoint}
    try:
        done = subprocess.run(
            [install.newest_etcdctl() if command.newest else install.etcdctl(), *command.words],
            input=command.stdin(),
            capture_output=True,
            env=environment,
            timeout=COMMAND_TIMEOUT_SECS,
        )
    except subprocess.TimeoutExpired:
        return ("no end within the time limit", "", "")
    return (done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace"))


def mask(command, output):
    status, stdout, stderr = output
    if command.words[:2] in (["endpoint", "status"], ["endpoint", "health"], ["member", "list"]):
        stdout = mask_columns(command, stdout)
    for pattern, replacement in (
        (MASKED_JSON, r'"\1":*'),
        (MASKED_FIELDS, r'"\1" : *'),
        (MASKED_VERSION, r'"\1"\2*'),
        (MASKED_TOOK, r"\1*"),
    ):
        stdout = pattern.sub(replacement, stdout)
    stderr = MASKED_TOOK.sub(r"\1*", MASKED_WARNING.sub("*", stderr))
    return (status, stdout, stderr)


def mask_columns(command, stdout):
    """Tables and comma-separated lines; a table's column widths follow the masked cells and go with them."""
    lines = stdout.splitlines()
    headings = None
    masked = []
    for line in lines:
        if line.startswith("+-"):
            masked.append("+-")
        elif line.startswith("|"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if headings is None:
                headings = cells
            else:
                cells = ["*" if heading in MASKED_COLUMNS else cell for heading, cell in zip(headings, cells)]
            masked.append(" | ".join(cells))
        elif "-w" not in command.words and "health" not in command.words:
            columns = STATUS_COLUMNS if "status" in command.words else MEMBER_COLUMNS
            cells = line.split(", ")
            masked.append(", ".join("*" if i in columns else cell for i, cell in enumerate(cells)))
        else:
            masked.append(line)
    return "\n".join(masked) + ("\n" if stdout.endswith("\n") else "")


def difference(reference, candidate):
    def text(output):
        status, stdout, stderr = output
        parts = [f"exit status: {status}", "standard output:", *stdout.splitlines(), "standard error:", *stderr.splitlines()]
        if stdout and not stdout.endswith("\n"):
            parts.insert(-1 - len(stderr.splitlines()), "(no newline at the end)")
        return [p if len(p) <= SHOWN_CHARACTERS_MAX else f"{p[:SHOWN_CHARACTERS_MAX]}... ({len(p)} characters)" for p in parts]

    return "\n".join(difflib.unified_diff(text(reference), text(candidate), "etcd", "quorate", lineterm="", n=2))


def outputs_of(server, commands):
    with server:
        server.start()
        outputs = []
        for command in commands:
            outputs.append(run_command(command, server.endpoint))
            if server.process.poll() is not None:
                raise Problem(f"{server.binary} ended during: {command.name}\n{server.log_tail()}")
        identity = run_command(Command(0, "member list"), server.endpoint), run_command(
            Command(0, "get identity -w json"), server.endpoint
        )
        server.stop()
    return outputs, identity


# What the masks must hide (True) and what they must not (False): a mask that hides too much makes every check idle.
MASK_EXAMPLES = [
    (True, "get a -w json", '"member_id":7,"revision":2', '"member_id":8,"revision":2'),
    (False, "get a -w json", '"member_id":7,"revision":2', '"member_id":7,"revision":3'),
    (False, "get a -w json", '"member_id":7', '"member":7'),
    (False, "get a -w json", '"mod_revision":2,"version":1,"value":"MQ=="', '"mod_revision":2,"version":2,"value":"MQ=="'),
    (False, "get a -w fields", '"Version" : 1', '"Version" : 2'),
    (True, "get a -w fields", '"ClusterID" : 1', '"ClusterID" : 2'),
    (False, "get a", "a\n1", "a\n2"),
    (True, "endpoint status -w json", '"version":"3.4.23","dbSize":1,"raftIndex":4', '"version":"3.7.0","dbSize":2,"raftIndex":4'),
    (False, "endpoint status -w json", '"dbSize":1,"raftIndex":4', '"dbSize":1,"raftIndex":5'),
    (True, "endpoint status", "u, 8e9e, 3.4.23, 20 kB, true, false, 2, 4, 4, ", "u, 4711, 3.7.0, 1.1 MB, true, false, 3, 4, 4, "),
    (False, "endpoint status", "u, 8e9e, 3.4.23, 20 kB, true, false, 2, 4, 4, ", "u, 8e9e, 3.4.23, 20 kB, true, true, 2, 4, 4, "),
    (True, "member list", "8e9e, started, m1, p, c, false", "4711, started, m1, p, c, false"),
    (False, "member list", "8e9e, started, m1, p, c, false", "8e9e, started, m2, p, c, false"),
]


def check_masks(report):
    wrong = [
        f"{text}: {left!r} and {right!r} must {'' if equal else 'not '}be taken as equal"
        for equal, text, left, right in MASK_EXAMPLES
        if (mask(Command(0, text), (0, left, "")) == mask(Command(0, text), (0, right, ""))) != equal
    ]
    report.check("the masks hide what they should and nothing else", not wrong, "\n".join(wrong))


def check(report, options, work):
    check_masks(report)
    commands = read_commands()
    if len(commands) < COMMANDS_MIN:
        raise Problem(f"{COMMANDS} holds {len(commands)} commands; at least {COMMANDS_MIN} are wanted")
    ports = free_ports(2)
    reference = Server(install.etcd(), work / "etcd", ports, flags=["--logger=zap"])
    candidate = Server(options.server, work / "quorate", ports, flags=options.server_flags)
    expected, expected_identity = outputs_of(reference, commands)
    found, found_identity = outputs_of(candidate, commands)
    for command, theirs, ours in zip(commands, expected, found):
        theirs, ours = mask(command, theirs), mask(command, ours)
        report.check(command.name, theirs == ours, difference(theirs, ours))
    # Here nothing is masked but the term, which counts elections.
    (theirs_members, theirs_header), (ours_members, ours_header) = expected_identity, found_identity
    term = re.compile(r'"raft_term":\d+')
    report.check(
        "the member id is the one that etcd derives from the same flags",
        theirs_members == ours_members,
        difference(theirs_members, ours_members),
    )
    theirs, ours = ((s, term.sub("", out), err) for s, out, err in (theirs_header, ours_header))
    report.check("the cluster id too", theirs == ours, difference(theirs, ours))
