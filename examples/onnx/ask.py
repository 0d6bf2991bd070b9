"""Ask the server what a recorded vibration is: python ask.py URL FILE.npy."""

import sys

import httpx
import numpy as np

url, file = sys.argv[1:]
signal = np.load(file)
tensor = {"name": "readings", "datatype": "FP32", "shape": list(signal.shape), "data": signal.ravel().tolist()}
answer = httpx.post(f"{url}/v2/models/vibration/infer", json={"inputs": [tensor]})
if answer.is_error:
    sys.exit(f"{answer.status_code}: {answer.json()['error']}")
(output,) = answer.json()["outputs"]
for kind, share in zip(("hums", "knocks", "hisses"), output["data"], strict=True):
    print(f"{kind:7} {share:.3f}")
