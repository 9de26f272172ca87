"""Runs the Go tests of a package; each test is one check here."""

import json
import os
import re
import subprocess

import install

TIMEOUT_SECS = 300
# What t.Log writes: the place, and what there is to say.
LOGGED = re.compile(r"\s+\w+\.go:\d+: (.*)")


def with_both_servers(options, work):
    """The environment of tests that compare the server under test with etcd 3.7."""
    return {
        "QUORATE_SERVER": str(options.server),
        "QUORATE_SERVER_FLAGS": " ".join(options.server_flags),
        "QUORATE_ETCD37": str(install.go_build("etcd37", install.HERE / "mixed")),
        "QUORATE_INTEROP_FULL": "1" if options.full else "",
        "TMPDIR": str(work),
    }


def check(report, name, cwd, package, environment, tests_min, timeout_secs=TIMEOUT_SECS, select=()):
    """Builds the tests of `package` (in the module at `cwd`), runs them, and reports each as a check of the group `name`.

    What a test that passed has to tell (lines of t.Log) is printed as well: figures that were measured. `select` are flags of
    the test binary that say which tests.
    """
    binary = install.cache_dir() / "bin" / f"{name}.test"
    install.run([install.go(), "test", "-c", "-o", str(binary), package], f"building interop/{name}", cwd=cwd)
    running = subprocess.Popen(
        [install.go(), "tool", "test2json", str(binary), "-test.v=test2json", "-test.count=1", f"-test.timeout={timeout_secs}s", *select],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **environment},
        cwd=cwd,
    )
    output, ended = {}, 0
    for line in running.stdout:
        event = json.loads(line)
        test, action = event.get("Test"), event["Action"]
        if action == "output":
            output.setdefault(test, []).append(event["Output"])
        elif action in ("pass", "fail", "skip") and test is not None:
            ended += 1
            report.check(f"{name}: {test}", action == "pass", "".join(output.get(test, [])))
            if action == "pass":
                for said in filter(None, (LOGGED.match(text) for text in output.get(test, []))):
                    print(f"      {said[1]}", flush=True)
    running.wait()
    everything = "".join(text for texts in output.values() for text in texts)
    report.check(f"{name}: all {tests_min} tests or more ran", ended >= tests_min, everything[-3000:])
