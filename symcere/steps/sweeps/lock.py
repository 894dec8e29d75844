"""One process at a time."""

import contextlib
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

from symcere.errors import UserError
from symcere.tracking import process

TOUCH = 20.0
"""Seconds between signs of life in a sweep's lock."""


class Lock:
    """One process at a time runs a sweep; a dead one's lock counts for nothing.

    Whether a process of another machine lives shows in the lock's age: its holder touches it all the time.
    """

    def __init__(self, folder: Path):
        self.path = folder / "running.json"
        self.over = threading.Event()

    def __enter__(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            while True:
                try:
                    with self.path.open("x") as file:
                        json.dump({"host": process.host(), "process": process.identity()}, file)
                    break
                except FileExistsError:
                    self._refuse()
                    self.path.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(
                f"Cannot write {self.path.parent}: {error.strerror}. SYMCERE_HOME may name a folder on another disk."
            ) from error
        threading.Thread(target=self._touch, daemon=True).start()

    def _refuse(self) -> None:
        """Raises a UserError if the lock's holder may live."""
        with contextlib.suppress(FileNotFoundError):
            young = time.time() - self.path.stat().st_mtime < 3 * TOUCH
            try:
                held = json.loads(self.path.read_text())
                (host, _, _), (number, _, _) = held["host"].partition("/"), held["process"].partition("@")
                here = held["host"] == process.host()
                lives, where = process.alive(held["process"]) if here else young, f", in process {number}"
            except (ValueError, KeyError, TypeError, AttributeError):  # being written, or never to its end
                here, lives, host, where = True, young, "", ""
            if lives:
                raise UserError(
                    f"The sweep '{self.path.parent.name}' is running{where}{'' if here else f' of {host}'}."
                )

    def _touch(self) -> None:
        while not self.over.wait(TOUCH):
            with contextlib.suppress(OSError):
                os.utime(self.path)

    def __exit__(self, *_: Any) -> None:
        self.over.set()
        self.path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.path.parent.rmdir()  # empty: it never began
