"""Every FITSERVE_* variable, typed. A process reads them once, in its composition root.

`docs/reference/settings.md` is checked against this module by a test.
"""

from __future__ import annotations

import base64
import os
import platform
from importlib.util import find_spec
from ipaddress import ip_network
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

MB = 1024 * 1024
GB = 1024 * MB

_FOLDER = Path(os.environ.get("FITSERVE_SECRETS", "/run/secrets"))
_SECRETS = _FOLDER if _FOLDER.is_dir() else None


def _split(keys: SecretStr | None) -> list[str]:
    text = keys.get_secret_value() if keys is not None else ""
    return [key.strip() for key in text.split(",") if key.strip()]


class Limits(BaseSettings):
    """Upper bounds, checked before memory is allocated. `GET /api/v1/limits` returns them."""

    model_config = SettingsConfigDict(env_prefix="FITSERVE_LIMIT_", extra="ignore")

    upload_bytes: int = Field(20 * GB, description="Bytes of one upload, as sent")
    unfinished_uploads: int = Field(100, description="Resumable uploads of one owner that are unfinished")
    unfinished_upload_bytes: int = Field(
        100 * GB, description="Bytes that the unfinished resumable uploads of one owner announce together"
    )
    weights_bytes: int = Field(1 * GB, description="Bytes of one file of weights that is uploaded")
    stored_weights_bytes: int = Field(10 * GB, description="Bytes of uploaded weights that one owner keeps")
    expanded_bytes: int = Field(100 * GB, description="Bytes of one upload after decompression")
    expansion_ratio: int = Field(100, description="Decompressed bytes for each compressed byte")
    rows: int = Field(200_000_000, description="Rows of a dataset")
    columns: int = Field(5_000, description="Columns of a dataset")
    field_bytes: int = Field(1 * MB, description="Bytes of one field of a CSV or JSON Lines file")
    json_bytes: int = Field(10 * MB, description="Bytes of a JSON body on the control API")
    json_depth: int = Field(64, description="Nesting depth of a JSON body")
    predict_bytes: int = Field(32 * MB, description="Bytes of one prediction request")
    predict_rows: int = Field(100_000, description="Rows of one prediction request")
    layers: int = Field(500, description="Layers of a network")
    parameters: int = Field(100_000_000, description="Trainable and other weights of a network")
    activation_bytes: int = Field(4 * GB, description="Activations of one batch")
    epochs: int = Field(1_000_000, description="Epochs of a run")
    trials: int = Field(1_000, description="Trials of a run")
    multiply_adds: int = Field(10**18, description="Multiply-adds of a whole run")
    queued_runs: int = Field(10_000, description="Queued runs of one key owner")
    running_runs: int = Field(1_000, description="Running runs of one key owner")
    stored_predictions: int = Field(
        100_000, description="Predictions of one owner that are kept for their ground truth"
    )
    webhooks: int = Field(100, description="Webhooks of one key owner")
    automations: int = Field(100, description="Automations of one key owner")
    training_seconds_per_day: int = Field(0, description="Training seconds of one key in 24 hours; 0 sets no limit")


