"""The sums of the blur measure in one pass over a picture, compiled."""

import numpy as np

from hawor_pipeline.data import blur
from hawor_pipeline.data.compiled import compiled_any_order, inlined

_REACH = blur.REACH
_across, _gradient, _loss = (inlined(formula) for formula in (blur.across, blur.gradient, blur.loss))


@compiled_any_order
def loop_sums(gray):
    """`blur.array_sums`; a row's sums are exact below some 1,400 columns, which no crop has."""
    height, width = gray.shape
    width -= 3  # the published measure leaves out one column on one side, two on the other
    smooth = np.empty((height + 2 * _REACH, width), np.float32)
    for y in range(height):
        before, here, after, out = gray[y, 1:], gray[y, 2:], gray[y, 3:], smooth[y + _REACH]
        for x in range(width):
            out[x] = _across(np.float32(before[x]), np.float32(here[x]), np.float32(after[x]))
    for edge in range(_REACH):
        smooth[_REACH - 1 - edge] = smooth[_REACH + edge]
        smooth[height + _REACH + edge] = smooth[height + _REACH - 1 - edge]
    total, lost = 0.0, 0.0
    for y in range(2, height - 1):
        middle = y + _REACH
        ahead, behind = smooth[middle + 1], smooth[middle - 1]
        in_1, in_2 = smooth[middle + 1 + _REACH], smooth[middle + _REACH]
        out_1, out_2 = smooth[middle - _REACH], smooth[middle - 1 - _REACH]
        row_total, row_lost = np.float32(0), np.float32(0)
        for x in range(width):
            found = _gradient(ahead[x], behind[x])
            row_total += found
            row_lost += _loss(found, in_1[x] + in_2[x], out_1[x] + out_2[x])
        total += row_total
        lost += row_lost
    return total, lost
