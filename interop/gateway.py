"""Plain HTTP, the JSON gateway above all, and gRPC's own services: a Go test (http/) compares every answer between etcd 3.7 and
quorate."""

import gotests
import install

# Of Go tests.
TESTS_MIN = 15


def check(report, options, work):
    environment = gotests.with_both_servers(options, work)
    gotests.check(report, "http", install.HERE, "./http", environment, TESTS_MIN)
