"""Fakes of other modules, made from their contracts. Arguments and answers are passed as over a network."""

import inspect
from collections.abc import Callable, Iterable
from typing import Any, NoReturn, get_type_hints

from pydantic import TypeAdapter

from kernel.modules.contracts import CallRule, Contract, ContractUnavailable, home_of, is_declared, methods_of

# A fake applies the same rule about calls in transactions as a real module.
_RULE = CallRule(is_strict=True)


class FakeMisused(AssertionError):
    """A fake was called, or given an answer, in a way that its contract does not allow."""


class FakeMethod:
    """One method of a fake: its answer and its calls."""

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
        # The arguments of each call so far, by name, including defaults.
        self.calls: list[dict[str, Any]] = []

    def answers(self, value: object) -> None:
        """Return a copy of this value from now on. Raises FakeMisused if the contract does not allow it."""
        copy = self._crossed("its answer", self._result, value)
        self._answer = lambda **_: copy

    def raises(self, error: Exception) -> None:
        """Raise this error from now on.

        Raises FakeMisused unless it is ContractUnavailable or declared by the contract.
        """
        if not self._is_declared(error):
            raise FakeMisused(
                f"{self._name} cannot raise {type(error).__name__}: only ContractUnavailable and the "
                f"ContractErrors that {home_of(self._contract)} defines reach the caller."
            )

        def fail(**_: object) -> NoReturn:
            raise error

        self._answer = fail

    def does(self, function: Callable[..., Any]) -> None:
        """Call this function, which may be `async`, with the arguments by name. Raises TypeError if it takes others."""
        inspect.signature(function).bind(**self._arguments)
        self._answer = function

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Answer a module with copies of values. Raises FakeMisused for a call that the contract does not allow."""
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
                f"{self._name}({asked}) has no answer. Set one: fakes[{contract}].{name}.answers(<{self._result_name}>)"
            ) from None

    def _crossed(self, what: str, type_: TypeAdapter[Any], value: object) -> Any:
        """Return the value as it would arrive over a network: a copy of the annotated type."""
        try:
            return type_.validate_json(type_.dump_json(value, by_alias=True, warnings="error"))
        except ValueError as error:  # pydantic's errors, for values that it refuses or cannot serialise.
            raise FakeMisused(
                f"{self._name}: {what} is {value!r}, which its contract does not allow. {error}"
            ) from None

    def _is_declared(self, error: Exception) -> bool:
        return isinstance(error, ContractUnavailable) or is_declared(type(error), self._contract)


class Fake:
    """The fake of a contract; its attributes are the contract's methods."""

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
            f"{contract.__name__} is no fake here: its module runs, or no module depends on it. Fakes: {there}."
        )

    def clients(self) -> dict[type[Contract], Contract]:
        """Return the clients that `use(...)` returns in place of the real ones."""
        return {
            contract: type(f"Fake{contract.__name__}", (contract,), dict(fake._methods))()
            for contract, fake in self.items()
        }

    def verify(self) -> None:
        """Raise FakeMisused if a fake was called wrongly, even if the application turned the error into a 500."""
        if self._faults:
            raise FakeMisused("\n".join(map(str, self._faults))) from self._faults[0]
