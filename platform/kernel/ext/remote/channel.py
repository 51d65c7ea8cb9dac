"""The internal channel over HTTP: lets other extensions post to modules elsewhere and answer their calls."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from kernel.ext.channel.channel import Answer, Reply, SharedModel
from kernel.ext.remote.client import RemoteModule
from kernel.health import Check


class HttpChannel:
    """Implements InternalChannel, and holds what extensions have registered for the client and the server."""

    def __init__(self, modules: Mapping[str, RemoteModule], health_checks: dict[str, Check]) -> None:
        self._modules, self._health_checks = modules, health_checks
        self.services: dict[str, Answer] = {}
        # What the modules of this process send, by module.
        self.sent: defaultdict[str, list[SharedModel]] = defaultdict(list)
        # The modules elsewhere that this process uses, and those of them that are compared.
        self.connected: set[str] = set()
        self.compared: dict[str, RemoteModule] = {}

    def serve(self, service: str, answer: Answer) -> None:
        self.services[service] = answer

    def describe(self, module: str, models: Sequence[SharedModel]) -> None:
        self.sent[module] += models

    def connect(self, module: str, reads: Sequence[SharedModel] = ()) -> None:
        self.connected.add(module)
        if reads:
            self._modules[module].models += reads
            self.compare(module)

    def compare(self, module: str) -> None:
        """Compare what this process uses of a module elsewhere, and make the result a part of readiness."""
        self.connected.add(module)
        self.compared[module] = self._modules[module]
        self._health_checks[f"{module}.contract"] = self._modules[module].check

    async def post(self, service: str, module: str, name: str, body: bytes, seconds: float) -> Reply:
        path = "/".join(filter(None, (service, module, name)))
        return await self._modules[module].post(path, body, seconds)
