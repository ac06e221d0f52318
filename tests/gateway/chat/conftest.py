"""A cluster of two silo processes that chat clients talk to."""

from pathlib import Path

import msgspec
import pytest

from actors import codec
from actors.records import ITEM, ChannelItem, item_key, offset_of
from cluster.etcd import EtcdServer
from tests.cluster.conftest import exits  # noqa: F401  # a fixture
from tests.cluster.durable_actors import noted
from tests.cluster.processes import Cluster, Process, Processes

APP = "tests.gateway.chat.chat_actors"
CHATS = "ai-sdk:/api/chat=session.write, ag-ui:/api/agui=session.write"


class ChatHouse:
    """Silos with chats, and what they have stored."""

    def __init__(self, processes: Processes, server: EtcdServer, folder: Path) -> None:
        self.silos: dict[str, Process] = {}
        self.http: dict[str, str] = {}
        self.folder = folder
        self._cluster = Cluster(processes, server, folder)
        self._processes = processes

    async def start(self, *names: str) -> list[str]:
        """Start silos of these names; the addresses of their HTTP ports."""
        found = self._cluster
        options = ("--etcd", found.etcd, "--store", found.store_url, "--cluster", found.name, "--lease-ttl", 2)
        env = {"TEST_FOLDER": str(self.folder), "SILO_CHAT": CHATS}
        for name in names:
            self.silos[name] = self._processes.silo(name, *options, "--drain-limit", 3, app=APP, env=env)
        for name in names:
            self.http[name] = (await self.silos[name].ready())[0]["http"]
        return [self.http[name] for name in names]

    def runs(self, address: str) -> list[str]:
        """The prompts that an actor has run, each as often as it did."""
        return noted(self.folder, f"{address.partition('-')[2]}.runs")

    def stored(self, address: str, channel: str = "output") -> str:
        """The text that the store has of a channel, without what was taken back."""
        prefix = item_key(channel, 0)[:-8]
        rows = sorted(self._cluster.rows(address, ITEM).items())
        items = [(offset_of(key), msgspec.msgpack.decode(value, type=ChannelItem)) for key, value in rows]
        items = [item for (key, _), item in zip(rows, items, strict=True) if key.startswith(prefix)]
        texts: dict[int, str] = {}
        for offset, item in items:
            value = codec.decode(item.data, trusted=False)
            if item.kind == "reset":
                texts = {at: text for at, text in texts.items() if at < value}
            elif isinstance(value, str):
                texts[offset] = value
        return "".join(texts.values())


@pytest.fixture
async def chats(processes: Processes, etcd_server: EtcdServer, tmp_path: Path) -> ChatHouse:
    return ChatHouse(processes, etcd_server, tmp_path)
