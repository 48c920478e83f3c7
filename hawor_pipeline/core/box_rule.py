"""Rules by which the square that a network reads is made from the tight bounding box of a hand.

A network belongs to the rule that it was trained by: under another one, hands appear larger or smaller than it expects.
All rules keep the centre of the tight box.
"""

import math
from dataclasses import dataclass

from hawor_pipeline.errors import ConfigError

WINDOW_ASPECT = 4 / 3  # networks read the middle three quarters of the square's width


@dataclass(frozen=True, slots=True)
class BoxRule:
    """Square with the side scale x max(h, aspect x w), of a tight box of width w and height h in pixels.

    >>> str(BoxRule(1.2, 1.0)), BoxRule(1.2, 4 / 3).side_px(30.0, 20.0)
    ('1.2 x max(h, w)', 48.0)
    """

    scale: float
    aspect: float = WINDOW_ASPECT

    def side_px(self, width_px: float, height_px: float) -> float:
        """Return the side of the square around a tight box, px."""
        return self.scale * max(height_px, self.aspect * width_px)

    def largest_ratio(self, other: "BoxRule") -> float:
        """Return the largest ratio of this rule's side to that of another rule, over boxes of all shapes."""
        return self.scale / other.scale * max(1.0, self.aspect / other.aspect)

    def __str__(self) -> str:
        width = {1.0: "w", WINDOW_ASPECT: "4 w / 3"}.get(self.aspect, f"{self.aspect:g} w")
        return f"{self.scale:g} x max(h, {width})"

    @classmethod
    def parse(cls, text: str) -> "BoxRule":
        """Read a rule from its name, or from SCALE,ASPECT.

        Raises:
            ConfigError: it is neither.
        """
        if text in RULES:
            return RULES[text]
        try:
            scale, aspect = (float(part) for part in text.split(","))
        except ValueError:
            scale = aspect = math.nan
        if not (0 < scale < math.inf and 0 < aspect < math.inf):
            raise ConfigError(
                f"box rule {text!r}: expected {', '.join(RULES)}, or SCALE,ASPECT as two positive numbers (the side of "
                "the box is SCALE x max(h, ASPECT x w))."
            )
        return cls(scale, aspect)


# Of a conversion by default, so of networks trained here; HaWoR's own inference (detector boxes); HaMeR's demo, which
# enlarges the box by 2 and expands it to the shape 192 x 256.
RULES = {"pipeline": BoxRule(1.2), "hawor": BoxRule(1.2, 1.0), "hamer": BoxRule(2.0)}
