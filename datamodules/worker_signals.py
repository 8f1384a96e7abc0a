"""Signals in the workers of a DataLoader: clusters send them to every process of a run, which its main one answers."""

import os
import signal
import threading


def leave_signals_to_parent(worker: int) -> None:
    """Outlive what tells a run to stop, so that it can finish its step; a `worker_init_fn`.

    SIGTERM of the main process itself, by which it ends its workers, still does. Where the system does not tell who
    sent a signal (not Linux), SIGTERM ends a worker as ever, and the run with an error.
    """
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_told_by, args=(os.getppid(),), daemon=True).start()


def _end_when_told_by(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
