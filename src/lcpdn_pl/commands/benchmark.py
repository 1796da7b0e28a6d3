"""``lcpdn benchmark``: many runs as one grid, which goes on where it stopped."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as ProgressBar
from rich.table import Table

from lcpdn_pl.commands.grid import STATE, Cell, Progress, read_grid
from lcpdn_pl.errors import ConfigError, RunError

LOG = "log.txt"
Engine = Literal["local", "ray"]
Submit = Callable[[Cell, float], Future[bool]]
_RETRIES = 3
"""How often Ray starts a cell again whose worker died."""


def benchmark(
    grid: Path,
    only: str = "*",
    dry_run: bool = False,
    jobs: int = 1,
    budget: float | None = None,
    engine: Engine = "local",
) -> None:
    """Trains and tests every cell of a grid, each in a run folder of its own.

    Finished cells are not run again; one that was killed goes on from its last checkpoint; one
    that fails is listed at the end and the others still run. What a cell printed is in the
    `log.txt` of its folder. `lcpdn report FOLDER` makes tables of it. The same command may run
    more than once at a time: no cell is worked on twice (but on Windows).

    Args:
        grid: The grid's YAML file, see configs/benchmark/ for examples.
        only: Pattern of the cells to run, such as `monuseg/*`.
        dry_run: List the cells and how far they are, and run nothing.
        jobs: Cells that run at one time; they share the processor's cores, and the first GPU where
            there is one. Of several GPUs `--engine ray` gives each cell its own.
        budget: Hours after which no further cell is started.
        engine: Where cells run: `local`, or `ray`, the running Ray cluster that `ray start` made or
            `RAY_ADDRESS` names. Its machines share this folder. A cell takes a GPU where there are
            any, else one core, and is tried again if its worker dies.

    Raises:
        ConfigError: If the grid is not as expected, a folder of its cells is something else, or
            `jobs` is less than 1.
        RunError: If a cell failed, once all others have run.
    """
    if jobs < 1:
        raise ConfigError(f"--jobs is {jobs}: expected the number of cells to run at one time.")
    cells = [cell for cell in read_grid(grid) if fnmatch(cell.name, only)]
    if not cells:
        names = ", ".join(cell.name for cell in read_grid(grid)[:5])
        raise ConfigError(f"No cell of {grid} matches {only!r}; they are called {names}...")
    left = [cell for cell in cells if not cell.done()]
    console = Console(markup=False)  # arguments and logs may hold brackets
    if dry_run:
        console.print(_overview(cells))
        return
    failed: dict[str, str] = {}
    end = time.time() + 3600 * (budget if budget is not None else float("inf"))
    where = _ray_cluster() if engine == "ray" else _threads(jobs)
    with _progress_bar(console) as progress, where as submit:
        task = progress.add_task("cells", total=len(cells), completed=len(cells) - len(left))
        futures = {submit(cell, end): cell for cell in left}
        for future in as_completed(futures):
            cell, trouble = futures[future], future.exception()
            if trouble is not None:
                # Ray's own error is a traceback; its cause is what the cell raised.
                failed[cell.name] = str(getattr(trouble, "cause", None) or trouble)
                progress.print(f"{cell.name}: FAILED. {failed[cell.name]}")
            elif future.result():
                progress.print(f"{cell.name}: done in {_minutes(cell)}")
            else:
                continue  # the budget is spent, which says nothing of the time that a cell takes
            progress.advance(task)
    waiting = sum(not cell.done() for cell in cells) - len(failed)
    if waiting:
        console.print(
            f"{waiting} cells are left, since the budget is spent. The same command goes on."
        )
    if failed:
        listed = "; ".join(f"{name} ({why})" for name, why in failed.items())
        raise RunError(f"{len(failed)} of {len(cells)} cells failed: {listed}")


@contextmanager
def _threads(jobs: int) -> Iterator[Submit]:
    """Yields what submits a cell to this machine."""
    with ThreadPoolExecutor(jobs) as pool:
        try:
            yield lambda cell, end: pool.submit(_run, cell, jobs, end)
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            raise


@contextmanager
def _ray_cluster() -> Iterator[Submit]:
    """Yields what submits a cell to a Ray cluster."""
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            "--engine ray needs Ray, which is not installed: pip install ray."
        ) from error
    try:
        ray.init(address=os.environ.get("RAY_ADDRESS", "auto"), log_to_driver=False)
    except ConnectionError as error:
        raise ConfigError(
            f"--engine ray found no Ray cluster ({error}). Start one with `ray start --head`, or "
            "name it in RAY_ADDRESS."
        ) from error
    place = Path.cwd()
    variables = {key: value for key, value in os.environ.items() if key.startswith("LCPDN_")}

    def run_there(cell: Cell, end: float) -> bool:
        os.chdir(place)
        os.environ.update(variables)
        return _run(cell, 1, end)

    resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
    gpus = int(resources.get("GPU", 0) > 0)
    remote = ray.remote(max_retries=_RETRIES, num_gpus=gpus, num_cpus=1 - gpus)(run_there)
    try:
        yield lambda cell, end: remote.remote(cell, end).future()
    finally:
        ray.shutdown()


@contextmanager
def _held(folder: Path) -> Iterator[list[int]]:
    """Holds a cell while no other process does.

    Yields the lock's file, which the runs of the cell inherit: one that outlives its parent keeps
    the cell until it ends.
    """
    if sys.platform == "win32":
        yield []
        return
    import fcntl  # not there on Windows

    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield [lock.fileno()]


def _run(cell: Cell, jobs: int, end: float) -> bool:
    """Does what is left of a cell; false if its turn comes too late."""
    if time.time() > end:
        return False
    with _held(cell.folder) as files:
        progress = cell.read()
        if not progress.fitted:
            if any(cell.folder.glob("*.ckpt")):
                arguments = ["--ckpt_path", str(cell.folder)]
            else:
                shutil.rmtree(cell.folder, ignore_errors=True)
                progress = Progress(cell.fit)
                # Last, as a configuration among the arguments may name another folder.
                arguments = [*cell.fit, "--run_folder", str(cell.folder)]
            cell.write(progress)
            start = time.monotonic()
            try:
                _lcpdn(cell, jobs, files, "fit", arguments)
                progress.fitted = True
            finally:
                # Also of one that ends early: the next one may go on from its checkpoint.
                spent = time.monotonic() - start
                progress.seconds["fit"] = progress.seconds.get("fit", 0) + spent
                cell.write(progress)
        for label, arguments in cell.tests.items():
            if label not in progress.tested:
                best = ["--ckpt_path", str(cell.folder / "best.ckpt")]
                start = time.monotonic()
                _lcpdn(cell, jobs, files, "test", [*best, *arguments])
                progress.tested[label] = arguments
                progress.seconds[label] = time.monotonic() - start
                cell.write(progress)
    return True


def _lcpdn(cell: Cell, jobs: int, files: list[int], subcommand: str, arguments: list[str]) -> None:
    """Runs one ``lcpdn`` with its output in the cell's log.

    Raises:
        RunError: If it fails; gives the last line that it printed.
    """
    environment = dict(os.environ)
    if jobs > 1:  # else each takes all cores, and they spend their time waiting for each other
        for variable in ("OMP_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"):
            environment.setdefault(variable, str(max(1, _cores() // jobs)))
    path = cell.folder / LOG
    with path.open("ab") as log:
        status = subprocess.run(  # noqa: S603 - this package itself
            [sys.executable, "-m", "lcpdn_pl", subcommand, *arguments],
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=environment,
            pass_fds=files,
            check=False,
        ).returncode
    if status < 0:
        raise RunError(
            f"lcpdn {subcommand} was killed by signal {-status} (see {path}); 9 is mostly for want "
            "of memory: run fewer cells at a time. The same command goes on."
        )
    if status:
        lines = path.read_text(errors="replace").strip().splitlines() or ["it printed nothing"]
        raise RunError(f"lcpdn {subcommand} ended with status {status}: {lines[-1]} (see {path})")


def _cores() -> int:
    """Cores that this process may use, where the system tells."""
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed else os.cpu_count() or 1


def _progress_bar(console: Console) -> ProgressBar:
    return ProgressBar(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        speed_estimate_period=float("inf"),  # cells take minutes; the default forgets all but one
    )


def _minutes(cell: Cell) -> str:
    return f"{sum(cell.read().seconds.values()) / 60:.1f} min"


def _overview(cells: list[Cell]) -> Table:
    table = Table(title=f"{len(cells)} cells", title_justify="left")
    for column in ("cell", "state", "lcpdn fit"):
        table.add_column(column, overflow="fold")
    for cell in cells:
        begun = (cell.folder / STATE).is_file()
        state = "done" if cell.done() else "begun" if begun else "to do"
        table.add_row(cell.name, state, " ".join(cell.fit))
    return table
