"""Clusters that come to be: founded, joined, recovered from one member, and every start that must be refused.

Real processes on loopback, kill -9, real directories copied from one place to another; Debian's etcdctl does what an
operator does.
"""

import json
import os
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request

import install
from report import Problem
from server import Server, free_ports

PATIENCE_SECS = 40
COMMAND_TIMEOUT_SECS = 20
# A lone member says for whom it waits after 5 s.
SAYS_WHOM_AFTER_SECS = 12


class Member(Server):
    """A member of a cluster. `cluster` is what `--initial-cluster` says, as a dict from names to peer URLs."""

    def __init__(self, binary, work, name, cluster, ports, flags=(), directory=None):
        super().__init__(binary, work / (directory or name), ports, flags)
        self.name, self.cluster = name, cluster

    @property
    def peer(self):
        return f"http://127.0.0.1:{self.peer_port}"

    def command(self):
        cluster = ",".join(f"{name}={url}" for name, url in self.cluster.items())
        return [
            self.binary,
            "--name", self.name,
            "--data-dir", str(self.data_dir),
            "--listen-client-urls", self.endpoint,
            "--advertise-client-urls", self.endpoint,
            "--listen-peer-urls", self.peer,
            "--initial-advertise-peer-urls", self.peer,
            "--initial-cluster", cluster,
            "--initial-cluster-token", "bootstrap",
            *self.flags,
        ]

    def with_flags(self, *flags):
        self.flags = list(flags)
        return self

    def runs_to_its_end(self):
        """Starts it and waits until it ends by itself; (exit status, log)."""
        self.spawn()
        try:
            status = self.process.wait(PATIENCE_SECS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Problem(f"{self.name} runs, and should have ended by itself\n{self.log_tail()}") from None
        self.process = None
        return status, self.log_text()

    def wait_for(self, text, secs=PATIENCE_SECS):
        deadline = time.monotonic() + secs
        while text not in self.log_text():
            if time.monotonic() > deadline:
                raise Problem(f"{self.name} does not say {text!r} within {secs} s\n{self.log_tail()}")
            if self.process is not None and self.process.poll() is not None:
                raise Problem(f"{self.name} ended without saying {text!r}\n{self.log_tail()}")
            time.sleep(0.05)

    def log_lines(self, message):
        lines = [json.loads(line) for line in self.log_text().splitlines()]
        return [line for line in lines if line["msg"] == message]

    def status(self):
        return json.loads(etcdctl(self, "endpoint", "status", "-w", "json"))[0]["Status"]


def etcdctl(member, *words):
    """Standard output of an etcdctl that succeeds."""
    done = try_etcdctl(member, *words)
    if done.returncode != 0:
        raise Problem(f"etcdctl {' '.join(words)} at {member.name}: {done.stderr}{done.stdout}\n{member.log_tail()}")
    return done.stdout


def try_etcdctl(member, *words):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("ETCD_", "ETCDCTL_"))}
    command = [install.etcdctl(), "--endpoints", member.endpoint, "--command-timeout", f"{COMMAND_TIMEOUT_SECS}s", *words]
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env={**environment, "ETCDCTL_API": "3"}
    )


def members_of(member):
    """The member list: name (or peer URL of one without) to its record."""
    listed = json.loads(etcdctl(member, "member", "list", "-w", "json"))["members"]
    return {each.get("name") or each["peerURLs"][0]: each for each in listed}


def member_id(record):
    return f"{record['ID']:x}"


def put_many(member, prefix, count):
    """Puts `count` keys in a few transactions; returns their names."""
    keys = [f"{prefix}{number:04d}" for number in range(count)]
    for start in range(0, count, 100):
        lines = ["", *(f"put {key} {key}-value" for key in keys[start : start + 100]), "", "", ""]
        done = subprocess.run(
            [install.etcdctl(), "--endpoints", member.endpoint, "txn"],
            input="\n".join(lines), capture_output=True, text=True, env={**os.environ, "ETCDCTL_API": "3"},
        )
        if done.returncode != 0 or "SUCCESS" not in done.stdout:
            raise Problem(f"putting {prefix}: {done.stderr}{done.stdout}\n{member.log_tail()}")
    return keys


