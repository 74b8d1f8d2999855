"""Keeps a network namespace alive and hands out what is opened in it.

Runs as a process of its own, inside the namespace. Owns the namespace's life: it ends with the other end of its socket.
It must import nothing but the standard library, because it may run under any Python 3.

A request is one JSON array, the answer one byte with one file descriptor (SCM_RIGHTS), or the text of an error:
`["socket", family, kind]` opens a socket, `["tun", name]` a TUN device without a header before its packets.
"""

import fcntl
import json
import os
import socket
import struct
import sys

# linux/if_tun.h.
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
MAX_REQUEST_BYTES = 256


def open_socket(family, kind):
    return socket.socket(family, kind).detach()


def open_tun(name):
    tun = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    return tun


OPENERS = {"socket": open_socket, "tun": open_tun}


def main():
    control = socket.socket(fileno=int(sys.argv[1]))
    control.send(b"+")
    while request := control.recv(MAX_REQUEST_BYTES):
        what, *arguments = json.loads(request)
        try:
            opened = OPENERS[what](*arguments)
        except OSError as error:
            control.send(str(error).encode())
            continue
        socket.send_fds(control, [b"+"], [opened])
        os.close(opened)


main()
