"""A model that does what it is told, as the file that a spec names: to die, to hang, to spoil its own connection."""

MODEL = '''
import os
import resource
import signal
import sys
import time


class Obedient:
    """Texts are orders: a word, and what it is about. `once:` before the word: only the first worker obeys."""

    def __init__(self, folder="", deaths_at_start=0, setup_s=0.0):
        self.folder = folder
        self.deaths_at_start = deaths_at_start
        self.setup_s = setup_s

    def setup(self, hardware):
        time.sleep(self.setup_s)
        if any(self.first(f"death at start {i}") for i in range(self.deaths_at_start)):
            os.kill(os.getpid(), signal.SIGKILL)

    def predict(self, batch):
        return [self.obey(*str(item).partition(" ")[::2]) for item in batch]

    def obey(self, word, about):
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
        elif word == "allocate":
            self.allocate()
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

    def allocate(self):
        """Ask for more memory than there is, as far as this process is concerned."""
        before = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (2**31, before[1]))
        try:
            return bytearray(2**33)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, before)
'''