def keys_of(member, prefix="", serializable=False):
    words = ["get", prefix, "--prefix", "--keys-only"] + (["--consistency", "s"] if serializable else [])
    return [line for line in etcdctl(member, *words).splitlines() if line]


def wait_until(what, holds, secs=PATIENCE_SECS):
    deadline = time.monotonic() + secs
    while not holds():
        if time.monotonic() > deadline:
            raise Problem(f"not within {secs} s: {what}")
        time.sleep(0.1)


def trio(options, work, prefix="m", flags=()):
    """Three members of one cluster, not started."""
    ports = free_ports(6)
    names = [f"{prefix}{number}" for number in (1, 2, 3)]
    cluster = {name: f"http://127.0.0.1:{ports[2 * at + 1]}" for at, name in enumerate(names)}
    return [
        Member(options.server, work, name, cluster, ports[2 * at : 2 * at + 2], [*options.server_flags, *flags])
        for at, name in enumerate(names)
    ]


def start_all(members):
    for each in members:
        each.spawn()
    for each in members:
        each.wait_ready()


def end_all(members):
    for each in members:
        each.kill()


def joiner(options, work, name, existing, flags=()):
    """A member that is to join the cluster that `existing` runs in: `member add` is done, the process is not started."""
    ports = free_ports(2)
    peer = f"http://127.0.0.1:{ports[1]}"
    change_members(existing, "add", name, "--peer-urls", peer)
    cluster = {each: record["peerURLs"][0] for each, record in members_of(existing).items() if each != peer}
    flags = [*options.server_flags, "--initial-cluster-state", "existing", *flags]
    return Member(options.server, work, name, {**cluster, name: peer}, ports, flags)


def change_members(existing, *words):
    """A member must have been in touch with the others for five seconds before it lets anybody come or go."""
    deadline = time.monotonic() + PATIENCE_SECS
    done = try_etcdctl(existing, "member", *words)
    while done.returncode != 0 and "unhealthy cluster" in done.stderr and time.monotonic() < deadline:
        time.sleep(0.5)
        done = try_etcdctl(existing, "member", *words)
    if done.returncode != 0:
        raise Problem(f"member {' '.join(words)} at {existing.name}: {done.stderr}{done.stdout}\n{existing.log_tail()}")


def refused(report, name, member, error, status=1, keeps_nothing=True):
    """The start must end with that error, and leave nothing behind."""
    got, log = member.runs_to_its_end()
    report.check(name, got == status and error in log, f"exit {got}, expected {status} and {error!r}\n{member.log_tail()}")
    if keeps_nothing:
        left = member.data_dir / "member"
        report.check(f"{name}: nothing is left behind", not left.exists(), f"{left} exists")


def check_waiting(report, options, work):
    """The first of three waits, says so, and comes back the same."""
    one, two, three = trio(options, work, "w")
    try:
        one.spawn()
        one.wait_for("waiting for other members", SAYS_WHOM_AFTER_SECS)
        [said] = one.log_lines("waiting for other members: the cluster serves once a majority of its voters is connected")
        missing = {two.peer, three.peer}
        report.check("a lone first member says for whom it waits", set(said["missing-peer-urls"]) == missing, said)
        try:
            urllib.request.urlopen(one.endpoint + "/health", timeout=2)
            serves = True
        except (OSError, urllib.error.URLError):
            serves = False
        report.check("it serves no client", not serves and "ready to serve" not in one.log_text(), one.log_tail())
        one.kill()
        one.spawn()
        one.wait_for("restarting local member")
        two.spawn()
        one.wait_ready()
        two.wait_ready()
        report.check("a second member makes the cluster", len(members_of(one)) == 3, members_of(one))
        etcdctl(one, "put", "a", "1")
        three.start()
        report.check("the third catches up", keys_of(three) == ["a"])
    finally:
        end_all([one, two, three])


