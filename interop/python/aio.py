"""A queue of jobs and its runners, with the PyPI client `aetcd` for asyncio: `aio.py ENDPOINT...`.

This client, too, speaks with one server and ends a watch with its stream: to go to the next server and to watch again from the next
revision on is left to whoever uses it.
"""

import asyncio
import contextlib
import sys
import traceback

import aetcd
from checks import check, fail, have_leader_killed

TTL_SECS = 5
CALL_TIMEOUT_SECS = 2
# How long calls are tried again: far longer than an election takes, and than a lease lives on after the death of a leader.
PATIENCE_SECS = 30
PAUSE_SECS = 0.1
COUNT_EVERY_SECS = 0.02
COUNTS_AFTER_MIN = 50
UNREACHABLE = (
    aetcd.exceptions.ConnectionFailedError,
    aetcd.exceptions.ConnectionTimeoutError,
    aetcd.exceptions.InternalError,
    aetcd.exceptions.WatchTimeoutError,
)
# Codes for which the client has no exception of its own.
UNREACHABLE_CODES = ("UNKNOWN", "CANCELLED", "UNAVAILABLE")

PREFIX = b"queue/"
LIMIT, DONE = PREFIX + b"limit", PREFIX + b"done"
KEPT, FORSAKEN = PREFIX + b"runners/1", PREFIX + b"runners/2"
LOCK = b"locks/reorder"


def unreachable(error):
    cause = error.__cause__ or error
    return isinstance(error, UNREACHABLE) or isinstance(cause, aetcd.rpc.AioRpcError) and cause.code().name in UNREACHABLE_CODES


class Connection:
    """One client at a time, the next endpoint's after a failure; for one task."""

    def __init__(self, endpoints):
        self.endpoints, self.place = endpoints, 0
        self.client = self.connect()

    def connect(self):
        host, port = self.endpoints[self.place % len(self.endpoints)].removeprefix("http://").split(":")
        return aetcd.Client(host=host, port=int(port), timeout=CALL_TIMEOUT_SECS)

    async def next(self):
        # After a watch that failed, closing fails as well.
        with contextlib.suppress(RuntimeError):
            await self.client.close()
        self.place += 1
        self.client = self.connect()

    async def call(self, function):
        """The function is given the client, and again another one if none answered: it must not mind to be done twice."""
        deadline = asyncio.get_running_loop().time() + PATIENCE_SECS
        while True:
            try:
                return await function(self.client)
            except aetcd.exceptions.ClientError as error:
                if not unreachable(error) or asyncio.get_running_loop().time() > deadline:
                    raise
                await asyncio.sleep(PAUSE_SECS)
                await self.next()


class Jobs:
    """Counts what is done, one up at a time. An increment of unknown outcome is read before it is tried again."""

    def __init__(self, endpoints):
        self.connection, self.count, self.acknowledged, self.go_on = Connection(endpoints), 0, {}, True

    async def run(self):
        while self.go_on:
            await self.step(str(self.count).encode(), str(self.count + 1).encode())
            await asyncio.sleep(COUNT_EVERY_SECS)

    async def step(self, old, new):
        client = self.connection.client
        tx = client.transactions
        compare = tx.value(DONE) == old if self.count else tx.version(DONE) == 0
        try:
            done, answers = await client.transaction([compare], [tx.put(DONE, new)], [])
        except aetcd.exceptions.ClientError as error:
            if not unreachable(error):
                raise
            await self.connection.next()
            found = await self.connection.call(lambda client: client.get(DONE))
            if (found.value if found else b"0") not in (old, new):
                raise AssertionError(f"{found} after {old}")
            self.count = int(found.value) if found else 0
            return
        if not done:
            raise AssertionError(f"{old} is not what was counted last")
        self.count = int(new)
        self.acknowledged[self.count] = answers[0].response_put.header.revision


class Renewals:
    def __init__(self, endpoints, leases):
        self.connection, self.leases, self.lost = Connection(endpoints), leases, []

    async def run(self):
        while True:
            for lease in self.leases:
                answer = await self.connection.call(lambda client: client.refresh_lease(lease))
                if answer.TTL != TTL_SECS:
                    self.lost.append(lease)
            await asyncio.sleep(TTL_SECS / 5)


class Watcher:
    """Collects (revision, key, value) of each event, None for the value of a key that is gone."""

    def __init__(self, endpoints, revision):
        self.connection, self.next_revision, self.seen = Connection(endpoints), revision, []

    async def run(self):
        while True:
            try:
                async for event in await self.connection.client.watch_prefix(PREFIX, start_revision=self.next_revision):
                    value = event.kv.value if event.kind == aetcd.rtypes.EventKind.PUT.value else None
                    self.seen.append((event.kv.mod_revision, event.kv.key, value))
                    self.next_revision = event.kv.mod_revision + 1
            except (aetcd.exceptions.ClientError, aetcd.rpc.AioRpcError) as error:
                if not unreachable(error):
                    raise
            await asyncio.sleep(PAUSE_SECS)
            await self.connection.next()

    def of(self, key):
        return [value for _, seen, value in self.seen if seen == key]


