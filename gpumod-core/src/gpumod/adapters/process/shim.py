"""The shim: the small process that stays with a service while gpumod comes and goes.

The nursery forks it, with its orders marshalled on stdin: `folder nonce service exe argv env cwd log log_max_bytes
log_keep stop_timeout_s`. It answers on stdout with a zero byte and a marshalled token or `{"error": ...}`, once the
program really runs. In its folder it keeps `run.json` (the token) and `exit.json` (how the program ended).

It is the subreaper of everything that the service starts, so that workers which detach themselves stay its
descendants, and only their parent can kill processes without ever hitting a stranger that got the same pid.

Signals: SIGTERM and SIGINT are passed to the service, and what is left after `stop_timeout_s` is killed; SIGUSR1 kills
at once. When the main process ends, what it left behind is ended too. The shim ends when no descendant is left.

A gpumod that ran inside of the service leaves shims of other runs here, below which are other services: they are
neither signalled nor waited for.

It imports nothing of gpumod and little of the standard library: the first service of a run waits for that.
"""

# No pathlib, no contextlib: they would be half of the time that the service waits.
# ruff: noqa: PTH105, PTH110, PTH116, PTH118, PTH123, PTH208, SIM105

import _signal as signal  # type: ignore[import-not-found]  # the module around it costs as much as all the rest
import ctypes
import marshal
import os
import select
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO

PR_SET_NAME = 15
PR_SET_CHILD_SUBREAPER = 36
ALL_SIGNALS = range(1, 32)
SHIM_NAMES = ("gpumod-shim", "gpumod-nursery")
ROTATION_CHECK_S = 1.0
LEFTOVER_GRACE_S = 2.0
KILL_AGAIN_S = 0.02
KILL_AGAIN_MOST_S = 1.0
REAPED_AT_ONCE = 100
COPY_BYTES = 1024 * 1024

Json = dict[str, object]


class Orders:
    """What the supervisor wants."""

    def __init__(self, orders: Json) -> None:
        self.folder = str(orders["folder"])
        self.nonce = str(orders["nonce"])
        self.service = str(orders["service"])
        self.exe = str(orders["exe"])
        self.argv: list[str] = orders["argv"]  # type: ignore[assignment]  # plain data that the supervisor wrote
        self.env: dict[str, str] = orders["env"]  # type: ignore[assignment]  # as above
        self.cwd = str(orders["cwd"])
        self.log = str(orders["log"])
        self.log_max_bytes = int(str(orders["log_max_bytes"]))
        self.log_keep = int(str(orders["log_keep"]))
        self.stop_timeout_s = float(str(orders["stop_timeout_s"]))


def main() -> None:
    orders = Orders(marshal.loads(sys.stdin.buffer.read()))  # noqa: S302 - from the very interpreter that started us
    if nobody_listens():
        return  # gpumod was killed before this run could be found: it is as if it had not begun
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_NAME, b"gpumod-shim", 0, 0, 0)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        report({"error": "subreaper", "why": os.strerror(ctypes.get_errno())})
        return
    try:
        log = open_log(orders)
    except OSError as error:
        report({"error": "log", "why": error.strerror or str(error)})
        return
    try:
        pid = spawn(orders, log)
    except (OSError, ValueError) as error:
        report({"error": "exec", "why": getattr(error, "strerror", None) or str(error)})
        return
    watch = Watch(orders, pid)  # takes care of signals from here on
    token: Json = {
        "pid": pid,
        "pid_started": start_ticks(pid),
        "shim_pid": os.getpid(),
        "shim_started": start_ticks(os.getpid()),
        "boot": read("/proc/sys/kernel/random/boot_id").strip(),
        "started_at": time.time(),
    }
    keep(orders.folder, "run.json", {"nonce": orders.nonce, "token": token})
    report(token)
    watch.run()


