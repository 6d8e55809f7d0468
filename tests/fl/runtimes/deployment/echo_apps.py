"""Apps without training, for tests of the deployment's engine: every client returns only its identity."""

import json
import os
import time
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

client_app = ClientApp()
server_app = ServerApp()


@client_app.query()
def echo(message: Message, context: Context) -> Message:
    partition = int(context.node_config["partition-id"])
    approved = str(context.node_config["approved-config"])
    said = {"partition": partition, "approved": approved, "process": os.getpid()}
    return Message(RecordDict({"said": ConfigRecord(said)}), reply_to=message)


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    folder = Path(str(context.run_config["directory"]))
    config = json.loads(str(context.run_config["config"]))
    started = time.monotonic()
    while len(nodes := {info.name: info.node_id for info in grid.get_nodes()}) < config["nodes"]:
        time.sleep(0.1)
    times_s = [time.monotonic() - started]
    said = []
    print("all nodes are here", flush=True)
    for number in range(config["rounds"]):
        started = time.monotonic()
        said = ask(grid, list(nodes.values()), number)
        times_s.append(time.monotonic() - started)
    seen = {"nodes": nodes, "said": said, "times_s": times_s, "text": config["text"], "home": os.environ["FLWR_HOME"]}
    (folder / "seen.json").write_text(json.dumps(seen))
    if config["fail"]:
        raise ValueError(config["fail"])
    time.sleep(config["sleep_s"])


def ask(grid: Grid, nodes: list[int], number: int) -> list[dict[str, object]]:
    messages = [Message(RecordDict(), node, "query", group_id=str(number)) for node in nodes]
    waiting = set(grid.push_messages(messages))
    said = []
    while waiting:
        for reply in grid.pull_messages(waiting):
            waiting.discard(reply.metadata.reply_to_message_id)
            said.append(dict(reply.content.config_records["said"]))
        time.sleep(0.1)
    return said
