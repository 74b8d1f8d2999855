"""Asks over UDP datagrams: python3 ask_datagrams.py HOST PORT QUESTION..."""

import socket
import sys

host, port, *questions = sys.argv[1:]
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as socket:
    socket.connect((host, int(port)))
    socket.settimeout(10)
    for question in questions:
        socket.send(question.encode())
        print(socket.recv(65536).decode())
