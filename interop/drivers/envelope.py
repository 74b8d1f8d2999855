"""Reads the envelope: a message as JSON, which SSE, NDJSON and CoAP share."""

import base64
import json

from . import Received


def parse(text):
    """The message of one envelope; an envelope that breaks the contract is an assertion error."""
    fields = json.loads(text)
    unknown = set(fields) - {"subject", "payload", "payload_base64", "reply", "headers"}
    assert not unknown, f"the envelope has fields outside the contract: {unknown}"
    assert ("payload" in fields) != ("payload_base64" in fields), f"one payload field, not {list(fields)}"
    if "payload" in fields:
        payload = fields["payload"].encode()
    else:
        payload = base64.b64decode(fields["payload_base64"], validate=True)
    return Received(fields["subject"], payload, fields.get("headers", {}), fields.get("reply"))
