"""Conversion under faults: 30 kills at random moments, and 2,000 damaged inputs.

Kills: SIGKILL to the whole process group after a random time, repeatedly, then one run to the end; the shards must be
equal to those of an undisturbed run, byte for byte. Damaged inputs: cut files, wrong shapes and counts, non-finite
values, missing, empty and foreign images (1,400), and flipped bits (600) with ARCTIC's zips next to the unpacked files,
because only their checksums detect a flipped bit that still decodes. Each case must end in a clear error or in the
ledger. Flipped bits without the zips are counted, too, to show how many remain undetected.

Damaged JPEGs: pages of zeros, of the same file, of another one and of random bytes, lost and repeated pages, and cut
ends, at pages of files of all kinds. Decoding regions must refuse what whole decoding by libjpeg refuses.
"""

import collections
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
import psutil
from _corrupt import SUBJECT, Source, flipped, judge, structural
from _damaged_jpegs import count_accepted
from _measure import Row, from_rounds, run

from hawor_pipeline.sample.spec import SampleSpec
from hawor_pipeline.sample.write import ensure_sample

KILLED = """
import sys
from hawor_pipeline.config import ConversionConfig
from hawor_pipeline.conversion.prepare import convert_subjects
if __name__ == "__main__":
    settings = ConversionConfig(target_resolution=(64, 64), views=(0, 1))
    convert_subjects(sys.argv[1], None, ["s01", "s05"], sys.argv[2], settings, workers=2)
"""


def make_sample(root: Path, sequences: int) -> Path:
    """Generate a small sample and return its folder `arctic`."""
    spec = SampleSpec(("s01", SUBJECT), sequences, 8, (0, 1), image_scale=0.15)
    ensure_sample(root, spec, workers=2)
    return root / "arctic"


def tree(folder: Path) -> dict[str, bytes]:
    """Return the hash of every published file."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.glob("s*/**/*")) if p.is_file()}


def kill_often(arctic: Path, work: Path, kills: int, seed: int = 0) -> tuple[int, int, int]:
    """Kill conversions at random moments, then let one finish.

    Returns:
        Lost samples, duplicated samples, and files that differ from those of an undisturbed run.
    """
    rng = np.random.default_rng(seed)
    script = work / "convert.py"
    script.write_text(KILLED)
    command = [sys.executable, str(script), str(arctic)]
    began = time.monotonic()
    subprocess.run([*command, str(work / "whole")], check=True, capture_output=True)
    takes = time.monotonic() - began
    output, done = work / "killed", 0
    while done < kills:
        process = subprocess.Popen([*command, str(output)], start_new_session=True, stderr=subprocess.DEVNULL)
        try:
            process.wait(float(rng.uniform(0.0, takes)))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            done += 1
        else:  # finished before the kill: start again with an empty folder
            shutil.rmtree(output)
        _wait_for_workers(output)
    subprocess.run([*command, str(output)], check=True, capture_output=True)
    first, second = tree(work / "whole"), tree(output)
    differing = [name for name in first.keys() | second.keys() if first.get(name) != second.get(name)]
    lost, twice = _compare_samples(work / "whole", output)
    return lost, twice, len(differing)


def _wait_for_workers(output: Path) -> None:
    """Wait until the children of the forkserver have ended, shortly after their parent."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        names = [path.name.split(".")[-2] for path in output.glob("s*/.*.tmp")]
        if not any(name.isdigit() and psutil.pid_exists(int(name)) for name in names):
            return
        time.sleep(0.05)


def _compare_samples(whole: Path, killed: Path) -> tuple[int, int]:
    from hawor_pipeline.shards.store import open_shards

    expected, found = (open_shards(folder).column("sample_id").tolist() for folder in (whole, killed))
    return len(set(expected) - set(found)), len(found) - len(set(found))


