"""Two basins that drain through valves: a small program that speaks as `benchmarks/storms_server.py` does."""

import json
import sys


def main(scenario: str, seconds: float, most: float) -> None:
    if scenario == "broken":
        sys.exit(1)
    depths, settings, cost, step, after, flooded = [0.0, 0.0], None, 0.0, 0, 0.0, [0, 0]
    while step < 120 and step / 60 < most:
        if 60 * step >= after:
            print(json.dumps({"hours": step / 60, "depths": depths, "done": False}), flush=True)
            settings = json.loads(sys.stdin.readline())["settings"]
            after = 60 * step + seconds
        open_ = [1.0, 1.0] if settings is None else settings
        flow = [min(max(s, 0.0), 1.0) * 0.1 * d for s, d in zip(open_, depths, strict=True)]
        inflow = 0.125 if step < 60 else 0.0
        depths = [d + (k + 1) * inflow / 2 - f for k, (d, f) in enumerate(zip(depths, flow, strict=True))]
        for k in range(2):
            if depths[k] > 2:
                flooded[k], depths[k], cost = flooded[k] + 1, 2.0, cost + 100
        cost += max(sum(flow) - 0.1, 0)
        step += 1
    told = {name: [n, n / 60] for name, n in zip("ab", flooded, strict=True)}
    report = {"cost": cost, "steps": step, "hours": step / 60, "flooded": told, "depths": depths, "deepest": [2.0, 2.0]}
    print(json.dumps({"done": True} | report), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), float(sys.argv[3]))
