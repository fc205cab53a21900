import json
import urllib.request

import metasearch as ms

pictures = ms.load("phi").images("unknown")
request = urllib.request.Request(
    "http://127.0.0.1:5001/invocations",
    data=json.dumps({"inputs": pictures.tolist()}).encode(),
    headers={"Content-Type": "application/json"},
)
with urllib.request.urlopen(request) as answer:
    print("served:", *json.load(answer)["predictions"])
