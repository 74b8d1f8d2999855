// The frames of the link protocol, made from the schema as it stands on the protocol's page.
// Owns the way from the page to types, and the length before each frame; it does not know what a frame means.

import { readFileSync } from "node:fs";
import protobuf from "protobufjs";

// 64-bit numbers are texts here: a tag is a name, and no arithmetic is done with it.
const AS_OBJECT = { longs: String, bytes: Buffer, oneofs: true };

export class Frames {
  constructor(page) {
    const schema = /^```proto\n([\s\S]*?)^```/m.exec(readFileSync(page, "utf8"))[1];
    const types = protobuf.parse(schema, { keepCase: true }).root;
    this.frame = types.lookupType("waymeet.link.Frame");
    this.record = types.lookupType("waymeet.link.Record");
  }

  // A frame without its length, as it is hashed in the handshake.
  encode(kind, fields) {
    return Buffer.from(this.frame.encode(this.frame.fromObject({ [kind]: fields })).finish());
  }

  // The kind of a frame and its fields; the kind is undefined when the page does not know it.
  decode(body) {
    const { kind, ...fields } = this.frame.toObject(this.frame.decode(body), AS_OBJECT);
    return [kind, fields[kind]];
  }

  encodeRecord(fields) {
    return Buffer.from(this.record.encode(this.record.fromObject(fields)).finish());
  }

  decodeRecord(bytes) {
    return this.record.toObject(this.record.decode(bytes), { ...AS_OBJECT, defaults: true });
  }
}

export function varint(number) {
  const bytes = [];
  for (; number > 0x7f; number = Math.floor(number / 128)) bytes.push((number % 128) | 0x80);
  return Buffer.from([...bytes, number]);
}

export function framed(body) {
  return Buffer.concat([varint(body.length), body]);
}

// Cuts what was read from the stream into frames.
export class Splitter {
  #unread = Buffer.alloc(0);

  *push(data) {
    this.#unread = Buffer.concat([this.#unread, data]);
    for (;;) {
      let length = 0;
      let at = 0;
      let complete = false;
      while (at < this.#unread.length && !complete) {
        const byte = this.#unread[at];
        length += (byte & 0x7f) * 2 ** (7 * at);
        at += 1;
        complete = byte < 0x80;
      }
      if (!complete || this.#unread.length < at + length) return;
      const body = this.#unread.subarray(at, at + length);
      this.#unread = this.#unread.subarray(at + length);
      yield body;
    }
  }
}
