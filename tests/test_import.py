"""What `import diffassim` does, and above all what it does not do."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def python(code: str, timeout: float = 120, **environment: str | None) -> str:
    """Run code in a fresh process and return what it prints; None removes a variable from the environment."""
    merged = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        env={key: value for key, value in merged.items() if value is not None},
        capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_import_is_light():
    # flax and optax take as long to import as half of JAX; the others belong to the edges.
    heavy = (
        "flax optax chex orbax xarray pandas netCDF4 pydantic matplotlib scores cyclopts rich tomlkit spotpy "
        "pint pyarrow zarr"
    )
    loaded = python(f"""
        import sys, jax
        before = set(sys.modules)
        import diffassim
        print(*sorted({{m for m in "{heavy}".split() if m in sys.modules and m not in before}}))
    """)
    assert loaded == ""


def test_learned_and_training_are_there_without_being_imported():
    found = python("""
        import sys, diffassim as da
        before = [m in sys.modules for m in ("diffassim.learned", "diffassim.training", "optax")]
        print(before, da.learned.CorrectedModel.__name__, da.training.fit.__name__, "learned" in dir(da))
    """)
    assert found == "[False, False, False] CorrectedModel fit True"


def test_an_unknown_name_is_an_attribute_error():
    assert python("import diffassim; print(hasattr(diffassim, 'no_such_part'))") == "False"


def test_the_import_adds_few_modules_to_jax():
    # The time allowed is .3 s, which a test on a shared machine cannot measure; each module takes about a millisecond.
    added = python("""
        import sys, jax, jax.numpy
        before = set(sys.modules)
        import diffassim
        print(len([m for m in set(sys.modules) - before if not m.startswith("diffassim")]))
    """)
    assert int(added) < 100


def test_the_import_neither_starts_a_device_nor_opens_files():
    # Without a device nothing can have been compiled. Python's own reading of installed packages does not count.
    found = python("""
        import sys, jax, jax.numpy
        opened = []
        places = tuple({sys.prefix, sys.base_prefix})
        def watch(event, arguments):
            path = str(arguments[0]) if event == "open" else ""
            if path and not path.endswith((".py", ".pyc")) and "__pycache__" not in path:
                opened.append(path)
        sys.addaudithook(watch)
        import diffassim
        from jax._src import xla_bridge
        opened = [p for p in opened if not p.startswith(places) and not p.isdigit()]
        print(xla_bridge.backends_are_initialized(), opened)
    """)
    assert found == "False []"


def test_the_import_leaves_the_settings_of_jax_alone():
    found = python("""
        import jax
        before = dict(jax.config.values)
        import diffassim
        print([k for k, v in jax.config.values.items() if before[k] != v])
    """)
    assert found == "[]"


TWO_CORES = "import os; os.cpu_count = lambda: 2\n"


@pytest.mark.parametrize(("given", "expected"), [(None, "4"), ("3", "3")])
def test_small_machines_get_four_threads_unless_the_user_says_otherwise(given, expected):
    assert python(TWO_CORES + "import diffassim; print(os.environ.get('NPROC'))", NPROC=given) == expected


def test_larger_machines_are_left_alone():
    code = "import os; os.cpu_count = lambda: 8\nimport diffassim; print(os.environ.get('NPROC'))"
    assert python(code, NPROC=None) == "None"


def test_a_backend_that_is_up_already_gives_a_warning():
    code = TWO_CORES + textwrap.dedent("""
        import warnings, jax
        jax.devices()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            import diffassim
        print([w.category.__name__ for w in caught], "NPROC=4" in str(caught[0].message))
    """)
    assert python(code, NPROC=None) == "['AssimilationWarning'] True"


def test_two_chains_of_factorizations_do_not_hang_with_the_defaults_a_user_has():
    # On two cores this blocks for ever without the protection: each chain holds a thread and waits for another.
    code = """
        import diffassim, jax, jax.numpy as jnp

        def chain(a, b):
            factor = jnp.linalg.cholesky(a)
            b = jax.lax.linalg.triangular_solve(factor, b, left_side=True, lower=True)
            return b.mT @ b

        both = jax.jit(lambda a, b, c, d: (chain(a, c), chain(b, d)))
        b = jax.random.normal(jax.random.key(0), (8, 200, 200))
        a = b @ b.mT + 200 * jnp.eye(200)
        for _ in range(60):
            jax.block_until_ready(both(a, a + jnp.eye(200), b, b + 1))
        print("finished")
    """
    assert python(code, timeout=120, NPROC=None) == "finished"
