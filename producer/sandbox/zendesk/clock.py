"""The time of the pretend Zendesk, which may run faster than ours or stand still."""

import time


class Clock:
    """Unix seconds that begin at `start` and pass `speed` times as fast as monotonic time (0: only by `advance`)."""

    def __init__(self, start: float, speed: float = 1.0) -> None:
        if speed < 0:
            raise ValueError(f"the clock's speed is {speed}: time does not run backwards, use 0 or more")
        self.speed = speed
        self._start = start
        self._began = time.monotonic()

    @classmethod
    def manual(cls, start: float) -> "Clock":
        """A clock that moves by `advance` alone."""
        return cls(start, speed=0.0)

    def now(self) -> float:
        """Simulated Unix seconds."""
        return self._start + (time.monotonic() - self._began) * self.speed

    def advance(self, seconds: float) -> None:
        """Jump by so many simulated seconds: ahead, or back with a negative number, as a clock that was set right."""
        self._start += seconds

    def real_seconds(self, simulated: float) -> float:
        """How long a client really waits for so many simulated seconds; on a manual clock one for one."""
        return simulated / self.speed if self.speed else simulated
