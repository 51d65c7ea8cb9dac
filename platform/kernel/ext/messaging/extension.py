"""The extension `messaging`."""

from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import ClassVar

import structlog

from kernel.ext.channel.channel import ChannelSlot, InternalChannel
from kernel.ext.channel.elsewhere import has_code, with_address
from kernel.ext.messaging import inbound
from kernel.ext.messaging import watch as watching
from kernel.ext.messaging.bus import WITHOUT_CHANNEL, WITHOUT_SUBSCRIBERS, Elsewhere, MessageBus
from kernel.ext.messaging.declared import Declared, faults_of, handled_messages, subscribers_elsewhere
from kernel.ext.messaging.gauges import BacklogGauges
from kernel.ext.messaging.handlers import MessageContext
from kernel.ext.messaging.inbound import ModuleEndpoint
from kernel.ext.messaging.outbound import Outbound
from kernel.ext.messaging.settings import MessagingSettings
from kernel.ext.messaging.watch import DeliveryWatch
from kernel.extension import Extension
from kernel.modules.discovery import DiscoveredModule, ModuleFiles
from kernel.modules.manifest import ModuleContext
from kernel.runtime import Kernel
from kernel.settings import Fault, SettingsError, SettingsGroup, Sources, read_group

_log = structlog.get_logger("kernel.ext.messaging")


class Messaging(Extension):
    """Messages between modules: published in a transaction, delivered at least once, effective once."""

    name = "messaging"
    requires = ("channel",)
    settings = (MessagingSettings,)
    fixtures = "kernel.ext.messaging.testing"
    module_files: ClassVar[Mapping[str, str]] = {"handlers": "router"}

    def __init__(self) -> None:
        self.declared: dict[str, Declared] = {}
        # Whether this process delivers messages; None: as the settings say.
        self.delivers: bool | None = None

    def locate(self, sources: Sources, enabled: Collection[str] | None) -> Collection[str]:
        try:
            settings = read_group(MessagingSettings, sources, "MESSAGING_")
        except SettingsError:  # Reported with all other problems.
            return ()
        outside = {name for name in settings.subscribers if not has_code(sources.root, name)}
        # A broker connects the processes, without an extension that calls them.
        return outside | (with_address(sources, enabled) if settings.broker_url is not None else set())

    def check_settings(
        self, sources: Sources, groups: Sequence[SettingsGroup], elsewhere: Collection[str]
    ) -> Iterator[Fault]:
        settings = next((one for one in groups if isinstance(one, MessagingSettings)), None)
        for name in settings.subscribers if settings is not None else ():
            if sources.origin(f"{name.upper()}_URL") is None:
                problem = f"names {name}: say where it runs ({name.upper()}_URL=http://...)"
                yield Fault("MESSAGING_SUBSCRIBERS", problem)

    def check_module(self, files: ModuleFiles) -> Iterable[str]:
        return faults_of(files)

    def configure_module(self, module: DiscoveredModule, context: ModuleContext) -> None:
        self.declared[module.name] = Declared.of(module.files)

    def assemble(self, kernel: Kernel) -> None:
        settings, channel = kernel.settings.group(MessagingSettings), kernel.get(ChannelSlot).channel
        elsewhere = self._elsewhere(kernel)
        bus = MessageBus(
            [self._endpoint(kernel, name) for name in kernel.contexts],
            settings,
            kernel.settings.database,
            elsewhere,
            None if channel is None else Outbound(channel, settings.handler_timeout_seconds),
            kernel.builder.tracer,
        )
        publishers = {name.partition(".")[0] for name in bus.handlers} & kernel.settings.elsewhere.keys()
        watch = DeliveryWatch(bus, settings, channel, sorted(publishers))
        if channel is not None:
            self._join(channel, bus, watch, publishers)
        if settings.relay and settings.listen:
            kernel.builder.connections += {one.database.placement.url for one in bus.outboxes.values()}
        kernel.builder.gauges.append(BacklogGauges(bus.outboxes.values()))
        kernel.builder.provide(bus)
        kernel.builder.provide(watch)
        if bus.broker is not None:
            kernel.builder.health_checks["broker"] = bus.check_broker
        if bus.is_used:
            kernel.builder.health_checks["messages"] = watch.check

    def _join(self, channel: InternalChannel, bus: MessageBus, watch: DeliveryWatch, publishers: Iterable[str]) -> None:
        """Exchange messages with other processes over the channel."""
        channel.serve(inbound.SERVICE, bus.inbound.answer)
        channel.serve(watching.SERVICE, watch.answer)
        for name, declared in self.declared.items():
            channel.describe(name, [message.as_shared_model() for message in declared.messages])
        handlers = [handler for found in bus.handlers.values() for handler in found]
        for name in publishers:
            channel.connect(name, [message.as_shared_model() for message in handled_messages(handlers, name)])
        for name in bus.elsewhere.addresses:
            channel.connect(name)

    @asynccontextmanager
    async def serving(self, kernel: Kernel) -> AsyncIterator[None]:
        bus, watch = kernel.get(MessageBus), kernel.get(DeliveryWatch)
        delivers = kernel.settings.group(MessagingSettings).relay if self.delivers is None else self.delivers
        async with AsyncExitStack() as stack:
            if delivers:
                await stack.enter_async_context(bus.running())
            if bus.is_used:
                await stack.enter_async_context(watch.running(relays=delivers))
            yield

    def published(self) -> list[str]:
        """Return the names of the messages that the modules here declare and can publish."""
        return [
            message.message_name()
            for one in self.declared.values()
            if one.outbox is not None
            for message in one.messages
        ]

    def check_start(self, kernel: Kernel) -> Iterator[Fault]:
        bus = kernel.get(MessageBus)
        if bus.broker is None and bus.outbound is None:
            for name in bus.elsewhere.addresses:
                yield Fault(f"{name.upper()}_URL", WITHOUT_CHANNEL)
        lost = bus.lost(self.published())
        if lost and kernel.settings.group(MessagingSettings).is_local:
            _log.warning("messages without a subscriber", messages=lost, advice=WITHOUT_SUBSCRIBERS)
            return
        for name in lost:
            yield Fault(name, WITHOUT_SUBSCRIBERS)

    def _elsewhere(self, kernel: Kernel) -> Elsewhere:
        """Return the modules in other processes that could subscribe to messages of this one."""
        root = kernel.settings.root
        publishers = [name for name, one in self.declared.items() if one.outbox is not None]
        subscribers = {
            name: found
            for name, found in subscribers_elsewhere(root, kernel.contexts).items()
            if name.partition(".")[0] in publishers
        }
        addresses = kernel.settings.elsewhere
        unread = [name for name in addresses if not has_code(root, name)]
        wanted = {one.partition(".")[0] for found in subscribers.values() for one in found} | {*unread}
        if not publishers:
            return Elsewhere()
        return Elsewhere(subscribers, {name: addresses[name] for name in addresses if name in wanted}, unread)

    def _endpoint(self, kernel: Kernel, name: str) -> ModuleEndpoint:
        module, declared = kernel.contexts[name], self.declared[name]

        def context(message_id: str) -> MessageContext:
            return MessageContext(kernel, module, message_id=message_id)

        return ModuleEndpoint(name, module.database, declared.handlers, declared.outbox, declared.inbox, context)
