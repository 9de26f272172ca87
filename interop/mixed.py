"""Clusters of quorate beside etcd's own servers, 3.7 and 3.6, as real processes.

The checks are Go tests (mixed/, a module of its own), because etcd is Go; each test is one check here.
"""

import gotests
import install

TESTS_MIN_SHORT, TESTS_MIN_FULL = 9, 17
TIMEOUT_SECS_SHORT, TIMEOUT_SECS_FULL = 300, 3600


def check(report, options, work):
    environment = {
        "QUORATE_SERVER": str(options.server),
        "QUORATE_ETCD37": str(install.go_build("etcd37", install.HERE / "mixed")),
        "QUORATE_ETCD36": str(install.go_build("etcd36", install.HERE / "mixed" / "etcd36", ".")),
        "QUORATE_SNAPSHOT_COPY": str(options.snapshot_copy),
        "QUORATE_INTEROP_FULL": "1" if options.full else "",
        "TMPDIR": str(work),
    }
    gotests.check(
        report, "mixed", install.HERE / "mixed", ".", environment,
        TESTS_MIN_FULL if options.full else TESTS_MIN_SHORT,
        TIMEOUT_SECS_FULL if options.full else TIMEOUT_SECS_SHORT,
    )
