#!/usr/bin/env python3
"""Real clients and etcd's own code against a real quorate. README.md says what each group checks.

    interop/interop.py                      the short form, for each push
    interop/interop.py --full               the full one: 20 kills, 50 rounds of faults, the long migration
    interop/interop.py --only etcdctl wal   some groups
"""

import argparse
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import bolt
import bootstrap
import chaos
import clients
import cluster
import compare
import concurrency
import durability
import gateway
import lease
import maintenance
import mixed
import syscalls
import wal
import watch
from report import Report

ROOT = Path(__file__).resolve().parent.parent

GROUPS = {
    "etcdctl": ("etcdctl against etcd and quorate", clients.check_etcdctl),
    "python": ("the PyPI client etcd3", clients.check_python),
    "go": ("Go's clientv3", clients.check_go),
    "python-asyncio": ("the PyPI client aetcd", clients.check_python_asyncio),
    "node": ("the npm client etcd3", clients.check_node),
    "rust": ("the Rust client etcd-client", clients.check_rust),
    "java": ("the Java client jetcd", clients.check_java),
    "watch": ("watches, answer for answer", watch.check),
    "lease": ("leases, answer for answer", lease.check),
    "maintenance": ("maintenance, answer for answer", maintenance.check),
    "concurrency": ("locks and elections, answer for answer", concurrency.check),
    "compare": ("every service, answer for answer", compare.check),
    "http": ("plain HTTP and the gateway, answer for answer", gateway.check),
    "wal": ("one write-ahead log for both", wal.check),
    "bolt": ("one snapshot format for both", bolt.check),
    "bootstrap": ("founding, joining, going on alone", bootstrap.check),
    "syscalls": ("no answer before its fdatasync", syscalls.check),
    "cluster": ("clusters that etcdctl changes", cluster.check),
    "durability": ("kill -9 under load", durability.check),
    "mixed": ("quorate and etcd in one cluster", mixed.check),
    "migration": ("from etcd to quorate and back under load", mixed.check_migration),
    "chaos": ("clusters under faults", chaos.check),
}


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    release = ROOT / "target" / "release"
    parser.add_argument("--server", type=Path, default=release / "quorate", help="the server's binary (%(default)s)")
    parser.add_argument("--server-flag", action="append", default=[], dest="server_flags", help="one more flag for the server")
    parser.add_argument("--wal-dump", type=Path, default=release / "examples" / "wal_dump", help="the program that lists a log (%(default)s)")
    parser.add_argument("--bolt-copy", type=Path, default=release / "examples" / "bolt_copy", help="the program that copies a bbolt file (%(default)s)")
    parser.add_argument("--snapshot-copy", type=Path, default=release / "examples" / "snapshot_copy", help="the program that imports and exports a snapshot (%(default)s)")
    parser.add_argument("--sim", type=Path, default=ROOT / "target" / "debug" / "quorate-sim", help="the simulator, which judges histories (%(default)s)")
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS), metavar="GROUP", help=", ".join(GROUPS))
    parser.add_argument("--full", action="store_true", help="as many kills, rounds and data as a night has time for")
    durability.add_options(parser)
    return parser.parse_args()


def main():
    # Whoever starts this in the background may ignore Ctrl-C, and everything below would inherit that: programs that are
    # ended by it here would go on.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    options = parse_options()
    # Only the histories of clusters under faults are judged by the simulator.
    for name in ["server", "wal_dump", "bolt_copy", "snapshot_copy"] + (["sim"] if "chaos" in options.only else []):
        path = getattr(options, name).resolve()
        if not path.is_file():
            sys.exit(f"{path} is missing: build it with `make release sim-binary`, or name another with --{name.replace('_', '-')}")
        setattr(options, name, path)
    report = Report()
    for name in options.only:
        title, check = GROUPS[name]
        work = Path(tempfile.mkdtemp(prefix=f"quorate-interop-{name}-"))
        failed_before = report.failed
        with report.group(title):
            check(report, options, work)
        if report.failed == failed_before:
            shutil.rmtree(work)
        else:
            print(f"   data and logs are kept in {work}", flush=True)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
