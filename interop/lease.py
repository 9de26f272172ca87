"""Leases: etcdctl's output for them is compared between etcd and quorate, and a Go test (lease/) compares every field of every answer.

The ids that servers choose differ: they are numbered as they come, and a line may name one by its number (LEASE1, LEASE2, ...).
"""

import re

import etcdctl
import gotests
import install
from server import Server, free_ports

# Of Go tests.
TESTS_MIN = 5

COMMANDS = [
    "lease list",
    "lease list -w json",
    "lease grant 600",
    "lease grant 700 -w json",
    "lease grant 800 -w fields",
    "lease grant 0",
    "lease grant 9000000001",
    "lease grant many",
    "lease grant",
    "put a 1 --lease=LEASE1",
    "put b 2 --lease=LEASE1 -w json",
    "put c 3 --lease=LEASE2",
    "put d 4 --lease=1234",
    "put d 4 --lease=xyz",
    "put a 5 --ignore-lease",
    "put a 5 --ignore-lease --lease=LEASE1",
    "get a -w fields",
    "get --prefix '' -w json",
    "lease timetolive LEASE1 --keys",
    "lease timetolive LEASE1 --keys -w json",
    "lease timetolive LEASE2 -w fields",
    "lease timetolive 1234",
    "lease timetolive 1234 --keys -w json",
    "lease timetolive",
    "lease keep-alive --once LEASE1",
    "lease keep-alive --once LEASE1 -w json",
    "lease keep-alive --once 1234",
    "lease revoke LEASE1",
    "lease revoke LEASE1",
    "lease revoke LEASE2 -w json",
    "lease revoke 1234",
    "lease revoke",
    "get --prefix ''",
    "lease timetolive LEASE1 --keys",
]
# As etcdctl prints an id: in hexadecimal, and in decimal in JSON and fields.
GRANTED = re.compile(r"lease ([0-9a-f]{16}) granted|\"ID\" ?: ?(\d+)")
# etcd lists the keys of a lease as its hash table has them: in any order.
ATTACHED = re.compile(r"(attached keys\(\[|\"keys\":\[)([^\]]*)\]")
# A second may pass between a grant and the question.
REMAINING = re.compile(r"remaining\(\d+s\)|(\"[Tt][Tt][Ll]\" ?: ?)(59\d|69\d|79\d|[678]00)\b")


def check(report, options, work):
    ports = free_ports(2)
    said = []
    for kind, binary, flags in (("etcd", install.etcd(), ["--logger=zap"]), ("quorate", options.server, options.server_flags)):
        with Server(binary, work / f"lease-{kind}", ports, flags=flags) as server:
            server.start()
            said.append(outputs(server))
            server.stop()
    for command, theirs, ours in zip(COMMANDS, *said):
        report.check(f"etcdctl {command}", theirs == ours, f"etcd:    {theirs}\nquorate: {ours}")
    gotests.check(report, "lease", install.HERE, "./lease", gotests.with_both_servers(options, work), TESTS_MIN)


def outputs(server):
    """(status, standard output, standard error) of each command, with what the server chose masked."""
    ids, said = [], []
    for line in COMMANDS:
        for number, id_hex in enumerate(ids, start=1):
            line = line.replace(f"LEASE{number}", id_hex)
        command = etcdctl.Command(0, line)
        output = etcdctl.run_command(command, server.endpoint)
        if line.startswith("lease grant"):
            ids += [hexadecimal or f"{int(decimal):016x}" for hexadecimal, decimal in GRANTED.findall(output[1])]
        status, stdout, stderr = etcdctl.mask(command, output)
        said.append((status, mask(stdout, ids), mask(stderr, ids)))
    return said


def mask(text, ids):
    text = REMAINING.sub(lambda found: f"{found[1] or 'remaining '}NEARLY ALL", text)
    text = ATTACHED.sub(lambda found: f"{found[1]}{sorted(re.split('[ ,]', found[2]))}", text)
    for number, id_hex in enumerate(ids, start=1):
        text = text.replace(id_hex, f"LEASE{number}").replace(str(int(id_hex, 16)), f"LEASE{number}")
    return text
