"""ARCTIC, and the built-in sample in its layout, behind the protocol of `Reader`: one take per sequence."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hawor_pipeline.errors import DataError
from hawor_pipeline.provenance import hash_json, sha256_file
from hawor_pipeline.sources.arctic import (
    BODY_PART,
    EGO_VIEW,
    RAW_FOLDERS,
    RAW_PARTS,
    ArcticRoot,
    SubjectCameras,
    missing_reason,
)
from hawor_pipeline.sources.fingerprint import hash_files
from hawor_pipeline.sources.image_files import ImageFile
from hawor_pipeline.sources.image_frame import ViewCamera
from hawor_pipeline.sources.object_mesh import PosedObject, load_object
from hawor_pipeline.sources.raw_sequence import RawSequence, load_body_pose, load_sequence
from hawor_pipeline.sources.reader import Reader, SequenceRef, Take
from hawor_pipeline.untrusted.smplx_files import find_smplx

if TYPE_CHECKING:
    from hawor_pipeline.sources.own_body import PosedBody


class ArcticReader(Reader):
    """ARCTIC, from any folder level of its download.

    Raises:
        ConfigError: no ARCTIC data is found at the root.
    """

    name = "arctic"
    records_views = True
    has_bodies = True
    folders = RAW_FOLDERS
    example = "images/s01/box_grab_01/0/00001.jpg"

    def __init__(self, root: Path | ArcticRoot, mano_dir: Path) -> None:
        self.arctic = ArcticRoot.locate(root)
        super().__init__(self.arctic.path, mano_dir)

    @property
    def source(self) -> str:
        """`synthetic` where the files are those of the built-in sample, else `arctic`."""
        return self.arctic.source

    @property
    def image_source(self) -> str:
        """`images`, or `cropped_images` where only those are there."""
        return self.arctic.image_source

    def subjects(self) -> list[str]:
        """Return all ten subjects, present here or not."""
        return list(self.arctic.subjects())

    def refs(self) -> list[SequenceRef]:
        """Return the sequences of all subjects."""
        return [ref for subject in self.subjects() for ref in self.sequences(subject)]

    def sequences(self, subject: str) -> list[SequenceRef]:
        """Return the sequences of a subject that have at least one raw file."""
        # a name with too few fields is an error of that sequence, raised when its raw files are read
        fields = {name: (*name.split("_"), "", "")[:2] for name in self.arctic.sequences(subject)}
        return [SequenceRef(subject, name, *first) for name, first in fields.items()]

    def unlabelled_sequences(self, subject: str) -> list[str]:
        """Return sequences of a subject that have a folder or zip of images, and no raw file."""
        return sorted(set(self.arctic.imaged_sequences(subject)) - set(self.arctic.sequences(subject)))

    def status(self, subject: str) -> tuple[str, str]:
        """Return present, withheld or absent, and the reason where the ground truth is not here."""
        if subject not in self.arctic.subjects():  # listed by a manifest of other raw data
            return "absent", missing_reason(subject, "absent")
        status = self.arctic.status(subject)
        return status, "" if status == "present" else missing_reason(subject, status)

    def images(self, ref: SequenceRef, views: Sequence[int]) -> dict[int, dict[int, ImageFile]]:
        """Return the images of these views; a view without any has an empty entry."""
        return {view: self.arctic.images(ref.subject, ref.sequence, view) for view in views}

    def label_files(self, ref: SequenceRef) -> list[Path]:
        """Return the raw arrays of the sequence."""
        return [self.arctic.raw_file(ref.subject, ref.sequence, part) for part in RAW_PARTS]

    def splits(self) -> dict[str, list[str]]:
        """Return the subjects of the first protocol that is published with the data; empty lists without one."""
        published = next(iter(self.arctic.protocols.values()), {})
        return {
            split: sorted({item.split("/")[0] for item in published.get(split, ())})
            for split in ("train", "val", "test")
        }

    def content_hashes(self, ref: SequenceRef) -> dict[str, Any]:
        """Hash everything that a shard is made from, except hand models and images.

        Raises:
            DataError: a raw array is missing, or the entry in `misc.json` is damaged.
        """
        files = self.label_files(ref)
        if self.counts_body(ref):
            files += self._body_files(ref)
        for file in files:
            if not file.is_file():
                raise DataError(f"{file}: missing; expected among the raw files of {ref}.{_advice(file)}")
        self.arctic.cameras(ref.subject)  # refuses a damaged entry
        folder = self.arctic.object_folder(ref.object)
        meshes = [mesh for name in ("top.obj", "bottom.obj") if (mesh := folder / name).is_file()]
        return {
            "arrays": hash_files(files),
            "object": hash_files(meshes),
            "cameras": hash_json(json.dumps(self.arctic.misc[ref.subject], sort_keys=True)),
            "image_source": self.arctic.image_source,
            "source": self.source,
        }

    def takes(self, ref: SequenceRef, labels: None, views: Sequence[int]) -> Iterator[Take]:
        """Yield the one take of a sequence.

        Raises:
            DataError: a raw file or a mesh is damaged or missing.
        """
        raw = load_sequence(self.arctic, ref.subject, ref.sequence)
        subject_cameras = self.arctic.cameras(ref.subject)
        mesh = load_object(self.arctic, ref.object)
        yield Take(
            hands=raw.hands,
            cameras={view: view_camera(raw, subject_cameras, view) for view in views},
            images=self.images(ref, views),
            first_frame=subject_cameras.ioi_offset,
            first_index=0,
            posed_object=PosedObject(mesh, raw.object_articulation, raw.object_rotation, raw.object_translation_m),
            body=self._body(ref, len(raw)),
            cropped=self.image_source == "cropped_images",
        )

    def body_models(self) -> dict[str, Path]:
        """Return the models of the genders in `misc.json`."""
        if self.smplx_dir is None:
            return {}
        genders = sorted({str(entry.get("gender", "")) for entry in self.arctic.misc.values()})
        return {gender: find_smplx(self.smplx_dir, gender) for gender in genders}

    def _body_files(self, ref: SequenceRef) -> list[Path]:
        return [
            self.arctic.raw_file(ref.subject, ref.sequence, BODY_PART),
            self.arctic.body_template(ref.subject),
        ]

    def counts_body(self, ref: SequenceRef) -> bool:
        """Return True where a model was found and the sequence has its body's files, or must have them."""
        there = self.needs_bodies or all(file.is_file() for file in self._body_files(ref))
        return self.smplx_dir is not None and there

    def _body(self, ref: SequenceRef, frames: int) -> "PosedBody | None":
        if not self.counts_body(ref):
            return None
        from hawor_pipeline.sources.own_body import PosedBody, load_surface

        template = self.arctic.body_template(ref.subject)
        if not template.is_file():
            raise DataError(f"{template}: missing; expected in ARCTIC's meta folder.{_advice(template)}")
        self.arctic.check_raw_file(template)
        model = self.body_models()[str(self.arctic.misc[ref.subject].get("gender", ""))]
        pose = load_body_pose(self.arctic, ref.subject, ref.sequence, frames)
        return PosedBody(load_surface(model, template), pose, frozenset({EGO_VIEW}))

    def verify(self, ref: SequenceRef, views: Sequence[int]) -> None:
        """Compare the zip that the images are read from with ARCTIC's published checksum, where the user has it."""
        archive = self.arctic.image_zip(ref.subject, ref.sequence)
        if archive is None or not self.arctic.reads_zip(ref.subject, ref.sequence, views):
            return
        stated = self.arctic.zip_checksum(archive)
        if stated is not None and sha256_file(archive) != stated:
            raise DataError(f"{archive}: differs from the published checksum (sha256); download it again.")


def _advice(file: Path) -> str:
    """Return how to convert without a file of the body; empty for other files."""
    of_body = file.name.endswith(f".{BODY_PART}.npy") or file.parent.name == "subject_vtemplates"
    return " Get it, or convert without --smplx-dir." if of_body else ""


def view_camera(raw: RawSequence, cameras: SubjectCameras, view: int) -> ViewCamera:
    """Return the camera of one view for every moment of a sequence."""
    if view == EGO_VIEW:
        return ViewCamera(view, cameras.image_sizes[0], raw.ego_from_world, raw.ego_intrinsics, raw.ego_distortion)
    fixed = np.broadcast_to(cameras.cam_from_world[view - 1], (len(raw), 4, 4))
    return ViewCamera(
        view, cameras.image_sizes[view], np.ascontiguousarray(fixed), cameras.intrinsics[view - 1], np.zeros(8)
    )
