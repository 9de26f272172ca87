"""Finds the tools that the checks need, and installs what is missing with the ordinary package clients.

A tool that cannot be had is a `Problem` with a message that says what to do: nothing is skipped for want of a tool.
"""

import functools
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

from report import Problem

HERE = Path(__file__).resolve().parent
POLICY = Path("/usr/sbin/policy-rc.d")


def cache_dir():
    """Where built helpers and the Python environment live between runs: $QUORATE_INTEROP_CACHE, or below ~/.cache."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "quorate-interop"
    path = Path(os.environ.get("QUORATE_INTEROP_CACHE") or default).resolve()
    path.mkdir(parents=True, exist_ok=True)
    return path


def run(command, what, **options):
    """Runs a command of the harness itself; its output is shown only if it fails."""
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
    )
    if done.returncode != 0:
        raise Problem(f"{what} failed (exit {done.returncode}): {' '.join(map(str, command))}\n{done.stdout[-4000:]}")
    return done.stdout


@contextmanager
def no_service_start():
    """Debian starts the etcd service when it is installed; a policy file of our own forbids it meanwhile."""
    if POLICY.exists():
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()


@functools.cache
def apt_update():
    run(["apt-get", "update"], "apt-get update")


def debian_tool(program, package):
    """The path of a program from a Debian package, which is installed if the program is missing."""
    found = shutil.which(program)
    if found:
        return found
    if shutil.which("apt-get") is None:
        raise Problem(f"`{program}` is missing and there is no apt-get here: install it (Debian: {package})")
    if os.geteuid() != 0:
        raise Problem(f"`{program}` is missing: run `apt-get install {package}` as root, then again")
    print(f"-- installing {package}", flush=True)
    apt_update()
    with no_service_start():
        run(
            ["apt-get", "install", "-y", "--no-install-recommends", package],
            f"installing {package}",
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        )
    found = shutil.which(program)
    if not found:
        raise Problem(f"the package {package} was installed but there is still no `{program}` on the PATH")
    return found


def etcd():
    return debian_tool("etcd", "etcd-server")


def etcdctl():
    return debian_tool("etcdctl", "etcd-client")


def strace():
    return debian_tool("strace", "strace")


def go():
    """Go itself must be there: Debian's is too old for etcd's newest modules."""
    wanted = next(line.split()[1] for line in (HERE / "go.mod").read_text().splitlines() if line.startswith("go "))
    found = shutil.which("go")
    if not found:
        raise Problem(f"`go` is missing: install Go {wanted} or newer (https://go.dev/dl) and put it on the PATH")
    return found


@functools.cache
def go_build(name, module=HERE, package=None):
    """Builds a command of a Go module (this folder's, if no other is named); Go fetches the modules that go.sum pins."""
    target = cache_dir() / "bin" / name
    run([go(), "build", "-o", str(target), package or f"./{name}"], f"building interop's {name}", cwd=module)
    return target


@functools.cache
def newest_etcdctl():
    target = cache_dir() / "bin" / "etcdctl"
    run([go(), "build", "-o", str(target), "go.etcd.io/etcd/etcdctl/v3"], "building etcdctl 3.7", cwd=HERE)
    return str(target)


@functools.cache
def python_with(client):
    """The Python of a virtual environment that holds exactly what the client's list in python/ pins."""
    requirements = HERE / "python" / f"{client}.txt"
    environment = cache_dir() / f"{client}-python-{sys.version_info.major}.{sys.version_info.minor}"
    python, stamp = environment / "bin" / "python", environment / "installed.txt"
    if not (stamp.exists() and stamp.read_text() == requirements.read_text()):
        print(f"-- installing the PyPI client {client}", flush=True)
        run([sys.executable, "-m", "venv", "--clear", str(environment)], "making a virtual environment (python3-venv)")
        run([str(python), "-m", "pip", "install", "--quiet", "-r", str(requirements)], f"installing {client}")
        stamp.write_text(requirements.read_text())
    return python


@functools.cache
def node_with(client, folder):
    """A copy of the folder, with what its package-lock.json pins beside it: that is where Node.js looks for it."""
    debian_tool("node", "nodejs")
    npm = debian_tool("npm", "npm")
    lock = (HERE / folder / "package-lock.json").read_text()
    copy = cache_dir() / folder
    stamp = copy / "node_modules" / "installed.txt"
    shutil.copytree(HERE / folder, copy, dirs_exist_ok=True, ignore=shutil.ignore_patterns("node_modules"))
    if not (stamp.exists() and stamp.read_text() == lock):
        print(f"-- installing the npm client {client}", flush=True)
        run([npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], f"installing {client}", cwd=copy)
        stamp.write_text(lock)
    return copy


def cargo():
    found = shutil.which("cargo")
    if not found:
        raise Problem("`cargo` is missing: install Rust (https://rustup.rs) and put it on the PATH")
    return found


@functools.cache
def protoc():
    """A protobuf compiler written in Rust that takes protoc's flags: Debian's would have to be installed by root."""
    version, tools = "0.10.0", cache_dir() / "tools"
    program = tools / "bin" / "protox"
    if not program.exists():
        print("-- building the protobuf compiler protox", flush=True)
        command = [cargo(), "install", "--quiet", "--locked", "protox", "--version", version, "--features", "bin", "--root", str(tools)]
        run(command, "installing protox", env={**os.environ, "CARGO_TARGET_DIR": str(cache_dir() / "cargo")})
    return program


@functools.cache
def cargo_build(folder, name):
    """Builds a program of a cargo project of its own, with what its Cargo.lock pins."""
    target = cache_dir() / "cargo"
    environment = {**os.environ, "PROTOC": str(protoc()), "CARGO_TARGET_DIR": str(target)}
    run([cargo(), "build", "--quiet", "--locked"], f"building interop's {folder}", cwd=HERE / folder, env=environment)
    return target / "debug" / name


@functools.cache
def java_build(folder):
    """Builds a Maven project, with the jars that its pom.xml pins; returns the command that runs one of its classes."""
    java, maven = debian_tool("java", "openjdk-17-jdk-headless"), debian_tool("mvn", "maven")
    debian_tool("javac", "openjdk-17-jdk-headless")
    target = cache_dir() / folder
    # What an earlier pom.xml wanted must not be on the class path.
    shutil.rmtree(target, ignore_errors=True)
    where = [f"-Dmaven.repo.local={cache_dir() / 'maven'}", f"-Dscenario.target={target}"]
    run([maven, "-B", "-q", *where, "compile", "dependency:copy-dependencies"], f"building interop's {folder}", cwd=HERE / folder)
    return [java, "-cp", f"{target}/classes:{target}/dependency/*"]
