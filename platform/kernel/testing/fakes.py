"""Fakes of other modules, made from their contracts: they take and give only what would cross a network."""

import inspect
from collections.abc import Callable, Iterable
from typing import Any, NoReturn, get_type_hints

from pydantic import TypeAdapter

from kernel.modules.contracts import CallRule, Contract, ContractUnavailable, home_of, is_declared, methods_of

# A fake is asked as late or as early as the module would be.
_RULE = CallRule(is_strict=True)


class FakeMisused(AssertionError):
    """A fake was asked, or told to answer, what its contract does not allow."""


class FakeMethod:
    """One method of a fake: what it answers and how it was asked."""

    def __init__(self, contract: type[Contract], name: str, faults: list[Exception]) -> None:
        method = methods_of(contract)[name]
        types = {value: TypeAdapter(type_) for value, type_ in get_type_hints(method, include_extras=True).items()}
        self._name = f"{contract.__name__}.{name}"
        self._contract = contract
        self._result_name = inspect.formatannotation(inspect.signature(method).return_annotation)
        self._result = types.pop("return")
        self._arguments = types
        self._signature = inspect.signature(method)
        self._faults = faults
        self._answer: Callable[..., Any] = self._nothing
        # The arguments of each call so far, by name, defaults included.
        self.calls: list[dict[str, Any]] = []

    def answers(self, value: object) -> None:
        """Answer this from now on. Raises FakeMisused if the contract does not allow it."""
        copy = self._crossed("its answer", self._result, value)
        self._answer = lambda **_: copy

    def raises(self, error: Exception) -> None:
        """Raise this from now on. Raises FakeMisused if it is neither ContractUnavailable nor of the contract's own."""
        if not self._is_declared(error):
            raise FakeMisused(
                f"{self._name} cannot raise {type(error).__name__}: only ContractUnavailable and the "
                f"ContractErrors that stand in {home_of(self._contract)} reach whoever asks."
            )

        def fail(**_: object) -> NoReturn:
            raise error

        self._answer = fail

    def does(self, function: Callable[..., Any]) -> None:
        """Answer by calling this with the arguments by name; it may be `async`. Raises TypeError if it takes others."""
        inspect.signature(function).bind(**self._arguments)
        self._answer = function

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What a module gets that asks: copies in, copies out, and nothing that the contract does not say."""
        await _RULE.before(self._name)
        try:
            bound = self._signature.bind(None, *args, **kwargs)
            bound.apply_defaults()
            arguments = {
                name: self._crossed(name, type_, bound.arguments[name]) for name, type_ in self._arguments.items()
            }
            self.calls.append(arguments)
            answer = self._answer(**arguments)
            return self._crossed("its answer", self._result, await answer if inspect.isawaitable(answer) else answer)
        except Exception as error:
            if not self._is_declared(error):
                self._faults.append(error)
            raise

    def _nothing(self, **arguments: object) -> None:
        try:
            self._result.validate_python(None, strict=True)
        except ValueError:
            asked = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
            contract, _, name = self._name.partition(".")
            raise FakeMisused(
                f"{self._name}({asked}) has no answer. Say one: fakes[{contract}].{name}.answers(<{self._result_name}>)"
            ) from None

    def _crossed(self, what: str, type_: TypeAdapter[Any], value: object) -> Any:
        """The value as it would arrive over a network: a copy that is of the annotated type."""
        try:
            return type_.validate_json(type_.dump_json(value, by_alias=True, warnings="error"))
        except ValueError as error:  # pydantic's, for what it refuses and for what it cannot serialise
            raise FakeMisused(
                f"{self._name}: {what} is {value!r}, which its contract does not allow. {error}"
            ) from None

    def _is_declared(self, error: Exception) -> bool:
        return isinstance(error, ContractUnavailable) or is_declared(type(error), self._contract)


class Fake:
    """What stands in for the module that provides a contract; its attributes are the contract's methods."""

    def __init__(self, contract: type[Contract], faults: list[Exception]) -> None:
        self._contract = contract
        self._methods = {name: FakeMethod(contract, name, faults) for name in methods_of(contract)}

    def __getattr__(self, name: str) -> FakeMethod:
        if name in self._methods:
            return self._methods[name]
        raise AttributeError(f"{self._contract.__name__} has no method {name}. It has: {', '.join(self._methods)}.")


class Fakes(dict[type[Contract], Fake]):
    """The fakes of one application, by contract: `fakes[Images].get.answers(None)`."""

    def __init__(self, contracts: Iterable[type[Contract]] = ()) -> None:
        self._faults: list[Exception] = []
        super().__init__({contract: Fake(contract, self._faults) for contract in contracts})

    def __missing__(self, contract: type[Contract]) -> NoReturn:
        there = ", ".join(one.__name__ for one in self) or "none"
        raise LookupError(
            f"{contract.__name__} is no fake here. Either its module runs, or nobody depends on it. Fakes: {there}."
        )

    def clients(self) -> dict[type[Contract], Contract]:
        """What `use(...)` gives instead of the modules."""
        return {
            contract: type(f"Fake{contract.__name__}", (contract,), dict(fake._methods))()
            for contract, fake in self.items()
        }

    def verify(self) -> None:
        """Raises FakeMisused if a fake was asked what it could not be: the application may have made a 500 of that."""
        if self._faults:
            raise FakeMisused("\n".join(map(str, self._faults))) from self._faults[0]
