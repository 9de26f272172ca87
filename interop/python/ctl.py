"""What shell scripts do with Debian's etcdctl, each command a process of its own: `ctl.py ETCDCTL ENDPOINT...`.

Some commands last: `watch`, `lease keep-alive`, `lock` and `elect` run from the beginning to the end, and have to find another
server themselves. The others end in time with a status, and are given again.
"""

import base64
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback

from checks import check, fail, have_leader_killed

# Outlasts a member's restart, too: etcdctl gives a lease up once it was not renewed for so long.
TTL_SECS = 8
# For one command that does not last.
COMMAND_TIMEOUT = "--command-timeout=3s"
# Far longer than an election takes, and than a lease lives on after the death of a leader.
PATIENCE_SECS = 30
COUNTS_AFTER_MIN = 30

PREFIX = "shop/"
CONFIG, COUNTER = PREFIX + "config", PREFIX + "orders"
KEPT, FORSAKEN = PREFIX + "hosts/a", PREFIX + "hosts/b"


class Etcdctl:
    def __init__(self, program, endpoints):
        self.program = program
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ETCDCTL_")}
        self.environment = {**kept, "ETCDCTL_API": "3", "ETCDCTL_ENDPOINTS": ",".join(endpoints)}
        self.lasting = []

    def run(self, *words, stdin=""):
        """What the command answers, or None if it fails: nobody knows what came of it."""
        command = [self.program, COMMAND_TIMEOUT, "--write-out=json", *words]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, env=self.environment)
        return json.loads(done.stdout) if done.returncode == 0 else None

    def persist(self, *words, stdin=""):
        """For what may be done twice."""
        deadline = time.monotonic() + PATIENCE_SECS
        while (answer := self.run(*words, stdin=stdin)) is None:
            if time.monotonic() > deadline:
                fail("a command that is repeated ends well", " ".join(words))
                sys.exit(1)
            time.sleep(0.1)
        return answer

    def row(self, key):
        return next(iter(self.persist("get", key).get("kvs", [])), None)

    def start(self, *words):
        lasting = Lasting([self.program, *words], self.environment)
        self.lasting.append(lasting)
        return lasting


