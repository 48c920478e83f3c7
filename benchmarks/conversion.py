"""Conversion against a straightforward script, against the lower bound of one core, and the cost of visibility.

The sample generator paints images at ARCTIC's sizes (2800x2000 at about 0.35 MB, 1000x1000 at about 0.06 MB), in all
nine views, two hands each. Every process has one thread. Per-core rows compare processor time; end-to-end rows
compare hands per second, ours on two processes against the plain script on one, without visibility, page cache warm,
start-up excluded, 256 px crops of the box itself (no margin) from both. They use wall time if the processes had
their cores to themselves; on a busier machine they use processor time, and the unit states it. Rows that end in
`_region` decode regions as a conversion does: they are cut out of the file. The others decode whole images.
"""

import os
import shutil
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from _crops import CROP_PX, DECODING, measure_crops
from _frames import SUBJECT, make_base, paint, write_source
from _measure import Row, from_rounds, run
from _plain import PlainConverter
from _workers import Timed, Workers

from hawor_pipeline.config import ConversionConfig
from hawor_pipeline.conversion.decode import CUTTING_VARIABLE

GOALS = {
    "whole": {"e2e_full_lean": 2.7, "e2e_full": 4.5, "e2e_crop_lean": 3.5, "e2e_crop": 9.0},
    "region": {"e2e_full_lean": 8.0, "e2e_full": 10.0, "e2e_crop_lean": 5.5, "e2e_crop": 13.0},
}
SHORT = {"images": "full", "cropped_images": "crop"}
MARGIN = 1.0  # side of the crop over the side of the box
OWN_CORES = 0.93  # share of the wall time that a process must have had a core for wall times to be comparable
COPIES = 32  # of the three moments in a sequence: 96 frames; ARCTIC has some 700
PLAIN_COPIES = 2  # the plain script converts a shorter one, because only rates are compared


@dataclass(frozen=True, slots=True)
class Job:
    """One sequence to convert."""

    root: Path
    sequence: str
    output: Path
    decoding: str  # a value of DECODING
    visibility: bool = False


@dataclass(frozen=True, slots=True)
class PlainJob:
    """One sequence for the plain script."""

    root: Path
    image_source: str
    sequence: str
    output: Path
    mesh: bool


def convert(job: Job) -> float:
    """Convert one sequence with this project and return the number of hands."""
    from hawor_pipeline.conversion import decode
    from hawor_pipeline.conversion import posed_scene as scene
    from hawor_pipeline.conversion.convert_sequence import convert_sequence
    from hawor_pipeline.conversion.planning import plan_subject
    from hawor_pipeline.conversion.prepare import open_job

    if os.environ.get(CUTTING_VARIABLE) != job.decoding:
        os.environ[CUTTING_VARIABLE] = job.decoding
        decode._of_thread.__dict__.clear()
    scene.measure_contacts = _measure_contacts(scene) if job.visibility else lambda *_: None
    work = open_job(job.root, job.output, ConversionConfig(crop_margin=MARGIN), sequences=[job.sequence])
    return sum(convert_sequence(task).info.rows for task in plan_subject(work, SUBJECT).tasks)


def _measure_contacts(scene):
    """Return the original function of a module, even after it was replaced."""
    if not hasattr(scene, "_kept"):
        scene._kept = scene.measure_contacts
    return scene._kept


def warm_up(job: Job) -> float:
    """Store the original functions before any is replaced, and convert once."""
    from hawor_pipeline.conversion import posed_scene as scene

    _measure_contacts(scene)
    return convert(job)


def convert_plainly(job: PlainJob) -> float:
    """Convert one sequence with the plain script and return the number of hands."""
    converter = _plain_converter(job.root, job.mesh)
    folder = job.root / "arctic" / job.image_source / SUBJECT / job.sequence
    return converter.convert(folder, SUBJECT, job.sequence, job.output, _frames_of(job), MARGIN)


def _plain_converter(root: Path, mesh: bool) -> PlainConverter:
    key = (root, mesh)
    if key not in _converters:
        _converters[key] = PlainConverter(root, crop_px=CROP_PX, mesh=mesh)
    return _converters[key]


_converters: dict = {}
_known_frames: dict = {}


def _frames_of(job: PlainJob) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Return the position of each view's files in full frames, which the plain script gets for free."""
    from hawor_pipeline.sources.arctic_reader import ArcticReader

    key = (job.root, job.sequence)
    if key not in _known_frames:
        reader = ArcticReader(job.root, Path())
        ref = next(ref for ref in reader.sequences(SUBJECT) if ref.sequence == job.sequence)
        (take,) = reader.takes(ref, None, range(9))
        assert reader.image_source == job.image_source
        frames = {view: take.file_frame(view) for view in take.cameras}
        _known_frames[key] = {view: (frame.scale, frame.shift) for view, frame in frames.items()}
    return _known_frames[key]