def check_refusals(report, options, work):
    """Starts that must fail, with etcd's words, and leave the cluster as it was."""
    members = trio(options, work, "r")
    one, two, three = members
    start_all(members)
    try:
        etcdctl(one, "put", "a", "1")
        before = etcdctl(one, "member", "list")

        # The disk of one is lost; or somebody starts a copy of it elsewhere.
        own = member_id(members_of(one)["r3"])
        three.kill()
        aside = three.data_dir.with_name("r3.aside")
        three.data_dir.rename(aside)
        bootstrapped = f"member {own} has already been bootstrapped"
        refused(report, "an empty directory under a known name, state new", three, bootstrapped)
        flags = three.flags
        three.with_flags(*flags, "--initial-cluster-state", "existing")
        refused(report, "an empty directory under a known name, state existing", three, bootstrapped)
        shutil.rmtree(three.data_dir, ignore_errors=True)
        aside.rename(three.data_dir)
        three.with_flags(*flags, "--initial-cluster", "nobody=http://10.0.0.1:1", "--name", "r3", "--initial-cluster-state", "existing")
        three.start()
        report.check("with its data it is back, and the flags do not matter", keys_of(three) == ["a"])

        ports = free_ports(2)
        peer = f"http://127.0.0.1:{ports[1]}"
        existing = ["--initial-cluster-state", "existing"]

        def stranger(cluster, flags=existing):
            shutil.rmtree(work / "stranger", ignore_errors=True)
            return Member(options.server, work, "stranger", cluster, ports, [*options.server_flags, *flags])

        def place(member):
            return f"{member.name}", member.peer

        all_three = dict(map(place, members))
        refused(report, "a list that lacks the new member", stranger(all_three), 'couldn\'t find local name \\"stranger\\"')
        refused(report, "a member that was not added", stranger({**all_three, "stranger": peer}), "member count is unequal")
        refused(report, "a list that is too short", stranger({"r1": one.peer, "stranger": peer}), "member count is unequal")
        wrong = {"r1": one.peer, "r2": two.peer, "stranger": peer}
        refused(report, "a list with a wrong URL", stranger(wrong), "PeerURLs: no match found for existing member")
        refused(report, "nobody there", stranger({"r1": "http://127.0.0.1:1", "stranger": peer}),
                "cannot fetch cluster info from peer urls: could not retrieve cluster information from the given URLs")
        refused(report, "one URL for two members", stranger({"r1": peer, "stranger": peer}, ["--initial-cluster-state", "new"]),
                "has duplicate url")
        report.check("and the cluster is as it was", etcdctl(one, "member", "list") == before)

        # Another token makes another cluster: neither side takes part in the other's.
        other = Member(options.server, work, "other", {**all_three, "other": peer}, ports,
                       [*options.server_flags, "--initial-cluster-token", "other"])
        other.spawn()
        other.wait_for("waiting for", SAYS_WHOM_AFTER_SECS)
        other.kill()
        report.check("a member of another token changes nothing", etcdctl(one, "member", "list") == before)
    finally:
        end_all(members)


def check_old_etcd(report, options, work):
    """etcd 3.4 keeps names in entries that later members cannot read, and stops at ours: it must not be joined."""
    ports = free_ports(4)
    old = Member(install.etcd(), work, "old", {"old": f"http://127.0.0.1:{ports[1]}"}, ports[:2], ["--logger=zap"])
    with old:
        old.start()
        etcdctl(old, "put", "a", "1")
        peer = f"http://127.0.0.1:{ports[3]}"
        change_members(old, "add", "new", "--peer-urls", peer)
        new = Member(options.server, work, "new", {"old": old.peer, "new": peer}, ports[2:],
                     [*options.server_flags, "--initial-cluster-state", "existing"])
        refused(report, "a cluster of etcd 3.4 is not joined", new, "incompatible with current running cluster")
        report.check("and the reason is told", "cluster version of remote member is not compatible; too low" in new.log_text())
        report.check("the etcd goes on", old.process.poll() is None)


