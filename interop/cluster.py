"""A cluster of three, changed with etcdctl: once of Debian's etcd, once of quorate, with equal output.

The same script runs on the same addresses: it lists, moves leadership, updates peer URLs, adds a learner, starts and
promotes it, replaces a voter, removes a follower and then the leader, and asks for everything that must be refused. Each
command's standard output, standard error and exit status must be equal. Only what no two runs share is masked: ids of members
that were added (they depend on the time), raft indexes (they count elections), the code of a refusal by a learner (it
changed between 3.4 and 3.7), and what etcdctl.py masks.

What is quorate's own promise is measured on quorate alone: a leader that is told to stop hands over and is gone, a removed
member ends with status 0, and nobody waits for an election when the leader is removed.
"""

import itertools
import json
import os
import re
import signal
import subprocess
import threading
import time

import etcdctl
import install
from etcdctl import Command
from report import Problem
from server import START_TIMEOUT_SECS, Server, free_ports

NAMES = ["m1", "m2", "m3", "m4", "m5"]
# Members count as healthy once they have been in touch for five seconds.
HEALTHY_SECS = 6.5
REMOVED_SECS_MAX = 3.0
NEW_LEADER_SECS_MAX = 0.5
GONE_SECS_MAX = 1.5
# Half an election timeout: nobody waited for one.
LEADER_REMOVED_PUT_SECS_MAX = 0.5

UNKNOWN_ID = "1234"
# etcd 3.4 says Unavailable, so its client tries again, a hundred times for a read, and warns each time; 3.7, as quorate, says
# FailedPrecondition.
LEARNER_REFUSED = re.compile(r'"attempt":\d+,"error":"rpc error: code = \w+ desc = etcdserver: rpc not supported for learner"')


class ClusterMember(Server):
    """One of several members; `founders` maps names to peer ports."""

    def __init__(self, binary, work, name, ports, founders, flags=()):
        super().__init__(binary, work / name, ports, flags)
        self.name, self.founders, self.state = name, founders, "new"

    def command(self):
        command = super().command()
        cluster = ",".join(f"{name}=http://127.0.0.1:{port}" for name, port in self.founders.items())
        command[command.index("--name") + 1] = self.name
        command[command.index("--initial-cluster") + 1] = cluster
        return [*command, "--initial-cluster-state", self.state]

    def wait_exit(self, limit_secs):
        """The exit status and how long it took, or None if it still runs."""
        started = time.monotonic()
        try:
            status = self.process.wait(limit_secs)
        except subprocess.TimeoutExpired:
            return None
        self.process = None
        return status, time.monotonic() - started