@dataclass(slots=True)
class Sources:
    """Raw data of one image source for both ways, and a folder for their outputs."""

    image_source: str
    ours: Path
    sequences: list[str]
    plain: Path
    plain_sequence: str
    output: Path
    written: int = 0

    def fresh(self) -> Path:
        """Create a new output folder, because overwriting files costs more than creating them."""
        self.written += 1
        return self.output / str(self.written)

    def jobs(self, processes: int, decoding: str, *, visibility: bool = False) -> list[list[Job]]:
        """Return one sequence for each process."""
        folder = self.fresh()
        names = self.sequences[:processes]
        return [[Job(self.ours, name, folder / name, decoding, visibility)] for name in names]

    def plain_jobs(self, *, mesh: bool) -> list[list[PlainJob]]:
        """Return one sequence for one process."""
        return [[PlainJob(self.plain, self.image_source, self.plain_sequence, self.fresh(), mesh)]]


def measure_sources(workers: Workers, source: Sources, rounds: int) -> list[Row]:
    """Measure the end-to-end rows of one image source."""
    short = SHORT[source.image_source]
    for decoding in DECODING.values():
        workers.run(warm_up, source.jobs(2, decoding))
    for mesh in (False, True):
        workers.run(convert_plainly, source.plain_jobs(mesh=mesh))
    timed: dict[str, list[Timed]] = {}
    for _ in range(rounds):
        for mesh, name in ((False, "plain lean"), (True, "plain")):
            timed.setdefault(name, []).append(workers.run(convert_plainly, source.plain_jobs(mesh=mesh)))
        for way, decoding in DECODING.items():
            for processes in (1, 2):
                jobs = source.jobs(processes, decoding)
                timed.setdefault(f"{way} {processes}", []).append(workers.run(convert, jobs))
        seen = source.jobs(1, DECODING["region"], visibility=True)
        timed.setdefault("with visibility", []).append(workers.run(convert, seen))
        shutil.rmtree(source.output, ignore_errors=True)
    rows = []
    for way in DECODING:
        suffix = "" if way == "whole" else "_region"
        for lean, plain in (("_lean", "plain lean"), ("", "plain")):
            name = f"e2e_{short}{lean}"
            ratios, unit = _compare(timed[f"{way} 2"], timed[plain])
            rows.append(from_rounds(name + suffix, ratios, f"times plain, {unit}", GOALS[way][name], "higher"))
    ratios = [
        with_it.cpu_s / without.cpu_s
        for with_it, without in zip(timed["with visibility"], timed["region 1"], strict=True)
    ]
    name = "visibility_cost" if source.image_source == "images" else "visibility_cost_crop"
    rows.append(from_rounds(name, ratios, "with / without, region decoding", 1.2, "lower"))
    if source.image_source == "images":
        two, one = timed["whole 2"], timed["whole 1"]
        ratios, unit = _compare(two, one)
        rows.append(from_rounds("e2e_scaling", [r / 2 for r in ratios], f"rate of 2 / twice 1, {unit}", 0.9, "higher"))
    _print_rates(short, timed)
    return rows


def _compare(ours: list[Timed], theirs: list[Timed]) -> tuple[list[float], str]:
    """Return the rates of several processes over those of one per round, and print their parts."""
    alone = min(t.cpu_s / (t.wall_s * t.processes) for t in (*ours, *theirs))
    if alone >= OWN_CORES:
        return [o.rate / t.rate for o, t in zip(ours, theirs, strict=True)], "wall time"
    pairs = zip(ours, theirs, strict=True)
    return [o.processes * o.per_core / t.per_core for o, t in pairs], "processor time (busy machine)"


def _print_rates(short: str, timed: dict[str, list[Timed]]) -> None:
    print(f"\n{short}: hands per second of wall time, and per second of processor time (median of rounds)")
    for name, rounds in timed.items():
        rate, per_core = (statistics.median(getattr(t, what) for t in rounds) for what in ("rate", "per_core"))
        share = statistics.median(t.cpu_s / t.wall_s for t in rounds)
        print(f"  {name:18} {rate:8.1f} {per_core:8.1f}   ({share:.2f} cores used)")


def measure(quick: bool) -> list[Row]:
    """Measure all rows."""
    rounds = 3 if quick else 5
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder, Workers(2) as workers:
        base = Path(folder) / "base"
        spec = make_base(base)
        for image_source in SHORT:
            images = paint(base, spec, image_source)
            print(f"{image_source}: {len(images.jpegs)} images of {images.mean_bytes / 1e6:.3f} MB")
            if image_source == "images":
                rows += measure_crops(images, rounds)
            ours, plain = Path(folder) / image_source, Path(folder) / f"{image_source}_plain"
            names = write_source(base, ours, images, COPIES, 2)
            short = write_source(base, plain, images, PLAIN_COPIES, 1)
            source = Sources(image_source, ours, names, plain, short[0], Path(folder) / "written")
            rows += measure_sources(workers, source, rounds)
    return rows


if __name__ == "__main__":
    run(measure, "Conversion: speed against the plain script and against the machine")
