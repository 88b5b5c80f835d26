"""Communication between the processes that train one network together, by TensorFlow's collectives.

Each process has the whole network and a share of every batch. `Collectives.connect` starts TensorFlow's server and must
come before the process computes anything; a process never leaves the group but by its end. A thread checks that the
others are alive, because a collective itself waits without a limit: when a process is lost, every collective of this
process fails with `GangBroken` within LOST_SECONDS.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import tensorflow_server_pb2
from tensorflow.python.eager import context as eager_context  # the public API has neither servers nor aborts

from workers.trainer.interface import GangBroken

START_SECONDS = 90.0  # for the slowest process to import TensorFlow and to connect
CHECK_SECONDS = 4.0  # between two checks of the others
ANSWER_SECONDS = 6.0  # for an answer to a check
PROBE_SECONDS = 3.0  # for an address to accept a connection, once the group has failed to meet
MISSED = 2  # unanswered checks in a row, after which a process is lost
FUSED_BYTES = 2**20  # tensors smaller than this are summed together; a larger one alone, without a copy
LOST_SECONDS = 30.0  # at most, from the loss of a process to the end of the step; the figures above add up to less
CHUNK_BYTES = str(2**16)  # TensorFlow's 4 KB take an eighth more processor time for an exchange
_JOB = "/job:worker/replica:0/task:{}"
_GROUP = 1
_BROKEN = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
    tf.errors.FailedPreconditionError,
    tf.errors.UnknownError,
)


class Collectives:
    """The group, from the process of number `rank`; number 0 leads."""

    def __init__(self, addresses: Sequence[str], rank: int) -> None:
        self.size, self.rank = len(addresses), rank
        self.addresses = list(addresses)
        self._keys = itertools.count(1)  # keys of the collectives, which every process traces in the same order
        self._closed = threading.Event()
        self._lost = ""  # the lost process, and how that was noticed
        self.waited: Any = None  # a variable: seconds that a step has waited for its exchanges
        self._silent: list[str] = []  # addresses at which nothing answered, if the group did not meet

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def connect(self) -> None:
        """Start this process's server and connect to the others. Raises GangBroken."""
        os.environ.setdefault("TF_RECV_BUF_MAX_CHUNK", CHUNK_BYTES)
        own = eager_context.context()
        own.configure_collective_ops(
            collective_leader=_JOB.format(0),
            use_nccl_communication=True,  # between GPUs; processors exchange by gRPC
            device_filters=(f"/job:worker/task:{self.rank}",),
        )
        config = own.config
        config.experimental.collective_group_leader = _JOB.format(0)
        server = tensorflow_server_pb2.ServerDef(
            cluster=tf.train.ClusterSpec({"worker": self.addresses}).as_cluster_def(),
            default_session_config=config,
            job_name="worker",
            task_index=self.rank,
            protocol="grpc",
            port=int(self.addresses[self.rank].rpartition(":")[2]),
        )
        with self.failing_together():
            own.enable_collective_ops(server)
            own.ensure_initialized()
            met = threading.Event()
            threading.Thread(target=self._watch, args=(own, met), name="gang", daemon=True).start()
            tf.function(self.sum, autograph=False)(tf.zeros([1]))
            met.set()

    def close(self) -> None:
        """Stop watching the others: they may leave now."""
        self._closed.set()

    @contextlib.contextmanager
    def failing_together(self) -> Iterator[None]:
        """Turn the errors that TensorFlow raises when a process is lost into GangBroken."""
        try:
            yield
        except _BROKEN as error:
            why = self._lost or f"TensorFlow's exchange failed: {type(error).__name__}"
            raise GangBroken(why, self._silent) from error

    def least(self, numbers: Sequence[int]) -> list[int]:
        """Return the elementwise minimum of all processes' numbers. Raises GangBroken."""
        merged = tf.function(partial(self.sum, merge="Min"), autograph=False)
        with self.failing_together():
            return [int(number) for number in merged(tf.constant(numbers, tf.int64)).numpy()]

    def agree(self, digest: str, what: str) -> None:
        """Compare a hexadecimal digest with the leader's. Raises GangBroken if they differ."""
        own = [int(digest[start : start + 15], 16) for start in (0, 15)]
        broadcast = tf.function(self.from_leader, autograph=False)
        with self.failing_together():
            leaders = [int(number) for number in broadcast(tf.constant(own, tf.int64)).numpy()]
        if leaders != own:
            raise GangBroken(f"{what} of {self.addresses[self.rank]} are not the leader's")

    def sum(self, tensor: Any, merge: str = "Add") -> Any:
        """Return the sum of all processes' tensors, bit for bit the same in each process."""
        return tf.raw_ops.CollectiveReduceV2(
            input=tensor,
            group_size=self.size,
            group_key=_GROUP,
            instance_key=next(self._keys),
            ordering_token=[],
            merge_op=merge,
            final_op="Id",
            communication_hint="auto",
            max_subdivs_per_device=1,  # pieces of pieces are slower: by a fifth for 4.6 million weights on loopback
        )

    def sums(self, tensors: Sequence[Any]) -> list[Any]:
        """Return the sums of several tensors: each large one by itself, the last one first, then the small ones.

        A large gradient is exchanged as soon as it is known, while those of earlier layers are computed. One exchange
        at a time, in one order: on GPUs, NCCL needs that.
        """
        return self._timed(tensors, lambda: self._sums(tensors))

    def _sums(self, tensors: Sequence[Any]) -> list[Any]:
        sums: dict[int, Any] = {}
        for index in reversed(range(len(tensors))):
            size = tensors[index].shape.num_elements()
            if size is not None and 4 * size >= FUSED_BYTES:
                with tf.control_dependencies(list(sums.values())):
                    sums[index] = self.sum(tensors[index])
        small = [index for index in range(len(tensors)) if index not in sums]
        if small:
            with tf.control_dependencies(list(sums.values())):
                flat = self.sum(tf.concat([tf.reshape(tensors[index], [-1]) for index in small], 0))
            pieces = tf.split(flat, tf.stack([tf.size(tensors[index]) for index in small]), num=len(small))
            for index, piece in zip(small, pieces, strict=True):
                sums[index] = tf.reshape(piece, tf.shape(tensors[index]))
        return [sums[index] for index in range(len(tensors))]

    def differentiable_sum(self, tensor: Any) -> Any:
        """`sum`, through which gradients pass: each process's share of the gradient is summed as well."""

        @tf.custom_gradient
        def summed(value: Any) -> tuple[Any, Callable[[Any], Any]]:
            return timed(value), timed

        def timed(value: Any) -> Any:
            (total,) = self._timed([value], lambda: [self.sum(value)])
            return total

        return summed(tensor)

    def _timed(self, tensors: Sequence[Any], exchange: Callable[[], list[Any]]) -> list[Any]:
        """Exchange tensors, and count in `waited` how long after all of them are known that ends."""
        with tf.control_dependencies(tensors):
            began_at = tf.timestamp()
        results = exchange()
        with tf.control_dependencies([*results, began_at]):
            self.waited.assign_add(tf.timestamp() - began_at)
        return results

    def from_leader(self, tensor: Any) -> Any:
        """Return the leader's tensor in every process; other processes' tensors only give its type and shape."""
        arguments = {"group_size": self.size, "group_key": _GROUP, "instance_key": next(self._keys)}
        if self.leads:
            return tf.raw_ops.CollectiveBcastSendV2(input=tensor, **arguments)
        return tf.raw_ops.CollectiveBcastRecvV2(T=tensor.dtype, shape=tf.shape(tensor), **arguments)

    def _watch(self, own: Any, met: threading.Event) -> None:
        others = [_JOB.format(rank) for rank in range(self.size) if rank != self.rank]
        missed = dict.fromkeys(others, 0)
        lost = "" if met.wait(START_SECONDS) else self._why_not_met()
        while not lost and not self._closed.wait(CHECK_SECONDS):
            for other in others:
                asked_at = time.monotonic()
                try:
                    own.check_collective_ops_peer_health(other, timeout_in_ms=int(ANSWER_SECONDS * 1000))
                    missed[other] = 0
                except tf.errors.OpError as error:
                    refused = time.monotonic() - asked_at < ANSWER_SECONDS / 2  # it has exited, or another took over
                    missed[other] += MISSED if refused else 1
                    if missed[other] >= MISSED:
                        lost = f"{self.addresses[int(other.rpartition(':')[2])]} is lost ({type(error).__name__})"
                        break
        if lost and not self._closed.is_set():
            self._lost = lost
            own.abort_collective_ops(tf.errors.UNAVAILABLE, lost)

    def _why_not_met(self) -> str:
        """Find the addresses at which nothing answers, this process's own included, and return what to say of them."""
        self._silent = [address for address in self.addresses if not _answers(address)]
        return f"nothing answers at {', '.join(self._silent)}" if self._silent else "the group did not meet"


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), PROBE_SECONDS).close()
    except OSError:
        return False
    return True
