"""Environments: what an agent may do, and what it sees and gets for it.

Any model with a control and a cost is one, observed exactly or through an assimilation. All are pure functions of
pytrees: thousands of them are one `jax.vmap`, and gradients pass through their steps.
"""

from diffassim.decisions import problems
from diffassim.decisions.belief import BeliefEnvironment, BeliefState
from diffassim.decisions.control import Control, ParameterControl, StateIncrement
from diffassim.decisions.environment import Decided, Environment, Transition
from diffassim.decisions.expectation import expected_returns
from diffassim.decisions.filter_environment import FilterEnvironment, FilterState
from diffassim.decisions.finite import FiniteProblem
from diffassim.decisions.fronts import hypervolume, pareto_front
from diffassim.decisions.grid import GridPolicy
from diffassim.decisions.gymnasium_environment import to_gymnasium
from diffassim.decisions.gymnax_environment import GymnaxEnvironment
from diffassim.decisions.model_environment import ModelEnvironment, ModelState
from diffassim.decisions.play import Experience, Play, begin, episode_returns, go_on, random_policy
from diffassim.decisions.problems import Basin, Lake, WaterReservoir
from diffassim.decisions.spaces import Box, Discrete
from diffassim.decisions.wrappers import Afterstates, Discretized, Scalarized

__all__ = [
    "Afterstates",
    "Basin",
    "BeliefEnvironment",
    "BeliefState",
    "Box",
    "Control",
    "Decided",
    "Discrete",
    "Discretized",
    "Environment",
    "Experience",
    "FilterEnvironment",
    "FilterState",
    "FiniteProblem",
    "GridPolicy",
    "GymnaxEnvironment",
    "Lake",
    "ModelEnvironment",
    "ModelState",
    "ParameterControl",
    "Play",
    "Scalarized",
    "StateIncrement",
    "Transition",
    "WaterReservoir",
    "begin",
    "episode_returns",
    "expected_returns",
    "go_on",
    "hypervolume",
    "pareto_front",
    "problems",
    "random_policy",
    "to_gymnasium",
]
