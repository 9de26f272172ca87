"""One write-ahead log for both: etcd's own wal package reads what quorate wrote, quorate reads what etcd wrote.

The checks are Go tests (wal/), because etcd's package is Go; each test is one check here.
"""

import gotests
import install

TESTS_MIN = 8


def check(report, options, work):
    environment = {
        "QUORATE_SERVER": str(options.server),
        "QUORATE_SERVER_FLAGS": " ".join(options.server_flags),
        "QUORATE_WAL_DUMP": str(options.wal_dump),
        "TMPDIR": str(work),
    }
    gotests.check(report, "wal", install.HERE, "./wal", environment, TESTS_MIN)
