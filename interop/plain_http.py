"""One HTTP request from Python's standard library.

Owns status and body of what has an end. It must not know which paths there are.
"""

import asyncio
import json
import urllib.error
import urllib.request

from identities import PASSWORD


def ask(base, path, method="GET", user=None):
    """One request; the status and the body, as JSON where it is."""
    request = urllib.request.Request(f"{base}{path}", method=method)
    if user:
        manager = urllib.request.HTTPPasswordMgrWithPriorAuth()
        manager.add_password(None, base, user, PASSWORD, is_authenticated=True)
        opener = urllib.request.build_opener(urllib.request.HTTPBasicAuthHandler(manager))
    else:
        opener = urllib.request.build_opener()
    try:
        with opener.open(request, timeout=60) as response:
            status, body = response.status, response.read()
    except urllib.error.HTTPError as error:
        status, body = error.code, error.read()
    try:
        return status, json.loads(body)
    except ValueError:
        return status, body.decode()


async def asked(*args, **kwargs):
    return await asyncio.to_thread(ask, *args, **kwargs)
