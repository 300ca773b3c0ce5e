"""Chromium without a window, driven through its DevTools protocol."""

import json
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import count

import websocket

OFFLINE = "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"  # no other host has an address
OPTIONS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--force-prefers-reduced-motion", "--remote-debugging-port=0",
    f"--host-resolver-rules={OFFLINE}",
]  # fmt: skip
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")


def find_chromium():
    """Path of the installed Chromium, None if there is none."""
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


def holds_book(site, command):
    """Whether a folder holds built pages; if not, `command` says what to do."""
    there = (site / "index.html").is_file()
    if not there:
        print(f"{command}: {site} holds no book; run `make book` first", file=sys.stderr)
    return there


def leads_to(page):
    """Address of the page that a page only leads to, None if it is one of its own."""
    found = re.search(r'http-equiv="Refresh" content="0; url=(.+?)"', page.read_text())
    return found and found[1]


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@contextmanager
def serve(folder):
    """Serve the files of a folder to this machine alone; the address, with a slash at its end."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


class Browser:
    """One tab, as a context manager. It reaches no other host than this machine.

    Attributes
    ----------
    events : list of dict
        What the tab has reported since the last :meth:`open`.
    """

    def __init__(self, program, timeout=60):
        self.events, self._numbers, self._session = [], count(1), None
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self._process = subprocess.Popen(
            [program, *OPTIONS, f"--user-data-dir={self._profile.name}", "about:blank"],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        lines = []
        for line in self._process.stderr:
            lines.append(line)
            if found := re.search(r"DevTools listening on (ws://\S+)", line):
                break
        else:
            raise OSError(f"{program} did not start: {''.join(lines[-3:])}")
        # Chromium refuses a connection that names an origin
        self._socket = websocket.create_connection(found[1], timeout=timeout, suppress_origin=True)
        # without a session calls are for the browser, with one for its tab
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")
        self.send("Page.setLifecycleEventsEnabled", enabled=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._socket.close()
        self._process.terminate()
        self._process.wait()  # before its profile is removed
        self._process.stderr.close()
        self._profile.cleanup()

    def send(self, method, **arguments):
        """Call a method of the protocol and return its result."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": arguments}
        self._socket.send(json.dumps(message | ({"sessionId": self._session} if self._session else {})))
        reply = self._receive(lambda message: message.get("id") == number)
        if "error" in reply:
            raise RuntimeError(f"{method}: {reply['error']['message']}")
        return reply["result"]

    def _receive(self, wanted):
        while not wanted(message := json.loads(self._socket.recv())):
            self.events.append(message)
        return message

    def resize(self, width, height=900):
        """Set the size of the window in CSS pixels."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def prefer(self, scheme, media=""):
        """Ask for "light" or "dark" pages, as they are on a screen or, with `media` "print", on paper."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.send("Emulation.setEmulatedMedia", media=media, features=features)

    def open(self, address):
        """Load a page and wait until it has loaded; nothing that the last one reports late is among the events."""
        # what the page before still does ends here
        self._load("about:blank")
        self._load(address)

    def _load(self, address):
        self.events.clear()
        # of this address, not of a page that was left meanwhile
        load = {"name": "load", "loaderId": self.send("Page.navigate", url=address)["loaderId"]}
        if not any(load.items() <= event.get("params", {}).items() for event in self.events):
            self.events.append(self._receive(lambda message: load.items() <= message.get("params", {}).items()))

    def run(self, script):
        """Value of a JavaScript expression in the page, awaited if it is a promise."""
        reply = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in reply:
            raise RuntimeError(f"{script[:60]}: {reply['exceptionDetails']['exception'].get('description')}")
        return reply["result"].get("value")

    def press(self, key):
        """Press and release a key of the keyboard, such as ArrowRight."""
        code = {"ArrowLeft": 37, "ArrowRight": 39}[key]
        for kind in ("rawKeyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)
