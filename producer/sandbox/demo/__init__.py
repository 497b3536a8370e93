"""`zendesk-producer demo`: the main job on real parts, killed again and again, and judged at the end.

- `story` is the order of things
- `processes` starts and ends the pretend Zendesk and the service, each a process of its own
- `display` shows what happens: alive on a terminal, in plain lines elsewhere
"""

from producer.sandbox.demo.story import Demo, play

__all__ = ["Demo", "play"]
