"""The process that plays a role beside clients and server, in a deployment: it has the role's keys and memory.

    python -m fl.runtimes.resident keyholder --keys FOLDER --approve HASH
    python -m fl.runtimes.resident party/0 --keys FOLDER --approve HASH --configuration FILE

Flower starts a new process for each message to the role's SuperNode. That process relays the message to the resident
process over a Unix socket; write permission for the socket is the only access control. A message or answer consists of
its length in 8 bytes, and Flower's records as Protocol Buffers. Parties meet before they listen. Their dealer receives
no messages; it deals until the parties leave.
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
from fl.transport import told
from privacy.addresses import DEALER, PARTIES, Address
from privacy.errors import ConfigError, FedveilError, RuntimeFailure

MEETING = (PARTIES, DEALER)  # addresses of the roles that meet one another
HASH_DIGITS = 64
STALL_S = 30.0  # a relay that sends nothing for this time is disconnected
QUEUE = 16


# ---- The SuperNode's end


# ---- The resident's end


@contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    """Listen at a socket for the time of the block. The permissions of its folder, and its group, restrict access.

    Raises:
        ConfigError: another process listens at the path, or the socket cannot be made.
    """
    if answers(path):
        raise ConfigError.of("socket", path, "another process listens there: stop it, or give this one another socket")
    with socket.socket(socket.AF_UNIX) as listener:
        try:
            path.unlink(missing_ok=True)  # left by a process that was killed
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
    """Answer one message after the other, until the process ends."""
    while True:
        connection, _ = listener.accept()
        with connection, suppress(OSError):  # a relay that died needs no answer
            connection.settimeout(STALL_S)
            send(connection, _answer(connection, context))


def _answer(connection: socket.socket, context: Context) -> RecordDict:
    from fl.node import participate

    return told(lambda: participate(receive(connection), context))


def play(role: Address, folder: Path, approved: str, path: Path) -> None:
    """Play a role, until the process ends.

    Raises:
        ConfigError: the keys, the approved hash or the socket are not usable.
    """
    from fl.node import role_context  # the import takes seconds, so the arguments are checked before

    with listening(path) as listener:
        print(f"{role} listens at {path}, for the configuration {approved}", flush=True)
        serve(listener, role_context(role, approved, folder))


def play_party(role: Address, folder: Path, configuration: str, path: Path, private: Path | None) -> None:
    """Meet the other parties and play one of them, until the process ends; or play the dealer, until the parties leave.

    Raises:
        ConfigError: the configuration has no such party, or names no place for the meeting.
        RuntimeFailure: not all parties came to the meeting.
    """
    from fl.runtimes import peers  # imports CrypTen
    from fl.workspace import workspace

    plan = workspace(configuration).plan
    meeting = plan.backend.secure_sum.parties.meeting
    if meeting is None or role not in meeting.members:
        raise ConfigError.of("role", role, f"secure_sum={plan.backend.secure_sum.name} has no such party")
    if meeting.rendezvous is None and private is None:
        raise ConfigError.of("secure_sum.rendezvous", "null", "parties meet at tcp://HOST:PORT, or in --meet FOLDER")
    own = keys.deployed(folder, role, plan.everybody, plan.hash)
    terms = role, own, meeting, plan.hash, private or folder
    if role == meeting.dealer:
        print(f"{role} deals, for the configuration {plan.hash}", flush=True)
        peers.deal(*terms)
        return
    keys.meet(peers.join(*terms))
    try:
        play(role, folder, plan.hash, path)
    finally:
        peers.leave()


def _stop(signum: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(128 + signum)


def main(argv: Sequence[str] | None = None) -> int:
    """Play a role of a deployment, such as the keyholder, for one configuration."""
    parser = argparse.ArgumentParser(prog="python -m fl.runtimes.resident", description=main.__doc__)
    parser.add_argument("role", help="the role's address, such as keyholder, party/0 or dealer")
    parser.add_argument("--keys", type=Path, required=True, metavar="FOLDER", help="the role's folder, with the roster")
    relayed = "the roster comes through the server (runtime.roster=relayed), and keys are made where there are none"
    parser.add_argument("--relayed", action="store_true", help=relayed)
    parser.add_argument("--approve", required=True, metavar="HASH", help="the configuration's hash; see `fedveil hash`")
    parser.add_argument("--socket", type=Path, help=f"the socket to listen at (default: {SOCKET} in the folder)")
    file = "for a party or dealer: the output of `fedveil configuration`"
    parser.add_argument("--configuration", type=Path, metavar="FILE", help=file)
    private = "for a party or dealer: meeting place of parties on one machine (without secure_sum.rendezvous)"
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
    """Read the configuration in a file.

    Raises:
        ConfigError: there is no such file, or its configuration is not the approved one.
    """
    if file is None:
        raise ConfigError.of("configuration", file, "parties need the file that `fedveil configuration` prints")
    try:
        configuration = file.read_text().strip()
    except OSError as error:
        raise ConfigError.of("configuration", file, f"cannot be read ({error.strerror})") from None
    if hash_of(configuration) != approved:
        allowed = f"its hash is {hash_of(configuration)}, not the approved one"
        raise ConfigError.of("configuration", file, allowed)
    return configuration


if __name__ == "__main__":
    sys.exit(main())
