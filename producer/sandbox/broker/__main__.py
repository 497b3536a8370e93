"""`python -m producer.sandbox.broker`: whether this machine can run a real Kafka, said before anything is installed.

Needs Python 3.11 and nothing else; exit code 69 when Java with Maven and Docker are both missing.
"""

import sys

from producer.sandbox.broker import MissingPrerequisite, check_prerequisites

try:
    check_prerequisites()
except MissingPrerequisite as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(69)
