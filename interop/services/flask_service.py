"""A plain Flask service that knows nothing of Waymeet: the HTTP upstream of the suites."""

from flask import Flask, Response, request
from werkzeug.serving import make_server

app = Flask(__name__)
METHODS = ["GET", "POST", "PUT"]


@app.route("/fail/<int:status>", methods=METHODS)
def fail(status):
    return Response("failed as asked", status=status, mimetype="text/plain")


@app.route("/slow/<path:rest>", methods=METHODS)
def slow(rest):
    # Longer than any suite waits: the caller's time-out must end it.
    import time

    time.sleep(30)
    return ""


@app.route("/about/<path:rest>", methods=METHODS)
def about(rest):
    body = request.get_data()
    headers = {name.lower(): value for name, value in request.headers.items()}
    answer = {"method": request.method, "path": request.path, "headers": headers, "length": len(body)}
    return answer, 200, {"X-Trace": request.headers.get("X-Trace", "none")}


@app.route("/<path:rest>", methods=METHODS)
def reverse(rest):
    return Response(request.get_data()[::-1], mimetype="application/octet-stream")


if __name__ == "__main__":
    server = make_server("127.0.0.1", 0, app, threaded=True)
    print(f"http://127.0.0.1:{server.server_port}/", flush=True)
    server.serve_forever()
