"""Is a model fit for assimilation? One call that names what is wrong with it, down to the operation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffassim.core import tree
from diffassim.core.errors import ConfigurationError
from diffassim.core.pytree import Pytree, static
from diffassim.diagnostics.gradient import check_adjoint, check_gradient
from diffassim.diagnostics.operations import first_bad_derivative, first_bad_value

__all__ = ["ModelReport", "check_model"]


class ModelReport(Pytree):
    """Result of `check_model`.

    Args:
        problems: what hinders an assimilation, a sentence each, the gravest first.
        remarks: what is worth knowing.
        steps: steps that were run.
    """

    problems: tuple[str, ...] = static()
    remarks: tuple[str, ...] = static()
    steps: int = static()

    @property
    def passed(self) -> bool:
        """Whether there is no problem."""
        return not self.problems

    def __str__(self) -> str:
        verdict = "passed" if self.passed else f"FAILED, {len(self.problems)} problem(s)"
        lines = [f"model test over {self.steps} step(s): {verdict}"]
        lines += [f"  problem: {text}" for text in self.problems]
        lines += [f"  remark:  {text}" for text in self.remarks]
        return "\n".join(lines)


def check_model(model: Any, x: Any, *, steps: int = 1, start: int = 0, seed: int = 0) -> ModelReport:
    r"""Test a forward model: kind of state, finite values, finite and right derivatives, forward and reverse.

    The model is run from x. At the first step whose state is not finite, or whose adjoint is not, the operation in
    which that begins is named with its place in the source and the range of its operands: a root or norm at zero, a
    logarithm of a negative number, the unused branch of a `where`, an overflow in the turn of an inner loop. The
    derivatives of the last sound step are compared with differences (`check_gradient`) and with each other
    (`check_adjoint`).

    Args:
        model: object with `step(x, t) -> x`.
        x: state to start from, a pytree of arrays.
        steps: steps to run.
        start: number of the first step.
        seed: of the random vectors.

    Returns:
        `ModelReport`; print it.

    Raises:
        ConfigurationError: if `steps` is not positive, or the model has no `step`.

    Example:
        >>> import diffassim as da
        >>> speed = da.models.FunctionModel(lambda u, t: u + 0.1 * jnp.linalg.norm(u))
        >>> report = check_model(speed, jnp.zeros(3))
        >>> report.passed, "sqrt" in report.problems[0]
        (False, True)

    Source: Navon et al. (1992), section 4, for the tests of tangent and adjoint.
    """
    if steps < 1:
        raise ConfigurationError(f"check_model: steps must be at least 1, found {steps}")
    if not callable(getattr(model, "step", None)):
        raise ConfigurationError(
            f"check_model: {type(model).__name__} has no method step(x, t); wrap a function as "
            "da.models.FunctionModel(function)"
        )
    x = jax.tree.map(jnp.asarray, x)
    wrong = _other_kind(model, x, start)
    if wrong is not None:
        return ModelReport((wrong,), (), 0)
    remarks = _remarks(x)
    pulled = _adjoint_of(model)
    for k in range(steps):
        t = start + k
        step = _step(model, t)
        following = step(x)
        if not _finite(following):
            found = first_bad_value(step, x)
            return ModelReport((f"the state is not finite after step {t}: it begins in {found}",), remarks, k)
        try:
            sound = _finite(pulled(x, t, seed))
        except (TypeError, ValueError, NotImplementedError) as error:
            text = str(error).splitlines()[0]
            problem = (
                f"the step has no reverse-mode derivative ({text}): variational methods and training need one, "
                "ensemble filters and the UKF do without. A while_loop, or a fori_loop with a run-time bound, has to "
                "become a scan"
            )
            return ModelReport((problem,), remarks, k)
        if not sound:
            found = first_bad_derivative(step, x, seed)
            where = f"it begins in {found}" if found else "no single operation shows it"
            return ModelReport((f"the adjoint of step {t} is not finite: {where}",), remarks, k)
        last, x = x, following
    return _compared(_step(model, start + steps - 1), last, remarks, steps, seed)


def _step(model: Any, t: int) -> Callable[[Any], Any]:
    return lambda x: model.step(x, jnp.asarray(t, jnp.int32))


def _other_kind(model: Any, x: Any, start: int) -> str | None:
    """Return what is wrong with the kind of state that a step returns."""
    following = jax.eval_shape(_step(model, start), x)
    if jax.tree.structure(following) != jax.tree.structure(x):
        return f"a step returns the structure {jax.tree.structure(following)}, the state is {jax.tree.structure(x)}"
    kinds = [jax.tree.map(lambda leaf: (leaf.shape, str(leaf.dtype)), state) for state in (x, following)]
    if kinds[0] != kinds[1]:
        return f"a step returns {kinds[1]}, but the state is {kinds[0]}; shape and dtype of a state must not change"
    return None


def _remarks(x: Any) -> tuple[str, ...]:
    kinds = sorted({str(leaf.dtype) for leaf in jax.tree.leaves(x) if not jnp.issubdtype(leaf.dtype, jnp.floating)})
    if not kinds:
        return ()
    return (f"the state has leaves of {', '.join(kinds)}: keep them out of the analysis (covariance Zero())",)


def _floating(x: Any) -> tuple[list[Any], Callable[[list[Any]], Any]]:
    """Return the floating-point leaves of x, and the function that puts others in their place."""
    leaves, structure = jax.tree.flatten(x)
    chosen = [jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves]

    def rebuilt(parts: list[Any]) -> Any:
        given = iter(parts)
        return jax.tree.unflatten(
            structure, [next(given) if c else leaf for c, leaf in zip(chosen, leaves, strict=True)]
        )

    return [leaf for c, leaf in zip(chosen, leaves, strict=True) if c], rebuilt


def _adjoint_of(model: Any) -> Callable[[Any, int, int], Any]:
    @jax.jit
    def product(x: Any, t: Any, cotangents: list[Any]) -> Any:
        parts, rebuilt = _floating(x)
        _, adjoint = jax.vjp(lambda parts: _floating(model.step(rebuilt(parts), t))[0], parts)
        return adjoint(cotangents)

    def pulled(x: Any, t: int, seed: int) -> Any:
        draws = np.random.default_rng(seed)
        parts, _ = _floating(x)
        return product(
            x, jnp.asarray(t, jnp.int32), [jnp.asarray(draws.standard_normal(p.shape), p.dtype) for p in parts]
        )

    return pulled


def _compared(step: Callable[[Any], Any], x: Any, remarks: tuple[str, ...], steps: int, seed: int) -> ModelReport:
    """Compare the derivatives of a step with differences, and forward mode with reverse mode."""
    parts, rebuilt = _floating(x)

    def reduced(parts: list[Any]) -> list[Any]:
        return _floating(step(rebuilt(parts)))[0]

    problems: list[str] = []
    taylor = check_gradient(lambda p: 0.5 * tree.squared_norm(reduced(p)), parts, seed=seed)
    if not taylor.passed and taylor.conclusive:
        problems.append(
            "the gradient does not agree with differences (a stop_gradient, a rounding, a jump near this state?): "
            + str(taylor).splitlines()[0]
        )
    elif not taylor.conclusive:
        remarks = (*remarks, "the comparison with differences is inconclusive in this precision; try float64")
    try:
        adjoint = check_adjoint(reduced, parts, seed=seed)
    except TypeError:  # what jax.custom_vjp raises under forward mode
        remarks = (
            *remarks,
            "the step has no forward-mode derivative (jax.custom_vjp): GaussNewton and EKF need one; LBFGS, the UKF, "
            "ensembles and training do without",
        )
    else:
        if not adjoint.passed:
            problems.append(str(adjoint))
    return ModelReport(tuple(problems), remarks, steps)


def _finite(x: Any) -> bool:
    return all(
        bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(x) if jnp.issubdtype(leaf.dtype, jnp.inexact)
    )
