"""Exit codes, for scripts. `docs/reference/cli.md` shows this table."""

from __future__ import annotations

from enum import IntEnum

from fitserve.errors import FitserveError


class Exit(IntEnum):
    """What a command ends with."""

    done = 0
    failed = 1
    usage = 2
    refused = 3
    not_found = 4
    no_access = 5
    try_again = 6
    run_failed = 7
    run_cancelled = 8
    interrupted = 130


MEANING = {
    Exit.done: "done",
    Exit.failed: "something went wrong on the server's side or ours",
    Exit.usage: "the command line is wrong",
    Exit.refused: "the server, or the command itself, refused the input",
    Exit.not_found: "there is no such dataset, run, model, version or key",
    Exit.no_access: "the API key is missing, not valid, or may not do that",
    Exit.try_again: "the server was not reached, is busy, or a quota is used up: try again later",
    Exit.run_failed: "the run that was watched failed",
    Exit.run_cancelled: "the run that was watched was cancelled",
    Exit.interrupted: "stopped by Ctrl-C; a run goes on",
}

_BY_STATUS = {
    401: Exit.no_access,
    403: Exit.no_access,
    404: Exit.not_found,
    408: Exit.try_again,
    429: Exit.try_again,
    502: Exit.try_again,
    503: Exit.try_again,
    504: Exit.try_again,
}


def exit_of(error: FitserveError) -> Exit:
    """The exit code that an error leads to."""
    if error.slug == "run-ended":
        return Exit.run_cancelled if error.extra.get("state") == "cancelled" else Exit.run_failed
    return _BY_STATUS.get(error.status) or (Exit.refused if error.status < 500 else Exit.failed)
