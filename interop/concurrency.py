"""Locks and elections: a Go test (concurrency/) compares every field of every answer between etcd 3.7 and quorate."""

import gotests
import install

# Of Go tests.
TESTS_MIN = 5


def check(report, options, work):
    environment = gotests.with_both_servers(options, work)
    gotests.check(report, "concurrency", install.HERE, "./concurrency", environment, TESTS_MIN)