def damage_often(arctic: Path, work: Path, cases: int, kind: str, seed: int = 0) -> dict[str, int]:
    """Damage one raw file at a time; count the outcomes. kind: structural, checked or unchecked (flipped bits)."""
    root = work / kind / "data"
    shutil.copytree(arctic, root / "arctic")
    shutil.copytree(arctic.parent / "body_models", root / "body_models")
    source = Source(root / "arctic")
    if kind == "checked":
        keep_zips(root / "arctic", source.sequence)
    truth = source.truth(work / kind / "truth")
    counts: dict[str, int] = collections.Counter()
    files = [path for path in (root / "arctic").rglob("*") if path.is_file() and path.suffix != ".zip"]
    whole = {path: path.read_bytes() for path in files}
    for case in range(cases):
        rng = np.random.default_rng([seed, case])
        draw = structural if kind == "structural" else flipped
        draw(source, rng)(rng)
        outcome = judge(source, truth, work / kind / str(case))
        counts[outcome.kind] += 1
        if outcome.kind in ("wrong", "crash") and kind != "unchecked":
            print(f"{kind} case {case}: {outcome.kind}: {outcome.message}", flush=True)
        shutil.rmtree(work / kind / str(case), ignore_errors=True)
        _mend(root / "arctic", whole)
    return dict(counts)


def keep_zips(arctic: Path, sequence: str) -> None:
    """Write ARCTIC's zips next to the unpacked files."""
    for name, folders in (("raw_seqs.zip", ["raw_seqs"]), ("meta.zip", ["meta"])):
        with zipfile.ZipFile(arctic / name, "w") as archive:
            for path in sorted(p for folder in folders for p in (arctic / folder).rglob("*") if p.is_file()):
                archive.write(path, path.relative_to(arctic))
    folder = arctic / "images" / SUBJECT / sequence
    target = arctic / "images_zips" / SUBJECT / f"{sequence}.zip"
    target.parent.mkdir(parents=True)
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            archive.write(path, path.relative_to(folder))


def _mend(arctic: Path, whole: dict[Path, bytes]) -> None:
    for path in arctic.rglob("*"):
        if path.is_file() and path.suffix != ".zip" and path not in whole:
            path.unlink()
    for path, data in whole.items():
        if not path.exists() or path.read_bytes() != data:
            path.write_bytes(data)


def measure(quick: bool) -> list[Row]:
    """Measure all rows; `quick` runs a tenth of the cases."""
    kills, structural_cases, checked, unchecked = (3, 140, 60, 30) if quick else (30, 1400, 600, 300)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        arctic = make_sample(work / "sample", 2)
        lost, twice, differing = kill_often(arctic, work, kills)
        for name, value in (("samples_lost", lost), ("samples_twice", twice), ("files_that_differ", differing)):
            rows.append(from_rounds(name, [value], f"after {kills} kills", 0, "lower"))
        small = make_sample(work / "small", 1)
        total: dict[str, int] = collections.Counter()
        for kind, cases in (("structural", structural_cases), ("checked", checked)):
            counts = damage_often(small, work, cases, kind)
            print(f"{kind}: {counts}", flush=True)
            total.update(counts)
        unseen = damage_often(small, work, unchecked, "unchecked")
        print(f"flipped bits without checksums: {unseen}")
        every = structural_cases + checked
        rows.append(from_rounds("crashes", [total["crash"]], f"of {every} damaged inputs", 0, "lower"))
        rows.append(from_rounds("wrong_samples", [total["wrong"]], f"of {every} damaged inputs", 0, "lower"))
        accepted, judged = count_accepted(20 if quick else 2)
        unit = f"wrong crops of {judged} damaged JPEGs that whole decoding refuses"
        rows.append(from_rounds("damage_accepted", [accepted], unit, 0, "lower"))
        rows.append(from_rounds("inputs_judged", [sum(total.values())], "damaged inputs", every, "higher"))
    return rows


if __name__ == "__main__":
    run(measure, "Conversion under faults")