class Cluster:
    """`ports[name]` are (client, peer). The first three that are named found it, or as many as there are."""

    def __init__(self, binary, work, ports, flags):
        work.mkdir()
        self.binary, self.work, self.ports, self.flags = binary, work, ports, flags
        founders = {name: ports[name][1] for name in list(ports)[:3]}
        self.members = {name: self.make(name, founders) for name in founders}
        self.commands = []

    def make(self, name, founders):
        return ClusterMember(self.binary, self.work, name, self.ports[name], founders, self.flags)

    def __enter__(self):
        for member in self.members.values():
            member.spawn()
        for member in self.members.values():
            member.wait_ready()
        return self

    def __exit__(self, *_):
        for member in self.members.values():
            member.kill()

    def endpoint(self, name):
        return f"http://127.0.0.1:{self.ports[name][0]}"

    def peer(self, name):
        return f"http://127.0.0.1:{self.ports[name][1]}"

    def json(self, name, *words):
        status, stdout, stderr = etcdctl.run_command(Command(0, " ".join([*words, "-w", "json"])), self.endpoint(name))
        if status != 0:
            raise Problem(f"etcdctl {' '.join(words)} at {name} of {self.binary} failed: {stderr}")
        return json.loads(stdout)

    def status(self, name):
        return self.json(name, "endpoint", "status")[0]["Status"]

    def id(self, name):
        return f"{self.status(name)['header']['member_id']:x}"

    def leader(self):
        """Its name, once all living members agree."""
        deadline = time.monotonic() + START_TIMEOUT_SECS
        while time.monotonic() < deadline:
            running = [name for name, member in self.members.items() if member.process is not None]
            statuses = [self.status(name) for name in running]
            leaders = {status.get("leader", 0) for status in statuses}
            if len(leaders) == 1:
                for name, status in zip(running, statuses):
                    if status["header"]["member_id"] in leaders:
                        return name
            time.sleep(0.02)
        raise Problem(f"the members of {self.binary} agree on no leader")

    def follower(self):
        """The first that does not lead."""
        leader = self.leader()
        return next(name for name, member in self.members.items() if member.process is not None and name != leader)

    def ctl(self, name, text, endpoints=None):
        """Runs a command at a member and keeps what came of it."""
        command = Command(0, text)
        output = etcdctl.run_command(command, endpoints or self.endpoint(name))
        self.commands.append((command, output))
        return output

    def refuse(self, name, text):
        status, _, stderr = self.ctl(name, text)
        if status == 0:
            raise Problem(f"{self.binary} did not refuse: etcdctl {text}")
        return stderr

    def lead(self, name):
        """Makes `name` the leader, whoever leads."""
        leader = self.leader()
        if leader != name:
            status, _, stderr = etcdctl.run_command(Command(0, f"move-leader {self.id(name)}"), self.endpoint(leader))
            if status != 0:
                raise Problem(f"{self.binary} did not move leadership to {name}: {stderr}")

    def join(self, name, others):
        """Starts the member that was just added."""
        founders = {other: self.ports[other][1] for other in [*others, name]}
        member = self.make(name, founders)
        member.state = "existing"
        self.members[name] = member
        member.spawn()

    def wait_published(self, name, asked):
        deadline = time.monotonic() + START_TIMEOUT_SECS
        while time.monotonic() < deadline:
            members = self.json(asked, "member", "list")["members"]
            if any(member.get("name") == name for member in members):
                return
            time.sleep(0.05)
        raise Problem(f"{name} of {self.binary} does not appear among the members\n{self.members[name].log_tail()}")


def added_id(output):
    """The id in `Member 64d73b33547bbf38 added …`."""
    found = re.match(r"Member +([0-9a-f]+) added", output[1])
    if not found:
        raise Problem(f"no member was added: {output}")
    return found[1]


