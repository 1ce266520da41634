"""``make faults``: every scenario in its long form, and the tables of what went wrong."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable

from tests.faults.outcome import Outcome, table
from tests.faults.rig import Rig, running_rig
from tests.faults.scenarios.brokers import broker_kills, rebalances, registry_away
from tests.faults.scenarios.kills import kills
from tests.faults.scenarios.objectstore import object_store_away, object_store_kills
from tests.faults.scenarios.payloads import malformed, redelivered, remade_topics
from tests.faults.scenarios.storage import full_disks, power_cuts
from tests.faults.scenarios.transactions import transactions
from tests.faults.scenarios.zombies import second_drains, zombies
from tests.faults.serving import SCENARIOS as SERVING
from tests.faults.serving import run as run_serving
from tests.faults.serving import table as serving_table

Scenario = Callable[[Rig, int, int], Outcome]

#: By option: the scenario, how often in the long form, and its share of the events in percent.
SCENARIOS: dict[str, tuple[Scenario, int, int]] = {
    "kills": (kills, 1000, 100),
    "transactions": (transactions, 100, 5),
    "zombies": (zombies, 500, 10),
    "broker-kills": (broker_kills, 200, 5),
    "rebalances": (rebalances, 200, 5),
    "full-disks": (full_disks, 100, 5),
    "duplicates": (redelivered, 1_000_000, 5),
    "malformed": (malformed, 100_000, 0),
    "power-cuts": (power_cuts, 200, 5),
    "second-drains": (second_drains, 50, 3),
    "remade-topics": (remade_topics, 30, 1),
    "registry-away": (registry_away, 30, 1),
    "object-store-away": (object_store_away, 30, 1),
    "object-store-kills": (object_store_kills, 60, 1),
}
SEED = 20130101


def main() -> int:
    """Run the scenarios that were asked for; 0 if nothing is lost, twice, out of order or otherwise wrong."""
    parser = argparse.ArgumentParser(
        description="Disturbs drain and serving in every way, and judges what became of it"
    )
    parser.add_argument("--events", type=int, default=10_000_000, help="of the kills; the others have a share of it")
    parser.add_argument("--only", help="comma-separated scenarios; default: all")
    parser.add_argument("--seed", type=int, default=SEED)
    defaults = {name: times for name, (_, times, _) in SCENARIOS.items()}
    defaults |= {name: times for name, (_, times) in SERVING.items()}
    for name, times in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=times, metavar="TIMES")
    options = parser.parse_args()
    wanted = options.only.split(",") if options.only else list(defaults)
    if unknown := set(wanted) - set(defaults):
        parser.error(f"there is no scenario {', '.join(sorted(unknown))}; there are {', '.join(defaults)}")
    served = {name: times for name in wanted if name in SERVING and (times := getattr(options, name.replace("-", "_")))}
    good = _serving(served) if served else True
    drained = _draining([name for name in wanted if name in SCENARIOS], options)
    return 0 if good and drained else 1


def _serving(wanted: dict[str, int]) -> bool:
    """The serving chain's scenarios; whether nothing went wrong."""
    outcomes = run_serving(wanted)
    print(serving_table(outcomes))
    for outcome in outcomes:
        for said in outcome.wrong[:10]:
            print(f"{outcome.fault}: {said}")
    return not any(outcome.wrong for outcome in outcomes)


def _draining(wanted: list[str], options: argparse.Namespace) -> bool:
    """The drain's scenarios; whether nothing is lost, twice or out of order."""
    outcomes = []
    for name in wanted:
        scenario, _, share = SCENARIOS[name]
        times = getattr(options, name.replace("-", "_"))
        if times:
            print(f"{name}: {times:,} times", file=sys.stderr, flush=True)
            outcomes.append(_run(name, scenario, times, options.events * share // 100, options.seed))
            print(table(outcomes[-1:]), file=sys.stderr, flush=True)
    if outcomes:
        print(table(outcomes))
    for outcome in outcomes:
        if outcome.failure:
            print(f"\n{outcome.fault}: {outcome.failure}")
    return all(outcome.passed for outcome in outcomes)


def _run(name: str, scenario: Scenario, times: int, events: int, seed: int) -> Outcome:
    """One scenario on a platform of its own; what goes wrong is part of the outcome, so that the others still run."""
    try:
        with running_rig(seed) as rig:
            return scenario(rig, times, events)
    except Exception as error:
        traceback.print_exc()
        return Outcome(name, failure=f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    sys.exit(main())
