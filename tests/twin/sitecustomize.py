"""Python reads this at start-up in the twin: whoever asks for an address outside this machine gets an error."""

import socket

_connect = socket.socket.connect


def _connect_here(self: socket.socket, address: object) -> None:
    if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
        raise OSError(f"the twin has no network: {address} was asked for")
    _connect(self, address)


socket.socket.connect = _connect_here
