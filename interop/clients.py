"""The PyPI client and Go's clientv3, each as a scenario with its own asserts against a fresh server.

A scenario prints `ok NAME` or `FAIL NAME: why` for each check and `end` last.
"""

import subprocess

import install
from server import Server, free_ports

SCENARIO_TIMEOUT_SECS = 120


def check(report, options, work, name, command):
    """`command` takes the server and returns the scenario's command line."""
    with Server(options.server, work / "member", free_ports(2), flags=options.server_flags) as server:
        server.start()
        try:
            done = subprocess.run(
                command(server), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SCENARIO_TIMEOUT_SECS
            )
        except subprocess.TimeoutExpired as late:
            report.fail(name, f"no end within {SCENARIO_TIMEOUT_SECS} s; printed:\n{(late.stdout or b'').decode()}")
            return
        lines = done.stdout.splitlines()
        ended = bool(lines) and lines[-1] == "end" and done.returncode == 0
        for line in lines[:-1] if ended else lines:
            verdict, _, rest = line.partition(" ")
            if verdict == "ok":
                report.ok(f"{name}: {rest}")
            else:
                report.fail(f"{name}: {rest.split(':')[0]}", rest)
        report.check(f"{name}: the scenario ran to its end", ended, f"exit {done.returncode}\n{done.stderr[-3000:]}")
        server.stop()


def check_python(report, options, work):
    python = install.python_with_etcd3()
    scenario = install.HERE / "python" / "scenario.py"
    check(report, options, work, "etcd3", lambda server: [str(python), str(scenario), "127.0.0.1", str(server.client_port)])


def check_go(report, options, work):
    program = install.go_build("kv")
    check(report, options, work, "clientv3", lambda server: [str(program), server.endpoint])