def check_forced(report, options, work):
    """Two of three are lost; the third goes on alone, for good, and grows again."""
    members = trio(options, work, "f", ["--snapshot-count", "50", "--snapshot-catchup-entries", "5"])
    one, two, three = members
    start_all(members)
    survivors = []
    try:
        keys = put_many(one, "k", 200)
        for number in range(60):  # past the snapshot count, one entry each
            keys.append(f"n{number:02d}")
            etcdctl(one, "put", keys[-1], "1")
        report.check("all members have all keys", all(len(keys_of(each)) == len(keys) for each in members))
        revision = one.status()["header"]["revision"]
        identity = two.status()["header"]["member_id"], two.status()["header"]["cluster_id"]
        # What was committed a moment ago may be known as such to the leader alone, and is then dropped as uncommitted.
        time.sleep(0.5)
        for each in members:
            each.kill()

        two.with_flags(*two.flags, "--force-new-cluster")
        two.start()
        survivors.append(two)
        [forced] = two.log_lines("forcing restart member")
        listed = members_of(two)
        report.check("one member is left, with its ids and its URL",
                     list(listed) == ["f2"] and listed["f2"]["peerURLs"] == [two.peer]
                     and (two.status()["header"]["member_id"], two.status()["header"]["cluster_id"]) == identity,
                     f"{listed} {forced}")
        lost = sorted(set(keys) - set(keys_of(two)))
        report.check("nothing is lost", not lost and two.status()["header"]["revision"] >= revision,
                     f"{lost}, revision {two.status()['header']['revision']} of {revision}, {forced}")
        etcdctl(two, "put", "k201", "forced")
        two.kill()
        two.with_flags(*[flag for flag in two.flags if flag != "--force-new-cluster"])
        two.start()
        report.check("without the flag it is still alone", list(members_of(two)) == ["f2"] and "k201" in keys_of(two))
        etcdctl(two, "put", "k202", "again")

        # The others come back: they are strangers now, and hurt nobody.
        one.spawn()
        status = one.process.wait(PATIENCE_SECS)
        one.process = None
        report.check("a member that was dropped ends by itself, with status 0",
                     status == 0 and "permanently removed" in one.log_text(), f"{status}\n{one.log_tail()}")
        report.check("the new cluster does not mind", "k202" in keys_of(two))

        for name in ("f4", "f5"):
            new = joiner(options, work, name, two)
            survivors.append(new)
            new.start()
            report.check(f"{name} joins the forced cluster", "k202" in keys_of(new, serializable=True), new.log_tail())
        report.check("three members again", sorted(members_of(two)) == ["f2", "f4", "f5"], members_of(two))
        put_many(survivors[-1], "late", 100)
        wait_until("all have all", lambda: len({tuple(keys_of(each)) for each in survivors}) == 1)
        report.check("and all have all", len(keys_of(survivors[-1], "late")) == 100)
    finally:
        end_all(members + survivors)


def check_copied(report, options, work):
    """The directory of a stopped member is copied to another machine with other URLs."""
    members = trio(options, work, "c")
    one, two, three = members
    start_all(members)
    copy = None
    try:
        put_many(one, "k", 100)
        wait_until("three has all", lambda: len(keys_of(three, "k")) == 100)
        three.stop()
        ports = free_ports(2)
        copy = Member(options.server, work, "copy", {"copy": f"http://127.0.0.1:{ports[1]}"}, ports,
                      [*options.server_flags, "--force-new-cluster"])
        shutil.copytree(three.data_dir, copy.data_dir)
        copy.start()
        listed = members_of(copy)
        report.check("a copied directory starts alone at other URLs", len(keys_of(copy, "k")) == 100 and list(listed) == ["copy"], listed)
        report.check("its client URLs are the new ones, its peer URL the old one",
                     listed["copy"]["clientURLs"] == [copy.endpoint] and listed["copy"]["peerURLs"] == [three.peer], listed)
        etcdctl(copy, "member", "update", member_id(listed["copy"]), "--peer-urls", copy.peer)
        report.check("the peer URL can be put right", members_of(copy)["copy"]["peerURLs"] == [copy.peer])
        etcdctl(copy, "put", "x", "forced")

        etcdctl(one, "put", "x", "majority")
        report.check("the old cluster goes on without it",
                     etcdctl(two, "get", "x", "--print-value-only").strip() == "majority"
                     and etcdctl(copy, "get", "x", "--print-value-only").strip() == "forced")

        # The copy takes the place where the old members look for the third: two lineages with one cluster id.
        copy.stop()
        copy.with_flags(*options.server_flags)
        copy.client_port, copy.peer_port = three.client_port, three.peer_port
        copy.start()
        told = "a peer says that this member was removed, yet this member's cluster goes on with it"
        wait_until("one of the majority tells of it", lambda: told in one.log_text() + two.log_text())
        etcdctl(one, "put", "x", "majority2")
        report.check("a majority does not believe a forced member that says it was removed",
                     one.process.poll() is None and two.process.poll() is None
                     and etcdctl(two, "get", "x", "--print-value-only").strip() == "majority2", one.log_tail())
        report.check("and nothing of one reaches the other",
                     etcdctl(copy, "get", "x", "--print-value-only").strip() == "forced" and copy.process.poll() is None)
    finally:
        end_all(members + ([copy] if copy else []))


