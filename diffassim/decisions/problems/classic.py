"""Small problems from the textbook, whose values are known."""

from __future__ import annotations

import numpy as np

from diffassim.decisions.finite import FiniteProblem

__all__ = ["cliff_walk", "five_by_five", "four_by_four", "random_walk"]

MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))  # up, right, down, left


def random_walk(states: int = 5) -> FiniteProblem:
    """Return a walk to the left or right by chance, with reward 1 at the right end; it has one action.

    The value of state k = 1, ..., n without discount is k / (n + 1).

    Args:
        states: number of states between the ends.

    Example:
        >>> random_walk().rewards[:, 0].tolist()
        [0.0, 0.0, 0.0, 0.0, 0.5]

    Source: Sutton and Barto (2018), example 6.2.
    """
    P = 0.5 * (np.eye(states, k=1) + np.eye(states, k=-1))
    rewards = np.zeros((states, 1))
    rewards[-1] = 0.5
    start = np.zeros(states)
    start[states // 2] = 1
    return FiniteProblem(P[None], rewards, start)


def five_by_five() -> FiniteProblem:
    """Return the grid with two special places, from which every action leads on with rewards 10 and 5.

    Its values under the random policy and the best one, with a discount of .9, are in the book.

    Source: Sutton and Barto (2018), examples 3.5 and 3.8.
    """
    P, rewards = _moves(5, 5)
    for place, target, reward in ((1, 21, 10.0), (3, 13, 5.0)):
        P[:, place], rewards[place] = 0, reward
        P[:, place, target] = 1
    return FiniteProblem(P, rewards)


def four_by_four() -> FiniteProblem:
    """Return the grid with two terminal corners and a reward of -1 for each move; without discount.

    Source: Sutton and Barto (2018), example 4.1.
    """
    P, _ = _moves(4, 4)
    P[:, [0, 15]] = 0  # terminal: nothing follows, and nothing is lost
    P[:, :, [0, 15]] = 0
    rewards = -np.ones((16, 4))
    rewards[[0, 15]] = 0
    start = np.ones(16) / 14
    start[[0, 15]] = 0
    return FiniteProblem(P, rewards, start)


def cliff_walk() -> FiniteProblem:
    """Return the grid of 4 by 12 with a cliff between start and goal: -1 for a move, -100 and back at the cliff.

    The best return from the start is -13.

    Source: Sutton and Barto (2018), example 6.6.
    """
    P, _ = _moves(4, 12)
    rewards = -np.ones((48, 4))
    first, goal, cliff = 36, 47, np.arange(37, 47)
    over = P[:, :, cliff].sum(-1)
    rewards -= 99 * over.T
    P[:, :, first] += over
    P[:, :, cliff] = 0
    P[:, :, goal] = 0
    P[:, goal], rewards[goal] = 0, 0
    start = np.zeros(48)
    start[first] = 1
    return FiniteProblem(P, rewards, start)


def _moves(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Return transitions and rewards of moves that stay within a grid; a move against its edge costs 1."""
    P, rewards = np.zeros((4, rows * columns, rows * columns)), np.zeros((rows * columns, 4))
    for action, (down, right) in enumerate(MOVES):
        for k in range(rows * columns):
            row, column = divmod(k, columns)
            inside = 0 <= row + down < rows and 0 <= column + right < columns
            P[action, k, (row + down) * columns + column + right if inside else k] = 1
            rewards[k, action] = 0 if inside else -1
    return P, rewards
