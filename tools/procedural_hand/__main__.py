"""Write the sample's hand file: `python -m tools.procedural_hand`, from the root of the repository.

Needs scikit-image, which the `dev` extra installs. The same machine writes the same bytes; another one may differ in
the last digits, so run it only to change the hand.
"""

import io
from pathlib import Path

import numpy as np

import hawor_pipeline.sample
from hawor_pipeline.provenance import atomic_write_bytes
from hawor_pipeline.sample.hand import HAND_FILE
from tools.procedural_hand.model import hand_arrays


def main() -> None:
    """Generate the hand and replace the package's file."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **hand_arrays())  # type: ignore[arg-type]
    file = Path(hawor_pipeline.sample.__file__).with_name(HAND_FILE)
    atomic_write_bytes(file, buffer.getvalue())
    print(f"wrote {file} ({file.stat().st_size} bytes)")


if __name__ == "__main__":
    main()
