"""Row L12: the law of the slow variables of two-scale Lorenz-96 from few samples."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from diffassim.experiments.learning.bench import Row, Score, Settings, train
from diffassim.learned import CorrectedModel, Network
from diffassim.learned.networks import MLP
from diffassim.models import Lorenz96, TwoScaleLorenz96, TwoScaleState, rollout

__all__ = ["ROW"]

K, J, FORCING, DT, SAMPLED = 8, 32, 20.0, 0.001, 5  # steps of the truth between samples
SEQUENCE, TRAINING, VALIDATION, TEST = 100, 400, 10_000, 30_000
SHARES = (1, 3, 10, 30, 100)  # percent of the training samples
LAGS, DEGREE = 6, 3  # earlier residuals that predict the next one, and degree of the closure
SPIN_UP = 20_000
UPDATES = 1500


class Record(NamedTuple):
    """Consecutive samples of the slow variables, each of shape (sequence, time, K)."""

    training: Any
    validation: Any
    test: Any


class Closure(NamedTuple):
    """What is fitted in closed form: cubic closure, regression on earlier residuals, its standard deviation."""

    model: Any
    lags: Any
    std: Any


def draw(key: jax.Array) -> Record:
    """Return one long trajectory of the truth, cut into training, validation and test."""
    model = TwoScaleLorenz96(forcing=FORCING, dt=DT)
    keys = jax.random.split(key, 2)
    x = TwoScaleState(5 + 5 * jax.random.normal(keys[0], (K,)), 0.1 * jax.random.normal(keys[1], (K, J)))
    x = rollout(model, x, SPIN_UP, at=[SPIN_UP], segment=SPIN_UP)
    first = jax.tree.map(lambda leaf: leaf[0], x)
    total = TRAINING + VALIDATION + TEST

    @jax.jit
    def sampled(first: Any) -> Any:
        def interval(x: Any, _: Any) -> tuple[Any, Any]:
            following, _ = jax.lax.scan(lambda y, k: (model.step(y, k), None), x, jnp.arange(SAMPLED))
            return following, x.slow

        return jax.lax.scan(interval, first, length=total)[1]

    rows = np.asarray(sampled(first))
    training, validation, test = np.split(rows, [TRAINING, TRAINING + VALIDATION])
    return Record(training.reshape(-1, SEQUENCE, K), validation[None], test[None])


def cubic(weights: Any, x: Any) -> Any:
    """Return the closure, a polynomial of the slow variable at the same place."""
    return jnp.polyval(weights, x)


def residuals(model: Any, samples: Any) -> Any:
    """Return by how much, in units of a tendency, each step of the model misses the next sample."""
    stepped = jax.vmap(jax.vmap(lambda x: model.step(x, 0)))(samples[:, :-1])
    return (samples[:, 1:] - stepped) / model.dt


def earlier(r: Any, lags: int) -> tuple[Any, Any]:
    """Return the `lags` residuals before each one as features, and what they are to predict."""
    count = r.shape[1] - lags
    if not lags:
        return jnp.zeros((*r.shape, 0), r.dtype), r
    return jnp.stack([r[:, lags - k : lags - k + count] for k in range(1, lags + 1)], axis=-1), r[:, lags:]


def regress(samples: Any, lags: int) -> Closure:
    """Fit the closure, and the regression of its residuals on earlier ones, by least squares."""
    model = CorrectedModel(Lorenz96(forcing=FORCING, dt=DT * SAMPLED), Network(cubic, jnp.zeros(DEGREE + 1)))
    for _ in range(3):  # the residuals are those after a whole step, so the fit is repeated
        r, x = residuals(model, samples).ravel(), samples[:, :-1].ravel()
        change = jnp.linalg.lstsq(jnp.vander(x, DEGREE + 1), r)[0]
        model = model.replace(network=model.network.replace(weights=model.network.weights + change))
    F, y = earlier(residuals(model, samples), lags)
    if not lags:
        return Closure(model, jnp.zeros(0), jnp.std(y))
    weights = jnp.linalg.lstsq(F.reshape(-1, lags), y.ravel())[0]
    return Closure(model, weights, jnp.std(y - F @ weights))


def inputs(closure: Closure, samples: Any) -> tuple[Any, Any]:
    """Return what the network sees, of order one, and the regression's errors in units of their spread."""
    lags = closure.lags.size
    F, y = earlier(residuals(closure.model, samples), lags)
    x = samples[:, lags:-1]
    slope = (samples[:, lags:-1] - samples[:, lags - 1 : -2]) / closure.model.dt
    differences = [F[..., 0]]
    for order in range(1, lags):  # the last residual, and its differences
        F = F[..., :-1] - F[..., 1:]
        differences.append(F[..., 0] * 2.0**order)
    # The size of a difference says how large the next error may be: logarithms, shared with the neighbours.
    sizes = [jnp.log1p((d / closure.std) ** 2) for d in differences]
    beside = [jnp.roll(s, k, axis=-1) for s in sizes[-2:] for k in (-1, 1)]
    signed = [jnp.arcsinh(d / closure.std) for d in differences]
    features = jnp.stack([x / 5, slope / 50, *sizes, *beside, *signed], axis=-1)
    return features, (y - earlier(residuals(closure.model, samples), lags)[0] @ closure.lags) / closure.std


