"""A mypy plugin that types the columns of `BaseRepository.create` and `update` by the repository's model.

`plugins = ["pydantic.mypy", "platform/kernel/testing/mypy_plugin.py"]` in pyproject.toml. Then the type checker reports
a column that the model does not have, and a value of another type.
"""

from collections.abc import Callable, Iterator
from functools import partial

from mypy.maptype import map_instance_to_supertype
from mypy.nodes import ARG_NAMED_OPT, ARG_STAR2, TypeInfo, Var
from mypy.plugin import MethodSigContext, Plugin
from mypy.types import AnyType, FunctionLike, Instance, Type, TypeOfAny, UnionType, get_proper_type

_REPOSITORY = "kernel.database.repository.BaseRepository"
_METHODS = ("create", "update")
_MAPPED = "sqlalchemy.orm.base.Mapped"
# The base class of every SQL expression, such as `Model.count + 1`.
_EXPRESSION = ".SQLCoreOperations"


class KernelPlugin(Plugin):
    """Types the keywords of a repository's methods."""

    def get_method_signature_hook(self, fullname: str) -> Callable[[MethodSigContext], FunctionLike] | None:
        """Return a hook for each call of a method, given with the name of the object's own class."""
        name = fullname.rpartition(".")[2]
        return partial(_with_columns, name) if name in _METHODS else None


def _with_columns(name: str, context: MethodSigContext) -> FunctionLike:
    """Return the signature with a keyword for each column in place of `**values`."""
    signature = context.default_signature
    repository = get_proper_type(context.type)
    if ARG_STAR2 not in signature.arg_kinds or not isinstance(repository, Instance):
        return signature
    base = repository.type.get_containing_type_info(name)
    if base is None or base.fullname != _REPOSITORY:
        return signature  # A method of another class, or one that a repository overrides.
    model = get_proper_type(map_instance_to_supertype(repository, base).args[0])
    if not isinstance(model, Instance):
        return signature  # Inside of a generic class.
    last = signature.arg_kinds.index(ARG_STAR2)
    own = set(signature.arg_names)
    columns = {name: kind for name, kind in _columns(model.type) if name not in own}
    return signature.copy_modified(
        arg_types=[*signature.arg_types[:last], *columns.values()],
        arg_kinds=[*signature.arg_kinds[:last], *(ARG_NAMED_OPT for _ in columns)],
        arg_names=[*signature.arg_names[:last], *columns],
    )


def _columns(model: TypeInfo) -> Iterator[tuple[str, Type]]:
    for info in reversed(model.mro):
        for name, symbol in info.names.items():
            kind = get_proper_type(symbol.node.type) if isinstance(symbol.node, Var) else None
            if isinstance(kind, Instance) and kind.type.fullname == _MAPPED:
                expressions = (one for one in kind.type.mro if one.fullname.endswith(_EXPRESSION))
                wild = [Instance(one, [AnyType(TypeOfAny.special_form)]) for one in expressions]
                yield name, UnionType([kind.args[0], *wild])


def plugin(version: str) -> type[Plugin]:  # mypy calls it with its version.
    """Return the plugin class, which mypy creates."""
    return KernelPlugin
