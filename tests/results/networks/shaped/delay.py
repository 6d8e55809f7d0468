"""Two network devices, which deliver each other's packets after a delay: `NAME NAME SECONDS`, in place of netem.

They are TUN devices, and may be moved to other network namespaces while this program runs.
"""

import fcntl
import os
import select
import struct
import sys
import time
from collections import deque
from contextlib import suppress

TUNSETIFF = 0x400454CA
IFF_TUN = 0x0001
IFF_NO_PI = 0x1000
LARGEST = 1 << 16


def device(name: str) -> int:
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TUN | IFF_NO_PI))
    return descriptor


def main(one: str, other: str, delay_s: float) -> None:
    a = device(one)
    b = device(other)
    print("ready", flush=True)
    held: dict[int, deque[tuple[float, bytes]]] = {a: deque(), b: deque()}  # by where it is handed out
    while True:
        due = min((queue[0][0] for queue in held.values() if queue), default=None)
        wait_s = None if due is None else max(0.0, due - time.perf_counter())
        for taken in select.select([a, b], [], [], wait_s)[0]:
            held[b if taken == a else a] += [(time.perf_counter() + delay_s, packet) for packet in packets(taken)]
        for out, queue in held.items():
            while queue and queue[0][0] <= time.perf_counter():
                hand_out(out, queue.popleft()[1])


def packets(descriptor: int) -> list[bytes]:
    taken = []
    try:
        while len(taken) < 64:
            taken.append(os.read(descriptor, LARGEST))
    except OSError:  # no more, or the device is down
        pass
    return taken


def hand_out(descriptor: int, packet: bytes) -> None:
    with suppress(OSError):  # the device is down
        os.write(descriptor, packet)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
