"""Plants for contract-only, declared and acyclic."""

from kernel.ext.boundaries.violations import Plant, plant

_SERVICE = "modules/left/service.py"
_ROUTER = "modules/left/router.py"
_REPOSITORY = "modules/left/repository.py"
_TEST = "tests/modules/left/test_left.py"


def _hears(other: str) -> str:
    return (
        f"from kernel import subscribe\nfrom modules.{other}.contract import Gone\n\n"
        "@subscribe(Gone)\nasync def forget(message: Gone) -> None: ...\n"
    )


_HEARS_LEFT = _hears("left")


CONTRACT_ONLY = [
    plant("another's models", _REPOSITORY, "from modules.right.models import Right"),
    plant("another's repository under an alias", _SERVICE, "import modules.right.repository as r"),
    plant("another's service", _SERVICE, "from modules.right import service as other"),
    plant("another's router", _ROUTER, "import modules.right.router"),
    plant("another's manifest", "modules/left/module.py", "from modules.right.module import module as other"),
    plant("another's helper", "modules/left/words.py", "from modules.right.words import split"),
    plant("another as a whole", _SERVICE, "import modules.right"),
    plant("a star import", _SERVICE, "from modules.right.service import *"),
    plant("inside a function", _REPOSITORY, "def f():\n    from modules.right.repository import X\n"),
    plant("inside a method", _SERVICE, "class A:\n    def f(self):\n        import modules.right.models\n"),
    plant(
        "under TYPE_CHECKING",
        _SERVICE,
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from modules.right.models import Right\n",
    ),
    plant(
        "after a failure", _SERVICE, "try:\n    import left\nexcept ImportError:\n    import modules.right.service\n"
    ),
    plant("a relative import", _REPOSITORY, "from ..right import models as m"),
    plant("a relative import of a name", _REPOSITORY, "from ..right.models import Right as R"),
    plant("many names in one import", _SERVICE, "from modules.right import (\n    contract,\n    models,\n)"),
    plant("from the package of all modules", _SERVICE, "from modules import right"),
    plant("through the package of all modules", "modules/__init__.py", "from modules.right import models"),
    plant("by importlib", _SERVICE, 'import importlib\nX = importlib.import_module("modules.right.models")'),
    plant("by an alias of it", _SERVICE, 'from importlib import import_module as i\nX = i("modules.right.models")'),
    plant("by __import__", _SERVICE, 'X = __import__("modules.right.models")'),
    plant(
        "by a name in parts",
        _SERVICE,
        'import importlib\nX = importlib.import_module("modules." + "right" + ".models")',
    ),
    plant(
        "by an f-string",
        _SERVICE,
        'import importlib\nOTHER = "right"\nX = importlib.import_module(f"modules.{OTHER}.models")',
    ),
    plant(
        "by a relative name",
        _SERVICE,
        'from importlib import import_module\nX = import_module("..right.models", __package__)',
    ),
    plant(
        "by another name for it",
        _SERVICE,
        'import importlib\nload = importlib.import_module\nX = load("modules.right.models")',
    ),
    plant("by a keyword", _SERVICE, 'import importlib\nX = importlib.import_module(name="modules.right.models")'),
    plant("as a plugin of its tests", _TEST, 'pytest_plugins = ["modules.right.service"]'),
    plant("out of sys.modules", _SERVICE, 'import sys\nX = sys.modules["modules.right.models"]'),
    plant("by pkgutil", _SERVICE, 'import pkgutil\nX = pkgutil.resolve_name("modules.right.models:Right")'),
    plant("through an attribute", _SERVICE, "import modules.right.contract\nX = modules.right.models.Right"),
    plant(
        "through another attribute",
        _ROUTER,
        "import modules.right.contract as c\nimport modules\nX = modules.right.service",
    ),
    plant("from a test of another module", _TEST, "from modules.right.models import Right"),
    plant("from inside such a test", _TEST, "def test_x():\n    from modules.right import repository\n"),
    plant(
        "replaced in a test",
        _TEST,
        'def test_y(monkeypatch):\n    monkeypatch.setattr("modules.right.service.words", 1)\n',
    ),
    plant(
        "patched in a test",
        _TEST,
        'from unittest import mock\n\ndef test_z():\n    mock.patch("modules.right.service.Answers")\n',
    ),
    plant(
        "many replaced in a test",
        _TEST,
        'from unittest.mock import patch\n\ndef test_m():\n    patch.multiple("modules.right.service", Answers=1)\n',
    ),
    plant("through the other's tests", _TEST, "from tests.modules.right.test_right import Right"),
    plant("from a migration", "migrations/left/0001_first.py", "from modules.right.models import Right"),
]
INNOCENT_CONTRACT_ONLY = [
    plant("a value of the contract", _ROUTER, "from modules.right.contract import Info as RightInfo"),
    plant(
        "the contract in a function",
        _SERVICE,
        "def f():\n    import modules.right.contract as right\n    return right\n",
    ),
    plant("the contract, relative", "modules/left/handlers.py", "from ..right import contract"),
    plant("its name in a comment", _SERVICE, "# from modules.right.models import Right"),
    plant(
        "its name in a docstring", "modules/left/schemas.py", 'def f():\n    """Not `import modules.right.models`."""\n'
    ),
    plant("its name in a message", _SERVICE, 'TEXT = "see modules.right.models for the rows"'),
    plant("its name as a logger", _SERVICE, 'import structlog\nLOG = structlog.get_logger("modules.right")'),
    plant("a local name", _SERVICE, "def f(right):\n    return right.models\n"),
    plant("a local name that is modules", _SERVICE, "def f(modules):\n    return modules.right.models\n"),
    Plant(
        "a test's helper that reaches nothing",
        {"tests/modules/right/data.py": "X = 1", _TEST: "from tests.modules.right.data import X"},
    ),
    plant(
        "the contract by importlib", _SERVICE, 'import importlib\nX = importlib.import_module("modules.right.contract")'
    ),
    plant("an attribute of the contract", _SERVICE, "import modules.right.contract\nX = modules.right.contract.Info"),
    plant("another's contract in a test", _TEST, "from modules.right.contract import Info"),
    plant("one's own models in a test", _TEST, "from modules.left import models, repository"),
    plant(
        "one's own, replaced in a test",
        _TEST,
        'def test_a(monkeypatch):\n    monkeypatch.setattr("modules.left.service.words", 1)\n',
    ),
    plant(
        "a library of that name",
        _SERVICE,
        "from xml.dom import minidom as right\n\ndef f():\n    return right.models\n",
    ),
]

