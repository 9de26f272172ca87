"""A service's instances and their configuration, with the PyPI client `etcd3`: `failover.py ENDPOINT...`.

This client speaks with one server. Whoever uses it with several goes to the next one when a call fails (`Connection`), renews
leases from a thread of its own (`Renewals`), and watches again from the next revision when a watch ends (`Watcher`).
"""

import sys
import threading
import time
import traceback

import etcd3
import grpc
from checks import check, fail, have_leader_killed
from etcd3.events import PutEvent

TTL_SECS = 5
CALL_TIMEOUT_SECS = 2
# How long calls are tried again: far longer than an election takes.
PATIENCE_SECS = 30
COUNT_EVERY_SECS = 0.02
# So many must be made after the leader's death.
COUNTS_AFTER_MIN = 50
UNREACHABLE = (
    etcd3.exceptions.ConnectionFailedError,
    etcd3.exceptions.ConnectionTimeoutError,
    etcd3.exceptions.WatchTimedOut,
)

PREFIX = "shop/"
CONFIG, COUNTER = PREFIX + "config", PREFIX + "orders"
KEPT, FORSAKEN = PREFIX + "instances/web-1", PREFIX + "instances/web-2"


def unreachable(error):
    """etcd 3.4 calls it unknown that it knew no leader in time; the client has no exception of its own for that code."""
    unknown = isinstance(error, grpc.RpcError) and error.code() == grpc.StatusCode.UNKNOWN
    return isinstance(error, UNREACHABLE) or unknown


