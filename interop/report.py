"""One line per check, and a count at the end.

Every group of checks reports through one `Report`. A line starts with `ok` or `FAIL`; whatever explains a failure
(a diff, the tail of a log) follows it, indented. A run passes only if at least one check ran and none failed.
"""

import sys
import threading
import time
import traceback
from contextlib import contextmanager


class Report:
    def __init__(self):
        self.passed = 0
        self.failed = 0
        self._lock = threading.Lock()

    def ok(self, name):
        with self._lock:
            self.passed += 1
            print(f"ok    {name}", flush=True)

    def fail(self, name, why):
        with self._lock:
            self.failed += 1
            print(f"FAIL  {name}")
            for line in str(why).rstrip().splitlines():
                print(f"      {line}")
            sys.stdout.flush()

    def check(self, name, passed, why=""):
        """`why` is shown only when the check fails: say what was found and what was expected."""
        if passed:
            self.ok(name)
        else:
            self.fail(name, why)
        return passed

    @contextmanager
    def group(self, title):
        """A group that raises counts as one failed check, so that a crash of the harness can't pass for success."""
        print(f"\n== {title}", flush=True)
        started = time.monotonic()
        try:
            yield
        except Problem as problem:
            self.fail(title, problem)
        except Exception:
            self.fail(title, traceback.format_exc())
        print(f"   ({time.monotonic() - started:.1f} s)", flush=True)

    def finish(self):
        """Prints the count and returns the exit status."""
        print(f"\n{self.passed} passed, {self.failed} failed", flush=True)
        return 0 if self.failed == 0 and self.passed > 0 else 1


class Problem(Exception):
    """A failure whose message is enough: no stack trace is shown for it."""
