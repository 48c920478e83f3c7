"""Write the sample's scene file: `python -m tools.procedural_scene`, from the root of the repository.

The same machine writes the same bytes; another one may differ in the last digits, so run it only to change the scene.
"""

import io
from pathlib import Path

import numpy as np

import hawor_pipeline.sample
from hawor_pipeline.provenance import atomic_write_bytes
from hawor_pipeline.sample.articulated_objects import SCENE_FILE
from hawor_pipeline.sample.spec import OBJECT_NAMES
from tools.procedural_scene.body import body_arrays
from tools.procedural_scene.objects import object_arrays


def scene_arrays() -> dict[str, np.ndarray]:
    """Build every array of the file, named by its object or `body`."""
    parts = {name: object_arrays(name) for name in OBJECT_NAMES} | {"body": body_arrays()}
    return {f"{part}.{name}": array for part, arrays in parts.items() for name, array in arrays.items()}


def main() -> None:
    """Generate the scene and replace the package's file."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **scene_arrays())  # type: ignore[arg-type]
    file = Path(hawor_pipeline.sample.__file__).with_name(SCENE_FILE)
    atomic_write_bytes(file, buffer.getvalue())
    print(f"wrote {file} ({file.stat().st_size} bytes)")


if __name__ == "__main__":
    main()
