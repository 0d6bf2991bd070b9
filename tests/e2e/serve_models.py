"""The models behind the served test pipelines, as the file that a spec names."""

MODELS = '''
import os
import time


class Read:
    """Splits a text into words and numbers; data decides what runs and how often."""

    def setup(self, hardware):
        pass

    def predict(self, batch):
        out = []
        for item in batch:
            if not isinstance(item, str):
                out.append({"word": [repr(item)], "number": []})
            elif item == "bad":
                out.append(ValueError("cannot read it"))
            else:
                parts = item.split()
                out.append({"word": [p for p in parts if not p.isdigit()], "number": [p for p in parts if p.isdigit()]})
        return out


class Upper:
    def setup(self, hardware):
        pass

    def predict(self, batch):
        return [item.upper() for item in batch]


class Double:
    def setup(self, hardware):
        pass

    def predict(self, batch):
        return [2 * int(item) for item in batch]


class Collect:
    def setup(self, hardware):
        pass

    def predict(self, batch):
        return [{"words": item.get("word", []), "numbers": item.get("number", [])} for item in batch]


class Slow:
    def __init__(self, seconds=0.05):
        self.seconds = seconds

    def setup(self, hardware):
        pass

    def predict(self, batch):
        time.sleep(self.seconds)
        return list(batch)


class Echo(Slow):
    def __init__(self):
        super().__init__(0.0)


class Gated:
    """Works on a batch for as long as there is no file `gate`."""

    def __init__(self, gate):
        self.gate = gate

    def setup(self, hardware):
        pass

    def predict(self, batch):
        while not os.path.exists(self.gate):
            time.sleep(0.005)
        return list(batch)


class Late(Gated):
    def setup(self, hardware):
        self.predict([])


class Broken:
    def setup(self, hardware):
        raise RuntimeError("no such weights")

    def predict(self, batch):
        return batch
'''
