"""The command of the closed loop."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import cyclopts
from cyclopts import Parameter

from diffassim.cli.environment import FAILED, checked_stop_code, configure_jax, need_data_extra
from diffassim.cli.watching import interruptible, progress
from diffassim.core.errors import ConfigurationError

__all__ = ["add_loop"]

DEFAULT = "river-loop"


def loop(
    experiment: str = DEFAULT,
    /,
    *,
    settings: Annotated[tuple[str, ...], Parameter(name="--set", negative=(), show_default=False)] = (),
    out: Path | None = None,
    once: Annotated[bool, Parameter(negative=())] = False,
    until: str = "",
    rollback: Annotated[bool, Parameter(negative=())] = False,
    stop_code: int = 0,
) -> None:
    """Collect rows, train, compare, promote and feed back, round after round; a stopped loop goes on where it stopped.

    Parameters
    ----------
    experiment
        river-loop, twin-loop, or a TOML file with the key `experiment`.
    settings
        A changed setting, key=value; may be repeated.
    out
        Directory of the loop; default results/NAME.
    once
        At most one round.
    until
        Only rounds whose rows lie before this day, such as 1984-12-31.
    rollback
        Go back to the model before the one in use; nothing is deleted.
    stop_code
        Exit code after SIGTERM; 143 for schedulers that take 0 for finished.
    """
    need_data_extra()
    checked_stop_code(stop_code)
    from diffassim.experiments import find_experiment
    from diffassim.experiments.framework.configuration import build_configuration, parse_setting, read_toml
    from diffassim.experiments.loop.base import LoopExperiment
    from diffassim.experiments.loop.rounds import roll_back_loop, run_loop

    name, values = read_toml(Path(experiment)) if experiment.endswith(".toml") else (experiment, {})
    values |= dict(map(parse_setting, settings))
    found = find_experiment(name)
    if not isinstance(found, LoopExperiment):
        raise ConfigurationError(f"loop: {name} is a run and no loop; use: diffassim run {experiment}")
    config: Any = build_configuration(found.configuration, values, name)
    configure_jax(config.dtype)
    directory = Path("results") / name if out is None else out
    if rollback:
        if once or until:
            raise ConfigurationError("--rollback stands alone: no round is run with it")
        before, now = roll_back_loop(found, config, directory)
        print(f"model {now} is in use again, and model {before} no more; both are kept in {directory / 'models'}")
        return
    again = f"diffassim loop {experiment} --out {directory}"
    with interruptible(directory, again, stop_code), progress() as watcher:
        outcome = run_loop(found, config, directory, once=once, until=until, tell=watcher.tell)
    print(outcome.table.rstrip())
    if outcome.waiting:
        print(f"\n{outcome.waiting}")
    print(f"\nindex.html, the store, all rounds and models: {directory}")
    if once and not outcome.finished:
        raise SystemExit(FAILED)


def add_loop(app: cyclopts.App) -> None:
    """Register the command."""
    app.command(loop)