class Lasting:
    """A command that runs on and on."""

    def __init__(self, command, environment):
        self.output = tempfile.NamedTemporaryFile("r")
        with open(self.output.name, "w") as written:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=written, stderr=written, env=environment)

    def lines(self):
        self.output.seek(0)
        return [line.rstrip("\n") for line in self.output if line.endswith("\n")]

    def running(self):
        return self.process.poll() is None

    def interrupt(self):
        """What Ctrl-C does; returns the exit status."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(PATIENCE_SECS)


class Orders(threading.Thread):
    """Counts, one up at a time. An increment of unknown outcome is read before it is tried again, so that none counts twice."""

    def __init__(self, ctl):
        super().__init__(daemon=True)
        self.ctl, self.count, self.acknowledged, self.go_on = ctl, 0, {}, True

    def run(self):
        try:
            while self.go_on:
                self.step(self.count, self.count + 1)
        except Exception:
            fail("orders are counted to the end", traceback.format_exc()[-1500:])

    def step(self, old, new):
        compare = f'value("{COUNTER}") = "{old}"' if old else f'version("{COUNTER}") = "0"'
        answer = self.ctl.run("txn", stdin=f"{compare}\n\nput {COUNTER} {new}\n\n\n")
        if answer is None:
            row = self.ctl.row(COUNTER)
            self.count = int(text(row["value"])) if row else 0
            if self.count not in (old, new):
                raise AssertionError(f"{self.count} after {old}")
        elif not answer.get("succeeded"):
            raise AssertionError(f"{old} is not what was counted last")
        else:
            self.count, self.acknowledged[new] = new, answer["header"]["revision"]

    def end(self):
        self.go_on = False
        self.join(PATIENCE_SECS)


def text(encoded):
    return base64.b64decode(encoded).decode()


def changes(watch):
    """(revision, key, value) of each event, None for the value of a key that is gone."""
    seen = []
    for line in watch.lines():
        for event in json.loads(line).get("Events") or []:
            row = event["kv"]
            seen.append((row["mod_revision"], text(row["key"]), None if event.get("type") == 1 else text(row.get("value", ""))))
    return seen


def of(watch, key):
    return [value for _, seen, value in changes(watch) if seen == key]


def origin(row):
    """What stays the same as long as a key was neither deleted nor made anew."""
    return row and (row["create_revision"], row["lease"])


def wait_until(name, condition):
    deadline = time.monotonic() + PATIENCE_SECS
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
    check(name, condition(), True)


def main(ctl):
    first = ctl.persist("put", CONFIG, "v1")["header"]["revision"]
    watch = ctl.start("watch", PREFIX, "--prefix", f"--rev={first}", "--write-out=json")
    replace = f'mod("{CONFIG}") = "{first}"\n\nput {CONFIG} v2\n\nget {CONFIG}\n\n'
    check("configuration is replaced by who read it last", ctl.persist("txn", stdin=replace).get("succeeded"), True)
    check("and not by who read it before that", ctl.persist("txn", stdin=replace).get("succeeded", False), False)

    kept, forsaken = (f'{ctl.persist("lease", "grant", str(TTL_SECS))["ID"]:x}' for _ in range(2))
    keeper = ctl.start("lease", "keep-alive", kept)
    ctl.persist("put", KEPT, "up", f"--lease={kept}")
    ctl.persist("put", FORSAKEN, "up", f"--lease={forsaken}")
    registered = ctl.row(KEPT)

    lock = ctl.start("lock", "backup", f"--ttl={TTL_SECS}")
    # Its key, and the empty value.
    wait_until("the lock is had", lambda: len(lock.lines()) == 2)
    held = ctl.row(lock.lines()[0])
    waits = ctl.start("lock", "backup", f"--ttl={TTL_SECS}", "echo", "my turn")
    leads = ctl.start("elect", "primary", "host-a")
    wait_until("the first to campaign is elected", lambda: leads.lines()[1:] == ["host-a"])
    follows = ctl.start("elect", "primary", "host-b")
    listens = ctl.start("elect", "--listen", "primary")
    wait_until("as a listener is told", lambda: listens.lines()[1:] == ["host-a"])
    campaigns = lambda name: len(ctl.persist("get", f"{name}/", "--prefix", "--keys-only").get("kvs", []))
    wait_until("others wait for both", lambda: (campaigns("backup"), campaigns("primary")) == (2, 2))

    orders = Orders(ctl)
    orders.start()
    wait_until("orders are counted", lambda: orders.count >= 10)
    have_leader_killed()
    counted = orders.count
    wait_until("orders are counted on", lambda: orders.count >= counted + COUNTS_AFTER_MIN)
    wait_until("the forsaken host is gone at last", lambda: of(watch, FORSAKEN) == ["up", None])
    orders.end()

    row = ctl.row(COUNTER)
    check("each order counts once", (int(text(row["value"])), row["version"]), (orders.count, orders.count))
    wait_until("the watch has seen the last one", lambda: of(watch, COUNTER)[-1:] == [str(orders.count)])
    check("and every one before it, in order", of(watch, COUNTER), [str(number) for number in range(1, orders.count + 1)])
    seen = changes(watch)
    told = {int(value): revision for revision, key, value in seen if key == COUNTER}
    check("at the revision that was acknowledged", orders.acknowledged.items() - told.items(), set())
    revisions = [revision for revision, _, _ in seen]
    check("each event once, as revisions rise", revisions, sorted(set(revisions)))
    check("the other events as well", (of(watch, CONFIG), of(watch, KEPT)), (["v1", "v2"], ["up"]))

    check("no command that lasts has ended", [each.process.args[1:] for each in ctl.lasting if not each.running()], [])
    check("the host that was kept alive is registered as before", origin(ctl.row(KEPT)), origin(registered))
    remaining = ctl.persist("lease", "timetolive", kept)["ttl"]
    check("its lease has time to live", 0 < remaining <= TTL_SECS, True)
    check("the lock's holder holds what it took", origin(ctl.row(lock.lines()[0])), origin(held))
    check("who waits for it still waits", waits.lines(), [])
    check("the elected is still elected", (leads.lines()[1:], follows.lines()), (["host-a"], []))

    check("who holds the lock gives it back", lock.interrupt(), 0)
    wait_until("and who waited has had it", lambda: not waits.running())
    check("and done its work", (waits.process.returncode, waits.lines()), (0, ["my turn"]))
    leads.interrupt()
    wait_until("who waited is elected", lambda: follows.lines()[1:] == ["host-b"])
    wait_until("as a listener is told", lambda: listens.lines()[1::2] == ["host-a", "host-b"])
    keeper.interrupt()
    ctl.persist("lease", "revoke", kept)
    check("a host that ends well is gone at once", ctl.row(KEPT), None)
    print("end", flush=True)


if __name__ == "__main__":
    commands = Etcdctl(sys.argv[1], sys.argv[2:])
    try:
        main(commands)
    finally:
        for each in commands.lasting:
            each.process.kill()
