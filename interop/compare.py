"""All services: a Go test (compare/) asks etcd 3.7 and quorate the same, from a list and from a seed, and compares every field of
every answer."""

import os

import gotests
import install

# Of Go tests.
TESTS_MIN = 18
# The full form asks 100,000 requests.
TIMEOUT_SECS = {False: 300, True: 3600}
# Most of the short form is waiting: for members that start, and for calls that run into their time limit.
AT_A_TIME = {False: 5, True: 2}


def check(report, options, work):
    environment = gotests.with_both_servers(options, work)
    for chosen in ("QUORATE_COMPARE_SEED", "QUORATE_COMPARE_COUNT"):
        environment[chosen] = os.environ.get(chosen, "")
    gotests.check(
        report, "compare", install.HERE, "./compare", environment, TESTS_MIN, timeout_secs=TIMEOUT_SECS[options.full],
        select=[f"-test.parallel={AT_A_TIME[options.full]}"],
    )
