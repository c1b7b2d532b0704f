"""Chromium, controlled through the pipe of its debugging protocol, which needs no driver."""

from __future__ import annotations

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

CHROMIUM = next(
    filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None
)

_OPTIONS = (
    '--headless',
    '--no-sandbox',
    '--disable-gpu',
    '--disable-background-networking',
    '--remote-debugging-pipe',
)


class Browser:
    """Browser with one page; `requests` are its URLs and `errors` its errors and warnings."""

    def __init__(self, width: int = 1400, height: int = 1000) -> None:
        self._width = width
        self.requests: list[str] = []
        self.errors: list[str] = []
        self._numbers = itertools.count(1)
        self._buffer = b''
        self._profile = tempfile.mkdtemp()
        to_read, self._to = os.pipe()
        self._from, to_write = os.pipe()
        # The protocol expects its pipes as descriptors 3 and 4, which a shell can set up.
        redirect = f'exec "$@" 3<&{to_read} 4>&{to_write}'
        window, profile = f'--window-size={width},{height}', f'--user-data-dir={self._profile}'
        self._process = subprocess.Popen(
            ['bash', '-c', redirect, 'bash', CHROMIUM, *_OPTIONS, window, profile],
            pass_fds=(to_read, to_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_read)
        os.close(to_write)
        self._session: str | None = None

    def __enter__(self) -> Browser:
        target = self._call('Target.createTarget', url='about:blank')['targetId']
        attached = self._call('Target.attachToTarget', targetId=target, flatten=True)
        self._session = attached['sessionId']
        for domain in ('Page', 'Runtime', 'Log', 'Network'):
            self._call(f'{domain}.enable')
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._to)
        os.close(self._from)
        shutil.rmtree(self._profile, ignore_errors=True)

    def open(self, path: Path, timeout: float = 60) -> None:
        """Load a file and wait until the page is complete."""
        self.requests.clear()
        self.errors.clear()
        self._call('Emulation.clearDeviceMetricsOverride')
        self._call('Page.navigate', url=path.absolute().as_uri())
        end = time.monotonic() + timeout
        while self.evaluate('document.readyState') != 'complete':
            assert time.monotonic() < end, f'{path} did not load within {timeout} s'
            time.sleep(0.05)

    def evaluate(self, expression: str) -> Any:
        """Evaluate a JavaScript expression in the page."""
        answer = self._call('Runtime.evaluate', expression=expression, returnByValue=True)
        return answer['result'].get('value')

    def screenshot(self, selector: str = 'body') -> bytes:
        """Return a PNG image of an element.

        The view is made as high as the page, because the browser paints only what is in view.
        """
        box = (
            f'(() => {{const box = document.querySelector({json.dumps(selector)})'
            '.getBoundingClientRect(); return {x: box.x + scrollX, y: box.y + scrollY, '
            'width: box.width, height: box.height}})()'
        )
        size = {'width': self._width, 'deviceScaleFactor': 1, 'mobile': False}
        page = self.evaluate('document.documentElement.scrollHeight')
        self._call('Emulation.setDeviceMetricsOverride', height=page, **size)
        time.sleep(0.3)  # until it has been painted
        answer = self._call('Page.captureScreenshot', clip={**self.evaluate(box), 'scale': 1})
        return base64.b64decode(answer['data'])

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message = {'id': number, 'method': method, 'params': params}
        if self._session:
            message['sessionId'] = self._session
        os.write(self._to, json.dumps(message).encode() + b'\0')
        while True:
            answer = self._receive()
            if answer.get('id') == number:
                assert 'error' not in answer, f'{method}: {answer["error"]}'
                return answer['result']
            self._note(answer)

    def _receive(self, timeout: float = 60) -> dict[str, Any]:
        while b'\0' not in self._buffer:
            ready, _, _ = select.select([self._from], [], [], timeout)
            assert ready, 'the browser does not answer'
            chunk = os.read(self._from, 1 << 16)
            assert chunk, 'the browser has ended'
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b'\0')
        return json.loads(line)

    def _note(self, event: dict[str, Any]) -> None:
        method, params = event.get('method'), event.get('params', {})
        if method == 'Network.requestWillBeSent':
            self.requests.append(params['request']['url'])
        elif method == 'Network.loadingFailed':
            self.errors.append(params['errorText'])
        elif method == 'Log.entryAdded' and params['entry']['level'] in ('error', 'warning'):
            self.errors.append(params['entry']['text'])
        elif method in ('Runtime.consoleAPICalled', 'Runtime.exceptionThrown'):
            self.errors.append(json.dumps(params))