def script(cluster):
    """What is done to both. Every command is compared; returns ids that differ between the two."""
    m1, m2, m3 = (cluster.id(name) for name in NAMES[:3])
    ids = {}
    cluster.lead("m1")
    for words in ("", " -w json", " -w table", " -w fields"):
        cluster.ctl("m1", "member list" + words)

    cluster.ctl("m1", f"move-leader {m2}")
    cluster.refuse("m1", f"move-leader {m3}")
    cluster.refuse("m2", f"move-leader {UNKNOWN_ID}")
    cluster.refuse("m2", "move-leader")
    cluster.lead("m1")

    time.sleep(HEALTHY_SECS)
    for name in ("m1", "m2"):
        cluster.ctl(name, f"member update {m3} --peer-urls={cluster.peer('m3')},http://localhost:{cluster.ports['m3'][1]}")
        cluster.refuse(name, f"member update {m3} --peer-urls={cluster.peer('m1')}")
        cluster.refuse(name, f"member update {UNKNOWN_ID} --peer-urls=http://127.0.0.1:1")
        cluster.refuse(name, "member add x --peer-urls=foo")
        cluster.refuse(name, "member add x --peer-urls=http://127.0.0.1:1/path")
        cluster.refuse(name, f"member add x --peer-urls={cluster.peer('m1')}")
        cluster.refuse(name, f"member remove {UNKNOWN_ID}")
        cluster.refuse(name, "member remove xyz")
        cluster.refuse(name, f"member promote {UNKNOWN_ID}")
        cluster.refuse(name, f"member promote {m1}")
    cluster.ctl("m1", f"member update {m3} --peer-urls={cluster.peer('m3')}")

    # A learner: it joins, learns, is refused what learners may not do, and votes at last.
    ids["m4"] = added_id(cluster.ctl("m2", f"member add m4 --learner --peer-urls={cluster.peer('m4')}"))
    cluster.refuse("m1", f"member add x --learner --peer-urls={cluster.peer('m5')}")
    cluster.refuse("m1", f"member promote {ids['m4']}")
    cluster.refuse("m2", f"member promote {ids['m4']}")
    cluster.refuse("m1", f"move-leader {ids['m4']}")
    cluster.ctl("m1", "put before learning")
    cluster.join("m4", NAMES[:3])
    cluster.wait_published("m4", "m1")
    for text in ("put a learner", "get before", "member list", "compaction 1"):
        cluster.refuse("m4", text)
    for text in ("get before --consistency=s", "endpoint status"):
        cluster.ctl("m4", text)
    cluster.ctl("m1", "member list")
    promoted(cluster, "m2", ids["m4"])
    cluster.refuse("m1", f"member promote {ids['m4']}")
    cluster.ctl("m1", "member list")
    cluster.ctl("m4", "put by m4")

    # Who is removed ends; what is removed stays removed.
    time.sleep(HEALTHY_SECS)
    cluster.ctl("m1", f"member remove {m3}")
    ended(cluster, "m3")
    cluster.refuse("m1", f"member remove {m3}")
    cluster.refuse("m2", f"member update {m3} --peer-urls=http://127.0.0.1:1")
    cluster.ctl("m2", "member list")

    # A voter in its place.
    ids["m5"] = added_id(cluster.ctl("m1", f"member add m5 --peer-urls={cluster.peer('m5')}"))
    cluster.join("m5", ["m1", "m2", "m4"])
    cluster.members["m5"].wait_ready()
    cluster.wait_published("m5", "m1")
    cluster.ctl("m5", "get before")
    cluster.ctl("m5", "member list")
    time.sleep(HEALTHY_SECS)
    cluster.lead("m1")
    cluster.ctl("m2", f"member remove {m1}")
    ended(cluster, "m1")
    cluster.leader()
    cluster.ctl("m2", "put after removal")
    cluster.ctl("m5", "get after")

    # Two of three: still a quorum, but not one to be changed.
    cluster.members["m4"].kill()
    time.sleep(1)
    cluster.refuse("m2", "member add x --peer-urls=http://127.0.0.1:1")
    return ids


def promoted(cluster, name, member_id):
    """A learner that is still behind is refused; that may happen any number of times, and is not compared."""
    deadline = time.monotonic() + START_TIMEOUT_SECS
    while time.monotonic() < deadline:
        command = Command(0, f"member promote {member_id}")
        output = etcdctl.run_command(command, cluster.endpoint(name))
        if output[0] == 0 or "in sync with leader" not in output[2]:
            cluster.commands.append((command, output))
            return
        time.sleep(0.1)
    raise Problem(f"{cluster.binary} does not promote the learner")


def ended(cluster, name):
    found = cluster.members[name].wait_exit(START_TIMEOUT_SECS)
    if found is None:
        raise Problem(f"{name} of {cluster.binary} was removed and still runs\n{cluster.members[name].log_tail()}")
    status, took = found
    cluster.commands.append((Command(0, f"# the exit status of {name}, which was removed"), (status, "", "")))
    return took


def mask_run(cluster, ids):
    masked = []
    for command, output in cluster.commands:
        text = command.text
        status, stdout, stderr = etcdctl.mask(command, output)
        for name, member_id in ids.items():
            text, stdout, stderr = (
                part.replace(member_id.rjust(16), member_id).replace(member_id, f"<{name}>").replace(str(int(member_id, 16)), f"<{name}>")
                for part in (text, stdout, stderr)
            )
        stderr, refusals = LEARNER_REFUSED.subn("*", stderr)
        if refusals:
            stderr = "\n".join(line for line, _ in itertools.groupby(stderr.split("\n")))
        if command.words[:2] == ["endpoint", "status"]:
            stdout = re.sub(r"\d+, \d+, $", "*", stdout, flags=re.M)
        # Sorted by id, those that were added come at another place in each run; etcdctl builds its hint from a Go map.
        if command.words[:2] == ["member", "list"]:
            stdout = "\n".join(sorted(stdout.splitlines()))
        stdout = re.sub(r'ETCD_INITIAL_CLUSTER="([^"]*)"', lambda found: ",".join(sorted(found[1].split(","))), stdout)
        masked.append((text, (status, stdout, stderr)))
    return masked


