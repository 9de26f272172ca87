"""Clusters of real quorate processes that are killed, paused, cut off, replaced and lied to.

The checks are Go tests (chaos/); each test is one check here. The histories that they record are judged by the
simulator's checkers (`quorate-sim check-history`).
"""

import gotests
import install

TESTS_MIN = 7
TIMEOUT_SECS_SHORT, TIMEOUT_SECS_FULL = 300, 3600


def check(report, options, work):
    environment = {
        "QUORATE_SERVER": str(options.server),
        "QUORATE_SIM": str(options.sim),
        "QUORATE_INTEROP_FULL": "1" if options.full else "",
        "TMPDIR": str(work),
    }
    timeout_secs = TIMEOUT_SECS_FULL if options.full else TIMEOUT_SECS_SHORT
    gotests.check(report, "chaos", install.HERE, "./chaos", environment, TESTS_MIN, timeout_secs)
