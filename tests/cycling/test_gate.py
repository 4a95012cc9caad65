"""The gate: what every entry makes of the numbers a user gives it, kind by kind; nothing here is compiled."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.core import checks
from diffassim.grids import Grid, Sphere
from diffassim.models import GR4J
from diffassim.models.gr4j import CatchmentForcing
from diffassim.observations import Interpolate, Subset, steps_and_fractions

ONE = da.covariances.Diagonal(std=1.0)
STILL = da.models.FunctionModel(lambda x, t: x)
WEATHER = GR4J(forcing=CatchmentForcing(jnp.ones(3), jnp.zeros(3), jnp.full(3, 10.0)))
MEMBERS = jnp.arange(12.0).reshape(4, 3)
RECORD = da.Observations(np.zeros((2, 3)), [1, 2], error=ONE)
BASIN = da.Observations(np.zeros((2, 1)), [2, 4], operator=da.observations.Field("discharge"), error=ONE)
SPHERE = Sphere(np.array([-60.0, 0.0, 60.0])[:, None], np.arange(0, 360, 30.0))


def values(numbers):
    return da.Observations(numbers, [0], error=ONE)


def cost(background, **options):
    return da.StrongConstraint4DVar(STILL, background, ONE, RECORD, **options)


def cycled(belief, method=None, record=RECORD, **options):
    return da.cycle(method or da.ETKF(), STILL, belief, record, **options)


def windows_of(background, **options):
    return da.cycle(da.FourDVar(ONE), STILL, background, da.split_windows(RECORD, 2, 1), steps=2, **options)


TAKES_NUMBERS = {
    "Observations": lambda x: values([x]),
    "rollout": lambda x: da.rollout(STILL, x, 1),
    "cost": cost,
    "ensemble": lambda x: cycled(np.broadcast_to(x, (4, 3)) if isinstance(x, np.ndarray) else [x] * 4),
    "windows": windows_of,
    "Gaussian": lambda x: da.EKF().init(da.gaussian.Gaussian(x, jnp.ones((3, 3)))),
    "reports": lambda x: da.observations_from_reports(
        x, [0.0, 1.0, 2.0], 1.0, operator=Interpolate(), where=jnp.zeros((3, 1)), std=1.0
    ),
    "start of minimize": lambda x: da.minimize(cost(jnp.zeros(3)), start={"state": x}),
}
REFUSED = {
    "complex": np.array([1.0, 2.0j, 3.0]),
    "strings": np.array(["1", "2", "3"]),
    "objects": np.array([object(), None, 1.0], dtype=object),
    "dates": np.array(["2024-01-01"] * 3, "datetime64[D]"),
}


@pytest.mark.parametrize("entry", TAKES_NUMBERS)
@pytest.mark.parametrize("kind", REFUSED)
def test_what_has_no_right_meaning_is_refused_by_name(entry, kind):
    if (entry, kind) == ("rollout", "complex"):
        pytest.skip("a model may have a complex state; only its errors cannot be")
    with pytest.raises(da.DataError, match=r"complex|must hold numbers"):
        TAKES_NUMBERS[entry](REFUSED[kind])


@pytest.mark.parametrize("entry", ["cost", "windows", "Gaussian"])
def test_a_state_with_masked_values_is_refused(entry):
    with pytest.raises(da.DataError, match="1 of 3 values are missing"):
        TAKES_NUMBERS[entry](np.ma.masked_array([1.0, 9999.0, 2.0], mask=[False, True, False]))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([1, 2, 3], [1.0, 2.0, 3.0]),
        (np.array([1, 0, 1], bool), [1.0, 0.0, 1.0]),
        (np.array([1, 2, 3], np.float16), [1.0, 2.0, 3.0]),
        (np.ma.masked_array([1, -9999, 3], mask=[0, 1, 0]), [1.0, np.nan, 3.0]),
    ],
)
def test_values_with_one_right_meaning_are_converted(given, expected):
    found = values(given[None] if isinstance(given, np.ndarray) else [given])
    assert found.values.dtype.itemsize >= 4 and found.mask[0].tolist() == np.isfinite(expected).tolist()
    assert found.values[0].tolist() == np.nan_to_num(expected).tolist()


@pytest.mark.parametrize("given", [[1, 2, 3], np.array([1, 2, 3]), np.array([1, 2, 3], np.float16)])
def test_states_with_one_right_meaning_are_converted(given):
    assert cost(given).background.tolist() == [1.0, 2.0, 3.0]
    assert cost(given).background.dtype.kind == "f" and cost(given).background.dtype.itemsize >= 4


def test_a_counter_beside_a_field_stays_and_is_not_controlled():
    start = {"x": jnp.zeros(3), "day": jnp.array(5)}
    y = da.Observations(np.zeros((1, 3)), [1], operator=da.observations.Field("x"), error=ONE)
    held = da.StrongConstraint4DVar(STILL, start, da.covariances.Blocks({"x": ONE, "day": da.covariances.Zero()}), y)
    state = held.state(held.control())
    assert state["day"].dtype == start["day"].dtype and int(state["day"]) == 5
    with pytest.raises(da.DataError, match="hold these fixed"):
        da.StrongConstraint4DVar(STILL, start, da.covariances.Blocks({"x": ONE, "day": ONE}), y)
    with pytest.raises(da.DataError, match="random key cannot be part"):
        da.StrongConstraint4DVar(
            STILL, {**start, "day": jax.random.key(0)},
            da.covariances.Blocks({"x": ONE, "day": da.covariances.Zero()}), y,
        )  # fmt: skip


WRONG_STEPS = {
    "rollout before the record": lambda: da.rollout(WEATHER, WEATHER.initial_state(), 1, start=-1),
    "rollout beyond it": lambda: da.rollout(WEATHER, WEATHER.initial_state(), 4),
    "rollout with parameters in the state": lambda: da.rollout(
        da.models.WithParameters(WEATHER, ("x1",)),
        {"state": WEATHER.initial_state(), "parameters": {"x1": jnp.array(350.0)}}, 4,
    ),
    "step": lambda: WEATHER.step(WEATHER.initial_state(), 3),
    "cost": lambda: da.StrongConstraint4DVar(WEATHER, WEATHER.initial_state(), ONE, BASIN),
    "cycle": lambda: da.cycle(
        da.ETKF(), WEATHER, jax.tree.map(lambda x: jnp.stack([x, x]), WEATHER.initial_state()), BASIN
    ),
    "windows": lambda: da.cycle(
        da.FourDVar(ONE), WEATHER, WEATHER.initial_state(), da.split_windows(BASIN, 2, 2), steps=2
    ),
}  # fmt: skip


@pytest.mark.parametrize("entry", WRONG_STEPS)
def test_steps_without_forcing_are_refused(entry):
    with pytest.raises(da.DataError, match="has forcing for steps 0 to 2"):
        WRONG_STEPS[entry]()


def test_a_rollout_to_the_last_day_is_not_refused():
    assert jax.eval_shape(lambda: da.rollout(WEATHER, WEATHER.initial_state(), 3)).discharge.shape == (4,)


def test_steps_without_forcing_are_nan_inside_of_traced_code():
    found = jax.vmap(lambda t: WEATHER.step(WEATHER.initial_state(), t).discharge)(jnp.array([-1, 0, 2, 3, 50]))
    assert np.isfinite(found).tolist() == [False, True, True, False, False]


NAN_PLACE = Interpolate(places=np.array([[np.nan], [1.0]]), spacing=1.0)
BEYOND = Subset(jnp.array([0, 3]))
LOCAL = da.ensemble.GaspariCohn(2.0)


@pytest.mark.parametrize(("operator", "error", "text"), [
    (NAN_PLACE, da.DataError, "1 places of Interpolate are not finite"),
    (BEYOND, da.ShapeError, "index 3 lies outside"),
    (Subset(jnp.array([0, -1])), da.ShapeError, "index -1 lies outside"),
    (da.observations.Compose(BEYOND, jnp.sin), da.ShapeError, "index 3 lies outside"),
    (da.observations.Biased(BEYOND), da.ShapeError, "index 3 lies outside"),
])  # fmt: skip
def test_bad_places_of_an_operator_are_named_by_every_entry(operator, error, text):
    y = da.Observations(np.zeros((1, 2)), [0], operator=operator, error=ONE)
    belief = da.gaussian.Gaussian(jnp.zeros(3), jnp.eye(3))
    for entry in (
        lambda: da.ThreeDVar(jnp.zeros(3), ONE, y),
        lambda: da.LETKF(localization=LOCAL).analyze(None, MEMBERS, y),
        lambda: da.EKF().analyze(None, belief, y),
        lambda: cycled(MEMBERS, record=y),
        lambda: da.cycle(da.FourDVar(ONE), STILL, jnp.zeros(3), da.split_windows(y, 1, 1), steps=1),
    ):
        with pytest.raises(error, match=text):
            entry()


def test_an_operator_on_another_grid_than_the_filter_is_refused():
    y = da.Observations(np.zeros((1, 1)), [0], operator=Interpolate(np.array([[0.15]]), spacing=0.1), error=ONE)
    for method in (da.LETKF, da.EAKF):
        with pytest.raises(da.ConfigurationError, match="give both the same"):
            method(localization=LOCAL).analyze(None, MEMBERS, y)


@pytest.mark.parametrize(
    "place", [[200.0, 0.0], [9999.0, 9999.0], [-999.0, 0.0], [3.4e38, 0.0], [np.nan, 0.0], [0, 9999]]
)
def test_what_is_no_place_on_a_sphere_is_refused(place):
    y = da.Observations(np.zeros((1, 1)), [0], operator=lambda x: x[1, :1], error=ONE)
    members = jnp.zeros((4, 3, 12))
    for entry in (
        lambda: da.LETKF(localization=LOCAL, grid=SPHERE, places=np.array([place])).analyze(None, members, y),
        lambda: da.ensemble.nearest_observations(SPHERE, (3, 12), np.array([place]), 1),
    ):
        with pytest.raises(da.DataError, match=r"lies outside of|not finite"):
            entry()
    Grid().check_places("grid", np.array([[9999.0]]))  # around a periodic line


@pytest.mark.parametrize("times", [
    np.linspace(0, 100, 1001, dtype=np.float32), jnp.linspace(0, 100, 1001, dtype=jnp.float32),
    (np.arange(1001) / 10).astype(np.float32),
])  # fmt: skip
def test_times_in_single_precision_are_on_their_steps(times):
    steps, fraction = steps_and_fractions(times, 0.1)
    assert steps.tolist() == list(range(1001)) and not fraction.any()


@pytest.mark.parametrize(("times", "text"), [
    (np.array([1e9], np.float32), "tell apart only"),
    (np.ma.masked_array([1.0, 2.0], mask=[0, 1]), "are masked"),
    ([np.inf], "infinite"),
    (["noon"], "must hold numbers"),
    ([1j], "complex"),
])  # fmt: skip
def test_what_is_no_time_is_refused(times, text):
    with pytest.raises(da.DataError, match=text):
        steps_and_fractions(times, 0.1)


@pytest.mark.parametrize("steps", [[np.nan], [0.5], [-1], ["1"], [2.0**40], [1j], np.ma.masked_array([1], mask=[1])])
def test_what_is_no_step_is_refused(steps):
    with pytest.raises(da.DataError, match="step"):
        da.Observations(np.zeros((1, 3)), steps, error=ONE)


@pytest.mark.parametrize("start", [0.5, np.nan, 2.0**31, True, "1", None])
def test_what_is_no_start_is_refused(start):
    for entry in (lambda: da.rollout(STILL, jnp.zeros(3), 1, start=start), lambda: cost(jnp.zeros(3), start=start),
                  lambda: cycled(MEMBERS, start=start), lambda: windows_of(jnp.zeros(3), start=start)):  # fmt: skip
        with pytest.raises(da.ConfigurationError, match="start must be"):
            entry()


def test_rows_outside_of_a_window_are_refused():
    for at in ([3], [-1], [0.5]):
        with pytest.raises(da.ConfigurationError, match="integers from 0 to 2"):
            windows_of(jnp.zeros(3), at=at)


def test_streams_may_be_a_list_and_nothing_else():
    assert len(cost(jnp.zeros(3)).replace(observations=[RECORD, RECORD]).observations) == 2
    assert isinstance(da.split_windows([RECORD], 2, 1), tuple) and isinstance(da.pad_observations([RECORD]), tuple)
    for entry in (lambda: cost(jnp.zeros(3)).replace(observations=3.0), lambda: cycled(MEMBERS, record=[RECORD, 1]),
                  lambda: da.split_windows(3.0, 2, 1), lambda: da.pad_observations(3.0)):  # fmt: skip
        with pytest.raises(da.ConfigurationError, match="must be `Observations`"):
            entry()


def test_windows_of_different_number_are_refused():
    first, second = da.split_windows(RECORD, 2, 1), da.split_windows(RECORD, 2, 2)
    with pytest.raises(da.ShapeError, match="different numbers of windows"):
        da.cycle(da.FourDVar(ONE), STILL, jnp.zeros(3), (first, second), steps=2)


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        (da.ETKF, {}, "found the class ETKF; call it"),
        (da.GaussNewton(), {"steps": 2}, "derives from SequentialMethod or .* WindowMethod .*; found GaussNewton"),
        (da.ETKF(), {"steps": 4}, "with ETKF there is no option 'steps'; there are key, start, members"),
        (da.FourDVar(ONE), {}, "FourDVar analyses windows; give their length, steps="),
    ],
)
def test_methods_and_options_that_a_cycle_does_not_know(method, options, words):
    with pytest.raises(da.ConfigurationError, match=words):
        da.cycle(method, STILL, jnp.zeros(3), RECORD, **options)


def test_one_flag_for_all_axes_of_an_interpolation():
    H = Interpolate(spacing=(1.0, 2.0), periodic=False)
    assert H.periodic == (False, False) and Interpolate(spacing=0.5, periodic=(True, True)).spacing == (0.5, 0.5)
    with pytest.raises(da.ConfigurationError, match="True or False"):
        Interpolate(periodic=(1,))


@jax.custom_vjp
def _reverse_only(x):
    return 0.5 * x


_reverse_only.defvjp(lambda x: (_reverse_only(x), None), lambda _, g: (0.5 * g,))


def test_a_model_with_reverse_mode_only():
    model = da.models.FunctionModel(lambda x, t: _reverse_only(x))
    window = da.StrongConstraint4DVar(model, jnp.zeros(1), ONE, da.Observations(np.ones((1, 1)), [1], error=ONE))
    belief = da.gaussian.Gaussian(jnp.zeros(1), jnp.eye(1))
    with pytest.raises(da.ConfigurationError, match=r"GaussNewton needs forward-mode .* LBFGS"):
        da.minimize(window)
    with pytest.raises(da.ConfigurationError, match=r"EKF needs forward-mode .* UKF"):
        da.cycle(da.EKF(), model, belief, window.observations)
    analysis = jax.grad(lambda b: da.minimize(window.replace(background=b), da.LBFGS()).state[0])
    np.testing.assert_allclose(analysis(jnp.zeros(1)), 1 / (1 + 0.25), rtol=1e-6)


def test_the_account_is_filled_with_no_nan_under_the_debugger():
    assert np.isnan(checks.unused())
    with jax.debug_nans(True):
        assert np.isinf(checks.unused())
        assert np.isfinite(da.minimize(cost(jnp.full(3, 0.5)), da.GaussNewton(max_iterations=7)).state).all()
