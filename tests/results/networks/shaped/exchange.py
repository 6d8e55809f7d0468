"""A round trip of a server with its clients over TCP, a program: `server DOWN UP CLIENTS` or `client DOWN UP HOST`.

The server prints the seconds from its first byte to the last byte of the last reply, for each of some tries. Each try
has connections of its own, since an idle one starts as slowly as a new one.
"""

import socket
import sys
import time
from threading import Thread

PORT = 7070
TRIES = 5
PIECE = 1 << 16


def receive(peer: socket.socket, size: int) -> None:
    while size:
        taken = len(peer.recv(min(PIECE, size)))
        assert taken, "the peer has gone"
        size -= taken


def serve(down: int, up: int, clients: int) -> None:
    with socket.create_server(("", PORT), backlog=clients) as listener:
        print("ready", flush=True)
        for _ in range(TRIES):
            peers = [listener.accept()[0] for _ in range(clients)]
            threads = [Thread(target=round_trip, args=(peer, down, up)) for peer in peers]
            start_s = time.perf_counter()
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            print(time.perf_counter() - start_s, flush=True)
            for peer in peers:
                peer.close()


def round_trip(peer: socket.socket, down: int, up: int) -> None:
    peer.sendall(bytes(down))
    receive(peer, up)


def answer(down: int, up: int, host: str) -> None:
    for _ in range(TRIES):
        with socket.create_connection((host, PORT)) as server:
            receive(server, down)
            server.sendall(bytes(up))
            assert not server.recv(1), "the server closes"


if __name__ == "__main__":
    role, down, up, last = sys.argv[1:]
    if role == "server":
        serve(int(down), int(up), int(last))
    else:
        answer(int(down), int(up), last)
