"""One simulation of a storm sewer of pystorms, driven by lines of JSON.

Licence: pystorms is under the GPL-3, so this script together with pystorms is used under the terms of the GPL-3. It is
a program of its own, which needs nothing else of this repository and which nothing here imports: `benchmarks.storms`
starts it, with the Python of an environment of its own, and talks with it over standard input and output. It may be
left out or passed on separately.

    python storms_server.py SCENARIO SECONDS HOURS

writes {"hours": ..., "depths": [...], "done": false} at the start and then after every SECONDS of simulated time (0:
after every step of the simulation), and reads {"settings": [...] or null} after each (null: leave the valves as they
are). At the end, or after HOURS, it writes {"done": true, "cost": ..., "steps": ..., "hours": ..., "flooded": {basin:
[steps, hours]}, "depths": [...], "deepest": [...]}: what pystorms counts, the number of steps, their time, where and
how long it was flooded, the last depths, and those at which the basins are full.
"""

import contextlib
import json
import os
import sys


def main(scenario: str, seconds: float, most: float) -> None:
    """Run one simulation, or its first hours."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # the simulator's own messages do not get between the lines
    import pystorms
    from pyswmm.toolkitapi import NodeParams

    env = getattr(pystorms.scenarios, scenario)()
    clock = env.env.methods["simulation_time"]
    start = clock()
    done, steps, hours, after, settings = False, 0, 0.0, 0.0, None
    flooded = {basin: [0, 0.0] for basin in env.data_log["flooding"]}
    depths = [float(depth) for depth in env.state()]
    full = NodeParams.fullDepth.value
    deepest = [env.env.sim._model.getNodeParam(basin, full) for basin, _ in env.config["states"]]
    while not done and hours < most:
        if 3600 * hours >= after:
            out.write(json.dumps({"hours": hours, "depths": depths, "done": False}) + "\n")
            settings = json.loads(sys.stdin.readline())["settings"]
            after = 3600 * hours + seconds
        done = bool(env.step(settings))
        steps += 1
        if not done:  # after the end there is nothing to ask
            before, hours = hours, (clock() - start).total_seconds() / 3600
            depths = [float(depth) for depth in env.state()]
            for basin, found in flooded.items():
                if env.data_log["flooding"][basin][-1] > 0:
                    found[0] += 1
                    found[1] += hours - before
    report = {"steps": steps, "hours": hours, "flooded": flooded, "depths": depths, "deepest": deepest}
    cost = float(env.performance()) if steps else 0.0
    out.write(json.dumps({"done": True, "cost": cost} | report) + "\n")


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main(sys.argv[1], float(sys.argv[2]), float(sys.argv[3]))
