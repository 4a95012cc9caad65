"""Policies in text files: what they were trained for, their numbers, and a checksum."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffassim.core.errors import ConfigurationError, DataError
from diffassim.core.paths import paths_of

__all__ = ["policies_from_text", "policies_to_text", "read_policies"]

FORMAT = 1


def policies_to_text(policies: Mapping[str, tuple[Any, Mapping[str, Any]]]) -> str:
    """Return policies as JSON that `policies_from_text` reads.

    Args:
        policies: by name, a pytree of arrays and what it was trained for: a dict of plain values that has to be the
            same where the policy is used (method, features, environment).

    Example:
        >>> text = policies_to_text({"best": (jnp.arange(2.0), {"method": "ETKF"})})
        >>> policies_from_text(text, "best", jnp.zeros(2), {"method": "ETKF"}).tolist()
        [0.0, 1.0]
    """
    content = {name: {"about": dict(about), "numbers": _numbers(policy)} for name, (policy, about) in policies.items()}
    return json.dumps({"format": FORMAT, "sha256": _digest(content), "policies": content}, indent=1) + "\n"


def policies_from_text(text: str, name: str, like: Any, about: Mapping[str, Any], where: str = "policies") -> Any:
    """Return one of the policies of a text.

    Args:
        text: what `policies_to_text` returned.
        name: of the policy.
        like: pytree of the same structure, shapes and types.
        about: what the policy must have been trained for.
        where: what the messages call the text, for example its path.

    Raises:
        DataError: if the text is none of policies, was changed, or holds no policy of this name.
        ConfigurationError: if the policy was trained for something else, or has another architecture.
    """
    content = _content(text, where)
    if name not in content:
        raise DataError(f"{where}: there is no policy {name!r}, but {', '.join(content)}")
    found = content[name]
    expected = json.loads(json.dumps(dict(about)))
    for key in sorted({*expected, *found["about"]}):
        if expected.get(key) != found["about"].get(key):
            raise ConfigurationError(
                f"{where}: the policy {name!r} was trained for {key} = {found['about'].get(key)!r}, but is used for "
                f"{expected.get(key)!r}; train one for it"
            )
    leaves, structure = jax.tree.flatten(like)
    if list(found["numbers"]) != paths_of(like):
        raise ConfigurationError(
            f"{where}: the policy {name!r} has another architecture: {', '.join(found['numbers'])}"
        )
    restored = [np.asarray(numbers, np.asarray(leaf).dtype)
                for numbers, leaf in zip(found["numbers"].values(), leaves, strict=True)]  # fmt: skip
    for path, new, old in zip(found["numbers"], restored, leaves, strict=True):
        if new.shape != jnp.shape(old) or not np.isfinite(new).all():
            raise ConfigurationError(
                f"{where}: the policy {name!r} holds numbers of shape {new.shape} at {path}, where finite ones "
                f"of shape {jnp.shape(old)} are expected"
            )
    return jax.tree.unflatten(structure, [jnp.asarray(leaf) for leaf in restored])


def read_policies(path: str | Path) -> str:
    """Return the text of a file of policies, its checksum verified.

    Raises:
        DataError: if it cannot be read, or is none, or was changed.
    """
    try:
        text = Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as a file of policies ({error})") from None
    _content(text, str(path))
    return text


def _content(text: str, where: str) -> dict[str, Any]:
    try:
        whole = json.loads(text)
        content, digest, version = whole["policies"], whole["sha256"], whole["format"]
        sound = all(isinstance(one["about"], dict) and isinstance(one["numbers"], dict) for one in content.values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        sound = False
    if not sound:
        raise DataError(f"{where}: no file of policies; take the policies.json of a run")
    if version != FORMAT:
        raise DataError(f"{where}: has format {version}, but this version reads {FORMAT}")
    if digest != _digest(content):
        raise DataError(f"{where}: was changed after it was written (its checksum is wrong); take it from a copy")
    return dict(content)


def _numbers(policy: Any) -> dict[str, Any]:
    leaves = [np.asarray(leaf).tolist() for leaf in jax.tree.leaves(policy)]
    return dict(zip(paths_of(policy), leaves, strict=True))


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