def start(worker):
    """Runs a worker beside all others; what it raises is a failed check."""

    async def run():
        try:
            await worker.run()
        except Exception:
            fail(f"{type(worker).__name__} ended early", traceback.format_exc()[-1500:])

    return asyncio.create_task(run())


async def wait_until(name, condition):
    deadline = asyncio.get_running_loop().time() + PATIENCE_SECS
    while not condition() and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(0.05)
    check(name, condition(), True)


def had_by_another(client, timeout=1):
    """Whether the lock can't be had, for a task that wants it."""

    async def attempt():
        return not await client.lock(LOCK, ttl=TTL_SECS).acquire(timeout=timeout)

    return attempt()


def origin(row):
    """What stays the same as long as a key was neither deleted nor made anew."""
    return row and (row.value, row.create_revision, row.lease)


async def main(endpoints):
    connection, rival = Connection(endpoints), Connection(endpoints)
    call = connection.call

    first = (await call(lambda client: client.put(LIMIT, b"10"))).header.revision
    watcher = Watcher(endpoints, first)
    tasks = [start(watcher)]
    check("a limit is replaced by who knows it", await call(lambda client: client.replace(LIMIT, b"10", b"20")), True)
    check("and not by who knows an older one", await call(lambda client: client.replace(LIMIT, b"10", b"30")), False)
    await wait_until("whoever watches it learns of it", lambda: watcher.of(LIMIT) == [b"10", b"20"])

    kept, forsaken = [await call(lambda client: client.lease(TTL_SECS)) for _ in range(2)]
    await call(lambda client: client.put(KEPT, b"idle", lease=kept.id))
    await call(lambda client: client.put(FORSAKEN, b"idle", lease=forsaken.id))
    registered = await call(lambda client: client.get(KEPT))
    check("a runner is registered under its lease", registered.lease, kept.id)

    lock = connection.client.lock(LOCK, ttl=TTL_SECS)
    check("the lock is had", await lock.acquire(timeout=5), True)
    held = await call(lambda client: client.get(LOCK))
    check("only by one", await rival.call(had_by_another), True)

    renewals, jobs = Renewals(endpoints, [kept.id, lock.lease.id]), Jobs(endpoints)
    counting = start(jobs)
    tasks.append(start(renewals))
    await wait_until("jobs are done", lambda: jobs.count >= 20)

    await asyncio.to_thread(have_leader_killed)
    counted = jobs.count
    await wait_until("jobs are done from then on", lambda: jobs.count >= counted + COUNTS_AFTER_MIN)
    await wait_until("the forsaken runner is gone at last", lambda: watcher.of(FORSAKEN) == [b"idle", None])
    check("the lock is still had only by one", await rival.call(had_by_another), True)

    jobs.go_on = False
    await counting
    counter = await call(lambda client: client.get(DONE))
    check("each job counts once", (int(counter.value), counter.version), (jobs.count, jobs.count))
    await wait_until("the watch has seen the last one", lambda: len(watcher.of(DONE)) >= jobs.count)
    check("and every one before it, in order", watcher.of(DONE), [str(number).encode() for number in range(1, jobs.count + 1)])
    told = {int(value): revision for revision, key, value in watcher.seen if key == DONE}
    check("at the revision that was acknowledged", jobs.acknowledged.items() - told.items(), set())
    revisions = [revision for revision, _, _ in watcher.seen]
    check("each event once, as revisions rise", revisions, sorted(set(revisions)))
    check("the other events as well", (watcher.of(LIMIT), watcher.of(KEPT)), ([b"10", b"20"], [b"idle"]))

    check("no renewal came too late", renewals.lost, [])
    check("the runner that was kept alive is still the first", origin(await call(lambda client: client.get(KEPT))), origin(registered))
    remaining = (await call(lambda client: client.get_lease_info(kept.id))).TTL
    check("its lease has time to live", 0 < remaining <= TTL_SECS, True)
    check("the lock's holder holds what it took", origin(await call(lambda client: client.get(LOCK))), origin(held))

    tx = connection.client.transactions
    released, _ = await call(lambda client: client.transaction([tx.value(LOCK) == lock.uuid], [tx.delete(LOCK)], []))
    check("it gives it back", released, True)
    check("and its rival has it", await rival.call(lambda client: had_by_another(client, timeout=5)), False)
    for task in tasks:
        task.cancel()
    await call(lambda client: client.revoke_lease(kept.id))
    check("a runner that ends well is gone at once", await call(lambda client: client.get(KEPT)), None)
    print("end", flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