def check_alike(report, options, work, ports):
    runs = {}
    for label, binary, flags in (("etcd", install.etcd(), ["--logger=zap"]), ("quorate", options.server, options.server_flags)):
        with Cluster(binary, work / label, ports, flags) as cluster:
            runs[label] = mask_run(cluster, script(cluster))
    for (text, theirs), (ours_text, ours) in zip(runs["etcd"], runs["quorate"]):
        if text != ours_text:
            raise Problem(f"the two runs went different ways: {text!r} and {ours_text!r}")
        report.check(f"etcdctl {text}", theirs == ours, etcdctl.difference(theirs, ours))


class Puts:
    """Puts, one after the other, at one member, until it is ended; keeps the longest."""

    def __init__(self, cluster, name):
        self.endpoint, self.longest, self.errors, self.go_on = cluster.endpoint(name), 0.0, [], True
        self.count = 0
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        while self.go_on:
            started = time.monotonic()
            status, _, stderr = etcdctl.run_command(Command(0, f"put k {self.count}"), self.endpoint)
            self.longest = max(self.longest, time.monotonic() - started)
            self.count += 1
            if status != 0:
                self.errors.append(stderr)

    def end(self):
        self.go_on = False
        self.thread.join()
        return self


def check_promises(report, options, work, ports):
    with Cluster(options.server, work / "promises", ports, options.server_flags) as cluster:
        cluster.lead("m1")
        time.sleep(HEALTHY_SECS)
        puts = Puts(cluster, "m2")
        leader, former = cluster.members["m1"], int(cluster.id("m1"), 16)
        started = time.monotonic()
        os.kill(leader.process.pid, signal.SIGTERM)
        while cluster.status("m2").get("leader", 0) in (0, former):
            time.sleep(0.005)
        new_leader = time.monotonic() - started
        status, _ = leader.wait_exit(START_TIMEOUT_SECS) or (None, 0)
        gone = time.monotonic() - started
        puts.end()
        report.check(f"a leader on SIGTERM: a new one within {NEW_LEADER_SECS_MAX} s", new_leader < NEW_LEADER_SECS_MAX, f"{new_leader:.3f} s")
        report.check(f"its process is gone within {GONE_SECS_MAX} s, ended by the signal", gone < GONE_SECS_MAX and status == -signal.SIGTERM, f"{gone:.3f} s, status {status}")
        report.check("no put at another member failed or waited for an election", not puts.errors and puts.longest < LEADER_REMOVED_PUT_SECS_MAX, f"{puts.longest:.3f} s, {puts.errors}")

        leader.spawn()
        leader.wait_ready()
        cluster.lead("m2")
        time.sleep(HEALTHY_SECS)
        puts = Puts(cluster, "m3")
        started = time.monotonic()
        output = cluster.ctl("m3", f"member remove {cluster.id('m2')}")
        status, _ = cluster.members["m2"].wait_exit(START_TIMEOUT_SECS) or (None, 0)
        gone = time.monotonic() - started
        time.sleep(1)
        puts.end()
        log = cluster.members["m2"].log_text()
        report.check("the leader is removed", output[0] == 0, output)
        report.check(f"its process ends with status 0 within {REMOVED_SECS_MAX} s", status == 0 and gone < REMOVED_SECS_MAX, f"{gone:.3f} s, status {status}")
        line = "the member has been permanently removed from the cluster"
        report.check("it says that it was removed, in etcd's words", line in log, cluster.members["m2"].log_tail())
        report.check("no put at another member failed or waited for an election", not puts.errors and puts.longest < LEADER_REMOVED_PUT_SECS_MAX, f"{puts.longest:.3f} s, {puts.errors}")


def check(report, options, work):
    flat = free_ports(2 * len(NAMES))
    ports = {name: (flat[2 * place], flat[2 * place + 1]) for place, name in enumerate(NAMES)}
    check_promises(report, options, work, ports)
    check_alike(report, options, work, ports)
