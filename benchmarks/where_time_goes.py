"""Ask where the seconds of a fit go that starts from nothing: a process of its own, programs compiled before.

The run of `fit_speed.py` (200 intervals of 300 samples, K = p = 3, impact R) is fitted twice, each time in a new
process, with a cache of programs that is empty the first time. Of each are given: seconds of imports; of the
statistics; until every submodel has its mode and a first moment of sampling (``begin``: tracing, lowering, compiling or
reading back, which JAX counts apart, in two threads at a time, so that they may add up to more); of sampling with that;
of the posterior's tables, diagnostics, the probability of separation, and what `lesde fit` prints.

    python benchmarks/where_time_goes.py [--parts all|rates] [--json FILE]

Prints JSON.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any

from json_result import give

STAGES = {"compute_statistics": "statistics", "build_posterior": "posterior", "probability_separable": "separation"}
EVENTS = {
    "/jax/core/compile/jaxpr_trace_duration": "tracing",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lowering",
    "/jax/core/compile/backend_compile_duration": "compiling_or_reading_back",
}


def fit_here(path: Path, parts: str) -> dict[str, Any]:
    """Fit in this process, and return seconds by stage."""
    start = time.perf_counter()
    import jax

    import lesde_infer.inference as inference
    from lesde_infer.fit_result import Fit
    from lesde_infer.submodel_sampler import SubmodelSampler

    seconds, within, lock = Counter({"imports": time.perf_counter() - start}), Counter[str](), Lock()

    def count(event: str, duration: float, **_: object) -> None:
        with lock:
            within[EVENTS.get(event, "")] += duration

    def clock(owner: Any, name: str, stage: str) -> None:
        function: Callable[..., Any] = getattr(owner, name)

        def timed(*given: Any, **named: Any) -> Any:
            begun = time.perf_counter()
            try:
                return function(*given, **named)
            finally:
                with lock:
                    seconds[stage] += time.perf_counter() - begun

        setattr(owner, name, timed)

    jax.monitoring.register_event_duration_secs_listener(count)
    for name, stage in STAGES.items():
        clock(inference, name, stage)
    clock(inference.ConcurrentSampler, "run_until", "begin_and_sampling")
    clock(SubmodelSampler, "begin", "begin_of_all_threads")
    clock(Fit, "diagnostics", "diagnostics")
    found = inference.fit(path, impact="R", curve="gp", seed=0, parts=parts)  # type: ignore[arg-type]
    begun = time.perf_counter()
    found.to_json()
    seconds["printing"] = time.perf_counter() - begun
    return {
        "total": time.perf_counter() - start,
        "processor": time.process_time(),
        "gradients": int(found.data["sample_stats"]["n_steps_by_submodel"].sum()),
        "draws": int(found.posterior.sizes["draw"]),
        "stages": dict(seconds),
        "jax_all_threads": {name: within[name] for name in EVENTS.values()},
    }


def main() -> None:
    """Run the benchmark and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--parts", choices=["all", "rates"], default="all")
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    parser.add_argument("--fit", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.fit is not None:
        print(json.dumps(fit_here(arguments.fit, arguments.parts)))
        return
    from fit_speed import simulated_run

    result: dict[str, Any] = {"cores": os.cpu_count(), "load_average": os.getloadavg(), "parts": arguments.parts}
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run.h5"
        simulated_run(run)
        command = [sys.executable, __file__, "--fit", str(run), "--parts", arguments.parts]
        for turn in ("first", "second"):
            environment = {**os.environ, "XDG_CACHE_HOME": folder}
            done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
            result[turn] = json.loads(done.stdout)
    give(result, arguments.json)


if __name__ == "__main__":
    main()
