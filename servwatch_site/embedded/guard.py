"""Become another program that receives a signal when its parent is gone.

Run by path, in an isolated interpreter: `python -I -S guard.py SIGNAL PARENT_PID PROGRAM [ARGUMENT...]`.
The request survives the exec, except when the program changes its user; see `postgres.py` for that case.
"""

import os
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    death_signal, parent_pid, program = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    request_death_signal(death_signal)
    if os.getppid() != parent_pid:  # the parent ended before the request was in force
        sys.exit(1)
    try:
        os.execvp(program[0], program)  # noqa: S606 - becoming the program is the purpose
    except OSError as error:
        sys.exit(f"{program[0]} cannot be started: {error.strerror}")


def request_death_signal(death_signal: int) -> None:
    if not sys.platform.startswith("linux"):
        return
    try:
        import ctypes
    except ImportError:  # an interpreter built without libffi: the supervisor's own records remain
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, death_signal)


if __name__ == "__main__":
    main()