def nobody_listens() -> bool:
    """True when the pipe for our answer has no reader any more."""
    answer = select.poll()
    answer.register(1, 0)
    return any(event & select.POLLERR for _, event in answer.poll(0))


def spawn(orders: Orders, log: int) -> int:
    """Execute the service in its own process group, with all signals as they are by default. Returns its pid.

    Raises OSError when it cannot be executed.
    """
    os.chdir(orders.cwd)
    try:
        return os.posix_spawn(
            orders.exe,
            orders.argv,
            orders.env,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, log, 1),
                (os.POSIX_SPAWN_DUP2, log, 2),
            ],
            setpgroup=0,
            setsigmask=(),
            # What the caller ignores (as after nohup), and Python itself, would be ignored by the service too.
            setsigdef=ALL_SIGNALS,
        )
    finally:
        os.close(log)
        os.chdir("/")


class Watch:
    """Stays with the service until no descendant is left: passes signals on, ends leftovers, rotates the log."""

    def __init__(self, orders: Orders, main_pid: int) -> None:
        self.heard = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1}
        signal.pthread_sigmask(signal.SIG_BLOCK, self.heard)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, it would reap behind our back
        self.orders = orders
        self.main_pid = main_pid
        self.alive = True
        self.code: int | None = None
        self.kill_at = float("inf")
        self.kill_again_s = KILL_AGAIN_S
        self.rotate_at = time.monotonic() + ROTATION_CHECK_S

    def run(self) -> None:
        while True:
            ended, childless = reap()
            if self.main_pid in ended and self.alive:
                self.main_ended(ended[self.main_pid])
            if childless or (not self.alive and not children()):
                break
            now = time.monotonic()
            self.act(now)
            due = now if len(ended) == REAPED_AT_ONCE else min(self.kill_at, self.rotate_at)
            got = signal.sigtimedwait(self.heard, max(0.0, due - now))
            if got is not None:
                self.hear(got.si_signo)
        self.keep_exit(empty=True)

    def main_ended(self, code: int) -> None:
        self.alive = False
        self.code = code
        self.keep_exit(empty=False)
        for pid in children():
            send(pid, signal.SIGTERM)
        self.kill_within(LEFTOVER_GRACE_S)

    def act(self, now: float) -> None:
        """Do what is due."""
        if now >= self.kill_at:
            kill_children()
            self.kill_at = now + self.kill_again_s
            self.kill_again_s = min(2 * self.kill_again_s, KILL_AGAIN_MOST_S)
        if now >= self.rotate_at:
            rotate(self.orders)
            self.rotate_at = now + ROTATION_CHECK_S

    def hear(self, number: int) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            if self.alive:
                send(-self.main_pid, number)
                send(-self.main_pid, signal.SIGCONT)  # a stopped process would not hear it
            self.kill_within(self.orders.stop_timeout_s)
        elif number == signal.SIGUSR1:
            self.kill_within(0.0)

    def kill_within(self, seconds: float) -> None:
        self.kill_at = min(self.kill_at, time.monotonic() + seconds)

    def keep_exit(self, *, empty: bool) -> None:
        record: Json = {"nonce": self.orders.nonce, "code": self.code, "at": time.time(), "empty": empty}
        keep(self.orders.folder, "exit.json", record)


def reap() -> tuple[dict[int, int], bool]:
    """Collect children that ended (pid -> exit code, negative for a signal), and say whether none is left.

    Not all of them where they end faster than we collect: what is due must be done in between.
    """
    ended: dict[int, int] = {}
    while len(ended) < REAPED_AT_ONCE:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended, True
        if pid == 0:
            return ended, False
        ended[pid] = os.waitstatus_to_exitcode(status)
    return ended, False


def children() -> list[int]:
    """Direct children, but the shims of other runs. They cannot be strangers: a pid is not given anew before its
    parent, us, has reaped it.
    """
    me = os.getpid()
    try:
        found = [int(pid) for pid in read(f"/proc/{me}/task/{me}/children").split()]
    except FileNotFoundError:
        found = [int(pid) for pid in os.listdir("/proc") if pid.isdigit() and parent(int(pid)) == me]
    return [pid for pid in found if not is_shim(pid)]


