"""Clusters of quorate beside etcd's own servers, 3.7 and 3.6, as real processes.

The checks are Go tests (mixed/, a module of its own), because etcd is Go; each test is one check here.
"""

import gotests
import install

TESTS_MIN_SHORT, TESTS_MIN_FULL = 9, 17
TIMEOUT_SECS_SHORT, TIMEOUT_SECS_FULL = 300, 3600
MIGRATION = "TestMigration"


def check(report, options, work):
    """Founded together, joining each other, snapshots for each other."""
    tests_min = TESTS_MIN_FULL if options.full else TESTS_MIN_SHORT
    run(report, options, work, tests_min, f"-test.skip={MIGRATION}")


def check_migration(report, options, work):
    """Three etcd members become three of quorate under load, and back."""
    run(report, options, work, 1, f"-test.run={MIGRATION}")


def run(report, options, work, tests_min, select):
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
        tests_min, TIMEOUT_SECS_FULL if options.full else TIMEOUT_SECS_SHORT, [select],
    )
