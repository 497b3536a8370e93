"""Someone who outlives this process: clears up when it dies without having done so itself, even by SIGKILL."""

import os
import subprocess


class Guardian:
    """Runs the shell commands `script` once this process and all other holders of `lifeline` are gone.

    `lifeline` is the write end of a pipe that nobody writes to: its end is the news. `dismiss` cancels everything.
    """

    def __init__(self, script: str) -> None:
        end, self.lifeline = os.pipe()
        self._shell = subprocess.Popen(
            ["sh", "-c", f"read -r _\n{script}"],
            stdin=end,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C in our terminal is not for the guardian
        )
        os.close(end)

    def dismiss(self) -> None:
        self._shell.kill()
        self._shell.wait()
        os.close(self.lifeline)
