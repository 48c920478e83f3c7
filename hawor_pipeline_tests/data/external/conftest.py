from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def mano_dir(sample_root: Path) -> Path:
    """The procedural hand, in the place of MANO."""
    return sample_root / "body_models" / "mano"
