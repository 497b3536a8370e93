"""How clients of the sandbox broker prove who they are: SASL, TLS or both, and what the authorizer lets them do."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Protocol = Literal["SASL_PLAINTEXT", "SASL_SSL", "SSL"]
Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]

_JAAS_MODULE = "org.apache.kafka.common.security"
# Names and passwords travel through JAAS, a properties file and Kafka's own `--add-scram` syntax, each with its own quoting.
_PLAIN_WORD = re.compile(r"[A-Za-z0-9._@+/-]+")


@dataclass(frozen=True)
class Security:
    """The client listener's security. The broker's own listeners stay plain and on loopback.

    `users` (name to password) may log in with each of `mechanisms`. TLS takes PEM files: `certificate` (the chain),
    `private_key` (PKCS#8, unencrypted: Kafka reads no other) and, for mutual TLS, `client_ca`. With `authorizer`
    Kafka's StandardAuthorizer refuses what no ACL allows; `super_users` (as `User:admin`) are exempt, and so is
    everyone on the internal listener. For throw-away credentials only: a process list may show them for a moment.

    Raises ValueError when the parts do not fit together.
    """

    protocol: Protocol
    mechanisms: tuple[Mechanism, ...] = ()
    users: Mapping[str, str] = field(default_factory=dict, repr=False)
    certificate: Path | None = None
    private_key: Path | None = None
    client_ca: Path | None = None
    authorizer: bool = False
    super_users: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.sasl != bool(self.mechanisms) or self.sasl != bool(self.users):
            raise ValueError(
                f"{self.protocol}: `mechanisms` and `users` belong to the SASL protocols, and both are needed there"
            )
        if self.tls != bool(self.certificate) or self.tls != bool(self.private_key):
            raise ValueError(
                f"{self.protocol}: `certificate` and `private_key` belong to the TLS protocols, and both are needed there"
            )
        if self.client_ca and not self.tls:
            raise ValueError(f"{self.protocol}: `client_ca` belongs to the TLS protocols")
        if self.private_key and b"-----BEGIN PRIVATE KEY-----" not in self.private_key.read_bytes():
            raise ValueError(
                f"{self.private_key}: Kafka reads only unencrypted PKCS#8 keys (`openssl pkcs8 -topk8 -nocrypt`)"
            )
        for name, password in self.users.items():
            if not _PLAIN_WORD.fullmatch(name) or not _PLAIN_WORD.fullmatch(password):
                raise ValueError(f"user {name!r}: names and passwords may hold only letters, digits and . _ @ + / -")

    @property
    def sasl(self) -> bool:
        return self.protocol.startswith("SASL_")

    @property
    def tls(self) -> bool:
        return self.protocol.endswith("SSL")

    def properties(self, listener: str, folder: Path) -> dict[str, str]:
        """The broker properties for `listener`; its PEM stores are written into `folder` first."""
        prefix = f"listener.name.{listener.lower()}."
        properties: dict[str, str] = {}
        if self.sasl:
            properties[f"{prefix}sasl.enabled.mechanisms"] = ",".join(self.mechanisms)
            for mechanism in self.mechanisms:
                properties[f"{prefix}{mechanism.lower()}.sasl.jaas.config"] = self._jaas(mechanism)
        if self.certificate and self.private_key:
            store = folder / "broker.pem"
            store.touch(mode=0o600)
            store.write_bytes(self.private_key.read_bytes() + b"\n" + self.certificate.read_bytes())
            properties[f"{prefix}ssl.keystore.type"] = "PEM"
            properties[f"{prefix}ssl.keystore.location"] = str(store)
        if self.client_ca:
            store = folder / "client-ca.pem"
            store.write_bytes(self.client_ca.read_bytes())
            properties[f"{prefix}ssl.truststore.type"] = "PEM"
            properties[f"{prefix}ssl.truststore.location"] = str(store)
            properties[f"{prefix}ssl.client.auth"] = "required"
        if self.authorizer:
            properties["authorizer.class.name"] = "org.apache.kafka.metadata.authorizer.StandardAuthorizer"
            # The nodes and the internal listener come without a name.
            properties["super.users"] = ";".join(("User:ANONYMOUS", *self.super_users))
        return properties

    def scram_credentials(self) -> list[str]:
        """Arguments of `kafka-storage format`: the only moment at which SCRAM users can be made without a client."""
        return [
            argument
            for mechanism in self.mechanisms
            if mechanism != "PLAIN"
            for name, password in self.users.items()
            for argument in ("--add-scram", f"{mechanism}=[name={name},password={password}]")
        ]

    def _jaas(self, mechanism: Mechanism) -> str:
        if mechanism == "PLAIN":
            users = " ".join(f'user_{name}="{password}"' for name, password in self.users.items())
            return f"{_JAAS_MODULE}.plain.PlainLoginModule required {users};"
        return f"{_JAAS_MODULE}.scram.ScramLoginModule required;"
