"""Bring up the loopback interface of a new network namespace, then run the command.

`unshare -rnu python tests/with_loopback.py COMMAND …` cuts a command off from every network but its own
processes. The machine's name means nothing to it either, as on many a laptop in a strange network.
"""

import fcntl
import os
import socket
import struct
import sys

SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1

if __name__ == "__main__":
    with socket.socket() as any_socket:
        request = struct.pack("16sh", b"lo", 0)
        flags = struct.unpack("16sh", fcntl.ioctl(any_socket, SIOCGIFFLAGS, request)[:18])[1]
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh", b"lo", flags | IFF_UP))
    socket.sethostname("name-that-nobody-knows")
    os.execvp(sys.argv[1], sys.argv[1:])
