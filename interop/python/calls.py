"""The calls of the PyPI client `etcd3`, one by one, against a fresh server: `calls.py HOST PORT`.

The numbers are exact: in a fresh store each change is one revision, starting with 2.
"""

import sys
import traceback

import etcd3
import grpc
from checks import check, fail

# Longer than any answer here takes; without it the client would wait for ever.
TIMEOUT_SECS = 20


def check_refused(name, call, code, message):
    try:
        found = call()
    except grpc.RpcError as error:
        check(name, (error.code(), error.details()), (code, message))
    else:
        fail(name, f"answered {found!r}, expected {code}: {message}")


def pairs(answer):
    return [(metadata.key, value) for value, metadata in answer]


def numbers(metadata):
    return (metadata.create_revision, metadata.mod_revision, metadata.version, metadata.lease_id)


def put_and_get(client):
    check("put answers the new revision", client.put("key", "one").header.revision, 2)
    answer = client.put("key", "two", prev_kv=True)
    check("put with prev_kv answers the value before", answer.prev_kv.value, b"one")
    value, metadata = client.get("key")
    check("get answers the value", value, b"two")
    check("get answers create and mod revision, version and lease", numbers(metadata), (2, 3, 2, 0))
    check("the header of a get holds the revision", metadata.response_header.revision, 3)
    check("a serializable get answers the same", client.get("key", serializable=True)[0], b"two")
    check("get of a missing key answers nothing", client.get("missing"), (None, None))
    binary = bytes(range(256))
    client.put("binary", binary)
    check("any byte may be in a value", client.get("binary")[0], binary)
    client.put(b"\xff\x00key", b"")
    check("any byte may be in a key, and a value may be empty", client.get(b"\xff\x00key")[0], b"")
    check_refused(
        "an empty key is refused",
        lambda: client.put("", "value"),
        grpc.StatusCode.INVALID_ARGUMENT,
        "etcdserver: key is not provided",
    )
    check_refused(
        "an unknown lease is refused",
        lambda: client.put("key", "leased", lease=4711),
        grpc.StatusCode.NOT_FOUND,
        "etcdserver: requested lease not found",
    )
    check_refused(
        "an oversize value is refused",
        lambda: client.put("key", b"x" * 1_600_000),
        grpc.StatusCode.INVALID_ARGUMENT,
        "etcdserver: request is too large",
    )
    value, metadata = client.get("key")
    check("nothing was changed by what was refused", (value, numbers(metadata)), (b"two", (2, 3, 2, 0)))


def ranges(client):
    for name in ("b", "a", "d", "c"):
        client.put(f"dir/{name}", name.upper())
    everything = [(b"dir/a", b"A"), (b"dir/b", b"B"), (b"dir/c", b"C"), (b"dir/d", b"D")]
    check("get_prefix answers in the order of keys", pairs(client.get_prefix("dir/")), everything)
    check("get_prefix in descending order", pairs(client.get_prefix("dir/", sort_order="descend")), everything[::-1])
    by_age = [key for key, _ in pairs(client.get_prefix("dir/", sort_order="ascend", sort_target="create"))]
    check("get_prefix sorted by create revision", by_age, [b"dir/b", b"dir/a", b"dir/d", b"dir/c"])
    by_value = [key for key, _ in pairs(client.get_prefix("dir/", sort_order="descend", sort_target="value"))]
    check("get_prefix sorted by value", by_value, [b"dir/d", b"dir/c", b"dir/b", b"dir/a"])
    keys_only = pairs(client.get_prefix("dir/", keys_only=True))
    check("get_prefix with keys only", keys_only, [(key, b"") for key, _ in everything])
    check("get_range leaves its end out", pairs(client.get_range("dir/b", "dir/d")), everything[1:3])
    check("get_prefix of nothing", pairs(client.get_prefix("nothing/")), [])
    check("a range answers its count", client.get_prefix_response("dir/").count, 4)
    check("get_all answers every key", len(pairs(client.get_all())), 7)


def deletes(client):
    client.put("gone", "soon")
    answer = client.delete("gone", prev_kv=True, return_response=True)
    check("delete answers how many", answer.deleted, 1)
    check("delete answers what was there", [kv.value for kv in answer.prev_kvs], [b"soon"])
    check("delete of a missing key", client.delete("gone"), False)
    check("a deleted key is gone", client.get("gone"), (None, None))
    client.put("gone", "again")
    _, metadata = client.get("gone")
    check("a key that comes back starts at version 1", metadata.version, 1)
    before = metadata.response_header.revision
    for index in range(10):
        client.put(f"many/{index}", "x")
    answer = client.delete_prefix("many/")
    check("delete_prefix answers how many", answer.deleted, 10)
    check("and is one revision", answer.header.revision, before + 11)
    answer = client.delete_prefix("many/")
    check("deleting nothing is no revision", (answer.deleted, answer.header.revision), (0, before + 11))