def check_removed(report, options, work):
    """A removed member ends with status 0 and does not come back."""
    members = trio(options, work, "x")
    one, two, three = members
    start_all(members)
    try:
        etcdctl(one, "put", "a", "1")
        # One hears of its removal, one is away meanwhile.
        for gone, away in ((three, False), (two, True)):
            listed = members_of(one)
            if away:
                new = joiner(options, work, "x4", one)
                members.append(new)
                new.start()
                gone.kill()
            change_members(one, "remove", member_id(listed[gone.name]))
            if away:
                gone.spawn()
            status = gone.process.wait(PATIENCE_SECS)
            gone.process = None
            said = gone.log_text()
            report.check(f"a member that is removed {'while away' if away else 'while it runs'} ends with status 0 and says why",
                         status == 0 and "the member has been permanently removed from the cluster" in said
                         and "data-dir used by this member must be removed" in said, f"{status}\n{gone.log_tail()}")
            again, log = gone.runs_to_its_end()
            report.check("started again with its data, it ends the same way",
                         again == 0 and "the member has been permanently removed from the cluster" in log, f"{again}\n{gone.log_tail()}")
        forced, log = three.with_flags(*three.flags, "--force-new-cluster").runs_to_its_end()
        report.check("nor can it be forced to be a cluster", forced == 1 and "was removed from its cluster" in log, three.log_tail())
    finally:
        end_all(members)


def check_joining(report, options, work):
    """A cluster grows from one to three, from the log and by snapshot, while members crash in between."""
    ports = free_ports(2)
    first = Member(options.server, work, "j1", {"j1": f"http://127.0.0.1:{ports[1]}"}, ports,
                   [*options.server_flags, "--snapshot-count", "20", "--snapshot-catchup-entries", "5"])
    members = [first]
    try:
        first.start()
        etcdctl(first, "put", "a", "1")
        second = joiner(options, work, "j2", first)
        members.append(second)
        # Killed as soon as it has an identity, then again: the flags are not looked at any more.
        second.spawn()
        second.wait_for("starting local member")
        second.kill()
        second.spawn()
        second.wait_for("restarting local member")
        second.kill()
        second.with_flags(*options.server_flags, "--initial-cluster", "nobody=http://127.0.0.1:1")
        second.start()
        report.check("a joiner that was killed twice has joined", sorted(members_of(second)) == ["j1", "j2"] and keys_of(second) == ["a"])
        put_many(first, "k", 500)
        for number in range(60):
            etcdctl(first, "put", f"n{number:02d}", "1")
        third = joiner(options, work, "j3", second)
        members.append(third)
        third.start()
        wait_until("three has all", lambda: len(keys_of(third, serializable=True)) == 561)
        report.check("a third joins by snapshot", "installed a snapshot" in third.log_text() and third.status()["leader"] != 0,
                     third.log_tail())
        version = json.load(urllib.request.urlopen(third.endpoint + "/version", timeout=5))
        report.check("and has the cluster's version", re.fullmatch(r"3\.\d+\.0", version["etcdcluster"]) is not None, version)
        first.kill()
        # What the dead leader was to pass on waits out its time, as in etcd.
        wait_until("two of three take a put", lambda: try_etcdctl(third, "put", "b", "2").returncode == 0)
        report.check("two of three go on", "b" in keys_of(second))
    finally:
        end_all(members)


def check(report, options, work):
    for part in (check_waiting, check_refusals, check_old_etcd, check_joining, check_removed, check_forced, check_copied):
        directory = work / part.__name__
        directory.mkdir()
        part(report, options, directory)
