"""Triangle meshes as PLY files, which Blender, MeshLab and most viewers open."""

from pathlib import Path

import numpy as np


def write_ply(path: Path | str, vertices_m: np.ndarray, faces: np.ndarray) -> None:
    """Write one mesh (binary, little endian).

    Args:
        path: of the file.
        vertices_m: (V, 3), metres.
        faces: (F, 3) indices, outward.

    Source: the PLY format (Turk, 1994).
    """
    header = (
        "ply\nformat binary_little_endian 1.0\ncomment metres\n"
        f"element vertex {len(vertices_m)}\nproperty float x\nproperty float y\nproperty float z\n"
        f"element face {len(faces)}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    triangles = np.zeros(len(faces), dtype=[("corners", "u1"), ("index", "<i4", 3)])
    triangles["corners"], triangles["index"] = 3, faces
    Path(path).write_bytes(header.encode() + vertices_m.astype("<f4").tobytes() + triangles.tobytes())