def log_density(network: Any, features: Any, errors: Any, tail: Any) -> Any:
    r"""Return the log density of errors in units of their spread: Student's t, its location and scale from the network.

    The number of degrees of freedom is \(2 + e^{\text{tail}}\).
    """
    out = network(features)
    location, scale = out[..., 0], jnp.exp(jnp.clip(out[..., 1], -8, 8))
    nu = 2 + jnp.exp(tail)
    z = (errors - location) / scale
    constant = jax.lax.lgamma((nu + 1) / 2) - jax.lax.lgamma(nu / 2) - 0.5 * jnp.log(nu * jnp.pi)
    return constant - jnp.log(scale) - (nu + 1) / 2 * jnp.log1p(z**2 / nu)


def gaussian(errors: Any) -> Any:
    """Return the log density of the normal distribution with the spread of the training errors."""
    return -0.5 * errors**2 - 0.5 * jnp.log(2 * jnp.pi)


def _loss(trainable: Any, batch: Any, key: Any) -> Any:
    features, errors = batch
    return -jnp.mean(log_density(trainable["network"], features, errors, trainable["tail"]))


@partial(jax.jit, static_argnums=0)
def _flat(count: int, features: Any, errors: Any) -> tuple[Any, Any]:
    return features.reshape(-1, features.shape[-1])[:count], errors.reshape(-1)[:count]


def score(closure: Closure, trained: Any, record: Record, spread: float) -> float:
    """Return the mean log likelihood of a step of all slow variables, scaled by the spread of the training samples."""
    test = jnp.asarray(record.test)
    if trained is None:
        F, y = earlier(residuals(closure.model, test), closure.lags.size)
        each = gaussian((y - F @ closure.lags) / closure.std)
    else:
        features, errors = inputs(closure, test)
        each = log_density(trained["network"], features, errors, trained["tail"])
    unit = closure.std * closure.model.dt / spread
    return float(K * jnp.mean(each - jnp.log(unit)))


def learn(settings: Settings, closure: Closure, samples: Any, record: Record, share: int) -> Any:
    """Train the network on the samples; return None where validation prefers the regression alone."""
    data = _flat(samples.size, *inputs(closure, samples))
    validation = _flat(20_000, *inputs(closure, jnp.asarray(record.validation)))
    size = data[0].shape[-1]
    network = Network.from_nnx(MLP([size, 24, 24, 2], zero=True, rngs=nnx.Rngs(settings.seed)))
    found = train(
        _loss, {"network": network, "tail": jnp.asarray(1.0)}, data, settings=settings, validation=validation,
        name=f"the error model on {share} % of the samples", updates=UPDATES, rate=5e-3, share=1 / len(SHARES),
        batch_size=min(256, data[1].shape[0]), key=jax.random.fold_in(settings.key, share), chunk=25,
    )  # fmt: skip
    return found.trained if -float(found.state.best_loss) > float(jnp.mean(gaussian(validation[1]))) else None


def run(settings: Settings) -> list[Score]:
    """Score the laws learned from 1 to 100 percent of the samples."""
    settings.tell("draws the truth")
    record = draw(settings.key)
    training = jnp.asarray(record.training)
    spread, scores = float(jnp.std(training)), []
    for share in SHARES:
        count = share * TRAINING // 100
        samples = training[: -(-count // SEQUENCE), : min(count, SEQUENCE)]
        lags = min(LAGS, max(1, count // 4))
        closure = regress(samples, lags)
        settings.tell(f"{share} % of the samples")
        trained = learn(settings, closure, samples, record, share)
        whole = share == 100
        if whole:
            scores.append(Score("cubic closure", score(regress(training, 0), None, record, spread), "classical"))
            two = score(regress(training, 2), None, record, spread)
            scores.append(Score("cubic closure, 2 residuals", two, "classical"))
        label = f"cubic closure, {lags} residual{'s' * (lags > 1)}, {share} %"
        scores.append(Score(label, score(closure, None, record, spread), "classical"))
        note = "published: with transfer; 4.37 without" if whole else ""
        note = note if trained is not None else "validation preferred the regression alone"
        scores.append(Score(
            f"with a learned error model, {share} %", score(closure, trained, record, spread), "learned",
            11.51 if whole else None, 58.5 if whole else None, note,
        ))  # fmt: skip
    return scores


ROW = Row(
    "L12", "law of the slow variables of two-scale Lorenz-96 from 400 samples", "log likelihood of a step",
    "Parthipan and Wischik (2022)", run, higher=True,
)  # fmt: skip
