"""Agents: policies from tables, from sampling, and from the gradient through the simulator.

Each is a pure function over a pytree: `agent.init(environment, key)`, `agent.train(environment, state, updates)`,
`agent.policy(environment, state)`. Training can be batched over keys, environments and settings by `jax.vmap`.
"""

from diffassim.training.reinforcement.agent import Agent
from diffassim.training.reinforcement.dynamic_programming import (
    Plan,
    backward_induction,
    evaluate,
    planned_returns,
    policy_iteration,
    value_iteration,
)
from diffassim.training.reinforcement.monte_carlo import MonteCarlo
from diffassim.training.reinforcement.pathwise import Pathwise, mean_return
from diffassim.training.reinforcement.policies import ActorCritic, CategoricalPolicy, GaussianPolicy
from diffassim.training.reinforcement.policy_file import policies_from_text, policies_to_text, read_policies
from diffassim.training.reinforcement.policy_gradient import PolicyGradient
from diffassim.training.reinforcement.ppo import PPO
from diffassim.training.reinforcement.rollouts import actor_critic, policy_for
from diffassim.training.reinforcement.tables import GreedyPolicy
from diffassim.training.reinforcement.temporal_difference import SARSA, QLearning

__all__ = [
    "PPO",
    "SARSA",
    "ActorCritic",
    "Agent",
    "CategoricalPolicy",
    "GaussianPolicy",
    "GreedyPolicy",
    "MonteCarlo",
    "Pathwise",
    "Plan",
    "PolicyGradient",
    "QLearning",
    "actor_critic",
    "backward_induction",
    "evaluate",
    "mean_return",
    "planned_returns",
    "policies_from_text",
    "policies_to_text",
    "policy_for",
    "policy_iteration",
    "read_policies",
    "value_iteration",
]
