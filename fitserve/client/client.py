"""`Client`: a blocking client of one server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Literal, Self

import httpx2

from fitserve.client.automations import Automations
from fitserve.client.connection import Address, Connection, Resource, RetryPolicy
from fitserve.client.datasets import Datasets
from fitserve.client.keys import Keys
from fitserve.client.models import Models
from fitserve.client.rollouts import Rollouts
from fitserve.client.runs import Runs
from fitserve.client.trained import Trained, check_columns, check_target, dataset_of, default_name, labels_in
from fitserve.client.upload_body import dataset_name
from fitserve.client.webhooks import Webhooks
from fitserve.client.weights import Weights
from fitserve.dataset_facts import Kind
from fitserve.wire.admin import AuditEntry, SystemInfo
from fitserve.wire.operations import AlarmInfo, OwnerStorage, SystemHistory

TIMEOUT = 60.0  # seconds without a byte
MAX_CONNECTIONS = 100


class Client(Resource):
    """A blocking client. Safe to share between threads.

    Args:
        base_url: of the API; FITSERVE_URL, else the server that runs from here (./fitserve-data), else port 8000.
        api_key: FITSERVE_API_KEY, else the first key of a server on this machine whose home is here.
        predict_url: of the prediction service; by default the API names it.
        timeout: seconds without a byte before a request is given up.
        retries: how often to send again after a lost connection, 429, 502, 503 or 504, where that does no harm.
        http_client: your own httpx2.Client, for proxies, certificates or tests.

    Example:
        >>> Client().train("admissions.csv", target="admit").predict([{"gre": 700, "gpa": 3.9, "rank": 1}])
        >>> with Client() as client:
        ...     client.datasets.upload("admissions.csv")
        ...     run = client.runs.create(dataset="admissions", target="admit", model="admissions").wait()
        ...     client.models.predict("admissions", [{"gre": 700, "gpa": 3.9, "rank": 1}])
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        predict_url: str | None = None,
        timeout: float = TIMEOUT,
        retries: int = 4,
        http_client: httpx2.Client | None = None,
    ) -> None:
        address = Address.find(base_url, api_key, predict_url)
        limits = httpx2.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=20, keepalive_expiry=30)
        self._http = http_client or httpx2.Client(timeout=httpx2.Timeout(timeout, connect=5.0), limits=limits)
        self._owns_http = http_client is None
        connection = Connection(self._http, address, RetryPolicy(retries))
        super().__init__(connection)
        self.datasets = Datasets(connection)
        self.runs = Runs(connection)
        self.weights = Weights(connection)
        self.models = Models(connection)
        self.rollouts = Rollouts(connection)
        self.keys = Keys(connection)
        self.webhooks = Webhooks(connection)
        self.automations = Automations(connection)

    @property
    def base_url(self) -> str:
        """The API's address."""
        return self._connection.address.base_url

    def train(
        self,
        data: Any,
        target: str | Sequence[str],
        *,
        name: str | None = None,
        model: str | None = None,
        kinds: Mapping[str, Kind] | None = None,
        timeout: float | None = None,
        **parts: Any,
    ) -> Trained:
        """Upload a table, train a network that predicts `target`, and return it once it is ready for predictions.

        Args:
            data: a pandas or polars frame; a pyarrow Table; a file's path; the name of a dataset, or of a built-in one.
            target: the column to predict, or several.
            name: the dataset's; left out, it is derived from the file's name or the target's.
            model: the name to serve it under; left out, it is the dataset's.
            kinds: column kinds, where the server should not infer them.
            timeout: seconds to wait; the run continues afterwards.
            parts: further parts of the spec, such as `network=[...]` or `training={"epochs": 50}`. All have defaults.

        Raises BadInput, NotFound, RunEnded if the run failed, WaitedTooLong.

        Example:
            >>> trained = fitserve.Client().train(frame, target="admit")
            >>> trained.scores(), trained.predict(frame)
        """
        options = {"kinds": kinds} if kinds else {}
        check_columns(data, target)
        dataset = dataset_of(self.datasets, data, default_name(data, name, target), **options)
        check_target(dataset, target)
        wanted = target if isinstance(target, str) else list(target)
        run = self.runs.create(dataset=dataset.ref, target=wanted, model=model or dataset_name(dataset.name), **parts)
        return Trained(dataset, run.wait(timeout), labels_in(data, target))

    def limits(self) -> dict[str, Any]:
        """Return the server's upper bounds, and the address of its prediction service."""
        limits: dict[str, Any] = self._connection.get("/api/v1/limits")
        return limits

    def spec_schema(self) -> dict[str, Any]:
        """Return the JSON Schema of a spec, for editors."""
        schema: dict[str, Any] = self._connection.get("/api/v1/schemas/spec")
        return schema

    def ready(self) -> dict[str, Any]:
        """Return the answer of `/readyz`. Raises Unavailable if the server is not ready, Unreachable."""
        answer: dict[str, Any] = self._connection.get("/readyz")
        return answer

    def telemetry(self, of: Literal["control", "predict"] = "control") -> str:
        """Return the text of `/metrics` of the API (`control`) or of the prediction service (`predict`)."""
        if of == "predict":
            self._connection.find_predict()
        return self._connection.send("GET", "/metrics", service=of).content.decode()

    def system(self) -> SystemInfo:
        """Return the current workers, queue and storage, and what is wrong. Needs the scope `admin`."""
        return SystemInfo.model_validate(self._connection.get("/api/v1/system"))

    def system_history(self, window: Literal["hour", "day"] = "hour") -> SystemHistory:
        """Return queue, predictions, errors, latencies and load of the last hour or day. Needs the scope `admin`."""
        return SystemHistory.model_validate(self._connection.get("/api/v1/system/history", {"window": window}))

    def alarms(self, limit: int | None = None) -> Iterator[AlarmInfo]:
        """Yield the alarms that fired, newest first; `ended_at` is None while one lasts. Needs the scope `admin`."""
        yield from self._connection.pages("/api/v1/system/alarms", AlarmInfo.model_validate, limit=limit)

    def storage(self) -> list[OwnerStorage]:
        """Return what each owner stores, the largest first; without the scope `admin`, your own."""
        return [OwnerStorage.model_validate(one) for one in self._connection.get("/api/v1/system/storage")]

    def audit(
        self,
        limit: int | None = None,
        *,
        owner: str | None = None,
        key_id: str | None = None,
        method: Literal["POST", "PUT", "PATCH", "DELETE"] | None = None,
        outcome: Literal["done", "refused", "failed"] | None = None,
        search: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> Iterator[AuditEntry]:
        """Yield who changed what, newest first; arguments are combined. Needs the scope `admin`."""
        query = {
            "owner": owner,
            "key_id": key_id,
            "method": method,
            "outcome": outcome,
            "search": search,
            "since": None if since is None else since.isoformat(),
            "until": None if until is None else until.isoformat(),
        }
        yield from self._connection.pages("/api/v1/audit", AuditEntry.model_validate, query, limit)

    def close(self) -> None:
        """Close the connections."""
        if self._owns_http:
            self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        key = "with a key" if self._connection.address.api_key else "without a key"
        return f"<Client of {self.base_url}, {key}>"
