"""Ask the server what a message is about: python ask.py URL MESSAGE."""

import json
import sys

import httpx

url, message = sys.argv[1:]
asked = {"inputs": [{"name": "input", "datatype": "BYTES", "shape": [1], "data": [message]}]}
answer = httpx.post(f"{url}/v2/models/messages/infer", json=asked, headers={"x-request-timeout": "2s"})
if answer.is_error:
    sys.exit(f"{answer.status_code}: {answer.json()['error']}")
for output in answer.json()["outputs"]:
    for element in output["data"]:
        print(output["name"], json.loads(element))
