"""Reusable memory for inferring a few rows.

ONNX Runtime is bound to it once: for a single row of a small network, converting Python objects to tensors and back
costs as much as running the network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnxruntime

from fitserve.encoder import FEW_NUMBERS, Encoder
from fitserve.encoding.row_plan import rows_of

MAX_ROWS = 64
MAX_BYTES = 1 << 20  # most bytes of the inputs; wide inputs have room for fewer rows


class RowBuffer:
    """Room for up to `rows` rows of a model's inputs, and their answers. One thread at a time may use it.

    `row_session` infers a single row. Raises ValueError where the graph's outputs are not of shape (rows, units).
    """

    def __init__(
        self,
        encoder: Encoder,
        session: onnxruntime.InferenceSession,
        row_session: onnxruntime.InferenceSession,
        outputs: Sequence[str],
    ) -> None:
        self.plan, self._session, self._row_session = encoder.row_plan, session, row_session
        row_bytes = sum(4 * int(np.prod(one.shape)) for one in encoder.inputs)
        self.rows = max(1, min(MAX_ROWS, MAX_BYTES // max(1, row_bytes)))
        self.arrays = {one.name: np.zeros((self.rows, *one.shape), one.dtype) for one in encoder.inputs}
        self.row_views = self.plan.views_of_rows(list(self.arrays.values()))
        flat: list[memoryview[Any]] = [
            memoryview(array.reshape(-1))  # type: ignore[arg-type]
            for array in self.arrays.values()
        ]
        self._bytes = [one.cast("B") for one in flat]
        self._zeros = [bytes(len(part) // self.rows) for part in self._bytes]
        self._first_row = [(part[: len(zeros)], zeros) for part, zeros in zip(self._bytes, self._zeros, strict=True)]
        self._numbers, self._flat = encoder.plain_numbers, flat[0]
        self._rows = rows_of(next(iter(self.arrays.values())))  # of the only input, where `_numbers` is one
        self._known = {one.name for one in session.get_inputs()}
        self.outputs = {}
        shapes = {one.name: one for one in session.get_outputs()}
        for one in (shapes[name] for name in outputs):
            units = one.shape[1] if len(one.shape) == 2 else None
            dtype = {"tensor(float)": np.float32, "tensor(double)": np.float64}.get(one.type)
            if not isinstance(units, int) or dtype is None:
                raise ValueError(f"The output {one.name} has the shape {one.shape}.")
            self.outputs[one.name] = np.zeros((self.rows, units), dtype)
        self._bindings: dict[int, Any] = {}

    def encode(self, values: Any) -> bool:
        """Encode a request's rows (a list, or a float64 matrix); False if one is unusual, or if there are too many."""
        if isinstance(values, np.ndarray):
            plain = self._numbers
            if plain is None or values.shape[1:] != (plain.columns,) or len(values) > self.rows:
                return False
            if values.size <= FEW_NUMBERS:
                return self.write_numbers(values.ravel().tolist())
            return plain.write_clean(values, self.arrays[plain.input][: len(values)], self._rows)
        return self.write(values)

    def write(self, rows: Sequence[Any]) -> bool:
        """Write rows, named or positional; False if one is unusual (see `RowPlan.write`), or if there are too many."""
        if len(rows) == 1:
            self._clear(1)
            return self.plan.write(rows[0], self.row_views[0])
        if len(rows) > self.rows:
            return False
        self._clear(len(rows))
        write = self.plan.write
        for row, target in zip(rows, self.row_views, strict=False):  # noqa: SIM110  (quicker than `all`)
            if not write(row, target):
                return False
        return True

    def write_numbers(self, numbers: Sequence[float]) -> bool:
        """Write rows that are all numbers, one after another; False if one is not clean, or if there are too many."""
        plain = self._numbers
        if plain is None or not self.takes_numbers(len(numbers) // plain.columns):
            return False
        self._clear(len(numbers) // plain.columns)
        return plain.write_few(numbers, self._flat)

    def takes_numbers(self, rows: int) -> bool:
        """Return whether this number of rows is small enough for `write_numbers`."""
        return self._numbers is not None and rows <= self.rows and rows * self._numbers.columns <= FEW_NUMBERS

    def _clear(self, rows: int) -> None:
        """Make the first rows zeros."""
        if rows == 1:
            for row, zeros in self._first_row:
                row[:] = zeros
            return
        for part, zeros in zip(self._bytes, self._zeros, strict=True):
            part[: len(zeros) * rows] = zeros * rows

    def infer(self, rows: int) -> dict[str, np.ndarray]:
        """Infer the first rows. Returns views of `outputs`, which the next call overwrites."""
        binding = self._bindings.get(rows)
        if binding is None:
            binding = self._bindings[rows] = self._bind(rows)
        run, bound, views = binding
        run(bound)
        return views

    def feeds(self, rows: int) -> dict[str, np.ndarray]:
        """Return the first rows as tensors by input name."""
        return {name: array[:rows].copy() for name, array in self.arrays.items()}

    def views(self, rows: int) -> dict[str, np.ndarray]:
        """Return the same tensors as views of the buffer's memory, which the next rows overwrite."""
        return {name: array[:rows] for name, array in self.arrays.items()}

    def _bind(self, rows: int) -> tuple[Callable[[Any], None], Any, dict[str, np.ndarray]]:
        session = self._row_session if rows == 1 else self._session
        bound = session.io_binding()
        arrays = []  # the binding itself holds no reference to these arrays
        for name, array in self.arrays.items():
            if name in self._known:
                arrays.append(onnxruntime.OrtValue.ortvalue_from_numpy(array[:rows]))
                bound.bind_ortvalue_input(name, arrays[-1])
        views = {name: array[:rows] for name, array in self.outputs.items()}
        for name, view in views.items():
            arrays.append(onnxruntime.OrtValue.ortvalue_from_numpy(view))
            bound.bind_ortvalue_output(name, arrays[-1])
        bound.arrays = arrays
        return session.run_with_iobinding, bound, views
