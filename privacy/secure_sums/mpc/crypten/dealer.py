"""CrypTen's trusted third party: the dealer of correlated randomness in a process of its own, and the parties' client.

The dealer alone learns no input and no result; together with any one party it learns everything. A party draws its part
of a triple from the stream that it shares with the dealer. Only party 0's last part is sent, because it depends on the
other parts.

Shapes: a mask has the shape of the tensor that it hides.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from privacy.errors import PeerLost
from privacy.secure_sums.meeting import reason
from privacy.secure_sums.mpc.crypten.compat import (
    ArithmeticSharedTensor,
    BinarySharedTensor,
    TTPServer,
    crypten,
    ttp_provider,
)
from privacy.secure_sums.mpc.crypten.streams import Stream, generate_kbit_random_tensor, generate_random_ring_element

IDLE = timedelta(days=365)  # no requests come between rounds; a party that dies meanwhile closes the connection
SPENT = "spent"
STOP = "terminate"  # CrypTen's own word


@dataclass(frozen=True)
class Spent:
    """Resources of a process since its last report: bytes of payload that it sent and received, and CPU time."""

    bytes: int
    rounds: int
    communication_s: float
    cpu_s: float


class PartyMeter:
    """Reader of the communicator's counters and of the CPU clock of this process; each reading restarts them."""

    def __init__(self) -> None:
        self._cpu_s = time.process_time()

    def take(self) -> Spent:
        """Return the resources used since the last call, or since the start."""
        communicator = crypten.communicator.get()
        used = communicator.get_communication_stats()
        cpu_s = time.process_time()
        spent = Spent(int(used["bytes"]), used["rounds"], float(used["time"]), cpu_s - self._cpu_s)
        communicator.reset_communication_stats()
        self._cpu_s = cpu_s
        return spent


