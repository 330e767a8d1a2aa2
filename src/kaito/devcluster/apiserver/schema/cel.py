"""CEL expressions over JSON values, with the parts of the Kubernetes library that rules of custom resources use.

The engine sits behind ``Program`` alone. Cost budgets and schema-typed checking are not modelled: ``self`` is dynamic,
or a timestamp or duration as a whole. Inside objects these stay strings, on which ``timestamp()`` and ``duration()`` work.
Of the library, ``ip``, ``cidr``, ``format``, ``sets`` and ``indexOf`` on lists are missing; a rule that uses them does
not compile, so its CRD is refused.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import cache
from itertools import pairwise
from typing import Any, Final
from urllib.parse import urlsplit

import re2

from kaito.devcluster.apiserver.schema.formats import QUANTITY

_SUFFIXES: Final = {
    "n": Fraction(1, 10**9),
    "u": Fraction(1, 10**6),
    "m": Fraction(1, 10**3),
    "": Fraction(1),
    **{suffix: Fraction(1000**power) for power, suffix in enumerate("kMGTPE", 1)},
    **{f"{suffix}i": Fraction(1024**power) for power, suffix in enumerate("KMGTPE", 1)},
}
Quantity = Mapping[str, str]
"""A quantity as a tagged map, since the engine cannot return opaque values; equal maps are equal amounts."""


RULE_VARIABLES = ("self", "oldSelf", "priorSelf")
"""Of the rules of a schema."""


class CelError(ValueError):
    """An expression that does not compile, or whose evaluation fails; the text says why."""


class Program:
    """A compiled expression. ``variables`` of an evaluation are JSON values, timestamps and durations."""

    def __init__(
        self, expression: str, *, returns: str = "bool", subject: str = "dyn", names: tuple[str, ...] = RULE_VARIABLES
    ) -> None:
        """``subject`` is the type of the variables ``names``: ``dyn``, ``timestamp`` or ``duration``.

        Raises CelError when the expression does not compile, or cannot be of type ``returns``.
        """
        environment = _environment(subject, names)
        try:
            self._compiled = environment.compile(expression)
        except RuntimeError as error:
            raise CelError(_first_line(error)) from error
        found = self._compiled.return_type().name().lower()
        if found not in (returns, "dyn"):
            raise CelError(f"must evaluate to {returns}, not {found}")
        self._returns = returns

    def evaluate(self, variables: Mapping[str, Any]) -> Any:
        """The value, of the declared type. Raises CelError when evaluation fails."""
        result = self._compiled.eval(data=dict(variables))
        kind = result.type().name().lower()
        if kind == "error":
            raise CelError(str(result.plain_value()).partition(": ")[2])
        if kind != self._returns:
            raise CelError(f"evaluated to {kind}, not {self._returns}")
        return result.plain_value()


def _first_line(error: RuntimeError) -> str:
    return str(error).splitlines()[0].removeprefix("INVALID_ARGUMENT: ")


def parse_quantity(text: str) -> Fraction:
    """Raises ValueError for text that is no quantity."""
    if not QUANTITY.match(text):
        raise ValueError(f"{text!r} is not a quantity")
    if "e" in text or ("E" in text and not text.endswith(("E", "Ei"))):
        return Fraction(text)
    digits = text.rstrip("numkKMGTPEi")
    return Fraction(digits) * _SUFFIXES[text[len(digits) :]]


def _quantity(text: str) -> Quantity:
    return _tagged(parse_quantity(text))


def _tagged(amount: Fraction) -> Quantity:
    return {"quantity": str(amount)}


def _amount(value: Quantity | int) -> Fraction:
    return Fraction(value) if isinstance(value, int) else Fraction(_plain(value["quantity"]))


def _plain(value: Any) -> Any:
    """A value of the engine as Python has it; elements of containers reach callbacks wrapped."""
    if hasattr(value, "plain_value"):
        return value.plain_value()
    return value


def _integer(value: Quantity) -> int:
    amount = _amount(value)
    if amount.denominator != 1:
        raise ValueError(f"quantity {amount} is not an integer")
    return int(amount)


def _url(text: str) -> Mapping[str, str]:
    parts = urlsplit(text)
    if not parts.scheme and not text.startswith("/"):
        raise ValueError(f"URL parse error: {text!r} is neither absolute nor a path")
    host = f"[{parts.hostname}]" if parts.hostname and ":" in parts.hostname else parts.hostname or ""
    return {
        "scheme": parts.scheme,
        "hostname": parts.hostname or "",
        "port": str(parts.port or ""),
        "host": f"{host}:{parts.port}" if parts.port else host,
        "path": parts.path,
    }


def _succeeds(parse: Callable[[str], Any]) -> Callable[[str], bool]:
    def check(text: str) -> bool:
        try:
            parse(text)
        except ValueError:
            return False
        return True

    return check


def _is_cidr(text: str) -> Any:
    if "/" not in text:
        raise ValueError("no prefix length")
    return ipaddress.ip_network(text, strict=False)


def _find(text: str, pattern: str) -> str:
    match = re2.search(pattern, text)
    return str(match.group(0)) if match else ""


def _find_all(text: str, pattern: str) -> list[str]:
    return [str(match.group(0)) for match in re2.finditer(pattern, text)]


def _items(values: Sequence[Any]) -> list[Any]:
    return [_plain(value) for value in values]


def _is_sorted(values: Sequence[Any]) -> bool:
    items = _items(values)
    return all(left <= right for left, right in pairwise(items))


@cache
def _environment(subject: str, names: tuple[str, ...]) -> Any:
    from cel_expr_python import cel
    from cel_expr_python.ext import ext_bindings, ext_encoders, ext_math, ext_optional, ext_strings

    kinds = cel.Type
    string, integer, boolean, anything = kinds.STRING, kinds.INT, kinds.BOOL, kinds.DYN
    quantity = kinds.Map(string, anything)
    elements = kinds.List(anything)

    def overload(name: str, returns: Any, parameters: Sequence[Any], member: bool, call: Callable[..., Any]) -> Any:
        identity = "_".join(["k8s", name, *(parameter.name().lower() for parameter in parameters)])
        return cel.Overload(id=identity, return_type=returns, parameters=list(parameters), is_member=member, impl=call)

    def function(name: str, returns: Any, parameters: Sequence[Any], call: Callable[..., Any]) -> Any:
        return cel.FunctionDecl(name, [overload(name, returns, parameters, False, call)])

    def method(name: str, returns: Any, parameters: Sequence[Any], call: Callable[..., Any]) -> Any:
        return cel.FunctionDecl(name, [overload(name, returns, parameters, True, call)])

    def arithmetic(name: str, call: Callable[[Fraction, Fraction], Fraction]) -> Any:
        def apply(left: Quantity, right: Quantity | int) -> Quantity:
            return _tagged(call(_amount(left), _amount(right)))

        return cel.FunctionDecl(
            name, [overload(name, quantity, [quantity, other], True, apply) for other in (quantity, integer)]
        )

    def part(name: str, key: str) -> Any:
        return method(name, string, [quantity], lambda url: str(_plain(url[key])))

    functions = [
        function("quantity", quantity, [string], _quantity),
        function("isQuantity", boolean, [string], lambda text: bool(QUANTITY.match(text))),
        method("isInteger", boolean, [quantity], lambda value: _amount(value).denominator == 1),
        method("asInteger", integer, [quantity], _integer),
        method("asApproximateFloat", kinds.DOUBLE, [quantity], lambda value: float(_amount(value))),
        method("sign", integer, [quantity], lambda value: (_amount(value) > 0) - (_amount(value) < 0)),
        method("isLessThan", boolean, [quantity, quantity], lambda a, b: _amount(a) < _amount(b)),
        method("isGreaterThan", boolean, [quantity, quantity], lambda a, b: _amount(a) > _amount(b)),
        method(
            "compareTo",
            integer,
            [quantity, quantity],
            lambda a, b: (_amount(a) > _amount(b)) - (_amount(a) < _amount(b)),
        ),
        arithmetic("add", lambda a, b: a + b),
        arithmetic("sub", lambda a, b: a - b),
        function("url", quantity, [string], _url),
        function("isURL", boolean, [string], _succeeds(_url)),
        part("getScheme", "scheme"),
        part("getHost", "host"),
        part("getHostname", "hostname"),
        part("getPort", "port"),
        part("getEscapedPath", "path"),
        function("isIP", boolean, [string], _succeeds(ipaddress.ip_address)),
        function("isCIDR", boolean, [string], _succeeds(_is_cidr)),
        method("find", string, [string, string], _find),
        method("findAll", kinds.List(string), [string, string], _find_all),
        method("isSorted", boolean, [elements], _is_sorted),
        method("sum", anything, [elements], lambda values: sum(_items(values))),
        method("min", anything, [elements], lambda values: min(_items(values))),
        method("max", anything, [elements], lambda values: max(_items(values))),
    ]
    return cel.NewEnv(
        variables=dict.fromkeys(names, getattr(kinds, subject.upper())),
        extensions=[
            ext_optional.ExtOptional(),
            ext_strings.ExtStrings(),
            ext_bindings.ExtBindings(),
            ext_encoders.ExtEncoders(),
            ext_math.ExtMath(),
        ],
        functions=functions,
    )
