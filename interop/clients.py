"""Real clients, each as a scenario with its own asserts (scenario.py says how one is run).

The PyPI client and Go's clientv3 check their calls one by one against a fresh member. All of them live through the death of a
leader: README.md tells the story.
"""

import sys

import etcdctl
import install
import scenario
from server import Server, free_ports


def check_calls(report, options, work, name, command):
    """`command` takes the server and returns the scenario's command line."""
    with Server(options.server, work / "member", free_ports(2), flags=options.server_flags) as server:
        server.start()
        scenario.run(report, name, command(server), work / "calls.log")
        server.stop()


def check_etcdctl(report, options, work):
    etcdctl.check(report, options, work)
    program = str(install.HERE / "python" / "ctl.py")
    scenario.check_failover(report, options, work, "etcdctl", lambda endpoints: [sys.executable, program, install.etcdctl(), *endpoints])


def check_python(report, options, work):
    python, here = str(install.python_with("etcd3")), install.HERE / "python"
    check_calls(report, options, work, "etcd3", lambda server: [python, str(here / "calls.py"), "127.0.0.1", str(server.client_port)])
    scenario.check_failover(report, options, work, "etcd3", lambda endpoints: [python, str(here / "failover.py"), *endpoints])


def check_python_asyncio(report, options, work):
    python, program = str(install.python_with("aetcd")), str(install.HERE / "python" / "aio.py")
    scenario.check_failover(report, options, work, "aetcd", lambda endpoints: [python, program, *endpoints])


def check_go(report, options, work):
    calls, failover = install.go_build("kv"), install.go_build("failover")
    check_calls(report, options, work, "clientv3", lambda server: [str(calls), server.endpoint])
    scenario.check_failover(report, options, work, "clientv3", lambda endpoints: [str(failover), *endpoints])


def check_node(report, options, work):
    folder = install.node_with("etcd3", "node")
    scenario.check_failover(report, options, work, "npm etcd3", lambda endpoints: ["node", str(folder / "failover.js"), *endpoints])


def check_rust(report, options, work):
    program = install.cargo_build("rust", "quorate-interop-rust")
    scenario.check_failover(report, options, work, "etcd-client", lambda endpoints: [str(program), *endpoints])


def check_java(report, options, work):
    java = install.java_build("java")
    scenario.check_failover(report, options, work, "jetcd", lambda endpoints: [*java, "Failover", *endpoints])
