"""One write-ahead log for both: etcd's own wal package reads what quorate wrote, quorate reads what etcd wrote.

The checks are Go tests (wal/), because etcd's package is Go; each test is one check here.
"""

import json
import os
import subprocess

import install

TESTS_MIN = 8
TIMEOUT_SECS = 300


def check(report, options, work):
    binary = install.cache_dir() / "bin" / "wal.test"
    install.run([install.go(), "test", "-c", "-o", str(binary), "./wal"], "building interop/wal", cwd=install.HERE)
    environment = {
        **os.environ,
        "QUORATE_SERVER": str(options.server),
        "QUORATE_SERVER_FLAGS": " ".join(options.server_flags),
        "QUORATE_WAL_DUMP": str(options.wal_dump),
        "TMPDIR": str(work),
    }
    done = subprocess.run(
        [install.go(), "tool", "test2json", str(binary), "-test.v=test2json", "-test.count=1", f"-test.timeout={TIMEOUT_SECS}s"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        cwd=install.HERE,
    )
    output, ended = {}, 0
    for line in done.stdout.splitlines():
        event = json.loads(line)
        test, action = event.get("Test"), event["Action"]
        if action == "output":
            output.setdefault(test, []).append(event["Output"])
        elif action in ("pass", "fail", "skip") and test is not None:
            ended += 1
            report.check(f"wal: {test}", action == "pass", "".join(output.get(test, [])))
    everything = "".join(text for texts in output.values() for text in texts)
    report.check(f"wal: all {TESTS_MIN} tests or more ran", ended >= TESTS_MIN, everything[-3000:])
