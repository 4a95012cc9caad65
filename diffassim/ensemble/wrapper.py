"""What methods share that steer another filter: its checks, its preparation, its forecast."""

from __future__ import annotations

from typing import Any

from diffassim.core.errors import ConfigurationError
from diffassim.ensemble.base import EnsembleMethod
from diffassim.methods.members import mean, spread
from diffassim.methods.sequential import SequentialMethod

__all__ = ["FilterWrapper"]


class FilterWrapper(SequentialMethod):
    """Base of methods whose belief is an ensemble with something beside it, and that let a filter analyse it.

    A subclass defines `init` and `analyze`, and `forecast` if what is beside the members changes on the way.

    Args:
        filter: any `EnsembleMethod`.

    Raises:
        ConfigurationError: if `filter` is no ensemble filter.
    """

    filter: Any

    def __post_init__(self) -> None:
        if not isinstance(self.filter, EnsembleMethod):
            raise ConfigurationError(
                f"{type(self).__name__}: filter must be an ensemble filter like ETKF() or LETKF(...), found "
                f"{type(self.filter).__name__}"
            )

    @property
    def random(self) -> bool:
        """Whether the filter draws random numbers."""
        return self.filter.random

    def check(self, belief: Any, observations: Any) -> None:
        """Check what the filter needs."""
        self.filter.check(belief.members, observations)

    def prepared(self, belief: Any, streams: tuple[Any, ...], rows: Any = None, real: Any = None) -> tuple[Any, Any]:
        """Return the method whose filter is prepared."""
        prepared, numbers = self.filter.prepared(belief.members, streams, rows, real)
        return self.replace(filter=prepared), numbers

    def at(self, number: Any) -> Any:
        """Return the method whose filter is that of a time with this number."""
        return self.replace(filter=self.filter.at(number))

    def forecast(self, key: Any, propagate: Any, belief: Any) -> Any:
        """Return the members at the next analysis time, and the rest as it is."""
        return belief.replace(members=self.filter.forecast(key, propagate, belief.members))

    def moments(self, belief: Any) -> tuple[Any, Any]:
        """Return mean and standard deviation of every component of the state."""
        return mean(belief.members), spread(belief.members)
