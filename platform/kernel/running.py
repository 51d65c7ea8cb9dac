"""The application that runs in this process, for code to which none was given."""

from collections.abc import Callable
from functools import partial
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar
from weakref import WeakSet

Owner = TypeVar("Owner")
Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

# Each has the attributes `pool` and `http`. A kernel is in it from its start to its stop.
RUNNING: WeakSet[Any] = WeakSet()


class NoSingleApplication(RuntimeError):
    """No application runs in this process, or several do."""


class OnClassToo(Generic[Owner, Parameters, Result]):
    """A method that, called on its class, is that of the running application's object."""

    def __init__(self, method: Callable[Concatenate[Owner, Parameters], Result], attribute: str) -> None:
        """`attribute` names that object: `pool` or `http`."""
        self._method = method
        self._attribute = attribute
        self.__doc__ = method.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = f"{owner.__name__}.{name}"

    def __get__(self, instance: Owner | None, owner: type[Owner]) -> Callable[Parameters, Result]:
        return partial(self._method, self._of_application() if instance is None else instance)

    def _of_application(self) -> Any:
        """Raises NoSingleApplication."""
        if len(RUNNING) != 1:
            raise NoSingleApplication(
                f"{self._name}() on the class needs exactly one running application; {len(RUNNING)} run in this "
                f"process. Call it on the application's own object: app.kernel.{self._attribute}"
            )
        return getattr(next(iter(RUNNING)), self._attribute)