class Settings(BaseSettings):
    """Settings of a process."""

    # A secret may also be a file, /run/secrets/fitserve_root_key, as Docker and Kubernetes mount them.
    model_config = SettingsConfigDict(env_prefix="FITSERVE_", extra="ignore", secrets_dir=_SECRETS)

    home: Path = Field(Path("fitserve-data"), description="Folder of the embedded database, blobs and broker")
    database_url: str | None = Field(None, description="SQLAlchemy URL; SQLite under `home` when unset")
    redis_url: str | None = Field(None, description="Redis URL of the broker; an embedded Redis when unset")
    blob_url: str | None = Field(None, description="fsspec URL of the blob store; `home`/blobs when unset")
    connections: SecretStr | None = Field(
        None, description="Data sources by name, in YAML or JSON: what imports may read, and with which passwords"
    )
    append_commit_rows: int = Field(
        100_000, gt=0, description="Staged rows of a dataset that are appended as one version, without being asked"
    )
    append_commit_seconds: float = Field(
        300.0, gt=0, description="Seconds after which staged rows are appended, without being asked"
    )
    connections_file: Path | None = Field(None, description="The same in a file, which is read again at each import")

    host: str = Field("127.0.0.1", description="Address the API and the prediction service bind to")
    port: int = Field(8000, description="Port of the API and the dashboard")
    predict_port: int = Field(8501, description="Port of the prediction service's REST protocols")
    grpc_port: int = Field(8500, description="Port of the prediction service's gRPC protocols; 0 turns it off")
    worker_metrics_port: int = Field(9101, description="Port of a worker's /metrics, /livez and /readyz")
    reaper_metrics_port: int = Field(9102, description="Port of the reaper's /metrics, /livez and /readyz")
    auth: bool = Field(True, description="Require API keys; can be off only on a loopback address")
    root_key: SecretStr | None = Field(None, description="An admin key to accept, as `id.secret`")
    predict_url: str | None = Field(None, description="Address of the prediction service for clients")
    grafana_url: str | None = Field(
        None, pattern=r"^https?://", description="Address of Grafana's dashboards, for a link on the System page"
    )

    session_seconds: float = Field(604_800, ge=60, description="How long a browser stays signed in")
    trusted_proxies: str = Field(
        "",
        description="Comma-separated addresses and networks of the proxies whose X-Forwarded-For and -Proto are "
        "trusted; empty: none",
    )

    outgoing_networks: str = Field(
        "",
        description="Comma-separated private networks that requests to addresses named by clients (webhooks, fetched "
        "tables) may reach, also over plain http; empty: the public Internet alone",
    )

    channels: dict[str, SecretStr] = Field(
        default_factory=dict,
        description="Chat and mail addresses of the operator's for webhooks, as a JSON object: names to apprise "
        "addresses, which no client sees",
    )
    secret_keys: SecretStr | None = Field(
        None,
        description="Comma-separated keys, the newest first, that encrypt the secrets of webhooks in the database: 32 "
        "bytes in URL-safe base64 each. Needs fitserve[encryption]; unset: they lie in it readable",
    )
    webhook_seconds: float = Field(15.0, gt=0, description="Seconds that a webhook's receiver has to answer")
    webhook_retry_seconds: float = Field(
        5.0, gt=0, description="Before a failed delivery is tried again; the pause grows threefold, to six hours"
    )
    webhook_give_up_seconds: float = Field(86_400, gt=0, description="How long a delivery is tried")
    webhook_disable_seconds: float = Field(
        432_000, gt=0, description="A webhook that only failed for so long is disabled"
    )
    event_seconds: float = Field(2_592_000, gt=0, description="How long events and their deliveries are kept")

    head_seconds: float = Field(10.0, gt=0, description="Seconds that a client has to send a request's headers")
    body_bytes_per_second: int = Field(
        1_000,
        gt=0,
        description="A client that sends its body, or the message of a gRPC call, more slowly than this is cut off "
        "after `head_seconds`",
    )
    grpc_message_seconds: float = Field(
        300.0, gt=0, description="gRPC: seconds that a client has to send the message of a call"
    )
    grpc_waiting_calls: int = Field(
        1_000,
        gt=0,
        description="gRPC: calls of one caller that may wait for their messages at once, and open streams; each "
        "holds a thread",
    )
    connections_per_address: int = Field(
        1_000,
        gt=0,
        description="Connections of one address to one port of one process; trusted proxies may have more",
    )

    tls_certificate: Path | None = Field(None, description="PEM file; with `tls_key`, the web processes serve HTTPS")
    tls_key: Path | None = Field(None, description="PEM file of the certificate's private key")
    rate_requests_per_minute: int = Field(6_000, description="Control API requests of one key in a minute")
    rate_uploads_per_hour: int = Field(1_000, description="Uploads of one key in an hour")
    rate_feedback_per_hour: int = Field(100_000, description="Rows of ground truth posted with one key in an hour")

    workers: int = Field(1, description="Worker processes that `fitserve up` starts")
    trainers: int = Field(1, description="Runs that one worker process trains at the same time")
    predict_processes: int = Field(1, description="Prediction processes that `fitserve up` starts")
    log_level: str = Field("INFO", description="Level of the JSON logs")
    log_format: Literal["auto", "json"] = Field(
        "auto", description="What `fitserve up` prints: `auto` is a screen for people on a terminal, else JSON lines"
    )
    otlp_endpoint: str | None = Field(None, description="OTLP/HTTP collector that traces are sent to; off when unset")
    drift_window_seconds: float = Field(3_600, ge=12, description="Sliding window of the drift statistics")
    drift_write_seconds: float = Field(5.0, gt=0, description="Between two writes of a prediction process's counts")
    drift_event_psi: float = Field(
        0.25, gt=0, description="A served version whose worst column has a larger index makes the event drift.detected"
    )
    drift_event_rows: int = Field(200, ge=1, description="Rows in the window below which drift makes no event")
    import_run_bytes: int = Field(
        1 * GB,
        description="Imports of objects of at least this size are runs, which workers carry out together, unless the "
        "request says `wait`; 0: none is",
    )
    import_run_parts: int = Field(200, ge=2, description="Imports of at least this many objects are runs, too")
    sample_seconds: float = Field(
        15.0, gt=0, description="Between two samples that a process writes for the history on the System page"
    )
    feedback_seconds: float = Field(604_800, description="How long predictions and ground truth are kept")

    lease_seconds: float = Field(30, description="Seconds without a heartbeat until another worker may take a run over")
    heartbeat_seconds: float = Field(5, description="Seconds between two heartbeats of a worker for its run")
    reap_seconds: float = Field(5, description="Seconds between two rounds of the reaper and dispatcher")
    redispatch_seconds: float = Field(30, description="Seconds after which a queued run is published again")
    no_progress_seconds: float = Field(900, description="Seconds without progress after which a trainer is killed")
    max_attempts: int = Field(3, description="Attempts of a run before it fails as `worker_lost`")
    graceful_seconds: float = Field(20, description="Seconds that a trainer has to write a checkpoint after SIGTERM")
    checkpoint_seconds: float = Field(30, description="Seconds between two checkpoints of a training run")
    trainer_memory_bytes: int = Field(0, description="Memory limit of a trainer; 0 is three quarters of the machine's")
    trainer_runs: int = Field(200, description="Runs after which a warm trainer process is replaced")
    trainer_network: bool = Field(False, description="Let trainers open sockets, as CUDA's MPS requires")
    cluster_host: str = Field(
        "127.0.0.1",
        description="Address at which other workers reach this one where they train a network together; `hostname`: "
        "this machine's own name",
    )
    cluster_ports: str = Field("18600-18699", description="Ports for that, of which a trainer takes a free one")
    cluster_public: bool = Field(
        False,
        description="Train together although this machine has a public address: TensorFlow listens on every address, "
        "without encryption or keys",
    )
    trainer_threads: int = Field(0, description="Threads of a trainer; 0 is one for each core")
    registry_poll_seconds: float = Field(1.0, description="Between two polls of the registry by the prediction service")
    predict_memory_bytes: int = Field(2 * GB, description="Memory budget of loaded models")
    garbage_age_seconds: float = Field(86_400, description="Unreferenced blobs are deleted after so long")

    limits: Limits = Field(default_factory=Limits)

    @field_validator("secret_keys")
    @classmethod
    def _are_keys(cls, keys: SecretStr | None) -> SecretStr | None:
        each = _split(keys)
        if not each:
            return None
        for place, key in enumerate(each, 1):
            try:
                right = len(base64.b64decode(key, altchars=b"-_", validate=True)) == 32
            except ValueError:
                right = False
            if not right:
                raise ValueError(f"key {place} is not 32 bytes in URL-safe base64")
        if find_spec("cryptography") is None:
            raise ValueError("needs the package cryptography: fitserve[encryption] brings it")
        return keys

    def each_secret_key(self) -> list[str]:
        """Return the keys of `secret_keys`, the newest first."""
        return _split(self.secret_keys)

    @field_validator("outgoing_networks")
    @classmethod
    def _are_networks(cls, text: str) -> str:
        for one in filter(None, map(str.strip, text.split(","))):
            ip_network(one)  # its ValueError names what is wrong
        return text

    @field_validator("cluster_ports")
    @classmethod
    def _are_ports(cls, text: str) -> str:
        first, _, last = text.partition("-")
        if not (first.isdecimal() and (last or first).isdecimal() and 1024 <= int(first) <= int(last or first) < 65536):
            raise ValueError("expected a range of ports such as 18600-18699, from 1024 to 65535")
        return text

    @property
    def resolved_cluster_host(self) -> str:
        """`cluster_host`, or this machine's name."""
        return platform.node() if self.cluster_host == "hostname" else self.cluster_host

    @property
    def resolved_database_url(self) -> str:
        """`database_url`, or SQLite under `home`."""
        return self.database_url or f"sqlite:///{self.home.resolve() / 'fitserve.db'}"

    @property
    def resolved_blob_url(self) -> str:
        """`blob_url`, or a folder under `home`."""
        return self.blob_url or f"file://{self.home.resolve() / 'blobs'}"

    @property
    def scratch(self) -> Path:
        """This machine's folder for temporary files of uploads and trainers; its content may be lost."""
        return self.home.resolve() / "scratch"
