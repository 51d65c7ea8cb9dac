"""Cases for contract-only, declared and acyclic."""

from kernel.ext.boundaries.violations import Case, edit

_SERVICE = "modules/left/service.py"
_ROUTER = "modules/left/router.py"
_REPOSITORY = "modules/left/repository.py"
_TEST = "tests/modules/left/test_left.py"


def _hears(other: str) -> str:
    return (
        f"from kernel.ext.messaging import subscribe\nfrom modules.{other}.contract import Gone\n\n"
        "@subscribe(Gone)\nasync def forget(message: Gone) -> None: ...\n"
    )


_HEARS_LEFT = _hears("left")


CONTRACT_ONLY = [
    edit("another's models", _REPOSITORY, "from modules.right.models import Right"),
    edit("another's repository under an alias", _SERVICE, "import modules.right.repository as r"),
    edit("another's service", _SERVICE, "from modules.right import service as other"),
    edit("another's router", _ROUTER, "import modules.right.router"),
    edit("another's manifest", "modules/left/module.py", "from modules.right.module import module as other"),
    edit("another's helper", "modules/left/words.py", "from modules.right.words import split"),
    edit("another as a whole", _SERVICE, "import modules.right"),
    edit("a star import", _SERVICE, "from modules.right.service import *"),
    edit("inside a function", _REPOSITORY, "def f():\n    from modules.right.repository import X\n"),
    edit("inside a method", _SERVICE, "class A:\n    def f(self):\n        import modules.right.models\n"),
    edit(
        "under TYPE_CHECKING",
        _SERVICE,
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from modules.right.models import Right\n",
    ),
    edit("after a failure", _SERVICE, "try:\n    import left\nexcept ImportError:\n    import modules.right.service\n"),
    edit("a relative import", _REPOSITORY, "from ..right import models as m"),
    edit("a relative import of a name", _REPOSITORY, "from ..right.models import Right as R"),
    edit("many names in one import", _SERVICE, "from modules.right import (\n    contract,\n    models,\n)"),
    edit("from the package of all modules", _SERVICE, "from modules import right"),
    edit("through the package of all modules", "modules/__init__.py", "from modules.right import models"),
    edit("by importlib", _SERVICE, 'import importlib\nX = importlib.import_module("modules.right.models")'),
    edit("by an alias of it", _SERVICE, 'from importlib import import_module as i\nX = i("modules.right.models")'),
    edit("by __import__", _SERVICE, 'X = __import__("modules.right.models")'),
    edit(
        "by a name in parts",
        _SERVICE,
        'import importlib\nX = importlib.import_module("modules." + "right" + ".models")',
    ),
    edit(
        "by an f-string",
        _SERVICE,
        'import importlib\nOTHER = "right"\nX = importlib.import_module(f"modules.{OTHER}.models")',
    ),
    edit(
        "by a relative name",
        _SERVICE,
        'from importlib import import_module\nX = import_module("..right.models", __package__)',
    ),
    edit(
        "by another name for it",
        _SERVICE,
        'import importlib\nload = importlib.import_module\nX = load("modules.right.models")',
    ),
    edit("by a keyword", _SERVICE, 'import importlib\nX = importlib.import_module(name="modules.right.models")'),
    edit("as a plugin of its tests", _TEST, 'pytest_plugins = ["modules.right.service"]'),
    edit("out of sys.modules", _SERVICE, 'import sys\nX = sys.modules["modules.right.models"]'),
    edit("by pkgutil", _SERVICE, 'import pkgutil\nX = pkgutil.resolve_name("modules.right.models:Right")'),
    edit("through an attribute", _SERVICE, "import modules.right.contract\nX = modules.right.models.Right"),
    edit(
        "through another attribute",
        _ROUTER,
        "import modules.right.contract as c\nimport modules\nX = modules.right.service",
    ),
    edit("from a test of another module", _TEST, "from modules.right.models import Right"),
    edit("from inside such a test", _TEST, "def test_x():\n    from modules.right import repository\n"),
    edit(
        "replaced in a test",
        _TEST,
        'def test_y(monkeypatch):\n    monkeypatch.setattr("modules.right.service.words", 1)\n',
    ),
    edit(
        "patched in a test",
        _TEST,
        'from unittest import mock\n\ndef test_z():\n    mock.patch("modules.right.service.Answers")\n',
    ),
    edit(
        "many replaced in a test",
        _TEST,
        'from unittest.mock import patch\n\ndef test_m():\n    patch.multiple("modules.right.service", Answers=1)\n',
    ),
    edit("through the other's tests", _TEST, "from tests.modules.right.test_right import Right"),
    edit("from a migration", "migrations/left/0001_first.py", "from modules.right.models import Right"),
]
VALID_CONTRACT_ONLY = [
    edit("a value of the contract", _ROUTER, "from modules.right.contract import Info as RightInfo"),
    edit(
        "the contract in a function",
        _SERVICE,
        "def f():\n    import modules.right.contract as right\n    return right\n",
    ),
    edit("the contract, relative", "modules/left/handlers.py", "from ..right import contract"),
    edit("its name in a comment", _SERVICE, "# from modules.right.models import Right"),
    edit(
        "its name in a docstring", "modules/left/schemas.py", 'def f():\n    """Not `import modules.right.models`."""\n'
    ),
    edit("its name in a message", _SERVICE, 'TEXT = "see modules.right.models for the rows"'),
    edit("its name as a logger", _SERVICE, 'import structlog\nLOG = structlog.get_logger("modules.right")'),
    edit("a local name", _SERVICE, "def f(right):\n    return right.models\n"),
    edit("a local name that is modules", _SERVICE, "def f(modules):\n    return modules.right.models\n"),
    Case(
        "a test's helper that reaches nothing",
        {"tests/modules/right/data.py": "X = 1", _TEST: "from tests.modules.right.data import X"},
    ),
    edit(
        "the contract by importlib", _SERVICE, 'import importlib\nX = importlib.import_module("modules.right.contract")'
    ),
    edit("an attribute of the contract", _SERVICE, "import modules.right.contract\nX = modules.right.contract.Info"),
    edit("another's contract in a test", _TEST, "from modules.right.contract import Info"),
    edit("the module's own models in a test", _TEST, "from modules.left import models, repository"),
    edit(
        "the module's own, replaced in a test",
        _TEST,
        'def test_a(monkeypatch):\n    monkeypatch.setattr("modules.left.service.words", 1)\n',
    ),
    edit(
        "a library of that name",
        _SERVICE,
        "from xml.dom import minidom as right\n\ndef f():\n    return right.models\n",
    ),
]

