"""Maintenance: a Go test (maintenance/) compares every field of every answer between etcd 3.7 and quorate."""

import gotests
import install

# Of Go tests.
TESTS_MIN = 4


def check(report, options, work):
    environment = gotests.with_both_servers(options, work)
    gotests.check(report, "maintenance", install.HERE, "./maintenance", environment, TESTS_MIN)
