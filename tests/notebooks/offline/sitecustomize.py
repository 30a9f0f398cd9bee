"""Put on PYTHONPATH, this cuts Python off from every network but the machine's own loopback."""

import ipaddress
import socket


class NetworkIsCut(OSError):
    pass


def _allowed(address) -> bool:
    if not isinstance(address, tuple):  # a socket file
        return True
    try:
        return ipaddress.ip_address(address[0]).is_loopback
    except ValueError:
        return address[0] in ("localhost", "")


def _guard(method):
    def connect(self, address):
        if not _allowed(address):
            raise NetworkIsCut(f"the network is cut in this test; something wants to reach {address[0]}")
        return method(self, address)

    return connect


socket.socket.connect = _guard(socket.socket.connect)
socket.socket.connect_ex = _guard(socket.socket.connect_ex)
_getaddrinfo = socket.getaddrinfo


def getaddrinfo(host, *args, **kwargs):
    if host not in (None, "", "localhost") and not _allowed((host,)):
        raise NetworkIsCut(f"the network is cut in this test; something looks up {host}")
    return _getaddrinfo(host, *args, **kwargs)


socket.getaddrinfo = getaddrinfo
