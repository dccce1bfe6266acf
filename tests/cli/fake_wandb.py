"""Just enough of a W&B server for a run to start and to send its lines: prints its port, then each line of history."""

import gzip
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BUCKET = {
    "id": "1", "displayName": "run", "sweepName": None, "description": None, "config": "{}", "historyLineCount": 0,
    "project": {"id": "1", "name": "snnconv", "entity": {"id": "1", "name": "me"}},
}  # fmt: skip


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        answer: dict = {}
        if self.path == "/graphql":
            answer = {"data": self.answer(json.loads(body))}
        elif self.path.endswith("/file_stream"):
            for line in json.loads(body).get("files", {}).get("wandb-history.jsonl", {}).get("content", []):
                sys.stdout.write(line.strip() + "\n")
                sys.stdout.flush()
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_PUT = do_POST

    def answer(self, request: dict) -> dict:
        variables = request.get("variables") or {}
        if "createRunFiles" in request["query"]:
            files = [{"name": name, "uploadUrl": self.url()} for name in variables["files"]]
            return {"createRunFiles": {"runID": "1", "uploadHeaders": [], "files": files}}
        if "upsertBucket" in request["query"]:
            return {"upsertBucket": {"bucket": {**BUCKET, "name": variables.get("name")}, "inserted": True}}
        return {}

    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/upload"

    def log_message(self, *arguments: object) -> None:
        pass


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    sys.stdout.write(f"{server.server_address[1]}\n")
    sys.stdout.flush()
    server.serve_forever()
