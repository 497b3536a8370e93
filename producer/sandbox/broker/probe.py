"""The smallest Kafka client: is that a broker, and which nodes does it take for alive?

Layouts: https://kafka.apache.org/protocol (request header 1, without a client id).
"""

import socket
import ssl
import struct

# Key and version. Metadata 4 can ask for no topics and without auto-creation, and its fields are not yet compact.
_API_VERSIONS = (18, 0)
_METADATA = (3, 4)


def unfenced_nodes(port: int, cluster_id: str, timeout: float = 1.0) -> set[int] | None:
    """The ids of the nodes that the broker on 127.0.0.1:`port` takes for alive (registered and unfenced).

    None when nobody answers within `timeout` seconds, or who answers is not a broker of `cluster_id`.
    """
    try:
        with socket.create_connection(("127.0.0.1", port), timeout) as connection:
            response = _ask(connection, _METADATA, struct.pack(">i?", 0, False))
            nodes, answered_by = _parse(response)
    except (OSError, struct.error, UnicodeDecodeError):
        return None
    return nodes if answered_by == cluster_id else None


def speaks(port: int, tls: bool, timeout: float = 1.0) -> bool:
    """Whether 127.0.0.1:`port` is served: with a TLS handshake, or else with the one answer given before any log-in."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout) as connection:
            if tls:
                context = ssl.create_default_context()
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
                context.wrap_socket(connection).close()
            else:
                _ask(connection, _API_VERSIONS, b"")
    except (OSError, struct.error):
        return False
    return True


def _ask(connection: socket.socket, api: tuple[int, int], body: bytes) -> bytes:
    """Sends one request, returns the response behind its size. Raises OSError, or struct.error when it is cut short."""
    request = struct.pack(">hhih", *api, 1, -1) + body
    connection.sendall(struct.pack(">i", len(request)) + request)
    with connection.makefile("rb") as stream:
        (size,) = struct.unpack(">i", stream.read(4))
        return stream.read(int(size))


def _parse(response: bytes) -> tuple[set[int], str]:
    """Node ids and cluster id of a Metadata response, version 4."""
    position = 0

    def number(layout: str) -> int:
        nonlocal position
        (value,) = struct.unpack_from(layout, response, position)
        position += struct.calcsize(layout)
        return int(value)

    def string() -> str:
        nonlocal position
        size = max(0, number(">h"))  # null is -1
        position += size
        return response[position - size : position].decode()

    number(">i"), number(">i")  # correlation id, throttle time
    nodes = set()
    for _ in range(number(">i")):
        nodes.add(number(">i"))
        string(), number(">i"), string()  # host, port, rack
    return nodes, string()
