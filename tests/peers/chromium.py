"""Drives a headless Chromium by its DevTools protocol over two pipes. The standard library is all it needs.

https://chromedevtools.github.io/devtools-protocol/
"""
import base64
import json
import os
import pathlib
import select
import shutil
import signal
import subprocess
import tempfile
import time

ANSWER_TIMEOUT = 30  # seconds for any one answer, on a loaded machine
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --no-default-browser-check --disable-sync"
    " --disable-background-networking --disable-component-update --disable-default-apps --disable-extensions"
    " --disable-dev-shm-usage --hide-scrollbars --force-color-profile=srgb --font-render-hinting=none"
    " --remote-debugging-pipe"
).split()
# Pages are set in the reader's system font; here in one that is a package, so that pictures of them agree.
FONTS = """\
<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig>
  <dir>/usr/share/fonts</dir>
  <cachedir>{cache}</cachedir>
  <alias binding="same"><family>system-ui</family><prefer><family>Inter</family></prefer></alias>
  <alias binding="same"><family>sans-serif</family><prefer><family>Inter</family></prefer></alias>
  <alias binding="same"><family>monospace</family><prefer><family>DejaVu Sans Mono</family></prefer></alias>
</fontconfig>
"""


class Failure(Exception):
    """The browser did not do what it was asked."""


class Chromium:
    """A browser with one tab and a profile of its own; a context manager.

    `requests` holds the URL of everything it asked the network for, `messages` what reached the console and what the
    page's policy refused, both since the last `open`.
    """

    def __enter__(self):
        program = shutil.which("chromium")
        if not program:
            raise Failure("chromium is missing: apt-get install chromium fonts-inter fonts-dejavu-core")
        self.home = pathlib.Path(tempfile.mkdtemp(prefix="keyhole-chromium-"))
        (self.home / "fonts.conf").write_text(FONTS.format(cache=self.home / "fonts"))
        environment = {**os.environ, "FONTCONFIG_FILE": str(self.home / "fonts.conf"), "HOME": str(self.home)}
        # The browser reads commands from its descriptor 3 and writes answers to 4.
        theirs_in, self.write_to = os.pipe()
        self.read_from, theirs_out = os.pipe()
        arguments = [program, *FLAGS, f"--user-data-dir={self.home}/profile", "about:blank"]
        # A shell renumbers the descriptors: between fork and exec nothing of ours may run.
        renumber = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
        with open(self.home / "log", "w") as log:
            self.process = subprocess.Popen(
                ["/bin/bash", "-c", renumber, "chromium", *arguments], pass_fds=(theirs_in, theirs_out),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True,
            )
        os.close(theirs_in)
        os.close(theirs_out)
        self.unread, self.number, self.session = b"", 0, None
        self.requests, self.messages = [], []
        try:
            self.attach()
        except BaseException:
            self.__exit__()
            raise
        return self

    def attach(self):
        targets = self.call("Target.getTargets")["targetInfos"]
        tab = next(target["targetId"] for target in targets if target["type"] == "page")
        self.session = self.call("Target.attachToTarget", targetId=tab, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime", "Audits"):
            self.call(f"{domain}.enable")

    def __exit__(self, *_):
        os.close(self.write_to)  # the browser ends when its pipe does
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        os.close(self.read_from)
        shutil.rmtree(self.home, ignore_errors=True)

    def call(self, method, **parameters):
        """The result of one command."""
        self.number += 1
        command = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            command["sessionId"] = self.session
        os.write(self.write_to, json.dumps(command).encode() + b"\0")
        deadline = time.monotonic() + ANSWER_TIMEOUT
        while True:
            message = self.receive(deadline, method)
            if message.get("id") == self.number:
                if "error" in message:
                    raise Failure(f"{method}: {message['error'].get('message')}")
                return message["result"]

    def receive(self, deadline, what):
        while b"\0" not in self.unread:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.read_from], [], [], left)[0]:
                raise Failure(f"{what}: Chromium did not answer within {ANSWER_TIMEOUT} s")
            piece = os.read(self.read_from, 1 << 20)
            if not piece:
                log = (self.home / "log").read_text(errors="replace").splitlines()[-5:]
                raise Failure(f"{what}: Chromium ended: " + " | ".join(log))
            self.unread += piece
        line, self.unread = self.unread.split(b"\0", 1)
        message = json.loads(line)
        self.note(message.get("method"), message.get("params", {}))
        return message

    def note(self, event, parameters):
        """Keeps what a check may ask for later."""
        if event == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif event == "Log.entryAdded":
            self.messages.append(parameters["entry"]["text"])
        elif event in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Page.javascriptDialogOpening"):
            self.messages.append(json.dumps(parameters)[:300])
        elif event == "Audits.issueAdded":
            self.messages.append(json.dumps(parameters["issue"])[:300])

    def open(self, url, width=1280, height=800, dark=False, scale=1):
        """Opens a page in a window of that size, and waits until all of it is there."""
        # Nothing that a page before this one still says counts for this one.
        self.call("Page.navigate", url="about:blank")
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=width < 500)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.requests, self.messages = [], []
        answer = self.call("Page.navigate", url=url)
        if "errorText" in answer:
            raise Failure(f"{url}: {answer['errorText']}")
        deadline = time.monotonic() + ANSWER_TIMEOUT
        while self.evaluate("document.readyState + location.href") != "complete" + url:
            if time.monotonic() > deadline:
                raise Failure(f"{url} was not there within {ANSWER_TIMEOUT} s")
            time.sleep(0.05)

    def evaluate(self, expression):
        """The value of a JavaScript expression in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in answer:
            raise Failure(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def key(self, name, code, text="", modifiers=0, commands=()):
        """Presses and releases one key."""
        key = dict(key=name, code=name, windowsVirtualKeyCode=code, modifiers=modifiers)
        self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, commands=list(commands), **key)
        self.call("Input.dispatchKeyEvent", type="keyUp", **key)

    def screenshot(self, whole=True):
        """A PNG of the page, or of what the window shows of it."""
        answer = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        return base64.b64decode(answer["data"])