def is_shim(pid: int) -> bool:
    """True for a shim of another run, or the nursery that forked it. By its name first: the environment of a process
    that hangs in a driver may never be told.
    """
    try:
        if not read(f"/proc/{pid}/comm").startswith(SHIM_NAMES):
            return False
        return "GPUMOD_SHIM=1" in read(f"/proc/{pid}/environ").split("\0")
    except PermissionError:
        return True  # one of another user's, whose environment is not ours to read
    except OSError:
        return False


def kill_children() -> None:
    """SIGKILL the direct children, and at once all of their groups: of what forks faster than we look, none escapes.

    Their groups hold no strangers: they are of the session that was made for the service, or of sessions made in it.
    """
    found = children()
    for of_child in {os.getpgid(pid) for pid in found} - {os.getpgrp()}:
        send(-of_child, signal.SIGKILL)
    for pid in found:
        send(pid, signal.SIGKILL)


def send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        pass  # gone already; or a program with another user id, which the supervisor names when it stays


def open_log(orders: Orders) -> int:
    """Open the log for appending, rotated if it is large, and begin it with a line that separates this run."""
    log = os.open(orders.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    rotate(orders)
    begun = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    lead = "\n" if os.fstat(log).st_size and last_byte(orders.log) != b"\n" else ""
    os.write(log, f"{lead}--- gpumod: {orders.service} started {begun} run {orders.nonce} ---\n".encode())
    return log


def last_byte(path: str) -> bytes:
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1)


def rotate(orders: Orders) -> None:
    """Move a log that grew too large aside. It is copied and cut short, since the service keeps it open."""
    try:
        if os.stat(orders.log).st_size < orders.log_max_bytes:
            return
        for number in range(orders.log_keep - 1, 0, -1):
            if os.path.exists(f"{orders.log}.{number}"):
                os.replace(f"{orders.log}.{number}", f"{orders.log}.{number + 1}")
        with open(orders.log, "r+b") as log:
            copy_rest(log, f"{orders.log}.1")
            log.truncate(0)
    except OSError:
        pass


def copy_rest(log: "BinaryIO", to: str) -> None:
    try:
        with open(to, "wb", opener=private) as copy:
            while block := log.read(COPY_BYTES):
                copy.write(block)
    except OSError:
        pass  # on a full disk the copy is given up, and cutting the log makes room


def private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def report(answer: Json) -> None:
    """Tell the supervisor, if it is still there, and let go of its pipes."""
    try:
        os.write(1, b"\0" + marshal.dumps(answer))
    except OSError:
        pass
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)


def keep(folder: str, name: str, record: Json) -> None:
    """Write a record atomically. A folder that was removed, or a full disk, must not end the shim."""
    path = os.path.join(folder, name)
    draft = f"{path}.{os.getpid()}.tmp"
    try:
        with open(draft, "w", encoding="utf-8", opener=private) as file:
            file.write(as_json(record))
        os.replace(draft, path)
    except OSError:
        pass


def as_json(value: object) -> str:
    """JSON of a record of numbers and plain words; to import the json module would cost as much as starting Python."""
    if isinstance(value, dict):
        return "{" + ", ".join(f'"{name}": {as_json(item)}' for name, item in value.items()) + "}"
    if isinstance(value, str):
        return f'"{value}"'
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return repr(value)


def parent(pid: int) -> int | None:
    try:
        return int(stat_fields(pid)[1])
    except OSError:
        return None


def start_ticks(pid: int) -> int:
    return int(stat_fields(pid)[19])


def stat_fields(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the state on; the name before may hold anything."""
    text = read(f"/proc/{pid}/stat")
    return text[text.rfind(")") + 2 :].split()


def read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()
