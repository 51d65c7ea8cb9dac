"""The kernel: what every module stands on. These are the names that modules use; the rest is its own business."""

from typing import TYPE_CHECKING

from kernel.lazy import lazy_names

if TYPE_CHECKING:
    from kernel.application import create_app as create_app
    from kernel.auth.policy import for_caller as for_caller
    from kernel.auth.policy import public as public
    from kernel.auth.policy import requires as requires
    from kernel.auth.principal import Principal as Principal
    from kernel.modules.contracts import Contract as Contract
    from kernel.modules.contracts import ContractError as ContractError
    from kernel.modules.contracts import safe as safe
    from kernel.modules.contracts import use as use
    from kernel.modules.manifest import Module as Module
    from kernel.modules.manifest import ModuleContext as ModuleContext
    from kernel.modules.manifest import from_module as from_module
    from kernel.project import load_settings as load_settings
    from kernel.runtime import Kernel as Kernel
    from kernel.runtime import TheKernel as TheKernel
    from kernel.settings import ModuleSettings as ModuleSettings
    from kernel.web.conditional import Conditional as Conditional
    from kernel.web.conditional import ExpectedVersions as ExpectedVersions
    from kernel.web.context import Session as Session
    from kernel.web.context import get_db as get_db
    from kernel.web.context import with_session as with_session
    from kernel.web.problems import Conflict as Conflict
    from kernel.web.problems import ContentTooLarge as ContentTooLarge
    from kernel.web.problems import NotFound as NotFound
    from kernel.web.problems import Unavailable as Unavailable
    from kernel.web.problems import Unprocessable as Unprocessable
    from kernel.web.problems import or_404 as or_404
    from kernel.web.problems import problems as problems

# Imported when first asked for: `kernel --help` loads no web framework, a repository no HTTP client.
_HOMES = {
    "Conditional": "web.conditional", "ExpectedVersions": "web.conditional",
    "Kernel": "runtime", "TheKernel": "runtime", "create_app": "application", "load_settings": "project",
    "Contract": "modules.contracts", "ContractError": "modules.contracts",
    "safe": "modules.contracts", "use": "modules.contracts",
    "Module": "modules.manifest", "ModuleContext": "modules.manifest", "from_module": "modules.manifest",
    "Principal": "auth.principal",
    "for_caller": "auth.policy", "public": "auth.policy", "requires": "auth.policy",
    "ModuleSettings": "settings",
    "Conflict": "web.problems", "ContentTooLarge": "web.problems", "NotFound": "web.problems",
    "Unavailable": "web.problems", "Unprocessable": "web.problems",
    "or_404": "web.problems", "problems": "web.problems",
    "Session": "web.context", "get_db": "web.context", "with_session": "web.context",
}  # fmt: skip

__getattr__ = lazy_names(__name__, _HOMES)
