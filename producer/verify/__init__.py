"""Judges a stream's topic: is every version there that the export shows and the checkpoint has passed, once, in order?

- `verification` is the story: read the checkpoint, then what is required, then the topic, and judge
- `judge` has the rules, pure
- `source` reads what is required: from the API, or from the ground truth of the pretend Zendesk
- `topic` understands its records, `letters` the dead letters beside it
- `store` keeps both on disk while they are compared
- `report` is the verdict and its table
"""

from producer.verify.report import Verdict
from producer.verify.verification import verify

__all__ = ["Verdict", "verify"]
