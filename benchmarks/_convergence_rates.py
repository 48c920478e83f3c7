"""Selection of the learning rates of `convergence.py`: final errors on the validation subjects.

Run it by hand (20 minutes on two cores): python benchmarks/_convergence_rates.py
"""

import statistics
import tempfile
from pathlib import Path

from _hand_problem import VALIDATION, make_shards
from convergence import PICKED, SEQUENCES, Job, train_all, workers

RATES = (5e-4, 1e-3, 2e-3, 4e-3)
SEEDS = (100, 101)  # not those of the comparison


def main() -> None:
    """Print the final MPJPE of each method at each rate, mean over seeds."""
    with tempfile.TemporaryDirectory() as folder, workers(make_shards(Path(folder), SEQUENCES)) as pool:
        jobs = [Job(m, rate, seed, VALIDATION) for m in PICKED for rate in RATES for seed in SEEDS]
        curves = train_all(pool, jobs)
    for method in PICKED:
        for rate in RATES:
            final = statistics.mean(curves[Job(method, rate, seed, VALIDATION)].final() for seed in SEEDS)
            print(f"{method:12} {rate:g}: {final:.1f} mm")


if __name__ == "__main__":
    main()
