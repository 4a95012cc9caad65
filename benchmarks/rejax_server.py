"""Trainings of rejax in a process of its own, one for each line of JSON; needs jax, gymnax and rejax, not this package.

    python rejax_server.py SETTINGS

where SETTINGS is a JSON object (see `benchmarks.ppo_trainings.SETTINGS`); each line {"seed": k} on standard input
brings one with the time of a training, what its policy then scores without drawing actions, and versions.
"""

import json
import sys
import time


def build(settings: dict):
    """Return a function key -> state that trains, the algorithm, and the function state -> returns that scores."""
    import jax
    import jax.numpy as jnp
    import rejax
    from rejax.evaluate import evaluate

    steps = settings["environments"] * settings["steps"] * settings["updates"]
    algorithm = rejax.get_algo("ppo").create(
        env=settings["task"], num_envs=settings["environments"], num_steps=settings["steps"],
        num_epochs=settings["epochs"], num_minibatches=settings["batches"], total_timesteps=steps, eval_freq=steps,
        skip_initial_evaluation=True, learning_rate=settings["rate"], gamma=settings["discount"],
        gae_lambda=settings["trace"], ent_coef=settings["entropy_weight"], clip_eps=settings["clip"],
        agent_kwargs={"hidden_layer_sizes": tuple(settings["units"]), "activation": "swish"},
    ).replace(eval_callback=lambda algorithm, state, key: 0)  # fmt: skip

    def score(state, key):
        def act(seen, _):
            law = algorithm.actor.apply(state.actor_ts.params, seen[None], method="_action_dist")
            if algorithm.discrete:
                return jnp.argmax(law.logits[0])
            space = algorithm.action_space
            return jnp.clip(law.mean()[0], space.low, space.high)

        return evaluate.__wrapped__(act, key, algorithm.env, algorithm.env_params, settings["episodes"])[1]

    return jax.jit(lambda key: algorithm.train(key)[0]), jax.jit(score)


def main(settings: dict) -> None:
    """Answer lines until there are no more."""
    from importlib.metadata import version

    import jax

    train, score = build(settings)
    before = time.perf_counter()
    train = train.lower(jax.random.PRNGKey(0)).compile()
    compiled = time.perf_counter() - before
    versions = {name: version(name) for name in ("rejax", "jax", "gymnax")}
    for line in sys.stdin:
        seed = json.loads(line)["seed"]
        key = jax.random.PRNGKey(seed)
        wall, cpu = time.perf_counter(), time.process_time()
        state = jax.block_until_ready(train(key))
        seconds, cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
        returns = score(state, jax.random.fold_in(key, 1))
        dtype = str(jax.tree.leaves(state.actor_ts.params)[0].dtype)
        told = {"seconds": seconds, "cpu_seconds": cpu_seconds, "compile_seconds": compiled, "dtype": dtype}
        print(json.dumps(told | versions | {"return": float(returns.mean())}), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