DECLARED = [
    plant("used and not declared", "modules/left/module.py", ('depends_on={"right"}, ', ""), at=_ROUTER),
    plant(
        "declared and not used",
        "modules/left/router.py",
        ("\nfrom modules.right.contract import Things as OtherThings\n", ""),
        at="modules/left/module.py",
    ),
    plant("declared and not there", "modules/left/module.py", ('{"right"}', '{"right", "rihgt"}')),
    plant(
        "used in a function only",
        "modules/right/words.py",
        "def f():\n    from modules.left.contract import Info\n",
        "acyclic",
    ),
    plant(
        "used by name",
        "modules/right/words.py",
        'import importlib\nX = importlib.import_module("modules.left.contract")',
        "acyclic",
    ),
    plant("a message of a module that is not declared", "modules/right/handlers.py", _HEARS_LEFT, "acyclic"),
]
INNOCENT_DECLARED = [
    plant("a frozenset", "modules/left/module.py", ('{"right"}', 'frozenset({"right"})')),
    plant("a list", "modules/left/module.py", ('{"right"}', '["right"]')),
    plant("used twice", _SERVICE, "from modules.right.contract import Info as Other"),
    plant("its name in a set that is none of the manifest", _SERVICE, 'depends_on = {"middle"}'),
    plant("a message of one that is declared", "modules/left/handlers.py", _hears("right")),
    plant(
        "a subscription of another library", "modules/right/words.py", 'def f(mqtt):\n    mqtt.subscribe("left.gone")\n'
    ),
]

_MIDDLE = {
    "modules/middle/__init__.py": '"""Between."""',
    "modules/middle/module.py": 'from kernel import Module\n\nmodule = Module(owner="middle", depends_on={"left"})',
    "modules/middle/service.py": "from modules.left.contract import Things",
}
ACYCLIC = [
    Plant(
        "contracts both ways",
        {
            "modules/right/service.py": "from modules.left.contract import Info as LeftInfo",
            "modules/right/module.py": ("Module(", 'Module(depends_on={"left"}, '),
        },
    ),
    Plant(
        "between contracts",
        {
            "modules/right/contract.py": "from modules.left.contract import Info as LeftInfo",
            "modules/right/module.py": ("Module(", 'Module(depends_on={"left"}, '),
            "modules/left/contract.py": "from modules.right.contract import Info as RightInfo",
        },
        at="modules/right/contract.py",
    ),
    plant("declared both ways", "modules/right/module.py", ("Module(", 'Module(depends_on={"left"}, '), "declared"),
    Plant(
        "heard of both ways",
        {
            "modules/left/handlers.py": _hears("right"),
            "modules/right/handlers.py": _HEARS_LEFT,
            "modules/right/module.py": ("Module(", 'Module(depends_on={"left"}, '),
        },
        at="modules/right/handlers.py",
    ),
    Plant(
        "three in a ring",
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
INNOCENT_ACYCLIC = [
    plant(
        "the same direction twice", "modules/left/handlers.py", "from modules.right.contract import Gone as RightGone"
    ),
    plant("a circle in words", "modules/right/service.py", "# left asks right, and right asks left"),
    plant("a class of the same name", "modules/right/service.py", "class Left:\n    pass\n"),
]
