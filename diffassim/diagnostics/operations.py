"""Which operation of a function is the first whose value, or whose derivative, is not finite."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex

__all__ = ["Operation", "first_bad_derivative", "first_bad_value"]

INLINED = {"jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint"}
PACKAGES = tuple(str(Path(str(module.__file__)).parent) for module in (jax, np))


class Operation(NamedTuple):
    """An operation of a traced function.

    Args:
        name: of the primitive, for example 'sqrt'; of a loop with its turn, 'scan (turn 3) > sqrt'.
        place: file, line and function of the code that calls it, as far as known.
        operands: ranges of its operands, as text.
    """

    name: str
    place: str
    operands: str

    def __str__(self) -> str:
        return f"`{self.name}`{f' at {self.place}' if self.place else ''}, operands {self.operands}"


class _Evaluated(NamedTuple):
    equation: Any
    inputs: list[Any]
    outputs: list[Any]
    sources: list[Any]  # what identifies the inputs and outputs among the equations; None for literals
    targets: list[Any]
    place: str = ""


def first_bad_value(function: Callable[[Any], Any], x: Any) -> Operation | None:
    """Return the first operation of `function(x)` that makes something not finite of finite operands, or None.

    Args:
        function: any function of a pytree that JAX can trace.
        x: where to evaluate it, known values.

    Example:
        >>> first_bad_value(lambda x: jnp.log(x - 1) + 1, jnp.ones(2)).name
        'log'
    """
    flat, jaxpr, constants = _traced(function, x)
    return _bad_value(jaxpr, constants, flat)


def first_bad_derivative(function: Callable[[Any], Any], x: Any, seed: int = 0) -> Operation | None:
    """Return the operation in which the adjoint of `function` at x stops being finite, or None.

    The adjoint is taken operation by operation, from the result backward, with a random cotangent.

    Args:
        function: any function of a pytree that JAX can trace.
        x: where to linearize, known values.
        seed: of the cotangent.

    Example:
        >>> first_bad_derivative(lambda x: 1 + jnp.sqrt(x - 1), jnp.ones(2)).name
        'sqrt'
    """
    flat, jaxpr, constants = _traced(function, x)
    draws = np.random.default_rng(seed)
    record = list(_evaluated(jaxpr, constants, flat, {}))
    last = record[-1]
    cotangents = [_random(draws, value) for value in last.outputs]
    return _bad_derivative(record[:-1], dict(_named(last.targets, cotangents)), draws)


def _traced(function: Callable[[Any], Any], x: Any) -> tuple[list[Any], Any, list[Any]]:
    closed = jax.make_jaxpr(function)(x)
    return [jnp.asarray(leaf) for leaf in jax.tree.leaves(x)], closed.jaxpr, list(closed.consts)


def _bad_value(jaxpr: Any, constants: list[Any], flat: list[Any]) -> Operation | None:
    for done in _evaluated(jaxpr, constants, flat, {}):
        if done.equation is not None and _finite(done.inputs) and not _finite(done.outputs):
            return _inside_loop(done, _bad_value) or _described(done)
    return None


def _bad_derivative(record: list[_Evaluated], cotangents: dict[Any, Any], draws: Any) -> Operation | None:
    for done in reversed(record):
        given = [cotangents.get(target) for target in done.targets]
        if all(c is None for c in given):
            continue
        floating = [k for k, value in enumerate(done.inputs) if _is_floating(value)]
        if not floating:
            continue
        back = _pulled_back(done, floating, given)
        if not _finite(back):

            def within(jaxpr: Any, constants: list[Any], flat: list[Any]) -> Operation | None:
                inner = list(_evaluated(jaxpr, constants, flat, {}))
                start = [_random(draws, value) for value in inner[-1].outputs]
                return _bad_derivative(inner[:-1], dict(_named(inner[-1].targets, start)), draws)

            return _inside_loop(done, within) or _described(done)
        for k, cotangent in zip(floating, back, strict=True):
            source = done.sources[k]
            if source is not None:
                cotangents[source] = cotangent if source not in cotangents else cotangents[source] + cotangent
    return None


def _pulled_back(done: _Evaluated, floating: list[int], given: list[Any]) -> list[Any]:
    def function(*parts: Any) -> list[Any]:
        inputs = list(done.inputs)
        for k, part in zip(floating, parts, strict=True):
            inputs[k] = part
        outputs = _applied(done.equation, inputs)
        return [value for value in outputs if _is_floating(value)]

    _, adjoint = jax.vjp(function, *(done.inputs[k] for k in floating))
    seeds = [
        jnp.zeros_like(value) if cotangent is None else cotangent
        for value, cotangent in zip(done.outputs, given, strict=True)
        if _is_floating(value)
    ]
    return list(adjoint(seeds))


def _evaluated(
    jaxpr: Any, constants: list[Any], flat: list[Any], outer: dict[Any, Any], called: str = ""
) -> Iterator[_Evaluated]:
    """Yield every operation with its operands and results, calls written out; at last the results of the whole."""
    values: dict[Any, Any] = {}
    names: dict[Any, Any] = {}

    def define(variable: Any, value: Any, name: Any) -> None:
        values[variable], names[variable] = value, name

    def read(atom: Any) -> tuple[Any, Any]:
        return (atom.val, None) if isinstance(atom, jex.Literal) else (values[atom], names[atom])

    for variable, value in zip(jaxpr.constvars, constants, strict=True):
        define(variable, value, None)
    for k, (variable, value) in enumerate(zip(jaxpr.invars, flat, strict=True)):
        define(variable, value, outer.get(k, object()))
    for equation in jaxpr.eqns:
        inputs, sources = map(list, zip(*map(read, equation.invars), strict=True)) if equation.invars else ([], [])
        inner = equation.params.get("jaxpr") or equation.params.get("call_jaxpr")
        if equation.primitive.name in INLINED and inner is not None:
            body, consts = (inner.jaxpr, list(inner.consts)) if hasattr(inner, "jaxpr") else (inner, [])
            *steps, last = _evaluated(body, consts, inputs, dict(enumerate(sources)), _place(equation) or called)
            yield from steps
            for variable, value, name in zip(equation.outvars, last.outputs, last.targets, strict=True):
                define(variable, value, name)
            continue
        outputs = _applied(equation, inputs)
        targets = [object() for _ in outputs]
        yield _Evaluated(equation, inputs, outputs, sources, targets, _place(equation) or called)
        for variable, value, name in zip(equation.outvars, outputs, targets, strict=True):
            define(variable, value, name)
    results, found = map(list, zip(*map(read, jaxpr.outvars), strict=True)) if jaxpr.outvars else ([], [])
    yield _Evaluated(None, [], results, [], found)


def _applied(equation: Any, inputs: list[Any]) -> list[Any]:
    found = equation.primitive.bind(*inputs, **equation.primitive.get_bind_params(equation.params))
    return list(found) if equation.primitive.multiple_results else [found]


def _inside_loop(done: _Evaluated, search: Callable[[Any, list[Any], list[Any]], Operation | None]) -> Operation | None:
    """Return the operation that `search` finds in the first bad turn of a scan; None for what is no scan."""
    equation = done.equation
    if equation.primitive.name != "scan":
        return None
    parameters = equation.params
    body, count, carried = parameters["jaxpr"], parameters["num_consts"], parameters["num_carry"]
    fixed, carry, rows = done.inputs[:count], done.inputs[count : count + carried], done.inputs[count + carried :]
    turns = range(parameters["length"])
    for turn in reversed(turns) if parameters["reverse"] else turns:
        given = [*fixed, *carry, *(row[turn] for row in rows)]
        found = search(body.jaxpr, list(body.consts), given)
        if found is not None:
            return found._replace(name=f"scan (turn {turn}) > {found.name}")
        carry = jax.core.eval_jaxpr(body.jaxpr, body.consts, *given)[:carried]
    return None


def _described(done: _Evaluated) -> Operation:
    return Operation(done.equation.primitive.name, done.place, ", ".join(map(_range, done.inputs)))


def _range(value: Any) -> str:
    array = np.asarray(value)
    if array.size == 0 or array.dtype.kind not in "biuf":
        return f"{array.dtype} {array.shape}"
    bad = int((~np.isfinite(array)).sum()) if array.dtype.kind == "f" else 0
    if array.size == 1:
        return f"{array.reshape(())[()]:.3g}"
    text = f"[{np.nanmin(array):.3g}, {np.nanmax(array):.3g}]" if bad < array.size else "all NaN or infinite"
    return f"{text} {array.shape}" + (f" ({bad} not finite)" if 0 < bad < array.size else "")


def _place(equation: Any) -> str:
    frames = getattr(getattr(equation.source_info, "traceback", None), "frames", ())
    for frame in frames:
        if not frame.file_name.startswith(PACKAGES):
            return f"{Path(frame.file_name).name}:{frame.line_num} ({frame.function_name})"
    return ""


def _named(targets: list[Any], values: list[Any]) -> Iterator[tuple[Any, Any]]:
    return ((t, v) for t, v in zip(targets, values, strict=True) if t is not None and v is not None)


def _is_floating(value: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(value), jnp.inexact)


def _finite(values: list[Any]) -> bool:
    return all(bool(jnp.all(jnp.isfinite(value))) for value in values if _is_floating(value))


def _random(draws: Any, value: Any) -> Any:
    return jnp.asarray(draws.standard_normal(jnp.shape(value)), value.dtype) if _is_floating(value) else None
