"""One snapshot format for both: bbolt and etcd's own storage open what quorate wrote, quorate reads what they wrote.

The checks are Go tests (bolt/, a module of its own), because etcd is Go; each test is one check here.
"""

import gotests
import install

TESTS_MIN = 6


def check(report, options, work):
    environment = {
        "QUORATE_BOLT_COPY": str(options.bolt_copy),
        "QUORATE_SNAPSHOT_COPY": str(options.snapshot_copy),
        "TMPDIR": str(work),
    }
    gotests.check(report, "bolt", install.HERE / "bolt", ".", environment, TESTS_MIN)
