"""Options of methods and networks: the keyword-only parameters of a function. Needs no torch."""

from __future__ import annotations

import inspect
import math
import numbers
import os
import sys
import types
import typing
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from fewstep.base.errors import UserError, require, short_repr, unknown

Options = dict[str, Any]

# A method that another is built on: its name, {"method": name, **options}, or itself.
Base = str | Options | Any

MOST_OPTION = 10**6  # of an integer: it is a number of levels, layers or channels
MOST_DEEP, MOST_ITEMS = 8, 5000  # levels and entries of options: a table of noise has 4000
MOST_TEXT = 4096  # characters of a name or path


def plain(value: Any) -> Any:
    """A number of numpy's, or of another library's, as Python's own; anything else as it is."""
    if type(value) in (bool, int, float):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    is_bool = type(value).__module__ == "numpy" and type(value).__name__.startswith("bool")
    return bool(value) if is_bool else value


def convert(name: str, value: Any, kind: Any) -> Any:
    """The value as the declared type: lists to tuples, integers to floats, paths to their text.

    A type may be `X | None`, or a number or a list of them. Raises UserError where it does not
    match.
    """
    value = plain(value)
    origin = typing.get_origin(kind) or kind
    arguments = typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        kinds = [one for one in arguments if one is not type(None)]
        is_list = isinstance(value, list | tuple)
        fits = (one for one in kinds if (typing.get_origin(one) is tuple) == is_list)
        return convert(name, value, next(fits, kinds[0]))
    if origin is typing.Literal:
        if not any(type(value) is type(one) and value == one for one in arguments):
            raise unknown(name, value, map(str, arguments))
        return value
    if origin is tuple and isinstance(value, list | tuple):
        return _convert_list(name, value, arguments)
    if origin is float and type(value) is int and abs(value) < 2**63:
        return float(value)
    if origin is str and isinstance(value, os.PathLike):
        value = os.fspath(value)
    if type(value) is not origin:
        raise UserError(f"{name} = {short_repr(value)}: expected {getattr(kind, '__name__', kind)}")
    return _check_value(name, value)


def _convert_list(
    name: str, values: list[Any] | tuple[Any, ...], kinds: tuple[Any, ...]
) -> tuple[Any, ...]:
    """The values as a tuple of their declared type and number."""
    if kinds[-1] is not ... and len(values) != len(kinds):
        raise UserError(f"{name} = {short_repr(values)}: expected {len(kinds)} numbers")
    require(len(values) <= MOST_ITEMS, f"entries of {name}", len(values), f"at most {MOST_ITEMS}")
    return tuple(convert(name, item, kinds[0]) for item in values)


def _check_value(name: str, value: Any) -> Any:
    """The value. Raises UserError if JSON, a file's name or a counter could not hold it."""
    if type(value) is float:
        require(math.isfinite(value), name, value, "a finite number")
    if type(value) is int:
        require(abs(value) < 2**63, name, value, "a whole number below 2^63")
    if type(value) is str:
        fine = len(value) <= MOST_TEXT and not any(c < " " or c == "\x7f" for c in value)
        need = f"a text of at most {MOST_TEXT} characters, none of them a control character"
        require(fine, name, value, need)
    return value


def check_plain(path: str, value: Any) -> None:
    """Raises UserError for options that JSON could not hold, or that are too many or too deep."""
    stack = [(path, value, 0)]
    count = 0
    while stack:
        path, value, depth = stack.pop()
        count += 1
        if depth > MOST_DEEP or count > MOST_ITEMS:
            raise UserError(
                f"{path[:80]}: expected options of at most {MOST_DEEP} levels and {MOST_ITEMS}"
                " entries"
            )
        if isinstance(value, dict):
            for key in value:
                require(isinstance(key, str), f"a name in {path}", key, "a text")
            stack += [
                (f"{path}.{_check_value(f'a name in {path}', key)}", item, depth + 1)
                for key, item in value.items()
            ]
        elif isinstance(value, list | tuple):
            stack += [(path, item, depth + 1) for item in value]
        elif value is not None and type(value) not in (bool, int, float, str):
            raise UserError(
                f"{path} = {short_repr(value)}: expected a number, a text, a list or a dict of them"
            )
        else:
            _check_value(path, value)


def options_of(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The keyword-only parameters of a method or network: the options that a run may set.

    sigma_data is not among them: it is a field of the run itself.
    """
    parameters = inspect.signature(function).parameters
    return {
        name: p
        for name, p in parameters.items()
        if p.kind is p.KEYWORD_ONLY and name != "sigma_data"
    }


def kind_of(function: Callable[..., Any], parameter: inspect.Parameter) -> Any:
    """The declared type of an option, also where annotations are texts; else its default's."""
    if parameter.annotation is parameter.empty:
        return type(parameter.default)
    one = SimpleNamespace(__annotations__={"option": parameter.annotation})
    return typing.get_type_hints(one, vars(sys.modules[function.__module__]))["option"]


def names_of(module: types.ModuleType) -> dict[str, Callable[..., Any]]:
    """The public functions that a module, or a package's files, define: the choices of a run."""
    return {
        name: value
        for name, value in vars(module).items()
        if inspect.isfunction(value)
        and f"{value.__module__}.".startswith(f"{module.__name__}.")
        and name[0] != "_"
    }


def choose(kind: str, module: types.ModuleType, name: str) -> Callable[..., Any]:
    """The function of that name in a module. Raises UserError."""
    functions = names_of(module)
    if name not in functions:
        raise unknown(kind, name, functions)
    return functions[name]


def checked_options(
    kind: str, function: Callable[..., Any], options: Options, path: str | None = None
) -> Options:
    """All options of a method or network, with defaults. Raises UserError for a name or type.

    path: how messages name them, such as method or method.base; the kind by default.
    """
    parameters = options_of(function)
    path = kind if path is None else path
    for name in options:
        if name not in parameters:
            within = "" if path == kind else f" in {path}"
            raise unknown(f"option of {kind} {function.__name__}{within}", name, parameters)
    need = f"a default in the signature of {function.__name__}"
    for name, p in parameters.items():
        require(p.default is not p.empty, f"option {name}", None, need)
    return {
        name: _option(kind, function, p, options.get(name, p.default), f"{path}.{name}")
        for name, p in parameters.items()
    }


def _option(
    kind: str, function: Callable[..., Any], parameter: inspect.Parameter, value: Any, path: str
) -> Any:
    """One option's value, checked; of a base all its own options."""
    declared_kind = kind_of(function, parameter)
    if declared_kind != Base:
        result = convert(path, value, declared_kind)
        for number in result if isinstance(result, tuple) else (result,):
            fine = type(number) is not int or abs(number) <= MOST_OPTION
            require(fine, path, number, f"at most {MOST_OPTION}")
        return result
    name, options = named_base(value, path)
    package = ".".join(function.__module__.split(".")[:2])
    base = choose(kind, sys.modules[package], name)
    return {"method": name, **checked_options(kind, base, options, path)}


def named_base(base: Any, path: str = "base") -> tuple[str, Options]:
    """The name and the options of a base. Raises UserError."""
    if isinstance(base, str):
        return base, {}
    if not isinstance(base, dict) or not isinstance(base.get("method"), str):
        need = "a method's name, or its options with that name as 'method'"
        raise UserError(f"{path} = {short_repr(base)}: expected {need}")
    return base["method"], {name: value for name, value in base.items() if name != "method"}
