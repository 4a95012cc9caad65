"""Step functions of libraries as models."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.core.errors import ConfigurationError
from diffassim.models import FunctionModel, LibraryModel, Variable


def kelvin(state, rate):
    return {"T": state["T"] - rate * np.ones((2, 2)) * state["T"]}  # promotes rank and dtype, as libraries do


def model(**options):
    return LibraryModel(
        kelvin, dt=60.0, metadata={"t": Variable("t", ("y", "x"), "degC", "temperature")}, arguments=0.25,
        encode=lambda x, _: {"T": x["t"] + 273.0}, decode=lambda s, _: {"t": s["T"] - 273.0}, units="s", **options,
    )  # fmt: skip


def test_fields_are_encoded_stepped_and_decoded():
    x = {"t": jnp.full((2, 2), 7.0)}
    np.testing.assert_allclose(model().step(x, 0)["t"], 280 * 0.75 - 273, rtol=1e-14)
    np.testing.assert_allclose(model(substeps=3).step(x, 0)["t"], 280 * 0.75**3 - 273, rtol=1e-14)
    assert model().step({"t": jnp.full((2, 2), 7.0, jnp.float32)}, 0)["t"].dtype == jnp.float32
    assert model().variables()["t"].units == "degC" and model().time_units == "s"


def test_arguments_are_differentiable_and_compile_once():
    x, traces = {"t": jnp.full((2, 2), 7.0)}, []

    @jax.jit
    def end(m):
        traces.append(0)
        return jnp.sum(da.rollout(m, x, 2, at=[2])["t"][0])

    m = model()
    end(m)
    end(m.replace(arguments=0.3))
    assert len(traces) == 1
    np.testing.assert_allclose(jax.grad(end)(m).arguments, -4 * 2 * 280 * 0.75, rtol=1e-14)


def test_without_encoding_it_is_a_function_model():
    x = jnp.arange(3.0)
    plain = LibraryModel(lambda x: 2 * x, metadata=Variable("x", ("space",), "1", "state"))
    assert plain.step(x, 0).tolist() == FunctionModel(lambda x, t: 2 * x).step(x, 0).tolist()


def test_bad_input_is_named():
    with pytest.raises(ConfigurationError, match="substeps must be at least 1"):
        model(substeps=0)
    with pytest.raises(ConfigurationError, match="pytree of Variable"):
        LibraryModel(kelvin, metadata={"t": "temperature"})
