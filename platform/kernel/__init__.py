"""The kernel: what every module stands on. These are the names that modules use; the rest is its own business."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kernel.app import Kernel as Kernel
    from kernel.app import TheKernel as TheKernel
    from kernel.app import create_app as create_app
    from kernel.app import load_settings as load_settings
    from kernel.contracts import Contract as Contract
    from kernel.contracts import ContractError as ContractError
    from kernel.contracts import safe as safe
    from kernel.contracts import use as use
    from kernel.manifest import Module as Module
    from kernel.manifest import ModuleContext as ModuleContext
    from kernel.manifest import from_module as from_module
    from kernel.manifest import module_settings as module_settings
    from kernel.manifest import module_state as module_state
    from kernel.messaging.handlers import subscribe as subscribe
    from kernel.messaging.message import Message as Message
    from kernel.messaging.message import upcast as upcast
    from kernel.messaging.outbox import publish as publish
    from kernel.security.cache import Cache as Cache
    from kernel.security.cache import cached as cached
    from kernel.security.idempotency import IdempotencyTable as IdempotencyTable
    from kernel.security.idempotency import idempotent as idempotent
    from kernel.security.limits import limited as limited
    from kernel.security.policy import for_caller as for_caller
    from kernel.security.policy import public as public
    from kernel.security.policy import requires as requires
    from kernel.security.principal import Principal as Principal
    from kernel.settings import ModuleSettings as ModuleSettings
    from kernel.web.conditional import Conditional as Conditional
    from kernel.web.conditional import ExpectedVersions as ExpectedVersions
    from kernel.web.problems import Conflict as Conflict
    from kernel.web.problems import ContentTooLarge as ContentTooLarge
    from kernel.web.problems import InsufficientStorage as InsufficientStorage
    from kernel.web.problems import NotFound as NotFound
    from kernel.web.problems import RangeNotSatisfiable as RangeNotSatisfiable
    from kernel.web.problems import Unavailable as Unavailable
    from kernel.web.problems import Unprocessable as Unprocessable
    from kernel.web.problems import UnsupportedMediaType as UnsupportedMediaType
    from kernel.web.problems import found as found
    from kernel.web.problems import problems as problems
    from kernel.web.session import Session as Session
    from kernel.web.session import get_db as get_db
    from kernel.web.session import with_session as with_session

# Imported when first asked for: `kernel --help` loads no web framework, a repository no HTTP client.
_HOMES = {
    "Kernel": "app", "TheKernel": "app", "create_app": "app", "load_settings": "app",
    "Contract": "contracts", "ContractError": "contracts", "safe": "contracts", "use": "contracts",
    "Module": "manifest", "ModuleContext": "manifest", "from_module": "manifest",
    "module_settings": "manifest", "module_state": "manifest",
    "Message": "messaging.message", "upcast": "messaging.message",
    "publish": "messaging.outbox", "subscribe": "messaging.handlers",
    "Principal": "security.principal", "limited": "security.limits",
    "Cache": "security.cache", "cached": "security.cache",
    "IdempotencyTable": "security.idempotency", "idempotent": "security.idempotency",
    "for_caller": "security.policy", "public": "security.policy", "requires": "security.policy",
    "ModuleSettings": "settings",
    "Conditional": "web.conditional", "ExpectedVersions": "web.conditional",
    "Conflict": "web.problems", "ContentTooLarge": "web.problems", "NotFound": "web.problems",
    "InsufficientStorage": "web.problems", "RangeNotSatisfiable": "web.problems",
    "Unavailable": "web.problems", "Unprocessable": "web.problems", "UnsupportedMediaType": "web.problems",
    "found": "web.problems", "problems": "web.problems",
    "Session": "web.session", "get_db": "web.session", "with_session": "web.session",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'kernel' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"kernel.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