class Client:
    """A party's client of the dealer, in the place of CrypTen's own `TTPClient`."""

    def __init__(self, stream: Stream | None) -> None:
        self._stream = stream

    def get(self) -> "Client":
        """Return this client, the only instance; CrypTen calls it."""
        assert self._stream is not None, "this aggregate multiplies, and there is no dealer"
        return self

    def get_generator(self, device: Any = None) -> Stream:  # noqa: ARG002
        """Return the stream shared with the dealer."""
        assert self._stream is not None
        return self._stream

    def ttp_request(self, function: str, device: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return party 0's last part, int64.

        Raises:
            PeerLost: the dealer is gone, or offers another shape than that of the result.
        """
        size = _dealt_size(function, *args, **kwargs)
        stated = self._ask(function, *args, **kwargs)
        if not isinstance(stated, torch.Size) or stated != size:
            raise PeerLost("the dealer deals another number of values than it was asked for")
        communicator, dealer = _communicator()
        with _naming_the_dealer():
            result: torch.Tensor = communicator.receive_words(size, dealer)
        return result if device is None else result.to(device)

    def spent(self) -> Spent:
        """Return the resources that the dealer used since the last call; for party 0."""
        with _naming_the_dealer():
            sent_bytes, rounds, communication_s, cpu_s = self._ask(SPENT)
            return Spent(int(sent_bytes), int(rounds), float(communication_s), float(cpu_s))

    @staticmethod
    def _ask(function: str, *args: Any, **kwargs: Any) -> Any:
        communicator, dealer = _communicator()
        with _naming_the_dealer():
            communicator.send_obj((function, args, kwargs), dealer, communicator.ttp_group)
            return communicator.recv_obj(dealer, communicator.ttp_group)


@contextmanager
def _naming_the_dealer() -> Iterator[None]:
    """Raise PeerLost with the dealer's name; gloo's errors name a port at best."""
    try:
        yield
    except RuntimeError as error:
        raise PeerLost(f"the dealer ended, or did not answer in time: {reason(error)}") from error
    except PeerLost:
        raise
    except Exception as error:  # what unpickling raises is up to the bytes
        raise PeerLost(f"the dealer's answer cannot be read: {reason(error)}") from error


def _dealt_size(function: str, *args: Any, **kwargs: Any) -> torch.Size:
    """Return the shape of the answer to a request, from the shapes in the request."""
    if function == "additive":
        left, right, operation, *more = args
        parts = [torch.empty(size, device="meta") for size in (left, right)]
        size: torch.Size = getattr(torch, operation)(*parts, *more, **kwargs).size()
        return size
    return torch.broadcast_shapes(*args)  # type: ignore[no-untyped-call,no-any-return]


def _communicator() -> tuple[Any, int]:
    communicator = crypten.communicator.get()
    return communicator, communicator.get_ttp_rank()


def word_masks(size: torch.Size, device: Any) -> tuple[Any, Any]:
    """Return uniform 64-bit words that no single party knows, shared by addition and by exclusive or.

    With them the parties convert additive shares to bits in one opening (Damgard et al. 2006; edaBits, Escudero et al.
    2020). CrypTen's own conversion adds the parties' shares in a circuit, one after the other.
    """
    if not crypten.mpc.ttp_required():
        word = generate_random_ring_element(size, device=device)
        return ArithmeticSharedTensor(word, precision=0, src=0), BinarySharedTensor(word, src=0)
    client = ttp_provider.TTPClient.get()
    stream = client.get_generator(device)
    additive = generate_random_ring_element(size, generator=stream, device=device)
    if crypten.communicator.get().get_rank() == 0:
        bits = client.ttp_request("words", device, size)
    else:
        bits = generate_kbit_random_tensor(size, generator=stream, device=device)
    return (
        ArithmeticSharedTensor.from_shares(additive, precision=0),
        BinarySharedTensor.from_shares(bits, precision=0),
    )


class Dealer(TTPServer):  # type: ignore[misc]
    """CrypTen's server with streams as generators; its functions compute party 0's last part of each tuple."""

    functions = (*ttp_provider.TTP_FUNCTIONS, "words")

    def __init__(self, streams: Mapping[int, Stream]) -> None:
        self.device = "cpu"
        self.generators = [streams[rank] for rank in sorted(streams)]

    def _get_generators(self, device: Any = None) -> list[Stream]:  # noqa: ARG002
        return self.generators

    def words(self, size: torch.Size) -> torch.Tensor:
        """Return party 0's part of the exclusive or, for `word_masks`."""
        words: torch.Tensor = self._get_additive_PRSS(size) ^ self._get_binary_PRSS(size, remove_rank=True)
        return words

    def serve(self) -> None:
        """Answer party 0 until it stops.

        Raises:
            RuntimeError: a party is gone.
        """
        communicator = crypten.communicator.get()
        meter = PartyMeter()
        while (request := _next_request(communicator)) != STOP:
            function, args, kwargs = request
            if function == SPENT:
                communicator.send_obj(astuple(meter.take()), 0, communicator.ttp_group)
            else:
                self.answer(function, args, kwargs)

    def answer(self, function: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Deal what party 0 asks for, and send it the last part."""
        assert function in self.functions, function
        self.send(getattr(self, function)(*args, **kwargs))

    @staticmethod
    def send(words: torch.Tensor) -> None:
        """Send party 0 a shape, then as many words, int64."""
        communicator = crypten.communicator.get()
        communicator.send_obj(words.size(), 0, communicator.ttp_group)
        communicator.send_words(words, 0)


def _next_request(communicator: Any) -> Any:
    """Receive one object like CrypTen's `recv_obj`, but wait up to `IDLE` for it."""
    group = communicator.ttp_group
    size = torch.zeros(1, dtype=torch.int32)
    dist.irecv(size, src=0, group=group).wait(IDLE)  # type: ignore[union-attr]
    data = torch.empty(int(size), dtype=torch.int8)
    dist.irecv(data, src=0, group=group).wait()  # type: ignore[union-attr]
    return crypten.common.serial.restricted_loads(data.numpy().tobytes())