def transactions(client):
    tx = client.transactions
    client.put("t", "start")
    _, metadata = client.get("t")
    succeeded, answers = client.transaction(
        compare=[
            tx.value("t") == "start",
            tx.version("t") == 1,
            tx.version("t") != 2,
            tx.create("t") == metadata.create_revision,
            tx.mod("t") < metadata.mod_revision + 1,
            tx.mod("t") > metadata.mod_revision - 1,
            tx.version("missing") == 0,
        ],
        success=[tx.put("t", "changed"), tx.get("t"), tx.put("t2", "new", prev_kv=True), tx.delete("gone", prev_kv=True)],
        failure=[tx.get("t")],
    )
    check("a transaction whose compares hold succeeds", succeeded, True)
    check("it answers each request", len(answers), 4)
    value, inside = answers[1][0]
    check("a get inside sees the put before it", value, b"changed")
    check("changes of one transaction share a revision", inside.mod_revision, metadata.mod_revision + 1)
    deleted = answers[3].response_delete_range
    check("a delete inside answers what was there", [kv.value for kv in deleted.prev_kvs], [b"again"])
    succeeded, answers = client.transaction(
        compare=[tx.value("t") == "start"],
        success=[tx.put("t", "never")],
        failure=[tx.get("t"), tx.get("dir/", "dir0")],
    )
    check("one whose compares don't hold fails", succeeded, False)
    check("and takes the other branch", [value for value, _ in answers[0]], [b"changed"])
    check("with ranges in it", [value for value, _ in answers[1]], [b"A", b"B", b"C", b"D"])
    succeeded, answers = client.transaction(
        compare=[],
        success=[
            tx.put("outer", "1"),
            tx.txn(compare=[tx.value("outer") == "1"], success=[tx.put("inner", "yes")], failure=[tx.put("inner", "no")]),
        ],
        failure=[],
    )
    # Compares are all made before anything is changed, also those of inner transactions.
    check("a nested transaction compares what was before the outer one", client.get("inner")[0], b"no")
    check("and answers inside the outer's answer", answers[1].response_txn.succeeded, False)
    check("put_if_not_exists of a missing key", client.put_if_not_exists("once", "1"), True)
    check("put_if_not_exists of a key that is there", client.put_if_not_exists("once", "2"), False)
    check("replace with the right value", client.replace("once", "1", "3"), True)
    check("replace with a wrong value", client.replace("once", "1", "4"), False)
    check("after both", client.get("once")[0], b"3")
    check_refused(
        "a key put twice is refused",
        lambda: client.transaction(compare=[], success=[tx.put("same", "1"), tx.put("same", "2")], failure=[]),
        grpc.StatusCode.INVALID_ARGUMENT,
        "etcdserver: duplicate key given in txn request",
    )
    check_refused(
        "too many operations are refused",
        lambda: client.transaction(compare=[], success=[tx.put(f"m{i}", "1") for i in range(129)], failure=[]),
        grpc.StatusCode.INVALID_ARGUMENT,
        "etcdserver: too many operations in txn request",
    )
    check("nothing of them was done", (client.get("same"), client.get("m0")), ((None, None), (None, None)))


def compaction(client):
    revision = client.put("compact", "1").header.revision
    client.put("compact", "2")
    client.compact(revision)
    check("what is newest survives a compaction", client.get("compact")[0], b"2")
    client.compact(revision + 1, physical=True)
    check("also a physical one", client.get("compact")[0], b"2")
    check_refused(
        "compacting again is refused",
        lambda: client.compact(revision),
        grpc.StatusCode.OUT_OF_RANGE,
        "etcdserver: mvcc: required revision has been compacted",
    )
    check_refused(
        "compacting the future is refused",
        lambda: client.compact(revision + 1000),
        grpc.StatusCode.OUT_OF_RANGE,
        "etcdserver: mvcc: required revision is a future revision",
    )


def status(client):
    header = client.get_response("key").header
    found = client.status()
    check("status names the leader, found among the members", getattr(found.leader, "id", None), header.member_id)
    check("status answers the term of the header", found.raft_term, header.raft_term)
    check("status answers a version of three numbers", [part.isdigit() for part in found.version.split(".")], [True] * 3)
    check("status answers a size and an index", found.db_size > 0 and found.raft_index > 0, True)


def main():
    host, port = sys.argv[1], int(sys.argv[2])
    for scenario in (put_and_get, ranges, deletes, transactions, compaction, status):
        with etcd3.client(host=host, port=port, timeout=TIMEOUT_SECS) as client:
            try:
                scenario(client)
            except Exception:
                reason = "\n".join(traceback.format_exc().strip().splitlines()[-6:])
                fail(f"{scenario.__name__} ended early", reason)
    print("end", flush=True)


if __name__ == "__main__":
    main()
