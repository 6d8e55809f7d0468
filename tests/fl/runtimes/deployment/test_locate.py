"""The ServerApp finds the nodes of its roles by their names, once all are online."""

from types import SimpleNamespace
from typing import cast

import pytest
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid

from fl.plan import RunPlan
from fl.runtimes import deployment
from privacy.errors import RuntimeFailure


class Nodes:
    """The part of Flower's grid that lists the online nodes, changing over time."""

    def __init__(self, *times: dict[int, str]) -> None:
        self._times = list(times)

    def get_nodes(self) -> list[NodeInfo]:
        online = self._times.pop(0) if len(self._times) > 1 else self._times[0]
        return [NodeInfo(node_id=node_id, name=name) for node_id, name in online.items()]


def locate(nodes: Nodes, clients: int, *roles: str) -> dict[str, int]:
    everybody = (*(f"client/{client}" for client in range(clients)), *roles)
    plan = SimpleNamespace(asked=everybody)
    return dict(deployment.locate(cast(Grid, nodes), cast(RunPlan, plan)))


def test_clients_are_located_by_the_names_of_their_keys_once_all_are_online() -> None:
    nodes = Nodes({}, {7: "client/1"}, {7: "client/1", 9: "client/0", 3: "", 4: "keyholder"})
    assert locate(nodes, 2) == {"client/0": 9, "client/1": 7}


def test_a_role_is_waited_for_like_a_client() -> None:
    nodes = Nodes({9: "client/0"}, {9: "client/0", 5: "party/0"}, {9: "client/0", 5: "party/0", 4: "keyholder"})
    assert locate(nodes, 1, "keyholder") == {"client/0": 9, "keyholder": 4}


def test_a_client_that_never_comes_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployment, "NODES_TIMEOUT_S", 0.0)
    with pytest.raises(RuntimeFailure, match=r"2 of 3 SuperNodes are not online after 0 s, among them client/1"):
        locate(Nodes({7: "client/0"}), 3)
    with pytest.raises(RuntimeFailure, match=r"1 of 2 SuperNodes are not online .* --name keyholder` and start it"):
        locate(Nodes({7: "client/0"}), 1, "keyholder")


def test_two_nodes_of_one_name_are_refused() -> None:
    with pytest.raises(RuntimeFailure, match="two SuperNodes are registered as client/0"):
        locate(Nodes({7: "client/0", 8: "client/0"}), 1)
