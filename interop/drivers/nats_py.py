"""nats-py, the official Python client, over TCP."""

import nats
from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NatsTimeout
from nats.micro import add_service
from nats.micro.service import ServiceConfig

from . import PATIENCE_S, Driver, Outcome, Received, Subscription


def _received(message):
    headers = {name: [value] for name, value in (message.headers or {}).items()}
    return Received(message.subject, message.data, headers, message.reply or None)


class Client(nats.NATS):
    """nats-py, whose flush returns when the server has taken what was said before it: by itself it writes its PING
    before the commands that wait to be written; a second one is behind them."""

    async def flush(self, timeout=PATIENCE_S):
        await super().flush(timeout)
        await super().flush(timeout)


async def connected(url, **options):
    """A client that is given up, and not connected again, where its connection ends."""
    client = Client()
    await client.connect(url, allow_reconnect=False, max_reconnect_attempts=0, connect_timeout=15, **options)
    return client


class NatsPy(Driver):
    name = "nats-py"

    async def open(self, node):
        self.errors = []

        async def on_error(error):
            self.errors.append(error)

        self.client = await connected(node.nats, error_cb=on_error)

    async def close(self):
        await self.client.close()

    async def publish(self, subject, payload, headers=None):
        await self.client.publish(subject, payload, headers=headers)
        await self.client.flush()

    async def subscribe(self, subject_filter, queue=None):
        async def stop():
            await taken.unsubscribe()
            await self.client.flush()

        subscription = Subscription(stop)

        async def on_message(message):
            subscription.put(_received(message))

        taken = await self.client.subscribe(subject_filter, queue=queue or "", cb=on_message)
        await self.client.flush()
        return subscription

    async def request(self, subject, payload, headers=None, timeout_s=PATIENCE_S):
        try:
            reply = await self.client.request(subject, payload, timeout=timeout_s, headers=headers)
        except NoRespondersError:
            return Outcome("no_responders", status="503")
        except NatsTimeout:
            return Outcome("timeout")
        return Outcome("reply", reply.data, _received(reply).headers)

    async def serve(self, subject_filter, handler):
        """A service as the NATS micro specification has it, so that its own monitoring subjects and
        queue group are exercised too."""
        service = await add_service(self.client, ServiceConfig(name="interop", version="1.0.0"))

        async def on_request(request):
            payload, headers = handler(
                Received(request.subject, request.data, {k: [v] for k, v in (request.headers or {}).items()})
            )
            if headers and "Nats-Service-Error-Code" in headers:
                await request.respond_error(
                    headers["Nats-Service-Error-Code"], headers.get("Nats-Service-Error", ""), payload
                )
            else:
                await request.respond(payload, headers)

        name = "e" + str(abs(hash(subject_filter)))
        await service.add_endpoint(name=name, subject=subject_filter, handler=on_request)
        await self.client.flush()
        return service
