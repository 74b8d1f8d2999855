"""An aiocoap server that knows nothing of Waymeet: the CoAP upstream of the suites."""

import asyncio
import sys

import aiocoap
from aiocoap import Code, Message, error, resource


class Echo(resource.Resource):
    """Gives the body back, and says what it was."""

    async def render_post(self, request):
        return Message(code=Code.CONTENT, payload=request.payload, content_format=request.opt.content_format)

    render_put = render_post


class Large(resource.Resource):
    async def render_get(self, request):
        return Message(payload=bytes(range(256)) * 200, content_format=42)


class Slow(resource.Resource):
    """Long enough that the acknowledgement goes first."""

    async def render_get(self, request):
        await asyncio.sleep(0.5)
        return Message(payload=b"at last")


class Never(resource.Resource):
    async def render_get(self, request):
        await asyncio.sleep(3600)


class Failing(resource.Resource):
    async def render_get(self, request):
        raise error.NotFound("no such pump")


class Value(resource.ObservableResource):
    """PUT sets it, and every observer hears it."""

    value = b"unset"

    async def render_get(self, request):
        return Message(payload=self.value, content_format=0)

    async def render_put(self, request):
        self.value = request.payload
        self.updated_state()
        return Message(code=Code.CHANGED)


async def main(port):
    site = resource.Site()
    for name, made in {
        "echo": Echo(),
        "large": Large(),
        "slow": Slow(),
        "never": Never(),
        "fail": Failing(),
        "value": Value(),
        "other": Value(),
    }.items():
        site.add_resource(["plant", name], made)
    await aiocoap.Context.create_server_context(site, bind=("127.0.0.1", port))
    print(f"coap://127.0.0.1:{port}/", flush=True)
    await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
