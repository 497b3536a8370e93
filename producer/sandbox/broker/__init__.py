"""A real Apache Kafka at hand: provisioned on first use, run on loopback, killed and frozen at will."""

from producer.sandbox.broker.cluster import Cluster
from producer.sandbox.broker.errors import BrokerError, MissingPrerequisite
from producer.sandbox.broker.provision import Provision, check_prerequisites, provision
from producer.sandbox.broker.security import Security

__all__ = [
    "BrokerError",
    "Cluster",
    "MissingPrerequisite",
    "Provision",
    "Security",
    "check_prerequisites",
    "provision",
]
