"""One column of a table on disk, of shards and of metric tables alike: its Arrow type, and values turned into it."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Column:
    """A column with its type, unit and meaning.

    Attributes:
        name: as in the file.
        kind: type of a value.
        shape: of each row; () is a scalar.
        unit: "" where it has none.
        meaning: for people; unit and meaning travel in the field's metadata.
        nullable: a row may leave it undefined.
        optional: rows may come without the column, which then is null.
        nested: store a row of several dimensions as lists in lists. The default is one flat list in row-major order,
            with its shape in the field's metadata.
    """

    name: str
    kind: pa.DataType
    shape: tuple[int, ...]
    unit: str
    meaning: str
    nullable: bool = False
    nested: bool = False
    optional: bool = False

    @property
    def sizes(self) -> tuple[int, ...]:
        """Length of each level of lists, the outermost first."""
        return self.shape if self.nested or not self.shape else (math.prod(self.shape),)

    @property
    def type(self) -> pa.DataType:
        """Arrow type of the column."""
        result = self.kind
        for size in reversed(self.sizes):
            result = pa.list_(result, size)
        return result

    @property
    def field(self) -> pa.Field:
        """Arrow field with unit, meaning and the shape of flat lists as metadata."""
        notes = {} if self.nested else {"shape": ",".join(map(str, self.shape))}
        return pa.field(self.name, self.type, self.nullable, {**notes, "unit": self.unit, "meaning": self.meaning})

    def to_arrow(self, values: Any, *, nan_is_null: bool = False) -> pa.Array:
        """Convert values to the type of the column.

        Args:
            values: (N, *shape) array, or a sequence of N scalars.
            nan_is_null: store NaN as null, and a row of several values with any NaN as null altogether.

        Raises:
            ValueError: rows have another shape.
        """
        if not self.shape:
            return pa.array(values, self.kind, from_pandas=nan_is_null)
        values = np.ascontiguousarray(values)
        if values.shape[1:] != self.shape:
            raise ValueError(f"column {self.name}: each row has shape {values.shape[1:]}, expected {self.shape}")
        undefined = np.isnan(values).reshape(len(values), -1).any(axis=1) if nan_is_null else np.zeros(0, bool)
        array = pa.array(values.reshape(-1), self.kind)
        for level, size in reversed(list(enumerate(self.sizes))):
            mask = pa.array(undefined) if level == 0 and undefined.any() else None
            array = pa.FixedSizeListArray.from_arrays(array, size, mask=mask)
        return array
