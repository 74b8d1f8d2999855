// The JavaScript end of the agent conversation (see drivers/agent.py), for Node.js and for a page.
// Owns the calls into the official client; it does not know how commands reach it.

import { headers as natsHeaders, nkeyAuthenticator, wsconnect } from "@nats-io/nats-core";

const CHUNK = 0x8000;

function toBase64(bytes) {
  let text = "";
  for (let i = 0; i < bytes.length; i += CHUNK) {
    text += String.fromCharCode(...bytes.subarray(i, i + CHUNK));
  }
  return btoa(text);
}

function fromBase64(text) {
  return Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
}

function toHeaders(fields) {
  const entries = Object.entries(fields);
  if (entries.length === 0) return undefined;
  const built = natsHeaders();
  for (const [name, value] of entries) built.append(name, value);
  return built;
}

function fromHeaders(received) {
  const fields = {};
  if (received) for (const name of received.keys()) fields[name] = received.values(name);
  return fields;
}

// The client wraps the cause of a failed request, so look through the whole chain.
function errorName(error) {
  for (let e = error; e; e = e.cause) {
    if (e.name === "NoRespondersError" || e.isNoResponders?.()) return "no_responders";
    if (e.name === "TimeoutError") return "timeout";
  }
  return String(error);
}

export function createAgent(emit) {
  let connection;
  const subscriptions = new Map();

  const operations = {
    async connect({ url, user, password, token, nkey }) {
      const identity = { user, pass: password, token };
      if (nkey) {
        identity.authenticator = nkeyAuthenticator(new TextEncoder().encode(nkey));
      }
      connection = await wsconnect({ servers: url, reconnect: false, timeout: 10_000, ...identity });
    },
    async publish({ subject, payload, headers }) {
      connection.publish(subject, fromBase64(payload), { headers: toHeaders(headers) });
      await connection.flush();
    },
    async subscribe({ sid, subject, queue }) {
      const taken = connection.subscribe(subject, {
        queue: queue ?? undefined,
        callback(error, message) {
          if (error) return;
          emit({
            sid,
            subject: message.subject,
            payload: toBase64(message.data),
            headers: fromHeaders(message.headers),
            reply: message.reply || null,
          });
        },
      });
      subscriptions.set(sid, taken);
      await connection.flush();
    },
    async unsubscribe({ sid }) {
      subscriptions.get(sid).unsubscribe();
      subscriptions.delete(sid);
      await connection.flush();
    },
    async request({ subject, payload, headers, timeout_ms }) {
      const options = { timeout: timeout_ms, headers: toHeaders(headers) };
      const reply = await connection.request(subject, fromBase64(payload), options);
      return { payload: toBase64(reply.data), headers: fromHeaders(reply.headers) };
    },
  };

  return async function handle(command) {
    try {
      const result = await operations[command.op](command);
      emit({ id: command.id, ok: true, ...result });
    } catch (error) {
      emit({ id: command.id, ok: false, error: errorName(error) });
    }
  };
}
