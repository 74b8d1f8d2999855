// A plain Express service that knows nothing of Waymeet: the HTTP upstream of the suites.

import express from "express";

const app = express();
app.disable("x-powered-by");
app.use(express.raw({ type: () => true, limit: "2mb" }));

const bytes = (request) => (Buffer.isBuffer(request.body) ? request.body : Buffer.alloc(0));

app.all("/fail/:status", (request, response) => {
  response.status(Number(request.params.status)).type("text/plain").send("failed as asked");
});
app.all("/about/{*rest}", (request, response) => {
  response.set("X-Trace", request.get("X-Trace") ?? "none").json({
    method: request.method,
    path: request.path,
    headers: request.headers,
    length: bytes(request).length,
  });
});
app.all("/{*rest}", (request, response) => {
  response.type("application/octet-stream").send(Buffer.from(bytes(request)).reverse());
});

const server = app.listen(0, "127.0.0.1", () => console.log(`http://127.0.0.1:${server.address().port}/`));
