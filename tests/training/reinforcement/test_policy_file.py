"""Files of policies: what is written is read, and what was changed or is for something else is refused."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffassim.core.errors import ConfigurationError, DataError
from diffassim.learned.networks import perceptron
from diffassim.training.reinforcement.policy_file import policies_from_text, policies_to_text, read_policies

ABOUT = {"filter": "ETKF", "features": ["spread", "excess"]}


def test_numbers_come_back_bit_by_bit(tmp_path):
    policy = perceptron((2, 3, 1), jax.random.key(0))
    (tmp_path / "policies.json").write_text(policies_to_text({"one": (policy, ABOUT)}))
    like = jax.tree.map(jnp.zeros_like, policy)
    found = policies_from_text(read_policies(tmp_path / "policies.json"), "one", like, ABOUT)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(policy), strict=True):
        assert np.array_equal(a, b) and a.dtype == b.dtype


def test_what_is_not_what_it_says_is_refused(tmp_path):
    path, like = tmp_path / "policies.json", {"w": jnp.zeros(2)}
    text = policies_to_text({"one": ({"w": jnp.array([1.0, 2.0])}, ABOUT)})
    path.write_text(text.replace("1.0", "1.5"))
    with pytest.raises(DataError, match=r"policies.json: was changed after it was written"):
        read_policies(path)
    for broken in ("{", "[]", '{"policies": 3}', json.dumps({"format": 1, "sha256": "", "policies": {"a": 1}})):
        path.write_text(broken)
        with pytest.raises(DataError, match="no file of policies"):
            read_policies(path)
    path.write_text(text.replace('"format": 1', '"format": 7'))
    with pytest.raises(DataError, match="has format 7"):
        read_policies(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_policies(tmp_path / "nothing.json")
    with pytest.raises(DataError, match="there is no policy 'two', but one"):
        policies_from_text(text, "two", like, ABOUT)
    with pytest.raises(ConfigurationError, match=r"trained for filter = 'ETKF', but is used for 'LETKF'"):
        policies_from_text(text, "one", like, ABOUT | {"filter": "LETKF"})
    with pytest.raises(ConfigurationError, match="trained for features = "):
        policies_from_text(text, "one", like, ABOUT | {"features": ["spread"]})
    with pytest.raises(ConfigurationError, match="another architecture: w"):
        policies_from_text(text, "one", {"v": jnp.zeros(2)}, ABOUT)
    with pytest.raises(ConfigurationError, match=r"shape \(2,\) at w, where finite ones of shape \(3,\)"):
        policies_from_text(text, "one", {"w": jnp.zeros(3)}, ABOUT)
