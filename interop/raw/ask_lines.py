"""Asks over TCP lines: python3 ask_lines.py HOST PORT QUESTION..."""

import socket
import sys

host, port, *questions = sys.argv[1:]
with socket.create_connection((host, int(port)), timeout=10) as connection:
    answers = connection.makefile("r", encoding="utf-8", newline="\n")
    for question in questions:
        connection.sendall(question.encode() + b"\n")
        print(answers.readline().rstrip("\n"))
