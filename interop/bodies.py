"""The bodies that cross: text, every byte value, nothing, and more than one datagram holds."""

BODIES = {
    "text": "Grüße, 世界\n".encode(),
    "binary": bytes(range(256)),
    "empty": b"",
    # 40,000 bytes that do not repeat with the block size, and are not UTF-8.
    "large": bytes((i * 31 + i // 251) % 256 for i in range(40_000)),
}
