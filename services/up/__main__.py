"""`python -m services.up`: `fitserve up` and `make run` start it."""

from __future__ import annotations

import signal
import sys

from pydantic import ValidationError

from fitserve import local_server
from fitserve.errors import FitserveError
from fitserve.process_start import permanent_objects
from fitserve.settings import Settings
from services.up import ports
from services.up.display import make_display
from services.up.stop_requests import StopRequests


def main() -> int:
    try:
        settings = Settings()
    except ValidationError as error:
        for problem in error.errors():
            name = "_".join(str(part) for part in problem["loc"]).upper()
            print(f"fitserve: FITSERVE_{name}: {problem['msg']}.", file=sys.stderr)
        print("Every setting: docs/reference/settings.md", file=sys.stderr)
        return 2
    display = make_display(settings.log_format)
    requests = StopRequests()
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signum != signal.SIGHUP or signal.getsignal(signum) != signal.SIG_IGN:  # as `nohup` has it
            signal.signal(signum, lambda *_: requests.add())
    try:
        with local_server.hold(settings.home):
            ports.refuse_busy_ports(settings)
            display.hello(settings.home)

            with permanent_objects():
                from services.up.serve import Up  # takes a second

            Up(settings, requests, display).run()
    except FitserveError as error:
        display.close()
        print(f"fitserve: {error.detail}", file=sys.stderr)
        if error.fix:
            print(f"  {error.fix}", file=sys.stderr)
        return 1
    finally:
        display.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
