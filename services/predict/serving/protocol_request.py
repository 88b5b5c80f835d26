"""One request of any protocol, from its headers to its answer."""

from __future__ import annotations

import logging
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from fitserve.api_keys import Identity
from fitserve.conformal import read_level
from fitserve.errors import BadInput, FitserveError, TooLarge
from fitserve.registry import RolloutFacts
from services.predict.catalog.access import require_inspect, require_predict
from services.predict.catalog.catalog import CatalogEntry, Selector
from services.predict.catalog.loaded_model import LoadedModel, Prediction
from services.predict.serving.counters import CLIENT_GONE, ROLLOUT_OPERATIONS

if TYPE_CHECKING:
    from services.predict.serving.prediction_service import PredictionService

log = logging.getLogger(__name__)

LARGE_BODY_BYTES = 256 * 1024
MAX_STORED_ROWS = 1_000  # most rows of a prediction that is stored under an id
T = TypeVar("T")
_PREDICTION_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")


class ProtocolRequest(ABC):
    """One request of any protocol: its caller, its deadline, its prediction, and where its time went.

    Moments are those of `time.perf_counter`; `deadline` is the event loop's time.
    """

    def __init__(self, service: PredictionService, authorization: str | None, prediction_id: str | None) -> None:
        self.service = service
        self.authorization = authorization
        self.prediction_id = prediction_id  # chosen by the client
        self.interval: str | None = None  # the level of intervals, as the client wrote it
        # The rollout that picked the version, and the arm it picked.
        self.rollout: tuple[RolloutFacts, str] | None = None
        self.deadline: float | None = None
        self.arrived_at = service.loop.time()  # in the event loop's time, as the deadline
        self.started_at = time.perf_counter()
        self.predict_at = self.predicted_at = 0.0
        self.entry: CatalogEntry | None = None
        self.model: LoadedModel | None = None  # the model that predicts
        self.prediction: Prediction | None = None
        self.left_out: dict[str, int] = {}  # values of columns that are no inputs of the model, by column
        self.admitted = False  # counted among the requests in flight
        self.is_large = False  # decoded, predicted and encoded off the event loop
        self.error: FitserveError | None = None
        self._identity: Identity | None = None

    @abstractmethod
    def read_deadline(self) -> float | None:
        """Read the client's deadline, in the event loop's time. Raises Malformed."""

    @property
    def interval_level(self) -> float | None:
        """The level of intervals from the header `X-Interval`. Raises BadInput."""
        return None if self.interval is None else read_level(self.interval, "X-Interval")

    @property
    @abstractmethod
    def sticky_key(self) -> str | None:
        """The client's `X-Sticky-Key`: while a canary runs, one version answers all requests with the same key."""

    def identify(self) -> Identity:
        """Return the caller. Raises Unauthenticated."""
        if self._identity is None:
            self._identity = self.service.access.identify_header(self.authorization)
        return self._identity

    def find_entry(self, model: str) -> CatalogEntry:
        """Return a model that the caller can see. Raises NotFound, Unauthenticated."""
        return self.service.find_entry(model, self.identify())

    async def resolve(self, selector: Selector) -> LoadedModel:
        """Return the model that answers, after checking the caller's rights. Raises any FitserveError."""
        self.deadline = self.read_deadline()
        self.entry = self.find_entry(selector.model)
        require_predict(self.identify(), selector.model)
        if self.entry.canaries and selector.is_open:
            pointer, self.rollout = self.service.pick_for_rollout(self.entry, self.sticky_key)
        else:
            pointer = self.service.find_pointer(self.entry, selector)
        return await self.service.load_if_needed(pointer, self.deadline)

    def require_inspect(self) -> None:
        """Raise Forbidden unless the caller may inspect the model that answers. Called after `resolve`."""
        assert self.entry is not None
        require_inspect(self.identify(), self.entry.facts)

    async def run(self, handle: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """Run a protocol's handler for this request. Raises only FitserveError."""
        try:
            response = await handle(self, *arguments)
            if self.prediction is not None and self.prediction_id is not None:
                self._store(self.prediction, self.prediction_id)
            return response
        except FitserveError as error:
            self.error = error
            raise
        except Exception as error:
            log.error("unexpected error", exc_info=error)
            self.error = FitserveError()
            raise self.error from error
        finally:
            if self.admitted:
                self.service.counters.in_flight -= 1
            if self.is_large:
                self.service.garbage_pauses.end()

    def admit(self) -> None:
        """Count the request in, once its whole body has arrived: a slow body must not take a place from others.

        Raises TooMany if this process has too many requests at once.
        """
        if not self.admitted:
            self.service.admit()
            self.admitted = True

    def check_count(self, rows: int) -> None:
        """Raise TooLarge if a request has more rows than the settings allow."""
        most = self.service.settings.limits.predict_rows
        if rows > most:
            raise TooLarge("The request has too many rows.", received=rows, expected=f"at most {most}")

    async def in_thread_if_large(self, size: int, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function that reads a body of `size` bytes, in a thread if that would block other requests.

        A size of 0 reads nothing more: the call is in a thread if this request's body was large.
        """
        if not self.is_large and size > LARGE_BODY_BYTES:
            self.is_large = True
            self.service.garbage_pauses.begin()
        if not self.is_large:
            return function(*arguments)
        return await self.service.loop.run_in_executor(self.service.executor, function, *arguments)

    def _store(self, prediction: Prediction, id: str) -> None:
        """Store the prediction under the client's id, to be joined with its ground truth. Raises BadInput."""
        if not _PREDICTION_ID.fullmatch(id):
            raise BadInput(
                "That is not a valid prediction id.",
                received=id[:80],
                expected=f"X-Prediction-ID: {_PREDICTION_ID.pattern}",
            )
        if prediction.row_count > MAX_STORED_ROWS:
            raise BadInput(
                "The prediction has too many rows to be stored under an id.",
                received=prediction.row_count,
                expected=f"at most {MAX_STORED_ROWS} rows",
            )
        self.service.drift.store_prediction(prediction, self.identify(), id, self.rollout and self.rollout[0])

    def phases(self, now: float) -> Iterator[tuple[str, float]]:
        """Yield each phase and its seconds; nothing if no prediction was made."""
        if self.prediction is not None:
            yield "decode", self.predict_at - self.started_at
            yield "queue", self.prediction.queue_seconds
            yield "encode", self.prediction.encode_seconds
            yield "infer", self.prediction.infer_seconds
            yield "answer", now - self.predicted_at

    def count(self, protocol: str, operation: str, status: int | str) -> None:
        """Count this request, whatever its outcome."""
        counters, now = self.service.counters, time.perf_counter()
        counters.requests[protocol, operation, str(status)] += 1
        if self.rollout is not None and operation in ROLLOUT_OPERATIONS and status != CLIENT_GONE:
            self._count_rollout(*self.rollout, status, now - self.started_at)
        if self.error is not None and self.entry is not None and operation in ROLLOUT_OPERATIONS:
            version = 0 if self.model is None else self.model.version
            counters.count_failure(self.entry.facts.name, version, operation, status, self.error)
        if self.model is None:
            counters.durations[protocol].observe(now - self.started_at)
            return
        own = counters.of_version(self.model, protocol)
        own.durations.observe(now - self.started_at)
        if self.error is not None:
            own.failed += 1
            own.failed_seconds += now - self.started_at
        for phase, seconds in self.phases(now):
            counters.phases["ordinary", phase].observe(seconds)

    def _count_rollout(self, rollout: RolloutFacts, arm: str, status: int | str, seconds: float) -> None:
        assert self.entry is not None
        step = self.service.drift.rollouts.of(rollout, self.entry.before_rollout)
        if step is not None:
            failed = status != "OK" if isinstance(status, str) else status >= 400
            step.observe(arm, seconds, failed, self.prediction)
