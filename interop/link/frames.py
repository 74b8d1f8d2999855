"""The frames of the link protocol, made from the schema as it stands on the protocol's page.

Owns the way from the page to classes, and the length before each frame. It must not know what a frame means.
"""

import importlib
import pathlib
import re
import sys
import tempfile

from grpc_tools import protoc

PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "link-protocol.md"


def _compile():
    """Has protoc compile the page's schema, and returns the module."""
    schema = re.search(r"^```proto\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)[1]
    with tempfile.TemporaryDirectory() as folder:
        (pathlib.Path(folder) / "waymeet_link.proto").write_text(schema)
        if protoc.main(["protoc", f"-I{folder}", f"--python_out={folder}", "waymeet_link.proto"]) != 0:
            raise SystemExit("protoc does not take the schema of docs/link-protocol.md")
        sys.path.insert(0, folder)
        try:
            return importlib.import_module("waymeet_link_pb2")
        finally:
            sys.path.remove(folder)


link = _compile()


def varint(number):
    """A number as protobuf writes it."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def framed(body):
    """A frame as it goes on the stream."""
    return varint(len(body)) + body


class Splitter:
    """Cuts what was read from the stream into frames."""

    def __init__(self):
        self.unread = bytearray()

    def push(self, data):
        """Yields the frames that are complete now, without their lengths."""
        self.unread += data
        while True:
            length = shift = at = 0
            while at < len(self.unread) and at < 10:
                byte = self.unread[at]
                length |= (byte & 0x7F) << shift
                shift, at = shift + 7, at + 1
                if byte < 0x80:
                    break
            else:
                return
            if len(self.unread) < at + length:
                return
            body = bytes(self.unread[at : at + length])
            del self.unread[: at + length]
            yield body
