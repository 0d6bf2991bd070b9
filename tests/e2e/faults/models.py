"""A model that does what it is told, as the file that a spec names: to die, to hang, to take all memory that it may."""

MODEL = '''
import os
import resource
import signal
import sys
import time


class Obedient:
    """Texts are orders: a word, and what it is about. `once:` before the word: only the first worker obeys."""

    def __init__(self, folder="", deaths_at_start=0, setup_s=0.0, spare_mb=0):
        self.folder = folder
        self.spare_mb = spare_mb
        self.deaths_at_start = deaths_at_start
        self.setup_s = setup_s

    def setup(self, hardware):
        time.sleep(self.setup_s)
        if any(self.first(f"death at start {i}") for i in range(self.deaths_at_start)):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.spare_mb:
            self.limit_memory()

    def limit_memory(self):
        """Let this process have `spare_mb` MiB of addresses more than it has by now."""
        with open("/proc/self/statm") as statm:
            used = int(statm.read().split()[0]) * resource.getpagesize()
        most = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (used + self.spare_mb * 2**20, most))

    def predict(self, batch):
        held = []
        return [self.obey(*str(item).partition(" ")[::2], held) for item in batch]

    def obey(self, word, about, held):
        """Do it; what is `held` stays so until the batch is done."""
        if word.startswith("once:"):
            word = word.removeprefix("once:") if self.first(f"{word} {about}") else "say"
        if word == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        elif word == "exit":
            os._exit(3)
        elif word == "hang":
            time.sleep(1e6)
        elif word == "raise":
            raise ValueError(about)
        elif word == "wait":
            while not os.path.exists(os.path.join(self.folder, about)):
                time.sleep(0.01)
        elif word == "sleep":
            time.sleep(float(about))
        elif word == "note":
            with open(os.path.join(self.folder, "notes"), "a") as notes:
                notes.write(about + "\\n")
        elif word == "who":
            begun_s = time.monotonic()
            time.sleep(0.01)
            return f"{os.getpid()} {begun_s} {time.monotonic()}"
        elif word == "need":
            held.append(bytearray(int(about) * 2**20))
        elif word == "fill":
            while True:
                held.append(bytearray(40 * 2**20))
        elif word == "close":
            os.close(int(sys.argv[1]))
            time.sleep(1e6)
        elif word == "garble":
            os.write(int(sys.argv[1]), b"\\xff" * 64)
            time.sleep(1e6)
        elif word == "print":
            print("x" * 1_000_000)
        return about

    def first(self, name):
        """Whether this is the first call with that name in any worker."""
        try:
            os.close(os.open(os.path.join(self.folder, name.replace("/", "_")), os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True
'''
