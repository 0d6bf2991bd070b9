"""Ask the server which digit an image shows: python ask.py URL FILE.npy."""

import sys

import httpx
import numpy as np

url, file = sys.argv[1:]
image = np.load(file)
tensor = {"name": "image", "datatype": "UINT8", "shape": list(image.shape), "data": image.ravel().tolist()}
answer = httpx.post(f"{url}/v2/models/digits/infer", json={"inputs": [tensor]})
if answer.is_error:
    sys.exit(f"{answer.status_code}: {answer.json()['error']}")
(output,) = answer.json()["outputs"]
about = output["parameters"]
print(f"{np.argmax(output['data'])}, says {about['model']} (certainty {about['certainty']:.2f})")
