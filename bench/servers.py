"""The servers that the benchmark talks to, all on loopback: SeaweedFS as S3, and a proxy that counts requests.

Everything started here is stopped by its own handle.
"""
import collections
import http.client
import http.server
import json
import os
import pathlib
import socket
import subprocess
import threading
import time
import urllib.request

KEY, SECRET, BUCKET = "bench", "benchsecret", "bench"


def free_ports(count):
    """Ports that are free, and whose gRPC neighbours 10,000 above are free as well (SeaweedFS takes both)."""
    found = []
    for port in range(21000, 40000, 7):
        try:
            for candidate in (port, port + 10000):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", candidate))
        except OSError:
            continue
        found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError("no free ports")


class Weed:
    """A SeaweedFS server with one bucket."""

    def __init__(self, program, folder):
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True)
        master, volume, filer, self.port = free_ports(4)
        self.filer = f"http://127.0.0.1:{filer}"
        config = folder / "s3.json"
        config.write_text(json.dumps({"identities": [{
            "name": "bench", "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
            "actions": ["Admin", "Read", "List", "Tagging", "Write"]}]}))
        self.log = open(folder / "weed.log", "wb")
        self.process = subprocess.Popen(
            [program, "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-master.port={master}",
             f"-volume.port={volume}", f"-filer.port={filer}", "-s3", f"-s3.port={self.port}", f"-s3.config={config}",
             "-volume.max=40", "-master.telemetry=false", "-s3.port.iceberg=0", "-s3.port.lance=0",
             "-master.volumeSizeLimitMB=256"],
            stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while True:
            try:
                self._put(f"{self.filer}/buckets/{BUCKET}/probe")
                break
            except OSError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    self.stop()
                    raise RuntimeError(f"SeaweedFS does not start: see {folder / 'weed.log'}")
                time.sleep(0.3)

    @staticmethod
    def _put(url):
        headers = {"Content-Type": "application/octet-stream"}
        urllib.request.urlopen(urllib.request.Request(url, data=b"probe", method="PUT", headers=headers), timeout=5).read()

    def objects(self, prefix):
        """Names of all objects below a prefix."""
        found, folders = [], [f"/buckets/{BUCKET}/{prefix}"]
        while folders:
            folder = folders.pop()
            request = urllib.request.Request(f"{self.filer}{folder}/?limit=10000", headers={"Accept": "application/json"})
            try:
                entries = json.load(urllib.request.urlopen(request, timeout=10)).get("Entries") or []
            except OSError:
                continue
            for entry in entries:
                (folders if entry["Mode"] & 1 << 31 else found).append(entry["FullPath"])
        return found

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()


class Proxy:
    """Forwards HTTP to a port and counts requests by method. The Host header stays, so signatures stay valid."""

    def __init__(self, upstream_port):
        counts = self.counts = collections.Counter()

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def forward(self):
                is_list = self.command == "GET" and ("list-type=" in self.path or self.path.count("/") < 2)
                counts["LIST" if is_list else self.command] += 1
                if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
                    body = b""
                    while size := int(self.rfile.readline().split(b";")[0], 16):
                        body += self.rfile.read(size)
                        self.rfile.readline()
                    self.rfile.readline()
                else:
                    body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                upstream = http.client.HTTPConnection("127.0.0.1", upstream_port, timeout=60)
                upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    if name.lower() not in ("connection", "transfer-encoding", "content-length", "expect"):
                        upstream.putheader(name, value)
                if body or self.command in ("PUT", "POST"):
                    upstream.putheader("Content-Length", str(len(body)))
                upstream.endheaders(body)
                answer = upstream.getresponse()
                data = answer.read()
                self.send_response_only(answer.status, answer.reason)
                for name, value in answer.getheaders():
                    if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                        self.send_header(name, value)
                length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(data))
                if length is not None and answer.status != 204:
                    self.send_header("Content-Length", length)
                self.end_headers()
                self.wfile.write(data)
                upstream.close()

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = forward

            def log_message(self, *args):
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request, address):
                counts["broken"] += 1

        self.server = Server(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


def environment(extra=None):
    """The environment of every measured process: credentials for the bench's own store, nobody's CA bundle."""
    env = {key: value for key, value in os.environ.items() if key != "AWS_CA_BUNDLE" and not key.startswith("LITESTREAM")}
    env.update(AWS_ACCESS_KEY_ID=KEY, AWS_SECRET_ACCESS_KEY=SECRET, AWS_REGION="us-east-1", AWS_EC2_METADATA_DISABLED="true")
    env.update(extra or {})
    return env
