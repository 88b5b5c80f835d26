"""A headless Firefox over WebDriver BiDi, which Firefox supports without a driver."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

from tests.waiting import PATIENCE, wait_until

_LISTENS = re.compile(r"WebDriver BiDi listening on (ws://\S+)")
# No requests of its own, and no page that greets.
_PREFERENCES = {
    "app.normandy.enabled": False,
    "app.update.auto": False,
    "browser.shell.checkDefaultBrowser": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "remote.prefs.recommended": True,
    "toolkit.telemetry.reportingpolicy.firstRun": False,
    "ui.prefersReducedMotion": 1,
}


class Firefox:
    """One tab: it is sent to addresses, and evaluates expressions."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket, self._number, self.errors = socket, 0, list[str]()
        self.send("session.new", capabilities={})
        self.send("session.subscribe", events=["log.entryAdded"])
        self.tab = self.send("browsingContext.getTree")["contexts"][0]["context"]

    def send(self, method: str, **parameters: Any) -> Any:
        """Send a command and return its result. Errors that pages log meanwhile are kept."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(PATIENCE))
            if message.get("type") == "event":
                self._keep(message["params"])
            elif message.get("id") == self._number:
                assert message["type"] == "success", (method, message)
                return message["result"]

    def _keep(self, entry: dict[str, Any]) -> None:
        if entry.get("level") == "error":
            self.errors.append(str(entry.get("text")))

    def open(self, address: str) -> None:
        self.send("browsingContext.navigate", context=self.tab, url=address, wait="complete")

    def evaluate(self, expression: str) -> Any:
        """Return an expression's value: a text, a number or a boolean. What it throws fails the test."""
        target = {"context": self.tab}
        result = self.send("script.evaluate", expression=expression, target=target, awaitPromise=True)
        assert result["type"] == "success", (expression, result["exceptionDetails"]["text"])
        return result["result"].get("value")

    def wait_for(self, expression: str) -> Any:
        """Return the first true value of an expression."""
        return wait_until(lambda: self.evaluate(expression), expression, pause=0.1)

    def press(self, button: str) -> None:
        """Press the button that has this name, once it is there."""
        found = f"[...document.querySelectorAll('button')].find((one) => one.textContent.trim() === {button!r})"
        self.wait_for(f"!!{found}")
        self.evaluate(f"{found}.click()")


@contextmanager
def opened(program: str, home: Path) -> Iterator[Firefox]:
    """Run a Firefox with a profile of its own below `home`."""
    profile = home / "profile"
    profile.mkdir(parents=True)
    lines = [f"user_pref({json.dumps(name)}, {json.dumps(value)});" for name, value in _PREFERENCES.items()]
    (profile / "user.js").write_text("\n".join(lines))
    command = [program, "--headless", "--no-remote", "--profile", str(profile), "--remote-debugging-port", "0"]
    log = home / "log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command,
            stdout=sink,
            stderr=sink,
            env={**os.environ, "HOME": str(home), "MOZ_CRASHREPORTER_DISABLE": "1"},
            start_new_session=True,
        )
    try:
        found = wait_until(lambda: _LISTENS.search(log.read_text()), "Firefox", process=process, log=log)
        with connect(f"{found[1]}/session", max_size=None, open_timeout=PATIENCE, proxy=None) as socket:
            yield Firefox(socket)
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # its content processes too
        process.wait(PATIENCE)
