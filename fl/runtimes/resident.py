"""The process that plays a role of a deployment beside clients and server: it has the role's keys and its memory.

    python -m fl.runtimes.resident keyholder --keys FOLDER --approve HASH
    python -m fl.runtimes.resident party/0 --keys FOLDER --approve HASH --configuration FILE

Flower starts a new process for each message to the role's SuperNode. That one relays to this one over a Unix socket:
whoever may write to the socket may ask. A message, and the answer to it, is its length in 8 bytes, and Flower's records
as Protocol Buffers. Parties meet before they listen, and their dealer, whom nobody asks, deals until they part.
"""

import argparse
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

from flwr.app import Context, RecordDict

from fl.config.identity import hash_of
from fl.keys import folders as keys
from fl.runtimes.relay import SOCKET, answers, receive, send, short_name
from privacy.addresses import DEALER, PARTIES, Address
from privacy.errors import ConfigError, FedveilError, RuntimeFailure

MEETING = (PARTIES, DEALER)  # roles that must reach others of theirs
HASH_DIGITS = 64
STALL_S = 30.0  # a relay that says nothing for so long is given up
QUEUE = 16


# ---- The SuperNode's end


# ---- The resident's end


@contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    """A socket at a path; the folder that it is in, and its group, decide who may connect.

    Raises:
        ConfigError: another process listens there, or nobody can.
    """
    if answers(path):
        raise ConfigError.of("socket", path, "another process listens there: stop it, or give this one another socket")
    with socket.socket(socket.AF_UNIX) as listener:
        try:
            path.unlink(missing_ok=True)  # of a process that was killed
            with short_name(path) as name:
                listener.bind(name)
            path.chmod(0o660)
        except OSError as error:
            raise ConfigError.of("socket", path, f"cannot be made ({error.strerror})") from None
        listener.listen(QUEUE)
        try:
            yield listener
        finally:
            path.unlink(missing_ok=True)


def serve(listener: socket.socket, context: Context) -> NoReturn:
    """Answer one message after the other, until the process is ended."""
    while True:
        connection, _ = listener.accept()
        with connection, suppress(OSError):  # a relay that died wants no answer
            connection.settimeout(STALL_S)
            send(connection, _answer(connection, context))


def _answer(connection: socket.socket, context: Context) -> RecordDict:
    from fl.node import participate, told

    return told(lambda: participate(receive(connection), context))


def play(role: Address, folder: Path, approved: str, path: Path) -> None:
    """Be the process of a role, until it is ended.

    Raises:
        ConfigError: keys, approved hash or socket will not do.
    """
    from fl.node import role_context  # takes seconds: what is wrong with the arguments shows before

    with listening(path) as listener:
        print(f"{role} listens at {path}, for the configuration {approved}", flush=True)
        serve(listener, role_context(role, approved, folder))


def play_party(role: Address, folder: Path, configuration: str, path: Path, private: Path | None) -> None:
    """Meet the other parties, and be the process of one, until it is ended; or the dealer, until they part.

    Raises:
        ConfigError: the configuration has no such party, or does not say where they meet.
        RuntimeFailure: they did not all come.
    """
    from fl.runtimes import peers  # with it CrypTen
    from fl.workspace import workspace

    work = workspace(configuration)
    meeting = work.backend.secure_sum.meeting
    if meeting is None or role not in meeting.members:
        raise ConfigError.of("role", role, f"secure_sum={work.backend.secure_sum.name} has no such party")
    if meeting.rendezvous is None and private is None:
        raise ConfigError.of("secure_sum.rendezvous", "null", "parties meet at tcp://HOST:PORT, or in --meet FOLDER")
    own = keys.deployed(folder, role, work.everybody, work.hash)
    terms = role, own, meeting, work.hash, private or folder
    if role == meeting.dealer:
        print(f"{role} deals, for the configuration {work.hash}", flush=True)
        peers.deal(*terms)
        return
    keys.meet(peers.join(*terms))
    try:
        play(role, folder, work.hash, path)
    finally:
        peers.leave()


def _stop(signum: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(128 + signum)


def main(argv: Sequence[str] | None = None) -> int:
    """Play a role of a deployment, such as the keyholder, for one configuration."""
    parser = argparse.ArgumentParser(prog="python -m fl.runtimes.resident", description=main.__doc__)
    parser.add_argument("role", help="keyholder, party/0, dealer")
    parser.add_argument("--keys", type=Path, required=True, metavar="FOLDER", help="of the role, with the roster in it")
    relayed = "the roster comes through the server (runtime.roster=relayed), and keys are made where there are none"
    parser.add_argument("--relayed", action="store_true", help=relayed)
    parser.add_argument("--approve", required=True, metavar="HASH", help="of the configuration; see `fedveil hash`")
    parser.add_argument("--socket", type=Path, help=f"where its SuperNode asks (default: {SOCKET} in the folder)")
    file = "of a party or dealer: what `fedveil configuration` prints"
    parser.add_argument("--configuration", type=Path, metavar="FILE", help=file)
    private = "of a party or dealer: where those of one machine meet (without secure_sum.rendezvous)"
    parser.add_argument("--meet", type=Path, metavar="FOLDER", help=private)
    try:
        _play(parser.parse_args(argv))
    except FedveilError as error:
        print(f"fedveil: error: {error}", file=sys.stderr)
        return 1 if isinstance(error, RuntimeFailure) else 2
    except KeyboardInterrupt:
        return 130
    return 0


def _play(arguments: argparse.Namespace) -> None:
    role = arguments.role
    folder = arguments.keys.absolute()
    path = (arguments.socket or folder / SOCKET).absolute()
    _check(role, folder, arguments.approve, arguments.relayed)
    signal.signal(signal.SIGTERM, _stop)
    if role.startswith(MEETING):
        configuration = _approved(arguments.configuration, arguments.approve)
        play_party(role, folder, configuration, path, arguments.meet)
    else:
        play(role, folder, arguments.approve, path)


def _check(role: Address, folder: Path, approved: str, relayed: bool) -> None:
    if len(approved) != HASH_DIGITS or set(approved) - set("0123456789abcdef"):
        raise ConfigError.of("approve", approved, "must be the hash that `fedveil hash` prints")
    if relayed:
        from fl.keys.relayed import introduced

        introduced(folder, role, approved)
    else:
        keys.deployed(folder, role, [role], approved)


def _approved(file: Path | None, approved: str) -> str:
    """The configuration in a file.

    Raises:
        ConfigError: there is none, or not the approved one.
    """
    if file is None:
        raise ConfigError.of("configuration", file, "parties meet first: name what `fedveil configuration` prints")
    try:
        configuration = file.read_text().strip()
    except OSError as error:
        raise ConfigError.of("configuration", file, f"cannot be read ({error.strerror})") from None
    if hash_of(configuration) != approved:
        allowed = f"its hash is {hash_of(configuration)}, and not the approved one"
        raise ConfigError.of("configuration", file, allowed)
    return configuration


if __name__ == "__main__":
    sys.exit(main())