DECLARED = [
    edit("used but not declared", "modules/left/module.py", ('depends_on={"right"}, ', ""), at=_ROUTER),
    edit(
        "declared but not used",
        "modules/left/router.py",
        ("\nfrom modules.right.contract import Things as OtherThings\n", ""),
        at="modules/left/module.py",
    ),
    edit("declared but missing", "modules/left/module.py", ('{"right"}', '{"right", "rihgt"}')),
    edit(
        "used in a function only",
        "modules/right/words.py",
        "def f():\n    from modules.left.contract import Info\n",
        "acyclic",
    ),
    edit(
        "used by name",
        "modules/right/words.py",
        'import importlib\nX = importlib.import_module("modules.left.contract")',
        "acyclic",
    ),
    edit("a message of a module that is not declared", "modules/right/handlers.py", _HEARS_LEFT, "acyclic"),
]
VALID_DECLARED = [
    edit("a frozenset", "modules/left/module.py", ('{"right"}', 'frozenset({"right"})')),
    edit("a list", "modules/left/module.py", ('{"right"}', '["right"]')),
    edit("used twice", _SERVICE, "from modules.right.contract import Info as Other"),
    edit("its name in a set outside the manifest", _SERVICE, 'depends_on = {"middle"}'),
    edit("a message of one that is declared", "modules/left/handlers.py", _hears("right")),
    edit(
        "a subscription of another library", "modules/right/words.py", 'def f(mqtt):\n    mqtt.subscribe("left.gone")\n'
    ),
]

_MIDDLE = {
    "modules/middle/__init__.py": '"""Between."""',
    "modules/middle/module.py": 'from kernel import Module\n\nmodule = Module(owner="middle", depends_on={"left"})',
    "modules/middle/service.py": "from modules.left.contract import Things",
}
ACYCLIC = [
    Case(
        "contracts in both directions",
        {
            "modules/right/service.py": "from modules.left.contract import Info as LeftInfo",
            "modules/right/module.py": ("Module(", 'Module(depends_on={"left"}, '),
        },
    ),
    Case(
        "between contracts",
        {
            "modules/right/contract.py": "from modules.left.contract import Info as LeftInfo",
            "modules/right/module.py": ("Module(", 'Module(depends_on={"left"}, '),
            "modules/left/contract.py": "from modules.right.contract import Info as RightInfo",
        },
        at="modules/right/contract.py",
    ),
    edit(
        "declared in both directions",
        "modules/right/module.py",
        ("Module(", 'Module(depends_on={"left"}, '),
        "declared",
    ),
    Case(
        "messages in both directions",
        {
            "modules/left/handlers.py": _hears("right"),
            "modules/right/handlers.py": _HEARS_LEFT,
            "modules/right/module.py": ("Module(", 'Module(depends_on={"left"}, '),
        },
        at="modules/right/handlers.py",
    ),
    Case(
        "a cycle of three",
        {
            "modules/right/service.py": "from modules.middle.contract import Things as X",
            "modules/right/module.py": ("Module(", 'Module(depends_on={"middle"}, '),
            "modules/middle/contract.py": '"""Nothing yet."""',
            **_MIDDLE,
        },
        also=frozenset({"owned"}),
        at="",
    ),
]
VALID_ACYCLIC = [
    edit(
        "the same direction twice", "modules/left/handlers.py", "from modules.right.contract import Gone as RightGone"
    ),
    edit("a cycle in a comment", "modules/right/service.py", "# left asks right, and right asks left"),
    edit("a class of the same name", "modules/right/service.py", "class Left:\n    pass\n"),
]