class Connection:
    """One client at a time, the next endpoint's after a failure."""

    def __init__(self, endpoints):
        self.endpoints, self.place = endpoints, 0
        self.connect()

    def connect(self):
        host, port = self.endpoints[self.place % len(self.endpoints)].removeprefix("http://").split(":")
        self.client = etcd3.client(host=host, port=int(port), timeout=CALL_TIMEOUT_SECS)

    def next(self):
        self.client.close()
        self.place += 1
        self.connect()

    def call(self, function):
        """The function is given the client, and again another one if none answered: it must not mind to be done twice."""
        deadline = time.monotonic() + PATIENCE_SECS
        while True:
            try:
                return function(self.client)
            except Exception as error:
                if not unreachable(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
                self.next()


class Worker(threading.Thread):
    """Repeats `step` until it is told to end; what it raises is a failed check."""

    def __init__(self, endpoints):
        super().__init__(daemon=True)
        self.connection, self.go_on = Connection(endpoints), True

    def run(self):
        try:
            while self.go_on:
                self.step()
        except Exception:
            fail(f"{type(self).__name__} ended early", traceback.format_exc()[-1500:])

    def end(self):
        self.go_on = False
        self.join(PATIENCE_SECS)


class Renewals(Worker):
    def __init__(self, endpoints, leases):
        super().__init__(endpoints)
        self.leases, self.lost = leases, []

    def step(self):
        for lease in self.leases:
            answers = self.connection.call(lambda client: list(client.refresh_lease(lease)))
            if answers[0].TTL != TTL_SECS:
                self.lost.append(lease)
        time.sleep(TTL_SECS / 5)


class Orders(Worker):
    """Counts, one up at a time. An increment of unknown outcome is read before it is tried again, so that none counts twice."""

    def __init__(self, endpoints):
        super().__init__(endpoints)
        self.count, self.acknowledged = 0, {}

    def step(self):
        tx = self.connection.client.transactions
        old, new = str(self.count), str(self.count + 1)
        compare = [tx.value(COUNTER) == old] if self.count else [tx.version(COUNTER) == 0]
        try:
            done, answers = self.connection.client.transaction(compare, [tx.put(COUNTER, new)], [])
        except Exception as error:
            if not unreachable(error):
                raise
            self.connection.next()
            value, _ = self.connection.call(lambda client: client.get(COUNTER))
            if (value or b"0") not in (old.encode(), new.encode()):
                raise AssertionError(f"{value} after {old}")
            self.count = int(value or 0)
        else:
            if not done:
                raise AssertionError(f"{old} is not what was counted last")
            self.count += 1
            self.acknowledged[self.count] = answers[0].response_put.header.revision
        time.sleep(COUNT_EVERY_SECS)


class Watcher(Worker):
    """Collects (revision, key, value) of each event, None for the value of a key that is gone."""

    def __init__(self, endpoints, revision):
        super().__init__(endpoints)
        self.next_revision, self.seen = revision, []
        self.cancel = lambda: None

    def step(self):
        try:
            responses, self.cancel = self.connection.client.watch_prefix_response(PREFIX, start_revision=self.next_revision)
            for response in responses:
                for event in response.events:
                    value = event.value.decode() if isinstance(event, PutEvent) else None
                    self.seen.append((event.mod_revision, event.key.decode(), value))
                    self.next_revision = event.mod_revision + 1
        except Exception as error:
            if not unreachable(error):
                raise
            time.sleep(0.1)
            self.connection.next()

    def of(self, key):
        return [value for _, seen, value in self.seen if seen == key]

    def end(self):
        self.go_on = False
        self.cancel()
        self.join(PATIENCE_SECS)


def wait_until(name, condition):
    """Waits for what must come to be: longer than a lease lives on after the death of a leader."""
    deadline = time.monotonic() + PATIENCE_SECS
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    check(name, condition(), True)


def release(client, lock):
    lock.etcd_client = client
    return lock.release()


def main(endpoints):
    connection = Connection(endpoints)
    call = connection.call
    tx = connection.client.transactions

    # Configuration, replaced only by who has read it.
    start = call(lambda client: client.put(CONFIG, "v1")).header.revision
    watcher = Watcher(endpoints, start)
    watcher.start()
    _, metadata = call(lambda client: client.get(CONFIG))
    replace = dict(
        compare=[tx.mod(CONFIG) == metadata.mod_revision], success=[tx.put(CONFIG, "v2")], failure=[tx.get(CONFIG)]
    )
    check("configuration is replaced by who read it last", call(lambda client: client.transaction(**replace))[0], True)
    done, answers = call(lambda client: client.transaction(**replace))
    check("and not by who read it before that", (done, answers[0][0][0]), (False, b"v2"))

    # Two instances of a service; the second is forsaken.
    kept, forsaken = (call(lambda client: client.lease(TTL_SECS)).id for _ in range(2))
    call(lambda client: client.put(KEPT, "10.0.0.1", lease=kept))
    call(lambda client: client.put(FORSAKEN, "10.0.0.2", lease=forsaken))
    _, registered = call(lambda client: client.get(KEPT))
    check("an instance is registered under its lease", registered.lease_id, kept)

    # Somebody holds the lock, somebody else wants it.
    lock = connection.client.lock("migration", ttl=TTL_SECS)
    check("the lock is had", lock.acquire(timeout=5), True)
    _, held = call(lambda client: client.get(lock.key))
    rival = Connection(endpoints)
    check("only by one", rival.call(lambda client: client.lock("migration", ttl=TTL_SECS).acquire(timeout=1)), False)

    renewals = Renewals(endpoints, [kept, lock.lease.id])
    renewals.start()
    orders = Orders(endpoints)
    orders.start()
    wait_until("orders are counted", lambda: orders.count >= 20)

    have_leader_killed()
    counted = orders.count
    wait_until("orders are counted on", lambda: orders.count >= counted + COUNTS_AFTER_MIN)
    wait_until("the forsaken instance is gone at last", lambda: watcher.of(FORSAKEN) == ["10.0.0.2", None])
    check("the lock is still had only by one", rival.call(lambda client: client.lock("migration", ttl=TTL_SECS).acquire(timeout=1)), False)

    orders.end()
    value, metadata = call(lambda client: client.get(COUNTER))
    check("each order counts once", (value.decode(), metadata.version), (str(orders.count), orders.count))
    wait_until("the watch has seen the last one", lambda: watcher.of(COUNTER)[-1:] == [str(orders.count)])
    watcher.end()
    check("and every one before it, in order", watcher.of(COUNTER), [str(number) for number in range(1, orders.count + 1)])
    revisions = [revision for revision, _, _ in watcher.seen]
    check("each event once, as revisions rise", revisions, sorted(set(revisions)))
    told = {int(value): revision for revision, key, value in watcher.seen if key == COUNTER}
    check("at the revision that was acknowledged", orders.acknowledged.items() - told.items(), set())
    check("the other events as well", (watcher.of(CONFIG), watcher.of(KEPT)), (["v1", "v2"], ["10.0.0.1"]))
    check("the configuration is there", call(lambda client: client.get(CONFIG))[0], b"v2")

    check("no renewal came too late", renewals.lost, [])
    value, metadata = call(lambda client: client.get(KEPT))
    check("the instance that was kept alive is still the first", (value, metadata.create_revision), (b"10.0.0.1", registered.create_revision))
    remaining = call(lambda client: client.get_lease_info(kept)).TTL
    check("its lease has time to live", 0 < remaining <= TTL_SECS, True)
    value, metadata = call(lambda client: client.get(lock.key))
    check("the lock's holder holds what it took", (value, metadata.create_revision), (lock.uuid, held.create_revision))

    check("it gives it back", call(lambda client: release(client, lock)), True)
    check("and its rival has it", rival.call(lambda client: client.lock("migration", ttl=TTL_SECS).acquire(timeout=5)), True)
    renewals.end()
    call(lambda client: client.revoke_lease(kept))
    check("a service that ends well is gone at once", call(lambda client: client.get(KEPT)), (None, None))
    print("end", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
