"""A server and clients in network namespaces, behind links that the kernel shapes.

    server -- router --(delay)-- router -- client 0, 1, ...

Rates are those of token buckets (tc tbf) at each end of the outer links. The delay is netem's between the routers, or,
where the kernel has no netem, that of a program between two TUN devices.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from results.networks.links import Link, Profile

HERE = Path(__file__).parent
WIRE = 1514 / 1448  # bytes of an Ethernet frame for each that TCP carries in it: profiles count payload
TAG = f"fv{os.getpid() % 10_000}"
SERVER_HOST = "10.77.0.2"


def run(command: str) -> None:
    subprocess.run(command.split(), check=True, capture_output=True, text=True, timeout=30)


def works(command: str) -> bool:
    return subprocess.run(command.split(), capture_output=True, timeout=30).returncode == 0


def missing(tool: str) -> str | None:
    """The reason why `tbf` or `netem` cannot shape links here; None where they can."""
    name = f"{TAG}x"
    try:
        if not works(f"ip link add {name} type veth peer name {name}y"):
            return "network devices cannot be made: this needs root"
        shape = "rate 10mbit burst 10kb latency 50ms" if tool == "tbf" else "delay 10ms"
        return None if works(f"tc qdisc add dev {name} root {tool} {shape}") else f"the kernel has no {tool}"
    except OSError:
        return "there is no iproute2"
    finally:
        if Path(f"/sys/class/net/{name}").exists():
            run(f"ip link del {name}")


@contextmanager
def namespace(name: str) -> Iterator[str]:
    run(f"ip netns add {name}")
    try:
        run(f"ip -n {name} link set lo up")
        yield name
    finally:
        run(f"ip netns del {name}")


@contextmanager
def star(profile: Profile, clients: int) -> Iterator[tuple[str, list[str]]]:
    """The namespaces of the server and of `clients` clients, on links of a profile without places."""
    with ExitStack() as stack:
        server, near, far = (stack.enter_context(namespace(f"{TAG}{part}")) for part in "srq")
        others = [stack.enter_context(namespace(f"{TAG}c{i}")) for i in range(clients)]
        for router in (near, far):
            run(f"ip netns exec {router} sysctl -q -w net.ipv4.ip_forward=1")
        join(server, near, SERVER_HOST, "10.77.0.1", 30, profile.server)
        for i, client in enumerate(others):
            join(client, far, f"10.77.{i + 1}.2", f"10.77.{i + 1}.1", 30, profile.client)
        stack.enter_context(delayed(near, far, profile.rtt_ms / 2e3))
        yield server, others


def join(host: str, router: str, own: str, gateway: str, prefix: int, link: Link) -> None:
    """A link between a host and its router; up is from the host."""
    outer = f"{host}o"
    inner = f"{host}i"
    run(f"ip link add {outer} netns {host} type veth peer name {inner} netns {router}")
    for name, device, address in ((host, outer, own), (router, inner, gateway)):
        run(f"ip -n {name} addr add {address}/{prefix} dev {device}")
        run(f"ip -n {name} link set {device} up")
    run(f"ip -n {host} route add default via {gateway}")
    for name, device, mbps in ((host, outer, link.up_mbps), (router, inner, link.down_mbps)):
        rate = f"rate {1e3 * mbps * WIRE:.0f}kbit burst 16kb limit 8mb"
        run(f"tc -n {name} qdisc add dev {device} root tbf {rate}")


@contextmanager
def delayed(near: str, far: str, delay_s: float) -> Iterator[None]:
    """A link between the routers with this delay."""
    one = f"{TAG}d"
    other = f"{TAG}e"
    with ExitStack() as stack:
        if missing("netem"):
            stack.enter_context(program("delay.py", one, other, str(delay_s)))
            run(f"ip link set {one} netns {near}")
            run(f"ip link set {other} netns {far}")
        else:
            run(f"ip link add {one} netns {near} type veth peer name {other} netns {far}")
        for name, device, own, peer in ((near, one, 1, 2), (far, other, 2, 1)):
            run(f"ip -n {name} addr add 10.78.0.{own}/30 dev {device}")
            run(f"ip -n {name} link set {device} txqueuelen 10000 up")
            route = "10.77.0.0/16" if name == near else f"{SERVER_HOST}/30".replace(".2/", ".0/")
            run(f"ip -n {name} route add {route} via 10.78.0.{peer}")
            if not missing("netem"):
                run(f"tc -n {name} qdisc add dev {device} root netem delay {1e3 * delay_s}ms limit 100000")
        yield


@contextmanager
def program(*arguments: str, within: str | None = None) -> Iterator[subprocess.Popen[str]]:
    """Start a program beside this file in a namespace, and wait until it is ready; it ends with the block."""
    where = ["ip", "netns", "exec", within] if within else []
    command = [*where, sys.executable, str(HERE / arguments[0]), *arguments[1:]]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def exchanged_s(server: str, clients: list[str], down: int, up: int) -> list[float]:
    """Seconds of a round trip of the server with all clients at once, of each try."""
    with program("exchange.py", "server", str(down), str(up), str(len(clients)), within=server) as process:
        command = [sys.executable, str(HERE / "exchange.py"), "client", str(down), str(up), SERVER_HOST]
        others = [subprocess.Popen(["ip", "netns", "exec", client, *command]) for client in clients]
        try:
            assert [other.wait(timeout=120) for other in others] == [0] * len(clients)
        finally:
            for other in others:
                other.kill()
        assert process.stdout is not None
        return [float(line) for line in process.stdout]
